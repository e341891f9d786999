"""Scenes: pictures with what is known of them, as WebDataset shards with a Parquet index.

A unit is ``shard-00000.tar`` and ``shard-00000.parquet``. The tar holds, per scene that could be read and in key order,
``KEY.<suffix>`` (the image file's original bytes, or a PNG of the same pixels for formats such as TIFF),
``KEY.label.png`` (class indices, 8 or 16 bit),
``KEY.instances.png`` (instance numbers from 1, 0 = none) and ``KEY.captions.json``, each only where it exists. The
Parquet index has one row per scene, failed ones included, and knows each member's offset and size, so any scene is one
``seek`` away.

Files, label maps and instance maps are kept as stored, whatever EXIF says of the picture. Every stage turns picture and
labels upright, both by ``exif_orientation``, before it does anything else with them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.artifact import Artifact, Attributes, UnitWriter
from storage_schemas.columns import MEMBER, OK, REASON, STATUS, column
from storage_schemas.digests import Json
from storage_schemas.errors import ArtifactError, CorruptUnitError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, read_table
from storage_schemas.tars import KEY, IndexedTar, Member, read_member

KIND = "scenes"
SCHEMA_VERSION = 1
IMAGE_SUFFIXES = ("jpg", "png", "webp")

_CAPTION = pa.struct(
    [pa.field("caption_id", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)]
)

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column(
                "key", pa.string(), "Name of the scene, unique in the data set; also the stem of its members' names."
            ),
            column("image_id", pa.string(), "The data set's own id of the image."),
            STATUS,
            REASON,
            column("width_px", pa.int32(), "Width as decoded, EXIF orientation not applied; 0 when unreadable."),
            column("height_px", pa.int32(), "Height, likewise."),
            column(
                "exif_orientation", pa.int8(), "EXIF tag 274, 1 where there is none; labels refer to the stored pixels."
            ),
            column("image_suffix", pa.string(), "'jpg', 'png' or 'webp', from the bytes."),
            column("source_path", pa.string(), "Image file relative to the data set's root; empty for drawn scenes."),
            column("classes", pa.list_(pa.uint16()), "Classes that occur in the label map, ascending."),
            column("captions", pa.list_(_CAPTION), "All captions, in ascending order of id."),
            column("image", MEMBER, "Place of the image file in the tar; null when not ok.", null=True),
            column("label", MEMBER, "Place of the label map; null without labels.", null=True),
            column("instances", MEMBER, "Place of the instance map; null without instances.", null=True),
        ]
    ),
)


class Caption(NamedTuple):
    """One caption of a scene.

    Attributes:
        caption_id: The data set's own id; unique within the data set.
        text: The caption as the data set has it, spelling mistakes included.
    """

    caption_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenesAttributes(Attributes):
    """What readers of an artifact of scenes need beside its rows.

    Attributes:
        vocabulary: Name of the class list; empty without labels.
        class_names: Class names in index order.
        seen: Per class ``"seen"``, ``"unseen"`` or ``"uncertain"``: whether COCO-Stuff (or the drawn world's labelled
            part) names it.
        ignore_label: Value of pixels without a class.
        licence: Licence or terms of the pictures and annotations, one line.
    """

    kind: ClassVar[str] = KIND
    schema_version: ClassVar[int] = SCHEMA_VERSION

    vocabulary: str
    class_names: tuple[str, ...]
    seen: tuple[str, ...]
    ignore_label: int
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture with what is known of it, ready to be stored.

    Attributes:
        key: Name of the scene, unique within the data set; letters, digits, ``_`` and ``-`` only, since WebDataset
            splits member names at the first dot.
        image_id: The data set's own id of the image (``"139"`` for COCO, a file stem elsewhere).
        image: The image file's original bytes; empty when ``status`` is not ``"ok"``.
        image_suffix: ``"jpg"``, ``"png"`` or ``"webp"``, from the bytes, not from the file's name.
        width_px: Width as decoded, EXIF orientation not applied; 0 when it could not be read.
        height_px: Height, likewise.
        exif_orientation: EXIF tag 274, 1 where there is none. Labels and boxes refer to the stored pixels.
        label_png: PNG file of class indices, 8 or 16 bit greyscale, of the image's size; None without labels.
        instances_png: PNG file of instance numbers, 16 bit greyscale, 0 = no instance; None without instances.
        classes: Class indices that occur in the label map, ascending, the ignore label left out.
        captions: In ascending order of ``caption_id``; may be empty.
        source_path: Image file relative to the data set's root, with ``/``; empty for generated scenes.
        ignored_values: Values of the label file, as the data set has it, that mean "no class"; ascending. No row holds
            them: each unit's sidecar counts, by value, the label files in which they occur.
        status: ``"ok"``, else a slug of what went wrong (``"image_unreadable"``).
        reason: What went wrong in words, with the value; empty when ``status`` is ``"ok"``.
    """

    key: str
    image_id: str
    image: bytes
    image_suffix: str
    width_px: int
    height_px: int
    exif_orientation: int = 1
    label_png: bytes | None = None
    instances_png: bytes | None = None
    classes: tuple[int, ...] = ()
    captions: tuple[Caption, ...] = ()
    source_path: str = ""
    ignored_values: tuple[int, ...] = ()
    status: str = OK
    reason: str = ""


