"""The process's worker threads."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuzarr import config
from gpuzarr.engine.scratch import own_scratch

if TYPE_CHECKING:  # imported when the first read needs threads: it costs as much as the rest of gpuzarr
    from concurrent.futures import Future, ThreadPoolExecutor

_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # process, threads, pool
_pool_lock = threading.Lock()
_local = threading.local()


def pool() -> ThreadPoolExecutor:
    """The pool, made anew after a fork or a change of settings."""
    global _pool
    threads = config.current().threads
    with _pool_lock:
        from concurrent.futures import ThreadPoolExecutor

        if _pool is None or _pool[:2] != (os.getpid(), threads):
            mark = lambda: setattr(_local, "worker", True)  # noqa: E731
            _pool = (os.getpid(), threads, ThreadPoolExecutor(threads, "gpuzarr", mark))
        return _pool[2]


def on_worker() -> bool:
    """Whether the calling thread is one of the pool's, which must not wait for others of it."""
    return getattr(_local, "worker", False)


def run_all(tasks: list[Callable[[], None]]) -> None:
    """Run tasks on the calling thread and the pool's. The first error stops the rest and is raised; nothing
    runs any more once this returns or raises."""
    turn = itertools.count()
    failed: list[BaseException] = []

    def work() -> None:
        with own_scratch():
            while not failed and (i := next(turn)) < len(tasks):
                try:
                    tasks[i]()
                except BaseException as error:
                    failed.append(error)

    futures: list[Future[None]] = []
    try:
        helpers = 0 if on_worker() else min(config.current().threads, len(tasks)) - 1
        for _ in range(helpers):
            futures.append(pool().submit(work))
    except RuntimeError:
        pass  # the interpreter shuts down and starts no thread any more: the caller's does it all
    try:
        work()
        for future in futures:
            if not future.cancel():  # those that have not begun have nothing left to do
                future.result()
    except BaseException as error:  # Ctrl-C while waiting
        failed.append(error)
        for future in futures:
            future.cancel() or future.exception()
    if failed:
        raise failed[0]


def _child() -> None:
    """A forked child has none of the threads that may hold the lock."""
    global _pool_lock
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
