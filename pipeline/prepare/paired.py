"""A data set of image files and label files that belong together by name; ADE20K, Pascal and folders are such."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.prepare.data_root import (
    AccessedPaths,
    Annotations,
    DataRoot,
    LayoutError,
    composed,
    failed_scene,
    scene_key,
)
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, Values, read_index_png
from pipeline.prepare.source import Found, PassedOver
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
    """Decode a PNG whose palette index or grey value means a class."""
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
        label_required: Whether each image should have a label file.
        label_files: All label files, whatever their endings.
        text_files: Lists and tables that decided the pairs, for the identity.
        passed_over: Other files that belong to no scene.
    """

    root: DataRoot
    pairs: Mapping[str, Pair]
    vocabulary: Vocabulary
    table: ClassTable
    licence: str
    decode_label: LabelDecoder = decode_index_png
    label_required: bool = True
    label_files: Sequence[str] = ()
    text_files: Sequence[str] = ()
    passed_over: Sequence[PassedOver] = ()

    @property
    def ignore_label(self) -> int:
        """255 or 65535."""
        return self.table.ignore_label

    def keys(self) -> Sequence[str]:
        """Return the scene keys, sorted."""
        return sorted(self.pairs)

    @property
    def accessed(self) -> AccessedPaths:
        """What the root has noted."""
        return self.root.accessed

    def identity(self, digests: FileDigests, keys: Sequence[str]) -> Mapping[str, str | int | bool]:
        """Return digests of the lists, of the listing of images, and of the label files."""
        pairs = [self.pairs[key] for key in keys]
        return {
            **{file: digests.file(self.root, file) for file in self.text_files},
            "images": digests.by_size(self.root, (pair.image_path for pair in pairs if pair.image_path)),
            "labels": digests.by_contents(self.root, (pair.label_path for pair in pairs if pair.label_path)),
        }

    def found(self) -> Found:
        """Return what is there."""
        listed = set(self.label_files)
        used = {pair.label_path for pair in self.pairs.values() if pair.label_path and pair.label_path in listed}
        no_label_used = ""
        if not used and self.vocabulary.class_names and (self.label_files or self.label_required):
            pictures = [pair.image_path for pair in self.pairs.values() if pair.image_path]
            no_label_used = why_no_label(pictures, self.label_files)
        return Found(
            pictures=sum(bool(pair.image_path) for pair in self.pairs.values()),
            labels=sum(is_label(name) for name in self.label_files) or len(self.label_files),
            captions=sum(len(pair.captions) for pair in self.pairs.values()),
            passed_over=(*self.passed_over, *labels_without_picture(self.label_files, used)),
            no_label_used=no_label_used,
        )

    def scene(self, key: str) -> Scene:
        """Read one scene."""
        pair = self.pairs[key]
        if pair.fault:
            return failed_scene(key, pair.image_id, pair.image_path, pair.fault)

        def annotate(facts: ImageFacts) -> Annotations:
            if pair.label_path is None:
                return Annotations(captions=pair.captions)
            data = self.root.read(pair.label_path, "label_missing")
            decoded = self.decode_label(data, facts, self.root.max_image_px)
            label = self.table.label_map(decoded.values, decoded.greyscale_png)
            return Annotations(label.png, None, label.classes, pair.captions, label.ignored_values)

        return self.root.scene(key, pair.image_id, pair.image_path, annotate)


def pairs_of_list(root: DataRoot, list_file: str, hint: str, image: str, label: str) -> dict[str, Pair]:
    """Make the pairs of a list file with one image id a line; empty lines don't count.

    Args:
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
            raise LayoutError(
                f"{root.name}: {list_file}: line {number} has the id {image_id!r} a second time; remove one of them"
            )
        pairs[key] = Pair(image_id, image.format(image_id), label.format(image_id))
    return pairs


def pairs_of_files(
    image_paths: Iterable[str],
    image_directory: str,
    label_of: Callable[[str], str | None],
    captions: Mapping[str, tuple[Caption, ...]] | None = None,
) -> dict[str, Pair]:
    """Make the pairs of image files; two files of one name are a fault of the scene that both would be.

    Names are compared in Unicode's composed form. A picture's name is its path below ``image_directory`` without the
    ending, so that the same name in two sub-folders is two pictures.

    Args:
        image_paths: Relative to the root.
        image_directory: Directory that they are in or below; empty for a layout that goes by file names alone.
        label_of: Path of the label of a picture by its name, which is its whole path without ending where
            ``image_directory`` is empty; None for no label.
        captions: Captions of each image by its name.
    """
    pairs: dict[str, Pair] = {}
    for path in sorted(image_paths):
        without_ending = composed(path.rpartition(".")[0])
        below = without_ending.removeprefix(f"{image_directory}/") if image_directory else without_ending
        name = below if image_directory else below.rpartition("/")[2]
        key = scene_key(name)
        fault = None
        if key in pairs:
            fault = SceneFault("duplicate_key", f"{pairs[key].image_path} and {path} would both be {key}")
        own_captions = captions.get(name, ()) if captions else ()
        pairs[key] = Pair(name, path, label_of(below), own_captions, fault)
    return pairs


def labels_without_picture(label_files: Sequence[str], used: Set[str]) -> list[PassedOver]:
    """Report the label files that belong to no picture."""
    unused = [name for name in label_files if name not in used]
    labels, others = [name for name in unused if is_label(name)], [name for name in unused if not is_label(name)]
    reports = ((labels, "label files without a picture"), (others, "files beside labels that are no PNG"))
    return [PassedOver(len(names), names[0], reason) for names, reason in reports if names]


def is_label(name: str) -> bool:
    """Return whether a file may be a label by its ending."""
    return name.lower().endswith((".png", ".mat"))


def why_no_label(pictures: Sequence[str], label_files: Sequence[str]) -> str:
    """Return why no label belongs to any picture, as far as their names show.

    Args:
        pictures: Paths of the pictures.
        label_files: Paths of what is where labels are expected.
    """
    if not label_files:
        return "no label file is there"
    example = label_files[0]
    pngs = [path for path in label_files if path.lower().endswith(".png")]
    if not pngs:
        ending = example.rpartition(".")[2]
        lossy = ", which cannot hold class indices" if ending.lower() in {"jpg", "jpeg", "jpe", "jfif"} else ""
        return f"labels end in .{ending}, such as {example}{lossy}; save them as PNG of class indices"
    stem = composed(PurePosixPath(pngs[0]).stem)
    stems = {composed(PurePosixPath(path).stem): path for path in pictures}
    shown = f"{pngs[0]} beside {pictures[0] if pictures else 'no picture'}"
    for end in range(len(stem), 0, -1):
        if stem[:end] in stems:
            picture = stems[stem[:end]]
            if end < len(stem):
                return f"labels end in '{stem[end:]}', pictures don't ({pngs[0]} beside {picture}); rename the labels"
            return f"labels and pictures are in different sub-folders ({pngs[0]}, {picture}); give both the same"
    for picture_stem, picture in stems.items():
        if picture_stem.endswith(stem):
            start = picture_stem.removesuffix(stem)
            return f"pictures begin with '{start}', labels don't ({pngs[0]} beside {picture}); rename the labels"
    return f"no label has the name of a picture ({shown}); give both the same names"
