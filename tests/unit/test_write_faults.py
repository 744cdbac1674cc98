"""Disks that fill up, fail or write less than they are asked to: an error that says what and where, every
object old or new, and nothing left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import ReadOnlyError, StoreError
from gpuzarr.store import local

OLD = np.arange(1, 65, dtype="<u4").reshape(8, 8)
NEW = OLD + 1000
DOCUMENT = {"zarr.json", ".zarray"}


class FaultyOs:
    """The module `os`, of which one function goes wrong at its nth call."""

    def __init__(self, name: str, nth: int, failing: Callable[..., Any]) -> None:
        self.name, self.nth, self.failing = name, nth, failing
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name != self.name:
            return real

        def counted(*args: Any, **options: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **options)
            self.calls += 1
            return self.failing(real, *args, **options) if self.calls == self.nth else real(*args, **options)

        return counted


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def half(real: Callable[..., int], fd: int, value: Any) -> int:
    """Less is written than was asked for."""
    if isinstance(value, list):
        value = memoryview(b"".join(value))
    return real(fd, value[: len(value) // 2]) if real is os.write else os.write(fd, value[: len(value) // 2])


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=[None, (4, 8)], ids=["chunks", "shards"])
def array(request: pytest.FixtureRequest, tmp_path: Path) -> gpuzarr.Array:
    path = tmp_path / "a"
    return gpuzarr.save(path, OLD, chunks=(4, 4), shards=request.param, codecs=["crc32c"], device="cpu")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["open", "write", "replace", "fsync", "writev"])
def test_failing_calls(
    array: gpuzarr.Array, name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a"
    before = files(root)
    settings = {"fsync": int(name == "fsync"), "threads": 1, "bundle_nbytes": 1}
    if name == "writev":
        monkeypatch.setattr(local, "_JOINED", 0)
        if not array.shards:
            return
    for nth in range(1, 1 + len(before - DOCUMENT)):
        array[...] = OLD
        broken = FaultyOs(name, nth, failing(number))
        with monkeypatch.context() as patched, gpuzarr.configured(**settings):
            patched.setattr(local, "os", broken)
            with pytest.raises(StoreError, match=os.strerror(number)) as caught:
                array[...] = NEW
        assert broken.calls >= nth
        assert caught.value.array == str(root)
        assert caught.value.chunk in before
        assert files(root) == before
        found = gpuzarr.load(root, device="cpu")
        for row in (0, 4):
            for column in (0, 4) if not array.shards else (slice(None),):
                box = np.s_[row : row + 4, column if array.shards else slice(column, column + 4)]
                assert np.array_equal(found[box], OLD[box]) or np.array_equal(found[box], NEW[box])
        assert not np.array_equal(found, NEW) or name == "fsync"  # that of the directory, behind the rename
    array[...] = NEW
    assert np.array_equal(gpuzarr.load(root, device="cpu"), NEW)


@pytest.mark.parametrize("name", ["write", "writev"])
def test_short_writes_are_gone_on_with(
    array: gpuzarr.Array, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = FaultyOs(name, 1, half)
    with monkeypatch.context() as patched:
        patched.setattr(local, "os", broken)
        patched.setattr(local, "_JOINED", 0)
        array[...] = NEW
    assert np.array_equal(array[...], NEW)


def test_nothing_written_is_an_error(array: gpuzarr.Array, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(Path(array.store.url))
    with monkeypatch.context() as patched:
        patched.setattr(local, "os", FaultyOs("write", 1, lambda real, fd, value: 0))
        with pytest.raises(StoreError, match="nothing was written"):
            array[...] = NEW
    assert files(Path(array.store.url)) == before


@pytest.mark.parametrize("name", ["open", "write", "replace"])
def test_interrupted(array: gpuzarr.Array, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no more behind than a full disk."""

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    before = files(Path(array.store.url))
    with monkeypatch.context() as patched, gpuzarr.configured(threads=1):
        patched.setattr(local, "os", FaultyOs(name, 2, interrupt))
        with pytest.raises(KeyboardInterrupt):
            array[...] = NEW
    assert files(Path(array.store.url)) == before
    array[...] = NEW  # and nobody waits for a turn that is never given back
    assert np.array_equal(array[...], NEW)


