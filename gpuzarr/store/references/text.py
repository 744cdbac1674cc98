"""A document that may be compressed, as people store large reference sets: one gzip member or one zstd frame
(RFC 1952, RFC 8878). Its first bytes say so. It is never unpacked to more than it may have.
"""

from __future__ import annotations

import zlib
from typing import Final

from numcodecs import zstd

from gpuzarr import config
from gpuzarr.errors import LimitError, MetadataError

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MAX_BLOCK: Final = 128 << 10
_DOCUMENTS: Final = 4
"""A reference set holds the documents of a whole hierarchy, and may be so many times as large as one."""


def limit_nbytes() -> int:
    """Bytes that a reference set may have, and what its rules and records stand for."""
    return _DOCUMENTS * config.current().max_document_nbytes


def unpacked(stored: bytes, limit: int, name: str) -> bytes:
    """The document itself, of at most `limit` bytes. More is a LimitError, damage a MetadataError."""
    if len(stored) > limit:
        raise too_large(name, limit)
    if stored[:2] == _GZIP:
        return _gunzip(stored, limit, name)
    if stored[:4] != _ZSTD:
        return stored
    if _zstd_bound(stored, name) > limit:
        raise too_large(name, limit)
    try:
        return bytes(zstd.decompress(stored))
    except (RuntimeError, ValueError) as error:
        raise MetadataError(f"{name} is a damaged zstd file: {error}") from error


def too_large(name: str, limit: int) -> LimitError:
    """What is said of documents that are."""
    return LimitError(f"{name} has more than {limit} bytes", hint="raise max_document_nbytes if it is meant")


def _gunzip(stored: bytes, limit: int, name: str) -> bytes:
    inflater = zlib.decompressobj(31)
    try:
        plain = inflater.decompress(stored, limit + 1)
    except zlib.error as error:
        raise MetadataError(f"{name} is a damaged gzip file: {error}") from error
    if len(plain) > limit:
        raise too_large(name, limit)
    if not inflater.eof or inflater.unused_data.strip(b"\0"):
        raise MetadataError(f"{name} is a gzip file that ends early, or not where it should")
    return plain


def _zstd_bound(stored: bytes, name: str) -> int:
    """The most that a frame decodes to: what its header says, or where it does not, what its blocks can
    hold."""
    damaged = MetadataError(f"{name} is no single zstd frame from its begin to its end")
    if len(stored) < 14:
        raise damaged
    descriptor = stored[4]
    single = descriptor >> 5 & 1
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    content = int.from_bytes(stored[at : at + width], "little") + (256 if width == 2 else 0)
    at += width
    last = bound = 0
    while not last:
        head = int.from_bytes(stored[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == 1 else size)
        bound += _MAX_BLOCK if kind == 2 else size
        if at > len(stored):
            raise damaged
    if at + (4 if descriptor & 4 else 0) != len(stored) or content > bound:
        raise damaged
    return content if width else bound
