"""Encoding on a device: the chunks of a write whose values lie there, a part of them at a time.

    values  ─gather→  chunks in their stored layout      one launch, over what a chunk holds already
    chunks  ─device stages→ encoded                      one launch a stage; then sizes and faults cross
    encoded ─pack→ one crossing ─host stages→ objects    only the encoded bytes, one behind the other

Parts are cut to the memory budget of waves; two are on the device at a time, each on a lane of its own, while
other threads store what is done. A chunk that an encoder does not take is encoded by the host, from its bytes
before the first stage: as in reading, the host has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from gpuzarr import config
from gpuzarr.codecs.base import Encoded, as_bytes, pack, pitch_of
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Bytes1D, Device, DeviceBuffer, Lane
from gpuzarr.engine.device import wave_budget
from gpuzarr.engine.source import Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.engine.update import Update, check_decodes, encode_stages
from gpuzarr.errors import ArgumentError, GpuzarrError, LimitError
from gpuzarr.plan.table import Int64s
from gpuzarr.selection import Selection, Span
from gpuzarr.store.base import Buffer

_MOST_GROUPS: Final = 15  # what kernels/scatter.cu is made for, less the one of the chunk
_MOST_ITEMSIZE: Final = 1024  # what kernels/encoded.cu compares with the fill value
_TILE: Final = 64 << 10  # bytes of a chunk that one block moves
_LEAST: Final = 16 << 20  # decoded bytes of a part: fewer leave a device idle
_PARTS: Final = 4  # of a write, at least: one is stored while another is encoded


@dataclass(frozen=True, slots=True)
class Values:
    """Values in device memory, in the flat form of a selection: the first of them at byte `base` of `buffer`,
    `strides` in bytes a group."""

    device: Device
    buffer: DeviceBuffer
    base: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, source: Source, selection: Selection, values: Any, device: Device) -> Values | None:
        """None where they have to go through the host: values of another type, strides without a flat form,
        selections of points, which may name an element twice, and arrays whose values have no bytes that a
        device could lay out. What cannot be broadcast is an ArgumentError."""
        meta, groups = source.meta, selection.groups
        if (
            not meta.has_bytes
            or meta.dtype.itemsize > _MOST_ITEMSIZE
            or len(groups) > _MOST_GROUPS
            or not all(isinstance(one, Span) for one in groups)
        ):
            return None
        form, within = device.form(meta.dtype)
        buffer, offset, strides = device.memory(values)
        outer = len(values.shape) - len(within)
        fits = (
            outer >= 0
            and values.shape[outer:] == within
            and strides[outer:] in ((), (values.dtype.itemsize,))
        )
        if values.dtype != form or not fits:
            return None
        shape, result = values.shape[:outer], selection.result_shape
        # NumPy works the strides out, on an array of the same geometry that is never touched.
        shadow = np.lib.stride_tricks.as_strided(
            np.empty(1, f"V{meta.dtype.itemsize}"), shape, strides[:outer], writeable=False
        )
        while shadow.ndim > len(result) and shadow.shape[0] == 1:
            shadow = shadow[0, ...]  # an array still, if of no dimensions
        try:
            flat = selection.flat_view(np.broadcast_to(shadow, result))
        except ValueError as error:
            raise ArgumentError(
                f"values of shape {shape} do not fit a selection of shape {result}"
            ) from error
        if flat is None:
            return None
        moved = flat.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
        return cls(device, buffer, offset + moved, flat.strides)


class DeviceUpdate(Update):
    """A write of values that lie on a device."""

    def __init__(
        self,
        source: Source,
        selection: Selection,
        values: Values,
        stats: WriteStats,
        written: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(source, selection, stats, written)
        self.values = values
        # Lanes begin behind what the caller's stream has queued, so they are his thread's.
        self.lanes: SimpleQueue[Lane] = SimpleQueue()
        for _ in range(2):
            self.lanes.put(values.device.lane())

    def takes_all(self) -> bool:
        """Whether the device can lay out every chunk."""
        chains = [self.meta.chain(shape) for shape in self.plan.shapes]
        return all(chain.swap is not None and chain.layout.nbytes for chain in chains)

    def together(self, count: int) -> int:
        """As many as the memory of a wave takes, but not all at once."""
        cost = max(_cost(self.meta.chain(shape)) for shape in self.plan.shapes)
        share = max(-(-count // _PARTS), _LEAST // self.decoded_nbytes)
        return max(min(wave_budget(self.values.device) // cost, share), 1)

    def encode(self, rows: Sequence[int], old: Mapping[int, Buffer | None]) -> dict[int, Buffer | None]:
        """See `Update`."""
        made: dict[int, Buffer | None] = {}
        shape = self.plan.shape[list(rows)]
        for one in np.unique(shape).tolist():
            mine = [row for row, its in zip(rows, shape.tolist(), strict=True) if its == one]
            bases = {row: self._laid_out(row, old.get(row)) for row in mine if not self.covers(row)}
            mine.sort(key=lambda row: row not in bases)
            part = _Part(self, mine, [bases[row] for row in mine[: len(bases)]])
            made |= part.encode()
            updated = sum(old.get(row) is not None for row in bases)
            self.stats.add(read=updated)
        return made

    def _laid_out(self, row: int, old: Buffer | None) -> Bytes1D:
        """What a row's piece is written into, in the stored layout."""
        try:
            return as_bytes(self.chain(row).laid_out(self.base(row, old)[0]))
        except GpuzarrError as error:
            self.located(error, row)
            raise


