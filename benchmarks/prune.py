"""How long `reelwatch prune` takes on a large history, and for how long it locks what others want.

    python -m benchmarks.prune --jobs 1000000

Makes so many jobs that ended long ago, each with two transitions, a delivery and an attempt, every
tenth with a poll error, on a PostgreSQL of its own, on disk and with fsync on; beside them a tenth
as many that are too new to go, and a few that are old but still owe an event. While they are pruned
another client keeps tracking new videos and updating old deliveries, and counts how long it waits.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from reelwatch.jobs import pruning
from reelwatch.storage import db, migrating
from tests import servers

LIMIT_SECONDS = 1.0  # no lock longer than this
OWING = 500
PROBE_PAUSE = 0.02

JOBS = """
INSERT INTO jobs (id, account, video_id, model, state, upstream_status, video_url, metadata,
                  sequence, polls, tracked_at, finished_at, deadline_at, webhook_url, events)
SELECT n, 'default', 'veo3.1-fast:' || n, 'veo3.1-fast', 'completed', 'completed',
       'https://cdn.example.com/' || md5(n::text) || '.mp4', '{"order": 7}', 2, 17,
       at - interval '4 minutes', at, at + interval '1 hour',
       'https://hooks.example.com/reelwatch', '["completed", "failed", "expired"]'
FROM (SELECT n, CASE WHEN n <= :old THEN now() - interval '400 days' + n * interval '10 s'
                     ELSE now() - interval '1 day' END AS at
      FROM generate_series(cast(:first AS bigint), :last) AS n) AS numbered
"""
TRANSITIONS = """
INSERT INTO transitions (id, job_id, sequence, from_state, to_state, from_status, to_status, at,
                         upstream_at, answer)
SELECT 2 * j.id - 2 + step, j.id, step, CASE step WHEN 1 THEN 'pending' ELSE 'running' END,
       CASE step WHEN 1 THEN 'running' ELSE 'completed' END, NULL, 'processing', j.finished_at,
       j.finished_at, jsonb_build_object('id', j.video_id, 'status', 'completed', 'video_url',
       j.video_url, 'enhanced_prompt', repeat('a long walk on the beach ', 8))
FROM jobs AS j, generate_series(1, 2) AS step WHERE j.id BETWEEN :first AND :last
"""
DELIVERIES = """
INSERT INTO deliveries (id, job_id, transition_id, sequence, event_type, channel, target,
                        destination, body, state, attempts, created_at, next_attempt_at,
                        delivered_at)
SELECT 'evt_' || md5(id::text), id, 2 * id, 2, 'video.completed', 'webhook', webhook_url,
       'hooks.example.com', '{"data": "' || repeat(md5(id::text), 16) || '"}',
       CASE WHEN id % :nth = 0 THEN 'pending' ELSE 'delivered' END, 1, finished_at,
       CASE WHEN id % :nth = 0 THEN now() + interval '1 day' END,
       CASE WHEN id % :nth <> 0 THEN finished_at END
