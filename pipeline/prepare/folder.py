"""Anybody's own pictures: a folder with ``images/``, and as far as there are any ``labels/`` and captions.

``BASE/images/**/*.{jpg,png,webp,...}``, ``BASE/labels/**/*.png`` (class indices, 8 or 16 bit),
``BASE/captions.tsv``, and ``ROOT/classes.txt``, where BASE is ROOT, or ROOT/SPLIT if a split is named.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from pipeline.prepare.coco_annotations import caption_fault
from pipeline.prepare.data_root import DataRoot, LayoutError, composed, scene_key
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import IMAGE_ENDINGS, ImageFacts
from pipeline.prepare.label_maps import ClassTable
from pipeline.prepare.paired import (
    DecodedLabel,
    Pair,
    PairedSource,
    decode_index_png,
    pairs_of_files,
)
from pipeline.prepare.source import PassedOver
from pipeline.prepare.vocabulary import vocabulary_of_names
from storage_schemas.scenes import Caption

_COLUMNS = {"image", "caption", "caption_id"}
_CAPTIONS_HINT = "its first line is to be image<TAB>caption, or image<TAB>caption_id<TAB>caption"


def folder(root: DataRoot, split: str) -> PairedSource:
    """Return the scenes of a folder.

    Pictures and labels may lie in sub-folders, both in the same; a picture is called by its path below ``images``
    without the ending. Value 255 of an 8-bit label and 65535 of a 16-bit one are ignored. A label or captions may be
    absent for any image.

    Args:
        split: Name of a sub-folder that holds ``images`` and the rest, or empty.

    Raises:
        LayoutError: If ``images`` is not there, if there are labels without ``classes.txt``, or if a text file cannot
            be read.
    """
    base = f"{split}/" if split else ""
    images, labels = f"{base}images", f"{base}labels"
    files = root.tree(images, hint="put the pictures into a folder of that name, or correct --root or --split")
    pictures = [name for name in files if name.lower().endswith(IMAGE_ENDINGS)]
    others = [name for name in files if not name.lower().endswith(IMAGE_ENDINGS)]
    text_files = [file for file in ("classes.txt", f"{base}captions.tsv") if root.has(file)]
    has_labels = root.has(labels)
    label_hint = "name the classes there, one a line, in the order of their indices"
    label_files = root.tree(labels, hint=label_hint) if has_labels else []
    names: list[str] = []
    if label_files or "classes.txt" in text_files:
        names = root.text_lines("classes.txt", label_hint)
    try:
        vocabulary = vocabulary_of_names("folder", names)
    except ValueError as error:
        raise LayoutError(f"{root.name}: classes.txt: {error}") from error
    captions = read_captions(root, f"{base}captions.tsv") if f"{base}captions.tsv" in text_files else Captions()
    label_of: dict[str, str] = {}
    twice = []
    for name in label_files:
        stem, _, ending = composed(name).rpartition(".")
        if ending.lower() == "png":
            twice += [name] if stem in label_of else []
            label_of.setdefault(stem, f"{labels}/{name}")
    passed_over = []
    if others:
        reason = "files that are no pictures by their ending"
        passed_over.append(PassedOver(len(others), f"{images}/{others[0]}", reason))
    if twice:
        passed_over.append(PassedOver(len(twice), f"{labels}/{twice[0]}", "second labels of one picture"))
    pairs = pairs_of_files((f"{images}/{name}" for name in pictures), images, label_of.get, captions.by_image())
    # Each value is its own index. 255 can be a class of 16-bit files where there are more than 255 names.
    ignored = frozenset({255, 65535} if vocabulary.ignore_label == 255 else {65535})
    table = ClassTable(
        {index: index for index in vocabulary.source_ids}, ignore_label=vocabulary.ignore_label, ignored=ignored
    )
    return PairedSource(
        root,
        _with_caption_faults(pairs, captions),
        vocabulary,
        table,
        "unknown: the owner's",
        decode_label=decode_index_png if vocabulary.ignore_label == 255 else _decode_widened,
        label_required=False,
        label_files=[f"{labels}/{name}" for name in label_files],
        text_files=text_files,
        passed_over=passed_over,
    )


class Captions:
    """What a ``captions.tsv`` says.

    Attributes:
        found: Captions of each image that a line names.
        faults: What is wrong with a line of an image, the first fault found.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[Caption]] = defaultdict(list)
        self.faults: dict[str, SceneFault] = {}
        self._image_of: dict[int, str] = {}

    def add(self, image: str, caption_id: int, text: str, where: str) -> None:
        """Take a caption."""
        fault = caption_fault(text, where)
        if fault:
            self.refuse(image, fault)
        if caption_id in self._image_of:
            reason = f"{where}: caption id {caption_id} was given before, to an image {self._image_of[caption_id]!r}"
            self.refuse(image, SceneFault("duplicate_caption_id", reason))
            self.refuse(self._image_of[caption_id], SceneFault("duplicate_caption_id", reason))
        self._image_of.setdefault(caption_id, image)
        self.found[image].append(Caption(caption_id, text))

    def refuse(self, image: str, fault: SceneFault) -> None:
        """Note that an image cannot be used."""
        self.faults.setdefault(image, fault)

    def by_image(self) -> Mapping[str, tuple[Caption, ...]]:
        """Return the captions of each image by ascending id."""
        return {image: tuple(sorted(captions)) for image, captions in self.found.items()}


