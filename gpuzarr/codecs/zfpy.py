"""Arrays of up to four dimensions compressed by zfp, with its full header (numcodecs `zfpy`; zfp codec
version 5). Needs the zfpy package.

    "zfp", 5 · 2 bits type · 2 bits dimensions - 1 · 48 bits extents - 1, fastest first · 12 or 64 bits mode ·
    blocks

zfp trusts both its header and that its stream is whole: it makes an array of the header's shape, and reads on
past the end. So the header is checked first, and behind the stream lie as many bytes as the longest stream of
that shape would have. A stream that was cut off is found by what it decodes to: that depends on those bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MetadataError, MissingDependencyError

MAGIC: Final = int.from_bytes(b"zfp\x05", "little")
TYPES: Final = ("i4", "i8", "f4", "f8")
MODES: Final = {2: "rate", 3: "precision", 4: "tolerance"}
HEADER_BITS: Final = 32 + 52 + 64


@codec("numcodecs.zfpy", "zfpy", v2="zfpy")
@dataclass(frozen=True, slots=True)
class ZFPY(Codec):
    """`mode` is zfp's: 2 fixed rate, 3 fixed precision, 4 fixed accuracy, each with its option.
    `compression_kwargs` repeats that option and is not used."""

    mode: int = 4
    tolerance: float = -1
    rate: float = -1
    precision: int = -1
    compression_kwargs: tuple[tuple[str, float], ...] | None = None
    kind: ClassVar[Kind] = "serializer"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """`compression_kwargs` is an object."""
        repeated = configuration.get("compression_kwargs")
        if repeated is not None:
            if not isinstance(repeated, dict):
                raise MetadataError(f"compression_kwargs {repeated!r} is not an object", codec=cls.name)
            configuration = {**configuration, "compression_kwargs": tuple(repeated.items())}
        return super(ZFPY, cls).from_config(configuration)

    def __post_init__(self) -> None:
        numbers = [
            self.tolerance,
            self.rate,
            self.precision,
            *(number for _, number in self.compression_kwargs or ()),
        ]
        if self.mode not in MODES or any(type(number) not in (int, float) for number in numbers):
            raise MetadataError(
                f"options {self.to_config()} are not a mode of 2 to 4 and numbers", codec="zfpy"
            )

    def to_config(self) -> dict[str, Any]:
        """`compression_kwargs` as an object, where it was given."""
        stated: dict[str, Any] = {
            name: getattr(self, name) for name in ("mode", "tolerance", "rate", "precision")
        }
        repeated = self.compression_kwargs
        return stated if repeated is None else {**stated, "compression_kwargs": dict(repeated)}

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Bytes, as many as it takes."""
        if decoded.dtype.str[1:] not in TYPES or len(decoded.shape) > 4:
            raise MetadataError(
                f"zfp does not take {decoded.dtype} in {len(decoded.shape)} dimensions", codec="zfpy"
            )
        return decoded.opaque(None)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An array of the chunk's shape."""
        stored = as_bytes(chunk)
        most, fixed = _sizes(stored, decoded)
        values = _decompress(stored, most, 0)
        check_size(values.nbytes, decoded)
        if not fixed and not np.array_equal(as_bytes(values), as_bytes(_decompress(stored, most, 255))):
            raise ChunkError("the zfp stream ends early")
        return values.reshape(decoded.shape or -1).astype(decoded.dtype, copy=False)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One stream with its header."""
        values = as_array(chunk, decoded)
        native = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))
        option = MODES[self.mode]
        stored: Buffer = _zfpy().compress_numpy(native, write_header=True, **{option: getattr(self, option)})
        return stored


def _sizes(stored: NDArray[np.uint8], decoded: ChunkSpec) -> tuple[int, bool]:
    """The bytes of the longest stream with this header, which must be one of `decoded`; whether the header
    fixes the stream's size, which it then has."""
    header = int.from_bytes(stored[: -(-HEADER_BITS // 8)].tobytes(), "little")
    if header & 0xFFFFFFFF != MAGIC or stored.nbytes % 8:
        raise ChunkError("not a zfp 5 stream of whole 64-bit words")
    dtype, ndim = TYPES[header >> 32 & 3], (header >> 34 & 3) + 1
    width = 48 // ndim
    extents = [(header >> 36 + axis * width & (1 << width) - 1) + 1 for axis in range(ndim)]
    if dtype != decoded.dtype.str[1:] or prod(extents) * np.dtype(dtype).itemsize != decoded.nbytes:
        raise ChunkError(
            f"a zfp stream of {dtype} and shape {extents[::-1]} where the metadata promises "
            f"{decoded.dtype} and {list(decoded.shape)}"
        )
    mode, begin = header >> 84 & 0xFFF, HEADER_BITS - 52
    least = most = mode + 1 if mode < 2048 else 0  # bits of a block
    if mode == 0xFFF:
        least, most, begin = (header >> 96 & 0x7FFF) + 1, (header >> 111 & 0x7FFF) + 1, HEADER_BITS
    blocks = prod(-(-extent // 4) for extent in extents)
    if stored.nbytes * 8 < begin + blocks * least:
        raise ChunkError("the zfp stream ends early")
    # A block of 4**ndim values: flags and exponent in 32 bits or less, bit planes, a group test a value.
    longest = max(least, 32 + 4**ndim * (8 * np.dtype(dtype).itemsize + 1))
    return -(-(HEADER_BITS + blocks * longest) // 64) * 8 + 16, least == most > 0


def _decompress(stored: NDArray[np.uint8], nbytes: int, behind: int) -> NDArray[Any]:
    """The values of a stream with bytes of `behind` behind it, then zeros up to `nbytes`."""
    if stored.nbytes < nbytes:
        padded = np.zeros(nbytes, np.uint8)
        padded[: stored.nbytes] = stored
        padded[stored.nbytes : stored.nbytes + 4096] = behind
        stored = padded
    try:
        values: NDArray[Any] = _zfpy().decompress_numpy(stored)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ChunkError(f"damaged zfp stream: {error}") from error
    return values


@cache
def _zfpy() -> Any:
    try:
        return importlib.import_module("zfpy")
    except ImportError as error:
        raise MissingDependencyError(
            "zfpy is not installed", codec="zfpy", hint="pip install 'gpuzarr[codecs]'"
        ) from error
