"""A sheet that shows how well proposals fit: per scene its regions, and for each the proposal that fits best."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from ovseg_models.encoding import net_pixels, propose
from ovseg_models.image_input import nearest_resized
from ovseg_models.overlay import palette
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.segmentation_metrics import region_ious
from pipeline.train_proposals.validation import MASK_THRESHOLD
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection

REGIONS_SHOWN = 6
_CELL_PX, _GAP_PX, _LINE_PX, _FONT_PX = 150, 8, 17, 13
_PAPER, _INK, _UNSEEN_INK = (255, 255, 255), (30, 30, 30), (190, 40, 20)

_COLUMNS = 2 + REGIONS_SHOWN

Pixels = npt.NDArray[np.uint8]
_Ink = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


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
        scenes: Labelled scenes.
        numbers: Which of them to show; at least one.
        class_names: Of the label maps.
        held_out: Class indices whose names are written in red: the net has not learned them.
        ignore_label: Value of pixels without a class; they stay grey.
        short_side_px: At which the net sees them [px].
        max_side_px: Upper limit of the long side [px].
    """
    font = ImageFont.load_default(_FONT_PX)
    strips: list[Image.Image] = []
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
        cells = [(_painted(pixels, labels, colours, ignore_label), "labels", _INK)] if len(ids) else []
        for region, index in enumerate(ids.tolist()):
            query = int(fits[region].argmax())
            text = f"{class_names[index]} {float(fits[region, query]):.2f}"
            ink = _UNSEEN_INK if index in held_out else _INK
            cells.append((_dimmed(pixels, masks[query].numpy()), text, ink))
        strips.append(_strip([(pixels, scenes.place(number)[1], _INK), *cells], font))
    return _stacked(strips, font)


def _strip(cells: Sequence[tuple[Pixels, str, _Ink]], font: _Font) -> Image.Image:
    """Draw the cells of one scene side by side, each text right below its picture, however flat that is."""
    pictures = [_fitted(pixels) for pixels, _, _ in cells]
    height = max(picture.height for picture in pictures)
    strip = Image.new("RGB", (_COLUMNS * (_CELL_PX + _GAP_PX) + _GAP_PX, height + _LINE_PX + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(strip)
    for column, (picture, (_, text, ink)) in enumerate(zip(pictures, cells, strict=True)):
        left = _GAP_PX + column * (_CELL_PX + _GAP_PX)
        strip.paste(picture, (left, 0))
        draw.text((left, height + 1), _cut(text, draw, font), fill=ink, font=font)
    return strip


def _stacked(strips: Sequence[Image.Image], font: _Font) -> Image.Image:
    """Set the scenes below each other and a line on top that says what they show."""
    top = _GAP_PX + _LINE_PX
    sheet = Image.new("RGB", (strips[0].width, top + sum(strip.height for strip in strips)), _PAPER)
    told = "For each region the proposal that fits best, with its IoU; red: classes that the net has not learned"
    ImageDraw.Draw(sheet).text((_GAP_PX, _GAP_PX / 2), told, fill=_INK, font=font)
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _fitted(pixels: Pixels) -> Image.Image:
    """Bring a picture to the width or the height of a cell, its aspect kept."""
    picture = Image.fromarray(pixels)
    scale = _CELL_PX / max(picture.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return picture.resize((max(1, round(scale * picture.width)), max(1, round(scale * picture.height))), method)


def _painted(pixels: Pixels, labels: npt.NDArray[np.integer], colours: Pixels, ignore_label: int) -> Pixels:
    """Paint each class in its colour, over the picture's lightness."""
    labelled = labels != ignore_label
    lightness = pixels.mean(axis=2, keepdims=True)
    painted = 0.7 * colours[np.where(labelled, labels, 0)] + 0.3 * lightness
    shown: Pixels = np.where(labelled[:, :, None], painted, lightness).astype(np.uint8)
    return shown


def _dimmed(pixels: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Keep the picture inside a mask and let it fade outside."""
    faded = 0.2 * pixels.mean(axis=2, keepdims=True) + 0.8 * np.array([235, 235, 245])
    shown: Pixels = np.where(mask[:, :, None], pixels, faded).astype(np.uint8)
    return shown


def _cut(text: str, draw: ImageDraw.ImageDraw, font: _Font) -> str:
    """Shorten a text, at its middle, to the width of a cell; its end is a figure."""
    while draw.textlength(text, font=font) > _CELL_PX and len(text) > 8:
        middle = (len(text) - 5) // 2
        text = text[:middle].rstrip(".") + ".." + text[middle + 3 :]
    return text
