"""Another shape for an array: chunks that fall outside go, elements that come are the fill value.

The new document takes the place of the old one in one step. Behind it what has fallen outside is cleared, so
that it does not come back when the array grows again; a process that is killed in between leaves such chunks
where no reader looks, and the next growth clears them first.

Where chunks differ in size, those that are listed stay, also behind the end, and one more takes what reaches
past them all; zarr-python does the same.

A document is read again before it is changed, so that handles which are older than it do not undo what
others did. Those of one process take turns. Groups above that hold consolidated metadata are told of each
change (`engine.consolidate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuzarr import selection
from gpuzarr.device.choose import Place
from gpuzarr.engine.cache import changing
from gpuzarr.engine.consolidate import announce
from gpuzarr.engine.extents import becomes
from gpuzarr.engine.source import Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.engine.turns import turn
from gpuzarr.engine.write import writable, write
from gpuzarr.errors import ArgumentError, MetadataError
from gpuzarr.grid import Axis, Grid, RectilinearAxis
from gpuzarr.meta import encode
from gpuzarr.meta.create import whole_numbers
from gpuzarr.meta.dialect import (
    documents_of,
    join,
    node_from_document,
    put_attributes,
    put_node,
    read_attributes,
    read_meta,
)
from gpuzarr.meta.document import dump
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.store.base import Request, conditional

Shape = tuple[int, ...]


@contextmanager
def _newest(source: Source) -> Iterator[tuple[Source, str | None]]:
    """The array as it is now, for as long as nobody else of this process changes its document; and the
    version of that, if the store puts under conditions."""
    with turn(source.store, [join(source.path, "zarr.json")]):
        version, store = None, conditional(source.store)
        if store is not None:
            (name, *_) = reversed(documents_of(source.meta.document, None))
            (found,) = store.get_versioned([Request(join(source.path, name))])
            version = None if found is None else found.version
        meta = read_meta(source.store, source.path)
        if not isinstance(meta, ArrayMeta):
            raise MetadataError("where the array was is a group now", array=source.name)
        same = meta.document == source.meta.document
        yield (source if same else Source.of(source.store, source.path, meta)), version


def _reshaped(source: Source, shape: Sequence[int]) -> Source:
    """The same array in another shape."""
    meta = source.meta
    if len(shape) != len(meta.shape):
        raise ArgumentError(f"shape {tuple(shape)} for an array of {len(meta.shape)} dimensions")
    document = {**meta.document, "shape": list(shape)}
    longer = _listed_further(meta, shape)
    if longer:
        sizes = [*meta.document["chunk_grid"]["configuration"]["chunk_shapes"]]
        for axis, listed in longer.items():
            sizes[axis] = encode.run_lengths(listed)
        document["chunk_grid"] = encode.rectilinear(sizes)
    made = node_from_document(document)
    assert isinstance(made, ArrayMeta)
    if longer and not meta.levels:
        made.chain(tuple(_largest(axis) for axis in made.grid.axes))  # or it could never be written
    if meta.attributes is not None:
        made = replace(made, attributes=meta.attributes)
    return Source.of(source.store, source.path, made)


def _listed_further(meta: ArrayMeta, shape: Sequence[int]) -> dict[int, list[int]]:
    """Axis -> the sizes of all its chunks, where the listed ones do not reach that far."""
    found = {}
    for i, (axis, length) in enumerate(zip(meta.grid.axes, shape, strict=True)):
        if isinstance(axis, RectilinearAxis) and length > axis.edges[-1]:
            rest = length - int(axis.edges[-1])
            unit = meta.levels[0].chunk_shape[i] if meta.levels else 1  # of which shards are made
            found[i] = [*axis.listed.tolist(), -(-rest // unit) * unit]
    return found


def _largest(axis: Axis) -> int:
    return int(axis.listed.max()) if isinstance(axis, RectilinearAxis) else axis.size


def resize(source: Source, shape: Any) -> Source:
    """The array in its new shape."""
    store, stats, new = writable(source), WriteStats(), whole_numbers(shape, "shape")
    with _newest(source) as (source, version):
        old = source.meta.shape
        made = _reshaped(source, new)
        grown = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if b > a]
        cut = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if b < a]
        largest = _reshaped(source, [max(a, b) for a, b in zip(old, new, strict=True)])
        if grown:
            _remove_outside(source, source.meta.grid, stats)
            _clear_edges(largest, old, grown, old, stats)

        def clear() -> None:
            _remove_outside(source, made.meta.grid, stats)
            _clear_edges(largest, new, cut, largest.meta.shape, stats)

        chunks_first = store.traits.transactional
        if cut and chunks_first:
            clear()
        becomes(source, new)
        announce(store, source.path, put_node(store, source.path, made.meta.document, only=version))
        if cut and not chunks_first:
            clear()
        return made


def append(source: Source, values: Any, axis: int, place: Place | None = None) -> Source:
    """The array with `values` behind its end along `axis`. Their chunks are stored before the new shape."""
    store, stats = writable(source), WriteStats()
    given = _given(values)
    device = None if place is None else place.device
    # Types that the device's arrays lack come with axes of their own.
    within = device.form(source.meta.dtype)[1] if device is not None and device.owns(given) else ()
    with _newest(source) as (source, version):
        old = source.meta.shape
        ndim = len(old)
        if not -ndim <= axis < ndim:
            raise ArgumentError(f"axis {axis} of an array of {ndim} dimensions")
        axis %= ndim
        outer = tuple(given.shape)[: len(given.shape) - len(within)]
        others = [n for i, n in enumerate(outer) if i != axis]
        if len(outer) != ndim or others != [n for i, n in enumerate(old) if i != axis]:
            raise ArgumentError(f"values of shape {tuple(given.shape)} behind an array of shape {old}")
        shape = list(old)
        shape[axis] += int(given.shape[axis])
        grown = _reshaped(source, shape)
        becomes(source, tuple(shape))
        key = tuple(slice(old[i], None) if i == axis else slice(None) for i in range(ndim))
        if store.traits.transactional:
            put_node(store, source.path, grown.meta.document)
        write(grown, selection.basic(key, tuple(shape)), given, stats, place, written=old)
        announce(store, source.path, put_node(store, source.path, grown.meta.document, only=version))
        return grown


def changed_attributes(
    source: Source, new: Mapping[str, Any], only: bool
) -> tuple[Source, Mapping[str, Any]]:
    """The array with its attributes changed, and the attributes. A None takes one away."""
    store = writable(source)
    dump(new)  # refused before anything is read; what others have put there already stays
    with _newest(source) as (source, version):
        known = source.meta if source.meta.zarr_format == 3 else replace(source.meta, attributes=None)
        old = {} if only else read_attributes(store, source.path, known)
        kept = {name: value for name, value in {**old, **new}.items() if value is not None}
        if source.meta.zarr_format == 3 and version is not None:
            document = {**source.meta.document, "attributes": dict(kept)}
            put_node(store, source.path, document, only=version)
        else:
            document = dict(put_attributes(store, source.path, source.meta, kept))
        announce(store, source.path, documents_of(document, kept))
        meta = replace(source.meta, document=document, attributes=kept)
        return replace(source, meta=meta), MappingProxyType(kept)


def _given(values: Any) -> Any:
    """Values with a shape."""
    if hasattr(values, "shape"):
        return values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ArgumentError(f"the values are no array: {error}") from error


def _remove_outside(source: Source, grid: Grid, stats: WriteStats) -> None:
    """Delete the objects whose place is outside of `grid`."""
    store = writable(source)
    prefix = f"{source.path}/" if source.path else ""
    gone = []
    for key in store.list(prefix):
        cell = source.meta.keys.cell(key[len(prefix) :], len(grid.axes))
        if cell is not None and any(i >= n for i, n in zip(cell, grid.shape, strict=True)):
            gone.append(join(source.path, key[len(prefix) :]))
    with changing(store, gone):
        store.delete(gone)
    stats.add(removed=len(gone))


def _clear_edges(source: Source, kept: Shape, axes: list[int], written: Shape, stats: WriteStats) -> None:
    """In objects that reach past `kept` along `axes`, set what lies past it to the fill value. `source` has
    the largest shape there was or will be."""
    grid = zip(kept, source.meta.grid.axes, source.meta.shape, strict=True)
    ends = [min(_end(axis, n), most) for n, axis, most in grid]
    for axis in axes:
        if kept[axis] < ends[axis]:
            bounds = [slice(0, end) for end in ends]
            key = (*bounds[:axis], slice(kept[axis], ends[axis]), *bounds[axis + 1 :])
            chosen = selection.basic(key, source.meta.shape)
            write(source, chosen, source.meta.fill, stats, written=written, lazy=True)


def _end(axis: Axis, length: int) -> int:
    """Where the chunk ends that holds the last of `length` elements."""
    if isinstance(axis, RectilinearAxis):
        return int(axis.edges[np.searchsorted(axis.edges, length)])
    return -(-length // axis.size) * axis.size
