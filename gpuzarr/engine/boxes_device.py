"""Reading many boxes onto a device: the waves of any read, with a landing where a chunk has many places.

Chunks that the cache has land first, on a lane of their own; those that it is to keep are copied into its
memory by the wave that decodes them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, ChunkSpec, as_bytes, pack
from gpuzarr.codecs.planes import unshuffled
from gpuzarr.device.base import Device, Lane
from gpuzarr.engine.cache import Known, Slab, Slot, slabs_of
from gpuzarr.engine.convert import Finish
from gpuzarr.engine.device import MOST_GROUPS, Waves
from gpuzarr.engine.landing import Boxes, Landing, Target
from gpuzarr.engine.planning import check_exact
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import ArgumentError, LimitError, UnsupportedError
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.boxes import Pieces
from gpuzarr.plan.table import Int64s, Plan

_TILE = 64 << 10  # bytes that one block fills


def on_device(
    source: Source,
    plan: Plan,
    pieces: Pieces,
    outside: NDArray[Any],
    out: Any,
    stats: ReadStats,
    known: Known | None,
    device: Device,
    finish: Finish,
) -> Any:
    """See `boxes.read_boxes`."""
    meta, shape = source.meta, plan.selection.result_shape
    form, within = device.form(finish.dtype)
    if len(shape) > MOST_GROUPS:
        raise UnsupportedError(
            f"boxes of {len(shape) - 1} dimensions on {device.name}", hint='use device="cpu"'
        )
    if out is None:
        out = device.empty_array(finish.shape(shape), finish.dtype)
    elif not device.owns(out):
        raise ArgumentError(f"out is a {type(out).__name__}, not an array on {device.name}")
    else:
        check_exact(out, finish.shape(shape) + within, form)
    if not plan.selection.size:
        return out
    raw = finish.raw(device, out)
    target = finish.target(Target.of(device, raw, plan.selection, meta.dtype.itemsize))
    landing = BoxLanding(meta, plan, target, pieces, known, device)
    lane = device.lane()
    if len(pieces.outside):
        landing.fill_boxes(lane, shape, as_bytes(outside))
        lane.synchronize()  # before another lane writes over it
    try:
        if known is not None:
            landing.land_known(lane, known)
            lane.submit()
        if len(plan):
            Waves(source, plan, landing, stats, device).run()
    finally:
        lane.synchronize()
        lane.reset()
    finish.convert(device, lane, raw, out)
    if known is not None:
        known.keep()
    return out


class BoxLanding(Landing):
    """Chunks with many places each."""

    def __init__(
        self,
        meta: ArrayMeta,
        plan: Plan,
        target: Target,
        pieces: Pieces,
        known: Known | None,
        device: Device,
    ) -> None:
        super().__init__(meta, plan, target)
        self.pieces, self.known, self.device = pieces, known, device

    def scatter(self, lane: Lane, rows: Int64s, shape: int, batch: Batch) -> None:
        """The pieces of decoded chunks to their places. Chunks with one piece each may still be shuffled."""
        slots = self._slots(rows)
        at, _ = self.pieces.of(slots)
        plain = bool((self.pieces.step[at] == 1).all())
        if len(at) > len(rows) or not plain or self.known is not None:
            batch = unshuffled(batch, ChunkSpec((), np.dtype("u1"), self._chunk_nbytes(shape)), lane)
        if self.known is not None:
            self._keep(lane, slots, shape, batch)
        self._land(lane, slots, shape, batch)

    def land_known(self, lane: Lane, known: Known) -> None:
        """Chunks that the cache has."""
        by_slab: dict[tuple[int, Slab | None], list[int]] = {}
        for slot in known.hits:
            entry = known.entries[slot]
            assert entry is None or isinstance(entry, Slot)
            slab = None if entry is None else entry.slab
            by_slab.setdefault((int(known.plan.shape[slot]), slab), []).append(slot)
        for (shape, slab), hits in by_slab.items():
            slots = np.array(hits, np.int64)
            if slab is None:
                self._land_fill(lane, slots, shape)
                continue
            held = [entry for entry in (known.entries[slot] for slot in hits) if isinstance(entry, Slot)]
            offset = np.array([entry.offset for entry in held], np.int64)
            nbytes = np.full(len(held), self._chunk_nbytes(shape), np.int64)
            self._land(lane, slots, shape, Batch(slab.buffer, offset, nbytes))

    def _keep(self, lane: Lane, slots: Int64s, shape: int, batch: Batch) -> None:
        """Copy decoded chunks to memory of the cache."""
        assert self.known is not None
        nbytes, slabs, limit = self._chunk_nbytes(shape), slabs_of(self.device), self.known.cache.limit
        taken: list[Slot] = []
        with suppress(LimitError):  # then fewer are kept
            while len(taken) < len(slots) and self.known.room(nbytes):
                taken.append(slabs.take(nbytes, limit))
        self.known.new |= zip(slots.tolist(), taken, strict=False)
        sizes = np.full(len(taken), nbytes, np.int64)
        for slab in {slot.slab for slot in taken}:
            mine = [i for i, slot in enumerate(taken) if slot.slab is slab]
            places = np.array([taken[i].offset for i in mine], np.int64)
            pack(lane, batch.data, batch.offset[mine], sizes[mine], slab.buffer, places, nbytes)

    def _land(self, lane: Lane, slots: Int64s, shape: int, batch: Batch) -> None:
        at, owner = self.pieces.of(slots)
        for boxes, chosen in self._by_step(at):
            its = owner[chosen]
            planes = None if batch.planes is None else np.ascontiguousarray(batch.planes[its])
            part = replace(
                batch, offset=batch.offset[its], nbytes=batch.nbytes[its], planes=planes, notes=None
            )
            self.put(lane, shape, part, boxes)

    def fill(self, lane: Lane, rows: Int64s, shape: int) -> None:
        """The fill value to the places of chunks that are missing."""
        slots = self._slots(rows)
        if self.known is not None:
            self.known.new |= dict.fromkeys(slots.tolist())
        self._land_fill(lane, slots, shape)

    def _land_fill(self, lane: Lane, slots: Int64s, shape: int) -> None:
        for boxes, _ in self._by_step(self.pieces.of(slots)[0]):
            self.put_fill(lane, shape, boxes)

    def fill_boxes(self, lane: Lane, shape: tuple[int, ...], fill: NDArray[np.uint8]) -> None:
        """A value to whole boxes that are partly outside of the array."""
        outside, groups = self.pieces.outside, len(shape)
        extent = np.tile(np.array([1, *shape[1:]], np.int64), (len(outside), 1))
        out_lo, zero = np.zeros_like(extent), np.zeros(groups, np.int64)
        out_lo[:, 0] = outside
        tiles = max(-(-int(np.prod(shape[1:])) * fill.nbytes // _TILE), 1)
        lane.launch(
            "gz_scatter",
            len(outside) * tiles,
            256,
            src=lane.empty(1),
            src_offset=np.full(len(outside), -1, np.int64),
            dst=self.target.buffer,
            dst_base=self.target.base,
            chunk_lo=np.zeros_like(extent),
            out_lo=out_lo,
            extent=extent,
            step=zero,
            src_stride=zero,
            dst_stride=np.array(self.target.strides, np.int64),
            table=zero - 1,
            src_points=zero,
            dst_points=zero,
            fill=fill,
            groups=groups,
            itemsize=fill.nbytes,
            unit=0,
            tiles=tiles,
        )

    def _slots(self, rows: Int64s) -> Int64s:
        assert self.plan.slot is not None
        return self.plan.slot[rows]

    def _by_step(self, at: Int64s) -> list[tuple[Boxes, Int64s]]:
        """Pieces as boxes, those of the same steps together, and which of `at` they are."""
        steps, kind = np.unique(self.pieces.step[at], axis=0, return_inverse=True)
        found = []
        for i, step in enumerate(steps):
            chosen = np.flatnonzero(kind.reshape(-1) == i)
            mine = at[chosen]
            boxes = Boxes(
                self.pieces.chunk_lo[mine], self.pieces.out_lo[mine], self.pieces.extent[mine], step.copy()
            )
            found.append((boxes, chosen))
        return found
