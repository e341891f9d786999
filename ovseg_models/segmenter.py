"""The segmenter: an image and class names in, a class for each pixel out.

Composed of the proposal net, mask-adapted CLIP and its text classifier. What doesn't depend on the class names is done
once per image by `Segmenter.encode`; naming other classes afterwards takes a small part of that time.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from ovseg_models import hub
from ovseg_models.class_names import OTHERS, ClassNames, Vocabulary, checked_class_names
from ovseg_models.devices import chosen_device
from ovseg_models.encoding import (
    EncodedImage,
    MaskNamer,
    Proposals,
    Regions,
    SeenPicture,
    cut_regions,
    embed_regions,
    net_pixels,
    propose,
)
from ovseg_models.fusion import ClassScores, best_of_words, classify, fused_labels, fused_scores
from ovseg_models.host_to_device import sent
from ovseg_models.image_input import ImageInput, rgb_image
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.memory import (
    SURROUNDINGS_MAX,
    Memory,
    RememberedMask,
    embedding_space,
    picture_digest,
    remembered_scores,
)
from ovseg_models.neighbours import Neighbour, Neighbours
from ovseg_models.one_pass import OnePass
from ovseg_models.open_clip_folder import write_open_clip_folder
from ovseg_models.precision import autocast, half_precision, keep_half
from ovseg_models.proposal_masks import hard_masks
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.query_mode import UNLABELLED, find_regions, with_others
from ovseg_models.segmentation import Branches, Segmentation
from ovseg_models.segmenter_folder import (
    FORMAT,
    JSON_NAME,
    SegmenterParts,
    have_same_dimension,
    read_segmenter_folder,
    write_segmenter_folder,
)
from ovseg_models.segmenter_settings import SegmenterSettings
from ovseg_models.text_cache import user_cache
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.word_tokenizer import WordTokenizer, split_words

logger = logging.getLogger(__name__)

Picture: TypeAlias = ImageInput | EncodedImage
"""An image as callers have it, or one that both nets have seen."""
SeveralPictures: TypeAlias = list[Any] | tuple[Any, ...]
"""Of any of these."""
_PICTURES_AT_ONCE = 8  # of equal size through the proposal net


class _Named(NamedTuple):
    """Class scores of the proposals, and the text embeddings of the classes' words."""

    text_embeddings: Float[Tensor, "word dim"]
    classes: ClassScores


