"""The original CLIP on the regions of a shard, in full batches, and smaller ones where memory runs out.

By crops, a batch is of crops, whichever pictures they are of. By one pass it is of pictures, each with all its masks.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovseg_models.encoding import MaskNamer, RegionCrops, cut_regions_of_pictures, embed_crops
from ovseg_models.host_to_device import sent
from ovseg_models.one_pass import OnePass
from ovseg_models.precision import autocast
from ovseg_models.run_lengths import RunLengths, masks_of_runs
from pipeline.clip_loading import load_clip, namer_of
from pipeline.errors import PipelineError, StageError
from pipeline.mine.regions import EMPTY_MASK, NOT_FINITE, UNDECODABLE, NetSize, SceneAndRegions, net_picture
from pipeline.ordered_threads import in_threads
from pipeline.settings import ClipSettings, EmbedSettings
from pipeline.stored_pictures import UndecodableError
from pipeline.worker_device import crops_at_once, is_out_of_memory
from storage_schemas.columns import OK
from storage_schemas.embeddings import SceneEmbeddings
from storage_schemas.rle import boxes_of_runs, run_lengths_of

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_TOGETHER_ON_GPU = 4  # pictures whose crops are cut at once; on a CPU that would only leave its cache
_SEEN_TOGETHER_ON_GPU = 16  # pictures that go through one pass at once


def in_full_batches(
    groups: Iterable[tuple[Item, tuple[Tensor, ...]]], forward: Callable[..., Tensor], *, size: int
) -> Iterator[tuple[Item, Tensor]]:
    """Apply a model to groups of rows, always ``size`` rows at a time but for the last time.

    Which rows go together follows from the order of the groups and ``size`` alone, so that the results of a shard have
    the same bits on every run.

    Args:
        groups: Items with the model's arguments, each [row ...]; a group may be empty.
        forward: From rows to results, one each.
        size: Rows of a batch.

    Yields:
        Each item with its results, in order.
    """
    waiting: deque[tuple[Item, int]] = deque()
    parts: list[tuple[Tensor, ...]] = []
    results: list[Tensor] = []
    for item, group in groups:
        waiting.append((item, len(group[0])))
        parts.append(group)
        while sum(len(part[0]) for part in parts) >= size:
            joined = [torch.cat(same) for same in zip(*parts, strict=True)]
            results.append(forward(*(rows[:size] for rows in joined)))
            parts = [tuple(rows[size:] for rows in joined)]
        yield from _completed(waiting, results)
    if any(len(part[0]) for part in parts):
        results.append(forward(*(torch.cat(same) for same in zip(*parts, strict=True))))
    yield from _completed(waiting, results)


def _completed(waiting: deque[tuple[Item, int]], results: list[Tensor]) -> Iterator[tuple[Item, Tensor]]:
    """Hand out the items at the front whose results are all there, and take both away."""
    while waiting and waiting[0][1] <= sum(map(len, results)):
        item, count = waiting.popleft()
        if results:
            joined = torch.cat(results)
            results[:] = [joined[count:]]
            yield item, joined[:count]
        else:  # nothing went through the model yet, and this item has no rows
            yield item, torch.empty(0)


class OutOfMemoryBackOff:
    """A model that takes fewer rows at a time once memory ran out.

    Args:
        model: From rows, in one argument or more, to results, one each.
        where: What runs out of memory, for messages.
        row: What a row is, for messages.
    """

    def __init__(self, model: Callable[..., Tensor], *, where: str, row: str = "crop") -> None:
        self._model = model
        self._where = where
        self._row = row
        self._at_once: int | None = None

    def __call__(self, *rows: Tensor) -> Tensor:
        """Return the model's results.

        Raises:
            StageError: If memory does not suffice for a single row.
        """
        results: list[Tensor] = []
        start, count = 0, len(rows[0])
        while start < count:
            some = [part[start : start + (self._at_once or count)] for part in rows]
            if (result := self._tried(*some)) is not None:
                results.append(result)
                start += len(some[0])
        return torch.cat(results)

    def _tried(self, *rows: Tensor) -> Tensor | None:
        """Run the model; where memory runs out, halve what it gets and return None."""
        try:
            return self._model(*rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        count = len(rows[0])
        if count == 1:
            raise StageError(
                f"{self._where}: memory does not suffice for one {self._row} ({reason}); free the device, or use "
                "another"
            )
        self._at_once = count // 2
        logger.warning("%s: memory does not suffice for %d %ss, %d go on", self._where, count, self._row, self._at_once)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


class _Decoded(NamedTuple):
    """A scene, ready to have its masks seen, or why that can't be.

    Attributes:
        of: The scene.
        pixels: At the size at which its masks lie; None if there is nothing to see.
        runs: Of its masks, equal ones once.
        mask_of_region: Which of them is each region's [region].
        boxes_xyxy: Their tight boxes [mask 4].
        status: ``"ok"``, else a slug of what went wrong with the scene.
        reason: The same in words.
    """

    of: SceneAndRegions
    pixels: UInt8[Tensor, "3 height width"] | None
    runs: RunLengths
    mask_of_region: Int[np.ndarray, "region"]
    boxes_xyxy: Int[np.ndarray, "mask 4"]
    status: str = OK
    reason: str = ""

    @property
    def is_seen(self) -> bool:
        """Whether there is a picture with masks."""
        return self.pixels is not None and len(self.runs.runs) > 0


class _Ready(NamedTuple):
    """A scene whose masks CLIP may embed, or why it may not.

    Attributes:
        of: The scene.
        row_of_region: Which row of embeddings is each region's [region]; equal masks share one, -1 is an empty mask.
        status: ``"ok"``, else a slug of what went wrong with the scene.
        reason: The same in words.
    """

    of: SceneAndRegions
    row_of_region: Int[np.ndarray, "region"]
    status: str = OK
    reason: str = ""


class Embedder:
    """CLIP at work: decoding, cropping and encoding run in threads beside its forward pass.

    Args:
        namer: The original CLIP, in evaluation mode, or its one pass.
        size: At which size masks lie, and crops are cut.
        pictures_together: Whose crops are cut at once; None for what suits the device.
    """

    def __init__(
        self, namer: MaskNamer, settings: EmbedSettings, size: NetSize, *, pictures_together: int | None = None
    ) -> None:
        self._one_pass = namer if isinstance(namer, OnePass) else None
        self._clip = clip = namer.model if isinstance(namer, OnePass) else namer
        on_gpu = clip.logit_scale.device.type != "cpu"
        self._together = pictures_together or (_TOGETHER_ON_GPU if on_gpu else 1)
        if self._one_pass is not None:
            self._together = settings.batch_images or (_SEEN_TOGETHER_ON_GPU if on_gpu else 1)
        self._settings = settings
        self._size = size
        self._batch_crops = crops_at_once(settings.batch_crops, clip.logit_scale.device)
        self._model = OutOfMemoryBackOff(self._forward, where="embed")
        if self._one_pass is not None:
            forward = partial(self._forward_pictures, self._one_pass)
            self._picture_model = OutOfMemoryBackOff(forward, where="embed", row="picture")

    @classmethod
    def loaded(cls, clip: ClipSettings, settings: EmbedSettings, size: NetSize, device: torch.device) -> "Embedder":
        """Load CLIP; without mask prompts it is the original one.

        Raises:
            PipelineError: If it is to drop tokens, or name masks in one pass, and cannot.
        """
        loaded = load_clip(clip)
        try:
            adapted = loaded.mask_adapted(blank_patches=settings.blank_patches)
        except ValueError as error:
            raise PipelineError(f"mine.embed: {error}") from error
        return cls(namer_of(adapted.to(device), settings, where="mine.embed"), settings, size)

    @property
    def embedding_dim(self) -> int:
        """Length of the embeddings."""
        return self._clip.embedding_dim

    def embeddings(self, scenes: Iterator[SceneAndRegions]) -> Iterator[SceneEmbeddings]:
        """Embed every region of scenes, in their order; what could not be embedded is a row that says why."""
        on_gpu = self._clip.logit_scale.device.type != "cpu"
        decoded = in_threads(self._decoded, scenes)
        groups = iter(lambda: list(islice(decoded, self._together)), [])  # until none is left
        # What is cut lies in the device's memory: no more than the next group waits there.
        threads = 1 if on_gpu else None
        if self._one_pass is not None:
            seen = in_threads(partial(self._seen, self._one_pass), groups, threads=threads, ahead=threads)
            return in_threads(_rows, (row for group in seen for row in self._embedded(*group)), threads=1)
        cut = in_threads(self._cut, groups, threads=threads, ahead=threads)
        crops = (of_scene for of_group in cut for of_scene in of_group)
        return in_threads(_rows, in_full_batches(crops, self._model, size=self._batch_crops), threads=1)

    @torch.inference_mode()
    def _forward(
        self, crops: Float[Tensor, "crop 3 side side"], *patch_masks: Bool[Tensor, "crop patch"]
    ) -> Float[Tensor, "crop dim"]:
        with autocast(crops.device, self._settings.precision):
            return embed_crops(self._clip, crops, *patch_masks, at_once=len(crops))

    @torch.inference_mode()
    def _seen(self, one_pass: OnePass, group: Sequence[_Decoded]) -> tuple[list[_Ready], list[Tensor], list[Tensor]]:
        """Make one pass's input of some scenes, on CLIP's device: pictures and what their masks fill, where any are."""
        ready, pictures, filled = [], [], []
        for one in group:
            row_of_region = np.zeros(0, np.int64)
            if one.pixels is not None and one.is_seen:
                device, size = self._clip.logit_scale.device, (one.of.regions.height_px, one.of.regions.width_px)
                empty = one.boxes_xyxy[:, 2] == one.boxes_xyxy[:, 0]  # it has a row nevertheless, which nobody reads
                row_of_region = np.where(empty[one.mask_of_region], -1, one.mask_of_region)
                pictures.append(one_pass.resized(sent(one.pixels, device)))
                filled.append(one_pass.filled(masks_of_runs(one.runs, size, device)))
            ready.append(_Ready(one.of, row_of_region, one.status, one.reason))
        return ready, pictures, filled

    def _embedded(
        self, ready: Sequence[_Ready], pictures: Sequence[Tensor], filled: Sequence[Tensor]
    ) -> Iterator[tuple[_Ready, Tensor]]:
        """Embed the masks of some pictures together; those with fewer masks are filled up with empty ones."""
        made: Iterator[Tensor] = iter(())
        if pictures:
            made = iter(self._picture_model(torch.stack(list(pictures)), pad_sequence(list(filled), batch_first=True)))
        for scene in ready:
            yield scene, next(made) if len(scene.row_of_region) else torch.empty(0)

    @torch.inference_mode()
    def _forward_pictures(
        self,
        one_pass: OnePass,
        pictures: Float[Tensor, "picture 3 side side"],
        filled: Float[Tensor, "picture mask patch"],
    ) -> Float[Tensor, "picture mask dim"]:
        with autocast(pictures.device, self._settings.precision):
            return one_pass.embed(one_pass.features(pictures), filled).float()

    def _decoded(self, of: SceneAndRegions) -> _Decoded:
        """Decode a scene's picture and the run lengths of its masks, on the host."""
        regions, no_runs = of.regions, RunLengths(np.zeros(0, np.int64), np.zeros(0, np.int64))
        nothing = _Decoded(of, None, no_runs, np.zeros(0, np.int64), np.zeros((0, 4), np.int32))
        if regions.status != OK:
            return nothing._replace(status=regions.status, reason=regions.reason)
        try:
            picture = net_picture(of.scene, self._size)
        except UndecodableError as error:
            return nothing._replace(status=UNDECODABLE, reason=f"the picture of {of.scene.key} {error}")
        distinct: dict[bytes, int] = {}  # equal run lengths are equal masks, and need one crop
        of_region = [distinct.setdefault(counts, len(distinct)) for counts in regions.mask_counts]
        runs = RunLengths(*run_lengths_of(list(distinct), regions.height_px, regions.width_px))
        return nothing._replace(
            pixels=torch.from_numpy(np.array(picture)).permute(2, 0, 1),
            runs=runs,
            mask_of_region=np.array(of_region, np.int64),
            boxes_xyxy=boxes_of_runs(*runs, regions.height_px),
        )

    def _cut(self, group: Sequence[_Decoded]) -> list[tuple[_Ready, tuple[Tensor, ...]]]:
        """Cut CLIP's input of some scenes together, or one by one where memory does not suffice for that."""
        try:
            return self._cut_together(group)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(group) == 1:
                raise
        if torch.cuda.is_available():  # not before the error is let go of, which holds what the attempt had made
            torch.cuda.empty_cache()
        return [cut for one in group for cut in self._cut_together([one])]

    @torch.inference_mode()
    def _cut_together(self, group: Sequence[_Decoded]) -> list[tuple[_Ready, tuple[Tensor, ...]]]:
        """Cut CLIP's input of some scenes, on CLIP's device: crops, and patch masks if needed."""
        device, crop = self._clip.logit_scale.device, self._clip.crop
        needs_patches = self._clip.needs_patch_masks()
        no_crops = torch.zeros(0, 3, crop.side_px, crop.side_px, device=device)
        no_patches = torch.zeros(0, crop.patches, dtype=torch.bool)
        whole = [one for one in group if one.is_seen]
        sizes = [(one.of.regions.height_px, one.of.regions.width_px) for one in whole for _ in one.runs.runs]
        made: Iterator[RegionCrops] = iter(())
        if whole:
            frame = max(height for height, _ in sizes), max(width for _, width in sizes)
            lengths, runs = (np.concatenate(parts) for parts in zip(*(one.runs for one in whole), strict=True))
            cut = cut_regions_of_pictures(
                [one.pixels for one in whole if one.pixels is not None],
                masks_of_runs(RunLengths(lengths, runs), frame, device, sizes),
                [one.boxes_xyxy for one in whole],
                crop,
                share_above_iou=self._settings.share_above_iou,
            )
            made = iter(cut)
        results: list[tuple[_Ready, tuple[Tensor, ...]]] = []
        for one in group:
            crop_of_region, crops, patches = np.zeros(0, np.int64), no_crops, no_patches
            if one.is_seen:
                of_scene = next(made)
                crop_of_region = of_scene.crop_of_mask[one.mask_of_region]
                crops, patches = of_scene.crops, of_scene.patch_mask
            scene = _Ready(one.of, crop_of_region, one.status, one.reason)
            results.append((scene, (crops, patches.cpu()) if needs_patches else (crops,)))
        return results


