"""Sizes against detectron2's rule, written out, and the resize against Pillow's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg_models.image_size import nearest_resized, resize_image, resized_size


@pytest.mark.parametrize(
    ("image", "short", "longest", "expected"),
    [
        ((480, 640), 640, 2560, (640, 853)),
        ((640, 480), 640, 2560, (853, 640)),
        ((427, 640), 640, 2560, (640, 959)),
        ((500, 500), 512, 2048, (512, 512)),
        ((100, 1000), 640, 2560, (256, 2560)),
        ((1, 5000), 640, 2560, (1, 2560)),
        ((3, 2), 2, 10, (3, 2)),
    ],
)
def test_known_sizes(image, short, longest, expected):
    assert resized_size(*image, short_side_px=short, max_side_px=longest) == expected


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), short=st.integers(1, 800), more=st.integers(0, 3000))
def test_no_side_is_too_long_and_the_short_one_is_met_unless_the_long_one_binds(height, width, short, more):
    found = resized_size(height, width, short_side_px=short, max_side_px=short + more)
    assert 1 <= min(found) <= short
    assert max(found) <= short + more
    if max(found) < short + more:
        assert min(found) == short


def test_pixels_are_pillows_bilinear():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    resized = resize_image(image, short_side_px=12, max_side_px=40)
    assert np.array_equal(np.asarray(resized), np.asarray(image.resize((20, 12), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("bounds", [(0, 10), (20, 10)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match=f"short_side_px {bounds[0]}, max_side_px {bounds[1]}"):
        resized_size(10, 10, short_side_px=bounds[0], max_side_px=bounds[1])


@given(
    found=st.tuples(st.integers(1, 40), st.integers(1, 40)), wanted=st.tuples(st.integers(1, 90), st.integers(1, 90))
)
def test_labels_are_resized_by_indices_that_are_rounded_down(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    for axis in (0, 1):
        indices = np.indices(found)[axis].astype(np.uint16)
        resized = nearest_resized(indices, *wanted)
        assert resized.dtype == np.uint16
        exact = np.arange(wanted[axis]) * found[axis] / wanted[axis]
        off = exact - np.moveaxis(resized, axis, -1)
        assert (off > -1e-5).all()  # torch rounds the product, so a whole number may be taken for a little less
        assert (off < 1 + 1e-5).all()
