"""When encoded chunks of one array are chunks of another as they are, and how shards are made of them.

Documents are not compared, but what decoding does: the stages, and the layout of the bytes behind them. So a
Zarr v2 array and its v3 form are the same where nothing but words differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from gpuzarr.codecs.base import Codec, as_bytes
from gpuzarr.codecs.generic import Generic
from gpuzarr.codecs.sharding import ABSENT
from gpuzarr.engine.regions import Cell, sizes
from gpuzarr.errors import ChunkError
from gpuzarr.grid import Grid, RectilinearAxis
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.table import Int64s
from gpuzarr.store.base import Buffer, Pieces


def passes(source: ArrayMeta, target: ArrayMeta) -> bool:
    """Whether a chunk that the source's codecs encoded is what the target's would decode to the same values,
    and a missing one stands for the same."""
    if source.dtype != target.dtype or not same_grid(source.chunk_grid, target.chunk_grid):
        return False
    if source.carrier.kind == "O":
        if source.fill[()] != target.fill[()]:
            return False
    elif source.fill.tobytes() != target.fill.tobytes():
        return False
    shape = source.chunk_grid.chunk_shape or sizes(source.chunk_grid)
    ours, theirs = source.chain(shape), target.chain(shape)
    if (ours.layout, ours.axes, len(ours.stages)) != (theirs.layout, theirs.axes, len(theirs.stages)):
        return False
    return all(
        a.decoded == b.decoded and _same_codec(a.codec, b.codec, source.dtype)
        for a, b in zip(ours.stages, theirs.stages, strict=True)
    )


def _same_codec(a: Codec, b: Codec, dtype: np.dtype[Any]) -> bool:
    if isinstance(a, Generic) and isinstance(b, Generic):
        return (a.v2_name, a.document) == (b.v2_name, b.document)
    if type(a) is not type(b):
        return False
    return a == b or a.to_document(3, dtype) == b.to_document(3, dtype)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether both cut an array of the same shape in the same places."""
    if len(a.axes) != len(b.axes) or a.shape != b.shape:
        return False
    return all(
        type(one) is type(other)
        and one.length == other.length
        and np.array_equal(one.sizes(cells), other.sizes(cells))
        for one, other in zip(a.axes, b.axes, strict=True)
        for cells in [np.arange(one.count if isinstance(one, RectilinearAxis) else 1, dtype=np.int64)]
    )


def assembled(meta: ArrayMeta, cell: Cell, held: Mapping[Cell, Buffer]) -> Pieces:
    """The shard at grid coordinates `cell`, made of the encoded chunks it holds; empty if it has none."""
    at = np.array([cell], np.int64).reshape(1, -1)
    first = np.array([axis.low(at[:, i])[0] for i, axis in enumerate(meta.grid.axes)], np.int64)
    return _assembled(meta, 0, first, meta.grid.chunk_shapes(at)[0], held)


def _assembled(
    meta: ArrayMeta, depth: int, first: Int64s, shape: Int64s, held: Mapping[Cell, Buffer]
) -> Pieces:
    level, last = meta.levels[depth], depth + 1 == len(meta.levels)
    index, size, axes = level.index, np.array(level.chunk_shape, np.int64), list(level.axes)
    counts = tuple((shape // size)[axes].tolist())
    place = np.indices(counts).reshape(len(counts), prod(counts)).T
    begin = np.empty_like(place)
    begin[:, axes] = place
    begin = first + begin * size  # [n, d]: the first element of each chunk, in the order of the index
    cells = (begin // size).tolist()
    table = np.full((prod(counts), 2), ABSENT, np.int64)
    at = index_nbytes = index.nbytes(counts)
    at = at if index.location == "start" else 0
    pieces: Pieces = []
    for i in range(len(table)):
        if last:
            one = held.get(tuple(cells[i]))
            stored: Pieces = [] if one is None else [one]
        else:
            stored = _assembled(meta, depth + 1, begin[i], size, held)
        if stored:
            nbytes = sum(memoryview(piece).nbytes for piece in stored)
            table[i] = at, nbytes
            at += nbytes
            pieces += stored
    if not pieces:
        return []
    encoded = as_bytes(index.chain(counts).encode(table.view(np.uint64).reshape(*counts, 2))).data
    if encoded.nbytes != index_nbytes:
        raise ChunkError("the shard index changed its size", codec="sharding_indexed")
    return [encoded, *pieces] if index.location == "start" else [*pieces, encoded]
