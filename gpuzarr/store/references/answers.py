"""The requests of one call, at the stores that they lead to: what is asked of each, whose bytes come back.

Stores that stream are asked first, and answer as they can; the others are asked at the same time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, PlaceIfAny, Store, StreamingStore
from gpuzarr.store.references.merge import Piece, Run

_TOGETHER = 32
"""Stores that are asked at once."""

Answer = tuple[int, Buffer | None]
Told = Callable[[StoreError], StoreError]
"""A target's error, as it is to be shown."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one store is asked for. `keys` are those of the caller's requests, `url` is the set's."""

    store: Store
    runs: list[Run]
    keys: Sequence[str]
    url: str
    told: Told

    @property
    def streams(self) -> bool:
        """One request is as good as a stream of one, and waits on whatever thread it is asked from."""
        return len(self.runs) > 1 and isinstance(self.store, StreamingStore)

    def ask(self, place: PlaceIfAny | None) -> list[Answer]:
        """All at once."""
        placed = self._placed(place)

        def somewhere(run: int, nbytes: int) -> memoryview:
            into = None if placed is None else placed(run, nbytes)
            return memoryview(np.empty(nbytes, np.uint8)) if into is None else into

        try:
            requests = [run.request for run in self.runs]
            found = self.store.get_ranges(requests, None if place is None else somewhere)
        except StoreError as error:
            raise self._located(error) from None
        return [answer for run, one in zip(self.runs, found, strict=True) for answer in self.cut(run, one)]

    def stream(self, place: PlaceIfAny | None) -> Iterator[Answer]:
        """Numbers of runs with their answers, as they come."""
        assert isinstance(self.store, StreamingStore)
        try:
            return self.store.stream([run.request for run in self.runs], self._placed(place))
        except StoreError as error:
            raise self._located(error) from None

    def _located(self, error: StoreError) -> StoreError:
        """The error with the one chunk that it can be of."""
        told = self.told(error)
        one = len(self.runs) == 1 and len(self.runs[0].pieces) == 1
        return told.located(chunk=self.keys[self.runs[0].pieces[0].number]) if one else told

    def _placed(self, place: PlaceIfAny | None) -> PlaceIfAny | None:
        """Bytes of one request go where it wants them, those of several together anywhere."""
        if place is None:
            return None

        def at(run: int, nbytes: int) -> memoryview | None:
            pieces = self.runs[run].pieces
            return place(pieces[0].number, nbytes) if len(pieces) == 1 else None

        return at

    def cut(self, run: Run, answer: Buffer | None) -> list[Answer]:
        """The answers to the caller's requests in a run."""
        if answer is None:
            raise self._wrong(run.pieces[0], "which is not there")
        view = memoryview(answer)
        if len(run.pieces) == 1 and not run.pieces[0].exact:
            return [(run.pieces[0].number, answer)]
        found: list[Answer] = []
        for piece in run.pieces:
            begin, nbytes = piece.start - run.request.start, piece.nbytes or 0
            if len(view) < begin + nbytes:
                raise self._wrong(piece, f"which ends at {run.request.start + len(view)}")
            whole = begin == 0 and nbytes == len(view)
            found.append((piece.number, answer if whole else view[begin : begin + nbytes]))
        return found

    def _wrong(self, piece: Piece, how: str) -> StoreError:
        key = self.keys[piece.number]
        target = f"{self.store.url.rstrip('/')}/{piece.key}"
        part = f"bytes {piece.start} to {piece.start + (piece.nbytes or 0)} of " if piece.exact else ""
        return self.told(
            StoreError(
                f"{key} in the reference set {self.url} is {part}{target}, {how}",
                chunk=key,
                hint="was it moved or changed since the set was made? relative names go by the set's place",
            )
        )


class Answers(Iterator[Answer]):
    """Answers as they come. Threads may share it."""

    def __init__(self, ready: list[Answer], batches: Sequence[Batch], place: PlaceIfAny | None) -> None:
        self._ready = deque(ready)
        self._lock = threading.Lock()
        place = place if place is None or len(batches) < 2 else _one_at_a_time(place)
        self._streams: list[tuple[Batch, Iterator[Answer]]] = []
        others: list[Batch] = []
        try:
            for batch in batches:
                if batch.streams:
                    self._streams.append((batch, batch.stream(place)))
                else:
                    others.append(batch)
            if len(others) == 1:
                self._ready.extend(others[0].ask(place))
            elif others:
                with ThreadPoolExecutor(min(len(others), _TOGETHER)) as pool:
                    for found in pool.map(lambda batch: batch.ask(place), others):
                        self._ready.extend(found)
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Answer:
        while True:
            with self._lock:
                if self._ready:
                    return self._ready.popleft()
                if not self._streams:
                    raise StopIteration
                batch, stream = self._streams[0]
            try:
                number, answer = next(stream)
                found = batch.cut(batch.runs[number], answer)
            except StopIteration:
                with self._lock:
                    self._streams = [one for one in self._streams if one[1] is not stream]
                continue
            except BaseException as error:
                self.close()
                if isinstance(error, StoreError):
                    raise batch.told(error) from None
                raise
            with self._lock:
                self._ready.extend(found[1:])
            return found[0]

    def close(self) -> None:
        """Ask for no more."""
        with self._lock:
            streams, self._streams = self._streams, []
            self._ready.clear()
        for _, stream in streams:
            end = getattr(stream, "close", None)
            if end is not None:
                end()


def _one_at_a_time(place: PlaceIfAny) -> PlaceIfAny:
    """Several stores ask at once, and memory is handed out to one of them at a time."""
    lock = threading.Lock()

    def at(i: int, nbytes: int) -> memoryview | None:
        with lock:
            return place(i, nbytes)

    return at
