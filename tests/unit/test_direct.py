"""Files straight into device memory: the same values and the same errors as by way of the host."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device.base import FileRead
from gpuzarr.device.sim import Counters, SimDevice
from gpuzarr.errors import ArgumentError, DeviceError, GpuzarrError, MissingDependencyError, StoreError
from gpuzarr.store import gds
from gpuzarr.store.local import LocalStore
from tests import devices, fake_cupy
from tests.conftest import to_host
from tests.devices import SIM_ORDERS

pytestmark = pytest.mark.skipif(
    bool(devices.CHOSEN), reason=f"of the simulated device; this run is of {', '.join(devices.CHOSEN)}"
)

VALUES = np.cumsum(np.random.default_rng(3).integers(-3, 4, (64, 96)), axis=1).astype("<i4")

FORMS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "big-endian": {"compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big")},
    "lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(1), "filters": [numcodecs.Shuffle(4)]},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1)},
    "shards": {"shards": (32, 48), "compressors": [zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]},
    "transposed": {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))], "compressors": None},
}


def written(path: Path, form: str = "raw", values: np.ndarray = VALUES, **more: Any) -> Path:
    """A directory with these values in it."""
    options = {"chunks": (16, 24), "fill_value": 7, **FORMS[form], **more}
    zarr.create_array(path, shape=values.shape, dtype=values.dtype, **options)[...] = values
    return path


def read(path: Path, device: str = "sim", key: Any = ..., **settings: Any) -> tuple[np.ndarray, ReadStats]:
    """What is read, and what that cost; `gds="on"` unless it is said."""
    stats = ReadStats()
    SimDevice.named(device).counters = Counters()
    with gpuzarr.configured(**{"gds": "on", **settings}):
        return gpuzarr.open_array(path, device=device).read(key, stats=stats).get(), stats


def outcome(array: Any, setting: str) -> str:
    """What a read raises."""
    with gpuzarr.configured(gds=setting), pytest.raises(GpuzarrError) as caught:
        array.read()
    return f"{type(caught.value).__name__}: {caught.value}"


# ---- reads


@pytest.mark.parametrize("wave_nbytes", [0, 12_000])
@pytest.mark.parametrize("device", SIM_ORDERS)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_it_crosses(tmp_path: Path, device: str, form: str, wave_nbytes: int) -> None:
    path = written(tmp_path, form)
    found, stats = read(path, device, wave_nbytes=wave_nbytes)
    assert (found == VALUES).all()
    counters = SimDevice.named(device).counters
    assert stats.bytes_crossed == stats.on_host == 0
    index = 4 * (4 * 16 + 4) if form == "shards" else 0
    assert stats.bytes_direct == stats.bytes_read - index > 0
    assert counters.file_reads == stats.requests - (4 if index else 0)
    assert (stats.waves == 1) == (wave_nbytes == 0)
    ordinary, other = read(path, device, wave_nbytes=wave_nbytes, gds="off")
    assert (ordinary == VALUES).all()
    assert (other.requests, other.bytes_read, other.chunks) == (
        stats.requests,
        stats.bytes_read,
        stats.chunks,
    )
    assert other.bytes_direct == 0 < other.bytes_crossed


@pytest.mark.parametrize("form", ["raw", "shards"])
def test_parts_and_large_requests_begin_at_pages(tmp_path: Path, form: str) -> None:
    values = np.arange(600 * 512, dtype="<u2").reshape(600, 512)
    options: dict[str, Any] = {"chunks": (300, 256)}
    if form == "shards":
        options = {"chunks": (150, 256), "shards": (600, 512), "compressors": [zarr.codecs.Crc32cCodec()]}
    path = written(tmp_path, form, values, **options)
    with gpuzarr.configured(coalesce_gap=1, request_nbytes=1):
        found, stats = read(path, key=np.s_[170:590:3, 200:])
    assert (found == values[170:590:3, 200:]).all()
    assert stats.bytes_crossed == 0
    counters = SimDevice.named("sim").counters
    if form == "shards":  # of a shard also what lies between the page's begin and the chunk
        assert stats.bytes_direct < counters.file_nbytes < stats.bytes_direct + 4096 * counters.file_reads
    else:
        assert stats.bytes_direct == counters.file_nbytes


def test_missing_files_are_missing_chunks(tmp_path: Path) -> None:
    path = written(tmp_path, "lz4")
    for name in ("0.1", "3.3"):
        (path / name).unlink()
    found, stats = read(path)
    expected = VALUES.copy()
    expected[:16, 24:48] = expected[48:, 72:] = 7
    assert (found == expected).all()
    assert (stats.chunks, stats.filled, stats.requests, stats.bytes_crossed) == (14, 2, 16, 0)
    for file in path.glob("[0-9]*"):
        file.unlink()
    found, stats = read(path)
    assert (found == 7).all()
    assert stats.bytes_direct == stats.bytes_read == 0


@pytest.mark.parametrize("device", SIM_ORDERS)
def test_the_host_has_the_last_word(tmp_path: Path, device: str) -> None:
    """What the device refuses comes back, and goes to the host."""
    path = written(tmp_path, "zlib", filters=None)
    odd = path / "1.2"
    odd.write_bytes(odd.read_bytes() + b"and more")
    found, stats = read(path, device)
    assert (found == VALUES).all()
    assert (stats.on_host, stats.chunks, stats.bytes_crossed) == (1, 16, 16 * 24 * 4)
    assert SimDevice.named(device).counters.download_nbytes == odd.stat().st_size
    whole = bytearray(odd.read_bytes()[:-8])
    whole[-1] ^= 1
    odd.write_bytes(whole)
    array = gpuzarr.open_array(path, device=device)
    assert outcome(array, "on") == outcome(array, "off")
    assert "1.2" in outcome(array, "on")


# ---- where it does not apply


def test_it_has_to_be_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path)
    for setting in ("auto", "off"):
        found, stats = read(path, gds=setting)
        assert (found == VALUES).all()
        assert (stats.bytes_direct, stats.bytes_crossed) == (0, VALUES.nbytes)
    with pytest.raises(ArgumentError, match="gds='yes' is none of auto, on and off"):
        gpuzarr.configure(gds="yes")


@pytest.mark.parametrize(
    "codec", [zarr.codecs.BloscCodec(cname="lz4"), zarr.codecs.ZstdCodec(), zarr.codecs.numcodecs.BZ2()]
)
def test_what_the_host_has_to_see_goes_by_way_of_it(tmp_path: Path, codec: Any) -> None:
    found, stats = read(written(tmp_path, compressors=codec))
    assert (found == VALUES).all()
    assert stats.bytes_direct == 0 < stats.bytes_crossed


def test_only_directories_have_files(tmp_path: Path) -> None:
    path = written(tmp_path)
    objects = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.*")}
    objects |= {file.relative_to(path).as_posix(): file.read_bytes() for file in path.glob("c/*/*")}
    stats = ReadStats()
    with gpuzarr.configured(gds="on"):
        found = gpuzarr.open_array(objects, device="sim").read(stats=stats).get()
    assert (found == VALUES).all()
    assert stats.bytes_direct == 0


# ---- what goes wrong


def spoiled(path: Path, how: str) -> None:
    """Do something to a file of an array."""
    victim = path / "c/1/0"
    kept = victim.read_bytes()
    if how == "shortened":
        victim.write_bytes(kept[: len(kept) // 3])
        return
    if how == "long":
        os.truncate(victim, 40 << 20)
        return
    victim.unlink()
    if how == "empty":
        victim.touch()
    elif how == "pipe":
        os.mkfifo(victim)
    elif how == "link out":
        (path.parent / "elsewhere").write_bytes(kept)
        victim.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("how", ["shortened", "empty", "long", "pipe", "link out"])
def test_errors_are_those_of_the_ordinary_way(tmp_path: Path, how: str) -> None:
    array = gpuzarr.open_array(written(tmp_path / "array"), device="sim")
    spoiled(tmp_path / "array", how)
    assert outcome(array, "on") == outcome(array, "off")


def test_so_are_those_of_shards_that_change_behind_their_index(tmp_path: Path) -> None:
    """The index is read again, of the shard as it is now."""
    array = gpuzarr.open_array(written(tmp_path, "shards"), device="sim")
    array.read()  # the indexes are kept
    spoiled(tmp_path, "shortened")
    SimDevice.named("sim").counters = counters = Counters()
    said = outcome(array, "on")
    assert counters.file_reads == 0  # sizes are looked at first: indexes may promise any
    assert said == outcome(array, "off")
    assert "crc32c" in said


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_shard_that_vanishes_behind_its_index_is_missing(tmp_path: Path, setting: str) -> None:
    array = gpuzarr.open_array(written(tmp_path, "shards"), device="sim")
    array.read()
    spoiled(tmp_path, "vanished")
    with gpuzarr.configured(gds=setting):
        found = to_host(array.read())
    expected = gpuzarr.open_array(tmp_path, device="cpu")[...]
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, VALUES)


@pytest.mark.parametrize("how", ["replaced", "vanished"])
def test_a_shard_that_changes_before_its_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The device opens files by their names, and may find another's. What it has read is not used then."""
    array = gpuzarr.open_array(written(tmp_path, "shards"), device="sim")
    array.read()
    other = tmp_path.parent / f"{tmp_path.name}-other"
    gpuzarr.save(other, VALUES[::-1], chunks=array.chunks, shards=array.shards, codecs=array.codecs)
    real = SimDevice.read_files

    def late(self: SimDevice, reads: list[Any], reader: Any) -> None:
        real(self, reads, reader)
        for path in tmp_path.glob("c/*/*"):
            if how == "replaced":
                os.replace(other / path.relative_to(tmp_path), path)
            else:
                path.unlink()
        monkeypatch.setattr(SimDevice, "read_files", real)

    monkeypatch.setattr(SimDevice, "read_files", late)
    with gpuzarr.configured(gds="on"):
        found = to_host(array.read())
    assert np.array_equal(found, VALUES[::-1] if how == "replaced" else np.full_like(VALUES, 7))


