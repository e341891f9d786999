"""What a crop, or one pass of a picture, costs the CLIP that names: operations and memory from its form, and time."""

import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.one_pass import OnePass
from ovseg_models.precision import Precision, autocast

_SIDE = 1024  # of the matrices whose product is timed; a tower's own are about as large
_ROUNDS = 3
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CropCost:
    """What the image tower takes for a crop, without gradients.

    Attributes:
        side_px: Of the crop.
        patches: Lines, and columns, of its patch tokens; 0 without any, where mask prompts have no meaning.
        parameters: Of the image tower.
        operations: Floating-point ones; a multiply-add is two.
        bytes: That a further crop of a batch takes, in single precision and beside the weights.
        seconds: At the speed of a product of matrices on this machine, which a tower does not quite reach.
    """

    side_px: int
    patches: int
    parameters: int
    operations: int
    bytes: int
    seconds: float

    @classmethod
    def of(cls, clip: MaskAdaptedClip, operations_per_s: float) -> "CropCost":
        """Count on a CLIP without numbers.

        Args:
            clip: On torch's device ``meta``.
            operations_per_s: See `operations_per_second`.
        """
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                clip.encode_image(_crops(clip, 1))
            peaks = []
            for count in (_BATCH, 2 * _BATCH):  # of few crops, what does not grow with them may take more
                crops = _crops(clip, count)
                with LiveBytes() as live, EfficientAttention():
                    clip.encode_image(crops)
                peaks.append(live.peak + crops.nbytes)
        operations = int(counter.get_total_flops())
        return cls(
            side_px=clip.crop_px,
            patches=0 if clip.tower is None else clip.tower.grid[0],
            parameters=sum(parameter.numel() for parameter in clip.clip.visual.parameters()),
            operations=operations,
            bytes=(peaks[1] - peaks[0]) // _BATCH,
            seconds=operations / operations_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCost:
    """What one pass takes for a picture with all its masks, without gradients.

    Attributes:
        side_px: Of the square as which it sees the picture.
        masks: Of a picture.
        operations: Floating-point ones; a multiply-add is two.
        bytes: Of a picture, in single precision and beside the weights.
        seconds: As for crops.
    """

    side_px: int
    masks: int
    operations: int
    bytes: int
    seconds: float

    @classmethod
    def of(cls, one_pass: OnePass, masks: int, operations_per_s: float) -> "PassCost":
        """Count on a CLIP without numbers.

        Args:
            one_pass: On torch's device ``meta``.
            masks: Of a picture.
            operations_per_s: See `operations_per_second`.
        """
        picture = torch.empty(1, 3, one_pass.side_px, one_pass.side_px, device="meta")
        filled = torch.empty(1, masks, one_pass.grid[0] * one_pass.grid[1], device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            one_pass.embed(one_pass.features(picture), filled)
        with torch.no_grad(), LiveBytes() as live, EfficientAttention():
            one_pass.embed(one_pass.features(picture), filled)
        operations = int(counter.get_total_flops())
        return cls(
            side_px=one_pass.side_px,
            masks=masks,
            operations=operations,
            bytes=live.peak + picture.nbytes,
            seconds=operations / operations_per_s,
        )


def operations_per_second(device: torch.device, precision: Precision) -> float:
    """Time the product of two matrices on a device, the best of a few rounds."""
    left, right = torch.randn(2, _SIDE, _SIDE, device=device, generator=torch.Generator(device).manual_seed(0))
    best = float("inf")
    with torch.no_grad(), autocast(device, precision):
        for _ in range(_ROUNDS):
            begun = time.perf_counter()
            (left @ right)[0, 0].item()  # waits for the device
            best = min(best, time.perf_counter() - begun)
    return 2 * _SIDE**3 / best


class LiveBytes(TorchDispatchMode):
    """A context that adds up the memory of all tensors made in it and still alive.

    Attributes:
        now: Bytes that are alive.
        peak: The most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's memory until its last view is gone."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class EfficientAttention(TorchFunctionMode):
    """A context in which attention keeps no weights, as on CUDA; without a device torch takes the plain form."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = named or {}
        if function is F.scaled_dot_product_attention:
            query, key, value, *others = arguments
            mask = named.get("attn_mask", others[0] if others else None)
            if mask is not None:
                mask = mask.expand(*query.shape[:-1], key.shape[-2])
            return torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, mask, True, named.get("dropout_p", 0.0)
            )[0]
        return function(*arguments, **named)


def _crops(clip: MaskAdaptedClip, count: int) -> Tensor:
    return torch.empty(count, 3, clip.crop_px, clip.crop_px, device="meta")
