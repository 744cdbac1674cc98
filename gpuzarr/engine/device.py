"""Reading onto a device, in waves.

    fetch wave k+1, host stages   | threads of the pool
    one crossing                  | lane of wave k
    device stages, fused scatter  | lane of wave k: one launch a stage for all its chunks

Stages up to the last one without a device form run on the host; what they give crosses once. A codec may look
at a chunk before it crosses, to note what its launch has to know, or to leave this one chunk to the host: the
chunks that cross in front of the same stage go on together. Waves are cut to a memory budget that two of them
share: one is decoded while the other is fetched. A wave is synchronised once, when its lane is needed again;
what kernels found wrong is raised then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import Batch, Buffer, as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Device, DeviceBuffer, Lane
from gpuzarr.engine.fetch import Rows
from gpuzarr.engine.planning import check_out, make_plan
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import on_worker, pool
from gpuzarr.errors import ArgumentError, ChecksumError, ChunkError, GpuzarrError, UnsupportedError
from gpuzarr.plan.table import ABSENT, WHOLE, Int64s, Plan
from gpuzarr.selection import Selection, Span

_ALIGN = 16  # of each chunk in the arena, so that kernels may load wide
_TILE = 64 << 10  # bytes of a chunk that one block copies
_MOST_GROUPS = 16  # what kernels/scatter.cu is made for


@dataclass(frozen=True, slots=True)
class Payload:
    """A chunk after its host stages. The device goes on at `stage`."""

    data: NDArray[np.uint8]
    stage: int
    notes: tuple[int, ...]
    """Of all stages from there on that inspect chunks."""


def read_device(source: Source, selection: Selection, out: Any, stats: ReadStats, device: Device) -> Any:
    """The selected elements in an array of the device, in `out` if one is given."""
    dtype = source.meta.dtype
    if out is None:
        out = device.empty_array(selection.result_shape, dtype)
    elif not device.owns(out):
        raise ArgumentError(f"out is a {type(out).__name__}, not an array on {device.name}")
    else:
        check_out(out, selection, dtype)
        if out.dtype != dtype:
            raise ArgumentError(f"out has type {out.dtype}, the array {dtype}", hint="cast after reading")
    if not selection.size:
        return out
    if len(selection.groups) > _MOST_GROUPS:
        raise UnsupportedError(f"over {_MOST_GROUPS} dimensions on {device.name}", hint='use device="cpu"')
    target = _Target.of(device, out, selection)
    plan = make_plan(source, selection, stats)
    if len(plan):
        _Waves(source, plan, target, stats, device).run()
    return out


@dataclass(frozen=True, slots=True)
class _Target:
    """The flat result in device memory: byte `base` of `buffer`, `strides` in bytes a group."""

    buffer: DeviceBuffer
    base: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, device: Device, array: Any, selection: Selection) -> _Target:
        buffer, offset, strides = device.memory(array)
        # NumPy works the strides out, on an array of the same geometry that is never touched.
        shadow = np.lib.stride_tricks.as_strided(
            np.empty(1, f"V{array.dtype.itemsize}"), array.shape, strides, writeable=False
        )
        flat = selection.flat_view(shadow)
        if flat is None:
            raise ArgumentError(f"out's strides do not fit a selection of shape {selection.result_shape}")
        moved = flat.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
        return cls(buffer, offset + moved, flat.strides)


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch whose work is queued on a lane."""

    lane: Lane
    rows: Int64s
    """Of the chunks that crossed, in the order of the batch."""


