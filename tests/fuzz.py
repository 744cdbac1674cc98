"""Input that lies, at random: small arrays are damaged, opened and read, and nothing but a gpuzarr error may
come of it.

    python -m tests.fuzz [--seconds 120] [--seed N] [--case N [--count N]] [--device cpu|sim|both]

A case is one array of the set (`tests.fuzz_samples`), damaged in one to three places: bits flipped, bytes cut
off, repeated, exchanged or made into large numbers; in metadata documents also values replaced, keys dropped,
doubled or renamed. It is opened and read whole and in parts; a device must do with it what the host does.
Cases run in a worker process whose address space is limited; a watchdog ends a case that hangs; a crash is
reported with the number that reproduces it. What decodes to other values is no violation unless every byte of
the array lies under a checksum. Exit status 1: there was a violation.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import io
import json
import multiprocessing
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import gpuzarr
from gpuzarr.errors import GpuzarrError, NotFoundError
from gpuzarr.store.zip import ZipStore
from tests.fuzz_samples import Sample, samples

HANG = 20  # seconds that one case may take
ROOM = 3 << 30  # address space of the worker, beyond what it starts with
GROWTH = 256 << 20  # resident bytes that one case may add to the worker's peak
BIG = [
    0,
    1,
    -1,
    2,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    10**30,
]
JUNK = [
    None,
    True,
    False,
    "",
    "x",
    "NaN",
    "0x7fc00000",
    "\ud800",
    "../x",
    "/etc/passwd",
    0.5,
    1e308,
    float("nan"),
]
JUNK += [
    float("inf"),
    -1.0,
    [],
    {},
    [[]],
    [None],
    {"name": "x"},
    [2**62] * 3,
    [1] * 40,
    [[["a", "<i4"]]],
    "pickle",
]


def damage_bytes(stored: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, exchange, or write a large number."""
    held = bytearray(stored)
    at, upto = sorted((rng.randrange(len(held) + 1), rng.randrange(len(held) + 1)))
    kind = rng.randrange(8)
    if kind <= 1 and held:
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del held[at:]
    elif kind == 3:
        del held[at : min(upto, at + 16)]
    elif kind == 4:
        held[at:at] = held[at:upto] or bytes(rng.randrange(1, 9))
    elif kind == 5:
        held += bytes(rng.randbytes(rng.randrange(1, 20)))
    elif kind == 6 and held:
        near = rng.choice((0, max(len(held) - 40, 0), at))
        width = rng.choice((1, 2, 4, 8))
        held[near + rng.randrange(20) :][:width] = b""
        place = min(near + rng.randrange(20), len(held))
        held[place : place + width] = (rng.choice(BIG) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    elif held:
        held[at : at + 8] = rng.randbytes(len(held[at : at + 8]))
    return bytes(held)


def damage_document(stored: bytes, rng: random.Random) -> bytes:
    """Change one value or key of a JSON document; now and then its text, or its nesting."""
    if rng.random() < 0.15:
        return damage_bytes(stored, rng)
    document = json.loads(stored)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(document)
    if not places:
        return damage_bytes(stored, rng)
    node, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0 and isinstance(node, dict):
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice([key + "x", key[:-1], "must_understand", "name"])] = node.pop(key)
    elif kind == 2 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]) if rng.random() < 0.5 else rng.choice(BIG))
    elif kind == 3 and isinstance(node, list):
        rng.shuffle(node)
    elif kind == 4:
        there, its = rng.choice(places)
        node[key] = copy.deepcopy(there[its])
    elif kind == 5:
        node[key] = rng.choice(BIG)
    else:
        node[key] = rng.choice(JUNK)
    text = json.dumps(document)
    if rng.random() < 0.02:
        text = text.replace(": ", ": " + "[" * 3000, 1)
    return text.encode("utf-8", "surrogatepass")


