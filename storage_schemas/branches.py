"""Branches: what a net said of the proposals of each scene, before classes are given to pixels.

An artifact holds one branch of one data set: that of the proposal net, or CLIP's under one way of cropping. From them,
any ensemble weight is scored without a model. A unit is ``shard-00000.tar`` and ``shard-00000.parquet``. The tar holds
``KEY.safetensors`` per scene, in key order: ``mask_logits`` [query height width] and ``proposal_logits`` [query column]
(no object is the last column) of the proposal net; or CLIP's ``clip_logits`` [region class] with ``regions`` [region],
which names their queries, or their classes where regions are those of the label map. The Parquet index has one row per
scene, failed ones included. This is a memory of intermediate results: it may be deleted at any time.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import safetensors
import safetensors.numpy

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import MEMBER, OK, REASON, SCENE_KEY, STATUS, column
from storage_schemas.errors import CorruptUnitError, SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, read_table
from storage_schemas.tars import IndexedTar, Member, read_member

KIND = "branches"
SCHEMA_VERSION = 1

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            SCENE_KEY,
            STATUS,
            REASON,
            column("tensors", MEMBER, "Place of the tensors in the tar; null when not ok.", null=True),
        ]
    ),
)

Tensors = Mapping[str, npt.NDArray[Any]]


class BranchShardWriter:
    """Writes one shard; what it wrote counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
    """

    def __init__(self, unit: UnitWriter) -> None:
        self._unit = IndexedTar(unit, SCHEMA)

    def add(self, key: str, tensors: Tensors) -> None:
        """Append the tensors of one scene.

        Raises:
            WriteError: If the operating system refuses.
        """
        member = self._unit.add_member(key, "safetensors", safetensors.numpy.save(dict(tensors)))
        self._unit.rows.append({"key": key, "status": OK, "reason": "", "tensors": member})

    def add_failed(self, key: str, status: str, reason: str) -> None:
        """Append a scene that could not be read.

        Raises:
            SchemaError: If ``status`` is ``"ok"``.
        """
        if status == OK:
            raise SchemaError(f"scene {key!r}: status 'ok' is not a failure; give a slug of what went wrong")
        self._unit.rows.append({"key": key, "status": status, "reason": reason, "tensors": None})

    def commit(self) -> Sidecar:
        """Make the shard a finished unit.

        Raises:
            WriteError: If the operating system refuses.
        """
        return self._unit.commit()


class BranchShard:
    """One finished shard: the tensors of any scene, by key."""

    def __init__(self, artifact: Artifact, unit: str) -> None:
        self._path = artifact.directory / f"{unit}.tar"
        self._index_path = artifact.directory / f"{unit}.parquet"

    @cached_property
    def _places(self) -> dict[str, Member]:
        rows = read_table(self._index_path, SCHEMA).to_pylist()
        return {row["key"]: Member(**row["tensors"]) for row in rows if row["tensors"] is not None}

    def tensors(self, key: str) -> dict[str, npt.NDArray[Any]]:
        """Read the tensors of a scene.

        Raises:
            CorruptUnitError: If the shard has no such scene, or the tar is not as its index says.
            SchemaError: If the index is of another schema.
        """
        if key not in self._places:
            raise CorruptUnitError(
                f"{self._index_path}: has no tensors of scene {key!r}; run 'ovseg evaluate --ablate' again"
            )
        try:
            with self._path.open("rb") as file:
                return dict(safetensors.numpy.load(read_member(file, self._places[key], self._path)))
        except (OSError, safetensors.SafetensorError) as error:
            raise CorruptUnitError(
                f"{self._path}: scene {key!r} cannot be read ({error}); run 'ovseg evaluate --ablate' again"
            ) from error