def _rows(embedded: tuple[_Ready, Float[Tensor, "crop dim"]]) -> SceneEmbeddings:
    """Turn a scene's embeddings into what is stored, on the CPU."""
    ready, embeddings = embedded
    key = ready.of.scene.key
    if ready.status != OK:
        return SceneEmbeddings(
            key=key,
            regions=np.zeros(0, np.int32),
            statuses=(),
            reasons=(),
            embeddings=np.zeros((0, 1), np.float16),
            scene_status=ready.status,
            scene_reason=ready.reason,
        )
    indices = ready.of.regions.indices
    outcomes = [(EMPTY_MASK, "the mask has no pixel")] * len(indices)
    stored = np.zeros((len(indices), embeddings.shape[1]), np.float16)
    vectors = embeddings.cpu().numpy()
    for region, row in enumerate(ready.row_of_region.tolist()):
        if row < 0:
            continue
        vector = vectors[row]
        if np.isfinite(vector).all():
            stored[region], outcomes[region] = vector.astype(np.float16), (OK, "")
        else:
            outcomes[region] = (NOT_FINITE, "CLIP's embedding of the crop is not finite")
    statuses, reasons = zip(*outcomes, strict=True)
    return SceneEmbeddings(key=key, regions=indices, statuses=statuses, reasons=reasons, embeddings=stored)
