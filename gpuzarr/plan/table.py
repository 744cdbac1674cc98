"""The Plan: one row a piece, a piece being the part of one chunk that is selected.

Columns are NumPy arrays over n rows, d dimensions and g groups of the selection (see `selection`). A row says
which bytes encode its chunk, and which box of the chunk goes to which box of the flat result:

    along a Span       elements chunk_lo, chunk_lo + step, … of the chunk  →  out_lo, out_lo + 1, … of the
    result
    along Points       rows chunk_lo, chunk_lo + 1, … of the group's table, which lists both sides point by
    point
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from gpuzarr.selection import Selection

Int64s = NDArray[np.int64]

WHOLE = -1
"""`nbytes` of a chunk that is a whole object of unknown size."""
ABSENT = -2
"""`nbytes` of a chunk that is known to be missing."""
IN_SHARD = -3
"""`nbytes` of a chunk whose shard is fetched whole: where it lies is known when the shard is there."""


@dataclass(frozen=True, slots=True, eq=False)
class PointTable:
    """The points of one group, ordered by chunk."""

    inside: Int64s
    """int64[axes, points]: where each point lies in its chunk."""
    landing: Int64s
    """int64[points]: where each point lands along the group's axis of the flat result."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """See the module. Rows are ordered by key and start once they are coalesced."""

    selection: Selection
    points: tuple[PointTable | None, ...]
    """For each group: its points, None for a Span."""
    shapes: tuple[tuple[int, ...], ...]
    """The chunk shapes that occur: one, unless the grid is rectilinear."""
    objects: Int64s
    """[m, d]: grid coordinates of each stored object, from which its key is made when it is fetched."""
    key: Int64s
    """[n]: row of `objects`."""
    start: Int64s
    """[n]: first byte of the encoded chunk in its object."""
    nbytes: Int64s
    """[n]: bytes of the encoded chunk; WHOLE or ABSENT."""
    shape: Int64s
    """[n]: row of `shapes`."""
    chunk_lo: Int64s
    """[n, g]"""
    out_lo: Int64s
    """[n, g]"""
    extent: Int64s
    """[n, g]"""
    request: Int64s
    """[r + 1]: rows `request[i]` to `request[i + 1]` are fetched by request i. Rows behind the last are
    ABSENT."""

    slot: Int64s | None = None
    """[n]: of a read of many boxes, the chunk's place in `boxes.Pieces`, which then has the columns of
    pieces."""

    versions: list[str | None] = field(default_factory=list)
    """[m]: the version of each object that its byte ranges hold for, where the store tells versions apart;
    empty where no object was looked into."""

    entry: Int64s | None = None
    """[n]: the place of a chunk that is IN_SHARD in the index of its shard; None: there are none."""

    shards: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By row of `objects`, of those that are fetched whole: the shape of the index."""

    since: int = 0
    """What `IndexCache.version` was before anything was asked for."""

    def __len__(self) -> int:
        return len(self.key)

    def taken(self, rows: Int64s) -> Plan:
        """Some rows of a plan. Its requests are for another to make."""
        columns = ("key", "start", "nbytes", "shape", "chunk_lo", "out_lo", "extent")
        values = {name: getattr(self, name)[rows] for name in columns}
        slot = None if self.slot is None else self.slot[rows]
        entry = None if self.entry is None else self.entry[rows]
        return replace(
            self, **values, slot=slot, entry=entry, request=np.arange(len(rows) + 1, dtype=np.int64)
        )

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.request) - 1


def unsized(nbytes: Int64s) -> NDArray[np.bool_]:
    """[n]: the chunks of which only their objects know how large they are."""
    return np.isin(nbytes, (WHOLE, IN_SHARD))


def unique_rows(table: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct rows in order, and for each row of `table` which one it is."""
    if table.shape[1] == 0:
        return table[:1], np.zeros(len(table), np.int64)
    lows = table.min(axis=0, initial=0)
    spans = table.max(axis=0, initial=0) - lows + 1
    if prod(spans.tolist()) < 1 << 62:  # as one number a row, which sorts fast
        label = np.ravel_multi_index(tuple((table - lows).T), tuple(spans.tolist()))
        _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
        return table[first], inverse.reshape(-1).astype(np.int64)
    unique, inverse = np.unique(table, axis=0, return_inverse=True)
    return unique, inverse.reshape(-1).astype(np.int64)


def hulls(
    chunk_lo: Int64s, extent: Int64s, step: Int64s, strides: Int64s, itemsize: int
) -> tuple[Int64s, Int64s]:
    """Of boxes in decoded chunks, int64[n, g] each: their first byte, and the one behind their last.
    `strides` are bytes."""
    far = chunk_lo + (extent - 1) * step
    first = (np.minimum(chunk_lo, far) * strides).sum(axis=1)
    last = (np.maximum(chunk_lo, far) * strides).sum(axis=1)
    return first, last + itemsize
