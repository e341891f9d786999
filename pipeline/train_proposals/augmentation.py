"""How training samples of the proposal net are varied: resize, crop, colours, flip, pad, in this order.

MaskFormer's augmentation, with detectron2's transforms. What differs: colours go through Pillow's HSV, whose hue has
256 steps where OpenCV's has 180, so shades can differ by a step of rounding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.image_input import nearest_resized, resized_size

PADDING_LEVEL = 128
_BRIGHTNESS, _FACTORS, _HUE_DEGREES = 32.0, (0.5, 1.5), 36.0

Pixels = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What one sample goes through.

    Attributes:
        short_sides_px: Short sides of which one is drawn for each sample [px].
        max_side_px: Upper bound of the long side after resizing [px].
        crop_px: Side of the square result [px].
        ignore_label: Label of padding.
        colours: Whether brightness, contrast, saturation and hue are varied.
    """

    short_sides_px: tuple[int, ...]
    max_side_px: int
    crop_px: int
    ignore_label: int
    colours: bool = True

    def __call__(self, image: Image.Image, label_map: LabelMap, rng: np.random.Generator) -> tuple[Pixels, LabelMap]:
        """Vary a sample.

        Args:
            image: RGB.
            label_map: Class indices [height width] of the image's size.
            rng: Where chance comes from.

        Returns:
            Pixels [crop_px crop_px 3], RGB, 0..255, and labels [crop_px crop_px] of the label map's type.

        Raises:
            ValueError: If image and label map differ in size.
        """
        if (image.height, image.width) != label_map.shape:
            found = f"image {image.height} x {image.width} px, labels {label_map.shape[0]} x {label_map.shape[1]}"
            raise ValueError(f"augmentation: {found}; give both one size")
        short_side = self.short_sides_px[rng.integers(len(self.short_sides_px))]
        max_side = max(self.max_side_px, short_side)
        height, width = resized_size(image.height, image.width, short_side_px=short_side, max_side_px=max_side)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        label_map = nearest_resized(label_map, height, width)
        top, left = (int(rng.integers(max(0, side - self.crop_px) + 1)) for side in (height, width))
        bottom, right = min(height, top + self.crop_px), min(width, left + self.crop_px)
        pixels = np.asarray(image.crop((left, top, right, bottom)))
        if self.colours:
            pixels = jitter_colours(pixels, rng)
        label_map = label_map[top:bottom, left:right]
        if rng.random() < 0.5:
            pixels, label_map = pixels[:, ::-1], label_map[:, ::-1]
        missing = ((0, self.crop_px - (bottom - top)), (0, self.crop_px - (right - left)))
        return (
            np.pad(pixels, (*missing, (0, 0)), constant_values=PADDING_LEVEL),
            np.pad(label_map, missing, constant_values=self.ignore_label),
        )


def jitter_colours(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue, each with probability one half; contrast first or last.

    References:
        SSD (Liu et al., 2016), section 2.2; bounds of detectron2's ``ColorAugSSDTransform``.
    """
    if rng.random() < 0.5:
        pixels = _clipped(pixels + np.float32(rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        pixels = _with_contrast(pixels, rng)
    factor = rng.uniform(*_FACTORS) if rng.random() < 0.5 else 1.0
    turn = rng.uniform(-_HUE_DEGREES, _HUE_DEGREES) if rng.random() < 0.5 else 0.0
    if factor != 1.0 or turn != 0.0:
        hue, saturation, value = Image.fromarray(pixels).convert("HSV").split()
        shift = round(turn * 256 / 360)  # Pillow's hue is a byte, which wraps round
        hue = hue.point([(level + shift) % 256 for level in range(256)])
        saturation = saturation.point([min(255, int(level * factor)) for level in range(256)])
        pixels = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    return pixels if contrast_first else _with_contrast(pixels, rng)


def _with_contrast(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Scale all levels, or not."""
    return _clipped(pixels * np.float32(rng.uniform(*_FACTORS))) if rng.random() < 0.5 else pixels


def _clipped(levels: npt.NDArray[np.float32]) -> Pixels:
    """Bring levels back to 0..255, rounded down as the reference does."""
    return np.clip(levels, 0, 255).astype(np.uint8)
