"""What a RemoteStore asks of a library that sends requests, and what is shown of its words.

One request at a time, from any thread, tried once; what fails is said by exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gpuzarr.errors import ForbiddenError
from gpuzarr.store.base import Buffer, Pieces

Room = Callable[[int], object]
"""Told how many bytes are to come, before they do; it may raise, if they are too many."""


class Got(NamedTuple):
    """An answer of a server."""

    data: Buffer
    version: str | None
    """The ETag."""
    start: int
    """Where in the object the bytes begin, as the server says."""
    total: int | None
    """Bytes of the whole object, if the server says so."""


class Unchanged(Exception):
    """The object is still the version that the caller has."""


class DeniedError(ForbiddenError):
    """Forbidden; or missing in a bucket that may not be listed, which says the same of that."""


def is_strong(version: str) -> bool:
    """Whether a server can be asked for this version alone: weak ETags match nothing (RFC 9110, 13.1.1), and
    what is no ETag (it begins with `~`) says nothing to it."""
    return not version.startswith(("W/", "~"))


class OutOfRange(Exception):
    """The range begins behind the object's end."""


class Transport(Protocol):
    """One request at a time, from any thread, tried once. Failures that may pass are `Again`; others
    ForbiddenError, ChangedError or StoreError, whose texts hold no credentials. Paths are relative to the
    host or bucket."""

    @property
    def place(self) -> object:
        """Names the host or bucket, whatever the way there."""
        ...

    def get(
        self, path: str, start: int, nbytes: int | None, version: str | None, unless: str | None, room: Room
    ) -> Got | None:
        """Bytes of an object, with ranges as in `Request` but for empty ones; None where there is none.
        Raises Unchanged if it is the version `unless`, OutOfRange."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of an object; None where there is none."""
        ...

    def put(self, path: str, value: Buffer | Pieces) -> None:
        """Store an object whole or not at all."""
        ...

    def put_if(self, path: str, value: Buffer | Pieces, version: str | None) -> bool:
        """The same if the object is still that version, or with None if there is none; False if not. True
        also where the server, or the way there, knows no conditions."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Every path that begins with `prefix`, which ends at a `/` or is empty."""
        ...

    def list_dir(self, prefix: str) -> Iterator[str]:
        """The names right below."""
        ...


_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?\"'<>|)]*)\?[^\s\"'<>|)]*")
_USER = re.compile(r"://[^\s/@]+@")


def shown(text: object, secrets: Sequence[str] = ()) -> str:
    """A server's or library's words, their first line, without credentials: no query of a URL, where
    signatures are, no password before a host, nothing that the caller gave as a secret."""
    line = str(text).strip().split("\n", 1)[0]
    line = _USER.sub("://", _QUERY.sub(r"\1", line))
    for secret in secrets:
        line = line.replace(secret, "***")
    return line


def secrets_of(options: Mapping[str, Any]) -> list[str]:
    """Every text in storage options that could be a credential, longest first."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, str) and len(value) >= 6 and "://" not in value:
            found.add(value)
        elif isinstance(value, Mapping):
            for one in value.values():
                walk(one)
        elif isinstance(value, (list, tuple)):
            for one in value:
                walk(one)

    walk(options)
    return sorted(found, key=len, reverse=True)
