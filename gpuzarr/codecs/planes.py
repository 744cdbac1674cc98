"""Shuffled chunks on a device: what Blosc containers and numcodecs `shuffle` have in common.

    bytes   a0 b0 c0 ...  a1 b1 c1 ...  a2 b2 c2 ...      a plane for each byte of an item
    bits    bit 0 of a0 b0 c0 ... | bit 1 of them | ...   a plane for each bit

Each block of a chunk is shuffled by itself. A codec that leaves such a batch says how in `Batch.planes`;
whoever takes it undoes the shuffle on the way: the engine while it copies chunks into the result, others
through `unshuffled`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, ChunkSpec, Codec, Encoded, even
from gpuzarr.device.base import Lane

BYTES, BITS = 1, 2
"""Kinds of shuffles."""
MOST_TYPESIZE: Final = 255
"""Bytes of an item."""
TILE_NBYTES: Final = 16384
"""What a block of kernels/unshuffle.cu holds at once."""


@dataclass(frozen=True, slots=True)
class Shuffled(Codec):
    """A codec whose device form can leave its last step, a shuffle, to whoever takes the batch."""

    @abstractmethod
    def decode_planes(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """`decode_batch`, but for the shuffle: the result has `planes`."""

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: see `decode_planes`, then kernels/unshuffle.cu."""
        return unshuffled(self.decode_planes(batch, decoded, lane), decoded, lane)


def tiles(planes: NDArray[np.int64], nbytes: int) -> int:
    """Blocks of threads that a chunk of `nbytes` bytes takes, the most of all."""
    _, typesize, blocksize = planes.T
    width = np.maximum(TILE_NBYTES // typesize // 64 * 64, 64)
    blocks = -(-nbytes // blocksize)
    return int((np.maximum(-(-(blocksize // typesize) // width), 1) * blocks).max(initial=1))


def unshuffled(batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
    """Every chunk with its shuffle undone, in new memory; the batch itself, if nothing is shuffled."""
    planes, nbytes = batch.planes, decoded.nbytes or 0
    if planes is None or not planes[:, 0].any():
        return replace(batch, planes=None)
    pitch = -(-nbytes // 16) * 16
    placed = even(lane.empty(pitch * len(batch)), pitch, len(batch))
    one = np.zeros(1, np.int64)
    most = tiles(planes, nbytes)
    lane.launch(
        "gz_unshuffle",
        len(batch) * most,
        256,
        src=batch.data,
        src_offset=batch.offset,
        planes=planes,
        dst=placed.data,
        dst_base=0,
        chunk_lo=np.zeros(len(batch), np.int64),
        out_lo=placed.offset,
        extent=np.full(len(batch), nbytes, np.int64),
        step=one + 1,
        shape=one + nbytes,
        src_stride=one + 1,
        dst_stride=one + 1,
        nbytes=nbytes,
        groups=1,
        itemsize=1,
        unit=0,
        pitch=most,
    )
    return replace(placed, nbytes=np.full(len(batch), nbytes, np.int64))


def shuffled(batch: Encoded, kind: int, typesize: int, blocksize: int, lane: Lane) -> Encoded:
    """Every chunk, all of `batch.limit` bytes, with its blocks shuffled."""
    out = Encoded.room(lane, batch.limit, len(batch), batch.nbytes)
    most = tiles(np.array([[kind, typesize, blocksize]], np.int64), batch.limit)
    lane.launch(
        "gz_shuffle",
        len(batch) * most,
        256,
        src=batch.data,
        dst=out.data,
        src_pitch=batch.pitch,
        dst_pitch=out.pitch,
        nbytes=batch.limit,
        blocksize=blocksize,
        typesize=typesize,
        kind=kind,
        tiles=most,
    )
    return out
