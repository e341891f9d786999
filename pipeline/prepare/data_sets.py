"""Settings to source: the one place that knows all data sets."""

from collections.abc import Callable

from pipeline.drawn_world.world import split_indices
from pipeline.prepare.ade20k import ReferenceResized, ade20k_150, ade20k_847
from pipeline.prepare.coco import CocoSource
from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.drawn_world import DrawnWorldSource
from pipeline.prepare.folder import folder
from pipeline.prepare.pascal import pascal_context_59, pascal_context_459, pascal_voc
from pipeline.prepare.source import SceneSource
from pipeline.settings import PrepareSettings


def open_source(settings: PrepareSettings) -> SceneSource:
    """Open a data set.

    Raises:
        LayoutError: If its directory is not in the expected layout.
    """
    if settings.dataset == "drawn-world":
        options = settings.drawn_world
        try:
            indices = split_indices(settings.split, options.scenes)
        except ValueError as error:
            raise LayoutError(str(error)) from error
        return DrawnWorldSource(
            seed=options.seed, first_index=indices.start, scenes=len(indices), size_px=options.size_px
        )
    if not settings.root.is_dir():
        raise LayoutError(f"{settings.dataset}: {settings.root} is no directory; correct --root")
    root = DataRoot(settings.dataset, settings.root, settings.max_image_px)
    return _READERS[settings.dataset](root, settings)


def _coco(root: DataRoot, settings: PrepareSettings) -> SceneSource:
    return CocoSource(
        root,
        split=settings.split,
        labels=settings.labels,
        captions=settings.captions,
        annotation_files=settings.annotations,
        images=settings.images,
        present_only=settings.present_only,
        stuff_values=settings.stuff_values,
    )


def _ade20k_847(root: DataRoot, settings: PrepareSettings) -> SceneSource:
    source = ade20k_847(root, settings.split)
    return ReferenceResized(source) if settings.reference_resize else source


_READERS: dict[str, Callable[[DataRoot, PrepareSettings], SceneSource]] = {
    "coco": _coco,
    "ade20k-150": lambda root, settings: ade20k_150(root, settings.split),
    "ade20k-847": _ade20k_847,
    "pascal-context-59": lambda root, settings: pascal_context_59(root, settings.split),
    "pascal-context-459": lambda root, settings: pascal_context_459(root, settings.split),
    "pascal-voc-20": lambda root, settings: pascal_voc("pascal-voc-20", root, settings.split, settings.voc_labels),
    "pascal-voc-21": lambda root, settings: pascal_voc("pascal-voc-21", root, settings.split, settings.voc_labels),
    "folder": lambda root, settings: folder(root, settings.split),
}
