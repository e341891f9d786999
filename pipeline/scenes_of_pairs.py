"""The scenes that pairs were mined from, found by their digest."""

from pathlib import Path

from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact, artifacts_below
from storage_schemas.pairs import KIND
from storage_schemas.scenes import KIND as SCENES


def scenes_of(pairs: Artifact, scenes: Artifact | None) -> Artifact:
    """Return the scenes that pairs were mined from, checked by their digest.

    A subset of pairs knows the pairs that it was chosen from, which know their scenes.

    Raises:
        PipelineError: If they are not found, or those given are other ones.
    """
    inputs, runs = pairs.identity.inputs, pairs.directory.parent.parent
    while "scenes" not in inputs and "pairs" in inputs:
        whole = with_digest(runs, KIND, inputs["pairs"])
        inputs = whole.identity.inputs if whole is not None else {}
    expected = inputs.get("scenes")
    if scenes is None and expected is not None:
        scenes = with_digest(runs, SCENES, expected)
    if scenes is None:
        raise PipelineError(f"{pairs.directory}: its scenes are not below {runs}; name them by --scenes")
    scenes.require(SCENES)
    if expected is not None and scenes.manifest().digest() != expected:
        raise PipelineError(
            f"{scenes.directory}: has the digest {scenes.manifest().digest()[:12]}, the pairs are of scenes "
            f"{expected[:12]}; give these"
        )
    return scenes


def with_digest(runs: Path, kind: str, digest: str) -> Artifact | None:
    """Return the finished artifact whose manifest has a digest, if it is below a runs directory."""
    found = (artifact for artifact in artifacts_below(runs, kind) if artifact.status().finished)
    return next((artifact for artifact in found if artifact.manifest().digest() == digest), None)
