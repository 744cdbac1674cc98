"""Many boxes of one shape, cut along the chunk grid. Pure arithmetic on columns.

    box, axis       → runs       elements in a row, after what lies over the edge was folded back (`mode`)
    run, grid       → cuts       its part in each chunk
    boxes           → pieces     the product of the axes' cuts
    pieces          → rows       one for each chunk, however many pieces touch it

The flat result has the boxes as its first axis, then the array's; so a piece has one group more than the
array has axes, and a step of its own along each: 1, -1 where it is mirrored, 0 where one element repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError, LimitError, SelectionError
from gpuzarr.grid import Axis, Grid
from gpuzarr.plan.pieces import Cells, shapes_of
from gpuzarr.plan.table import WHOLE, Int64s, Plan, unique_rows
from gpuzarr.selection import Selection, Span

Mode = Literal["error", "constant", "edge", "reflect", "wrap"]
"""What lies over an array's edge: an error, the fill value, or what `numpy.pad` puts there."""
MODES: Final = get_args(Mode)

_MOST_PIECES: Final = 1 << 23  # one takes some 450 bytes

Extent = int | Sequence[int]
"""Along one axis: so many elements from the origin on, or these ones, whatever the origin."""


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The pieces of every chunk: `chunk_lo, out_lo, extent, step` int64[p, 1 + d]. Those of chunk i, as the
    plan's `slot` counts, lie from `first[i]` up to `first[i + 1]`."""

    first: Int64s
    chunk_lo: Int64s
    out_lo: Int64s
    extent: Int64s
    step: Int64s
    outside: Int64s
    """The boxes that are partly filled by the mode `constant`."""

    def of(self, slots: Int64s) -> tuple[Int64s, Int64s]:
        """The pieces of some chunks, and for each the place in `slots` of its chunk."""
        count = self.first[slots + 1] - self.first[slots]
        owner = np.repeat(np.arange(len(slots), dtype=np.int64), count)
        within = np.arange(len(owner), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
        return self.first[slots][owner] + within, owner


def plan_boxes(
    origins: Int64s, shape: Sequence[Extent], array_shape: tuple[int, ...], grid: Grid, mode: str
) -> tuple[Plan, Cells, Pieces]:
    """The chunks that boxes of `shape` at `origins` [n, d] touch, and their pieces."""
    if mode not in MODES:
        raise ArgumentError(f"mode {mode!r} is not known", hint=f"use {', '.join(MODES)}")
    n, ndim = origins.shape
    sizes = tuple(one if isinstance(one, int) else len(one) for one in shape)
    outside = np.zeros(n, bool)
    cuts: list[_Cuts] = []
    for d, axis in enumerate(grid.axes):
        runs = _runs(origins[:, d], shape[d], array_shape[d], mode, d)
        outside |= runs.short
        cuts.append(_cut(runs, axis, n))
    counts = np.stack([cut.count for cut in cuts], axis=1) if cuts else np.ones((n, 1), np.int64)
    most = float(np.prod(counts.astype(np.float64), axis=1).sum())
    _check(most)
    total = np.prod(counts, axis=1)
    pieces = int(total.sum())
    box = np.repeat(np.arange(n, dtype=np.int64), total)
    rest = np.arange(pieces, dtype=np.int64) - np.repeat(np.cumsum(total) - total, total)
    cells = np.zeros((pieces, ndim), np.int64)
    chunk_lo, out_lo, extent, step = (np.zeros((pieces, 1 + ndim), np.int64) for _ in range(4))
    out_lo[:, 0], extent[:, 0], step[:, 0] = box, 1, 1
    for d in reversed(range(ndim)):
        cut = cuts[d]
        rest, at = np.divmod(rest, cut.count[box])
        at += cut.first[box]
        cells[:, d] = cut.cell[at]
        columns = chunk_lo, out_lo, extent, step
        for column, values in zip(columns, (cut.chunk_lo, cut.out_lo, cut.extent, cut.step), strict=True):
            column[:, d + 1] = values[at]
    unique, slot = unique_rows(cells)
    unique = unique if pieces else cells
    order = np.argsort(slot, kind="stable")
    first = np.searchsorted(slot[order], np.arange(len(unique) + 1)).astype(np.int64)
    shapes, of_shape = shapes_of(grid, unique)
    m = len(unique)
    plan = Plan(
        selection=_selection(array_shape, n, sizes),
        points=(None,) * (1 + ndim),
        shapes=shapes,
        objects=unique,
        key=np.arange(m, dtype=np.int64),
        start=np.zeros(m, np.int64),
        nbytes=np.full(m, WHOLE, np.int64),
        shape=of_shape,
        chunk_lo=np.zeros((m, 0), np.int64),
        out_lo=np.zeros((m, 0), np.int64),
        extent=np.zeros((m, 0), np.int64),
        request=np.arange(m + 1, dtype=np.int64),
        slot=np.arange(m, dtype=np.int64),
    )
    chunk_lo, out_lo, extent, step = (column[order] for column in (chunk_lo, out_lo, extent, step))
    return plan, Cells(unique), Pieces(first, chunk_lo, out_lo, extent, step, np.flatnonzero(outside))


def _check(pieces: float) -> None:
    if pieces > _MOST_PIECES:
        raise LimitError(f"{pieces:.3g} pieces of chunks in one read", hint="read fewer boxes at a time")


def _selection(array_shape: tuple[int, ...], n: int, sizes: tuple[int, ...]) -> Selection:
    """What the result looks like: its groups are the boxes, which are no axis of the array, and its axes."""
    groups = (Span(-1, 0, 1, n), *(Span(axis, 0, 1, size) for axis, size in enumerate(sizes)))
    return Selection(array_shape, groups, (n, *sizes))


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Along one axis: elements start, start + step, ... of the array, `count` of them, from out_lo on in the
    box. Columns [r], in the order of boxes."""

    box: Int64s
    start: Int64s
    step: Int64s
    count: Int64s
    out_lo: Int64s
    short: NDArray[np.bool_]
    """[n]: boxes that no run fills."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cuts:
    """Along one axis: the parts of runs in chunks. Columns [m]; those of box b are `count[b]` from `first[b]`
    on."""

    first: Int64s
    count: Int64s
    cell: Int64s
    chunk_lo: Int64s
    out_lo: Int64s
    extent: Int64s
    step: Int64s


def _runs(origin: Int64s, extent: Extent, length: int, mode: str, axis: int) -> _Runs:
    n = len(origin)
    boxes = np.arange(n, dtype=np.int64)
    if not isinstance(extent, int):
        return _listed(np.asarray(extent, np.int64).reshape(-1), n, length, axis)
    low, high = np.maximum(origin, 0), np.minimum(origin + extent, length)
    beyond = ((origin < 0) | (origin + extent > length)) & (extent > 0)
    none = np.zeros(n, bool)
    if mode == "error" and beyond.any():
        b = int(np.argmax(beyond))
        raise SelectionError(
            f"box {b} takes elements {origin[b]} to {origin[b] + extent} of dimension {axis}, "
            f"which has {length}",
            hint='give a mode: "constant", "edge", "reflect" or "wrap"',
        )
    if mode in ("edge", "reflect", "wrap") and beyond.any():
        if length == 0:
            raise SelectionError(f"nothing to take from dimension {axis}, which has no elements")
        if mode == "edge":
            return _clamped(origin, extent, length, none)
        return _folded(origin, extent, length, none, mirrored=mode == "reflect")
    held = high > low
    boxes, low, high = boxes[held], low[held], high[held]
    return _Runs(boxes, low, np.ones_like(low), high - low, low - origin[held], beyond)


def _listed(indexes: Int64s, n: int, length: int, axis: int) -> _Runs:
    """The same elements for every box; neighbours are one run."""
    wrong = (indexes < -length) | (indexes >= length)
    if wrong.any():
        raise SelectionError(f"index {indexes[wrong][0]} of dimension {axis}, which has {length}")
    indexes = np.where(indexes < 0, indexes + length, indexes)
    begin = np.flatnonzero(np.diff(indexes, prepend=indexes[:1] - 2) != 1)
    count = np.diff(begin, append=len(indexes))
    box = np.repeat(np.arange(n, dtype=np.int64), len(begin))
    start, count, out_lo = (np.tile(column, n) for column in (indexes[begin], count, begin))
    return _Runs(box, start, np.ones_like(start), count, out_lo, np.zeros(n, bool))


def _clamped(origin: Int64s, extent: int, length: int, short: NDArray[np.bool_]) -> _Runs:
    """The first and the last element repeat."""
    box = np.repeat(np.arange(len(origin), dtype=np.int64), 3)
    before = np.clip(-origin, 0, extent)
    behind = np.clip(origin + extent - length, 0, extent)
    count = np.stack((before, extent - before - behind, behind), axis=1)
    start = np.stack(
        (np.zeros_like(origin), np.clip(origin, 0, length), np.full_like(origin, length - 1)), axis=1
    )
    out_lo = np.cumsum(count, axis=1) - count
    step = np.tile(np.array([0, 1, 0], np.int64), len(origin))
    columns = np.stack([box, start.reshape(-1), step, count.reshape(-1), out_lo.reshape(-1)])
    box, begin, step, many, lands = columns[:, columns[3] > 0]
    return _Runs(box, begin, step, many, lands, short)


def _folded(origin: Int64s, extent: int, length: int, short: NDArray[np.bool_], mirrored: bool) -> _Runs:
    """The array again and again; mirrored, every other time backwards, without its edges twice."""
    period = max(length - 1, 1) if mirrored else length
    first = origin // period
    count = (origin + extent - 1) // period - first + 1
    _check(float(count.astype(np.float64).sum()))
    box = np.repeat(np.arange(len(origin), dtype=np.int64), count)
    turn = first[box] + np.arange(len(box), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    low = np.maximum(origin[box], turn * period)
    high = np.minimum(origin[box] + extent, (turn + 1) * period)
    inside = low - turn * period
    step = np.ones_like(low)
    if mirrored:
        backwards = turn % 2 == 1
        inside = np.where(backwards, length - 1 - inside, inside)
        step = np.where(backwards, -1, 1)
        if length == 1:
            inside, step = np.zeros_like(low), np.zeros_like(low)
    return _Runs(box, inside, step, high - low, low - origin[box], short)


def _cut(runs: _Runs, axis: Axis, n: int) -> _Cuts:
    """Runs along the axis of a grid."""
    ends = runs.start + runs.step * (runs.count - 1)
    low, high = np.minimum(runs.start, ends), np.maximum(runs.start, ends)
    begin = axis.chunk_of(low)
    many = axis.chunk_of(high) - begin + 1
    _check(float(many.astype(np.float64).sum()))
    run = np.repeat(np.arange(len(many), dtype=np.int64), many)
    cell = begin[run] + np.arange(len(run), dtype=np.int64) - np.repeat(np.cumsum(many) - many, many)
    edge = axis.low(cell)
    first, last = np.maximum(low[run], edge), np.minimum(high[run], axis.low(cell + 1) - 1)
    step = runs.step[run]
    entry = np.where(step < 0, last, first)
    extent = np.where(step == 0, runs.count[run], last - first + 1)
    count = np.bincount(runs.box[run], minlength=n).astype(np.int64)
    return _Cuts(
        first=np.cumsum(count) - count,
        count=count,
        cell=cell,
        chunk_lo=entry - edge,
        out_lo=runs.out_lo[run] + np.abs(entry - runs.start[run]),
        extent=extent,
        step=step,
    )
