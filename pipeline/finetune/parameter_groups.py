"""Which parameters of a mask-adapted CLIP learn at which rate, and which decay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

_PROMPTS = "mask_prompts"


class Rate(NamedTuple):
    """How a part of the model learns.

    Attributes:
        learning_rate: After the warm-up.
        weight_decay: Of its weights with two dimensions or more.
    """

    learning_rate: float
    weight_decay: float


def parameter_groups(trainable: Mapping[str, nn.Parameter], *, tower: Rate, prompts: Rate) -> list[dict[str, Any]]:
    """Return AdamW's groups.

    Norms, biases, the class token and the logit scale, all that has fewer than two dimensions, do not decay.

    Args:
        trainable: As ``select_trainable`` returns them.
        tower: Of the image tower and the logit scale.
        prompts: Of the mask prompts.

    References:
        OVSeg's published script, whose names without decay (bn, ln, bias, logit_scale) are those of fewer dimensions.
    """
    groups: dict[Rate, dict[str, Any]] = {}
    for name, parameter in trainable.items():
        rate = prompts if name == _PROMPTS else tower
        own = rate if parameter.ndim >= 2 else rate._replace(weight_decay=0.0)
        group = groups.setdefault(own, {"params": [], "lr": own.learning_rate, "weight_decay": own.weight_decay})
        group["params"].append(parameter)
    return list(groups.values())
