"""The real samples: every pixel count against one that shares no code with the reader."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.prepare.prepare import prepare
from pipeline.prepare.vocabulary import load_vocabulary
from pipeline.settings import PrepareSettings
from storage_schemas.scenes import Scene, SceneShard
from tests.pipeline.prepare.layouts import SHARED_DATA, decoded

pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} with the real samples is absent")

COCO_SAMPLE = SHARED_DATA / "coco-sample"
FORMATS = SHARED_DATA / "format-samples"
VOCABULARIES = SHARED_DATA / ".." / "vocabularies"


def prepared(tmp_path, dataset: str, root: Path, **options) -> list[Scene]:
    """Prepare a sample in shards of 40; all its scenes are fine and have the original image bytes."""
    settings = PrepareSettings(dataset=dataset, root=root, scenes_per_shard=40, **options)
    report = prepare(settings, tmp_path / "runs")
    scenes = [
        scene for unit in report.artifact.description.units for scene in SceneShard(report.artifact, unit).scenes()
    ]
    assert report.manifest.counts == {"ok": len(scenes)}
    for scene in scenes:
        assert scene.image == (root / scene.source_path).read_bytes()
    return scenes


def counted(scenes: list[Scene]) -> Counter[int]:
    """Count the pixels of stored label maps."""
    counts: Counter[int] = Counter()
    for scene in scenes:
        if scene.label_png is not None:
            label = decoded(scene.label_png)
            assert label.shape == (scene.height_px, scene.width_px)
            values, numbers = np.unique(label, return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
            assert scene.classes == tuple(value for value in values.tolist() if value not in {255, 65535})
    return counts


def test_coco_panoptic_agrees_with_the_areas_that_its_file_states(tmp_path):
    scenes = prepared(tmp_path, "coco", COCO_SAMPLE, split="train2017", labels="panoptic")
    assert (len(scenes), sum(len(scene.captions) for scene in scenes)) == (230, 650)
    document = json.loads((COCO_SAMPLE / "annotations" / "panoptic_train2017.json").read_text())
    index_of = {category: index for index, category in enumerate(load_vocabulary("coco-panoptic-133").source_ids)}
    expected: Counter[int] = Counter()
    things = 0
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            expected[index_of[segment["category_id"]]] += segment["area"]
            things += index_of[segment["category_id"]] < 80 and not segment["iscrowd"]
    found = counted(scenes)
    del found[255]
    assert found == expected
    assert sum(int(decoded(scene.instances_png).max()) for scene in scenes if scene.instances_png) == things
    texts = {caption.caption_id: caption.text for scene in scenes for caption in scene.captions}
    captions = json.loads((COCO_SAMPLE / "annotations" / "captions_train2017.json").read_text())["annotations"]
    assert texts == {caption["id"]: caption["caption"] for caption in captions}


@pytest.mark.parametrize(("split", "images", "unlabelled"), [("train2017", 230, 101), ("val2017", 200, 2)])
def test_coco_instances_agree_with_pycocotools(tmp_path, capsys, split, images, unlabelled):
    scenes = prepared(tmp_path, "coco", COCO_SAMPLE, split=split, labels="instances")
    assert (len(scenes), sum(scene.label_png is None for scene in scenes)) == (images, unlabelled)
    coco = COCO(COCO_SAMPLE / "annotations" / f"instances_{split}.json")
    index_of = {category: index for index, category in enumerate(load_vocabulary("coco-things-80").source_ids)}
    for scene in scenes[::7]:
        annotations = coco.imgToAnns[int(scene.image_id)]
        if not annotations:
            assert scene.label_png is None
            continue
        owner = np.full((scene.height_px, scene.width_px), 255)
        rank = np.full(owner.shape, np.inf)
        for annotation in annotations:
            own_rank = annotation["area"] if not annotation["iscrowd"] else 1e12 + annotation["area"]
            wins = coco.annToMask(annotation).astype(bool) & (own_rank < rank)
            rank[wins] = own_rank
            owner[wins] = index_of[annotation["category_id"]]
        assert np.array_equal(decoded(scene.label_png), owner), scene.key


def test_ade20k_150_agrees_with_its_labels_less_one(tmp_path):
    root = FORMATS / "ADEChallengeData2016"
    scenes = prepared(tmp_path, "ade20k-150", root, split="val")
    assert len(scenes) == 3
    for scene in scenes:
        original = np.asarray(Image.open(root / "annotations" / "validation" / f"{scene.key}.png")).astype(int)
        assert np.array_equal(decoded(scene.label_png), np.where(original == 0, 255, original - 1))
    names = load_vocabulary("ade20k-150").class_names
    lines = (root / "objectInfo150.txt").read_text().splitlines()[1:]
    stated = [line.split("\t")[4].strip() for line in lines]
    assert sum(mine == theirs for mine, theirs in zip(names, stated, strict=True)) >= 30  # the release's are longer


def test_ade20k_847_agrees_with_the_objects_of_its_json(tmp_path):
    root = FORMATS / "ADE20K_2021_17_01"
    scenes = prepared(tmp_path, "ade20k-847", root, split="train")
    assert len(scenes) == 3
    lines = (VOCABULARIES / "ade20k_847_ids.tsv").read_text().splitlines()[1:]
    index_of = {int(line.split("\t")[0]): int(line.split("\t")[1]) for line in lines}
    for scene in scenes:
        rgb = np.asarray(Image.open(root / scene.source_path.replace(".jpg", "_seg.png"))).astype(int)
        expected: Counter[int] = Counter()
        for class_id, pixels in Counter((rgb[..., 0] // 10 * 256 + rgb[..., 1]).ravel().tolist()).items():
            expected[index_of.get(class_id, 65535)] += pixels
        assert counted([scene]) == expected
        document = json.loads((root / scene.source_path.replace(".jpg", ".json")).read_text(encoding="latin-1"))
        stated = {item["name_ndx"] for item in document["annotation"]["object"]}
        assert {load_vocabulary("ade20k-847").source_ids[index] for index in scene.classes} <= stated


def test_ade20k_847_in_the_reference_size(tmp_path):
    settings = PrepareSettings(
        dataset="ade20k-847", root=FORMATS / "ADE20K_2021_17_01", split="train", reference_resize=True, limit=1
    )
    report = prepare(settings, tmp_path)
    (scene,) = SceneShard(report.artifact, "shard-00000").scenes()
    assert (scene.width_px, scene.height_px) == (683, 512)
    assert decoded(scene.label_png).shape == (512, 683)


def test_pascal_voc_agrees_with_its_labels_less_one(tmp_path):
    root = FORMATS / "VOCdevkit" / "VOC2012"
    scenes = prepared(tmp_path, "pascal-voc-20", root, split="val", voc_labels="SegmentationClass")
    names = {load_vocabulary("pascal-voc-20").class_names[index] for scene in scenes for index in scene.classes}
    assert names == {"bottle", "person", "chair", "sofa", "bus", "car"}
    for scene in scenes:
        original = np.asarray(Image.open(root / "SegmentationClass" / f"{scene.key}.png")).astype(int)
        expected = np.where((original == 0) | (original == 255), 255, original - 1)
        assert np.array_equal(decoded(scene.label_png), expected)
    for scene in prepared(tmp_path / "21", "pascal-voc-21", root, split="val", voc_labels="SegmentationClass"):
        original = np.asarray(Image.open(root / "SegmentationClass" / f"{scene.key}.png"))
        assert np.array_equal(decoded(scene.label_png), original), "background is class 0, as the file has it"


def test_camvid_as_a_folder_keeps_its_labels_byte_by_byte(tmp_path):
    root = SHARED_DATA / "folder-sample" / "camvid"
    scenes = prepared(tmp_path, "folder", root)
    assert len(scenes) == 40
    for scene in scenes:
        assert scene.label_png == (root / "labels" / f"{scene.key}.png").read_bytes()
    counts = counted(scenes)
    shares = {value: round(100 * pixels / sum(counts.values()), 2) for value, pixels in counts.items()}
    assert (shares[0], shares[3], shares[9], shares[255]) == (12.41, 27.0, 0.6, 2.69)  # as its README has them
