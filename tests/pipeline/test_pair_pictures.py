"""Pictures of pairs come back as they were stored."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.pair_pictures import pair_pictures
from storage_schemas.pairs import PairMembers


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_crop_and_mask_come_back() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:] = 255
    pixels, inside = pair_pictures(PairMembers(png(crop), png(mask)))
    np.testing.assert_array_equal(pixels, crop)
    np.testing.assert_array_equal(inside, mask == 255)
    assert pixels.flags.writeable
    assert inside.flags.writeable


def test_a_grey_crop_becomes_rgb() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    pixels, _ = pair_pictures(PairMembers(png(grey), png(grey)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG"])
def test_damaged_bytes_are_told_as_pillow_tells_them(damage: bytes) -> None:
    whole = png(np.zeros((2, 2), np.uint8))
    for members in (PairMembers(damage, whole), PairMembers(whole, damage)):
        with pytest.raises(OSError, match="cannot identify image"):
            pair_pictures(members)
