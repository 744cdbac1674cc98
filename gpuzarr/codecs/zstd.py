"""Zstandard frames (Zarr v3 codec `zstd`; numcodecs `zstd`; RFC 8878).

A chunk is one frame or more, skippable ones among them. What a frame's header says it decodes to is believed
only after it was compared with what the metadata promises, or, where they promise nothing, with what the
frame's blocks can hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from gpuzarr.codecs.base import (
    Batch,
    Buffer,
    ChunkSpec,
    Codec,
    Encoded,
    Rates,
    Stored,
    as_bytes,
    check_size,
    compressed,
    decompressed,
    library_refused,
)
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.zstd_library import decoder
from gpuzarr.device.base import Lane
from gpuzarr.errors import ChunkError, LimitError, MetadataError

MAGIC: Final = 0xFD2FB528
SKIPPABLE: Final = 0x184D2A50  # the last four bits are free
MAX_BLOCK: Final = 128 << 10
DEVICE_LEVEL: Final = 5
"""nvCOMP compresses about as much as low levels do; whoever asks for a higher one gets it, from the host."""

_LEAST_BLOCK: Final = 4 << 10  # smaller ones on average take longer to look at than they are worth
_MAGIC_AND_DESCRIPTOR: Final = struct.Struct("<IB")
_UINT32: Final = struct.Struct("<I")
_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")


class Frame(NamedTuple):
    """One frame. `content` is what its header says it decodes to, None where it does not say."""

    start: int
    nbytes: int
    content: int | None
    bound: int
    """It cannot decode to more."""
    checksum: bool


def _header(stored: memoryview, start: int) -> tuple[int | None, int, int, bool]:
    """The content size, the most that a block holds, where the blocks begin, and whether a checksum follows
    them."""
    if start + 5 > len(stored):
        raise ChunkError("the zstd frame header ends early")
    magic, descriptor = _MAGIC_AND_DESCRIPTOR.unpack_from(stored, start)
    if magic != MAGIC or descriptor & 0x08:
        raise ChunkError(f"no zstd frame at byte {start}")
    single = descriptor >> 5 & 1
    width = (single, 2, 4, 8)[descriptor >> 6]
    at = start + 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    blocks = at + width
    if blocks > len(stored):
        raise ChunkError("the zstd frame header ends early")
    content = int.from_bytes(stored[at:blocks], "little") + (256 if width == 2 else 0) if width else None
    if single:
        window = content or 0
    else:
        mantissa, exponent = stored[start + 5] & 7, stored[start + 5] >> 3
        window = (8 + mantissa) << (7 + exponent)
    return content, min(window, MAX_BLOCK), blocks, bool(descriptor & 4)


def frames(chunk: Buffer, limit: int | None = None) -> Iterator[Frame]:
    """The frames of a chunk, found by walking their blocks. Skippable frames have no content. A frame that
    ends early, or that claims more than its blocks can hold, is a ChunkError. Frames that may decode to more
    than `limit` together are a LimitError."""
    stored = as_bytes(chunk).data
    start = total = 0
    while start < len(stored):
        if start + 8 <= len(stored) and _UINT32.unpack_from(stored, start)[0] & ~15 == SKIPPABLE:
            end = start + 8 + _UINT32.unpack_from(stored, start + 4)[0]
            if end > len(stored):
                raise ChunkError("a skippable zstd frame ends early")
            yield Frame(start, end - start, 0, 0, False)
            start = end
            continue
        content, block, end, checksum = _header(stored, start)
        most = None if limit is None else limit - total
        bound, last = 0, 0
        while not last:
            head = int.from_bytes(stored[end : end + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            end += 3 + (1 if kind == 1 else size)
            if end > len(stored):
                raise ChunkError("a zstd frame ends early")
            bound += block if kind == 2 else size
            if most is not None and content is None and bound > most:
                break
        if content is not None and content > bound:
            raise ChunkError(f"a zstd frame claims {content} bytes and can hold {bound}")
        bound = bound if content is None else content
        if most is not None and bound > most:
            raise LimitError(
                f"may decode to more than {limit} bytes", hint="raise max_chunk_nbytes if it is meant"
            )
        end += 4 if checksum else 0
        if end > len(stored):
            raise ChunkError("a zstd frame ends early")
        yield Frame(start, end - start, content, bound, checksum)
        total += bound
        start = end


def content_size(chunk: Buffer, limit: int | None = None) -> int | None:
    """What all frames together say they decode to; None if one of them does not say."""
    total: int | None = 0
    for frame in frames(chunk, limit):
        total = None if total is None or frame.content is None else total + frame.content
    return total


@codec("zstd", "numcodecs.zstd", v2="zstd")
@dataclass(frozen=True, slots=True)
class Zstd(Codec):
    """`level` is -131072 to 22, 0 being zstd's own default; `checksum` stores the content's XXH64."""

    level: int = 0
    checksum: bool = False
    notes: ClassVar[int] = 1
    rates: ClassVar[Rates] = Rates(host=1e9, stream=0.4e9, device=30e9)
    exceptions: ClassVar[str] = "those of several frames, of unknown size, or with a checksum"

    def __post_init__(self) -> None:
        if type(self.level) is not int or not -131072 <= self.level <= 22:
            raise MetadataError(f"level {self.level!r} is not -131072 to 22", codec="zstd")
        if type(self.checksum) is not bool:
            raise MetadataError(f"checksum {self.checksum!r} is neither true nor false", codec="zstd")

    def to_document(self, zarr_format: int, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Older readers of v2 know no `checksum`."""
        stated = {"level": self.level}
        return stated if zarr_format == 2 and not self.checksum else {**stated, "checksum": self.checksum}

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Straight into `out`, in one pass where the size is known. Empty content is an error, as in
        numcodecs."""
        stored = as_bytes(chunk)
        known = decoded.nbytes is not None
        sized = known and _first_content(stored.data) == decoded.nbytes
        if not sized:
            size = content_size(stored, None if known else decoded.limit)
            if size is not None:
                check_size(size, decoded)
        if known and out is None:
            # Not left to numcodecs: frames that say no size decode to exactly this or not at all.
            out = np.empty(decoded.limit, np.uint8)
        if sized and out is not None and out.nbytes and (library := decoder()) and library.whole(stored, out):
            return out
        try:
            plain: Buffer = zstd.decompress(stored, out)
        except (RuntimeError, ValueError) as error:
            raise ChunkError(f"damaged zstd frames: {error}") from error
        return plain

    def decode_part(
        self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8], begin: int, end: int
    ) -> bool:
        """Only the blocks up to the last byte, where others follow and no checksum covers them."""
        stored = as_bytes(chunk)
        found, library = _blocks(stored.data, decoded.limit, end), decoder()
        return found is not None and library is not None and library.prefix(stored, found, out, end)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One frame that says its size."""
        stored: Buffer = zstd.compress(as_bytes(chunk), self.level, self.checksum)
        return stored

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device has to know the size."""
        return library_refused(decoded)

    def inspect(self, stored: Stored, decoded: ChunkSpec) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """nvCOMP gets what it is known to take: a frame that says its size, without a dictionary or a
        checksum. That it is one whole frame is seen by kernels/streams.cu."""
        head = stored.peek(18)
        taken = (head[:, :4].copy().view("<u4")[:, 0] == MAGIC) & (head[:, 4] & 0x0F == 0)
        code, single = head[:, 4] >> 6, head[:, 4] >> 5 & 1
        width = np.where(code == 0, single, 1 << code)
        begin = 6 - single.astype(np.int64)
        field = stored.peek(8, begin)
        field[np.arange(8) >= width[:, None]] = 0
        content = field.view("<u8")[:, 0] + np.where(width == 2, 256, 0).astype(np.uint64)
        taken &= (width > 0) & (content == decoded.limit)
        return np.zeros((len(stored), 1), np.int64), taken

    def scratch(self, decoded: ChunkSpec) -> int:
        """What nvCOMP asks for."""
        return zstd_scratch(decoded.limit, 1)

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: nvCOMP."""
        return decompressed("zstd", batch, decoded, lane)

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """The device has one level, and no checksum."""
        if self.checksum or self.level > DEVICE_LEVEL:
            return "a checksum" if self.checksum else f"level {self.level}"
        return None if 0 < (decoded.nbytes or 0) < 1 << 31 else "size known only from the stream"

    def encode_bound(self, nbytes: int) -> int:
        """No less than nvCOMP asks for (a test compares)."""
        return zstd_bound(nbytes)

    def encode_scratch(self, nbytes: int) -> int:
        """What nvCOMP asks for."""
        return zstd_compress_scratch(nbytes)

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: nvCOMP."""
        return compressed("zstd", batch, lane)


def zstd_scratch(nbytes: int, frames: int) -> int:
    """No less than nvCOMP asks for, for frames that give so many bytes together (a test compares)."""
    return 3 * nbytes + nbytes // 16 + 8192 * frames


def zstd_bound(nbytes: int) -> int:
    """No less than nvCOMP asks for at the destination of a frame that it makes of so many bytes (a test
    compares)."""
    header = 6 + 2 * (nbytes >= 256) + 2 * (nbytes >= 65792)
    return nbytes + header + 3 * max(-(-nbytes // 65536), 1)


def zstd_compress_scratch(nbytes: int) -> int:
    """What is counted for each frame that nvCOMP's compressor makes. What it asks for goes by the GPU, is
    hundreds of MiB once, and not known without one (a test there compares what each frame adds)."""
    return zstd_scratch(nbytes, 1)


def _first_content(stored: memoryview) -> int | None:
    """What the first frame says it decodes to; None if it does not say or is skippable."""
    return _header(stored, 0)[0] if stored[:4] == _MAGIC_BYTES else None


def _blocks(stored: memoryview, nbytes: int, end: int) -> list[int] | None:
    """Where the blocks end of a chunk that is one frame of `nbytes` bytes. None where the bytes up to `end`
    are in nearly all of them, the frame has a checksum, or it is an odd one."""
    if stored[:4] != _MAGIC_BYTES:
        return None
    content, _, at, checksum = _header(stored, 0)
    if content != nbytes or checksum or -(-end // MAX_BLOCK) >= -(-nbytes // MAX_BLOCK):
        return None
    ends: list[int] = []
    last = 0
    while not last and len(ends) <= nbytes // _LEAST_BLOCK:
        head = int.from_bytes(stored[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == 1 else size)
        ends.append(at)
    return ends if last and at == len(stored) else None
