"""Who can give bytes straight to a device: the files of a directory, the objects of a server.

    locate     which objects there are, how large, of which version
    read       ranges of them into device memory, and whether those are what was asked for

Neither has the last word: errors send whoever asks to the ordinary way.

KvikIO says of objects that all has come whatever came. So the last bytes of each piece are marked before, and
looked at behind: bytes come in order, and where the last one is there, all are. A piece whose last byte is
the mark's own is compared with what the store itself says; so is the last piece of each object, of the
version that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from gpuzarr import config
from gpuzarr.device.base import Bytes1D, Device, DeviceBuffer, FileRead, Lane
from gpuzarr.engine.source import ReadStats
from gpuzarr.errors import StoreError
from gpuzarr.store import gds
from gpuzarr.store.base import Request, Store
from gpuzarr.store.local import LocalStore
from gpuzarr.store.remote import kvikio
from gpuzarr.store.remote.base import RemoteStore

_MARK = np.frombuffer(bytes.fromhex("9d3c5ae1f7b8466b"), np.uint8)
"""Chunks that end so are fetched the ordinary way."""


class Found(NamedTuple):
    """An object that is there."""

    path: str
    """What `FileRead` calls it."""
    nbytes: int
    """Its size, or how far it is known to reach."""
    version: str | None


Versions = Mapping[str, str | None]
"""By key, of all objects of a wave that are there."""


class Feed(Protocol):
    """See above."""

    local: bool
    """Sizes are known, not only promised by an index; large requests are read from their page on."""

    def locate(self, requests: Sequence[Request]) -> list[Found | None]:
        """The object of each request; None: no such object, or not of that version."""
        ...

    def read(self, device: Device, lane: Lane, reads: Sequence[FileRead], versions: Versions) -> None:
        """Fill device memory, whose `lane` runs nothing. Reads of one object stand together."""
        ...


def how(store: Store, device: Device) -> str:
    """`gds`, `compat`, `kvikio`, `sim`: how bytes may go straight into device memory; empty if they may
    not."""
    settings, by_kvikio = config.current(), device.direct == "kvikio"
    wanted: tuple[str, ...]
    if isinstance(store, RemoteStore):
        if settings.remote != "kvikio" or kvikio.endpoint_of(store) is None:
            return ""
        mode, wanted = kvikio.mode() if by_kvikio else device.direct, ("kvikio", "sim")
    elif isinstance(store, LocalStore) and settings.gds != "off":
        mode = gds.mode() if by_kvikio else device.direct
        wanted = ("gds", "compat", "sim") if settings.gds == "on" else ("gds",)
    else:
        return ""
    return mode if mode in wanted else ""


def feed(store: Store, stats: ReadStats) -> Feed:
    """Of a store for which `how` is not empty."""
    if isinstance(store, RemoteStore):
        return Objects(store, stats)
    assert isinstance(store, LocalStore)
    return Files(store)


class Files:
    """Of a directory."""

    local = True

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    def locate(self, requests: Sequence[Request]) -> list[Found | None]:
        """See `Feed`."""
        located: list[Found | None] = []
        key, found = "", None
        for request in requests:
            if request.key != key:
                key, file = request.key, self.store.file(request.key, request.version)
                found = None if file is None else Found(*file, request.version)
            located.append(found)
        return located

    def read(self, device: Device, lane: Lane, reads: Sequence[FileRead], versions: Versions) -> None:
        """See `Feed`. The device opens files by their names, which may be those of others by now."""
        device.read_files(reads, gds.read if device.direct == "kvikio" else None)
        for key, version in versions.items():
            if version is not None and self.store.file(key, version) is None:
                raise StoreError(f"{key} has changed")


class Objects:
    """Of a server."""

    local = False

    def __init__(self, store: RemoteStore, stats: ReadStats) -> None:
        self.store, self.stats = store, stats

    def locate(self, requests: Sequence[Request]) -> list[Found | None]:
        """See `Feed`. Of objects that are wanted whole the server is asked for the size. Without versions,
        pieces could be of several: an error."""
        whole = [request.key for request in requests if request.nbytes is None]
        told = dict(zip(whole, self.store.look(whole), strict=True)) if whole else {}
        self.stats.add(requests=len(whole), bytes_read=sum(bool(one and one[0]) for one in told.values()))
        located: list[Found | None] = []
        for key, start, count, version in requests:
            found: tuple[int | None, str | None] | None = (start + (count or 0), version)
            if count is None:
                found = told[key]
            if found is None:
                located.append(None)
            elif found[0] is None or (found[0] and found[1] is None):
                raise StoreError(f"the server does not say the size and version of {key}")
            else:
                located.append(Found(key, found[0], found[1]))
        return located

    def read(self, device: Device, lane: Lane, reads: Sequence[FileRead], versions: Versions) -> None:
        """See `Feed`."""
        reader, most = kvikio.stand_in, gds.PIECE_NBYTES
        if device.direct == "kvikio":
            reader, most = kvikio.read, kvikio.piece_nbytes()
        pieces = [
            FileRead(path, start + at, into.part(at, min(most, into.nbytes - at)))
            for path, start, into in ((read.path, read.start, read.into) for read in reads)
            for at in range(0, into.nbytes, most)
        ]
        ends = [_end(piece.into) for piece in pieces]
        for end in ends:
            lane.upload(_MARK[-end.nbytes :], end)
        lane.synchronize()
        device.read_files(pieces, partial(reader, self.store))
        came = np.empty((len(pieces), _MARK.nbytes), np.uint8)
        for end, row in zip(ends, came, strict=True):
            lane.download(end, row[: end.nbytes])
        lane.synchronize()
        self._check(pieces, [row[: end.nbytes] for end, row in zip(ends, came, strict=True)], versions)
        self.stats.add(requests=len(pieces) - len(reads))

    def _check(self, pieces: Sequence[FileRead], ends: Sequence[Bytes1D], versions: Versions) -> None:
        """Raise unless the last bytes of all pieces have come, and are of these versions."""
        last = {piece.path: i for i, piece in enumerate(pieces)}
        for i, end in enumerate(ends):
            if len(end) == _MARK.nbytes and np.array_equal(end, _MARK):
                raise StoreError(f"not all of {pieces[i].path} came")
        doubtful = {i for i, end in enumerate(ends) if end[-1] == _MARK[-1]}
        asked = sorted(doubtful | set(last.values()))
        answers = self.store.get_ranges([_request(pieces[i], len(ends[i]), versions) for i in asked])
        for i, answer in zip(asked, answers, strict=True):
            if answer is None or bytes(answer) != ends[i].tobytes():
                raise StoreError(f"{pieces[i].path} has changed, or not all of it came")
        self.stats.add(requests=len(asked), bytes_read=sum(len(ends[i]) for i in asked))


def _end(memory: DeviceBuffer) -> DeviceBuffer:
    count = min(_MARK.nbytes, memory.nbytes)
    return memory.part(memory.nbytes - count, count)


def _request(piece: FileRead, count: int, versions: Versions) -> Request:
    """The last bytes of a piece."""
    return Request(piece.path, piece.start + piece.into.nbytes - count, count, versions[piece.path])
