"""What the loop trains: targets of the learned classes, and losses normalised over the whole batch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from ovseg_models.matching import LossWeights
from ovseg_models.proposal_losses import proposal_losses
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.targets import Targets, present_classes
from pipeline.settings import LossSettings, ProposalTrainingSettings
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.samples import ProposalBatch, ProposalSamples
from pipeline.train_proposals.task import ProposalTask, Vocabulary, loss_weights
from pipeline.training.learning_rates import warmup_poly
from pipeline.training.loop import Plan, StepContext, Trainer
from pipeline.training.processes import Processes, SummedGradients
from tests.fake_cuda import CUDA, FakeCuda
from tests.pipeline.training.toy_run import toy_artifact
from tests.tiny_segmenter import PROPOSAL_NET

IGNORE, HELD_OUT = 255, (1,)
CPU = Processes(0, 1, torch.device("cpu"))


def task(*, channels_last: bool = False, **changes: Any) -> ProposalTask:
    torch.manual_seed(0)
    net = build_proposal_net(**{**PROPOSAL_NET, "dropout": 0.0})
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    embeddings = torch.nn.functional.normalize(torch.randn(4, PROPOSAL_NET["embedding_dim"]), dim=1)
    return ProposalTask(
        net=net,
        settings=ProposalTrainingSettings(batch_images=3, loss=LossSettings(**changes)),
        samples=ProposalSamples(None, Augmentation((32,), 32, 32, IGNORE), 0, HELD_OUT),
        vocabulary=Vocabulary.without(HELD_OUT, embeddings),
        validation=None,
        held_out=(),
        processes=CPU,
        channels_last=channels_last,
    )


def batch(label_maps: torch.Tensor | None = None) -> ProposalBatch:
    """Three pictures, with three, one and one classes; or with other label maps."""
    random = torch.Generator().manual_seed(1)
    images, drawn = [], []
    for classes in ([0, 2, 3], [3], [0, IGNORE]):
        images.append(torch.randint(0, 256, (3, 32, 32), generator=random).to(torch.uint8))
        drawn.append(torch.tensor(classes)[torch.randint(0, len(classes), (32, 32), generator=random)].int())
    label_maps = torch.stack(drawn) if label_maps is None else label_maps
    present = [present_classes(label_map, ignore_label=IGNORE) for label_map in label_maps]
    classes = torch.nn.utils.rnn.pad_sequence(present, batch_first=True, padding_value=-1)
    return ProposalBatch(torch.arange(3), torch.stack(images), label_maps, classes)


def context(parts: int, autocast_type: torch.dtype | None = None) -> StepContext:
    return StepContext(CPU, parts, GradScaler("cpu", enabled=False), autocast_type)


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def masks_of(label_map: torch.Tensor, learned: Sequence[int]) -> Targets:
    present = [place for place, index in enumerate(learned) if (label_map == index).any()]
    masks = torch.stack([label_map == learned[place] for place in present])
    return Targets(torch.tensor(present), masks)


def test_losses_are_those_of_the_whole_batch_with_the_learned_classes() -> None:
    trained, plain = task(dice_weight=2.0), task(dice_weight=2.0)
    terms = trained.backward(trained.net, batch(), context(1))
    targets = [masks_of(label_map, [0, 2, 3]) for label_map in batch().label_maps]
    output = plain.net(plain.net.preprocess(list(batch().images)))
    logits = [
        plain.net.class_logits(layer.proposal_embeddings, plain.vocabulary.text_embeddings) for layer in output.layers
    ]
    losses = proposal_losses(
        output, logits, targets, image_size=(32, 32), num_masks=5, weights=LossWeights(1.0, 20.0, 2.0, 0.1)
    )
    losses.total.backward()
    assert terms["loss"].item() == pytest.approx(losses.total.item(), rel=1e-5)
    assert terms["dice"].item() == pytest.approx(losses.layers[0].dice.item(), rel=1e-5)
    for found, expected in zip(gradients(trained.net), gradients(plain.net), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_pixels_without_a_label_can_be_left_out_of_the_losses() -> None:
    label_maps = batch().label_maps
    label_maps[0, :, 16:] = IGNORE
    held_out = batch(label_maps)
    terms = task().backward(task().net, held_out, context(1))
    left_out = task(unlabelled_pixels="left_out")
    fewer = left_out.backward(left_out.net, held_out, context(1))
    assert fewer["focal"].item() < terms["focal"].item()
    whole = ProposalBatch(*(tensor[[1, 1]] for tensor in batch()))  # every pixel has a label
    again = task(unlabelled_pixels="left_out")
    both = task().backward(task().net, whole, context(1)), again.backward(again.net, whole, context(1))
    for name, value in both[0].items():
        torch.testing.assert_close(both[1][name], value)


def test_settings_reach_the_losses() -> None:
    settings = LossSettings(class_weight=1.5, mask_weight=2.5, dice_weight=3.5, no_object_weight=0.25)
    assert loss_weights(settings) == LossWeights(classification=1.5, focal=2.5, dice=3.5, no_object=0.25)


def test_held_out_classes_have_no_row_in_the_vocabulary() -> None:
    embeddings = torch.eye(4)
    vocabulary = Vocabulary.without((1, 2), embeddings)
    assert vocabulary.places.tolist() == [0, -1, -1, 1]
    torch.testing.assert_close(vocabulary.text_embeddings, embeddings[[0, 3]])


def test_a_batch_without_any_mask_still_trains_the_class_head() -> None:
    trained = task()
    empty = batch(torch.full((3, 32, 32), IGNORE, dtype=torch.int32))
    terms = trained.backward(trained.net, empty, context(1))
    assert math.isfinite(terms["loss"].item())
    assert terms["dice"].item() == 0
    assert trained.net.no_object_embedding.grad.abs().sum() > 0


def test_without_validation_there_is_nothing_to_measure() -> None:
    assert task().validate() == {}


def test_channels_last_changes_the_memory_and_not_the_losses() -> None:
    plain, other = task(), task(channels_last=True)
    formats = []
    hook = other.net.backbone.register_forward_pre_hook(
        lambda _, images: formats.append(images[0].is_contiguous(memory_format=torch.channels_last))
    )
    found, expected = other.backward(other.net, batch(), context(1)), plain.backward(plain.net, batch(), context(1))
    hook.remove()
    assert formats == [True]
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name
    one, two = (torch.cat([each.flatten() for each in gradients(trained.net)]) for trained in (other, plain))
    assert (one - two).norm() < 1e-3 * two.norm()


def without_backward(_: StepContext, loss: torch.Tensor) -> None:
    """Do what a device without a backward pass can."""
    assert loss.device == CUDA


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_waits_for_its_device_once_a_part_and_once_for_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """The costs of all decoder layers go to the host together; losses and gradient norm do at the end of the step."""
    schedule = warmup_poly(steps=1, warmup_steps=0, warmup_factor=1.0, power=1.0)
    host, plan = task(), Plan(steps=1, seed=0, schedule=schedule, gradient_clip_norm=0.01, accumulation_parts=parts)
    clear = SummedGradients.clear

    def made_up(gradients: SummedGradients) -> None:
        clear(gradients)
        for parameter in gradients.parameters:
            parameter.grad = torch.ones_like(parameter)

    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _: None)  # it needs gradients of a backward pass
    monkeypatch.setattr(StepContext, "backward", without_backward)
    monkeypatch.setattr(SummedGradients, "clear", made_up)
    with FakeCuda() as device:
        host.net.to(CUDA)
        processes = Processes(0, 1, CUDA)
        vocabulary = Vocabulary(host.vocabulary.text_embeddings.to(CUDA), host.vocabulary.places)
        trainer = Trainer(
            replace(host, processes=processes, vocabulary=vocabulary), plan, toy_artifact(tmp_path), processes
        )
        device.waits.clear()
        values = trainer.step(0, ProposalBatch(*(tensor[[0, 1, 2, 0]] for tensor in batch())))
    assert {"loss", "dice", "gradient_norm", "learning_rate"} <= values.keys()
    assert device.waits == {"to the host": parts + 1}


def test_bf16_gives_the_same_losses_to_its_few_digits() -> None:
    half, plain = task(), task()
    types = []
    hook = half.net.pixel_decoder.register_forward_hook(lambda *given: types.append(given[-1].dtype))
    found = half.backward(half.net, batch(), context(1, torch.bfloat16))
    hook.remove()
    expected = plain.backward(plain.net, batch(), context(1))
    assert types == [torch.bfloat16]
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=3e-2, abs=1e-3), name
    assert all(gradient.dtype == torch.float32 for gradient in gradients(half.net))
