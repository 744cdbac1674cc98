"""Another shape for an array: chunks that fall outside go, elements that come are the fill value.

The new document takes the place of the old one in one step. Behind it what has fallen outside is cleared, so
that it does not come back when the array grows again; a process that is killed in between leaves such chunks
where no reader looks, and the next growth clears them first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuzarr import selection
from gpuzarr.engine.source import Source
from gpuzarr.engine.write import WriteStats, writable, write
from gpuzarr.errors import ArgumentError, UnsupportedError
from gpuzarr.grid import Grid, RectilinearAxis
from gpuzarr.meta.dialect import join, node_from_document, put_attributes, put_node
from gpuzarr.meta.model import ArrayMeta


def reshaped(meta: ArrayMeta, shape: Sequence[int]) -> ArrayMeta:
    """The metadata of the same array in another shape."""
    if len(shape) != len(meta.shape):
        raise ArgumentError(f"shape {tuple(shape)} for an array of {len(meta.shape)} dimensions")
    if any(isinstance(axis, RectilinearAxis) for axis in meta.grid.axes):
        raise UnsupportedError("an array whose chunks differ in size cannot be resized")
    document: Mapping[str, Any] = {**meta.document, "shape": list(shape)}
    made = node_from_document(document)
    assert isinstance(made, ArrayMeta)
    return replace(made, attributes=meta.attributes) if meta.attributes is not None else made


def resize(source: Source, shape: Sequence[int], stats: WriteStats) -> Source:
    """The array in its new shape."""
    store, meta = writable(source), source.meta
    made = reshaped(meta, shape)
    if any(new > old for new, old in zip(shape, meta.shape, strict=True)):
        _remove_outside(source, meta.grid, stats)
    put_node(store, source.path, made.document)
    smaller = Source.of(store, source.path, made)
    if any(new < old for new, old in zip(shape, meta.shape, strict=True)):
        _remove_outside(source, made.grid, stats)
        _clear_edges(source, made, stats)
    return smaller


def append(source: Source, values: Any, axis: int, stats: WriteStats) -> Source:
    """The array with `values` behind its end along `axis`. Their chunks are stored before the new shape."""
    store, meta = writable(source), source.meta
    given = values if hasattr(values, "shape") else np.asarray(values)
    ndim = len(meta.shape)
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"axis {axis} of an array of {ndim} dimensions")
    axis %= ndim
    others = [n for i, n in enumerate(given.shape) if i != axis]
    if len(given.shape) != ndim or others != [n for i, n in enumerate(meta.shape) if i != axis]:
        raise ArgumentError(f"values of shape {tuple(given.shape)} behind an array of shape {meta.shape}")
    shape = list(meta.shape)
    shape[axis] += int(given.shape[axis])
    grown = Source.of(store, source.path, reshaped(meta, shape))
    key = tuple(slice(meta.shape[i], None) if i == axis else slice(None) for i in range(ndim))
    write(grown, selection.basic(key, tuple(shape)), given, stats, written=meta.shape)
    put_node(store, source.path, grown.meta.document)
    return grown


def changed_attributes(
    source: Source, old: Mapping[str, Any], new: Mapping[str, Any], only: bool
) -> tuple[Source, Mapping[str, Any]]:
    """The array with its attributes changed, and the attributes. A None takes one away."""
    merged = {**({} if only else old), **new}
    kept = {name: value for name, value in merged.items() if value is not None}
    document = put_attributes(writable(source), source.path, source.meta, kept)
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


def _clear_edges(source: Source, made: ArrayMeta, stats: WriteStats) -> None:
    """Set what has fallen outside of chunks that stay to the fill value."""
    old, chunks = source.meta.shape, made.chunk_grid
    for i, axis in enumerate(chunks.axes):
        end = min(axis.count * int(axis.sizes(np.zeros(1, np.int64))[0]), old[i])
        if made.shape[i] < old[i] and made.shape[i] < end:
            bounds = [slice(0, min(n, o)) for n, o in zip(made.shape, old, strict=True)]
            key = (*bounds[:i], slice(made.shape[i], end), *bounds[i + 1 :])
            write(source, selection.basic(key, old), made.fill, stats)
