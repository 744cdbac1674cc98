"""Byte ranges that are kept on a disk: encoded, as they were fetched; least recently used out first.

Many processes may use one directory, and be killed at any moment: a file appears whole or not at all, says
of itself what it is (store/caching/file.py), and may vanish at any time. Names are hashes, so that neither
keys nor URLs are seen, and only their owner may read what is kept. A disk that is full or broken keeps less.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, Request
from gpuzarr.store.caching import file
from gpuzarr.store.caching.file import Into, Loaded
from gpuzarr.store.caching.memory import Kept, positive
from gpuzarr.store.caching.ranges import Found, Ranges, Span
from gpuzarr.store.caching.usage import KEPT, PARTIAL, Usage

_LISTINGS: Final = 32  # directories of objects whose files are known
_RACY_NS: Final = 100_000_000  # a directory that changed no longer ago may change again without a new time
_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class _OnDisk:
    path: str
    ident: bytes
    found: Found

    def load(self, into: Into | None = None) -> Loaded | None:
        """The bytes, checked."""
        return file.load(self.path, self.ident, self.found, into)


class _Listing(NamedTuple):
    """The files of one object."""

    changed: int
    ranges: dict[str, Ranges]
    """By what they are kept under."""


class DiskCache:
    """Up to about `nbytes` bytes below `directory`, which is made if need be, for one store or many."""

    def __init__(self, directory: str | os.PathLike[str], nbytes: int) -> None:
        self.directory = os.path.abspath(os.path.expanduser(os.fspath(directory)))
        self.nbytes = positive(nbytes)
        _require_own(self.directory)
        self._usage = Usage(self.directory, self.nbytes)
        self._listings: OrderedDict[str, _Listing] = OrderedDict()

    def __repr__(self) -> str:
        return f"DiskCache({self.directory!r}, {self.nbytes})"

    def __reduce__(self) -> tuple[object, ...]:
        """Another process uses the same directory."""
        return DiskCache, (self.directory, self.nbytes)

    def find(self, name: str, label: str, requests: Sequence[Request]) -> list[Kept | None]:
        """What it has of one object, under this label, for each request."""
        folder = self._folder(name)
        token = _token(label)
        ranges = self._listing(folder).get(token)
        if ranges is None:
            return [None] * len(requests)
        ident = _ident(name, label)
        kept: list[Kept | None] = []
        for request in requests:
            found = ranges.find(request)
            kept.append(found and _OnDisk(_path(folder, token, found.span), ident, found))
        return kept

    def version(self, name: str) -> str | None:
        """That of any of its files."""
        folder = self._folder(name)
        for token, ranges in self._listing(folder).items():
            span = next(iter(ranges.spans), ranges.tail)
            if token.startswith("v") and span is not None:
                version = file.version_of(_path(folder, token, span))
                if version is not None:
                    return version
        return None

    def keep(self, name: str, label: str, version: str | None, span: Span, data: Buffer) -> None:
        """A new file. Smaller ones with the same bytes stay until nobody has used them for long."""
        if len(data) > self.nbytes // 2:
            return
        folder = self._folder(name)
        path = _path(folder, _token(label), span)
        partial = f"{folder}/{PARTIAL}{os.getpid()}.{next(_counter)}.{os.urandom(4).hex()}"
        with suppress(OSError):
            _make(folder, self.directory)
            self._usage.wrote(file.write(path, partial, _ident(name, label), span, version, data))

    def forget(self, name: str, but: str | None = None) -> None:
        """Remove an object's files, except those under the label `but`."""
        folder = self._folder(name)
        spared = None if but is None else _token(but)
        for one in _names(folder):
            found = KEPT.fullmatch(one)
            if found and found[1] != spared:
                with suppress(OSError):
                    os.unlink(f"{folder}/{one}")
        if spared is None:
            with suppress(OSError):
                os.rmdir(folder)

    def _folder(self, name: str) -> str:
        digest = _digest(name, 20)
        return f"{self.directory}/{digest[:2]}/{digest[2:]}"

    def _listing(self, folder: str) -> dict[str, Ranges]:
        """The files of one object, read anew where its directory has changed."""
        try:
            changed = os.stat(folder).st_mtime_ns
        except OSError:
            return {}
        known = self._listings.get(folder)
        if known is not None and known.changed == changed:
            return known.ranges
        ranges: dict[str, Ranges] = {}
        for one in _names(folder):
            if found := KEPT.fullmatch(one):
                span = Span(int(found[2]), int(found[3]), int(found[4]) if found[4] else None)
                ranges.setdefault(found[1], Ranges()).add(span)
        if time.time_ns() - changed > _RACY_NS:
            self._listings[folder] = _Listing(changed, ranges)
            while len(self._listings) > _LISTINGS:
                with suppress(KeyError):  # another thread was there before
                    self._listings.popitem(last=False)
        return ranges


def _require_own(directory: str) -> None:
    """Others could put bytes into a directory that is theirs, or that they may write."""
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise StoreError(
            f"cannot make the cache directory {directory}: {error.strerror or error}",
            hint="give another one, or set cache_dir",
        ) from error
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "it is a link" if stat.S_ISLNK(found.st_mode) else "it is no directory"
    elif found.st_uid != os.geteuid():
        wrong = "it belongs to another user"
    elif found.st_mode & 0o022:
        wrong = "other users may write there"
    if wrong:
        raise StoreError(
            f"{directory} cannot be a cache: {wrong}", hint="give a directory of your own, of mode 700"
        )


def _make(folder: str, root: str) -> None:
    """The directory of an object; those around it are mostly there."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        for one in (root, os.path.dirname(folder), folder):
            with suppress(FileExistsError):
                os.mkdir(one, 0o700)


def _names(folder: str) -> Iterator[str]:
    try:
        return iter(os.listdir(folder))
    except OSError:
        return iter(())


def _digest(text: str, nbytes: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=nbytes).hexdigest()


def _token(label: str) -> str:
    """What a label is in the name of a file."""
    return {"=": "v", "#": "h", "": "n"}[label[:1]] + _digest(label, 8)


def _ident(name: str, label: str) -> bytes:
    """What a file says it is of."""
    return blake2b(f"{_digest(name, 32)}{label}".encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _path(folder: str, token: str, span: Span) -> str:
    return f"{folder}/{token}_{span.start}_{span.stop}_{'' if span.size is None else span.size}"
