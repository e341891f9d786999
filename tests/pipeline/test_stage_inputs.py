"""What a stage stands on is found, made on demand, or told to be missing."""

from pathlib import Path

import pytest

from pipeline.clip_loading import load_clip
from pipeline.settings import ClipSettings, Settings, SettingsError, load_settings
from pipeline.stage_inputs import MissingInputError, clip_digest, finished_digest, prepare_missing, scenes_of


def settings_in(runs: Path) -> Settings:
    drawn = "{dataset='drawn-world', split='%s', drawn_world={scenes=2, size_px=48}}"
    return load_settings(
        None, [f"runs_dir={runs}", f"datasets.one={drawn % 'train'}", f"datasets.other={drawn % 'val'}"]
    )


def test_scenes_are_prepared_when_they_are_missing_and_only_those_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    prepare_missing(settings, ["one", "", "one"])
    assert scenes_of(settings, "one").status().finished
    assert not scenes_of(settings, "other").directory.exists()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    prepare_missing(settings, ["one"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} == written


def test_the_digest_of_an_input_is_that_of_its_manifest(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    prepare_missing(settings, ["one"])
    scenes = scenes_of(settings, "one")
    assert finished_digest(scenes, made_by="ovseg prepare") == scenes.manifest().digest()
    shard = next(scenes.directory.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(MissingInputError, match="is corrupt"):
        finished_digest(scenes, made_by="ovseg prepare")


def test_an_input_that_is_not_finished_names_the_command(tmp_path: Path) -> None:
    scenes = scenes_of(settings_in(tmp_path), "other")
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg prepare' first"):
        finished_digest(scenes, made_by="ovseg prepare")


def test_a_data_set_that_is_not_described_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"one of one, other; name it in the stage's settings \(got ''\)"):
        scenes_of(settings_in(tmp_path), "")


def test_the_digest_of_clip_is_that_of_its_weights() -> None:
    shipped = ClipSettings(architecture="drawn-world-small", pretrained="shipped")
    assert clip_digest(shipped) == load_clip(shipped).digest
