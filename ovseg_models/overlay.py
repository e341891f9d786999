"""A picture with its classes painted over it and a legend below, and the colours of classes by index and by name."""

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ovseg_models.query_mode import UNLABELLED

_GRID_STEPS = 17  # per colour channel: 4,913 candidates
_LIGHTNESS_RANGE = (35.0, 92.0)  # neither lost in shadows nor like paper
_CHROMA_MIN = 25.0  # grey is for unlabelled pixels
_SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE_XYZ = np.array([0.9505, 1.0, 1.089])
# How those see colours who lack the receptors of red or of green (Machado and others, 2009), in linear RGB.
_WITHOUT_RED = np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]])
_WITHOUT_GREEN = np.array([[0.3673, 0.8607, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])
_COMMON_NAMES = Path(__file__).with_name("common_names.txt")
_PAINT_SHARE = 0.55
_LEGEND_ENTRIES_MAX = 24
_LEGEND_WIDTH_MIN_PX = 220
_FONT_SIZE_RANGE_PX = (12, 48)
_COLUMN_WIDTH_EM = 14
_BREAKING = frozenset({"Cc", "Cs", "Zl", "Zp"})  # line ends, lone surrogates and the like
_NAME_SIGNS = 200  # no column is wider, and measuring takes time
_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_ELLIPSIS = "..."  # the built-in font is sure to have a full stop
_UNDRAWABLE = "\U0010ffff"  # no font has this sign, so it is drawn like any missing one
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=8)
def palette(colours: int) -> npt.NDArray[np.uint8]:
    """Choose colours of which each is as far as possible, in CIELAB, from all before it.

    The colours of a smaller palette are the first ones of a larger one, so a class keeps its colour.

    Args:
        colours: Number of colours, 1 to about 3,000.

    Returns:
        RGB [colour 3], all different; not writable.

    Raises:
        ValueError: If the number is out of range.
    """
    candidates = _candidates()
    if not 1 <= colours <= len(candidates):
        raise ValueError(
            f"palette: {colours} colours are asked for, 1 to {len(candidates)} are expected; ask for fewer"
        )
    rgb = candidates[_spread(_cielab(candidates)[None], colours)]
    rgb.flags.writeable = False
    return rgb


