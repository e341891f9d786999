"""Sheets of pictures for reports: cells in rows, with a title, column heads, captions and names on regions.

All sheets of the pipeline are laid out here. Texts are written in the font that Pillow brings.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.visible_text import visible_line
from storage_schemas.commit import Disk, make_directories, write_file

INK, RED = (30, 30, 30), (190, 40, 20)
UNLABELLED = (225, 225, 225)

_PAPER, _FRAME, _FAINT = (255, 255, 255), (208, 208, 208), (100, 100, 100)
_GAP_PX, _PAIR_GAP_PX, _LINE_PX, _FONT_PX, _TITLE_PX = 10, 4, 17, 13, 16
_NAME_ROOM = 0.69  # of the letters' size: depth of a region that is named

Pixels = npt.NDArray[np.uint8]
_Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Cell:
    """Pictures side by side, and what is written below them.

    Attributes:
        pictures: As many as in every other cell of the sheet.
        caption: Below them on the left; what is too long is cut in its middle, as its end is often a figure.
        note: Below them on the right, never cut.
        ink: Of the caption.
    """

    pictures: tuple[Image.Image | Pixels, ...]
    caption: str = ""
    note: str = ""
    ink: _Ink = INK


def picture_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str,
    heads: Sequence[str] = (),
    picture_px: int,
    caption_lines: int = 1,
    framed: bool = False,
    smooth: bool = True,
) -> Image.Image:
    """Lay out cells; each row is as high as its highest picture.

    Args:
        rows: Cells from left to right; a row may hold fewer than others.
        title: On top, over several lines where it is long.
        heads: One above each picture of a row; fewer are repeated from cell to cell.
        picture_px: Side of the square that each picture is fitted in.
        caption_lines: Lines below the pictures of each cell; none where no cell has a text.
        framed: Draw the square around each picture, which is in its middle; else it is at the upper left.
        smooth: Mix colours where a size is changed; else each pixel keeps the colour that it had.
    """
    columns = max((len(row) for row in rows), default=1)
    beside = max((len(cell.pictures) for row in rows for cell in row), default=1)
    cell_px = beside * picture_px + (beside - 1) * _PAIR_GAP_PX
    width = columns * (cell_px + _GAP_PX) + _GAP_PX
    title_lines = _wrapped(title, width - 2 * _GAP_PX, _TITLE_PX)
    heads_px = _LINE_PX if heads else 0
    top = _GAP_PX + len(title_lines) * (_TITLE_PX + 4) + _GAP_PX // 2 + heads_px
    pictures = [[[fitted(shown, picture_px, smooth=smooth) for shown in cell.pictures] for cell in row] for row in rows]
    heights = [
        picture_px if framed else max((shown.height for cell in row for shown in cell), default=0) for row in pictures
    ]
    text_px = caption_lines * _LINE_PX if any(cell.caption or cell.note for row in rows for cell in row) else 0
    sheet = Image.new("RGB", (width, top + sum(heights) + len(rows) * (text_px + _GAP_PX)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(title_lines):
        draw.text((_GAP_PX, _GAP_PX + number * (_TITLE_PX + 4)), line, fill=INK, font=_font(_TITLE_PX))

    def left_of(column: int, place: int = 0) -> int:
        return _GAP_PX + column * (cell_px + _GAP_PX) + place * (picture_px + _PAIR_GAP_PX)

    for number in range(columns * beside if heads else 0):
        head = _cut(heads[number % len(heads)], picture_px)
        draw.text((left_of(*divmod(number, beside)), top - _LINE_PX), head, fill=_FAINT, font=_font())
    for row, pictures_of_row, height in zip(rows, pictures, heights, strict=True):
        for column, (cell, shown_in_cell) in enumerate(zip(row, pictures_of_row, strict=True)):
            for place, shown in enumerate(shown_in_cell):
                left = left_of(column, place)
                if framed:
                    draw.rectangle((left, top, left + picture_px - 1, top + picture_px - 1), outline=_FRAME)
                    middle = (left + (picture_px - shown.width) // 2, top + (picture_px - shown.height) // 2)
                    sheet.paste(shown, middle)
                else:
                    sheet.paste(shown, (left, top))
            left, below = left_of(column), top + height + 1
            note_px = math.ceil(draw.textlength(cell.note, font=_font())) if cell.note else 0
            draw.text((left + cell_px - note_px, below), cell.note, fill=INK, font=_font())
            caption = visible_line(cell.caption)
            room = cell_px - note_px - (8 if note_px else 0)
            lines = _wrapped(caption, room, _FONT_PX)[:caption_lines] if caption_lines > 1 else [_cut(caption, room)]
            for number, line in enumerate(lines):
                draw.text((left, below + number * _LINE_PX), line, fill=cell.ink, font=_font())
        top += height + text_px + _GAP_PX
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Set sheets below each other."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), _PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def in_rows(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """Break a list of cells into rows."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def painted(labels: npt.NDArray[np.integer], colours: Pixels, over: Pixels | None = None) -> Pixels:
    """Paint a label map in its classes' colours.

    Args:
        labels: Class indices [height width]; what is no class is grey.
        colours: By class index [class 3].
        over: A picture of the same size [height width 3], whose lightness shines through.
    """
    known = labels < len(colours)
    flat = colours[np.where(known, labels, 0)]
    shown: Pixels = np.where(known[..., None], flat, np.array(UNLABELLED, np.uint8))
    if over is not None:
        lightness = over.mean(axis=2, keepdims=True)
        shown = np.where(known[..., None], 0.7 * flat + 0.3 * lightness, lightness).astype(np.uint8)
    return shown


