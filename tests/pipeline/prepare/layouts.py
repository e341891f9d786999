"""Miniature copies of official layouts, made of generated pictures."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.source import SceneSource
from pipeline.prepare.vocabulary import load_vocabulary

SHARED_DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


def picture(width: int = 24, height: int = 16, seed: int = 0) -> np.ndarray:
    """Draw a smooth RGB picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))


def encoded(values: np.ndarray | Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """Encode an image with Pillow."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(width: int = 24, height: int = 16, seed: int = 0, **options: object) -> bytes:
    """Encode a picture as JPEG."""
    return encoded(picture(width, height, seed), "JPEG", **options)


def decoded(png: bytes) -> np.ndarray:
    """Decode a PNG as it is stored."""
    return np.asarray(Image.open(io.BytesIO(png)))


def put(path: Path, data: bytes | str) -> Path:
    """Write a file, making its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def pixel_counts(maps: Iterable[np.ndarray]) -> dict[int, int]:
    """Count pixels per value, naively."""
    counts: dict[int, int] = {}
    for values in maps:
        for value in values.ravel().tolist():
            counts[value] = counts.get(value, 0) + 1
    return counts


def coco_json(
    root: Path, name: str, images: list[dict], annotations: list[dict], vocabulary: str | None = None
) -> None:
    """Write one of COCO's annotation files, with the categories of a vocabulary."""
    document = {"images": images, "annotations": annotations}
    if vocabulary is not None:
        known = load_vocabulary(vocabulary)
        document["categories"] = [
            {"id": number, "name": name} for number, name in zip(known.source_ids, known.class_names, strict=True)
        ]
    put(root / "annotations" / name, json.dumps(document))


def make_coco(root: Path, *, images: int = 3, split: str = "val2017") -> list[int]:
    """Make a COCO of 24 x 16 px images with captions and all three kinds of labels; return the image ids."""
    ids = [139 + 7 * number for number in range(images)]
    records = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 24, "height": 16} for i in ids]
    captions, instances, panoptic = [], [], []
    for number, image_id in enumerate(ids):
        put(root / split / f"{image_id:012d}.jpg", jpeg(seed=number))
        captions += [
            {"id": 10 * image_id + place, "image_id": image_id, "caption": f"a cat {place} on {image_id}"}
            for place in range(2)
        ]
        square = [2, 2, 12, 2, 12, 10, 2, 10]
        crowd = {"size": [16, 24], "counts": [0, 16 * 20, 16 * 4]}
        instances += [
            _instance(image_id * 3, image_id, 17, 80.0, [square]),
            _instance(image_id * 3 + 1, image_id, 18, 16.0, [[4, 4, 8, 4, 8, 8, 4, 8]]),
            _instance(image_id * 3 + 2, image_id, 1, 320.0, crowd, crowd=1),
        ]
        panoptic.append(_panoptic(root, split, image_id))
        stuff = np.full((16, 24), 255, np.uint8)
        stuff[:, :8], stuff[:, 8:12], stuff[:, 12:16] = 0, 181, 200
        put(root / "stuffthingmaps" / split / f"{image_id:012d}.png", encoded(stuff))
    coco_json(root, f"captions_{split}.json", records, captions)
    coco_json(root, f"instances_{split}.json", records, instances, "coco-things-80")
    coco_json(root, f"panoptic_{split}.json", records, panoptic, "coco-panoptic-133")
    return ids


def _instance(number: int, image_id: int, category: int, area: float, segmentation: object, crowd: int = 0) -> dict:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "area": area,
        "iscrowd": crowd,
        "segmentation": segmentation,
    }


def _panoptic(root: Path, split: str, image_id: int) -> dict:
    """Write a panoptic PNG of two things, a crowd, and stuff; the first column has no segment."""
    segments = {3: (1, 0), 300: (1, 0), 70000: (18, 1), 5_000_000: (200, 0)}
    numbers = np.zeros((16, 24), np.uint32)
    for place, number in enumerate(segments):
        numbers[:, 1 + 5 * place : 6 + 5 * place] = number
    rgb = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255], axis=-1).astype(np.uint8)
    name = f"{image_id:012d}.png"
    put(root / "annotations" / f"panoptic_{split}" / name, encoded(rgb))
    infos = [{"id": n, "category_id": c, "iscrowd": crowd, "area": 80} for n, (c, crowd) in segments.items()]
    return {"image_id": image_id, "file_name": name, "segments_info": infos}


def make_ade20k_150(root: Path, images: int = 3) -> None:
    """Make an ADEChallengeData2016 with labels 0, 1 and 150."""
    for number in range(1, images + 1):
        stem = f"ADE_val_{number:08d}"
        label = np.zeros((16, 24), np.uint8)
        label[:, 4:9], label[:, 9:] = 1, 150
        put(root / "images" / "validation" / f"{stem}.jpg", jpeg(seed=number))
        put(root / "annotations" / "validation" / f"{stem}.png", encoded(label))


