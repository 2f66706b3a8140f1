"""Whether claiming and writing down stay as fast when the history grows.

    python -m benchmarks.claims             # 1,000 + 1,000 jobs against 1,000,000 + 100,000
    python -m benchmarks.claims --explain   # the plans of the hot statements at the larger size

Two databases of one server hold few and many jobs, ended and open. One full turn of each after the
other: `claim` takes 64 due jobs, `apply` writes down 64 answers, each timed from BEGIN to after
COMMIT. Two of 64 answers end their job (it is replaced), six bring a new stage, so every statement
of both functions runs. `claim` is timed twice: with 100 jobs due, as in quiet times, and with all.

Jobs come due by a clock of the benchmark's own, so a batch needs no waiting. PostgreSQL keeps its
files in memory where there is room, and syncs nothing: a disk's wait would hide the difference.
"""

import argparse
import heapq
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import bindparam, event, text
from sqlalchemy.orm import Session

from benchmarks.result import Row
from reelwatch.config.accounts import Account
from reelwatch.jobs import applying, claiming, polling
from reelwatch.jobs.applying import Polled
from reelwatch.jobs.claiming import Claimed
from reelwatch.net.upstream import Poll
from reelwatch.rules.answers import Report, interpret
from reelwatch.rules.deadlines import Rules
from reelwatch.sandbox.upstream import answer
from reelwatch.storage import db, migrating
from reelwatch.storage.job_columns import jobs
from reelwatch.storage.models import UtcDateTime
from tests import servers

LIMIT = 1.5  # times as long at the larger size, at most
DUE = 100  # jobs due in quiet times
BATCH = polling.THREADS
WARM_UP = 10  # turns that are not timed
STEP = 100_000  # jobs made in one transaction
SPAN = 60  # seconds over which the open jobs are due, and the ceiling of their pace

# Fast enough that 64 slots fit between two claims, however close they are.
ACCOUNT = Account("default", "http://127.0.0.1:9", "sk-benchmark", 10_000.0)
RULES = Rules()
BASE = datetime.now(UTC)
VIDEO = "veo3.1-fast:ok.100s-benchmark"
RUNNING, NEXT_STAGE = "video_generating", "video_upsampling"

JOBS = """
INSERT INTO jobs (id, account, video_id, model, state, upstream_status, video_url, metadata,
                  sequence, polls, tracked_at, upstream_created_at, upstream_finished_at,
                  finished_at, last_polled_at, deadline_at, webhook_url, events)
SELECT n, 'default', 'veo3.1-fast:' || (1770350082 + n) || '-' || substr({hash}, 1, 10),
       'veo3.1-fast', 'completed', 'completed', 'https://cdn.example.com/' || {hash} || '.mp4',
       '{{"order": 7}}', 2, 17, {began}, {began}, {ended}, {ended}, {ended}, {began},
       'https://hooks.example.com/reelwatch',
       '["completed", "failed", "expired", "status_changed"]'
FROM {numbers}
"""
OPEN_JOBS = """
INSERT INTO jobs (id, account, video_id, model, state, upstream_status, metadata, sequence, polls,
                  tracked_at, upstream_created_at, next_poll_at, last_polled_at, deadline_at,
                  webhook_url, events)
SELECT n, 'default', 'veo3.1-fast:' || (1770350082 + n) || '-' || substr({hash}, 1, 10),
       'veo3.1-fast', 'running', 'video_generating', '{{"order": 7}}', 1, 9, {tracked}, {tracked},
       {due}, {tracked}, {deadline}, 'https://hooks.example.com/reelwatch',
       '["completed", "failed", "expired", "status_changed"]'
FROM {numbers}
"""
TRANSITIONS = """
INSERT INTO transitions (job_id, sequence, from_state, to_state, from_status, to_status, at,
                         upstream_at, answer)
SELECT id, {step}, '{before}', '{after}', NULL, '{status}', last_polled_at, last_polled_at, {answer}
FROM jobs WHERE id BETWEEN :first AND :last
"""
DELIVERIES = """
INSERT INTO deliveries (id, job_id, transition_id, sequence, event_type, channel, target,
                        destination, body, state, attempts, created_at, delivered_at)
SELECT 'evt_0000000000000000000000' || (1000000000 + t.id), t.job_id, t.id, 2,
       'video.completed', 'webhook', 'https://hooks.example.com/reelwatch', 'hooks.example.com',
       :body, 'delivered', 1, t.at, t.at
FROM transitions AS t WHERE t.job_id BETWEEN :first AND :last AND t.to_state = 'completed'
"""


