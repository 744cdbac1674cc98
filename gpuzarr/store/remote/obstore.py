"""S3, Google Cloud Storage, Azure and HTTP through obstore (https://developmentseed.org/obstore): the Rust
crate object_store, which waits without Python. Retries are not its own here: `retry` counts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import obstore
from obstore import exceptions as theirs
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from gpuzarr.errors import ArgumentError, ChangedError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, joined
from gpuzarr.store.remote.html_index import names_on, walk
from gpuzarr.store.remote.kvikio import Endpoint
from gpuzarr.store.remote.retry import Patience
from gpuzarr.store.remote.said import failure
from gpuzarr.store.remote.transport import Got, OutOfRange, Room, is_strong, shown

Answer = TypeVar("Answer")
Names = list[str]

_OWN = "~"
"""What versions begin with that are no ETags."""
_GENERATION = "\n"
_PART_NBYTES = 8 << 20
"""Of an upload in parts, which S3 takes from 5 MiB on and up to 10,000 of."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Obstore:
    """A bucket, or an HTTP host."""

    store: Any
    place: object
    secrets: tuple[str, ...] = ()
    lists: bool = True
    made_in: int = field(default_factory=os.getpid)
    """The process whose threads wait."""
    endpoint: Endpoint | None = field(default=None, repr=False, compare=False)
    """How KvikIO asks for the same objects, where it can."""
    _odd: set[str] = field(default_factory=set, repr=False, compare=False)
    """What this server turned out not to know."""

    def __repr__(self) -> str:
        return f"Obstore({self.place})"

    def get(
        self, path: str, start: int, nbytes: int | None, version: str | None, unless: str | None, room: Room
    ) -> Got | None:
        """One GET, whose headers come first."""
        options: dict[str, Any] = {}
        if start < 0 and isinstance(self.store, AzureStore):  # which has no suffix ranges
            head = self._told(partial(obstore.head, self.store, path), path)
            if head is None:
                return None
            if not head["size"]:
                raise OutOfRange
            first = max(head["size"] + start, 0)
            return self.get(path, first, head["size"] - first, version or head["e_tag"], unless, room)
        if start < 0:
            options["range"] = {"suffix": -start}
        elif nbytes is not None:
            options["range"] = (start, start + nbytes)
        elif start:
            options["range"] = {"offset": start}
        if version is not None and is_strong(version):
            options["if_match"] = _etag(version)
        if unless is not None and not unless.startswith(_OWN):
            options["if_none_match"] = _etag(unless)

        def send() -> Got:
            result = obstore.get(self.store, path, options=cast(Any, options))
            first, end = result.range
            room(end - first)
            meta = result.meta
            data: Any
            if isinstance(self.store, HTTPStore):
                # A stranger's body may be longer than its head says. As a stream, no more is taken than by
                # one piece; but it is joined under the interpreter's lock, which others wait for.
                data = next(iter(result.stream(min_chunk_size=end - first + 1)), b"")
            else:
                data = result.bytes()
            return Got(memoryview(data), self._version(meta), first, meta["size"])

        return self._told(send, path)

    def _version(self, meta: Any) -> str:
        """The ETag; without one what else changes when an object does. Google wants the generation, too."""
        told: str | None = meta["e_tag"]
        if told and isinstance(self.store, GCSStore) and meta["version"]:
            return f"{told}{_GENERATION}{meta['version']}"
        return told or f"{_OWN}{meta['last_modified'].timestamp():.6f} {meta['size']}"

    def size(self, path: str) -> int | None:
        """One HEAD."""
        return self._told(lambda: int(obstore.head(self.store, path)["size"]), path)

    def put(self, path: str, value: Buffer | Pieces) -> None:
        """One PUT; beyond a few parts' size several, of which readers see nothing before the last is
        there."""
        self._put(path, value, use_multipart=memoryview(joined(value)).nbytes > 2 * _PART_NBYTES)

    def put_if(self, path: str, value: Buffer | Pieces, version: str | None) -> bool:
        """One PUT with a condition, of any size."""
        mode: Any = "create"
        if "conditions" in self._odd or (version is not None and not is_strong(version)):
            mode = "overwrite"
        elif version is not None:
            etag, _, generation = version.partition(_GENERATION)
            mode = {"e_tag": etag, "version": generation} if generation else {"e_tag": etag}
            if isinstance(self.store, GCSStore) and not generation:
                mode = "overwrite"
        try:
            self._put(path, value, mode=mode, use_multipart=False)
        except ChangedError:
            return False
        except ReadOnlyError:
            if mode == "overwrite":
                raise
            self._put(path, value, use_multipart=False)
            self._odd.add("conditions")  # others of this kind take no conditions either
        return True

    def _put(self, path: str, value: Buffer | Pieces, **options: Any) -> None:
        view = memoryview(joined(value))
        lent = isinstance(self.store, (S3Store, GCSStore, AzureStore, HTTPStore))  # sent before this returns
        given: Any = view if lent and view.c_contiguous and view.format == "B" else view.tobytes()
        self._told(
            lambda: obstore.put(self.store, path, given, chunk_size=_PART_NBYTES, **options), path, write=True
        )

    def delete(self, paths: Sequence[str]) -> None:
        """A thousand at once on S3."""
        if isinstance(self.store, S3Store):
            self._told(lambda: obstore.delete(self.store, list(paths)), paths[0])
            return
        for path in paths:
            self._told(partial(obstore.delete, self.store, path), path)

    def list(self, prefix: str) -> Iterator[str]:
        """A thousand a request; of an HTTP server, page by page."""
        if not self.lists:
            yield from walk(self._page, prefix)
            return

        def all_pages() -> Names:
            pages = obstore.list(self.store, prefix.rstrip("/") or None)
            return [one["path"] for page in pages for one in page]

        found = self._told(all_pages, prefix) or []
        yield from (path for path in found if path.startswith(prefix))

    def list_dir(self, prefix: str) -> Iterator[str]:
        """With a delimiter."""
        if not self.lists:
            return (name.rstrip("/") for name in self._page(prefix))
        found = self._told(
            lambda: obstore.list_with_delimiter(self.store, prefix.rstrip("/") or None), prefix
        )
        if found is None:
            return iter(())
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return iter(
            sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths if path.startswith(prefix)})
        )

    def _page(self, prefix: str) -> Names:
        """The names that an HTTP server shows of a directory, if it does."""
        page = self.get(prefix, 0, None, None, None, _modest)
        return [] if page is None else names_on(bytes(page.data), prefix)

    def _told(self, send: Callable[[], Answer], path: str, write: bool = False) -> Answer | None:
        """An answer, None for what is not there; failures in our words."""
        if self.made_in != os.getpid():
            raise StoreError(
                "obstore's threads are not in a forked process",
                hint='start processes with "spawn", or open the store there',
            )
        try:
            return send()
        except (FileNotFoundError, theirs.BaseError) as error:
            failed = failure(error, path, self.secrets, write)
        if failed is None:
            return None
        raise failed


