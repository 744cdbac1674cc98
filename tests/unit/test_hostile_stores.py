"""Keys, links, files and archives that lie, and keys of arrays that do not fit."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import (
    ChunkError,
    GpuzarrError,
    LimitError,
    MetadataError,
    NotFoundError,
    SelectionError,
    StoreError,
)
from tests.hostile import (
    DEVICES,
    LITTLE,
    fails,
    group_v2,
    group_v3,
    sharding,
    v2,
    v3,
)


@pytest.mark.parametrize("path", ["../a", "a/../../b", "a/./b", "a//b", "a\\b", "a\0b", "\ud800"])
def test_paths(path: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    for target in ({}, tmp_path / "store"):
        with pytest.raises(StoreError, match="is not a key"):
            gpuzarr.open(target, path)


def test_an_absolute_path_is_relative(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    with pytest.raises(NotFoundError):
        gpuzarr.open({}, str(tmp_path))


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        gpuzarr.open(tmp_path, "a" * 5000)


@pytest.mark.parametrize("group", [group_v2, group_v3])
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../x", "a\\x"])
def test_consolidated_names(group: Any, name: str, tmp_path: Path) -> None:
    """What consolidated metadata place outside is found in the document, and its chunks are not read."""
    (tmp_path / "store").mkdir()
    for key, stored in group({name: {}}).items():
        (tmp_path / "store" / key).write_bytes(stored)
    root = gpuzarr.open(tmp_path / "store")
    (tmp_path / "x" / "c" / "0").mkdir(parents=True)
    (tmp_path / "x" / "c" / "0" / "0").write_bytes(b"secret")
    (tmp_path / "x" / "0.0").write_bytes(b"secret")
    with pytest.raises((StoreError, NotFoundError)):
        root[name][...]  # type: ignore[index]


@pytest.mark.parametrize(
    "metadata", [None, 5, [], {"a/zarr.json": 5}, {".zarray": []}, {"a": None}, {"a/.zarray": "x"}]
)
def test_consolidated_documents(metadata: Any) -> None:
    consolidated = {"zarr_consolidated_format": 1, "metadata": metadata}
    with pytest.raises(MetadataError, match="no metadata documents"):
        gpuzarr.open({".zgroup": b'{"zarr_format": 2}', ".zmetadata": json.dumps(consolidated).encode()})
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "consolidated_metadata": {"kind": "inline", "metadata": metadata},
    }
    with pytest.raises(MetadataError, match="no metadata documents"):
        gpuzarr.open({"zarr.json": json.dumps(document).encode()})


def test_consolidated_children() -> None:
    """A child that is wrong is an error when it is asked for, by its own name."""
    for objects in (group_v2({"a": {"shape": [-1]}}), group_v3({"a": {"shape": [-1]}})):
        root = gpuzarr.open(objects)
        assert isinstance(root, gpuzarr.Group)
        with pytest.raises(MetadataError, match=r"shape \[-1\].*memory:/a"):
            root["a"]


def test_attributes() -> None:
    for text, word in ((b"[]", "no JSON object"), (b"\xff", "UTF-8"), (b"{", "JSON")):
        array = gpuzarr.open_array({**v2(), ".zattrs": text})
        with pytest.raises(MetadataError, match=word) as raised:
            array.attrs  # noqa: B018
        assert raised.value.array == "memory:"


def test_links_out_of_the_store(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", tmp_path / "store"
    (outside / "c" / "0").mkdir(parents=True)
    (outside / "c" / "0" / "0").write_bytes(b"secret")
    (outside / "zarr.json").write_bytes(v3()["zarr.json"])
    (store / "c").mkdir(parents=True)
    (store / "a").symlink_to(outside)
    with pytest.raises(StoreError, match="outside"):
        gpuzarr.open(store, "a")
    (store / "zarr.json").symlink_to(outside / "zarr.json")
    fails(StoreError, store, "outside", "follow_symlinks")
    (store / "zarr.json").unlink()
    (store / "zarr.json").write_bytes(v3()["zarr.json"])
    (store / "c" / "0").symlink_to(outside / "c" / "0")
    fails(StoreError, store, "outside")
    (store / "c" / "0").unlink()
    (store / "c" / "0").mkdir()
    (store / "c" / "0" / "0").symlink_to(outside / "c" / "0" / "0")
    fails(StoreError, store, "outside", "c/0/0")
    meant = gpuzarr.open_array(store, storage_options={"follow_symlinks": True})
    assert meant[:2, :3].tobytes() == b"secret"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").symlink_to(tmp_path / "zarr.json")
    with pytest.raises(StoreError):
        gpuzarr.open(tmp_path)


def test_pipes(tmp_path: Path) -> None:
    """Reading a named pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "zarr.json")
    with pytest.raises(GpuzarrError):
        gpuzarr.open(tmp_path)
    os.remove(tmp_path / "zarr.json")
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    (tmp_path / "c" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "c" / "0" / "0")
    with pytest.raises(GpuzarrError):
        gpuzarr.open_array(tmp_path)[...]


