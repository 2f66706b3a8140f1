"""10,000 open jobs at 200 requests a second, by real workers and beats: delay, lateness, memory.

    python -m benchmarks.load                  # three and a half minutes
    python -m benchmarks.load --minutes 30     # long enough to see memory grow

PostgreSQL, Redis, two workers and two beats (Celery's prefork pool), the stand-in upstream, and a
receiver of webhooks, all on this machine. The jobs come in evenly over the first interval, so that
polls are spread evenly, too; each that ends is replaced. The interval between polls (the same for
all jobs, ± 10 %) is such that they need 85 % of the slots that the account's rate gives.

Three times are told apart for each poll, all by clocks of this machine:

*due*       what `next_poll_at` said when the job was first claimed for this poll, noted by a
            trigger on `jobs` (a slot that was missed, or a second claim, does not make it later);
*asked*     when upstream got the request, noted by upstream;
*written*   the job's `finished_at`, if it was its last poll.

Upstream's end is the job's first poll plus the duration in its id. From there to the next poll's
*due* is the schedule's own delay: with these intervals 40 s in the mean, whatever machine it runs
on. The lateness of a poll is from *due* to *asked*. What is held to 2 s is the rest of an end's
delay: from *due*, or from upstream's end if that was later, to *written*.

Memory is the resident size of each process of the workers and beats, every second. Growth is
from the median of the first fifth after the warm-up to that of the last fifth. The warm-up is five
minutes from a process's first work; a shorter run shows the growth and is held to nothing.
"""

import argparse
import bisect
import math
import os
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

from sqlalchemy import text

from benchmarks import cpu
from benchmarks.result import Row
from reelwatch.config import settings
from reelwatch.jobs import tracking
from reelwatch.sandbox.scripts import read_id, scripted_id
from reelwatch.storage import db, migrating
from tests.fleet import MODELS, Fleet, fleet
from tests.servers import POSTGRES_SETTINGS, postgres, redis

GOAL = "load"
BEYOND_SECONDS = 2.0  # of an end's delay, beyond the schedule's own: at most, for 99 of 100
GROWTH = 0.05  # of a process's memory, from minute five on
WARM_UP_SECONDS = 300.0
WORKED_SECONDS = 3.0  # of processor time: a worker's child has had a batch or two then
SPACING = 1.1  # slots are this much further apart than the rate says (docs/decisions/0002)
SHORTEST, LONGEST = 0.75, 6.75  # of a job's duration, in intervals between polls
SETTLE_SECONDS = 10.0  # after the last arrival, until what is measured counts
SAMPLE_SECONDS = 1.0
AROUND_SECONDS = 5.0  # of a moment, the samples that tell of it
TOLD_MOMENTS = 10  # of a run, at which the size of each process is told
REFILL_SECONDS = 1.0

CLAIMS = """
CREATE UNLOGGED TABLE claims_seen (job_id bigint, poll integer, due timestamptz, at timestamptz);
CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO claims_seen VALUES (NEW.id, OLD.polls, OLD.next_poll_at, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER note_claim AFTER UPDATE OF lease_token ON jobs FOR EACH ROW
WHEN (NEW.lease_token IS NOT NULL AND NEW.lease_token IS DISTINCT FROM OLD.lease_token)
EXECUTE FUNCTION note_claim();
"""
# Of each poll of a job: when it was due, and when it was first claimed.
POLLS = """
SELECT j.video_id, extract(epoch FROM min(c.due)), extract(epoch FROM min(c.at))
FROM claims_seen AS c JOIN jobs AS j ON j.id = c.job_id
GROUP BY j.video_id, c.poll ORDER BY 1, 3
"""
ENDS = "SELECT video_id, extract(epoch FROM finished_at) FROM jobs WHERE finished_at IS NOT NULL"
OPEN = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
WRITTEN = """
SELECT pg_current_wal_lsn() - '0/0', xact_commit FROM pg_stat_database
WHERE datname = current_database()
"""
SIZES = """
SELECT count(*), pg_total_relation_size('{table}'), pg_indexes_size('{table}') FROM {table}
"""
TABLES = ("jobs", "transitions", "poll_errors", "deliveries", "attempts")
# As on a server that is to survive a power cut, but for the waiting: its log's size is told.
SETTINGS = {"full_page_writes": "on", "max_wal_size": "1GB", "shared_buffers": "256MB"}


