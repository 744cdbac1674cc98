"""Stores of zarr-python: the one contract over many of them; what one of the two libraries writes the other
reads; how many requests there are, and how many at once; versions of Icechunk repositories."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from packaging.version import Version

import gpuzarr
from gpuzarr.errors import ArgumentError, ForbiddenError, NotFoundError, ReadOnlyError, StoreError
from gpuzarr.store import coroutines, zarr_store
from gpuzarr.store.base import Request, Store, StreamingStore, WritableStore
from gpuzarr.store.coroutines import IN_FLIGHT
from gpuzarr.store.zarr_store import ZarrStore, is_zarr_store
from gpuzarr.testing.store import OBJECTS, StoreContract

zarr = pytest.importorskip("zarr", minversion="3.1", reason="zarr-python 3 is the oracle")

from zarr.abc.store import RangeByteRequest  # noqa: E402
from zarr.buffer.cpu import Buffer, buffer_prototype  # noqa: E402
from zarr.core.sync import sync  # noqa: E402
from zarr.storage import (  # noqa: E402
    FsspecStore,
    LocalStore,
    LoggingStore,
    MemoryStore,
    ObjectStore,
    WrapperStore,
    ZipStore,
)

VALUES = np.arange(20 * 30, dtype="<i4").reshape(20, 30)


def filled(store: Any, objects: Mapping[str, bytes]) -> Any:
    """A store of zarr-python with objects that zarr-python put there."""

    async def fill() -> None:
        for key, value in objects.items():
            await store.set(key, Buffer.from_bytes(value))

    sync(fill())
    return store


def obstore_memory(_: Path) -> Any:
    return ObjectStore(pytest.importorskip("obstore.store", reason="obstore is not there").MemoryStore())


MAKERS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryStore(),
    "local": lambda path: LocalStore(path / uuid4().hex),
    "obstore": obstore_memory,
    "fsspec": lambda _: FsspecStore.from_url(f"memory://{uuid4().hex}"),
    "wrapped": lambda _: WrapperStore(LoggingStore(MemoryStore(), log_level="ERROR")),
}


class _Contract(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.path = tmp_path

    kind = ""

    def make(self, objects: Mapping[str, bytes]) -> Store:
        return ZarrStore(filled(MAKERS[self.kind](self.path), objects))

    def test_beyond_the_end(self) -> None:
        """Ranges that lie behind all bytes are empty, in objects that hold none too."""
        requests = [
            Request("a/c/0/0", 1024, 10),
            Request("a/c/0/0", 5000, None),
            Request("a/c/0/1", 0, 5),
            Request("a/c/0/1", 5, 0),
            Request("a/c/0/1", -5, None),
            Request("a/c/0/1", 3, None),
            Request("nothing", 5, 0),
        ]
        found = self.make(OBJECTS).get_ranges(requests)
        assert [None if one is None else bytes(one) for one in found] == [b""] * 6 + [None]

    def test_streams(self) -> None:
        """Each answer once, with its number."""
        store = self.make(OBJECTS)
        assert isinstance(store, StreamingStore)
        keys = [*OBJECTS, "nothing"] * 30
        found = dict(store.stream([Request(key) for key in keys]))
        assert len(found) == len(keys)
        for i, key in enumerate(keys):
            assert (None if found[i] is None else bytes(found[i])) == OBJECTS.get(key)


class TestMemory(_Contract):
    kind = "memory"


class TestLocal(_Contract):
    kind = "local"


class TestObstore(_Contract):
    kind = "obstore"


class TestFsspec(_Contract):
    kind = "fsspec"


class TestWrapped(_Contract):
    kind = "wrapped"


class TestZip(_Contract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        return ZarrStore(filled(ZipStore(self.path / f"{uuid4().hex}.zip", mode="w"), objects))

    def _writable(self, objects: Mapping[str, bytes] = OBJECTS) -> WritableStore | None:
        return None  # archives of zarr-python take new objects; what is there cannot be replaced or deleted

    def test_what_is_there_stays(self) -> None:
        store = self.make({"a": b"1"})
        assert isinstance(store, WritableStore)
        store.put([("b", b"2")])
        with pytest.raises(ReadOnlyError, match=r"cannot delete a at .*zip"):
            store.delete(["a"])
        assert sorted(store.list()) == ["a", "b"]


# ---- what is one


def test_is_zarr_store_imports_nothing() -> None:
    code = (
        "import sys\nfrom gpuzarr.store.zarr_store import is_zarr_store\n"
        "print(is_zarr_store({}), is_zarr_store('a'), {'zarr', 'icechunk'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "set()"]


@pytest.mark.parametrize("kind", MAKERS)
def test_stores_are_known_as_such(kind: str, tmp_path: Path) -> None:
    target = MAKERS[kind](tmp_path)
    assert is_zarr_store(target)
    store = ZarrStore(target)
    assert not is_zarr_store(store)
    remote = kind in ("obstore", "fsspec")
    assert (store.traits.concurrency > 1) == remote
    assert store.place("a") == ZarrStore(target).place("a") != ZarrStore(MAKERS[kind](tmp_path)).place("a")
    assert repr(store) == f"ZarrStore({store.url})"


def test_nothing_else_is() -> None:
    with pytest.raises(ArgumentError, match="dict is no store"):
        ZarrStore({})


def test_urls_hold_no_credentials(tmp_path: Path) -> None:
    stores = pytest.importorskip("obstore.store", reason="obstore is not there")
    s3 = {"access_key_id": "AKIA", "secret_access_key": "hidden", "region": "r"}
    named = {
        f"{tmp_path}": LocalStore(tmp_path),
        "S3Store:bucket/some/place": ObjectStore(stores.S3Store("bucket", prefix="some/place", **s3)),
        "HTTPStore:https://example.org/a": ObjectStore(
            stores.HTTPStore.from_url("https://me:hidden@example.org/a?sig=hidden")
        ),
    }
    for url, target in named.items():
        store = ZarrStore(target)
        assert store.url == url
        assert "hidden" not in f"{store!r}"


# ---- arrays: zarr-python is the oracle


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("how", [{}, {"zarr_format": 2}, {"shards": (8, 16)}], ids=["v3", "v2", "shards"])
def test_reads_what_zarr_python_wrote(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    target = MAKERS[kind](tmp_path)
    theirs = zarr.create_array(
        target, name="g/a", shape=VALUES.shape, dtype="i4", chunks=(4, 8), fill_value=7, **how
    )
    theirs[:13] = VALUES[:13]
    ours = gpuzarr.open(ZarrStore(target), device="cpu")
    assert [name for name, _ in ours["g"].arrays()] == ["a"]
    array = ours["g/a"]
    expected = theirs[...]
    assert np.array_equal(expected[:13], VALUES[:13])
    for key in (..., (slice(3, 18, 5), slice(None, None, -1)), ([1, 9, 1], slice(2, 4))):
        assert np.array_equal(array[key], expected[key])


@pytest.mark.parametrize("kind", MAKERS)
def test_zarr_python_reads_what_was_written(kind: str, tmp_path: Path) -> None:
    target = MAKERS[kind](tmp_path)
    array = gpuzarr.save(ZarrStore(target), VALUES, path="g/a", chunks=(4, 8), shards=(8, 16), device="cpu")
    array[2:5, ::3] = -1
    array.append(VALUES)
    expected = np.concatenate((VALUES, VALUES))
    expected[2:5, ::3] = -1
    theirs = zarr.open_group(target, mode="r")["g/a"]
    assert np.array_equal(theirs[...], expected)
    array.resize((5, 30))
    assert np.array_equal(zarr.open_group(target, mode="r")["g/a"][...], expected[:5])
    gpuzarr.create_group(ZarrStore(target), "g", overwrite=True)
    assert sorted(zarr.open_group(target, mode="r")["g"].keys()) == []


def test_a_store_for_reading_is_not_written(tmp_path: Path) -> None:
    store = ZarrStore(filled(MemoryStore(), OBJECTS).with_read_only(True))
    for change in (
        lambda: store.put([("a", b"1")]),
        lambda: store.delete(["ab"]),
        lambda: store.delete_below("a/"),
    ):
        with pytest.raises(ReadOnlyError, match="cannot be written"):
            change()
    assert sorted(store.list()) == sorted(OBJECTS)
    with pytest.raises(ReadOnlyError, match="cannot be written"):
        gpuzarr.create_array(ZarrStore(MemoryStore(read_only=True)), shape=(1,), dtype="u1")


def test_missing_array() -> None:
    with pytest.raises(NotFoundError, match=r"no zarr\.json"):
        gpuzarr.open(ZarrStore(MemoryStore()), "a")


def test_another_process_gets_the_same_store(tmp_path: Path) -> None:
    store = ZarrStore(filled(LocalStore(tmp_path), OBJECTS))
    (found,) = pickle.loads(pickle.dumps(store)).get_ranges([Request("ab")])
    assert bytes(found) == OBJECTS["ab"]


# ---- how many requests, and how many at once


class Watched(WrapperStore):  # type: ignore[misc]
    """Keeps what was asked, and lets nobody through before so many have come together."""

    def __init__(self, store: Any, together: int = 1) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, Any]] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.together = together
        self.flying = self.most = 0
        self.gate: asyncio.Event | None = None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.asked.append((key, byte_range))
        self.loops.add(asyncio.get_running_loop())
        self.gate = self.gate or asyncio.Event()
        self.flying += 1
        self.most = max(self.most, self.flying)
        if self.flying >= self.together:
            self.gate.set()
        try:
            async with asyncio.timeout(20):  # else this test would not end
                await self.gate.wait()
            return await super().get(key, prototype, byte_range)
        finally:
            self.flying -= 1


def test_one_request_a_document_and_one_a_chunk() -> None:
    target = Watched(MemoryStore())
    zarr.create_array(target._store, shape=VALUES.shape, dtype="i4", chunks=(10, 10))[...] = VALUES
    array = gpuzarr.open(ZarrStore(target), device="cpu")
    assert [key for key, _ in target.asked] == ["zarr.json"]
    target.asked.clear()
    assert np.array_equal(array[...], VALUES)
    assert sorted(target.asked) == sorted((f"c/{i}/{j}", None) for i in range(2) for j in range(3))
    target.asked.clear()
    assert np.array_equal(array[12:, 25:], VALUES[12:, 25:])
    assert target.asked == [("c/1/2", None)]


def test_shards_are_read_by_ranges() -> None:
    target = Watched(MemoryStore())
    options = {"chunks": (4, 6), "shards": (20, 30), "compressors": None}
    zarr.create_array(target._store, shape=VALUES.shape, dtype="i4", **options)[...] = VALUES
    array = gpuzarr.open(ZarrStore(target), device="cpu")
    target.asked.clear()
    assert np.array_equal(array[0:4, 0:6], VALUES[0:4, 0:6])
    (_, index), (_, chunk) = target.asked
    assert index.suffix == 25 * 16 + 4
    assert isinstance(chunk, RangeByteRequest)
    assert chunk.end - chunk.start == 4 * 6 * 4


def test_all_requests_of_a_read_are_in_flight_at_once() -> None:
    inner = filled(MemoryStore(), {f"k{i}": bytes([i]) for i in range(100)})
    target = Watched(inner, together=30)
    found = ZarrStore(target).get_ranges([Request(f"k{i}") for i in range(30)])
    assert [bytes(one) for one in found] == [bytes([i]) for i in range(30)]
    assert (target.most, len(target.asked)) == (30, 30)
    many = Watched(inner, together=IN_FLIGHT)
    ZarrStore(many).get_ranges([Request(f"k{i}") for i in range(100)])
    assert (many.most, len(many.asked)) == (IN_FLIGHT, 100)


def test_an_array_s_chunks_are_in_flight_at_once() -> None:
    target = Watched(MemoryStore())
    zarr.create_array(target._store, shape=VALUES.shape, dtype="i4", chunks=(5, 5))[...] = VALUES
    array = gpuzarr.open(ZarrStore(target), device="cpu")
    target.together, target.gate = 24, None
    assert np.array_equal(array[...], VALUES)
    assert target.most == 24


def test_requests_share_zarr_python_s_event_loop() -> None:
    """Else a connection of a store would belong to one loop and be used on another."""
    target = Watched(MemoryStore())
    zarr.create_array(target._store, shape=(4,), dtype="i4", chunks=(2,))[...] = 1

    class Hidden(Watched):  # zarr-python asks stores that can be read without a loop without it
        _supports_sync_io = False

    seen = Hidden(target._store)
    assert zarr.open_array(seen, mode="r+")[...].sum() == 4  # for mode "r" it makes a store of its own
    assert len(seen.loops) == 1
    assert gpuzarr.open(ZarrStore(seen), device="cpu")[...].sum() == 4
    assert len(seen.loops) == 1


# ---- streams


class Held(WrapperStore):  # type: ignore[misc]
    """Answers nothing until it may."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.begun = threading.Semaphore(0)
        self.may: asyncio.Event | None = None
        self.given_up = threading.Semaphore(0)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.may = self.may or asyncio.Event()
        self.begun.release()
        try:
            if key.startswith("k"):
                await self.may.wait()
        except asyncio.CancelledError:
            self.given_up.release()
            raise
        return await super().get(key, prototype, byte_range)


