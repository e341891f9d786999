"""What a stage stands on: scenes made on demand, finished artifacts of the stages before, and CLIP's digest."""

import logging
from collections.abc import Iterable
from functools import lru_cache

from pipeline.errors import PipelineError
from pipeline.prepare.prepare import plan_prepare, prepare
from pipeline.settings import ClipSettings, Settings, SettingsError
from pipeline.settings.runner import compute_of, limits_of
from storage_schemas.artifact import Artifact
from storage_schemas.errors import StorageError

logger = logging.getLogger(__name__)


class MissingInputError(PipelineError):
    """A stage was asked to begin before what it reads was finished."""


def finished_digest(artifact: Artifact, *, made_by: str) -> str:
    """Return the digest that stands for a finished artifact among the inputs of another.

    Args:
        artifact: The input.
        made_by: The command that makes it, such as ``"ovseg mine"``.

    Raises:
        MissingInputError: If the artifact is not finished, or a file of it is not what was written.
    """
    try:
        return artifact.manifest().digest()
    except StorageError as error:
        message = f"{artifact.directory}: is not finished; run '{made_by}' first ({error})"
        raise MissingInputError(message) from error


def scenes_of(settings: Settings, dataset_name: str) -> Artifact:
    """Return the scenes of a data set of the settings, prepared or not.

    Raises:
        SettingsError: If the settings have no data set of that name.
        LayoutError: If the data set's directory does not look as its layout says.
    """
    if dataset_name not in settings.datasets:
        known = ", ".join(settings.datasets) or "none"
        message = f"datasets: a data set is wanted here, one of {known}; name it in the stage's settings"
        raise SettingsError([f"{message} (got {dataset_name!r})"])
    return plan_prepare(settings.datasets[dataset_name], settings.runs_dir).artifact


def prepare_missing(settings: Settings, dataset_names: Iterable[str]) -> None:
    """Prepare the named data sets, as far as that is not done.

    Args:
        settings: Where the data sets are described, and where and how wide the work runs.
        dataset_names: Names of data sets; empty ones and repeats are passed over.

    Raises:
        SettingsError: If the settings have no data set of a name.
        LayoutError: If a data set's directory does not look as its layout says.
        StageError: If a shard could not be made, or too many scenes are faulty.
    """
    for name in dict.fromkeys(name for name in dataset_names if name):
        if not scenes_of(settings, name).status().finished:
            logger.info("data set %s is prepared first", name)
            prepare(
                settings.datasets[name],
                settings.runs_dir,
                compute=compute_of(settings),
                limits=limits_of(settings),
            )


def clip_digest(settings: ClipSettings) -> str:
    """Return the digest of the weights that the settings name; they are loaded once per process.

    Raises:
        PipelineError: If architecture or weights are not to be had, or do not fit each other.
    """
    return _clip_facts(settings)[0]


def clip_is_random(settings: ClipSettings) -> bool:
    """Tell whether CLIP has random weights, whatever the settings name, as nothing could be downloaded.

    Raises:
        PipelineError: As for `clip_digest`.
    """
    return _clip_facts(settings)[1]


@lru_cache(maxsize=4)
def _clip_facts(settings: ClipSettings) -> tuple[str, bool]:
    """Return the digest of CLIP's weights, and whether they are random."""
    from pipeline.clip_loading import load_clip  # imports torch

    loaded = load_clip(settings)
    return loaded.digest, loaded.is_random
