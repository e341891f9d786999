"""Proposals measured against the labels of their scenes, one scene at a time; what is kept is small."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ovseg_models.fusion import fused_mask_labels
from ovseg_models.label_counts import count_labels
from ovseg_models.oracle import ground_truth_masks, oracle_scores, resized_labels
from ovseg_models.proposal_quality import RegionFits, region_fits, regions_of
from ovseg_models.segmentation_metrics import ClassCounts
from pipeline.data_set_options import RegionKind
from pipeline.errors import StageError
from pipeline.evaluate.labelled_images import FailedImage, LabelledImage, decoded
from pipeline.ordered_threads import in_threads
from pipeline.stored_pictures import upright_labels
from storage_schemas.artifact import Artifact
from storage_schemas.proposals import SceneProposals, read_proposals
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

_NO_REGION = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One region of a scene, and the proposal that meets it best.

    Attributes:
        unit: Shard of the scene.
        key: Of the scene.
        number: Of the region in the scene.
        class_index: Of the region.
        is_thing: Whether it has an instance number.
        area_px: At the picture's own size.
        share: Of the labelled pixels at the net's size.
        proposal: Place of the proposal with the highest IoU among the scene's; -1 where there is none.
        best_iou: Its IoU.
        missed_share: Share of the region outside that proposal.
        spilled_share: Share of that proposal outside the region.
        is_split: Whether the region is over-segmented.
        found: By limit and threshold [limit threshold].
    """

    unit: str
    key: str
    number: int
    class_index: int
    is_thing: bool
    area_px: int
    share: float
    proposal: int
    best_iou: float
    missed_share: float
    spilled_share: float
    is_split: bool
    found: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Survey:
    """What was measured over all scenes.

    Attributes:
        regions: Of all scenes, in order.
        things: Classes with an instance number in some scene.
        proposals: Of each scene.
        merging: Those of each scene that hold regions of several classes.
        covered_px: Labelled pixels in a proposal, of each scene.
        depth_px: Sum over labelled pixels of the proposals that they are in, of each scene.
        labelled_px: Of each scene, at the net's size.
        oracle: Pixels per class where the proposals take the class that they cover most.
        failed: Scenes that could not be measured, by status.
    """

    oracle: ClassCounts
    regions: list[Region] = field(default_factory=list)
    things: set[int] = field(default_factory=set)
    proposals: list[int] = field(default_factory=list)
    merging: list[int] = field(default_factory=list)
    covered_px: list[int] = field(default_factory=list)
    depth_px: list[int] = field(default_factory=list)
    labelled_px: list[int] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)


class RegionMaps(NamedTuple):
    """The regions of a scene at the size at which its proposals lie.

    Attributes:
        masks: [region height width].
        classes: Class of each.
        has_number: Whether each is a single thing.
        areas_px: Of each at the picture's own size.
        labelled: Pixels with a class [height width].
        size: Height and width [px].
    """

    masks: torch.Tensor
    classes: npt.NDArray[np.int64]
    has_number: npt.NDArray[np.bool_]
    areas_px: list[int]
    labelled: torch.Tensor
    size: tuple[int, int]


class _Measured(NamedTuple):
    """One scene."""

    key: str
    fits: RegionFits
    maps: RegionMaps
    things: set[int]
    oracle: ClassCounts


