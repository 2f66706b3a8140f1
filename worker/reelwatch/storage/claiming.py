"""Which events go now, and taking them; what waits for dead receivers costs a claim nothing.

A survey walks along an index from endpoint to endpoint and sees the first few due events of each,
however many wait behind them. The rules of `breaker` say which of them may go. Only taking those
writes anything.
"""

import json
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

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
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from reelwatch.rules import breaker
from reelwatch.rules.breaker import ALLOWANCE_FIRST, Room, Waiting, allowed
from reelwatch.storage import db
from reelwatch.storage.destinations import deliveries, destinations, endpoints, is_due, standing_of
from reelwatch.storage.models import UtcDateTime, table_of

WINDOW = 400  # events and endpoints that one survey sees of a host at most
HOSTS_AT_ONCE = 16  # that one statement walks through; the next ones follow while there is room

CELERY = "celery"  # the host of what goes to tasks: the broker, which is ours and takes it quickly
NOW = bindparam("now", type_=UtcDateTime())
ONE: ColumnElement[int] = literal_column("1", Integer())
MOST_SEEN = bindparam("window", type_=Integer())
KNOWN = bindparam("known", expanding=True, type_=String())
WEBHOOK: ColumnElement[str] = literal_column("'webhook'")  # a task needs no account's secret

First = Callable[[ColumnElement[bool], FromClause], ScalarSelect[Any]]

jobs = table_of("jobs")

# Where the walk through a host's endpoints was cut, to go on from there. A host has so many
# endpoints only where each job has a URL of its own.
_cut_at: dict[str, str] = {}


def survey(
    session: Session, limit: int, now: datetime, known: Collection[str] | None = None
) -> list[str]:
    """The ids of up to `limit` due events that may go now; nothing is written or locked.

    `known`: webhooks of these accounts only; None: of all, which is quicker.
    """
    allowances = {
        row.name: row.allowance or ALLOWANCE_FIRST for row in session.execute(HOSTS)
    }  # fmt: skip
    hosts = list(allowances)
    random.shuffle(hosts)  # where a claim can't take all, none is always the last
    chosen: list[str] = []
    for start in range(0, len(hosts), HOSTS_AT_ONCE):
        some = {host: allowances[host] for host in hosts[start : start + HOSTS_AT_ONCE]}
        chosen += _of_hosts(session, some, limit - len(chosen), now, known)
        if len(chosen) >= limit:
            break
    return chosen


def take(session: Session, ids: Sequence[str], now: datetime, lease: timedelta) -> list[RowMapping]:
    """Lease those of the events that are still due; returns their rows, in the order to begin."""
    if not ids:
        return []
    values = {
        "ids": list(ids),
        "now": now,
        "leased_until": now + lease,
        "token": secrets.token_hex(16),
    }
    rows = session.execute(CLAIMED, values).mappings().all()
    return sorted(rows, key=lambda row: (row["failures"], row["created_at"], row["sequence"]))


# ------------------------------------------------------------------ the survey


def _of_hosts(
    session: Session,
    allowances: Mapping[str, int],
    limit: int,
    now: datetime,
    known: Collection[str] | None,
) -> list[str]:
    """The ids of the events of these hosts that may go now.

    What a host brings none of may stand where it was not looked: before the place where this walk
    went on, or behind the one where it was cut. So it is walked a second time from there.
    """
    partly = set(_cut_at)
    chosen = _of_a_walk(session, allowances, limit, now, known)
    partly |= set(_cut_at)
    others = {
        host: places
        for host, places in allowances.items()
        if host in partly and host not in chosen.values()
    }
    if others and len(chosen) < limit:
        chosen |= _of_a_walk(session, others, limit - len(chosen), now, known)
    return list(chosen)


