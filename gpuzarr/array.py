"""A handle on one array. It holds what was read of the metadata and hands everything else on; no arithmetic
here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuzarr import selection
from gpuzarr.codecs.base import Codec
from gpuzarr.device.choose import Place, choose
from gpuzarr.engine.read import read
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import ReadOnlyError
from gpuzarr.meta.dialect import read_attributes
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.selection import Selection
from gpuzarr.store.base import Store

if TYPE_CHECKING:
    from gpuzarr.engine.explain import Explanation
    from gpuzarr.engine.stats import WriteStats


class Array:
    """An array in a store. `open`, `create_array` and `save` make it.

    `array[key]` reads what NumPy would select and gives a NumPy array (a CuPy array where `device` is a CUDA
    device), in native byte order; `array[key] = values` writes. Handles may be shared by threads. Shard
    indexes that were read are kept; reopen an array that others have rewritten.
    """

    __slots__ = ("_attributes", "_changing", "_device", "_source", "_writable")

    def __init__(
        self, store: Store, path: str, meta: ArrayMeta, device: Place, writable: bool = False
    ) -> None:
        self._source = Source.of(store, path, meta)
        self._device = device
        self._writable = writable
        self._attributes: Mapping[str, Any] | None = None
        self._changing = threading.Lock()

    @property
    def store(self) -> Store:
        """The store that holds the array."""
        return self._source.store

    @property
    def path(self) -> str:
        """The array's path in its store; empty at the root."""
        return self._source.path

    @property
    def name(self) -> str:
        """Store and path, as messages show them."""
        return self._source.name

    @property
    def metadata(self) -> ArrayMeta:
        """Everything that is known of the array, as one frozen value."""
        return self._source.meta

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dimension."""
        return self.metadata.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of results, in native byte order."""
        return self.metadata.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, decoded. Variable-length values count as one pointer each."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        """The shape of the chunks that are decoded one by one: inside shards, the inner ones. Where chunk
        sizes differ, the sizes along each dimension."""
        grid = self.metadata.chunk_grid
        if grid.chunk_shape is not None:
            return grid.chunk_shape
        return tuple(tuple(axis.sizes(np.arange(axis.count)).tolist()) for axis in grid.axes)

    @property
    def nchunks(self) -> int:
        """Number of chunks, inside shards of the inner ones."""
        return prod(self.metadata.chunk_grid.shape)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """The shape of the shards, None without sharding."""
        return self.metadata.grid.chunk_shape if self.metadata.levels else None

    @property
    def fill_value(self) -> Any:
        """What elements of missing chunks are, as a NumPy scalar."""
        return self.metadata.fill[()]

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codecs of the innermost chunks, in the order of encoding."""
        return self.metadata.codecs

    @property
    def zarr_format(self) -> int:
        """2 or 3."""
        return self.metadata.zarr_format

    @property
    def device(self) -> str:
        """Where results are: `cpu`, `cuda:0`, `sim`."""
        return self._device.name

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The user's attributes. Those of Zarr v2 are read when they are first asked for."""
        if self._attributes is None:
            self._attributes = MappingProxyType(read_attributes(self.store, self.path, self.metadata))
        return self._attributes

    @property
    def mode(self) -> str:
        """`r`, or `r+` where the array can be written."""
        return "r+" if self._writable else "r"

    def update_attributes(self, attributes: Mapping[str, Any], *, replace: bool = False) -> None:
        """Set attributes, JSON values by name; a None removes one. `replace` removes all others."""
        from gpuzarr.engine.resize import changed_attributes

        self._require_writable()
        with self._changing:
            self._source, self._attributes = changed_attributes(self._source, attributes, replace)

    @property
    def dimension_names(self) -> tuple[str | None, ...] | None:
        """A name a dimension, where the metadata gives them; for v2, xarray's `_ARRAY_DIMENSIONS`."""
        if self.zarr_format == 3:
            return self.metadata.dimension_names
        names = self.attrs.get("_ARRAY_DIMENSIONS")
        fits = (
            isinstance(names, list)
            and len(names) == self.ndim
            and all(isinstance(name, str) for name in names)
        )
        return tuple(names) if fits and names is not None else None

    def __getitem__(self, key: Any) -> Any:
        """What NumPy gives for the same key: integers, slices of any step, `...`, newaxis, boolean and
        integer arrays."""
        return self._scalar(self._read(selection.basic(key, self.shape)), key)

    def read(
        self, key: Any = ..., out: Any = None, stream: Any = None, *, stats: ReadStats | None = None
    ) -> Any:
        """The elements at `key`, in `out` if one is given: an array of the result's shape, of any strides,
        on this array's device. On CUDA the read begins after what `stream` has queued, a CuPy stream, or the
        thread's current one; the result is complete when this returns. `stats` counts requests, bytes and
        chunks. Always an array, of no dimensions for one element."""
        with nullcontext() if stream is None else stream:
            return self._read(selection.basic(key, self.shape), out, stats)

    def __setitem__(self, key: Any, values: Any) -> None:
        """Set what `self[key]` selects, as NumPy does: values are broadcast, and cast to the array's type."""
        self.write(key, values)

    def write(self, key: Any, values: Any, stream: Any = None, *, stats: WriteStats | None = None) -> None:
        """Set the elements at `key`. `values` are in host memory or on a device; those that lie on this
        array's device, and have its type, are encoded there, behind what `stream` has queued, a CuPy stream,
        or the thread's current one. Chunks that are written whole are not read first; a shard is rewritten
        once. When an error is raised, every chunk has either its old values or the new ones. `stats` counts
        chunks, objects and bytes."""
        with nullcontext() if stream is None else stream:
            self._write(selection.basic(key, self.shape), values, stats)

    def patches(
        self,
        origins: Any,
        shape: Sequence[int | Sequence[int]],
        *,
        mode: str = "error",
        fill: Any = None,
        out: Any = None,
        dtype: Any = None,
        scale: float | None = None,
        offset: float | None = None,
        axes: Sequence[int] | None = None,
        cache: bool = False,
        stream: Any = None,
        stats: ReadStats | None = None,
    ) -> Any:
        """Boxes of one `shape` at `origins` [n, d], one behind the other: an array [n, *shape] on this
        array's device. Each chunk is fetched and decoded once, however many boxes touch it.

        Where origins have fewer columns than the array has dimensions, they are those of the last ones, and
        boxes take the first ones whole. `shape` may list indices for a dimension instead of a length:
        channels, say. Origins may be negative, and boxes may reach over the edge, as `mode` says: "error" (a
        SelectionError), "constant" (`fill`, by default the array's fill value), or "edge", "reflect", "wrap",
        as in `numpy.pad`. `out` has the result's shape and type. `cache`: chunks are kept decoded, on the
        device that they were decoded on, for all handles of the process, within the settings `cache_nbytes`
        and `device_cache_nbytes`. `stream` and `stats` are those of `read`.

        `dtype` is the result's type: float16, float32 or float64; with `scale` or `offset`, float32 where it
        is not given. Values, `fill` among them, become float32 (float64 for float64), times `scale`, plus
        `offset`, then float16: each step rounds once, to nearest, and every NaN becomes the plain one. `axes`
        is the order of a box's dimensions in the result, (1, 2, 0) for channels that come last: [n, *those].
        Devices need memory for the boxes in this array's type as well, unless its values are of the same size
        as the result's."""
        from gpuzarr.engine.boxes import read_boxes
        from gpuzarr.engine.convert import finish_of
        from gpuzarr.selection import boxes

        at, sizes = boxes(origins, shape, self.shape)
        finish = finish_of(self.metadata, dtype, scale, offset, axes)
        stats = stats or ReadStats()
        with nullcontext() if stream is None else stream:
            return read_boxes(self._source, at, sizes, mode, fill, out, stats, self._device, finish, cache)

    @property
    def oindex(self) -> Indexer:
        """`oindex[key]`, to read and to write: every dimension is indexed by itself, by an integer, a slice,
        or a 1-d index array."""
        return Indexer(
            lambda key: self._read(selection.orthogonal(key, self.shape)),
            lambda key, values: self._write(selection.orthogonal(key, self.shape), values),
        )

    @property
    def vindex(self) -> Indexer:
        """`vindex[key]`, to read and to write: index arrays select point by point; their dimensions come
        first in the result."""
        return Indexer(
            lambda key: self._scalar(self._read(selection.coordinates(key, self.shape)), key),
            lambda key, values: self._write(selection.coordinates(key, self.shape), values),
        )

    @property
    def blocks(self) -> Indexer:
        """`blocks[key]`, to read and to write: whole chunks by their place in the grid; whole shards where
        there are shards."""
        grid = self.metadata.grid
        edges = [lambda i, axis=axis: axis.low(np.int64(i)) for axis in grid.axes]

        def chosen(key: Any) -> Selection:
            return selection.blocks(key, self.shape, grid.shape, edges)

        return Indexer(
            lambda key: self._read(chosen(key)), lambda key, values: self._write(chosen(key), values)
        )

    def resize(self, shape: Sequence[int]) -> None:
        """Another shape of as many dimensions. What falls outside is deleted; what comes is the fill
        value."""
        from gpuzarr.engine.resize import resize

        self._require_writable()
        with self._changing:
            self._source = resize(self._source, shape)

    def append(self, values: Any, axis: int = 0) -> None:
        """Grow along `axis` by `values`, whose other dimensions are the array's. The shape changes once they
        are stored. They come behind what other handles have appended."""
        from gpuzarr.engine.resize import append

        self._require_writable()
        with self._changing:
            self._source = append(self._source, values, axis, self._device)

    def explain(self, key: Any = ...) -> Explanation:
        """What reading `key` would do, without doing it: requests, bytes, chunks, and which stage runs
        where and why. Only shard indexes are read. Print it."""
        from gpuzarr.engine.explain import explain

        return explain(self._source, selection.basic(key, self.shape), self._device)

    def _read(self, chosen: Selection, out: Any = None, stats: ReadStats | None = None) -> Any:
        return read(self._source, chosen, out, stats or ReadStats(), self._device)

    def _write(self, chosen: Selection, values: Any, stats: WriteStats | None = None) -> None:
        from gpuzarr.engine.write import WriteStats, write  # readers need not load it

        self._require_writable()
        write(self._source, chosen, values, stats or WriteStats(), self._device)

    def _require_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyError(
                "the array is open for reading", array=self.name, hint='open it with mode="r+"'
            )

    def _scalar(self, result: Any, key: Any) -> Any:
        """NumPy gives a scalar, not an array of no dimensions, unless the key holds an ellipsis."""
        whole = key if isinstance(key, tuple) else (key,)
        if (
            isinstance(result, np.ndarray)
            and result.ndim == 0
            and not any(item is Ellipsis for item in whole)
        ):
            return result[()]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The whole array in host memory."""
        if copy is False:
            raise ValueError("a stored array cannot be had without a copy")
        return np.asarray(
            read(self._source, selection.basic(..., self.shape), None, ReadStats(), Place.cpu()), dtype
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Handles can be sent to other processes, if their stores can."""
        return _reopened, (self.store, self.path, self.metadata, self.device, self._writable)

    def __len__(self) -> int:
        """Elements along the first dimension."""
        if not self.shape:
            raise TypeError("len() of an array of no dimensions")
        return self.shape[0]

    def _repr_html_(self) -> str:
        """For notebooks: a table, and a picture of how the array is cut. Nothing is read."""
        from gpuzarr.html import describe_array

        return describe_array(self)

    def __repr__(self) -> str:
        shards = f", shards={self.shards}" if self.shards else ""
        cut = f"chunks={self.chunks}{shards}"
        return f"<gpuzarr.Array {self.name} {self.shape} {self.dtype} {cut} on {self.device}>"


def _reopened(store: Store, path: str, meta: ArrayMeta, device: str, writable: bool) -> Array:
    return Array(store, path, meta, choose(device), writable)


class Indexer:
    """Something that is indexed: `array.oindex[...]`."""

    __slots__ = ("_get", "_set")

    def __init__(self, get: Callable[[Any], Any], set: Callable[[Any, Any], None]) -> None:
        self._get, self._set = get, set

    def __getitem__(self, key: Any) -> Any:
        return self._get(key)

    def __setitem__(self, key: Any, values: Any) -> None:
        self._set(key, values)
