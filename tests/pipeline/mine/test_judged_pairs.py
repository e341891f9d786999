"""Which pairs are right by the labels, and precision against yield, each against its definition."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.mine.judged_pairs import judged_pairs, precision_against_yield, things_named
from pipeline.scenes_of_pairs import scenes_of
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard
from tests.pipeline.mine.mining_world import pair_rows


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_things_are_the_class_and_its_instances_upright_at_the_pictures_size():
    scene = Scene(
        key="a",
        image_id="1",
        image=b"",
        image_suffix="png",
        width_px=3,
        height_px=1,
        exif_orientation=6,
        label_png=png([[4, 4, 9]]),
        instances_png=png([[1, 2, 0]]),
    )
    things = things_named(scene, 4, 6, 1)[..., 0].tolist()
    assert things == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4, [False] * 2 + [True] * 2 + [False] * 2]
    assert things_named(scene, 5, 6, 1).shape == (0, 6, 1)
    assert len(things_named(scene, 9, 6, 1)) == 1


def test_pairs_are_right_if_their_mask_is_that_of_the_class(drawn_pairs):
    verdicts = judged_pairs(drawn_pairs, scenes_of(drawn_pairs, None))
    scenes = scenes_of(drawn_pairs, None)
    names = ScenesAttributes.of(scenes).class_names
    truths = {scene.key: scene for unit in scenes.description.units for scene in SceneShard(scenes, unit).scenes()}
    rows = [row for row in pair_rows(drawn_pairs) if row["status"] == "ok"]
    assert set(verdicts) == {row["pair"] for row in rows}
    for row in rows:
        if row["noun"] not in names:  # "photo"
            assert verdicts[row["pair"]] is None
            continue
        mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
        labels, instances = (
            np.asarray(Image.open(io.BytesIO(data)))
            for data in (truths[row["key"]].label_png, truths[row["key"]].instances_png)
        )
        of_class = labels == names.index(row["noun"])
        things = [of_class, *(of_class & (instances == number) for number in np.unique(instances) if number)]
        overlaps = [(mask & thing).sum() / (mask | thing).sum() for thing in things if thing.any()]
        assert verdicts[row["pair"]] == (max(overlaps, default=0) >= 0.5)
    assert {True, False} <= set(verdicts.values())


def test_of_many_pictures_some_are_judged_by_lot(drawn_pairs):
    scenes = scenes_of(drawn_pairs, None)
    whole, none = judged_pairs(drawn_pairs, scenes), judged_pairs(drawn_pairs, scenes, most_pictures=0)
    assert whole.keys() == none.keys()
    assert set(none.values()) == {None}
    some = judged_pairs(drawn_pairs, scenes, most_pictures=3)
    assert all(verdict in (None, whole[pair]) for pair, verdict in some.items())
    pictures = {row["pair"]: row["key"] for row in pair_rows(drawn_pairs)}
    judged = {pictures[pair] for pair, verdict in some.items() if verdict is not None}
    assert 0 < len(judged) < len({pictures[pair] for pair, verdict in whole.items() if verdict is not None})


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, float("nan")]), st.booleans()), min_size=1, max_size=12))
def test_precision_is_that_of_all_pairs_above_a_bound(pairs):
    order, right = [value for value, _ in pairs], [verdict for _, verdict in pairs]
    curve = precision_against_yield(order, right)
    known = np.nan_to_num(order, nan=-np.inf)
    bounds = sorted(set(known), reverse=True)
    kept = [[verdict for value, verdict in zip(known, right, strict=True) if value >= bound] for bound in bounds]
    assert curve.precisions.tolist() == pytest.approx([sum(some) / len(some) for some in kept])
    if not any(right):
        assert np.isnan(curve.precision_at(0.6))
        return
    yields = [sum(some) / sum(right) for some in kept]
    assert curve.yields.tolist() == pytest.approx(yields)
    first = next(place for place, share in enumerate(yields) if share >= 0.6 - 1e-9)
    assert curve.precision_at(0.6) == pytest.approx(sum(kept[first]) / len(kept[first]))
