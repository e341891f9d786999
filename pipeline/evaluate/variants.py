"""Variants: what an evaluation predicts how, and the paper's ablations made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

from pipeline.settings import ONE_PASS_SIZES, EvaluateSettings, Namer
from storage_schemas.digests import Json

ORIGINAL: Final = "original"
PROPOSALS: Final = "proposals"
GROUND_TRUTH: Final = "ground-truth"
IMPORTED: Final = "imported"
PREDICTIONS: Final = "predictions"
"""Name of the one variant of predictions that lie in files."""

ORACLE_LABELS: Final = "oracle-labels"
TRUE_MASKS: Final = "true-masks"
"""Names, the second followed by that of a CLIP, of the variants in which labels replace names or masks."""

Section = Literal["main", "branches", "bottleneck", "adaptation", "weights", "thresholds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipView:
    """One way in which CLIP sees the regions of an image; CLIP runs once per view.

    In one pass of the picture nothing is masked or prompted; ``masked`` is true there and ``mask_prompts`` false.

    Attributes:
        clip: ``"adapted"``, ``"original"``, or the name of another mode of stage 3.
        regions: ``"proposals"``, or ``"ground-truth"``: the classes of the label map.
        mask_threshold: Mask probability above which a pixel is in the crop; of no matter for the ground truth.
        masked: Fill the crop outside the region; otherwise the box is seen as it is.
        mask_prompts: Give patches outside the region their prompt tokens.
        namer: ``"crops"``, or the picture once: ``"one-pass"`` or ``"pooled"``.
        picture_side_px: Of the square that one pass sees; 0 for CLIP's own.
        window_stride_px: From one of its windows to the next; 0 for none.
    """

    clip: str
    regions: Literal["proposals", "ground-truth"] = "proposals"
    mask_threshold: float = 0.5
    masked: bool = True
    mask_prompts: bool = True
    namer: Namer = "crops"
    picture_side_px: int = 0
    window_stride_px: int = 0

    @property
    def slug(self) -> str:
        """A name for artifacts: letters, digits and ``-``."""
        parts = [self.clip.replace("+", "-and-")]
        parts.append(f"t{round(1000 * self.mask_threshold):03d}" if self.regions == PROPOSALS else self.regions)
        parts += [] if self.masked else ["unmasked"]
        if self.namer != "crops":
            sizes = (("px", self.picture_side_px), ("stride", self.window_stride_px))
            parts += [self.namer, *(f"{name}{size}" for name, size in sizes if size)]
        else:
            parts += [] if self.mask_prompts else ["no-prompts"]
        return "-".join(parts)

    def to_json(self) -> dict[str, Json]:
        """Return the view's parts, for identities and attributes; those of one pass only where it is one."""
        parts = asdict(self)
        if self.namer == "crops":  # so that identities from before it was a choice stay
            parts = {name: value for name, value in parts.items() if name not in ("namer", *ONE_PASS_SIZES)}
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of predicting.

    Attributes:
        name: Unique among the variants of an evaluation.
        section: In which table or chart of the report it stands.
        ensemble_weight: Lambda: 0 = proposal net only, 1 = CLIP only.
        view: Which regions CLIP sees, and how; None where CLIP is not used.
        oracle_threshold: If given, each proposal takes the class of the label map that it covers most, at this mask
            threshold, and no model classifies. With a view of the ground truth the label map's regions at its own size
            take their own classes: all metrics are 100 %, or the label maps are damaged.
        unseen_only: Whether CLIP decides among unseen classes alone.
    """

    name: str
    section: Section
    ensemble_weight: float = 0.0
    view: ClipView | None = None
    oracle_threshold: float | None = None
    unseen_only: bool = False

    @property
    def needs_proposals(self) -> bool:
        """Whether the proposal net has to run."""
        return self.view is None or self.view.regions == PROPOSALS

    def prediction_key(self) -> tuple[float, ClipView | None, float | None, bool]:
        """Return what decides the prediction; variants with equal keys predict the same."""
        return self.ensemble_weight, self.view, self.oracle_threshold, self.unseen_only

    def to_json(self) -> dict[str, Json]:
        """Return the variant's parts, for identities and attributes."""
        parts = asdict(self) | {"view": None if self.view is None else self.view.to_json()}
        if not self.unseen_only:  # so that identities from before it was a choice stay
            del parts["unseen_only"]
        return parts


