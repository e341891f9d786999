"""Sources of masks: files of others, opened once per worker, and read picture by picture."""

import csv
import hashlib
import io
import json
import os
import zipfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.image_input import PIXELS_MAX
from pipeline.import_masks.json_records import (
    JsonRecord,
    MaskSourceError,
    json_records,
    opened,
    read_record,
)
from pipeline.import_masks.pictures import ScenePictures
from pipeline.import_masks.segmentation import (
    EMPTY,
    FILE_UNREADABLE,
    MALFORMED,
    OTHER_SIZE,
    PICTURE_UNKNOWN,
    MaskFault,
    PictureFrame,
    Size,
    SourceMask,
    is_number,
    masks_of_label_map,
    net_mask,
)
from pipeline.prepare.data_root import DataRoot, printable
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.file_digests import FileDigests
from pipeline.settings import MasksSettings
from pipeline.stored_pictures import UndecodableError, decoding, turned_upright
from storage_schemas.proposals import RefusedMask
from storage_schemas.rle import decode_masks

Found = SourceMask | RefusedMask
LabelNumbers: TypeAlias = npt.NDArray[np.int64]  # [height width]
KnownFormat = Literal["coco", "panoptic", "sam", "npz", "png"]

_ENDINGS: Mapping[KnownFormat, tuple[str, ...]] = {"sam": (".json",), "npz": (".npz", ".npy"), "png": (".png",)}
_ARRAY_BYTES_MAX = 4 << 30  # of an array as it is in memory: a file of zeros can be a thousand times smaller
_SCORE_MAX = float(np.finfo(np.float32).max)  # as which scores are stored
_MASK_ARRAYS, _SCORE_ARRAYS = ("masks", "arr_0", "segmentation"), ("scores", "score", "predicted_iou", "iou_preds")
_METADATA = "metadata.csv"


class UnplacedPicture(NamedTuple):
    """A picture of the source that is no scene, or more than one.

    Attributes:
        name: Its name or id.
        refused: Why its masks are not taken.
    """

    name: str
    refused: RefusedMask


class OpenSource(Protocol):
    """A source at work."""

    def masks(self, number: int, frame: PictureFrame) -> Iterator[Found]:
        """Yield the masks of a scene's picture, by its number, in the source's order."""
        ...

    def label_map(self, number: int, frame: PictureFrame) -> LabelNumbers | None:
        """Return the map of a scene's picture, if there is one, as it is shown: its source's numbers of classes.

        Pixels that the source says nothing of are -1.

        Raises:
            MaskFault: If it cannot be read, or does not fit the picture.
        """
        ...

    def unplaced(self) -> Sequence[UnplacedPicture]:
        """Return the pictures that are no scene."""
        ...


