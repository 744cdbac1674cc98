"""One LZ4 block behind its plain size, a little-endian int32 (numcodecs `lz4`; the LZ4 block format). Device
forms: kernels/lz4.cu, kernels/lz4_encode.cu."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numcodecs import lz4
from numpy.typing import NDArray

from gpuzarr.codecs.base import (
    Batch,
    Buffer,
    ChunkSpec,
    Codec,
    Encoded,
    Rates,
    as_bytes,
    check_size,
    even,
)
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import ArgumentError, ChunkError, MetadataError

MAX_NBYTES: Final = 0x7E000000

_INT32: Final = struct.Struct("<i")


@codec("numcodecs.lz4", "lz4", v2="lz4")
@dataclass(frozen=True, slots=True)
class LZ4(Codec):
    """The larger `acceleration`, the faster and the larger the result; less than 1 means 1."""

    acceleration: int = 1
    rates: ClassVar[Rates] = Rates(host=3e9, stream=1e9, device=150e9)

    def __post_init__(self) -> None:
        if type(self.acceleration) is not int or abs(self.acceleration) >= 2**31:
            raise MetadataError(f"acceleration {self.acceleration!r} is not an int32", codec="lz4")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Straight into `out`. Empty content is an error, as in numcodecs."""
        stored = as_bytes(chunk)
        if stored.nbytes < 5:
            raise ChunkError(f"{stored.nbytes} bytes cannot hold a size and an LZ4 block")
        nbytes = _INT32.unpack_from(stored)[0]
        if nbytes <= 0:
            raise ChunkError(f"an LZ4 block of {nbytes} bytes")
        check_size(nbytes, decoded)
        if nbytes > 255 * stored.nbytes:  # no byte of a block stands for more
            raise ChunkError(f"{nbytes} bytes cannot lie in an LZ4 block of {stored.nbytes - 4}")
        try:
            plain: Buffer = lz4.decompress(stored, out)
        except (RuntimeError, ValueError) as error:
            raise ChunkError(f"not {nbytes} bytes in an LZ4 block: {error}") from error
        return plain

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The size and one block."""
        plain = as_bytes(chunk)
        if plain.nbytes > MAX_NBYTES:
            raise ArgumentError(
                f"LZ4 cannot hold {plain.nbytes} bytes in one chunk", hint="use smaller chunks"
            )
        stored: Buffer = lz4.compress(plain, self.acceleration)
        return stored

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes chunks of known size."""
        if decoded.nbytes is None:
            return "size known only from the stream"
        return None if 0 < decoded.nbytes <= MAX_NBYTES else f"{decoded.nbytes} bytes are no LZ4 block"

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/lz4.cu."""
        nbytes, count = decoded.nbytes or 0, len(batch)
        pitch = -(-nbytes // 16) * 16  # so that the kernel may store wide
        out = lane.empty(count * pitch)
        placed = even(out, pitch, count)
        sizes = np.full(count, nbytes, np.int64)
        lane.launch(
            "gz_lz4",
            -(-count // 2),
            64,
            src=batch.data,
            src_offset=batch.offset,
            src_nbytes=batch.nbytes,
            dst=out,
            dst_offset=placed.offset,
            dst_nbytes=sizes,
            owner=np.arange(count, dtype=np.int32),
            fault=lane.faults(count),
            streams=count,
            sized=1,
        )
        return Batch(out, placed.offset, sizes)

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """As for decoding. The device has one acceleration."""
        return self.host_only(decoded)

    def encode_bound(self, nbytes: int) -> int:
        """The size, and as many bytes as LZ4 ever makes."""
        return 4 + block_bound(nbytes)

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: kernels/lz4_encode.cu."""
        out = Encoded.room(lane, self.encode_bound(batch.limit), len(batch))
        lane.launch(
            "gz_lz4_encode",
            len(batch),
            32,
            src=batch.data,
            src_offset=batch.offset,
            src_nbytes=batch.nbytes,
            dst=out.data,
            dst_offset=out.offset,
            dst_nbytes=out.nbytes,
            room=out.limit,
            streams=len(batch),
            sized=1,
        )
        return out


def block_bound(nbytes: int) -> int:
    """No LZ4 block of so many bytes is larger."""
    return nbytes + nbytes // 255 + 16
