"""All four stages with a CLIP of another family than OpenAI's, and with a proposal net of another CLIP."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flows.state_table import dry_run_text
from ovseg_models.one_pass import OnePass
from ovseg_models.segmenter import Segmenter
from pipeline.bundle import bundle, export_open_clip
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.dry_run.dry_run import dry_run
from pipeline.errors import PipelineError
from pipeline.mine.regions import net_picture
from pipeline.settings import ClipSettings, Settings, SettingsError, load_settings
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import run
from pipeline.trained_nets import load_adapted_clip
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import read_weights
from storage_schemas.embeddings import read_embeddings
from storage_schemas.rle import decode_masks
from tests.pipeline.planned import artifact_of, node_of
from tests.tiny_clips import DRAWN_WORLD_TOKENIZER, FAMILIES

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
CONFIG = """
name = "tiny"
[net_input]
short_side_px = 64
max_side_px = 96
[datasets.train]
dataset = "drawn-world"
split = "train"
drawn_world = { scenes = 8, size_px = 64 }
scenes_per_shard = 4
[datasets.test]
dataset = "drawn-world"
split = "test"
drawn_world = { scenes = 3, size_px = 64 }
[proposal_net]
dataset = "train"
[proposal_net.architecture]
queries = 6
decoder_layers = 1
hidden_dim = 16
mask_dim = 8
norm_groups = 4
heads = 2
feedforward_dim = 16
embedding_hidden_dim = 16
dropout = 0.0
backbone = { name = "resnet10t", timm_arguments = { channels = [8, 8, 8, 8], stem_width = 8 } }
[proposal_net.training]
steps = 2
batch_images = 2
warmup_steps = 1
augmentation = { short_sides_px = [64], max_side_px = 96, crop_px = 64 }
[mine]
dataset = "train"
[finetune]
ft = { epochs = 1, batch_pairs = 4, warmup_steps = 1, learning_rate = 1e-3 }
mpt = { epochs = 1, batch_pairs = 4, warmup_steps = 1 }
checkpoints = { every_steps = 2 }
validation_dataset = "test"
[evaluate]
datasets = [{ dataset = "test" }]
bootstrap_rounds = 10
[compute]
device = "cpu"
loader_workers = 0
"""


def model_file(directory: Path, family: str, preprocessing: dict[str, Any]) -> str:
    """Write a family's configuration as open_clip does, with the words of the drawn world."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{family}.json"
    content = {"model_cfg": FAMILIES[family], "preprocess_cfg": preprocessing}
    path.write_text(json.dumps({**content, "words": list(DRAWN_WORLD_TOKENIZER.words)}))
    return str(path)


def settings_of(directory: Path, *overrides: str, family: str = "SigLIP2") -> Settings:
    """Return settings of all stages with a family's CLIP of random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tiny.toml").write_text(CONFIG)
    clip = f"clip={{architecture='{model_file(directory, family, HALF)}', pretrained='random'}}"
    return load_settings(directory / "tiny.toml", [f"runs_dir={directory}/runs", clip, *overrides])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all stages with a SigLIP2-shaped CLIP; return the directory."""
    directory = tmp_path_factory.mktemp("world")
    for stage in STAGE_NAMES:
        run(stage, settings_of(directory))
    return directory


def kinds_to_make(settings: Settings) -> list[str]:
    """Return the kinds that are not finished."""
    return [node.step.kind for node in dataflow(settings).nodes if not node.is_complete()]


def test_all_stages_run_with_a_sigmoid_model(world: Path, tmp_path: Path) -> None:
    settings = settings_of(world)
    assert kinds_to_make(settings) == []
    base = load_clip(settings.clip)
    assert (base.preprocessing.mean_rgb, base.temperature) == ((0.5,) * 3, "model")
    artifact = artifact_of(settings, "adapted_clip")
    adapted = load_adapted_clip(artifact, base)
    assert adapted.is_sigmoid
    assert adapted.prompt_depth == 3
    assert adapted.crop.preprocessing == base.preprocessing
    assert {"clip.logit_scale", "clip.logit_bias"} <= read_weights(artifact, "image_tower").keys()
    assert adapted.logit_bias.item() != base.clip.logit_bias.item()
    card = (artifact.directory / "report.md").read_text()
    assert "| logit bias | 1 | -10.0000 | -9.9" in card
    bundle(settings, tmp_path / "segmenter")
    segmenter = Segmenter.load(tmp_path / "segmenter")
    assert segmenter.same_space
    assert segmenter.clip.crop == adapted.crop
    picture = Image.new("RGB", (96, 64), (90, 140, 30))
    assert segmenter.segment(picture, ["boat", "field"]).label_map.shape == (64, 96)


