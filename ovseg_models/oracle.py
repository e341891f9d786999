"""What evaluation asks when a part of the method is replaced by the ground truth (OVSeg, figure 1)."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64, UInt16
from torch import Tensor
from torch.nn import functional


def resized_labels(labels: UInt16[np.ndarray, "height width"], size: tuple[int, int]) -> Int64[Tensor, "out_h out_w"]:
    """Resize a label map to a height and width [px]: nearest neighbour, indices rounded down."""
    doubles = torch.from_numpy(labels.astype(np.float64))[None, None]
    return functional.interpolate(doubles, size=size, mode="nearest")[0, 0].long()


def ground_truth_masks(
    labels: UInt16[np.ndarray, "height width"], size: tuple[int, int], ignore_label: int
) -> tuple[Int64[np.ndarray, "region"], Bool[Tensor, "region out_h out_w"]]:
    """Make one mask of all places of each class of a label map.

    Args:
        labels: Class indices, or ``ignore_label``.
        size: Height and width at which the masks are wanted [px].
        ignore_label: Value of pixels without a class.

    Returns:
        The classes, ascending, and their masks. A class so small that resizing loses it keeps one pixel.
    """
    classes = np.unique(labels)
    classes = classes[classes != ignore_label].astype(np.int64)
    resized = resized_labels(labels, size)
    masks = torch.zeros(len(classes), *size, dtype=torch.bool)
    for mask, class_index in zip(masks, classes.tolist(), strict=True):
        torch.eq(resized, class_index, out=mask)
        if not mask.any():
            row, column = np.argwhere(labels == class_index)[0]
            mask[row * size[0] // labels.shape[0], column * size[1] // labels.shape[1]] = True
    return classes, masks


def oracle_scores(
    masks: Bool[Tensor, "query height width"],
    labels: Int64[Tensor, "height width"],
    class_count: int,
    ignore_label: int,
) -> Float[Tensor, "query class"]:
    """Give each proposal the class that most of its labelled pixels have: a perfect classifier.

    Args:
        masks: Hard masks of the proposals.
        labels: At the same size.
        class_count: Number of classes.
        ignore_label: Value of pixels without a class.

    Returns:
        1 for that class, else 0; all 0 for a proposal without a labelled pixel.
    """
    scores = torch.zeros(len(masks), class_count)
    labelled = labels != ignore_label
    for query, mask in enumerate(masks):
        inside = labels[mask.to(labels.device) & labelled]
        if len(inside):
            scores[query, int(torch.bincount(inside, minlength=class_count).argmax())] = 1.0
    return scores


def labels_of_regions(
    labels: UInt16[np.ndarray, "height width"],
    regions: Int64[np.ndarray, "region"],
    clip_logits: Float[Tensor, "region class"],
) -> UInt16[np.ndarray, "height width"]:
    """Give all pixels of each ground-truth region the class that CLIP finds likeliest for it.

    Args:
        labels: The label map.
        regions: Its classes.
        clip_logits: Of their masked crops.

    Returns:
        Predicted classes; 0 where nothing is labelled.
    """
    named = np.zeros(2**16, np.uint16)
    named[regions] = clip_logits.argmax(dim=1).cpu().numpy()
    predicted: npt.NDArray[np.uint16] = named[labels]
    return predicted
