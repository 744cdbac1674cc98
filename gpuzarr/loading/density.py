"""Samplers that a mask or a label steers: boxes are drawn by what lies at their centre.

    mask ─scan→ weight of each block, one row a class      read once, block by block; a number each is kept
    words → class and block → element of the mask → box    the element by the block's running sums

A box's centre is its origin + box // 2. An element of the mask counts with the number of boxes whose centre
it holds: several where the mask is coarser than the arrays, none where no box fits. So each box is drawn
exactly as often as its centre's weight says, at edges too, and coordinates of a mask are never listed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from gpuzarr.errors import ArgumentError, GpuzarrError
from gpuzarr.loading.chance import Int64s, Words, below, unit
from gpuzarr.loading.frame import Axes, Space
from gpuzarr.loading.mask import Box, Floats, Mask, Values
from gpuzarr.loading.samplers import Drawn, check_blocks, check_count

_SIDE = 64  # elements of the mask along a block's side, where nothing else is said
_SLAB = 1 << 25  # elements that the scan reads at once
_MOST_CLASSES = 1024
_MOST_SUMS = 1 << 27  # classes × blocks


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """Boxes as likely as the mask says at their centre: `mask` is a stored array or one in memory, of numbers
    that are not negative, or of booleans. `weigh(values)` makes weights of the same shape from its values:
    `lambda label: label > 0`. An element of the mask covers `scale` elements of the first array."""

    mask: Any
    weigh: Callable[[Values], Any] | None = None
    scale: Any = 1
    count: int | None = None

    def bind(self, space: Space, block: Axes | None) -> Drawn:
        """See Sampler. Reads the mask."""
        return _ByWeight(
            Mask(self.mask, self.scale, space), block, check_count(self.count, space), self.weigh
        )


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """Boxes by the class at their centre: first the class, each as likely as any other or as `weights` say,
    then a box among those of the class. `classes` are values of `labels`, by default all that there are;
    what is not among them is never a centre."""

    labels: Any
    classes: Sequence[Any] | None = None
    weights: Sequence[float] | None = None
    scale: Any = 1
    count: int | None = None

    def bind(self, space: Space, block: Axes | None) -> Drawn:
        """See Sampler. Reads the labels."""
        mask = Mask(self.labels, self.scale, space)
        return _ByClass(mask, block, check_count(self.count, space), self.classes, self.weights)


class _Density:
    """Blocks of a mask, and the weight of each: `table` [classes, blocks]."""

    def __init__(self, mask: Mask, block: Axes | None, count: int) -> None:
        self.mask, self.count, self.words = mask, count, 2 + mask.space.ndim
        mask.shared = block is not None
        wanted = block or tuple(_SIDE * one for one in mask.scale)
        # Where a block is asked for, its boxes begin where chunks do, and its centres half a box further on.
        ahead = mask.space.box if block else (0,) * mask.space.ndim
        axes = zip(wanted, mask.scale, mask.chunks, mask.shape, ahead, strict=True)
        self.edges = [_edges(*axis) for axis in axes]
        self.grid = tuple(len(edges) - 1 for edges in self.edges)
        check_blocks(self.grid)
        self.table = self._scan()
        self.weights: Floats = self.table.sum(axis=0)

    @abstractmethod
    def _scan(self) -> Floats:
        """The table, from `blocks`."""

    @abstractmethod
    def _weigh(self, values: Values, layer: int) -> Values:
        """Weights of elements, before `fits`: for one class."""

    def _box(self, block: int) -> Box:
        cells = np.unravel_index(block, self.grid)
        return tuple(
            slice(edges[cell], edges[cell + 1]) for edges, cell in zip(self.edges, cells, strict=True)
        )

    def blocks(self) -> Iterator[tuple[int, Values, Floats | float]]:
        """Every block in which a box may have its centre: its number, values, and how many boxes have it in
        each element; one number where that is the same for all."""
        *outer, last = self.grid
        widest = prod(max(np.diff(edges).tolist()) for edges in self.edges)
        along = max(_SLAB // widest, 1)  # blocks of one slab
        for cells in product(*(range(n) for n in outer)):
            for at in range(0, last, along):
                numbers = [
                    int(np.ravel_multi_index((*cells, i), self.grid))
                    for i in range(at, min(at + along, last))
                ]
                boxes = [self._box(number) for number in numbers]
                low = boxes[0][-1].start
                slab: Values | None = None
                for number, box in zip(numbers, boxes, strict=True):
                    fits = [axis[one] for axis, one in zip(self.mask.fits, box, strict=True)]
                    if any(not axis.any() for axis in fits):
                        continue
                    if slab is None:
                        slab = self.mask.read((*box[:-1], slice(low, boxes[-1][-1].stop)))
                    values = slab[..., box[-1].start - low : box[-1].stop - low]
                    same = all((axis == axis[0]).all() for axis in fits)
                    each = float(prod(axis[0] for axis in fits)) if same else self.mask.weight(box)
                    yield number, values, each

    def draw(self, block: Int64s, words: Words) -> Int64s:
        """See Drawn."""
        rank = np.zeros(len(block), np.int64)
        if len(self.table) > 1:
            sums = np.cumsum(self.table[:, block], axis=0)
            rank = (sums <= unit(words[:, 0]) * sums[-1]).sum(axis=0)
        cells = np.zeros((len(block), self.mask.space.ndim), np.int64)
        pairs, member = np.unique(np.stack((block, rank), axis=1), axis=0, return_inverse=True)
        for i, (number, layer) in enumerate(pairs.tolist()):
            mine = np.flatnonzero(member.reshape(-1) == i)
            cells[mine] = self._elements(number, layer, unit(words[mine, 1]))
        slots = [
            first[cells[:, a]] + below(words[:, 2 + a], fits[cells[:, a]])
            for a, (first, fits) in enumerate(zip(self.mask.first, self.mask.fits, strict=True))
        ]
        return self.mask.space.origins(np.stack(slots, axis=1))

    def _elements(self, block: int, layer: int, at: Floats) -> Int64s:
        """The elements of a block at the fractions `at` of its weight: rows by their sums, then one in a
        row."""
        box = self._box(block)
        weights = self._weigh(self.mask.block(box), layer) * self.mask.weight(box)
        rows = weights.reshape(-1, weights.shape[-1])
        sums = np.cumsum(rows.sum(axis=1))
        if not sums[-1] > 0:
            raise GpuzarrError(
                "a block of the mask has lost all its weight", array=self.mask.name,
                hint="masks must not change while boxes are drawn from them",
            )  # fmt: skip
        target = at * sums[-1]
        row = np.minimum(
            np.searchsorted(sums, target, side="right"), np.flatnonzero(np.diff(sums, prepend=0))[-1]
        )
        within = np.cumsum(rows[row], axis=1)
        rest = target - np.where(row > 0, sums[row - 1], 0.0)
        # Sums in two orders differ in their last bit: what falls behind a row is its last element.
        last = rows.shape[1] - 1 - np.argmax(rows[row][:, ::-1] > 0, axis=1)
        column = np.minimum((within <= rest[:, None]).sum(axis=1), last)
        places = np.unravel_index(row * rows.shape[1] + column, weights.shape)
        return np.stack([place + one.start for place, one in zip(places, box, strict=True)], axis=1)


class _ByWeight(_Density):
    def __init__(
        self, mask: Mask, block: Axes | None, count: int, weigh: Callable[[Values], Any] | None
    ) -> None:
        self.weigh = weigh
        super().__init__(mask, block, count)
        if not self.weights.sum() > 0:
            raise ArgumentError(
                f"{mask.name} has no weight where a box may have its centre",
                hint="a smaller box, or a mode with overhang, lets centres come nearer to the edges",
            )

    def _scan(self) -> Floats:
        table = np.zeros((1, int(np.prod(self.grid))), np.float64)
        for number, values, fits in self.blocks():
            weights = self._weigh(values, 0)
            if weights.dtype.kind == "b" and isinstance(fits, float):
                table[0, number] = np.count_nonzero(weights) * fits
            else:
                with np.errstate(invalid="ignore", over="ignore"):  # what is infinite is refused below
                    table[0, number] = (weights * np.float64(fits)).sum()
            if not np.isfinite(table[0, number]) or (weights.dtype.kind in "if" and (weights < 0).any()):
                raise ArgumentError(
                    f"{self.mask.name} has weights that are negative or no finite numbers",
                    hint=f"they are in the box {_text(self._box(number))}",
                )
        return table

    def _weigh(self, values: Values, layer: int) -> Values:
        if self.weigh is None:
            return values
        weights = np.asarray(self.weigh(values))
        if weights.shape != values.shape or weights.dtype.kind not in "buif":
            raise ArgumentError(
                f"weigh made {weights.dtype}{list(weights.shape)} of {values.dtype}{list(values.shape)}",
                hint="it gives a number or a boolean for each element",
            )
        return weights


class _ByClass(_Density):
    def __init__(
        self,
        mask: Mask,
        block: Axes | None,
        count: int,
        classes: Sequence[Any] | None,
        weights: Sequence[float] | None,
    ) -> None:
        self.classes = None if classes is None else list(classes)
        if classes is not None and (not self.classes or len(set(classes)) < len(classes)):
            raise ArgumentError(f"classes {list(classes)} are none, or not all different")
        super().__init__(mask, block, count)
        assert self.classes is not None
        share = np.ones(len(self.classes)) if weights is None else np.asarray(weights, np.float64)
        if share.shape != (len(self.classes),) or not (np.isfinite(share).all() and (share > 0).all()):
            raise ArgumentError(f"weights {weights!r} are not {len(self.classes)} positive numbers")
        totals = self.table.sum(axis=1)
        missing = [name for name, total in zip(self.classes, totals.tolist(), strict=True) if not total]
        if missing or not self.classes:
            what = f"class {missing[0]!r} does not occur" if missing else "there are no classes"
            raise ArgumentError(f"{what} in {mask.name} where a box may have its centre")
        self.table *= (share / share.sum() / totals)[:, None]
        self.weights = self.table.sum(axis=0)

    def _scan(self) -> Floats:
        blocks, rows = int(np.prod(self.grid)), dict[Any, Floats]()
        wanted = self.classes
        for number, values, fits in self.blocks():
            for value, weight in _tally(values, fits):
                if value != value or (wanted is not None and value not in wanted):
                    continue
                if value not in rows:
                    if len(rows) == _MOST_CLASSES or len(rows) * blocks > _MOST_SUMS:
                        raise ArgumentError(
                            f"{self.mask.name} has more than {len(rows)} classes",
                            hint="name some; or draw from all alike: Weighted(labels, weigh=lambda v: v > 0)",
                        )
                    rows[value] = np.zeros(blocks, np.float64)
                rows[value][number] = weight
        if wanted is None:
            self.classes = wanted = sorted(value for value, row in rows.items() if row.any())
        return np.array([rows.get(value, np.zeros(blocks)) for value in wanted]).reshape(-1, blocks)

    def _weigh(self, values: Values, layer: int) -> Values:
        assert self.classes is not None
        return np.asarray(values == self.classes[layer])


def _edges(side: int, scale: int, chunk: int, length: int, box: int) -> list[int]:
    """Where blocks begin and end along an axis, in elements of the mask: sides about as said, whole chunks if
    they are not far larger."""
    wanted = max(side // scale, 1)
    whole = -(-wanted // chunk) * chunk
    across = whole if whole <= max(4 * wanted, 2 * _SIDE) else wanted
    first = (box // 2 // scale) % across - across
    return sorted({min(max(at, 0), length) for at in range(first, length + across, across)})


def _tally(values: Values, fits: Floats | float) -> list[tuple[Any, float]]:
    """Each value that occurs, with the boxes that have their centre on it."""
    flat = values.reshape(-1)
    each, times = (None, fits) if isinstance(fits, float) else (fits.reshape(-1), 1.0)
    if flat.dtype.kind in "bui":
        low = int(flat.min())
        if int(flat.max()) - low < 1 << 16:  # counted without sorting; what wraps around wraps twice
            sums = np.bincount(flat.astype(np.int64) - flat[flat == low][:1].astype(np.int64), each)
            return [(low + at, float(sums[at]) * times) for at in np.flatnonzero(sums).tolist()]
    found, inverse = np.unique(flat, return_inverse=True)
    totals = np.bincount(inverse.reshape(-1), each)
    return [(value, float(n) * times) for value, n in zip(found.tolist(), totals.tolist(), strict=True)]


def _text(box: Box) -> str:
    return ", ".join(f"{one.start}:{one.stop}" for one in box)
