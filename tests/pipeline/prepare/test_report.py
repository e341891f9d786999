"""The check reads everything, writes nothing, and counts right."""

import json

import numpy as np

from pipeline.prepare.data_sets import open_source
from pipeline.prepare.faults import FAULTS
from pipeline.prepare.report import ODDITIES, check_source
from pipeline.prepare.source import PassedOver
from pipeline.settings import DrawnWorldSettings, PrepareSettings
from tests.pipeline.prepare.layouts import (
    Image,
    encoded,
    jpeg,
    make_ade20k_150,
    make_folder,
    picture,
    pixel_counts,
    put,
)


def report_of(settings: PrepareSettings):
    source = open_source(settings)
    return check_source(source, source.keys(), data_set="demo", max_image_px=settings.max_image_px)


def tree(path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_sound_data_set(tmp_path):
    make_folder(tmp_path)
    before = tree(tmp_path)
    report = report_of(PrepareSettings(dataset="folder", root=tmp_path))
    assert (report.scenes, report.usable, report.captions) == (3, 3, 3)
    assert (report.faults, report.oddities, report.passed_over(), report.warnings()) == ({}, {}, [], [])
    assert (report.found.pictures, report.found.labels, report.found.captions) == (3, 3, 3)
    labels = [np.asarray(Image.open(path)) for path in (tmp_path / "labels").iterdir()]
    expected = pixel_counts(labels)
    assert report.ignored_px == expected.pop(255)
    assert dict(report.labelled_px) == expected
    assert dict(report.labelled_scenes) == {0: 3, 2: 3}
    assert tree(tmp_path) == before


def test_everything_odd_is_reported_once_with_examples(tmp_path):
    make_folder(tmp_path, images=8)
    images, labels = tmp_path / "images", tmp_path / "labels"
    exif = Image.Exif()
    exif[274] = 6
    put(images / "shot_0.jpg", jpeg(exif=exif))
    put(images / "shot_1.jpg", encoded(picture()[..., 0], "JPEG"))
    put(images / "shot_2.jpg", encoded(Image.new("CMYK", (24, 16)), "JPEG"))
    put(images / "shot_3.jpg", encoded(Image.fromarray(picture()).quantize(4)))
    (labels / "shot_4.png").rename(labels / "shot_9.png")
    put(labels / "shot_5.png", encoded(np.full((16, 24), 255, np.uint8)))
    put(images / "shot_6.jpg", b"")
    put(labels / "shot_7.png", encoded(np.full((16, 24), 7, np.uint8)))
    put(tmp_path / "captions.tsv", "image\tcaption\nshot_0\t \nshot_1\ta\nshot_2\tb\nshot_3\tc\nshot_4\td\n")
    report = report_of(PrepareSettings(dataset="folder", root=tmp_path))
    assert {slug: found.scenes for slug, found in report.faults.items()} == {
        "image_unreadable": 1,
        "label_outside_vocabulary": 1,
    }
    assert {slug: found.scenes for slug, found in report.oddities.items()} == {
        "exif_rotated": 1,
        "colours_grey": 1,
        "colours_cmyk": 1,
        "colours_palette": 1,
        "without_label": 1,
        "label_without_class": 1,
        "without_caption": 1,
        "caption_empty": 1,
    }
    assert report.usable + sum(found.scenes for found in report.faults.values()) == report.scenes == 8
    assert report.oddities["exif_rotated"].examples == [("shot_0", "EXIF orientation 6")]
    assert report.found.passed_over == (PassedOver(1, "labels/shot_9.png", "label files without a picture"),)
    assert report.faults.keys() <= FAULTS.keys()
    assert report.oddities.keys() == ODDITIES.keys()


def test_the_table_and_the_json_say_the_same(tmp_path):
    make_ade20k_150(tmp_path, images=5)
    for number in range(1, 5):
        put(tmp_path / f"images/validation/ADE_val_0000000{number}.jpg", b"x")
    report = report_of(PrepareSettings(dataset="ade20k-150", root=tmp_path, split="val"))
    text = report.to_text()
    assert text.startswith("demo: 1 of 5 scenes can be used (4 with a fault), 0 captions\n")
    (fault,) = (line.split(maxsplit=2) for line in text.splitlines() if line.startswith("image_unreadable"))
    assert fault[1] == "4"
    assert fault[2].startswith("no picture of a known format")
    assert text.count("expected a JPEG") == 3  # examples, not the whole list
    assert "148 of 150 classes do not occur: building; sky;" in text
    rows = {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("wall", "flag", "(ign"))
    }
    assert rows == {
        "wall": ["1", "80", "20.83%"],
        "flag": ["1", "240", "62.50%"],
        "(ignored)": ["64", "16.67%"],
    }
    document = json.loads(json.dumps(report.to_json()))
    assert document["classes"][0] == {"index": 0, "name": "wall", "pixels": 80, "scenes": 1}
    assert document["faults"]["image_unreadable"]["scenes"] == 4
    assert document["ignored_px"] == 64


def test_sources_without_labels_or_notes_are_checked_too(tmp_path):
    put(tmp_path / "images" / "a.jpg", jpeg())
    report = report_of(PrepareSettings(dataset="folder", root=tmp_path))
    assert "class " not in report.to_text()
    assert report.oddities.keys() == {"without_caption"}
    drawn = PrepareSettings(dataset="drawn-world", split="val", drawn_world=DrawnWorldSettings(scenes=2, size_px=48))
    assert report_of(drawn).usable == 2
