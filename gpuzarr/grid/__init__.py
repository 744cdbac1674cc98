"""How an array is cut into chunks, axis by axis, and how the pieces are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuzarr.grid.rectilinear import RectilinearAxis
from gpuzarr.grid.regular import RegularAxis

Axis = RegularAxis | RectilinearAxis


@dataclass(frozen=True, slots=True)
class Grid:
    """One Axis a dimension. Chunks are numbered from 0 along each; the last may reach past the end."""

    axes: tuple[Axis, ...]

    @classmethod
    def regular(cls, shape: tuple[int, ...], chunk_shape: tuple[int, ...]) -> Grid:
        """Every chunk of `chunk_shape`."""
        return cls(tuple(RegularAxis(n, c) for n, c in zip(shape, chunk_shape, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(axis.count for axis in self.axes)

    @property
    def chunk_shape(self) -> tuple[int, ...] | None:
        """The shape of every chunk; None if they differ."""
        if all(isinstance(axis, RegularAxis) for axis in self.axes):
            return tuple(axis.size for axis in self.axes if isinstance(axis, RegularAxis))
        return None

    def chunk_shapes(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shapes of the chunks at the grid coordinates `cells` [n, d]."""
        sizes = [axis.sizes(cells[:, i]) for i, axis in enumerate(self.axes)]
        return np.stack(sizes, axis=1) if sizes else np.zeros((len(cells), 0), np.int64)


__all__ = ["Axis", "Grid", "RectilinearAxis", "RegularAxis"]
