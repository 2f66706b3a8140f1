"""The feed: all events in one order, so that a reader who remembers a place misses none.

Numbers that are given when a row is inserted don't do: a transaction that commits late inserts
behind readers who have passed its numbers already. So an event gets its `position` only when it is
committed, from whoever reads the feed next. One row is locked meanwhile, so that a position that
can be seen has none before it that can't.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Table, bindparam, exists, func, insert, select, update
from sqlalchemy.orm import Session

from reelwatch.storage import list_parameters
from reelwatch.storage.models import Event, Installation, table_of

events: Table = Event.__table__  # type: ignore[assignment]
feed = table_of("feed")
deliveries = table_of("deliveries")

NUMBERED_AT_ONCE = 1000  # events in one transaction
SCANNED_MOST = 5000  # positions that one page looks at, however few of them are asked for

INSERT_EVENTS = insert(events)
SELECT_HEAD = select(
    feed.c.last_position,
    feed.c.pruned_position,
    exists().where(events.c.position.is_(None)).label("unnumbered"),
    select(Installation.id).limit(1).scalar_subquery().label("installation"),
)
LOCK_FEED = select(feed.c.last_position).with_for_update()
# By insertion: of one job's events the earlier one was inserted, and committed, first.
SELECT_UNNUMBERED = (
    select(events.c.id)
    .where(events.c.position.is_(None))
    .order_by(events.c.id)
    .limit(NUMBERED_AT_ONCE)
)
SELECT_PAGE = (
    select(
        events.c.position,
        events.c.event_id,
        func.coalesce(events.c.body, deliveries.c.body).label("body"),
    )
    .outerjoin(deliveries, deliveries.c.id == events.c.event_id)
    .where(events.c.position > bindparam("after"), events.c.position <= bindparam("until"))
    .order_by(events.c.position)
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, slots=True)
class Head:
    """How far the feed has come."""

    last_position: int
    pruned_position: int  # the highest one of an event that was deleted
    unnumbered: bool  # are there events that have no position yet?
    installation: str


def add(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write events down, in the transaction of what they tell; `position` is left out."""
    if rows:
        session.execute(INSERT_EVENTS, rows)


def head(session: Session) -> Head:
    """How far the feed has come, in one statement."""
    return Head(**session.execute(SELECT_HEAD).mappings().one())


def number(session: Session) -> int:
    """Give up to `NUMBERED_AT_ONCE` committed events their positions; returns how many.

    The row is locked before the events are looked for: whoever had it before has committed then,
    and its positions are seen. Nobody sees these before the caller commits.
    """
    last = lock(session)
    ids = session.scalars(SELECT_UNNUMBERED).all()
    rows = [{list_parameters.ROW_ID: each, "position": last + n} for n, each in enumerate(ids, 1)]
    list_parameters.update_rows(session, events, rows)
    if ids:
        session.execute(update(feed).values(last_position=last + len(ids)))
    return len(ids)


def lock(session: Session) -> int:
    """Nobody else numbers, or deletes, events until the transaction is over; the last position.

    To be called before rows of jobs or events are locked: all transactions keep to that order.
    """
    last: int = session.execute(LOCK_FEED).scalar_one()
    return last


def forget(session: Session, job_ids: Sequence[int]) -> None:
    """Note that the events of these jobs are deleted; the feed is locked by `lock`.

    Where one of them has no position, nobody has read it: a position without an event stands for
    it, so that every cursor so far is behind what was deleted.
    """
    place = events.c.position
    found = select(func.max(place), func.count() - func.count(place))
    highest, unread = session.execute(found.where(events.c.job_id.in_(job_ids))).one()
    if unread:
        highest = feed.c.last_position + 1
        session.execute(update(feed).values(last_position=highest, pruned_position=highest))
    elif highest is not None:
        behind = feed.c.pruned_position < highest
        session.execute(update(feed).where(behind).values(pruned_position=highest))


def page(
    session: Session,
    after: int,
    until: int,
    *,
    types: Collection[str] = (),
    account: str | None = None,
    limit: int,
) -> tuple[list[Mapping[str, Any]], int]:
    """Events in their order, and the position up to which these are all that was asked for.

    Rows of `position`, `event_id`, `body` (JSON text), behind `after` and up to `until`.
    """
    until = min(until, after + SCANNED_MOST)
    asked = {"after": after, "until": until, "limit": limit}
    query = _chosen(SELECT_PAGE, types, account)
    rows: list[Mapping[str, Any]] = [*session.execute(query, asked).mappings()]
    return rows, rows[-1]["position"] if len(rows) == limit else max(until, after)


def _chosen(query: Select[Any], types: Collection[str], account: str | None) -> Select[Any]:
    if types:
        query = query.where(events.c.type.in_(sorted(types)))
    return query if account is None else query.where(events.c.account == account)
