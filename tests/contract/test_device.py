"""Device sim passes the DeviceContract in its four orders, and finds kernels that are wrong on purpose."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.device import catalogue, sim_library
from gpuzarr.device.sim import ORDERS, Counters, SimDevice
from gpuzarr.device.sim_memory import GARBAGE, SimArray
from gpuzarr.errors import ArgumentError, DeviceError, MissingDependencyError
from gpuzarr.testing.device import DeviceContract, download, swap

KERNELS = Path(__file__).parents[1] / "data" / "kernels"

not_sanitizing = pytest.mark.skipif(
    sim_library.sanitizing(), reason="AddressSanitizer and UBSan end the process where it goes wrong"
)


class _Sim(DeviceContract):
    name = "sim"

    def device(self) -> SimDevice:
        return SimDevice.named(self.name)

    def to_host(self, array: Any) -> NDArray[Any]:
        return array.get()


class TestForward(_Sim):
    """Threads in their order."""


class TestReversed(_Sim):
    """The last thread first."""

    name = "sim:reversed"


class TestShuffled1(_Sim):
    """Threads and warps at random."""

    name = "sim:shuffled1"


class TestShuffled2(_Sim):
    """At random, otherwise."""

    name = "sim:shuffled2"


@pytest.fixture(params=ORDERS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimDevice:
    """A device of its own, whose catalogue has the kernels of tests/data/kernels too."""
    for name, kernel in catalogue.scan(KERNELS).items():
        monkeypatch.setitem(catalogue.kernels(), name, kernel)
    return SimDevice(request.param)


def run(device: SimDevice, kernel: str, blocks: int, threads: int, out_nbytes: int, **params: Any) -> bytes:
    lane = device.lane()
    dst = lane.empty(out_nbytes)
    lane.launch(kernel, blocks, threads, dst=dst, **params)
    return download(lane, dst)


# ---- what wrong kernels do


@pytest.mark.parametrize("kernel", ["gz_wrong_no_barrier", "gz_wrong_no_barrier_reversed"])
def test_a_missing_barrier_shows(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In at least one order the sum is wrong. With one order more than half of such mistakes would pass."""
    values = np.arange(1, 257, dtype=np.uint32)
    right = []
    monkeypatch.setitem(catalogue.kernels(), kernel, catalogue.scan(KERNELS)[kernel])
    for name in ORDERS:
        found = run(SimDevice(name), kernel, 1, 256, 4, src=values)
        right.append(int.from_bytes(found, "little") == values.sum())
    assert not all(right)
    assert not right[2]
    assert not right[3]


def line(kernel: str, text: str) -> int:
    """The line of tests/data/kernels/wrong.cu where `text` first stands in a kernel."""
    source = (KERNELS / "wrong.cu").read_text()
    return source[: source.index(text, source.index(kernel))].count("\n") + 1


@pytest.mark.parametrize(
    ("kernel", "text", "said"),
    [
        (
            "gz_wrong_divergent",
            "__sync",
            r"the barrier at {} is reached by 32 of the 64 threads of block \d; thread",
        ),
        (
            "gz_wrong_early_return",
            "__sync",
            r"{} is reached by 63 of the 64 threads .*; thread 5 has returned",
        ),
        (
            "gz_wrong_two_barriers",
            "else",
            r"is reached by 32 of the 64 threads .*; thread [01] waits at wrong.cu",
        ),
        ("gz_wrong_lanes", "__shfl", r"the barrier at .*; thread \d+ waits at {}"),
        ("gz_wrong_mask", "__any", r"thread \d+ of block \d calls a warp operation at {} .* mask 00000001"),
        ("gz_wrong_trap", "__trap", r"thread 7 of block \d trapped at {}"),
    ],
)
def test_divergence_is_reported(device: SimDevice, kernel: str, text: str, said: str) -> None:
    """With kernel, line and block; and the next launch runs as if nothing had been."""
    said = said.format(rf"wrong\.cu:{line(kernel, text)}")
    with pytest.raises(DeviceError, match=said) as caught:
        run(device, kernel, 3, 64, 256)
    assert str(caught.value).startswith(kernel)
    lane = device.lane()
    values = np.arange(300, dtype="<u4")
    assert download(lane, swap(lane, lane.upload(values), 300)) == values.byteswap().tobytes()


