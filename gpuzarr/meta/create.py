"""What a user asks for, as a metadata document; and the choices that `auto` stands for.

    chunks "auto"   about 1 MiB decoded, as near to a cube as the shape allows: large enough to keep a GPU's
                    streams busy, small enough that many are in flight
    shards "auto"   about 64 MiB decoded: few objects, each request worth its round trip
    codecs "auto"   zstd for bytes, booleans and text; for larger numbers blosc with lz4 behind a byte
                    shuffle, which a GPU decodes faster than it gets them

The document is then read like any other (`meta.v2`, `meta.v3`), so what is created is what a reader sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from operator import index
from typing import Any, Final, Literal

import numpy as np

from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.registry import from_v2, from_v3, names
from gpuzarr.errors import ArgumentError, GpuzarrError
from gpuzarr.meta import encode
from gpuzarr.meta.dtypes import OBJECT, SMALL, STRING, DType
from gpuzarr.meta.dtypes import from_v3 as dtype_from_v3

CHUNK_NBYTES: Final = 1 << 20
SHARD_NBYTES: Final = 64 << 20
Shape = tuple[int, ...]
Auto = Literal["auto"]


def array_document(
    shape: Any,
    dtype: Any,
    chunks: Any = "auto",
    shards: Any = None,
    codecs: Any = "auto",
    fill_value: Any = None,
    order: str = "C",
    dimension_names: Sequence[str | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
    zarr_format: int = 3,
    separator: str | None = None,
    index_location: str = "end",
) -> dict[str, Any]:
    """The document of an array. What does not fit together is an ArgumentError."""
    if zarr_format not in (2, 3):
        raise ArgumentError(f"zarr_format {zarr_format!r} is neither 2 nor 3")
    if order not in ("C", "F"):
        raise ArgumentError(f"order {order!r} is neither C nor F")
    shape, kind = whole_numbers(shape, "shape"), _dtype(dtype)
    itemsize = 16 if kind.kind in "OT" else kind.itemsize
    uneven = _uneven(shape, chunks)
    if uneven is not None and (zarr_format == 2 or shards is not None):
        what = "in Zarr v2" if zarr_format == 2 else "in shards"
        raise ArgumentError(f"there are no chunks that differ in size {what}", hint="give them one shape")
    levels = _levels(shape, chunks, shards, itemsize) if uneven is None else []
    if dimension_names is not None and len(dimension_names) != len(shape):
        raise ArgumentError(f"{len(dimension_names)} dimension names for {len(shape)} dimensions")
    if zarr_format == 2:
        if len(levels) > 1:
            raise ArgumentError("Zarr v2 has no shards", hint="use zarr_format=3")
        return {
            "zarr_format": 2,
            "shape": list(shape),
            "chunks": list(levels[0]),
            "dtype": encode.dtype_v2(kind),
            # the bytes of fields are written as chunks have them
            "fill_value": encode.fill(fill_value, kind if kind.names else _native(kind), 2),
            "order": order,
            "dimension_separator": separator or ".",
            **_v2_codecs(codecs, kind),
        }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": encode.dtype_v3(_native(kind)),
        "chunk_grid": encode.regular(levels[0]) if uneven is None else encode.rectilinear(uneven),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator or "/"}},
        "fill_value": encode.fill(fill_value, _native(kind), 3),
        "codecs": _sharded(levels, _v3_codecs(codecs, kind, order, len(shape)), index_location),
        "attributes": dict(attributes or {}),
        **({} if dimension_names is None else {"dimension_names": list(dimension_names)}),
    }


def _native(dtype: DType) -> DType:
    return dtype if dtype.kind in "OT" else dtype.newbyteorder("=")


def _dtype(value: Any) -> DType:
    """A NumPy type, or the name of a Zarr v3 one that NumPy lacks."""
    if isinstance(value, str) and (value in SMALL or value in ("string", "bytes")):
        return dtype_from_v3(value)
    if value is str:
        return STRING
    if value is bytes:
        return OBJECT
    try:
        dtype: DType = np.dtype(value)
    except TypeError as error:
        raise ArgumentError(f"{value!r} is no data type") from error
    if dtype.kind in "SUV" and not dtype.itemsize:
        raise ArgumentError(f"{value!r} has no length", hint='say how long: "S8", "U8"; or use "string"')
    return dtype


def whole_numbers(value: Any, what: str, least: int = 0) -> Shape:
    """A shape: one number, or one for each dimension."""
    try:
        numbers = tuple(index(n) for n in value) if isinstance(value, Sequence) else (index(value),)
    except TypeError:
        numbers = (least - 1,)
    if not all(least <= n < 1 << 62 for n in numbers):
        raise ArgumentError(f"{what} {value!r} is not made of whole numbers from {least} on")
    return numbers


def auto_chunks(shape: Shape, itemsize: int, nbytes: int = CHUNK_NBYTES) -> Shape:
    """Chunks of about `nbytes` bytes: the longest axis is halved until they fit."""
    sizes = [max(n, 1) for n in shape]
    while prod(sizes) * itemsize > nbytes and max(sizes) > 1:
        longest = max(range(len(sizes)), key=lambda axis: (sizes[axis], -axis))
        power = 1 << (sizes[longest] - 1).bit_length() - 1  # the largest power of two below
        sizes[longest] = power
    return tuple(sizes)


def _auto_shards(shape: Shape, chunks: Shape, itemsize: int) -> Shape:
    """Shards of about SHARD_NBYTES: whole chunks, doubled along the axis with most of them left."""
    sizes = list(chunks)
    while prod(sizes) * itemsize * 2 <= SHARD_NBYTES:
        left = [-(-n // size) for n, size in zip(shape, sizes, strict=True)]
        if max(left, default=1) <= 1:
            break
        sizes[left.index(max(left))] *= 2
    return tuple(sizes)


def _levels(shape: Shape, chunks: Any, shards: Any, itemsize: int) -> list[Shape]:
    """The shapes of shards, outermost first, and of chunks."""
    inner = auto_chunks(shape, itemsize) if chunks in ("auto", None) else whole_numbers(chunks, "chunks", 1)
    if len(inner) == 1 < len(shape):
        inner *= len(shape)
    outer: list[Shape] = []
    if shards == "auto":
        outer = [_auto_shards(shape, inner, itemsize)] if len(inner) == len(shape) else []
    elif shards is not None:
        nested = isinstance(shards, Sequence) and any(isinstance(one, Sequence) for one in shards)
        outer = [whole_numbers(one, "shards", 1) for one in (shards if nested else [shards])]
    levels = [*outer, inner]
    for level in levels:
        if len(level) != len(shape):
            raise ArgumentError(f"chunks or shards {level} do not fit {len(shape)} dimensions")
    for large, small in pairwise(levels):
        if any(n % c for n, c in zip(large, small, strict=True)):
            raise ArgumentError(f"chunks of {small} do not divide shards of {large}")
    return levels


def _uneven(shape: Shape, chunks: Any) -> list[Any] | None:
    """Chunk sizes along each axis as documents have them, where some axis lists its own; else None."""
    if not isinstance(chunks, Sequence) or not any(_lists_sizes(one) for one in chunks):
        return None
    if len(chunks) != len(shape):
        raise ArgumentError(f"chunk sizes along {len(chunks)} axes do not fit {len(shape)} dimensions")
    found: list[Any] = []
    for axis, (given, length) in enumerate(zip(chunks, shape, strict=True)):
        sizes = whole_numbers([*given] if _lists_sizes(given) else given, f"chunks along axis {axis},", 1)
        if not _lists_sizes(given):
            found.append(sizes[0])
            continue
        if sum(sizes) != length and (length or not sizes):  # an axis of none grows into its chunks
            raise ArgumentError(f"chunks along axis {axis} add up to {sum(sizes)}, not to its {length}")
        found.append(encode.run_lengths(sizes))
    return found


def _lists_sizes(value: Any) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)


# ---- codecs


def _auto_codecs(dtype: DType) -> list[dict[str, Any]]:
    size = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if dtype.kind in "iufcmM" and size > 1 and dtype.name not in SMALL:
        options = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0, "typesize": size}
        return [{"name": "blosc", "configuration": options}]
    return [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}]


def _listed(codecs: Any, dtype: DType) -> list[Any]:
    if isinstance(codecs, str) and codecs == "auto":
        return _auto_codecs(dtype)
    if codecs is None:
        return []
    return list(codecs) if isinstance(codecs, Sequence) and not isinstance(codecs, str) else [codecs]


def _codec(given: Any) -> Codec:
    """A codec from a name, a document of either format, a codec of ours, of numcodecs, or of zarr-python."""
    if isinstance(given, Codec):
        return given
    if isinstance(given, str):
        given = {"name": given}
    if hasattr(given, "get_config"):
        given = given.get_config()
    elif hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{given!r} is no codec", hint='a name, or {"name": …, "configuration": {…}}')
    try:
        if "id" in given:
            return from_v2(given)
        return from_v3(str(given.get("name")), given.get("configuration") or {})
    except GpuzarrError as error:
        raise ArgumentError(f"codec {dict(given)!r}: {error}") from error


def _v3_codecs(codecs: Any, dtype: DType, order: str, ndim: int) -> list[dict[str, Any]]:
    made = [_codec(one) for one in _listed(codecs, dtype)]
    if order == "F" and ndim > 1:
        made.insert(0, _codec({"name": "transpose", "configuration": {"order": [*range(ndim)][::-1]}}))
    if not any(one.kind == "serializer" for one in made):
        if dtype.kind in "OT":
            serializer = {"name": "vlen-utf8" if dtype.kind == "T" else "vlen-bytes"}
        else:
            big = dtype.byteorder == ">"
            plain = dtype.itemsize == 1 or (dtype.kind in "SV" and dtype.name not in SMALL)
            serializer = {"name": "bytes"}
            if not plain or dtype.names:
                serializer["configuration"] = {"endian": "big" if big else "little"}  # type: ignore[assignment]
        at = next((i for i, one in enumerate(made) if one.kind == "bytes"), len(made))
        made.insert(at, _codec(serializer))
    listed = []
    for one in made:
        options = one.to_document(3, dtype)
        listed.append({"name": one.name, **({"configuration": options} if options else {})})
    return listed


def _sharded(levels: list[Shape], codecs: list[dict[str, Any]], location: str) -> list[dict[str, Any]]:
    """The list of the innermost chunks, inside as many shards as there are levels."""
    for chunk_shape in reversed(levels[1:]):
        options = {
            "chunk_shape": list(chunk_shape),
            "codecs": codecs,
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": location,
        }
        codecs = [{"name": "sharding_indexed", "configuration": options}]
    return codecs


def _v2_codecs(codecs: Any, dtype: DType) -> dict[str, Any]:
    """`filters` and `compressor`: the last codec that takes bytes is the compressor."""
    made = [_codec(one) for one in _listed(codecs, dtype)]
    if dtype.kind in "OT" and not any(one.kind == "serializer" for one in made):
        made.insert(0, _codec({"id": "vlen-utf8" if dtype.kind == "T" else "vlen-bytes"}))
    documents = [{"id": _v2_name(one), **one.to_document(2, dtype)} for one in made]
    compressor = documents.pop() if made and made[-1].kind == "bytes" else None
    return {"filters": documents or None, "compressor": compressor}


def _v2_name(codec: Codec) -> str:
    known = getattr(codec, "v2_name", "")
    if known:
        return str(known)
    for name, cls in names()[1].items():
        if cls is type(codec):
            return name
    raise ArgumentError(f"codec {codec.name} cannot be written in Zarr v2", hint="use zarr_format=3")
