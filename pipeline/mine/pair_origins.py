"""What pairs were made of, found again: artifacts by the digests that pairs name, beside them in a runs directory.

The field is ``identity.inputs`` of ``artifact.json``: by role, the digest of the manifest of each input
(``document_digest`` of its ``manifest.json``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.mine.scene_nouns import CaptionNouns
from pipeline.scenes_of_pairs import with_digest
from pipeline.settings import NounSettings
from pipeline.text_embeddings import Vector, known_texts, vectors_of
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.embeddings import KIND as EMBEDDINGS
from storage_schemas.pairs import KIND as PAIRS
from storage_schemas.pairs import read_index
from storage_schemas.proposals import KIND as PROPOSALS
from storage_schemas.scenes import KIND as SCENES

_KINDS = {"scenes": SCENES, "embeddings": EMBEDDINGS, "proposals": PROPOSALS}


@dataclass(frozen=True)
class PairOrigins:
    """Mined pairs and their inputs, all finished.

    Attributes:
        pairs: As they were mined; of a subset, the pairs that it was chosen from.
        proposals: None where the masks are those of labels.
        caption_nouns: How nouns of captions were found; None where nouns are class names.
        vectors: Text embedding of each noun of a pair.
    """

    pairs: Artifact
    scenes: Artifact
    embeddings: Artifact
    proposals: Artifact | None
    caption_nouns: CaptionNouns | None
    vectors: dict[str, Vector]


def origins_of(pairs: Artifact, runs: Path) -> PairOrigins:
    """Find what pairs were mined from.

    Args:
        pairs: As mined.
        runs: Runs directory.

    Raises:
        PipelineError: If the pairs were not mined, or an input is not below the runs directory.
    """
    inputs = pairs.identity.inputs
    if "embeddings" not in inputs:
        raise PipelineError(
            f"{pairs.directory}: names no embeddings of its masks, as imported pairs have none; give mined pairs"
        )
    found: dict[str, Artifact] = {}
    for role, kind in _KINDS.items():
        if role in inputs:
            artifact = with_digest(runs, kind, inputs[role])
            if artifact is None:
                raise PipelineError(
                    f"{pairs.directory}: its {role} ({inputs[role][:12]}) are not below {runs}; name the runs "
                    "directory that has them by --runs, or run 'ovseg mine' again"
                )
            found[role] = artifact
    tables = [read_index(pairs, unit, columns=("status", "noun")) for unit in pairs.description.units]
    rows = (row for table in tables for row in zip(table["status"].to_pylist(), table["noun"].to_pylist(), strict=True))
    nouns = {noun for status, noun in rows if status == OK}
    options = pairs.identity.settings["options"]
    templates = str(options["prompt_templates"]) if isinstance(options, dict) else ""
    vectors: dict[str, Vector] = {}
    for texts in known_texts(runs, inputs["clip"], templates):
        if vectors.keys() >= nouns:
            break
        vectors.update(vectors_of(texts))
    if missing := sorted(nouns - vectors.keys()):
        raise PipelineError(
            f"{pairs.directory}: {len(missing)} of its {len(nouns)} nouns have no text embedding below {runs}, such as "
            f"{missing[0]!r}; run 'ovseg mine' again, or name the runs directory that has them by --runs"
        )
    return PairOrigins(
        pairs=pairs,
        scenes=found["scenes"],
        embeddings=found["embeddings"],
        proposals=found.get("proposals"),
        caption_nouns=_caption_nouns(pairs.identity.settings["nouns"]),
        vectors={noun: vectors[noun] for noun in sorted(nouns)},
    )


def _caption_nouns(stored: Json) -> CaptionNouns | None:
    """Return how nouns of captions are found by the settings that pairs name; None where nouns are class names."""
    if not isinstance(stored, dict):
        return None
    known: Any = {name: value for name, value in stored.items() if name in NounSettings.model_fields}
    return CaptionNouns(NounSettings(**known), int(str(stored["captions_per_image"])))


def mined_pairs(pairs: Artifact, runs: Path) -> Artifact:
    """Return the pairs that a subset was chosen from, perhaps by way of other subsets; pairs as mined are their own.

    Raises:
        PipelineError: If they are not below the runs directory.
    """
    while "scenes" not in pairs.identity.inputs and "pairs" in pairs.identity.inputs:
        digest = pairs.identity.inputs["pairs"]
        whole = with_digest(runs, PAIRS, digest)
        if whole is None:
            raise PipelineError(
                f"{pairs.directory}: the pairs {digest[:12]} that it was chosen from are not below {runs}; name their "
                "runs directory by --runs"
            )
        pairs = whole
    return pairs


def runs_of(pairs: Artifact) -> Path:
    """Return the runs directory in which pairs are, if they are in one."""
    return pairs.directory.absolute().parent.parent
