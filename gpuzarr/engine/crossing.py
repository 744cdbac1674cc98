"""What crosses to a device: encoded chunks in staging memory, after the stages that run on the host.

    fetch          right into staging memory, where no host stage comes first
    host stages    of the chain, then of the chunks that a codec's `inspect` leaves to the host
    columns        where each chunk lies now, at which stage the device goes on, what was noted of it

Tasks run on the pool's threads; chunks are columns as far as they can be, since a Python step for each would
cost more than decoding a small one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gpuzarr.codecs.base import Buffer, Stored, as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Bytes1D, Staging
from gpuzarr.engine.fetch import Rows
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import ChunkError, GpuzarrError
from gpuzarr.plan.table import ABSENT, WHOLE, Int64s, Plan

MISSING = -1
"""`stage` of a chunk that is not stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """Some rows of a plan. Columns are [n], `notes` [n, k]: those of all stages that inspect chunks, in
    order."""

    rows: Int64s
    position: Int64s
    """In staging memory."""
    nbytes: Int64s
    stage: Int64s
    """The first stage that runs on the device; MISSING."""
    notes: Int64s

    @classmethod
    def missing(cls, rows: Int64s, notes: int) -> Crossing:
        """Chunks that are not stored."""
        zero = np.zeros(len(rows), np.int64)
        return cls(rows, zero, zero.copy(), zero + MISSING, np.zeros((len(rows), notes), np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Crossing]) -> Crossing:
        """One behind the other."""
        names = "rows", "position", "nbytes", "stage", "notes"
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def part(self, chosen: Int64s) -> Crossing:
        """The rows at the places `chosen`."""
        columns = (self.rows, self.position, self.nbytes, self.stage, self.notes)
        return Crossing(*(column[chosen] for column in columns))


class Loader:
    """Fetches rows of one read, and runs their host stages."""

    def __init__(self, source: Source, plan: Plan, stats: ReadStats) -> None:
        self.source, self.plan, self.stats = source, plan, stats
        self.chains = [source.meta.chain(shape) for shape in plan.shapes]
        self.notes = notes_before(self.chains[0], len(self.chains[0].stages)) if self.chains else 0

    def load(self, first: int, last: int, staging: Staging, whole: bool) -> Crossing:
        """The rows of the requests from `first` up to `last`. `whole`: all their stages run on the host."""
        rows = Rows(self.source, self.plan, first, last)
        found = Crossing.missing(np.arange(rows.first, rows.end), self.notes)
        shape = self.plan.shape[found.rows]
        host = whole or any(chain.device_from or chain.swap is None for chain in self.chains)
        views = self._fetch(rows, staging, found, keep=host)
        for one in np.unique(shape).tolist():
            chain, mine = self.chains[one], np.flatnonzero((shape == one) & (found.stage != MISSING))
            first_stage = len(chain.stages) if whole else chain.device_from
            if host:
                self.stats.add(on_host=len(mine) if whole else 0)
                for i in mine.tolist():
                    self._host_stages(rows, found, i, chain, first_stage, staging, views[i])
            else:
                self._check_sizes(rows, found, mine, chain)
            self._inspect(rows, found, mine, chain, staging)
        return found

    def _fetch(self, rows: Rows, staging: Staging, found: Crossing, keep: bool) -> dict[int, memoryview]:
        """Get the rows' bytes: into staging memory, or, to `keep` them for the host, views of each row."""
        lead = max((chain.stages[0].codec.lead for chain in self.chains if chain.stages), default=0)
        views: dict[int, memoryview] = {}
        placed: dict[int, tuple[int, memoryview]] = {}

        def place(request: int, nbytes: int) -> memoryview:
            if keep:
                return memoryview(bytearray(nbytes))
            position, memory = staging.take(nbytes, lead)
            placed[request] = position, memory.data
            return placed[request][1]

        stored = rows.get(0, len(rows.requests), self.stats, place)
        base = np.zeros(len(stored), np.int64)
        for i, view in enumerate(stored):
            begin, end = rows.spans[i]
            if view is None:
                continue
            sizes = self.plan.nbytes[rows.first + begin : rows.first + end]
            found.stage[begin:end] = np.where(sizes == ABSENT, MISSING, 0)
            if rows.nbytes[begin] == WHOLE:
                found.nbytes[begin] = view.nbytes
            if keep:
                start = rows.requests[i].start
                for row in (begin + np.flatnonzero(sizes != ABSENT)).tolist():
                    at = 0 if rows.nbytes[row] == WHOLE else rows.start[row] - start
                    views[row] = view if rows.nbytes[row] == WHOLE else view[at : at + rows.nbytes[row]]
            elif i in placed and placed[i][1] is view:
                base[i] = placed[i][0]
            else:
                base[i] = stage(staging, np.frombuffer(view, np.uint8), lead)
        if not keep:
            of = np.repeat(np.arange(len(stored)), [end - begin for begin, end in rows.spans])
            begins = np.array([request.start for request in rows.requests], np.int64)
            sized = self.plan.nbytes[found.rows]
            ranged = sized >= 0
            np.copyto(found.nbytes, sized, where=ranged)
            inside = np.where(ranged, self.plan.start[found.rows] - begins[of], 0)
            found.position[:] = base[of] + inside
        return views

    def _host_stages(
        self, rows: Rows, found: Crossing, i: int, chain: Chain, last: int, staging: Staging, value: Buffer
    ) -> None:
        """Run a chunk's stages up to `last` on the host, and stage what they give."""
        with _located(self.source, rows, i):
            position, plain = decode_to(chain, value, int(found.stage[i]), last, staging)
            found.position[i], found.nbytes[i], found.stage[i] = position, plain, last
            if last < len(chain.stages):
                check_promised(chain, last, plain)

    def check_sizes(self, rows: Rows, found: Crossing) -> None:
        """Chunks that nothing was done to yet have the sizes that the metadata promise."""
        shape = self.plan.shape[found.rows]
        for one in np.unique(shape).tolist():
            mine = np.flatnonzero((shape == one) & (found.stage != MISSING))
            self._check_sizes(rows, found, mine, self.chains[one])

    def _check_sizes(self, rows: Rows, found: Crossing, mine: Int64s, chain: Chain) -> None:
        """Chunks that cross as they are stored have the size that the metadata promise, if they do."""
        expected = promised(chain, 0)
        wrong = mine[found.nbytes[mine] != expected] if expected is not None else mine[:0]
        if len(wrong):
            with _located(self.source, rows, int(wrong[0])):
                check_promised(chain, 0, int(found.nbytes[wrong[0]]))

    def _inspect(self, rows: Rows, found: Crossing, mine: Int64s, chain: Chain, staging: Staging) -> None:
        """Let the codecs look at the chunks, and leave to the host what they leave to it."""
        trailer = np.zeros(len(found.rows), np.int64)
        for position, stage_ in enumerate(chain.stages):
            codec = stage_.codec
            before = mine[found.stage[mine] <= position]
            if codec.notes and len(before):
                column = notes_before(chain, position)
                blocks = staging.blocks
                of = np.searchsorted([base for base, _ in blocks], found.position[before], "right") - 1
                for b in np.unique(of).tolist():
                    (base, block), here = blocks[b], before[of == b]
                    nbytes = np.maximum(found.nbytes[here] - trailer[here], 0)
                    stored = Stored(block, found.position[here] - base, nbytes)
                    notes, taken = codec.inspect(stored, stage_.decoded)
                    found.notes[here, column : column + codec.notes] = notes
                    for i in here[~taken].tolist():
                        begin = int(found.position[i]) - base
                        view = block[begin : begin + int(found.nbytes[i])]
                        self._host_stages(rows, found, i, chain, position + 1, staging, view)
                        trailer[i] = 0
                    self.stats.add(on_host=int((~taken).sum()))
            trailer[before] += codec.trailer or 0


