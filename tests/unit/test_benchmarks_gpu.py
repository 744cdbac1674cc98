"""The benchmark of GPUs, small, on device sim: it runs, its bytes are right, and it finds what is wrong."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numcodecs import lz4

import gpuzarr
from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import encode, kernels, patches, report, scale, tables, whole
from benchmarks.gpu import machine as machines
from benchmarks.gpu.given import Given
from benchmarks.gpu.held import Held
from benchmarks.gpu.machine import Ceilings, Gpu, Machine, WrongResultError
from benchmarks.gpu.stored import CHAINS, Stored, noise
from gpuzarr.device import sim_nvcomp
from gpuzarr.device.nvcomp import Alignments
from gpuzarr.engine import cache
from tests import devices, fake_cupy

pytestmark = pytest.mark.skipif(devices.NO_SIM, reason=f"of device sim; this run is of {devices.CHOSEN}")

SHAPE, CHUNKS = (16, 32, 32), (8, 16, 16)
LOOKED_AT = ("gz_lz4_encode", "gz_blosc_pack", "gz_differs", "gz_differences")
CEILINGS = Ceilings(4e12, 50e9, 40e9, 100e9)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path, said = tmp_path_factory.mktemp("run") / "run.json", io.StringIO()
    with redirect_stdout(said):
        assert benchmark.main(["--device", "sim", "--scale", "tiny", "--json", str(path)]) == 0
    return {**json.loads(path.read_text()), "path": path, "said": said.getvalue()}


def test_every_suite_has_its_rows(document: dict[str, Any]) -> None:
    assert [row["chain"] for row in document["decode"]] == list(tables.FEW)
    assert [row["name"] for row in document["whole"]] == [case.name for case in whole.cases(scale.TINY)]
    assert {row["chain"] for row in document["crossover"]} == {"blosc(lz4, shuffle)", "zstd"}
    assert document["shuffle"]
    assert [row["chain"] for row in document["encode"]] == list(encode.FEW)
    assert {row["kernel"] for row in document["kernels"]} == {*report.MOVERS, *LOOKED_AT}
    assert [row["chain"] for row in document["patches"]] == list(patches.CHAINS)
    assert document["left_out"] == []
    assert not document["timed"]


def test_what_a_row_says(document: dict[str, Any]) -> None:
    zstd = next(row for row in document["decode"] if row["chain"] == "zstd")
    assert list(zstd["parts"])[-4:] == ["gz_streams", "nvCOMP (zstd)", "gz_verdict", "gz_scatter"]
    assert zstd["decoded"] == 2 * 32 * 32 * 64
    assert zstd["encoded"] < zstd["decoded"]
    assert zstd["moved"] == zstd["encoded"] + 3 * zstd["decoded"]
    shards = document["whole"][5]
    assert shards["counts"]["requests"] == 4
    assert shards["counts"]["bytes_crossed"] < shards["counts"]["bytes_read"]
    assert set(shards["seconds"]) == {"plan", "fetch", "crossing", "device", "all", "chosen"}
    assert shards["binding"] in shards["seconds"]
    assert "seconds" in shards["peers"]["gpuzarr cpu + upload"]


def test_what_a_row_of_writes_says(document: dict[str, Any]) -> None:
    rows = {row["chain"]: row for row in document["encode"]}
    zstd, blosc = rows["zstd"], rows["blosc(lz4, shuffle)"]
    names = ["gz_scatter", "gz_differs", "gz_strings", "nvCOMP (zstd)", "gz_compressed"]
    assert [name for name in zstd["parts"] if name in names] == names
    assert {"gz_shuffle", "gz_lz4_encode", "gz_blosc_plan", "gz_blosc_pack"} < set(blosc["parts"])
    assert zstd["decoded"] == 2 * 32 * 32 * 64 > zstd["encoded"] == zstd["write"]["encoded"]
    assert zstd["library"]["encoded"] == zstd["encoded"]
    assert "library" not in blosc
    assert rows["raw"]["encoded"] == rows["raw"]["host"]["encoded"] == rows["raw"]["decoded"]
    assert zstd["parts"]["gz_scatter"]["nbytes"] == 2 * zstd["decoded"]


def test_what_a_row_of_boxes_says(document: dict[str, Any]) -> None:
    raw = document["patches"][0]
    ways = {"cold", "warm", "cold as f32", "warm as f32"}
    assert set(raw["seconds"]) == {f"{way}{side}" for way in ways for side in ("", ", chosen", ", host")}
    assert raw["nbytes"] == 3 * 9 * 8 * 7 * 2
    assert raw["requests"] == raw["chunks"] > 1


def test_what_a_row_of_objects_says(document: dict[str, Any]) -> None:
    raw, shards, boxes = document["remote"][:3]
    staging, straight = raw["ways"]["staging"], raw["ways"]["kvikio"]
    count = 32 * 32 * 64 // (16 * 16 * 16)
    assert (staging["requests"], staging["direct"], straight["requests"]) == (count, 0, 3 * count)
    assert staging["read"] == straight["direct"] == raw["nbytes"] == 2 * 32 * 32 * 64
    assert set(raw["seconds"]) >= {"staging", "kvikio"}
    assert shards["ways"]["kvikio"]["direct"] == 0  # so small a shard comes with its index
    assert 0 < boxes["ways"]["kvikio"]["direct"] < boxes["ways"]["staging"]["read"]


def test_that_nothing_ran_on_a_gpu_is_said(document: dict[str, Any]) -> None:
    assert "nothing here has run on a GPU" in document["machine"]["note"]
    assert "nothing of this has run on a GPU" in document["said"]


def test_peers_that_are_missing_are_named(document: dict[str, Any]) -> None:
    assert {"zarr enable_gpu", "zarr GDSStore", "czarr"} <= set(document["missing"])
    assert set(document["machine"]) >= {"device", "processor", "threads", "system"}
    assert document["command"][:3] == ["python", "-m", "benchmarks.gpu"]


@pytest.mark.slow
def test_plots(document: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = document["path"]
    assert benchmark.main(["plot", str(path)]) == 0
    assert {one.name for one in path.parent.glob("*.png")} == {
        "run-decode.png",
        "run-whole.png",
        "run-crossover.png",
    }


def test_what_begins_too_late_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    given = ["--device", "sim", "--scale", "tiny", "--seconds", "0", "--json", str(path)]
    assert benchmark.main([*given, "--only", "decode", "--only", "crossover"]) == 0
    found = json.loads(path.read_text())
    assert found["decode"] == found["crossover"] == []
    assert len(found["left_out"]) == 2
    assert "left out: what decode had not begun after 0 s" in capsys.readouterr().out


# ---- what is read


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("shards", [None, (8, 32, 32)])
def test_arrays_are_what_they_say(chain: str, shards: tuple[int, ...] | None, tmp_path: Path) -> None:
    """In memory and in files; zarr-python reads the same, where it is installed."""
    stored = Stored(SHAPE, (8, 32, 16), CHUNKS, chain, shards)
    key = np.s_[3:-2, 1:, ::3]
    in_memory = gpuzarr.open_array(stored.in_memory(), device="cpu")
    assert stored.wrong(in_memory[...]) is None
    assert stored.wrong(in_memory[key], key) is None
    assert stored.write(tmp_path / "array") > 0
    zarr = pytest.importorskip("zarr", reason="zarr-python is not installed")
    assert stored.wrong(zarr.open_array(tmp_path / "array", mode="r")[...]) is None


def test_wrong_values_are_found() -> None:
    stored = Stored(SHAPE, (8, 32, 16), CHUNKS, "raw")
    right = gpuzarr.open_array(stored.in_memory(), device="cpu")[...]
    wrong = right.copy()
    wrong[9, 3, 20] += 1
    assert stored.wrong(wrong) == "1 of 4096 values are wrong in the block at (1, 0, 1)"
    assert "shape" in (stored.wrong(right[1:]) or "")
    assert "int32" in (stored.wrong(right.astype("i4")) or "")


def test_sizes_divide_each_other() -> None:
    for one in scale.SCALES.values():
        arrays = [Stored(one.volume, one.block, chunks, "raw") for chunks in one.chunk_shapes]
        for stored in [*arrays, *(case.stored for case in whole.cases(one))]:
            pairs = [(stored.block, stored.chunks), (stored.shape, stored.block)]
            pairs += [(stored.shards, stored.chunks), (stored.shape, stored.shards)] if stored.shards else []
            assert all(n % m == 0 for a, b in pairs for n, m in zip(a, b, strict=True)), stored
    shards = whole.cases(scale.FULL)[5].stored
    assert (shards.count, shards.nbytes) == (3200, 3_276_800_000)
    assert whole.cases(scale.FULL)[5].name == "8 shards × 400 zstd chunks of 1 MB"
    assert whole.cases(scale.FULL)[6].name.startswith("32 inner chunks of one shard")
    assert whole.cases(scale.FULL)[4].name.startswith("1024 × 64 KiB")


# ---- clocks


def test_damaged_chunks_are_not_timed() -> None:
    stored = Stored(SHAPE, SHAPE, CHUNKS, "lz4")
    objects = stored.in_memory()
    key = next(key for key in objects if key.startswith("c/"))
    objects[key] = objects[key][:-40]
    machine = Machine.named("sim", 1)
    held = Held(machine, gpuzarr.open_array(objects, device="sim"))
    with pytest.raises(WrongResultError, match=r"chunks \[0\] were not decoded"):
        machine.measure(held.queue)


@pytest.mark.parametrize("budget", [None, 10_000])
def test_held_chunks_are_decoded_as_the_engine_does(budget: int | None) -> None:
    machine = Machine.named("sim", 1)
    for chain in CHAINS:
        stored = Stored(SHAPE, SHAPE, CHUNKS, chain)
        held = Held(machine, gpuzarr.open_array(stored.in_memory(), device="sim"), copies=2, budget=budget)
        for turn in range(2):
            machine.once(held.queue, turn)
            assert stored.wrong(held.out.get()) is None
        assert held.decoded_nbytes == stored.nbytes


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The clock of a GPU, over what stands in for CuPy: each event counts one."""
    stand_in = fake_cupy.install(monkeypatch, "late")
    import cupy

    ticks: list[Any] = []

    class Event(cupy.cuda.Event):
        def record(self, stream: Any = None) -> None:
            super().record(stream)
            ticks.append(self)

    def as_array(values: np.ndarray) -> Any:
        """Behind what the current stream has queued, and no sooner."""
        made, given = cupy.empty(values.shape, values.dtype), values.copy()
        cupy.cuda.get_current_stream()._add(lambda: made._host().__setitem__(..., given))
        return made

    def wait() -> None:
        for stream in (*stand_in.null, *stand_in.streams.values()):
            stream._run()

    pool = SimpleNamespace(free_all_blocks=lambda: None)
    for place, name, value in (
        (cupy.cuda, "Event", Event),
        (cupy.cuda, "get_elapsed_time", lambda a, b: 1e3 * (ticks.index(b) - ticks.index(a))),
        (cupy.cuda.Device, "use", lambda self: None),
        (cupy.cuda.runtime, "deviceSynchronize", wait),
        (cupy, "asarray", as_array),
        (cupy, "get_default_memory_pool", lambda: pool),
    ):
        monkeypatch.setattr(place, name, value, raising=False)
    for kept in ("_caches", "_slabs"):  # of another test's device of that name
        monkeypatch.setattr(cache, kept, {})
    made = Machine.named("cuda", 1)
    assert isinstance(made, Gpu)
    return made


