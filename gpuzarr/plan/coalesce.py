"""Near byte ranges of one object become one request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpuzarr.plan.table import ABSENT, WHOLE, Plan


def coalesce(plan: Plan, gap: int, limit: int) -> Plan:
    """Rows in the order of their bytes, divided into requests. Ranges no further apart than `gap` bytes
    share one, as long as it spans no more than `limit` bytes (a single range may)."""
    if np.all(plan.nbytes == WHOLE):
        return plan  # already one request an object, in the order of the grid
    absent = plan.nbytes == ABSENT
    order = np.lexsort((plan.start, plan.key, absent))
    plan = plan.taken(order)
    n = int(len(plan) - absent.sum())
    key, start = plan.key[:n], plan.start[:n]
    end = start + np.maximum(plan.nbytes[:n], 0)  # chunks of a shard that is fetched whole all begin at 0
    new = np.ones(n, bool)
    new[1:] = (key[1:] != key[:-1]) | (start[1:] - end[:-1] > gap)
    # Runs longer than the limit are divided where their bytes, counted from the run's start, pass a multiple
    # of it.
    run_start = start[np.flatnonzero(new)][np.cumsum(new) - 1] if n else start
    part = (end - run_start - 1) // limit
    new[1:] |= part[1:] != part[:-1]
    return replace(plan, request=np.append(np.flatnonzero(new), n).astype(np.int64))
