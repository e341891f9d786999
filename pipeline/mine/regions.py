"""The regions of a scene that pairs are made of: proposals, or the classes of its label map.

Both are in the picture as the proposal net saw it: upright as its EXIF tag says, resized, not padded. CLIP's crops are
cut at that size (OVSeg, section 3.1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.image_input import nearest_resized, resize_image, resized_size
from pipeline.errors import StageError
from pipeline.graph import Node
from pipeline.settings import MineSettings, SettingsError
from pipeline.stored_pictures import upright_labels, upright_picture
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.proposals import SceneProposals, read_proposals
from storage_schemas.rle import areas_px, boxes_xyxy, encode_masks
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

# Values of the column ``status`` of rows without a result.
UNDECODABLE = "image_undecodable"
NO_CAPTION = "no_caption"
NO_NOUN = "no_noun"
NO_PROPOSALS = "no_proposals"
NO_LABEL = "no_label"
NO_CLASS = "no_class"
EMPTY_MASK = "empty_mask"
NOT_FINITE = "embedding_not_finite"
SCORE_NOT_FINITE = "score_not_finite"
SCORE_BELOW_MIN = "score_below_min"
AREA_BELOW_MIN = "area_below_min"

EXPECTED = frozenset({NO_CAPTION, NO_NOUN, NO_PROPOSALS, NO_LABEL, NO_CLASS, SCORE_BELOW_MIN, AREA_BELOW_MIN})
"""What is no failure: the data or the settings ask for it."""


class NetSize(NamedTuple):
    """The bounds within which the proposal net sees pictures.

    Attributes:
        short_side_px: Length of the shorter side.
        max_side_px: Upper bound of the longer side.
    """

    short_side_px: int
    max_side_px: int


def net_picture(scene: Scene, size: NetSize) -> Image.Image:
    """Decode a scene's picture as the proposal net sees it: RGB, upright, resized.

    Raises:
        UndecodableError: If its bytes are damaged.
    """
    return resize_image(upright_picture(scene), short_side_px=size.short_side_px, max_side_px=size.max_side_px)


def net_label_map(scene: Scene, label_png: bytes, size: NetSize) -> npt.NDArray[np.int32]:
    """Decode a scene's label map and bring it to lie on `net_picture` [height width]; nearest neighbour."""
    label_map = upright_labels(label_png, scene.exif_orientation)
    height, width = resized_size(*label_map.shape, short_side_px=size.short_side_px, max_side_px=size.max_side_px)
    return nearest_resized(label_map, height, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRegions:
    """The regions of one scene.

    Attributes:
        indices: Query of each proposal, or class of each ground-truth mask; ascending [region].
        height_px: Height of the masks.
        width_px: Width of the masks.
        mask_counts: Compressed COCO run lengths of each mask.
        areas_px: Pixels inside each mask [region].
        boxes_xyxy: Tight boxes; px, half-open [region 4].
        status: ``"ok"``, else a slug of why there are none.
        reason: The same in words.
    """

    indices: npt.NDArray[np.int32]
    height_px: int
    width_px: int
    mask_counts: Sequence[bytes]
    areas_px: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.int32]
    status: str = OK
    reason: str = ""

    @classmethod
    def none(cls, status: str, reason: str) -> "SceneRegions":
        """Return the entry of a scene without regions."""
        return cls(
            indices=np.zeros(0, np.int32),
            height_px=0,
            width_px=0,
            mask_counts=(),
            areas_px=np.zeros(0, np.int64),
            boxes_xyxy=np.zeros((0, 4), np.int32),
            status=status,
            reason=reason,
        )

    @classmethod
    def of_proposals(cls, proposals: SceneProposals) -> "SceneRegions":
        """Return a scene's proposals as regions."""
        return cls(
            indices=proposals.queries,
            height_px=proposals.height_px,
            width_px=proposals.width_px,
            mask_counts=proposals.mask_counts,
            areas_px=proposals.areas_px,
            boxes_xyxy=proposals.boxes_xyxy,
            status=proposals.status,
            reason=proposals.reason,
        )

    @classmethod
    def of_labels(
        cls, scene: Scene, ignore_label: int, size: NetSize, *, left_out: frozenset[int] = frozenset()
    ) -> "SceneRegions":
        """Return the classes of a scene's label map as regions, all places of a class together.

        Args:
            left_out: Classes that are no regions.
        """
        if scene.status != OK:
            return cls.none(scene.status, scene.reason)
        if scene.label_png is None:
            return cls.none(NO_LABEL, "the scene has no label map")
        label_map = net_label_map(scene, scene.label_png, size)
        classes = [value for value in np.unique(label_map).tolist() if value not in {ignore_label, *left_out}]
        if not classes:
            others = " and classes that are left out" if left_out else ""
            return cls.none(NO_CLASS, f"the label map holds nothing but the ignore label {ignore_label}{others}")
        height, width = label_map.shape
        counts = encode_masks(np.stack([label_map == value for value in classes]))
        return cls(
            indices=np.array(classes, np.int32),
            height_px=height,
            width_px=width,
            mask_counts=counts,
            areas_px=areas_px(counts, height, width),
            boxes_xyxy=boxes_xyxy(counts, height, width),
        )