@dataclass(frozen=True)
class MaskFiles:
    """The files of a source, found but not read.

    Attributes:
        where: Setting that names them, for messages.
        settings: What they are.
    """

    where: str
    settings: MasksSettings

    @cached_property
    def format(self) -> KnownFormat:
        """Kind of the files.

        Raises:
            MaskSourceError: If there are none, or it cannot be found out.
        """
        path, asked = self.settings.path, self.settings.format
        if not path.exists():
            raise MaskSourceError(f"{self.where}: there is nothing at {path}; correct the path")
        if path.is_file():
            if path.suffix.lower() != ".json":
                raise MaskSourceError(f"{self.where}: {path} is a file, a .json or a folder is expected; correct it")
            found = _format_of_json(path) if asked == "auto" else asked
            if found in {"npz", "png"}:
                raise MaskSourceError(
                    f"{self.where}: {path} is one file, '{found}' is a folder with a file per picture; correct it"
                )
            return found
        if asked in {"coco", "panoptic"}:
            raise MaskSourceError(f"{self.where}: {path} is a folder, '{asked}' is one JSON file; name the file")
        kinds: list[KnownFormat] = [kind for kind in _ENDINGS if asked in {"auto", kind} and self._listed(kind)]
        if len(kinds) != 1:
            endings = ", ".join(ending for kind in _ENDINGS if asked in {"auto", kind} for ending in _ENDINGS[kind])
            found_text = f"files of several kinds ({', '.join(kinds)})" if kinds else f"no file that ends in {endings}"
            raise MaskSourceError(f"{self.where}: {path} holds {found_text}; name the format, or correct the path")
        return kinds[0]

    @property
    def file(self) -> Path:
        """The one file, wherever a link leads."""
        return self.settings.path.resolve()

    @cached_property
    def root(self) -> DataRoot:
        """Where the files lie."""
        path = self.settings.path
        return self._root(path if path.is_dir() else self.file.parent)

    def _root(self, directory: Path) -> DataRoot:
        return DataRoot(name=self.where, directory=directory, max_image_px=PIXELS_MAX)

    @cached_property
    def listed(self) -> list[str]:
        """The files of a folder, relative to it, in order."""
        return self._listed(self.format)

    def _listed(self, kind: KnownFormat) -> list[str]:
        """List the files of one kind; of SAM's folders per picture their masks and tables."""
        names = _tree(self.root.directory)
        if kind == "sam":
            tables = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == _METADATA}
            if tables:
                return [name for name in names if str(PurePosixPath(name).parent) in tables]
        elif any(PurePosixPath(name).name == _METADATA for name in names):
            return []
        return [name for name in names if name.lower().endswith(_ENDINGS[kind])]

    @property
    def images_file(self) -> Path | None:
        """JSON file with the names of pictures, if the settings name one."""
        return Path(self.settings.images) if self.settings.images else None

    @cached_property
    def png_root(self) -> DataRoot:
        """Where the PNGs of a panoptic JSON lie.

        Raises:
            MaskSourceError: If they lie nowhere.
        """
        path = self.settings.path
        named = [Path(self.settings.png_dir)] if self.settings.png_dir else [path.with_suffix(""), path.parent]
        there = [directory for directory in named if directory.is_dir()]
        if not there:
            raise MaskSourceError(f"{self.where}: no folder {named[0]} of the PNGs of {path}; name it as png_dir")
        return self._root(there[0])

    def digest(self, memory: Path) -> dict[str, str]:
        """Return what identifies the contents of all files, wherever they lie; only those that changed are read.

        Args:
            memory: Directory, in an existing runs directory, that keeps what was found of them.

        Raises:
            MaskSourceError: If there are none.
        """

        def contents(root: DataRoot, names: Sequence[str]) -> str:
            place = hashlib.sha256(os.fsencode(root.directory.resolve())).hexdigest()[:16]
            known = FileDigests(memory / f"masks-{place}.json")
            found = known.file(root, names[0]) if len(names) == 1 else known.by_contents(root, names)
            if memory.parent.is_dir():
                known.keep()
            return found

        kind = self.format  # raises if there are none
        if self.settings.path.is_dir():
            return {"files": contents(self.root, self.listed)}
        found = {"files": contents(self.root, [self.file.name])}
        if kind == "panoptic":
            names = [name for name in _tree(self.png_root.directory) if name.lower().endswith(".png")]
            found["pngs"] = contents(self.png_root, names)
        if self.images_file is not None:
            opened(self.images_file).close()  # raises if it is not there
            images = self.images_file.resolve()
            found["images"] = contents(self._root(images.parent), [images.name])
        return found

    def open(self, pictures: ScenePictures) -> OpenSource:
        """Find out which masks are of which scene.

        Raises:
            MaskSourceError: If a file cannot be used at all, or no mask is of a scene.
        """
        if self.format in {"coco", "panoptic"}:
            return _RecordSource(self, pictures)
        return _FolderSource(self, pictures)


def _tree(directory: Path) -> list[str]:
    """List all files below a directory, relative to it, in order; hidden ones are left out, links not followed."""
    found = []
    for place, inner, names in os.walk(directory):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [os.path.relpath(Path(place, name), directory) for name in names if not name.startswith(".")]
    return sorted(name.replace(os.sep, "/") for name in found)


