"""Which kept bytes answer a request. The oracle: an object as a bytes literal, and slices of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuzarr.store.base import Request, cut
from gpuzarr.store.caching.ranges import Found, Ranges, Span, span_of

REQUESTS = st.builds(Request, st.just("k"), st.integers(-30, 30), st.none() | st.integers(0, 30))


def bytes_of(whole: bytes, span: Span) -> bytes:
    return whole[span.start :] if span.start < 0 else whole[span.start : span.stop]


@given(st.binary(max_size=24), st.lists(REQUESTS, max_size=12), st.data())
def test_what_is_found_is_what_was_asked_for(
    whole: bytes, requests: list[Request], data: st.DataObject
) -> None:
    """Every answer is kept; some are dropped again. What is found then is the slice, and a repeated request
    is always found, unless it could not be kept."""
    ranges, kept = Ranges(), dict[Span, bytes]()
    for request in requests:
        answer = bytes(cut(memoryview(whole), request))
        found = ranges.find(request)
        if found is not None:
            held = kept[found.span]
            assert held[found.offset : found.offset + found.nbytes] == answer
            assert len(held) == found.span.nbytes
            continue
        span = span_of(request, len(answer))
        if span is None:
            continue
        assert bytes_of(whole, span) == answer
        assert span.size in (None, len(whole))
        gone = ranges.add(span)
        if gone is not None:
            kept[span] = answer
            for one in gone:
                del kept[one]
        assert ranges.find(request) is not None
        assert set(kept) == {*ranges.spans, *([ranges.tail] if ranges.tail else [])}
        if kept and data.draw(st.booleans()):
            dropped = data.draw(st.sampled_from(sorted(kept, key=repr)))
            ranges.discard(dropped)
            del kept[dropped]
    spans = ranges.spans
    assert spans == sorted(spans)
    assert all(a.stop <= b.stop and a.start < b.start for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("request_", "nbytes", "span"),
    [
        (Request("k"), 9, Span(0, 9, 9)),
        (Request("k"), 0, Span(0, 0, 0)),
        (Request("k", 3, 4), 4, Span(3, 7, None)),
        (Request("k", 3, 4), 2, Span(3, 5, 5)),
        (Request("k", 3, 4), 0, None),
        (Request("k", 3, 4), 9, None),
        (Request("k", 3), 4, Span(3, 7, 7)),
        (Request("k", 3), 0, None),
        (Request("k", -5), 5, Span(-5, 0, None)),
        (Request("k", -5, 5), 5, Span(-5, 0, None)),
        (Request("k", -5, 9), 3, Span(0, 3, 3)),
        (Request("k", -5), 6, None),
        (Request("k", -5, 2), 2, None),
        (Request("k", -5, 2), 1, Span(0, 1, 1)),
    ],
)
def test_which_bytes_an_answer_is(request_: Request, nbytes: int, span: Span | None) -> None:
    assert span_of(request_, nbytes) == span


def test_one_span_alone_answers() -> None:
    """What another says of the size may be true of another version."""
    ranges = Ranges()
    assert ranges.add(Span(-8, 0, None)) == []
    assert ranges.add(Span(15, 20, 20)) == []
    assert ranges.add(Span(0, 14, None)) == []
    assert ranges.find(Request("k", -4, 2)) == Found(Span(15, 20, 20), 1, 2)
    assert ranges.find(Request("k", -7, 2)) == Found(Span(-8, 0, None), 1, 2)
    assert ranges.find(Request("k", 13, 3)) is None
    assert ranges.find(Request("k", 99, 3)) == Found(Span(15, 20, 20), 5, 0)
    assert ranges.add(Span(-9, 0, None)) == [Span(-8, 0, None)]
    assert ranges.add(Span(-3, 0, None)) is None


def test_no_kept_span_lies_within_another_that_says_as_much() -> None:
    ranges = Ranges()
    for start, stop in ((0, 4), (10, 14), (20, 24), (2, 12)):
        assert ranges.add(Span(start, stop, None)) == []
    assert ranges.add(Span(11, 13, None)) is None
    assert ranges.add(Span(1, 24, None)) == [Span(2, 12, None), Span(10, 14, None), Span(20, 24, None)]
    assert ranges.spans == [Span(0, 4, None), Span(1, 24, None)]
    assert ranges.add(Span(9, 24, 24)) == []
    assert ranges.find(Request("k", 20)) == Found(Span(9, 24, 24), 11, 4)
    assert ranges.add(Span(10, 24, 24)) is None
    assert ranges.add(Span(0, 24, 24)) == [Span(0, 4, None), Span(1, 24, None), Span(9, 24, 24)]


def test_a_span_that_contradicts_others_is_kept_once() -> None:
    ranges = Ranges()
    for start, stop, size in ((2, 6, None), (5, 7, None), (5, 5, 5)):
        assert ranges.add(Span(start, stop, size)) == []
    assert ranges.add(Span(5, 5, 5)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=20), st.data())
def test_spans_that_contradict_each_other(spans: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Of several versions, where nobody knows of versions: what is kept and what is known stay the same."""
    ranges, kept = Ranges(), set[Span]()
    for start, nbytes, ends in spans:
        span = Span(start, start + nbytes, start + nbytes if ends else None)
        gone = ranges.add(span)
        if gone is not None:
            assert kept.issuperset(gone)
            kept -= set(gone)
            assert span not in kept
            kept.add(span)
        if kept and data.draw(st.booleans()):
            dropped = data.draw(st.sampled_from(sorted(kept, key=repr)))
            ranges.discard(dropped)
            kept.discard(dropped)
        assert sorted(ranges.spans, key=repr) == sorted(kept, key=repr)
        for at in range(20):
            found = ranges.find(Request("k", at, 1))
            assert found is None or found.span in kept
