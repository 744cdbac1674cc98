"""The real libnvcomp, as far as it runs without a GPU: how arguments are passed, and what it requires.

It comes with the extra `dev`. What a new version changes shows here, before it shows on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.metadata

import pytest

from gpuzarr.codecs.zstd import zstd_scratch
from gpuzarr.device import nvcomp, sim_nvcomp
from gpuzarr.errors import DeviceError, MissingDependencyError

PACKAGES = {one.metadata["Name"] for one in importlib.metadata.distributions()}
# Where it is installed it has to be found: a library of another name is drift too.
LIBRARY = nvcomp.load() if any(str(name).startswith("nvidia-libnvcomp") for name in PACKAGES) else None
installed = pytest.mark.skipif(
    LIBRARY is None, reason="libnvcomp is not installed: pip install 'gpuzarr[dev]'"
)


@installed
def test_version_is_known() -> None:
    assert LIBRARY is not None
    assert LIBRARY.version[0] in nvcomp.VERSIONS


@installed
@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("lz4", (1, 1, 1)),
        ("snappy", (1, 1, 1)),
        ("zstd", (1, 1, 8)),
        ("deflate", (4, 1, 1)),
        ("gzip", (1, 1, 1)),
        ("gdeflate", (4, 1, 1)),
        ("ans", (16, 16, 1)),
        ("bitcomp", (8, 8, 4)),
        ("cascaded", (4, 8, 1)),
    ],
)
def test_alignments(format: str, expected: tuple[int, int, int]) -> None:
    assert LIBRARY is not None
    assert LIBRARY.alignments(format) == nvcomp.Alignments(*expected)


@installed
def test_scratch_grows_with_the_streams() -> None:
    """zstd needs some three times its output, the others none."""
    assert LIBRARY is not None
    one, many = (LIBRARY.scratch_nbytes("zstd", n, 1 << 20, n << 20) for n in (1, 64))
    assert 2 * (64 << 20) < many < 4 * (64 << 20)
    assert one < many / 16
    for count, largest in ((1, 100), (7, 5000), (1000, 65536), (64, 1 << 20), (3, 1 << 26)):
        asked = LIBRARY.scratch_nbytes("zstd", count, largest, count * largest)
        assert asked <= count * zstd_scratch(largest, 1)
        stand_in = sim_nvcomp.HostLibrary().scratch_nbytes("zstd", count, largest, count * largest)
        assert asked <= stand_in * 1.01
    assert [
        LIBRARY.scratch_nbytes(name, 64, 1 << 20, 64 << 20) for name in ("lz4", "snappy", "deflate", "gzip")
    ] == [0] * 4


@installed
def test_options_are_passed_by_value() -> None:
    """64 bytes, not a pointer: a backend that does not exist is refused, so it was read from them."""
    assert LIBRARY is not None
    assert ctypes.sizeof(nvcomp.Options) == 64
    wrong = nvcomp.Options()
    wrong.reserved[:4] = [99, 0, 0, 0]
    found = (ctypes.c_size_t * 3)()
    function = LIBRARY._library.nvcompBatchedZstdDecompressGetRequiredAlignments
    assert function(wrong, ctypes.byref(found)) != 0
    assert function(nvcomp.Options(), ctypes.byref(found)) == 0


@installed
def test_failures_come_with_nvcomps_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIBRARY is not None
    with pytest.raises(DeviceError, match=r"not supported.*\(11\)"):
        LIBRARY._check(11, "anything")
    monkeypatch.setitem(nvcomp.FORMATS, "made up", "MadeUp")
    with pytest.raises(DeviceError, match="nvcompBatchedMadeUpDecompressGetRequiredAlignments"):
        LIBRARY.alignments("made up")


def test_missing_and_broken_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(nvcomp, "_candidates", lambda: iter(()))
    with pytest.raises(MissingDependencyError, match=r"gpuzarr\[cuda13\]"):
        nvcomp.load.__wrapped__()
    broken = f"{tmp_path}/libnvcomp.so.6"
    with open(broken, "wb") as file:
        file.write(b"no library")
    with pytest.raises(DeviceError, match="cannot load"):
        nvcomp.Library(broken)
