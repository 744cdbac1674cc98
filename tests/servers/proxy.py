"""A proxy that puts faults between a client and a server.

    with RangeServer(objects) as server, FaultProxy(server.url, script=["503", None, "reset_body"]) as proxy:
        ... proxy.url ...
        assert proxy.faults() == ["503", "reset_body"]

`script` names the fault of each request in the order in which they come, None for none; behind its end, and
without one, `faults` holds a probability for each name. The names are those of `tests/servers/faults.py`.

What is drawn depends on `seed` and the request's number alone; with `by="request"` on its method, path and
range and on how often it came, so that it is the same in whatever order threads ask. After `at_most` faults a
request of the same method, path and range passes: a client that tries often enough has its answer. Methods
other than GET and HEAD pass unharmed, except `on_writes`.

A refused connection is `with proxy.down()`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from tests.servers.faults import AFTER, BEFORE, FAULTS, ON_WRITES, End, Reply, Steps, Times, wire
from tests.servers.http1 import LIMIT, Malformed, Request, Served, read_body, read_head, read_request


class Passed(NamedTuple):
    """One request, and what befell it."""

    method: str
    path: str
    range: str | None
    fault: str | None


class FaultProxy(Served):
    """The proxy: `url`, and `log` of every request."""

    def __init__(
        self,
        upstream: str,
        faults: Mapping[str, float] | None = None,
        *,
        script: Sequence[str | None] = (),
        seed: int = 0,
        by: Literal["index", "request"] = "index",
        at_most: int | None = None,
        on_writes: bool = False,
        times: Times | None = None,
    ) -> None:
        super().__init__()
        table = dict(faults or {})
        unknown = {*table, *script} - {*FAULTS, None}
        if unknown or sum(table.values()) > 1 + 1e-9:
            raise ValueError(f"no such faults, or probabilities above 1: {unknown or table}")
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._table, self._script, self._seed, self._by = table, tuple(script), seed, by
        self._at_most, self._on_writes, self._times = at_most, on_writes, times or Times()
        self.forget()

    def forget(self) -> None:
        """Begin anew: the next request is the first."""
        self.log: list[Passed] = []
        self._came: Counter[tuple[str, str, str | None]] = Counter()
        self._hit: Counter[tuple[str, str, str | None]] = Counter()

    def faults(self) -> list[str]:
        """The faults of all requests, in their order."""
        return [one.fault for one in self.log if one.fault is not None]

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, with one of its own to the server."""
        writer.transport.set_write_buffer_limits(0)  # `drain` waits for all of it: a reset drops nothing
        server = _Server(*self._upstream)
        try:
            while (request := await read_request(reader, writer)) is not None:
                steps = await self._steps(request, server)
                if not await _take(steps, writer) or not request.stays:
                    return
        finally:
            server.close()

    async def _steps(self, request: Request, server: _Server) -> Steps:
        name, index = self._draw(request), len(self.log)
        same = (request.method, request.target, request.headers.get("range"))
        self.log.append(Passed(*same, name))
        if name is not None:
            self._hit[same] += 1  # now, for others come before the server has answered
        if name in BEFORE:
            return BEFORE[name](request, self._times)
        reply = await server.ask(request, without="range" if name == "whole" else "")
        steps = AFTER[name](reply, self._times) if name is not None else None
        if steps is None and name is not None:
            self.log[index] = Passed(*same, None)
            self._hit[same] -= 1
        return [wire(reply)] if steps is None else steps

    def _draw(self, request: Request) -> str | None:
        same = (request.method, request.target, request.headers.get("range"))
        index, nth = len(self.log), self._came[same]
        self._came[same] += 1
        reads = request.method in ("GET", "HEAD")
        if not reads and not self._on_writes:
            return None
        if index < len(self._script):
            name = self._script[index]
        elif self._at_most is not None and self._hit[same] >= self._at_most:
            return None
        else:
            drawn = random.Random(f"{self._seed} {index if self._by == 'index' else (*same, nth)}").random()
            name = None
            for one, probability in self._table.items():
                drawn -= probability
                if drawn < 0:
                    name = one
                    break
        if (name == "whole" and same[2] is None) or not (reads or name in ON_WRITES):
            return None
        return name


class _Server:
    """The server's end: a connection that is opened when it is needed."""

    def __init__(self, host: str | None, port: int | None) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request, without: str = "") -> Reply:
        """The server's answer, its body whole."""
        dropped = ("expect", "transfer-encoding", "connection", "content-length", without)
        headers = {name: value for name, value in request.headers.items() if name not in dropped}
        if request.body or request.method in ("PUT", "POST"):
            headers["content-length"] = str(len(request.body))
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        sent = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=LIMIT)
        reader, writer = self._streams
        writer.write(sent)
        await writer.drain()
        head = await read_head(reader)
        if head is None:
            raise Malformed("the server hung up")
        line, told = head
        status = int(line.split(" ")[1])
        bare = request.method == "HEAD" or status in (204, 304)
        body = b"" if bare else await read_body(reader, told)
        stays = body is not None and "close" not in told.get("connection", "").lower()
        if body is None:
            body = await reader.read()
        if not stays:
            self.close()
        kept = {
            name: value for name, value in told.items() if name not in ("transfer-encoding", "connection")
        }
        if not bare:
            kept["content-length"] = str(len(body))
        return Reply(status, kept, body)

    def close(self) -> None:
        """No more is asked, or on another connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _take(steps: Steps, writer: asyncio.StreamWriter) -> bool:
    """Take the steps; whether the connection stays open."""
    for step in steps:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        else:
            if step is End.RESET:
                peer = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            return False
    return True
