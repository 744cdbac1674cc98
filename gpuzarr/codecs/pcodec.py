"""Numbers compressed by pcodec, in its standalone format (numcodecs `pcodec`). Needs the pcodec package."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MetadataError, MissingDependencyError

TYPES: Final = {f"{kind}{size}" for kind in "iuf" for size in (2, 4, 8)}
MODES: Final = ("auto", "classic")
DELTAS: Final = ("auto", "none", "no_op", "try_consecutive", "try_lookback")


@codec("numcodecs.pcodec", "pcodec", v2="pcodec")
@dataclass(frozen=True, slots=True)
class PCodec(Codec):
    """`level` is 0 to 12. `delta_encoding_order` goes with `delta_spec` `try_consecutive`, or alone. `none`
    is the old name of `no_op`."""

    level: int = 8
    mode_spec: str = "auto"
    delta_spec: str = "auto"
    paging_spec: str = "equal_pages_up_to"
    delta_encoding_order: int | None = None
    equal_pages_up_to: int = 262144
    kind: ClassVar[Kind] = "serializer"

    def __post_init__(self) -> None:
        order = self.delta_encoding_order
        known = (
            type(self.level) is int and 0 <= self.level <= 12,
            self.mode_spec in MODES,
            self.delta_spec in DELTAS,
            self.paging_spec == "equal_pages_up_to",
            order is None or (type(order) is int and 0 <= order <= 7),
            type(self.equal_pages_up_to) is int and self.equal_pages_up_to > 0,
        )
        if not all(known):
            name = list(PCodec.__dataclass_fields__)[known.index(False)]
            raise MetadataError(f"{name} {getattr(self, name)!r} is not one of pcodec's", codec="pcodec")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Bytes, as many as it takes."""
        if decoded.dtype.str[1:] not in TYPES:
            raise MetadataError(f"pcodec does not take {decoded.dtype} values", codec="pcodec")
        return decoded.opaque(None)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Straight into `out` where that is aligned. It never writes more than there is room for."""
        native = decoded.dtype.newbyteorder("=")
        count = prod(decoded.shape) if decoded.nbytes is None else decoded.nbytes // native.itemsize
        if out is not None and decoded.dtype == native and out.ctypes.data % native.itemsize == 0:
            values: NDArray[Any] = out.view(native)
        else:
            values = np.empty(count, native)
        pcodec = _pcodec()
        try:
            progress = pcodec.standalone.simple_decompress_into(as_bytes(chunk).tobytes(), values)
        except (RuntimeError, TypeError) as error:
            raise ChunkError(f"not a pcodec file of {native} values: {error}") from error
        if progress.n_processed != count or not progress.finished:
            raise ChunkError(f"{progress.n_processed} of {count} values, finished: {progress.finished}")
        return values.astype(decoded.dtype, copy=False).reshape(decoded.shape or -1)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One standalone file."""
        values = as_array(chunk, decoded).reshape(-1)
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        stored: Buffer = _pcodec().standalone.simple_compress(native, self._chunk_config())
        return stored

    def _chunk_config(self) -> Any:
        pcodec = _pcodec()
        order, delta = self.delta_encoding_order, self.delta_spec
        if delta == "try_consecutive" or (delta == "auto" and order is not None):
            delta_spec = pcodec.DeltaSpec.try_consecutive(order or 0)
        else:
            # pcodec 1.0 took the name `none` away
            delta = "no_op" if delta == "none" and hasattr(pcodec.DeltaSpec, "no_op") else delta
            delta_spec = getattr(pcodec.DeltaSpec, delta)()
        return pcodec.ChunkConfig(
            compression_level=self.level,
            delta_spec=delta_spec,
            mode_spec=getattr(pcodec.ModeSpec, self.mode_spec)(),
            paging_spec=pcodec.PagingSpec.equal_pages_up_to(self.equal_pages_up_to),
        )


@cache
def _pcodec() -> Any:
    try:
        return importlib.import_module("pcodec")
    except ImportError as error:
        raise MissingDependencyError(
            "pcodec is not installed", codec="pcodec", hint="pip install 'gpuzarr[codecs]'"
        ) from error
