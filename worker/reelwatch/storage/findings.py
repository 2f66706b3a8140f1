"""What is not as it should be: jobs without an end or without news, events that do not arrive.

Counted in the database, by account and endpoint, as far as `COUNT_MOST` rows of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, literal_column, or_, select
from sqlalchemy.orm import Session

from reelwatch.storage.models import table_of

jobs = table_of("jobs")
deliveries = table_of("deliveries")
attempts = table_of("attempts")
endpoints = table_of("endpoints")

COUNT_MOST = 10_000
IN_VAIN_AFTER = timedelta(minutes=15)  # of errors alone; shorter troubles pass by themselves

OPEN = and_(jobs.c.next_poll_at.is_not(None), jobs.c.finished_at.is_(None))
DEAD = and_(  # said twice, for SQLite knows by the very words that an index holds the rows
    deliveries.c.state == literal_column("'dead'"),
    deliveries.c.state != literal_column("'pending'"),
)


@dataclass(frozen=True, slots=True)
class Stuck:
    """Open jobs of one account whose last polls brought the same: `error` None for an answer.

    `overdue` are past their deadline, `in_vain` have brought errors alone for a while; each with
    the time since when the oldest has been so.
    """

    account: str
    error: str | None
    overdue: int
    overdue_since: datetime | None
    in_vain: int
    in_vain_since: datetime | None


def stuck(session: Session, now: datetime) -> list[Stuck]:
    """By account, and by what their last polls brought, the most frequent first."""
    overdue = jobs.c.deadline_at < now
    in_vain = and_(jobs.c.errors_in_row > 0, jobs.c.errors_since < now - IN_VAIN_AFTER)
    few = (
        select(
            jobs.c.account,
            case((jobs.c.errors_in_row > 0, jobs.c.last_error)).label("error"),
            case((overdue, jobs.c.deadline_at)).label("overdue"),
            case((in_vain, jobs.c.errors_since)).label("in_vain"),
        )
        .where(OPEN, or_(overdue, in_vain))
        .limit(COUNT_MOST)
        .subquery()
    )
    count = func.count()
    query = (
        select(
            few.c.account, few.c.error,
            func.count(few.c.overdue), func.min(few.c.overdue),
            func.count(few.c.in_vain), func.min(few.c.in_vain),
        )
        .group_by(few.c.account, few.c.error)
        .order_by(few.c.account, count.desc(), few.c.error)
    )  # fmt: skip
    return [Stuck(*row) for row in session.execute(query)]


@dataclass(frozen=True, slots=True)
class Dead:
    """Events that one endpoint never took: how many, when the last was made, what it said then."""

    endpoint: str
    count: int
    last_at: datetime
    error: str | None


def dead(session: Session, most: int) -> list[Dead]:
    """The endpoints with the most of the newest dead events, `most` of them."""
    newest = select(deliveries.c.target, deliveries.c.created_at).where(DEAD)
    few = newest.order_by(deliveries.c.created_at.desc()).limit(COUNT_MOST).subquery()
    count = func.count()
    query = select(few.c.target, count, func.max(few.c.created_at)).group_by(few.c.target)
    rows = session.execute(query.order_by(count.desc(), few.c.target).limit(most)).all()
    return [
        Dead(target, total, last_at, _last_error(session, target))
        for target, total, last_at in rows
    ]


def _last_error(session: Session, target: str) -> str | None:
    query = (
        select(attempts.c.error)
        .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
        .where(DEAD, deliveries.c.target == target)
        .order_by(deliveries.c.created_at.desc(), attempts.c.id.desc())
    )
    return session.execute(query.limit(1)).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class Failing:
    """An endpoint whose last attempts failed; `open_until`: it is left alone until then."""

    endpoint: str
    failures: int  # in a row
    open_until: datetime | None
    waiting: int  # events


def failing(session: Session, most: int) -> list[Failing]:
    """Those that have failed most often in a row, `most` of them."""
    bad = or_(endpoints.c.failures > 0, endpoints.c.open_until.is_not(None))
    query = select(endpoints).where(bad).order_by(endpoints.c.failures.desc(), endpoints.c.name)
    rows: Sequence[Any] = session.execute(query.limit(most)).all()
    return [
        Failing(row.name, row.failures, row.open_until, _waiting(session, row.host, row.name))
        for row in rows
    ]


def _waiting(session: Session, host: str, endpoint: str) -> int:
    owed: Sequence[ColumnElement[bool]] = (
        deliveries.c.state == literal_column("'pending'"),
        deliveries.c.destination == host,
        deliveries.c.target == endpoint,
    )
    few = select(literal(1)).select_from(deliveries).where(*owed).limit(COUNT_MOST).subquery()
    return session.execute(select(func.count()).select_from(few)).scalar_one()


@dataclass(frozen=True, slots=True)
class Refusing:
    """An endpoint that works and whose last attempt it refused; it accepted none since."""

    endpoint: str
    waiting: int  # events that it refused
    http_status: int | None  # of its last refusal


def refusing(session: Session, most: int) -> list[Refusing]:
    """Those with events that they refused, and which they are to be sent again; `most` of them."""
    refuses = and_(
        endpoints.c.failures == 0, endpoints.c.open_until.is_(None), endpoints.c.allowance == 1
    )
    owed = and_(
        deliveries.c.state == literal_column("'pending'"),
        deliveries.c.destination == endpoints.c.host,
        deliveries.c.target == endpoints.c.name,
        deliveries.c.failures > 0,
    )
    few = (
        select(endpoints.c.name, deliveries.c.id)
        .join_from(endpoints, deliveries, owed)
        .where(refuses)
        .limit(COUNT_MOST)
        .subquery()
    )
    count = func.count()
    query = select(few.c.name, count, func.max(few.c.id)).group_by(few.c.name)
    rows = session.execute(query.order_by(count.desc(), few.c.name).limit(most)).all()
    return [Refusing(name, total, _last_status(session, newest)) for name, total, newest in rows]


def _last_status(session: Session, delivery: str) -> int | None:
    query = select(attempts.c.http_status).where(attempts.c.delivery_id == delivery)
    return session.execute(query.order_by(attempts.c.id.desc()).limit(1)).scalar_one_or_none()
