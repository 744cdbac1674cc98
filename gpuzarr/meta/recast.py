"""The document of an array's copy: what the source has, but for what is asked to be different.

Within a format the source's document is kept, and the fields that change are replaced. Between formats it is
made anew, with the same codecs wherever the other format has them: then encoded chunks may be taken as they
are (`engine.transfer` decides that by comparing what decoding does, not by comparing documents).

    v2                      v3
    dtype ">i4"             data_type int32, codec bytes(big)
    order F                 codec transpose
    filters, compressor     codecs: those for arrays before `bytes`, the others behind it
    .zattrs _ARRAY_DIMENSIONS   dimension_names
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.bytes import Bytes, StoredType
from gpuzarr.codecs.transpose import Transpose
from gpuzarr.errors import ArgumentError
from gpuzarr.meta.create import array_document
from gpuzarr.meta.dialect import node_from_document
from gpuzarr.meta.model import ArrayMeta

DIMENSIONS = "_ARRAY_DIMENSIONS"
"""Where xarray keeps dimension names in Zarr v2: a list in the attributes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a copy is to have differently, as `create_array` takes it. None: as the source has it."""

    chunks: Any = None
    shards: Any = None
    """False: no shards."""
    codecs: Any = None
    zarr_format: int | None = None
    order: str | None = None
    separator: str | None = None
    index_location: str | None = None

    @property
    def encoding(self) -> bool:
        """Whether anything but format and keys changes."""
        asked = (self.chunks, self.shards, self.codecs, self.order, self.index_location)
        return any(one is not None for one in asked)


def recast(
    meta: ArrayMeta, attributes: Mapping[str, Any], changes: Changes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document and the attributes of the copy. What does not fit together, or has no form in the other
    format, is an ArgumentError."""
    zarr_format = meta.zarr_format if changes.zarr_format is None else changes.zarr_format
    names, kept = _dimensions(meta, attributes, zarr_format)
    if zarr_format != meta.zarr_format:
        _check_objects(meta)
        document = _fresh(meta, changes, zarr_format, fill=meta.fill[()])
    else:
        document = {key: value for key, value in meta.document.items() if key != "zarr_attributes"}
        if changes.encoding:
            document |= _encoding(meta, changes, zarr_format)
    if changes.separator is not None:
        document |= _keys(meta, changes.separator, zarr_format)
    if zarr_format == 3:
        document["attributes"] = kept
        if names is not None:
            document["dimension_names"] = list(names)
    made = node_from_document(document)
    assert isinstance(made, ArrayMeta)
    if made.grid.chunk_shape is not None:
        made.chain(made.chunk_grid.chunk_shape or ())  # codecs that cannot take such chunks say so here
    return document, kept


def _dimensions(
    meta: ArrayMeta, attributes: Mapping[str, Any], zarr_format: int
) -> tuple[tuple[str | None, ...] | None, dict[str, Any]]:
    """Dimension names for the document, and the attributes; between formats the names change places."""
    kept = dict(attributes)
    if zarr_format == meta.zarr_format:
        return meta.dimension_names, kept
    if zarr_format == 2:
        if meta.dimension_names is not None:
            kept.setdefault(DIMENSIONS, list(meta.dimension_names))
        return None, kept
    names = kept.get(DIMENSIONS)
    if not isinstance(names, list) or len(names) != len(meta.shape):
        return None, kept
    if not all(name is None or isinstance(name, str) for name in names):
        return None, kept
    del kept[DIMENSIONS]
    return tuple(names), kept


def _check_objects(meta: ArrayMeta) -> None:
    """Of Zarr v2's objects, strings and bytes are types of v3; the others exist in v2 alone."""
    if meta.dtype.kind == "O" and not any(one.name == "vlen-bytes" for one in meta.codecs):
        named = ", ".join(one.name for one in meta.codecs)
        raise ArgumentError(f"objects stored as {named} have no type in Zarr v3", hint="copy with format 2")


def _keys(meta: ArrayMeta, separator: str, zarr_format: int) -> dict[str, Any]:
    if separator not in (".", "/"):
        raise ArgumentError(f"separator {separator!r} is neither '.' nor '/'")
    if zarr_format == 2:
        return {"dimension_separator": separator}
    name = meta.keys.name if meta.zarr_format == 3 else "default"
    return {"chunk_key_encoding": {"name": name, "configuration": {"separator": separator}}}


def _encoding(meta: ArrayMeta, changes: Changes, zarr_format: int) -> dict[str, Any]:
    """The fields that say how the array is cut and encoded."""
    made = _fresh(meta, changes, zarr_format, fill=None)
    if zarr_format == 2:
        fields = ["chunks", "order"] + (["filters", "compressor"] if changes.codecs is not None else [])
        order = changes.order or meta.document.get("order", "C")
        return {name: made[name] for name in fields} | {"order": order}
    if meta.grid.chunk_shape is None and changes.chunks is None and not _unsharded(changes):
        return {"codecs": made["codecs"]}
    return {name: made[name] for name in ("chunk_grid", "codecs")}


def _unsharded(changes: Changes) -> bool:
    return changes.shards is False or changes.shards == "none"


