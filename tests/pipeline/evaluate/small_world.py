"""A few drawn scenes, a random proposal net whose proposals differ, and the shipped CLIP, as artifacts."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.graph import Node
from pipeline.settings import PrepareSettings, Settings
from pipeline.shard_runner import Execution, Limits
from pipeline.stages import StageRun
from pipeline.trained_nets import write_proposal_net
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import WEIGHTS
from tests.tiny_segmenter import PROPOSAL_NET as TINY_NET
from tests.tiny_segmenter import spread_outputs

SMALL_CLIP = {"architecture": "drawn-world-small", "pretrained": "shipped"}
LENIENT = Execution(limits=Limits(max_failed_share=0.9))
DRAWN = {"dataset": "drawn-world", "split": "test", "drawn_world": {"scenes": 5}, "scenes_per_shard": 2}


def settings_of(
    runs: Path, *, datasets: dict[str, Any] | None = None, ensemble_weight: float = 0.7, **evaluate: Any
) -> Settings:
    """Settings of an evaluation on five drawn scenes in three shards, or on other data sets."""
    datasets = datasets or {"drawn": DRAWN}
    section = {
        "clip": "original",
        "datasets": [{"dataset": name, "ensemble_weight": ensemble_weight} for name in datasets],
        "short_side_px": 64,
        "max_side_px": 128,
        "bootstrap_rounds": 50,
        "batch_crops": 4,
    }
    return Settings.model_validate(
        {
            "name": "tiny",
            "runs_dir": str(runs),
            "datasets": datasets,
            "clip": SMALL_CLIP,
            "proposal_net": {"dataset": next(iter(datasets))},
            "evaluate": section | evaluate,
        }
    )


def small_net(dim: int = 96, seed: int = 0) -> ProposalNet:
    """A random net of nine queries."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_proposal_net(**TINY_NET | {"embedding_dim": dim}).eval()
        spread_outputs(net)
    return net


def write_net(artifact: Artifact, net: ProposalNet) -> Artifact:
    """Write a net as a finished artifact; its report, if the artifact has one, is a line."""
    with artifact.writing():
        sidecars = {WEIGHTS: write_proposal_net(artifact, net, {})}
        for unit in artifact.description.units:
            if unit != WEIGHTS:
                with artifact.write_unit(unit) as writer:
                    writer.file("md").write(b"none")
                    sidecars[unit] = writer.commit(rows=0, counts={})
        artifact.finish(artifact.manifest_of(sidecars))
    return artifact


def scores_of(settings: Settings, *, net: ProposalNet | None = None, ablate: bool = False) -> Node:
    """Prepare the first data set, write a net, and return the scores of an evaluation, not made yet."""
    graph = dataflow(settings, ablate=ablate)
    node = graph.of_kind("scores")[0]
    if not node["scenes"].is_complete():
        node["scenes"].make(LENIENT)
    place = graph.only("proposal_net").artifact
    if not place.status().finished:
        dim = load_clip(settings.clip).clip.text_projection.shape[1]
        write_net(place, net or small_net(dim))
    return node


def scores_on(run: StageRun, name: str) -> Artifact:
    """Return the scores on a data set that a run made or found."""
    reports = run.of_kind("scores")
    (found,) = [one.artifact for one in reports if one.artifact.description.attributes["dataset"] == name]
    return found


def make_folder(root: Path, class_names: list[str], *, images: int = 3, size: tuple[int, int] = (40, 56)) -> None:
    """Write a folder data set of coloured blocks; what a block shows is its colour's class."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (len(class_names), 3))
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in class_names))
    for number in range(images):
        blocks = generator.integers(0, len(class_names), (4, 4))
        labels = blocks.repeat(-(-size[0] // 4), 0).repeat(-(-size[1] // 4), 1)[: size[0], : size[1]]
        noisy = colours[labels] + generator.normal(0, 9, (*size, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "images" / f"im{number}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / "labels" / f"im{number}.png")


def folder_settings(root: Path) -> dict[str, Any]:
    """Settings of such a folder."""
    return PrepareSettings(dataset="folder", root=root).model_dump(mode="json")


def files_of(artifact: Artifact) -> dict[str, bytes]:
    """Read an artifact's own bytes."""
    return {path.name: path.read_bytes() for path in artifact.directory.iterdir() if path.is_file()}