class Segmenter(ModelHubMixin):
    """Segments images into classes that are named when it is called.

    ``segmenter(image, class_names)`` is `segment`. `from_pretrained`, `save_pretrained` and `push_to_hub` are those of
    huggingface_hub, with JSON and safetensors alone.

    Attributes:
        proposal_net: In evaluation mode.
        clip: In evaluation mode.
        namer: CLIP itself, which names crops, or its one pass, as the settings say.
        tokenizer: The text tower's own word list, or None for the tokenizer that belongs to CLIP.
        settings: See `SegmenterSettings`.
        same_space: Whether the proposal net's embeddings can be compared with CLIP's texts. If not, it finds masks and
            CLIP alone names them.
        published_layout: Of the published checkpoint that the weights were imported from; empty for others.

    References:
        OVSeg, section 3; steps and their order are those of the published code.
    """

    def __init__(
        self,
        proposal_net: ProposalNet,
        clip: MaskAdaptedClip,
        *,
        tokenizer: WordTokenizer | None = None,
        settings: SegmenterSettings | None = None,
        same_space: bool = True,
    ) -> None:
        """Put the parts together; both nets are switched to evaluation mode.

        Args:
            proposal_net: Finds masks, and names them too if it was trained with this CLIP.
            clip: With or without mask prompts.
            tokenizer: For a text tower of few words; None for the tokenizer that belongs to CLIP.
            settings: None for the defaults. The ensemble weight becomes 1 if CLIP alone can name.
            same_space: Whether the net was trained with this CLIP's texts. Never true of embeddings of other lengths.

        Raises:
            ValueError: If masks are to be named in one pass, and CLIP or its size don't go with that.
        """
        settings = settings or SegmenterSettings()
        self.same_space = same_space and have_same_dimension(proposal_net, clip)
        if not self.same_space and settings.ensemble_weight != 1:
            logger.warning(
                "the proposal net was trained with another CLIP than the one that names: it finds the masks, and CLIP "
                "alone names them (ensemble_weight 1 in place of %s)",
                settings.ensemble_weight,
            )
            settings = replace(settings, ensemble_weight=1.0)
        self.proposal_net = proposal_net.eval()
        self.clip = clip.eval()
        self.namer: MaskNamer = clip
        if settings.namer != "crops":
            sizes = {"side_px": settings.picture_side_px, "stride_px": settings.window_stride_px}
            self.namer = OnePass(clip, **sizes, pooled=settings.namer == "pooled")
        self.tokenizer = tokenizer
        self.settings = settings
        self.published_layout = ""
        self._hub_mixin_config = {"format": FORMAT, "library_name": hub.LIBRARY}  # its config.json; ours says the rest
        self._is_half = False
        self._warnings: set[str] = set()
        self._memory: Memory | None = None
        self._own_space: str | None = None
        self._classifier = TextClassifier(clip.clip, tokenizer or clip.tokenize, cache=user_cache())

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "auto", **settings: Any) -> "Segmenter":
        """Load a segmenter from its folder, without any network.

        Args:
            folder: As `save` or ``ovseg import-checkpoint`` wrote it.
            device: Where it computes: ``"auto"`` is CUDA where there is one, else the CPU; or a device of torch.
            **settings: Of `SegmenterSettings`; they override those in the folder.

        Raises:
            FileNotFoundError: If the folder or one of its files isn't there.
            ValueError: If what is in the folder, or a setting, doesn't fit, or there is no such device.
        """
        try:
            where = chosen_device(device)
        except ValueError as error:
            raise ValueError(f"device: {error}") from error
        parts = read_segmenter_folder(Path(folder), settings)
        if parts.proposal_net is None or parts.clip is None:
            present, absent = ("clip", "proposal net") if parts.proposal_net is None else ("proposal net", "CLIP")
            raise ValueError(
                f"{folder}: holds a {present} and no {absent}, both are expected; "
                "import the other part with 'ovseg import-checkpoint FILE --base FOLDER --out NEW_FOLDER'"
            )
        segmenter = cls(
            parts.proposal_net,
            parts.clip,
            tokenizer=parts.tokenizer,
            settings=parts.settings,
            same_space=parts.same_space,
        )
        segmenter.memory = parts.memory
        segmenter.published_layout = "" if parts.published is None else parts.published.layout
        return segmenter.to(where)

    @classmethod
    def from_pretrained(  # the mixin's names, and what `load` takes
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: str | torch.device = "auto",
        **settings: Any,
    ) -> "Segmenter":
        """Load a segmenter from its folder, or from the Hugging Face Hub.

        Fetched are JSON, safetensors and a tokenizer's text files alone; no code is run. Every tensor must be there and
        have its place. What was fetched before is taken from the Hub's cache where there is no network.

        Args:
            pretrained_model_name_or_path: A folder as `save` wrote it, or ORG/NAME on the Hub.
            force_download: Fetch files that are in the cache, too.
            token: Of the Hub; None for that of ``hf auth login``.
            cache_dir: None for the Hub's.
            local_files_only: Ask no network.
            revision: Branch, tag or commit; None for the latest.
            device: As for `load`, like ``settings``.

        Raises:
            FileNotFoundError: If it is neither a folder nor a name of the Hub, or no segmenter lies there.
            ConnectionError: If the files can neither be fetched nor are in the cache.
            ValueError: As `load`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = hub.downloaded_folder(
                str(pretrained_model_name_or_path),
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                revision=revision,
            )
        return cls.load(folder, device=device, **settings)

    def save(self, folder: str | Path) -> None:
        """Write all that `load` needs into a new folder: one JSON and safetensors; it appears when it is complete.

        Raises:
            FileExistsError: If there is something in the folder already.
            ValueError: If a net was built by hand, so that it isn't known how to build it again, or after `half`.
        """
        self._require_single("save")
        write_segmenter_folder(Path(folder), self._parts())

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        license: str | None = None,  # noqa: A002
        **options: Any,
    ) -> str | None:
        """Write a folder for `from_pretrained`: the files of `save`, a config.json for the Hub, and a model card.

        Args:
            save_directory: May hold a README.md, which stays, and hidden files, such as those of Git.
            license: Of the weights, as the Hub abbreviates it, such as "apache-2.0"; for the card.
            **options: Of huggingface_hub's ``ModelHubMixin.save_pretrained``.

        Raises:
            FileExistsError: If there is anything else in the folder.
            ValueError: As `save`.
        """
        self._require_single("save_pretrained")
        folder = Path(save_directory)
        if taken := sorted(file.name for file in folder.glob("[!.]*") if file.name != "README.md"):
            raise FileExistsError(f"{folder}: holds {taken[0]} already; choose another name or delete it")
        options["model_card_kwargs"] = _card_options(license, options.get("model_card_kwargs"), folder.name)
        found: str | None = super().save_pretrained(folder, **options)
        return found

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the mixin's files; called by `save_pretrained`."""
        temporary = save_directory / ".tmp-segmenter"
        self.save(temporary)
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == JSON_NAME):  # the description last
            file.rename(save_directory / file.name)
        temporary.rmdir()

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Any) -> str:  # noqa: A002
        """Upload the files of `save_pretrained` to the Hugging Face Hub, in one commit.

        Args:
            repo_id: ORG/NAME; is made if need be, publicly unless ``private=True`` or the organisation says otherwise.
            license: Of the weights, as the Hub abbreviates it, such as "apache-2.0".
            **options: Of huggingface_hub's ``ModelHubMixin.push_to_hub``: private, token, branch, create_pr, ...

        Returns:
            The address of the commit.

        Raises:
            ValueError: As `save`.
        """
        self._require_single("push_to_hub")
        options["model_card_kwargs"] = _card_options(license, options.get("model_card_kwargs"), repo_id)
        url: str = super().push_to_hub(repo_id, **options)
        return url

    def generate_model_card(self, *args: Any, **options: Any) -> ModelCard:
        """Describe the segmenter; see `hub.model_card`. The mixin asks for it where it writes a README.md."""
        del args
        return hub.model_card(self._parts(), published_layout=self.published_layout, **options)

    def _parts(self) -> SegmenterParts:
        """Return what a folder holds."""
        return SegmenterParts(
            *(self.proposal_net, self.clip, self.tokenizer, self.settings),
            same_space=self.same_space,
            memory=self._memory,
        )

    def save_open_clip(self, folder: str | Path) -> None:
        """Write the adapted CLIP for ``open_clip.create_model_and_transforms("local-dir:FOLDER")``.

        What open_clip has no place for, such as mask prompts, is left out, and logged.

        Raises:
            FileExistsError: If there is something in the folder already.
            ValueError: If CLIP was built by hand, so that its configuration isn't known.
        """
        for sentence in write_open_clip_folder(Path(folder), self.clip, self.tokenizer):
            logger.warning("%s: %s", folder, sentence)

    def to(self, device: str | torch.device) -> "Segmenter":
        """Move both nets to a device and return the segmenter.

        Raises:
            ValueError: After `half`, if the device is no CUDA device.
        """
        if torch.device(device).type != "cuda":
            self._require_single("to")
        self.proposal_net.to(device)
        self.clip.to(device)
        return self

    def half(self, precision: Literal["fp16", "bf16"] = "fp16") -> "Segmenter":
        """Compute in half precision, and keep the weights of both image nets in it: half the memory, on CUDA alone.

        Results are those of the setting ``precision``, which keeps weights in single precision; the text tower stays in
        it. There is no way back, as bits are lost: load the segmenter again.

        Raises:
            ValueError: On a CPU, which always computes in single precision, or if the precision is another one.
        """
        dtype = half_precision(self.device, precision)
        if dtype is None:
            raise ValueError(
                f"half: found precision {precision!r} on {self.device}, 'fp16' or 'bf16' on CUDA is expected; a CPU "
                "computes in single precision: call segmenter.to('cuda') before"
            )
        _ = self.space  # of memories and indices; it is that of the weights before, as with the setting
        keep_half(self.proposal_net, dtype)
        keep_half(self.clip.clip.visual, dtype)
        self.settings = replace(self.settings, precision=precision)
        self._is_half = True
        return self

    def compile(self, **options: Any) -> "Segmenter":
        """Let torch.compile make faster code of both image nets; the first pictures take minutes, for that.

        Compiled are the proposal net as a whole and each layer of CLIP's image tower, which is one code for all of
        them; a tower without patch tokens as a whole. Another size of pictures, or another number of crops, makes torch
        compile once more, then for any size. The text tower, which runs once per name, stays as it is.

        Args:
            **options: Of ``torch.compile``, such as ``mode`` or ``backend``.
        """
        self.proposal_net.compile(**options)
        tower = self.clip.tower
        for part in [self.clip.clip.visual] if tower is None else tower.layers:
            part.compile(**options)
        return self

    def _require_single(self, caller: str) -> None:
        """Refuse what weights in half precision are no good for."""
        if self._is_half:
            raise ValueError(f"{caller}: half() has rounded the weights; load the segmenter again for this")

    @property
    def device(self) -> torch.device:
        """Where the segmenter computes."""
        return self.proposal_net.no_object_embedding.device

    @overload
    def segment(self, image: Picture, class_names: ClassNames, *, return_scores: bool = False) -> Segmentation: ...
    @overload
    def segment(
        self, image: SeveralPictures, class_names: ClassNames, *, return_scores: bool = False
    ) -> list[Segmentation]: ...
    def segment(
        self, image: Picture | SeveralPictures, class_names: ClassNames, *, return_scores: bool = False
    ) -> Segmentation | list[Segmentation]:
        """Give each pixel of an image one of the classes.

        Args:
            image: A file, its bytes or an open one, a Pillow image, an array or a tensor (see `ImageInput`; EXIF
                orientation is applied to files and Pillow images), or what `encode` returned. Of a list or tuple of
                these a list comes back, and images of equal padded size go through the proposal net together; each
                result is that of the image alone.
            class_names: In index order, at least one; what isn't named cannot be found. Names, of which "sofa|couch"
                is one class of two words, or a `Vocabulary`.
            return_scores: Return the fused scores too; 4 bytes per class and pixel.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the image cannot be read, or there is no class name, a blank one, one of them twice, or one
                that is not valid UTF-8.
            TypeError: If ``class_names`` is one string or holds what is none, or the image is of another type.
        """
        names = Vocabulary.of(class_names)  # before the nets run
        results = [self.classify(one, names, return_scores=return_scores) for one in self._all_encoded(image)]
        return results if isinstance(image, list | tuple) else results[0]

    __call__ = segment

    @overload
    def find(self, image: Picture, class_names: ClassNames, *, min_score: float | int = 0.0) -> Segmentation: ...
    @overload
    def find(
        self, image: SeveralPictures, class_names: ClassNames, *, min_score: float | int = 0.0
    ) -> list[Segmentation]: ...
    @torch.no_grad()
    def find(
        self, image: Picture | SeveralPictures, class_names: ClassNames, *, min_score: float | int = 0.0
    ) -> Segmentation | list[Segmentation]:
        """Find the named things and leave the rest unlabelled (OVSeg, figure 5); see `query_mode`.

        Args:
            image: As for `segment`, one or a list.
            class_names: What to find, at least one. A single name is compared with "others".
            min_score: A class whose best proposal scores less is not found.

        Raises:
            FileNotFoundError: As `segment`.
            ValueError: As `segment`.
            TypeError: As `segment`.
        """
        names = with_others(Vocabulary.of(class_names))
        results = []
        for encoded in self._all_encoded(image):
            named = self._named(encoded, names)
            scores = named.classes.scores
            masks, lowest = encoded.hard_masks(), float(min_score)
            found = find_regions(scores, masks, names.class_names, encoded.size, min_score=lowest)
            results.append(_segmentation(encoded, names, named, found.label_map, found_queries=found.queries.cpu()))
        return results if isinstance(image, list | tuple) else results[0]

    @overload
    def encode(self, image: ImageInput) -> EncodedImage: ...
    @overload
    def encode(self, image: SeveralPictures) -> list[EncodedImage]: ...
    def encode(self, image: ImageInput | SeveralPictures) -> EncodedImage | list[EncodedImage]:
        """Run both nets on an image or a list of them; `segment` and `find` take the result, with any class names."""
        encoded = self._all_encoded(image)
        return encoded if isinstance(image, list | tuple) else encoded[0]

    @torch.no_grad()
    def classify(self, encoded: EncodedImage, class_names: ClassNames, *, return_scores: bool = False) -> Segmentation:
        """Do what is left of `segment` for an encoded image; arguments and errors are the same."""
        names = Vocabulary.of(class_names)
        if self.settings.ensemble_weight == 1 and not encoded.valid.any():
            logger.warning(
                "no mask has a pixel above mask_threshold %s and ensemble_weight is 1, so that CLIP sees nothing and "
                "every pixel gets the first class; lower one of them",
                encoded.mask_threshold,
            )
        named = self._named(encoded, names)
        sizes = {"net_size": encoded.net_size, "size": encoded.size}
        if return_scores:  # else no array of classes by pixels is made, which takes gigabytes for many classes
            scores = fused_scores(named.classes.scores, encoded.mask_logits, **sizes).cpu()
            return _segmentation(encoded, names, named, scores.argmax(dim=0), scores=scores)
        labels = fused_labels(named.classes.scores, encoded.mask_logits, **sizes)
        return _segmentation(encoded, names, named, labels)

    @torch.no_grad()
    def branches(self, image: ImageInput, class_names: Sequence[str]) -> Branches:
        """Return what both branches say of an image's proposals, before it is fused."""
        clip, settings = self.clip, self.settings
        pixels = self._net_pixels(rgb_image(image))
        with autocast(self.device, settings.precision):
            (proposals,) = propose(self.proposal_net, [pixels])
        masks = hard_masks(proposals.mask_logits, proposals.net_size, settings.mask_threshold)
        cut = cut_regions(pixels, masks, clip.crop)
        seen = SeenPicture(self.namer, pixels) if isinstance(self.namer, OnePass) else None
        regions, text_embeddings = self._embedded(pixels, seen, masks), self.text_embeddings(class_names)
        # Equal masks share a crop, and a mask without a pixel has none (-1): one crop again for each valid proposal.
        rows = sent(torch.from_numpy(cut.crop_of_mask[cut.crop_of_mask >= 0]), self.device)
        proposal_logits = self._proposal_logits(proposals, text_embeddings)
        if proposal_logits is None:  # all classes and no object are as likely
            proposal_logits = text_embeddings.new_zeros(len(proposals.mask_logits), len(text_embeddings) + 1)
        return Branches(
            proposal_logits=proposal_logits,
            mask_logits=proposals.mask_logits,
            valid=regions.valid,
            crops=cut.crops[rows],
            patch_mask=cut.patch_mask[rows],
            clip_logits=clip.class_logits(regions.embeddings, text_embeddings),
        )

    @torch.no_grad()
    def scores(self, image: Picture, class_names: ClassNames) -> Float[Tensor, "class height width"]:
        """Return the fused scores of each class and pixel, at the image's own size, on the CPU."""
        encoded = self._encoded(image)
        scores = self._named(encoded, Vocabulary.of(class_names)).classes.scores
        return fused_scores(scores, encoded.mask_logits, net_size=encoded.net_size, size=encoded.size).cpu()

    @torch.no_grad()
    def explain(
        self, segmentation: Segmentation, mask: int, neighbours: Neighbours, *, count: int = 8
    ) -> Sequence[Neighbour]:
        """Return the stored pairs that a mask is most like: what is behind its label. No old picture is encoded again.

        Args:
            segmentation: Of this segmenter.
            mask: Number of the proposal (`MaskRow.query`, `Segmentation.mask_at`).
            neighbours: An index that this segmenter's CLIP made, such as `pipeline.pair_index.PairIndex`.
            count: How many pairs.

        Raises:
            ValueError: If another CLIP made the index, or there is no such mask or it has no pixel.
        """
        if neighbours.space != self.space:
            raise ValueError(
                f"explain: the index was made by CLIP {neighbours.space[:12]}, this one is {self.space[:12]}; make an "
                "index with this one by 'ovseg pairs index'"
            )
        encoded = segmentation.encoded
        if not 0 <= mask < len(encoded.mask_logits) or not encoded.valid[mask]:
            raise ValueError(f"explain: there is no proposal {mask} with a pixel; give the query of a row of masks")
        row = int(encoded.valid[:mask].sum())  # embeddings are those of the valid proposals in order
        return neighbours.nearest(encoded.image_embeddings[row].cpu(), count)

    @property
    def memory(self) -> Memory | None:
        """Remembered masks, which name regions beside the texts; None for none. Only their own CLIP's can be set."""
        return self._memory

    @memory.setter
    def memory(self, memory: Memory | None) -> None:
        if memory is not None:
            memory.require_space(self.space, "memory")
        self._memory = memory

    @torch.no_grad()
    def remember(
        self,
        class_name: str,
        image: Picture,
        mask: Bool[np.ndarray, "height width"] | int,
        *,
        source: str = "",
    ) -> str:
        """Remember a mask of a class, which need not be named in words that CLIP knows; nothing is trained.

        Args:
            image: As for `segment`.
            mask: True inside, at the image's own size, or the number of a proposal (`MaskRow.query`).
            source: Where it comes from, for people.

        Returns:
            The mask's name, by which `Memory.without` takes it out.

        Raises:
            ValueError: If the mask is of another size or has no pixel at the net's size, or is remembered already.
        """
        (name,) = checked_class_names([class_name])
        encoded = self._encoded(image)
        if isinstance(mask, int):
            masks = encoded.hard_masks()
            if not 0 <= mask < len(masks):
                raise ValueError(f"remember: there is no proposal {mask}, 0 to {len(masks) - 1} is expected")
            at_net_size = masks[mask : mask + 1]
        else:
            if mask.shape != encoded.size:
                raise ValueError(
                    f"remember: the mask has {mask.shape[1]} x {mask.shape[0]} px, the image {encoded.image.width} x "
                    f"{encoded.image.height}; give a mask of the image's own size"
                )
            # As numbers: Pillow's truth values are bytes of 255, and pixels are counted by their bytes.
            pixels = Image.fromarray(mask.astype(np.uint8)).resize(encoded.net_size[::-1], Image.Resampling.NEAREST)
            at_net_size = torch.from_numpy(np.array(pixels) > 0)[None].to(self.device)
        if not at_net_size.any():
            raise ValueError(f"remember: the mask of {name!r} has no pixel at the net's size; give a larger one")
        embedding = encoded.embed(at_net_size).embeddings[0].cpu()
        known = self._memory if self._memory is not None else Memory(self.space)
        regions = encoded.image_embeddings.cpu()
        some = torch.linspace(0, len(regions) - 1, min(len(regions), SURROUNDINGS_MAX)).round().long()
        entry = RememberedMask(
            class_name=name,
            embedding=embedding,
            picture=picture_digest(encoded.image),
            source=source,
            surroundings=regions[some] if len(regions) else None,
        )
        self._memory = known.with_masks([entry])
        return entry.key

    @property
    def space(self) -> str:
        """Digest of what decides the embeddings of masks; computed once, as the weights stay."""
        settings = self.settings
        if self._own_space is None:
            one_pass = None
            if settings.namer != "crops":
                one_pass = (settings.namer, settings.picture_side_px, settings.window_stride_px)
            self._own_space = embedding_space(self.clip, use_mask_prompts=settings.use_mask_prompts, one_pass=one_pass)
        return self._own_space

    def text_embeddings(self, class_names: Sequence[str]) -> Float[Tensor, "class dim"]:
        """Embed class names, L2-normalised; they are kept in memory.

        Raises:
            ValueError: As `check_names`.
        """
        names = checked_class_names(class_names)
        warning = self.check_names(names)
        if warning and warning not in self._warnings:
            self._warnings.add(warning)
            logger.warning("%s", warning)
        return self._classifier.text_embeddings(names, self.settings.prompt_templates)

    def check_names(self, class_names: ClassNames) -> str:
        """Return a warning of words that CLIP does not know; empty for a published tokenizer, which spells any word.

        Raises:
            ValueError: If CLIP knows no word of a name ("others" of the query mode needs none).
        """
        if self.tokenizer is None:
            return ""
        around = {word for template in self.settings.prompt_templates for word in split_words(template)}
        words = Vocabulary.of(class_names).all_words
        return self.tokenizer.check_names([word for word in words if word != OTHERS], no_names=around)

    def _encoded(self, image: Picture) -> EncodedImage:
        """Encode an image that isn't yet."""
        return image if isinstance(image, EncodedImage) else self._all_encoded(image)[0]

    @torch.no_grad()
    def _all_encoded(self, image: Picture | SeveralPictures) -> list[EncodedImage]:
        """Run both nets on an image, or on those of a list that they have not seen yet."""
        settings = self.settings
        given: dict[str, Any] = {"image": image}
        if isinstance(image, list | tuple):
            given = {f"image[{place}]": one for place, one in enumerate(image)}
        known = {where: one for where, one in given.items() if isinstance(one, EncodedImage)}
        # At their own sizes, which label maps will have.
        upright = {where: rgb_image(one, where) for where, one in given.items() if where not in known}
        pictures = [self._net_pixels(one) for one in upright.values()]  # at net size, at which both nets see them
        with autocast(self.device, settings.precision):
            found = propose(self.proposal_net, pictures, at_once=_PICTURES_AT_ONCE)
        one_pass = self.namer if isinstance(self.namer, OnePass) else None
        for (where, own), pixels, proposals in zip(upright.items(), pictures, found, strict=True):
            seen = None if one_pass is None else SeenPicture(one_pass, pixels)
            source = given[where]
            known[where] = EncodedImage(
                **vars(proposals),
                image=own,
                mask_threshold=settings.mask_threshold,
                embed=partial(self._embedded, pixels, seen),  # called when regions are first asked for
                class_logits=self.clip.class_logits,
                seen=seen,
                source=str(source) if isinstance(source, str | Path) else "",
            )
            if settings.ensemble_weight > 0:  # else nobody may ever ask for CLIP's embeddings
                _ = known[where].regions
        return [known[where] for where in given]

    def _net_pixels(self, image: Image.Image) -> UInt8[Tensor, "3 height width"]:
        """Resize an image to net size."""
        return net_pixels(image, short_side_px=self.settings.short_side_px, max_side_px=self.settings.max_side_px)

    @torch.no_grad()
    def _embedded(
        self,
        pixels: UInt8[Tensor, "3 height width"],
        seen: SeenPicture | None,
        masks: Bool[Tensor, "mask height width"],
    ) -> Regions:
        """Embed masks of a picture at net size."""
        settings = self.settings
        with autocast(self.device, settings.precision):
            if seen is not None:
                return seen.regions(masks)
            return embed_regions(
                self.clip,
                pixels,
                masks,
                use_mask_prompts=settings.use_mask_prompts,
                at_once=settings.clip_chunk,
            )

    def _proposal_logits(
        self, proposals: Proposals, text_embeddings: Float[Tensor, "class dim"]
    ) -> Float[Tensor, "query columns"] | None:
        """Let the proposal net name its masks, if it can."""
        if not self.same_space:
            return None
        return self.proposal_net.class_logits(proposals.proposal_embeddings, text_embeddings)

    def _named(self, encoded: EncodedImage, vocabulary: Vocabulary) -> _Named:
        """Name the proposals; at ensemble weight 0 CLIP's embeddings are asked for by a memory alone."""
        weight, memory, counts = self.settings.ensemble_weight, self._memory, vocabulary.word_counts
        text_embeddings = self.text_embeddings(vocabulary.all_words)
        proposal_logits = self._proposal_logits(encoded, text_embeddings)
        if proposal_logits is not None:
            proposal_logits = best_of_words(proposal_logits, counts)
        if weight == 0 and memory is None:
            return _Named(text_embeddings, classify(proposal_logits, ensemble_weight=weight))
        embeddings, valid = encoded.regions
        clip_logits = best_of_words(self.clip.class_logits(embeddings, text_embeddings), counts)
        classes = classify(proposal_logits, clip_logits, valid, ensemble_weight=weight)
        near = None if memory is None else memory.similarities(embeddings, vocabulary.class_names)
        if near is not None:
            classes = classes._replace(scores=remembered_scores(classes.scores, clip_logits, valid, near))
        return _Named(text_embeddings, classes)


def _card_options(license: str | None, given: dict[str, Any] | None, name: str) -> dict[str, Any]:  # noqa: A002
    """Return the arguments of the card; what the caller gave as such goes before."""
    return {"name": name, **({} if license is None else {"license": license}), **(given or {})}


def _segmentation(
    encoded: EncodedImage, vocabulary: Vocabulary, named: _Named, label_map: Tensor, **more: Any
) -> Segmentation:
    """Put a result together, its maps on the CPU; what others than the named classes have won has no label."""
    if vocabulary.has_others:
        label_map = torch.where(label_map == len(vocabulary.class_names) - 1, UNLABELLED, label_map)
    return Segmentation(
        class_names=vocabulary.class_names,
        word_counts=vocabulary.word_counts,
        label_map=label_map.cpu(),
        encoded=encoded,
        query_scores=named.classes.scores,
        proposal_probs=named.classes.proposal_probs,
        text_embeddings=named.text_embeddings,
        **more,
    )