def is_document(key: str) -> bool:
    return key.rpartition("/")[2] in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def damaged(sample: Sample, rng: random.Random) -> tuple[dict[str, bytes], bool]:
    """The objects after one to three accidents, and whether a document is among them."""
    objects, documents = dict(sample.objects), False
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        keys = sorted(objects)
        chosen = [key for key in keys if is_document(key) == (rng.random() < 0.5)] or keys
        key = rng.choice(chosen)
        if is_document(key):
            documents = True
            try:
                objects[key] = damage_document(objects[key], rng)
            except (ValueError, RecursionError):  # an earlier accident left no JSON
                objects[key] = damage_bytes(objects[key], rng)
        else:
            objects[key] = damage_bytes(objects[key], rng)
    return objects, documents


def some_key(shape: tuple[int, ...], rng: random.Random) -> Any:
    """Integers, slices and index arrays that fit `shape`."""
    items: list[Any] = []
    for length in shape:
        low = rng.randrange(max(length, 1))
        near = slice(low, min(low + rng.randrange(1, 20), length), rng.choice((None, 1, 2, 3)))
        few = [rng.randrange(length) for _ in range(3)] if length else near
        items.append(rng.choice((near, near, low if length else near, few)))
    return tuple(items)


def read(objects: dict[str, bytes], device: str, rng: random.Random) -> list[Any]:
    """Open, and read parts and, where that is not large, everything."""
    archive = objects.get("archive.zip")
    try:
        target = objects if archive is None else ZipStore(lambda: io.BytesIO(archive), "memory.zip")
    except GpuzarrError as error:  # of no array yet
        raise error.located(array="memory.zip") from error
    node = gpuzarr.open(target, device=device)
    if isinstance(node, gpuzarr.Group):
        dict(node.attrs), node.tree()
        node = node["a"]
    if isinstance(node, gpuzarr.Group):
        return []
    repr(node), node.attrs, node.dimension_names, node.shards, node.fill_value, node.nbytes, node.size
    results = [node.read(some_key(node.shape, rng)) for _ in range(2)]
    if node.nbytes < 16 << 20:
        results.append(node[...])
    str(node.explain(some_key(node.shape, rng)))
    return [one.get() if hasattr(one, "get") else np.asarray(one) for one in results]


def by_codecs(objects: dict[str, bytes], picked: int) -> list[Any]:
    """The same on the host without its compiled core."""
    with gpuzarr.configured(native=0):
        return read(objects, "cpu", random.Random(picked))


def same(found: list[Any], expected: list[Any]) -> bool:
    """Whether two reads gave the same types, shapes and bits."""
    return len(found) == len(expected) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and (repr(a) == repr(b) if a.dtype.kind in "OT" else a.tobytes() == b.tobytes())
        for a, b in zip(found, expected, strict=True)
    )


def _check(error: GpuzarrError) -> None:
    """What every error says: what and where, in a message that can be printed."""
    text = str(error)
    text.encode()
    assert error.what.strip(), f"{type(error).__name__} without a word"
    assert error.array or isinstance(error, NotFoundError), f"no array in {type(error).__name__}: {text}"
    assert len(text) < 4000, f"a message of {len(text)} characters"


def run_case(seed: int, device: str) -> str:
    """The outcome of one case. An AssertionError or any error that is not gpuzarr's is a violation."""
    rng = random.Random(seed)
    sample = rng.choice(samples())
    objects, documents = damaged(sample, rng)
    picked = rng.randrange(1 << 30)
    try:
        found = read(objects, device, random.Random(picked))
        # What the codecs refuse, the host core and a device refuse, and they agree on the rest.
        assert same(found, by_codecs(objects, picked)), f"{device} and the codecs differ"
    except GpuzarrError as error:
        try:
            by_codecs(objects, picked)
        except GpuzarrError:
            pass
        else:
            raise AssertionError(f"an error on {device} alone: {error}") from error
        _check(error)
        return type(error).__name__
    try:
        expected = read(sample.objects, device, random.Random(picked))
    except (GpuzarrError, IndexError, ValueError):
        return "other metadata"
    if same(found, expected):
        return "equal"
    assert documents or not sample.sealed, "damage under a checksum went unseen"
    return "other metadata" if documents else "other values"


