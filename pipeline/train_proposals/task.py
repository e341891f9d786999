"""What the training loop trains in stage 1: the net, its samples, its losses, and how good its proposals are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovseg_models.matching import LossWeights
from ovseg_models.proposal_losses import proposal_losses, total_query_weight
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.targets import Targets
from pipeline.settings import LossSettings, ProposalTrainingSettings
from pipeline.train_proposals.samples import ProposalBatch, ProposalSamples
from pipeline.train_proposals.validation import Counts, Validation
from pipeline.training.data_order import DataOrder
from pipeline.training.learning_rates import Rate, parameter_groups
from pipeline.training.loader import on_device, size
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes


@dataclass(frozen=True)
class Vocabulary:
    """The classes that are learned.

    Attributes:
        text_embeddings: One L2-normalised row per learned class, on the net's device.
        places: Row of each class of the scenes, -1 for held-out ones, on the CPU.
    """

    text_embeddings: Float[Tensor, "learned dim"]
    places: Tensor

    @classmethod
    def without(cls, held_out: Sequence[int], text_embeddings: Float[Tensor, "class dim"]) -> "Vocabulary":
        """Leave held-out classes out of a vocabulary."""
        learned = torch.tensor([index for index in range(len(text_embeddings)) if index not in held_out])
        places = torch.full((len(text_embeddings),), -1)
        places[learned] = torch.arange(len(learned))
        return cls(text_embeddings[learned.to(text_embeddings.device)], places)


@dataclass(frozen=True, kw_only=True)
class ProposalTask:
    """Stage 1 as the training loop sees it.

    Attributes:
        net: What is trained, on its device.
        samples: What it is trained on.
        vocabulary: The learned classes.
        validation: What it is measured on; None for nothing.
        held_out: Held-out classes of the validation's vocabulary.
        processes: The processes that train together.
        channels_last: Keep images channels-last in memory.
    """

    net: ProposalNet
    settings: ProposalTrainingSettings
    samples: ProposalSamples
    vocabulary: Vocabulary
    validation: Validation | None
    held_out: tuple[int, ...]
    processes: Processes
    channels_last: bool

    @property
    def model(self) -> nn.Module:
        """The net."""
        return self.net

    @property
    def order(self) -> DataOrder:
        """Which scenes a step sees."""
        return DataOrder(len(self.samples.scenes), self.settings.batch_images, self.settings.seed)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW with its default moments, as in the published setting."""
        rates = learning_rates(
            self.net,
            learning_rate=self.settings.learning_rate,
            backbone_rate_factor=self.settings.backbone_rate_factor,
            weight_decay=self.settings.weight_decay,
        )
        return torch.optim.AdamW(parameter_groups(rates))

    def backward(self, model: nn.Module, batch: ProposalBatch, step: StepContext) -> Mapping[str, Tensor]:
        """Compute the losses of a batch and their gradients; normalisers are those of the batch over all processes.

        Returns:
            The loss over all decoder outputs, and the unweighted terms of the last one.

        Raises:
            FloatingPointError: If a matching cost is not finite.
        """
        classes = batch.classes  # stays on the host, which so knows how many targets each picture has
        counts = (classes >= 0).sum(1).tolist()  # targets of each picture
        weights = loss_weights(self.settings.loss)
        queries = self.net.query_decoder.query_positions.num_embeddings
        query_weight = total_query_weight(counts, queries, no_object_weight=weights.no_object)
        # Summed on the host, which need not wait for the device then.
        num_masks, query_weight = step.sum(torch.tensor([float(sum(counts)), query_weight])).tolist()
        batch = on_device(batch, self.processes.device)
        left_out = self.settings.loss.unlabelled_pixels == "left_out"
        targets = []
        for row, present in enumerate(classes):
            occurring = present[present >= 0]  # the row without its filling
            label_map = batch.label_maps[row]
            # [side side] against [class 1 1]: one mask per class that occurs, [class side side]
            masks = label_map == batch.classes[row, : len(occurring), None, None]
            counted = label_map != self.samples.augmentation.ignore_label if left_out else None
            targets.append(Targets(self.vocabulary.places[occurring], masks, counted))
        totals: dict[str, Tensor] = {}
        first = 0
        for part in step.cut(batch):
            images: Tensor = self.net.preprocess(part.images)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with step.autocast():
                output = model(images)
                text_embeddings = self.vocabulary.text_embeddings
                class_logits = [
                    self.net.class_logits(layer.proposal_embeddings, text_embeddings) for layer in output.layers
                ]
            losses = proposal_losses(
                output,
                class_logits,
                targets[first : first + size(part)],
                image_size=(images.shape[-2], images.shape[-1]),
                num_masks=num_masks,
                query_weight=query_weight,
                weights=weights,
                checkpointing=self.settings.gradient_checkpointing,
            )
            first += size(part)
            step.backward(losses.total)  # frees the part's activations before the next one is computed
            for name, value in {"loss": losses.total, **losses.layers[0]._asdict()}.items():
                totals[name] = totals.get(name, 0.0) + value.detach()
        return totals

    def after_step(self) -> None:
        """Do nothing: no parameter has bounds."""

    def validate(self) -> Mapping[str, float]:
        """Measure the net on the validation scenes, which the processes share."""
        if self.validation is None:
            return {}
        shared = self.processes.share(len(self.validation.scenes))
        numbers = self.validation.counts(self.net, shared).flat().to(self.processes.device)
        classes = len(self.validation.text_embeddings)
        counts = Counts.from_flat(self.processes.sum(numbers).cpu(), classes)
        if not self.held_out:
            return counts.figures({})
        seen = [index for index in range(classes) if index not in self.held_out]
        return counts.figures({"seen": seen, "unseen": self.held_out})

    def describe(self, batch: ProposalBatch) -> str:
        """Name the scenes of a batch with their shards."""
        places = [self.samples.scenes.place(number) for number in batch.numbers.tolist()]
        return "scenes " + ", ".join(f"{key} ({shard})" for shard, key in places)


def loss_weights(settings: LossSettings) -> LossWeights:
    """Return the weights of the losses as the model's code names them."""
    return LossWeights(
        classification=settings.class_weight,
        focal=settings.mask_weight,
        dice=settings.dice_weight,
        no_object=settings.no_object_weight,
    )


_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def learning_rates(
    net: nn.Module, *, learning_rate: float, backbone_rate_factor: float, weight_decay: float
) -> Iterator[tuple[nn.Parameter, Rate]]:
    """Yield each parameter that is trained with its rate.

    Everything below ``backbone`` learns at its own rate. Norms, embedding tables and Swin's relative position biases do
    not decay; the no-object embedding, a plain parameter, does.

    Args:
        learning_rate: Of all but the backbone.
        backbone_rate_factor: The backbone's rate in units of that.
        weight_decay: Of all that decays.

    References:
        MaskFormer's published optimizer; OVSeg's settings.
    """
    for module_name, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                rate = learning_rate * (backbone_rate_factor if module_name.split(".")[0] == "backbone" else 1.0)
                exempt = isinstance(module, (*_NORMS, nn.Embedding)) or name == "relative_position_bias_table"
                yield parameter, Rate(rate, 0.0 if exempt else weight_decay)
