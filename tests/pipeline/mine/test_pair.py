"""Step 3 on scenes made by hand: what each noun gets, and why it gets nothing."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.errors import StageError
from pipeline.mine import pair
from pipeline.mine.pair import BestRegion, EmbeddedScene, Pairer, PairJob, RegionCutter, best_regions, cosine_scores
from pipeline.mine.regions import NetSize, SceneAndRegions, SceneRegions
from pipeline.mine.scene_nouns import CaptionNouns, ClassNouns
from pipeline.settings import NounSettings, PairSettings
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.embeddings import KIND, SCHEMA_VERSION, EmbeddingShardWriter, SceneEmbeddings
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import Pair
from storage_schemas.rle import areas_px, boxes_xyxy, encode_masks
from storage_schemas.scenes import Caption, Scene

SIZE = NetSize(20, 40)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
VECTORS = {name: np.eye(4, dtype=np.float32)[row] for row, name in enumerate(("dog", "cat", "photo", "nan"))}
VECTORS["nan"] = np.full(4, np.nan, np.float32)


def scene(*texts: str, image: bytes | None = None, **options) -> Scene:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="PNG")
    captions = tuple(Caption(5 + number, text) for number, text in enumerate(texts))
    known = {"image_suffix": "png", "width_px": 30, "height_px": 20, "captions": captions}
    return Scene(key="a", image_id="7", image=buffer.getvalue() if image is None else image, **known | options)


def regions() -> SceneRegions:
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:6, 3:9] = True
    masks[0, 3, 4] = False
    masks[1, :10] = True
    masks[2, 5:] = True
    counts = encode_masks(masks)
    return SceneRegions(
        indices=np.array([1, 4, 9], np.int32),
        height_px=20,
        width_px=30,
        mask_counts=counts,
        areas_px=areas_px(counts, 20, 30),
        boxes_xyxy=boxes_xyxy(counts, 20, 30),
    )


def embedded(of: Scene, *vectors: tuple[float, ...], statuses: tuple[str, ...] = ("ok",) * 3) -> EmbeddedScene:
    values = np.array(vectors or [(0.9, 0.1, 0.2, 0), (0.5, 0.7, 0.2, 0), (0.5, 0.7, 0.1, 0)], np.float16)
    found = SceneEmbeddings(
        key="a", regions=regions().indices, statuses=statuses, reasons=("",) * len(statuses), embeddings=values
    )
    return EmbeddedScene(of, regions(), found)


def without_regions(of: Scene, status: str) -> EmbeddedScene:
    nothing = np.zeros((0, 1), np.float16)
    found = SceneEmbeddings(
        key="a",
        regions=np.zeros(0, np.int32),
        statuses=(),
        reasons=(),
        embeddings=nothing,
        scene_status=status,
        scene_reason="because",
    )
    return EmbeddedScene(of, SceneRegions.none(status, "because"), found)


def pairer(captions: int = 1, **settings) -> Pairer:
    return Pairer(CaptionNouns(NounSettings(), captions), VECTORS, PairSettings(**settings), SIZE)


def test_rows_say_where_everything_comes_from():
    dog, cat = pairer(captions=2).pairs(embedded(scene("two dogs", "a cat and a dog")))
    assert (dog.noun, dog.noun_text, dog.noun_start, dog.noun_end, dog.caption_id) == ("dog", "dogs", 4, 8, 5)
    assert (cat.noun, cat.noun_start, cat.caption_id) == ("cat", 2, 6)
    assert (dog.region, cat.region) == (1, 4)  # of equal scores the lower query
    assert dog.score == pytest.approx(0.9, abs=1e-3)
    assert dog.margin == pytest.approx(0.4, abs=1e-3)
    assert (cat.margin, dog.rank, cat.rank) == (0.0, 0, 1)
    assert (dog.height_px, dog.width_px, dog.area_px, dog.box_xyxy) == (20, 30, 23, (3, 2, 9, 6))
    assert dog.mask_counts == regions().mask_counts[0]


def test_rows_hold_the_text_of_their_caption_in_which_the_spans_count():
    texts = ("two\u00ad dogs\u200bhere", "a cat and a dog")
    dog, cat = pairer(captions=2).pairs(embedded(scene(*texts)))
    assert (dog.caption, cat.caption) == texts
    assert [pair.caption[pair.noun_start : pair.noun_end] for pair in (dog, cat)] == ["dogs", "cat"]
    (failed,) = pairer().pairs(without_regions(scene("a dog"), "no_proposals"))
    assert failed.caption == "a dog"


def test_members_are_the_box_unmasked_and_the_mask_inside_it():
    (dog,) = pairer().pairs(embedded(scene("a dog")))
    assert dog.crop_suffix == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(dog.crop))), PIXELS[2:6, 3:9])
    mask = np.asarray(Image.open(io.BytesIO(dog.crop_mask_png)))
    assert mask.dtype == np.uint8
    expected = np.full((4, 6), 255)
    expected[1, 1] = 0
    np.testing.assert_array_equal(mask, expected)


def test_crops_may_be_jpeg():
    (dog,) = pairer(crop_format="jpg").pairs(embedded(scene("a dog")))
    assert dog.crop_suffix == "jpg"
    decoded = Image.open(io.BytesIO(dog.crop))
    assert decoded.format == "JPEG"
    assert np.abs(np.asarray(decoded).astype(int) - PIXELS[2:6, 3:9]).mean() < 5


@pytest.mark.parametrize(
    ("size", "stored"), [((600, 900), (256, 384)), ((1200, 300), (1024, 256)), ((99, 999), (99, 999))]
)
def test_small_crops_keep_their_aspect_and_a_pixel_of_a_thin_mask(size, stored):
    cutter = RegionCutter(Image.new("RGB", (1300, 1300), (10, 200, 60)), PairSettings(crop_format="jpg-256"))
    width, height = size
    mask = np.zeros((1, 1300, 1300), bool)
    mask[0, 100 : 100 + height, 50] = mask[0, 100, 50 : 50 + width] = True
    mask[0, 99 + height, 49 + width] = True
    (counts,), box = encode_masks(mask), (50, 100, 50 + width, 100 + height)
    pair = Pair(
        pair="", key="a", image_id="a", region=3, height_px=1300, width_px=1300, mask_counts=counts, box_xyxy=box
    )
    made = cutter.completed(pair)
    crop, stored_mask = (Image.open(io.BytesIO(file)) for file in (made.crop, made.crop_mask_png))
    assert (made.crop_suffix, crop.format) == ("jpg", "JPEG")
    assert crop.size == stored_mask.size == stored
    assert set(np.unique(stored_mask).tolist()) == {0, 255}


def test_class_names_keep_their_own_region_though_another_is_nearer():
    names = ["x"] * 10
    names[1], names[4], names[9] = "cat", "dog", "photo"
    job = Pairer(ClassNouns(tuple(names)), VECTORS, PairSettings(), SIZE)
    found = job.pairs(embedded(scene()))
    assert [(pair.noun, pair.region, pair.caption_id) for pair in found] == [
        ("cat", 1, None),
        ("dog", 4, None),
        ("photo", 9, None),
    ]
    assert [round(pair.margin, 2) for pair in found] == [-0.6, -0.4, -0.1]
    assert [pair.caption for pair in found] == [None, None, None]


def test_thresholds_leave_rows_with_reasons():
    rows = pairer(min_score=0.5, min_area_share=0.1).pairs(embedded(scene("photo of a dog and a cat")))
    assert [(row.noun, row.status) for row in rows] == [
        ("photo", "score_below_min"),
        ("dog", "area_below_min"),
        ("cat", "ok"),
    ]
    assert rows[0].reason == "the score 0.2000 is below 0.5"
    assert rows[1].reason == "the mask fills 3.8333% of the picture, below 10.0000%"
    assert rows[0].score is not None
    assert [bool(row.crop) for row in rows] == [False, False, True]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (embedded(scene("a dog", status="image_truncated", reason="early")), [("", "image_truncated", "early")]),
        (embedded(scene()), [("", "no_caption", "the scene has no caption")]),
        (embedded(scene("is it?")), [("", "no_noun", "no noun is found in 'is it?'")]),
        (
            without_regions(scene("a dog and a cat"), "no_proposals"),
            [("dog", "no_proposals", "because"), ("cat", "no_proposals", "because")],
        ),
        (
            embedded(scene("a dog"), statuses=("embedding_not_finite",) * 3),
            [("dog", "score_not_finite", "no region of the scene has a finite score for the noun")],
        ),
        (
            embedded(scene("a dog"), *[(np.nan,) * 4] * 3),
            [("dog", "score_not_finite", "no region of the scene has a finite score for the noun")],
        ),
    ],
)
def test_what_cannot_be_paired_is_a_row_with_a_reason(given, expected):
    assert [(row.noun, row.status, row.reason) for row in pairer().pairs(given)] == expected


def test_a_region_that_is_not_finite_is_passed_over():
    vectors = [(np.nan, 0, 0, 0), (0.3, 0, 0, 0), (0.2, 0, 0, 0)]
    (dog,) = pairer().pairs(embedded(scene("a dog"), *vectors))
    assert (dog.status, dog.region) == ("ok", 4)


def test_a_picture_that_cannot_be_decoded_any_more_is_reported():
    (dog,) = pairer().pairs(embedded(scene("a dog", image=b"\x89PNG")))
    assert dog.status == "image_undecodable"


class _Fixed:
    """A source of one scene."""

    def __init__(self, of: Scene) -> None:
        self.scenes = None
        self.size = SIZE
        self._of = of

    def read(self, unit):
        yield SceneAndRegions(self._of, regions())


def test_embeddings_of_other_regions_are_refused(tmp_path, monkeypatch):
    identity = Identity(kind=KIND, name="a", schema_version=SCHEMA_VERSION, producer_version=1, settings={})
    artifact = Artifact.planned(tmp_path, Description(identity=identity, units=("shard-00000",)))
    with artifact.writing(), artifact.write_unit("shard-00000") as unit:
        writer = EmbeddingShardWriter(unit, embedding_dim=4)
        writer.add(
            SceneEmbeddings(
                key="a",
                regions=np.array([3], np.int32),
                statuses=("ok",),
                reasons=("",),
                embeddings=np.zeros((1, 4), np.float16),
            )
        )
        writer.commit()
    job = PairJob(
        regions=_Fixed(scene("a dog")),
        embeddings=artifact,
        nouns=CaptionNouns(NounSettings(), 1),
        texts=None,
        settings=PairSettings(),
        compute=WorkerCompute(decode_threads=3),
    )
    taken = []
    monkeypatch.setattr(pair, "use_threads", lambda setting, *, processes: taken.append((setting, processes)))
    target = Artifact.planned(
        tmp_path,
        Description(
            identity=Identity(kind="pairs", name="a", schema_version=1, producer_version=1, settings={}),
            units=("shard-00000",),
        ),
    )
    with target.writing(), pytest.raises(StageError, match="1 embeddings of 'a' where 3 regions of 'a' are expected"):
        job.run(job.open(), target, "shard-00000")
    assert taken == [(3, 1)]  # threads, and processes that share the cores


def naive(scores, usable, given_places):
    """One noun at a time, one region at a time."""
    chosen = []
    for noun, place in enumerate(given_places):
        candidates = [
            (score, -region)
            for region, score in enumerate(scores[noun].tolist())
            if usable[region] and math.isfinite(score)
        ]
        if place is not None:
            candidates_here = [one for one in candidates if -one[1] == place]
        else:
            candidates_here = sorted(candidates, reverse=True)[:1]
        if not candidates_here:
            chosen.append(None)
            continue
        score, region = candidates_here[0][0], -candidates_here[0][1]
        others = [one for one, other in candidates if -other != region]
        chosen.append((region, score, score - max(others) if others else None))
    order = sorted(
        (noun for noun, one in enumerate(chosen) if one is not None), key=lambda noun: (-chosen[noun][1], noun)
    )
    return [
        None
        if one is None
        else BestRegion(
            one[0],
            float(np.float32(one[1])),
            None if one[2] is None else float(np.float32(one[2])),
            order.index(noun),
        )
        for noun, one in enumerate(chosen)
    ]


# A few values only, so that ties are common.
_SCORE = st.sampled_from([-0.5, 0.0, 0.25, 0.3, 1.0, math.nan, math.inf, -math.inf])


@given(st.data(), st.integers(0, 4), st.integers(0, 5))
def test_equals_the_naive_twin(data, nouns, regions):
    scores = data.draw(arrays(np.float64, (nouns, regions), elements=_SCORE))
    usable = data.draw(arrays(np.bool_, regions))
    place = st.none() if regions == 0 else st.none() | st.integers(0, regions - 1)
    places = data.draw(st.lists(place, min_size=nouns, max_size=nouns))
    assert best_regions(scores, usable, places) == naive(scores, usable, places)


def test_of_equal_scores_the_lowest_query_wins():
    (best,) = best_regions(np.array([[0.1, 0.4, 0.4]]), np.ones(3, bool), [None])
    assert best == BestRegion(1, float(np.float32(0.4)), 0.0, 0)


def test_scores_are_cosines_whatever_the_batch():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(7, 96)).astype(np.float32)
    images = rng.normal(size=(11, 96)).astype(np.float16)
    scores = cosine_scores(texts, images)
    np.testing.assert_allclose(scores, texts.astype(float) @ images.astype(float).T, rtol=1e-12)
    np.testing.assert_array_equal(scores[2:5], cosine_scores(texts[2:5], images))
