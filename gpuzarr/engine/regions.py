"""How an array is cut into the regions of a copy: boxes of whole objects of the target, and if it can be of
whole chunks of the source. It depends on nothing but the two arrays, so that another process, which goes on
with an interrupted copy, cuts them likewise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import gcd, prod
from typing import Final

import numpy as np

from gpuzarr.grid import Axis, Grid, RectilinearAxis
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.table import Int64s

_REGION: Final = 16 << 20
"""Decoded bytes that a region has at least, if the array has them."""
_LARGEST: Final = 128 << 20
"""Decoded bytes that a region grows to, so that chunks of the source are not decoded twice."""

Cell = tuple[int, ...]
Box = tuple[slice, ...]


def cells_of(grid: Grid, box: Box) -> Iterator[Cell]:
    """The grid coordinates of the objects in a box of whole ones."""
    ranges = []
    for axis, one in zip(grid.axes, box, strict=True):
        low, high = axis.chunk_of(np.array([one.start, one.stop - 1], np.int64)).tolist()
        ranges.append(range(low, high + 1))
    return product(*ranges)


def sizes(grid: Grid) -> tuple[int, ...]:
    """The largest size of a chunk along each axis, within the array."""
    return tuple(min(_size(axis), max(axis.length, 1)) for axis in grid.axes)


def _size(axis: Axis) -> int:
    if isinstance(axis, RectilinearAxis):
        listed: list[int] = axis.listed[: axis.count].tolist()
        return max(listed, default=1)
    return axis.size


def sides(source: ArrayMeta, target: ArrayMeta, itemsize: int, aligned: bool) -> list[int]:
    """The region's size along each axis. `aligned`: the chunks of both are the same."""
    shape = source.shape
    unit, along = list(sizes(target.grid)), list(sizes(source.chunk_grid))
    if aligned:
        along = unit
    side = list(unit)
    least = max(prod(unit), prod(along)) * itemsize
    most = max(_LARGEST, least)

    def reach(axis: int, size: int) -> int:
        return min(size, -(-shape[axis] // unit[axis]) * unit[axis])

    def nbytes(axis: int, size: int) -> int:
        return prod([*side[:axis], size, *side[axis + 1 :]]) * itemsize

    for axis in reversed(range(len(shape))):
        whole = reach(axis, side[axis] * along[axis] // gcd(side[axis], along[axis]))
        if nbytes(axis, whole) <= most:
            side[axis] = whole
    while True:
        torn = [axis for axis in range(len(shape)) if side[axis] < shape[axis] and side[axis] % along[axis]]
        limit = most if torn else _REGION
        room = torn or [axis for axis in range(len(shape)) if side[axis] < shape[axis]]
        if not room:
            return side
        axis = max(room, key=lambda one: (along[one] / side[one] if torn else 0, one))
        larger = reach(axis, 2 * side[axis])
        if nbytes(axis, larger) > limit:
            return side
        side[axis] = larger


def edges(axis: Axis, side: int) -> Int64s:
    """Where regions begin along an axis, and where the last ends. Each is an edge of an object."""
    if not isinstance(axis, RectilinearAxis):
        return np.append(np.arange(0, axis.length, max(side, 1), dtype=np.int64), axis.length)
    ends = [0]
    for low, high in zip(axis.edges[: axis.count].tolist(), axis.edges[1:].tolist(), strict=False):
        if high - ends[-1] > side and low > ends[-1]:
            ends.append(low)
    return np.array([*ends, axis.length] if axis.length else [0], np.int64)
