"""Bytes sorted by their place in an element (numcodecs `shuffle`). Device forms:
kernels/unshuffle.cu, kernels/shuffle.cu."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numcodecs.shuffle import Shuffle as Reference
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Encoded, as_bytes, check_size, unchanged
from gpuzarr.codecs.planes import BYTES, MOST_TYPESIZE, Shuffled, shuffled
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import ChunkError


@codec("numcodecs.shuffle", v2="shuffle")
@dataclass(frozen=True, slots=True)
class Shuffle(Shuffled):
    """`elementsize` is in bytes; 0 (as NCZarr writes it) or None means the item size of the array."""

    elementsize: int | None = 4

    def __post_init__(self) -> None:
        size = self.elementsize
        if size is not None and (type(size) is not int or not 0 <= size < 1 << 31):
            raise ValueError(f"elementsize {size!r} is not a number of bytes")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many bytes. Shape and type stay, so that filters behind this one know the item size too."""
        return decoded

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Whole elements only."""
        stored = self._whole(chunk, decoded)
        return _bytes(Reference(self._size(decoded)).decode(stored, out)) if stored.size else stored

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Whole elements only."""
        plain = self._whole(chunk, decoded)
        return _bytes(Reference(self._size(decoded)).encode(plain)) if plain.size else plain

    def _size(self, decoded: ChunkSpec) -> int:
        return self.elementsize or decoded.dtype.itemsize

    def _whole(self, chunk: Buffer, decoded: ChunkSpec) -> NDArray[np.uint8]:
        """The bytes of a chunk, if they are whole elements."""
        whole = as_bytes(chunk)
        check_size(whole.nbytes, decoded)
        size = self._size(decoded)
        if size > 1 and whole.nbytes % size:
            raise ChunkError(f"{whole.nbytes} bytes are not whole elements of {size}", codec=self.name)
        return whole

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes every chunk of known size."""
        if decoded.nbytes is None:
            return "size known only from the stream"
        size = max(self._size(decoded), 1)
        if size > MOST_TYPESIZE:
            return f"elements of over {MOST_TYPESIZE} bytes"
        return "not whole elements" if decoded.nbytes % size else None

    def decode_planes(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Nothing is to be done before."""
        size = max(self._size(decoded), 1)
        planes = np.array([size > 1, size, max(decoded.nbytes or 0, 1)], np.int64)
        return replace(unchanged(batch, decoded), planes=np.tile(planes, (len(batch), 1)))

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """As for decoding."""
        return self.host_only(decoded)

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: kernels/shuffle.cu."""
        size = self._size(decoded)
        return shuffled(batch, BYTES, size, batch.limit, lane) if size > 1 and batch.limit else batch


def _bytes(result: Buffer) -> NDArray[np.uint8]:
    return as_bytes(result)
