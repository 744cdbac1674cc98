"""The servers that other tests rely on, asked by http.client, raw sockets and boto3."""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import socket
import struct
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.servers.apart import RangeProcess
from tests.servers.faults import AFTER, BEFORE, FAULTS, ON_WRITES, Times
from tests.servers.http1 import Served
from tests.servers.proxy import FaultProxy
from tests.servers.ranges import RangeServer, Seen
from tests.servers.s3 import S3Server

WHOLE = bytes(range(250))
Reply = tuple[int, http.client.HTTPMessage, bytes]

needs_moto = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")),
    reason="moto, flask and flask-cors are not installed",
)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, timeout: float = 5, **headers: str
) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return on(connection, method, path, body, **headers)
    finally:
        connection.close()


def on(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> Reply:
    """One request. `If_Match` is the header If-Match."""
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


# ---- ranges


@pytest.fixture(params=["dict", "directory"])
def ranges(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    objects = {"a/zarr.json": b"{}", "a/c/0": WHOLE, "empty": b"", "b c/é%": b"name"}
    for key, value in objects.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    with RangeServer(objects if request.param == "dict" else tmp_path) as server:
        yield server


RANGES = {
    "bytes=0-0": slice(0, 1),
    "bytes=10-19": slice(10, 20),
    "bytes=240-": slice(240, None),
    "bytes=240-1000": slice(240, None),
    "bytes=-7": slice(-7, None),
    "bytes=-999999999999999999": slice(None),
    "bytes=249-249": slice(249, None),
}
IGNORED = ("bytes=9-3", "bytes=-", "bytes=", "bytes=0-1,5-6", "items=0-3", "bytes=a-b", "0-3")


def test_ranges(ranges: RangeServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", ranges.port, timeout=5)
    for asked, part in RANGES.items():
        status, headers, body = on(connection, "GET", "/a/c/0", Range=asked)
        first, stop, _ = part.indices(250)
        assert (status, body) == (206, WHOLE[part]), asked
        assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/250"
    for asked in IGNORED:
        assert on(connection, "GET", "/a/c/0", Range=asked)[::2] == (200, WHOLE), asked
    for path, asked in (("/a/c/0", "bytes=250-"), ("/a/c/0", "bytes=-0"), ("/empty", "bytes=-3")):
        status, headers, _ = on(connection, "GET", path, Range=asked)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{250 if path != '/empty' else 0}"), asked
    status, headers, body = on(connection, "HEAD", "/a/c/0")
    assert (status, headers["Content-Length"], headers["Accept-Ranges"], body) == (200, "250", "bytes", b"")
    assert on(connection, "GET", "/b%20c/%C3%A9%25")[::2] == (200, b"name")
    assert on(connection, "GET", "/empty")[::2] == (200, b"")
    connection.close()
    count = len(RANGES) + len(IGNORED) + 6
    assert ranges.counts() | {"nbytes": 0} == {
        "requests": count,
        "nbytes": 0,
        "connections": 1,  # it stays open
        "most_in_flight": 1,
    }
    assert ranges.seen[1] == Seen("GET", "/a/c/0", "bytes=10-19", 206, 10)
    assert ranges.nbytes == sum(one.nbytes for one in ranges.seen)


def test_what_is_not_there(ranges: RangeServer) -> None:
    for path in ("/nothing", "/a", "/a/", "/", "/a/c/0/1", "/../a/c/0", "//etc/passwd", "/a/../a/c/0"):
        assert ask(ranges.port, "GET", path)[0] == 404, path
    assert ask(ranges.port, "PUT", "/a/c/0", b"x")[0] == 405
    ranges.switch(missing=403, forbidden=("a/",), listing=True)
    assert [ask(ranges.port, "GET", path)[0] for path in ("/nothing", "/a/c/0", "/empty")] == [403, 403, 200]
    assert b'<a href="a/">a/</a>\n' in ask(ranges.port, "GET", "/")[2]
    assert b'href="%C3%A9%25"' in ask(ranges.port, "GET", "/b%20c/")[2]


def test_conditions(ranges: RangeServer) -> None:
    _, headers, _ = ask(ranges.port, "HEAD", "/a/c/0")
    etag, modified = headers["ETag"], headers["Last-Modified"]

    def status(**conditions: Any) -> int:
        return ask(ranges.port, "GET", "/a/c/0", **conditions)[0]

    assert status(If_Match=etag, Range="bytes=0-3") == 206
    assert status(If_Match=f'"x", {etag}') == 200
    assert status(If_Match="*") == 200
    assert status(If_Match='"x"', Range="bytes=0-3") == 412
    assert status(If_None_Match=etag, Range="bytes=0-3") == 304
    assert status(If_None_Match=f"W/{etag}") == 304
    assert status(If_None_Match='"x"') == 200
    assert status(If_Modified_Since=modified) == 304
    assert status(If_Modified_Since=modified, If_None_Match='"x"') == 200
    assert status(If_Unmodified_Since="Thu, 01 Jan 1970 00:00:00 GMT") == 412
    for unless, got in ((etag, 206), (modified, 206), ('"x"', 200), (f"W/{etag}", 200)):
        assert status(If_Range=unless, Range="bytes=0-3") == got, unless
    ranges.switch(etag="weak")
    assert ask(ranges.port, "GET", "/a/c/0")[1]["ETag"] == f"W/{etag}"
    assert status(If_Match=f"W/{etag}") == 412  # a strong comparison
    assert status(If_None_Match=f"W/{etag}") == 304
    ranges.switch(etag=None, ranges=False)
    status_, headers, body = ask(ranges.port, "GET", "/a/c/0", Range="bytes=0-3")
    assert (status_, headers["ETag"], headers["Accept-Ranges"], body) == (200, None, None, WHOLE)


def test_a_changed_object_has_another_etag(tmp_path: Path) -> None:
    values = {"key": b"old"}
    (tmp_path / "key").write_bytes(b"old")
    for source in (values, tmp_path):
        with RangeServer(source) as server:
            old = ask(server.port, "GET", "/key")[1]["ETag"]
            assert ask(server.port, "GET", "/key")[1]["ETag"] == old
            values["key"] = b"new"
            (tmp_path / "other").write_bytes(b"new")
            (tmp_path / "other").replace(tmp_path / "key")
            status, headers, body = ask(server.port, "GET", "/key", If_None_Match=old)
            assert (status, body) == (200, b"new")
            assert headers["ETag"] != old


def test_who_may_ask() -> None:
    basic = "Basic " + base64.b64encode(b"me:secret").decode()
    signed = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, Signature=0"
    ways: list[tuple[dict[str, Any], str, str]] = [
        ({"user": "me:secret"}, basic, "Basic bm9ib2R5"),
        ({"token": "abc"}, "Bearer abc", "Bearer abcd"),
        ({"access_key": "AKID"}, signed, signed.replace("AKID", "OTHER")),
    ]
    for switches, right, wrong in ways:
        refused = 403 if "access_key" in switches else 401
        with RangeServer({"key": b"value"}, **switches) as server:
            assert ask(server.port, "GET", "/key", Authorization=right)[0] == 200
            assert ask(server.port, "GET", "/key", Authorization=wrong)[0] == refused
            assert ask(server.port, "GET", "/key")[0] == refused


def test_many_wait_at_once() -> None:
    with RangeServer({"key": b"x" * 5000}, latency=0.001) as server:
        threads = [threading.Thread(target=ask, args=(server.port, "GET", "/key")) for _ in range(8)]
        with server.held():
            for thread in threads:
                thread.start()
            until(lambda: server.in_flight == 8)
            assert server.seen == []
        for thread in threads:
            thread.join()
        assert server.counts() == {"requests": 8, "nbytes": 40_000, "connections": 8, "most_in_flight": 8}
        server.forget()
        server.switch(capacity=0, latency=0.0)
        assert ask(server.port, "GET", "/key")[0] == 503
        server.switch(capacity=None, bandwidth=1e6)
        assert ask(server.port, "GET", "/key")[::2] == (200, b"x" * 5000)


def test_connections() -> None:
    """What HTTP/1.1 says of them; nonsense ends one and no other."""
    with RangeServer({"key": b"value"}) as server:
        assert ask(server.port, "GET", "/key", Connection="close")[1]["Connection"] == "close"
        for sent, last in (
            (b"GET /key HTTP/1.1\r\n\r\nHEAD /key HTTP/1.1\r\n\r\nGET /key HTTP/1.0\r\n\r\n", b"value"),
            (b"nonsense\r\n\r\n", b""),
            (b"GET /key HTTP/1.1\r\nX: " + b"x" * 2_000_000, b""),
            (b"PUT /key HTTP/1.1\r\nContent-Length: -3\r\n\r\n", b""),
            (b"PUT /key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b""),
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                got = b""
                try:
                    connection.sendall(sent)
                    while piece := connection.recv(1 << 16):
                        got += piece
                except ConnectionError:
                    pass
                assert got.endswith(last), sent[:50]
                assert got.count(b"HTTP/1.1 200 OK\r\n") == (3 if last else 0)
        idle = socket.create_connection(("127.0.0.1", server.port))  # which the end of the server resets
        assert ask(server.port, "GET", "/key")[0] == 200
    with idle, contextlib.suppress(ConnectionResetError):
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        ask(server.port, "GET", "/key")


def test_a_server_apart(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(WHOLE)
    with RangeProcess(tmp_path, token="abc") as server:
        asked = urllib.request.Request(f"{server.url}/key", headers={"Authorization": "Bearer abc"})
        for _ in range(2):
            with urllib.request.urlopen(asked, timeout=5) as response:
                assert response.read() == WHOLE
        assert server.counts()["nbytes"] == 500
        server.forget()
        server.switch(token=None)
        assert ask(server.port, "GET", "/key", Range="bytes=-3")[2] == WHOLE[-3:]
        assert server.counts() == {"requests": 1, "nbytes": 3, "connections": 1, "most_in_flight": 1}


# ---- S3


@pytest.fixture(params=["ranges", pytest.param("moto", marks=needs_moto)])
def s3(request: pytest.FixtureRequest) -> Any:
    """An empty server and its URL."""
    if request.param == "ranges":
        with RangeServer({}, s3=True) as server:
            yield server.url
    else:
        with S3Server() as moto:
            yield moto.endpoint_url


def test_s3(s3: str) -> None:
    boto3: Any = pytest.importorskip("boto3")
    refusal = pytest.importorskip("botocore.exceptions").ClientError
    once = pytest.importorskip("botocore.config").Config(retries={"max_attempts": 0}, read_timeout=5)
    who = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3, config=once, **who)

    def refused(call: Any, **given: Any) -> int:
        with pytest.raises(refusal) as caught:
            call(Bucket="bucket", **given)
        return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])

    client.create_bucket(Bucket="bucket")
    etag = client.put_object(Bucket="bucket", Key="a/é b+c%", Body=WHOLE)["ETag"]
    found = client.get_object(Bucket="bucket", Key="a/é b+c%", Range="bytes=-7", IfMatch=etag)
    assert (found["Body"].read(), found["ContentRange"], found["ETag"]) == (
        WHOLE[-7:],
        "bytes 243-249/250",
        etag,
    )
    assert client.head_object(Bucket="bucket", Key="a/é b+c%")["ContentLength"] == 250
    for start in ("250-", "-0"):
        assert refused(client.get_object, Key="a/é b+c%", Range=f"bytes={start}") == 416
    assert refused(client.get_object, Key="a/é b+c%", IfMatch='"x"') == 412
    assert refused(client.get_object, Key="a/é b+c%", IfNoneMatch=etag) == 304
    assert refused(client.get_object, Key="nothing") == 404
    assert refused(client.put_object, Key="a/é b+c%", Body=b"", IfNoneMatch="*") == 412
    assert refused(client.put_object, Key="a/é b+c%", Body=b"", IfMatch='"x"') == 412
    assert client.put_object(Bucket="bucket", Key="a/é b+c%", Body=b"new", IfMatch=etag)["ETag"] != etag

    upload = client.create_multipart_upload(Bucket="bucket", Key="parts")["UploadId"]
    parts = [
        {
            "PartNumber": i,
            "ETag": client.upload_part(
                Bucket="bucket", Key="parts", UploadId=upload, PartNumber=i, Body=bytes([i]) * n
            )["ETag"],
        }
        for i, n in ((1, 5 << 20), (2, 3))
    ]
    client.complete_multipart_upload(
        Bucket="bucket", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    tail = client.get_object(Bucket="bucket", Key="parts", Range=f"bytes={(5 << 20) - 2}-")
    assert tail["Body"].read() == b"\1\1\2\2\2"

    for name in ("l/0/x", "l/0/y", "l/1/x", "l/2", "l/3/x"):
        client.put_object(Bucket="bucket", Key=name, Body=b"1")
    pages = client.get_paginator("list_objects_v2")
    flat = list(pages.paginate(Bucket="bucket", Prefix="l/", PaginationConfig={"PageSize": 2}))
    assert [one["Key"] for page in flat for one in page["Contents"]] == [
        "l/0/x", "l/0/y", "l/1/x", "l/2", "l/3/x"
    ]  # fmt: skip
    deep = list(pages.paginate(Bucket="bucket", Prefix="l/", Delimiter="/", PaginationConfig={"PageSize": 3}))
    assert [one["Prefix"] for page in deep for one in page.get("CommonPrefixes", [])] == [
        "l/0/",
        "l/1/",
        "l/3/",
    ]
    assert len(deep) == 2
    client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "l/2"}, {"Key": "a/é b+c%"}]})
    client.delete_object(Bucket="bucket", Key="l/0/x")
    left = client.list_objects_v2(Bucket="bucket")["Contents"]
    assert [one["Key"] for one in left] == ["l/0/y", "l/1/x", "l/3/x", "parts"]
    client.close()


