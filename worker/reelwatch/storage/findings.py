"""What is not as it should be: events that do not arrive.

Counted in the database, by endpoint, as far as `COUNT_MOST` rows of each.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, union_all
from sqlalchemy.orm import Session

from reelwatch.rules.endpoints import How, how
from reelwatch.storage import list_parameters
from reelwatch.storage.counts import COUNT_MOST, counted
from reelwatch.storage.event_states import DEAD, PENDING
from reelwatch.storage.models import table_of

jobs = table_of("jobs")
deliveries = table_of("deliveries")
attempts = table_of("attempts")
endpoints = table_of("endpoints")


@dataclass(frozen=True, slots=True)
class Dead:
    """Events that one endpoint never took: how many, when the last was made, what it said then."""

    endpoint: str
    count: int
    last_at: datetime
    error: str | None


def dead(session: Session, most: int, count_most: int = COUNT_MOST) -> list[Dead]:
    """The endpoints with the most of the newest `count_most` dead events, `most` of them."""
    newest = select(deliveries.c.target, deliveries.c.created_at).where(DEAD)
    few = newest.order_by(deliveries.c.created_at.desc()).limit(count_most).subquery()
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


FAILED_MOST = 200  # events of one endpoint, owed and dead, whose attempts are read


@dataclass(frozen=True, slots=True)
class Unwell:
    """An endpoint that has taken nothing `since` then, and that events wait for or died of.

    `last_http_status` and `last_error` are of the last attempt; both None: it is not known.
    """

    endpoint: str
    host: str
    failures: int  # in a row
    open_until: datetime | None  # it rests until then
    how: How
    since: datetime
    waiting: int  # events, at most `COUNT_MOST`
    dead: int  # the same
    last_http_status: int | None
    last_error: str | None


def unwell(
    session: Session,
    now: datetime,
    most: int,
    names: Collection[str] | None = None,
    count_most: int | None = None,
) -> list[Unwell]:
    """The endpoints that are not well, `most` of them, the most failures in a row first.

    `names`: of these only. Events are counted up to `count_most`, or `COUNT_MOST`.
    """
    query = select(endpoints).where(_IS_UNWELL)
    if names is not None:
        query = query.where(list_parameters.among(endpoints.c.name, "names"))
    query = query.order_by(endpoints.c.failures.desc(), endpoints.c.name).limit(most)
    rows: Sequence[Any] = session.execute(query, {"names": sorted(names or ())}).all()
    return [_unwell(session, row, now, count_most) for row in rows]


_MINE = deliveries.c.target == endpoints.c.name
_IS_UNWELL = or_(
    endpoints.c.failures > 0,
    endpoints.c.open_until.is_not(None),
    and_(
        endpoints.c.failing_since.is_not(None),
        or_(
            exists().where(
                PENDING,
                deliveries.c.destination == endpoints.c.host,
                _MINE,
                deliveries.c.failures > 0,
            ),
            exists().where(DEAD, _MINE),
        ),
    ),
)


def _unwell(session: Session, row: Any, now: datetime, count_most: int | None) -> Unwell:
    waiting, dead = undelivered(session, row.host, row.name, count_most)
    return Unwell(
        row.name,
        row.host,
        row.failures,
        row.open_until,
        how(row.failures, row.open_until, now, refuses=True),
        row.failing_since or row.changed_at,  # a worker of the release before wrote it
        waiting,
        dead,
        *_last_answer(session, row.host, row.name),
    )


def undelivered(
    session: Session, host: str, endpoint: str, most: int | None = None
) -> tuple[int, int]:
    """How many events wait for an endpoint, and how many are dead; each at most `most`."""
    waiting, dead = (
        session.execute(
            counted(select(literal(1)).select_from(deliveries).where(*which), most)
        ).scalar_one()
        for which in (_owed_to(host, endpoint), (DEAD, deliveries.c.target == endpoint))
    )
    return waiting, dead


def _last_answer(session: Session, host: str, endpoint: str) -> tuple[int | None, str | None]:
    """Status and error of the last attempt for events that are still owed, or dead."""
    owed = (
        select(deliveries.c.id)
        .where(*_owed_to(host, endpoint), deliveries.c.failures > 0)
        .order_by(deliveries.c.failures.desc(), deliveries.c.next_attempt_at.desc())
        .limit(FAILED_MOST)
    )
    gone = (
        select(deliveries.c.id)
        .where(DEAD, deliveries.c.target == endpoint)
        .order_by(deliveries.c.created_at.desc())
        .limit(FAILED_MOST)
    )
    tried = union_all(select(owed.subquery()), select(gone.subquery())).subquery()
    query = (
        select(attempts.c.http_status, attempts.c.error)
        .join_from(tried, attempts, attempts.c.delivery_id == tried.c.id)
        .where(attempts.c.error.is_not(None))
        .order_by(attempts.c.id.desc())
        .limit(1)
    )
    row = session.execute(query).first()
    return (row.http_status, row.error) if row else (None, None)


def _owed_to(host: str, endpoint: str) -> Sequence[ColumnElement[bool]]:
    return (PENDING, deliveries.c.destination == host, deliveries.c.target == endpoint)
