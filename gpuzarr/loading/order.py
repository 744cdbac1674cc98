"""Which box comes when. The order does not change how often a box is drawn, only what comes near it.

    random    each box by itself, or all of a fixed list shuffled
    blocks    some blocks of the frame are open at a time, and boxes come from these alone, mixed; then others
              are opened. Chunks are read again soon, so a cache holds them.

    box i ─window, shuffled in it→ group ─→ block, drawn by its weight ─→ box in the block

A block is drawn as often as boxes of it would be, and a box in it likewise: every box is as likely as in
random order. What differs is that boxes of one window know of each other, since they lie in few blocks.
`docs/loading.md` has what that amounts to, and `PatchLoader.rehearse` measures it for a loader at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import BLOCK, BOX, SHUFFLE, WINDOW, Int64s, key_of, permuted, unit, words
from gpuzarr.loading.frame import Axes, Space, axes_of, whole
from gpuzarr.loading.samplers import Drawn, Fixed, Made


@dataclass(frozen=True, slots=True)
class Blocks:
    """Boxes in blocks, so that chunks are reused.

    `at_once` blocks are open at a time, and `per_block` boxes come from each (of a fixed list: all that it
    has). `shape` is a block's, in elements of the frame; by default whole chunks, at least twice the box
    along each axis. With several ranks or worker processes, each of which has a cache of its own, `streams`
    says how many: each then has windows of its own. Another number of streams is another order.
    """

    shape: Any = None
    at_once: int = 32
    per_block: int = 16
    streams: int = 1

    def sides(self, space: Space) -> Axes:
        """The shape of a block."""
        if self.shape is not None:
            return axes_of(self.shape, space.ndim, "shape of a block", 1)
        return tuple(
            -(-2 * width // chunk) * chunk for width, chunk in zip(space.box, space.chunks, strict=True)
        )

    def check(self) -> None:
        """Whole numbers of at least 1."""
        for name in ("at_once", "per_block", "streams"):
            whole(name, getattr(self, name), 1)


def order_of(order: Any) -> Blocks | None:
    """What `PatchLoader(order=...)` says; None: random."""
    if order == "random":
        return None
    blocks = Blocks() if order == "blocks" else order
    if not isinstance(blocks, Blocks):
        raise ArgumentError(f"order {order!r} is neither random nor blocks", hint="or an instance of Blocks")
    blocks.check()
    return blocks


class Sequence:
    """The boxes of every epoch, in order."""

    def __init__(self, space: Space, bound: Drawn | Fixed | Made, blocks: Blocks | None, seed: int) -> None:
        self.space, self.bound, self.blocks, self.seed = space, bound, blocks, seed
        self.count = bound.count
        if blocks is not None and isinstance(bound, Made):
            raise ArgumentError('order="blocks" with boxes that a function makes', hint="it knows no blocks")
        if blocks is not None and isinstance(bound, Fixed) and not bound.shuffle:
            raise ArgumentError('order="blocks" shuffles', hint='leave shuffle on, or order="random"')
        if isinstance(bound, Drawn):
            self._sums = np.cumsum(bound.weights)
        elif blocks is not None and isinstance(bound, Fixed):
            self._members = bound.blocks(blocks.sides(space))
        self._tables = _Tables()

    def origins(self, epoch: int, index: Int64s) -> Int64s:
        """The origins [n, d] of boxes [n] of an epoch. Samplers may be a user's own: what they give is
        checked."""
        found = self.space.check(self._origins(epoch, index), index)
        if len(found) != len(index):
            raise ArgumentError(f"the sampler gave {len(found)} boxes where {len(index)} were asked for")
        return found

    def _origins(self, epoch: int, index: Int64s) -> Int64s:
        bound = self.bound
        if isinstance(bound, Drawn):
            return self._drawn(bound, epoch, index)
        if isinstance(bound, Made):
            return bound.made(self.seed, epoch, index)
        if self.blocks is not None:
            return bound.origins(self._in_blocks(self.blocks, epoch, index))
        if bound.shuffle:
            index = permuted(key_of(self.seed, epoch, SHUFFLE), index, self.count)
        return bound.origins(index)

    def _drawn(self, bound: Drawn, epoch: int, index: Int64s) -> Int64s:
        if self.blocks is None:
            own = words(key_of(self.seed, epoch, BOX), index, 1 + bound.words)
            return bound.draw(self._block(own[:, 0]), own[:, 1:])
        many, each = self.blocks.at_once, self.blocks.per_block
        window, place = np.divmod(index, many * each)
        place = permuted(key_of(self.seed, epoch, WINDOW), place, many * each, window)
        group = window * many + place // each
        block = self._block(words(key_of(self.seed, epoch, BLOCK), group, 1)[:, 0])
        own = words(key_of(self.seed, epoch, BOX), window * (many * each) + place, bound.words)
        return bound.draw(block, own)

    def _block(self, word: Any) -> Int64s:
        """A block for each word, by weight."""
        target = unit(word) * self._sums[-1]
        return np.asarray(np.searchsorted(self._sums, target, side="right"), np.int64)

    def _in_blocks(self, blocks: Blocks, epoch: int, index: Int64s) -> Int64s:
        """Of a fixed list: blocks in a new order, `at_once` of them a window, the boxes of a window mixed."""
        table = self._tables.get(epoch, lambda: self._table(blocks, epoch))
        window = np.searchsorted(table.window, index, side="right").astype(np.int64) - 1
        first, size = table.window[window], table.window[window + 1] - table.window[window]
        place = first + permuted(key_of(self.seed, epoch, WINDOW), index - first, size, window)
        at = np.searchsorted(table.first, place, side="right").astype(np.int64) - 1
        return self._members.box(table.block[at], place - table.first[at])

    def _table(self, blocks: Blocks, epoch: int) -> _Table:
        sizes = self._members.sizes
        numbers = np.flatnonzero(sizes).astype(np.int64)
        places = np.arange(len(numbers), dtype=np.int64)
        block = numbers[permuted(key_of(self.seed, epoch, BLOCK), places, len(numbers))]
        ends = np.cumsum(sizes[block])
        first = ends - sizes[block]
        return _Table(block, first, np.append(first[:: blocks.at_once], ends[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """An epoch of a fixed list in blocks."""

    block: Int64s
    """Block numbers, in order."""
    first: Int64s
    """The place of each one's first box."""
    window: Int64s
    """The place of each window's first box, and the end."""


class _Tables:
    """Those of the last two epochs."""

    def __init__(self) -> None:
        self._held: tuple[tuple[int, _Table], ...] = ()

    def get(self, epoch: int, make: Callable[[], _Table]) -> _Table:
        """The table of an epoch. Two threads may make it at the same time; they make the same."""
        for held, table in self._held:
            if held == epoch:
                return table
        table = make()
        self._held = ((epoch, table), *self._held[:1])
        return table

    def __reduce__(self) -> tuple[object, ...]:
        return _Tables, ()
