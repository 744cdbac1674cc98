"""Values of one type stored as another, by NumPy's casts (numcodecs `astype`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import MetadataError


def parse_dtype(text: object, name: str, kinds: str = "biufcmMSUV") -> np.dtype[Any]:
    """The NumPy type that an option of codec `name` spells. Objects, structures and kinds not in `kinds` are
    refused."""
    if not isinstance(text, str):
        raise MetadataError(f"{text!r} is not the name of a NumPy type", codec=name)
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise MetadataError(f"{text!r} is not the name of a NumPy type", codec=name) from error
    if (
        dtype.kind not in kinds
        or dtype.names
        or dtype.subdtype
        or (dtype.itemsize == 0 and dtype.kind != "O")
    ):
        raise MetadataError(f"a type {text!r} is not supported here", codec=name)
    return dtype


@codec("numcodecs.astype", "astype", v2="astype")
@dataclass(frozen=True, slots=True)
class AsType(Codec):
    """`decode_dtype`, where None, is the type of what is encoded."""

    encode_dtype: str
    decode_dtype: str | None = None
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parse_dtype(self.encode_dtype, "astype")
        if self.decode_dtype is not None:
            parse_dtype(self.decode_dtype, "astype")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many values of `encode_dtype`."""
        return self._plain(decoded).typed(np.dtype(self.encode_dtype))

    def _plain(self, decoded: ChunkSpec) -> ChunkSpec:
        if self.decode_dtype is None or decoded.dtype == np.dtype(self.decode_dtype):
            return decoded
        return retyped(decoded, np.dtype(self.decode_dtype), "astype")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Cast."""
        with np.errstate(all="ignore"):
            return as_array(chunk, self.encoded(decoded)).astype(self._plain(decoded).dtype)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Cast."""
        with np.errstate(all="ignore"):
            return as_array(chunk, self._plain(decoded)).astype(np.dtype(self.encode_dtype))


def retyped(decoded: ChunkSpec, dtype: np.dtype[Any], name: str) -> ChunkSpec:
    """The bytes of `decoded` read as `dtype`, as a v2 filter reads them whatever the array's own type is."""
    if decoded.dtype.kind in "OT" or (decoded.nbytes is not None and decoded.nbytes % dtype.itemsize):
        raise MetadataError(f"{decoded.dtype} values cannot be read as {dtype}", codec=name)
    same = decoded.dtype.itemsize == dtype.itemsize
    shape = decoded.shape if same or decoded.nbytes is None else (decoded.nbytes // dtype.itemsize,)
    return ChunkSpec(shape, dtype, decoded.nbytes)
