"""Between steps 2 and 3 of mining: each noun goes through CLIP's text tower once.

Reads nouns; writes ``text_embeddings``. Vectors of nouns that are known from another artifact of the same CLIP and
templates are copied: a noun is embedded alone, so its vector has the same bits whatever other nouns there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.text_classifier import TextClassifier
from pipeline.clip_loading import load_clip
from pipeline.settings import ClipSettings
from pipeline.shard_runner import UnitPlan
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.digests import sha256_of_json
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.text_embeddings import (
    KIND,
    SCHEMA_VERSION,
    embedding_dim_of,
    read_text_embeddings,
    write_text_embeddings,
)

RECIPE = 2
"""Raise it when the same nouns and templates come to mean other vectors."""

NOUNS_PER_UNIT = 1000

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTextsJob:
    """Embeds nouns.

    Attributes:
        nouns: Ascending.
        templates: Name of the prompt templates.
        clip: What embeds them.
        known: Finished artifacts of the same CLIP and templates.
        compute: Where.
    """

    nouns: tuple[str, ...]
    templates: str
    clip: ClipSettings
    known: tuple[Artifact, ...]
    compute: WorkerCompute

    def open(self) -> "NounEmbedder":
        """Read what is known; CLIP is loaded when a noun is new."""
        return NounEmbedder(self)

    def run(self, state: "NounEmbedder", artifact: Artifact, unit: str) -> Sidecar:
        """Make one unit."""
        first = artifact.description.units.index(unit) * NOUNS_PER_UNIT
        nouns = self.nouns[first : first + NOUNS_PER_UNIT]
        return write_text_embeddings(artifact, unit, nouns, np.stack([state.vector(noun) for noun in nouns]))


def plan_text_embeddings(
    nouns: Sequence[str],
    *,
    templates: str,
    clip: ClipSettings,
    clip_digest: str,
    compute: WorkerCompute,
    name: str,
    runs: Path,
) -> UnitPlan[EmbedTextsJob]:
    """Find out which nouns are to be embedded, and where some of them are known; reads manifests and makes nothing."""
    ordered = tuple(sorted(set(nouns)))
    decisive = {"clip": clip_digest, "templates": list(prompt_templates(templates))}
    identity = Identity(
        kind=KIND,
        name=name,
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        settings={**decisive, "nouns": sha256_of_json(list(ordered))},
    )
    units = tuple(f"nouns-{number:05d}" for number in range(-(-len(ordered) // NOUNS_PER_UNIT)))
    artifact = Artifact.planned(runs, Description(identity=identity, units=units))
    known = tuple(
        other
        for other in artifacts_below(runs, KIND)
        if other.directory != artifact.directory
        and (other.identity.schema_version, other.identity.recipe) == (SCHEMA_VERSION, RECIPE)
        and {key: other.identity.settings.get(key) for key in decisive} == decisive
        and other.status().finished
    )
    job = EmbedTextsJob(nouns=ordered, templates=templates, clip=clip, known=known, compute=compute)
    return UnitPlan(artifact, job)


class NounEmbedder:
    """Knows vectors of nouns, and computes new ones."""

    def __init__(self, job: EmbedTextsJob) -> None:
        self._job = job
        self._templates = prompt_templates(job.templates)
        self._known: dict[str, Vector] = {}
        for artifact in job.known:
            self._known.update(vectors_of(artifact))

    def vector(self, noun: str) -> Vector:
        """Return the vector of a noun [dim], L2-normalised."""
        if noun not in self._known:
            with torch.inference_mode():
                embedding = self._classifier.text_embeddings([noun], self._templates)[0]
            self._known[noun] = embedding.cpu().numpy()
        return self._known[noun]

    @cached_property
    def _classifier(self) -> TextClassifier:
        """The text tower at work."""
        device = self._job.compute.begin()
        loaded = load_clip(self._job.clip)
        return TextClassifier(loaded.clip.to(device), loaded.tokenize, name_by_name=True)


def vectors_of(artifact: Artifact) -> Mapping[str, Vector]:
    """Read all vectors of a finished artifact, by noun."""
    vectors: dict[str, Vector] = {}
    for unit in artifact.description.units:
        vectors.update(read_text_embeddings(artifact, unit, embedding_dim=embedding_dim_of(artifact)))
    return vectors
