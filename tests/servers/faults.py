"""What can go wrong between a client and a server, as pure functions: from a request, and the answer that it
would have had, to the steps that its connection sees. `proxy` takes them.

A step is bytes to send, a float of seconds to wait, or how the connection ends; where no step ends it, it
goes on. A fault that does not apply (a body to cut where there is none) gives None, and nothing is injected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tests.servers.http1 import Headers, Request, head_of


class End(Enum):
    """How a connection ends."""

    CLOSE = "as if all had been said"
    RESET = "at once: the client sees ECONNRESET"


Step = bytes | float | End
Steps = list[Step]


class Reply(NamedTuple):
    """The server's answer."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Times:
    """What faults take from whoever makes the proxy."""

    stall: float = 30.0
    """Seconds for which a connection says nothing; then it is closed."""
    pause: float = 0.01
    """Seconds between the pieces of a slow body, of which there are eight."""
    retry_after: str = "0"
    """The Retry-After of `429_after` and `503_after`: seconds, or a date."""


def wire(reply: Reply, headers: Headers | None = None, body: bytes | None = None) -> bytes:
    """A reply as it is sent. Content-Length is the server's, whatever the body is."""
    told = reply.headers if headers is None else headers
    return head_of(reply.status, told.items()) + (reply.body if body is None else body)


# ---- instead of the server, which never sees the request

Before = Callable[[Request, Times], Steps]


def _status(status: int, code: str, after: bool = False) -> Before:
    def steps(request: Request, times: Times) -> Steps:
        body = b"" if request.method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        headers = {"content-type": "application/xml", "content-length": str(len(body))}
        if after:
            headers["retry-after"] = times.retry_after
        return [head_of(status, headers.items()) + body]

    return steps


def _timeout(request: Request, times: Times) -> Steps:
    return [*_status(408, "RequestTimeout")(request, times), End.CLOSE]


def _redirect(request: Request, times: Times) -> Steps:
    location = f"http://{request.headers.get('host', '')}{request.target}"
    return [head_of(307, [("Location", location), ("Content-Length", "0")])]


BEFORE: dict[str, Before] = {
    "reset_before": lambda request, times: [End.RESET],
    "stall": lambda request, times: [times.stall, End.CLOSE],
    "garbage": lambda request, times: [b"HTTP/9 what? \x00\xff\r\nno header\r\n\r\n", End.CLOSE],
    "redirect": _redirect,
    "408": _timeout,
    "429": _status(429, "TooManyRequests"),
    "429_after": _status(429, "TooManyRequests", after=True),
    "500": _status(500, "InternalError"),
    "502": _status(502, "BadGateway"),
    "503": _status(503, "SlowDown"),
    "503_after": _status(503, "SlowDown", after=True),
}

# ---- with the server's answer

After = Callable[[Reply, Times], Steps | None]


def _half(reply: Reply) -> bytes:
    return reply.body[: len(reply.body) // 2]


def _broken(*end: Step) -> After:
    """Half of the body under the right head, then this."""
    return lambda reply, times: [wire(reply, body=_half(reply)), *end] if reply.body else None


def _stall_body(reply: Reply, times: Times) -> Steps | None:
    return [wire(reply, body=_half(reply)), times.stall, End.CLOSE] if reply.body else None


def _slow(reply: Reply, times: Times) -> Steps | None:
    if not reply.body:
        return None
    steps: Steps = [wire(reply, body=b"")]
    piece = -(-len(reply.body) // 8)
    for start in range(0, len(reply.body), piece):
        steps += [times.pause, reply.body[start : start + piece]]
    return steps


def _cut_chunked(reply: Reply, times: Times) -> Steps | None:
    """Only Content-Range tells; so a 200, where nothing does, is left alone."""
    if reply.status != 206 or not reply.body:
        return None
    headers = {name: value for name, value in reply.headers.items() if name != "content-length"}
    headers["transfer-encoding"] = "chunked"
    half = _half(reply)
    chunk = b"%x\r\n%s\r\n" % (len(half), half) if half else b""
    return [wire(reply, headers, chunk + b"0\r\n\r\n")]


def _content_range(reply: Reply, times: Times) -> Steps | None:
    """The right bytes, said to be those one further on."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\S+)", reply.headers.get("content-range", ""))
    if reply.status != 206 or match is None:
        return None
    first, last, size = match.groups()
    moved = f"bytes {int(first) + 1}-{int(last) + 1}/{size}"
    return [wire(reply, {**reply.headers, "content-range": moved})]


def _longer(reply: Reply, times: Times) -> Steps | None:
    """More bytes than Content-Range says, and a Content-Length to match."""
    if reply.status != 206:
        return None
    body = reply.body + b"more"
    return [wire(reply, {**reply.headers, "content-length": str(len(body))}, body)]


def _etag(reply: Reply, times: Times) -> Steps | None:
    return [wire(reply, {**reply.headers, "etag": f'"{"0" * 32}"'})] if "etag" in reply.headers else None


AFTER: dict[str, After] = {
    "reset": lambda reply, times: [End.RESET],  # a PUT is stored, and its client is not told
    "reset_body": _broken(End.RESET),
    "cut": _broken(End.CLOSE),
    "stall_body": _stall_body,
    "slow": _slow,
    "cut_chunked": _cut_chunked,
    "content_range": _content_range,
    "longer": _longer,
    "whole": lambda reply, times: [wire(reply)],  # the proxy asks without Range
    "etag": _etag,
}

FAULTS = (*BEFORE, *AFTER)
STALLS = ("stall", "stall_body")
"""These take the client's whole timeout, each time."""
LIES = ("cut_chunked", "content_range", "longer", "whole", "etag")
"""Answers that HTTP allows and that are not what was asked for."""
ON_WRITES = (*BEFORE, "reset")
"""What happens to a PUT, POST or DELETE too."""
