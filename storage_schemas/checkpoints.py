"""Weights: the finished ones of an artifact, and the checkpoints from which a training run goes on.

An artifact of weights (``proposal_net``, ``adapted_clip``) has one unit per set of tensors: ``UNIT.safetensors``, with
what is needed to build its module as facts in the sidecar. Checkpoints of the run that makes it are in
``_local/checkpoints``, or in ``_local/RUN/checkpoints`` where several runs make one artifact: each is one safetensors
file and a sidecar that appears last, so that a kill inside a write leaves the one before it in force.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.commit import Disk, explained_write_errors, remove_temporaries, write_file
from storage_schemas.digests import Json
from storage_schemas.errors import ArtifactError, StorageError
from storage_schemas.manifest import Sidecar
from storage_schemas.verification import VerifiedFiles

logger = logging.getLogger(__name__)

PROPOSAL_NET = "proposal_net"
ADAPTED_CLIP = "adapted_clip"
SCHEMA_VERSION = 1

WEIGHTS, IMAGE_TOWER, MASK_PROMPTS, TEMPLATE_WEIGHTS = "weights", "image_tower", "mask_prompts", "template_weights"
TEXT_PROMPTS, MASK_QUERIES = "text_prompts", "mask_queries"
"""Units that hold tensors: of a proposal net; of an adapted CLIP, each where a phase trained it."""

REPORT = "report"
"""Unit that holds metrics, curves and pictures."""

_DIVERGED = (
    "the training diverged and nothing was written: lower the learning rate, or use precision 'fp32' or 'bf16'; "
    "it goes on from the checkpoint before"
)
Tensors = Mapping[str, npt.NDArray[Any]]

_WEIGHT_BYTES = 4
_TRAINED_BYTES = 3 * _WEIGHT_BYTES  # each weight and AdamW's two moments


def checkpoint_bytes(parameters: int, keep_last: int) -> int:
    """Estimate what a training leaves: finished weights, the kept checkpoints, and the best one."""
    return parameters * (_WEIGHT_BYTES + (keep_last + 1) * _TRAINED_BYTES)


def write_weights(artifact: Artifact, unit: str, tensors: Tensors, facts: Mapping[str, Json]) -> Sidecar:
    """Write one set of tensors as a finished unit.

    Args:
        artifact: The artifact of weights.
        unit: Name of the set (``"weights"``, ``"mask_prompts"``).
        tensors: Arrays by name.
        facts: What is needed to build the module, and what the training run came to.

    Raises:
        ArtifactError: If a tensor is not finite.
        WriteError: If the operating system refuses.
    """
    _require_finite(tensors, f"{artifact.directory}: {unit}", _DIVERGED)
    with artifact.write_unit(unit) as writer:
        writer.file("safetensors").write(safetensors.numpy.save(dict(tensors)))
        return writer.commit(rows=len(tensors), counts={OK: len(tensors)}, facts=facts)


def read_weights(artifact: Artifact, unit: str) -> dict[str, npt.NDArray[Any]]:
    """Read one set of tensors of a finished artifact.

    Raises:
        ArtifactError: If the file is absent, is no safetensors file, or holds a tensor that is not finite.
    """
    return _load(artifact.directory / f"{unit}.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The whole state of a training run after some step.

    Attributes:
        step: Number of optimizer steps taken.
        tensors: Every array of the state by name: weights, optimizer, random generators.
        facts: Everything else of the state, as JSON.
    """

    step: int
    tensors: Tensors = field(repr=False)
    facts: Mapping[str, Json]


