"""Writes of values that lie on a real device: every chain with an encoder, read back by numcodecs and by the
device; what nvCOMP makes of strings of every size; the order of streams; memory."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
from numcodecs.compat import ensure_bytes

import gpuzarr
from gpuzarr import ReadStats, WriteStats
from gpuzarr.device import nvcomp
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.errors import GpuzarrError
from tests.devices import as_given, on_device
from tests.gpu import work
from tests.gpu.work import real

SHAPE, CHUNKS, SHARDS = (20, 36, 24), (8, 16, 20), (16, 32, 40)
WHOLE = (16, 32, 40)
"""Made of whole chunks."""

V2: dict[str, tuple[str, list[Any]]] = {
    "raw": ("<u2", []),
    "crc32c": ("<i4", [numcodecs.CRC32C()]),
    "shuffle": ("<f4", [numcodecs.Shuffle(4)]),
    "delta": ("<i4", [numcodecs.Delta("<i4")]),
    "delta, lz4": ("<i2", [numcodecs.Delta("<i2", "<i4"), numcodecs.LZ4()]),
    "lz4": ("<u2", [numcodecs.LZ4()]),
    "zstd": ("<i4", [numcodecs.Zstd(1)]),
    "zstd, crc32c": ("<i4", [numcodecs.Zstd(3), numcodecs.CRC32C()]),
    "big-endian": (">f8", [numcodecs.Shuffle(8), numcodecs.LZ4()]),
    "blosc of small blocks": ("<f8", [numcodecs.Blosc("lz4", 5, 2, 256)]),
    **{
        f"blosc {cname}, {how}": (dtype, [numcodecs.Blosc(cname, 5, shuffle)])
        for cname in ("lz4", "zstd")
        for how, shuffle, dtype in (("plain", 0, "<u2"), ("bytes", 1, "<i4"), ("bits", 2, ">u2"))
    },
}
"""Type, and the codecs in the order of encoding."""
V3: dict[str, tuple[str, list[Any]]] = {
    "sharded": ("<u2", ["zstd"]),
    "sharded, big-endian": (">i4", [numcodecs.Blosc("lz4", 5, 1), "crc32c"]),
    "sharded, transposed": ("<f4", [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, "zstd"]),
}
CHAINS = [*V2, "transposed", *V3]


def steps(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Values that compress; noise in the first chunk, and in the last one zeros, which are the fill value."""
    rng = np.random.default_rng(len(dtype))
    values = np.cumsum(rng.integers(-2, 4, shape), axis=-1)
    corner = tuple(slice(n) for n in CHUNKS)
    values[corner] = rng.integers(0, 1 << 15, values[corner].shape)
    values[-4:, -4:, -4:] = 0
    return np.abs(values).astype(dtype)


def created(name: str, shape: tuple[int, ...] = SHAPE) -> tuple[Any, dict[str, bytes], np.ndarray]:
    """An array on the device, its objects, and values for it."""
    objects: dict[str, bytes] = {}
    dtype, codecs = V3.get(name) or V2.get(name, ("<i4", [numcodecs.Zstd(1)]))
    options: dict[str, Any] = {"zarr_format": 2, "order": "F" if name == "transposed" else "C"}
    if name in V3:
        options = {"shards": SHARDS}
    array = gpuzarr.create_array(
        objects, shape=shape, dtype=dtype, chunks=CHUNKS, codecs=codecs, device="cuda", **options
    )
    return array, objects, steps(dtype, shape)


# ---- the oracle


