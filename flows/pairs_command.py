"""``ovseg pairs ...``: what can be done with mined pairs without mining anew."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

Pairs = Annotated[Path, tyro.conf.Positional]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]


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
    min_trust: float | None = None,
    min_noun_margin: float | None = None,
    max_noun_rank: int | None = None,
    min_region_margin: float | None = None,
    min_rival_margin: float | None = None,
    min_captions_naming: int | None = None,
    single_instances: bool = False,
    keep_share: float | None = None,
    runs: Directory = None,
    workers: int = 0,
) -> None:
    """Choose a subset of pairs, by their tables and their signs of trust.

    Crops and masks are copied: no model is needed. It is written to --out as an artifact of pairs of its own, with a
    card. Options from --min-trust to --keep-share use signs of trust, which are made if they are missing.

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
        min_trust: Noun margin plus region margin at least.
        min_noun_margin: Margin to the nearest noun of other pictures at least.
        max_noun_rank: Nouns of other pictures that are nearer to the mask at most; 0 = none.
        min_region_margin: Margin to the best mask elsewhere in the picture at least.
        min_rival_margin: Margin to another noun that claims the same mask at least.
        min_captions_naming: Captions of the picture that have the noun at least.
        single_instances: Leave out pairs whose picture probably shows more of the noun.
        keep_share: Share of the pairs that all other bounds leave, those with the highest trust.
        runs: Runs directory that holds what the pairs were mined from, where it is not their own.
        workers: Processes that share the work; 0 = this process alone.

    Raises:
        PipelineError: If the directory holds no pairs, or none fulfils what is asked for.
        FileNotFoundError: If the file of nouns is not there.
    """
    from pipeline.executors import Compute
    from pipeline.mine.filter_pairs import PairRule
    from pipeline.mine.filter_pairs import filter_pairs as chosen
    from pipeline.mine.pair_signs import make_signs
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
        min_trust=min_trust,
        min_noun_margin=min_noun_margin,
        max_noun_rank=max_noun_rank,
        min_region_margin=min_region_margin,
        min_rival_margin=min_rival_margin,
        min_captions_naming=min_captions_naming,
        single_instances=single_instances or None,
        keep_share=keep_share,
    )
    artifact, compute = Artifact.open(pairs, kind="pairs"), Compute(workers=workers)
    signs = make_signs(artifact, runs, compute=compute).artifact if rule.uses_signs else None
    chosen(artifact, rule, out, signs=signs, compute=compute)
    sys.stdout.write(f"{out}\n")


def pair_signs(pairs: Pairs, *, runs: Directory = None, workers: int = 0) -> None:
    """Find what speaks for and against each pair, from stored embeddings alone.

    Written to pair_signs/ in the runs directory, one row per pair, with a card; the card of the pairs sums it up.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        runs: Runs directory that holds what they were mined from, where it is not their own.
        workers: Processes that share the work; 0 = this process alone.

    Raises:
        PipelineError: If the directory holds no mined pairs, or what they were mined from is not found.
    """
    from pipeline.executors import Compute
    from pipeline.mine.card import make_card
    from pipeline.mine.pair_signs import make_signs
    from storage_schemas.artifact import Artifact

    artifact = Artifact.open(pairs, kind="pairs")
    report = make_signs(artifact, runs, compute=Compute(workers=workers))
    if report.artifact.identity.inputs["pairs"] == artifact.manifest().digest():  # not of a subset
        make_card(artifact, anew=True)
    sys.stdout.write(f"{report.artifact.directory}\n")


def pair_negatives(
    pairs: Pairs,
    *,
    per_picture: int = 8,
    max_quantile: float = 0.5,
    alike_above: float = 0.9,
    runs: Directory = None,
    workers: int = 0,
) -> None:
    """Find nouns that each picture surely does not show, from captions and stored embeddings alone.

    Written to negatives/ in the runs directory, one row per picture and noun.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        per_picture: Nouns of a picture at most, drawn by lot from the nouns of all pairs.
        max_quantile: The picture's nearest mask is at most as near as this share of other pictures' nearest masks.
        alike_above: Cosine of two nouns' embeddings from which on they count as synonyms.
        runs: Runs directory that holds what they were mined from, where it is not their own.
        workers: Processes that share the work; 0 = this process alone.

    Raises:
        PipelineError: If the directory holds no mined pairs, or what they were mined from is not found.
    """
    from pipeline.executors import Compute
    from pipeline.mine.negatives import NegativeRule, make_negatives
    from storage_schemas.artifact import Artifact

    rule = NegativeRule(per_picture=per_picture, max_quantile=max_quantile, alike_above=alike_above)
    report = make_negatives(Artifact.open(pairs, kind="pairs"), rule, runs, compute=Compute(workers=workers))
    sys.stdout.write(f"{report.artifact.directory}\n")


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
    to: Literal["coco", "lvis", "yolo-seg", "hub", "csv"],
    out: Path,
    scenes: Directory = None,
    negatives: Directory = None,
    without_pictures: bool = False,
) -> None:
    """Write pairs for other tools: COCO or LVIS instances, YOLO's polygons, a folder for the Hub, or CSV.

    Masks stay the very run lengths, on pictures of the size at which they were mined.

    Args:
        pairs: Directory of pairs, such as runs/pairs/demo-0123456789ab.
        to: Which files to write.
        out: Directory for them, new or empty.
        scenes: Directory of the scenes that the pairs were mined from, where they are not in the same runs directory.
        negatives: Directory of negatives, for the lists of absent nouns that LVIS has.
        without_pictures: Write annotations and tables alone, to be used with the data set's own pictures.

    Raises:
        PipelineError: If the directory holds no pairs, their scenes are not found, or --out is not empty.
    """
    from pipeline.pair_files.export_pairs import export_pairs as export
    from storage_schemas.artifact import Artifact

    of_scenes = None if scenes is None else Artifact.open(scenes)
    absent = None if negatives is None else Artifact.open(negatives)
    artifact, pictures = Artifact.open(pairs, kind="pairs"), not without_pictures
    count = export(artifact, to, out, scenes=of_scenes, pictures=pictures, negatives=absent)
    sys.stdout.write(f"{out}: {count} pairs\n")


def import_pairs(
    file: Annotated[Path, tyro.conf.Positional],
    *,
    out: Path,
    images: Directory = None,
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
