"""Building CLIP from names, configurations, tags and files, and refusing what cannot be read safely or doesn't fit."""

import urllib.error
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_models.checkpoint_keys.clip import MASK_PROMPTS_KEY, from_adapted, to_finetune, to_openai, to_ovseg
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip, build_mask_adapted_clip
from ovseg_models.weights import weights_digest


@pytest.fixture
def weights(tiny_clip_config):
    """Weights that no random initialisation of the tests gives."""
    return build_clip(tiny_clip_config, seed=99).state_dict()


def activation_of(clip):
    return type(clip.visual.transformer.resblocks[0].mlp.gelu).__name__


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone(tiny_clip_config):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    digests = [weights_digest(build_clip(tiny_clip_config, seed=seed).state_dict()) for seed in (0, 0, 1)]
    assert torch.equal(torch.randn(3), expected)
    assert digests[0] == digests[1] != digests[2]


def test_a_name_builds_open_clips_model():
    clip = build_clip("ViT-S-32-alt")
    config = open_clip.get_model_config("ViT-S-32-alt")
    assert clip.visual.conv1.out_channels == config["vision_cfg"]["width"]
    assert isinstance(clip, open_clip.CLIP)
    assert not clip.training
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}


def test_a_configuration_is_not_changed(tiny_clip_config):
    config = {**tiny_clip_config, "custom_text": True, "vision_cfg": dict(tiny_clip_config["vision_cfg"])}
    assert isinstance(build_clip(config, quick_gelu=True), open_clip.CustomTextCLIP)
    assert config == {**tiny_clip_config, "custom_text": True}


LAYOUTS = {
    "open_clip": lambda tensors: tensors,
    "openai": to_openai,
    "finetune": lambda tensors: {"epoch": 5, "name": "x", "state_dict": to_finetune(tensors), "optimizer": {}},
    "finetuned from openai": lambda tensors: {"state_dict": to_finetune(to_openai(tensors))},
    "ovseg": lambda tensors: {"model": {**to_ovseg(tensors), "criterion.empty_weight": torch.ones(3)}},
    "half precision": lambda tensors: {name: tensor.half() for name, tensor in tensors.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_each_layout_are_loaded(tiny_clip_config, weights, tmp_path, layout):
    path = tmp_path / "clip.pt"
    torch.save(LAYOUTS[layout](weights), path)
    loaded = build_clip(tiny_clip_config, path).state_dict()
    for name, tensor in weights.items():
        expected = tensor.half().float() if layout == "half precision" else tensor
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], expected), name


def test_safetensors_are_loaded(tiny_clip_config, weights, tmp_path):
    save_file(weights, tmp_path / "clip.safetensors")
    loaded = build_clip(tiny_clip_config, str(tmp_path / "clip.safetensors"))
    assert weights_digest(loaded.state_dict()) == weights_digest(weights)


@pytest.mark.parametrize(
    ("layout", "asked", "expected"),
    [
        ("open_clip", None, "GELU"),
        ("openai", None, "QuickGELU"),
        ("ovseg", None, "QuickGELU"),
        ("openai", False, "GELU"),
        ("open_clip", True, "QuickGELU"),
    ],
)
def test_activation_follows_the_weights_unless_asked(tiny_clip_config, weights, tmp_path, layout, asked, expected):
    torch.save(LAYOUTS[layout](weights), tmp_path / "clip.pt")
    clip = build_clip(tiny_clip_config, tmp_path / "clip.pt", quick_gelu=asked)
    assert activation_of(clip) == expected


@pytest.mark.parametrize(("said", "expected"), [({"quick_gelu": True}, "QuickGELU"), ({}, "GELU")])
def test_a_tag_is_downloaded_through_open_clip(tiny_clip_config, weights, tmp_path, monkeypatch, said, expected):
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    entry = {"hf_hub": "somewhere/", **said}
    monkeypatch.setattr(open_clip, "get_model_config", {"ViT-T": tiny_clip_config}.get)
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda name, tag: entry if (name, tag) == ("ViT-T", "ours") else {}
    )
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: str(tmp_path / "open_clip_model.safetensors"))
    clip = build_clip("ViT-T", "ours")
    assert weights_digest(clip.state_dict()) == weights_digest(weights)
    assert activation_of(clip) == expected


