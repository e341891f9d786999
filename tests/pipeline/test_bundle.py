"""What users take away: a segmenter's folder, and a file that open_clip itself loads."""

import logging
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch

from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter import Segmenter
from pipeline.bundle import bundle, export_open_clip
from pipeline.clip_loading import load_clip
from pipeline.errors import PipelineError
from pipeline.graph import MissingInputError
from pipeline.settings import Settings
from pipeline.stages import run
from pipeline.train_proposals.train_proposals import TrainProposals
from pipeline.trained_nets import load_adapted_clip, write_proposal_net
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import PROPOSAL_NET, WEIGHTS
from storage_schemas.manifest import Description, Identity
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.planned import artifact_of
from tests.tiny_segmenter import PROPOSAL_NET as NET_SIZES
from tests.tiny_segmenter import picture


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings whose stage 3 is done."""
    runs = tmp_path_factory.mktemp("runs")
    settings = small_settings(runs, made_pairs(runs, scenes=4).directory)
    run("finetune", settings)
    return settings


@pytest.fixture
def trained_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifact]:
    """Put a finished proposal net where stage 1 would."""
    identity = Identity(kind=PROPOSAL_NET, name="tiny", schema_version=1, producer_version=1, settings={})
    artifact = Artifact.planned(tmp_path / "nets", Description(identity=identity, units=(WEIGHTS,)))
    with artifact.writing():
        sidecar = write_proposal_net(artifact, build_proposal_net(**NET_SIZES), {})
        artifact.finish(artifact.manifest_of({WEIGHTS: sidecar}))
    monkeypatch.setattr(TrainProposals, "artifact", lambda *_: artifact)
    return artifact


def crops_with_masks(side: int = 16, patches: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, side, side, generator=generator), torch.rand(3, patches, generator=generator) < 0.5


@pytest.mark.usefixtures("trained_net")
def test_the_bundle_is_a_segmenter_with_the_adapted_clip(settings: Settings, tmp_path: Path) -> None:
    bundle(settings, tmp_path / "model", ensemble_weight=0.6)
    segmenter = Segmenter.load(tmp_path / "model", short_side_px=48)
    adapted = load_adapted_clip(artifact_of(settings, "adapted_clip"), load_clip(settings.clip))
    crops, masks = crops_with_masks()
    with torch.no_grad():
        assert torch.equal(segmenter.clip.encode_image(crops, masks), adapted.encode_image(crops, masks))
    assert segmenter.settings.ensemble_weight == 0.6
    assert segmenter.segment(picture(48, 64), ["boat", "tree"]).label_map.shape == (48, 64)


@pytest.mark.usefixtures("trained_net")
def test_a_clip_trained_without_blank_patches_drops_them_in_the_bundle_too(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finetuning = settings.finetune.model_copy(update={"blank_patches": "dropped", "prompt_depth": 1})
    dropping = settings.model_copy(update={"finetune": finetuning})
    run("finetune", dropping)
    bundle(dropping, tmp_path / "model")
    clip = Segmenter.load(tmp_path / "model").clip
    assert clip.blank_patches == "dropped"
    crops, masks = crops_with_masks()
    adapted = load_adapted_clip(artifact_of(dropping, "adapted_clip"), load_clip(settings.clip))
    with torch.no_grad():
        assert torch.equal(clip.encode_image(crops, masks), adapted.encode_image(crops, masks))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    export_open_clip(dropping, tmp_path / "adapted.safetensors")
    assert "was trained without the tokens of patches outside the mask" in caplog.text


@pytest.mark.usefixtures("trained_net")
def test_the_baseline_is_a_segmenter_with_the_original_clip(settings: Settings, tmp_path: Path) -> None:
    bundle(settings, tmp_path / "model", original_clip=True)
    segmenter = Segmenter.load(tmp_path / "model")
    crops, masks = crops_with_masks()
    with torch.no_grad():
        expected = load_clip(settings.clip).clip.encode_image(crops, normalize=True)
        torch.testing.assert_close(segmenter.clip.encode_image(crops, masks), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("trained_net")
def test_a_folder_that_is_there_stays(settings: Settings, tmp_path: Path) -> None:
    bundle(settings, tmp_path / "model")
    with pytest.raises(PipelineError, match=r"bundle: .*model: is there already, a new folder is expected"):
        bundle(settings, tmp_path / "model")


@pytest.mark.usefixtures("trained_net")
def test_a_bundle_of_a_run_without_stage_3_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"name": "other"})
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg finetune' first"):
        bundle(other, tmp_path / "model")


def test_open_clip_loads_the_exported_file_and_computes_the_same(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "exported" / "adapted.safetensors"
    export_open_clip(settings, file)
    open_clip.add_model_config(file.with_suffix(".json"))
    clip = open_clip.create_model("adapted", pretrained=str(file)).eval()
    base = load_clip(settings.clip)
    adapted = load_adapted_clip(artifact_of(settings, "adapted_clip"), base)
    crops, _ = crops_with_masks()
    tokens = base.tokenize(["a boat", "a photo of a tree"])
    with torch.no_grad():
        expected = clip.encode_image(crops, normalize=True)
        torch.testing.assert_close(adapted.encode_image(crops), expected, rtol=0, atol=1e-6)
        assert torch.equal(clip.encode_text(tokens, normalize=True), adapted.encode_text(tokens))
        assert torch.equal(clip.logit_scale, adapted.logit_scale)
        assert not torch.equal(clip.encode_image(crops), base.clip.encode_image(crops))


def test_the_folder_of_a_run_is_loaded_by_open_clip(settings: Settings, tmp_path: Path) -> None:
    lines = export_open_clip(settings, tmp_path / "clip")
    assert lines == f"open_clip.create_model_and_transforms('local-dir:{tmp_path}/clip')\n"
    clip, *_ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/clip")
    adapted = load_adapted_clip(artifact_of(settings, "adapted_clip"), load_clip(settings.clip))
    crops, _ = crops_with_masks()
    with torch.no_grad():
        expected = clip.eval().encode_image(crops, normalize=True)
        torch.testing.assert_close(adapted.encode_image(crops), expected, rtol=0, atol=1e-6)


def test_an_export_that_cannot_be_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"export-clip: .*clip.pth does not end in .safetensors; choose"):
        export_open_clip(settings, tmp_path / "clip.pth")
    (tmp_path / "clip.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"export-clip: .*clip.json is there already; choose another name"):
        export_open_clip(settings, tmp_path / "clip.safetensors")


def test_prompts_alone_make_no_plain_clip(settings: Settings, tmp_path: Path) -> None:
    prompts = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"mode": "mpt"})})
    run("finetune", prompts)
    with pytest.raises(PipelineError, match="holds mask prompts alone, without them it is the original CLIP"):
        export_open_clip(prompts, tmp_path / "clip.safetensors")
