"""Owing events again that were told, or given up: same id and body, all attempts anew."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, literal_column, select, update
from sqlalchemy.orm import Session

from reelwatch.destinations import deliveries
from reelwatch.errors import Refused

IDS_AT_ONCE = 500  # values in one IN list


def redeliver(
    session: Session,
    now: datetime,
    *,
    ids: Sequence[str] | None = None,
    dead: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[str]:
    """Owe events again, from the first attempt on: by id, all `dead` ones, or by creation time.

    The conditions given must all hold. Event ids and bodies stay; signature and timestamp are made
    anew with every attempt. Returns the ids. Raises `Refused` for an id that does not exist.
    """
    conditions = list(_chosen(ids, since, until, dead=dead))
    if not conditions:
        raise Refused("redeliver: name event ids, the dead ones, or a time")
    _refuse_unknown(session, ids or ())
    values = {
        "state": "pending",
        "next_attempt_at": now,
        "failures": 0,
        "delivered_at": None,
        "lease_token": None,
    }
    chosen = _in_order(session, conditions)
    for start in range(0, len(chosen), IDS_AT_ONCE):
        these = deliveries.c.id.in_(chosen[start : start + IDS_AT_ONCE])
        session.execute(update(deliveries).where(these).values(values))
    return sorted(chosen)


def _chosen(
    ids: Sequence[str] | None, since: datetime | None, until: datetime | None, *, dead: bool
) -> Iterable[ColumnElement[bool]]:
    if ids:
        yield deliveries.c.id.in_(ids)
    if dead:
        yield deliveries.c.state == "dead"
    if since is not None:
        yield deliveries.c.created_at >= since
    if until is not None:
        yield deliveries.c.created_at < until


def _in_order(session: Session, conditions: Sequence[ColumnElement[bool]]) -> Sequence[str]:
    """The ids of the events, locked in one order for all; what has been told has an index."""
    pending = deliveries.c.state == literal_column("'pending'")
    settled = deliveries.c.state != literal_column("'pending'")
    found: list[str] = []
    for part in (pending, settled):
        query = select(deliveries.c.id).where(*conditions, part).order_by(deliveries.c.id)
        found += session.scalars(query.with_for_update(key_share=True))
    return found


def _refuse_unknown(session: Session, ids: Sequence[str]) -> None:
    if not ids:
        return
    query = select(deliveries.c.id).where(deliveries.c.id.in_(ids))
    missing = set(ids) - set(session.execute(query).scalars())
    if missing:
        raise Refused(f"redeliver: no event {', '.join(sorted(missing))}")
