"""``ovseg memory ...``: classes that a segmenter knows from a few masks, beside their names."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from ovseg_models.memory import Memory
    from ovseg_models.segmenter import Segmenter
    from storage_schemas.artifact import Artifact

Files = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
MemoryFile = Annotated[Path, tyro.conf.arg(metavar="FILE")]


def memory_add(
    name: Annotated[str, tyro.conf.Positional],
    *,
    model: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    memory: MemoryFile,
    images: Files = (),
    masks: Files = (),
    pairs: Directory = None,
    scenes: Directory = None,
    noun: str = "",
    count: int = 5,
    device: str = "auto",
) -> None:
    """Remember masks of a class, from files or from mined pairs; nothing is trained.

    Give one to ten masks in which the class is seen well. Take the file to 'ovseg segment --memory', 'ovseg app
    --memory' or the setting evaluate.memory; it goes with this model's CLIP alone.

    Args:
        name: Class, as it will be asked for.
        model: Folder of a segmenter.
        memory: File of the memory, made if need be.
        images: Photographs.
        masks: A mask for each, of the photograph's size: black outside, anything else inside.
        pairs: Directory of mined pairs to take instead, those of the noun with the highest scores.
        scenes: Directory of their scenes, where they are not in the same runs directory.
        noun: Noun of the pairs; by default the name of the class.
        count: How many pairs.
        device: Where to compute: auto (CUDA where there is one), cpu, cuda, cuda:1 and so on.

    Raises:
        PipelineError: If there is nothing to remember, or something doesn't fit.
    """
    if bool(images) == (pairs is not None) or len(images) != len(masks):
        found = f"found {len(images)} images, {len(masks)} masks and {'pairs' if pairs else 'no pairs'}"
        raise PipelineError(f"memory add: {found}; --images with as many --masks are expected, or --pairs")
    from ovseg_models.segmenter import Segmenter

    try:
        segmenter = Segmenter.load(model, device=device)
        segmenter.memory = _read(memory) if memory.exists() else None
        if pairs is not None:
            from storage_schemas.artifact import Artifact

            given = None if scenes is None else Artifact.open(scenes)
            of_pairs = masks_of_pairs(Artifact.open(pairs, kind="pairs"), noun or name, count, given)
            keys = [segmenter.remember(name, picture, mask, source=pair) for pair, picture, mask in of_pairs]
        else:
            keys = [_remembered_file(segmenter, name, *files) for files in zip(images, masks, strict=True)]
        if segmenter.memory is not None:
            segmenter.memory.save(memory)
    except (ValueError, OSError, RuntimeError) as error:
        raise PipelineError(str(error)) from error
    sys.stdout.write("".join(f"{key}\n" for key in keys))


def memory_remove(
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...")], *, memory: MemoryFile
) -> None:
    """Take masks out of a memory; what is left is as if they had never been there.

    Args:
        names: Keys of masks, or names of classes, as 'ovseg memory show' lists them.
        memory: File of the memory.

    Raises:
        PipelineError: If there is no such file, mask or class.
    """
    try:
        _read(memory).without(names).save(memory)
    except (ValueError, OSError) as error:
        raise PipelineError(f"{memory}: {error}") from error


def memory_show(*, memory: MemoryFile) -> None:
    """List the masks of a memory: key, class, where they come from.

    Args:
        memory: File of the memory.

    Raises:
        PipelineError: If there is no such file.
    """
    for mask in _read(memory).masks:
        sys.stdout.write(f"{mask.key}  {mask.class_name}  {mask.source}\n")


def _read(path: Path) -> "Memory":
    """Read a memory.

    Raises:
        PipelineError: If the file is missing or damaged.
    """
    from ovseg_models.memory import Memory

    try:
        return Memory.load(path)
    except (ValueError, OSError) as error:
        raise PipelineError(str(error)) from error


def _remembered_file(segmenter: "Segmenter", name: str, image: Path, mask: Path) -> str:
    """Remember the mask of two files.

    Raises:
        PipelineError: If one cannot be read.
    """
    import numpy as np

    from ovseg_models.image_input import rgb_image

    return segmenter.remember(name, image, np.asarray(rgb_image(mask)).max(axis=2) > 0, source=image.name)


def masks_of_pairs(
    pairs: "Artifact", noun: str, count: int, scenes: "Artifact | None"
) -> "Iterator[tuple[str, Image.Image, npt.NDArray[np.bool_]]]":
    """Yield names, pictures and masks of a noun's pairs with the highest scores, each at the picture's own size.

    Raises:
        PipelineError: If there is none, or their scenes are not found.
    """
    import numpy as np
    from PIL import Image

    from pipeline.scenes_of_pairs import scenes_of
    from pipeline.stored_pictures import upright_picture
    from storage_schemas.columns import OK
    from storage_schemas.pairs import read_index
    from storage_schemas.rle import decode_masks
    from storage_schemas.scenes import SceneShard

    columns = ("pair", "key", "status", "noun", "score", "mask_counts", "height_px", "width_px")
    rows = [
        row
        for unit in pairs.description.units
        for row in read_index(pairs, unit, columns=columns).to_pylist()
        if row["status"] == OK and row["noun"] == noun
    ]
    if not rows:
        raise PipelineError(f"{pairs.directory}: has no pair of the noun {noun!r}; give another one by --noun")
    chosen = sorted(rows, key=lambda row: (-(row["score"] or 0.0), row["pair"]))[:count]
    found = scenes_of(pairs, scenes)
    shards = {unit: SceneShard(found, unit) for unit in found.description.units}
    places = {key: (shard, row) for shard in shards.values() for row, key in enumerate(shard.index["key"].to_pylist())}
    for row in chosen:
        shard, place = places[row["key"]]
        picture = upright_picture(next(shard.scenes([place], labels=False)))
        (mask,) = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])
        resized = Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
        yield row["pair"], picture, np.asarray(resized) > 0
