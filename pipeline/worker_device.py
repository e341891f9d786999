"""Where a worker of the shard runner computes: one model per worker, one worker per GPU."""

from dataclasses import dataclass

import torch

from pipeline.settings import ComputeSettings, Precision
from pipeline.training.processes import chosen_device

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class WorkerCompute:
    """How a worker computes; picklable.

    Attributes:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: CUDA where there is one.
        threads: Threads of torch. The same number inline and on workers, since sums on a CPU may depend on it.
    """

    device: str = "cpu"
    threads: int = 1

    @classmethod
    def of(cls, settings: ComputeSettings) -> "WorkerCompute":
        """Return what the settings say."""
        return cls(settings.device, settings.threads_per_worker)

    def begin(self) -> torch.device:
        """Set this process's threads and return its device.

        Raises:
            PipelineError: If CUDA is asked for and there is none.
        """
        torch.set_num_threads(self.threads)
        return chosen_device(self.device, gpu_of_worker(_worker_number(), torch.cuda.device_count()))


def gpu_of_worker(worker: int | None, gpus: int) -> int | None:
    """Share the GPUs of a machine out among the workers started there; None leaves the choice to torch."""
    return None if worker is None or gpus < 2 else worker % gpus


def crops_at_once(setting: int | None, device: torch.device) -> int:
    """Return how many crops CLIP takes at a time; by default what the device is fastest with."""
    return setting or (64 if device.type == "cpu" else 256)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model computes in a precision; on a CPU always the single one."""
    enabled = device.type == "cuda" and precision != "fp32"
    return torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=enabled)


def _worker_number() -> int | None:
    """Return this process's number among the Dask workers that the shard runner started on this machine."""
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:  # no worker: the runner's own process
        return None
    return name if isinstance(name, int) else None
