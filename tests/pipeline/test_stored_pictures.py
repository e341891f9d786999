"""Scenes that are turned: every stage sees the picture upright, its labels with it, and says so in its digest."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.preprocessing import CropFormat
from pipeline.finetune.validation import Validation
from pipeline.prepare.images import inspect_image
from pipeline.settings import Settings, load_settings
from pipeline.stored_pictures import UndecodableError, pair_pictures, upright_labels, upright_picture
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.training.data_order import Draw
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.pairs import PairMembers
from storage_schemas.scenes import Scene
from tests.pipeline.planned import prepare_scenes

STORED = np.zeros((20, 40), np.uint8)
STORED[2:9, 3:30] = 1
STORED[15:, 35:] = 2
COLOURS = np.array([[10, 10, 10], [250, 10, 10], [10, 250, 10]], np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
)


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def turned_scene(orientation: int, image: bytes = b"", **parts: object) -> Scene:
    """Return a scene whose colours are its classes."""
    whole = Scene(
        key="a",
        image_id="1",
        image=image or encoded(COLOURS[STORED], exif=exif(orientation)),
        image_suffix="png",
        width_px=40,
        height_px=20,
        exif_orientation=orientation,
        label_png=encoded(STORED),
        classes=(0, 1, 2),
    )
    return dataclasses.replace(whole, **parts)


class Scenes:
    """A collection of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def read(self, number: int) -> Scene:
        return self.scene

    def place(self, number: int) -> tuple[str, str]:
        return "shard-00000", self.scene.key


ORIENTATIONS = pytest.mark.parametrize("orientation", range(1, 9))


@ORIENTATIONS
def test_picture_and_labels_are_turned_alike(orientation: int) -> None:
    scene = turned_scene(orientation)
    picture, labels = np.asarray(upright_picture(scene)), upright_labels(scene.label_png, orientation)
    np.testing.assert_array_equal(picture, COLOURS[labels])
    with Image.open(io.BytesIO(scene.image)) as image:
        assert picture.shape[:2] == ((40, 20) if orientation > 4 else (20, 40))
        assert (picture == COLOURS[STORED]).all() if orientation == 1 else image.getexif()[274] == orientation


def test_a_quarter_turn_goes_clockwise() -> None:
    labels = upright_labels(encoded(np.array([[1, 2], [3, 4], [5, 6]], np.uint8)), 6)
    assert labels.tolist() == [[5, 3, 1], [6, 4, 2]]


def test_labels_of_16_bits_are_kept() -> None:
    assert upright_labels(encoded(np.array([[65535, 846]], np.uint16)), 3).tolist() == [[846, 65535]]


def test_an_orientation_of_xmp_alone_turns_neither() -> None:
    image = encoded(COLOURS[STORED], "JPEG", quality=95, xmp=XMP)
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.getexif()[274] == 3  # what Pillow would turn by
    facts = inspect_image(image, max_image_px=10_000)
    picture = np.asarray(upright_picture(turned_scene(facts.exif_orientation, image)))
    assert abs(picture.astype(int) - COLOURS[STORED]).mean() < 10


def stored_upright(scene: Scene) -> Scene:
    """Return the same scene as files that nobody has to turn."""
    labels = upright_labels(scene.label_png, scene.exif_orientation)
    return turned_scene(1, encoded(COLOURS[labels]), label_png=encoded(labels.astype(np.uint8)))


@ORIENTATIONS
def test_stage_1_learns_and_measures_upright(orientation: int) -> None:
    turned = turned_scene(orientation)
    upright = stored_upright(turned)
    image, label_map, _ = read_labelled(Scenes(turned), 0)
    np.testing.assert_array_equal(np.asarray(image), COLOURS[label_map])
    np.testing.assert_array_equal(label_map, read_labelled(Scenes(upright), 0)[1])
    augmentation = Augmentation((20,), 40, 30, 255)
    batches = [ProposalSamples(Scenes(scene), augmentation, seed=0).batch([Draw(0, 0)]) for scene in (turned, upright)]
    assert all(torch.equal(mine, other) for mine, other in zip(*batches, strict=True))


@ORIENTATIONS
def test_stage_3_measures_upright(orientation: int) -> None:
    turned = turned_scene(orientation)
    seen = []
    for scene in (turned, stored_upright(turned)):
        crops: list[torch.Tensor] = []

        def embed(batch: torch.Tensor, masks: torch.Tensor, crops: list[torch.Tensor] = crops) -> torch.Tensor:
            crops += [batch, masks]
            return torch.ones(len(batch), 4)

        Validation(Scenes(scene), torch.ones(3, 4), {}, CropFormat(16, 4)).counts(embed, [0])
        seen.append(crops)
    assert len(seen[0][0]) == 3
    assert all(torch.equal(mine, expected) for mine, expected in zip(*seen, strict=True))


def folder_settings(runs: Path, orientation: int) -> Settings:
    """Describe a folder of two pictures, of which one may have to be turned, and prepare it."""
    root = runs / "pictures"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("ground\nwall\ndoor\n")
    for stem, turn in (("a", 1), ("b", orientation)):
        (root / "images" / f"{stem}.png").write_bytes(encoded(COLOURS[STORED], exif=exif(turn)))
        (root / "labels" / f"{stem}.png").write_bytes(encoded(STORED))
    settings = load_settings(
        None,
        [
            f"runs_dir={runs}",
            f"datasets.own={{dataset='folder', root={str(root)!r}}}",
            "clip={architecture='drawn-world-small', pretrained='shipped'}",
            "proposal_net.dataset=own",
        ],
    )
    prepare_scenes(settings, ["own"])
    return settings


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_crop_and_mask_come_back() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:] = 255
    pixels, inside = pair_pictures(PairMembers(png(crop), png(mask)))
    np.testing.assert_array_equal(pixels, crop)
    np.testing.assert_array_equal(inside, mask == 255)
    assert pixels.flags.writeable
    assert inside.flags.writeable


def test_a_grey_crop_becomes_rgb() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    pixels, _ = pair_pictures(PairMembers(png(grey), png(grey)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG"])
def test_damaged_bytes_raise_one_error_with_the_reason_of_pillow(damage: bytes) -> None:
    whole = png(np.zeros((2, 2), np.uint8))
    for members in (PairMembers(damage, whole), PairMembers(whole, damage)):
        with pytest.raises(UndecodableError, match=r"cannot be decoded: .*cannot identify image"):
            pair_pictures(members)
