"""Reads cost what they show, not what has piled up: the plans of their statements, on each kind."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text, update
from sqlalchemy.orm import Session

from reelwatch.jobs import (
    history,
    intake,
    learning,
    pruning,
    redelivery,
    tracking,
    watching,
)
from reelwatch.rules.breaker import Verdict
from reelwatch.storage import (
    actions,
    counts,
    db,
    destinations,
    due_jobs,
    events,
    feed,
    figures,
    findings,
    gauges,
    overviews,
    paging,
    searching,
    stuck,
    surveys,
    topics,
)
from reelwatch.storage.destinations import Call
from reelwatch.storage.filters import EventFilter, JobFilter
from reelwatch.storage.models import (
    Action,
    ActionJob,
    Attempt,
    Base,
    Delivery,
    Endpoint,
    Event,
    Feed,
    Job,
    PollError,
    Transition,
)
from reelwatch.storage.paging import rows_of
from reelwatch.web.pages import deliveries, job, listing, models, now, standing
from tests import seeding
from tests.servers import DATABASE_KINDS

ENDED = 6_000  # jobs, one in two failed; each with a transition, an error, an event, an attempt
FEW = 20  # still open, given up, dead
OLD = 2_500  # of an account that rests: open for longer than the others ended
LONG_AGO = seeding.at(days=200)
LATELY = LONG_AGO + timedelta(minutes=ENDED - 50)  # 50 of them are newer
# On SQLite they read the newest rows by their ids, as many as they show: it calls that a scan.
BY_ID = {
    "page of now", "page of now, the same again", "what has changed",
   "an attempt that failed", "search without a find",
}  # fmt: skip
VISITED_MOST = 2_000  # rows that a statement may poll, of tables with three times as many

BIG = {
    "jobs", "transitions", "poll_errors", "deliveries", "attempts", "events", "actions",
    "action_jobs",
}  # fmt: skip

Row = dict[str, Any]


def fill(url: str) -> None:
    """What a year leaves behind, and what goes on."""
    with db.transaction(url) as session:
        for name in ("default", "other", "rare", "resting"):
            seeding.add_account(session, name)
        for table, make in MADE.items():
            all_at_once = insert(table).execution_options(render_nulls=True)
            session.execute(all_at_once, [make(number) for number in range(1, ENDED + 1)])
        session.execute(update(Feed).values(last_position=ENDED - FEW))
    if url.startswith("postgresql"):
        with db.engine(url).begin() as connection:
            for name in ("jobs", "transitions", "actions"):
                number = f"pg_get_serial_sequence('{name}', 'id')"
                connection.execute(text(f"SELECT setval({number}, {ENDED})"))
    with db.transaction(url) as session:
        refuses = {"failures": 0, "openings": 0, "allowance": 1, "changed_at": LATELY}
        session.add(Endpoint(name="https://h/x", host="h", failing_since=LATELY, **refuses))
        session.execute(insert(Job), [_open_job(number) for number in range(OLD)])
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
        "account": "rare" if number % 600 == 0 else "default" if failed else "other",
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


def _open_job(number: int) -> Row:
    """None has the state, or the error, that is looked for, and none is among the newest."""
    at = LONG_AGO - timedelta(days=1) + timedelta(seconds=number)
    return {"account": "resting", "video_id": f"grok:old-{number}", "model": "grok",
            "state": "running", "metadata_": {}, "events": [], "tracked_at": at, "deadline_at": at,
            "next_poll_at": at, "errors_in_row": 1, "last_error": "unauthorized",
            "errors_since": at}  # fmt: skip


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
    dead, pending = number % (ENDED // FEW) == 0, number % 5 in (1, 3)
    state = "dead" if dead else "pending" if pending else "delivered"
    return {"id": f"evt_{number:08x}", "job_id": number, "transition_id": number, "sequence": 1,
            "event_type": "video.completed", "channel": "webhook", "target": "https://h/x",
            "destination": "h", "body": "{}", "state": state, "created_at": at,
            "next_attempt_at": at if pending else None,
            "delivered_at": at if state == "delivered" else None}  # fmt: skip


def _attempt(number: int) -> Row:
    at = _job(number)["finished_at"]
    return {"id": number, "delivery_id": f"evt_{number:08x}", "at": at, "duration_ms": 5}


def _event(number: int) -> Row:
    job = _job(number)
    return {"id": number, "event_id": f"evt_{number:08x}", "job_id": number, "sequence": 1,
            "account": job["account"], "type": "video.completed", "at": job["finished_at"],
            "position": None if number > ENDED - FEW else number}  # fmt: skip


def _action(number: int) -> Row:
    return {"id": number, "at": _job(number)["finished_at"], "who": "ops", "action": "recheck",
            "count": 1}  # fmt: skip


def _action_job(number: int) -> Row:
    """The newest action is about half of all jobs."""
    return {"job_id": number, "action_id": number if number <= ENDED // 2 else ENDED}


MADE: Mapping[type[Base], Callable[[int], Row]] = {
    Job: _job, Transition: _transition, PollError: _error, Delivery: _delivery, Attempt: _attempt,
    Event: _event, Action: _action, ActionJob: _action_job,
}  # fmt: skip

NEWEST = (LONG_AGO + timedelta(minutes=ENDED // 2), ENDED // 2)

READS: dict[str, Callable[[Session], object]] = {
    "show": lambda s: history.story(s, "grok:77", "other"),
    "list": history.list_jobs,
    "list, a later page": lambda s: history.page_of_jobs(s, JobFilter(), before=NEWEST),
    "list failed": lambda s: history.list_jobs(s, state="failed"),
    "list failed, a later page": lambda s: history.page_of_jobs(
        s, JobFilter(state="failed"), before=NEWEST
    ),
    "list running": lambda s: history.list_jobs(s, state="running"),
    "list expired": lambda s: history.list_jobs(s, state="expired"),
    "list of an account": lambda s: history.list_jobs(s, account="rare"),
    "list of an account, failed": lambda s: history.list_jobs(s, account="rare", state="failed"),
    "list of an account, of another state": lambda s: history.list_jobs(
        s, account="other", state="failed"
    ),
    "list of an account with open ones": lambda s: history.page_of_jobs(
        s, JobFilter(account="resting")
    ),
    "list pending": lambda s: history.page_of_jobs(s, JobFilter(state="pending")),
    "list pending of an account": lambda s: history.page_of_jobs(
        s, JobFilter(account="resting", state="pending")
    ),
    "list running of few": lambda s: history.list_jobs(s, account="default", state="running"),
    "list expired of an account": lambda s: history.list_jobs(s, account="rare", state="expired"),
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
    "feed: how far it is": feed.head,
    "feed: a page": lambda s: feed.page(s, ENDED // 2, ENDED, limit=100),
    "feed: a page of a rare account": lambda s: feed.page(
        s, ENDED // 2, ENDED, account="rare", limit=100
    ),
    "feed: numbering": feed.number,
    "feed: what is deleted": lambda s: feed.forget(s, [5, 6]),
    "actions, one of very many jobs": history.list_actions,
    "actions, each of a job": lambda s: history.list_actions(s, before=ENDED // 2),
    "pauses of an account": lambda s: actions.pauses(s, "other", LONG_AGO, None),
    "who paused an account": lambda s: actions.paused_by(s, ["other"]),
    "actions to prune": lambda s: actions.old(s, LATELY),
    "changes": lambda s: history.changes(s, ENDED - 100),
    "changes of ids": lambda s: history.changes(s, ENDED - 100, ids=["grok:5"]),
    "last change": history.last_change,
    "deliveries": history.list_deliveries,
    "deliveries, a later page": lambda s: events.page_of_events(
        s, EventFilter(), 50, (NEWEST[0], "evt_00000bb8")
    ),
    "deliveries dead": lambda s: history.list_deliveries(s, state="dead"),
    "deliveries pending": lambda s: history.list_deliveries(s, state="pending"),
    "deliveries of an id": lambda s: history.list_deliveries(s, video_id="grok:77"),
    "accounts": history.list_accounts,
    "doctor": lambda s: figures.summary(s, db.now(s)),
    "doctor: jobs that are stuck": lambda s: stuck.stuck(s, db.now(s)),
    "an attempt that failed": lambda s: destinations.judge(
        s, [Call("h", "https://h/x", Verdict.FAILED, False, LONG_AGO)], LATELY
    ),
    "redeliver ids": lambda s: redelivery.redeliver(s, db.now(s), ["evt_00000005"]),
    "prune what ended": lambda s: s.execute(
        pruning._old(Job.finished_at, LONG_AGO + timedelta(minutes=60), None).limit(500)
    ).all(),
    "prune what was given up": lambda s: s.execute(
        pruning._old(Job.abandoned_at, LATELY, None).limit(500)
    ).all(),
    "learn of what": lambda s: learning._changed(s, LATELY, "the usual"),
    "tick": lambda s: s.execute(due_jobs.due_accounts(db.now(s))).all(),
    "an outage, or one odd job": lambda s: watching._is_of_upstream(s, "resting"),
    "an outage, or one that others ended beside": lambda s: watching._have_ended(
        s, "no", LONG_AGO + timedelta(minutes=ENDED // 2)
    ),
    "tick: what waits": lambda s: s.execute(intake.due(db.now(s))).all(),
    "page of now": now.view,
    "page of now, the same again": lambda s: now.view(s, [ENDED - 20, ENDED - 10]),
    "gauges: what is due": lambda s: s.execute(gauges._due(db.now(s))).all(),
    "page of jobs": lambda s: listing.view(s, listing.Asked()),
    "page of jobs, the same again": lambda s: listing.view(s, listing.Asked(), ids=[5, 6]),
    "page of open jobs": lambda s: listing.view(s, listing.Asked(state="open")),
    "page of jobs in error": lambda s: listing.view(s, listing.Asked(error="timeout")),
    "page of failed jobs in error": lambda s: listing.view(
        s, listing.Asked(error="timeout", state="failed")
    ),
    "page of jobs by their code": lambda s: listing.view(s, listing.Asked(error="not_found")),
    "page of open jobs of an account": lambda s: listing.view(
        s, listing.Asked(state="open", account="resting")
    ),
    "page of jobs in an error of others": lambda s: listing.view(
        s, listing.Asked(error="unauthorized", account="other")
    ),
    "page of jobs by a code of others": lambda s: listing.view(
        s, listing.Asked(error="upstream_failed", account="other")
    ),
    "page of pending deliveries": lambda s: deliveries.view(s, deliveries.Asked(state="pending")),
    "page that asks about an order": lambda s: deliveries.order_view(
        s, deliveries.Asked(account="rare")
    ),
    "page of an order to an endpoint": lambda s: deliveries.filters_of(
        s, {"endpoint": "https://no.example/x"}
    ),
    "figures": lambda s: figures.figures_now(s, db.now(s)),
    "endpoints that are not well": lambda s: findings.unwell(s, db.now(s), 5),
    "endpoints that nobody calls any more": lambda s: destinations.idle(s, db.now(s)),
    "endpoints now": lambda s: figures.endpoints_now(s, db.now(s)),
    "page of jobs by a code of many": lambda s: listing.view(
        s, listing.Asked(error="upstream_failed")
    ),
    "page of jobs of an unknown model": lambda s: listing.view(s, listing.Asked(model="no")),
    "page of deliveries of an unknown account": lambda s: deliveries.view(
        s, deliveries.Asked(account="no", endpoint="no.example")
    ),
    "page of deliveries to an unknown endpoint": lambda s: deliveries.view(
        s, deliveries.Asked(endpoint="no.example")
    ),
    "page of a job": lambda s: job.view(s, 77),
    "page of deliveries": lambda s: deliveries.view(s, deliveries.Asked()),
    "page of dead deliveries": lambda s: deliveries.view(s, deliveries.Asked(state="dead")),
    "page of deliveries by status": lambda s: deliveries.view(s, deliveries.Asked(status="502")),
    "page of endpoints": deliveries.endpoints_view,
    "page of accounts": standing.view,
    "page of models": models.view,
    "search without a find": lambda s: searching.search(s, "nothing-is-so"),
    "search for a video": lambda s: searching.search(s, "grok:77"),
    "search for an event": lambda s: searching.search(s, "evt_00000005"),
    "what has changed": lambda s: topics.marks(s, [5, 6]),
    "cancel": lambda s: tracking.cancel("grok:open-1", session=s),
    "track": lambda s: tracking.track("grok:new", session=s),
}


@pytest.fixture(scope="module", params=DATABASE_KINDS)
def full_url(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    from tests.databases import connections_closed, migrate, new_database  # noqa: PLC0415

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
    monkeypatch.setattr(counts, "COUNT_MOST", 100)
    monkeypatch.setattr(overviews, "COUNT_MOST", 100)
    monkeypatch.setattr(overviews, "SAMPLE", 100)
    monkeypatch.setattr(watching, "JOBS_SEEN", 100)
    monkeypatch.setattr(searching, "LOOKED_AT", 200)
    monkeypatch.setattr(searching, "LATELY", 500)
    monkeypatch.setattr(figures, "OPEN_MOST", 200)
    monkeypatch.setattr(gauges, "COUNT_MOST", 200)
    monkeypatch.setattr(paging, "SCANNED_MOST", 200)
    monkeypatch.setattr(paging, "EVENTS_MOST", 200)
    monkeypatch.setattr(paging, "FEW", 100)
    monkeypatch.setattr(feed, "SCANNED_MOST", 200)
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
    if full_url.startswith("sqlite") and name in BY_ID:
        costs = [(each, scan) for each, scan in costs if not re.search(r"\.id DESC\s+LIMIT", each)]
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
    """As the process is configured: the engine's has what is added to every connection."""
    engine = session.connection().engine
    [url] = {url for (url, _), each in db._engines.items() if each is engine}
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
        seen = rows_of(
            lambda _, before: history.page_of_jobs(
                session, JobFilter(account="default"), 3, before
            ),
            limit=None,
        )
        told = rows_of(
            lambda _, before: events.page_of_events(session, EventFilter(), 3, before), limit=None
        )
    assert [row["id"] for row in seen] == sorted({row["id"] for row in seen}, reverse=True)
    assert len(seen) == len({row["id"] for row in told}) == len(told) == 7


def test_counts_stop_where_they_would_take_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "COUNT_MOST", 3)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        for _ in range(5):
            seeding.add_job(session, "completed")
        seeding.add_job(session, "running")
        found = figures.summary(session, db.now(session))["jobs"]
    assert (found["completed"], found["running"]) == (3, 1)
    assert (counts.at_most(3), counts.at_most(2)) == ("3+", "2")
