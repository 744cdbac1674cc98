"""Samplers: which boxes an epoch has. A sampler is a description; `bind` makes it ready for a space.

    Drawn     boxes are drawn one by one, each from a block of the frame: the block by its weight, then the
              box in it. Nothing is remembered between boxes.
    Fixed     a list of boxes, each once an epoch, and which of them lie in which block.

Blocks are what `order` needs to bring boxes near each other together without changing how often each is
drawn. A sampler of your own has a `bind` that gives one of the two; for most, `Custom` will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import CUSTOM, Int64s, Words, below, generator
from gpuzarr.loading.frame import Axes, Space, axes_of, whole

MOST_BLOCKS = 1 << 24
"""Tables of blocks grow no larger."""


@runtime_checkable
class Drawn(Protocol):
    """Boxes that are drawn, as many as one likes."""

    count: int
    """Boxes of an epoch."""
    weights: NDArray[np.float64]
    """How often each block is drawn, relatively."""
    words: int
    """Random words that a box takes."""

    def draw(self, block: Int64s, words: Words) -> Int64s:
        """The origins [n, d] of a box in each of the blocks [n], from words [n, `words`]."""
        ...


@runtime_checkable
class Fixed(Protocol):
    """Boxes that are there once."""

    count: int
    shuffle: bool
    """Whether they come in another order each epoch."""

    def origins(self, index: Int64s) -> Int64s:
        """The origins [n, d] of boxes [n]."""
        ...

    def blocks(self, shape: Axes) -> Members:
        """Which boxes lie in which block of `shape`."""
        ...


class Members(Protocol):
    """The boxes of each block."""

    @property
    def sizes(self) -> Int64s:
        """How many each block has."""
        ...

    def box(self, block: Int64s, i: Int64s) -> Int64s:
        """The i-th box of a block, for each of many."""
        ...


@runtime_checkable
class Made(Protocol):
    """Boxes that a function makes of (seed, epoch, index). They know no blocks."""

    count: int

    def made(self, seed: int, epoch: int, index: Int64s) -> Int64s:
        """The origins [n, d] of boxes [n]."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """What `PatchLoader(sampler=...)` takes."""

    def bind(self, space: Space, block: Axes | None) -> Drawn | Fixed | Made:
        """Ready for `space`, in blocks of about `block` elements, or as it likes. Reads what it has to."""
        ...


def check_count(count: int | None, space: Space) -> int:
    """The boxes of an epoch: as said, or as many as lie side by side."""
    return space.boxes if count is None else whole("count", count, 1)


def blocks_along(origins: Int64s, block: int) -> tuple[Int64s, Int64s]:
    """Of the origins along one axis, which are the first of each block, and how many it has. Blocks begin at
    multiples of `block`, where chunks do."""
    at = origins // block
    first = np.flatnonzero(np.diff(at, prepend=at[0] - 1)).astype(np.int64)
    return first, np.diff(first, append=len(origins))


def check_blocks(grid: Axes) -> None:
    """Not more than a table holds."""
    if prod(grid) > MOST_BLOCKS:
        raise ArgumentError(f"{prod(grid):,} blocks", hint="make them larger: Blocks(shape=...)")


# ---- drawn


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every box as likely as any other. An epoch has `count` boxes, by default as many as lie side by
    side."""

    count: int | None = None

    def bind(self, space: Space, block: Axes | None) -> Drawn:
        """See Sampler."""
        return _Uniform(space, check_count(self.count, space), block)


