"""The stage: any data set becomes the same artifact, inline or on workers, in one go or after kills."""

import io
import json
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.executors import Compute
from pipeline.prepare.data_root import LayoutError
from pipeline.prepare.prepare import plan_prepare, prepare
from pipeline.settings import DrawnWorldSettings, PrepareSettings
from pipeline.shard_runner import Execution, Limits, StageReport
from storage_schemas.artifact import Artifact
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard
from tests.pipeline.prepare import layouts
from tests.pipeline.prepare.layouts import decoded, encoded, jpeg, make_coco, make_folder, put

ROOT = Path(__file__).parents[3]


def coco(root: Path, **options) -> PrepareSettings:
    return PrepareSettings(dataset="coco", root=root, split="val2017", **options)


def scenes_of(artifact: Artifact) -> list[Scene]:
    return [scene for unit in artifact.description.units for scene in SceneShard(artifact, unit).scenes()]


def files_of(artifact: Artifact) -> dict[str, bytes]:
    """Read an artifact's own bytes; what is of this machine only lies in ``_local``."""
    return {path.name: path.read_bytes() for path in artifact.directory.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("dataset", "make", "split", "scenes"),
    [
        ("ade20k-150", layouts.make_ade20k_150, "val", 3),
        ("ade20k-847", layouts.make_ade20k_847, "train", 2),
        ("pascal-context-59", layouts.make_pascal_context, "val", 3),
        ("pascal-context-459", layouts.make_pascal_context, "val", 3),
        ("pascal-voc-20", layouts.make_pascal_voc, "val", 3),
        ("pascal-voc-21", layouts.make_pascal_voc, "val", 3),
        ("folder", layouts.make_folder, "", 3),
        ("coco", layouts.make_coco, "val2017", 3),
    ],
)
def test_every_layout_becomes_scenes_with_original_bytes(tmp_path, dataset, make, split, scenes):
    make(tmp_path / "data")
    settings = PrepareSettings(dataset=dataset, root=tmp_path / "data", split=split, scenes_per_shard=2)
    report = prepare(settings, tmp_path / "runs")
    assert report.manifest.counts == {"ok": scenes}
    assert report.artifact.identity.name == f"{dataset}-{split}".removesuffix("-")
    attributes = ScenesAttributes.of(report.artifact)
    assert len(attributes.class_names) == len(attributes.seen) > 0
    for scene in scenes_of(report.artifact):
        assert scene.image == (tmp_path / "data" / scene.source_path).read_bytes()
        label = decoded(scene.label_png)
        assert label.shape == (scene.height_px, scene.width_px)
        assert set(label.ravel().tolist()) - {attributes.ignore_label} == set(scene.classes)
        assert max(scene.classes) < len(attributes.class_names)


def test_the_drawn_world_is_prepared_like_any_other(tmp_path):
    settings = PrepareSettings(
        dataset="drawn-world", split="val", scenes_per_shard=2, drawn_world=DrawnWorldSettings(scenes=3, size_px=48)
    )
    report = prepare(settings, tmp_path)
    assert report.manifest.counts == {"ok": 3}
    assert report.artifact.identity.name == "drawn-world-val"
    assert len(ScenesAttributes.of(report.artifact).class_names) == 54
    wrong = settings.model_copy(update={"split": "val2017"})
    with pytest.raises(LayoutError, match="split is 'val2017', expected one of train"):
        prepare(wrong, tmp_path)


def poison(root: Path) -> dict[str, int]:
    """Spoil a COCO of 12 images in every way that a file can be spoilt; return what is to be expected."""
    ids = make_coco(root, images=12)
    images = [root / "val2017" / f"{image_id:012d}.jpg" for image_id in ids]
    labels = [root / "stuffthingmaps" / "val2017" / f"{image_id:012d}.png" for image_id in ids]
    put(images[0], images[0].read_bytes()[:-100])
    put(images[1], b"<html>404 not found</html>")
    put(images[2], encoded(layouts.picture()[..., 0].astype("uint16") * 257))
    put(images[3], jpeg(30, 20))
    put(images[4], encoded(layouts.picture()[..., 0], "JPEG"))  # grey: fine
    put(images[5], encoded(layouts.Image.new("CMYK", (24, 16), (1, 2, 3, 4)), "JPEG"))  # CMYK: fine
    put(images[6], encoded(layouts.Image.fromarray(layouts.picture()).quantize(8)))  # a PNG named .jpg: fine
    images[7].unlink()
    images[7].symlink_to("/etc/hostname")
    labels[8].unlink()
    put(labels[9], labels[9].read_bytes()[:-30])
    put(images[10], encoded(layouts.np.zeros((1000, 1000, 3), "uint8")))
    captions = json.loads((root / "annotations" / "captions_val2017.json").read_text())
    captions["annotations"][22]["caption"] = ""
    captions["annotations"][23]["caption"] = "\ud800"
    captions["annotations"].append({"id": 1, "image_id": 2, "caption": "nobody"})
    put(root / "annotations" / "captions_val2017.json", json.dumps(captions))
    return {
        "image_truncated": 1,
        "image_unreadable": 1,
        "image_mode_unsupported": 1,
        "label_size_mismatch": 1,
        "path_outside_root": 1,
        "label_unreadable": 1,
        "image_too_large": 1,
        "caption_not_utf8": 1,
        "image_id_unknown": 1,
        "ok": 4,
    }


