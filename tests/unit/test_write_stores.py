"""Writing to what fsspec knows: whole objects, refusals by name, and errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import ReadOnlyError, StoreError
from gpuzarr.store.fsspec import FsspecStore

VALUES = np.arange(64, dtype="u2").reshape(8, 8)


def test_a_life_in_memory() -> None:
    url = f"memory://{uuid4().hex}/a"
    array = gpuzarr.save(url, VALUES, chunks=(3, 3), shards=(6, 6), device="cpu")
    array[2:5] = 7
    array.append(VALUES)
    array.resize((10, 4))
    expected = np.concatenate((VALUES, VALUES))[:10, :4]
    expected[2:5] = 7
    assert np.array_equal(gpuzarr.load(url, device="cpu"), expected)
    gpuzarr.create_group(url, overwrite=True)
    assert sorted(gpuzarr.open(url).store.list()) == ["zarr.json"]


def test_what_fsspec_only_reads() -> None:
    class ReadOnly(fsspec.AbstractFileSystem):
        protocol = "readonly"
        cachable = False

        def isfile(self, path: str) -> bool:
            return False

        def find(self, path: str, *_: Any, **__: Any) -> list[str]:
            return []

        def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
            raise FileNotFoundError(path)

        def _open(self, path: str, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    store = FsspecStore(ReadOnly(), "root", "readonly://root")
    for change in (
        lambda: gpuzarr.create_array(store, shape=(1,), dtype="u1"),
        lambda: store.put([("a", b"1")]),
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(ReadOnlyError, match="cannot be written"):
            change()


@pytest.mark.parametrize("step", ["pipe_file", "mv"])
def test_local_files_through_fsspec_appear_whole(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("file", skip_instance_cache=True)
    store = FsspecStore(fs, str(tmp_path), str(tmp_path))
    array = gpuzarr.save(store, VALUES, chunks=(8, 8), codecs=None, device="cpu")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fs, step, full)
    with pytest.raises(StoreError, match=r"cannot write c/0/0 .*No space left") as caught:
        array[...] = 1
    assert caught.value.chunk == "c/0/0"
    assert np.array_equal(array[...], VALUES)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0", "zarr.json"]
