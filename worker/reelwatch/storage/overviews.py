"""What a page says of how things stand: counts that stop early, and samples of the newest rows.

Everything has an index to go by, and a bound: a page costs the same however much there is.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, case, func, literal, select, union_all
from sqlalchemy.orm import Session

from reelwatch.rules import metrics, notices
from reelwatch.rules.ages import notice_delay
from reelwatch.rules.retry import DeliveryState
from reelwatch.storage.counts import counted
from reelwatch.storage.event_states import DEAD, EVENT_STATES, PENDING, is_in
from reelwatch.storage.figures import due_polls, late_polls
from reelwatch.storage.filters import ENDED, OPEN_JOBS
from reelwatch.storage.models import table_of
from reelwatch.storage.stuck import IN_ERROR

COUNT_MOST = 1_000  # counts stop here: what is more is told as "more than"
SAMPLE = 1_000  # jobs that ended last

accounts: Table = table_of("accounts")
jobs: Table = table_of("jobs")
transitions: Table = table_of("transitions")
deliveries: Table = table_of("deliveries")
attempts: Table = table_of("attempts")
poll_errors: Table = table_of("poll_errors")
curves: Table = table_of("duration_curves")
counters: Table = table_of("counters")
incidents: Table = table_of("incidents")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """At most `COUNT_MOST` each."""

    open: int
    due: int
    late: int
    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class InError:
    """How many jobs have an error now, and how many of them have had it for long."""

    jobs: int
    going: int


def counts(session: Session, now: datetime) -> Counts:
    """How many jobs are open, due and late, and how many events are owed or dead."""
    asked = [
        _few(jobs, OPEN_JOBS),
        counted(due_polls(now), COUNT_MOST).scalar_subquery(),
        counted(late_polls(now), COUNT_MOST).scalar_subquery(),
        _few(deliveries, PENDING),
        _few(deliveries, DEAD),
    ]
    return Counts(*session.execute(select(*asked)).one())


def _few(table: Table, *conditions: ColumnElement[bool]) -> Any:
    rows = select(literal(1)).select_from(table).where(*conditions)
    return counted(rows, COUNT_MOST).scalar_subquery()


def open_by_account(session: Session, now: datetime) -> dict[str, Counts]:
    """For each account: its open, due and late jobs (the other counts are 0)."""
    each = accounts.alias()
    open_jobs = select(literal(1)).select_from(jobs).where(jobs.c.next_poll_at.is_not(None))
    asked = [
        counted(rows.where(jobs.c.account == each.c.name).correlate(each), COUNT_MOST)
        for rows in (open_jobs, due_polls(now), late_polls(now))
    ]
    found = session.execute(select(each.c.name, *(count.scalar_subquery() for count in asked)))
    return {name: Counts(polled, due, late, pending=0, dead=0) for name, polled, due, late in found}


def polls_per_second(session: Session, now: datetime) -> float | None:
    """Of all accounts, over the last minute or so while there are any; None: not known so far."""
    of_polls = counters.c.name == f"{metrics.POLLS.name}_total"
    totals: dict[str, float] = {}
    for labels, value in session.execute(
        select(counters.c.labels, counters.c.value).where(of_polls)
    ):
        account = json.loads(labels)["account"]
        totals[account] = totals.get(account, 0.0) + value
    is_pace = incidents.c.kind == notices.NoticeType.UPSTREAM_OUTAGE.value
    readings = select(incidents.c.subject, incidents.c.reading).where(is_pace)
    paces = [
        polls / seconds
        for account, stored in session.execute(readings)
        if stored
        for polls, seconds in [notices.pace(stored, totals.get(account, 0.0), now)]
        if seconds > 0
    ]
    return sum(paces) if paces else None


def latest_changes(session: Session, most: int, ids: Sequence[int] | None = None) -> list[Row]:
    """The newest transitions, each with its job's id and name; with `ids` these and no others."""
    columns = [column for column in transitions.c if column.name != "answer"]
    query = (
        select(*columns, jobs.c.video_id, jobs.c.account, jobs.c.error_code)
        .join(jobs, jobs.c.id == transitions.c.job_id)
        .order_by(transitions.c.id.desc())
        .limit(most)
    )
    if ids is not None:
        query = query.where(transitions.c.id.in_(ids))
    return [dict(row) for row in session.execute(query).mappings()]


def changes_since(session: Session, newest: int) -> int:
    """How many transitions are newer than that one; at most `COUNT_MOST`."""
    newer = select(literal(1)).where(transitions.c.id > newest)
    return session.execute(counted(newer, COUNT_MOST)).scalar_one()


