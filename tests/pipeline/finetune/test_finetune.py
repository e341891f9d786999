"""Stage 3 as a whole: what it writes, and that no stop, part or process changes it."""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.text_classifier import TextClassifier
from ovseg_models.weights import image_tower_weights, text_tower_weights, weights_digest
from pipeline.clip_loading import load_clip
from pipeline.errors import PipelineError
from pipeline.finetune.finetune import Finetune
from pipeline.finetune.task import FinetuneTask, ImageSide, accuracies
from pipeline.finetune.training import gather_inputs
from pipeline.graph import MissingInputError
from pipeline.settings import Settings
from pipeline.stages import run
from pipeline.states import state_of_node
from pipeline.trained_nets import load_adapted_clip
from pipeline.training.metrics_log import read_metrics
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import read_weights
from storage_schemas.pair_collection import PairCollection
from storage_schemas.status import UnitState
from tests import forked
from tests.pipeline.finetune.finetune_run import EPOCHS, finetune, small_settings
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.planned import artifact_of, node_of
from tests.pipeline.training.toy_run import Stopped, StoppingDisk

PHASES = ("ft", "ft-then-mpt")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=6)


def files_of(artifact: Artifact) -> dict[str, bytes]:
    """Read all files of an artifact but those of this machine, and the metrics of its phases."""
    files = {path.name: path.read_bytes() for path in artifact.directory.iterdir() if path.is_file()}
    return files | {
        str(path.relative_to(artifact.directory)): path.read_bytes()
        for path in artifact.local_directory.glob("*/metrics.jsonl")
    }


