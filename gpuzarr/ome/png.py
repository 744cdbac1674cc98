"""PNG files of 8-bit pixels, written with zlib alone, so that thumbnails need no other package.

    signature │ IHDR width height 8 kind 0 0 0 │ IDAT zlib(rows) │ IEND       a row: filter number, then bytes

Every row is stored as its difference from the row above (filter 2), which compresses pictures better than the
bytes themselves. (PNG, third edition, W3C 2025.)
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError

_KINDS: Final = {1: 0, 3: 2, 4: 6}
"""Channels to colour type: gray, RGB, RGB with opacity."""


def encode(pixels: NDArray[Any]) -> bytes:
    """uint8[h, w], uint8[h, w, 3] or uint8[h, w, 4] as the bytes of a PNG file."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in _KINDS or not pixels.size:
        raise ArgumentError(f"pixels of shape {pixels.shape} and type {pixels.dtype} are no picture")
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * channels)
    filtered = np.full((height, 1 + width * channels), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    header = struct.pack(">IIBBBBB", width, height, 8, _KINDS[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
