"""A mask or a label over the frame: which boxes have their centre in which of its elements, and its values.

element of the mask → the boxes whose centre (origin + box // 2) it holds      `first` and `fits`, an axis
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.array import Array
from gpuzarr.device.choose import Place
from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.frame import Axes, Space, axes_of, chunks_of

Values = NDArray[Any]
Floats = NDArray[np.float64]
Box = tuple[slice, ...]

_HELD = 256 << 20  # bytes of a stored mask that are kept in memory


class Mask:
    """A mask, how it lies over the frame, and its values block by block."""

    def __init__(self, source: Any, scale: Any, space: Space) -> None:
        if isinstance(source, Array):  # a sampler decides on the host, wherever batches are
            source = Array(source.store, source.path, source.metadata, Place.cpu())
        elif not isinstance(source, np.ndarray):
            raise ArgumentError(
                f"the mask is a {type(source).__name__}", hint="give a gpuzarr.Array or a NumPy array"
            )
        self.source, self.space = source, space
        self.shared = False
        """Whether chunks are kept: blocks that were moved off the grid of chunks have them in common."""
        self.name = source.name if isinstance(source, Array) else "the mask"
        lead = source.ndim - space.ndim
        if lead < 0 or any(n != 1 for n in source.shape[:lead]):
            raise ArgumentError(f"{self.name} of shape {source.shape} for boxes of {space.ndim} axes")
        if source.dtype.kind not in "buif":
            raise ArgumentError(f"{self.name} has type {source.dtype}, which is no number")
        self.lead = (0,) * lead
        self.shape: Axes = source.shape[lead:]
        self.scale = axes_of(scale, space.ndim, "scale of the mask", 1)
        for size, one, length in zip(space.shape, self.scale, self.shape, strict=True):
            if length not in (size // one, -(-size // one)):
                raise ArgumentError(
                    f"{self.name} of shape {self.shape}, at a scale of {self.scale}, does not lie over "
                    f"{space.shape}",
                    hint="scale says how many elements of the first array one of the mask covers",
                )
        self.first, self.fits = self._centres()
        self.chunks = chunks_of(source)[lead:] if isinstance(source, Array) else (1,) * space.ndim
        self._cache = _Cache()

    def _centres(self) -> tuple[list[Int64s], list[Int64s]]:
        """Along each axis, for each element of the mask: the first slot whose box has its centre there, and
        how many do."""
        first, fits, space = [], [], self.space
        for a, length in enumerate(self.shape):
            slots = np.arange(space.slots[a], dtype=np.int64)
            centre = space.low[a] + space.step[a] * slots + space.box[a] // 2
            cell, edges = centre // self.scale[a], np.arange(length + 1, dtype=np.int64)
            bounds = np.searchsorted(cell, edges).astype(np.int64)
            first.append(bounds[:-1])
            fits.append(np.diff(bounds))
        return first, fits

    def read(self, box: Box) -> Values:
        """Its values there, on the host."""
        if isinstance(self.source, np.ndarray):
            return np.asarray(self.source[(*self.lead, *box)])
        origin = (*self.lead, *(one.start for one in box))
        shape = (*(1 for _ in self.lead), *(one.stop - one.start for one in box))
        patch = self.source.patches(np.array([origin], np.int64), shape, cache=self.shared)
        return np.asarray(patch.reshape(shape[len(self.lead) :]))

    def block(self, box: Box) -> Values:
        """The same; those that were read last are kept."""
        if isinstance(self.source, np.ndarray):
            return self.read(box)
        return self._cache.get(tuple(one.start for one in box), lambda: self.read(box))

    def weight(self, box: Box) -> Floats:
        """How many boxes have their centre in each element there."""
        fits = np.ones((), np.float64)
        for along, one in zip(self.fits, box, strict=True):
            fits = np.multiply.outer(fits, along[one].astype(np.float64))
        return fits


class _Cache:
    """The blocks of a mask that were used last. Each process has its own."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._held: dict[tuple[int, ...], Values] = {}
        self._nbytes = 0

    def get(self, key: tuple[int, ...], read: Callable[[], Values]) -> Values:
        """The block at `key`, read if it is not there."""
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            found = self._held.pop(key, None)
            if found is not None:
                self._held[key] = found
                return found
        values = read()
        with self._lock:
            if key not in self._held and values.nbytes <= _HELD:
                self._held[key] = values
                self._nbytes += values.nbytes
                while self._nbytes > _HELD:
                    self._nbytes -= self._held.pop(next(iter(self._held))).nbytes
        return values

    def __reduce__(self) -> tuple[object, ...]:
        return _Cache, ()
