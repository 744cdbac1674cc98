"""Stores of zarr-python (https://zarr.readthedocs.io/en/stable/user-guide/storage) as stores of gpuzarr:
local, memory, zip, fsspec, obstore, what wraps them, VirtualiZarr's manifests, Icechunk's sessions.

They are asynchronous. Their coroutines run on the event loop that zarr-python keeps in a thread of its own,
and makes anew in a forked child: connections and locks belong to the loop on which a store made them, and the
store may be in zarr-python's hands too. Callers may stand in a loop themselves, as in a notebook.

Reading is `get` alone, many at once. `get_partial_values` of Icechunk has 10 requests in flight and fails
where a key is missing; that of obstore joins near ranges, which a plan has done before; others call `get`.
Nothing is tried twice here: stores have retries of their own.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from gpuzarr.errors import ArgumentError, ForbiddenError, GpuzarrError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, Place, PlaceIfAny, Request, Same, Traits, clean_key, joined
from gpuzarr.store.coroutines import Many
from gpuzarr.store.remote import REMOTE, shown

_LOCAL = ("LocalStore", "MemoryStore", "GpuMemoryStore", "ManagedMemoryStore", "ZipStore")
_ABSENT = (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
_FORBIDDEN = ("PermissionDenied", "Unauthenticated", "Forbidden", "AccessDenied")
_KINDS = {
    "bad key prefix": "bad-key-prefix",
    "invalid chunk index": "invalid-chunk-index",
    "invalid zarr key": "invalid-key",
    "node not found": "node-not-found",
}

_loop: tuple[int, asyncio.AbstractEventLoop] | None = None  # process, loop


def is_zarr_store(target: object) -> bool:
    """Whether `target` is a store of zarr-python or a session of Icechunk. Imports neither."""
    return _is(target, "zarr.abc.store", "Store") or _is(target, "icechunk.session", "Session")


class ZarrStore:
    """A `zarr.abc.store.Store`, or an `icechunk.Session`. Whether it can be written is up to that."""

    __slots__ = ("_is_fsspec", "store", "target", "traits", "url")

    def __init__(self, target: Any) -> None:
        if not is_zarr_store(target):
            raise ArgumentError(f"a {type(target).__name__} is no store of zarr-python")
        self.target = target
        self.store: Any = target.store if _is(target, "icechunk.session", "Session") else target
        inner = self.store
        while _is(inner, "zarr.storage", "WrapperStore"):
            inner = inner._store
        self.traits = Traits() if _is(inner, "zarr.storage", *_LOCAL) else REMOTE
        if _is(inner, "icechunk.store", "IcechunkStore"):
            self.traits = replace(REMOTE, transactional=True)
        self._is_fsspec = _is(inner, "zarr.storage", "FsspecStore")
        self.url = _name(inner)

    def __repr__(self) -> str:
        return f"ZarrStore({self.url})"

    def place(self, key: str) -> tuple[object, str]:
        """The store or session as an object of Python."""
        return Same(self.target), key

    # ---- reading

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """All in flight at once, up to a bound. The bytes lie where the store left them."""
        return self.stream(requests).all()

    def stream(self, requests: Sequence[Request], place: PlaceIfAny | None = None) -> Many:
        """The same as they come."""
        for request in requests:
            clean_key(request.key)
        sizes = [request.nbytes for request in requests]
        return Many(_zarrs_loop(), lambda i: self._get(requests[i]), sizes)

    async def _get(self, request: Request) -> Buffer | None:
        key, wanted = request.key, request.nbytes
        if wanted == 0:  # which stores take for an error
            return b"" if await self._exists(key) else None
        prototype, byte_range = _asked(request)
        try:
            found = await self.store.get(key, prototype, byte_range)
            if found is None:
                return None
            data = memoryview(found.as_numpy_array().reshape(-1).view("u1"))
        except Exception as error:
            if _is_absent(error) and await self._gone(key):
                return None
            within = None if byte_range is None else await self._within(request)
            if within is None:
                self._fail("read", key, error)
            return await self._get(within)
        longest = -request.start if request.start < 0 else wanted
        if longest is not None and len(data) > longest:
            raise StoreError(f"{self.url} gave {len(data)} bytes of {key} where {longest} were asked for")
        return data if wanted is None else data[:wanted]

    async def _gone(self, key: str) -> bool:
        """Whether a store whose `get` says by an error that something is missing means the key. VirtualiZarr
        says the same of the file that a key refers to, where fill values would be wrong."""
        try:
            return not await self.store.exists(key)
        except Exception as error:
            return _is_absent(error)

    async def _within(self, request: Request) -> Request | None:
        """What there is of a range that reaches past the object's end, which some stores take for an error;
        None if it does not, or nobody can tell."""
        try:
            size = int(await self.store.getsize(request.key))
        except Exception:
            return None
        start = max(size + request.start, 0) if request.start < 0 else min(request.start, size)
        end = size if request.nbytes is None else min(start + request.nbytes, size)
        past = start >= size or -request.start > size or start + (request.nbytes or 0) > size
        return Request(request.key, start, end - start) if past else None

    def size(self, key: str) -> int | None:
        """Unknown: asking costs a round trip."""
        return None

    def exists(self, key: str) -> bool:
        """Whether the store says so; one that cannot is asked for the object."""
        clean_key(key)
        return bool(Many(_zarrs_loop(), lambda _: self._exists(key), [0]).all()[0])

    async def _exists(self, key: str) -> bool:
        try:
            found = bool(await self.store.exists(key))
            if found and self._is_fsspec:  # which says so of directories too
                return await self.store.get(key, *_asked(Request(key, 0, 1))) is not None
            return found
        except NotImplementedError:
            return await self._get(Request(key)) is not None
        except Exception as error:
            if _is_absent(error):
                return False
            self._fail("look for", key, error)

    def list(self, prefix: str = "") -> Iterator[str]:
        """In the store's order."""
        found = self._listed(prefix, lambda: self._below(prefix))
        return (key for key in found if key.startswith(prefix))

    async def _below(self, prefix: str) -> AsyncIterator[str]:
        """Icechunk lists what is below arrays and groups, not what is below a part of a chunk's key."""
        try:
            async for key in self.store.list_prefix(prefix):
                yield key
        except Exception as error:
            if _kind(error) != "bad-key-prefix":
                raise
            if [name async for name in self.store.list_dir(prefix.rstrip("/"))]:
                above = prefix.rstrip("/").rpartition("/")[0]
                async for key in self._below(above and f"{above}/"):
                    yield key

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """In the store's order."""
        below = prefix.rstrip("/")
        return self._listed(prefix, lambda: self.store.list_dir(below))

    def _listed(self, prefix: str, names: Callable[[], Any]) -> Iterator[str]:
        async def collect(_: int) -> dict[str, None]:
            try:
                return {name: None async for one in names() if (name := str(one).strip("/"))}
            except NotImplementedError:
                raise StoreError(f"{self.url} does not list what it holds", hint="name the array") from None
            except Exception as error:
                return {} if _is_absent(error) else self._fail("list", prefix or "/", error)

        return iter(Many(_zarrs_loop(), collect, [0]).all()[0])

    # ---- writing

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """All in flight at once, up to a bound. Each whole or not at all where the store does that: local
        files, memory, object stores and Icechunk do."""
        from zarr.buffer.cpu import Buffer as Wrapped

        values = {clean_key(key): bytes(joined(value)) for key, value in objects}
        sizes = [len(value) for value in values.values()]
        wrap = Wrapped.from_bytes
        self._change("write", list(values), lambda key: self.store.set(key, wrap(values[key])), sizes)

    def delete(self, keys: Sequence[str]) -> None:
        """All in flight at once, up to a bound."""
        self._change("delete", [clean_key(key) for key in keys], self.store.delete)
        chunks = [key for key in keys if not key.endswith("zarr.json")]
        if chunks and _is(self.store, "icechunk.store", "IcechunkStore"):
            # Without a word it leaves those that lie outside of their array's shape.
            above = posixpath.commonpath([posixpath.dirname(key) for key in chunks])
            if left := sorted(set(chunks).intersection(self.list(above and f"{above}/"))):
                hint = "Icechunk deletes chunks only while the shape has them: discard the session's changes"
                raise StoreError(f"cannot delete {left[0]} at {self.url}", chunk=left[0], hint=hint)

    def delete_below(self, prefix: str) -> None:
        """With one call."""
        below = prefix.rstrip("/")
        self._change("delete", [below and clean_key(below)], self.store.delete_dir)

    def _change(
        self,
        what: str,
        keys: Sequence[str],
        change: Callable[[str], Awaitable[None]],
        sizes: Sequence[int] | None = None,
    ) -> None:
        if self.store.read_only or not self.store.supports_writes:
            hint = "open the store, or a session, for writing"
            raise ReadOnlyError(f"{self.url} cannot be written", hint=hint)

        async def told(i: int) -> None:
            try:
                await change(keys[i])
            except Exception as error:
                if isinstance(error, NotImplementedError) or _is_called(error, "ReadOnlyError"):
                    raise ReadOnlyError(f"cannot {what} {keys[i]} at {self.url}: {_said(error)}") from None
                early = _kind(error) in ("node-not-found", "invalid-chunk-index")
                if what == "delete" and (early or _is_absent(error)):
                    return  # what is left, if something is, `delete` sees
                hint = "Icechunk wants an array and its shape before its chunks"
                self._fail(what, keys[i], error, chunk=keys[i], hint=hint if early else None)

        Many(_zarrs_loop(), told, [0] * len(keys) if sizes is None else sizes).all()

    def _fail(self, what: str, key: str, error: Exception, **more: str | None) -> NoReturn:
        if isinstance(error, GpuzarrError):
            raise error
        forbidden = isinstance(error, PermissionError) or _is_called(error, *_FORBIDDEN)
        kind = ForbiddenError if forbidden else StoreError
        # Without its cause, which may name what `shown` leaves out.
        raise kind(f"cannot {what} {key} at {self.url}: {_said(error)}", **more) from None


