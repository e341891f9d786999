"""The original CLIP at work on the regions of a shard."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ovseg_models.encoding import cut_regions, embed_crops
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from pipeline.clip_loading import load_clip
from pipeline.errors import PipelineError
from pipeline.mine.full_batches import SparingModel, in_full_batches
from pipeline.mine.regions import NetSize, SceneAndRegions, UndecodableError, net_picture
from pipeline.mine.statuses import EMPTY_MASK, NOT_FINITE, UNDECODABLE
from pipeline.ordered_threads import in_threads
from pipeline.settings import ClipSettings, EmbedSettings
from pipeline.worker_device import autocast, crops_at_once
from storage_schemas.embeddings import SceneEmbeddings
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import OK


class _CutScene(NamedTuple):
    """A scene whose crops are cut, or why there are none.

    Attributes:
        of: The scene.
        crop_of_region: Which crop shows each region [region]; equal masks share one, -1 is an empty mask.
        status: ``"ok"``, else a slug of what went wrong with the scene.
        reason: The same in words.
    """

    of: SceneAndRegions
    crop_of_region: Int[np.ndarray, "region"]
    status: str = OK
    reason: str = ""


class Embedder:
    """CLIP at work: decoding, cropping and encoding run in threads beside its forward pass.

    Args:
        clip: The original CLIP, in evaluation mode.
        size: At which size crops are cut.
    """

    def __init__(self, clip: MaskAdaptedClip, settings: EmbedSettings, size: NetSize) -> None:
        self._clip = clip
        self._settings = settings
        self._size = size
        self._batch_crops = crops_at_once(settings.batch_crops, clip.logit_scale.device)
        self._model = SparingModel(self._forward, where="embed")

    @classmethod
    def loaded(cls, clip: ClipSettings, settings: EmbedSettings, size: NetSize, device: torch.device) -> "Embedder":
        """Load CLIP; without mask prompts it is the original one.

        Raises:
            PipelineError: If it is to drop tokens and cannot.
        """
        loaded = load_clip(clip).clip
        try:
            adapted = MaskAdaptedClip(loaded, prompt_depth=0, blank_patches=settings.blank_patches)
        except ValueError as error:
            message = f"mine.embed: {error}"
            raise PipelineError(message) from error
        return cls(adapted.eval().to(device), settings, size)

    @property
    def embedding_dim(self) -> int:
        """Length of the embeddings."""
        dim: int = self._clip.clip.visual.output_dim
        return dim

    def embeddings(self, scenes: Iterator[SceneAndRegions]) -> Iterator[SceneEmbeddings]:
        """Embed every region of scenes, in their order; what could not be embedded is told, not left out."""
        cut = in_threads(self._cut, scenes)
        return in_threads(_rows, in_full_batches(cut, self._model, size=self._batch_crops), threads=1)

    @torch.inference_mode()
    def _forward(
        self, crops: Float[Tensor, "crop 3 side side"], *patch_masks: Bool[Tensor, "crop patch"]
    ) -> Float[Tensor, "crop dim"]:
        with autocast(crops.device, self._settings.precision):
            return embed_crops(self._clip, crops, *patch_masks, at_once=len(crops))

    @torch.inference_mode()
    def _cut(self, of: SceneAndRegions) -> tuple[_CutScene, tuple[Tensor, ...]]:
        """Decode a scene's picture and masks, and cut CLIP's input: crops, and patch masks if needed."""
        device, side = self._clip.logit_scale.device, self._clip.crop_px
        given = 1 + self._clip.needs_patch_masks()
        no_crops = torch.zeros(0, 3, side, side, device=device)
        no_patches = torch.zeros(0, (side // self._clip.patch_px) ** 2, dtype=torch.bool)
        nothing = np.zeros(0, np.int64), (no_crops, no_patches)[:given]
        regions = of.regions
        if regions.status != OK:
            return _CutScene(of, nothing[0], regions.status, regions.reason), nothing[1]
        try:
            picture = net_picture(of.scene, self._size)
        except UndecodableError as error:
            return _CutScene(of, nothing[0], UNDECODABLE, str(error)), nothing[1]
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().to(device)
        masks = torch.from_numpy(decode_masks(regions.mask_counts, regions.height_px, regions.width_px)).to(device)
        share = self._settings.share_above_iou
        cut = cut_regions(pixels, masks, crop_px=side, patch_px=self._clip.patch_px, share_above_iou=share)
        rows = (cut.crops,) if given == 1 else (cut.crops, cut.patch_mask.cpu())
        return _CutScene(of, cut.crop_of_mask.cpu().numpy()), rows


def _rows(embedded: tuple[_CutScene, Float[Tensor, "crop dim"]]) -> SceneEmbeddings:
    """Turn a scene's embeddings into what is stored, on the CPU."""
    cut, embeddings = embedded
    key = cut.of.scene.key
    if cut.status != OK:
        return SceneEmbeddings(
            key=key,
            regions=np.zeros(0, np.int32),
            statuses=(),
            reasons=(),
            embeddings=np.zeros((0, 1), np.float16),
            scene_status=cut.status,
            scene_reason=cut.reason,
        )
    indices = cut.of.regions.indices
    told = [(EMPTY_MASK, "the mask has no pixel")] * len(indices)
    stored = np.zeros((len(indices), embeddings.shape[1]), np.float16)
    vectors = embeddings.cpu().numpy()
    for row, crop in enumerate(cut.crop_of_region.tolist()):
        if crop < 0:
            continue
        vector = vectors[crop]
        if np.isfinite(vector).all():
            stored[row], told[row] = vector.astype(np.float16), (OK, "")
        else:
            told[row] = (NOT_FINITE, "CLIP's embedding of the crop is not finite")
    statuses, reasons = zip(*told, strict=True)
    return SceneEmbeddings(key=key, regions=indices, statuses=statuses, reasons=reasons, embeddings=stored)
