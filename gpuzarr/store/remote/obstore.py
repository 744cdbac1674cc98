"""S3, Google Cloud Storage, Azure and HTTP through obstore (https://developmentseed.org/obstore): the Rust
crate object_store, which waits without Python. Retries are not its own here: `retry` counts them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import obstore
from obstore import exceptions as theirs
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from gpuzarr.errors import ArgumentError, ChangedError, ForbiddenError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, joined
from gpuzarr.store.remote.base import Again, Got, OutOfRange, Room, Unchanged, shown
from gpuzarr.store.remote.html_index import names_in
from gpuzarr.store.remote.retry import Patience

Answer = TypeVar("Answer")
Names = list[str]

_STATUS = re.compile(r"status code: (\d{3})")
_PREAMBLE = re.compile(r"^Generic \S+ error: (?:Error performing \w+ \S+ in \S+ - )?")
_CAUSE = re.compile(
    r'(?:message|error): "([^"]+)"|(?<=\n)\s+(InvalidMessage|UnknownIssuer|Invalid\w+|NotValid\w+)\(?'
)
_NOBODY = ("dns error", "error sending request", "connection refused", "tcp connect")
_NO_RANGES = ("non-partial response", "Range request not supported")
_OWN = "~"
"""What versions begin with that are no ETags."""
_PART_NBYTES = 8 << 20
"""Of an upload in parts, which S3 takes from 5 MiB on and up to 10,000 of."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Obstore:
    """A bucket, or an HTTP host."""

    store: Any
    place: object
    secrets: tuple[str, ...] = ()
    lists: bool = True

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
        if version is not None and _is_strong(version):
            options["if_match"] = version
        if unless is not None and not unless.startswith(_OWN):
            options["if_none_match"] = unless

        def send() -> Got:
            result = obstore.get(self.store, path, options=cast(Any, options))
            first, end = result.range
            room(end - first)
            meta = result.meta
            return Got(memoryview(result.bytes()), _version(meta), first, meta["size"])

        return self._told(send, path)

    def size(self, path: str) -> int | None:
        """One HEAD."""
        return self._told(lambda: int(obstore.head(self.store, path)["size"]), path)

    def put(self, path: str, value: Buffer | Pieces) -> None:
        """One PUT; beyond a few parts' size several, of which readers see nothing before the last is
        there."""
        self._put(path, value, use_multipart=memoryview(joined(value)).nbytes > 2 * _PART_NBYTES)

    def put_if(self, path: str, value: Buffer | Pieces, version: str | None) -> bool:
        """One PUT with a condition, of any size."""
        mode: Any = "create" if version is None else {"e_tag": version}
        if version is not None and not _is_strong(version):
            mode = "overwrite"
        try:
            self._put(path, value, mode=mode, use_multipart=False)
        except (ChangedError, Unchanged):
            return False
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
            self._told(lambda: obstore.delete(self.store, list(paths)), paths[0], write=True)
            return
        for path in paths:
            self._told(partial(obstore.delete, self.store, path), path, write=True)

    def list(self, prefix: str) -> Iterator[str]:
        """A thousand a request; of an HTTP server, page by page."""
        if not self.lists:
            for name in self._page(prefix):
                yield from self.list(prefix + name) if name.endswith("/") else [prefix + name]
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
        if page is None:
            return []
        start = bytes(page.data[:200]).lstrip().lower()
        if not start.startswith((b"<!doctype html", b"<html", b"<head", b"<h1", b"<pre", b"<ul", b"<a")):
            raise StoreError(
                f"the server does not list {prefix or '/'}",
                hint="name the array, or open a group with consolidated metadata",
            )
        return names_in(bytes(page.data), prefix)

    def _told(self, send: Callable[[], Answer], path: str, write: bool = False) -> Answer | None:
        """An answer, None for what is not there; failures in our words."""
        try:
            return send()
        except FileNotFoundError as error:
            if write:
                raise ChangedError(f"{path} is gone: {self._said(error)}") from None
            return None
        except theirs.NotModifiedError:
            raise Unchanged from None
        except theirs.PreconditionError:
            raise ChangedError(f"{path} was replaced while it was read", hint="read it again") from None
        except theirs.AlreadyExistsError:
            raise ChangedError(f"{path} is there already") from None
        except (theirs.PermissionDeniedError, theirs.UnauthenticatedError) as error:
            raise self._forbidden(error, path) from None
        except theirs.InvalidPathError as error:
            raise StoreError(f"{path!r} cannot be a key there: {self._said(error)}") from None
        except theirs.BaseError as error:
            raise self._failure(error, path, write) from None

    def _forbidden(self, error: Exception, path: str) -> ForbiddenError:
        said, hint = self._said(error), None
        if isinstance(error, theirs.UnauthenticatedError):
            hint = "give credentials in storage_options"
        return ForbiddenError(f"may not read {path}: {said}", chunk=path, hint=hint)

    def _failure(self, error: Exception, path: str, write: bool) -> Exception:
        said = self._said(error)
        status = int(found[1]) if (found := _STATUS.search(said)) else None
        if status == 416:
            return OutOfRange()
        if status in (405, 501) and write:
            return ReadOnlyError(f"the server does not take {path}: {said}")
        if "region" in said and "redirect" in said.lower():
            return StoreError(
                f"{path}: {said}", hint='name the bucket\'s region: storage_options={"region": "…"}'
            )
        if "credential" in said.lower() or "169.254.169.254" in said or "metadata token" in said:
            return ForbiddenError(
                f"no credentials for {path}: {said}", hint='storage_options={"anon": True} for public data'
            )
        if any(one in said for one in _NO_RANGES):
            return Again(f"{said}: it gave all of {path} instead of a part", most=4)
        if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
            return StoreError(f"{path}: {said}")
        nobody = status is None and any(one in said for one in _NOBODY)
        return Again(said, slow=status in (429, 503), alive=not nobody)

    def _said(self, error: Exception) -> str:
        """The first line of what they say, without what every line begins with; and the cause, which stands
        far below it."""
        line = _PREAMBLE.sub("", shown(error, self.secrets))
        causes = [one or other for one, other in _CAUSE.findall(str(error))]
        causes = [cause for cause in causes if cause not in line]
        return f"{line}: {shown(causes[-1], self.secrets)}" if causes else line


def _version(meta: Any) -> str | None:
    """The ETag; without one what else changes when an object does."""
    told: str | None = meta["e_tag"]
    return told or f"{_OWN}{meta['last_modified'].timestamp():.6f} {meta['size']}"


def _is_strong(version: str) -> bool:
    """Whether a server can be asked for this version alone: weak ETags match nothing (RFC 9110, 13.1.1)."""
    return not version.startswith(("W/", _OWN))


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
