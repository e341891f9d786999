"""Pictures of a report, embedded as data: images beside label maps and predictions, and examples of confusions."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.overlay import palette
from pipeline.errors import StageError
from pipeline.evaluate.labelled_images import FailedImage, LabelledImage, LabelledScenes, decoded, decoded_labels
from pipeline.evaluate.stored_scores import ScoredImage, Scores
from storage_schemas.scenes import SceneShard
from storage_schemas.scores import read_predictions

SIDE_PX = 320
_UNLABELLED = (225, 225, 225)
_CONFUSED = np.array((217, 40, 30), np.float32)
_LEGEND = 6


@dataclass(frozen=True)
class LegendEntry:
    """One class of a picture row.

    Attributes:
        name: Class name.
        colour: CSS colour.
        true_share: Its share of the labelled pixels.
        predicted_share: Its share of them in the prediction.
    """

    name: str
    colour: str
    true_share: float
    predicted_share: float


@dataclass(frozen=True)
class PictureRow:
    """An image, its label map and its prediction.

    Attributes:
        key: Key of the scene.
        image: Data URL.
        truth: Data URL; grey where nothing is labelled.
        prediction: Data URL; grey where nothing is labelled.
        legend: The classes with most pixels in either.
        more: Further classes in either.
    """

    key: str
    image: str
    truth: str
    prediction: str
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
        self._names = scores.attributes.class_names
        self._colours = palette(scores.class_count)
        self.images = scores.images()
        self._by_key = {image.key: image for image in self.images}
        self._rows_of_unit: dict[str, dict[str, int]] = {}

    def row(self, key: str) -> PictureRow:
        """Draw an image, its label map and its prediction."""
        scene, predicted = self.maps(key)
        labelled = scene.labels != self._scenes.ignore_label
        legend, more = self._legend(scene.labels[labelled], predicted[labelled])
        return PictureRow(
            key=key,
            image=photo_url(scene.image),
            truth=drawing_url(self._painted(scene.labels, labelled)),
            prediction=drawing_url(self._painted(predicted, labelled)),
            legend=legend,
            more=more,
        )

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

    def _painted(self, labels: npt.NDArray[np.uint16], labelled: npt.NDArray[np.bool_]) -> Image.Image:
        """Paint a label map in its classes' colours."""
        painted = self._colours[np.where(labelled, labels, 0)]
        return Image.fromarray(np.where(labelled[:, :, None], painted, np.array(_UNLABELLED, np.uint8)))

    def _legend(
        self, true: npt.NDArray[np.uint16], predicted: npt.NDArray[np.uint16]
    ) -> tuple[tuple[LegendEntry, ...], int]:
        """List the classes with most pixels, and count those that are left out."""
        counts = [np.bincount(values, minlength=len(self._names)) for values in (true, predicted)]
        shares = np.stack(counts) / max(1, len(true))
        order = np.argsort(-shares.max(axis=0), kind="stable")
        present = [int(index) for index in order if shares[:, index].max() > 0]
        entries = tuple(
            LegendEntry(
                self._names[index],
                "#" + "".join(f"{part:02x}" for part in self._colours[index].tolist()),
                float(shares[0, index]),
                float(shares[1, index]),
            )
            for index in present[:_LEGEND]
        )
        return entries, max(0, len(present) - _LEGEND)


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
