"""From a selection to a plan, and the check of a caller's `out`: what every executor does first."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gpuzarr import config
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import ArgumentError, ChunkError, GpuzarrError, LimitError
from gpuzarr.plan.coalesce import coalesce
from gpuzarr.plan.pieces import Cells, plan_pieces
from gpuzarr.plan.table import Plan
from gpuzarr.selection import Selection

_IN_CACHE = 512 << 10
"""Bytes of a coalesced request that a core decodes right after it has read them."""


def make_plan(source: Source, selection: Selection, stats: ReadStats, host: bool = False) -> Plan:
    """The plan of a read. Reads shard indexes, nothing else. `host`: that decodes request by request."""
    try:
        plan, cells = plan_pieces(selection, source.meta.chunk_grid)
        return resolved(source, plan, cells, stats, host)
    except GpuzarrError as error:
        source.located(error)
        raise
    except MemoryError as error:
        raise LimitError(f"out of memory while planning: {error}", array=source.name) from error


def resolved(source: Source, plan: Plan, cells: Cells, stats: ReadStats, host: bool = False) -> Plan:
    """A plan with its byte ranges, in requests."""
    settings, traits = config.current(), source.store.traits
    try:
        plan = source.shards(stats).resolve(plan, cells)
        _check_encoded(source, plan)
        return coalesce(
            plan,
            settings.coalesce_gap if traits.coalesce_gap is None else traits.coalesce_gap,
            traits.request_nbytes or min(settings.request_nbytes, _IN_CACHE if host else sys.maxsize),
        )
    except GpuzarrError as error:
        source.located(error)
        raise


def _check_encoded(source: Source, plan: Plan) -> None:
    """Refuse chunks that a shard index says are far larger than what they can decode to."""
    largest = np.zeros(len(plan.shapes), np.int64)
    np.maximum.at(largest, plan.shape, plan.nbytes)
    for position, nbytes in enumerate(largest.tolist()):
        try:
            source.check_encoded(nbytes, plan.shapes[position])
        except ChunkError as error:
            row = int(np.argmax((plan.nbytes == nbytes) & (plan.shape == position)))
            source.located(error, source.key(plan.objects[plan.key[row]].tolist()))
            raise


def check_out(out: Any, selection: Selection, dtype: np.dtype[Any]) -> None:
    """`out` must be an array of the result's shape, and of a type that holds the array's values."""
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise ArgumentError(f"out is a {type(out).__name__}, not an array")
    if tuple(out.shape) != selection.result_shape:
        raise ArgumentError(f"out has shape {tuple(out.shape)}, the selection {selection.result_shape}")
    if out.dtype != dtype and not np.can_cast(dtype, out.dtype, "safe"):
        raise ArgumentError(f"out has type {out.dtype}, the array {dtype}", hint="give an array of that type")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ArgumentError("out is read-only")


def check_exact(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """`out` must have the shape and the type of the result."""
    if tuple(getattr(out, "shape", ())) != shape or getattr(out, "dtype", None) != dtype:
        given = f"{getattr(out, 'dtype', type(out).__name__)}{list(getattr(out, 'shape', ()))}"
        raise ArgumentError(f"out is {given}, the boxes are {dtype}{list(shape)}")
