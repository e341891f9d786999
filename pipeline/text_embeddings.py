"""Shared text embeddings: each noun and each class name goes through CLIP's text tower once per runs directory.

Writes ``text_embeddings``: of a caption's nouns before they are paired, of a vocabulary before it is evaluated or
proposed with. Vectors of names that are known from another artifact of the same CLIP and templates are copied. On a CPU
a name is embedded alone, so its vector has the same bits whatever other names there are; on a GPU many go together, and
sums differ by rounding (a runs directory that both have written to keeps these differences).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovseg_models.prompt_templates import prompt_templates
from pipeline.graph import Node, Step
from pipeline.settings import ClipSettings, ComputeSettings
from pipeline.shard_runner import Execution
from pipeline.stage_names import StageName
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.digests import Json, sha256_of_json
from storage_schemas.manifest import Sidecar
from storage_schemas.text_embeddings import (
    KIND,
    SCHEMA_VERSION,
    read_text_embeddings,
    write_text_embeddings,
)

if TYPE_CHECKING:
    import torch

    from ovseg_models.text_classifier import TextClassifier
    from pipeline.clip_loading import LoadedClip

NAMES_PER_UNIT = 1000

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbedTexts(Step):
    """Makes embeddings of names. These are known only when they are about to be used: no part of the dataflow.

    Attributes:
        names: Ascending, each once.
        prompt_templates: Name of the sentences around them.
        what: What the names are, for a warning.
    """

    names: tuple[str, ...]
    prompt_templates: str
    compute: ComputeSettings
    what: str = "nouns"

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 3
    stage: StageName = "mine"

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the sentences, and the digest of the names."""
        del node
        return {
            "templates": list(prompt_templates(self.prompt_templates)),
            "nouns": sha256_of_json(list(self.names)),
        }

    def units(self, node: Node) -> tuple[str, ...]:
        """Return a unit for every thousand names."""
        del node
        return tuple(f"nouns-{number:05d}" for number in range(-(-len(self.names) // NAMES_PER_UNIT)))

    def job(self, node: Node) -> "EmbedTextsJob":
        """Return what makes a unit. Warns of names without a word that CLIP knows."""
        from pipeline.clip_loading import warn_of_unknown

        warn_of_unknown(node.clip.settings, self.names, self.what)
        return EmbedTextsJob(
            names=self.names,
            source=TextSource.of(node, self.prompt_templates),
            compute=WorkerCompute.of(self.compute),
        )


def embed_names(
    node: Node,
    names: Sequence[str],
    templates: str,
    compute: ComputeSettings,
    execution: Execution,
    *,
    what: str = "nouns",
) -> Artifact:
    """Embed the names that an artifact is about to be made with, as far as they are not known yet.

    Args:
        node: The artifact; the result is named after its scenes.
        names: At least one, in any order, any number of times.
        templates: Name of the sentences around them.
        what: What the names are, for a warning of those that CLIP does not know.

    Returns:
        The finished ``text_embeddings``.
    """
    step = EmbedTexts(tuple(sorted(set(names))), templates, compute, what)
    texts = Node(step, node["scenes"].name, node.runs, {"clip": node.clip})
    texts.make(execution)
    return texts.artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Where text embeddings of a CLIP come from; picklable.

    Attributes:
        clip: What embeds names that are not known.
        clip_digest: Of its weights.
        templates: Name of the sentences around names.
        runs: Runs directory, which holds known embeddings.
    """

    clip: ClipSettings
    clip_digest: str
    templates: str
    runs: Path

    @classmethod
    def of(cls, node: Node, templates: str) -> "TextSource":
        """Return the source for a node's CLIP."""
        return cls(clip=node.clip.settings, clip_digest=node.clip.digest(), templates=templates, runs=node.runs)

    def known(self) -> list[Artifact]:
        """Return the finished artifacts of the same CLIP and sentences, those of a few names first."""
        return known_texts(self.runs, self.clip_digest, self.templates)

    def open(self, device: "torch.device", loaded: "LoadedClip | None" = None) -> "TextEmbedder":
        """Return what gives embeddings.

        Args:
            device: Where names that are not known are embedded.
            loaded: The CLIP, if it is loaded already; on the device.
        """
        return TextEmbedder(self, device, loaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTextsJob:
    """Embeds names.

    Attributes:
        names: Ascending.
        source: Where embeddings come from.
    """

    names: tuple[str, ...]
    source: TextSource
    compute: WorkerCompute

    def open(self) -> "TextEmbedder":
        """Set up this process; CLIP is loaded when a name is new."""
        return self.source.open(self.compute.begin())

    def run(self, state: "TextEmbedder", artifact: Artifact, unit: str) -> Sidecar:
        """Make one unit."""
        first = artifact.description.units.index(unit) * NAMES_PER_UNIT
        names = self.names[first : first + NAMES_PER_UNIT]
        return write_text_embeddings(artifact, unit, names, state.vectors(names))


class TextEmbedder:
    """Gives embeddings of names: those that are known, and new ones by the text tower, each once."""

    def __init__(self, source: TextSource, device: "torch.device", loaded: "LoadedClip | None" = None) -> None:
        self._source = source
        self._device = device
        self._loaded = loaded
        self._unread: list[Artifact] | None = None
        self._known: dict[str, Vector] = {}

    def vectors(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return embeddings of names, L2-normalised [name dim]."""
        if self._unread is None:
            self._unread = self._source.known()
        # Stored ones first, artifact by artifact, until all names are known, and no further.
        while self._unread and not self._known.keys() >= set(names):
            self._known.update(vectors_of(self._unread.pop(0)))
        missing = [name for name in dict.fromkeys(names) if name not in self._known]
        if missing:
            found = self._classifier.text_embeddings(missing, prompt_templates(self._source.templates))
            self._known.update(zip(missing, found.cpu().numpy(), strict=True))
        return np.stack([self._known[name] for name in names])

    @cached_property
    def _classifier(self) -> "TextClassifier":
        """The text tower; CLIP is loaded for the first name that is not stored."""
        from ovseg_models.text_classifier import TextClassifier
        from pipeline.clip_loading import load_clip

        loaded = self._loaded or load_clip(self._source.clip)
        # On a CPU, sums depend on how many names go together; alone, a name has the same bits in every run.
        clip, alone = loaded.clip.to(self._device), self._device.type == "cpu"
        return TextClassifier(clip, loaded.tokenize, name_by_name=alone)


def known_texts(runs: Path, clip_digest: str, templates: str) -> list[Artifact]:
    """Return the finished artifacts of a CLIP and of sentences, those of a few names first.

    Args:
        runs: Runs directory.
        clip_digest: Of CLIP's weights.
        templates: Name of the sentences around names.
    """
    sentences, inputs = list(prompt_templates(templates)), {"clip": clip_digest}
    known = [
        artifact
        for artifact in artifacts_below(runs, KIND)
        if (artifact.identity.schema_version, artifact.identity.producer_version)
        == (SCHEMA_VERSION, EmbedTexts.producer_version)
        and artifact.identity.settings.get("templates") == sentences
        and artifact.identity.inputs == inputs
        and artifact.status().finished
    ]
    return sorted(known, key=lambda artifact: len(artifact.description.units))


def vectors_of(artifact: Artifact) -> Mapping[str, Vector]:
    """Read all vectors of a finished artifact, by name."""
    vectors: dict[str, Vector] = {}
    for unit in artifact.description.units:
        vectors.update(read_text_embeddings(artifact, unit))
    return vectors