CHANGES: dict[str, Callable[[gpuzarr.Array], None]] = {
    "larger": lambda array: array.resize((20, 20)),
    "smaller": lambda array: array.resize((3, 3)),
    "append": lambda array: array.append(NEW),
    "attributes": lambda array: array.update_attributes({"a": 1}),
}


@pytest.mark.parametrize("step", CHANGES)
def test_documents_that_cannot_be_written(
    array: gpuzarr.Array, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The array keeps its shape, its attributes and its values; the handle too."""
    with monkeypatch.context() as patched:
        real = os.replace

        def refuse(source: str, target: str) -> None:
            if target.endswith("zarr.json"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            real(source, target)

        patched.setattr(local.os, "replace", refuse)
        with pytest.raises(StoreError, match="Read-only"):
            CHANGES[step](array)
    for one in (array, gpuzarr.open_array(array.store.url, mode="r+", device="cpu")):
        assert one.shape == (8, 8)
        assert dict(one.attrs) == {}
        assert np.array_equal(one[...], OLD)
    array.resize((20, 8))
    assert np.array_equal(array[8:], np.zeros((12, 8)))


def test_what_is_open_for_reading_is_not_written(array: gpuzarr.Array, tmp_path: Path) -> None:
    reader = gpuzarr.open_array(array.store.url, device="cpu")
    assert (reader.mode, array.mode) == ("r", "r+")
    gpuzarr.create_group(tmp_path / "g")
    group = gpuzarr.open(tmp_path / "g")
    for change in (
        lambda: reader.__setitem__(..., 0),
        lambda: reader.oindex.__setitem__([0], 0),
        lambda: reader.vindex.__setitem__(([0], [0]), 0),
        lambda: reader.blocks.__setitem__(0, 0),
        lambda: reader.resize((1, 1)),
        lambda: reader.append(NEW),
        lambda: reader.update_attributes({}),
        lambda: group.update_attributes({}),
    ):
        with pytest.raises(ReadOnlyError, match="open for reading"):
            change()
    assert np.array_equal(array[...], OLD)


def test_stores_that_cannot_be_written(tmp_path: Path) -> None:
    import zipfile
    from types import MappingProxyType

    objects: dict[str, bytes] = {}
    gpuzarr.save(objects, OLD, chunks=(4, 4))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for key, value in objects.items():
            archive.writestr(key, value)
    for target in (tmp_path / "a.zip", MappingProxyType(objects)):
        with pytest.raises(ReadOnlyError, match="cannot be written"):
            gpuzarr.open_array(target, mode="r+")[...] = NEW
        with pytest.raises(ReadOnlyError, match="cannot be written"):
            gpuzarr.create_array(target, shape=(1,), dtype="u1", overwrite=True)
        assert np.array_equal(gpuzarr.load(target, device="cpu"), OLD)


def test_links_lead_no_write_out_of_a_store(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "c").mkdir(parents=True)
    (outside / "c" / "0").write_bytes(b"theirs")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    store = gpuzarr.create_group(root).store
    assert isinstance(store, local.LocalStore)
    for change in (
        lambda: store.put([("link/c/0", b"ours")]),
        lambda: store.put([("link/new/0", b"ours")]),
        lambda: store.delete(["link/c/0"]),
        lambda: store.delete_below("link/c/"),
    ):
        with pytest.raises(StoreError, match="outside"):
            change()
    assert files(outside) == {"c/0"}
    assert not (outside / "new").exists()
    assert (outside / "c" / "0").read_bytes() == b"theirs"
    store.delete_below("link/")  # the link itself goes
    assert not (root / "link").exists()
    assert files(outside) == {"c/0"}
