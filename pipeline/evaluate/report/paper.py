"""The numbers that the paper reports, for the settings to which they belong (OVSeg, tables 1 to 3, 5, 6, figure 1).

A number is given only where data set, proposal net, CLIP and the way of predicting are the paper's; everything else has
nothing to be compared with.
"""

from collections.abc import Mapping

from pipeline.evaluate.variants import ORIGINAL, PROPOSALS, ClipView, Variant
from pipeline.settings import Settings

SWIN_B, R101C = "swin-b", "r101c"
_DATASETS = ("ade20k-847", "pascal-context-459", "ade20k-150", "pascal-context-59", "pascal-voc-20")

_ENSEMBLES: Mapping[tuple[str, str], tuple[float | None, ...]] = {
    (R101C, "ft-then-mpt"): (7.1, 11.0, 24.8, 53.3, 92.6),
    (SWIN_B, "ft-then-mpt"): (9.0, 12.4, 29.6, 55.7, 94.5),
    (SWIN_B, ORIGINAL): (7.3, None, 21.8, 51.4, None),
    (SWIN_B, "mpt"): (8.4, None, 26.5, 55.4, None),
    (SWIN_B, "ft"): (8.8, None, 28.8, 55.7, None),
    (SWIN_B, "mpt-then-ft"): (8.5, None, 28.1, None, None),
    (SWIN_B, "ft+mpt"): (8.8, None, 29.0, None, None),
}
"""mIoU [%] of both branches together, in the order of ``_DATASETS``."""

_A150_PARTS: Mapping[str, float] = {
    "proposal-net-only": 19.6,
    "clip-only original": 14.3,
    "clip-only ft-then-mpt": 25.1,
    "ground-truth-masks original": 20.1,
    "ground-truth-masks-unmasked original": 13.8,
    "oracle-labels": 66.5,
}
"""mIoU [%] on ADE20K-150 with Swin-B and ViT-L/14, part by part."""


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
    if setting is None or vocabulary not in _DATASETS:
        return None
    clip = None if variant.view is None else _mode(settings, variant.view)
    if variant.view is not None and 0 < variant.ensemble_weight < 1:
        ours = variant.view
        prompted = clip == ORIGINAL or ours.mask_prompts or clip == "ft"
        if ours.regions != PROPOSALS or not (ours.masked and prompted) or variant.section in {"weights", "thresholds"}:
            return None
        return dict(zip(_DATASETS, _ENSEMBLES.get((setting, str(clip)), (None,) * 5), strict=True))[vocabulary]
    if setting != SWIN_B or vocabulary != "ade20k-150" or variant.section in {"weights", "thresholds"}:
        return None
    return _A150_PARTS.get(_part(variant, clip))


def _mode(settings: Settings, view: ClipView) -> str:
    """Return how the CLIP of a view was adapted."""
    return settings.finetune.mode if view.clip == "adapted" else view.clip


def _part(variant: Variant, clip: str | None) -> str:
    """Name a variant that is not an ensemble as ``_A150_PARTS`` does."""
    if variant.oracle_threshold is not None:
        return "oracle-labels"
    if variant.view is None:
        return "proposal-net-only"
    part = "clip-only" if variant.view.regions == PROPOSALS else "ground-truth-masks"
    return f"{part}{'' if variant.view.masked else '-unmasked'} {clip}"
