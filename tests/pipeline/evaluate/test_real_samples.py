"""CamVid as a folder, ADE20K and VOC with the paper's smaller proposal net, R101c: random weights, one image each.

There are three queries, so that CLIP sees three crops and not a hundred. With VOC its towers are ViT-B/16's, elsewhere
they have fewer layers: over 1,028 names the true ones take minutes.
"""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from ovseg_models.proposal_presets import build_proposal_net
from pipeline.evaluate.stored_scores import Scores
from pipeline.settings import Settings
from pipeline.stages import StageRun, run
from storage_schemas.reports import html_path, read_numbers
from tests.pipeline.evaluate.small_world import scores_on, write_net
from tests.pipeline.planned import artifact_of, prepare_scenes
from tests.pipeline.prepare.layouts import SHARED_DATA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} with the real samples is absent"),
]

FORMATS = SHARED_DATA / "format-samples"
DATASETS = {
    "camvid": {"dataset": "folder", "root": SHARED_DATA / "folder-sample" / "camvid"},
    "ade20k-150": {"dataset": "ade20k-150", "split": "val", "root": FORMATS / "ADEChallengeData2016"},
    "ade20k-847": {
        "dataset": "ade20k-847",
        "split": "train",  # the sample's images are of this split
        "root": FORMATS / "ADE20K_2021_17_01",
        "reference_resize": True,
    },
    "voc": {
        "dataset": "pascal-voc-20",
        "split": "val",
        "root": FORMATS / "VOCdevkit" / "VOC2012",
        "voc_labels": "SegmentationClass",
    },
}
CLASSES = {"camvid": 11, "ade20k-150": 150, "ade20k-847": 847, "voc": 20}


def evaluated(runs: Path, names: list[str], clip: str) -> StageRun:
    """Evaluate random nets on one image of each data set."""
    document = {
        "name": "real",
        "runs_dir": str(runs),
        "datasets": {name: {**DATASETS[name], "root": str(DATASETS[name]["root"]), "limit": 1} for name in names},
        "clip": {"architecture": clip, "pretrained": "random"},
        "proposal_net": {"dataset": names[0]},
        "evaluate": {
            "clip": "original",
            "datasets": [{"dataset": name} for name in names],
            "short_side_px": 96,
            "max_side_px": 256,
            "prompt_templates": "single",
            "bootstrap_rounds": 20,
        },
    }
    settings = Settings.model_validate(document)
    prepare_scenes(settings, names)
    torch.manual_seed(0)
    write_net(artifact_of(settings, "proposal_net"), build_proposal_net("r101c", queries=3))
    return run("evaluate", settings)


def check(report: StageRun, names: list[str]) -> None:
    """Every labelled pixel of each image is in the confusions, and the report counts as the scores do."""
    numbers = {entry["dataset"]: entry for entry in read_numbers(report.artifact)["datasets"]}
    for name in names:
        shown = numbers[name]
        assert (shown["images"], shown["classes_total"], shown["failed"]) == (1, CLASSES[name], {})
        scores = Scores(scores_on(report, name))
        (image,) = scores.images()
        confusion = scores.confusion("ensemble")
        assert confusion.shape == (CLASSES[name],) * 2
        assert confusion.sum() == image.labelled_px > 10_000
        assert np.trace(confusion) == image.correct_px
        assert [entry["true_px"] for entry in shown["classes"]] == confusion.sum(axis=1).tolist()
    page = html_path(report.artifact).read_text(encoding="utf-8")
    assert all(f"<p>1 image, {CLASSES[name]} classes" in page for name in names)


def test_each_sample_with_few_layers(tmp_path):
    config = open_clip.get_model_config("ViT-B-16")
    config["text_cfg"] |= {"width": 64, "heads": 2, "layers": 1}
    config["vision_cfg"] |= {"layers": 2}
    architecture = tmp_path / "vit-b-16.json"
    architecture.write_text(json.dumps(config))
    names = ["camvid", "ade20k-150", "ade20k-847"]
    report = evaluated(tmp_path / "runs", names, str(architecture))
    check(report, names)
    marks = {
        entry["dataset"]: {row["mark"] for row in entry["classes"]}
        for entry in read_numbers(report.artifact)["datasets"]
    }
    assert {"seen", "unseen"} <= marks["ade20k-150"] & marks["ade20k-847"]


def test_voc_with_both_towers_of_vit_b_16(tmp_path):
    check(evaluated(tmp_path / "runs", ["voc"], "ViT-B-16"), ["voc"])