def worker(pipe: Connection, device: str, first: int, step: int) -> None:
    """Cases until killed: (case,) before each one, (case, outcome, violation) after it."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for sample in samples():  # before the limit: libraries load, kernels compile
        read(sample.objects, device, random.Random(1))
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))
    case = first
    while True:
        pipe.send((case,))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        violation = None
        try:
            outcome = run_case(case, device)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                return
            outcome = f"VIOLATION {type(error).__name__}"
            violation = "".join(traceback.format_exception(error)[-4:])[-3000:]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        if grown > GROWTH:
            outcome, violation = "VIOLATION memory", f"the peak grew by {grown >> 20} MiB"
        pipe.send((case, outcome, violation))
        case += step


def fuzz(
    seconds: float, seed: int, devices: list[str], report: Callable[[str], None], cases: int | None = None
) -> tuple[Counter[str], list[str]]:
    """Run a worker for each device in turns; counts by outcome, and the violations."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    violations: list[str] = []
    for turn, device in enumerate(devices):
        at = seed * 1_000_000 + turn * 500_000
        end: float | None = None
        done = 0
        while True:
            pipe, theirs = context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(theirs, device, at, 1), daemon=True)
            process.start()
            theirs.close()
            current, fault = at, ""
            patience = 300.0  # the start compiles kernels
            while not fault:
                if not pipe.poll(patience):
                    fault = "VIOLATION hang" if patience == HANG else "VIOLATION no start"
                    break
                try:
                    message = pipe.recv()
                except EOFError:
                    fault = "VIOLATION crash" if patience == HANG else "VIOLATION no start"
                    break
                patience = HANG
                end = end or time.monotonic() + seconds / len(devices)
                current = message[0]
                if len(message) == 3:
                    done += 1
                    counts[message[1]] += 1
                    if message[2]:
                        violations.append(f"{message[1]}: --case {current} --device {device}\n{message[2]}")
                        report(violations[-1])
                    if time.monotonic() > end or (cases is not None and done >= cases):
                        break
            process.kill()
            process.join()
            if not fault:
                break
            counts[fault] += 1
            done += 1
            violations.append(f"{fault} ({process.exitcode}): --case {current} --device {device}")
            report(violations[-1])
            if "start" in fault or (end and time.monotonic() > end):
                break
            at = current + 1
        report(f"{device}: {done} cases in {seconds / len(devices):.0f} s" if turn >= 0 else "")
    return counts, violations


def main() -> int:
    """Fuzz, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--case", type=int, help="run this one case here, without a limit")
    parser.add_argument("--count", type=int, default=1, help="and those behind it, until there were so many")
    parser.add_argument("--device", choices=("cpu", "sim", "both"), default="both")
    options = parser.parse_args()
    devices = ["cpu", "sim"] if options.device == "both" else [options.device]
    if options.case is not None:
        faulthandler.enable()
        if options.count > 1:
            for device in devices:
                cases = range(options.case, options.case + options.count)
                print(device, dict(Counter(run_case(case, device) for case in cases)))
            return 0
        for device in devices:
            rng = random.Random(options.case)
            sample = rng.choice(samples())
            objects, _ = damaged(sample, rng)
            for key, stored in objects.items():
                if stored != sample.objects[key]:
                    print(
                        f"{sample.name} {key}\n  was {sample.objects[key][:2000]!r}\n  is  {stored[:2000]!r}"
                    )
            print(device, run_case(options.case, device))
        return 0
    start = time.monotonic()
    print(f"seed {options.seed}, {len(samples())} arrays, {sys.version.split()[0]}")
    counts, violations = fuzz(
        options.seconds,
        options.seed,
        devices,
        lambda line: print(line.encode(errors="backslashreplace").decode(), flush=True),
    )
    total = sum(counts.values())
    for outcome, count in counts.most_common():
        print(f"{count:>8}  {outcome}")
    print(f"{total} cases, {total / (time.monotonic() - start):.0f} a second, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