def _fresh(meta: ArrayMeta, changes: Changes, zarr_format: int, fill: Any) -> dict[str, Any]:
    chunks, shards = _cut(meta, changes, zarr_format)
    dtype: Any = meta.dtype
    codecs = changes.codecs
    if codecs is None:
        dtype, codecs = _codecs(meta, changes, zarr_format)
    # Codecs that lay the axes out otherwise than F are of v3 alone, and among the codecs.
    order = changes.order or ("F" if zarr_format == 2 and _is_f(meta) else "C")
    location = changes.index_location or (meta.levels[0].index.location if meta.levels else "end")
    separator = meta.keys.separator if zarr_format == 2 else None
    strings = zarr_format == 2 and meta.dtype.kind == "T"  # objects as bytes are, but for their filter
    if strings:
        dtype, text, fill = bytes, fill, None
    try:
        made = array_document(
            *(meta.shape, dtype, chunks, shards, codecs, fill, order, meta.dimension_names, {}, zarr_format),
            separator=separator,
            index_location=location,
        )
    except ArgumentError as error:
        if changes.codecs is None and "codec" in error.what:
            error.hint = f"{error.hint}; or name codecs" if error.hint else "name other codecs"
        raise
    if strings:
        made["fill_value"] = "" if text is None else str(text)
        made["filters"] = [
            {"id": "vlen-utf8"} if one["id"] == "vlen-bytes" else one for one in made["filters"] or []
        ]
    return made


def _cut(meta: ArrayMeta, changes: Changes, zarr_format: int) -> tuple[Any, Any]:
    """Chunks and shards as `array_document` takes them."""
    inner = meta.levels[-1].chunk_shape if meta.levels else meta.grid.chunk_shape
    levels = [level.chunk_shape for level in meta.levels[:-1]]
    shards: Any = changes.shards
    if shards is None and meta.levels and zarr_format == 3:
        outer = meta.grid.chunk_shape
        if outer is None:  # the grid stays as it is; the first size only has to fit
            outer = meta.levels[0].chunk_shape if changes.chunks is None else None
            if outer is None:
                raise ArgumentError("the shards differ in size", hint="say how large new ones are to be")
        shards = [outer, *levels]
    elif shards is None or _unsharded(changes):
        shards = None
    chunks = inner if changes.chunks is None else changes.chunks
    if chunks is None:
        if zarr_format == 3 and shards is None:
            return (1,) * len(meta.shape), None
        raise ArgumentError("the chunks differ in size", hint="say how large new ones are to be")
    return chunks, shards


def _axes(meta: ArrayMeta) -> tuple[int, ...]:
    """The order of axes of stored chunks."""
    axes = tuple(range(len(meta.shape)))
    for one in meta.codecs:
        if isinstance(one, Transpose):
            axes = tuple(axes[i] for i in one.axes(len(axes)))
    return axes


def _is_f(meta: ArrayMeta) -> bool:
    return len(meta.shape) > 1 and _axes(meta) == tuple(reversed(range(len(meta.shape))))


def _codecs(meta: ArrayMeta, changes: Changes, zarr_format: int) -> tuple[Any, list[Codec]]:
    """The source's codecs in the other or the same format, and the type with the byte order that goes with
    them."""
    listed = [one for one in meta.codecs if not isinstance(one, Transpose)]
    stored = next((one for one in listed if isinstance(one, Bytes)), None)
    rest = [one for one in listed if one is not stored]
    order = _byte_order(stored, meta)
    if zarr_format == 2:
        if stored is not None and meta.zarr_format == 3 and order == "big":
            return meta.dtype.newbyteorder(">"), rest
        return meta.dtype, rest
    head: list[Codec] = []
    if changes.order is None and _axes(meta) != tuple(range(len(meta.shape))):
        head = [Transpose(_axes(meta))]
    if stored is None:
        return meta.dtype, head + rest
    # An array codec of v2 stands behind the bytes and reinterprets them; in v3 it stands before.
    arrays = [one for one in rest if one.kind == "array"]
    swapped = Bytes(order) if meta.dtype.itemsize > 1 and meta.dtype.kind not in "SV" else Bytes(None)
    if meta.dtype.names:
        swapped = Bytes(order)
    return meta.dtype, [*head, *arrays, swapped, *(one for one in rest if one.kind != "array")]


def _byte_order(stored: Bytes | None, meta: ArrayMeta) -> Any:
    """`big` where all values are stored so. Fields of both orders have no form in v3: they become little."""
    if isinstance(stored, StoredType):
        kind: np.dtype[Any] = stored.dtype
        return "big" if kind == kind.newbyteorder(">") and kind != kind.newbyteorder("<") else "little"
    return "big" if stored is not None and stored.endian == "big" else "little"


def check(changes: Changes) -> None:
    """Refuse what no array could have."""
    if changes.zarr_format not in (None, 2, 3):
        raise ArgumentError(f"zarr_format {changes.zarr_format!r} is neither 2 nor 3")
    if changes.order not in (None, "C", "F"):
        raise ArgumentError(f"order {changes.order!r} is neither C nor F")


__all__ = ["DIMENSIONS", "Changes", "check", "recast"]
