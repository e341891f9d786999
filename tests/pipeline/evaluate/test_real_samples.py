"""CamVid as a folder, ADE20K and VOC, with ViT-B/16 at true size and random weights: one image of each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_models.proposal_presets import build_proposal_net
from pipeline.evaluate.counts import Scores
from pipeline.evaluate.evaluate import evaluate
from pipeline.planning import plan_of_proposal_net
from pipeline.settings import Settings
from pipeline.stage_inputs import prepare_missing
from storage_schemas.reports import read_numbers
from tests.pipeline.evaluate.small_world import write_net
from tests.pipeline.prepare.layouts import SHARED_DATA

pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} with the real samples is absent")

FORMATS = SHARED_DATA / "format-samples"
DATASETS = {
    "camvid": ("folder", "", SHARED_DATA / "folder-sample" / "camvid", {}, 11),
    "ade20k-150": ("ade20k-150", "val", FORMATS / "ADEChallengeData2016", {}, 150),
    "voc": ("pascal-voc-20", "val", FORMATS / "VOCdevkit" / "VOC2012", {"voc_labels": "SegmentationClass"}, 20),
}


def real_settings(runs: Path, *, limit: int = 1, **evaluate_settings) -> Settings:
    """Settings with the paper's smaller CLIP, of random weights."""
    datasets = {
        name: {"dataset": dataset, "split": split, "root": str(root), "limit": limit, **options}
        for name, (dataset, split, root, options, _) in DATASETS.items()
    }
    section = {"clip": "original", "datasets": [{"dataset": name} for name in DATASETS], "bootstrap_rounds": 20}
    return Settings.model_validate(
        {
            "name": "real",
            "runs_dir": str(runs),
            "datasets": datasets,
            "clip": {"architecture": "ViT-B-16", "pretrained": "random"},
            "proposal_net": {"dataset": "camvid"},
            "evaluate": section
            | {"short_side_px": 96, "max_side_px": 256, "prompt_templates": "single"}
            | evaluate_settings,
        }
    )


@pytest.mark.slow
def test_real_samples_are_scored_at_true_size_of_the_nets(tmp_path):
    settings = real_settings(tmp_path)
    prepare_missing(settings, settings.datasets)
    torch.manual_seed(0)
    write_net(plan_of_proposal_net(settings).artifact, build_proposal_net("small", embedding_dim=512, queries=3))
    report = evaluate(settings)
    numbers = {entry["dataset"]: entry for entry in read_numbers(report.artifact)["datasets"]}
    for name, (*_, classes) in DATASETS.items():
        assert (numbers[name]["images"], numbers[name]["classes_total"], numbers[name]["failed"]) == (1, classes, {})
        scores = Scores(report.scores[name].artifact)
        (image,) = scores.images()
        confusion = scores.confusion("ensemble")
        assert confusion.sum() == image.labelled_px > 10_000
        assert np.trace(confusion) == image.correct_px
    marks = {entry["mark"] for entry in numbers["camvid"]["classes"]}
    assert marks == {"seen", "unseen", "uncertain"} or "seen" in marks
