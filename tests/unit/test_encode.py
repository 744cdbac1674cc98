"""Writing values that lie on a device: what is encoded where, what crosses, and who has the last word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr import WriteStats
from gpuzarr.codecs.base import Encoded
from gpuzarr.codecs.zstd import Zstd
from gpuzarr.device.sim import Counters, SimArray, SimDevice
from gpuzarr.errors import ArgumentError, ChunkError, DeviceError, LimitError
from tests.devices import DEVICES

VALUES = (np.arange(64 * 96).reshape(64, 96) // 7).astype("<u4")
ZSTD = ["zstd"]


def sim(values: np.ndarray) -> SimArray:
    return SimDevice.named("sim").array(values)


def created(objects: Any, codecs: Any = ZSTD, values: np.ndarray = VALUES, **options: Any) -> Any:
    """An array of 16 × 32 chunks on device sim."""
    options = {"shape": values.shape, "dtype": values.dtype, "chunks": (16, 32), **options}
    return gpuzarr.create_array(objects, codecs=codecs, device="sim", **options)


def stored(objects: Any) -> np.ndarray:
    """The values, by the host's codecs."""
    found: np.ndarray = gpuzarr.open_array(objects, device="cpu")[...]
    return found


def test_only_encoded_bytes_cross(tmp_path: Path) -> None:
    device = SimDevice.named("sim")
    device.counters, stats = Counters(), WriteStats()
    given = sim(VALUES)
    created(tmp_path, ["zstd", "crc32c"]).write(..., given, stats=stats)
    assert np.array_equal(stored(tmp_path), VALUES)
    assert (stats.chunks, stats.objects, stats.on_host, stats.waves) == (12, 12, 0, 1)
    assert stats.bytes_crossed == stats.bytes_written < VALUES.nbytes // 4
    kernels = device.counters.kernels
    names = ["gz_scatter", "gz_differs", "gz_strings", "gz_compressed", "gz_crc32c_append", "gz_pack"]
    assert kernels == names, "one launch an operation, whatever the number of chunks"
    assert device.counters.download_nbytes < stats.bytes_written + 100 * 12


def test_a_shard_is_assembled_of_what_the_device_encoded() -> None:
    objects: dict[str, bytes] = {}
    stats = WriteStats()
    array = created(objects, shards=(32, 96))
    array.write(..., sim(VALUES), stats=stats)
    assert np.array_equal(stored(objects), VALUES)
    assert (stats.chunks, stats.objects, stats.waves) == (12, 2, 2)
    stats = WriteStats()
    array.write((slice(0, 16), slice(0, 32)), sim(VALUES[:16, :32] + 1), stats=stats)
    assert (stats.chunks, stats.read, stats.kept) == (1, 0, 5)


def test_chunks_that_are_written_in_part_are_read_and_decoded_first() -> None:
    objects: dict[str, bytes] = {}
    array, stats, expected = created(objects), WriteStats(), VALUES.copy()
    array[...] = sim(VALUES)
    array.write((slice(5, 40), slice(30, 33)), sim(VALUES[5:40, 30:33] * 2), stats=stats)
    expected[5:40, 30:33] *= 2
    assert np.array_equal(stored(objects), expected)
    assert (stats.chunks, stats.read) == (6, 6)


def test_chunks_of_the_fill_value_are_left_out() -> None:
    objects: dict[str, bytes] = {}
    values = VALUES.copy()
    values[:16], values[16:32, :32] = 7, 7
    array, stats = created(objects, fill_value=7), WriteStats()
    array.write(..., sim(values), stats=stats)
    assert np.array_equal(stored(objects), values)
    assert (stats.chunks, stats.empty, stats.objects) == (8, 4, 8)
    array[...] = sim(np.full_like(VALUES, 7))
    assert not [key for key in objects if key.startswith("c/")]
    with gpuzarr.configured(write_empty_chunks=1):
        array[...] = sim(np.full_like(VALUES, 7))
    assert len([key for key in objects if key.startswith("c/")]) == 12


@pytest.mark.parametrize("fill", [-0.0, np.nan])
def test_fill_values_are_compared_by_bits(fill: float) -> None:
    objects: dict[str, bytes] = {}
    values = np.zeros((64, 96), ">f4")
    values[:16], values[16:32] = fill, -fill
    array = created(objects, values=values, fill_value=fill, codecs=[])
    array[...] = sim(values.astype("<f4"))
    assert stored(objects).tobytes() == values.astype("<f4").tobytes()
    assert len([key for key in objects if key.startswith("c/")]) == 9


def test_values_are_broadcast_and_may_have_any_strides() -> None:
    objects: dict[str, bytes] = {}
    array = created(objects)
    array[...] = sim(VALUES[:1])
    assert np.array_equal(stored(objects), np.broadcast_to(VALUES[:1], VALUES.shape))
    array[::-1, ::2] = sim(VALUES[:, ::2])
    assert np.array_equal(stored(objects)[::-1, ::2], VALUES[:, ::2])
    array[3] = sim(VALUES[3])
    array[4, 5] = sim(VALUES[4, 5:6].reshape(()))
    assert np.array_equal(stored(objects)[3], VALUES[3])
    assert stored(objects)[4, 5] == VALUES[4, 5]
    with pytest.raises(ArgumentError, match=r"\(3,\)"):
        array[...] = sim(np.zeros(3, "<u4"))


