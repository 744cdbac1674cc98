"""Reference sets as JSON (https://fsspec.github.io/kerchunk/spec.html), versions 0 and 1.

    version 0   {key: value, …}
    version 1   {"version": 1, "templates": {name: template}, "gen": [rule, …], "refs": {key: value, …}}

    value       "text" | "base64:…" | {a JSON document} | [url] | [url, offset, nbytes]
    rule        {"key", "url": templates, "offset", "length": templates, "dimensions": {name: values}}

A million references are a dictionary for each directory, in which a reference is a tuple and a URL is kept
once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from gpuzarr.errors import LimitError, MetadataError, StoreError, UnsupportedError
from gpuzarr.store.base import Buffer, clean_key
from gpuzarr.store.references.gen import rules
from gpuzarr.store.references.templates import Template
from gpuzarr.store.references.text import limit_nbytes, unpacked

_FURTHEST: Final = 1 << 62

Stored = str | bytes | dict[str, Any] | tuple[str | None] | tuple[str | None, int, int]


class Part(NamedTuple):
    """Bytes of a target: `nbytes` at `start`, or all of it where `nbytes` is None."""

    url: str | None
    start: int
    nbytes: int | None


Found = Buffer | Part | None
"""What a key stands for: bytes of the set's own, bytes of a target, or nothing."""


def inline(held: str | bytes | Mapping[str, Any], key: str, url: str) -> bytes:
    """The bytes that a text or a JSON object in a reference set stands for."""
    try:
        text = json.dumps(held) if isinstance(held, Mapping) else held
        plain = text.encode() if isinstance(text, str) else text
        return base64.b64decode(plain[7:], validate=True) if plain.startswith(b"base64:") else plain
    except (binascii.Error, ValueError, RecursionError) as error:
        raise StoreError(f"{key} in {url} is damaged: {error}", chunk=key) from None


