"""Scores read back: counts per image and class, summed up, and confusions."""

import math
from dataclasses import dataclass, fields
from typing import SupportsFloat

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ovseg_models.segmentation_metrics import ClassCounts
from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.scores import Confusion, ScoresAttributes, merged_confusions, read_scores
from storage_schemas.tars import Member

_NAMES = tuple(entry.name for entry in fields(ClassCounts))


def json_number(value: SupportsFloat) -> float | None:
    """Return a number as JSON has it; what does not exist is null."""
    return None if math.isnan(float(value)) else float(value)


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One image of the main variant.

    Attributes:
        key: Key of the scene.
        labelled_px: Pixels with a class.
        correct_px: Those predicted correctly.
        confused: True class, predicted class and pixels of its most frequent confusions.
        prediction: Place of the prediction in the shard's tar.
    """

    unit: str
    key: str
    labelled_px: int
    correct_px: int
    confused: tuple[tuple[int, int, int], ...]
    prediction: Member


@dataclass(frozen=True, slots=True)
class ImageCountTable:
    """The counts of one variant.

    Attributes:
        keys: Of the images that could be scored, ascending.
        counts: Per image and class [image class].
    """

    keys: tuple[str, ...]
    counts: ClassCounts


class Scores:
    """The scores of one data set.

    Args:
        artifact: Of kind ``scores``, finished.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.attributes = ScoresAttributes.of(artifact)
        self._tables: dict[str, pa.Table] = {}

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.attributes.class_names)

    def counts(self, variant: str) -> ImageCountTable:
        """Return what was counted per image.

        Raises:
            PipelineError: If there is no such variant.
        """
        if variant not in self.attributes.variants:
            known = ", ".join(self.attributes.variants)
            raise PipelineError(f"{self.artifact.directory}: has no variant {variant!r}; it has {known}")
        images = self._table("images").filter((pc.field("variant") == variant) & (pc.field("status") == OK))
        keys = tuple(sorted(images["key"].to_pylist()))
        rows = self._table("classes").filter(pc.field("variant") == variant)
        # Rows hold only classes that occur, in any order: each goes to its place in [image class], the rest stays 0.
        image = np.searchsorted(np.array(keys, object), np.array(rows["key"].to_pylist(), object))
        column = rows["class_index"].to_numpy()
        arrays: dict[str, npt.NDArray[np.int64]] = {}
        for name in _NAMES:
            arrays[name] = np.zeros((len(keys), self.class_count), np.int64)
            arrays[name][image, column] = rows[name].to_numpy()
        return ImageCountTable(keys, ClassCounts(**arrays))

    def image_keys(self) -> set[str]:
        """Return the keys of all images, also of those that could not be scored."""
        return set(self._table("images")["key"].unique().to_pylist())

    def confusion(self, variant: str) -> Confusion:
        """Return the pixels [true predicted] of all images together."""
        units = self.artifact.description.units
        merged = merged_confusions([read_scores(self.artifact, unit, "confusion") for unit in units], self.class_count)
        return merged.get(variant, np.zeros((self.class_count, self.class_count), np.int64))

    def images(self) -> list[ScoredImage]:
        """Return the main variant's images in order of key."""
        found = []
        for unit in self.artifact.description.units:
            table = read_scores(self.artifact, unit, "images")
            for row in table.filter(pc.field("variant") == self.attributes.main_variant).to_pylist():
                if row["status"] == OK:
                    confused = tuple(tuple(pair.values()) for pair in row["confused"])
                    place = Member(**row["prediction"])
                    found.append(ScoredImage(unit, row["key"], row["labelled_px"], row["correct_px"], confused, place))
        return sorted(found, key=lambda image: image.key)

    def failures(self) -> dict[str, int]:
        """Return how many images could not be scored, by status."""
        table = self._table("images").filter(pc.field("variant") == self.attributes.main_variant)
        failed = table.filter(pc.field("status") != OK)["status"].value_counts().to_pylist()
        return {row["values"]: row["counts"] for row in sorted(failed, key=lambda row: row["values"])}

    def _table(self, name: str) -> pa.Table:
        """Read one table of all shards, once."""
        if name not in self._tables:
            units = self.artifact.description.units
            self._tables[name] = pa.concat_tables([read_scores(self.artifact, unit, name) for unit in units])
        return self._tables[name]
