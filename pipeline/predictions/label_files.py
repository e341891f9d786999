"""Predictions of other models: files read as label maps, and what their numbers mean."""

import logging
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.evaluate.labelled_images import FailedImage, LabelledImage, LabelledScenes
from pipeline.import_masks.pictures import ScenePictures
from pipeline.import_masks.segmentation import MaskFault, PictureFrame
from pipeline.import_masks.sources import MaskFiles, OpenSource
from pipeline.mine.regions import NetSize
from pipeline.ordered_threads import in_threads
from pipeline.prepare.vocabulary import VOCABULARY_NAMES, load_vocabulary
from pipeline.settings import MasksSettings, PredictionsSettings
from storage_schemas.scenes import ScenesAttributes, SceneShard

logger = logging.getLogger(__name__)

MISSING, UNREADABLE, OUTSIDE = "prediction_missing", "prediction_unreadable", "prediction_outside_vocabulary"

_DETECTRON2_FILE = "sem_seg_predictions.json"
_FORMATS: Mapping[str, Literal["auto", "png", "npz", "coco"]] = {
    "auto": "auto",
    "png": "png",
    "npz": "npz",
    "detectron2": "coco",
}
_NO_CLASS = -1
_SCENES_TO_DECIDE = 100

Numbers = npt.NDArray[np.int64]  # [height width]


class Numbering(NamedTuple):
    """What the numbers of predictions mean.

    Attributes:
        kind: ``"index"``, or ``"dataset"`` for the data set's own numbers.
        index_of: Index of the class of each number.
        no_class: Numbers that mean none.
    """

    kind: Literal["index", "dataset"]
    index_of: Mapping[int, int]
    no_class: frozenset[int]


def prediction_files(settings: PredictionsSettings) -> MaskFiles:
    """Return the files; they are looked at when they are first needed."""
    path = settings.path
    if path.is_dir() and settings.format in {"auto", "detectron2"} and (path / _DETECTRON2_FILE).is_file():
        path /= _DETECTRON2_FILE
    as_masks = MasksSettings(path=path, format=_FORMATS[settings.format], pixels=settings.pixels)
    return MaskFiles("evaluate.datasets.predictions.path", as_masks)


def require_label_maps(files: MaskFiles) -> None:
    """Check that files are of a kind that gives each pixel one class.

    Raises:
        MaskSourceError: If there are none, or it cannot be found out what they are.
        PipelineError: If they hold masks without classes.
    """
    if files.format not in {"png", "npz", "coco"}:
        raise PipelineError(
            f"{files.where}: {files.settings.path} holds masks ('{files.format}'), label maps are expected: PNG or "
            f"NPZ files, or detectron2's {_DETECTRON2_FILE}"
        )