@pytest.mark.parametrize(
    ("place", "held", "taken"),
    [
        ("some/where/", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_model.safetensors"),
        ("some/where/", ["open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
        ("some/where/pytorch_model.bin", ["pytorch_model.safetensors"], "pytorch_model.safetensors"),
        ("some/where/pytorch_model.bin", ["pytorch_model.bin", "open_clip_model.safetensors"], "pytorch_model.bin"),
        ("some/where/", ["pytorch_model.bin"], None),
        ("", ["open_clip_model.safetensors"], None),
    ],
)
def test_a_file_that_was_downloaded_before_is_taken_without_asking(
    tiny_clip_config, weights, tmp_path, monkeypatch, place, held, taken
):
    repository = tmp_path / "cache" / "models--some--where"
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    for name in held:
        save = save_file if name.endswith(".safetensors") else torch.save
        save(weights if name == taken else {}, repository / "snapshots" / "c0ffee" / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(open_clip, "get_model_config", {"ViT-T": tiny_clip_config}.get)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"hf_hub": place, "url": "http://x"})
    asked = []

    def ask(entry):
        asked.append(entry)
        raise FileNotFoundError("no route")

    monkeypatch.setattr(open_clip, "download_pretrained", ask)
    if taken:
        assert weights_digest(build_clip("ViT-T", "ours").state_dict()) == weights_digest(weights)
        assert not asked
    else:
        with pytest.raises(ConnectionError, match="could not be downloaded"):
            build_clip("ViT-T", "ours")
        assert asked


def test_openais_tag_asks_for_quick_gelu():
    assert open_clip.get_pretrained_cfg("ViT-B-16", "openai")["quick_gelu"]
    assert not open_clip.get_pretrained_cfg("ViT-B-16", "laion2b_s34b_b88k").get("quick_gelu", False)


@pytest.mark.parametrize("error", [FileNotFoundError("no route"), urllib.error.URLError("no route")])
def test_a_failed_download_says_what_to_do(monkeypatch, error):
    def fail(entry):
        raise error

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(
        ConnectionError, match=r"weights 'openai' of ViT-B-16 could not be downloaded \(.*no route.*path"
    ):
        build_clip("ViT-B-16", "openai")


def adapted_weights(config, depth=3):
    return MaskAdaptedClip(build_clip(config, seed=99), prompt_depth=depth, prompt_seed=99).state_dict()


@pytest.mark.parametrize("to_file", [dict, from_adapted, lambda found: to_ovseg(from_adapted(found))])
def test_mask_prompts_of_a_file_are_loaded(tiny_clip_config, tmp_path, to_file):
    expected = adapted_weights(tiny_clip_config)
    save_file(to_file(expected), tmp_path / "adapted.safetensors")
    model = build_mask_adapted_clip(tiny_clip_config, tmp_path / "adapted.safetensors", prompt_depth=3)
    assert weights_digest(model.state_dict()) == weights_digest(expected)
    assert not model.training


def test_new_mask_prompts_where_the_file_has_none(tiny_clip_config, weights, tmp_path):
    save_file(weights, tmp_path / "clip.safetensors")
    first, again, other = (
        build_mask_adapted_clip(tiny_clip_config, tmp_path / "clip.safetensors", prompt_depth=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert weights_digest(first.clip.state_dict()) == weights_digest(weights)
    assert first.mask_prompts.shape == (2, 16, 16)
    assert torch.equal(first.mask_prompts, again.mask_prompts)
    assert not torch.equal(first.mask_prompts, other.mask_prompts)


def test_mask_prompts_are_never_dropped_in_silence(tiny_clip_config, tmp_path):
    save_file(from_adapted(adapted_weights(tiny_clip_config)), tmp_path / "adapted.safetensors")
    with pytest.raises(
        ValueError, match=r"holds mask prompts \(3, 16, 16\), stock CLIP has none; use build_mask_adapted"
    ):
        build_clip(tiny_clip_config, tmp_path / "adapted.safetensors")
    for depth, wanted in ((2, r"\(2, 16, 16\)"), (0, r"\(0,\)")):
        with pytest.raises(
            ValueError, match=rf"holds mask prompts \(3, 16, 16\), the model's are {wanted}.*depth to 3"
        ):
            build_mask_adapted_clip(tiny_clip_config, tmp_path / "adapted.safetensors", prompt_depth=depth)


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_made_to_run_code_runs_none(tiny_clip_config, weights, tmp_path):
    torch.save({"state_dict": weights, "optimizer": RunsCode(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt: cannot be read without running code from it"):
        build_clip(tiny_clip_config, tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_is_refused(tiny_clip_config, tmp_path):
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(
        ValueError, match=r"ViT-B-16\.pt: .*is a TorchScript archive, which holds code.*use the tag 'openai'"
    ):
        build_clip(tiny_clip_config, tmp_path / "ViT-B-16.pt")


def test_weights_that_do_not_fit_are_listed(tiny_clip_config, weights, tmp_path):
    weights["visual.proj"] = weights["visual.proj"][:, 1:].clone()
    weights["extra"] = torch.zeros(1)
    del weights["ln_final.bias"]
    save_file(weights, tmp_path / "clip.safetensors")
    with pytest.raises(
        ValueError,
        match=r"1 missing \(ln_final.bias\); 1 unexpected \(extra\); 1 misshapen \(visual.proj \(16, 15\), expected",
    ):
        build_clip(tiny_clip_config, tmp_path / "clip.safetensors")


def test_weights_of_something_else_are_refused(tiny_clip_config, tmp_path):
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"CLIP weights: none of 1 names is 'logit_scale'.*\['conv.weight'\]"):
        build_clip(tiny_clip_config, tmp_path / "net.safetensors")


def test_unknown_names_tags_and_files_are_refused(tiny_clip_config):
    with pytest.raises(ValueError, match=r"open_clip has no model 'ViT-B-61'; a name such as \[.*'ViT-B-16'"):
        build_clip("ViT-B-61")
    with pytest.raises(ValueError, match=r"pretrained is 'opneai', which is no file and no tag.*'openai'"):
        build_clip("ViT-B-16", "opneai")
    with pytest.raises(ValueError, match=r"pretrained is 'openai', which is no file and no tag.*its tags are \[\]"):
        build_clip(tiny_clip_config, "openai")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: there is no such file"):
        build_clip(tiny_clip_config, "absent.pt")


def test_bad_configurations_are_refused(tiny_clip_config):
    with pytest.raises(ValueError, match=r"the configuration lacks \['vision_cfg', 'text_cfg'\]"):
        build_clip({"embed_dim": 4})
    with pytest.raises(
        ValueError, match=r"open_clip refuses the configuration \(.*'depth'.*\); compare it with ViT-B-16's"
    ):
        build_clip(tiny_clip_config | {"vision_cfg": {"depth": 4}})
    with pytest.raises(ValueError, match=r"\['text_cfg'\] of the configuration are no tables; compare it"):
        build_clip(tiny_clip_config | {"text_cfg": None})


def test_prompts_key_is_the_published_one():
    assert MASK_PROMPTS_KEY == "visual.mask_embedding"
