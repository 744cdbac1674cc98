"""The read, top to bottom: a selection becomes a plan, the plan a result."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.choose import Place
from gpuzarr.engine.host import read_host
from gpuzarr.engine.planning import check_out, make_plan
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import GpuzarrError, LimitError
from gpuzarr.selection import Selection


def read(source: Source, selection: Selection, out: Any, stats: ReadStats, place: Place) -> Any:
    """The selected elements where `place` says, in `out` if one is given. Values without fixed bytes,
    strings and objects, have no form on a device: they are read on the host."""
    try:
        if place.device is None or not source.meta.has_bytes:
            return source.settled(partial(_read_host, source, selection, out, stats))
        from gpuzarr.engine.device import read_device

        return source.settled(partial(read_device, source, selection, out, stats, place.device))
    except GpuzarrError as error:
        source.located(error)
        raise
    except MemoryError as error:
        raise LimitError(f"out of memory: {error}", array=source.name, hint="read it in parts") from error


def _read_host(
    source: Source, selection: Selection, out: NDArray[Any] | None, stats: ReadStats
) -> NDArray[Any]:
    meta = source.meta
    if out is not None:
        check_out(out, selection, meta.dtype)
    lands = None
    if out is not None and out.dtype == meta.dtype and meta.dtype.kind != "T":
        lands = selection.flat_view(carried(out, meta.carrier))
    fresh = None
    if lands is None:
        fresh = empty(selection.flat_shape, meta.carrier, source.name)
        lands = fresh[selection.flips]
    if selection.size:
        read_host(source, make_plan(source, selection, stats, host=True), lands, stats)
    if out is not None and fresh is None:
        return out
    result = _final(selection.arrange(lands), meta.dtype)
    if out is None:
        return result
    out[...] = result
    return out


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], array: str) -> NDArray[Any]:
    """An uninitialised result, or a LimitError."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise LimitError(
            f"no memory for a result of shape {shape} and type {dtype}: {error}",
            array=array,
            hint="read it in parts",
        ) from error


def carried(out: NDArray[Any], carrier: np.dtype[Any]) -> NDArray[Any]:
    """A caller's array as one of carriers."""
    return out if out.dtype == carrier or carrier.kind == "O" else out.view(carrier)


def _final(result: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The carrier's values as the array's own type."""
    if dtype.kind == "T":
        return result.astype(dtype)
    return result if result.dtype == dtype else result.view(dtype)
