"""The nearest of many stored embeddings, from a file that is mapped into memory and never read whole into it.

The search is one product of a matrix in half precision with a vector. Half precision orders neighbours whose cosines
differ by less than a thousandth by chance, so of the first ones the cosines are computed again in single precision.
440,000 rows of 768 numbers are 0.7 GB, which take 0.1 s once they are in the page cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_CANDIDATES_PER_NEIGHBOUR, _CANDIDATES_MIN = 8, 64


class Near(NamedTuple):
    """A row, and its cosine with what was asked for."""

    row: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A stored pair that is like a region.

    Attributes:
        pair: Its name.
        noun: The noun that it was mined with.
        caption: Text that names it, before the noun, the noun, and after it.
        score: Cosine of its mask and its noun when it was mined; None if there is none.
        similarity: Cosine of its embedding with the region's.
        picture: Its crop, RGB, dimmed outside the mask.
    """

    pair: str
    noun: str
    caption: tuple[str, str, str]
    score: float | None
    similarity: float
    picture: Image.Image


@runtime_checkable
class Neighbours(Protocol):
    """Stored pairs that can be searched."""

    @property
    def space(self) -> str:
        """Digest of what embedded them; see `memory.embedding_space`."""

    def nearest(self, embedding: Float[Tensor, "dim"], count: int) -> Sequence[Neighbour]:
        """Return the pairs that are nearest to an embedding, the nearest first."""


def mapped_vectors(path: Path) -> npt.NDArray[np.float16]:
    """Map a file of embeddings into memory [row dim].

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no such file.
    """
    try:
        # Copy on write, as torch has no read-only tensors: nothing is written, so nothing is copied.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as embeddings ({error}); make the index again") from error
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise ValueError(
            f"{path}: holds {vectors.dtype} {vectors.shape}, half precision [row dim] is expected; make the index again"
        )
    mapped: npt.NDArray[np.float16] = vectors
    return mapped


def nearest_rows(vectors: npt.NDArray[np.float16], embedding: Float[Tensor, "dim"], count: int) -> list[Near]:
    """Return the rows nearest to an embedding, the nearest first; of equal ones the first in the file.

    Args:
        vectors: L2-normalised [row dim].
        embedding: L2-normalised, on the CPU.
        count: How many; fewer if there are fewer rows.
    """
    count = min(count, len(vectors))
    if not count:
        return []
    mapped = torch.from_numpy(vectors)
    coarse = mapped @ embedding.half()
    some = min(len(vectors), max(_CANDIDATES_MIN, _CANDIDATES_PER_NEIGHBOUR * count))
    rows = coarse.topk(some).indices.sort().values
    exact = mapped[rows].float() @ embedding.float()
    order = exact.argsort(descending=True, stable=True)[:count]
    return [Near(int(rows[place]), float(exact[place])) for place in order.tolist()]
