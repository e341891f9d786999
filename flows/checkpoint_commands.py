"""``ovseg import-checkpoint``, ``export-checkpoint``, ``bundle``, ``export-clip``: segmenters from and to files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from flows.arguments import Overrides, RunArguments

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
        heads: Attention heads of the proposal net, which a file does not show.
        norm_groups: Groups of the pixel decoder's norms, which a file does not show.
        head_width: Channels of an attention head of CLIP, which a file does not show.
        activation: Of CLIP, which a file does not show: quick-gelu for OpenAI's weights and all that were finetuned
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
            embedding_dim=None if clip is None else clip.embedding_dim,
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
    """Return in words what was imported, and what is missing."""
    found = []
    if parts.proposal_net is not None:
        found.append(f"proposal net of {parts.proposal_net.arguments['backbone']}")
    if parts.clip is not None:
        prompts = f"mask prompts in {parts.clip.prompt_depth} layers" if parts.clip.prompt_depth else "no mask prompts"
        dropped = ", blank patches dropped" if parts.clip.blank_patches == "dropped" else ""
        found.append(f"CLIP of {parts.clip.crop_px} px crops in {parts.clip.patch_px} px patches, {prompts}{dropped}")
    if parts.proposal_net is None:
        found.append("the proposal net is missing; --base takes it from another segmenter")
    if parts.clip is None:
        found.append("CLIP is missing; --base takes it from another segmenter")
    if parts.settings.ensemble_weight == 1:
        found.append("CLIP alone names the masks, since MaskFormer's classes are fixed")
    return "; ".join(found)


def bundle(run: RunArguments, *, out: Path, ensemble_weight: float = 0.7, original_clip: bool = False) -> None:
    """Put the proposal net and the adapted CLIP of a run into a segmenter's folder, for 'ovseg segment --model'.

    Args:
        run: Where the settings come from; those of section evaluate become the segmenter's.
        out: Folder to be written; must not exist.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only.
        original_clip: Take CLIP as it was before stage 3: the paper's baseline.

    Raises:
        MissingInputError: If stage 1 or stage 3 is not finished.
        PipelineError: If the folder is there already, or the nets don't go together.
    """
    from pipeline.bundle import bundle as write_bundle

    write_bundle(run.settings(), out, ensemble_weight=ensemble_weight, original_clip=original_clip)
    sys.stdout.write(f"{out}\n")


def export_clip(
    model: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    *,
    out: Path,
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    overrides: Overrides = (),
) -> None:
    """Write the adapted CLIP of a segmenter or of a run so that open_clip loads it.

    What open_clip has no place for, such as mask prompts, is left out, and the log says so.

    Args:
        model: Folder of a segmenter.
        out: New folder, for open_clip's 'local-dir:'; or a file ending in .safetensors, with a JSON beside it.
        config: Settings file (TOML) of a run, in place of a segmenter.
        overrides: Setting that takes the place of the file's; may be given many times.

    Raises:
        MissingInputError: If stage 3 is not finished.
        PipelineError: If no phase trained the image tower, the segmenter has no CLIP, or a file is there already.
    """
    from pipeline.errors import PipelineError

    if (model is None) == (config is None):
        found = "neither a segmenter's folder nor --config" if model is None else f"{model} and --config {config}"
        raise PipelineError(f"export-clip: found {found}, one of them is expected; say whose CLIP to write")
    if config is not None:
        from pipeline.bundle import export_open_clip
        from pipeline.settings import load_settings

        sys.stdout.write(export_open_clip(load_settings(config, overrides), out))
    if model is not None:
        from ovseg_models.open_clip_folder import require_free, write_for_open_clip
        from ovseg_models.segmenter_folder import read_segmenter_folder

        try:
            require_free(out)
            parts = read_segmenter_folder(model)
            if parts.clip is None:
                raise PipelineError(f"{model}: holds a proposal net and no CLIP; give a segmenter with one")
            sys.stdout.write(write_for_open_clip(out, parts.clip, parts.tokenizer))
        except (ValueError, OSError) as error:
            raise PipelineError(f"export-clip: {error}") from error
