"""Which parameters of a proposal net learn at which rate, and which decay."""

from typing import Any

from torch import nn

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(
    net: nn.Module, *, learning_rate: float, backbone_rate_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups of the parameters that are trained.

    Everything below ``backbone`` learns at its own rate. Norms, embedding tables and Swin's relative position biases do
    not decay; the no-object embedding, a plain parameter, does.

    Args:
        net: A proposal net.
        learning_rate: Of all but the backbone.
        backbone_rate_factor: The backbone's rate in units of that.
        weight_decay: Of all that decays.

    References:
        MaskFormer's published optimizer; OVSeg's settings.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for module_name, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate = learning_rate * (backbone_rate_factor if module_name.split(".")[0] == "backbone" else 1.0)
            exempt = isinstance(module, (*_NORMS, nn.Embedding)) or name == "relative_position_bias_table"
            decay = 0.0 if exempt else weight_decay
            group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())