def latest_errors(session: Session, since: datetime) -> list[Row]:
    """The kinds of errors among the newest, with the last one's text and job.

    `jobs`: how many had it, however often; more, if `cut`.
    """
    newest = select(poll_errors).order_by(poll_errors.c.id.desc()).limit(COUNT_MOST).subquery()
    query = (
        select(
            newest.c.kind,
            func.count(newest.c.job_id.distinct()).label("jobs"),
            func.count().label("errors"),
            func.max(newest.c.id).label("id"),
        )
        .where(newest.c.last_at > since)
        .group_by(newest.c.kind)
    )
    found = [dict(row) for row in session.execute(query).mappings()]
    last = select(poll_errors).where(poll_errors.c.id.in_([row["id"] for row in found]))
    texts = {row["id"]: row for row in session.execute(last).mappings()} if found else {}
    seen = {"cut": sum(row["errors"] for row in found) >= COUNT_MOST}
    rows = [
        row | seen | {key: texts[row["id"]][key] for key in ("message", "job_id")} for row in found
    ]
    return sorted(rows, key=lambda row: -row["jobs"])


def in_error(session: Session, kinds: Collection[str], least: int) -> dict[str, InError]:
    """For each of these kinds, the polled jobs whose last polls brought it, among the newest.

    `going`: how many of them had `least` in a row or more.
    """
    parts = [_in_error(kind, least) for kind in kinds]
    if not parts:
        return {}
    return {row.kind: InError(row.jobs, row.going) for row in session.execute(union_all(*parts))}


def _in_error(kind: str, least: int) -> Any:
    newest = jobs.c.tracked_at.desc(), jobs.c.id.desc()
    rows = select(jobs.c.errors_in_row, jobs.c.next_poll_at)
    rows = rows.where(IN_ERROR, jobs.c.last_error == kind).order_by(*newest).limit(COUNT_MOST)
    job = rows.subquery().c
    going = func.count(case((job.errors_in_row >= least, 1)))
    counts = literal(kind).label("kind"), func.count().label("jobs"), going.label("going")
    return select(*counts).where(job.next_poll_at.is_not(None))


# ------------------------------------------------------------------ models


def kinds(session: Session) -> list[Row]:
    """The account and model of all that has been learned of, by account and model."""
    query = select(curves.c.account, curves.c.model, curves.c.jobs, curves.c.learned_at)
    rows = session.execute(query.order_by(curves.c.account, curves.c.model)).mappings()
    return [dict(row) for row in rows]


def ended_last(session: Session, account: str, model: str, most: int = SAMPLE) -> list[Row]:
    """What ended last of a kind: state, error code, and the times that durations follow from."""
    columns = (
        jobs.c.state,
        jobs.c.error_code,
        jobs.c.tracked_at,
        jobs.c.upstream_created_at,
        jobs.c.upstream_finished_at,
        jobs.c.finished_at,
    )
    query = select(*columns).where(ENDED, jobs.c.account == account, jobs.c.model == model)
    rows = session.execute(query.order_by(jobs.c.finished_at.desc()).limit(most)).mappings()
    return [dict(row) for row in rows]


def delays_by_day(
    session: Session, account: str, model: str, days: Sequence[datetime], most: int
) -> list[list[float]]:
    """For each of these days, by its first moment: the delays of the jobs that ended last on it."""
    parts = [_of_day(account, model, number, day, most) for number, day in enumerate(days)]
    found: list[list[float]] = [[] for _ in days]
    for number, ended, tracked, noticed in session.execute(union_all(*parts)):
        if ended is not None:
            found[number].append(notice_delay(ended, tracked, noticed))
    return found


def _of_day(account: str, model: str, number: int, day: datetime, most: int) -> Any:
    query = (
        select(literal(number), jobs.c.upstream_finished_at, jobs.c.tracked_at, jobs.c.finished_at)
        .where(ENDED, jobs.c.account == account, jobs.c.model == model)
        .where(jobs.c.finished_at >= day, jobs.c.finished_at < day + timedelta(days=1))
        .order_by(jobs.c.finished_at.desc())
        .limit(most)
    )
    return select(query.subquery())


# --------------------------------------------------------------- endpoints


def endpoints_lately(session: Session, most: int = COUNT_MOST) -> list[Row]:
    """Where the newest events went: by endpoint, how many of each state, and the last one's time.

    The newest are those of each state that were made last.
    """
    parts = [
        select(
            deliveries.c.id,
            deliveries.c.target,
            deliveries.c.channel,
            deliveries.c.destination,
            deliveries.c.state,
            deliveries.c.created_at,
        )
        .where(is_in(state))
        .order_by(_order(state))
        .limit(most)
        for state in EVENT_STATES
    ]
    newest = union_all(*(select(part.subquery()) for part in parts)).subquery()
    query = select(
        newest.c.target,
        newest.c.channel,
        newest.c.destination,
        newest.c.state,
        func.count().label("events"),
        func.max(newest.c.created_at).label("last_at"),
        func.max(newest.c.id).label("event"),
    ).group_by(newest.c.target, newest.c.channel, newest.c.destination, newest.c.state)
    return [dict(row) for row in session.execute(query).mappings()]


def _order(state: str) -> ColumnElement[Any]:
    """By the index that holds the events of that state."""
    if state == DeliveryState.PENDING:
        return deliveries.c.next_attempt_at.asc()
    return deliveries.c.created_at.desc()
