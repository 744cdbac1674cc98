"""The demo, whole but tiny, and what it draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import zarr

from gpuzarr.cli import main, picture, race, volume


def test_small_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["demo", "--size", "small", "--directory", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "bytes as zarr-python reads them" in out
    assert "random patches of 32 × 32 × 32" in out
    (made,) = tmp_path.glob("*.zarr")
    group = zarr.open_group(made, mode="r")
    first, second = group["0"][...], group["1"][...]
    assert first.shape == volume.SMALL.shape
    assert len(np.unique(first)) > 500  # neither flat nor cut off
    means = first.reshape(32, 2, 64, 2, 96, 2).mean((1, 3, 5))
    assert np.abs(second - means).max() <= 0.5
    assert 1.5 <= first.nbytes / group["0"].nbytes_stored() <= 3
    if importlib.util.find_spec("PIL") is None:
        assert "no picture: pictures need pillow" in out
    else:
        pixels = np.asarray(importlib.import_module("PIL.Image").open(tmp_path / "demo.png"))
        assert pixels.shape == (1000, 1800, 3)
        assert (pixels == (255, 200, 87)).all(2).sum() > 100  # a frame, and a box in the plane
    assert main(command) == 0
    assert "is there already" in capsys.readouterr().out


def test_own_data_without_zarr_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(tmp_path / "own.zarr", shape=(2, 300, 310), chunks=(1, 64, 64), dtype="f4")
    array[...] = np.random.default_rng(0).normal(size=array.shape).astype("f4")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    assert main(["demo", str(tmp_path / "own.zarr"), "--size", "small", "--directory", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "the check against it is left out" in out
    assert "16 random patches of 2 × 256 × 256" in out


def test_large_data_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.create_array(
        tmp_path / "own.zarr", shape=(40, 2000, 1000), chunks=(10, 500, 500), dtype="u1", fill_value=7
    )
    assert (
        main(
            [
                "demo",
                str(tmp_path / "own.zarr"),
                "--mib",
                "1",
                "--size",
                "small",
                "--directory",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert "in its middle" in capsys.readouterr().out


def test_a_different_byte_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(tmp_path / "own.zarr", shape=(64, 64), chunks=(32, 32), dtype="u2")
    array[...] = np.arange(4096).reshape(64, 64)

    class Liar:
        def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
            found = np.asarray(array[key])
            found[-1, -1] ^= 1
            return found

    monkeypatch.setattr(race.witness, "open_array", lambda *_: Liar())
    assert main(["demo", str(tmp_path / "own.zarr"), "--size", "small", "--directory", str(tmp_path)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_same_bytes_looks_at_bits() -> None:
    quiet, other = np.array([0x7FC00000, 0x7FC00001], "u4").view("f4")
    assert race.same_bytes(np.array([quiet]), np.array([quiet]))
    assert not race.same_bytes(np.array([quiet]), np.array([other]))
    assert not race.same_bytes(np.array([0.0]), np.array([-0.0]))
    assert race.same_bytes(np.array([1, 2], "i4"), np.array([1, 2], ">i4"))
    assert not race.same_bytes(np.array([1, 2], "i4"), np.array([1, 2], "i8"))


def test_blocks_do_not_depend_on_their_order() -> None:
    field = volume.anatomy(volume.SMALL, 2, lambda _: None)
    boxes = volume.SMALL.boxes()
    forward = [volume.block(volume.SMALL, field, box, i) for i, box in enumerate(boxes)]
    backward = [volume.block(volume.SMALL, field, boxes[i], i) for i in reversed(range(len(boxes)))][::-1]
    again = volume.anatomy(volume.SMALL, 1, lambda _: None)
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert np.array_equal(field, again)


def test_contrast() -> None:
    ramp = np.linspace(-5, 5, 1000).reshape(10, 100)
    ramp[3, 3] = np.nan
    lit = picture.stretch(ramp, 0, 100)
    assert (lit[0, 0], lit[-1, -1], lit[3, 3]) == (0, 1, 0)
    assert np.array_equal(picture.stretch(np.full((4, 4), 9)), np.zeros((4, 4)))


@pytest.mark.parametrize(("pixel", "width", "bar"), [(0.4, 1000, 50), (1.0, 1000, 200), (0.013, 500, 1)])
def test_scale_bar_is_round(pixel: float, width: int, bar: float) -> None:
    assert picture.scale_bar(pixel, width) == pytest.approx(bar)
