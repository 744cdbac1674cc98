"""Which of what is kept may be used without asking the store behind the cache.

What is kept of an object is kept under a *label*. Only what lies under the object's label now is used:

    ""          nothing is ever asked: the user says that objects never change (check="never")
    "=ETAG"     this version, as the store behind names it
    "#…"        what this handle has read of a store without versions, until it hears of a write

A handle trusts a label from the first answer on that confirms it (check="once"), or for that one call
(check="always"). Writes through whatever store of this process take the trust away, also from what is being
read meanwhile.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

At = tuple[object, str]
"""An object, as the whole process names it (store/base.py, `place_of`)."""

CHECKS: Final = ("once", "always", "never")
_MOST_TRUSTED: Final = 1 << 17  # objects of one handle; of others it asks again
_counter = itertools.count(1)


class _Writes:
    """When objects were last written. Objects may share an entry: what is kept is then less, never wrong."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clock = 0
        self._stamps = [0] * 4096
        self._floor = 0

    def note(self, at: At) -> list[Trust]:
        """An object was written; who has to hear of it."""
        with self.lock:
            self.clock += 1
            self._stamps[hash(at) % len(self._stamps)] = self.clock
            return list(_trusts)

    def note_all(self) -> list[Trust]:
        """The same of any number of objects."""
        with self.lock:
            self.clock += 1
            self._floor = self.clock
            return list(_trusts)

    def since(self, at: At, started: int) -> bool:
        return max(self._floor, self._stamps[hash(at) % len(self._stamps)]) > started


_writes = _Writes()
_trusts: weakref.WeakSet[Trust] = weakref.WeakSet()


def started() -> int:
    """The time of a read that begins now, for `Trust.settle` and `written`."""
    return _writes.clock


def written(at: At, since: int) -> bool:
    """Whether an object was, or may have been, written in this process since then."""
    return _writes.since(at, since)


class Trust:
    """What one handle knows of the objects behind its cache. Safe between threads."""

    def __init__(self, check: str) -> None:
        self.check = check
        self._labels: OrderedDict[At, str] = OrderedDict()
        self._lock = threading.Lock()
        with _writes.lock:
            _trusts.add(self)

    def label(self, at: At) -> str | None:
        """The label under which what is kept may be used right away; None: ask first."""
        if self.check == "never":
            return ""
        with self._lock:
            return self._labels.get(at)

    def settle(self, at: At, version: str | None, since: int) -> str | None:
        """An answer says which version the object has: the label to keep it under, None if it should not be
        kept. `since`: when the read began."""
        if self.check == "never":
            return ""
        label = label_of(version)
        with self._lock:
            if self.check == "always":
                return label
            if label is None:
                known = self._labels.get(at, "")
                label = known if known.startswith("#") else f"#{os.urandom(8).hex()}.{next(_counter)}"
            if written(at, since):  # the writer noted it before it came for this lock
                return None
            self._labels[at] = label
            self._labels.move_to_end(at)
            while len(self._labels) > _MOST_TRUSTED:
                self._labels.popitem(last=False)
        return label

    def drop(self, at: At) -> None:
        """Ask before what is kept of this object is used again."""
        with self._lock:
            self._labels.pop(at, None)

    def drop_below(self, prefix: At) -> None:
        """The same for all objects whose names begin so."""
        with self._lock:
            for at in [at for at in self._labels if at[0] == prefix[0] and at[1].startswith(prefix[1])]:
                del self._labels[at]

    def renew(self) -> None:
        """A forked child has none of the threads that may hold the lock."""
        self._lock = threading.Lock()


def label_of(version: str | None) -> str | None:
    """The label of a version. A weak ETag names versions that mean the same, not the same bytes."""
    return None if version is None or version.startswith("W/") else f"={version}"


def forget(places: Iterable[At]) -> None:
    """These objects were written or deleted in this process, through whatever store. No cached store of the
    process uses what it has of them before it has asked again, unless they are said never to change."""
    for at in places:
        for trust in _writes.note(at):
            trust.drop(at)


def forget_below(prefix: At) -> None:
    """The same for all objects whose names begin so."""
    for trust in _writes.note_all():
        trust.drop_below(prefix)


def _child() -> None:
    _writes.lock = threading.Lock()
    for trust in list(_trusts):
        trust.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
