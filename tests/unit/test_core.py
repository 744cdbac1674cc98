"""The host core: what it takes, what it leaves to the codecs, and that nobody can tell the difference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import config
from gpuzarr.codecs import zstd_library
from gpuzarr.engine import core as engine_core
from gpuzarr.engine import scratch
from gpuzarr.errors import ChunkError, GpuzarrError, LimitError, StoreError
from gpuzarr.native import build, library
from gpuzarr.store.base import Request
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore

SHAPE, CHUNKS = (37, 40, 45), (16, 16, 32)
KEYS: list[Any] = [
    ...,
    (slice(3, 30), slice(17, 18), slice(None)),
    (slice(None, None, 3), slice(None, None, -2), slice(1, None, 5)),
    (5, 6, 7),
    (slice(0, 0), slice(None), 4),
]
CHAINS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=1)},
    "zstd with a checksum": {"compressors": zarr.codecs.ZstdCodec(level=1, checksum=True)},
    "crc32c": {"compressors": [zarr.codecs.Crc32cCodec()]},
    "zstd, crc32c": {"compressors": [zarr.codecs.ZstdCodec(level=3), zarr.codecs.Crc32cCodec()]},
    "lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4(), "dtype": ">i2"},
    "F order": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "order": "F"},
    "transpose": {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
    "big-endian": {"serializer": zarr.codecs.BytesCodec(endian="big"), "compressors": None},
    "complex, big-endian": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "dtype": ">c8"},
    "shards": {"shards": (48, 48, 64), "compressors": zarr.codecs.ZstdCodec(level=1)},
    "raw shards": {"shards": (48, 48, 64), "compressors": None},
    **{
        f"blosc {cname} {shuffle}": {
            "compressors": zarr.codecs.BloscCodec(cname=cname, shuffle=shuffle, blocksize=2048)
        }
        for cname, shuffle in (
            *(("lz4", "shuffle"), ("lz4hc", "noshuffle"), ("blosclz", "bitshuffle")),
            *(("zlib", "shuffle"), ("zstd", "shuffle")),
        )
    },
}
NOT_ITS_OWN: dict[str, dict[str, Any]] = {
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "crc32c inside of gzip": {"compressors": [zarr.codecs.Crc32cCodec(), zarr.codecs.GzipCodec()]},
    "two": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.ZstdCodec()]},
    "a filter": {"zarr_format": 2, "filters": [numcodecs.Delta("<i2")], "compressors": numcodecs.Zstd()},
}


@pytest.fixture(autouse=True)
def _core() -> None:
    found, why = library.loaded(config.current().native_library)
    if found is None and build.compiler() is None:
        pytest.skip("no C compiler: there is no host core")
    assert found is not None, f"{why}; python -m gpuzarr.native.build"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the core was given, and how many of these it took, in turns."""
    counts = [0, 0]
    take = engine_core.Core._take

    def counted(self: Any, first: int, count: int, place: Any, left: Callable[[int], None]) -> None:
        def noted(row: int) -> None:
            counts[1] -= 1
            left(row)

        counts[0] += count
        counts[1] += count
        take(self, first, count, place, noted)

    monkeypatch.setattr(engine_core.Core, "_take", counted)
    return counts


