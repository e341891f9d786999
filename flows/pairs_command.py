"""``ovseg pairs``: what can be done with mined pairs without mining anew."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

Action = Literal["filter", "card"]


def pairs(
    action: Annotated[Action, tyro.conf.Positional],
    directory: Annotated[Path, tyro.conf.Positional],
    *,
    out: Path | None = None,
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
    """Make a subset of pairs (filter), or their data card (card).

    A subset is chosen by the tables alone, and its crops and masks are copied: no model is needed. It is written to
    --out as an artifact of pairs of its own, with a card.

    Args:
        action: What to do.
        directory: Of pairs, such as runs/pairs/demo-0123456789ab.
        out: filter: directory for the subset, new or empty.
        min_score: filter: cosine at least.
        max_score: filter: cosine at most.
        min_margin: filter: margin to the second-best region at least.
        min_area_share: filter: share of the picture that the mask fills at least, 0 to 1.
        max_area_share: filter: the same at most.
        nouns: filter: nouns that are kept.
        nouns_file: filter: file of nouns that are kept, one a line.
        without_nouns: filter: nouns that are left out.
        max_per_noun: filter: pairs of a noun at most, those with the highest scores.
        workers: filter: processes that share the work; 0 = this process alone.

    Raises:
        SettingsError: If --out is missing, or goes with another action.
        PipelineError: If the directory holds no pairs, or none fulfils what is asked for.
        FileNotFoundError: If the file of nouns is not there.
    """
    from pipeline.executors import Compute
    from pipeline.mine.card import make_card
    from pipeline.mine.filter_pairs import PairRule, filter_pairs
    from pipeline.settings import SettingsError
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
    found = Artifact.open(directory, kind="pairs")
    if action == "card":
        if out is not None or rule != PairRule() or workers:
            raise SettingsError(["pairs card: takes no option; leave them out, or write 'pairs filter'"])
        make_card(found)
        sys.stdout.write(f"{directory / 'card'}\n")
        return
    if out is None:
        raise SettingsError(["pairs filter: --out is missing; name a directory for the subset"])
    filter_pairs(found, rule, out, compute=Compute(workers=workers))
    sys.stdout.write(f"{out}\n")
