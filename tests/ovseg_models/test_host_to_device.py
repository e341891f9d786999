"""What is sent to a device: its values, whatever types and shapes go in one copy."""

import numpy as np
import torch

from ovseg_models.host_to_device import sent, sent_together

ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3).T,
    np.array([[0.5, -1.5, 2.0]], np.float32),
    np.array([1, 2, 3], np.uint8),
    np.zeros((0, 4), np.int64),
    np.array([7], np.int32),
]


def test_arrays_arrive_as_they_are(monkeypatch):
    """Packed too, which is for devices other than the CPU: they are sent to the CPU here all the same."""
    shared = sent_together(ARRAYS, torch.device("cpu"))
    monkeypatch.setattr("ovseg_models.host_to_device.sent", lambda values, _device: values)
    packed = sent_together(ARRAYS, torch.device("meta"))
    for found in (shared, packed):
        assert [part.numpy().dtype for part in found] == [array.dtype for array in ARRAYS]
        assert all(np.array_equal(part.numpy(), array) for part, array in zip(found, ARRAYS, strict=True))
    assert shared[1].data_ptr() == ARRAYS[1].ctypes.data


def test_a_tensor_that_is_there_is_not_copied():
    values = torch.ones(3)
    assert sent(values, torch.device("cpu")) is values
