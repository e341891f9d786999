"""Scenes: pictures with what is known of them, as WebDataset shards with a Parquet index.

A unit is ``shard-00000.tar`` and ``shard-00000.parquet``. The tar holds, per scene that could be read and in key order,
``KEY.<suffix>`` (the image file's original bytes), ``KEY.label.png`` (class indices, 8 or 16 bit),
``KEY.instances.png`` (instance numbers from 1, 0 = none) and ``KEY.captions.json``, each only where it exists. The
Parquet index has one row per scene, failed ones included, and knows each member's offset and size, so any scene is one
``seek`` away.
"""

from dataclasses import dataclass
from typing import NamedTuple

KIND = "scenes"
SCHEMA_VERSION = 1
OK = "ok"


class Caption(NamedTuple):
    """One caption of a scene.

    Attributes:
        caption_id: The data set's own id; unique within the data set.
        text: The caption as the data set has it, spelling mistakes included.
    """

    caption_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture with what is known of it, ready to be stored.

    Attributes:
        key: Name of the scene, unique within the data set; letters, digits, ``_`` and ``-`` only, since WebDataset
            splits member names at the first dot.
        image_id: The data set's own id of the image (``"139"`` for COCO, a file stem elsewhere).
        image: The image file's original bytes; empty when ``status`` is not ``"ok"``.
        image_suffix: ``"jpg"`` or ``"png"``, from the bytes, not from the file's name.
        width_px: Width as decoded, EXIF orientation not applied; 0 when it could not be read.
        height_px: Height, likewise.
        exif_orientation: EXIF tag 274, 1 where there is none. Labels and boxes refer to the stored pixels.
        label_png: PNG file of class indices, 8 or 16 bit greyscale, of the image's size; None without labels.
        instances_png: PNG file of instance numbers, 16 bit greyscale, 0 = no instance; None without instances.
        classes: Class indices that occur in the label map, ascending, the ignore label left out.
        captions: In ascending order of ``caption_id``; may be empty.
        source_path: Image file relative to the data set's root, with ``/``; empty for generated scenes.
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
    status: str = OK
    reason: str = ""
