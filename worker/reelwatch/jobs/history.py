"""What happened: reads the tables for people and programs, and changes nothing.

Every function takes a session (`db.reading(url)` gives one that takes no writer's lock) and returns
plain dicts under the column names; times are aware UTC. Jobs have an `eta` besides: None, or how
many seconds half of such jobs, and nine of ten, still take. What is polled or sent again has
`next_poll_expected_at` and `next_poll_reason`, or `next_attempt_…`: when that will really be, None
if nobody can know, and what is in the way of the due time, if anything is.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    and_,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.errors import UnknownJob
from reelwatch.rules.status import FINAL, OPEN, State
from reelwatch.rules.timing.curves import Eta
from reelwatch.rules.timing.remaining import FORETOLD, as_json, remaining
from reelwatch.storage import db, forecasts, prospects
from reelwatch.storage.destinations import resting, shown
from reelwatch.storage.filters import (
    ENDED,
    GIVEN_UP,
    OPEN_JOBS,
    EventFilter,
    JobFilter,
    event_parts,
    named,
    parts_of,
    unknown,
)
from reelwatch.storage.models import Job, table_of
from reelwatch.storage.pages import Page, Place, page, rows_of

Row = dict[str, Any]

jobs: Table = table_of("jobs")
transitions: Table = table_of("transitions")
poll_errors: Table = table_of("poll_errors")
deliveries: Table = table_of("deliveries")
attempts: Table = table_of("attempts")
accounts: Table = table_of("accounts")
heartbeats: Table = table_of("heartbeats")

# How looks are scheduled and fenced is the worker's own affair and may change with any release.
INTERNAL = frozenset(
    {
        "lease_token", "last_error_id", "not_found_count", "not_found_since", "resultless_count",
        "resultless_since", "errors_since", "watched_since",
        "failures", "destination", "next_slot_at", "refusals", "limited_at", "limited_by",
        "worked_at",
    }
)  # fmt: skip
COUNT_MOST = 10_000  # counts stop here: what is more is told as this many
OVERDUE_AFTER = timedelta(seconds=60)  # a look this late is not just waiting for its turn
IDS_AT_ONCE = 500  # values in one IN list


def story(session: Session, video_id: str, account: str = "default") -> dict[str, Any]:
    """All that is known of one job: its row, transitions, errors, deliveries and their attempts.

    Raises `UnknownJob`, whose message names the accounts that do track the id.
    """
    job = _job(session, video_id, account)
    return {
        "job": _with_etas(session, [job])[0],
        "transitions": _of_job(session, transitions, job["id"], transitions.c.sequence),
        "poll_errors": _of_job(session, poll_errors, job["id"], poll_errors.c.id),
        "deliveries": _with_attempts(
            session,
            _of_job(session, deliveries, job["id"], deliveries.c.sequence, deliveries.c.channel),
        ),
    }


def list_jobs(
    session: Session,
    wanted: JobFilter | None = None,
    *,
    limit: int | None = 50,
    before: Place | None = None,
    **fields: Any,
) -> list[Row]:
    """Jobs, the newest first: those `wanted`, which may come as the `fields` of a `JobFilter`.

    `limit` None means all. `before`, the `tracked_at` and `id` of the last job of a page, begins
    the next one.
    """
    asked = wanted or JobFilter(**fields)
    return rows_of(lambda most, place: page_of_jobs(session, asked, most, place), limit, before)


def page_of_jobs(
    session: Session, wanted: JobFilter, limit: int | None = 50, before: Place | None = None
) -> Page:
    """A page of jobs, the newest first, in a time that does not grow with the history.

    It may hold fewer than `limit` and not be the last: its `next`, if any, begins the next one.
    """
    query = select(*_public(jobs)).where(*wanted.indexed(session))
    sieve, parts = wanted.sieve(session), wanted.parts()
    found = page(session, query, parts, sieve, limit=limit, before=before)
    return Page(_with_etas(session, found.rows), found.next)


def live_jobs(
    session: Session,
    *,
    account: str | None = None,
    limit: int | None = None,
    ids: Sequence[str] | None = None,
) -> list[Row]:
    """For watching: jobs that go on, the newest first, then those that ended last.

    Each part has an index to go by.
    """
    conditions = (
        account is not None and jobs.c.account == account,
        ids is not None and named(session, ids, account),
    )
    query = _where(select(*_public(jobs)), conditions)
    newest = (jobs.c.tracked_at.desc(), jobs.c.id.desc())
    rows = _rows(session, query.where(OPEN_JOBS).order_by(*newest).limit(limit))
    left = None if limit is None else limit - len(rows)
    ended = [
        *_rows(session, query.where(ENDED).order_by(jobs.c.finished_at.desc()).limit(left)),
        *_rows(session, query.where(GIVEN_UP).order_by(jobs.c.abandoned_at.desc()).limit(left)),
    ]
    ended.sort(key=lambda row: row["finished_at"] or row["abandoned_at"], reverse=True)
    return _with_etas(session, rows + ended[:left])


def eta(video_id: str, account: str = "default", session: Session | None = None) -> Eta | None:
    """How many seconds from now it takes until half, and nine of ten, of such jobs have ended.

    None for a job that is neither pending nor running, and while nothing is known: too few jobs of
    its model have ended, or the last look brought no answer about it. Raises `UnknownJob`.
    """
    url = "" if session else settings.handing_in().database_url
    with nullcontext(session) if session else db.reading(url) as joined:
        return _etas(joined, [_job(joined, video_id, account)])[0]


def job_row(job: Job) -> Row:
    """A job that a use case returned, as `list_jobs` would give it, but for its `eta`."""
    mapper = Job.__mapper__  # knows that the column `metadata` is the attribute `metadata_`
    row = {
        column.name: getattr(job, mapper.get_property_by_column(column).key)
        for column in _public(jobs)
    }
    if row["deadline_seconds"] is not None:  # what SQLite returns of an insertion may be an int
        row["deadline_seconds"] = float(row["deadline_seconds"])
    return row


def list_deliveries(
    session: Session,
    *,
    video_id: str | None = None,
    limit: int | None = 50,
    before: Place | None = None,
    **fields: Any,
) -> list[Row]:
    """Events owed or told, the newest first, each with its job's id and its last attempt.

    The `fields` are those of an `EventFilter`. `before`, the `created_at` and `id` of the last
    event of a page, begins the next one.
    """
    wanted = EventFilter(**fields)
    query = select(*_public(deliveries), jobs.c.video_id, jobs.c.account)
    query = query.join(jobs, jobs.c.id == deliveries.c.job_id).where(*wanted.indexed())
    parts, sieve = wanted.parts(), wanted.sieve()
    if video_id is not None:
        query = query.where(named(session, [video_id], wanted.account))
        parts = [true() if wanted.state is None else deliveries.c.state == wanted.state]
    rows = rows_of(
        lambda most, place: page(
            session, query, parts, sieve, time="created_at", limit=most, before=place
        ),
        limit,
        before,
    )
    tried = _attempts_of(session, [row["id"] for row in rows])
    again = prospects.of_deliveries(session, rows, db.now(session))
    return [
        row | {"last_attempt": _last(tried.get(row["id"]))} | expected
        for row, expected in zip(rows, again, strict=True)
    ]


def list_accounts(session: Session) -> list[Row]:
    """Each account's standing, with the number of its jobs that have not ended."""
    waiting = (
        select(func.count())
        .where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at.is_not(None))
        .scalar_subquery()
    )
    query = select(*_public(accounts), waiting.label("open_jobs")).order_by(accounts.c.name)
    return _rows(session, query)


