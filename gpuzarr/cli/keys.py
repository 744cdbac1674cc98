"""Selections as text: `0, :, ::2`, with or without brackets. Integers, slices and `...`; nothing is
evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from types import EllipsisType

from gpuzarr.errors import SelectionError
from gpuzarr.selection import basic

Item = int | slice | EllipsisType
Key = tuple[Item, ...]

_NUMBER = r"\s*([+-]?\d{1,19})?\s*"
_SLICE = re.compile(f"{_NUMBER}:{_NUMBER}(?::{_NUMBER})?")
_INTEGER = re.compile(r"\s*[+-]?\d{1,19}\s*")


def parse(text: str) -> Key:
    """The key that `text` stands for. Anything but integers, slices and one `...` is a SelectionError."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    items = inner.split(",")
    if len(items) > 1 and not items[-1].strip():
        items.pop()  # a[0,] is a[0]
    return tuple(_item(item, text) for item in items if inner.strip())


def _item(item: str, text: str) -> Item:
    if item.strip() == "...":
        return ...
    if _INTEGER.fullmatch(item):
        return int(item)
    found = _SLICE.fullmatch(item)
    if found is None:
        raise SelectionError(
            f"{item.strip()!r} in selection {text!r} is neither an integer, a slice nor ...",
            hint='write it as NumPy does, for example "0, :, 10:20"',
        )
    return slice(*(None if part is None else int(part) for part in found.groups()))


def looks_like_key(text: str) -> bool:
    """Whether an argument can only be meant as a selection. A lone integer may also be the name of an
    array."""
    return text.startswith("[") or "," in text or "..." in text or _SLICE.fullmatch(text) is not None


def full(key: Key, shape: tuple[int, ...]) -> Key:
    """The key with one integer or slice a dimension, checked against the shape."""
    basic(key, shape)  # raises where the key does not fit
    at = key.index(...) if ... in key else len(key)
    rest = len(shape) - len(key) + (... in key)
    return (*key[:at], *[slice(None)] * rest, *key[at + 1 :])


def slabs(key: Key, shape: tuple[int, ...], itemsize: int, chunk: int | None, nbytes: int) -> Iterator[Key]:
    """The parts of a full key, along the first axis of its result, of about `nbytes` each. In order they hold
    its result's elements in C order. A part ends where a chunk ends, `chunk` being the size of one along that
    axis, where that works."""
    axis = next((i for i, item in enumerate(key) if isinstance(item, slice)), None)
    chosen = key[axis] if axis is not None else None
    if axis is None or not isinstance(chosen, slice):
        yield key
        return
    along = range(*chosen.indices(shape[axis]))
    size = prod(basic(key, shape).result_shape)
    rows = max(nbytes // max(size // max(len(along), 1) * itemsize, 1), 1)
    first = 0
    while first < len(along):
        last = min(first + rows, len(along))
        if chunk and last < len(along) and along.step > 0:
            border = along[last] // chunk * chunk
            last = max(-(-(border - along.start) // along.step), 0) if border > along[first] else last
        part = along[first:last]
        stop = part.stop if part.stop >= 0 else None
        yield (*key[:axis], slice(part.start, stop, part.step), *key[axis + 1 :])
        first = last
