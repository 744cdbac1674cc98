"""One kept byte range as a file, which says of itself what it is.

    magic  object and label, 32 bytes  start  stop  size  version's length      48 bytes of numbers and text
    version  CRC-32C of each MiB of the bytes  CRC-32C of all this
    the bytes

A file that was torn by a crash, damaged or renamed is no file: it is removed, and what it held is fetched
again. A part of the bytes is read and checked by whole MiB.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import google_crc32c
import numpy as np

from gpuzarr.store.base import Buffer
from gpuzarr.store.caching.ranges import Found, Span

MAGIC: Final = b"gpuzarr1"
TOUCH_SECONDS: Final = 600
"""A file that is used says so in its time of change, but not more often than this."""
_FIXED: Final = struct.Struct("<8s32sqqqi")
_CRC: Final = struct.Struct("<I")
_BLOCK: Final = 1 << 20
_FIRST_READ: Final = 4096  # holds the whole header of most files
_READ: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)

Into = Callable[[int], memoryview | None]
"""Memory for so many bytes; None: anywhere."""


class Loaded(NamedTuple):
    """Bytes that were kept, and the version of the object that they are of."""

    version: str | None
    data: Buffer


class Damaged(Exception):
    """The file is not what it was written as."""


def crc32c(data: Buffer | memoryview) -> int:
    """CRC-32C of any buffer: the library takes no writable ones, but arrays over them."""
    return int(google_crc32c.value(np.frombuffer(data, np.uint8))) if len(data) else 0


def write(path: str, partial: str, ident: bytes, span: Span, version: str | None, data: Buffer) -> int:
    """A new file at `path`, of which nothing is seen before it is whole; the bytes it takes. `partial` is its
    name until then. Raises OSError."""
    view = memoryview(data).cast("B")
    said = b"" if version is None else version.encode("utf-8", "surrogatepass")
    size = -1 if span.size is None else span.size
    header = (
        _FIXED.pack(MAGIC, ident, span.start, span.stop, size, -1 if version is None else len(said)) + said
    )
    header += b"".join(_CRC.pack(crc32c(view[at : at + _BLOCK])) for at in range(0, len(view), _BLOCK))
    header += _CRC.pack(crc32c(header))
    fd = os.open(partial, _WRITE, 0o600)
    try:
        try:
            left = [memoryview(header), view]
            while left:
                wrote = os.writev(fd, left)
                while left and wrote >= len(left[0]):
                    wrote -= len(left.pop(0))
                if left:
                    left[0] = left[0][wrote:]
        finally:
            os.close(fd)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    return len(header) + len(view)


def load(path: str, ident: bytes, found: Found, into: Into | None = None) -> Loaded | None:
    """The part of a file's bytes that `found` says, in memory that `into` gives where that is all of them.
    None: there is no such file any more."""
    fd = _open(path)
    if fd < 0:
        return None
    try:
        header = _header(fd, ident)
        if header.span != found.span:
            raise Damaged
        loaded = Loaded(header.version, _part(fd, header, found, into))
        if time.time() - os.fstat(fd).st_mtime > TOUCH_SECONDS:
            with suppress(OSError):  # only that it may be evicted too early
                os.utime(fd)
        return loaded
    except Damaged:
        _remove(path)
        return None
    finally:
        os.close(fd)


def version_of(path: str) -> str | None:
    """The version that a file says its bytes are of; None if it says nothing."""
    fd = _open(path)
    if fd < 0:
        return None
    try:
        return _header(fd, None).version
    except Damaged:
        _remove(path)
        return None
    finally:
        os.close(fd)


class _Header(NamedTuple):
    span: Span
    version: str | None
    checksums: tuple[int, ...]
    nbytes: int
    """Bytes before the kept ones."""


def _header(fd: int, ident: bytes | None) -> _Header:
    """Raises Damaged unless the file is whole, as far as its length and its header can tell."""
    end = os.fstat(fd).st_size
    fixed = bytearray(min(end, _FIRST_READ))
    _fill(fd, memoryview(fixed), 0)
    if len(fixed) < _FIXED.size:
        raise Damaged
    magic, written, start, stop, size, said = _FIXED.unpack_from(fixed)
    nbytes = stop - start
    blocks = -(-nbytes // _BLOCK)
    header_nbytes = _FIXED.size + max(said, 0) + _CRC.size * (blocks + 1)
    if magic != MAGIC or nbytes < 0 or header_nbytes + nbytes != end or ident not in (None, written):
        raise Damaged
    if header_nbytes > len(fixed):
        fixed = bytearray(header_nbytes)
        _fill(fd, memoryview(fixed), 0)
    whole = bytes(fixed[:header_nbytes])
    if _CRC.unpack_from(whole, header_nbytes - _CRC.size)[0] != crc32c(whole[: -_CRC.size]):
        raise Damaged
    version = None if said < 0 else whole[_FIXED.size : _FIXED.size + said].decode("utf-8", "surrogatepass")
    checksums = struct.unpack_from(f"<{blocks}I", whole, _FIXED.size + max(said, 0))
    return _Header(Span(start, stop, None if size < 0 else size), version, checksums, header_nbytes)


def _part(fd: int, header: _Header, found: Found, into: Into | None) -> Buffer:
    """Some of the bytes, checked with all that lies in their blocks."""
    first = found.offset // _BLOCK
    begin = first * _BLOCK
    end = min(-(-(found.offset + found.nbytes) // _BLOCK) * _BLOCK, header.span.nbytes)
    given = into(found.nbytes) if into is not None and end - begin == found.nbytes else None
    if given is not None and given.nbytes != found.nbytes:
        given = None
    if given is None:
        view = memoryview(_read(fd, end - begin, header.nbytes + begin))
    else:
        view = given.cast("B")
        _fill(fd, view, header.nbytes + begin)
    for at in range(0, len(view), _BLOCK):
        if crc32c(view[at : at + _BLOCK]) != header.checksums[first + at // _BLOCK]:
            raise Damaged
    return view[found.offset - begin :][: found.nbytes] if given is None else given


def _read(fd: int, nbytes: int, at: int) -> Buffer:
    """So many bytes: memory that the system fills is not cleared before."""
    try:
        data = os.pread(fd, nbytes, at)
    except OSError:
        raise Damaged from None
    if len(data) == nbytes:
        return data
    whole = bytearray(nbytes)  # one call gives 2 GiB at most
    _fill(fd, memoryview(whole), at)
    return whole


def _fill(fd: int, view: memoryview, at: int) -> None:
    while len(view):
        try:
            got = os.preadv(fd, [view], at)
        except OSError:
            raise Damaged from None
        if not got:
            raise Damaged
        view, at = view[got:], at + got


def _open(path: str) -> int:
    try:
        return os.open(path, _READ)
    except OSError:
        return -1


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
