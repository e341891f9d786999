"""One rule says which device computes."""

import pytest
import torch

from ovseg_models.devices import chosen_device
from ovseg_models.segmenter import Segmenter
from tests.tiny_segmenter import tiny_segmenter


@pytest.fixture(params=[0, 2])
def gpus(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_auto_is_cuda_where_there_is_one(gpus):
    assert chosen_device("auto") == torch.device("cuda" if gpus else "cpu")
    assert chosen_device("auto", 1) == torch.device("cuda:1" if gpus else "cpu")
    assert chosen_device("cpu", 1) == chosen_device(torch.device("cpu")) == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(gpus):
    expected = "'cuda:2', but torch sees 2 CUDA" if gpus else "'cuda:2', but torch sees no CUDA device.*'auto' or 'cpu'"
    with pytest.raises(ValueError, match=expected):
        chosen_device("cuda:2")
    if gpus:
        assert chosen_device("cuda:1", 0) == torch.device("cuda:1")  # a number that is given goes before the rank


def test_a_segmenter_is_loaded_to_the_chosen_device_and_names_the_argument(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tiny_segmenter().save(tmp_path / "model")
    assert Segmenter.load(tmp_path / "model").device == torch.device("cpu")
    for device in ("cuda", "abacus"):
        with pytest.raises(ValueError, match=f"^device: '{device}'"):
            Segmenter.load(tmp_path / "model", device=device)
