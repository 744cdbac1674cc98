"""A read whose encoded chunks lie in device memory already: what is left is what the device does.

The engine's own rooms do it: `Loader` fetches and inspects, `Landing` copies into the result, codecs decode
batch by batch. Only the crossing is out of the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks.gpu.machine import Machine
from gpuzarr import ReadStats, config, selection
from gpuzarr.codecs.base import Batch
from gpuzarr.codecs.planes import Shuffled
from gpuzarr.device.base import DeviceBuffer, Lane, Staging
from gpuzarr.engine.crossing import MISSING, Crossing, Loader, notes_before
from gpuzarr.engine.device import device_nbytes
from gpuzarr.engine.landing import Landing, Target
from gpuzarr.engine.planning import make_plan
from gpuzarr.engine.workers import pool

_ALIGN = 256  # of blocks in the arena


@dataclass(frozen=True, slots=True)
class _Part:
    """Chunks that go through one launch a stage."""

    rows: Crossing
    offset: NDArray[np.int64]
    """In the arena."""
    shape: int


class Held:
    """The chunks of a selection of `array`, which is on the machine's device."""

    def __init__(
        self,
        machine: Machine,
        array: gpuzarr.Array,
        key: Any = ...,
        copies: int = 1,
        budget: int | None = None,
    ) -> None:
        """`copies`: sets of encoded chunks, each at addresses of its own, that rounds take in turn.
        `budget`: device memory of one batch; None: all chunks are one."""
        source = array._source
        chosen = selection.basic(key, array.shape)
        self.stats = ReadStats()
        self.plan = make_plan(source, chosen, self.stats)
        self.out = machine.device.empty_array(chosen.result_shape, array.dtype)
        target = Target.of(machine.device, self.out, chosen, array.dtype.itemsize)
        self.landing = Landing(source.meta, self.plan, target)
        self.chains = self.landing.chains
        staging = machine.device.staging()
        found = load(Loader(source, self.plan, self.stats), staging)
        if np.any(found.stage == MISSING):
            raise ValueError("chunks are missing")
        self._lane = machine.device.lane()  # never reset: its arena is what is held
        starts = {base: 0 for base, _ in staging.blocks}
        at = 0
        for base, block in staging.blocks:
            starts[base], at = at, at + -(-block.nbytes // _ALIGN) * _ALIGN
        self.arenas = [self._fill(staging, starts, at) for _ in range(copies)]
        self._lane.synchronize()
        bases = np.array(list(starts), np.int64)
        of = np.searchsorted(bases, found.position, "right") - 1
        offset = found.position - bases[of] + np.array(list(starts.values()), np.int64)[of]
        staging.reset()
        self.parts = list(self._cut(found, offset, budget))
        self.encoded_nbytes = int(found.nbytes.sum())
        self.decoded_nbytes = sum(
            (self.chains[part.shape].spec.nbytes or 0) * len(part.offset) for part in self.parts
        )
        self.on_host = self.stats.on_host

    def _fill(self, staging: Staging, starts: dict[int, int], nbytes: int) -> DeviceBuffer:
        arena = self._lane.empty(nbytes)
        for base, block in staging.blocks:
            self._lane.upload(block, arena.part(starts[base], block.nbytes))
        return arena

    def _cut(self, found: Crossing, offset: NDArray[np.int64], budget: int | None) -> Iterator[_Part]:
        shape = self.plan.shape[found.rows]
        for one, stage in sorted(set(zip(shape.tolist(), found.stage.tolist(), strict=True))):
            chosen = np.flatnonzero((shape == one) & (found.stage == stage))
            cost = device_nbytes(self.chains[one]) + int(found.nbytes[chosen].max())
            many = len(chosen) if budget is None else max(budget // max(cost, 1), 1)
            for begin in range(0, len(chosen), many):
                part = chosen[begin : begin + many]
                yield _Part(found.part(part), offset[part], one)

    def queue(self, lane: Lane, turn: int = 0) -> None:
        """Decode all chunks into the result, as the engine does."""
        arena = self.arenas[turn % len(self.arenas)]
        for part in self.parts:
            chain = self.chains[part.shape]
            batch = Batch(arena, part.offset, part.rows.nbytes)
            for position in range(int(part.rows.stage[0]), len(chain.stages)):
                stage = chain.stages[position]
                column = notes_before(chain, position)
                notes = np.ascontiguousarray(part.rows.notes[:, column : column + stage.codec.notes])
                decode = stage.codec.decode_batch
                last = position + 1 == len(chain.stages)
                if last and self.landing.fused[part.shape] and isinstance(stage.codec, Shuffled):
                    decode = stage.codec.decode_planes
                batch = decode(replace(batch, notes=notes), stage.decoded, lane)
            self.landing.scatter(lane, part.rows.rows, part.shape, batch)


def load(loader: Loader, staging: Staging, first: int = 0, last: int | None = None) -> Crossing:
    """Fetch requests into staging memory on the pool's threads, as a wave does."""
    last = loader.plan.requests if last is None else last
    traits = loader.source.store.traits
    most = traits.concurrency if traits.concurrency > 1 else 64
    step = min(max(-(-(last - first) // config.current().threads), 1), most)
    tasks = [
        partial(loader.load, at, min(at + step, last), staging, False) for at in range(first, last, step)
    ]
    futures = [pool().submit(task) for task in tasks]
    return Crossing.joined([future.result() for future in futures])
