"""How many bytes artifacts take, from numbers of parameters and from bytes that were measured per row.

docs/reproduce.md says where the measured bytes are from. They tell what to expect to a factor of two or so: run lengths
of masks and crops of pairs grow with the pictures, and with how ragged the masks are.
"""

from dataclasses import dataclass

import torch

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.clip_loading import architecture_of
from pipeline.settings import Settings
from storage_schemas import embeddings, pairs, proposals, reports, scenes, scores
from storage_schemas.checkpoints import ADAPTED_CLIP, PROPOSAL_NET

WEIGHT_BYTES = 4
TRAINED_BYTES = 3 * WEIGHT_BYTES  # of a checkpoint: each weight and AdamW's two moments
SCENE_BYTES = 186_000
PROPOSAL_BYTES = 800  # beside the embedding: run lengths (710 bytes for COCO's own masks at 512 px), box, numbers
PAIR_BYTES = 110_000  # a crop as PNG, of a net input of 512 px, and its mask
PAIRS_PER_SCENE = 3.74  # of the paper, for one caption
SCORE_BYTES = 12_000
REPORT_BYTES = 5_000_000


@dataclass(frozen=True, slots=True)
class NetSizes:
    """What sizes of artifacts follow from.

    Attributes:
        proposal_net: Parameters of the proposal net.
        image_tower: Parameters of CLIP's image tower.
        embedding_dim: Length of CLIP's embeddings.
        mask_prompts: Parameters of the mask prompts.
    """

    proposal_net: int
    image_tower: int
    embedding_dim: int
    mask_prompts: int

    @classmethod
    def of(cls, settings: Settings) -> "NetSizes":
        """Build both nets without any number in them, and count.

        Raises:
            PipelineError: If an architecture's file cannot be read.
            ValueError: If an architecture is unknown.
        """
        with torch.device("meta"):
            model, _ = architecture_of(settings.clip.architecture)
            clip = build_mask_adapted_clip(model, None, prompt_depth=settings.finetune.prompt_depth)
            dim = int(clip.clip.visual.output_dim)
            arguments = settings.proposal_net.architecture.arguments() | {"pretrained": False, "embedding_dim": dim}
            net = build_proposal_net(**arguments)
        return cls(
            proposal_net=sum(each.numel() for each in net.parameters()),
            image_tower=sum(each.numel() for each in clip.clip.visual.parameters()),
            embedding_dim=dim,
            mask_prompts=0 if clip.mask_prompts is None else clip.mask_prompts.numel(),
        )


def expected_bytes(kind: str, settings: Settings, nets: NetSizes, scene_count: int) -> int:
    """Estimate what a whole artifact takes.

    Args:
        kind: Of the artifact.
        settings: Of the run.
        nets: Sizes of its nets.
        scene_count: Scenes that it is made of; of no weight for nets.
    """
    regions = scene_count * settings.proposal_net.architecture.queries
    captions = max(1, settings.mine.captions_per_image)
    kept_1 = settings.proposal_net.training.checkpoints.keep_last + 1
    kept_3 = settings.finetune.checkpoints.keep_last + 1
    tower = nets.image_tower * (WEIGHT_BYTES + kept_3 * TRAINED_BYTES)
    prompts = nets.mask_prompts * (WEIGHT_BYTES + kept_3 * TRAINED_BYTES)
    of_kind = {
        scenes.KIND: scene_count * SCENE_BYTES,
        PROPOSAL_NET: nets.proposal_net * (WEIGHT_BYTES + kept_1 * TRAINED_BYTES),
        proposals.KIND: regions * (PROPOSAL_BYTES + 4 * nets.embedding_dim),
        embeddings.KIND: regions * 2 * nets.embedding_dim,
        pairs.KIND: round(scene_count * PAIRS_PER_SCENE * captions) * PAIR_BYTES,
        ADAPTED_CLIP: tower + prompts,
        scores.KIND: scene_count * SCORE_BYTES,
        reports.KIND: REPORT_BYTES,
    }
    return of_kind[kind]


def shown_bytes(count: int) -> str:
    """Write a number of bytes with the unit that suits it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
