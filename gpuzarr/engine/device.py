"""Reading onto a device, in waves.

    fetch wave k+1, host stages   | threads of the pool, into staging memory (engine/crossing.py)
    one crossing                  | lane of wave k
    device stages, fused scatter  | lane of wave k: one launch a stage for all its chunks

Stages up to the last one without a device form run on the host; what they give crosses once. Chunks that
cross in front of the same stage go on together. Waves are cut to a memory budget that two of them share: one
is decoded while the next is launched and the one behind it fetched. A wave is synchronised once, when its
lane is needed again; the host then decodes what the device could not, and has the last word on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import Batch
from gpuzarr.codecs.chain import Chain
from gpuzarr.codecs.planes import Shuffled
from gpuzarr.device.base import Device, Lane, Staging
from gpuzarr.engine.crossing import (
    MISSING,
    Crossing,
    Loader,
    check_promised,
    decode_to,
    notes_before,
    promised,
)
from gpuzarr.engine.direct import Direct, Slot
from gpuzarr.engine.fetch import chunk_name
from gpuzarr.engine.landing import Landing, Target
from gpuzarr.engine.planning import make_plan
from gpuzarr.engine.route import estimate
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import on_worker, pool
from gpuzarr.errors import ArgumentError, GpuzarrError, UnsupportedError
from gpuzarr.plan.table import ABSENT, Int64s, Plan, unsized
from gpuzarr.selection import Selection

_ALIGN = 16  # of each chunk in the arena, so that kernels may load wide
_TILE = 64 << 10  # bytes of a chunk that one block copies
MOST_GROUPS = 16  # what kernels/scatter.cu is made for
_TOGETHER = 64  # objects that one task opens

Result = TypeVar("Result")


def read_device(source: Source, selection: Selection, out: Any, stats: ReadStats, device: Device) -> Any:
    """The selected elements in an array of the device, in `out` if one is given."""
    form, within = device.form(source.meta.dtype)
    if out is None:
        out = device.empty_array(selection.result_shape, source.meta.dtype)
    elif not device.owns(out):
        raise ArgumentError(f"out is a {type(out).__name__}, not an array on {device.name}")
    elif tuple(out.shape) != selection.result_shape + within:
        raise ArgumentError(f"out has shape {tuple(out.shape)}, not {selection.result_shape + within}")
    elif out.dtype != form:
        raise ArgumentError(f"out has type {out.dtype}, not {form}", hint="cast after reading")
    if not selection.size:
        return out
    if len(selection.groups) > MOST_GROUPS:
        raise UnsupportedError(f"over {MOST_GROUPS} dimensions on {device.name}", hint='use device="cpu"')
    target = Target.of(device, out, selection, source.meta.dtype.itemsize)
    plan = make_plan(source, selection, stats)
    if len(plan):
        Waves(source, plan, Landing(source.meta, plan, target), stats, device).run()
    return out


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch whose work is queued on a lane."""

    lane: Lane
    batch: Crossing
    """Of the chunks that crossed, in their order."""
    slot: Slot
    last: bool
    """Nothing else of its wave comes behind it: then the wave's memory is free."""