def _format_of_json(path: Path) -> KnownFormat:
    """Return which format a JSON file is of, by its first records."""
    for record in json_records(path):
        if record.key == "image":
            return "sam"
        if isinstance(record.value, dict) and record.key in {"", "annotations"}:
            if "segments_info" in record.value:
                return "panoptic"
            return "coco" if {"image_id", "file_name"} & record.value.keys() else "sam"
    message = f"{path}: holds no record of a mask; a list of them, or an object with 'annotations', is expected"
    raise MaskSourceError(f"{message}; export it again")


class _RecordSource:
    """One JSON file with the masks of all pictures; of each record its place is kept, in 24 bytes."""

    def __init__(self, files: MaskFiles, pictures: ScenePictures) -> None:
        self._files = files
        self._path = files.settings.path
        listed = _listed_pictures(files.images_file) if files.images_file is not None else {}
        places, sizes, callings = array("q"), array("q"), array("q")
        calling_of: dict[tuple[Any, Any], int] = {}  # number of each picture by what records call it
        for record in json_records(self._path):
            if record.key == "images":
                _add_picture(listed, record.value)
            elif record.key in {"", "annotations"}:
                places.append(record.offset)
                sizes.append(record.size_bytes)
                callings.append(calling_of.setdefault(_picture_of(record), len(calling_of)))
        # Not before all is read, as pictures may be listed after the masks.
        scene_of = np.array([_scene_of(*called, listed, pictures) for called in calling_of] or [-1], np.int64)
        by_name = {picture.name: picture.size for picture in listed.values()}
        self._size_of: dict[int, Size] = {}  # of each scene's picture, as the list of pictures states it
        for (image_id, file_name), number in zip(calling_of, scene_of.tolist(), strict=False):
            picture = listed.get(str(image_id))
            size = by_name.get(str(file_name)) if picture is None else picture.size
            if size is not None:
                self._size_of[number] = size
        numbers = scene_of[np.array(callings, np.int64)]
        order = np.argsort(numbers, kind="stable")  # records of one picture may lie anywhere in the file
        order = order[np.searchsorted(numbers[order], 0) :]  # those of no scene are -1
        self._numbers = numbers[order]
        self._places, self._sizes = np.array(places, np.int64)[order], np.array(sizes, np.int64)[order]
        of_calling = np.bincount(np.array(callings, np.int64), minlength=len(calling_of)).tolist()
        unplaced = {
            printable(str(image_id if file_name is None else file_name)): count
            for (image_id, file_name), count, number in zip(calling_of, of_calling, scene_of.tolist(), strict=False)
            if number < 0
        }
        self._unplaced = unplaced
        if not len(self._numbers):
            shown = ", ".join(list(unplaced)[:3]) or "none"
            raise MaskSourceError(
                f"{files.where}: {self._path} names the pictures {shown}, none of them is one of the {len(pictures)} "
                f"scenes ({', '.join(pictures.names(3))}, ...); name the data set that the masks are of, or as "
                "'images' the JSON file that has the pictures' names"
            )

    def masks(self, number: int, frame: PictureFrame) -> Iterator[Found]:
        """Yield the masks of a picture, in the order of the file."""
        rows = range(*np.searchsorted(self._numbers, [number, number + 1]).tolist())
        if not rows:
            return
        with opened(self._path) as file:
            for row in rows:
                record = read_record(file, int(self._places[row]), int(self._sizes[row]))
                where = f"{self._path.name}, byte {self._places[row]}"
                if self._files.format == "panoptic":
                    yield from _panoptic_masks(record, self._files.png_root, frame, where)
                else:
                    yield _coco_mask(record, where, self._size_of.get(number))

    def label_map(self, number: int, frame: PictureFrame) -> LabelNumbers | None:
        """Put the masks of a picture together, each with its category."""
        numbers: LabelNumbers | None = None
        for found in self.masks(number, frame):
            if isinstance(found, RefusedMask):
                raise MaskFault(*found)
            if type(found.category) is not int or found.category < 0:
                raise MaskFault(MALFORMED, f"{found.where}: category_id is {found.category!r}, expected a number")
            inside = decode_masks([net_mask(found, frame).counts], *frame.net)[0]
            if numbers is None:
                numbers = np.full(frame.net, -1, np.int64)
            if (numbers[inside] >= 0).any():
                raise MaskFault(MALFORMED, f"{found.where}: shares pixels with another class of the picture")
            numbers[inside] = found.category
        return numbers

    def unplaced(self) -> list[UnplacedPicture]:
        """Return the pictures that are no scene, with the number of their masks."""
        return [
            UnplacedPicture(name, RefusedMask(PICTURE_UNKNOWN, f"none of the scenes is {name}; it has {count} records"))
            for name, count in sorted(self._unplaced.items())
        ]


