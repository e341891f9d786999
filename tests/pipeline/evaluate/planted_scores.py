"""Scores of planted predictions: images of sky above a duck and a boat, and what each variant makes of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ovseg_models.label_counts import count_labels
from pipeline.evaluate.stored_scores import Scores
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Description, Identity
from storage_schemas.scores import KIND, SCHEMA_VERSION, ImageCounts, ScoresAttributes, ScoreShardWriter

SKY, DUCK, BOAT = 0, 1, 2
NAMES = ("sky", "duck", "boat")
IGNORED = 255

Change = Callable[[np.ndarray], None]


def right(predicted: np.ndarray) -> None:
    """Change nothing."""


def boats_called_ducks(predicted: np.ndarray) -> None:
    """Take each boat for a duck."""
    predicted[predicted == BOAT] = DUCK


def half_of_the_boat_is_sky(predicted: np.ndarray) -> None:
    """Miss the upper half of the boat."""
    predicted[10:15, 10:] = SKY


def planted(
    runs: Path,
    predictions: Mapping[str, Change],
    *,
    name: str = "planted",
    keys: Sequence[str] = tuple(f"image-{number}" for number in range(8)),
    class_names: Sequence[str] = NAMES,
    relabelled: Mapping[str, Change] = {},
    scenes: str = "0" * 64,
    failed: Sequence[str] = (),
) -> Scores:
    """Write scores.

    Args:
        predictions: What each variant makes of the labels; the first is the main one.
        relabelled: What is changed in the labels of some images.
        scenes: Digest of the scenes.
        failed: Keys of images that could not be scored.
    """
    variants: dict[str, Json] = {variant: {"name": variant, "view": {"clip": "adapted"}} for variant in predictions}
    attributes = ScoresAttributes(
        dataset="planted",
        vocabulary="planted",
        class_names=tuple(class_names),
        seen=("seen", "seen", "unseen"),
        main_variant=next(iter(predictions)),
        variants=variants,
    )
    identity = Identity(
        kind=KIND, name=name, schema_version=SCHEMA_VERSION, producer_version=1, settings={}, inputs={"scenes": scenes}
    )
    description = Description(identity=identity, units=("shard-00000",), attributes=attributes.to_json())
    artifact = Artifact.planned(runs, description)
    with artifact.writing():
        with artifact.write_unit("shard-00000") as unit_writer:
            writer = ScoreShardWriter(unit_writer, len(class_names))
            for key in sorted(keys):
                truth = np.full((20, 20), SKY, np.uint16)
                truth[10:, :10], truth[10:, 10:] = DUCK, BOAT
                relabelled.get(key, right)(truth)
                for number, (variant, change) in enumerate(predictions.items()):
                    if key in failed:
                        writer.add_failed(variant, key, "prediction_missing", "there is none")
                        continue
                    predicted = truth.copy()
                    change(predicted)
                    counts = count_labels(truth, predicted, class_count=len(class_names), ignore_label=IGNORED)
                    png = b"png" if number == 0 else None
                    writer.add(variant, key, ImageCounts(**vars(counts)), prediction_png=png)
            sidecar = writer.commit()
        artifact.finish(artifact.manifest_of({"shard-00000": sidecar}))
    return Scores(artifact)
