"""From the classes of the proposals to the classes of the pixels.

First the two branches' class probabilities of each proposal become one score (`classify`), then the scores are spread
over the pixels by the soft masks (`fused_labels`, `fused_scores`).

The plain form of the second step, an einsum to [class height width], a bilinear resize and an argmax, takes 2 GB for
847 classes at 640 x 960 px. `fused_labels` gives the same labels from a small part of it. The picture is cut into tiles
of 16 px. Within a tile a mask's logits lie between the least and the greatest of the few logits that they are
interpolated from, so each class's sum has a lower and an upper bound there, and a class whose upper bound is below
another one's lower bound wins no pixel. In most tiles a few classes are left, of 150 as of 847. Tiles with about as
many classes go together through products of batched matrices.

Letters in shapes: ``tile`` counts tiles line by line, ``win`` is the side of a tile's window of logits (6), ``line`` a
tile's side and one pixel more (17), which the resize may read.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from ovseg_models.host_to_device import sent_together
from ovseg_models.proposal_masks import MASK_STRIDE_PX, upsampled_mask_probs

_TILE_PX = 16
_TILE_LOGITS = _TILE_PX // MASK_STRIDE_PX
_WINDOW = _TILE_LOGITS + 2  # bilinear interpolation reads one logit beyond the tile on each side
_LINES = _TILE_PX + 1
_ROUNDING = 1e-4  # far above what the sums of some hundred products are rounded by
_FEW_CLASSES = 4  # that are left in a tile cost less than to look for fewer
_TIGHTENED_ON = ("cpu",)  # a GPU has the sums of more classes sooner than it has waited for the tighter bounds
_MASK_PIXELS_AT_ONCE = 1 << 16
_CPU_WORK_BYTES = 4 * 2**20  # more leaves the cache, and its pages come new from the system each time
_GPU_WORK_BYTES = 2 * 2**30  # few and large steps, so that a GPU is not idle between them


class ClassScores(NamedTuple):
    """Class scores of the proposals, of each branch and of both.

    Attributes:
        proposal_probs: By the proposal net.
        clip_probs: By CLIP, for the valid proposals in order; None at ensemble weight 0.
        scores: By both together; see `ensemble_scores`.
    """

    proposal_probs: Float[Tensor, "query class"]
    clip_probs: Float[Tensor, "valid class"] | None
    scores: Float[Tensor, "query class"]


def best_of_words(logits: Float[Tensor, "row word"], word_counts: Sequence[int]) -> Float[Tensor, "row class"]:
    """Return the highest logit of each class's words; see `Vocabulary`.

    Args:
        logits: Columns of a class's words lie side by side. What follows all of them, as no object does, stays.
        word_counts: Number of words of each class.
    """
    if all(count == 1 for count in word_counts):
        return logits
    words = sum(word_counts)
    classes = [part.amax(dim=1) for part in logits[:, :words].split(list(word_counts), dim=1)]
    return torch.cat([torch.stack(classes, dim=1), logits[:, words:]], dim=1)


@torch.no_grad()
def classify(
    proposal_logits: Float[Tensor, "query columns"] | None,
    clip_logits: Float[Tensor, "valid class"] | None = None,
    valid: Bool[Tensor, "query"] | None = None,
    *,
    ensemble_weight: float | int,
    seen: Bool[Tensor, "class"] | None = None,
) -> ClassScores:
    """Name the proposals of a picture; the segmenter, evaluation and validation all call this.

    Args:
        proposal_logits: Of `ProposalNet.class_logits`; no object is the last column. None where nothing but CLIP can
            name the proposals, at weight 1: masks from elsewhere, or of a net that was trained with another CLIP. All
            classes are then as likely to the net.
        clip_logits: Of `MaskAdaptedClip.class_logits`, for the valid proposals in order; not needed at weight 0.
        valid: Which proposals have a crop; not needed at weight 0.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only.
        seen: Classes among which CLIP has no say, see `unseen_ensemble_scores`; None: it has one on all classes.

    Raises:
        ValueError: As `ensemble_scores`, or if a branch is missing that the weight asks for.
    """
    if proposal_logits is None:
        if ensemble_weight != 1 or clip_logits is None or valid is None:
            raise ValueError(
                f"classify: ensemble_weight is {ensemble_weight}, and the proposal net's logits are missing; pass "
                "them, or CLIP's and weight 1"
            )
        classes = clip_logits.shape[1]
        proposal_probs = clip_logits.new_full((len(valid), classes), 1 / classes)
    else:
        proposal_probs = proposal_logits.softmax(dim=-1)[:, :-1]
    if ensemble_weight == 0:
        return ClassScores(proposal_probs, None, proposal_probs)
    if clip_logits is None or valid is None:
        raise ValueError(
            f"classify: ensemble_weight is {ensemble_weight}, and CLIP's logits of the valid proposals are missing; "
            "pass both, or weight 0"
        )
    clip_probs = clip_logits.softmax(dim=-1)
    if seen is not None:
        scores = unseen_ensemble_scores(proposal_probs, clip_probs, valid, ensemble_weight, seen)
        return ClassScores(proposal_probs, clip_probs, scores)
    return ClassScores(proposal_probs, clip_probs, ensemble_scores(proposal_probs, clip_probs, valid, ensemble_weight))


def ensemble_scores(
    proposal_probs: Float[Tensor, "query class"],
    clip_probs: Float[Tensor, "valid class"],
    valid: Bool[Tensor, "query"],
    ensemble_weight: float | int,
) -> Float[Tensor, "query class"]:
    """Combine the class probabilities of proposal net and CLIP: ``p^(1 - weight) * p_clip^weight``.

    A proposal without a pixel above the mask threshold has no crop and so no CLIP probabilities. As in the reference it
    keeps ``p^(1 - weight)``, which is more than a proposal with a crop can get. At weight 1 that would be 1 for each
    class, a constant that says nothing; there such proposals score 0, as in the reference's CLIP-only mode. If no
    proposal has a crop, the proposal net decides alone below weight 1; at weight 1 nothing is known, all scores are 0,
    and `fused_labels` gives each pixel the first class. (The reference fails on such an image.)

    Args:
        proposal_probs: Softmax over the classes and no-object, without the no-object column.
        clip_probs: Softmax over the classes, for the valid proposals in order; there may be none.
        valid: Which proposals have a crop.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only. (The reference's 0 means CLIP only.)

    Returns:
        Scores, 0..1; they don't sum to one.

    Raises:
        ValueError: If the weight is outside 0..1, or ``clip_probs`` hasn't one row per valid proposal.

    References:
        OVSeg, section 3.1, equation 2.
    """
    if not 0 <= ensemble_weight <= 1:
        raise ValueError(
            f"ensemble: ensemble_weight is {ensemble_weight}, "
            "0 (proposal net only) to 1 (CLIP only) is expected; correct it"
        )
    if len(clip_probs) != int(valid.sum()):
        raise ValueError(
            f"ensemble: clip_probs has {len(clip_probs)} rows, {int(valid.sum())} (one per valid proposal) are "
            "expected; pass the rows of the valid proposals only"
        )
    if ensemble_weight == 0:
        return proposal_probs
    if ensemble_weight == 1:
        clip_only = torch.zeros_like(proposal_probs)
        clip_only[valid] = clip_probs
        return clip_only
    clip_factors = torch.ones_like(proposal_probs)
    clip_factors[valid] = clip_probs**ensemble_weight
    return proposal_probs ** (1 - ensemble_weight) * clip_factors


def unseen_ensemble_scores(
    proposal_probs: Float[Tensor, "query class"],
    clip_probs: Float[Tensor, "valid class"],
    valid: Bool[Tensor, "query"],
    ensemble_weight: float | int,
    seen: Bool[Tensor, "class"],
) -> Float[Tensor, "query class"]:
    """Combine the branches so that CLIP decides among unseen classes alone: ZegFormer's ensemble.

    Unseen classes get ``p^(1 - weight) * p_clip^weight``, as all do in `ensemble_scores`. Seen ones get
    ``p^weight * m^(1 - weight)`` with m the mean of p_clip over the seen classes: CLIP says how likely a seen class is,
    and the proposal net which. A proposal without a crop keeps p.

    Args:
        proposal_probs: As for `ensemble_scores`, like ``clip_probs``, ``valid`` and ``ensemble_weight``.
        seen: True for classes that the proposal net was taught.

    References:
        Ding et al., 2022 (ZegFormer), weight 2/3 in the published code, which takes no-object into CLIP's softmax, too,
        and subtracts 0.1 from the fused scores of seen classes; both are left out here.
    """
    scores = proposal_probs.clone()
    net, of_seen = proposal_probs[valid], clip_probs[:, seen].mean(dim=1, keepdim=True)
    unseen = net ** (1 - ensemble_weight) * clip_probs**ensemble_weight
    scores[valid] = torch.where(seen, net**ensemble_weight * of_seen ** (1 - ensemble_weight), unseen)
    return scores


@torch.no_grad()
def fused_labels(
    scores: Float[Tensor, "query class"],
    mask_logits: Float[Tensor, "query mask_height mask_width"],
    *,
    net_size: tuple[int, int],
    size: tuple[int, int],
) -> Int64[Tensor, "height width"]:
    """Give each pixel the class with the highest sum over the proposals of score times soft mask.

    Of classes whose sums are equal the first wins; where sums differ by no more than single precision's rounding,
    another order of summation may let another one win. The peak memory on a CPU is below 64 MiB for 100 proposals,
    847 classes, a net input of 640 x 960 px and a result not above it, the soft masks included; larger results take 20
    bytes per pixel more.

    Args:
        scores: As `ensemble_scores` gives them; not negative, which the bounds rely on.
        mask_logits: At stride 4 of the padded net input.
        net_size: Height and width of the net input without its padding [px].
        size: Height and width of the result [px]; the sums are resized to it bilinearly, then compared.

    Raises:
        ValueError: If there is no class, or the numbers of queries differ.

    References:
        OVSeg, section 3.1; MaskFormer's semantic inference.
    """
    _check_rows(scores, mask_logits)
    device, queries = mask_logits.device, len(mask_logits)
    down, across = (_tile_lines(net_px, out_px) for net_px, out_px in zip(net_size, size, strict=True))
    tiles_across, out_px = len(across.weights), down.weights.shape[2] * across.weights.shape[2]
    # Beyond the picture's edges the edge is repeated, as bilinear interpolation does.
    logit_lines = (
        np.arange(-1, len(lines.weights) * _TILE_LOGITS + 1).clip(0, length - 1)
        for lines, length in zip((down, across), mask_logits.shape[1:], strict=True)
    )
    # Weights by which a tile's window of logits becomes lines of pixels, bilinearly [win line].
    positions = (np.arange(_LINES) + 0.5) / MASK_STRIDE_PX + 0.5
    up = (1 - np.abs(np.arange(_WINDOW, dtype=np.float32)[:, None] - positions)).clip(0).astype(np.float32)
    tables = (*logit_lines, up, *down, *across)
    rows, columns, upsampling, *of_lines = sent_together(tables, device)
    down_weights, lines_down, places_down, across_weights, lines_across, places_across = of_lines
    windows, kept = _windows_and_classes(scores, mask_logits.float()[:, rows[:, None], columns])

    # Tiles with many classes come first, so that those of a step need little padding. A tile's candidates ascend, so
    # that the first of equal classes wins, and its last one fills the row: it wins nothing that it would not win once.
    unsorted_counts = kept.sum(dim=1)
    counts, order = unsorted_counts.sort(descending=True, stable=True)
    counts_of_tiles = counts.tolist()
    ends = unsorted_counts.cumsum(dim=0)[order]
    from_last = (counts[:, None] - torch.arange(1, counts_of_tiles[0] + 1, device=device)).clamp_(min=0)
    candidates = kept.nonzero()[:, 1][ends[:, None] - 1 - from_last]
    tile_rows, tile_columns = order // tiles_across, order % tiles_across
    class_scores = scores.T.float().contiguous()
    tile_labels = torch.empty(len(order), out_px, dtype=torch.int32, device=device)
    for start, end in _steps(counts_of_tiles, queries, out_px, device):
        classes = candidates[start:end, : counts_of_tiles[start]]
        # Soft masks with their columns first [tile query column line]: both products then have rows in one piece.
        logits = windows[tile_rows[start:end], tile_columns[start:end]] @ upsampling
        soft_masks = (logits.transpose(2, 3) @ upsampling).sigmoid_()
        sums = class_scores[classes] @ soft_masks.flatten(2)  # [tile class column*line]
        lines = sums.view(end - start, -1, _LINES) @ down_weights[tile_rows[start:end]]  # [tile class*column out]
        lines = lines.view(*classes.shape, _LINES, -1).transpose(2, 3).flatten(1, 2)  # [tile class*out column]
        resized = (lines @ across_weights[tile_columns[start:end]]).view(*classes.shape, out_px)
        tile_labels[start:end] = classes.gather(1, resized.argmax(dim=1))

    # Put the tiles side by side: each pixel takes its place in its tile, in place to spare memory.
    places = order.argsort().mul_(out_px).view(-1, tiles_across)[lines_down[:, None], lines_across]
    places.add_(places_down[:, None], alpha=across.weights.shape[2]).add_(places_across)
    return tile_labels.view(-1)[places].long()


@torch.no_grad()
def fused_scores(
    scores: Float[Tensor, "query class"],
    mask_logits: Float[Tensor, "query mask_height mask_width"],
    *,
    net_size: tuple[int, int],
    size: tuple[int, int],
) -> Float[Tensor, "class height width"]:
    """Give each pixel the sums that `fused_labels` compares; arguments and errors are the same.

    This is the plain form. The result may be large: 4 bytes per class and pixel.
    """
    _check_rows(scores, mask_logits)
    soft_masks = upsampled_mask_probs(mask_logits, net_size)
    if net_size == size:
        return torch.einsum("qc,qhw->chw", scores, soft_masks)
    fused = torch.empty(scores.shape[1], *size, device=mask_logits.device)
    for start in range(0, scores.shape[1], 64):  # what is resized is not all held beside the result
        sums = torch.einsum("qc,qhw->chw", scores[:, start : start + 64], soft_masks)
        fused[start : start + 64] = functional.interpolate(sums[None], size=size, mode="bilinear", align_corners=False)[
            0
        ]
    return fused


@torch.no_grad()
def fused_mask_labels(
    scores: Float[Tensor, "mask class"], masks: Bool[Tensor, "mask height width"], *, size: tuple[int, int]
) -> Int64[Tensor, "out_height out_width"]:
    """Give each pixel the class with the highest sum over hard masks of their scores, where there are no soft masks.

    A pixel in no mask that has a score takes the class of the nearest pixel that is in one: masks from elsewhere,
    unlike a proposal net's soft ones, need not cover a picture. Where no mask has a score, all pixels get the first
    class.

    Args:
        scores: Not negative.
        masks: On the scores' device; there may be none.
        size: Height and width of the result [px]; labels are resized to it by the nearest pixels.

    Raises:
        ValueError: If there is no class, or the numbers of masks differ.
    """
    _check_rows(scores, masks)
    pixels = masks.flatten(1)
    classes, best = [], []
    # As numbers that can be multiplied, masks take four times their memory: some pixels at a time.
    for some in pixels.split(_MASK_PIXELS_AT_ONCE, dim=1):
        top = (scores.T.float() @ some.float()).max(dim=0)  # [class pixel] to [pixel]; the first of equal ones wins
        classes.append(top.indices)
        best.append(top.values)
    labels = torch.cat(classes).view(masks.shape[1:])
    known = torch.cat(best).view(masks.shape[1:]) > 0
    if known.any() and not known.all():
        # of two pixels that are as near, scipy's first
        rows, columns = distance_transform_edt(~known.cpu().numpy(), return_distances=False, return_indices=True)
        nearest = sent_together((rows.astype(np.int64), columns.astype(np.int64)), labels.device)
        labels = labels[nearest[0], nearest[1]]
    resized = functional.interpolate(labels[None, None].double(), size=size, mode="nearest")[0, 0]
    return resized.long()


def _check_rows(scores: Tensor, mask_logits: Tensor) -> None:
    """Raise ValueError unless there is a class, and one row of scores per mask."""
    if scores.shape[1] == 0 or len(scores) != len(mask_logits):
        raise ValueError(
            f"fusion: scores are {tuple(scores.shape)} [query class] for {len(mask_logits)} masks, "
            "one row per mask and at least one class are expected; pass the scores of these masks"
        )


def _windows_and_classes(
    scores: Float[Tensor, "query class"], padded: Float[Tensor, "query padded_height padded_width"]
) -> tuple[Float[Tensor, "down across query win win"], Bool[Tensor, "tile class"]]:
    """Cut logits into the tiles' windows (a view), and say which classes may win a pixel of which tile."""
    windows = padded.unfold(1, _WINDOW, _TILE_LOGITS).unfold(2, _WINDOW, _TILE_LOGITS).permute(1, 2, 0, 3, 4)
    greatest = functional.max_pool2d(padded, _WINDOW, _TILE_LOGITS).sigmoid().flatten(1)
    least = functional.max_pool2d(-padded, _WINDOW, _TILE_LOGITS).neg_().sigmoid_().flatten(1)
    of_scores = scores.float()
    highest = greatest.T @ of_scores
    surely, leaders = (least.T @ of_scores).max(dim=1)  # the class that is surely highest somewhere, and how high
    # Comparisons that are false for NaN leave such classes in, as the plain form does.
    kept = ~(highest < surely[:, None] * (1 - _ROUNDING))
    if scores.device.type not in _TIGHTENED_ON:
        return windows, kept
    # Where scores are flat, these bounds leave many: masks that raise one class raise its rivals as well. What a class
    # has more than the leader of its tile is bounded better: each mask counts with its greatest value where the class
    # has the higher score, with its least where the leader has. Tiles with the same leader go together.
    crowded = (kept.sum(dim=1) > _FEW_CLASSES).nonzero()[:, 0]
    crowded = crowded[leaders[crowded].argsort(stable=True)]
    of_tiles, tile_counts = leaders[crowded].unique_consecutive(return_counts=True)
    for leader, tiles in zip(of_tiles.tolist(), crowded.split(tile_counts.tolist()), strict=False):
        more = of_scores - of_scores[:, leader, None]
        at_most = greatest[:, tiles].T @ more.clamp(min=0) - least[:, tiles].T @ more.neg().clamp_(min=0)
        # The margin is of the sums themselves: a difference of two of them is not known better.
        kept[tiles] &= ~(at_most < -_ROUNDING * highest[tiles, leader, None])
    return windows, kept


class _TileLines(NamedTuple):
    """How the lines of the result, or its columns, are made of tiles.

    Attributes:
        weights: Of bilinear interpolation [tile line out]; tiles with fewer lines of the result have zeros.
        tiles: Which tile each line of the result lies in.
        places: Which of the tile's lines it is.
    """

    weights: Float32[np.ndarray, "tile line out"]
    tiles: Int64[np.ndarray, "px"]
    places: Int64[np.ndarray, "px"]


def _tile_lines(net_px: int, out_px: int) -> _TileLines:
    """Share the lines of the result out among tiles by the first of the two lines that each is interpolated from."""
    # Rounded as torch rounds: the scale in single precision, the position by a fused multiply-add.
    scale = float(np.float32(net_px) / np.float32(out_px))
    positions = np.maximum(scale * (np.arange(out_px) + 0.5) - 0.5, 0).astype(np.float32)
    first = np.minimum(positions.astype(np.int64), net_px - 1)
    fractions = (positions - first).astype(np.float32)
    tiles, tile_count = first // _TILE_PX, -(-net_px // _TILE_PX)
    starts = np.searchsorted(tiles, np.arange(tile_count))
    places = np.arange(out_px) - starts[tiles]
    weights = np.zeros((tile_count, _LINES, int(places.max()) + 1), np.float32)
    weights[tiles, first % _TILE_PX, places] = 1 - fractions
    np.add.at(weights, (tiles, np.minimum(first + 1, net_px - 1) - tiles * _TILE_PX, places), fractions)
    return _TileLines(weights, tiles, places)


def _steps(classes_of_tiles: list[int], queries: int, out_px: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield ranges of tiles, sorted by falling numbers of classes, that fit into the memory to work in."""
    work_bytes = _CPU_WORK_BYTES if device.type == "cpu" else _GPU_WORK_BYTES
    start = 0
    while start < len(classes_of_tiles):
        per_query = _LINES * (_LINES + 2 * _WINDOW)  # soft mask, and its logits half way
        per_class = queries + _LINES * (_LINES + 2 * round(out_px**0.5)) + out_px  # scores, sums, half way, resized
        tile_bytes = 4 * (queries * per_query + classes_of_tiles[start] * per_class)
        end = min(len(classes_of_tiles), start + max(1, work_bytes // tile_bytes))
        yield start, end
        start = end