def test_what_aws_clients_call_chunked() -> None:
    values: dict[str, bytes] = {}
    framed = b"5;chunk-signature=0\r\nfirst\r\n6\r\nsecond\r\n0\r\nx-amz-checksum-crc32:AA==\r\n\r\n"
    with RangeServer(values, s3=True) as server:
        for body, status in ((framed, 200), (framed[:12], 500)):
            got = ask(server.port, "PUT", "/b/key", body, Content_Encoding="aws-chunked")
            assert got[0] == status
        assert values == {"b/key": b"firstsecond"}
        assert b"Traceback" in got[2]  # a fault of the server is told


@needs_moto
def test_moto_wants_signatures(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b c").write_bytes(b"file")
    with S3Server() as server:
        server.fill("closed", {"key": b"value"})
        server.fill("public", tmp_path, public=True)
        assert ask(server.port, "GET", "/closed/key")[0] == 403
        assert ask(server.port, "GET", "/public/a/b%20c")[::2] == (200, b"file")
        assert b"<Key>a/b c</Key>" in ask(server.port, "GET", "/public?list-type=2")[2]
        assert server.request("GET", "/closed/key") == b"value"
        with pytest.raises(OSError, match="404"):
            server.request("GET", "/closed/other")
    with pytest.raises(ConnectionRefusedError):
        ask(server.port, "GET", "/closed/key")


# ---- faults

ASKED: dict[str, Any] = {"Range": "bytes=10-29"}
RIGHT = (206, WHOLE[10:30])
STATUSES = {"408": 408, "429": 429, "429_after": 429, "500": 500, "502": 502, "503": 503, "503_after": 503}
BROKEN: dict[str, type[Exception]] = {
    "reset_before": ConnectionResetError,
    "reset": ConnectionResetError,
    "reset_body": ConnectionResetError,
    "cut": http.client.IncompleteRead,
    "garbage": http.client.HTTPException,
    "stall": TimeoutError,
    "stall_body": TimeoutError,
}
TIMES = Times(stall=5.0, pause=0.0, retry_after="7")


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: str) -> None:
    """What http.client sees of each; the request before and the one behind are unharmed."""
    objects = {"key": WHOLE}
    with RangeServer(objects) as server, FaultProxy(server.url, script=[None, fault], times=TIMES) as proxy:
        status, headers, body = ask(proxy.port, "GET", "/key", **ASKED)
        assert (status, body) == RIGHT
        timeout = 0.05 if "stall" in fault else 5
        if fault in BROKEN:
            with pytest.raises(BROKEN[fault]):
                ask(proxy.port, "GET", "/key", timeout=timeout, **ASKED)
        else:
            status, told, body = ask(proxy.port, "GET", "/key", **ASKED)
            if fault in STATUSES:
                assert (status, told["Retry-After"]) == (STATUSES[fault], "7" if "after" in fault else None)
            elif fault == "redirect":
                assert (status, told["Location"]) == (307, f"{proxy.url}/key")
            elif fault == "slow":
                assert (status, body) == RIGHT
            elif fault == "cut_chunked":
                assert (status, body, told["Content-Length"]) == (206, WHOLE[10:20], None)
                assert told["Content-Range"] == headers["Content-Range"]
            elif fault == "content_range":
                assert (status, body, told["Content-Range"]) == (*RIGHT, "bytes 11-30/250")
            elif fault == "longer":
                assert (status, body, told["Content-Length"]) == (206, RIGHT[1] + b"more", "24")
            elif fault == "whole":
                assert (status, body, told["Content-Range"]) == (200, WHOLE, None)
            else:
                assert fault == "etag"
                assert (status, body) == RIGHT
                assert told["ETag"] != headers["ETag"]
        assert ask(proxy.port, "GET", "/key", **ASKED)[::2] == RIGHT
        assert proxy.faults() == [fault]
        assert [one.fault for one in proxy.log] == [None, fault, None]
        assert len(server.seen) == (2 if fault in BEFORE else 3)


