"""Where a worker of the shard runner computes: one model per worker, one worker per GPU."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.ordered_threads import use_threads
from pipeline.settings import ComputeSettings

if TYPE_CHECKING:  # jobs carry a `WorkerCompute`, and planning imports no torch
    import torch


_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True, slots=True)
class WorkerCompute:
    """How a worker computes; picklable.

    Attributes:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: CUDA where there is one.
        threads: Threads of torch; the same number inline and on workers, since sums on a CPU may depend on it.
        decode_threads: Threads that decode and encode beside them; None for a share of the cores.
        processes: Workers on this machine, which share its cores.
    """

    device: str = "cpu"
    threads: int = 1
    deterministic: bool = False
    decode_threads: int | None = None
    processes: int = 1

    @classmethod
    def of(cls, settings: ComputeSettings) -> "WorkerCompute":
        """Return what the settings say."""
        return cls(
            settings.device,
            settings.threads_per_worker,
            settings.deterministic,
            settings.decode_threads,
            max(1, settings.workers),
        )

    def begin(self) -> "torch.device":
        """Set this process's threads and return its device.

        Raises:
            PipelineError: If CUDA is asked for and there is none, or can't become deterministic any more.
        """
        import torch

        torch.set_num_threads(self.threads)
        use_threads(self.decode_threads, processes=self.processes)
        device = chosen_device(self.device, gpu_of_worker(_worker_number(), torch.cuda.device_count()))
        if self.deterministic:
            use_deterministic_algorithms(device)
        return device


def chosen_device(device: str, local_rank: int | None = None) -> "torch.device":
    """Return the device that a setting names; with several processes, the one of this process's number.

    Raises:
        PipelineError: If CUDA is asked for and there is none, or none of that number.
    """
    from ovseg_models import devices

    try:
        return devices.chosen_device(device, local_rank)
    except ValueError as error:
        raise PipelineError(f"compute.device: {error}") from error


def use_deterministic_algorithms(device: "torch.device") -> None:
    """Let CUDA give the same bits on every run, for the rest of this process; a CPU does so anyway.

    An operation that CUDA has only in a form that adds up in any order is an error of torch from then on.

    Raises:
        PipelineError: If CUDA has started already, for then cuBLAS may have, too.
    """
    import torch

    if device.type != "cuda":
        return
    # Without a workspace of its own, cuBLAS adds up in any order. It reads the variable once, when it starts; torch
    # accepts these two values.
    if os.environ.get(_CUBLAS_WORKSPACE) not in {":4096:8", ":16:8"}:
        if torch.cuda.is_initialized():
            raise PipelineError(
                f"compute.deterministic: CUDA started in this process while {_CUBLAS_WORKSPACE} was "
                f"{os.environ.get(_CUBLAS_WORKSPACE, 'not set')}; set it to ':4096:8' in the environment before"
            )
        os.environ[_CUBLAS_WORKSPACE] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def gpu_of_worker(worker: int | None, gpus: int) -> int | None:
    """Return the GPU of a worker, of those of its machine in turn; None leaves the choice to torch."""
    return None if worker is None or gpus < 2 else worker % gpus


def crops_at_once(setting: int | None, device: "torch.device") -> int:
    """Return how many crops CLIP takes at a time; by default what the device is fastest with."""
    return setting or (64 if device.type == "cpu" else 256)


def _worker_number() -> int | None:
    """Return this process's number among the Dask workers that the shard runner started on this machine."""
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:  # no worker: the runner's own process
        return None
    return name if isinstance(name, int) else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device's memory ran out.

    Torch's allocator has a type of error for it. Where CUDA itself has no memory left, torch raises its general error
    with CUDA's words, and so it does for libraries that allocate for themselves.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED"))