def by_numcodecs(objects: dict[str, bytes]) -> np.ndarray:
    """What lies in the objects, by numcodecs and NumPy alone."""
    if ".zarray" in objects:
        document = json.loads(objects[".zarray"])
        codecs = [*(document["filters"] or []), *filter(None, [document["compressor"]])]
        found = np.full(document["shape"], document["fill_value"] or 0, document["dtype"])
        for key, stored in objects.items():
            if key == ".zarray":
                continue
            for one in reversed(codecs):
                stored = numcodecs.get_codec(one).decode(stored)
            plain = np.frombuffer(ensure_bytes(stored), found.dtype)
            chunk = plain.reshape(document["chunks"], order=document["order"])
            _placed(found, chunk, [int(i) for i in key.split(".")])
        return found
    document = json.loads(objects["zarr.json"])
    (sharding,) = (one["configuration"] for one in document["codecs"])
    shards, chunks = document["chunk_grid"]["configuration"]["chunk_shape"], sharding["chunk_shape"]
    counts = [s // c for s, c in zip(shards, chunks, strict=True)]
    found = np.zeros(document["shape"], document["data_type"])
    for key, shard in objects.items():
        if key == "zarr.json":
            continue
        first = [int(i) * n for i, n in zip(key.split("/")[1:], counts, strict=True)]
        table, checksum = shard[-16 * int(np.prod(counts)) - 4 : -4], shard[-4:]
        assert google_crc32c.value(table) == struct.unpack("<I", checksum)[0]
        index = np.frombuffer(table, "<u8").reshape(-1, 2).tolist()
        for inner, (start, nbytes) in zip(product(*map(range, counts)), index, strict=True):
            if start == (1 << 64) - 1:
                continue
            chunk = _v3_chunk(shard[start : start + nbytes], sharding["codecs"], found.dtype, chunks)
            _placed(found, chunk, [a + b for a, b in zip(first, inner, strict=True)])
    return found


def _v3_chunk(
    stored: bytes, codecs: list[dict[str, Any]], dtype: np.dtype[Any], shape: list[int]
) -> np.ndarray:
    known = {"zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc(), "crc32c": numcodecs.CRC32C()}
    names = [one["name"] for one in codecs]
    settings = {one["name"]: one.get("configuration", {}) for one in codecs}
    for name in reversed(names[names.index("bytes") + 1 :]):
        stored = ensure_bytes(known[name].decode(stored))
    order = settings["transpose"]["order"] if "transpose" in names else list(range(len(shape)))
    endian = ">" if settings["bytes"].get("endian") == "big" else "<"
    plain = np.frombuffer(stored, dtype.newbyteorder(endian))
    return plain.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _placed(found: np.ndarray, chunk: np.ndarray, cell: list[int]) -> None:
    box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(cell, chunk.shape, strict=True))
    found[box] = chunk[tuple(slice(n) for n in found[box].shape)]


def check(objects: dict[str, bytes], values: np.ndarray) -> None:
    """numcodecs reads the values, and so does the device, with nothing left to the host."""
    found = by_numcodecs(objects)
    assert found.dtype.newbyteorder("=") == values.dtype.newbyteorder("=")
    assert np.array_equal(found, values)
    stats = ReadStats()
    with gpuzarr.configured(strict=1):
        again = gpuzarr.open_array(objects, device="cuda").read(stats=stats).get()
    assert again.tobytes() == as_given(values, "cuda").tobytes()
    assert stats.on_host == 0


# ---- chains


@pytest.mark.parametrize("name", CHAINS)
def test_numcodecs_and_the_device_read_what_was_written(name: str) -> None:
    """Whole, then in part: every second row, columns backwards, into chunks that are decoded first."""
    array, objects, values = created(name)
    stats = WriteStats()
    array.write(..., on_device(values, "cuda"), stats=stats)
    check(objects, values)
    assert (stats.on_host, stats.read, stats.empty) == (0, 0, 1)
    assert stats.waves > 0
    key = np.s_[3:-2:2, ::-3, 7:23]
    new = (values[key] + 1).astype(values.dtype)
    values[key] = new
    array.write(key, on_device(new, "cuda"), stats=stats)
    check(objects, values)
    assert stats.on_host == 0
    assert stats.read > 0


@pytest.mark.parametrize("name", ["raw", "zstd, crc32c", "blosc lz4, bytes", "transposed"])
def test_only_encoded_bytes_cross(name: str) -> None:
    array, objects, values = created(name, WHOLE)
    stats = WriteStats()
    array.write(..., on_device(values, "cuda"), stats=stats)
    check(objects, values)
    assert stats.bytes_crossed == stats.bytes_written
    assert stats.bytes_written == sum(len(one) for key, one in objects.items() if key != ".zarray")


@pytest.mark.parametrize("name", ["raw", "lz4", "blosc zstd, bytes", "sharded, transposed"])
def test_parts_are_cut_to_the_memory_of_waves(name: str) -> None:
    array, objects, values = created(name)
    stats = WriteStats()
    with gpuzarr.configured(wave_nbytes=1 << 16):
        array.write(..., on_device(values, "cuda"), stats=stats)
    check(objects, values)
    assert stats.waves > 3


@pytest.mark.parametrize("name", ["delta, lz4", "zstd, crc32c", "blosc lz4, bits", "sharded, big-endian"])
def test_what_is_verified_is_found_right(name: str) -> None:
    """Every chunk that the device has encoded decodes to its values on the host, before it is stored."""
    array, objects, values = created(name)
    stats = WriteStats()
    with gpuzarr.configured(verify=1):
        array.write(..., on_device(values, "cuda"), stats=stats)
        array.write(np.s_[1:9, 5], on_device(values[2:10, 6], "cuda"), stats=stats)
    values[1:9, 5] = values[2:10, 6]
    check(objects, values)
    assert stats.on_host == 0


TYPES = ["?", "i1", ">u2", "<f2", "<f4", ">f8", "<c8", ">c16", "<u8"]
WITHOUT_OWN_FORM = ["<M8[s]", ">m8[ns]", "S3", "<U2", "V5", [("a", "<i2"), ("b", "<f8")]]


@pytest.mark.parametrize("dtype", [*TYPES, *WITHOUT_OWN_FORM], ids=str)
def test_types(cuda: CudaDevice, dtype: Any) -> None:
    """Types that CuPy lacks come as numbers of the same bytes."""
    rng, kind = np.random.default_rng(3), np.dtype(dtype)
    raw = rng.integers(0, 2 if dtype == "?" else 90, (6, 8, kind.itemsize), np.uint8)
    values = raw.view(kind).reshape(6, 8)
    if kind.kind == "U":
        values = rng.integers(0, 99, (6, 8)).astype(kind)
    objects: dict[str, bytes] = {}
    options: dict[str, Any] = {"zarr_format": 2, "codecs": [numcodecs.LZ4()], "device": "cuda"}
    array = gpuzarr.create_array(objects, shape=values.shape, dtype=kind, chunks=(3, 4), **options)
    array[...] = on_device(values, cuda.name)
    array[1:, ::2] = on_device(values[:-1, 1::2], cuda.name)
    expected = values.copy()
    expected[1:, ::2] = values[:-1, 1::2]
    found = gpuzarr.open_array(objects, device="cuda")[...]
    assert found.get().tobytes() == as_given(expected, cuda.name).tobytes()
    host = gpuzarr.open_array(objects, device="cpu")[...]
    assert host.tobytes() == expected.astype(kind.newbyteorder("=")).tobytes()


def test_values_of_any_strides() -> None:
    """Backwards, every third, transposed, and one row for all."""
    array, objects, values = created("blosc lz4, bytes")
    larger = np.zeros((3 * SHAPE[2], SHAPE[1] + 5, 2 * SHAPE[0]), values.dtype)
    larger[::-3, 2:-3, 1::2] = values.T
    array[...] = on_device(larger, "cuda")[::-3, 2:-3, 1::2].T
    check(objects, values)
    row = on_device(values[3:4, :, 7:8].copy(), "cuda")
    array[...] = row
    check(objects, np.ascontiguousarray(np.broadcast_to(values[3:4, :, 7:8], SHAPE)))


@pytest.mark.parametrize("kind", ["dtype", "points", "host codec"])
def test_what_the_device_does_not_write_the_host_does(kind: str) -> None:
    """Its values are fetched behind the work that makes them."""
    array, objects, values = created("lz4")
    expected, stream = np.zeros_like(values), work.stream()
    rows = np.array([5, 3, 5, 19])
    if kind == "host codec":
        objects.clear()
        options: dict[str, Any] = {"chunks": CHUNKS, "codecs": [numcodecs.BZ2()], "zarr_format": 2}
        array = gpuzarr.create_array(objects, shape=SHAPE, dtype="<u2", device="cuda", **options)
    given = values.astype("<i8") if kind == "dtype" else values[:4] if kind == "points" else values
    with stream:
        source = on_device(given, "cuda")
        work.busy()
        late = on_device(np.zeros_like(given), "cuda")
        late[...] = source
        array[rows if kind == "points" else ...] = late
    if kind == "points":
        expected[rows] = values[:4]
    else:
        expected[...] = values
    assert np.array_equal(by_numcodecs(objects), expected)


def test_resized_and_appended_to() -> None:
    array, objects, values = created("zstd")
    array[...] = on_device(values, "cuda")
    array.append(on_device(values[:7], "cuda"))
    array.append(on_device(np.concatenate((values, values[:7]))[:, :3], "cuda"), 1)
    whole = np.concatenate((values, values[:7]))
    whole = np.concatenate((whole, whole[:, :3]), axis=1)
    check(objects, whole)
    array.resize((9, 38, 11))
    check(objects, whole[:9, :38, :11])


# ---- order


@pytest.mark.parametrize("given", ["current", "stream="])
@pytest.mark.parametrize("name", ["raw", "blosc lz4, bytes", "zstd", "sharded"])
def test_values_that_a_stream_still_makes(name: str, given: str) -> None:
    """The write waits for them, and is done with them when it returns: the stream may overwrite them at
    once."""
    array, objects, values = created(name)
    stream = work.stream()
    with stream:
        late, source = (on_device(one, "cuda") for one in (np.zeros_like(values), values))
    for _ in range(3):
        with stream:
            late.fill(1)
            work.busy()
            late[...] = source
            if given == "current":
                array[...] = late
        if given == "stream=":
            array.write(..., late, stream=stream)
        with stream:
            late.fill(9)
        stream.synchronize()
        check(objects, values)


def test_threads_with_streams_of_their_own() -> None:
    """Each writes and reads its own rows of one array."""
    array, objects, values = created("blosc lz4, bytes")

    def turn(i: int) -> bool:
        stream = work.stream()
        rows = slice(i * CHUNKS[0], min((i + 1) * CHUNKS[0], SHAPE[0]))
        with stream:
            source = on_device(np.ascontiguousarray(values[rows]), "cuda")
            late = on_device(np.zeros_like(values[rows]), "cuda")
            for n in range(4):
                late.fill(n)
                array[rows] = late
                late[...] = source
                array[rows] = late
            return bool((array[rows].get() == values[rows]).all())

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(turn, range(3)))
    check(objects, values)


