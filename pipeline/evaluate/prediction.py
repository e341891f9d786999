"""From the branches' outputs for an image to the class of each pixel, for any number of variants.

`Branches` gives the outputs, live from the nets or as they were stored; `Predictor` makes labels of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_models.fusion import classify
from ovseg_models.image_input import resized_size
from ovseg_models.memory import remembered_scores
from ovseg_models.oracle import ground_truth_masks, labels_of_regions, oracle_scores, resized_labels
from pipeline.evaluate.labelled_images import LabelledImage
from pipeline.evaluate.nets import ClipBranch, ImportedBranch, Nets, ProposalBranch
from pipeline.evaluate.variants import GROUND_TRUTH, ClipView, Variant
from storage_schemas.artifact import Artifact
from storage_schemas.branches import BranchShard
from storage_schemas.proposals import SceneProposals, read_proposals
from storage_schemas.rle import decode_masks

LabelArray = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class StoredSources:
    """Where branches are stored; picklable.

    Attributes:
        proposals: The proposal net's; None to run it.
        regions: CLIP's, by view; it runs for views that are missing.
    """

    proposals: Artifact | None = None
    regions: Mapping[ClipView, Artifact] = field(default_factory=dict)


class Branches:
    """The nets' outputs for an image: as they were stored, else live, each net once per image and view.

    Args:
        nets: Of the evaluation; one whose branches are all stored is never loaded.
        ignore_label: Value of pixels without a class.
        stored: What is read instead.
    """

    def __init__(
        self, nets: Nets, ignore_label: int, stored: StoredSources = StoredSources(), *, unit: str = ""
    ) -> None:
        self._nets = nets
        self._ignore_label = ignore_label
        self._stored_proposals = BranchShard(stored.proposals, unit) if stored.proposals is not None else None
        self._stored_regions = {view: BranchShard(artifact, unit) for view, artifact in stored.regions.items()}
        self._unit = unit
        self._key: str | None = None
        self._proposals: ProposalBranch | ImportedBranch | None = None
        self._regions: dict[ClipView, ClipBranch] = {}

    @cached_property
    def _imported(self) -> dict[str, SceneProposals] | None:
        """Masks of others by their scenes; None where the proposal net finds them. Run lengths: 1 kB a mask."""
        artifact = self._nets.sources.imported
        return None if artifact is None else {scene.key: scene for scene in read_proposals(artifact, self._unit)}

    def proposals(self, scene: LabelledImage) -> ProposalBranch | ImportedBranch:
        """Return the outputs of the proposal net, or masks of others."""
        self._turn_to(scene)
        if self._proposals is None:
            if self._imported is not None:
                found = self._imported[scene.key]
                height, width = self._nets.net_size(scene.image)
                masks = torch.from_numpy(decode_masks(found.mask_counts, height, width)).to(self._nets.device)
                columns = len(self._nets.sources.class_names) + 1
                self._proposals = ImportedBranch(masks, torch.zeros(len(masks), columns, device=masks.device))
            elif self._stored_proposals is None:
                self._proposals = self._nets.proposals(scene.image)
            else:
                tensors = self._read(self._stored_proposals, scene)
                self._proposals = ProposalBranch(tensors["mask_logits"], tensors["proposal_logits"])
        return self._proposals

    def regions(self, scene: LabelledImage, view: ClipView) -> ClipBranch:
        """Return the outputs of CLIP."""
        self._turn_to(scene)
        if view not in self._regions:
            if view in self._stored_regions:
                tensors = self._read(self._stored_regions[view], scene)
                self._regions[view] = ClipBranch(tensors["regions"].cpu(), tensors["clip_logits"])
            else:
                proposals = None if view.regions == GROUND_TRUTH else self.proposals(scene)
                self._regions[view] = self._nets.regions(scene, view, proposals, self._ignore_label)
        return self._regions[view]

    def _turn_to(self, scene: LabelledImage) -> None:
        # Only the current image's outputs are kept: mask logits of 100 queries take some 10 MB.
        if scene.key != self._key:
            self._key, self._proposals, self._regions = scene.key, None, {}

    def _read(self, shard: BranchShard, scene: LabelledImage) -> dict[str, Tensor]:
        tensors = shard.tensors(scene.key)
        return {name: torch.from_numpy(array).to(self._nets.device) for name, array in tensors.items()}


class Predictor:
    """Predicts one image by many variants; what they share is computed once.

    Args:
        ignore_label: Value of pixels without a class.
        net_sides_px: Short side, and upper limit of the long side, of the proposal net's input.
        seen: Whether each class is marked as seen; of use to variants in which CLIP decides among the others alone.
    """

    def __init__(
        self,
        scene: LabelledImage,
        branches: Branches,
        *,
        class_count: int,
        ignore_label: int,
        net_sides_px: tuple[int, int],
        seen: Sequence[bool] = (),
    ) -> None:
        self._seen = torch.tensor(seen)
        self._scene = scene
        self._branches = branches
        self._class_count = class_count
        self._ignore_label = ignore_label
        image = scene.image
        self._net_size = resized_size(
            image.height, image.width, short_side_px=net_sides_px[0], max_side_px=net_sides_px[1]
        )

    @torch.no_grad()
    def predict(self, variant: Variant) -> LabelArray:
        """Give each pixel of the image a class [height width]."""
        if variant.view is not None and variant.view.regions == GROUND_TRUTH:
            truth = self._scene.labels
            if variant.oracle_threshold is not None:
                # At the label map's own size, so that nothing is lost by resizing.
                regions, masks = ground_truth_masks(truth, truth.shape, self._ignore_label)
                whole = torch.from_numpy(truth.astype(np.int64))
                return labels_of_regions(
                    truth, regions, oracle_scores(masks, whole, self._class_count, self._ignore_label)
                )
            # CLIP alone names the label map's regions; no proposal is needed.
            clip = self._branches.regions(self._scene, variant.view)
            return labels_of_regions(self._scene.labels, clip.regions.cpu().numpy(), clip.clip_logits)
        size = (self._scene.image.height, self._scene.image.width)
        proposals = self._branches.proposals(self._scene)
        predicted = proposals.fused_labels(self._scores(variant), net_size=self._net_size, size=size)
        labels: LabelArray = predicted.cpu().numpy().astype(np.uint16)
        return labels

    def _scores(self, variant: Variant) -> Tensor:
        """Return each proposal's scores [query class]."""
        proposals = self._branches.proposals(self._scene)
        if variant.oracle_threshold is not None:
            masks = proposals.hard_masks(self._net_size, variant.oracle_threshold)
            labels = resized_labels(self._scene.labels, self._net_size)
            return oracle_scores(masks, labels, self._class_count, self._ignore_label)
        logits = proposals.proposal_logits
        if variant.view is None:
            return classify(logits, ensemble_weight=0).scores
        clip = self._branches.regions(self._scene, variant.view)
        # CLIP's logits [region class] are of the queries that have a crop; the others keep the proposal net's alone.
        valid = torch.zeros(len(logits), dtype=torch.bool)
        valid[clip.regions] = True
        seen = self._seen.to(logits.device) if variant.unseen_only else None
        scores = classify(logits, clip.clip_logits, valid, ensemble_weight=variant.ensemble_weight, seen=seen).scores
        if clip.similarities is None:
            return scores
        return remembered_scores(scores, clip.clip_logits, valid, clip.similarities)