def _picture_of(record: JsonRecord) -> tuple[Any, Any]:
    """Return what a record calls its picture: its id, and its file name where it has one."""
    value = record.value if isinstance(record.value, dict) else {}
    image_id, file_name = value.get("image_id"), value.get("file_name")
    if "segments_info" in value and image_id is not None:
        file_name = None  # that of the PNG; its picture has the id
    return (
        image_id if isinstance(image_id, int | str) else None,
        file_name if isinstance(file_name, str) else None,
    )


def _scene_of(
    image_id: Any, file_name: str | None, listed: Mapping[str, "_ListedPicture"], pictures: ScenePictures
) -> int:
    """Return the number of the scene that a record is of, -1 if it is of none.

    The list of pictures goes first: some tools count ids anew.
    """
    picture = listed.get(str(image_id))
    if picture is not None:
        number = pictures.by_name(picture.name)
    else:
        number = pictures.by_id(image_id) if image_id is not None else None
        number = pictures.by_name(file_name) if number is None and file_name is not None else number
    return -1 if number is None else number


class _ListedPicture(NamedTuple):
    """A picture of a list ``images``; its size is None where it is not stated."""

    name: str
    size: Size | None


def _listed_pictures(file: Path) -> dict[str, _ListedPicture]:
    """Read the names and sizes of pictures by their ids.

    Raises:
        MaskSourceError: If the file cannot be read.
    """
    listed: dict[str, _ListedPicture] = {}
    for record in json_records(file):
        if record.key == "images":
            _add_picture(listed, record.value)
    return listed


def _add_picture(listed: dict[str, _ListedPicture], image: object) -> None:
    """Note the name and size of a picture by its id; a record without id and name is passed over."""
    if isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image:
        listed.setdefault(str(image["id"]), _ListedPicture(image["file_name"], _stated_size(image)))


