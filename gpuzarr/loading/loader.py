"""`PatchLoader`: batches of patches, in an order that follows from a seed, read ahead by threads.

A loader is a position, epoch × batches of an epoch + batch, and what makes the batch at any position
(`batches`). Loops move it; `state_dict` is no more than that.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from gpuzarr.array import Array
from gpuzarr.errors import ArgumentError
from gpuzarr.loading.batches import Batches
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.frame import Space, arrays_of, lay_out, whole
from gpuzarr.loading.loop import Loop, Reading, Tally
from gpuzarr.loading.numbering import Numbering
from gpuzarr.loading.order import Blocks, order_of
from gpuzarr.loading.order import Sequence as Boxes
from gpuzarr.loading.reading import Empty, Modify, Transform
from gpuzarr.loading.rehearsal import Rehearsal, rehearse
from gpuzarr.loading.samplers import Custom, Listed, Sampler, Uniform
from gpuzarr.loading.state import identity, position_of, state_of
from gpuzarr.loading.stats import LoaderStats


class PatchLoader:
    """Batches of boxes from one array, or from several that lie over each other.

        loader = PatchLoader({"image": image, "label": label}, (64, 64, 64), 32, sampler=Balanced(label))
        for batch in loader:          # one epoch; the next loop is the next epoch
            batch["image"]            # [32, 64, 64, 64]; [32, c, 64, 64, 64] of an array (c, z, y, x)

    `arrays` is an Array, and batches are arrays; or a mapping of names to Arrays, and batches are dicts.
    `shape` is that of a box along the last axes of every array, in elements of the first one. Batches lie
    where the arrays say, on the host or on a device.

    What is taken, for all arrays or by name:
    `scale`     elements of the first array that one of this array covers, an int or one for each axis
    `margin`    elements of the array by which its boxes are wider on each side
    `channels`  of the axes before the box's: None takes all, a slice, an index or a list some; a tuple has
                one of these for each such axis. Axes stay
    `mode`      what lies over the edge: "error" keeps boxes inside; "constant" (`fill`, by default the
                array's own), "edge", "reflect", "wrap"
    `overhang`  elements by which boxes may then reach over the edge
    `dtype`     float16, float32 or float64, by default the array's own
    `rescale`   values are multiplied by it; a pair: by its first number, and the second is added

    Which boxes, and when: `sampler` is one of `gpuzarr.loading`, by default Uniform; or a function
    `f(rng, space)` that makes an origin; or a list of origins. `order` is "random", or "blocks" or a
    `Blocks`, which reuses chunks. Rank `rank` of `world_size` takes every `world_size`-th batch; all ranks
    have equally many. `endless` goes on with the next epoch by itself; `drop_last` leaves a smaller last
    batch out.

    How: `prefetch` batches are read ahead, so that `prefetch` + 1 are in memory; 0 reads when asked.
    `threads` of them are read at a time, by default two, or one with a cache; each read has all of the
    engine's threads. Batches are fresh arrays; with `reuse` they are those of earlier batches, and hold until
    the next one is asked for. `empty(shape, dtype)` makes the arrays of host batches, in pinned memory say.
    `retries` is how often a read is tried again when the store failed; then its error is raised. `cache`
    keeps decoded chunks, within the settings `cache_nbytes` and `device_cache_nbytes`; by default it does
    so in blocks.

    `to` is called with each array: `torch.from_dlpack`. `transform(batch, rng)` makes of a batch what is
    handed out, with a generator of the batch's own. Both run in the reading threads; for batches on a device,
    on the thread that asks, in front of what it does next. `with_origins` adds the boxes' origins to each
    dict, as "origins", int64[n, d]. `progress` shows a bar.
    """

    def __init__(
        self,
        arrays: Array | Mapping[str, Array],
        shape: Sequence[int],
        batch_size: int,
        *,
        sampler: Any = None,
        order: str | Blocks = "random",
        scale: Any = None,
        margin: Any = None,
        channels: Any = None,
        mode: Any = None,
        fill: Any = None,
        dtype: Any = None,
        rescale: Any = None,
        overhang: Any = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        endless: bool = False,
        drop_last: bool = False,
        prefetch: int = 2,
        threads: int | None = None,
        reuse: bool = False,
        empty: Empty | None = None,
        retries: int = 0,
        cache: bool | None = None,
        to: Modify | None = None,
        transform: Transform | None = None,
        with_origins: bool = False,
        progress: bool = False,
    ) -> None:
        seed, retries, ahead = (
            whole("seed", seed, 0),
            whole("retries", retries, 0),
            whole("prefetch", prefetch, 0),
        )
        blocks = order_of(order)
        keeps = blocks is not None if cache is None else bool(cache)
        # Batches that are read at the same time decode the same chunks, which one of them could keep.
        readers = (1 if keeps else 2) if threads is None else whole("threads", threads, 1)
        named, bare = arrays_of(arrays), not isinstance(arrays, Mapping)
        if with_origins and (bare or "origins" in named):
            raise ArgumentError(
                "with_origins needs a dict to put them in, without an array of that name",
                hint='give the array a name: {"image": array}',
            )
        options = {"scale": scale, "margin": margin, "channels": channels, "mode": mode, "fill": fill}
        options |= {"dtype": dtype, "rescale": rescale}
        space, parts = lay_out(named, shape, overhang=overhang, **options)
        ranks = whole("batch_size", batch_size, 1), bool(drop_last), rank, world_size
        self.sampler = _sampler(sampler)
        bound = self.sampler.bind(space, blocks.sides(space) if blocks else None)
        self.batches = Batches(
            space=space,
            parts=parts,
            boxes=Boxes(space, bound, blocks, seed),
            numbering=Numbering(bound.count, *ranks, blocks.streams if blocks else 1),
            seed=seed,
            bare=bare,
            with_origins=with_origins,
            empty=empty,
            cache=keeps,
            retries=retries,
            to=to,
            transform=transform,
        )
        self.order = repr(blocks) if blocks else "random"
        self.endless = bool(endless)
        self.stats = LoaderStats()
        self.reading = Reading(ahead, readers, bool(reuse))
        self._progress = bool(progress)
        self._position = 0
        self._stands = True  # the next loop begins at the position, and not with an epoch
        self._loop: weakref.ref[Loop] | None = None

    # ---- loops

    def __iter__(self) -> Loop:
        """A loop over one epoch, or without end: the epoch after the last one that was begun. Behind
        `load_state_dict`, and behind an error, it begins with the batch that was not handed out."""
        loop = self.loop(self.start())
        self._loop = weakref.ref(loop)
        return loop

    def start(self) -> int:
        """The position at which a loop begins now. The one that is under way ends."""
        self.close()
        if not self._stands:
            length = self.batches.length
            self.moved(-(-self._position // length) * length, True)
        return self._position

    def loop(self, first: int, step: int = 1, stop: int | None = None) -> Loop:
        """A loop over every `step`-th batch from the position `first` on, up to `stop`, by default the end of
        its epoch; without end if the loader has none. It is not ended by other loops."""
        length = self.batches.length
        end = stop if stop is not None else (first // length + 1) * length
        positions = first, None if self.endless else end, step
        return Loop(self.batches, positions, self.stats, self.moved, self.reading, self._progress)

    def tally(self) -> Tally:
        """Counts batches of this loader that come by another way than a loop of its own."""
        return Tally(self.batches, self.stats, self._progress)

    def moved(self, position: int, stands: bool = False) -> None:
        """The batch at `position` is the next one. If the loader `stands`, the next loop begins with it, and
        not with an epoch."""
        self._position, self._stands = position, stands

    def __len__(self) -> int:
        """Batches of an epoch, of this rank."""
        if self.endless:
            raise TypeError("an endless loader has no length")
        return self.batches.length

    @property
    def position(self) -> int:
        """Where the next batch is: its epoch × batches of an epoch + its number."""
        return self._position

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._position // self.batches.length

    @property
    def batch_size(self) -> int:
        """Boxes of a batch; the last one of an epoch may have fewer."""
        return self.batches.numbering.batch_size

    @property
    def boxes(self) -> int:
        """Boxes of an epoch, of all ranks."""
        return self.batches.numbering.count

    @property
    def space(self) -> Space:
        """Where boxes may lie."""
        return self.batches.space

    def set_epoch(self, epoch: int) -> None:
        """Begin the next loop with this epoch."""
        first = whole("epoch", epoch, 0)
        self.close()
        self.moved(first * self.batches.length, True)

    def close(self) -> None:
        """End the loop that is under way, and its threads."""
        loop = self._loop() if self._loop is not None else None
        self._loop = None
        if loop is not None:
            loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: behind the last batch that was handed out, whatever was read ahead. Plain
        values, the same on every rank."""
        return state_of(identity(self.batches, self.sampler, self.order), self._position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where the loader of `state` stood: the next loop hands out what that one would have. Raises
        ArgumentError for the state of a loader with other boxes."""
        position = position_of(state, identity(self.batches, self.sampler, self.order))
        self.close()
        self.moved(position, True)

    # ---- batches by number

    def origins(self, number: int, epoch: int = 0) -> Int64s:
        """The origins [n, d] of this rank's batch `number` of an epoch, in elements of the first array."""
        return self.batches.origins(number, epoch)

    def batch(self, number: int, epoch: int = 0) -> Any:
        """Batch `number` of an epoch as a loop hands it out, read now."""
        origins = self.batches.origins(number, epoch)
        return self.batches.finished(self.batches.read(origins, self.stats), origins, epoch, number)

    def rehearse(self, batches: int = 100, cache_nbytes: int = 1 << 30) -> Rehearsal:
        """What the order costs and how much batches repeat themselves, for the first batches of epoch 0,
        without reading them. Print it."""
        origins = (self.origins(number) for number in range(min(batches, self.batches.length)))
        return rehearse(self.batches.parts, origins, cache_nbytes)

    def for_rank(self, rank: int, world_size: int) -> PatchLoader:
        """The same loader for another rank, standing where this one does, with counts of its own. Rank 0
        alone shows a bar."""
        other = copy.copy(self)
        other.batches = self.batches.for_rank(rank, world_size)
        other.load_state_dict(self.state_dict())
        other._stands, other._progress = self._stands, self._progress and rank == 0
        return other

    def __getstate__(self) -> dict[str, Any]:
        """A copy, here or in another process, has loops and counts of its own."""
        return {**self.__dict__, "_loop": None, "stats": LoaderStats(), "_progress": False}

    def __repr__(self) -> str:
        numbering, parts = self.batches.numbering, self.batches.parts
        names = ", ".join(f"{part.name or part.array.name} {part.shape}" for part in parts)
        rank = f", rank {numbering.rank} of {numbering.world_size}" if numbering.world_size > 1 else ""
        epoch = f"{numbering.length:,} batches an epoch, of {numbering.batch_size} × {names}"
        return f"<gpuzarr.PatchLoader: {epoch}; {type(self.sampler).__name__}, order {self.order}{rank}>"


def _sampler(sampler: Any) -> Sampler:
    """A sampler, from one, a function or a list of origins."""
    if sampler is None:
        return Uniform()
    if isinstance(sampler, Sampler):
        return sampler
    return Custom(sampler) if callable(sampler) else Listed(sampler)