class _Uniform:
    def __init__(self, space: Space, count: int, block: Axes | None) -> None:
        self.space, self.count, self.words = space, count, space.ndim
        if block is None:
            cuts = [(np.zeros(1, np.int64), np.array([n], np.int64)) for n in space.slots]
        else:
            axes = zip(space.low, space.step, space.slots, block, strict=True)
            cuts = [
                blocks_along(low + step * np.arange(n, dtype=np.int64), side) for low, step, n, side in axes
            ]
        self.first, self.many = [cut[0] for cut in cuts], [cut[1] for cut in cuts]
        self.grid = tuple(len(first) for first in self.first)
        check_blocks(self.grid)
        weights = np.ones((), np.float64)
        for many in self.many:
            weights = np.multiply.outer(weights, many.astype(np.float64))
        self.weights = weights.reshape(-1)

    def draw(self, block: Int64s, words: Words) -> Int64s:
        """See Drawn."""
        cells = np.unravel_index(block, self.grid)
        slots = [
            first[cell] + below(words[:, a], many[cell])
            for a, (first, many, cell) in enumerate(zip(self.first, self.many, cells, strict=True))
        ]
        return self.space.origins(np.stack(slots, axis=1))


# ---- each once


@dataclass(frozen=True, slots=True)
class Grid:
    """Boxes at regular distances, each once an epoch, in a new order each time unless `shuffle` is off.

    `stride` is the distance, by default the box, so that they lie side by side; or `overlap` says how much
    neighbours share. `edge` says what becomes of a rest that is smaller than a stride: "shift" adds a box
    that ends at the edge, "pad" one that begins where the next would and reaches over it (which needs a mode
    and overhang), "drop" leaves the rest out.
    """

    stride: Any = None
    overlap: Any = None
    edge: str = "shift"
    shuffle: bool = True

    def bind(self, space: Space, block: Axes | None) -> Fixed:
        """See Sampler."""
        return _Grid(space, self._starts(space), self.shuffle)

    def _starts(self, space: Space) -> list[Int64s]:
        if self.edge not in ("shift", "pad", "drop"):
            raise ArgumentError(f"edge {self.edge!r} is none of shift, pad and drop")
        if self.stride is not None and self.overlap is not None:
            raise ArgumentError("stride and overlap say the same", hint="give one of them")
        strides = space.box
        if self.stride is not None:
            strides = axes_of(self.stride, space.ndim, "stride", 1)
        elif self.overlap is not None:
            shared = axes_of(self.overlap, space.ndim, "overlap")
            strides = tuple(width - share for width, share in zip(space.box, shared, strict=True))
        if any(stride < 1 or stride % step for stride, step in zip(strides, space.step, strict=True)):
            raise ArgumentError(
                f"a stride of {strides}", hint=f"give multiples of {space.step}, the arrays' scales"
            )
        starts = []
        for a, stride in enumerate(strides):
            low, step = space.low[a], space.step[a]
            last = low + step * (space.slots[a] - 1)
            along = np.arange(low, last + 1, stride, dtype=np.int64)
            if self.edge == "shift" and along[-1] < last:
                along = np.append(along, last)
            elif self.edge == "pad":
                along = self._padded(space, a, stride, last)
            starts.append(along)
        return starts

    def _padded(self, space: Space, axis: int, stride: int, last: int) -> Int64s:
        """From the frame's own edge on, until all of it is covered."""
        low, box, size = max(space.low[axis], min(0, last)), space.box[axis], space.shape[axis]
        many = max(-(-(size - low - box) // stride), 0) + 1
        along = low + stride * np.arange(many, dtype=np.int64)
        if along[-1] > last:
            raise ArgumentError(
                f'edge="pad" needs boxes that reach {along[-1] + box - size} elements over axis {axis}',
                hint="give the loader a mode, and that much overhang",
            )
        return along


class _Grid:
    def __init__(self, space: Space, starts: list[Int64s], shuffle: bool) -> None:
        self.space, self.starts, self.shuffle = space, starts, shuffle
        self.grid = tuple(len(along) for along in starts)
        self.count = prod(self.grid)

    def origins(self, index: Int64s) -> Int64s:
        """See Fixed."""
        cells = np.unravel_index(index, self.grid)
        return np.stack([along[cell] for along, cell in zip(self.starts, cells, strict=True)], axis=1)

    def blocks(self, shape: Axes) -> Members:
        """See Fixed."""
        cuts = [blocks_along(along, block) for along, block in zip(self.starts, shape, strict=True)]
        check_blocks(tuple(len(first) for first, _ in cuts))
        return _GridMembers(self.grid, tuple(first for first, _ in cuts), tuple(many for _, many in cuts))


@dataclass(frozen=True, slots=True, eq=False)
class _GridMembers:
    grid: Axes
    first: tuple[Int64s, ...]
    """Along each axis: the first box of each block,"""
    many: tuple[Int64s, ...]
    """and how many it has."""

    @property
    def sizes(self) -> Int64s:
        """See Members."""
        sizes = np.ones((), np.int64)
        for many in self.many:
            sizes = np.multiply.outer(sizes, many)
        return sizes.reshape(-1)

    def box(self, block: Int64s, i: Int64s) -> Int64s:
        """See Members."""
        cells = np.unravel_index(block, tuple(len(first) for first in self.first))
        places: list[Int64s] = []
        for first, many, cell in reversed(list(zip(self.first, self.many, cells, strict=True))):
            i, inside = np.divmod(i, many[cell])
            places.insert(0, first[cell] + inside)
        return np.asarray(np.ravel_multi_index(tuple(places), self.grid), np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """The boxes at `origins` [n, d], each once an epoch, in a new order each time unless `shuffle` is off."""

    origins: Any
    shuffle: bool = True

    def bind(self, space: Space, block: Axes | None) -> Fixed:
        """See Sampler."""
        origins = space.check(self.origins)
        if not len(origins):
            raise ArgumentError("a list of no boxes")
        return _List(origins, self.shuffle)


class _List:
    def __init__(self, origins: Int64s, shuffle: bool) -> None:
        self.listed, self.shuffle, self.count = origins, shuffle, len(origins)

    def origins(self, index: Int64s) -> Int64s:
        """See Fixed."""
        return self.listed[index]

    def blocks(self, shape: Axes) -> Members:
        """See Fixed."""
        _, block = np.unique(self.listed // np.array(shape, np.int64), axis=0, return_inverse=True)
        sizes = np.bincount(block.reshape(-1)).astype(np.int64)
        return _ListMembers(sizes, np.argsort(block.reshape(-1), kind="stable"), np.cumsum(sizes) - sizes)


@dataclass(frozen=True, slots=True, eq=False)
class _ListMembers:
    sizes: Int64s
    order: Int64s
    first: Int64s

    def box(self, block: Int64s, i: Int64s) -> Int64s:
        """See Members."""
        return np.asarray(self.order[self.first[block] + i], np.int64)


# ---- a user's own


@dataclass(frozen=True, slots=True)
class Custom:
    """Boxes that `function(rng, space)` makes: the origin of one box, whole numbers, one an axis. It is
    called once a box, with a NumPy generator of that box's own, and may be called again for the same box;
    what it gives must follow from its arguments alone."""

    function: Callable[[np.random.Generator, Space], Any]
    count: int | None = None

    def bind(self, space: Space, block: Axes | None) -> Made:
        """See Sampler."""
        if not callable(self.function):
            raise ArgumentError(f"sampler {self.function!r} is no function")
        return _Custom(self.function, space, check_count(self.count, space))


@dataclass(slots=True)
class _Custom:
    function: Callable[[np.random.Generator, Space], Any]
    space: Space
    count: int

    def made(self, seed: int, epoch: int, index: Int64s) -> Int64s:
        """See Made."""
        found = np.zeros((len(index), self.space.ndim), np.int64)
        for row, i in enumerate(index.tolist()):
            origin = np.asarray(self.function(generator(seed, epoch, CUSTOM, i), self.space))
            found[row] = self.space.check(origin.reshape(1, -1), index[row : row + 1])[0]
        return found
