"""How much of the corpus is decoded on the device alone: every common chain, save a few with a reason."""

from __future__ import annotations

from collections import Counter

import pytest

import gpuzarr
from tests import corpus

ENTRIES = corpus.entries()
COMMON = {"blosc", "zstd", "gzip", "zlib", "lz4"}
OTHERS = ("pcodec", "lzma", "bz2", "zfpy", "imagecodecs", "json2", "base64", "vlen", "msgpack", "sharding")


@pytest.mark.skipif(not ENTRIES, reason=f"no corpus at {corpus.ROOT}")
def test_common_chains_are_decoded_on_the_device() -> None:
    """Of the chains of blosc, zstd, gzip, zlib, lz4 or nothing, with whatever filters and checksums."""
    places: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for entry in ENTRIES:
        if entry.id in corpus.UNREADABLE:
            continue
        array = entry.open("sim")
        assert isinstance(array, gpuzarr.Array)
        told = array.explain()
        names = [stage.name.removeprefix("numcodecs.") for stage in told.stages]
        if told.device == "cpu" or any(name.startswith(OTHERS) for name in names):
            continue
        host = [stage for stage in told.stages if stage.place == "cpu"]
        kinds = COMMON.intersection(names) or {"raw"}
        for kind in kinds:
            places[f"{kind} {'host' if host else 'device'}"] += 1
        reasons.update(f"{stage.name}: {stage.why}" for stage in host)
    assert {text.split()[0] for text in places} >= COMMON
    device = sum(count for text, count in places.items() if text.endswith("device"))
    assert device >= 0.95 * places.total(), (places, reasons)
