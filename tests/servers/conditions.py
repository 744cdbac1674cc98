"""Ranges and conditions of HTTP (RFC 9110, 13 and 14): what a request's headers ask of an object. No I/O."""

from __future__ import annotations

import re

from tests.servers.http1 import Request

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def span(asked: str, nbytes: int) -> range | None:
    """The bytes that a Range header asks for of so many; empty where there are none of them, None where the
    header is to be ignored."""
    match = _RANGE.fullmatch(asked)
    if match is None or asked == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return range(max(nbytes - int(last), 0), nbytes)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, nbytes) if last else nbytes)


def unmet(request: Request, etag: str | None, modified: str) -> int | None:
    """412 or 304, where what the request sets as its condition does not hold. Dates are compared as text:
    the clients under test send back what they were given."""
    given = request.headers
    if "if-match" in given:
        if not _matches(given["if-match"], etag, weak=False):
            return 412
    elif given.get("if-unmodified-since", modified) != modified:
        return 412
    if "if-none-match" in given:
        if _matches(given["if-none-match"], etag, weak=True):
            return 304
    elif given.get("if-modified-since") == modified:
        return 304
    return None


def _matches(listed: str, etag: str | None, weak: bool) -> bool:
    """Whether one of several ETags is this. Weak ones match if the comparison is weak."""
    if listed.strip() == "*":
        return True
    if etag is None:
        return False
    bare = [one.strip() for one in listed.split(",")]
    if weak:
        return etag.removeprefix("W/") in [one.removeprefix("W/") for one in bare]
    return not etag.startswith("W/") and etag in bare
