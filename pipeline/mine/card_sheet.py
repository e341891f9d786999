"""A sheet of pairs drawn by lot: crop as stored, crop as CLIP sees it, noun, share of the picture, and score."""

import hashlib
import heapq
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.stored_pictures import pair_pictures
from storage_schemas.artifact import Artifact
from storage_schemas.pairs import PairMembers, read_index, read_members
from storage_schemas.scenes import OK

COLUMNS, ROWS = 6, 6
_SIDE_PX = 112
_GAP_PX = 10
_LINE_PX = 16
_CELL_PX = (2 * _SIDE_PX + 4, _SIDE_PX + _LINE_PX)
_NUMBERS = ("noun", "score", "area_px", "height_px", "width_px")
_PAPER, _INK, _FRAME = "white", "black", "#d0d0d0"


class _Drawn(NamedTuple):
    """A pair that was drawn."""

    noun: str
    score: float
    area_share: float
    members: PairMembers


def contact_sheet(artifact: Artifact) -> bytes:
    """Draw a sheet of pairs as a PNG file, the highest scores first.

    The lot falls by digests of the pairs' names: evenly, and the same on every run.
    """
    drawn = _drawn(artifact, COLUMNS * ROWS)
    rows = max(1, -(-len(drawn) // COLUMNS))
    width, height = (
        count * (side + _GAP_PX) + _GAP_PX for count, side in ((COLUMNS, _CELL_PX[0]), (rows, _CELL_PX[1]))
    )
    sheet = Image.new("RGB", (width, height), _PAPER)
    for place, pair in enumerate(sorted(drawn, key=lambda pair: (-pair.score, pair.noun))):
        row, column = divmod(place, COLUMNS)
        _draw_cell(sheet, pair, _GAP_PX + column * (_CELL_PX[0] + _GAP_PX), _GAP_PX + row * (_CELL_PX[1] + _GAP_PX))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def visible(text: str) -> str:
    """Write characters without a shape (line ends, marks of direction, control characters) as Python's escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


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


def _draw_cell(sheet: Image.Image, pair: _Drawn, x: int, y: int) -> None:
    """Draw one pair: on the left its box, on the right what is outside the mask in CLIP's mean colour.

    Boxes are brought to one size, so that the share of the picture alone tells a few pixels from a large region.
    """
    from ovseg_models.masked_crops import CLIP_MEAN_RGB  # imports torch

    crop, inside = pair_pictures(pair.members)
    fill = np.array([round(255 * part) for part in CLIP_MEAN_RGB], np.uint8)
    for number, pixels in enumerate((crop, np.where(inside[..., None], crop, fill))):
        shown = Image.fromarray(pixels)
        scale = _SIDE_PX / max(shown.size)
        size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
        shown = shown.resize(size, Image.Resampling.BICUBIC)
        left = x + number * (_SIDE_PX + 4)
        ImageDraw.Draw(sheet).rectangle((left, y, left + _SIDE_PX - 1, y + _SIDE_PX - 1), outline=_FRAME)
        sheet.paste(shown, (left + (_SIDE_PX - size[0]) // 2, y + (_SIDE_PX - size[1]) // 2))
    draw = ImageDraw.Draw(sheet)
    draw.text((x, y + _SIDE_PX + 1), _fitting(pair.noun), fill=_INK, font=_font())
    draw.text((x + _CELL_PX[0] - 2, y + _SIDE_PX + 1), _numbers(pair), fill=_INK, font=_font(), anchor="ra")


def _numbers(pair: _Drawn) -> str:
    """Write how much of the picture the mask covers, and the score."""
    share = "<0.1%" if pair.area_share < 0.001 else f"{pair.area_share:.1%}"
    return f"{share}  {pair.score:.3f}"


def _fitting(noun: str) -> str:
    """Shorten a noun that would run into the numbers; letters that the font lacks are shown as boxes."""
    noun = visible(noun)
    return noun if len(noun) <= 16 else f"{noun[:15]}…"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
