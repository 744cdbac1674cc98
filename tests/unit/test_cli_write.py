"""The commands that write, run as a user runs them but in this process; zarr-python looks at the results."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import progress
from gpuzarr.cli import main, options
from gpuzarr.engine import regions, unfinished
from gpuzarr.progress import Meter, clock


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A v2 group of an image and a table."""
    root = zarr.open_group(tmp_path / "v2", mode="w", zarr_format=2, attributes={"who": "we"})
    array = root.create_array("0", shape=(40, 60), chunks=(16, 16), dtype="u2", attributes={"unit": "µm"})
    array[...] = np.arange(2400).reshape(40, 60)
    root.create_array("table", shape=(7,), chunks=(4,), dtype="f8")[...] = 0.5
    return tmp_path / "v2"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


# ---- copy


def test_copy_of_a_group(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "v3"
    cut = ("--chunks", "8,8", "--shards", "16,32", "--codecs", "zstd(level=1),crc32c")
    code, out, err = run(capsys, "copy", image, target, "--format", 3, *cut, "--verify", "--consolidated")
    assert (code, err) == (0, "")
    for part in ("2 arrays, 1 group, Zarr v3", "encoded anew", "to the bit", f"{image} → {target}"):
        assert part in out
    root = zarr.open_consolidated(target)
    assert (root["0"].chunks, root["0"].shards, root["table"].chunks) == ((8, 8), (16, 32), (4,))
    assert np.array_equal(root["0"][...], zarr.open(image)["0"][...])
    assert [type(codec).__name__ for codec in root["0"].compressors] == ["ZstdCodec", "Crc32cCodec"]
    assert (dict(root.attrs), dict(root["0"].attrs)) == ({"who": "we"}, {"unit": "µm"})


def test_copy_of_an_array(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "there"
    where = ("--path", "0", "--target-path", "a/b")
    code, out, err = run(capsys, "copy", image, target, *where, "--format", 3, "--shards", "auto", "--plain")
    assert (code, err) == (0, "")
    for part in ("40 × 60 uint16, Zarr v3", "16 × 16 in shards of", "12 chunks taken as encoded", "1 object"):
        assert part in out
    code, out, _ = run(
        capsys, "copy", target, tmp_path / "back", "--format", 2, "--path", "a/b", "--shards", "none"
    )
    assert code == 0
    assert np.array_equal(zarr.open_array(tmp_path / "back")[...], zarr.open(image)["0"][...])


def test_copy_goes_on(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_REGION", 1000)
    command = ("copy", image / "0", tmp_path / "c", "--codecs", "gzip", "--plain")
    whole, calls = gpuzarr.copy, []

    def stopped(*given: Any, **named: Any) -> Any:
        def stop(done: int, _: int) -> None:
            calls.append(done)
            if len(calls) == 3:
                raise KeyboardInterrupt

        return whole(*given, **{**named, "progress": stop})

    monkeypatch.setattr(gpuzarr, "copy", stopped)
    code, _, err = run(capsys, *command)
    assert (code, err) == (130, "gpuzarr: what is copied is kept; --resume goes on\ngpuzarr: stopped\n")
    assert (tmp_path / "c" / unfinished.NAME).exists()
    monkeypatch.setattr(gpuzarr, "copy", whole)
    code, _, err = run(capsys, *command)
    assert (code, err.count("\n")) == (2, 1)
    assert "unfinished copy" in err
    assert "--resume goes on, --overwrite starts anew" in err
    code, _, err = run(capsys, *command, "--chunks", "8,8", "--resume")
    assert code == 2
    assert "with other chunks" in err
    code, out, err = run(capsys, *command, "--resume")
    assert (code, err) == (0, "")
    assert "regions were there" in out
    assert np.array_equal(zarr.open_array(tmp_path / "c")[...], zarr.open(image)["0"][...])
    code, out, _ = run(capsys, *command, "--resume")
    assert (code, "there already, and whole" in out) == (0, True)
    code, out, _ = run(capsys, *command, "--overwrite")
    assert (code, "12 encoded anew" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("copy", "nowhere", "T"), "no such directory"),
        (("copy", "V", "V"), "same place"),
        (("copy", "V", "M"), "no array or group, and is not deleted"),
        (("copy", "V", "M", "--overwrite"), "is not deleted"),
        (("copy", "V", "T", "--chunks", "8;8"), "write --chunks 64,64,64"),
        (("copy", "V", "T", "--codecs", "zstd(,"), "no list of codecs"),
        (("copy", "V", "T", "--codecs", "[{"), "not JSON"),
        (("copy", "V", "T", "--codecs", "abacus"), "no codec is called 'abacus'"),
        (("copy", "V", "T", "--shards", "16,16"), "use --format 3"),
        (("copy", "V", "T", "--overwrite", "--resume"), "goes on with --resume alone"),
        (("create", "V", "0", "--shape", "3", "--dtype", "u2"), "--overwrite"),
        (("create", "T", "--shape", "3"), "needs --shape and --dtype"),
        (("create", "T", "--shape", "3", "--dtype", "abacus"), "no data type"),
        (("create", "T", "--group", "--dtype", "u2"), "neither --shape nor --dtype"),
        (("create", "T", "--shape", "3", "--dtype", "u2", "--attributes", "[]"), "no JSON object"),
        (("create", "T", "--shape", "3", "--dtype", "u2", "--fill", "x"), "fill_value"),
        (("create", "T", "--shape", "3", "--dtype", "u2", "--format", "2", "--dimensions", "x"), "xarray"),
        (("attrs", "V", "0", "unit=µm"), "in quotes"),
        (("attrs", "V", "unit"), "no zarr.json"),
        (("attrs", "V", "0", "unit"), "write NAME=JSON"),
        (("attrs", "V", "0", "unit=null"), "--delete unit"),
        (("attrs", "V", "0", "a=1", "a=2"), "set twice"),
        (("attrs", "V", "0", "--delete", "who"), "there is unit"),
        (("attrs", "V", "0", "unit=1", "--delete", "unit"), "set and deleted"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], said: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    places = {"V": image, "T": tmp_path / "t", "M": tmp_path / "mine"}
    code, out, err = run(capsys, *(places.get(one, one) for one in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("gpuzarr: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "t").exists()
    assert (tmp_path / "mine" / "letter").read_text() == "dear"
    assert np.array_equal(zarr.open(image)["0"][...].ravel(), np.arange(2400))


# ---- create


def test_create(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "create", tmp_path / "n", "a/b", "--shape", "100,200", "--dtype", "float32",
        "--chunks", "10,20", "--shards", "50,40", "--codecs", "gzip", "--fill", "NaN", "--dimensions", "y,x",
        "--attributes", '{"unit": "µm"}',
    )  # fmt: skip
    assert (code, err) == (0, "")
    for part in ("100 × 200", "float32", "10 × 20 in shards of 50 × 40", "gzip", "nan", "nothing stored"):
        assert part in out
    array = zarr.open(tmp_path / "n")["a/b"]
    assert (array.shape, array.dtype, array.chunks, array.shards) == ((100, 200), "f4", (10, 20), (50, 40))
    assert np.isnan(array.fill_value)
    assert (array.metadata.dimension_names, dict(array.attrs)) == (("y", "x"), {"unit": "µm"})


def test_create_in_other_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = ("--shape", "30", "--dtype", ">i2", "--format", 2, "--codecs", "none", "--order", "F")
    assert run(capsys, "create", tmp_path / "old", *old, "--fill", "-7")[0] == 0
    array = zarr.open_array(tmp_path / "old")
    assert (array.metadata.zarr_format, array.dtype, array.fill_value) == (2, ">i2", -7)
    assert (
        run(capsys, "create", tmp_path / "s", "--shape", "3", "--dtype", "string", "--fill", "none")[0] == 0
    )
    assert zarr.open_array(tmp_path / "s")[...].tolist() == ["none"] * 3
    assert run(capsys, "create", tmp_path / "one", "--shape", "()", "--dtype", "u1")[0] == 0
    assert zarr.open_array(tmp_path / "one").shape == ()
    assert run(capsys, "create", tmp_path / "g", "--group", "--attributes", '{"a": 1}')[0] == 0
    assert dict(zarr.open_group(tmp_path / "g").attrs) == {"a": 1}
    assert run(capsys, "create", tmp_path / "g", "--group", "--overwrite")[0] == 0
    assert dict(zarr.open_group(tmp_path / "g").attrs) == {}


# ---- attrs


def test_attrs(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "attrs", image) == (0, '{\n  "who": "we"\n}\n', "")
    code, out, err = run(capsys, "attrs", image, "0", "scale=[1, 0.5]", 'unit="nm"')
    assert (code, json.loads(out), err) == (0, {"unit": "nm", "scale": [1, 0.5]}, "")
    assert dict(zarr.open(image)["0"].attrs) == {"unit": "nm", "scale": [1, 0.5]}
    assert json.loads(run(capsys, "attrs", image, 'x={"y": "="}', "--delete", "who")[1]) == {"x": {"y": "="}}
    assert dict(zarr.open(image).attrs) == {"x": {"y": "="}}
    assert np.array_equal(zarr.open(image)["0"][...].ravel(), np.arange(2400))


def test_attrs_of_v3(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpuzarr.copy(image, tmp_path / "v3", zarr_format=3)
    for path in ("", "0"):
        before = json.loads((tmp_path / "v3" / path / "zarr.json").read_text())
        assert run(capsys, "attrs", tmp_path / "v3", path, "n=1")[0] == 0
        after = json.loads((tmp_path / "v3" / path / "zarr.json").read_text())
        assert after == {**before, "attributes": {**before["attributes"], "n": 1}}


# ---- what options mean


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("zstd", ["zstd"]),
        ("zstd, crc32c", ["zstd", "crc32c"]),
        ("zstd(level=3)", [{"name": "zstd", "configuration": {"level": 3}}]),
        (
            "blosc(cname=lz4,clevel=5),crc32c",
            [{"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5}}, "crc32c"],
        ),
        ("numcodecs.zlib", ["numcodecs.zlib"]),
        ('[{"id": "zlib", "level": 1}]', [{"id": "zlib", "level": 1}]),
        ("none", []),
        ("auto", "auto"),
        (None, None),
    ],
)
def test_codecs_as_text(text: str | None, meant: Any) -> None:
    assert options.codecs(text) == meant


def test_shapes_as_text() -> None:
    assert options.shape("64, 64,8", "--chunks") == options.shape("64x64x8", "--chunks") == (64, 64, 8)
    assert options.shapes("64,64;32,32", "--shards") == [(64, 64), (32, 32)]
    assert options.shapes("none", "--shards") is False
    for text in ("", "8,,8", "-1", "1e3", "9" * 30):
        with pytest.raises(gpuzarr.GpuzarrError, match="is no shape"):
            options.shape(text, "--chunks")


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_plain_meter_rewrites_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1, 100))
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    stream = Terminal()
    with Meter("copying", stream, plain=True) as meter:
        meter(0, 400 << 20)
        meter(100 << 20, 400 << 20)
        meter(200 << 20, 400 << 20)
    lines = stream.getvalue().split("\r")
    assert lines[1].rstrip() == "copying    0 %  0 B of 400.0 MiB"
    assert lines[3].rstrip() == "copying   50 %  200.0 MiB of 400.0 MiB  100.0 MiB/s  0:02 left"
    assert lines[-2].strip() == lines[-1] == ""


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    stream = io.StringIO()
    with Meter("copying", stream) as meter:
        for done in range(5):
            meter(done, 4)
    assert len(stream.getvalue().splitlines()) == 2
    assert "\r" not in stream.getvalue()


def test_a_meter_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="bars need rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with Meter("copying", stream) as meter:
        meter(0, 100)
        meter(100, 100)
    assert "100 B of 100 B" in stream.getvalue()


def test_without_rich_a_meter_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    with Meter("copying", stream) as meter:
        meter(1, 2)
    assert "copying   50 %  1 B of 2 B" in stream.getvalue()


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 7, 61, 3723)] == ["0:00", "0:07", "1:01", "1:02:03"]
