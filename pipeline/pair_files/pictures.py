"""The pictures of pairs: written at the size at which they were mined, or named where the data set has them."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from pipeline.errors import PipelineError
from pipeline.ordered_threads import in_threads
from pipeline.stored_pictures import UndecodableError, upright_picture
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.commit import Disk, make_directories, write_file
from storage_schemas.pairs import read_index
from storage_schemas.scenes import Scene, SceneShard

PICTURES_FILE = "pictures.csv"

_OF_SCENES = ("key", "image_id", "source_path", "exif_orientation")


def mined_sizes(pairs: Artifact) -> dict[str, tuple[int, int]]:
    """Return width and height at which the masks of each picture with a pair lie, by scene, in order of the pairs."""
    sizes: dict[str, tuple[int, int]] = {}
    for unit in pairs.description.units:
        for row in read_index(pairs, unit, columns=("key", "status", "width_px", "height_px")).to_pylist():
            if row["status"] == OK:
                sizes[row["key"]] = row["width_px"], row["height_px"]
    return sizes


def write_pictures(sizes: Mapping[str, tuple[int, int]], scenes: Artifact, paths: Mapping[str, Path]) -> None:
    """Write pictures upright, at the size on which their masks lie, as PNG.

    Args:
        sizes: Width and height of each, by scene.
        scenes: Finished.
        paths: Where to write each, by scene.

    Raises:
        PipelineError: If a picture cannot be decoded, or a scene is missing.
    """
    for directory in {path.parent for path in paths.values()}:
        make_directories(directory, Disk())

    def encoded(scene: Scene) -> tuple[str, bytes]:
        try:
            picture = upright_picture(scene)
        except UndecodableError as error:
            raise PipelineError(f"{scenes.directory}: scene {scene.key} {error}; prepare the scenes again") from error
        buffer = io.BytesIO()
        resized = picture.resize(sizes[scene.key], Image.Resampling.BILINEAR)  # as it was mined
        resized.save(buffer, format="PNG", compress_level=1)
        return scene.key, buffer.getvalue()

    written = 0
    for unit in scenes.description.units:
        shard = SceneShard(scenes, unit)
        numbers = [number for number, key in enumerate(shard.index["key"].to_pylist()) if key in sizes]
        for key, data in in_threads(encoded, shard.scenes(numbers, labels=False)):
            write_file(paths[key], data, Disk())
            written += 1
    if written < len(sizes):
        raise PipelineError(f"{scenes.directory}: {len(sizes) - written} scenes of the pairs are not in it")


def source_paths(scenes: Artifact) -> dict[str, str]:
    """Return by scene where the data set has its picture, relative to its own root; the key where none is known."""
    tables = (SceneShard(scenes, unit).index.select(_OF_SCENES) for unit in scenes.description.units)
    return {row["key"]: row["source_path"] or row["key"] for table in tables for row in table.to_pylist()}


def write_picture_list(sizes: Mapping[str, tuple[int, int]], scenes: Artifact, out: Path) -> None:
    """Write which file of the data set is the picture of which scene, and to which size masks fit it, as CSV.

    Args:
        sizes: Width and height at which masks lie, by scene.
        out: Directory.

    Raises:
        WriteError: If the operating system refuses.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["key", "image_id", "file_name", "exif_orientation", "width_px", "height_px"])
    for unit in scenes.description.units:
        for row in SceneShard(scenes, unit).index.select(_OF_SCENES).to_pylist():
            if row["key"] in sizes:
                name = row["source_path"] or row["key"]
                writer.writerow([row["key"], row["image_id"], name, row["exif_orientation"], *sizes[row["key"]]])
    write_file(out / PICTURES_FILE, text.getvalue().encode(), Disk())
