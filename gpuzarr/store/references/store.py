"""A reference set as a store: keys stand for byte ranges of other files.

    "v/.zarray": "{…}"                           a document that lies in the set itself
    "v/0.1": ["s3://bucket/x.nc", 4096, 512]     a chunk of a NetCDF file

    key ─Document or Records→ bytes of the set, or a part of a target ─Targets→ a store and a key there
        ─runs→ few requests to each store ─Answers→ bytes

It cannot be written. What a set does not name is absent. What it names has to be there: a target that is
missing, or shorter than a reference says, is a StoreError, since a missing chunk would read as fill values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from gpuzarr import config
from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, Place, PlaceIfAny, Request, Same, Store, Traits, clean_key, cut
from gpuzarr.store.references.answers import Answers, Batch
from gpuzarr.store.references.document import Document, Part
from gpuzarr.store.references.merge import Piece, runs
from gpuzarr.store.references.parquet import Records
from gpuzarr.store.references.targets import Targets
from gpuzarr.store.remote import shown

_MERGED: Final = 4
"""Requests that are expected to become one, where a round trip is dear. More would pay off for parts that lie
side by side; of others, what lies between them takes memory."""


class ReferenceStore:
    """What `open_references` gives. Read only."""

    def __init__(
        self,
        references: Document | Records,
        targets: Targets,
        url: str,
        name: object,
        reopen: tuple[Any, ...],
    ) -> None:
        self.url = url
        self._references, self._targets = references, targets
        self._name = Same(self) if name is None else name
        self._reopen = reopen

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes read the set themselves."""
        return self._reopen

    @property
    def traits(self) -> Traits:
        """Those of the dearest target that was needed so far. More requests pay off than there, since near
        ones become one."""
        known = [store.traits for store in self._targets.opened] or [self._targets.text_store.traits]
        dearest = max(known, key=lambda traits: traits.concurrency)
        many = dearest.concurrency
        return replace(dearest, concurrency=many * _MERGED) if many > 1 else dearest

    def place(self, key: str) -> tuple[object, str]:
        """The set's own place and version."""
        return self._name, key

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """Inline bytes from memory, all others with few requests to each store. Nothing outside of what a
        reference names is given."""
        found: list[Buffer | None] = [None] * len(requests)
        for i, answer in self._answers(requests, place):
            found[i] = answer
        return found

    def _answers(self, requests: Sequence[Request], place: PlaceIfAny | None) -> Answers:
        keys = [clean_key(request.key) for request in requests]
        ready: list[tuple[int, Buffer | None]] = []
        pieces: dict[int, tuple[Store, list[Piece]]] = {}
        for i, found in enumerate(self._references.find(keys)):
            if found is None:
                ready.append((i, None))
            elif not isinstance(found, Part):
                ready.append((i, cut(memoryview(found), requests[i])))
            elif found.nbytes is not None and not (inside := _inside(found.nbytes, requests[i]))[1]:
                ready.append((i, b""))
            else:
                store, key = self._find(found.url, keys[i])
                begin, nbytes = requests[i][1:3] if found.nbytes is None else inside
                piece = Piece(i, key, found.start + begin, nbytes, found.nbytes is not None)
                pieces.setdefault(id(store), (store, []))[1].append(piece)
        batches = [self._batch(store, some, keys) for store, some in pieces.values()]
        return Answers(ready, batches, place)

    def _batch(self, store: Store, pieces: list[Piece], keys: list[str]) -> Batch:
        settings, traits = config.current(), store.traits
        gap = settings.coalesce_gap if traits.coalesce_gap is None else traits.coalesce_gap
        merged = runs(pieces, gap, traits.request_nbytes or settings.request_nbytes)
        return Batch(store, merged, keys, self.url, self._told)

    def _find(self, url: str | None, key: str) -> tuple[Store, str]:
        try:
            return self._targets.find(url)
        except StoreError as error:
            raise self._told(error).located(chunk=key) from None

    def _told(self, error: StoreError) -> StoreError:
        """A target's error without what is secret in its URL."""
        what = shown(error.what, self._targets.secrets)
        if what == error.what:
            return error
        return type(error)(
            what,
            array=error.array,
            chunk=shown(error.chunk or "") or None,
            codec=error.codec,
            hint=error.hint,
        )

    def size(self, key: str) -> int | None:
        """As the set says; of whole files as their store says."""
        found = self._references.known(clean_key(key))
        if found is None or not isinstance(found, Part):
            return None if found is None else len(found)
        if found.nbytes is not None:
            return found.nbytes
        store, there = self._find(found.url, key)
        return store.size(there)

    def exists(self, key: str) -> bool:
        """Whether the set names it. Nobody asks whether the target is there."""
        return self._references.find([clean_key(key)]) != [None]

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key that the set names."""
        return self._references.list(prefix)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """The names right below."""
        return self._references.list_dir(prefix)


class StreamingReferenceStore(ReferenceStore):
    """A reference set whose targets are far away."""

    def stream(
        self, requests: Sequence[Request], place: PlaceIfAny | None = None
    ) -> Iterator[tuple[int, Buffer | None]]:
        """Each answer as soon as it is there: those of one request to a target together."""
        return self._answers(requests, place)


def _inside(whole: int, request: Request) -> tuple[int, int]:
    """Where a request begins in a reference of `whole` bytes, and how many bytes are left for it there."""
    start = max(whole + request.start, 0) if request.start < 0 else min(request.start, whole)
    return start, whole - start if request.nbytes is None else max(min(request.nbytes, whole - start), 0)
