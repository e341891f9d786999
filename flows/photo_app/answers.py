"""From a question to what the page shows: a message, the painted photograph, one row and one picture per mask."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.questions import Question, QuestionError
from ovseg_models.overlay import palette
from ovseg_models.query_mode import UNLABELLED
from ovseg_models.segmentation import MaskRow, Segmentation
from ovseg_models.segmenter import Segmenter

TABLE_HEADERS = ("no.", "class", "score", "proposal net", "CLIP", "area", "left, top, right, bottom")
PICTURES_MAX = 24
_PICTURE_SIDE_PX = 480
_FADED_SHARE, _PAPER = 0.82, 255


class LegendEntry(NamedTuple):
    """A class of the overlay: its colour (RGB), its name, and its share of the photograph (0 to 1)."""

    colour: tuple[int, ...]
    name: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the page shows.

    Attributes:
        message: One line: what was found, and what it took.
        overlay: The photograph with its classes painted over it.
        legend: What the colours mean, the largest class first; the page sets it in type, so that a phone's user can
            read it.
        rows: The masks that have a pixel, the best score first; columns as `TABLE_HEADERS`. Boxes are in pixels of the
            photograph as shown.
        pictures: Of the first masks of the table: the photograph faded outside the mask, and its caption.
        result: What all of it shows.
        queries: Of the masks of ``pictures``.
    """

    message: str
    overlay: Image.Image
    legend: tuple[LegendEntry, ...]
    rows: tuple[tuple[str | int, ...], ...]
    pictures: tuple[tuple[Image.Image, str], ...]
    result: Segmentation
    queries: tuple[int, ...]


def answer(question: Question, segmenter: Segmenter, images: EncodedImages) -> Answer:
    """Segment the photograph of a question.

    Args:
        question: What is asked.
        segmenter: Names the proposals; the image models are left to ``images``.
        images: Encodes the photograph, or has it.

    Raises:
        QuestionError: If CLIP knows no word of a name.
    """
    try:
        warning = segmenter.check_names(question.names)
    except ValueError as error:
        raise QuestionError(str(error)) from error
    begin_s = time.monotonic()
    encoded, was_kept = images.encoded(question.photograph)
    encoded_s = time.monotonic()
    result = (segmenter.find if question.find else segmenter.segment)(encoded, question.names)
    shown = sorted(result.found_masks, key=lambda row: -row.score)
    overlay = result.overlay().crop((0, 0, *encoded.image.size))  # without the legend below
    pictures = _pictures(result, shown[:PICTURES_MAX])
    work = "still in memory" if was_kept else f"image models {encoded_s - begin_s:.1f} s"
    return Answer(
        message=f"{_count(len(shown), 'mask')} for {_count(len(question.names), 'name')}, photograph "
        f"{encoded.image.width} x {encoded.image.height} px ({work}, naming {time.monotonic() - encoded_s:.1f} s)"
        + (f". Warning: {warning}" if warning else ""),
        overlay=overlay,
        legend=_legend(result),
        rows=tuple(
            (
                number,
                row.class_name,
                f"{row.score:.2f}",
                f"{row.proposal_prob:.2f}",
                "none" if row.clip_prob is None else f"{row.clip_prob:.2f}",
                f"{row.area_px / (encoded.image.width * encoded.image.height):.1%}",
                ", ".join(map(str, row.box_xyxy)),
            )
            for number, row in enumerate(shown, start=1)
        ),
        pictures=pictures,
        result=result,
        queries=tuple(row.query for row in shown[:PICTURES_MAX]),
    )


def _legend(result: Segmentation) -> tuple[LegendEntry, ...]:
    """Return the classes that the overlay shows, the largest first."""
    colours = palette(len(result.class_names))
    classes, counts = np.unique(result.label_map.numpy(), return_counts=True)
    order = [int(place) for place in np.argsort(-counts, kind="stable") if classes[place] != UNLABELLED]
    return tuple(
        LegendEntry(
            tuple(colours[classes[place]].tolist()),
            result.class_names[classes[place]],
            float(counts[place] / counts.sum()),
        )
        for place in order
    )


def _pictures(result: Segmentation, rows: list[MaskRow]) -> tuple[tuple[Image.Image, str], ...]:
    """Draw each mask: the photograph, faded to white outside."""
    queries, first = {row.query for row in rows}, 0
    masks: dict[int, npt.NDArray[np.bool_]] = {}  # of these queries alone, at the photograph's size
    for some in result.encoded.hard_masks_at_image_size():
        masks |= {query: some[query - first].cpu().numpy() for query in queries if first <= query < first + len(some)}
        first += len(some)
    small = result.encoded.image.copy()
    small.thumbnail((_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
    pixels = np.asarray(small)
    faded = (pixels * np.float32(1 - _FADED_SHARE) + np.float32(_PAPER * _FADED_SHARE)).astype(np.uint8)
    pictures = []
    for number, row in enumerate(rows, start=1):
        mask = np.asarray(Image.fromarray(masks[row.query]).resize(small.size, Image.Resampling.NEAREST))
        picture = Image.fromarray(np.where(mask[..., None], pixels, faded))
        pictures.append((picture, f"{number}. {row.class_name} {row.score:.2f}"))
    return tuple(pictures)


def _count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
