"""The reference's shrinking of A-847."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.prepare.ade20k import ReferenceResized, ade20k_847, shrink_image, shrink_label, shrunk_size
from pipeline.prepare.data_root import DataRoot
from tests.pipeline.prepare.layouts import decoded, identity_of, make_ade20k_847, picture, put


@pytest.mark.parametrize(
    ("size", "expected"),
    [((2048, 1536), (683, 512)), ((1467, 2200), (512, 768)), ((512, 900), (512, 900)), ((300, 200), (300, 200))],
)
def test_the_short_side_becomes_512(size, expected):
    assert shrunk_size(*size) == expected


def naive_bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Interpolate pixel by pixel, centres at half-integers."""
    rows, columns, channels = image.shape
    result = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            sx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = image[y0, x0] * (1 - (sx - x0)) + image[y0, x1] * (sx - x0)
            bottom = image[y1, x0] * (1 - (sx - x0)) + image[y1, x1] * (sx - x0)
            result[y, x] = top * (1 - (sy - y0)) + bottom * (sy - y0)
    return result


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_images_are_interpolated_like_the_naive_twin(height, width, new_height, new_width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shrunk = shrink_image(image, new_width, new_height)
    assert np.abs(shrunk - naive_bilinear(image, new_width, new_height)).max() <= 0.5 + 1e-3
    label = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    expected = [
        [label[y * height // new_height, x * width // new_width] for x in range(new_width)] for y in range(new_height)
    ]
    assert np.array_equal(shrink_label(label, new_width, new_height), expected)


def test_scenes_are_shrunk_and_saved_as_jpeg_of_quality_75(tmp_path):
    make_ade20k_847(tmp_path, sizes=[(1100, 600), (30, 20)])
    source = ade20k_847(DataRoot("demo", tmp_path, 10_000_000), "val")
    resized = ReferenceResized(source)
    large, small = map(resized.scene, resized.keys())
    assert (large.width_px, large.height_px) == Image.open(io.BytesIO(large.image)).size == (939, 512)
    assert (small.width_px, small.height_px) == (30, 20)
    assert decoded(large.label_png).shape == (512, 939)
    assert large.classes == source.scene(large.key).classes == (0, 1)
    reference = io.BytesIO()
    Image.fromarray(picture()).save(reference, "JPEG", quality=75)
    for scene in (large, small):
        assert Image.open(io.BytesIO(scene.image)).quantization == Image.open(reference).quantization
    assert identity_of(resized) == identity_of(source)
    assert (resized.vocabulary, resized.ignore_label, resized.licence, resized.found()) == (
        source.vocabulary,
        65535,
        source.licence,
        source.found(),
    )


def test_scenes_without_label_file_or_with_a_broken_image_stay_rows(tmp_path):
    make_ade20k_847(tmp_path)
    directory = tmp_path / "images/ADE/validation/urban/street"
    (directory / "ADE_val_00000001_seg.png").unlink()
    image = directory / "ADE_val_00000002.jpg"
    put(image, image.read_bytes()[:-50])
    resized = ReferenceResized(ade20k_847(DataRoot("demo", tmp_path, 10_000), "val"))
    assert [scene.status for scene in map(resized.scene, resized.keys())] == ["label_missing", "image_truncated"]


def test_pixels_that_do_not_decompress_become_a_row(tmp_path):
    make_ade20k_847(tmp_path)
    image = tmp_path / "images/ADE/validation/urban/street/ADE_val_00000001.jpg"
    sound = io.BytesIO()
    Image.fromarray(picture()).save(sound, "PNG")
    data = sound.getvalue()
    start = data.index(b"IDAT")
    chunk = b"IDAT" + zlib.compress(b"\0")
    put(
        image,
        data[: start - 4]
        + (len(chunk) - 4).to_bytes(4, "big")
        + chunk
        + zlib.crc32(chunk).to_bytes(4, "big")
        + data[-12:],
    )
    resized = ReferenceResized(ade20k_847(DataRoot("demo", tmp_path, 10_000), "val"))
    scene = resized.scene("ADE_val_00000001")
    assert scene.status == "image_unreadable"
    assert "cannot be decoded" in scene.reason
