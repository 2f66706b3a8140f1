"""What Reelwatch costs while nothing is due: processor time, and statements at the database.

A worker and beat over PostgreSQL and Redis, with 1,000 open jobs whose next poll is an hour off.
The statements are counted in the server's own log (`log_statement = all` for this database).
Beside them ticks a beat with nothing but Celery: what a tick costs is what the machine makes of it.
"""

import math
import re
import time
from collections.abc import Iterator

from sqlalchemy import create_engine, make_url, text

from benchmarks import cpu, trackers
from benchmarks.courses import endless
from benchmarks.result import Row
from benchmarks.trackers import Meter, Tracker
from benchmarks.upstream import upstream
from reelwatch.storage import db
from tests.processes import Process

GOAL = "idle"
SHARE_OF_A_CORE = 1.0  # per cent, for each process
OF_A_BARE_BEAT = 1.33
STATEMENTS = 3.0  # in a second
JOBS = 1_000

LOGGED = re.compile(r"LOG:  (?:statement|execute [^:]*): *(\w*)")
FRAME = {"BEGIN", "COMMIT", "ROLLBACK"}


def rows(quick: bool) -> list[Row]:
    """After a while in which everything has been made that is made once."""
    warm_up, seconds = (1.0, 2.0) if quick else (10.0, 40.0)
    with trackers.reelwatch(upstream()) as tracker:
        courses = endless(JOBS, "idle-")
        upstream().begin(courses)
        _log_statements(tracker.database_url)
        tracker.take([course.video_id for course in courses])
        with db.transaction(tracker.database_url) as session:
            session.execute(text("UPDATE jobs SET next_poll_at = now() + interval '1 hour'"))
        db.dispose()  # only Reelwatch's own statements are counted
        with trackers.bare_beat() as beat:
            time.sleep(warm_up)
            return list(_measured(tracker, beat, seconds))


def _measured(tracker: Tracker, beat: Process, seconds: float) -> Iterator[Row]:
    logged, before = len(_log()), {each.pid: each for each in cpu.used(*tracker.pids)}
    meter, bare = Meter(*tracker.pids), cpu.seconds(beat.pid)
    time.sleep(seconds)
    cost, after, bare = meter.read(), cpu.used(*tracker.pids), cpu.seconds(beat.pid) - bare
    assert beat.running, beat.output
    statements = LOGGED.findall(_log()[logged:])
    tracker.check()
    roles = dict(zip(tracker.pids, ("worker", "beat"), strict=True))
    shares = sorted(
        (
            100 * (each.seconds - before[each.pid].seconds) / cost.seconds,
            roles.get(each.pid, "a child of worker"),
        )
        for each in after
        if each.pid in before
    )
    share, name = shares[-1]
    note = f"{name}; {len(shares)} processes, all together {sum(s for s, _ in shares):.2f} %"
    yield Row(GOAL, "the busiest process's share of a core", share, "%", SHARE_OF_A_CORE, "lower",
              note)  # fmt: skip
    bare_share = 100 * bare / cost.seconds
    yield Row(GOAL, "a bare beat's share of a core", bare_share, "%", None, "lower")
    ratio = share / bare_share if bare else math.inf
    yield Row(GOAL, "the busiest process, of a bare beat's", ratio, "", OF_A_BARE_BEAT, "lower")
    work = [status for status in statements if status.upper() not in FRAME]
    note = f"{len(work) / cost.seconds:.1f} without BEGIN, COMMIT and ROLLBACK; from the log"
    yield Row(GOAL, "database statements a second", len(statements) / cost.seconds, "/s",
              STATEMENTS, "lower", note)  # fmt: skip
    yield Row(GOAL, "database's share of a core", 100 * cost.database / cost.seconds, "%", None,
              "lower")  # fmt: skip
    yield Row(GOAL, "broker's share of a core", 100 * cost.broker / cost.seconds, "%", None,
              "lower")  # fmt: skip


def _log_statements(url: str) -> None:
    """From the next connection on; those that are open are cut, and made anew."""
    engine = create_engine(trackers.postgres().url, isolation_level="AUTOCOMMIT")
    name = make_url(url).database
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET log_statement = 'all'"))
    engine.dispose()
    trackers.postgres().terminate_connections()
    db.dispose()


def _log() -> str:
    """All that the server has written."""
    return str(trackers.postgres()._process.output)  # type: ignore[union-attr]
