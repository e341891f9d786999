"""The fit of proposals equals a brute-force twin that counts pixel by pixel."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.proposal_quality import INSIDE, LIMITS, THRESHOLDS, coco_size, region_fits, regions_of

HEIGHT, WIDTH = 9, 11


def twin(regions, masks, scores, classes, labelled):
    """Sets of pixels, and COCO's matching as its code has it."""
    pixels = {(row, column) for row in range(HEIGHT) for column in range(WIDTH) if labelled[row][column]}
    truths = [{place for place in pixels if region[place]} for region in regions]
    found = [{place for place in pixels if mask[place]} for mask in masks]
    ious = [[len(one & other) / max(1, len(one | other)) for other in found] for one in truths]
    best = [max(range(len(found)), key=lambda place: row[place]) if found else -1 for row in ious]
    order = sorted(range(len(found)), key=lambda place: -scores[place])
    recall = np.zeros((len(truths), len(LIMITS), len(THRESHOLDS)), bool)
    for limit_place, limit in enumerate(LIMITS):
        for place, threshold in enumerate(THRESHOLDS):
            taken: set[int] = set()
            for proposal in order[:limit]:
                iou, match = threshold - 1e-10, -1
                for truth in range(len(truths)):
                    if truth in taken or ious[truth][proposal] < iou:
                        continue
                    iou, match = ious[truth][proposal], truth
                if match >= 0:
                    taken.add(match)
            recall[sorted(taken), limit_place, place] = True
    split, merging = [], []
    for number, truth in enumerate(truths):
        parts = [mask for mask in found if len(mask & truth) >= INSIDE * max(1, len(mask))]
        union = set().union(*parts) & truth
        split.append(len(parts) >= 2 and max(ious[number]) < 0.5 and len(union) >= INSIDE * len(truth))
    for mask in found:
        held = {classes[number] for number, truth in enumerate(truths) if len(mask & truth) >= INSIDE * len(truth)}
        merging.append(len(held) >= 2)
    return {
        "best": best,
        "best_iou": [row[place] if found else 0 for row, place in zip(ious, best, strict=True)],
        "missed_share": [
            1 - len(truth & found[place]) / len(truth) if found else 1
            for truth, place in zip(truths, best, strict=True)
        ],
        "spilled_share": [
            1 - len(truth & found[place]) / len(found[place]) if found and truth & found[place] else float(bool(found))
            for truth, place in zip(truths, best, strict=True)
        ],
        "found": recall,
        "split": split,
        "merging": merging,
        "covered_px": sum(any(place in mask for mask in found) for place in pixels),
        "depth_px": sum(len(mask) for mask in found),
        "labelled_px": len(pixels),
    }


@given(st.integers(0, 2**31), st.integers(0, 14), st.sampled_from([2, 4]))
@settings(max_examples=40)
def test_fits_equal_a_brute_force_twin(seed, count, grain):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (-(-HEIGHT // grain), -(-WIDTH // grain)))
    labels = coarse.repeat(grain, 0).repeat(grain, 1)[:HEIGHT, :WIDTH]
    labelled = rng.random((HEIGHT, WIDTH)) > 0.1
    regions = np.stack([labels == value for value in range(4)])
    kept = (regions & labelled).any(axis=(1, 2))
    regions, classes = regions[kept], np.array([0, 1, 1, 2])[kept]
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask in masks:  # some are regions with a few pixels changed, some are boxes
        if len(regions) and rng.random() < 0.5:
            mask[:] = regions[rng.integers(len(regions))] ^ (rng.random((HEIGHT, WIDTH)) > 0.9)
        else:
            top, left = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
            mask[top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)] = True
    scores = rng.integers(0, 5, count) / 4
    fits = region_fits(
        torch.from_numpy(regions), torch.from_numpy(masks), scores.astype(float), classes, torch.from_numpy(labelled)
    )
    for name, expected in twin(regions, masks, scores, classes, labelled).items():
        np.testing.assert_allclose(getattr(fits, name), expected, atol=1e-12, err_msg=name)


def test_parts_split_a_region_and_a_mask_of_two_classes_merges_them():
    regions = torch.zeros(2, 4, 8, dtype=torch.bool)
    regions[0, :, :4], regions[1, :, 4:] = True, True
    masks = torch.zeros(4, 4, 8, dtype=torch.bool)
    masks[0, :2, :4], masks[1, 2:, :4] = True, True  # halves, which meet the whole with an IoU of 0.5
    masks[2] = True
    masks[3, :, 1:2] = True
    everywhere = torch.ones(4, 8, dtype=torch.bool)
    fits = region_fits(regions, masks, np.ones(4), np.array([3, 5]), everywhere)
    assert fits.split.tolist() == [False, False]
    assert fits.merging.tolist() == [False, False, True, False]
    masks[0, 0, 0] = masks[1, 3, 3] = False
    masks[2, 0, 0] = False
    fits = region_fits(regions, masks[:2], np.ones(2), np.array([3, 5]), everywhere)
    assert fits.split.tolist() == [True, False]
    assert fits.best_iou.tolist() == [7 / 16, 0]


def test_regions_are_classes_or_single_things():
    labels = np.array([[0, 0, 7, 7], [0, 255, 7, 3]])
    found, classes, areas = regions_of(labels, None, 255)
    assert (classes, areas) == ([0, 3, 7], [3, 1, 3])
    assert found.tolist() == [[0, 0, 2, 2], [0, -1, 2, 1]]
    numbers = np.array([[0, 0, 1, 2], [0, 0, 2, 0]])
    found, classes, areas = regions_of(labels, numbers, 255)
    assert (classes, areas) == ([0, 3, 7, 7], [3, 1, 1, 2])
    assert found.tolist() == [[0, 0, 2, 3], [0, -1, 3, 1]]


def test_sizes_are_cocos():
    assert [coco_size(area) for area in (1, 1023, 1024, 9216, 9217)] == ["small", "small", "medium", "medium", "large"]
