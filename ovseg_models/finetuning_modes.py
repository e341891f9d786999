"""Which parameters the two ways of adapting CLIP train: finetuning (FT) and mask prompt tuning (MPT)."""

from typing import Literal, TypeAlias, get_args

from torch import nn

from ovseg_models.mask_adapted_clip import MaskAdaptedClip

FinetuningMode: TypeAlias = Literal["ft", "mpt", "ft+mpt"]
"""FT trains the whole image tower, MPT the mask prompts alone; no mode trains the text tower."""

_PREFIXES = {"ft": ("clip.visual.",), "mpt": ("mask_prompts",), "ft+mpt": ("clip.visual.", "mask_prompts")}


def select_trainable(
    model: MaskAdaptedClip, mode: FinetuningMode, *, train_logit_scale: bool = True
) -> dict[str, nn.Parameter]:
    """Let a mode's parameters take gradients and freeze all the others.

    Args:
        model: Is changed: each parameter's ``requires_grad`` is set.
        mode: What to train.
        train_logit_scale: Whether the logit scale is trained too, in any mode.

    Returns:
        The trainable parameters by their names in the model, for the optimizer.

    Raises:
        ValueError: If the mode is unknown, or trains prompts that the model hasn't.

    References:
        OVSeg, section 3.3. The published code trains the logit scale in every mode; the paper is silent.
    """
    if mode not in get_args(FinetuningMode):
        raise ValueError(f"select_trainable: mode is {mode!r}, one of {get_args(FinetuningMode)} is expected")
    if "mpt" in mode and model.mask_prompts is None:
        raise ValueError(
            f"select_trainable: mode {mode!r} trains mask prompts, the model has none (prompt_depth 0); "
            "build it with a prompt_depth of at least 1"
        )
    prefixes = (*_PREFIXES[mode], "clip.logit_scale") if train_logit_scale else _PREFIXES[mode]
    trainable = {name: parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return trainable
