"""Range requests through a proxy that breaks most of them: `python -m tests.soak [--count 20000]`.

Each of thirteen faults befalls 5 % of the requests. Every answer has to be right to the last byte, or one
clear error within the deadline; nothing hangs, and memory does not grow. Half of the requests come one by one
from many threads, half in batches.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Request, Store
from gpuzarr.store.urls import open_store
from tests.servers.faults import Times
from tests.servers.proxy import FaultProxy
from tests.servers.ranges import RangeServer

FAULTS = (
    *("reset_before", "stall", "slow", "429_after", "500", "503", "408"),
    *("reset_body", "cut", "cut_chunked", "content_range", "whole", "longer"),
)
TIMEOUT_S, DEADLINE_S = 0.4, 20.0
BATCH, THREADS = 50, 48


@dataclass
class Outcome:
    """What came of the requests."""

    right: int = 0
    errors: int = 0
    wrong: list[str] = field(default_factory=list)
    """What should never be."""
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    grown_mib: float = 0.0
    tries: int = 0


def soak(
    count: int, seed: int = 0, share: float = 0.05, scheme: str = "http", backend: str = "obstore"
) -> Outcome:
    """Send `count` requests."""
    rng = random.Random(seed)
    objects = _objects(seed)
    found = Outcome()
    ours, theirs = multiprocessing.Pipe()
    # In a process of their own, whose memory is not ours.
    servers = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, seed, share), daemon=True
    )
    servers.start()
    try:
        url = ours.recv()
        options = {"timeout": TIMEOUT_S, "deadline": DEADLINE_S, "backend": backend}
        if scheme == "s3":
            options |= {"endpoint_url": url, "key": "key", "secret": "not-shown"}
        store = open_store("s3://bucket" if scheme == "s3" else f"{url}/bucket", options)
        requests = [_drawn(rng, objects) for _ in range(count)]
        alone, together = requests[: count // 2], requests[count // 2 :]
        batches = [together[i : i + BATCH] for i in range(0, len(together), BATCH)]
        with ThreadPoolExecutor(THREADS) as threads:
            work = [[one] for one in alone] + batches
            random.Random(seed).shuffle(work)
            warm = max(len(work) // 5, 1)
            for part in (work[:warm], work[warm:]):
                before = _memory_mib()
                list(threads.map(lambda one: _ask(store, objects, one, found), part))
        found.grown_mib = _memory_mib() - before
        ours.send("done")
        found.tries, found.faults = ours.recv()
    finally:
        servers.terminate()
        servers.join()
    return found


def _serve(pipe: Connection, seed: int, share: float) -> None:
    """The server and the proxy before it, until told to end."""
    with (
        RangeServer(_objects(seed), s3=True) as server,
        FaultProxy(server.url, dict.fromkeys(FAULTS, share), seed=seed, times=Times(stall=5.0)) as proxy,
    ):
        server.keep = False
        pipe.send(proxy.url)
        pipe.recv()
        pipe.send((len(proxy.log), Counter(one.fault for one in proxy.log if one.fault is not None)))


def _objects(seed: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    return {f"bucket/object-{i}": rng.randbytes(60_000 + i) for i in range(12)}


def _drawn(rng: random.Random, objects: dict[str, bytes]) -> Request:
    key = rng.choice(sorted(objects))
    nbytes = len(objects[key])
    start = rng.choice([rng.randrange(nbytes), -rng.randrange(1, nbytes), 0])
    length = rng.choice([rng.randrange(1, 5000), rng.randrange(1, 5000), None, nbytes])
    if start < 0 and length is not None:
        length = min(length, -start)
    return Request(key.removeprefix("bucket/"), start, length)


def _ask(store: Store, objects: dict[str, bytes], requests: list[Request], found: Outcome) -> None:
    began = time.monotonic()
    try:
        answers = store.get_ranges(requests)
    except StoreError as error:
        found.errors += 1
        found.said[str(error).partition(": ")[2][:70]] += 1
        if "cannot read object-" not in str(error) or "tried" not in str(error) or "not-shown" in str(error):
            found.wrong.append(f"an error that says too little: {error}")
    except BaseException as error:
        found.wrong.append(f"{type(error).__name__}: {error}")
    else:
        for request, answer in zip(requests, answers, strict=True):
            whole = objects[f"bucket/{request.key}"]
            start = max(request.start + len(whole), 0) if request.start < 0 else request.start
            end = None if request.nbytes is None else start + request.nbytes
            if answer is None or bytes(answer) != whole[start:end]:
                found.wrong.append(f"wrong bytes for {request}")
        found.right += len(requests)
    spent = time.monotonic() - began
    found.slowest = max(found.slowest, spent)
    # Requests wait for one another before their own time begins.
    if spent > 3 * DEADLINE_S:
        found.wrong.append(f"{spent:.0f} s for {requests[0]}")


def _memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> int:
    """Print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheme", choices=("http", "s3"), default="http")
    parser.add_argument("--backend", choices=("obstore", "fsspec"), default="obstore")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = soak(arguments.count, arguments.seed, scheme=arguments.scheme, backend=arguments.backend)
    spent = time.monotonic() - began
    print(f"{arguments.count} requests in {spent:.0f} s: {found.right} right, {found.errors} errors")
    print(f"{found.tries} tries, {sum(found.faults.values())} faults: {dict(found.faults)}")
    print(f"slowest {found.slowest:.1f} s of {DEADLINE_S:g}, memory grew by {found.grown_mib:.1f} MiB")
    for said, times in found.said.most_common(8):
        print(f"{times} × {said}")
    for one in found.wrong[:20]:
        print("WRONG:", one)
    return 1 if found.wrong or found.grown_mib > 64 else 0


if __name__ == "__main__":
    sys.exit(main())
