"""What stage 1's settings come to: the classes that are held out, the file it starts from, and what decides the net.

Nothing here imports torch: planning a run reads it.
"""

from pathlib import Path
from typing import Any

from pipeline.drawn_world.small_proposal_net import WEIGHTS_FILE
from pipeline.settings import ProposalNetSettings, SettingsError, result_settings
from pipeline.settings.sections import NONE, RANDOM, SHIPPED
from storage_schemas.digests import sha256_of_file


def held_out_indices(names: tuple[str, ...], class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the indices of the classes that the net must not learn, ascending.

    Raises:
        SettingsError: If one is no class of the scenes, or none is left.
    """
    unknown = [name for name in names if name not in class_names]
    if unknown:
        message = f"proposal_net.held_out_classes: {unknown} are none of the {len(class_names)} classes of the scenes"
        raise SettingsError([f"{message}; correct the names"])
    held_out = tuple(sorted({class_names.index(name) for name in names}))
    if len(held_out) == len(class_names):
        raise SettingsError(
            [f"proposal_net.held_out_classes: all {len(class_names)} classes are held out; leave one to learn"]
        )
    return held_out


def initial_weights_file(settings: ProposalNetSettings) -> Path | None:
    """Return the file of a whole net from which training starts; None for random weights."""
    if settings.initial_weights == NONE:
        return None
    return WEIGHTS_FILE if settings.initial_weights == SHIPPED else Path(settings.initial_weights)


def result_options(settings: ProposalNetSettings) -> dict[str, Any]:
    """Return the settings that change the net; names of data sets and paths of files become what they represent.

    Raises:
        SettingsError: If a file of weights is not there.
    """
    options: dict[str, Any] = result_settings(settings)
    del options["dataset"], options["validation_dataset"]  # the digests of their scenes are inputs
    # The number of parts was once taken to change the result. Artifacts of one part, the default then, stay valid.
    options["training"]["accumulation_steps"] = 1
    start = initial_weights_file(settings)
    if start is not None:
        options["initial_weights"] = _file_digest("initial_weights", start)
    backbone = options["architecture"]["backbone"]
    if backbone["pretrained"] != RANDOM and Path(backbone["pretrained"]).suffix:
        backbone["pretrained"] = _file_digest("architecture.backbone.pretrained", Path(backbone["pretrained"]))
    return options


def _file_digest(key: str, path: Path) -> str:
    if not path.is_file():
        raise SettingsError([f"proposal_net.{key}: there is no such file; correct the path (got {str(path)!r})"])
    return sha256_of_file(path)
