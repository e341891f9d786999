"""The painted picture and its legend, and the colours."""

import numpy as np
import pytest
from PIL import Image

from ovseg_models.overlay import _WITHOUT_GREEN, _WITHOUT_RED, _cielab, name_colours, overlay_picture, palette


def grey_image(width, height):
    return Image.new("RGB", (width, height), (128, 128, 128))


def test_each_class_is_painted_in_its_colour_and_the_unlabelled_rest_is_not():
    labels = np.full((40, 60), -1)
    labels[:, :20], labels[:, 20:40] = 0, 1
    painted = np.asarray(overlay_picture(grey_image(60, 40), labels, ["a", "b"]))
    colours = name_colours(["a", "b"]).astype(float)
    for index, left in ((0, 10), (1, 30)):
        assert np.allclose(painted[20, left], 0.45 * 128 + 0.55 * colours[index], atol=1)
    assert painted[20, 50].tolist() == [128, 128, 128]
    assert painted[20, 20].tolist() == colours[1].tolist()  # the border


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (96, 96), (300, 8), (1000, 700)])
def test_any_size_gets_a_legend_that_fits(size):
    width, height = size
    labels = np.arange(width * height).reshape(height, width) % 30
    picture = overlay_picture(grey_image(width, height), labels, [f"class {index}" for index in range(30)])
    assert picture.width == max(width, 220)
    assert height + 12 < picture.height <= height + 30 * 50


def test_names_of_any_length_and_script_stay_within_the_picture():
    names = ["x" * 5000, "строение, здание", "猫" * 80, "line\nbreak\ttab", "\ud800", "", "🎸" * 40]
    labels = np.arange(7).repeat(10).reshape(7, 10)
    picture = np.asarray(overlay_picture(grey_image(10, 7), labels, names))
    assert picture.shape[1] == 220
    assert (picture[7:, -3:] == 255).all()  # the right margin is empty


def legend(name):
    """The legend's line without the colour, which is the name's own."""
    return np.asarray(overlay_picture(grey_image(300, 10), np.full((10, 300), 1), ["", name]))[10:, 20:]


def test_a_name_that_the_font_lacks_is_listed_by_its_number():
    assert np.array_equal(legend("猫"), legend("class 1"))
    assert np.array_equal(legend("猫 cat 🎸 two"), legend("class 1: cat two"))
    assert np.array_equal(legend("café \uff21\uff22"), legend("cafe AB"))
    assert np.array_equal(legend(" <b>a</b>\n\tb "), legend("<b>a</b> b"))


def test_thousands_of_classes_are_painted_too():
    names = [f"class {index}" for index in range(6024)]
    labels = np.array([[0, 1024], [5000, 6023]])
    painted = np.asarray(overlay_picture(grey_image(2, 2), labels, names))
    colours = name_colours(names)
    assert np.array_equal(painted[0, 1], colours[1024])
    assert np.array_equal(painted[1, 0], colours[5000])
    assert len(np.unique(colours, axis=0)) > 6000


def test_only_classes_that_occur_are_listed_and_no_more_than_two_dozen():
    few = overlay_picture(grey_image(64, 64), np.zeros((64, 64), int), [f"{index}" for index in range(500)])
    many = np.arange(64 * 64).reshape(64, 64) % 500
    full = overlay_picture(grey_image(64, 64), many, [f"{index}" for index in range(500)])
    assert few.height < 64 + 40
    assert full.height < 64 + 27 * 18


def test_nothing_found_says_so():
    picture = np.asarray(overlay_picture(grey_image(64, 64), np.full((64, 64), -1), ["cat"]))
    assert (picture[64:] < 100).any()


def test_a_label_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"label map is \(3, 4\), the image \(4, 3\)"):
        overlay_picture(grey_image(3, 4), np.zeros((3, 4), int), ["cat"])


@pytest.mark.parametrize("index", [1, -2])
def test_an_index_without_a_name_is_refused(index):
    with pytest.raises(ValueError, match="are found for 1 names"):
        overlay_picture(grey_image(2, 2), np.full((2, 2), index), ["cat"])


def test_colours_differ_and_a_class_keeps_its_colour_in_larger_palettes():
    many = palette(847)
    assert len({tuple(colour) for colour in many.tolist()}) == 847
    assert np.array_equal(many[:20], palette(20))
    gaps = np.abs(many[:20, None].astype(int) - many[None, :20]).sum(axis=2)
    assert gaps[~np.eye(20, dtype=bool)].min() >= 80


@pytest.mark.parametrize("colours", [0, 100_000])
def test_an_impossible_number_of_colours_is_refused(colours):
    with pytest.raises(ValueError, match=f"palette: {colours} colours"):
        palette(colours)


NAMES = ["sky", "grass", "Boat", "oculus", "ukulele", "猫", "naïve café", "", "\ud800", *map(str, range(300))]


def test_a_name_has_the_same_colour_in_any_order_and_company():
    colours = name_colours(NAMES)
    assert np.array_equal(name_colours(NAMES[::-1])[::-1], colours)
    for place in (0, 1, 3, 8, 250):
        assert np.array_equal(name_colours([NAMES[place]])[0], colours[place])
    assert np.array_equal(name_colours(["  BOAT "])[0], colours[2])
    first, second = np.zeros((4, 4), int), np.ones((4, 4), int)
    one = overlay_picture(grey_image(4, 4), first, ["dog", "oculus"]).crop((0, 0, 4, 4))
    other = overlay_picture(grey_image(4, 4), second, ["kite", "dog"]).crop((0, 0, 4, 4))
    assert one.tobytes() == other.tobytes()


def test_three_hundred_names_have_different_colours():
    assert len(np.unique(name_colours(NAMES), axis=0)) == len(NAMES)


@pytest.mark.parametrize("eye", [None, _WITHOUT_RED, _WITHOUT_GREEN])
def test_common_names_differ_for_every_eye(eye):
    names = ["sky", "grass", "person", "tree", "building", "road", "water", "car", "dog", "cat"]
    lab = _cielab(name_colours(names), eye)
    gaps = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(axis=2))
    assert gaps[~np.eye(len(names), dtype=bool)].min() > 25  # 2.3 can just be seen


def test_colours_are_neither_dark_nor_pale_nor_grey():
    lab = _cielab(name_colours([*NAMES, *(f"thing {index}" for index in range(2000))]))
    assert lab[:, 0].min() > 35
    assert lab[:, 0].max() < 92
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 25