@not_sanitizing
@pytest.mark.parametrize(
    ("at", "where"), [(100, "after the end"), (163, "after the end"), (-1, "before the start")]
)
def test_a_write_outside_is_found(device: SimDevice, at: int, where: str) -> None:
    """At the next synchronize, with the allocation and the kernels that ran since the last."""
    lane = device.lane()
    swap(lane, lane.upload(np.zeros(4, np.uint8)), 1)
    target = lane.empty(100)
    lane.empty(10)
    lane.launch("gz_wrong_write", 1, 32, dst=target, at=at)
    with pytest.raises(
        DeviceError, match=rf"empty \(arena #3, 100 bytes\) was written {where} .*gz_byteswap, gz_wrong"
    ):
        lane.synchronize()


@not_sanitizing
def test_a_write_outside_a_result_is_found(device: SimDevice) -> None:
    """Result arrays have red zones too, as long as they live."""
    array = device.empty_array((10,), np.dtype("u1"))
    buffer, _, _ = device.memory(array)
    lane = device.lane()
    lane.launch("gz_wrong_write", 1, 32, dst=buffer, at=10)
    with pytest.raises(DeviceError, match=r"array uint8\[10\] was written after the end"):
        lane.synchronize()
    del array, buffer
    lane.synchronize()


def test_a_write_inside_is_not(device: SimDevice) -> None:
    """The last byte is inside."""
    lane = device.lane()
    target = lane.empty(100)
    lane.launch("gz_wrong_write", 1, 32, dst=target, at=99)
    assert download(lane, target) == bytes([GARBAGE] * 99 + [1])


def test_shared_memory_is_not_kept(device: SimDevice) -> None:
    """A block finds garbage where another left a number."""
    found = np.frombuffer(run(device, "gz_wrong_leftover", 4, 1, 16), np.int32)
    assert sorted(found.tolist()) != [1, 2, 3, 4]
    assert found[1] == np.int32(-1515870811) + 1  # 0xA5A5A5A5


