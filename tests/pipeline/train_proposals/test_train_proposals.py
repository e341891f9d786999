"""Stage 1 as a whole: what it writes, that any kill changes nothing, what it says when it cannot go on."""

import json
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from flows.command import main
from ovseg_models.weights import weights_digest
from pipeline.errors import PipelineError, StageError
from pipeline.settings import SettingsError
from pipeline.stages import run
from pipeline.train_proposals.task import ProposalTask
from pipeline.trained_nets import load_proposal_net
from storage_schemas.artifact import Artifact
from tests import forked
from tests.pipeline.planned import artifact_of
from tests.pipeline.train_proposals.tiny_training import STEPS, tiny_config, tiny_settings
from tests.pipeline.training.short_of_memory import shorten

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
RESULTS = ("weights.safetensors", "weights.json", "report.metrics.jsonl", "report.curves.png", "report.proposals.png")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run("train-proposals", tiny_settings(tmp_path_factory.mktemp("undisturbed"))).artifact


def bytes_of(artifact: Artifact) -> dict[str, bytes]:
    """Read the result, and the last checkpoint with the optimizer's state."""
    checkpoint = artifact.local_directory / "checkpoints" / f"step-{STEPS:09d}.safetensors"
    return {name: (artifact.directory / name).read_bytes() for name in RESULTS} | {"state": checkpoint.read_bytes()}


def with_scenes(runs: Path, other: Artifact) -> Path:
    """Begin a runs directory with the scenes of another."""
    shutil.copytree(other.directory.parents[1] / "scenes", runs / "scenes")
    return runs


