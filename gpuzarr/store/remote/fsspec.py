"""An asynchronous file system of fsspec as a transport: s3fs, gcsfs, adlfs, its HTTP. It is slower than
obstore and tells no versions, but takes every option.

An answer of HTTP is held to what was asked for while it comes. Of the others nothing is seen before all of it
has come: a server that sends more than was asked for costs memory, and then its answer is refused.

gcsfs and adlfs try again on their own, which cannot be turned off. Where logging is set to DEBUG and a HEAD
request fails, fsspec's HTTP logs an exception with the whole URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from gpuzarr.errors import ArgumentError, ForbiddenError, GpuzarrError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, joined
from gpuzarr.store.remote.html_index import names_on, walk
from gpuzarr.store.remote.retry import Again
from gpuzarr.store.remote.transport import DeniedError, Got, OutOfRange, Room, shown

Names = list[str]

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NOBODY = {"ClientConnectorError", "EndpointConnectionError", "ConnectTimeoutError", "ConnectionRefusedError"}
_SPAN = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)")
_UNTOLD_NBYTES = 1 << 30
"""The most of an HTTP answer whose length is told neither by the request nor by the server."""
_REFUSAL_NBYTES = 1 << 16
"""What is read of the text that comes with an error, so that its connection can be used again."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Fsspec:
    """`root`, a bucket or a host, is put before every path; `query`, which may be a signature, behind it."""

    fs: Any
    root: str
    place: object
    secrets: tuple[str, ...] = ()
    query: str = ""

    def __post_init__(self) -> None:
        self.fs = _of_our_own(self.fs, self.query)

    def __repr__(self) -> str:
        return f"Fsspec({self.place})"

    @property
    def _http(self) -> bool:
        return self.root.startswith(("http://", "https://"))

    def _at(self, path: str) -> str:
        if not self._http:
            return self.root + path
        return self.root + quote(path) + ("" if _is_fsspecs_http(self.fs) else self.query)

    def get(
        self, path: str, start: int, nbytes: int | None, version: str | None, unless: str | None, room: Room
    ) -> Got | None:
        """One `cat_file`.

        Always a range: without one, s3fs looks the size up in listings that it remembers, and cuts the read.
        """
        end = None if nbytes is None or start < 0 else start + nbytes
        cat = partial(self.fs.cat_file, self._at(path), start=start, end=end)
        most = -start if start < 0 else nbytes
        if self._http and _is_fsspecs_http(self.fs) and "get_client" not in self.fs.storage_options:
            answer = _Answer(start, most)
            # It has the bytes; what `cat_file` gives is what it has left of them.
            told: Got | None = self._told(
                lambda: (cat(raise_for_status=answer), answer.got())[1], path, "read"
            )
        else:
            data = self._told(cat, path, "read")
            told = None if data is None else Got(memoryview(data), None, start, None)
        if told is None:
            return None
        if most is not None and len(told.data) > most:
            raise _too_much(most)
        room(len(told.data))
        return told

    def size(self, path: str) -> int | None:
        """One request or two. What listings said before does not count."""
        self._forget(self._at(path))
        found = self._told(lambda: self.fs.info(self._at(path)), path, "look for")
        return None if found is None or found.get("type") == "directory" else int(found.get("size") or 0)

    def put(self, path: str, value: Buffer | Pieces) -> None:
        """One `pipe_file`."""
        self._told(lambda: self.fs.pipe_file(self._at(path), bytes(joined(value))), path, "write")

    def put_if(self, path: str, value: Buffer | Pieces, version: str | None) -> bool:
        """Without the condition, which fsspec cannot send."""
        self.put(path, value)
        return True

    def delete(self, paths: Sequence[str]) -> None:
        """One call each: those that are not there are no error."""
        for path in paths:
            self._told(partial(self.fs.rm_file, self._at(path)), path, "delete")

    def list(self, prefix: str) -> Iterator[str]:
        """Every file below; of an HTTP server, page by page."""
        if self._http:
            return walk(self._page, prefix)
        top = (self.root + prefix).rstrip("/")
        self._forget(top)
        found = self._told(lambda: self.fs.find(top, refresh=True), prefix, "list") or ()
        base = self.fs._strip_protocol(self.root).rstrip("/") + "/"
        return (str(path).removeprefix(base) for path in found)

    def list_dir(self, prefix: str) -> Iterator[str]:
        """The names in one directory."""
        if self._http:
            return (name.rstrip("/") for name in self._page(prefix))
        top = (self.root + prefix).rstrip("/")
        self._forget(top)
        found = self._told(lambda: self.fs.ls(top, detail=False, refresh=True), prefix, "list") or ()
        return iter(sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found}))

    def _forget(self, at: str) -> None:
        """What the file system remembers of listings."""
        self.fs.invalidate_cache(at)
        self.fs.invalidate_cache(self.fs._parent(at))

    def _page(self, prefix: str) -> Names:
        try:
            page = self.get(prefix, 0, None, None, None, lambda nbytes: None)
        except OutOfRange:
            return []
        return [] if page is None else names_on(bytes(page.data), prefix)

    def _told(self, send: Callable[[], Any], path: str, what: str) -> Any:
        """An answer, None for what is not there; failures in our words. Those are raised outside of the
        handler: the text of the others may hold a signature, and nobody shall find it behind ours."""
        try:
            return send()
        except (Again, OutOfRange, GpuzarrError):
            raise
        except Exception as error:
            failure = self._failure(error, path, what)
        if failure is not None:
            raise failure
        return None

    def _failure(self, error: Exception, path: str, what: str) -> Exception | None:
        """Our error for theirs; None for what is not there."""
        if self._http and isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            # Its `info` says so whatever went wrong.
            error = error.__cause__
        status = getattr(error, "status", None) or getattr(error, "code", None)
        said = shown(error, self.secrets) or type(error).__name__
        if isinstance(error, _ABSENT) or (self._http and status == 404):
            if what != "write":
                return None
            return StoreError(f"cannot write {path}: there is no such bucket or directory: {said}")
        if isinstance(error, NotImplementedError):
            return ReadOnlyError(f"fsspec only reads there: cannot {what} {path}")
        if isinstance(error, TypeError):
            hint = "is a storage option wrong?"
            return ArgumentError(f"cannot {what} {path}: {said}", hint=hint)
        if isinstance(error, PermissionError) or status in (401, 403):
            kind = ForbiddenError if status == 401 else DeniedError
            return kind(f"may not {what} {path}: {said}", chunk=path)
        if type(error).__name__ == "NoCredentialsError":
            hint = 'storage_options={"anon": True} for public data'
            return ForbiddenError(f"no credentials for {path}: {said}", hint=hint)
        if status == 416 or "InvalidRange" in said or "Range Not Satisfiable" in said:
            return OutOfRange()
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
            return StoreError(f"cannot {what} {path}: {said}")
        nobody = any(one.__name__ in _NOBODY for one in type(error).__mro__)
        return Again(f"{type(error).__name__}: {said}", slow=status in (429, 503), alive=not nobody, most=4)