def test_faults_that_do_not_apply() -> None:
    """Nothing is injected, and the log says so."""
    inapplicable = ["cut", "reset_body", "stall_body", "slow"]
    with RangeServer({"key": WHOLE, "empty": b""}, etag=None) as server:
        with FaultProxy(server.url, script=inapplicable) as proxy:
            for _ in inapplicable:
                assert ask(proxy.port, "GET", "/empty")[::2] == (200, b"")
            assert proxy.faults() == []
        with FaultProxy(
            server.url, script=["cut_chunked", "content_range", "longer", "whole", "etag"]
        ) as proxy:
            for _ in range(5):
                assert ask(proxy.port, "GET", "/key")[::2] == (200, WHOLE)
            assert ask(proxy.port, "HEAD", "/key")[1]["Content-Length"] == "250"
            assert proxy.faults() == []
        with pytest.raises(ValueError, match="typo"):
            FaultProxy(server.url, script=["typo"])


def test_faults_are_drawn_by_seed() -> None:
    table = {"503": 0.2, "429": 0.2, "500": 0.2}
    with RangeServer({"a": b"a", "b": b"b"}) as server:

        def statuses(paths: str, **options: Any) -> dict[str, list[int]]:
            with FaultProxy(server.url, table, **options) as proxy:
                connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
                got: dict[str, list[int]] = {"a": [], "b": [], "all": []}
                for path in paths:
                    status = on(connection, "GET", f"/{path}")[0]
                    got[path].append(status)
                    got["all"].append(status)
                connection.close()
                assert len(proxy.faults()) == sum(status != 200 for status in got["all"])
                return got

        first = statuses("ab" * 20, seed=1)["all"]
        assert first == statuses("ba" * 20, seed=1)["all"]
        assert first != statuses("ab" * 20, seed=2)["all"]
        assert set(first) == {200, 429, 500, 503}
        ordered = statuses("a" * 20 + "b" * 20, by="request")
        mixed = statuses("ab" * 20, by="request")
        assert (ordered["a"], ordered["b"]) == (mixed["a"], mixed["b"])
        assert ordered["a"] != ordered["b"]
        limited = statuses("ab" * 20, at_most=2)
        assert [sum(status != 200 for status in limited[path]) for path in "ab"] == [2, 2]