def test_poisoned_inputs_become_rows_and_counts_add_up(tmp_path):
    expected = poison(tmp_path / "data")
    settings = coco(tmp_path / "data", scenes_per_shard=5, max_image_px=20_000)
    report = prepare(settings, tmp_path / "runs", execution=Execution(limits=Limits(max_failed_share=0.9)))
    assert report.manifest.counts == dict(sorted(expected.items()))
    assert report.manifest.rows == 13 == sum(expected.values())
    scenes = scenes_of(report.artifact)
    assert Counter(scene.status for scene in scenes) == expected
    for scene in scenes:
        assert (scene.reason == "") == (scene.status == "ok") == (scene.image != b"")
    assert "hostname" in next(scene.reason for scene in scenes if scene.status == "path_outside_root")


def test_too_many_faults_fail_the_stage_and_a_higher_limit_goes_on(tmp_path):
    poison(tmp_path / "data")
    settings = coco(tmp_path / "data", scenes_per_shard=5, max_image_px=20_000)
    with pytest.raises(StageError, match=r"69.2% of 13 rows failed .* raise max_failed_share"):
        prepare(settings, tmp_path / "runs")
    report = prepare(settings, tmp_path / "runs", execution=Execution(limits=Limits(max_failed_share=0.9)))
    assert (report.units_done, report.units_skipped) == (0, 3)


def test_the_same_data_elsewhere_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    reports: list[StageReport] = []
    for workers in (0, 1, 2):
        make_coco(tmp_path / f"data{workers}", images=7)
        settings = coco(tmp_path / f"data{workers}", scenes_per_shard=2, labels="panoptic")
        reports.append(prepare(settings, tmp_path / f"runs{workers}", execution=Execution(Compute(workers=workers))))
    inline, *others = (files_of(report.artifact) for report in reports)
    assert len(inline) == 2 + 4 * 3
    assert all(other == inline for other in others)


def test_a_second_run_does_nothing_and_changed_data_is_another_artifact(tmp_path):
    make_folder(tmp_path / "data")
    settings = PrepareSettings(dataset="folder", root=tmp_path / "data", scenes_per_shard=2)
    first = prepare(settings, tmp_path / "runs")
    again = prepare(settings, tmp_path / "runs")
    assert (again.units_done, again.units_skipped, again.artifact) == (0, 2, first.artifact)
    put(tmp_path / "data" / "images" / "more.jpg", jpeg())
    other = prepare(settings, tmp_path / "runs")
    assert other.artifact.directory != first.artifact.directory
    assert other.manifest.rows == 4


def test_data_that_changes_between_plan_and_work_is_an_error(tmp_path):
    make_folder(tmp_path / "data")
    plan = plan_prepare(PrepareSettings(dataset="folder", root=tmp_path / "data"), tmp_path / "runs")
    put(tmp_path / "data" / "images" / "more.jpg", jpeg())
    with pytest.raises(LayoutError, match="has other images than a moment ago; run again"):
        plan.job.open()


def test_the_limit_takes_the_first_scenes(tmp_path):
    make_coco(tmp_path / "data", images=5)
    report = prepare(coco(tmp_path / "data", limit=3), tmp_path / "runs")
    assert [scene.image_id for scene in scenes_of(report.artifact)] == ["139", "146", "153"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("folder", "folder: .*nowhere is no directory; correct --root"), ("coco", "is no directory")],
)
def test_a_root_that_is_not_there_is_an_error(tmp_path, dataset, message):
    split = "" if dataset == "folder" else "val2017"
    with pytest.raises(LayoutError, match=message):
        prepare(PrepareSettings(dataset=dataset, root=tmp_path / "nowhere", split=split), tmp_path)


def test_an_empty_data_set_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(LayoutError, match="has no image in split ''; correct --root or --split"):
        prepare(PrepareSettings(dataset="folder", root=tmp_path), tmp_path / "runs")


KILLED_AT_A_SYNC = """
import itertools, os, signal, sys
from pathlib import Path
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings

sync, numbers = os.fsync, itertools.count(1)


def sync_or_die(descriptor: int) -> None:
    # What is remembered of the files is written in one process and not in another: as their ages are.
    if ".data_sets" not in os.readlink(f"/proc/self/fd/{descriptor}") and next(numbers) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)


os.fsync = sync_or_die
prepare(PrepareSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    make_coco(tmp_path / "data", images=12)
    settings = coco(tmp_path / "data", labels="instances", scenes_per_shard=3)
    whole = prepare(settings, tmp_path / "whole")
    directory = plan_prepare(settings, tmp_path / "killed").artifact.directory
    done = []
    for sync in (12, 8, 4):  # five of them make a shard; before them come up to five
        command = [sys.executable, "-c", KILLED_AT_A_SYNC, settings.model_dump_json(), str(tmp_path / "killed")]
        ended = subprocess.run([*command, str(sync)], cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not (directory / "manifest.json").exists()
        done.append(len(list(directory.glob("shard-*.json"))))
    assert done == [1, 2, 2]
    report = prepare(settings, tmp_path / "killed")
    assert report.units_skipped == 2
    assert files_of(report.artifact) == files_of(whole.artifact)


def test_shards_are_webdataset_tars(tmp_path):
    make_coco(tmp_path / "data")
    report = prepare(coco(tmp_path / "data", labels="panoptic"), tmp_path / "runs")
    with tarfile.open(report.artifact.directory / "shard-00000.tar") as tar:
        names = tar.getnames()
        data = tar.extractfile("000000000139.jpg").read()
    assert names[:4] == [f"000000000139.{suffix}" for suffix in ("captions.json", "jpg", "instances.png", "label.png")]
    assert layouts.Image.open(io.BytesIO(data)).size == (24, 16)