def decode_to(chain: Chain, value: Buffer, first: int, last: int, staging: Staging) -> tuple[int, int]:
    """Run stages on the host; the position and size of what they give, in staging memory. Behind the last one
    the chunk is as the device's scatter takes it."""
    if first == last and not (last == len(chain.stages) and chain.swap is None):
        plain = as_bytes(value)
        return stage(staging, plain), plain.nbytes
    nbytes = chain.stages[last - 1].decoded.nbytes if last else None
    position, into = staging.take(nbytes or 0)
    decoded = chain.run(value, first, last, into if nbytes else None)
    if last == len(chain.stages):
        arranged = chain.arranged(decoded)  # checks the size
        if chain.swap is None:  # no device form of this layout: the host applies it
            decoded = np.ascontiguousarray(arranged, chain.spec.dtype)
    if decoded is into:
        return position, into.nbytes
    plain = as_bytes(decoded)
    if plain.nbytes == into.nbytes:
        into[:] = plain
        return position, plain.nbytes
    return stage(staging, plain), plain.nbytes


def stage(staging: Staging, plain: Bytes1D, lead: int = 0) -> int:
    """Copy bytes to staging memory; their position."""
    position, memory = staging.take(plain.nbytes, lead)
    memory[:] = plain
    return position


def promised(chain: Chain, position: int) -> int | None:
    """The bytes that stage `position` takes; None if the metadata do not say."""
    if position == len(chain.stages):
        return chain.layout.nbytes
    return chain.stages[position].codec.encoded(chain.stages[position].decoded).nbytes


def check_promised(chain: Chain, position: int, nbytes: int) -> None:
    """Raise unless a chunk at stage `position` has as many bytes as the metadata promise."""
    expected = promised(chain, position)
    if expected is not None and nbytes != expected:
        name = chain.stages[min(position, len(chain.stages) - 1)].name if chain.stages else "bytes"
        raise ChunkError(f"{nbytes} bytes where the metadata promises {expected}", codec=name)


def notes_before(chain: Chain, position: int) -> int:
    """The column of `Crossing.notes` where those of stage `position` begin."""
    return sum(stage_.codec.notes for stage_ in chain.stages[:position])


@contextmanager
def _located(source: Source, rows: Rows, row: int) -> Iterator[None]:
    """Errors inside name the array and a row's chunk."""
    try:
        yield
    except GpuzarrError as error:
        request = next(i for i, (_, end) in enumerate(rows.spans) if row < end)
        source.located(error, rows.name(row, rows.keys[request]))
        raise
