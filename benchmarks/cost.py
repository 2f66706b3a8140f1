"""What a poll costs: processor time of Reelwatch, of a naive Celery, and of nothing but asking.

Broker and database are counted apart. All ask the same upstream about the same jobs, over
PostgreSQL and Redis, within the same rate limit; both trackers log warnings only. Flat out,
Reelwatch writes its line per poll, as it does by default.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks import trackers
from benchmarks.courses import endless
from benchmarks.result import Row
from benchmarks.trackers import Cost, Meter, Tracker
from benchmarks.upstream import Upstream, upstream
from reelwatch.jobs.polling import THREADS
from tests.processes import eventually, process

GOAL = "cpu per poll"
SHARE_OF_CELERY = 1 / 12
SHARE_OF_BARE = 0.8


@dataclass(frozen=True)
class Load:
    """How many jobs are polled, how often each, and for how long that is measured."""

    jobs: int
    interval: float  # seconds between two polls of one job
    warm_up: float
    seconds: float

    @property
    def rate(self) -> float:
        """Polls in a second."""
        return self.jobs / self.interval

    @property
    def limit(self) -> float:
        """The key's limit of requests per second: a little more, for Reelwatch keeps a reserve."""
        return min(10_000.0, 1.1 * self.rate)


@dataclass(frozen=True)
class Polled:
    """What so many polls have cost."""

    polls: int
    cost: Cost

    @property
    def ms(self) -> float:
        """Milliseconds of processor time per poll."""
        return 1000 * self.cost.tracker / self.polls

    @property
    def per_cpu_second(self) -> float:
        """Polls per second of processor time."""
        return self.polls / self.cost.tracker

    def told(self) -> str:
        """The rest of what was counted, for a note."""
        rate = self.polls / self.cost.seconds
        database = 1000 * self.cost.database / self.polls
        broker = 1000 * self.cost.broker / self.polls
        return f"at {rate:.0f} polls/s; database {database:.2f} ms, broker {broker:.2f} ms a poll"


def rows(quick: bool) -> list[Row]:
    """The steady load of 1,000 jobs, each polled every 10 s; then as fast as it goes."""
    steady = Load(40, 1.0, 1.0, 2.0) if quick else Load(1_000, 10.0, 12.0, 30.0)
    flat_out = Load(200, 0.05, 0.5, 1.0) if quick else Load(2000, 0.2, 5.0, 15.0)
    return [*_steady(steady), *_flat_out(flat_out)]


def _steady(load: Load) -> Iterator[Row]:
    asked = upstream()
    celery = _measured(trackers.naive_celery(asked, load.interval, load.limit), asked, load)
    ours = _measured(_reelwatch(asked, load, LOG_LEVEL="warning"), asked, load)
    yield _ms("naive Celery", celery)
    yield _ms("Reelwatch", ours)
    yield Row(GOAL, "Reelwatch / naive Celery", ours.ms / celery.ms, "", SHARE_OF_CELERY, "lower",
              f"{load.jobs} jobs, each every {load.interval:g} s")  # fmt: skip


def _flat_out(load: Load) -> Iterator[Row]:
    asked = upstream()
    ours = _measured(_reelwatch(asked, load), asked, load)
    bare = _bare(asked, load, trust_env=True)
    lean = _bare(asked, load, trust_env=False)
    yield _ms("Reelwatch, flat out", ours)
    yield _ms("bare requests loop", bare)
    yield _ms("bare requests loop, trust_env=False", lean)
    ratio = ours.per_cpu_second / bare.per_cpu_second
    yield Row(GOAL, "polls per CPU second, Reelwatch / bare loop", ratio, "", SHARE_OF_BARE,
              "higher", f"{THREADS} threads each")  # fmt: skip
    ratio = ours.per_cpu_second / lean.per_cpu_second
    yield Row(GOAL, "the same, / bare loop with trust_env=False", ratio, "", None, "higher")


def _ms(what: str, polled: Polled) -> Row:
    return Row(GOAL, f"{what}: CPU per poll", polled.ms, "ms", None, "lower", polled.told())


def _reelwatch(asked: Upstream, load: Load, **more: str) -> AbstractContextManager[Tracker]:
    """Reelwatch at that rate: neither its schedule nor its rate limit make it any slower."""
    return trackers.reelwatch(
        asked,
        REELWATCH_REQUESTS_PER_SECOND=str(load.limit),
        REELWATCH_POLL_MIN=str(load.interval),
        REELWATCH_POLL_MAX=str(load.interval),
        **more,
    )


def _measured(starting: AbstractContextManager[Tracker], asked: Upstream, load: Load) -> Polled:
    with starting as tracker:
        courses = endless(load.jobs, f"{tracker.slug}-{load.jobs}-")
        asked.begin(courses)
        tracker.take([course.video_id for course in courses])
        return _window(tracker.pids, asked, load, tracker)


def _window(
    pids: Sequence[int], asked: Upstream, load: Load, tracker: Tracker | None = None
) -> Polled:
    _await_poll(asked)
    time.sleep(load.warm_up)
    meter, before = Meter(*pids), asked.figures(trackers.KEY)
    time.sleep(load.seconds)
    if asked.figures(trackers.KEY).requests == before.requests:
        _await_poll(asked)  # only then: a window that ends as a burst begins has its cost alone
    cost, after = meter.read(), asked.figures(trackers.KEY)
    if tracker is not None:
        tracker.check()
    assert after.unknown == before.unknown, "polls of jobs that are none"
    return Polled(after.requests - before.requests, cost)


def _await_poll(asked: Upstream) -> None:
    """Until upstream is asked again: on a busy machine that can be a while."""
    before = asked.figures(trackers.KEY).requests
    eventually(lambda: asked.figures(trackers.KEY).requests > before, 60, "a poll of any job")


def _bare(asked: Upstream, load: Load, *, trust_env: bool) -> Polled:
    prefix = f"bare-{trust_env}-"
    asked.begin(endless(load.jobs, prefix))
    environment = {
        "PEER_BASE_URL": asked.url,
        "PEER_KEY": trackers.KEY,
        "PEER_IDS": f"veo3.1-fast:{prefix}",
        "PEER_JOBS": str(load.jobs),
        "PEER_THREADS": str(THREADS),
        "PEER_TRUST_ENV": "yes" if trust_env else "no",
    }
    with process([sys.executable, "-m", "benchmarks.peer_bare"], environment) as bare:
        return _window([bare.pid], asked, load)
