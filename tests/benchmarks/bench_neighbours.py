"""Search of stored embeddings: 440,000 rows of 768 numbers, mapped into memory, on two cores.

``python -m tests.benchmarks.bench_neighbours`` prints seconds and CPU seconds for each of five searches. The first one
after a boot also reads 0.7 GB from the disk.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ovseg_models.neighbours import mapped_vectors, nearest_rows

ROWS, DIM, AT_ONCE = 440_000, 768, 20_000


def main() -> None:
    """Write random unit vectors, and search them."""
    torch.set_num_threads(2)
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        written = np.lib.format.open_memmap(path, "w+", np.float16, (ROWS, DIM))
        for start in range(0, ROWS, AT_ONCE):
            rows = draw.standard_normal((min(AT_ONCE, ROWS - start), DIM), dtype=np.float32)
            written[start : start + AT_ONCE] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        written.flush()
        vectors = mapped_vectors(path)
        for place in (7, 100_000, 200_000, 300_000, ROWS - 1):
            asked = torch.from_numpy(vectors[place].astype(np.float32))
            begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
            found = nearest_rows(vectors, asked, 8)
            seconds, cpu = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
            if found[0].row != place:
                raise RuntimeError(f"row {place}: the nearest is {found[0]}, itself is expected")
            print(f"{ROWS:,} rows of {DIM}: {seconds:.3f} s, {cpu:.3f} CPU s")


if __name__ == "__main__":
    main()
