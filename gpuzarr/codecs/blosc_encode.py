"""Blosc 1 containers made on a device.

    chunks ─shuffle→ blocks ─compress→ streams ─plan→ where each goes ─pack→ containers

kernels/shuffle.cu, then lz4_encode.cu or nvCOMP for the streams of all blocks of all chunks at once, then
blosc_pack.cu. Blocks are cut as c-blosc cuts them, but smaller, so that a device has many streams to encode,
and to decode again. A container that would be no smaller than its chunk holds it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Encoded
from gpuzarr.codecs.blosc_header import (
    ALIGNED,
    BIT_SHUFFLED,
    BYTE_SHUFFLED,
    HEADER,
    LEAST_STREAM,
    LZ4,
    MOST_SPLITS,
    UNSPLIT,
    ZSTD,
)
from gpuzarr.codecs.planes import BITS, BYTES, shuffled
from gpuzarr.device.base import Lane, Uncompressed

INNER: Final = {"lz4": LZ4, "zstd": ZSTD}
"""Inner codecs with an encoder on a device."""
STREAM_NBYTES: Final = 32 << 10
"""Of a block that a device encodes, in each of its streams at most."""
BLOCK_NBYTES: Final = 256 << 10
FRAME_BLOCK_NBYTES: Final = 128 << 10
"""A block is one zstd frame."""
_MOST_TYPESIZE: Final = 255


@dataclass(frozen=True, slots=True)
class Cut:
    """The blocks and streams of a container that a device makes."""

    inner: int
    blocksize: int
    splits: int
    typesize: int
    kind: int
    """Of the shuffle (codecs/planes.py)."""

    @classmethod
    def of(cls, cname: str, nbytes: int, typesize: int, blocksize: int, shuffle: int) -> Cut:
        """For chunks of `nbytes` bytes. `blocksize` 0: as suits a device. `shuffle` -1: bits for one-byte
        values, bytes for others."""
        typesize = typesize if typesize <= _MOST_TYPESIZE else 1
        zstd = INNER[cname] == ZSTD
        splits = typesize if typesize <= MOST_SPLITS and not zstd else 1
        usual = FRAME_BLOCK_NBYTES if zstd else min(STREAM_NBYTES * splits, BLOCK_NBYTES)
        blocksize = min(max(blocksize or usual, LEAST_STREAM), nbytes)
        blocksize = max(blocksize // typesize * typesize, min(typesize, nbytes))
        splits = splits if blocksize // typesize >= LEAST_STREAM else 1
        kind = (BITS if typesize == 1 else BYTES) if shuffle == -1 else shuffle
        return cls(INNER[cname], blocksize, splits, typesize, kind if kind == BITS or typesize > 1 else 0)

    @property
    def flags(self) -> int:
        """As the header has them. That zstd's blocks are not split is said; of others their size tells."""
        shuffle = {0: 0, BYTES: BYTE_SHUFFLED, BITS: BIT_SHUFFLED}[self.kind]
        return shuffle | (UNSPLIT if self.inner == ZSTD else 0) | self.inner << 5

    def streams(self, nbytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each stream of a chunk begins before it is compressed, and its bytes."""
        whole, rest = divmod(nbytes, self.blocksize)
        share = self.blocksize // self.splits
        begin = np.arange(whole * self.splits, dtype=np.int64) * share
        sizes = np.full(len(begin), share, np.int64)
        return (np.append(begin, whole * self.blocksize), np.append(sizes, rest)) if rest else (begin, sizes)


def encoded(batch: Encoded, cut: Cut, lane: Lane) -> Encoded:
    """Chunks of `batch.limit` bytes as containers."""
    sorted_ = batch if not cut.kind else shuffled(batch, cut.kind, cut.typesize, cut.blocksize, lane)
    begin, share = cut.streams(batch.limit)
    zstd = cut.inner == ZSTD
    many, largest, count = len(begin), int(share.max()), len(batch)
    rows = many * count
    src_offset = (sorted_.offset[:, None] + begin).reshape(-1)
    src_nbytes = np.tile(share, count)
    sizes = lane.empty(8 * rows)
    pitch = lane.compress_bound("zstd", largest) if zstd else -(-largest // ALIGNED) * ALIGNED
    streams = lane.empty(pitch * rows)
    dst_offset = np.arange(rows, dtype=np.int64) * pitch
    if zstd:
        owner = np.repeat(np.arange(count, dtype=np.int32), many)
        strings = Uncompressed(
            src=sorted_.data,
            src_offset=src_offset,
            src_nbytes=src_nbytes,
            dst=streams,
            dst_offset=dst_offset,
            dst_nbytes=sizes,
            owner=owner,
            count=rows,
            largest=largest,
        )
        lane.compress("zstd", strings, lane.faults(count))
    else:
        lane.launch(
            "gz_lz4_encode",
            rows,
            32,
            src=sorted_.data,
            src_offset=src_offset,
            src_nbytes=src_nbytes,
            dst=streams,
            dst_offset=dst_offset,
            dst_nbytes=sizes,
            room=largest,
            streams=rows,
            sized=0,
        )
    out = Encoded.room(lane, batch.limit + HEADER.size, count)
    place = lane.empty(8 * rows)
    shape = {"nbytes": batch.limit, "blocksize": cut.blocksize, "splits": cut.splits}
    lane.launch(
        "gz_blosc_plan",
        count,
        256,
        stream_nbytes=sizes,
        place=place,
        containers=out.data,
        nbytes_out=out.nbytes,
        pitch=out.pitch,
        **shape,
        typesize=cut.typesize,
        flags=cut.flags,
    )
    lane.launch(
        "gz_blosc_pack",
        -(-rows // 4),
        128,
        streams=streams,
        stream_nbytes=sizes,
        shuffled=sorted_.data,
        plain=batch.data,
        place=place,
        containers=out.data,
        stream_pitch=pitch,
        shuffled_pitch=sorted_.pitch,
        plain_pitch=batch.pitch,
        pitch=out.pitch,
        **shape,
        rows=rows,
    )
    return out
