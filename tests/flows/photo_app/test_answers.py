"""What the page shows is what the segmenter says, and other names for a photograph run no image model."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from flows.photo_app.answers import PICTURES_MAX, TABLE_HEADERS, Answer, Step, _painted, answering
from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.questions import Question, QuestionError
from ovseg_models.overlay import name_colours
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

PHOTOGRAPH = Image.fromarray(picture())


@pytest.fixture(scope="module")
def segmenter():
    return tiny_segmenter()


@pytest.fixture
def images(segmenter):
    return EncodedImages(segmenter, limit_bytes=10**9)


def asked(*names, find=False, photograph=PHOTOGRAPH):
    return Question(photograph, names or tuple(CLASS_NAMES), find)


def answer(question, segmenter, images):
    """Go through the steps to the answer."""
    *steps, found = answering(question, segmenter, images)
    assert all(isinstance(step, Step) for step in steps)
    assert isinstance(found, Answer)
    return found


def count_forwards(segmenter, counts):
    """Count calls of the two image models and of the text tower."""
    clip = segmenter.clip.clip
    for name, module in (
        ("net", segmenter.proposal_net),
        ("image tower", clip.visual.ln_post),
        ("text tower", clip.ln_final),
    ):
        counts[name] = 0
        module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))


def test_other_names_for_the_same_photograph_run_no_image_model():
    segmenter, counts = tiny_segmenter(), {}
    images = EncodedImages(segmenter, limit_bytes=10**9)
    count_forwards(segmenter, counts)
    assert "image models" in answer(asked("cat", "dog"), segmenter, images).message
    assert counts == {"net": 1, "image tower": 1, "text tower": 1}
    for find in (False, True):
        found = answer(asked("sky", "boat", find=find, photograph=PHOTOGRAPH.copy()), segmenter, images)
        assert "still in memory" in found.message
    assert counts == {"net": 1, "image tower": 1, "text tower": 2}


def test_rows_are_the_masks_the_best_first(segmenter, images):
    found = answer(asked(), segmenter, images)
    expected = [row for row in segmenter.segment(PHOTOGRAPH, CLASS_NAMES).masks if row.area_px]
    assert 1 < len(expected) == len(found.rows)
    assert found.message.startswith(f"{len(expected)} masks for 5 names, photograph 70 x 50 px (image models ")
    by_number = sorted(expected, key=lambda row: -row.score)
    for number, (shown, row) in enumerate(zip(found.rows, by_number, strict=True), start=1):
        assert len(shown) == len(TABLE_HEADERS)
        assert shown[:3] == (number, row.class_name, f"{row.score:.2f}")
        assert shown[3:5] == (f"{row.proposal_prob:.2f}", f"{row.clip_prob:.2f}")
        assert shown[5:] == (f"{100 * row.area_px / 3500:.1f}%", "{}, {}, {}, {}".format(*row.box_xyxy))


def test_pictures_show_the_masks_and_fade_the_rest(segmenter, images):
    found = answer(asked(), segmenter, images)
    result = segmenter.segment(PHOTOGRAPH, CLASS_NAMES)
    masks = result.hard_masks().numpy()
    rows = sorted((row for row in result.masks if row.area_px), key=lambda row: -row.score)
    assert len(found.pictures) == min(len(rows), PICTURES_MAX)
    original = np.asarray(PHOTOGRAPH)
    for (shown, caption), (number, row) in zip(found.pictures, enumerate(rows, start=1), strict=True):
        assert caption == f"{number}. {row.class_name} {row.score:.2f}"
        pixels, inside = np.asarray(shown), masks[row.query]
        assert np.array_equal(pixels[inside], original[inside])
        assert pixels[~inside].min(initial=255) >= 209


def shares_of(result):
    """Return the share of each name by the result's own label map."""
    return {name: float((result.label_map == index).float().mean()) for index, name in enumerate(result.class_names)}


def test_paint_and_legend_are_the_segmenters(segmenter, images):
    found = answer(asked(), segmenter, images)
    result = segmenter.segment(PHOTOGRAPH, CLASS_NAMES)
    assert found.paint.size == PHOTOGRAPH.size
    colours = name_colours(CLASS_NAMES)
    assert np.array_equal(np.asarray(found.paint.convert("RGB")), colours[result.label_map.numpy()])
    assert {entry.name: entry.share for entry in found.legend} == pytest.approx(shares_of(result))
    assert [entry.share for entry in found.legend] == sorted((entry.share for entry in found.legend), reverse=True)
    for entry in found.legend:
        assert entry.colour == tuple(colours[CLASS_NAMES.index(entry.name)].tolist())


def test_a_name_keeps_its_colour_whatever_else_is_named(segmenter, images):
    colours = [
        {entry.name: entry.colour for entry in answer(asked(*names), segmenter, images).legend}
        for names in (("cat", "dog"), ("dog", "sky", "cat"), ("cat dog", "boat", "grass", "dog", "cat"))
    ]
    for name in ("cat", "dog"):
        assert len({each[name] for each in colours}) == 1


