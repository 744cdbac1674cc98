"""Numbers of one type stored as another, by value (zarr-extensions `cast_value`).

    1. `scalar_map` replaces the values it names, NaN among them
    2. `rounding` picks a neighbour where the other type has no equal value
    3. `out_of_range` decides about values beyond the other type's: an error, its nearest end (for floats:
    infinity), or,
       for integers only, the remainder modulo their number

NaN and infinities have no integer, whatever `out_of_range` says. Decoding goes by the same rules the other
way."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.scale_offset import parse_number
from gpuzarr.errors import ChunkError, MetadataError, MissingDependencyError, UnsupportedError

NUMPY: Final = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {
    "float16",
    "float32",
    "float64",
}
ML_INTEGERS: Final = {"int2": 2, "int4": 4, "uint2": 2, "uint4": 4}
ML_FLOATS: Final = {
    "bfloat16",
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
}
ROUNDINGS: Final = ("nearest-even", "towards-zero", "towards-positive", "towards-negative", "nearest-away")

Entries = tuple[tuple[Any, Any], ...]


@codec("cast_value")
@dataclass(frozen=True, slots=True)
class CastValue(Codec):
    """`data_type` is a Zarr v3 type of integers or floats; `scalar_map` holds pairs for `encode` and for
    `decode`."""

    data_type: str
    rounding: str = "nearest-even"
    out_of_range: str | None = None
    scalar_map: tuple[tuple[str, Entries], ...] | None = None
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Each direction of `scalar_map` is a list of pairs."""
        given = configuration.get("scalar_map")
        if given is not None:
            frozen = []
            for direction, pairs in given.items() if isinstance(given, dict) else [("", None)]:
                if direction not in ("encode", "decode") or not _are_pairs(pairs):
                    raise MetadataError(f"scalar_map {given!r:.80} is not two lists of pairs", codec=cls.name)
                frozen.append((direction, tuple((key, value) for key, value in pairs)))
            configuration = {**configuration, "scalar_map": tuple(frozen)}
        return super(CastValue, cls).from_config(configuration)

    def __post_init__(self) -> None:
        if (
            not isinstance(self.data_type, str)
            or self.data_type not in NUMPY | ML_FLOATS | ML_INTEGERS.keys()
        ):
            raise MetadataError(f"data_type {self.data_type!r:.80} is not one of numbers", codec="cast_value")
        if self.rounding not in ROUNDINGS:
            raise MetadataError(f"rounding {self.rounding!r} is not one of {ROUNDINGS}", codec="cast_value")
        if self.out_of_range not in (None, "clamp", "wrap"):
            raise MetadataError(f"out_of_range {self.out_of_range!r} is not known", codec="cast_value")
        if self.out_of_range == "wrap" and "float" in self.data_type:
            raise MetadataError(f"{self.data_type} values cannot wrap", codec="cast_value")

    def to_config(self) -> dict[str, Any]:
        """Only what is not as it would be by default, with the pairs as lists."""
        stated: dict[str, Any] = {"data_type": self.data_type}
        if self.rounding != "nearest-even":
            stated["rounding"] = self.rounding
        if self.out_of_range is not None:
            stated["out_of_range"] = self.out_of_range
        if self.scalar_map is not None:
            stated["scalar_map"] = {way: [list(pair) for pair in pairs] for way, pairs in self.scalar_map}
        return stated

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many values of `data_type`."""
        if decoded.dtype.name not in NUMPY | ML_FLOATS | ML_INTEGERS.keys():
            raise MetadataError(f"{decoded.dtype} values are not cast", codec="cast_value")
        return decoded.typed(_dtype(self.data_type))

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Cast back."""
        return self._cast(as_array(chunk, self.encoded(decoded)), decoded.dtype, "decode")

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Cast."""
        return self._cast(as_array(chunk, decoded), self.encoded(decoded).dtype, "encode")

    def _cast(self, values: NDArray[Any], dtype: np.dtype[Any], way: str) -> NDArray[Any]:
        target = dtype.newbyteorder("=")
        if values.dtype.name in ML_FLOATS:
            values = values.astype(np.float64)  # exact
        elif values.dtype.name in ML_INTEGERS:
            values = values.astype(np.int8)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        replaced = [
            (values != values if key != key else values == key, value)
            for key, value in (
                (
                    parse_number(key, values.dtype, "cast_value"),
                    parse_number(value, _wide(target), "cast_value"),
                )
                for key, value in dict(self.scalar_map or ()).get(way, ())
            )
        ]
        for where, _ in replaced:
            values = np.where(where, values.dtype.type(0), values)
        with np.errstate(all="ignore"):
            if target.name in NUMPY and target.kind == "f":
                result = _to_float(values, target, self.rounding, self.out_of_range)
            elif target.name in NUMPY:
                result = _to_integer(values, target, self.rounding, self.out_of_range, np.iinfo(target).bits)
            elif target.name in ML_INTEGERS:
                bits = ML_INTEGERS[target.name]
                wide = np.dtype("u1" if target.name[0] == "u" else "i1")
                result = _to_integer(values, wide, self.rounding, self.out_of_range, bits).astype(target)
            else:
                raise UnsupportedError(f"no rounding to {target.name} yet", codec="cast_value")
        for where, value in replaced:
            result[where] = value
        return result.astype(dtype, copy=False)


def _are_pairs(pairs: object) -> TypeGuard[list[Any]]:
    return isinstance(pairs, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    )


def _dtype(name: str) -> np.dtype[Any]:
    if name in NUMPY:
        return np.dtype(name)
    try:
        dtype: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
        return dtype
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs ml_dtypes", codec="cast_value", hint="pip install 'gpuzarr[dtypes]'"
        ) from error


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A NumPy type that holds the values of an ml_dtypes type."""
    return (
        np.dtype(np.int8)
        if dtype.name in ML_INTEGERS
        else dtype
        if dtype.name in NUMPY
        else np.dtype(np.float64)
    )


