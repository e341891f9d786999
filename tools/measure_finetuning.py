"""Measure on the drawn world what each order of FT and MPT does to a CLIP that has never seen a masked picture.

``python -m tools.measure_finetuning --out DIR`` writes one line per seed, schedule and kind of mask to
``DIR/results.jsonl``; a run that was stopped goes on. ``--write PAGE`` puts the tables made of it between the marks of
a page, such as docs/results/finetuning_table.md.
``--rate-ft 3e-5 --schedules FT "FT then MPT"`` measures some schedules at another rate, which has a table of its own.
Per seed all is new: the world's scenes, the pairs mined from them, prompts, order of pairs, and the scenes to test on.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ovseg_models.masked_crops import masked_crops, patch_mask
from ovseg_models.prompt_templates import VILD
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.zero_shot import ZeroShotCounts
from pipeline.clip_loading import LoadedClip, load_clip
from pipeline.dataflow import dataflow
from pipeline.drawn_world.words import NOUNS, UNSEEN_NOUNS
from pipeline.finetune.phases import phases_of
from pipeline.finetune.task import ImageSide
from pipeline.finetune.training import gather_inputs, run_phases
from pipeline.settings import Settings
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from tools.drawn_regions import ground_truth_pairs, mined_pairs, regions_of, scenes_of
from tools.seed_results import append_result, read_results, with_interval, write_into

SEEDS = (1, 2, 3, 4, 5)
TRAIN_SCENES, TEST_SCENES = 1250, 420  # about 3,000 pairs and 1,900 regions
EPOCHS, BATCH, RATE_FT, RATE_MPT, WARMUP, DEPTH = 2, 64, 3e-4, 1e-2, 10, 3
MASKS = ("exact", "proposal")
CLIP = {"architecture": "drawn-world-small", "pretrained": "shipped"}
GROUPS = {
    "seen": [label for label, noun in enumerate(NOUNS) if noun not in UNSEEN_NOUNS],
    "unseen": [label for label, noun in enumerate(NOUNS) if noun in UNSEEN_NOUNS],
}


class Schedule(NamedTuple):
    """One row of the table.

    Attributes:
        title: As the table has it.
        phases: What is trained after what.
        loss: As the setting has it.
        closed_set: Whether the pairs are exact masks of seen classes.
        blank_patches: As the setting has it, in training and when it is tested.
    """

    title: str
    phases: tuple[str, ...]
    loss: str = "contrastive"
    closed_set: bool = False
    blank_patches: str = "kept"


SCHEDULES = (
    Schedule("original CLIP", ()),
    Schedule("MPT", ("mpt",)),
    Schedule("FT", ("ft",)),
    Schedule("FT then MPT", ("ft", "mpt")),
    Schedule("MPT then FT", ("mpt", "ft")),
    Schedule("both at once", ("ft+mpt",)),
    Schedule("FT then FT, equal steps (control)", ("ft", "ft")),
    Schedule("FT on ground-truth pairs of seen classes", ("ft",), closed_set=True),
    Schedule("FT, noun-aware loss", ("ft",), loss="noun-aware"),
    Schedule("original CLIP, blank patches dropped", (), blank_patches="dropped"),
    Schedule("FT, blank patches dropped", ("ft",), blank_patches="dropped"),
    Schedule("FT then MPT, blank patches dropped", ("ft", "mpt"), blank_patches="dropped"),
)
TITLES = tuple(schedule.title for schedule in SCHEDULES)


class TestRegions(NamedTuple):
    """Crops of a seed's test scenes.

    Attributes:
        labels: What each shows [region].
        crops: By kind of mask [region 3 side side].
        patch_masks: By kind of mask [region patch].
    """

    labels: torch.Tensor
    crops: Mapping[str, torch.Tensor]
    patch_masks: Mapping[str, torch.Tensor]


class Trial(NamedTuple):
    """What is measured.

    Attributes:
        seed: What decides all chance.
        out: Directory of the results and of all runs.
        scale: Share of the scenes; below 1 to try the program.
        rate_ft: Learning rate of the image tower.
    """

    seed: int
    out: Path
    scale: float = 1.0
    rate_ft: float = RATE_FT


def settings_of(trial: Trial, loss: str, blank_patches: str = "kept") -> Settings:
    """Return stage 3's settings; the mode is that of the longest schedule, the phases come from the schedules."""
    phase = {"epochs": EPOCHS, "batch_pairs": BATCH, "warmup_steps": WARMUP}
    return Settings.model_validate(
        {
            "name": f"table-{trial.seed}",
            "runs_dir": trial.out,
            "clip": CLIP,
            "finetune": {
                "seed": trial.seed,
                "prompt_depth": DEPTH,
                "loss": loss,
                "blank_patches": blank_patches,
                "ft": {**phase, "learning_rate": trial.rate_ft},
                "mpt": {**phase, "learning_rate": RATE_MPT},
            },
            "compute": {"loader_workers": 0, "device": "cpu"},
        }
    )