# ---- memory


@pytest.mark.parametrize("name", ["raw", "lz4", "zstd, crc32c", "sharded", "blosc zstd, bits"])
def test_memory_is_flat(name: str) -> None:
    """After writes, only their values are in use, and a pool holds no more than after the first ones."""
    array, objects, values = created(name)
    given = on_device(values, "cuda")
    for _ in range(min(work.MANY, 3)):
        array[...] = given
    before, held = work.in_use(), work.held()
    for i in range(work.MANY):
        array[...] = given
        array[i % 9 : i % 9 + 3] = given[i % 9 : i % 9 + 3]
    assert work.in_use() == before
    assert work.held() <= max(2 * held, held + (64 << 20))
    check(objects, values)


class _Full(dict[str, bytes]):
    """Has room for some objects."""

    room = 1000

    def __setitem__(self, key: str, value: bytes) -> None:
        if len(self) >= self.room and key not in self:
            raise OSError(28, "No space left on device")
        super().__setitem__(key, value)


def test_memory_is_given_back_after_an_error() -> None:
    _, _, values = created("zstd")
    objects = _Full()
    options: dict[str, Any] = {"chunks": CHUNKS, "codecs": ["zstd"], "device": "cuda"}
    array = gpuzarr.create_array(objects, shape=SHAPE, dtype=values.dtype, **options)
    given = on_device(values, "cuda")
    array[:8] = given[:8]
    before, objects.room = work.in_use(), len(objects) + 2
    for _ in range(3):
        with pytest.raises((OSError, GpuzarrError)):
            array[...] = given
    assert work.in_use() == before
    objects.room = 1000
    array[...] = given
    assert np.array_equal(gpuzarr.open_array(objects, device="cpu")[...], values)