def test_what_fails_while_it_is_read_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and then the read does not try it any more."""
    asked = []

    def fail(self: SimDevice, reads: list[Any], reader: Any) -> None:
        asked.append(len(reads))
        raise StoreError("no such luck")

    monkeypatch.setattr(SimDevice, "read_files", fail)
    found, stats = read(written(tmp_path, "gzip"), wave_nbytes=12_000)
    assert (found == VALUES).all()
    assert 1 <= len(asked) <= 3  # waves that were on their way
    assert (stats.bytes_direct, stats.chunks, stats.requests) == (0, 16, 16)


def test_a_device_fills_its_memory_or_says_what_is_wrong(tmp_path: Path) -> None:
    (path,) = files(tmp_path, 1, 100)
    device = SimDevice.named("sim")
    lane = device.lane()
    into, host = lane.empty(300), np.zeros(300, np.uint8)
    device.read_files(
        [FileRead(str(path), 10, into.part(0, 90)), FileRead(str(path), 0, into.part(200, 100))], None
    )
    lane.download(into, host)
    lane.synchronize()
    data = path.read_bytes()
    assert host.tobytes() == data[10:] + bytes([0xA5]) * 110 + data
    for wrong in (FileRead(str(path), 11, into.part(0, 90)), FileRead(str(tmp_path / "no"), 0, into)):
        with pytest.raises(StoreError, match=wrong.path):
            device.read_files([wrong], None)
    lane.synchronize()
    lane.reset()
    with pytest.raises(DeviceError, match="given back"):
        device.read_files([FileRead(str(path), 0, into)], None)


def test_links_inside_are_followed(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / "c/1/0").rename(path / "kept")
    (path / "c/1/0").symlink_to(path / "kept")
    found, stats = read(path)
    assert (found == VALUES).all()
    assert stats.bytes_direct == VALUES.nbytes


def test_a_store_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/one").write_bytes(b"1234")
    (tmp_path / "out").symlink_to("/etc/hostname")
    store = LocalStore(str(tmp_path))
    assert store.file("folder/one") == (f"{tmp_path}/folder/one", 4)
    assert store.file("folder") is store.file("folder/two") is store.file("folder/one/two") is None
    with pytest.raises(StoreError, match="is a link to"):
        store.file("out")
    with pytest.raises(StoreError, match="is not a key"):
        store.file("../out")


def test_it_is_explained(tmp_path: Path) -> None:
    array = gpuzarr.open_array(written(tmp_path), device="sim")
    assert "straight" not in str(array.explain())
    with gpuzarr.configured(gds="on"):
        assert "24.0 KiB, straight into device memory (sim)" in str(array.explain())
        assert array.explain().direct == "sim"


# ---- KvikIO


class FakeKvikIO(types.ModuleType):
    """KvikIO, as far as gpuzarr uses it, over plain files: reads run when they are waited for, on a thread of
    their own, and so late that memory which was given back by then is caught."""

    def __init__(self) -> None:
        super().__init__("kvikio")
        self.compat, self.available = False, True
        self.settings: dict[str, Any] = {"num_threads": 1}
        self.reads: list[tuple[str, int, int]] = []
        self.open = self.most = self.waited = 0
        self.short = self.broken = -1
        self.require: Callable[[int, int], None] = lambda address, nbytes: None
        self.defaults = types.ModuleType("kvikio.defaults")
        self.defaults.__dict__.update(
            is_compat_mode_preferred=lambda: self.compat, get=self.settings.get, set=self.settings.__setitem__
        )
        self.cufile_driver = types.ModuleType("kvikio.cufile_driver")
        self.cufile_driver.__dict__["get"] = {"is_gds_available": True}.__getitem__

    def CuFile(self, path: str, flags: str) -> FakeFile:
        assert flags == "r"
        return FakeFile(self, path)


class FakeFile:
    def __init__(self, kvikio: FakeKvikIO, path: str) -> None:
        self.kvikio, self.path = kvikio, path
        try:
            self.file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise RuntimeError(f"cannot open: {error}") from error
        self.pending = 0
        kvikio.open += 1
        kvikio.most = max(kvikio.most, kvikio.open)

    def pread(self, buf: Any, size: int, file_offset: int, task_size: int) -> FakeFuture:
        memory = buf.__cuda_array_interface__
        (nbytes,), (address, read_only) = memory["shape"], memory["data"]
        assert (memory["typestr"], memory["strides"], read_only) == ("|u1", None, False)
        assert size <= nbytes
        assert task_size >= size > 0, "KvikIO would cut it"
        self.kvikio.reads.append((self.path, file_offset, size))
        self.pending += 1
        return FakeFuture(self, address, size, file_offset, len(self.kvikio.reads) - 1)

    def close(self) -> None:
        assert not self.pending, "closed while it is read"
        self.kvikio.open -= 1
        self.file.close()


class FakeFuture:
    def __init__(self, of: FakeFile, address: int, size: int, offset: int, number: int) -> None:
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
        self.of.pending -= 1
        self.of.kvikio.waited += 1
        return done.result()

    def _read(self) -> int:
        if self.number == self.of.kvikio.broken:
            raise RuntimeError("cuFile error: 5030")
        size = self.size - (self.number == self.of.kvikio.short)
        data = os.pread(self.of.file.fileno(), size, self.offset)
        self.of.kvikio.require(self.address, len(data))
        ctypes.memmove(self.address, data, len(data))
        return len(data)


@pytest.fixture
def kvikio(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKvikIO]:
    made = FakeKvikIO()
    for name in ("kvikio", "kvikio.defaults", "kvikio.cufile_driver"):
        monkeypatch.setitem(sys.modules, name, made if name == "kvikio" else getattr(made, name[7:]))
    gds.loaded.cache_clear()
    yield made
    gds.loaded.cache_clear()
    assert made.open == 0


def files(path: Path, count: int, nbytes: int) -> list[Path]:
    """Files of different bytes."""
    paths = [path / str(i) for i in range(count)]
    for i, one in enumerate(paths):
        one.write_bytes(np.random.default_rng(i).bytes(nbytes))
    return paths


def asked(paths: list[Path], starts: list[int], nbytes: int, into: np.ndarray) -> list[Any]:
    """Reads of `nbytes` from every start of every path, one behind the other."""
    places = enumerate((path, start) for path in paths for start in starts)
    return [(str(path), start, nbytes, into.ctypes.data + i * nbytes) for i, (path, start) in places]


def test_many_files_are_read_at_once(kvikio: FakeKvikIO, tmp_path: Path) -> None:
    paths = files(tmp_path, gds.FILES + 9, 100)
    into = np.full(len(paths) * 2 * 30, 0xA5, np.uint8)
    gds.read(asked(paths, [5, 60], 30, into))
    assert into.tobytes() == b"".join(p.read_bytes()[s : s + 30] for p in paths for s in (5, 60))
    assert kvikio.most == gds.FILES
    assert len(kvikio.reads) == kvikio.waited == 2 * len(paths)
    assert kvikio.settings["num_threads"] == gpuzarr.configure().threads


def test_large_reads_are_cut_into_tasks(
    kvikio: FakeKvikIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gds, "PIECE_NBYTES", 4096)
    kvikio.settings["num_threads"] = 3
    (path,) = files(tmp_path, 1, 10_000)
    into = np.zeros(9_000, np.uint8)
    gds.read(asked([path], [4], 9_000, into))
    assert into.tobytes() == path.read_bytes()[4:9004]
    assert [size for _, _, size in kvikio.reads] == [4096, 4096, 808]
    assert kvikio.settings["num_threads"] == 3  # somebody's choice


@pytest.mark.parametrize("how", ["short", "broken", "missing", "ended"])
def test_errors_name_the_file_and_leave_nothing_under_way(
    kvikio: FakeKvikIO, tmp_path: Path, how: str
) -> None:
    paths = files(tmp_path, 5, 100)
    into = np.zeros(500, np.uint8)
    if how == "missing":
        paths[2].unlink()
    elif how == "ended":
        paths[2].write_bytes(b"")
    else:
        setattr(kvikio, how, 2)
    with pytest.raises(StoreError, match=f"cannot read {paths[2]} into device memory: ") as caught:
        gds.read(asked(paths, [0], 100, into))
    assert kvikio.waited == len(kvikio.reads) >= 2
    assert kvikio.open == 0
    told = {"short": "99 bytes came where 100", "broken": "5030", "missing": "open", "ended": "0 bytes"}
    assert told[how] in str(caught.value)


def test_the_mode_is_said(kvikio: FakeKvikIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gds.mode() == "gds"
    kvikio.compat = True
    assert gds.mode() == "compat"
    kvikio.compat = False
    driver = kvikio.cufile_driver.__dict__
    driver["get"] = {"is_gds_available": False}.__getitem__
    assert gds.mode() == "compat"

    def fail(name: str) -> bool:
        raise RuntimeError("cuFile: driver not initialised")

    driver["get"] = fail
    assert gds.mode() == "compat"
    monkeypatch.setitem(sys.modules, "kvikio", None)
    gds.loaded.cache_clear()
    assert gds.mode() == "KvikIO is not installed"
    with pytest.raises(MissingDependencyError, match="KvikIO is not installed"):
        gds.read([])


@pytest.mark.parametrize("order", fake_cupy.ORDERS)
@pytest.mark.parametrize("form", ["raw", "gzip", "shards"])
def test_on_a_gpu(
    kvikio: FakeKvikIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, form: str
) -> None:
    machine = fake_cupy.install(monkeypatch, order)

    def require(address: int, nbytes: int) -> None:
        with machine.on(0):
            machine.require_device(address, nbytes)

    kvikio.require = require
    path = written(tmp_path, form)
    array = gpuzarr.open_array(path, device="cuda")
    for compat, setting, direct in ((False, "on", True), (True, "on", True), (True, "auto", False)):
        kvikio.compat = compat
        stats = ReadStats()
        with gpuzarr.configured(strict=1, gds=setting, wave_nbytes=20_000):
            assert (array.read(stats=stats).get() == VALUES).all()
            assert array.explain().direct == (("compat" if compat else "gds") if direct else "")
        assert (stats.bytes_direct > 0, stats.bytes_crossed == 0, stats.on_host) == (direct, direct, 0)
    kvikio.broken = len(kvikio.reads) + 1
    stats = ReadStats()
    with gpuzarr.configured(strict=1, gds="on"):
        assert (array.read(stats=stats).get() == VALUES).all()
    assert stats.bytes_direct == 0 < stats.bytes_crossed


def test_by_itself_only_where_requests_are_large(
    kvikio: FakeKvikIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cupy.install(monkeypatch)
    values = np.arange(1 << 20, dtype="<u2").reshape(2, -1)
    for chunks, direct in (((1, 1 << 19), True), ((1, 1 << 18), False)):
        path = written(tmp_path / str(direct), "raw", values, chunks=chunks)
        array, stats = gpuzarr.open_array(path, device="cuda"), ReadStats()
        with gpuzarr.configured(strict=1):
            assert array.explain().direct == ("gds" if direct else "")
            assert (array.read(stats=stats).get() == values).all()
        assert stats.bytes_direct == (values.nbytes if direct else 0)
