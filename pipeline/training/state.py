"""The state of a training run as named arrays and JSON, and back, bit for bit.

Random generators are no part of it: each step seeds them anew from (seed, step, rank).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from pipeline.errors import PipelineError
from storage_schemas.checkpoints import Checkpoint
from storage_schemas.digests import Json

Arrays = dict[str, npt.NDArray[Any]]
_MODEL, _OPTIMIZER = "model.", "optimizer."


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes in a module: parameters that are trained, and saved buffers, by name."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained or name not in frozen}


def to_checkpoint(
    step: int, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, facts: Mapping[str, Json]
) -> Checkpoint:
    """Take the state of a run after some step.

    Args:
        step: Optimizer steps taken.
        model: Its trained parameters and saved buffers are kept; frozen parameters are not.
        optimizer: Its state and groups are kept.
        scaler: Its scale is kept.
        facts: What else the run must know to go on.
    """
    arrays: Arrays = {_MODEL + name: _array(tensor) for name, tensor in trained_tensors(model).items()}
    state = optimizer.state_dict()
    for number, entries in state["state"].items():
        arrays |= {f"{_OPTIMIZER}{number}.{name}": _array(tensor) for name, tensor in entries.items()}
    groups: list[Json] = [  # JSON has no tuples; torch takes lists as well
        {name: list(value) if isinstance(value, tuple) else value for name, value in group.items()}
        for group in state["param_groups"]
    ]
    return Checkpoint(
        step=step, tensors=arrays, facts={"groups": groups, "scaler": scaler.state_dict(), "run": dict(facts)}
    )


def from_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer, scaler: GradScaler
) -> Mapping[str, Any]:
    """Put a saved state back; return the facts that were saved with it.

    Raises:
        PipelineError: If the checkpoint is of another model.
    """
    weights = _under(_MODEL, checkpoint.tensors)
    expected = trained_tensors(model).keys()
    if weights.keys() != expected:
        missing, unexpected = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
        raise PipelineError(
            f"checkpoint of step {checkpoint.step}: missing {missing[:5]}, unexpected {unexpected[:5]}; delete it"
        )
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    # Named "NUMBER.ENTRY", by the place of the parameter among those of all groups.
    entries: dict[int, dict[str, Tensor]] = {}
    for place, array in _under(_OPTIMIZER, checkpoint.tensors).items():
        number, name = place.split(".", 1)
        entries.setdefault(int(number), {})[name] = torch.from_numpy(array)
    facts: Any = checkpoint.facts
    optimizer.load_state_dict({"state": entries, "param_groups": facts["groups"]})
    if facts["scaler"]:
        scaler.load_state_dict(facts["scaler"])
    run: Mapping[str, Any] = facts["run"]
    return run


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """Copy a tensor to the host; its bytes stay."""
    array: npt.NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return np.array(array, copy=True)


def _under(prefix: str, tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
