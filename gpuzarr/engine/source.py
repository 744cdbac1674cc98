"""What a read starts from: an array's metadata, where its objects lie, and what reads cost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TypeVar

import numpy as np

from gpuzarr import config
from gpuzarr.errors import ChangedError, ChunkError, GpuzarrError
from gpuzarr.meta.dialect import join, where
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.shards import IndexCache, Shards, Whole
from gpuzarr.plan.table import Plan
from gpuzarr.store.base import (
    Buffer,
    Place,
    PlaceIfAny,
    Request,
    Store,
    Versioned,
    place_of,
    streaming,
    versioned,
)

Result = TypeVar("Result")

MODEST_NBYTES = 16 << 20
"""No encoded chunk is too large that is no larger than this."""


@dataclass(slots=True)
class ReadStats:
    """What reads cost, added up. Pass one to `Array.read`; it may be passed to many reads, from many
    threads."""

    requests: int = 0
    """Byte ranges asked of the store, those of shard indexes included."""
    bytes_read: int = 0
    """Bytes that came from the store."""
    chunks: int = 0
    """Chunks decoded."""
    direct: int = 0
    """Of these, decoded or read straight into the result."""
    filled: int = 0
    """Pieces of missing chunks, set to the fill value."""
    hits: int = 0
    """Chunks that the cache had. They are not among `chunks`, nor among `filled`."""
    on_host: int = 0
    """Chunks of a device read whose device stages ran on the host: odd or damaged ones, and those that are
    decoded there sooner."""
    bytes_crossed: int = 0
    """Bytes copied from host to device memory."""
    bytes_direct: int = 0
    """Bytes that files or servers gave straight to device memory; they are among `bytes_read`, and do not
    cross."""
    waves: int = 0
    """Batches that the device decoded."""
    peak_device_bytes: int = 0
    """Most device memory that one wave held, besides the result."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts by name; `peak_device_bytes` takes the largest."""
        with self._lock:
            for name, count in counts.items():
                held = getattr(self, name)
                setattr(self, name, max(held, count) if name.startswith("peak") else held + count)

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if not one.name.startswith("_")}


@dataclass(frozen=True, slots=True)
class Source:
    """An array as the engine sees it. Shared by all threads."""

    store: Store
    path: str
    meta: ArrayMeta
    indexes: IndexCache

    @classmethod
    def of(cls, store: Store, path: str, meta: ArrayMeta) -> Source:
        """A source with an empty cache of shard indexes."""
        prefix = f"{path}/" if path else ""
        indexes = IndexCache(config.current().index_cache_nbytes, partial(place_of, store), prefix)
        return cls(store, path, meta, indexes.share() if meta.levels else indexes)

    @property
    def name(self) -> str:
        """The array, for messages."""
        return where(self.store, self.path)

    def key(self, cell: Sequence[int]) -> str:
        """The key of the object at grid coordinates `cell`."""
        return join(self.path, self.meta.keys.key(cell))

    def fetch(
        self, requests: Sequence[Request], stats: ReadStats, place: Place | None = None
    ) -> list[Buffer | None]:
        """Ask the store, and count."""
        found = self.store.get_ranges(requests, place)
        nbytes = sum(len(one) for one in found if one is not None)
        stats.add(requests=len(requests), bytes_read=nbytes)
        return found

    def fetch_versioned(
        self, requests: Sequence[Request], stats: ReadStats, place: PlaceIfAny | None = None
    ) -> list[Versioned | None]:
        """The same with the objects' versions, where the store knows them."""
        store = versioned(self.store)
        if store is None:
            found = self.fetch(requests, stats)
            return [None if one is None else Versioned(one, None) for one in found]
        answers = store.get_versioned(requests, None, place)
        nbytes = sum(len(one.data) for one in answers if one is not None and one.data is not None)
        stats.add(requests=len(requests), bytes_read=nbytes)
        return answers

    def settled(self, read: Callable[[], Result]) -> Result:
        """What `read` gives. If an object changes between its index and its chunks, the index is forgotten
        and all of it read again: what comes back is of one version of each shard."""
        for _ in range(2):
            try:
                return read()
            except ChangedError:
                self.indexes.forget_below(place_of(self.store, self.indexes.prefix))
        return read()

    def shards(self, stats: ReadStats) -> Shards:
        """How this array's chunks are found in its shards."""

        def read(requests: Sequence[Request]) -> list[Versioned | None]:
            return self.fetch_versioned(requests, stats)

        return Shards(self.meta, self.key, read, self.store.size, self.indexes, self.whole)

    @property
    def whole(self) -> Whole | None:
        """Which shards are fetched whole; None: none are."""
        traits = self.store.traits
        if streaming(self.store) is None or not self.meta.has_bytes:
            return None
        gap = traits.coalesce_gap if traits.round_trip_nbytes is None else traits.round_trip_nbytes
        return Whole(gap or 0, traits.request_nbytes or MODEST_NBYTES)

    def unpack(
        self, plan: Plan, first: int, last: int, key: str, body: memoryview, version: str | None
    ) -> None:
        """Find the chunks of the plan's rows from `first` to `last` (exclusive) in their shard, which came
        whole. Its index is kept only with its version, where the store tells versions apart."""
        shards = self.shards(ReadStats())
        try:
            shards.unpack(
                plan, first, last, key, body, version, version is not None or versioned(self.store) is None
            )
            of_shape = plan.shape[first:last]
            for one in np.unique(of_shape).tolist():
                largest = int(plan.nbytes[first:last][of_shape == one].max())
                self.check_encoded(largest, plan.shapes[one], key)
        except GpuzarrError as error:
            self.located(error, key)
            raise

    def check_encoded(self, nbytes: int, shape: tuple[int, ...], key: str | None = None) -> None:
        """Refuse encoded chunks far larger than what they can decode to. Codecs that widen values say so in
        `encoded`; no other makes chunks four times as large."""
        chain = self.meta.chain(shape)
        sizes = [
            chain.spec.limit,
            *(stage.codec.encoded(stage.decoded).nbytes or 0 for stage in chain.stages),
        ]
        limit = 4 * max(sizes) + MODEST_NBYTES if chain.spec.nbytes is not None else chain.spec.limit
        if nbytes > limit:
            size = chain.spec.nbytes or "unknown size"
            raise ChunkError(f"{nbytes} encoded bytes for a chunk of {size} decoded", chunk=key)

    def located(self, error: GpuzarrError, key: str | None = None) -> GpuzarrError:
        """The error with this array's name, and the chunk's key."""
        return error.located(array=self.name, chunk=key)
