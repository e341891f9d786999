"""Models by name, folder, hub and configuration: what each says, and that nothing is replaced in silence."""

import json

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_models import open_clip_models
from ovseg_models.open_clip_models import OWN, checked_config, files_here, find_model, has_published_form
from ovseg_models.preprocessing import OPENAI, Preprocessing
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.weights import weights_digest
from tests.tiny_clips import FAMILIES, SIDE_PX, stock

HALF = Preprocessing((0.5,) * 3, (0.5,) * 3, "bilinear")
PIXELS = {**HALF.to_json(), "size": SIDE_PX, "mode": "RGB"}
WITH_OTHER_PIXELS = {"model_cfg": FAMILIES["PE-Core"], "preprocess_cfg": PIXELS}


def write_folder(folder, content=WITH_OTHER_PIXELS, weights="open_clip_model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    if weights:
        save_file({key: value.contiguous() for key, value in stock("PE-Core").state_dict().items()}, folder / weights)
    return folder


def write_cache(cache, repository="some/where", **choices):
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    return write_folder(place / "snapshots" / "c0ffee", **choices)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def fail(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to the hub")

    monkeypatch.setattr(open_clip_models, "hf_hub_download", fail)
    return tmp_path / "cache"


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "model.safetensors", "epoch_7.safetensors"])
def test_a_folder_is_built_with_its_weights_and_pixels(tmp_path, weights):
    folder = write_folder(tmp_path / "model", weights=weights)
    built = build_mask_adapted_clip(f"local-dir:{folder}", OWN, prompt_depth=2)
    assert weights_digest(built.clip.state_dict()) == weights_digest(stock("PE-Core").state_dict())
    assert built.crop.preprocessing == HALF
    assert files_here(f"local-dir:{folder}", OWN) == [folder / "open_clip_config.json", folder / weights]
    again = build_mask_adapted_clip(**built.arguments)  # as a segmenter's folder records it
    assert (again.crop, again.temperature) == (built.crop, "model")


def test_what_open_clip_loads_is_what_is_built(tmp_path):
    folder = write_folder(tmp_path / "model")
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    ours = build_mask_adapted_clip(f"local-dir:{folder}", OWN, prompt_depth=0)
    assert tuple(preprocess.transforms[-1].mean) == ours.crop.preprocessing.mean_rgb
    assert tuple(preprocess.transforms[-1].std) == ours.crop.preprocessing.std_rgb
    assert preprocess.transforms[0].interpolation.value == ours.crop.preprocessing.interpolation
    crops = torch.randn(2, 3, SIDE_PX, SIDE_PX)
    with torch.no_grad():
        expected = theirs.encode_image(crops, normalize=True)
        torch.testing.assert_close(ours.encode_image(crops), expected, atol=1e-5, rtol=0)


def test_a_folder_without_weights_is_refused_and_not_made_random(tmp_path):
    folder = write_folder(tmp_path / "model", weights="")
    with pytest.raises(
        FileNotFoundError, match=r"model holds no weights; open_clip_model\.safetensors or another file"
    ):
        build_mask_adapted_clip(f"local-dir:{folder}", OWN)
    assert build_mask_adapted_clip(f"local-dir:{folder}", None, prompt_depth=0).crop.preprocessing == HALF
    with pytest.raises(FileNotFoundError, match=r"absent/open_clip_config\.json is not there; a folder that open_clip"):
        build_mask_adapted_clip(f"local-dir:{tmp_path}/absent", OWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no 'model_cfg'"),
        (json.dumps(FAMILIES["PE-Core"]), "has no 'model_cfg'"),
        (json.dumps({"model_cfg": 3}), "model_cfg or preprocess_cfg .* is no table"),
        (json.dumps({**WITH_OTHER_PIXELS, "preprocess_cfg": {"std": [0, 1, 1]}}), "std is .* three numbers above 0"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, content, message):
    folder = write_folder(tmp_path / "model")
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        build_mask_adapted_clip(f"local-dir:{folder}", OWN)


def test_a_model_of_the_hub_is_taken_from_the_cache_without_asking(cache):
    snapshot = write_cache(cache)
    built = build_mask_adapted_clip("hf-hub:some/where", OWN, prompt_depth=0)
    assert weights_digest(built.clip.state_dict()) == weights_digest(stock("PE-Core").state_dict())
    assert built.crop.preprocessing == HALF
    expected = [snapshot / "open_clip_config.json", snapshot / "open_clip_model.safetensors"]
    assert files_here("hf-hub:some/where", OWN) == expected


def test_a_model_of_the_hub_that_is_not_here_says_what_to_do(cache):
    with pytest.raises(
        ConnectionError, match=r"open_clip_config\.json of hf-hub:some/where .*no route.*'local-dir:PATH'"
    ):
        find_model("hf-hub:some/where", OWN)
    write_cache(cache, weights="")
    with pytest.raises(ConnectionError, match=r"the weights of hf-hub:some/where could not be downloaded .*no route"):
        find_model("hf-hub:some/where", OWN)


def test_a_name_with_a_file_has_the_pixels_that_all_its_tags_agree_on(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    half = Preprocessing((0.5,) * 3, (0.5,) * 3)
    for name, expected in (("ViT-B-16-SigLIP2", half), ("PE-Core-B-16", HALF), ("ViT-L-14", OPENAI), ("RN50", OPENAI)):
        assert find_model(name, tmp_path / "weights.safetensors").preprocessing == expected
        assert find_model(name, None).preprocessing == expected


def test_tags_say_pixels_and_activation(monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda entry: "weights.pt")
    monkeypatch.setattr(open_clip_models, "_in_hub_cache", lambda *_: None)
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name)
        found, entry = find_model(name, tag), open_clip.get_pretrained_cfg(name, tag)
        assert found.preprocessing == Preprocessing.of(entry)
        assert found.quick_gelu == entry.get("quick_gelu", False)
        assert found.config["text_cfg"].get("hf_tokenizer_name") == config["text_cfg"].get("hf_tokenizer_name")


def test_models_that_were_built_before_keep_their_form():
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        before = "timm_model_name" not in vision and isinstance(vision["layers"], int)
        before = before and not {"hf_model_name", "hf_tokenizer_name"} & text.keys() and "multimodal_cfg" not in config
        if before:
            assert has_published_form(config, find_model(name, None).preprocessing)
            assert checked_config(config, name) == config
        else:
            assert not has_published_form(checked_config(config, name), OPENAI) or "multimodal_cfg" in config


def test_towers_that_would_be_fetched_or_are_unknown_are_refused():
    config = FAMILIES["PE-Core"]
    for tower in ("hf-hub:some/where", "local-dir:/tmp", "vit_nowhere", 3):
        changed = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_name": tower}}
        with pytest.raises(ValueError, match=rf"has the image tower {tower!r}, which timm .* does not list"):
            build_mask_adapted_clip(changed)
    fetching = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": True}}
    assert checked_config(fetching, "it")["vision_cfg"]["timm_model_pretrained"] is False
