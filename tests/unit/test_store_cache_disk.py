"""What is kept on a disk: damaged files, processes that are killed, directories that are not ours."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gpuzarr.errors import ArgumentError, LimitError, StoreError
from gpuzarr.store.base import Request
from gpuzarr.store.caching import disk as cache_disk
from gpuzarr.store.caching import file as cache_file
from gpuzarr.store.caching import usage as cache_usage
from gpuzarr.store.caching.disk import DiskCache
from gpuzarr.store.caching.opening import cached
from gpuzarr.store.caching.ranges import Found, Span
from gpuzarr.store.caching.store import cached_store
from tests.unit.test_store_cache import Server, got

WHOLE = random.Random(1).randbytes(3 << 20)


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("??/*/[vhn]*"))


def load(cache: DiskCache, name: str, label: str, *request: Any) -> bytes | None:
    (kept,) = cache.find(name, label, [Request("k", *request)])
    loaded = kept and kept.load()
    return None if loaded is None else bytes(loaded.data)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 64 << 20)


# ---- files


@pytest.mark.parametrize("version", ['"1"', None])
def test_every_damaged_byte_is_a_miss(tmp_path: Path, cache: DiskCache, version: str | None) -> None:
    """Also a file that ends early, or goes on; the file is removed, and the store behind asked again."""
    cache.keep("name", '="1"', version, Span(3, 9, 9), b"kept!?")
    (file,) = files(tmp_path / "cache")
    right = file.read_bytes()
    damaged = [
        right[:i] + bytes([right[i] ^ flip]) + right[i + 1 :] for i in range(len(right)) for flip in (1, 128)
    ]
    damaged += [right[:n] for n in range(len(right))] + [right + b"\0", right + right]
    for wrong in damaged:
        file.write_bytes(wrong)
        assert load(cache, "name", '="1"', 3) is None
        assert not file.exists()
        file.write_bytes(wrong)
        assert cache.version("name") in (None, '"1"')
    file.write_bytes(right)
    assert load(cache, "name", '="1"', 4, 2) == b"ep"
    assert cache.version("name") == version


def test_a_renamed_file_is_a_miss(tmp_path: Path, cache: DiskCache) -> None:
    """Under another object's name, another label, or for other bytes."""
    for name, label in (("name", "=1"), ("other", "=1"), ("name", "=2")):
        cache.keep(name, label, label[1:], Span(0, 4, None), name.encode()[:3] + label[1:].encode())
    folder, other = sorted(
        {file.parent for file in files(tmp_path / "cache")}, key=lambda one: len([*one.iterdir()])
    )
    assert len([*other.iterdir()]) == 2
    one, two = sorted(other.iterdir())
    kept = one.read_bytes()
    for target in (next(folder.iterdir()), two, one.with_name(one.name.replace("_0_4_", "_1_5_"))):
        target.write_bytes(kept)
    assert load(cache, "other", "=1", 0, 4) is None
    assert [load(cache, "name", f"={n}", 0, 4) for n in (1, 2)].count(None) == 1
    assert [load(cache, "name", f"={n}", 1, 4) for n in (1, 2)] == [None, None]
    assert cache.version("other") is None


@pytest.mark.parametrize(
    "name", ["v_0_4_", "x", "v" + 16 * "0" + "_9_2_", "n" + 16 * "0" + "_-7_99_3", ".~1.2.3", "lock"]
)
def test_strange_files_are_nobodys(tmp_path: Path, cache: DiskCache, name: str) -> None:
    cache.keep("name", "", None, Span(0, 4, 4), b"kept")
    (file,) = files(tmp_path / "cache")
    (file.parent / name).write_bytes(b"strange")
    (file.parent / (name + "d")).mkdir()
    assert load(cache, "name", "") == b"kept"
    assert load(cache, "name", "", 7, 9) == b""
    assert cache.version("name") is None
    cache._usage.settle()
    cache.forget("name")
    assert not file.exists()


def test_parts_of_large_ranges_are_checked_by_blocks(tmp_path: Path, cache: DiskCache) -> None:
    cache.keep("name", "=1", "1", Span(0, len(WHOLE), len(WHOLE)), WHOLE)
    for start, nbytes in (
        (0, 10),
        (1 << 20, 1 << 20),
        ((1 << 20) - 1, 3),
        (2 << 20, 1 << 20),
        (3 << 20, 1),
        (5, 0),
    ):
        assert load(cache, "name", "=1", start, nbytes) == WHOLE[start:][:nbytes]
    assert load(cache, "name", "=1", -7) == WHOLE[-7:]
    (file,) = files(tmp_path / "cache")
    with file.open("r+b") as opened:
        opened.seek(-10, os.SEEK_END)
        opened.write(b"x")
    assert load(cache, "name", "=1", 0, 1 << 20) == WHOLE[: 1 << 20], "another block's damage"
    assert load(cache, "name", "=1", 2 << 20, 4) is None
    assert not file.exists()


