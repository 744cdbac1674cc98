"""A RemoteStore over a transport in memory, where a test decides when an answer comes and what it says."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import ChangedError, ChunkError, ForbiddenError, LimitError, StoreError
from gpuzarr.store.base import Request, joined
from gpuzarr.store.remote import BucketStore, flow
from gpuzarr.store.remote.flow import Stream, Waiters
from gpuzarr.store.remote.obstore import Obstore
from gpuzarr.store.remote.said import failure
from gpuzarr.store.remote.transport import DeniedError, Got, OutOfRange


class Memory:
    """A transport over a dict. `before(what, path)` is called first, and may wait or raise."""

    place = ("memory", None, "bucket")

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = lambda what, path: None
        self.deleted: list[str] = []

    def version(self, path: str) -> str:
        return f'"{hashlib.md5(self.objects[path]).hexdigest()}"'

    def get(self, path: str, start: int, nbytes: Any, version: Any, unless: Any, room: Any) -> Got | None:
        self.before("get", path)
        if path not in self.objects:
            return None
        whole = self.objects[path]
        if version not in (None, self.version(path)):
            raise ChangedError("another")
        first = max(len(whole) + start, 0) if start < 0 else start
        if first >= len(whole):
            raise OutOfRange
        data = whole[first:] if nbytes is None or start < 0 else whole[first : first + nbytes]
        room(len(data))
        return Got(data, self.version(path), first, len(whole))

    def size(self, path: str) -> int | None:
        self.before("size", path)
        return len(self.objects[path]) if path in self.objects else None

    def put(self, path: str, value: Any) -> None:
        lent = joined(value)
        self.before("put", path)
        self.objects[path] = bytes(lent)

    def put_if(self, path: str, value: Any, version: str | None) -> bool:
        if (self.version(path) if path in self.objects else None) != version:
            return False
        self.put(path, value)
        return True

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.deleted.append(path)
            self.objects.pop(path, None)

    def list(self, prefix: str) -> Iterator[str]:
        return iter([path for path in self.objects if path.startswith(prefix)])

    def list_dir(self, prefix: str) -> Iterator[str]:
        return iter({path[len(prefix) :].split("/")[0] for path in self.list(prefix)})


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def store(memory: Memory) -> BucketStore:
    return BucketStore(memory, "", "memory://bucket")


def test_a_put_that_fails_is_over_when_it_says_so(memory: Memory, store: BucketStore) -> None:
    """Nothing of it lands later, over what the caller stores next; nothing that is lent is still used."""
    go = threading.Event()

    def before(what: str, path: str) -> None:
        if path == "bad":
            go.set()
            raise ForbiddenError("no")
        go.wait(5)
        time.sleep(0.02)  # still on its way when the other has failed

    memory.before = before
    lent = bytearray(b"old")
    with pytest.raises(ForbiddenError):
        store.put([("good", lent), ("bad", b"")])
    memory.before = lambda what, path: None
    lent[:] = b"new"
    store.put([("good", b"later")])
    assert memory.objects["good"] == b"later"


def test_nobody_asks_for_memory_behind_an_error(memory: Memory, store: BucketStore) -> None:
    memory.objects = {"slow": b"1" * 10, "bad": b"2"}
    failed, asked = threading.Event(), []

    def before(what: str, path: str) -> None:
        if path == "bad":
            raise ForbiddenError("no")
        failed.wait(5)

    memory.before = before

    def place(i: int, nbytes: int) -> memoryview:
        asked.append(i)
        return memoryview(bytearray(nbytes))

    with pytest.raises(ForbiddenError):
        store.get_ranges([Request("slow"), Request("bad")], place)
    failed.set()
    deadline = time.monotonic() + 1
    while store.limit._active and time.monotonic() < deadline:
        time.sleep(0.001)
    assert asked == []


def test_a_place_that_refuses_ends_the_read(memory: Memory, store: BucketStore) -> None:
    memory.objects = {str(i): b"1" * 10 for i in range(20)}

    def place(i: int, nbytes: int) -> memoryview:
        raise LimitError("too much")

    with pytest.raises(LimitError):
        store.get_ranges([Request(str(i)) for i in range(20)], place)


def test_one_slow_server_takes_no_thread_from_another() -> None:
    slow, quick, go = Memory(), Memory(), threading.Event()
    for one in (slow, quick):
        one.objects = {str(i): bytes([i]) for i in range(200)}
    slow.before = lambda what, path: go.wait(5) and None
    waiting = BucketStore(slow, "", "memory://slow").stream([Request(str(i)) for i in range(200)])
    requests = [Request(str(i)) for i in range(200)]
    assert BucketStore(quick, "", "memory://quick").get_ranges(requests) == [bytes([i]) for i in range(200)]
    go.set()
    assert len(list(waiting)) == 200


def test_what_waits_to_be_taken_is_bounded(
    monkeypatch: pytest.MonkeyPatch, memory: Memory, store: BucketStore
) -> None:
    """Objects of unknown size come one behind the other, when there is room for them."""
    monkeypatch.setattr(flow, "AHEAD_NBYTES", 1000)
    memory.objects = {str(i): b"1" * 400 for i in range(30)}
    stream = store.stream([Request(str(i)) for i in range(30)])
    assert isinstance(stream, Stream)
    taken = 0
    for _ in stream:
        taken += 1
        with stream._came:
            assert stream._ahead <= 1000
    assert taken == 30


def test_threads_that_have_nothing_to_do_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_IDLE_S", 0.01)
    waiters, done = Waiters(4), threading.Semaphore(0)
    for _ in range(20):
        waiters.submit(done.release)
    for _ in range(20):
        assert done.acquire(timeout=5)
    deadline = time.monotonic() + 5
    while waiters._threads and time.monotonic() < deadline:
        time.sleep(0.005)
    assert waiters._threads == 0
    waiters.submit(done.release)
    assert done.acquire(timeout=5)


@pytest.mark.parametrize("shards", [None, (8,)])
def test_fill_values_in_part_of_an_object_delete_nothing(
    memory: Memory, store: BucketStore, shards: Any
) -> None:
    """What can be replaced only under a condition is not deleted without one."""
    chunks = 8 if shards is None else 2
    array = gpuzarr.create_array(store, shape=16, dtype="u1", chunks=chunks, shards=shards, fill_value=0)
    array[0:2] = 1
    memory.deleted.clear()
    array[0:2] = 0
    array[9] = 0  # of an object that is not there
    assert memory.deleted == []
    assert "c/1" not in memory.objects
    assert array[...].tolist() == [0] * 16
    array[0:8] = 0  # as a whole
    assert memory.deleted == ["c/0"]


def test_a_lost_answer_to_a_new_document(memory: Memory, store: BucketStore) -> None:
    """The second try finds its own first one there."""
    real, once = memory.put_if, []

    def lost(path: str, value: Any, version: str | None) -> bool:
        if path == "zarr.json" and not once:
            once.append(path)
            real(path, value, version)
        return real(path, value, version)

    memory.put_if = lost  # type: ignore[method-assign]
    assert gpuzarr.create_array(store, shape=4, dtype="u1").shape == (4,)
    assert once


def test_a_shard_that_goes_away_while_it_is_read(memory: Memory, store: BucketStore) -> None:
    """Its chunks are missing from then on; the handle is well."""
    array = gpuzarr.create_array(store, shape=8, dtype="u1", chunks=2, shards=(8,), fill_value=7)
    array[...] = np.arange(8)
    assert array[0:2].tolist() == [0, 1]
    del memory.objects["c/0"]
    assert array[2:4].tolist() == [7, 7]


XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>Because.</Message></Error>'


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        ("403 Forbidden", "AccessDenied", DeniedError, "403 AccessDenied: Because."),
        ("403 Forbidden", "SignatureDoesNotMatch", ForbiddenError, "the secret does not fit"),
        ("403 Forbidden", "InvalidAccessKeyId", ForbiddenError, "the key is not known"),
        ("400 Bad Request", "ExpiredToken", StoreError, "run out"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", StoreError, "region"),
        ("404 Not Found", "NoSuchBucket", StoreError, "no such bucket"),
    ],
)
def test_a_servers_reason_arrives(status: str, code: str, kind: type[Exception], says: str) -> None:
    from obstore import exceptions as theirs

    raised = theirs.PermissionDeniedError if status.startswith("403") else theirs.GenericError
    text = "Generic S3 error: Error performing GET http://h/b?X-Amz-Signature=secret in 1ms - "
    text += f"Server returned non-2xx status code: {status}: {XML.format(code)}"
    found = failure(raised(text), "a/c/0", (), write=False)
    assert type(found) is kind
    assert says in str(found)
    assert "secret=" not in str(found)
    assert "X-Amz" not in str(found)


def test_wrong_keys_are_never_missing(memory: Memory) -> None:
    """`missing_on_403` is for what may be missing."""
    store = BucketStore(memory, "", "memory://bucket", missing_on_403=True)

    def denied(what: str, path: str) -> None:
        raise DeniedError("denied")

    memory.before = denied
    assert store.get_ranges([Request("a"), Request("b")]) == [None, None]

    def wrong(what: str, path: str) -> None:
        raise ForbiddenError("no such key")

    memory.before = wrong
    with pytest.raises(ForbiddenError):
        store.get_ranges([Request("a"), Request("b")])


def test_servers_that_take_no_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one wins there; they are asked under a condition once."""
    import obstore
    from obstore import exceptions as theirs
    from obstore.store import MemoryStore

    modes: list[Any] = []
    real = obstore.put

    def put(store: Any, path: str, value: Any, **options: Any) -> Any:
        modes.append(options.get("mode"))
        if options.get("mode") not in (None, "overwrite"):
            raise theirs.GenericError("Server returned non-2xx status code: 501 Not Implemented")
        return real(store, path, value, **options)

    monkeypatch.setattr(obstore, "put", put)
    transport = Obstore(MemoryStore(), "memory")
    assert transport.put_if("a", b"1", None)
    assert transport.put_if("a", b"2", '"1"')
    assert modes == ["create", None, "overwrite"]
    assert transport.get("a", 0, None, None, None, lambda nbytes: None) is not None


