"""Where workers compute."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.settings import ComputeSettings
from pipeline.worker_device import WorkerCompute, autocast, gpu_of_worker


def test_workers_share_the_gpus_of_a_machine():
    assert [gpu_of_worker(worker, 3) for worker in range(5)] == [0, 1, 2, 0, 1]
    assert gpu_of_worker(None, 3) is None
    assert gpu_of_worker(4, 1) is None
    assert gpu_of_worker(4, 0) is None


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
