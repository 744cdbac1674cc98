"""Files straight into device memory, where nothing on the host has to see the encoded bytes.

    ordinary   files → staging memory → one copy a block → device memory         (engine/crossing.py)
    direct     files ───────────────────────────────────→ device memory of the wave's own

That is so where the store is a directory, every stage has a device form, no codec looks at chunks before they
cross, and the host is not to decode the wave. Whatever goes wrong here is no error yet: the wave is then
fetched the ordinary way, which has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gpuzarr import config
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Device, DeviceBuffer, FileRead, Lane, Staging
from gpuzarr.engine.crossing import Crossing, Loader
from gpuzarr.engine.fetch import Rows
from gpuzarr.errors import GpuzarrError, StoreError
from gpuzarr.plan.table import WHOLE, Int64s
from gpuzarr.store import gds
from gpuzarr.store.base import Store
from gpuzarr.store.local import LocalStore

LARGE = 1 << 20
"""Mean size of requests from which on `auto` reads directly; below it, threads of preadv are sooner."""

_ALIGN = 16
_PAGE = 4096  # what GPUDirect Storage reads without a detour, in the file and in memory
_PAGED = 64 << 10  # bytes of a request from which on that is worth a part of a page


def how(store: Store, chains: Sequence[Chain], device: Device) -> str:
    """`gds`, `compat`, `sim`: how files may go straight into device memory; empty if they may not."""
    setting = config.current().gds
    if setting == "off" or not isinstance(store, LocalStore) or not all(map(_unseen, chains)):
        return ""
    mode = gds.mode() if device.direct == "kvikio" else device.direct
    wanted = ("gds", "compat", "sim") if setting == "on" else ("gds",)
    return mode if mode in wanted else ""


def worth(nbytes: float, requests: int) -> bool:
    """Whether so many bytes in so many requests are to be read directly, where they may be."""
    return config.current().gds == "on" or nbytes >= LARGE * max(requests, 1)


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
        self._lane: Lane | None = None

    @property
    def nbytes(self) -> int:
        """Device memory that is held."""
        return 0 if self._lane is None else self._lane.nbytes

    def take(self, device: Device, nbytes: int) -> None:
        """Have so much device memory in `encoded`."""
        if self._lane is None:
            self._lane = device.lane()
        self.encoded = self._lane.empty(nbytes)

    def wait(self) -> None:
        """Until the memory is free: allocators may hand out what a stream still uses."""
        if self._lane is not None:
            self._lane.synchronize()

    def drop(self) -> None:
        """Give the device memory back. Only after the `synchronize` of every lane that reads it."""
        self.encoded = None
        if self._lane is not None:
            self._lane.synchronize()
            self._lane.reset()

    def reset(self) -> None:
        """Give all memory back."""
        self.staging.reset()
        self.drop()


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where the bytes of some requests are to lie in device memory. Columns are [requests]."""

    rows: Rows
    paths: list[str]
    """Empty: there is no such file."""
    start: Int64s
    nbytes: Int64s
    begin: Int64s
    """The byte of the file where reading begins: the request's page, if it is large."""
    at: Int64s
    """Where that byte is to lie."""
    total: int