class SceneAndRegions(NamedTuple):
    """A scene and its regions."""

    scene: Scene
    regions: SceneRegions


class RegionSource(Protocol):
    """Where the regions of scenes come from; picklable."""

    @property
    def scenes(self) -> Artifact:
        """The scenes, finished."""
        ...

    @property
    def size(self) -> NetSize:
        """The size at which the regions lie."""
        ...

    def read(self, unit: str) -> Iterator[SceneAndRegions]:
        """Read the scenes of a shard with their regions, in key order, failed ones included."""
        ...


@dataclass(frozen=True, slots=True)
class ProposalRegions:
    """Regions that a proposal net found.

    Attributes:
        scenes: The scenes, finished.
        proposals: Their proposals, finished; of the same shards.
        size: At which they were made.
    """

    scenes: Artifact
    proposals: Artifact
    size: NetSize

    def read(self, unit: str) -> Iterator[SceneAndRegions]:
        """Read the scenes of a shard with their proposals.

        Raises:
            StageError: If the proposals are of other scenes.
        """
        scenes = SceneShard(self.scenes, unit).scenes(labels=False)
        for scene, found in zip(scenes, read_proposals(self.proposals, unit), strict=True):
            if scene.key != found.key:
                raise StageError(
                    f"{self.proposals.directory}: {unit} has proposals of {found.key!r} where its scenes have "
                    f"{scene.key!r}; run 'ovseg mine' again"
                )
            yield SceneAndRegions(scene, SceneRegions.of_proposals(found))


@dataclass(frozen=True, slots=True)
class LabelRegions:
    """Regions that the labels show: the ground truth.

    Attributes:
        scenes: The scenes, finished.
        size: At which size the regions are expected.
        left_out_classes: Names of classes that are no regions.
    """

    scenes: Artifact
    size: NetSize
    left_out_classes: tuple[str, ...] = ()

    def read(self, unit: str) -> Iterator[SceneAndRegions]:
        """Read the scenes of a shard with the classes of their label maps."""
        labels = ScenesAttributes.of(self.scenes)
        left_out = frozenset(labels.class_names.index(name) for name in self.left_out_classes)
        for scene in SceneShard(self.scenes, unit).scenes():
            regions = SceneRegions.of_labels(scene, labels.ignore_label, self.size, left_out=left_out)
            yield SceneAndRegions(scene, regions)


def net_size(settings: MineSettings) -> NetSize:
    """Return the size at which pictures are seen, and their regions lie."""
    return NetSize(settings.propose.short_side_px, settings.propose.max_side_px)


def regions_of(node: Node, settings: MineSettings) -> RegionSource:
    """Return where the regions of a step's node come from."""
    scenes, size = node["scenes"].artifact, net_size(settings)
    if "proposals" in node:
        return ProposalRegions(scenes, node["proposals"].artifact, size)
    return LabelRegions(scenes, size, settings.left_out_classes)


def left_out_identity(node: Node, settings: MineSettings) -> dict[str, Json]:
    """Return what classes whose masks are left out add to a fingerprint; nothing where there are none.

    Raises:
        SettingsError: If one is no class of the scenes.
    """
    if not settings.left_out_classes or not settings.uses_ground_truth_masks:
        return {}
    known = ScenesAttributes.of(node["scenes"].artifact).class_names
    if unknown := [name for name in settings.left_out_classes if name not in known]:
        message = f"mine.left_out_classes: {unknown} are none of the {len(known)} classes of the scenes"
        raise SettingsError([f"{message}; correct the names"])
    return {"left_out_classes": sorted(set(settings.left_out_classes))}
