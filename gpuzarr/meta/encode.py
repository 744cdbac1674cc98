"""Data types, fill values and chunk grids as documents have them: `meta.dtypes` and `meta.v3` the other way
round."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError
from gpuzarr.meta.dtypes import CORE, SMALL, DType, fill_value

_UNITS = {"M": "numpy.datetime64", "m": "numpy.timedelta64"}


def dtype_v2(dtype: DType) -> Any:
    """A v2 `dtype`. Variable-length values are objects, told apart by their filter."""
    if dtype.kind in "OT":
        return "|O"
    if dtype.name in SMALL:
        return dtype.name
    if dtype.names and dtype.fields:
        fields = []
        for name in dtype.names:
            one = dtype.fields[name][0]
            base, shape = (one.subdtype[0], list(one.subdtype[1])) if one.subdtype else (one, [])
            fields.append([name, dtype_v2(base), shape] if shape else [name, dtype_v2(base)])
        return fields
    return dtype.str


def dtype_v3(dtype: DType) -> Any:
    """A v3 `data_type`. Byte order is a matter of the codecs."""
    if dtype.name in CORE or dtype.name in SMALL:
        return dtype.name
    if dtype.kind == "T":
        return "string"
    if dtype.kind == "O":
        return "variable_length_bytes"
    if dtype.kind in "mM":
        unit, scale = np.datetime_data(dtype)
        return {"name": _UNITS[dtype.kind], "configuration": {"unit": unit, "scale_factor": scale}}
    if dtype.names and dtype.fields:
        listed = [[name, dtype_v3(dtype.fields[name][0])] for name in dtype.names]
        return {"name": "structured", "configuration": {"fields": listed}}
    if dtype.kind in "SUV" and not dtype.subdtype:
        name = {"S": "null_terminated_bytes", "U": "fixed_length_utf32", "V": "raw_bytes"}[dtype.kind]
        return {"name": name, "configuration": {"length_bytes": dtype.itemsize}}
    raise ArgumentError(f"{dtype} is no data type of Zarr v3")


def regular(chunk_shape: Sequence[int]) -> dict[str, Any]:
    """A v3 `chunk_grid` of chunks of one shape."""
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}


def rectilinear(chunk_shapes: Sequence[Any]) -> dict[str, Any]:
    """A v3 `chunk_grid` with its own sizes along each axis (ZEP 3): one for all, or `run_lengths`."""
    return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(chunk_shapes)}}


def run_lengths(sizes: Sequence[int]) -> list[Any]:
    """The sizes of chunks along an axis: `[[10, 3], 5]` for 10, 10, 10, 5, where that is shorter."""
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    if len(runs) == len(sizes):
        return [*sizes]
    return [[size, count] if count > 1 else size for size, count in runs]


def fill(value: Any, dtype: DType, zarr_format: int) -> Any:
    """A `fill_value`, in a form that reads back to the same bits. None: zero or empty; in v2 null."""
    if value is None:
        if zarr_format == 2 and dtype.kind not in "T":
            return None
        value = "" if dtype.kind == "T" else b"" if dtype.kind == "O" else np.zeros((), dtype)[()]
    if dtype.kind == "T":
        return str(value)
    if dtype.kind == "O":
        return base64.b64encode(bytes(value)).decode()
    try:
        given = np.asarray(value, dtype)
        if given.shape:
            raise ValueError("one value is needed")
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"fill_value {value!r} is no {dtype} value: {error}") from error
    if dtype.kind in "iubfc" and not np.array_equal(given, np.asarray(value), equal_nan=dtype.kind in "fc"):
        raise ArgumentError(f"fill_value {value!r} cannot be held by {dtype}")
    written = _written(given, dtype, zarr_format)
    back = fill_value(written, dtype, zarr_format)
    if back.tobytes() != given.tobytes():
        raise ArgumentError(f"fill_value {value!r} cannot be written in Zarr v{zarr_format} to the last bit")
    return written


def _written(given: NDArray[Any], dtype: DType, zarr_format: int) -> Any:
    if dtype.kind == "b":
        return bool(given)
    if dtype.kind in "iu":
        return int(given)
    if dtype.kind in "mM":
        return int(given.view(np.int64))
    if dtype.kind == "U":
        return str(given)
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        halves = given.reshape(1).view(part)
        return [_float(halves[0:1], part, zarr_format), _float(halves[1:2], part, zarr_format)]
    if dtype.kind == "f" or dtype.name in SMALL:
        return _float(given.reshape(1), dtype, zarr_format)
    return base64.b64encode(given.tobytes()).decode()


def _float(one: NDArray[Any], dtype: DType, zarr_format: int) -> Any:
    """A number; NaN and the infinities by name; a NaN with a payload in hexadecimal, which v3 has."""
    number = float(one.astype(np.float64)[0])
    if np.isnan(number):
        usual = np.array([np.nan], np.float64).astype(dtype)
        if one.tobytes() == usual.tobytes() or zarr_format == 2:
            return "NaN"
        return f"0x{int.from_bytes(one.tobytes(), 'little'):0{2 * dtype.itemsize}x}"
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return int(number) if dtype.kind not in "fcV" and number.is_integer() else number
