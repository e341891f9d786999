"""Train the small proposal net that the project ships, and measure proposals on fresh scenes of the drawn world.

``python -m tools.pretrain_small_proposal_net --out DIR`` trains as
``pipeline/drawn_world/small_proposal_net/pretraining.toml`` says, goes on where it was stopped, and writes
half-precision weights with their figures.
``python -m tools.pretrain_small_proposal_net --out DIR --measure ARTIFACT`` measures a net that is there already.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmentation_metrics import region_ious
from pipeline.drawn_world.scene import DrawnScene
from pipeline.drawn_world.small_proposal_net import PRETRAINING, WEIGHTS_FILE
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.words import NOUNS, UNSEEN_NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.settings import load_settings
from pipeline.stages import run
from pipeline.train_proposals.validation import MASK_THRESHOLD
from pipeline.trained_nets import load_proposal_net
from storage_schemas.artifact import Artifact

MORE_STEPS = 2500
NAMING = (
    "proposal_net.training.steps=4000",
    "proposal_net.training.learning_rate=6e-4",
    "proposal_net.training.loss.class_weight=2.0",
    "proposal_net.training.loss.unlabelled_pixels=left_out",
    "proposal_net.architecture.backbone.frozen_batch_norm=true",
)
"""Of the last phase, which learns names, and no longer that unlabelled regions are background."""


def halved(net: ProposalNet) -> dict[str, torch.Tensor]:
    """Return the weights in half precision, batch norms as fixed affine maps, which is how training goes on."""
    return {
        name: tensor.detach().half().contiguous()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def shipped_form(net: ProposalNet, tensors: dict[str, torch.Tensor]) -> ProposalNet:
    """Build the net as it is after loading: from half precision, with fixed batch norms."""
    arguments = dict(net.arguments)
    arguments["backbone_arguments"] = {**arguments["backbone_arguments"], "frozen_batch_norm": True}
    built = build_proposal_net(**arguments)
    built.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return built.eval()


def kind_of(noun: str) -> str:
    """Return which figure a noun counts in."""
    return ("unseen " if noun in UNSEEN_NOUNS else "seen ") + ("stuff" if noun in STUFF_NOUNS else "things")


@torch.no_grad()
def best_ious(net: ProposalNet, scene: DrawnScene) -> list[tuple[str, float]]:
    """Return kind and best IoU of each noun's region in a scene."""
    size = scene.label_map.shape
    output = net(net.preprocess([torch.from_numpy(scene.image).permute(2, 0, 1)]))
    masks = hard_masks(output.mask_logits[0], size, MASK_THRESHOLD)
    labels = np.unique(scene.label_map)
    best = region_ious(torch.from_numpy(scene.label_map == labels[:, None, None]), masks).amax(1)
    return [(kind_of(NOUNS[label]), iou) for label, iou in zip(labels.tolist(), best.tolist(), strict=True)]


def figures(net: ProposalNet, *, split: str, scenes: int) -> dict[str, dict[str, float]]:
    """Measure mean best IoU and recall at 0.5 per region, for the four kinds of nouns."""
    world = DrawnWorld(seed=0)
    found: dict[str, list[float]] = {}
    for index in split_indices(split, scenes):
        for kind, iou in best_ious(net, world.scene(index)):
            found.setdefault(kind, []).append(iou)
    return {
        kind: {
            "regions": len(ious),
            "best_iou": round(float(np.mean(ious)), 3),
            "recall_50": round(float(np.mean(np.array(ious) >= 0.5)), 3),
        }
        for kind, ious in sorted(found.items())
    }


def trained(runs: Path) -> Artifact:
    """Train from random weights in three phases, with the learning rate falling anew each time.

    The first two learn masks above all, with batch norms and a small class weight; the third starts from the half
    precision of these.
    """
    masks = run("train-proposals", load_settings(PRETRAINING, [f"runs_dir={runs}"])).artifact
    start = masks.directory / "weights.safetensors"
    later = [f"proposal_net.initial_weights={start}", f"proposal_net.training.steps={MORE_STEPS}"]
    masks = run("train-proposals", load_settings(PRETRAINING, [f"runs_dir={runs}", *later])).artifact
    start = runs / "masks.safetensors"
    safetensors.torch.save_file(halved(load_proposal_net(masks)), start)
    later = [f"proposal_net.initial_weights={start}", *NAMING]
    return run("train-proposals", load_settings(PRETRAINING, [f"runs_dir={runs}", *later])).artifact


def main() -> None:
    """Train or take a net, measure it, and write it with its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where weights and figures go")
    parser.add_argument("--measure", type=Path, help="artifact of a net that is there already")
    parser.add_argument("--split", default="test", help="whose scenes to measure on")
    parser.add_argument("--scenes", type=int, default=500, help="how many of them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    artifact = Artifact.open(options.measure) if options.measure else trained(options.out / "runs")
    net = load_proposal_net(artifact)
    tensors = halved(net)
    safetensors.torch.save_file(tensors, options.out / WEIGHTS_FILE.name)
    measured = figures(shipped_form(net, tensors), split=options.split, scenes=options.scenes)
    (options.out / "figures.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2), flush=True)


if __name__ == "__main__":
    main()
