"""Coordinate transformations: from the indexes of an array's elements to physical coordinates.

    index ──matrix · index + offset──▶ coordinate of the element's centre

Everything linear is one `Transform`, so lists and sequences are composed by one multiplication. What is not
linear (displacement fields and the like) is an UnsupportedError, which whoever needs the numbers raises;
a stretched or warped image can still be opened and read by pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from gpuzarr.errors import MetadataError, UnsupportedError

Vector = tuple[float, ...]
Fetch = Callable[[str], Any]
"""Reads the array that a transformation keeps its numbers in, as nested lists."""


@dataclass(frozen=True, slots=True)
class Transform:
    """A linear map of `len(offset)` coordinates."""

    matrix: tuple[Vector, ...]
    """Rows, one for each output axis."""
    offset: Vector

    @classmethod
    def identity(cls, ndim: int) -> Self:
        """What leaves indexes as they are."""
        return cls.scaling((1.0,) * ndim)

    @classmethod
    def scaling(cls, scale: Vector) -> Self:
        """A factor for each axis."""
        rows = tuple(tuple(s if i == j else 0.0 for j in range(len(scale))) for i, s in enumerate(scale))
        return cls(rows, (0.0,) * len(scale))

    @property
    def scale(self) -> Vector | None:
        """The factor of each axis; None where axes are mixed, as a rotation or a shear does."""
        n = len(self.offset)
        mixed = any(self.matrix[i][j] for i in range(n) for j in range(n) if i != j)
        return None if mixed else tuple(self.matrix[i][i] for i in range(n))

    def then(self, after: Transform) -> Transform:
        """This one first, `after` behind it."""
        n = range(len(self.offset))
        matrix = tuple(tuple(_dot(after.matrix[i], [row[j] for row in self.matrix]) for j in n) for i in n)
        offset = tuple(_dot(after.matrix[i], self.offset) + after.offset[i] for i in n)
        return Transform(matrix, offset)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    """Terms with a factor of zero are left out, so that diagonal matrices multiply without rounding twice."""
    return sum((a * b for a, b in zip(left, right, strict=True) if a and b), 0.0)


def compose(documents: Sequence[Any], ndim: int, fetch: Fetch) -> Transform:
    """A list of transformations, applied from first to last."""
    total = Transform.identity(ndim)
    for document in documents:
        total = total.then(_one(document, ndim, fetch))
    return total


def _one(document: Any, ndim: int, fetch: Fetch) -> Transform:
    if not isinstance(document, Mapping) or not isinstance(document.get("type"), str):
        raise MetadataError(f"{document!r} is no coordinate transformation", hint="it needs a type")
    kind = document["type"]
    plain = Transform.identity(ndim)
    if kind == "identity":
        return plain
    if kind == "scale":
        return Transform.scaling(_vector(_numbers(document, kind, fetch), ndim, kind))
    if kind == "translation":
        return Transform(plain.matrix, _vector(_numbers(document, kind, fetch), ndim, kind))
    if kind in ("affine", "rotation"):
        width = ndim + 1 if kind == "affine" else ndim
        rows = _rows(_numbers(document, kind, fetch), ndim, width, kind)
        offset = tuple(row[ndim] for row in rows) if kind == "affine" else plain.offset
        return Transform(tuple(row[:ndim] for row in rows), offset)
    if kind == "mapAxis":
        return Transform(_permutation(document.get(kind), ndim), plain.offset)
    if kind == "sequence":
        listed = document.get("transformations")
        if not isinstance(listed, list):
            raise MetadataError("a sequence of transformations needs the list `transformations`")
        return compose(listed, ndim, fetch)
    raise UnsupportedError(f"coordinate transformation {kind!r} is not a linear one that gpuzarr knows")


def _numbers(document: Mapping[str, Any], kind: str, fetch: Fetch) -> Any:
    """The parameters: an array of their own at `path` comes before those in JSON."""
    path = document.get("path")
    if path is None:
        return document.get(kind)
    if not isinstance(path, str):
        raise MetadataError(f"the path {path!r} of a {kind} is not a string")
    return fetch(path)


def _vector(value: Any, length: int, what: str) -> Vector:
    if not isinstance(value, list) or len(value) != length:
        raise MetadataError(f"{what} {value!r} is not a list of {length} numbers, one for each axis")
    return tuple(_number(one, what) for one in value)


def _number(value: Any, what: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300:
        return float(value)
    raise MetadataError(f"{value!r} in a {what} is not a finite number")


def _rows(value: Any, height: int, width: int, what: str) -> tuple[Vector, ...]:
    if isinstance(value, list) and len(value) == height * width and not isinstance(value[0], list):
        value = [value[i : i + width] for i in range(0, len(value), width)]  # drafts have flat ones too
    if isinstance(value, list) and len(value) != height:
        raise UnsupportedError(f"a {what} of {len(value)} rows for {height} axes changes their number")
    if not isinstance(value, list):
        raise MetadataError(f"{what} {value!r} is not a matrix")
    return tuple(_vector(row, width, what) for row in value)


def _permutation(value: Any, ndim: int) -> tuple[Vector, ...]:
    """A list: output axis i is input axis `value[i]`."""
    if not isinstance(value, list):
        raise UnsupportedError(f"mapAxis {value!r} is not a list of axis numbers")
    if sorted(value, key=repr) != sorted(range(ndim), key=repr):
        raise MetadataError(f"mapAxis {value!r} does not name each of {ndim} axes once")
    return tuple(tuple(1.0 if j == source else 0.0 for j in range(ndim)) for source in value)
