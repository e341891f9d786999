"""A few drawn scenes with a proposal net of random weights: enough to mine, in a second or two."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.settings import Settings, load_settings
from pipeline.stages import run
from pipeline.trained_nets import write_proposal_net
from storage_schemas.artifact import Artifact
from storage_schemas.pairs import read_index
from tests import forked
from tests.pipeline.planned import artifact_of, prepare_scenes

QUERIES = 5
_SETTINGS = (
    "clip={architecture='drawn-world-small', pretrained='shipped'}",
    "proposal_net.dataset=drawn",
    "mine={dataset='drawn', propose={short_side_px=96, max_side_px=96}}",
)


def mining_settings(runs: Path, *overrides: str, scenes: int = 4, dataset: str = "") -> Settings:
    """Return settings under which scenes of the drawn world are mined, two to a shard."""
    drawn = dataset or f"{{dataset='drawn-world', split='val', drawn_world={{scenes={scenes}}}, scenes_per_shard=2}}"
    return load_settings(None, [f"runs_dir={runs}", f"datasets.drawn={drawn}", *_SETTINGS, *overrides])


def with_net(settings: Settings, net: ProposalNet | None = None) -> Settings:
    """Prepare the scenes, and write a net in place of the one that stage 1 would train; return the settings."""
    prepare_scenes(settings, ["drawn"])
    artifact = artifact_of(settings, "proposal_net")
    with artifact.writing():
        sidecars = {"weights": write_proposal_net(artifact, net or random_net(), {})}
        for unit in artifact.description.units[1:]:
            with artifact.write_unit(unit) as writer:
                sidecars[unit] = writer.commit(rows=0, counts={})
        artifact.finish(artifact.manifest_of(sidecars))
    return settings


def mine_in(runs: Path, overrides: Sequence[str]) -> None:
    """Mine in a process of a test's own, with workers forked as it was; the net is there."""
    with forked.dask_workers():
        run("mine", mining_settings(runs, *overrides))


def random_net(*, queries: int = QUERIES, embedding_dim: int = 96) -> ProposalNet:
    """Build a net whose masks differ from each other and from place to place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_proposal_net("small", queries=queries, embedding_dim=embedding_dim).eval()
        with torch.no_grad():
            net.query_decoder.query_positions.weight.mul_(3)
            noise = net.preprocess([torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8) for _ in range(4)])
            logits = net(noise).mask_logits
            net.pixel_decoder.mask_features.bias.sub_(net.pixel_decoder(net.backbone(noise)).mean(dim=(0, 2, 3)))
            net.mask_head.layers[-1].weight.mul_(4 / logits.std())
    return net


def pair_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """Read all rows of pairs."""
    return [row for unit in artifact.description.units for row in read_index(artifact, unit).to_pylist()]


def files_of(runs: Path) -> dict[str, bytes]:
    """Read the bytes of all artifacts; what is of this machine only lies in ``_local``."""
    return {str(path.relative_to(runs)): path.read_bytes() for path in _files(runs)}


def _files(runs: Path) -> Iterator[Path]:
    for path in sorted(runs.rglob("*")):
        if path.is_file() and "_local" not in path.parts:
            yield path
