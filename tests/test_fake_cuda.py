"""The device without numbers: what it refuses, and what it makes up."""

import numpy as np
import pytest
import torch

from ovseg_models import masked_crops
from ovseg_models.host_to_device import TAKEN_AT_ONCE_BYTES, sent, sent_together
from ovseg_models.masked_crops import normalised
from tests.fake_cuda import CUDA, KEPT_BY_DEVICE, FakeCuda
from tests.operations import CountedOperations


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
    assert device.waits == {"to the host": 3, "nonzero": 1, "selection by a condition": 2}


def test_autocast_chooses_types_as_on_cuda():
    with FakeCuda():
        there = torch.ones(2, 2, device="cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            assert (there @ there).dtype == torch.float16
            assert there.softmax(0).dtype == torch.float32


def test_copies_that_wait_are_counted():
    large = torch.zeros(TAKEN_AT_ONCE_BYTES // 4 + 1)
    with FakeCuda() as device:
        there = torch.zeros(3, device="cuda")
        for free in (large[:3], large[:-1], large.pin_memory()):
            free.to("cuda", non_blocking=True)
        sent(large, CUDA)
        packed = sent_together([large.numpy(), np.zeros((2, 3), np.uint8), np.arange(4)], CUDA)
        there.copy_(torch.ones(3), non_blocking=True)
        assert not device.waits
        waiting = [
            lambda: large.to("cuda"),
            lambda: large.to("cuda", non_blocking=True),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: there.new_tensor([1.0]),
            lambda: there.copy_(torch.ones(3)),
            lambda: there[[0, 2]],
            lambda: there[torch.tensor([0, 2])],
        ]
        for number, wait in enumerate(waiting, start=1):
            wait()
            assert device.waits == {"to the device": number}
    assert [(part.dtype, part.shape) for part in packed] == [
        (torch.float32, large.shape),
        (torch.uint8, (2, 3)),
        (torch.int64, (4,)),
    ]


def test_no_constant_of_the_device_is_kept():
    with FakeCuda():
        normalised(torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device="cuda"))
        assert masked_crops._mean_and_std.cache_info().currsize == 1
    assert masked_crops._mean_and_std in KEPT_BY_DEVICE
    assert all(kept.cache_info().currsize == 0 for kept in KEPT_BY_DEVICE)


def test_the_count_on_a_cpu_takes_copies_to_a_device_for_waits():
    here, cpu = torch.zeros(3), torch.device("cpu")
    with CountedOperations() as counted:
        sent(here, cpu)
        sent_together([np.zeros(3)], cpu)
        here.to(torch.float64)
        torch.tensor([1.0])
        assert not counted.waits
        here.to(cpu)
        here.to(cpu, torch.float64, True)
        here.to(torch.zeros(1))
        torch.tensor([1.0], device=cpu)
        torch.as_tensor([1.0], device=cpu)
        here.new_tensor([1.0])
        here.cpu()
    assert counted.waits == {"to": 2, "tensor": 1, "as_tensor": 1, "new_tensor": 1, "cpu": 1}
