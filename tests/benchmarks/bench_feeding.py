"""What feeds the nets of each stage: CPU work beside them, operations, waits, and bytes between host and device.

Run alone: ``python -m tests.benchmarks.bench_feeding``; about two minutes. One picture is a JPEG of 480 x 640 px with
the texture of a photograph, seen at 640 x 853 px; the proposal net's place is taken by 100 blobs at its stride.

*Host* times are CPU milliseconds of this process, the best of some rounds, one thread: decoding, resizing, run lengths
as text, tables. What a GPU does itself is counted, not timed: operations that start kernels, moments at which the host
waits, and bytes. Starting those operations takes the host time too; it is timed by the same code on tensors of a few
pixels, where there is nothing to compute. "Before" is pycocotools and a picture at a time, called in the same run; what
the code of that time asked of a GPU is not run here. Core time says what several cores could do if no thread waited for
another; so parts that run in threads are timed by the clock on the wall too, in one thread and in two.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ovseg_models import fusion, masked_crops, run_lengths
from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.encoding import cut_regions
from ovseg_models.fusion import fused_labels
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.preprocessing import CropFormat
from ovseg_models.proposal_losses import proposal_losses
from ovseg_models.proposal_masks import hard_masks
from pipeline.clip_loading import load_clip
from pipeline.drawn_world.small_clip import SHIPPED, SMALL
from pipeline.evaluate.labelled_images import decoded
from pipeline.finetune.samples import PairSamples
from pipeline.mine.embedder import Embedder, _rows, in_full_batches
from pipeline.mine.pair import RegionCutter
from pipeline.mine.regions import NetSize, SceneAndRegions, SceneRegions, net_picture
from pipeline.ordered_threads import in_threads
from pipeline.settings import ClipSettings, EmbedSettings, PairSettings
from pipeline.stored_pictures import upright_labels, upright_picture
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.training.data_order import DataOrder, Draw
from pipeline.training.loader import loading
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from storage_schemas.embeddings import KIND as EMBEDDINGS
from storage_schemas.embeddings import SCHEMA_VERSION as EMBEDDINGS_VERSION
from storage_schemas.embeddings import EmbeddingShardWriter, SceneEmbeddings
from storage_schemas.manifest import Description, Identity
from storage_schemas.pair_collection import PairCollection
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.proposals import KIND as PROPOSALS
from storage_schemas.proposals import SCHEMA_VERSION as PROPOSALS_VERSION
from storage_schemas.proposals import ProposalShardWriter, SceneProposals
from storage_schemas.rle import areas_of_runs, boxes_of_runs, compressed, decode_masks, encode_masks
from storage_schemas.scenes import Caption, Scene
from tests.benchmarks.bench_fusion import peaked_scores
from tests.benchmarks.bench_proposal_losses import Size, draw
from tests.operations import CountedOperations

STORED, NET, QUERIES, DIM = (480, 640), (640, 853), 100, 512
SIZE = NetSize(NET[0], 2560)
TOGETHER = 4  # pictures whose crops are cut at once
CORES = 8
ROUNDS = 5
CPU = torch.device("cpu")
CROPS, BATCH = 64, 128  # pairs of the benchmark, and of a batch of stage 3
GPU_CROPS = 256  # that embed's CLIP takes at a time


def cpu_ms(job: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the least CPU time of a job [ms], after one round that doesn't count."""
    job()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


@contextmanager
def steps_of_a_gpu() -> Iterator[None]:
    """Cut work into the steps that a GPU gets."""
    with (
        patch.object(run_lengths, "_CPU_MASKS_AT_ONCE", 10**6),
        patch.object(masked_crops, "CPU_WORK_BYTES", masked_crops.GPU_WORK_BYTES),
        patch.object(fusion, "_CPU_WORK_BYTES", fusion._GPU_WORK_BYTES),
    ):
        yield


def counted(job: Callable[[], object]) -> CountedOperations:
    """Count what a GPU would be asked for."""
    with steps_of_a_gpu(), CountedOperations() as operations:
        job()
    return operations


def launch_ms(job: Callable[[], object]) -> float:
    """Time the start of a job's operations; its tensors must be small."""
    with steps_of_a_gpu():
        return cpu_ms(job, 20)


