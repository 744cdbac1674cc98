"""libzstd through ctypes: whole chunks with a decoder that each thread keeps, and the beginning of a frame.

    header · block · block · block │ block · block          bytes up to `end` lie in the blocks before the bar

numcodecs makes a decoder for every call, which costs more than a small chunk does, and decodes whole frames
only. The library inside of it does better when it is asked itself. Where it cannot be asked (on Windows it
shows none of its functions), and for whatever it refuses, the answer here is False, and numcodecs has the
last word: errors are its own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import addressof, byref, c_char, c_int, c_size_t, c_uint, c_void_p
from functools import cache
from typing import Any, Final

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

# The numbers of zstd.h.
_RESET_SESSION: Final = 1
_WINDOW_LOG_MAX, _STABLE_OUT_BUFFER = 100, 1001
_VERSIONS: Final = range(10500, 10600)
"""Those whose `_STABLE_OUT_BUFFER` is known, which zstd.h calls experimental: what is decoded stays where it
is, so a window takes no memory, however large."""
_LARGEST_WINDOW: Final = 31 if ctypes.sizeof(c_void_p) == 8 else 30


class _Span(ctypes.Structure):
    """ZSTD_inBuffer, ZSTD_outBuffer"""

    _fields_ = (("address", c_void_p), ("nbytes", c_size_t), ("done", c_size_t))


@cache
def _library() -> Any:
    """numcodecs' libzstd; None if it shows no functions, or is one that is not known."""
    found: Any
    try:
        found = ctypes.CDLL(zstd.__file__)
        prototypes: dict[str, tuple[Any, ...]] = {  # result, arguments
            "versionNumber": (c_uint,),
            "isError": (c_uint, c_size_t),
            "createDCtx": (c_void_p,),
            "freeDCtx": (c_size_t, c_void_p),
            "DCtx_reset": (c_size_t, c_void_p, c_int),
            "DCtx_setParameter": (c_size_t, c_void_p, c_int, c_int),
            "decompressDCtx": (c_size_t, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t),
            "decompressStream": (c_size_t, c_void_p, c_void_p, c_void_p),
        }
        for name, (result, *arguments) in prototypes.items():
            function = getattr(found, f"ZSTD_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return found if found.ZSTD_versionNumber() in _VERSIONS else None


class Decoder:
    """One thread's. `out` is contiguous and has room for all that is decoded; what is wrong with it is a
    TypeError or a ValueError."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.address = library.ZSTD_createDCtx()
        if not self.address:
            raise MemoryError("no zstd decoder")
        settings = ((_STABLE_OUT_BUFFER, 1), (_WINDOW_LOG_MAX, _LARGEST_WINDOW))
        self.streams = not any(
            library.ZSTD_isError(library.ZSTD_DCtx_setParameter(self.address, *setting))
            for setting in settings
        )

    def __del__(self) -> None:
        self.library.ZSTD_freeDCtx(self.address)

    def whole(self, stored: NDArray[np.uint8], out: NDArray[np.uint8]) -> bool:
        """Decode all frames of a chunk to exactly `out`."""
        into = addressof(c_char.from_buffer(out))
        done = self.library.ZSTD_decompressDCtx(
            self.address, into, out.nbytes, stored.ctypes.data, stored.nbytes
        )
        return bool(done == out.nbytes)

    def prefix(
        self, stored: NDArray[np.uint8], ends: Sequence[int], out: NDArray[np.uint8], end: int
    ) -> bool:
        """Decode the blocks of one frame up to the one that holds byte `end - 1`, to their places in `out`.
        They end at `ends` in `stored`."""
        if not self.streams:
            return False
        self.library.ZSTD_DCtx_reset(self.address, _RESET_SESSION)
        source = _Span(stored.ctypes.data, 0, 0)
        target = _Span(addressof(c_char.from_buffer(out)), out.nbytes, 0)
        for at in ends:
            if target.done >= end:
                return True
            source.nbytes = at
            if self.library.ZSTD_isError(
                self.library.ZSTD_decompressStream(self.address, byref(target), byref(source))
            ):
                return False
        return bool(target.done >= end)


_local = threading.local()


def decoder() -> Decoder | None:
    """The calling thread's; None where the library cannot be asked."""
    found: Decoder | None = getattr(_local, "decoder", None)
    if found is None and (library := _library()) is not None:
        found = _local.decoder = Decoder(library)
    return found
