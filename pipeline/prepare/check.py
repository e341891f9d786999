"""The check of a data set: every file is read as preparation would, nothing is written, and what is odd is counted."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.prepare.images import inspect_image
from pipeline.prepare.report import Findings, PrepareReport
from pipeline.prepare.source import SceneSource
from storage_schemas.scenes import OK, Scene


def check_source(source: SceneSource, keys: Sequence[str], *, data_set: str, max_image_px: int) -> PrepareReport:
    """Read every scene of a source and report what is missing or odd.

    Args:
        source: The data set.
        keys: The scenes to read.
        data_set: What to call it.
        max_image_px: Width times height that is allowed at most [px].
    """
    report = PrepareReport(data_set, source.vocabulary.class_names, source.found())
    for key in keys:
        scene = source.scene(key)
        labelled = scene.label_png is not None
        report.add(
            key, scene.status, scene.reason, labelled=labelled, classes=scene.classes, captions=len(scene.captions)
        )
        if scene.status != OK:
            continue
        report.ignored_values.update(scene.ignored_values)
        if scene.label_png is not None:
            with Image.open(io.BytesIO(scene.label_png), formats=["PNG"]) as png:
                counts = np.bincount(np.asarray(png).ravel(), minlength=source.ignore_label + 1)
            report.ignored_px += int(counts[source.ignore_label])
            report.labelled_px.update({index: int(counts[index]) for index in scene.classes})
        for slug, words in _oddities(report, scene, max_image_px).items():
            report.oddities.setdefault(slug, Findings()).add(key, words)
    return report


def _oddities(report: PrepareReport, scene: Scene, max_image_px: int) -> dict[str, str]:
    """Return what is worth knowing of one usable scene, as slug to words."""
    colours = inspect_image(scene.image, max_image_px=max_image_px).colours
    odd = {}
    if scene.exif_orientation != 1:
        odd["exif_rotated"] = f"EXIF orientation {scene.exif_orientation}"
    if colours != "rgb":
        odd[f"colours_{colours}"] = scene.source_path
    if report.class_names and scene.label_png is None:
        odd["without_label"] = scene.source_path
    elif report.class_names and not scene.classes:
        odd["label_without_class"] = scene.source_path
    if not scene.captions:
        odd["without_caption"] = scene.source_path
    empty = [caption.caption_id for caption in scene.captions if not caption.text.strip()]
    if empty:
        odd["caption_empty"] = f"caption {', '.join(map(str, empty))}"
    return odd