def test_what_is_not_found_is_clear_and_stays_listed(segmenter, images):
    found = answer(asked("cat", find=True), segmenter, images)
    labels = segmenter.find(PHOTOGRAPH, ["cat"]).label_map.numpy()
    assert [(entry.name, entry.share) for entry in found.legend] == [("cat", pytest.approx((labels == 0).mean()))]
    assert 0 < found.legend[0].share < 1
    alpha = np.asarray(found.paint.convert("RGBA"))[..., 3]
    assert np.array_equal(alpha, np.where(labels < 0, 0, 255))
    nothing = tiny_segmenter(mask_threshold=0.999999999)
    found = answer(asked("cat", "dog", find=True), nothing, EncodedImages(nothing, limit_bytes=1))
    assert [(entry.name, entry.share) for entry in found.legend] == [("cat", 0), ("dog", 0)]
    assert not np.asarray(found.paint.convert("RGBA"))[..., 3].any()


def test_the_paint_of_more_classes_than_a_palette_holds_is_right_too(segmenter, images):
    height, width = 40, 50
    result = segmenter.segment(PHOTOGRAPH, ["cat", "dog"])
    names = [f"cat {index}" for index in range(400)]
    labels = torch.arange(height * width).reshape(height, width) % 401 - 1
    paint, legend = _painted(dataclasses.replace(result, class_names=tuple(names), label_map=labels), names, segmenter)
    rgba = np.asarray(paint.convert("RGBA"))
    assert np.array_equal(rgba[..., 3], np.where(labels.numpy() < 0, 0, 255))
    assert np.array_equal(rgba[labels.numpy() >= 0][:, :3], name_colours(names)[labels.numpy()[labels.numpy() >= 0]])
    assert len(legend) == 400
    assert legend[0].unread == ("0",)


def test_steps_are_reported_while_models_work_and_while_another_photograph_is_encoded(segmenter, monkeypatch):
    monkeypatch.setattr("flows.photo_app.answers._SECONDS_BETWEEN_STEPS", 0.01)
    free, images = threading.Event(), EncodedImages(segmenter, limit_bytes=10**9)
    encode = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda image: (free.wait(60), encode(image))[1])
    first, second = (
        answering(asked("cat", photograph=Image.fromarray(picture(seed=seed))), segmenter, images) for seed in (5, 6)
    )
    while "both image models look at 70 x 50 px" not in (step := next(first)).text:
        assert step.number == 2
    while "another photograph is being encoded before this one" not in (step := next(second)).text:
        assert step.number == 2
    free.set()
    for steps in (first, second):
        *texts, found = steps
        assert next(step for step in texts if step.number == 3).text.startswith("1 name for 70 x 50 px")
        assert len(found.rows) > 1


def test_finding_shows_one_mask_for_each_thing_found(segmenter, images):
    found = answer(asked("cat", find=True), segmenter, images)
    result = segmenter.find(PHOTOGRAPH, ["cat"])
    assert len(found.rows) == 1
    assert found.message.startswith("1 mask for 1 name, ")
    assert len(result.found_masks) == 1


def test_a_photograph_without_a_mask_is_an_answer_too():
    segmenter = tiny_segmenter(mask_threshold=0.999999999)
    found = answer(asked("cat", "dog"), segmenter, EncodedImages(segmenter, limit_bytes=1))
    assert (found.rows, found.pictures) == ((), ())
    assert found.message.startswith("0 masks for 2 names")


def test_pictures_of_large_photographs_are_small_and_all_else_has_their_own_size(segmenter, images):
    found = answer(asked("cat", photograph=Image.fromarray(picture(500, 2000))), segmenter, images)
    assert {shown.size for shown, _ in found.pictures} == {(480, 120)}
    assert found.paint.size == (2000, 500)
    assert found.result.label_map.shape == (500, 2000)
    assert "photograph 2000 x 500 px" in found.message


def test_users_at_once_get_their_own_answers(segmenter, images):
    questions = [
        asked(*names, photograph=Image.fromarray(picture(seed=seed)))
        for seed in range(3)
        for names in (("cat", "dog"), ("sky", "grass", "boat"))
    ]
    alone = [answer(question, segmenter, images) for question in questions]
    fresh = EncodedImages(segmenter, limit_bytes=1)  # always full: each pushes the others out
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda question: answer(question, segmenter, fresh), questions * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert one.rows == other.rows
        assert one.paint.tobytes() == other.paint.tobytes()


def test_a_name_that_clip_does_not_know_is_refused_and_one_known_in_part_gives_a_warning(segmenter, images):
    with pytest.raises(QuestionError, match=r"knows no word of \['excavator'\].*it knows boat, cat, dog"):
        answer(asked("cat", "excavator"), segmenter, images)
    found = answer(asked("striped cat", "dog"), segmenter, images)
    assert "'striped cat' without striped" in found.warning
    assert {entry.name: entry.unread for entry in found.legend} == {"striped cat": ("striped",), "dog": ()}
    assert not answer(asked("cat", "dog"), segmenter, images).warning
