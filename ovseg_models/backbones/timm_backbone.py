"""Any timm network with ``features_only`` as a backbone, and R101c, the paper's ResNet, built from one of them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from jaxtyping import Float
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from ovseg_models.backbones.feature_maps import STRIDES_PX, FeatureMaps
from ovseg_models.checkpointing import Blocks

_R101C_RES5_DILATIONS = (1, 2, 4)


class TimmBackbone(nn.Module):
    """The maps at strides 4, 8, 16 and 32 of a timm feature network.

    Attributes:
        channels: Channels of res2, res3, res4 and res5.
    """

    channels: tuple[int, int, int, int]

    def __init__(self, body: nn.Module, *, outputs: Sequence[int], channels: tuple[int, int, int, int]) -> None:
        """Wrap a feature network.

        Args:
            body: Maps images to a list of feature maps.
            outputs: Where in that list res2, res3, res4 and res5 stand.
            channels: Their channels.
        """
        super().__init__()
        for name, stage in body.named_children() if isinstance(body, nn.ModuleDict) else ():  # each is called as one
            # A stage of a ResNet; a stem's layers, which are no blocks, may change their inputs in place.
            if type(stage) is nn.Sequential and all(any(block.children()) for block in stage):
                body.add_module(name, Blocks(OrderedDict(stage.named_children())))  # names of parameters stay
        self.body = body
        self.channels = channels
        self._outputs = tuple(outputs)
        self._channels_come_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Choose whether blocks are computed again in the backward pass rather than kept.

        Raises:
            ValueError: If this network computes nothing again, or its batch norms would count that too.
        """
        blocks = [module for module in self.body.modules() if isinstance(module, Blocks)]
        for stage in blocks:
            stage.checkpointing = enabled
        if blocks or not enabled:
            return
        # Other networks of timm have a switch of their own, which knows nothing of running statistics.
        switch = getattr(self.body, "set_grad_checkpointing", None)
        if switch is None or any(isinstance(module, nn.BatchNorm2d) for module in self.body.modules()):
            raise ValueError(
                f"backbone {type(self.body).__name__}: gradient_checkpointing is for ResNets, Swins, and networks that "
                "timm can checkpoint and that have no batch norms to train; set frozen_batch_norm, or leave it off"
            )
        switch(enabled)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> FeatureMaps:
        """Compute the feature maps of normalised images."""
        every_map = self.body(images)
        maps = [every_map[index] for index in self._outputs]
        if self._channels_come_last:
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        return FeatureMaps(*maps)


def build_timm_backbone(
    name: str,
    *,
    tag: str | None = None,
    freeze_at: int = 0,
    frozen_batch_norm: bool = False,
    timm_arguments: Mapping[str, Any] | None = None,
) -> TimmBackbone:
    """Build a backbone from a timm model name.

    Args:
        name: A timm model whose ``features_only`` form has maps at strides 4, 8, 16 and 32.
        tag: timm's name of pretrained weights, fetched by timm; random weights without one.
        freeze_at: 0 trains all, 1 freezes the stem, 2 the stem and res2, and so on up to 5.
        frozen_batch_norm: Turn each batch norm into a fixed affine map: neither statistics nor weights change.
        timm_arguments: Passed to timm, for example ``{"channels": [16, 32, 64, 96]}`` for a ResNet.

    Raises:
        ValueError: If the strides are others, or if freeze_at is out of bounds or not supported by this model.
    """
    full_name = f"{name}.{tag}" if tag else name
    body: Any = timm.create_model(full_name, pretrained=tag is not None, features_only=True, **(timm_arguments or {}))
    strides_px = list(body.feature_info.reduction())
    if not set(STRIDES_PX) <= set(strides_px):
        raise ValueError(
            f"backbone {name!r}: its maps have strides {strides_px}, {list(STRIDES_PX)} are expected; "
            "choose a hierarchical network, for example 'resnet18'"
        )
    outputs = [strides_px.index(stride) for stride in STRIDES_PX]
    if frozen_batch_norm:
        body = freeze_batch_norm_2d(body)
    _freeze_stages(name, body, outputs, freeze_at)
    every_channels = body.feature_info.channels()
    res2, res3, res4, res5 = (every_channels[index] for index in outputs)
    return TimmBackbone(body, outputs=outputs, channels=(res2, res3, res4, res5))


def build_r101c(*, tag: str | None = None, freeze_at: int = 2, frozen_batch_norm: bool = True) -> TimmBackbone:
    """Build R101c: a ResNet-101 with a stem of three 3x3 convolutions, and res5 dilated by 1, 2, 4.

    The network known as DeepLab's "R-103". Defaults are those of the published OVSeg setting: stem and res2
    frozen, batch norm fixed everywhere.

    Args:
        tag: timm's name of pretrained weights for ``resnet101s``.
        freeze_at: See `build_timm_backbone`.
        frozen_batch_norm: See `build_timm_backbone`.
    """
    backbone = build_timm_backbone("resnet101s", tag=tag, freeze_at=freeze_at, frozen_batch_norm=frozen_batch_norm)
    res5 = backbone.body.get_submodule("layer4")
    for block, dilation in zip(res5.children(), _R101C_RES5_DILATIONS, strict=True):
        convolution = block.get_submodule("conv2")
        convolution.dilation = convolution.padding = (dilation, dilation)  # type: ignore[assignment]
    return backbone


def _freeze_stages(name: str, body: nn.Module, outputs: Sequence[int], freeze_at: int) -> None:
    """Stop the training of the stem and of the first stages; their batch norms become fixed too."""
    if not 0 <= freeze_at <= 5:
        raise ValueError(f"backbone {name!r}: freeze_at is {freeze_at}, 0 to 5 is expected; 0 trains every stage")
    if freeze_at == 0:
        return
    returned = getattr(body, "return_layers", None)  # child's name -> index of its map, as text
    if returned is None or not isinstance(body, nn.ModuleDict):
        raise ValueError(f"backbone {name!r}: freeze_at is {freeze_at}, but its stages are not separable; use 0")
    child_of_map = {int(index): child for child, index in returned.items()}
    children = list(body)
    res2 = children.index(child_of_map[outputs[0]])
    stop = res2 if freeze_at == 1 else children.index(child_of_map[outputs[freeze_at - 2]]) + 1
    for child in children[:stop]:
        body[child] = freeze_batch_norm_2d(body[child])
        body[child].requires_grad_(requires_grad=False)
