"""What a segmentation offers its caller: masks by name, segments, a short text, a picture, and its files."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.segmentation import Segmentation
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return tiny_segmenter(ensemble_weight=0.3, mask_threshold=0.99)  # so that a picture has two classes


@pytest.fixture(scope="module")
def result(segmenter):
    return segmenter(picture(), CLASS_NAMES)


def test_a_name_gives_its_mask(result):
    masks = dict(result)
    assert list(result) == list(masks) == CLASS_NAMES
    assert torch.equal(torch.stack(list(masks.values())).int().argmax(dim=0), result.label_map)
    assert sum(mask.int() for mask in masks.values()).unique().tolist() == [1]
    assert masks["cat"].dtype == torch.bool
    assert "cat" in result
    assert "lion" not in result


def test_a_name_that_was_not_given_is_a_key_error_with_similar_ones(result):
    with pytest.raises(KeyError, match="'boats' is none of the 5 class names of this result; similar are 'boat'"):
        result["boats"]
    with pytest.raises(KeyError, match="they are 'cat', 'dog', 'sky', 'grass', 'boat'"):
        result["lion"]


def test_the_text_is_one_short_line_with_the_largest_classes_first(segmenter, result):
    shares = {name: float(result[name].float().mean()) for name in result}
    named = repr(result).removeprefix("Segmentation(70 x 50 px: ").removesuffix(")").split(", ")
    assert [shares[part.rpartition(" ")[0]] for part in named] == sorted(filter(None, shares.values()), reverse=True)
    assert named[0].endswith(f" {max(shares.values()):.0%}")
    nothing = segmenter.find(picture(), CLASS_NAMES, min_score=2)
    assert repr(nothing) == "Segmentation(70 x 50 px: nothing found)"
    many = segmenter(picture(), [f"cat {number}" for number in range(300)])
    assert len(repr(many)) < 200


def test_a_notebook_shows_the_overlay_no_larger_than_a_screen(segmenter, result):
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert np.array_equal(np.asarray(shown), np.asarray(result.overlay()))
    wide = segmenter(picture(20, 3000), ["cat"])
    assert Image.open(io.BytesIO(wide._repr_png_())).width == 1024


def test_segments_are_those_of_a_transformers_pipeline(segmenter, result):
    segments = result.segments
    assert [segment["label"] for segment in segments] == [name for name in CLASS_NAMES if result[name].any()]
    for segment in segments:
        assert set(segment) == {"label", "score", "mask"}
        assert (segment["mask"].mode, segment["mask"].size) == ("L", (70, 50))
        assert np.array_equal(np.asarray(segment["mask"]), 255 * result[segment["label"]].numpy().astype(np.uint8))
        rows = [row.query for row in result.masks if row.area_px]
        column = result.query_scores[rows, CLASS_NAMES.index(segment["label"])]
        assert segment["score"] == pytest.approx(float(column.max()))
    found = segmenter.find(picture(), ["cat"])
    assert [(one["label"], one["score"]) for one in found.segments] == [
        ("cat", pytest.approx(float(found.query_scores[found.found_queries[0], 0])))
    ]
    assert segmenter.find(picture(), ["cat"], min_score=2).segments == []


def test_what_is_saved_is_what_the_dictionary_says(result, tmp_path):
    path = result.save(tmp_path / "out", "photo")
    assert path == tmp_path / "out" / "photo.json"
    content = json.loads(path.read_text())
    assert content == json.loads(json.dumps(result.to_dict("photo")))
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        ["photo.json", content["labels"], content["overlay"]]
    )
    assert np.array_equal(np.asarray(Image.open(path.parent / content["labels"])), result.label_map.numpy())


@pytest.mark.parametrize("given", ["path", "array"])
def test_files_are_called_as_the_image_was(segmenter, tmp_path, given):
    path = tmp_path / "my photo.v2.png"
    Image.fromarray(picture()).save(path)
    result = segmenter(path if given == "path" else picture(), CLASS_NAMES)
    expected = {"path": "my photo.v2.json", "array": "image.json"}[given]
    assert result.save(tmp_path).name == expected
    assert result.to_dict()["image"] == (str(path) if given == "path" else "")


def test_more_classes_than_a_png_can_number_are_refused(result, tmp_path):
    many = replace(result, class_names=tuple(map(str, range(65_536))))
    with pytest.raises(ValueError, match="save: found 65536 classes, a PNG can hold 65535; name fewer"):
        many.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lists_give_lists_by_every_method(segmenter):
    images = [picture(50, 70, 1), Image.fromarray(picture(64, 64, 2)), segmenter.encode(picture(50, 70, 3))]
    for method, names in ((segmenter, CLASS_NAMES), (segmenter.segment, CLASS_NAMES), (segmenter.find, ["cat"])):
        together = method(images, names)
        assert [repr(one) for one in together] == [repr(method(image, names)) for image in images]
        assert [type(one) for one in method(tuple(images[:1]), names)] == [Segmentation]
    assert segmenter([], CLASS_NAMES) == segmenter.encode([]) == []
    assert [one.size for one in segmenter.encode(images[:2])] == [(50, 70), (64, 64)]


@pytest.mark.parametrize("method", ["__call__", "segment", "find", "encode"])
def test_an_error_names_the_argument_and_its_place(segmenter, method):
    names = () if method == "encode" else (CLASS_NAMES,)
    for images, where in (([picture(), None], r"image\[1\]"), ([[picture()]], r"image\[0\]"), (None, "image")):
        with pytest.raises(TypeError, match=f"^{where}: found "):
            getattr(segmenter, method)(images, *names)


def test_class_names_are_checked_before_the_nets_run(segmenter, monkeypatch):
    monkeypatch.setattr(segmenter.proposal_net, "forward", None)
    for method in (segmenter, segmenter.find):
        with pytest.raises(TypeError, match="found one string 'cat'"):
            method(picture(), "cat")
