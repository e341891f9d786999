"""What the metadata of a data set of COCO's size costs: 118,287 pictures, 591,753 captions, a label file for each.

Run alone: ``python -m tests.benchmarks.bench_metadata``. It makes annotations, pictures of one byte, labels of one
pixel and finished scenes in a temporary directory. Each part runs in a process of its own; printed are the CPU seconds
that it took beyond its imports, and the process's peak memory, imports included.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.mine.card import MAKER
from pipeline.mine.scene_nouns import CaptionNouns
from pipeline.prepare.prepare import plan_prepare
from pipeline.settings import NounSettings, PrepareSettings, Settings, load_settings
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import is_complete, run
from storage_schemas.artifact import Artifact
from storage_schemas.cards import write_card
from storage_schemas.commit import Disk
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import KIND as PAIRS
from storage_schemas.scenes import KIND, SCHEMA_VERSION, Caption, Scene, ScenesAttributes, SceneShard, SceneShardWriter

CONFIG = Path(__file__).parents[2] / "flows" / "configs" / "ovseg_swinb_vitl14.toml"
PICTURES, CAPTIONS, SCENES_PER_SHARD = 118_287, 591_753, 100
WORDS = (
    *("man", "woman", "dog", "cat", "horse", "street", "table", "car", "tree", "plate", "sky", "pizza", "bus"),
    *("red", "small", "old", "of", "on", "with", "near", "the"),
)


class Unsynced(Disk):
    """Writes without waiting for the device: what is made here is measured only when it is read."""

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()

    def sync_directory(self, directory: Path) -> None:
        del directory


def caption_texts(number: int) -> Iterator[str]:
    """Draw the captions of a picture; there are five of most."""
    draws = random.Random(number)
    for _ in range(CAPTIONS // PICTURES + (number < CAPTIONS % PICTURES)):
        yield " ".join(["A", *draws.choices(WORDS, k=9)]) + "."


def make_coco(root: Path) -> None:
    """Write a data set in COCO's layout; no picture of it can be decoded."""
    images, labels = root / "train2017", root / "stuffthingmaps" / "train2017"
    for directory in (images, labels, root / "annotations"):
        directory.mkdir(parents=True)
    Image.new("L", (1, 1), 0).save(root / "label.png")
    label = (root / "label.png").read_bytes()
    records, captions = [], []
    for number in range(PICTURES):
        image_id = 9 + 4 * number
        (images / f"{image_id:012d}.jpg").write_bytes(b"x")
        (labels / f"{image_id:012d}.png").write_bytes(label)
        url = f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg"
        facts = {"license": 3, "coco_url": url, "height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52"}
        records.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", **facts, "flickr_url": url})
        for text in caption_texts(number):
            captions.append({"image_id": image_id, "id": len(captions) + 1, "caption": text})
    document = {"info": {}, "licenses": [], "images": records, "annotations": captions}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(document))