@pytest.fixture(scope="module")
def undisturbed(pairs: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    report = run("finetune", small_settings(tmp_path_factory.mktemp("undisturbed"), pairs.directory))
    return files_of(report.artifact)


def test_what_is_written(pairs: Artifact, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, pairs.directory, validation_dataset="scenes")
    report = run("finetune", settings)
    assert [unit.unit for unit in report.manifest.units] == ["image_tower", "mask_prompts", "report"]
    card = report.manifest.units[2].facts
    assert [phase["mode"] for phase in card["phases"]] == ["ft", "mpt"]
    assert [phase["steps"] for phase in card["phases"]] == [
        len(read_metrics_of(report.artifact, phase_run)) for phase_run in PHASES
    ]
    for phase, phase_run in zip(card["phases"], PHASES, strict=True):
        losses = [line["loss"] for line in read_metrics_of(report.artifact, phase_run)]
        last = losses[-max(1, len(losses) // 4) :]
        assert phase["first_loss"] == losses[0]
        assert phase["last_loss"] == pytest.approx(np.mean(last))
        assert f"| {losses[0]:.3f} | {np.mean(last):.3f} (mean of {len(last)}) |" in card_text(report.artifact)
    assert [len(phase["validation"]) for phase in card["phases"]] == [EPOCHS, EPOCHS]
    assert card["pairs"]["digest"] == pairs.manifest().digest()
    assert card["towers"]["text tower"]["before"] == card["towers"]["text tower"]["after"]
    assert card["towers"]["image tower"]["before"] != card["towers"]["image tower"]["after"]
    assert set(card["before"]) == {"top1", "top5", "macro", "macro_seen", "macro_unseen"}
    text = card_text(report.artifact)
    assert "| 1 | ft | 2 |" in text
    assert "| phase 2, step" in text
    with Image.open(report.artifact.directory / "report.curves.png") as curves:
        assert curves.width > 300
    adapted = load_adapted_clip(report.artifact, load_clip(settings.clip))
    assert adapted.prompt_depth == 3
    assert adapted.logit_scale.item() == pytest.approx(card["logit_scale"]["after"])


def card_text(artifact: Artifact) -> str:
    return (artifact.directory / "report.md").read_text()


def read_metrics_of(artifact: Artifact, run: str) -> list[dict[str, object]]:
    return read_metrics(artifact.local_directory / run / "metrics.jsonl", "train")


def test_mpt_leaves_every_weight_of_clip_as_it_was(pairs: Artifact, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, pairs.directory, mode="mpt")
    report = run("finetune", settings)
    assert [unit.unit for unit in report.manifest.units] == ["mask_prompts", "report"]
    assert read_weights(report.artifact, "mask_prompts").keys() == {"mask_prompts", "clip.logit_scale"}
    base = load_clip(settings.clip)
    adapted = load_adapted_clip(report.artifact, base)
    for part in (image_tower_weights, text_tower_weights):
        assert weights_digest(part(adapted.clip)) == weights_digest(part(base.clip))
    assert "| image tower | | " in (report.artifact.directory / "report.md").read_text()
    assert "unchanged" in (report.artifact.directory / "report.md").read_text()


@pytest.mark.parametrize("mode", ["ft", "mpt-then-ft", "ft+mpt"])
def test_the_other_modes_run(pairs: Artifact, tmp_path: Path, mode: str) -> None:
    report = run("finetune", small_settings(tmp_path, pairs.directory, mode=mode))
    units = [unit.unit for unit in report.manifest.units]
    assert units == (["image_tower", "report"] if mode == "ft" else ["image_tower", "mask_prompts", "report"])


@pytest.mark.parametrize("mode", ["ft", "mpt"])
def test_training_and_validation_drop_blank_patches_alike(pairs: Artifact, tmp_path: Path, mode: str) -> None:
    changes = {"mode": mode, "validation_dataset": "scenes", "prompt_depth": 1}
    kept, dropped = (
        run("finetune", small_settings(tmp_path, pairs.directory, blank_patches=way, **changes))
        for way in ("kept", "dropped")
    )
    assert kept.artifact.directory != dropped.artifact.directory
    cards = [report.manifest.units[-1].facts for report in (kept, dropped)]
    assert cards[0]["before"] == cards[1]["before"]  # stock CLIP as it is
    assert cards[0]["phases"][0]["first_loss"] != cards[1]["phases"][0]["first_loss"]
    assert ["are dropped" in card_text(report.artifact) for report in (kept, dropped)] == [False, True]
    settings = small_settings(tmp_path, pairs.directory, blank_patches="dropped", **changes)
    adapted = load_adapted_clip(dropped.artifact, load_clip(settings.clip))
    assert adapted.blank_patches == "dropped"
    alone = Processes(0, 1, torch.device("cpu"))
    validation = gather_inputs(settings.finetune, node_of(settings, "adapted_clip"), alone).validation
    assert validation is not None
    measured = accuracies(validation, ImageSide(adapted, uses_prompts=mode == "mpt").eval(), alone)
    stored = cards[1]["phases"][0]["validation"][-1]
    assert {name: stored[name] for name in measured} == pytest.approx(measured)


def test_a_finished_run_does_nothing_and_settings_of_how_change_nothing(
    pairs: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    settings = small_settings(tmp_path, pairs.directory)
    first = run("finetune", settings)
    assert (first.units_done, first.units_skipped) == (3, 0)
    assert files_of(first.artifact) == undisturbed
    monkeypatch.setattr(FinetuneTask, "backward", None)
    again = run("finetune", settings)
    assert (again.units_done, again.units_skipped) == (0, 3)
    how = small_settings(tmp_path, pairs.directory, accumulation_steps=2, gradient_checkpointing=True)
    assert run("finetune", how).artifact == first.artifact


def test_a_run_that_goes_on_embeds_no_noun_again(
    pairs: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    settings = small_settings(tmp_path, pairs.directory)
    after_step, embed, embedded = FinetuneTask.after_step, TextClassifier.text_embeddings, []

    def stopping(task: FinetuneTask) -> None:
        after_step(task)
        raise Stopped

    def noting(self: TextClassifier, names: list[str], *arguments: object) -> object:
        embedded.extend(names)
        return embed(self, names, *arguments)

    monkeypatch.setattr(TextClassifier, "text_embeddings", noting)
    monkeypatch.setattr(FinetuneTask, "after_step", stopping)
    with pytest.raises(Stopped):
        run("finetune", settings)
    monkeypatch.setattr(FinetuneTask, "after_step", after_step)
    assert files_of(run("finetune", settings).artifact) == undisturbed
    assert tuple(embedded) == PairCollection(pairs).nouns


def test_settings_of_a_part_that_is_not_trained_are_no_part_of_the_identity(pairs: Artifact, tmp_path: Path) -> None:
    def digest(**changes: object) -> str:
        return artifact_of(small_settings(tmp_path, pairs.directory, **changes), "adapted_clip").identity.digest()

    other = {"epochs": 9, "batch_pairs": 4}
    assert digest(mode="ft") == digest(mode="ft", mpt=other, prompt_depth=1)
    assert digest(mode="mpt") == digest(mode="mpt", ft=other) != digest(mode="mpt", mpt=other)
    assert digest(mode="ft") != digest(mode="ft", seed=1)
    assert digest() != digest(prompt_depth=1)
    assert digest() != digest(mode="mpt-then-ft")


# a stopped run leaves its temporary file open, as a killed process does
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_stop_between_any_two_writes_changes_nothing(
    pairs: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    """Stops in FT, at the switch, in MPT and while the result is written; each run goes on from the one before."""
    disk, planned = StoppingDisk(10**6), Finetune.artifact
    on_disk = lambda step, node: dataclasses.replace(planned(step, node), disk=disk)  # noqa: E731
    monkeypatch.setattr(Finetune, "artifact", on_disk)
    settings = small_settings(tmp_path, pairs.directory)
    stops = set()
    for calls in (9, 24, 31, 38, 45, 52, 59, 66, 73) * 3:
        disk.left = calls
        try:
            report = run("finetune", settings)
        except Stopped:
            local = artifact_of(settings, "adapted_clip").local_directory
            stops.add(tuple(part for part in ("start", *PHASES) if (local / part).exists()))
        else:
            break
    assert files_of(report.artifact) == undisturbed
    assert stops >= {("start",), ("start", "ft"), ("start", *PHASES)}


@pytest.mark.parametrize("family", ["", "SigLIP2"])
def test_kills_in_ft_at_the_switch_and_in_mpt_change_nothing(
    pairs: Artifact, tmp_path: Path, undisturbed: dict[str, bytes], family: str
) -> None:
    if family:  # a sigmoid model, whose bias is trained, too
        whole = run("finetune", small_settings(tmp_path / "whole", pairs.directory, family=family)).artifact
        assert {"clip.logit_scale", "clip.logit_bias"} <= read_weights(whole, "image_tower").keys()
    expected = files_of(whole) if family else undisturbed
    settings = small_settings(tmp_path / "killed", pairs.directory, family=family)
    local = artifact_of(settings, "adapted_clip").local_directory
    steps = len(expected["_local/ft/metrics.jsonl"].splitlines())

    def lines(phase: str) -> int:
        path = local / phase / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    moments = (
        lambda: lines("ft") >= 4,
        (local / "ft" / "checkpoints" / f"step-{steps:09d}.json").exists,
        lambda: lines("ft-then-mpt") >= 4,
    )
    for moment in moments:
        process = forked.start(partial(finetune, pause_s=0.05, family=family), tmp_path / "killed", pairs.directory)
        while not moment():
            assert process.exitcode is None, "the run ended before the kill"
            time.sleep(0.001)
        forked.kill([process])
    assert files_of(run("finetune", settings).artifact) == expected


@pytest.mark.parametrize(("family", "mode"), [("ResNet", "ft"), ("PE-Core", "ft"), ("EVA02", "ft+mpt")])
def test_a_kill_changes_no_weight_of_other_families(pairs: Artifact, tmp_path: Path, family: str, mode: str) -> None:
    """Batch norms; attention pools beside class tokens; rotary positions and prompts."""
    whole = run("finetune", small_settings(tmp_path / "whole", pairs.directory, family=family, mode=mode)).artifact
    settings = small_settings(tmp_path / "killed", pairs.directory, family=family, mode=mode)
    metrics = artifact_of(settings, "adapted_clip").local_directory / mode / "metrics.jsonl"
    killed = partial(finetune, pause_s=0.05, family=family, mode=mode)
    process = forked.start(killed, tmp_path / "killed", pairs.directory)
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 4):
        assert process.exitcode is None, "the run ended before the kill"
        time.sleep(0.001)
    forked.kill([process])
    assert files_of(run("finetune", settings).artifact) == files_of(whole)


@pytest.mark.parametrize(
    ("processes", "parts", "short_of_memory"),
    [(2, 1, None), (2, 2, None), (1, 0, (3, 5)), (2, 0, (3, 5))],
    ids=["whole", "in parts", "memory runs out", "memory of one runs out"],
)
def test_processes_and_parts_equal_one_process_with_whole_batches(
    pairs: Artifact,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    processes: int,
    parts: int,
    short_of_memory: tuple[int, int] | None,
) -> None:
    target = partial(finetune, short_of_memory=short_of_memory, accumulation_steps=parts)
    forked.finish(forked.start_group(processes, target, tmp_path, pairs.directory))
    artifact = artifact_of(small_settings(tmp_path, pairs.directory), "adapted_clip")
    for phase in PHASES:
        lines = undisturbed[f"_local/{phase}/metrics.jsonl"].splitlines()
        expected = [json.loads(line)["loss"] for line in lines]
        losses = [line["loss"] for line in read_metrics_of(artifact, phase)]
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for unit in ("image_tower", "mask_prompts"):
        (tmp_path / f"{unit}.safetensors").write_bytes(undisturbed[f"{unit}.safetensors"])
        one = Artifact(tmp_path, artifact.description)
        for name, array in read_weights(one, unit).items():
            np.testing.assert_allclose(read_weights(artifact, unit)[name], array, atol=2e-4, err_msg=name)


def test_processes_share_the_loss_and_the_bias_of_a_sigmoid_model(pairs: Artifact, tmp_path: Path) -> None:
    changes = {"family": "SigLIP2", "mode": "ft"}
    alone = run("finetune", small_settings(tmp_path / "alone", pairs.directory, **changes)).artifact
    target = partial(finetune, accumulation_steps=2, **changes)
    forked.finish(forked.start_group(2, target, tmp_path / "both", pairs.directory))
    both = artifact_of(small_settings(tmp_path / "both", pairs.directory, **changes), "adapted_clip")
    losses = [[line["loss"] for line in read_metrics_of(artifact, "ft")] for artifact in (alone, both)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    found, expected = (read_weights(artifact, "image_tower") for artifact in (both, alone))
    before = load_clip(small_settings(tmp_path / "alone", pairs.directory, **changes).clip).clip.state_dict()
    for name in ("clip.logit_bias", "clip.logit_scale"):
        assert expected[name] != before[name.removeprefix("clip.")].numpy()
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_pairs_that_fill_no_batch_are_refused(pairs: Artifact, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, pairs.directory, mode="mpt", mpt={"batch_pairs": 1000})
    with pytest.raises(PipelineError, match=r"finetune.mpt.batch_pairs: .* don't fill one batch of 1000; lower the"):
        run("finetune", settings)


def test_missing_pairs_are_reported_also_by_status(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"finetune.pairs_dir: .*nowhere holds no artifact of pairs"):
        run("finetune", settings)
    state = state_of_node(node_of(settings, "adapted_clip"))
    assert state.state == "waiting"
    assert "nowhere holds no artifact of pairs" in state.reason


def test_unfinished_pairs_are_refused(pairs: Artifact, tmp_path: Path) -> None:
    unfinished = tmp_path / "pairs"
    unfinished.mkdir()
    (unfinished / "artifact.json").write_bytes((pairs.directory / "artifact.json").read_bytes())
    with pytest.raises(MissingInputError, match=r"is not finished; run 'ovseg mine' first"):
        run("finetune", small_settings(tmp_path / "runs", unfinished))


@pytest.mark.parametrize("source", ["masks-classes", "proposals-1-caption"])
def test_that_nothing_is_mined_is_reported_before_any_scene_is_prepared(source: str, tmp_path: Path) -> None:
    changes = {"finetune": {"validation_dataset": "scenes"}, "mine": {"dataset": "scenes", "source": source}}
    scenes = {"dataset": "drawn-world", "split": "val", "drawn_world": {"scenes": 2}}
    settings = Settings.model_validate({"runs_dir": tmp_path, "datasets": {"scenes": scenes}, **changes})
    with pytest.raises(MissingInputError, match=r"is not finished; run 'ovseg mine' first"):
        run("finetune", settings)
    assert list(tmp_path.iterdir()) == []


def test_status_sees_the_units(pairs: Artifact, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, pairs.directory)
    assert len(node_of(settings, "adapted_clip").status().of_state(UnitState.MISSING)) == 3