def _sparse(path: Path, nbytes: int, end: bytes = b"") -> None:
    """A file of many zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            file.truncate(nbytes)
            file.seek(0, os.SEEK_END)
            file.write(end)
    except OSError as error:
        pytest.skip(f"no sparse files here: {error}")


@DEVICES
def test_files_larger_than_memory(device: str, tmp_path: Path) -> None:
    _sparse(tmp_path / "zarr.json", 1 << 36)
    fails(LimitError, tmp_path, "max_document_nbytes", device=device)
    (tmp_path / "zarr.json").write_bytes(v3(codecs=[LITTLE, "zstd"])["zarr.json"])
    _sparse(tmp_path / "c" / "0" / "0", 1 << 36)
    fails(ChunkError, tmp_path, "c/0/0", f"{1 << 36} encoded bytes", device=device)
    (tmp_path / "zarr.json").write_bytes(v3([2, 3], [2, 3], codecs=[sharding("end", False)])["zarr.json"])
    _sparse(tmp_path / "c" / "0" / "0", 1 << 36, struct.pack("<4Q", 0, 1 << 36, 2**64 - 1, 2**64 - 1))
    fails(ChunkError, tmp_path, "c/0/0", f"{1 << 36} encoded bytes", device=device)


@DEVICES
def test_an_index_larger_than_its_shard(device: str, tmp_path: Path) -> None:
    """80 GiB of index at the start of a file of 100 bytes: what is read is the file."""
    codecs = [sharding("start", True, [1, 1])]
    (tmp_path / "zarr.json").write_bytes(v3([2, 3], [10**5, 54000], codecs=codecs)["zarr.json"])
    (tmp_path / "c" / "0").mkdir(parents=True)
    (tmp_path / "c" / "0" / "0").write_bytes(bytes(100))
    fails(ChunkError, tmp_path, "c/0/0", "the shard index has 100 bytes", device=device)


def test_archives_that_lie(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(StoreError, match="not a zip archive"):
        gpuzarr.open(archive)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("zarr.json", bytes(80 << 20))
    fails(LimitError, archive, "max_document_nbytes")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("zarr.json", v3()["zarr.json"])
        writer.writestr("c/0/0", bytes(80 << 20))
        writer.writestr("../zarr.json", b"{}")
    fails(ChunkError, archive, "c/0/0", "encoded bytes")
    stored = bytearray(archive.read_bytes())
    at = stored.index(v3()["zarr.json"][:0] + b"c/0/0")
    stored[at + 20] ^= 0xFF
    archive.write_bytes(bytes(stored))
    fails(ChunkError, archive, "c/0/0")
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("zarr.json", v3()["zarr.json"])
        writer.writestr("c/0/0", b"abcdef")
    damaged = archive.read_bytes().replace(b"abcdef", b"abcdeF")
    archive.write_bytes(damaged)
    fails(StoreError, archive, "CRC")


@pytest.mark.parametrize(
    "key", [(4, 0), (0, -7), 1.5, "a", (0, 0, 0), ([9], 0), np.zeros((3, 3), bool), 2**70, (..., ...)]
)
def test_keys(key: Any) -> None:
    with pytest.raises(SelectionError):
        gpuzarr.open_array(v3())[key]
