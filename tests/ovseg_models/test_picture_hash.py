"""The perceptual hash: copies are found, different pictures and flat ones are not."""

import io

import numpy as np
import pytest
from PIL import Image

from ovseg_models.picture_hash import PictureHash, picture_hash, same_pictures, too_flat
from pipeline.prepare.data_sets import open_source
from pipeline.settings import PrepareSettings

SCENES = 60


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    """Drawn scenes."""
    document = {"dataset": "drawn-world", "split": "train", "drawn_world": {"scenes": SCENES}}
    source = open_source(PrepareSettings.model_validate(document))
    return [Image.open(io.BytesIO(source.scene(key).image)).convert("RGB") for key in source.keys()]  # noqa: SIM118


def stacked(images) -> PictureHash:
    hashes = [picture_hash(image) for image in images]
    return PictureHash(np.stack([one.signs for one in hashes]), np.stack([one.colours for one in hashes]))


def copy_of(image: Image.Image, *, quality: int, scale: float) -> Image.Image:
    buffer = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize(("quality", "scale"), [(75, 1.0), (50, 1.0), (75, 0.5), (50, 0.5), (75, 2.0)])
def test_each_copy_is_found_and_nothing_else(drawn, quality, scale):
    copies = [copy_of(image, quality=quality, scale=scale) for image in drawn]
    ones, others, agreement, difference = same_pictures(stacked(drawn), stacked(copies))
    assert ones.tolist() == others.tolist() == list(range(SCENES))
    assert (agreement >= 0.75).all()
    assert (difference <= 8).all()


def test_different_scenes_are_far_apart(drawn):
    ones, others, _, _ = same_pictures(stacked(drawn), stacked(drawn))
    assert ones.tolist() == others.tolist() == list(range(SCENES))


def test_flat_pictures_are_never_the_same():
    flat = stacked([Image.new("RGB", (90, 60), colour) for colour in ((10, 10, 10), (12, 10, 10), (240, 0, 0))])
    assert too_flat(flat.signs).all()
    assert len(same_pictures(flat, flat)[0]) == 0


def test_equal_layouts_of_other_colours_are_other_pictures():
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 200, (9, 9)).repeat(10, 0).repeat(10, 1)
    red, blue = np.zeros((90, 90, 3), np.uint8), np.zeros((90, 90, 3), np.uint8)
    red[..., 0], blue[..., 2] = grey, (grey * 1.2).astype(np.uint8)
    red_hash, blue_hash = (stacked([Image.fromarray(pixels)]) for pixels in (red, blue))
    assert len(same_pictures(red_hash, red_hash)[0]) == 1
    assert len(same_pictures(red_hash, blue_hash)[0]) == 0


def test_none_is_the_same_as_nothing():
    nothing = PictureHash(np.zeros((0, 128), np.int8), np.zeros((0, 192), np.uint8))
    assert all(len(part) == 0 for part in same_pictures(nothing, nothing))
