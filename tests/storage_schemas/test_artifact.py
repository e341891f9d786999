"""An artifact's directory: what may be written to it, what it states of itself, and who may write."""

import os
import threading
from pathlib import Path

import pytest

from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.errors import ArtifactError, HeldError, SchemaError, WriteError
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE, Description, Identity, Sidecar
from storage_schemas.status import UnitState

UNITS = tuple(f"shard-{number:05d}" for number in range(6))


def planned(runs: Path, **settings: object) -> Artifact:
    identity = Identity(kind="test", name="whole", schema_version=1, producer_version=1, settings=settings)
    return Artifact.planned(runs, Description(identity=identity, units=UNITS))


def written(artifact: Artifact, unit: str) -> Sidecar:
    with artifact.write_unit(unit) as writer:
        writer.file("bin").write(unit.encode())
        return writer.commit(rows=1, counts={"ok": 1})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A finished artifact."""
    artifact = planned(tmp_path)
    with artifact.writing():
        artifact.finish(artifact.manifest_of({unit: written(artifact, unit) for unit in UNITS}))
    return artifact


def test_an_artifact_is_found_where_it_lies(artifact: Artifact) -> None:
    assert Artifact.open(artifact.directory) == artifact
    assert artifacts_below(artifact.directory.parents[1]) == [artifact]
    assert artifacts_below(artifact.directory.parents[1], "other") == []
    assert artifact.manifest().rows == len(UNITS)


def test_another_kind_or_schema_than_expected_is_refused(artifact: Artifact) -> None:
    assert Artifact.open(artifact.directory, kind="test") == artifact
    with pytest.raises(ArtifactError, match="is an artifact of test, expected pairs; give a directory below"):
        Artifact.open(artifact.directory, kind="pairs")
    artifact.require("test", 1)
    with pytest.raises(SchemaError, match=r"whole-\w+: holds test of schema 1, expected schema 2; run the stage"):
        artifact.require("test", 2)


def test_a_unit_that_is_none_of_the_artifacts_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"has no unit 'x'; its units are shard-00000 to shard-00005 \(6\)"):
        artifact.write_unit("x")


@pytest.mark.parametrize("suffix", ["json", "bin", "Bin", "", "a/b", ".x"])
def test_file_names_that_clash_or_mislead_are_refused(artifact: Artifact, suffix: str) -> None:
    with artifact.write_unit(UNITS[0]) as writer:
        writer.file("bin")
        with pytest.raises(ArtifactError, match="cannot be a file of the unit; use lower-case suffixes, each once"):
            writer.file(suffix)


def test_what_is_not_committed_leaves_nothing(artifact: Artifact) -> None:
    before = sorted(path.name for path in artifact.directory.iterdir())
    with artifact.write_unit(UNITS[0]) as writer:
        file = writer.file("bin")
        file.write(b"half")
    assert file.write(b"more") == 4  # as a tar writer would while an error passes through
    assert sorted(path.name for path in artifact.directory.iterdir()) == before
    assert artifact.status().finished


def test_a_manifest_needs_every_unit(artifact: Artifact) -> None:
    sidecars = {unit: written(artifact, unit) for unit in UNITS[:4]}
    with pytest.raises(ArtifactError, match="2 of 6 units are not done: shard-00004, shard-00005; run the stage again"):
        artifact.manifest_of(sidecars)


def test_a_manifest_is_believed_only_with_its_files(artifact: Artifact) -> None:
    (artifact.directory / f"{UNITS[1]}.bin").write_bytes(b"?")
    with pytest.raises(ArtifactError, match=r"shard-00001 is corrupt: .* has 1 bytes.*run the stage again"):
        artifact.manifest()


@pytest.mark.parametrize("name", [ARTIFACT_FILE, MANIFEST_FILE])
def test_documents_of_other_settings_are_found_out(artifact: Artifact, tmp_path: Path, name: str) -> None:
    other = planned(tmp_path / "other", size=2)
    with other.writing():
        other.finish(other.manifest_of({unit: written(other, unit) for unit in UNITS}))
    (artifact.directory / name).write_bytes((other.directory / name).read_bytes())
    fault = f"{name} is not what the units and settings require"
    assert artifact.status().document_faults == (fault,)
    with pytest.raises(ArtifactError, match=rf"{fault}; run the stage again"):
        artifact.manifest()


def test_documents_that_are_gone_or_unreadable_are_reported(artifact: Artifact) -> None:
    (artifact.directory / ARTIFACT_FILE).unlink()
    (artifact.directory / MANIFEST_FILE).unlink()
    (artifact.directory / MANIFEST_FILE).mkdir()
    missing, unreadable = artifact.status().document_faults
    assert missing == "artifact.json is missing"
    assert unreadable.startswith("manifest.json cannot be read: ")


def test_a_file_that_cannot_be_read_is_corrupt(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_device(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("storage_schemas.verification.sha256_of_file", broken_device)
    states = artifact.status(deep=True).units
    assert {state.state for state in states} == {UnitState.CORRUPT}
    assert "cannot be read: [Errno 5] Input/output error" in states[0].reason


def test_a_check_whose_findings_cannot_be_kept_is_a_check_all_the_same(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("storage_schemas.verification.SETTLED_AFTER_NS", -1)
    caplog.set_level("INFO")
    (artifact.local_directory / "verified.json").mkdir()
    assert artifact.status().finished
    assert "verified.json: not kept, the next check hashes again" in caplog.text


def test_one_writer_at_a_time(artifact: Artifact) -> None:
    with (
        artifact.writing(),
        pytest.raises(HeldError, match=r"held by process \d+ on .*; wait for it or stop it"),
        artifact.writing(),
    ):
        pass


def test_a_second_writer_waits_for_the_first(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    holds, ended = threading.Event(), threading.Event()

    def hold_until_somebody_waits() -> None:
        with artifact.writing():
            holds.set()
            while "waiting up to 60 s" not in caplog.text and not ended.wait(0.01):
                pass

    holder = threading.Thread(target=hold_until_somebody_waits)
    holder.start()
    assert holds.wait(60)
    try:
        with artifact.writing(wait_s=60):
            assert f"held by process {os.getpid()} on" in caplog.text
    finally:
        ended.set()
        holder.join()


def test_a_holder_that_told_nothing_of_itself_is_another_process(artifact: Artifact) -> None:
    with artifact.writing():
        (artifact.local_directory / "holder.json").write_text("{")
        with pytest.raises(HeldError, match="held by another process; wait for it or stop it"), artifact.writing():
            pass


def test_a_lock_that_cannot_be_made_is_reported(artifact: Artifact) -> None:
    (artifact.local_directory / "lock").unlink(missing_ok=True)
    (artifact.local_directory / "lock").mkdir()
    with (
        pytest.raises(WriteError, match=r"_local: cannot be locked \(.*\); choose a runs directory that can"),
        artifact.writing(),
    ):
        pass
