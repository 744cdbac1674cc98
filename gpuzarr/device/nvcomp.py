"""nvCOMP's batched C API (libnvcomp 5 and 6) through ctypes: N streams a call, into the caller's memory.

Every format has the same calls; options are 64 bytes, passed by value, and zero asks for the defaults:

    Decompress | Compress   GetRequiredAlignments   of input, output and scratch
    Decompress | Compress   GetTempSize             scratch for N streams; version 5: GetTempSizeAsync
                 Compress   GetMaxOutputChunkSize   what a string may become
    Decompress | Compress   Async                   pointer arrays in device memory; a status and a size each

But for Async and a compressor's scratch, they need no GPU: a machine without one can test how arguments are
passed. nvCOMP is not safe on corrupt input: what can be validated is validated before (kernels/streams.cu),
and statuses, sizes and checksums are compared after. `decompress` does that here, `compressing` the like.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from ctypes import byref, c_byte, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from gpuzarr.device.base import DeviceBuffer, Lane, Streams
from gpuzarr.errors import DeviceError, MissingDependencyError

FORMATS = {
    "lz4": "LZ4",
    "snappy": "Snappy",
    "zstd": "Zstd",
    "deflate": "Deflate",
    "gzip": "Gzip",
    "gdeflate": "Gdeflate",
    "ans": "ANS",
    "bitcomp": "Bitcomp",
    "cascaded": "Cascaded",
}
"""nvCOMP's formats, and how its functions spell them."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What streams are to a codec, over one of nvCOMP's formats. `spare` is a stream of one byte, for the
    rows that nvCOMP is not to see."""

    format: str
    code: int
    """As kernels/streams.cu and strings.cu count."""
    spare: bytes
    checksum: str = ""
    """The kernel that verifies what lies behind each body."""
    compressed: bool = False
    """Strings become such streams too (device/compressing.py): they are the format's own, and
    kernels/strings.cu knows them."""


_DEFLATED: Final = b"\x01\x01\x00\xfe\xff\x00"  # one stored block
ALGORITHMS: Final = {
    "zstd": Algorithm("zstd", 0, b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00\x00", compressed=True),
    "zlib": Algorithm("deflate", 1, _DEFLATED, "gz_adler32"),
    "gzip": Algorithm("deflate", 2, _DEFLATED, "gz_crc32"),
    "snappy": Algorithm("snappy", 3, b"\x01\x00\x00"),
}

VERSIONS = (5, 6)


class Options(ctypes.Structure):
    """The options of any format's decompressor, and of the compressors used here: zero is the default of each
    field."""

    _fields_ = (("reserved", c_byte * 64),)


class _Alignments(ctypes.Structure):
    _fields_ = (("input", c_size_t), ("output", c_size_t), ("temp", c_size_t))


class _Properties(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("cudart_version", c_uint32))


@dataclass(frozen=True, slots=True)
class Alignments:
    """In bytes."""

    input: int
    output: int
    scratch: int


_COLUMNS: Final = ("source", "source_nbytes", "target", "target_nbytes", "expected", "checked")


@dataclass(frozen=True, slots=True)
class Table:
    """Device addresses of the arrays that describe N streams, as `DecompressAsync` takes them."""

    count: int
    sources: int
    """void*[n]"""
    source_nbytes: int
    """size_t[n]"""
    targets: int
    """void*[n]"""
    target_nbytes: int
    """size_t[n]: the room at each target."""
    written: int
    """size_t[n], set to what each stream gave."""
    statuses: int
    """int32[n], 0 for success."""
    scratch: int
    scratch_nbytes: int


class Decompressor(Protocol):
    """What is needed of a library: libnvcomp itself, or what stands in for it on device sim."""

    def alignments(self, format: str) -> Alignments:
        """What `decompress` requires of addresses."""
        ...

    def scratch_nbytes(self, format: str, count: int, largest: int, total: int) -> int:
        """Scratch memory for `count` streams that give at most `largest` bytes each, `total` together."""
        ...

    def decompress(self, format: str, table: Table, cuda_stream: int = 0) -> None:
        """Decompress, in the order of the CUDA stream where there is one."""
        ...


@dataclass(frozen=True, slots=True)
class StringTable:
    """Device addresses of the arrays that describe N strings, as `CompressAsync` takes them."""

    count: int
    largest: int
    """No string has more bytes."""
    sources: int
    """void*[n]"""
    source_nbytes: int
    """size_t[n]"""
    targets: int
    """void*[n]: there is room for `compress_bound` of `largest` at each."""
    written: int
    """size_t[n], set to the size of each stream."""
    statuses: int
    """int32[n], 0 for success."""
    scratch: int
    scratch_nbytes: int


class Compressor(Protocol):
    """The other direction."""

    def compress_alignments(self, format: str) -> Alignments:
        """What `compress` requires of addresses."""
        ...

    def compress_bound(self, format: str, nbytes: int) -> int:
        """The most bytes that a string of at most so many becomes."""
        ...

    def compress_scratch_nbytes(
        self, format: str, count: int, largest: int, total: int, cuda_stream: int = 0
    ) -> int:
        """Scratch memory for `count` strings of at most `largest` bytes each, `total` together, on the
        current device."""
        ...

    def compress(self, format: str, table: StringTable, cuda_stream: int = 0) -> None:
        """Compress, in the order of the CUDA stream where there is one."""
        ...


class Library:
    """A loaded libnvcomp. A call that fails is a DeviceError with nvCOMP's own words."""

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceError(f"cannot load {path}: {error}", hint="reinstall nvidia-nvcomp") from error
        said = _Properties()
        self._check(self._library.nvcompGetProperties(byref(said)), "nvcompGetProperties")
        self.path = path
        self.version = (said.version // 1000, said.version // 100 % 10, said.version % 100)
        if self.version[0] not in VERSIONS:
            raise DeviceError(
                f"nvCOMP {said.version} at {path} is not known here", hint="install nvidia-nvcomp 5 or 6"
            )

    def alignments(self, format: str) -> Alignments:
        """What `decompress` requires of addresses."""
        return self._alignments(format, "Decompress")

    def compress_alignments(self, format: str) -> Alignments:
        """What `compress` requires of addresses."""
        return self._alignments(format, "Compress")

    def _alignments(self, format: str, direction: str) -> Alignments:
        found = _Alignments()
        self._call(format, f"{direction}GetRequiredAlignments", Options(), byref(found))
        return Alignments(found.input, found.output, found.temp)

    def scratch_nbytes(self, format: str, count: int, largest: int, total: int) -> int:
        """Scratch memory for `count` streams that give at most `largest` bytes each and `total` together."""
        return self._scratch(format, "Decompress", count, largest, total, 0)

    def compress_scratch_nbytes(
        self, format: str, count: int, largest: int, total: int, cuda_stream: int = 0
    ) -> int:
        """Scratch memory for `count` strings of at most `largest` bytes each and `total` together, on the
        current device: it goes by the device, so that there has to be one."""
        return self._scratch(format, "Compress", count, largest, total, cuda_stream)

    def _scratch(
        self, format: str, direction: str, count: int, largest: int, total: int, cuda_stream: int
    ) -> int:
        found = c_size_t()
        given = (c_size_t(count), c_size_t(largest), Options(), byref(found), c_size_t(total))
        if self.version[0] >= 6:
            self._call(format, f"{direction}GetTempSize", *given, c_void_p(cuda_stream))
        else:
            self._call(format, f"{direction}GetTempSizeAsync", *given)
        return found.value

    def compress_bound(self, format: str, nbytes: int) -> int:
        """The most bytes that a string of at most so many becomes. One that is too long is a DeviceError."""
        found = c_size_t()
        self._call(format, "CompressGetMaxOutputChunkSize", c_size_t(nbytes), Options(), byref(found))
        return found.value

    def decompress(self, format: str, table: Table, cuda_stream: int = 0) -> None:
        """Queue the decompression on a CUDA stream."""
        self._call(
            format,
            "DecompressAsync",
            c_void_p(table.sources),
            c_void_p(table.source_nbytes),
            c_void_p(table.target_nbytes),
            c_void_p(table.written),
            c_size_t(table.count),
            c_void_p(table.scratch),
            c_size_t(table.scratch_nbytes),
            c_void_p(table.targets),
            Options(),
            c_void_p(table.statuses),
            c_void_p(cuda_stream),
        )

    def compress(self, format: str, table: StringTable, cuda_stream: int = 0) -> None:
        """Queue the compression on a CUDA stream."""
        self._call(
            format,
            "CompressAsync",
            c_void_p(table.sources),
            c_void_p(table.source_nbytes),
            c_size_t(table.largest),
            c_size_t(table.count),
            c_void_p(table.scratch),
            c_size_t(table.scratch_nbytes),
            c_void_p(table.targets),
            c_void_p(table.written),
            Options(),
            c_void_p(table.statuses),
            c_void_p(cuda_stream),
        )

    def _call(self, format: str, name: str, *arguments: Any) -> None:
        function = f"nvcompBatched{FORMATS[format]}{name}"
        try:
            found = self._library[function]
        except AttributeError as error:
            raise DeviceError(
                f"{self.path} has no {function}", hint="install nvidia-nvcomp 5 or 6"
            ) from error
        found.restype = c_int
        self._check(found(*arguments), function)

    def _check(self, status: int, function: str) -> None:
        if status:
            said = getattr(self._library, "nvcompGetStatusString", None)  # not in version 5.1
            if said is not None:
                said.restype = c_char_p
            words = said(c_int(status)) if said is not None else None
            raise DeviceError(f"{function}: {words.decode() if words else 'unknown error'} ({status})")


@cache
def load() -> Library:
    """The installed libnvcomp."""
    for path in _candidates():
        return Library(str(path))
    raise MissingDependencyError("nvCOMP is not installed", hint='pip install "gpuzarr[cuda13]"')


def _candidates() -> Iterator[Path]:
    """libnvcomp.so.N in the wheels' place (`nvidia/libnvcomp/lib64`), the newest version first."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for version in reversed(VERSIONS):
            path = Path(place, "libnvcomp", "lib64", f"libnvcomp.so.{version}")
            if path.is_file():
                yield path


def decompress(
    lane: Lane,
    library: Decompressor,
    algorithm: str,
    streams: Streams,
    fault: DeviceBuffer,
    address: Callable[[DeviceBuffer], int],
    run: Callable[[Callable[[], None]], None],
) -> None:
    """`Lane.decompress` for any device: headers looked at, bodies aligned, the call in lane order (`run`),
    sizes, statuses and checksums compared."""
    how, count = ALGORITHMS[algorithm], streams.count
    need = library.alignments(how.format)
    lift = need.input > 1
    scratch = lane.empty(library.scratch_nbytes(how.format, count, streams.largest, streams.total))
    columns = {name: lane.empty(8 * count) for name in _COLUMNS}
    written, statuses = lane.empty(8 * count), lane.empty(4 * count)
    lane.launch(
        "gz_streams",
        -(-count // 4),
        128,
        src=streams.src,
        src_offset=streams.src_offset,
        src_nbytes=streams.src_nbytes,
        dst=streams.dst,
        dst_offset=streams.dst_offset,
        dst_nbytes=streams.dst_nbytes,
        owner=streams.owner,
        fault=fault,
        lifted=lane.empty(streams.src.nbytes if lift else 1),
        spare=np.frombuffer(how.spare, np.uint8),
        spare_room=lane.empty(1),
        **columns,
        streams=count,
        format=how.code,
        stored=int(streams.stored),
        lift=int(lift),
        spare_nbytes=len(how.spare),
    )
    places = {name: address(columns[name]) for name in _COLUMNS[:4]}
    table = Table(
        count=count,
        sources=places["source"],
        source_nbytes=places["source_nbytes"],
        targets=places["target"],
        target_nbytes=places["target_nbytes"],
        written=address(written),
        statuses=address(statuses),
        scratch=address(scratch),
        scratch_nbytes=scratch.nbytes,
    )
    run(partial(library.decompress, how.format, table))
    lane.launch(
        "gz_verdict",
        -(-count // 256),
        256,
        written=written,
        statuses=statuses,
        expected=columns["expected"],
        owner=streams.owner,
        fault=fault,
        streams=count,
    )
    if how.checksum:
        big = {"big": 1} if how.checksum == "gz_adler32" else {}
        lane.launch(
            how.checksum,
            count,
            256,
            src=streams.dst,
            offset=streams.dst_offset,
            nbytes=streams.dst_nbytes,
            stored=streams.src,
            stored_offset=columns["checked"],
            owner=streams.owner,
            fault=fault,
            **big,
        )