class NamePlace(NamedTuple):
    """Where the middle of a name is, in pixels of the picture."""

    name: str
    x: float
    y: float


def name_places(
    regions: Sequence[tuple[str, npt.NDArray[np.bool_]]],
    size_px: tuple[float, float],
    *,
    font_px: int = _FONT_PX,
    always: bool = False,
) -> list[NamePlace]:
    """Find places for the names of regions: each where its region is thickest, inside the picture, none over another.

    A name without a place is left out, so it needs a legend, too.

    Args:
        regions: Names with masks [height width] of one size, not necessarily the picture's.
        size_px: Width and height of the picture.
        font_px: Size of the letters.
        always: Write a name even where its region is too small for it.
    """
    from scipy.ndimage import distance_transform_edt  # planning imports this module, and no scipy

    width, height = size_px
    # one pixel of padding, so that the picture's edge is an edge of the region, too
    depths = [(name, distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]) for name, region in regions]
    places: list[NamePlace] = []
    taken: list[tuple[float, float, float, float]] = []
    for name, depth in sorted(depths, key=lambda entry: -float(entry[1].max())):
        rows, columns = depth.shape
        scale = min(width / columns, height / rows)
        half_width, half_height = 0.5 * float(_font(font_px).getlength(name)) + 2.0, 0.7 * font_px
        if 2 * half_width > width and not always:
            continue
        # where the middle of the name is written if it belongs to a pixel of this column or row
        x = np.clip((np.arange(columns) + 0.5) * scale, half_width, max(half_width, width - half_width))
        y = np.clip((np.arange(rows) + 0.5) * scale, half_height, max(half_height, height - half_height))
        free = depth.copy()
        for other_x, other_y, other_width, other_height in taken:
            beside = np.abs(x - other_x) >= half_width + other_width
            below = np.abs(y - other_y) >= half_height + other_height
            free[~(below[:, None] | beside[None, :])] = 0.0
        row, column = np.unravel_index(int(free.argmax()), free.shape)
        if free[row, column] * scale < (1e-9 if always else _NAME_ROOM * font_px):
            continue
        places.append(NamePlace(name, float(x[column]), float(y[row])))
        taken.append((float(x[column]), float(y[row]), half_width, half_height))
    return places


def write_names(
    picture: Image.Image, regions: Sequence[tuple[str, npt.NDArray[np.bool_]]], *, always: bool = False
) -> None:
    """Write names on a picture, in white with a black edge, which can be read on any colour; as `name_places`."""
    draw = ImageDraw.Draw(picture)
    for name, x, y in name_places(regions, picture.size, always=always):
        draw.text((x, y), name, fill="white", font=_font(), anchor="mm", stroke_width=2, stroke_fill="black")


def fitted(shown: Image.Image | Pixels, side_px: int, *, smooth: bool) -> Image.Image:
    """Bring the long side of a picture to that of its square."""
    picture = shown if isinstance(shown, Image.Image) else Image.fromarray(shown)
    scale = side_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if not smooth:
        method = Image.Resampling.NEAREST
    else:
        method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR
    return picture.resize(size, method)


def png(picture: Image.Image, *, colours: int | None = None) -> bytes:
    """Encode a sheet as a PNG file, of at most so many colours: a fifth of the bytes, as noise becomes flat."""
    buffer = io.BytesIO()
    shown = picture if colours is None else picture.quantize(colours, dither=Image.Dither.NONE)
    shown.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_picture(picture: Image.Image, target: Path) -> None:
    """Write a picture as a PNG of at most 256 colours, so that it appears whole or not at all.

    Raises:
        WriteError: If the operating system refuses.
    """
    make_directories(target.absolute().parent, Disk())
    write_file(target, png(picture, colours=256), Disk())


def _wrapped(text: str, room_px: int, font_px: int) -> list[str]:
    """Break a text into lines."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(font_px).getlength(longer) <= room_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _cut(text: str, room_px: int) -> str:
    """Shorten a text at its middle."""
    font, kept = _font(), len(text)
    shown = text
    while font.getlength(shown) > room_px and kept > 2:
        kept -= 1
        end = min(5, kept // 2)
        shown = f"{text[: kept - end].rstrip()}…{text[len(text) - end :]}"
    return shown


def _font(size_px: int = _FONT_PX) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
