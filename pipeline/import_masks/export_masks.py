"""Our proposals for others: COCO results, the file that detectors write and pycocotools reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_models.image_input import nearest_resized
from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact
from storage_schemas.commit import Disk, make_directories, published_file
from storage_schemas.proposals import KIND, SceneProposals, read_proposals
from storage_schemas.rle import areas_px, boxes_xyxy, decode_masks, encode_masks
from storage_schemas.scenes import KIND as SCENES
from storage_schemas.scenes import SceneShard


def export_masks(proposals: Artifact, scenes: Artifact, file: Path, *, at_net_size: bool = False) -> int:
    """Write proposals as a JSON list of COCO results, scene by scene.

    Beside COCO's own keys each record has ``query``, the number of the proposal, and ``file_name``. Masks lie on the
    upright picture. At the net's size nothing is lost: imported again, they give the same embeddings and pairs.

    Args:
        proposals: Finished.
        scenes: Of which they are.
        file: To be written; replaced if it is there.
        at_net_size: Leave masks at the size at which the net sees pictures, else they are brought to the pictures' own.

    Returns:
        The number of masks.

    Raises:
        PipelineError: If they are of other scenes.
        WriteError: If the operating system refuses.
    """
    proposals.require(KIND)
    scenes.require(SCENES)
    missing = set(scenes.description.units) - set(proposals.description.units)
    if missing:
        raise PipelineError(
            f"{proposals.directory}: has no {min(missing)} of {scenes.directory}; give the scenes that it is of"
        )
    make_directories(file.absolute().parent, Disk())
    count = 0
    with published_file(file.absolute(), Disk()) as staged:
        for record in _records(proposals, scenes, at_net_size=at_net_size):
            staged.write((",\n" if count else "[\n").encode() + json.dumps(record, ensure_ascii=False).encode())
            count += 1
        staged.write(b"\n]\n" if count else b"[]\n")
    return count


def _records(proposals: Artifact, scenes: Artifact, *, at_net_size: bool) -> Iterator[dict[str, Any]]:
    """Yield the records of all masks, in order of scenes and queries."""
    columns = ["key", "image_id", "source_path", "width_px", "height_px", "exif_orientation"]
    for unit in scenes.description.units:
        rows = SceneShard(scenes, unit).index.select(columns).to_pylist()
        for row, found in zip(rows, read_proposals(proposals, unit), strict=True):
            if row["key"] != found.key:
                message = f"{proposals.directory}: {unit} has {found.key!r} where its scenes have {row['key']!r}"
                raise PipelineError(f"{message}; give the scenes that it is of")
            size = (found.height_px, found.width_px)
            if not at_net_size:
                size = row["height_px"], row["width_px"]
                size = size[::-1] if row["exif_orientation"] > 4 else size
            yield from _of_scene(row, found, size)


def _of_scene(row: dict[str, Any], found: SceneProposals, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the records of one scene at a size; a mask that has no pixel there is left out."""
    image_id: str = row["image_id"]
    is_number = image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id
    for query, mask, score in zip(found.queries.tolist(), found.mask_counts, found.objectness.tolist(), strict=True):
        counts = mask
        if size != (found.height_px, found.width_px):
            (inside,) = decode_masks([mask], found.height_px, found.width_px)
            (counts,) = encode_masks(nearest_resized(inside.astype(np.uint8), *size).astype(bool)[None])
        area = int(areas_px([counts], *size)[0])
        if not area:
            continue
        left, top, right, bottom = boxes_xyxy([counts], *size)[0].tolist()
        yield {
            "image_id": int(image_id) if is_number else image_id,
            "file_name": row["source_path"] or row["key"],
            "category_id": 1,
            "segmentation": {"size": list(size), "counts": counts.decode("ascii")},
            "score": score,
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "query": query,
        }