def survey(scenes: Artifact, proposals: Artifact, kind: RegionKind) -> Survey:
    """Measure the proposals of all labelled scenes.

    Args:
        scenes: Finished.
        proposals: Of these scenes, finished.
        kind: Which regions they are to meet.

    Raises:
        StageError: If the proposals are of other scenes.
    """
    attributes = ScenesAttributes.of(scenes)
    class_count = len(attributes.class_names)
    total = {entry.name: np.zeros(class_count, np.int64) for entry in fields(ClassCounts)}
    found = Survey(ClassCounts(**total))  # whose arrays are added to

    def measured(pair: tuple[Scene, SceneProposals]) -> _Measured | FailedImage:
        return _measured(*pair, attributes=attributes, kind=kind)

    for unit in scenes.description.units:
        for one in in_threads(measured, _pairs(scenes, proposals, unit)):
            if isinstance(one, FailedImage):
                found.failed[one.status] = found.failed.get(one.status, 0) + 1
                continue
            fits, maps = one.fits, one.maps
            for name, counts in vars(one.oracle).items():
                total[name] += counts
            found.things |= one.things
            found.proposals.append(len(fits.merging))
            found.merging.append(int(fits.merging.sum()))
            found.covered_px.append(fits.covered_px)
            found.depth_px.append(fits.depth_px)
            found.labelled_px.append(fits.labelled_px)
            pixels = (maps.masks & maps.labelled).flatten(1).sum(dim=1).tolist()
            found.regions += [
                Region(
                    unit=unit,
                    key=one.key,
                    number=number,
                    class_index=int(maps.classes[number]),
                    is_thing=bool(maps.has_number[number]),
                    area_px=maps.areas_px[number],
                    share=pixels[number] / max(1, fits.labelled_px),
                    proposal=int(fits.best[number]),
                    best_iou=float(fits.best_iou[number]),
                    missed_share=float(fits.missed_share[number]),
                    spilled_share=float(fits.spilled_share[number]),
                    is_split=bool(fits.split[number]),
                    found=fits.found[number],
                )
                for number in range(len(maps.classes))
            ]
    return found


def _pairs(scenes: Artifact, proposals: Artifact, unit: str) -> Iterator[tuple[Scene, SceneProposals]]:
    """Read the scenes of a shard with their proposals."""
    for scene, found in zip(SceneShard(scenes, unit).scenes(), read_proposals(proposals, unit), strict=True):
        if scene.key != found.key:
            raise StageError(
                f"{proposals.directory}: {unit} has proposals of {found.key!r} where {scenes.directory} has "
                f"{scene.key!r}; give the scenes that they are of"
            )
        yield scene, found


def _measured(
    scene: Scene, found: SceneProposals, *, attributes: ScenesAttributes, kind: RegionKind
) -> _Measured | FailedImage:
    """Measure one scene; a scene without proposals has regions that none meets."""
    class_count, ignore_label = len(attributes.class_names), attributes.ignore_label
    image = decoded(scene, class_count, ignore_label)
    if isinstance(image, FailedImage):
        return image
    maps, things = region_maps(image, scene, found, ignore_label, kind)
    masks = torch.from_numpy(decode_masks(found.mask_counts, *maps.size))
    fits = region_fits(maps.masks, masks, found.objectness.astype(np.float64), maps.classes, maps.labelled)
    # a perfect classifier: each proposal takes the class that it covers most
    scores = oracle_scores(masks, resized_labels(image.labels, maps.size), class_count, ignore_label)
    named = fused_mask_labels(scores, masks, size=image.labels.shape)
    counted = count_labels(
        image.labels,
        named.numpy().astype(np.uint16),
        class_count=class_count,
        ignore_label=ignore_label,
        radius_px=0,
    )
    oracle = {}
    for entry in fields(ClassCounts):
        oracle[entry.name] = np.zeros(class_count, np.int64)
        oracle[entry.name][counted.classes] = getattr(counted, entry.name)
    return _Measured(scene.key, fits, maps, things, ClassCounts(**oracle))


def region_maps(
    image: LabelledImage, scene: Scene, found: SceneProposals, ignore_label: int, kind: RegionKind
) -> tuple[RegionMaps, set[int]]:
    """Return the regions of a scene at the size of its proposals, and its classes that have instance numbers."""
    labels = image.labels.astype(np.int64)
    numbers = np.zeros_like(labels)
    if scene.instances_png is not None:
        numbers = upright_labels(scene.instances_png, scene.exif_orientation).astype(np.int64)
    things = set(np.unique(labels[(numbers > 0) & (labels != ignore_label)]).tolist())
    places, classes, areas = regions_of(labels, numbers if kind == "things" else None, ignore_label)
    of_region = np.where(places < 0, _NO_REGION, places).astype(np.uint16)
    has_number = np.zeros(len(classes), bool)
    has_number[np.unique(places[(numbers > 0) & (places >= 0)])] = True
    size = (found.height_px, found.width_px) if len(found.queries) else image.labels.shape
    _, masks = ground_truth_masks(of_region, size, _NO_REGION)  # a region that resizing loses keeps one pixel
    labelled = (resized_labels(of_region, size) != _NO_REGION) | masks.any(dim=0)
    return RegionMaps(masks, np.array(classes, np.int64), has_number, list(areas), labelled, size), things
