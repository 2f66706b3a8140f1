"""When to poll a job next, what a poll is worth and how long a job will take: looked up. Pure.

`planner` solves a plan where its curve is learned; here it is a table. All spans are seconds.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reelwatch.rules.timing.hazard import EDGES

AGES = (0.0, *(edge for edge in EDGES if edge > 0.9))  # at which plans are solved
PRICES = (1.0, 16.0, 64.0, 256.0, 1_024.0)  # times the plan's own
VERSION = 2  # of what is stored: plans of another are solved anew
STEPS = 20  # of the progress that upstream gives
ETA_JOBS = 5  # finished jobs from which on a remaining time is foretold
SLOW_JOBS = 20  # and from which on a job is called slower than 95 % of its kind


class Hint(NamedTuple):
    """What upstream said last of a running job, and at what age that was."""

    age: float
    status: str | None = None
    progress: float | None = None


class Eta(NamedTuple):
    """The remaining seconds that half, and nine of ten, such jobs will stay below.

    That was learned from `measured` ended jobs, the longest of which took `longest_seconds`. A
    remaining time that makes the job older than that is None: nothing was seen that tells of it.
    """

    p50_seconds: float | None
    p90_seconds: float | None
    slower_than_95_percent: bool
    measured: int
    longest_seconds: float


class Table(NamedTuple):
    """What goes for the jobs of a kind that are told alike, by their age in steps of `AGES`."""

    intervals: Sequence[Sequence[float]]  # until the next poll, by the steps of `PRICES`
    half: Sequence[float]  # what remains for half of them
    most: Sequence[float]  # and for nine of ten


@dataclass(frozen=True)
class Plan:
    """The best polls of one kind of job. `jobs`: how many ended ones it was learned from, and how
    many seconds the `longest` of them took.

    `price` is what a poll may cost, in seconds of delay per request.
    """

    price: float
    silent: Table  # where nothing that upstream says tells more than the age
    jobs: int = 0
    longest: float = math.inf
    slow_from: float = math.inf  # the age that only one of 20 reaches
    statuses: Mapping[str, Table] = field(default_factory=dict)
    progress: Sequence[Table] = ()  # by the step of the progress, if that tells anything

    def interval(self, hint: Hint) -> float:
        """Seconds until the next poll of a job of which upstream has just said that."""
        place, part = _place(self.silent, hint.age)
        return _between(self.table(hint).intervals[0], place, part)

    def worth(self, hint: Hint, waited: float) -> float:
        """What a poll is worth so many seconds after the last, in seconds of delay per request.

        It is the price at which now would be the best time for it: the one whose interval is what
        has been waited. Intervals go with the root of the price where the hazard is constant.
        """
        place, part = _place(self.silent, hint.age)
        intervals = self.table(hint).intervals
        before, at = 0.0, 1.0
        for price, row in zip(PRICES, intervals, strict=True):
            interval = _between(row, place, part)
            if waited <= interval and not before:
                return self.price * price * (waited / interval) ** 2
            if before < waited <= interval:
                share = math.log(waited / before) / math.log(interval / before)
                return self.price * at * math.pow(price / at, share)
            if interval > before:
                before, at = interval, price
        return self.price * at * (waited / before) ** 2

    def eta(self, hint: Hint) -> Eta | None:
        """What remained for a job when upstream said that; None while too few have ended.

        The curve goes on beyond the longest that was measured, since a poll must come some time:
        by a prior and by nothing that anybody has seen. No remaining time is made of that.
        """
        if self.jobs < ETA_JOBS:
            return None
        place, part = _place(self.silent, hint.age)
        table = self.table(hint)
        half, most = (
            left if hint.age + left <= self.longest else None
            for left in (_between(row, place, part) for row in (table.half, table.most))
        )
        slow = self.jobs >= SLOW_JOBS and hint.age > self.slow_from
        return Eta(half, most, slow, self.jobs, self.longest)

    def table(self, hint: Hint) -> Table:
        """The one that goes for jobs of which upstream says that."""
        if hint.progress is not None and self.progress:
            return self.progress[min(STEPS - 1, max(0, int(hint.progress * STEPS)))]
        return self.statuses.get(hint.status or "", self.silent)

    def to_json(self) -> dict[str, Any]:
        """For the database; `from_json` reads it."""
        return {
            "version": VERSION,
            "price": self.price,
            "jobs": self.jobs,
            "longest": self.longest,
            "slow_from": self.slow_from,
            "silent": _numbers(self.silent),
            "statuses": {status: _numbers(table) for status, table in self.statuses.items()},
            "progress": [_numbers(table) for table in self.progress],
        }


def from_json(body: Mapping[str, Any]) -> Plan | None:
    """A stored plan; None for one of another release, or for what is none."""
    if body.get("version") != VERSION:
        return None
    return Plan(
        body["price"],
        _table(body["silent"]),
        body["jobs"],
        body["longest"],
        body["slow_from"],
        {status: _table(rows) for status, rows in body["statuses"].items()},
        [_table(rows) for rows in body["progress"]],
    )


def _place(table: Table, age: float) -> tuple[int, float]:
    """Where in a table's rows an age lies: the step before it, and the part of the way on."""
    last = len(table.half) - 1
    place = bisect_right(AGES, age, 0, last + 1) - 1
    if place >= last:
        return last, 0.0
    return place, (age - AGES[place]) / (AGES[place + 1] - AGES[place])


def _between(row: Sequence[float], place: int, part: float) -> float:
    return row[place] + part * (row[place + 1] - row[place]) if part else row[place]


def _numbers(table: Table) -> list[list[float]]:
    rows = (*table.intervals, table.half, table.most)
    return [[float(f"{number:.4g}") for number in row] for row in rows]


def _table(rows: Sequence[Iterable[float]]) -> Table:
    """Arrays of small numbers: a process keeps many plans."""
    *intervals, half, most = (array("f", row) for row in rows)
    return Table(intervals, half, most)
