"""How far an epoch has come, and whether the loader keeps up: batches, patches a second, share of waiting."""

from __future__ import annotations

from typing import TextIO

from gpuzarr.loading.stats import LoaderStats
from gpuzarr.progress import Meter, clock


class Bar(Meter):
    """A Meter that counts batches. Call it with those done of an epoch, and those there are."""

    def __init__(
        self, batch_size: int, stats: LoaderStats, stream: TextIO | None = None, *, plain: bool = False
    ) -> None:
        super().__init__("epoch 0", stream, plain=plain)
        self._batch_size, self._stats = batch_size, stats

    def begin(self, epoch: int) -> None:
        """Another epoch: the rate is that of this one alone."""
        self.label = f"epoch {epoch}"
        self._seen.clear()
        if self._task is not None:
            self._bar.update(self._task, description=self.label)

    def _texts(self, done: int, total: int) -> tuple[str, str]:
        amount = f"{done:,} of {total:,} batches"
        (began, before), (now, _) = self._seen[0], self._seen[-1]
        waited = f"waited {100 * self._stats.waited:.1f} %"
        if now - began < 0.2 or done <= before:
            return amount, waited
        rate = (done - before) / (now - began)
        return (
            amount,
            f"{rate * self._batch_size:,.0f} patches/s  {clock((total - done) / rate)} left  {waited}",
        )