def test_the_artifact_holds_the_net_its_metrics_and_pictures(undisturbed: Artifact) -> None:
    manifest = undisturbed.manifest()
    assert [unit.unit for unit in manifest.units] == ["weights", "report"]
    assert manifest.units[0].facts["validation"]["step"] == STEPS
    assert load_proposal_net(undisturbed).arguments["queries"] == 6
    lines = [json.loads(line) for line in (undisturbed.directory / "report.metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["group"] == "train"] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if line["group"] == "validation"] == [5, 10, STEPS]
    assert lines[-1].keys() >= {"miou", "best_iou", "recall_50"}
    losses = [line["loss"] for line in lines if line["group"] == "train"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    for name in ("curves", "proposals"):
        with Image.open(undisturbed.directory / f"report.{name}.png") as picture:
            assert len(picture.getcolors(10**6) or []) > 10


def test_a_finished_training_is_not_repeated(undisturbed: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProposalTask, "backward", None)
    report = run("train-proposals", tiny_settings(undisturbed.directory.parents[1]))
    assert (report.artifact, report.units_done, report.units_skipped) == (undisturbed, 0, 2)


def test_a_stage_before_it_in_the_process_leaves_no_threads_behind(
    undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    plain = ProposalTask.after_step
    monkeypatch.setattr(ProposalTask, "after_step", lambda task: (seen.add(torch.get_num_threads()), plain(task)))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        artifact = run("train-proposals", tiny_settings(with_scenes(tmp_path / "runs", undisturbed))).artifact
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
    assert bytes_of(artifact) == bytes_of(undisturbed)


def test_a_lost_report_is_written_again_without_training(
    undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "runs"
    shutil.copytree(undisturbed.directory.parents[1], copied)
    settings = tiny_settings(copied)
    artifact = artifact_of(settings, "proposal_net")
    (artifact.directory / "report.proposals.png").unlink()
    monkeypatch.setattr(ProposalTask, "backward", None)
    run("train-proposals", settings)
    assert bytes_of(artifact) == bytes_of(undisturbed)


def command(runs: Path, *overrides: str) -> list[str]:
    flags = [f"--set={override}" for override in (f"runs_dir={runs}", "compute.loader_workers=0", *overrides)]
    return ["train-proposals", "--config", str(tiny_config(runs.parent / "config")), *flags]


def train(runs: Path, *overrides: str, short_of_memory: tuple[int, int] | None = None) -> None:
    """Run the command in a process of its own, or in one of several."""
    if short_of_memory:
        shorten(*short_of_memory)
    sys.exit(main(command(runs, *overrides)))


def kill_after(lines: int, metrics: Path, processes: list[ForkServerProcess], pause_s: float = 0.0) -> None:
    """Kill processes a moment after that many lines of metrics are there."""
    while not metrics.exists() or len(metrics.read_text().splitlines()) < lines:
        assert all(process.exitcode is None for process in processes), "the run ended before the kill"
        time.sleep(0.001)
    time.sleep(pause_s)
    forked.kill(processes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_kill_at_a_random_moment_changes_nothing(workers: int, tmp_path: Path, undisturbed: Artifact) -> None:
    moment = random.Random(f"moment {workers}")
    runs = with_scenes(tmp_path / "runs", undisturbed)
    artifact = artifact_of(tiny_settings(runs), "proposal_net")
    process = forked.start(train, runs, f"compute.loader_workers={workers}")
    metrics = artifact.local_directory / "metrics.jsonl"
    kill_after(moment.randint(4, 8), metrics, [process], moment.random() * 0.05)
    assert not artifact.status().finished
    run("train-proposals", tiny_settings(runs))  # with another number of workers than before
    assert bytes_of(artifact) == bytes_of(undisturbed)


def per_step(artifact: Artifact) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    lines = map(json.loads, (artifact.directory / "report.metrics.jsonl").read_text().splitlines())
    return list(lines), safetensors.numpy.load((artifact.directory / "weights.safetensors").read_bytes())


@pytest.mark.slow
def test_two_processes_of_torchrun_equal_one_also_after_a_kill(tmp_path: Path, undisturbed: Artifact) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    artifact = artifact_of(tiny_settings(runs), "proposal_net")
    kill_after(6, artifact.local_directory / "metrics.jsonl", forked.start_group(2, train, runs))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*launcher, "-m", "flows.command", *command(runs)]
    finished = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    assert finished.stderr.count("going on from step") == 1
    assert_equal_within_1e_5(artifact, undisturbed)


def test_an_accumulated_batch_equals_a_whole_one_under_the_same_digest(tmp_path: Path, undisturbed: Artifact) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    parts = run("train-proposals", tiny_settings(runs, ["proposal_net.training.accumulation_steps=3"])).artifact
    assert parts.directory.name == undisturbed.directory.name
    # What artifacts have in their digest that were made when this was a setting of the result
    assert parts.description.identity.settings["options"]["training"]["accumulation_steps"] == 1
    assert_equal_within_1e_5(parts, undisturbed)


def test_gradient_checkpointing_changes_no_byte_of_the_result(tmp_path: Path, undisturbed: Artifact) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    flags = ["proposal_net.training.gradient_checkpointing=true"]
    assert bytes_of(run("train-proposals", tiny_settings(runs, flags)).artifact) == bytes_of(undisturbed)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_whose_backward_pass_runs_out_of_memory_is_taken_in_parts(
    processes: int, tmp_path: Path, undisturbed: Artifact
) -> None:
    """In the last process alone, in the fourth step: the others are not left waiting."""
    runs = with_scenes(tmp_path / "runs", undisturbed)
    logged = tmp_path / "stderr.txt"
    target = partial(train, short_of_memory=(1, 3))
    forked.finish(forked.start_group(processes, target, runs, stderr=logged))
    assert logged.read_text().count("at a time are too many for the device's memory") == 2 // processes
    assert_equal_within_1e_5(artifact_of(tiny_settings(runs), "proposal_net"), undisturbed)


def assert_equal_within_1e_5(found: Artifact, expected: Artifact) -> None:
    (lines, weights), (expected_lines, expected_weights) = per_step(found), per_step(expected)
    assert len(lines) == len(expected_lines)
    for line, expected_line in zip(lines, expected_lines, strict=True):
        assert line.pop("group") == expected_line.pop("group")
        assert line == pytest.approx(expected_line, rel=1e-5, abs=1e-5)
    for name, array in expected_weights.items():
        np.testing.assert_allclose(weights[name], array, atol=1e-5, err_msg=name)


def test_a_loss_that_is_not_finite_names_step_keys_and_shards(tmp_path: Path, undisturbed: Artifact) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    wild = ["proposal_net.training.learning_rate=1e30", "proposal_net.training.warmup_steps=0"]
    message = r"step 2: the loss or its gradient is not finite .* on scenes drawn-0000000\d \(shard-0000[01]\), .*lower"
    with pytest.raises(StageError, match=message):
        run("train-proposals", tiny_settings(runs, wild))


def test_running_out_of_memory_names_the_settings(
    tmp_path: Path, undisturbed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ProposalTask, "backward", out_of_memory)
    runs = with_scenes(tmp_path / "runs", undisturbed)
    with pytest.raises(StageError, match=r"set proposal_net\.training\.gradient_checkpointing to true"):
        run("train-proposals", tiny_settings(runs))


def loss_options(artifact: Artifact) -> Any:
    options: Any = artifact.description.identity.settings["options"]
    return options["training"]["loss"]


def test_held_out_classes_are_measured_apart_and_a_net_can_start_from_another(
    tmp_path: Path, undisturbed: Artifact
) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    start = undisturbed.directory / "weights.safetensors"
    flags = [
        f"proposal_net.initial_weights={start}",
        "proposal_net.held_out_classes=['field','rock','carpet']",
        "proposal_net.training.steps=1",
        "proposal_net.training.learning_rate=1e-9",
        "proposal_net.training.loss.unlabelled_pixels=left_out",
        "proposal_net.validation_every_steps=1",
    ]
    artifact = run("train-proposals", tiny_settings(runs, flags)).artifact
    as_published, left_out = (loss_options(made) for made in (undisturbed, artifact))
    assert left_out == {**as_published, "unlabelled_pixels": "left_out"}  # the default is in no digest
    facts = artifact.manifest().units[0].facts
    assert facts["held_out_classes"] == ["rock", "field", "carpet"]
    assert {"best_iou_seen", "best_iou_unseen", "miou_seen", "recall_50_unseen"} <= facts["validation"].keys()
    weights = {name: torch.from_numpy(array) for name, array in per_step(artifact)[1].items()}
    expected = {name: torch.from_numpy(array) for name, array in per_step(undisturbed)[1].items()}
    assert weights_digest(weights) != weights_digest(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=0)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, undisturbed: Artifact) -> None:
    runs = with_scenes(tmp_path / "runs", undisturbed)
    start = undisturbed.directory / "weights.safetensors"
    flags = [f"proposal_net.initial_weights={start}", "proposal_net.architecture.queries=5"]
    with pytest.raises(PipelineError, match=r"does not fit proposal_net.architecture .*size mismatch.*; change one"):
        run("train-proposals", tiny_settings(runs, flags))


@pytest.mark.skipif(not SHARED.is_dir(), reason="real pictures are not here")
def test_real_pictures_of_coco_train(tmp_path: Path) -> None:
    from pipeline.settings import load_settings

    flags = [
        f"runs_dir={tmp_path}",
        f"datasets.coco-train.root={SHARED}/data/coco-sample",
        "datasets.coco-train.limit=16",
        "clip={architecture='drawn-world-small', pretrained='shipped'}",
        "proposal_net.training.steps=8",
        "proposal_net.architecture.queries=30",
        "proposal_net.architecture.hidden_dim=64",
        "proposal_net.architecture.feedforward_dim=64",
        "proposal_net.training.warmup_steps=0",
        "proposal_net.training.augmentation={short_sides_px=[64], max_side_px=128, crop_px=64}",
        "proposal_net.training.batch_images=4",
        "compute.loader_workers=0",
    ]
    artifact = run("train-proposals", load_settings(ROOT / "flows" / "configs" / "coco_sample.toml", flags)).artifact
    lines = [json.loads(line) for line in (artifact.directory / "report.metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), losses
    assert load_proposal_net(artifact).arguments["queries"] == 30


def test_a_held_out_class_that_is_none_is_refused_before_any_scene_is_prepared(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    section = settings.proposal_net.model_copy(update={"held_out_classes": ("feild",)})
    with pytest.raises(SettingsError, match=r"held_out_classes: \['feild'\] are none of the 54 classes"):
        run("train-proposals", settings.model_copy(update={"proposal_net": section}))
    assert not (tmp_path / "scenes").exists()
