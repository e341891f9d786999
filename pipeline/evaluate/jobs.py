"""The work of stage 4, shard by shard: storing the outputs of a branch, and scoring predictions.

`BranchJob` reads ``scenes``, a proposal net and CLIP, and writes ``branches``; `ScoreJob` reads the same, or
``branches`` in their place, and writes ``scores``.
"""

from dataclasses import dataclass, field

import torch

from ovseg_models.label_counts import count_labels
from pipeline.evaluate.labelled_images import FailedImage, LabelledImage, LabelledScenes
from pipeline.evaluate.nets import Nets, NetSources, ProposalBranch
from pipeline.evaluate.prediction import Branches, Predictor, StoredSources
from pipeline.evaluate.variants import ClipView, Variant
from pipeline.prepare.label_maps import encode_png, index_dtype
from storage_schemas.artifact import Artifact
from storage_schemas.branches import BranchShard, BranchShardWriter
from storage_schemas.manifest import Sidecar
from storage_schemas.scores import ImageCounts, ScoreShardWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchJob:
    """Stores the outputs of one branch for each scene.

    Attributes:
        view: Which regions CLIP sees, and how; None for the proposal net's branch.
        proposals: The proposal net's branch, whose masks CLIP's regions are; None where they are the label map's.
    """

    scenes: LabelledScenes
    nets: NetSources
    view: ClipView | None = None
    proposals: Artifact | None = None

    def open(self) -> Nets:
        """Set up the nets."""
        return self.nets.open()

    def run(self, state: Nets, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        stored = None if self.proposals is None else BranchShard(self.proposals, unit)
        with artifact.write_unit(unit) as unit_writer:
            writer = BranchShardWriter(unit_writer)
            for scene in self.scenes.of_unit(unit):
                if isinstance(scene, FailedImage):
                    writer.add_failed(scene.key, scene.status, scene.reason)
                else:
                    if self.view is None:
                        said = vars(state.proposals(scene.image))
                    else:
                        tensors = {} if stored is None else stored.tensors(scene.key)
                        parts = {name: torch.from_numpy(array).to(state.device) for name, array in tensors.items()}
                        proposals = ProposalBranch(**parts) if parts else None
                        said = vars(state.regions(scene, self.view, proposals, self.scenes.ignore_label))
                    kept = {name: tensor for name, tensor in said.items() if tensor is not None}
                    writer.add(scene.key, {name: tensor.cpu().contiguous().numpy() for name, tensor in kept.items()})
            return writer.commit()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Predicts each scene by every variant, and counts pixels.

    Attributes:
        variants: The first is the main one, whose predictions are kept.
        stored: Branches that were stored before; nets run for the others.
        background: The class that names beyond the classes mean; None where there are none.
    """

    scenes: LabelledScenes
    variants: tuple[Variant, ...]
    nets: NetSources
    stored: StoredSources = field(default_factory=StoredSources)
    background: int | None = None

    def open(self) -> Nets:
        """Set up the nets, of which none is loaded before it is used."""
        return self.nets.open()

    def run(self, state: Nets, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        branches = Branches(state, self.scenes.ignore_label, self.stored, unit=unit)
        with artifact.write_unit(unit) as unit_writer:
            writer = ScoreShardWriter(unit_writer, self.scenes.class_count)
            for scene in self.scenes.of_unit(unit):
                if isinstance(scene, FailedImage):
                    for variant in self.variants:
                        writer.add_failed(variant.name, scene.key, scene.status, scene.reason)
                else:
                    self._score(scene, branches, writer)
            return writer.commit()

    def _score(self, scene: LabelledImage, branches: Branches, writer: ScoreShardWriter) -> None:
        """Predict one scene by every variant, each different prediction once, and add what is counted."""
        class_count, ignore_label = self.scenes.class_count, self.scenes.ignore_label
        predictor = Predictor(
            scene,
            branches,
            class_count=class_count,
            ignore_label=ignore_label,
            net_sides_px=(self.nets.short_side_px, self.nets.max_side_px),
            # words for the background beyond the classes count as unseen
            seen=(*self.scenes.seen, *(False for _ in self.nets.class_names[class_count:])),
        )
        counted: dict[object, ImageCounts] = {}
        for number, variant in enumerate(self.variants):
            kept = None  # variants of several sections may be the same prediction, such as a sweep's main weight
            if variant.prediction_key() not in counted:
                predicted = predictor.predict(variant)
                if self.background is not None:
                    predicted[predicted >= class_count] = self.background
                counts = count_labels(scene.labels, predicted, class_count=class_count, ignore_label=ignore_label)
                counted[variant.prediction_key()] = ImageCounts(**vars(counts))
                kept = encode_png(predicted.astype(index_dtype(ignore_label))) if number == 0 else None
            writer.add(variant.name, scene.key, counted[variant.prediction_key()], prediction_png=kept)
