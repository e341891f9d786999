"""The report of a training run: its metrics, their curves, and a sheet of proposals."""

from collections.abc import Collection

from PIL import Image

from pipeline.charts import Panel, Points, training_curves
from pipeline.picture_sheets import png
from pipeline.train_proposals.proposal_sheet import proposal_sheet
from pipeline.train_proposals.task import ProposalTask
from pipeline.training.metrics_log import METRICS_FILE, read_metrics
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import REPORT
from storage_schemas.columns import OK
from storage_schemas.manifest import Sidecar
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes

_SCENES_SHOWN = 8


def write_report(
    artifact: Artifact, task: ProposalTask, trained_on: Artifact, held_out_classes: Collection[str]
) -> Sidecar:
    """Write ``report.metrics.jsonl``, ``report.curves.png`` and ``report.proposals.png`` as one unit.

    Args:
        artifact: Held for writing; its metrics are in ``_local``.
        task: What was trained; the net is left in evaluation mode.
        trained_on: Scenes; the sheet shows those of the validation, if there are any.
        held_out_classes: Names of classes that it must not learn.
    """
    metrics = artifact.local_directory / METRICS_FILE
    train, validation = read_metrics(metrics, "train"), read_metrics(metrics, "validation")
    panels = [
        Panel("loss over all decoder layers, weighted", _curves(train, "loss"), "loss", noisy=True),
        Panel("classification term of the last decoder layer", _curves(train, "classification"), "loss", noisy=True),
        Panel("mask terms of the last decoder layer, unweighted", _curves(train, "dice", "focal"), "loss", noisy=True),
    ]
    if validation:
        figures = [name for name in validation[-1] if name not in {"step", "group"}]
        shown = [name for name in figures if name.startswith("best_iou")] + ["miou", "recall_50"]
        panels.append(Panel("validation", _curves(validation, *shown), "share"))
    with artifact.write_unit(REPORT) as unit:
        unit.file("metrics.jsonl").write(metrics.read_bytes())
        unit.file("curves.png").write(training_curves(panels))
        unit.file("proposals.png").write(png(_sheet(task, trained_on, held_out_classes)))
        rows = len(train) + len(validation)
        return unit.commit(rows=rows, counts={OK: rows})


def _curves(lines: list[dict[str, float]], *names: str) -> dict[str, Points]:
    return {name: [(line["step"], line[name]) for line in lines] for name in names}


def _sheet(task: ProposalTask, trained_on: Artifact, held_out_classes: Collection[str]) -> Image.Image:
    """Show scenes at even distances through the validation's, or the training's."""
    validation = task.validation
    scenes = validation.scenes if validation is not None else SceneCollection(trained_on, labelled=True)
    labels = ScenesAttributes.of(scenes.artifact)
    augmentation = task.settings.augmentation
    shown = min(_SCENES_SHOWN, len(scenes))
    return proposal_sheet(
        task.net.eval(),
        scenes,
        [place * len(scenes) // shown for place in range(shown)],
        class_names=labels.class_names,
        held_out=[index for index, name in enumerate(labels.class_names) if name in held_out_classes],
        ignore_label=labels.ignore_label,
        short_side_px=validation.short_side_px if validation is not None else augmentation.crop_px,
        max_side_px=validation.max_side_px if validation is not None else 4 * augmentation.crop_px,
    )