class Waves:
    """The waves of one read."""

    def __init__(
        self, source: Source, plan: Plan, landing: Landing, stats: ReadStats, device: Device
    ) -> None:
        self.source, self.plan, self.landing, self.stats, self.device = source, plan, landing, stats, device
        self.loader = Loader(source, plan, stats)
        self.chains = self.loader.chains
        self.budget = wave_budget(device)
        self.direct = Direct(self.loader, device, self.budget)

    def run(self) -> None:
        """Every wave; the next is fetched while one is launched and another decoded."""
        cuts = self._cuts()
        lanes = [self.device.lane(), self.device.lane()]
        slots = [Slot(self.device.staging()) for _ in range(min(len(cuts), 3))]
        free = slots.copy()
        queued: list[_Launched] = []
        slot = free.pop()
        ahead = self._start(*cuts[0], slot)
        try:
            for position in range(len(cuts)):
                wave, current = Crossing.joined([future.result() for future in ahead]), slot
                ahead = []
                if position + 1 < len(cuts):
                    while not free:
                        self._finish(queued.pop(0), free)
                    slot = free.pop()
                    ahead = self._start(*cuts[position + 1], slot)
                batches = list(self._batches(wave))
                for i, batch in enumerate(batches):
                    if len(queued) == len(lanes):
                        self._finish(queued.pop(0), free)
                    lane = lanes[0] if not queued or queued[-1].lane is lanes[1] else lanes[1]
                    crossed = batch.part(np.flatnonzero(batch.stage != MISSING))
                    queued.append(_Launched(lane, crossed, current, i + 1 == len(batches)))
                    self._launch(lane, batch, crossed, current)
                    held = sum(one.lane.nbytes for one in queued) + sum(one.nbytes for one in slots)
                    self.stats.add(waves=1, peak_device_bytes=held)
            while queued:
                self._finish(queued.pop(0), free)
        finally:
            for future in ahead:
                future.cancel() or future.exception()
            for one in queued:  # only after an error: leave no work behind that writes into freed memory
                one.lane.synchronize()
                one.lane.reset()

    def _cuts(self) -> list[tuple[int, int]]:
        """Rows [first, last) of each wave, cut between requests by what the chunks are expected to take."""
        plan = self.plan
        sizes = np.array([max(chain.spec.limit, 1) for chain in self.chains], np.int64)
        encoded = np.where(unsized(plan.nbytes), sizes[plan.shape], np.maximum(plan.nbytes, 0))
        upto = np.concatenate((np.zeros(1), np.cumsum(self._cost(np.arange(len(plan)), encoded))))
        ends = np.append(plan.request, len(plan)) if plan.request[-1] < len(plan) else plan.request
        wave = upto[ends[:-1]] // self.budget
        starts = ends[:-1][np.flatnonzero(np.diff(wave, prepend=-1.0))]
        return list(pairwise([*starts.tolist(), len(plan)]))

    def _cost(self, rows: Int64s, payload_nbytes: Int64s) -> NDArray[np.float64]:
        """Device bytes that each row takes, aligned: its payload and what each device stage makes of it."""
        grown = np.array([device_nbytes(chain) for chain in self.chains], np.float64)[self.plan.shape[rows]]
        columns = 8 * (6 + 3 * len(self.landing.target.strides))
        present = self.plan.nbytes[rows] != ABSENT
        cost: NDArray[np.float64] = (grown + payload_nbytes + _ALIGN) * present + columns
        return cost

    def _start(self, first: int, last: int, slot: Slot) -> list[Future[Crossing]]:
        """Fetch the rows of a wave on the pool's threads, and run their host stages."""
        plan = self.plan
        lo, hi = np.searchsorted(plan.request, [first, last]).tolist()
        hi = min(hi, plan.requests)
        lo = min(lo, hi)
        traits = self.source.store.traits
        most = traits.concurrency if traits.concurrency > 1 else _TOGETHER
        step = min(max(-(-(hi - lo) // config.current().threads), 1), most)
        host = host_is_sooner(self.device, self.plan, self.chains, first, last)
        direct = None if host else self.direct.task(lo, hi, slot)
        tasks = [
            partial(self.loader.load, at, min(at + step, hi), slot.staging, host)
            for at in range(lo, hi, step)
        ]
        futures = [_submitted(task) for task in ([direct] if direct else tasks)]
        absent = max(int(plan.request[hi]), first)
        if absent < last:  # rows behind the last request
            done: Future[Crossing] = Future()
            done.set_result(Crossing.missing(np.arange(absent, last), self.loader.notes))
            futures.append(done)
        return futures

    def _batches(self, wave: Crossing) -> Iterator[Crossing]:
        """A wave's rows by chunk shape and next stage, cut once more now that the sizes are known."""
        shape = self.plan.shape[wave.rows]
        usual = np.array([chain.device_from for chain in self.chains], np.int64)[shape]
        stage = np.where(wave.stage == MISSING, usual, wave.stage)
        kinds, kind = np.unique([shape, stage], axis=1, return_inverse=True)
        for one in range(kinds.shape[1]):
            chosen = np.flatnonzero(kind.reshape(-1) == one)
            chosen = chosen[np.argsort(wave.position[chosen], kind="stable")]  # so that batches do not mix
            upto = np.cumsum(self._cost(wave.rows[chosen], wave.nbytes[chosen]))
            while len(chosen):
                many = max(int(np.searchsorted(upto, self.budget, side="right")), 1)
                yield wave.part(chosen[:many])
                chosen, upto = chosen[many:], upto[many:] - upto[many - 1]

    def _launch(self, lane: Lane, rows: Crossing, crossed: Crossing, slot: Slot) -> None:
        """Queue one batch: its crossing, its device stages, its scatter."""
        shape = int(self.plan.shape[rows.rows[0]])
        chain = self.chains[shape]
        if len(crossed.rows):
            if slot.encoded is None:
                batch = self._cross(lane, crossed, slot.staging)
            else:
                batch = Batch(slot.encoded, crossed.position, crossed.nbytes)
            for position in range(int(crossed.stage[0]), len(chain.stages)):
                stage = chain.stages[position]
                column = notes_before(chain, position)
                notes = np.ascontiguousarray(crossed.notes[:, column : column + stage.codec.notes])
                decode = stage.codec.decode_batch
                is_last = position + 1 == len(chain.stages)
                if is_last and self.landing.fused[shape] and isinstance(stage.codec, Shuffled):
                    decode = stage.codec.decode_planes
                try:
                    batch = decode(replace(batch, notes=notes), stage.decoded, lane)
                except GpuzarrError as error:
                    self.source.located(error.located(codec=stage.name))
                    raise
            self.landing.scatter(lane, crossed.rows, shape, batch)
        missing = rows.rows[rows.stage == MISSING]
        if len(missing):
            self.landing.fill(lane, missing, shape)
        lane.submit()
        self.stats.add(chunks=len(crossed.rows), filled=len(missing))

    def _cross(self, lane: Lane, crossed: Crossing, staging: Staging) -> Batch:
        """The chunks in device memory: with one copy of each block of staging memory that they fill."""
        position, nbytes = crossed.position, crossed.nbytes
        blocks = staging.blocks
        bases = np.array([base for base, _ in blocks], np.int64)
        of = np.searchsorted(bases, position, "right") - 1
        used = np.unique(of).tolist()
        begins = {b: int(position[of == b].min()) // _ALIGN * _ALIGN for b in used}
        ends = {b: int((position + nbytes)[of == b].max()) for b in used}
        span = sum(ends[b] - begins[b] for b in used)
        total = int(nbytes.sum())
        if span > total + total // 8 + _ALIGN * len(position):  # too much of it belongs to other batches
            upto = np.cumsum(_aligned(nbytes))
            _, memory = staging.take(int(upto[-1]))
            for i, at in enumerate((upto - _aligned(nbytes)).tolist()):
                b = int(of[i])
                begin = int(position[i]) - blocks[b][0]
                memory[at : at + int(nbytes[i])] = blocks[b][1][begin : begin + int(nbytes[i])]
            self.stats.add(bytes_crossed=memory.nbytes)
            return Batch(lane.upload(memory), upto - _aligned(nbytes), nbytes)
        arena = lane.empty(sum(int(_aligned(ends[b] - begins[b])) for b in used))
        offset, at = np.empty(len(position), np.int64), 0
        for b in used:
            part = blocks[b][1][begins[b] - blocks[b][0] : ends[b] - blocks[b][0]]
            lane.upload(part, arena.part(at, part.nbytes))
            offset[of == b] = position[of == b] - begins[b] + at
            at += int(_aligned(part.nbytes))
        self.stats.add(bytes_crossed=span)
        return Batch(arena, offset, nbytes)

    def _finish(self, one: _Launched, free: list[Slot]) -> None:
        """Wait for a batch, and let the host decode what the device could not."""
        one.lane.synchronize()
        faults = one.lane.take_faults()
        one.lane.reset()
        if len(faults):
            self._again(one, one.batch.part(faults))
        if one.last:
            one.slot.reset()
            free.append(one.slot)

    def _again(self, one: _Launched, faults: Crossing) -> None:
        """Decode on the host what the device could not, and put it in its place, or raise what is wrong."""
        shape = int(self.plan.shape[faults.rows[0]])
        chain, staging = self.chains[shape], one.slot.staging
        faults = self._back(one, faults)
        blocks, last = staging.blocks, len(chain.stages)

        def decode(i: int) -> int:
            base, block = next(found for found in reversed(blocks) if found[0] <= faults.position[i])
            begin = int(faults.position[i]) - base
            stored = block[begin : begin + int(faults.nbytes[i])]
            try:
                position, nbytes = decode_to(chain, stored, int(faults.stage[i]), last, staging)
                check_promised(chain, last, nbytes)
                return position
            except GpuzarrError as error:
                row = int(faults.rows[i])
                key = self.source.key(self.plan.objects[self.plan.key[row]].tolist())
                self.source.located(error, chunk_name(self.plan, row, key))
                raise

        tasks = [_submitted(partial(decode, i)) for i in range(len(faults.rows))]
        decoded = np.array([task.result() for task in tasks], np.int64)
        size = np.full(len(decoded), promised(chain, last), np.int64)
        whole = replace(faults, position=decoded, nbytes=size)
        self.stats.add(on_host=len(decoded))
        batch = self._cross(one.lane, whole, staging)
        self.landing.scatter(one.lane, whole.rows, shape, batch)
        one.lane.synchronize()
        one.lane.reset()

    def _back(self, one: _Launched, faults: Crossing) -> Crossing:
        """Chunks in staging memory, as the host sees them: what was read directly has to come back for
        that."""
        encoded = one.slot.encoded
        if encoded is None:
            return faults
        placed = [one.slot.staging.take(nbytes) for nbytes in faults.nbytes.tolist()]
        for at, (_, memory) in zip(faults.position.tolist(), placed, strict=True):
            one.lane.download(encoded.part(at, memory.nbytes), memory)
        one.lane.synchronize()
        one.lane.reset()
        return replace(faults, position=np.array([position for position, _ in placed], np.int64))


def host_is_sooner(device: Device, plan: Plan, chains: Sequence[Chain], first: int, last: int) -> bool:
    """Whether the host decodes the rows from `first` up to `last` of a plan, though the device could."""
    if config.current().strict or not device.timed:
        return False
    present = plan.shape[first:last][plan.nbytes[first:last] != ABSENT]
    counts = np.bincount(present, minlength=len(chains)).tolist()
    each = [estimate(chain, count) for chain, count in zip(chains, counts, strict=True) if count]
    return sum(one.host for one in each) < sum(one.device for one in each)


def _submitted(task: Callable[[], Result]) -> Future[Result]:
    """Run on the pool, or right here where this is one of its threads, which must not wait for another."""
    if not on_worker():
        return pool().submit(task)
    done: Future[Result] = Future()
    done.set_result(task())
    return done


def wave_budget(device: Device) -> int:
    """Device memory for one wave; two are there at a time."""
    return max((config.current().wave_nbytes or device.wave_nbytes) // 2, 1)


def device_nbytes(chain: Chain) -> int:
    """Device memory that the device stages of one chunk take: what they make of it, and their scratch."""
    stages = chain.stages[chain.device_from :]
    return sum(
        int(_aligned(one.decoded.nbytes or 0) + _aligned(one.codec.scratch(one.decoded))) for one in stages
    )


def _aligned(nbytes: Any) -> Any:
    return (nbytes + _ALIGN - 1) // _ALIGN * _ALIGN
