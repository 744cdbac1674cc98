"""A few seconds of `python -m tests.fuzz`, the same cases each time, and proof that it sees what it seeks."""

from __future__ import annotations

import random

import numpy as np
import pytest

import gpuzarr
import gpuzarr.config
from gpuzarr.device import sim_library
from gpuzarr.errors import ChunkError
from tests import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_some_cases(device: str) -> None:
    if device == "sim":
        sim_library._compiler(gpuzarr.config.current().cxx)  # the worker processes would only report it
    counts, violations = fuzz.fuzz(30, 77, [device], lambda line: None, cases=400)
    assert not violations, "\n".join(violations)
    assert counts["ChunkError"] > 20
    assert counts["MetadataError"] > 20
    assert counts["equal"] + counts["other values"] > 5


def test_the_samples_are_right() -> None:
    """Without damage every array reads, on both devices alike."""
    for sample in fuzz.samples():
        found = [fuzz.read(sample.objects, device, random.Random(3)) for device in ("cpu", "sim")]
        assert found[0]
        assert fuzz.same(*found)


def test_cases_repeat() -> None:
    sample = fuzz.samples()[0]
    assert fuzz.damaged(sample, random.Random(8)) == fuzz.damaged(sample, random.Random(8))
    changed = [fuzz.damaged(sample, random.Random(seed))[0] != sample.objects for seed in range(40)]
    assert sum(changed) > 30


def test_other_errors_are_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise KeyError("not gpuzarr's")

    monkeypatch.setattr(fuzz, "read", wrong)
    with pytest.raises(KeyError):
        fuzz.run_case(1, "cpu")


def test_errors_without_a_place_are_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise ChunkError("somewhere")

    monkeypatch.setattr(fuzz, "read", wrong)
    with pytest.raises(AssertionError, match="no array"):
        fuzz.run_case(1, "cpu")


def test_damage_under_a_checksum_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the checksum not looked at, other values would come back."""
    sealed = next(sample for sample in fuzz.samples() if sample.sealed)
    monkeypatch.setattr(fuzz, "samples", lambda: (sealed,))
    turns = iter(np.arange(10**6))
    monkeypatch.setattr(fuzz, "read", lambda *_: [np.array(next(turns))])
    monkeypatch.setattr(fuzz, "by_codecs", lambda *_: [np.array(0)])
    seed = next(seed for seed in range(100) if not _documents(sealed, seed))
    with pytest.raises(AssertionError, match="went unseen"):
        fuzz.run_case(seed, "cpu")


def _documents(sample: fuzz.Sample, seed: int) -> bool:
    rng = random.Random(seed)
    rng.choice((sample,))
    return fuzz.damaged(sample, rng)[1]


def test_same_means_bits() -> None:
    nan, other = np.array([np.nan]), np.array([np.nan])
    other.view("u8")[0] ^= 1
    assert fuzz.same([nan], [nan.copy()])
    assert not fuzz.same([nan], [other])
    assert not fuzz.same([np.array([0.0])], [np.array([-0.0])])
    assert not fuzz.same([np.zeros(1, "i4")], [np.zeros(1, "u4")])
    assert isinstance(gpuzarr.open(fuzz.samples()[0].objects), gpuzarr.Array)
