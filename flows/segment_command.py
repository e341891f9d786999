"""``ovseg segment``: photographs and class names in; label maps, pictures of them and lists of masks out."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.errors import PipelineError
from pipeline.visible_text import visible

if TYPE_CHECKING:
    from ovseg_models.class_names import Vocabulary

logger = logging.getLogger(__name__)

_OF_THE_SEGMENTER = "(default: as the segmenter says)"
OwnShare = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint=_OF_THE_SEGMENTER)]
OwnNamer = Annotated[Literal["crops", "one-pass", "pooled"] | None, tyro.conf.arg(help_behavior_hint=_OF_THE_SEGMENTER)]
OwnSize = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=_OF_THE_SEGMENTER)]

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


def segment(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")],
    *,
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    vocabulary: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    model: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    find: bool = False,
    min_score: float = 0.0,
    ensemble_weight: OwnShare = None,
    mask_threshold: OwnShare = None,
    short_side_px: OwnSize = None,
    max_side_px: OwnSize = None,
    namer: OwnNamer = None,
    memory: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=_OF_THE_SEGMENTER)] = None,
    device: str = "auto",
) -> int:
    """Segment photographs into classes that you name.

    For each image NAME three files are written: NAME.labels.png (class indices in the order of --classes, 8 bit, or
    16 bit for 256 classes and more; 255 or 65535 = nothing found), NAME.overlay.png (the photograph, painted, with a
    legend) and NAME.json (each mask with its class, probabilities of both branches, area, box and run lengths).
    An image that cannot be read doesn't stop the others; it is listed at the end and the exit status is 1.

    Args:
        images: Image files, and folders whose image files are taken, but for results of an earlier run.
        classes: Class names, such as: --classes "traffic light" street sky, or --classes "traffic light, street";
            "sofa|couch" is one class of two words
        vocabulary: In place of --classes: file with a class a line, such as sofa | couch, with groups and others.
        model: Folder of a segmenter.
        out: Folder for the results, made if need be; files of the same names are replaced.
        find: Find the named things and leave the rest unlabelled, instead of giving each pixel a class.
        min_score: With --find: a class whose best mask scores less is not found.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only.
        mask_threshold: Mask probability above which a pixel is in the mask.
        short_side_px: Short side of the net's input, in pixels.
        max_side_px: Upper bound of its long side.
        namer: How CLIP sees masks: a crop of each, or the picture in one pass, which is many times as fast.
        memory: File of remembered masks, which name regions beside the texts ('ovseg memory add').
        device: Where to compute: auto (CUDA where there is one), cpu, cuda, cuda:1 and so on.

    Returns:
        0, or 1 if an image failed.

    Raises:
        PipelineError: If there are no classes, one of them twice or not in UTF-8, no images, or the segmenter cannot be
            loaded.
    """
    named = _vocabulary(classes, vocabulary, has_images=bool(images))
    where = "--classes" if vocabulary is None else f"--vocabulary: {vocabulary}"
    if min_score and not find:
        raise PipelineError(
            f"--min-score: found {min_score} without --find, which it is for; add --find, or leave it out"
        )
    paths = _image_files(images)
    from ovseg_models.segmenter import Segmenter

    own = {
        "ensemble_weight": ensemble_weight,
        "mask_threshold": mask_threshold,
        "short_side_px": short_side_px,
        "max_side_px": max_side_px,
        "namer": namer,
    }
    try:
        segmenter = Segmenter.load(model, device=device, **{name: own[name] for name in own if own[name] is not None})
        if memory is not None:
            from ovseg_models.memory import Memory

            segmenter.memory = Memory.load(memory)
    except (ValueError, OSError, RuntimeError) as error:
        raise PipelineError(str(error)) from error
    try:
        segmenter.check_names(named)  # before any image is read; a warning comes with the first one
    except ValueError as error:
        raise PipelineError(str(error).replace("class names", where, 1)) from error
    out.mkdir(parents=True, exist_ok=True)
    failures = []
    for path, name in zip(paths, _result_names(paths), strict=True):
        start_s = time.monotonic()
        try:
            _refuse_too_many_pixels(path)
            result = segmenter.find(path, named, min_score=min_score) if find else segmenter.segment(path, named)
            result.save(out, name)
        except (ValueError, OSError) as error:
            failures.append(str(error))
            continue
        seconds = time.monotonic() - start_s
        logger.info("%s: %d x %d px, %.1f s: %s", path, *result.encoded.image.size, seconds, result.shares_in_words())
    if failures:
        sys.stderr.write("".join(f"ovseg: {visible(str(failure))}\n" for failure in failures))
        summary = f"{len(failures)} of {len(paths)} images failed; the results of the others are"
        if len(failures) == len(paths):
            all_of_them = "the only image" if len(paths) == 1 else f"all {len(paths)} images"
            summary = f"{all_of_them} failed; no result is"
        sys.stderr.write(f"ovseg: {summary} in {out}\n")
    return 1 if failures else 0


def _vocabulary(classes: Sequence[str], file: Path | None, *, has_images: bool) -> "Vocabulary":
    """Read the file, or split names at commas as the app does; refuse images among them, no name, and too many.

    Raises:
        PipelineError: Before anything is loaded.
    """
    from ovseg_models.class_names import CLASSES_MAX, Vocabulary, split_class_names

    if file is not None:
        if classes:
            raise PipelineError(f"--classes: found {list(classes)} beside --vocabulary; give one of them")
        try:
            read = Vocabulary.read(file)
        except (OSError, ValueError) as error:
            raise PipelineError(f"--vocabulary: {error}") from error
        if len(read.class_names) > CLASSES_MAX:
            raise PipelineError(f"--vocabulary: {file}: holds more than {CLASSES_MAX} classes; name fewer")
        return read
    for name in classes:
        path = Path(name)
        if path.suffix.lower() in _IMAGE_SUFFIXES or (not has_images and path.exists()):
            raise PipelineError(
                f"--classes: found {name!r}, which is an image or a folder and no class name; write images before the "
                f"options: ovseg segment {name} --classes ..."
            )
    if not classes or not all(split_class_names(name) for name in classes):
        raise PipelineError(
            f"--classes: found {list(classes)}, at least one name and no blank one is expected; name what to find"
        )
    if len(classes) > CLASSES_MAX:
        raise PipelineError(f"--classes: found {len(classes)} names, a PNG can hold {CLASSES_MAX}; name fewer")
    try:
        return Vocabulary.of([part for name in classes for part in split_class_names(name)])
    except ValueError as error:
        raise PipelineError(str(error).replace("class names", "--classes", 1)) from error


def _refuse_too_many_pixels(path: Path) -> None:
    """Refuse a picture that 'ovseg prepare' would refuse, before its pixels are decoded; others' faults come later.

    Raises:
        ValueError: If it has more pixels than that limit.
    """
    from PIL import Image

    from ovseg_models.image_input import PIXELS_MAX

    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: has far more than {PIXELS_MAX} pixels; shrink it") from error
    except (OSError, SyntaxError, ValueError):
        return  # whoever decodes it says what is wrong
    if pixels > PIXELS_MAX:
        raise ValueError(f"{path}: has {pixels} pixels, at most {PIXELS_MAX} are expected; shrink it")


def _image_files(given: Sequence[Path]) -> list[Path]:
    """List the files, each once, a folder's image files in its place by name.

    Raises:
        PipelineError: If there is none, or a folder holds none.
    """
    from ovseg_models.segmentation import RESULT_ENDINGS

    paths: dict[Path, None] = {}
    for path in given:
        if not path.is_dir():
            paths[path] = None
            continue
        inside = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in _IMAGE_SUFFIXES and not file.name.endswith(RESULT_ENDINGS) and file.is_file()
        )
        if not inside:
            raise PipelineError(
                f"{path}: holds no image files ({', '.join(sorted(_IMAGE_SUFFIXES))}); give another folder"
            )
        paths.update(dict.fromkeys(inside))
    if not paths:
        raise PipelineError("ovseg segment: there is no image; give files or folders")
    return list(paths)


def _result_names(paths: Sequence[Path]) -> list[str]:
    """Name each image's results after its file, with the suffix or a number where that isn't clear."""
    stems = Counter(path.stem for path in paths)
    expected = [path.stem if stems[path.stem] == 1 else path.name for path in paths]
    taken: set[str] = set()
    names = []
    for name in expected:
        number, unique = 2, name
        while unique in taken:
            number, unique = number + 1, f"{name}-{number}"
        taken.add(unique)
        names.append(unique)
    return names
