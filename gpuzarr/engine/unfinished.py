"""What an unfinished copy leaves in its target, so that another process can go on: one small object.

    .gpuzarr-copy    {"source": …, "request": digest, "clearing": false, "done": {"a/b": [[0, 17], [19, 20]]}}

`done` lists, for each array, the regions that are stored. It is brought up to date about once a second, after
the regions it names: what is not listed is done again, which gives the same objects. The name begins with a
dot, as no array or group is called, and the object is removed when the copy is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError, GpuzarrError, MetadataError
from gpuzarr.meta.dialect import join, where
from gpuzarr.meta.document import dump, parse
from gpuzarr.store.base import Request, WritableStore

NAME: Final = ".gpuzarr-copy"
_EVERY = 1.0  # seconds between two updates


@dataclass(slots=True)
class Unfinished:
    """The note of one copy. One thread at a time."""

    store: WritableStore
    path: str
    source: str
    request: str
    """Digest of everything that decides what is stored where."""
    done: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """[regions] of each array, by its path."""
    clearing: bool = False
    """What was there before is being removed."""
    _listed: Mapping[str, Any] = field(default_factory=dict)
    _updated: float = 0.0

    @property
    def key(self) -> str:
        """Where the note lies."""
        return join(self.path, NAME)

    def take_up(self) -> bool:
        """Whether there is a note of this very copy; `done` is then filled in as arrays are `opened`. One of
        another copy is an ArgumentError."""
        found = read(self.store, self.path)
        if found is None:
            return False
        if (found.get("source"), found.get("request")) != (self.source, self.request):
            of = found.get("source")
            other = (
                "with other chunks, shards, codecs or format, or the source's metadata have changed since"
                if of == self.source
                else f"and is of {of}"
            )
            raise ArgumentError(
                f"the unfinished copy at {where(self.store, self.path)} was begun {other}",
                hint="overwrite=True starts anew",
            )
        self.clearing = found.get("clearing") is True
        listed = found.get("done")
        self._listed = listed if isinstance(listed, dict) and not self.clearing else {}
        return True

    def opened(self, path: str, regions: int) -> NDArray[np.bool_]:
        """Which regions of an array are done."""
        done = np.zeros(regions, bool)
        runs = self._listed.get(path, [])
        for run in runs if isinstance(runs, list) else []:
            if not (isinstance(run, list) and len(run) == 2 and all(type(n) is int for n in run)):
                raise MetadataError(f"{self.key} holds {run!r}, which is no run of regions")
            done[max(run[0], 0) : max(run[1], 0)] = True
        self.done[path] = done
        return done

    def update(self, now: bool = False) -> None:
        """Store the note, if it is time, or `now`."""
        if self.store.traits.transactional or (not now and monotonic() - self._updated < _EVERY):
            return  # what is not committed is nowhere
        # What was listed of arrays that are not yet opened again stays.
        done = {**self._listed, **{path: _runs(flags) for path, flags in self.done.items()}}
        document = {
            "comment": "an unfinished copy; gpuzarr copy --resume goes on",
            "source": self.source,
            "request": self.request,
            "clearing": self.clearing,
            "done": done,
        }
        self.store.put([(self.key, dump(document))])
        self._updated = monotonic()

    def save(self) -> None:
        """Store the note on the way out of an error, if that can be done."""
        with suppress(Exception):
            self.update(now=True)

    def remove(self) -> None:
        """The copy is whole."""
        if not self.store.traits.transactional:
            self.store.delete([self.key])


def read(store: WritableStore, path: str) -> dict[str, Any] | None:
    """The note of an unfinished copy; None if there is none."""
    key = join(path, NAME)
    if store.traits.transactional:
        return None
    (found,) = store.get_ranges([Request(key)])
    try:
        return None if found is None else parse(found, key)
    except GpuzarrError as error:
        error.hint = "overwrite=True starts anew"
        error.located(array=where(store, path))
        raise


def _runs(done: NDArray[np.bool_]) -> list[list[int]]:
    """[begin, end) of what is done, in a row."""
    edges = np.flatnonzero(np.diff(done.astype(np.int8), prepend=0, append=0))
    found: list[list[int]] = edges.reshape(-1, 2).tolist()
    return found


def canonical(value: Any) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, default=str)
