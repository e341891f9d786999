"""The nearest rows of a mapped file: against a plain product, at its ends, and files that are none."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg_models.neighbours import mapped_vectors, nearest_rows


def unit_rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_nearest_rows_are_those_of_a_plain_product(tmp_path):
    rows = unit_rows(3000, 32).half()
    np.save(tmp_path / "v.npy", rows.numpy())
    vectors = mapped_vectors(tmp_path / "v.npy")
    for seed in range(20):
        asked = unit_rows(1, 32, 100 + seed)[0]
        plain = rows.float() @ asked
        expected = plain.argsort(descending=True, stable=True)[:5]
        found = nearest_rows(vectors, asked, 5)
        assert [near.row for near in found] == expected.tolist()
        assert [near.similarity for near in found] == pytest.approx(plain[expected].tolist(), abs=1e-6)


def test_rows_that_half_precision_cannot_tell_apart_are_ordered_by_single_precision():
    base, other = unit_rows(2, 64, 1)
    steps = torch.linspace(0, 0.02, 40)[:, None]
    rows = functional.normalize(base + steps * other, dim=1).half()
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    found = nearest_rows(rows[shuffled].numpy(), base, 10)
    plain = rows[shuffled].float() @ base
    assert [near.row for near in found] == plain.argsort(descending=True, stable=True)[:10].tolist()


def test_fewer_rows_than_asked_for_are_all_and_of_equal_ones_the_first_comes_first():
    rows = unit_rows(1, 8).half().repeat(3, 1).numpy()
    assert [near.row for near in nearest_rows(rows, torch.from_numpy(rows[0]).float(), 9)] == [0, 1, 2]
    assert nearest_rows(rows[:0], torch.zeros(8), 3) == []


def test_files_that_are_no_embeddings_are_refused(tmp_path):
    path = tmp_path / "v.npy"
    for content, found in ((np.zeros((2, 3)), r"float64 \(2, 3\)"), (np.zeros(3, np.float16), r"float16 \(3,\)")):
        np.save(path, content)
        with pytest.raises(ValueError, match=found):
            mapped_vectors(path)
    path.write_bytes(b"\x93NUMPY damaged")
    with pytest.raises(ValueError, match=r"v\.npy"):
        mapped_vectors(path)
    with pytest.raises(FileNotFoundError):
        mapped_vectors(tmp_path / "absent.npy")