def read_captions(root: DataRoot, relative: str) -> Captions:
    """Read a ``captions.tsv``: a header line, then one caption a line; without ids they are numbered from 1.

    Raises:
        LayoutError: If the header or a line's image cannot be made out.
    """
    text = root.required(relative, _CAPTIONS_HINT).read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = [line.removesuffix(b"\r") for line in text.removesuffix(b"\n").split(b"\n")] if text else []
    header = lines[0].decode("utf-8", "replace").split("\t") if lines else []
    if not {"image", "caption"} <= set(header) <= _COLUMNS or len(set(header)) < len(header):
        raise LayoutError(f"{root.name}: {relative} starts with {header}; {_CAPTIONS_HINT}")
    captions = Captions()
    for number, line in enumerate(lines[1:], start=1):
        values = line.decode("utf-8", "surrogateescape").split("\t")
        row = {"caption_id": str(number)} | dict(zip(header, values, strict=False))
        where = f"{relative}: line {number + 1}"
        if not line:
            continue
        if not row.get("image"):
            raise LayoutError(f"{root.name}: {where} names no image; {_CAPTIONS_HINT}")
        name = row["image"]
        image = composed(name.rpartition(".")[0] if name.lower().endswith(IMAGE_ENDINGS) else name)
        if len(values) != len(header) or not re.fullmatch(r"[0-9]{1,18}", row["caption_id"]):
            captions.refuse(image, SceneFault("caption_malformed", f"{where} is {values}, expected {header}"))
        else:
            captions.add(image, int(row["caption_id"]), row["caption"], where)
    return captions


def _with_caption_faults(pairs: dict[str, Pair], captions: Captions) -> dict[str, Pair]:
    """Mark the images whose captions are faulty, and add a row for each image that only a caption names."""
    marked = dict(pairs)
    for image in {*captions.found, *captions.faults}:
        key = scene_key(image)
        fault = captions.faults.get(image)
        if key not in marked:
            fault = SceneFault("image_id_unknown", f"captions.tsv names the image {image!r}, which is not there")
            marked[key] = Pair(image, "", None, (), fault)
        elif fault and not marked[key].fault:
            marked[key] = Pair(image, marked[key].image_path, marked[key].label_path, (), fault)
    return marked


def _decode_widened(data: bytes, image: ImageFacts, max_image_px: int) -> DecodedLabel:
    """Decode a label of a vocabulary whose class 255 a 16-bit file may hold: in an 8-bit file 255 means "no class"."""
    decoded = decode_index_png(data, image, max_image_px)
    if decoded.values.dtype == np.uint16:
        return decoded
    widened = decoded.values.astype(np.uint16)
    widened[decoded.values == 255] = 65535
    return DecodedLabel(widened)
