"""Zero-shot classification of masked crops: counts that add up over images, and accuracies that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TOP = 5


@dataclass(frozen=True)
class ZeroShotCounts:
    """How often crops of each class were named rightly; counts of disjoint crops may be added.

    Attributes:
        crops: Crops per class.
        top1: Those whose class had the greatest similarity.
        top5: Those whose class was among the five greatest.
    """

    crops: Float[Tensor, "class"]
    top1: Float[Tensor, "class"]
    top5: Float[Tensor, "class"]

    @classmethod
    def none(cls, classes: int) -> "ZeroShotCounts":
        """Return the counts of no crop."""
        return cls(*(torch.zeros(classes, dtype=torch.float64) for _ in range(3)))

    @classmethod
    def from_stacked(cls, numbers: Float[Tensor, "3 class"]) -> "ZeroShotCounts":
        """Return the counts that ``stacked`` gave."""
        return cls(*numbers)

    def stacked(self) -> Float[Tensor, "3 class"]:
        """Return all counts in one tensor, to be added up over processes."""
        return torch.stack([self.crops, self.top1, self.top5])

    def add(
        self,
        image_embeddings: Float[Tensor, "crop dim"],
        text_embeddings: Float[Tensor, "class dim"],
        class_ids: Int[Tensor, "crop"],
    ) -> None:
        """Count crops.

        Args:
            image_embeddings: L2-normalised. There may be none.
            text_embeddings: L2-normalised, in the order of the classes.
            class_ids: What each crop shows.
        """
        similarities = image_embeddings.float() @ text_embeddings.float().T
        best = similarities.topk(min(_TOP, len(text_embeddings)), dim=1).indices.cpu()
        truth = class_ids.cpu()
        right = best == truth[:, None]
        self.crops.index_add_(0, truth, torch.ones(len(truth), dtype=torch.float64))
        self.top1.index_add_(0, truth, right[:, 0].double())
        self.top5.index_add_(0, truth, right.any(dim=1).double())

    def accuracies(self, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return top-1 and top-5 accuracy over crops and the mean top-1 accuracy over classes, 0..1.

        Args:
            groups: Class indices by the name of a group, whose mean over classes is returned as ``macro_NAME``.

        Returns:
            ``top1``, ``top5``, ``macro`` and those of the groups. Classes without a crop are left out of the means; a
            figure of no crop is 0.
        """
        total = max(1.0, float(self.crops.sum()))
        values = {"top1": float(self.top1.sum()) / total, "top5": float(self.top5.sum()) / total}
        for name, members in {
            "macro": range(len(self.crops)),
            **{f"macro_{key}": groups[key] for key in groups},
        }.items():
            chosen = torch.tensor([index for index in members if self.crops[index] > 0], dtype=torch.int64)
            per_class = self.top1[chosen] / self.crops[chosen]
            values[name] = float(per_class.mean()) if len(chosen) else 0.0
        return values