@dataclass(frozen=True)
class Plan:
    """How many jobs, at what rate, for how long."""

    open: int
    rate: float
    seconds: float
    workers: int = 2
    demand: float = 0.85  # of the slots; beyond 1 the jobs ask for more than there is

    @property
    def interval(self) -> float:
        """Seconds between polls that make the jobs ask for their share of the rate.

        A job that lasts L is polled when it comes in, then every interval, and half an interval
        after its end.
        """
        lifetime = (SHORTEST + LONGEST) / 2 + 0.5  # in intervals
        return self.open * (1 + 1 / lifetime) / (self.demand * self.rate / SPACING)


FULL = Plan(10_000, 200.0, 210.0)
QUICK = Plan(100, 50.0, 15.0)


class Size(NamedTuple):
    """One poll a process."""

    at: float  # seconds after the start
    resident: int  # bytes
    processor: float  # seconds that it has used so far


@dataclass
class Memory:
    """The resident sizes of processes over time."""

    samples: dict[str, list[Size]] = field(default_factory=lambda: defaultdict(list))

    def take(self, deployed: Fleet, at: float) -> None:
        """One sample of each process, `at` seconds after the start."""
        for number, each in enumerate(deployed.processes):
            for place, used in enumerate(sorted(cpu.used(each.pid))):
                name = f"process {number}" + (f", child {place}" if place else "")
                if (size := resident(used.pid)) is not None:
                    self.samples[f"{name} (pid {used.pid})"].append(Size(at, size, used.seconds))

    def growth(self, warm_up: float, until: float) -> dict[str, float]:
        """By process, the share by which it grew from the first to the last fifth of its time.

        That begins so long after its first work, for Celery gives work to the first process that is
        free, and to the last ones late or never. Who has not worked for three times as long until
        then is left out.
        """
        grown = {}
        for name, samples in self.samples.items():
            worked = next((s.at for s in samples if s.processor >= WORKED_SECONDS), math.inf)
            since = worked + warm_up
            if worked + 3 * warm_up > until:
                continue
            fifth = (until - since) / 5
            first = [s.resident for s in samples if since <= s.at < since + fifth]
            last = [s.resident for s in samples if until - fifth <= s.at <= until]
            if first and last:
                grown[name] = statistics.median(last) / statistics.median(first) - 1
        return grown

    def course(self, moments: Sequence[float]) -> dict[str, list[float]]:
        """By process, the mebibytes that it had at those moments, seconds after the start.

        A moment is left out for a process that began later or had ended.
        """
        return {
            name: [
                statistics.median(near) / 2**20
                for moment in moments
                if (near := [s.resident for s in samples if abs(s.at - moment) <= AROUND_SECONDS])
            ]
            for name, samples in self.samples.items()
        }

    def mebibytes(self, until: float) -> list[float]:
        """The last sizes of the processes that were alive then."""
        ends = [samples[-1] for samples in self.samples.values()]
        return [each.resident / 2**20 for each in ends if each.at >= until - 2 * SAMPLE_SECONDS]


@dataclass(frozen=True)
class Poll:
    """One poll: when it was due, and when upstream was asked; unix seconds."""

    due: float
    asked: float


@dataclass
class Outcome:
    """What a run came to; times in seconds."""

    plan: Plan
    lateness: list[float]  # of polls
    own: list[float]  # of ends: the schedule's own delay
    beyond: list[float]  # of ends: the rest of it
    polls: int
    span: float
    fewest_open: int
    busiest_second: int
    memory: Memory
    processor: float  # seconds of the workers' and beats' processes in the span
    log_bytes: float  # that PostgreSQL wrote ahead in the span
    commits: float
    tables: dict[str, tuple[int, int, int]]  # rows, bytes, and those of indexes among them


# ------------------------------------------------------------------- running


def run(plan: Plan) -> Outcome:
    """One run, from an empty database."""
    with patch.dict(POSTGRES_SETTINGS, SETTINGS), postgres() as database, redis() as broker:
        url = database.create_database()
        migrating.migrate(url)
        with db.transaction(url) as session:
            session.execute(text(CLAIMS))
        with fleet(
            url,
            broker.url,
            plan.rate,
            REELWATCH_POLL_MIN=f"{0.9 * plan.interval:.3f}s",
            REELWATCH_POLL_MAX=f"{1.1 * plan.interval:.3f}s",
        ) as deployed:
            try:
                with _as_producer(deployed):
                    return _run(plan, deployed)
            finally:
                db.dispose()


@contextmanager
def _as_producer(deployed: Fleet) -> Iterator[None]:
    """This process tracks videos in Python, with the deployment's settings."""
    settings.current.cache_clear()
    with patch.dict(os.environ, deployed.environment):
        try:
            yield
        finally:
            settings.current.cache_clear()


