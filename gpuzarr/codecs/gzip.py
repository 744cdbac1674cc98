"""Deflate in gzip members, each with its CRC-32 and size behind it (Zarr v3 core codec `gzip`; RFC 1952).

Several members decode to one chunk. Zeros behind the last one are padding, anything else is an error, as in
Python's own `gzip`. Checksums and sizes are verified.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import (
    Batch,
    Buffer,
    ChunkSpec,
    Codec,
    Rates,
    as_bytes,
    check_size,
    decompressed,
    library_refused,
)
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.zlib import inflater
from gpuzarr.device.base import Lane
from gpuzarr.errors import ChunkError, MetadataError

WBITS: Final = zlib.MAX_WBITS | 16
PIECE: Final = 16 << 10
"""zlib copies what it leaves over, so members behind the first are fed to it in pieces."""

RESERVED: Final = 0xE0


@codec("gzip", "numcodecs.gzip", v2="gzip")
@dataclass(frozen=True, slots=True)
class Gzip(Codec):
    """`level` is 0 to 9; -1 is zlib's own default."""

    level: int = 1
    lead: ClassVar[int] = 10
    rates: ClassVar[Rates] = Rates(host=0.7e9, stream=0.1e9, device=30e9)
    exceptions: ClassVar[str] = "those of several members"

    def __post_init__(self) -> None:
        if type(self.level) is not int or not -1 <= self.level <= 9:
            raise MetadataError(f"level {self.level!r} is not -1 to 9", codec="gzip")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Inflate member by member, no further than one byte past what is expected."""
        stored, limit = as_bytes(chunk), decoded.limit
        parts: list[bytes] = []
        at = nbytes = 0
        try:
            while True:
                if stored.nbytes > at + 3 and stored[at + 3] & RESERVED:
                    raise ChunkError("the gzip member sets flags that RFC 1952 reserves")
                member = inflater.decompressobj(wbits=WBITS)
                while not member.eof:
                    piece = stored[at : at + PIECE] if parts else stored
                    if not piece.nbytes:
                        raise ChunkError("the gzip member ends early")
                    at += piece.nbytes
                    parts.append(member.decompress(piece, limit + 1 - nbytes))
                    nbytes += len(parts[-1])
                    if nbytes > limit:
                        check_size(nbytes, decoded)
                at -= len(member.unused_data)
                if at == stored.nbytes or (stored[at] == 0 and not stored[at:].any()):
                    break
        except inflater.error as error:
            raise ChunkError(f"not a whole gzip member: {error}") from error
        check_size(nbytes, decoded)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One member without a time, so that equal chunks are equal bytes."""
        return zlib.compress(as_bytes(chunk), self.level, WBITS)

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device has to know the size."""
        return library_refused(decoded)

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: nvCOMP, then kernels/crc.cu."""
        return decompressed("gzip", batch, decoded, lane)