@pytest.mark.parametrize("kind", ["dtype", "points", "mask", "host codec"])
def test_what_the_device_does_not_write_the_host_does(kind: str) -> None:
    objects: dict[str, bytes] = {}
    stats, expected = WriteStats(), np.zeros_like(VALUES)
    array = created(objects, ["bz2"] if kind == "host codec" else ZSTD)
    rows = np.array([5, 3, 5, 60])
    if kind == "dtype":
        array.write(..., sim(VALUES.astype("<i2")), stats=stats)
        expected[...] = VALUES.astype("<i2")
    elif kind == "points":
        array.write(rows, sim(VALUES[:4]), stats=stats)
        expected[rows] = VALUES[:4]
    elif kind == "mask":
        array[VALUES % 3 == 0] = sim(VALUES[VALUES % 3 == 0])
        expected[VALUES % 3 == 0] = VALUES[VALUES % 3 == 0]
    else:
        array.write(..., sim(VALUES), stats=stats)
        expected[...] = VALUES
    assert np.array_equal(stored(objects), expected)
    assert stats.waves == (kind == "host codec")  # it lays the chunks out


def test_appending_values_of_a_device() -> None:
    objects: dict[str, bytes] = {}
    array = created(objects)
    array[...] = sim(VALUES)
    array.append(sim(VALUES[:20]))
    assert np.array_equal(stored(objects), np.concatenate([VALUES, VALUES[:20]]))


def test_saving_values_of_a_device() -> None:
    objects: dict[str, bytes] = {}
    device = SimDevice.named("sim")
    device.counters = Counters()
    gpuzarr.save(objects, sim(VALUES), codecs=ZSTD, chunks=(16, 32), device="sim")
    assert np.array_equal(stored(objects), VALUES)
    assert "gz_compressed" in device.counters.kernels


def _faulty(self: Zstd, batch: Encoded, decoded: Any, lane: Any) -> Encoded:
    """Says of every second chunk that it cannot be encoded, and gives it no sizes to be believed."""
    from gpuzarr.codecs.base import compressed

    out = compressed("zstd", batch, lane)
    wrong = np.arange(len(batch)) % 2 == 0
    lane.launch(
        "gz_verdict",
        1,
        32,
        written=wrong.astype(np.uint64),
        statuses=np.zeros(len(batch), np.int32),
        expected=np.zeros(len(batch), np.int64),
        owner=np.arange(len(batch), dtype=np.int32),
        fault=lane.faults(len(batch)),
        streams=len(batch),
    )
    return out


def test_the_host_encodes_what_an_encoder_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zstd, "encode_batch", _faulty)
    objects: dict[str, bytes] = {}
    stats = WriteStats()
    created(objects, ["zstd", "crc32c"]).write(..., sim(VALUES), stats=stats)
    assert np.array_equal(stored(objects), VALUES)
    assert (stats.chunks, stats.on_host) == (12, 6)


def test_the_host_encodes_where_device_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> None:
        raise LimitError("no memory on the device")

    monkeypatch.setattr(Zstd, "encode_batch", short)
    objects: dict[str, bytes] = {}
    stats = WriteStats()
    created(objects, ["zstd", "crc32c"]).write(..., sim(VALUES), stats=stats)
    assert np.array_equal(stored(objects), VALUES)
    assert (stats.chunks, stats.on_host) == (12, 12)


def test_verify_decodes_what_the_device_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    objects: dict[str, bytes] = {}
    with gpuzarr.configured(verify=1):
        array = created(objects, ["zstd", "crc32c"])
        array[...] = sim(VALUES)
        before = dict(objects)

        def wrong(self: Zstd, batch: Encoded, decoded: Any, lane: Any) -> Encoded:
            from gpuzarr.codecs.base import compressed

            nothing = Encoded(lane.upload(np.zeros(batch.pitch * len(batch), np.uint8)), *_rest(batch))
            return compressed("zstd", nothing, lane)

        monkeypatch.setattr(Zstd, "encode_batch", wrong)
        with pytest.raises(ChunkError, match="does not decode to its values"):
            array[...] = sim(VALUES + 1)
    assert objects == before


def _rest(batch: Encoded) -> tuple[Any, ...]:
    return batch.pitch, batch.nbytes, batch.limit, batch.count


def test_an_error_of_the_device_names_the_codec_and_leaves_the_old_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects: dict[str, bytes] = {}
    array = created(objects)
    array[...] = sim(VALUES)
    before = dict(objects)

    def broken(*_: Any) -> None:
        raise DeviceError("it broke")

    monkeypatch.setattr(Zstd, "encode_batch", broken)
    with pytest.raises(DeviceError, match=r"it broke .*zstd"):
        array[...] = sim(VALUES + 1)
    assert objects == before
    monkeypatch.undo()
    array[...] = sim(VALUES + 1)
    assert np.array_equal(stored(objects), VALUES + 1)


def test_parts_are_cut_to_the_memory_of_waves() -> None:
    objects: dict[str, bytes] = {}
    device, stats = SimDevice.named("sim"), WriteStats()
    device.counters = Counters()
    values = np.arange(512 * 256, dtype="<u4").reshape(512, 256) // 3
    array = created(objects, values=values)
    with gpuzarr.configured(wave_nbytes=200_000):
        array.write(..., sim(values), stats=stats)
    assert np.array_equal(stored(objects), values)
    assert stats.waves > 10
    assert device.counters.arena_peak < 200_000


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_transposed_chunks_in_either_byte_order(name: str, endian: str) -> None:
    objects: dict[str, bytes] = {}
    codecs = [
        {"name": "transpose", "configuration": {"order": [1, 0]}},
        {"name": "bytes", "configuration": {"endian": endian}},
        {"name": "crc32c"},
    ]
    options = {"shape": VALUES.shape, "dtype": "u4", "chunks": (16, 32)}
    array = gpuzarr.create_array(objects, codecs=codecs, device=name, **options)
    from tests.devices import device_named

    device: Any = device_named(name)
    if not hasattr(device, "array"):
        pytest.skip("values are put on a GPU by tests/gpu")
    array[...] = device.array(VALUES)
    assert np.array_equal(stored(objects), VALUES)
