"""A sheet that shows how well proposals fit: per scene its regions, and for each the proposal that fits best."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ovseg_models.encoding import net_pixels, propose
from ovseg_models.image_input import nearest_resized
from ovseg_models.overlay import palette
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.segmentation_metrics import region_ious
from pipeline.picture_sheets import INK, RED, Cell, painted, picture_sheet
from pipeline.train_proposals.validation import MASK_THRESHOLD
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection

REGIONS_SHOWN = 6
PICTURE_PX = 150


@torch.no_grad()
def proposal_sheet(
    net: ProposalNet,
    scenes: SceneCollection,
    numbers: Sequence[int],
    *,
    class_names: Sequence[str],
    held_out: Sequence[int],
    ignore_label: int,
    short_side_px: int,
    max_side_px: int,
) -> Image.Image:
    """Draw one row per scene: the picture, its label map, and its largest regions with the proposals that fit best.

    Args:
        net: In evaluation mode.
        numbers: Which of them to show; at least one.
        class_names: Of the label maps.
        held_out: Class indices whose names are written in red: the net has not learned them.
        ignore_label: Value of pixels without a class; they stay grey.
        short_side_px: At which the net sees them [px].
        max_side_px: Upper limit of the long side [px].
    """
    rows: list[list[Cell]] = []
    colours = palette(len(class_names))
    for number in numbers:
        image, label_map = read_labelled(scenes, number)[:2]
        picture = net_pixels(image, short_side_px=short_side_px, max_side_px=max_side_px)
        (found,) = propose(net, [picture])
        pixels = picture.permute(1, 2, 0).numpy()
        labels = nearest_resized(label_map, *found.net_size)
        masks = hard_masks(found.mask_logits, found.net_size, MASK_THRESHOLD).cpu()
        ids, counts = np.unique(labels[labels != ignore_label], return_counts=True)
        ids = ids[np.argsort(-counts, kind="stable")][:REGIONS_SHOWN]
        fits = region_ious(torch.from_numpy(labels == ids[:, None, None]), masks)
        row = [Cell((pixels,), scenes.place(number)[1])]
        row += [Cell((painted(labels, colours, over=pixels),))] if len(ids) else []
        for region, index in enumerate(ids.tolist()):
            query = int(fits[region].argmax())
            # the picture inside the proposal, and faded outside
            faded = 0.2 * pixels.mean(axis=2, keepdims=True) + 0.8 * np.array([235, 235, 245])
            shown = np.where(masks[query].numpy()[:, :, None], pixels, faded).astype(np.uint8)
            ink = RED if index in held_out else INK
            row.append(Cell((shown,), f"{class_names[index]} {float(fits[region, query]):.2f}", ink=ink))
        rows.append(row)
    return picture_sheet(
        rows,
        title="For each region the proposal that fits best, with its IoU; red: classes that the net has not learned",
        heads=("picture", "labels", *(f"region {place}" for place in range(1, REGIONS_SHOWN + 1))),
        picture_px=PICTURE_PX,
    )