def test_bytes_go_where_the_caller_wants_them(cache: DiskCache) -> None:
    """The answer is the very view that the caller gave, or the bytes are elsewhere."""
    server = Server({"a": WHOLE})
    got(cached_store(server, [cache], "never"), "a")
    store = cached_store(server, [cache], "never")
    memory = bytearray(len(WHOLE))
    views: list[memoryview] = []

    def place(i: int, nbytes: int) -> memoryview:
        views.append(memoryview(memory)[:nbytes])
        return views[-1]

    for how in (store.get_ranges, lambda *asked: [one for _, one in store.stream(*asked)]):
        (answer,) = how([Request("a")], place)
        assert answer is views.pop()
        assert memory == WHOLE
        memory[:] = bytes(len(memory))
    for nowhere in (lambda i, nbytes: None, lambda i, nbytes: memoryview(memory)[:9]):
        ((_, answer),) = store.stream([Request("a")], nowhere)
        assert bytes(answer or b"") == WHOLE
        assert not any(memory)

    def refuse(i: int, nbytes: int) -> memoryview:
        raise LimitError(f"{nbytes} bytes are too many")

    with pytest.raises(LimitError, match=f"{len(WHOLE)} bytes"):
        store.get_ranges([Request("a")], refuse)
    server.seen.clear()
    assert got(store, "a") == [WHOLE]
    assert server.asked == 0, "the file is none the worse"


def test_a_file_that_vanishes_is_fetched_again(tmp_path: Path, cache: DiskCache) -> None:
    server = Server({"a": b"bytes", "b": b"words"})
    got(cached_store(server, [cache]), "a", "b")
    store = cached_store(server, [cache])
    answers = store.stream([Request("a"), Request("b")])
    for file in files(tmp_path / "cache"):
        file.unlink()
    assert {i: bytes(one or b"") for i, one in answers} == {0: b"bytes", 1: b"words"}
    for file in files(tmp_path / "cache"):
        file.write_bytes(b"torn")
    server.seen.clear()
    assert [got(store, "a", "b") for _ in range(2)] == [[b"bytes", b"words"]] * 2
    assert server.asked == 2, "and kept again"


def test_nothing_that_is_kept_names_its_object(tmp_path: Path) -> None:
    """Names are hashes; no key, URL or version is in a name, and others cannot read what is there."""
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    server = Server({"secret/key": b"bytes"}, name="https://user:password@host")
    got(cached_store(server, [cache]), "secret/key")
    kept = list((tmp_path / "cache").rglob("*"))
    assert len(kept) >= 3
    for path in kept:
        assert path.stat().st_mode & 0o077 == 0
        assert not any(word in str(path.relative_to(tmp_path)) for word in ("secret", "password", "host"))
        assert path.is_dir() or not any(
            word in path.read_bytes() for word in (b"secret", b"password", b"host")
        )


def test_a_directory_that_changes_in_its_clock_tick_is_read_again(cache: DiskCache) -> None:
    """A listing is remembered only when the directory's time of change will tell of the next change."""
    for i in range(30):
        cache.keep("name", "=1", "1", Span(i * 10, i * 10 + 5, None), b"%5d" % i)
        assert load(cache, "name", "=1", i * 10, 5) == b"%5d" % i
    assert cache._listings == {}
    folder = cache._folder("name")
    os.utime(folder, (1, 1))
    assert load(cache, "name", "=1", 20, 5) == b"    2"
    assert list(cache._listings) == [folder]
    before = os.listdir
    try:
        os.listdir = None  # type: ignore[assignment]
        assert load(cache, "name", "=1", 20, 5) == b"    2"
    finally:
        os.listdir = before
    cache.keep("name", "=1", "1", Span(500, 505, None), b"later")
    assert load(cache, "name", "=1", 500, 5) == b"later"