class _Part:
    """Chunks of one shape, encoded together. The first of them are written over their `bases`."""

    def __init__(self, update: DeviceUpdate, rows: list[int], bases: list[Bytes1D]) -> None:
        self.update, self.rows, self.bases = update, rows, bases
        self.chain = update.chain(rows[0])
        self.nbytes = self.chain.layout.nbytes or 0
        self.count = len(rows)

    def encode(self) -> dict[int, Buffer | None]:
        """The part's chunks by row, as `Update.encode` gives them."""
        update = self.update
        with _lane(update) as lane:
            chunks = self._gathered(lane)
            differs = self._differs(lane, chunks)
            batch, short = self._encoded(lane, chunks)
            found = np.empty(8 * self.count, np.uint8)
            lane.download(batch.nbytes, found)
            lane.synchronize()
            sizes = found.view(np.int64)
            empty = np.zeros(self.count, bool) if differs is None else differs.view(np.int32) == 0
            faults = np.full(self.count, short)
            faults[lane.take_faults()] = True
            faults |= (sizes < 0) | (sizes > batch.limit)
            encoded = self._fetched(lane, batch, np.where(empty | faults, 0, sizes))
            plain: list[Bytes1D] = []
            if config.current().verify or faults.any():
                chosen = ~empty if config.current().verify else faults & ~empty
                plain = self._fetched(lane, chunks, np.where(chosen, self.nbytes, 0))
        made: dict[int, Buffer | None] = {}
        for i, row in enumerate(self.rows):
            made[row] = (
                None if empty[i] else self._object(row, encoded[i], plain[i] if plain else None, faults[i])
            )
        kept = int((~empty).sum())
        update.stats.add(chunks=kept, empty=self.count - kept, on_host=int((faults & ~empty).sum()), waves=1)
        return made

    def _encoded(self, lane: Lane, chunks: Encoded) -> tuple[Encoded, bool]:
        """After the device's stages; or the chunks as they are, if its memory is too short for them."""
        batch = chunks
        for stage in reversed(self.chain.stages[self.chain.encode_to :]):
            try:
                batch = stage.codec.encode_batch(batch, stage.decoded, lane)
            except LimitError:
                return chunks, True
            except GpuzarrError as error:
                self.update.source.located(error.located(codec=stage.name))
                raise
        return batch, False

    def _object(self, row: int, encoded: Bytes1D, plain: Bytes1D | None, fault: bool) -> Buffer:
        """The host's share of encoding one chunk."""
        chain = self.chain
        try:
            if fault:
                assert plain is not None
                stored = encode_stages(chain, plain.view(), len(chain.stages))
            else:
                stored = encode_stages(chain, encoded, chain.encode_to)
            if config.current().verify and plain is not None:
                check_decodes(chain, stored, chain.arranged(plain))
        except GpuzarrError as error:
            self.update.located(error, row)
            raise
        return stored

    def _gathered(self, lane: Lane) -> Encoded:
        """The part's chunks in device memory, in their stored layout."""
        update, chain, plan = self.update, self.chain, self.update.plan
        pitch, known = pitch_of(self.nbytes), len(self.bases)
        arena = lane.empty(pitch * self.count)
        if known:
            host = np.empty((known, pitch), np.uint8)
            for into, base in zip(host, self.bases, strict=True):
                into[: self.nbytes] = base
            lane.upload(host, arena.part(0, host.nbytes))
            update.stats.add(bytes_crossed=host.nbytes)
        rows = np.array(self.rows, np.int64)
        spans = [group for group in update.groups if isinstance(group, Span)]
        strides = np.array([chain.strides[span.axis] for span in spans], np.int64)
        # The chunk itself is a group of one element, so that each has its own place in the arena.
        first = np.arange(self.count) * pitch + plan.chunk_lo[rows] @ strides
        groups = len(spans) + 1
        extent, out_lo = np.ones((2, self.count, groups), np.int64)
        extent[:, 1:] = plan.extent[rows]
        out_lo[:], out_lo[:, 0] = 0, first
        steps = np.array([span.step for span in spans], np.int64)
        none, one = np.zeros(1, np.int64), np.ones(groups, np.int64)
        tiles = max(-(-self.nbytes // _TILE), 1)
        lane.launch(
            "gz_scatter",
            self.count * tiles,
            256,
            src=update.values.buffer,
            src_offset=update.values.base + plan.out_lo[rows] @ np.array(update.values.strides, np.int64),
            dst=arena,
            dst_base=0,
            chunk_lo=np.zeros_like(out_lo),
            out_lo=out_lo,
            extent=extent,
            step=one,
            src_stride=np.array([0, *update.values.strides], np.int64),
            dst_stride=np.concatenate((one[:1], steps * strides)),
            table=np.full(groups, -1, np.int64),
            src_points=none,
            dst_points=none,
            fill=np.zeros(chain.spec.dtype.itemsize, np.uint8),
            groups=groups,
            itemsize=chain.spec.dtype.itemsize,
            unit=chain.swap or 0,
            tiles=tiles,
        )
        sizes = lane.upload(np.full(self.count, self.nbytes, np.int64))
        return Encoded(arena, pitch, sizes, self.nbytes, self.count)

    def _differs(self, lane: Lane, chunks: Encoded) -> Bytes1D | None:
        """int32[n], as bytes, after `synchronize`: zero for chunks that hold the fill value alone. None if
        nobody asks."""
        update, chain = self.update, self.chain
        if update.keep_empty:
            return None
        fill = as_bytes(update.fill.astype(chain.layout.dtype))
        tiles = max(-(-self.nbytes // _TILE), 1)
        differs, into = lane.upload(np.zeros(self.count, np.int32)), np.empty(4 * self.count, np.uint8)
        lane.launch(
            "gz_differs",
            self.count * tiles,
            256,
            src=chunks.data,
            fill=fill,
            differs=differs,
            pitch=chunks.pitch,
            nbytes=self.nbytes,
            itemsize=fill.nbytes,
            tiles=tiles,
        )
        lane.download(differs, into)
        return into

    def _fetched(self, lane: Lane, batch: Encoded, sizes: Int64s) -> list[Bytes1D]:
        """The first bytes of each string, in host memory, with one crossing."""
        ends = np.cumsum(sizes)
        total, largest = int(ends[-1]), int(sizes.max())
        host = np.empty(total, np.uint8)
        if total:
            packed = lane.empty(total)
            pack(lane, batch.data, batch.offset, sizes, packed, ends - sizes, largest)
            lane.download(packed, host)
            lane.synchronize()
            self.update.stats.add(bytes_crossed=total)
        return [host[end - n : end] for end, n in zip(ends.tolist(), sizes.tolist(), strict=True)]


@contextmanager
def _lane(update: DeviceUpdate) -> Iterator[Lane]:
    """One of the two lanes. Whatever happens, nothing is left on it."""
    lane = update.lanes.get()
    try:
        yield lane
    finally:
        with suppress(GpuzarrError):  # behind an error nothing of it counts
            lane.synchronize()
            lane.reset()
        update.lanes.put(lane)


def _cost(chain: Chain) -> int:
    """Device bytes that encoding a chunk takes."""
    limit = chain.layout.nbytes or 1
    cost = pitch_of(limit)
    for stage in reversed(chain.stages[chain.encode_to :]):
        cost += stage.codec.encode_scratch(limit)
        limit = stage.codec.encode_bound(limit)
        cost += pitch_of(limit)
    return cost + pitch_of(limit)  # packed
