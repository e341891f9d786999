"""A picture of the drawn world: scenes, their labels and their captions, and one of each thing.

``python -m pipeline.drawn_world.contact_sheet --out docs/images/drawn_world.png``
"""

import argparse
import colorsys
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from pipeline.drawn_world.scene import DrawnScene
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import IGNORE_LABEL, NOUNS
from pipeline.drawn_world.world import DrawnWorld

_GAP_PX = 12
_LINE_PX = 15
_SCENE_PX = 192
_CAPTION_LINES = 2
_PAPER, _INK = "white", "black"


def scenes_sheet(scenes: list[DrawnScene], *, columns: int = 4) -> Image.Image:
    """Draw scenes in a grid: the picture, its labels with the nouns written on them, a caption below.

    Args:
        scenes: At least one, of any size; they are shown at 192 px.
        columns: Scenes in a row.
    """
    cell_width, cell_height = 2 * _SCENE_PX + 2, _SCENE_PX + 4 + _CAPTION_LINES * _LINE_PX
    sheet = _empty_sheet(len(scenes), columns, cell_width, cell_height)
    for scene, (x, y) in zip(scenes, _places(columns, cell_width, cell_height), strict=False):
        sheet.paste(_shown(scene.image), (x, y))
        sheet.paste(_overlay(scene), (x + _SCENE_PX + 2, y))
        text = textwrap.fill(scene.captions[0].text, 62)
        ImageDraw.Draw(sheet).text((x, y + _SCENE_PX + 3), text, fill=_INK, font=_font(12), spacing=2)
    return sheet


def things_sheet(world: DrawnWorld, *, columns: int = 14) -> Image.Image:
    """Draw each thing once on its home stuff, close up, with its noun below."""
    side = 96
    cell_height = side + 2 + _LINE_PX
    sheet = _empty_sheet(len(THING_NOUNS), columns, side, cell_height)
    for noun, (x, y) in zip(THING_NOUNS, _places(columns, side, cell_height), strict=False):
        close_up = _close_up(world.single_object(0, noun, at_home=True))
        sheet.paste(close_up.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        ImageDraw.Draw(sheet).text((x, y + side + 1), noun, fill=_INK, font=_font(12))
    return sheet


def _close_up(scene: DrawnScene) -> Image.Image:
    """Cut a square around the first thing, inside the picture."""
    left, top, right, bottom = scene.things[0].box_xyxy
    picture_px = scene.image.shape[0]
    side = min(picture_px, round(1.2 * max(right - left, bottom - top)))
    x = min(max((left + right - side) // 2, 0), picture_px - side)
    y = min(max((top + bottom - side) // 2, 0), picture_px - side)
    return Image.fromarray(scene.image).crop((x, y, x + side, y + side))


def _empty_sheet(count: int, columns: int, cell_width: int, cell_height: int) -> Image.Image:
    rows = -(-count // columns)
    return Image.new(
        "RGB",
        (columns * (cell_width + _GAP_PX) + _GAP_PX, rows * (cell_height + _GAP_PX) + _GAP_PX),
        _PAPER,
    )


def _places(columns: int, cell_width: int, cell_height: int) -> Iterator[tuple[int, int]]:
    """Yield the upper left corners of cells, row by row, without end."""
    for number in itertools.count():
        row, column = divmod(number, columns)
        yield _GAP_PX + column * (cell_width + _GAP_PX), _GAP_PX + row * (cell_height + _GAP_PX)


def _shown(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    return Image.fromarray(image).resize((_SCENE_PX, _SCENE_PX), Image.Resampling.NEAREST)


def _overlay(scene: DrawnScene) -> Image.Image:
    """Colour each region by its noun, outline instances, and write the nouns."""
    colours = _label_colours()[scene.label_map]
    blended = (0.75 * colours + 0.25 * scene.image.mean(axis=2, keepdims=True)).astype(np.uint8)
    blended[_outlines(scene.instance_map)] = 0
    shown = _shown(blended)
    draw = ImageDraw.Draw(shown)
    scale = _SCENE_PX / scene.image.shape[0]
    for thing in scene.things:
        _write(draw, thing.noun, scene.instance_map == thing.instance, scale)
    stuff_map = np.where(scene.instance_map == 0, scene.label_map, IGNORE_LABEL)
    for label in sorted(set(np.unique(stuff_map).tolist()) - {IGNORE_LABEL}):
        _write(draw, NOUNS[label], stuff_map == label, scale)
    return shown


def _write(draw: ImageDraw.ImageDraw, noun: str, region: Bool[np.ndarray, "height width"], scale: float) -> None:
    """Write a noun where its region is thickest, but inside the picture."""
    depth = distance_transform_edt(np.pad(region, 1))
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    half = 0.5 * draw.textlength(noun, font=_font(13)) + 2.0
    x, y = (float(column) - 0.5) * scale, (float(row) - 0.5) * scale
    inside = (min(max(x, half), _SCENE_PX - half), min(max(y, 9.0), _SCENE_PX - 9.0))
    draw.text(inside, noun, fill="white", font=_font(13), anchor="mm", stroke_width=2, stroke_fill=_INK)


def _outlines(instance_map: UInt8[np.ndarray, "height width"]) -> np.ndarray:
    """Return the pixels at which an instance borders on another or on stuff."""
    outlines = np.zeros(instance_map.shape, dtype=bool)
    outlines[:, 1:] |= instance_map[:, 1:] != instance_map[:, :-1]
    outlines[1:, :] |= instance_map[1:, :] != instance_map[:-1, :]
    return outlines


def _label_colours() -> UInt8[np.ndarray, "label 3"]:
    """Choose a colour per noun: pale for stuff, strong for things, hues far apart for neighbours in the list."""
    colours = []
    for label in range(len(NOUNS)):
        saturation, value = (0.35, 0.85) if label < len(STUFF_NOUNS) else (0.85, 0.9)
        colours.append(colorsys.hsv_to_rgb(0.618 * label % 1.0, saturation, value))
    return (np.array(colours) * 255.0).astype(np.uint8)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def contact_sheet(world: DrawnWorld, *, first_index: int, scenes: int) -> Image.Image:
    """Draw scenes of a world with labels and captions, and below them one of each thing."""
    above = scenes_sheet([world.scene(first_index + place) for place in range(scenes)])
    below = things_sheet(world)
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), _PAPER)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    return sheet


def main() -> None:
    """Write a contact sheet."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of the drawn world.")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    parser.add_argument("--first-index", type=int, default=0, help="first scene (default 0)")
    parser.add_argument("--scenes", type=int, default=8, help="number of scenes (default 8)")
    parser.add_argument("--size-px", type=int, default=96, help="side at which scenes are drawn [px] (default 96)")
    arguments = parser.parse_args()
    sheet = contact_sheet(
        DrawnWorld(arguments.seed, arguments.size_px), first_index=arguments.first_index, scenes=arguments.scenes
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    small = sheet.quantize(256, dither=Image.Dither.NONE)  # a fifth of the bytes, since the noise becomes flat
    small.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
