"""What happened: reads the tables for people and programs, and changes nothing.

Every function takes a session (`db.reading(url)` gives one that takes no writer's lock) and returns
plain dicts under the column names; times are aware UTC. Jobs have `duration_seconds` besides,
None unless upstream has ended them, and an `eta`: None, or how
many seconds half of such jobs, and nine of ten, still take. What is polled or sent again has
`next_poll_expected_at` and `next_poll_reason`, or `next_attempt_…`: when that will really be, None
if nobody can know, and what is in the way of the due time, if anything is. Of jobs
`next_poll_held_by_account` tells whether that is their account.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    func,
    literal,
    select,
)
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.errors import UnknownJob
from reelwatch.rules import ages, notices
from reelwatch.rules.states import FINAL
from reelwatch.rules.timing.eta import FORETOLD, as_json, remaining
from reelwatch.rules.timing.plan import Eta
from reelwatch.storage import actions, db, events, forecasts, incidents, prospects, standings
from reelwatch.storage.counts import counted
from reelwatch.storage.events import public
from reelwatch.storage.filters import (
    ENDED,
    GIVEN_UP,
    EventFilter,
    JobFilter,
    named,
    unknown,
)
from reelwatch.storage.models import Job, table_of
from reelwatch.storage.paging import Page, Place, page, rows_of

Row = dict[str, Any]

jobs: Table = table_of("jobs")
transitions: Table = table_of("transitions")
poll_errors: Table = table_of("poll_errors")
deliveries: Table = table_of("deliveries")
attempts: Table = table_of("attempts")
accounts: Table = table_of("accounts")
heartbeats: Table = table_of("heartbeats")

NO_ROW = "there is no job with the id {}"
IDS_AT_ONCE = 500  # values in one IN list


def story(
    session: Session, video_id: str, account: str = "default", *, signatures: bool = False
) -> dict[str, Any]:
    """All that is known of one job: its row, transitions, errors, deliveries and their attempts,
    and what people and programs did about it, or about its account: pauses and resumes.

    `signatures`: attempts with their `request_headers`, for whoever may redeliver. Raises
    `UnknownJob`, whose message names the accounts that do track the id.
    """
    return _story(session, _job(session, video_id, account), signatures=signatures)


def story_of(session: Session, job_id: int, *, signatures: bool = False) -> dict[str, Any]:
    """The same for the job with that row id. Raises `UnknownJob`."""
    row = session.execute(select(*public(jobs)).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise UnknownJob(NO_ROW.format(job_id))
    return _story(session, dict(row), signatures=signatures)


def names_of(session: Session, job_id: int) -> tuple[str, str]:
    """The video id and account of the job with that row id. Raises `UnknownJob`."""
    query = select(jobs.c.video_id, jobs.c.account).where(jobs.c.id == job_id)
    row = session.execute(query).first()
    if row is None:
        raise UnknownJob(NO_ROW.format(job_id))
    return row.video_id, row.account


def _story(session: Session, job: Row, *, signatures: bool) -> dict[str, Any]:
    return {
        "job": with_outlook(session, [job])[0],
        "transitions": _of_job(session, transitions, job["id"], transitions.c.sequence),
        "poll_errors": _of_job(session, poll_errors, job["id"], poll_errors.c.id),
        "deliveries": events.with_attempts(
            session,
            _of_job(session, deliveries, job["id"], deliveries.c.sequence, deliveries.c.channel),
            signatures=signatures,
        ),
        "actions": actions.of_job(session, job),
    }


def list_jobs(
    session: Session,
    wanted: JobFilter | None = None,
    *,
    limit: int | None = 50,
    unended: bool = False,
    **fields: Any,
) -> list[Row]:
    """Jobs, the newest first: those `wanted`, which may come as the `fields` of a `JobFilter`.

    `limit` None means all; `unended`: those alone that are polled.
    """
    asked = wanted or JobFilter(**fields)
    return rows_of(partial(page_of_jobs, session, asked, unended=unended), limit)


def page_of_jobs(
    session: Session,
    wanted: JobFilter,
    limit: int | None = 50,
    before: Place | None = None,
    *,
    oldest: bool = False,
    unended: bool = False,
) -> Page:
    """A page of jobs, the newest first or the `oldest`, in a time that no history makes longer.

    It may hold fewer than `limit` and not be the last: its `next`, if any, begins the next one.
    `unended`: those alone that are polled.
    """
    query = select(*public(jobs)).where(*wanted.indexed(session))
    sieve = wanted.sieve(session)
    parts = wanted.open_parts(session) if unended else wanted.parts(session)
    found = page(session, query, parts, sieve, limit=limit, before=before, oldest=oldest)
    return Page(with_outlook(session, found.rows), found.next)


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
    wanted = JobFilter(account=account, ids=ids)
    query = select(*public(jobs)).where(*wanted.indexed(session))

    def turn(most: int | None, before: Place | None) -> Page:
        return page(session, query, wanted.open_parts(session), limit=most, before=before)

    rows = rows_of(turn, limit)
    query = query.where(*wanted.whose)
    left = None if limit is None else limit - len(rows)
    ended = [
        *_rows(session, query.where(ENDED).order_by(jobs.c.finished_at.desc()).limit(left)),
        *_rows(session, query.where(GIVEN_UP).order_by(jobs.c.abandoned_at.desc()).limit(left)),
    ]
    ended.sort(key=lambda row: row["finished_at"] or row["abandoned_at"], reverse=True)
    return with_outlook(session, rows + ended[:left])


def eta(video_id: str, account: str = "default", session: Session | None = None) -> Eta | None:
    """How many seconds from now it takes until half, and nine of ten, of such jobs have ended.

    None for a job that is neither pending nor running, and while nothing is known: too few jobs of
    its model have ended, or the last poll brought no answer about it. Either time is None where it
    makes the job older than any that was measured. Raises `UnknownJob`.
    """
    url = "" if session else settings.handing_in().database_url
    with nullcontext(session) if session else db.reading(url) as joined:
        return _etas(joined, [_job(joined, video_id, account)])[0]


def job_row(job: Job) -> Row:
    """A job that a use case returned, as `list_jobs` gives it, but for what is expected."""
    mapper = Job.__mapper__  # knows that the column `metadata` is the attribute `metadata_`
    row = {
        column.name: getattr(job, mapper.get_property_by_column(column).key)
        for column in public(jobs)
    }
    if row["deadline_seconds"] is not None:  # what SQLite returns of an insertion may be an int
        row["deadline_seconds"] = float(row["deadline_seconds"])
    return row | {"duration_seconds": ages.duration_seconds(row)}


def list_deliveries(
    session: Session,
    *,
    video_id: str | None = None,
    limit: int | None = 50,
    **fields: Any,
) -> list[Row]:
    """Events owed or told, the newest first, each with its job's id and its last attempt.

    The `fields` are those of an `EventFilter`.
    """
    wanted = EventFilter(**fields)
    rows = rows_of(
        lambda most, place: events.page_of_events(session, wanted, most, place, video_id),
        limit,
    )
    return events.with_last_attempt(session, rows)


def account_names(session: Session) -> list[str]:
    """All accounts that have been used."""
    return list(session.scalars(select(accounts.c.name).order_by(accounts.c.name)))


def list_accounts(session: Session) -> list[Row]:
    """Each account's standing now, with the number of its jobs that have not ended, up to 10,000.

    The rate of one that is not configured in this process is the one that was written down last.
    `paused_since` and `slowed_since` are None where it is not, or where that began unnoticed.
    """
    polled = select(literal(1)).select_from(jobs).correlate(accounts)
    mine = polled.where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at.is_not(None))
    query = select(accounts.c.name, counted(mine).scalar_subquery().label("count"))
    open_jobs = {row["name"]: row["count"] for row in _rows(session, query)}
    slowed = incidents.begun(session, notices.SLOWED)
    paused = incidents.begun(session, notices.NoticeType.ACCOUNT_PAUSED)
    shown = {column.name for column in public(accounts)}
    return [
        {name: value for name, value in row.items() if name in shown}
        | {
            "open_jobs": open_jobs.get(row["name"], 0),
            "paused": row["pause_reason"] is not None,
            "paused_since": paused.get(row["name"]) if row["pause_reason"] else None,
            "slowed_since": slowed.get(row["name"]) if row["slowed_at"] else None,
        }
        for row in standings.rows_now(session, db.now(session))
    ]


def list_actions(session: Session, *, limit: int = 50, before: int = actions.NO_ID) -> list[Row]:
    """What people and programs did, the newest first; `before`: the last `id` of a page before.

    `jobs` are those that an action was about, as `id`, `video_id` and `account`: 10 at most.
    """
    rows = _rows(session, actions.newest(limit, before))
    about = [[int(each) for each in (row.pop("job_ids") or "").split(",") if each] for row in rows]
    ids = sorted({job_id for job_ids in about for job_id in job_ids})
    found: dict[int, Row] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        chosen = jobs.c.id.in_(ids[start : start + IDS_AT_ONCE])
        query = select(jobs.c.id, jobs.c.video_id, jobs.c.account).where(chosen)
        found |= {row["id"]: row for row in _rows(session, query)}
    return [
        row | {"jobs": [found[job_id] for job_id in sorted(job_ids) if job_id in found]}
        for row, job_ids in zip(rows, about, strict=True)
    ]


def changes(
    session: Session,
    after: int,
    ids: Sequence[str] | None = None,
    account: str | None = None,
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
    return _rows(session, query.order_by(transitions.c.id))


def with_etas_now(session: Session, changed: Sequence[Row]) -> list[Row]:
    """The changes, each with the `eta` that its job has now."""
    ids = list({change["job_id"] for change in changed})
    found: dict[int, Row | None] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        chosen = jobs.c.id.in_(ids[start : start + IDS_AT_ONCE])
        rows = _rows(session, select(*public(jobs)).where(chosen))
        found |= {row["id"]: row["eta"] for row in with_outlook(session, rows)}
    return [change | {"eta": found.get(change["job_id"])} for change in changed]


def last_change(session: Session) -> int:
    """The highest id of a transition, 0 before the first."""
    return session.execute(select(func.max(transitions.c.id))).scalar_one() or 0


def ended(job: Mapping[str, Any]) -> bool:
    """Will nothing more be heard of this job: is its state final, or was it given up?"""
    return job["state"] in FINAL or job["abandoned_at"] is not None


# ----------------------------------------------------------------- queries


def _where(query: Select[Any], conditions: Iterable[ColumnElement[bool] | bool]) -> Select[Any]:
    """The query with the conditions that were asked for; the others are simply False."""
    return query.where(*(asked for asked in conditions if isinstance(asked, ColumnElement)))


def _rows(session: Session, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in session.execute(query).mappings()]


def _job(session: Session, video_id: str, account: str) -> Row:
    query = select(*public(jobs)).where(jobs.c.video_id == video_id, jobs.c.account == account)
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        raise unknown(session, video_id, account)
    return dict(row)


def with_outlook(session: Session, rows: Sequence[Row]) -> list[Row]:
    """The jobs with what is expected of them: how long they take, and when the next poll is."""
    found, polls = _etas(session, rows), prospects.of_jobs(session, rows, db.now(session))
    return [
        row | {"duration_seconds": ages.duration_seconds(row), "eta": as_json(eta)} | poll
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
        None if kind is None else remaining(row, kind, now)
        for row, kind in zip(rows, kinds, strict=True)
    ]


def _of_job(session: Session, table: Table, job_id: int, *order: Column[Any]) -> list[Row]:
    query = select(*public(table)).where(table.c.job_id == job_id).order_by(*order)
    return _rows(session, query)
