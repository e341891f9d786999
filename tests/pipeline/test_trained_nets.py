"""Trained nets as artifacts: what goes in comes out, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch

from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.weights import weights_digest
from pipeline.clip_loading import LoadedClip, load_clip
from pipeline.errors import PipelineError
from pipeline.finetune.finetune import units_of_phases
from pipeline.settings import ClipSettings
from pipeline.trained_nets import (
    load_adapted_clip,
    load_proposal_net,
    new_mask_adapted_clip,
    stock_mask_adapted_clip,
    write_adapted_clip,
    write_proposal_net,
)
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, PROPOSAL_NET, SCHEMA_VERSION, WEIGHTS, read_weights, write_weights
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity
from tests.tiny_clip import tiny_loaded_clip
from tests.tiny_segmenter import PROPOSAL_NET as TINY


def net_artifact(runs: Path, kind: str = PROPOSAL_NET) -> Artifact:
    identity = Identity(kind=kind, name="tiny", schema_version=SCHEMA_VERSION, producer_version=1, settings={})
    return Artifact.planned(runs, Description(identity=identity, units=(WEIGHTS,)))


def written_net(runs: Path, **changed_facts: object) -> tuple[Artifact, torch.nn.Module]:
    net, artifact = build_proposal_net(**TINY), net_artifact(runs)
    net.arguments |= changed_facts
    with artifact.writing():
        artifact.finish(artifact.manifest_of({WEIGHTS: write_proposal_net(artifact, net, {"steps": 3})}))
    return artifact, net


def test_a_net_comes_back_with_equal_outputs_and_facts(tmp_path: Path) -> None:
    artifact, net = written_net(tmp_path)
    loaded = load_proposal_net(artifact)
    assert not loaded.training
    assert loaded.arguments == net.arguments
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).mask_logits, net.eval()(images).mask_logits, rtol=0, atol=0)
    (unit,) = artifact.manifest().units
    assert unit.facts["steps"] == 3


def test_another_artifact_or_an_unfinished_one_is_no_proposal_net(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is an artifact of pairs, expected proposal_net; give"):
        load_proposal_net(net_artifact(tmp_path, "pairs"))
    with pytest.raises(ArtifactError, match="is not there; run the stage that makes it"):
        load_proposal_net(net_artifact(tmp_path))


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    artifact, _ = written_net(tmp_path, queries=5)
    with pytest.raises(PipelineError, match=r"do not fit this version's net .*size mismatch.*train it again"):
        load_proposal_net(artifact)


def test_a_net_that_cannot_be_built_again_is_not_written_net(tmp_path: Path) -> None:
    net, artifact = build_proposal_net(**TINY), net_artifact(tmp_path)
    net.arguments = {}
    with artifact.writing(), pytest.raises(ValueError, match="use build_proposal_net"):
        write_proposal_net(artifact, net, {})


def clip_artifact(runs: Path, phases: tuple[str, ...], kind: str = ADAPTED_CLIP) -> Artifact:
    identity = Identity(
        kind=kind, name="tiny", schema_version=1, producer_version=1, settings={"mode": "-then-".join(phases)}
    )
    return Artifact.planned(runs, Description(identity=identity, units=units_of_phases(phases)))


def written_clip(runs: Path, base: LoadedClip, phases: tuple[str, ...], depth: int) -> Artifact:
    """Write a model whose image tower, prompts and logit scale all differ from the base's."""
    adapted = new_mask_adapted_clip(base, prompt_depth=depth, prompt_seed=3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.startswith("clip.visual.") and phases != ("mpt",):
                parameter.add_(0.5)
        adapted.logit_scale.fill_(1.25)
    artifact = clip_artifact(runs, phases)
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
    artifact = written_clip(tmp_path, base, phases, depth)
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
    artifact = clip_artifact(tmp_path, ("ft", "mpt"))
    with artifact.writing():
        write_adapted_clip(artifact, adapted, base, {})
    found = load_adapted_clip(Artifact.open(artifact.directory), base)
    assert found.blank_patches == found.arguments.get("blank_patches", "kept") == blank_patches
    recorded = [unit.facts.get("blank_patches") for unit in artifact.manifest().units]
    assert recorded == ([None, None] if blank_patches == "kept" else ["dropped", "dropped"])


def test_mask_prompts_are_a_small_file_of_their_own(tmp_path: Path) -> None:
    base = tiny_loaded_clip()
    artifact = written_clip(tmp_path, base, ("ft", "mpt"), 3)
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
    artifact = written_clip(tmp_path, tiny_loaded_clip(), ("ft",), 0)
    with pytest.raises(PipelineError, match=r"was trained from CLIP \w{12}, the settings' CLIP is \w{12}; set 'clip'"):
        load_adapted_clip(artifact, tiny_loaded_clip(seed=1))


def test_another_artifact_or_an_unfinished_one_is_no_adapted_clip(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is an artifact of proposal_net, expected adapted_clip"):
        load_adapted_clip(clip_artifact(tmp_path, ("ft",), PROPOSAL_NET), tiny_loaded_clip())
    with pytest.raises(ArtifactError, match=r"manifest.json: is not there; run the stage"):
        load_adapted_clip(clip_artifact(tmp_path, ("ft",)), tiny_loaded_clip())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    base = tiny_loaded_clip()
    artifact = clip_artifact(tmp_path, ("mpt",))
    with artifact.writing():
        facts = {"base_digest": base.digest, "prompt_depth": 3}
        arrays = {"mask_prompts": torch.zeros(2, 16, 16).numpy()}
        sidecar = write_weights(artifact, "mask_prompts", arrays, facts)
        artifact.finish(artifact.manifest_of({"mask_prompts": sidecar}))
    with pytest.raises(PipelineError, match=r"missing \(clip.logit_scale\); 1 misshapen \(mask_prompts \(2, 16, 16\)"):
        load_adapted_clip(artifact, base)


def test_a_tower_with_fewer_layers_than_prompts_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"finetune: .* prompt_depth is 9.* 0 to 4"):
        new_mask_adapted_clip(tiny_loaded_clip(), prompt_depth=9)
