"""The numbers that the paper reports, for the settings to which they belong (OVSeg, tables 1 to 6, figures 1(c) and 8).

A number is given only where data set, proposal net, CLIP, pairs, adaptation and the way of predicting are the paper's;
everything else has nothing to be compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.evaluate.variants import ORIGINAL, PREDICTIONS, PROPOSALS, ClipView, Section, Variant
from pipeline.settings import Settings

SWIN_B, R101C = "swin-b", "r101c"
A150 = "ade20k-150"
_PAIRS, _DEPTH = "proposals-1-caption", 3


class Adaptation(NamedTuple):
    """How a CLIP was adapted.

    Attributes:
        mode: A mode of stage 3, or ``"original"`` for none.
        pairs: Source of the pairs; the paper's default for the original CLIP.
        prompt_depth: Layers with mask prompts; the paper's default where there are none.
    """

    mode: str
    pairs: str = _PAIRS
    prompt_depth: int = _DEPTH


def _row(
    a847: float | None, pc459: float | None, a150: float, pc59: float | None, pas20: float | None
) -> dict[str, float]:
    """Name the data sets of a row of the paper's tables, those left out that it does not have."""
    names = ("ade20k-847", "pascal-context-459", A150, "pascal-context-59", "pascal-voc-20")
    found = zip(names, (a847, pc459, a150, pc59, pas20), strict=True)
    return {name: value for name, value in found if value is not None}


_ENSEMBLES: Mapping[tuple[str, Adaptation], Mapping[str, float]] = {
    # Tables 1 and 3
    (R101C, Adaptation("ft-then-mpt")): _row(7.1, 11.0, 24.8, 53.3, 92.6),
    (SWIN_B, Adaptation("ft-then-mpt")): _row(9.0, 12.4, 29.6, 55.7, 94.5),
    (SWIN_B, Adaptation(ORIGINAL)): _row(7.3, None, 21.8, 51.4, None),
    (SWIN_B, Adaptation("mpt")): _row(8.4, None, 26.5, 55.4, None),
    (SWIN_B, Adaptation("ft")): _row(8.8, None, 28.8, 55.7, None),
    # Table 2
    (SWIN_B, Adaptation("ft", "masks-classes")): _row(5.3, None, 23.0, 57.3, None),
    (SWIN_B, Adaptation("ft", "masks-1-caption")): _row(7.9, None, 24.2, 53.2, None),
    (SWIN_B, Adaptation("ft", "proposals-5-captions")): _row(8.8, None, 28.6, 55.5, None),
    # Table 4
    (SWIN_B, Adaptation("mpt", _PAIRS, 1)): _row(None, None, 25.7, None, None),
    (SWIN_B, Adaptation("mpt", _PAIRS, 6)): _row(None, None, 26.8, None, None),
    (SWIN_B, Adaptation("mpt", _PAIRS, 12)): _row(None, None, 26.8, None, None),
    (SWIN_B, Adaptation("ft-then-mpt", _PAIRS, 1)): _row(None, None, 29.3, None, None),
    (SWIN_B, Adaptation("ft-then-mpt", _PAIRS, 6)): _row(None, None, 29.4, None, None),
    (SWIN_B, Adaptation("ft-then-mpt", _PAIRS, 12)): _row(None, None, 29.3, None, None),
    # Table 6
    (SWIN_B, Adaptation("mpt-then-ft")): _row(8.5, None, 28.1, None, None),
    (SWIN_B, Adaptation("ft+mpt")): _row(8.8, None, 29.0, None, None),
}
"""mIoU [%] of both branches together, per data set."""

_A150_PARTS: Mapping[tuple[str, Adaptation | None], float] = {
    # Table 5
    ("proposal-net-only", None): 19.6,
    ("clip-only", Adaptation(ORIGINAL)): 14.3,
    ("clip-only", Adaptation("ft-then-mpt")): 25.1,
    # Figure 1(c)
    ("true-masks", Adaptation(ORIGINAL)): 20.1,
    ("true-boxes", Adaptation(ORIGINAL)): 13.8,
    ("oracle-labels", None): 66.5,
}
"""mIoU [%] on ADE20K-150 with Swin-B and ViT-L/14, part by part."""

A150_SEEN, A150_UNSEEN = 37.6, 21.9
"""Mean IoU [%] on ADE20K-150 of the classes that the paper calls seen and unseen, with Swin-B and ViT-L/14."""