def _etag(version: str) -> str:
    return version.partition(_GENERATION)[0]


def _modest(nbytes: int) -> None:
    if nbytes > 64 << 20:
        raise StoreError(f"a page of {nbytes} bytes where a directory was asked for")


def client(patience: Patience, more: dict[str, Any]) -> dict[str, Any]:
    """obstore's options of a connection. `timeout` bounds silence, the deadline all of a request."""
    return {
        "connect_timeout": timedelta(seconds=min(patience.timeout, 10.0)),
        "read_timeout": timedelta(seconds=patience.timeout),
        "timeout": timedelta(seconds=patience.deadline),
        "pool_idle_timeout": timedelta(seconds=30),
        **more,
    }


NO_RETRIES: Any = {"max_retries": 0}


def bucket(
    scheme: str, name: str, config: dict[str, Any], options: dict[str, Any], provider: Any = None
) -> Any:
    """An object store of obstore's. `config` is in its own words."""
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        more = {} if provider is None else {"credential_provider": provider}
        return kind(name, client_options=options, retry_config=NO_RETRIES, **config, **more)
    except (theirs.BaseError, TypeError, ValueError) as error:
        raise ArgumentError(f"cannot open {scheme}://{name}: {shown(error)}") from None


def http(url: str, options: dict[str, Any]) -> Any:
    """An HTTP host; what follows its name in the URL is kept, the query for every request."""
    try:
        return HTTPStore(url, client_options=cast(Any, options), retry_config=NO_RETRIES)
    except (theirs.BaseError, TypeError, ValueError) as error:
        raise ArgumentError(f"cannot open {shown(url)}: {shown(error)}") from None