def main_variant(settings: EvaluateSettings, ensemble_weight: float, *, unseen_only: bool = False) -> Variant:
    """Return the variant that the settings ask for; nothing but CLIP names imported masks."""
    ensemble_weight = 1.0 if settings.proposals == IMPORTED else ensemble_weight
    if settings.oracle_labels and settings.proposals == GROUND_TRUTH:
        # No net has a say. The view says whose regions are named, and the original CLIP in it is no input to wait for.
        regions = ClipView(clip=ORIGINAL, regions=GROUND_TRUTH, mask_prompts=False)
        return Variant(name="ground-truth", section="main", view=regions, oracle_threshold=settings.mask_threshold)
    if settings.oracle_labels:
        return Variant(name=ORACLE_LABELS, section="main", oracle_threshold=settings.mask_threshold)
    view = view_of(settings, settings.clip)
    if settings.proposals == GROUND_TRUTH:
        return Variant(name="ground-truth-masks", section="main", ensemble_weight=1.0, view=_of_ground_truth(view))
    variant = _weighted("main", view, ensemble_weight)
    if settings.proposals == IMPORTED or not unseen_only:  # without a net's branch CLIP names all classes
        return variant
    return replace(variant, name="unseen-ensemble", unseen_only=True)


def ablation_variants(
    settings: EvaluateSettings, ensemble_weight: float, *, unseen_only: bool = False
) -> tuple[Variant, ...]:
    """Return the main variant and the paper's ablations, in the report's order.

    What cannot differ is left out: a sweep's value that is the main variant's stays, so that its curve is whole. Of
    imported masks neither another branch nor an ensemble weight or mask threshold says anything.
    """
    imported = settings.proposals == IMPORTED
    ensemble_weight = 1.0 if imported else ensemble_weight
    main = main_variant(settings, ensemble_weight, unseen_only=unseen_only)
    clips = [settings.clip, *(clip for clip in (*settings.sweep.finetune_modes, ORIGINAL) if clip != settings.clip)]
    found = [main, *_branch_variants(settings, ensemble_weight), *_bottleneck_variants(settings, clips)]
    found += [
        _weighted("adaptation", view_of(settings, clip), weight, prefix=clip)
        for clip in clips
        for weight in (ensemble_weight, 1.0)
    ]
    view = view_of(settings, settings.clip)
    found += [
        Variant(name=f"weight-{weight:.2f}", section="weights", ensemble_weight=weight, view=view if weight else None)
        for weight in sorted({*settings.sweep.ensemble_weights, ensemble_weight})
    ]
    found += [
        Variant(
            name=f"threshold-{threshold:.2f}",
            section="thresholds",
            ensemble_weight=ensemble_weight,
            view=view_of(settings, settings.clip, threshold),
        )
        for threshold in sorted({*settings.sweep.mask_thresholds, settings.mask_threshold})
    ]
    by_name: dict[str, Variant] = {}
    for variant in found:
        by_name.setdefault(variant.name, variant)  # of several with one name the first, in its place
    return tuple(
        variant
        for variant in by_name.values()
        if not imported or (variant.section not in {"weights", "thresholds"} and variant.name != "proposal-net-only")
    )


