"""Regions of a copy, several in flight, finished on the thread that asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from gpuzarr import config
from gpuzarr.engine.workers import on_worker, pool

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


def run_each(
    regions: Iterator[int], run: Callable[[int], None], finished: Callable[[int], None], many: int
) -> None:
    """Run regions, `many` at once, and say on this thread which are finished. The first error, or Ctrl-C,
    lets those that run come to their end, starts no more, and is raised."""
    if many == 1 or on_worker():
        for region in regions:
            run(region)
            finished(region)
        return
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

    with ExitStack() as stack:
        # On the pool's own threads a read asks no others for help. Where there are fewer regions than
        # threads, they run beside the pool, whose threads help them all.
        shared = many == config.current().threads
        threads: Executor = (
            pool() if shared else stack.enter_context(ThreadPoolExecutor(many, "gpuzarr-copy"))
        )
        running: dict[Future[None], int] = {}
        try:
            left = True
            while left or running:
                while left and len(running) < many:
                    following = next(regions, None)
                    left = following is not None
                    if following is not None:
                        running[threads.submit(partial(run, following))] = following
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    region = running.pop(future)
                    future.result()
                    finished(region)
        except BaseException:
            for future in running:
                future.cancel()
            wait(running)
            for future, region in running.items():
                if not future.cancelled() and future.exception() is None:
                    finished(region)
            raise