FROM jobs WHERE id BETWEEN :first AND :last
"""
ATTEMPTS = """
INSERT INTO attempts (delivery_id, at, http_status, duration_ms)
SELECT 'evt_' || md5(id::text), finished_at, 200, 41 FROM jobs WHERE id BETWEEN :first AND :last
"""
ERRORS = """
INSERT INTO poll_errors (job_id, kind, http_status, message, first_at, last_at)
SELECT id, 'server_error', 502, 'bad gateway', tracked_at, tracked_at
FROM jobs WHERE id BETWEEN :first AND :last AND id % 10 = 0
"""
TABLES = ("jobs", "transitions", "deliveries", "attempts", "poll_errors")
STEP = 100_000  # jobs made in one transaction


@dataclass
class Watch:
    """How long transactions took, and how long the other client waited."""

    choices: list[float] = field(default_factory=list)  # those that only read
    transactions: list[float] = field(default_factory=list)  # those that lock and delete
    waits: list[float] = field(default_factory=list)
    deleted: int = 0  # jobs, so far


def fill(url: str, old: int, new: int) -> None:
    """Write the history."""
    nth = max(2, old // OWING)
    with db.transaction(url) as session:
        session.execute(
            text("INSERT INTO accounts (name, requests_per_second) VALUES ('default', 5)")
        )
    for first in range(1, old + new + 1, STEP):
        span = {"first": first, "last": min(first + STEP - 1, old + new)}
        with db.transaction(url) as session:
            session.execute(text(JOBS), span | {"old": old})
            session.execute(text(TRANSITIONS), span)
            session.execute(text(DELIVERIES), span | {"nth": nth})
            session.execute(text(ATTEMPTS), span)
            session.execute(text(ERRORS), span)
    with db.transaction(url) as session:
        session.execute(text("SELECT setval('jobs_id_seq', (SELECT max(id) FROM jobs))"))
    with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


@contextmanager
def transactions_timed(url: str, watch: Watch) -> Iterator[None]:
    """Note how long each transaction of this thread lasts, from BEGIN to after COMMIT."""
    engine, me = db.engine(url), threading.get_ident()
    began: dict[int, tuple[list[float], float]] = {}

    def begin(connection: Any) -> None:
        if threading.get_ident() == me:
            reads = connection.get_execution_options().get(db.READ_ONLY)
            began[me] = (watch.choices if reads else watch.transactions, time.monotonic())

    def checkin(_connection: Any, _record: object) -> None:
        # The pool gets the connection back when COMMIT has been answered.
        if threading.get_ident() == me and me in began:
            durations, since = began.pop(me)
            durations.append(time.monotonic() - since)

    event.listen(engine, "begin", begin)
    event.listen(engine, "checkin", checkin)
    try:
        yield
    finally:
        event.remove(engine, "begin", begin)
        event.remove(engine, "checkin", checkin)


@contextmanager
def neighbour(url: str, old: int, watch: Watch) -> Iterator[None]:
    """Another client: tracks a video, updates a random old delivery, and times both together."""
    stop = threading.Event()

    def work() -> None:
        number, chance = 0, random.Random(7)
        while not stop.wait(PROBE_PAUSE):
            number += 1
            started = time.monotonic()
            with db.transaction(url) as session:
                session.execute(
                    text(
                        "INSERT INTO jobs (account, video_id, state, metadata, tracked_at, "
                        "next_poll_at, deadline_at, events) "
                        "VALUES ('default', :id, 'pending', '{}', now(), now(), now(), '[]')"
                    ),
                    {"id": f"new:{number}"},
                )
                deleted = watch.deleted
                near = deleted + chance.randint(1, 2_000)  # what is being deleted about now
                session.execute(
                    text("UPDATE deliveries SET lease_token = NULL WHERE job_id = :id"),
                    {"id": min(near, old)},
                )
            watch.waits.append(time.monotonic() - started)

    thread = threading.Thread(target=work, name="neighbour")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def counts(url: str) -> dict[str, int]:
    """Rows of each table."""
    with db.reading(url) as session:
        return {
            table: session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in TABLES
        }


def run(url: str, jobs: int) -> int:
    """Fill, prune, print; 1 if something is left that should have gone, or the other way round."""
    new = max(1, jobs // 10)
    started = time.monotonic()
    fill(url, jobs, new)
    before = counts(url)
    print(f"{sum(before.values()):,} rows made in {time.monotonic() - started:.0f} s: {before}")

    watch = Watch()
    started = time.monotonic()
    with transactions_timed(url, watch), neighbour(url, jobs, watch):
        for count in pruning.prune(url, datetime.now(UTC) - timedelta(days=90)):
            watch.deleted += count
    seconds, deleted = time.monotonic() - started, watch.deleted

    # What the neighbour had in hand at that moment is left for the next time: this one.
    late = sum(pruning.prune(url, datetime.now(UTC) - timedelta(days=90)))
    after = counts(url)
    probes = len(watch.waits)
    gone = sum(before.values()) + probes - sum(after.values())
    print(f"pruned {deleted:,} jobs (the next run: {late}), {gone:,} rows, in {seconds:.1f} s")
    print(f"  {deleted / seconds:,.0f} jobs/s, {gone / seconds:,.0f} rows/s")
    print(f"  {spread('choices without a lock', watch.choices)}")
    print(f"  {spread('transactions', watch.transactions)}")
    print(f"  {spread('waits of the neighbour', watch.waits)}")
    worst = max(watch.transactions)
    print(f"  longest transaction: {worst / LIMIT_SECONDS:.3f} of the {LIMIT_SECONDS:g} s allowed")
    return verdict(url, jobs, deleted + late, probes)


def spread(what: str, seconds: list[float]) -> str:
    """Number, median, 99th percentile and the longest."""
    ordered = sorted(seconds)
    middle, late = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return (
        f"{len(ordered):,} {what}: median {middle * 1000:.0f} ms, 99 % {late * 1000:.0f} ms, "
        f"longest {ordered[-1] * 1000:.0f} ms"
    )


def verdict(url: str, jobs: int, deleted: int, probes: int) -> int:
    """Are exactly the jobs left that must be?"""
    nth = max(2, jobs // OWING)
    cutoff = min(jobs, int((400 - 90) * 86_400 / 10))  # one job ended every ten seconds
    expected = cutoff - cutoff // nth
    with db.reading(url) as session:
        orphans = session.execute(
            text("SELECT count(*) FROM jobs j WHERE j.finished_at IS NOT NULL AND 2 <> "
                 "(SELECT count(*) FROM transitions t WHERE t.job_id = j.id)")
        ).scalar_one()  # fmt: skip
    left = counts(url)["jobs"] - probes
    right = deleted == expected and left == jobs + max(1, jobs // 10) - expected and not orphans
    if right:
        print("  exactly those are left that must be")
    else:
        print(f"  WRONG: {deleted} deleted, {expected} expected; {left} left, {orphans} half")
    return 0 if right else 1


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many are old")
    options = parser.parse_args()
    servers.roomy_memory = lambda: None  # a disk, as in real life
    servers.POSTGRES_SETTINGS |= {
        "fsync": "on",
        "full_page_writes": "on",
        "shared_buffers": "256MB",
        "max_wal_size": "1GB",
    }
    with servers.postgres() as server:
        url = server.create_database()
        migrating.migrate(url)
        try:
            return run(url, options.jobs)
        except OperationalError as error:
            print(error.orig, file=sys.stderr)
            return 1
        finally:
            db.dispose()


if __name__ == "__main__":
    sys.exit(main())
