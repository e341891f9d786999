import itertools

import pytest

from pipeline.drawn_world.world import SCENES_PER_SPLIT, SPLITS, split_indices
from pipeline.prepare.drawn_world import DrawnWorldSource


def test_splits_are_disjoint_at_their_largest():
    ranges = [split_indices(split, SCENES_PER_SPLIT) for split in SPLITS]
    for first, second in itertools.combinations(ranges, 2):
        assert first.stop <= second.start or second.stop <= first.start
    assert {"train", "val", "test", "demo", "clip-pretrain"} <= set(SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_can_be_stored(split):
    indices = split_indices(split, SCENES_PER_SPLIT)
    last = DrawnWorldSource(0, indices.stop - 1, 1)
    assert last.keys() == [f"drawn-{indices.stop - 1:08d}"]


def test_a_split_of_fewer_scenes_is_the_start_of_a_larger_one():
    assert split_indices("val", 3) == split_indices("val", 5)[:3]
    assert len(split_indices("val", 0)) == 0


def test_unknown_split_and_too_many_scenes_are_refused():
    with pytest.raises(ValueError, match=r"split is 'dev', expected one of train, val"):
        split_indices("dev", 1)
    with pytest.raises(ValueError, match=r"scenes is 10000001, 0 to 10000000 is expected"):
        split_indices("train", SCENES_PER_SPLIT + 1)
