"""``ovseg pairs index`` and ``ovseg explain``: which mined pairs are behind a label."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from ovseg_models.neighbours import Neighbour

_COLUMNS, _PICTURE_PX = 4, 160


def index_pairs(
    pairs: Annotated[Path, tyro.conf.Positional],
    *,
    model: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    device: str = "auto",
) -> None:
    """Make the index by which 'ovseg explain' finds the mined pairs behind a label.

    Where the model's CLIP is the one that mined the pairs, their stored embeddings are taken as they are. One that was
    adapted since makes others: then each pair's crop goes through it once, which takes a GPU for many pairs.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        model: Folder of the segmenter whose labels are to be explained.
        out: Folder for the index, new.
        device: Where to compute: auto (CUDA where there is one), cpu, cuda, cuda:1 and so on.

    Raises:
        PipelineError: If the directory holds no pairs, or the folder is there.
    """
    from ovseg_models.segmenter import Segmenter
    from pipeline.pair_index import make_index
    from storage_schemas.artifact import Artifact

    try:
        segmenter = Segmenter.load(model, device=device)
        source = make_index(Artifact.open(pairs, kind="pairs"), segmenter, out)
    except (ValueError, OSError, RuntimeError) as error:
        raise PipelineError(str(error)) from error
    sys.stdout.write(f"{out}: of {source}\n")


def explain(
    image: Annotated[Path, tyro.conf.Positional],
    *,
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")],
    at: Annotated[tuple[int, int], tyro.conf.arg(metavar="X Y")],
    model: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    index: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    pairs: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    count: int = 8,
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    device: str = "auto",
) -> None:
    """Say which mined pairs the mask behind a pixel's label is most like.

    Printed are the label, and for each pair its similarity (a cosine), noun, caption and name.

    Args:
        image: Photograph.
        classes: Class names, as for 'ovseg segment'.
        at: Pixel of the photograph: column and row.
        model: Folder of a segmenter.
        index: Folder of an index that this segmenter's CLIP made ('ovseg pairs index').
        pairs: Directory of the pairs, where they have been moved since.
        count: How many pairs.
        out: PNG file for a sheet of their crops.
        device: Where to compute: auto (CUDA where there is one), cpu, cuda, cuda:1 and so on.

    Raises:
        PipelineError: If the index is of another CLIP or of other pairs, or the pixel lies outside.
    """
    from ovseg_models.class_names import split_class_names
    from ovseg_models.segmenter import Segmenter
    from pipeline.pair_index import PairIndex
    from pipeline.picture_sheets import Cell, in_rows, picture_sheet, write_picture

    if count < 1:
        raise PipelineError(f"--count: found {count}, at least 1 is expected; give more")
    try:
        segmenter = Segmenter.load(model, device=device)
        found = segmenter.segment(image, [part for name in classes for part in split_class_names(name)])
        mask = found.mask_at(*at)
        near = segmenter.explain(found, mask, PairIndex.open(index, pairs), count=count)
    except (ValueError, OSError, RuntimeError) as error:
        raise PipelineError(str(error)) from error
    label = found.class_names[int(found.label_map[at[1], at[0]])]
    sys.stdout.write(f"{label}: mask {mask}\n")
    for pair in near:
        sys.stdout.write(f"{pair.similarity:+.3f}  {pair.noun:20}  {marked(pair)}  {pair.pair}\n")
    if out is not None:
        cells = [Cell((pair.picture,), pair.noun, f"{pair.similarity:+.3f}") for pair in near]
        title = f"Mined pairs nearest to the mask of {label}"
        write_picture(picture_sheet(in_rows(cells, _COLUMNS), title=title, picture_px=_PICTURE_PX), out)


def marked(pair: "Neighbour") -> str:
    """Return a pair's caption with its noun in brackets."""
    before, noun, after = pair.caption
    return f"{before}[{noun}]{after}"
