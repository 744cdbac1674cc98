"""fsspec as a transport: what is held of an answer, what is said of a failure, and that nothing else of the
process is touched."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import fsspec
import pytest

from gpuzarr.errors import ArgumentError, ForbiddenError, StoreError
from gpuzarr.store.base import Request, Store, WritableStore
from gpuzarr.store.remote import RemoteStore
from gpuzarr.store.remote.fsspec import Fsspec
from gpuzarr.store.urls import open_store
from tests.servers.ranges import RangeServer

SECRET = "do-not-show-this"
BODY = bytes(range(200))
FSSPEC = {"backend": "fsspec"}


def _s3(server: RangeServer, **more: Any) -> dict[str, Any]:
    return {"key": "key", "secret": SECRET, "endpoint_url": server.url, **FSSPEC, **more}


def _read(store: Store, key: str, start: int = 0, nbytes: int | None = None) -> bytes | None:
    (found,) = store.get_ranges([Request(key, start, nbytes)])
    return None if found is None else bytes(found)


def _fsspecs(store: Store) -> Any:
    """The file system that a store asks."""
    assert isinstance(store, RemoteStore)
    return store.transport.fs  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuzarr.store.remote.retry.random.uniform", lambda least, most: 0.0)


Handler = http.server.BaseHTTPRequestHandler


@contextlib.contextmanager
def _served(answer: Callable[[Handler], None]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as it is told to, and the requests that came."""
    seen: list[str] = []

    class Told(Handler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            seen.append(f"{self.command} {self.path}")
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(status: int, body: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    def send(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return send


def test_a_write_to_nowhere_fails() -> None:
    with RangeServer({"bucket/a": b"1"}, s3=True) as server:
        store = open_store("s3://bucket/", _s3(server))
        assert isinstance(store, WritableStore)

        def nowhere(*_: Any, **__: Any) -> None:
            raise FileNotFoundError("The specified bucket does not exist")

        _fsspecs(store).pipe_file = nowhere
        with pytest.raises(StoreError, match="no such bucket or directory"):
            store.put([("b", b"2")])
        _fsspecs(store).rm_file = nowhere
        store.delete(["b"])


def test_keys_that_urls_escape() -> None:
    """Each is read as itself, and beside a query."""
    keys = ["a b", "a%20b", "a%b", "a#b", "a?b", "a+b", "é", "a&b<c>", "[z]", "~x", "c..d", "a=b;c,d@e:f$!"]
    held = {f"d/{key}": key.encode() for key in [*keys, "a"]}
    with RangeServer(held, listing=True) as server:
        for url in (server.url, f"{server.url}?sig=a%2Bb%3D"):
            store = open_store(url, FSSPEC)
            assert [_read(store, f"d/{key}") for key in keys] == [key.encode() for key in keys]
            assert all(store.exists(f"d/{key}") for key in keys)
            assert sorted(store.list("d/")) == sorted(held)
            assert sorted(store.list_dir("d/")) == sorted([*keys, "a"])
            assert list(store.list_dir()) == ["d"]
        assert server.seen[-1].path == "/?sig=a%2Bb%3D"
        assert {f"/d/{quote(key)}?sig=a%2Bb%3D" for key in keys} <= {one.path for one in server.seen}


def test_other_file_systems_of_http_are_given_quoted_paths() -> None:
    class Another:
        def cat_file(self, path: str, start: int, end: int | None) -> bytes:
            return path.encode()

    transport = Fsspec(Another(), "http://h/", None, (), "?sig=1")
    got = transport.get("a b#", 0, None, None, None, lambda nbytes: None)
    assert got is not None
    assert bytes(got.data) == b"http://h/a%20b%23?sig=1"


def test_no_more_than_was_asked_for_is_taken() -> None:
    """An endless answer to a request for a hundred bytes ends."""
    sent = 0

    def endless(handler: Handler) -> None:
        nonlocal sent
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-99/1000")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = bytes(1 << 16)
        with contextlib.suppress(OSError):
            while sent < 1 << 29:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                sent += len(piece)
        handler.close_connection = True

    with _served(endless) as (url, seen):
        with pytest.raises(StoreError, match="more than the 100 bytes came that were asked for"):
            _read(open_store(url, FSSPEC), "k", 0, 100)
        assert len(seen) == 4
        assert sent < 1 << 27  # what lies in buffers on the way, of four tries


def test_an_answer_without_a_length() -> None:
    """It is taken to its end, if that comes."""

    def untold(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(BODY)
        handler.close_connection = True

    with _served(untold) as (url, _):
        assert _read(open_store(url, FSSPEC), "k") == BODY
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gpuzarr.store.remote.fsspec._UNTOLD_NBYTES", 100)
            with pytest.raises(StoreError, match="does not say how many"):
                _read(open_store(url, FSSPEC), "k")


def test_s3_that_sends_more_than_was_asked_for() -> None:
    with RangeServer({"bucket/a": BODY}, s3=True, ranges=False) as server:
        store = open_store("s3://bucket", _s3(server))
        with pytest.raises(StoreError, match="tried 4 times"):
            _read(store, "a", 0, 10)
        assert server.requests == 4


@pytest.mark.parametrize(("start", "nbytes"), [(0, 10), (10, 1000), (10, None), (-5, 5), (-1000, None)])
def test_a_server_without_ranges(start: int, nbytes: int | None) -> None:
    """A whole object is never taken for a part, also not where it is no longer than that."""
    with RangeServer({"a": BODY}, ranges=False) as server:
        store = open_store(server.url, FSSPEC)
        with pytest.raises(StoreError, match="the whole object instead of a part"):
            _read(store, "a", start, nbytes)
        assert server.requests == 4
        assert _read(store, "a") == _read(store, "a", 0, 200) == _read(store, "a", 0, 300) == BODY


def test_a_range_from_elsewhere() -> None:
    with _served(_answer(206, b"12345", Content_Range="bytes 7-11/200")) as (url, _):
        with pytest.raises(StoreError, match="5 bytes came from 7 on, of 200"):
            _read(open_store(url, {**FSSPEC, "deadline": 0.2}), "a", 3, 5)
        assert _read(open_store(url, FSSPEC), "a", 7, 5) == b"12345"


def test_missing_objects_leave_the_connection_open() -> None:
    with RangeServer({"a": BODY}) as server:
        store = open_store(server.url, FSSPEC)
        assert [_read(store, key) for key in "bcda"] == [None, None, None, BODY]
        assert (server.requests, server.connections) == (4, 1)


@pytest.mark.parametrize("status", [400, 401, 500])
def test_whether_an_object_exists_is_not_guessed(status: int) -> None:
    """fsspec says of every failure that the file is not found."""
    kind = ForbiddenError if status == 401 else StoreError
    with _served(_answer(status)) as (url, _), pytest.raises(kind, match=str(status)):
        open_store(url, {**FSSPEC, "deadline": 0.2}).exists("a")


def test_old_listings_do_not_count() -> None:
    """Neither ours nor those of others who use the same file system."""
    held = {"bucket/d/a": b"1"}
    with RangeServer(held, s3=True) as server:
        store = open_store("s3://bucket", _s3(server))
        assert list(store.list("d/")) == ["d/a"]
        assert list(store.list_dir("d/")) == ["a"]
        held["bucket/d/b"] = b"2"
        assert store.exists("d/b")
        del held["bucket/d/a"]
        assert list(store.list_dir("d/")) == ["b"]
        assert not store.exists("d/a")
        assert list(store.list("d/")) == ["d/b"]


def test_tries_are_counted_once() -> None:
    """s3fs and botocore would each try five times."""
    with RangeServer({}, s3=True, capacity=0) as server:
        with pytest.raises(StoreError, match="tried 4 times"):
            _read(open_store("s3://bucket", _s3(server)), "a")
        assert server.requests == 4


def test_file_systems_of_others_stay_as_they_are() -> None:
    with RangeServer({"bucket/a": b"1"}, s3=True) as server:
        options = {"key": "key", "secret": SECRET, "endpoint_url": server.url}
        theirs = fsspec.filesystem("s3", **options)
        ours = _fsspecs(open_store("s3://bucket", {**options, **FSSPEC}))
        assert ours is not theirs
        assert (ours.retries, theirs.retries) == (1, type(theirs).retries)
        assert "retries" not in theirs.config_kwargs
        assert fsspec.filesystem("s3", **options) is theirs
        given = {**options, **FSSPEC, "config_kwargs": {"retries": {"max_attempts": 2}}}
        assert _fsspecs(open_store("s3://bucket", given)).config_kwargs["retries"] == {"max_attempts": 2}


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_nobody_answers(scheme: str) -> None:
    with socket.socket() as bound:  # but it does not listen
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        options = {"key": "key", "secret": SECRET, "endpoint_url": url} if scheme == "s3" else {}
        store = open_store("s3://bucket" if scheme == "s3" else url, {**options, **FSSPEC})
        with pytest.raises(StoreError, match=r"tried 3 times.*is the name of the host right"):
            _read(store, "a")


def test_a_wrong_option_is_said_at_once() -> None:
    with RangeServer({}, s3=True) as server:
        store = open_store("s3://bucket", _s3(server, annon=True))
        with pytest.raises(ArgumentError, match="annon"):
            _read(store, "a")
        assert server.requests == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_signatures_stay_where_they_are(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """They are in no error, behind no error, and in no log."""
    caplog.set_level(logging.DEBUG)
    with _served(_answer(status)) as (url, seen):
        store = open_store(f"{url}/a?sig={SECRET}", {**FSSPEC, "deadline": 0.1})
        told: BaseException | None = None
        try:
            assert _read(store, "k") is None
        except StoreError as error:
            told = error
        assert (told is None) == (status == 404)
        while told is not None:
            assert SECRET not in f"{told!s}{told!r}"
            assert type(told).__module__.startswith("gpuzarr")
            told = told.__cause__ or told.__context__
        assert seen[0] == f"GET /a/k?sig={SECRET}"
    assert SECRET not in caplog.text
    assert SECRET not in repr(store)


def test_links_without_an_end() -> None:
    """Directories that lie in one another for ever, whoever asks for them."""
    for backend in ("fsspec", "obstore"):
        with _served(_answer(200, b'<a href="a/">a</a>', Content_Type="text/html")) as (url, seen):
            with pytest.raises(StoreError, match="more than 64 deep"):
                list(open_store(url, {"backend": backend}).list())
            assert len(seen) == 65


def test_archives_take_our_options() -> None:
    """They are read by fsspec, which knows none of ours."""
    with RangeServer({"bucket/x.zip": b"no archive"}, s3=True) as server:
        ours = {"timeout": 5.0, "deadline": 9.0, "missing_on_403": True, "concurrency": 4, "coalesce_gap": 1}
        with pytest.raises(StoreError, match="not a zip archive"):
            open_store("s3://bucket/x.zip", _s3(server, **ours, request_nbytes=9))
        with pytest.raises(ArgumentError, match="annon") as told:
            open_store("s3://bucket/x.zip", _s3(server, annon=True))
        assert told.value.__cause__ is told.value.__context__ is None


def test_urls_of_archives_hide_passwords() -> None:
    with pytest.raises(StoreError) as told:
        open_store(f"zip::http://user:{SECRET}@127.0.0.1:9/x.tar?sig={SECRET}")
    assert SECRET not in str(told.value)
    assert told.value.__context__ is None


def test_our_file_system_is_made_once_for_one_host() -> None:
    with RangeServer({"a": BODY}) as server:
        one, other = (open_store(f"{server.url}/{name}", FSSPEC) for name in "ab")
        assert _fsspecs(one) is _fsspecs(other)
