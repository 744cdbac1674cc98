"""Data types and fill values of the two formats as NumPy knows them.

Sources: the Zarr v2 and v3 specifications, the zarr-extensions registry, and ml_dtypes for the small floats
and integers. Fill values are kept as 0-d arrays: bits, not numbers, so that NaN payloads and negative zeros
survive.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import MetadataError, MissingDependencyError, UnsupportedError

DType = np.dtype[Any]
STRING: DType = np.dtypes.StringDType()
OBJECT: DType = np.dtype(object)

CORE = frozenset(
    ["bool", "complex64", "complex128", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
SMALL = frozenset(
    """bfloat16 int2 int4 uint2 uint4 float4_e2m1fn float6_e2m3fn float6_e3m2fn float8_e3m4 float8_e4m3
    float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu""".split()
)
_V2 = re.compile(
    r"[<>|=]?(?:[biufc](?:1|2|4|8|16)|[SUV]\d{1,9}|[mM]8(?:\[\d*(?:Y|M|W|D|h|m|s|ms|us|μs|ns|ps|fs|as)\])?)"
)
_LARGEST = 64 << 20  # bytes of one value
_NUMBERS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def small(name: str) -> DType:
    """A type of ml_dtypes, which NumPy lacks."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingDependencyError(
            f"data type {name} needs the package ml_dtypes", hint='pip install "gpuzarr[dtypes]"'
        ) from error
    if not hasattr(ml_dtypes, name):
        raise MissingDependencyError(f"this ml_dtypes has no {name}", hint="pip install --upgrade ml_dtypes")
    dtype: DType = np.dtype(getattr(ml_dtypes, name))
    return dtype


