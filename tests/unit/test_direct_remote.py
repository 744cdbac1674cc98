"""Objects of servers straight into device memory: the same values and the same errors as through staging."""

from __future__ import annotations

import ctypes
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.cli import doctor
from gpuzarr.device.sim import Counters, SimDevice
from gpuzarr.engine import feeds
from gpuzarr.errors import ArgumentError, GpuzarrError, MissingDependencyError, StoreError
from gpuzarr.store import gds
from gpuzarr.store.remote import kvikio as room
from gpuzarr.store.urls import open_store
from tests import devices, fake_cupy
from tests.conftest import to_host
from tests.devices import SIM_ORDERS
from tests.servers.ranges import RangeServer

pytestmark = pytest.mark.skipif(
    bool(devices.CHOSEN), reason=f"of the simulated device; this run is of {', '.join(devices.CHOSEN)}"
)

VALUES = np.cumsum(np.random.default_rng(3).integers(-3, 4, (64, 96)), axis=1).astype("<i4")
SECRET = "do-not-show-this"
HELD: dict[str, bytes] = {}

FORMS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1)},
    "shards": {"shards": (32, 48), "compressors": [zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]},
}


@pytest.fixture(scope="module")
def http() -> Iterator[RangeServer]:
    with RangeServer(HELD) as server:
        yield server


@pytest.fixture(scope="module")
def bucket() -> Iterator[RangeServer]:
    with RangeServer(HELD, s3=True, access_key="AKID") as server:
        yield server


