"""Splits of a drawn world: ranges of scene indices that never overlap, whatever the number of scenes."""

SCENES_PER_SPLIT = 10_000_000

SPLITS = ("train", "val", "test", "demo", "clip-pretrain", "clip-val", "proposal-pretrain")
"""A split's place fixes its scenes: append new ones, never reorder."""


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
