"""A data set of image files and label files that belong together by name; ADE20K, Pascal and folders are such."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, Values, read_index_png
from pipeline.prepare.layout import Annotations, DataRoot, LayoutError, failed_scene, scene_key
from pipeline.prepare.vocabulary import Vocabulary
from storage_schemas.scenes import Caption, Scene


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and what belongs to it.

    Attributes:
        image_id: The data set's own id.
        image_path: Relative to the root.
        label_path: Likewise; None where no label is expected.
        captions: In ascending order of id.
        fault: What makes it unusable before a file is opened.
    """

    image_id: str
    image_path: str
    label_path: str | None = None
    captions: tuple[Caption, ...] = ()
    fault: SceneFault | None = None


@dataclass(frozen=True, slots=True)
class DecodedLabel:
    """A label file's values [height width], and the file itself if it is a greyscale PNG, which may stay as it is."""

    values: Values
    greyscale_png: bytes | None = None


LabelDecoder = Callable[[bytes, ImageFacts, int], DecodedLabel]
"""Decodes a label file, given its image's facts and ``max_image_px``; raises ``SceneFault``."""


def decode_index_png(data: bytes, image: ImageFacts, max_image_px: int) -> DecodedLabel:
    """Decode a PNG whose palette index or grey value stands for a class."""
    values, grey = read_index_png(data, image, max_image_px=max_image_px)
    return DecodedLabel(values, data if grey else None)


@dataclass(frozen=True)
class PairedSource:
    """Scenes of pairs of files.

    Attributes:
        root: Where the files are.
        pairs: Key to pair.
        vocabulary: Class names in index order.
        table: What the values in label files mean.
        licence: Licence or terms of the data.
        decode_label: How label files are read.
        label_required: Whether an image without its label file is a fault, or a scene without label.
        text_files: Lists and tables that decided the pairs, for the identity.
        layout_notes: What is odd about the layout as a whole.
    """

    root: DataRoot
    pairs: Mapping[str, Pair]
    vocabulary: Vocabulary
    table: ClassTable
    licence: str
    decode_label: LabelDecoder = decode_index_png
    label_required: bool = True
    text_files: Sequence[str] = ()
    layout_notes: Sequence[str] = field(default=())

    @property
    def ignore_label(self) -> int:
        """255 or 65535."""
        return self.table.ignore_label

    def keys(self) -> Sequence[str]:
        """Return the scene keys, sorted."""
        return sorted(self.pairs)

    def identity(self) -> Mapping[str, str | int | bool]:
        """Return digests of the lists, and of the names and sizes of images and label files."""
        pairs = self.pairs.values()
        return {
            **{file: self.root.file_digest(file) for file in self.text_files},
            "images": self.root.listing_digest(pair.image_path for pair in pairs if pair.image_path),
            "labels": self.root.listing_digest(pair.label_path for pair in pairs if pair.label_path),
        }

    def scene(self, key: str) -> Scene:
        """Read one scene."""
        pair = self.pairs[key]
        if pair.fault:
            return failed_scene(key, pair.image_id, pair.image_path, pair.fault)
        return self.root.scene(key, pair.image_id, pair.image_path, lambda facts: self._annotate(pair, facts))

    def notes(self) -> list[str]:
        """Tell what is odd about the layout as a whole."""
        return list(self.layout_notes)

    def _annotate(self, pair: Pair, facts: ImageFacts) -> Annotations:
        """Read a pair's label."""
        data = self._label_bytes(pair)
        if data is None:
            return Annotations(captions=pair.captions)
        decoded = self.decode_label(data, facts, self.root.max_image_px)
        label = self.table.label_map(decoded.values, decoded.greyscale_png)
        return Annotations(label.png, None, label.classes, pair.captions)

    def _label_bytes(self, pair: Pair) -> bytes | None:
        if pair.label_path is None:
            return None
        if self.label_required:
            return self.root.read(pair.label_path, "label_missing")
        return self.root.read_if_there(pair.label_path)


def pairs_of_list(root: DataRoot, list_file: str, hint: str, image: str, label: str) -> dict[str, Pair]:
    """Make the pairs of a list file with one image id a line; empty lines don't count.

    Args:
        root: The data set.
        list_file: Path of the list.
        hint: What to do if the list is not there.
        image: Path of an image with ``{}`` for the id.
        label: Path of a label, likewise.

    Raises:
        LayoutError: If the list is not there, or has an id twice.
    """
    pairs: dict[str, Pair] = {}
    for number, image_id in enumerate(root.text_lines(list_file, hint), start=1):
        if not image_id:
            continue
        key = scene_key(image_id)
        if key in pairs:
            message = (
                f"{root.name}: {list_file}: line {number} has the id {image_id!r} a second time; remove one of them"
            )
            raise LayoutError(message)
        pairs[key] = Pair(image_id, image.format(image_id), label.format(image_id))
    return pairs


def pairs_of_files(
    image_paths: Iterable[str],
    label_path: Callable[[str], str | None],
    captions: Mapping[str, tuple[Caption, ...]] | None = None,
) -> dict[str, Pair]:
    """Make the pairs of image files; two files with one stem are a fault of the scene that both would be.

    Args:
        image_paths: Relative to the root.
        label_path: Path of an image's label from the image's path without ending; None for no label.
        captions: Captions of each image by its file stem.
    """
    pairs: dict[str, Pair] = {}
    for path in sorted(image_paths):
        without_ending = path.rpartition(".")[0]
        stem = without_ending.rpartition("/")[2]
        key = scene_key(stem)
        fault = None
        if key in pairs:
            fault = SceneFault("duplicate_key", f"{pairs[key].image_path} and {path} would both be {key}")
        own_captions = captions.get(stem, ()) if captions else ()
        pairs[key] = Pair(stem, path, label_path(without_ending), own_captions, fault)
    return pairs


def notes_on_labels(label_names: Iterable[str], pairs: Mapping[str, Pair]) -> list[str]:
    """Tell which label files belong to no image."""
    stems = {pair.image_id for pair in pairs.values()}
    extra = [name for name in label_names if name.rpartition(".")[0] not in stems]
    return [f"{len(extra)} label files have no image, such as {extra[0]}"] if extra else []
