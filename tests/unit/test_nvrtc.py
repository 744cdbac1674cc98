"""NVRTC: where it is looked for, what it makes, how that is kept. What it makes is read as an ELF file."""

from __future__ import annotations

import struct
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuzarr import config
from gpuzarr.device import catalogue, nvrtc
from gpuzarr.errors import DeviceError, MissingDependencyError

BYTESWAP = catalogue.kernel("gz_byteswap")
ELF, MACHINE = b"\x7fELF", 190  # EM_CUDA


@pytest.fixture(scope="module")
def compiler() -> nvrtc.Nvrtc:
    """The installed one."""
    try:
        return nvrtc.load()
    except MissingDependencyError:
        pytest.skip("NVRTC is not installed")


class Fake:
    """Counts what it is asked to compile."""

    version, path, architectures = (13, 0), "nowhere", (75, 80, 90)

    def __init__(self, *codes: bytes, name: str = "Fake 13.0") -> None:
        self.codes, self.name = list(codes), name
        self.asked: list[str] = []

    def __str__(self) -> str:
        return self.name

    def compile(self, source: Path, target: str, *options: str) -> nvrtc.Compiled:
        self.asked.append(target)
        return nvrtc.Compiled(self.codes.pop(0), "a log")


# ---- what it makes


def sections(image: bytes) -> dict[str, bytes]:
    """Of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)
    heads = [struct.unpack_from("<IIQQQQIIQQ", image, table + i * size) for i in range(count)]
    text = image[heads[names][4] :]
    return {
        text[head[0] : text.index(b"\0", head[0])].decode(): image[head[4] :][: head[5]] for head in heads
    }


def widths(info: bytes) -> list[int]:
    """The bytes of each parameter, as `.nv.info.<kernel>` has them for the driver (EIATTR_KPARAM_INFO)."""
    at, found = 0, {}
    while at < len(info):
        form, attribute, nbytes = struct.unpack_from("<BBH", info, at)
        if form == 4 and attribute == 0x17:
            _, ordinal, _, packed = struct.unpack_from("<IHHI", info, at + 4)
            found[ordinal] = packed >> 18
        at += 4 + (nbytes if form == 4 else 0)
    return [found[i] for i in range(len(found))]


def check_parameters(compiler: nvrtc.Nvrtc, path: Path) -> None:
    code, log = compiler.compile(path, "sm_80")
    assert (code[:4], log) == (ELF, "")
    assert struct.unpack_from("<H", code, 18) == (MACHINE,)
    parts = sections(code)
    for kernel in catalogue.read(path):
        assert parts[f".text.{kernel.name}"]
        said = [8 if param.pointer else param.dtype.itemsize for param in kernel.params]
        assert widths(parts[f".nv.info.{kernel.name}"]) == said, kernel.name


def test_parameters_are_those_of_the_catalogue(compiler: nvrtc.Nvrtc) -> None:
    """The driver reads as many bytes of each argument as the compiled kernel says."""
    check_parameters(compiler, BYTESWAP.path)


@pytest.mark.slow
def test_parameters_of_every_kernel(compiler: nvrtc.Nvrtc) -> None:
    """As `catalogue` reads them from the sources."""
    for path in sorted({kernel.path for kernel in catalogue.kernels().values()}):
        check_parameters(compiler, path)


def test_virtual_architectures(compiler: nvrtc.Nvrtc) -> None:
    """Give PTX, which ends with a zero, as the driver wants it; products and sums round apart there too."""
    code, _ = compiler.compile(BYTESWAP.path, f"compute_{max(compiler.architectures)}")
    assert b".visible .entry gz_byteswap(" in code
    assert code.endswith(b"\0")


def test_the_compiler_knows_itself(compiler: nvrtc.Nvrtc) -> None:
    """Its version is that of its file, and it compiles for what is supported here."""
    assert str(compiler) == f"NVRTC {compiler.version[0]}.{compiler.version[1]}"
    assert compiler.path.endswith(f"libnvrtc.so.{compiler.version[0]}")
    assert {75, 80, 90} <= set(compiler.architectures)


def test_errors_are_the_compilers(compiler: nvrtc.Nvrtc, tmp_path: Path) -> None:
    """With file and line, or the option that is wrong. Nothing is kept."""
    path = tmp_path / "broken.cu"
    path.write_text('#include "gz.cuh"\nGZ_KERNEL gz_broken(u8* dst) { dst[0] = undeclared; }\n')
    (broken,) = catalogue.read(path)
    assert "invalid value for --gpu-architecture" in compiler.compile(path, "sm_999").log
    with (
        config.configured(cache_dir=str(tmp_path / "cache")),
        pytest.raises(
            DeviceError, match=r"broken.cu does not compile for sm_90 .*\n.*\(2\): error.*undeclared"
        ),
    ):
        nvrtc.code(compiler, broken, 90)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("architecture", "known", "goal"),
    [
        (75, (75, 80), "sm_75"),
        (86, (75, 80, 86, 90), "sm_86"),
        (86, (75, 80, 90), "sm_80"),
        (89, (75, 80, 86, 87, 90), "sm_86"),
        (87, (80, 87), "sm_87"),
        (103, (90, 100, 101), "sm_100"),
        (121, (90, 100, 120), "sm_120"),
        (90, (75, 80), "compute_80"),
        (130, (90, 110, 120, 121), "compute_121"),
    ],
)
def test_targets(architecture: int, known: tuple[int, ...], goal: str) -> None:
    """Machine code where it runs, else PTX; never what is made for one board alone."""
    assert nvrtc.target(architecture, known) == goal


def test_an_architecture_that_is_gone() -> None:
    """No compiler makes code for a GPU older than all that it knows."""
    with pytest.raises(DeviceError, match="compiles for 90, 100, and the GPU is of architecture 80"):
        nvrtc.target(80, (90, 100))


# ---- how it is kept


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cubin").iterdir())


def test_compiled_once(tmp_path: Path) -> None:
    """For all processes that share the folder; another architecture, compiler or source is another file."""
    with config.configured(cache_dir=str(tmp_path)):
        fake = Fake(b"one", b"two", b"three")
        assert [nvrtc.code(fake, BYTESWAP, 90) for _ in range(3)] == [b"one"] * 3
        assert nvrtc.code(fake, BYTESWAP, 80) == b"two"
        assert nvrtc.code(fake, BYTESWAP, 86) == b"two"
        assert nvrtc.code(fake, catalogue.kernel("gz_scatter"), 90) == b"three"
        assert fake.asked == ["sm_90", "sm_80", "sm_90"]
        assert nvrtc.code(Fake(b"four", name="Fake 13.1"), BYTESWAP, 90) == b"four"
        assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-1], lambda x: x[:40], lambda x: b"", lambda x: x[:20] + b"?" + x[21:]]
)
def test_a_damaged_file_is_made_anew(damage: Any, tmp_path: Path) -> None:
    """The driver would read on behind the end of it."""
    with config.configured(cache_dir=str(tmp_path)):
        assert nvrtc.code(Fake(b"code" * 99), BYTESWAP, 90) == b"code" * 99
        (path,) = kept(tmp_path)
        path.write_bytes(damage(path.read_bytes()))
        again = Fake(b"anew")
        assert [nvrtc.code(again, BYTESWAP, 90) for _ in range(2)] == [b"anew"] * 2
        assert kept(tmp_path) == [path]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """Costs the time to compile."""
    (tmp_path / "file").write_text("in the way")
    with config.configured(cache_dir=str(tmp_path / "file")):
        assert [nvrtc.code(Fake(code), BYTESWAP, 90) for code in (b"a", b"b")] == [b"a", b"b"]
    (tmp_path / "cubin").write_text("in the way too")
    with config.configured(cache_dir=str(tmp_path)):
        assert nvrtc.code(Fake(b"c"), BYTESWAP, 90) == b"c"


# ---- where it is


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which no compiler is but those put there."""
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(nvrtc.sys, "prefix", str(tmp_path / "conda"))
    with config.configured(cuda_home=""):
        yield tmp_path


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no library")
    return str(path)