@pytest.mark.skipif(not sim_library.sanitizing(), reason="only AddressSanitizer and UBSan find this")
@pytest.mark.parametrize(
    ("kernel", "params", "said"),
    [
        ("gz_wrong_write", "at=100", "AddressSanitizer: use-after-poison"),
        ("gz_wrong_write", "at=-1", "AddressSanitizer: use-after-poison"),
        ("gz_wrong_read", "at=7, src=np.zeros(7, np.uint8)", "AddressSanitizer: use-after-poison"),
        ("gz_wrong_shift", "by=40", "shift exponent 40 is too large"),
    ],
)
def test_sanitizers_end_the_process(kernel: str, params: str, said: str) -> None:
    """Reads outside and undefined behaviour, which red zones cannot show."""
    code = f"""
import numpy as np
from pathlib import Path
from gpuzarr.device import catalogue
from gpuzarr.device.sim import SimDevice
catalogue.kernels().update(catalogue.scan(Path({str(KERNELS)!r})))
lane = SimDevice.named("sim").lane()
lane.launch({kernel!r}, 1, 1, dst=lane.empty(100), {params})
lane.synchronize()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert said in done.stderr


# ---- CUDA's words


def _lanes(values: NDArray[Any]) -> list[list[int]]:
    return values.reshape(-1, 32).tolist()


def _words(values: NDArray[np.uint32], blocks: int) -> list[list[int]]:
    """What tests/data/kernels/words.cu computes, in plain Python."""
    top = (1 << 32) - 1
    signed = values.astype(np.int64)
    warps = _lanes(values.astype(np.uint64))
    threads = [int(value) for value in values]

    def each(function: Any) -> list[int]:
        return [function(warp, lane) for warp in warps for lane in range(32)]

    def bits(function: Any) -> list[int]:
        return [function(value) & ((1 << 64) - 1) for value in threads]

    def permuted(x: int, y: int, selector: int) -> int:
        data = x.to_bytes(4, "little") + y.to_bytes(4, "little")
        out = []
        for i in range(4):
            choice = selector >> 4 * i & 15
            byte = data[choice & 7]
            out.append((255 if byte & 128 else 0) if choice & 8 else byte)
        return int.from_bytes(out, "little")

    def funnel(v: int) -> int:
        both, n = (~v & top) << 32 | v, v & 31
        return (both << n >> 32 & top) ^ ((both >> n & top) << 32)

    def mask(warp: list[int], lanes: range, bit: int) -> int:
        return sum(1 << lane for lane in lanes if warp[lane] & bit)

    def first(value: int) -> int:
        return (value & -value).bit_length()

    return [
        each(lambda warp, lane: warp[5]),
        each(lambda warp, lane: warp[lane // 8 * 8 + (lane + 3) % 8]),
        each(lambda warp, lane: warp[lane - 2 if lane >= 2 else lane]),
        each(lambda warp, lane: warp[lane + 3 if lane % 16 + 3 < 16 else lane] << 8),
        each(lambda warp, lane: warp[lane ^ 9]),
        each(lambda warp, lane: mask(warp, range(32), 1)),
        each(lambda warp, lane: 2),
        each(lambda warp, lane: mask(warp, range(7) if lane < 7 else range(7, 32), 2)),
        [sum(value & 4 != 0 for value in threads)] * len(threads),
        [2] * len(threads),
        bits(lambda v: v.bit_count() * 1000 + 2 * v.bit_count()),
        bits(lambda v: first(v & 0xFFF0) * 1000 + (first(v) + 32 if v else 0)),
        bits(lambda v: (32 - (v >> 3).bit_length()) * 1000 + 64 - v.bit_length()),
        bits(lambda v: int(f"{v:032b}"[::-1], 2)),
        bits(lambda v: int(f"{v:064b}"[::-1], 2)),
        bits(lambda v: permuted(v, ~v & top, 0x6317)),
        bits(lambda v: permuted(v, ~v & top, 0x8C08)),
        bits(funnel),
        bits(lambda v: v * (~v & top) >> 32),
        bits(lambda v: (v << 32) * (v << 32 | v) >> 64),
        bits(lambda v: v + (v << 20)),
        bits(lambda v: min(v, 1 << 31) ^ max(v, 1 << 31) << 32),
        each(lambda warp, lane: int(signed[lane])),
        [blocks * 1000000 + len(threads) * 1000 + 32] * len(threads),
    ]


def test_words(device: SimDevice) -> None:
    """Shuffles, votes and intrinsics, with zero and the extremes among the values."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1 << 32, 96, dtype=np.uint32)
    values[[0, 1, 33, 34]] = 0, 0xFFFFFFFF, 1, 0x80000000
    values[values & 0x7F800000 == 0x7F800000] = 2  # no NaNs: a float register may make them quiet
    found = np.frombuffer(run(device, "gz_words", 1, 96, 24 * 96 * 8, src=values), np.uint64).reshape(24, 96)
    expected = _words(values, 1)
    for i, row in enumerate(expected):
        assert found[i].tolist() == row, i


def test_atomics(device: SimDevice) -> None:
    """Blocks and threads together."""
    values = np.random.default_rng(2).integers(0, 1 << 32, 192, dtype=np.uint32)
    start = np.array([5, 5, 0xFFFFFFFF, 0, 0, 0xFFFFFFFF, 0, 0], np.uint32)
    lane = device.lane()
    dst, wide = lane.upload(start), lane.upload(np.array([3, 0], np.uint64))
    lane.launch("gz_words_atomic", 3, 64, src=values, dst=dst, wide=wide)
    total = int(values.sum(dtype=np.uint64))
    reduced = [
        (5 + total) % (1 << 32),
        (5 - total) % (1 << 32),
        values.min(),
        values.max(),
        np.bitwise_or.reduce(values),
        np.bitwise_and.reduce(values),
        np.bitwise_xor.reduce(values),
        1,
    ]
    assert np.frombuffer(download(lane, dst), np.uint32).tolist() == reduced
    assert np.frombuffer(download(lane, wide), np.uint64).tolist() == [3 + (total << 20), 77]


