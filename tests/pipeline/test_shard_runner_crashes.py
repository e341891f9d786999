"""Kills, power cuts and refused writes at every single call of the commit protocol, of a run and of its resumption."""

import errno
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.shard_runner import Limits, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.commit import Disk
from storage_schemas.errors import ArtifactError, WriteError
from storage_schemas.manifest import MANIFEST_FILE, Sidecar
from storage_schemas.scenes import Caption, Scene, SceneShardWriter
from storage_schemas.status import UnitState
from tests.pipeline.runner_jobs import WriteFiles, believed_falsely, planned, snapshot
from tests.storage_schemas.faulty_disks import Killed, KillingDisk, PowerCutDisk, RefusingDisk, UnsyncedDisk

UNITS = 2
JOB = WriteFiles()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return snapshot(run_stage(JOB, planned(tmp_path_factory.mktemp("reference"), UNITS)).artifact.directory)


def counted() -> Iterator[int]:
    return itertools.count(1)


def assert_nothing_is_believed(runs: Path, reference: dict[str, bytes]) -> None:
    artifact = planned(runs, UNITS)
    assert believed_falsely(artifact, reference) == []
    if snapshot(artifact.directory) != reference:
        with pytest.raises(ArtifactError, match="run the stage"):
            artifact.manifest()


def assert_no_sidecar_lies(runs: Path) -> None:
    """A sidecar is not only found out when its files are gone; it never comes to stand without them."""
    states = {unit.state for unit in planned(runs, UNITS).status(deep=True).units}
    assert states <= {UnitState.DONE, UnitState.MISSING}


def assert_resumes(runs: Path, reference: dict[str, bytes], job: WriteFiles = JOB, units: int = UNITS) -> None:
    artifact = planned(runs, units, UnsyncedDisk())
    run_stage(job, artifact)
    assert snapshot(artifact.directory) == reference
    assert artifact.status(deep=True).finished
    artifact.manifest()


def state_of(runs: Path) -> frozenset[tuple[str, bytes]]:
    """Return what a run that resumes finds: names and bytes, whatever the names of unfinished files end in.

    Of this machine's own files the names alone, since they hold times.
    """
    artifact = planned(runs, UNITS)
    files = snapshot(artifact.directory)
    local = [(f"_local/{path.name.partition('.tmp')[0]}", b"") for path in artifact.local_directory.glob("*")]
    names = {name: name.rpartition("-")[0] if name.startswith(".tmp-") else name for name in files}
    return frozenset([*((names[name], files[name]) for name in files), *local])


def killed(job: WriteFiles, runs: Path, disk: KillingDisk) -> bool:
    """Run until the disk kills; return whether it did."""
    try:
        run_stage(job, planned(runs, UNITS, disk))
    except Killed:
        return True
    assert not disk.dead
    return False


def test_a_kill_at_every_call_and_again_at_every_call_of_the_resumption(tmp_path: Path) -> None:
    job = WriteFiles(suffixes=("bin",))
    reference = snapshot(run_stage(job, planned(tmp_path / "reference", UNITS, UnsyncedDisk())).artifact.directory)
    kills = 0
    resumed_from, resumed_again_from = set(), set()
    for first in counted():
        crashed = tmp_path / str(first)
        if not killed(job, crashed, KillingDisk(first)):
            break
        assert_nothing_is_believed(crashed, reference)
        if (state := state_of(crashed)) in resumed_from:  # as after the kill one call before, say at a sync
            continue
        resumed_from.add(state)
        for second in counted():
            again = shutil.copytree(crashed, tmp_path / "again") if crashed.exists() else tmp_path / "again"
            was_killed = killed(job, again, KillingDisk(second))
            if was_killed:
                kills += 1
                if (state := state_of(again)) not in resumed_again_from:
                    resumed_again_from.add(state)
                    assert_nothing_is_believed(again, reference)
                    assert_resumes(again, reference, job)
            else:
                assert snapshot(planned(again, UNITS).directory) == reference
            shutil.rmtree(again)
            if not was_killed:
                break
    assert first > 30
    assert kills > 200
    assert len(resumed_again_from) > 20


