"""Pictures of what proposals missed: each region beside the proposal that meets it best."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data_set_options import RegionKind
from pipeline.evaluate.labelled_images import FailedImage, decoded
from pipeline.picture_sheets import Cell, in_rows, picture_sheet
from pipeline.proposals_report.numbers import FEW_IOU
from pipeline.proposals_report.survey import Region, Survey, region_maps
from storage_schemas.artifact import Artifact
from storage_schemas.proposals import read_proposals
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import ScenesAttributes, SceneShard

SHOWN = 12
_COLUMNS, _SIDE_PX = 3, 190
_REGION, _PROPOSAL = (30, 120, 220), (220, 90, 20)


def most_missed(survey: Survey) -> list[Region]:
    """Choose the regions that cost most: those missed, by what they take of their picture, at most two a picture."""
    missed = sorted(
        (region for region in survey.regions if region.best_iou < FEW_IOU),
        key=lambda region: (-region.share * (1 - region.best_iou), region.key, region.number),
    )
    chosen: list[Region] = []
    for region in missed:
        if sum(one.key == region.key for one in chosen) < 2 and len(chosen) < SHOWN:
            chosen.append(region)
    return chosen


def missed_sheet(
    regions: Sequence[Region], scenes: Artifact, proposals: Artifact, kind: RegionKind
) -> Image.Image | None:
    """Draw regions: the picture with the region in blue, and with its best proposal in orange; None without regions."""
    if not regions:
        return None
    attributes = ScenesAttributes.of(scenes)
    cells: dict[tuple[str, int], Cell] = {}
    for unit in dict.fromkeys(region.unit for region in regions):
        shard = SceneShard(scenes, unit)
        keys = shard.index["key"].to_pylist()
        found_of = {found.key: found for found in read_proposals(proposals, unit)}
        for region in (one for one in regions if one.unit == unit):
            (scene,) = shard.scenes([keys.index(region.key)])
            image = decoded(scene, len(attributes.class_names), attributes.ignore_label)
            if isinstance(image, FailedImage):  # it was measured a moment ago
                continue
            found = found_of[region.key]
            maps, _ = region_maps(image, scene, found, attributes.ignore_label, kind)
            height, width = maps.size
            pixels = np.asarray(image.image.resize((width, height), Image.Resampling.BILINEAR))
            proposal = np.zeros(maps.size, bool)
            if region.proposal >= 0:
                (proposal,) = decode_masks([found.mask_counts[region.proposal]], *maps.size)
            shown = (
                _painted(pixels, maps.masks[region.number].numpy(), _REGION),
                _painted(pixels, proposal, _PROPOSAL),
            )
            name = attributes.class_names[region.class_index]
            cells[region.key, region.number] = Cell(shown, f"{name}, {region.key}", f"IoU {region.best_iou:.2f}")
    ordered = [cells[region.key, region.number] for region in regions if (region.key, region.number) in cells]
    return picture_sheet(
        in_rows(ordered, _COLUMNS),
        title="What was missed: each region (blue), and the mask that meets it best (orange)",
        heads=("region", "best mask"),
        picture_px=_SIDE_PX,
    )


def _painted(
    pixels: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], colour: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Tint a region, and fade what is around it."""
    faded = 0.35 * pixels + 0.65 * np.array([240, 240, 240])
    tinted = 0.6 * pixels + 0.4 * np.array(colour)
    return np.where(inside[:, :, None], tinted, faded).astype(np.uint8)