def _zarrs_loop() -> asyncio.AbstractEventLoop:
    """zarr-python's event loop, one a process. It cannot wait for itself."""
    global _loop
    if _loop is None or _loop[0] != os.getpid() or _loop[1].is_closed():
        from zarr.core.sync import sync

        async def running() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        _loop = os.getpid(), sync(running())
    if asyncio._get_running_loop() is _loop[1]:
        hint = "call gpuzarr by asyncio.to_thread"
        raise StoreError("a coroutine on zarr-python's event loop waits for that loop", hint=hint)
    return _loop[1]


def _asked(request: Request) -> tuple[Any, Any]:
    """What kind of buffer is wanted, one on the host, and which bytes: both in zarr-python's words."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
    from zarr.buffer.cpu import buffer_prototype

    if request.start < 0:
        return buffer_prototype, SuffixByteRequest(-request.start)
    if request.nbytes is not None:
        return buffer_prototype, RangeByteRequest(request.start, request.start + request.nbytes)
    return buffer_prototype, OffsetByteRequest(request.start) if request.start else None


def _is_absent(error: Exception) -> bool:
    """Whether an error says that there is no such object."""
    if isinstance(error, _ABSENT) or _kind(error) == "invalid-key":
        return True
    return _is_called(error, "NotFoundError") and not isinstance(error, ImportError)


def _kind(error: Exception) -> str | None:
    """Icechunk's word for what went wrong, which before version 2 is only in its text."""
    if not _is_called(error, "IcechunkError"):
        return None
    told: str | None = getattr(error, "kind", None)
    return told or next((kind for words, kind in _KINDS.items() if words in str(error)), None)


