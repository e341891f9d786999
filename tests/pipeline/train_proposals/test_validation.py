"""The counts of a validation, next to their plain definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmentation_metrics import region_ious
from pipeline.train_proposals.validation import Counts, Validation
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection
from tests.pipeline.planned import prepare_scenes, scenes_of
from tests.pipeline.train_proposals.tiny_training import tiny_settings
from tests.tiny_segmenter import PROPOSAL_NET


@given(seed=st.integers(0, 999), masks=st.integers(1, 4), regions=st.integers(1, 3))
@settings(deadline=None)
def test_ious_are_shared_over_united_pixels(seed: int, masks: int, regions: int) -> None:
    random = np.random.default_rng(seed)
    some, others = random.random((masks, 3, 4)) < 0.5, random.random((regions, 3, 4)) < 0.4
    found = region_ious(torch.from_numpy(others), torch.from_numpy(some)).numpy()
    for region, mask in np.ndindex(regions, masks):
        united = (others[region] | some[mask]).sum()
        expected = (others[region] & some[mask]).sum() / united if united else 0
        assert found[region, mask] == pytest.approx(expected)


def counts_of(confusion: list[list[int]], best: list[float], found: list[int], regions: list[int]) -> Counts:
    return Counts(*(torch.tensor(values, dtype=torch.float64) for values in (confusion, best, found, regions)))


def test_figures_follow_from_counts() -> None:
    # class 2 is predicted but never there; class 3 neither
    confusion = [[6, 2, 0, 0], [0, 8, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    counts = counts_of(confusion, [1.5, 0.4, 0, 0], [2, 0, 0, 0], [2, 1, 0, 0])
    figures = counts.figures({"seen": [0, 3], "unseen": [1, 2]})
    assert figures["miou"] == pytest.approx((6 / 8 + 8 / 14) / 3)
    assert figures["miou_seen"] == pytest.approx(6 / 8)
    assert figures["miou_unseen"] == pytest.approx(8 / 14 / 2)
    assert figures["best_iou"] == pytest.approx((0.75 + 0.4) / 2)
    assert figures["best_iou_unseen"] == pytest.approx(0.4)
    assert figures["recall_50"] == pytest.approx(2 / 3)
    assert counts.figures({"none": [3]})["best_iou_none"] == 0
    assert set(Counts.none(2).figures({}).values()) == {0.0}


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    runs = tiny_settings(tmp_path_factory.mktemp("runs"))
    prepare_scenes(runs, ["val"])
    scenes = SceneCollection(scenes_of(runs, "val"), labelled=True)
    torch.manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(54, PROPOSAL_NET["embedding_dim"]), dim=1)
    return Validation(scenes, embeddings, 255, short_side_px=64, max_side_px=64)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_proposal_net(**PROPOSAL_NET).eval()


@torch.no_grad()
def test_counts_are_those_of_the_plain_way(validation: Validation) -> None:
    found = validation.counts(net(), range(len(validation.scenes)))
    confusion, best = np.zeros((54, 54)), np.zeros(54)
    for number in range(len(validation.scenes)):
        image, label_map, _ = read_labelled(validation.scenes, number)
        output = net()(net().preprocess([torch.from_numpy(np.array(image)).permute(2, 0, 1)]))
        logits = torch.nn.functional.interpolate(output.mask_logits, size=(64, 64), mode="bilinear")[0]
        scores = net().class_logits(output.proposal_embeddings[0], validation.text_embeddings).softmax(-1)[:, :-1]
        predicted = torch.einsum("qc,qhw->chw", scores, logits.sigmoid()).argmax(0).numpy()
        np.add.at(confusion, (label_map.flatten(), predicted.flatten()), 1)
        for index in np.unique(label_map):
            true = label_map == index
            ious = [(mask & true).sum() / max(1, (mask | true).sum()) for mask in (logits > 0).numpy()]
            best[index] += max(ious)
    np.testing.assert_array_equal(found.confusion.numpy(), confusion)
    np.testing.assert_allclose(found.best_iou.numpy(), best, rtol=1e-6)
    np.testing.assert_array_equal(found.regions.numpy() > 0, confusion.sum(1) > 0)
    assert found.found.sum() <= found.regions.sum()


def test_counts_of_parts_add_up(validation: Validation) -> None:
    whole = validation.counts(net(), range(5)).flat()
    parts = sum(validation.counts(net(), range(rank, 5, 2)).flat() for rank in range(2))
    torch.testing.assert_close(parts, whole)
    again = Counts.from_flat(whole, 54)
    torch.testing.assert_close(again.flat(), whole, rtol=0, atol=0)