def summary(session: Session, now: datetime) -> dict[str, Any]:
    """How things stand: jobs by state, what is late, what is owed, when the last tick was.

    Nothing is counted beyond `COUNT_MOST`, which then stands for "so many or more".
    """
    by_state = {
        state.value: sum(_count(session, jobs, part) for part in parts_of(state)) for state in State
    }
    by_state = {state: min(count, COUNT_MOST) for state, count in by_state.items()}
    tick = session.execute(
        select(heartbeats.c.at).where(heartbeats.c.name == "tick")
    ).scalar_one_or_none()
    return {
        "jobs": by_state,
        "open": min(COUNT_MOST, sum(by_state[state] for state in OPEN)),
        "abandoned": _count(session, jobs, GIVEN_UP),
        "overdue": _overdue(session, now),
        "resting": _resting(session, now),
        "undelivered": _count(session, deliveries, deliveries.c.state == "pending"),
        "undelivered_webhooks": undelivered_webhooks(session),
        "dead": _count(session, deliveries, *event_parts("dead")),
        "resting_receivers": [shown(row["name"]) for row in resting(session, now)],
        "last_tick_at": tick,
        "last_tick_age_seconds": None if tick is None else (now - tick).total_seconds(),
    }


def undelivered_webhooks(session: Session, account: str | None = None) -> int:
    """How many webhooks are owed, of all jobs or of an account's; at most `COUNT_MOST`."""
    owed = [deliveries.c.state == "pending", deliveries.c.channel == "webhook"]
    if account is None:
        return _count(session, deliveries, *owed)
    query = select(literal(1)).join(jobs, jobs.c.id == deliveries.c.job_id)
    few = query.where(*owed, jobs.c.account == account).limit(COUNT_MOST).subquery()
    return session.execute(select(func.count()).select_from(few)).scalar_one()