def test_a_disk_that_cannot_be_read(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has nothing. (And one call need not give all that there is.)"""
    server = Server({"a": b"bytes"})
    got(cached_store(server, [cache], "never"), "a")
    store = cached_store(server, [cache], "never")
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, at: b"")
    assert got(store, "a") == [b"bytes"]
    assert server.asked == 1

    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, broken)
        assert got(store, "a") == [b"bytes"]
        assert server.asked == 1
    monkeypatch.setattr(os, "open", broken)
    assert got(store, "a") == [b"bytes"]


def test_a_header_longer_than_one_read(cache: DiskCache) -> None:
    """Versions may be long."""
    version = f'"{"v" * 9000}"'
    server = Server()
    server.change("a", b"bytes", version)
    got(cached_store(server, [cache]), "a")
    assert got(cached_store(server, [cache]), Request("a", 1, 2)) == [b"yt"]
    assert server.seen[1] == (Request("a", 1, 2), version)


# ---- directories


def test_directories_that_are_not_ours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, match in (("link", "a link"), ("open", "other users may write"), ("file", "cannot make")):
        with pytest.raises(StoreError, match=match):
            DiskCache(tmp_path / name, 1000)
    DiskCache(tmp_path / "real", 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreError, match="another user"):
        DiskCache(tmp_path / "real", 1000)
    with pytest.raises(ArgumentError, match="nbytes"):
        DiskCache(tmp_path / "real", 0)


def test_a_disk_that_fails_keeps_less(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader sees nothing of it, and no half of a file stays."""
    server = Server({"a": bytes(5000), "b": b"b"})
    store = cached_store(server, [cache])

    def full(fd: int, buffers: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        assert got(store, "a", "b") == [bytes(5000), b"b"]
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert got(store, "a", "b") == [bytes(5000), b"b"]
    assert len(files(tmp_path / "cache")) == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        patch.setattr(os, "replace", full)
        patch.setattr(cache._usage, "settle", lambda: full(0, 0))
        server.change("c", b"c")
        assert got(store, "c") == [b"c"]
    for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "cache").rmdir()
    assert got(store, "a", "c") == [bytes(5000), b"c"]
    assert got(store, "a", "c") == [bytes(5000), b"c"], "somebody emptied it, and it goes on"
    assert len(files(tmp_path / "cache")) == 2
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_short_writes_are_gone_on_with(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, some: writev(fd, [some[0][:7]]))
    cache.keep("name", "=1", "1", Span(0, 100, 100), WHOLE[:100])
    assert load(cache, "name", "=1") == WHOLE[:100]


# ---- room


def test_what_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path / "cache", 64 * 4096)
    now = time.time()
    for i in range(64):
        cache.keep(f"name{i}", "=1", "1", Span(0, 100, 100), bytes([i]) * 100)
        (file,) = [one for one in files(tmp_path / "cache") if one.stat().st_mtime > now - 1000]
        os.utime(file, (now - 5000 + i, now - 5000 + i))
    assert len(files(tmp_path / "cache")) == 64
    assert load(cache, "name0", "=1") == bytes(100), "a hit makes it young"
    cache.keep("more", "=1", "1", Span(0, 100, 100), bytes(100))
    left = files(tmp_path / "cache")
    assert len(left) == 56, "an eighth of the limit is free again"
    assert [i for i in range(64) if load(cache, f"name{i}", "=1") is None] == list(range(1, 10))
    assert (tmp_path / "cache" / "usage").read_text().startswith(f"{56 * 4096} ")
    folders = list((tmp_path / "cache").glob("??/*"))
    assert len(folders) == 56, "empty directories go too"


def test_a_hit_touches_a_file_now_and_then(tmp_path: Path, cache: DiskCache) -> None:
    cache.keep("name", "=1", "1", Span(0, 4, 4), b"kept")
    (file,) = files(tmp_path / "cache")
    now = time.time()
    for age, touched in ((cache_file.TOUCH_SECONDS - 60, False), (cache_file.TOUCH_SECONDS + 60, True)):
        os.utime(file, (now - age, now - age))
        assert load(cache, "name", "=1") == b"kept"
        assert (file.stat().st_mtime > now - 60) is touched


