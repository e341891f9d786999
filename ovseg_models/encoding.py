"""Encoding pictures: what both nets see before a class is named. All who run the nets use this code.

The segmenter, mining, evaluation and the validations of both trainings are composed of the same three steps: `propose`
runs the proposal net over pictures, `cut_regions` cuts what CLIP sees of a picture's masks, and `embed_crops` runs CLIP
over crops, of one picture or of many. `embed_regions` is the last two, or `OnePass` in their place, which sees the
picture itself. What then names the masks is `ovseg_models.fusion.classify`. So what is measured is what ships.

Each works on the device of its net. Mixed precision is the caller's, by `torch.autocast`; what is returned is in single
precision.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ovseg_models.host_to_device import sent
from ovseg_models.image_input import resize_image
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.mask_sharing import shared_masks
from ovseg_models.masked_crops import Fill, mask_boxes, masked_crops_of_pictures, patch_mask
from ovseg_models.one_pass import OnePass, PictureFeatures
from ovseg_models.preprocessing import CropFormat
from ovseg_models.proposal_masks import hard_masks, query_chunks, upsampled_mask_probs
from ovseg_models.proposal_net import SIZE_DIVISOR_PX, ProposalNet

MaskNamer: TypeAlias = MaskAdaptedClip | OnePass
"""What embeds masks so that they can be named: CLIP on a crop of each, or one pass of the whole picture."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """The proposals of one picture.

    Attributes:
        net_size: Height and width at which the net and the crops see the picture, without the net's padding [px].
        mask_logits: At stride 4 of the padded net input.
        proposal_embeddings: In CLIP's space, L2-normalised.
    """

    net_size: tuple[int, int]
    mask_logits: Float[Tensor, "query mask_height mask_width"]
    proposal_embeddings: Float[Tensor, "query dim"]


class Regions(NamedTuple):
    """CLIP's embeddings of the regions of one picture.

    Attributes:
        embeddings: Of the masks that have a pixel, in order, L2-normalised.
        valid: Which masks these are, on the host.
    """

    embeddings: Float[Tensor, "valid dim"]
    valid: Bool[Tensor, "mask"]


class RegionCrops(NamedTuple):
    """What CLIP sees of the masks of one picture.

    Attributes:
        crops: Normalised for CLIP.
        patch_mask: Which patches see a pixel of the mask.
        crop_of_mask: The crop of each mask, on the host; equal masks share one, -1 is a mask without a pixel.
    """

    crops: Float[Tensor, "crop 3 side side"]
    patch_mask: Bool[Tensor, "crop patch"]
    crop_of_mask: Int64[np.ndarray, "mask"]

    def regions(self, embeddings: Float[Tensor, "crop dim"]) -> Regions:
        """Give each mask the embedding of its crop."""
        valid = self.crop_of_mask >= 0
        rows = sent(torch.from_numpy(self.crop_of_mask[valid]), embeddings.device)
        return Regions(embeddings[rows], torch.from_numpy(valid))


class SeenPicture:
    """A picture that goes through CLIP once, when masks of it are first asked for; any may be, then and later."""

    def __init__(self, one_pass: OnePass, picture: UInt8[Tensor, "3 height width"]) -> None:
        self._one_pass = one_pass
        self._picture = picture

    @cached_property
    def features(self) -> PictureFeatures:
        """What masks read of it; ViT-B/16 at its own size takes 15 MB, half of that in half precision."""
        picture = sent(self._picture, self._one_pass.model.logit_scale.device)
        return self._one_pass.features(self._one_pass.resized(picture)[None])

    @property
    def nbytes(self) -> int:
        """What the features take, once they are there."""
        held = vars(self).get("features")
        return 0 if held is None else sum(part.nbytes for part in (held.start, *held.keys, *held.values, held.last))

    @torch.no_grad()
    def regions(self, masks: Bool[Tensor, "mask height width"]) -> Regions:
        """Embed masks of the picture, at any size, on CLIP's device; those without a pixel are left out."""
        valid = masks.flatten(1).any(dim=1)
        if not valid.any():
            return Regions(torch.zeros(0, self._one_pass.model.embedding_dim, device=masks.device), valid.cpu())
        filled = self._one_pass.filled(masks[valid])
        return Regions(self._one_pass.embed(self.features, filled[None])[0].float(), valid.cpu())


