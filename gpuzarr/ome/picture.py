"""Thumbnails: an image as people look at it, small.

    plane of a level ─shrink→ [channels, h, w] ─windows, colours→ added up ─→ uint8[h, w, 3]
    labels           ─pick──→ [h, w]           ─a colour each──→              uint8[h, w, 3]

Everything happens on the host: what is read is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError, StoreError, UnsupportedError
from gpuzarr.ome.png import encode

if TYPE_CHECKING:
    from gpuzarr.ome.channels import Channel
    from gpuzarr.ome.multiscale import Multiscale

Pixels = NDArray[np.uint8]

_COLOURS: Final = ((255, 255, 255), (0, 255, 0), (255, 0, 255), (0, 160, 255), (255, 160, 0), (255, 255, 0))
"""Of channels without one: a lone channel is gray, then green and magenta, which most people tell apart."""
_ENOUGH: Final = 4  # times max_side: a level larger than that is read with steps


def thumbnail(image: Multiscale, max_side: int, level: int | None, at: Mapping[str, int]) -> Pixels:
    """uint8[h, w, 3], no side longer than `max_side`."""
    if not isinstance(max_side, int) or not 0 < max_side <= 1 << 14:
        raise ArgumentError(f"max_side {max_side!r} is not a number of pixels from 1 to {1 << 14}")
    chosen = _level_for(image, max_side) if level is None else level
    plane = _plane(image, chosen, max_side, at)
    if plane.dtype.kind not in "biuf" or not plane.size:
        what = f"an image of {plane.dtype} and {plane.shape[1:]} pixels has no picture"
        raise UnsupportedError(what, array=image.group.name)
    height, width = plane.shape[1:]
    factor = min(max_side / max(height, width), 1.0)
    h, w = max(round(height * factor), 1), max(round(width * factor), 1)
    if image.image_label is not None:
        rows, columns = (np.arange(n) * full // n for n, full in ((h, height), (w, width)))
        return _labels(plane[0][np.ix_(rows, columns)], image.image_label)
    small = _weights(h, height) @ _finite(plane) @ _weights(w, width).T
    return _composed(small, plane.dtype, image.channels)


def save(pixels: Pixels, path: str | PathLike[str] | None) -> bytes:
    """The bytes of a PNG, also written to `path`."""
    content = encode(pixels)
    if path is not None:
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError as error:
            raise StoreError(f"cannot write {fspath(path)}: {error}") from error
    return content


def _level_for(image: Multiscale, max_side: int) -> int:
    """The coarsest level that need not be enlarged; the finest where there is none."""
    x, y = image.spatial[:2]
    sides = [max(level.shape[x], level.shape[y]) for level in image.levels]
    large = [i for i, side in enumerate(sides) if side >= max_side]
    return min(large, key=lambda i: sides[i]) if large else int(np.argmax(sides))


def _plane(image: Multiscale, level: int, max_side: int, at: Mapping[str, int]) -> NDArray[Any]:
    """One slice at one time as [channels, h, w]."""
    from gpuzarr.ome.level import on

    array, (x, y) = on(image.at(level).array, "cpu"), image.spatial[:2]
    names = [axis.name.lower() for axis in image.axes]
    unknown = {name.lower() for name in at} - {name for i, name in enumerate(names) if i not in (x, y)}
    if unknown:
        raise ArgumentError(f"no axis {', '.join(sorted(unknown))} to choose from", array=image.group.name)
    given = {name.lower(): place for name, place in at.items()}
    step = max(max(array.shape[x], array.shape[y]) // (_ENOUGH * max_side), 1)
    key: list[Any] = []
    channel = None
    for i, (axis, n) in enumerate(zip(image.axes, array.shape, strict=True)):
        if i in (x, y):
            key.append(slice(None, None, step))
        elif axis.type == "channel" and names[i] not in given:
            channel = i
            key.append(slice(None))
        else:
            key.append(_place(image, names[i], n, given, i))
    values = np.asarray(array[tuple(key)])
    kept = [i for i in range(array.ndim) if isinstance(key[i], slice)]
    order = [kept.index(i) for i in ([] if channel is None else [channel]) + [y, x]]
    plane = values.transpose(order)
    return plane if channel is not None else plane[None]


def _place(image: Multiscale, name: str, n: int, given: Mapping[str, int], axis: int) -> int:
    """Where along another axis the picture is taken, in elements of the level: what was given and what
    `omero` names are elements of the finest."""
    full = image.at(0).shape[axis]
    rdefs = image.omero.get("rdefs")
    default = rdefs.get(f"default{name.upper()}") if isinstance(rdefs, dict) else None
    if not isinstance(default, int) or not 0 <= default < full:
        default = full // 2 if name == "z" else 0
    place = given.get(name, default)
    if not isinstance(place, int) or not -full <= place < full:
        raise ArgumentError(f"{name}={place!r} in an image of {full}", array=image.group.name)
    return min(place % full * n // full, n - 1)


def _finite(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Values as float64, infinities and NaNs as the extremes of the others: in a mean they would spread."""
    values = plane.astype(np.float64)
    good = np.isfinite(values)
    if good.all():
        return values
    low, high = (float(values[good].min()), float(values[good].max())) if good.any() else (0.0, 0.0)
    return np.nan_to_num(values, nan=low, posinf=high, neginf=low)


