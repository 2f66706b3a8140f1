"""What a claim of due events costs while a receiver is down: `python -m benchmarks backlog`.

Two databases of each kind: twenty receivers that work have events due in both; in one of them
200,000 more wait for a receiver that is down. Claims are made in turn, each of up to 64 events, and
taken back untimed. The same is timed with the dead receiver's breaker open, and half-open with its
one call under way. Of SQLite also how long the writers' lock is held.

PostgreSQL keeps its files in memory where there is room, and syncs nothing.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, event, insert, text

from benchmarks.claims import POSTGRESQL, SQLITE
from benchmarks.result import Row
from reelwatch.config.settings import Settings
from reelwatch.jobs import delivery
from reelwatch.storage import db, migrating
from reelwatch.storage.models import Destination, Endpoint, UtcDateTime
from tests import seeding, servers

GOAL = "receivers"
LIMIT = 2.0  # times as long with the backlog, at most
BACKLOG, FEW = 200_000, 5_000
WORKING = [f"https://hooks-{number}.example.com/reelwatch" for number in range(20)]
EACH = 40  # events due for each of them
DEAD = "https://dead.example.com/reelwatch"
BATCH = 64
STEP = 50_000  # rows in one transaction

TRANSITIONS = """
INSERT INTO transitions (id, job_id, sequence, from_state, to_state, at)
SELECT n, :job, n, 'running', 'completed', :at FROM {numbers}
"""
DELIVERIES = """
INSERT INTO deliveries (id, job_id, transition_id, sequence, event_type, channel, target,
                        destination, body, state, created_at, next_attempt_at)
SELECT 'evt_' || (1000000000 + n), :job, n, n, 'video.completed', 'webhook', :target, :host,
       :body, 'pending', :at, :at
FROM {numbers}
"""


def rows(quick: bool) -> list[Row]:
    """The ratio of a claim's time with and without the backlog, on each kind of database."""
    size, each, turns = (FEW, 4, 4) if quick else (BACKLOG, EACH, 100)
    with postgresql() as urls:
        found = list(_compare("PostgreSQL", urls, size, each, turns))
    with sqlite() as urls:
        return found + list(_compare("SQLite", urls, size, each, turns))


@contextmanager
def postgresql() -> Iterator[Sequence[str]]:
    """Two new databases of a new server."""
    with servers.postgres() as server:
        yield [server.create_database() for _ in range(2)]


@contextmanager
def sqlite() -> Iterator[Sequence[str]]:
    """Two new files."""
    with tempfile.TemporaryDirectory(prefix="reelwatch-benchmark-") as folder:
        yield [f"sqlite:///{Path(folder) / name}.db" for name in ("none", "many")]


def _compare(kind: str, urls: Sequence[str], size: int, each: int, turns: int) -> Iterator[Row]:
    without, loaded = urls
    for url, backlog in ((without, 0), (loaded, size)):
        migrating.migrate(url)
        fill(url, backlog, each)
    for state, until in (("open", timedelta(days=1)), ("half-open", timedelta(0))):
        rest(loaded, until)
        none, many = times(without, loaded, turns)
        note = (
            f"64 events of 20 receivers; {size:,} wait for a dead one: "
            f"{1000 * none:.2f} ms without, {1000 * many:.2f} ms with"
        )
        yield Row(GOAL, f"a claim beside a backlog, breaker {state}, {kind}", many / none, "times",
                  LIMIT, "lower", note)  # fmt: skip
    if kind == "SQLite":
        held = locked(loaded, turns)
        note = f"median of claims beside {size:,} events for a dead receiver"
        yield Row(GOAL, "writers' lock held by a claim, SQLite", 1000 * held, "ms", None, "lower",
                  note)  # fmt: skip
    db.dispose()


