"""Pairs of the drawn world for tests: each region of a scene, exactly masked, with its own noun."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.rle import encode_masks


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def made_pair(name: str, image: np.ndarray, mask: np.ndarray, noun: str) -> Pair:
    """Cut a pair out of a picture [height width 3] with a mask [height width]."""
    lines, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(lines[0]), int(columns[-1]) + 1, int(lines[-1]) + 1)
    part = np.s_[box[1] : box[3], box[0] : box[2]]
    return Pair(
        pair=name,
        key=name.rsplit("-", 1)[0],
        image_id=name,
        noun=noun,
        noun_text=noun,
        region=0,
        score=0.5,
        height_px=image.shape[0],
        width_px=image.shape[1],
        mask_counts=encode_masks(mask[None])[0],
        area_px=int(mask.sum()),
        box_xyxy=box,
        crop_suffix="png",
        crop=png(np.ascontiguousarray(image[part])),
        crop_mask_png=png(mask[part].astype(np.uint8) * 255),
    )


def made_pairs(runs: Path, scenes: int, *, shards: int = 2, more: Sequence[Pair] = ()) -> Artifact:
    """Write the pairs of the first training scenes, with rows that are no pairs among them."""
    identity = Identity(
        kind=KIND,
        name="made",
        schema_version=SCHEMA_VERSION,
        producer_version=1,
        settings={"scenes": scenes, "more": len(more)},
    )
    units = tuple(f"shard-{number:05d}" for number in range(shards))
    artifact = Artifact.planned(runs, Description(identity=identity, units=units))
    indices = list(split_indices("train", scenes))
    with artifact.writing():
        sidecars = {}
        for number, unit in enumerate(units):
            with artifact.write_unit(unit) as unit_writer:
                writer = PairShardWriter(unit_writer)
                for index in indices[number::shards]:
                    add_scene(writer, index)
                for pair in more if number == shards - 1 else ():
                    writer.add(pair)
                sidecars[unit] = writer.commit()
        artifact.finish(artifact.manifest_of(sidecars))
    return artifact


def add_scene(writer: PairShardWriter, index: int) -> None:
    """Add the regions of one scene, and a row for a caption that names nothing."""
    scene = DrawnWorld(seed=0).scene(index)
    key = f"drawn-{index:08d}"
    for place, label in enumerate(np.unique(scene.label_map)):
        mask = scene.label_map == label
        if mask.sum() >= 40:
            writer.add(made_pair(f"{key}-{place:03d}", scene.image, mask, NOUNS[label]))
    writer.add(Pair(pair=f"{key}-999", key=key, image_id=key, status="no_noun", reason="the caption names nothing"))
