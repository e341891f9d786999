"""What segmenting an image with class names gives."""

import difflib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from ovseg_models.class_names import CLASSES_IN_8_BIT, CLASSES_MAX
from ovseg_models.encoding import EncodedImage
from ovseg_models.fusion import best_of_words
from ovseg_models.overlay import overlay_picture
from ovseg_models.query_mode import UNLABELLED

RESULT_ENDINGS = (".labels.png", ".overlay.png", ".json")
_CLASSES_SHOWN = 6
_NOTEBOOK_SIDE_PX = 1024


@dataclass(frozen=True, kw_only=True)
class Branches:
    """What both branches say of an image's proposals, before it is fused.

    ``branches["valid"]`` is ``branches.valid`` and ``dict(branches)`` holds all of them, ready for safetensors.

    Attributes:
        proposal_logits: The proposal net's, 100 times a cosine; no object is the last column.
        mask_logits: At stride 4 of the padded net input.
        valid: Whether a proposal's hard mask has a pixel.
        crops: Of the valid proposals, as CLIP sees them where it names crops.
        patch_mask: Whether a crop's patch sees a pixel of the mask.
        clip_logits: CLIP's; see `MaskAdaptedClip.class_logits`.
    """

    proposal_logits: Float[Tensor, "query columns"]
    mask_logits: Float[Tensor, "query height width"]
    valid: Bool[Tensor, "query"]
    crops: Float[Tensor, "valid 3 side side"]
    patch_mask: Bool[Tensor, "valid patch"]
    clip_logits: Float[Tensor, "valid class"]

    def keys(self) -> Iterator[str]:
        """Name the tensors, in the order of the branches' work."""
        return (entry.name for entry in fields(self))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name)
        return tensor


@dataclass(frozen=True)
class MaskRow:
    """One proposal and the class that it scores best for.

    Attributes:
        query: Index of the proposal.
        class_index: Of the class with the highest score.
        score: Of both branches together; see `ensemble_scores`.
        proposal_prob: The proposal net's probability of this class.
        clip_prob: CLIP's probability of this class; None if no pixel is above the threshold, so that there is no crop.
        area_px: Pixels above the mask threshold, at the image's own size.
        box_xyxy: Tight box around them [px], half-open; all zero if there are none.
    """

    query: int
    class_index: int
    class_name: str
    score: float
    proposal_prob: float
    clip_prob: float | None
    area_px: int
    box_xyxy: tuple[int, int, int, int]


