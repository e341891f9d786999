"""What the training loop trains in stage 3: the image side of CLIP, with the contrastive loss of a whole batch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ovseg_models.contrastive_loss import contrastive_loss, noun_contrastive_loss, sigmoid_loss
from ovseg_models.mask_adapted_clip import MaskAdaptedClip, select_trainable
from ovseg_models.masked_crops import normalised
from ovseg_models.zero_shot import ZeroShotCounts
from pipeline.finetune.phases import Phase
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.finetune.validation import Embed, Validation
from pipeline.training.data_order import DataOrder
from pipeline.training.learning_rates import Rate, parameter_groups
from pipeline.training.loader import on_device, rows, size
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes


class ImageSide(nn.Module):
    """The part of a mask-adapted CLIP that is trained; the text side is a table of embeddings.

    Args:
        adapted: The whole model.
        uses_prompts: Whether prompts take the place of patches outside the mask; whether these are dropped, the model
            knows.
    """

    def __init__(self, adapted: MaskAdaptedClip, *, uses_prompts: bool) -> None:
        super().__init__()
        self.adapted = adapted
        self.uses_prompts = uses_prompts

    def forward(
        self, crops: Float[Tensor, "crop 3 side side"], patch_masks: Bool[Tensor, "crop patch"]
    ) -> Float[Tensor, "crop dim"]:
        """Embed crops, L2-normalised, in single precision."""
        return self.adapted.encode_image(crops, patch_masks, use_prompts=self.uses_prompts).float()


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """One phase of stage 3 as the training loop sees it.

    Attributes:
        adapted: What is trained, on its device; which of its parameters take gradients is set here.
        phase: How.
        samples: What it is trained on.
        noun_embeddings: One L2-normalised row per noun of the samples, on the model's device.
        loss: Whether equal nouns of a batch are negatives of each other.
        train_logit_scale: Whether the logit scale, and a sigmoid model's bias, are trained too.
        validation: What it is measured on; None for nothing.
        processes: The processes that train together.
    """

    adapted: MaskAdaptedClip
    phase: Phase
    samples: PairSamples
    noun_embeddings: Float[Tensor, "noun dim"]
    loss: Literal["contrastive", "noun-aware"]
    train_logit_scale: bool
    validation: Validation | None
    processes: Processes

    @cached_property
    def model(self) -> nn.Module:
        """CLIP's image side."""
        return ImageSide(self.adapted, uses_prompts=self.phase.uses_prompts)

    @property
    def order(self) -> DataOrder:
        """Which pairs a step sees."""
        return self.phase.order(len(self.samples.pairs))

    def optimizer(self) -> torch.optim.Optimizer:
        """Choose what is trained; return AdamW with the moments that open_clip has for vision transformers."""
        trainable = select_trainable(self.adapted, self.phase.mode, train_logit_scale=self.train_logit_scale)
        rates = learning_rates(trainable, tower=self.phase.tower, prompts=self.phase.prompts)
        return torch.optim.AdamW(parameter_groups(rates), betas=(0.9, 0.98), eps=1e-6)

    def backward(self, model: nn.Module, batch: PairBatch, step: StepContext) -> Mapping[str, Tensor]:
        """Compute the loss over the batch of all processes, and this process's part of its gradient.

        A batch that is cut stays one contrastive batch: all embeddings are computed first, without a graph; the loss
        gives its slope with respect to each of them; then each part is embedded again and its slopes are sent back.

        References:
            Gao et al., 2021 (gradient caching).
        """
        # [all]: numbers, 8 bytes a pair, are exchanged rather than rows of text embeddings
        nouns = step.gather(batch.nouns).to(step.processes.device, non_blocking=True)
        batch = on_device(batch, step.processes.device)
        if step.parts == 1:
            loss = self._loss(self._embedded(model, batch, step), nouns, step)
            step.backward(loss)
        else:
            part_size = math.ceil(size(batch) / step.parts)
            starts = range(0, size(batch), part_size)
            with torch.no_grad():
                parts = [self._embedded(model, rows(batch, start, start + part_size), step) for start in starts]
            embeddings = torch.cat(parts).requires_grad_()  # [pair dim], a leaf: the loss's graph ends here
            loss = self._loss(embeddings, nouns, step)
            of_logits = self._trained_of_logits
            slopes, *slopes_of_logits = torch.autograd.grad(loss, [embeddings, *of_logits])
            for start in starts:
                end = start + part_size
                # Its gradient is the chain rule's: the slope of each embedding times the embedding's own gradient.
                weighted = (self._embedded(model, rows(batch, start, end), step) * slopes[start:end]).sum()
                if end >= size(batch):  # once, for all parts share the logit scale and the bias
                    for parameter, slope in zip(of_logits, slopes_of_logits, strict=True):
                        weighted = weighted + (parameter * slope).sum()
                step.backward(weighted)
        # Every process has the loss of the whole batch; the loop sums over processes, so that each gives its share.
        return {
            "loss": loss.detach() / step.processes.count,
            "logit_scale": self.adapted.logit_scale.detach().sum() / step.processes.count,
        }

    def after_step(self) -> None:
        """Keep the logit scale in its bounds, if it is trained."""
        if self.train_logit_scale:
            self.adapted.clamp_logit_scale()

    def validate(self) -> Mapping[str, float]:
        """Measure zero-shot accuracy on the validation scenes, which the processes share."""
        if self.validation is None:
            return {}
        return accuracies(self.validation, self.model, self.processes)

    def describe(self, batch: PairBatch) -> str:
        """Name the pairs of a batch with their shards."""
        places = [self.samples.pairs.place(number) for number in batch.numbers.tolist()]
        return "pairs " + ", ".join(f"{place.pair} ({place.unit})" for place in places)

    def _embedded(self, model: nn.Module, batch: PairBatch, step: StepContext) -> Float[Tensor, "pair dim"]:
        """Embed crops that are on the device."""
        with step.autocast():
            embeddings: Tensor = model(normalised(batch.crops, self.adapted.crop.preprocessing), batch.patch_masks)
        return embeddings

    @property
    def _trained_of_logits(self) -> list[Tensor]:
        """The logit scale, and a sigmoid model's bias, if they are trained."""
        of_logits = (self.adapted.logit_scale, self.adapted.logit_bias)
        return [parameter for parameter in of_logits if parameter is not None] if self.train_logit_scale else []

    def _loss(self, own: Float[Tensor, "pair dim"], nouns: Int[Tensor, "all"], step: StepContext) -> Float[Tensor, ""]:
        """Compute the loss over all processes' pairs, as a function of this process's embeddings alone.

        It is the loss that the model was trained with, softmax or sigmoid. The gradients that the processes find add up
        to that of one process: each has the slopes of its own embeddings, and its share of the logit scale's and of the
        bias's.
        """
        processes = step.processes
        image_embeddings, logit_scale, bias = own, self.adapted.logit_scale, self.adapted.logit_bias
        if processes.count > 1:
            first = processes.rank * len(own)
            everyone = step.gather(own)  # [all dim], without gradient
            image_embeddings = torch.cat([everyone[:first], own, everyone[first + len(own) :]])
            # The values of scale and bias, and a share of their gradients: the processes' shares are summed.
            logit_scale = logit_scale.detach() + (logit_scale - logit_scale.detach()) / processes.count
            if bias is not None:
                bias = bias.detach() + (bias - bias.detach()) / processes.count
        texts, scale = self.noun_embeddings[nouns], logit_scale.exp()  # [all dim]
        if bias is not None:
            return sigmoid_loss(image_embeddings, texts, scale, bias, nouns if self.loss == "noun-aware" else None)
        if self.loss == "noun-aware":
            return noun_contrastive_loss(image_embeddings, texts, scale, nouns)
        return contrastive_loss(image_embeddings, texts, scale)


def accuracies(validation: Validation, model: Embed, processes: Processes) -> dict[str, float]:
    """Measure what embeds crops, such as an `ImageSide`; the processes share the scenes."""
    shared = processes.share(len(validation.scenes))
    numbers = validation.counts(model, shared).stacked().to(processes.device)
    return ZeroShotCounts.from_stacked(processes.sum(numbers).cpu()).accuracies(validation.groups)


def learning_rates(
    trainable: Mapping[str, nn.Parameter], *, tower: Rate, prompts: Rate
) -> Iterator[tuple[nn.Parameter, Rate]]:
    """Yield each parameter with its rate.

    Norms, biases, the class token and the logit scale, all that has fewer than two dimensions, do not decay.

    Args:
        trainable: As ``select_trainable`` returns them.
        tower: Of the image tower and the logit scale.
        prompts: Of the mask prompts.

    References:
        OVSeg's published script, whose names without decay (bn, ln, bias, logit_scale) are those of fewer dimensions.
    """
    for name, parameter in trainable.items():
        rate = prompts if name == "mask_prompts" else tower
        yield parameter, rate if parameter.ndim >= 2 else rate._replace(weight_decay=0.0)