def test_without_hand_written_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no assembly for the processor, fibers are those of the C library."""
    monkeypatch.setattr(sim_library, "FLAGS", (*sim_library.FLAGS, "-DGZ_UCONTEXT"))
    monkeypatch.setattr(sim_library, "_loaded", {})
    values = np.arange(1000, dtype="<i4") % 77 - 5
    lane = SimDevice("sim").lane()
    dst = lane.empty(4000)
    places = {"src": lane.upload(values), "offset": np.zeros(1, np.int64), "dst": dst}
    lane.launch("gz_delta", 1, 256, **places, items=1000, stored_size=4, is_signed=1, size=4)
    assert download(lane, dst) == np.cumsum(values, dtype="<i4").tobytes()


# ---- what only device sim promises


def test_nothing_runs_before_synchronize(device: SimDevice) -> None:
    """A download is garbage until then, and an upload takes what the source holds then."""
    lane = device.lane()
    source, into = np.zeros(4, np.uint8), np.zeros(4, np.uint8)
    lane.download(lane.upload(source), into)
    assert into.tolist() == [GARBAGE] * 4
    source[:] = 7
    lane.synchronize()
    assert into.tolist() == [7] * 4


def test_memory_is_garbage(device: SimDevice) -> None:
    """Device memory, staging memory, and staging memory after reset."""
    lane, staging = device.lane(), device.staging()
    _, staged = staging.take(10)
    assert download(lane, lane.empty(10)) == staged.tobytes() == bytes([GARBAGE]) * 10
    assert device.empty_array((3,), np.dtype("u1")).get().tolist() == [GARBAGE] * 3
    staged[:] = 1
    staging.reset()
    assert staged.tolist() == [GARBAGE] * 10


def test_reset_comes_after_synchronize(device: SimDevice) -> None:
    """And buffers from before it are gone."""
    lane = device.lane()
    buffer = lane.upload(np.zeros(4, np.uint8))
    for asked in (lane.reset, lane.take_faults):
        with pytest.raises(DeviceError, match="before synchronize"):
            asked()
    lane.synchronize()
    lane.reset()
    with pytest.raises(DeviceError, match=r"upload .* after it was given back"):
        lane.download(buffer, np.empty(4, np.uint8))


def test_misaligned_pointers_are_refused(device: SimDevice) -> None:
    """A GPU would fault."""
    lane = device.lane()
    buffer = lane.upload(np.zeros(64, np.uint8))
    with pytest.raises(DeviceError, match=r"const i64\* offset is not aligned"):
        lane.launch("gz_byteswap", 1, 1, src=buffer, offset=buffer.part(4, 8), dst=buffer, items=0, unit=4)


def test_counters(device: SimDevice) -> None:
    """What was asked for, host arrays of a launch included."""
    device.counters = Counters()
    lane = device.lane()
    out = swap(lane, lane.upload(np.zeros(100, "<u4")), 100)
    assert download(lane, out) == bytes(400)
    assert device.counters == Counters(1, 2, 408, 1, 400, 1, 512 + 512 + 256, ["gz_byteswap"])


def test_a_result_may_go_before_its_launch(device: SimDevice) -> None:
    """The queue keeps the memory that it will write."""
    array = device.empty_array((1000,), np.dtype("<u4"))
    lane = device.lane()
    offset = np.zeros(1, np.int64)
    source = np.zeros(4000, np.uint8)
    lane.launch(
        "gz_byteswap", 1, 64, src=source, offset=offset, dst=device.memory(array)[0], items=1000, unit=4
    )
    del array
    lane.synchronize()


def test_arrays_refuse_hidden_transfers(device: SimDevice) -> None:
    """Everything that would need the values, except get."""
    array = device.array(np.arange(6, dtype="<i2").reshape(2, 3))
    tries: list[Any] = [
        lambda: array[0],
        lambda: array.__setitem__(0, 1),
        lambda: iter(array),
        lambda: len(array),
        lambda: np.asarray(array),
        lambda: bool(array),
        lambda: float(array),
        lambda: int(array),
        lambda: array == 1,
        lambda: 1 in array,
    ]
    for attempt in tries:
        with pytest.raises(TypeError, match=r"call \.get\(\)"):
            attempt()
    with pytest.raises(TypeError):
        np.zeros(3) + array
    assert repr(array) == f"SimArray(int16[2, 3] on {device.name})"
    assert len({array, array}) == 1


def test_views_are_those_of_numpy(device: SimDevice) -> None:
    """Strides of either sign, offsets and other types; never outside the array's memory."""
    host = np.arange(24, dtype="<i4").reshape(4, 6)
    array = device.array(host)
    for view in (host.T, host[::-1, ::-2], host[1:3, 2:], host.reshape(2, 12), host.view("<i2"), host[:0]):
        offset = view.__array_interface__["data"][0] - host.__array_interface__["data"][0] if view.size else 0
        seen = array.view_as(view.shape, view.strides, offset, view.dtype)
        assert isinstance(seen, SimArray)
        assert (seen.get() == view).all()
        assert (seen.size, seen.nbytes, seen.ndim) == (view.size, view.nbytes, view.ndim)
    assert (array.view_as((6, 4)).get() == host.reshape(6, 4)).all()
    for shape, strides, offset in (
        ((5, 6), None, 0),
        ((4, 6), None, 4),
        ((4, 6), (-24, 4), 0),
        ((1,), (4,), -4),
    ):
        with pytest.raises(DeviceError, match="a view of bytes"):
            array.view_as(shape, strides, offset)


