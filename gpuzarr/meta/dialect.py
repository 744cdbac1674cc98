"""Finds out what lies at a path: which dialect, array or group; and reads its metadata.

zarr.json                     v3, one request
else .zarray                  v2, two; .zattrs when attributes are first asked for
else .zgroup and .zmetadata   v2 group, four
below consolidated metadata   none

Behind a server, those of v2 are asked for at once: two round trips. Where the format is said, documents of
the other are not asked for, and a consolidated v2 group takes one request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpuzarr.errors import ArgumentError, ChangedError, GpuzarrError, MetadataError, NotFoundError
from gpuzarr.meta import consolidated, v2, v3
from gpuzarr.meta.document import attributes, check_nbytes, parse
from gpuzarr.meta.model import ArrayMeta, GroupMeta, NodeMeta
from gpuzarr.store.base import Buffer, ConditionalStore, Request, Store, WritableStore

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def join(path: str, name: str) -> str:
    """The key of `name` below `path`."""
    return f"{path}/{name}" if path else name


def where(store: Store, path: str) -> str:
    """Store and path, for messages."""
    return f"{store.url}/{path}" if path else store.url


def read_meta(store: Store, path: str, zarr_format: int | None = None) -> NodeMeta:
    """The node at `path`, of that format if it is given. Nothing there is a NotFoundError that names what is
    near."""
    try:
        return _read(store, path, zarr_format)
    except GpuzarrError as error:
        error.located(array=where(store, path))
        raise
    except RecursionError:
        raise MetadataError("metadata is nested too deep", array=where(store, path)) from None


def _read(store: Store, path: str, zarr_format: int | None) -> NodeMeta:
    known: dict[str, dict[str, Any] | None] = {}
    if zarr_format != 2:
        found = _document(store, path, "zarr.json")
        if found is not None:
            return v3.node_meta(found)
        if zarr_format == 3:
            raise NotFoundError(f"no zarr.json at {where(store, path)}", hint=_near(store, path))
    else:
        found = known[".zmetadata"] = _document(store, path, ".zmetadata")
        held = (consolidated.held(found, 2) if found else None) or {}
        if found is not None and ".zgroup" in held and ".zarray" not in held:
            return v2_group(held[".zgroup"], found)
    if store.traits.concurrency > 1:
        names = [name for name in (".zarray", ".zgroup", ".zmetadata") if name not in known]
        answers = _fetch(store, [join(path, name) for name in names])
        at_once = dict(zip(names, answers, strict=True))
    else:
        at_once = {}

    def read(name: str) -> dict[str, Any] | None:
        if name in known:
            return known[name]
        return _parsed(at_once[name], name) if at_once else _document(store, path, name)

    if (found := read(".zarray")) is not None:
        return v2.array_meta(found)
    if (found := read(".zgroup")) is not None:
        return v2_group(found, read(".zmetadata"))
    listed = ".zarray" if zarr_format == 2 else "zarr.json, .zarray"
    raise NotFoundError(f"no {listed} or .zgroup at {where(store, path)}", hint=_near(store, path))


def _document(store: Store, path: str, name: str) -> dict[str, Any] | None:
    (found,) = _fetch(store, [join(path, name)])
    return _parsed(found, name)


def _parsed(found: Buffer | None, name: str) -> dict[str, Any] | None:
    return None if found is None else parse(found, name)


def _fetch(store: Store, keys: Sequence[str]) -> list[Buffer | None]:
    """Documents as bytes, in one batch. A store that knows sizes before it reads asks `place`, which may
    refuse."""

    def place(i: int, nbytes: int) -> memoryview:
        check_nbytes(nbytes, keys[i])
        return memoryview(bytearray(nbytes))

    return store.get_ranges([Request(key) for key in keys], place)


def read_documents(
    store: Store, keys: Sequence[str], *, malformed: bool = False
) -> list[dict[str, Any] | None]:
    """The documents under some keys, in one batch; None where there is none. One that is malformed is a
    MetadataError that names its place, or if `malformed` is set None as well."""
    documents: list[dict[str, Any] | None] = []
    for key, found in zip(keys, _fetch(store, keys) if keys else [], strict=True):
        path, _, name = key.rpartition("/")
        try:
            documents.append(None if found is None else parse(found, name))
        except GpuzarrError as error:
            if not malformed or not isinstance(error, MetadataError):
                raise error.located(array=where(store, path)) from None
            documents.append(None)
    return documents


def v2_group(zgroup: Mapping[str, Any], zmetadata: Mapping[str, Any] | None) -> GroupMeta:
    """The meaning of a .zgroup, and of the .zmetadata beside it if there is one."""
    if zmetadata is None:
        return v2.group_meta(zgroup)
    children = consolidated.v2_children(zmetadata)
    own = children.pop("", None) or {}
    return GroupMeta(attributes(own.get("zarr_attributes"), ".zattrs"), 2, zgroup, children)


def _near(store: Store, path: str) -> str | None:
    """A guess at what was meant: a node right below, or what lies beside it."""
    try:
        few = 4 if store.traits.concurrency > 1 else 50  # each is looked at
        below = sorted(store.list_dir(f"{path}/" if path else ""))[:few]
        for name in below:
            if any(store.exists(join(join(path, name), doc)) for doc in DOCUMENTS):
                return f"did you mean {where(store, join(path, name))}?"
        if "attributes.json" in below:
            return "this looks like N5"
        if below or not path:
            # Most web servers list nothing, whatever they have.
            nothing = (
                "there is nothing at all" if store.traits.concurrency == 1 else "nothing is listed there"
            )
            return f"there is {', '.join(below[:8])}" if below else nothing
        parent = path.rpartition("/")[0]
        beside = sorted({*store.list_dir(f"{parent}/" if parent else "")} - {*DOCUMENTS})
    except GpuzarrError:
        return None
    return f"beside it is {', '.join(beside[:8])}" if beside else None


def node_from_document(document: Mapping[str, Any]) -> NodeMeta:
    """A node from its consolidated document."""
    if document.get("zarr_format") == 3:
        return v3.node_meta(document)
    return v2.array_meta(document) if "shape" in document else v2.group_meta(document)


def read_attributes(store: Store, path: str, meta: NodeMeta) -> Mapping[str, Any]:
    """A node's attributes; those of v2 may need a request."""
    if meta.attributes is not None:
        return meta.attributes
    try:
        return _document(store, path, ".zattrs") or {}
    except GpuzarrError as error:
        error.located(array=where(store, path))
        raise