def at_most(count: int) -> str:
    """A count of `summary`, as people read it."""
    return f"{count}+" if count >= COUNT_MOST else str(count)


def changes(
    session: Session,
    after: int,
    ids: Sequence[str] | None = None,
    account: str | None = None,
    limit: int | None = None,
) -> list[Row]:
    """The transitions with an id above `after`, oldest first, each with its job's present data."""
    columns = (
        *(column for column in transitions.c if column.name != "answer"),
        jobs.c.video_id, jobs.c.account, jobs.c.video_url, jobs.c.error_code, jobs.c.error_message,
    )  # fmt: skip
    conditions = (
        transitions.c.id > after,
        ids is not None and named(session, ids, account),
        account is not None and jobs.c.account == account,
    )
    query = _where(select(*columns).join(jobs, jobs.c.id == transitions.c.job_id), conditions)
    return _rows(session, query.order_by(transitions.c.id).limit(limit))


def with_etas_now(session: Session, changed: Sequence[Row]) -> list[Row]:
    """The changes, each with the `eta` that its job has now."""
    ids = list({change["job_id"] for change in changed})
    found: dict[int, Row | None] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        chosen = jobs.c.id.in_(ids[start : start + IDS_AT_ONCE])
        rows = _rows(session, select(*_public(jobs)).where(chosen))
        found |= {row["id"]: row["eta"] for row in _with_etas(session, rows)}
    return [change | {"eta": found.get(change["job_id"])} for change in changed]


def last_change(session: Session) -> int:
    """The highest id of a transition, 0 before the first."""
    return session.execute(select(func.max(transitions.c.id))).scalar_one() or 0


def ended(job: Mapping[str, Any]) -> bool:
    """Will nothing more be heard of this job: is its state final, or was it given up?"""
    return job["state"] in FINAL or job["abandoned_at"] is not None


# ----------------------------------------------------------------- queries


def _public(table: Table) -> list[Column[Any]]:
    return [column for column in table.c if column.name not in INTERNAL]


