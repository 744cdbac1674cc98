"""A NumPy key becomes a Selection: which elements, and where each lands in the result.

An array's axes are divided into groups. A group is a Span (one axis, evenly spaced) or Points (any axes
together, listed one by one). The elements selected are the Cartesian product of the groups, and the *flat*
result has one axis a group, in the order of the result's axes. So one form covers slices, `oindex` (Points of
one axis each), `vindex` (Points of all axes) and NumPy's mixture of both:

    a[5:9, 2]        Span(0, 5, 1, 4), Span(1, 2, 1, 1)               flat (4, 1)   result (4,)
    a[[7, 1], ::-1]  Points((0,), [[7, 1]]), Span(1, 0, 1, n, flip)   flat (2, n)   result (2, n)

It knows shapes and nothing of chunks, types or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import index
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import SelectionError

Shape = tuple[int, ...]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """`count` elements of one axis: start, start + step, … with step > 0. `flip`: they land in reverse."""

    axis: int
    start: int
    step: int
    count: int
    flip: bool = False

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Elements listed one by one on `axes` together. `coords` is int64[axes, points]; `shape` is theirs in
    the result."""

    axes: tuple[int, ...]
    coords: Int64s
    shape: Shape

    def __len__(self) -> int:
        return int(self.coords.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Elements of an array of `shape`, and the shape they take in the result."""

    shape: Shape
    groups: tuple[Span | Points, ...]
    result_shape: Shape

    @property
    def flat_shape(self) -> Shape:
        """One axis a group."""
        return tuple(len(group) for group in self.groups)

    @property
    def size(self) -> int:
        """Number of selected elements."""
        return prod(self.result_shape)

    @property
    def flips(self) -> tuple[EllipsisType | slice, ...]:
        """The index that turns the flat result's reversed axes around. (The ellipsis keeps it an array.)"""
        turns = (slice(None, None, -1 if isinstance(g, Span) and g.flip else None) for g in self.groups)
        return (..., *turns)

    def flat_view(self, result: NDArray[Any]) -> NDArray[Any] | None:
        """The flat form of an array of `result_shape`, sharing its memory; None if its strides do not allow
        that."""
        try:
            return result.reshape(self.flat_shape, copy=False)[self.flips]
        except ValueError:
            return None

    def arrange(self, flat: NDArray[Any]) -> NDArray[Any]:
        """A flat result, as it was filled, in its final shape."""
        return flat[self.flips].reshape(self.result_shape)


def basic(key: Any, shape: Shape) -> Selection:
    """`array[key]` with NumPy's meaning: integers, slices, `...`, newaxis, boolean and integer arrays."""
    return _select(key, shape, points_first=False)


def coordinates(key: Any, shape: Shape) -> Selection:
    """`array.vindex[key]`: index arrays select point by point, and their axes come first in the result."""
    return _select(key, shape, points_first=True)


def orthogonal(key: Any, shape: Shape) -> Selection:
    """`array.oindex[key]`: each axis is indexed by itself, by an integer, a slice, or a 1-d integer or
    boolean array."""
    groups: list[Span | Points] = []
    result_shape: list[int] = []
    for axis, item in enumerate(_expand(key, shape)):
        if item is None:
            raise SelectionError("oindex takes no newaxis")
        listed = _as_index_array(item)
        if listed is None:
            span, kept = _span(axis, item, shape[axis])
            groups.append(span)
            result_shape += [span.count] if kept else []
        else:
            if listed.ndim != 1:
                raise SelectionError(
                    f"oindex takes 1-d index arrays, axis {axis} has one of {listed.ndim} dimensions"
                )
            (coords,) = _true_positions(listed, shape, axis) if listed.dtype == bool else (listed,)
            wrapped = _wrapped(coords, axis, shape[axis])
            groups.append(Points((axis,), wrapped[None, :], wrapped.shape))
            result_shape.append(wrapped.size)
    return Selection(shape, tuple(groups), tuple(result_shape))


def blocks(key: Any, shape: Shape, counts: Shape, edges: Sequence[Any]) -> Selection:
    """`array.blocks[key]`: whole chunks by their grid coordinates. `counts` is the grid's shape;
    `edges[axis](i)` is the first element of chunk i."""
    spans: list[Span] = []
    for axis, item in enumerate(_expand(key, counts)):
        if item is None or _as_index_array(item) is not None:
            raise SelectionError("blocks takes integers and slices")
        span, _ = _span(axis, item, counts[axis])
        if isinstance(item, slice) and item.step not in (None, 1):
            raise SelectionError("blocks takes slices of step 1")
        lo, hi = (min(int(edges[axis](i)), shape[axis]) for i in (span.start, span.start + span.count))
        spans.append(Span(axis, lo, 1, hi - lo))
    return Selection(shape, tuple(spans), tuple(span.count for span in spans))


def _expand(key: Any, shape: Shape) -> list[Any]:
    """The key as a list with one entry an axis (a boolean array stands for several) and None for each
    newaxis."""
    items = list(key) if isinstance(key, tuple) else [key]
    items = [_ready(item) for item in items]
    if sum(item is Ellipsis for item in items) > 1:
        raise SelectionError("a key holds at most one ellipsis (...)")
    used = sum(_axes_used(item) for item in items)
    if used > len(shape):
        raise SelectionError(
            f"too many indices: the array has {len(shape)} dimensions, the key asks for {used}"
        )
    rest = [slice(None)] * (len(shape) - used)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), None)
    return items + rest if at is None else items[:at] + rest + items[at + 1 :]


