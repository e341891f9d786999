"""Speed of data preparation on the COCO sample, beside ``cp`` and ``sha256sum`` of the same files in the same run.

Also what the ways to check a JPEG cost, and which damage each of them finds.
"""

import hashlib
import io
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import inspect_image
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "coco-sample"
MAX_IMAGE_PX = 89_478_485
REPEATS = 7
DAMAGED = 150
PNGS = 40


def seconds(action: Callable[[], object]) -> float:
    """Time one call [s]."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def decode(data: bytes) -> None:
    """Decode every pixel."""
    Image.open(io.BytesIO(data)).load()


def decode_small(data: bytes) -> None:
    """Decode at an eighth of the size: all codes are read, few are transformed."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // 8, image.height // 8))
    image.load()


def verify(data: bytes) -> None:
    """Let Pillow check what it checks without decoding: of a PNG its checksums, of a JPEG nothing behind the header."""
    Image.open(io.BytesIO(data)).verify()


def inspect(data: bytes) -> None:
    """Walk the structure, as preparation does."""
    inspect_image(data, max_image_px=MAX_IMAGE_PX)


def png_of(data: bytes) -> bytes:
    """Save a picture as PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG")
    return buffer.getvalue()


CHECKS = {"structure (ours)": inspect, "verify()": verify, "decode at 1/8": decode_small, "decode": decode}


def damages(rng: random.Random) -> dict[str, Callable[[bytes], bytes]]:
    """Return ways in which a file comes to harm."""

    def cut(data: bytes) -> bytes:
        return data[: rng.randrange(len(data))]

    def cut_end(data: bytes) -> bytes:
        return data[: -rng.randrange(1, 1000)]

    def zero_tail(data: bytes) -> bytes:
        kept = rng.randrange(len(data) // 4, len(data))
        return data[:kept] + bytes(len(data) - kept)

    def header_byte(data: bytes) -> bytes:
        at = rng.randrange(2, 600)
        return data[:at] + rng.randbytes(1) + data[at + 1 :]

    def random_block(data: bytes) -> bytes:
        at = rng.randrange(len(data) - 4096)
        return data[:at] + rng.randbytes(4096) + data[at + 4096 :]

    def one_bit(data: bytes) -> bytes:
        at = rng.randrange(700, len(data))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]

    return {
        "cut anywhere": cut,
        "last bytes cut": cut_end,
        "tail of zeros": zero_tail,
        "header byte": header_byte,
        "4 KiB of noise": random_block,
        "one bit of the picture": one_bit,
    }


def finds(check: Callable[[bytes], None], data: bytes) -> bool:
    """Return whether a check refuses a file."""
    try:
        check(data)
    except (SceneFault, OSError, SyntaxError, ValueError):
        return True
    return False


def compare_checks(images: Sequence[bytes], kind: str) -> None:
    """Print what each check costs and finds."""
    megabytes = sum(map(len, images)) / 1e6
    hashing = min(seconds(lambda: [hashlib.sha256(data).digest() for data in images]) for _ in range(3))
    print(f"check of {len(images)} {kind}s; sha256 of the same bytes: {megabytes / hashing:.0f} MB/s")
    for name, check in CHECKS.items():
        took = min(seconds(lambda check=check: [check(data) for data in images]) for _ in range(3))
        each = 1e6 * took / len(images)
        print(f"  {name:<18}{megabytes / took:6.0f} MB/s, {each:6.0f} us a file, {took / hashing:5.1f} times the hash")
    print(f"  {'found of ' + str(DAMAGED):<24}" + "".join(f"{name:>18}" for name in CHECKS))
    rng = random.Random(0)
    sound = [data for data in images if len(data) > 9000][:DAMAGED]
    sound = [sound[number % len(sound)] for number in range(DAMAGED)]
    for damage, spoil in damages(rng).items():
        spoilt = [spoil(data) for data in sound]
        found = [sum(finds(check, data) for data in spoilt) for check in CHECKS.values()]
        print(f"  {damage:<24}" + "".join(f"{number:>18}" for number in found))


def copy_and_hash(files: Sequence[Path], target: Path) -> None:
    """Do what cannot be done without: copy the files, and hash the copies; on disk when it ends."""
    subprocess.run(["cp", "-r", *files, target], check=True)
    subprocess.run(f"find '{target}' -type f -print0 | xargs -0 sha256sum > /dev/null", shell=True, check=True)
    subprocess.run(["sync", "-f", target], check=True)


def compare_preparation(label: str, files: Sequence[Path], settings: PrepareSettings) -> None:
    """Print the speed of a preparation beside copying and hashing, alternating the two."""
    every_file = [path for file in files for path in (file, *file.rglob("*")) if path.is_file()]
    megabytes = sum(path.stat().st_size for path in every_file) / 1e6
    ours, theirs = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "copy").mkdir()
            theirs.append(seconds(lambda: copy_and_hash(files, Path(scratch) / "copy")))
            ours.append(seconds(lambda: prepare(settings, Path(scratch) / "runs")))
    ratios = [copying / preparing for copying, preparing in zip(theirs, ours, strict=True)]
    print(
        f"  {label:<36}{megabytes / statistics.median(ours):5.0f} MB/s; cp + sha256sum "
        f"{megabytes / statistics.median(theirs):4.0f} MB/s; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Run the comparison, if the sample is there."""
    if not SAMPLE.is_dir():
        print(f"{SAMPLE} is absent; nothing is measured")
        return
    jpegs = [path.read_bytes() for path in sorted(SAMPLE.glob("*2017/*.jpg"))]
    compare_checks(jpegs, "JPEG")
    compare_checks([png_of(data) for data in jpegs[:PNGS]], "PNG")
    print(f"preparation in one process, every image checked, both ends on disk; median of {REPEATS}")
    annotations = SAMPLE / "annotations"
    for split in ("train2017", "val2017"):
        files = [SAMPLE / split, annotations / f"captions_{split}.json"]
        settings = PrepareSettings(dataset="coco", root=SAMPLE, split=split, labels="none")
        compare_preparation(f"{split}, images and captions", files, settings)
    split = "train2017"
    files = [SAMPLE / split, annotations / f"captions_{split}.json", *annotations.glob("panoptic*")]
    settings = PrepareSettings(dataset="coco", root=SAMPLE, split=split, labels="panoptic")
    compare_preparation(f"{split}, panoptic labels of 100", files, settings)


if __name__ == "__main__":
    main()