@pytest.fixture(autouse=True)
def _nobody_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in (*room._ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


def stored(form: str = "raw", values: np.ndarray = VALUES, **more: Any) -> None:
    """What the servers serve from now on, as zarr-python writes it."""
    objects: dict[str, Any] = {}
    options = {"chunks": (16, 24), "fill_value": 7, **FORMS[form], **more}
    memory = zarr.storage.MemoryStore(objects)
    zarr.create_array(memory, shape=values.shape, dtype=values.dtype, **options)[...] = values
    HELD.clear()
    HELD.update({f"bucket/an array/{key}": value.to_bytes() for key, value in objects.items()})


def opened(server: RangeServer, device: str = "sim", **options: Any) -> gpuzarr.Array:
    """A handle of it. Ranges are not joined, nor do shards come with their index."""
    own = {"coalesce_gap": 0, "request_nbytes": 1, "backend": "obstore", **options}
    url = f"{server.url}/bucket/an%20array/?signature={SECRET}"
    if server.switches.s3:
        url = "s3://bucket/an array"
        own = {"key": "AKID", "secret": SECRET, "endpoint_url": server.url, **own}
    array = gpuzarr.open_array(url, device=device, storage_options=own)
    server.forget()
    return array


def read(array: gpuzarr.Array, key: Any = ..., **settings: Any) -> tuple[np.ndarray, ReadStats]:
    """What is read, and what that cost."""
    stats = ReadStats()
    SimDevice.named("sim").counters = Counters()
    with gpuzarr.configured(**{"remote": "kvikio", "strict": 1, **settings}):
        return to_host(array.read(key, stats=stats)), stats


def outcome(array: gpuzarr.Array, **settings: Any) -> str:
    """What a read raises."""
    with pytest.raises(GpuzarrError) as caught:
        read(array, **settings)
    return f"{type(caught.value).__name__}: {caught.value}"


# ---- reads


@pytest.mark.parametrize("device", SIM_ORDERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["http", "bucket"])
def test_nothing_of_it_crosses(request: pytest.FixtureRequest, kind: str, form: str, device: str) -> None:
    server = request.getfixturevalue(kind)
    stored(form)
    array = opened(server, device)
    found, stats = read(array)
    assert (found == VALUES).all()
    assert stats.bytes_crossed == stats.on_host == 0
    # Of a chunk that is an object: its size, its bytes, their end. Of a shard: its index, 4 chunks, an end.
    assert stats.requests == len(server.seen) == (4 * 6 if form == "shards" else 3 * 16)
    assert stats.bytes_read == sum(one.nbytes for one in server.seen)
    chunks = sum(len(value) for key, value in HELD.items() if "/c/" in key)
    assert stats.bytes_direct == chunks - (4 * (4 * 16 + 4) if form == "shards" else 0)
    server.forget()
    ordinary, other = read(array, remote="staging")
    assert (ordinary == VALUES).all()
    assert other.bytes_direct == 0 < other.bytes_crossed
    assert other.requests == len(server.seen) == 16


def test_missing_objects_are_missing_chunks(http: RangeServer) -> None:
    stored()
    del HELD["bucket/an array/c/1/0"]
    found, stats = read(opened(http))
    expected = VALUES.copy()
    expected[16:32, :24] = 7
    assert (found == expected).all()
    assert (stats.chunks, stats.filled, stats.bytes_crossed) == (15, 1, 0)
    assert len(http.seen) == 16 + 15 + 15


def test_parts_of_shards_in_waves(bucket: RangeServer) -> None:
    stored("shards")
    array = opened(bucket)
    for key in (np.s_[3:40:2, 20:70], np.s_[33, :], np.s_[:, :]):
        found, stats = read(array, key, wave_nbytes=12_000)
        assert (found == VALUES[key]).all()
        assert stats.bytes_crossed == 0 < stats.bytes_direct


def test_it_has_to_be_asked_for(http: RangeServer) -> None:
    stored()
    array = opened(http)
    for settings in ({"remote": "staging"}, {"remote": "staging", "gds": "on"}):
        found, stats = read(array, **settings)
        assert (found == VALUES).all()
        assert stats.bytes_direct == 0 < stats.bytes_crossed
    with pytest.raises(ArgumentError, match="remote='gds' is none of staging and kvikio"):
        gpuzarr.configure(remote="gds")


def test_what_the_host_has_to_see_goes_by_way_of_it(http: RangeServer) -> None:
    stored(compressors=zarr.codecs.ZstdCodec())
    found, stats = read(opened(http))
    assert (found == VALUES).all()
    assert stats.bytes_direct == 0 < stats.bytes_crossed


def test_shards_that_came_with_their_index_are_here(http: RangeServer) -> None:
    stored("shards")
    found, stats = read(opened(http, coalesce_gap=1 << 20, request_nbytes=1 << 20))
    assert (found == VALUES).all()
    assert (stats.bytes_direct, stats.requests, len(http.seen)) == (0, 4, 4)


def test_it_is_explained(http: RangeServer) -> None:
    stored("shards")
    array = opened(http)
    assert "straight" not in str(array.explain())
    with gpuzarr.configured(remote="kvikio"):
        assert "straight into device memory (sim)" in str(array.explain())
        assert opened(http, missing_on_403=True).explain().direct == ""


# ---- KvikIO


class FakeKvikIO(types.ModuleType):
    """KvikIO's RemoteFile as version 26.10 was seen to behave, over http.client: reads run when they are
    waited for, on a thread of their own. It says that all bytes came whatever came, and follows no redirect.

    `spoil(number, body)` may change what came of a read, or raise; None: nothing is copied to the device."""

    def __init__(self) -> None:
        super().__init__("kvikio")
        self.settings: dict[str, Any] = {
            "num_threads": 1,
            "task_size": 1 << 22,
            "bounce_buffer_size": 1 << 24,
        }
        self.reads: list[tuple[str, int, int]] = []
        self.pending = self.most = 0
        self.spoil: Callable[[int, bytes], bytes | None] = lambda number, body: body
        self.require: Callable[[int, int], None] = lambda address, nbytes: None
        self.defaults = types.ModuleType("kvikio.defaults")
        self.defaults.__dict__.update(
            is_compat_mode_preferred=lambda: True, get=self.settings.get, set=self.settings.__setitem__
        )
        self.cufile_driver = types.ModuleType("kvikio.cufile_driver")
        fake, remote = self, FakeRemoteFile

        class RemoteFile:
            @classmethod
            def open_http(cls, url: str, nbytes: int | None = None) -> FakeRemoteFile:
                return remote(fake, url, nbytes, {})

            @classmethod
            def open_s3(
                cls,
                bucket_name: str,
                object_name: str,
                nbytes: int | None = None,
                aws_region_name: str | None = None,
                aws_access_key_id: str | None = None,
                aws_secret_access_key: str | None = None,
                aws_endpoint_url: str | None = None,
                aws_session_token: str | None = None,
            ) -> FakeRemoteFile:
                assert aws_region_name
                assert aws_secret_access_key == SECRET
                signed = f"AWS4-HMAC-SHA256 Credential={aws_access_key_id}/20260101/{aws_region_name}/s3"
                url = f"{aws_endpoint_url}/{bucket_name}/{object_name}"
                return remote(fake, url, nbytes, {"Authorization": signed})

        self.RemoteFile = RemoteFile

    def is_remote_file_available(self) -> bool:
        return True


class FakeRemoteFile:
    def __init__(self, kvikio: FakeKvikIO, url: str, nbytes: int | None, headers: dict[str, str]) -> None:
        assert url.isascii()
        assert " " not in url
        self.kvikio, self.url, self.headers = kvikio, url, headers
        self.nbytes = int(self.ask("HEAD", {})[1]["Content-Length"]) if nbytes is None else nbytes

    def ask(self, method: str, headers: dict[str, str]) -> tuple[bytes, Any]:
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.netloc, timeout=10)
        try:
            connection.request(method, f"{parts.path}?{parts.query}", headers={**self.headers, **headers})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(
                f"curl_easy_perform() error (The requested URL returned error: {answer.status})"
            )
        return body, answer.headers

    def pread(self, buf: Any, size: int | None = None, file_offset: int = 0) -> FakeFuture:
        memory = buf.__cuda_array_interface__
        (nbytes,), (address, read_only) = memory["shape"], memory["data"]
        assert (memory["typestr"], memory["strides"], read_only) == ("|u1", None, False)
        assert size is not None
        assert 0 < size <= nbytes
        assert size <= self.kvikio.settings["task_size"], "KvikIO would cut it"
        if file_offset + size > self.nbytes:
            raise ValueError(
                f"cannot read {file_offset}+{size} bytes into a {self.nbytes} bytes file ({self.url})"
            )
        self.kvikio.reads.append((self.url, file_offset, size))
        self.kvikio.pending += 1
        self.kvikio.most = max(self.kvikio.most, self.kvikio.pending)
        return FakeFuture(self, address, size, file_offset, len(self.kvikio.reads) - 1)


