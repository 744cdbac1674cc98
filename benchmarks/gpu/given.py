"""A write whose values lie in device memory, as far as the device does it: gathered, compared, encoded.

The engine's own rooms do it: `DeviceUpdate` says how many chunks go together, `_Part` queues them. Out of
the way is what comes then, the crossing and the store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks.gpu.machine import Machine, WrongResultError
from gpuzarr import WriteStats, selection
from gpuzarr.codecs.base import Encoded
from gpuzarr.device.base import Lane
from gpuzarr.engine.encode import DeviceUpdate, Values, _Part


class Given:
    """A write of all of `array`, whose shape is whole chunks, in the parts that the engine makes of it."""

    def __init__(self, machine: Machine, array: gpuzarr.Array, values: Any) -> None:
        """`values` lie on the machine's device, where the array is."""
        source, chosen = array._source, selection.basic(..., array.shape)
        found = Values.of(source, chosen, values, machine.device)
        if found is None:
            raise ValueError("the device cannot lay these values out")
        machine.synchronize()  # its lane does not wait for what brings the values there
        self.update = DeviceUpdate(source, chosen, found, WriteStats())
        count = len(self.update.plan)
        many = min(self.update.together(count), count)
        self.parts = [
            _Part(self.update, list(range(at, at + many)), []) for at in range(0, count - many + 1, many)
        ]

    @property
    def rows(self) -> list[int]:
        """The chunks of the first part, as rows of the table of pieces."""
        return self.parts[0].rows

    @property
    def decoded_nbytes(self) -> int:
        """Of one part; all have as many chunks."""
        return self.parts[0].nbytes * self.parts[0].count

    def gather(self, lane: Lane, turn: int = 0) -> Encoded:
        """The chunks of a part, laid out as they are stored. Parts take turns."""
        return self.parts[turn % len(self.parts)]._gathered(lane)

    def queue(self, lane: Lane, turn: int = 0) -> Encoded:
        """The same, compared with the fill value and encoded."""
        part = self.parts[turn % len(self.parts)]
        chunks = part._gathered(lane)
        part._differs(lane, chunks)
        batch, short = part._encoded(lane, chunks)
        if short:
            raise WrongResultError("device memory is too short to encode a part")
        return batch

    def box(self, row: int) -> tuple[slice, ...]:
        """Where the chunk of a row lies in the array."""
        low, shape = self.update.low[row].tolist(), self.update.plan.shapes[self.update.plan.shape[row]]
        return tuple(slice(at, at + n) for at, n in zip(low, shape, strict=True))


def fetched(lane: Lane, batch: Encoded) -> list[NDArray[np.uint8]]:
    """What a lane has queued, done; and the strings that come of it. Faults are a WrongResultError."""
    sizes, data = np.empty(8 * len(batch), np.uint8), np.empty(batch.data.nbytes, np.uint8)
    lane.download(batch.nbytes, sizes)
    lane.download(batch.data, data)
    lane.synchronize()
    faults = lane.take_faults()
    lane.reset()
    if len(faults):
        raise WrongResultError(f"chunks {faults[:9].tolist()} were not encoded")
    return [
        data[at : at + n] for at, n in zip(batch.offset.tolist(), sizes.view(np.int64).tolist(), strict=True)
    ]
