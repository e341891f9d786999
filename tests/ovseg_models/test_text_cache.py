"""The cache of text embeddings on disk: each name once, whatever happens to its files and to other processes."""

import logging
import os
import time
from pathlib import Path

import open_clip
import pytest
import torch

from ovseg_models import text_cache
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.text_cache import TextCache, tower_structure, user_cache
from ovseg_models.text_classifier import TextClassifier
from tests.forked import start
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

NAMES = ["boat", "cow", "road, route", "kite", "café"]
VILD = prompt_templates("vild")
tokenize = open_clip.SimpleTokenizer(context_length=16)


class Passes:
    """Counts the names that go through a CLIP's text tower, each in a pass of its own."""

    def __init__(self, clip, monkeypatch):
        self.count = 0
        forward = clip.transformer.forward

        def counted(*args, **kwargs):
            self.count += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(clip.transformer, "forward", counted)


@pytest.fixture
def clip(tiny_clip_config):
    return build_clip(tiny_clip_config)


@pytest.fixture
def passes(clip, monkeypatch):
    return Passes(clip, monkeypatch)


def embedded(clip, folder, names=NAMES, templates=VILD, tokenizer=tokenize):
    """As a new process would, which has nothing in memory."""
    return TextClassifier(clip, tokenizer, cache=TextCache(folder)).text_embeddings(names, templates)


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_each_name_goes_through_the_tower_once(clip, passes, tmp_path):
    first = embedded(clip, tmp_path, NAMES[:3])
    assert passes.count == 3
    again = embedded(clip, tmp_path, [NAMES[2], NAMES[3], NAMES[0]])
    assert passes.count == 4
    assert torch.equal(again[[2, 0]], first[[0, 2]])
    assert len(files_below(tmp_path)) == 4


def test_vectors_have_the_same_bytes_whatever_the_order_and_the_company(clip, tmp_path):
    plain = TextClassifier(clip, tokenize, name_by_name=True).text_embeddings(NAMES, VILD)
    generator = torch.Generator().manual_seed(0)
    for number in range(5):
        order = torch.randperm(len(NAMES), generator=generator)[: number + 1]
        found = embedded(clip, tmp_path / str(number % 2), [NAMES[place] for place in order])
        assert torch.equal(found, plain[order])


def test_another_tower_other_sentences_and_another_tokenizer_have_their_own(clip, passes, tmp_path, tiny_clip_config):
    embedded(clip, tmp_path)
    bare = embedded(clip, tmp_path, templates=["{}"])
    assert torch.equal(bare, TextClassifier(clip, tokenize, name_by_name=True).text_embeddings(NAMES, ["{}"]))
    assert passes.count == 3 * len(NAMES)

    def other_tokens(texts):
        return tokenize([text.replace("photo", "picture") for text in texts])

    embedded(clip, tmp_path, tokenizer=other_tokens)
    assert passes.count == 4 * len(NAMES)
    with torch.no_grad():
        clip.ln_final.weight.mul_(1.5)
    embedded(clip, tmp_path)
    assert passes.count == 5 * len(NAMES)
    assert len({path.parent for path in files_below(tmp_path)}) == 4


def test_what_weights_do_not_show_is_part_of_the_tower(tiny_clip_config):
    text = tiny_clip_config["text_cfg"]
    same = [build_clip(tiny_clip_config) for _ in range(2)]
    assert tower_structure(same[0]) == tower_structure(same[1].eval())
    heads = build_clip(tiny_clip_config | {"text_cfg": text | {"heads": 2 * text["heads"]}})
    quick = build_clip(tiny_clip_config | {"quick_gelu": True})
    assert {*heads.state_dict()} == {*quick.state_dict()} == {*same[0].state_dict()}
    assert len({tower_structure(clip) for clip in (same[0], heads, quick)}) == 3


def flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-5])


def no_safetensors(path):
    path.write_bytes(b"GIF89a")


def of_another_name(path):
    path.write_bytes(files_below(path.parents[1])[1].read_bytes())


