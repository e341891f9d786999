"""``ovseg import-checkpoint`` and ``ovseg export-checkpoint``: published weights to a segmenter's folder, and back."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from ovseg_models.segmenter_folder import SegmenterParts


def import_checkpoint(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    base: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    heads: int = 8,
    norm_groups: int = 32,
    head_width: int = 64,
    activation: Literal["quick-gelu", "gelu"] = "quick-gelu",
) -> None:
    """Make a segmenter of a published checkpoint.

    Understood are OVSeg's whole models, MaskFormer's own, and finetuned CLIP in the layout of open_clip, of its
    training or of OpenAI. Nothing in the file is run as code. A file of CLIP alone, or of MaskFormer, gives one part;
    with --base the other part comes from an existing segmenter.

    Args:
        file: The checkpoint, ending in .pth, .pt, .bin, .safetensors or .pkl (NumPy arrays).
        out: Folder to be written; must not exist.
        base: Folder of a segmenter that gives what the file lacks.
        heads: Attention heads of the proposal net, which a file does not tell.
        norm_groups: Groups of the pixel decoder's norms, which a file does not tell.
        head_width: Channels of an attention head of CLIP, which a file does not tell.
        activation: Of CLIP, which a file does not tell: quick-gelu for OpenAI's weights and all that were finetuned
            from them, gelu for most others.

    Raises:
        PipelineError: If the file cannot be read safely or does not fit, or the folder is there already.
    """
    from ovseg_models.published_checkpoints import combine_parts, read_published_checkpoint
    from ovseg_models.segmenter_folder import read_segmenter_folder, write_segmenter_folder
    from pipeline.errors import PipelineError

    try:
        base_parts = None if base is None else read_segmenter_folder(base)
        clip = None if base_parts is None else base_parts.clip
        parts = read_published_checkpoint(
            file,
            heads=heads,
            norm_groups=norm_groups,
            head_width=head_width,
            quick_gelu=activation == "quick-gelu",
            embedding_dim=None if clip is None else clip.clip.visual.output_dim,
        )
        if base_parts is not None:
            parts = combine_parts(parts, base_parts)
        write_segmenter_folder(out, parts)
    except (ValueError, OSError) as error:
        raise PipelineError(str(error)) from error
    sys.stdout.write(f"{out}: {_description(parts)}\n")
    if parts.clip is not None and (base_parts is None or parts.clip is not base_parts.clip):
        sys.stdout.write(
            f"CLIP's activation: {activation}, which no file states; 'quick-gelu' is right for OpenAI's weights and "
            "all that were finetuned from them, 'gelu' for most others; --activation changes it\n"
        )


def export_checkpoint(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
) -> None:
    """Write a segmenter's weights in the published layout that it came from, else in OVSeg's.

    Args:
        model: Folder of a segmenter.
        out: File to be written, ending in .pth or .pt; must not exist.

    Raises:
        PipelineError: If the folder cannot be read, a net has a form that no published layout has, or the file is
            there already.
    """
    from ovseg_models.published_checkpoints import write_published_checkpoint
    from ovseg_models.segmenter_folder import read_segmenter_folder
    from pipeline.errors import PipelineError

    try:
        write_published_checkpoint(read_segmenter_folder(model), out)
    except (ValueError, OSError) as error:
        raise PipelineError(str(error)) from error
    sys.stdout.write(f"{out}\n")


def _description(parts: "SegmenterParts") -> str:
    """Say what was imported, and what is still lacking."""
    told = []
    if parts.proposal_net is not None:
        told.append(f"proposal net of {parts.proposal_net.arguments['backbone']}")
    if parts.clip is not None:
        prompts = f"mask prompts in {parts.clip.prompt_depth} layers" if parts.clip.prompt_depth else "no mask prompts"
        dropped = ", blank patches dropped" if parts.clip.blank_patches == "dropped" else ""
        told.append(f"CLIP of {parts.clip.crop_px} px crops in {parts.clip.patch_px} px patches, {prompts}{dropped}")
    if parts.proposal_net is None:
        told.append("a proposal net is lacking; --base takes it from another segmenter")
    if parts.clip is None:
        told.append("CLIP is lacking; --base takes it from another segmenter")
    if parts.settings.ensemble_weight == 1:
        told.append("CLIP alone names the masks, since MaskFormer's classes are fixed")
    return "; ".join(told)
