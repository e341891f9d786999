"""Three small pictures as scenes, random masks of them, and the masks that come back from an import."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.import_masks.import_masks import import_masks
from pipeline.mine.regions import NetSize
from pipeline.prepare.prepare import prepare
from pipeline.settings import ComputeSettings, MasksSettings, PrepareSettings, load_section
from storage_schemas.artifact import Artifact
from storage_schemas.proposals import UNPLACED, SceneProposals, read_proposals
from storage_schemas.rle import decode_masks

UPRIGHT = {"low": (40, 60), "tall": (60, 40), "turned": (60, 40)}
"""Height and width of each picture as it is shown; all short sides are 40 px, at which regions are expected."""

TURNED_BY = 6
"""EXIF orientation of the picture that is stored otherwise than it is shown: 40 x 60 px."""

Masks = npt.NDArray[np.bool_]


def make_pictures(root: Path) -> Path:
    """Write the pictures as a folder data set; returns it."""
    (root / "images").mkdir(parents=True)
    for number, (name, size) in enumerate(UPRIGHT.items()):
        stored = size[::-1] if name == "turned" else size
        pixels = np.random.default_rng(number).integers(0, 256, (*stored, 3), np.uint8)
        exif = Image.Exif()
        exif[274] = TURNED_BY if name == "turned" else 1
        Image.fromarray(pixels).save(root / "images" / f"{name}.jpg", exif=exif)
    return root


def make_scenes(runs: Path, root: Path) -> Artifact:
    """Prepare the pictures, two to a shard."""
    return prepare(PrepareSettings(dataset="folder", root=make_pictures(root), scenes_per_shard=2), runs).artifact


def blobs(size: tuple[int, int], count: int, seed: int = 0) -> Masks:
    """Draw random rectangles and their unions [mask height width], none of them empty, all different."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
            mask[top : top + rng.integers(3, 20), left : left + rng.integers(3, 20)] = True
    return masks


def coco_record(image_id: Any, mask: Masks, **other: Any) -> dict[str, Any]:
    """Write a mask as a record of COCO results."""
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}
    return {"image_id": image_id, "category_id": 1, "segmentation": segmentation, "score": 0.5} | other


def box_of(mask: Masks) -> list[int]:
    """Return left, top, width, height of a mask."""
    lines, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(lines.min())
    return [left, top, int(columns.max()) + 1 - left, int(lines.max()) + 1 - top]


def uncompressed(mask: Masks) -> dict[str, Any]:
    """Write a mask as uncompressed run lengths, by looking at each pixel."""
    counts, inside = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def import_of(path: Path, scenes: Artifact, runs: Path, *overrides: str, failed: float = 1.0, **other: Any) -> Artifact:
    """Import masks."""
    settings = load_section(MasksSettings, {"path": path}, overrides, "test")
    compute = ComputeSettings(max_failed_share=failed)
    return import_masks(settings, scenes.directory, runs, size=NetSize(40, 80), compute=compute, **other).artifact


def found_in(proposals: Artifact) -> dict[str, SceneProposals]:
    """Read all proposals by the keys of their scenes; pictures that are none by their names."""
    units = proposals.description.units
    assert units[-1] == UNPLACED
    return {scene.key: scene for unit in units for scene in read_proposals(proposals, unit, embedding_dim=0)}


def masks_of(scene: SceneProposals) -> Masks:
    """Decode the masks of a scene [mask height width]."""
    return decode_masks(scene.mask_counts, scene.height_px, scene.width_px)
