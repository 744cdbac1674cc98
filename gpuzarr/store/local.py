"""A directory as a store: a key is a path below it.

Nothing outside the directory is read: a symbolic link that leads out of it is refused, unless
`follow_symlinks` is set. (Listing and looking do follow links, and give names and sizes away, no bytes.)
A file is opened once for all ranges that are asked of it in a row.

A file is written beside its place, under a name that no key has, and renamed: whoever reads sees the old
bytes or the new ones, also after a crash. What a killed process leaves behind is not listed, and in nobody's
way.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from gpuzarr import config
from gpuzarr.errors import ChangedError, StoreError
from gpuzarr.store.base import (
    Buffer,
    Pieces,
    Place,
    PlaceIfAny,
    Request,
    Traits,
    Versioned,
    clean_key,
    joined,
)

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# Without O_NONBLOCK, opening a named pipe would wait for a writer.
_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_MODEST = 1 << 20  # bytes that are asked for without a look at the file's size
_PARTIAL = ".~"  # begins the name of a file that is being written
_counter = itertools.count()
_process = os.urandom(6).hex()  # numbers of processes come again, on other machines and in containers
_JOINED, _MOST_PIECES = 256 << 10, 1024  # smaller objects are written in one piece; as many take one call


@dataclass(frozen=True, slots=True)
class LocalStore:
    """`root` is an absolute path."""

    root: str
    follow_symlinks: bool = False
    traits: Traits = field(default_factory=Traits)
    _inside: set[str] = field(
        default_factory=set, repr=False, compare=False
    )  # directories known to lie below the root
    _real: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def url(self) -> str:
        """The directory's path."""
        return self.root

    def place(self, key: str) -> tuple[object, str]:
        """The file, whatever directory the store was opened at."""
        real = self._real.get(self.root)
        if real is None:
            real = self._real[self.root] = os.path.realpath(self.root).rstrip(os.sep)
        return "file", f"{real}/{key}"

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """Ranges in `place`, or in buffers of their own."""
        return [found for found, _ in self._ranges(requests, place, None)]

    def get_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
    ) -> list[Versioned | None]:
        """The same with versions: a file that is put in another's place has another number, or time, or
        size."""
        known = unless or [None] * len(requests)
        return [
            None if version is None else Versioned(found, version)
            for found, version in self._ranges(requests, place, known)
        ]

    def _ranges(
        self, requests: Sequence[Request], place: PlaceIfAny | None, known: Sequence[str | None] | None
    ) -> list[tuple[Buffer | None, str | None]]:
        """Bytes and version of each request; `known` None: no version is wanted. Where it is the one that is
        known, no bytes are read."""
        answers: list[tuple[Buffer | None, str | None]] = []
        key, fd = None, -1
        try:
            for i, request in enumerate(requests):
                if request.key != key:
                    if fd >= 0:
                        os.close(fd)
                    key, fd = request.key, -1
                    fd = self._open(key)
                version = None
                if fd >= 0 and (known is not None or request.version is not None):
                    version = _version(os.fstat(fd))
                    _require(request, version)
                    if known is not None and known[i] == version:
                        answers.append((None, version))
                        continue
                found = None if fd < 0 else _read(fd, i, request, place)
                answers.append((found, None if found is None else version))
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot read {key} in {self.root}: {error.strerror or error}") from error
        finally:
            if fd >= 0:
                os.close(fd)
        return answers

    def _open(self, key: str) -> int:
        """A file descriptor, -1 if there is no such file."""
        path = f"{self.root}/{clean_key(key)}"
        try:
            if self.follow_symlinks:
                return os.open(path, _OPEN)
            # directories are resolved once, files with every open
            self._check_directory(path[: path.rfind("/")])
            try:
                return os.open(path, _OPEN | _NO_LINK)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
            self._require_inside(path)
            return os.open(path, _OPEN)
        except OSError as error:
            if error.errno in _ABSENT:
                return -1
            raise

    def file(self, key: str, version: str | None = None) -> tuple[str, int] | None:
        """An object's file and its size, for those who open it themselves; None: no such object, or not of
        that version. It is looked at as for reading, but what is put in its place afterwards is not."""
        path = f"{self.root}/{clean_key(key)}"
        try:
            if not self.follow_symlinks:
                self._check_directory(path[: path.rfind("/")])
                if os.path.islink(path):
                    self._require_inside(path)
            found = os.stat(path)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            if error.errno in _ABSENT:
                return None
            raise StoreError(f"cannot read {key} in {self.root}: {error.strerror or error}") from error
        if stat.S_ISDIR(found.st_mode) or version not in (None, _version(found)):
            return None
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for a writer
            raise StoreError(f"cannot read {key} in {self.root}: it is no regular file")
        return path, found.st_size

    def paths(self, keys: Sequence[str]) -> list[bytes]:
        """Where objects lie, for those who open them themselves, following no link. A key that cannot be one,
        and a directory outside, are a StoreError."""
        paths = [f"{self.root}/{clean_key(key)}" for key in keys]
        for directory in {path[: path.rfind("/")] for path in paths}:
            self._check_directory(directory)
        return [os.fsencode(path) for path in paths]

    @contextmanager
    def opened(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """The file of each request, for those who read it themselves: a descriptor, -1 if there is none. One
        that is not of the version that is asked for is a ChangedError."""
        fds: dict[str, int] = {}
        try:
            for request in requests:
                key = request.key
                if key not in fds:
                    fds[key] = -1
                    fds[key] = self._open(key)
                if fds[key] >= 0 and request.version is not None:
                    _require(request, _version(os.fstat(fds[key])))
            yield [fds[request.key] for request in requests]
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot read {key} in {self.root}: {error.strerror or error}") from error
        finally:
            for fd in fds.values():
                if fd >= 0:
                    os.close(fd)

    def _require_inside(self, path: str) -> None:
        root, real = os.path.realpath(self.root), os.path.realpath(path)
        if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
            raise StoreError(
                f"{path} is a link to {real}, outside {self.root}",
                hint='open that place itself, or pass storage_options={"follow_symlinks": True}',
            )

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """File by file, each as a whole."""
        for key, value in objects:
            path = f"{self.root}/{clean_key(key)}"
            directory, _, name = path.rpartition("/")
            partial = f"{directory}/{_PARTIAL}{name}.{_process}.{os.getpid()}.{next(_counter)}"
            try:
                self._check_directory(directory)
                _write(partial, directory, value)
                os.replace(partial, path)
                if config.current().fsync:
                    _sync_directory(directory)
            except BaseException as error:  # Ctrl-C leaves nothing behind either
                with suppress(OSError):
                    os.unlink(partial)
                if not isinstance(error, OSError) or isinstance(error, StoreError):
                    raise
                what = f"cannot write {key} in {self.root}: {error.strerror or error}"
                raise StoreError(what, chunk=key) from error

    def _check_directory(self, directory: str) -> None:
        """Nothing is written or deleted through a link that leads out of the store."""
        if not self.follow_symlinks and directory not in self._inside:
            self._require_inside(directory)
            self._inside.add(directory)

    def delete(self, keys: Sequence[str]) -> None:
        """Directories stay."""
        for key in keys:
            path = f"{self.root}/{clean_key(key)}"
            try:
                self._check_directory(path[: path.rfind("/")])
                os.unlink(path)
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                if error.errno not in _ABSENT:
                    what = f"cannot delete {key} in {self.root}: {error.strerror or error}"
                    raise StoreError(what, chunk=key) from error

    def delete_below(self, prefix: str) -> None:
        """With its directories, and what a killed process left there."""
        top = os.path.join(self.root, clean_key(prefix.rstrip("/"))) if prefix else self.root
        try:
            if prefix:
                self._check_directory(os.path.dirname(top))
            if os.path.islink(top):
                os.unlink(top)
            for directory, folders, files in os.walk(top, topdown=False):
                for name in files:
                    _gone(os.unlink, os.path.join(directory, name))
                for name in folders:
                    path = os.path.join(directory, name)
                    _gone(os.unlink if os.path.islink(path) else os.rmdir, path)
            if prefix:
                _gone(os.rmdir, top)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            what = f"cannot delete {prefix or '.'} in {self.root}: {error.strerror or error}"
            raise StoreError(what) from error
        finally:
            self._inside.clear()

    def size(self, key: str) -> int | None:
        """The file's size."""
        try:
            return os.stat(f"{self.root}/{clean_key(key)}").st_size
        except OSError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is a file."""
        return os.path.isfile(f"{self.root}/{clean_key(key)}")

    def list(self, prefix: str = "") -> Iterator[str]:
        """Files below `prefix`, links not followed out of their directory."""
        top = os.path.join(self.root, prefix)
        for directory, _, files in os.walk(top, followlinks=self.follow_symlinks):
            for name in files:
                if not name.startswith(_PARTIAL):
                    yield os.path.relpath(os.path.join(directory, name), self.root)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Names in one directory. A link to one that it lies in is left out: nobody would get to the end."""
        directory = os.path.join(self.root, prefix)
        try:
            names = sorted(os.listdir(directory))
            return (
                name for name in names if not name.startswith(_PARTIAL) and not _leads_up(directory, name)
            )
        except OSError as error:
            if error.errno in _ABSENT:
                return iter(())
            raise StoreError(f"cannot list {prefix or '.'} in {self.root}: {error.strerror}") from error


def _leads_up(directory: str, name: str) -> bool:
    path = os.path.join(directory, name)
    if not os.path.islink(path):
        return False
    return f"{os.path.realpath(directory)}/".startswith(f"{os.path.realpath(path)}/")


def _read(fd: int, i: int, request: Request, place: PlaceIfAny | None) -> memoryview | None:
    """One range of an open file, or what there is of it. A directory can be opened, but is no object."""
    start, nbytes = request.start, request.nbytes
    if start < 0 or nbytes is None or nbytes > _MODEST:
        end = os.fstat(fd).st_size
        start = max(end + start, 0) if start < 0 else start
        nbytes = max(min(end - start, end - start if nbytes is None else nbytes), 0)
    into = None if place is None else place(i, nbytes)
    if into is None:
        into = memoryview(bytearray(nbytes))
    done = 0
    while done < nbytes:
        try:
            got = os.preadv(fd, [into[done:]], start + done)
        except IsADirectoryError:
            return None
        if not got:
            return into[:done]
        done += got
    return into


def _version(found: os.stat_result) -> str:
    return f"~{found.st_ino}.{found.st_mtime_ns}.{found.st_size}"


def _require(request: Request, version: str) -> None:
    if request.version not in (None, version):
        raise ChangedError(f"{request.key} was replaced while it was read", chunk=request.key)


def _gone(remove: Callable[[str], None], path: str) -> None:
    """Remove something that another may have removed meanwhile."""
    try:
        remove(path)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _write(path: str, directory: str, value: Buffer | Pieces) -> None:
    """A new file with these bytes. Its directory is made if need be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
        fd = os.open(path, flags, 0o666)
    try:
        pieces = value if isinstance(value, list) else [value]
        left = [memoryview(piece).cast("B") for piece in pieces]
        if sum(map(len, left)) <= _JOINED:
            left = [memoryview(joined(value)).cast("B")]
        left = [piece for piece in left if len(piece)][::-1]  # the next one is the last
        while left:
            batch = left[: -_MOST_PIECES - 1 : -1]
            wrote = os.write(fd, batch[0]) if len(batch) == 1 else os.writev(fd, batch)
            if not wrote:
                raise OSError(errno.EIO, "nothing was written")
            while wrote:
                piece = left.pop()
                if len(piece) > wrote:
                    left.append(piece[wrote:])
                wrote -= min(wrote, len(piece))
        if config.current().fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(directory: str) -> None:
    """A rename lasts once its directory is on the disk."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
