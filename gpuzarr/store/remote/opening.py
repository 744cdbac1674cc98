"""A URL and its storage options → a RemoteStore: which library asks, as whom, how patiently.

`storage_options` are those of fsspec's file system for the scheme (s3fs, gcsfs, adlfs, HTTP), and beside them

    backend          "auto", "obstore" or "fsspec": who sends the requests
    timeout          seconds without a byte, before a request is sent again            20
    deadline         seconds for one request with all its tries                       120
    missing_on_403   True: what is forbidden is taken for missing. Buckets that may not be listed answer so
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from gpuzarr.errors import ArgumentError, MissingDependencyError
from gpuzarr.store.remote.base import BucketStore, RemoteStore, Transport, secrets_of, shown
from gpuzarr.store.remote.options import SCHEMES, basic, spoken, without_user
from gpuzarr.store.remote.retry import Patience

_OWN = ("backend", "timeout", "deadline", "missing_on_403")
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "http": "http"}
_open: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Transports in use, by what they were made from: stores of one bucket share connections."""


def is_remote(url: str) -> bool:
    """Whether the URL's scheme is one of ours."""
    return "::" not in url and url.partition("://")[0] in SCHEMES


def open_remote(url: str, options: Mapping[str, Any] | None = None) -> RemoteStore:
    """The store below a URL. Sends nothing. Raises ArgumentError or MissingDependencyError."""
    given = dict(options or {})
    own = {name: given.pop(name) for name in _OWN if name in given}
    backend = own.get("backend", "auto")
    if backend not in ("auto", "obstore", "fsspec"):
        raise ArgumentError(f"backend={backend!r} is none of auto, obstore and fsspec")
    patience = Patience(_seconds(own, "timeout", 20.0), _seconds(own, "deadline", 120.0))
    scheme = SCHEMES[url.partition("://")[0]]
    bare, authorization = without_user(url)
    parts = urlsplit(bare)
    if not parts.netloc:
        raise ArgumentError(f"{shown(url)} names no {'host' if scheme == 'http' else 'bucket'}")
    path = parts.path if scheme == "http" or "#" not in bare else bare.split(parts.netloc, 1)[1]
    prefix = (unquote(path) if scheme == "http" else path).strip("/")
    given = {**_configured(parts.scheme), **given}
    if scheme == "http" and authorization:
        given["headers"] = {"Authorization": authorization, **(given.get("headers") or {})}
    secrets = tuple(secrets_of(given))
    transport = _transport(backend, scheme, parts, given, patience, secrets)
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    kind = RemoteStore if scheme == "http" else BucketStore
    return kind(
        transport,
        f"{prefix}/" if prefix else "",
        f"{name}/{prefix}".rstrip("/"),
        patience=patience,
        missing_on_403=bool(own.get("missing_on_403", False)),
        reopen=(open_remote, (url, dict(options or {}))),
    )


def _transport(
    backend: str, scheme: str, parts: Any, given: dict[str, Any], patience: Patience, secrets: tuple[str, ...]
) -> Transport:
    made_from = repr(
        (os.getpid(), backend, scheme, parts.netloc, parts.query, sorted(map(repr, given.items())), patience)
    )
    key = hashlib.sha256(made_from.encode()).hexdigest()
    held = _open.get(key)
    if held is None:
        held = _open[key] = _made(backend, scheme, parts, given, patience, secrets)
    return cast(Transport, held)


def _made(
    backend: str, scheme: str, parts: Any, given: dict[str, Any], patience: Patience, secrets: tuple[str, ...]
) -> Transport:
    unknown: list[str] = []
    if backend != "fsspec" and find_spec("obstore") is not None:
        said = spoken(scheme, given)
        unknown = said.unknown
        if not unknown:
            return _obstore(scheme, parts, said, patience, secrets)
    if backend == "obstore":
        if unknown:
            raise ArgumentError(f"obstore does not know {', '.join(unknown)}", hint='backend="fsspec" does')
        raise MissingDependencyError(
            "obstore is not installed", hint=f'pip install "gpuzarr[{_EXTRAS[scheme]}]"'
        )
    return _fsspec(scheme, parts, given, secrets)


def _obstore(scheme: str, parts: Any, said: Any, patience: Patience, secrets: tuple[str, ...]) -> Transport:
    from gpuzarr.store.remote.obstore import Obstore, bucket, client, http

    options = client(patience, said.client)
    if scheme == "http":
        query = f"/?{parts.query}" if parts.query else ""
        at = f"{parts.scheme}://{parts.netloc}"
        hidden = (*secrets, *([parts.query] if parts.query else []))
        return Obstore(http(at + query, options), ("http", at), hidden, lists=False)
    endpoint = (
        said.config.get("endpoint")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    if scheme == "s3" and str(endpoint or "").startswith("http://"):
        options["allow_http"] = True
    name = parts.netloc
    if scheme == "az" and "@" in name:  # abfs://container@account.dfs.core.windows.net
        name, _, host = name.partition("@")
        said.config.setdefault("account_name", host.partition(".")[0])
    place = (scheme, endpoint if scheme == "s3" else said.config.get("account_name"), name)
    return Obstore(bucket(scheme, name, said.config, options, said.provider), place, secrets)


def _fsspec(scheme: str, parts: Any, given: dict[str, Any], secrets: tuple[str, ...]) -> Transport:
    import fsspec

    from gpuzarr.store.remote.fsspec import Fsspec

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
    place = (scheme, "fsspec", parts.netloc)
    return Fsspec(fs, f"{parts.scheme}://{parts.netloc}/", place, secrets)


def _configured(protocol: str) -> dict[str, Any]:
    """What the user's fsspec configuration says of a protocol."""
    from fsspec.config import conf

    return dict(conf.get(protocol, {}))


def _seconds(own: Mapping[str, Any], name: str, default: float) -> float:
    value = own.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ArgumentError(f"{name}={value!r} is not a number of seconds")
    return float(value)


__all__ = ["basic", "is_remote", "open_remote"]
