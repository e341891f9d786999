"""The structure of a JPEG file, walked from marker to marker without decoding a pixel.

The walk costs about as much as hashing the file, a tenth of Pillow's cheapest decoding (``draft`` to an eighth), and
finds what decoding finds: files that are cut, zero-filled tails, broken markers, and tables that a scan needs and that
are absent or impossible. Pillow's ``verify()`` reads a JPEG's header alone. None finds changed bits inside the coded
picture: libjpeg draws such a picture without complaint. ``docs/guides/data_preparation.md`` has figures.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pipeline.prepare.faults import SceneFault

SIGNATURE = b"\xff\xd8\xff"
_SCAN, _END, _HUFFMAN, _QUANTISATION, _RESTART, _EXIF, _PROGRESSIVE = 0xDA, 0xD9, 0xC4, 0xDB, 0xDD, 0xE1, 0xC2
_READABLE_FRAMES = {0xC0, 0xC1, _PROGRESSIVE}  # baseline, extended and progressive, all Huffman coded
_OTHER_CODING = {0xC3, *range(0xC5, 0xD0)}  # lossless, hierarchical, arithmetic
_PASSED_BY = {0xDC, *range(0xE0, 0xF0), 0xFE}  # number of lines, applications, comment
_SEGMENTS = {_SCAN, _HUFFMAN, _QUANTISATION, _RESTART, *_READABLE_FRAMES, *_OTHER_CODING, *_PASSED_BY}
_MAX_BLOCKS = 10  # of one unit of a scan of several channels, by the standard

# Inside coded data 0xFF is followed by a stuffed 0x00, a restart marker, or another 0xFF that fills.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class JpegFacts(NamedTuple):
    """What the walk finds in a JPEG file.

    Attributes:
        width_px: Width as stored.
        height_px: Height as stored.
        channels: 1 for grey, 3 for colour, 4 for CMYK.
        exif: Body of the EXIF segment, from ``Exif`` on; empty without one.
    """

    width_px: int
    height_px: int
    channels: int
    exif: bytes


class _Component(NamedTuple):
    """One colour channel of the frame header."""

    identifier: int
    across: int
    down: int
    quantisation: int


class _Frame(NamedTuple):
    """The frame header."""

    width_px: int
    height_px: int
    progressive: bool
    components: tuple[_Component, ...]


@dataclass(slots=True)
class _Progress:
    """What the walk has met so far; tables by number, Huffman tables as (class, number), class 0 = DC, 1 = AC."""

    frame: _Frame | None = None
    scans: int = 0
    exif: bytes = b""
    huffman: frozenset[tuple[int, int]] = frozenset()
    quantisation: frozenset[int] = frozenset()


def jpeg_facts(data: bytes) -> JpegFacts:
    """Walk a JPEG file from its first marker to its end marker; what follows is ignored.

    Raises:
        SceneFault: ``image_truncated`` if it ends before its end marker, ``image_mode_unsupported`` if it is lossless,
            arithmetic, hierarchical or 12-bit, ``image_unreadable`` if it is broken otherwise.
    """
    progress = _Progress()
    for marker, body in _segments(data):
        if marker in _OTHER_CODING:
            raise SceneFault(
                "image_mode_unsupported", f"JPEG coding process 0x{marker:02x}, expected Huffman-coded DCT"
            )
        _take(progress, marker, body)
    frame = progress.frame
    if frame is None or progress.scans == 0:
        raise _broken("it ends without a picture in it")
    return JpegFacts(frame.width_px, frame.height_px, len(frame.components), progress.exif)


def _take(progress: _Progress, marker: int, body: bytes) -> None:
    """Check one segment against those before it."""
    if marker in _READABLE_FRAMES:
        if progress.frame is not None:
            raise _broken("it has two frame headers")
        progress.frame = _read_frame(body, progressive=marker == _PROGRESSIVE)
    elif marker == _HUFFMAN:
        progress.huffman |= _huffman_tables(body)
    elif marker == _QUANTISATION:
        progress.quantisation |= _quantisation_tables(body)
    elif marker == _SCAN:
        _check_scan(body, progress)
        progress.scans += 1
    elif marker == _RESTART and len(body) != 2:
        raise _broken(f"its restart interval has {len(body)} bytes")
    elif marker == _EXIF and body.startswith(b"Exif\0\0"):
        progress.exif = body


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each segment's marker and body up to the end marker, coded data left out."""
    position = 2
    while True:
        if position + 2 > len(data):
            raise SceneFault("image_truncated", f"JPEG of {len(data)} bytes ends without an end marker")
        if data[position] != 0xFF:
            raise _broken(f"byte {position} is 0x{data[position]:02x}, expected a marker (0xff)")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _END:
            return
        if marker not in _SEGMENTS:
            raise _broken(f"byte {position + 1} is 0x{marker:02x}, which begins no segment")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        start, position = position + 4, position + 2 + length
        if position > len(data) or start > len(data):
            raise SceneFault("image_truncated", f"JPEG of {len(data)} bytes ends inside segment 0x{marker:02x}")
        if length < 2:
            raise _broken(f"segment 0x{marker:02x} states a length of {length} bytes, at least 2 are expected")
        yield marker, data[start:position]
        if marker == _SCAN:
            found = _NEXT_MARKER.search(data, position)
            position = found.start() if found else len(data)


