"""Zarr v2 documents: .zarray, .zgroup, .zattrs (https://zarr-specs.readthedocs.io, version 2).

A v2 array becomes the same list of codecs as a v3 array: `order: F` is a transpose, `dtype` a `bytes` codec
with its byte order, filters and compressor follow. Filters that work on typed values stand behind `bytes` and
reinterpret its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.bytes import StoredType
from gpuzarr.codecs.registry import from_v2 as codec_from_v2
from gpuzarr.codecs.transpose import Transpose
from gpuzarr.errors import MetadataError
from gpuzarr.grid import Grid
from gpuzarr.grid.keys import KeyEncoding
from gpuzarr.meta import dtypes
from gpuzarr.meta.document import attributes, sizes
from gpuzarr.meta.model import ArrayMeta, GroupMeta


def array_meta(document: Mapping[str, Any]) -> ArrayMeta:
    """The meaning of a .zarray. Its attributes are None unless `zarr_attributes` was merged in."""
    if document.get("zarr_format") != 2:
        raise MetadataError(f"zarr_format {document.get('zarr_format')!r} in a .zarray is not 2")
    shape, chunks = sizes(document, "shape", 0), sizes(document, "chunks", 0)
    if len(shape) != len(chunks):
        raise MetadataError(f"chunks {list(chunks)} do not fit shape {list(shape)}")
    if any(c == 0 and n for n, c in zip(shape, chunks, strict=True)):
        raise MetadataError(f"chunks {list(chunks)} have a size of 0")
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise MetadataError(f"dimension_separator {separator!r} is neither '.' nor '/'")
    stored = dtypes.from_v2(document.get("dtype"))
    codecs = _codecs(document, stored)
    dtype = stored if stored.kind == "O" else stored.newbyteorder("=")
    if stored.kind == "O":
        dtype = dtypes.STRING if any(c.name == "vlen-utf8" for c in codecs) else stored
        fill = (
            dtypes.bytes_fill(document.get("fill_value"))
            if any(c.name == "vlen-bytes" for c in codecs)
            else dtypes.fill_value(document.get("fill_value"), dtype, 2)
        )
    else:
        # Fields may differ in byte order, so the fill is read in the stored type, then turned around.
        fill = dtypes.fill_value(document.get("fill_value"), stored, 2).astype(dtype)
    attrs = document.get("zarr_attributes")
    return ArrayMeta(
        shape=shape,
        dtype=dtype,
        fill=fill,
        grid=Grid.regular(shape, tuple(max(c, 1) for c in chunks)),
        keys=KeyEncoding("v2", separator),
        levels=(),
        codecs=codecs,
        attributes=None if attrs is None else attributes(attrs, ".zattrs"),
        dimension_names=None,
        zarr_format=2,
        document=document,
    )


def _codecs(document: Mapping[str, Any], stored: np.dtype[Any]) -> tuple[Codec, ...]:
    order = document.get("order", "C")
    if order not in ("C", "F"):
        raise MetadataError(f"order {order!r} is neither C nor F")
    named, compressor = document.get("filters"), document.get("compressor")
    listed = [*(named if isinstance(named, list) else []), *([] if compressor is None else [compressor])]
    if not isinstance(named, list | None) or not all(isinstance(one, dict) for one in listed):
        raise MetadataError("filters is not a list of codecs, or compressor is not a codec")
    filters = [codec_from_v2(one) for one in listed]
    head: list[Codec] = [Transpose("F")] if order == "F" and len(sizes(document, "shape", 0)) > 1 else []
    if stored.kind == "O":
        if not filters or filters[0].kind not in ("serializer", "array"):
            raise MetadataError(
                "objects need an object codec as their first filter", hint="vlen-utf8, for example"
            )
    elif not filters or filters[0].kind != "serializer":
        head.append(StoredType(None, dtypes.carrier(stored)))
    return (*head, *filters)


def group_meta(document: Mapping[str, Any]) -> GroupMeta:
    """The meaning of a .zgroup."""
    if document.get("zarr_format") != 2:
        raise MetadataError(f"zarr_format {document.get('zarr_format')!r} in a .zgroup is not 2")
    attrs = document.get("zarr_attributes")
    return GroupMeta(None if attrs is None else attributes(attrs, ".zattrs"), 2, document)
