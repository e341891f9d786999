"""The nets of an evaluation: loaded once per worker, each on first use, and run one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from ovseg_models.encoding import MaskNamer, embed_regions, net_pixels, propose
from ovseg_models.fusion import fused_labels, fused_mask_labels
from ovseg_models.image_input import resized_size
from ovseg_models.mask_adapted_clip import PUBLISHED_TEMPERATURE, MaskAdaptedClip
from ovseg_models.memory import Memory, Similarities, embedding_space, picture_digest
from ovseg_models.oracle import ground_truth_masks
from ovseg_models.precision import autocast
from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from pipeline.clip_loading import LoadedClip, load_clip, namer_of
from pipeline.errors import PipelineError
from pipeline.evaluate.labelled_images import LabelledImage
from pipeline.evaluate.variants import GROUND_TRUTH, ORIGINAL, ClipView
from pipeline.settings import ClipSettings, Precision
from pipeline.text_embeddings import TextSource
from pipeline.text_side import TextPrompts, text_side_of
from pipeline.trained_nets import load_adapted_clip, load_proposal_net, stock_mask_adapted_clip
from pipeline.worker_device import WorkerCompute, crops_at_once
from storage_schemas.artifact import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class NetSources:
    """Where nets come from and how they are run; picklable.

    Attributes:
        proposal_net: Finished; None where no variant needs it.
        imported: Masks of others in its place, finished; None where it finds them.
        adapted: Adapted CLIPs by the names that views have for them, finished.
        short_side_px: Short side of the proposal net's input [px].
        max_side_px: Upper limit of its long side [px].
        batch_crops: Crops that CLIP takes at a time; None for what the device is fastest with.
        clip_names_alone: The proposal net was trained with another CLIP, and cannot name what it finds.
        temperature: Of all CLIPs, in place of their own.
        memory: Remembered masks that name regions beside the texts; None for none.
    """

    proposal_net: Artifact | None
    imported: Artifact | None = None
    clip: ClipSettings
    adapted: Mapping[str, Artifact] = field(default_factory=dict)
    class_names: tuple[str, ...]
    texts: TextSource
    short_side_px: int
    max_side_px: int
    precision: Precision = "fp32"
    batch_crops: int | None = None
    compute: WorkerCompute
    clip_names_alone: bool = False
    temperature: Literal["auto", "published", "model"] = "auto"
    memory: Memory | None = None

    def open(self) -> "Nets":
        """Set up this process; each net is loaded when it is first used."""
        return Nets(self, self.compute.begin())


@dataclass(frozen=True)
class ProposalBranch:
    """Outputs of the proposal net for an image.

    Attributes:
        mask_logits: At stride 4 of the padded net input [query height width].
        proposal_logits: 100 times the cosine with each class and with no-object, the last column [query column]; zeros
            where the net cannot name.
    """

    mask_logits: Tensor
    proposal_logits: Tensor

    def hard_masks(self, net_size: tuple[int, int], threshold: float) -> Bool[Tensor, "query height width"]:
        """Return the hard masks at net size."""
        return hard_masks(self.mask_logits, net_size, threshold)

    def fused_labels(
        self, scores: Float[Tensor, "query class"], *, net_size: tuple[int, int], size: tuple[int, int]
    ) -> Int64[Tensor, "height width"]:
        """Give each pixel of the picture a class; see `ovseg_models.fusion.fused_labels`."""
        return fused_labels(scores, self.mask_logits, net_size=net_size, size=size)


@dataclass(frozen=True)
class ImportedBranch:
    """Masks of others in the proposal net's place.

    Attributes:
        masks: At net size [query height width].
        proposal_logits: Zeros [query column]: nothing but CLIP names them.
    """

    masks: Tensor
    proposal_logits: Tensor

    def hard_masks(self, net_size: tuple[int, int], threshold: float) -> Bool[Tensor, "query height width"]:
        """Return the masks; no threshold has a say."""
        del net_size, threshold
        return self.masks

    def fused_labels(
        self, scores: Float[Tensor, "query class"], *, net_size: tuple[int, int], size: tuple[int, int]
    ) -> Int64[Tensor, "height width"]:
        """Give each pixel of the picture a class; see `ovseg_models.fusion.fused_mask_labels`."""
        del net_size
        return fused_mask_labels(scores, self.masks, size=size)


@dataclass(frozen=True)
class ClipBranch:
    """Outputs of CLIP for an image's regions.

    Attributes:
        regions: Queries with a pixel above the mask threshold, or classes of the label map; ascending [region].
        clip_logits: Of `MaskAdaptedClip.class_logits` [region class].
        similarities: With what is remembered; None where nothing is.
    """

    regions: Tensor
    clip_logits: Tensor
    similarities: Similarities | None = None


class Nets:
    """The nets of an evaluation; what is not used is never loaded."""

    def __init__(self, sources: NetSources, device: torch.device) -> None:
        self.sources = sources
        self.device = device
        self._clips: dict[str, MaskAdaptedClip] = {}
        self._namers: dict[tuple[str | int, ...], MaskNamer] = {}
        self._class_vectors: dict[str, Tensor] = {}
        self._spaces: dict[ClipView, str] = {}
        self._texts = sources.texts.open(device)

    @cached_property
    def proposal_net(self) -> ProposalNet:
        """The proposal net.

        Raises:
            ValueError: If these nets were planned without one.
        """
        if self.sources.proposal_net is None:
            raise ValueError("nets: the proposal net is used, but was not planned; name it among the sources")
        return load_proposal_net(self.sources.proposal_net, self.device)

    @cached_property
    def base(self) -> LoadedClip:
        """The original CLIP, on the CPU."""
        return load_clip(self.sources.clip)

    @cached_property
    def text_embeddings(self) -> Float[Tensor, "class dim"]:
        """The vocabulary in CLIP's space; no stage trains the text tower, so all CLIPs share it."""
        return self.embedded_names(self.sources.class_names)

    def embedded_names(self, names: Sequence[str]) -> Float[Tensor, "name dim"]:
        """Embed names by the evaluation's templates."""
        return torch.from_numpy(self._texts.vectors(names)).to(self.device)

    def clip(self, name: str) -> MaskAdaptedClip:
        """Return the CLIP that views call by this name."""
        if name not in self._clips:
            stock = name == ORIGINAL
            loaded = (
                stock_mask_adapted_clip(self.base)
                if stock
                else load_adapted_clip(self.sources.adapted[name], self.base)
            )
            if self.sources.temperature != "auto":
                loaded.set_temperature(self.sources.temperature)
            self._clips[name] = loaded.to(self.device).eval()
        return self._clips[name]

    def namer(self, view: ClipView) -> MaskNamer:
        """Return what embeds masks in a view.

        Raises:
            PipelineError: If CLIP cannot name them in one pass.
        """
        key = (view.clip, view.namer, view.picture_side_px, view.window_stride_px)
        if key not in self._namers:
            self._namers[key] = namer_of(self.clip(view.clip), view, where="evaluate")
        return self._namers[key]

    def class_vectors(self, name: str) -> Float[Tensor, "class dim"]:
        """Return what the embeddings of a CLIP's crops are compared with, for the vocabulary; see `vectors_of`.

        Raises:
            PipelineError: If weights were trained for other sentences.
        """
        if name not in self._class_vectors:
            self._class_vectors[name] = self.vectors_of(name, self.sources.class_names)
        return self._class_vectors[name]

    def vectors_of(self, name: str, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Return what a CLIP's crops are compared with: embedded texts, or what stage 3 trained of them.

        Raises:
            PipelineError: If weights were trained for other sentences.
        """
        text_side = None if name == ORIGINAL else text_side_of(self.sources.adapted[name])
        if isinstance(text_side, TextPrompts):
            return text_side.class_vectors(self.base, texts, self.device)
        if text_side is None or text_side.temperature is not None:  # one sentence's weight is the CLIP's temperature
            return self.embedded_names(texts)
        clip, templates = self.clip(name), prompt_templates(self.sources.texts.templates)
        own_scale = clip.is_sigmoid or clip.temperature == "model"
        factor = text_side.scale if own_scale else PUBLISHED_TEMPERATURE
        return text_side.class_vectors(self.base, texts, templates, self.device) * (text_side.scale / factor)

    def net_size(self, image: Image.Image) -> tuple[int, int]:
        """Return the height and width at which the nets see an image [px]."""
        sides = {"short_side_px": self.sources.short_side_px, "max_side_px": self.sources.max_side_px}
        return resized_size(image.height, image.width, **sides)

    def resized(self, image: Image.Image) -> UInt8[Tensor, "3 height width"]:
        """Resize an image to net size."""
        return net_pixels(image, short_side_px=self.sources.short_side_px, max_side_px=self.sources.max_side_px)

    @torch.no_grad()
    def proposals(self, image: Image.Image) -> ProposalBranch:
        """Run the proposal net on an image."""
        # Only the net runs in autocast: logits are 100 times a cosine, of which half precision keeps too few digits.
        with autocast(self.device, self.sources.precision):
            (found,) = propose(self.proposal_net, [self.resized(image)])
        if self.sources.clip_names_alone:
            logits = self.text_embeddings.new_zeros(len(found.mask_logits), len(self.text_embeddings) + 1)
        else:
            logits = self.proposal_net.class_logits(found.proposal_embeddings, self.text_embeddings)
        return ProposalBranch(found.mask_logits, logits)

    @torch.no_grad()
    def regions(
        self,
        scene: LabelledImage,
        view: ClipView,
        proposals: ProposalBranch | ImportedBranch | None,
        ignore_label: int,
    ) -> ClipBranch:
        """Run CLIP on an image's regions.

        Args:
            scene: Image and label map.
            view: Which regions CLIP sees, and how.
            proposals: Of the image; None where regions are those of the label map.
            ignore_label: Value of pixels without a class.

        Raises:
            ValueError: If the regions are proposals and there are none.
        """
        pixels = self.resized(scene.image)
        size = (pixels.shape[1], pixels.shape[2])
        if view.regions == GROUND_TRUTH:
            # [class] and [class height width]: one mask per class that the label map holds
            classes, masks = ground_truth_masks(scene.labels, size, ignore_label)
            names, masks = torch.from_numpy(classes), masks.to(self.device)
        elif proposals is None:
            raise ValueError(f"scene {scene.key}: regions are proposals, None is given; pass the proposal net's")
        else:
            # masks [query height width] at net size, where crops are cut
            masks = proposals.hard_masks(size, view.mask_threshold).to(self.device)
            names = torch.arange(len(masks))
        memory = self._checked_memory(view, scene)
        with autocast(self.device, self.sources.precision):
            embeddings, valid = embed_regions(
                self.namer(view),
                pixels,
                masks,
                fill="mean" if view.masked else "unmasked",
                use_mask_prompts=view.mask_prompts,
                at_once=self.crops_at_once,
            )
        # ``valid`` [region]: regions without a pixel have no crop, and no row in ``embeddings``
        logits = self.clip(view.clip).class_logits(embeddings, self.class_vectors(view.clip))
        near = None if memory is None else memory.similarities(embeddings, self.sources.class_names)
        return ClipBranch(names[valid], logits, near)

    def _checked_memory(self, view: ClipView, scene: LabelledImage) -> Memory | None:
        """Return what is remembered, if it is of this CLIP and of other pictures.

        Raises:
            PipelineError: If it is not.
        """
        memory = self.sources.memory
        if memory is None:
            return None
        try:
            memory.require_space(self._space(view), "evaluate.memory")
        except ValueError as error:
            raise PipelineError(str(error)) from error
        if picture_digest(scene.image) in memory.pictures:
            raise PipelineError(
                f"evaluate.memory: holds a mask of the picture of scene {scene.key!r}, which is evaluated; pictures of "
                "others are expected, or the result says nothing: remove it by 'ovseg memory remove'"
            )
        return memory

    def _space(self, view: ClipView) -> str:
        """Return what decides the embeddings of a view; hashing the weights takes a second for large ones."""
        if view not in self._spaces:
            one_pass = None if view.namer == "crops" else (view.namer, view.picture_side_px, view.window_stride_px)
            prompts = view.mask_prompts
            self._spaces[view] = embedding_space(self.clip(view.clip), use_mask_prompts=prompts, one_pass=one_pass)
        return self._spaces[view]

    @property
    def crops_at_once(self) -> int:
        """How many crops CLIP takes at a time."""
        return crops_at_once(self.sources.batch_crops, self.device)