def test_faults_of_writes() -> None:
    """An upload whose answer is lost is stored; one that is refused is not."""
    values: dict[str, bytes] = {}
    with RangeServer(values, s3=True) as server:
        with FaultProxy(server.url, script=["reset", "503", "cut", None], on_writes=True) as proxy:
            with pytest.raises(ConnectionResetError):
                ask(proxy.port, "PUT", "/b/1", b"one")
            assert ask(proxy.port, "PUT", "/b/2", b"two")[0] == 503
            assert ask(proxy.port, "PUT", "/b/3", b"three", Expect="100-continue")[0] == 200
            assert ask(proxy.port, "DELETE", "/b/3")[0] == 204
            assert values == {"b/1": b"one"}
            assert proxy.faults() == ["reset", "503"]
            assert set(ON_WRITES) <= {*BEFORE, *AFTER}
        with FaultProxy(server.url, script=["503"]) as proxy:
            assert ask(proxy.port, "PUT", "/b/4", b"four")[0] == 200


def test_down() -> None:
    with RangeServer({"key": b"value"}) as server, FaultProxy(server.url) as proxy:
        kept = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        assert on(kept, "GET", "/key")[0] == 200
        with proxy.down():
            with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                on(kept, "GET", "/key")
            with pytest.raises(ConnectionRefusedError):
                ask(proxy.port, "GET", "/key")
        assert ask(proxy.port, "GET", "/key")[0] == 200
        kept.close()


def test_the_end_waits_for_nobody() -> None:
    """Stalls, waits and clients that hang up halfway hold no server."""
    before = set(threading.enumerate())
    with RangeServer({"key": b"x" * (1 << 24)}, latency=30.0) as server:
        with FaultProxy(server.url, script=["stall"]) as proxy:
            waiting = [_sent(one) for one in (proxy, proxy, server)]
            until(lambda: len(proxy.log) == 2 and server.in_flight == 2)
            waiting[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            waiting[0].close()
        server.switch(latency=0.0)
        waiting.append(_sent(server))  # which never reads its 16 MiB
        until(lambda: len(server.seen) == 1)
    for one in waiting:
        one.close()
    assert set(threading.enumerate()) <= before


def _sent(server: Served) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.sendall(b"GET /key HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def until(holds: Any) -> None:
    """Wait for another thread, but not for ever."""
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")
