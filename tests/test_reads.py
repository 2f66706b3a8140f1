"""Reads cost what they show, not what has piled up: the plans of their statements, on each kind."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text
from sqlalchemy.orm import Session

from reelwatch.jobs import history, intake, learning, polling, pruning, redelivery, tracking
from reelwatch.storage import db, pages, surveys
from reelwatch.storage.filters import EventFilter, JobFilter
from reelwatch.storage.models import Attempt, Base, Delivery, Job, PollError, Transition
from tests import seeding

ENDED = 6_000  # jobs, one in two failed; each with a transition, an error, an event, an attempt
FEW = 20  # still open, given up, pending, dead
LONG_AGO = seeding.at(days=200)
LATELY = LONG_AGO + timedelta(minutes=ENDED - 50)  # 50 of them are newer
VISITED_MOST = 2_000  # rows that a statement may look at, of tables with three times as many

BIG = {"jobs", "transitions", "poll_errors", "deliveries", "attempts"}

Row = dict[str, Any]


def fill(url: str) -> None:
    """What a year leaves behind, and what goes on."""
    with db.transaction(url) as session:
        for name in ("default", "rare"):
            seeding.add_account(session, name)
        for table, make in MADE.items():
            session.execute(insert(table), [make(number) for number in range(1, ENDED + 1)])
    if url.startswith("postgresql"):
        with db.engine(url).begin() as connection:
            for name in ("jobs", "transitions"):
                number = f"pg_get_serial_sequence('{name}', 'id')"
                connection.execute(text(f"SELECT setval({number}, {ENDED})"))
    with db.transaction(url) as session:
        for few in range(FEW):
            seeding.add_job(session, "running", video_id=f"grok:open-{few}")
            seeding.add_job(session, "expired", abandoned_at=seeding.at(days=1))
    with db.engine(url).connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()


def _job(number: int) -> Row:
    at = LONG_AGO + timedelta(minutes=number)
    failed = number % 2 == 0
    return {
        "id": number,
        "account": "rare" if number % 600 == 0 else "default",
        "video_id": f"grok:{number}",
        "model": "grok",
        "state": "failed" if failed else "completed",
        "error_code": "upstream_failed" if failed else None,
        "video_url": None if failed else "https://v.example.com/x.mp4",
        "metadata_": {},
        "events": [],
        "tracked_at": at,
        "deadline_at": at,
        "finished_at": at,
    }


def _transition(number: int) -> Row:
    job = _job(number)
    return {"id": number, "job_id": number, "sequence": 1, "from_state": "running",
            "to_state": job["state"], "at": job["finished_at"]}  # fmt: skip


def _error(number: int) -> Row:
    at = _job(number)["finished_at"]
    return {"id": number, "job_id": number, "kind": "timeout", "message": "slow",
            "first_at": at, "last_at": at}  # fmt: skip


def _delivery(number: int) -> Row:
    at = _job(number)["finished_at"]
    dead, pending = number % (ENDED // FEW) == 0, number % (ENDED // FEW) == 1
    state = "dead" if dead else "pending" if pending else "delivered"
    return {"id": f"evt_{number:08x}", "job_id": number, "transition_id": number, "sequence": 1,
            "event_type": "video.completed", "channel": "webhook", "target": "https://h/x",
            "destination": "h", "body": "{}", "state": state, "created_at": at,
            "next_attempt_at": at if pending else None,
            "delivered_at": at if state == "delivered" else None}  # fmt: skip


def _attempt(number: int) -> Row:
    at = _job(number)["finished_at"]
    return {"id": number, "delivery_id": f"evt_{number:08x}", "at": at, "duration_ms": 5}


MADE: Mapping[type[Base], Callable[[int], Row]] = {
    Job: _job, Transition: _transition, PollError: _error, Delivery: _delivery, Attempt: _attempt,
}  # fmt: skip

NEWEST = (LONG_AGO + timedelta(minutes=ENDED // 2), ENDED // 2)

READS: dict[str, Callable[[Session], object]] = {
    "show": lambda s: history.story(s, "grok:77"),
    "list": history.list_jobs,
    "list, a later page": lambda s: history.list_jobs(s, before=NEWEST),
    "list failed": lambda s: history.list_jobs(s, state="failed"),
    "list failed, a later page": lambda s: history.list_jobs(s, state="failed", before=NEWEST),
    "list running": lambda s: history.list_jobs(s, state="running"),
    "list expired": lambda s: history.list_jobs(s, state="expired"),
    "list of an account": lambda s: history.list_jobs(s, account="rare"),
    "list of an account, failed": lambda s: history.list_jobs(s, account="rare", state="failed"),
    "list ids": lambda s: history.list_jobs(s, ids=["grok:5", "grok:6"]),
    "list since": lambda s: history.list_jobs(s, since=LATELY),
    "list until": lambda s: history.list_jobs(s, until=LATELY),
    "list of a model": lambda s: history.list_jobs(s, model="grok"),
    "list of a model that is rare": lambda s: history.list_jobs(s, model="sora"),
    "list by prefix": lambda s: history.list_jobs(s, prefix="grok:59"),
    "list by prefix of an account": lambda s: history.list_jobs(s, prefix="grok:6", account="rare"),
    "list by metadata": lambda s: history.list_jobs(s, metadata={"order": "42"}),
    "list failed by metadata": lambda s: history.list_jobs(
        s, metadata={"order": 42}, state="failed"
    ),
    "what to cancel": lambda s: surveys.to_cancel(url_of(s), JobFilter(prefix="grok:")),
    "what to recheck": lambda s: surveys.to_recheck(url_of(s), JobFilter(account="rare")),
    "what to recheck of the failed": lambda s: surveys.to_recheck(
        url_of(s), JobFilter(state="failed", since=LATELY)
    ),
    "what to redeliver": lambda s: surveys.to_redeliver(url_of(s), EventFilter(state="dead")),
    "what to redeliver since": lambda s: surveys.to_redeliver(url_of(s), EventFilter(since=LATELY)),
    "what to redeliver to an endpoint": lambda s: surveys.to_redeliver(
        url_of(s), EventFilter(endpoint="h", account="rare")
    ),
    "deliveries to an endpoint": lambda s: history.list_deliveries(s, endpoint="https://h/x"),
    "watch": lambda s: history.live_jobs(s, limit=50),
    "watch an account": lambda s: history.live_jobs(s, account="rare", limit=50),
    "watch ids": lambda s: history.live_jobs(s, ids=["grok:5", "grok:6"]),
    "changes": lambda s: history.changes(s, ENDED - 100),
    "changes of ids": lambda s: history.changes(s, ENDED - 100, ids=["grok:5"]),
    "last change": history.last_change,
    "deliveries": history.list_deliveries,
    "deliveries, a later page": lambda s: history.list_deliveries(
        s, before=(NEWEST[0], "evt_00000bb8")
    ),
    "deliveries dead": lambda s: history.list_deliveries(s, state="dead"),
    "deliveries pending": lambda s: history.list_deliveries(s, state="pending"),
    "deliveries of an id": lambda s: history.list_deliveries(s, video_id="grok:77"),
    "accounts": history.list_accounts,
    "doctor": lambda s: history.summary(s, db.now(s)),
    "redeliver ids": lambda s: redelivery.redeliver(s, db.now(s), ["evt_00000005"]),
    "prune what ended": lambda s: s.execute(
        pruning._old(Job.finished_at, LONG_AGO + timedelta(minutes=60), None).limit(500)
    ).all(),
    "prune what was given up": lambda s: s.execute(
        pruning._old(Job.abandoned_at, LATELY, None).limit(500)
    ).all(),
    "learn of what": lambda s: learning._changed(s, LATELY),
    "tick": lambda s: s.execute(polling.due_accounts(db.now(s))).all(),
    "tick: what waits": lambda s: s.execute(intake.due(db.now(s))).all(),
    "cancel": lambda s: tracking.cancel("grok:open-1", session=s),
    "track": lambda s: tracking.track("grok:new", session=s),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full_url(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    from tests.conftest import connections_closed, migrate, new_database  # noqa: PLC0415

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('grown') / 'reelwatch.db'}"
        migrate(url)
        fill(url)
        db.dispose()
        yield url
        return
    with new_database(request.getfixturevalue("postgres_server")) as url, connections_closed(url):
        migrate(url)
        fill(url)
        db.dispose()
        yield url


@pytest.mark.parametrize("name", READS)
def test_a_read_costs_what_it_shows(
    full_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement goes through all of a table that grows."""
    from tests.environment import configured  # noqa: PLC0415

    configured(full_url, monkeypatch)
    monkeypatch.setattr(history, "COUNT_MOST", 100)
    monkeypatch.setattr(pages, "SCANNED_MOST", 200)
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        if re.match(r"(SELECT|UPDATE|DELETE|WITH)\b", statement):
            statements.append((statement, given))

    engine = db.engine(full_url)
    event.listen(engine, "before_cursor_execute", note)
    with Session(engine, expire_on_commit=False) as session:
        READS[name](session)
        event.remove(engine, "before_cursor_execute", note)
        connection = session.connection()
        costs = [
            (statement, cost)
            for statement, given in statements
            for cost in plan(connection, statement, given)
        ]
        session.rollback()
    assert statements
    assert costs == []


