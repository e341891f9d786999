"""Proposals: the masks that a proposal net finds in each scene, or masks of others, as Parquet.

A unit is ``shard-00000.parquet``, one row per query of a scene and one row group per scene, in key order. A scene
without proposals, or one that could not be read, begins with a row without a query, with ``status`` and ``reason``.
Masks and boxes lie in the picture as the net saw it: turned as its EXIF tag says, resized, before padding
(``height_px``, ``width_px``).

Imported masks have no embedding, so their tables lack that column; their objectness is the score that their source
gives, 1 where it gives none. A mask that could not be taken is a row without a query after those of its scene. The unit
``unplaced`` has a row for each picture of theirs that is no scene, by its name or id in place of a key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import (
    OK,
    REASON,
    SCENE_KEY,
    STATUS,
    column,
    slices_by,
    vector_column,
    vector_type,
    vectors_of,
)
from storage_schemas.digests import Json
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, UnitTable, read_table, vector_length

KIND = "proposals"
SCHEMA_VERSION = 1

UNPLACED = "unplaced"
"""Unit of imported masks: pictures that are none of the scenes."""

_EMBEDDING = "proposal_embedding"
_OF_QUERIES = ("query", "mask_counts", "area_px", "box_xyxy", "objectness", _EMBEDDING)


def schema(embedding_dim: int) -> TableSchema:
    """Return the table's schema for a proposal net with embeddings of this length; 0 = masks without embeddings."""
    columns = [
        SCENE_KEY,
        STATUS,
        REASON,
        column(
            "query", pa.int32(), "Query index, ascending within a scene; null for a scene without proposals.", null=True
        ),
        column("height_px", pa.int32(), "Height of mask and box."),
        column("width_px", pa.int32(), "Width of mask and box."),
        column("mask_counts", pa.binary(), "Compressed COCO run lengths.", null=True),
        column("area_px", pa.int64(), "Pixels inside the mask.", null=True),
        column("box_xyxy", vector_type(4, pa.int32()), "Tight box; px, half-open.", null=True),
        column("objectness", pa.float32(), "Probability that the query is any object at all, 0..1.", null=True),
    ]
    if embedding_dim:
        kind = vector_type(embedding_dim, pa.float32())
        columns.append(column(_EMBEDDING, kind, "L2-normalised, in CLIP's space.", null=True))
    return TableSchema(KIND, SCHEMA_VERSION, pa.schema(columns))


class RefusedMask(NamedTuple):
    """A mask of others that could not be taken.

    Attributes:
        status: A slug of what is wrong with it.
        reason: The same in words, with its place.
    """

    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneProposals:
    """The proposals of one scene.

    Attributes:
        key: Key of the scene.
        height_px: Height of the masks.
        width_px: Width of the masks.
        queries: Query index of each proposal, ascending [proposal].
        mask_counts: Compressed COCO run lengths of each mask.
        areas_px: Pixels inside each mask [proposal].
        boxes_xyxy: Tight boxes; px, half-open [proposal 4].
        objectness: Probability that the query is any object at all, 0..1 [proposal].
        embeddings: Proposal embeddings, L2-normalised [proposal dim]; dim is 0 for imported masks.
        status: ``"ok"``, else a slug of what went wrong.
        reason: What went wrong in words.
        refused: Masks of the source that could not be taken.
    """

    key: str
    height_px: int
    width_px: int
    queries: npt.NDArray[np.int32]
    mask_counts: Sequence[bytes]
    areas_px: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.int32]
    objectness: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]
    status: str = OK
    reason: str = ""
    refused: Sequence[RefusedMask] = ()

    def __post_init__(self) -> None:
        parts = (self.queries, self.mask_counts, self.areas_px, self.boxes_xyxy, self.objectness, self.embeddings)
        lengths = [len(part) for part in parts]
        if len(set(lengths)) != 1:
            raise SchemaError(f"scene {self.key!r}: parts of lengths {lengths}; give every proposal each part")

    @classmethod
    def failed(
        cls, key: str, embedding_dim: int, status: str, reason: str, refused: Sequence[RefusedMask] = ()
    ) -> Self:
        """Return the entry of a scene without proposals."""
        return cls(
            key=key,
            height_px=0,
            width_px=0,
            queries=np.zeros(0, np.int32),
            mask_counts=(),
            areas_px=np.zeros(0, np.int64),
            boxes_xyxy=np.zeros((0, 4), np.int32),
            objectness=np.zeros(0, np.float32),
            embeddings=np.zeros((0, embedding_dim), np.float32),
            status=status,
            reason=reason,
            refused=refused,
        )


