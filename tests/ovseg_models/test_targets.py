import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg_models.targets import Targets, pack_targets, targets_from_label_map

CPU = torch.device("cpu")


@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_one_mask_per_present_class(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    label_map = torch.randint(0, 6, (height, width), generator=generator)
    label_map[label_map == 5] = 255
    targets = targets_from_label_map(label_map, ignore_label=255)
    assert targets.class_ids.tolist() == sorted(set(label_map.flatten().tolist()) - {255})
    for class_id, mask in zip(targets.class_ids, targets.masks, strict=True):
        assert torch.equal(mask, label_map == class_id)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64])
def test_label_maps_of_every_integer_type(dtype):
    label_map = torch.tensor([[0, 3], [3, 200]]).to(dtype)
    targets = targets_from_label_map(label_map, ignore_label=200)
    assert targets.class_ids.tolist() == [0, 3]
    assert targets.masks.tolist() == [[[True, False], [False, False]], [[False, True], [True, False]]]


def test_all_ignored_gives_no_target():
    targets = targets_from_label_map(torch.full((4, 5), 65535), ignore_label=65535)
    assert targets.class_ids.shape == (0,)
    assert targets.masks.shape == (0, 4, 5)


def test_ignored_pixels_count_as_background_unless_they_are_left_out():
    label_map = torch.tensor([[0, 255], [3, 3]])
    assert targets_from_label_map(label_map, ignore_label=255).counted is None
    left_out = targets_from_label_map(label_map, ignore_label=255, ignored_are_background=False)
    assert left_out.counted.tolist() == [[True, False], [True, True]]
    assert left_out.class_ids.tolist() == [0, 3]


def test_packing_leaves_padding_out_where_ignored_pixels_are_left_out():
    label_map = torch.tensor([[0, 255, 0, 0], [0, 0, 0, 0]])
    plain = targets_from_label_map(label_map, ignore_label=255)
    left_out = targets_from_label_map(label_map, ignore_label=255, ignored_are_background=False)
    size = {"image_size": (4, 4), "mask_size": (2, 2), "num_classes": 1, "device": CPU}
    assert pack_targets([plain, plain], **size).counted is None
    batch = pack_targets([left_out, plain], **size)
    assert batch.counted[0].tolist() == [[1, 0, 1, 1], [1] * 4, [0] * 4, [0] * 4]
    assert batch.counted_small.tolist() == [[[1, 1], [0, 0]], [[1, 1], [1, 1]]]
    assert batch.counted[1].all()


def test_negative_labels_are_refused():
    with pytest.raises(ValueError, match="label -1 is in the map"):
        targets_from_label_map(torch.tensor([[0, -1]]), ignore_label=255)


def test_packing_pads_orders_and_subsamples():
    first = targets_from_label_map(torch.tensor([[1, 1, 2], [1, 2, 2]]), ignore_label=255)
    none = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=torch.bool))
    third = targets_from_label_map(torch.full((4, 4), 7), ignore_label=255)
    batch = pack_targets([first, none, third], image_size=(4, 4), mask_size=(2, 2), num_classes=8, device=CPU)
    assert batch.counts == (2, 0, 1)
    assert batch.class_ids.tolist() == [1, 2, 7]
    assert batch.masks[0].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert batch.class_slots.tolist() == [[1, 2], [0, 0], [7, 0]]
    assert batch.mask_slots[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]  # every second pixel, from the first
    assert not batch.mask_slots[1].any()
    assert batch.mask_slots[2].tolist() == [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def test_targets_outside_vocabulary_or_image_are_refused():
    targets = targets_from_label_map(torch.full((4, 6), 3), ignore_label=255)
    with pytest.raises(ValueError, match="image 0: class id 3 is not in the vocabulary of 3 names"):
        pack_targets([targets], image_size=(4, 6), mask_size=(1, 2), num_classes=3, device=CPU)
    with pytest.raises(ValueError, match="masks are 4 x 6 px, at most the net's input of 4 x 4 px"):
        pack_targets([targets], image_size=(4, 4), mask_size=(1, 1), num_classes=4, device=CPU)
