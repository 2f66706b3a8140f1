"""Which of the jobs that are due go first when not all can. Pure.

A job is a row under the names of `COLUMNS`.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import nlargest
from typing import Any

from reelwatch.rules.status import State
from reelwatch.rules.timing.remaining import last_said
from reelwatch.rules.timing.schedule import Plans

COLUMNS = (
    "id", "model", "state", "upstream_status", "progress", "progress_at", "tracked_at",
    "upstream_created_at", "last_polled_at", "next_poll_at", "deadline_at", "resultless_since",
)  # fmt: skip


def first(
    rows: Iterable[Mapping[str, Any]], count: int, plans: Plans, now: datetime
) -> tuple[list[int], float]:
    """The ids of the `count` rows whose looks are worth most, the best first.

    And what the last of them is worth, in seconds of delay. Of equal rows those that come first.
    """
    best = nlargest(count, ((gain(row, plans, now), row["id"]) for row in rows), key=_worth)
    return [job_id for _, job_id in best], best[-1][0] if best else 0.0


def _worth(ranked: tuple[float, int]) -> float:
    return ranked[0]


def gain(row: Mapping[str, Any], plans: Plans, now: datetime) -> float:
    """What a look at this job is worth now, in seconds of delay, as `Plans.gain` has it.

    Infinite for a job whose deadline has passed: that is to be told, and no plan knows of it. But
    only once. That poll may be lost, and the next ones as well: then what counts is how long it is
    due.
    """
    if row["deadline_at"] <= now and row["state"] != State.EXPIRED:
        late = (now - row["next_poll_at"]).total_seconds()
        return math.inf if row["next_poll_at"] <= row["deadline_at"] else late
    said, since = last_said(row, now)
    if row["resultless_since"] is not None:  # it has ended: every second counts
        return since
    return plans.gain(row["model"], said, said.age + since)
