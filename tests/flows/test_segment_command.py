"""``ovseg segment`` writes what it says, and one bad image doesn't stop the others."""

import io
import json
import os

import numpy as np
import pytest
import tyro
from PIL import Image

from flows.segment_command import segment
from ovseg_models import image_input
from ovseg_models.segmenter import Segmenter
from pipeline.errors import PipelineError
from pipeline.settings import PrepareSettings
from storage_schemas.rle import decode_masks, encode_masks
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "segmenter"
    tiny_segmenter().save(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("one.png", "two.png")):
        Image.fromarray(picture(seed=seed)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_labels_overlay_and_masks_are_written(model, photos, tmp_path):
    assert segment((photos / "one.png",), classes=tuple(CLASS_NAMES), model=model, out=tmp_path / "out") == 0
    expected = Segmenter.load(model).segment(photos / "one.png", CLASS_NAMES)
    labels = Image.open(tmp_path / "out" / "one.labels.png")
    assert labels.mode == "L"
    assert np.array_equal(np.asarray(labels), expected.label_map.numpy())
    with Image.open(tmp_path / "out" / "one.overlay.png") as overlay:
        assert overlay.width == 220
    content = json.loads((tmp_path / "out" / "one.json").read_text())
    assert (content["height_px"], content["width_px"], content["class_names"]) == (50, 70, CLASS_NAMES)
    masks = expected.hard_masks().numpy()
    assert [entry["query"] for entry in content["masks"]] == [row.query for row in expected.masks if row.area_px]
    for entry in content["masks"]:
        assert entry["rle"]["size"] == [50, 70]
        mask = decode_masks([entry["rle"]["counts"].encode()], 50, 70)[0]
        assert np.array_equal(mask, masks[entry["query"]])
        assert entry["area_px"] == mask.sum()
        assert entry["class_name"] == CLASS_NAMES[entry["class_index"]]


@pytest.mark.parametrize(("find", "classes"), [(False, CLASS_NAMES), (True, ["cat"]), (False, range(256))])
def test_files_have_the_bytes_of_their_twin(model, photos, tmp_path, find, classes):
    names = [f"cat {name}" if isinstance(name, int) else name for name in classes]
    segment((photos / "one.png",), classes=tuple(names), model=model, out=tmp_path, find=find, device="cpu")
    segmenter = Segmenter.load(model, device="cpu")
    result = (segmenter.find if find else segmenter.segment)(photos / "one.png", names)

    is_8_bit = len(result.class_names) <= 255
    nothing = 255 if is_8_bit else 65535
    labels = np.where(result.label_map < 0, nothing, result.label_map).astype(np.uint8 if is_8_bit else np.uint16)
    masks = result.hard_masks().numpy()
    rows = [
        {
            "query": row.query,
            "class_index": row.class_index,
            "class_name": row.class_name,
            "score": row.score,
            "proposal_prob": row.proposal_prob,
            "clip_prob": row.clip_prob,
            "area_px": row.area_px,
            "box_xyxy": row.box_xyxy,
            "rle": {"size": [50, 70], "counts": encode_masks(masks[row.query : row.query + 1])[0].decode()},
        }
        for row in result.found_masks
    ]
    content = {
        "image": str(photos / "one.png"),
        "height_px": 50,
        "width_px": 70,
        "class_names": list(result.class_names),
        "labels": "one.labels.png",
        "overlay": "one.overlay.png",
        "nothing_found": nothing,
        "masks": rows,
    }
    expected = {"one.json": (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()}
    for name, pixels in (("labels", Image.fromarray(labels)), ("overlay", result.overlay())):
        pixels.save(png := io.BytesIO(), "PNG")
        expected[f"one.{name}.png"] = png.getvalue()
    assert rows
    assert {path.name: path.read_bytes() for path in tmp_path.glob("one.*")} == expected


def test_a_folder_gives_its_images(model, photos, tmp_path):
    segment((photos,), classes=("cat", "dog"), model=model, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["one.json", "two.json"]


def test_results_beside_the_photographs_are_not_segmented_again(model, photos):
    for _ in range(2):
        segment((photos,), classes=("cat", "dog"), model=model, out=photos)
    assert sorted(path.name for path in photos.glob("*.json")) == ["one.json", "two.json"]
    assert len(list(photos.glob("*.png"))) == 6


def test_images_of_one_name_do_not_replace_each_other(model, photos, tmp_path):
    (tmp_path / "more").mkdir()
    for target in (photos / "one.jpg", tmp_path / "more" / "one.jpg"):
        Image.fromarray(picture()).save(target)
    given = (photos / "one.png", photos / "one.jpg", tmp_path / "more" / "one.jpg", photos / "one.png")
    segment(given, classes=("cat",), model=model, out=tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.json"))
    assert names == ["one.jpg-2.json", "one.jpg.json", "one.png.json"]


def test_a_bad_image_is_listed_at_the_end_and_does_not_stop_the_others(model, photos, tmp_path, capsys):
    (photos / "bad.png").write_bytes(b"no image")
    given = (photos / "absent.png", photos)
    assert segment(given, classes=("cat", "dog"), model=model, out=tmp_path / "out") == 1
    printed = capsys.readouterr().err
    assert "absent.png: there is no such file" in printed
    assert "bad.png: cannot be read as an image" in printed
    assert f"2 of 4 images failed; the results of the others are in {tmp_path / 'out'}\n" in printed
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["one.json", "two.json"]


@pytest.mark.parametrize(("absent", "printed"), [(1, "the only image failed"), (2, "all 2 images failed")])
def test_where_all_images_fail_no_others_are_spoken_of(model, tmp_path, capsys, absent, printed):
    given = tuple(tmp_path / f"{number}.png" for number in range(absent))
    assert segment(given, classes=("cat",), model=model, out=tmp_path / "out") == 1
    assert capsys.readouterr().err.endswith(f"ovseg: {printed}; no result is in {tmp_path / 'out'}\n")


def test_an_image_whose_name_is_not_utf_8_has_all_its_files(model, photos, tmp_path):
    odd = photos / os.fsdecode(b"caf\xe9.png")
    (photos / "one.png").rename(odd)
    assert segment((odd,), classes=("cat",), model=model, out=tmp_path / "out") == 0
    (path,) = (tmp_path / "out").glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["image"] == str(odd)
    assert (path.parent / content["labels"]).exists()


def test_finding_leaves_the_rest_unlabelled_and_lists_what_was_found(model, photos, tmp_path):
    segment((photos / "one.png",), classes=("cat",), model=model, out=tmp_path, find=True, mask_threshold=0.9)
    content = json.loads((tmp_path / "one.json").read_text())
    assert content["class_names"] == ["cat", "others"]
    assert len(content["masks"]) == 1
    labels = np.asarray(Image.open(tmp_path / "one.labels.png"))
    assert set(np.unique(labels)) == {0, content["nothing_found"]}


def test_many_classes_need_16_bits(model, photos, tmp_path):
    names = tuple(f"cat {index}" for index in range(256))
    segment((photos / "one.png",), classes=names, model=model, out=tmp_path, find=True, min_score=2)
    labels = Image.open(tmp_path / "one.labels.png")
    assert labels.mode == "I;16"
    assert np.unique(np.asarray(labels)).tolist() == [65535]


def test_settings_go_before_the_segmenters_own(model, photos, tmp_path):
    segment((photos / "one.png",), classes=("cat", "dog"), model=model, out=tmp_path, ensemble_weight=0.0)
    content = json.loads((tmp_path / "one.json").read_text())
    assert all(entry["score"] == pytest.approx(entry["proposal_prob"]) for entry in content["masks"])


def test_masks_are_named_in_one_pass_where_the_command_says_so(model, photos, tmp_path):
    for namer in ("crops", "one-pass"):
        segment((photos / "one.png",), classes=("cat", "dog"), model=model, out=tmp_path / namer, namer=namer)
    by_crops, by_one_pass = (
        json.loads((tmp_path / namer / "one.json").read_text())["masks"] for namer in ("crops", "one-pass")
    )
    assert [mask["box_xyxy"] for mask in by_crops] == [mask["box_xyxy"] for mask in by_one_pass]
    assert [mask["clip_prob"] for mask in by_crops] != [mask["clip_prob"] for mask in by_one_pass]


def test_the_command_line_takes_names_with_blanks(model, photos, tmp_path):
    arguments = [str(photos / "one.png"), "--classes", "grass sky", "dog"]
    arguments += ["--model", str(model), "--out", str(tmp_path / "out"), "--short-side-px", "40"]
    assert tyro.cli(segment, args=arguments) == 0
    assert json.loads((tmp_path / "out" / "one.json").read_text())["class_names"] == ["grass sky", "dog"]


@pytest.mark.parametrize("classes", [(), ("cat", " ")])
def test_no_class_and_a_blank_one_are_refused(model, photos, tmp_path, classes):
    with pytest.raises(PipelineError, match="--classes: found"):
        segment((photos,), classes=classes, model=model, out=tmp_path)


def test_a_name_that_is_there_twice_is_refused(model, photos, tmp_path):
    with pytest.raises(PipelineError, match="--classes: found 'cat' 2 times, each name once is expected"):
        segment((photos,), classes=("cat", "dog", " cat "), model=model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(model, photos, tmp_path):
    with pytest.raises(PipelineError, match=r"^--classes: found 'caf\\udce9', which is not valid UTF-8"):
        segment((photos,), classes=("cat", "caf\udce9"), model=model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_least_score_without_finding_is_refused(model, photos, tmp_path):
    with pytest.raises(PipelineError, match=r"--min-score: found 0\.2 without --find"):
        segment((photos,), classes=("cat",), model=model, out=tmp_path, min_score=0.2)


def test_more_names_than_a_png_can_hold_are_refused(model, photos, tmp_path):
    with pytest.raises(PipelineError, match="found 65536 names, a PNG can hold 65535"):
        segment((photos,), classes=("cat",) * 65_536, model=model, out=tmp_path)


def test_nothing_to_segment_is_refused(model, tmp_path):
    with pytest.raises(PipelineError, match="there is no image"):
        segment((), classes=("cat",), model=model, out=tmp_path)
    with pytest.raises(PipelineError, match="holds no image files"):
        segment((tmp_path,), classes=("cat",), model=model, out=tmp_path)


def test_a_segmenter_that_cannot_be_loaded_is_refused(photos, tmp_path):
    with pytest.raises(PipelineError, match=r"absent/segmenter\.json: there is no such file"):
        segment((photos,), classes=("cat",), model=tmp_path / "absent", out=tmp_path)


def test_a_device_that_is_not_there_is_refused(model, photos, tmp_path):
    with pytest.raises(PipelineError, match="abacus"):
        segment((photos,), classes=("cat",), model=model, out=tmp_path, device="abacus")


@pytest.mark.parametrize("classes", [("cat, dog",), ("cat,", "dog"), ("cat;dog",), ("cat\ndog ",), ("cat", " dog")])
def test_names_are_split_as_in_the_app(model, photos, tmp_path, classes):
    assert segment((photos / "one.png",), classes=classes, model=model, out=tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "one.json").read_text())["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize("image", ["two.png", "absent.JPG"])
def test_images_among_the_classes_give_a_hint(model, photos, tmp_path, image):
    with pytest.raises(PipelineError, match=r"--classes: found '.*' ?, which is an image.*write images before"):
        segment((photos / "one.png",), classes=("cat", str(photos / image)), model=model, out=tmp_path / "out")
    with pytest.raises(PipelineError, match="write images before"):
        segment((), classes=("cat", str(photos)), model=model, out=tmp_path / "out")


@pytest.mark.parametrize("find", [False, True])
def test_a_class_without_a_known_word_is_refused_before_anything_is_written(model, photos, tmp_path, find):
    with pytest.raises(PipelineError, match=r"--classes: this CLIP knows no word of \['excavator'\].*boat, cat, dog"):
        segment((photos,), classes=("excavator",), model=model, out=tmp_path / "out", find=find)
    with pytest.raises(PipelineError, match=r"knows no word of \['oculus', 'ukulele'\]"):
        segment((photos,), classes=("oculus", "ukulele", "cat"), model=model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_known_in_part_gives_one_warning(model, photos, tmp_path, caplog):
    assert segment((photos,), classes=("striped cat", "spotted cat"), model=model, out=tmp_path / "out") == 0
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "'striped cat' without striped" in warning
    assert "'striped cat' = 'spotted cat'" in warning


def test_a_picture_has_the_pixels_of_prepare_at_most(model, photos, tmp_path, capsys, monkeypatch):
    assert PrepareSettings.model_fields["max_image_px"].default == image_input.PIXELS_MAX
    monkeypatch.setattr(image_input, "PIXELS_MAX", 50 * 70)
    Image.fromarray(picture(50, 71)).save(photos / "large.png")
    assert segment((photos,), classes=("cat",), model=model, out=tmp_path / "out") == 1
    assert "large.png: has 3550 pixels, at most 3500 are expected" in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.parametrize("ending", ["labels.png", "overlay.png", "json"])
def test_a_picture_has_all_its_files_or_none(model, photos, tmp_path, capsys, ending):
    (tmp_path / "out" / f"one.{ending}").mkdir(parents=True)  # cannot be replaced by a file
    assert segment((photos,), classes=("cat",), model=model, out=tmp_path / "out") == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([f"one.{ending}", "two.json", "two.labels.png", "two.overlay.png"])
    assert "1 of 2 images failed" in capsys.readouterr().err


def test_a_vocabulary_file_names_classes(model, photos, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("cat | dog\nother: sky, grass\n")
    assert segment((photos / "one.png",), vocabulary=words, model=model, out=tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "one.json").read_text())
    assert content["class_names"] == ["cat", "others"]
    labels = np.asarray(Image.open(tmp_path / "out" / "one.labels.png"))
    assert set(np.unique(labels).tolist()) <= {0, content["nothing_found"]}


def test_faults_of_a_vocabulary_file_are_reported_with_place(model, photos, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("cat\ncat\n")
    for given, found in (({"vocabulary": words}, "line 2"), ({"vocabulary": tmp_path / "absent"}, "absent")):
        with pytest.raises(PipelineError, match=rf"^--vocabulary: .*{found}"):
            segment((photos,), **given, model=model, out=tmp_path / "out")
    with pytest.raises(PipelineError, match="beside --vocabulary"):
        segment((photos,), classes=("cat",), vocabulary=words, model=model, out=tmp_path / "out")