def fill(url: str, backlog: int, each: int = EACH) -> None:
    """Events due, so many for `each` of those that work and a backlog for the one that is down."""
    with db.transaction(url) as session:
        for target in WORKING:
            host = target.split("/")[2]
            standing = {"failures": 0, "openings": 0, "allowance": 8}
            session.execute(insert(Destination).values(name=host, **standing))
            for _ in range(each):
                seeding.add_owed(session, target)
    for first in range(1, backlog + 1, STEP):
        _owe(url, first + 1_000_000, min(first + STEP - 1, backlog) + 1_000_000)
    with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _owe(url: str, first: int, last: int) -> None:
    dialect = SQLITE if url.startswith("sqlite") else POSTGRESQL
    with db.transaction(url) as session:
        job = session.execute(text("SELECT min(id) FROM jobs")).scalar_one()
        values: dict[str, Any] = {"first": first, "last": last, "job": job, "at": db.now(session)}
        at = bindparam("at", type_=UtcDateTime())
        made = text(TRANSITIONS.format(numbers=dialect.numbers)).bindparams(at)
        session.execute(made, values)
        values |= {"target": DEAD, "host": DEAD.split("/")[2], "body": "x" * 700}
        session.execute(text(DELIVERIES.format(numbers=dialect.numbers)).bindparams(at), values)


def rest(url: str, ahead: timedelta) -> None:
    """Open the dead receiver's breaker for so long; where it is over, its call is under way."""
    with db.transaction(url) as session:
        now = db.now(session)
        standing = Endpoint(name=DEAD, host=DEAD.split("/")[2], failures=9, openings=5,
                            allowance=1, open_until=now + ahead, changed_at=now)  # fmt: skip
        session.merge(standing)
        if not ahead:
            delivery.claim(session, 1, now, timedelta(days=1))
            one = "WHERE id = (SELECT min(id) FROM deliveries WHERE target = :dead)"
            under_way = text(
                f"UPDATE deliveries SET next_attempt_at = :at, lease_token = 'x' {one}"
            ).bindparams(bindparam("at", type_=UtcDateTime()))
            session.execute(under_way, {"at": now + timedelta(days=1), "dead": DEAD})


def times(without: str, loaded: str, turns: int) -> tuple[float, float]:
    """The median seconds of a claim of each, made in turn."""
    took: dict[str, list[float]] = {without: [], loaded: []}
    warm_up = min(turns, 10)
    for turn in range(turns + warm_up):
        for url, seconds in took.items():
            seconds.append(claim(url))
            if turn < warm_up:
                seconds.clear()
    return statistics.median(took[without]), statistics.median(took[loaded])


def claim(url: str) -> float:
    """Claim as a worker does; returns the seconds it took. What was claimed is due again then."""
    courier = delivery._Courier(Settings(database=url), lambda *_: None)
    courier._now()
    started = time.perf_counter()
    batch = courier.claim(BATCH)
    seconds = time.perf_counter() - started
    if len(batch.items) != BATCH or any(row.target == DEAD for row in batch.items):
        raise RuntimeError(f"{len(batch.items)} claimed, not {BATCH}")
    with db.transaction(url) as session:
        for row in batch.items:
            session.execute(
                text("UPDATE deliveries SET next_attempt_at = created_at, lease_token = NULL "
                     "WHERE id = :id"), {"id": row.id},
            )  # fmt: skip
    return seconds


def locked(url: str, turns: int) -> float:
    """The median seconds from a claim's BEGIN IMMEDIATE to its COMMIT."""
    began, held = [0.0], []

    def begin(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN IMMEDIATE"):
            began[0] = time.perf_counter()

    def commit(_connection: object) -> None:
        if began[0]:
            held.append(time.perf_counter() - began[0])
        began[0] = 0.0

    engine = db.engine(url)
    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "commit", commit)
    for _ in range(turns):
        claim(url)
    event.remove(engine, "before_cursor_execute", begin)
    event.remove(engine, "commit", commit)
    return statistics.median(held[::2])  # every other one gives back what was claimed
