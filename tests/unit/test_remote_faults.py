"""What goes wrong between a store and its server: each fault alone, then many; what is forbidden, changed,
cut short."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr.errors import ArgumentError, ChangedError, ForbiddenError, LimitError, MetadataError, StoreError
from gpuzarr.store.base import Request
from gpuzarr.store.remote import RemoteStore
from gpuzarr.store.remote.retry import Again, Limit, Patience, persist
from gpuzarr.store.urls import open_store
from tests.servers.faults import FAULTS, STALLS, Times
from tests.servers.proxy import FaultProxy
from tests.servers.ranges import RangeServer

WHOLE = bytes(range(256)) * 80
HASTE = Patience(timeout=0.5, deadline=10.0, base=0.001, longest=0.01)
KEYS = {"key": "an-access-key", "secret": "do-not-show-this"}


@pytest.fixture(scope="module")
def server() -> Iterator[RangeServer]:
    with RangeServer({"bucket/object": WHOLE, "bucket/empty": b""}, s3=True) as one:
        yield one


def hasty(url: str, **options: Any) -> RemoteStore:
    """A store that waits for milliseconds."""
    s3 = {"endpoint_url": url, **KEYS} if options.pop("s3", False) else {}
    target = "s3://bucket" if s3 else f"{url}/bucket"
    store = open_store(target, {"timeout": HASTE.timeout, "deadline": HASTE.deadline, **s3, **options})
    assert isinstance(store, RemoteStore)
    return replace(store, patience=HASTE)


@contextmanager
def broken(
    server: RangeServer, *script: str | None, **options: Any
) -> Iterator[tuple[RemoteStore, FaultProxy]]:
    with FaultProxy(server.url, script=script, times=Times(stall=2.0, pause=0.001)) as proxy:
        yield hasty(proxy.url, **options), proxy


@pytest.mark.parametrize("s3", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_asked_again(server: RangeServer, fault: str, s3: bool) -> None:
    """The bytes are right, by a second request where the first was broken."""
    with broken(server, None, fault, s3=s3) as (store, proxy):
        assert store.get_ranges([Request("object", 5, 100)]) == [WHOLE[5:105]]
        assert store.get_ranges([Request("object", 500, 10_000)]) == [WHOLE[500:10_500]]
        harmless = fault in ("slow", "etag", "redirect")
        assert proxy.faults() == [fault]
        assert len(proxy.log) == (3 if not harmless or fault == "redirect" else 2)


@pytest.mark.parametrize("fault", ["reset_before", "500", "503", "cut", "content_range", "whole", "longer"])
def test_a_fault_that_lasts_is_one_clear_error(server: RangeServer, fault: str) -> None:
    with broken(server, *[fault] * 40) as (store, proxy):
        with pytest.raises(StoreError, match=r"cannot read object at http.*tried \d+ times") as caught:
            store.get_ranges([Request("object", 500, 1000)])
        assert not isinstance(caught.value, ForbiddenError)
        assert 1 < len(proxy.log) <= HASTE.tries


def test_a_server_that_never_answered_is_not_waited_for(server: RangeServer) -> None:
    with FaultProxy(server.url) as proxy, proxy.down(), pytest.raises(StoreError, match="tried 3 times"):
        hasty(proxy.url).get_ranges([Request("object")])


def test_silence_has_an_end(server: RangeServer) -> None:
    for stall in STALLS:
        with broken(server, None, *[stall] * 3) as (store, proxy):
            store.get_ranges([Request("object", 0, 1)])
            assert store.get_ranges([Request("object", 9, 9)]) == [WHOLE[9:18]]
            assert proxy.faults() == [stall] * 3


def test_one_error_ends_a_batch(server: RangeServer) -> None:
    """Nothing is asked behind it, and the next batch finds the store well."""
    with broken(server, *["500"] * 4000) as (store, proxy):
        with pytest.raises(StoreError, match="cannot read object"):
            store.get_ranges([Request("object", i, 10) for i in range(1000)])
        assert len(proxy.log) < 1000
        proxy.forget()
    store = hasty(server.url)
    found = store.get_ranges([Request("object", i, 10) for i in range(300)])
    assert found == [WHOLE[i : i + 10] for i in range(300)]


def test_a_stream_that_is_closed_asks_no_more(server: RangeServer) -> None:
    store = hasty(server.url)
    server.forget()
    stream = store.stream([Request("object", i, 10) for i in range(1000)])
    assert next(stream)[1] is not None
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    assert server.requests < 500


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_forbidden_is_not_missing(server: RangeServer, backend: str) -> None:
    """A chunk that may not be read is an error, never fill values; unless the caller says that 403 means
    missing."""
    values: dict[str, bytes] = {}
    made = gpuzarr.save(values, np.arange(8, dtype=np.int16), chunks=4, fill_value=0)
    held = {f"bucket/{key}": bytes(value) for key, value in values.items()}
    with RangeServer(held, s3=True, forbidden=("bucket/c/1",)) as other:
        options = {"endpoint_url": other.url, **KEYS, "backend": backend}
        array = gpuzarr.open_array("s3://bucket", storage_options=options, device="cpu")
        assert array[:4].tolist() == [0, 1, 2, 3]
        with pytest.raises(ForbiddenError, match="missing_on_403") as caught:
            array[...]
        assert "c/1" in str(caught.value)
        assert isinstance(caught.value, PermissionError)
        lenient = {**options, "missing_on_403": True}
        array = gpuzarr.open_array("s3://bucket", storage_options=lenient, device="cpu")
        assert array[...].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
        other.switch(missing=403, forbidden=())
        assert isinstance(gpuzarr.open("s3://bucket", storage_options=options), gpuzarr.Array)
        del held["bucket/c/1"]
        with pytest.raises(ForbiddenError):
            gpuzarr.open_array("s3://bucket", storage_options=options, device="cpu")[...]
    assert made.shape == (8,)


def test_who_one_is_not_is_said(server: RangeServer) -> None:
    with RangeServer({"a": b"1"}, user="me:password") as other:
        with pytest.raises(ForbiddenError, match="credentials"):
            open_store(other.url).get_ranges([Request("a")])
        host = other.url.removeprefix("http://")
        assert open_store(f"http://me:password@{host}").get_ranges([Request("a")]) == [b"1"]
        options = {"client_kwargs": {"auth": ("me", "password")}}
        assert open_store(other.url, options).get_ranges([Request("a")]) == [b"1"]
    with RangeServer({"a": b"1"}, token="abcdefgh") as other:
        options = {"headers": {"Authorization": "Bearer abcdefgh"}}
        assert open_store(other.url, options).get_ranges([Request("a")]) == [b"1"]


def sharded(values: np.ndarray) -> dict[str, bytes]:
    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, chunks=(4,), shards=(16,))
    array[...] = values
    return {f"bucket/{key}": value.to_bytes() for key, value in held.items()}


@pytest.mark.parametrize("etag", ["strong", "weak", None])
@pytest.mark.parametrize("s3", [False, True])
def test_a_shard_that_changes_between_index_and_chunks_is_read_again(
    etag: str | None, s3: bool, device: str
) -> None:
    """Never the old index over the new bytes: the new values come, or where a server tells nothing, an
    error."""
    old, new = np.arange(1, 33, dtype=np.int32), np.arange(1, 33, dtype=np.int32) * 1000
    objects = sharded(old)
    with RangeServer(objects, s3=True, etag=etag) as server:
        options = {"endpoint_url": server.url, **KEYS} if s3 else {}
        target = "s3://bucket" if s3 else f"{server.url}/bucket"
        array = gpuzarr.open_array(target, storage_options=options, device=device)
        assert np.array_equal(
            np.asarray(gpuzarr.open_array(target, storage_options=options, device="cpu")), old
        )
        array[:4]  # the index is known now
        objects.update(sharded(new))
        found = array.read(np.s_[4:20])
        assert np.array_equal(found.get() if hasattr(found, "get") else _host(found), new[4:20])


def _host(values: Any) -> np.ndarray:
    from tests.conftest import to_host

    return to_host(values)


def test_what_changes_for_ever_is_an_error(server: RangeServer) -> None:
    objects = sharded(np.arange(1, 33, dtype=np.int32))
    with RangeServer(objects, s3=True) as other, FaultProxy(other.url, {"etag": 1.0}, by="index") as proxy:
        array = gpuzarr.open_array(f"{proxy.url}/bucket", device="cpu")
        again = gpuzarr.open_array(f"{other.url}/bucket", device="cpu")
        assert again[5] == 6
        with pytest.raises(ChangedError, match="replaced"):
            array[5]  # its index has an ETag that the server does not know
        store = open_store(f"{other.url}/bucket")
        with pytest.raises(ChangedError, match="replaced"):
            store.get_ranges([Request("c/0", 0, 4, '"another"')])


def test_versions_and_conditions(server: RangeServer) -> None:
    store = hasty(server.url, s3=True)
    (first,) = store.get_versioned([Request("object", 0, 5)])
    assert first is not None
    assert first.data == WHOLE[:5]
    (same,) = store.get_versioned([Request("object", 7, 5)], [first.version])
    assert same == (None, first.version)
    (other,) = store.get_versioned([Request("object", 7, 5)], ['"other"'])
    assert other == (WHOLE[7:12], first.version)
    assert store.get_versioned([Request("nothing")], ['"other"']) == [None]


def test_a_document_that_is_too_large_is_not_read(server: RangeServer) -> None:
    """The size that a server announces is looked at before the body is taken."""
    with (
        RangeServer({"a/zarr.json": b" " * 3_000_000}) as other,
        gpuzarr.configured(max_document_nbytes=1_000_000),
        pytest.raises((LimitError, MetadataError)),
    ):
        gpuzarr.open(f"{other.url}/a")


def test_credentials_are_never_shown(server: RangeServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in errors with all their causes, not in reprs, not in logs, whatever way they were given."""
    hidden = ["do-not-show-this", "an-access-key", "sign-me", "pass-word", "bearer-token"]
    host = server.url.removeprefix("http://")
    ways: list[tuple[str, dict[str, Any]]] = [
        ("s3://bucket", {"endpoint_url": server.url, **KEYS}),
        ("s3://bucket", {"endpoint_url": server.url, **KEYS, "backend": "fsspec"}),
        (f"{server.url}/bucket/?X-Amz-Signature=sign-me", {}),
        (f"http://an-access-key:pass-word@{host}/bucket", {}),
        (f"{server.url}/bucket", {"headers": {"Authorization": "Bearer bearer-token"}}),
        (f"{server.url}/bucket", {"headers": {"Authorization": "Bearer bearer-token"}, "backend": "fsspec"}),
        (
            "s3://bucket",
            {"key": "an-access-key", "secret": "do-not-show-this", "nonsense": 1, "backend": "obstore"},
        ),
        ("s3://", KEYS),
    ]
    seen: list[str] = []
    for target, options in ways:
        for fault in (
            ("403", "500") if options.get("backend") != "fsspec" else ("403",)
        ):  # it waits long itself
            with RangeServer({}, s3=True, missing=403 if fault == "403" else 404) as other:
                script = ["500"] * 50 if fault == "500" else []
                with FaultProxy(other.url, script=script) as proxy:
                    at = target.replace(host, proxy.url.removeprefix("http://"))
                    given = {**options, "deadline": 0.3}
                    if "endpoint_url" in given:
                        given["endpoint_url"] = proxy.url
                    try:
                        store = open_store(at, given)
                        seen += [repr(store), str(store), store.url, repr(store.place("a"))]
                        gpuzarr.open(store, "nothing")
                    except Exception as error:
                        one: BaseException | None = error
                        while one is not None:
                            seen += [str(one), repr(one)]
                            one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    text = "\n".join([*seen, caplog.text])
    assert len(seen) > 60
    assert [one for one in hidden if one in text] == []


