"""The adapted CLIP as an artifact: what goes in comes out, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch

from ovseg_models.weights_digest import weights_digest
from pipeline.adapted_clip_loading import (
    load_adapted_clip,
    new_mask_adapted_clip,
    stock_mask_adapted_clip,
    write_adapted_clip,
)
from pipeline.clip_loading import LoadedClip, load_clip
from pipeline.errors import PipelineError
from pipeline.finetune.finetune import units_of_phases
from pipeline.settings import ClipSettings
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, PROPOSAL_NET, read_weights, write_weights
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity
from tests.tiny_clip import tiny_loaded_clip


def artifact_of(runs: Path, phases: tuple[str, ...], kind: str = ADAPTED_CLIP) -> Artifact:
    identity = Identity(kind=kind, name="tiny", schema_version=1, recipe=1, settings={"mode": "-then-".join(phases)})
    return Artifact.planned(runs, Description(identity=identity, units=units_of_phases(phases)))


def written(runs: Path, base: LoadedClip, phases: tuple[str, ...], depth: int) -> Artifact:
    """Write a model whose image tower, prompts and logit scale all differ from the base's."""
    adapted = new_mask_adapted_clip(base, prompt_depth=depth, prompt_seed=3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.startswith("clip.visual.") and phases != ("mpt",):
                parameter.add_(0.5)
        adapted.logit_scale.fill_(1.25)
    artifact = artifact_of(runs, phases)
    with artifact.writing():
        write_adapted_clip(artifact, adapted, base, {"mode": "-then-".join(phases)})
    return artifact


@pytest.mark.parametrize(
    ("phases", "units"),
    [
        (("ft",), ("image_tower",)),
        (("mpt",), ("mask_prompts",)),
        (("ft", "mpt"), ("image_tower", "mask_prompts")),
        (("ft+mpt",), ("image_tower", "mask_prompts")),
    ],
)
def test_each_part_that_was_trained_is_a_unit(phases: tuple[str, ...], units: tuple[str, ...]) -> None:
    assert units_of_phases(phases) == units


@pytest.mark.parametrize(("phases", "depth"), [(("ft",), 0), (("mpt",), 3), (("ft", "mpt"), 2)])
def test_what_was_written_is_read_and_the_base_stays(tmp_path: Path, phases: tuple[str, ...], depth: int) -> None:
    base = tiny_loaded_clip()
    artifact = written(tmp_path, base, phases, depth)
    adapted = load_adapted_clip(Artifact.open(artifact.directory), base)
    assert weights_digest(base.clip.state_dict()) == base.digest
    assert not adapted.training
    assert adapted.prompt_depth == depth
    assert adapted.logit_scale.item() == 1.25
    for unit in artifact.description.units:
        stored = read_weights(artifact, unit)
        assert stored.keys() <= adapted.state_dict().keys()
        for name, array in stored.items():
            assert torch.equal(adapted.state_dict()[name], torch.from_numpy(array)), name
    assert "clip.logit_scale" in read_weights(artifact, artifact.description.units[0])
    stored_names = {name for unit in artifact.description.units for name in read_weights(artifact, unit)}
    for name, tensor in adapted.clip.state_dict().items():
        if f"clip.{name}" not in stored_names:
            assert torch.equal(tensor, base.clip.state_dict()[name]), name


@pytest.mark.parametrize("blank_patches", ["kept", "dropped"])
def test_how_it_was_trained_comes_back_and_old_artifacts_keep_their_bytes(tmp_path: Path, blank_patches: str) -> None:
    base = tiny_loaded_clip()
    adapted = new_mask_adapted_clip(base, prompt_depth=2, prompt_seed=3, blank_patches=blank_patches)
    artifact = artifact_of(tmp_path, ("ft", "mpt"))
    with artifact.writing():
        write_adapted_clip(artifact, adapted, base, {})
    found = load_adapted_clip(Artifact.open(artifact.directory), base)
    assert found.blank_patches == found.arguments.get("blank_patches", "kept") == blank_patches
    recorded = [unit.facts.get("blank_patches") for unit in artifact.manifest().units]
    assert recorded == ([None, None] if blank_patches == "kept" else ["dropped", "dropped"])


def test_mask_prompts_are_a_small_file_of_their_own(tmp_path: Path) -> None:
    base = tiny_loaded_clip()
    artifact = written(tmp_path, base, ("ft", "mpt"), 3)
    assert read_weights(artifact, "mask_prompts").keys() == {"mask_prompts"}
    tower = read_weights(artifact, "image_tower")
    assert {name for name in tower if not name.startswith("clip.visual.")} == {"clip.logit_scale"}


def test_the_baseline_is_stock_clip_without_prompts() -> None:
    base = load_clip(ClipSettings(architecture="drawn-world-small", pretrained="shipped"))
    stock = stock_mask_adapted_clip(base)
    crops = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    patches = torch.zeros(2, 64, dtype=torch.bool)
    with torch.no_grad():
        # the last layer is computed for the class token alone
        expected = base.clip.encode_image(crops, normalize=True)
        torch.testing.assert_close(stock.encode_image(crops, patches), expected, rtol=0, atol=1e-6)
    assert stock.prompt_depth == 0
    assert stock.arguments["model"]["embed_dim"] == 96


def test_another_base_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path, tiny_loaded_clip(), ("ft",), 0)
    with pytest.raises(PipelineError, match=r"was trained from CLIP \w{12}, the settings' CLIP is \w{12}; set 'clip'"):
        load_adapted_clip(artifact, tiny_loaded_clip(seed=1))


def test_other_artifacts_and_unfinished_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is an artifact of proposal_net, one of adapted_clip is expected"):
        load_adapted_clip(artifact_of(tmp_path, ("ft",), PROPOSAL_NET), tiny_loaded_clip())
    with pytest.raises(ArtifactError, match=r"manifest.json: is not there; run the stage"):
        load_adapted_clip(artifact_of(tmp_path, ("ft",)), tiny_loaded_clip())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    base = tiny_loaded_clip()
    artifact = artifact_of(tmp_path, ("mpt",))
    with artifact.writing():
        facts = {"base_digest": base.digest, "prompt_depth": 3}
        arrays = {"mask_prompts": torch.zeros(2, 16, 16).numpy()}
        sidecar = write_weights(artifact, "mask_prompts", arrays, facts)
        artifact.finish(artifact.manifest_of({"mask_prompts": sidecar}))
    with pytest.raises(PipelineError, match=r"missing \(clip.logit_scale\); 1 misshapen \(mask_prompts \(2, 16, 16\)"):
        load_adapted_clip(artifact, base)


def test_a_tower_with_fewer_layers_than_prompts_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"finetune: .* prompt_depth is 9, 0 to 4"):
        new_mask_adapted_clip(tiny_loaded_clip(), prompt_depth=9)