class Direct:
    """Of one read."""

    def __init__(self, loader: Loader, device: Device, budget: int) -> None:
        self.loader, self.device, self.budget = loader, device, budget
        self.how = how(loader.source.store, loader.chains, device)
        """See `how`. Empty as soon as it has failed."""

    def task(self, first: int, last: int, slot: Slot) -> Callable[[], Crossing] | None:
        """What loads the requests from `first` up to `last` into device memory of `slot`; None: they are to
        be fetched the ordinary way."""
        if not self.how or first == last or not worth(self._expected(first, last), last - first):
            return None
        try:
            layout = self._lay_out(first, last)
            if not worth(int(layout.nbytes.sum()), sum(map(bool, layout.paths))):
                return None
            # Files may be larger than waves are cut for.
            if last - first > 1 and layout.total > 2 * self.budget:
                return None
            slot.take(self.device, layout.total)
        except GpuzarrError:
            return None
        return partial(self._load, first, last, layout, slot)

    def _expected(self, first: int, last: int) -> int:
        """The most bytes that requests are likely to take, as far as the plan knows."""
        plan, chains = self.loader.plan, self.loader.chains
        rows = slice(int(plan.request[first]), int(plan.request[last]))
        limits = np.array([chain.spec.limit for chain in chains], np.int64)[plan.shape[rows]]
        return int(np.where(plan.nbytes[rows] == WHOLE, limits, plan.nbytes[rows]).sum())

    def _lay_out(self, first: int, last: int) -> _Layout:
        source, store = self.loader.source, self.loader.source.store
        assert isinstance(store, LocalStore)
        rows = Rows(source, self.loader.plan, first, last)
        lead = max((chain.stages[0].codec.lead for chain in self.loader.chains if chain.stages), default=0)
        paths, columns, used = [], [], 0
        key, path, size = "", "", 0
        for i, request in enumerate(rows.requests):
            if request.key != key:
                key, found = request.key, store.file(request.key, request.version)
                path, size = found or ("", 0)
            if request.nbytes is None:
                rows.check_whole(i, size)
            elif not path or not 0 <= request.start <= request.start + request.nbytes <= size:
                raise StoreError(f"{key} has changed")
            nbytes = size if request.nbytes is None else request.nbytes
            paged = nbytes >= _PAGED
            begin = request.start // _PAGE * _PAGE if paged else request.start
            at = used + -used % _PAGE if paged else used + -(used + lead) % _ALIGN
            used = at + request.start - begin + nbytes
            paths.append(path)
            columns.append((request.start, nbytes, begin, at))
        start, counts, begins, at_ = np.array(columns, np.int64).T
        return _Layout(rows, paths, start, counts, begins, at_, max(used, 1))

    def _load(self, first: int, last: int, layout: _Layout, slot: Slot) -> Crossing:
        """The chunks of some requests, in device memory, or else in staging memory."""
        encoded = slot.encoded
        assert encoded is not None
        ends = layout.start + layout.nbytes
        places = zip(layout.paths, layout.begin.tolist(), ends.tolist(), layout.at.tolist(), strict=True)
        try:
            slot.wait()
            self.device.read_files(
                [
                    FileRead(path, begin, encoded.part(at, end - begin))
                    for path, begin, end, at in places
                    if end > begin
                ],
                gds.read,
            )
            self._unchanged(layout)
        except GpuzarrError:
            self.how = ""
            slot.drop()
            return self.loader.load(first, last, slot.staging, False)
        nbytes = int(layout.nbytes.sum())
        self.loader.stats.add(requests=last - first, bytes_read=nbytes, bytes_direct=nbytes)
        return self._found(layout)

    def _unchanged(self, layout: _Layout) -> None:
        """The device opened files by their names, which may be those of others by now."""
        store = self.loader.source.store
        assert isinstance(store, LocalStore)
        for key, version in {(one.key, one.version) for one in layout.rows.requests}:
            if version is not None and store.file(key, version) is None:
                raise StoreError(f"{key} has changed")

    def _found(self, layout: _Layout) -> Crossing:
        """The rows as columns, with the same checks as of those that cross."""
        rows, plan = layout.rows, self.loader.plan
        found = Crossing.missing(np.arange(rows.first, rows.end), self.loader.notes)
        of = np.repeat(np.arange(len(rows.requests)), [end - begin for begin, end in rows.spans])
        there = np.array([bool(path) for path in layout.paths])[of]
        found.stage[there] = 0
        ranged = plan.nbytes[found.rows] >= 0
        np.copyto(found.nbytes, np.where(ranged, plan.nbytes[found.rows], layout.nbytes[of]), where=there)
        first = np.where(ranged, plan.start[found.rows], 0) - layout.begin[of]
        np.copyto(found.position, layout.at[of] + first, where=there)
        self.loader.check_sizes(rows, found)
        return found
