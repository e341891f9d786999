"""A picture of what adapting CLIP changes: images beside their label maps and the predictions before and after it.

Reads ``scores`` and the ``scenes`` that they are of.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from ovseg_models.overlay import palette
from pipeline.evaluate.report.pictures import PictureBook, spread
from storage_schemas.commit import Disk, make_directories, write_file

CELL_PX = 224
_GAP_PX, _HEADING_PX, _FONT_PX, _NAME_ROOM_PX = 10, 24, 14, 9.0
_UNLABELLED = (225, 225, 225)
_PAPER, _INK = "white", "black"

LabelMap = npt.NDArray[np.integer]


def side_by_side(books: Mapping[str, PictureBook], class_names: Sequence[str], *, images: int) -> Image.Image:
    """Draw a few images in rows: the image, its label map, and one prediction per evaluation.

    The images are spread evenly over the data set, so that nobody has chosen them. Pixels without a class are grey in
    all maps. A class is named in each of its places that are large enough.

    Args:
        books: Evaluations on the same scenes, by the headings of their columns.
        class_names: By class index.
        images: Rows at most.
    """
    shared = set.intersection(*({image.key for image in book.images} for book in books.values()))
    keys = spread(sorted(shared), images)
    columns = ("image", "label map", *books)
    sheet = Image.new("RGB", (_place(len(columns)), _HEADING_PX + _place(len(keys))), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(columns):
        middle = (_place(column) + CELL_PX / 2, _HEADING_PX - 2)
        draw.text(middle, heading, fill=_INK, font=_font(), anchor="mb")
    for row, key in enumerate(keys):
        for column, cell in enumerate(_cells(list(books.values()), key, class_names)):
            sheet.paste(cell, (_place(column), _HEADING_PX + _place(row) - _GAP_PX // 2))
    return sheet


def write_picture(picture: Image.Image, target: Path) -> None:
    """Write a picture as a PNG of at most 256 colours, so that it appears whole or not at all.

    Raises:
        WriteError: If the operating system refuses.
    """
    buffer = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    make_directories(target.absolute().parent, Disk())
    write_file(target, buffer.getvalue(), Disk())


def _cells(books: Sequence[PictureBook], key: str, class_names: Sequence[str]) -> list[Image.Image]:
    """Draw one row."""
    found = [book.maps(key) for book in books]
    scene = found[0][0]
    unlabelled = scene.labels >= len(class_names)
    maps = [scene.labels, *(np.where(unlabelled, scene.labels, predicted) for _, predicted in found)]
    return [_fitted(scene.image), *(named_map(labels, class_names) for labels in maps)]


def named_map(labels: LabelMap, class_names: Sequence[str]) -> Image.Image:
    """Paint a label map in its classes' colours and write the names of classes where they have room.

    Args:
        labels: Class indices [height width]; those without a name are painted grey.
        class_names: By class index.
    """
    known = labels < len(class_names)
    colours = palette(len(class_names))[np.where(known, labels, 0)]
    shown = _fitted(Image.fromarray(np.where(known[..., None], colours, np.array(_UNLABELLED, np.uint8))))
    draw = ImageDraw.Draw(shown)
    scale = min(shown.width / labels.shape[1], shown.height / labels.shape[0])
    for label in np.unique(labels[known]).tolist():
        depth = distance_transform_edt(np.pad(labels == label, 1))
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth.max() * scale >= _NAME_ROOM_PX:
            half = 0.5 * draw.textlength(class_names[label], font=_font()) + 2.0
            x = min(max((float(column) - 0.5) * scale, half), shown.width - half)
            y = min(max((float(row) - 0.5) * scale, _FONT_PX / 2), shown.height - _FONT_PX / 2)
            draw.text(
                (x, y), class_names[label], fill="white", font=_font(), anchor="mm", stroke_width=2, stroke_fill=_INK
            )
    return shown


def _fitted(image: Image.Image) -> Image.Image:
    """Bring the long side to the cell's; no colour is mixed."""
    scale = CELL_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST)


def _place(number: int) -> int:
    """Return where a cell begins, or what so many cells take [px]."""
    return _GAP_PX + number * (CELL_PX + _GAP_PX)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)