def _is_called(error: Exception, *names: str) -> bool:
    return any(name in kind.__name__ for kind in type(error).__mro__ for name in names)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(error)}".removesuffix(": ")


def _is(target: object, module: str, *names: str) -> bool:
    """Whether `target` is of a class of one of these names, in a module or one below it."""
    kinds = [kind for kind in type(target).__mro__ if f"{kind.__module__}.".startswith(f"{module}.")]
    return any(kind.__name__ in names for kind in kinds)


def _name(store: Any) -> str:
    """A URL without credentials. Stores that have none of their own are told apart as objects."""
    kind, where = type(store).__name__, ""
    try:
        if _is(store, "zarr.storage", "LocalStore", "ZipStore"):
            return str(os.path.abspath(getattr(store, "root", None) or store.path))
        if _is(store, "zarr.storage", "FsspecStore"):
            protocol = store.fs.protocol
            kind, where = protocol if isinstance(protocol, str) else protocol[0], store.path
        elif _is(store, "zarr.storage", "ObjectStore"):
            kind, of = type(store.store).__name__, store.store
            bucket = getattr(of, "config", {}).get("bucket", "")
            where = getattr(of, "url", "") or f"{bucket}/{of.prefix or ''}"
        elif _is(store, "icechunk.store", "IcechunkStore"):
            kind, where = "icechunk", f"{store.session.branch or ''}@{store.session.snapshot_id}"
    except Exception:
        where = ""  # a message is no place to fail in
    return shown(f"{kind}:{where.strip('/') or hex(id(store))}")