def test_regions(base: LoadedClip, seed: int, scenes: int) -> TestRegions:
    """Cut out the regions of the test scenes, by exact masks and by those of proposals."""
    side, patch_px = base.clip.visual.image_size[0], base.clip.visual.patch_size[0]
    labels: list[int] = []
    crops: dict[str, list[torch.Tensor]] = {kind: [] for kind in MASKS}
    patches: dict[str, list[torch.Tensor]] = {kind: [] for kind in MASKS}
    for _, scene, rng in scenes_of("test", seed, scenes):
        regions = regions_of(scene, rng)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        labels += [region.label for region in regions]
        for kind, masks in (
            ("exact", [region.exact for region in regions]),
            ("proposal", [region.proposed for region in regions]),
        ):
            cut = masked_crops(image, torch.from_numpy(np.stack(masks)), crop_px=side)
            crops[kind].append(cut.crops)
            patches[kind].append(patch_mask(cut.crop_masks, patch_px))
    return TestRegions(
        torch.tensor(labels),
        {kind: torch.cat(parts) for kind, parts in crops.items()},
        {kind: torch.cat(parts) for kind, parts in patches.items()},
    )


@torch.no_grad()
def measured(image_side: ImageSide, texts: torch.Tensor, regions: TestRegions, kind: str) -> dict[str, float]:
    """Measure accuracies in percent."""
    counts = ZeroShotCounts.none(len(NOUNS))
    for rows in torch.arange(len(regions.labels)).split(256):
        embeddings = image_side.eval()(regions.crops[kind][rows], regions.patch_masks[kind][rows])
        counts.add(embeddings, texts, regions.labels[rows])
    return {name: 100 * value for name, value in counts.accuracies(GROUPS).items()}


def adapted_by(schedule: Schedule, pairs: Artifact, trial: Trial) -> ImageSide:
    """Train a schedule, or what is left of it; runs that schedules share are in one artifact, never finished."""
    settings = settings_of(trial, schedule.loss, schedule.blank_patches)
    finetuning = settings.finetune.model_copy(update={"pairs_dir": str(pairs.directory)})
    node = dataflow(settings.model_copy(update={"finetune": finetuning})).only("adapted_clip")
    processes = Processes(0, 1, torch.device("cpu"))
    phases = phases_of(settings.finetune, schedule.phases)
    inputs = gather_inputs(finetuning, node, processes)
    with node.artifact.writing():
        run_phases(phases, inputs, finetuning, settings.compute, node.artifact, processes)
    return ImageSide(inputs.adapted, uses_prompts=bool(phases) and phases[-1].uses_prompts)


