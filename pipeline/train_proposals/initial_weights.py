"""The files of weights from which stage 1 starts, and their digests."""

from pathlib import Path

from pipeline.settings import ProposalNetSettings, SettingsError
from pipeline.settings.sections import NONE, SHIPPED
from pipeline.small_proposal_net import WEIGHTS_FILE
from storage_schemas.digests import sha256_of_file


def initial_weights_file(settings: ProposalNetSettings) -> Path | None:
    """Return the file of a whole net from which training starts; None for random weights."""
    if settings.initial_weights == NONE:
        return None
    return WEIGHTS_FILE if settings.initial_weights == SHIPPED else Path(settings.initial_weights)


def file_digest(key: str, path: Path) -> str:
    """Return the sha256 of a file of weights.

    Raises:
        SettingsError: If it is not there.
    """
    if not path.is_file():
        message = f"proposal_net.{key}: there is no such file; correct the path (got {str(path)!r})"
        raise SettingsError([message])
    return sha256_of_file(path)
