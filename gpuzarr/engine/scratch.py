"""Memory that a thread reuses: for encoded bytes, and for decoded chunks that need a copy into the result.

A fresh buffer costs a page fault for every 4 KiB of it, about as much as decoding them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.chain import Chain

_KEPT = 8 << 20
"""Bytes that a thread keeps between reads."""
_LEAST = 1 << 20
_SPARE = 4096


class Scratch:
    """One thread's memory."""

    def __init__(self) -> None:
        self._encoded = np.empty(0, np.uint8)
        self._chunk = np.empty(0, np.uint8)
        self._laid_out = np.empty(0, np.uint8)
        self._container = np.empty(0, np.uint8)
        self._used = 0

    def reset(self) -> None:
        """What was taken is free again."""
        self._used = 0

    def release(self) -> None:
        """The same; and more than a modest size is given back."""
        self._used = 0
        if self._encoded.nbytes > _KEPT:
            self._encoded = np.empty(0, np.uint8)
        if self._chunk.nbytes > _KEPT:
            self._chunk = np.empty(0, np.uint8)
        if self._laid_out.nbytes > _KEPT:
            self._laid_out = np.empty(0, np.uint8)
        if self._container.nbytes > _KEPT:
            self._container = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> memoryview:
        """Memory for encoded bytes, until `reset`."""
        if self._used + nbytes > self._encoded.nbytes:
            # What was taken before keeps the old memory alive as long as it is needed; else it goes first.
            # Twice as much each time, or a bundle of large chunks would find no end of fresh memory.
            larger = max(nbytes, _LEAST, min(2 * self._encoded.nbytes, _KEPT))
            self._encoded, self._used = np.empty(0, np.uint8), 0
            self._encoded = np.empty(larger, np.uint8)
        taken = memoryview(self._encoded)[self._used : self._used + nbytes]
        self._used += nbytes
        return taken

    def decoded(self, chain: Chain) -> NDArray[np.uint8] | None:
        """Memory for one decoded chunk, until the next one. Pages that are never written cost nothing, so a
        chunk that promises too much takes no more than it gives."""
        nbytes = chain.layout.nbytes
        return None if nbytes is None or not chain.stages else self.chunk(nbytes)

    def chunk(self, nbytes: int) -> NDArray[np.uint8]:
        """The same, of so many bytes."""
        if nbytes > self._chunk.nbytes:
            self._chunk = np.empty(nbytes, np.uint8)
        return self._chunk[:nbytes]

    def file(self, decoded: int) -> NDArray[np.uint8]:
        """Memory for a file that is an encoded chunk, with some room to spare, until the next one, `take`, or
        `reset`."""
        nbytes = decoded + decoded // 16 + _SPARE
        if nbytes > self._encoded.nbytes:
            self._encoded = np.empty(nbytes, np.uint8)
        return self._encoded

    def container(self, decoded: int) -> NDArray[np.uint8]:
        """Memory for a part of an encoded chunk, until the next one."""
        if decoded + _SPARE > self._container.nbytes:
            self._container = np.empty(decoded + _SPARE, np.uint8)
        return self._container

    def laid_out(self, chain: Chain) -> NDArray[np.uint8] | None:
        """Memory for one chunk that is to be encoded, until the next one."""
        nbytes = chain.layout.nbytes
        if not nbytes or chain.swap is None:
            return None
        if nbytes > self._laid_out.nbytes:
            self._laid_out = np.empty(nbytes, np.uint8)
        return self._laid_out[:nbytes]


_local = threading.local()


@contextmanager
def own_scratch() -> Iterator[None]:
    """For work of the calling thread, and not for what a signal handler or a finaliser reads in the middle of
    it: that has memory of its own."""
    outer, busy = getattr(_local, "scratch", None), getattr(_local, "busy", False)
    _local.busy = True
    if busy:
        _local.scratch = Scratch()
    try:
        yield
    finally:
        _local.busy = busy
        if busy:
            _local.scratch = outer


def scratch() -> Scratch:
    """The calling thread's."""
    found: Scratch | None = getattr(_local, "scratch", None)
    if found is None:
        found = _local.scratch = Scratch()
    return found
