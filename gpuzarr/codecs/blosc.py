"""Blosc 1 containers: a chunk in blocks, each shuffled, then compressed (Zarr v3 core codec `blosc`;
numcodecs `blosc`).

    version 2 · inner version · flags · typesize · int32 nbytes · int32 blocksize · int32 cbytes
    int32 start of each block, counted from the first byte of the container
    blocks

c-blosc believes what the header says, so `read_header` checks it against the bytes that are there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ArgumentError, ChunkError, MetadataError, UnsupportedError

MAX_NBYTES: Final = 2**31 - 1 - 16
"""What an int32 counts, less the header."""
CNAMES: Final = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BYTE_SHUFFLED, MEMCPYED, BIT_SHUFFLED, FUTURE, UNSPLIT = 0x01, 0x02, 0x04, 0x08, 0x10
SNAPPY: Final = 2

_HEADER: Final = struct.Struct("<4B3i")
_INT32: Final = struct.Struct("<i")


class Header(NamedTuple):
    """A checked header. `inner` is the inner codec: 0 blosclz, 1 lz4, 2 snappy, 3 zlib, 4 zstd."""

    flags: int
    inner: int
    typesize: int
    nbytes: int
    blocksize: int
    cbytes: int


def read_header(stored: NDArray[np.uint8]) -> Header:
    """The header of a container whose sizes and block starts all lie within `stored`, else a ChunkError."""
    if stored.nbytes < 16:
        raise ChunkError(f"{stored.nbytes} bytes cannot hold a Blosc header")
    version, _, flags, typesize, nbytes, blocksize, cbytes = _HEADER.unpack_from(stored)
    if version != 2 or flags & FUTURE:
        raise ChunkError(f"not a Blosc 1 container: format {version}, flags {flags:#04x}")
    if nbytes <= 0 or not 0 < blocksize <= nbytes or typesize == 0:
        raise ChunkError(f"Blosc header with {nbytes=}, {blocksize=}, {typesize=}")
    if not 16 <= cbytes <= stored.nbytes:
        raise ChunkError(f"a Blosc container of {cbytes} bytes in a chunk of {stored.nbytes}")
    if flags & MEMCPYED:
        if cbytes != nbytes + 16:
            raise ChunkError(f"{cbytes - 16} bytes stored uncompressed where the Blosc header says {nbytes}")
        return Header(flags, flags >> 5, typesize, nbytes, blocksize, cbytes)
    nblocks = -(-nbytes // blocksize)
    first, last = 16 + 4 * nblocks, cbytes - 4
    if first > last:
        raise ChunkError(f"{cbytes} bytes cannot hold {nblocks} Blosc blocks")
    if nblocks == 1:
        low = high = _INT32.unpack_from(stored, 16)[0]
    else:
        starts = stored[16:first].view("<i4")
        low, high = starts.min(), starts.max()
    if low < first or high > last:
        raise ChunkError(f"a Blosc block starts outside of bytes {first} to {last}")
    return Header(flags, flags >> 5, typesize, nbytes, blocksize, cbytes)


@codec("blosc", "numcodecs.blosc", v2="blosc")
@dataclass(frozen=True, slots=True)
class Blosc(Codec):
    """`shuffle` is a name (v3) or a number (v2; -1 takes bits for one-byte values and bytes for others).
    `typesize`, where None, is the item size of what is encoded; `blocksize` 0 leaves the choice to
    c-blosc."""

    cname: str = "lz4"
    clevel: int = 5
    shuffle: int | str = 1
    blocksize: int = 0
    typesize: int | None = None

    def __post_init__(self) -> None:
        known = (
            self.cname in CNAMES,
            type(self.clevel) is int and 0 <= self.clevel <= 9,
            self.shuffle in SHUFFLES if isinstance(self.shuffle, str) else self.shuffle in (-1, 0, 1, 2),
            type(self.blocksize) is int and 0 <= self.blocksize < 2**31,
            self.typesize is None or (type(self.typesize) is int and self.typesize > 0),
        )
        if not all(known):
            name = ("cname", "clevel", "shuffle", "blocksize", "typesize")[known.index(False)]
            raise MetadataError(f"{name} {getattr(self, name)!r} is not one of Blosc's", codec="blosc")

    def to_config(self) -> dict[str, Any]:
        """v2 documents have no `typesize`."""
        stated = super(Blosc, self).to_config()
        if self.typesize is None:
            del stated["typesize"]
        return stated

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Straight into `out`. Outside of the main thread numcodecs takes no lock and starts no threads."""
        stored = as_bytes(chunk)
        header = read_header(stored)
        check_size(header.nbytes, decoded)
        if header.inner == SNAPPY and not header.flags & MEMCPYED:
            raise _no_snappy()
        try:
            plain: Buffer = blosc.decompress(stored, out)
        except RuntimeError as error:
            raise ChunkError(f"damaged Blosc blocks: {error}") from error
        return plain

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One container of at most 2³¹−17 plain bytes."""
        plain = as_bytes(chunk)
        if plain.nbytes > MAX_NBYTES:
            raise ArgumentError(
                f"Blosc cannot hold {plain.nbytes} bytes in one chunk", hint="use smaller chunks"
            )
        if self.cname == "snappy":
            raise _no_snappy()
        shuffle = SHUFFLES[self.shuffle] if isinstance(self.shuffle, str) else self.shuffle
        typesize = self.typesize or max(decoded.dtype.itemsize, 1)
        stored: Buffer = blosc.compress(
            plain, self.cname.encode(), self.clevel, shuffle, self.blocksize, typesize
        )
        return stored


def _no_snappy() -> UnsupportedError:
    return UnsupportedError("numcodecs' Blosc is built without snappy", codec="blosc", hint="use lz4 or zstd")
