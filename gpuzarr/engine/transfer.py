"""One array into another of the same values, region by region.

A region is a box of whole objects of the target, so that no object is written twice and whatever was
finished before a crash need not be looked at again. Where source and target are cut differently, regions are
made large enough that few chunks of the source are decoded for two of them.

    nothing differs but keys       object  ──────────────────────────────────→ object
    the chunks are the same        chunk   ──────────────→ assembled in shards → object
    anything else                  chunk   → decoded → values → encoded        → object

In the first two forms encoded chunks are taken as they are; a damaged one is as damaged afterwards.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import selection
from gpuzarr.codecs.base import as_bytes
from gpuzarr.device.choose import Place
from gpuzarr.engine.cache import changing
from gpuzarr.engine.fetch import Rows
from gpuzarr.engine.passing import assembled, passes, same_grid
from gpuzarr.engine.planning import make_plan
from gpuzarr.engine.read import read
from gpuzarr.engine.regions import Box, Cell, cells_of, edges, sides, sizes
from gpuzarr.engine.source import MODEST_NBYTES, ReadStats, Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.engine.write import writable, write
from gpuzarr.errors import ChunkError, GpuzarrError
from gpuzarr.store.base import Buffer, Pieces, Request

_BATCH: Final = 8 << 20
"""Decoded bytes of objects that are fetched together and put together."""
_MOST: Final = 256
"""Objects that are."""
_TEXT: Final = 64
"""Bytes that a value without a fixed size is taken to have."""


@dataclass(slots=True)
class CopyStats:
    """What copies cost, added up. Pass one to `copy`; it may be passed to many."""

    arrays: int = 0
    groups: int = 0
    regions: int = 0
    """Regions written."""
    resumed: int = 0
    """Regions that were there from an interrupted copy."""
    passed: int = 0
    """Chunks, inside shards inner ones, whose encoded bytes were taken as they are."""
    decoded: int = 0
    """Chunks of the source that were decoded."""
    encoded: int = 0
    """Chunks of the target that were encoded."""
    empty: int = 0
    """Chunks of the target that hold the fill value alone, and are not stored."""
    objects: int = 0
    """Objects stored, metadata left aside."""
    bytes_read: int = 0
    """Encoded bytes that came from the source."""
    bytes_written: int = 0
    """Encoded bytes that went to the target."""
    nbytes: int = 0
    """Decoded bytes of the regions written."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if not one.name.startswith("_")}


