"""What every backbone gives: four feature maps at strides 4, 8, 16 and 32."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

STRIDES_PX = (4, 8, 16, 32)


class FeatureMaps(NamedTuple):
    """The feature maps of one batch, finest first; sizes round up when a stride does not divide the image."""

    res2: Float[Tensor, "batch channels2 height2 width2"]
    res3: Float[Tensor, "batch channels3 height3 width3"]
    res4: Float[Tensor, "batch channels4 height4 width4"]
    res5: Float[Tensor, "batch channels5 height5 width5"]
