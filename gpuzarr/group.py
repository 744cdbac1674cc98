"""A handle on one group: names to arrays and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpuzarr.array import Array
from gpuzarr.device.choose import Place
from gpuzarr.errors import NotFoundError
from gpuzarr.meta.dialect import consolidated_child, join, list_children, read_attributes, read_meta, where
from gpuzarr.meta.model import ArrayMeta, GroupMeta, NodeMeta
from gpuzarr.store.base import Store


class Group:
    """A group in a store, open for reading. `open` makes it. With consolidated metadata, nothing below
    needs a request until data is read."""

    __slots__ = ("_attributes", "_device", "metadata", "path", "store")

    def __init__(self, store: Store, path: str, meta: GroupMeta, device: Place) -> None:
        self.store = store
        self.path = path
        self.metadata = meta
        self._device = device
        self._attributes: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Store and path, as messages show them."""
        return where(self.store, self.path)

    @property
    def zarr_format(self) -> int:
        """2 or 3."""
        return self.metadata.zarr_format

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The user's attributes. Those of Zarr v2 are read when they are first asked for."""
        if self._attributes is None:
            self._attributes = read_attributes(self.store, self.path, self.metadata)
        return self._attributes

    def __getitem__(self, name: str) -> Array | Group:
        """The array or group at a relative path. Nothing there is a NotFoundError, also a KeyError."""
        name = name.strip("/")
        meta = consolidated_child(self.store, self.path, self.metadata, name)
        if meta is None:
            if self.metadata.children is not None:
                listed = ", ".join(sorted(self.metadata.children)[:8])
                raise NotFoundError(
                    f"no {name!r} in {self.name}", hint=f"there is {listed}" if listed else None
                )
            meta = read_meta(self.store, join(self.path, name))
        return self._handle(name, meta)

    def _handle(self, name: str, meta: NodeMeta) -> Array | Group:
        kind = Array if isinstance(meta, ArrayMeta) else Group
        return kind(self.store, join(self.path, name), meta, self._device)  # type: ignore[arg-type]

    def members(self) -> dict[str, Array | Group]:
        """What lies right below, by name."""
        found = list_children(self.store, self.path, self.metadata)
        return {name: self._handle(name, meta) for name, meta in found.items()}

    def arrays(self) -> dict[str, Array]:
        """The arrays right below, by name."""
        return {name: node for name, node in self.members().items() if isinstance(node, Array)}

    def groups(self) -> dict[str, Group]:
        """The groups right below, by name."""
        return {name: node for name, node in self.members().items() if isinstance(node, Group)}

    def walk(self) -> Iterator[tuple[str, Array | Group]]:
        """Everything below, with paths relative to this group."""
        for name, node in self.members().items():
            yield name, node
            if isinstance(node, Group):
                for path, below in node.walk():
                    yield f"{name}/{path}", below

    def tree(self) -> str:
        """Everything below, drawn."""
        return "\n".join([self.path.rpartition("/")[2] or "/", *_branches(self)])

    def __iter__(self) -> Iterator[str]:
        """The names right below."""
        return iter(list_children(self.store, self.path, self.metadata))

    def __contains__(self, name: str) -> bool:
        """Whether there is an array or a group at a relative path."""
        try:
            self[name]
        except NotFoundError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<gpuzarr.Group {self.name}>"


def _branches(group: Group) -> Iterator[str]:
    members = list(group.members().items())
    for i, (name, node) in enumerate(members):
        last = i == len(members) - 1
        kind = f" {node.shape} {node.dtype}" if isinstance(node, Array) else ""
        yield f"{'└' if last else '├'}── {name}{kind}"
        if isinstance(node, Group):
            for line in _branches(node):
                yield f"{' ' if last else '│'}   {line}"