def test_a_fault_leaves_no_signature_in_its_context() -> None:
    from obstore.store import HTTPStore

    from tests.servers.ranges import RangeServer

    with RangeServer({}, missing=403) as server:
        store = HTTPStore(f"{server.url}/?signature=do-not-show", client_options={"allow_http": True})
        with pytest.raises(DeniedError) as caught:
            Obstore(store, "there").get("a", 0, None, None, None, lambda nbytes: None)
    one: BaseException | None = caught.value
    while one is not None:
        assert "do-not-show" not in repr(one)
        one = one.__context__


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_shards_that_are_wanted_whole_come_with_their_index(
    memory: Memory, store: BucketStore, location: Any, device: str
) -> None:
    """One request a shard, where more than half of it is wanted and the rest is soon there; else two."""
    asked: list[str] = []
    array = gpuzarr.create_array(
        *(store,), shape=(40, 24), dtype="u2", chunks=(4, 8), shards=(16, 16), index_location=location
    )
    values = np.arange(1, 961, dtype=np.uint16).reshape(40, 24)
    array[...] = values
    memory.before = lambda what, path: asked.append(path)

    def read(key: Any) -> np.ndarray:
        from tests.conftest import to_host

        asked.clear()
        return to_host(gpuzarr.open_array(store, device=device)[key])

    assert np.array_equal(read(...), values)
    assert sorted(asked[1:]) == sorted(f"c/{i}/{j}" for i in range(3) for j in range(2))
    assert np.array_equal(read(np.s_[:10, :9]), values[:10, :9])
    assert asked[1:] == ["c/0/0"]
    assert np.array_equal(read(np.s_[:4, :9]), values[:4, :9])
    assert asked[1:] == ["c/0/0"] * 2
    memory.objects["c/1/0"] = memory.objects["c/1/0"][:50]
    with pytest.raises(gpuzarr.GpuzarrError, match="c/1/0"):
        read(...)