def _read_frame(body: bytes, *, progressive: bool) -> _Frame:
    """Read a frame header: precision, size and channels."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise _broken(f"its frame header has {len(body)} bytes")
    if body[0] != 8:
        raise SceneFault("image_mode_unsupported", f"JPEG of {body[0]} bits a channel, expected 8")
    height_px, width_px = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if width_px == 0 or height_px == 0:
        raise _broken(f"its frame header states {width_px} x {height_px} px")
    if body[5] not in {1, 3, 4}:
        raise _broken(f"its frame header states {body[5]} channels, expected 1, 3 or 4")
    components = tuple(
        _Component(body[at], body[at + 1] >> 4, body[at + 1] & 15, body[at + 2]) for at in range(6, len(body), 3)
    )
    for sampling in ([one.across for one in components], [one.down for one in components]):
        if min(sampling) < 1 or any(max(sampling) % factor for factor in sampling) or max(sampling) > 4:
            raise _broken(f"its frame header states sampling factors {sampling}")
    return _Frame(width_px, height_px, progressive, components)


@lru_cache(maxsize=64)
def _huffman_tables(body: bytes) -> frozenset[tuple[int, int]]:
    """Return the tables of a segment as (class, number); most files have the same standard tables."""
    tables = set()
    at = 0
    while at < len(body):
        table_class, number = body[at] >> 4, body[at] & 15
        counts = body[at + 1 : at + 17]
        symbols = body[at + 17 : at + 17 + sum(counts)]
        at += 17 + sum(counts)
        if len(counts) < 16 or at > len(body) or table_class > 1 or number > 3:
            raise _broken("a Huffman table does not fill its segment")
        if table_class == 0 and any(symbol > 15 for symbol in symbols):
            raise _broken(f"a Huffman table of DC values has the symbol {max(symbols)}, at most 15 is possible")
        room = 1
        for count in counts:
            room = 2 * room - count
            if room < 0:
                raise _broken("a Huffman table has more codes of one length than there can be")
        tables.add((table_class, number))
    return frozenset(tables)


@lru_cache(maxsize=64)
def _quantisation_tables(body: bytes) -> frozenset[int]:
    """Return the numbers of a segment's tables, 8 or 16 bits an entry."""
    tables = set()
    at = 0
    while at < len(body):
        precision, number = body[at] >> 4, body[at] & 15
        at += 1 + 64 * (1 + precision)
        if at > len(body) or precision > 1 or number > 3:
            raise _broken("a quantisation table does not fill its segment")
        tables.add(number)
    return frozenset(tables)


def _check_scan(body: bytes, progress: _Progress) -> None:
    """Refuse a scan whose channels or tables are not there, or whose parameters are impossible."""
    frame = progress.frame
    if frame is None:
        raise _broken("a scan comes before the frame header")
    if len(body) < 4 or len(body) != 4 + 2 * body[0] or not 1 <= body[0] <= 4:
        raise _broken(f"a scan header has {len(body)} bytes")
    first, last, approximation = body[-3:]
    if frame.progressive and not _possible_pass(first, last, approximation, channels=body[0]):
        raise _broken(f"a scan of {body[0]} channels states the pass {first} to {last}, 0x{approximation:02x}")
    by_identifier = {component.identifier: component for component in frame.components}
    needs_dc = not frame.progressive or (first == 0 and approximation >> 4 == 0)  # later DC passes are plain bits
    needs_ac = not frame.progressive or last > 0
    blocks = 0
    for at in range(1, len(body) - 3, 2):
        component = by_identifier.get(body[at])
        if component is None or component.quantisation not in progress.quantisation:
            raise _broken(f"a scan names channel {body[at]}, which has no frame header or no quantisation table")
        selector = body[at + 1]
        needed = ({(0, selector >> 4)} if needs_dc else set()) | ({(1, selector & 15)} if needs_ac else set())
        if not needed <= progress.huffman:
            raise _broken(f"a scan names the Huffman tables 0x{selector:02x}, which are not defined")
        blocks += component.across * component.down
    if body[0] > 1 and blocks > _MAX_BLOCKS:
        raise _broken(f"a scan has units of {blocks} blocks, at most {_MAX_BLOCKS} are possible")


def _possible_pass(first: int, last: int, approximation: int, *, channels: int) -> bool:
    """Return whether a progressive file can have a pass over these coefficients with these bit positions."""
    high, low = approximation >> 4, approximation & 15
    bits = low <= 13 and (high in {0, low + 1})
    return bits and (last == 0 if first == 0 else first <= last <= 63 and channels == 1)


def _broken(found: str) -> SceneFault:
    return SceneFault("image_unreadable", f"JPEG is broken: {found}")
