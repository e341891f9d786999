"""Measure the paper's ablations (tables 2 to 6) on the drawn world through the real stages, over several seeds.

``python -m tools.measure_paper_tables --out DIR`` mines, finetunes and evaluates what is missing, and writes one line
per seed and row to ``DIR/results.jsonl``; a run that was stopped goes on. Each line says by a digest of settings,
producer versions and shipped weights what made it (`made_by`); one that was made otherwise is measured again and
replaced. ``--write PAGE`` writes the page made of it, docs/results/drawn_world_results.md, and the first comparisons
into README.md.
All seeds share the proposal net, which is the one that the project ships (stage 1 is one training step of
rate 1e-9). Per seed all else is new: the scenes to mine and to test on, prompts, order of pairs. Rows share what they
can: proposals, embeddings, pairs and trained phases are made once per seed, and no report is drawn. One seed is
measured after the other; rows that no comparison needs come last, and on the first five alone. Two processes may
share the work, each with ``--seeds`` of its own.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovseg_models.fusion import classify, fused_labels
from ovseg_models.segmentation_metrics import ClassCounts, class_iou, metrics_of
from pipeline.adaptations import GROUPS
from pipeline.dataflow import dataflow
from pipeline.drawn_world import small_clip, small_proposal_net
from pipeline.drawn_world.words import NOUNS, UNSEEN_NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.evaluate.stored_scores import Scores
from pipeline.first_picture import shipped_segmenter
from pipeline.mine.tagger.sources import TaggerName, tagger_identity
from pipeline.settings import Settings, load_settings, result_settings
from pipeline.shard_runner import Execution
from pipeline.stages import run
from pipeline.text_embeddings import EmbedTexts
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json, sha256_of_file, sha256_of_json
from storage_schemas.reports import KIND as REPORTS
from storage_schemas.scores import KIND as SCORES
from tools.measure_mining import tally_of
from tools.paper_tables_page import CLAIMS, SEEDS_TO_COMPARE, TAUGHT_NAMES, in_short, page
from tools.seed_results import measure_missing, read_lines, read_results, seed_options, write_into

ROOT = Path(__file__).parents[1]
CONFIG, README = ROOT / "flows" / "configs" / "demo.toml", ROOT / "README.md"
SEEDS = (1, 2, 3, 4, 5)
COMPARED_SEEDS = tuple(seed for seed in range(2, 24) if seed != 11)[:SEEDS_TO_COMPARE]
"""Of rows that are compared; `tools.power` says how many it takes. Rows of 1 and 11 were seen while settings were
chosen."""
MINED_SCENES, TEST_SCENES = 300, 200
SHIPPED_NET = (
    "proposal_net.training.steps=1",
    "proposal_net.training.learning_rate=1e-9",
    "proposal_net.training.warmup_steps=0",
    "proposal_net.validation_dataset=''",
    "datasets.drawn-train.drawn_world.scenes=16",
)
ORIGINAL = "evaluate.clip='original'"
UNPROMPTED = "evaluate.use_mask_prompts=false"
DATASET = "evaluate.datasets.0"

Missing = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
"""What a line must hold, and what measures it."""


class Row(NamedTuple):
    """One way of making a model.

    Attributes:
        name: As the page knows it.
        overrides: Settings that make it.
    """

    name: str
    overrides: tuple[str, ...] = ()


def _of_source(source: str) -> Row:
    return Row(f"FT {source}", (f"mine.source='{source}'", "finetune.mode='ft'"))


def _of_seen_classes(name: str, source: str) -> Row:
    """Return a row whose masks are ground truth as the paper's are: of the classes that the proposal net was taught."""
    left_out = ", ".join(f"'{noun}'" for noun in sorted(UNSEEN_NOUNS))
    return Row(name, (*_of_source(source).overrides, f"mine.left_out_classes=[{left_out}]"))


def _of_depth(depth: int) -> Iterator[Row]:
    yield Row(f"MPT depth {depth}", ("finetune.mode='mpt'", f"finetune.prompt_depth={depth}"))
    yield Row(f"FT then MPT depth {depth}", (f"finetune.prompt_depth={depth}",))