class Segment(TypedDict):
    """A class of a picture, with the keys that the ``image-segmentation`` pipeline of transformers gives.

    Attributes:
        label: The class name.
        score: Of the mask that scores best for the class.
        mask: Mode "L" at the picture's own size: 255 where the picture has the class, else 0.
    """

    label: str
    score: float
    mask: Image.Image


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Segmentation:
    """The classes of an image's pixels and of its proposals.

    ``result["sky"]`` is the mask of a class, ``"sky" in result`` and ``list(result)`` are about the class names. A
    notebook shows the picture with its classes.

    Attributes:
        class_names: By class index, as given; in query mode with "others" at the end if one name was given.
        label_map: Class index of each pixel of the image, on the CPU; -1 where nothing was found in query
            mode, or others than the classes won.
        encoded: The image and its proposals.
        query_scores: Of both branches together.
        proposal_probs: Of the proposal net.
        text_embeddings: Of the classes' words, in CLIP's space.
        word_counts: Number of words of each class, whose embeddings lie side by side.
        scores: Fused scores of each class and pixel, on the CPU; None unless asked for.
        found_queries: In query mode the proposal that each class was given, -1 for none; else None.
    """

    class_names: tuple[str, ...]
    label_map: Int64[Tensor, "height width"]
    encoded: EncodedImage
    query_scores: Float[Tensor, "query class"]
    proposal_probs: Float[Tensor, "query class"]
    text_embeddings: Float[Tensor, "word dim"]
    word_counts: tuple[int, ...]
    scores: Float[Tensor, "class height width"] | None = None
    found_queries: Int64[Tensor, "class"] | None = None

    def __repr__(self) -> str:
        height, width = self.encoded.size
        return f"Segmentation({width} x {height} px: {self.shares_in_words(_CLASSES_SHOWN)})"

    def _repr_png_(self) -> bytes:
        """Return what notebooks show: the overlay, no larger than a screen."""
        picture, png = self.overlay(), io.BytesIO()
        picture.thumbnail((_NOTEBOOK_SIDE_PX, _NOTEBOOK_SIDE_PX))
        picture.save(png, "PNG")
        return png.getvalue()

    def __getitem__(self, class_name: str) -> Bool[Tensor, "height width"]:
        """Return where the picture has a class, at its own size, on the CPU; all False where it was not found.

        Raises:
            KeyError: If the class was not named.
        """
        if class_name not in self.class_names:
            near = difflib.get_close_matches(str(class_name), self.class_names, n=3)
            known = ", ".join(map(repr, near or self.class_names[:_CLASSES_SHOWN]))
            more = len(self.class_names) > _CLASSES_SHOWN and not near
            raise KeyError(
                f"{class_name!r} is none of the {len(self.class_names)} class names of this result; "
                f"{'similar are' if near else 'they are'} {known}{', ...' if more else ''}"
            )
        return self.label_map == self.class_names.index(class_name)

    def __contains__(self, class_name: object) -> bool:
        return class_name in self.class_names

    def __iter__(self) -> Iterator[str]:
        return iter(self.class_names)

    def keys(self) -> Iterator[str]:
        """Name the classes, so that ``dict(result)`` has all their masks."""
        return iter(self.class_names)

    @property
    def segments(self) -> list[Segment]:
        """The classes that the picture has, in their order, with a mask each."""
        has_pixels = self.encoded.valid.to(self.query_scores.device)
        best = torch.where(has_pixels[:, None], self.query_scores, 0.0).amax(dim=0).tolist()
        labels = self.label_map.numpy()
        return [
            Segment(
                label=self.class_names[index],
                score=best[index],
                mask=Image.fromarray(np.where(labels == index, 255, 0).astype(np.uint8)),
            )
            for index in np.unique(labels).tolist()
            if index != UNLABELLED
        ]

    def shares_in_words(self, at_most: int = 4) -> str:
        """Return the classes that cover most of the picture, with their shares, the largest first."""
        classes, counts = np.unique(self.label_map.numpy(), return_counts=True)
        order = [int(place) for place in np.argsort(-counts, kind="stable") if classes[place] != UNLABELLED]
        total = self.label_map.numel()
        named = [f"{self.class_names[classes[place]]} {counts[place] / total:.0%}" for place in order[:at_most]]
        more = f" and {len(order) - at_most} more" if len(order) > at_most else ""
        return (", ".join(named) or "nothing found") + more

    def to_dict(self, name: str | None = None) -> dict[str, Any]:
        """Return what `save` writes as JSON: the image, the class names, and each mask with its run lengths.

        Masks are those of `found_masks`; ``rle`` is COCO's compressed form, column by column, with the counts as text.

        Args:
            name: Of the files that `save` writes; None for the image file's, without its ending.
        """
        name = self._file_name(name)
        height_px, width_px = self.encoded.size
        counts: list[str] = []
        for masks in self.encoded.hard_masks_at_image_size():
            columns_first = np.asfortranarray(masks.cpu().numpy().view(np.uint8).transpose(1, 2, 0))
            counts += [one["counts"].decode("ascii") for one in coco_mask.encode(columns_first)]
        labels, overlay, _ = RESULT_ENDINGS
        return {
            "image": self.encoded.source,
            "height_px": height_px,
            "width_px": width_px,
            "class_names": list(self.class_names),
            "labels": f"{name}{labels}",
            "overlay": f"{name}{overlay}",
            "nothing_found": CLASSES_IN_8_BIT if len(self.class_names) <= CLASSES_IN_8_BIT else CLASSES_MAX,
            "masks": [
                asdict(row) | {"rle": {"size": [height_px, width_px], "counts": counts[row.query]}}
                for row in self.found_masks
            ],
        }

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write what ``ovseg segment`` writes: NAME.labels.png, NAME.overlay.png and NAME.json, or none of them.

        The label map holds class indices, 8 bit, or 16 bit from 256 classes on, and `to_dict`'s ``nothing_found`` where
        nothing was found. Files of these names are replaced: all are written under temporary names first, and the JSON
        is renamed last.

        Args:
            folder: Is made if need be.
            name: None for the image file's, without its ending, or "image" for one that came from no file.

        Returns:
            Path of the JSON.

        Raises:
            OSError: If the disk is full or a file cannot be replaced.
            ValueError: If there are more classes than a PNG can number.
        """
        if len(self.class_names) > CLASSES_MAX:
            raise ValueError(f"save: found {len(self.class_names)} classes, a PNG can hold {CLASSES_MAX}; name fewer")
        folder, name = Path(folder), self._file_name(name)
        content = self.to_dict(name)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        dtype = np.uint8 if content["nothing_found"] == CLASSES_IN_8_BIT else np.uint16
        labels = np.where(self.label_map == UNLABELLED, content["nothing_found"], self.label_map).astype(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}{ending}" for ending in RESULT_ENDINGS]
        temporary = {path: path.with_name(f".tmp-{os.getpid()}-{path.name}") for path in paths}
        label_path, overlay_path, json_path = paths
        try:
            Image.fromarray(labels).save(temporary[label_path], "PNG")
            self.overlay().save(temporary[overlay_path], "PNG")
            # A file's name that is not UTF-8 has lone surrogates, which are written as JSON's escapes.
            temporary[json_path].write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        except BaseException:
            for written in temporary.values():
                written.unlink(missing_ok=True)
            raise
        try:
            json_path.unlink(missing_ok=True)  # a kill between the renames leaves no JSON of other pictures
            for path, written in temporary.items():
                written.replace(path)
        except BaseException:
            for path in (*temporary.values(), *temporary):
                if not path.is_dir():
                    path.unlink(missing_ok=True)
            raise
        return json_path

    def _file_name(self, name: str | None) -> str:
        """Return the name of the result's files."""
        return name or Path(self.encoded.source).stem or "image"

    @cached_property
    def clip_probs(self) -> Float[Tensor, "valid class"]:
        """CLIP's probabilities for the valid proposals (``encoded.valid``) in order.

        At ensemble weight 0 the segmenter does without them, and CLIP runs when they are first read.
        """
        logits = self.encoded.class_logits(self.encoded.image_embeddings, self.text_embeddings)
        return best_of_words(logits, self.word_counts).softmax(dim=-1)

    @cached_property
    def masks(self) -> tuple[MaskRow, ...]:
        """One row per proposal, in their order; areas and boxes are measured once for an image."""
        areas_px, boxes_xyxy = self.encoded.mask_extents
        clip_probs = torch.full_like(self.proposal_probs, torch.nan)
        clip_probs[self.encoded.valid] = self.clip_probs
        best = self.query_scores.max(dim=1)
        columns = best.indices[:, None]
        return tuple(
            MaskRow(query, index, self.class_names[index], score, proposal, clip if valid else None, area, tuple(box))
            for query, (index, score, proposal, clip, valid, area, box) in enumerate(
                zip(
                    best.indices.tolist(),
                    best.values.tolist(),
                    self.proposal_probs.gather(1, columns)[:, 0].tolist(),
                    clip_probs.gather(1, columns)[:, 0].tolist(),
                    self.encoded.valid.tolist(),
                    areas_px.tolist(),
                    boxes_xyxy.tolist(),
                    strict=True,
                )
            )
        )

    @property
    def found_masks(self) -> list[MaskRow]:
        """The proposals with a pixel, in their order; in query mode only those that a class was given."""
        given = None if self.found_queries is None else set(self.found_queries.tolist())
        return [row for row in self.masks if row.area_px and (given is None or row.query in given)]

    def mask_at(self, x: int, y: int) -> int:
        """Return the proposal that gives a pixel of the image the most of its label; -1 where nothing was found.

        Raises:
            ValueError: If the pixel lies outside the image.
        """
        height, width = self.encoded.size
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"mask_at: pixel {x}, {y} is outside the image of {width} x {height} px; give one inside")
        label = int(self.label_map[y, x])
        if label < 0:
            return -1
        net_height, net_width = self.encoded.net_size
        at_pixel = self.encoded.mask_probs()[:, y * net_height // height, x * net_width // width]
        given = self.query_scores[:, label] * at_pixel
        with_pixels = self.encoded.valid.to(given.device)
        return int(torch.where(with_pixels, given, -1.0).argmax())

    def hard_masks(self) -> Bool[Tensor, "query height width"]:
        """Return each proposal's hard mask at the image's own size, on the CPU; 1 byte per proposal and pixel."""
        return torch.cat([masks.cpu() for masks in self.encoded.hard_masks_at_image_size()])

    def overlay(self) -> Image.Image:
        """Return the image with its classes painted over it and a legend below; see `overlay_picture`."""
        return overlay_picture(self.encoded.image, self.label_map.numpy(), self.class_names)