def test_the_namer_is_exchanged_and_no_proposal_is_made_again(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = settings_of(world)
    of_net = f"proposal_net.clip={{architecture='{first.clip.architecture}', pretrained='random'}}"
    assert not settings_of(world, of_net).clip_names_alone
    assert kinds_to_make(settings_of(world, of_net)) == []  # said or not, it is the same CLIP
    trains = settings_of(world, "finetune.mode='ft'", family="ConvNeXt")
    (finding,) = (each for each in dry_run(trains, STAGE_NAMES).findings if each.where == "proposal_net.clip")
    assert str(artifact_of(first, "proposal_net").directory) in finding.text
    assert not finding.is_missing
    other = settings_of(world, of_net, "finetune.mode='ft'", family="ConvNeXt")  # of 12 dimensions, not 16
    assert other.clip_names_alone
    to_make = ["embeddings", "pairs", "adapted_clip", "scores", "reports"]
    assert kinds_to_make(other) == to_make
    before = artifact_of(first, "proposals").manifest().digest()
    for stage in STAGE_NAMES:
        run(stage, other)
    assert artifact_of(other, "proposals").manifest().digest() == before
    assert kinds_to_make(other) == []
    assert "alone names them, with ensemble weight 1 in place of 0.7" in caplog.text
    (variant,) = artifact_of(other, "scores").identity.settings["variants"]
    assert variant["ensemble_weight"] == 1.0
    bundle(other, tmp_path / "segmenter")
    segmenter = Segmenter.load(tmp_path / "segmenter")
    assert not segmenter.same_space
    assert segmenter.settings.ensemble_weight == 1
    segmenter.segment(Image.new("RGB", (96, 64), (90, 140, 30)), ["boat", "field"])
    run("evaluate", other, ablate=True)
    names = {each["name"] for each in node_of(other, "scores", ablate=True).artifact.identity.settings["variants"]}
    assert "proposal-net-only" not in names
    assert {"clip-only", "oracle-labels"} <= names


def test_masks_are_named_in_one_pass_and_no_proposal_is_made_again(world: Path, tmp_path: Path) -> None:
    crops = settings_of(world)
    evaluated = settings_of(world, "evaluate.namer='one-pass'")
    assert kinds_to_make(evaluated) == ["scores", "reports"]
    sizes = ["one_pass.side_px=64", "one_pass.stride_px=32"]
    one_pass = settings_of(world, "mine.embed.namer='one-pass'", "evaluate.namer='one-pass'", *sizes)
    assert kinds_to_make(one_pass) == ["embeddings", "pairs", "adapted_clip", "scores", "reports"]
    assert kinds_to_make(settings_of(world, *sizes)) == ["reports"]  # of no matter to crops; reports show all settings
    for stage in STAGE_NAMES:
        run(stage, one_pass)
    assert kinds_to_make(one_pass) == []
    assert artifact_of(one_pass, "proposals") == artifact_of(crops, "proposals")
    (variant,) = artifact_of(one_pass, "scores").identity.settings["variants"]
    assert (variant["view"]["namer"], variant["view"]["picture_side_px"]) == ("one-pass", 64)
    (before,) = artifact_of(crops, "scores").identity.settings["variants"]
    assert "namer" not in before["view"]

    # Embeddings equal the masks' of the picture seen by hand.
    unit = artifact_of(one_pass, "embeddings").description.units[0]
    namer = OnePass(load_clip(one_pass.clip).mask_adapted(), side_px=64, stride_px=32)
    source = node_of(one_pass, "embeddings").step.job(node_of(one_pass, "embeddings")).regions
    for stored, (scene, regions) in zip(
        read_embeddings(artifact_of(one_pass, "embeddings"), unit), source.read(unit), strict=True
    ):
        picture = torch.from_numpy(np.array(net_picture(scene, source.size))).permute(2, 0, 1)
        masks = torch.from_numpy(decode_masks(regions.mask_counts, regions.height_px, regions.width_px))
        with torch.no_grad():
            expected = namer.embed(namer.features(namer.resized(picture)[None]), namer.filled(masks)[None])[0]
        valid = np.array([status == "ok" for status in stored.statuses])
        np.testing.assert_allclose(stored.embeddings[valid], expected.numpy()[valid], atol=1e-3)

    bundle(one_pass, tmp_path / "segmenter")
    segmenter = Segmenter.load(tmp_path / "segmenter")
    assert (segmenter.settings.namer, segmenter.namer.side_px) == ("one-pass", 64)
    segmenter.segment(Image.new("RGB", (96, 64), (90, 140, 30)), ["boat", "field"])


def test_ablations_of_one_pass_hold_crops_beside_it(world: Path) -> None:
    settings = settings_of(world, "evaluate.namer='one-pass'", "evaluate.sweep.validation_dataset='train'")
    run("evaluate", settings, ablate=True)
    node = node_of(settings, "scores", ablate=True)
    views = {each["name"]: each["view"] for each in node.artifact.identity.settings["variants"]}
    assert views["ensemble"]["namer"] == views["true-masks-original"]["namer"] == "one-pass"
    assert "namer" not in views["crops"]
    assert not {"no-mask-prompts", "unmasked-crops", "true-boxes-original"} & views.keys()
    assert node_of(settings, "weight_choices", ablate=True).is_complete()  # of pairs that one pass named


def test_a_clip_without_tokens_is_refused_before_any_work(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "namer='one-pass'", "finetune.mode='ft'", family="ConvNeXt")
    found = r"has no patch tokens, a vision transformer is expected; name crops instead"
    findings = [each for each in dry_run(settings, STAGE_NAMES).findings if each.where.endswith(".namer")]
    assert findings
    assert findings[0].is_missing
    assert "has no patch tokens" in findings[0].text
    with pytest.raises(PipelineError, match=rf"^mine\.embed\.namer: .*{found}"):
        run("prepare", settings)
    assert not (tmp_path / "runs" / "scenes").exists()
    odd = settings_of(tmp_path / "odd", "evaluate.namer='one-pass'", "evaluate.picture_side_px=50")
    with pytest.raises(PipelineError, match=r"^evaluate\.namer: .* 50 px, a multiple of its patches' 8 px"):
        run("prepare", odd)


def test_a_dry_run_shows_what_one_pass_costs_beside_crops(tmp_path: Path) -> None:
    assert dry_run(settings_of(tmp_path), STAGE_NAMES).passes == ()
    found = dry_run(settings_of(tmp_path, "namer='one-pass'", "evaluate.picture_side_px=64"), STAGE_NAMES)
    assert [(each.side_px, each.masks) for each in found.passes] == [(32, 6), (64, 6)]
    small, large = found.passes
    assert found.crop is not None
    assert found.crop.operations < small.operations < 6 * found.crop.operations
    assert 3.5 * small.operations < large.operations
    assert small.bytes < large.bytes
    text = dry_run_text(found)
    assert "one pass of a picture of 32 px with 6 masks takes" in text


def test_no_weight_is_chosen_where_there_is_one_branch(tmp_path: Path) -> None:
    of_net = "proposal_net.clip={architecture='ViT-B-32', pretrained='random'}"
    with pytest.raises(
        SettingsError, match=r"sweep\.validation_dataset should be empty where proposal_net\.clip differs"
    ):
        settings_of(tmp_path, of_net, "evaluate.sweep={validation_dataset='test'}")


def test_pixels_and_configuration_of_another_form_are_part_of_the_digest(tmp_path: Path) -> None:
    def digest(preprocessing: dict[str, Any], family: str = "SigLIP2") -> str:
        architecture = model_file(tmp_path, family, preprocessing)
        return load_clip(ClipSettings(architecture=architecture, pretrained="random")).digest

    assert digest(HALF) == digest(HALF) != digest({**HALF, "std": [0.25] * 3})
    assert digest({}) != digest({**HALF, "interpolation": "bilinear"}) != digest(HALF)
    assert digest({}, "OpenAI") != digest(HALF, "OpenAI")


def test_a_model_with_its_own_weights_takes_none_of_a_tag(tmp_path: Path) -> None:
    named = {"architecture": f"local-dir:{tmp_path}/absent"}
    with pytest.raises(
        PipelineError, match=r"clip\.pretrained: 'webli' is a tag, and local-dir:.* holds its own weights"
    ):
        load_clip(ClipSettings(**named, pretrained="webli"))
    with pytest.raises(PipelineError, match=r"absent/open_clip_config\.json is not there"):
        load_clip(ClipSettings(**named))


def test_an_exported_clip_is_loaded_by_open_clip_and_says_its_pixels(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import open_clip

    export_open_clip(settings_of(world), tmp_path / "tiny_adapted.safetensors")
    config = tmp_path / "tiny_adapted.json"
    assert "mean [0.5, 0.5, 0.5]" in caplog.text
    open_clip.add_model_config(config)
    theirs = open_clip.create_model("tiny_adapted", pretrained=str(tmp_path / "tiny_adapted.safetensors")).eval()
    ours = load_adapted_clip(
        Artifact.open(artifact_of(settings_of(world), "adapted_clip").directory), load_clip(settings_of(world).clip)
    )
    crops = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encode_image(crops, use_prompts=False), theirs.encode_image(crops, normalize=True), atol=1e-5, rtol=0
        )