def test_the_directory_is_not_walked_at_every_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted once a day, and where the limit is reached; then not again for an eighth of it."""
    cache = DiskCache(tmp_path / "cache", 320 * 4096)
    walks, walk = [0], cache_usage.Usage._files
    monkeypatch.setattr(
        cache_usage.Usage, "_files", lambda self: [walks.__setitem__(0, walks[0] + 1), walk(self)][1]
    )
    for i in range(320):
        cache.keep(f"name{i}", "=1", "1", Span(0, 1, 1), b"1")
    assert walks == [1], "nobody had counted yet"
    for i in range(320, 372):
        cache.keep(f"name{i}", "=1", "1", Span(0, 1, 1), b"1")
    assert walks == [5], "to count and to evict, twice"
    assert len(files(tmp_path / "cache")) <= 320
    (tmp_path / "cache" / "usage").write_text(f"5 {int(time.time()) - 90_000}")
    cache._usage.settle()
    assert walks == [6]
    for damaged in (b"", b"-5 3", b"1e9 1", b"\xff" * 100):
        (tmp_path / "cache" / "usage").write_bytes(damaged)
        cache._usage.settle()
        count = len(files(tmp_path / "cache")) * 4096
        assert (tmp_path / "cache" / "usage").read_text().startswith(f"{count} ")


def test_whoever_counts_does_so_alone(tmp_path: Path, cache: DiskCache) -> None:
    """Another process that holds the lock is not waited for; what was written is said the next time."""
    import fcntl

    cache._usage.settle()
    with (tmp_path / "cache" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache._usage.wrote(5000)
        cache._usage.settle()
        assert (tmp_path / "cache" / "usage").read_text().startswith("0 ")
    cache._usage.settle()
    assert (tmp_path / "cache" / "usage").read_text().startswith("8192 ")


def test_a_file_system_without_locks(
    tmp_path: Path, cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache_usage.fcntl, "flock", none)
    cache.keep("name", "=1", "1", Span(0, 1, 1), b"1")
    cache._usage.settle()
    assert (tmp_path / "cache" / "usage").read_text().startswith("4096 ")


def test_what_is_too_large_passes_through(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10_000)
    server = Server({"a": bytes(6000)})
    assert got(cached_store(server, [cache], "never"), "a") == [bytes(6000)]
    assert files(tmp_path / "cache") == []


def test_what_a_dead_writer_left_goes_after_an_hour(tmp_path: Path, cache: DiskCache) -> None:
    cache.keep("name", "=1", "1", Span(0, 1, 1), b"1")
    folder = files(tmp_path / "cache")[0].parent
    for name, age in ((".~old", 4000), (".~new", 100)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    (tmp_path / "cache" / "users-own.txt").write_bytes(b"not ours")
    (tmp_path / "cache" / "aa" / "notes").mkdir(parents=True)
    (tmp_path / "cache" / "aa" / "notes" / ".~mine").write_bytes(b"not ours")
    os.utime(tmp_path / "cache" / "aa" / "notes" / ".~mine", (1, 1))
    cache._usage.settle()
    assert sorted(path.name for path in folder.glob(".~*")) == [".~new"]
    assert (tmp_path / "cache" / "users-own.txt").exists()
    assert (tmp_path / "cache" / "aa" / "notes" / ".~mine").exists()


# ---- processes and threads


def test_handles_of_one_directory_share_what_is_counted(tmp_path: Path) -> None:
    spec = {"kind": "disk", "directory": str(tmp_path / "c"), "nbytes": 1000}
    first, second = (
        cached(Server(), spec),
        cached(Server(), dict(spec, directory=tmp_path / "x" / ".." / "c")),
    )
    assert first.caches[0] is second.caches[0]
    there = pickle.loads(pickle.dumps(first.caches[0]))
    assert (there.directory, there.nbytes) == (str(tmp_path / "c"), 1000)
    assert "nbytes" not in repr(there)


def test_another_process_confirms_what_this_one_kept(tmp_path: Path) -> None:
    server = Server({"a": b"bytes"})
    got(cached_store(server, [DiskCache(tmp_path / "c", 1 << 20)]), "a")
    server.seen.clear()
    reopened = cached_store(server, [DiskCache(tmp_path / "c", 1 << 20)])
    assert got(reopened, Request("a", 1, 3)) == [b"yte"]
    assert server.seen == [(Request("a", 1, 3), '"1"')]
    assert (reopened.cache_stats.checks, reopened.cache_stats.bytes_missed) == (1, 0)


def test_two_versions_in_two_processes(tmp_path: Path) -> None:
    """Each finds its own; whoever learns of the newer one first removes the older."""
    server = Server({"a": b"old"})
    stores = [cached_store(server, [DiskCache(tmp_path / "c", 1 << 20)]) for _ in range(3)]
    assert got(stores[0], "a") == [b"old"]
    server.change("a", b"new")
    assert got(stores[1], "a") == [b"new"]
    assert len(files(tmp_path / "c")) == 1
    assert got(stores[0], "a")[0] == b"new", "what it trusted is gone"
    server.seen.clear()
    assert got(stores[2], "a") == [b"new"]
    assert [unless for _, unless in server.seen] == ['"2"']


def test_threads_that_read_and_evict(tmp_path: Path) -> None:
    objects = {f"k{i}": random.Random(i).randbytes(5000) for i in range(40)}
    server = Server(objects)
    cache = DiskCache(tmp_path / "c", 100_000)
    wrong: list[str] = []

    def read(seed: int) -> None:
        store, rng = cached_store(server, [cache], "never"), random.Random(seed)
        for _ in range(60):
            key, start, nbytes = f"k{rng.randrange(40)}", rng.randrange(5000), rng.randrange(5000)
            if got(store, Request(key, start, nbytes)) != [objects[key][start : start + nbytes]]:
                wrong.append(key)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    cache._usage.settle()
    assert sum(cache_usage.weight(file.stat().st_size) for file in files(tmp_path / "c")) <= 110_000


HAMMER = """
import random, sys
from gpuzarr.store.base import Request
from gpuzarr.store.caching.disk import DiskCache
from gpuzarr.store.caching.ranges import Span

