"""What a pyramid is to be, before anything is written: axes, shapes of the levels, factors between them, and
the document that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, Final

import numpy as np

from gpuzarr.array import Array
from gpuzarr.errors import ArgumentError
from gpuzarr.meta.create import auto_chunks as plain_chunks
from gpuzarr.ome.downsample import shrunk
from gpuzarr.ome.metadata import Axis

_RANK: Final = {"time": 0, "channel": 1, "space": 3}
_KINDS: Final = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_SIDE: Final = 256
"""Where no side of a level is longer, the pyramid ends."""
_MOST: Final = 30


class Given:
    """What is to be written, its dimensions in the order of OME-Zarr."""

    def __init__(self, image: Any, axes: tuple[Axis, ...], order: list[int]) -> None:
        self._image, self._order = image, order
        self.axes = tuple(axes[i] for i in order)
        self.shape = tuple(int(image.shape[i]) for i in order)
        self.dtype = np.dtype(image.dtype)
        self.shared = isinstance(image, (np.ndarray, Array))
        """Whether several threads may read it."""

    def read(self, box: Sequence[slice]) -> Any:
        """A box of it."""
        key: list[Any] = [slice(None)] * len(box)
        for one, axis in zip(box, self._order, strict=True):
            key[axis] = one
        values = self._image[tuple(key)]
        if hasattr(values, "compute"):  # of dask
            values = values.compute()
        if not hasattr(values, "transpose"):
            values = np.asarray(values)
        return values.transpose(self._order)


def given_axes(image: Any, names: Any) -> Given:
    """An image whose dimensions are called `names`. OME-Zarr orders them: time, channel, space."""
    if not all(hasattr(image, each) for each in ("shape", "dtype", "__getitem__")):
        raise ArgumentError(f"a {type(image).__name__} is no array", hint="give one, or numpy.asarray of it")
    listed = [str(name) for name in names] if isinstance(names, (str, Sequence)) else []
    if len(listed) != len(image.shape) or len(set(listed)) != len(listed):
        what = f"axes {names!r} do not name the {len(image.shape)} dimensions of the image once each"
        raise ArgumentError(what, hint='write them as in "tczyx"')
    axes = tuple(Axis(name, _KINDS.get(name)) for name in listed)
    kinds = [axis.type for axis in axes]
    spaces = kinds.count("space")
    if not 2 <= len(axes) <= 5 or spaces < 2 or kinds.count(None) + kinds.count("channel") > 1:
        hint = "2 to 5 of t, c, z, y, x; y and x among them; another name in the place of c"
        raise ArgumentError(f"axes {', '.join(listed)} are not those of an OME-Zarr image", hint=hint)
    space = {name: place for place, name in enumerate("zyx")}
    order = sorted(
        range(len(axes)), key=lambda i: (_RANK.get(axes[i].type or "", 2), space.get(axes[i].name, i))
    )
    return Given(image, axes, order)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The levels that are to be."""

    axes: tuple[Axis, ...]
    """With units."""
    shapes: tuple[tuple[int, ...], ...]
    factors: tuple[tuple[int, ...], ...]
    """How many times smaller each level is than the finest."""
    steps: tuple[tuple[int, ...], ...]
    """And than the one before."""
    sizes: tuple[float, ...]
    """Of an element of the finest level."""
    centred: bool
    """Whether an element stands for the middle of its block, rather than for the block's first element."""

    def document(self, version: str, name: str, method: str) -> dict[str, Any]:
        """The `multiscales` metadata."""
        datasets = []
        for level, factors in enumerate(self.factors):
            scale = [f * size for f, size in zip(factors, self.sizes, strict=True)]
            shift = [(f - 1) / 2 * size for f, size in zip(factors, self.sizes, strict=True)]
            transformations = [{"type": "scale", "scale": scale}]
            if self.centred:
                transformations.append({"type": "translation", "translation": shift})
            datasets.append({"path": str(level), "coordinateTransformations": transformations})
        axes = [
            {key: value for key, value in (("name", a.name), ("type", a.type), ("unit", a.unit)) if value}
            for a in self.axes
        ]
        document: dict[str, Any] = {"axes": axes, "datasets": datasets, "name": name, "type": method}
        document["metadata"] = {"method": f"gpuzarr.ome.downsample, {method}"}
        if version == "0.4":
            document["version"] = version
        return {"multiscales": [document]}


