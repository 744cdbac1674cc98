"""Consolidated metadata: every document below a group in one object (v2 `.zmetadata`; v3 has it inline, see
`meta.v3`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuzarr.errors import MetadataError


def v2_children(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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
