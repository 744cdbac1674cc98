"""What the metadata of every dialect is read into. Frozen values; the dialects differ only in how they are
written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import ChunkSpec, Codec
from gpuzarr.codecs.chain import Chain, bind
from gpuzarr.codecs.sharding import ShardIndex
from gpuzarr.errors import LimitError
from gpuzarr.grid import Grid
from gpuzarr.grid.keys import KeyEncoding
from gpuzarr.meta.dtypes import carrier


@dataclass(frozen=True, slots=True)
class ShardLevel:
    """One level of sharding: the chunks that each shard, or chunk of the level above, is divided into."""

    chunk_shape: tuple[int, ...]
    """In the array's order of axes."""
    axes: tuple[int, ...]
    """Axis i of the shard's index is axis `axes[i]` of the array: transposes outside the shard reorder it."""
    index: ShardIndex


@dataclass(frozen=True)
class ArrayMeta:
    """An array: what it holds, how it is cut, how its pieces are called and encoded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """In native byte order, as results have it."""
    fill: NDArray[Any]
    """0-d, of `dtype` (of objects, where that is variable-length strings)."""
    grid: Grid
    """Of the stored objects: chunks, or shards where there are `levels`."""
    keys: KeyEncoding
    levels: tuple[ShardLevel, ...]
    codecs: tuple[Codec, ...]
    """Of the innermost chunks, in the order of encoding."""
    attributes: Mapping[str, Any] | None
    """None where they lie in an object of their own that has not been read."""
    dimension_names: tuple[str | None, ...] | None
    zarr_format: int
    document: Mapping[str, Any]
    """The metadata document as it was read."""

    @cached_property
    def chunk_grid(self) -> Grid:
        """The grid of the innermost chunks, which are decoded one by one."""
        return Grid.regular(self.shape, self.levels[-1].chunk_shape) if self.levels else self.grid

    @cached_property
    def carrier(self) -> np.dtype[Any]:
        """The type in which values move."""
        return np.dtype(object) if self.dtype.kind == "T" else carrier(self.dtype)

    @cached_property
    def carried_fill(self) -> NDArray[Any]:
        """The fill value as a `carrier` value."""
        return self.fill if self.carrier.kind == "O" else self.fill.view(self.carrier)

    @cached_property
    def _chains(self) -> dict[tuple[int, ...], Chain]:
        return {}

    def chain(self, shape: tuple[int, ...]) -> Chain:
        """The codecs bound to one chunk shape. A shape that nothing may decode to is a LimitError."""
        found = self._chains.get(shape)
        if found is None:
            nbytes, most = ChunkSpec.of(shape, self.carrier).nbytes, config.current().max_chunk_nbytes
            if max(prod(shape), nbytes or 0) > most:
                raise LimitError(
                    f"chunks of shape {shape} and type {self.dtype} decode to more than {most} bytes",
                    hint="raise max_chunk_nbytes if it is meant",
                )
            found = self._chains[shape] = bind(self.codecs, shape, self.carrier)
        return found

    @cached_property
    def has_bytes(self) -> bool:
        """Whether values are fixed numbers of bytes, which can move to a device."""
        return self.carrier.kind != "O" and self.carrier.itemsize > 0


@dataclass(frozen=True)
class GroupMeta:
    """A group. `children` are the metadata documents of everything below it, where they came consolidated."""

    attributes: Mapping[str, Any] | None
    zarr_format: int
    document: Mapping[str, Any]
    children: Mapping[str, Mapping[str, Any]] | None = None
    """Path relative to the group -> document (v2: with `zarr_attributes` merged in)."""


NodeMeta = ArrayMeta | GroupMeta
