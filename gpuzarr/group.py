"""A handle on one group: names to arrays and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace as changed
from types import MappingProxyType
from typing import Any

from gpuzarr.array import Array
from gpuzarr.device.choose import Place
from gpuzarr.engine.turns import turn
from gpuzarr.errors import ArgumentError, MetadataError, NotFoundError, ReadOnlyError
from gpuzarr.meta.dialect import (
    consolidated_child,
    documents_of,
    join,
    list_children,
    put_attributes,
    read_attributes,
    read_meta,
    where,
)
from gpuzarr.meta.document import dump
from gpuzarr.meta.model import ArrayMeta, GroupMeta, NodeMeta
from gpuzarr.store.base import Store, WritableStore


class Group(Mapping[str, "Array | Group"]):
    """A group in a store: a mapping of names to what lies right below; paths reach deeper.

    `open` makes it. With consolidated metadata, nothing below needs a request until data is read.
    """

    __slots__ = ("_attributes", "_device", "_writable", "metadata", "path", "store")

    def __init__(
        self, store: Store, path: str, meta: GroupMeta, device: Place, writable: bool = False
    ) -> None:
        self.store = store
        self.path = path
        self.metadata = meta
        self._device = device
        self._writable = writable
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
            self._attributes = MappingProxyType(read_attributes(self.store, self.path, self.metadata))
        return self._attributes

    def update_attributes(self, attributes: Mapping[str, Any], *, replace: bool = False) -> None:
        """Set attributes, JSON values by name; a None removes one. `replace` removes all others."""
        if not self._writable or not isinstance(self.store, WritableStore):
            raise ReadOnlyError("the group is open for reading", array=self.name, hint='use mode="r+"')
        from gpuzarr.engine.consolidate import announce  # readers need not load it

        dump(attributes)
        with turn(self.store, [join(self.path, "zarr.json")]):  # others may have changed them
            meta = read_meta(self.store, self.path)
            if not isinstance(meta, GroupMeta):
                raise MetadataError("where the group was is an array now", array=self.name)
            known = meta if meta.zarr_format == 3 else changed(meta, attributes=None)  # consolidated ones
            old = {} if replace else read_attributes(self.store, self.path, known)
            kept = {name: value for name, value in {**old, **attributes}.items() if value is not None}
            document = put_attributes(self.store, self.path, meta, kept)
            announce(self.store, self.path, documents_of(document, kept))
        self.metadata = GroupMeta(kept, self.zarr_format, document, self.metadata.children)
        self._attributes = MappingProxyType(kept)

    def __getitem__(self, name: str) -> Array | Group:
        """The array or group at a relative path. Nothing there is a NotFoundError, also a KeyError."""
        if not isinstance(name, str):
            raise ArgumentError(f"{name!r} is not the name of an array or a group")
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
        return kind(self.store, join(self.path, name), meta, self._device, self._writable)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        """The names right below."""
        return iter(list_children(self.store, self.path, self.metadata))

    def __len__(self) -> int:
        """How many lie right below."""
        return len(list_children(self.store, self.path, self.metadata))

    def members(self) -> list[tuple[str, Array | Group]]:
        """What lies right below, with its name; in one pass over the store."""
        found = list_children(self.store, self.path, self.metadata)
        return [(name, self._handle(name, meta)) for name, meta in found.items()]

    def arrays(self) -> list[tuple[str, Array]]:
        """The arrays right below, with their names."""
        return [(name, node) for name, node in self.members() if isinstance(node, Array)]

    def groups(self) -> list[tuple[str, Group]]:
        """The groups right below, with their names."""
        return [(name, node) for name, node in self.members() if isinstance(node, Group)]

    def walk(self) -> Iterator[tuple[str, Array | Group]]:
        """Everything below, with paths relative to this group."""
        for name, node in self.members():
            yield name, node
            if isinstance(node, Group):
                for path, below in node.walk():
                    yield f"{name}/{path}", below

    def tree(self) -> str:
        """Everything below, drawn."""
        return "\n".join([self.path.rpartition("/")[2] or "/", *_branches(self)])

    def __contains__(self, name: object) -> bool:
        """Whether there is an array or a group at a relative path."""
        try:
            return isinstance(name, str) and self[name] is not None
        except NotFoundError:
            return False

    def __eq__(self, other: object) -> bool:
        """Groups are equal where they are the same place of the same store."""
        return isinstance(other, Group) and (self.store, self.path) == (other.store, other.path)

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        """For notebooks: what is known of the group. Nothing is read."""
        from gpuzarr.html import describe_group

        return describe_group(self)

    def __repr__(self) -> str:
        return f"<gpuzarr.Group {self.name}>"


def _branches(group: Group) -> Iterator[str]:
    members = group.members()
    for i, (name, node) in enumerate(members):
        last = i == len(members) - 1
        kind = f" {node.shape} {node.dtype}" if isinstance(node, Array) else ""
        yield f"{'└' if last else '├'}── {name}{kind}"
        if isinstance(node, Group):
            for line in _branches(node):
                yield f"{' ' if last else '│'}   {line}"