def _ready(item: Any) -> Any:
    """Index arrays as ndarrays; everything else as it is."""
    if item is None or isinstance(item, (slice, EllipsisType, int, np.ndarray)):
        return item
    if hasattr(item, "__cuda_array_interface__"):
        return item.get()
    if hasattr(item, "__index__") and getattr(item, "ndim", 0) == 0:
        return index(item)
    try:
        listed = np.asarray(item)
    except ValueError as error:
        raise SelectionError(f"{item!r} is not an index array: {error}") from None
    return listed.astype(np.int64) if listed.size == 0 and isinstance(item, (list, tuple)) else listed


def _axes_used(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, (bool, np.bool_)):
        return 0
    return int(item.ndim) if isinstance(item, np.ndarray) and item.dtype == bool else 1


def _as_index_array(item: Any) -> NDArray[Any] | None:
    """The item if it is an index array (a boolean scalar is one of no dimensions), None if it is not."""
    if isinstance(item, (bool, np.bool_)):
        return np.asarray(item)
    if not isinstance(item, np.ndarray):
        return None
    if item.dtype != bool and item.dtype.kind not in "iu":
        raise SelectionError(f"index arrays hold integers or booleans, not {item.dtype}")
    return item


def _span(axis: int, item: Any, length: int) -> tuple[Span, bool]:
    """An integer or a slice, and whether its axis is kept in the result."""
    if not isinstance(item, slice):
        try:
            at = index(item)
        except TypeError:
            raise SelectionError(
                f"{item!r} is not an index", hint="use integers, slices, ..., newaxis or index arrays"
            ) from None
        if not -length <= at < length:
            raise SelectionError(f"index {at} is out of bounds for axis {axis} with size {length}")
        return Span(axis, at % length, 1, 1), False
    try:
        start, stop, step = item.indices(length)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"{item!r}: {error}") from None
    count = len(range(start, stop, step))
    step = 1 if count == 1 else step  # which may be past int64
    if count == 0:
        return Span(axis, 0, 1, 0), True
    if step > 0:
        return Span(axis, start, step, count), True
    return Span(axis, start + (count - 1) * step, -step, count, flip=True), True


def _true_positions(mask: NDArray[Any], shape: Shape, axis: int) -> tuple[Int64s, ...]:
    for offset, (given, wanted) in enumerate(zip(mask.shape, shape[axis:], strict=False)):
        if given != wanted:
            raise SelectionError(
                f"boolean index of length {given} on axis {axis + offset} of length {wanted}"
            )
    return tuple(np.asarray(positions, np.int64) for positions in np.nonzero(mask))


def _wrapped(coords: NDArray[Any], axis: int, length: int) -> Int64s:
    """Non-negative int64 coordinates; out of bounds is an error."""
    if coords.size:
        least, most = int(coords.min()), int(coords.max())
        if least < -length or most >= length:
            bad = least if least < -length else most
            raise SelectionError(f"index {bad} is out of bounds for axis {axis} with size {length}")
    wrapped = coords.astype(np.int64)
    return np.where(wrapped < 0, wrapped + length, wrapped)


def _select(key: Any, shape: Shape, *, points_first: bool) -> Selection:
    items = _expand(key, shape)
    listed = any(_as_index_array(item) is not None for item in items)
    # Beside an index array, NumPy treats integers as index arrays of no dimensions.
    spans: list[tuple[Span | None, bool]] = []  # None: a new axis, or the place of an index array
    places: list[int] = []  # positions of the index arrays among the items
    arrays: list[Int64s] = []
    axes: list[int | None] = []  # of each index array; None for a boolean scalar, which uses no axis
    ellipsis_at = _empty_ellipsis(key, items)
    axis = 0
    for position, item in enumerate(items):
        array = _as_index_array(item)
        if item is None:
            spans.append((None, True))
        elif array is None and not (listed and not isinstance(item, slice)):
            spans.append(_span(axis, item, shape[axis]))
            axis += 1
        else:
            if array is None:
                coords: tuple[NDArray[Any], ...] = (np.asarray(_span(axis, item, shape[axis])[0].start),)
            elif array.dtype == bool:
                if array.ndim == 0:  # one element if true, none if false, and no axis used
                    arrays.append(np.zeros(int(array), np.int64))
                    axes.append(None)
                    coords = ()
                else:
                    coords = _true_positions(array, shape, axis)
            else:
                coords = (array,)
            for one in coords:
                arrays.append(_wrapped(one, axis, shape[axis]))
                axes.append(axis)
                axis += 1
            places.append(position)
            spans.append((None, False))
    return _assemble(shape, spans, places, arrays, axes, points_first, ellipsis_at)