# ---- nvCOMP, and strings of every size


def plain(nbytes: int) -> np.ndarray:
    """uint8[8, nbytes]: noise, what compresses, one byte again and again, each more than once."""
    rng = np.random.default_rng(nbytes)
    noise = rng.integers(0, 256, (2, nbytes), np.uint8)
    text = np.cumsum(rng.integers(-2, 3, (3, nbytes)), axis=1).astype(np.uint8)
    same = np.full((3, nbytes), 65, np.uint8)
    return np.concatenate((noise, text, same))[[0, 2, 5, 3, 1, 6, 4, 7]]


SIZED: dict[str, Any] = {
    "zstd": numcodecs.Zstd(1),
    "lz4": numcodecs.LZ4(),
    "blosc zstd": numcodecs.Blosc("zstd", 5, 1),
    "blosc lz4": numcodecs.Blosc("lz4", 5, 2),
}


def check_size(nbytes: int, name: str, values: np.ndarray, least: int = 256) -> None:
    """Chunks of one size. What nvCOMP makes of strings of fewer bytes than `least` may be left to the host;
    of a Blosc container the last block is such a string."""
    objects: dict[str, bytes] = {}
    options: dict[str, Any] = {"chunks": (1, nbytes), "codecs": [SIZED[name]], "zarr_format": 2}
    array = gpuzarr.create_array(objects, shape=values.shape, dtype="u1", device="cuda", **options)
    stats = WriteStats()
    array.write(..., on_device(values, "cuda"), stats=stats)
    assert np.array_equal(by_numcodecs(objects), values)
    with gpuzarr.configured(strict=1):
        assert np.array_equal(gpuzarr.open_array(objects, device="cuda")[...].get(), values)
    (stage,) = array.metadata.chain((1, nbytes)).stages
    most = max(len(one) for key, one in objects.items() if key != ".zarray")
    assert most <= stage.codec.encode_bound(nbytes)
    assert stats.chunks + stats.empty == len(values)
    if "zstd" not in name or (nbytes >= least and not 0 < nbytes % (128 << 10) < least):
        assert stats.on_host == 0


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("nbytes", [1, 2, 15, 16, 127, 128, 255, 256, 257, 4096, 8191])
def test_chunks_of_every_size(nbytes: int, name: str) -> None:
    check_size(nbytes, name, plain(nbytes))