class FakeFuture:
    def __init__(self, of: FakeRemoteFile, address: int, size: int, offset: int, number: int) -> None:
        self.of, self.address, self.size, self.offset, self.number = of, address, size, offset, number

    def get(self) -> int:
        done: Future[int] = Future()

        def run() -> None:
            try:
                done.set_result(self._read())
            except BaseException as error:
                done.set_exception(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        self.of.kvikio.pending -= 1
        return done.result()

    def _read(self) -> int:
        kvikio = self.of.kvikio
        asked = {"Range": f"bytes={self.offset}-{self.offset + self.size - 1}"}
        body = kvikio.spoil(self.number, self.of.ask("GET", asked)[0])
        if body is not None and len(body) > self.size:
            raise OverflowError("maybe the server doesn't support file ranges? [...]")
        if body:
            kvikio.require(self.address, self.size)
            ctypes.memmove(self.address, body, len(body))
        return self.size


@pytest.fixture
def kvikio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKvikIO]:
    made = FakeKvikIO()
    for name in ("kvikio", "kvikio.defaults", "kvikio.cufile_driver"):
        monkeypatch.setitem(sys.modules, name, made if name == "kvikio" else getattr(made, name[7:]))
    forget()
    yield made
    forget()
    assert not made.pending, "something is still under way"


def forget() -> None:
    gds.loaded.cache_clear()
    room._loaded.cache_clear()


@pytest.fixture(params=["late"])
def cuda(request: pytest.FixtureRequest, kvikio: FakeKvikIO, monkeypatch: pytest.MonkeyPatch) -> FakeKvikIO:
    """KvikIO beside a GPU."""
    machine = fake_cupy.install(monkeypatch, request.param)

    def require(address: int, nbytes: int) -> None:
        with machine.on(0):
            machine.require_device(address, nbytes)

    kvikio.require = require
    return kvikio


@pytest.mark.parametrize("cuda", fake_cupy.ORDERS, indirect=True)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["http", "bucket"])
def test_on_a_gpu(request: pytest.FixtureRequest, cuda: FakeKvikIO, kind: str, form: str) -> None:
    server = request.getfixturevalue(kind)
    stored(form)
    array = opened(server, "cuda")
    found, stats = read(array)
    assert (found == VALUES).all()
    assert stats.bytes_crossed == stats.on_host == 0 < stats.bytes_direct
    assert len(cuda.reads) == 16
    assert sum(size for _, _, size in cuda.reads) == stats.bytes_direct
    assert all(url.startswith(f"{server.url}/bucket/an%20array/c/") for url, _, _ in cuda.reads)
    assert stats.requests == len(server.seen)
    assert cuda.settings["num_threads"] == max(room.THREADS, gpuzarr.configure().threads)
    with gpuzarr.configured(remote="kvikio", strict=1):
        assert array.explain().direct == "kvikio"


