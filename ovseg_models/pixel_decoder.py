"""The pixel decoder: from a backbone's maps to one map of mask features at stride 4."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from ovseg_models.backbones import FeatureMaps


class PixelDecoder(nn.Module):
    """A feature pyramid, read from the top: res5 is smoothed, then each finer map is added and smoothed again.

    References:
        MaskFormer's BasePixelDecoder, as OVSeg uses it.
    """

    def __init__(self, channels: Sequence[int], *, width: int, mask_width: int, norm_groups: int) -> None:
        """Build the pyramid.

        Args:
            channels: Of res2, res3, res4 and res5.
            width: Channels inside the pyramid.
            mask_width: Channels of the mask features.
            norm_groups: Groups of each GroupNorm; a divisor of width.
        """
        super().__init__()
        *finer, coarsest = channels
        self.lateral = nn.ModuleList(
            conv_norm(found, width, kernel=1, norm_groups=norm_groups, relu=False) for found in finer
        )
        self.smooth = nn.ModuleList(
            conv_norm(found, width, kernel=3, norm_groups=norm_groups, relu=True)
            for found in (*[width] * len(finer), coarsest)
        )
        self.mask_features = nn.Conv2d(width, mask_width, kernel_size=3, padding=1)
        xavier_fill(self.mask_features)

    def forward(self, features: FeatureMaps) -> Float[Tensor, "batch mask_width height width"]:
        """Compute the mask features at the size of res2."""
        pyramid: Tensor = self.smooth[-1](features.res5)
        for level in reversed(range(len(self.lateral))):
            finer: Tensor = self.lateral[level](features[level])
            pyramid = self.smooth[level](finer + F.interpolate(pyramid, size=finer.shape[-2:], mode="nearest"))
        mask_features: Tensor = self.mask_features(pyramid)
        return mask_features


def conv_norm(found: int, width: int, *, kernel: int, norm_groups: int, relu: bool) -> nn.Sequential:
    """Build a convolution without bias, a GroupNorm and, if asked, a ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(found, width, kernel_size=kernel, padding=kernel // 2, bias=False),
        norm=nn.GroupNorm(norm_groups, width),
    )
    xavier_fill(layers["conv"])
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def xavier_fill(convolution: nn.Module) -> None:
    """Draw a convolution's weights uniformly, scaled by its inputs alone, and zero its bias (Caffe2's Xavier)."""
    nn.init.kaiming_uniform_(convolution.get_parameter("weight"), a=1)
    if getattr(convolution, "bias", None) is not None:
        nn.init.zeros_(convolution.get_parameter("bias"))
