"""The CLIP that settings name: shipped, from files, random, or not available."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_models import open_clip_models, pretrained_clip
from ovseg_models.masked_crops import masked_crops
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.weights import weights_digest
from pipeline import clip_loading
from pipeline.clip_loading import load_clip
from pipeline.drawn_world import small_clip
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import NOUNS, PROMPT_TEMPLATES, WORDS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings
from tests.tiny_clips import DRAWN_WORLD_TOKENIZER, FAMILIES

SHIPPED = ClipSettings(architecture="drawn-world-small", pretrained="shipped")


def test_the_card_of_the_small_clip_is_true_of_its_file() -> None:
    card = (small_clip.WEIGHTS_FILE.parent / "README.md").read_text()
    data = small_clip.WEIGHTS_FILE.read_bytes()
    assert sha256(data).hexdigest() in card
    assert f"{len(data):,} bytes" in card


def test_the_small_clip_knows_every_word_of_the_drawn_world() -> None:
    words = load_clip(SHIPPED).words
    assert words is not None
    assert set(words.words) == {word for word in WORDS if word.isalpha()}


def accuracy(fill: str, *, at_home: bool) -> float:
    """Measure the share of single things that the small CLIP names rightly among all 54 nouns."""
    loaded = load_clip(SHIPPED)
    texts = TextClassifier(loaded.clip, loaded.tokenize).text_embeddings(NOUNS, PROMPT_TEMPLATES)
    right = []
    for index, noun in zip(split_indices("test", len(THING_NOUNS)), THING_NOUNS, strict=True):
        scene = DrawnWorld(seed=0).single_object(index, noun, at_home=at_home)
        mask = torch.from_numpy(scene.instance_map == scene.things[0].instance)[None]
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        crops = masked_crops(image, mask, crop_px=64, fill=fill).crops
        with torch.no_grad():
            best = (loaded.clip.encode_image(crops, normalize=True) @ texts.T).argmax().item()
        right.append(NOUNS[best] == noun)
    return sum(right) / len(right)


def test_the_small_clip_shows_the_gap_that_the_method_closes() -> None:
    assert accuracy("unmasked", at_home=True) > 0.85
    assert accuracy("mean", at_home=True) < accuracy("unmasked", at_home=True) - 0.05
    assert accuracy("unmasked", at_home=False) < accuracy("unmasked", at_home=True) - 0.1


def architecture_file(path: Path, **more: object) -> str:
    config = json.loads(small_clip.ARCHITECTURE_FILE.read_bytes())
    path.write_text(json.dumps({**config, **more}))
    return str(path)


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    architecture = architecture_file(tmp_path / "model.json")
    digests = [
        load_clip(ClipSettings(architecture=architecture, pretrained="random", seed=seed)).digest for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_another_activation_than_the_weights_ask_for_is_in_the_digest(tmp_path: Path) -> None:
    architecture, file = architecture_file(tmp_path / "model.json"), tmp_path / "weights.safetensors"
    clip = load_clip(ClipSettings(architecture=architecture, pretrained="random")).clip
    save_file(clip.state_dict(), file)

    def digest(of: str = architecture, **more: Any) -> str:
        return load_clip(ClipSettings(architecture=of, pretrained=str(file), **more)).digest

    assert digest() == digest(quick_gelu="off")
    assert digest(quick_gelu="on") != digest()
    assert digest(architecture_file(tmp_path / "other.json", quick_gelu=True)) == digest(quick_gelu="on")


def test_an_activation_that_the_weights_ask_for_is_in_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    random = load_clip(ClipSettings(architecture="ViT-B-32", pretrained="random")).clip.state_dict()
    asked = []
    monkeypatch.setattr(open_clip, "download_pretrained", lambda entry: asked.append(entry) or "weights.pt")
    monkeypatch.setattr(open_clip_models, "_in_hub_cache", lambda *_: None)
    monkeypatch.setattr(pretrained_clip, "read_weights_file", lambda path: random)
    digests = {
        choice: load_clip(ClipSettings(architecture="ViT-B-32", pretrained="openai", quick_gelu=choice)).digest
        for choice in ("auto", "on", "off")
    }
    assert digests["auto"] == digests["on"] == weights_digest(random)
    assert digests["off"] != digests["on"]


def test_what_weights_do_not_show_is_in_the_digest(tmp_path: Path) -> None:
    config = json.loads(small_clip.ARCHITECTURE_FILE.read_bytes())
    file = tmp_path / "weights.safetensors"
    save_file(load_clip(SHIPPED).clip.state_dict(), file)

    def digest(*, words: list[str] = config["words"], vision: Any = (), text: Any = ()) -> str:
        parts = {"vision_cfg": config["vision_cfg"] | dict(vision), "text_cfg": config["text_cfg"] | dict(text)}
        architecture = architecture_file(tmp_path / "model.json", words=words, **parts)
        return load_clip(ClipSettings(architecture=architecture, pretrained=str(file))).digest

    digests = [
        digest(),
        digest(words=config["words"][::-1]),
        digest(vision={"head_width": config["vision_cfg"]["head_width"] // 2}),
        digest(vision={"pool_type": "avg"}),
        digest(text={"no_causal_mask": True}),
        digest(text={"heads": 1}),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]
    assert load_clip(SHIPPED).digest == weights_digest(load_clip(SHIPPED).clip.state_dict())


def test_towers_of_other_lengths_are_found_at_once(tmp_path: Path) -> None:
    model = {**FAMILIES["SigLIP2"], "embed_dim": 99}
    (tmp_path / "model.json").write_text(json.dumps({**model, "words": list(DRAWN_WORLD_TOKENIZER.words)}))
    settings = ClipSettings(architecture=str(tmp_path / "model.json"), pretrained="random")
    for load in (load_clip, clip_loading.clip_without_numbers):
        with pytest.raises(PipelineError, match=r"image tower of .* gives embeddings of 16 numbers, .* of 99; equal"):
            load(settings)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vision_cfg", {"patch_size": 0}),
        ("vision_cfg", {"pos_embed_type": "bogus"}),
        ("text_cfg", {"pool_type": "zz"}),
        ("text_cfg", {"heads": 7}),
    ],
)
def test_a_form_that_cannot_be_built_is_one_message(tmp_path: Path, part: str, changes: dict[str, object]) -> None:
    config = json.loads(small_clip.ARCHITECTURE_FILE.read_bytes())
    architecture = architecture_file(tmp_path / "model.json", **{part: config[part] | changes})
    with pytest.raises(PipelineError, match=r"open_clip refuses the configuration \(\w+Error\(.*compare it with"):
        load_clip(ClipSettings(architecture=architecture, pretrained="random"))


def test_an_architecture_without_words_has_open_clips_tokenizer(tmp_path: Path) -> None:
    config = json.loads(small_clip.ARCHITECTURE_FILE.read_bytes())
    del config["words"]
    config["text_cfg"]["vocab_size"] = 49408
    (tmp_path / "model.json").write_text(json.dumps(config))
    loaded = load_clip(ClipSettings(architecture=str(tmp_path / "model.json"), pretrained="random"))
    assert loaded.words is None
    assert loaded.tokenize(["a boat"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("text_cfg", "words", "reason"),
    [
        (
            {"context_length": None},
            ["boat"],
            r"lists words, and text_cfg\.context_length is None, expected a number",
        ),
        ({"vocab_size": None}, ["boat"], r"text_cfg\.vocab_size is None, expected a number; complete the file"),
        (None, ["boat"], r"text_cfg\.context_length is None, expected a number"),
        ({"vocab_size": 4}, ["boat", "cow"], r"text_cfg\.vocab_size is 4, at least 5 is expected for 2 words"),
        ({"vocab_size": 5}, ["boat", "boat"], r"\['boat'\] occur more than once; list each word once"),
        ({}, "boat", r"words is 'boat', a list of words is expected"),
        ({}, [1], r"words is \[1\], a list of words is expected"),
    ],
)
def test_a_word_list_that_will_not_do_is_reported(
    tmp_path: Path, text_cfg: dict[str, int | None] | None, words: object, reason: str
) -> None:
    config = json.loads(small_clip.ARCHITECTURE_FILE.read_bytes())
    given = None if text_cfg is None else {**config["text_cfg"], **text_cfg}
    if given is not None:
        given = {key: value for key, value in given.items() if value is not None}
    architecture = architecture_file(tmp_path / "model.json", text_cfg=given, words=words)
    with pytest.raises(PipelineError, match=r"clip\.architecture: .*model\.json.*" + reason):
        load_clip(ClipSettings(architecture=architecture, pretrained="random"))


def unavailable(*_: object, **__: object) -> str:
    message = "no route to host"
    raise OSError(message)


def test_weights_that_cannot_be_downloaded_are_reported_or_replaced_if_so_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clip_loading, "_UNAVAILABLE", set())
    monkeypatch.setattr(open_clip, "download_pretrained", unavailable)
    settings = ClipSettings(architecture="ViT-B-32", pretrained="openai")
    with pytest.raises(PipelineError, match=r"could not be downloaded .* clip\.random_if_unavailable"):
        load_clip(settings)
    loaded = load_clip(settings.model_copy(update={"random_if_unavailable": True}))
    assert "random weights are used instead" in caplog.text
    assert loaded.clip.visual.conv1.kernel_size == (32, 32)
    assert loaded.is_random
    assert not load_clip(ClipSettings(architecture="drawn-world-small", pretrained="shipped")).is_random


def test_a_process_that_took_random_weights_keeps_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(entry: object) -> str:
        asked.append(entry)
        return unavailable()

    monkeypatch.setattr(clip_loading, "_UNAVAILABLE", set())
    monkeypatch.setattr(open_clip, "download_pretrained", ask)
    settings = ClipSettings(architecture="ViT-B-32", pretrained="openai", random_if_unavailable=True)
    first, second = load_clip(settings), load_clip(settings)
    assert len(asked) == 1
    assert first.is_random
    assert second.is_random
    assert first.digest == second.digest
    with pytest.raises(PipelineError, match="could not be downloaded"):  # a retry may find the network again
        load_clip(settings.model_copy(update={"random_if_unavailable": False}))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"architecture": "nowhere.json"}, r"clip\.architecture: nowhere\.json cannot be read as a model's JSON"),
        ({"pretrained": "shipped"}, "'shipped' weights are of 'drawn-world-small', clip.architecture is 'ViT-B-16'"),
        ({"architecture": "ViT-B-99"}, "open_clip has no model 'ViT-B-99'"),
        ({"pretrained": "absent.safetensors"}, "absent.safetensors"),
    ],
)
def test_what_is_not_to_be_had_is_named(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        load_clip(ClipSettings(**{"pretrained": "random", **settings}))
