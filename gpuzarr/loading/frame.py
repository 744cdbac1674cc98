"""How boxes lie over arrays: one frame of coordinates, arrays at scales of their own, boxes aligned in all.

    frame     the elements that origins count in: those of the first array, at its scale
    part      one array: an element of it covers `scale` elements of the frame; its boxes are wider by
              `margin` of its own elements on each side; axes before the last ones are channels
    space     the origins a box may have: `low`, `low + step`, ... along each axis, `slots` of them

`step` is what the scales have in common, so that every origin falls on an element of every array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from operator import index
from typing import Any

import numpy as np

from gpuzarr.array import Array
from gpuzarr.engine.convert import finish_of
from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import Int64s

Axes = tuple[int, ...]
MODES = ("error", "constant", "edge", "reflect", "wrap")


@dataclass(frozen=True, slots=True)
class Space:
    """The boxes that there are, in elements of the frame. What a sampler chooses from."""

    shape: Axes
    """Of the frame."""
    box: Axes
    """The shape of a box."""
    low: Axes
    """The first origin along each axis; negative where boxes may reach over the edge."""
    step: Axes
    """From one origin to the next."""
    slots: Axes
    """How many origins there are along each axis."""
    chunks: Axes
    """The first array's chunks."""

    @property
    def ndim(self) -> int:
        """Number of axes of a box."""
        return len(self.box)

    @property
    def boxes(self) -> int:
        """How many boxes lie side by side in the frame: what an epoch is, where nothing else says so."""
        return prod(max(size // width, 1) for size, width in zip(self.shape, self.box, strict=True))

    def origins(self, slots: Int64s) -> Int64s:
        """The origins [n, d] at places [n, d] along each axis."""
        return np.array(self.low, np.int64) + np.array(self.step, np.int64) * slots

    def check(self, origins: Any, index: Int64s | None = None) -> Int64s:
        """Origins [n, d] that a sampler made as int64, or an error that names the first wrong box; `index`
        are the boxes' numbers."""
        found = np.asarray(origins)
        if found.ndim != 2 or found.shape[1] != self.ndim or (found.size and found.dtype.kind not in "iu"):
            raise ArgumentError(
                f"origins are {found.dtype}{list(found.shape)}, not whole numbers [n, {self.ndim}]",
                hint="give one row a box, one column an axis of the box",
            )
        found = found.astype(np.int64)
        slots, rest = np.divmod(found - np.array(self.low, np.int64), np.array(self.step, np.int64))
        outside = (slots < 0) | (slots >= np.array(self.slots, np.int64))
        wrong = np.flatnonzero((outside | (rest != 0)).any(axis=1))
        if len(wrong):
            i = int(wrong[0])
            name = i if index is None else int(index[i])
            ranges = [
                f"{low} to {low + step * (n - 1)}" + (f" in steps of {step}" if step > 1 else "")
                for low, step, n in zip(self.low, self.step, self.slots, strict=True)
            ]
            raise ArgumentError(
                f"box {name} at {tuple(found[i].tolist())}: origins go from {', '.join(ranges)}",
                hint="boxes over the edge need a mode and overhang; at a scale they begin at whole elements",
            )
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """One array of a batch."""

    name: str
    array: Array
    scale: Axes
    margin: Axes
    mode: str
    fill: Any
    lead: tuple[tuple[int, ...], ...]
    """The indices that are taken of each axis before the box's."""
    extent: Axes
    """The box in elements of this array, margins included."""
    convert: Mapping[str, Any]
    """What `Array.patches` makes of the values: dtype, scale, offset."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the patches."""
        given = self.convert.get("dtype")
        return np.dtype(given or ("float32" if self.convert else self.array.dtype))

    @property
    def shape(self) -> Axes:
        """Of one patch."""
        return (*(len(taken) for taken in self.lead), *self.extent)

    @property
    def nbytes(self) -> int:
        """Of one patch."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def chunks(self) -> Axes:
        """The array's chunks along the box's axes; the largest, where their sizes differ."""
        return chunks_of(self.array)[-len(self.scale) :]

    @property
    def layers(self) -> int:
        """Chunks that lie behind each other along the axes before the box's, where a patch takes any."""
        chunks = chunks_of(self.array)
        return prod(len({i // chunk for i in taken}) for taken, chunk in zip(self.lead, chunks, strict=False))

    def origins(self, origins: Int64s) -> Int64s:
        """Those of the frame in elements of this array."""
        return origins // np.array(self.scale, np.int64) - np.array(self.margin, np.int64)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number that is large enough."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name}={value!r} is not a whole number of at least {least}")
    return int(value)


def chunks_of(array: Array) -> Axes:
    """The shape of an array's chunks; the largest, where their sizes differ."""
    return tuple(one if isinstance(one, int) else max(one, default=1) for one in array.chunks)


def axes_of(value: Any, ndim: int, what: str, least: int = 0) -> Axes:
    """A whole number for each axis, from one for all or one for each."""
    try:
        many = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)
        found = tuple(index(one) for one in value) if many else (index(value),) * ndim
    except TypeError:
        raise ArgumentError(f"{what} {value!r} is no whole number, and no list of them") from None
    if len(found) != ndim or any(one < least for one in found):
        raise ArgumentError(f"{what} {value!r} is not {ndim} whole numbers of at least {least}")
    return found


def arrays_of(arrays: Any) -> dict[str, Array]:
    """The arrays by name; a single one has none."""
    named = dict(arrays) if isinstance(arrays, Mapping) else {"": arrays}
    if not named:
        raise ArgumentError("no arrays to load from")
    for name, array in named.items():
        if not isinstance(array, Array):
            which = f"array {name!r}" if name else "what to load from"
            raise ArgumentError(
                f"{which} is a {type(array).__name__}, not a gpuzarr.Array",
                hint="open it with gpuzarr.open_array; gpuzarr.save({}, values) makes one in memory",
            )
        if not isinstance(name, str):
            raise ArgumentError(f"the name of an array is {name!r}, not a string")
    return named


def lay_out(
    arrays: Mapping[str, Array],
    shape: Sequence[int],
    *,
    scale: Any,
    margin: Any,
    channels: Any,
    mode: Any,
    fill: Any,
    dtype: Any,
    rescale: Any,
    overhang: Any,
) -> tuple[Space, tuple[Part, ...]]:
    """The parts of a batch, and the space of their boxes. Options are one for all arrays, or by name."""
    ndim = len(shape) if isinstance(shape, (Sequence, np.ndarray)) else 0
    if not ndim:
        raise ArgumentError(
            f"shape {shape!r} is not a box", hint="give an extent for each axis, as (64, 64, 64)"
        )
    box = axes_of(shape, ndim, "shape", 1)
    names = tuple(arrays)
    scales = _each(scale, names, "scale", 1)
    margins = _each(margin, names, "margin", 0)
    taken = _each(channels, names, "channels", None)
    modes, fills = _each(mode, names, "mode", "error"), _each(fill, names, "fill", None)
    dtypes, rescaled = _each(dtype, names, "dtype", None), _each(rescale, names, "rescale", None)
    parts = tuple(
        replace(
            _part(name, array, box, scales[name], margins[name], taken[name], modes[name], fills[name]),
            convert=_convert(array, dtypes[name], rescaled[name]),
        )
        for name, array in arrays.items()
    )
    first = parts[0]
    frame = tuple(size * scale for size, scale in zip(first.array.shape[-ndim:], first.scale, strict=True))
    for part in parts[1:]:
        _check_covers(part, frame, first)
    step = tuple(lcm(*(part.scale[a] for part in parts)) for a in range(ndim))
    beyond = axes_of(overhang, ndim, "overhang")
    low, slots = [], []
    for a in range(ndim):
        begin, end = _range(a, parts, frame[a], box[a], beyond[a])
        begin, end = -(-begin // step[a]) * step[a], end // step[a] * step[a]
        if end < begin:
            raise ArgumentError(
                f"no box of {box[a]} elements fits into axis {a}, which has {frame[a]}"
                + (", with its margins" if any(part.margin[a] for part in parts) else "")
                + (f", at a multiple of {step[a]}" if step[a] > 1 else ""),
                hint='make it smaller, or give a mode: "constant", "edge", "reflect" or "wrap"',
            )
        low.append(begin)
        slots.append((end - begin) // step[a] + 1)
    chunks = tuple(chunk * scale for chunk, scale in zip(first.chunks, first.scale, strict=True))
    return Space(frame, box, tuple(low), step, tuple(slots), chunks), parts


def _range(axis: int, parts: Sequence[Part], frame: int, box: int, beyond: int) -> tuple[int, int]:
    """The first and the last origin along an axis: what every part that knows no mode can read."""
    if all(part.mode != "error" for part in parts) and frame - box + 2 * beyond < 0:
        middle = (frame - box) // 2  # the array is smaller than a box, which lies around its middle
        step = lcm(*(part.scale[axis] for part in parts))
        return middle // step * step, middle // step * step
    begin, end = -beyond, frame - box + beyond
    for part in parts:
        if part.mode == "error":
            scale, margin = part.scale[axis], part.margin[axis]
            size = part.array.shape[axis - len(part.scale)]
            begin, end = max(begin, margin * scale), min(end, (size - margin) * scale - box)
    return begin, end


def _each(value: Any, names: tuple[str, ...], what: str, default: Any) -> dict[str, Any]:
    """One value for each array, from one for all, or some by name."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, default if value is None else value)
    unknown = [name for name in value if name not in names]
    if unknown:
        raise ArgumentError(
            f"{what} for {unknown[0]!r}, which is no array", hint=f"there are {', '.join(names)}"
        )
    return {name: value.get(name, default) for name in names}


def _part(
    name: str, array: Array, box: Axes, scale: Any, margin: Any, channels: Any, mode: Any, fill: Any
) -> Part:
    ndim, of = len(box), f" of {name!r}" if name else ""
    if array.ndim < ndim:
        raise ArgumentError(
            f"boxes of {ndim} axes in an array of {array.ndim}", hint=f"{array.name} is too flat"
        )
    if mode not in MODES:
        raise ArgumentError(f"mode {mode!r}{of} is not known", hint=f"use {', '.join(MODES)}")
    scales = axes_of(scale, ndim, f"scale{of}", 1)
    margins = axes_of(margin, ndim, f"margin{of}")
    if any(width % scale for width, scale in zip(box, scales, strict=True)):
        raise ArgumentError(
            f"boxes of shape {box} are no whole number of elements{of}, at a scale of {scales}",
            hint="make the box a multiple of every scale",
        )
    extent = tuple(
        width // scale + 2 * margin for width, scale, margin in zip(box, scales, margins, strict=True)
    )
    lead = _channels(channels, array.shape[: array.ndim - ndim], of)
    return Part(name, array, scales, margins, mode, fill, lead, extent, {})


def _convert(array: Array, dtype: Any, rescale: Any) -> dict[str, Any]:
    """What `Array.patches` is told, if it is told anything; what it does not take is an error here."""
    factor, offset = rescale if isinstance(rescale, (tuple, list)) and len(rescale) == 2 else (rescale, None)
    given = {"dtype": dtype, "scale": factor, "offset": offset}
    convert = {name: value for name, value in given.items() if value is not None}
    finish_of(array.metadata, dtype, factor, offset, None)
    return convert


def _channels(chosen: Any, lengths: Axes, of: str) -> tuple[tuple[int, ...], ...]:
    """What is taken of each axis before the box's: all, or what a slice, an index or a list says. Axes
    stay."""
    if chosen is None:
        chosen = (None,) * len(lengths)
    elif not isinstance(chosen, tuple):
        if len(lengths) != 1:
            raise ArgumentError(
                f"channels {chosen!r}{of} for {len(lengths)} axes before the box's",
                hint="give a tuple of one choice for each, None for all of an axis",
            )
        chosen = (chosen,)
    if len(chosen) != len(lengths):
        raise ArgumentError(f"channels {chosen!r}{of} for {len(lengths)} axes before the box's")
    return tuple(_taken(one, length, of) for one, length in zip(chosen, lengths, strict=True))


def _taken(one: Any, length: int, of: str) -> tuple[int, ...]:
    if one is None:
        return tuple(range(length))
    if isinstance(one, slice):
        return tuple(range(length)[one])
    try:
        found = [index(item) for item in (one if isinstance(one, (list, range, np.ndarray)) else [one])]
    except TypeError:
        raise ArgumentError(f"channels {one!r}{of} are no index, no slice and no list") from None
    if any(not -length <= item < length for item in found):
        raise ArgumentError(f"channels {one!r}{of}, of which there are {length}")
    return tuple(item % length for item in found)


def _check_covers(part: Part, frame: Axes, first: Part) -> None:
    """An array at a scale has the frame's size divided by it, rounded either way: pyramids do both."""
    shape = part.array.shape[part.array.ndim - len(frame) :]
    for size, scale, length in zip(frame, part.scale, shape, strict=True):
        if length not in (size // scale, -(-size // scale)):
            raise ArgumentError(
                f"array {part.name!r} of shape {shape}, at a scale of {part.scale}, does not lie over "
                f"{first.name!r} of {frame}",
                hint="scale says how many elements of the first array one of this array covers",
            )
