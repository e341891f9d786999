"""What can be chosen when a segmenter is used, as opposed to what its weights fix."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from ovseg_models.precision import Precision
from ovseg_models.prompt_templates import VILD

SIDE_MAX_PX = 16_384

Namer: TypeAlias = Literal["crops", "one-pass", "pooled"]
"""How CLIP sees masks: a crop of each, or the picture once (`ovseg_models.one_pass`), where each mask has a token, or
pools the last tokens of its patches."""
_LATER = ("namer", "picture_side_px", "window_stride_px")  # are written only where they are not the default


@dataclass(frozen=True, kw_only=True)
class SegmenterSettings:
    """How a segmenter works.

    Attributes:
        ensemble_weight: 0 = proposal net only, 1 = CLIP only. (In the published code 0 means CLIP only.)
        mask_threshold: A pixel belongs to a hard mask, and to CLIP's crop, if its mask probability is above this.
        use_mask_prompts: Whether CLIP sees its mask prompts in place of patches outside the mask; if not, it sees the
            fill colour there. No matter for a CLIP without prompts.
        short_side_px: The image's shorter side as the proposal net and the crops see it.
        max_side_px: Upper bound of the longer side.
        precision: In which the nets compute on CUDA, as in evaluation: ``"fp32"``, ``"tf32"``, ``"bf16"`` or
            ``"fp16"``. On a CPU always in full single precision.
        clip_chunk: Crops that CLIP takes at a time; bounds the memory and changes no result.
        prompt_templates: Sentences that class names are put into.
        namer: How CLIP sees the masks. Crops' settings have no meaning in one pass.
        picture_side_px: Of the square as which one pass sees the picture; 0 for CLIP's own.
        window_stride_px: From one of its windows of CLIP's own side to the next; 0 for no windows.
    """

    ensemble_weight: float | int = 0.7
    mask_threshold: float | int = 0.5
    use_mask_prompts: bool = True
    short_side_px: int = 640
    max_side_px: int = 2560
    precision: Precision = "fp32"
    clip_chunk: int = 32
    prompt_templates: tuple[str, ...] = VILD
    namer: Namer = "crops"
    picture_side_px: int = 0
    window_stride_px: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        faults = [
            f"{name} is {getattr(self, name)}, {expected} is expected"
            for name, fits, expected in (
                ("ensemble_weight", 0 <= self.ensemble_weight <= 1, "0 (proposal net only) to 1 (CLIP only)"),
                ("mask_threshold", 0 <= self.mask_threshold < 1, "0 to below 1"),
                ("short_side_px", self.short_side_px >= 1, "at least 1"),
                ("max_side_px", self.max_side_px >= self.short_side_px, f"at least short_side_px {self.short_side_px}"),
                ("max_side_px", self.max_side_px <= SIDE_MAX_PX, f"at most {SIDE_MAX_PX}"),
                ("precision", self.precision in get_args(Precision), f"one of {', '.join(get_args(Precision))}"),
                ("clip_chunk", self.clip_chunk >= 1, "at least 1"),
                ("namer", self.namer in get_args(Namer), f"one of {', '.join(get_args(Namer))}"),
                ("picture_side_px", 0 <= self.picture_side_px <= SIDE_MAX_PX, f"0 (CLIP's own) to {SIDE_MAX_PX}"),
                ("window_stride_px", 0 <= self.window_stride_px <= SIDE_MAX_PX, f"0 (none) to {SIDE_MAX_PX}"),
            )
            if not fits
        ]
        faults += [
            f"prompt_templates[{place}] is {template!r:.60}, a sentence with exactly one {{}} is expected"
            for place, template in enumerate(self.prompt_templates)
            if not isinstance(template, str) or template.count("{}") != 1
        ][:3]
        if not self.prompt_templates:
            faults.append("prompt_templates is empty, at least one sentence is expected")
        if faults:
            raise ValueError(f"segmenter settings: {'; '.join(faults)}; correct the settings")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        written = asdict(self) | {"prompt_templates": list(self.prompt_templates)}
        # So that a folder without them can be read by versions from before there were any.
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {name: value for name, value in written.items() if name not in _LATER or value != defaults[name]}


def settings_from_json(values: dict[str, Any]) -> SegmenterSettings:
    """Make settings of plain values; those that aren't given keep their defaults.

    Raises:
        ValueError: If a name is unknown, or a value is out of range or of another type.
    """
    known = {entry.name: entry.default for entry in fields(SegmenterSettings)}
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(f"segmenter settings: unknown names {unknown}, known are {sorted(known)}; correct the name")
    values = dict(values)
    if "prompt_templates" in values:
        if not isinstance(values["prompt_templates"], list | tuple):
            raise ValueError(
                f"segmenter settings: prompt_templates is {values['prompt_templates']!r:.60}, a list of sentences is "
                "expected; correct the value"
            )
        values["prompt_templates"] = tuple(values["prompt_templates"])
    for name, value in values.items():
        kinds = (int, float) if isinstance(known[name], float) else (type(known[name]),)
        if type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"segmenter settings: {name} is {value!r:.60}, {expected} is expected; correct the value")
    return SegmenterSettings(**values)
