"""Encoded bytes straight into device memory, where nothing on the host has to see them.

    ordinary   store → staging memory → one copy a block → device memory         (engine/crossing.py)
    direct     store ───────────────────────────────────→ device memory of the wave's own

That is so where the store is a directory or, if the user says so, a server (engine/feeds.py), every stage has
a device form, no codec looks at chunks before they cross, and the host is not to decode the wave. Whatever
goes wrong here is no error yet: the wave is then fetched the ordinary way, which has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gpuzarr import config
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Device, DeviceBuffer, FileRead, Lane, Staging
from gpuzarr.engine import feeds
from gpuzarr.engine.crossing import Crossing, Loader
from gpuzarr.engine.fetch import Rows
from gpuzarr.errors import GpuzarrError, StoreError
from gpuzarr.plan.table import Int64s
from gpuzarr.store.base import Store

LARGE = 1 << 20
"""Mean size of requests from which on `auto` reads directly; below it, threads of preadv are sooner."""

_ALIGN = 16
_PAGE = 4096  # what GPUDirect Storage reads without a detour, in the file and in memory
_PAGED = 64 << 10  # bytes of a request from which on that is worth a part of a page


def how(store: Store, chains: Sequence[Chain], device: Device) -> str:
    """How encoded bytes may go straight into device memory (feeds.how); empty if they may not."""
    return feeds.how(store, device) if all(map(_unseen, chains)) else ""


def worth(way: str, nbytes: float, requests: int) -> bool:
    """Whether so many bytes in so many requests are to be read directly, where they may be. Every other way
    than GPUDirect Storage was asked for."""
    return way != "gds" or config.current().gds == "on" or nbytes >= LARGE * max(requests, 1)


def _unseen(chain: Chain) -> bool:
    """Whether nothing on the host looks at the chunks."""
    inspected = any(stage.codec.notes for stage in chain.stages)
    return chain.device_from == 0 and chain.swap is not None and not inspected


class Slot:
    """Where the encoded chunks of one wave lie until it is decoded."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.encoded: DeviceBuffer | None = None
        """What was read directly; then positions count from its first byte."""
        self.lane: Lane | None = None

    @property
    def nbytes(self) -> int:
        """Device memory that is held."""
        return 0 if self.lane is None else self.lane.nbytes

    def take(self, device: Device, nbytes: int) -> None:
        """Have so much device memory in `encoded`."""
        if self.lane is None:
            self.lane = device.lane()
        self.encoded = self.lane.empty(nbytes)

    def wait(self) -> None:
        """Until the memory is free: allocators may hand out what a stream still uses."""
        if self.lane is not None:
            self.lane.synchronize()

    def drop(self) -> None:
        """Give the device memory back. Only after the `synchronize` of every lane that reads it."""
        self.encoded = None
        if self.lane is not None:
            self.lane.synchronize()
            self.lane.reset()

    def reset(self) -> None:
        """Give all memory back."""
        self.staging.reset()
        self.drop()


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where the bytes of some requests are to lie in device memory. Columns are [requests]."""

    rows: Rows
    found: list[feeds.Found | None]
    start: Int64s
    nbytes: Int64s
    begin: Int64s
    """The byte of the object where reading begins: the request's page, if it is a large one of a file."""
    at: Int64s
    """Where that byte is to lie."""
    total: int

    @property
    def versions(self) -> dict[str, str | None]:
        """By key, of what is there."""
        places = zip(self.rows.requests, self.found, strict=True)
        return {request.key: found.version for request, found in places if found}