class SceneShardWriter:
    """Writes one shard of scenes; what it wrote counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
    """

    def __init__(self, unit: UnitWriter) -> None:
        self._unit = IndexedTar(unit, SCHEMA)
        self._ignored_values = Counter[int]()

    def add(self, scene: Scene) -> None:
        """Append one scene; one that could not be read becomes a row without members.

        Raises:
            ArtifactError: If its key is not greater than that of the scene before, or cannot name a tar member, or its
                image is not of a kind that readers know.
            WriteError: If the operating system refuses.
        """
        rows = self._unit.rows
        if not KEY.fullmatch(scene.key):
            raise ArtifactError(
                f"scene {scene.key!r}: at most 80 letters, digits, '_' and '-' make a key; rename the scene"
            )
        if rows and scene.key <= rows[-1]["key"]:
            raise ArtifactError(
                f"scene {scene.key!r}: comes after {rows[-1]['key']!r}; add scenes in ascending order of key"
            )
        if scene.status == OK and scene.image_suffix not in IMAGE_SUFFIXES:
            found = f"image suffix {scene.image_suffix!r}, one of {IMAGE_SUFFIXES} is expected"
            raise ArtifactError(
                f"scene {scene.key!r}: {found}; convert the image, or store the scene with a status and reason"
            )
        members: dict[str, dict[str, int] | None] = {"image": None, "label": None, "instances": None}
        captions = [caption._asdict() for caption in scene.captions]
        if scene.status == OK:
            if captions:
                self._unit.add_member(scene.key, "captions.json", json.dumps(captions, ensure_ascii=False).encode())
            members["image"] = self._unit.add_member(scene.key, scene.image_suffix, scene.image)
            if scene.instances_png is not None:
                members["instances"] = self._unit.add_member(scene.key, "instances.png", scene.instances_png)
            if scene.label_png is not None:
                members["label"] = self._unit.add_member(scene.key, "label.png", scene.label_png)
            self._ignored_values.update(scene.ignored_values)
        rows.append(
            {
                "key": scene.key,
                "image_id": scene.image_id,
                "status": scene.status,
                "reason": scene.reason,
                "width_px": scene.width_px,
                "height_px": scene.height_px,
                "exif_orientation": scene.exif_orientation,
                "image_suffix": scene.image_suffix,
                "source_path": scene.source_path,
                "classes": scene.classes,
                "captions": captions,
                **members,
            }
        )

    def commit(self) -> Sidecar:
        """Make the shard a finished unit.

        Raises:
            WriteError: If the operating system refuses.
        """
        facts: dict[str, Json] = {
            "captions": sum(len(row["captions"]) for row in self._unit.rows),
            "labelled": sum(row["label"] is not None for row in self._unit.rows),
            "ignored_values": {str(value): files for value, files in sorted(self._ignored_values.items())},
        }
        return self._unit.commit(facts)


class SceneShard:
    """One finished shard: its index as a table, and any scene of it by row."""

    def __init__(self, artifact: Artifact, unit: str) -> None:
        self._tar_path = artifact.directory / f"{unit}.tar"
        self._index_path = artifact.directory / f"{unit}.parquet"

    @cached_property
    def index(self) -> pa.Table:
        """One row per scene in key order, failed ones included; columns as in ``SCHEMA``.

        Raises:
            SchemaError: If the index is of another schema.
        """
        return read_table(self._index_path, SCHEMA)

    def captions(self) -> list[tuple[Caption, ...]]:
        """Read the captions of each scene and nothing else.

        Raises:
            SchemaError: If the index is of another schema.
        """
        return captions_of(read_table(self._index_path, SCHEMA, columns=["captions"])["captions"])

    def scenes(self, rows: Sequence[int] | None = None, *, labels: bool = True) -> Iterator[Scene]:
        """Read scenes, failed ones included.

        Args:
            rows: Row numbers of the index in the order of the result; all by default.
            labels: Whether to read label and instance maps; without, they are None.

        Raises:
            CorruptUnitError: If the tar is missing or shorter than the index says.
        """
        table = self.index if rows is None else self.index.take(pa.array(rows, pa.int64()))
        try:
            tar = self._tar_path.open("rb")
        except OSError as error:
            raise CorruptUnitError(
                f"{self._tar_path}: cannot be read ({error}); run the stage that makes it again"
            ) from error
        expected = ("image", "label", "instances") if labels else ("image",)
        with tar as file:
            rows_without_captions = table.drop_columns(["captions"]).to_pylist()
            for row, captions in zip(rows_without_captions, captions_of(table["captions"]), strict=True):
                parts = {name: read_member(file, Member(**row[name]), self._tar_path) for name in expected if row[name]}
                own = {name: row[name] for name in row if name not in {"image", "label", "instances", "classes"}}
                yield Scene(
                    image=parts.get("image", b""),
                    label_png=parts.get("label"),
                    instances_png=parts.get("instances"),
                    classes=tuple(row["classes"]),
                    captions=captions,
                    **own,
                )


def labelled_scenes(artifact: Artifact) -> int:
    """Count the scenes of a finished artifact in which a class occurs.

    Raises:
        SchemaError: If an index is of another schema.
    """
    labelled = 0
    for unit in artifact.description.units:
        index = read_table(artifact.directory / f"{unit}.parquet", SCHEMA, columns=["classes"])
        labelled += pc.sum(pc.greater(pc.list_value_length(index["classes"]), 0)).as_py() or 0
    return labelled


def captions_of(column: pa.ChunkedArray) -> list[tuple[Caption, ...]]:
    """Return the captions of each row of an index's column of captions.

    Arrow makes an object of each caption's every field by itself, which takes longer than all else in a row.
    """
    rows: list[tuple[Caption, ...]] = []
    for chunk in column.chunks:
        flat = chunk.flatten()  # of these rows alone, also where the chunk is a part of a longer one
        captions = list(map(Caption, flat.field("caption_id").to_pylist(), flat.field("text").to_pylist()))
        start = 0
        for number in pc.list_value_length(chunk).to_pylist():
            rows.append(tuple(captions[start : start + number]))
            start += number
    return rows
