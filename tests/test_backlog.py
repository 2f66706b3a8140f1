"""What waits for a receiver that is down costs others nothing: by counts, not by clocks."""

import logging
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text, update
from sqlalchemy.orm import Session

from reelwatch.config.settings import Settings
from reelwatch.jobs import delivery
from reelwatch.rules import breaker
from reelwatch.rules.breaker import Verdict
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import db, destinations, due_deliveries
from reelwatch.storage.destinations import Call
from reelwatch.storage.models import Delivery, Destination, Endpoint, Transition
from tests import seeding
from tests.environment import SECRET
from tests.test_reads import plan

DEAD = "https://dead.example.com/hook"
HOSTS = 6
EACH = 12  # events due for each host that works
BACKLOG = 6_000  # events for the one that is down
STATES = ("well", "open", "half-open", "refusing")  # of its breaker


def fill(url: str) -> None:
    """Events for some that work."""
    with db.transaction(url) as session:
        seeding.add_account(session)
        for number in range(HOSTS):
            host = f"hooks-{number}.example.com"
            session.add(Destination(name=host, failures=0, openings=0, allowance=8))
            for _ in range(EACH):
                seeding.add_owed(session, f"https://{host}/hook")
    analyze(url)


def pile_up(url: str, *, targets: int = 1, failures: int = 3) -> None:
    """The backlog, with one number of failures and another, all due, for so many endpoints."""
    with db.transaction(url) as session:
        owed = seeding.add_owed(session, DEAD)
        at = seeding.at(minutes=5)
        numbers = range(1_000_000, 1_000_000 + BACKLOG)
        shared: dict[str, Any] = {"job_id": owed["job_id"]}
        session.execute(
            insert(Transition),
            [shared | {"id": n, "sequence": n, "from_state": "running", "to_state": "completed",
                       "at": at} for n in numbers],
        )  # fmt: skip
        shared |= {"event_type": "video.completed", "channel": "webhook", "body": "{}",
                   "destination": "dead.example.com", "state": "pending", "created_at": at,
                   "next_attempt_at": at}  # fmt: skip
        session.execute(
            insert(Delivery),
            [shared | {"id": f"evt_{n}", "transition_id": n, "sequence": n,
                       "failures": n % 2 * failures,
                       "target": DEAD if targets == 1 else f"{DEAD}/{n % targets:05}"}
             for n in numbers],
        )  # fmt: skip
    analyze(url)


def analyze(url: str) -> None:
    with db.engine(url).connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()


def put(url: str, state: str) -> None:
    """The dead receiver's breaker into that state."""
    with db.transaction(url) as session:
        now = db.now(session)
        spans = {"open": 600.0, "half-open": -1.0}
        until = now + timedelta(seconds=spans[state]) if state in spans else None
        if state != "well":
            session.merge(Endpoint(name=DEAD, host="dead.example.com", failures=7, openings=3,
                                   allowance=1, open_until=until, changed_at=now))  # fmt: skip


def claim(url: str, limit: int = 64) -> list[str]:
    with db.transaction(url) as session:
        rows = delivery.claim(session, limit, db.now(session))
        session.rollback()
    return [row.target for row in rows]


