"""What the training loop trains in stage 3: the image side of CLIP, with the contrastive loss of a whole batch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ovseg_models.contrastive_loss import HardNegatives, contrastive_loss, noun_contrastive_loss, sigmoid_loss
from ovseg_models.holding_loss import embedding_holding_loss, similarity_holding_loss
from ovseg_models.mask_adapted_clip import PROMPT_INIT_STD, FinetuningMode, MaskAdaptedClip, select_trainable
from ovseg_models.masked_crops import normalised
from ovseg_models.one_pass import OnePass
from ovseg_models.text_classifier import encode_prompted_texts
from ovseg_models.zero_shot import ZeroShotCounts
from pipeline.finetune.hard_negatives import NO_NOUN
from pipeline.finetune.phases import Phase
from pipeline.finetune.picture_samples import PictureBatch, PictureSamples
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.finetune.validation import Embed, Validation
from pipeline.settings import HoldingSettings
from pipeline.training.data_order import DataOrder
from pipeline.training.learning_rates import Rate, parameter_groups
from pipeline.training.loader import on_device, size
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes

_MOST_PAIRS_OF_FIRST_BIAS = 256


class ImageSide(nn.Module):
    """The part of a mask-adapted CLIP that is trained; the text side is a table of embeddings.

    Args:
        adapted: The whole model.
        uses_prompts: Whether prompts take the place of patches outside the mask; whether these are dropped, the model
            knows.
        sentences: Number of sentences around each noun that are weighted; 0 if none is.
        text_prompts: Tokens before each name, to begin with; None if none are trained.
        own_bias: Whether a sigmoid loss adds a number of its own to similarities, for a CLIP that has none.
        one_pass: Of the same model, where masks of whole pictures are embedded; None for crops.

    Attributes:
        template_weights: Factors on the similarities with each sentence, whose sum is compared; None if these are not
            trained. At first their mean.
        text_prompts: Tokens before each name [prompt width]; None if these are not trained.
        bias: What a sigmoid loss adds; None if it has none, or CLIP has its own. It orders no classes: it has no place
            in a softmax over them, and is not kept when the training has ended.
    """

    template_weights: nn.Parameter | None
    text_prompts: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        adapted: MaskAdaptedClip,
        *,
        uses_prompts: bool,
        sentences: int = 0,
        text_prompts: Float[Tensor, "prompt width"] | None = None,
        own_bias: bool = False,
        one_pass: OnePass | None = None,
    ) -> None:
        super().__init__()
        self.adapted = adapted
        self.one_pass = one_pass
        self.uses_prompts = uses_prompts
        device = adapted.logit_scale.device
        weights = nn.Parameter(torch.full((sentences,), 1 / max(1, sentences), device=device)) if sentences else None
        self.register_parameter("template_weights", weights)
        prompts = None if text_prompts is None else nn.Parameter(text_prompts.to(device, copy=True))
        self.register_parameter("text_prompts", prompts)
        self.register_parameter("bias", nn.Parameter(torch.zeros((), device=device)) if own_bias else None)

    def forward(self, crops: Tensor, patch_masks: Tensor | None) -> Tensor:
        """Embed crops, L2-normalised, in single precision; without masks every patch is seen as it is.

        Args:
            crops: [crop 3 side side]; in one pass pictures [picture 3 side side], each of which runs once.
            patch_masks: [crop patch], bool; in one pass the shares of patches that masks fill [picture mask patch].

        Returns:
            [crop dim]; in one pass [picture mask dim].
        """
        if self.one_pass is not None and patch_masks is not None:
            return self.one_pass.embed(self.one_pass.features(crops), patch_masks).float()
        return self.adapted.encode_image(crops, patch_masks, use_prompts=self.uses_prompts).float()


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """One phase of stage 3 as the training loop sees it.

    Attributes:
        adapted: What is trained, on its device; which of its parameters take gradients is set here.
        phase: How.
        samples: What it is trained on.
        noun_embeddings: L2-normalised, of the samples' nouns, on the model's device; where weights of sentences are
            trained one per sentence.
        loss: Whether equal nouns of a batch are negatives of each other, and whether nouns compete.
        noun_tokens: Of the samples' bare nouns, where tokens before them are trained.
        holding: What keeps the image tower near the original CLIP; None for nothing.
        original: That CLIP, on the device; None as ``holding``.
        one_pass: Of ``adapted``, where masks of whole pictures are embedded; None for crops.
        original_one_pass: Of ``original``; None without either.
        train_logit_scale: Whether the logit scale, and a sigmoid model's bias, are trained too.
        validation: What it is measured on; None for nothing.
        processes: The processes that train together.
    """

    adapted: MaskAdaptedClip
    phase: Phase
    samples: PairSamples | PictureSamples
    noun_embeddings: Float[Tensor, "noun dim"] | Float[Tensor, "noun sentence dim"]
    loss: Literal["contrastive", "noun-aware", "sigmoid"]
    noun_tokens: Int[Tensor, "noun context"] | None = None
    holding: HoldingSettings | None = None
    original: MaskAdaptedClip | None = None
    one_pass: OnePass | None = None
    original_one_pass: OnePass | None = None
    train_logit_scale: bool
    validation: Validation | None
    processes: Processes

    @cached_property
    def model(self) -> ImageSide:
        """CLIP's image side, and what the loss has of its own."""
        weighted = "psm" in self.phase.parts
        return ImageSide(
            self.adapted,
            uses_prompts=self.phase.uses_prompts,
            sentences=self.noun_embeddings.shape[1] if weighted else 0,
            text_prompts=self._first_text_prompts() if "text" in self.phase.parts else None,
            own_bias=self.loss == "sigmoid" and self.adapted.logit_bias is None,
            one_pass=self.one_pass,
        )

    @property
    def order(self) -> DataOrder:
        """Which pairs a step sees."""
        return self.phase.order(len(self.samples.pairs))

    def optimizer(self) -> torch.optim.Optimizer:
        """Choose what is trained; return AdamW with the moments that open_clip has for vision transformers."""
        of_clip = "+".join(part for part in self.phase.parts if part not in {"psm", "text"})
        self.adapted.requires_grad_(False)
        trainable: dict[str, nn.Parameter] = {}
        if of_clip:
            # Weights of sentences scale similarities as the logit scale does: they take its place.
            scale = self.train_logit_scale and "psm" not in self.phase.parts
            mode = cast("FinetuningMode", of_clip)
            trainable |= select_trainable(self.adapted, mode, train_logit_scale=scale)
        if self.model.template_weights is not None:
            trainable["template_weights"] = self.model.template_weights
        if self.model.text_prompts is not None:
            trainable["text_prompts"] = self.model.text_prompts
        if self.model.bias is not None:
            trainable["bias"] = self.model.bias
            self._set_first_bias(self.model.bias)
        rates = learning_rates(trainable, self.phase)
        return torch.optim.AdamW(parameter_groups(rates), betas=(0.9, 0.98), eps=1e-6)

    def backward(self, model: nn.Module, batch: PairBatch | PictureBatch, step: StepContext) -> Mapping[str, Tensor]:
        """Compute the loss over the batch of all processes, and this process's part of its gradient.

        A batch that is cut stays one contrastive batch: all embeddings are computed first, without a graph; the loss
        gives its slope with respect to each of them; then each part is embedded again and its slopes are sent back.

        References:
            Gao et al., 2021 (gradient caching).
        """
        # [all]: numbers, 8 bytes a pair, are exchanged rather than rows of text embeddings
        nouns = step.gather(batch.nouns).to(step.processes.device, non_blocking=True)
        hard = None
        if batch.hard_nouns.shape[1]:
            hard = step.gather(batch.hard_nouns).to(step.processes.device, non_blocking=True)  # [all negative]
        batch = on_device(batch, step.processes.device)
        if step.parts == 1:
            before = self._original_embeddings(batch, step)
            contrast, held = self._losses(self._embedded(model, batch, step), before, nouns, hard, step)
            step.backward(contrast + held)
        else:
            part_size = math.ceil(size(batch) / step.parts)
            starts = range(0, size(batch), part_size)
            cut = [batch.part(start, start + part_size) for start in starts]
            with torch.no_grad():
                parts = [self._embedded(model, part, step) for part in cut]
            before = torch.cat([self._original_embeddings(part, step) for part in cut])
            embeddings = torch.cat(parts).requires_grad_()  # [pair view dim], a leaf: the loss's graph ends here
            contrast, held = self._losses(embeddings, before, nouns, hard, step)
            # What the loss has of its own, and all parts share: the logit scale, weights of sentences, a bias.
            model_own = (self.model.template_weights, self.model.text_prompts)
            candidates = (self.adapted.logit_scale, self._bias, *model_own)
            shared = [one for one in candidates if one is not None and one.requires_grad]
            slopes, *shared_slopes = torch.autograd.grad(contrast + held, [embeddings, *shared])
            for start, part in zip(starts, cut, strict=True):
                # Its gradient is the chain rule's: the slope of each embedding times the embedding's own gradient.
                weighted = (self._embedded(model, part, step) * slopes[start : start + part_size]).sum()
                if start == starts[-1]:  # once
                    for one, slope in zip(shared, shared_slopes, strict=True):
                        weighted = weighted + (one * slope).sum()
                if weighted.requires_grad:  # not where the text side alone is trained
                    step.backward(weighted)
        # Every process has the loss of the whole batch; the loop sums over processes, so that each gives its share.
        count = step.processes.count
        terms = {"loss": contrast.detach() / count + held.detach()}
        if self._holding is not None:
            terms["holding"] = held.detach()
        return {**terms, "logit_scale": self.adapted.logit_scale.detach().sum() / count}

    def after_step(self) -> None:
        """Keep the logit scale in its bounds, if it is trained."""
        if self.train_logit_scale:
            self.adapted.clamp_logit_scale()

    def validate(self) -> Mapping[str, float]:
        """Measure zero-shot accuracy on the validation scenes, which the processes share."""
        if self.validation is None:
            return {}
        return accuracies(self.validation, self.model, self.processes)

    def describe(self, batch: PairBatch | PictureBatch) -> str:
        """Name the pairs of a batch with their shards."""
        places = [self.samples.pairs.place(number) for number in batch.numbers.tolist()]
        return "pairs " + ", ".join(f"{place.pair} ({place.unit})" for place in places)

    @property
    def _bias(self) -> Tensor | None:
        """What a sigmoid loss adds to similarities: CLIP's own number if it has one."""
        return self.model.bias if self.adapted.logit_bias is None else self.adapted.logit_bias

    @property
    def _holding(self) -> HoldingSettings | None:
        """What holds this phase to the original CLIP: nothing where nothing is trained that could leave it."""
        return self.holding if {"ft", "query"} & set(self.phase.parts) else None

    def _first_text_prompts(self) -> Float[Tensor, "prompt width"]:
        """Draw tokens from N(0, 0.02²), as SimBaseline and mask prompts begin."""
        width = self.adapted.clip.token_embedding.embedding_dim
        generator = torch.Generator().manual_seed(self.phase.seed)
        return torch.randn(self.phase.text_length, width, generator=generator) * PROMPT_INIT_STD

    @torch.no_grad()
    def _set_first_bias(self, bias: nn.Parameter) -> None:
        """Choose the bias with which the loss begins; a run that goes on reads its own from the checkpoint.

        With -10, as SigLIP begins, a CLIP whose cosines are 0.2 to 0.3 at a scale of 100 would take every pair for a
        positive. So the mean similarity of the first batch gets the probability that a pair has of being right, 1/n.
        """
        draws = self.order.batch_of(0)[:_MOST_PAIRS_OF_FIRST_BIAS]
        batch = on_device(self.samples.batch(draws), self.processes.device)
        context = StepContext(self.processes, 1, torch.amp.GradScaler("cpu", enabled=False), None)
        texts = self._texts(batch.nouns)
        similarities = self.adapted.logit_scale.exp() * self._embedded(self.model, batch, context)[:, 0] @ texts.T
        bias.copy_(-similarities.mean() - math.log(len(draws) - 1))

    def _embedded(
        self, model: nn.Module, batch: PairBatch | PictureBatch, step: StepContext
    ) -> Float[Tensor, "pair view dim"]:
        """Embed crops that are on the device, masked, and where their similarities are held unmasked, too.

        In one pass the second view is the whole picture: one mask more, which fills all patches.
        """
        preprocessing = self.adapted.crop.preprocessing
        holds_similarities = self._holding is not None and self._holding.form == "similarities"
        if isinstance(batch, PictureBatch):
            filled = batch.by_picture()
            if holds_similarities:
                filled = torch.cat([filled, torch.ones_like(filled[:, :1])], dim=1)
            with step.autocast():
                embeddings = model(normalised(batch.pictures, preprocessing), filled)  # [picture mask dim]
            views = [embeddings[batch.picture_of, batch.place]]
            if holds_similarities:
                views.append(embeddings[batch.picture_of, -1])
            return torch.stack(views, dim=1)
        with step.autocast():
            views = [model(normalised(batch.crops, preprocessing), batch.patch_masks)]
            if holds_similarities:
                views.append(model(normalised(batch.unmasked, preprocessing), None))
        return torch.stack(views, dim=1)

    @torch.no_grad()
    def _original_embeddings(self, batch: PairBatch | PictureBatch, step: StepContext) -> Float[Tensor, "pair dim"]:
        """Embed unmasked crops, or whole pictures, by the original CLIP; nothing where nothing is held."""
        if self._holding is None or self.original is None:
            return self.noun_embeddings.new_zeros(size(batch), 0)
        preprocessing, seen = self.adapted.crop.preprocessing, self.original_one_pass
        with step.autocast():
            if seen is not None and isinstance(batch, PictureBatch) and self._holding.form == "similarities":
                features = seen.features(normalised(batch.pictures, preprocessing))
                whole = batch.filled.new_ones(len(batch.pictures), 1, batch.filled.shape[1])
                embeddings = seen.embed(features, whole)[batch.picture_of, 0]
            else:
                embeddings = self.original.encode_image(normalised(batch.unmasked, preprocessing))
        return embeddings.float()

    def _texts(self, nouns: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return what embeddings are compared with: of a noun, the weighted sum of its sentences, or with prompts.

        Gradients are this process's share.
        """
        prompts, weights = self.model.text_prompts, self.model.template_weights
        if prompts is not None and self.noun_tokens is not None:
            named, places = nouns.unique(return_inverse=True)
            own_prompts = _own_share(prompts, self.processes.count)
            return encode_prompted_texts(self.adapted.clip, self.noun_tokens[named], own_prompts)[places]
        found = self.noun_embeddings[nouns]
        if weights is None:
            return found
        return torch.einsum("...sd,s->...d", found, _own_share(weights, self.processes.count))

    def _losses(
        self,
        own: Float[Tensor, "pair view dim"],
        original: Float[Tensor, "pair _dim"],
        nouns: Int[Tensor, "all"],
        hard_nouns: Int[Tensor, "all negative"] | None,
        step: StepContext,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Compute the loss over all processes' pairs, as a function of this process's embeddings alone.

        The gradients that the processes find add up to that of one process: each has the slopes of its own embeddings,
        and its share of those of what all share, such as the logit scale.

        Returns:
            The contrastive loss of all pairs, and this process's share of what holds CLIP to the original.
        """
        processes = step.processes
        image_embeddings = own[:, 0]
        if processes.count > 1:
            first = processes.rank * len(own)
            everyone = step.gather(own[:, 0])  # [all dim], without gradient
            image_embeddings = torch.cat([everyone[:first], own[:, 0], everyone[first + len(own) :]])
        scale = _own_share(self.adapted.logit_scale, processes.count).exp()
        texts = self._texts(nouns)  # [all dim]
        hard = None
        if hard_nouns is not None:
            hard = HardNegatives(self._texts(hard_nouns.clamp(min=0)), hard_nouns != NO_NOUN)
        if self._bias is not None:
            bias, alike = _own_share(self._bias, processes.count), None if self.loss == "contrastive" else nouns
            contrast = sigmoid_loss(image_embeddings, texts, scale, bias, alike, hard_negatives=hard)
        elif self.loss == "noun-aware":
            contrast = noun_contrastive_loss(image_embeddings, texts, scale, nouns, hard_negatives=hard)
        else:
            contrast = contrastive_loss(image_embeddings, texts, scale, hard_negatives=hard)
        if self._holding is None:
            return contrast, torch.zeros_like(contrast)
        if self._holding.form == "similarities":
            names = functional.normalize(self._texts(nouns.unique()).detach(), dim=-1)
            held = similarity_holding_loss(own[:, 1], original, names)
        else:
            held = embedding_holding_loss(own[:, 0], original)
        return contrast, self._holding.weight * held / processes.count


def _own_share(parameter: Tensor, processes: int) -> Tensor:
    """Return the value of what all processes share with one process's part of its gradient: they are summed."""
    return parameter if processes == 1 else parameter.detach() + (parameter - parameter.detach()) / processes


def accuracies(validation: Validation, model: Embed, processes: Processes) -> dict[str, float]:
    """Measure what embeds crops, such as an `ImageSide`; the processes share the scenes."""
    shared = processes.share(len(validation.scenes))
    numbers = validation.counts(model, shared).stacked().to(processes.device)
    return ZeroShotCounts.from_stacked(processes.sum(numbers).cpu()).accuracies(validation.groups)


def learning_rates(trainable: Mapping[str, nn.Parameter], phase: Phase) -> Iterator[tuple[nn.Parameter, Rate]]:
    """Yield each parameter with its rate.

    Norms, biases, the class token and the logit scale, all that has fewer than two dimensions, do not decay.

    Args:
        trainable: As ``select_trainable`` returns them, and what the phase trains beside CLIP.
        phase: What learns how.

    References:
        OVSeg's published script, whose names without decay (bn, ln, bias, logit_scale) are those of fewer dimensions.
    """
    rates = {"mask_prompts": phase.prompts, "template_weights": phase.psm, "text_prompts": phase.text}
    rates |= {"mask_queries.weight": phase.query, "mask_queries.bias": phase.query}
    for name, parameter in trainable.items():
        rate = rates.get(name, phase.tower)
        decays = (parameter.ndim >= 2 or name == "template_weights") and name != "mask_queries.bias"
        yield parameter, rate if decays else rate._replace(weight_decay=0.0)