def load(stored: bytes, url: str) -> dict[str, Any]:
    """The JSON object of a document, which may be compressed."""
    text = unpacked(stored, limit_nbytes(), url)
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise MetadataError(f"{url} is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MetadataError(f"{url} is nested too deep") from None
    except MetadataError as error:
        raise MetadataError(f"{url}: {error.what}") from None
    except ValueError as error:
        raise MetadataError(f"{url} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MetadataError(f"{url} holds no JSON object, and so no references")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise MetadataError(f"the JSON key {twice!r} stands twice in one object")
    return unique


class Document:
    """A set of either version. `url` names it in messages."""

    def __init__(self, document: Mapping[str, Any], url: str, overrides: Mapping[str, Any]) -> None:
        self._url = url
        version = document.get("version")
        listed = document.get("refs") if "version" in document or _nested(document) else document
        if "version" in document and (type(version) is not int or version != 1):
            raise UnsupportedError(f"{url} is a reference set of version {version!r}", hint="1 is understood")
        if "zarr_format" in document:
            hint = "open the directory that holds it"
            raise MetadataError(f"{url} is a metadata document, and no reference set", hint=hint)
        if not isinstance(listed, Mapping):
            if listed is not None:
                raise MetadataError(f"refs of {url} is not a JSON object")
            listed = {}
        first = listed is not document
        self._templates = _templates(document, overrides, url) if first else None
        self._rules = rules(document.get("gen"), self._templates or {}, url) if first else []
        self._folders: dict[str, dict[str, Stored]] = {}
        """Prefix, which ends at a `/` or is empty -> names right below it."""
        self._urls: dict[str, str] = {}
        """A URL as it stands there -> as it is rendered, once for all references."""
        self._fill(listed)

    def _fill(self, listed: Mapping[str, Any]) -> None:
        """Compact what JSON gave. One pass, without calls where there are a million."""
        folders, urls = self._folders, self._urls
        for key, value in listed.items():
            kind = type(value)
            if kind is list or kind is tuple:
                if len(value) == 3:
                    raw, start, nbytes = value
                    if type(start) is not int or type(nbytes) is not int:
                        raise self._bad(key, value)
                    if start < 0 or nbytes < 0 or start + nbytes > _FURTHEST:
                        raise self._bad(key, value)
                elif len(value) == 1:
                    raw, start = value[0], -1
                else:
                    raise self._bad(key, value)
                url = urls.get(raw) if type(raw) is str else None
                if url is None and raw is not None:
                    if type(raw) is not str:
                        raise self._bad(key, value)
                    url = urls[raw] = self._rendered(raw)
                value = (url,) if start < 0 else (url, start, nbytes)
            elif kind is not str and kind is not dict and kind is not bytes:
                raise self._bad(key, value)
            if type(key) is not str:
                raise self._bad(key, value)
            folder, slash, name = key.rpartition("/")
            try:
                folders[folder + slash][name] = value
            except KeyError:
                folders[folder + slash] = {name: value}

    def _rendered(self, raw: str) -> str:
        if self._templates is None or "{{" not in raw:
            return raw
        try:
            return Template.parse(raw).render(self._templates)
        except (MetadataError, LimitError) as error:
            error.what = f"{self._url}: {error.what}"
            raise

    def _bad(self, key: object, value: Any) -> MetadataError:
        return MetadataError(
            f"the reference {key!r} of {self._url} is {value!r}"[:500],
            hint="a reference is text, a JSON object, [url] or [url, offset, length] with whole numbers",
        )

    def find(self, keys: Sequence[str]) -> list[Found]:
        """What keys stand for. Rules come first, the last of them before the others."""
        return [self.known(key) for key in keys]

    def known(self, key: str) -> Found:
        """What a key stands for; here nothing has to be read for that."""
        for rule in reversed(self._rules):
            if rule.may_hold(key) and (target := rule.targets().get(key)) is not None:
                return Part(*target)
        folder, slash, name = key.rpartition("/")
        stored = self._folders.get(folder + slash, {}).get(name)
        if stored is None:
            return None
        if isinstance(stored, tuple):
            return Part(stored[0], 0, None) if len(stored) == 1 else Part(*cast(tuple[str, int, int], stored))
        return inline(stored, key, self._url)

    def list(self, prefix: str) -> Iterator[str]:
        """Every key below a prefix, once. Those that no reader could ask for are left out."""
        seen: set[str] = set()
        for rule in self._rules:
            seen.update(key for key in rule.targets() if key.startswith(prefix) and is_key(key))
        yield from seen
        for above, names in self._folders.items():
            if above.startswith(prefix) and is_key(f"{above}name"):
                yield from (key for name in names if is_key(name) and (key := above + name) not in seen)

    def list_dir(self, prefix: str) -> Iterator[str]:
        """The names right below a prefix, each once."""
        found: dict[str, None] = {}
        for above, names in self._folders.items():
            if above == prefix:
                found.update((name, None) for name in names if is_key(name))
            elif above.startswith(prefix) and is_key(f"{above}name") and any(map(is_key, names)):
                found[above[len(prefix) :].split("/", 1)[0]] = None
        for rule in self._rules:
            for key in rule.targets():
                if key.startswith(prefix) and is_key(key):
                    found[key[len(prefix) :].split("/", 1)[0]] = None
        return iter(found)

    def a_target(self) -> str | None:
        """Any URL of the set."""
        firsts = (rule.first[1][0] for rule in self._rules if rule.first)
        return next(iter(self._urls.values()), None) or next(firsts, None)


def _nested(document: Mapping[str, Any]) -> bool:
    """References of version 1 without its number, as kerchunk's own functions take them."""
    refs = document.get("refs")
    return isinstance(refs, dict) and set(document) <= {"refs", "templates", "gen"}


def is_key(key: str) -> bool:
    """Whether a reader may ask for it."""
    try:
        clean_key(key)
    except StoreError:
        return False
    return True


def _templates(document: Mapping[str, Any], overrides: Mapping[str, Any], url: str) -> dict[str, Template]:
    given = document.get("templates")
    if given is not None and not isinstance(given, Mapping):
        raise MetadataError(f"templates of {url} is not a JSON object")
    parsed: dict[str, Template] = {}
    for name, text in {**(given or {}), **overrides}.items():
        if not isinstance(text, str):
            raise MetadataError(f"template {name!r} of {url} is {text!r}, not a string"[:500])
        try:
            parsed[name] = Template.parse(text) if "{{" in text else Template(text)
        except (MetadataError, LimitError) as error:
            error.what = f"template {name!r} of {url}: {error.what}"
            raise
    return parsed
