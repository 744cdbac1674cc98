"""Where a reference set lies → a store."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from gpuzarr.errors import ArgumentError, NotFoundError, StoreError
from gpuzarr.store.base import Request, Store, StreamingStore, place_of
from gpuzarr.store.references.document import Document, load
from gpuzarr.store.references.parquet import Records
from gpuzarr.store.references.store import ReferenceStore, StreamingReferenceStore
from gpuzarr.store.references.targets import OpenTarget, Options, Targets, split_target
from gpuzarr.store.references.text import limit_nbytes, too_large
from gpuzarr.store.remote import shown

__all__ = [
    "ReferenceStore",
    "StreamingReferenceStore",
    "looks_like_references",
    "open_reference_set",
    "open_references",
    "split_target",
]

_SUFFIXES: Final = (".json", ".json.zst", ".json.zstd", ".json.gz", ".parq", ".parquet")
_PARQUET: Final = (".parq", ".parquet")


def looks_like_references(name: str) -> bool:
    """Whether a path or URL ends as those of reference sets do: in `.json` (perhaps `.gz` or `.zst`), `.parq`
    or `.parquet`; or is one of fsspec's, `reference://` or `reference::…`. It says nothing of what is
    there."""
    if name.startswith(("reference://", "reference::")):
        return True
    path = re.split(r"[?#]", name)[0] if name.startswith(("http://", "https://")) else name
    _, found, rest = path.partition("://")
    return ("/" in rest or not found) and path.rstrip("/").lower().endswith(_SUFFIXES)


def open_reference_set(
    target: str | os.PathLike[str] | Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    open_target: OpenTarget | None = None,
) -> ReferenceStore:
    """A set by its path or URL; as the mapping that its JSON would give; or as fsspec has it, `reference://`
    with the option `fo`, or `reference::URL`. Options are those of `open_references`; `target_protocol` is
    the scheme of an `fo` that has none."""
    given = Options.of(options)
    named = target if isinstance(target, Mapping) else os.fspath(target)
    if isinstance(named, str) and named.startswith("reference://"):
        if not isinstance(given.fo, (str, os.PathLike, Mapping)):
            hint = 'storage_options={"fo": "path or URL of the set"}'
            raise ArgumentError("reference:// needs to be told where the set lies", hint=hint)
        named = given.fo if isinstance(given.fo, Mapping) else os.fspath(given.fo)
        if isinstance(named, str) and given.target_protocol and "://" not in named:
            named = f"{given.target_protocol}://{named}"
    opened = open_target or _open_store
    if isinstance(named, Mapping):  # relative targets go by the working directory, for want of another place
        document = Document(named, "the given references", given.template_overrides)
        file = os.path.abspath("references.json").lstrip("/")
        targets = Targets(opened("/", {}), file, given, opened)
        reopen = (open_reference_set, (named, options, open_target))
        return _made(document, targets, "the given references", None, reopen)
    named = named.removeprefix("reference::")
    slash = "/" if re.split(r"[?#]", named)[0].endswith("/") else ""
    root, key = split_target(named if "://" in named else os.path.abspath(os.path.expanduser(named)))
    return open_references(opened(root, given.own), key + slash, options, open_target)


def open_references(
    text_store: Store,
    key: str,
    options: Mapping[str, Any] | None = None,
    open_target: OpenTarget | None = None,
) -> ReferenceStore:
    """The set that lies under `key` of a store: a JSON document, perhaps compressed with gzip or zstd; or by
    its suffix (`.parq`, `.parquet` or `/`) a directory of Parquet files. It takes one request; one more for a
    look at a Parquet file, where the set does not come from a store that streams.

    Relative targets are relative to the set's own place. A set in memory or on a disk may name files of this
    machine by absolute or relative paths, `..` among them, as kerchunk's users expect. One that comes from a
    server may name what lies on servers, and local files only with `allow_local=True`.

    `options`, as fsspec's `reference` file system knows them: `remote_options` go to the stores of targets,
    with `remote_protocol` of targets with that scheme only, which is then also the scheme of targets that
    have none; `target_options` and all unknown ones belong to `text_store`, and go to no target but those at
    the same host or bucket; `target` is what references to null mean; `template_overrides` replace
    templates. `open_target(root, options)` opens the stores of targets, by default
    `gpuzarr.store.urls.open_store`.

    Raises NotFoundError, MetadataError, UnsupportedError, LimitError, StoreError or ArgumentError.
    """
    given = Options.of(options)
    folder = key.rstrip("/")
    url = shown(f"{text_store.url.rstrip('/')}/{folder}")
    parquet = folder != key or not key or folder.lower().endswith(_PARQUET)
    file = f"{folder}/.zmetadata".lstrip("/") if parquet else key
    stored = _text(text_store, file)
    if stored is None and not parquet:  # a directory need not say by its name what it is
        file, parquet = f"{folder}/.zmetadata", True
        stored = _text(text_store, file)
    if stored is None:
        raise NotFoundError(f"no reference set at {url}")
    references: Document | Records
    if parquet:
        references = Records(text_store, folder, stored, url)
    else:
        references = Document(load(stored, url), url, given.template_overrides)
    targets = Targets(text_store, file if not parquet else folder, given, open_target or _open_store)
    name = None
    if given.plain and open_target is None:
        version = hashlib.blake2b(stored, digest_size=16).digest()
        name = "references", *place_of(text_store, file), version
    return _made(references, targets, url, name, (open_references, (text_store, key, options, open_target)))


def _made(
    references: Document | Records, targets: Targets, url: str, name: object, reopen: tuple[Any, ...]
) -> ReferenceStore:
    """It streams if its first target does; a set of Parquet files that comes from afar does so without a
    look at one."""
    streams = isinstance(targets.text_store, StreamingStore)
    if not (streams and isinstance(references, Records)):
        try:
            streams = isinstance(targets.find(references.a_target())[0], StreamingStore)
        except StoreError:
            streams = False  # there is none, or it may never be asked for
    kind = StreamingReferenceStore if streams else ReferenceStore
    return kind(references, targets, url, name, reopen)


def _text(store: Store, key: str) -> bytes | None:
    """A document, of a size that one may have."""
    limit = limit_nbytes()

    def place(i: int, nbytes: int) -> memoryview:
        if nbytes > limit:
            raise too_large(f"{store.url}/{key}", limit)
        return memoryview(bytearray(nbytes))

    (found,) = store.get_ranges([Request(key)], place)
    return None if found is None else bytes(found)


def _open_store(root: str, options: Mapping[str, Any]) -> Store:
    from gpuzarr.store.urls import open_store

    return open_store(root, options)
