"""A zip archive as a store, read through any other store's byte ranges or a local file.

Members that are stored without compression, as Zarr's writers store them, are read by range; compressed ones
are inflated whole. The archive's directory is read once. Names that could not be keys are left out.
"""

from __future__ import annotations

import lzma
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from gpuzarr import config
from gpuzarr.errors import LimitError, StoreError
from gpuzarr.store.base import Buffer, Place, Request, Traits, below, clean_key, cut

# What Python's zipfile and its decompressors raise for archives that are damaged, or that lie.
_DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError),
    *(LookupError, struct.error, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True, slots=True)
class ZipStore:
    """`file` is an open archive that can seek; it is read under a lock."""

    archive: zipfile.ZipFile
    url: str
    traits: Traits = field(default_factory=Traits)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def open(cls, file: str | IO[bytes], url: str) -> ZipStore:
        """Read the directory of a local path or an open file."""
        try:
            return cls(zipfile.ZipFile(file), url)
        except _DAMAGE as error:
            raise StoreError(f"{url} is not a zip archive: {error}") from error

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """Ranges of members."""
        return [self._get(i, request, place) for i, request in enumerate(requests)]

    def _get(self, i: int, request: Request, place: Place | None) -> memoryview | None:
        info = self._info(request.key)
        if info is None:
            return None
        if info.file_size > config.current().max_chunk_nbytes:
            raise LimitError(
                f"{request.key} in {self.url} says it holds {info.file_size} bytes",
                hint="raise max_chunk_nbytes",
            )
        whole = request.start == 0 and request.nbytes is None
        into = place(i, info.file_size) if place is not None and whole else None
        try:
            with self._lock, self.archive.open(info) as member:
                if into is not None:
                    return _filled(into, member)
                if info.compress_type != zipfile.ZIP_STORED:
                    # Bounded by what the directory promises: the archive stops reading there and checks the
                    # CRC.
                    return cut(memoryview(member.read()), request)
                start = max(info.file_size + request.start, 0) if request.start < 0 else request.start
                member.seek(start)
                return memoryview(member.read(-1 if request.nbytes is None else request.nbytes))
        except _DAMAGE as error:
            raise StoreError(f"cannot read {request.key} in {self.url}: {error}") from error

    def _info(self, key: str) -> zipfile.ZipInfo | None:
        try:
            return self.archive.getinfo(clean_key(key))
        except KeyError:
            return None

    def size(self, key: str) -> int | None:
        """The member's size, as the directory says."""
        info = self._info(key)
        return None if info is None else info.file_size

    def exists(self, key: str) -> bool:
        """Whether the directory lists `key`."""
        return self._info(key) is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        """Members in the directory's order."""
        return (
            name for name in self.archive.namelist() if name.startswith(prefix) and not name.endswith("/")
        )

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Names in the directory's order."""
        return below(self.list(), prefix)


def _filled(into: memoryview, member: IO[bytes]) -> memoryview:
    """A whole member in `into`, or what there is of it."""
    done = 0
    while done < len(into) and (got := member.readinto(into[done:])):  # type: ignore[attr-defined]
        done += got
    return into if done == len(into) else into[:done]