@dataclass(frozen=True, kw_only=True)
class EncodedImage(Proposals):
    """The part of segmenting an image that doesn't depend on the class names, which takes nearly all of the time.

    Attributes:
        image: RGB, upright, at its own size.
        mask_threshold: With which hard masks are made.
        embed: Embeds masks at net size, the proposals or any others.
        seen: The picture as one pass has it, which runs it through CLIP only once for all masks; None for crops.
        source: Path of its file; empty if it is not known.
        class_logits: Compares their embeddings with those of class names; see `MaskAdaptedClip.class_logits`.
    """

    image: Image.Image
    mask_threshold: float | int
    embed: Callable[[Tensor], Regions] = field(repr=False, compare=False)
    class_logits: Callable[[Tensor, Tensor], Tensor] = field(repr=False, compare=False)
    seen: SeenPicture | None = field(default=None, repr=False, compare=False)
    source: str = ""

    def of_file(self, source: str) -> "EncodedImage":
        """Return the same encoded image as of another file; what has been computed of it is shared."""
        other = copy.copy(self)  # unlike dataclasses.replace, with what is cached
        object.__setattr__(other, "source", source)
        return other

    @cached_property
    def regions(self) -> Regions:
        """CLIP's embeddings of the proposals; made when they are first read."""
        return self.embed(self.hard_masks())

    @property
    def image_embeddings(self) -> Float[Tensor, "valid dim"]:
        """CLIP's embeddings of the valid proposals, L2-normalised."""
        return self.regions.embeddings

    @cached_property
    def valid(self) -> Bool[Tensor, "query"]:
        """Whether a proposal's hard mask has a pixel at net size, on the host; CLIP need not run for this."""
        known = vars(self).get("regions")
        return self.hard_masks().flatten(1).any(dim=1).cpu() if known is None else known.valid

    @cached_property
    def mask_extents(self) -> tuple[Int64[Tensor, "query"], Int64[Tensor, "query 4"]]:
        """Pixels of each hard mask at the image's own size, and tight boxes [px], all zero for a mask without a pixel.

        Seconds for a picture of many megapixels, and the same for any class names.
        """
        areas, boxes = [], []
        for masks in self.hard_masks_at_image_size():
            areas.append(masks.flatten(1).sum(dim=1))
            rows, found = mask_boxes(masks)
            of_all = found.new_zeros(len(masks), 4)  # an empty mask has no box
            of_all[rows] = found
            boxes.append(of_all)
        return torch.cat(areas), torch.cat(boxes)

    @property
    def size(self) -> tuple[int, int]:
        """The image's own height and width [px]."""
        return self.image.height, self.image.width

    def mask_probs(self) -> Float[Tensor, "query height width"]:
        """Return the soft masks at net size; 4 bytes per query and pixel."""
        return upsampled_mask_probs(self.mask_logits, self.net_size)

    def hard_masks(self) -> Bool[Tensor, "query height width"]:
        """Return the hard masks at net size; 1 byte per query and pixel."""
        return hard_masks(self.mask_logits, self.net_size, self.mask_threshold)

    def hard_masks_at_image_size(self) -> Iterator[Bool[Tensor, "some height width"]]:
        """Yield the hard masks at the image's own size, some queries at a time.

        The soft masks are resized bilinearly, then compared with the threshold.
        """
        largest = max(self.size, self.net_size, key=lambda size: size[0] * size[1])
        for rows in query_chunks(self.mask_logits, largest):
            yield self.resized_hard_masks(rows, self.size)

    def resized_hard_masks(
        self, queries: slice | Sequence[int], size: tuple[int, int]
    ) -> Bool[Tensor, "some height width"]:
        """Return the hard masks of some queries at any height and width; soft masks are resized, then compared."""
        probs = upsampled_mask_probs(self.mask_logits[queries], self.net_size)
        if size != self.net_size:
            probs = functional.interpolate(probs[None], size=size, mode="bilinear", align_corners=False)[0]
        return probs > self.mask_threshold


def net_pixels(image: Image.Image, *, short_side_px: int, max_side_px: int) -> UInt8[Tensor, "3 height width"]:
    """Resize an RGB image to the size at which the nets see it; arguments and errors as `resize_image`."""
    resized = resize_image(image, short_side_px=short_side_px, max_side_px=max_side_px)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