def test_places(places: Path) -> None:
    """Wheels of both layouts, CUDA's folder, conda's, then the loader; the driver's major version first."""
    new = put(places / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13")
    old = put(places / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12")
    home = put(places / "cuda" / "lib64" / "libnvrtc.so.13")
    conda = put(places / "conda" / "lib" / "libnvrtc.so.12")
    for name in ("libnvrtc.so.11", "libnvrtc.so.13.0.48", "libnvrtc-builtins.so.13", "libnvrtc.alt.so.12"):
        put(places / "cuda" / "lib64" / name)
    config.configure(cuda_home=str(places / "cuda"))
    first, second = [new, home, "libnvrtc.so.13"], [old, conda, "libnvrtc.so.12"]
    assert nvrtc.candidates() == first + second
    assert nvrtc.candidates(13) == first + second
    assert nvrtc.candidates(14) == first + second
    assert nvrtc.candidates(12) == second + first


def test_none_that_can_be_loaded(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what to install."""
    put(places / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13")
    monkeypatch.setattr(nvrtc, "MAJORS", ())
    assert nvrtc.candidates() == []
    monkeypatch.setattr(nvrtc, "candidates", lambda major: [str(places / "nvidia/cu13/lib/libnvrtc.so.13")])
    for major, extra in ((12, "cuda12"), (13, "cuda13"), (99, "cuda13")):
        with pytest.raises(MissingDependencyError, match=rf"not installed; pip install .gpuzarr\[{extra}\]"):
            nvrtc.load.__wrapped__(major)