def _weights(n: int, full: int) -> NDArray[np.float64]:
    """[n, full]: how much of each of `full` elements lies in each of `n` equal parts; rows add up to 1."""
    edges = np.arange(n + 1) * (full / n)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(full)[None, :]
    covered = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    weights: NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return weights


def _composed(planes: NDArray[np.float64], dtype: np.dtype[Any], channels: tuple[Channel, ...]) -> Pixels:
    """Each channel in its colour, added up."""
    known = channels if len(channels) == len(planes) else ()
    if dtype == np.uint8 and len(planes) == 3 and not known:
        return np.rint(np.moveaxis(planes, 0, -1)).astype(np.uint8)
    total = np.zeros((*planes.shape[1:], 3))
    for i, plane in enumerate(planes):
        channel = known[i] if known else None
        if channel is not None and not channel.active:
            continue
        colour = channel.color if channel is not None else None
        if colour is None:
            colour = _COLOURS[(i + (len(planes) > 1)) % len(_COLOURS)]
        low, high = (channel.window if channel is not None else None) or _contrast(plane)
        shown = np.clip((plane - low) / (high - low or 1.0), 0, 1)
        total += shown[..., None] * np.array(colour)
    picture: NDArray[np.uint8] = np.rint(np.clip(total, 0, 255)).astype(np.uint8)
    return picture


def _contrast(plane: NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles 0.5 and 99.8; the extremes where these are the same."""
    low, high = (float(value) for value in np.percentile(plane, (0.5, 99.8)))
    return (low, high) if high > low else (float(plane.min()), float(plane.max()))


def _labels(values: NDArray[Any], described: Mapping[str, Any]) -> Pixels:
    """A colour for each label: the document's, else one made from the number. 0, the background, is black."""
    numbers, where = np.unique(values, return_inverse=True)
    listed = described.get("colors")
    given = {}
    for one in listed if isinstance(listed, list) else ():
        number, rgba = (one.get("label-value"), one.get("rgba")) if isinstance(one, dict) else (None, None)
        if type(number) is int and isinstance(rgba, list) and len(rgba) >= 3 and all(map(_is_byte, rgba)):
            given[number] = rgba[:3]
    table = np.array([given.get(n, _colour(n)) for n in numbers.tolist()], np.uint8)
    return table[where.reshape(values.shape)]


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


def _colour(number: int) -> list[int]:
    """Hues a golden ratio apart differ for neighbouring numbers."""
    if not number:
        return [0, 0, 0]
    hue = number * 0.618033988749895 % 1 * 6
    return [round(255 * min(max(abs((hue - shift) % 6 - 3) - 0.6, 0.25), 1)) for shift in (0, 2, 4)]
