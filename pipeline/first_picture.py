"""What the nets that the project ships make of drawn scenes, before anything is trained: a demo's first picture."""

import numpy as np
import torch
from PIL import Image

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.clip_loading import load_clip
from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.evaluate.side_by_side import PICTURE_PX, named_map
from pipeline.picture_sheets import Cell, picture_sheet
from pipeline.settings import Settings
from pipeline.settings.sections import SHIPPED
from pipeline.train_proposals.training import initial_net
from pipeline.trained_nets import stock_mask_adapted_clip


def shows_shipped_nets(settings: Settings) -> bool:
    """Return whether settings start from the shipped nets and are evaluated on scenes of the drawn world first."""
    if not settings.evaluate.datasets or settings.proposal_net.initial_weights != SHIPPED:
        return False
    tested = settings.datasets[settings.evaluate.datasets[0].dataset]
    return tested.dataset == "drawn-world" and settings.clip.pretrained == SHIPPED


def shipped_segmenter(settings: Settings) -> Segmenter:
    """Put the net and the CLIP that settings start from into a segmenter, as they would be evaluated untrained.

    Args:
        settings: As `shows_shipped_nets` expects them.
    """
    base = load_clip(settings.clip)
    clip = stock_mask_adapted_clip(base)
    net = initial_net(
        settings.proposal_net, embedding_dim=clip.embedding_dim, text_width=base.clip.transformer.width
    ).eval()
    section = settings.evaluate
    as_evaluated = SegmenterSettings(
        ensemble_weight=section.datasets[0].ensemble_weight,
        mask_threshold=section.mask_threshold,
        short_side_px=section.short_side_px,
        max_side_px=section.max_side_px,
        prompt_templates=prompt_templates(section.prompt_templates),
    )
    return Segmenter(net, clip, tokenizer=base.words, settings=as_evaluated)


def first_picture(settings: Settings, *, images: int) -> Image.Image:
    """Segment the first scenes of the data set that is evaluated, and draw them beside their label maps.

    Args:
        settings: As `shows_shipped_nets` expects them.
        images: Scenes to draw.
    """
    segmenter = shipped_segmenter(settings)
    tested = settings.datasets[settings.evaluate.datasets[0].dataset]
    world = DrawnWorld(seed=tested.drawn_world.seed, size_px=tested.drawn_world.size_px)
    rows = []
    with torch.inference_mode():
        for index in split_indices(tested.split, images):
            scene = world.scene(index)
            predicted = segmenter.segment(scene.image, NOUNS).label_map.numpy().astype(np.uint16)
            maps = (named_map(scene.label_map, NOUNS), named_map(predicted, NOUNS))
            rows.append([Cell((Image.fromarray(scene.image),)), *(Cell((shown,)) for shown in maps)])
    return picture_sheet(
        rows,
        title="The shipped nets, before any training",
        heads=("image", "label map", "segmented"),
        picture_px=PICTURE_PX,
        smooth=False,
    )
