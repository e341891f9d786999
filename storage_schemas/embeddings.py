"""Embeddings: one CLIP image embedding per mask of a scene, as Parquet.

A unit is ``shard-00000.parquet``, one row per embedded mask and one row group per scene, in key order, then in order of
``region``. A mask that could not be embedded is a row without a vector, with ``status`` and ``reason``; so is, with
``region`` null, a scene without masks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import OK, REASON, SCENE_KEY, STATUS, column, slices_by, vector_type, vectors_of
from storage_schemas.digests import Json
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, UnitTable, read_table, vector_length

KIND = "embeddings"
SCHEMA_VERSION = 1


def schema(embedding_dim: int) -> TableSchema:
    """Return the table's schema for a CLIP with embeddings of this length, kept in half precision."""
    columns = [
        SCENE_KEY,
        column(
            "region",
            pa.int32(),
            "Query of the proposal, or class of the ground-truth mask; null for a scene without masks.",
            null=True,
        ),
        STATUS,
        REASON,
        column(
            "image_embedding",
            vector_type(embedding_dim, pa.float16()),
            "L2-normalised CLIP embedding of the masked crop; null when not ok.",
            null=True,
        ),
    ]
    return TableSchema(KIND, SCHEMA_VERSION, pa.schema(columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEmbeddings:
    """The image embeddings of one scene's masks.

    Attributes:
        key: Key of the scene.
        regions: Index of each mask, ascending: the query of a proposal, or the class of a ground-truth mask [region].
        statuses: ``"ok"``, else a slug of what went wrong, per mask.
        reasons: What went wrong in words, per mask.
        embeddings: L2-normalised, half precision; zero where the status is not ``"ok"`` [region dim].
        scene_status: ``"ok"``, else a slug of why the scene has no mask at all.
        scene_reason: The same in words.
    """

    key: str
    regions: npt.NDArray[np.int32]
    statuses: Sequence[str]
    reasons: Sequence[str]
    embeddings: npt.NDArray[np.float16]
    scene_status: str = OK
    scene_reason: str = ""

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.regions, self.statuses, self.reasons, self.embeddings)]
        if len(set(lengths)) != 1:
            raise SchemaError(f"scene {self.key!r}: parts of lengths {lengths}; give every region each part")
        if lengths[0] == 0 and self.scene_status == OK:
            raise SchemaError(f"scene {self.key!r}: has no region; say why in its status")


class EmbeddingShardWriter:
    """Writes one shard of embeddings; what it wrote counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
        embedding_dim: Length of the embeddings.
    """

    def __init__(self, unit: UnitWriter, *, embedding_dim: int) -> None:
        self._vector = vector_type(embedding_dim, pa.float16())
        self._table = UnitTable(unit, schema(embedding_dim))

    def add(self, scene: SceneEmbeddings) -> None:
        """Append the embeddings of one scene.

        Raises:
            WriteError: If the operating system refuses.
        """
        statuses = list(scene.statuses) or [scene.scene_status]
        rows: list[npt.NDArray[np.float16] | None] = [
            values if status == OK else None for values, status in zip(scene.embeddings, scene.statuses, strict=True)
        ]
        self._table.write_columns(
            {
                "key": [scene.key] * len(statuses),
                "region": scene.regions if len(scene.regions) else [None],
                "status": statuses,
                "reason": list(scene.reasons) or [scene.scene_reason],
                "image_embedding": pa.array(rows or [None], type=self._vector),
            }
        )

    def commit(self, facts: Mapping[str, Json] = MappingProxyType({})) -> Sidecar:
        """Make the shard a finished unit; arguments and errors as `UnitTable.commit`."""
        return self._table.commit(facts)


def read_embeddings(artifact: Artifact, unit: str) -> Iterator[SceneEmbeddings]:
    """Read the embeddings of one shard, scene by scene in key order.

    Raises:
        SchemaError: If the file is of another schema.
    """
    path = artifact.directory / f"{unit}.parquet"
    dim = vector_length(path, "image_embedding")
    for rows in slices_by(read_table(path, schema(dim)), "key"):
        key, statuses, reasons = rows["key"][0].as_py(), rows["status"].to_pylist(), rows["reason"].to_pylist()
        if rows["region"].null_count:  # the single row of a scene without masks
            yield SceneEmbeddings(
                key=key,
                regions=np.zeros(0, np.int32),
                statuses=(),
                reasons=(),
                embeddings=np.zeros((0, dim), np.float16),
                scene_status=statuses[0],
                scene_reason=reasons[0],
            )
            continue
        embeddings = np.zeros((len(statuses), dim), np.float16)
        embeddings[[status == OK for status in statuses]] = vectors_of(rows["image_embedding"].drop_null())
        yield SceneEmbeddings(
            key=key, regions=rows["region"].to_numpy(), statuses=statuses, reasons=reasons, embeddings=embeddings
        )
