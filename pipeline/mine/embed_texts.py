"""Between steps 2 and 3 of mining: each noun goes through CLIP's text tower once.

Reads nouns; writes ``text_embeddings``. Vectors of nouns that are known from another artifact of the same CLIP and
templates are copied: a noun is embedded alone, so its vector has the same bits whatever other nouns there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovseg_models.prompt_templates import prompt_templates
from pipeline.graph import Node, Step
from pipeline.settings import ClipSettings, ComputeSettings
from pipeline.stage_names import StageName
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.digests import Json, sha256_of_json
from storage_schemas.manifest import Sidecar
from storage_schemas.text_embeddings import (
    KIND,
    SCHEMA_VERSION,
    embedding_dim_of,
    read_text_embeddings,
    write_text_embeddings,
)

if TYPE_CHECKING:
    from ovseg_models.text_classifier import TextClassifier

NOUNS_PER_UNIT = 1000

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbedTexts(Step):
    """Makes embeddings of nouns; its nouns are known when pairs are about to be made.

    Attributes:
        nouns: Ascending, each once.
        prompt_templates: Name of the sentences around them.
    """

    nouns: tuple[str, ...]
    prompt_templates: str
    compute: ComputeSettings

    kind = KIND
    schema_version = SCHEMA_VERSION
    recipe = 3
    stage: StageName = "mine"

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the sentences, and the digest of the nouns."""
        del node
        return {
            "templates": list(prompt_templates(self.prompt_templates)),
            "nouns": sha256_of_json(list(self.nouns)),
        }

    def units(self, node: Node) -> tuple[str, ...]:
        """Return a name for every thousand nouns."""
        del node
        return tuple(f"nouns-{number:05d}" for number in range(-(-len(self.nouns) // NOUNS_PER_UNIT)))

    def job(self, node: Node) -> "EmbedTextsJob":
        """Return what makes a unit, with finished artifacts of the same CLIP and sentences, whose vectors are copied.

        Warns of nouns without a word that CLIP knows.
        """
        from pipeline.clip_loading import warn_of_unknown

        warn_of_unknown(node.clip.settings, self.nouns, "nouns")
        own = node.artifact.identity
        known = tuple(
            other
            for other in artifacts_below(node.runs, KIND)
            if other.directory != node.artifact.directory
            and (other.identity.schema_version, other.identity.recipe) == (own.schema_version, own.recipe)
            and other.identity.settings.get("templates") == own.settings["templates"]
            and other.identity.inputs == own.inputs
            and other.status().finished
        )
        return EmbedTextsJob(
            nouns=self.nouns,
            templates=self.prompt_templates,
            clip=node.clip.settings,
            known=known,
            compute=WorkerCompute.of(self.compute),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTextsJob:
    """Embeds nouns.

    Attributes:
        nouns: Ascending.
        templates: Name of the prompt templates.
        clip: What embeds them.
        known: Finished artifacts of the same CLIP and templates.
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
        import torch

        if noun not in self._known:
            with torch.inference_mode():
                embedding = self._classifier.text_embeddings([noun], self._templates)[0]
            self._known[noun] = embedding.cpu().numpy()
        return self._known[noun]

    @cached_property
    def _classifier(self) -> "TextClassifier":
        """The text tower at work."""
        from ovseg_models.text_classifier import TextClassifier
        from pipeline.clip_loading import load_clip

        device = self._job.compute.begin()
        loaded = load_clip(self._job.clip)
        return TextClassifier(loaded.clip.to(device), loaded.tokenize, name_by_name=True)


def vectors_of(artifact: Artifact) -> Mapping[str, Vector]:
    """Read all vectors of a finished artifact, by noun."""
    vectors: dict[str, Vector] = {}
    for unit in artifact.description.units:
        vectors.update(read_text_embeddings(artifact, unit, embedding_dim=embedding_dim_of(artifact)))
    return vectors
