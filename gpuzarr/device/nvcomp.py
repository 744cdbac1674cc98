"""nvCOMP's batched C API (libnvcomp 5 and 6) through ctypes: N streams a call, into the caller's memory.

Every format has the same three calls; options are 64 bytes, passed by value, and zero asks for the defaults:

    GetRequiredAlignments   of input, output and scratch
    GetTempSize             scratch for N streams; version 5 calls it GetTempSizeAsync
    DecompressAsync         pointer arrays in device memory; a status and a size a stream

The first two need no GPU, so a machine without one can test how arguments are passed. nvCOMP is not safe on
corrupt input: what can be validated is validated before, and statuses and sizes are checked after.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from ctypes import byref, c_byte, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.base import DeviceBuffer, Lane
from gpuzarr.errors import DeviceError, MissingDependencyError

FORMATS = {"lz4": "LZ4", "snappy": "Snappy", "zstd": "Zstd", "deflate": "Deflate", "gzip": "Gzip"}
"""What a stream may be, and nvCOMP's name for it."""

VERSIONS = (5, 6)


class Options(ctypes.Structure):
    """The decompression options of any format: zero is the default of each field."""

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


@dataclass(frozen=True, slots=True)
class Streams:
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
    """What `queue` needs of a library: libnvcomp itself, or what stands in for it on device sim."""

    def alignments(self, algorithm: str) -> Alignments:
        """What `decompress` requires of addresses."""
        ...

    def scratch_nbytes(self, algorithm: str, count: int, largest: int, total: int) -> int:
        """Scratch memory for `count` streams that give at most `largest` bytes each, `total` together."""
        ...

    def decompress(self, algorithm: str, streams: Streams, cuda_stream: int = 0) -> None:
        """Decompress, in the order of the CUDA stream where there is one."""
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
        self._library.nvcompGetStatusString.restype = c_char_p

    def alignments(self, algorithm: str) -> Alignments:
        """What `decompress` requires of addresses."""
        found = _Alignments()
        self._call(algorithm, "GetRequiredAlignments", Options(), byref(found))
        return Alignments(found.input, found.output, found.temp)

    def scratch_nbytes(self, algorithm: str, count: int, largest: int, total: int) -> int:
        """Scratch memory for `count` streams that give at most `largest` bytes each and `total` together."""
        found = c_size_t()
        name = "GetTempSize" if self.version[0] >= 6 else "GetTempSizeAsync"
        sizes = c_size_t(count), c_size_t(largest)
        if self.version[0] >= 6:
            self._call(algorithm, name, *sizes, Options(), byref(found), c_size_t(total), c_void_p())
        else:
            self._call(algorithm, name, *sizes, Options(), byref(found), c_size_t(total))
        return found.value

    def decompress(self, algorithm: str, streams: Streams, cuda_stream: int = 0) -> None:
        """Queue the decompression on a CUDA stream."""
        self._call(
            algorithm,
            "Async",
            c_void_p(streams.sources),
            c_void_p(streams.source_nbytes),
            c_void_p(streams.target_nbytes),
            c_void_p(streams.written),
            c_size_t(streams.count),
            c_void_p(streams.scratch),
            c_size_t(streams.scratch_nbytes),
            c_void_p(streams.targets),
            Options(),
            c_void_p(streams.statuses),
            c_void_p(cuda_stream),
        )

    def _call(self, algorithm: str, name: str, *arguments: Any) -> None:
        function = f"nvcompBatched{FORMATS[algorithm]}Decompress{name}"
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
            said = self._library.nvcompGetStatusString
            said.restype = c_char_p
            words = said(c_int(status))
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


def queue(
    lane: Lane,
    library: Decompressor,
    algorithm: str,
    source: DeviceBuffer,
    offset: NDArray[np.int64],
    nbytes: NDArray[np.int64],
    out_nbytes: int,
    codec: str,
    address: Callable[[DeviceBuffer], int],
    run: Callable[[Callable[[], None]], None],
) -> DeviceBuffer:
    """`Lane.decompress` for any device: memory, pointers, the call in lane order (`run`), the verdict."""
    count, need = len(offset), library.alignments(algorithm)
    begins = address(source) + offset
    if np.any(begins % need.input):
        raise DeviceError(f"{algorithm} streams begin at multiples of {need.input} bytes", codec=codec)
    out = lane.empty(count * out_nbytes)
    scratch = lane.empty(library.scratch_nbytes(algorithm, count, out_nbytes, count * out_nbytes))
    written, statuses = lane.empty(8 * count), lane.empty(4 * count)
    ends = address(out) + np.arange(count, dtype=np.int64) * out_nbytes
    columns = [begins, nbytes, ends, np.full(count, out_nbytes, np.int64)]
    sources, source_nbytes, targets, target_nbytes = (lane.upload(one.astype(np.uint64)) for one in columns)
    streams = Streams(
        count=count,
        sources=address(sources),
        source_nbytes=address(source_nbytes),
        targets=address(targets),
        target_nbytes=address(target_nbytes),
        written=address(written),
        statuses=address(statuses),
        scratch=address(scratch),
        scratch_nbytes=scratch.nbytes,
    )
    run(partial(library.decompress, algorithm, streams))
    lane.launch(
        "gz_verdict",
        -(-count // 256),
        256,
        written=written,
        statuses=statuses,
        expected=out_nbytes,
        count=count,
        fault=lane.faults(count, codec, f"does not decompress to {out_nbytes} bytes"),
    )
    return out
