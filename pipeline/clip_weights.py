"""CLIP's weights as an input of the dataflow: their digest is remembered, so that planning loads no model.

What was computed is kept in the runs directory with size, times and inode of each file that it came from, and with the
versions of the libraries that read them. If any of these changed, CLIP is loaded again.
"""

import importlib.metadata
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pipeline import small_clip
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings, result_settings
from pipeline.small_clip import RANDOM, SHIPPED, SMALL
from storage_schemas.digests import sha256_of_json
from storage_schemas.verification import SETTLED_AFTER_NS, Traits, keep, remembered, traits_of

_DIRECTORY = ".models"
_READERS = ("torch", "open_clip_torch", "safetensors")
_DIGEST = "digest"


class ClipWeights:
    """The CLIP that settings name.

    Args:
        settings: Which.
        runs: Runs directory, in which the digest is remembered.

    Attributes:
        withheld: Why the digest must not be computed now, such as a download that it would need; empty for no reason.
    """

    def __init__(self, settings: ClipSettings, runs: Path) -> None:
        self.settings = settings
        self.withheld = ""
        self._memory = runs / _DIRECTORY / f"clip-{sha256_of_json(result_settings(settings))[:16]}.json"

    def digest(self) -> str:
        """Return the digest of all weights.

        Raises:
            PipelineError: If architecture or weights are not available, or do not fit each other.
        """
        return self._facts[0]

    def is_random(self) -> bool:
        """Return whether the weights are random, asked for or because none could be downloaded.

        Raises:
            PipelineError: As `digest`.
        """
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[str, bool]:
        known = remembered(self._memory)
        versions = [importlib.metadata.version(package) for package in _READERS]
        *kept_versions, digest = known.pop(_DIGEST, [""])
        if self.withheld:
            raise PipelineError(self.withheld)
        if kept_versions == versions and known == _traits(map(Path, known)):
            return str(digest), self.settings.pretrained == RANDOM
        loaded, is_random, files = _loaded_facts(self.settings)
        # Random weights in place of a tag's are not remembered: the network may come back.
        if is_random == (self.settings.pretrained == RANDOM) and self._memory.parents[1].is_dir():
            found = _traits(files)
            newest = max((int(changed) for _, *times, _ in found.values() for changed in times), default=0)
            if time.time_ns() - newest > SETTLED_AFTER_NS:  # a second write in the same tick would leave no trace
                keep(self._memory, {**found, _DIGEST: [*versions, loaded]})
        return loaded, is_random


def _traits(files: Iterable[Path]) -> dict[str, Traits]:
    """Return size, times and inode of files by path; one that is not there has none."""
    return {str(file): traits_of(file.stat()) if file.is_file() else [] for file in files}


def _loaded_facts(settings: ClipSettings) -> tuple[str, bool, tuple[Path, ...]]:
    """Load CLIP; returns its digest, whether it is random, and the files that decide it."""
    from ovseg_models.pretrained_clip import downloaded_file  # imports torch
    from pipeline.clip_loading import load_clip

    loaded = load_clip(settings)
    architecture = small_clip.ARCHITECTURE_FILE if settings.architecture == SMALL else Path(settings.architecture)
    files = [architecture.absolute()] if architecture.suffix == ".json" else []
    if settings.pretrained == SHIPPED:
        files.append(small_clip.WEIGHTS_FILE)
    elif Path(settings.pretrained).is_file():
        files.append(Path(settings.pretrained).absolute())
    elif (file := downloaded_file(settings.architecture, settings.pretrained)) is not None:
        # The hub's cache holds a file per revision; this one says which of them counts.
        files += [file, file.parents[2] / "refs" / "main"]
    return loaded.digest, loaded.is_random, tuple(files)
