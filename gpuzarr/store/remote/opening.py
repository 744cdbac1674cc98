"""A URL and its storage options → a RemoteStore: which library asks, as whom, how patiently.

`storage_options` are those of fsspec's file system for the scheme (s3fs, gcsfs, adlfs, HTTP), and beside them

    backend          "auto", "obstore" or "fsspec": who sends the requests
    timeout          seconds without a byte, before a request is sent again            20
    deadline         seconds for one request with all its tries                       120
    missing_on_403   True: what is forbidden is taken for missing. Buckets that may not be listed answer so
    concurrency      requests in flight, at most                                      128
    coalesce_gap     bytes between two ranges that become one request      as long as the quickest answer
    takes request_nbytes   the most bytes of such a request                               16 Mi
"""

from __future__ import annotations

import hashlib
import os
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

from gpuzarr.errors import ArgumentError, MissingDependencyError, StoreError
from gpuzarr.store.base import Same, Traits, clean_key
from gpuzarr.store.remote.base import REMOTE, BucketStore, RemoteStore
from gpuzarr.store.remote.flow import MOST
from gpuzarr.store.remote.kvikio import endpoint
from gpuzarr.store.remote.options import SCHEMES, Spoken, spoken, without_user
from gpuzarr.store.remote.retry import Limit, Patience
from gpuzarr.store.remote.transport import Transport, secrets_of, shown

OWN = (
    *("backend", "timeout", "deadline", "missing_on_403"),
    *("concurrency", "coalesce_gap", "request_nbytes"),
)
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "http": "http"}
_open: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Transports in use, by what they were made from: stores of one bucket share connections."""
_recent: deque[Any] = deque(maxlen=8)
"""Those that were made last, and their connections: whoever opens one array after another finds them open."""


def is_remote(url: str) -> bool:
    """Whether the URL's scheme is one of ours."""
    return "::" not in url and url.partition("://")[0] in SCHEMES


def open_remote(url: str, options: Mapping[str, Any] | None = None) -> RemoteStore:
    """The store below a URL. Sends nothing. Raises ArgumentError or MissingDependencyError."""
    given = dict(options or {})
    own = {name: given.pop(name) for name in OWN if name in given}
    backend = own.get("backend", "auto")
    if backend not in ("auto", "obstore", "fsspec"):
        raise ArgumentError(f"backend={backend!r} is none of auto, obstore and fsspec")
    patience = Patience(_seconds(own, "timeout", 20.0), _seconds(own, "deadline", 120.0))
    scheme = SCHEMES[url.partition("://")[0]]
    bare, authorization = without_user(url) if scheme == "http" else (url, None)
    parts = urlsplit(bare) if scheme == "http" else _bucket_parts(bare)
    if not parts.netloc:
        raise ArgumentError(f"{shown(url)} names no {'host' if scheme == 'http' else 'bucket'}")
    prefix = (unquote(parts.path) if scheme == "http" else parts.path).strip("/")
    for one in prefix.split("/") if prefix else ():
        clean_key(one)
    given = {**_configured(parts.scheme), **given}
    if scheme == "http" and authorization:
        given["headers"] = {"Authorization": authorization, **(given.get("headers") or {})}
    most = _whole(own, "concurrency", MOST, 1)
    wanted = _Wanted(backend, scheme, parts, given, patience, tuple(secrets_of(given)), most)
    line = _line(wanted)
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    kind = RemoteStore if scheme == "http" else BucketStore
    return kind(
        cast(Transport, line),
        f"{prefix}/" if prefix else "",
        f"{name}/{prefix}".rstrip("/"),
        given=_traits(own),
        patience=patience,
        missing_on_403=bool(own.get("missing_on_403", False)),
        limit=line.limit,
        reopen=(open_remote, (url, dict(options or {}))),
    )