def name_colours(class_names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return a colour for each name that depends on nothing but the name, so that it has the same in every picture.

    Names are compared without case and surplus blanks. Some 300 common ones have colours that were chosen to differ as
    far as possible, also for those who cannot tell red from green, the most common ones the furthest. All others take
    theirs from a digest of the name: different, but of many some are alike.

    Returns:
        RGB [name 3].
    """
    known = _common_colours()
    colours = np.zeros((len(class_names), 3), dtype=np.uint8)
    for place, name in enumerate(class_names):
        plain = " ".join(name.casefold().split())
        colours[place] = known[plain] if plain in known else _colour_of_digest(plain)
    return colours


@cache
def _common_colours() -> dict[str, npt.NDArray[np.uint8]]:
    """Return the colours of the common names."""
    names = _COMMON_NAMES.read_text(encoding="utf-8").splitlines()
    candidates = _candidates()
    seen = np.stack([_cielab(candidates), _cielab(candidates, _WITHOUT_RED), _cielab(candidates, _WITHOUT_GREEN)])
    return dict(zip(names, candidates[_spread(seen, len(names))], strict=True))


def _colour_of_digest(name: str) -> npt.NDArray[np.uint8]:
    """Return the first usable one of the colours that a name's digests are read as."""
    digest = name.encode("utf-8", errors="surrogatepass")
    while True:
        digest = hashlib.sha256(digest).digest()
        rgb = np.frombuffer(digest[:30], dtype=np.uint8).reshape(-1, 3)
        usable = rgb[_is_usable(_cielab(rgb))]
        if len(usable):
            first: npt.NDArray[np.uint8] = usable[0]
            return first


@cache
def _candidates() -> npt.NDArray[np.uint8]:
    """Return the usable colours of a grid, RGB [colour 3]."""
    steps = np.linspace(0, 255, _GRID_STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[_is_usable(_cielab(grid))]


def _is_usable(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which colours are neither too dark nor too light nor grey."""
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    return np.asarray((lab[:, 0] > _LIGHTNESS_RANGE[0]) & (lab[:, 0] < _LIGHTNESS_RANGE[1]) & (chroma > _CHROMA_MIN))


def _spread(lab: npt.NDArray[np.float64], colours: int) -> list[int]:
    """Choose colours one by one, each as far as possible from all before it: the most vivid one is the first.

    Args:
        lab: CIELAB [eye colour 3]; the distance of two colours is that of the eye which sees it as the least.
        colours: How many to choose.
    """
    chosen = [int(np.hypot(lab[0, :, 1], lab[0, :, 2]).argmax())]
    distances = np.full(lab.shape[1], np.inf)
    while len(chosen) < colours:
        latest = ((lab - lab[:, chosen[-1:]]) ** 2).sum(axis=2).min(axis=0)
        distances = np.minimum(distances, latest)
        chosen.append(int(distances.argmax()))
    return chosen


def _cielab(rgb: npt.NDArray[np.uint8], eye: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Convert sRGB [colour 3] to CIELAB under D65, where distances are about those that the eye sees.

    Args:
        rgb: Colours.
        eye: What an eye makes of linear RGB; None for all three receptors.
    """
    parts = rgb / 255
    linear = np.where(parts > 0.04045, ((parts + 0.055) / 1.055) ** 2.4, parts / 12.92)
    if eye is not None:
        linear = (linear @ eye.T).clip(0, 1)
    xyz = linear @ _SRGB_TO_XYZ.T / _WHITE_XYZ
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = roots.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def overlay_picture(image: Image.Image, label_map: npt.NDArray[np.integer], class_names: Sequence[str]) -> Image.Image:
    """Paint the classes over an image, draw the borders between them, and list them below, the largest first.

    Colours are those of `name_colours`.

    Args:
        image: RGB.
        label_map: Class indices [height width] of the image's size; `UNLABELLED` is left unpainted.
        class_names: By class index; any characters, any length. Names too long for their column are cut; accents that
            Pillow's built-in font lacks are left out, and a name with other such signs is listed as "class 3", with
            what is left of it.

    Returns:
        RGB, as wide as the image (at least 220 px) and higher by the legend; the image's pixels stay in the top left.

    Raises:
        ValueError: If sizes differ or an index has no name.
    """
    if label_map.shape != (image.height, image.width):
        raise ValueError(
            f"overlay: the label map is {label_map.shape}, the image {(image.height, image.width)} [height width]; "
            "pass the map at the image's size"
        )
    if label_map.max(initial=UNLABELLED) >= len(class_names) or label_map.min(initial=0) < UNLABELLED:
        raise ValueError(
            f"overlay: class indices {label_map.min()} to {label_map.max()} are found for {len(class_names)} names; "
            f"indices below that or {UNLABELLED} are expected"
        )
    colours = name_colours(class_names) if len(class_names) else np.zeros((1, 3), dtype=np.uint8)
    font = ImageFont.load_default(_font_size_px(image))
    painted = Image.fromarray(_painted(np.asarray(image.convert("RGB")), label_map, colours))
    classes, counts = np.unique(label_map[label_map != UNLABELLED], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    entries = [
        (tuple(colours[index].tolist()), f"{count / label_map.size:.1%}", _printable(class_names[index], index, font))
        for index, count in zip(classes[order].tolist(), counts[order].tolist(), strict=True)
    ]
    legend = _legend(entries, max(image.width, _LEGEND_WIDTH_MIN_PX), font, _font_size_px(image))
    canvas = Image.new("RGB", (legend.width, image.height + legend.height), _PAPER)
    canvas.paste(painted, (0, 0))
    canvas.paste(legend, (0, image.height))
    return canvas


def _painted(
    pixels: npt.NDArray[np.uint8], label_map: npt.NDArray[np.integer], colours: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Mix each labelled pixel with its class's colour; paint the first pixel of each new class in full."""
    labelled = label_map != UNLABELLED
    paint = colours[np.where(labelled, label_map, 0)]
    mixed = (pixels * np.float32(1 - _PAINT_SHARE) + paint * np.float32(_PAINT_SHARE)).astype(np.uint8)
    painted = np.where(labelled[..., None], mixed, pixels)
    border = np.zeros(label_map.shape, dtype=np.bool_)
    border[1:] |= label_map[1:] != label_map[:-1]
    border[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    painted[border & labelled] = paint[border & labelled]
    return painted


def _legend(
    entries: Sequence[tuple[tuple[int, ...], str, str]], width_px: int, font: _Font, font_px: int
) -> Image.Image:
    """Draw (colour, share, name) in as many columns as fit."""
    line_px, margin_px = round(font_px * 1.5), font_px // 2
    shown = list(entries[:_LEGEND_ENTRIES_MAX])
    if len(entries) > len(shown):
        shown.append((_PAPER, "", f"and {len(entries) - len(shown)} more"))
    if not shown:
        shown.append((_PAPER, "", "nothing found"))
    columns = max(1, min(len(shown), (width_px - margin_px) // (_COLUMN_WIDTH_EM * font_px)))
    lines = -(-len(shown) // columns)
    column_px = (width_px - margin_px) // columns
    legend = Image.new("RGB", (width_px, lines * line_px + 2 * margin_px), _PAPER)
    draw = ImageDraw.Draw(legend)
    share_px = font_px * 4
    for index, (colour, share, name) in enumerate(shown):
        left, top = margin_px + index // lines * column_px, margin_px + index % lines * line_px
        draw.rectangle((left, top, left + font_px, top + font_px), fill=colour)
        text_left = left + round(font_px * 1.4)
        draw.text((text_left, top), share, fill=_INK, font=font)
        name_left = text_left + (share_px if share else 0)
        draw.text((name_left, top), _cut(name, font, left + column_px - margin_px - name_left), fill=_INK, font=font)
    return legend


def _cut(name: str, font: _Font, room_px: int) -> str:
    """Cut a name so that it is no wider than ``room_px``; what is left ends in dots."""
    if font.getlength(name) <= room_px:
        return name
    while name and font.getlength(name + _ELLIPSIS) > room_px:
        name = name[:-1]
    return name.rstrip() + _ELLIPSIS


def _printable(name: str, index: int, font: _Font) -> str:
    """Replace what would break a line of text, and put the class's number where the font lacks a part of its name."""
    line = "".join(" " if unicodedata.category(sign) in _BREAKING else sign for sign in name[:_NAME_SIGNS])
    missing = bytes(font.getmask(_UNDRAWABLE))
    lacking = {sign for sign in set(line) if not sign.isascii() and bytes(font.getmask(sign)) == missing}
    substitutes = {
        ord(sign): unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() for sign in lacking
    }
    drawable = " ".join(line.translate(substitutes).split())
    if all(substitutes.values()):
        return drawable
    return f"class {index}: {drawable}" if drawable else f"class {index}"


def _font_size_px(image: Image.Image) -> int:
    """Choose a font size in proportion to the picture, so that it stays readable when a large one is shown small."""
    low, high = _FONT_SIZE_RANGE_PX
    return max(low, min(high, round(image.width / 60)))