class Transfer:
    """The regions of one array, and what takes each across. `run` may be called by several threads."""

    def __init__(self, source: Source, target: Source, place: Place, verify: bool, stats: CopyStats) -> None:
        self.source, self.target, self.place = source, target, place
        self.verify, self.stats = verify, stats
        self.store = writable(target)
        self.itemsize: int = source.meta.dtype.itemsize if source.meta.has_bytes else _TEXT
        self.passes = passes(source.meta, target.meta)
        """Whether encoded chunks are taken as they are."""
        same = same_grid(source.meta.grid, target.meta.grid)
        self.whole = self.passes and same and source.meta.levels == target.meta.levels
        """Whether objects are."""
        along_axes = sides(source.meta, target.meta, self.itemsize, aligned=self.passes)
        self.edges = [edges(*one) for one in zip(target.meta.grid.axes, along_axes, strict=True)]
        self.counts = tuple(len(one) - 1 for one in self.edges)
        largest = prod(int(np.diff(one).max(initial=0)) for one in self.edges) * self.itemsize
        unit = prod(sizes(target.meta.grid)) * self.itemsize
        along = prod(sizes(source.meta.chunk_grid)) * self.itemsize
        # Values, twice to compare them; what is encoded of them; a chunk that is decoded on the way.
        self.cost = largest * (2 if verify else 1) + max(unit, largest) + (not self.passes) * along
        """Bytes of memory that a region may take."""

    @property
    def regions(self) -> int:
        """Number of regions."""
        return prod(self.counts)

    @property
    def total(self) -> int:
        """Decoded bytes of all regions."""
        return prod(self.source.meta.shape) * self.itemsize

    def box(self, region: int) -> Box:
        """The elements of a region."""
        at = np.unravel_index(region, self.counts) if self.counts else ()
        return tuple(slice(int(edges[i]), int(edges[i + 1])) for edges, i in zip(self.edges, at, strict=True))

    def nbytes(self, region: int) -> int:
        """Decoded bytes of a region."""
        extent: list[int] = [one.stop - one.start for one in self.box(region)]
        return prod(extent) * self.itemsize

    def run(self, region: int) -> None:
        """Take one region across."""
        box, values = self.box(region), None
        if self.whole:
            self._objects(box)
        elif self.passes:
            self._chunks(box)
        else:
            values = self._values(box)
        if self.verify:
            self._compare(box, values)
        self.stats.add(regions=1, nbytes=self.nbytes(region))

    # ---- values

    def _read(self, box: Box) -> NDArray[Any]:
        counts = ReadStats()
        chosen = selection.basic(box, self.source.meta.shape)
        found = read(self.source, chosen, None, counts, self.place)
        self.stats.add(decoded=counts.chunks, bytes_read=counts.bytes_read)
        return _host(found, self.source.meta.dtype, chosen.result_shape)

    def _values(self, box: Box) -> NDArray[Any]:
        counts = WriteStats()
        values = self._read(box)
        write(self.target, selection.basic(box, self.target.meta.shape), values, counts)
        written = {"encoded": counts.chunks, "empty": counts.empty, "objects": counts.objects}
        self.stats.add(**written, bytes_written=counts.bytes_written)
        return values

    def _compare(self, box: Box, values: NDArray[Any] | None) -> None:
        """What is read back from the target is what the source holds, to the bit."""
        expected = self._read(box) if values is None else values
        chosen = selection.basic(box, self.target.meta.shape)
        found = read(self.target, chosen, None, ReadStats(), Place.cpu())
        if not _same_bits(expected, found):
            named = ", ".join(f"{one.start}:{one.stop}" for one in box)
            raise ChunkError(
                f"the copy differs from {self.source.name} within [{named}]",
                array=self.target.name,
                hint="is a codec lossy? Without verification the copy is as good as its codecs",
            )

    # ---- encoded chunks

    def _objects(self, box: Box) -> None:
        """Objects as they are, some together."""
        grid = self.target.meta.grid
        inner = max(prod(sizes(grid)) // max(prod(sizes(self.target.meta.chunk_grid)), 1), 1)
        decoded = prod(sizes(grid)) * self.itemsize
        many = max(min(_BATCH // max(decoded, 1), _MOST), 1)
        cells = list(cells_of(grid, box))
        for at in range(0, len(cells), many):
            part = cells[at : at + many]
            keys = [self.source.key(cell) for cell in part]

            def place(i: int, nbytes: int, keys: list[str] = keys) -> memoryview:
                if self.source.meta.has_bytes and nbytes > 4 * decoded + MODEST_NBYTES:
                    raise ChunkError(f"{nbytes} encoded bytes for {decoded} decoded", chunk=keys[i])
                return _fresh(nbytes)

            counts = ReadStats()
            try:
                found = self.source.fetch([Request(key) for key in keys], counts, place)
            except GpuzarrError as error:
                self.source.located(error)
                raise
            held = {cell: one for cell, one in zip(part, found, strict=True) if one is not None}
            self.stats.add(passed=len(held) * inner, bytes_read=counts.bytes_read)
            self._put([(self.target.key(cell), one) for cell, one in held.items()])

    def _chunks(self, box: Box) -> None:
        """Chunks as they are, in and out of shards."""
        counts = ReadStats()
        held = self._encoded(box, counts)
        self.stats.add(passed=len(held), bytes_read=counts.bytes_read)
        meta = self.target.meta
        if meta.levels:
            for cell in cells_of(meta.grid, box):
                pieces = assembled(meta, cell, held)
                self._put([(self.target.key(cell), pieces)] if pieces else [])
            return
        objects: list[tuple[str, Buffer | Pieces]] = [(self.target.key(cell), held[cell]) for cell in held]
        for at in range(0, len(objects), _MOST):
            self._put(objects[at : at + _MOST])

    def _encoded(self, box: Box, counts: ReadStats) -> dict[Cell, Buffer]:
        """The encoded chunks that lie in a box, by their place in the grid."""
        chosen = selection.basic(box, self.source.meta.shape)
        plan = make_plan(self.source, chosen, counts)
        rows = Rows(self.source, plan, 0, plan.requests)
        axes = self.source.meta.chunk_grid.axes
        cells = np.zeros((rows.end, len(axes)), np.int64)
        for i, axis in enumerate(axes):
            cells[:, i] = axis.chunk_of(box[i].start + plan.out_lo[: rows.end, i])
        places = cells.tolist()
        held: dict[Cell, Buffer] = {}
        for row, _, stored, _ in rows.fetch(0, len(rows.requests), counts, _fresh):
            if stored is not None:
                held[tuple(places[row])] = stored
        return held

    def _put(self, objects: list[tuple[str, Buffer | Pieces]]) -> None:
        if not objects:
            return
        with changing(self.store, [key for key, _ in objects]):
            self.store.put(objects)
        nbytes = sum(memoryview(one).nbytes for _, value in objects for one in _pieces(value))
        self.stats.add(objects=len(objects), bytes_written=nbytes)


def _pieces(value: Buffer | Pieces) -> Pieces:
    return value if isinstance(value, list) else [value]


def _fresh(nbytes: int) -> memoryview:
    return memoryview(np.empty(nbytes, np.uint8))


def _host(found: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A result in host memory, of the array's own type: devices lack some."""
    values: NDArray[Any] = np.asarray(found.get() if hasattr(found, "get") else found)
    if values.dtype == dtype:
        return values
    return np.frombuffer(np.ascontiguousarray(values).data, dtype).reshape(shape)


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype.kind in "OT":
        return a.shape == b.shape and bool(np.all(a == b))
    return a.shape == b.shape and bool(np.array_equal(as_bytes(a), as_bytes(b)))
