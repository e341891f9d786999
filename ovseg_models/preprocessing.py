"""What a CLIP expects of its crops: side and patches, how pixels are normalised, and how crops are resized."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
RGB: TypeAlias = tuple[float, float, float]

CLIP_MEAN_RGB: RGB = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's training images, as parts of 255
CLIP_STD_RGB: RGB = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How a CLIP's training images were normalised and resized; by default as OpenAI's and most others.

    Attributes:
        mean_rgb: Parts of 255, from 0 to 1.
        std_rgb: Parts of 255, above 0 and at most 1.
        interpolation: Of the resize to the side of CLIP's input.
    """

    mean_rgb: RGB = CLIP_MEAN_RGB
    std_rgb: RGB = CLIP_STD_RGB
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        """Refuse what no image can be normalised or resized with."""
        for name, values in (("mean", self.mean_rgb), ("std", self.std_rgb)):
            expected = "three numbers from 0 to 1" if name == "mean" else "three numbers above 0, at most 1"
            fits = isinstance(values, tuple) and len(values) == 3
            for value in values if fits else ():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                fits = fits and is_number and 0 <= value <= 1 and (value > 0 or name == "mean")
            if not fits:
                raise ValueError(
                    f"preprocessing: {name} is {values!r}, {expected} (red, green, blue) are expected; divide by 255 "
                    "what is given from 0 to 255, or correct the model's preprocess_cfg"
                )
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"preprocessing: interpolation is {self.interpolation!r}, one of {get_args(Interpolation)} is "
                "expected; correct the model's preprocess_cfg"
            )

    @classmethod
    def of(cls, preprocess_cfg: Mapping[str, Any]) -> "Preprocessing":
        """Read what open_clip says of a tag or a model: ``mean``, ``std`` and ``interpolation``, OpenAI's where absent.

        Its ``resize_mode`` is for whole pictures: a region's box becomes a square, whatever its aspect (OVSeg).

        Raises:
            ValueError: If a value cannot be used.
        """
        given = {key: value for key, value in preprocess_cfg.items() if value is not None}
        mean: Any
        std: Any
        mean, std = (
            tuple(float(part) if type(part) is int else part for part in value)
            if isinstance(value, list | tuple)
            else value
            for value in (given.get("mean", CLIP_MEAN_RGB), given.get("std", CLIP_STD_RGB))
        )
        return cls(mean, std, given.get("interpolation", "bicubic"))

    def to_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {"mean": list(self.mean_rgb), "std": list(self.std_rgb), "interpolation": self.interpolation}


OPENAI = Preprocessing()


@dataclass(frozen=True)
class CropFormat:
    """What a CLIP takes as a crop.

    Attributes:
        side_px: Of the square crop [px].
        patch_px: Side of a patch [px]; the crop's own side where the image tower has no patch tokens, so that there is
            one patch, which always sees the mask.
        preprocessing: How pixels are normalised, and crops resized.
    """

    side_px: int
    patch_px: int
    preprocessing: Preprocessing = OPENAI

    @property
    def patches(self) -> int:
        """Number of patches; what is left of a line beyond the last whole patch is no patch."""
        return (self.side_px // self.patch_px) ** 2