def steps(url: str) -> int:
    """How many steps SQLite's machine takes for a claim; nothing else decides about it."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with Session(db.engine(url)) as session:
        raw = session.connection().connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.set_progress_handler(step, 10)
        assert delivery.claim(session, 64, db.now(session))
        raw.set_progress_handler(None, 0)
        session.rollback()
    return count


@pytest.mark.parametrize("state", STATES)
def test_a_claim_takes_as_many_steps_as_without_the_backlog(state: str, sqlite_url: str) -> None:
    fill(sqlite_url)
    alone = steps(sqlite_url)
    pile_up(sqlite_url)
    put(sqlite_url, state)
    assert steps(sqlite_url) < 1.5 * alone


@pytest.mark.parametrize("state", STATES)
def test_no_statement_of_a_claim_goes_through_the_backlog(state: str, database_url: str) -> None:
    fill(database_url)
    pile_up(database_url)
    put(database_url, state)
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        if re.match(r"(SELECT|UPDATE|WITH)\b", statement):
            statements.append((statement, given))

    engine = db.engine(database_url)
    event.listen(engine, "before_cursor_execute", note)
    assert claim(database_url)
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) >= 4
    with engine.connect() as connection:
        costs = [cost for each, given in statements for cost in plan(connection, each, given)]
        connection.rollback()
    assert costs == []


def test_no_statement_of_a_claim_by_who_knows_not_all_accounts_goes_through_all_jobs(
    database_url: str,
) -> None:
    fill(database_url)
    pile_up(database_url)
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        statements.append((statement, given))

    engine = db.engine(database_url)
    with db.reading(database_url) as session:
        now = db.now(session)
        event.listen(engine, "before_cursor_execute", note)
        assert due_deliveries.survey(session, 64, now, {"default", "studio"}).ids
        event.remove(engine, "before_cursor_execute", note)
        assert due_deliveries.survey(session, 64, now, {"studio"}).ids == []
    with engine.connect() as connection:
        costs = [cost for each, given in statements for cost in plan(connection, each, given)]
        connection.rollback()
    assert costs == []


def test_where_each_job_has_a_url_of_its_own_a_claim_sees_a_part(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on from there: none waits for ever behind those that are left alone."""
    monkeypatch.setattr(due_deliveries, "WINDOW", 50)
    monkeypatch.setattr(due_deliveries, "_cut_at", {})
    fill(sqlite_url)
    alone = steps(sqlite_url)
    pile_up(sqlite_url, targets=BACKLOG)
    assert steps(sqlite_url) < 2 * alone
    last = f"{DEAD}/{400:05}"
    with db.transaction(sqlite_url) as session:
        later = db.now(session) + timedelta(hours=1)
        rest = update(Delivery).where(Delivery.target.startswith(DEAD), Delivery.target != last)
        session.execute(rest.values(next_attempt_at=later))
    for _ in range(400 // 50 + 2):
        if last in claim(sqlite_url):
            return
    raise AssertionError("never found")


def test_a_host_with_as_many_endpoints_as_a_claim_sees_is_claimed_from_again_and_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing that may go stands behind the place of the cut, the walk begins anew."""
    monkeypatch.setattr(due_deliveries, "WINDOW", 5 * breaker.ALLOWANCE_FIRST)
    monkeypatch.setattr(due_deliveries, "_cut_at", {})
    with db.transaction(database_url) as session:
        for number in range(5):
            for _ in range(12):
                seeding.add_owed(session, f"https://one.example.com/{number}")
        seeding.add_owed(session, "https://one.example.com/resting")
        session.add(Endpoint(name="https://one.example.com/resting", host="one.example.com",
                             failures=7, openings=3, allowance=1, changed_at=db.now(session),
                             open_until=db.now(session) + timedelta(hours=1)))  # fmt: skip
    for _ in range(60 // breaker.ALLOWANCE_FIRST):
        with db.transaction(database_url) as session:
            now = db.now(session)
            rows = delivery.claim(session, 64, now)
            assert len(rows) == breaker.ALLOWANCE_FIRST
            told = {"state": "delivered", "delivered_at": now, "next_attempt_at": None,
                    "lease_token": None}  # fmt: skip
            ids = [row.id for row in rows]
            session.execute(update(Delivery).where(Delivery.id.in_(ids)).values(told))


def test_choosing_takes_no_writers_lock(sqlite_url: str) -> None:
    """While a claim looks through what is due, whoever writes goes on; and the other way round."""
    fill(sqlite_url)
    file = sqlite_url.removeprefix("sqlite:///")
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with db.reading(sqlite_url) as session:
        assert due_deliveries.survey(session, 64, db.now(session)).ids
    writer.execute("COMMIT")
    writer.close()


# ------------------------------------------------------------------ one that refuses


class Host(LocalService):
    """Refuses what goes to `/refused`, takes all else, and keeps the paths in order."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def respond(self, request: Request) -> Answer:
        self.paths.append(request.path)
        time.sleep(0.02)  # as long as it takes some to be under way at once
        return Answer(404 if request.path == "/refused" else 200, {}, b"")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def test_events_that_one_endpoint_refuses_hold_up_no_other_of_its_host(
    database_url: str, host: Host
) -> None:
    """Two hundred of them, older than all others; one that has just the one refused among them."""
    with db.transaction(database_url) as session:
        for _ in range(200):
            seeding.add_owed(session, f"{host.url}/refused")
        for number in range(100):
            seeding.add_owed(session, f"{host.url}/{number % 4}")
    settings = Settings(
        database=database_url, webhook_secrets=(SECRET,), webhook_allow="127.0.0.1"
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while sum(path != "/refused" for path in host.paths) < 100 and time.monotonic() < deadline:
        delivery.deliver(settings, lambda *_: None, batch_seconds=1)
    taken = [place for place, path in enumerate(host.paths) if path != "/refused"]
    assert len(taken) == 100
    # Some go while nothing is known of it, and in places that nobody else has use for.
    assert taken[-1] - 99 < 20


def test_an_event_that_is_always_refused_keeps_no_other_from_being_tried(
    database_url: str,
) -> None:
    """After a rest, too: the one with the fewest failures is tried, however old the other is."""
    target = "https://one.example.com/hook"
    with db.transaction(database_url) as session:
        old = seeding.at(hours=9)
        for _ in range(6):
            seeding.add_owed(session, target, failures=4, created_at=old, next_attempt_at=old)
        fresh = seeding.add_owed(session, target)["id"]
        rested = seeding.at(seconds=breaker.OPEN_FIRST + 1)
        down = [Call("one.example.com", target, Verdict.FAILED, False, rested)] * breaker.FAILURES
        destinations.judge(session, down, rested)
        (row,) = delivery.claim(session, 64, db.now(session))
    assert row.id == fresh


def test_a_worker_has_compiled_all_that_a_claim_runs_before_it_forks(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    db.dispose()  # with what other tests have compiled
    settings = Settings(database=database_url)
    delivery.rehearse(settings)
    target = "https://one.example.com/hook"
    with db.transaction(database_url) as session:
        owed = seeding.add_owed(session, target)["id"]
    with (
        caplog.at_level(logging.INFO, "sqlalchemy.engine"),
        db.transaction(database_url) as session,
    ):
        assert [row.id for row in delivery.claim(session, 64, db.now(session))] == [owed]
    said = [record.getMessage() for record in caplog.records]
    assert [each for each in said if each.startswith("[generated in")] == []
    assert len([each for each in said if each.startswith("[cached since")]) >= 4