class ProposalShardWriter:
    """Writes one shard of proposals; what it wrote counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
        embedding_dim: Length of the embeddings.
    """

    def __init__(self, unit: UnitWriter, *, embedding_dim: int) -> None:
        self._table = UnitTable(unit, schema(embedding_dim))
        self._of_queries = _OF_QUERIES if embedding_dim else _OF_QUERIES[:-1]

    def add(self, scene: SceneProposals) -> None:
        """Append the proposals of one scene; a scene without any begins with one row without a query.

        Raises:
            WriteError: If the operating system refuses.
        """
        rows, refused = max(1, len(scene.queries)), len(scene.refused)
        found: dict[str, Any] = {name: [None] * rows for name in self._of_queries}
        if len(scene.queries):
            found = {
                "query": scene.queries,
                "mask_counts": list(scene.mask_counts),
                "area_px": scene.areas_px,
                "box_xyxy": vector_column(scene.boxes_xyxy),
                "objectness": scene.objectness,
            }
            if _EMBEDDING in self._of_queries:
                found[_EMBEDDING] = vector_column(scene.embeddings)
        if refused:
            found = {name: [*pa.array(values).to_pylist(), *[None] * refused] for name, values in found.items()}
        self._table.write_columns(
            {
                "key": [scene.key] * (rows + refused),
                "status": [scene.status] * rows + [mask.status for mask in scene.refused],
                "reason": [scene.reason] * rows + [mask.reason for mask in scene.refused],
                "height_px": np.full(rows + refused, scene.height_px, np.int32),
                "width_px": np.full(rows + refused, scene.width_px, np.int32),
                **found,
            }
        )

    def commit(self, facts: Mapping[str, Json] = MappingProxyType({})) -> Sidecar:
        """Make the shard a finished unit; arguments and errors as `UnitTable.commit`."""
        return self._table.commit(facts)


def read_proposals(artifact: Artifact, unit: str, *, embedding_dim: int | None = None) -> Iterator[SceneProposals]:
    """Read the proposals of one shard, scene by scene in key order.

    Args:
        embedding_dim: Length of the embeddings that is expected, 0 for imported masks; None takes the
            file's.

    Raises:
        SchemaError: If the file is of another schema.
    """
    path = artifact.directory / f"{unit}.parquet"
    dim = vector_length(path, _EMBEDDING, if_missing=0) if embedding_dim is None else embedding_dim
    for of_scene in slices_by(read_table(path, schema(dim)), "key"):
        key, status, reason = (of_scene[name][0].as_py() for name in ("key", "status", "reason"))
        taken = len(of_scene) - of_scene["query"].null_count  # those without a query come last, or are all
        others = of_scene.slice(max(1, taken)).select(["status", "reason"]).to_pylist()
        refused = tuple(RefusedMask(**row) for row in others)
        if not taken:
            yield SceneProposals.failed(key, dim, status, reason, refused)
            continue
        rows = of_scene.slice(0, taken)
        yield SceneProposals(
            key=key,
            height_px=rows["height_px"][0].as_py(),
            width_px=rows["width_px"][0].as_py(),
            queries=rows["query"].to_numpy(),
            mask_counts=rows["mask_counts"].to_pylist(),
            areas_px=rows["area_px"].to_numpy(),
            boxes_xyxy=vectors_of(rows["box_xyxy"]).astype(np.int32, copy=False),
            objectness=rows["objectness"].to_numpy(),
            embeddings=(
                vectors_of(rows[_EMBEDDING]).astype(np.float32, copy=False) if dim else np.zeros((taken, 0), np.float32)
            ),
            status=status,
            reason=reason,
            refused=refused,
        )
