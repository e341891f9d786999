"""How processes join: which device, which groups, how long they wait; and that none is left alone in an exchange."""

import datetime
import os
import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from pipeline.errors import PipelineError
from pipeline.training import processes
from pipeline.training.processes import PATIENT_LIMIT, STEP_LIMIT, Processes, SummedGradients, joined
from tests import forked


def waiting_for_the_first() -> tuple[object, ...]:
    processes.STEP_LIMIT = datetime.timedelta(seconds=1)
    with joined("cpu", 1) as group:
        if group.is_first:
            time.sleep(2)
        group.wait()
        number = group.from_first(7 if group.is_first else 0)
        total = group.sum(torch.tensor(group.rank + 1.0)).item()
        return group.rank, number, group.any(group.rank == 1), group.any(False), total


def test_the_others_wait_for_the_first_longer_than_a_step_may_take() -> None:
    first, second = forked.results_of_group(2, waiting_for_the_first)
    assert first == (0, 7, True, False, 3.0)
    assert second == (1, 7, True, False, 3.0)


def exchanging_gradients() -> tuple[float, list[list[float]]]:
    with joined("cpu", 1) as group:
        torch.manual_seed(group.rank)
        layer = torch.nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
        unused = torch.nn.Parameter(torch.ones(2))
        group.take_from_first([*layer.parameters()])
        gradients = SummedGradients([*layer.parameters(), unused], group)
        for _ in range(2):
            gradients.clear()
            for part in range(2):
                layer(torch.full((1, 2, 2, 2), group.rank + part + 1.0)).sum().backward()
            gradients.exchange()
        sums = [sorted(set(parameter.grad.flatten().tolist())) for parameter in (layer.weight, layer.bias, unused)]
        return layer.weight.sum().item(), sums


def test_tensors_of_the_first_and_sums_of_gradients_reach_all() -> None:
    first, second = forked.results_of_group(2, exchanging_gradients)
    assert first == second
    assert first[1] == [[8.0], [4.0], [0.0]]  # 1 + 2 of one process, 2 + 3 of the other


def test_one_process_exchanges_nothing() -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.ones(2))
    gradients = SummedGradients([parameter], alone)
    parameter.sum().backward()
    gradients.exchange()
    assert parameter.grad.tolist() == [1, 1]
    gradients.clear()
    assert parameter.grad is None
    assert (alone.any(True), alone.any(False), alone.from_first(3)) == (True, False, 3)


@pytest.fixture
def calls_on_cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Let torch seem to see four GPUs, and note how the third of four processes joins the others."""
    calls: list[tuple[object, ...]] = []

    def noting(name: str, returned: object = None) -> Callable[..., object]:
        return lambda *arguments, **named: calls.append((name, *arguments, named)) or returned

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", noting("set_device"))
    monkeypatch.setattr(dist, "init_process_group", noting("init"))
    monkeypatch.setattr(dist, "new_group", noting("new_group", "patient"))
    monkeypatch.setattr(dist, "barrier", noting("barrier"))
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "destroy_process_group", noting("destroy"))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", noting("deterministic"))
    return calls


def test_on_cuda_each_process_takes_its_gpu_before_it_joins_and_waits_on_the_host(
    calls_on_cuda: list[tuple[object, ...]],
) -> None:
    with joined("cuda", 1) as group:
        group.wait()
    device = torch.device("cuda", 2)
    assert group == Processes(2, 4, device, "patient")  # type: ignore[arg-type]
    assert calls_on_cuda == [
        ("set_device", device, {}),
        ("init", "cpu:gloo,cuda:nccl", {"timeout": STEP_LIMIT, "device_id": device}),
        ("new_group", {"backend": "gloo", "timeout": PATIENT_LIMIT}),
        ("barrier", "patient", {}),
        ("destroy", {}),
    ]
    assert datetime.timedelta(minutes=15) < STEP_LIMIT < datetime.timedelta(hours=6) < PATIENT_LIMIT


@pytest.mark.usefixtures("calls_on_cuda")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "4")
    expected = r"compute\.device: 'cuda:4', but torch sees 4 CUDA devices.*; start no more processes than that"
    with pytest.raises(PipelineError, match=expected), joined("auto", 1):
        pass


def test_deterministic_algorithms_are_chosen_before_cuda_starts(
    calls_on_cuda: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined("cuda", 1, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    names = [call[0] for call in calls_on_cuda]
    assert names.index("deterministic") < names.index("set_device")
    assert not torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with joined("cuda", 1, deterministic=True):  # the variable was set in time
        pass
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    expected = r"compute.deterministic: CUDA started .* CUBLAS_WORKSPACE_CONFIG was :0:0; set it to ':4096:8'"
    with pytest.raises(PipelineError, match=expected), joined("cuda", 1, deterministic=True):
        pass


def test_on_a_cpu_deterministic_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "use_deterministic_algorithms", None)
    with joined("cpu", 1, deterministic=True) as group:
        assert group.device.type == "cpu"