class _Answer:
    """An answer of HTTP, which aiohttp shows as soon as its headers are there: how many bytes come, and from
    where, is known before they are all in memory. `cat_file` tells neither."""

    def __init__(self, start: int, most: int | None) -> None:
        self._start, self._most = start, most
        self._body = b""
        self._first = start
        self._total: int | None = None

    def got(self) -> Got:
        """What came."""
        return Got(memoryview(self._body), None, self._first, self._total)

    async def __call__(self, response: Any) -> None:
        try:
            await self._take(response)
        except BaseException:
            response.close()
            raise

    async def _take(self, response: Any) -> None:
        if response.status >= 400:
            await _read(response, _REFUSAL_NBYTES)
            if response.status == 404:
                raise FileNotFoundError
            response.raise_for_status()
        told = _SPAN.fullmatch(response.headers.get("Content-Range", ""))
        if told is not None:
            self._first = int(told[1])
            self._total = None if told[2] == "*" else int(told[2])
        elif response.status != 206:
            if self._start:
                raise _whole()
            self._first = 0
        most = self._most
        if most is None and "Content-Encoding" not in response.headers:
            most = response.content_length
        body = await _read(response, _UNTOLD_NBYTES if most is None else most)
        if body is None and self._most is not None:
            raise _whole() if response.status != 206 else _too_much(self._most)
        if body is None:
            raise StoreError(f"more than {_UNTOLD_NBYTES} bytes came, and the server does not say how many")
        self._body = body


async def _read(response: Any, most: int) -> bytes | None:
    """The body, whatever is left of it; None, and the connection ends, if that is more than `most` bytes."""
    pieces, n = [], 0
    async for piece in response.content.iter_any():
        n += len(piece)
        if n > most:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _whole() -> Again:
    return Again("the server gave the whole object instead of a part", most=4)


def _too_much(most: int) -> Again:
    return Again(f"more than the {most} bytes came that were asked for", most=4)


def _of_our_own(fs: Any, query: str) -> Any:
    """The same file system, made anew: what is set here is none of its other users' business. Tries are
    counted by `retry`; paths are quoted already; and where the query goes, no log of fsspec's sees it."""
    made_by = type(fs).__module__.partition(".")[0]
    if made_by != "s3fs" and not _is_fsspecs_http(fs):
        return fs
    options = {**fs.storage_options, "skip_instance_cache": True}
    if made_by == "s3fs":
        config = options.get("config_kwargs") or {}
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, **config}
    own = type(fs)(*fs.storage_args, **options)
    if made_by == "s3fs":
        own.retries = 1
    else:
        own.encode_url = partial(_encoded, query=query)
    return own


def _is_fsspecs_http(fs: Any) -> bool:
    return type(fs).__module__ == "fsspec.implementations.http"


def _encoded(url: str, query: str) -> Any:
    from yarl import URL

    return URL(url + query, encoded=True)
