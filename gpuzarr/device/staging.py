"""Host memory that many threads fill at once, and that lanes copy from, block by block.

    position   0 ........ used | capacity ......... used | capacity ...     one number for all blocks

A wave's encoded chunks are fetched right into it, so that one copy a block takes them to the device. Blocks
come from the device, which knows what memory it copies fastest, and go back to it at `reset`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from gpuzarr.device.base import Bytes1D

BLOCK_NBYTES: Final = 32 << 20
ALIGNMENT: Final = 16


class Staging:
    """See `device.base.Staging`."""

    def __init__(
        self,
        allocate: Callable[[int], Bytes1D],
        release: Callable[[Bytes1D], None],
        block_nbytes: int = BLOCK_NBYTES,
    ) -> None:
        """`allocate` gives memory of at least so many bytes; `release` takes each block back."""
        self._allocate, self._release, self._block_nbytes = allocate, release, block_nbytes
        self._lock = threading.Lock()
        self._blocks: list[Bytes1D] = []
        self._bases: list[int] = []
        self._used: list[int] = []
        self._current = -1
        """The block that small requests share; larger ones have their own."""

    @property
    def blocks(self) -> list[tuple[int, Bytes1D]]:
        """The position of each block's first byte, and its used part."""
        with self._lock:
            parts = zip(self._bases, self._blocks, self._used, strict=True)
            return [(base, block[:used]) for base, block, used in parts]

    def take(self, nbytes: int, lead: int = 0) -> tuple[int, Bytes1D]:
        """Where the memory begins, and the memory. See `device.base.Staging`."""
        with self._lock:
            at = self._current
            begin = 0 if at < 0 else _aligned(self._used[at], lead)
            if at < 0 or begin + nbytes > self._blocks[at].nbytes:
                begin = _aligned(0, lead)
                at = self._grow(begin + nbytes)
                if nbytes <= self._block_nbytes // 2:
                    self._current = at
            self._used[at] = begin + nbytes
            return self._bases[at] + begin, self._blocks[at][begin : begin + nbytes]

    def _grow(self, nbytes: int) -> int:
        block = self._allocate(max(nbytes, self._block_nbytes))
        base = self._bases[-1] + self._blocks[-1].nbytes if self._blocks else 0
        self._blocks.append(block)
        self._bases.append(_aligned(base, 0))
        self._used.append(0)
        return len(self._blocks) - 1

    def reset(self) -> None:
        """See `device.base.Staging`."""
        with self._lock:
            blocks, self._blocks, self._bases, self._used = self._blocks, [], [], []
            self._current = -1
        for block in blocks:
            self._release(block)


def _aligned(begin: int, lead: int) -> int:
    """The next place whose byte `lead` is aligned."""
    return begin + -(begin + lead) % ALIGNMENT
