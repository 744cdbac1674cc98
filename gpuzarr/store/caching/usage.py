"""How much of the disk a cache directory takes, and what goes when it is too much.

    <directory>/usage          bytes in use, roughly, and when they were last counted
    <directory>/lock           whoever counts or evicts holds it; others go on without waiting
    <directory>/3f/a1…/n…_0_512_512    what is kept: 256 directories, one an object, one file a byte range

Each process adds what it wrote to `usage` now and then. The directory is walked where that says too much: the
files that were not used for longest go, until an eighth of the limit is free. A process that was killed may
not have said what it wrote last, and files are counted anew each day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

PARTIAL: Final = ".~"
"""Begins the name of a file that is being written."""
_PARTIAL_SECONDS: Final = 3600  # whoever was writing it is dead by then
_COUNT_SECONDS: Final = 24 * 3600
_SAY_NBYTES: Final = 16 << 20
_DISK_BLOCK: Final = 4096
_SHELF: Final = re.compile(r"[0-9a-f]{2}")
_OBJECT: Final = re.compile(r"[0-9a-f]{38}")
KEPT: Final = re.compile(r"([vhn][0-9a-f]{16})_(-?\d{1,19})_(\d{1,19})_(\d{0,19})")
"""The name of a kept file: what it is kept under, start, stop and the object's size."""


def weight(nbytes: int) -> int:
    """What a file of `nbytes` bytes takes."""
    return -(-nbytes // _DISK_BLOCK) * _DISK_BLOCK


class Usage:
    """Keeps one directory within `limit` bytes, or not far above."""

    def __init__(self, directory: str, limit: int) -> None:
        self.directory, self.limit = directory, limit
        self._unsaid = 0  # bytes; threads may lose some of each other's, and nobody minds

    def wrote(self, nbytes: int) -> None:
        """A file more. Raises OSError."""
        self._unsaid += weight(nbytes)
        if self._unsaid >= min(_SAY_NBYTES, self.limit // 64):
            self.settle()

    def settle(self) -> None:
        """Say what was written, and make room if need be. Raises OSError."""
        with self._alone() as alone:
            if not alone:
                return
            unsaid, self._unsaid = self._unsaid, 0
            known, counted = self._said()
            now = time.time()
            total = known + unsaid
            if not 0 <= now - counted < _COUNT_SECONDS:
                total, counted = self._count(), now
            if total > self.limit:
                total, counted = self._evict(), now
            partial = f"{self.directory}/{PARTIAL}usage"
            with open(partial, "w", opener=_private) as file:
                file.write(f"{total} {int(counted)}")
            os.replace(partial, f"{self.directory}/usage")

    def _said(self) -> tuple[int, float]:
        """What all processes said so far, and when files were last counted: never, if the file is no such."""
        try:
            with open(f"{self.directory}/usage", "rb") as file:
                found = re.fullmatch(rb"(\d{1,19}) (\d{1,12})", file.read(64))
        except FileNotFoundError:
            found = None
        return (int(found[1]), float(found[2])) if found else (0, -1.0)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else counts or evicts. A file system without locks says yes."""
        fd = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
            yield True
        finally:
            os.close(fd)

    def _count(self) -> int:
        return sum(weight(found.st_size) for _, found in self._files())

    def _evict(self) -> int:
        """Remove what was not used for longest; the bytes that are left."""
        seconds: defaultdict[int, int] = defaultdict(int)
        for _, found in self._files():
            seconds[int(found.st_mtime)] += weight(found.st_size)
        total = sum(seconds.values())
        spare = total - (self.limit - self.limit // 8)
        if spare <= 0:
            return total
        freed, last = 0, 0
        for last in sorted(seconds):
            freed += seconds[last]
            if freed >= spare:
                break
        freed = 0
        for path, found in self._files():
            if freed >= spare:
                break
            if int(found.st_mtime) <= last:
                with suppress(OSError):  # another may have removed it
                    os.unlink(path)
                    freed += weight(found.st_size)
                    os.rmdir(os.path.dirname(path))
        return total - freed

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The kept files. What was not written to the end long ago is removed on the way; what else lies in
        the directory is not looked at."""
        for shelf in _below(self.directory, _SHELF):
            for folder in _below(shelf, _OBJECT):
                for path, found in _files_of(folder):
                    name = path[len(folder) + 1 :]
                    if KEPT.fullmatch(name):
                        yield path, found
                    elif name.startswith(PARTIAL) and time.time() - found.st_mtime > _PARTIAL_SECONDS:
                        with suppress(OSError):
                            os.unlink(path)


def _below(directory: str, names: re.Pattern[str]) -> list[str]:
    with suppress(OSError), os.scandir(directory) as entries:
        return [
            one.path for one in entries if names.fullmatch(one.name) and one.is_dir(follow_symlinks=False)
        ]
    return []


def _files_of(directory: str) -> list[tuple[str, os.stat_result]]:
    found = []
    with suppress(OSError), os.scandir(directory) as entries:
        for one in entries:
            with suppress(OSError):
                if one.is_file(follow_symlinks=False):
                    found.append((one.path, one.stat(follow_symlinks=False)))
    return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
