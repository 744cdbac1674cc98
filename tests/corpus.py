"""The corpus: arrays written by other software, each with the digest of what it decodes to.

    python -m tests.corpus [--device cpu|sim|sim:reversed|…] [--dialect NAME]

prints what works, by dialect and feature. The corpus is not part of the project: it is looked for in
`GPUZARR_FIXTURES`, else in `../shared/fixtures` beside the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

import gpuzarr
from tests.devices import EVERY, as_values

ROOT = Path(os.environ.get("GPUZARR_FIXTURES") or Path(__file__).parents[2] / "shared" / "fixtures")
DIALECTS = ("zarr_v2", "zarr_v3", "ome_zarr", "codec", "kerchunk", "icechunk")

UNREADABLE: dict[str, str] = {}
"""Entries that cannot be read, by id, each with its reason."""

try:
    if Version(version("imagecodecs")) < Version("2026.10"):
        UNREADABLE["f03479"] = "imagecodecs for Python 3.11 decodes only the first frame of a WebP file"
except PackageNotFoundError:
    pass  # entries that need it are a MissingDependencyError

_OF_ICECHUNK = ("f01826", "f01827", "f01828")
try:
    if Version(version("icechunk")) < Version("2"):
        UNREADABLE |= dict.fromkeys(_OF_ICECHUNK, "icechunk for Python 3.11 does not know format 2")
except PackageNotFoundError:
    UNREADABLE |= dict.fromkeys(_OF_ICECHUNK, "icechunk is not installed")


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def open(self, device: str) -> gpuzarr.Array:
        """The entry as an array: an encoded buffer becomes the one chunk of an array in memory."""
        if self.dialect == "icechunk":
            return gpuzarr.open_array(self._session(), self.array, device=device)
        if self.dialect != "codec":
            return gpuzarr.open_array(ROOT / self.path, self.fields.get("array") or "", device=device)
        shape, dtype = self.shape, self.dtype
        if "original" in self.fields:
            original = np.load(ROOT / self.original, allow_pickle=True)
            shape, dtype = original.shape, original.dtype
        document = {
            "zarr_format": 2,
            "shape": list(shape),
            "chunks": list(shape),
            "fill_value": None,
            "order": "C",
        }
        listed = "|O" if dtype in ("|O", "string", object) else np.dtype(dtype).str
        document |= {"dtype": listed, "filters": None, "compressor": self.codec_config}
        if listed == "|O":
            document |= {"filters": [self.codec_config], "compressor": None}
        key = ".".join("0" * len(shape)) or "0"
        return gpuzarr.open_array(
            {".zarray": json.dumps(document).encode(), key: (ROOT / self.path).read_bytes()}, device=device
        )

    def _session(self) -> Any:
        """The version of an Icechunk repository: `tag=…` or `branch=…`. Nothing is written there."""
        import icechunk

        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(ROOT / self.path)))
        kind, _, name = self.version.partition("=")
        return repository.readonly_session(**{kind: name})


@cache
def entries() -> list[Entry]:
    """The entries of the dialects that gpuzarr reads; none where there is no corpus."""
    manifest = ROOT / "manifest.json"
    if not manifest.is_file():
        return []
    return [Entry(one) for one in json.loads(manifest.read_text()) if one["dialect"] in DIALECTS]


def check(entry: Entry, device: str) -> None:
    """Read an entry; raise if it is not what it must be."""
    array = entry.open(device)
    assert isinstance(array, gpuzarr.Array)
    values = as_values(array[...], array.dtype, array.shape)
    if entry.dialect == "codec" and values.dtype.kind in "OT":
        values = values.reshape(entry.shape)  # encoded buffers have no shape of their own
    found = digest(values)
    if found != entry.sha256 and "tolerance" in entry.fields:
        within = 2.0  # of the reference decoder: "lossy decoder |diff|<=2"
        if "|diff|<=2" not in entry.tolerance:
            raise AssertionError(f"unknown tolerance {entry.tolerance!r}")
        reference = reference_decoder(entry)
        if np.abs(values.astype(float) - reference.astype(float)).max(initial=0) > within:
            raise AssertionError("outside the tolerance")
    elif found != entry.sha256:
        raise AssertionError(
            f"digest {found[:12]} of {values.dtype} {values.shape}, expected {entry.sha256[:12]}"
        )
    if "shape" in entry.fields and tuple(entry.shape) != values.shape and entry.dialect != "codec":
        raise AssertionError(f"shape {values.shape}, expected {entry.shape}")


def reference_decoder(entry: Entry) -> np.ndarray:
    """imagecodecs' own decoder, or tifffile, for the entries whose decoding is lossy."""
    if entry.dialect == "kerchunk":
        import tifffile

        return np.asarray(tifffile.imread(ROOT / entry.path.removesuffix(".json")))
    import imagecodecs

    decode = getattr(imagecodecs, entry.codec_config["id"].removeprefix("imagecodecs_") + "_decode")
    return np.asarray(decode((ROOT / entry.path).read_bytes()))


def digest(values: np.ndarray) -> str:
    """SHA-256 of the values in C order and little-endian; of canonical JSON for strings and objects."""
    array = np.asarray(values)
    if array.dtype.kind in "OT":
        text = json.dumps(_nested(array.astype(object)), ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def _nested(array: np.ndarray) -> Any:
    if array.ndim == 0:
        return _plain(array.item())
    return [_nested(one) if isinstance(one, np.ndarray) and array.ndim > 1 else _plain(one) for one in array]


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OT":
            return [_plain(one) for one in value]
        little = value.dtype.newbyteorder("<")
        return {"a": [little.str, value.astype(little).tolist()]}
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default=EVERY[0])
    parser.add_argument("--dialect", choices=DIALECTS)
    options = parser.parse_args()
    chosen = [one for one in entries() if options.dialect in (None, one.dialect)]
    if not chosen:
        print(f"no corpus at {ROOT}; set GPUZARR_FIXTURES to where it is")
        return 0
    good: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    for entry in chosen:
        rows = [(entry.dialect, "")] + [(entry.dialect, feature) for feature in entry.features]
        total.update(rows)
        try:
            check(entry, options.device)
            good.update(rows)
        except Exception as error:
            known = UNREADABLE.get(entry.id)
            failures.append(f"{entry.id} {entry.path} {entry.fields.get('array') or ''}: {known or error}")
    print(f"{'dialect':<10} {'feature':<32} {'read':>5} {'of':>5}   on {options.device}")
    for (dialect, feature), count in sorted(
        total.items(), key=lambda row: (row[0][0], row[0][1] != "", -row[1])
    ):
        read = good[dialect, feature]
        mark = "" if read == count else "   <"
        print(f"{dialect if not feature else '':<10} {feature or 'all':<32} {read:>5} {count:>5}{mark}")
    print(*failures, sep="\n")
    unknown = sum(line.split(" ", 1)[0] not in UNREADABLE for line in failures)
    print(f"{len(chosen) - len(failures)} of {len(chosen)} read, {len(failures)} not ({unknown} unexplained)")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
