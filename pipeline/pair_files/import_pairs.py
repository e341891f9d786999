"""Pairs of a COCO file: those that were exported, or instances of any tool, whose categories are the nouns.

Reads a JSON file and its pictures; writes ``pairs``. No model takes part. An annotation that cannot be taken is a row
with its reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from ovseg_models.image_input import rgb_image
from pipeline.errors import PipelineError
from pipeline.executors import Compute
from pipeline.import_masks.json_records import json_records, read_record
from pipeline.import_masks.segmentation import MaskFault, PictureFrame, SourceMask, net_mask
from pipeline.mine.card import IMPORTED_SOURCE, make_card
from pipeline.mine.pair import RegionCutter
from pipeline.settings import PairSettings
from pipeline.shard_runner import Limits, StageReport, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.digests import sha256_of_file
from storage_schemas.manifest import ARTIFACT_FILE, Description, Identity, Sidecar
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.rle import areas_px, boxes_xyxy

PRODUCER_VERSION = 2_000_001
"""Raise it when the same file comes to mean other pairs; far from the versions of mining and of subsets."""

ANNOTATIONS_PER_UNIT = 5000
PICTURE_MISSING, RECORD_INCOMPLETE = "picture_missing", "record_incomplete"

CropFormat: TypeAlias = Literal["png", "jpg", "jpg-256"]

_NAME = re.compile("[A-Za-z0-9_-]+")
_KEPT: Mapping[str, type | tuple[type, ...]] = {
    "image_id": str,
    "noun_text": str,
    "noun_start": int,
    "noun_end": int,
    "caption_id": int,
    "caption": str,
    "region": int,
    "score": (float, int),
    "margin": (float, int),
    "rank": int,
}
"""What an annotation's ``attributes`` say of a pair, and of which types they are believed."""


