"""Zarr v3 documents: zarr.json (https://zarr-specs.readthedocs.io, version 3.1, and the zarr-extensions
registry)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.chain import check_order
from gpuzarr.codecs.packbits import NARROW, PackBits
from gpuzarr.codecs.registry import list_from_v3
from gpuzarr.codecs.sharding import Sharding
from gpuzarr.codecs.transpose import Transpose
from gpuzarr.errors import LimitError, MetadataError, UnsupportedError
from gpuzarr.grid import Axis, Grid, RectilinearAxis, RegularAxis
from gpuzarr.grid.keys import KeyEncoding
from gpuzarr.meta import dtypes
from gpuzarr.meta.document import attributes, sizes
from gpuzarr.meta.model import ArrayMeta, GroupMeta, NodeMeta, ShardLevel

_ARRAY_FIELDS = {
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"),
    *("fill_value", "attributes", "dimension_names", "storage_transformers"),
}
_MOST_LISTED = 1 << 22
_SPARE = 1 << 16  # listed chunk sizes behind the end of an axis, from before the array shrank
_GROUP_FIELDS = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}


def node_meta(document: Mapping[str, Any]) -> NodeMeta:
    """The meaning of a zarr.json."""
    if document.get("zarr_format") != 3:
        raise MetadataError(f"zarr_format {document.get('zarr_format')!r} in a zarr.json is not 3")
    kind = document.get("node_type")
    if kind == "group":
        return _group(document)
    if kind == "array":
        return _array(document)
    raise MetadataError(f"node_type {kind!r} is neither array nor group")


def _understood(document: Mapping[str, Any], known: set[str]) -> None:
    """An unknown field is an error, unless it says that it need not be understood."""
    for key in document.keys() - known:
        value = document[key]
        if not (isinstance(value, dict) and value.get("must_understand") is False):
            raise UnsupportedError(f"unknown field {key!r}")


def _group(document: Mapping[str, Any]) -> GroupMeta:
    consolidated = document.get("consolidated_metadata")
    _understood(document, _GROUP_FIELDS)
    children = None
    if isinstance(consolidated, dict) and consolidated.get("kind") == "inline":
        children = consolidated.get("metadata")
        if not isinstance(children, dict) or not all(isinstance(child, dict) for child in children.values()):
            raise MetadataError("consolidated_metadata holds no metadata documents")
    elif isinstance(consolidated, dict) and consolidated.get("must_understand") is not False:
        raise UnsupportedError(f"consolidated_metadata of kind {consolidated.get('kind')!r}")
    return GroupMeta(attributes(document.get("attributes")), 3, document, children)


def _array(document: Mapping[str, Any]) -> ArrayMeta:
    _understood(document, _ARRAY_FIELDS)
    shape = sizes(document, "shape", 0)
    dtype = dtypes.from_v3(document.get("data_type"))
    grid = _grid(document.get("chunk_grid"), shape)
    if document.get("storage_transformers"):
        raise UnsupportedError(f"storage transformers {_names(document['storage_transformers'])}")
    codecs = list_from_v3(document.get("codecs"), "codecs")
    check_order(codecs)
    _check_serializer(codecs, dtype)
    levels, inner = _levels(codecs, grid, len(shape))
    inner = tuple(_narrowed(one, dtype) for one in inner)
    if "fill_value" not in document:
        raise MetadataError("fill_value is missing")
    meta = ArrayMeta(
        shape=shape,
        dtype=dtype,
        fill=(dtypes.bytes_fill if dtype.kind == "O" else _fill_of(dtype))(document["fill_value"]),
        grid=grid,
        keys=_keys(document.get("chunk_key_encoding")),
        levels=levels,
        codecs=inner,
        attributes=attributes(document.get("attributes")),
        dimension_names=_dimension_names(document.get("dimension_names"), len(shape)),
        zarr_format=3,
        document=document,
    )
    if any(isinstance(one, Sharding) for one in inner) and np.any(meta.carried_fill.tobytes().strip(b"\0")):
        raise UnsupportedError(
            "a shard that is encoded as a whole, with a fill value other than 0", codec="sharding_indexed"
        )
    return meta


def _fill_of(dtype: np.dtype[Any]) -> Any:
    return lambda value: dtypes.fill_value(value, dtype, 3)


def _names(transformers: Any) -> str:
    listed = transformers if isinstance(transformers, list) else [transformers]
    return ", ".join(str(one.get("name") if isinstance(one, dict) else one) for one in listed)


def _named(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """An extension point: an object with a name and perhaps a configuration, or just the name."""
    name = value.get("name") if isinstance(value, dict) else value
    options = (value.get("configuration") if isinstance(value, dict) else None) or {}
    if not isinstance(name, str) or not isinstance(options, dict):
        raise MetadataError(f"{what} {value!r} is neither a name nor an object with one")
    return name, options


def _grid(value: Any, shape: tuple[int, ...]) -> Grid:
    name, options = _named(value, "chunk_grid")
    if name == "regular":
        chunks = sizes(options, "chunk_shape", 0)
        if len(chunks) != len(shape) or any(c == 0 and n for n, c in zip(shape, chunks, strict=True)):
            raise MetadataError(f"chunk_shape {list(chunks)} does not fit shape {list(shape)}")
        return Grid.regular(shape, tuple(max(c, 1) for c in chunks))
    if name == "rectilinear":
        listed = options.get("chunk_shapes")
        if (
            options.get("kind", "inline") != "inline"
            or not isinstance(listed, list)
            or len(listed) != len(shape)
        ):
            raise MetadataError(
                f"chunk_grid {options!r} does not list the chunk shapes of {len(shape)} dimensions"
            )
        return Grid(tuple(_axis(one, length) for one, length in zip(listed, shape, strict=True)))
    raise UnsupportedError(f"chunk_grid {name!r} is not known")


def _axis(value: Any, length: int) -> Axis:
    """One size for all chunks, or a list of sizes in which [size, count] stands for many of one size."""
    if type(value) is int and 0 < value < 1 << 62:
        _check_listed(-(-length // value))
        return RegularAxis(length, value)
    if not isinstance(value, list):
        raise MetadataError(f"{value!r} is not a list of chunk sizes")
    runs = [one if isinstance(one, list) else [one, 1] for one in value]
    if not all(len(run) == 2 and all(type(n) is int and 0 < n < 1 << 62 for n in run) for run in runs):
        raise MetadataError(f"{value!r} is not a list of chunk sizes")
    total, chunks = sum(size * count for size, count in runs), sum(count for _, count in runs)
    if total < length or chunks > max(length, _SPARE) + len(runs) or total >= 1 << 62:
        raise MetadataError(f"chunk sizes that sum to {total} do not fit an axis of {length}")
    _check_listed(chunks)
    return RectilinearAxis(length, np.repeat(*np.array(runs, np.int64).reshape(-1, 2).T))


def _check_listed(chunks: int) -> None:
    """Sizes along a rectilinear axis are kept, and shown, one by one."""
    if chunks > _MOST_LISTED:
        raise LimitError(f"{chunks} listed chunk sizes on one axis; gpuzarr takes up to {_MOST_LISTED}")


def _keys(value: Any) -> KeyEncoding:
    name, options = _named(value, "chunk_key_encoding")
    if name not in ("default", "v2"):
        raise UnsupportedError(f"chunk_key_encoding {name!r} is not known")
    separator = options.get("separator", "/" if name == "default" else ".")
    if separator not in ("/", "."):
        raise MetadataError(f"separator {separator!r} is neither '/' nor '.'")
    return KeyEncoding("default" if name == "default" else "v2", separator)


def _check_serializer(codecs: Sequence[Codec], dtype: np.dtype[Any]) -> None:
    """Objects need a serializer that makes bytes of them, and only they do."""
    for one in codecs:
        if isinstance(one, Sharding):
            _check_serializer(one.codecs, dtype)
        elif one.name.startswith("vlen-") and one.name != {"T": "vlen-utf8", "O": "vlen-bytes"}.get(
            dtype.kind
        ):
            raise MetadataError(f"{dtype} values cannot be encoded", codec=one.name)


def _narrowed(codec: Codec, dtype: np.dtype[Any]) -> Codec:
    """Small types move in bytes, so `packbits` is told how many of the bits are theirs."""
    if isinstance(codec, PackBits) and codec.last_bit is None and dtype.name in NARROW:
        return replace(codec, last_bit=NARROW[dtype.name] - 1)
    return codec


def _levels(
    codecs: Sequence[Codec], grid: Grid, ndim: int
) -> tuple[tuple[ShardLevel, ...], tuple[Codec, ...]]:
    """Take sharding out of the list: what it says becomes addressing. What stands before it moves into the
    inner chunks, which is right for transposes and elementwise codecs; with anything else the shard stays a
    codec."""
    levels: list[ShardLevel] = []
    moved: list[Codec] = []
    axes = tuple(range(ndim))
    while isinstance(codecs[-1], Sharding) and all(
        isinstance(c, Transpose) or c.elementwise for c in codecs[:-1]
    ):
        sharding = codecs[-1]
        for one in codecs[:-1]:
            if isinstance(one, Transpose):
                axes = tuple(axes[i] for i in one.axes(ndim))
        moved += codecs[:-1]
        if len(sharding.chunk_shape) != ndim:
            raise MetadataError(f"chunk_shape {list(sharding.chunk_shape)} does not fit {ndim} dimensions")
        chunk_shape = [0] * ndim
        for axis, size in zip(axes, sharding.chunk_shape, strict=True):
            chunk_shape[axis] = size
        _check_divides(tuple(chunk_shape), levels[-1].chunk_shape if levels else None, grid)
        levels.append(ShardLevel(tuple(chunk_shape), axes, sharding.index))
        codecs = sharding.codecs
    return tuple(levels), (*moved, *codecs)


def _check_divides(inner: tuple[int, ...], outer: tuple[int, ...] | None, grid: Grid) -> None:
    for axis, size in enumerate(inner):
        along = grid.axes[axis]
        there: Any = along.listed if isinstance(along, RectilinearAxis) else np.array([along.size])
        if outer is not None:
            there = np.array([outer[axis]])
        if np.any(there % size):
            raise MetadataError(
                f"inner chunks of {size} on axis {axis} do not divide shards of {np.unique(there).tolist()}",
                codec="sharding_indexed",
            )


def _dimension_names(value: Any, ndim: int) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != ndim
        or not all(n is None or isinstance(n, str) for n in value)
    ):
        raise MetadataError(f"dimension_names {value!r} do not fit {ndim} dimensions")
    return tuple(value)