@dataclass(frozen=True, slots=True)
class PredictedScenes:
    """Labelled scenes, and where predictions of them are."""

    scenes: LabelledScenes
    settings: PredictionsSettings

    def open(self) -> "PredictedMaps":
        """Find out which file, or which records, are of which scene.

        Raises:
            MaskSourceError: If a file cannot be used at all, or none is of a scene.
        """
        pictures = ScenePictures(self.scenes.artifact)
        return PredictedMaps(self, prediction_files(self.settings).open(pictures), pictures)

    def numbering(self) -> Numbering:
        """Find out what the numbers mean: as the settings say, or by all numbers that occur.

        Numbers that fit both readings, such as 0 to 149 of ADE20K, are read as the labels agree with more: one class
        beside the right one is wrong nearly everywhere.

        Raises:
            PipelineError: If they fit neither the class list nor the data set's own numbers.
        """
        vocabulary = ScenesAttributes.of(self.scenes.artifact).vocabulary
        source_ids = load_vocabulary(vocabulary).source_ids if vocabulary in VOCABULARY_NAMES else ()
        if self.settings.numbers == "dataset" and not source_ids:
            raise PipelineError(
                f"evaluate.datasets.predictions.numbers: is 'dataset', and nothing is known of numbers of "
                f"{vocabulary!r}; one of {', '.join(VOCABULARY_NAMES)} is expected, or 'index'"
            )
        none = {_NO_CLASS, self.scenes.ignore_label, *self.settings.no_class}
        by_place = {index: index for index in range(self.scenes.class_count)}
        readings = [Numbering("index", by_place, frozenset(none - by_place.keys()))]
        if source_ids:
            by_source = {number: index for index, number in enumerate(source_ids)}
            readings.append(Numbering("dataset", by_source, frozenset((none | {0}) - by_source.keys())))
        if self.settings.numbers != "auto":
            return next(each for each in readings if each.kind == self.settings.numbers)
        maps, found = self.open(), set[int]()
        for unit in self.scenes.artifact.description.units:
            for numbers in in_threads(operator.call, maps.readers(unit).values()):
                if not isinstance(numbers, FailedImage):
                    found.update(np.unique(numbers).tolist())
        fitting = [each for each in readings if found <= each.index_of.keys() | each.no_class]
        if not fitting:
            odd = sorted(found.difference(*(each.index_of.keys() | each.no_class for each in readings)))[:5]
            odd = odd or sorted(found)[:5]
            also = f", or the data set's own, {min(source_ids)} to {max(source_ids)}" if source_ids else ""
            raise PipelineError(
                f"evaluate.datasets.predictions: numbers such as {odd} are no classes, 0 to {len(by_place) - 1} are "
                f"expected{also}; predict with the data set's class list, or name in 'no_class' what means none"
            )
        shares = [self._agreement(maps, each) for each in fitting] if len(fitting) > 1 else [0.0]
        chosen = fitting[int(np.argmax(shares))]
        why = f"; they agree with the labels in {max(shares):.1%}, else {min(shares):.1%}" if len(fitting) > 1 else ""
        logger.info("%s: numbers are read as '%s' (predictions.numbers)%s", self.settings.path, chosen.kind, why)
        return chosen

    def _agreement(self, maps: "PredictedMaps", numbering: Numbering) -> float:
        """Return the share of the first scenes' labelled pixels in which a reading agrees with the labels."""
        agreed, labelled, scenes = 0, 0, 0
        for unit in self.scenes.artifact.description.units:
            readers = maps.readers(unit)
            for scene in self.scenes.of_unit(unit):
                numbers = readers[scene.key]()
                if isinstance(scene, LabelledImage) and not isinstance(numbers, FailedImage):
                    classes = classes_of(numbers, numbering, self.scenes.ignore_label)
                    agreed += int(((classes == scene.labels) & (scene.labels != self.scenes.ignore_label)).sum())
                    labelled += int((scene.labels != self.scenes.ignore_label).sum())
                    scenes += 1
            if scenes >= _SCENES_TO_DECIDE:
                break
        return agreed / max(labelled, 1)


class PredictedMaps:
    """Predictions at work.

    Args:
        predicted: What they are of.
        source: Of the maps.
        pictures: The scenes.
    """

    def __init__(self, predicted: PredictedScenes, source: OpenSource, pictures: ScenePictures) -> None:
        self._predicted = predicted
        self._source = source
        self._pictures = pictures
        if unplaced := source.unplaced():
            names = ", ".join(each.name for each in unplaced[:3])
            logger.warning("%s: %d pictures are no scene, such as %s", predicted.settings.path, len(unplaced), names)

    def readers(self, unit: str) -> dict[str, Callable[[], Numbers | FailedImage]]:
        """Return what reads the prediction of each scene of a shard, by its key."""
        first = self._pictures.first_of_unit[unit]
        columns = ["key", "height_px", "width_px", "exif_orientation"]
        rows = SceneShard(self._predicted.scenes.artifact, unit).index.select(columns).to_pylist()
        return {row["key"]: partial(self._read, first + place, *row.values()) for place, row in enumerate(rows)}

    def _read(self, number: int, key: str, height_px: int, width_px: int, turn: int) -> Numbers | FailedImage:
        """Read the prediction of a scene at the picture's own size."""
        # The size at which masks are asked for is the picture's own, so that none is resized.
        own = NetSize(short_side_px=min(height_px, width_px), max_side_px=max(height_px, width_px))
        frame = PictureFrame.of(height_px, width_px, turn, own, self._predicted.settings.pixels)
        try:
            numbers = self._source.label_map(number, frame)
        except MaskFault as fault:
            return FailedImage(key, UNREADABLE, fault.refused.reason)
        if numbers is None:
            return FailedImage(key, MISSING, f"{self._predicted.settings.path} has no prediction for the picture")
        return numbers


def classes_of(numbers: Numbers, numbering: Numbering, ignore_label: int) -> npt.NDArray[np.uint16]:
    """Return class indices, and the ignore label where no class was predicted [height width].

    Raises:
        ValueError: If a number means nothing.
    """
    values, places = np.unique(numbers, return_inverse=True)
    indices = np.full(len(values), ignore_label, np.uint16)
    for place, value in enumerate(values.tolist()):
        if value in numbering.index_of:
            indices[place] = numbering.index_of[value]
        elif value not in numbering.no_class:
            raise ValueError(f"the prediction holds {value}, which is no class ({numbering.kind}) and not 'no class'")
    return indices[places].reshape(numbers.shape)
