"""A memory of classes: a few masked regions each, kept as CLIP's embeddings, name regions beside the texts.

Nothing is trained. A region is compared with the remembered masks of each class; the nearest one counts. Where it is
nearer than masks of different classes are to each other, and CLIP with this bonus takes it for a remembered class, that
class takes the place of what both branches said. Regions that resemble nothing remembered keep their scores.

CLIP's embeddings of regions are alike in most of their numbers, whatever the regions show. So what is compared is how
they differ from the other regions of the remembered pictures, the surroundings: embeddings are centred and whitened by
them. A memory is a set: adding a mask and removing it again leaves the very numbers, in whatever order that is done.

References:
    Hariharan et al., 2012, for whitening by what is not looked for; Zhang et al., 2022 (Tip-Adapter), for the bonus on
    CLIP's logits. The gate and its threshold, which follow from the memory itself, are this project's;
    docs/results/memory_table.md has the measurements.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.weights import image_tower_weights, require_finite, weights_digest

FORMAT, SCHEMA_VERSION = "ovseg-memory", 1
_TENSOR, _SURROUNDINGS = "embeddings", "surroundings"
_FIELDS = ("class_name", "picture", "source")
SURROUNDINGS_MAX = 32

# Chosen on drawn scenes of other seeds than those that are reported; see docs/results/memory_table.md. Half or twice
# the bonus or the gate's width make no difference there.
_BONUS, _FALLOFF = 20.0, 10.0  # on CLIP's logits, 100 times a cosine: 20 for the very mask, 7 at a similarity of 0.9
_GATE_WIDTH = 0.04
_STRANGERS_BELOW = 0.8  # quantile of the nearest masks of other classes, above which a region counts as known
_THRESHOLD_ALONE = 0.85  # of a memory of one class without surroundings, which says nothing of others


@dataclass(frozen=True, kw_only=True, eq=False)
class RememberedMask:
    """One masked region of a class.

    Attributes:
        class_name: As it is asked for.
        embedding: CLIP's, of the masked crop, L2-normalised, single precision, on the CPU.
        picture: Digest of the picture's pixels; see `picture_digest`.
        source: Where it comes from, for people.
        surroundings: Embeddings of regions of the same picture, at most `SURROUNDINGS_MAX`; there may be none.
    """

    class_name: str
    embedding: Float[Tensor, "dim"]
    picture: str
    source: str = ""
    surroundings: Float[Tensor, "region dim"] | None = None

    @cached_property
    def key(self) -> str:
        """A name that no other mask has: of its class, picture and embedding."""
        numbers = self.embedding.numpy().tobytes()
        return hashlib.sha256(f"{self.class_name}\0{self.picture}\0".encode() + numbers).hexdigest()[:16]


class Similarities(NamedTuple):
    """How near regions are to what is remembered.

    Attributes:
        classes: Indices of the remembered ones among the classes that are asked for.
        values: Of each region with the nearest mask of each of them: cosine of whitened embeddings, -1..1.
        threshold: Above which a region counts as known.
    """

    classes: Int64[Tensor, "known"]
    values: Float[Tensor, "region known"]
    threshold: float


@dataclass(frozen=True, eq=False)
class Memory:
    """Masks of some classes, as one CLIP embeds them.

    Attributes:
        space: Digest of what embeds; see `embedding_space`.
        masks: In the order of class names and keys, so that equal sets are equal in their bits.
    """

    space: str
    masks: tuple[RememberedMask, ...] = ()

    def __post_init__(self) -> None:
        """Bring the masks into their order."""
        ordered = tuple(sorted(self.masks, key=lambda mask: (mask.class_name, mask.key)))
        object.__setattr__(self, "masks", ordered)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The remembered classes, sorted."""
        return tuple(dict.fromkeys(mask.class_name for mask in self.masks))

    @property
    def pictures(self) -> frozenset[str]:
        """Digests of the pictures of which a mask is remembered."""
        return frozenset(mask.picture for mask in self.masks)

    def digest(self) -> str:
        """Return a digest of what it holds."""
        return hashlib.sha256("\0".join([self.space, *(mask.key for mask in self.masks)]).encode()).hexdigest()

    def with_masks(self, masks: Sequence[RememberedMask]) -> "Memory":
        """Return a memory that holds these masks as well.

        Raises:
            ValueError: If one is there already, a class has no name, or embeddings are of another length.
        """
        known = {mask.key for mask in self.masks}
        for mask in masks:
            if not mask.class_name.strip():
                raise ValueError("memory: a class name is blank, a word is expected; name the class")
            if mask.key in known:
                raise ValueError(f"memory: mask {mask.key} of {mask.class_name!r} is remembered already; leave it out")
            known.add(mask.key)
        lengths = {len(mask.embedding) for mask in (*self.masks, *masks)}
        if len(lengths) > 1:
            raise ValueError(f"memory: embeddings have lengths {sorted(lengths)}, one CLIP's are expected")
        return Memory(self.space, (*self.masks, *masks))

    def without(self, names: Collection[str]) -> "Memory":
        """Return a memory without some masks.

        Args:
            names: Keys of masks, and names of classes, all of whose masks are meant.

        Raises:
            ValueError: If there is no such mask or class.
        """
        known = {name for mask in self.masks for name in (mask.key, mask.class_name)}
        if unknown := sorted(set(names) - known):
            raise ValueError(f"memory: has no mask or class {unknown[0]!r}; it has {', '.join(self.class_names)}")
        return Memory(self.space, tuple(mask for mask in self.masks if not {mask.key, mask.class_name} & set(names)))

    def require_space(self, space: str, where: str) -> None:
        """Refuse the embeddings of another CLIP.

        Raises:
            ValueError: If they are.
        """
        if space != self.space:
            raise ValueError(
                f"{where}: its masks were embedded by CLIP {self.space[:12]}, this one is {space[:12]} (other weights, "
                "mask prompts or pixels); remember the masks again with this one"
            )

    @cached_property
    def embeddings(self) -> Float[Tensor, "mask dim"]:
        """Of all masks, in their order."""
        return torch.stack([mask.embedding for mask in self.masks])

    @cached_property
    def _surroundings(self) -> Float[Tensor, "region dim"]:
        """Regions of all remembered pictures, each picture's once."""
        of_picture = {mask.picture: mask.surroundings for mask in self.masks if mask.surroundings is not None}
        return torch.cat([of_picture[picture] for picture in sorted(of_picture)] or [self.embeddings[:0]])

    @cached_property
    def _whitening(self) -> tuple[Float[Tensor, "dim"], Float[Tensor, "dim dim"]]:
        """Mean of the surroundings, and the matrix that makes their differences equally large in all directions.

        Few regions say little of many directions: their covariance is drawn towards the same one in all of them, by as
        much as there are dimensions to one region. Without surroundings nothing is changed.
        """
        regions = self._surroundings.double()
        count, dim = regions.shape
        if count < 2:
            return torch.zeros(dim), torch.eye(dim)
        mean = regions.mean(dim=0)
        covariance = (regions - mean).T @ (regions - mean) / count
        drawn = dim / (dim + count)
        covariance = (1 - drawn) * covariance + drawn * covariance.diag().mean() * torch.eye(dim)
        values, vectors = torch.linalg.eigh(covariance)
        matrix = vectors @ torch.diag(values.clamp_min(1e-12) ** -0.5) @ vectors.T
        return mean.float(), matrix.float()

    def _compared(self, embeddings: Float[Tensor, "region dim"]) -> Float[Tensor, "region dim"]:
        """Return what is compared of embeddings, L2-normalised."""
        mean, matrix = (part.to(embeddings.device) for part in self._whitening)
        return functional.normalize((embeddings - mean) @ matrix, dim=1)

    @cached_property
    def threshold(self) -> float:
        """Similarity above which a region counts as known: what few masks of different classes have with each other.

        The masks of a class are strangers to all others, as the regions of classes that are not remembered are. So
        their distance says where known regions begin, for this CLIP and these classes. Of one class alone, its
        surroundings say so, most of which are something else.
        """
        own, names = self._compared(self.embeddings), self.class_names
        of_mask = torch.tensor([names.index(mask.class_name) for mask in self.masks])
        if len(names) > 1:
            nearest_stranger = (own @ own.T).masked_fill(of_mask[:, None] == of_mask, -1.0).amax(dim=1)
        elif len(self._surroundings):
            nearest_stranger = (self._compared(self._surroundings) @ own.T).amax(dim=1)
        else:
            return _THRESHOLD_ALONE
        return float(nearest_stranger.quantile(_STRANGERS_BELOW))

    def similarities(self, embeddings: Float[Tensor, "region dim"], class_names: Sequence[str]) -> Similarities | None:
        """Compare regions with the masks of the classes that are asked for; None if none of them is remembered."""
        names = self.class_names
        asked = {name: index for index, name in enumerate(class_names) if name in names}
        if not asked:
            return None
        own = self._compared(self.embeddings.to(embeddings.device))
        cosines = self._compared(embeddings) @ own.T  # [region mask]
        of_class = [
            cosines[:, [place for place, mask in enumerate(self.masks) if mask.class_name == name]].amax(dim=1)
            for name in asked
        ]
        classes = torch.tensor(list(asked.values()), device=embeddings.device)
        return Similarities(classes, torch.stack(of_class, dim=1), self.threshold)

    def save(self, path: Path) -> None:
        """Write it to a safetensors file, which appears whole or not at all.

        Raises:
            OSError: If the operating system refuses.
        """
        around = [mask.surroundings if mask.surroundings is not None else torch.zeros(0, 0) for mask in self.masks]
        masks = [
            {**{name: getattr(mask, name) for name in _FIELDS}, _SURROUNDINGS: len(regions)}
            for mask, regions in zip(self.masks, around, strict=True)
        ]
        described = {"schema_version": SCHEMA_VERSION, "space": self.space, "masks": masks}
        tensors = {
            _TENSOR: self.embeddings if self.masks else torch.zeros(0, 0),
            _SURROUNDINGS: torch.cat([regions for regions in around if len(regions)] or [torch.zeros(0, 0)]),
        }
        temporary = path.with_name(f".tmp-{path.name}")
        # Under one key: safetensors writes several in any order, and equal memories would not be equal files.
        temporary.write_bytes(save(tensors, metadata={FORMAT: json.dumps(described, ensure_ascii=False)}))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is no such file, or damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file; give a memory that 'ovseg memory add' wrote")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata: Mapping[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: cannot be read as safetensors ({error}); write the memory again") from error
        if FORMAT not in metadata:
            raise ValueError(f"{path}: is no memory, {FORMAT!r} is expected in its metadata; check the path")
        try:
            described: Any = json.loads(metadata[FORMAT])
            version, masks = described["schema_version"], described["masks"]
            rows = [{name: str(mask[name]) for name in _FIELDS} for mask in masks]
            counts = [int(mask[_SURROUNDINGS]) for mask in masks]
            embeddings, around = tensors[_TENSOR].float(), tensors[_SURROUNDINGS].float()
            space = str(described["space"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: does not say what its masks are ({error!r}); write the memory again") from error
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}; write the memory again"
            )
        fits = embeddings.ndim == around.ndim == 2 and len(embeddings) == len(rows) and min(counts, default=0) >= 0
        if not fits or sum(counts) != len(around) or (len(around) and around.shape[1] != embeddings.shape[1]):
            raise ValueError(
                f"{path}: has embeddings {tuple(embeddings.shape)} and surroundings {tuple(around.shape)} of "
                f"{len(rows)} masks with {sum(counts)} regions, one row of each is expected; write the memory again"
            )
        require_finite({_TENSOR: embeddings, _SURROUNDINGS: around}, str(path))
        parts = zip(embeddings, around.split(counts) if counts else (), rows, strict=True)
        return cls(space).with_masks(
            [
                RememberedMask(embedding=each.clone(), surroundings=regions.clone() if len(regions) else None, **row)
                for each, regions, row in parts
            ]
        )


