"""Scores: what an evaluation counted, shard by shard, in whole pixels, so that any shards add up to identical digits.

A unit is three Parquet tables. ``shard-00000.confusion.parquet``: pixels per (variant, true class, predicted class),
zeros left out. ``shard-00000.images.parquet``: one row per scene and variant, failed ones included.
``shard-00000.classes.parquet``: per (variant, scene, class that occurs in either map) the counts from which IoU and
boundary IoU follow. A *variant* is one way of predicting, such as ``ensemble`` or ``clip-only``.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.artifact import Artifact
from storage_schemas.columns import column
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.scenes import OK
from storage_schemas.tables import TableSchema, TableWriter, read_table

KIND = "scores"
SCHEMA_VERSION = 1

CONFUSION = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("variant", pa.string(), "Way of predicting, such as 'ensemble' or 'clip-only'."),
            column("true_class", pa.int32(), "Class in the label map."),
            column("predicted_class", pa.int32(), "Class in the prediction."),
            column("pixels", pa.int64(), "Number of such pixels."),
        ]
    ),
)
IMAGES = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("variant", pa.string(), "Way of predicting, such as 'ensemble' or 'clip-only'."),
            column("key", pa.string(), "Key of the scene."),
            column("status", pa.string(), "'ok', else a slug of what went wrong."),
            column("reason", pa.string(), "What went wrong in words; empty when ok."),
            column("labelled_px", pa.int64(), "Pixels with a class."),
            column("correct_px", pa.int64(), "Those predicted rightly."),
        ]
    ),
)
CLASSES = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("variant", pa.string(), "Way of predicting, such as 'ensemble' or 'clip-only'."),
            column("key", pa.string(), "Key of the scene."),
            column("class_index", pa.int32(), "Class that occurs in either map."),
            column("true_px", pa.int64(), "Its pixels in the label map."),
            column("predicted_px", pa.int64(), "Its pixels in the prediction, ignored ones left out."),
            column("intersection_px", pa.int64(), "Its pixels in both."),
            column("boundary_true_px", pa.int64(), "Its boundary pixels in the label map."),
            column("boundary_predicted_px", pa.int64(), "Its boundary pixels in the prediction."),
            column("boundary_intersection_px", pa.int64(), "Its boundary pixels in both."),
        ]
    ),
)
_TABLES = {"confusion": CONFUSION, "images": IMAGES, "classes": CLASSES}

Confusion = npt.NDArray[np.int64]


@dataclass(slots=True)
class ShardScores:
    """What was counted over one shard, before it is written.

    Attributes:
        confusions: Per variant the pixels [true_class predicted_class].
        images: Rows of the images table.
        classes: Rows of the classes table.
    """

    confusions: dict[str, Confusion] = field(default_factory=dict)
    images: list[Mapping[str, Any]] = field(default_factory=list)
    classes: list[Mapping[str, Any]] = field(default_factory=list)


def write_scores(artifact: Artifact, unit: str, scores: ShardScores) -> Sidecar:
    """Write the counts of one shard as a finished unit.

    Raises:
        WriteError: If the operating system refuses.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {
        "confusion": [
            row for variant in sorted(scores.confusions) for row in _entries(variant, scores.confusions[variant])
        ],
        "images": sorted(scores.images, key=lambda row: (row["variant"], row["key"])),
        "classes": sorted(scores.classes, key=lambda row: (row["variant"], row["key"], row["class_index"])),
    }
    with artifact.write_unit(unit) as writer:
        for name, schema in _TABLES.items():
            with TableWriter(writer.file(f"{name}.parquet"), schema) as table:
                table.write_rows(rows[name])
        counts = Counter(row["status"] for row in scores.images)
        return writer.commit(rows=len(scores.images), counts=counts)


def read_scores(artifact: Artifact, unit: str, table: str) -> pa.Table:
    """Read one of the tables ``confusion``, ``images`` and ``classes`` of one shard.

    Raises:
        SchemaError: If there is no such table, or the file is of another schema.
    """
    if table not in _TABLES:
        message = f"table {table!r}: is none of the scores' tables {sorted(_TABLES)}; name one of them"
        raise SchemaError(message)
    return read_table(artifact.directory / f"{unit}.{table}.parquet", _TABLES[table])


def merged_confusions(tables: list[pa.Table], class_count: int) -> dict[str, Confusion]:
    """Add up confusion tables of any shards in any order.

    Args:
        tables: Confusion tables.
        class_count: Number of classes.

    Returns:
        Per variant the pixels [true_class predicted_class], 64-bit.
    """
    merged: dict[str, Confusion] = {}
    for table in tables:
        for variant in table["variant"].unique().to_pylist():
            rows = table.filter(pc.field("variant") == variant)
            total = merged.setdefault(variant, np.zeros((class_count, class_count), np.int64))
            place = rows["true_class"].to_numpy(), rows["predicted_class"].to_numpy()
            np.add.at(total, place, rows["pixels"].to_numpy())
    return merged


def failed_image(variant: str, key: str, status: str, reason: str) -> dict[str, Any]:
    """Return the images row of a scene that could not be scored.

    Raises:
        SchemaError: If ``status`` is ``"ok"``.
    """
    if status == OK:
        message = f"scene {key!r}: status 'ok' is not a failure; give a slug of what went wrong"
        raise SchemaError(message)
    return {"variant": variant, "key": key, "status": status, "reason": reason, "labelled_px": 0, "correct_px": 0}


def _entries(variant: str, confusion: Confusion) -> list[Mapping[str, Any]]:
    """List the entries of a confusion matrix that are not zero."""
    true_classes, predicted_classes = np.nonzero(confusion)
    return [
        {
            "variant": variant,
            "true_class": true,
            "predicted_class": predicted,
            "pixels": int(confusion[true, predicted]),
        }
        for true, predicted in zip(true_classes.tolist(), predicted_classes.tolist(), strict=True)
    ]
