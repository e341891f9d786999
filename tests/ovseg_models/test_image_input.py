"""Every kind of image comes out as upright 8-bit RGB."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg_models.image_input import nearest_resized, resize_image, resized_size, rgb_image


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_convert_as_pillow_converts_them(mode):
    image = picture().convert(mode)
    assert np.array_equal(np.asarray(rgb_image(image)), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_keeps_its_colours():
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = b"\x00" * 256
    assert np.array_equal(np.asarray(rgb_image(image)), expected)


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    values = np.array([[0, 256, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.asarray(rgb_image(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 1, 255]


def test_exif_orientation_is_applied_to_files_and_pillow_images(tmp_path):
    image = picture()
    exif = Image.Exif()
    exif[274] = 6  # turn by a quarter, clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(np.asarray(image), -1)
    assert np.array_equal(np.asarray(rgb_image(tmp_path / "turned.png")), expected)
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(np.asarray(rgb_image(opened)), expected)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_arrays_are_taken_as_they_are(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array[..., :3]
    assert np.array_equal(np.asarray(rgb_image(array)), expected)


@pytest.mark.parametrize("array", [np.zeros((4, 6, 2), np.uint8), np.zeros((0, 6), np.uint8), np.zeros((3, 3), int)])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"^photo: found an array of .* uint8 or float \[height width\]"):
        rgb_image(array, "photo")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_tensors_have_their_channels_first_and_floats_from_0_to_1(channels, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 4, 6), dtype=np.uint8)
    tensor = torch.from_numpy(pixels)
    tensor = tensor if dtype == torch.uint8 else (tensor.double() / 255).to(dtype).requires_grad_()
    expected = np.repeat(pixels, 3, axis=0) if channels == 1 else pixels[:3]
    assert np.array_equal(np.asarray(rgb_image(tensor)), expected.transpose(1, 2, 0))
    if dtype == torch.float32:
        as_array = tensor.detach().permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(rgb_image(as_array[..., 0] if channels == 1 else as_array)), rgb_image(tensor))


@pytest.mark.parametrize(
    ("tensor", "remedy"),
    [
        (torch.zeros(5, 6, 3), r"found a tensor \(5, 6, 3\).* use tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 6), r"found a tensor \(2, 3, 4, 6\).* give a batch as list\(images\)"),
        (torch.full((3, 4, 6), 255.0), "floating-point pixels from 255 to 255, 0 to 1 is expected.* to uint8"),
        (torch.full((3, 4, 6), torch.nan), "floating-point pixels from nan to nan"),
        (torch.full((3, 4, 6), -0.1), "undo a normalisation"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), "found an array of int64"),
    ],
)
def test_tensors_whose_meaning_is_not_clear_are_refused(tensor, remedy):
    with pytest.raises(ValueError, match=f"^image: .*{remedy}"):
        rgb_image(tensor)


def test_bytes_and_open_files_are_read_like_files(tmp_path):
    path = tmp_path / "photo.png"
    picture().save(path)
    expected, content = np.asarray(picture()), path.read_bytes()
    with path.open("rb") as opened:
        for given in (content, bytearray(content), io.BytesIO(content), opened):
            assert np.array_equal(np.asarray(rgb_image(given)), expected)
        assert not opened.closed
    with pytest.raises(ValueError, match=r"^image: its bytes cannot be read as an image"):
        rgb_image(content[:20])
    (tmp_path / "cut.png").write_bytes(content[:20])
    with (tmp_path / "cut.png").open("rb") as opened, pytest.raises(ValueError, match=r"cut\.png: the file cannot be"):
        rgb_image(opened)
    with path.open(encoding="latin-1") as opened, pytest.raises(TypeError, match=r"^image: .* open it with mode 'rb'"):
        rgb_image(opened)


def test_an_address_is_not_fetched():
    with pytest.raises(FileNotFoundError, match=r"https://example\.org/a\.jpg: .* not fetched: download it first"):
        rgb_image("https://example.org/a.jpg")


def test_a_missing_file_and_one_that_is_no_image_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg: there is no such file"):
        rgb_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: cannot be read as an image"):
        rgb_image(str(tmp_path / "text.jpg"))


def test_a_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.jpg: cannot be read as an image"):
        rgb_image(path)


def test_an_image_too_large_to_be_meant_is_refused(tmp_path, monkeypatch):
    picture().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ValueError, match=r"bomb\.png: cannot be read as an image"):
        rgb_image(tmp_path / "bomb.png")


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point pixels"):
        rgb_image(Image.fromarray(np.zeros((2, 2), np.float32)))


@pytest.mark.parametrize("given", [[[1, 2]], None, 3])
def test_anything_else_is_refused(given):
    with pytest.raises(TypeError, match=f"^image: found {type(given).__name__}; a path, bytes"):
        rgb_image(given)


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