def remembered_scores(
    scores: Float[Tensor, "query class"],
    clip_logits: Float[Tensor, "valid class"],
    valid: Bool[Tensor, "query"],
    similarities: Similarities,
) -> Float[Tensor, "query class"]:
    """Let what is remembered name the regions that it knows.

    Args:
        scores: Of both branches, as `fusion.classify` gives them.
        clip_logits: Of the valid proposals in order.
        valid: Which proposals have a crop; the others keep their scores.
        similarities: Of the valid proposals.

    Returns:
        Scores, at least 0; those of a region that nothing remembered is near to are as they were.
    """
    classes, nearest, threshold = similarities
    logits = clip_logits.clone()
    logits[:, classes] += _BONUS * torch.exp(-_FALLOFF * (1 - nearest))
    probs = logits.softmax(dim=-1)
    of_known = probs[:, classes]
    # A region must be near to a mask, and be taken for a remembered class by CLIP's text too: of classes that are not
    # remembered the text knows as much as before.
    share = of_known.sum(dim=1) * torch.sigmoid((nearest.amax(dim=1) - threshold) / _GATE_WIDTH)
    named = torch.zeros_like(probs)
    named[:, classes] = functional.normalize(of_known, p=1, dim=1)
    fused = scores.clone()
    # One is all that a region can have: where something is known, the proposal net's "no object" has no say.
    fused[valid] = (1 - share)[:, None] * scores[valid] + share[:, None] * named
    return fused