def _empty_ellipsis(key: Any, items: list[Any]) -> int | None:
    """Where an ellipsis stood that stands for no axis: NumPy still lets it separate index arrays."""
    given = key if isinstance(key, tuple) else (key,)
    at = next((i for i, item in enumerate(given) if item is Ellipsis), None)
    return at if at is not None and len(items) == len(given) - 1 else None


def _assemble(
    shape: Shape,
    spans: list[tuple[Span | None, bool]],
    places: list[int],
    arrays: list[Int64s],
    axes: list[int | None],
    points_first: bool,
    ellipsis_at: int | None,
) -> Selection:
    """Put the point group where NumPy puts it: at its place if its arrays stand side by side, else first."""
    points: Points | None = None
    if places:
        try:
            broadcast = np.broadcast_arrays(*arrays)
        except ValueError:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise SelectionError(f"index arrays of shapes {shapes} do not broadcast together") from None
        point_shape = broadcast[0].shape
        used = [one.reshape(-1) for one, axis in zip(broadcast, axes, strict=True) if axis is not None]
        coords = np.array(used, np.int64).reshape(len(used), prod(point_shape))
        points = Points(tuple(axis for axis in axes if axis is not None), coords, point_shape)
    together = bool(places) and places[-1] - places[0] == len(places) - 1
    if ellipsis_at is not None and places and places[0] < ellipsis_at <= places[-1]:
        together = False
    first = points is not None and (points_first or not together)
    groups: list[Span | Points] = []
    result_shape: list[int] = []
    if first and points is not None:
        groups.append(points)
        result_shape += points.shape
    for position, (span, kept) in enumerate(spans):
        if span is not None:
            groups.append(span)
            result_shape += [span.count] if kept else []
        elif kept:
            result_shape.append(1)
        elif points is not None and not first and position == places[0]:
            groups.append(points)
            result_shape += points.shape
    return Selection(shape, tuple(groups), tuple(result_shape))


def boxes(origins: Any, shape: Any, array_shape: Shape) -> tuple[Int64s, list[int | list[int]]]:
    """Origins as int64[n, d], and what a box takes along each axis: a length, or indices. Axes that origins
    say nothing of are the first ones, and taken whole."""
    try:
        at, wanted = np.asarray(origins), list(shape)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"boxes of shape {shape!r} at {origins!r:.80}: {error}") from error
    ndim = len(array_shape)
    if at.size == 0 and at.ndim < 2:
        at = np.zeros((0, len(wanted)), np.int64)
    if at.ndim != 2 or at.shape[1] > ndim or (at.size and at.dtype.kind not in "iu"):
        raise SelectionError(
            f"origins are {at.dtype}{list(at.shape)}, not whole numbers [n, {ndim}]",
            hint="give one row a box, one column a dimension",
        )
    if at.size and (at.min() < -_FAR or at.max() > _FAR):
        raise SelectionError("an origin is further away than 2**62")
    sizes: list[int | list[int]] = []
    for one in wanted:
        listed = isinstance(one, Sequence) or (isinstance(one, np.ndarray) and one.ndim)
        if listed and not isinstance(one, (str, bytes)):
            sizes.append([_whole(item, shape) for item in list(one)])
        else:
            size = _whole(one, shape)
            if not 0 <= size < _FAR:
                raise SelectionError(f"boxes of shape {tuple(wanted)}")
            sizes.append(size)
    whole = ndim - at.shape[1]
    if len(sizes) == at.shape[1]:
        sizes = [*array_shape[:whole], *sizes]
    if len(sizes) != ndim:
        raise SelectionError(
            f"boxes of {len(sizes)} dimensions at origins of {at.shape[1]} in an array of {ndim}"
        )
    full = np.zeros((len(at), ndim), np.int64)
    full[:, whole:] = at
    return full, sizes


def _whole(value: Any, shape: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise SelectionError(f"boxes of shape {shape!r}: a truth value is no number of elements")
    try:
        return index(value)
    except TypeError as error:
        raise SelectionError(f"boxes of shape {shape!r}: {error}") from error


_FAR = 1 << 61
