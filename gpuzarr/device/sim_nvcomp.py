"""What stands in for libnvcomp on device sim: the same calls over host libraries, all requirements checked.

Addresses, alignments, scratch, sizes and statuses are passed as libnvcomp takes them: `nvcomp.decompress`
and `compressing.compress` are tested without a GPU. A stream that does not decompress sets its status, as
there.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.nvcomp import Alignments, StringTable, Table
from gpuzarr.errors import DeviceError

_ALIGNMENTS = {"zstd": Alignments(1, 1, 8), "deflate": Alignments(4, 1, 1)}
_COMPRESS_ALIGNMENTS = {"zstd": Alignments(4, 1, 1)}
_CANNOT_DECOMPRESS = 12  # nvcompErrorCannotDecompress


class HostLibrary:
    """See `nvcomp.Decompressor`."""

    def alignments(self, format: str) -> Alignments:
        """Those of libnvcomp 6."""
        return _ALIGNMENTS.get(format, Alignments(1, 1, 1))

    def scratch_nbytes(self, format: str, count: int, largest: int, total: int) -> int:
        """For zstd about what libnvcomp asks for, which is three times the output."""
        return count * (3 * largest + largest // 19 + 6936) if format == "zstd" else 0

    def decompress(self, format: str, table: Table, cuda_stream: int = 0) -> None:
        """Stream by stream."""
        n = table.count
        scratch = self.scratch_nbytes(format, n, max(_words(table.target_nbytes, n).tolist(), default=0), 0)
        if table.scratch_nbytes < scratch:
            raise DeviceError(f"{format}: {scratch} bytes of scratch are needed")
        if table.scratch_nbytes and table.scratch % self.alignments(format).scratch:
            raise DeviceError(f"{format}: scratch is not aligned")
        statuses = _view(table.statuses, 4 * n).view(np.int32)
        written = _words(table.written, n)
        columns = (table.sources, table.source_nbytes, table.targets, table.target_nbytes)
        rows = zip(*(_words(column, n).tolist() for column in columns), strict=True)
        for i, (source, nbytes, target, room) in enumerate(rows):
            if source % self.alignments(format).input:
                raise DeviceError(f"{format}: a stream is not aligned")
            try:
                plain = _DECODERS[format](_view(source, nbytes).tobytes(), room)
            except (RuntimeError, ValueError, zlib.error):
                plain = None
            failed = plain is None or len(plain) > room
            statuses[i], written[i] = (_CANNOT_DECOMPRESS, 0) if failed else (0, len(plain or b""))
            if plain and not failed:
                _view(target, len(plain))[:] = np.frombuffer(plain, np.uint8)

    def compress_alignments(self, format: str) -> Alignments:
        """Those of libnvcomp 6."""
        return _COMPRESS_ALIGNMENTS[format]

    def compress_bound(self, format: str, nbytes: int) -> int:
        """That of libnvcomp 6: a header that states the size, and three bytes for each 64 KiB."""
        if nbytes >= 1 << 31:
            raise DeviceError(f"{format}: {nbytes} bytes are more than nvCOMP compresses at once")
        return nbytes + 6 + 2 * (nbytes >= 256) + 2 * (nbytes >= 65792) + 3 * max(-(-nbytes // 65536), 1)

    def compress_scratch_nbytes(
        self, format: str, count: int, largest: int, total: int, cuda_stream: int = 0
    ) -> int:
        """Some, so that it is counted. What libnvcomp asks for goes by the GPU."""
        return count * (2 * largest + 256)

    def compress(self, format: str, table: StringTable, cuda_stream: int = 0) -> None:
        """String by string."""
        n, need = table.count, self.compress_alignments(format)
        scratch = self.compress_scratch_nbytes(format, n, table.largest, n * table.largest)
        if table.scratch_nbytes < scratch:
            raise DeviceError(f"{format}: {scratch} bytes of scratch are needed")
        if table.scratch % need.scratch:
            raise DeviceError(f"{format}: scratch is not aligned")
        statuses = _view(table.statuses, 4 * n).view(np.int32)
        written = _words(table.written, n)
        columns = (table.sources, table.source_nbytes, table.targets)
        rows = zip(*(_words(column, n).tolist() for column in columns), strict=True)
        for i, (source, nbytes, target) in enumerate(rows):
            if source % need.input or target % need.output:
                raise DeviceError(f"{format}: a string or its stream is not aligned")
            if not 0 < nbytes <= table.largest:
                raise DeviceError(f"{format}: a string of {nbytes} bytes, of at most {table.largest}")
            stream = self.encode(format, _view(source, nbytes).tobytes())
            if len(stream) > self.compress_bound(format, table.largest):
                raise DeviceError(f"{format}: {len(stream)} bytes of {nbytes} are more than was said")
            _view(target, len(stream))[:] = np.frombuffer(stream, np.uint8)
            statuses[i], written[i] = 0, len(stream)

    def encode(self, format: str, plain: bytes) -> bytes:
        """One stream of the format."""
        return _ENCODERS[format](plain)


def _view(address: int, nbytes: int) -> NDArray[np.uint8]:
    if not nbytes:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def _words(address: int, count: int) -> NDArray[np.uint64]:
    return _view(address, 8 * count).view(np.uint64)


def _inflate(wbits: int) -> Callable[[bytes, int], bytes]:
    def inflate(stored: bytes, room: int) -> bytes:
        stream = zlib.decompressobj(wbits)
        plain = stream.decompress(stored, room + 1)
        if not stream.eof:
            raise ValueError("the stream ends early")
        return plain

    return inflate


def _numcodecs(name: str) -> Callable[[bytes, int], bytes]:
    def decompress(stored: bytes, room: int) -> bytes:
        from numcodecs import lz4, zstd

        if name == "zstd":
            plain: Any = zstd.decompress(stored)
        else:  # numcodecs puts the size before an LZ4 stream
            plain = lz4.decompress(room.to_bytes(4, "little") + stored)
        return bytes(plain)

    return decompress


def _snappy(stored: bytes, room: int) -> bytes:
    """The Snappy format: a size, then literals and copies. The size was compared before."""
    at, plain = 1 + next(i for i, byte in enumerate(stored) if byte < 128), bytearray()
    while at < len(stored):
        tag, kind = stored[at] >> 2, stored[at] & 3
        at += 1
        if kind == 0:
            extra = max(tag - 59, 0)
            length = 1 + (int.from_bytes(stored[at : at + extra], "little") if extra else tag)
            at += extra + length
            if at > len(stored):
                raise ValueError("a literal ends early")
            plain += stored[at - length : at]
        else:
            width = (0, 1, 2, 4)[kind]
            offset = int.from_bytes(stored[at : at + width], "little") | (tag >> 3 << 8 if kind == 1 else 0)
            length = 4 + (tag & 7) if kind == 1 else tag + 1
            if at + width > len(stored) or not 0 < offset <= len(plain):
                raise ValueError("a copy from nowhere")
            at += width
            for _ in range(length):
                plain.append(plain[-offset])
        if len(plain) > room:
            raise ValueError("more than there is room for")
    return bytes(plain)


def _zstd(plain: bytes) -> bytes:
    from numcodecs import zstd

    return bytes(zstd.compress(plain))


_ENCODERS = {"zstd": _zstd}
_DECODERS = {
    "snappy": _snappy,
    "zstd": _numcodecs("zstd"),
    "lz4": _numcodecs("lz4"),
    "deflate": _inflate(-zlib.MAX_WBITS),
    "gzip": _inflate(zlib.MAX_WBITS | 16),
}
