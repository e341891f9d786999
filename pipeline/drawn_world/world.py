"""The drawn world itself: any scene of it, in any order, on any worker, from a seed and an index alone.

Its splits are ranges of scene indices that never overlap, whatever the number of scenes.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.drawn_world.captions import MIN_STUFF_SHARE, Mention, draw_captions, size_name
from pipeline.drawn_world.layout import draw_scene_plan, draw_single_plan
from pipeline.drawn_world.scene import DrawnScene, Painting, paint
from pipeline.drawn_world.stuff import STUFF_NOUNS, WORLD_UNITS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import LABELS

SCENES_PER_SPLIT = 10_000_000

SPLITS = ("train", "val", "test", "demo", "clip-pretrain", "clip-val", "proposal-pretrain")
"""A split's place fixes its scenes: append new ones, never reorder."""

WORLD_VERSION = 1
"""Raised whenever any scene comes out otherwise than before; artifacts made of scenes depend on it."""

MIN_SIZE_PX, MAX_SIZE_PX = 32, 2048

# Independent streams of chance: captions can change without a pixel changing, and the other way round.
_SCENE_STREAM, _SINGLE_STREAM = 0, 1
_PAINTING, _CAPTIONS = 0, 1


def split_indices(split: str, scenes: int) -> range:
    """Return the indices of the first scenes of a split.

    Raises:
        ValueError: If there is no such split, or it does not have that many scenes.
    """
    if split not in SPLITS:
        raise ValueError(f"drawn world: split is '{split}', expected one of {', '.join(SPLITS)}; correct the name.")
    if not 0 <= scenes <= SCENES_PER_SPLIT:
        raise ValueError(f"drawn world: scenes is {scenes}, 0 to {SCENES_PER_SPLIT} is expected; ask for fewer scenes.")
    first = SPLITS.index(split) * SCENES_PER_SPLIT
    return range(first, first + scenes)


@dataclass(frozen=True, slots=True)
class DrawnWorld:
    """A world of scenes. It holds no state: its scenes depend on these three values and their index alone.

    Attributes:
        seed: Chooses the world.
        size_px: Side of the square pictures [px]. The same scene at another size is the same, drawn coarser or finer.
        context: Share of things that are placed on their home stuff; the others stand anywhere.

    Raises:
        ValueError: If one of them is out of range.
    """

    seed: int
    size_px: int = WORLD_UNITS
    context: float = 0.85

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"drawn world: seed is {self.seed}, 0 or more is expected; choose another seed.")
        if not MIN_SIZE_PX <= self.size_px <= MAX_SIZE_PX:
            expected = f"{MIN_SIZE_PX} to {MAX_SIZE_PX} is expected"
            raise ValueError(f"drawn world: size_px is {self.size_px}, {expected}; choose another size.")
        if not 0.0 <= self.context <= 1.0:
            raise ValueError(f"drawn world: context is {self.context}, a share of 0 to 1 is expected; correct it.")

    def scene(self, index: int) -> DrawnScene:
        """Draw a scene: 2 or 3 bands of stuff and up to 5 things.

        Raises:
            ValueError: If the index is negative.
        """
        painting_rng, captions_rng = self._streams(_SCENE_STREAM, index)
        layout, placings = draw_scene_plan(painting_rng, self.context)
        return _captioned(paint(layout, placings, painting_rng, self.size_px), captions_rng)

    def single_object(self, index: int, noun: str, *, at_home: bool) -> DrawnScene:
        """Draw a picture of one thing, as for measuring how much CLIP leans on the surroundings.

        Args:
            index: Which of such pictures.
            noun: A thing noun.
            at_home: True: it stands on its home stuff. False: no home stuff of its own is in the picture.

        Raises:
            ValueError: If the index is negative or the noun is not that of a thing.
        """
        if noun not in THING_NOUNS:
            raise ValueError(f"drawn world: '{noun}' is no thing; expected one of {', '.join(THING_NOUNS)}.")
        painting_rng, captions_rng = self._streams(_SINGLE_STREAM, index, LABELS[noun], int(at_home))
        layout, placings = draw_single_plan(painting_rng, noun, at_home=at_home)
        return _captioned(paint(layout, placings, painting_rng, self.size_px), captions_rng)

    def _streams(self, kind: int, index: int, *more: int) -> tuple[np.random.Generator, np.random.Generator]:
        """Return the streams of chance of one scene: for painting and for captions."""
        if index < 0:
            raise ValueError(f"drawn world: scene index is {index}, 0 or more is expected; choose another index.")
        painting, captions = (
            np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(kind, purpose, index, *more)))
            )
            for purpose in (_PAINTING, _CAPTIONS)
        )
        return painting, captions


def _captioned(painting: Painting, rng: np.random.Generator) -> DrawnScene:
    """Add captions to a painted scene."""
    return DrawnScene(*painting, captions=draw_captions(visible_mentions(painting), rng))


def visible_mentions(painting: Painting) -> list[Mention]:
    """List what captions may name: all things, and the stuff that fills enough of the picture."""
    pixels = painting.label_map.size
    counts = np.bincount(painting.label_map.ravel(), minlength=len(STUFF_NOUNS)).tolist()
    return [
        *(
            Mention(thing.noun, thing.hue, size_name(thing.visible_px / pixels), thing.stuff)
            for thing in painting.things
        ),
        *(
            Mention(noun, None, "", "")
            for noun, count in zip(STUFF_NOUNS, counts, strict=False)
            if count >= MIN_STUFF_SHARE * pixels
        ),
    ]