class Direct:
    """Of one read."""

    def __init__(self, loader: Loader, device: Device, budget: int) -> None:
        self.loader, self.device, self.budget = loader, device, budget
        store = loader.source.store
        self.how = how(store, loader.chains, device)
        """See `how`. Empty as soon as it has failed."""
        self.feed = feeds.feed(store, loader.stats) if self.how else None

    def task(self, first: int, last: int, slot: Slot) -> Callable[[], Crossing] | None:
        """What loads the requests from `first` up to `last` into device memory of `slot`; None: they are to
        be fetched the ordinary way."""
        way, feed = self.how, self.feed
        if not way or feed is None or first == last:
            return None
        if not worth(way, self._expected(first, last), last - first):
            return None
        try:
            layout = self._lay_out(feed, first, last)
            present = sum(one is not None for one in layout.found) if layout else 0
            if layout is None or not worth(way, int(layout.nbytes.sum()), present):
                return None
            # Objects may be larger than waves are cut for; or an index says so, of which no more is known.
            if layout.total > 2 * self.budget and (last - first > 1 or not feed.local):
                return None
            slot.take(self.device, layout.total)
        except GpuzarrError:
            return None
        return partial(self._load, feed, first, last, layout, slot)

    def _expected(self, first: int, last: int) -> int:
        """The most bytes that requests are likely to take, as far as the plan knows."""
        plan, chains = self.loader.plan, self.loader.chains
        rows = slice(int(plan.request[first]), int(plan.request[last]))
        limits = np.array([chain.spec.limit for chain in chains], np.int64)[plan.shape[rows]]
        return int(np.where(plan.nbytes[rows] < 0, limits, plan.nbytes[rows]).sum())

    def _lay_out(self, feed: feeds.Feed, first: int, last: int) -> _Layout | None:
        rows = Rows(self.loader.source, self.loader.plan, first, last)
        if rows.in_shards:  # whose indexes the host has to see
            return None
        lead = max((chain.stages[0].codec.lead for chain in self.loader.chains if chain.stages), default=0)
        found = feed.locate(rows.requests)
        columns, used = [], 0
        for i, (request, one) in enumerate(zip(rows.requests, found, strict=True)):
            size = one.nbytes if one else 0
            if request.nbytes is None:
                rows.check_whole(i, size)
            elif not one or not 0 <= request.start <= request.start + request.nbytes <= size:
                raise StoreError(f"{request.key} has changed")
            nbytes = size if request.nbytes is None else request.nbytes
            paged = feed.local and nbytes >= _PAGED
            begin = request.start // _PAGE * _PAGE if paged else request.start
            at = used + -used % _PAGE if paged else used + -(used + lead) % _ALIGN
            used = at + request.start - begin + nbytes
            columns.append((request.start, nbytes, begin, at))
        start, counts, begins, at_ = np.array(columns, np.int64).T
        return _Layout(rows, found, start, counts, begins, at_, max(used, 1))

    def _load(self, feed: feeds.Feed, first: int, last: int, layout: _Layout, slot: Slot) -> Crossing:
        """The chunks of some requests, in device memory, or else in staging memory."""
        encoded, lane = slot.encoded, slot.lane
        assert encoded is not None
        assert lane is not None
        ends = layout.start + layout.nbytes
        places = zip(layout.found, layout.begin.tolist(), ends.tolist(), layout.at.tolist(), strict=True)
        reads = [
            FileRead(found.path, begin, encoded.part(at, end - begin))
            for found, begin, end, at in places
            if found and end > begin
        ]
        try:
            slot.wait()
            feed.read(self.device, lane, reads, layout.versions)
        except GpuzarrError:
            self.how = ""
            slot.drop()
            return self.loader.load(first, last, slot.staging, False)
        nbytes = int(layout.nbytes.sum())
        self.loader.stats.add(requests=last - first, bytes_read=nbytes, bytes_direct=nbytes)
        return self._found(layout)

    def _found(self, layout: _Layout) -> Crossing:
        """The rows as columns, with the same checks as of those that cross."""
        rows, plan = layout.rows, self.loader.plan
        found = Crossing.missing(np.arange(rows.first, rows.end), self.loader.notes)
        of = np.repeat(np.arange(len(rows.requests)), [end - begin for begin, end in rows.spans])
        there = np.array([one is not None for one in layout.found])[of]
        found.stage[there] = 0
        ranged = plan.nbytes[found.rows] >= 0
        np.copyto(found.nbytes, np.where(ranged, plan.nbytes[found.rows], layout.nbytes[of]), where=there)
        first = np.where(ranged, plan.start[found.rows], 0) - layout.begin[of]
        np.copyto(found.position, layout.at[of] + first, where=there)
        self.loader.check_sizes(rows, found)
        return found