class CheckpointStore:
    """The checkpoints of one training run; only the holder of the artifact's lock may write to it.

    Args:
        artifact: The artifact of weights that the run is to make.
        run: Name of the run where several, one after another, make one artifact; empty where there is one.
    """

    def __init__(self, artifact: Artifact, run: str = "") -> None:
        self._directory = artifact.local_directory / run / "checkpoints"
        self._digest = artifact.identity.digest()
        self._disk: Disk = artifact.disk

    def prepare(self) -> None:
        """Make the directory and delete what killed writers left in it; needed before ``save``.

        Raises:
            WriteError: If the operating system refuses.
        """
        with explained_write_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        for directory in (self._directory, self._directory.parent):
            remove_temporaries(directory, self._disk)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; it counts once its sidecar is there.

        Raises:
            ArtifactError: If a tensor is not finite; the checkpoints before stay in force, here as below.
            WriteError: If the operating system refuses.
        """
        _require_finite(checkpoint.tensors, f"{self._directory}: step {checkpoint.step}", _DIVERGED)
        name = _name(checkpoint.step)
        data = safetensors.numpy.save(dict(checkpoint.tensors))
        record = write_file(self._directory / f"{name}.safetensors", data, self._disk)
        count = len(checkpoint.tensors)
        sidecar = Sidecar(
            unit=name,
            artifact_digest=self._digest,
            files=(record,),
            rows=count,
            counts={OK: count},
            facts={"step": checkpoint.step, "state": checkpoint.facts},
        )
        write_file(self._directory / f"{name}.json", sidecar.to_json(), self._disk)

    def steps(self) -> tuple[int, ...]:
        """Return the steps of all checkpoints with a sidecar, ascending; their files may still be damaged."""
        return tuple(sorted(int(path.stem.removeprefix("step-")) for path in self._directory.glob("step-*.json")))

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint.

        Raises:
            ArtifactError: If it is absent, damaged, or of other settings.
        """
        path = self._directory / f"{_name(step)}.json"
        sidecar = Sidecar.read(path)
        if sidecar.artifact_digest != self._digest:
            raise ArtifactError(
                f"{path}: is of settings {sidecar.artifact_digest[:12]}, {self._digest[:12]} are expected; delete it"
            )
        files = VerifiedFiles(self._directory, self._directory / "verified.json", deep=True)
        faults = [fault for record in sidecar.files if (fault := files.fault(record))]
        if faults:
            raise ArtifactError(f"{path}: {'; '.join(faults)}; delete the checkpoint, the one before it serves")
        tensors = _load(self._directory / sidecar.files[0].name)
        facts = sidecar.facts["state"]
        return Checkpoint(step=step, tensors=tensors, facts=dict(facts) if isinstance(facts, Mapping) else {})

    def latest(self) -> Checkpoint | None:
        """Read the newest whole checkpoint, None if there is none; damaged ones are passed over with a warning."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except StorageError as error:
                logger.warning("checkpoint passed over: %s", error)
        return None

    def prune(self, *, keep_last: int, keep: frozenset[int] = frozenset()) -> None:
        """Delete all checkpoints but the newest and those named.

        Args:
            keep_last: How many of the newest to keep; at least 1.
            keep: Steps to keep besides, such as the best one.

        Raises:
            WriteError: If a file cannot be deleted.
        """
        for step in self.steps()[: -max(1, keep_last)]:
            if step not in keep:
                with explained_write_errors(self._directory):
                    self._disk.remove(self._directory / f"{_name(step)}.json")
                    self._disk.remove(self._directory / f"{_name(step)}.safetensors")


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a safetensors file into memory.

    Raises:
        ArtifactError: If it is absent or no safetensors file.
    """
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as safetensors ({error}); run the stage that makes it again"
        ) from error
    _require_finite(tensors, str(path), "delete it, and run the stage that makes it again")
    return tensors


def _require_finite(tensors: Tensors, where: str, remedy: str) -> None:
    """Refuse NaN and infinite weights and optimizer states.

    A sum in double precision is finite exactly if all that it adds up is.

    Raises:
        ArtifactError: With the first such tensor.
    """
    for name, array in tensors.items():
        # What is summed up may be NaN or infinite; then that is the finding, and no warning of NumPy's.
        with np.errstate(all="ignore"):
            if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):
                continue
        raise ArtifactError(
            f"{where}: {name} holds {int(np.isnan(array).sum())} NaN and {int(np.isinf(array).sum())} infinite of "
            f"{array.size} values, finite ones are expected; {remedy}"
        )
