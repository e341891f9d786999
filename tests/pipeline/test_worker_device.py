"""Where workers compute."""

import os
import threading
from typing import get_args

import pytest
import torch

from ovseg_models.precision import autocast
from pipeline.errors import PipelineError
from pipeline.ordered_threads import in_threads, use_threads
from pipeline.settings import ComputeSettings, Precision
from pipeline.worker_device import WorkerCompute, gpu_of_worker


def test_workers_share_the_gpus_of_a_machine():
    assert [gpu_of_worker(worker, 3) for worker in range(5)] == [0, 1, 2, 0, 1]
    assert gpu_of_worker(None, 3) is None
    assert gpu_of_worker(4, 1) is None
    assert gpu_of_worker(4, 0) is None


@pytest.mark.parametrize(
    ("setting", "workers", "cores", "expected"), [(5, 0, 32, 5), (None, 0, 32, 8), (None, 8, 32, 4), (None, 2, 2, 2)]
)
def test_decoding_threads_are_as_set_or_a_share_of_the_cores(setting, workers, cores, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)), raising=False)
    WorkerCompute.of(ComputeSettings(device="cpu", workers=workers, decode_threads=setting)).begin()
    together = threading.Barrier(expected, timeout=20)  # broken, and an error, where fewer threads come to it

    def thread(_item):
        together.wait()
        return threading.get_ident()

    try:
        assert len(set(in_threads(thread, range(4 * expected)))) == expected
    finally:
        use_threads(2)


def test_a_worker_takes_its_threads_and_device_from_the_settings():
    compute = WorkerCompute.of(ComputeSettings(device="cpu", threads_per_worker=1))
    torch.set_num_threads(1)
    assert compute == WorkerCompute("cpu", 1)
    assert compute.begin() == torch.device("cpu")
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_an_error():
    with pytest.raises(PipelineError, match=r"compute\.device: 'cuda', but torch sees no CUDA device"):
        WorkerCompute("cuda").begin()


def test_a_cpu_always_computes_in_single_precision():
    with autocast(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_precision_decides_how_cuda_multiplies(precision, monkeypatch):
    # torch refuses to autocast on CUDA where there is none; the context itself needs no device
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with autocast(torch.device("cuda"), precision):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (precision == "tf32",) * 2
        assert torch.is_autocast_enabled("cuda") == (precision in {"bf16", "fp16"})
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        assert half is None or torch.get_autocast_dtype("cuda") == half
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before
    assert not torch.is_autocast_enabled("cuda")


def test_on_a_cpu_no_precision_touches_the_switches_of_cuda():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with autocast(torch.device("cpu"), "tf32"):
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
