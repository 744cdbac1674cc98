"""Writers beside one another: `python -m tests.rounds [--count 50]`. Nothing that anyone wrote may be lost.

Two processes write disjoint chunks and disjoint shards. Eight threads do so too, and write parts of one chunk
and of one shard, through one handle and through a handle each; they append; and somebody reads meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gpuzarr

THREADS = 8
_CHILD = """
import sys, numpy, gpuzarr
path, turn, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
array = gpuzarr.open_array(path, mode="r+", device="cpu")
print("ready", flush=True)
sys.stdin.readline()
for low in range(8 * first, 64, 16):
    array[low : low + 8] = numpy.full((8, 64), turn * 64 + low, "i4")
"""


def together(work: list[Callable[[], None]]) -> None:
    """Run each on a thread of its own, all starting at once; raises what one of them raises."""
    gate, failed = threading.Barrier(len(work)), []

    def run(one: Callable[[], None]) -> None:
        gate.wait()
        try:
            one()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def processes(folder: Path, turn: int, shards: tuple[int, int] | None) -> None:
    """Two processes write every second chunk, or shard, each."""
    path = folder / f"processes-{shards}"
    gpuzarr.create_array(
        path, shape=(64, 64), dtype="i4", chunks=(8, 16), shards=shards, codecs=["crc32c"], overwrite=True
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), str(turn), str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for first in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        child.communicate(b"go\n")
        assert child.returncode == 0
    expected = np.repeat(turn * 64 + np.arange(0, 64, 8), 8)[:, None] * np.ones((1, 64), int)
    assert np.array_equal(gpuzarr.load(path, device="cpu"), expected)


def threads(target: object, shards: tuple[int, int] | None, chunks: tuple[int, int], own: bool) -> None:
    """Eight threads write every eighth row: parts of the same chunks and shards, many times."""
    array = gpuzarr.create_array(
        target, shape=(32, 32), dtype="i4", chunks=chunks, shards=shards, codecs=["crc32c"], overwrite=True
    )
    again = lambda: gpuzarr.open_array(target, mode="r+", device="cpu")  # noqa: E731
    seen: list[np.ndarray] = []

    def write(first: int) -> None:
        handle = again() if own else array
        for step in range(1, 5):
            handle[first::THREADS] = step * 100 + first

    def watch() -> None:
        if not shards:  # an index and its chunks are two requests
            seen.extend(array[...] for _ in range(4))

    together([*((lambda i=i: write(i)) for i in range(THREADS)), watch])
    expected = 400 + np.arange(32)[:, None] % THREADS * np.ones((1, 32), int)
    assert np.array_equal(again()[...], expected)
    assert np.array_equal(array[...], expected)
    for values in seen:
        rest = values - np.arange(32)[:, None] % THREADS
        assert set(np.unique(rest[values != 0]).tolist()) <= {100, 200, 300, 400}


def appends(target: object, own: bool) -> None:
    """Eight threads append rows and set attributes. All are there, whole, in some order."""
    array = gpuzarr.create_array(target, shape=(0, 8), dtype="i4", chunks=(3, 8), overwrite=True)

    def append(first: int) -> None:
        handle = gpuzarr.open_array(target, mode="r+", device="cpu") if own else array
        for step in range(3):
            handle.append(np.full((2, 8), 10 * first + step + 1, "i4"))
            handle.update_attributes({f"{first} {step}": step})

    together([lambda i=i: append(i) for i in range(THREADS)])
    found = gpuzarr.open_array(target, device="cpu")
    assert own or array.shape == found.shape
    assert found.shape == (THREADS * 6, 8)
    rows = found[::2, 0]
    assert np.array_equal(found[...], np.repeat(rows, 2)[:, None] * np.ones((1, 8), int))
    assert sorted(rows.tolist()) == sorted(10 * i + step + 1 for i in range(THREADS) for step in range(3))
    assert len(found.attrs) == THREADS * 3


def one_round(folder: Path, turn: int) -> None:
    """Everything once."""
    for own in (False, True):
        for target in (folder / "threads", {}):
            threads(target, None, (32, 32), own)
            threads(target, (32, 32), (8, 8), own)
            threads(target, (16, 16), (1, 16), own)
            appends(target, own)
    processes(folder, turn, None)
    processes(folder, turn, (8, 32))


def main() -> int:
    """Run `--count` rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(count):
            one_round(Path(folder), turn)
    print(f"{count} rounds, nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
