"""Regions and pictures at the net's size: upright, resized, masks on the picture pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from ovseg_models.image_input import rgb_image
from pipeline.mine.regions import NetSize, SceneRegions, net_label_map, net_picture
from pipeline.stored_pictures import UndecodableError
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene

SIZE = NetSize(32, 64)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def scene(label: np.ndarray | None, image: bytes = b"", **options) -> Scene:
    png = None if label is None else encoded(Image.fromarray(label))
    sizes = {"image_suffix": "png", "width_px": 1, "height_px": 1}
    return Scene(key="a", image_id="1", image=image, label_png=png, **sizes, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_and_labels_are_turned_alike(orientation):
    stored = np.zeros((20, 40), np.uint8)
    stored[2:9, 3:30] = 1
    stored[15:, 35:] = 2
    exif = Image.Exif()
    exif[274] = orientation
    colours = np.array([[10, 10, 10], [250, 10, 10], [10, 250, 10]], np.uint8)
    image = encoded(Image.fromarray(colours[stored]), exif=exif)
    turned = scene(stored, image, exif_orientation=orientation)
    picture = np.asarray(net_picture(turned, NetSize(20, 64)))
    label_map = net_label_map(turned, turned.label_png, NetSize(20, 64))
    np.testing.assert_array_equal(picture, colours[label_map])
    upright = rgb_image(Image.open(io.BytesIO(image)))
    np.testing.assert_array_equal(picture, np.asarray(upright))


def test_regions_of_labels_are_their_classes_at_the_nets_size():
    label = np.full((16, 32), 65535, np.uint16)
    label[:, :8] = 700
    label[4:12, 20:24] = 3
    regions = SceneRegions.of_labels(scene(label), 65535, SIZE)
    assert regions.indices.tolist() == [3, 700]
    assert (regions.height_px, regions.width_px) == (32, 64)
    masks = decode_masks(regions.mask_counts, 32, 64)
    large = label.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(masks, [large == 3, large == 700])
    assert regions.areas_px.tolist() == [128, 512]
    assert regions.boxes_xyxy.tolist() == [[40, 8, 48, 24], [0, 0, 16, 32]]


def test_classes_that_are_left_out_are_no_regions():
    label = np.full((16, 32), 7, np.uint8)
    label[4:12, 20:24] = 3
    assert SceneRegions.of_labels(scene(label), 255, SIZE, left_out=frozenset({7})).indices.tolist() == [3]
    nothing = SceneRegions.of_labels(scene(label), 255, SIZE, left_out=frozenset({3, 7}))
    assert nothing.status == "no_class"
    assert "left out" in nothing.reason


def test_why_a_scene_has_no_regions():
    unlabelled = SceneRegions.of_labels(scene(None), 255, SIZE)
    ignored = SceneRegions.of_labels(scene(np.full((4, 4), 255, np.uint8)), 255, SIZE)
    broken = SceneRegions.of_labels(scene(None, status="image_truncated", reason="it ends early"), 255, SIZE)
    assert [part.status for part in (unlabelled, ignored, broken)] == ["no_label", "no_class", "image_truncated"]
    assert "nothing but the ignore label 255" in ignored.reason
    assert broken.reason == "it ends early"
    assert all(len(part.indices) == len(part.mask_counts) == 0 for part in (unlabelled, ignored, broken))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG", "half"])
def test_a_damaged_picture_is_refused(damage):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    image = whole[: len(whole) // 2] if damage == "half" else damage
    with pytest.raises(UndecodableError, match="cannot be decoded: "):
        net_picture(scene(None, image), SIZE)
