"""Stages 2 and 4 as a whole, and both validations, on a CUDA device without numbers (tests/fake_cuda.py).

What they write has no meaning here. That they run means that no operand lies on another device than its fellows, from
decoded pictures to stored rows. Backward passes, which don't work here, are no part of these stages.
"""

from concurrent.futures import Future
from typing import get_args

import numpy as np
import pytest
import torch

from ovseg_models.encoding import embed_crops, propose
from ovseg_models.precision import autocast
from ovseg_models.run_lengths import RunLengths, run_lengths
from pipeline import ordered_threads, worker_device
from pipeline.finetune import validation as crop_validation
from pipeline.mine import proposer
from pipeline.settings import Precision
from pipeline.stages import run
from pipeline.train_proposals import validation as proposal_validation
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes
from tests.fake_cuda import CUDA, FakeCuda
from tests.pipeline.evaluate.small_world import DRAWN, scores_on, settings_of, small_net, write_net
from tests.pipeline.evaluate.test_jobs import predictions_of
from tests.pipeline.mine.mining_world import mining_settings, pair_rows, with_net
from tests.pipeline.planned import artifact_of, prepare_scenes, scenes_of
from tests.pipeline.train_proposals.tiny_training import tiny_settings
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class InTurn:
    """Runs in the caller's thread what `in_threads` would run in others, which don't see the device."""

    def __init__(self, max_workers):
        del max_workers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def fake_cuda(monkeypatch):
    """The device, and all workers on it."""
    monkeypatch.setattr(ordered_threads, "ThreadPoolExecutor", InTurn)
    monkeypatch.setattr(worker_device, "chosen_device", lambda *_: CUDA)
    return FakeCuda()


@pytest.mark.parametrize("precision", get_args(Precision))
@torch.no_grad()
def test_nets_compute_in_the_precision_and_give_single_precision(precision, fake_cuda):
    inside = []
    with fake_cuda:
        segmenter = tiny_segmenter(precision=precision).to(CUDA)
        net, clip = segmenter.proposal_net, segmenter.clip
        net.pixel_decoder.register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))
        mlp = clip.clip.visual.transformer.resblocks[0].mlp
        mlp.register_forward_hook(lambda _module, _inputs, output: inside.append(output.dtype))
        with autocast(CUDA, precision):
            (found,) = propose(net, [torch.from_numpy(picture(64, 90)).permute(2, 0, 1)])
            crops = torch.randn(3, 3, 16, 16, device=CUDA)
            embeddings = embed_crops(clip, crops, torch.ones(3, 16, dtype=torch.bool, device=CUDA), at_once=2)
            texts = segmenter.text_embeddings(CLASS_NAMES)
        segmentation = segmenter.segment(picture(), CLASS_NAMES, return_scores=True)  # in its own precision
    assert set(inside) == {HALF.get(precision, torch.float32)}
    left = (found.mask_logits, found.proposal_embeddings, embeddings, texts, segmentation.query_scores)
    assert {(tensor.dtype, tensor.device) for tensor in left} == {(torch.float32, CUDA)}
    assert segmentation.label_map.shape == (50, 70)


def test_mining_as_a_whole(fake_cuda, tmp_path, monkeypatch):
    def of_full_masks(masks):
        """Run the tensor operations; numbers that don't fit each other, as all are here, are refused after them."""
        run_lengths(masks)
        count, height, width = masks.shape
        return RunLengths(np.tile(np.array([0, height * width]), count), np.full(count, 2))

    monkeypatch.setattr(proposer, "run_lengths", of_full_masks)
    settings = with_net(mining_settings(tmp_path, "precision=bf16", scenes=2))
    with fake_cuda as device:
        report = run("mine", settings)
    assert len(pair_rows(report.artifact)) > 0
    assert device.waits  # it was there that nets computed


def test_evaluation_as_a_whole(fake_cuda, tmp_path):
    # One picture after another goes through the nets: two show what the first leaves for the next.
    drawn = {**DRAWN, "drawn_world": {"scenes": 2}}
    settings = settings_of(tmp_path, datasets={"drawn": drawn}, precision="fp16")
    prepare_scenes(settings, ["drawn"])
    write_net(artifact_of(settings, "proposal_net"), small_net())
    with fake_cuda as device:
        report = run("evaluate", settings)
    predictions = predictions_of(scores_on(report, "drawn"))
    assert len(predictions) == 2
    assert device.waits


def test_both_validations_of_trainings(fake_cuda, tmp_path):
    settings = tiny_settings(tmp_path)
    prepare_scenes(settings, ["val"])
    scenes = SceneCollection(scenes_of(settings, "val"), labelled=True)
    classes = len(ScenesAttributes.of(scenes_of(settings, "val")).class_names)
    with fake_cuda as device:
        segmenter = tiny_segmenter().to(CUDA)
        texts = torch.ones(classes, 16, device=CUDA)
        counts = proposal_validation.Validation(scenes, texts, 255, 64, 128).counts(segmenter.proposal_net, [0, 1])
        clip = segmenter.clip
        named = crop_validation.Validation(scenes, texts, {}, clip.crop)
        zero_shot = named.counts(clip.encode_image, [0, 1])
    assert counts.confusion.device.type == "cpu"
    assert zero_shot.stacked().device.type == "cpu"
    assert device.waits["to the host"] >= 2
