"""Base64 text with its padding and without line breaks (numcodecs `base64`; RFC 4648, section 4)."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError


@codec("numcodecs.base64", "base64", v2="base64")
@dataclass(frozen=True, slots=True)
class Base64(Codec):
    """It has no options."""

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Four characters for three bytes."""
        return decoded.opaque(None if decoded.nbytes is None else -(-decoded.nbytes // 3) * 4)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """A character that is not of the alphabet is an error: ignored, it would shift what follows."""
        try:
            plain = binascii.a2b_base64(as_bytes(chunk), strict_mode=True)
        except binascii.Error as error:
            raise ChunkError(f"not base64 text: {error}") from error
        check_size(len(plain), decoded)
        return plain

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One line without an end."""
        return binascii.b2a_base64(as_bytes(chunk), newline=False)
