"""Consolidated metadata are written here, and kept true.

    consolidate   every document below a group is read, a batch for each level of the hierarchy, and then they
                  are stored in the group's own object, in one step
    announce      who stores a document says so to the groups above: those that hold consolidated metadata
                  have it changed there too, right behind it

So a reader of consolidated metadata finds the shapes that arrays have, save between the two steps of one
change. A process that is killed there leaves the groups above as they were, until `consolidate` or the next
change of that node. Threads of one process take turns at a group's document; processes do not, and of two
that announce something to one group at the same time one may undo what the other said. What lies above the
store's root is out of reach: an array that was opened as a store of its own announces nothing.

Turns go upwards: who has that of a node may wait for those above it, never for one below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gpuzarr.engine.turns import turn
from gpuzarr.errors import ArgumentError, GpuzarrError, MetadataError
from gpuzarr.meta.consolidated import HOLDER, NAMES, Document, Documents, held, holding, is_held, without
from gpuzarr.meta.dialect import (
    DOCUMENTS,
    join,
    node_from_document,
    read_documents,
    read_meta,
    v2_group,
    where,
    written,
)
from gpuzarr.meta.document import check_nbytes
from gpuzarr.meta.model import GroupMeta
from gpuzarr.store.base import Buffer, Pieces, Store, WritableStore

_OWN: Final = {*DOCUMENTS, ".zattrs", ".zmetadata"}


# ---- all of a hierarchy


def consolidate(store: WritableStore, path: str) -> GroupMeta:
    """Store every document below the group at `path` in its consolidated metadata, whatever these were; the
    group as it is then."""
    with turn(store, [join(path, "zarr.json")]):
        zarr_format = _group_format(store, path)
        found = _hierarchy(store, path, zarr_format)
        made = holding(found, zarr_format)
        meta = v2_group(found[".zgroup"], made) if zarr_format == 2 else node_from_document(made)
        assert isinstance(meta, GroupMeta)
        store.put([_checked(join(path, HOLDER[zarr_format]), made)])
    return meta


def _group_format(store: Store, path: str) -> int:
    v3, array, group = read_documents(store, [join(path, name) for name in DOCUMENTS])
    if v3 is not None and v3.get("node_type") != "array":
        return 3
    if v3 is None and array is None:
        if group is not None:
            return 2
        read_meta(store, path)  # says what is near
    hint = "only groups hold consolidated metadata"
    raise ArgumentError(f"{where(store, path)} is an array", hint=hint)


def _hierarchy(store: Store, path: str, zarr_format: int) -> dict[str, Document]:
    """The documents of the group at `path` and of all that is below, by their keys relative to it."""
    found: dict[str, Document] = {}
    level = [""]
    while level:
        nodes = _nodes(store, path, level, zarr_format)
        found |= {join(name, key): one for name, node in nodes.items() for key, one in node.items()}
        level = [
            join(group, name)
            for group, node in nodes.items()
            if ".zgroup" in node or node.get("zarr.json", {}).get("node_type") == "group"
            for name in store.list_dir(f"{_at(path, group)}/" if path or group else "")
            if name not in _OWN
        ]
    return found


def _nodes(store: Store, path: str, names: Sequence[str], zarr_format: int) -> dict[str, dict[str, Document]]:
    """Those of the `names` below `path` that are arrays or groups, each with its documents; one batch."""
    of_each = NAMES[zarr_format]
    places = [_at(path, name) for name in names]
    found = iter(read_documents(store, [join(place, key) for place in places for key in of_each]))
    nodes: dict[str, dict[str, Document]] = {}
    for name, place in zip(names, places, strict=True):
        node: dict[str, Document] = {key: one for key in of_each if (one := next(found)) is not None}
        if ".zarray" in node:
            node.pop(".zgroup", None)
        for key in DOCUMENTS:
            if key in node:
                _require_node(node[key], zarr_format, f"{key} of {where(store, place)}")
                nodes[name] = node
    return nodes


def _at(path: str, name: str) -> str:
    return join(path, name) if name else path


def _require_node(document: Document, zarr_format: int, what: str) -> None:
    """What no reader would take for a node makes nothing else unreadable."""
    if document.get("zarr_format") != zarr_format:
        raise MetadataError(f"zarr_format {document.get('zarr_format')!r} in {what} is not {zarr_format}")
    if zarr_format == 3 and document.get("node_type") not in ("array", "group"):
        kind = document.get("node_type")
        raise MetadataError(f"node_type {kind!r} in {what} is neither array nor group")


def _checked(key: str, document: Document) -> tuple[str, Buffer | Pieces]:
    """An object to put, unless nobody here could read it again."""
    stored = written(document)
    check_nbytes(len(stored), key)
    return key, stored


# ---- one change


def announce(store: WritableStore, path: str, documents: Documents, *, anew: bool = False) -> None:
    """Tell the groups above `path` what was stored there, keys relative to `path`. `anew`: it is all that
    there is at `path` and below; without documents, that nothing is.

    A Zarr v2 group tells its own consolidated metadata, too, if its `.zgroup` is among the documents. The
    caller has the turn of `path`. Errors are raised behind the change, and say so.
    """
    formats = [3] if any(key.endswith("zarr.json") for key in documents) else [2] if documents else [2, 3]
    above = _above(path)
    holders = [(group, zarr_format) for zarr_format in formats for group in above]
    if ".zgroup" in documents and not anew:
        holders.append((path, 2))
    if not holders:
        return
    try:
        with turn(store, [join(group, "zarr.json") for group in above]):
            keys = [join(group, HOLDER[zarr_format]) for group, zarr_format in holders]
            put = []
            # What is malformed shows readers an error, and no wrong shapes.
            for i, holder in enumerate(read_documents(store, keys, malformed=True)):
                group, zarr_format = holders[i]
                old = None if holder is None else held(holder, zarr_format)
                if old is None:
                    continue
                inside = path[len(group) :].lstrip("/")
                made = without(old, inside) if anew else dict(old)
                way = [*_above(inside), *([] if anew else [inside])]
                if documents and _hears_of(store, group, way, made, zarr_format):
                    made |= {join(inside, key): one for key, one in documents.items()}
                if made != old:
                    put.append(_checked(keys[i], holding(made, zarr_format)))
            if put:
                store.put(put)
    except GpuzarrError as error:
        if documents:
            advice = error.hint or "gpuzarr.consolidate makes the metadata of the group anew"
            error.hint = f"the change itself is stored; {advice}"
        raise


def _hears_of(
    store: Store, group: str, names: Sequence[str], known: dict[str, Document], zarr_format: int
) -> bool:
    """Add to what is known in a group the nodes of these names that are not. False if one of them is not
    there: readers could not place what is below it."""
    missing = [name for name in names if name and not is_held(known, name)]
    nodes = _nodes(store, group, missing, zarr_format)
    if len(nodes) < len(missing):
        return False
    known |= {join(name, key): one for name, node in nodes.items() for key, one in node.items()}
    return True


def _above(path: str) -> list[str]:
    """The paths above, nearest first; the root's is empty."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)] if path else []
