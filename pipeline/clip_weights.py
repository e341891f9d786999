"""CLIP's weights as an input of the dataflow: their digest is remembered, so that planning loads no model.

What was computed is kept in the runs directory with size, times and inode of each file that it came from, and with the
versions of the libraries that read them. If any of these changed, CLIP is loaded again.
"""

import importlib.metadata
import os
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pipeline.drawn_world import small_clip
from pipeline.drawn_world.small_clip import RANDOM, SHIPPED, SMALL
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings, result_settings
from storage_schemas.digests import sha256_of_json
from storage_schemas.verification import SETTLED_AFTER_NS, Traits, keep, remembered, traits_of

_DIRECTORY = ".models"
_READERS = ("torch", "open_clip_torch", "timm", "safetensors")
_DIGEST = "digest"
_VERSION = "2"  # raise it when the same files get another digest


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
        # The same settings may mean other files: names may be paths from the current directory, and tags lead to the
        # hub's cache, wherever that is.
        named = (Path(name) for name in (settings.architecture, settings.pretrained))
        where = [str(file.absolute()) for file in named if file.is_file()]
        scheme, _, folder = settings.architecture.partition(":")
        where += [str(Path(folder).absolute())] if scheme == "local-dir" else []
        cache = os.environ.get("HF_HUB_CACHE", os.environ.get("HF_HOME", ""))
        place = sha256_of_json({"settings": result_settings(settings), "files": where, "cache": cache})
        self._memory = runs / _DIRECTORY / f"clip-{place[:16]}.json"
        self._fault: PipelineError | None = None

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
        if self.withheld:
            raise PipelineError(self.withheld)
        if self._fault is not None:  # a download that failed is not tried again for every artifact that needs CLIP
            raise self._fault
        is_meant_to_be_random = self.settings.pretrained == RANDOM
        versions = [_VERSION, *(importlib.metadata.version(package) for package in _READERS)]
        known = remembered(self._memory)
        entry = known.pop(_DIGEST, [])
        if entry[:-1] == versions and known == _traits(map(Path, known)):
            return str(entry[-1]), is_meant_to_be_random
        begun_ns = time.time_ns()
        try:
            digest, is_random, files = _loaded_facts(self.settings)
        except PipelineError as error:
            self._fault = error
            raise
        # Random weights in place of a tag's are not remembered: the network may come back.
        if is_random == is_meant_to_be_random and self._memory.parents[1].is_dir():
            found = _traits(files)
            newest = max((int(changed) for traits in found.values() for changed in traits[1:3]), default=0)
            # A file that was written while it was read, or in the same tick of the clock, is not believed next time.
            if begun_ns - newest > SETTLED_AFTER_NS:
                keep(self._memory, {**found, _DIGEST: [*versions, digest]})
        return digest, is_random


def _traits(files: Iterable[Path]) -> dict[str, Traits]:
    """Return size, times and inode of files by path; one that is not there has none."""
    return {str(file): traits_of(file.stat()) if file.is_file() else [] for file in files}


def _loaded_facts(settings: ClipSettings) -> tuple[str, bool, tuple[Path, ...]]:
    """Load CLIP; returns its digest, whether it is random, and the files that decide it."""
    from ovseg_models.open_clip_models import files_here  # imports torch
    from pipeline.clip_loading import load_clip, weights_of

    loaded = load_clip(settings)
    architecture = small_clip.ARCHITECTURE_FILE if settings.architecture == SMALL else Path(settings.architecture)
    files = [architecture.absolute()] if architecture.suffix == ".json" else []
    if settings.pretrained == SHIPPED:
        files.append(small_clip.WEIGHTS_FILE)
    else:
        found = [file.absolute() for file in files_here(settings.architecture, weights_of(settings))]
        # The hub's cache holds a file per revision; these say which of them counts.
        files += [*found, *(file.parents[2] / "refs" / "main" for file in found if "snapshots" in file.parts)]
    return loaded.digest, loaded.is_random, tuple(dict.fromkeys(files))