@torch.no_grad()
def propose(
    net: ProposalNet, pictures: Sequence[UInt8[Tensor, "3 _ _"]], *, at_once: int | None = None
) -> list[Proposals]:
    """Find masks in pictures.

    Pictures of equal padded size go through the net together; more padding than a picture's own would change a result.

    Args:
        net: In evaluation mode.
        pictures: RGB, at net size; see `net_pixels`.
        at_once: Pictures of a batch; None for no limit.

    Returns:
        One for each picture, in order.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for index, picture in enumerate(pictures):
        padded = tuple(side + -side % SIZE_DIVISOR_PX for side in picture.shape[1:])
        places.setdefault(padded, []).append(index)
    found: dict[int, Proposals] = {}
    for group in places.values():
        step = at_once or len(group)
        for batch in (group[start : start + step] for start in range(0, len(group), step)):
            output = net(net.preprocess([pictures[index] for index in batch]))
            mask_logits, embeddings = output.mask_logits.float(), output.proposal_embeddings.float()
            for index, *of_one in zip(batch, mask_logits, embeddings, strict=True):
                height, width = pictures[index].shape[1:]
                found[index] = Proposals(net_size=(height, width), mask_logits=of_one[0], proposal_embeddings=of_one[1])
    return [found[index] for index in range(len(pictures))]


@torch.no_grad()
def cut_regions(
    picture: UInt8[Tensor, "3 height width"],
    masks: Bool[Tensor, "mask height width"],
    crop: CropFormat,
    *,
    fill: Fill = "mean",
    share_above_iou: float = 1.0,
) -> RegionCrops:
    """Cut the masked crop of each region; equal masks share one.

    A GPU is waited for once, or twice if masks may be equal: for their boxes, and to compare equal ones.

    Args:
        picture: RGB, of the masks' size, on any device.
        masks: On the device where crops are cut. There may be none.
        crop: What CLIP takes as a crop.
        fill: What is shown outside the mask.
        share_above_iou: Below 1, masks that overlap by more share the crop of one of them; see `shared_masks`.
    """
    found = distinct_masks(masks)
    if len(found.first) < len(masks):
        masks = masks[sent(torch.from_numpy(found.first), masks.device)]
    (cut,) = cut_regions_of_pictures(
        [picture],
        masks,
        [found.boxes_xyxy[found.first]],
        crop,
        fill=fill,
        share_above_iou=share_above_iou,
    )
    return cut._replace(crop_of_mask=cut.crop_of_mask[found.of_mask])


@torch.no_grad()
def cut_regions_of_pictures(
    pictures: Sequence[UInt8[Tensor, "3 _ _"]],
    masks: Bool[Tensor, "mask height width"],
    boxes_xyxy: Sequence[Int[np.ndarray, "_ 4"]],
    crop: CropFormat,
    *,
    fill: Fill = "mean",
    share_above_iou: float = 1.0,
) -> list[RegionCrops]:
    """Cut the masked crops of several pictures at once, in the number of operations that one picture takes.

    Boxes are known, so a GPU is not waited for, unless masks that overlap share crops.

    Args:
        pictures: RGB, on any device.
        masks: Of all pictures, one after another, each at the top left of its frame, on the device where crops are
            cut. Equal ones don't share a crop here: they are to be left out.
        boxes_xyxy: Tight boxes of each picture's masks [px], half-open, all zero for a mask without a pixel.
        crop: As there, like ``fill`` and ``share_above_iou``.

    Returns:
        One for each picture.

    Raises:
        ValueError: If a box or a frame is not of its picture.
    """
    frames = pictures[0].new_zeros(len(pictures), 3, *masks.shape[1:])
    for frame, picture, known in zip(frames, pictures, boxes_xyxy, strict=True):
        height, width = picture.shape[1:]
        if (known[:, 2:] > (width, height)).any() or height > frame.shape[1] or width > frame.shape[2]:
            raise ValueError(
                f"cut_regions_of_pictures: a picture of {width} x {height} px in a frame of {frame.shape[2]} x "
                f"{frame.shape[1]} px has boxes up to {known[:, 2:].max(axis=0).tolist()}; give it masks and boxes "
                "of its own size"
            )
        frame[:, :height, :width] = picture
    counts = [len(boxes) for boxes in boxes_xyxy]
    own = masks.split(counts)
    # Of each picture: the masks that get a crop, and which of these each of its masks takes.
    if share_above_iou < 1:
        sharing = [shared_masks(some, share_above_iou) for some in own]
        masks = torch.cat(
            [some[sent(torch.from_numpy(first), some.device)] for some, (first, _) in zip(own, sharing, strict=True)]
        )
    else:
        sharing = [(np.arange(count), np.arange(count)) for count in counts]
    boxes = [known[first] for known, (first, _) in zip(boxes_xyxy, sharing, strict=True)]
    of_picture = np.repeat(np.arange(len(pictures)), [len(known) for known in boxes])
    cut = masked_crops_of_pictures(
        sent(frames, masks.device),
        masks,
        of_picture,
        crop_px=crop.side_px,
        preprocessing=crop.preprocessing,
        fill=fill,
        boxes_xyxy=np.concatenate(boxes),
    )
    # Masks without a pixel got no crop: of three masks, the second one empty, the crops are 0, -1, 1.
    filled = [known[:, 2] > known[:, 0] for known in boxes]
    crops_of = [int(some.sum()) for some in filled]
    patches = patch_mask(cut.crop_masks, crop.patch_px)
    parts = zip(cut.crops.split(crops_of), patches.split(crops_of), filled, sharing, strict=True)
    return [
        RegionCrops(crops, own_patches, np.where(some, some.cumsum() - 1, -1)[of_mask])
        for crops, own_patches, some, (_, of_mask) in parts
    ]


@torch.no_grad()
def embed_crops(
    clip: MaskAdaptedClip,
    crops: Float[Tensor, "crop 3 side side"],
    patch_mask: Bool[Tensor, "crop patch"] | None = None,
    *,
    use_mask_prompts: bool = True,
    at_once: int,
) -> Float[Tensor, "crop dim"]:
    """Embed crops, L2-normalised.

    Args:
        clip: In evaluation mode.
        crops: Normalised for CLIP, on its device. There may be none.
        patch_mask: Which patches see a pixel of the mask, on any device; None: no patch is blank.
        use_mask_prompts: Whether CLIP sees its mask prompts in place of blank patches.
        at_once: Crops that CLIP takes at a time; bounds the memory, and changes no result but for rounding.
    """
    starts = range(0, max(1, len(crops)), at_once)
    return torch.cat(
        [
            clip.encode_image(
                crops[start : start + at_once],
                None if patch_mask is None else patch_mask[start : start + at_once],
                use_prompts=use_mask_prompts,
            )
            for start in starts
        ]
    ).float()


@torch.no_grad()
def embed_regions(
    namer: MaskNamer,
    picture: UInt8[Tensor, "3 height width"],
    masks: Bool[Tensor, "mask height width"],
    *,
    fill: Fill = "mean",
    use_mask_prompts: bool = True,
    at_once: int,
) -> Regions:
    """Embed the regions of one picture: `cut_regions`, then `embed_crops`; their arguments.

    Args:
        namer: For one pass the arguments on crops have no meaning.
        use_mask_prompts: Whether CLIP sees its mask prompts in place of patches outside the mask. A CLIP that drops
            blank patches does so either way, but where they show the picture.
    """
    if isinstance(namer, OnePass):
        return SeenPicture(namer, picture).regions(masks)
    cut = cut_regions(picture, masks, namer.crop, fill=fill)
    none_is_blank = fill == "unmasked" and not use_mask_prompts
    patches = None if none_is_blank else cut.patch_mask
    return cut.regions(embed_crops(namer, cut.crops, patches, use_mask_prompts=use_mask_prompts, at_once=at_once))


class DistinctMasks(NamedTuple):
    """Which masks are equal pixel by pixel, and where they lie; all on the host.

    Attributes:
        first: The rows of the masks that represent all, ascending.
        of_mask: Which of these each mask is equal to.
        boxes_xyxy: Tight boxes of all masks [px], half-open, all zero for a mask without a pixel.
    """

    first: Int64[np.ndarray, "distinct"]
    of_mask: Int64[np.ndarray, "mask"]
    boxes_xyxy: Int64[np.ndarray, "mask 4"]


@torch.no_grad()
def distinct_masks(masks: Bool[Tensor, "mask height width"]) -> DistinctMasks:
    """Find masks that are equal pixel by pixel; in rare cases not all of them, so that some work is done twice."""
    mask_bytes, (count, height, _) = masks.view(torch.uint8), masks.shape
    per_line = [mask_bytes.sum(dim=2, dtype=torch.int32), mask_bytes.sum(dim=1, dtype=torch.int32)]
    pixels = torch.cat(per_line, dim=1).cpu().numpy()  # of each line, then of each column: some kB a mask
    lines, columns = pixels[:, :height] > 0, pixels[:, height:] > 0
    starts = np.stack([columns.argmax(axis=1), lines.argmax(axis=1)], axis=1)
    ends = np.stack([side.shape[1] - side[:, ::-1].argmax(axis=1) for side in (columns, lines)], axis=1)
    boxes = np.concatenate([starts, ends], axis=1).astype(np.int64) * lines.any(axis=1, keepdims=True)

    # Pixels per line and per column differ between most masks. Those that agree in them are compared pixel by pixel,
    # and one that differs from the first nevertheless keeps a crop of its own.
    rows = np.arange(count)
    firsts: dict[bytes, int] = {}
    first_like = np.array([firsts.setdefault(pixels[row].tobytes(), row) for row in range(count)], np.int64)
    candidates = np.flatnonzero(first_like != rows)
    if len(candidates):
        pairs = sent(torch.from_numpy(np.stack([candidates, first_like[candidates]])), masks.device)
        different = (mask_bytes[pairs[0]] != mask_bytes[pairs[1]]).flatten(1).any(dim=1).cpu().numpy()
        first_like[candidates] = np.where(different, candidates, first_like[candidates])
    first, of_mask = np.unique(first_like, return_inverse=True)
    return DistinctMasks(first, of_mask, boxes)
