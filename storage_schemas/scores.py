"""Scores: what an evaluation counted, shard by shard, in whole pixels, so that any shards add up to identical digits.

A unit is three Parquet tables and a tar. ``shard-00000.confusion.parquet``: pixels per (variant, true class, predicted
class), zeros left out. ``shard-00000.images.parquet``: one row per scene and variant, failed ones included.
``shard-00000.classes.parquet``: per (variant, scene, class that occurs in either map) the counts from which IoU and
boundary IoU follow. ``shard-00000.tar``: ``KEY.png``, the main variant's prediction, a greyscale PNG of class indices
of as many bits as the label map's. A *variant* is one way of predicting, such as ``ensemble`` or ``clip-only``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.artifact import Artifact, Attributes, UnitWriter
from storage_schemas.columns import MEMBER, OK, REASON, SCENE_KEY, STATUS, column
from storage_schemas.digests import Json
from storage_schemas.errors import CorruptUnitError, SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, TableWriter, read_table
from storage_schemas.tars import Member, ShardTarWriter, read_member

KIND = "scores"
SCHEMA_VERSION = 2
CONFUSIONS_KEPT = 8

_CONFUSED = pa.struct(
    [
        pa.field(name, pa.int32() if name != "pixels" else pa.int64(), nullable=False)
        for name in ("true_class", "predicted_class", "pixels")
    ]
)

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
            SCENE_KEY,
            STATUS,
            REASON,
            column("labelled_px", pa.int64(), "Pixels with a class."),
            column("correct_px", pa.int64(), "Those predicted rightly."),
            column(
                "confused",
                pa.list_(_CONFUSED),
                f"Its {CONFUSIONS_KEPT} most frequent wrong pairs of classes, the most frequent first.",
            ),
            column(
                "prediction", MEMBER, "Place of the prediction in the tar; null but for the main variant.", null=True
            ),
        ]
    ),
)
CLASSES = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("variant", pa.string(), "Way of predicting, such as 'ensemble' or 'clip-only'."),
            SCENE_KEY,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresAttributes(Attributes):
    """What readers of an artifact of scores need beside its rows.

    Attributes:
        dataset: Name of the data set in the settings that the scores were made with.
        vocabulary: Name of the class list.
        class_names: Class names in index order.
        seen: Per class ``"seen"``, ``"unseen"`` or ``"uncertain"``, as the scenes have it.
        main_variant: The variant whose predictions are kept, and which the evaluation is known by.
        variants: All ways of predicting that were scored, each with what makes it.
    """

    kind: ClassVar[str] = KIND
    schema_version: ClassVar[int] = SCHEMA_VERSION

    dataset: str
    vocabulary: str
    class_names: tuple[str, ...]
    seen: tuple[str, ...]
    main_variant: str
    variants: Mapping[str, Json]


Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """What was counted of one image, predicted in one way.

    Attributes:
        true_classes: Classes in the label map [true].
        predicted_classes: Classes in the prediction [predicted].
        confusion: Pixels [true predicted].
        classes: Classes in either map, ascending [class], for which there are the counts that follow.
        true_px: Pixels in the label map.
        predicted_px: Pixels in the prediction, ignored ones left out.
        intersection_px: Pixels in both.
        boundary_true_px: Boundary pixels in the label map.
        boundary_predicted_px: Boundary pixels in the prediction.
        boundary_intersection_px: Boundary pixels in both.
    """

    true_classes: Counts
    predicted_classes: Counts
    confusion: Counts
    classes: Counts
    true_px: Counts
    predicted_px: Counts
    intersection_px: Counts
    boundary_true_px: Counts
    boundary_predicted_px: Counts
    boundary_intersection_px: Counts

    def most_confused(self) -> list[dict[str, int]]:
        """List the most frequent wrong pairs of classes."""
        wrong = np.where(self.true_classes[:, None] == self.predicted_classes[None], 0, self.confusion)
        order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_KEPT]
        rows, columns = np.unravel_index(order, wrong.shape) if wrong.size else (order, order)
        return [
            {
                "true_class": int(self.true_classes[row]),
                "predicted_class": int(self.predicted_classes[column]),
                "pixels": int(wrong[row, column]),
            }
            for row, column in zip(rows, columns, strict=True)
            if wrong[row, column]
        ]


_CLASS_COUNTS = tuple(entry.name for entry in fields(ImageCounts))[4:]  # from true_px on, as the columns are named


class ScoreShardWriter:
    """Writes what was counted over one shard; it counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
    """

    def __init__(self, unit: UnitWriter, class_count: int) -> None:
        self._writer = unit
        self._class_count = class_count
        self._tar = ShardTarWriter(unit.file("tar"))
        self._confusions: dict[str, Confusion] = {}
        self._images: list[dict[str, Any]] = []
        self._classes: dict[str, list[tuple[str, ImageCounts]]] = {}

    def add(self, variant: str, key: str, counts: ImageCounts, *, prediction_png: bytes | None = None) -> None:
        """Add one image, predicted in one way; images of a variant in ascending order of key.

        Raises:
            WriteError: If the operating system refuses.
        """
        confusion = self._confusions.setdefault(variant, np.zeros((self._class_count,) * 2, np.int64))
        confusion[np.ix_(counts.true_classes, counts.predicted_classes)] += counts.confusion
        member = None if prediction_png is None else self._tar.add(key, "png", prediction_png)._asdict()
        self._images.append(
            {
                "variant": variant,
                "key": key,
                "status": OK,
                "reason": "",
                "labelled_px": int(counts.true_px.sum()),
                "correct_px": int(counts.intersection_px.sum()),
                "confused": counts.most_confused(),
                "prediction": member,
            }
        )
        self._classes.setdefault(variant, []).append((key, counts))

    def add_failed(self, variant: str, key: str, status: str, reason: str) -> None:
        """Add a scene that could not be scored.

        Raises:
            SchemaError: If ``status`` is ``"ok"``.
        """
        if status == OK:
            raise SchemaError(f"scene {key!r}: status 'ok' is not a failure; give a slug of what went wrong")
        row = {"variant": variant, "key": key, "status": status, "reason": reason, "labelled_px": 0, "correct_px": 0}
        self._images.append({**row, "confused": [], "prediction": None})

    def commit(self, facts: Mapping[str, Json] = MappingProxyType({})) -> Sidecar:
        """Make the shard a finished unit.

        Args:
            facts: What else is known of it.

        Raises:
            WriteError: If the operating system refuses.
        """
        self._tar.close()
        with TableWriter(self._writer.file("confusion.parquet"), CONFUSION) as table:
            for variant, confusion in sorted(self._confusions.items()):
                true_classes, predicted_classes = np.nonzero(confusion)
                table.write_columns(
                    {
                        "variant": [variant] * len(true_classes),
                        "true_class": true_classes.astype(np.int32),
                        "predicted_class": predicted_classes.astype(np.int32),
                        "pixels": confusion[true_classes, predicted_classes],
                    }
                )
        with TableWriter(self._writer.file("images.parquet"), IMAGES) as table:
            table.write_rows(sorted(self._images, key=lambda row: (row["variant"], row["key"])))
        with TableWriter(self._writer.file("classes.parquet"), CLASSES) as table:
            for variant, images in sorted(self._classes.items()):
                lengths = [len(counts.classes) for _, counts in images]
                columns: dict[str, Any] = {
                    "variant": [variant] * sum(lengths),
                    "key": np.repeat(np.array([key for key, _ in images], object), lengths),
                    "class_index": np.concatenate([counts.classes for _, counts in images]).astype(np.int32),
                }
                for name in _CLASS_COUNTS:
                    columns[name] = np.concatenate([getattr(counts, name) for _, counts in images])
                table.write_columns(columns)
        counts = Counter(row["status"] for row in self._images)
        return self._writer.commit(rows=len(self._images), counts=counts, facts=facts)


def read_scores(artifact: Artifact, unit: str, table: str) -> pa.Table:
    """Read one of the tables ``confusion``, ``images`` and ``classes`` of one shard.

    Raises:
        SchemaError: If there is no such table, or the file is of another schema.
    """
    if table not in _TABLES:
        raise SchemaError(f"table {table!r}: is none of the scores' tables {sorted(_TABLES)}; name one of them")
    return read_table(artifact.directory / f"{unit}.{table}.parquet", _TABLES[table])


def merged_confusions(tables: list[pa.Table], class_count: int) -> dict[str, Confusion]:
    """Add up confusion tables of any shards in any order.

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


def read_predictions(artifact: Artifact, unit: str, members: Sequence[Member]) -> list[bytes]:
    """Read predictions of the main variant from one shard, as PNG files.

    Args:
        members: Their places, from the column ``prediction`` of the images table.

    Raises:
        CorruptUnitError: If the tar is missing or shorter than that.
    """
    path = artifact.directory / f"{unit}.tar"
    try:
        with path.open("rb") as file:
            return [read_member(file, member, path) for member in members]
    except OSError as error:
        raise CorruptUnitError(f"{path}: cannot be read ({error}); run 'ovseg evaluate' again") from error