def of_obstore(store: Any, options: Mapping[str, Any] | None = None) -> RemoteStore:
    """A store of obstore's, with its own credentials and retries. Of `storage_options` it takes
    `missing_on_403`."""
    given = dict(options or {})
    lenient = bool(given.pop("missing_on_403", False))
    if given:
        raise ArgumentError(f"a store of obstore takes no storage option {', '.join(sorted(given))}")
    from gpuzarr.store.remote.obstore import Obstore

    kind = type(store).__name__
    http = kind == "HTTPStore"
    transport = Obstore(store, Same(store), lists=not http)
    url = f"obstore {kind}"
    reopen = (of_obstore, (store, options))
    return (RemoteStore if http else BucketStore)(transport, "", url, missing_on_403=lenient, reopen=reopen)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a transport is made from."""

    backend: str
    scheme: str
    parts: SplitResult
    given: dict[str, Any]
    patience: Patience
    secrets: tuple[str, ...]
    most: int
    """Requests in flight."""


def _bucket_parts(url: str) -> SplitResult:
    """Scheme, bucket and prefix. Keys may hold whatever means something in other URLs."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    return SplitResult(scheme, bucket, prefix, "", "")


def _line(wanted: _Wanted) -> _Line:
    told = sorted(map(repr, wanted.given.items()))
    parts = wanted.parts
    at = parts.scheme, parts.netloc, parts.query
    around = sorted(one for one in os.environ.items() if one[0].startswith(("AWS_", "AZURE_", "GOOGLE_")))
    made_from = repr((os.getpid(), wanted.backend, at, told, wanted.patience, wanted.most, around))
    key = hashlib.sha256(made_from.encode()).hexdigest()
    held = _open.get(key)
    if held is None:
        held = _open[key] = _Line(wanted)
    if held not in _recent:
        _recent.append(held)
    return cast(_Line, held)