def plan(connection: Connection, statement: str, given: Any) -> Iterator[str]:
    """What in a statement's plan costs more the longer the tables are."""
    if connection.dialect.name == "sqlite":
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given):
            found = re.match(r"SCAN (\w+)(?! USING)\b(?!.*USING)", str(row[3]))
            if found and found[1] in BIG:
                yield str(row[3])
        return
    # The tables are small still: as the planner would see them if they were large.
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    connection.exec_driver_sql("SET LOCAL random_page_cost = 1.1")
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
    found = connection.exec_driver_sql(explain, given).scalar_one()
    connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
    tree = found if isinstance(found, list) else json.loads(found)
    for node in nodes(tree[0]["Plan"]):
        if node.get("Relation Name") not in BIG:
            continue
        visited = node["Actual Loops"] * (
            node["Actual Rows"]
            + node.get("Rows Removed by Filter", 0)
            + node.get("Rows Removed by Index Recheck", 0)
        )
        if node["Node Type"] == "Seq Scan" or visited > VISITED_MOST:
            yield f"{node['Node Type']} of {node['Relation Name']}: {visited:g} rows"


def url_of(session: Session) -> str:
    url: str = session.connection().engine.url.render_as_string(hide_password=False)
    return url


def nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from nodes(inner)


def test_pages_hold_every_row_once(database_url: str) -> None:
    """The last row of a page begins the next one, also where times are equal."""
    at = seeding.at(hours=1)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        for number in range(7):
            job = seeding.add_job(session, "completed", tracked_at=at, finished_at=at)
            step = seeding.add_transition(session, job, at=at)
            seeding.add_delivery(session, job, step, "dead" if number % 2 else "delivered")
        seen, events = [], []
        page = history.list_jobs(session, limit=3, account="default")
        while page:
            seen += [row["id"] for row in page]
            last = page[-1]
            page = history.list_jobs(
                session, limit=3, account="default", before=(last["tracked_at"], last["id"])
            )
        told = history.list_deliveries(session, limit=3)
        while told:
            events += [row["id"] for row in told]
            end = told[-1]
            told = history.list_deliveries(session, limit=3, before=(end["created_at"], end["id"]))
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)
    assert len(events) == len(set(events)) == 7


def test_counts_stop_where_they_would_take_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "COUNT_MOST", 3)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        for _ in range(5):
            seeding.add_job(session, "completed")
        seeding.add_job(session, "running")
        counts = history.summary(session, db.now(session))["jobs"]
    assert (counts["completed"], counts["running"]) == (3, 1)
    assert (history.at_most(3), history.at_most(2)) == ("3+", "2")
