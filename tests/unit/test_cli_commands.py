"""The commands, run as a user runs them but in this process. zarr-python writes what they are shown."""

from __future__ import annotations

import io
import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr.cli import doctor, main
from gpuzarr.cli.show import Screen, clean
from gpuzarr.native import library


@pytest.fixture
def hierarchy(tmp_path: Path) -> Path:
    """A v3 group: an image of two levels, an array with NaN as its fill value, and one nobody can read."""
    root = zarr.open_group(tmp_path / "h.zarr", mode="w", zarr_format=3)
    values = np.arange(24 * 30, dtype="u2").reshape(24, 30)
    root.create_array(
        "0", shape=(24, 30), chunks=(4, 5), shards=(8, 10), dtype="u2", dimension_names=("y", "x")
    )
    root["0"][...] = values
    root.create_array("1", shape=(12, 15), chunks=(12, 15), dtype="u2")[...] = values[::2, ::2]
    root.create_array("deep/floats", shape=(3,), chunks=(2,), dtype="f4", fill_value=np.nan)
    root.create_array("odd", shape=(3,), chunks=(2,), dtype="f4")
    odd = tmp_path / "h.zarr" / "odd" / "zarr.json"
    odd.write_text(odd.read_text().replace('"float32"', '"float\\u001b[31m99"'))
    levels = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [0.5 * 2**i, 0.25 * 2**i]}]}
        for i in range(2)
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    root.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": "cells", "axes": axes, "datasets": levels}],
    }
    root.attrs["who"] = "we \x1b[2J"
    return tmp_path / "h.zarr"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_info_of_a_group(hierarchy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "info", hierarchy)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    (level,) = [line for line in lines if line.startswith("├── 0")]
    for part in ("24 × 30", "uint16", "chunks 4 × 5 in shards 8 × 10", "zstd", "1.4 KiB →"):
        assert part in level
    assert any("OME-Zarr 0.5 image “cells”: y x in micrometer" in line for line in lines)
    assert any(line.endswith("1: 1 × 0.5") for line in lines)
    assert any("odd" in line and "cannot be read" in line for line in lines)
    assert "│   └── floats" in out
    assert "\x1b" not in out


