"""Measure what a memory of a few masks of each unseen class brings on the drawn world, over several seeds.

``python -m tools.measure_memory --out DIR`` trains and evaluates what is missing, and writes one line per seed and row
to ``DIR/results.jsonl``; a run that was stopped goes on. ``--write PAGE`` writes the table of
docs/results/memory_table.md. Scenes, seeds and settings are those of `tools.measure_paper_tables`; the masks are ground
truth of the mined scenes, which no evaluation sees, drawn by lot among regions of at least one percent of a picture.
The constants of the fusion were chosen on other seeds (`DEVELOPMENT_SEEDS`), which this tool measures too where they
are asked for.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovseg_models.memory import Memory
from ovseg_models.segmenter import Segmenter
from pipeline.adaptations import GROUPS
from pipeline.bundle import bundle
from pipeline.dataflow import dataflow
from pipeline.evaluate.labelled_images import LabelledImage, LabelledScenes
from pipeline.settings import Settings
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.reports import read_numbers
from storage_schemas.scenes import ScenesAttributes
from tools.measure_paper_tables import DATASET, ORIGINAL, SEEDS, Row, settings_of
from tools.seed_results import measure_missing, read_results, seed_options, with_interval, write_into

DEVELOPMENT_SEEDS = (11, 12, 13, 14, 15)
LEAST_SHARE = 0.01


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        name: As the page knows it.
        model: How the model is made.
        masks: Remembered masks of each unseen class; 0 for the model alone.
    """

    name: str
    model: Row
    masks: int


ADAPTED, STOCK = Row("FT then MPT"), Row("original", (ORIGINAL,))
HALF = Row("FT then MPT", (f"{DATASET}.ensemble_weight=0.5",))
MODELS = (ADAPTED, HALF, STOCK)
CASES = (
    *(Case(f"FT then MPT, {masks} masks", ADAPTED, masks) for masks in (0, 5)),
    *(Case(f"FT then MPT at ensemble weight 0.5, {masks} masks", HALF, masks) for masks in (0, 5)),
    *(Case(f"original CLIP, {masks} masks", STOCK, masks) for masks in (0, 5)),
    *(Case(f"FT then MPT, {masks} masks", ADAPTED, masks) for masks in (1,)),
)


def remembered(settings: Settings, masks: int, seed: int, folder: Path, *, original_clip: bool) -> Path:
    """Remember masks of each unseen class as a user does, by a segmenter, and return the file."""
    path = folder / f"memory-{masks}.safetensors"
    shutil.rmtree(folder / "segmenter", ignore_errors=True)
    bundle(settings, folder / "segmenter", original_clip=original_clip)
    segmenter = Segmenter.load(folder / "segmenter")
    scenes = dataflow(settings).scenes(settings.mine.dataset).artifact
    labels = ScenesAttributes.of(scenes)
    unseen = {index: name for index, name in enumerate(labels.class_names) if labels.seen[index] == "unseen"}
    found: dict[int, list[LabelledImage]] = {index: [] for index in unseen}
    for scene in _labelled(scenes, labels):
        classes, counts = np.unique(scene.labels, return_counts=True)
        for index, pixels in zip(classes.tolist(), counts.tolist(), strict=True):
            if index in unseen and pixels >= LEAST_SHARE * scene.labels.size:
                found[index].append(scene)
    draw = np.random.default_rng(seed)
    for index, name in unseen.items():
        for place in draw.permutation(len(found[index]))[:masks].tolist():
            scene = found[index][place]
            segmenter.remember(name, scene.image, scene.labels == index, source=scene.key)
    memory = segmenter.memory or Memory("")
    memory.save(path)
    return path


def _labelled(scenes: Artifact, labels: ScenesAttributes) -> Iterator[LabelledImage]:
    count, ignore = len(labels.class_names), labels.ignore_label
    labelled = LabelledScenes(artifact=scenes, class_count=count, ignore_label=ignore)
    for unit in scenes.description.units:
        for scene in labelled.of_unit(unit):
            if isinstance(scene, LabelledImage):
                yield scene


def measured(case: Case, seed: int, runs: Path, scale: float) -> dict[str, Any]:
    """Run the stages for a case, as far as they are not done, and read its numbers from the report [percent]."""
    settings = settings_of(case.model, seed, runs, scale)
    run("train-proposals", settings)
    run("mine", settings)
    if settings.evaluate.clip == "adapted":
        run("finetune", settings)
    if case.masks:
        folder = runs / "memories" / f"{seed}-{settings.evaluate.clip}"
        folder.mkdir(parents=True, exist_ok=True)
        stock = settings.evaluate.clip == "original"
        path = remembered(settings, case.masks, seed, folder, original_clip=stock)
        evaluate = settings.evaluate.model_copy(update={"memory": str(path)})
        settings = settings.model_copy(update={"evaluate": evaluate})
    report = run("evaluate", settings).artifact
    (dataset,) = read_numbers(report)["datasets"]
    metrics = dataset["variants"][0]["metrics"]
    numbers = {group: 100 * metrics[name] for group, name in GROUPS.items()}
    scores = dataflow(settings).of_kind("scores")[0].artifact.identity.digest()
    return {"seed": seed, "row": case.name, **numbers, "images": dataset["images"], "scores": scores[:12]}


def table(results: list[dict[str, Any]]) -> str:
    """Write means over the seeds, and differences from the same model without a memory, with 95 % intervals."""
    by_case = {(line["row"], line["seed"]): line for line in results}
    head = ("model", "masks of each unseen class", "seen", "unseen", "seen, change", "unseen, change")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in sorted(CASES, key=lambda each: (MODELS.index(each.model), each.masks)):
        own = [by_case[case.name, seed] for seed in SEEDS if (case.name, seed) in by_case]
        alone = f"{case.name.partition(',')[0]}, 0 masks"
        pairs = [(line, by_case[alone, line["seed"]]) for line in own if (alone, line["seed"]) in by_case]
        means = (with_interval([line[group] for line in own]) for group in ("seen", "unseen"))
        changes = (
            with_interval([line[group] - base[group] for line, base in pairs], sign="+") if case.masks else ""
            for group in ("seen", "unseen")
        )
        model = case.name.partition(",")[0]
        lines.append(f"| {model} | {case.masks} | {' | '.join(means)} | {' | '.join(changes)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, or write the table."""
    options = seed_options(__doc__, SEEDS).parse_args()
    results = read_results(options.out)
    if options.write:
        write_into(options.write, f"\n{table(results)}\n")
        return
    measure_missing(
        options.out,
        (
            (
                {"seed": seed, "row": case.name},
                partial(measured, case, seed, options.out, options.scale),
            )
            for case in CASES
            for seed in options.seeds
        ),
    )


if __name__ == "__main__":
    main()