def make_scenes(runs: Path) -> None:
    """Write finished scenes of as many pictures and captions; the pictures are empty."""
    shards = -(-PICTURES // SCENES_PER_SHARD)
    identity = Identity(kind=KIND, name="synthetic", schema_version=SCHEMA_VERSION, producer_version=1, settings={})
    units = tuple(f"shard-{number:05d}" for number in range(shards))
    attributes = ScenesAttributes(vocabulary="none", class_names=(), seen=(), ignore_label=255, licence="none")
    artifact = Artifact.planned(runs, Description(identity=identity, units=units, attributes=attributes.to_json()))
    artifact = Artifact(artifact.directory, artifact.description, Unsynced())
    caption_id, sidecars = 0, {}
    with artifact.writing():
        for shard, unit in enumerate(units):
            with artifact.write_unit(unit) as unit_writer:
                writer = SceneShardWriter(unit_writer)
                for number in range(shard * SCENES_PER_SHARD, min(PICTURES, (shard + 1) * SCENES_PER_SHARD)):
                    texts = list(caption_texts(number))
                    captions = tuple(Caption(caption_id + place, text) for place, text in enumerate(texts))
                    caption_id += len(texts)
                    key = f"{9 + 4 * number:012d}"
                    facts = {"image_id": key, "image_suffix": "jpg", "source_path": f"train2017/{key}.jpg"}
                    writer.add(Scene(key=key, image=b"x", width_px=1, height_px=1, captions=captions, **facts))
                sidecars[unit] = writer.commit()
        artifact.finish(artifact.manifest_of(sidecars))


def settings_of(folder: Path, **options: object) -> PrepareSettings:
    return PrepareSettings(dataset="coco", root=folder / "coco", split="train2017", **options)


def scenes_of(folder: Path) -> Artifact:
    return Artifact.open(next((folder / "runs" / KIND).glob("synthetic-*")))


def paper_settings(folder: Path) -> Settings:
    """Return the settings of the paper's larger run, all its data sets parts of the made one, with the small CLIP."""
    # Limits that differ, as equal parts of one data set are one artifact.
    limits = {"coco-val": 5000, "ade20k-847": 2000, "pascal-context-459": 5105}
    limits |= {"ade20k-150": 2001, "pascal-context-59": 5106, "pascal-voc-20": 1449}
    of_coco = f"{{dataset='coco', root='{folder / 'coco'}', split='train2017'"
    return load_settings(
        CONFIG,
        [
            f"runs_dir={folder / 'runs'}",
            "clip={architecture='drawn-world-small', pretrained='shipped'}",
            f"datasets.coco-train={of_coco}}}",
            # Limits that differ: two parts of one data set that are equal are one artifact.
            *(
                f"datasets.{name}={of_coco}, limit={limit + place}}}"
                for place, (name, limit) in enumerate(limits.items())
            ),
        ],
    )


def make_finished(folder: Path) -> None:
    """Write every artifact of these settings as finished, with a byte for each unit."""
    for node in dataflow(paper_settings(folder)).nodes:
        artifact = Artifact(node.artifact.directory, node.artifact.description, Unsynced())
        facts = {"labelled": 1, "captions": 1}
        with artifact.writing():
            sidecars = {}
            for unit in artifact.description.units:
                with artifact.write_unit(unit) as writer:
                    writer.file("bin").write(b"x")
                    sidecars[unit] = writer.commit(rows=1, counts={"ok": 1}, facts=facts)
            artifact.finish(artifact.manifest_of(sidecars))
        if node.step.kind == PAIRS:
            write_card(artifact, maker=MAKER, facts={}, files={})


def nothing_to_run(folder: Path) -> None:
    """Check that all stages are complete, as ``ovseg run`` does."""
    graph = dataflow(paper_settings(folder))
    for stage in STAGE_NAMES:
        if not is_complete(graph, stage):
            raise RuntimeError(f"bench_metadata: {stage} is not complete; make_finished leaves something out")


def captions_read(artifact: Artifact) -> int:
    """Read the captions of all scenes, as the vocabulary of nouns does before it tags them."""
    return sum(len(SceneShard(artifact, unit).captions()) for unit in artifact.description.units)


def scenes_read(artifact: Artifact) -> int:
    """Read all scenes without labels, as each step of mining does."""
    units = artifact.description.units
    return sum(1 for unit in units for _ in SceneShard(artifact, unit).scenes(labels=False))


FIRST_OF_FINISHED = "no-op 'ovseg run', paper's settings"
PARTS: dict[str, Callable[[Path], object]] = {
    "imports alone": lambda folder: folder,
    "plan of prepare, first": lambda folder: plan_prepare(settings_of(folder), folder / "runs"),
    "plan of prepare, again": lambda folder: plan_prepare(settings_of(folder), folder / "runs"),
    "plan of its first 100 scenes, first": lambda folder: plan_prepare(settings_of(folder, limit=100), folder / "runs"),
    "plan of its first 100 scenes, again": lambda folder: plan_prepare(settings_of(folder, limit=100), folder / "runs"),
    FIRST_OF_FINISHED: nothing_to_run,
    "no-op 'ovseg mine', paper's settings": lambda folder: run("mine", paper_settings(folder)),
    "status of 1,183 units, first": lambda folder: scenes_of(folder).status(),
    "status of 1,183 units, again": lambda folder: scenes_of(folder).status(),
    "manifest and its digest": lambda folder: scenes_of(folder).manifest().digest(),
    "captions of all scenes": lambda folder: captions_read(scenes_of(folder)),
    "all scenes without labels": lambda folder: scenes_read(scenes_of(folder)),
    "nouns of 1 caption a picture (work)": lambda folder: CaptionNouns(NounSettings(), 1).vocabulary(scenes_of(folder)),
}


def measure(part: str, folder: Path) -> None:
    """Print what one part costs in this process."""
    begun = time.process_time()
    PARTS[part](folder)
    cpu_s = time.process_time() - begun
    # Not ru_maxrss, in which the process that started this one counts, too.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_gb = int(status["VmHWM"].split()[0]) * 1024 / 1e9
    print(f"{part:<38}{cpu_s:8.2f} CPU s {peak_gb:8.2f} GB at most", flush=True)


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in PARTS:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_coco(folder / "coco")
        (folder / "runs").mkdir()
        time.sleep(3)  # what was written a moment ago is not believed to be settled
        for part in PARTS:
            if part == FIRST_OF_FINISHED:
                make_scenes(folder / "runs")
                make_finished(folder)
                time.sleep(3)
            subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_metadata", part, scratch], check=True)


if __name__ == "__main__":
    main()
