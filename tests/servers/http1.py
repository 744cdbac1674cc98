"""HTTP/1.1 from the side of a server: messages read from a stream, heads written, and a thread with a loop of
its own in which a server lives between `with` and its end.

It knows nothing of files or ranges. A message that is not HTTP raises Malformed; nothing else is refused, for
clients here are the ones under test, and nobody else is on this address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from http import HTTPStatus
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote

LIMIT = 1 << 20
"""Bytes of a stream that wait to be read; no head is longer."""

Headers = dict[str, str]
"""By their names in lower case."""


class Malformed(Exception):
    """What came is not HTTP."""


class Request(NamedTuple):
    """One request, its body read and out of its transfer coding."""

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes

    @property
    def key(self) -> str:
        """The path without its first `/`, decoded."""
        return unquote(self.target.partition("?")[0]).removeprefix("/")

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the `?`; the last of several values."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def stays(self) -> bool:
        """Whether the connection stays open behind the answer."""
        named = self.headers.get("connection", "").lower()
        return "close" not in named and (self.version != "HTTP/1.0" or "keep-alive" in named)


class Answer(NamedTuple):
    """One answer. A `HEAD` has the Content-Length of its `GET` (`nbytes`) and no body."""

    status: int
    headers: Iterable[tuple[str, str]] = ()
    body: bytes | memoryview = b""
    nbytes: int | None = None


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection, None where it ends."""
    head = await read_head(reader)
    if head is None:
        return None
    line, headers = head
    try:
        method, target, version = line.split(" ")
    except ValueError:
        raise Malformed(line) from None
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, target, version, headers, await read_body(reader, headers) or b"")


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Headers] | None:
    """The first line of a message and its headers."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Malformed("a head without an end") from None
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for one in rest:
        name, _, value = one.partition(":")
        headers[name.lower()] = value.strip()
    return line, headers


async def read_body(reader: asyncio.StreamReader, headers: Headers) -> bytes | None:
    """A message's body; None where no header says how long it is."""
    try:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = b"".join([piece async for piece in _chunks(reader)])
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            return None
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise Malformed("a body that breaks off") from None
    return body


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while nbytes := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(nbytes + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers


def head_of(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of an answer."""
    lines = [
        f"HTTP/1.1 {status} {_PHRASES.get(status, '')}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Served:
    """A server in a thread of its own, from `with` to its end. Connections that are open then are reset."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        """How many were opened."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it is, without a `/` at the end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        listening = _listen(self.port)
        self.port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(listening))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    async def _serve(self, listening: socket.socket) -> None:
        self._main = asyncio.current_task()
        await self._accept(listening)
        await self._stop.wait()
        await self._hang_up()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens: connections that are open are reset, new ones refused."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._accept(_listen(self.port)), self._loop).result()

    async def _accept(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._connected, sock=listening, limit=LIMIT)

    async def _hang_up(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task(), self._main}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in which transports close their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, Malformed, asyncio.CancelledError):
                await self.talk(reader, writer)
                writer.close()
                await writer.wait_closed()  # what was written still goes out
        finally:
            writer.transport.abort()


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=1024)
