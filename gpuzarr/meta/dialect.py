"""Finds out what lies at a path: which dialect, array or group; and reads its metadata.

zarr.json                     v3, one request
else .zarray                  v2, two; .zattrs when attributes are first asked for
else .zgroup and .zmetadata   v2 group, four
below consolidated metadata   none
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuzarr.errors import ArgumentError, GpuzarrError, MetadataError, NotFoundError
from gpuzarr.meta import consolidated, v2, v3
from gpuzarr.meta.document import attributes, check_nbytes, dump, parse
from gpuzarr.meta.model import ArrayMeta, GroupMeta, NodeMeta
from gpuzarr.store.base import Buffer, Request, Store, WritableStore

DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def join(path: str, name: str) -> str:
    """The key of `name` below `path`."""
    return f"{path}/{name}" if path else name


def where(store: Store, path: str) -> str:
    """Store and path, for messages."""
    return f"{store.url}/{path}" if path else store.url


def read_meta(store: Store, path: str) -> NodeMeta:
    """The node at `path`. Nothing there is a NotFoundError that names what is near."""
    try:
        return _read(store, path)
    except GpuzarrError as error:
        error.located(array=where(store, path))
        raise
    except RecursionError:
        raise MetadataError("metadata is nested too deep", array=where(store, path)) from None


def _read(store: Store, path: str) -> NodeMeta:
    found = _fetch(store, join(path, "zarr.json"))
    if found is not None:
        return v3.node_meta(parse(found, "zarr.json"))
    found = _fetch(store, join(path, ".zarray"))
    if found is not None:
        return v2.array_meta(parse(found, ".zarray"))
    found = _fetch(store, join(path, ".zgroup"))
    if found is not None:
        return _v2_group(store, path, found)
    raise NotFoundError(f"no zarr.json, .zarray or .zgroup at {where(store, path)}", hint=_near(store, path))


def _fetch(store: Store, key: str) -> Buffer | None:
    """One document. A store that knows its size before it reads it asks `place`, which may refuse."""

    def place(_: int, nbytes: int) -> memoryview:
        check_nbytes(nbytes, key)
        return memoryview(bytearray(nbytes))

    (found,) = store.get_ranges([Request(key)], place)
    return found


def _v2_group(store: Store, path: str, zgroup: Buffer) -> GroupMeta:
    document = parse(zgroup, ".zgroup")
    zmetadata = _fetch(store, join(path, ".zmetadata"))
    if zmetadata is None:
        return v2.group_meta(document)
    children = consolidated.v2_children(parse(zmetadata, ".zmetadata"))
    own = children.pop("", None) or {}
    return GroupMeta(attributes(own.get("zarr_attributes"), ".zattrs"), 2, document, children)


def _near(store: Store, path: str) -> str | None:
    """A guess at what was meant: a node right below, or what lies beside it."""
    try:
        below = sorted(store.list_dir(f"{path}/" if path else ""))[:50]
        for name in below:
            if any(store.exists(join(join(path, name), doc)) for doc in DOCUMENTS):
                return f"did you mean {where(store, join(path, name))}?"
        if "attributes.json" in below:
            return "this looks like N5"
        if below or not path:
            return f"there is {', '.join(below[:8])}" if below else "there is nothing at all"
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
        found = _fetch(store, join(path, ".zattrs"))
        return {} if found is None else parse(found, ".zattrs")
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
    store: WritableStore, path: str, document: Mapping[str, Any], attrs: Mapping[str, Any] | None = None
) -> None:
    """Store a node's document; the attributes of v2 before it, in their own object."""
    if document["zarr_format"] == 3:
        store.put([(join(path, "zarr.json"), dump(document))])
        return
    if attrs:
        store.put([(join(path, ".zattrs"), dump(attrs))])
    store.put([(join(path, ".zarray" if "shape" in document else ".zgroup"), dump(document))])


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
        put_node(store, path, document)


def group_v3(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}


def put_attributes(
    store: WritableStore, path: str, meta: NodeMeta, attrs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Replace a node's attributes; the node's document as it is now."""
    if meta.zarr_format == 2:
        store.put([(join(path, ".zattrs"), dump(attrs))])
        return meta.document
    document = {**meta.document, "attributes": dict(attrs)}
    store.put([(join(path, "zarr.json"), dump(document))])
    return document


__all__ = ["ArrayMeta", "GroupMeta", "MetadataError", "NodeMeta", "read_meta"]