def test_events_stand_between_the_parts(gpu: Machine) -> None:
    stored = Stored(SHAPE, SHAPE, CHUNKS, "zstd")
    held = Held(gpu, gpuzarr.open_array(stored.in_memory(), device="cuda"))
    gpu.once(held.queue)
    assert stored.wrong(held.out.get()) is None
    timing = gpu.measure(held.queue, detail=True)
    assert timing.seconds == 1
    assert timing.parts == dict.fromkeys(
        ("faults", "gz_streams", "nvCOMP (zstd)", "gz_verdict", "gz_scatter"), 1.0
    )


def test_writes_kernels_and_boxes_are_timed_by_events(gpu: Machine, tmp_path: Path) -> None:
    """All of these tables, as on a GPU; each part lasts from one event to the next."""
    rows = list(encode.encode_table(gpu, scale.TINY, CEILINGS, lambda: False))
    assert [row["chain"] for row in rows] == list(encode.FEW)
    assert all(part["seconds"] == 1 for row in rows for part in row["parts"].values())
    rows = list(kernels.kernel_table(gpu, scale.TINY, CEILINGS, lambda: False))
    assert {row["kernel"] for row in rows} == {*report.MOVERS, *LOOKED_AT}
    assert all(row["seconds"] == 1 for row in rows)
    rows = list(patches.patch_table(gpu, scale.TINY, CEILINGS, tmp_path, lambda: False))
    assert [row["on_host"] for row in rows] == [0] * len(patches.CHAINS)