class _Waves:
    def __init__(self, source: Source, plan: Plan, target: _Target, stats: ReadStats, device: Device) -> None:
        self.source, self.plan, self.target, self.stats, self.device = source, plan, target, stats, device
        self.chains = [source.meta.chain(shape) for shape in plan.shapes]
        self.budget = max(config.current().wave_nbytes // 2, 1)
        self.points = [self._point_tables(chain) for chain in self.chains]

    def run(self) -> None:
        """Every wave; the next is fetched while one is decoded."""
        cuts = self._cuts()
        lanes = [self.device.lane(), self.device.lane()]
        queued: list[_Launched] = []
        ahead = self._start(*cuts[0])
        try:
            for position in range(len(cuts)):
                payloads = [one for future in ahead for one in future.result()]
                ahead = self._start(*cuts[position + 1]) if position + 1 < len(cuts) else []
                first, last = cuts[position]
                for rows, batch in self._batches(np.arange(first, last), payloads):
                    if len(queued) == len(lanes):
                        self._finish(queued.pop(0))
                    lane = lanes[0] if not queued or queued[-1].lane is lanes[1] else lanes[1]
                    queued.append(_Launched(lane, rows[[one is not None for one in batch]]))
                    self._launch(lane, rows, batch)
                    self.stats.add(waves=1, peak_device_bytes=sum(one.lane.nbytes for one in queued))
            while queued:
                self._finish(queued.pop(0))
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
        encoded = np.where(plan.nbytes == WHOLE, sizes[plan.shape], np.maximum(plan.nbytes, 0))
        upto = np.concatenate((np.zeros(1), np.cumsum(self._cost(np.arange(len(plan)), encoded))))
        ends = np.append(plan.request, len(plan)) if plan.request[-1] < len(plan) else plan.request
        wave = upto[ends[:-1]] // self.budget
        starts = ends[:-1][np.flatnonzero(np.diff(wave, prepend=-1.0))]
        return list(pairwise([*starts.tolist(), len(plan)]))

    def _cost(self, rows: Int64s, payload_nbytes: Int64s) -> NDArray[np.float64]:
        """Device bytes that each row takes, aligned: its payload and what each device stage makes of it."""
        grown = np.array([device_nbytes(chain) for chain in self.chains], np.float64)[self.plan.shape[rows]]
        columns = 8 * (6 + 3 * len(self.target.strides))
        present = self.plan.nbytes[rows] != ABSENT
        cost: NDArray[np.float64] = (grown + payload_nbytes + _ALIGN) * present + columns
        return cost

    def _start(self, first: int, last: int) -> list[Future[list[Payload | None]]]:
        """Fetch the rows of a wave on the pool's threads, and run their host stages."""
        plan = self.plan
        lo, hi = np.searchsorted(plan.request, [first, last]).tolist()
        hi = min(hi, plan.requests)
        lo = min(lo, hi)
        most = self.source.store.traits.concurrency if self.source.store.traits.concurrency > 1 else 16
        step = min(max(-(-(hi - lo) // config.current().threads), 1), most)
        futures = [_submitted(self._fetch, at, min(at + step, hi)) for at in range(lo, hi, step)]
        absent = last - max(int(plan.request[hi]), first)
        if absent > 0:  # rows behind the last request
            done: Future[list[Payload | None]] = Future()
            done.set_result([None] * absent)
            futures.append(done)
        return futures

    def _fetch(self, first: int, last: int) -> list[Payload | None]:
        """The rows of the requests from `first` up to `last`, after their host stages; None: missing."""
        rows = Rows(self.source, self.plan, first, last)
        payloads: list[Payload | None] = []
        for row, key, stored, _ in rows.fetch(0, len(rows.requests), self.stats, _memory):
            try:
                payloads.append(None if stored is None else self._host_stages(rows.shape[row], stored))
            except GpuzarrError as error:
                self.source.located(error, rows.name(row, key))
                raise
        return payloads

    def _host_stages(self, shape: int, part: memoryview) -> Payload:
        """One chunk as it crosses to the device."""
        chain = self.chains[shape]
        value, first, notes = _inspected(chain, part)
        if first < len(chain.stages):
            stage = chain.stages[first]
            expected = stage.codec.encoded(stage.decoded).nbytes
            if expected is not None and as_bytes(value).nbytes != expected:
                raise ChunkError(
                    f"{as_bytes(value).nbytes} bytes where {expected} are promised", codec=stage.name
                )
        elif chain.swap is None:  # no device form of this layout: the host applies it
            value = np.ascontiguousarray(chain.arranged(value), chain.spec.dtype)
        else:
            chain.arranged(value)  # checks the size
        return Payload(as_bytes(value), first, notes)

    def _batches(
        self, rows: Int64s, payloads: list[Payload | None]
    ) -> Iterator[tuple[Int64s, list[Payload | None]]]:
        """A wave's rows by chunk shape and next stage, cut once more now that the sizes are known."""
        nbytes = np.array([0 if one is None else one.data.nbytes for one in payloads], np.int64)
        shape = self.plan.shape[rows]
        usual = [self.chains[one].device_from for one in shape.tolist()]
        stage = np.array([p.stage if p else at for p, at in zip(payloads, usual, strict=True)], np.int64)
        kinds, kind = np.unique([shape, stage], axis=1, return_inverse=True)
        for one in range(kinds.shape[1]):
            chosen = np.flatnonzero(kind.reshape(-1) == one)
            upto = np.cumsum(self._cost(rows[chosen], nbytes[chosen]))
            while len(chosen):
                many = max(int(np.searchsorted(upto, self.budget, side="right")), 1)
                yield rows[chosen[:many]], [payloads[i] for i in chosen[:many].tolist()]
                chosen, upto = chosen[many:], upto[many:] - upto[many - 1]

    def _launch(self, lane: Lane, rows: Int64s, payloads: list[Payload | None]) -> None:
        """Queue one batch: its crossing, its device stages, its scatter."""
        shape = int(self.plan.shape[rows[0]])
        chain = self.chains[shape]
        present = np.array([one is not None for one in payloads], bool)
        crossing = [one for one in payloads if one is not None]
        nbytes = np.array([one.data.nbytes for one in crossing], np.int64)
        ends = np.cumsum(_aligned(nbytes))
        batch = Batch(lane.empty(1), ends, nbytes)
        if crossing:
            batch = self._cross(lane, crossing, ends - _aligned(nbytes), nbytes, int(ends[-1]))
            notes = np.array([one.notes for one in crossing], np.int64)
            for stage in chain.stages[crossing[0].stage :]:
                own, notes = np.split(notes, [stage.codec.notes], axis=1)
                batch = replace(batch, notes=np.ascontiguousarray(own))
                try:
                    batch = stage.codec.decode_batch(batch, stage.decoded, lane)
                except GpuzarrError as error:
                    self.source.located(error.located(codec=stage.name))
                    raise
        offset = np.full(len(rows), -1, np.int64)
        offset[present] = batch.offset
        self._scatter(lane, rows, shape, batch.data, offset)
        self.stats.add(chunks=len(nbytes), filled=len(rows) - len(nbytes))

    def _cross(
        self, lane: Lane, payloads: list[Payload], offset: Int64s, nbytes: Int64s, total: int
    ) -> Batch:
        staged = lane.staging(total)
        for at, one in zip(offset.tolist(), payloads, strict=True):
            staged[at : at + one.data.nbytes] = one.data
        self.stats.add(bytes_crossed=total)
        return Batch(lane.upload(staged), offset, nbytes)

    def _scatter(self, lane: Lane, rows: Int64s, shape: int, src: DeviceBuffer, offset: Int64s) -> None:
        plan, chain, groups = self.plan, self.chains[shape], self.plan.selection.groups
        strides = _plain_strides(chain) if chain.swap is None else chain.strides
        src_points, dst_points, table = self.points[shape]
        nbytes = int(np.prod(plan.shapes[shape], dtype=np.int64)) * chain.spec.dtype.itemsize
        tiles = max(-(-nbytes // _TILE), 1)
        lane.launch(
            "gz_scatter",
            len(rows) * tiles,
            256,
            src=src,
            dst=self.target.buffer,
            src_offset=offset,
            chunk_lo=plan.chunk_lo[rows],
            out_lo=plan.out_lo[rows],
            extent=plan.extent[rows],
            step=np.array([g.step if isinstance(g, Span) else 1 for g in groups], np.int64),
            src_stride=np.array([strides[g.axis] if isinstance(g, Span) else 0 for g in groups], np.int64),
            dst_stride=np.array(self.target.strides, np.int64),
            table=table,
            src_points=src_points,
            dst_points=dst_points,
            fill=as_bytes(np.asarray(self.source.meta.carried_fill)),
            dst_base=self.target.base,
            groups=len(groups),
            itemsize=chain.spec.dtype.itemsize,
            unit=chain.swap or 0,
            tiles=tiles,
        )

    def _point_tables(self, chain: Chain) -> tuple[Int64s, Int64s, Int64s]:
        """For Points: each point's byte in its chunk and in the result, and where each group's begin."""
        strides = _plain_strides(chain) if chain.swap is None else chain.strides
        src, dst, table, used = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [], 1
        for group, points, stride in zip(
            self.plan.selection.groups, self.plan.points, self.target.strides, strict=True
        ):
            if isinstance(group, Span) or points is None:
                table.append(-1)
                continue
            table.append(used)
            used += len(group)
            along = np.array([strides[axis] for axis in group.axes], np.int64)
            src.append((points.inside * along[:, None]).sum(axis=0))
            dst.append(points.landing * stride)
        return np.concatenate(src), np.concatenate(dst), np.array(table, np.int64)

    def _finish(self, one: _Launched) -> None:
        """Wait for a batch, and raise what its kernels found."""
        one.lane.synchronize()
        fault = one.lane.take_faults()
        one.lane.reset()
        if fault is not None:
            position, codec, meaning = fault
            key = self.source.key(self.plan.objects[self.plan.key[one.rows[position]]].tolist())
            kind = ChecksumError if "checksum" in meaning else ChunkError
            raise kind(meaning, array=self.source.name, chunk=key, codec=codec)


def _inspected(chain: Chain, part: Buffer) -> tuple[Buffer, int, tuple[int, ...]]:
    """One chunk as the device takes it, the stage it goes on at, and what the stages noted of it."""
    first = chain.device_from
    notes: tuple[int, ...] = ()
    value = chain.run(part, 0, first)
    if not any(stage.codec.notes for stage in chain.stages[first:]):
        return value, first, ()
    seen = as_bytes(value)
    for position in range(first, len(chain.stages)):
        stage = chain.stages[position]
        try:
            found = stage.codec.inspect(seen, stage.decoded)
        except GpuzarrError as error:
            error.located(codec=stage.name)
            raise
        if isinstance(found, str):
            value = chain.run(value, first, position + 1)
            seen, first, notes = as_bytes(value), position + 1, ()
        else:
            notes += found
            seen = seen[: max(seen.nbytes - (stage.codec.trailer or 0), 0)]
    return value, first, notes


def _submitted(
    fetch: Callable[[int, int], list[Payload | None]], first: int, last: int
) -> Future[list[Payload | None]]:
    """Run on the pool, or right here where this is one of its threads, which must not wait for another."""
    if not on_worker():
        return pool().submit(fetch, first, last)
    done: Future[list[Payload | None]] = Future()
    done.set_result(fetch(first, last))
    return done


def _memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


def device_nbytes(chain: Chain) -> int:
    """Device memory that the device stages of one chunk take: what they make of it, and their scratch."""
    stages = chain.stages[chain.device_from :]
    return sum(
        int(_aligned(one.decoded.nbytes or 0) + _aligned(one.codec.scratch(one.decoded))) for one in stages
    )


def _aligned(nbytes: Any) -> Any:
    return (nbytes + _ALIGN - 1) // _ALIGN * _ALIGN


def _plain_strides(chain: Chain) -> tuple[int, ...]:
    """Of a C-contiguous chunk."""
    shape, item = chain.spec.shape, chain.spec.dtype.itemsize
    return tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) * item for axis in range(len(shape)))
