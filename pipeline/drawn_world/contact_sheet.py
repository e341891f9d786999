"""A picture of the drawn world: scenes, their labels and their captions, and one of each thing.

``python -m pipeline.drawn_world.contact_sheet --out docs/images/drawn_world.png``
"""

import argparse
import colorsys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.drawn_world.scene import DrawnScene
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import IGNORE_LABEL, NOUNS
from pipeline.drawn_world.world import DrawnWorld
from pipeline.picture_sheets import Cell, fitted, in_rows, painted, picture_sheet, stacked, write_names, write_picture

SCENE_PX, THING_PX = 192, 96


def scenes_sheet(scenes: list[DrawnScene], *, columns: int = 4) -> Image.Image:
    """Draw scenes in a grid: the picture, its labels with the nouns written on them, a caption below.

    Args:
        scenes: At least one, of any size; they are shown at 192 px.
        columns: Scenes in a row.
    """
    cells = [Cell((scene.image, _named_labels(scene)), scene.captions[0].text) for scene in scenes]
    return picture_sheet(
        in_rows(cells, columns),
        title="Scenes of the drawn world, their labels, and one of their captions",
        heads=("scene", "labels"),
        picture_px=SCENE_PX,
        caption_lines=2,
        smooth=False,
    )


def things_sheet(world: DrawnWorld, *, columns: int = 14) -> Image.Image:
    """Draw each thing once on its home stuff, close up, with its noun below."""
    cells = [Cell((_close_up(world.single_object(0, noun, at_home=True)),), noun) for noun in THING_NOUNS]
    return picture_sheet(in_rows(cells, columns), title="Each thing, close up, where it belongs", picture_px=THING_PX)


def _close_up(scene: DrawnScene) -> Image.Image:
    """Cut a square around the first thing, inside the picture."""
    left, top, right, bottom = scene.things[0].box_xyxy
    picture_px = scene.image.shape[0]
    side = min(picture_px, round(1.2 * max(right - left, bottom - top)))
    x = min(max((left + right - side) // 2, 0), picture_px - side)
    y = min(max((top + bottom - side) // 2, 0), picture_px - side)
    return Image.fromarray(scene.image).crop((x, y, x + side, y + side))


def _named_labels(scene: DrawnScene) -> Image.Image:
    """Colour each region by its noun, outline instances, and write the nouns."""
    # pale for stuff, strong for things, hues far apart for neighbours in the list
    hues = [
        colorsys.hsv_to_rgb(0.618 * label % 1.0, *((0.35, 0.85) if label < len(STUFF_NOUNS) else (0.85, 0.9)))
        for label in range(len(NOUNS))
    ]
    shown = painted(scene.label_map, (np.array(hues) * 255.0).astype(np.uint8), over=scene.image)
    shown[_outlines(scene.instance_map)] = 0
    picture = fitted(shown, SCENE_PX, smooth=False)
    stuff_map = np.where(scene.instance_map == 0, scene.label_map, IGNORE_LABEL)
    stuff = sorted(set(np.unique(stuff_map).tolist()) - {IGNORE_LABEL})
    regions = [(thing.noun, scene.instance_map == thing.instance) for thing in scene.things]
    regions += [(NOUNS[label], stuff_map == label) for label in stuff]
    write_names(picture, regions, always=True)
    return picture


def _outlines(instance_map: UInt8[np.ndarray, "height width"]) -> np.ndarray:
    """Return the pixels at which an instance borders on another or on stuff."""
    outlines = np.zeros(instance_map.shape, dtype=bool)
    outlines[:, 1:] |= instance_map[:, 1:] != instance_map[:, :-1]
    outlines[1:, :] |= instance_map[1:, :] != instance_map[:-1, :]
    return outlines


def contact_sheet(world: DrawnWorld, *, first_index: int, scenes: int) -> Image.Image:
    """Draw scenes of a world with labels and captions, and below them one of each thing."""
    return stacked([scenes_sheet([world.scene(first_index + place) for place in range(scenes)]), things_sheet(world)])


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
    write_picture(sheet, arguments.out)


if __name__ == "__main__":
    main()