def texture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Draw noise whose amplitude falls with its frequency, as a photograph's does, with grain."""
    rng = np.random.default_rng(seed)
    pixels = 128 + rng.normal(0, 1.5, (height, width, 3))
    for cell, amplitude in ((64, 60), (32, 35), (16, 22), (8, 14), (4, 8), (2, 4)):
        coarse = torch.from_numpy(rng.normal(0, amplitude, (1, 3, -(-height // cell) + 1, -(-width // cell) + 1)))
        pixels += functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def file_of(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def photograph() -> Scene:
    labels = Image.fromarray((np.arange(STORED[0] * STORED[1]).reshape(STORED) // 2**14).astype(np.uint8))
    return Scene(
        key="a",
        image_id="1",
        image=file_of(texture(*STORED), "JPEG", quality=90),
        image_suffix="jpg",
        width_px=STORED[1],
        height_px=STORED[0],
        captions=(Caption(1, "a dog"),),
        label_png=file_of(labels, "PNG"),
        classes=tuple(range(19)),
    )


def blob_logits(queries: int = QUERIES) -> torch.Tensor:
    """Draw mask logits at stride 4 of the padded input: ellipses with ragged edges, one in ten of another's size."""
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-side // 32) * 8 for side in NET)
    lines = (torch.arange(height) + 0.5)[:, None] / height
    columns = (torch.arange(width) + 0.5) / width
    centres = torch.rand(queries, 2, 1, 1, generator=generator)
    radii = 0.05 + 0.45 * torch.rand(queries, 2, 1, 1, generator=generator) ** 2
    logits = 4 - 4 * ((lines - centres[:, 0]) / radii[:, 0]) ** 2 - 4 * ((columns - centres[:, 1]) / radii[:, 1]) ** 2
    for cell, amplitude in ((8, 1.5), (2, 0.7)):
        noise = amplitude * torch.randn(1, queries, height // cell, width // cell, generator=generator)
        logits += functional.interpolate(noise, size=(height, width), mode="bicubic")[0]
    return logits


class Feeding(NamedTuple):
    """What one picture or crop costs beside the nets.

    Attributes:
        host_ms: CPU time of one core.
        operations: On the device.
        waits: For the device.
        to_device_bytes: Over the bus.
        from_device_bytes: And back.
    """

    host_ms: float
    operations: float
    waits: float
    to_device_bytes: float
    from_device_bytes: float

    def printed(self, name: str, item: str) -> None:
        per_s = CORES * 1e3 / self.host_ms
        print(
            f"  {name}: {self.host_ms:.2f} core-ms per {item}, {per_s:,.0f} {item}s/s from {CORES} cores' time; "
            f"{self.operations:.1f} operations, {self.waits:.2f} waits; {self.to_device_bytes / 2**10:,.0f} KiB to the "
            f"device, {self.from_device_bytes / 2**10:,.0f} KiB back"
        )


def decoded_pixels(scene: Scene) -> torch.Tensor:
    return torch.from_numpy(np.array(net_picture(scene, SIZE))).permute(2, 0, 1).contiguous()


def proposing(scene: Scene, runs_dir: Path) -> None:
    """Step 1 of mining."""
    logits = blob_logits()
    masks = hard_masks(logits, NET, 0.5)
    found = run_lengths.run_lengths(masks)
    counts = encode_masks(masks.numpy())
    if compressed(*found) != counts:
        raise RuntimeError("run lengths: other counts than pycocotools'")
    identity = Identity(kind=PROPOSALS, name="bench", schema_version=PROPOSALS_VERSION, producer_version=1, settings={})
    artifact = Artifact.planned(runs_dir, Description(identity=identity, units=("shard-00000",)))
    of_scene = SceneProposals(
        key="a",
        height_px=NET[0],
        width_px=NET[1],
        queries=np.arange(QUERIES, dtype=np.int32),
        mask_counts=counts,
        areas_px=areas_of_runs(*found),
        boxes_xyxy=boxes_of_runs(*found, NET[0]),
        objectness=np.zeros(QUERIES, np.float32),
        embeddings=np.zeros((QUERIES, DIM), np.float32),
    )
    with artifact.writing(), artifact.write_unit("shard-00000") as unit:
        writer = ProposalShardWriter(unit, embedding_dim=DIM)
        write = cpu_ms(lambda: writer.add(of_scene))
        writer.commit()

    decode = cpu_ms(lambda: decoded_pixels(scene))
    text = cpu_ms(lambda: (compressed(*found), areas_of_runs(*found), boxes_of_runs(*found, NET[0])))
    small = logits[:, :8, :8]
    launch = launch_ms(lambda: run_lengths.run_lengths(hard_masks(small, (32, 32), 0.5)))
    operations = counted(lambda: run_lengths.run_lengths(masks))
    picture, numbers = 3 * NET[0] * NET[1], 4 * QUERIES * (DIM + 1)
    old = cpu_ms(lambda: encode_masks(masks.numpy()))
    whole = cpu_ms(lambda: run_lengths.run_lengths(masks))
    print(
        f"propose: decoding and resizing {decode:.1f} ms, counts, areas and boxes of run lengths {text:.1f} ms, rows "
        f"{write:.1f} ms, starting the device's operations {launch:.1f} ms; run lengths of 100 masks by pycocotools "
        f"{old:.0f} ms, all on the CPU {whole + text:.0f} ms"
    )
    hard = counted(lambda: hard_masks(logits, NET, 0.5)).kernels
    Feeding(decode + old + write, hard + 1, 2, picture, QUERIES * NET[0] * NET[1] + numbers).printed(
        "before: pycocotools", "picture"
    )
    runs_bytes = 4 * (len(found.lengths) + QUERIES)
    after = Feeding(
        decode + text + write + launch, hard + operations.kernels, operations.synchronisations + 1, picture,
        runs_bytes + numbers,
    )  # fmt: skip
    after.printed("after", "picture")
    print(f"  most in one thread: {write:.1f} ms")

    def text_of_runs(_: int) -> None:
        compressed(*found)
        areas_of_runs(*found)
        boxes_of_runs(*found, NET[0])

    in_two_threads("decoding and resizing", lambda _: decoded_pixels(scene))
    in_two_threads("counts, areas and boxes of run lengths", text_of_runs)


def embedding(scene: Scene, runs_dir: Path) -> None:
    """Step 2 of mining: what `Embedder` does beside CLIP, and the writing of rows."""
    masks = hard_masks(blob_logits(), NET, 0.5)
    found = run_lengths.run_lengths(masks)
    counts, regions = compressed(*found), regions_of(found)
    of = SceneAndRegions(scene, regions)
    embedder, tiny_embedder = embedder_of(crop_px=224, patch_px=16), embedder_of(crop_px=2, patch_px=1)
    vectors = torch.zeros(2 * QUERIES * TOGETHER, DIM)

    def rows_of(embedder: Embedder, group: list) -> list[SceneEmbeddings]:
        # Not in inference mode, where torch reports views as operations of their own.
        cut = iter(Embedder._cut_together.__wrapped__(embedder, group))
        return [_rows(some) for some in in_full_batches(cut, lambda crops: vectors[: len(crops)], size=GPU_CROPS)]

    ready = embedder._decoded(of)
    tiny = ready._replace(
        of=SceneAndRegions(scene, replace(regions, height_px=2, width_px=2)),
        pixels=torch.zeros(3, 2, 2, dtype=torch.uint8),
        runs=run_lengths.run_lengths(torch.ones(QUERIES, 2, 2, dtype=torch.bool)),
        boxes_xyxy=np.tile(np.array([[0, 0, 2, 2]], np.int32), (QUERIES, 1)),
    )
    identity = Identity(
        kind=EMBEDDINGS, name="bench", schema_version=EMBEDDINGS_VERSION, producer_version=1, settings={}
    )
    artifact = Artifact.planned(runs_dir, Description(identity=identity, units=("shard-00000",)))
    with artifact.writing(), artifact.write_unit("shard-00000") as unit:
        writer, rows = EmbeddingShardWriter(unit, embedding_dim=DIM), rows_of(embedder, [ready])[0]
        write = cpu_ms(lambda: writer.add(rows))
        writer.commit()

    decode, picture_alone = cpu_ms(lambda: embedder._decoded(of)), cpu_ms(lambda: decoded_pixels(scene))
    frames = cpu_ms(lambda: torch.stack([ready.pixels] * TOGETHER)) / TOGETHER
    cut = launch_ms(lambda: rows_of(tiny_embedder, [tiny] * TOGETHER)) / TOGETHER
    old = cpu_ms(lambda: decode_masks(counts, *NET))
    whole = cpu_ms(lambda: embedder._cut([ready]))
    print(
        f"embed, {TOGETHER} pictures together: decoding and resizing {picture_alone:.1f} ms, run lengths and boxes of "
        f"counts {decode - picture_alone:.1f} ms, pictures into frames {frames:.1f} ms, cutting, batches and rows "
        f"without a GPU's own work {cut:.1f} ms, writing {write:.1f} ms; masks by pycocotools {old:.0f} ms; "
        f"cutting on the CPU {whole:.0f} ms"
    )
    pixels = decoded_pixels(scene)
    one = counted(lambda: masked_crops.masked_crops(pixels, masks, crop_px=224))
    tiny_masks = torch.ones(QUERIES, 2, 2, dtype=torch.bool)
    one_cut = launch_ms(lambda: masked_crops.masked_crops(pixels[:, :2, :2], tiny_masks, crop_px=2))
    picture, mask_bytes, back = 3 * NET[0] * NET[1], QUERIES * NET[0] * NET[1], 4 * QUERIES * DIM
    Feeding(
        picture_alone + old + one_cut + write, one.kernels, one.synchronisations + 1, picture + mask_bytes, back
    ).printed("one picture at a time, masks by pycocotools", "picture")  # fmt: skip
    both = counted(lambda: rows_of(embedder, [ready] * TOGETHER))
    runs_bytes = 8 * (len(found.lengths) + 5 * QUERIES)
    now = Feeding(
        decode + frames + cut + write, both.kernels / TOGETHER, both.synchronisations / TOGETHER, picture + runs_bytes,
        back,
    )  # fmt: skip
    now.printed("now, tensors of the host counted too", "picture")
    print(f"  most in one thread: {max(frames + cut, write):.1f} ms")
    in_two_threads("decoding, run lengths and boxes of counts", lambda _: embedder._decoded(of))


def regions_of(found: run_lengths.RunLengths) -> SceneRegions:
    """Return masks as mining reads them."""
    return SceneRegions(
        indices=np.arange(QUERIES, dtype=np.int32),
        height_px=NET[0],
        width_px=NET[1],
        mask_counts=compressed(*found),
        areas_px=areas_of_runs(*found),
        boxes_xyxy=boxes_of_runs(*found, NET[0]),
    )


def embedder_of(crop_px: int, patch_px: int) -> Embedder:
    """Build an embedder whose CLIP is never run."""
    clip = SimpleNamespace(
        logit_scale=torch.zeros(()), crop=CropFormat(crop_px, patch_px), needs_patch_masks=lambda: False
    )
    return Embedder(clip, EmbedSettings(), SIZE)  # type: ignore[arg-type]


def in_two_threads(name: str, job: Callable[[int], object], items: int = 8, rounds: int = 24) -> None:
    """Compare the clock on the wall for a job in one thread and in two: 2.0 means that none waits for the other.

    Other programs on the machine make both slower, so each is the best of some rounds, taken in turns with hashing,
    which holds no lock: what two threads win there is what the machine has for them.
    """
    content = bytes(2**23)
    jobs = {name: job, "hashing": lambda _: sha256(content).digest()}
    taken: dict[tuple[str, int], list[float]] = {(of, threads): [] for of in jobs for threads in (1, 2)}
    for _ in range(rounds):
        for (of, threads), times in taken.items():
            start = time.perf_counter()
            for _ in in_threads(jobs[of], range(items), threads=threads):
                pass
            times.append(time.perf_counter() - start)
    best = {key: 1e3 * min(times) / items for key, times in taken.items()}
    one, two = best[name, 1], best[name, 2]
    print(
        f"  {name}, by the clock on the wall: {one:.1f} ms in one thread, {two:.1f} in two, {one / two:.2f} times; "
        f"hashing {best['hashing', 1] / best['hashing', 2]:.2f} times"
    )


def discs() -> torch.Tensor:
    """Draw masks of 430 x 430 px, each elsewhere."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(CROPS, 2, 1, 1, generator=generator)
    y, x = (215 + centres[:, axis] * (side - 430) for axis, side in enumerate(NET))
    lines, columns = torch.arange(NET[0])[:, None] + 0.5, torch.arange(NET[1]) + 0.5
    return (lines - y) ** 2 + (columns - x) ** 2 <= 215**2


def pairs_in(runs_dir: Path, crop_format: str, masks: torch.Tensor) -> Artifact:
    """Cut pairs of masks out of one picture, in a format."""
    found = run_lengths.run_lengths(masks)
    counts, boxes = compressed(*found), boxes_of_runs(*found, NET[0])
    picture = net_picture(photograph(), SIZE)
    cutter = RegionCutter(picture, PairSettings.model_validate({"crop_format": crop_format}))
    name = f"{crop_format}-{len(masks)}"
    identity = Identity(kind=KIND, name=name, schema_version=SCHEMA_VERSION, producer_version=1, settings={})
    artifact = Artifact.planned(runs_dir, Description(identity=identity, units=("shard-00000",)))
    with artifact.writing(), artifact.write_unit("shard-00000") as unit:
        writer = PairShardWriter(unit)
        for number in range(CROPS):
            left, top, right, bottom = boxes[number].tolist()
            pair = Pair(
                pair=f"pair-{number:03d}", key="a", image_id="1", noun=f"noun {number}", region=number,
                height_px=NET[0], width_px=NET[1], mask_counts=counts[number], box_xyxy=(left, top, right, bottom),
            )  # fmt: skip
            writer.add(cutter.completed(pair))
        artifact.finish(artifact.manifest_of({"shard-00000": writer.commit()}))
    return artifact


def finetuning(runs_dir: Path) -> None:
    """Stage 3: what a loader's process does per crop, and the training process per batch."""
    print(f"finetune, {CROPS} crops of 430 x 430 px, then of the {QUERIES} blobs' boxes; a window of each, 224 px:")
    texts = functional.normalize(torch.randn(BATCH, DIM), dim=1)
    small = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)

    def loss(pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        own = masked_crops.normalised(pixels).mean(dim=(2, 3)) @ torch.ones(3, 4)
        return contrastive_loss(own, rows[:, :4], torch.ones(()))

    operations = counted(lambda: loss(small, texts[:2]))
    launches = launch_ms(lambda: loss(small, texts[:2]))
    for masks in (discs(), hard_masks(blob_logits(), NET, 0.5)):
        for crop_format in ("png", "jpg", "jpg-256"):
            pairs = PairCollection(pairs_in(runs_dir, crop_format, masks))
            samples = PairSamples(pairs, 0.9, 4 / 3, 0, CropFormat(224, 16))
            draws = [Draw(0, number) for number in range(CROPS)]
            sample = cpu_ms(lambda samples=samples, draws=draws: samples.batch(draws), 3) / CROPS
            stored = sum(len(pairs.read(number).crop) for number in range(CROPS)) / CROPS
            bytes_of_crop = 3 * 224 * 224 + (224 // 16) ** 2 + 16
            kernels = operations.kernels / BATCH
            crop = Feeding(sample, kernels, operations.synchronisations / BATCH, bytes_of_crop, 0)
            crop.printed(f"{crop_format}, {stored / 1e3:.0f} kB a crop", "crop")
    received = []
    with loading(
        replace(samples), DataOrder(CROPS, BATCH, seed=0), first_step=0, steps=8,
        processes=Processes(0, 1, CPU), workers=1,
    ) as batches:  # fmt: skip
        for _ in range(8):
            start = time.process_time()
            next(batches)
            received.append(1e3 * (time.process_time() - start))
    print(
        f"  the training process: {min(received):.2f} ms of CPU to receive a batch of {BATCH}, {launches:.2f} ms to "
        "start normalising and loss"
    )


def given_up() -> None:
    """What the crop formats change, measured by the shipped CLIP on scenes of the drawn world."""
    from pipeline.drawn_world.world import DrawnWorld
    from pipeline.stored_pictures import pair_pictures
    from storage_schemas.pairs import PairMembers

    clip = MaskAdaptedClip(load_clip(ClipSettings(architecture=SMALL, pretrained=SHIPPED)).clip, prompt_depth=0).eval()
    world, embeddings = DrawnWorld(seed=0, size_px=480), {}
    for crop_format in ("png", "jpg", "jpg-256"):
        settings, crops = PairSettings.model_validate({"crop_format": crop_format}), []
        for number in range(20):
            scene = world.scene(number)
            image = Image.fromarray(scene.image)
            labels = [label for label in np.unique(scene.label_map) if (scene.label_map == label).sum() >= 400]
            masks = np.stack([scene.label_map == label for label in labels])
            found = run_lengths.run_lengths(torch.from_numpy(masks))
            boxes, counts = boxes_of_runs(*found, 480), compressed(*found)
            cutter = RegionCutter(image, settings)
            for region, (box, count) in enumerate(zip(boxes.tolist(), counts, strict=True)):
                left, top, right, bottom = box
                pair = Pair(
                    pair="a", key="a", image_id="a", region=region, height_px=480, width_px=480, mask_counts=count,
                    box_xyxy=(left, top, right, bottom),
                )  # fmt: skip
                made = cutter.completed(pair)
                pixels, mask = pair_pictures(PairMembers(made.crop, made.crop_mask_png))
                crops.append((torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(mask)))
        with torch.inference_mode():
            made_crops, _ = masked_crops.crops_of_regions(crops, crop_px=clip.crop_px)
            embeddings[crop_format] = functional.normalize(clip.encode_image(made_crops), dim=1)
    lossless = embeddings["png"]
    for crop_format in ("jpg", "jpg-256"):
        cosines = (lossless * embeddings[crop_format]).sum(dim=1)
        nearest = (embeddings[crop_format] @ lossless.T).argmax(dim=1)
        print(
            f"  {crop_format} of {len(cosines)} drawn regions at 480 px: cosine of its embedding and the lossless one "
            f"{cosines.mean():.4f} on average, {cosines.min():.4f} at least; the lossless crop is its nearest "
            f"among all in {(nearest == torch.arange(len(nearest))).float().mean():.1%}"
        )


def training_proposals(scene: Scene) -> None:
    """Stage 1."""
    augmentation = Augmentation((512,), 2048, 512, 255)
    rng = np.random.default_rng(0)

    def sample() -> None:
        labels = upright_labels(scene.label_png, 1)
        augmentation(upright_picture(scene), labels, rng)

    host = cpu_ms(sample, 12)
    size = Size("counted", images=2, queries=100, outputs=7, targets=10, classes=171, side_px=64)
    output, class_logits, targets = draw(size)
    operations = counted(lambda: proposal_losses(output, class_logits, targets, image_size=(64, 64), num_masks=20))
    bytes_of_image = 512 * 512 * (3 + 4)
    print("train-proposals, decoding, resizing, colours, labels; the losses of 7 layers of 2 images of 100 queries:")
    Feeding(host, operations.kernels / 2, operations.synchronisations / 2, bytes_of_image, 0).printed("now", "picture")


def evaluating(scene: Scene) -> None:
    """Stage 4, without the nets: crops are cut a picture at a time, from masks that the device has."""
    host = cpu_ms(lambda: decoded(scene, 150, 255)) + cpu_ms(lambda: decoded_pixels(scene))
    scores, logits = peaked_scores(150), blob_logits()
    pixels, small = decoded_pixels(scene), logits[:, :8, :8]

    def cut(picture: torch.Tensor, some: torch.Tensor, crop_px: int) -> None:
        masks = hard_masks(some, (picture.shape[1], picture.shape[2]), 0.5)
        cut_regions(picture, masks, CropFormat(crop_px, crop_px // 14))

    many = counted(lambda: fused_labels(peaked_scores(847), logits, net_size=NET, size=STORED))
    print(f"fusion of 847 classes: {many.kernels} operations, {many.synchronisations} waits")
    fusing = counted(lambda: fused_labels(scores, logits, net_size=NET, size=STORED))
    cutting = counted(lambda: cut(pixels, logits, 224))
    tiny = launch_ms(lambda: fused_labels(scores, small, net_size=(32, 32), size=(24, 24)))
    tiny += launch_ms(lambda: cut(pixels[:, :32, :32], small, 14))
    print(
        "evaluate, decoding picture and labels, the picture resized; fusion of 150 classes and cutting "
        f"({fusing.kernels} and {cutting.kernels} operations, {fusing.synchronisations} and "
        f"{cutting.synchronisations} waits):"
    )
    labels_bytes = 2 * STORED[0] * STORED[1]
    kernels, waits = fusing.kernels + cutting.kernels, fusing.synchronisations + cutting.synchronisations
    now = Feeding(host + tiny, kernels, waits, 3 * NET[0] * NET[1], labels_bytes)
    now.printed("now", "picture")


def main() -> None:
    torch.set_num_threads(1)
    scene = photograph()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        proposing(scene, Path(folder))
        embedding(scene, Path(folder))
        finetuning(Path(folder))
        given_up()
        training_proposals(scene)
        evaluating(scene)


if __name__ == "__main__":
    main()