def run_trial(trial: Trial, schedules: Sequence[Schedule]) -> Iterator[dict[str, Any]]:
    """Yield the results of a trial that are not there yet."""
    seed, out = trial.seed, trial.out
    done = {(line["seed"], line["schedule"], rate_of(line)) for line in read_results(out)}
    missing = [schedule for schedule in schedules if (seed, schedule.title, trial.rate_ft) not in done]
    if not missing:
        return
    base = load_clip(settings_of(trial, "contrastive").clip)
    texts = TextClassifier(base.clip, base.tokenize).text_embeddings(NOUNS, VILD)
    scenes = round(TRAIN_SCENES * trial.scale)
    mined = mined_pairs(out, base, seed=seed, scenes=scenes)
    usable = mined.manifest().rows
    closed = ground_truth_pairs(out, seed=seed, scenes=scenes, most=usable)
    regions = test_regions(base, seed, round(TEST_SCENES * trial.scale))
    for schedule in missing:
        started = time.monotonic()
        image_side = adapted_by(schedule, closed if schedule.closed_set else mined, trial)
        facts = {"pairs": usable, "right": mined.description.attributes["right"], "regions": len(regions.labels)}
        if trial.rate_ft != RATE_FT:
            facts["rate_ft"] = trial.rate_ft
        for kind in MASKS:
            values = measured(image_side, texts, regions, kind)
            yield {"seed": seed, "schedule": schedule.title, "masks": kind, **values, **facts}
        print(f"seed {seed}, {schedule.title}: {time.monotonic() - started:.0f} s", flush=True)


def rate_of(line: Mapping[str, Any]) -> float:
    """Return the rate at which a result's image tower was trained."""
    return float(line.get("rate_ft", RATE_FT))


def table(results: list[dict[str, Any]], minus: str = "") -> str:
    """Write accuracies as Markdown, or their differences to another schedule, seed by seed."""
    figures = {
        (line["schedule"], line["masks"], line["seed"], group): line[f"macro_{group}"]
        for line in results
        for group in ("seen", "unseen")
    }
    seeds = sorted({line["seed"] for line in results})
    lines = [
        "| | seeds | exact mask, seen | exact mask, unseen | proposal, seen | proposal, unseen |",
        "|---|---|---|---|---|---|",
    ]
    measured_titles = {line["schedule"] for line in results}
    for schedule in SCHEDULES:
        if schedule.title not in measured_titles:
            continue
        cells = []
        for kind in MASKS:
            for group in ("seen", "unseen"):
                keys = [(kind, seed, group) for seed in seeds]
                values = [
                    figures[schedule.title, *key] - (figures[minus, *key] if minus else 0.0)
                    for key in keys
                    if (schedule.title, *key) in figures and (not minus or (minus, *key) in figures)
                ]
                cells.append(with_interval(values))
        if schedule.title != minus:
            lines.append(f"| {schedule.title} | {len(values)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(results: list[dict[str, Any]]) -> str:
    """Return the part of the page between the marks."""
    plain = [line for line in results if rate_of(line) == RATE_FT]
    pairs, right, regions = (
        statistics.fmean(line[name] for line in plain if line["schedule"] == SCHEDULES[0].title)
        for name in ("pairs", "right", "regions")
    )
    text = f"""
Mean accuracy over the nouns in percent, with 95 % intervals over the seeds (Student's t). Each seed has scenes
of its own to mine ({pairs:,.0f} pairs, {100 * right:.0f} % of them right) and to test on ({regions:,.0f} regions):

{table(plain)}

Differences to FT, seed by seed, in percentage points:

{table(plain, minus="FT")}
"""
    for rate in sorted({rate_of(line) for line in results} - {RATE_FT}):
        others = [line for line in results if rate_of(line) == rate]
        text += f"""
The same with a rate of {rate:g} for FT in place of {RATE_FT:g}, accuracies and differences:

{table(others)}

{table(others, minus="FT")}
"""
    return text


def main() -> None:
    """Measure what is missing, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes, for a trial")
    parser.add_argument("--rate-ft", type=float, default=RATE_FT, help="learning rate of the image tower")
    parser.add_argument(
        "--schedules", nargs="+", choices=TITLES, default=TITLES, help="those to measure", metavar="TITLE"
    )
    parser.add_argument("--write", type=Path, help="put the tables into this page, measure nothing")
    options = parser.parse_args()
    if options.write:
        write_into(options.write, tables(read_results(options.out)))
        return
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        trial = Trial(seed, options.out, options.scale, options.rate_ft)
        for line in run_trial(trial, [schedule for schedule in SCHEDULES if schedule.title in options.schedules]):
            append_result(options.out, line)


if __name__ == "__main__":
    main()
