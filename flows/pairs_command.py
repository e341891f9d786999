"""``ovseg pairs ...``: what can be done with mined pairs without mining anew."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

Pairs = Annotated[Path, tyro.conf.Positional]


def filter_pairs(
    pairs: Pairs,
    *,
    out: Path,
    min_score: float | None = None,
    max_score: float | None = None,
    min_margin: float | None = None,
    min_area_share: float | None = None,
    max_area_share: float | None = None,
    nouns: tuple[str, ...] = (),
    nouns_file: Path | None = None,
    without_nouns: tuple[str, ...] = (),
    max_per_noun: int | None = None,
    workers: int = 0,
) -> None:
    """Choose a subset of pairs, by the tables alone.

    Crops and masks are copied: no model is needed. It is written to --out as an artifact of pairs of its own, with a
    card.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        out: Directory for the subset, new or empty.
        min_score: Cosine at least.
        max_score: Cosine at most.
        min_margin: Margin to the second-best region at least.
        min_area_share: Share of the picture that the mask fills at least, 0 to 1.
        max_area_share: The same at most.
        nouns: Nouns that are kept.
        nouns_file: File of nouns that are kept, one a line.
        without_nouns: Nouns that are left out.
        max_per_noun: Pairs of a noun at most, those with the highest scores.
        workers: Processes that share the work; 0 = this process alone.

    Raises:
        PipelineError: If the directory holds no pairs, or none fulfils what is asked for.
        FileNotFoundError: If the file of nouns is not there.
    """
    from pipeline.executors import Compute
    from pipeline.mine.filter_pairs import PairRule
    from pipeline.mine.filter_pairs import filter_pairs as chosen
    from storage_schemas.artifact import Artifact

    listed = nouns_file.read_text(encoding="utf-8").split("\n") if nouns_file is not None else []
    rule = PairRule(
        min_score=min_score,
        max_score=max_score,
        min_margin=min_margin,
        min_area_share=min_area_share,
        max_area_share=max_area_share,
        nouns=(*nouns, *(line.strip() for line in listed if line.strip())),
        without_nouns=without_nouns,
        max_per_noun=max_per_noun,
    )
    chosen(Artifact.open(pairs, kind="pairs"), rule, out, compute=Compute(workers=workers))
    sys.stdout.write(f"{out}\n")


def pairs_card(pairs: Pairs) -> None:
    """Make the data card of pairs, unless it is there: README.md, and a sheet of pairs in card/.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.

    Raises:
        PipelineError: If the directory holds no pairs.
    """
    from pipeline.mine.card import make_card
    from storage_schemas.artifact import Artifact

    make_card(Artifact.open(pairs, kind="pairs"))
    sys.stdout.write(f"{pairs / 'README.md'}\n")


def export_pairs(
    pairs: Pairs,
    *,
    to: Literal["coco", "lvis", "hub", "csv"],
    out: Path,
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    without_pictures: bool = False,
) -> None:
    """Write pairs for other tools: COCO or LVIS instances, a folder for the Hub, or CSV.

    Masks stay the very run lengths, on pictures of the size at which they were mined.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        to: Which files to write.
        out: Directory for them, new or empty.
        scenes: Directory of the scenes that the pairs were mined from, where they are not in the same runs directory.
        without_pictures: Write annotations and tables alone, to be used with the data set's own pictures.

    Raises:
        PipelineError: If the directory holds no pairs, their scenes are not found, or --out is not empty.
    """
    from pipeline.pair_files.export_pairs import export_pairs as export
    from storage_schemas.artifact import Artifact

    of_scenes = None if scenes is None else Artifact.open(scenes)
    count = export(Artifact.open(pairs, kind="pairs"), to, out, scenes=of_scenes, pictures=not without_pictures)
    sys.stdout.write(f"{out}: {count} pairs\n")


def import_pairs(
    file: Annotated[Path, tyro.conf.Positional],
    *,
    out: Path,
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    crop_format: Literal["png", "jpg", "jpg-256"] = "png",
    workers: int = 0,
    max_failed_share: float = 0.01,
) -> None:
    """Make pairs of a COCO file: exported ones, or instances of any tool, whose categories are the nouns.

    An annotation that cannot be taken is a row with its reason.

    Args:
        file: JSON with images, annotations that have masks, and categories.
        out: Directory for the pairs, new or empty.
        images: Directory of the pictures; by default 'images' beside the folder in which the file lies.
        crop_format: File format of the crops.
        workers: Processes that share the work; 0 = this process alone.
        max_failed_share: Share of annotations that may be refused, such as boxes without a mask.

    Raises:
        PipelineError: If the file is no such JSON, or something else is in --out.
    """
    from pipeline.executors import Compute
    from pipeline.pair_files.export_pairs import IMAGES
    from pipeline.pair_files.import_pairs import import_pairs as import_of
    from pipeline.shard_runner import Limits

    directory = file.absolute().parent.parent / IMAGES if images is None else images
    limits = Limits(max_failed_share=max_failed_share)
    import_of(file, directory, out, crop_format=crop_format, compute=Compute(workers=workers), limits=limits)
    sys.stdout.write(f"{out}\n")
