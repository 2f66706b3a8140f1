"""Five ways to track the same jobs, side by side: requests, delay and processor time of each.

Each gets the same 80 jobs and runs alone; no rate limit binds. The peers poll every 10 s (the
chain that grows: from 5 s to 60 s), Reelwatch between 5 s and 60 s, as its schedule wants. All
spans are divided by one factor.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import mean

from benchmarks import trackers
from benchmarks.courses import courses, instant
from benchmarks.result import Row
from benchmarks.trackers import Cost, Meter, Tracker
from benchmarks.upstream import Note, Upstream, upstream
from reelwatch.rules.timing.pace import TARGET_DELAY
from tests.servers import eventually

GOAL = "approaches"
INTERVAL = 10.0
POLL_MIN, POLL_MAX = 5.0, 60.0


@dataclass(frozen=True)
class Plan:
    """Sizes and spans; `seconds` is before the factor."""

    scale: float
    jobs: int
    seconds: float


FULL = Plan(10.0, 80, 400.0)
QUICK = Plan(40.0, 10, 80.0)


@dataclass(frozen=True)
class Result:
    """What one of them came to."""

    notes: list[Note]
    cost: Cost
    cut_at: float

    @property
    def polls(self) -> int:
        """Requests in all."""
        return sum(note.polls for note in self.notes)

    def delay(self, scale: float) -> float:
        """Mean seconds, before the factor, from an end to the answer that told of it."""
        ended = [note for note in self.notes if note.ends_at < self.cut_at]
        return scale * mean((note.told_at or self.cut_at) - note.ends_at for note in ended)


def rows(quick: bool) -> list[Row]:
    """Each approach in its turn; a quick run has only those that no other benchmark starts."""
    plan, asked = QUICK if quick else FULL, upstream()
    chosen = list(_all(plan, asked))
    if quick:
        chosen = chosen[3:]
    return [row for starting in chosen for row in _rows(plan, asked, starting)]


def _all(plan: Plan, asked: Upstream) -> Iterator[AbstractContextManager[Tracker]]:
    interval = INTERVAL / plan.scale
    yield _reelwatch(asked, plan)
    yield trackers.naive_celery(asked, interval)
    yield trackers.retry_chain(asked, interval, "fixed")
    yield trackers.retry_chain(asked, interval, "exponential")
    if find_spec("dbos"):
        yield trackers.dbos(asked, interval)


def _reelwatch(asked: Upstream, plan: Plan) -> AbstractContextManager[Tracker]:
    return trackers.reelwatch(
        asked,
        REELWATCH_REQUESTS_PER_SECOND="1000",
        REELWATCH_POLL_MIN=str(POLL_MIN / plan.scale),
        REELWATCH_POLL_MAX=str(POLL_MAX / plan.scale),
        REELWATCH_TARGET_DELAY=str(TARGET_DELAY / plan.scale),
    )


def _rows(plan: Plan, asked: Upstream, starting: AbstractContextManager[Tracker]) -> Iterator[Row]:
    with starting as tracker:
        result = _run(plan, asked, tracker)
    said = (
        f"{result.polls} polls; {1000 * result.cost.tracker / plan.jobs:.0f} ms a job; "
        f"a poll costs the database {1000 * result.cost.database / result.polls:.2f} ms, "
        f"the broker {1000 * result.cost.broker / result.polls:.2f} ms"
    )
    ms, name = 1000 * result.cost.tracker / result.polls, tracker.name
    note = f"run {plan.scale:g} times as fast"
    yield Row(GOAL, f"{name}: polls per job", result.polls / plan.jobs, "", None, "lower", note)
    yield Row(GOAL, f"{name}: mean delay", result.delay(plan.scale), "s", None, "lower", note)
    yield Row(GOAL, f"{name}: CPU per poll", ms, "ms", None, "lower", said)


def _run(plan: Plan, asked: Upstream, tracker: Tracker) -> Result:
    _warm_up(asked, tracker)
    prefix = f"{tracker.slug}-of-five-"
    given = courses(plan.jobs, 23, plan.scale, prefix, statuses=True)
    meter = Meter(*tracker.pids)
    asked.begin(given)
    tracker.take([course.video_id for course in given])
    time.sleep(plan.seconds / plan.scale)
    tracker.check()
    eventually(lambda: any(note.polls for note in asked.notes(prefix)), 60, "a poll of any job")
    return Result(asked.notes(prefix), meter.read(), time.time())


def _warm_up(asked: Upstream, tracker: Tracker) -> None:
    """What each process does once, first connections say, is not counted."""
    prefix = f"{tracker.slug}-warm-up-"
    first = instant(8 * trackers.CONCURRENCY, prefix)
    asked.begin(first)
    tracker.take([course.video_id for course in first])
    eventually(lambda: all(n.webhooks for n in asked.notes(prefix)), 60, "all have ended")