def _out_of_range(values: NDArray[Any], where: NDArray[np.bool_], target: str) -> ChunkError:
    return ChunkError(
        f"{values[where].reshape(-1)[0]} has no {target}",
        codec="cast_value",
        hint="see scalar_map and out_of_range",
    )


def _to_integer(
    values: NDArray[Any], target: np.dtype[Any], rounding: str, out_of_range: str | None, bits: int
) -> NDArray[Any]:
    """Integers of `bits` bits in `target`."""
    low = 0 if target.kind == "u" else -(1 << bits - 1)
    high = low + (1 << bits) - 1
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise _out_of_range(values, ~np.isfinite(values), target.name)
        values = _round(values, rounding).astype(np.float64)
        beyond = (values < low) | (values >= float(high + 1))
        if not beyond.any():
            return values.astype(target)
        if out_of_range == "clamp":
            ends = np.where(values < low, np.array(low, target), np.array(high, target))
            return np.where(beyond, ends, np.where(beyond, 0, values).astype(target))
        if out_of_range == "wrap":
            # fmod is exact, and a magnitude below 2**64 has its uint64.
            rest = np.fmod(values, 2.0**64)
            magnitude = np.abs(rest).astype(np.uint64)
            return _wrapped(np.where(rest < 0, np.uint64(0) - magnitude, magnitude), target, bits)
    else:
        least, most = int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max)
        inside = max(low, least), min(high, most)  # in both types, so that no comparison promotes
        beyond = (values < inside[0]) | (values > inside[1])
        if not beyond.any():
            return values.astype(target)
        if out_of_range == "clamp":
            clamped: NDArray[Any] = np.clip(values, *inside).astype(target)
            return clamped
        if out_of_range == "wrap":
            return _wrapped(values, target, bits)
    raise _out_of_range(values, beyond, target.name)


def _wrapped(values: NDArray[Any], target: np.dtype[Any], bits: int) -> NDArray[Any]:
    """The lowest `bits` bits, as `target`."""
    shift = target.type(8 * target.itemsize - bits)
    lowest: NDArray[Any] = values.astype(target) << shift >> shift
    return lowest


def _round(values: NDArray[Any], rounding: str) -> NDArray[Any]:
    """Whole numbers."""
    if rounding == "nearest-away":
        whole = np.trunc(values)
        away: NDArray[Any] = np.where(np.abs(values - whole) >= 0.5, whole + np.copysign(1, values), whole)
        return away
    directed = {"towards-zero": np.trunc, "towards-positive": np.ceil, "towards-negative": np.floor}
    rounded: NDArray[Any] = directed.get(rounding, np.rint)(values)
    return rounded


def _to_float(
    values: NDArray[Any], target: np.dtype[Any], rounding: str, out_of_range: str | None
) -> NDArray[Any]:
    """Neighbours among the floats of `target`."""
    if values.dtype == target:
        return values.copy()
    finite: NDArray[np.bool_] = np.isfinite(values)
    if values.dtype.kind == "f":
        exact = values.astype(np.float64)
    elif (
        target.itemsize == 2
        or not values.size
        or max(abs(int(values.min())), abs(int(values.max()))) <= 2**53
    ):
        exact = values.astype(np.float64)  # beyond 2**53 it is not, and neither is any such value a float16
    else:
        exact = values.astype(object)
    nearest = (values if exact.dtype == object else exact).astype(target)
    result = nearest
    if rounding != "nearest-even" and (values.dtype.kind != "f" or values.dtype.itemsize > target.itemsize):
        result = _directed(exact, nearest, rounding)
    end = float(2 ** min(np.finfo(target).maxexp, 1023))
    beyond = finite & (np.isinf(result) | (np.abs(exact).astype(np.float64) >= end)) & (target.itemsize < 8)
    if beyond.any():
        if out_of_range != "clamp":
            raise _out_of_range(values, beyond, target.name)
        result = np.where(beyond, np.copysign(target.type(np.inf), nearest), result)
    return result


def _directed(exact: NDArray[Any], nearest: NDArray[Any], rounding: str) -> NDArray[Any]:
    """The neighbour of `nearest` where the rounding asks for that one. `exact` is float64, or Python's
    integers."""
    near = nearest.astype(np.float64)
    if exact.dtype == object:
        near = np.array([int(value) for value in near.reshape(-1)], object).reshape(near.shape)
    up, down = (np.nextafter(nearest, nearest.dtype.type(end)) for end in (np.inf, -np.inf))
    positive = (exact > 0).astype(bool)
    low, high = (near < exact).astype(bool), (near > exact).astype(bool)
    if rounding == "towards-positive":
        return np.where(low, up, nearest)
    if rounding == "towards-negative":
        return np.where(high, down, nearest)
    if rounding == "towards-zero":
        return np.where(high & positive, down, np.where(low & ~positive, up, nearest))
    away = np.where(positive, up, down).astype(np.float64)
    if exact.dtype == object:
        away = np.array([int(value) for value in away.reshape(-1)], object).reshape(away.shape)
    tie = ((near + away) == 2 * exact).astype(bool)
    return np.where(tie & (low | high), np.where(positive, up, down), nearest)
