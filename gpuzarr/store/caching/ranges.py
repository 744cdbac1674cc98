"""Which bytes of an object are kept, and which of them answer a request. Pure: no bytes pass through here.

    Span(10, 30, None)    bytes 10 to 30; how long the object is, nobody has said
    Span(10, 30, 30)      the same, and 30 is its end
    Span(-20, 0, None)    the last 20 bytes, wherever the object ends

One span alone answers a request: what it says of the object's size is true of its own bytes, and nobody has
to know whether the bytes of another span are of the same version.

No kept span lies within another that says as much. So spans sorted by where they start are sorted by where
they stop too, and the last one that starts early enough reaches farthest.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from gpuzarr.store.base import Request


class Span(NamedTuple):
    """Bytes of one version of an object."""

    start: int
    """Negative: counted from the object's end, wherever that is."""
    stop: int
    size: int | None
    """Bytes of the whole object, where these reach its end."""

    @property
    def nbytes(self) -> int:
        """Bytes of the span."""
        return self.stop - self.start


class Found(NamedTuple):
    """Bytes that answer a request: `nbytes` bytes at `offset` of a kept span."""

    span: Span
    offset: int
    nbytes: int


def span_of(request: Request, nbytes: int) -> Span | None:
    """Which bytes an answer of `nbytes` bytes is. None: nobody can tell, or it is no answer to that."""
    start, wanted = request.start, request.nbytes
    if start < 0:
        if wanted is not None and wanted < -start:  # within the last bytes: short only where that is all
            return Span(0, nbytes, nbytes) if nbytes < wanted else None
        if nbytes < -start:
            return Span(0, nbytes, nbytes)
        return Span(-nbytes, 0, None) if nbytes == -start else None
    if wanted is not None and nbytes >= wanted:
        return Span(start, start + nbytes, None) if 0 < nbytes == wanted else None
    if start and not nbytes:  # behind the end, but how far?
        return None
    return Span(start, start + nbytes, start + nbytes)


class Ranges:
    """The spans of an object that are kept."""

    __slots__ = ("_starts", "_stops", "spans", "tail")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        """Those whose place is known, by their start."""
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.tail: Span | None = None
        """The longest of those that are counted from the end."""

    def add(self, span: Span) -> list[Span] | None:
        """Keep a span; those that are of no use any more. None: it is of no use itself."""
        if span.start < 0:
            if self.tail is not None and self.tail.start <= span.start:
                return None
            gone = [] if self.tail is None else [self.tail]
            self.tail = span
            return gone
        i = bisect_right(self._starts, span.start)
        if i and self._stops[i - 1] >= span.stop and span.size in (None, self.spans[i - 1].size):
            return None
        first = bisect_left(self._starts, span.start)
        last = max(bisect_right(self._stops, span.stop), first)
        gone = self.spans[first:last]
        if span in gone or span in self.spans[first:i]:  # where spans contradict each other, out of order
            return None
        self.spans[first:last] = [span]
        self._starts[first:last] = [span.start]
        self._stops[first:last] = [span.stop]
        return gone

    def discard(self, span: Span) -> None:
        """Its bytes are not kept any more."""
        if span == self.tail:
            self.tail = None
            return
        for i in range(bisect_left(self._starts, span.start), bisect_right(self._starts, span.start)):
            if self.spans[i] == span:
                del self.spans[i], self._starts[i], self._stops[i]
                return

    def find(self, request: Request) -> Found | None:
        """Where the bytes of a request are, all of them."""
        i = bisect_right(self._starts, max(request.start, 0))
        for span in (*self.spans[max(i - 1, 0) : i], *self.spans[-1:], self.tail):
            if span is not None and (found := _within(span, request)) is not None:
                return found
        return None


def _within(span: Span, request: Request) -> Found | None:
    """Where the bytes of a request are in a span, if they all are."""
    start, wanted = request.start, request.nbytes
    if span.start < 0:
        if not span.start <= start < 0:
            return None
        return Found(span, start - span.start, -start if wanted is None else min(wanted, -start))
    if span.size is None:
        if start < span.start or wanted is None or start + wanted > span.stop:
            return None
        return Found(span, start - span.start, wanted)
    low = max(span.size + start, 0) if start < 0 else min(start, span.size)
    high = span.size if wanted is None else min(low + wanted, span.size)
    return Found(span, low - span.start, high - low) if span.start <= low else None