def test_what_a_gap_costs_is_measured(server: RangeServer) -> None:
    """Ranges are joined over as many bytes as an answer takes; what a caller says holds."""
    store = replace(hasty(server.url), limit=Limit(64, 64))  # stores of one server share theirs
    assert store.traits.coalesce_gap == 1 << 20
    store.limit.went_well(time.monotonic() - 0.1)
    assert store.traits.coalesce_gap == 1 << 23
    store.limit.went_well(time.monotonic())
    assert store.traits.coalesce_gap == 1 << 18
    told = hasty(server.url, coalesce_gap=5, request_nbytes=1000, concurrency=3)
    assert (told.traits.coalesce_gap, told.traits.request_nbytes, told.limit.most) == (5, 1000, 3)
    server.forget()
    assert told.get_ranges([Request("object", i, 1) for i in range(20)])[19] == WHOLE[19:20]
    assert server.most_in_flight <= 3


def test_options_are_checked() -> None:
    with pytest.raises(ArgumentError, match="concurrency"):
        open_store("s3://b", {"concurrency": 0})
    with pytest.raises(ArgumentError, match="backend"):
        open_store("s3://b", {"backend": "curl"})
    with pytest.raises(ArgumentError, match="timeout"):
        open_store("s3://b", {"timeout": 0})
    with pytest.raises(ArgumentError, match="obstore does not know nonsense"):
        open_store("s3://b", {"nonsense": 1, "backend": "obstore", "anon": True})
    with pytest.raises(ArgumentError, match="no bucket"):
        open_store("s3://", {"anon": True})


