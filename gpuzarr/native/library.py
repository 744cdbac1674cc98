"""The compiled core, as ctypes sees it, and the codec libraries that it calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CDLL, POINTER, Structure, c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from gpuzarr.native.build import LIBRARY

ABI: Final = 3
MOST_DIMS, MOST_STEPS = 33, 4
_KINDS: Final = {"crc32c": 1, "zstd": 2, "numcodecs.lz4": 3, "blosc": 4}
"""By the codecs' names, as gpuzarr registers them."""


class Step(Structure):
    """See core.c, as for all of these."""

    _fields_ = (("kind", c_int64), ("nbytes", c_int64))


class Chain(Structure):
    """How one kind of chunk is decoded and laid out."""

    _fields_ = (
        ("steps", c_int64),
        ("step", Step * MOST_STEPS),
        ("nbytes", c_int64),
        ("plain", c_int64),
        ("swap", c_int64),
        ("stride", c_int64 * MOST_DIMS),
        ("shape", c_int64 * MOST_DIMS),
    )


_FUNCTIONS: Final = {  # field: extension module, function
    "zstd_whole": ("numcodecs.zstd", "ZSTD_decompressDCtx"),
    "zstd_reset": ("numcodecs.zstd", "ZSTD_DCtx_reset"),
    "zstd_stream": ("numcodecs.zstd", "ZSTD_decompressStream"),
    "zstd_is_error": ("numcodecs.zstd", "ZSTD_isError"),
    "lz4": ("numcodecs.lz4", "LZ4_decompress_safe"),
    "blosc": ("numcodecs.blosc", "blosc_decompress_ctx"),
    "crc32c": ("google_crc32c._crc32c", "crc32c_extend"),
}


class Functions(Structure):
    """Addresses in the codec libraries; None where a library shows no such function."""

    _fields_ = tuple((name, c_void_p) for name in _FUNCTIONS)


_ADDRESSES = (
    *("address", "nbytes", "paths", "path", "fd", "begin", "size", "range", "within", "loaded"),
    *("chain", "slot", "first", "number"),
    *("chunk_lo", "out_lo", "extent", "step", "steps_differ", "parts", "result", "stride", "fill"),
    *("decoder", "streams", "decoded", "container", "stored", "container_room", "stored_room"),
    *("chunks", "direct", "filled", "requests", "bytes_read"),
)
_NUMBERS: Final = {
    *("loaded", "number", "steps_differ", "parts", "streams", "container_room", "stored_room"),
    *("chunks", "direct", "filled", "requests", "bytes_read"),
}


class Job(Structure):
    """What one call works on."""

    _fields_ = (
        ("library", POINTER(Functions)),
        ("chains", POINTER(Chain)),
        ("dims", c_int64),
        ("itemsize", c_int64),
        ("rows", c_int64),
        *(
            (name, c_int64 if name in _NUMBERS else c_char_p if name == "paths" else c_void_p)
            for name in _ADDRESSES
        ),
    )


@dataclass(frozen=True, slots=True)
class Core:
    """The compiled core. `rows(byref(job))` gives how many rows were taken; the interpreter runs on
    meanwhile."""

    rows: Callable[[Any], int]
    functions: Functions
    kinds: dict[str, int]
    """Of steps, by the names of codecs, where their libraries are there."""
    job: type[Job] = Job
    chain: type[Chain] = Chain
    most_steps: int = MOST_STEPS
    most_dims: int = MOST_DIMS


@cache
def loaded(path: str = "") -> tuple[Core | None, str]:
    """The core, or None and why there is none."""
    if not path and not LIBRARY.exists():
        return None, "it was not compiled when gpuzarr was installed, which takes a C compiler"
    try:
        library = CDLL(path or str(LIBRARY))
        abi = (c_int64 * 4)()
        library.gz_core_abi.argtypes, library.gz_core_abi.restype = [c_void_p], None
        library.gz_core_abi(abi)
        library.gz_core_rows.argtypes, library.gz_core_rows.restype = [c_void_p], c_int64
    except (OSError, AttributeError) as error:
        return None, f"it cannot be loaded: {error}"
    if list(abi) != [ABI, *map(ctypes.sizeof, (Functions, Chain, Job))]:
        return None, "it is of another version: install gpuzarr again"
    functions = Functions(**{name: _address(*where) for name, where in _FUNCTIONS.items()})
    there = {
        codec: all(getattr(functions, name) for name in _FUNCTIONS if name.startswith(codec.split(".")[-1]))
        for codec in _KINDS
    }
    return Core(library.gz_core_rows, functions, {name: _KINDS[name] for name in _KINDS if there[name]}), ""


def _address(module: str, name: str) -> int | None:
    """Of a function in an extension module, or in a library that it came with."""
    try:
        return ctypes.cast(getattr(CDLL(import_module(module).__file__), name), c_void_p).value
    except (ImportError, OSError, AttributeError):  # google-crc32c has a form without it
        return None
