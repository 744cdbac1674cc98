"""One axis cut into chunks of listed sizes (Zarr v3 chunk grid `rectilinear`, ZEP 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class RectilinearAxis:
    """`length` elements in chunks whose sizes, each ≥ 1, sum to at least `length`."""

    length: int
    listed: NDArray[np.int64]
    edges: NDArray[np.int64] = field(init=False, repr=False)
    """The first element of each chunk, then the end of the last."""

    def __post_init__(self) -> None:
        edges = np.concatenate((np.zeros(1, np.int64), np.cumsum(self.listed, dtype=np.int64)))
        object.__setattr__(self, "edges", edges)

    @property
    def count(self) -> int:
        """Number of chunks that hold elements of the array."""
        return int(np.searchsorted(self.edges, self.length, side="left"))

    def chunk_of(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunks that hold the elements `at`."""
        return np.asarray(np.searchsorted(self.edges, at, side="right") - 1, np.int64)

    def low(self, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first element of each chunk. One past the last chunk is its end."""
        return np.asarray(self.edges[chunk], np.int64)

    def sizes(self, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        """The size of each chunk as stored."""
        return np.asarray(self.listed[chunk], np.int64)