def _of_a_walk(
    session: Session,
    allowances: Mapping[str, int],
    limit: int,
    now: datetime,
    known: Collection[str] | None,
) -> dict[str, str]:
    """The ids of the events of these hosts that one walk sees and that may go; each with its host.

    The walk through a host goes on where the one before was cut.
    """
    starts = [
        [host, _cut_at.pop(host, ""), str(limit if host == CELERY else places)]
        for host, places in allowances.items()
    ]
    values: dict[str, Any] = {"hosts": json.dumps(starts), "now": now, "window": WINDOW}
    if known is not None:
        values["known"] = list(known)
    walk = _walk(db.dialect(session), of_known=known is not None)
    rows = session.execute(walk, values).mappings().all()
    _cut_at.update({row["destination"]: row["target"] for row in rows if row["seen"] >= WINDOW})
    due = [row for row in rows if row["next_attempt_at"] <= now]
    if not due:
        return {}
    # Counted after the walk: what somebody takes meanwhile is counted, or can't be taken again.
    at_endpoint, at_host = _under_way(session, now)
    hosts = {row["id"]: row["destination"] for row in due}
    chosen = breaker.share(
        map(_waiting, due),
        {row["target"]: _room(row, at_endpoint[row["target"]], now) for row in due},
        {host: places - at_host[host] for host, places in allowances.items()},
        limit,
        now,
    )
    return {event_id: hosts[event_id] for event_id in chosen}


def _room(row: RowMapping, under_way: int, now: datetime) -> Room:
    standing = breaker.WELL if row["allowance"] is None else standing_of(row)
    return Room(allowed(standing, now) - under_way, standing == breaker.WELL)


def _under_way(session: Session, now: datetime) -> tuple[Counter[str], Counter[str]]:
    """How many calls are under way at each endpoint, and at each host."""
    at_endpoint: Counter[str] = Counter()
    at_host: Counter[str] = Counter()
    for row in session.execute(UNDER_WAY, {"now": now}):
        at_endpoint[row.target] += row.calls
        if row.channel == "webhook":
            at_host[row.destination] += row.calls
    return at_endpoint, at_host


def _waiting(row: RowMapping) -> Waiting:
    bound = row["channel"] == "webhook"  # the broker has no limits
    return Waiting(row["id"], row["destination"], row["target"], row["delivery_failures"],
                   row["next_attempt_at"], bound)  # fmt: skip


# ------------------------------------------------------------------ statements


def _pending(rows: FromClause) -> ColumnElement[bool]:
    return rows.c.state == literal_column("'pending'")


def _hosts() -> Select[Any]:
    """All hosts that events are owed to: from one to the next by the index."""
    first = select(func.min(deliveries.c.destination).label("name")).where(_pending(deliveries))
    hosts = first.cte("hosts", recursive=True)
    behind = deliveries.alias("behind")
    following = select(func.min(behind.c.destination)).where(
        _pending(behind), behind.c.destination > hosts.c.name
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
def _walk(dialect: str, *, of_known: bool) -> Select[Any]:
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
    return case((and_(walk.c.next_attempt_at <= NOW, walk.c.place < walk.c.places), alike))


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
    query = select(rows.c.id).where(_pending(rows), condition).order_by(*order).limit(1)
    if of_known:
        # A value of the row, and no join: PostgreSQL would take one for a reason to begin with all
        # jobs of an account.
        account = select(jobs.c.account).where(jobs.c.id == rows.c.job_id).scalar_subquery()
        query = query.where(or_(rows.c.channel != WEBHOOK, account.in_(KNOWN)))
    return query.scalar_subquery()


def _claiming() -> ReturningUpdate[*tuple[Any, ...]]:
    locked = (
        select(deliveries.c.id)
        .where(deliveries.c.id.in_(bindparam("ids", expanding=True)), is_due(NOW))
        .with_for_update(skip_locked=True)
    )
    leased: dict[str, Any] = {
        "next_attempt_at": bindparam("leased_until"),
        "lease_token": bindparam("token"),
    }
    claimed = update(deliveries).where(deliveries.c.id.in_(locked)).values(leased)
    return claimed.returning(*deliveries.c)


HOSTS = _hosts()
UNDER_WAY = _calls_under_way()
CLAIMED = _claiming()
