"""Measure what signs of trust are worth on the drawn world, over several seeds: precision, negatives, finetuning.

``python -m tools.measure_trust --out DIR`` mines, filters, finetunes and evaluates what is missing, and writes one line
per seed and row to ``DIR/results.jsonl``; a run that was stopped goes on. ``--write PAGE`` writes them into
docs/results/drawn_world_results.md. Seeds, scenes and settings are those of `tools.measure_paper_tables`. The sum of
margins that pairs are ordered by was chosen on the scenes of seeds 101 to 103, and nothing is fitted.

The rows ``signs``, ``negatives`` and ``instances`` are about the pairs. The others finetune on a subset of a third or
of two thirds, as often as makes the steps equal to two epochs of all pairs: the most trusted pairs, pairs drawn by
lot, and those that the truth would keep.
"""

import argparse
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.adaptations import GROUPS
from pipeline.dataflow import dataflow
from pipeline.mine import negatives, pair_signs
from pipeline.mine.filter_pairs import PairRule, filter_pairs
from pipeline.mine.judged_pairs import judged_pairs, precision_against_yield
from pipeline.mine.negatives import NegativeRule, make_negatives
from pipeline.mine.pair_signs import make_signs
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, REPORT
from storage_schemas.columns import OK
from storage_schemas.digests import sha256_of_json
from storage_schemas.manifest import Description, Identity
from storage_schemas.negatives import read_negatives
from storage_schemas.pair_signs import KIND, SCHEMA_VERSION, read_pair_signs, write_pair_signs
from storage_schemas.pairs import read_index
from storage_schemas.reports import read_numbers
from storage_schemas.scenes import ScenesAttributes, SceneShard
from tools.measure_paper_tables import SEEDS, Row, made_by, settings_of
from tools.paper_tables_page import page
from tools.seed_results import append_result, read_lines, read_results
from tools.trust_page import FIGURE, figure

SIGNS, NEGATIVES, INSTANCES = "signs", "negatives", "instances"
ABOUT_PAIRS = (SIGNS, NEGATIVES, INSTANCES)
ORDERS = ("trust", "noun_margin", "region_margin", "score", "margin", "area_share", "captions_naming")
YIELDS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 11))
FT = "finetune.mode='ft'"

Verdicts = Mapping[str, bool | None]


class Subset(NamedTuple):
    """Pairs to finetune on.

    Attributes:
        name: Of the row.
        share: Of all pairs.
        epochs: So that the steps are those of two epochs of all pairs: batches of 64 of about 590 pairs.
        trust: What the pairs are chosen by, from their names and the verdicts of the labels; None for their signs.
    """

    name: str
    share: float = 1.0
    epochs: int = 2
    trust: Callable[[str, Verdicts], float] | None = None

    @property
    def row(self) -> Row:
        """Its settings, beside those of the seed."""
        return Row(self.name, (FT, f"finetune.ft.epochs={self.epochs}"))


def _lot(pair: str, verdicts: Verdicts) -> float:
    del verdicts
    return int(hashlib.sha256(pair.encode()).hexdigest()[:8], 16) / 2**32


def _truth(pair: str, verdicts: Verdicts) -> float:
    return float(bool(verdicts[pair]))


SUBSETS = (
    Subset("all pairs"),
    Subset("two thirds, most trusted", 0.66, 3),
    Subset("two thirds, by lot", 0.66, 3, _lot),
    Subset("two thirds, right ones first", 0.66, 3, _truth),
    Subset("a third, most trusted", 0.34, 6),
)


