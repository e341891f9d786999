"""Whether the device and the tagger that settings name are on this machine."""

from collections.abc import Collection, Iterator

from pipeline.errors import PipelineError
from pipeline.mine.tagger.sources import TaggerMissingError, tagger_identity
from pipeline.outlook.finding import Finding
from pipeline.settings import Settings
from pipeline.training.processes import chosen_device

_TRAININGS = {"train-proposals", "finetune"}


def device_findings(settings: Settings, stages: Collection[str]) -> Iterator[Finding]:
    """Say that the device is not here.

    Args:
        settings: Of the run.
        stages: Names of the stages that write something. Preparing needs no device; of a Dask cluster elsewhere nothing
            is known, but trainings stay in the run's own process.
    """
    if not _TRAININGS & set(stages) and (settings.dask.address or not set(stages) - {"prepare"}):
        return
    try:
        chosen_device(settings.compute.device)
    except PipelineError as error:
        where, _, text = str(error).partition(": ")
        yield Finding(where, text, is_missing=True)


def tagger_findings(settings: Settings, stages: Collection[str]) -> Iterator[Finding]:
    """Say that the tagger is not here that finds the nouns of captions.

    Args:
        settings: Of the run.
        stages: Names of the stages that write something. Those after mining look for its pairs, whose digest covers the
            tagger, unless pairs that were mined elsewhere are named.
    """
    if not settings.mine.dataset or not settings.mine.captions_per_image:
        return
    looking = {"mine"} if settings.finetune.pairs_dir else {"mine", "finetune", "evaluate"}
    if not looking & set(stages):
        return
    try:
        tagger_identity(settings.mine.nouns.tagger)
    except TaggerMissingError as error:
        yield Finding("mine.nouns.tagger", str(error).removeprefix("nouns: "), is_missing=True)