def values_of(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = (rng.integers(0, 40, SHAPE) * np.arange(SHAPE[0])[:, None, None]).astype(dtype)
    values[16:32, 16:32] = 7  # chunks and shards that are left out
    return values


def made(path: Path, options: dict[str, Any]) -> np.ndarray:
    """An array on disk, written by zarr-python."""
    options = {"dtype": "<i2", "fill_value": 7, "chunks": CHUNKS, **options}
    values = values_of(options["dtype"])
    array = zarr.create_array(str(path), shape=SHAPE, config={"write_empty_chunks": False}, **options)
    array[...] = values
    return values


def both(read: Callable[[gpuzarr.ReadStats], Any]) -> list[Any]:
    """What a read gives with the core and without: result or error, and what it cost."""
    found = []
    for native in (1, 0):
        stats = gpuzarr.ReadStats()
        with gpuzarr.configured(native=native):
            try:
                result: Any = read(stats)
            except GpuzarrError as error:
                result = error
        found.append((result, stats.as_dict()))
    return found


# ---- what it takes


@pytest.mark.parametrize("kind", ["files", "memory"])
@pytest.mark.parametrize("name", CHAINS)
def test_reads(tmp_path: Path, name: str, kind: str, taken: list[int]) -> None:
    expected = made(tmp_path / "a", CHAINS[name])
    store = LocalStore(str(tmp_path / "a"))
    target: Any = tmp_path / "a"
    if kind == "memory":
        target = {key: bytes(store.get_ranges([Request(key)])[0]) for key in store.list()}
    for key in KEYS:
        for native in (1, 0):
            stats = gpuzarr.ReadStats()
            with gpuzarr.configured(native=native):
                found = gpuzarr.open_array(target, device="cpu").read(key, stats=stats)
            np.testing.assert_array_equal(found, expected[key])
            assert found.tobytes() == expected[key].astype(found.dtype).tobytes()
            if native:
                first = stats.as_dict()
        assert first == stats.as_dict()
    assert taken[0] == taken[1] > 0


@pytest.mark.parametrize("name", CHAINS)
def test_patches(tmp_path: Path, name: str, taken: list[int]) -> None:
    expected = np.pad(made(tmp_path / "a", CHAINS[name]), 12, mode="reflect")
    origins = np.random.default_rng(1).integers(-12, 30, (9, 3))
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    array[...]  # so that the indexes of shards are known to both
    (found, counts), (other, same) = both(
        lambda stats: array.patches(origins, (9, 1, 20), mode="reflect", axes=(2, 0, 1), stats=stats)
    )
    for box, (z, y, x) in zip(found, origins + 12, strict=True):
        np.testing.assert_array_equal(box, expected[z : z + 9, y : y + 1, x : x + 20].transpose(2, 0, 1))
    assert found.tobytes() == other.tobytes()
    assert counts == same
    assert taken[0] == taken[1] > 0


def test_results_of_any_strides(tmp_path: Path, taken: list[int]) -> None:
    expected = made(tmp_path / "a", CHAINS["zstd"])
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    whole = np.zeros((90, 40, 37), "<i2")
    out = whole[::-2].transpose(2, 1, 0)
    array.read(out=out)
    np.testing.assert_array_equal(out, expected)
    assert not whole[::2].any()
    assert taken[0] == taken[1] > 0


@pytest.mark.parametrize("dtype", ["u1", "<u4", "<f8", "<c16", "V3", "S5", "?"])
def test_items_of_any_size(tmp_path: Path, dtype: str, taken: list[int]) -> None:
    raw = np.random.default_rng(0).integers(0, 2, 60 * np.dtype(dtype).itemsize, np.uint8)
    expected = raw.view(dtype).reshape(6, 10)
    chunks = {
        "0.0": expected[:4, :7],
        "0.1": expected[:4, 7:],
        "1.0": expected[4:, :7],
        "1.1": expected[4:, 7:],
    }
    document = {
        "zarr_format": 2,
        "shape": [6, 10],
        "chunks": [4, 7],
        "dtype": np.dtype(dtype).str,
        "compressor": None,
        "filters": None,
        "fill_value": None,
        "order": "C",
    }
    objects = {".zarray": json.dumps(document).encode()}
    for key, chunk in chunks.items():
        full = np.zeros((4, 7), dtype)
        full[: chunk.shape[0], : chunk.shape[1]] = chunk
        objects[key] = full.tobytes()
    found = gpuzarr.open_array(objects, device="cpu")[::-1, 1::2]
    assert found.tobytes() == expected[::-1, 1::2].tobytes()
    assert taken[0] == taken[1] == 4


def test_blocks_behind_what_is_wanted_are_not_decoded(tmp_path: Path) -> None:
    """As without the core: damage there is not seen, damage before it is."""
    values = np.random.default_rng(0).integers(0, 1 << 12, (16, 1 << 16)).astype("<u2")  # 2 MiB, 16 blocks
    zarr.create_array(
        str(tmp_path / "a"), data=values, chunks=values.shape, compressors=zarr.codecs.ZstdCodec(level=1)
    )
    chunk = tmp_path / "a" / "c" / "0" / "0"
    stored = bytearray(chunk.read_bytes())
    stored[-200_000:-199_000] = bytes(1000)
    chunk.write_bytes(stored)
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    for found, _ in both(lambda stats: array.read(slice(0, 3), stats=stats)):
        np.testing.assert_array_equal(found, values[:3])
    for found, _ in both(lambda stats: array.read(slice(0, 15), stats=stats)):
        assert isinstance(found, ChunkError) or not np.array_equal(found, values[:15])


# ---- what it leaves


@pytest.mark.parametrize("name", NOT_ITS_OWN)
def test_other_chains_go_without_it(tmp_path: Path, name: str, taken: list[int]) -> None:
    expected = made(tmp_path / "a", NOT_ITS_OWN[name])
    np.testing.assert_array_equal(gpuzarr.open_array(tmp_path / "a", device="cpu")[...], expected)
    assert taken[0] == 0


def test_it_can_be_switched_off(tmp_path: Path, taken: list[int]) -> None:
    expected = made(tmp_path / "a", CHAINS["zstd"])
    with gpuzarr.configured(native=0):
        np.testing.assert_array_equal(gpuzarr.open_array(tmp_path / "a", device="cpu")[...], expected)
    assert taken[0] == 0


def frames(chunk: Path) -> None:
    """Two frames, the second of them of unknown size: allowed, and rare."""
    plain = numcodecs.Zstd().decode(chunk.read_bytes())
    whole = numcodecs.zstd.compress(plain[:100]), numcodecs.zstd.compress(plain[100:])
    chunk.write_bytes(whole[0] + whole[1])


def skippable(chunk: Path) -> None:
    chunk.write_bytes(b"\x50\x2a\x4d\x18\x02\0\0\0ab" + chunk.read_bytes())


@pytest.mark.parametrize("change", [frames, skippable])
def test_odd_chunks_are_left_to_the_codec(
    tmp_path: Path, change: Callable[[Path], None], taken: list[int]
) -> None:
    expected = made(tmp_path / "a", CHAINS["zstd"])
    change(tmp_path / "a" / "c" / "0" / "1" / "1")
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    (found, counts), (other, same) = both(lambda stats: array.read(stats=stats))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(other, expected)
    assert counts == same
    assert taken[0] - taken[1] == 1


def cut(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[:-3])


def longer(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes() + b"x")


def huge(chunk: Path) -> None:
    os.truncate(chunk, 64 << 20)


def empty(chunk: Path) -> None:
    chunk.write_bytes(b"")


def flipped(chunk: Path) -> None:
    stored = bytearray(chunk.read_bytes())
    stored[len(stored) // 2] ^= 0x55
    chunk.write_bytes(stored)


def leading_out(chunk: Path) -> None:
    elsewhere = chunk.parents[4] / "elsewhere"
    shutil.move(chunk, elsewhere)
    chunk.symlink_to(elsewhere)


@pytest.mark.parametrize("name", ["raw", "zstd, crc32c", "lz4", "blosc lz4 shuffle"])
@pytest.mark.parametrize("damage", [cut, longer, huge, empty, flipped, leading_out])
def test_errors_are_those_of_the_codecs_and_the_store(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    made(tmp_path / "in" / "a", CHAINS[name])
    chunk = tmp_path / "in" / "a" / ("0.1.1" if name == "lz4" else "c/0/1/1")
    damage(chunk)
    array = gpuzarr.open_array(tmp_path / "in" / "a", device="cpu")
    (error, counts), (other, same) = both(lambda stats: array.read(slice(0, 16), stats=stats))
    if isinstance(other, GpuzarrError):
        # A file that is fetched by itself is named; among others the store names it alone.
        assert str(error).replace(f", chunk {error.chunk}", "") == str(other).replace(
            f", chunk {error.chunk}", ""
        )
        assert type(error) is type(other)
        if damage is leading_out:
            assert isinstance(error, StoreError)
    else:  # what has no checksum, and what its codec allows
        assert error.tobytes() == other.tobytes()
        assert counts == same


def within(chunk: Path) -> None:
    """A link to another file of the store is followed."""
    shutil.move(chunk, chunk.with_name("moved"))
    chunk.symlink_to("moved")


def directory(chunk: Path) -> None:
    chunk.unlink()
    chunk.mkdir()


def pipe(chunk: Path) -> None:
    chunk.unlink()
    os.mkfifo(chunk)


@pytest.mark.parametrize("change", [within, directory, pipe])
def test_files_of_other_kinds(tmp_path: Path, change: Callable[[Path], None]) -> None:
    made(tmp_path / "a", CHAINS["zstd"])
    change(tmp_path / "a" / "c" / "0" / "1" / "1")
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    (found, counts), (other, same) = both(lambda stats: array.read(stats=stats))
    if isinstance(other, GpuzarrError):
        assert str(found) == str(other)
    else:
        assert found.tobytes() == other.tobytes()
        assert counts == same


def test_a_chunk_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    """The core opens files without following links, so that there is no moment between look and open."""
    made(tmp_path / "in" / "a", CHAINS["raw"])
    array = gpuzarr.open_array(tmp_path / "in" / "a", device="cpu")
    array[...]
    leading_out(tmp_path / "in" / "a" / "c" / "0" / "1" / "1")
    with pytest.raises(StoreError, match="outside"):
        array[...]


def test_a_read_in_the_middle_of_a_read(tmp_path: Path) -> None:
    """By a signal handler, a finaliser, or a store: it has memory of its own."""
    expected = made(tmp_path / "a", CHAINS["shards"])
    other = made(tmp_path / "b", CHAINS["blosc lz4 shuffle"])
    within = gpuzarr.open_array(tmp_path / "b", device="cpu")

    class Nested(MappingStore):
        def get_ranges(self, requests: Any, place: Any = None) -> Any:
            found = []
            for i, one in enumerate(super().get_ranges(requests)):
                into = None if one is None or place is None else place(i, len(one))
                if into is None:
                    found.append(one)
                else:
                    into[:] = one
                    found.append(into)
            np.testing.assert_array_equal(within[...], other)
            return found

    files = LocalStore(str(tmp_path / "a"))
    objects = {key: bytes(files.get_ranges([Request(key)])[0]) for key in files.list()}
    for native in (1, 0):
        with gpuzarr.configured(native=native, threads=1):
            found = gpuzarr.open_array(Nested(objects), device="cpu")[...]
        np.testing.assert_array_equal(found, expected)


def test_a_pipe_with_bytes_in_it_is_no_chunk(tmp_path: Path) -> None:
    values = made(tmp_path / "a", CHAINS["raw"])
    chunk = tmp_path / "a" / "c" / "0" / "0" / "0"
    stored = chunk.read_bytes()
    pipe(chunk)
    writer = os.open(chunk, os.O_RDWR | os.O_NONBLOCK)
    try:
        assert os.write(writer, stored) == len(stored)
        for native in (1, 0):
            with gpuzarr.configured(native=native), pytest.raises(GpuzarrError):
                gpuzarr.open_array(tmp_path / "a", device="cpu")[:8, :8, :8]
    finally:
        os.close(writer)
    assert values.any()


def test_limits_hold(tmp_path: Path) -> None:
    """What a checksum covers is no larger than a chunk may be, and what is missing takes no memory."""
    made(tmp_path / "a", CHAINS["zstd, crc32c"])
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    chunk = tmp_path / "a" / "c" / "0" / "0" / "0"
    plain = np.random.default_rng(0).bytes(16384)
    stored = bytes(numcodecs.zstd.compress(plain))
    chunk.write_bytes(stored + google_crc32c.value(stored).to_bytes(4, "little"))
    with gpuzarr.configured(max_chunk_nbytes=16384):
        array = gpuzarr.open_array(tmp_path / "a", device="cpu")
        (error, _), (other, _) = both(lambda stats: array.read(slice(0, 16), stats=stats))
    assert isinstance(error, LimitError)
    assert str(error) == str(other)
    document = {"zarr_format": 2, "shape": [1 << 31], "chunks": [1 << 31], "dtype": "|u1", "fill_value": 7}
    nothing = {
        ".zarray": json.dumps({**document, "compressor": None, "filters": None, "order": "C"}).encode()
    }
    before = scratch_nbytes()
    assert gpuzarr.open_array(nothing, device="cpu")[5:9].tolist() == [7] * 4
    assert scratch_nbytes() <= before


def scratch_nbytes() -> int:
    kept = scratch.scratch()
    return sum(one.nbytes for one in (kept._encoded, kept._chunk, kept._laid_out, kept._container))


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tiny shards a bundle has."""
    values = np.arange(1, 1201, dtype=np.uint16).reshape(300, 4)
    gpuzarr.save(tmp_path / "a", values, chunks=(1, 2), shards=(1, 4), codecs=["zstd"])
    most, opened = [0], LocalStore._open
    before = len(os.listdir("/proc/self/fd"))

    def counted(self: LocalStore, key: str) -> int:
        fd = opened(self, key)
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")) - before)
        return fd

    monkeypatch.setattr(LocalStore, "_open", counted)
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    with gpuzarr.configured(threads=1):
        np.testing.assert_array_equal(array[...], values)
        np.testing.assert_array_equal(array[::7, 1:3], values[::7, 1:3])
        boxes = array.patches([[0, 0], [100, 1]], (200, 3))
    np.testing.assert_array_equal(boxes, [values[:200, :3], values[100:, 1:]])
    assert 0 < most[0] <= 64 + 8


def test_without_a_decoder_for_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numcodecs may come with a libzstd that is not known."""
    expected = made(tmp_path / "a", CHAINS["zstd"])
    monkeypatch.setattr(zstd_library, "decoder", lambda: None)
    np.testing.assert_array_equal(gpuzarr.open_array(tmp_path / "a", device="cpu")[...], expected)


# ---- how it is built and found


def test_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_at = tmp_path / "core.so"
    assert build.build(made_at) == ""
    assert library.loaded(str(made_at))[0] is not None
    assert [one.name for one in tmp_path.iterdir()] == ["core.so"]
    monkeypatch.setenv("CC", "no-such-compiler -x")
    assert "no-such-compiler cannot be run" in build.build(made_at)
    monkeypatch.setenv("CC", f"{sys.executable} -c import:this")
    assert "cannot compile core.c: File" in build.build(made_at)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.build(made_at) == "no C compiler"


def test_libraries_that_show_nothing_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[int]
) -> None:
    """google-crc32c without its C form; numcodecs on systems where functions are hidden."""
    for hidden, left in (
        ("google_crc32c._crc32c", {"zstd", "numcodecs.lz4", "blosc"}),
        ("numcodecs.blosc", {"crc32c", "zstd", "numcodecs.lz4"}),
    ):
        functions = {
            name: ("no_such_module", function) if module == hidden else (module, function)
            for name, (module, function) in library._FUNCTIONS.items()
        }
        with monkeypatch.context() as patch:
            patch.setattr(library, "_FUNCTIONS", functions)
            library.loaded.cache_clear()
            found, why = library.loaded(config.current().native_library)
            assert found is not None, why
            assert set(found.kinds) == left
            name = "zstd, crc32c" if "crc32c" in hidden else "blosc lz4 shuffle"
            expected = made(tmp_path / hidden, CHAINS[name])
            np.testing.assert_array_equal(gpuzarr.open_array(tmp_path / hidden, device="cpu")[...], expected)
        library.loaded.cache_clear()
    assert taken[0] == 0


def test_a_core_of_another_version_is_not_used(tmp_path: Path, taken: list[int]) -> None:
    other = tmp_path / "core.so"
    source = build.SOURCE.read_text().replace("#define ABI 3\n", "#define ABI 999\n")
    (tmp_path / "core.c").write_text(source)
    command = build.compiler()
    assert command is not None
    subprocess.run([*command, *build.FLAGS, "-o", str(other), str(tmp_path / "core.c")], check=True)
    assert library.loaded(str(other)) == (None, "it is of another version: install gpuzarr again")
    expected = made(tmp_path / "a", CHAINS["zstd"])
    with gpuzarr.configured(native_library=str(other)):
        np.testing.assert_array_equal(gpuzarr.open_array(tmp_path / "a", device="cpu")[...], expected)
    assert taken[0] == 0
    (tmp_path / "broken.so").write_bytes(b"\x7fELF")
    assert "it cannot be loaded" in library.loaded(str(tmp_path / "broken.so"))[1]