def _stated_size(image: Mapping[str, Any]) -> Size | None:
    """Return height and width where a record of a picture states them."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None


def _coco_mask(record: object, where: str, size: tuple[int, int] | None = None) -> Found:
    """Return the mask of a record of COCO's results or annotations, of SA-1B, or of SAM's automatic generator."""
    if not isinstance(record, dict):
        return RefusedMask(MALFORMED, f"{where}: is a {type(record).__name__}, expected an object")
    score = next((record[name] for name in ("score", "predicted_iou") if record.get(name) is not None), 1.0)
    if not is_number(score) or abs(score) > _SCORE_MAX:
        return RefusedMask(MALFORMED, f"{where}: the score is {score!r}, expected a finite number of 32 bits")
    query = record.get("query")
    return SourceMask(
        where=where,
        segmentation=record.get("segmentation"),
        size=size,
        score=float(score),
        box=record.get("bbox"),
        area=record.get("area"),
        category=record.get("category_id"),
        query=query if type(query) is int and 0 <= query < 2**31 else None,
    )


def _panoptic_masks(record: Mapping[str, Any], root: DataRoot, frame: PictureFrame, where: str) -> Iterator[Found]:
    """Yield the segments of a panoptic PNG in the order of its JSON."""
    name = record.get("file_name")
    if not isinstance(name, str) or not isinstance(record.get("segments_info"), list):
        yield RefusedMask(MALFORMED, f"{where}: expected 'file_name' and a list 'segments_info'")
        return
    try:
        numbers = _label_png(root, name.replace("\\", "/"), frame)
    except MaskFault as fault:
        yield fault.refused
        return
    unlisted = set(np.unique(numbers).tolist()) - {0}
    for info in record["segments_info"]:
        number = info.get("id") if isinstance(info, dict) else None
        if type(number) is not int or number == 0:
            yield RefusedMask(MALFORMED, f"{where}: a segment has the id {number!r}, expected a number above 0")
            continue
        if number not in unlisted:
            yield RefusedMask(EMPTY, f"{where}: {name} has no pixel of segment {number}")
            continue
        unlisted.discard(number)
        found = _coco_mask({**info, "segmentation": numbers == number, "bbox": None, "area": None}, f"{name}, {number}")
        yield found
    for number in sorted(unlisted):
        yield RefusedMask(MALFORMED, f"{where}: {name} has segment {number}, which its JSON does not list")


class _FolderSource:
    """A folder with one file per picture, or SAM's folder per picture with a PNG per mask."""

    def __init__(self, files: MaskFiles, pictures: ScenePictures) -> None:
        self._files = files
        path = files.settings.path
        names = [files.file.name] if path.is_file() else files.listed
        entries: dict[str, list[str]] = defaultdict(list)  # of each picture's entry its files
        for name in names:
            pure = PurePosixPath(name)
            in_folder = files.format == "sam" and pure.suffix.lower() != ".json"
            entries[str(pure.parent) if in_folder else name].append(name)
        self._entries: dict[int, list[str]] = {}
        self._unplaced: list[UnplacedPicture] = []
        taken: dict[int, str] = {}
        found = {entry: pictures.by_name(entry) for entry in entries}
        for entry, number in found.items():  # of SA-1B's files that are named otherwise the picture's name is inside
            if number is None and files.format == "sam" and entry.lower().endswith(".json"):
                inside = _image_of(files.root, entry).get("file_name")
                found[entry] = pictures.by_name(inside) if isinstance(inside, str) else None
        for entry, number in sorted(found.items(), key=lambda one: pictures.by_name(one[0]) is None):
            own = entries[entry]  # a file's own name goes before what is inside another one
            if number is None or number in taken:
                reason = (
                    f"none of the scenes is called {PurePosixPath(entry).stem}"
                    if number is None
                    else f"{taken[number]} is of the same picture"
                )
                self._unplaced.append(UnplacedPicture(printable(entry), RefusedMask(PICTURE_UNKNOWN, reason)))
                continue
            taken[number] = entry
            self._entries[number] = own
        if not self._entries:
            raise MaskSourceError(
                f"{files.where}: {path} has masks of {', '.join(list(entries)[:3])}, none of them is one of the "
                f"{len(pictures)} scenes ({', '.join(pictures.names(3))}, ...); name the data set that the masks are "
                "of, or name the files as the pictures"
            )

    def masks(self, number: int, frame: PictureFrame) -> Iterator[Found]:
        """Yield the masks of a picture, in the order of its file."""
        own = self._entries.get(number)
        if own is None:
            return
        root, settings = self._files.root, self._files.settings
        readers: dict[KnownFormat, Callable[[], Iterable[Found]]] = {
            "sam": lambda: _sam_json(root, own[0]) if own[0].lower().endswith(".json") else _sam_pngs(root, own, frame),
            "npz": lambda: _arrays(root, own[0], frame, settings.background),
            "png": lambda: masks_of_label_map(_label_png(root, own[0], frame), settings.background, own[0]),
        }
        try:
            yield from readers[self._files.format]()
        except MaskFault as fault:
            yield fault.refused

    def label_map(self, number: int, frame: PictureFrame) -> LabelNumbers | None:
        """Read the file of a picture: a PNG, or an array."""
        own = self._entries.get(number)
        if own is None:
            return None
        if self._files.format == "png":
            found = _label_png(self._files.root, own[0], frame)
        else:
            arrays = _npz(_bytes(self._files.root, own[0]), own[0])
            found = next(iter(arrays.values()))
            if len(arrays) != 1 or found.ndim != 2 or found.dtype.kind not in "iu":
                shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
                reason = f"{own[0]}: holds {shapes}, one array [height width] of whole numbers is expected"
                raise MaskFault(MALFORMED, reason)
            if frame.side(found.shape) is None:
                height, width = found.shape
                reason = f"{own[0]}: is of {width} x {height} px, the picture of {frame.described()}"
                raise MaskFault(OTHER_SIZE, reason)
        numbers = found.astype(np.int64)
        if frame.side(numbers.shape) == "stored":
            return turned_upright(numbers.astype(np.int32), frame.exif_orientation).astype(np.int64)
        return numbers

    def unplaced(self) -> list[UnplacedPicture]:
        """Return the files that are of no scene, or of one that another file is of."""
        return sorted(self._unplaced)


