"""One axis cut into chunks of one size (Zarr v2; Zarr v3 chunk grid `regular`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RegularAxis:
    """`length` elements in chunks of `size` ≥ 1."""

    length: int
    size: int

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.length // self.size)

    def chunk_of(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunks that hold the elements `at`."""
        return at // self.size

    def low(self, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first element of each chunk. One past the last chunk is its end."""
        return chunk * self.size

    def sizes(self, chunk: NDArray[np.int64]) -> NDArray[np.int64]:
        """The size of each chunk as stored: the last is whole, even where the array ends before."""
        return np.full(len(chunk), self.size, np.int64)