def sharded(store: BucketStore) -> np.ndarray:
    """Six shards of 16 by 16, of which one and some chunks of another are not stored."""
    array = gpuzarr.create_array(
        store, shape=(40, 24), dtype="u2", chunks=(4, 8), shards=(16, 16), fill_value=7
    )
    values = np.arange(1, 961, dtype=np.uint16).reshape(40, 24)
    values[16:32, 16:] = 7
    values[4:12, :8] = 7
    array[...] = values
    return values


def test_shards_are_decoded_as_they_come(memory: Memory, store: BucketStore) -> None:
    """The last one is sent when the others have been decoded, and no sooner."""
    values, out, seen = sharded(store), np.zeros((40, 24), np.uint16), []

    def before(what: str, path: str) -> None:
        for _ in range(500 if path == "c/2/1" else 0):
            seen[:] = [np.array_equal(out[:32], values[:32])]
            if seen[0]:
                break
            time.sleep(0.01)

    memory.before = before
    gpuzarr.open_array(store, device="cpu").read(out=out)
    assert seen == [True]
    np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("native", [1, 0])
@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_what_is_missing_in_shards_that_come_whole(
    memory: Memory, store: BucketStore, device: str, native: int
) -> None:
    from tests.conftest import to_host

    values, stats = sharded(store), gpuzarr.ReadStats()
    assert "c/1/1" not in memory.objects
    with gpuzarr.configured(native=native):
        array = gpuzarr.open_array(store, device=device)
        assert array.explain(...).requests == 6
        np.testing.assert_array_equal(to_host(array.read(stats=stats)), values)
        assert (stats.requests, stats.chunks) == (6, np.count_nonzero(values[::4, ::8] != 7))
        boxes = to_host(gpuzarr.open_array(store, device=device).patches([[0, 0], [8, 4]], (32, 20)))
    np.testing.assert_array_equal(boxes, [values[:32, :20], values[8:, 4:]])


