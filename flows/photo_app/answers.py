"""From a question to what the page shows: a message, the painted photograph, one row and one picture per mask."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.limits import unread_words
from flows.photo_app.questions import Question, QuestionError
from ovseg_models.encoding import EncodedImage
from ovseg_models.overlay import name_colours
from ovseg_models.segmentation import MaskRow, Segmentation
from ovseg_models.segmenter import Segmenter

TABLE_HEADERS = ("no.", "class", "score", "proposal net", "CLIP", "area", "left, top, right, bottom")
PICTURES_MAX = 24
_PICTURE_SIDE_PX = 480
_FADED_SHARE, _PAPER = 0.82, 255
_PALETTE_COLOURS = 256
_SECONDS_BETWEEN_STEPS = 1.0
_Made = TypeVar("_Made")


class Step(NamedTuple):
    """What is being done for a question: its number, of `STEPS`, and what it is in words."""

    number: int
    text: str


STEPS = 3
"""Read the photograph, encode it, name its masks."""


class LegendEntry(NamedTuple):
    """A class that was named.

    Attributes:
        colour: RGB.
        name: As typed.
        share: Of the photograph, 0 to 1.
        unread: Words of the name that the segmenter does not know and leaves out.
    """

    colour: tuple[int, ...]
    name: str
    share: float
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the page shows.

    Attributes:
        message: One line: what was found, and what it took.
        warning: What to know of the names; empty if there is nothing.
        file_name: Of the photograph.
        paint: The classes in their colours, at the photograph's size, transparent where nothing was found.
        legend: All named classes, the largest first; the page sets it in type, so that a phone's user can read it.
        rows: The masks that have a pixel, the best score first; columns as `TABLE_HEADERS`. Boxes are in pixels of the
            photograph.
        pictures: Of the first masks of the table: the photograph faded outside the mask, and its caption.
        result: What all of it shows.
        queries: Of the masks of ``pictures``.
    """

    message: str
    warning: str
    file_name: str
    paint: Image.Image
    legend: tuple[LegendEntry, ...]
    rows: tuple[tuple[str | int, ...], ...]
    pictures: tuple[tuple[Image.Image, str], ...]
    result: Segmentation
    queries: tuple[int, ...]


def answering(question: Question, segmenter: Segmenter, images: EncodedImages) -> Iterator[Step | Answer]:
    """Segment the photograph of a question: yield what is being done, every second, and in the end the answer.

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
    begin_s, has_begun = time.monotonic(), Event()
    size = "{} x {} px".format(*question.photograph.size)

    def encoding_step(seconds: float) -> Step:
        if has_begun.is_set():
            return Step(2, f"both image models look at {size}, {seconds:.0f} s")
        return Step(2, f"another photograph is being encoded before this one, {seconds:.0f} s")

    with ThreadPoolExecutor(1) as worker:  # so that this thread can say how far it is
        encoded, was_kept = yield from _awaited(
            worker, lambda: images.encoded(question.photograph, has_begun.set), encoding_step
        )
        encoded_s = time.monotonic()
        work = "still in memory" if was_kept else f"image models {encoded_s - begin_s:.1f} s"
        yield (
            yield from _awaited(
                worker,
                lambda: _answer(question, segmenter, encoded.of_file(question.file_name), work, warning),
                lambda seconds: Step(3, f"{_count(len(question.names), 'name')} for {size}, {seconds:.0f} s"),
            )
        )


def _awaited(
    worker: ThreadPoolExecutor, work: Callable[[], _Made], step: Callable[[float], Step]
) -> Generator[Step, None, _Made]:
    """Do something in a thread, yield how far it is, at once and then every second, and return its result."""
    begin_s, doing = time.monotonic(), worker.submit(work)
    while not doing.done():
        yield step(time.monotonic() - begin_s)
        wait([doing], timeout=_SECONDS_BETWEEN_STEPS)
    return doing.result()


def _answer(question: Question, segmenter: Segmenter, encoded: EncodedImage, work: str, warning: str) -> Answer:
    """Name the masks of an encoded photograph, and draw what the page shows of them."""
    begin_s = time.monotonic()
    result = (segmenter.find if question.find else segmenter.segment)(encoded, question.names)
    shown = sorted(result.found_masks, key=lambda row: -row.score)
    paint, legend = _painted(result, question.names, segmenter)
    pictures = _pictures(result, shown[:PICTURES_MAX])
    pixels = encoded.image.width * encoded.image.height
    return Answer(
        message=f"{_count(len(shown), 'mask')} for {_count(len(question.names), 'name')}, photograph "
        f"{encoded.image.width} x {encoded.image.height} px ({work}, naming {time.monotonic() - begin_s:.1f} s)",
        warning=warning,
        file_name=question.file_name,
        paint=paint,
        legend=legend,
        rows=tuple(
            (
                number,
                row.class_name,
                f"{row.score:.2f}",
                f"{row.proposal_prob:.2f}",
                "none" if row.clip_prob is None else f"{row.clip_prob:.2f}",
                f"{row.area_px / pixels:.1%}",
                ", ".join(map(str, row.box_xyxy)),
            )
            for number, row in enumerate(shown, start=1)
        ),
        pictures=pictures,
        result=result,
        queries=tuple(row.query for row in shown[:PICTURES_MAX]),
    )


def _painted(
    result: Segmentation, names: Sequence[str], segmenter: Segmenter
) -> tuple[Image.Image, tuple[LegendEntry, ...]]:
    """Paint the classes, and list those that were typed, the largest first; ``others`` of a single name is not."""
    colours, places = name_colours(result.class_names), result.label_map.numpy() + 1  # 0 is where nothing was found
    counts = np.bincount(places.ravel(), minlength=len(colours) + 1)
    rgba = np.zeros((len(counts), 4), dtype=np.uint8)
    rgba[1:, :3], rgba[1:, 3] = colours, 255
    present = np.flatnonzero(counts)
    if len(present) <= _PALETTE_COLOURS:  # a byte a pixel, which browsers get in a fraction of the time
        number = np.zeros(len(counts), dtype=np.uint8)
        number[present] = np.arange(len(present))
        paint = Image.fromarray(number[places], "P")
        paint.putpalette(rgba[present, :3].tobytes())
        if counts[0]:
            paint.info["transparency"] = 0
    else:
        paint = Image.fromarray(rgba[places])
    order = [int(place) for place in np.argsort(-counts[1 : len(names) + 1], kind="stable")]
    return paint, tuple(
        LegendEntry(
            tuple(colours[place].tolist()),
            names[place],
            float(counts[place + 1] / counts.sum()),
            tuple(unread_words(segmenter, names[place])),
        )
        for place in order
    )


@torch.no_grad()
def _pictures(result: Segmentation, rows: Sequence[MaskRow]) -> tuple[tuple[Image.Image, str], ...]:
    """Draw each mask: the photograph, small, faded to white outside."""
    if not rows:
        return ()
    encoded = result.encoded
    small = encoded.image.copy()
    small.thumbnail((_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
    masks = encoded.resized_hard_masks([row.query for row in rows], (small.height, small.width)).cpu().numpy()
    pixels = np.asarray(small)
    faded = (pixels * np.float32(1 - _FADED_SHARE) + np.float32(_PAPER * _FADED_SHARE)).astype(np.uint8)
    return tuple(
        (Image.fromarray(np.where(mask[..., None], pixels, faded)), f"{number}. {row.class_name} {row.score:.2f}")
        for number, (row, mask) in enumerate(zip(rows, masks, strict=True), start=1)
    )


def _count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
