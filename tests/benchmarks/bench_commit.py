"""What the commit protocol costs against plain writes of the same shards, and the status of 1,000 finished units."""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.shard_runner import run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.commit import Disk
from storage_schemas.manifest import Description, Identity
from tests.pipeline.runner_jobs import WriteFiles, planned

SHARDS, SHARD_BYTES, PIECE_BYTES, REPEATS = 4, 64 << 20, 1 << 20, 5


class NoSyncDisk(Disk):
    """Leaves out the syncs, which are the device's part of the cost."""

    def sync_file(self, file: object) -> None:
        file.flush()

    def sync_directory(self, directory: Path) -> None:
        pass


def seconds(work: Callable[[Path], None]) -> float:
    """Time one run in a fresh directory."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        start = time.perf_counter()
        work(Path(directory))
        return time.perf_counter() - start


def plain(directory: Path, data: memoryview) -> None:
    for shard in range(SHARDS):
        with (directory / f"{shard}").open("wb") as file:
            for start in range(0, SHARD_BYTES, PIECE_BYTES):
                file.write(data[start : start + PIECE_BYTES])


def hashed(data: memoryview) -> float:
    start = time.perf_counter()
    for _ in range(SHARDS):
        digest = hashlib.sha256()
        for place in range(0, SHARD_BYTES, PIECE_BYTES):
            digest.update(data[place : place + PIECE_BYTES])
    return time.perf_counter() - start


def committed(directory: Path, data: memoryview, disk: Disk) -> None:
    units = tuple(f"shard-{number:05d}" for number in range(SHARDS))
    identity = Identity(kind="bench", name="bench", schema_version=1, producer_version=1, settings={})
    artifact = Artifact.planned(directory, Description(identity=identity, units=units), disk)
    with artifact.writing():
        for unit in units:
            with artifact.write_unit(unit) as writer:
                file = writer.file("bin")
                for start in range(0, SHARD_BYTES, PIECE_BYTES):
                    file.write(data[start : start + PIECE_BYTES])
                writer.commit(rows=1, counts={"ok": 1})


def main() -> None:
    data = memoryview(np.random.default_rng(0).bytes(SHARD_BYTES))
    runs: dict[str, list[float]] = {"plain": [], "no sync": [], "commit": [], "hash": []}
    for _ in range(REPEATS):
        runs["plain"].append(seconds(lambda directory: plain(directory, data)))
        runs["no sync"].append(seconds(lambda directory: committed(directory, data, NoSyncDisk())))
        runs["commit"].append(seconds(lambda directory: committed(directory, data, Disk())))
        runs["hash"].append(hashed(data))
    median = {name: statistics.median(values) for name, values in runs.items()}
    print(f"{SHARDS} shards of {SHARD_BYTES >> 20} MiB, medians of {REPEATS} interleaved runs")
    for name, printed in (("plain", "plain writes"), ("no sync", "commits without syncs"), ("commit", "commits")):
        print(f"  {printed:<22} {median[name]:6.2f} s, {median[name] / median['plain']:5.2f} of plain writes")
    print(f"  of which sha256 {median['hash']:.2f} s, syncs {median['commit'] - median['no sync']:.2f} s")
    with tempfile.TemporaryDirectory(dir=".") as directory:
        artifact = planned(Path(directory), 1000)
        run_stage(WriteFiles(), artifact)
        time.sleep(3)  # until the files are old enough for their hashes to be remembered
        artifact.status()
        start = time.perf_counter()
        artifact.status()
        looked = time.perf_counter() - start
        start = time.perf_counter()
        run_stage(WriteFiles(), artifact)
        nothing_to_do = time.perf_counter() - start
        print(f"1,000 finished units: status {looked:.2f} s, a run that has nothing to do {nothing_to_do:.2f} s")


if __name__ == "__main__":
    main()