def make_ade20k_847(root: Path, sizes: Iterable[tuple[int, int]] = ((24, 16), (24, 16))) -> None:
    """Make a full release: class ids 2978 (wall) and 312 (building), one that no class has, and 0."""
    for number, (width, height) in enumerate(sizes, start=1):
        for split, directory in (("val", "validation"), ("train", "training")):
            stem = root / "images" / "ADE" / directory / "urban" / "street" / f"ADE_{split}_{number:08d}"
            ids = np.zeros((height, width), np.uint32)
            third = width // 3
            ids[:, :third], ids[:, third : 2 * third], ids[: height // 2, 2 * third :] = 2978, 312, 7
            instances = np.arange(height * width, dtype=np.uint32).reshape(height, width) % 200
            seg = np.stack([ids // 256 * 10 + instances % 10, ids % 256, instances], axis=-1).astype(np.uint8)
            put(stem.with_suffix(".jpg"), jpeg(width, height, number))
            put(stem.with_name(f"{stem.name}_seg.png"), encoded(seg))
            put(stem.with_name(f"{stem.name}_parts_1.png"), encoded(seg))
            put(stem / f"instance_000_{stem.name}.png", encoded(seg[..., 0]))
    put(root / "index_ade20k.pkl", b"cposix\nsystem\n(S'exit 1'\ntR.")


def make_pascal_context(root: Path, images: int = 3) -> None:
    """Make a VOC2010 with Pascal Context's labels 0, 2 (aeroplane), 1 (accordion) and 459 (wool)."""
    names = load_vocabulary("pascal-context-459").class_names
    put(root / "labels.txt", "".join(f"{value}: {name}\n" for value, name in enumerate(names, start=1)))
    ids = [f"2008_{number:06d}" for number in range(images)]
    put(root / "pascalcontext_val.txt", "\n".join(reversed(ids)) + "\n\n")
    for number, image_id in enumerate(ids):
        label = np.zeros((16, 24), np.uint16)
        label[:, 4:9], label[:, 9:12], label[:, 12:] = 2, 1, 459
        put(root / "JPEGImages" / f"{image_id}.jpg", jpeg(seed=number))
        (root / "trainval").mkdir(exist_ok=True)
        scipy.io.savemat(root / "trainval" / f"{image_id}.mat", {"LabelMap": label}, do_compression=True)


def make_pascal_voc(root: Path, images: int = 3, labels: str = "SegmentationClassAug") -> None:
    """Make a VOC2012 with palette labels: background, aeroplane, tvmonitor, and a border."""
    ids = [f"2011_{number:06d}" for number in range(images)]
    put(root / "ImageSets" / "Segmentation" / "val.txt", "\n".join(ids) + "\n")
    for number, image_id in enumerate(ids):
        label = np.zeros((16, 24), np.uint8)
        label[:, 4:9], label[:, 9:12], label[:, 12:] = 1, 20, 255
        palette = Image.fromarray(label, "L").convert("P")
        palette.putdata(label.ravel().tolist())
        palette.putpalette([value * 37 % 256 for value in range(768)])
        put(root / "JPEGImages" / f"{image_id}.jpg", jpeg(seed=number))
        put(root / labels / f"{image_id}.png", encoded(palette))


def make_export(root: Path, images: int = 2) -> None:
    """Make an export of CVAT: pictures, and one JSON file with categories of its own."""
    records = [{"id": number, "file_name": f"frame_{number}.jpg"} for number in range(1, images + 1)]
    objects = [_instance(each["id"], each["id"], 1, 80.0, [[2, 2, 12, 2, 12, 10, 2, 10]]) for each in records]
    for each in records:
        put(root / "images" / each["file_name"], jpeg(seed=each["id"]))
    document = {"images": records, "annotations": objects, "categories": [{"id": 1, "name": "weld seam"}]}
    put(root / "annotations" / "instances_default.json", json.dumps(document))


def make_folder(root: Path, images: int = 3) -> None:
    """Make a folder of three classes with labels and captions."""
    put(root / "classes.txt", "sky\noculus\nroad\n")
    lines = ["image\tcaption"]
    for number in range(images):
        label = np.full((16, 24), 255, np.uint8)
        label[:, :10], label[:, 10:13] = 0, 2
        put(root / "images" / f"shot_{number}.jpg", jpeg(seed=number))
        put(root / "labels" / f"shot_{number}.png", encoded(label))
        lines.append(f"shot_{number}\ta road under the sky, number {number}")
    put(root / "captions.tsv", "\n".join(lines) + "\n")


def identity_of(source: SceneSource) -> Mapping[str, str | int | bool]:
    """Return what decides all scenes of a source."""
    return source.identity(FileDigests(), source.keys())
