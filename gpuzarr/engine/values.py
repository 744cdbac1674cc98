"""What a caller wants written, as an array's carrier values in the flat form of a selection.

Casts are NumPy's, with two exceptions: text is not parsed into numbers, nor numbers printed as text.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.engine.source import Source
from gpuzarr.errors import ArgumentError, LimitError
from gpuzarr.selection import Selection

_MOST: Final = 1 << 60
"""NumPy can count no further, whatever the type."""


def flat_values(source: Source, selection: Selection, values: Any) -> NDArray[Any]:
    """An array of the selection's flat shape, a view of `values` where no cast is needed. What cannot be cast
    or broadcast is an ArgumentError."""
    carrier = source.meta.carrier
    given = _cast(on_host(values), np.dtype(object) if carrier.kind == "O" else source.meta.dtype)
    given = given if given.dtype == carrier else given.view(carrier)
    shape = selection.result_shape
    while given.ndim > len(shape) and given.shape[0] == 1:  # NumPy drops these
        given = given[0]
    if selection.size > _MOST:
        raise LimitError(f"{selection.size} elements in one write", hint="write them in parts")
    if given.ndim == 0:
        return np.broadcast_to(given, selection.flat_shape)
    try:
        whole = np.broadcast_to(given, shape)
    except ValueError as error:
        raise ArgumentError(
            f"values of shape {given.shape} do not fit a selection of shape {shape}"
        ) from error
    return whole.reshape(selection.flat_shape)[selection.flips]


def on_host(values: Any) -> Any:
    """Values that lie on a device are fetched: CuPy's and ours by `get`, those of torch by `cpu`."""
    if isinstance(values, (np.ndarray, np.generic)) or not hasattr(values, "shape"):
        return values
    if hasattr(values, "get") and (hasattr(values, "__cuda_array_interface__") or hasattr(values, "device")):
        return values.get()
    return values.cpu() if hasattr(values, "cpu") else values


def _cast(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        if dtype.kind == "O" or (dtype.names and not hasattr(values, "dtype")):
            return np.asarray(values, dtype)  # of tuples NumPy would make another axis
        given = np.asarray(values)
        if given.dtype == dtype:
            return given
        _check_kinds(given.dtype, dtype)
        # Numbers of Python's are checked as NumPy does: 300 is no uint8. Arrays wrap around.
        plain = not hasattr(values, "dtype") and not hasattr(values, "__array__")
        return np.asarray(values, dtype) if plain else given.astype(dtype)
    except ArgumentError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"the values are not {dtype}: {error}") from error


def _check_kinds(given: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind in "SU":
        fits = given.kind in "SUT"
    else:
        other = given.kind in "SUTOV" or dtype.kind in "OV"
        fits = not other or np.can_cast(given, dtype, "same_kind")
    if not fits:
        raise ArgumentError(f"{given} values cannot be written to an array of {dtype}")
