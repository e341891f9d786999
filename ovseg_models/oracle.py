"""What evaluation asks when a part of the method is replaced by the ground truth (OVSeg, figure 1)."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64, UInt16
from torch import Tensor
from torch.nn import functional

from ovseg_models.host_to_device import sent
from ovseg_models.segmentation_metrics import shared_px


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
        size: Height and width at which the masks are expected [px].
        ignore_label: Value of pixels without a class.

    Returns:
        The classes, ascending, and their masks. A class so small that resizing loses it keeps one pixel.
    """
    classes = np.unique(labels)
    classes = classes[classes != ignore_label].astype(np.int64)
    masks = resized_labels(labels, size) == torch.from_numpy(classes)[:, None, None]
    for lost in (~masks.flatten(1).any(dim=1)).nonzero()[:, 0].tolist():
        row, column = np.argwhere(labels == classes[lost])[0]
        masks[lost, row * size[0] // labels.shape[0], column * size[1] // labels.shape[1]] = True
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
        ignore_label: Value of pixels without a class.

    Returns:
        1 for that class, else 0; all 0 for a proposal without a labelled pixel.
    """
    scores = torch.zeros(len(masks), class_count, device=masks.device)
    labels = sent(labels, masks.device)
    present = labels.unique()
    present = present[present != ignore_label]
    if len(present):
        most = shared_px(labels == present[:, None, None], masks).max(dim=0)  # of equal ones the first class
        scores[torch.arange(len(masks), device=masks.device), present[most.indices]] = (most.values > 0).float()
    return scores


def labels_of_regions(
    labels: UInt16[np.ndarray, "height width"],
    regions: Int64[np.ndarray, "region"],
    clip_logits: Float[Tensor, "region class"],
) -> UInt16[np.ndarray, "height width"]:
    """Give all pixels of each ground-truth region the class that CLIP finds likeliest for it.

    Args:
        regions: Its classes.
        clip_logits: Of their masked crops.

    Returns:
        Predicted classes; 0 where nothing is labelled.
    """
    named = np.zeros(2**16, np.uint16)
    named[regions] = clip_logits.argmax(dim=1).cpu().numpy()
    predicted: npt.NDArray[np.uint16] = named[labels]
    return predicted
