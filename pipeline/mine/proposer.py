"""A proposal net at work on the scenes of a shard."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from ovseg_models.encoding import Proposals, propose
from ovseg_models.precision import autocast
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.run_lengths import run_lengths
from pipeline.mine.regions import NO_CAPTION, NO_PROPOSALS, UNDECODABLE, NetSize, net_picture
from pipeline.ordered_threads import in_threads
from pipeline.settings import ProposeSettings
from pipeline.stored_pictures import UndecodableError
from storage_schemas.columns import OK
from storage_schemas.proposals import SceneProposals
from storage_schemas.rle import areas_of_runs, boxes_of_runs, compressed, iou_matrix
from storage_schemas.scenes import Scene

_WINDOW_BATCHES = 4  # scenes from which those of equal padded size are taken, where a batch has more than one


class _Picture(NamedTuple):
    """A scene's picture at the net's input size, or why there is none."""

    key: str
    pixels: UInt8[Tensor, "3 height width"] | None
    status: str = OK
    reason: str = ""


class _NetOutput(NamedTuple):
    """What the net says of one picture."""

    key: str
    proposals: Proposals
    objectness: Float[Tensor, "query"]


class Proposer:
    """A proposal net at work: decoding and encoding run in threads beside its forward pass.

    Args:
        net: In evaluation mode.
        text_embeddings: Of the classes that it learned, on its device.
        captioned: Whether scenes without a caption are passed over.
    """

    def __init__(
        self,
        net: ProposalNet,
        text_embeddings: Float[Tensor, "class dim"],
        settings: ProposeSettings,
        *,
        captioned: bool = True,
    ) -> None:
        self._net = net
        self._text_embeddings = text_embeddings
        self._settings = settings
        self._captioned = captioned

    @property
    def embedding_dim(self) -> int:
        """Length of the proposal embeddings."""
        return self._net.no_object_embedding.shape[1]

    def proposals(self, scenes: Iterable[Scene]) -> Iterator[SceneProposals]:
        """Find the masks of scenes, in their order; a scene without any is a row that says why."""
        pictures = in_threads(self._picture, scenes)
        return in_threads(self._encoded, self._outputs(pictures))

    def _picture(self, scene: Scene) -> _Picture:
        """Decode a scene's picture."""
        if scene.status != OK:
            return _Picture(scene.key, None, scene.status, scene.reason)
        if self._captioned and not scene.captions:
            return _Picture(scene.key, None, NO_CAPTION, "the scene has no caption, so nothing could be paired with it")
        try:
            picture = net_picture(scene, NetSize(self._settings.short_side_px, self._settings.max_side_px))
        except UndecodableError as error:
            return _Picture(scene.key, None, UNDECODABLE, f"the picture of {scene.key} {error}")
        return _Picture(scene.key, torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())

    @torch.inference_mode()
    def _outputs(self, pictures: Iterator[_Picture]) -> Iterator[_Picture | _NetOutput]:
        """Run the net over pictures; those of equal padded size near each other go together."""
        at_once = self._settings.batch_images
        window = at_once * (_WINDOW_BATCHES if at_once > 1 else 1)
        while some := list(islice(pictures, window)):
            pixels = [picture.pixels for picture in some if picture.pixels is not None]
            with autocast(self._text_embeddings.device, self._settings.precision):
                found = iter(propose(self._net, pixels, at_once=at_once))
            for picture in some:
                if picture.pixels is None:
                    yield picture
                    continue
                proposals = next(found)
                logits = self._net.class_logits(proposals.proposal_embeddings, self._text_embeddings)
                objectness = logits.softmax(dim=-1)[:, :-1].sum(dim=-1)  # of any class; the last column is no object
                yield _NetOutput(picture.key, proposals, objectness)

    @torch.inference_mode()
    def _encoded(self, output: _Picture | _NetOutput) -> SceneProposals:
        """Turn what the net says into masks as run lengths; empty masks and near-duplicates are left out."""
        if isinstance(output, _Picture):
            return SceneProposals.failed(output.key, self.embedding_dim, output.status, output.reason)
        found = output.proposals
        height, width = found.net_size
        masks = hard_masks(found.mask_logits, found.net_size, self._settings.mask_threshold)
        runs = run_lengths(masks)  # all of the masks that leaves the device
        areas, boxes, all_counts = areas_of_runs(*runs), boxes_of_runs(*runs, height), compressed(*runs)
        filled = np.flatnonzero(areas)
        queries = filled[
            distinct_masks(
                [all_counts[query] for query in filled], areas[filled], boxes[filled], height, width,
                max_iou=self._settings.duplicate_iou,
            )
        ]  # fmt: skip
        counts = [all_counts[query] for query in queries]
        if not counts:
            reason = f"no pixel of {len(masks)} queries has a mask probability above {self._settings.mask_threshold}"
            return SceneProposals.failed(output.key, self.embedding_dim, NO_PROPOSALS, reason)
        return SceneProposals(
            key=output.key,
            height_px=height,
            width_px=width,
            queries=queries.astype(np.int32),
            mask_counts=counts,
            areas_px=areas[queries],
            boxes_xyxy=boxes[queries],
            objectness=output.objectness.cpu().numpy()[queries],
            embeddings=found.proposal_embeddings.cpu().numpy()[queries],
        )


def distinct_masks(
    counts: Sequence[bytes],
    areas_px: Int64[np.ndarray, "mask"],
    boxes_xyxy: Int[np.ndarray, "mask 4"],
    height_px: int,
    width_px: int,
    *,
    max_iou: float,
) -> list[int]:
    """Choose masks, first come first served, none of which overlaps an earlier chosen one by more than ``max_iou``.

    Args:
        counts: Compressed COCO run lengths; no mask is empty.
        areas_px: Pixels of each mask.
        boxes_xyxy: Tight boxes of them; px, half-open.
        height_px: Height of the masks.
        width_px: Width of the masks.
        max_iou: Intersection over union; 1 keeps all.

    Returns:
        Places of the chosen masks, ascending.
    """
    if max_iou >= 1:
        return list(range(len(counts)))
    # Masks have no more in common than the smaller one of them, or than their boxes. That excludes nearly all pairs.
    corners = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    sides = (np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:]) - corners).clip(min=0).astype(np.int64)
    most = np.minimum(sides.prod(axis=2), np.minimum(areas_px[:, None], areas_px))
    may_overlap = most / (areas_px[:, None] + areas_px - most) > max_iou
    kept: list[int] = []
    for place in range(len(counts)):
        near = [counts[other] for other in kept if may_overlap[place, other]]
        if not (iou_matrix([counts[place]], near, height_px, width_px) > max_iou).any():
            kept.append(place)
    return kept
