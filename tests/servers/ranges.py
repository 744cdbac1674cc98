"""An HTTP/1.1 server of byte ranges: of a dict or of a directory, with every request noted.

    with RangeServer({"a/zarr.json": b"{}"}, latency=0.01) as server:
        ... server.url ...
        assert [(one.path, one.range, one.status) for one in server.seen] == ...

What it does differently from a good server is asked for by `Switches`, at the start or, by
`server.switch(...)`, at any time. With `s3=True` paths are `/bucket/key`, and `tests/servers/buckets.py` adds
what S3 clients need. Benchmarks take the server in a process of its own, `tests/servers/apart.py`.

Ranges follow RFC 9110: one range gives 206, one that is not satisfiable 416, and one that is malformed, in
another unit or of several parts is ignored.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.servers import buckets
from tests.servers.conditions import span, unmet
from tests.servers.http1 import Answer, Request, Served, head_of, read_request
from tests.servers.objects import Found, objects_of


@dataclass(frozen=True, slots=True)
class Switches:
    """How a server behaves. All of it holds from the next request on."""

    ranges: bool = True
    """False: every object comes whole, with status 200."""
    etag: str | None = "strong"
    """"strong", "weak", or None: there are none."""
    missing: int = 404
    """The status where there is no such object: S3 has 403 for whoever may not list."""
    forbidden: tuple[str, ...] = ()
    """Keys and beginnings of keys that give 403."""
    user: str | None = None
    """"name:password": who is asked for by Basic authentication."""
    token: str | None = None
    """Who is asked for by a Bearer token."""
    access_key: str | None = None
    """Who has to sign, as S3 clients do. The signature itself is not looked at."""
    listing: bool = False
    """Whether a path that ends with `/` gives links to what is below."""
    s3: bool = False
    """Whether buckets can be listed and written. Those of a directory are the directories in it."""
    latency: float = 0.0
    """Seconds before each answer. Any number of requests wait at once."""
    bandwidth: float | None = None
    """Bytes a second for each connection."""
    capacity: int | None = None
    """Requests in flight above which the answer is 503 SlowDown."""


class Seen(NamedTuple):
    """One request and its answer."""

    method: str
    path: str
    """As it was sent, with its query."""
    range: str | None
    """The header: "bytes=0-99"."""
    status: int
    nbytes: int
    """Those of the body of the answer."""


class RangeServer(Served):
    """The server: `url`, `seen`, and `objects`, which may be changed while it runs."""

    def __init__(self, source: MutableMapping[str, bytes] | str | os.PathLike[str], **switches: Any) -> None:
        super().__init__()
        self.objects = objects_of(source)
        self.switches = Switches(**switches)
        self.uploads = buckets.Uploads()
        self.keep = True
        """Whether requests are kept in `seen`, or counted alone."""
        self._open = asyncio.Event()
        self._open.set()
        self.in_flight = 0
        """Requests that came and were not answered yet."""
        self.forget()

    def switch(self, **switches: Any) -> None:
        """Behave differently from now on."""
        self.switches = replace(self.switches, **switches)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No answer goes out meanwhile: `in_flight` tells how many requests come at once."""
        self._open.clear()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._open.set)

    def forget(self) -> None:
        """Begin to count anew."""
        self.seen: list[Seen] = []
        self.requests = 0
        self.nbytes = 0
        self.connections = 0
        self.most_in_flight = 0

    def counts(self) -> dict[str, int]:
        """Sums: requests, bytes of answers, connections opened, requests in flight at most."""
        names = ("requests", "nbytes", "connections", "most_in_flight")
        return {name: getattr(self, name) for name in names}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: requests one behind the other."""
        while (request := await read_request(reader, writer)) is not None:
            switches = self.switches
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            with contextlib.ExitStack() as flying:
                flying.callback(self._landed)
                full = switches.capacity is not None and self.in_flight > switches.capacity
                await self._open.wait()
                if switches.latency:
                    await asyncio.sleep(switches.latency)
                answer = buckets.error(503, "SlowDown") if full else self._answer(request, switches)
                self._note(request, answer)
                await _send(writer, request, answer, switches.bandwidth, flying.close)
            if not request.stays:
                return

    def _landed(self) -> None:
        self.in_flight -= 1

    def _note(self, request: Request, answer: Answer) -> None:
        """Before the answer goes out: whoever has it finds it noted."""
        sent = 0 if request.method == "HEAD" else len(answer.body)
        self.requests += 1
        self.nbytes += sent
        if self.keep:
            asked = request.headers.get("range")
            self.seen.append(Seen(request.method, request.target, asked, answer.status, sent))

    def _answer(self, request: Request, switches: Switches) -> Answer:
        try:
            return self.answer(request, switches)
        except Exception:
            return Answer(500, [("Content-Type", "text/plain")], traceback.format_exc().encode())

    def answer(self, request: Request, switches: Switches) -> Answer:
        """What a request gives. No waiting."""
        refused = _refused(request, switches)
        if refused is not None:
            return refused
        if switches.s3:
            answer = buckets.answer(self.objects, self.uploads, request)
            if answer is not None:
                return answer
        if request.method not in ("GET", "HEAD"):
            return Answer(405, [("Allow", "GET, HEAD")])
        found = self.objects.find(request.key)
        if found is not None:
            try:
                return _get(found, request, switches)
            finally:
                found.close()
        if switches.listing and (request.key.endswith("/") or not request.key):
            return self._links(request.key)
        if switches.listing and any(key.startswith(request.key + "/") for key in self.objects.every_key()):
            return Answer(301, [("Location", quote(f"/{request.key}/"))])  # as nginx does
        return buckets.error(switches.missing, "NoSuchKey" if switches.missing == 404 else "AccessDenied")

    def _links(self, prefix: str) -> Answer:
        below = (key.removeprefix(prefix) for key in self.objects.every_key() if key.startswith(prefix))
        names = dict.fromkeys(rest.partition("/")[0] + rest.partition("/")[1] for rest in below)
        links = "".join(f'<a href="{quote(name)}">{escape(name)}</a>\n' for name in names)
        return Answer(200, [("Content-Type", "text/html; charset=utf-8")], links.encode())


def _refused(request: Request, switches: Switches) -> Answer | None:
    """401 or 403, where the request lacks what the switches ask for."""
    given = request.headers.get("authorization", "")
    if switches.user is not None:
        if given != "Basic " + base64.b64encode(switches.user.encode()).decode():
            return Answer(401, [("WWW-Authenticate", 'Basic realm="test"')])
    elif switches.token is not None:
        if given != f"Bearer {switches.token}":
            return Answer(401, [("WWW-Authenticate", "Bearer")])
    elif switches.access_key is not None:
        if not given.startswith("AWS4-HMAC-SHA256") and "X-Amz-Signature" not in request.target:
            return buckets.error(403, "AccessDenied")
        if f"{switches.access_key}/" not in given + request.query.get("X-Amz-Credential", ""):
            return buckets.error(403, "InvalidAccessKeyId")
    if switches.forbidden and request.key.startswith(switches.forbidden):
        return buckets.error(403, "AccessDenied")
    return None


def _get(found: Found, request: Request, switches: Switches) -> Answer:
    etag = {"strong": f'"{found.etag}"', "weak": f'W/"{found.etag}"', None: None}[switches.etag]
    modified = formatdate(found.modified, usegmt=True)
    headers = [("Last-Modified", modified), ("Content-Type", "application/octet-stream")]
    if etag is not None:
        headers.append(("ETag", etag))
    if switches.ranges:
        headers.append(("Accept-Ranges", "bytes"))
    failed = unmet(request, etag, modified)
    if failed is not None:
        return buckets.error(412, "PreconditionFailed") if failed == 412 else Answer(304, headers)
    if request.method == "HEAD":
        return Answer(200, headers, nbytes=found.nbytes)
    asked = request.headers.get("range")
    if asked is not None and switches.ranges:
        unless = request.headers.get("if-range")
        part = span(asked, found.nbytes)
        if part is not None and (
            unless is None or (unless in (etag, modified) and not unless.startswith("W/"))
        ):
            if not part:
                size = ("Content-Range", f"bytes */{found.nbytes}")
                return buckets.error(416, "InvalidRange", size)
            headers.append(("Content-Range", f"bytes {part[0]}-{part[-1]}/{found.nbytes}"))
            return Answer(206, headers, found.read(part.start, part.stop))
    return Answer(200, headers, found.read(0, found.nbytes))


async def _send(
    writer: asyncio.StreamWriter,
    request: Request,
    answer: Answer,
    bandwidth: float | None,
    landed: Callable[[], None],
) -> None:
    """Send an answer. `landed` comes right before its last bytes, so a client that sends one request after
    the other never has two in flight."""
    headers = list(answer.headers)
    if answer.status not in (204, 304):
        headers.append(("Content-Length", str(len(answer.body) if answer.nbytes is None else answer.nbytes)))
    if not request.stays:
        headers.append(("Connection", "close"))
    head = head_of(answer.status, headers)
    body = b"" if request.method == "HEAD" else answer.body
    if bandwidth is not None:
        body, rest = body[:-1], body[-1:]
        await _send_slowly(writer, head, body, bandwidth)
        landed()
        writer.write(rest)
        await writer.drain()
    elif len(body) < 1 << 16:
        landed()
        writer.write(head + body)
        await writer.drain()
    else:
        writer.write(head)
        landed()
        writer.write(body)
        await writer.drain()


async def _send_slowly(
    writer: asyncio.StreamWriter, head: bytes, body: bytes | memoryview, bandwidth: float
) -> None:
    """Pieces of some milliseconds, each when it is due: the pauses do not add up their errors."""
    clock = asyncio.get_running_loop().time
    began = clock()
    piece = max(int(bandwidth / 200), 1)
    writer.write(head)
    for start in range(0, len(body), piece):
        writer.write(body[start : start + piece])
        await writer.drain()
        await asyncio.sleep(max(began + (start + piece) / bandwidth - clock(), 0))