@real
@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(
    "nbytes", [65535, 65536, 65537, 65791, 65792, 131071, 131073, 131400, 262144, 1 << 20, (5 << 20) + 3]
)
def test_larger_chunks(nbytes: int, name: str) -> None:
    check_size(nbytes, name, plain(nbytes))


@real
@pytest.mark.parametrize("name", SIZED)
def test_very_many_small_chunks(name: str) -> None:
    check_size(300, name, np.tile(plain(300), (500, 1)))


@real
@pytest.mark.parametrize("name", SIZED)
def test_one_huge_chunk(name: str) -> None:
    """More than the 16 MiB that nvCOMP once took."""
    nbytes = 24 << 20
    check_size(nbytes, name, plain(nbytes)[1:2])


@real
def test_compression_is_worth_it(cuda: CudaDevice) -> None:
    """What the device makes is not much larger than what the host makes at its lowest level."""
    values = np.cumsum(np.random.default_rng(1).integers(-2, 3, (8, 1 << 20)), axis=1).astype("<u2")
    for name, codec in SIZED.items():
        sizes = {}
        for place in ("cpu", cuda.name):
            objects: dict[str, bytes] = {}
            options: dict[str, Any] = {"chunks": (1, 1 << 18), "codecs": [codec], "zarr_format": 2}
            array = gpuzarr.create_array(objects, shape=values.shape, dtype="<u2", device=place, **options)
            array[...] = on_device(values, place)
            sizes[place] = sum(map(len, objects.values()))
        assert sizes[cuda.name] < 1.3 * sizes["cpu"] + 1000, name


@real
def test_where_nvcomp_has_no_memory_the_host_encodes(cuda: CudaDevice) -> None:
    """Its scratch is hundreds of MiB once; what is short is no error."""
    array, objects, values = created("zstd", WHOLE)
    count = int(np.prod([n // c for n, c in zip(WHOLE, CHUNKS, strict=True)]))
    nbytes = int(np.prod(CHUNKS)) * 4
    with cuda.using("asking nvCOMP"):
        asked = nvcomp.load().compress_scratch_nbytes("zstd", count, nbytes, count * nbytes)
    if asked < 32 << 20:
        pytest.skip(f"nvCOMP asks for {asked} bytes only")
    given, stats = on_device(values, "cuda"), WriteStats()
    with work.room(asked // 2):
        array.write(..., given, stats=stats)
    assert np.array_equal(by_numcodecs(objects), values)
    assert stats.on_host == stats.chunks > 0
    stats = WriteStats()
    array.write(..., given, stats=stats)
    check(objects, values)
    assert stats.on_host == 0


@real
def test_values_that_lie_far_apart(cuda: CudaDevice) -> None:
    """Offsets are 64 bits wide."""
    import cupy

    if work.free() < 14 << 30:
        pytest.skip("needs 14 GB of free device memory")
    large = cupy.empty((3, 4 << 30), np.uint8)
    values = np.random.default_rng(2).integers(0, 9, (3, 50_000)).astype(np.uint8)
    for row, its in zip(large, values, strict=True):
        row[-50_000:] = cupy.asarray(its)
    objects: dict[str, bytes] = {}
    options: dict[str, Any] = {"chunks": (2, 20_000), "codecs": [numcodecs.LZ4()], "zarr_format": 2}
    array = gpuzarr.create_array(objects, shape=values.shape, dtype="u1", device=cuda.name, **options)
    array[...] = large[:, -50_000:]
    array[::-1] = large[::-1, -50_000:]
    check(objects, values)
    del large, row
    work.free()