def plan(
    source: Given, method: str, scale_factors: Any, levels: int | None, pixel_size: Any, unit: Any
) -> Pyramid:
    """The pyramid that the arguments of `write_multiscale` describe."""
    sizes = tuple(_size(axis, pixel_size) for axis in source.axes)
    axes = tuple(Axis(axis.name, axis.type, _unit(axis, unit, pixel_size)) for axis in source.axes)
    _known(pixel_size, axes, "pixel_size")
    _known(unit, axes, "unit")
    if scale_factors is None:
        factors = _halved(source, sizes, levels)
    else:
        if levels is not None:
            raise ArgumentError("scale_factors say how many levels there are: leave out levels")
        factors = [(1,) * len(axes)]
        for one in scale_factors:
            factors.append(_factors(one, source))
    steps = [factors[0]]
    for before, after in pairwise(factors):
        if any(b % a for a, b in zip(before, after, strict=True)) or before == after:
            what = f"a level {after} times smaller does not follow from one that is {before}"
            raise ArgumentError(what, hint="each factor is a multiple of the one before")
        steps.append(tuple(b // a for a, b in zip(before, after, strict=True)))
    shapes = tuple(shrunk(source.shape, one) for one in factors)
    return Pyramid(axes, shapes, tuple(factors), tuple(steps), sizes, method != "nearest")


def _halved(source: Given, sizes: Sequence[float], levels: int | None) -> list[tuple[int, ...]]:
    """x, y and z halved until no side is long; z, or whichever has the larger elements, joins when the others
    have caught up with it."""
    most = _MOST if levels is None else _number(levels, "levels")
    factors = [(1,) * len(source.axes)]
    while len(factors) < most:
        now = shrunk(source.shape, factors[-1])
        long = [i for i, axis in enumerate(source.axes) if axis.type == "space" and now[i] > 1]
        enough = levels is None and max((now[i] for i in long), default=0) <= _SIDE
        if not long or enough:
            break
        step = _isotropic(long, [f * size for f, size in zip(factors[-1], sizes, strict=True)])
        factors.append(tuple(2 * f if i in step else f for i, f in enumerate(factors[-1])))
    return factors


def _isotropic(axes: Sequence[int], sizes: Sequence[float]) -> list[int]:
    """Those axes whose elements are less than twice as large as the smallest."""
    least = min(sizes[i] for i in axes)
    return [i for i in axes if sizes[i] < 1.999 * least]


def _factors(given: Any, source: Given) -> tuple[int, ...]:
    """A factor for each axis; a number is for x, y and z."""
    if isinstance(given, Mapping):
        _known(given, source.axes, "scale_factors")
    else:
        factor = _number(given, "scale_factors")
        given = {axis.name: factor for axis in source.axes if axis.type == "space"}
    return tuple(_number(given.get(axis.name, 1), "scale_factors") for axis in source.axes)


def _number(value: Any, what: str) -> int:
    try:
        if 0 < index(value) < 1 << 31:
            return index(value)
    except TypeError:
        pass
    raise ArgumentError(f"{what} {value!r} is not a whole number from 1 on")


def _size(axis: Axis, given: Any) -> float:
    if isinstance(given, Mapping):
        given = given.get(axis.name, 1.0)
    elif axis.type != "space" or given is None:
        return 1.0
    if isinstance(given, (int, float, np.number)) and 0 < given < float("inf"):
        return float(given)
    raise ArgumentError(f"pixel_size {given!r} is neither a positive number nor a mapping of axes to them")


def _unit(axis: Axis, given: Any, pixel_size: Any) -> str | None:
    """A lone unit is that of spatial axes, where their size is known."""
    if isinstance(given, Mapping):
        found = given.get(axis.name)
    else:
        sized = axis.name in pixel_size if isinstance(pixel_size, Mapping) else pixel_size is not None
        found = given if axis.type == "space" and sized else None
    if found is None or isinstance(found, str):
        return found
    raise ArgumentError(f"unit {found!r} is not a word", hint='"micrometer"')


def auto_chunks(source: Given) -> tuple[int, ...]:
    """About 1 MiB: one time point and one channel, the rest as near to a cube as it can be. Channels of bytes
    stay together, up to four: they are colours."""
    colours = source.dtype.itemsize == 1
    sizes = []
    for axis, n in zip(source.axes, source.shape, strict=True):
        together = axis.type == "space" or (axis.type == "channel" and colours and n <= 4)
        sizes.append(n if together else 1)
    return plain_chunks(tuple(sizes), source.dtype.itemsize)


def _known(given: Any, axes: Sequence[Axis], what: str) -> None:
    names = {axis.name for axis in axes}
    unknown = sorted(given.keys() - names) if isinstance(given, Mapping) else []
    if unknown:
        raise ArgumentError(f"{what} names {', '.join(map(str, unknown))}, which is no axis of the image")
