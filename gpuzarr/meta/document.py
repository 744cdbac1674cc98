"""Metadata documents as JSON: bounded, UTF-8, without duplicate keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gpuzarr import config
from gpuzarr.errors import ArgumentError, LimitError, MetadataError
from gpuzarr.store.base import Buffer


def parse(stored: Buffer, name: str) -> dict[str, Any]:
    """The JSON object under the key `name`. Anything else is a MetadataError."""
    check_nbytes(memoryview(stored).nbytes, name)
    try:
        document = json.loads(bytes(stored).decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise MetadataError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise MetadataError(f"{name} is nested too deep") from None
    except ValueError as error:
        raise MetadataError(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MetadataError(f"{name} holds no JSON object")
    return document


def dump(document: Mapping[str, Any]) -> bytes:
    """A document as people can read it. What JSON cannot hold is an ArgumentError."""
    try:
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"not JSON: {error}", hint="attributes hold JSON values") from error


def check_nbytes(nbytes: int, name: str) -> None:
    """Refuse a document larger than the configuration allows."""
    if nbytes > config.current().max_document_nbytes:
        raise LimitError(f"{name} has {nbytes} bytes", hint="raise max_document_nbytes if it is meant")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise MetadataError(f"the JSON key {twice!r} stands twice in one object")
    return unique


def sizes(document: Mapping[str, Any], key: str, least: int) -> tuple[int, ...]:
    """A list of whole numbers, none under `least` or so large that int64 could not count past it."""
    value = document.get(key)
    if not isinstance(value, list) or not all(type(n) is int and least <= n < 1 << 62 for n in value):
        raise MetadataError(f"{key} {value!r} is not a list of whole numbers from {least} to 2**62 - 1")
    if len(value) > 32:
        raise MetadataError(f"{key} has {len(value)} dimensions; gpuzarr takes up to 32")
    return tuple(value)


def attributes(value: Any, what: str = "attributes") -> dict[str, Any]:
    """A JSON object, or nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MetadataError(f"{what} is not a JSON object")
    return value
