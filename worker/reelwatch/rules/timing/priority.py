"""Which of the jobs that are due go first when not all can. Pure.

A job is a row under the names of `COLUMNS`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from reelwatch.rules.states import State
from reelwatch.rules.timing.eta import last_said
from reelwatch.rules.timing.planner import Plans

COLUMNS = (
    "id", "model", "state", "upstream_status", "progress", "progress_at", "tracked_at",
    "upstream_created_at", "last_polled_at", "next_poll_at", "deadline_at", "resultless_since",
)  # fmt: skip


@dataclass(slots=True)
class Order:
    """Whose polls are worth most, as it was found out a moment ago: several claims go by it.

    To rank hundreds of jobs takes longer than to claim and to poll some of them, and within a
    second it changes little.
    """

    ranked: Sequence[tuple[int, float]] = ()  # ids and worth, the best first
    until: datetime | None = None

    def holds(self, count: int, now: datetime) -> bool:
        """Is it still good for a claim of so many, with at least one left over?"""
        return self.until is not None and now < self.until and len(self.ranked) > count

    def take(self, count: int) -> tuple[list[int], float]:
        """The ids of the next so many, and what the last of them is worth; they are left out
        from then on.
        """
        taken, self.ranked = self.ranked[:count], self.ranked[count:]
        return [job_id for job_id, _ in taken], taken[-1][1] if taken else 0.0


def best_first(
    rows: Iterable[Mapping[str, Any]], plans: Plans, now: datetime
) -> list[tuple[int, float]]:
    """The rows' ids with what a poll of each is worth, in seconds of delay, the best first.

    Of equal rows those that come first.
    """
    found = [(row["id"], gain(row, plans, now)) for row in rows]
    return sorted(found, key=itemgetter(1), reverse=True)


def gain(row: Mapping[str, Any], plans: Plans, now: datetime) -> float:
    """What a poll of this job is worth now, in seconds of delay, as `Plan.worth` has it.

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
    return plans.plan(row["model"]).worth(said, since)
