"""Values as one MessagePack list that ends with their type and shape (numcodecs `msgpack2`). Needs the
msgpack package."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.json2 import from_list
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MissingDependencyError


@codec("numcodecs.msgpack2", "msgpack2", v2="msgpack2")
@dataclass(frozen=True, slots=True)
class MsgPack2(Codec):
    """The options of `msgpack.packb`; `raw` is `msgpack.unpackb`'s and leaves strings as bytes."""

    use_single_float: bool = False
    use_bin_type: bool = True
    raw: bool = False
    kind: ClassVar[Kind] = "serializer"

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An object array where the chunk's values are objects, else values of its type."""
        try:
            document = _msgpack().unpackb(as_bytes(chunk), raw=self.raw, strict_map_key=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise ChunkError(f"not a MessagePack document: {error}") from error
        if self.raw and isinstance(document, list) and len(document) > 1 and isinstance(document[-2], bytes):
            document[-2] = document[-2].decode("ascii", "replace")
        return from_list(document, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The values, their type and shape."""
        values = as_array(chunk, decoded)
        dtype = "|O" if values.dtype.kind == "T" else values.dtype.str
        document = [*np.atleast_1d(values).tolist(), dtype, values.shape]
        stored: Buffer = _msgpack().packb(
            document, use_bin_type=self.use_bin_type, use_single_float=self.use_single_float
        )
        return stored


@cache
def _msgpack() -> Any:
    try:
        return importlib.import_module("msgpack")
    except ImportError as error:
        raise MissingDependencyError(
            "msgpack2 needs msgpack", codec="msgpack2", hint="pip install 'gpuzarr[codecs]'"
        ) from error
