"""By which rules an evaluation was counted, in words for its report: what numbers of others are compared with."""

from pipeline.settings import EvaluateSettings, PredictionsSettings
from storage_schemas.artifact import Artifact

NUMBERS = "numbers"
"""Fact of a unit of scores of predictions: what the numbers in files were read as."""

_READ_AS = {
    "index": "places in the class list, from 0",
    "dataset": "the data set's own numbers",
}


def protocol(
    scores: Artifact, settings: EvaluateSettings, predictions: PredictionsSettings | None, *, ignore_label: int
) -> dict[str, str]:
    """Return the rules by what they are about; of predictions in files, also how those were read.

    Args:
        scores: Finished.
        settings: Of the evaluation.
        predictions: Where the predictions lie; None for those of our nets.
        ignore_label: Value of pixels without a class in label maps.
    """
    rules = {
        "mIoU": "divides by the classes that have ground truth or were predicted anywhere; 'mIoU of present classes' "
        "by those with ground truth; pixels of all pictures are summed up first",
        "ignored pixels": f"those of {ignore_label} in the label maps; left out of everything, whatever was predicted",
        "seen and unseen": "by name, whether COCO-Stuff names the class too; where that is uncertain it is neither",
        "boundaries": "pixels whose distance to a region's border is at most 2 % of the picture's diagonal",
    }
    if predictions is None:
        sides = f"{settings.short_side_px} px short side, at most {settings.max_side_px} px long"
        return rules | {
            "sizes": f"the nets see pictures with {sides}; scores are resized bilinearly to the picture's size, then "
            "the highest wins",
            "pixels without a class": "none: each pixel gets the likeliest of all classes",
        }
    units = scores.status().units
    kinds = {str(unit.sidecar.facts[NUMBERS]) for unit in units if unit.sidecar and NUMBERS in unit.sidecar.facts}
    read_as = ", ".join(_READ_AS.get(kind, kind) for kind in sorted(kinds))
    none = ", ".join(str(number) for number in predictions.no_class)
    return rules | {
        "numbers in the files": f"{read_as or 'unknown'} (predictions.numbers = '{predictions.numbers}')",
        "sizes": "a prediction has its picture's own size; nothing is resized, another size is a failed row",
        "pixels without a class": f"those of {none}, of no record, or of 0 in the data set's own numbers: they are "
        "missed",
    }
