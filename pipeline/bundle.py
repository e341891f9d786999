"""What users take from a run: a segmenter's folder, and the adapted CLIP as open_clip loads it."""

from pathlib import Path

from ovseg_models.open_clip_folder import require_free, write_for_open_clip
from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.settings import Settings
from pipeline.text_side import text_side_of
from pipeline.trained_nets import load_adapted_clip, load_proposal_net, stock_mask_adapted_clip
from storage_schemas.checkpoints import IMAGE_TOWER


def bundle(settings: Settings, folder: Path, *, ensemble_weight: float = 0.7, original_clip: bool = False) -> None:
    """Put the proposal net and the adapted CLIP of the settings into a segmenter's folder, complete in itself.

    Args:
        settings: Of the run; those of section ``evaluate`` become the segmenter's.
        folder: Must not exist.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only.
        original_clip: Take CLIP as it was before stage 3, which is the paper's baseline.

    Raises:
        MissingInputError: If stage 1 or stage 3 is not finished.
        PipelineError: If the folder is there already, or the nets don't go together.
    """
    graph = dataflow(settings)
    net_node, clip_node = graph.only("proposal_net"), graph.only("adapted_clip")
    net_node.manifest()
    base = load_clip(settings.clip)
    if original_clip:
        clip = stock_mask_adapted_clip(base)
    else:
        clip_node.manifest()
        text_side = text_side_of(clip_node.artifact)
        if text_side is not None and text_side.temperature is None:
            raise PipelineError(
                f"bundle: {clip_node.artifact.directory} has {text_side.unit} of {len(text_side.weights)} rows, for "
                "which a segmenter's folder has no place; finetune in another mode ('psm' with prompt_templates "
                "'bare' has one), or use it in 'ovseg evaluate' alone"
            )
        clip = load_adapted_clip(clip_node.artifact, base)
    section = settings.evaluate
    if section.temperature != "auto":
        clip.set_temperature(section.temperature)
    try:
        segmenter_settings = SegmenterSettings(
            ensemble_weight=ensemble_weight,
            mask_threshold=section.mask_threshold,
            use_mask_prompts=section.use_mask_prompts,
            short_side_px=section.short_side_px,
            max_side_px=section.max_side_px,
            precision=section.precision,
            prompt_templates=prompt_templates(section.prompt_templates),
            namer=section.namer,
            picture_side_px=section.picture_side_px,
            window_stride_px=section.window_stride_px,
        )
        net = load_proposal_net(net_node.artifact)
        alone = settings.clip_names_alone
        segmenter = Segmenter(net, clip, tokenizer=base.words, settings=segmenter_settings, same_space=not alone)
        segmenter.save(folder)
    except (ValueError, OSError) as error:
        raise PipelineError(f"bundle: {error}") from error


def export_open_clip(settings: Settings, out: Path) -> str:
    """Write the adapted CLIP for open_clip, which has no place for mask prompts.

    Args:
        out: A new folder, or a file ending in .safetensors; see `ovseg_models.open_clip_folder`.

    Returns:
        The lines of Python that load it.

    Raises:
        MissingInputError: If stage 3 is not finished.
        PipelineError: If no phase trained the image tower, or something is there already or cannot be written.
    """
    try:
        require_free(out)
    except (ValueError, OSError) as error:
        raise PipelineError(f"export-clip: {error}") from error
    node = dataflow(settings).only("adapted_clip")
    node.manifest()
    artifact = node.artifact
    if IMAGE_TOWER not in artifact.description.units:
        held = "mask prompts" if text_side_of(artifact) is None else "what names are compared by"
        raise PipelineError(
            f"{artifact.directory}: holds {held} alone, without them it is the original CLIP; "
            "finetune in a mode that trains the image tower, or use 'ovseg bundle'"
        )
    base = load_clip(settings.clip)
    adapted = load_adapted_clip(artifact, base)
    try:
        return write_for_open_clip(out, adapted, base.words)
    except OSError as error:
        raise PipelineError(f"export-clip: {error}") from error
