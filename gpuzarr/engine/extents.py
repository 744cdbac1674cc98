"""How large arrays are, or are becoming, as far as this process knows.

`append` stores its chunks before the new shape, and other handles have read an older one: who writes a part
of an edge chunk by a shape that is too small would take what lies past it for nobody's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from gpuzarr.engine.source import Source
from gpuzarr.store.base import Store, place_of

Shape = tuple[int, ...]

_MOST: Final = 4096
_known: OrderedDict[tuple[object, str], Shape] = OrderedDict()
_lock = threading.Lock()


def extent_of(source: Source) -> Shape:
    """The shape by which a write of `source` goes: its own, or a larger one that is known."""
    shape = source.meta.shape
    known = _known.get(place_of(source.store, source.path))
    if known is None or len(known) != len(shape):
        return shape
    return tuple(map(max, shape, known))


def becomes(source: Source, shape: Shape) -> None:
    """The array gets, or has got, another shape."""
    with _lock:
        _known[place_of(source.store, source.path)] = shape
        _known.move_to_end(place_of(source.store, source.path))
        while len(_known) > _MOST:
            _known.popitem(last=False)


def is_new(store: Store, path: str) -> None:
    """Another array takes the place."""
    with _lock:
        _known.pop(place_of(store, path), None)
