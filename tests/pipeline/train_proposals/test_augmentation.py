"""Augmentation against torch and naive twins; samples are functions of their draw."""

import colorsys
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings
from pipeline.train_proposals.augmentation import PADDING_LEVEL, Augmentation, jitter_colours
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.training.data_order import Draw
from storage_schemas.scene_collection import SceneCollection

IGNORE = 255


def augmentation(**changes: object) -> Augmentation:
    numbers = {"short_sides_px": (40, 60), "max_side_px": 100, "crop_px": 48, "ignore_label": IGNORE}
    return Augmentation(**{**numbers, **changes})


def coded_picture(height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """A picture whose label map says the same as its pixels: four flat quarters."""
    label = (np.arange(height)[:, None] * 2 // height) * 2 + np.arange(width)[None] * 2 // width
    return Image.fromarray(np.repeat((label * 60).astype(np.uint8)[..., None], 3, axis=2)), label.astype(np.uint8)


@given(st.integers(0, 10_000), st.sampled_from([(30, 90), (90, 30), (50, 50), (200, 210)]))
def test_pixels_and_labels_stay_together(seed: int, size: tuple[int, int]) -> None:
    image, label = coded_picture(*size)
    plain = np.random.default_rng(seed)
    pixels, labels = augmentation()(image, label, plain)
    assert pixels.shape == (48, 48, 3)
    assert labels.shape == (48, 48)
    assert labels.dtype == np.uint8
    padded = labels == IGNORE
    assert (pixels[padded] == PADDING_LEVEL).all()
    levels = {label: np.median(pixels[labels == label]) for label in np.unique(labels[~padded]).tolist()}
    assert all(levels[low] <= levels[high] for low in levels for high in levels if low < high)  # jitter keeps the order


def test_colours_stay_where_they_are_not_to_be_varied() -> None:
    image, label = coded_picture(48, 48)
    same = augmentation(short_sides_px=(48,), colours=False)
    for seed in range(4):
        pixels, labels = same(image, label, np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels, np.repeat((labels * 60)[..., None], 3, axis=2))


def test_small_pictures_are_padded_right_and_below() -> None:
    image, label = coded_picture(40, 40)
    pixels, labels = augmentation(short_sides_px=(40,))(image, label, np.random.default_rng(0))
    assert (labels[:40, :40] != IGNORE).all()
    assert (labels[40:] == IGNORE).all()
    assert (labels[:, 40:] == IGNORE).all()
    assert (pixels[40:] == PADDING_LEVEL).all()


def test_every_short_side_flip_and_place_occurs() -> None:
    image, label = coded_picture(60, 60)
    corners = {
        augmentation(short_sides_px=(60,))(image, label, np.random.default_rng(seed))[1][0, 0] for seed in range(40)
    }
    assert corners == {0, 1}  # the upper corners, flipped or not
    heights = set()
    for seed in range(20):
        heights.add(int((augmentation(crop_px=100)(image, label, np.random.default_rng(seed))[1] != IGNORE).sum()))
    assert heights == {40 * 40, 60 * 60}


class Fixed:
    """A generator that answers from lists."""

    def __init__(self, random: list[float], uniform: list[float]) -> None:
        self._random, self._uniform = iter(random), iter(uniform)

    def random(self) -> float:
        return next(self._random)

    def uniform(self, low: float, high: float) -> float:
        value = next(self._uniform)
        assert low <= value <= high
        return value


YES, NO = 0.0, 0.9


@pytest.mark.parametrize("contrast_first", [True, False])
def test_brightness_and_contrast_clip_between_steps(contrast_first: bool) -> None:
    pixels = np.full((1, 1, 3), 200, np.uint8)
    order = [YES, YES, NO, NO] if contrast_first else [NO, NO, NO, YES]
    rng = Fixed([YES, *order], [-30.0, 1.5])
    assert jitter_colours(pixels, rng)[0, 0].tolist() == [255, 255, 255]  # (200 - 30) * 1.5
    assert jitter_colours(pixels, Fixed([YES, *order], [30.0, 0.5]))[0, 0].tolist() == [115, 115, 115]


@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(0.5, 1.5), st.floats(-36, 36))
def test_saturation_and_hue_are_near_a_naive_twin(colour: tuple[int, int, int], factor: float, turn: float) -> None:
    changed = jitter_colours(np.array([[colour]], np.uint8), Fixed([NO, NO, YES, YES, NO], [factor, turn]))[0, 0]
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
    expected = colorsys.hsv_to_rgb((hue + turn / 360) % 1, min(1, saturation * factor), value)
    assert np.abs(changed - 255 * np.array(expected)).max() <= 11  # one and a half of 256 steps of hue are 9 levels


def test_a_label_map_of_another_size_is_refused() -> None:
    image, label = coded_picture(60, 60)
    with pytest.raises(ValueError, match="image 60 x 60 px, labels 59 x 60"):
        augmentation()(image, label[1:], np.random.default_rng(0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneCollection:
    settings = PrepareSettings(dataset="drawn-world", split="train", drawn_world={"scenes": 5}, scenes_per_shard=3)
    return SceneCollection(prepare(settings, tmp_path_factory.mktemp("runs")).artifact, labelled=True)


def samples(scenes: SceneCollection, **changes: object) -> ProposalSamples:
    numbers = {"augmentation": augmentation(short_sides_px=(96,), crop_px=96), "seed": 1, **changes}
    return ProposalSamples(scenes, **numbers)


def test_a_sample_is_a_function_of_its_draw(scenes: SceneCollection) -> None:
    source = samples(scenes)
    sent = pickle.loads(pickle.dumps(source))
    first, again = source.batch([Draw(0, 4)]), sent.batch([Draw(0, 4)])
    assert all(torch.equal(tensor, other) for tensor, other in zip(first, again, strict=True))
    assert (first.numbers.tolist(), first.images.dtype, first.label_maps.dtype) == ([4], torch.uint8, torch.int32)
    others = [source.batch([Draw(1, 4)]), source.batch([Draw(0, 3)]), samples(scenes, seed=2).batch([Draw(0, 4)])]
    assert not any(torch.equal(first.images, other.images) for other in others)


def test_held_out_classes_are_ignored(scenes: SceneCollection) -> None:
    whole = samples(scenes).batch([Draw(0, 0)]).label_maps
    held_out = tuple(torch.unique(whole)[:2].tolist())
    without = samples(scenes, held_out_classes=held_out).batch([Draw(0, 0)]).label_maps
    expected = torch.where(torch.isin(whole, torch.tensor(held_out)), IGNORE, whole)
    assert torch.equal(without, expected.int())


def test_a_collection_knows_places_and_refuses_to_be_empty(scenes: SceneCollection, tmp_path: Path) -> None:
    assert len(scenes) == 5
    unit, key = scenes.place(4)
    assert (unit, scenes.read(4).key) == ("shard-00001", key)
    assert scenes.read(0, labels=False).label_png is None
    image = Image.open(io.BytesIO(scenes.read(0).image))
    assert image.size == (96, 96)
