"""`copy`: an array or a whole hierarchy into another place, as it is or cut and encoded otherwise.

    source ─walk→ nodes ─recast→ documents     all of them before anything is written, so what has no form
                                               in the target is refused first
    array by array, region by region           several at once, as many as a budget of memory allows
    data, then the array's document; then the groups' documents, the root's last

Until it is whole, an array has no document: readers find nothing at its path, and nothing at the root of a
hierarchy until all of it is there. The target's own note of what is done (`engine.unfinished`) lets another
process go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from gpuzarr import config
from gpuzarr.array import Array
from gpuzarr.device.choose import Place, choose
from gpuzarr.engine import unfinished
from gpuzarr.engine.cache import changing_below
from gpuzarr.engine.consolidate import announce
from gpuzarr.engine.inflight import run_each
from gpuzarr.engine.source import Source
from gpuzarr.engine.transfer import CopyStats, Transfer
from gpuzarr.engine.unfinished import Unfinished, canonical
from gpuzarr.errors import ArgumentError, GpuzarrError, NotFoundError, ReadOnlyError
from gpuzarr.group import Group
from gpuzarr.meta.dialect import (
    documents_of,
    group_v3,
    join,
    node_from_document,
    put_parents,
    read_meta,
    require_no_array_above,
    where,
    written,
)
from gpuzarr.meta.model import ArrayMeta, NodeMeta
from gpuzarr.meta.recast import Changes, check, recast
from gpuzarr.store.apart import apart
from gpuzarr.store.base import WritableStore
from gpuzarr.store.urls import open_store

Report = Callable[[int, int], None]
"""Told the bytes done and those there are, decoded."""

BUDGET: Final = 384 << 20
"""Bytes that the regions in flight may take. One region is always in flight."""
_FOLLOWED: Final = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True, slots=True)
class _Node:
    """An array or a group, and what it becomes."""

    path: str
    """Relative to what is copied."""
    handle: Array | Group
    document: Mapping[str, Any]
    attributes: Mapping[str, Any]
    meta: NodeMeta


def copy(
    source: Any,
    target: Any,
    *,
    path: str = "",
    target_path: str = "",
    chunks: Any = None,
    shards: Any = None,
    codecs: Any = None,
    zarr_format: int | None = None,
    order: str | None = None,
    separator: str | None = None,
    index_location: str | None = None,
    consolidated: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    progress: Report | bool | None = None,
    stats: CopyStats | None = None,
    storage_options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Array | Group:
    """Copy the array or group at `path` of `source` to `target_path` of `target`; both are what `open`
    takes, `source` may be an Array or a Group too. The copy, open for writing.

    `chunks`, `shards`, `codecs`, `order`, `separator` and `index_location` are those of `create_array`; None
    keeps what the source has, `shards=False` leaves shards out. Of a hierarchy, chunks and shards given as
    shapes are for the arrays of that many dimensions. `zarr_format` 2 or 3 converts: type, fill value,
    dimension names and attributes stay; what has no form there is an ArgumentError before anything is
    written. Consolidated metadata are left out unless `consolidated` is set.

    Encoded chunks are taken as they are, without decoding, where nothing about them changes; damaged ones
    too, unless `verify` compares what was written with the source. `device` is where chunks are decoded.

    What is at the target already is an ArgumentError, unless `overwrite` deletes it. An interrupted copy
    goes on with `resume`, by the same arguments; `resume` of one that is whole does nothing, and of one that
    never began begins it. Until the copy is whole, readers find nothing there.

    `progress` is called with the decoded bytes done and those there are; True shows them on stderr. `stats`
    counts.
    """
    changes = Changes(chunks, shards, codecs, zarr_format, order, separator, index_location)
    check(changes)
    if overwrite and resume:
        raise ArgumentError(
            "overwrite deletes what resume would go on with",
            hint="a copy that was begun with overwrite goes on with resume alone",
        )
    handle, counts = _opened(source, path, storage_options), stats or CopyStats()
    store = open_store(target, target_options, create=True)
    if not isinstance(store, WritableStore):
        raise ReadOnlyError(f"{store.url} cannot be written")
    place = choose(device)
    job = _Job(handle, store, target_path.strip("/"), changes)
    transfers = job.transfers(place, verify, counts)
    with ExitStack() as stack:
        report: Report | None = progress if callable(progress) else None
        if progress is True:
            from gpuzarr.progress import Meter

            report = stack.enter_context(Meter("copying"))
        if job.begin(overwrite, resume):
            job.run(transfers, report, consolidated, counts)
    meta = read_meta(store, job.path)
    kind = Array if isinstance(meta, ArrayMeta) else Group
    return kind(store, job.path, meta, place, True)  # type: ignore[arg-type]


def _opened(source: Any, path: str, options: Mapping[str, Any] | None) -> Array | Group:
    path = path.strip("/")
    if isinstance(source, Group):
        return source[path] if path else source
    if isinstance(source, Array):
        if path:
            raise ArgumentError(f"{source.name} is an array, and has nothing at {path!r}")
        return source
    store = open_store(source, options)
    meta = read_meta(store, path)
    if isinstance(meta, ArrayMeta):
        return Array(store, path, meta, choose("cpu"))
    return Group(store, path, meta, choose("cpu"))


class _Job:
    """One copy."""

    def __init__(self, handle: Array | Group, store: WritableStore, path: str, changes: Changes) -> None:
        self.store, self.path = store, path
        if not apart(handle.store, handle.path, store, path):
            what = f"{where(store, path)} and {handle.name} are the same place, or one holds the other"
            raise ArgumentError(what, hint="copy to another place")
        require_no_array_above(store, path)
        self.nodes = list(_nodes(handle, changes))
        told = [[one.path, one.document, one.attributes, one.handle.metadata.document] for one in self.nodes]
        request = hashlib.sha256(canonical(told).encode()).hexdigest()
        self.note = Unfinished(store, path, handle.name, request)

    # ---- what is there already

    def begin(self, overwrite: bool, resume: bool) -> bool:
        """Make room, or find what is done; whether anything is left to do."""
        prefix = f"{self.path}/" if self.path else ""
        at = where(self.store, self.path)
        if resume and self.note.take_up():
            if self.note.clearing:
                self._clear(prefix)
            return True
        there = next(iter(self.store.list_dir(prefix)), None) is not None
        if not there:
            return True
        if resume and self._whole():
            return False
        begun = unfinished.NAME in self.store.list_dir(prefix)
        if begun and not overwrite:
            hint = "resume=True goes on, overwrite=True starts anew"
            raise ArgumentError(f"there is an unfinished copy at {at}", hint=hint)
        if not begun and not self._is_node():
            raise ArgumentError(
                f"what is at {at} is no array or group, and is not deleted", hint="name another place"
            )
        if not overwrite:
            raise ArgumentError(f"there is something at {at}", hint="overwrite=True deletes it first")
        self._clear(prefix)
        return True

    def _is_node(self) -> bool:
        return any(self.store.exists(join(self.path, name)) for name in _FOLLOWED[:3])

    def _whole(self) -> bool:
        """Whether every document is there as it is to be: they come last."""
        for one in self.nodes:
            try:
                found = read_meta(self.store, self._at(one))
            except NotFoundError:
                return False
            if _plain(found.document) != _plain(one.document):
                return False
        return True

    def _clear(self, prefix: str) -> None:
        """Remove what was there: first what makes it an array or a group, so that no reader takes the rest
        for whole. The note says that this is going on."""
        self.note.clearing = True
        self.note.update(now=True)
        announce(self.store, self.path, {}, anew=True)
        with changing_below(self.store, prefix):
            self.store.delete([join(self.path, name) for name in _FOLLOWED])
            for name in list(self.store.list_dir(prefix)):
                if name == unfinished.NAME:
                    continue
                self.store.delete_below(f"{prefix}{name}/")
                if self.store.exists(f"{prefix}{name}"):
                    self.store.delete([f"{prefix}{name}"])
        self.note.clearing = False
        self.note.update(now=True)

    # ---- the work

    def transfers(self, place: Place, verify: bool, stats: CopyStats) -> list[tuple[_Node, Transfer]]:
        """How each array goes across."""
        found = []
        for node in self.nodes:
            if isinstance(node.handle, Array) and isinstance(node.meta, ArrayMeta):
                source = Source.of(node.handle.store, node.handle.path, node.handle.metadata)
                target = Source.of(self.store, self._at(node), node.meta)
                found.append((node, Transfer(source, target, place, verify, stats)))
        return found

    def run(
        self,
        transfers: list[tuple[_Node, Transfer]],
        report: Report | None,
        consolidated: bool,
        stats: CopyStats,
    ) -> None:
        """Everything that is not done yet."""
        self.note.update(now=True)
        if self.store.traits.transactional:
            for node in self.nodes:
                self._put(node)
        tally = _Tally(report, sum(transfer.total for _, transfer in transfers))
        try:
            for node, transfer in transfers:
                self._array(node, transfer, tally)
                stats.add(arrays=1)
        except BaseException:
            self.note.save()
            raise
        self._documents(consolidated)
        stats.add(groups=len(self.nodes) - len(transfers))
        self.note.remove()

    def _array(self, node: _Node, transfer: Transfer, tally: _Tally) -> None:
        done = self.note.opened(node.path, transfer.regions)
        before = np.flatnonzero(done).tolist()
        transfer.stats.add(resumed=len(before))
        if before:
            tally.add(sum(transfer.nbytes(region) for region in before))

        def finished(region: int) -> None:
            done[region] = True
            self.note.update()
            tally.add(transfer.nbytes(region))

        many = max(min(config.current().threads, BUDGET // max(transfer.cost, 1)), 1)
        if transfer.place.device is not None:  # which decodes many chunks at once by itself
            many = 1
        run_each((int(i) for i in np.flatnonzero(~done)), transfer.run, finished, many)
        self.note.update(now=True)
        if node.path and not self.store.traits.transactional:  # the root's says that everything is there
            self._put(node)

    def _put(self, node: _Node, extra: Mapping[str, Any] | None = None) -> None:
        document, at = {**node.document, **(extra or {})}, self._at(node)
        if document["zarr_format"] == 3:
            self.store.put([(join(at, "zarr.json"), written(document))])
            return
        if node.attributes:
            self.store.put([(join(at, ".zattrs"), written(node.attributes))])
        self.store.put([(join(at, ".zarray" if "shape" in document else ".zgroup"), written(document))])

    def _at(self, node: _Node) -> str:
        return join(self.path, node.path) if node.path else self.path

    def _documents(self, consolidated: bool) -> None:
        """Groups from the bottom up; the places above, and the root; then what those above consolidate."""
        root = self.nodes[0]
        for node in reversed(self.nodes[1:]):
            if not isinstance(node.meta, ArrayMeta):
                self._put(node)
        extra: dict[str, Any] = {}
        if consolidated and not isinstance(root.meta, ArrayMeta):
            if root.document["zarr_format"] == 3:
                below = {one.path: dict(one.document) for one in self.nodes[1:]}
                extra = {
                    "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": below}
                }
            else:
                self.store.put([(join(self.path, ".zmetadata"), written(_consolidated_v2(self.nodes)))])
        put_parents(self.store, self.path, int(root.document["zarr_format"]))
        self._put(root, extra)
        stored = [(one.path, documents_of(one.document, one.attributes or None)) for one in self.nodes]
        told = {join(path, name) if path else name: doc for path, own in stored for name, doc in own.items()}
        announce(self.store, self.path, told, anew=True)


class _Tally:
    """Adds up, and reports."""

    def __init__(self, report: Report | None, total: int) -> None:
        self.report, self.total, self.done = report, total, 0
        self.add(0)

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.report is not None:
            self.report(min(self.done, self.total), self.total)


# ---- what is copied


def _nodes(handle: Array | Group, changes: Changes) -> Iterator[_Node]:
    """The root, then everything below, parents first; each with its new document."""
    yield _node("", handle, changes)
    if isinstance(handle, Group):
        own = replace(changes, chunks=None, shards=None)
        for path, node in handle.walk():
            fits = isinstance(node, Array) and _fits(changes, node.ndim)
            yield _node(path, node, changes if fits else own)


def _fits(changes: Changes, ndim: int) -> bool:
    """Whether chunks and shards that are given as shapes are of `ndim` dimensions."""
    for one, nests in ((changes.chunks, False), (changes.shards, True)):
        if isinstance(one, (list, tuple)):
            first = one[0] if nests and one and isinstance(one[0], (list, tuple)) else one
            if len(first) not in (1, ndim):
                return False
    return ndim > 0


def _node(path: str, handle: Array | Group, changes: Changes) -> _Node:
    try:
        if isinstance(handle, Array):
            document, attributes = recast(handle.metadata, handle.attrs, changes)
            return _Node(path, handle, document, attributes, node_from_document(document))
        zarr_format = changes.zarr_format or handle.zarr_format
        attributes = dict(handle.attrs)
        if zarr_format == 2:
            document = {"zarr_format": 2}
        elif handle.zarr_format == 3:
            document = {k: v for k, v in handle.metadata.document.items() if k != "consolidated_metadata"}
            document["attributes"] = attributes
        else:
            document = group_v3(attributes)
        return _Node(path, handle, document, attributes, node_from_document(document))
    except GpuzarrError as error:
        raise error.located(array=handle.name) from error


def _consolidated_v2(nodes: list[_Node]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in nodes:
        found[join(one.path, ".zarray" if isinstance(one.meta, ArrayMeta) else ".zgroup")] = one.document
        if one.attributes:
            found[join(one.path, ".zattrs")] = one.attributes
    return {"zarr_consolidated_format": 1, "metadata": found}


def _plain(document: Mapping[str, Any]) -> str:
    """A document, but for what is consolidated in it."""
    own = {k: v for k, v in document.items() if k not in ("consolidated_metadata", "zarr_attributes")}
    return canonical(own)
