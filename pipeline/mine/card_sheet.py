"""A sheet of pairs drawn by lot: crop as stored, what lies inside the mask, noun, share of the picture, and score."""

import hashlib
import heapq
from typing import NamedTuple

import numpy as np

from pipeline.picture_sheets import Cell, in_rows, picture_sheet, png
from pipeline.stored_pictures import pair_pictures
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.pairs import PairMembers, read_index, read_members

COLUMNS, ROWS = 6, 6
PICTURE_PX = 112
_GREY = np.uint8(127)  # each CLIP has a colour of its own outside masks
_NUMBERS = ("noun", "score", "area_px", "height_px", "width_px")


class _Drawn(NamedTuple):
    """A pair that was drawn."""

    noun: str
    score: float | None
    area_share: float
    members: PairMembers


def contact_sheet(artifact: Artifact) -> bytes:
    """Draw a sheet of pairs as a PNG file, the highest scores first.

    The lot falls by digests of the pairs' names: evenly, and the same on every run. Boxes are brought to one size, so
    that only the share of the picture distinguishes a few pixels from a large region.
    """
    cells = []
    for pair in sorted(_drawn(artifact, COLUMNS * ROWS), key=lambda pair: (-(pair.score or 0), pair.noun)):
        crop, inside = pair_pictures(pair.members)
        share = "<0.1%" if pair.area_share < 0.001 else f"{pair.area_share:.1%}"
        masked = np.where(inside[..., None], crop, _GREY)
        score = "" if pair.score is None else f"  {pair.score:.3f}"
        cells.append(Cell((crop, masked), pair.noun, f"{share}{score}"))
    sheet = picture_sheet(
        in_rows(cells, COLUMNS),
        title="Pairs, the highest scores first: noun, share of the picture that the mask covers, score by CLIP",
        heads=("crop", "inside the mask"),
        picture_px=PICTURE_PX,
        framed=True,
    )
    return png(sheet)


def _drawn(artifact: Artifact, count: int) -> list[_Drawn]:
    """Draw pairs by lot and read them."""
    lots: list[tuple[str, str, int]] = []
    for unit in artifact.description.units:
        index = read_index(artifact, unit, columns=("pair", "status"))
        named = enumerate(zip(index["pair"].to_pylist(), index["status"].to_pylist(), strict=True))
        found = (
            (hashlib.sha256(pair.encode()).hexdigest(), unit, row) for row, (pair, status) in named if status == OK
        )
        lots = heapq.nsmallest(count, [*lots, *found])
    drawn: list[_Drawn] = []
    for unit in sorted({unit for _, unit, _ in lots}):
        rows = sorted(row for _, of_unit, row in lots if of_unit == unit)
        index = read_index(artifact, unit, columns=(*_NUMBERS, "crop", "crop_mask"))
        for row, members in zip(rows, read_members(artifact, unit, index, rows), strict=True):
            noun, score, area, height, width = (index[column][row].as_py() for column in _NUMBERS)
            drawn.append(_Drawn(noun, score, area / (height * width), members))
    return drawn
