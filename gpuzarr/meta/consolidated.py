"""Consolidated metadata: every document below a group in one object.

    v3   the group's zarr.json   {…, "consolidated_metadata": {"kind": "inline", "must_understand": false,
                                      "metadata": {"a/b": zarr.json of a/b, …}}}
    v2   .zmetadata beside it    {"zarr_consolidated_format": 1,
                                  "metadata": {".zgroup": …, "a/b/.zarray": …, "a/b/.zattrs": …}}

No specification has either form; zarr-python writes them. Documents are kept as they were read, whatever they
ask for. Here they go by their keys relative to the group in both formats, `a/b/zarr.json` or `a/b/.zarray`;
`engine.consolidate` reads and stores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpuzarr.errors import MetadataError

Document = Mapping[str, Any]
Documents = Mapping[str, Document]
"""Key -> metadata document."""

HOLDER: Final = {2: ".zmetadata", 3: "zarr.json"}
"""The object that holds a group's consolidated metadata, by format."""
NAMES: Final = {2: (".zarray", ".zgroup", ".zattrs"), 3: ("zarr.json",)}
"""What the documents of one node are called, by format."""
_EMPTY: Final = {"kind": "inline", "must_understand": False, "metadata": {}}


def v2_children(document: Document) -> dict[str, dict[str, Any]]:
    """Path -> .zarray or .zgroup document, the node's .zattrs merged in as `zarr_attributes`. The root's
    path is empty."""
    entries = document.get("metadata")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise MetadataError(".zmetadata holds no metadata documents")
    nodes: dict[str, dict[str, Any]] = {}
    for key, entry in entries.items():
        path, _, name = key.rpartition("/")
        if name in (".zarray", ".zgroup"):
            nodes[path] = {
                **entry,
                "zarr_attributes": entries.get(f"{path}/.zattrs" if path else ".zattrs", {}),
            }
    return nodes


def held(holder: Document, zarr_format: int) -> dict[str, Document] | None:
    """The documents in a group's `HOLDER`, in v3 its own among them; None if nothing is consolidated there,
    or if no reader could use it."""
    where = holder if zarr_format == 2 else holder.get("consolidated_metadata")
    if not isinstance(where, dict) or (zarr_format == 3 and where.get("kind") != "inline"):
        return None
    entries = where.get("metadata")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        return None
    if zarr_format == 2:
        return entries
    return {"zarr.json": holder, **{f"{path}/zarr.json": entry for path, entry in entries.items()}}


def holding(documents: Documents, zarr_format: int) -> dict[str, Any]:
    """The `HOLDER` of a group with these documents in it, its own among them; groups before what they
    hold."""
    ordered = {key: documents[key] for key in sorted(documents, key=lambda key: (key.count("/"), key))}
    if zarr_format == 2:
        return {"zarr_consolidated_format": 1, "metadata": ordered}
    own = ordered.pop("zarr.json")
    below = {key.removesuffix("/zarr.json"): _entry(document) for key, document in ordered.items()}
    return {**own, "consolidated_metadata": {**_EMPTY, "metadata": below}}


def _entry(document: Document) -> Document:
    """A v3 document among others: what a group has consolidated itself is not said twice."""
    if document.get("node_type") != "group":
        return document
    return {**document, "consolidated_metadata": _EMPTY}


def without(documents: Documents, path: str) -> dict[str, Document]:
    """The documents but for those of the node at `path` and of everything below."""
    return {key: document for key, document in documents.items() if not key.startswith(f"{path}/")}


def is_held(documents: Documents, path: str) -> bool:
    """Whether the array or group at `path` is among them."""
    prefix = f"{path}/" if path else ""
    return any(f"{prefix}{name}" in documents for name in ("zarr.json", ".zarray", ".zgroup"))
