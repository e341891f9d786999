"""Is one evaluation better than another? A paired bootstrap over the images that both have scored.

Reads ``scores``, or ``reports`` that say which scores they are of.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg_models.bootstrap import Difference, compare_classes
from ovseg_models.bootstrap import compare as compare_counts
from ovseg_models.segmentation_metrics import ClassCounts, metrics_of
from pipeline.errors import PipelineError
from pipeline.evaluate.stored_scores import Scores, json_number
from storage_schemas import reports, scores
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations on the same scenes.

    Attributes:
        dataset: Name of the data set in the first evaluation's settings.
        variants: Of the first and of the second.
        images: Images that both have scored.
        left_out: Images that only one of them has scored.
        differences: Per metric.
        class_names: By class index.
        classes: IoU of each class that either predicted or that has ground truth, by its index.
        per_image: Mean IoU over the classes of its label map, in the first and in the second evaluation, by the image's
            key; images without a labelled pixel are left out.
    """

    dataset: str
    variants: tuple[str, str]
    images: int
    left_out: int
    differences: dict[str, Difference]
    class_names: tuple[str, ...]
    classes: dict[int, Difference]
    per_image: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Json]:
        """Return the comparison as JSON values."""
        return {
            "dataset": self.dataset,
            "variants": list(self.variants),
            "images": self.images,
            "left_out": self.left_out,
            "metrics": {name: _difference_json(found) for name, found in self.differences.items()},
            "classes": [
                {"index": index, "name": self.class_names[index], **_difference_json(found)}
                for index, found in self.classes.items()
            ],
            "per_image": [
                {"key": key, "first": first, "second": second} for key, (first, second) in self.per_image.items()
            ],
        }


def _difference_json(found: Difference) -> dict[str, Json]:
    """Return one value of both, and what may be said of it."""
    return {
        "first": json_number(found.first),
        "second": json_number(found.second),
        "difference": json_number(found.second - found.first),
        "interval": [json_number(found.interval.low), json_number(found.interval.high)],
        "verdict": found.verdict,
    }


def compare_runs(
    first: Path, second: Path, *, variants: tuple[str, str] = ("", ""), rounds: int = 1000
) -> list[Comparison]:
    """Compare two evaluations on every data set that both are of.

    Args:
        first: Directory of an artifact of scores or of reports.
        second: Likewise.
        variants: Which variant of each; the main one where empty.

    Raises:
        PipelineError: If a directory holds neither, or the two share no scenes.
        ArtifactError: If an artifact is not finished.
    """
    found = [scores_at(directory) for directory in (first, second)]
    differing = {(one, other): difference(one, other) for one in found[0] for other in found[1]}
    shared = [pair for pair, reason in differing.items() if reason is None]
    if not shared:
        reasons = "; ".join(
            f"{one.attributes.dataset} and {other.attributes.dataset}: {reason}"
            for (one, other), reason in differing.items()
        )
        raise PipelineError(
            f"{first} and {second}: were scored on different data ({reasons}); evaluate both on the same data set"
        )
    return [compare_scores(one, other, variants=variants, rounds=rounds) for one, other in shared]


def difference(first: Scores, second: Scores) -> str | None:
    """Return in what two evaluations' data differ: classes, pictures or labels; None where they are the same.

    Scenes that were prepared twice, in other shards or at other places, have other digests and may yet be the same.
    """
    if first.artifact.identity.inputs["scenes"] == second.artifact.identity.inputs["scenes"]:
        return None
    names = [of.attributes.class_names for of in (first, second)]
    if names[0] != names[1]:
        odd = next((one for one in [*names[0], *names[1]] if (one in names[0]) != (one in names[1])), None)
        which = "their order" if odd is None else f"such as {odd!r}"
        return f"the classes differ, {len(names[0])} and {len(names[1])}, {which}"
    keys = [of.image_keys() for of in (first, second)]
    if keys[0] != keys[1]:
        odd = min(keys[0] ^ keys[1])
        return f"the pictures differ, {len(keys[0])} and {len(keys[1])}, such as {odd}, which one of them lacks"
    tables = [of.counts(of.attributes.main_variant) for of in (first, second)]
    labels = [dict(zip(table.keys, table.counts.true_px, strict=True)) for table in tables]
    for key in sorted(labels[0].keys() & labels[1].keys()):
        if not np.array_equal(labels[0][key], labels[1][key]):
            return f"the labels differ, such as those of {key}"
    return None


def compare_scores(first: Scores, second: Scores, *, variants: tuple[str, str] = ("", ""), rounds: int) -> Comparison:
    """Compare two evaluations on the same scenes, image by image.

    Raises:
        PipelineError: If there is no such variant, or no image that both have scored.
    """
    pair = (first, second)
    names = [name or one.attributes.main_variant for name, one in zip(variants, pair, strict=True)]
    tables = [one.counts(name) for one, name in zip(pair, names, strict=True)]
    keys = sorted(set(tables[0].keys) & set(tables[1].keys))
    if not keys:
        raise PipelineError(
            f"{first.artifact.directory} and {second.artifact.directory}: no image was scored in both; see their rows"
        )
    counts = []
    for table in tables:  # the images that both have scored, in one order, as resamplings are drawn for both at once
        rows = np.searchsorted(np.array(table.keys, object), np.array(keys, object))
        counts.append(ClassCounts(**{name: per_image[rows] for name, per_image in vars(table.counts).items()}))
    mious = [metrics_of(of, [""] * len(first.attributes.class_names))["miou_present"].tolist() for of in counts]
    ious = enumerate(compare_classes(counts[0], counts[1], rounds=rounds))
    return Comparison(
        dataset=first.attributes.dataset,
        variants=(names[0], names[1]),
        images=len(keys),
        left_out=len(set(tables[0].keys) ^ set(tables[1].keys)),
        differences=compare_counts(counts[0], counts[1], first.attributes.seen, rounds=rounds),
        class_names=tuple(first.attributes.class_names),
        classes={index: found for index, found in ious if not (math.isnan(found.first) and math.isnan(found.second))},
        per_image={key: (one, other) for key, one, other in zip(keys, *mious, strict=True) if not math.isnan(one)},
    )


def scores_at(directory: Path) -> list[Scores]:
    """Return the scores at a directory, or those that the report there is of; each finished.

    Raises:
        PipelineError: If it holds neither, or a report's scores are gone.
        ArtifactError: If an artifact is not finished, or damaged.
    """
    artifact = Artifact.open(directory)
    kind = artifact.identity.kind
    if kind == scores.KIND:
        artifact.manifest()
        return [Scores(artifact)]
    if kind != reports.KIND:
        raise PipelineError(
            f"{directory}: is an artifact of {kind}, expected {scores.KIND} or {reports.KIND}; give one of these"
        )
    found = []
    for dataset in reports.read_numbers(artifact)["datasets"]:
        digest = dataset["digests"]["scores"]
        candidates = sorted((directory.parent.parent / scores.KIND).glob(f"*-{digest[:12]}"))
        if not candidates:
            raise PipelineError(
                f"{directory}: the scores {digest[:12]} of {dataset['dataset']} are gone; evaluate again"
            )
        found += scores_at(candidates[0])
    return found