def test_answers_come_as_they_are_there() -> None:
    store = ZarrStore(Held(filled(MemoryStore(), {"k": b"slow", "quick": b"quick"})))
    answers = store.stream([Request("k"), Request("quick"), Request("nothing")])
    first = sorted([next(answers), next(answers)])
    assert [(i, None if one is None else bytes(one)) for i, one in first] == [(1, b"quick"), (2, None)]
    zarr_store._zarrs_loop().call_soon_threadsafe(store.store.may.set)
    assert [(i, bytes(one or b"")) for i, one in answers] == [(0, b"slow")]
    assert list(answers) == []


def test_close_gives_up_what_is_in_flight() -> None:
    target = Held(filled(MemoryStore(), {"k": b"", "quick": b"1"}))
    answers = ZarrStore(target).stream([Request("k"), Request("k"), Request("quick")])
    assert next(answers)[0] == 2
    ended: list[list[Any]] = []
    waiting = [threading.Thread(target=lambda: ended.append(list(answers)), daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while answers._taken < 3:  # both wait
        assert all(thread.is_alive() for thread in waiting)
    answers.close()
    answers.close()
    for thread in waiting:
        thread.join(20)
    assert ended == [[], []]
    assert all(target.given_up.acquire(timeout=20) for _ in range(2))


def test_threads_share_a_stream() -> None:
    objects = {f"{i}": bytes([i % 256]) * i for i in range(300)}
    answers = ZarrStore(filled(MemoryStore(), objects)).stream([Request(key) for key in objects])
    found: list[tuple[int, bytes]] = []
    threads = [
        threading.Thread(target=lambda: found.extend((i, bytes(one or b"")) for i, one in answers))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [(i, objects[f"{i}"]) for i in range(300)]


def test_what_is_in_flight_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "AHEAD_NBYTES", 1000)
    target = Watched(filled(MemoryStore(), {"a": b"x" * 400}))
    store = ZarrStore(target)
    answers = store.stream([Request("a", 0, 400)] * 20)
    for taken in range(20):
        assert next(answers)[1] is not None
        assert len(target.asked) <= min(taken + 3, 20)
    assert len(target.asked) == 20
    monkeypatch.setattr(coroutines, "_UNKNOWN_NBYTES", 100)  # of whole objects, until the first has come
    target.asked.clear()
    answers = store.stream([Request("a")] * 40)
    for taken in range(1, 41):
        next(answers)
        assert len(target.asked) <= max(10, taken + 4)
    assert len(target.asked) == 40


def test_the_first_error_ends_a_stream_and_comes_once() -> None:
    answers = ZarrStore(Failing(RuntimeError("on fire"))).stream([Request("bad")] * 20)
    raised: list[str] = []

    def take() -> None:
        try:
            raised.extend(f"{i} was answered" for i, _ in answers)
        except StoreError as error:
            raised.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    (said,) = raised
    assert said.startswith("cannot read bad at ")
    assert said.endswith("RuntimeError: on fire")
    assert list(answers) == []


# ---- where it is called from


def test_inside_of_a_running_loop() -> None:
    """As in a notebook."""
    target = MemoryStore()
    zarr.create_array(target, shape=VALUES.shape, dtype="i4", chunks=(5, 5))[...] = VALUES

    async def cell() -> Any:
        return gpuzarr.open(ZarrStore(target), device="cpu")[...]

    assert np.array_equal(asyncio.run(cell()), VALUES)


def test_not_on_the_loop_that_it_waits_for() -> None:
    store = ZarrStore(filled(MemoryStore(), OBJECTS))

    async def ask() -> Any:
        return store.get_ranges([Request("ab")])

    with pytest.raises(StoreError, match="waits for that loop"):
        sync(ask())


def test_a_forked_process_has_a_loop_of_its_own(tmp_path: Path) -> None:
    store = ZarrStore(filled(LocalStore(tmp_path), OBJECTS))
    assert store.exists("ab")
    if (child := os.fork()) == 0:
        signal.alarm(20)
        (found,) = store.get_ranges([Request("ab")])
        os._exit(0 if found is not None and bytes(found) == OBJECTS["ab"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.exists("ab")


# ---- stores that fail


class Failing(WrapperStore):  # type: ignore[misc]
    """Raises for what is called `bad`; says of it that it exists, or raises that too."""

    def __init__(self, error: BaseException, exists: bool | BaseException = True) -> None:
        super().__init__(filled(MemoryStore(), OBJECTS))
        self.error, self.there = error, exists

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key == "bad":
            raise self.error
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        if key == "bad" and isinstance(self.there, BaseException):
            raise self.there
        return self.there is True if key == "bad" else await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        if key == "bad":
            raise self.error
        await super().set(key, value)


def test_absent_is_what_the_store_stands_by() -> None:
    """An error that says so is not believed where the key is there: what it refers to is missing, and fill
    values would be wrong."""
    for error in (KeyError("bad"), FileNotFoundError("bad"), type("NoNotFoundError", (Exception,), {})()):
        assert ZarrStore(Failing(error, exists=False)).get_ranges([Request("bad")]) == [None]
        assert ZarrStore(Failing(error, exists=KeyError())).get_ranges([Request("bad")]) == [None]
        for exists in (True, NotImplementedError(), OSError("down")):
            with pytest.raises(StoreError, match="cannot read bad"):
                ZarrStore(Failing(error, exists)).get_ranges([Request("bad")])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("on fire"),
        ModuleNotFoundError("No module named 'aiobotocore'"),
        NotImplementedError(),
        MemoryError(),
        asyncio.CancelledError(),
        SystemExit(3),
        KeyboardInterrupt(),
        type("PanicException", (BaseException,), {})("rust panicked"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_store_raises_is_a_store_error(error: BaseException) -> None:
    store = ZarrStore(Failing(error, exists=KeyError()))
    with pytest.raises(StoreError, match=type(error).__name__):
        store.get_ranges([Request("ab"), Request("bad")])
    (found,) = store.get_ranges([Request("ab")])  # zarr-python's loop lives on
    assert bytes(found or b"") == OBJECTS["ab"]


def test_forbidden() -> None:
    for error in (PermissionError("no"), type("PermissionDeniedError", (Exception,), {})("no")):
        store = ZarrStore(Failing(error))
        with pytest.raises(ForbiddenError, match="cannot read bad"):
            store.get_ranges([Request("bad", 3, 4)])
        with pytest.raises(ForbiddenError, match="cannot write bad") as caught:
            store.put([("good", b"1"), ("bad", b"2")])
        assert caught.value.chunk == "bad"


def test_messages_hold_no_credentials() -> None:
    said = "404 for https://me:hidden@host/a?X-Amz-Signature=hidden"
    with pytest.raises(StoreError, match="404 for https://host/a") as caught:
        ZarrStore(Failing(RuntimeError(said))).get_ranges([Request("bad")])
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


class Lying(WrapperStore):  # type: ignore[misc]
    def __init__(self, answer: Any) -> None:
        super().__init__(MemoryStore())
        self.answer = answer

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        return self.answer


def test_answers_that_are_none() -> None:
    for answer in (b"bytes", 3, [1]):
        with pytest.raises(StoreError, match="cannot read a"):
            ZarrStore(Lying(answer)).get_ranges([Request("a")])
    for request in (Request("a", 0, 4), Request("a", -4, 4), Request("a", -4)):
        with pytest.raises(StoreError, match="gave 10 bytes of a where 4"):
            ZarrStore(Lying(Buffer.from_bytes(b"0123456789"))).get_ranges([request])


def test_bytes_are_not_copied() -> None:
    array = np.frombuffer(b"0123", "u1")
    (found,) = ZarrStore(Lying(buffer_prototype.buffer(array))).get_ranges([Request("a")])
    assert np.shares_memory(np.asarray(found), array)


def test_a_store_that_does_not_list() -> None:
    class Blind(WrapperStore):  # type: ignore[misc]
        def list_prefix(self, prefix: str) -> Any:
            raise NotImplementedError

    store = ZarrStore(Blind(MemoryStore()))
    with pytest.raises(StoreError, match="does not list"):
        store.list()


# ---- VirtualiZarr


def test_chunks_inside_of_hdf5_files(tmp_path: Path) -> None:
    reason = "VirtualiZarr, its HDF5 parser or h5py is not there"
    h5py = pytest.importorskip("h5py", reason=reason)
    parsers = pytest.importorskip("virtualizarr.parsers", reason=reason)
    registry = pytest.importorskip("obspec_utils.registry", reason=reason)
    stores = pytest.importorskip("obstore.store", reason=reason)
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        options = {"chunks": (7, 8), "compression": "gzip", "shuffle": True}
        file.create_dataset("g/a", data=VALUES, **options)
        file.create_dataset("whole", data=VALUES[0].astype("f8"))
    known = registry.ObjectStoreRegistry({"file://": stores.LocalStore()})
    target = parsers.HDFParser()(url=f"file://{path}", registry=known)
    group = gpuzarr.open(ZarrStore(target), device="cpu")
    assert sorted(name for name, _ in group.groups()) == ["g"]
    array = group["g/a"]
    assert np.array_equal(array[...], VALUES)
    assert np.array_equal(array[3:9, ::4], VALUES[3:9, ::4])
    assert np.array_equal(group["whole"][...], VALUES[0].astype("f8"))
    with pytest.raises(ReadOnlyError, match="cannot be written"):
        ZarrStore(target).put([("whole/c/0", b"1")])
    path.unlink()
    with pytest.raises(StoreError, match="cannot read g/a/c"):
        array[...]


# ---- Icechunk


try:
    VERSION = Version(version("icechunk")).release
except PackageNotFoundError:
    VERSION = (0,)


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    """Two versions on main, the first with a tag, and a branch from there."""
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not there")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    theirs = zarr.create_array(session.store, name="g/a", shape=VALUES.shape, dtype="i4", chunks=(5, 30))
    theirs[...] = VALUES
    first = session.commit("first")
    repo.create_tag("v1", snapshot_id=first)
    repo.create_branch("dev", snapshot_id=first)
    for branch, value in (("main", -1), ("dev", -2)):
        session = repo.writable_session(branch)
        zarr.open_group(session.store)["g/a"][0] = value
        session.commit(f"{value}")
    repo.first = first
    return repo


def test_versions(repository: Any) -> None:
    for which, first in (
        ({"tag": "v1"}, VALUES[0]),
        ({"snapshot_id": repository.first}, VALUES[0]),
        ({"branch": "main"}, -1),
        ({"branch": "dev"}, -2),
    ):
        session = repository.readonly_session(**which)
        expected = VALUES.copy()
        expected[0] = first
        for target in (session, session.store):
            assert is_zarr_store(target)
            array = gpuzarr.open(ZarrStore(target), "g/a", device="cpu")
            assert np.array_equal(array[...], expected)
            assert np.array_equal(zarr.open_group(session.store, mode="r")["g/a"][...], expected)
            with pytest.raises(ReadOnlyError, match="cannot be written"):
                gpuzarr.open(ZarrStore(target), "g/a", mode="r+", device="cpu")[0] = 1


def test_the_bytes_of_a_repository(repository: Any) -> None:
    """Ranges and absence as in the contract, which has keys that Icechunk does not take."""
    session = repository.readonly_session("main")
    store = ZarrStore(session)
    keys = ["zarr.json", "g/zarr.json", "g/a/zarr.json", *(f"g/a/c/{i}/0" for i in range(4))]
    assert sorted(store.list()) == sorted(keys)
    assert sorted(store.list("g/a/c/")) == sorted(keys[3:])
    assert sorted(store.list("nothing/")) == []
    assert sorted(store.list_dir("g/a/")) == ["c", "zarr.json"]
    assert sorted(store.list_dir("nothing/")) == []
    whole = sync(session.store.get("g/a/c/1/0", buffer_prototype)).to_bytes()
    n = len(whole)
    ranges = [(0, 9), (9, None), (-9, None), (-9, 3), (n - 3, 99), (-9999, None), (5, 0)]
    expected = [whole[:9], whole[9:], whole[-9:], whole[-9:-6], whole[-3:], whole, b""]
    if VERSION >= (2,):  # 1.1 gives bytes, or panics, behind the end of what a manifest holds
        ranges, expected = [*ranges, (n, 5), (n + 5, None)], [*expected, b"", b""]
    found = store.get_ranges([Request("g/a/c/1/0", *one) for one in ranges])
    assert [bytes(one or b"") for one in found] == expected
    absent = ["g/a/c/9/9", "nothing/zarr.json", "g/a", "g/a/.zarray", "no key of a node"]
    assert store.get_ranges([Request(key) for key in absent]) == [None] * len(absent)
    assert [store.exists(key) for key in [*absent, "g/a/c/3/0"]] == [False] * 5 + [True]
    with pytest.raises(NotFoundError):
        gpuzarr.open(store, "g/b")


def test_a_session_is_written_and_committed(repository: Any) -> None:
    session = repository.writable_session("main")
    group = gpuzarr.create_group(ZarrStore(session), "new", device="cpu")
    array = gpuzarr.create_array(
        ZarrStore(session),
        "new/b",
        shape=VALUES.shape,
        dtype="i4",
        chunks=(4, 6),
        shards=(8, 12),
        device="cpu",
    )
    array[...] = VALUES
    array[3, 3] = 99
    array.resize((19, 30))
    gpuzarr.open(ZarrStore(session), "g/a", mode="r+", device="cpu")[:, 0] = 5
    assert [name for name, _ in group.arrays()] == ["b"]
    assert "new" not in zarr.open_group(repository.readonly_session("main").store, mode="r")
    session.commit("written by gpuzarr")
    expected = VALUES[:19].copy()
    expected[3, 3] = 99
    theirs = zarr.open_group(repository.readonly_session("main").store, mode="r")
    assert np.array_equal(theirs["new/b"][...], expected)
    assert np.array_equal(theirs["g/a"][:, 0], np.full(20, 5))
    assert np.array_equal(theirs["g/a"][1:, 1:], VALUES[1:, 1:])


def test_what_icechunk_does_not_take(repository: Any) -> None:
    session = repository.writable_session("main")
    store = ZarrStore(session)
    with pytest.raises(StoreError, match=r"cannot write g/b/c/0 at icechunk:main@"):
        store.put([("g/b/c/0", b"before its array")])
    with pytest.raises(StoreError, match="cannot write no key"):
        store.put([("no key", b"1")])
    store.delete(["g/a/c/0/0", "g/a/c/0/0", "g/a/c/9/9", "nothing/zarr.json"])
    store.delete_below("nothing/")
    assert sorted(store.list("g/a/c/")) == [f"g/a/c/{i}/0" for i in range(1, 4)]
    (document,) = store.get_ranges([Request("g/a/zarr.json")])
    store.put(
        [("g/a/zarr.json", json.dumps({**json.loads(bytes(document or b"")), "shape": [8, 30]}).encode())]
    )
    with pytest.raises(StoreError, match=r"cannot delete g/a/c/2/0 .*discard"):
        store.delete(["g/a/c/2/0"])  # else it came back when the array grows again
    session.discard_changes()
    store.delete_below("g/")
    assert sorted(store.list()) == ["zarr.json"]


def test_documents_come_first_and_go_last(repository: Any) -> None:
    """`save`, `append`, `copy` and `resize` in the order that Icechunk wants, behind one commit."""
    session = repository.writable_session("main")
    array = gpuzarr.save(session, VALUES, "saved/a", chunks=(4, 6))
    array.append(VALUES[:3])
    array.resize((7, 30))
    array.resize((9, 30))
    gpuzarr.copy(session, session, path="saved", target_path="copied")
    session.commit("written")
    expected = np.concatenate([VALUES[:7], np.zeros((2, 30), VALUES.dtype)])
    theirs = zarr.open_group(repository.readonly_session("main").store, mode="r")
    assert np.array_equal(theirs["saved/a"][...], expected)
    assert np.array_equal(theirs["copied/a"][...], expected)


def test_a_lost_chunk_of_a_repository_is_no_fill_value(repository: Any, tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not there")
    session = repository.writable_session("main")
    noise = np.random.default_rng(0).integers(0, 1 << 30, (2, 1000), "i4")
    zarr.create_array(session.store, name="n", shape=noise.shape, dtype="i4", chunks=(1, 1000))[...] = noise
    session.commit("too large to be kept in a manifest")
    for path in (tmp_path / "repo" / "chunks").iterdir():
        path.unlink()
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    array = gpuzarr.open(ZarrStore(repo.readonly_session("main")), "n", device="cpu")
    with pytest.raises(StoreError, match="cannot read n/c/"):
        array[...]


@pytest.mark.skipif(VERSION < (2,), reason="icechunk before version 2 is told otherwise what may be read")
def test_virtual_chunks_of_a_repository(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not there")
    files, url = tmp_path / "files", f"file://{tmp_path}/files/"
    files.mkdir()
    (files / "raw").write_bytes(b"head" + VALUES.tobytes())
    config = icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer(url, icechunk.local_filesystem_store(str(files)))
    config.set_virtual_chunk_container(container)
    may = {url: icechunk.credentials.LocalFileSystemAccess}
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repo"))
    repo = icechunk.Repository.create(storage, config=config, authorize_virtual_chunk_access=may)
    store = repo.writable_session("main").store
    options = {"chunks": (5, 30), "compressors": None}
    theirs = zarr.create_array(store, name="a", shape=VALUES.shape, dtype="<i4", **options)
    for i in range(4):
        store.set_virtual_ref(f"a/c/{i}/0", f"{url}raw", offset=4 + 600 * i, length=600)
    assert np.array_equal(theirs[...], VALUES)
    array = gpuzarr.open(ZarrStore(store), "a", device="cpu")
    assert np.array_equal(array[...], VALUES)
    (files / "raw").unlink()
    with pytest.raises(StoreError, match="cannot read a/c/"):
        array[...]
