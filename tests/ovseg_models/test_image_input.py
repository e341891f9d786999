"""Every kind of image comes out as upright 8-bit RGB."""

import numpy as np
import pytest
from PIL import Image

from ovseg_models.image_input import rgb_image


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


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("array", [np.zeros((4, 6, 2), np.uint8), np.zeros((0, 6), np.uint8), np.zeros((3, 3))])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"found an array of .* uint8 \[height width\]"):
        rgb_image(array)


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


@pytest.mark.usefixtures("without_shape_checks")
def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="found a list"):
        rgb_image([[1, 2]])
