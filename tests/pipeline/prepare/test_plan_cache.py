"""A data set is opened once, and again only when a file changed that its scenes depend on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.data_sets import open_source
from pipeline.prepare.plan_cache import PlanCache
from pipeline.prepare.prepare import plan_prepare, prepare
from pipeline.settings import DrawnWorldSettings, PrepareSettings
from storage_schemas.manifest import Identity
from storage_schemas.verification import nothing_kept
from tests.pipeline.prepare import layouts
from tests.pipeline.prepare.layouts import jpeg, make_coco, make_folder, put


@pytest.fixture
def settled(monkeypatch):
    """Believe files that were written a moment ago to be settled: their times differ by more than a tick here."""
    monkeypatch.setattr("pipeline.prepare.plan_cache.SETTLED_AFTER_NS", -(10**12))
    monkeypatch.setattr("pipeline.prepare.file_digests.SETTLED_AFTER_NS", -(10**12))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Note each opening of a data set, and each reading of a whole annotation, list or label file."""
    events: list[str] = []

    def noted_open(settings: PrepareSettings):
        events.append("open")
        return open_source(settings)

    def noted_read(path: Path) -> bytes:
        events.append(f"read {path.name}")
        return read_bytes(path)

    read_bytes = Path.read_bytes
    monkeypatch.setattr("pipeline.prepare.prepare.open_source", noted_open)
    monkeypatch.setattr(Path, "read_bytes", noted_read)
    return events


def forget() -> None:
    """Let the process know as little as a new one."""
    PlanCache._noted.clear()
    PlanCache._digests_of.clear()


def openings(events: list[str]) -> int:
    """Count the openings since the last call."""
    count = events.count("open")
    if not count:
        assert not [event for event in events if "captions_" in event or event.endswith((".txt", ".tsv.gz"))]
    events.clear()
    return count


def identity(settings: PrepareSettings, runs: Path) -> Identity:
    return plan_prepare(settings, runs).artifact.identity


MAKERS = {
    "ade20k-150": (layouts.make_ade20k_150, "val"),
    "ade20k-847": (layouts.make_ade20k_847, "train"),
    "pascal-context-59": (layouts.make_pascal_context, "val"),
    "pascal-context-459": (layouts.make_pascal_context, "val"),
    "pascal-voc-20": (layouts.make_pascal_voc, "val"),
    "pascal-voc-21": (layouts.make_pascal_voc, "val"),
    "folder": (layouts.make_folder, ""),
    "coco": (layouts.make_coco, "val2017"),
}


@pytest.mark.parametrize("dataset", MAKERS)
def test_every_layout_is_opened_once_and_any_changed_file_that_counts_is_noticed(tmp_path, settled, opened, dataset):
    make, split = MAKERS[dataset]
    root, runs = tmp_path / "data", tmp_path / "runs"
    make(root)
    runs.mkdir()
    settings = PrepareSettings(dataset=dataset, root=root, split=split)
    first = identity(settings, runs)
    assert openings(opened) == 1
    forget()
    assert identity(settings, runs) == first
    assert openings(opened) == 0
    scenes = plan_prepare(settings, runs).job.open()
    counted = {scenes.source.scene(key).source_path for key in scenes.keys}
    counted |= {file for file in first.settings["data"] if (root / file).is_file()}
    opened.clear()
    for file in sorted(counted):
        text = (root / file).read_bytes()
        put(root / file, text[:-1] + {".json": text[-1:] + b" ", ".txt": b" \n"}.get(Path(file).suffix, b"x"))
        forget()
        changed = identity(settings, runs)
        assert openings(opened) == 1, file
        assert changed != first, file
        first = changed


Change = Callable[[Path], object]