# MPT changes no weight of CLIP and stage 4 has a fixed temperature: without its prompts, FT then MPT is FT.
ROWS = (
    Row("original", (ORIGINAL,)),
    Row("FT then MPT"),
    Row("FT", (UNPROMPTED,)),
    Row("MPT", ("finetune.mode='mpt'",)),
    Row("MPT then FT", ("finetune.mode='mpt-then-ft'",)),
    Row("both at once", ("finetune.mode='ft+mpt'",)),
    *(_of_source(source) for source in ("masks-classes", "masks-1-caption", "proposals-5-captions")),
    _of_seen_classes("FT masks-seen-classes", "masks-classes"),
    _of_seen_classes("FT masks-seen-1-caption", "masks-1-caption"),
    # nouns of 5 captions give 2.2 times the pairs, which in 4 epochs are as many steps as 9 of those of 1 caption
    Row("FT for longer", ("finetune.mode='ft'", "finetune.ft.epochs=9")),
    Row("proposal net alone", (ORIGINAL, f"{DATASET}.ensemble_weight=0.0")),
    Row("CLIP alone, original", (ORIGINAL, f"{DATASET}.ensemble_weight=1.0")),
    Row("CLIP alone, FT then MPT", (f"{DATASET}.ensemble_weight=1.0",)),
    *(row for depth in (1, 2, 4) for row in _of_depth(depth)),
)


def settings_of(row: Row, seed: int, runs: Path, scale: float) -> Settings:
    """Return the settings of a row: the demo's, but for the sizes and what is of the seed."""
    world = f"drawn_world={{ scenes = {round(MINED_SCENES * scale)}, seed = {seed} }}"
    return load_settings(
        CONFIG,
        [
            "name=tables",
            f"runs_dir={runs}",
            *SHIPPED_NET,
            f"datasets.mined={{ dataset = 'drawn-world', split = 'train', {world} }}",
            "mine.dataset=mined",
            f"finetune.seed={seed}",
            "finetune.validation_dataset=''",
            f"datasets.drawn-test.drawn_world={{ scenes = {round(TEST_SCENES * scale)}, seed = {seed} }}",
            "evaluate.bootstrap_rounds=1",  # intervals are over the seeds here
            "compute.device='cpu'",
            "compute.wait_s=600",  # another process may be making what all seeds share
            *row.overrides,
        ],
    )


def made_by(row: Row, seed: int, scale: float) -> str:
    """Return the digest of all that a row's numbers depend on: settings, producer versions, shipped weights.

    The report's version is left out: it changes how numbers are shown.
    """
    settings = settings_of(row, seed, Path("runs"), scale)
    fingerprint: dict[str, Json] = {
        "settings": result_settings(settings),
        "recipes": {
            **{
                node.step.kind: node.step.producer_version
                for node in dataflow(settings).nodes
                if node.step.kind != REPORTS
            },
            EmbedTexts.kind: EmbedTexts.producer_version,
        },
        "weights": _shipped_weights(settings.mine.nouns.tagger),
    }
    return sha256_of_json(fingerprint)[:16]


@functools.cache
def _shipped_weights(tagger: TaggerName) -> list[str]:
    """Return the digests of CLIP, proposal net and tagger, which settings know by names alone."""
    clip = (small_clip.ARCHITECTURE_FILE, small_clip.WEIGHTS_FILE)
    return [*map(sha256_of_file, (*clip, small_proposal_net.WEIGHTS_FILE)), tagger_identity(tagger)]


def outdated(results: Sequence[dict[str, Any]], scale: float) -> list[str]:
    """Return seed and row of the results that were made otherwise than they would be now."""
    rows = {row.name: row for row in ROWS} | {TAUGHT_NAMES: ROWS[0]}
    return [
        f"seed {line['seed']}, {line['row']}"
        for line in results
        if line["row"] not in rows or line.get("made_by") != made_by(rows[line["row"]], line["seed"], scale)
    ]


@functools.cache
def pairs_and_right(pairs: Path, scenes: Path) -> tuple[int, float]:
    """Count finished pairs, and the share of them that is right [percent]."""
    tally = tally_of(Artifact.open(pairs), Artifact.open(scenes))
    return tally.pairs, 100 * tally.right / tally.pairs


def all_measurements(seeds: Sequence[int], runs: Path, scale: float) -> Iterator[Missing]:
    """Yield what every line must hold, and what measures it."""
    for seed, row in seeds_and_rows(seeds):
        held = {"seed": seed, "row": row.name, "made_by": made_by(row, seed, scale)}
        yield held, partial(measured, row, seed, runs, scale)
        if row == ROWS[0]:
            yield {**held, "row": TAUGHT_NAMES}, partial(measured_on_taught_names, seed, scale)


def seeds_and_rows(seeds: Sequence[int]) -> list[tuple[int, Row]]:
    """Return what is measured, in order: seed by seed what is compared, then the other rows on five of the seeds."""
    compared = {name for claim in CLAIMS for name in (claim.better, claim.worse)}
    others = [row for row in ROWS if row.name not in compared]
    first = [(seed, row) for seed in seeds for row in ROWS if row.name in compared]
    return first + [(seed, row) for seed in seeds if seed in COMPARED_SEEDS[:5] for row in others]