def test_objects_have_no_device_memory(device: SimDevice) -> None:
    """Nor is a negative number of bytes a size."""
    with pytest.raises(DeviceError):
        device.empty_array((3,), np.dtype(object))
    with pytest.raises(DeviceError):
        device.lane().empty(-1)


def test_names() -> None:
    """One device a name and process."""
    assert SimDevice.named("sim") is SimDevice.named("sim")
    assert SimDevice.named("sim:reversed").name == "sim:reversed"
    with pytest.raises(ArgumentError, match="sim:shuffled1"):
        SimDevice.named("sim:sideways")


# ---- the compiler


def test_no_compiler() -> None:
    """Says what to install."""
    with config.configured(cxx="no-such-compiler"):
        lane = SimDevice("sim").lane()
        swap(lane, lane.empty(4), 1)
        with pytest.raises(MissingDependencyError, match=r"no-such-compiler.*install g\+\+"):
            lane.synchronize()


def test_a_kernel_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's own words; and nothing is left in the cache."""
    source = tmp_path / "broken.cu"
    source.write_text('#include "gz.cuh"\nGZ_KERNEL gz_broken(u8* dst) { dst[0] = undeclared; }\n')
    (broken,) = catalogue.read(source)
    with config.configured(cache_dir=str(tmp_path / "cache")), pytest.raises(DeviceError, match="undeclared"):
        sim_library.launcher(broken)
    assert list((tmp_path / "cache" / "sim").iterdir()) == []


def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finds the library of the first, and a changed source is another library."""
    source = tmp_path / "tiny.cu"
    text = '#include "gz.cuh"\nGZ_KERNEL gz_tiny(u8* dst) { dst[0] = 1; }\n'
    with config.configured(cache_dir=str(tmp_path / "cache")):
        for i, changed in enumerate((text, text, text.replace("1;", "2;"))):
            source.write_text(changed)
            monkeypatch.setattr(sim_library, "_loaded", {})
            if i == 1:
                monkeypatch.setattr(sim_library, "_compile", None)
            launch = sim_library.launcher(catalogue.read(source)[0])
            monkeypatch.undo()
            memory = np.zeros(1, np.uint8)
            pointer = np.array(memory.ctypes.data, np.uintp)
            report = ctypes.create_string_buffer(64)
            assert launch((ctypes.c_void_p * 1)(pointer.ctypes.data), 1, 1, 0, report, 64) == 0
            assert memory[0] == (1, 1, 2)[i]
    assert len(list((tmp_path / "cache" / "sim").iterdir())) == 2
