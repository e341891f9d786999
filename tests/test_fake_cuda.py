"""The device without numbers: what it refuses, and what it makes up."""

import pytest
import torch

from tests.fake_cuda import CUDA, FakeCuda


def test_operands_on_two_devices_are_an_error():
    with FakeCuda():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.embedding(torch.arange(2), torch.ones(3, 2, device="cuda"))
        assert (here.to("cuda") + there).device == CUDA
        assert (here + here).tolist() == [2, 2, 2]


def test_the_host_reads_ones_and_every_condition_holds():
    with FakeCuda() as device:
        there = torch.zeros(2, 3, device="cuda")
        assert there.cpu().numpy().tolist() == [[1, 1, 1], [1, 1, 1]]
        assert there.sum().item() == 1
        assert (there > 5).sum().item() == 6
        assert (there > 5).nonzero().shape == (6, 2)
        assert there[there > 5].shape == (6,)
        assert there[(there > 5).any(dim=1)].shape == (2, 3)
    assert device.reads == {"to the host": 3, "nonzero": 1, "selection by a condition": 2}


def test_autocast_chooses_types_as_on_cuda():
    with FakeCuda():
        there = torch.ones(2, 2, device="cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            assert (there @ there).dtype == torch.float16
            assert there.softmax(0).dtype == torch.float32
