"""Each noun through the text tower once, and the same vector whatever other nouns there are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.text_classifier import TextClassifier
from pipeline import text_embeddings
from pipeline.clip_loading import load_clip
from pipeline.clip_weights import ClipWeights
from pipeline.graph import Node
from pipeline.settings import ClipSettings, ComputeSettings
from pipeline.shard_runner import Execution
from pipeline.text_embeddings import NAMES_PER_UNIT, EmbedTexts, vectors_of

CLIP = ClipSettings(architecture="drawn-world-small", pretrained="shipped")


@dataclass
class OtherClip(ClipWeights):
    """The same CLIP, said to be another."""

    of: str = "of clip"

    def __post_init__(self) -> None:
        super().__init__(CLIP, Path())

    def digest(self) -> str:
        return self.of


def planned(runs, nouns, *, templates="single", clip_digest="of clip") -> Node:
    step = EmbedTexts(tuple(sorted(set(nouns))), templates, ComputeSettings())
    return Node(step, "a", runs, {"clip": OtherClip(clip_digest)})


@pytest.fixture
def embedded(monkeypatch):
    """Note what goes through the text tower."""
    names = []
    original = TextClassifier.text_embeddings

    def noting(self, class_names, *arguments, **options):
        names.extend(class_names)
        return original(self, class_names, *arguments, **options)

    monkeypatch.setattr(TextClassifier, "text_embeddings", noting)
    return names


def made(node):
    return node.make(Execution()).artifact


def test_vectors_equal_the_classifiers(tmp_path):
    loaded = load_clip(CLIP)
    nouns = ["boat", "cow", "hydrant"]
    found = vectors_of(made(planned(tmp_path, nouns, templates="vild")))
    with torch.no_grad():
        expected = TextClassifier(loaded.clip, loaded.tokenize).text_embeddings(nouns, prompt_templates("vild"))
    np.testing.assert_allclose(np.stack([found[noun] for noun in nouns]), expected.numpy(), atol=1e-6)


def test_known_nouns_are_copied_and_bytes_do_not_depend_on_it(tmp_path, embedded):
    made(planned(tmp_path / "one", ["cow", "boat"]))
    after = made(planned(tmp_path / "one", ["sky", "boat", "cow", "boat"]))
    assert embedded == ["boat", "cow", "sky"]
    alone = made(planned(tmp_path / "other", ["cow", "boat", "sky"]))
    assert after.manifest().digest() == alone.manifest().digest()


@pytest.mark.parametrize("other", [{"templates": "bare"}, {"clip_digest": "of another clip"}])
def test_vectors_of_other_templates_or_weights_are_not_taken(tmp_path, embedded, other):
    made(planned(tmp_path, ["boat"]))
    made(planned(tmp_path, ["boat", "cow"], **other))
    assert embedded == ["boat", "boat", "cow"]


def test_many_nouns_are_parted_into_units(tmp_path, monkeypatch):
    few = lambda self, names: np.array([[len(name)] * 3 for name in names], np.float32)  # noqa: E731
    monkeypatch.setattr(text_embeddings.TextEmbedder, "vectors", few)
    nouns = [f"noun{number:04d}" for number in range(NAMES_PER_UNIT + 1)]
    artifact = made(planned(tmp_path, nouns))
    assert [unit.rows for unit in artifact.manifest().units] == [NAMES_PER_UNIT, 1]
    assert list(vectors_of(artifact)) == nouns