@dataclass(frozen=True)
class Size:
    """How many jobs a database holds."""

    ended: int
    open: int


FEW, MANY, SOME = Size(1_000, 1_000), Size(1_000_000, 100_000), Size(20_000, 5_000)
HARDLY_ANY = Size(300, 300)  # of a quick run


@dataclass
class Times:
    """Seconds that each batch took."""

    claim: list[float] = field(default_factory=list)
    apply: list[float] = field(default_factory=list)


def report(age: float) -> Report:
    """What upstream says about a job of that age, as the sandbox words it."""
    said = answer(VIDEO, 9, age, (BASE - timedelta(minutes=10)).timestamp())
    read = interpret(VIDEO, said.status, said.headers, said.body, BASE)
    assert isinstance(read, Report)
    return read


REPORTS = {each.status: each for each in map(report, (20.0, 80.0, 101.0))}
ENDED = report(101.0)


# ------------------------------------------------------------------ filling


@dataclass(frozen=True)
class Dialect:
    """How one kind of database says what the statements above leave open."""

    numbers: str
    hash: str
    moment: str  # :base and so many seconds
    answer: str

    def at(self, seconds: str) -> str:
        """The moment that many seconds after the base."""
        return self.moment.format(seconds=seconds)


POSTGRESQL = Dialect(
    numbers="generate_series(cast(:first AS bigint), :last) AS n",
    hash="md5(n::text)",
    moment="cast(:base AS timestamptz) + ({seconds}) * interval '1 second'",
    answer="cast(:answer AS jsonb)",
)
SQLITE = Dialect(
    numbers="(WITH RECURSIVE counted(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM counted "
    "WHERE n < :last) SELECT n FROM counted)",
    hash="lower(hex(randomblob(16)))",
    moment="strftime('%Y-%m-%d %H:%M:%f', :base, printf('%.3f seconds', {seconds})) || '000'",
    answer=":answer",
)


def fill(url: str, size: Size) -> None:
    """Write the history: ended jobs with two transitions and a delivery, then the open ones."""
    with db.transaction(url) as session:
        dialect = SQLITE if session.get_bind().dialect.name == "sqlite" else POSTGRESQL
        session.execute(
            text("INSERT INTO accounts (name, requests_per_second) VALUES ('default', :rate)"),
            {"rate": ACCOUNT.requests_per_second},
        )
    for first in range(1, size.ended + 1, STEP):
        with db.transaction(url) as session:
            _fill_ended(session, dialect, first, min(first + STEP - 1, size.ended))
    with db.transaction(url) as session:
        _fill_open(session, dialect, size)
    if dialect is POSTGRESQL:
        with db.transaction(url) as session:
            session.execute(text("SELECT setval('jobs_id_seq', (SELECT max(id) FROM jobs))"))
        with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _fill_ended(session: Session, dialect: Dialect, first: int, last: int) -> None:
    # One ends every ten seconds, the last of a million about four months after the first.
    age = "(10.0 * (n - :newest) - 3600)"
    statuses = {"hash": dialect.hash, "numbers": dialect.numbers}
    statuses |= {"began": dialect.at(f"{age} - 240"), "ended": dialect.at(age)}
    values = {"first": first, "last": last}
    _execute(session, JOBS.format(**statuses), values | {"newest": 1_000_000, "base": BASE})
    steps = (("pending", "running", "processing"), ("running", "completed", "completed"))
    for number, (before, after, status) in enumerate(steps, 1):
        _transitions(session, dialect, values, number, before, after, status)
    body = '{"type": "video.completed", "data": {"video_id": "' + "x" * 700 + '"}}'
    _execute(session, DELIVERIES, values | {"body": body})


def _fill_open(session: Session, dialect: Dialect, size: Size) -> None:
    values = {"first": size.ended + 1, "last": size.ended + size.open}
    statuses = {"hash": dialect.hash, "numbers": dialect.numbers}
    statuses |= {
        "tracked": dialect.at("-600"),
        "due": dialect.at(f"{SPAN}.0 * (n - :first) / {size.open}"),
        "deadline": dialect.at("30 * 86400"),
    }
    _execute(session, OPEN_JOBS.format(**statuses), values | {"base": BASE})
    _transitions(session, dialect, values, 1, "pending", "running", RUNNING)


