"""Another shape for an array: chunks that fall outside go, elements that come are the fill value.

The new document takes the place of the old one in one step. Behind it what has fallen outside is cleared, so
that it does not come back when the array grows again; a process that is killed in between leaves such chunks
where no reader looks, and the next growth clears them first.

A document is read again before it is changed, so that handles which are older than it do not undo what
others did. Those of one process take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuzarr import selection
from gpuzarr.engine.source import Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.engine.turns import turn
from gpuzarr.engine.values import on_host
from gpuzarr.engine.write import writable, write
from gpuzarr.errors import ArgumentError, MetadataError, UnsupportedError
from gpuzarr.grid import Grid, RectilinearAxis
from gpuzarr.meta.create import whole_numbers
from gpuzarr.meta.dialect import (
    join,
    node_from_document,
    put_attributes,
    put_node,
    read_attributes,
    read_meta,
)
from gpuzarr.meta.model import ArrayMeta

Shape = tuple[int, ...]


@contextmanager
def _newest(source: Source) -> Iterator[Source]:
    """The array as it is now, for as long as nobody else of this process changes its document."""
    with turn(source.store.url, [join(source.path, "zarr.json")]):
        meta = read_meta(source.store, source.path)
        if not isinstance(meta, ArrayMeta):
            raise MetadataError("where the array was is a group now", array=source.name)
        yield source if meta.document == source.meta.document else Source.of(source.store, source.path, meta)


def _reshaped(source: Source, shape: Sequence[int]) -> Source:
    """The same array in another shape."""
    meta = source.meta
    if len(shape) != len(meta.shape):
        raise ArgumentError(f"shape {tuple(shape)} for an array of {len(meta.shape)} dimensions")
    if any(isinstance(axis, RectilinearAxis) for axis in meta.grid.axes):
        raise UnsupportedError("an array whose chunks differ in size cannot be resized", array=source.name)
    made = node_from_document({**meta.document, "shape": list(shape)})
    assert isinstance(made, ArrayMeta)
    if meta.attributes is not None:
        made = replace(made, attributes=meta.attributes)
    return Source.of(source.store, source.path, made)


def resize(source: Source, shape: Any) -> Source:
    """The array in its new shape."""
    store, stats, new = writable(source), WriteStats(), whole_numbers(shape, "shape")
    with _newest(source) as source:
        old = source.meta.shape
        made = _reshaped(source, new)
        grown = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if b > a]
        cut = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if b < a]
        largest = _reshaped(source, [max(a, b) for a, b in zip(old, new, strict=True)])
        if grown:
            _remove_outside(source, source.meta.grid, stats)
            _clear_edges(largest, old, grown, old, stats)
        put_node(store, source.path, made.meta.document)
        if cut:
            _remove_outside(source, made.meta.grid, stats)
            _clear_edges(largest, new, cut, largest.meta.shape, stats)
        return made


def append(source: Source, values: Any, axis: int) -> Source:
    """The array with `values` behind its end along `axis`. Their chunks are stored before the new shape."""
    store, stats = writable(source), WriteStats()
    given = on_host(values)
    given = given if hasattr(given, "shape") else np.asarray(given)
    with _newest(source) as source:
        old = source.meta.shape
        ndim = len(old)
        if not -ndim <= axis < ndim:
            raise ArgumentError(f"axis {axis} of an array of {ndim} dimensions")
        axis %= ndim
        others = [n for i, n in enumerate(given.shape) if i != axis]
        if len(given.shape) != ndim or others != [n for i, n in enumerate(old) if i != axis]:
            raise ArgumentError(f"values of shape {tuple(given.shape)} behind an array of shape {old}")
        shape = list(old)
        shape[axis] += int(given.shape[axis])
        grown = _reshaped(source, shape)
        key = tuple(slice(old[i], None) if i == axis else slice(None) for i in range(ndim))
        write(grown, selection.basic(key, tuple(shape)), given, stats, written=old)
        put_node(store, source.path, grown.meta.document)
        return grown


def changed_attributes(
    source: Source, new: Mapping[str, Any], only: bool
) -> tuple[Source, Mapping[str, Any]]:
    """The array with its attributes changed, and the attributes. A None takes one away."""
    store = writable(source)
    with _newest(source) as source:
        known = source.meta if source.meta.zarr_format == 3 else replace(source.meta, attributes=None)
        old = {} if only else read_attributes(store, source.path, known)
        kept = {name: value for name, value in {**old, **new}.items() if value is not None}
        document = put_attributes(store, source.path, source.meta, kept)
        meta = replace(source.meta, document=document, attributes=kept)
        return replace(source, meta=meta), MappingProxyType(kept)


def _remove_outside(source: Source, grid: Grid, stats: WriteStats) -> None:
    """Delete the objects whose place is outside of `grid`."""
    store = writable(source)
    prefix = f"{source.path}/" if source.path else ""
    gone = []
    for key in store.list(prefix):
        cell = source.meta.keys.cell(key[len(prefix) :], len(grid.axes))
        if cell is not None and any(i >= n for i, n in zip(cell, grid.shape, strict=True)):
            gone.append(join(source.path, key[len(prefix) :]))
    store.delete(gone)
    stats.add(removed=len(gone))


def _clear_edges(source: Source, kept: Shape, axes: list[int], written: Shape, stats: WriteStats) -> None:
    """In objects that reach past `kept` along `axes`, set what lies past it to the fill value. `source` has
    the largest shape there was or will be."""
    sizes = source.meta.grid.chunk_shape or ()
    ends = [
        min(-(-n // size) * size, most) for n, size, most in zip(kept, sizes, source.meta.shape, strict=True)
    ]
    for axis in axes:
        if kept[axis] < ends[axis]:
            bounds = [slice(0, end) for end in ends]
            key = (*bounds[:axis], slice(kept[axis], ends[axis]), *bounds[axis + 1 :])
            write(
                source, selection.basic(key, source.meta.shape), source.meta.fill, stats, written, lazy=True
            )
