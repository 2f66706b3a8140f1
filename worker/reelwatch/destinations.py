"""The rows of `destinations`: how many calls each gets now, and what their outcomes change."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from reelwatch import breaker, db
from reelwatch.models import Destination, table_of

log = structlog.get_logger(__name__)

deliveries = table_of("deliveries")
destinations = table_of("destinations")


Moment = datetime | ColumnElement[datetime]


def is_due(now: Moment) -> ColumnElement[bool]:
    """Is an event owed, and to be tried by now?"""
    return and_(deliveries.c.state == "pending", deliveries.c.next_attempt_at <= now)


def fair_share(limit: int | ColumnElement[int], now: Moment) -> Select[Any]:
    """The ids of the due events that may go now: of each destination as many as it is allowed.

    First attempts go before retries. A half-open destination gets one call, for the event that has
    waited longest.
    """
    under_way = _under_way(now)
    half_open = destinations.c.open_until.is_not(None)
    urgency = (
        case((half_open, 0), else_=deliveries.c.failures),
        case((half_open, deliveries.c.created_at), else_=deliveries.c.next_attempt_at),
        deliveries.c.id,
    )
    place = func.row_number().over(partition_by=deliveries.c.destination, order_by=urgency)
    ranked = (
        select(
            deliveries.c.id,
            deliveries.c.channel,
            deliveries.c.failures,
            place.label("place"),
            (_allowed(now) - func.coalesce(under_way.c.calls, 0)).label("free"),
        )
        .outerjoin(destinations, destinations.c.name == deliveries.c.destination)
        .outerjoin(under_way, under_way.c.destination == deliveries.c.destination)
        .where(is_due(now))
        .subquery()
    )
    ours = ranked.c.channel == "celery"  # the broker is ours, and takes them quickly
    return (
        select(ranked.c.id)
        .where(or_(ours, ranked.c.place <= ranked.c.free))
        .order_by(ranked.c.failures, ranked.c.place)
        .limit(limit)
    )


def _under_way(now: Moment) -> Subquery:
    return (
        select(deliveries.c.destination, func.count().label("calls"))
        .where(
            deliveries.c.state == "pending",
            deliveries.c.lease_token.is_not(None),
            deliveries.c.next_attempt_at > now,
        )
        .group_by(deliveries.c.destination)
        .subquery()
    )


def _allowed(now: Moment) -> ColumnElement[int]:
    """`breaker.allowed`, as SQL."""
    return case(
        (destinations.c.name.is_(None), breaker.ALLOWANCE_FIRST),
        (destinations.c.open_until.is_(None), destinations.c.allowance),
        (destinations.c.open_until <= now, 1),
        else_=0,
    )


def judge(session: Session, calls: Iterable[tuple[str, bool]], now: datetime) -> None:
    """Move the breakers by the outcomes of calls: (destination, did it work)."""
    outcomes: dict[str, list[bool]] = {}
    for name, worked in calls:
        outcomes.setdefault(name, []).append(worked)
    for name in sorted(outcomes):  # in one order for all workers: no two wait for each other
        before = after = _locked(session, name)
        for worked in outcomes[name]:
            after = breaker.after_success(after) if worked else breaker.after_failure(after, now)
        if after != before:
            _write(session, name, before, after)


def _locked(session: Session, name: str) -> breaker.Breaker:
    """The destination's standing, its row locked; made first where there is none."""
    query = select(destinations).where(destinations.c.name == name).with_for_update()
    row = session.execute(query).mappings().one_or_none()
    if row is None:
        new = db.insert_if_absent(db.dialect(session), Destination, "name")
        session.execute(new.values(name=name, **asdict(breaker.Breaker())))
        row = session.execute(query).mappings().one()
    return breaker.Breaker(**{field: row[field] for field in breaker.Breaker.__slots__})


def _write(session: Session, name: str, before: breaker.Breaker, after: breaker.Breaker) -> None:
    changed = update(destinations).where(destinations.c.name == name)
    session.execute(changed.values(asdict(after)))
    if after.open_until and after.open_until != before.open_until:
        until = after.open_until.isoformat()
        log.warning("destination_open", destination=name, until=until, failures=after.failures)
    elif before.open_until and not after.open_until:
        log.warning("destination_works_again", destination=name)