def embedding_space(
    clip: MaskAdaptedClip, *, use_mask_prompts: bool = True, one_pass: tuple[str, int, int] | None = None
) -> str:
    """Return the digest of all that decides what a CLIP makes of a mask. Hashing ViT-L/14's weights takes a second.

    Args:
        use_mask_prompts: Whether CLIP sees its mask prompts.
        one_pass: Namer, side of the picture's square and stride of its windows [px], where CLIP sees no crops.
    """
    weights = image_tower_weights(clip.clip)
    if use_mask_prompts and clip.mask_prompts is not None and one_pass is None:
        weights["mask_prompts"] = clip.mask_prompts
    if one_pass is not None and clip.mask_queries is not None:
        weights |= {f"mask_queries.{name}": tensor for name, tensor in clip.mask_queries.state_dict().items()}
    how = json.dumps([repr(clip.crop), clip.blank_patches, one_pass])
    return hashlib.sha256(f"{weights_digest(weights)}\0{how}".encode()).hexdigest()


def picture_digest(image: Image.Image) -> str:
    """Return the digest of a picture's pixels: RGB, upright, at its own size, whatever file they come from."""
    return hashlib.sha256(f"{image.width}x{image.height}\0".encode() + image.convert("RGB").tobytes()).hexdigest()