@pytest.mark.parametrize("format", ["lz4", "zstd"])
def test_nvcomps_own_call(format: str, gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sim_nvcomp._COMPRESS_ALIGNMENTS, "lz4", Alignments(1, 1, 1))
    monkeypatch.setitem(sim_nvcomp._ENCODERS, "lz4", lambda plain: bytes(lz4.compress(plain))[4:])
    stored = Stored(SHAPE, SHAPE, CHUNKS, "raw")
    objects = {"zarr.json": stored.document}
    array = gpuzarr.open_array(objects, mode="r+", device="cuda")
    given = Given(gpu, array, gpu.to_device(noise(SHAPE)))
    seconds, nbytes = encode.library(gpu, format, given)
    assert seconds == 1
    assert 0 < nbytes < given.decoded_nbytes
    monkeypatch.setitem(sim_nvcomp._ENCODERS, format, lambda plain: b"")
    compress = sim_nvcomp.HostLibrary.compress

    def failing(self: Any, format: str, table: Any, cuda_stream: int = 0) -> None:
        compress(self, format, table)
        sim_nvcomp._view(table.statuses, 4)[:] = 1

    monkeypatch.setattr(sim_nvcomp.HostLibrary, "compress", failing)
    with pytest.raises(WrongResultError, match=f"does not compress all chunks as {format}"):
        encode.library(gpu, format, given)