def import_pairs(
    file: Path,
    images: Path,
    directory: Path,
    *,
    crop_format: CropFormat = "png",
    compute: Compute = Compute(),
    limits: Limits = Limits(),
) -> StageReport:
    """Make pairs of a COCO file in a directory of its own, as far as that is not done.

    Args:
        file: JSON with ``images``, ``annotations`` and ``categories``.
        images: Directory of the pictures that ``file_name`` speaks of; each is resized as the file states.
        directory: For the pairs; new, or that of the same import.
        crop_format: File format of the crops, as of ``mine.pair.crop_format``.
        compute: Where shards are made.
        limits: How many annotations may be refused.

    Raises:
        PipelineError: If the file is no such JSON, has no annotation, or something else is in the directory.
        StageError: If units failed, or too many annotations were refused.
    """
    annotations = CocoInstances(file)
    if not annotations.places:
        raise PipelineError(f"{file}: has no annotation; export instances with masks, or detections by import-masks")
    identity = Identity(
        kind=KIND,
        name=file.stem,
        schema_version=SCHEMA_VERSION,
        producer_version=PRODUCER_VERSION,
        settings={"crop_format": crop_format},
        inputs={"file": sha256_of_file(file)},
    )
    shards = -(-len(annotations.places) // ANNOTATIONS_PER_UNIT)
    units = tuple(f"shard-{number:05d}" for number in range(shards))
    attributes = {"source": IMPORTED_SOURCE, "dataset": file.stem, "licence": annotations.licence}
    artifact = Artifact(directory, Description(identity=identity, units=units, attributes=attributes))
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not ((directory / ARTIFACT_FILE).is_file() and Artifact.open(directory).identity == identity):
        raise PipelineError(f"{directory}: holds something else than these pairs; choose another directory")
    report = run_stage(ImportPairsJob(file, images, crop_format), artifact, compute=compute, limits=limits)
    make_card(artifact)
    return report


class CocoInstances:
    """A COCO file of which annotations stay on the disk: their places, and all that is not annotations.

    Args:
        path: The file.

    Raises:
        PipelineError: If it is not there, or no JSON of that form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: dict[str, Mapping[str, Any]] = {}
        self.categories: dict[str, str] = {}
        self.places: list[tuple[str, int, int]] = []  # name of the pair, offset and size in the file; by name
        self.licence = ""
        own_names = list[str]()
        with path.open("rb") as file:
            for record in json_records(path):
                if record.key == "annotations":
                    attributes = record.value.get("attributes") if isinstance(record.value, dict) else None
                    name = attributes.get("pair") if isinstance(attributes, dict) else None
                    own_names += [name] if isinstance(name, str) and _NAME.fullmatch(name) else []
                    self.places.append((f"{len(self.places):09d}", record.offset, record.size_bytes))
                elif record.key in {"images", "categories", "info"}:
                    value = read_record(file, record.offset, record.size_bytes)  # whose text is whole
                    if not isinstance(value, dict):
                        continue
                    if record.key == "images":
                        self.images[str(value.get("id"))] = value
                    elif record.key == "categories":
                        self.categories[str(value.get("id"))] = _text(value.get("name", ""))
                    else:
                        self.licence = _text(value.get("licence", ""))
        # Pairs that were exported have names; where one lacks or repeats, as in files that were joined, none counts.
        if len(set(own_names)) == len(self.places):
            self.places = sorted(
                (name, offset, size) for name, (_, offset, size) in zip(own_names, self.places, strict=True)
            )


@dataclass(frozen=True, slots=True)
class ImportPairsJob:
    """Makes shards of pairs of a COCO file.

    Attributes:
        file: The JSON file.
        images: Directory of its pictures.
        crop_format: File format of the crops.
    """

    file: Path
    images: Path
    crop_format: CropFormat

    def open(self) -> "PairImporter":
        """Find the annotations in the file."""
        return PairImporter(CocoInstances(self.file), self.images, PairSettings(crop_format=self.crop_format))

    def run(self, state: "PairImporter", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        first = artifact.description.units.index(unit) * ANNOTATIONS_PER_UNIT
        with artifact.write_unit(unit) as unit_writer, state.instances.path.open("rb") as file:
            writer = PairShardWriter(unit_writer)
            for name, offset, size_bytes in state.instances.places[first : first + ANNOTATIONS_PER_UNIT]:
                writer.add(state.pair(name, read_record(file, offset, size_bytes)))
            return writer.commit()


class PairImporter:
    """Makes pairs of annotations; the picture in hand is kept, as annotations of one come together."""

    def __init__(self, instances: CocoInstances, images: Path, settings: PairSettings) -> None:
        self.instances = instances
        self._images = images
        self._settings = settings
        self._image: Mapping[str, Any] | None = None
        self._cutter: RegionCutter | None = None

    def pair(self, name: str, record: object) -> Pair:
        """Make one pair, or the row that says why there is none."""
        annotation: Mapping[str, Any] = record if isinstance(record, dict) else {}
        where = f"annotation {annotation.get('id')}"
        image = self.instances.images.get(str(annotation.get("image_id")))
        noun = self.instances.categories.get(str(annotation.get("category_id")), "")
        if image is None or not noun:
            lacks = "image" if image is None else "category"
            reason = f"{where}: its {lacks} is not in the file"
            return Pair(pair=name, key="", image_id="", status=RECORD_INCOMPLETE, reason=reason)
        attributes = annotation.get("attributes")
        said = attributes if isinstance(attributes, dict) else {}
        kept = {key: said[key] for key, kind in _KEPT.items() if isinstance(said.get(key), kind)}
        kept |= {key: _text(value) for key, value in kept.items() if isinstance(value, str)} | {"pair": name}
        key, image_id = _text(image.get("scene", image.get("id"))), _text(image.get("id"))
        blank = Pair(**{"key": key, "image_id": image_id, "noun": noun, "noun_text": noun, **kept})
        try:
            size = int(image["height"]), int(image["width"])
            frame = PictureFrame(upright=size, stored=size, exif_orientation=1, net=size, prefers="upright")
            mask = SourceMask(
                where=where,
                segmentation=annotation.get("segmentation"),
                size=size,
                box=annotation.get("bbox"),
                area=annotation.get("area"),
            )
            counts = net_mask(mask, frame).counts
        except MaskFault as fault:
            return replace(blank, status=fault.refused.status, reason=fault.refused.reason)
        except (KeyError, TypeError, ValueError) as error:
            return replace(blank, status=RECORD_INCOMPLETE, reason=f"{where}: its image has no size ({error!r})")
        try:
            cutter = self._cutter_of(image, size)
        except (OSError, ValueError) as error:
            return replace(blank, status=PICTURE_MISSING, reason=f"{where}: {error}")
        left, top, right, bottom = boxes_xyxy([counts], *size)[0].tolist()
        return cutter.completed(
            replace(
                blank,
                region=0 if blank.region is None else blank.region,
                height_px=size[0],
                width_px=size[1],
                mask_counts=counts,
                area_px=int(areas_px([counts], *size)[0]),
                box_xyxy=(left, top, right, bottom),
            )
        )

    def _cutter_of(self, image: Mapping[str, Any], size: tuple[int, int]) -> RegionCutter:
        """Read a picture, at the size that the file states.

        Raises:
            OSError: If it is not there.
            ValueError: If it cannot be decoded, or lies outside the directory.
        """
        if self._cutter is None or self._image is not image:
            path = (self._images / str(image.get("file_name"))).resolve()
            if not path.is_relative_to(self._images.resolve()):
                raise ValueError(f"{image.get('file_name')!r} leads out of {self._images}")
            picture = rgb_image(path)
            if picture.size != size[::-1]:
                picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
            self._image, self._cutter = image, RegionCutter(picture, self._settings)
        return self._cutter


def _text(value: object) -> str:
    """Return text that can be stored; what is no Unicode becomes question marks."""
    return str(value).encode("utf-8", "replace").decode()
