"""Scenes as evaluation takes them: upright, or a row that says why not."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.labelled_images import FailedImage, decoded
from storage_schemas.scenes import Scene


def encoded(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def scene(**parts) -> Scene:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    labels = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    known = {"image": encoded(picture), "label_png": encoded(labels), "image_suffix": "png", "classes": (0, 1, 2)}
    values = {**known, **parts}
    return Scene(key="k", image_id="k", width_px=3, height_px=2, **values)


def test_a_scene_is_decoded():
    found = decoded(scene(), 3, 255)
    assert (found.key, found.image.size, found.labels.dtype) == ("k", (3, 2), np.uint16)
    assert found.labels.tolist() == [[0, 1, 2], [255, 1, 0]]


def test_labels_of_16_bits_keep_their_values():
    labels = np.array([[0, 846, 65535], [5, 300, 1]], np.uint16)
    assert decoded(scene(label_png=encoded(labels)), 847, 65535).labels.tolist() == labels.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_and_labels_are_turned_alike(orientation):
    grey = np.array([[10, 60, 110], [160, 210, 250]], np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    picture = encoded(grey.repeat(16, 0).repeat(16, 1)[:, :, None].repeat(3, 2), exif=exif)
    labels = np.array([[0, 1, 2], [3, 4, 5]], np.uint8).repeat(16, 0).repeat(16, 1)
    found = decoded(scene(image=picture, label_png=encoded(labels), exif_orientation=orientation), 6, 255)
    assert (found.image.height, found.image.width) == found.labels.shape
    values = np.asarray(found.image)[:, :, 0]
    assert np.array_equal(grey.ravel()[found.labels], values)


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ({"status": "image_truncated", "reason": "ends early"}, "image_truncated", "ends early"),
        ({"label_png": None}, "no_label", "no labelled pixel to compare with"),
        ({"classes": ()}, "no_label", "no labelled pixel to compare with"),
        ({"label_png": b"\x89PNG"}, "label_unreadable", "the label map cannot be decoded"),
        ({"label_png": encoded(np.full((2, 3), 7, np.uint8))}, "label_outside_vocabulary", "holds 7, .* 3 classes"),
        ({"image": b"\xff\xd8\xff"}, "image_unreadable", "the picture cannot be decoded"),
        ({"label_png": encoded(np.zeros((3, 2), np.uint8))}, "label_unreadable", "picture has 3 x 2 px, .* 2 x 3"),
    ],
)
def test_what_cannot_be_scored_says_why(parts, status, reason):
    found = decoded(scene(**parts), 3, 255)
    assert isinstance(found, FailedImage)
    assert found.status == status
    assert re.search(reason, found.reason)