def test_info_of_an_array(hierarchy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", hierarchy, "0")
    assert code == 0
    for part in ("dimensions y, x", "36 of them", "9 of them", "zstd  ", "scatter", "Zarr v3"):
        assert part in out


def test_info_as_json(hierarchy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", hierarchy, "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert list(found) == [
        "target", "type", "path", "zarr_format", "attributes", "consolidated", "multiscales", "members",
        "complete",
    ]  # fmt: skip
    assert found["multiscales"][0]["levels"][1] == {"path": "1", "scale": [1.0, 0.5]}
    assert found["members"]["odd"]["type"] == "error"
    assert found["members"]["deep"]["members"]["floats"]["fill_value"] == "NaN"
    array = found["members"]["0"]
    assert list(array) == [
        "type", "path", "zarr_format", "attributes", "shape", "dtype", "chunks", "shards", "chunk_count",
        "object_count", "codecs", "fill_value", "dimension_names", "nbytes", "stored_nbytes",
    ]  # fmt: skip
    assert (array["shape"], array["chunks"], array["shards"]) == ([24, 30], [4, 5], [8, 10])
    assert (array["chunk_count"], array["object_count"], array["nbytes"]) == (36, 9, 1440)
    files = [path for path in (hierarchy / "0").rglob("*") if path.is_file()]
    assert array["stored_nbytes"] == sum(path.stat().st_size for path in files)


def test_info_explains(hierarchy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", hierarchy, "0", "--explain", "0,:")
    assert code == 0
    assert "6 chunks in 3 objects" in out


def test_depth_and_limit(hierarchy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "info", hierarchy, "--limit", "2", "--json")
    found = json.loads(out)
    assert (list(found["members"]), found["complete"]) == (["0", "1"], False)
    _, out, _ = run(capsys, "info", hierarchy, "--depth", "1")
    assert "floats" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "nowhere"), "no such directory"),
        (("info", "H", "zz"), "no zarr.json"),
        (("read", "H"), "is a group"),
        (("read", "H", "0", "x:y"), "neither an integer, a slice nor"),
        (("read", "H", "0", "99"), "out of bounds"),
        (("read", "H", "0", "-o", "a.tiff"), ".npy or .png"),
        (("read", "H", "0", "-o", "no/such/place/a.npy"), "cannot write"),
        (("read", "H", "0", "--device", "abacus"), "no device is called"),
        (("info", "H", "--option", "anon"), "NAME=VALUE"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], said: str, hierarchy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *(str(hierarchy) if one == "H" else one for one in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("gpuzarr: ")
    assert said in err
    assert err.count("\n") == 1


def test_traceback_on_request(hierarchy: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["info", str(hierarchy / "zz"), "--traceback"])


@pytest.mark.parametrize("arguments", [["0", "1:9,::-2"], ["0", "..."], ["/0/", "5"], ["1"], ["0", "-3,:"]])
def test_read_into_npy(
    arguments: list[str], hierarchy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    code, _, err = run(capsys, "read", hierarchy, *arguments, "-o", out)
    key = eval(f"np.s_[{arguments[1] if len(arguments) > 1 else '...'}]")
    assert (code, err) == (0, "")
    assert np.array_equal(np.load(out), zarr.open(hierarchy)[arguments[0].strip("/")][...][key])
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_lone_argument_is_a_path_or_a_selection(hierarchy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    assert main(["read", str(hierarchy / "0"), "3", "-o", str(out)]) == 0
    assert np.array_equal(np.load(out), zarr.open_array(hierarchy / "0")[3])
    assert main(["read", str(hierarchy / "0"), "2:4,1", "-o", str(out)]) == 0
    assert np.array_equal(np.load(out), zarr.open_array(hierarchy / "0")[2:4, 1])


def test_read_into_a_pipe(hierarchy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    stream = io.TextIOWrapper(pipe, "utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["read", str(hierarchy), "0", "2:20:3, 1:"]) == 0
    assert np.array_equal(np.load(io.BytesIO(pipe.getvalue())), zarr.open(hierarchy)["0"][2:20:3, 1:])


def test_read_on_a_terminal(hierarchy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["read", str(hierarchy), "0", "0:2,:3", "--plain"]) == 0
    assert terminal.getvalue() == "[[ 0  1  2]\n [30 31 32]]\n2 × 3 uint16, 12 B\n"


def test_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = zarr.create_array(tmp_path / "s.zarr", shape=(3,), dtype=str, chunks=(2,))
    array[...] = np.array(["a", "", "日本"], dtype=object)
    code, _, err = run(capsys, "read", tmp_path / "s.zarr", "-o", tmp_path / "s.npy")
    assert (code, err) == (0, "")
    assert np.load(tmp_path / "s.npy").tolist() == ["a", "", "日本"]


def test_read_into_a_picture(hierarchy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image", reason="pictures need pillow")
    out = tmp_path / "out.png"
    assert run(capsys, "read", hierarchy, "0", "-o", out)[0] == 0
    pixels = np.asarray(image.open(out))
    assert (pixels.shape, pixels.min(), pixels.max()) == ((24, 30), 0, 255)
    assert np.all(np.diff(pixels.astype(int).ravel()) >= 0)  # as the values do, it grows
    code, _, err = run(capsys, "read", hierarchy, "0", "0", "-o", out)
    assert (code, "is not a picture" in err) == (2, True)


def test_doctor_without_optional_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = util.find_spec
    hidden = {one.module for one in doctor.OPTIONAL}
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name in hidden else real(name, *rest))
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (0, "")
    for one in doctor.OPTIONAL:
        assert f'pip install "gpuzarr[{one.extra}]"' in out
    assert "✓ cpu" in out
    code, out, _ = run(capsys, "doctor", "--json")
    checks: list[dict[str, Any]] = json.loads(out)["checks"]
    assert {check["name"] for check in checks if not check["ok"]} >= {one.package for one in doctor.OPTIONAL}


def test_doctor_says_whether_the_host_core_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> tuple[bool, str, str]:
        code, out, _ = run(capsys, "doctor", "--json")
        (found,) = (check for check in json.loads(out)["checks"] if check["name"] == "host core")
        return code == 0 and found["ok"], found["detail"], found["hint"]

    core = library.Core(lambda job: 0, library.Functions(), {"crc32c": 1, "zstd": 2})
    monkeypatch.setattr(library, "loaded", lambda path="": (core, ""))
    assert told() == (True, "compiled; knows crc32c, zstd", "")
    with gpuzarr.configured(native=0):
        assert told() == (False, "compiled, and turned off: the setting native is 0", "")
    monkeypatch.setattr(library, "loaded", lambda path="": (None, "it was not compiled"))
    monkeypatch.setenv("CC", "cc")
    assert told() == (False, "it was not compiled", "python -m gpuzarr.native.build")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told() == (False, "it was not compiled", "")


def test_doctor_names_extras_that_exist() -> None:
    import tomllib

    project = Path(doctor.__file__).parents[2] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("gpuzarr is installed without its pyproject.toml")
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for one in doctor.OPTIONAL:
        assert any(line.startswith(one.package) for line in extras[one.extra]), one


def test_lines_are_plain_and_clean() -> None:
    stream = io.StringIO()
    screen = Screen.on(stream)
    screen.line(("red\x1b[31m", "bad"), " and\nnewline")
    screen.table(("a", "b"), [["x", ("12", "good")], ["longer", "3"]])
    assert stream.getvalue() == "red [31m and newline\na        b\n──────  ──\nx       12\nlonger   3\n"
    assert clean("a\u202eb\x00") == "a b "


def test_a_stopped_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stop)
    assert run(capsys, "doctor") == (130, "", "gpuzarr: stopped\n")
