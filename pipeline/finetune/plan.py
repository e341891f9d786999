"""What stage 3 will do: the identity of the adapted CLIP that settings, pairs and CLIP lead to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.settings import FinetuneSettings, result_settings
from pipeline.upright_scenes import turned_mark
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, SCHEMA_VERSION
from storage_schemas.digests import Json
from storage_schemas.manifest import Description, Identity

RECIPE = 2
"""Raise it when the same settings and pairs come to mean another CLIP."""

IMAGE_TOWER, MASK_PROMPTS = "image_tower", "mask_prompts"
"""Units of the artifact that hold weights."""

REPORT = "report"
"""Unit of the artifact that holds the model card and the curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What stage 3 reads, and the digests that stand for it.

    Attributes:
        pairs: To train on, finished.
        pairs_digest: Of their manifest.
        validation: Labelled scenes to measure on, finished; None for nothing.
        validation_digest: Of their manifest; empty without.
        clip_digest: Of CLIP's weights.
    """

    pairs: Artifact
    pairs_digest: str
    validation: Artifact | None
    validation_digest: str
    clip_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedClipPlan:
    """What stage 3 will do.

    Attributes:
        artifact: Where the adapted CLIP lies or will lie.
        inputs: What it is made of.
    """

    artifact: Artifact
    inputs: Inputs


def plan_adapted_clip(settings: FinetuneSettings, inputs: Inputs, *, name: str, runs: Path) -> AdaptedClipPlan:
    """Find out what stage 3 will do; reads and makes nothing.

    Args:
        settings: Of stage 3.
        inputs: What it reads.
        name: Of the artifact.
        runs: Runs directory.
    """
    validation = {"validation": inputs.validation_digest} if inputs.validation is not None else {}
    identity = Identity(
        kind=ADAPTED_CLIP,
        name=name,
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        settings={"options": _options(settings), "clip": inputs.clip_digest, **turned_mark(inputs.validation)},
        inputs={"pairs": inputs.pairs_digest, **validation},
    )
    units = (*units_of_phases(settings.phases), REPORT)
    return AdaptedClipPlan(artifact=Artifact.planned(runs, Description(identity=identity, units=units)), inputs=inputs)


def units_of_phases(phases: tuple[str, ...]) -> tuple[str, ...]:
    """Return the units of weights from what is trained, each phase ``"ft"``, ``"mpt"`` or ``"ft+mpt"``."""
    parts = {part for phase in phases for part in phase.split("+")}
    return tuple(unit for unit, part in ((IMAGE_TOWER, "ft"), (MASK_PROMPTS, "mpt")) if part in parts)


def _options(settings: FinetuneSettings) -> Mapping[str, Json]:
    """Return the settings that change the result; those of a part that no phase trains are none of them."""
    options: dict[str, Any] = result_settings(settings)
    del options["validation_dataset"]  # its scenes' digest is an input
    units = units_of_phases(settings.phases)
    if MASK_PROMPTS not in units:
        del options["mpt"], options["prompt_depth"]
    if IMAGE_TOWER not in units:
        del options["ft"]
    return options
