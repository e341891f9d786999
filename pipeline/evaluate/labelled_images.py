"""Scenes with their labels, decoded in threads while the models work on those before."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.ordered_threads import in_threads
from pipeline.stored_pictures import UndecodableError, upright_labels, upright_picture
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.scenes import Scene, SceneShard

LABEL_UNREADABLE, LABEL_OUTSIDE = "label_unreadable", "label_outside_vocabulary"
IMAGE_UNREADABLE = "image_unreadable"
NO_LABEL = "no_label"
"""No failure: a scene without a labelled pixel is passed by, as proposal training passes it by."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One scene, ready to be scored.

    Attributes:
        key: Key of the scene.
        image: RGB, upright.
        labels: Class indices or the ignore label, upright [height width].
    """

    key: str
    image: Image.Image
    labels: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FailedImage:
    """One scene that is not scored.

    Attributes:
        key: Key of the scene.
        status: One of the constants of this module, or that of the scene's row.
        reason: The same in words.
    """

    key: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledScenes:
    """The labelled scenes of one data set.

    Attributes:
        artifact: Finished.
        ignore_label: Value of pixels without a class.
        seen: Whether each class is marked as seen.
    """

    artifact: Artifact
    class_count: int
    ignore_label: int
    seen: tuple[bool, ...] = ()

    def of_unit(self, unit: str) -> Iterator[LabelledImage | FailedImage]:
        """Yield the scenes of a shard in key order, a few of them decoded ahead of the current one."""
        shard = SceneShard(self.artifact, unit)
        return in_threads(lambda scene: decoded(scene, self.class_count, self.ignore_label), shard.scenes())


def decoded(scene: Scene, class_count: int, ignore_label: int) -> LabelledImage | FailedImage:
    """Decode one scene, or say why that is not possible.

    Labels refer to the pixels as stored, so both maps are turned.
    """
    if scene.status != OK:
        return FailedImage(scene.key, scene.status, scene.reason)
    if scene.label_png is None or not scene.classes:
        return FailedImage(scene.key, NO_LABEL, "the scene has no labelled pixel to compare with")
    try:
        labels = decoded_labels(scene.label_png, scene.exif_orientation)
    except UndecodableError as error:
        return FailedImage(scene.key, LABEL_UNREADABLE, f"the label map {error}")
    odd = labels[(labels >= class_count) & (labels != ignore_label)]
    if odd.size:
        reason = f"the label map holds {odd[0]}, which is none of the {class_count} classes"
        return FailedImage(scene.key, LABEL_OUTSIDE, reason)
    try:
        image = upright_picture(scene)
    except UndecodableError as error:
        return FailedImage(scene.key, IMAGE_UNREADABLE, f"the picture {error}")
    if (image.height, image.width) != labels.shape:
        reason = (
            f"the picture has {image.width} x {image.height} px, its label map {labels.shape[1]} x {labels.shape[0]}"
        )
        return FailedImage(scene.key, LABEL_UNREADABLE, reason)
    return LabelledImage(scene.key, image, labels)


def decoded_labels(png: bytes, exif_orientation: int = 1) -> npt.NDArray[np.uint16]:
    """Decode a map of class indices [height width], turned as its image."""
    return upright_labels(png, exif_orientation).astype(np.uint16)
