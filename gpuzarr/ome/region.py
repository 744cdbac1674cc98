"""`read_region`: what is asked for in pixels of the finest level, or in micrometres, as boxes of one level's
elements.

    location (x, y)   pixels of the finest level ÷ how much smaller `level` is, rounded down: as OpenSlide and
                      cuCIM have it, the corner of the box
    micrometres       the element that covers the place: centres lie at index · scale + translation
    box               [n, d] origins in the array's own order of axes, which may lie outside, and one shape
    result            other axes that were given as slices, z, y, x, then channels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError, SelectionError
from gpuzarr.ome.level import from_shapes, on

if TYPE_CHECKING:
    from gpuzarr.ome.multiscale import Multiscale

Int64s = NDArray[np.int64]

_FAR: Final = 1 << 52  # further out there is nothing, and sums could overflow


class Regions:
    """Boxes of one size at many locations of an image."""

    def __init__(
        self,
        image: Multiscale,
        location: Any,
        size: Any,
        level: int | None,
        um: float | None,
        at: Mapping[str, Any],
        fill: Any,
        device: str | None,
    ) -> None:
        if um is not None and level is not None:
            raise ArgumentError("um chooses the level: give one of them", array=image.group.name)
        self.image = image
        self.level = image.level_for(um) if um is not None else _level(level)
        self.chosen = image.at(self.level)
        self.array = on(self.chosen.array, device)
        self.fill = fill
        self.axes = self._axes(size)
        places, self.alone = self._places(location, um is not None)
        self.shape = [1] * self.array.ndim
        self.origins = np.zeros((len(places), self.array.ndim), np.int64)
        self.origins[:, self.axes], extent = self._boxes(places, size, um is not None)
        for axis, length in zip(self.axes, extent, strict=True):
            self.shape[axis] = length
        self.dropped = self._others(at)
        self.order = self._order()

    # ---- which boxes

    def _axes(self, size: Any) -> tuple[int, ...]:
        """The dimensions that `size` is of: x and y, or x, y and z."""
        spatial = self.image.spatial
        count = len(size) if isinstance(size, (Sequence, np.ndarray)) else -1
        if count == 0:
            return spatial[:2]
        if not 2 <= count <= len(spatial):
            forms = "(width, height)" + (" or (width, height, depth)" if len(spatial) > 2 else "")
            raise ArgumentError(f"size {size!r} is not {forms}", array=self.image.group.name)
        return spatial[:count]

    def _places(self, location: Any, physical: bool) -> tuple[NDArray[Any], bool]:
        """Locations as [n, axes], whole numbers unless they are micrometres; and whether it is one alone,
        not in a list."""
        if location is None or (isinstance(location, tuple) and not location):
            return np.zeros((1, len(self.axes))), True
        if not isinstance(location, (Sequence, np.ndarray)) and hasattr(location, "__iter__"):
            location = list(location)
        try:
            given = np.asarray(location)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"the locations are not pairs of numbers: {error}") from error
        if given.size and given.dtype.kind not in ("iuf" if physical else "iu"):
            hint = "with um=…, locations are micrometres" if given.dtype.kind == "f" else None
            raise ArgumentError(f"locations of type {given.dtype} are not whole pixels", hint=hint)
        if given.size % len(self.axes):
            what = f"{given.size} numbers are not locations of {len(self.axes)} axes"
            raise ArgumentError(what, array=self.image.group.name)
        if not (np.abs(given.astype(float)) < _FAR).all():
            raise ArgumentError("a location is too far away, or not a number", array=self.image.group.name)
        return given.reshape(-1, len(self.axes)), given.shape == (len(self.axes),)

    def _boxes(self, places: NDArray[Any], size: Any, physical: bool) -> tuple[Int64s, list[int]]:
        """Corners and lengths along `self.axes`, in elements of the level."""
        corners, lengths = np.zeros(places.shape, np.int64), []
        finest = self.image.at(0)
        for i, axis in enumerate(self.axes):
            full, n = finest.shape[axis], self.array.shape[axis]
            if physical:
                pixel = self.image.micrometers(self.level, axis)
                first = self._first(axis) * pixel
                corners[:, i] = _whole((places[:, i] - first) / pixel + 0.5)
                length = _whole(np.array(_length(size[i], float) / pixel + 0.5)).item() if len(size) else n
            else:
                corners[:, i] = self.scaled(places[:, i].astype(np.int64), axis)
                length = _length(size[i], index) if len(size) else n
            if not 0 < length <= max(full, n):
                what = f"a region of {length} along {self.image.axes[axis].name}, where the image has {full}"
                raise ArgumentError(what, array=self.image.group.name)
            lengths.append(int(length))
        return corners, lengths

    def _first(self, axis: int) -> float:
        """Where the centre of the first element lies, in elements."""
        scale, offset = self.chosen.scale, self.chosen.translation
        if scale is None or offset is None:
            raise self.image.no_scale(self.level)
        return offset[axis] / scale[axis]

    def scaled(self, places: Int64s, axis: int) -> Int64s:
        """Positions in the finest level as positions in this one, rounded down."""
        ratio = self.ratio(axis)
        whole = round(ratio)
        if whole and abs(ratio - whole) < 1e-6 * whole:  # 0.998 ÷ 0.499 is to be 2
            return places // whole
        return np.floor(places / ratio).astype(np.int64)

    def ratio(self, axis: int) -> float:
        """How much larger this level's elements are than the finest's."""
        finest = self.image.at(0)
        mine, fine = self.chosen.scale, finest.scale
        if mine is not None and fine is not None and mine[axis] * fine[axis] > 0:
            return mine[axis] / fine[axis]
        by_shape = from_shapes(finest.shape, self.array.shape).scale
        return by_shape[axis] if by_shape is not None else 1.0

    def _others(self, at: Mapping[str, Any]) -> set[int]:
        """Set the boxes' extent along all other axes; the dimensions that an integer takes away."""
        names = {axis.name.lower(): i for i, axis in enumerate(self.image.axes) if i not in self.axes}
        given = {name.lower(): value for name, value in at.items()}
        unknown = given.keys() - names
        if unknown:
            what = f"no axis {', '.join(sorted(unknown))} to choose from"
            raise ArgumentError(what, hint=f"the others are {', '.join(names) or 'none'}")
        dropped = set()
        for name, axis in names.items():
            channel = self.image.axes[axis].type == "channel"
            value = given.get(name, slice(None) if channel else 0)
            start, stop = self._span(name, value, axis)
            self.origins[:, axis], self.shape[axis] = start, stop - start
            if not isinstance(value, slice):
                dropped.add(axis)
        return dropped

    def _span(self, name: str, value: Any, axis: int) -> tuple[int, int]:
        """What an integer or a slice, in elements of the finest level, is in this one."""
        full, n = self.image.at(0).shape[axis], self.array.shape[axis]
        if isinstance(value, slice):
            start, stop, step = value.indices(full)
            if step != 1:
                raise ArgumentError(f"a slice of axis {name} with step {step}", hint="slices have step 1")
            low, high = self.scaled(np.array([start, stop]), axis).tolist()
            high = n if stop == full else min(max(high, low + 1), n)
            return (low, high) if start < stop else (0, 0)
        try:
            place = index(value)
        except TypeError:
            raise ArgumentError(f"{name}={value!r} is neither an integer nor a slice") from None
        if not -full <= place < full:
            raise SelectionError(f"{name}={place} in an image of {full}", array=self.image.group.name)
        (low,) = self.scaled(np.array([place % full]), axis).tolist()
        low = min(low, n - 1)  # where the level was rounded down
        return low, low + 1

    def _order(self) -> list[int]:
        """The result's axes, as dimensions of the array: channels last, before them z, y, x."""
        dims = [i for i in range(self.array.ndim) if i not in self.dropped]
        channels = [i for i in dims if self.image.axes[i].type == "channel" and i not in self.axes]
        spatial = [i for i in self.axes[::-1] if i in dims]
        others = [i for i in dims if i not in spatial and i not in channels]
        return others + spatial + channels

    # ---- reading them

    def take(self, origins: Int64s, alone: bool = False) -> Any:
        """The boxes at `origins` as [n, …], axes in the result's order; a box that is `alone` without n. One
        read, in which each chunk is decoded once."""
        found = self.array.patches(origins, self.shape, mode="constant", fill=self.fill)
        kept = [0] * (not alone) + [1 + axis for axis in self.order]
        lead = [len(origins), *self.shape]
        shape = tuple(lead[i] for i in kept)
        if hasattr(found, "view_as"):  # of device sim
            return found.view_as(shape, tuple(found.strides[i] for i in kept))
        left = [i for i in range(len(lead)) if i not in kept]  # all of length 1
        return found.transpose([*left, *kept]).reshape(shape)


# ---- arguments


def _level(value: Any) -> int:
    try:
        if value is None or index(value) >= 0:
            return index(value or 0)
    except TypeError:
        pass
    raise ArgumentError(f"level {value!r} is not a number from 0, the finest level, on")


def _whole(places: NDArray[Any]) -> Int64s:
    """Rounded down."""
    if not (np.abs(places) < _FAR).all():
        raise ArgumentError("a location or a size is too large for elements so small")
    whole: Int64s = np.floor(places).astype(np.int64)
    return whole


def _length(value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        length = kind(value)
        if abs(length) < _FAR:
            return length
    except (TypeError, ValueError, OverflowError):
        pass
    raise ArgumentError(f"size {value!r} is no length")