@dataclass(frozen=True)
class Moment:
    """The counters at one end of what is measured."""

    at: float  # unix seconds
    processor: float
    log_bytes: float
    commits: float

    @classmethod
    def now(cls, deployed: Fleet) -> "Moment":
        """The counters now."""
        ((log_bytes, commits),) = deployed.rows(WRITTEN)
        used = cpu.seconds(*(each.pid for each in deployed.processes))
        return cls(time.time(), used, float(log_bytes), float(commits))


def _run(plan: Plan, deployed: Fleet) -> Outcome:
    deployed.start_all(plan.workers)
    memory = Memory()
    over = threading.Event()
    started = time.monotonic()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            memory.take(deployed, time.monotonic() - started)

    watcher = threading.Thread(target=watch, name="memory")
    watcher.start()
    try:
        begin, fewest = _feed(plan, deployed, started)
    finally:
        over.set()
        watcher.join()
    end = Moment.now(deployed)
    deployed.terminate_all()
    return _outcome(plan, deployed, memory, begin, end, fewest)


def _feed(plan: Plan, deployed: Fleet, started: float) -> tuple[Moment, int]:
    """Keep so many jobs open until the run is over.

    Returns the counters as of when what is measured begins, and the fewest open since.
    """
    chance = Random(7)
    begin, fewest, made = None, plan.open, 0
    while (age := time.monotonic() - started) < plan.seconds:
        still_open = int(deployed.rows(OPEN)[0][0])
        missing = max(0, int(plan.open * min(1.0, age / plan.interval)) - still_open)
        tracking.track_many(
            [_video(plan, chance, number) for number in range(made, made + missing)],
            webhook_url=f"{deployed.listener.url}/hook",
        )
        made += missing
        if begin is not None:
            fewest = min(fewest, still_open)
        elif age > plan.interval + SETTLE_SECONDS:
            begin = Moment.now(deployed)
        time.sleep(max(0.0, REFILL_SECONDS - (time.monotonic() - started - age)))
    if begin is None:
        raise ValueError(f"too short: it begins after {plan.interval + SETTLE_SECONDS:.0f} s")
    return begin, fewest


def _video(plan: Plan, chance: Random, number: int) -> str:
    seconds = plan.interval * chance.uniform(SHORTEST, LONGEST)
    return scripted_id(MODELS[number % len(MODELS)], "ok", seconds, f"n{number}")


def _outcome(
    plan: Plan, deployed: Fleet, memory: Memory, begin: Moment, end: Moment, fewest: int
) -> Outcome:
    asked = defaultdict(list)
    for poll in deployed.sandbox.polls():
        asked[poll.video_id].append(poll.at)
    polls = _matched(deployed, asked)
    seen = [poll for each in polls.values() for poll in each if begin.at <= poll.asked < end.at]
    own, beyond = [], []
    for video_id, at in deployed.rows(ENDS):
        written = float(at)
        if begin.at <= written < end.at:
            over = asked[video_id][0] + read_id(video_id).seconds
            due = polls[video_id][-1].due
            own.append(max(0.0, due - over))
            beyond.append(written - max(due, over))
    return Outcome(
        plan=plan,
        lateness=[poll.asked - poll.due for poll in seen],
        own=own,
        beyond=beyond,
        polls=len(seen),
        span=end.at - begin.at,
        fewest_open=fewest,
        busiest_second=int(deployed.sandbox.stats()["max_in_one_second"]),
        memory=memory,
        processor=end.processor - begin.processor,
        log_bytes=end.log_bytes - begin.log_bytes,
        commits=end.commits - begin.commits,
        tables={each: deployed.rows(SIZES.format(table=each))[0] for each in TABLES},
    )


def _matched(deployed: Fleet, asked: dict[str, list[float]]) -> dict[str, list[Poll]]:
    """Each request that upstream saw, with the due time of the poll that it was made for."""
    claims: dict[str, list[tuple[float, float]]] = defaultdict(list)  # claimed first, due
    for video_id, due, claimed in deployed.rows(POLLS):
        claims[video_id].append((float(claimed), float(due)))
    matched = {}
    for video_id, moments in asked.items():
        claimed_at = [claimed for claimed, _due in claims[video_id]]
        places = [bisect.bisect_right(claimed_at, moment) - 1 for moment in moments]
        pairs = zip(places, moments, strict=True)
        matched[video_id] = [Poll(claims[video_id][place][1], moment) for place, moment in pairs]
    return matched


# ---------------------------------------------------------------- processes