def test_wrong_chunks_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.named("sim", 1)
    values = noise(SHAPE)
    for chain in encode.CHAINS:
        stored = Stored(SHAPE, SHAPE, CHUNKS, chain)
        array = gpuzarr.open_array({"zarr.json": stored.document}, mode="r+", device="sim")
        given = Given(machine, array, machine.to_device(values))
        assert encode._encoded(machine, given, array, values) > 0
        with pytest.raises(WrongResultError, match="does not decode to its values"):
            encode._encoded(machine, given, array, values + 1)
    monkeypatch.setattr(kernels, "shuffled", lambda batch, *_: batch)
    bench = kernels._Bench(machine, scale.TINY)
    with pytest.raises(WrongResultError, match="chunk 0 is wrong"):
        bench._shuffle(kernels.BYTES, 2).check()


def test_ceilings(tmp_path: Path) -> None:
    found = Machine.named("sim", 1).ceilings(1 << 16, tmp_path)
    assert all(value > 0 for value in found.as_dict().values())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_page_cache_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_read", lambda path, into: None)
    with pytest.raises(WrongResultError):
        Machine.named("sim", 1).ceilings(1 << 12, tmp_path)


# ---- goals


def test_goals_are_judged_by_the_worst_row() -> None:
    def decode(chain: str, nbytes: int, rate: float, **more: float) -> dict[str, Any]:
        return {"chain": chain, "chunk_nbytes": nbytes, "rate": rate, **more}

    found = {
        "decode": [
            decode("blosc(lz4, shuffle)", 8 << 10, 1e9),
            decode("blosc(lz4, shuffle)", 64 << 10, 140e9),
            decode("blosc(lz4, shuffle)", 1 << 20, 400e9),
            decode("zstd", 64 << 10, 1e9, of_library=0.97),
            decode("zstd", 16 << 20, 1e9, of_library=0.1),
        ],
        "shuffle": [{"fused_of_copy": 0.83}, {"fused_of_copy": 0.9}],
    }
    goals = report.goals(found)
    assert [(one["value"], one["met"]) for one in goals[:3]] == [
        (140, False),
        (97, True),
        (83, True),
    ]
    assert [one["met"] for one in goals[3:]] == [None] * (len(goals) - 3)


def test_only_full_sizes_are_judged(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from gpuzarr.cli.show import Screen

    screen = Screen(sys.stdout)
    for changes, words in (({"timed": False}, "that it runs"), ({"timed": True}, "not judged here")):
        report.show_goals(screen, {**document, **changes})
        said = capsys.readouterr().out
        assert words in said
        assert "met" not in said.replace("metric", "")
    report.show_goals(screen, {**document, "timed": True, "scale": "full"})
    assert "short" in capsys.readouterr().out


def test_a_machine_has_memory_of_its_own() -> None:
    with pytest.raises(SystemExit, match="benchmark of devices"):
        Machine.named("cpu", 1)