def list_children(store: Store, path: str, meta: GroupMeta) -> dict[str, NodeMeta]:
    """The nodes right below a group, by name. Without consolidated metadata this lists the store and reads
    each one."""
    if meta.children is not None:
        direct = {name: doc for name, doc in meta.children.items() if "/" not in name and name}
        return {
            name: _child(doc, where(store, join(path, name)), meta, name)
            for name, doc in sorted(direct.items())
        }
    nodes: dict[str, NodeMeta] = {}
    for name in sorted(store.list_dir(f"{path}/" if path else "")):
        if name.startswith(".") or name == "zarr.json":
            continue
        try:
            nodes[name] = read_meta(store, join(path, name))
        except NotFoundError:
            continue
    return nodes


def consolidated_child(store: Store, path: str, meta: GroupMeta, name: str) -> NodeMeta | None:
    """The node at the relative path `name` from consolidated metadata; None if there is none for it."""
    document = (meta.children or {}).get(name)
    return None if document is None else _child(document, where(store, join(path, name)), meta, name)


def _child(document: Mapping[str, Any], at: str, meta: GroupMeta, name: str) -> NodeMeta:
    try:
        node = node_from_document(document)
    except GpuzarrError as error:
        error.located(array=at)
        raise
    except RecursionError:
        raise MetadataError("metadata is nested too deep", array=at) from None
    if isinstance(node, GroupMeta) and not node.children and meta.children is not None:
        below = {
            key.removeprefix(f"{name}/"): doc
            for key, doc in meta.children.items()
            if key.startswith(f"{name}/")
        }
        node = GroupMeta(node.attributes, node.zarr_format, node.document, below)
    return node


def put_node(
    store: WritableStore,
    path: str,
    document: Mapping[str, Any],
    attrs: Mapping[str, Any] | None = None,
    new: bool = False,
    only: str | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Store a node's documents, and give them back. `new`: of two who make it at the same time, one gets an
    ArgumentError, if the store can tell. `only`: a ChangedError, unless the document is still that
    version."""
    documents = documents_of(document, attrs or None)
    named = [(join(path, name), written(one)) for name, one in documents.items()]
    if (new or only is not None) and isinstance(store, ConditionalStore):
        key, value = named.pop()  # who has the node's own document has all of it
        if not store.put_if([(key, value, only)])[0]:
            (found,) = store.get_ranges([Request(key)])
            # The answer to a request that was sent twice may be to the first of them.
            if found is None or bytes(found) != value:
                at = where(store, path)
                if new:
                    raise ArgumentError(f"somebody else has just made {at}")
                raise ChangedError(f"somebody else has just changed {at}", hint="open it again")
    for one in named:
        store.put([one])
    return documents


def documents_of(
    document: Mapping[str, Any], attrs: Mapping[str, Any] | None
) -> dict[str, Mapping[str, Any]]:
    """What a node stores, by name: its document; those of v2 behind the attributes, if it has any."""
    if document["zarr_format"] == 3:
        return {"zarr.json": document}
    own = {".zarray" if "shape" in document else ".zgroup": document}
    return own if attrs is None else {".zattrs": attrs, **own}


def written(document: Mapping[str, Any]) -> bytes:
    """A document as bytes, with what others put into attributes and JSON has not: NaN, half a surrogate
    pair."""
    try:
        return json.dumps(document, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document, indent=2).encode()


def require_no_array_above(store: Store, path: str) -> None:
    """Refuse a place below an array: only groups have something below them."""
    while path:
        path = path.rpartition("/")[0]
        if any(store.exists(join(path, name)) for name in DOCUMENTS):
            if isinstance(read_meta(store, path), ArrayMeta):
                raise ArgumentError(f"{where(store, path)} is an array", hint="nothing lies below arrays")
            return


def put_parents(store: WritableStore, path: str, zarr_format: int) -> None:
    """Groups at every place above `path` where there is nothing."""
    while path:
        path = path.rpartition("/")[0]
        if any(store.exists(join(path, name)) for name in DOCUMENTS):
            return
        document = {"zarr_format": 2} if zarr_format == 2 else group_v3({})
        if isinstance(store, ConditionalStore):
            (name,) = documents_of(document, None)
            store.put_if([(join(path, name), written(document), None)])  # or another has just made it
        else:
            put_node(store, path, document)


def group_v3(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}


def put_attributes(
    store: WritableStore, path: str, meta: NodeMeta, attrs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Replace a node's attributes; the node's document as it is now."""
    if meta.zarr_format == 2:
        store.put([(join(path, ".zattrs"), written(attrs))])
        return meta.document
    document = {**meta.document, "attributes": dict(attrs)}
    store.put([(join(path, "zarr.json"), written(document))])
    return document


__all__ = ["ArrayMeta", "GroupMeta", "MetadataError", "NodeMeta", "read_meta"]
