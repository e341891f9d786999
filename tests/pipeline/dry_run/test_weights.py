"""Weights that are here, that will be downloaded, and that are not available; no test asks the network."""

import pytest

from pipeline.dry_run import weights
from pipeline.dry_run.weights import clip_is_here, weights_findings
from pipeline.settings import load_settings

NET = "proposal_net={dataset='drawn', architecture={backbone={name='resnet18', pretrained='a1_in1k'}}}"
DRAWN = "datasets.drawn={dataset='drawn-world', split='val'}"
SHIPPED = "clip={architecture='drawn-world-small', pretrained='shipped'}"


def findings(*overrides):
    return [(each.where, each.text, each.is_missing) for each in weights_findings(load_settings(None, overrides))]


@pytest.fixture
def cached(monkeypatch):
    """Let the hub's cache hold the files that a test names."""
    held: set[tuple[str, str]] = set()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *file: "/cache" if file in held else None)
    return held


def test_weights_outside_the_cache_will_be_downloaded(cached):
    ((where, text, is_missing),) = findings()
    assert (where, is_missing) == ("clip.pretrained", False)
    assert text.startswith("'openai' of ViT-B-16 is not in the cache, will be downloaded")
    cached.add(("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"))
    assert findings() == []


def test_a_backbones_weights_likewise(cached):
    ((where, text, is_missing),) = findings(DRAWN, SHIPPED, NET)
    assert (where, is_missing) == ("proposal_net.architecture.backbone.pretrained", False)
    assert text.startswith("'a1_in1k' of resnet18 is not in the cache, will be downloaded")
    cached.add(("timm/resnet18.a1_in1k", "model.safetensors"))
    assert findings(DRAWN, SHIPPED, NET) == []


def test_without_the_hub_they_are_missing(cached, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ((_, text, is_missing),) = findings()
    assert is_missing
    assert "HF_HUB_OFFLINE forbids a download; unset it, or name a file" in text


def test_random_weights_where_they_are_allowed(cached, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ((_, text, is_missing),) = findings("clip.random_if_unavailable=true")
    assert not is_missing
    assert "without a download the run takes random weights" in text
    assert clip_is_here(load_settings(None, ["clip.random_if_unavailable=true"]).clip)
    assert not clip_is_here(load_settings(None, []).clip)


@pytest.mark.parametrize(
    ("overrides", "where", "text"),
    [
        (["clip.pretrained=none.safetensors"], "clip.pretrained", "there is no file none.safetensors"),
        (
            ["clip.pretrained=mine"],
            "clip.pretrained",
            "'mine' is no file and no tag of ViT-B-16, whose tags are openai",
        ),
        ([SHIPPED, "clip.architecture=none.json"], "clip.architecture", "there is no file none.json"),
        (
            [DRAWN, SHIPPED, NET, "proposal_net.architecture.backbone.pretrained=none.pth"],
            "proposal_net.architecture.backbone.pretrained",
            "there is no file none.pth",
        ),
        (
            [DRAWN, SHIPPED, NET, "proposal_net.architecture.backbone.pretrained=mine"],
            "proposal_net.architecture.backbone.pretrained",
            "timm has no weights 'mine' of resnet18",
        ),
        (
            [DRAWN, SHIPPED, "proposal_net={dataset='drawn', initial_weights='none.safetensors'}"],
            "proposal_net.initial_weights",
            "there is no file none.safetensors",
        ),
    ],
)
def test_what_is_not_to_be_had_is_missing(overrides, where, text, cached):
    ((found_where, found_text, is_missing),) = findings(*overrides)
    assert (found_where, is_missing) == (where, True)
    assert found_text.startswith(text)


def test_a_model_of_the_hub_is_here_with_its_configuration_and_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    named = "clip={architecture='hf-hub:some/where'}"
    ((where, text, is_missing),) = findings(named)
    assert (where, is_missing) == ("clip.architecture", False)
    assert text.startswith("hf-hub:some/where is not in the cache, will be downloaded")
    place = tmp_path / "models--some--where"
    (place / "snapshots" / "c0ffee").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee")
    (place / "snapshots" / "c0ffee" / "open_clip_config.json").write_text("{}")
    assert len(findings(named)) == 1
    (place / "snapshots" / "c0ffee" / "open_clip_model.safetensors").write_bytes(b"")
    assert findings(named) == []


def test_a_folder_holds_its_weights(tmp_path):
    named = f"clip={{architecture='local-dir:{tmp_path}'}}"
    ((where, text, is_missing),) = findings(named)
    assert (where, is_missing) == ("clip.architecture", True)
    assert "holds no weights" in text
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert findings(named) == []
    ((where, text, is_missing),) = findings(f"clip={{architecture='local-dir:{tmp_path}', pretrained='webli'}}")
    assert (where, is_missing) == ("clip.pretrained", True)
    assert "is a tag" in text


def test_a_tokenizer_that_cannot_be_read_is_missing(cached, monkeypatch):
    named = "clip={architecture='ViT-B-16-SigLIP2', pretrained='random'}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ((where, text, is_missing),) = findings(named)
    assert (where, is_missing) == ("clip.architecture", True)
    assert "'timm/ViT-B-16-SigLIP2', for which the package transformers is not installed" in text
    assert "pip install ovseg-pipeline[hf]" in text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    ((where, text, is_missing),) = findings(named)
    assert (where, is_missing) == ("clip.architecture", False)
    assert text.startswith("the tokenizer 'timm/ViT-B-16-SigLIP2' of ViT-B-16-SigLIP2 is not in the cache")
    cached.add(("timm/ViT-B-16-SigLIP2", "tokenizer.json"))
    assert findings(named) == []


def test_the_proposal_nets_own_clip_is_looked_for_too(cached):
    ((where, text, _),) = findings(SHIPPED, "proposal_net.clip={architecture='ViT-B-32', pretrained='openai'}")
    assert where == "proposal_net.clip.pretrained"
    assert text.startswith("'openai' of ViT-B-32 is not in the cache")


def test_a_text_tower_whose_sizes_are_not_here_is_reported(cached, monkeypatch):
    named = "clip={architecture='roberta-ViT-B-32', pretrained='random'}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    cached.add(("roberta-base", "tokenizer.json"))
    ((where, text, is_missing),) = findings(named)
    assert (where, is_missing) == ("clip.architecture", False)
    assert text.startswith("the text tower 'roberta-base' of roberta-ViT-B-32 is not in the cache")
