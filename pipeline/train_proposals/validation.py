"""How good proposals are: counts that add up over scenes and processes, and the figures that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ovseg_models.encoding import net_pixels, propose
from ovseg_models.fusion import classify, fused_labels
from ovseg_models.image_input import nearest_resized
from ovseg_models.precision import full_precision
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.segmentation_metrics import ClassCounts, class_iou, region_ious
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection

MASK_THRESHOLD = 0.5
FOUND_IOU = 0.5


@dataclass(frozen=True)
class Counts:
    """Sums over scenes; those of several processes are added.

    Attributes:
        confusion: Pixels per true and predicted class [true predicted]; ignored pixels are left out.
        best_iou: Sum, per class, over its regions of the IoU of the proposal that fits best.
        found: Regions, per class, that some proposal meets with an IoU of at least one half.
        regions: Regions per class: one for each scene in which it occurs.
    """

    confusion: Float[Tensor, "class class"]
    best_iou: Float[Tensor, " class"]
    found: Float[Tensor, " class"]
    regions: Float[Tensor, " class"]

    @classmethod
    def none(cls, classes: int) -> "Counts":
        """Return the counts of no scene."""
        zeros = torch.zeros(classes, dtype=torch.float64)
        return cls(torch.zeros(classes, classes, dtype=torch.float64), zeros.clone(), zeros.clone(), zeros.clone())

    def flat(self) -> Float[Tensor, " number"]:
        """Return all numbers in one row, to be added up over processes."""
        return torch.cat([self.confusion.flatten(), self.best_iou, self.found, self.regions])

    @classmethod
    def from_flat(cls, numbers: Float[Tensor, " number"], classes: int) -> "Counts":
        """Return the counts that ``flat`` gave."""
        confusion, best_iou, found, regions = numbers.split([classes * classes, classes, classes, classes])
        return cls(confusion.view(classes, classes), best_iou, found, regions)

    def figures(self, groups: dict[str, Sequence[int]]) -> dict[str, float]:
        """Return mIoU, mean best IoU and recall of all classes, and of each group by its name.

        The mean best IoU is that of a class, averaged over the classes that occur; recall is over regions. A figure of
        no class is 0.

        References:
            mIoU as OVSeg's evaluator has it: a class that is predicted but never there counts as IoU 0.
        """
        iou = class_iou(ClassCounts.of_confusion(self.confusion.numpy()))  # NaN for a class that counts nowhere
        values = {}
        for name, members in {"": range(len(iou)), **groups}.items():
            chosen = torch.zeros(len(iou), dtype=torch.bool)
            chosen[list(members)] = True
            ending = f"_{name}" if name else ""
            counted = iou[chosen.numpy() & ~np.isnan(iou)]
            occurring = chosen & (self.regions > 0)
            per_class = self.best_iou[occurring] / self.regions[occurring]
            values[f"miou{ending}"] = float(counted.mean()) if len(counted) else 0.0
            values[f"best_iou{ending}"] = float(per_class.mean()) if len(per_class) else 0.0
            values[f"recall_50{ending}"] = float(self.found[chosen].sum()) / max(1.0, float(self.regions[chosen].sum()))
        return values


@dataclass(frozen=True)
class Validation:
    """What a net is measured on.

    Attributes:
        text_embeddings: Of their class names, all of them [class dim].
        ignore_label: Value of pixels without a class.
        short_side_px: At which the net sees them [px].
        max_side_px: Upper limit of the long side [px].
    """

    scenes: SceneCollection
    text_embeddings: Float[Tensor, "class dim"]
    ignore_label: int
    short_side_px: int
    max_side_px: int

    @torch.no_grad()
    def counts(self, net: ProposalNet, numbers: Sequence[int]) -> Counts:
        """Count over some of the scenes.

        Args:
            net: In evaluation mode.
        """
        classes = len(self.text_embeddings)
        total = Counts.none(classes)
        for number in numbers:
            image, label_map, _ = read_labelled(self.scenes, number)
            pixels = net_pixels(image, short_side_px=self.short_side_px, max_side_px=self.max_side_px)
            (found,) = propose(net, [pixels])
            logits, net_size = found.mask_logits, found.net_size
            true = torch.from_numpy(label_map).long().to(logits.device)
            with full_precision(logits.device):  # as in evaluation, whatever the training's precision is
                class_logits = net.class_logits(found.proposal_embeddings, self.text_embeddings)
                scores = classify(class_logits, ensemble_weight=0).scores
                predicted = fused_labels(scores, logits, net_size=net_size, size=(image.height, image.width))
            labelled = true != self.ignore_label
            # Each pair of classes as one number, so that one count over pixels gives the whole matrix
            pairs = torch.bincount(true[labelled] * classes + predicted[labelled], minlength=classes**2)
            total.confusion.add_(pairs.view(classes, classes).cpu())
            # How well the best proposal meets each class's region, at the net's size [class proposal]
            small = torch.from_numpy(nearest_resized(label_map, *net_size)).long().to(scores.device)
            present = torch.bincount(small.flatten(), minlength=1).nonzero().flatten()
            class_ids = present[present != self.ignore_label]
            masks = hard_masks(logits, net_size, MASK_THRESHOLD)
            best = region_ious(small == class_ids[:, None, None], masks).amax(1).double().cpu()
            places = class_ids.cpu()
            total.best_iou.index_add_(0, places, best)
            total.found.index_add_(0, places, (best >= FOUND_IOU).double())
            total.regions.index_add_(0, places, torch.ones_like(best))
        return total
