"""A selection cut along the chunk grid. Pure arithmetic on columns.

Each group of the selection is cut by itself; the rows are the Cartesian product of the groups' pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from gpuzarr.errors import LimitError
from gpuzarr.grid import Axis, Grid
from gpuzarr.plan.table import WHOLE, Int64s, Plan, PointTable
from gpuzarr.selection import Points, Selection, Span

MOST_ROWS = 1 << 27  # a row takes some 200 bytes


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The chunks of a plan's rows, which `resolve_shards` needs and nothing after it: int64[n, d]."""

    cells: Int64s


def plan_pieces(selection: Selection, grid: Grid) -> tuple[Plan, Cells]:
    """The rows of a read from chunks that are objects of their own, and their grid coordinates."""
    cuts = [_cut(group, grid) for group in selection.groups]
    counts = [len(cut.extent) for cut in cuts]
    n = prod(counts)
    _check_rows(n)
    cells = np.zeros((n, len(grid.axes)), np.int64)
    chunk_lo, out_lo, extent = (np.zeros((n, len(cuts)), np.int64) for _ in range(3))
    for g, (group, cut) in enumerate(zip(selection.groups, cuts, strict=True)):
        around = [1] * len(cuts)
        around[g] = counts[g]
        row = np.broadcast_to(np.arange(counts[g]).reshape(around), counts).reshape(-1)
        axes = [group.axis] if isinstance(group, Span) else list(group.axes)
        cells[:, axes] = cut.cells[row]
        chunk_lo[:, g], out_lo[:, g], extent[:, g] = cut.chunk_lo[row], cut.out_lo[row], cut.extent[row]
    shapes, shape = shapes_of(grid, cells)
    plan = Plan(
        selection=selection,
        points=tuple(cut.points for cut in cuts),
        shapes=shapes,
        objects=cells,
        key=np.arange(n, dtype=np.int64),
        start=np.zeros(n, np.int64),
        nbytes=np.full(n, WHOLE, np.int64),
        shape=shape,
        chunk_lo=chunk_lo,
        out_lo=out_lo,
        extent=extent,
        request=np.arange(n + 1, dtype=np.int64),
    )
    return plan, Cells(cells)


def shapes_of(grid: Grid, cells: Int64s) -> tuple[tuple[tuple[int, ...], ...], Int64s]:
    """The shapes of the chunks at `cells`: those that occur, and which of them each has."""
    if grid.chunk_shape is not None:
        return (grid.chunk_shape,), np.zeros(len(cells), np.int64)
    unique, inverse = np.unique(grid.chunk_shapes(cells), axis=0, return_inverse=True)
    return tuple(tuple(one) for one in unique.tolist()), inverse.reshape(-1).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """The pieces of one group: cells [m, axes] and chunk_lo, out_lo, extent [m]."""

    cells: Int64s
    chunk_lo: Int64s
    out_lo: Int64s
    extent: Int64s
    points: PointTable | None = None


def _check_rows(count: int) -> None:
    if count > MOST_ROWS:
        raise LimitError(f"{count:,} chunks in one read, more than {MOST_ROWS:,}", hint="read it in parts")


def _cut(group: Span | Points, grid: Grid) -> _Cut:
    return _cut_span(group, grid.axes[group.axis]) if isinstance(group, Span) else _cut_points(group, grid)


def _cut_span(span: Span, axis: Axis) -> _Cut:
    ends = np.array([span.start, span.start + (span.count - 1) * span.step], np.int64)
    first, last = axis.chunk_of(ends) if span.count else (0, -1)
    _check_rows(min(int(last) - int(first) + 1, span.count))
    if last - first < span.count:
        chunks = np.arange(first, last + 1, dtype=np.int64)
    else:  # steps longer than chunks: most are skipped
        chunks = np.unique(axis.chunk_of(span.start + span.step * np.arange(span.count, dtype=np.int64)))
    low, high = axis.low(chunks), axis.low(chunks + 1)
    begin = np.maximum(-((span.start - low) // span.step), 0)  # the first selected element at or after `low`
    end = np.minimum(-((span.start - high) // span.step), span.count)
    held = end > begin
    chunks, low, begin, end = chunks[held], low[held], begin[held], end[held]
    return _Cut(chunks[:, None], span.start + span.step * begin - low, begin, end - begin)


def _cut_points(points: Points, grid: Grid) -> _Cut:
    count = len(points)
    chunks = [grid.axes[axis].chunk_of(at) for axis, at in zip(points.axes, points.coords, strict=True)]
    order = np.lexsort(chunks[::-1]).astype(np.int64) if chunks else np.arange(count, dtype=np.int64)
    ordered = np.stack([one[order] for one in chunks], axis=1) if chunks else np.zeros((count, 0), np.int64)
    changes = np.any(ordered[1:] != ordered[:-1], axis=1)
    begin = np.concatenate((np.zeros(min(count, 1), np.int64), np.flatnonzero(changes) + 1))
    extent = np.diff(begin, append=count)
    lows = [grid.axes[axis].low(chunk[order]) for axis, chunk in zip(points.axes, chunks, strict=True)]
    inside = [at[order] - low for at, low in zip(points.coords, lows, strict=True)]
    table = PointTable(np.array(inside, np.int64).reshape(len(chunks), count), order)
    return _Cut(ordered[begin], begin, begin, extent, table)
