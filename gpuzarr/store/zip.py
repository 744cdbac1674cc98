"""A zip archive as a store, in a local file or in anything that opens as one.

Members that are stored without compression, as Zarr's writers store them, are read by range; compressed ones
are inflated whole. The archive's directory is read once. Names that could not be keys are left out.
"""

from __future__ import annotations

import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from gpuzarr import config
from gpuzarr.errors import GpuzarrError, LimitError, NotFoundError, StoreError
from gpuzarr.store.base import Buffer, Place, Request, Traits, below, clean_key, cut
from gpuzarr.store.remote.transport import shown

# What Python's zipfile and its decompressors raise for archives that are damaged, or that lie.
_DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError),
    *(LookupError, struct.error, zlib.error, lzma.LZMAError),
)


class ZipStore:
    """`source` is the archive's path, or a function that opens it anew.

    A local archive's uncompressed members are read by position, which threads and forked processes may do at
    the same time. Everything else goes through one file object under a lock; a forked process opens its own,
    since it would share the parent's position.
    """

    def __init__(self, source: str | Callable[[], IO[bytes]], url: str) -> None:
        self.url = url
        self.traits = Traits()
        self._source = source
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        with self._lock:
            self._infos = {info.filename: info for info in self._archive().infolist()}
        self._fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC) if isinstance(source, str) else -1
        self._begins: dict[str, int] = {}

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def __reduce__(self) -> tuple[object, ...]:
        """Other processes open the archive themselves."""
        return ZipStore, (self._source, self.url)

    def _archive(self) -> zipfile.ZipFile:
        """This process's own; under the lock."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                file = self._source if isinstance(self._source, str) else self._source()
                self._opened = os.getpid(), zipfile.ZipFile(file)
            except FileNotFoundError as error:
                raise NotFoundError(f"no such archive: {self.url}") from self._cause(error)
            except _DAMAGE as error:
                raise StoreError(f"{self.url} is not a zip archive: {shown(error)}") from self._cause(error)
        return self._opened[1]

    def _cause(self, error: BaseException) -> BaseException | None:
        """What went wrong, for tracebacks; what comes from a server may hold a signature."""
        return error if isinstance(self._source, str) else None

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """Ranges of members."""
        found: list[Buffer | None] = []
        for i, request in enumerate(requests):
            info = self._infos.get(clean_key(request.key))
            try:
                found.append(None if info is None else self._get(i, info, request, place))
            except GpuzarrError:
                raise
            except _DAMAGE as error:
                what = f"cannot read {request.key} in {self.url}: {shown(error)}"
                raise StoreError(what) from self._cause(error)
        return found

    def _get(self, i: int, info: zipfile.ZipInfo, request: Request, place: Place | None) -> Buffer:
        whole = request.start == 0 and request.nbytes is None
        if self._fd >= 0 and info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            # The archive's checksum covers whole members, so those that are read whole are checked.
            part = self._stored(i, info, request, place)
            if whole and zlib.crc32(part) != info.CRC:
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
            return part
        if info.file_size > config.current().max_chunk_nbytes:
            raise LimitError(
                f"{request.key} in {self.url} says it holds {info.file_size} bytes",
                hint="raise max_chunk_nbytes",
            )
        into = place(i, info.file_size) if place is not None and whole else None
        with self._lock, self._archive().open(info.filename) as member:
            if into is not None:
                return _filled(into, member)
            if info.compress_type != zipfile.ZIP_STORED:
                # Bounded by what the directory promises: the archive stops reading there and checks the CRC.
                return cut(memoryview(member.read()), request)
            start = max(info.file_size + request.start, 0) if request.start < 0 else request.start
            member.seek(start)
            return memoryview(member.read(-1 if request.nbytes is None else request.nbytes))

    def _stored(self, i: int, info: zipfile.ZipInfo, request: Request, place: Place | None) -> memoryview:
        """A range of an uncompressed member, by position."""
        start = max(info.file_size + request.start, 0) if request.start < 0 else request.start
        left = max(info.file_size - start, 0)
        nbytes = left if request.nbytes is None else min(request.nbytes, left)
        # What the archive does not hold is not worth memory.
        nbytes = min(nbytes, max(os.fstat(self._fd).st_size - info.header_offset, 0))
        into = memoryview(bytearray(nbytes)) if place is None else place(i, nbytes)
        done = 0
        while done < nbytes:
            got = os.preadv(self._fd, [into[done:]], self._begin(info) + start + done)
            if not got:
                raise zipfile.BadZipFile(f"{info.filename!r} ends early")
            done += got
        return into

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin: behind its own header, whose length the directory does not know."""
        found = self._begins.get(info.filename)
        if found is None:
            header = os.pread(self._fd, 30, info.header_offset)
            if len(header) != 30 or header[:4] != b"PK\3\4":
                raise zipfile.BadZipFile(f"Bad magic number for {info.filename!r}")
            found = info.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
            self._begins[info.filename] = found
        return found

    def size(self, key: str) -> int | None:
        """The member's size, as the directory says."""
        info = self._infos.get(clean_key(key))
        return None if info is None else info.file_size

    def exists(self, key: str) -> bool:
        """Whether the directory lists `key`."""
        return clean_key(key) in self._infos

    def list(self, prefix: str = "") -> Iterator[str]:
        """Members in the directory's order."""
        return (name for name in self._infos if name.startswith(prefix) and not name.endswith("/"))

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Names in the directory's order."""
        return below(self.list(), prefix)


def _filled(into: memoryview, member: IO[bytes]) -> memoryview:
    """A whole member in `into`, or what there is of it."""
    done = 0
    while done < len(into) and (got := member.readinto(into[done:])):  # type: ignore[attr-defined]
        done += got
    return into if done == len(into) else into[:done]