def test_fewer_at_once_when_the_server_asks_for_it() -> None:
    limit = Limit(32, 64)
    with limit as started:
        pass
    for _ in range(4):
        limit.slow_down(started)
    assert limit.now == 16  # those of one moment count once
    for _ in range(200):
        limit.went_well(started)
    assert 16 < limit.now < 64


def test_persistence_is_bounded() -> None:
    tries: list[int] = []

    def never() -> None:
        tries.append(1)
        raise Again("no", slow=True)

    with pytest.raises(StoreError, match=r"cannot do it: no \(tried 12 times"):
        persist(never, "do it", HASTE, Limit(4, 4))
    assert len(tries) == 12
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreError, match="given up"):
        persist(never, "do it", HASTE, Limit(4, 4), stop)
    assert len(tries) == 13


def test_as_many_in_flight_as_pay_off() -> None:
    """All of a batch that the limit allows, at once; no more than a server bears."""
    with RangeServer({"object": WHOLE}) as server:
        store = open_store(server.url)
        with server.held():
            answers: list[Any] = []
            reader = threading.Thread(
                target=lambda: answers.extend(store.get_ranges([Request("object", i, 1) for i in range(40)]))
            )
            reader.start()
            until = time.monotonic() + 20
            while server.in_flight < 40 and time.monotonic() < until:
                time.sleep(0.001)
        reader.join()
        assert answers == [WHOLE[i : i + 1] for i in range(40)]
        assert server.most_in_flight == 40