def error_source_variants(settings: EvaluateSettings) -> tuple[Variant, ...]:
    """Return our masks with perfect names, and perfect masks with the names of the CLIP that is evaluated.

    They say what names and what masks lose; none where the main variant replaces one of them already.
    """
    if settings.oracle_labels or settings.proposals == GROUND_TRUTH:
        return ()
    names = {ORACLE_LABELS, f"{TRUE_MASKS}-{settings.clip}"}
    return tuple(each for each in _bottleneck_variants(settings, [settings.clip]) if each.name in names)


def views_of(variants: Sequence[Variant]) -> tuple[ClipView, ...]:
    """Return the views that variants need, each once, in order."""
    return tuple(dict.fromkeys(variant.view for variant in variants if variant.view is not None))


def _branch_variants(settings: EvaluateSettings, ensemble_weight: float) -> Iterator[Variant]:
    """Yield each branch alone, and CLIP without prompts and without masks; crops, where masks are named in one pass."""
    view = view_of(settings, settings.clip)
    yield Variant(name="proposal-net-only", section="branches")
    yield Variant(name="clip-only", section="branches", ensemble_weight=1.0, view=view)
    if view.mask_prompts:
        plain = ClipView(clip=view.clip, mask_threshold=view.mask_threshold, mask_prompts=False)
        yield Variant(name="no-mask-prompts", section="branches", ensemble_weight=ensemble_weight, view=plain)
    if view.namer != "crops":
        crops = view_of(settings.model_copy(update={"namer": "crops"}), settings.clip)
        yield Variant(name="crops", section="branches", ensemble_weight=ensemble_weight, view=crops)
        return
    unmasked = ClipView(clip=view.clip, mask_threshold=view.mask_threshold, masked=False, mask_prompts=False)
    yield Variant(name="unmasked-crops", section="branches", ensemble_weight=ensemble_weight, view=unmasked)


def _bottleneck_variants(settings: EvaluateSettings, clips: Sequence[str]) -> Iterator[Variant]:
    """Yield perfect masks with CLIP as the classifier, and our masks with a perfect classifier (OVSeg, figure 1)."""
    for clip in clips:
        view = _of_ground_truth(view_of(settings, clip))
        yield Variant(name=f"{TRUE_MASKS}-{clip}", section="bottleneck", ensemble_weight=1.0, view=view)
    for clip in clips if settings.namer == "crops" else ():
        unmasked = ClipView(clip=clip, regions=GROUND_TRUTH, mask_threshold=0.5, masked=False, mask_prompts=False)
        name = f"true-boxes-{clip}"
        yield Variant(name=name, section="bottleneck", ensemble_weight=1.0, view=unmasked)
    yield Variant(name=ORACLE_LABELS, section="bottleneck", oracle_threshold=settings.mask_threshold)


def _weighted(section: Section, view: ClipView, weight: float, prefix: str = "") -> Variant:
    """Return an ensemble, or a branch alone at the ends of the scale."""
    kind = {0.0: "proposal-net-only", 1.0: "clip-only"}.get(weight, "ensemble")
    name = f"{prefix}-{kind}" if prefix else kind
    return Variant(name=name, section=section, ensemble_weight=weight, view=view if weight else None)


def view_of(settings: EvaluateSettings, clip: str, threshold: float | None = None) -> ClipView:
    """Return how a CLIP sees proposals, as the settings say; the original has no prompts."""
    threshold = settings.mask_threshold if threshold is None else threshold
    if settings.namer != "crops":
        return ClipView(
            clip=clip,
            mask_threshold=threshold,
            mask_prompts=False,
            namer=settings.namer,
            picture_side_px=settings.picture_side_px,
            window_stride_px=settings.window_stride_px,
        )
    return ClipView(
        clip=clip,
        mask_threshold=threshold,
        masked=settings.masked_crops,
        mask_prompts=settings.use_mask_prompts and settings.masked_crops and clip != ORIGINAL,
    )


def _of_ground_truth(view: ClipView) -> ClipView:
    """Return the same view of the label map's regions."""
    return replace(view, regions=GROUND_TRUTH, mask_threshold=0.5)
