"""Label maps: decoding of every depth, mapping to indices, and the encoder."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, encode_png, present_values, read_index_png, read_rgb_png
from tests.pipeline.prepare.layouts import decoded, encoded, picture

LIMIT_PX = 1 << 20


def image_of(values: np.ndarray, orientation: int = 1) -> ImageFacts:
    return ImageFacts("jpg", values.shape[1], values.shape[0], orientation, "rgb")


@given(
    npst.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        npst.array_shapes(min_dims=2, max_dims=2, max_side=9),
    )
)
def test_encoder_round_trip_by_pillow(values):
    png = encode_png(values)
    back = decoded(png)
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)
    again, grey = read_index_png(png, image_of(values), max_image_px=LIMIT_PX)
    assert grey
    assert np.array_equal(again, values)


def test_encoder_takes_any_memory_order():
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert encode_png(np.asfortranarray(values)) == encode_png(values)
    assert encode_png(values.astype(np.uint8)[:, ::-1]) == encode_png(
        np.ascontiguousarray(values.astype(np.uint8)[:, ::-1])
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_of_every_depth_give_indices(bits):
    values = (np.arange(24).reshape(4, 6) % (1 << bits)).astype(np.uint8)
    palette = Image.new("P", (6, 4))
    palette.putdata(values.ravel().tolist())
    palette.putpalette([value * 91 % 256 for value in range(3 << bits)])
    found, grey = read_index_png(encoded(palette, bits=bits), image_of(values), max_image_px=LIMIT_PX)
    assert not grey
    assert found.dtype == np.uint8
    assert np.array_equal(found, values)


def test_values_are_mapped_and_others_are_a_fault_or_ignored():
    values = np.array([[0, 1, 7], [2, 2, 0]], np.uint8)
    strict = ClassTable({1: 0, 2: 1}, ignore_label=255, ignored=frozenset({0}))
    lenient = ClassTable({1: 0, 2: 1}, ignore_label=255, ignored=frozenset({0}), others_ignored=True)
    with pytest.raises(SceneFault, match="the label holds 7, which is no class's value"):
        strict.label_map(values)
    label = lenient.label_map(values)
    assert label.classes == (0, 1)
    assert np.array_equal(decoded(label.png), [[255, 0, 255], [1, 1, 255]])


def test_a_file_that_needs_no_change_is_kept_byte_by_byte():
    table = ClassTable({0: 0, 1: 1}, ignore_label=255, ignored=frozenset({255}))
    values = np.array([[0, 1], [255, 1]], np.uint8)
    original = encoded(values, compress_level=9)
    assert original != encode_png(values)
    assert table.label_map(values, original).png is original
    wide = ClassTable({0: 0, 1: 1}, ignore_label=65535, ignored=frozenset({65535}))
    assert decoded(wide.label_map(values & 1, original).png).dtype == np.uint16


def test_long_vocabularies_need_16_bits():
    table = ClassTable({300: 0, 6655: 846}, ignore_label=65535, ignored=frozenset({0}))
    label = table.label_map(np.array([[300, 6655, 0]], np.uint16))
    assert decoded(label.png).tolist() == [[0, 846, 65535]]
    assert label.classes == (0, 846)


@given(npst.arrays(st.sampled_from([np.uint8, np.uint16]), npst.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_present_values_are_the_distinct_ones(values):
    assert np.array_equal(present_values(values), np.unique(values))


GREY = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("data", "slug", "reason"),
    [
        (encoded(picture(6, 4), "JPEG"), "label_unreadable", "expected a PNG"),
        (encoded(GREY)[:-8], "label_unreadable", "ends without an end chunk"),
        (encoded(GREY)[:40] + b"x" + encoded(GREY)[41:], "label_unreadable", "checksum"),
        (encoded(picture(6, 4)), "label_mode_unsupported", "colour type 2, 8 bits; expected palette, or grey"),
        (encoded(Image.new("1", (6, 4))), "label_mode_unsupported", "colour type 0, 1 bits"),
        (encoded(np.zeros((6, 4), np.uint8)), "label_size_mismatch", "the label has 4 x 6 px, the image 6 x 4"),
        (encoded(np.zeros((1100, 1100), np.uint8)), "image_too_large", "1100 x 1100 px"),
    ],
)
def test_unusable_label_files(data, slug, reason):
    with pytest.raises(SceneFault, match=reason) as found:
        read_index_png(data, image_of(GREY), max_image_px=LIMIT_PX)
    assert found.value.slug == slug


def test_pixels_that_do_not_decompress_are_a_fault():
    sound = encode_png(np.arange(240, dtype=np.uint8).reshape(12, 20))
    start = sound.index(b"IDAT") + 4
    length = int.from_bytes(sound[start - 8 : start - 4], "big")
    body = sound[start : start + length // 2]
    chunk = b"IDAT" + body
    cut = sound[: start - 8] + len(body).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(SceneFault, match="cannot be decoded") as found:
        read_index_png(cut + sound[-12:], ImageFacts("jpg", 20, 12, 1, "rgb"), max_image_px=LIMIT_PX)
    assert found.value.slug == "label_unreadable"


def test_a_label_turned_by_exif_says_so():
    with pytest.raises(SceneFault, match="the image 6 x 4, turned by EXIF"):
        read_index_png(encoded(GREY.T), image_of(GREY, orientation=6), max_image_px=LIMIT_PX)


def test_rgb_labels():
    rgb = picture(6, 4)
    assert np.array_equal(read_rgb_png(encoded(rgb), image_of(rgb), max_image_px=LIMIT_PX), rgb)
    with pytest.raises(SceneFault, match="expected RGB of 8 bits") as found:
        read_rgb_png(encoded(GREY), image_of(GREY), max_image_px=LIMIT_PX)
    assert found.value.slug == "label_mode_unsupported"


def test_interlaced_labels_decode():
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    found, _ = read_index_png(buffer.getvalue(), image_of(values), max_image_px=LIMIT_PX)
    assert np.array_equal(found, values)
