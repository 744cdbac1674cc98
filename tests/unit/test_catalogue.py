"""The catalogue reads kernels from their sources and checks launches against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuzarr.device import catalogue
from gpuzarr.device.catalogue import Kernel, Param
from gpuzarr.device.sim import SimDevice
from gpuzarr.errors import DeviceError

SOURCE = """
// GZ_KERNEL gz_commented_out(u8* dst) {}
GZ_KERNEL __launch_bounds__(256) gz_one(const u8* __restrict__ src,  // bytes, as they are
                 u32 *dst, i64 count,
                 f32 scale) {
}
GZ_KERNEL gz_two(f64 x) {}
"""


def made(folder: Path, text: str, name: str = "made.cu") -> dict[str, Kernel]:
    (folder / name).write_text(text)
    return catalogue.scan(folder)


def test_signatures(tmp_path: Path) -> None:
    """Types, pointers and const, whatever the spacing; comments do not count."""
    found = made(tmp_path, SOURCE)
    assert list(found) == ["gz_one", "gz_two"]
    assert found["gz_one"].path == tmp_path / "made.cu"
    assert found["gz_one"].params == (
        Param("src", np.dtype("u1"), pointer=True, const=True),
        Param("dst", np.dtype("u4"), pointer=True, const=False),
        Param("count", np.dtype("i8"), pointer=False, const=False),
        Param("scale", np.dtype("f4"), pointer=False, const=False),
    )
    assert [param.spelling for param in found["gz_one"].params] == ["const u8*", "u32*", "i64", "f32"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("GZ_KERNEL gz_a(size_t n) {}", "size_t n"),
        ("GZ_KERNEL gz_a(u8** dst) {}", "u8"),
        ("GZ_KERNEL gz_a(u8* dst, ) {}", "''"),
        ("GZ_KERNEL gz_a() {}", "''"),
        ("GZ_KERNEL memcpy(u8* dst) {}", "not named gz_"),
        ("GZ_KERNEL gz_a(u8* a) {}\nGZ_KERNEL gz_a(u8* a) {}", "there twice"),
    ],
)
def test_what_no_kernel_may_look_like(tmp_path: Path, text: str, said: str) -> None:
    """Loud at the first look."""
    with pytest.raises(DeviceError, match=said):
        made(tmp_path, text)


def test_twice_in_two_files(tmp_path: Path) -> None:
    """Launches are by name, so a name is one kernel."""
    made(tmp_path, "GZ_KERNEL gz_a(u8* a) {}")
    with pytest.raises(DeviceError, match=r"gz_a of other\.cu"):
        made(tmp_path, "GZ_KERNEL gz_a(u8* a) {}", "other.cu")


def test_every_source_is_in_the_catalogue() -> None:
    """Each file of kernels/ has at least one kernel."""
    files = {kernel.path for kernel in catalogue.kernels().values()}
    assert files == set(catalogue.root().glob("*.cu"))
    assert len(files) >= 7


def test_unknown_kernel() -> None:
    """With the nearest name, or none."""
    with pytest.raises(DeviceError, match="no kernel called gz_skatter; did you mean gz_scatter"):
        catalogue.kernel("gz_skatter")
    with pytest.raises(DeviceError, match=r"no kernel called xyz$"):
        catalogue.kernel("xyz")
    assert catalogue.kernel("gz_scatter").name == "gz_scatter"


BUFFER = SimDevice("sim").lane().empty(8)
RIGHT: dict[str, Any] = {"src": BUFFER, "dst": BUFFER, "count": 3, "scale": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"src": np.zeros(3, np.uint8)},
        {"src": np.zeros((3, 2), np.uint8)},
        {"count": np.int16(-3)},
        {"count": -(1 << 63)},
        {"scale": 3},
        {"scale": np.float64(2)},
    ],
)
def test_right_launches(tmp_path: Path, change: dict[str, Any]) -> None:
    """Device buffers; host arrays where the kernel only reads; numbers that fit."""
    catalogue.check(made(tmp_path, SOURCE)["gz_one"], {**RIGHT, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"src": None}, r"const u8\* src got NoneType"),
        ({"src": np.zeros(3, np.int8)}, r"const u8\* src got a host array of int8"),
        ({"src": np.zeros((3, 2), np.uint8).T}, "not C-contiguous"),
        ({"src": [1, 2]}, r"const u8\* src got list"),
        ({"dst": np.zeros(3, np.uint32)}, r"u32\* dst is written"),
        ({"dst": 12345}, r"u32\* dst got int"),
        ({"count": 3.0}, "i64 count got float"),
        ({"count": True}, "i64 count got bool"),
        ({"count": np.float32(3)}, "i64 count got float32"),
        ({"count": 1 << 63}, f"i64 count cannot hold {1 << 63}"),
        ({"count": np.uint64(1 << 63)}, "i64 count cannot hold"),
        ({"scale": "1"}, "f32 scale got str"),
        ({"scale": False}, "f32 scale got bool"),
        ({"scale": 1j}, "f32 scale got complex"),
        ({"more": 1}, r"gz_one has no more; its parameters are in made\.cu"),
    ],
)
def test_wrong_launches(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Each names the parameter as the kernel spells it."""
    with pytest.raises(DeviceError, match=said):
        catalogue.check(made(tmp_path, SOURCE)["gz_one"], {**RIGHT, **change})


def test_missing_parameters(tmp_path: Path) -> None:
    """All of them at once."""
    with pytest.raises(DeviceError, match="gz_one lacks src, count and has no sauce"):
        catalogue.check(made(tmp_path, SOURCE)["gz_one"], {"sauce": BUFFER, "dst": BUFFER, "scale": 1})


def test_digest(tmp_path: Path) -> None:
    """It changes with the source and with what else it is asked for, and with nothing else."""
    kernel = made(tmp_path, SOURCE)["gz_one"]
    first = catalogue.digest(kernel, "sm_90", "-O2")
    assert first == catalogue.digest(kernel, "sm_90", "-O2")
    assert first != catalogue.digest(kernel, "sm_90-O", "2")
    (tmp_path / "made.cu").write_text(SOURCE + " ")
    assert first != catalogue.digest(kernel, "sm_90", "-O2")