class _Line:
    """A transport that outlives a fork: obstore's threads are not in the child, where fsspec takes its
    place."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted, self._pid, self._now = wanted, os.getpid(), _made(wanted)
        self.limit = Limit(64, wanted.most)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._pid != os.getpid():
            self._now, self._pid = _made_anew(self._wanted), os.getpid()
        return getattr(self._now, name)

    def __repr__(self) -> str:
        return repr(self._now)


def _made(wanted: _Wanted) -> Transport:
    unknown: list[str] = []
    if wanted.backend != "fsspec" and find_spec("obstore") is not None:
        said = spoken(wanted.scheme, wanted.given)
        unknown = said.unknown
        if not unknown and _forked_from_obstore():
            return _made_anew(wanted)
        if not unknown:
            return _obstore(wanted, said)
    if wanted.backend == "obstore":
        if unknown:
            raise ArgumentError(f"obstore does not know {', '.join(unknown)}", hint='backend="fsspec" does')
        hint = f'pip install "gpuzarr[{_EXTRAS[wanted.scheme]}]"'
        raise MissingDependencyError("obstore is not installed", hint=hint)
    return _fsspec(wanted)


def _forked_from_obstore() -> bool:
    """Whether a parent of this process used obstore, whose threads are not here."""
    used = _used_obstore
    return bool(used) and os.getpid() not in used


_used_obstore: set[int] = set()
"""Processes that did, this one and those that it was forked from."""


def _about_to_fork() -> None:
    """Others may use obstore without us."""
    if "obstore" in sys.modules:
        _used_obstore.add(os.getpid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_about_to_fork)


def _made_anew(wanted: _Wanted) -> Transport:
    """The transport of a forked child."""
    try:
        if wanted.backend == "obstore":
            raise MissingDependencyError("it was asked for obstore alone")
        return _fsspec(replace(wanted, given={**wanted.given, "skip_instance_cache": True}))
    except MissingDependencyError as error:
        raise StoreError(
            f"{wanted.parts.scheme}://{wanted.parts.netloc.rpartition('@')[2]} cannot be read in a forked "
            f"process: {error.what}",
            hint='start processes with "spawn" (DataLoader: multiprocessing_context="spawn"), or install '
            '"gpuzarr[fsspec]"',
        ) from None


def _place(wanted: _Wanted, said: Spoken) -> tuple[str, str | None, str]:
    """What names a bucket or host, whoever asks and as whom."""
    parts, environ = wanted.parts, os.environ
    if wanted.scheme == "http":
        return "http", None, f"{parts.scheme}://{parts.netloc}"
    if wanted.scheme == "s3":
        told = said.config.get("endpoint") or environ.get("AWS_ENDPOINT_URL_S3")
        return "s3", told or environ.get("AWS_ENDPOINT_URL"), parts.netloc
    if wanted.scheme == "gs":
        return "gs", said.config.get("base_url"), parts.netloc
    container, _, host = parts.netloc.partition("@")  # abfs://container@account.dfs.core.windows.net
    account = host.partition(".")[0] or said.config.get("account_name")
    account = account or environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    endpoint = said.config.get("endpoint")
    return "az", f"{endpoint}/{account}" if endpoint else account, container


def _obstore(wanted: _Wanted, said: Spoken) -> Transport:
    from gpuzarr.store.remote.obstore import Obstore, bucket, client, http

    _used_obstore.add(os.getpid())
    scheme, parts, secrets = wanted.scheme, wanted.parts, wanted.secrets
    options, place = client(wanted.patience, said.client), _place(wanted, said)
    if scheme == "http":
        query = f"/?{parts.query}" if parts.query else ""
        hidden = (*secrets, *filter(None, [parts.query]))
        end = endpoint(scheme, place, said, query.removeprefix("/"), wanted.most)
        return Obstore(http(place[2] + query, options), place, hidden, lists=False, endpoint=end)
    if scheme == "s3" and str(place[1] or "").startswith("http://"):
        options["allow_http"] = True
    if scheme == "az" and "@" in parts.netloc:
        said.config.setdefault("account_name", parts.netloc.partition("@")[2].partition(".")[0])
    held = bucket(scheme, place[2], said.config, options, said.provider)
    return Obstore(held, place, secrets, endpoint=endpoint(scheme, place, said, "", wanted.most))


def _fsspec(wanted: _Wanted) -> Transport:
    import fsspec

    from gpuzarr.store.remote.fsspec import Fsspec

    scheme, parts, given, secrets = wanted.scheme, wanted.parts, wanted.given, wanted.secrets
    try:
        kind = fsspec.get_filesystem_class(parts.scheme)
    except ImportError as error:
        raise MissingDependencyError(
            f"{parts.scheme}:// needs a package that is missing: {shown(error)}",
            hint=f'pip install "gpuzarr[{_EXTRAS[scheme]}]"',
        ) from None
    try:
        fs = kind(**given)
    except (TypeError, ValueError, OSError) as error:
        raise ArgumentError(f"cannot open {parts.scheme}://{parts.netloc}: {shown(error, secrets)}") from None
    place = _place(wanted, spoken(scheme, given))
    query = f"?{parts.query}" if scheme == "http" and parts.query else ""
    return Fsspec(fs, f"{parts.scheme}://{parts.netloc}/", place, (*secrets, *filter(None, [query])), query)


def _configured(protocol: str) -> dict[str, Any]:
    """What the user's fsspec configuration says of a protocol."""
    from fsspec.config import conf

    return dict(conf.get(protocol, {}))


def _traits(own: Mapping[str, Any]) -> Traits | None:
    if "coalesce_gap" not in own and "request_nbytes" not in own:
        return None
    gap = _whole(own, "coalesce_gap", REMOTE.coalesce_gap or 0, 0)
    return replace(
        REMOTE, coalesce_gap=gap, request_nbytes=_whole(own, "request_nbytes", REMOTE.request_nbytes or 1, 1)
    )


def _whole(own: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = own.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def _seconds(own: Mapping[str, Any], name: str, default: float) -> float:
    value = own.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ArgumentError(f"{name}={value!r} is not a number of seconds")
    return float(value)