def carrier(dtype: DType) -> DType:
    """The type in which values move: unsigned integers for types that NumPy cannot swap, else the type
    itself."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.name in SMALL else dtype


def from_v2(value: Any) -> DType:
    """A v2 `dtype`: a type string, or a list of fields. Its byte order is kept: it is that of the stored
    bytes."""
    if isinstance(value, str):
        if value in SMALL:
            return small(value)
        if value in ("|O", "O"):
            return OBJECT
        if not _V2.fullmatch(value):
            raise UnsupportedError(f"v2 data type {value!r} is not known")
        try:
            dtype = np.dtype(value)
        except (TypeError, ValueError) as error:
            raise MetadataError(f"v2 data type {value!r}: {error}") from error
        return _bounded(dtype)
    if not isinstance(value, list) or not value:
        raise MetadataError(f"v2 data type {value!r} is neither a string nor a list of fields")
    fields: list[Any] = []
    for field in value:
        if not isinstance(field, list) or len(field) not in (2, 3) or not isinstance(field[0], str):
            raise MetadataError(f"{field!r} is not a field of a structured data type")
        dtype = from_v2(field[1])
        if dtype.hasobject or dtype.name in SMALL:
            raise UnsupportedError(f"field {field[0]!r} of a structured data type cannot be {field[1]!r}")
        fields.append((field[0], dtype, _field_shape(field[2])) if len(field) == 3 else (field[0], dtype))
    return _structured(fields)


def _field_shape(value: Any) -> tuple[int, ...]:
    shape = value if isinstance(value, list) else [value]
    if not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise MetadataError(f"{value!r} is not the shape of a field")
    return tuple(shape)


def _structured(fields: list[Any]) -> DType:
    try:
        return _bounded(np.dtype(fields))
    except (TypeError, ValueError) as error:
        if isinstance(error, MetadataError):
            raise
        raise MetadataError(f"structured data type: {error}") from error


def _bounded(dtype: DType) -> DType:
    """The type itself, if one value of it, the fill value for one, is of a sane size. (Of the empty ones
    NumPy makes types of one byte.)"""
    if not 0 < dtype.itemsize <= _LARGEST:
        raise UnsupportedError(f"values of {dtype.itemsize} bytes; gpuzarr takes 1 to {_LARGEST}")
    return dtype


def from_v3(value: Any) -> DType:
    """A v3 `data_type`: a name, or a name with a configuration."""
    name = value.get("name") if isinstance(value, dict) else value
    options = value.get("configuration") or {} if isinstance(value, dict) else {}
    if not isinstance(name, str) or not isinstance(options, dict):
        raise MetadataError(f"data_type {value!r} is neither a name nor an object with one")
    if name in CORE:
        return np.dtype(name)
    if name in SMALL:
        return small(name)
    if name == "string":
        return STRING
    if name in ("bytes", "variable_length_bytes"):
        return OBJECT
    if name in ("numpy.datetime64", "numpy.timedelta64"):
        return _time(name, options)
    if name in ("fixed_length_utf32", "null_terminated_bytes", "raw_bytes"):
        return _fixed(name, _whole(options, "length_bytes", name))
    if re.fullmatch(r"r\d{1,12}", name):
        bits = int(name[1:])
        if bits % 8:
            raise MetadataError(f"data_type {name}: raw types hold whole bytes")
        return _fixed("raw_bytes", bits // 8)
    if name in ("struct", "structured"):
        return _structured([_v3_field(field) for field in _field_list(options)])
    raise UnsupportedError(f"data_type {name!r} is not known")


def _field_list(options: Mapping[str, Any]) -> list[Any]:
    fields = options.get("fields")
    if not isinstance(fields, list) or not fields:
        raise MetadataError("a structured data_type without a list of fields")
    return fields


def _v3_field(field: Any) -> tuple[str, DType]:
    if isinstance(field, dict):
        field = [field.get("name"), field.get("data_type")]
    if not isinstance(field, list) or len(field) != 2 or not isinstance(field[0], str):
        raise MetadataError(f"{field!r} is not a field of a structured data_type")
    dtype = from_v3(field[1])
    if dtype.kind in "OT" or dtype.name in SMALL:
        raise UnsupportedError(f"field {field[0]!r} of a structured data_type cannot be {field[1]!r}")
    return field[0], dtype


def _whole(options: Mapping[str, Any], key: str, name: str) -> int:
    value = options.get(key)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise MetadataError(f"data_type {name}: {key} {value!r} is not a whole number")
    return value


def _fixed(name: str, nbytes: int) -> DType:
    if not 0 < nbytes <= _LARGEST:
        raise UnsupportedError(f"values of {nbytes} bytes; gpuzarr takes 1 to {_LARGEST}")
    if name == "fixed_length_utf32":
        if nbytes % 4:
            raise MetadataError(f"data_type {name}: {nbytes} bytes are not whole code points")
        return np.dtype(f"<U{nbytes // 4}").newbyteorder("=")
    return np.dtype(f"{'S' if name == 'null_terminated_bytes' else 'V'}{nbytes}")


def _time(name: str, options: Mapping[str, Any]) -> DType:
    unit, scale = options.get("unit"), _whole({"scale_factor": 1, **options}, "scale_factor", name)
    letter = "M" if name == "numpy.datetime64" else "m"
    try:
        return np.dtype(f"{letter}8" if unit == "generic" else f"{letter}8[{scale}{unit}]")
    except (TypeError, ValueError) as error:
        raise MetadataError(f"data_type {name}: {error}") from error


def fill_value(value: Any, dtype: DType, zarr_format: int) -> NDArray[Any]:
    """A metadata document's `fill_value` as a 0-d array. JSON null, which v2 allows, stands for zero or
    empty."""
    try:
        return _fill(value, dtype, zarr_format)
    except MetadataError:
        raise
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise MetadataError(f"fill_value {value!r} is not a {dtype} value: {error}") from error


def _fill(value: Any, dtype: DType, zarr_format: int) -> NDArray[Any]:
    if dtype.kind in "OT":
        return _object_fill(value, dtype)
    if value is None and zarr_format == 2:
        return np.array("NaT", dtype) if dtype.kind in "mM" else np.zeros((), dtype)
    if dtype.names or (dtype.kind in "SV" and dtype.name not in SMALL):
        return _bytes_fill(value, dtype, zarr_format)
    if dtype.kind == "U":
        if not isinstance(value, str):
            raise ValueError("a string is needed")
        if len(value) * 4 > dtype.itemsize:
            raise ValueError("it is too long")
        return np.array(value, dtype)
    if dtype.kind == "b":
        if value not in (True, False) or isinstance(value, float):
            raise ValueError("true or false is needed")
        return np.array(bool(value))
    if dtype.kind in "iu":
        return np.array(_integer(value), dtype)
    if dtype.kind in "mM":
        number = np.iinfo(np.int64).min if value == "NaT" else _integer(value)
        return np.array(number, np.dtype(np.int64).newbyteorder(dtype.byteorder)).view(dtype)
    if dtype.kind == "c":
        if not isinstance(value, list) or len(value) != 2:
            if zarr_format == 3 or isinstance(value, list):
                raise ValueError("two parts are needed")
            value = [value, 0.0]
        part = np.dtype(f"f{dtype.itemsize // 2}").newbyteorder(dtype.byteorder)
        return np.array([_float(value[0], part), _float(value[1], part)], part).view(dtype).reshape(())
    return _float(value, dtype)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    ):
        raise ValueError("a whole number is needed")
    return int(value)


def _float(value: Any, dtype: DType) -> NDArray[Any]:
    """A number, one of NaN, Infinity and -Infinity, or the value's bits in hexadecimal, most significant
    first."""
    if isinstance(value, str):
        if value.startswith("0x"):
            if len(value) != 2 + 2 * dtype.itemsize:
                raise ValueError(f"{2 * dtype.itemsize} hexadecimal digits are needed")
            bits = np.array(int(value, 16), np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder))
            return bits.view(dtype)
        return np.array(_NUMBERS[value], np.float64).astype(dtype)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number is needed")
    with np.errstate(over="ignore"):
        return np.array(value, np.float64).astype(dtype)


def _bytes_fill(value: Any, dtype: DType, zarr_format: int) -> NDArray[Any]:
    """Base64 in most cases; fields by name in a v3 `struct`; a list of byte values for raw types."""
    if isinstance(value, dict) and dtype.names and dtype.fields:
        filled = np.zeros((), dtype)
        for name in dtype.names:
            filled[name] = _fill(value[name], dtype.fields[name][0], zarr_format)
        return filled
    if isinstance(value, list):
        raw = bytes(value)
    elif isinstance(value, str):
        raw = _base64(value)
    elif value == 0 and not isinstance(value, bool):
        raw = b""
    else:
        raise ValueError("a base64 string is needed")
    if len(raw) > dtype.itemsize or (len(raw) < dtype.itemsize and raw and dtype.kind == "V"):
        raise ValueError(f"it has {len(raw)} bytes")
    if not dtype.itemsize:
        return np.zeros((), dtype)
    return np.frombuffer(raw.ljust(dtype.itemsize, b"\0"), np.uint8).copy().view(dtype).reshape(())


def _base64(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("it is not base64") from None


def _object_fill(value: Any, dtype: DType) -> NDArray[Any]:
    fill = np.empty((), object)
    if dtype.kind == "T":  # v2 writers put 0 as well, which zarr-python takes for "0"
        fill[()] = value if isinstance(value, str) else "" if value is None else str(value)
    else:
        fill[()] = value
    return fill


def bytes_fill(value: Any) -> NDArray[Any]:
    """The fill value of variable-length bytes: base64 or a list of byte values."""
    fill = np.empty((), object)
    try:
        fill[()] = (
            bytes(value) if isinstance(value, list) else _base64(value) if isinstance(value, str) else b""
        )
    except (TypeError, ValueError) as error:
        raise MetadataError(f"fill_value {value!r}: {error}") from error
    return fill