def _bytes(root: DataRoot, name: str) -> bytes:
    """Read a file.

    Raises:
        MaskFault: If it is not there, no regular file, too large, or leaves its folder.
    """
    try:
        return root.read(name, "label_missing")
    except SceneFault as fault:
        raise MaskFault(FILE_UNREADABLE, fault.reason) from fault


def _json(root: DataRoot, name: str) -> Any:
    try:
        return json.loads(_bytes(root, name).removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise MaskFault(FILE_UNREADABLE, f"{name}: is no JSON ({error})") from error


def _image_of(root: DataRoot, name: str) -> Mapping[str, Any]:
    """Return what SA-1B says of a picture; nothing where it cannot be read."""
    try:
        document = _json(root, name)
    except MaskFault:
        return {}
    image = document.get("image") if isinstance(document, dict) else None
    return image if isinstance(image, dict) else {}


def _sam_json(root: DataRoot, name: str) -> Iterator[Found]:
    """Yield the masks of SA-1B's object, or of the list that SAM's automatic generator gives."""
    document = _json(root, name)
    listed = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise MaskFault(FILE_UNREADABLE, f"{name}: expected a list of masks, or an object with 'annotations'")
    image = document.get("image") if isinstance(document, dict) else None
    size = _stated_size(image) if isinstance(image, dict) else None
    for place, record in enumerate(listed):
        yield _coco_mask(record, f"{name}, mask {place}", size)


def _sam_pngs(root: DataRoot, names: Sequence[str], frame: PictureFrame) -> Iterator[Found]:
    """Yield the masks of SAM's folder of a picture: ``0.png``, ``1.png``, ... and a table of their scores."""
    table = next((name for name in names if PurePosixPath(name).name == _METADATA), None)
    scores: dict[str, str] = {}
    if table is not None:
        rows = csv.DictReader(io.StringIO(_bytes(root, table).decode("utf-8-sig", "replace"), newline=""))
        try:
            if not {"id", "predicted_iou"} <= set(rows.fieldnames or ()):
                raise MaskFault(FILE_UNREADABLE, f"{table}: expected a table with the columns id and predicted_iou")
            scores = {row["id"]: row["predicted_iou"] for row in rows if row["predicted_iou"] is not None}
        except csv.Error as error:
            raise MaskFault(FILE_UNREADABLE, f"{table}: cannot be read as a table ({error})") from error
    masks = [name for name in names if name.lower().endswith(".png")]
    for name in sorted(masks, key=lambda name: (len(name), name)):  # 2.png before 10.png
        try:
            values = _label_png(root, name, frame)
        except MaskFault as fault:
            yield fault.refused
            continue
        stated = scores.get(PurePosixPath(name).stem, "1")
        try:
            score: float | str = float(stated)
        except ValueError:
            score = stated  # which is refused with its text
        yield _array_mask(values, score, name)


def _label_png(root: DataRoot, name: str, frame: PictureFrame) -> npt.NDArray[Any]:
    """Read a map of numbers [height width]: grey, palette indices, or R + 256 G + 65536 B.

    Raises:
        MaskFault: If it cannot be read, or is of another size than its picture.
    """
    data = _bytes(root, name)
    try:
        with decoding(), Image.open(io.BytesIO(data), formats=["PNG"]) as png:
            if frame.side((png.height, png.width)) is None:
                reason = f"{name}: is of {png.width} x {png.height} px, the picture of {frame.described()}"
                raise MaskFault(OTHER_SIZE, reason)
            if png.mode in {"RGB", "RGBA"}:
                colours = np.asarray(png)[..., :3].astype(np.int64)
                numbers: npt.NDArray[Any] = colours @ np.array([1, 256, 65536])
                return numbers
            if png.mode not in {"1", "L", "P", "I", "I;16"}:
                raise MaskFault(MALFORMED, f"{name}: is of mode {png.mode}, expected grey, a palette or RGB")
            return np.asarray(png).astype(np.int64)
    except UndecodableError as error:
        raise MaskFault(FILE_UNREADABLE, f"{name}: {error}") from error


def _arrays(root: DataRoot, name: str, frame: PictureFrame, background: Sequence[int]) -> Iterator[Found]:
    """Yield the masks of an NPZ or NPY file: [mask height width], or a label map [height width]; no pickle is read."""
    arrays = _npz(_bytes(root, name), name)
    key = next((key for key in _MASK_ARRAYS if key in arrays), None)
    key = next(iter(arrays)) if key is None and len(arrays) == 1 else key
    if key is None:
        expected = " or ".join(_MASK_ARRAYS)
        raise MaskFault(FILE_UNREADABLE, f"{name}: has the arrays {sorted(arrays)}, one called {expected} is expected")
    masks = arrays[key]
    if masks.ndim == 4 and masks.shape[1] == 1:  # as SAM 3 gives them
        masks = masks[:, 0]
    if masks.ndim not in {2, 3} or not masks.size:
        reason = f"{name}: '{key}' is of shape {list(masks.shape)}, expected [mask height width] or [height width]"
        raise MaskFault(MALFORMED, reason)
    size = masks.shape[-2:]
    if frame.side(size) is None:
        raise MaskFault(OTHER_SIZE, f"{name}: is of {size[1]} x {size[0]} px, the picture of {frame.described()}")
    if masks.ndim == 2 and masks.dtype.kind in "iu":
        yield from masks_of_label_map(masks, background, name)
        return
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.dtype.kind not in "biu" and not np.isin(masks, (0, 1)).all():
        reason = f"{name}: '{key}' holds {masks.dtype}, expected true and false; compare scores with your threshold"
        raise MaskFault(MALFORMED, reason)
    scores = next((arrays[of] for of in _SCORE_ARRAYS if of in arrays), np.ones(len(masks)))
    if scores.reshape(-1).shape != (len(masks),) or scores.dtype.kind not in "fiu":
        reason = f"{name}: has {len(masks)} masks, and scores of shape {list(scores.shape)}; one each is expected"
        raise MaskFault(MALFORMED, reason)
    for place, (mask, score) in enumerate(zip(masks, scores.reshape(-1).tolist(), strict=True)):
        yield _array_mask(mask, score, f"{name}, mask {place}")


def _array_mask(values: npt.NDArray[Any], score: float | str, where: str) -> Found:
    """Return the mask of an array [height width] of 0 and one other value: 1, 255, or true."""
    inside = values != 0
    others = values[inside]
    if len(others) and (others != others[0]).any():
        reason = f"{where}: holds values from {values.min()} to {values.max()}, expected 0 and one other"
        return RefusedMask(MALFORMED, f"{reason}; compare scores with your threshold")
    return _coco_mask({"segmentation": inside, "score": score}, where)


def _npz(data: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a file, once their sizes are checked.

    Raises:
        MaskFault: If it is none, its arrays hold objects, or are too large.
    """
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return {"masks": np.load(io.BytesIO(data), allow_pickle=False)}
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size_bytes = sum(entry.file_size for entry in packed.infolist())
        if size_bytes > _ARRAY_BYTES_MAX:
            raise MaskFault(FILE_UNREADABLE, f"{name}: unpacks to {size_bytes} bytes, at most {_ARRAY_BYTES_MAX}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            expected = arrays.files if len(arrays.files) == 1 else {*arrays.files} & {*_MASK_ARRAYS, *_SCORE_ARRAYS}
            return {key: arrays[key] for key in expected} or dict.fromkeys(arrays.files, np.zeros(0))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise MaskFault(FILE_UNREADABLE, f"{name}: cannot be read as arrays ({error})") from error
