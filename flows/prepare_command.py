"""``ovseg prepare``: an official data set, anybody's own pictures, or the drawn world, become scenes."""

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pipeline.data_set_options import CocoLabelKind, DataSetName, StuffValues, VocLabelDirectory

if TYPE_CHECKING:
    from pipeline.settings import SettingsModel

Section = TypeVar("Section", bound="SettingsModel")


def prepare(
    dataset: Annotated[DataSetName, tyro.conf.Positional],
    *,
    root: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path(),
    split: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = "",
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs"),
    labels: CocoLabelKind = "stuff",
    no_captions: bool = False,
    annotations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")] = (),
    images: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the split's)")] = "",
    present_only: bool = False,
    stuff_values: StuffValues = "official",
    voc_labels: VocLabelDirectory = "SegmentationClassAug",
    reference_resize: bool = False,
    scenes: int = 1000,
    seed: int = 0,
    size_px: int = 96,
    scenes_per_shard: int = 1000,
    limit: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all)")] = None,
    max_image_px: int = 89_478_485,
    max_failed_share: float = 0.01,
    workers: int = 0,
    check: bool = False,
    json: bool = False,
) -> None:
    """Turn a data set in its official layout into scenes, or check it.

    What was prepared before is kept; the same command again does only the rest. docs/guides/data_preparation.md shows
    the layouts and says what becomes of odd files.

    Args:
        dataset: Name of the data set.
        root: Its directory; the drawn world needs none.
        split: train2017 or val2017 of COCO, train or val elsewhere; a folder may do without.
        runs: Directory of all artifacts.
        labels: COCO: labels of COCO-Stuff (171 classes), panoptic (133), instances (80 things), or none.
        no_captions: COCO: leave the captions out.
        annotations: COCO's format: JSON files of your own, relative to the root; their categories are the classes.
        images: COCO's format: directory of the pictures, relative to the root.
        present_only: COCO: take only the pictures that are there, as in a part of COCO with the official files.
        stuff_values: COCO: values of stuffthingmaps are category ids less one (official) or indices 0..170.
        voc_labels: Pascal VOC: directory of the labels.
        reference_resize: ADE20K-847: shrink to short side 512 px and save as JPEG of quality 75, as the reference does.
        scenes: Drawn world: number of scenes.
        seed: Drawn world: chooses the world.
        size_px: Drawn world: side of the pictures, in pixels.
        scenes_per_shard: Scenes of one unit of work.
        limit: Take the first scenes only, for a trial.
        max_image_px: Width times height of an image at most; larger ones are taken for decompression bombs.
        max_failed_share: Share of scenes that may be faulty.
        workers: Processes that share the work; 0 = this process alone.
        check: Read everything, write nothing, and report what is missing or odd.
        json: Print the report of what was found and used as JSON.

    Raises:
        SettingsError: If an option is wrong, or is one of another data set.
        LayoutError: If the directory does not have the data set's layout, or nothing of it can be used.
        StageError: If too many scenes are faulty.
    """
    from pipeline.settings import ComputeSettings, PrepareSettings, SettingsError

    options = {
        "dataset": dataset,
        "root": root,
        "split": split,
        "labels": labels,
        "captions": not no_captions,
        "annotations": annotations,
        "images": images,
        "present_only": present_only,
        "stuff_values": stuff_values,
        "voc_labels": voc_labels,
        "reference_resize": reference_resize,
        "drawn_world": {"scenes": scenes, "seed": seed, "size_px": size_px},
        "scenes_per_shard": scenes_per_shard,
        "limit": limit,
        "max_image_px": max_image_px,
    }
    faults: list[str] = []
    settings = _validated(PrepareSettings, options, faults)
    work = _validated(ComputeSettings, {"workers": workers, "max_failed_share": max_failed_share}, faults)
    if settings is None or work is None or faults:
        raise SettingsError(faults)
    if check:
        from pipeline.prepare.data_root import LayoutError
        from pipeline.prepare.data_sets import open_source
        from pipeline.prepare.prepare import scene_keys
        from pipeline.prepare.report import check_source

        source, name = open_source(settings), f"{settings.dataset} {settings.split}".rstrip()
        checked = check_source(source, scene_keys(source, settings), data_set=name, max_image_px=settings.max_image_px)
        sys.stdout.write(json_format.dumps(checked.to_json(), indent=2) + "\n" if json else checked.to_text())
        unusable = checked.found.no_label_used or ("" if checked.usable else "none of its scenes can be used")
        if unusable:
            raise LayoutError(f"{name}: {unusable}; nothing can be prepared of it")
        return
    from pipeline.executors import Compute
    from pipeline.prepare.prepare import prepare as prepare_data
    from pipeline.prepare.prepare import prepare_report
    from pipeline.shard_runner import Execution, Limits
    from storage_schemas.cards import card_facts

    execution = Execution(Compute(workers=work.workers), Limits(max_failed_share=work.max_failed_share))
    artifact = prepare_data(settings, runs, execution=execution).artifact
    if json:
        report = {"artifact": str(artifact.directory), **card_facts(artifact)}
        sys.stdout.write(json_format.dumps(report, indent=2) + "\n")
        return
    # The report goes beside the log, so that scripts read the directory alone.
    sys.stderr.write(prepare_report(artifact))
    sys.stdout.write(f"{artifact.directory}\n")


def _validated(section: type[Section], options: dict[str, Any], faults: list[str]) -> Section | None:
    """Make settings of the command's options; add what is wrong with them to the faults, and return None then."""
    from pydantic import ValidationError

    from pipeline.settings.faults import fault_lines

    try:
        return section(**options)
    except ValidationError as error:
        faults += fault_lines(error, section, options, source="prepare")
        return None
