"""The proposal net: an image in, a fixed number of masks with an embedding in CLIP's space out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ovseg_models.backbones import SwinBackbone, TimmBackbone
from ovseg_models.checkpointing import checkpointed
from ovseg_models.host_to_device import sent
from ovseg_models.pixel_decoder import PixelDecoder
from ovseg_models.query_decoder import QueryDecoder

SIZE_DIVISOR_PX = 32
LOGIT_TEMPERATURE = 100.0  # fixed: CLIP's learned logit_scale plays no part here
_PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet, RGB, 0..255
_PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ProposalOutput:
    """The proposals of a batch, and those of the earlier decoder layers.

    Attributes:
        mask_logits: At stride 4 of the padded input; a sigmoid makes them mask_probs.
        proposal_embeddings: In CLIP's space, L2-normalised.
        aux: The outputs of the other decoder layers, first layer first, for deep supervision; often empty.
    """

    mask_logits: Float[Tensor, "batch query height width"]
    proposal_embeddings: Float[Tensor, "batch query dim"]
    aux: tuple["ProposalOutput", ...] = field(default=())

    @property
    def layers(self) -> tuple["ProposalOutput", ...]:
        """This output, then those of the earlier layers: what the losses go through."""
        return (self, *self.aux)


class Perceptron(nn.Module):
    """Linear layers with a ReLU between each two."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Build the layers; ``widths`` are the sizes of input, hidden layers and output."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(found, given) for found, given in pairwise(widths))

    def forward(self, values: Float[Tensor, "*rows found"]) -> Float[Tensor, "*rows given"]:
        """Apply the layers to the last dimension."""
        *hidden_layers, last = self.layers
        for layer in hidden_layers:
            values = layer(values).relu_()
        mapped: Tensor = last(values)
        return mapped


class ProposalNet(nn.Module):
    """MaskFormer whose class head gives an embedding in CLIP's space for each query.

    Attributes:
        no_object_embedding: [1 dim], learned; what a query that found nothing is compared with.
        arguments: The plain arguments that `build_proposal_net` builds this net from; empty if built by hand.

    References:
        OVSeg, section 3.1; MaskFormer.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: TimmBackbone | SwinBackbone,
        pixel_decoder: PixelDecoder,
        query_decoder: QueryDecoder,
        *,
        mask_head: Perceptron,
        embedding_head: Perceptron,
        no_object_std: float,
        query_source: Literal["res3", "res4", "res5"] = "res5",
    ) -> None:
        """Put the parts together.

        Args:
            backbone: Gives maps at strides 4 to 32.
            pixel_decoder: Gives the mask features from all of them.
            query_decoder: Gives query vectors from a map of the backbone.
            mask_head: From a query vector to the mask features' channels.
            embedding_head: From a query vector to CLIP's space.
            no_object_std: Standard deviation of the no-object embedding at the start.
            query_source: The backbone's map that the query decoder reads.
        """
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder
        self.mask_head = mask_head
        self.embedding_head = embedding_head
        embedding_dim = embedding_head.layers[-1].get_parameter("weight").shape[0]
        self.no_object_embedding = nn.Parameter(torch.randn(1, embedding_dim) * no_object_std)
        self.register_buffer("pixel_mean", torch.tensor(_PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(_PIXEL_STD)[:, None, None], persistent=False)
        self.arguments: dict[str, object] = {}
        self._query_source = query_source
        self._checkpointing = False

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Choose whether backbone and pixel decoder are computed again in the backward pass rather than kept.

        Raises:
            ValueError: If the backbone does not have it.
        """
        self.backbone.set_grad_checkpointing(enabled)
        self._checkpointing = enabled

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], *, every_layer: bool | None = None
    ) -> ProposalOutput:
        """Propose masks.

        Args:
            images: As `preprocess` gives them.
            every_layer: Give the outputs of the earlier decoder layers too; by default while training.

        Returns:
            mask_logits [batch query height/4 width/4] (rounded up) and proposal_embeddings [batch query dim].
        """
        every_layer = self.training if every_layer is None else every_layer
        features = self.backbone(images)
        mask_features: Tensor = (
            checkpointed(self.pixel_decoder, features) if self._checkpointing else self.pixel_decoder(features)
        )
        hidden = self.query_decoder(getattr(features, self._query_source), every_layer=every_layer)
        mask_embeddings = self.mask_head(hidden)
        mask_logits = torch.einsum("lbqc,bchw->lbqhw", mask_embeddings, mask_features)
        embeddings = F.normalize(self.embedding_head(hidden), dim=-1)
        *aux, last = (ProposalOutput(*layer) for layer in zip(mask_logits, embeddings, strict=True))
        return ProposalOutput(last.mask_logits, last.proposal_embeddings, tuple(aux))

    def class_logits(
        self, proposal_embeddings: Float[Tensor, "*rows dim"], text_embeddings: Float[Tensor, "class dim2"]
    ) -> Float[Tensor, "*rows columns"]:
        """Compare proposals with a vocabulary: 100 times the cosine.

        Args:
            proposal_embeddings: L2-normalised, as `forward` gives them.
            text_embeddings: One L2-normalised row per class name.

        Returns:
            Logits [.. query class+1]; no object is the last column.

        Raises:
            ValueError: If the text embeddings have another dimension than the proposals.
        """
        if text_embeddings.shape[-1] != proposal_embeddings.shape[-1]:
            raise ValueError(
                f"class_logits: text embeddings have {text_embeddings.shape[-1]} dimensions, "
                f"expected {proposal_embeddings.shape[-1]}; use the CLIP model that the proposal net was trained with"
            )
        no_object = F.normalize(self.no_object_embedding, dim=-1)
        return LOGIT_TEMPERATURE * proposal_embeddings @ torch.cat((text_embeddings, no_object)).T

    def preprocess(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]] | UInt8[Tensor, "batch 3 _ _"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Normalise images and pad them, right and below, to one size that 32 divides.

        Args:
            images: RGB, 0..255; sizes may differ.

        Returns:
            One batch on the net's device; padding is 0, the mean colour.

        Raises:
            ValueError: If there is no image.
        """
        if len(images) == 0:
            raise ValueError("preprocess: got 0 images, at least one is expected; leave out empty batches")
        height = max(image.shape[-2] for image in images)
        width = max(image.shape[-1] for image in images)
        padded = (height + -height % SIZE_DIVISOR_PX, width + -width % SIZE_DIVISOR_PX)
        batch = self.pixel_mean.new_zeros(len(images), 3, *padded)
        if isinstance(images, Tensor):  # of one size: one step for all of them
            batch[:, :, :height, :width] = (sent(images, batch.device) - self.pixel_mean) / self.pixel_std
            return batch
        for row, image in zip(batch, images, strict=True):
            pixels = sent(image, batch.device)
            row[:, : image.shape[-2], : image.shape[-1]] = (pixels - self.pixel_mean) / self.pixel_std
        return batch
