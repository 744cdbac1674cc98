"""The encoded chunks of some rows of a plan: what every executor begins with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from gpuzarr import config
from gpuzarr.engine.source import MODEST_NBYTES, ReadStats, Source
from gpuzarr.errors import ChangedError, ChunkError, GpuzarrError
from gpuzarr.plan.table import ABSENT, IN_SHARD, WHOLE, Plan
from gpuzarr.store.base import Buffer, Request, Versioned

Take = Callable[[int], memoryview]
"""Memory for so many encoded bytes."""
Target = Callable[[int], memoryview | None]
"""Where the encoded chunk of a row may lie for good, if it can: raw chunks lie right in the result."""


Fetched = tuple[int, str, memoryview | None, bool]
"""A row, its key, its encoded bytes, and whether they lie where they were wanted."""


class Part(NamedTuple):
    """Rows `lo` to `hi` (exclusive) of one request, and its bytes from byte `begin` of the object on. `view`
    None: there is no such object. `placed`: they lie where they were wanted."""

    lo: int
    hi: int
    key: str
    view: memoryview | None
    begin: int
    placed: bool


class Rows:
    """The rows of some requests as Python lists, which loops read faster than columns. Row 0 is the first."""

    __slots__ = (
        "end",
        "first",
        "in_shards",
        "keys",
        "nbytes",
        "plan",
        "requests",
        "shape",
        "source",
        "spans",
        "start",
        "unchecked",
        "versions",
    )

    def __init__(self, source: Source, plan: Plan, first: int, last: int) -> None:
        """The rows of the requests from `first` up to `last`."""
        bounds = plan.request[first : last + 1]
        self.source, self.plan = source, plan
        self.first, self.end = int(bounds[0]), int(bounds[-1])
        rows = slice(self.first, self.end)
        self.shape: list[int] = plan.shape[rows].tolist()
        self.start: list[int] = plan.start[rows].tolist()
        self.nbytes: list[int] = plan.nbytes[rows].tolist()
        self.spans = list(pairwise((bounds - self.first).tolist()))
        objects = plan.key[bounds[:-1]]
        self.keys = [source.key(cell) for cell in plan.objects[objects].tolist()]
        self.versions = [plan.versions[row] for row in objects.tolist()] if plan.versions else None
        self.in_shards = any(self.nbytes[first] == IN_SHARD for first, _ in self.spans)
        """Whether there are shards that are fetched whole."""
        self.requests = [self._request(i) for i in range(last - first)]
        self.unchecked = min(MODEST_NBYTES, config.current().max_chunk_nbytes)

    def _request(self, i: int) -> Request:
        first, last = self.spans[i]
        if self.nbytes[first] in (WHOLE, IN_SHARD):
            return Request(self.keys[i])
        start = self.start[first]
        end = max(map(int.__add__, self.start[first:last], self.nbytes[first:last]))
        version = None if self.versions is None else self.versions[i]
        return Request(self.keys[i], start, end - start, version)

    def get(
        self, first: int, last: int, stats: ReadStats, place: Callable[[int, int], memoryview]
    ) -> list[memoryview | None]:
        """The bytes of the requests `first` up to `last`, perhaps where `place(request, nbytes)` says; None:
        no such object."""

        def placed(at: int, nbytes: int) -> memoryview:
            self.check_whole(first + at, nbytes)
            return place(first + at, nbytes)

        requests = self.requests[first:last]
        answers: Sequence[Buffer | Versioned | None]
        try:
            if self.in_shards:
                answers = self.source.fetch_versioned(requests, stats, placed)
            else:
                answers = self.source.fetch(requests, stats, placed)
        except GpuzarrError as error:
            self.source.located(error, self.keys[first] if last - first == 1 else None)
            raise
        return [self.checked(first + at, answer) for at, answer in enumerate(answers)]

    def checked(self, i: int, answer: Buffer | Versioned | None) -> memoryview | None:
        """The answer to a request, if it is all of what was asked for. Of a shard that comes whole, byte
        ranges are known from then on."""
        request, version = self.requests[i], None
        stored: Buffer | None
        if isinstance(answer, Versioned):
            stored, version = answer
        else:
            stored = answer
        if request.nbytes is None:
            self.check_whole(i, 0 if stored is None else len(stored))
        elif stored is None and request.version is not None:
            raise ChangedError("it was deleted while it was read", chunk=request.key)
        elif stored is None:
            raise self._lost(request, "it vanished while it was read")
        elif len(stored) != request.nbytes:
            raise self._lost(request, f"there are {len(stored)}, its index promises {request.nbytes}")
        view = stored if stored is None or type(stored) is memoryview else memoryview(stored)
        lo, hi = self.spans[i]
        if view is not None and self.nbytes[lo] == IN_SHARD:
            first, last = self.first + lo, self.first + hi
            self.source.unpack(self.plan, first, last, request.key, view, version)
            self.start[lo:hi] = self.plan.start[first:last].tolist()
            self.nbytes[lo:hi] = self.plan.nbytes[first:last].tolist()
        return view

    def fetch(
        self, first: int, last: int, stats: ReadStats, take: Take, target: Target = lambda row: None
    ) -> Iterator[Fetched]:
        """For every row of the requests `first` up to `last`: the row, its key, its encoded bytes (None: no
        such object), and whether they lie at its `target`."""
        for part in self.parts(first, last, stats, take, target):
            yield from self.chunks(part)

    def parts(
        self, first: int, last: int, stats: ReadStats, take: Take, target: Target = lambda row: None
    ) -> list[Part]:
        """The same, a part a request."""
        wanted = [target(row) if end - row == 1 else None for row, end in self.spans[first:last]]

        def place(i: int, nbytes: int) -> memoryview:
            into = wanted[i - first]
            return into if into is not None and into.nbytes == nbytes else take(nbytes)

        views = self.get(first, last, stats, place)
        return [self.part(first + i, view, wanted[i]) for i, view in enumerate(views)]

    def part(self, i: int, view: memoryview | None, wanted: memoryview | None) -> Part:
        """All rows of a request, with the answer to it."""
        lo, hi = self.spans[i]
        return Part(lo, hi, self.keys[i], view, self.requests[i].start, view is not None and view is wanted)

    def chunks(self, part: Part) -> Iterator[Fetched]:
        """The rows of a part, one by one."""
        view = part.view
        for at in range(part.lo, part.hi):
            nbytes, begin = self.nbytes[at], self.start[at] - part.begin
            if view is None or nbytes == WHOLE:
                yield at, part.key, view, part.placed
            elif nbytes == ABSENT:
                yield at, part.key, None, False
            else:
                yield at, part.key, view[begin : begin + nbytes], part.placed

    def one(self, parts: Sequence[Part], row: int) -> Iterator[Fetched]:
        """One row of some parts."""
        part = next(part for part in parts if part.lo <= row < part.hi)
        return self.chunks(part._replace(lo=row, hi=row + 1))

    def again(self, row: int, stats: ReadStats, take: Take) -> Iterator[Fetched]:
        """One row, with its request asked for."""
        i = bisect_right(self.spans, row, key=itemgetter(0)) - 1
        return self.one(self.parts(i, i + 1, stats, take), row)

    def check_whole(self, i: int, nbytes: int) -> None:
        """Whole objects have a size that their chunk may have."""
        if self.requests[i].nbytes is None and nbytes > self.unchecked:
            if self.nbytes[self.spans[i][0]] == IN_SHARD and (whole := self.source.whole) is not None:
                whole.check(nbytes, self.keys[i])
                return
            shape = self.plan.shapes[self.shape[self.spans[i][0]]]
            self.source.check_encoded(nbytes, shape, self.keys[i])

    def _lost(self, request: Request, what: str) -> ChunkError:
        return ChunkError(
            f"bytes {request.start} to {request.start + (request.nbytes or 0)} of the shard: {what}",
            array=self.source.name,
            chunk=request.key,
            codec="sharding_indexed",
        )

    def name(self, row: int, key: str) -> str:
        """A row's chunk, for messages: its key, and its place in the shard."""
        return chunk_name(self.plan, self.first + row, key)


def chunk_name(plan: Plan, row: int, key: str) -> str:
    """A chunk, for messages: its object's key, and its place in the shard."""
    start, nbytes = int(plan.start[row]), int(plan.nbytes[row])
    return key if nbytes < 0 else f"{key} bytes {start} to {start + nbytes}"
