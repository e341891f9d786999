"""Pictures of a report, embedded as data: images beside label maps and predictions, and examples of confusions."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.overlay import palette
from pipeline.errors import StageError
from pipeline.evaluate.labelled_images import FailedImage, LabelledImage, LabelledScenes, decoded, decoded_labels
from pipeline.evaluate.stored_scores import ScoredImage, Scores, json_number
from pipeline.picture_sheets import NamePlace, name_places, painted
from storage_schemas.scenes import SceneShard
from storage_schemas.scores import read_predictions

SIDE_PX = 320
NAMED_PX, NAME_PX = 300, 17
"""Width of a map in the units in which names are placed, and size of their letters in them."""
_NO_CLASS = np.uint16(65535)
_CONFUSED = np.array((217, 40, 30), np.float32)
_LEGEND = 8


@dataclass(frozen=True)
class LegendEntry:
    """One class of a picture row.

    Attributes:
        name: Class name.
        colour: CSS colour.
        true_share: Its share of the labelled pixels.
        predicted_share: Its share of them in the last prediction.
        ious: Its IoU in this picture, of each prediction; None where it is in neither map.
    """

    name: str
    colour: str
    true_share: float
    predicted_share: float
    ious: tuple[float | None, ...]


@dataclass(frozen=True)
class ShownMap:
    """A label map or a prediction.

    Attributes:
        title: What it is.
        url: Data URL of the map in its classes' colours, grey where nothing is labelled.
        names: Where the names of classes are written, in the row's units; those without room are in the legend alone.
        classes: Names of all classes in it, those with most pixels first.
        miou: Mean IoU over the classes of the label map, of this picture; None for the label map itself.
    """

    title: str
    url: str
    names: tuple[NamePlace, ...]
    classes: tuple[str, ...]
    miou: float | None


@dataclass(frozen=True)
class PictureRow:
    """An image, its label map and its predictions.

    Attributes:
        key: Key of the scene.
        size: Width and height in which names are placed.
        image: Data URL.
        maps: The label map and each prediction.
        legend: The classes with most pixels in any of them.
        more: Further classes.
    """

    key: str
    size: tuple[int, int]
    image: str
    maps: tuple[ShownMap, ...]
    legend: tuple[LegendEntry, ...]
    more: int


@dataclass(frozen=True)
class ConfusionExample:
    """An image in which one class was taken for another.

    Attributes:
        key: Key of the scene.
        image: Data URL.
        confused: Data URL: the confused pixels tinted red, the rest grey and faded.
    """

    key: str
    image: str
    confused: str


class PictureBook:
    """Draws the pictures of one data set.

    Args:
        scores: Of the data set.
        scenes: The scenes that were scored.
    """

    def __init__(self, scores: Scores, scenes: LabelledScenes) -> None:
        self._scores = scores
        self._scenes = scenes
        self.class_names = scores.attributes.class_names
        self.ignore_label = scenes.ignore_label
        self.images = scores.images()
        self._by_key = {image.key: image for image in self.images}
        self._rows_of_unit: dict[str, dict[str, int]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def row(self, key: str) -> PictureRow:
        """Draw an image, its label map and its prediction."""
        return picture_row({"prediction": self}, key)

    def maps(self, key: str) -> tuple[LabelledImage, npt.NDArray[np.uint16]]:
        """Return an image with its label map, and the prediction [height width] of it."""
        return self._read(self._by_key[key])

    def confusion(self, true_class: int, predicted_class: int) -> ConfusionExample | None:
        """Draw the image with most pixels of one class predicted as another; None if no image has such pixels."""
        found = [
            (pixels, image)
            for image in self.images
            for true, predicted, pixels in image.confused
            if (true, predicted) == (true_class, predicted_class)
        ]
        if not found:
            return None
        scored = max(found, key=lambda entry: entry[0])[1]
        scene, predicted_map = self._read(scored)
        where = (scene.labels == true_class) & (predicted_map == predicted_class)
        pixels = np.asarray(scene.image, np.float32)
        faded = 0.25 * pixels.mean(axis=2, keepdims=True) + 185
        shown = np.where(where[:, :, None], 0.5 * pixels + 0.5 * _CONFUSED, faded).astype(np.uint8)
        return ConfusionExample(scored.key, photo_url(scene.image), photo_url(Image.fromarray(shown)))

    def _read(self, image: ScoredImage) -> tuple[LabelledImage, npt.NDArray[np.uint16]]:
        """Read a scene and the prediction of it.

        Raises:
            StageError: If the scene, which was scored, cannot be decoded any more.
        """
        shard = SceneShard(self._scenes.artifact, image.unit)
        if image.unit not in self._rows_of_unit:
            keys = shard.index["key"].to_pylist()
            self._rows_of_unit[image.unit] = {key: row for row, key in enumerate(keys)}
        (scene,) = shard.scenes([self._rows_of_unit[image.unit][image.key]])
        found = decoded(scene, self._scenes.class_count, self._scenes.ignore_label)
        if isinstance(found, FailedImage):
            raise StageError(
                f"scene {image.key}: was scored and now cannot be read ({found.reason}); prepare the data set again"
            )
        (png,) = read_predictions(self._scores.artifact, image.unit, [image.prediction])
        return found, decoded_labels(png)


def picture_row(books: Mapping[str, PictureBook], key: str) -> PictureRow:
    """Draw an image, its label map and its prediction in each of some evaluations of the same scenes.

    Args:
        books: Evaluations by what is written above their predictions; at least one.
    """
    found = [book.maps(key) for book in books.values()]
    scene, book = found[0][0], next(iter(books.values()))
    names, ignored = book.class_names, scene.labels == book.ignore_label
    colours = palette(len(names))
    maps = [np.where(ignored, _NO_CLASS, labels) for labels in (scene.labels, *(predicted for _, predicted in found))]
    true, *predictions = [labels[~ignored] for labels in maps]
    shares = np.stack([_counts(values, len(names)) for values in (true, *predictions)]) / max(1, len(true))
    ious = [_ious(true, predicted, len(names)) for predicted in predictions]
    width = NAMED_PX
    height = max(1, round(width * scene.labels.shape[0] / scene.labels.shape[1]))
    shown = []
    for place, (title, labels) in enumerate(zip(("label map", *books), maps, strict=True)):
        small = np.asarray(_reduced(Image.fromarray(labels), Image.Resampling.NEAREST))
        present = [int(index) for index in np.argsort(-shares[place], kind="stable") if shares[place, index] > 0]
        miou = None
        if place:
            of_labels = ious[place - 1][shares[0] > 0]
            miou = float(of_labels.mean()) if len(of_labels) else None
        shown.append(
            ShownMap(
                title=title,
                url=drawing_url(Image.fromarray(painted(small, colours))),
                names=tuple(
                    name_places([(names[index], small == index) for index in present], (width, height), font_px=NAME_PX)
                ),
                classes=tuple(names[index] for index in present),
                miou=miou,
            )
        )
    order = [int(index) for index in np.argsort(-shares.max(axis=0), kind="stable") if shares[:, index].max() > 0]
    legend = tuple(
        LegendEntry(
            name=names[index],
            colour="#" + "".join(f"{part:02x}" for part in colours[index].tolist()),
            true_share=float(shares[0, index]),
            predicted_share=float(shares[-1, index]),
            ious=tuple(json_number(of_prediction[index]) for of_prediction in ious),
        )
        for index in order[:_LEGEND]
    )
    image = photo_url(scene.image)
    return PictureRow(key, (width, height), image, tuple(shown), legend, max(0, len(order) - _LEGEND))


def _counts(labels: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.int64]:
    """Count the pixels of each class."""
    counts: npt.NDArray[np.int64] = np.bincount(labels[labels < classes], minlength=classes)
    return counts


def _ious(true: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.float64]:
    """Return the IoU of each class in one picture; NaN where it is in neither map."""
    both = _counts(true[true == predicted], classes)
    union = _counts(true, classes) + _counts(predicted, classes) - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)


def spread(keys: Sequence[str], count: int) -> list[str]:
    """Choose keys evenly from a list, its first among them."""
    if len(keys) <= count:
        return list(keys)
    return [keys[round(place)] for place in np.linspace(0, len(keys) - 1, count)]


def photo_url(image: Image.Image) -> str:
    """Return a photograph as a data URL, made smaller than ``SIDE_PX``; small ones lose nothing."""
    small = _reduced(image, Image.Resampling.BOX)
    if max(small.size) <= 128:
        return _data_url(small, "PNG")
    return _data_url(small, "JPEG", quality=82)


def drawing_url(image: Image.Image) -> str:
    """Return a picture of flat colours as a data URL."""
    return _data_url(_reduced(image, Image.Resampling.NEAREST), "PNG", optimize=True)


def _reduced(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """Make a large picture smaller."""
    scale = min(1.0, SIDE_PX / max(image.size))
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling)


def _data_url(image: Image.Image, kind: str, **options: int | bool) -> str:
    """Encode a picture for embedding."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