cache, rng = DiskCache(sys.argv[1], 400_000), random.Random(int(sys.argv[2]))
wholes = {f"k{i}": random.Random(i).randbytes(30_000) for i in range(20)}
for turn in range(1 << 30):
    name, start = rng.choice([*wholes]), rng.randrange(0, 29_000, 1000)
    nbytes = rng.choice([1000, 5000])
    (kept,) = cache.find(name, "=1", [Request("k", start, nbytes)])
    loaded = kept and kept.load()
    if loaded is not None and bytes(loaded.data) != wholes[name][start : start + nbytes]:
        print("wrong", flush=True)
    part = wholes[name][start : start + nbytes]
    if rng.random() < 0.01:
        cache.forget(name)
    cache.keep(name, "=1", "1", Span(start, start + len(part), None), part)
    if turn == 60:
        print("begun", flush=True)
"""


def test_processes_that_share_a_directory_and_are_killed(tmp_path: Path) -> None:
    """Three write, read and evict; they get SIGKILL in the middle. What is there then is right."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path / "c"), str(seed)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for seed in range(3)
    ]
    said = []
    for child in children:
        assert child.stdout is not None
        said.append(child.stdout.readline())
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        assert child.stdout is not None
        said += child.stdout.readlines()
        child.stdout.close()
    assert said == [b"begun\n"] * 3
    cache = DiskCache(tmp_path / "c", 400_000)
    read = 0
    for i in range(20):
        whole = random.Random(i).randbytes(30_000)
        for start in range(0, 30_000, 1000):
            found = load(cache, f"k{i}", "=1", start, 1000)
            assert found in (None, whole[start : start + 1000])
            read += found is not None
    assert read > 20
    (tmp_path / "c" / "usage").unlink(missing_ok=True)
    cache._usage.settle()
    assert sum(cache_usage.weight(file.stat().st_size) for file in files(tmp_path / "c")) <= 400_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_reads_on(tmp_path: Path) -> None:
    """Whatever locks the parent's threads held."""
    from gpuzarr.store.caching import stats as cache_stats
    from gpuzarr.store.caching import trust as cache_trust
    from gpuzarr.store.caching.memory import MemoryCache

    memory = MemoryCache(1 << 20)
    store = cached_store(Server({"a": b"bytes"}), [memory, DiskCache(tmp_path / "c", 1 << 20)])
    assert got(store, "a") == [b"bytes"]
    locks = [memory._lock, store.trust._lock, cache_stats._lock, cache_trust._writes.lock]
    for lock in locks:
        lock.acquire()
    pid = os.fork()
    if not pid:
        cache_trust.forget([store.place("other")])
        os._exit(0 if got(store, "a") == [b"bytes"] and memory.held else 1)
    for lock in locks:
        lock.release()
    deadline = time.monotonic() + 10
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (done, status) == (pid, 0)


def test_found_parts_are_of_the_span(cache: DiskCache) -> None:
    """A file says itself which bytes it has; a wrong listing finds nothing."""
    cache.keep("name", "=1", "1", Span(0, 4, None), b"kept")
    folder, token = cache._folder("name"), cache_disk._token("=1")
    path = cache_disk._path(folder, token, Span(0, 4, None))
    ident = cache_disk._ident("name", "=1")
    assert cache_file.load(path, ident, Found(Span(0, 4, 4), 0, 4)) is None
    assert not os.path.exists(path)