def _where(query: Select[Any], conditions: Iterable[ColumnElement[bool] | bool]) -> Select[Any]:
    """The query with the conditions that were asked for; the others are simply False."""
    return query.where(*(asked for asked in conditions if isinstance(asked, ColumnElement)))


def _rows(session: Session, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in session.execute(query).mappings()]


def _job(session: Session, video_id: str, account: str) -> Row:
    query = select(*_public(jobs)).where(jobs.c.video_id == video_id, jobs.c.account == account)
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        raise UnknownJob(unknown(session, video_id, account))
    return dict(row)


def _with_etas(session: Session, rows: Sequence[Row]) -> list[Row]:
    """The jobs with what is expected of them: how long they take, and when the next poll is."""
    found, polls = _etas(session, rows), prospects.of_jobs(session, rows, db.now(session))
    return [
        row | {"eta": as_json(eta)} | poll
        for row, eta, poll in zip(rows, found, polls, strict=True)
    ]


def _etas(session: Session, rows: Sequence[Row]) -> list[Eta | None]:
    """By what each account's models are known to take; one query per account that has open jobs."""
    names = {row["account"] for row in rows if row["state"] in FORETOLD}
    known = {name: forecasts.kinds(session, name) for name in names}
    if not any(known.values()):
        return [None] * len(rows)
    now = db.now(session)
    kinds = [known.get(row["account"], {}).get(row["model"]) for row in rows]
    return [
        None if kind is None else remaining(row, kind.curve, now)
        for row, kind in zip(rows, kinds, strict=True)
    ]


def _of_job(session: Session, table: Table, job_id: int, *order: Column[Any]) -> list[Row]:
    query = select(*_public(table)).where(table.c.job_id == job_id).order_by(*order)
    return _rows(session, query)


def _with_attempts(session: Session, rows: Sequence[Row]) -> list[Row]:
    tried = _attempts_of(session, [row["id"] for row in rows])
    again = prospects.of_deliveries(session, rows, db.now(session))
    return [
        row | {"attempts_log": tried.get(row["id"], [])} | expected
        for row, expected in zip(rows, again, strict=True)
    ]


def _attempts_of(session: Session, delivery_ids: Sequence[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for start in range(0, len(delivery_ids), IDS_AT_ONCE):
        chosen = attempts.c.delivery_id.in_(delivery_ids[start : start + IDS_AT_ONCE])
        for row in _rows(session, select(attempts).where(chosen).order_by(attempts.c.id)):
            found.setdefault(row["delivery_id"], []).append(row)
    return found


def _last(rows: Sequence[Row] | None) -> Row | None:
    return rows[-1] if rows else None


def _count(session: Session, table: Table, *conditions: ColumnElement[bool]) -> int:
    few = select(literal(1)).select_from(table).where(*conditions).limit(COUNT_MOST).subquery()
    return session.execute(select(func.count()).select_from(few)).scalar_one()


def _overdue(session: Session, now: datetime) -> int:
    """Jobs whose look is late though their account may ask."""
    may_ask = and_(
        or_(accounts.c.pause_reason.is_(None), accounts.c.paused_until <= now),
        or_(accounts.c.slowed_at.is_(None), accounts.c.slowed_at <= now),
    )
    late = (
        select(literal(1))
        .select_from(jobs)
        .join(accounts, accounts.c.name == jobs.c.account)
        .where(jobs.c.next_poll_at < now - OVERDUE_AFTER, may_ask)
        .limit(COUNT_MOST)
        .subquery()
    )
    return session.execute(select(func.count()).select_from(late)).scalar_one()


def _resting(session: Session, now: datetime) -> list[Row]:
    columns = (accounts.c.name, accounts.c.paused_until, accounts.c.pause_reason)
    rests = and_(
        accounts.c.pause_reason.is_not(None),
        or_(accounts.c.paused_until.is_(None), accounts.c.paused_until > now),
    )
    query = select(*columns).where(rests).order_by(accounts.c.name)
    return _rows(session, query)
