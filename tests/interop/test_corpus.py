"""Every entry of the corpus decodes to its digest, on every device of the run."""

from __future__ import annotations

import pytest

import gpuzarr
from gpuzarr.errors import MissingDependencyError
from tests import corpus, devices

ENTRIES = corpus.entries()
BATCH = 40


def batches() -> list[pytest.param]:
    """Entries by dialect, some dozens a test: they take a millisecond or two each."""
    cut = []
    for dialect in corpus.DIALECTS:
        chosen = [entry for entry in ENTRIES if entry.dialect == dialect]
        for at in range(0, len(chosen), BATCH):
            cut.append(pytest.param(chosen[at : at + BATCH], id=f"{dialect}-{at}"))
    return cut or [pytest.param([], id="none", marks=pytest.mark.skip(reason=f"no corpus at {corpus.ROOT}"))]


def failures(entries: list[corpus.Entry], device: str) -> list[str]:
    failed = []
    for entry in entries:
        try:
            corpus.check(entry, device)
        except MissingDependencyError as error:
            if devices.ON_GPU and error.codec:
                continue  # a GPU machine need not have every codec's package
            raise  # of a compiler, which skips the test
        except Exception as error:
            if entry.id not in corpus.UNREADABLE:
                failed.append(f"{entry.id} {entry.path} {entry.fields.get('array', '')}: {error}")
        else:
            if entry.id in corpus.UNREADABLE:
                failed.append(f"{entry.id} can be read: take it off the list")
    return failed


@pytest.mark.parametrize("native", [1, 0])
@pytest.mark.parametrize("entries", batches())
def test_on_the_host(entries: list[corpus.Entry], native: int) -> None:
    """With the compiled core, and without it."""
    if "cpu" not in devices.EVERY:
        pytest.skip(f"of the host; this run is of {', '.join(devices.CHOSEN)}")
    with gpuzarr.configured(native=native):
        assert failures(entries, "cpu") == []


@pytest.mark.parametrize("name", devices.DEVICES)
@pytest.mark.parametrize("entries", batches())
def test_on_a_device(entries: list[corpus.Entry], name: str) -> None:
    """Strings and objects have no device form and are read on the host, so they are left out here. What has
    a device form runs on the device, even where the host is expected to be sooner."""
    with_bytes = [entry for entry in entries if entry.fields.get("dtype") not in ("|O", "string")]
    with gpuzarr.configured(strict=1):
        assert failures(with_bytes, name) == []


@pytest.mark.skipif(not ENTRIES, reason=f"no corpus at {corpus.ROOT}")
def test_the_list_of_the_unreadable_is_short_and_names_entries() -> None:
    known = {entry.id for entry in ENTRIES}
    assert set(corpus.UNREADABLE) <= known
    assert all(corpus.UNREADABLE.values())
    assert len(corpus.UNREADABLE) <= len(ENTRIES) // 100
