"""What the page shows is what the segmenter says, and other names for a photograph run no image model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from flows.photo_app.answers import PICTURES_MAX, TABLE_HEADERS, answer
from flows.photo_app.encoded_images import EncodedImages
from flows.photo_app.questions import Question, QuestionError
from ovseg_models.overlay import palette
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


def painted(result):
    """The segmenter's own overlay without its legend."""
    return result.overlay().crop((0, 0, *PHOTOGRAPH.size)).tobytes()


def test_overlay_and_legend_are_the_segmenters(segmenter, images):
    found = answer(asked(), segmenter, images)
    result = segmenter.segment(PHOTOGRAPH, CLASS_NAMES)
    assert found.overlay.size == PHOTOGRAPH.size
    assert found.overlay.tobytes() == painted(result)
    shares = {name: float((result.label_map == index).float().mean()) for index, name in enumerate(CLASS_NAMES)}
    assert {entry.name: entry.share for entry in found.legend} == pytest.approx(
        {name: share for name, share in shares.items() if share}
    )
    assert [entry.share for entry in found.legend] == sorted((entry.share for entry in found.legend), reverse=True)
    for entry in found.legend:
        assert entry.colour == tuple(palette(5)[CLASS_NAMES.index(entry.name)].tolist())


def test_the_legend_of_found_things_leaves_the_rest_out(segmenter, images):
    found = answer(asked("cat", find=True), segmenter, images)
    share = float((segmenter.find(PHOTOGRAPH, ["cat"]).label_map == 0).float().mean())
    assert [(entry.name, entry.share) for entry in found.legend] == [("cat", pytest.approx(share))]
    assert 0 < share < 1


def test_finding_shows_one_mask_for_each_thing_found(segmenter, images):
    found = answer(asked("cat", find=True), segmenter, images)
    result = segmenter.find(PHOTOGRAPH, ["cat"])
    assert len(found.rows) == 1
    assert found.message.startswith("1 mask for 1 name, ")
    assert found.overlay.tobytes() == painted(result)


def test_a_photograph_without_a_mask_is_an_answer_too():
    segmenter = tiny_segmenter(mask_threshold=0.999999999)
    found = answer(asked("cat", "dog"), segmenter, EncodedImages(segmenter, limit_bytes=1))
    assert (found.rows, found.pictures) == ((), ())
    assert found.message.startswith("0 masks for 2 names")


def test_pictures_of_large_photographs_are_small(segmenter, images):
    found = answer(asked("cat", photograph=Image.fromarray(picture(500, 1000))), segmenter, images)
    assert {shown.size for shown, _ in found.pictures} == {(480, 240)}


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
        assert one.overlay.tobytes() == other.overlay.tobytes()


def test_a_name_that_clip_does_not_know_is_refused_and_one_known_in_part_gives_a_warning(segmenter, images):
    with pytest.raises(QuestionError, match=r"knows no word of \['excavator'\].*it knows boat, cat, dog"):
        answer(asked("cat", "excavator"), segmenter, images)
    assert "Warning: " in (printed := answer(asked("striped cat", "dog"), segmenter, images).message)
    assert "'striped cat' without striped" in printed
    assert "Warning" not in answer(asked("cat", "dog"), segmenter, images).message