def _transitions(
    session: Session,
    dialect: Dialect,
    values: dict[str, Any],
    step: int,
    before: str,
    after: str,
    status: str,
) -> None:
    changed = {"step": step, "before": before, "after": after, "status": status}
    said = '{"id": "veo3.1-fast:x", "status": "processing", "detail": "' + "y" * 400 + '"}'
    statement = TRANSITIONS.format(answer=dialect.answer, **changed)
    _execute(session, statement, values | {"answer": said})


def _execute(session: Session, statement: str, values: dict[str, Any]) -> None:
    made = text(statement)
    if "base" in values:
        made = made.bindparams(bindparam("base", type_=UtcDateTime()))
    session.execute(made, values)


# ------------------------------------------------------------------ turning


class Ground:
    """One database that turns are timed on. It knows when each open job is due, without asking."""

    def __init__(self, url: str, size: Size) -> None:
        self.url = url
        fill(url, size)
        self._now = BASE
        with db.reading(url) as session:
            rows = session.execute(
                text("SELECT id, next_poll_at FROM jobs WHERE next_poll_at IS NOT NULL").columns(
                    next_poll_at=UtcDateTime()
                )
            )
            self._due: dict[int, datetime] = {row[0]: row[1] for row in rows}
        self._statuses: dict[
            int, str | None
        ] = {}  # upstream's last ones, where they are not RUNNING

    def turn(self, times: Times, *, all_due: bool) -> None:
        """Claim and apply once; the times are added."""
        self._set_clock(all_due=all_due)
        started = time.perf_counter()
        with db.transaction(self.url) as session:
            claimed = self.claim(session)
        times.claim.append(time.perf_counter() - started)
        polled = self._polls(claimed)
        started = time.perf_counter()
        with db.transaction(self.url) as session:
            changes, _owed = applying.apply(session, RULES, polled, self._now)
        times.apply.append(time.perf_counter() - started)
        if not len(claimed) == len(changes) == BATCH:
            raise RuntimeError(f"{len(claimed)} claimed and {len(changes)} written, not {BATCH}")
        for change, _poll in changes:
            self._statuses[change.row["id"]] = change.decision.status
            if change.decision.due is None:
                del self._due[change.row["id"]]
            else:
                self._due[change.row["id"]] = change.decision.due
        self._replace(sum(change.decision.final for change, _poll in changes))

    def claim(self, session: Session) -> Sequence[Claimed]:
        """As a worker does, by the benchmark's clock."""
        return claiming.claim(session, ACCOUNT, BATCH, now=self._now).items

    def _polls(self, claimed: Sequence[Claimed]) -> list[Polled]:
        """What 64 polls bring: two ends, six new stages, and else no news."""
        brought = []
        for place, each in enumerate(claimed):
            status = self._statuses.get(each.row["id"], RUNNING)
            said = REPORTS[status]
            if place % 32 == 0:
                said = ENDED
            elif place % 32 < 4:
                said = REPORTS[NEXT_STAGE if status == RUNNING else RUNNING]
            brought.append(Polled(each, Poll(said, 200, 40)))
        return brought

    def explain(self) -> Iterator[str]:
        """The plans of what `claim` and `apply` ask about jobs; nothing of it is kept."""
        self._set_clock(all_due=False)
        with db.engine(self.url).connect() as connection:
            for statement, values in self._statements():
                yield " ".join(statement.split())
                plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", values)
                yield from (f"    {row[0]}" for row in plan)
            connection.rollback()

    def _statements(self) -> list[tuple[str, Any]]:
        noted: list[tuple[str, Any]] = []

        def note(
            _connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool
        ) -> None:
            if statement.lstrip().startswith(("SELECT", "UPDATE", "WITH")):
                noted.append((statement, values[0] if many else values))

        event.listen(db.engine(self.url), "before_cursor_execute", note)
        try:
            with Session(db.engine(self.url)) as session:
                polled = self._polls(self.claim(session))
                applying.apply(session, RULES, polled, self._now)
                session.rollback()
        finally:
            event.remove(db.engine(self.url), "before_cursor_execute", note)
        return noted

    def _set_clock(self, *, all_due: bool) -> None:
        """To when the last, or in quiet times the hundredth, of the open jobs is due."""
        dues = self._due.values()
        self._now = max(dues) if all_due else max(self._now, heapq.nsmallest(DUE, dues)[-1])

    def _replace(self, count: int) -> None:
        if not count:
            return
        due = self._now + timedelta(seconds=SPAN)
        values = {
            "account": "default", "model": "veo3.1-fast", "state": "running", "polls": 9,
            "upstream_status": RUNNING, "metadata": {}, "tracked_at": BASE - timedelta(minutes=10),
            "next_poll_at": due, "deadline_at": BASE + timedelta(days=30), "events": [],
        }  # fmt: skip
        with db.transaction(self.url) as session:
            rows = [
                values | {"video_id": f"veo3.1-fast:{self._now.timestamp()}-{number}"}
                for number in range(count)
            ]
            made = jobs.insert().values(rows).returning(jobs.c.id)
            self._due |= dict.fromkeys(session.execute(made).scalars(), due)


