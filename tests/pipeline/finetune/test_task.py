"""One step of stage 3: the loss of the whole batch, however it is cut, and gradients only where they belong."""

import math
from pathlib import Path

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch import Tensor

from ovseg_models.contrastive_loss import contrastive_loss, noun_contrastive_loss
from ovseg_models.mask_adapted_clip import select_trainable
from ovseg_models.masked_crops import normalised
from ovseg_models.weights import image_tower_weights, text_tower_weights, weights_digest
from pipeline.finetune.phases import phases_of
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.finetune.task import FinetuneTask
from pipeline.settings import FinetuneSettings
from pipeline.trained_nets import new_mask_adapted_clip
from pipeline.training.data_order import Draw
from pipeline.training.loader import rows
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from storage_schemas.pair_collection import PairCollection
from tests import tiny_clips
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.tiny_clip import tiny_loaded_clip

ALONE = Processes(0, 1, torch.device("cpu"))
BATCH = 12


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=5)


def task_of(
    pairs: Artifact,
    mode: str,
    *,
    phase: int = -1,
    loss: str = "contrastive",
    train_logit_scale: bool = True,
    family: str = "",
) -> FinetuneTask:
    settings = FinetuneSettings(mode=mode)
    base = tiny_clips.loaded(family) if family else tiny_loaded_clip()
    depth = 0 if family in tiny_clips.WITHOUT_TOKENS else 3
    adapted = new_mask_adapted_clip(base, prompt_depth=depth, prompt_seed=0).train()
    collection = PairCollection(pairs)
    with torch.no_grad():
        texts = adapted.encode_text(base.tokenize(collection.nouns))
    return FinetuneTask(
        adapted=adapted,
        phase=phases_of(settings)[phase],
        samples=PairSamples(collection, 0.9, 4 / 3, 0, adapted.crop),
        noun_embeddings=texts,
        loss=loss,
        train_logit_scale=train_logit_scale,
        validation=None,
        processes=ALONE,
    )


def batch_of(task: FinetuneTask) -> PairBatch:
    return task.samples.batch([Draw(*divmod(number, 8)) for number in range(BATCH)])  # some nouns twice


def step_of(parts: int = 1) -> StepContext:
    return StepContext(ALONE, parts, torch.amp.GradScaler("cpu", enabled=False), None)


def gradients(task: FinetuneTask, parts: int = 1) -> tuple[float, dict[str, Tensor]]:
    task.optimizer()  # chooses what is trained
    task.model.zero_grad(set_to_none=True)
    terms = task.backward(task.model, batch_of(task), step_of(parts))
    named = task.adapted.named_parameters()
    return terms["loss"].item(), {name: value.grad for name, value in named if value.grad is not None}


@pytest.mark.parametrize("loss", ["contrastive", "noun-aware"])
def test_the_loss_is_that_of_the_plain_model_on_the_batch(pairs: Artifact, loss: str) -> None:
    task = task_of(pairs, "mpt", loss=loss)
    batch = batch_of(task)
    nouns = [task.samples.pairs.nouns[number] for number in batch.nouns]
    assert len(set(nouns)) < BATCH
    images, texts, scale = task.adapted(normalised(batch.crops), batch.patch_masks, tiny_loaded_clip().tokenize(nouns))
    expected = (
        contrastive_loss(images, texts, scale)
        if loss == "contrastive"
        else noun_contrastive_loss(images, texts, scale, batch.nouns)
    )
    assert gradients(task)[0] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mode", ["ft", "mpt", "ft+mpt"])
@pytest.mark.parametrize("parts", [2, 5, BATCH])
def test_a_batch_in_parts_stays_one_contrastive_batch(pairs: Artifact, mode: str, parts: int) -> None:
    loss, whole = gradients(task_of(pairs, mode))
    cut_loss, cut = gradients(task_of(pairs, mode), parts)
    assert cut_loss == pytest.approx(loss, rel=1e-6)
    assert cut.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("loss", ["contrastive", "noun-aware"])
def test_a_sigmoid_model_is_trained_by_its_own_loss(pairs: Artifact, loss: str) -> None:
    task = task_of(pairs, "mpt", loss=loss, family="SigLIP2")
    batch = batch_of(task)
    crops = normalised(batch.crops, task.adapted.crop.preprocessing)
    images, texts = task.adapted.encode_image(crops, batch.patch_masks), task.noun_embeddings[batch.nouns]
    scale, bias = task.adapted.logit_scale.exp(), task.adapted.logit_bias
    assert bias is not None
    if loss == "contrastive":
        expected = SigLipLoss()(images, texts, scale, bias)
    else:
        signs = 2.0 * (batch.nouns[:, None] == batch.nouns) - 1
        expected = -torch.nn.functional.logsigmoid(signs * (scale * images @ texts.T + bias)).sum() / BATCH
    found, named = gradients(task)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert {"mask_prompts", "clip.logit_scale", "clip.logit_bias"} == named.keys()