def signs_line(pairs: Artifact, runs: Path, verdicts: Verdicts) -> dict[str, Any]:
    """Return how right the pairs are that each sign puts first."""
    signs = make_signs(pairs, runs).artifact
    rows = [row for unit in signs.description.units for row in read_pair_signs(signs, unit).to_pylist()]
    stored = {row["pair"]: row for row in _index_rows(pairs)}
    judged = [row | {"score": stored[row["pair"]]["score"], "margin": stored[row["pair"]]["margin"]} for row in rows]
    judged = [row for row in judged if verdicts.get(row["pair"]) is not None]
    right = [bool(verdicts[row["pair"]]) for row in judged]
    precision = {}
    for name in ORDERS:
        order = [np.nan if row[name] is None else float(row[name]) for row in judged]
        curve = precision_against_yield(order, right)
        precision[name] = [curve.precision_at(share) for share in YIELDS]
    return {"pairs": len(rows), "judged": len(judged), "right": sum(right) / len(right), "precision": precision}


def negatives_line(pairs: Artifact, scenes: Artifact, runs: Path) -> dict[str, Any]:
    """Return how many negatives there are, and the share of them that the scenes do not show."""
    names = ScenesAttributes.of(scenes).class_names
    shown: dict[str, set[str]] = {}
    for unit in scenes.description.units:
        index = SceneShard(scenes, unit).index
        classes = zip(index["key"].to_pylist(), index["classes"].to_pylist(), strict=True)
        shown.update((key, {names[label] for label in labels}) for key, labels in classes)
    made = make_negatives(pairs, NegativeRule(), runs).artifact
    rows = [row for unit in made.description.units for row in read_negatives(made, unit).to_pylist()]
    found = [row for row in rows if row["status"] == OK]
    absent = sum(row["noun"] not in shown[row["key"]] for row in found)
    return {"pictures": len(shown), "negatives": len(found), "absent": absent / len(found)}


def instances_line(pairs: Artifact, scenes: Artifact, runs: Path, verdicts: Verdicts) -> dict[str, Any]:
    """Return what the mark of more instances is worth: of right pairs of things, how many scenes show several."""
    names = ScenesAttributes.of(scenes).class_names
    signs = make_signs(pairs, runs).artifact
    marked = several = both = count = 0
    for unit in signs.description.units:
        truths = {scene.key: scene for scene in SceneShard(scenes, unit).scenes()}
        for row in read_pair_signs(signs, unit).to_pylist():
            if not verdicts.get(row["pair"]):
                continue
            scene = truths[row["key"]]
            labels, instances = (
                np.asarray(Image.open(io.BytesIO(png or b""))) for png in (scene.label_png, scene.instances_png)
            )
            things = np.unique(instances[labels == names.index(row["noun"])])
            things = things[things > 0]
            if not len(things):
                continue  # stuff has no instances
            count += 1
            marked += row["more_instances"]
            several += len(things) > 1
            both += row["more_instances"] and len(things) > 1
    return {"pairs": count, "several": several, "marked": marked, "marked_and_several": both}


def _index_rows(pairs: Artifact) -> list[dict[str, Any]]:
    columns = ("pair", "status", "score", "margin")
    return [row for unit in pairs.description.units for row in read_index(pairs, unit, columns=columns).to_pylist()]


def subset_of(pairs: Artifact, subset: Subset, runs: Path, verdicts: Verdicts, seed: int) -> Artifact:
    """Choose pairs by their signs, or by a number in the place of their trust."""
    signs = make_signs(pairs, runs).artifact
    if subset.trust is not None:
        identity = Identity(
            kind=KIND,
            name=subset.name.replace(" ", "-").replace(",", ""),
            schema_version=SCHEMA_VERSION,
            producer_version=0,
            settings={"trust": subset.name},
            inputs={"pairs": pairs.manifest().digest()},
        )
        other = Artifact.planned(runs, Description(identity=identity, units=signs.description.units))
        with other.writing():
            sidecars = {}
            for unit in signs.description.units:
                rows = read_pair_signs(signs, unit).to_pylist()
                for row in rows:
                    row["trust"] = subset.trust(row["pair"], verdicts)
                with other.write_unit(unit) as writer:
                    sidecars[unit] = write_pair_signs(writer, rows)
            other.finish(other.manifest_of(sidecars))
        signs = other
    directory = runs / "subsets" / f"{seed}-{subset.name.replace(' ', '-').replace(',', '')}"
    return filter_pairs(pairs, PairRule(keep_share=subset.share), directory, signs=signs).artifact


