"""Where the chunks of a device read land: the copy into the result, which ends every wave.

One launch crops, steps, transposes and swaps bytes on the way. Where the last stage left the chunks shuffled,
the same pass undoes that (kernels/unshuffle.cu); else it is kernels/scatter.cu, which also fills what is
missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuzarr.codecs.base import Batch, as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.codecs.planes import tiles
from gpuzarr.device.base import Device, DeviceBuffer, Lane
from gpuzarr.errors import ArgumentError
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.table import Int64s, Plan
from gpuzarr.selection import Selection, Span

_TILE = 64 << 10  # bytes of a chunk that one block of kernels/scatter.cu copies
_MOST_BLOCKS = 1 << 30  # of a launch


@dataclass(frozen=True, slots=True)
class Target:
    """The flat result in device memory: byte `base` of `buffer`, `strides` in bytes a group."""

    buffer: DeviceBuffer
    base: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, device: Device, array: Any, selection: Selection, itemsize: int) -> Target:
        """An array of the device as the target of a selection of values of `itemsize` bytes."""
        buffer, offset, strides = device.memory(array)
        shape = selection.result_shape
        if strides[len(shape) :] not in ((), (array.dtype.itemsize,)):
            raise ArgumentError("out's values are not contiguous", hint="let its last axis be")
        # NumPy works the strides out, on an array of the same geometry that is never touched.
        shadow = np.lib.stride_tricks.as_strided(
            np.empty(1, f"V{itemsize}"), shape, strides[: len(shape)], writeable=False
        )
        flat = selection.flat_view(shadow)
        if flat is None:
            raise ArgumentError(f"out's strides do not fit a selection of shape {selection.result_shape}")
        moved = flat.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
        return cls(buffer, offset + moved, flat.strides)


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """A box a chunk: where it begins in the chunk and in the result, and its shape, int64[n, groups]; and the
    steps in the chunk, int64[groups]."""

    chunk_lo: Int64s
    out_lo: Int64s
    extent: Int64s
    step: Int64s

    def part(self, rows: slice) -> Boxes:
        """Some of them."""
        return replace(self, chunk_lo=self.chunk_lo[rows], out_lo=self.out_lo[rows], extent=self.extent[rows])


class Landing:
    """Of one read. Along a group that is no axis of the array (`boxes.Pieces`) a chunk has one element."""

    def __init__(self, meta: ArrayMeta, plan: Plan, target: Target) -> None:
        self.plan, self.target = plan, target
        self.groups = plan.selection.groups
        self.chains = [meta.chain(shape) for shape in plan.shapes]
        self.fill_value = as_bytes(np.asarray(meta.carried_fill))
        self.points = [self._point_tables(chain) for chain in self.chains]
        spans = all(isinstance(group, Span) for group in self.groups)
        self.fused = [spans and chain.swap is not None and _in_order(chain) for chain in self.chains]
        """By shape: the last shuffle may be left to `scatter`. Chunks whose axes lie in another order take
        two passes: one that reads along them would write a few bytes at a time."""

    def scatter(self, lane: Lane, rows: Int64s, shape: int, batch: Batch) -> None:
        """The decoded chunks of some rows to their places in the result."""
        self.put(lane, shape, batch, self._boxes(rows))

    def fill(self, lane: Lane, rows: Int64s, shape: int) -> None:
        """The fill value to the places of chunks that are missing."""
        self.put_fill(lane, shape, self._boxes(rows))

    def put(self, lane: Lane, shape: int, batch: Batch, boxes: Boxes) -> None:
        """A box of each chunk of a batch to its place."""
        if batch.planes is None or not batch.planes[:, 0].any():
            self._scatter(lane, shape, batch.data, batch.offset, boxes)
        else:
            self._unshuffle(lane, shape, batch, batch.planes, boxes)

    def put_fill(self, lane: Lane, shape: int, boxes: Boxes) -> None:
        """The fill value to the places of boxes."""
        self._scatter(lane, shape, lane.empty(1), np.full(len(boxes.extent), -1, np.int64), boxes)

    def _scatter(self, lane: Lane, shape: int, src: DeviceBuffer, offset: Int64s, boxes: Boxes) -> None:
        """Chunks at a negative offset are missing."""
        src_points, dst_points, table = self.points[shape]
        largest = int(boxes.extent.prod(axis=1).max(initial=1)) * self.chains[shape].spec.dtype.itemsize
        parts = max(-(-largest // _TILE), 1)
        for first in range(0, len(offset), _MOST_BLOCKS // parts):
            rows = slice(first, first + _MOST_BLOCKS // parts)
            lane.launch(
                "gz_scatter",
                len(offset[rows]) * parts,
                256,
                src=src,
                src_offset=offset[rows],
                **self._places(shape, boxes.part(rows)),
                table=table,
                src_points=src_points,
                dst_points=dst_points,
                fill=self.fill_value,
                tiles=parts,
            )

    def _unshuffle(self, lane: Lane, shape: int, batch: Batch, planes: Int64s, boxes: Boxes) -> None:
        nbytes = self._chunk_nbytes(shape)
        most = tiles(planes, nbytes)
        extents = [self._size(shape, g.axis) for g in self.groups if isinstance(g, Span)]
        lane.launch(
            "gz_unshuffle",
            len(batch) * most,
            256,
            src=batch.data,
            src_offset=batch.offset,
            planes=planes,
            **self._places(shape, boxes),
            shape=np.array(extents, np.int64),
            nbytes=nbytes,
            pitch=most,
        )

    def _size(self, shape: int, axis: int) -> int:
        return 1 if axis < 0 else self.plan.shapes[shape][axis]

    def _chunk_nbytes(self, shape: int) -> int:
        return int(np.prod(self.plan.shapes[shape], dtype=np.int64)) * self.chains[shape].spec.dtype.itemsize

    def _boxes(self, rows: Int64s) -> Boxes:
        """The box of each row's chunk."""
        plan = self.plan
        step = np.array([g.step if isinstance(g, Span) else 1 for g in self.groups], np.int64)
        return Boxes(plan.chunk_lo[rows], plan.out_lo[rows], plan.extent[rows], step)

    def _places(self, shape: int, boxes: Boxes) -> dict[str, Any]:
        """Which box of each chunk goes where, as the kernels take it."""
        chain = self.chains[shape]
        strides = _plain_strides(chain) if chain.swap is None else chain.strides
        along = [strides[g.axis] if isinstance(g, Span) and g.axis >= 0 else 0 for g in self.groups]
        return {
            "dst": self.target.buffer,
            "dst_base": self.target.base,
            "chunk_lo": boxes.chunk_lo,
            "out_lo": boxes.out_lo,
            "extent": boxes.extent,
            "step": boxes.step,
            "src_stride": np.array(along, np.int64),
            "dst_stride": np.array(self.target.strides, np.int64),
            "groups": len(self.groups),
            "itemsize": chain.spec.dtype.itemsize,
            "unit": chain.swap or 0,
        }

    def _point_tables(self, chain: Chain) -> tuple[Int64s, Int64s, Int64s]:
        """For Points: each point's byte in its chunk and in the result, and where each group's begin."""
        strides = _plain_strides(chain) if chain.swap is None else chain.strides
        src, dst, table, used = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [], 1
        for group, points, stride in zip(self.groups, self.plan.points, self.target.strides, strict=True):
            if isinstance(group, Span) or points is None:
                table.append(-1)
                continue
            table.append(used)
            used += len(group)
            along = np.array([strides[axis] for axis in group.axes], np.int64)
            src.append((points.inside * along[:, None]).sum(axis=0))
            dst.append(points.landing * stride)
        return np.concatenate(src), np.concatenate(dst), np.array(table, np.int64)


def _in_order(chain: Chain) -> bool:
    return chain.axes == tuple(range(len(chain.axes)))


def _plain_strides(chain: Chain) -> tuple[int, ...]:
    """Of a C-contiguous chunk."""
    shape, item = chain.spec.shape, chain.spec.dtype.itemsize
    return tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) * item for axis in range(len(shape)))