@pytest.mark.parametrize("mode", ["ft", "mpt"])
@pytest.mark.parametrize("family", ["SigLIP2", "ResNet"])
def test_a_batch_of_any_model_in_parts_stays_one_batch(pairs: Artifact, mode: str, family: str) -> None:
    if family == "ResNet" and mode == "mpt":
        pytest.skip("a ResNet has no prompts")
    loss, whole = gradients(task_of(pairs, mode, family=family))
    cut_loss, cut = gradients(task_of(pairs, mode, family=family), 5)
    assert cut_loss == pytest.approx(loss, rel=1e-6)
    assert cut.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_logit_scale_that_is_not_trained_gets_no_gradient(pairs: Artifact) -> None:
    for parts in (1, 3):
        task = task_of(pairs, "ft", train_logit_scale=False)
        before = task.adapted.logit_scale.item()
        assert "clip.logit_scale" not in gradients(task, parts)[1]
        task.after_step()
        assert task.adapted.logit_scale.item() == before


def test_the_logit_scale_stays_below_ln_100(pairs: Artifact) -> None:
    task = task_of(pairs, "ft")
    with torch.no_grad():
        task.adapted.logit_scale.fill_(7.0)
    task.after_step()
    assert task.adapted.logit_scale.item() == pytest.approx(math.log(100))


def test_ft_alone_and_before_mpt_sees_no_prompt_and_after_it_does(pairs: Artifact) -> None:
    assert not task_of(pairs, "ft").model.uses_prompts
    assert not task_of(pairs, "ft-then-mpt", phase=0).model.uses_prompts
    for mode in ("ft-then-mpt", "mpt-then-ft", "ft+mpt", "mpt"):
        assert task_of(pairs, mode).model.uses_prompts
    after = gradients(task_of(pairs, "mpt-then-ft"))[1]
    assert "mask_prompts" not in after
    assert "clip.visual.proj" in after


def test_mpt_changes_no_clip_weight_but_the_logit_scale(pairs: Artifact) -> None:
    task = task_of(pairs, "mpt")
    clip = task.adapted.clip
    before = [weights_digest(part(clip)) for part in (image_tower_weights, text_tower_weights)]
    prompts, scale = task.adapted.mask_prompts.detach().clone(), task.adapted.logit_scale.item()
    optimizer = task.optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(3):
        optimizer.zero_grad()
        task.backward(task.model, batch_of(task), step_of())
        optimizer.step()
        task.after_step()
    assert [weights_digest(part(clip)) for part in (image_tower_weights, text_tower_weights)] == before
    assert not torch.equal(task.adapted.mask_prompts, prompts)
    assert task.adapted.logit_scale.item() != scale


def test_prompts_of_patches_that_every_crop_keeps_get_no_gradient(pairs: Artifact) -> None:
    task = task_of(pairs, "mpt")
    masks = batch_of(task).patch_masks
    kept = masks.all(dim=0)
    assert 0 < kept.sum() < len(kept)
    gradient = gradients(task)[1]["mask_prompts"]
    assert (gradient[:, kept] == 0).all()
    assert (gradient[:, ~kept].abs().amax(dim=(0, 2)) > 0).all()


def test_gradients_of_prompts_are_those_of_finite_differences(pairs: Artifact) -> None:
    """Both in double precision, at twenty places and along one direction through all of them."""
    task = task_of(pairs, "mpt")
    adapted = task.adapted.double()
    batch = batch_of(task)
    texts = task.noun_embeddings[batch.nouns].double()
    select_trainable(adapted, "mpt")

    def loss() -> Tensor:
        images = adapted.encode_image(normalised(batch.crops).double(), batch.patch_masks)
        return contrastive_loss(images, texts, adapted.logit_scale.exp())

    prompts = adapted.mask_prompts
    (gradient,) = torch.autograd.grad(loss(), prompts)
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(prompts.numel(), generator=generator)[:20]
    directions = [torch.zeros(prompts.numel(), dtype=torch.float64).index_fill(0, place, 1.0) for place in places]
    directions.append(torch.randn(prompts.numel(), generator=generator, dtype=torch.float64))
    for direction in directions:
        step = 1e-5 * direction.view_as(prompts)
        with torch.no_grad():
            prompts.add_(step)
            above = loss()
            prompts.sub_(2 * step)
            below = loss()
            prompts.add_(step)
        slope = (above - below) / 2e-5
        torch.testing.assert_close((gradient * direction.view_as(prompts)).sum(), slope, rtol=1e-5, atol=1e-9)


def test_checkpointing_changes_no_gradient(pairs: Artifact) -> None:
    whole = gradients(task_of(pairs, "ft+mpt"))[1]
    task = task_of(pairs, "ft+mpt")
    task.adapted.set_grad_checkpointing(True)
    for name, gradient in gradients(task)[1].items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_batch_is_described_by_its_pairs(pairs: Artifact) -> None:
    task = task_of(pairs, "ft")
    described = task.describe(rows(batch_of(task), 0, 2))
    first, second = task.samples.pairs.place(0), task.samples.pairs.place(1)
    assert described == f"pairs {first.pair} ({first.unit}), {second.pair} ({second.unit})"


def test_the_accuracy_of_a_phase_needs_scenes(pairs: Artifact, tmp_path: Path) -> None:
    assert task_of(pairs, "ft").validate() == {}
