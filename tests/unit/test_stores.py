"""Every store passes the one contract; what is particular to one is tested beside it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

import gpuzarr
from gpuzarr.errors import ArgumentError, MissingDependencyError, NotFoundError, StoreError
from gpuzarr.store.base import Request, Store
from gpuzarr.store.fsspec import FsspecStore
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.urls import open_store
from gpuzarr.store.zip import ZipStore
from gpuzarr.testing.store import OBJECTS, CountingStore, StoreContract


def write(root: Path, objects: Mapping[str, bytes]) -> Path:
    for key, value in objects.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(value)
    return root


class TestMapping(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        return open_store(dict(objects))


class TestCounting(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        return CountingStore(MappingStore(dict(objects)))


class TestLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.root = tmp_path

    def make(self, objects: Mapping[str, bytes]) -> Store:
        return open_store(write(self.root, objects))

    def test_url_forms(self) -> None:
        write(self.root, OBJECTS)
        assert open_store(f"file://{self.root}") == open_store(str(self.root)) == LocalStore(str(self.root))


class TestZip(StoreContract):
    compression = zipfile.ZIP_STORED

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.file = tmp_path / "store.zip"

    def make(self, objects: Mapping[str, bytes]) -> Store:
        with zipfile.ZipFile(self.file, "w", self.compression) as archive:
            for key, value in objects.items():
                archive.writestr(key, value)
        return open_store(self.file)


class TestCompressedZip(TestZip):
    compression = zipfile.ZIP_DEFLATED


class TestFsspecMemory(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        root = f"/{uuid4().hex}"
        fs = fsspec.filesystem("memory")
        for key, value in objects.items():
            fs.pipe_file(f"{root}/{key}", value)
        return open_store(f"memory:/{root}")


class TestFsspecLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.root = tmp_path

    def make(self, objects: Mapping[str, bytes]) -> Store:
        write(self.root, objects)
        return FsspecStore(fsspec.filesystem("file"), str(self.root), str(self.root))


class TestRemoteZip(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        name = f"/{uuid4().hex}.zip"
        with fsspec.filesystem("memory").open(name, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for key, value in objects.items():
                archive.writestr(key, value)
        return open_store(f"memory:/{name}")


def test_links_out_of_a_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").write_bytes(b"secret")
    root = write(tmp_path / "store", OBJECTS)
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "directory").symlink_to(tmp_path / "elsewhere")
    (root / "inside").symlink_to(root / "ab")
    store = open_store(root)
    for key in ("file", "directory/0"):
        with pytest.raises(StoreError, match="outside"):
            store.get_ranges([Request(key)])
    assert bytes(store.get_ranges([Request("inside")])[0] or b"") == b"neighbour"
    trusting = open_store(root, {"follow_symlinks": True})
    assert bytes(trusting.get_ranges([Request("directory/0")])[0] or b"") == b"secret"


def test_unreadable_file_is_an_error_and_not_missing(tmp_path: Path) -> None:
    root = write(tmp_path, OBJECTS)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(StoreError, match="cannot read loop"):
        open_store(root, {"follow_symlinks": True}).get_ranges([Request("loop")])
    if os.geteuid() != 0:
        (root / "ab").chmod(0)
        with pytest.raises(StoreError, match="Permission"):
            open_store(root).get_ranges([Request("ab")])


def test_broken_archives(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 this is not one")
    with pytest.raises(StoreError, match="not a zip archive"):
        open_store(tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("key", b"x" * 1000)
    whole = bytearray((tmp_path / "bad.zip").read_bytes())
    whole[60] ^= 1
    (tmp_path / "bad.zip").write_bytes(whole)
    with pytest.raises(StoreError, match="CRC"):
        open_store(tmp_path / "bad.zip").get_ranges([Request("key")])


def test_archive_that_promises_too_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("key", bytes(1 << 20))
    with (
        gpuzarr.configured(max_chunk_nbytes=1 << 16),
        pytest.raises(gpuzarr.GpuzarrError, match="1048576 bytes"),
    ):
        open_store(tmp_path / "bomb.zip").get_ranges([Request("key")])


def test_targets_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such directory"):
        open_store(tmp_path / "missing")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(StoreError, match=r"not a \.zip"):
        open_store(tmp_path / "file.txt")
    with pytest.raises(ArgumentError, match="cannot open a int"):
        open_store(3)
    with pytest.raises(ArgumentError, match="anon"):
        open_store(tmp_path, {"anon": True})
    with pytest.raises(StoreError, match="nonsense"):
        open_store("nonsense://x")
    with pytest.raises(NotFoundError, match="no such archive"):
        open_store("memory://nothing.zip")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("install s3fs to access S3")

    monkeypatch.setattr("gpuzarr.store.remote.opening.find_spec", lambda name: None)
    monkeypatch.setattr(fsspec, "get_filesystem_class", refuse)
    with pytest.raises(MissingDependencyError, match=r"gpuzarr\[s3\]"):
        open_store("s3://bucket/key?X-Amz-Signature=hidden")


def test_failing_mapping_and_file_system() -> None:
    class Failing(dict):
        def __getitem__(self, key: str) -> bytes:
            raise OSError("disk on fire")

    with pytest.raises(StoreError, match="disk on fire"):
        MappingStore(Failing()).get_ranges([Request("a")])

    class FailingFs(fsspec.AbstractFileSystem):
        def cat_file(self, path: str, *_: object, **__: object) -> bytes:
            raise PermissionError("forbidden")

    with pytest.raises(StoreError, match="forbidden"):
        FsspecStore(FailingFs(), "root", "x://root").get_ranges([Request("a")])


def test_mapping_of_unknown_size_says_so() -> None:
    class Lazy(Mapping):
        def __getitem__(self, key: str) -> bytes:
            return b"abc"

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    assert open_store(Lazy()).size("a") is None


def test_zip_members_that_are_no_keys(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("../../outside", b"x")
    store = ZipStore(str(tmp_path / "slip.zip"), "slip.zip")
    with pytest.raises(StoreError, match="not a key"):
        store.get_ranges([Request("../../outside")])


@pytest.mark.parametrize("remote", [False, True])
def test_forked_processes_read_an_archive_each_for_itself(tmp_path: Path, remote: bool) -> None:
    """Parent and children share file descriptors, and must not share their position."""
    values = {f"key{i}": bytes([i]) * 5000 for i in range(50)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for key, value in values.items():
            archive.writestr(key, value)
    path = str(tmp_path / "a.zip")
    store = ZipStore(partial(open, path, "rb") if remote else path, "a.zip")
    requests = [Request(key, 7, 2000) for key in values]
    assert store.get_ranges(requests)[3] is not None
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            wrong = sum(
                bytes(found or b"") != values[request.key][:2000]
                for _ in range(20)
                for request, found in zip(requests, store.get_ranges(requests), strict=True)
            )
            os._exit(1 if wrong else 0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_patterns_in_paths_are_names() -> None:
    """fsspec takes brackets and stars for patterns in some of its calls."""
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/run[1]/a/key", b"here")
    fs.pipe_file("/run1/a/key", b"elsewhere")
    store = open_store("memory://run[1]/a")
    found = store.get_ranges(
        [Request("key"), Request("key", -2, 2), Request("none"), Request("key", -9, None)]
    )
    assert [None if one is None else bytes(one) for one in found] == [b"here", b"re", None, b"here"]
    assert store.exists("key")


def test_values_that_are_not_bytes() -> None:
    with pytest.raises(StoreError, match="value of a is not bytes"):
        open_store({"a": "text"}).get_ranges([Request("a")])
