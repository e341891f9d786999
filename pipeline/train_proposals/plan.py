"""What stage 1 will do: the identity of the net that settings and scenes lead to, and what it is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipeline.proposal_net_loading import WEIGHTS
from pipeline.settings import ProposalNetSettings, SettingsError, result_settings
from pipeline.settings.sections import NONE, RANDOM, SHIPPED
from pipeline.small_proposal_net import WEIGHTS_FILE
from pipeline.train_proposals.held_out import held_out_indices
from pipeline.upright_scenes import turned_mark
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import PROPOSAL_NET, SCHEMA_VERSION
from storage_schemas.digests import Json, sha256_of_file
from storage_schemas.manifest import Description, Identity
from storage_schemas.scenes import ScenesAttributes

RECIPE = 1
"""Raise it when the same settings and scenes come to mean another net."""

REPORT = "report"
"""Unit of the artifact that holds metrics and pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalNetPlan:
    """What a training of the proposal net will do.

    Attributes:
        artifact: Where the net lies or will lie.
        scenes: What it is trained on.
        validation: What it is measured on meanwhile; None for nothing.
        labels: The classes of the scenes.
        held_out: Class indices that it must not learn.
    """

    artifact: Artifact
    scenes: Artifact
    validation: Artifact | None
    labels: ScenesAttributes
    held_out: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a training of the proposal net reads, and the digests that stand for it.

    Attributes:
        scenes: To train on, finished.
        scenes_digest: Of their manifest.
        validation: To measure on, finished; None for nothing.
        validation_digest: Of their manifest; empty without.
        clip_digest: Of CLIP's weights.
    """

    scenes: Artifact
    scenes_digest: str
    validation: Artifact | None
    validation_digest: str
    clip_digest: str


def plan_proposal_net(settings: ProposalNetSettings, inputs: Inputs, *, name: str, runs: Path) -> ProposalNetPlan:
    """Find out what a training will do; reads the files of weights that the settings name, and makes nothing.

    Args:
        settings: Of stage 1.
        inputs: What it reads.
        name: Of the artifact.
        runs: Runs directory.

    Raises:
        SettingsError: If a held-out class is none of the scenes', all are held out, a file of weights is not there, or
            the validation scenes have other classes.
        ArtifactError: If an input is no artifact of scenes.
    """
    labels = ScenesAttributes.of(inputs.scenes)
    _check_same_classes(labels, inputs.validation)
    validation = {"validation": inputs.validation_digest} if inputs.validation is not None else {}
    identity = Identity(
        kind=PROPOSAL_NET,
        name=name,
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        settings={
            "options": _options(settings),
            "clip": inputs.clip_digest,
            **turned_mark(inputs.scenes, inputs.validation),
        },
        inputs={"scenes": inputs.scenes_digest, **validation},
    )
    return ProposalNetPlan(
        artifact=Artifact.planned(runs, Description(identity=identity, units=(WEIGHTS, REPORT))),
        scenes=inputs.scenes,
        validation=inputs.validation,
        labels=labels,
        held_out=held_out_indices(settings.held_out_classes, labels.class_names),
    )


def _check_same_classes(labels: ScenesAttributes, validation: Artifact | None) -> None:
    """Refuse validation on a list of the same name with other classes; another vocabulary is a zero-shot measure.

    Raises:
        SettingsError: If the lists differ.
    """
    other = labels if validation is None else ScenesAttributes.of(validation)
    if other.vocabulary != labels.vocabulary or other.class_names == labels.class_names:
        return
    pairs = zip_longest(labels.class_names, other.class_names, fillvalue="nothing")
    place, (trained, measured) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    message = (
        f"its classes differ from those of proposal_net.dataset, first at {place}: {measured!r}, there {trained!r}; "
        "give both data sets the same categories"
    )
    raise SettingsError([f"proposal_net.validation_dataset: {message}"])


def initial_weights_file(settings: ProposalNetSettings) -> Path | None:
    """Return the file of a whole net from which training starts; None for random weights."""
    if settings.initial_weights == NONE:
        return None
    return WEIGHTS_FILE if settings.initial_weights == SHIPPED else Path(settings.initial_weights)


def _options(settings: ProposalNetSettings) -> Mapping[str, Json]:
    """Return the settings that change the result; names of data sets and paths of files become what they stand for."""
    options: dict[str, Any] = result_settings(settings)
    del options["dataset"], options["validation_dataset"]
    start = initial_weights_file(settings)
    if start is not None:
        options["initial_weights"] = _file_digest("initial_weights", start)
    backbone = options["architecture"]["backbone"]
    if backbone["pretrained"] != RANDOM and Path(backbone["pretrained"]).suffix:
        backbone["pretrained"] = _file_digest("architecture.backbone.pretrained", Path(backbone["pretrained"]))
    return options


def _file_digest(key: str, path: Path) -> str:
    """Return the sha256 of a file of weights.

    Raises:
        SettingsError: If it is not there.
    """
    if not path.is_file():
        message = f"proposal_net.{key}: there is no such file; correct the path (got {str(path)!r})"
        raise SettingsError([message])
    return sha256_of_file(path)