# ---------------------------------------------------------------- comparing


def compare(few: Ground, many: Ground, turns: int, *, all_due: bool) -> tuple[Times, Times]:
    """The times of so many turns on each, one after the other in both orders."""
    few_times, many_times = Times(), Times()
    pairs = [(few, few_times), (many, many_times)]
    warm_up = min(turns, WARM_UP)
    for number in range(warm_up + turns):
        for ground, times in pairs if number % 2 else reversed(pairs):
            ground.turn(Times() if number < warm_up else times, all_due=all_due)
    return few_times, many_times


def measured(
    few: Ground, many: Ground, sizes: tuple[Size, Size], kind: str, turns: int
) -> list[Row]:
    """The ratios of one kind of database."""
    quiet = compare(few, many, turns, all_due=False)
    busy = compare(few, many, turns, all_due=True)
    limit = LIMIT if kind == "PostgreSQL" else None
    named = (
        (f"claim, {DUE} jobs due", quiet[0].claim, quiet[1].claim),
        ("claim, all open jobs due", busy[0].claim, busy[1].claim),
        (f"apply, {BATCH} answers", quiet[0].apply, quiet[1].apply),
    )
    return [ratio(f"{what}, {kind}", pair, sizes, limit) for what, *pair in named]


def ratio(
    what: str, pair: Sequence[list[float]], sizes: tuple[Size, Size], limit: float | None
) -> Row:
    """How many times as long the median at the larger size takes."""
    few, many = (statistics.median(seconds) for seconds in pair)
    late = [sorted(seconds)[len(seconds) * 95 // 100] for seconds in pair]
    small, large = (f"{size.ended:,} ended and {size.open:,} open" for size in sizes)
    note = (
        f"median {many * 1000:.2f} ms (95 %: {late[1] * 1000:.2f}) with {large} jobs, "
        f"{few * 1000:.2f} ms (95 %: {late[0] * 1000:.2f}) with {small}; {len(pair[0])} turns each"
    )
    return Row("claims", what, many / few, "", limit, "lower", note)


@contextmanager
def grounds(kind: str, sizes: tuple[Size, Size]) -> Iterator[tuple[Ground, Ground]]:
    """The two databases, filled."""
    if kind == "SQLite":
        with tempfile.TemporaryDirectory(prefix="reelwatch-claims-") as folder:
            yield _filled(
                [f"sqlite:///{Path(folder) / name}.db" for name in ("few", "many")], sizes
            )
        return
    roomy = {"shared_buffers": "256MB", "max_wal_size": "2GB"}
    with patch.dict(servers.POSTGRES_SETTINGS, roomy), servers.postgres() as server:
        urls = [server.create_database() for _ in sizes]
        try:
            yield _filled(urls, sizes)
        finally:
            db.dispose()
            for url in urls:
                server.drop_database(url)


def _filled(urls: Sequence[str], sizes: tuple[Size, Size]) -> tuple[Ground, Ground]:
    for url in urls:
        migrating.migrate(url)
    few, many = map(Ground, urls, sizes)
    return few, many


def rows(quick: bool) -> list[Row]:
    """The figures; `quick`: of a smaller history, and fewer turns."""
    sizes, turns = ((HARDLY_ANY, FEW), 2) if quick else ((FEW, MANY), 100)
    figures = []
    for kind in ("PostgreSQL", "SQLite"):
        with grounds(kind, sizes) as (few, many):
            figures += measured(few, many, sizes, kind, turns)
        db.dispose()
    return figures


def main() -> int:
    """The command: prints the figures; 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a smaller history")
    parser.add_argument("--explain", action="store_true", help="PostgreSQL's plans, and no figures")
    options = parser.parse_args()
    if options.explain:
        with grounds("PostgreSQL", (FEW, SOME if options.quick else MANY)) as (_few, many):
            print(*many.explain(), sep="\n")
        return 0
    figures = rows(options.quick)
    for row in figures:
        print(f"{row.what}: {row.measured:.2f} times as long; {row.note}")
    return 1 if any(row.met is False for row in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
