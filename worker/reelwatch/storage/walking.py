"""The statements of a claim: walking to the events that are due, and leasing some.

A walk goes along an index from endpoint to endpoint and sees the first few due events of each,
however many wait behind them.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    String,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningUpdate

from reelwatch.rules.channels import WEBHOOK
from reelwatch.storage import db, list_parameters
from reelwatch.storage.destinations import deliveries, destinations, endpoints, is_due
from reelwatch.storage.event_states import is_pending
from reelwatch.storage.models import UtcDateTime, table_of

NOW = bindparam("now", type_=UtcDateTime())
ONE: ColumnElement[int] = literal_column("1", Integer())
MOST_SEEN = bindparam("window", type_=Integer())
MOST_WANTED = bindparam("most", type_=Integer())
KNOWN = bindparam("known", expanding=True, type_=String())
BY_WEBHOOK: ColumnElement[str] = literal_column(f"'{WEBHOOK}'")

First = Callable[[ColumnElement[bool], FromClause], ScalarSelect[Any]]

jobs = table_of("jobs")


class Owed(NamedTuple):
    """A claimed row of `deliveries`, with two columns of its job's; the operator's has none."""

    id: str
    job_id: int | None
    sequence: int
    event_type: str
    channel: str
    target: str
    destination: str
    body: str
    attempts: int
    failures: int
    created_at: datetime
    lease_token: str
    account: str | None
    video_id: str | None


def _hosts() -> Select[Any]:
    """All hosts that events are owed to: from one to the next by the index."""
    first = select(func.min(deliveries.c.destination).label("name")).where(is_pending(deliveries))
    hosts = first.cte("hosts", recursive=True)
    behind = deliveries.alias("behind")
    following = select(func.min(behind.c.destination)).where(
        is_pending(behind), behind.c.destination > hosts.c.name
    )
    hosts = hosts.union_all(select(following.scalar_subquery()).where(hosts.c.name.is_not(None)))
    return (
        select(hosts.c.name, destinations.c.allowance)
        .outerjoin(destinations, destinations.c.name == hosts.c.name)
        .where(hosts.c.name.is_not(None))
    )


def _calls_under_way() -> Select[Any]:
    leased = (deliveries.c.lease_token.is_not(None), deliveries.c.next_attempt_at > NOW)
    by = (deliveries.c.destination, deliveries.c.target, deliveries.c.channel)
    return select(*by, func.count().label("calls")).where(*leased).group_by(*by)


@cache
def walk(dialect: str, *, of_known: bool) -> Select[Any]:
    """The first due events of each endpoint and number of failures, of the hosts that are listed.

    Each step goes to the next due event of the same kind, or past all of them to the next kind.
    Where only accounts that are known count, others' events are passed over one by one.
    """
    first_of = partial(_first, of_known=of_known)
    host, start, places = db.listed(dialect, "hosts", 3)
    wanted = select(host.label("host"), start.label("start"), cast(places, Integer).label("places"))
    hosts = wanted.cte("wanted")
    entry = deliveries.alias("entry")
    first = first_of(
        and_(entry.c.destination == hosts.c.host, entry.c.target > hosts.c.start), entry
    )
    begin = deliveries.alias("begin")
    columns = ("id", "channel", "destination", "target", "failures", "next_attempt_at")
    walk: CTE = (
        select(*(begin.c[name] for name in columns), hosts.c.places,
               ONE.label("place"), ONE.label("seen"))
        .select_from(hosts)
        .join(begin, _is(dialect, begin, first))
        .cte("walk", recursive=True)
    )  # fmt: skip
    step = deliveries.alias("step")
    same = and_(step.c.target == walk.c.target, step.c.failures == walk.c.failures)
    following = (
        select(*(step.c[name] for name in columns), walk.c.places,
               case((same, walk.c.place + 1), else_=1), walk.c.seen + 1)
        .select_from(walk)
        .join(step, _is(dialect, step, func.coalesce(
            _next_of_kind(walk, first_of), *_next_kind(walk, first_of))))
        .where(walk.c.seen < MOST_SEEN)
    )  # fmt: skip
    walk = walk.union_all(following)
    counts = [endpoints.c[name] for name in ("failures", "openings", "allowance", "open_until")]
    seen = [walk.c[name] for name in columns if name != "failures"]
    return (
        select(*seen, walk.c.failures.label("delivery_failures"), walk.c.seen, *counts)
        .outerjoin(endpoints, endpoints.c.name == walk.c.target)
        .where(or_(walk.c.next_attempt_at <= NOW, walk.c.seen >= MOST_SEEN))
    )


def _is(dialect: str, row: FromClause, found: ColumnElement[Any]) -> ColumnElement[bool]:
    """Is it the row with that id? Said so that PostgreSQL can only go by the key.

    It takes a walk for hundreds of rows, and would rather read the whole table once.
    """
    if dialect == "sqlite":
        return row.c.id == found
    return row.c.id == any_(postgresql.array([found]))


def _next_of_kind(walk: CTE, first_of: First) -> ColumnElement[Any]:
    """The due event behind this one, of the same endpoint with as many failures, while wanted."""
    behind = deliveries.alias("like")
    alike = first_of(
        and_(
            behind.c.destination == walk.c.destination,
            behind.c.target == walk.c.target,
            # An equality would let PostgreSQL go by time alone, through what others have waiting.
            behind.c.failures.between(walk.c.failures, walk.c.failures),
            behind.c.next_attempt_at <= NOW,
            tuple_(behind.c.next_attempt_at, behind.c.id)
            > tuple_(walk.c.next_attempt_at, walk.c.id),
        ),
        behind,
    )
    places = case((walk.c.channel == BY_WEBHOOK, walk.c.places), else_=MOST_WANTED)
    return case((and_(walk.c.next_attempt_at <= NOW, walk.c.place < places), alike))


def _next_kind(walk: CTE, first_of: First) -> list[ScalarSelect[Any]]:
    """The first event with the next number of failures; that of the next endpoint of the host.

    One after the other: as one comparison of both SQLite would go through all that wait there.
    """
    more, other = deliveries.alias("more"), deliveries.alias("other")
    same_host = more.c.destination == walk.c.destination
    same = and_(same_host, more.c.target == walk.c.target)
    next_host = other.c.destination == walk.c.destination
    return [
        first_of(and_(same, more.c.failures > walk.c.failures), more),
        first_of(and_(next_host, other.c.target > walk.c.target), other),
    ]


def _first(
    condition: ColumnElement[bool], rows: FromClause, *, of_known: bool
) -> ScalarSelect[Any]:
    """The id of the first row that is owed and meets the condition, in the order of the index."""
    order = (rows.c.destination, rows.c.target, rows.c.failures, rows.c.next_attempt_at, rows.c.id)
    query = select(rows.c.id).where(is_pending(rows), condition).order_by(*order).limit(1)
    if of_known:
        # A value of the row, and no join: PostgreSQL would take one for a reason to begin with all
        # jobs of an account.
        account = select(jobs.c.account).where(jobs.c.id == rows.c.job_id).scalar_subquery()
        of_no_job = rows.c.job_id.is_(None)
        query = query.where(or_(rows.c.channel != BY_WEBHOOK, of_no_job, account.in_(KNOWN)))
    return query.scalar_subquery()


@cache
def claim(dialect: str) -> ReturningUpdate[*tuple[Any, ...]]:
    """Leases those of the events with these `ids` that are due still.

    SQLite would take a list that it can't see into for a long one, and read all that is due.
    """
    among: ColumnElement[bool] = deliveries.c.id.in_(bindparam("ids", expanding=True))
    if dialect != "sqlite":
        among = list_parameters.among(deliveries.c.id, "ids")
    locked = select(deliveries.c.id).where(among, is_due(NOW)).with_for_update(skip_locked=True)
    leased: dict[str, Any] = {
        "next_attempt_at": bindparam("leased_until"),
        "lease_token": bindparam("token"),
    }
    claimed = update(deliveries).where(deliveries.c.id.in_(locked)).values(leased)
    of_job = {
        name: select(jobs.c[name]).where(jobs.c.id == deliveries.c.job_id).scalar_subquery()
        for name in ("account", "video_id")
    }
    columns = (of_job[name] if name in of_job else deliveries.c[name] for name in Owed._fields)
    return claimed.returning(*columns)


HOSTS = _hosts()
UNDER_WAY = _calls_under_way()