@dataclass(frozen=True)
class PaperAblation:
    """What the paper has for a section of the report: mIoU [%] on ADE20K-150 with Swin-B and ViT-L/14.

    Attributes:
        place: Where it stands, such as ``"Table 5"``.
        rows: How it was predicted, and the number.
    """

    place: str
    rows: tuple[tuple[str, float], ...]


def _adapted(mode: str) -> float:
    """Return the mIoU [%] on ADE20K-150 of both branches, with Swin-B."""
    return _ENSEMBLES[SWIN_B, Adaptation(mode)][A150]


PAPER_ABLATIONS: Mapping[Section, PaperAblation] = {
    "branches": PaperAblation(
        "Table 5",
        (
            ("proposal net only", _A150_PARTS["proposal-net-only", None]),
            ("CLIP only, original", _A150_PARTS["clip-only", Adaptation(ORIGINAL)]),
            ("CLIP only, adapted", _A150_PARTS["clip-only", Adaptation("ft-then-mpt")]),
            ("both, original", _adapted(ORIGINAL)),
            ("both, adapted", _adapted("ft-then-mpt")),
        ),
    ),
    "bottleneck": PaperAblation(
        "Figure 1(c)",
        (
            ("true masks named by the original CLIP", _A150_PARTS["true-masks", Adaptation(ORIGINAL)]),
            ("the same, unmasked", _A150_PARTS["true-boxes", Adaptation(ORIGINAL)]),
            ("proposals named perfectly", _A150_PARTS["oracle-labels", None]),
        ),
    ),
    "adaptation": PaperAblation(
        "Tables 3 and 6",
        (
            ("original", _adapted(ORIGINAL)),
            ("MPT", _adapted("mpt")),
            ("FT", _adapted("ft")),
            ("FT then MPT", _adapted("ft-then-mpt")),
            ("MPT then FT", _adapted("mpt-then-ft")),
            ("both at once", _adapted("ft+mpt")),
        ),
    ),
}
"""By the sections of the report."""


def paper_setting(settings: Settings) -> str | None:
    """Return which of the paper's two models the settings describe, or None."""
    backbone, clip = settings.proposal_net.architecture.backbone.name, settings.clip.architecture
    if settings.clip.pretrained != "openai":
        return None
    if (backbone, clip) == ("swin_base_patch4_window12_384", "ViT-L-14"):
        return SWIN_B
    return R101C if (backbone, clip) == ("r101c", "ViT-B-16") else None


def paper_miou(settings: Settings, vocabulary: str, variant: Variant) -> float | None:
    """Return the paper's mIoU [%] of a variant on a data set, or None where it reports none."""
    setting = paper_setting(settings)
    others = settings.evaluate.proposals == "imported" or variant.name == PREDICTIONS
    others = others or settings.evaluate.temperature == "model"
    if setting is None or variant.section in {"weights", "thresholds"} or others:
        return None
    adaptation = None if variant.view is None else _adaptation(settings, variant.view)
    if variant.view is not None and adaptation is None:
        return None
    part = _part(variant)
    if part == "ensemble" and adaptation is not None:
        return _ENSEMBLES.get((setting, adaptation), {}).get(vocabulary)
    return _A150_PARTS.get((part, adaptation)) if (setting, vocabulary) == (SWIN_B, A150) else None


def _adaptation(settings: Settings, view: ClipView) -> Adaptation | None:
    """Return how the CLIP of a view was adapted; None if the paper has no such CLIP, or shows it anything else."""
    if view.namer != "crops":
        return None
    mode = settings.finetune.mode if view.clip == "adapted" else view.clip
    if mode == ORIGINAL:
        return Adaptation(ORIGINAL)
    recipe = settings.finetune
    others = (
        recipe.pairs_dir,
        settings.mine.embed.namer != "crops",
        recipe.blank_patches == "dropped",
        recipe.pair_source != "mined",
        recipe.loss != "contrastive",
        recipe.holding.form != "none",
        recipe.hard_negatives.count,
        recipe.tuned_share < 1,
        not view.masked,
    )
    if any(others):
        return None
    if mode == "ft":
        return Adaptation(mode, settings.mine.source)
    return Adaptation(mode, settings.mine.source, settings.finetune.prompt_depth) if view.mask_prompts else None


def _part(variant: Variant) -> str:
    """Name what a variant predicts with; a name that neither table has where the paper has no such part."""
    if variant.oracle_threshold is not None:
        return "oracle-labels"
    if variant.view is None:
        return "proposal-net-only"
    if variant.view.regions != PROPOSALS:
        return "true-masks" if variant.view.masked else "true-boxes"
    if not variant.view.masked:
        return "unmasked-crops"
    return "clip-only" if variant.ensemble_weight == 1 else "ensemble"
