"""Proposal nets are read back as they were written."""

from pathlib import Path

import pytest
import torch

from ovseg_models.proposal_presets import build_proposal_net
from pipeline.errors import PipelineError
from pipeline.proposal_net_loading import load_proposal_net, write_proposal_net
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import PROPOSAL_NET, SCHEMA_VERSION, WEIGHTS
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity
from tests.tiny_segmenter import PROPOSAL_NET as TINY


def artifact_of(runs: Path, kind: str = PROPOSAL_NET) -> Artifact:
    identity = Identity(kind=kind, name="tiny", schema_version=SCHEMA_VERSION, recipe=1, settings={})
    return Artifact.planned(runs, Description(identity=identity, units=(WEIGHTS,)))


def written(runs: Path, **changed_facts: object) -> tuple[Artifact, torch.nn.Module]:
    net, artifact = build_proposal_net(**TINY), artifact_of(runs)
    net.arguments |= changed_facts
    with artifact.writing():
        artifact.finish(artifact.manifest_of({WEIGHTS: write_proposal_net(artifact, net, {"steps": 3})}))
    return artifact, net


def test_a_net_comes_back_with_equal_outputs_and_facts(tmp_path: Path) -> None:
    artifact, net = written(tmp_path)
    loaded = load_proposal_net(artifact)
    assert not loaded.training
    assert loaded.arguments == net.arguments
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).mask_logits, net.eval()(images).mask_logits, rtol=0, atol=0)
    (unit,) = artifact.manifest().units
    assert unit.facts["steps"] == 3


def test_an_artifact_of_another_kind_or_unfinished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is an artifact of pairs, one of proposal_net is expected; give"):
        load_proposal_net(artifact_of(tmp_path, "pairs"))
    with pytest.raises(ArtifactError, match="is not there; run the stage that makes it"):
        load_proposal_net(artifact_of(tmp_path))


def test_weights_of_another_form_are_refused(tmp_path: Path) -> None:
    artifact, _ = written(tmp_path, queries=5)
    with pytest.raises(PipelineError, match=r"do not fit this version's net .*size mismatch.*train it again"):
        load_proposal_net(artifact)


def test_a_net_that_cannot_be_built_again_is_not_written(tmp_path: Path) -> None:
    net, artifact = build_proposal_net(**TINY), artifact_of(tmp_path)
    net.arguments = {}
    with artifact.writing(), pytest.raises(ValueError, match="use build_proposal_net"):
        write_proposal_net(artifact, net, {})
