"""Count the floating-point operations of the paper's two runs, stage by stage, from their configurations alone.

Prints the table of docs/guides/reproduce.md, as Markdown. Nets are built on torch's meta device: no weights, no
download, no number is computed, so it takes seconds. A multiply-add counts as two operations, as in torch's own
counter.

    python -m tools.count_paper_work
"""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[1] / "flows" / "configs"
RUNS = ("ovseg_r101c_vitb16", "ovseg_swinb_vitl14")
TRAIN_IMAGES = 118_287  # of COCO train2017
VALIDATION_IMAGES = 5000  # of COCO val2017
PAIRS = 442_117  # of the paper, one caption per image
EVALUATED_IMAGES = {  # of the official validation sets
    "ade20k-847": 2000,
    "pascal-context-459": 5105,
    "ade20k-150": 2000,
    "pascal-context-59": 5105,
    "pascal-voc-20": 1449,
}
ASPECT = 4 / 3  # of a typical photograph
BACKWARD = 2  # a backward pass takes about twice the operations of the forward pass
SIZE_DIVISOR_PX = 32


class Work(NamedTuple):
    """What a stage does: how many items, each of how many operations."""

    stage: str
    items: int
    item: str
    operations: float

    @property
    def total(self) -> float:
        """Operations of the whole stage."""
        return self.items * self.operations


def operations(call: Callable[[], object]) -> int:
    """Count the operations of a call on meta tensors."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


def net_and_clip(settings: Settings) -> tuple[ProposalNet, MaskAdaptedClip]:
    """Build both nets of a run on the meta device."""
    with torch.device("meta"):
        clip = build_clip(settings.clip.architecture, quick_gelu=settings.clip.quick_gelu == "on")
        arguments = settings.proposal_net.architecture.arguments()
        net = build_proposal_net(**arguments | {"pretrained": False, "embedding_dim": clip.visual.output_dim})
        return net.eval(), MaskAdaptedClip(clip, prompt_depth=settings.finetune.prompt_depth).eval()


def work_of(settings: Settings) -> list[Work]:
    """Count a run's stages, in their order."""
    net, clip = net_and_clip(settings)
    queries = settings.proposal_net.architecture.queries
    training, crop_px = settings.proposal_net.training, settings.proposal_net.training.augmentation.crop_px
    step_image = operations(lambda: net(_image(crop_px, crop_px)))
    validated = operations(lambda: net(_image(*_net_size(settings.proposal_net.validation_short_side_px))))
    validations = math.ceil(training.steps / settings.proposal_net.validation_every_steps)  # the last step's is one
    image = operations(lambda: net(_image(*_net_size(settings.mine.propose.short_side_px))))
    crop = operations(lambda: clip.encode_image(_image(clip.crop_px, clip.crop_px), None))
    evaluated = sum(EVALUATED_IMAGES[row.dataset] for row in settings.evaluate.datasets)
    pairs = PAIRS * settings.finetune.ft.epochs
    return [
        Work("1 train the proposal net", training.steps * training.batch_images, "image", (1 + BACKWARD) * step_image),
        Work("1 its validation", validations * VALIDATION_IMAGES, "image", validated),
        Work("2 mine: propose", TRAIN_IMAGES, "image", image),
        Work("2 mine: embed", TRAIN_IMAGES * queries, "crop", crop),
        Work("3 FT", pairs, "pair", (1 + BACKWARD) * crop),
        Work("3 MPT", PAIRS * settings.finetune.mpt.epochs, "pair", (1 + BACKWARD / 2) * crop),  # no weight's gradient
        Work("4 evaluate", evaluated, "image", image + queries * crop),
    ]


def table(runs: Sequence[tuple[str, list[Work]]]) -> str:
    """Return the table of both runs as Markdown."""
    lines = [
        "| stage | items | " + " | ".join(f"{name}: GFLOP an item | PFLOP" for name, _ in runs) + " |",
        "|---|---|" + "---|---|" * len(runs),
    ]
    for works in zip(*(works for _, works in runs), strict=True):
        cells = " | ".join(f"{_round(work.operations / 1e9)} | {_round(work.total / 1e15)}" for work in works)
        lines.append(f"| {works[0].stage} | {works[0].items:,} {works[0].item}s | {cells} |")
    totals = (sum(work.total for work in works) for _, works in runs)
    lines.append("| all | | " + " | ".join(f"| {_round(total / 1e15)}" for total in totals) + " |")
    return "\n".join(lines)


def _image(height_px: int, width_px: int) -> torch.Tensor:
    """Return one image without numbers."""
    return torch.zeros(1, 3, height_px, width_px, device="meta")


def _net_size(short_side_px: int) -> tuple[int, int]:
    """Return the padded input of a photograph of the typical shape."""
    long_side_px = math.ceil(short_side_px * ASPECT / SIZE_DIVISOR_PX) * SIZE_DIVISOR_PX
    return math.ceil(short_side_px / SIZE_DIVISOR_PX) * SIZE_DIVISOR_PX, long_side_px


def _round(value: float) -> str:
    """Return three digits that count."""
    return f"{float(f'{value:.3g}'):,.15g}"


def main() -> int:
    """Print the table; return the exit status."""
    runs = [(name, work_of(load_settings(CONFIGS / f"{name}.toml"))) for name in RUNS]
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