@pytest.mark.parametrize("damage", [flipped_bit, cut_short, no_safetensors, of_another_name])
def test_a_damaged_entry_is_made_again_with_a_warning(clip, passes, tmp_path, caplog, damage):
    first = embedded(clip, tmp_path)
    damage(files_below(tmp_path)[0])
    assert torch.equal(embedded(clip, tmp_path), first)
    assert passes.count == len(NAMES) + 1
    (warning,) = {record.message for record in caplog.records}
    assert str(files_below(tmp_path)[0]) in warning
    assert any(repr(name) in warning for name in NAMES)
    assert torch.equal(embedded(clip, tmp_path), first)
    assert passes.count == len(NAMES) + 1


def test_a_place_that_cannot_be_written_to_is_reported_once(clip, passes, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")  # as root, permissions would hinder nobody
    classifier = TextClassifier(clip, tokenize, cache=TextCache(tmp_path / "file"))
    plain = TextClassifier(clip, tokenize, name_by_name=True).text_embeddings(NAMES, VILD)
    for name, vector in zip(NAMES, plain, strict=True):
        assert torch.equal(classifier.text_embeddings([name], VILD)[0], vector)
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert str(tmp_path / "file") in warning
    assert "OVSEG_TEXT_CACHE" in warning


def test_what_a_read_only_place_holds_is_used(clip, passes, tmp_path, monkeypatch):
    embedded(clip, tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    for changing in ("mkdir", "write_bytes"):
        monkeypatch.setattr(Path, changing, refuse)
    embedded(clip, tmp_path)
    assert passes.count == len(NAMES)
    embedded(clip, tmp_path, ["dog"])
    assert passes.count == len(NAMES) + 1


def test_the_oldest_names_go(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "NAMES_MAX", 3)
    for place, name in enumerate(NAMES):
        embedded(clip, tmp_path, [name])
        for path in files_below(tmp_path)[:]:
            if path.stat().st_mtime_ns > 10**10:  # written just now
                os.utime(path, ns=(place, place))
    kept = {path.name for path in files_below(tmp_path)}
    cache = TextCache(tmp_path)
    (space,) = {path.parent.name for path in files_below(tmp_path)}
    assert len(kept) == 3
    assert list(cache.read(space, NAMES)) == NAMES[-3:]


def embed_slowly(config, folder):
    """Embed all names, and leave a letter for each that goes through the tower."""
    clip = build_clip(config)
    forward = clip.transformer.forward

    def slow(*args, **kwargs):
        time.sleep(0.05)
        with (folder / f"passes-{os.getpid()}").open("a") as file:
            file.write("x")
        return forward(*args, **kwargs)

    clip.transformer.forward = slow
    embedded(clip, folder / "cache")


def test_processes_at_once_embed_each_name_once(clip, tiny_clip_config, tmp_path):
    processes = [start(embed_slowly, tiny_clip_config, tmp_path) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(len(path.read_text()) for path in tmp_path.glob("passes-*")) == len(NAMES)
    plain = TextClassifier(clip, tokenize, name_by_name=True).text_embeddings(NAMES, VILD)
    assert torch.equal(embedded(clip, tmp_path / "cache"), plain)
    assert not list((tmp_path / "cache").glob("*/*.tmp"))


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_TEXT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache().folder == tmp_path / "ovseg" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache().folder == tmp_path / "home" / ".cache" / "ovseg" / "text"
    monkeypatch.setenv("OVSEG_TEXT_CACHE", str(tmp_path / "mine"))
    assert user_cache().folder == tmp_path / "mine"
    monkeypatch.setenv("OVSEG_TEXT_CACHE", "OFF")
    assert user_cache() is None


def test_segmenters_share_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSEG_TEXT_CACHE", str(tmp_path))
    first, second = tiny_segmenter(), tiny_segmenter()
    passes = [Passes(segmenter.clip.clip, monkeypatch) for segmenter in (first, second)]
    labels = [segmenter.segment(picture(), CLASS_NAMES).label_map for segmenter in (first, second)]
    assert [counted.count for counted in passes] == [len(CLASS_NAMES), 0]
    assert torch.equal(*labels)