def resident(pid: int) -> int | None:
    """Bytes of memory that a process has; None if it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------- telling


def at_most(seconds: Sequence[float], share: float) -> float:
    """What that share of them stays below; NaN, which meets no goal, where there are none."""
    ordered = sorted(seconds)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(outcome: Outcome) -> list[Row]:
    """The rows of a run."""
    plan = outcome.plan
    sizes = f"{plan.open:,} open jobs at {plan.rate:g}/s"
    about = f"{outcome.span:.0f} s, {outcome.polls:,} polls, {len(outcome.beyond):,} ends"
    long = plan.seconds >= 4 * WARM_UP_SECONDS
    warm_up = WARM_UP_SECONDS if long else min(60.0, plan.seconds / 6)
    grown = outcome.memory.growth(warm_up, plan.seconds)
    name, most = max(grown.items(), key=lambda pair: pair[1], default=("none", math.nan))
    sizes_now = outcome.memory.mebibytes(plan.seconds)
    late = outcome.lateness
    return [
        Row(
            GOAL, f"delay of an end beyond the schedule's own, p99; {sizes}",
            at_most(outcome.beyond, 0.99), "s", BEYOND_SECONDS, "lower",
            f"{about}; median {at_most(outcome.beyond, 0.5):.2f} s, the schedule's own: median "
            f"{at_most(outcome.own, 0.5):.1f} s, p99 {at_most(outcome.own, 0.99):.1f} s",
        ),
        Row(
            GOAL, "lateness of a poll, p99", at_most(late, 0.99), "s", None, "lower",
            f"from due to upstream's door; median {at_most(late, 0.5):.2f} s, worst "
            f"{max(late):.1f} s; never fewer than {outcome.fewest_open:,} open, at most "
            f"{outcome.busiest_second} requests in a second",
        ),
        Row(
            GOAL, "growth of a process's memory", 100 * most, "%",
            100 * GROWTH if long else None, "lower",
            f"{name}, the one that grew most from {warm_up:.0f} s after its first work on; "
            f"of {len(sizes_now)} processes {len(grown)} have worked for long enough; together "
            f"{sum(sizes_now):,.0f} MiB, the largest {max(sizes_now):.0f}",
        ),
        Row(
            GOAL, "processor time of workers and beats for a poll",
            1000 * outcome.processor / max(1, outcome.polls), "ms", None, "lower",
            f"{outcome.processor / outcome.span:.2f} cores at "
            f"{outcome.polls / outcome.span:.0f} polls a second, all that goes with them included",
        ),
        Row(
            GOAL, "PostgreSQL's log for a poll", outcome.log_bytes / max(1, outcome.polls), "bytes",
            None, "lower",
            f"and {outcome.commits / max(1, outcome.polls):.2f} commits; ends and events included",
        ),
    ]  # fmt: skip


def rows(quick: bool) -> list[Row]:
    """The figures of one run; `quick`: of a small one."""
    return figures(run(QUICK if quick else FULL))


def main() -> int:
    """The command: prints the figures; 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=FULL.seconds / 60)
    parser.add_argument("--open", type=int, default=FULL.open, help="jobs")
    parser.add_argument("--rate", type=float, default=FULL.rate, help="requests a second")
    parser.add_argument("--workers", type=int, default=FULL.workers)
    parser.add_argument("--demand", type=float, default=FULL.demand, help="share of the slots")
    options = parser.parse_args()
    plan = Plan(options.open, options.rate, 60 * options.minutes, options.workers, options.demand)
    print(
        f"{datetime.now(UTC):%H:%M:%S} UTC: {plan.open:,} jobs, each polled every "
        f"{plan.interval:.0f} s, for {plan.seconds:.0f} s",
        flush=True,
    )
    outcome = run(plan)
    told = figures(outcome)
    for row in told:
        limit = "" if row.limit is None else f" (at most {row.limit:g})"
        print(f"{row.what}: {row.measured:.2f} {row.unit}{limit}; {row.note}")
    jobs = outcome.tables["jobs"][0]
    for table, (count, size, indexes) in outcome.tables.items():
        print(
            f"  {table}: {count / jobs:.2f} rows a job, {size / max(1, count):,.0f} bytes a row, "
            f"{indexes / max(1, count):,.0f} of them indexes"
        )
    step = plan.seconds / TOLD_MOMENTS
    moments = [step * place for place in range(1, TOLD_MOMENTS + 1)]
    print(f"  MiB of each process, every {step:.0f} s:")
    for name, sizes in outcome.memory.course(moments).items():
        print(f"    {name}: " + " ".join(f"{size:.1f}" for size in sizes))
    return 1 if any(row.met is False for row in told) else 0


if __name__ == "__main__":
    sys.exit(main())
