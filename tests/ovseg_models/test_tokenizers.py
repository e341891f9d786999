"""The tokenizer that a configuration names; the package transformers is a stand-in here, which needs no download."""

import importlib.util
import json
import pathlib
import sys
from types import ModuleType

import open_clip
import pytest
import torch

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.segmenter_folder import SegmenterParts, read_segmenter_folder, write_segmenter_folder
from ovseg_models.tokenizers import ModelTokenizer
from tests.tiny_clips import FAMILIES


class Letters:
    """One token per letter: what an AutoTokenizer of a folder gives."""

    sep_token_id = 7

    def __init__(self, shift):
        self.shift = shift

    @classmethod
    def from_pretrained(cls, source, cache_dir=None, **options):
        try:
            with pathlib.Path(f"{source}/letters.json").open() as file:
                return cls(json.load(file)["shift"])
        except FileNotFoundError as error:
            raise OSError(f"{source} is no folder, and there is no route to the hub") from error

    def save_pretrained(self, folder):
        import pathlib

        pathlib.Path(folder).mkdir(exist_ok=True)
        (pathlib.Path(folder) / "letters.json").write_text(json.dumps({"shift": self.shift}))

    def __call__(self, texts, max_length, **_):
        rows = torch.zeros(len(texts), max_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            tokens = [ord(letter) % 50 + self.shift for letter in text[:max_length]]
            row[: len(tokens)] = torch.tensor(tokens)
        return type("Found", (), {"input_ids": rows})


@pytest.fixture
def transformers(monkeypatch):
    module = ModuleType("transformers")
    module.AutoTokenizer = Letters
    module.__spec__ = importlib.util.spec_from_loader("transformers", loader=None)
    monkeypatch.setitem(sys.modules, "transformers", module)


def named(name="some/tokenizer", **options):
    text = {**FAMILIES["SigLIP2"]["text_cfg"], "hf_tokenizer_name": name, "tokenizer_kwargs": options}
    return {**FAMILIES["SigLIP2"], "text_cfg": text}


def test_a_configuration_without_a_name_has_open_clips_tokens():
    for name in ("ViT-B-16", "PE-Core-B-16", "MobileCLIP2-S0"):
        config = open_clip.get_model_config(name)
        tokens = ModelTokenizer(config)(["a photo of a boat"])
        assert tokens.shape == (1, config["text_cfg"]["context_length"])
        assert torch.equal(tokens, open_clip.get_tokenizer(name)(["a photo of a boat"]))


def test_options_of_the_configuration_are_used(transformers, tmp_path):
    Letters(3).save_pretrained(tmp_path)
    plain = ModelTokenizer(named(), tmp_path)
    cleaned = ModelTokenizer(named(clean="canonicalize"), tmp_path)
    assert not torch.equal(plain(["A Boat!"]), cleaned(["A Boat!"]))
    assert torch.equal(plain(["a boat"]), cleaned(["A Boat!"]))
    assert plain(["a boat"]).shape == (1, 8)
    separated = chr(104)  # whose token is the separator's
    assert ModelTokenizer(named(strip_sep_token=True), tmp_path)([separated]).sum() == 0
    assert plain([separated])[0, 0] == Letters.sep_token_id


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tokenizer = ModelTokenizer(named())  # others may use the model
    with pytest.raises(ImportError, match=r"'some/tokenizer', .*transformers is not installed; .*ovseg-pipeline\[hf\]"):
        tokenizer(["a boat"])


def test_files_that_are_not_available_are_named(transformers):
    with pytest.raises(ConnectionError, match=r"files of 'some/tokenizer' are not available \(.*no route.*local-dir"):
        ModelTokenizer(named())(["a boat"])


def test_a_segmenter_holds_its_tokenizer(transformers, tmp_path):
    Letters(5).save_pretrained(tmp_path / "source")
    clip = build_mask_adapted_clip(named(), prompt_depth=1, tokenizer_folder=tmp_path / "source")
    write_segmenter_folder(tmp_path / "segmenter", SegmenterParts(None, clip))
    assert (tmp_path / "segmenter" / "tokenizer" / "letters.json").exists()
    (tmp_path / "source" / "letters.json").unlink()
    loaded = read_segmenter_folder(tmp_path / "segmenter").clip
    assert torch.equal(loaded.tokenize(["a boat"]), Letters(5)(["a boat"], 8).input_ids)
