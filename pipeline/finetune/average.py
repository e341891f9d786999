"""The average of an image tower that stage 3 trained and the original one (WiSE-FT): no step is trained for it.

Reads ``adapted_clip`` and CLIP; writes ``adapted_clip``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.settings import ClipSettings
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, IMAGE_TOWER, SCHEMA_VERSION, read_weights, write_weights
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class AverageWeights(Step):
    """Averages weights.

    Attributes:
        share: Of the tuned weights, 0..1.
    """

    share: float

    kind = ADAPTED_CLIP
    schema_version = SCHEMA_VERSION
    producer_version = 1
    stage: StageName = "finetune"
    computes = False

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the share."""
        del node
        return {"options": {"tuned_share": self.share}}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the image tower: without prompts there is nothing else."""
        del node
        return (IMAGE_TOWER,)

    def job(self, node: Node) -> "AverageJob":
        """Return what averages."""
        return AverageJob(node["tuned"].artifact, node.clip.settings, self.share)

    def unit_count(self, node: Node) -> int:
        """Return one, which no input decides."""
        return len(self.units(node))

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Return what the weights take."""
        del scenes
        return 4 * counts.image_tower


@dataclass(frozen=True)
class AverageJob:
    """Averages the unit of weights.

    Attributes:
        tuned: A finished ``adapted_clip``.
        clip: The CLIP that it was trained from.
        share: Of the tuned weights, 0..1.
    """

    tuned: Artifact
    clip: ClipSettings
    share: float

    def open(self) -> Tensors:
        """Read the original weights, by the names that an adapted CLIP has for them."""
        from pipeline.clip_loading import load_clip

        state = load_clip(self.clip).clip.state_dict()
        return {f"clip.{name}": tensor.numpy() for name, tensor in state.items()}

    def run(self, state: Tensors, artifact: Artifact, unit: str) -> Sidecar:
        """Write the average, with what the tuned CLIP says of itself as facts."""
        facts = next(one.facts for one in self.tuned.manifest().units if one.unit == unit)
        tensors = averaged(state, read_weights(self.tuned, unit), self.share)
        return write_weights(artifact, unit, tensors, {**facts, "tuned_share": self.share})


def averaged(original: Tensors, tuned: Tensors, share: float) -> dict[str, npt.NDArray[Any]]:
    """Average tensors: (1 - share) original + share tuned, each in double precision, then as it was.

    What is no floating-point number, such as a counter, is the tuned one. The logit scale is averaged as the logarithm
    that it is.

    References:
        Wortsman et al., 2022 (WiSE-FT).
    """
    result = dict(tuned)
    for name, array in tuned.items():
        if np.issubdtype(array.dtype, np.floating):
            mean = (1 - share) * original[name].astype(np.float64) + share * array.astype(np.float64)
            result[name] = np.asarray(mean, array.dtype)  # an array of no dimensions would become a number
    return result
