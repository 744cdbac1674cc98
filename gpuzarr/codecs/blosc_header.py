"""The header of a Blosc 1 container, and the numbers of the format.

    version 2 · inner version · flags · typesize · int32 nbytes · int32 blocksize · int32 cbytes
    int32 start of each block, counted from the first byte of the container
    blocks

c-blosc believes what the header says, so `read_header` checks it against the bytes that are there.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ChunkError

MAX_NBYTES: Final = 2**31 - 1 - 16
"""What an int32 counts, less the header."""
CNAMES: Final = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BYTE_SHUFFLED, MEMCPYED, BIT_SHUFFLED, FUTURE, UNSPLIT = 0x01, 0x02, 0x04, 0x08, 0x10
RAW, BLOSCLZ, LZ4, SNAPPY, ZLIB, ZSTD = -1, 0, 1, 2, 3, 4
"""Inner codecs; RAW: the payload is stored as it is."""
MOST_SPLITS, LEAST_STREAM = 16, 128
"""c-blosc splits a block into so many streams at most, and into none of fewer bytes."""
ALIGNED: Final = 16
"""Where chunks begin, so that kernels may store wide."""
HEADER: Final = struct.Struct("<4B3i")
"""Two versions, flags and typesize; nbytes, blocksize, cbytes."""
_INT32: Final = struct.Struct("<i")


class Header(NamedTuple):
    """A checked header. `inner` is the inner codec: 0 blosclz, 1 lz4, 2 snappy, 3 zlib, 4 zstd."""

    flags: int
    inner: int
    typesize: int
    nbytes: int
    blocksize: int
    cbytes: int
    inner_version: int

    @property
    def memcpyed(self) -> bool:
        """The payload is stored as it is."""
        return bool(self.flags & MEMCPYED)

    @property
    def splits(self) -> int:
        """Streams of a whole block, one for each byte of an item or one. What is left over is one stream."""
        small = self.typesize > MOST_SPLITS or self.blocksize // self.typesize < LEAST_STREAM
        return 1 if small or self.flags & (UNSPLIT | MEMCPYED) else self.typesize


def read_header(stored: NDArray[np.uint8]) -> Header:
    """The header of a container whose sizes and block starts all lie within `stored`, else a ChunkError."""
    header = _read_sizes(stored)
    if header.memcpyed:
        return header
    nblocks = -(-header.nbytes // header.blocksize)
    first, last = 16 + 4 * nblocks, header.cbytes - 4
    if nblocks == 1:
        low = high = _INT32.unpack_from(stored, 16)[0]
    else:
        starts = stored[16:first].view("<i4")
        low, high = starts.min(), starts.max()
    if low < first or high > last:
        raise ChunkError(f"a Blosc block starts outside of bytes {first} to {last}")
    return header


def _read_sizes(stored: NDArray[np.uint8]) -> Header:
    """The header, without a look at the block starts."""
    if stored.nbytes < 16:
        raise ChunkError(f"{stored.nbytes} bytes cannot hold a Blosc header")
    version, inner_version, flags, typesize, nbytes, blocksize, cbytes = HEADER.unpack_from(stored)
    if version != 2 or flags & FUTURE:
        raise ChunkError(f"not a Blosc 1 container: format {version}, flags {flags:#04x}")
    if nbytes <= 0 or not 0 < blocksize <= nbytes or typesize == 0:
        raise ChunkError(f"Blosc header with {nbytes=}, {blocksize=}, {typesize=}")
    if not 16 <= cbytes <= stored.nbytes:
        raise ChunkError(f"a Blosc container of {cbytes} bytes in a chunk of {stored.nbytes}")
    header = Header(flags, flags >> 5, typesize, nbytes, blocksize, cbytes, inner_version)
    if flags & MEMCPYED:
        if cbytes != nbytes + 16:
            raise ChunkError(f"{cbytes - 16} bytes stored uncompressed where the Blosc header says {nbytes}")
        return header
    nblocks = -(-nbytes // blocksize)
    if 16 + 4 * nblocks > cbytes - 4:
        raise ChunkError(f"{cbytes} bytes cannot hold {nblocks} Blosc blocks")
    if blocksize % header.splits:  # c-blosc would leave the rest of each block as it finds it
        raise ChunkError(f"Blosc blocks of {blocksize} bytes in {header.splits} streams")
    return header


def blocks_of(
    stored: NDArray[np.uint8], header: Header, begin: int, end: int
) -> tuple[NDArray[np.uint8], int, int] | None:
    """A container of the blocks that hold the plain bytes from `begin` up to `end`: each is compressed by
    itself, so that a header before some of them is all it takes. Also where its plain bytes begin, and how
    many they are. None where nearly all blocks are wanted, or where they do not lie in order."""
    size, count = header.blocksize, -(-header.nbytes // header.blocksize)
    first, last = begin // size, -(-end // size)
    if last == count and header.nbytes % size and last - first == 1:
        first -= 1  # c-blosc takes no container of less than a block
    if first < 0 or last <= first or 4 * (last - first) > 3 * count:
        return None
    starts = stored[HEADER.size : HEADER.size + 4 * count].view("<i4")
    if np.any(starts[1:] <= starts[:-1]):
        return None
    here = int(starts[first])
    there = int(starts[last]) if last < count else header.cbytes
    lead = HEADER.size + 4 * (last - first)
    made = np.empty(lead + there - here, np.uint8)
    made[:4] = stored[:4]
    nbytes = min(last * size, header.nbytes) - first * size
    made[4:16].view("<i4")[:] = nbytes, size, made.nbytes
    made[16:lead].view("<i4")[:] = starts[first:last] - here + lead
    made[lead:] = stored[here:there]
    return made, first * size, nbytes