CHANGES: dict[str, Change] = {
    "a picture is added": lambda root: put(root / "images" / "more.jpg", jpeg()),
    "a picture is removed": lambda root: (root / "images" / "shot_1.jpg").unlink(),
    "a picture is renamed": lambda root: (root / "images" / "shot_1.jpg").rename(root / "images" / "shot_9.jpg"),
    "a label is added": lambda root: shutil.copy(root / "labels" / "shot_1.png", root / "labels" / "shot_7.png"),
    "a label is removed": lambda root: (root / "labels" / "shot_1.png").unlink(),
    "a folder is added": lambda root: put(root / "images" / "more" / "a.jpg", jpeg()),
    "an empty folder is added": lambda root: (root / "labels" / "more").mkdir(),
    "captions are removed": lambda root: (root / "captions.tsv").unlink(),
    "a list becomes a link": lambda root: (
        (root / "classes.txt").rename(root / "names.txt"),
        (root / "classes.txt").symlink_to("names.txt"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_to_a_folder_opens_it_once_more(tmp_path, settled, opened, change):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    runs.mkdir()
    settings = PrepareSettings(dataset="folder", root=root)
    plan_prepare(settings, runs)
    plan_prepare(settings, runs)
    assert openings(opened) == 1
    CHANGES[change](root)
    for _ in range(2):
        forget()
        plan_prepare(settings, runs)
    assert openings(opened) == 1


def test_a_folder_that_comes_to_lead_out_of_the_root_is_noticed(tmp_path, settled):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    runs.mkdir()
    settings = PrepareSettings(dataset="folder", root=root)
    plan_prepare(settings, runs)
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LayoutError, match="outside the root"):
        plan_prepare(settings, runs)


def test_a_label_of_the_same_size_and_time_is_another_one(tmp_path, settled, opened):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    runs.mkdir()
    settings = PrepareSettings(dataset="folder", root=root)
    label = root / "labels" / "shot_1.png"
    first, stat = identity(settings, runs), label.stat()
    data = bytearray(label.read_bytes())
    data[-20] ^= 1
    label.write_bytes(bytes(data))  # in place
    os.utime(label, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity(settings, runs) != first
    second = identity(settings, runs)
    put(root / "new.png", label.read_bytes())
    os.utime(root / "new.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (root / "new.png").replace(label)  # another file of equal bytes
    forget()
    opened.clear()
    assert identity(settings, runs) == second
    assert openings(opened) == 1


def test_a_file_of_a_moment_ago_is_not_trusted(tmp_path, opened):
    make_folder(tmp_path / "data")
    (tmp_path / "runs").mkdir()
    settings = PrepareSettings(dataset="folder", root=tmp_path / "data")
    first, second = identity(settings, tmp_path / "runs"), identity(settings, tmp_path / "runs")
    assert first == second
    assert openings(opened) == 2


def test_a_root_that_leads_elsewhere_is_opened_again(tmp_path, settled, opened):
    for name in ("a", "b"):
        make_folder(tmp_path / name)
    put(tmp_path / "b" / "images" / "more.jpg", jpeg())
    (tmp_path / "runs").mkdir()
    settings = PrepareSettings(dataset="folder", root=tmp_path / "data")
    (tmp_path / "data").symlink_to("a")
    first = identity(settings, tmp_path / "runs")
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to("b")
    assert identity(settings, tmp_path / "runs") != first
    assert openings(opened) == 2


def test_a_damaged_memory_is_ignored_and_other_settings_have_their_own(tmp_path, settled, opened):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    runs.mkdir()
    settings = PrepareSettings(dataset="folder", root=root)
    whole = plan_prepare(settings, runs)
    (memory,) = (runs / ".data_sets").glob("*-*.json")
    limited = plan_prepare(settings.model_copy(update={"limit": 1}), runs)
    assert (whole.job.facts.scenes, limited.job.facts.scenes) == (3, 1)
    assert openings(opened) == 2
    written = memory.read_bytes()
    for damage in (b"", b"[]", b"{}", written[:-20], written.replace(b'"scenes":3', b'"scenes":9')):
        memory.write_bytes(damage)
        forget()
        assert plan_prepare(settings, runs) == whole
        opened.remove("open")
        assert "open" not in opened
        assert json.loads(memory.read_bytes()) == json.loads(written)


def test_without_a_runs_directory_the_process_remembers_and_the_stage_keeps(tmp_path, settled, opened):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    settings = PrepareSettings(dataset="folder", root=root)
    with nothing_kept():
        plan_prepare(settings, runs)
    plan_prepare(settings, runs)
    assert openings(opened) == 1
    assert not runs.exists()
    made = prepare(settings, runs)
    assert openings(opened) == 1  # to read the scenes
    forget()
    assert plan_prepare(settings, runs).artifact == made.artifact
    assert openings(opened) == 0


def test_the_drawn_world_has_no_file_to_watch(tmp_path, settled, opened):
    settings = PrepareSettings(dataset="drawn-world", split="val", drawn_world=DrawnWorldSettings(scenes=3))
    first = plan_prepare(settings, tmp_path)
    forget()
    assert plan_prepare(settings, tmp_path) == first
    assert openings(opened) == 1


def test_a_limit_looks_at_the_files_of_its_scenes_alone(tmp_path, settled, opened, monkeypatch):
    root, runs = tmp_path / "data", tmp_path / "runs"
    ids = make_coco(root, images=40)
    runs.mkdir()
    settings = PrepareSettings(dataset="coco", root=root, split="val2017", limit=2)
    asked: list[str] = []
    path_of = DataRoot.path
    monkeypatch.setattr(DataRoot, "path", lambda self, relative: asked.append(relative) or path_of(self, relative))
    first = identity(settings, runs)
    asked_of = {name for name in asked if name.endswith((".jpg", ".png"))}
    assert {Path(name).stem for name in asked_of} == {f"{image_id:012d}" for image_id in ids[:2]}
    assert openings(opened) == 1
    last = root / "val2017" / f"{ids[-1]:012d}.jpg"
    put(last, last.read_bytes() + b"x")
    assert identity(settings, runs) == first
    label = root / "stuffthingmaps" / "val2017" / f"{ids[1]:012d}.png"
    put(label, label.read_bytes() + b"x")
    assert identity(settings, runs) != first