@pytest.mark.parametrize("outcome", ["undone", "kept", "1", "2"])
def test_a_power_cut_at_every_call_and_during_the_resumption(
    tmp_path: Path, reference: dict[str, bytes], outcome: str
) -> None:
    for first in counted():
        runs = tmp_path / str(first)
        runs.mkdir()
        disk = PowerCutDisk(first, runs)
        if not killed(JOB, runs, disk):
            break
        disk.cut(outcome)
        assert_nothing_is_believed(runs, reference)
        assert_no_sidecar_lies(runs)
        disk = PowerCutDisk(first // 2 + 1, runs)
        if killed(JOB, runs, disk):
            disk.cut(outcome)
            assert_nothing_is_believed(runs, reference)
            assert_no_sidecar_lies(runs)
        assert_resumes(runs, reference)
    assert first > 40


def test_a_finished_artifact_survives_a_power_cut(tmp_path: Path, reference: dict[str, bytes]) -> None:
    disk = PowerCutDisk(0, tmp_path)
    artifact = run_stage(JOB, planned(tmp_path, UNITS, disk)).artifact
    disk.cut("undone")
    assert snapshot(artifact.directory) == reference
    artifact.manifest()


def test_what_a_kill_left_unsynced_is_synced_by_the_run_that_finds_it(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    calls = UnsyncedDisk()
    run_stage(JOB, planned(tmp_path / "counted", UNITS, calls))
    runs = tmp_path / "runs"
    assert killed(JOB, runs, KillingDisk(len(calls.calls)))
    assert (planned(runs, UNITS).directory / MANIFEST_FILE).exists()
    resumed = UnsyncedDisk()
    artifact = planned(runs, UNITS, resumed)
    run_stage(JOB, artifact)
    assert resumed.calls[-1] == f"sync_directory {artifact.directory.name}"


@pytest.mark.parametrize(
    ("error", "lasting", "advice"),
    [(errno.ENOSPC, True, "free some space"), (errno.EIO, False, "check the device"), (errno.EDQUOT, False, "quota")],
)
def test_a_refused_call_is_reported_and_healed_by_the_next_run(
    tmp_path: Path, reference: dict[str, bytes], error: int, lasting: bool, advice: str
) -> None:
    for number in counted():
        runs = tmp_path / str(number)
        disk = RefusingDisk(number, error, lasting=lasting)
        try:
            run_stage(JOB, planned(runs, UNITS, disk))
        except (WriteError, StageError) as refused:
            message = str(refused)
        else:
            break
        assert "could not be written" in message
        assert advice in message
        assert "run the same command again" in message
        assert_nothing_is_believed(runs, reference)
        assert not [*runs.rglob("shard*.tmp"), *runs.glob("*/*/.tmp-shard*")]
        assert_resumes(runs, reference)
    assert number > 40


def test_a_disk_that_is_full_for_the_manifest_alone_costs_the_manifest_alone(
    tmp_path: Path, reference: dict[str, bytes]
) -> None:
    calls = UnsyncedDisk()
    run_stage(JOB, planned(tmp_path / "counted", UNITS, calls))
    create_manifest = next(
        number for number, call in enumerate(calls.calls, 1) if call.startswith(f"create .tmp-{MANIFEST_FILE}")
    )
    runs = tmp_path / "runs"
    with pytest.raises(WriteError, match=r"manifest\.json: could not be written .* free some space"):
        run_stage(JOB, planned(runs, UNITS, RefusingDisk(create_manifest, errno.ENOSPC, lasting=True)))
    artifact = planned(runs, UNITS, UnsyncedDisk())
    assert artifact.status().todo == ()
    with pytest.raises(ArtifactError, match=r"manifest\.json: is not there"):
        artifact.manifest()
    assert run_stage(JOB, artifact).units_done == 0
    assert snapshot(artifact.directory) == reference


class WriteScenes(WriteFiles):
    """Writes a shard of scenes, as the stages do: through tar and Parquet writers."""

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        with artifact.write_unit(unit) as unit_writer:
            writer = SceneShardWriter(unit_writer)
            for number in range(3):
                writer.add(scene(f"{unit}-{number}"))
            return writer.commit()


def scene(key: str) -> Scene:
    image = key.encode() * 400
    captions = (Caption(1, "a boat"),)
    return Scene(key=key, image_id=key, image=image, image_suffix="png", width_px=3, height_px=2, captions=captions)


@pytest.mark.parametrize("kind", ["kill", "refuse"])
def test_scene_shards_are_killed_and_refused_at_every_call(tmp_path: Path, kind: str) -> None:
    job = WriteScenes()
    whole = snapshot(run_stage(job, planned(tmp_path / "whole", 1)).artifact.directory)
    disks: dict[str, Callable[[int], Disk]] = {
        "kill": KillingDisk,
        "refuse": lambda number: RefusingDisk(number, errno.ENOSPC, lasting=True),
    }
    for number in counted():
        runs = tmp_path / str(number)
        try:
            run_stage(job, planned(runs, 1, disks[kind](number)), limits=Limits(max_failed_units=0))
        except (Killed, WriteError, StageError):
            assert believed_falsely(planned(runs, 1), whole) == []
            assert_resumes(runs, whole, job, units=1)
        else:
            break
    assert number > 40
