"""``ovseg bundle`` and ``ovseg export-clip``: what users take away of a run."""

import sys
from pathlib import Path

from flows.arguments import RunArguments


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


def export_clip(run: RunArguments, *, out: Path) -> None:
    """Write the adapted CLIP as a plain open_clip file, without the mask prompts, for which open_clip has no place.

    Args:
        run: Where the settings come from.
        out: File to be written, ending in .safetensors; its JSON comes to lie beside it.

    Raises:
        MissingInputError: If stage 3 is not finished.
        PipelineError: If no phase trained the image tower, or a file is there already.
    """
    from pipeline.bundle import export_open_clip

    config = export_open_clip(run.settings(), out)
    sys.stdout.write(
        f"open_clip.add_model_config({str(config)!r})\n"
        f"open_clip.create_model({config.stem!r}, pretrained={str(out)!r})\n"
    )