def test_indexes_of_shards_that_came_whole_are_kept(memory: Memory, store: BucketStore) -> None:
    """Under their versions: nothing is asked twice, and what was replaced is seen."""
    values, asked = sharded(store), []
    array = gpuzarr.open_array(store, device="cpu")
    array[...]
    memory.before = lambda what, path: asked.append(path)
    np.testing.assert_array_equal(array[:4, :4], values[:4, :4])
    assert asked == ["c/0/0"]
    other = BucketStore(memory, "", "memory://other")
    gpuzarr.open_array(other, mode="r+", device="cpu")[:16, :16] = 3
    np.testing.assert_array_equal(array[:4, :4], np.full((4, 4), 3))


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_shards_that_come_whole_and_lie(memory: Memory, store: BucketStore, device: str) -> None:
    array = gpuzarr.create_array(store, shape=(16,), dtype="u2", chunks=(4,), shards=(16,), codecs=[])
    array[...] = np.arange(1, 17)
    sound = memory.objects["c/0"]
    array = gpuzarr.open_array(store, device=device)
    for at, value in ((0, 1 << 40), (0, len(sound) - 4), (8, 1 << 62), (8, 6)):
        index = bytearray(sound[-68:-4])
        index[at : at + 8] = value.to_bytes(8, "little")
        checksum = google_crc32c.value(bytes(index)).to_bytes(4, "little")
        memory.objects["c/0"] = sound[:-68] + bytes(index) + checksum
        with pytest.raises(ChunkError, match="c/0"):
            array[...]
    memory.objects["c/0"] = bytes(81 << 20)
    with pytest.raises(ChunkError, match=r"a shard of 84934656 bytes, which could need"):
        array[...]
