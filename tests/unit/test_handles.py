"""Arrays, groups, the doors, settings and errors, as a user meets them."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import config, errors
from gpuzarr.errors import ArgumentError, GpuzarrError, LimitError, NotFoundError, SelectionError
from tests.unit.test_requests import VALUES, stored


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = zarr.create_group(tmp_path / "tree", attributes={"title": "t"})
    array = root.create_array(
        "images/raw", shape=(8, 6), chunks=(4, 3), shards=(8, 6), dtype="f4", dimension_names=["y", "x"]
    )
    array[...] = np.arange(48).reshape(8, 6)
    root.create_array("labels", shape=(5,), chunks=(2,), dtype="u1", fill_value=7)
    return tmp_path / "tree"


def test_what_an_array_says(tree: Path) -> None:
    array = gpuzarr.open_array(tree, "images/raw", device="cpu")
    assert (array.shape, array.dtype, array.ndim, array.size, array.nbytes) == (
        (8, 6),
        np.float32,
        2,
        48,
        192,
    )
    assert (array.chunks, array.shards) == ((4, 3), (8, 6))
    assert (array.dimension_names, array.fill_value, array.zarr_format) == (("y", "x"), 0.0, 3)
    assert [codec.name for codec in array.codecs] == ["bytes", "zstd"]
    assert (array.device, array.path, array.name) == ("cpu", "images/raw", f"{tree}/images/raw")
    assert len(array) == 8
    assert "shards=(8, 6)" in repr(array)
    assert np.array_equal(np.asarray(array), np.arange(48).reshape(8, 6))
    assert array[1, 2] == np.float32(8)
    assert isinstance(array[1, 2], np.float32)
    assert isinstance(array.read((1, 2)), np.ndarray)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(array, copy=False)


def test_what_a_group_says(tree: Path) -> None:
    root = gpuzarr.open(tree)
    assert isinstance(root, gpuzarr.Group)
    assert root.attrs["title"] == "t"
    assert list(root) == ["images", "labels"]
    assert [name for name, _ in root.arrays()] == ["labels"]
    assert [name for name, _ in root.groups()] == ["images"]
    assert (len(root), sorted(root.keys())) == (2, ["images", "labels"])
    assert root.get("nothing") is None
    assert dict(root.items()).keys() == {"images", "labels"}
    with pytest.raises(TypeError):
        root.attrs["title"] = "other"  # type: ignore[index]
    assert root.tree().splitlines() == [
        "/",
        "├── images",
        "│   └── raw (8, 6) float32",
        "└── labels (5,) uint8",
    ]
    assert "images/raw" in root
    assert "images/nothing" not in root
    assert root["labels"][...].tolist() == [7] * 5  # type: ignore[index]
    assert "Group" in repr(root)
    with pytest.raises(KeyError):
        root["nothing"]


def test_names_of_v2_dimensions_are_xarrays() -> None:
    store = stored(chunks=(32, 32, 32), zarr_format=2)
    assert gpuzarr.open_array(store).dimension_names is None
    store = stored(chunks=(32, 32, 32), zarr_format=2, attributes={"_ARRAY_DIMENSIONS": ["z", "y", "x"]})
    assert gpuzarr.open_array(store).dimension_names == ("z", "y", "x")


def test_doors(tree: Path) -> None:
    assert gpuzarr.load(tree, "labels").tolist() == [7] * 5
    assert gpuzarr.load(tree, "images/raw", np.s_[0, :2]).tolist() == [0, 1]
    with pytest.raises(ArgumentError, match="is a group"):
        gpuzarr.open_array(tree)
    with pytest.raises(ArgumentError, match="mode"):
        gpuzarr.open(tree, mode="w")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match=r"did you mean .*/labels\?"):
        gpuzarr.open({"labels/zarr.json": b"{}"})
    with pytest.raises(NotFoundError, match="nothing at all"):
        gpuzarr.open({})
    with pytest.raises(NotFoundError, match="N5"):
        gpuzarr.open({"attributes.json": b"{}"})
    with pytest.raises(ArgumentError, match="no device is called"):
        gpuzarr.open(tree, device="tpu")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (64, "out of bounds"),
        ((0, 0, 0, 0), "too many indices"),
        ((..., ...), "ellipsis"),
        ("name", "integers or booleans"),
        (1.5, "integers or booleans|not an index"),
        ([0.5], "integers or booleans"),
        (np.s_[::0], "zero"),
        (np.zeros(3, bool), "boolean index of length 3"),
        (([0, 1], [0, 1, 2]), "broadcast"),
        ([64], "out of bounds"),
        ([-65], "index -65"),
    ],
)
def test_keys_that_do_not_fit(key: Any, message: str) -> None:
    array = gpuzarr.open_array(stored(chunks=(32, 32, 32)))
    with pytest.raises(SelectionError, match=message):
        array[key]
    with pytest.raises(IndexError):
        array[key]


def test_keys_of_the_indexers_that_do_not_fit() -> None:
    array = gpuzarr.open_array(stored(chunks=(32, 32, 32)))
    for bad in (None, np.zeros((2, 2), int)):
        with pytest.raises(SelectionError):
            array.oindex[bad]
    for bad in (None, [0], np.s_[::2], 2):
        with pytest.raises(SelectionError):
            array.blocks[bad]
    assert np.array_equal(array.blocks[1, 0], VALUES[32:, :32])
    assert np.array_equal(array.blocks[..., 1], VALUES[..., 32:])


def test_out_that_does_not_fit() -> None:
    array = gpuzarr.open_array(stored(chunks=(32, 32, 32)), device="cpu")
    with pytest.raises(ArgumentError, match="shape"):
        array.read(0, out=np.empty((64, 63), "u2"))
    with pytest.raises(ArgumentError, match="type"):
        array.read(0, out=np.empty((64, 64), "u1"))
    frozen = np.empty((64, 64), "u2")
    frozen.flags.writeable = False
    with pytest.raises(ArgumentError, match="read-only"):
        array.read(0, out=frozen)
    wider = array.read(0, out=np.empty((64, 64), "f8"))
    assert wider.dtype == np.float64
    assert np.array_equal(wider, VALUES[0])
    on_device = gpuzarr.open_array(stored(chunks=(32, 32, 32)), device="sim")
    with pytest.raises(ArgumentError, match="not an array on sim"):
        on_device.read(0, out=frozen)


def test_out_on_the_device() -> None:
    array = gpuzarr.open_array(stored(chunks=(32, 32, 32)), device="sim")
    out = array.read(np.s_[:4])
    again = array.read(np.s_[60:], out=out)
    assert again is out
    assert np.array_equal(out.get(), VALUES[60:])
    with pytest.raises(ArgumentError, match="shape"):
        array.read(0, out=out)


def test_results_too_large_for_memory() -> None:
    document = stored(chunks=(32, 32, 32)).inner.mapping["zarr.json"].replace(b"64", b"2305843009213693952")  # type: ignore[attr-defined]
    array = gpuzarr.open_array({"zarr.json": document})
    with pytest.raises(LimitError, match="read it in parts"):
        array[...]
    assert array[0, 0, 0] == 0
    assert array.size == 2305843009213693952**3


def test_threads_share_a_handle() -> None:
    array = gpuzarr.open_array(stored(chunks=(8, 8, 8), shards=(32, 32, 32)), device="cpu")
    failed: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(10):
            lo = rng.integers(0, 40, 3)
            box = tuple(slice(n, n + 24) for n in lo)
            if not np.array_equal(array[box], VALUES[box]):
                failed.append(str(box))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failed == []


def test_fork_makes_a_new_pool() -> None:
    array = gpuzarr.open_array(stored(chunks=(4, 64, 64)), device="cpu")
    with gpuzarr.configured(threads=2, bundle_nbytes=1):
        assert np.array_equal(array[...], VALUES)
        if (child := os.fork()) == 0:
            os._exit(0 if np.array_equal(array[...], VALUES) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_error_in_one_worker_is_the_callers() -> None:
    store = stored(chunks=(4, 64, 64))
    store.inner.mapping["c/9/0/0"] = b"no zstd"  # type: ignore[attr-defined, index]
    array = gpuzarr.open_array(store, device="cpu")
    with (
        gpuzarr.configured(threads=3, bundle_nbytes=1),
        pytest.raises(GpuzarrError, match="c/9/0/0") as caught,
    ):
        array[...]
    assert (caught.value.array, caught.value.chunk, caught.value.codec) == ("memory:", "c/9/0/0", "zstd")


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = config.current()
    with gpuzarr.configured(threads=3) as inside:
        assert inside.threads == 3 == config.current().threads
    assert config.current() == before
    for wrong in ({"threads": 0}, {"threads": "two"}, {"treads": 2}):
        with pytest.raises(ArgumentError):
            gpuzarr.configure(**wrong)
    assert config.current() == before
    monkeypatch.setenv("GPUZARR_THREADS", "5")
    monkeypatch.setenv("GPUZARR_DEVICE", "sim")
    assert (config._from_environment().threads, config._from_environment().device) == (5, "sim")
    monkeypatch.setenv("GPUZARR_THREADS", "many")
    with pytest.raises(ArgumentError, match="GPUZARR_THREADS"):
        config._from_environment()
    with gpuzarr.configured(device="sim"):
        assert gpuzarr.open_array(stored(chunks=(32, 32, 32))).device == "sim"


def test_errors_say_where_and_survive_pickling() -> None:
    error = errors.ChecksumError("it is wrong", hint="fetch it again").located(
        array="a", chunk="c/0", codec="crc32c"
    )
    assert str(error) == "it is wrong [array a, chunk c/0, codec crc32c]; fetch it again"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
    assert error.located(codec="other").codec == "crc32c"
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, GpuzarrError):
            assert kind.__name__ in (errors.__doc__ or "")
            assert str(kind("what", hint="next")) == "what; next"
    assert isinstance(errors.NotFoundError("x"), (FileNotFoundError, KeyError))


def test_stats_add_up() -> None:
    stats = gpuzarr.ReadStats()
    stats.add(requests=2, peak_device_bytes=5)
    stats.add(requests=3, peak_device_bytes=4)
    assert stats.as_dict()["requests"] == 5
    assert stats.as_dict()["peak_device_bytes"] == 5


def test_handles_travel_to_other_processes(tree: Path) -> None:
    array = gpuzarr.open_array(tree, "images/raw", device="cpu")
    array[0]
    again = pickle.loads(pickle.dumps(array))
    assert again[1, 2] == 8
    assert (again.name, again.device) == (array.name, "cpu")


def test_a_shard_that_is_written_later_is_found() -> None:
    store = stored(chunks=(8, 64, 64), shards=(64, 64, 64))
    shard = store.inner.mapping.pop("c/0/0/0")  # type: ignore[attr-defined]
    array = gpuzarr.open_array(store, device="cpu")
    assert not array[0].any()
    store.inner.mapping["c/0/0/0"] = shard  # type: ignore[attr-defined, index]
    assert np.array_equal(array[0], VALUES[0])


def test_codecs_that_widen_values_are_not_taken_for_bombs(tmp_path: Path) -> None:
    import numcodecs

    values = np.arange(3 << 20, dtype="i1")
    written = zarr.create_array(
        tmp_path / "wide",
        shape=values.shape,
        chunks=values.shape,
        dtype="i1",
        zarr_format=2,
        filters=[numcodecs.AsType(encode_dtype="f8", decode_dtype="i1")],
        compressors=None,
    )
    written[...] = values
    assert np.array_equal(gpuzarr.open_array(tmp_path / "wide", device="cpu")[...], values)


def test_interrupting_a_read_ends_it() -> None:
    """Nothing is written any more once Ctrl-C has been raised."""
    from gpuzarr.engine.workers import run_all

    done: list[int] = []
    started = threading.Event()

    def slow() -> None:
        started.set()
        threading.Event().wait(0.05)
        done.append(1)

    def interrupted() -> None:
        started.wait(5)
        raise KeyboardInterrupt

    with gpuzarr.configured(threads=2), pytest.raises(KeyboardInterrupt):
        run_all([slow, interrupted, slow, slow])
    finished = len(done)
    threading.Event().wait(0.1)
    assert len(done) == finished <= 1


def test_a_read_begins_on_its_stream() -> None:
    """The stream is the thread's current one while the read is queued."""
    array = gpuzarr.save({}, np.arange(6), device="sim")
    seen: list[str] = []

    class Stream:
        def __enter__(self) -> None:
            seen.append("enter")

        def __exit__(self, *error: object) -> None:
            seen.append("exit")

    assert array.read(np.s_[2:], stream=Stream()).get().tolist() == [2, 3, 4, 5]
    assert seen == ["enter", "exit"]