def measured(row: Row, seed: int, runs: Path, scale: float) -> dict[str, Any]:
    """Run the stages for a row, as far as they are not done, and read its numbers from the scores [percent]."""
    settings = settings_of(row, seed, runs, scale)
    run("train-proposals", settings)
    pairs = run("mine", settings).artifact
    if settings.evaluate.clip == "adapted":
        run("finetune", settings)
    graph = dataflow(settings)
    (node,) = graph.of_kind(SCORES)
    node.step.check(node)
    node.make(Execution.of(settings))  # without the report, whose charts take longer to draw than pictures to score
    scores = Scores(node.artifact)
    counted = scores.counts(scores.attributes.main_variant)
    metrics = metrics_of(counted.counts.summed(), scores.attributes.seen)
    count, right = pairs_and_right(pairs.directory, graph.scenes(settings.mine.dataset).artifact.directory)
    seen_masks = ", of seen classes" if settings.mine.left_out_classes else ""
    return {
        "seed": seed,
        "row": row.name,
        **{group: 100 * float(metrics[name]) for group, name in GROUPS.items()},
        "source": settings.mine.source + seen_masks,
        "pairs": count,
        "right": right,
        "images": len(counted.keys),
        "made_by": made_by(row, seed, scale),
        "proposal_net": sha256_of_file(small_proposal_net.WEIGHTS_FILE)[:12],
    }


def measured_on_taught_names(seed: int, scale: float) -> dict[str, Any]:
    """Name the pixels of the classes that the proposal net was taught, among these alone, by each branch [percent].

    It says what becomes of "proposal net alone above CLIP alone" where no class is strange to the net.
    """
    settings = settings_of(ROWS[0], seed, Path("runs"), scale)
    segmenter = shipped_segmenter(settings)
    names = [noun for noun in NOUNS if noun not in UNSEEN_NOUNS]
    places = np.array([names.index(noun) if noun in names else -1 for noun in NOUNS])
    weights = {"net": 0.0, "clip": 1.0, "both": segmenter.settings.ensemble_weight}
    confusions = {branch: np.zeros((len(names), len(names))) for branch in weights}  # [true predicted]
    tested = settings.datasets[settings.evaluate.datasets[0].dataset]
    world = DrawnWorld(seed=tested.drawn_world.seed, size_px=tested.drawn_world.size_px)
    for index in split_indices(tested.split, tested.drawn_world.scenes):
        scene = world.scene(index)
        truth = places[scene.label_map]
        found = segmenter.branches(scene.image, names)
        for branch, weight in weights.items():
            classes = classify(found.proposal_logits, found.clip_logits, found.valid, ensemble_weight=weight)
            size = (truth.shape[0], truth.shape[1])
            labels = fused_labels(classes.scores, found.mask_logits, net_size=size, size=size).numpy()
            np.add.at(confusions[branch], (truth[truth >= 0], labels[truth >= 0]), 1)
    mious = {
        branch: 100 * float(np.nanmean(class_iou(ClassCounts.of_confusion(confusion))))
        for branch, confusion in confusions.items()
    }
    return {
        "seed": seed,
        "row": TAUGHT_NAMES,
        **mious,
        "images": tested.drawn_world.scenes,
        "made_by": made_by(ROWS[0], seed, scale),
        "proposal_net": sha256_of_file(small_proposal_net.WEIGHTS_FILE)[:12],
    }


def main() -> None:
    """Measure what is missing, or write the page."""
    parser = seed_options(__doc__, COMPARED_SEEDS)
    options = parser.parse_args()
    results = read_results(options.out)
    if options.write:
        if others := outdated(results, options.scale):
            what = f"{len(others)} of {len(results)} lines were made by other settings, versions or weights"
            parser.error(f"{options.out / 'results.jsonl'}: {what} ({others[0]}); measure them again, without --write")
        others = ("recipe_results.jsonl", "trust_results.jsonl")
        recipes, trust = (read_lines(options.write.with_name(name)) for name in others)
        namers = read_lines(options.write.with_name("namer_results.jsonl"))
        options.write.write_text(page(results, recipes, trust, namers), encoding="utf-8")
        write_into(README, f"\n{in_short(results)}\n", name="paper tables")
        return
    measure_missing(options.out, all_measurements(options.seeds, options.out, options.scale))


if __name__ == "__main__":
    main()
