"""The doors: what a user calls first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from gpuzarr.array import Array
from gpuzarr.device.choose import choose
from gpuzarr.engine.cache import changing, changing_below
from gpuzarr.engine.extents import is_new
from gpuzarr.engine.turns import turn
from gpuzarr.engine.values import on_host
from gpuzarr.errors import ArgumentError, ReadOnlyError
from gpuzarr.group import Group
from gpuzarr.meta.dialect import (
    DOCUMENTS,
    group_v3,
    join,
    node_from_document,
    put_node,
    put_parents,
    read_meta,
    require_no_array_above,
    where,
)
from gpuzarr.meta.document import dump
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.store.base import Store, WritableStore
from gpuzarr.store.urls import open_store


def open(
    target: Any,
    path: str = "",
    *,
    mode: Literal["r", "r+"] = "r",
    zarr_format: Literal[2, 3] | None = None,
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
    cache: Any = None,
) -> Array | Group:
    """Open the array or group at `path` of a Zarr v2 or v3 hierarchy.

    `target` is a local path, a URL (`s3:`, `gs:`, `az:`, `http:`, anything fsspec knows), a `.zip` of either,
    a reference set, a mapping of keys to bytes, or a store of gpuzarr, zarr-python, obstore or Icechunk.
    `mode` is `r`, or `r+` to write too. `zarr_format` saves servers the requests for documents of the other
    format. `device` says where reads end up: `auto` (a CUDA device if one works,
    else the CPU), `cpu`, `cuda`, `cuda:1`; `sim` runs the device code on the CPU, for tests.
    `storage_options` are those of fsspec, and some of docs/cloud.md. `cache` keeps what is fetched: "memory",
    "disk", or as in docs/caching.md.

    Raises NotFoundError, MetadataError, UnsupportedError, StoreError, ArgumentError, DeviceError, LimitError
    or MissingDependencyError.
    """
    if mode not in ("r", "r+"):
        hint = 'use "r", or "r+" to write; create_array and create_group make what is not there'
        raise ArgumentError(f"mode {mode!r} is neither r nor r+", hint=hint)
    if zarr_format not in (None, 2, 3):
        raise ArgumentError(f"zarr_format {zarr_format!r} is neither 2 nor 3")
    store, path = open_store(target, storage_options), _clean(path)
    if cache is not None:
        from gpuzarr.store.caching.opening import cached  # most do without

        store = cached(store, cache)
    meta = read_meta(store, path, zarr_format)
    chosen = choose(device)
    writable = mode == "r+"
    if writable:
        _require_writable(store)
    if isinstance(meta, ArrayMeta):
        return Array(store, path, meta, chosen, writable)
    return Group(store, path, meta, chosen, writable)


def open_array(target: Any, path: str = "", **options: Any) -> Array:
    """`open`, where only an array will do."""
    node = open(target, path, **options)
    if not isinstance(node, Array):
        raise ArgumentError(f"{node.name} is a group", hint="name an array; `gpuzarr info` lists them")
    return node


def load(target: Any, path: str = "", key: Any = ..., **options: Any) -> Any:
    """The elements at `key` of an array, in memory."""
    return open_array(target, path, **options)[key]


def create_array(
    target: Any,
    path: str = "",
    *,
    shape: int | Sequence[int],
    dtype: Any,
    chunks: int | Sequence[int | Sequence[int]] | Literal["auto"] = "auto",
    shards: Any = None,
    codecs: Any = "auto",
    fill_value: Any = None,
    order: Literal["C", "F"] = "C",
    dimension_names: Sequence[str | None] | None = None,
    attributes: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 3,
    separator: Literal["/", "."] | None = None,
    index_location: Literal["start", "end"] = "end",
    overwrite: bool = False,
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> Array:
    """A new array of fill values, open for writing.

    `chunks` and `codecs` of `auto` are chosen for reading on a GPU (see `gpuzarr.meta.create`). `chunks`
    like `[(10, 20, 30), 64]` give along an axis the size of each chunk, which make up its length: a
    rectilinear grid (ZEP 3), which Zarr v3 alone has, and no shards with it. `shards`: a shape that chunks
    divide, several of them outermost first, or `auto`; Zarr v3 alone has them. `codecs`: a list of names, of
    documents of either format, or of codec objects; None or an empty list stores values as they are.
    `separator` is that of chunk keys. Groups above that are missing are made; those that hold consolidated
    metadata hear of the array (see `consolidate`).

    Raises ArgumentError where there is something already, unless `overwrite` is set, or where the arguments
    do not fit together.
    """
    chosen = choose(device)
    from gpuzarr.meta.create import array_document  # readers need not load it

    document = array_document(
        *(shape, dtype, chunks, shards, codecs, fill_value, order, dimension_names, attributes, zarr_format),
        separator=separator,
        index_location=index_location,
    )
    store, path, meta = _prepared(target, path, document, attributes, overwrite, storage_options)
    _put(store, path, document, attributes)
    return Array(store, path, meta, chosen, writable=True)


def create_group(
    target: Any,
    path: str = "",
    *,
    attributes: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 3,
    overwrite: bool = False,
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> Group:
    """A new, empty group, open for writing. Groups above that are missing are made; those that hold
    consolidated metadata hear of it."""
    if zarr_format not in (2, 3):
        raise ArgumentError(f"zarr_format {zarr_format!r} is neither 2 nor 3")
    chosen = choose(device)
    document = group_v3(attributes or {}) if zarr_format == 3 else {"zarr_format": 2}
    store, path, meta = _prepared(target, path, document, attributes, overwrite, storage_options)
    _put(store, path, document, attributes)
    return Group(store, path, meta, chosen, writable=True)


def consolidate(
    target: Any,
    path: str = "",
    *,
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> Group:
    """Store the metadata of everything below the group at `path` in the group's own, as zarr-python does, so
    that one request opens all of it; the group, open for writing. In Zarr v3 they stand in its `zarr.json`,
    in v2 in `.zmetadata`. Documents are taken as they are, also those that gpuzarr cannot read.

    From then on what `create_array`, `create_group`, `save`, `copy`, `resize`, `append` and
    `update_attributes` change below is changed there too, in the same call, if they are given the hierarchy
    that holds the group and a path in it. What other programs change is not; call this again afterwards. Of
    two processes that change something below one group at the same time, one may undo there what the other
    did: call this again behind them.

    Raises NotFoundError, ArgumentError for an array, MetadataError for a document that is malformed,
    LimitError where all of them are too much for one.
    """
    chosen = choose(device)
    store, path = _require_writable(open_store(target, storage_options)), _clean(path)
    from gpuzarr.engine.consolidate import consolidate  # readers need not load it

    return Group(store, path, consolidate(store, path), chosen, writable=True)


def save(target: Any, values: Any, path: str = "", **create: Any) -> Array:
    """Store an array in host memory or on a device as a new Zarr array; `create` are options of
    `create_array`. Values on the device that `create` names are encoded there. The array can be opened once
    all of it is stored."""
    chosen = choose(create.get("device", "auto"))
    there = chosen.device is not None and chosen.device.owns(values)
    given = values if there else np.asarray(on_host(values))  # all of it: it may be what is overwritten
    known = {"shape": tuple(given.shape), "dtype": given.dtype, **create}
    names = ("overwrite", "device", "storage_options", "attributes")
    options = {name: known.pop(name) for name in names if name in known}
    attributes = options.get("attributes")
    from gpuzarr.meta.create import array_document

    document = array_document(**known, attributes=attributes)
    overwrite, storage = options.get("overwrite", False), options.get("storage_options")
    store, path, meta = _prepared(target, path, document, attributes, overwrite, storage)
    array = Array(store, path, meta, chosen, writable=True)
    if store.traits.transactional:
        _put(store, path, document, attributes)
        array[...] = given
    else:
        array[...] = given
        _put(store, path, document, attributes)
    return array


def _prepared(
    target: Any,
    path: str,
    document: Mapping[str, Any],
    attributes: Mapping[str, Any] | None,
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
) -> tuple[WritableStore, str, Any]:
    """A place where there is nothing, and what is to be there."""
    dump({**document, "attributes": dict(attributes or {})})  # refused before anything is deleted
    meta = node_from_document(document)
    if attributes is not None and meta.attributes is None:
        meta = replace(meta, attributes=dict(attributes))
    store, path = _require_writable(open_store(target, storage_options, create=True)), _clean(path)
    require_no_array_above(store, path)
    is_new(store, path)
    prefix = f"{path}/" if path else ""
    documents = [join(path, name) for name in DOCUMENTS if store.exists(join(path, name))]
    if documents and not overwrite:
        there = where(store, path)
        raise ArgumentError(f"there is something at {there}", hint="overwrite=True deletes it first")
    if documents:  # which go first: what is half deleted does not open
        _announce(store, path, {})
        with changing_below(store, prefix):
            store.delete(documents)
            store.delete_below(prefix)
    elif isinstance(meta, ArrayMeta):  # chunks of a `save` that did not end
        ndim = len(meta.shape)
        left = [key for key in store.list(prefix) if meta.keys.cell(key[len(prefix) :], ndim) is not None]
        with changing(store, left):
            store.delete(left)
    if not documents and meta.zarr_format == 2:  # of a node that was not deleted to the end
        store.delete([join(path, name) for name in (".zattrs", ".zmetadata")])
    return store, path, meta


def _put(
    store: WritableStore, path: str, document: Mapping[str, Any], attributes: Mapping[str, Any] | None
) -> None:
    """Store a new node's document, behind those of the groups above."""
    put_parents(store, path, document["zarr_format"])
    with turn(store, [join(path, "zarr.json")]):
        _announce(store, path, put_node(store, path, document, attributes, new=True))


def _announce(store: WritableStore, path: str, documents: Mapping[str, Mapping[str, Any]]) -> None:
    if path:
        from gpuzarr.engine.consolidate import announce  # readers need not load it

        announce(store, path, documents, anew=True)


def _require_writable(store: Store) -> WritableStore:
    if not isinstance(store, WritableStore):
        raise ReadOnlyError(f"{store.url} cannot be written")
    return store


def _clean(path: str) -> str:
    if not isinstance(path, str):
        raise ArgumentError(f"path {path!r} is not a string")
    return path.strip("/")
