"""What a run does with done, damaged and failing units, wherever they run."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import storage_schemas.verification
from pipeline.errors import StageError
from pipeline.executors import Compute
from pipeline.shard_runner import Limits, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import MANIFEST_FILE, Sidecar
from storage_schemas.status import UnitState
from tests.pipeline.runner_jobs import Troubled, VariouslyTroubled, WriteFiles, planned, snapshot, watched
from tests.storage_schemas.faulty_disks import UnsyncedDisk

UNITS = 5
ODD = "shard-00002"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return snapshot(run_stage(WriteFiles(), planned(tmp_path_factory.mktemp("reference"), UNITS)).artifact.directory)


def flip_a_byte(path: Path) -> None:
    """Change a byte, and hide it as far as a program can: size and times of change are set back."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def sidecar_of_other_settings(path: Path) -> None:
    other = planned(path.parents[2] / "other", UNITS, seed=8)
    run_stage(WriteFiles(), other)
    path.write_bytes((other.directory / path.name).read_bytes())


DAMAGE: dict[str, tuple[str, Callable[[Path], object], UnitState, str]] = {
    "truncated": ("bin", lambda path: os.truncate(path, 10), UnitState.CORRUPT, "has 10 bytes, its sidecar states"),
    "flipped byte": ("txt", flip_a_byte, UnitState.CORRUPT, "sha256"),
    "missing file": ("bin", lambda path: path.unlink(), UnitState.CORRUPT, "shard-00002.bin is missing"),
    "missing sidecar": ("json", lambda path: path.unlink(), UnitState.MISSING, "no sidecar"),
    "damaged sidecar": ("json", lambda path: path.write_bytes(b"{"), UnitState.CORRUPT, "cannot be read"),
    "empty sidecar": ("json", lambda path: path.write_bytes(b""), UnitState.CORRUPT, "cannot be read"),
    "sidecar of other settings": ("json", sidecar_of_other_settings, UnitState.STALE, "is of settings"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_healed_by_making_that_unit_alone(
    kind: str, tmp_path: Path, reference: dict[str, bytes]
) -> None:
    suffix, spoil, state, reason = DAMAGE[kind]
    artifact = planned(tmp_path / "runs", UNITS)
    run_stage(WriteFiles(), artifact)
    artifact.status()
    spoil(artifact.directory / f"{ODD}.{suffix}")
    (odd,) = [unit for unit in artifact.status().units if unit.state is not UnitState.DONE]
    assert (odd.unit, odd.state) == (ODD, state)
    assert reason in odd.reason
    log = tmp_path / "log"
    report = run_stage(WriteFiles(log=str(log)), artifact)
    assert [line for line in log.read_text().splitlines() if line.startswith("run")] == [f"run {ODD}"]
    assert (report.units_done, report.units_skipped) == (1, UNITS - 1)
    assert snapshot(artifact.directory) == reference


def test_a_sidecar_of_another_unit_is_found_out(tmp_path: Path, reference: dict[str, bytes]) -> None:
    artifact = planned(tmp_path, UNITS)
    run_stage(WriteFiles(), artifact)
    (artifact.directory / f"{ODD}.json").write_bytes((artifact.directory / "shard-00003.json").read_bytes())
    (odd,) = artifact.status().of_state(UnitState.CORRUPT)
    assert "its sidecar is of unit" in odd.reason
    run_stage(WriteFiles(), artifact)
    assert snapshot(artifact.directory) == reference


def test_a_foreign_file_is_named_and_read_by_nobody(tmp_path: Path) -> None:
    artifact = planned(tmp_path, UNITS)
    digest = run_stage(WriteFiles(), artifact).manifest.digest()
    (artifact.directory / "shard-00099.bin").write_bytes(b"from somewhere else")
    assert artifact.status().foreign_files == ("shard-00099.bin",)
    report = run_stage(WriteFiles(), artifact)
    assert (report.units_done, report.manifest.digest()) == (0, digest)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_bytes(workers: int, tmp_path: Path, reference: dict[str, bytes]) -> None:
    log = tmp_path / "log"
    report = run_stage(WriteFiles(log=str(log)), planned(tmp_path / "runs", UNITS), compute=Compute(workers=workers))
    assert snapshot(report.artifact.directory) == reference
    openings = [line for line in log.read_text().splitlines() if line.startswith("open")]
    assert len(openings) == len(set(openings)) <= workers  # what a job loads is loaded once per worker


def test_a_finished_artifact_loads_and_runs_nothing(tmp_path: Path) -> None:
    run_stage(WriteFiles(), planned(tmp_path / "runs", UNITS))
    log = tmp_path / "log"
    report = run_stage(WriteFiles(log=str(log)), planned(tmp_path / "runs", UNITS))
    assert (report.units_done, report.units_skipped) == (0, UNITS)
    assert not log.exists()


def test_finished_units_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_schemas.verification, "SETTLED_AFTER_NS", -1)  # as if the files were not new
    hashed: Counter[Path] = Counter()
    hash_file = storage_schemas.verification.sha256_of_file

    def counting(path: Path) -> str:
        hashed[path] += 1
        return hash_file(path)

    monkeypatch.setattr(storage_schemas.verification, "sha256_of_file", counting)
    units = 100
    artifact = planned(tmp_path, units, UnsyncedDisk())
    run_stage(WriteFiles(suffixes=("bin",)), artifact)
    assert max(hashed.values()) == 1
    hashed.clear()
    assert artifact.status().finished
    assert run_stage(WriteFiles(suffixes=("bin",)), artifact).units_skipped == units
    assert not hashed
    assert artifact.status(deep=True).finished
    assert len(hashed) == units


def test_units_that_fail_do_not_stop_the_others(tmp_path: Path, reference: dict[str, bytes]) -> None:
    artifact = planned(tmp_path, UNITS)
    job = Troubled(at=("shard-00001", "shard-00003"))
    with pytest.raises(StageError, match=r"2 units failed \(shard-00001: ValueError: shard-00001 is cursed; .*3 were"):
        run_stage(job, artifact)
    assert artifact.status().todo == ("shard-00001", "shard-00003")
    assert not (artifact.directory / MANIFEST_FILE).exists()
    assert run_stage(WriteFiles(), artifact).units_done == 2
    assert snapshot(artifact.directory) == reference


def test_a_run_gives_up_after_a_number_of_failed_units(tmp_path: Path) -> None:
    artifact = planned(tmp_path / "runs", UNITS)
    job = Troubled(at=artifact.description.units, log=str(tmp_path / "log"))
    with pytest.raises(StageError, match=r"2 units failed .* gave up after more than 1; 0 were made"):
        run_stage(job, artifact, limits=Limits(max_failed_units=1))
    assert (tmp_path / "log").read_text().count("run ") == 2


@pytest.mark.slow
def test_units_that_break_their_workers_do_not_stop_the_others(tmp_path: Path, reference: dict[str, bytes]) -> None:
    artifact = planned(tmp_path, UNITS)
    troubles = {ODD: "kill worker", "shard-00004": "raise unpicklable"}
    reasons = r"2 units failed \(shard-00002.*KilledWorker.*; shard-00004.*holds a lambda"
    with pytest.raises(StageError, match=reasons):
        run_stage(VariouslyTroubled(troubles), artifact, compute=Compute(workers=2))
    assert artifact.status().todo == tuple(troubles)
    run_stage(WriteFiles(), artifact)
    assert snapshot(artifact.directory) == reference


@pytest.mark.slow
def test_a_worker_that_dies_once_in_a_unit_loses_nothing(tmp_path: Path, reference: dict[str, bytes]) -> None:
    job = Troubled(at=(ODD,), trouble="kill worker once", marker=str(tmp_path / "marker"))
    report = run_stage(job, planned(tmp_path / "runs", UNITS), compute=Compute(workers=2))
    assert (tmp_path / "marker").exists()
    assert snapshot(report.artifact.directory) == reference


def test_a_unit_that_a_worker_reports_and_did_not_write_is_not_believed(tmp_path: Path) -> None:
    artifact = planned(tmp_path, UNITS)
    lost = r"lacks 1 unit .*\(shard-00002 is missing.*make sure that all workers write to this directory"
    with pytest.raises(StageError, match=lost):
        run_stage(Troubled(at=(ODD,), trouble="lie"), artifact)
    assert not (artifact.directory / MANIFEST_FILE).exists()


def test_too_many_failed_rows_keep_an_artifact_from_being_finished(tmp_path: Path) -> None:
    artifact = planned(tmp_path / "runs", UNITS)
    job = Troubled(at=(ODD,), trouble="fail rows", log=str(tmp_path / "log"))
    with pytest.raises(StageError, match=r"11\.1% of 18 rows failed .*'unreadable': 2.* raise max_failed_share"):
        run_stage(job, artifact)
    assert artifact.status().todo == ()
    assert not artifact.status().finished
    report = run_stage(job, artifact, limits=Limits(max_failed_share=0.2))
    assert report.manifest.counts == {"ok": 16, "unreadable": 2}
    assert (tmp_path / "log").read_text().count("run ") == UNITS  # the second run made nothing anew


def test_every_unit_has_a_line_in_log_and_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    artifact = planned(tmp_path, UNITS)
    with pytest.raises(StageError):
        run_stage(Troubled(at=(ODD,)), artifact)
    report = artifact.local_directory / "report.jsonl"
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    units = {line["unit"]: line for line in lines if "unit" in line}
    assert sorted(units) == list(artifact.description.units)
    assert units[ODD]["error"] == f"ValueError: {ODD} is cursed"
    assert units["shard-00000"]["counts"] == {"ok": 2}
    assert units["shard-00000"]["seconds"] >= 0
    assert (lines[0]["state"], lines[0]["todo"], lines[-1]["done"], lines[-1]["failed"]) == ("started", UNITS, 4, 1)
    assert f"test small: {ODD} failed" in caplog.text


def test_a_hook_sees_outcomes_as_they_come(tmp_path: Path) -> None:
    artifact, seen = planned(tmp_path, UNITS), list[tuple[str, int]]()
    run_stage(WriteFiles(), artifact, hook=watched(lambda unit: seen.append((unit, len(artifact.status().todo)))))
    assert seen == [(f"shard-{number:05d}", UNITS - 1 - number) for number in range(UNITS)]


def test_a_relative_runs_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = planned(tmp_path, UNITS)
    report = run_stage(WriteFiles(), replace(artifact, directory=Path("runs")))
    assert report.artifact.directory == tmp_path / "runs"


@dataclass(frozen=True)
class Interrupted(WriteFiles):
    """Is interrupted when a unit is committed and nobody has counted it off yet.

    Attributes:
        at: The unit.
    """

    at: str = ODD

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        sidecar = super().run(state, artifact, unit)
        if unit == self.at:
            raise KeyboardInterrupt
        return sidecar


def test_an_interrupted_run_reports_what_is_in_the_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = planned(tmp_path, UNITS)
    run_stage(WriteFiles(), artifact)
    for number in (0, 1, 2):
        (artifact.directory / f"shard-0000{number}.json").unlink()
    flip_a_byte(artifact.directory / "shard-00003.bin")
    for at, saved in (("shard-00001", 3), (ODD, 4)):  # the damaged unit is not among them
        caplog.clear()
        with pytest.raises(KeyboardInterrupt):
            run_stage(Interrupted(at=at), artifact)
        assert f"test small: interrupted; {saved} of 5 units are saved, run the same command to go on" in caplog.text
        assert len(artifact.status(deep=True).todo) == UNITS - saved


def test_a_run_interrupted_before_it_knows_what_is_done_counts_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = planned(tmp_path, UNITS)
    run_stage(WriteFiles(), artifact)

    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("storage_schemas.artifact.artifact_status", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stage(WriteFiles(), artifact)
    assert "test small: interrupted; what is done is saved, run the same command to go on" in caplog.text
