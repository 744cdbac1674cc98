"""One resolution of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuzarr.array import Array
from gpuzarr.device.choose import choose
from gpuzarr.errors import UnsupportedError
from gpuzarr.ome.metadata import Document
from gpuzarr.ome.transforms import Transform


@dataclass(frozen=True, eq=False)
class Level:
    """One resolution."""

    path: str
    """Relative to the image's group."""
    array: Array
    transform: Transform | None
    """From indexes to the physical coordinates of elements' centres; None where `reason` says why not."""
    transformations: tuple[Document, ...]
    """As the document has them."""
    reason: UnsupportedError | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return self.array.shape

    @property
    def scale(self) -> tuple[float, ...] | None:
        """The size of an element along each axis, in the axis's unit. None where the transformation turns or
        shears axes, or is not linear."""
        return None if self.transform is None else self.transform.scale

    @property
    def translation(self) -> tuple[float, ...] | None:
        """Where the centre of the first element lies, in the axes' units."""
        return None if self.transform is None else self.transform.offset

    def __repr__(self) -> str:
        return f"<gpuzarr.ome.Level {self.path} {self.shape} {self.array.dtype}, elements of {self.sizes}>"

    @property
    def sizes(self) -> str:
        """The scale as people read it."""
        return "no size per axis" if self.scale is None else " × ".join(f"{one:g}" for one in self.scale)


def on(array: Array, device: str | None) -> Array:
    """The same array, read to another device."""
    if device is None:
        return array
    place = choose(device)
    return array if place.name == array.device else Array(array.store, array.path, array.metadata, place)


def from_shapes(finest: Sequence[int], shape: Sequence[int]) -> Transform:
    """Where a document gives no transformation: how much smaller than the finest a level is. A level that was
    rounded, up or down, is a whole number of times smaller."""
    scale = []
    for full, n in zip(finest, shape, strict=True):
        ratio = full / n if n and full else 1.0
        whole = round(ratio)
        scale.append(float(whole) if whole and n in (full // whole, -(-full // whole)) else ratio)
    return Transform.scaling(tuple(scale))