def tuned_line(subset: Subset, seed: int, runs: Path, scale: float) -> dict[str, Any]:
    """Finetune on a subset and evaluate, as far as that is not done; mIoU in percent."""
    settings = settings_of(subset.row, seed, runs, scale)
    pairs = run("mine", settings).artifact
    verdicts = judged_pairs(pairs, dataflow(settings).scenes(settings.mine.dataset).artifact)
    if subset.share < 1:
        pairs = subset_of(pairs, subset, runs, verdicts, seed)
        finetuning = settings.finetune.model_copy(update={"pairs_dir": str(pairs.directory)})
        settings = settings.model_copy(update={"finetune": finetuning})
    run("finetune", settings)
    tuned = dataflow(settings).only(ADAPTED_CLIP)
    card: Any = next(unit.facts for unit in tuned.manifest().units if unit.unit == REPORT)
    (dataset,) = read_numbers(run("evaluate", settings).artifact)["datasets"]
    metrics = dataset["variants"][0]["metrics"]
    kept = [verdicts[row["pair"]] for row in _index_rows(pairs) if verdicts.get(row["pair"]) is not None]
    return {
        **{group: 100 * metrics[name] for group, name in GROUPS.items()},
        "pairs": card["pairs"]["pairs"],
        "steps": sum(phase["steps"] for phase in card["phases"]),
        "right": sum(map(bool, kept)) / len(kept),
    }


def measured(name: str, seed: int, runs: Path, scale: float) -> dict[str, Any]:
    """Return the line of a row and a seed."""
    settings = settings_of(Row(name), seed, runs, scale)
    run("train-proposals", settings)
    if name not in ABOUT_PAIRS:
        return tuned_line(next(subset for subset in SUBSETS if subset.name == name), seed, runs, scale)
    pairs = run("mine", settings).artifact
    scenes = dataflow(settings).scenes(settings.mine.dataset).artifact
    if name == NEGATIVES:
        return negatives_line(pairs, scenes, runs)
    verdicts = judged_pairs(pairs, scenes)
    return signs_line(pairs, runs, verdicts) if name == SIGNS else instances_line(pairs, scenes, runs, verdicts)


def digest_of(name: str, seed: int, scale: float) -> str:
    """Return the digest of all that a line depends on."""
    subset = next((subset for subset in SUBSETS if subset.name == name), None)
    base = made_by(subset.row if subset else Row(name), seed, scale)
    share = subset.share if subset else None
    version = negatives.PRODUCER_VERSION if name == NEGATIVES else pair_signs.PRODUCER_VERSION
    return sha256_of_json({"base": base, "signs": version, "share": share})[:16]


def main() -> None:
    """Measure what is missing, or write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes, for a trial")
    parser.add_argument("--write", type=Path, help="write this page, measure nothing")
    options = parser.parse_args()
    if options.write:
        stored = [options.write.with_name(name) for name in ("drawn_world_results.jsonl", "recipe_results.jsonl")]
        results, namers = read_results(options.out), read_lines(options.write.with_name("namer_results.jsonl"))
        options.write.write_text(page(*map(read_lines, stored), results, namers), encoding="utf-8")
        (options.write.parents[1] / "images" / FIGURE).write_bytes(figure(results))
        return
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(line["seed"], line["row"], line.get("made_by")) for line in read_results(options.out)}
    for name in (*ABOUT_PAIRS, *(subset.name for subset in SUBSETS)):
        for seed in options.seeds:
            made = digest_of(name, seed, options.scale)
            if (seed, name, made) not in done:
                started = time.monotonic()
                line = {"seed": seed, "row": name, **measured(name, seed, options.out, options.scale), "made_by": made}
                append_result(options.out, line, alike=("seed", "row"))
                print(f"{json.dumps(line)}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
