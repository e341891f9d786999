"""Labelled scenes, decoded and upright, as trainings learn from them and are measured on them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import StageError
from pipeline.stored_pictures import UndecodableError, upright_labels, upright_picture
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import Scene


class LabelledScene(NamedTuple):
    """A scene and what it stores, decoded.

    Attributes:
        picture: RGB, upright.
        label_map: Class indices, turned alike [height width].
        scene: As stored.
    """

    picture: Image.Image
    label_map: npt.NDArray[np.int32]
    scene: Scene


def read_labelled(scenes: SceneCollection, number: int) -> LabelledScene:
    """Read and decode a scene.

    Raises:
        StageError: If it has no label map, or picture or labels cannot be decoded.
    """
    scene = scenes.read(number)
    if scene.label_png is None:
        raise StageError(f"scene {scene.key}: has no label map; train on a collection of labelled scenes")
    try:
        return LabelledScene(upright_picture(scene), upright_labels(scene.label_png, scene.exif_orientation), scene)
    except UndecodableError as error:
        raise StageError(f"{scenes.place(number)[0]}: scene {scene.key} {error}; run 'ovseg prepare' again") from error
