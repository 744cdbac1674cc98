"""Writers are killed at random moments: `python -m tests.kills [--count 200]`.

A child process writes, appends or resizes in an endless loop and says when it has begun; then it gets
SIGKILL. Behind it every array has to open, here and in zarr-python; every chunk is the old one or a new one,
never torn; appended rows are there once the shape says so; and what a dead writer leaves behind is in
nobody's way.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gpuzarr

SIDE, CHUNK = 24, 8
LAYOUTS = {"chunks": None, "shards": (16, 16)}
KINDS = ("write", "part", "append", "resize", "overwrite")
_CODECS = ["zstd", "crc32c"]


def child(kind: str, path: str) -> None:
    """Change the array until killed. Every chunk always holds one number, the step of the write."""
    array = gpuzarr.open_array(path, mode="r+", device="cpu")
    print("begun", flush=True)
    for step in range(2, 1 << 30):
        if kind == "write":
            array[...] = step
        elif kind == "part":  # upper halves of chunks, of which one shard has many
            for low in range(0, SIDE, CHUNK):
                array[low : low + CHUNK // 2] = step
        elif kind == "append":
            array.append(np.full((5, SIDE), 1000 + array.shape[0], array.dtype))
        elif kind == "resize":
            array.resize((SIDE - step % 3 * 5, SIDE + step % 2 * 9))
        else:
            array = gpuzarr.save(
                path,
                np.full((SIDE, SIDE), step, np.int32),
                chunks=(CHUNK, CHUNK),
                shards=array.shards,
                codecs=_CODECS,
                overwrite=True,
            )


def kill_once(kind: str, layout: str, after: float, folder: Path) -> str | None:
    """Kill one writer `after` seconds behind its first words; what is wrong then, if anything is."""
    path = folder / f"{kind}-{layout}"
    shards = LAYOUTS[layout]
    gpuzarr.save(
        path,
        np.ones((SIDE, SIDE), np.int32),
        chunks=(CHUNK, CHUNK),
        shards=shards,
        codecs=_CODECS,
        overwrite=True,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kills", "--child", kind, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.kill()
    process.wait()
    process.stdout.close()
    return wrong(kind, path)


def wrong(kind: str, path: Path) -> str | None:
    """What is wrong with an array whose writer was killed."""
    import zarr  # not in the child, which should begin soon

    try:
        array = gpuzarr.open_array(path, mode="r+", device="cpu")
    except gpuzarr.GpuzarrError as error:
        if kind == "overwrite" and not any((path / name).exists() for name in ("zarr.json",)):
            gpuzarr.create_array(path, shape=(SIDE, SIDE), dtype="i4", chunks=(CHUNK, CHUNK), fill_value=7)
            fresh = gpuzarr.load(path, device="cpu")
            return None if (fresh == 7).all() else "chunks of a dead writer came back"
        return f"does not open: {error}"
    values = array[...]
    if not np.array_equal(values, zarr.open_array(path, mode="r")[...]):
        return "zarr-python reads something else"
    if kind in ("write", "part", "overwrite"):
        half = CHUNK // 2 if kind == "part" else CHUNK
        for row in range(0, SIDE, half):
            for column in range(0, SIDE, CHUNK):
                if len(np.unique(values[row : row + half, column : column + CHUNK])) != 1:
                    return f"chunk {row // CHUNK}, {column // CHUNK} is torn"
    if kind == "append":
        expected = np.ones((array.shape[0], SIDE), np.int32)
        for low in range(SIDE, array.shape[0], 5):
            expected[low : low + 5] = 1000 + low
        if not np.array_equal(values, expected):
            return "appended rows are missing or wrong"
    if kind == "resize" and not set(np.unique(values).tolist()) <= {0, 1}:
        return "values that nobody wrote"
    return _goes_on(kind, path, array, values)


def _goes_on(kind: str, path: Path, array: gpuzarr.Array, values: np.ndarray) -> str | None:
    """The next one who writes, grows or lists sees nothing of the dead one."""
    rows, columns = array.shape
    array.resize((rows + 9, columns + 9))
    grown = np.zeros((rows + 9, columns + 9), np.int32)
    grown[:rows, :columns] = values
    if not np.array_equal(array[...], grown):
        return "what a dead writer left comes back when the array grows"
    array[...] = 3
    group = gpuzarr.open(path.parent) if (path.parent / "zarr.json").exists() else None
    if group is not None and path.name not in group:
        return "the group does not list it"
    listed = {key.split("/")[0] for key in array.store.list()}
    return None if listed <= {"c", "zarr.json"} else f"litter is listed: {listed}"


def main() -> int:
    """Kill `--count` writers at random moments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "PATH"))
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
    random_ = random.Random(arguments.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        gpuzarr.create_group(folder)
        for turn in range(arguments.count):
            kind, layout = KINDS[turn % len(KINDS)], list(LAYOUTS)[turn // len(KINDS) % 2]
            after = random_.random() ** 2 * 0.2
            what = kill_once(kind, layout, after, Path(folder))
            if what:
                bad += 1
                print(f"{kind}, {layout}, killed after {after:.4f} s: {what}")
    print(f"{arguments.count} writers killed, {bad} left damage")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
