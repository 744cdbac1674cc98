"""Bzip2 streams (numcodecs `bz2`). Several decode to one chunk; what is no stream behind them is ignored, as
in Python's own `bz2`."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MetadataError

PIECE: Final = 16 << 10
"""Decompressors copy what they leave over, so streams behind the first are fed to them in pieces."""


@codec("numcodecs.bz2", "bz2", v2="bz2")
@dataclass(frozen=True, slots=True)
class BZ2(Codec):
    """`level` is 1 to 9: the block size in units of 100 kB."""

    level: int = 1

    def __post_init__(self) -> None:
        if type(self.level) is not int or not 1 <= self.level <= 9:
            raise MetadataError(f"level {self.level!r} is not 1 to 9", codec="bz2")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Stream by stream, no further than one byte past what is expected."""
        return decode_streams(bz2.BZ2Decompressor, OSError, chunk, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One stream."""
        return bz2.compress(as_bytes(chunk).data, self.level)


class Decompressor(Protocol):
    """What the standard library's decompressors of one stream have in common."""

    @property
    def eof(self) -> bool:
        """The stream's end was reached."""
        ...

    @property
    def needs_input(self) -> bool:
        """All it was fed is decoded."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What it was fed behind the stream's end."""
        ...

    def decompress(self, data: memoryview, max_length: int = -1) -> bytes:
        """No more than `max_length` bytes more."""
        ...


def decode_streams(
    opened: Callable[[], Decompressor], fault: type[Exception], chunk: Buffer, decoded: ChunkSpec
) -> bytes:
    """The streams of a chunk, one behind the other. Each is checked to its end; a `fault` in any but the
    first ends the chunk before it."""
    stored, limit = as_bytes(chunk), decoded.limit
    parts: list[bytes] = []
    at = nbytes = 0
    while at < stored.nbytes or not at:
        stream = opened()
        before = len(parts), nbytes
        try:
            while not stream.eof:
                piece = stored[at : at + PIECE] if at else stored
                if not stream.needs_input:
                    piece = stored[:0]
                elif not piece.nbytes:
                    raise ChunkError("the compressed stream ends early")
                at += piece.nbytes
                parts.append(stream.decompress(piece.data, limit + 1 - nbytes))
                nbytes += len(parts[-1])
                if nbytes > limit:
                    check_size(nbytes, decoded)
        except fault as error:
            if not before[0]:
                raise ChunkError(f"not a whole compressed stream: {error}") from error
            nbytes = before[1]
            del parts[before[0] :]
            break
        at -= len(stream.unused_data)
    check_size(nbytes, decoded)
    return parts[0] if len(parts) == 1 else b"".join(parts)