def test_large_chunks_are_several_pieces(cuda: FakeKvikIO, bucket: RangeServer) -> None:
    stored(chunks=(64, 96))
    cuda.settings["task_size"] = 4096
    found, stats = read(opened(bucket, "cuda", concurrency=2))
    assert (found == VALUES).all()
    assert [size for _, _, size in cuda.reads] == [4096] * 6
    assert cuda.most == 2
    assert stats.bytes_direct == VALUES.nbytes
    assert stats.requests == len(bucket.seen) == 1 + 6 + 1


def short(number: int, body: bytes) -> bytes:
    return body[:-1] if number == 5 else body


def half(number: int, body: bytes) -> bytes:
    return body[: len(body) // 2] if number == 5 else body


def redirected(number: int, body: bytes) -> bytes:
    return b""


def not_copied(number: int, body: bytes) -> bytes | None:
    return None if number == 5 else body


def longer(number: int, body: bytes) -> bytes:
    return body + b"!" if number == 5 else body


def broken(number: int, body: bytes) -> bytes:
    if number == 5:
        raise RuntimeError(f"curl_easy_perform() error (http://u:p@h/x?signature={SECRET})")
    return body


@pytest.mark.parametrize("form", ["raw", "shards"])
@pytest.mark.parametrize("spoil", [short, half, redirected, not_copied, longer, broken])
def test_whatever_goes_wrong_is_fetched_again(
    cuda: FakeKvikIO, bucket: RangeServer, spoil: Callable[[int, bytes], bytes | None], form: str
) -> None:
    """Once, and then the read does not try it any more. None of it is told by KvikIO but the last two."""
    stored(form)
    cuda.spoil = spoil
    array = opened(bucket, "cuda")
    found, stats = read(array)
    assert (found == VALUES).all()
    assert (stats.bytes_direct, stats.chunks) == (0, 16)
    before = len(cuda.reads)
    found, stats = read(array)  # numbers go on: only the redirects are still there
    assert (found == VALUES).all()
    assert (stats.bytes_direct > 0) == (spoil is not redirected)
    assert len(cuda.reads) == before + 16


@pytest.mark.parametrize("device", ["sim", "cuda"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_shard_that_is_replaced_behind_its_index(
    cuda: FakeKvikIO, http: RangeServer, monkeypatch: pytest.MonkeyPatch, when: str, device: str
) -> None:
    """The index is read again, of the shard as it is now."""
    stored("shards", VALUES[::-1])
    after = dict(HELD)
    stored("shards")
    array = opened(http, device)
    read(array)
    if when == "before":
        HELD.update(after)
    real = feeds.Objects._check

    def late(self: Any, *given: Any) -> None:
        HELD.update(after)
        real(self, *given)

    monkeypatch.setattr(feeds.Objects, "_check", late)
    found, _ = read(array)
    assert (found == VALUES[::-1]).all()


def test_an_object_that_is_replaced_between_its_pieces(cuda: FakeKvikIO, http: RangeServer) -> None:
    """Its pieces are of two versions then."""
    stored(chunks=(64, 96))
    (key,) = (key for key in HELD if "/c/" in key)
    cuda.settings["task_size"] = 4096

    def replace(number: int, body: bytes) -> bytes:
        HELD[key] = VALUES[::-1].tobytes()
        return body

    cuda.spoil = replace
    found, stats = read(opened(http, "cuda"))
    assert (found == VALUES[::-1]).all()
    assert (len(cuda.reads), stats.bytes_direct) == (6, 0)


@pytest.mark.parametrize("device", ["sim", "cuda"])
def test_errors_are_those_of_the_ordinary_way(cuda: FakeKvikIO, http: RangeServer, device: str) -> None:
    stored("gzip")
    array = opened(http, device)
    HELD["bucket/an array/c/1/0"] = HELD["bucket/an array/c/1/0"][:-3]
    said = outcome(array)
    assert said == outcome(array, remote="staging")
    assert "c/1/0" in said
    HELD["bucket/an array/c/1/0"] = b""
    assert outcome(array) == outcome(array, remote="staging")
    stored()
    HELD["bucket/an array/c/1/0"] *= 2
    array = opened(http, device)
    assert outcome(array) == outcome(array, remote="staging")
    http.switch(forbidden=("bucket/an array/c/1/2",))
    try:
        said = outcome(array)
        assert said == outcome(array, remote="staging")
    finally:
        http.switch(forbidden=())
    assert "403" in said
    assert SECRET not in said


def test_an_index_may_promise_anything(cuda: FakeKvikIO, http: RangeServer) -> None:
    """More than waves are cut for is not even asked for; more than there is comes too short."""
    stored("shards", compressors=[zarr.codecs.GzipCodec()])
    key = "bucket/an array/c/0/0"
    whole = HELD[key]
    for promised, reads in ((1 << 45, 0), (len(whole), 1)):
        index = np.frombuffer(whole[-68:-4], "<u8").copy()
        index[1] = promised
        import google_crc32c

        sealed = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
        HELD[key] = whole[:-68] + sealed
        array, began = opened(http, "cuda"), len(cuda.reads)
        with gpuzarr.configured(remote="kvikio", strict=1), pytest.raises(GpuzarrError) as caught:
            array[:16, :24]
        assert len(cuda.reads) - began == reads
        with gpuzarr.configured(strict=1), pytest.raises(type(caught.value)) as other:
            array[:16, :24]
        assert str(caught.value) == str(other.value)


# ---- the mark at the end of each piece


@pytest.mark.parametrize("device", ["sim", "cuda"])
def test_chunks_that_end_like_the_mark(cuda: FakeKvikIO, http: RangeServer, device: str) -> None:
    """Where the last byte is the mark's own, the store is asked; where eight are, the ordinary way is
    taken."""
    values = np.full((64, 96), 0x6B, np.uint8)
    stored("shards", values, compressors=None)
    array = opened(http, device)
    found, stats = read(array)
    assert (found == values).all()
    assert (stats.bytes_direct, len(http.seen)) == (values.nbytes, 4 + 16 + 16)
    cuda.spoil = short
    found, stats = read(array)
    assert (found == values).all()
    values[15, 16:24] = feeds._MARK
    stored("shards", values, compressors=None)
    found, stats = read(opened(http, device))
    assert (found == values).all()
    assert stats.bytes_direct == 0


def test_chunks_smaller_than_the_mark(cuda: FakeKvikIO, http: RangeServer) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    stored(values=values, chunks=(1, 3))
    cuda.spoil = half  # the first of the second read
    for direct in (5 * 3, 0, 5 * 3):
        found, stats = read(opened(http, "cuda"))
        assert (found == values).all()
        assert stats.bytes_direct == direct


# ---- what cannot be said


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://h/x", {"headers": {"X-Key": SECRET}}),
        (f"http://user:{SECRET}@h/x", {}),
        ("https://h/x", {"ssl": False}),
        ("http://h/x", {"backend": "fsspec"}),
        ("http://h/x", {"missing_on_403": True}),
        ("s3://b/x", {}),
        ("s3://b/x", {"key": "AKID", "secret": SECRET, "requester_pays": True}),
        ("s3://b/x", {"key": "AKID", "secret": SECRET, "missing_on_403": True}),
        ("s3://b/x", {"key": "AKID", "secret": SECRET, "client_kwargs": {"verify": False}}),
        ("s3://b/x", {"key": "AKID", "secret": SECRET, "endpoint_url": f"http://u:{SECRET}@h"}),
        (
            "s3://b/x",
            {"key": "AKID", "secret": SECRET, "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
        ),
        ("gs://b/x", {"anon": True}),
        ("az://b/x", {"account_name": "a", "anon": True}),
    ],
)
def test_other_options_are_left_to_the_store(url: str, options: dict[str, Any]) -> None:
    store: Any = open_store(url, {"backend": "obstore", **options})
    assert room.endpoint_of(store) is None
    with gpuzarr.configured(remote="kvikio"):
        assert feeds.how(store, SimDevice.named("sim")) == ""


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(url: str = "s3://b/x", **options: Any) -> Any:
        store: Any = open_store(url, {"backend": "obstore", **options})
        return room.endpoint_of(store)

    assert end(anon=True).root == "https://s3.us-east-1.amazonaws.com/b"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = end()
    assert (found.root, found.bucket) == ("https://s3.eu-west-1.amazonaws.com", "b")
    assert found.keys == {
        "aws_region_name": "eu-west-1",
        "aws_access_key_id": "AKID",
        "aws_secret_access_key": SECRET,
    }
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-another")
    assert end().keys["aws_session_token"] == "token-of-another"
    assert end(key="OTHER", secret=SECRET) is None
    assert end(key="OTHER", secret=SECRET, token=SECRET).keys["aws_session_token"] == SECRET
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert end().root == "http://127.0.0.1:9"
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:10")
    assert end() is None
    assert end("http://h/x?y=1").query == "?y=1"


def test_credentials_are_never_shown(cuda: FakeKvikIO, http: RangeServer, bucket: RangeServer) -> None:
    stored()
    into = np.zeros(10, np.uint8)
    cuda.require = lambda address, nbytes: None
    for server in (http, bucket):
        store: Any = opened(server)._source.store
        end = room.endpoint_of(store)
        for said in (f"signature={SECRET}", f"{server.url}/x?signature={SECRET}", f"x\n{SECRET}"):

            def fail(number: int, body: bytes, said: str = said) -> bytes:
                raise RuntimeError(said)

            cuda.spoil = fail
            with pytest.raises(
                StoreError, match=r"cannot read (bucket/)?an array/c/0/0 .*: RuntimeError$"
            ) as caught:
                room.read(store, [("c/0/0", 0, 10, into.ctypes.data)])
            error = caught.value
            assert SECRET not in f"{error!s}{error!r}{error.__cause__!r}{error.__context__!r}"
        assert SECRET not in f"{end!r}{store!r}{store.transport!r}"


def test_nothing_is_left_under_way(cuda: FakeKvikIO, bucket: RangeServer) -> None:
    """Reads that were started are waited for; those behind a failure are not started."""
    stored()
    store: Any = opened(bucket, concurrency=3)._source.store
    cuda.require = lambda address, nbytes: None
    cuda.spoil = broken
    into = np.zeros(400, np.uint8)
    reads = [(f"c/{i // 4}/{i % 4}", 0, 10, into.ctypes.data + 10 * i) for i in range(16)]
    with pytest.raises(StoreError, match="cannot read an array/c/1/1"):
        room.read(store, reads)
    assert (cuda.pending, cuda.most) == (0, 3)
    assert len(cuda.reads) == 5 + 3
    with pytest.raises(StoreError, match=r"cannot read an array/c/9/9 .*: RuntimeError, 404$"):
        room.read(store, [("c/9/9", 0, 10, into.ctypes.data)])


def test_why_it_is_not_there(kvikio: FakeKvikIO, http: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.mode() == "kvikio"
    store: Any = open_store(http.url)
    without: Callable[[], bool] = lambda: False  # noqa: E731
    monkeypatch.setattr(kvikio, "is_remote_file_available", without)
    forget()
    assert room.mode() == "this KvikIO was built without remote files"
    monkeypatch.setitem(sys.modules, "kvikio", None)
    forget()
    assert room.mode() == "KvikIO is not installed"
    with pytest.raises(MissingDependencyError, match="KvikIO is not installed"):
        room.read(store, [])


def test_the_doctor_says_it(kvikio: FakeKvikIO, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver, said in (
        ("13.0", 'there: the setting remote="kvikio" takes it'),
        (None, "needs a CUDA driver"),
    ):
        monkeypatch.setattr(doctor, "_driver", lambda driver=driver: driver)
        (found,) = (one for one in doctor._devices() if one.name == "  objects to GPU memory")
        assert (found.ok, found.detail) == (driver is not None, said)


def test_the_stand_in_is_like_kvikio() -> None:
    """Names and defaults of the parameters."""
    real = pytest.importorskip("kvikio", reason="KvikIO is not installed")
    mine = FakeKvikIO()
    for name in ("open_http", "open_s3"):
        theirs = inspect.signature(getattr(real.RemoteFile, name)).parameters.values()
        ours = inspect.signature(getattr(mine.RemoteFile, name)).parameters.values()
        assert [(one.name, one.default) for one in ours] == [(one.name, one.default) for one in theirs]
    theirs = inspect.signature(real.RemoteFile.pread).parameters.values()
    ours = inspect.signature(FakeRemoteFile.pread).parameters.values()
    assert [(one.name, one.default) for one in ours] == [(one.name, one.default) for one in theirs]
    assert real.is_remote_file_available()
    defaults = pytest.importorskip("kvikio.defaults", reason="KvikIO is not installed")
    assert all(isinstance(defaults.get(name), int) for name in mine.settings)
