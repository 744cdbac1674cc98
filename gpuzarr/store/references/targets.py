"""The files that a reference set names, as stores: one for each bucket or host and one for the disk, opened
when they are first needed.

    s3://bucket/a/x.nc             root s3://bucket           key a/x.nc
    https://host/a/x.nc?sig=…      root https://host/?sig=…   key a/x.nc    the query goes with every request
    /data/x.nc, file:///data/x.nc  root /                     key data/x.nc
    ../x.nc                        beside the reference file

A set that came from elsewhere may name what lies elsewhere, not what lies here: no local file unless the
caller allows it, and what the caller told the set's own server is told to no other.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import unquote

from gpuzarr.errors import ArgumentError, StoreError
from gpuzarr.store.base import Store, clean_key
from gpuzarr.store.remote import secrets_of, shown

OpenTarget = Callable[[str, Mapping[str, Any]], Store]
"""`open_target(root, options)`: the store of a root as `split_target` gives it."""

_LOCAL: Final = ("file", "local")
_HTTP: Final = ("http", "https")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_ELSEWHERE: Final = frozenset(
    (*_HTTP, "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "oci", "oss", "ftp", "webhdfs")
)
"""Schemes that a set from elsewhere may name: none of them leads to this machine's files."""
_ALIASES: Final = {"s3a": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs", "local": "file"}
_SECRET: Final = 6
"""Characters that a secret has at least; what is shorter stands in other words too."""
_OWN: Final = (
    *("target_options", "ref_storage_args", "remote_options", "template_overrides"),
    *("fo", "target", "target_protocol", "remote_protocol", "allow_local"),
)
_TUNING: Final = (
    *("simple_templates", "max_gap", "max_block", "cache_size", "lazy", "asynchronous", "loop"),
    *("skip_instance_cache", "use_listings_cache", "compression"),
)
"""Options of fsspec that change nothing of what is read here."""


@dataclass(frozen=True, slots=True)
class Options:
    """`storage_options` of a reference set, in the words of fsspec's `reference` file system."""

    own: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For the store in which the reference file lies."""
    remote_protocol: str | None = None
    """The scheme of targets that have none, and the one that `remote_options` are for."""
    remote_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For the stores of targets."""
    target: str | None = None
    """What references to `null` name."""
    template_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Templates in the place of the set's own."""
    allow_local: bool = False
    """A set from elsewhere may name files of this machine."""
    fo: Any = field(default=None, repr=False)
    target_protocol: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Self:
        """What is no option of the reference set is one of its file's store."""
        rest = {name: value for name, value in (given or {}).items() if name not in _TUNING}
        found = {name: rest.pop(name) for name in _OWN if rest.get(name) is not None}
        for name in _OWN:
            rest.pop(name, None)
        for name in ("target_options", "ref_storage_args", "remote_options", "template_overrides"):
            if not isinstance(found.get(name, {}), Mapping):
                raise ArgumentError(f"{name} is a {type(found[name]).__name__}, not a mapping")
        for name in ("target", "target_protocol", "remote_protocol"):
            if not isinstance(found.get(name, ""), str):
                raise ArgumentError(f"{name} is a {type(found[name]).__name__}, not a string")
        if type(found.get("allow_local", False)) is not bool:
            raise ArgumentError(f"allow_local is a {type(found['allow_local']).__name__}, not True or False")
        own = {**rest, **found.pop("ref_storage_args", {}), **found.pop("target_options", {})}
        own = {name: value for name, value in own.items() if name not in _TUNING}
        return cls(own, **found)

    @property
    def plain(self) -> bool:
        """Nothing of it changes which bytes a reference stands for."""
        return not (self.remote_protocol or self.remote_options or self.target or self.template_overrides)


def split_target(url: str) -> tuple[str, str]:
    """The root of an absolute URL or path, and the key below it. What has none is a StoreError."""
    scheme, found, rest = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme in _LOCAL:
        path = rest if found else url.removeprefix("file:")
        if not path.startswith("/"):
            raise StoreError(f"{shown(url)} is not an absolute path")
        return "/", _key(posixpath.normpath(path).lstrip("/"), url)
    if scheme == "memory":
        return "memory://", _key(rest.lstrip("/"), url)
    query = ""
    if scheme in _HTTP:
        rest, _, query = rest.partition("#")[0].partition("?")
    host, _, path = rest.partition("/")
    if scheme in _HTTP:  # as servers read it: dots lead up, slashes follow each other by mistake
        path = posixpath.normpath(f"/{unquote(path)}").lstrip("/")
    if not _SCHEME.match(scheme) or not host or "::" in host or not host.isprintable() or " " in host:
        raise StoreError(f"{shown(url)!r} is not a URL that a reference can name")
    return f"{scheme}://{host}" + (f"/?{query}" if query else ""), _key(path, url)


def _key(key: str, url: str) -> str:
    try:
        return clean_key(key)
    except StoreError as error:
        raise StoreError(f"{shown(url)!r} names no object: {shown(error.what)}", hint=error.hint) from None


class Targets:
    """Where the URLs of one set lead. Shared by all threads."""

    def __init__(self, text_store: Store, key: str, options: Options, open_target: OpenTarget) -> None:
        """The set lies under `key` of `text_store`. Relative targets are relative to that place."""
        self.text_store, self._options, self._open_target = text_store, options, open_target
        self._stores: dict[str, Store] = {}
        self._within = False
        """A target lies in the text store."""
        self._found: dict[str, tuple[Store, str]] = {}
        self._lock = threading.Lock()
        self.secrets = secrets_of({"own": options.own, "remote": options.remote_options})
        self._folder = posixpath.dirname(key)
        base = text_store.url.rstrip("/")
        scheme, found, _ = base.partition("://")
        self._scheme = scheme.lower() if found and "::" not in base else ""
        here = os.path.isabs(text_store.url) or text_store.url == "memory:"
        self._here = here or self._scheme in (*_LOCAL, "memory")
        self._base: tuple[str, str] | None = None
        """The root and the path of the text store, where these are known."""
        if os.path.isabs(text_store.url) or self._scheme:
            with suppress(StoreError):
                root, name = split_target(f"{base}/name")
                self._base = root, name.removesuffix("name")

    @property
    def opened(self) -> list[Store]:
        """The stores that were needed so far."""
        with self._lock:
            return [*self._stores.values(), *([self.text_store] if self._within else [])]

    def find(self, url: str | None) -> tuple[Store, str]:
        """The store and the key of a target."""
        named = self._options.target if url is None else url
        if named is None:
            raise StoreError("a reference names no target", hint='storage_options={"target": …} names one')
        found = self._found.get(named)
        if found is None:
            root, key = self._split(named)
            with self._lock:
                found = self._found[named] = self._store(root, key)
        return found

    def _split(self, url: str) -> tuple[str, str]:
        """The root of a target, empty for what can only lie in the text store; and its key."""
        scheme, found, rest = url.partition("://")
        scheme = scheme.lower()
        remote = (self._options.remote_protocol or "").lower()
        if not found and remote and remote not in (*_LOCAL, *_HTTP):
            self._check_allowed(url, remote)
            return split_target(f"{remote}://{url.lstrip('/')}")
        if scheme in _LOCAL and found and not rest.startswith("/"):
            url, found = rest, ""
        if not found and not url.startswith(("/", "file:/")):
            return self._beside(url, remote in _LOCAL)
        self._check_allowed(url, scheme if found else "file")
        return split_target(url)

    def _beside(self, url: str, on_disk: bool) -> tuple[str, str]:
        """A relative target."""
        if on_disk and not self._here:
            self._check_allowed(url, "file")
            return split_target(os.path.abspath(url))
        if self._base is None:
            return "", self._joined(url, self._folder, url)
        root, above = self._base
        if self._scheme in _HTTP:
            path, _, query = url.partition("#")[0].partition("?")
            root += f"/?{query}" if query else ""
            return root, self._joined(unquote(path), f"{above}{self._folder}", url)
        return root, self._joined(url, f"{above}{self._folder}", url)

    def _joined(self, path: str, folder: str, url: str) -> str:
        key = posixpath.normpath(posixpath.join(folder, path))
        if f"{key}/".startswith("../"):
            raise StoreError(f"{shown(url)!r} leads out of {self.text_store.url}")
        return _key(key, url)

    def _check_allowed(self, url: str, scheme: str) -> None:
        """A scheme that the caller names is one that a set may, unless it is this machine's."""
        named = (self._options.remote_protocol or "").lower()
        if self._here or self._options.allow_local or scheme in _ELSEWHERE or scheme == self._scheme:
            return
        if scheme == named and scheme not in (*_LOCAL, "memory"):
            return
        raise StoreError(
            f"{shown(url)!r} may be this machine's, and the reference set at {self.text_store.url} is not",
            hint='storage_options={"allow_local": True} allows it, for a set that you trust',
        )

    def _store(self, root: str, key: str) -> tuple[Store, str]:
        """Under the lock."""
        bare, _, query = root.partition("/?")
        told = self._told(bare)
        base, above = self._base or ("", "")
        if root == base and key.startswith(above) and not told:
            self._within = True
            return self.text_store, key[len(above) :]
        store = self._stores.get(root)
        if store is None:
            if not told and bare == base and bare != "/":
                told = self._options.own
            if len(query) >= _SECRET:
                self.secrets.append(query)
            store = self._stores[root] = self._open_target(root, told)
        return store, key

    def _told(self, root: str) -> Mapping[str, Any]:
        """`remote_options`, where they are meant for this root."""
        scheme, remote = root.partition("://")[0], (self._options.remote_protocol or "").lower()
        if root in ("", "/"):
            return {}
        same = _ALIASES.get(scheme, scheme) == _ALIASES.get(remote, remote)
        meant = not remote or same or (remote == "http" and scheme == "https")
        return self._options.remote_options if meant else {}
