"""The device computes what the CPU, the published model and naive twins compute; largest differences are reported."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.amp import GradScaler

from ovseg_models.fusion import fused_labels
from ovseg_models.masked_crops import masked_crops
from ovseg_models.precision import autocast, half_precision
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.published_checkpoints import read_published_checkpoint
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_folder import write_segmenter_folder
from ovseg_models.word_tokenizer import WordTokenizer
from pipeline.settings import Precision
from pipeline.train_proposals.task import Vocabulary
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes
from tests.ovseg_models import test_published_model as published
from tests.ovseg_models.test_fusion import naive_scores, realistic
from tests.ovseg_models.test_masked_crops import ellipse, naive_crop, scene
from tests.pipeline.finetune import test_task as finetuning
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.train_proposals import test_task as proposals
from tests.tiny_segmenter import CLASS_NAMES, PROPOSAL_NET, WORDS, picture, tiny_segmenter

pytestmark = pytest.mark.gpu

# Of unit vectors that nets give, beside single precision on the CPU: ten times what rounding the factors of products to
# the precision's digits makes of these nets (seen on a CPU).
MAX_DIFFERENCE = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 5e-2}


@pytest.mark.parametrize("backbone", published.BACKBONES)
@torch.no_grad()
def test_the_published_layout_gives_the_published_models_numbers(tmp_path, backbone, device, found):
    if device.type == "cpu" and backbone == "r101c":
        pytest.skip("tests/ovseg_models/test_published_model.py has it")
    tensors = published.published_file(backbone)
    torch.save({"model": tensors}, tmp_path / "model.pth")
    write_segmenter_folder(tmp_path / "segmenter", read_published_checkpoint(tmp_path / "model.pth"))
    options = {"short_side_px": 44, "max_side_px": 128, "mask_threshold": 0.8}
    segmenter = Segmenter.load(tmp_path / "segmenter", device=device, **options)
    image = picture(50, 70)
    expected, masks = published.reference_branches(tensors, backbone, image, segmenter.settings)
    with autocast(device, "fp32"):
        branches, scores = segmenter.branches(image, published.NAMES), segmenter.scores(image, published.NAMES)
    assert torch.equal(branches["valid"].cpu(), expected["valid"])
    assert torch.equal(branches["patch_mask"].cpu(), expected["patch_mask"])
    for name in ("proposal_logits", "mask_logits", "crops", "clip_logits"):
        difference = (branches[name].cpu() - expected[name]).abs().max().item()
        found(name, difference)
        torch.testing.assert_close(branches[name].cpu(), expected[name], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(
        scores.cpu(), published.reference_scores(expected, masks, (50, 70), 0.7), atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize("precision", get_args(Precision))
@torch.no_grad()
def test_each_precision_has_its_digits(precision, device, found):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_proposal_net(**PROPOSAL_NET).eval()
    segmenter = Segmenter(net, tiny_segmenter().clip, tokenizer=WordTokenizer(WORDS, 8))
    pictures = [torch.from_numpy(picture(64, 96, seed)).permute(2, 0, 1) for seed in range(2)]
    crops = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def embeddings():
        return {
            "proposals": net(net.preprocess(pictures)).proposal_embeddings,
            "crops": segmenter.clip.encode_image(crops.to(segmenter.device)),
            "texts": segmenter.text_embeddings(CLASS_NAMES),  # in full, whatever the precision
        }

    expected = embeddings()
    segmenter.to(device)
    with autocast(device, precision):
        computed = embeddings()
    for name, vectors in computed.items():
        difference = (vectors.float().cpu() - expected[name]).abs().max().item()
        found(name, difference)
        assert difference < MAX_DIFFERENCE["fp32" if name == "texts" else precision], name


def test_crops_equal_a_naive_twin(device, found):
    image, _ = scene(height=240, width=320)
    masks = torch.stack([ellipse(240, 320, seed) for seed in range(8)])
    made = masked_crops(image.to(device), masks.to(device), crop_px=224)
    twins = [naive_crop(image, mask, 224) for mask in masks]
    found("crops", (made.crops.cpu() - torch.stack([crop for crop, _ in twins])).abs().max().item())
    torch.testing.assert_close(made.crops.cpu(), torch.stack([crop for crop, _ in twins]), atol=1e-5, rtol=0)
    assert torch.equal(made.crop_masks.cpu(), torch.stack([mask for _, mask in twins]))


@pytest.mark.parametrize("classes", [19, 150, 847])
def test_labels_equal_a_naive_twin_but_for_ties(classes, device, found):
    scores, logits = realistic(100, classes, (96, 150))
    sums = naive_scores(scores, logits, (96, 150), (107, 160))
    labels = fused_labels(scores.to(device), logits.to(device), net_size=(96, 150), size=(107, 160)).cpu()
    lost = sums.amax(dim=0) - sums.gather(0, labels[None])[0]  # of the sum, by taking another class
    found("pixels of another class", int((labels != sums.argmax(dim=0)).sum()))
    found("their sums are lower by", (lost / sums.amax(dim=0)).max().item())
    assert lost.max() <= 1e-5 * sums.max()


def test_a_step_of_stage_1_has_the_cpus_losses_and_gradients(device, found):
    expected, here = proposals.task(), proposals.task()
    processes = Processes(0, 1, device)
    vocabulary = Vocabulary(here.vocabulary.text_embeddings.to(device), here.vocabulary.places)
    here = replace(here, net=here.net.to(device), processes=processes, vocabulary=vocabulary)
    terms = expected.backward(expected.net, proposals.batch(), proposals.context(1))
    with autocast(device, "fp32"):
        computed = here.backward(here.net, proposals.batch(), step_on(device))
    assert_same_step(terms, computed, expected.net, here.net, found)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("mode", ["ft", "mpt"])
def test_a_step_of_stage_3_has_the_cpus_losses_and_gradients(mode, parts, device, found, tmp_path):
    pairs = made_pairs(tmp_path, scenes=5)
    expected, here = finetuning.task_of(pairs, mode), finetuning.task_of(pairs, mode)
    here = replace(
        here,
        adapted=here.adapted.to(device),
        noun_embeddings=here.noun_embeddings.to(device),
        processes=Processes(0, 1, device),
    )
    for task in (expected, here):
        task.optimizer()
    batch = finetuning.batch_of(expected)
    terms = expected.backward(expected.model, batch, finetuning.step_of())
    with autocast(device, "fp32"):
        computed = here.backward(here.model, batch, step_on(device, parts))
    assert_same_step(terms, computed, expected.adapted, here.adapted, found)


def step_on(device, parts=1):
    scaler = GradScaler(device.type, enabled=False)
    return StepContext(Processes(0, 1, device), parts, scaler, half_precision(device, "fp32"))


def assert_same_step(terms, computed, expected_model, model, found):
    found("loss", abs(computed["loss"].item() - terms["loss"].item()) / abs(terms["loss"].item()))
    for name, value in terms.items():
        assert computed[name].item() == pytest.approx(value.item(), rel=1e-4), name
    largest = 0.0
    for (name, one), other in zip(expected_model.named_parameters(), model.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None, name
            continue
        torch.testing.assert_close(other.grad.cpu(), one.grad, atol=1e-4, rtol=5e-3, msg=lambda m, n=name: f"{n}: {m}")
        largest = max(largest, (other.grad.cpu() - one.grad).abs().max().item())
    found("gradients", largest)
