"""What a proposal net is trained on: the binary masks of the classes that are present in each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from ovseg_models.host_to_device import sent


@dataclass(frozen=True)
class Targets:
    """The ground truth of one image; zero targets are fine.

    Attributes:
        class_ids: Row of the vocabulary of each target; on the CPU, where their number and range are known without
            waiting for the device.
        masks: True inside, on the net's device. Ignored pixels and padding are in none.
        counted: True where masks are compared. By default everywhere, so that pixels of no mask are background of
            every mask.
    """

    class_ids: Int64[Tensor, " target"]
    masks: Bool[Tensor, "target height width"]
    counted: Bool[Tensor, "height width"] | None = None


@dataclass(frozen=True)
class TargetBatch:
    """The ground truth of a batch, on the net's device, laid out for matching and for the losses.

    Attributes:
        class_ids: Of all targets, image after image.
        masks: The same targets, 0 or 1, at the size of the net's input.
        class_slots: Class ids per image, filled up with 0.
        mask_slots: Masks per image at the size of the mask logits, filled up with 0.
        counts: Targets of each image.
        counted: 1 where masks are compared, at the size of the net's input; None for everywhere.
        counted_small: The same at the size of the mask logits.
    """

    class_ids: Int64[Tensor, " target"]
    masks: Float[Tensor, "target height width"]
    class_slots: Int64[Tensor, "batch slot"]
    mask_slots: Float[Tensor, "batch slot mask_height mask_width"]
    counts: tuple[int, ...]
    counted: Float[Tensor, "batch height width"] | None = None
    counted_small: Float[Tensor, "batch mask_height mask_width"] | None = None


def present_classes(label_map: Integer[Tensor, "height width"], *, ignore_label: int) -> Int64[Tensor, " present"]:
    """Return the class ids that occur in a label map on the CPU, ascending.

    Args:
        label_map: Class ids, none negative.
        ignore_label: Belongs to no class, for example 255.

    Raises:
        ValueError: If a label is negative.
    """
    labels = label_map.int()
    if labels.numel() and labels.min() < 0:
        raise ValueError(
            f"present_classes: label {int(labels.min())} is in the map, expected ids from 0; "
            "give ignored pixels the ignore_label"
        )
    present = torch.bincount(labels.flatten()).nonzero().flatten()  # 30 times as fast as torch.unique
    return present[present != ignore_label]


def targets_from_label_map(
    label_map: Integer[Tensor, "height width"], *, ignore_label: int, ignored_are_background: bool = True
) -> Targets:
    """Make one binary mask for each class that is present.

    Args:
        label_map: Class ids, none negative; on the CPU.
        ignore_label: Belongs to no class, for example 255.
        ignored_are_background: Compare ignored pixels too, as background of every mask.

    Raises:
        ValueError: If a label is negative.
    """
    class_ids, labels = present_classes(label_map, ignore_label=ignore_label), label_map.int()
    counted = None if ignored_are_background else labels != ignore_label
    return Targets(class_ids, labels == class_ids.int()[:, None, None], counted)


def pack_targets(
    targets: Sequence[Targets],
    *,
    image_size: tuple[int, int],
    mask_size: tuple[int, int],
    num_classes: int,
    device: torch.device,
) -> TargetBatch:
    """Lay the targets of a batch out for matching and losses, once for all decoder outputs.

    Args:
        targets: One per image; masks smaller than the net's input are padded right and below, with pixels that count
            where the image's other pixels all do.
        image_size: Height and width of the net's input [px].
        mask_size: Height and width of the mask logits; masks are subsampled to it (nearest).
        num_classes: Size of the vocabulary.
        device: Where the net is.

    Raises:
        ValueError: If a class id is outside the vocabulary, or a mask is larger than the net's input.
    """
    for row, target in enumerate(targets):
        _require_valid(target, row, image_size, num_classes)
    counts = tuple(len(target.class_ids) for target in targets)
    masks = sent(torch.cat([_padded(target.masks, image_size) for target in targets]), device).float()
    # Class, image and slot of each target [3 target].
    on_host = torch.stack(
        [
            torch.cat([target.class_ids for target in targets]),
            torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], dtype=torch.int64),
            torch.tensor([slot for count in counts for slot in range(count)], dtype=torch.int64),
        ]
    )
    class_ids, images, slots = sent(on_host, device)
    class_slots = class_ids.new_zeros(len(targets), max(counts))
    mask_slots = masks.new_zeros(len(targets), max(counts), *mask_size)
    class_slots[images, slots] = class_ids
    mask_slots[images, slots] = _subsampled(masks, mask_size)
    counted = None
    if any(target.counted is not None for target in targets):
        everywhere = torch.ones(image_size, dtype=torch.bool)
        rows = [
            everywhere if target.counted is None else _padded(target.counted[None], image_size)[0] for target in targets
        ]
        counted = sent(torch.stack(rows), device).float()
    counted_small = None if counted is None else _subsampled(counted, mask_size)
    return TargetBatch(class_ids, masks, class_slots, mask_slots, counts, counted, counted_small)


def _subsampled(
    masks: Float[Tensor, "mask height width"], size: tuple[int, int]
) -> Float[Tensor, "mask small_h small_w"]:
    """Take the nearest pixels."""
    return F.interpolate(masks[:, None], size=size, mode="nearest")[:, 0]


def _padded(masks: Bool[Tensor, "target height width"], size: tuple[int, int]) -> Bool[Tensor, "target bottom right"]:
    """Pad masks with False, right and below."""
    height, width = masks.shape[-2:]
    return masks if (height, width) == size else F.pad(masks, (0, size[1] - width, 0, size[0] - height))


def _require_valid(target: Targets, row: int, image_size: tuple[int, int], num_classes: int) -> None:
    """Refuse targets that the losses would misread or that would fail on the device without a message."""
    outside = target.class_ids[(target.class_ids < 0) | (target.class_ids >= num_classes)]
    if len(outside):
        raise ValueError(
            f"targets of image {row}: class id {int(outside[0])} is not in the vocabulary of {num_classes} names; "
            "check the labels and the ignore_label"
        )
    height, width = target.masks.shape[-2:]
    if height > image_size[0] or width > image_size[1]:
        raise ValueError(
            f"targets of image {row}: masks are {height} x {width} px, at most the net's input of {image_size[0]} x "
            f"{image_size[1]} px is expected; resize and crop picture and labels alike"
        )
