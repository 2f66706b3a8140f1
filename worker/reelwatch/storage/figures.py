"""Figures of now, each from an index: nothing goes through all of a table that grows."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal, or_, select
from sqlalchemy.orm import Session

from reelwatch.rules.ages import notice_delay
from reelwatch.rules.endpoints import How
from reelwatch.rules.outlook import LATE
from reelwatch.rules.states import OPEN, State
from reelwatch.storage import counts, findings, heartbeat
from reelwatch.storage.counts import counted
from reelwatch.storage.event_states import DEAD, PENDING, SETTLED_STATES, is_in
from reelwatch.storage.filters import in_state
from reelwatch.storage.models import table_of
from reelwatch.storage.standings import awake_since, is_awake

jobs, deliveries = table_of("jobs"), table_of("deliveries")
accounts, endpoints = table_of("accounts"), table_of("endpoints")

OPEN_MOST = 20_000  # open jobs among which those that run are counted
OWED_MOST = 1_000  # counted of what is owed to one endpoint
ENDPOINTS_MOST = 200
LATELY = 1_000  # events of a state that endpoints are looked for in
DELAY_OF = timedelta(hours=1)


def figures_now(session: Session, now: datetime) -> dict[str, Any]:
    """What is open, due, owed and dead, how old it is, and how long ends went unnoticed."""
    by_state = _by_state(session)
    pending, dead = (_count(session, deliveries.c.id, part) for part in (PENDING, DEAD))
    return {
        "open": _most(sum(by_state[state] for state in OPEN)),
        "due": session.execute(counted(due_polls(now))).scalar_one(),
        "oldest_due_at": _oldest_due(session, now),
        "jobs": by_state,
        "pending_deliveries": pending,
        "dead_deliveries": dead,
        "oldest_undelivered_at": oldest_undelivered(session),
        "delay_seconds": delay_of(delays(session, now, counts.COUNT_MOST)),
        "last_tick_at": heartbeat.last(session, heartbeat.TICK),
    }


def summary(session: Session, now: datetime) -> dict[str, Any]:
    """What people see at a glance: jobs by state, what is late, who rests, what is owed, the tick.

    `last_tick_age_seconds` is None before the first; `standby` says that workers do without ticks,
    and is None if that is not so; no count is higher than `COUNT_MOST`.
    """
    ticks = heartbeat.ticks(session, now)
    return {
        "jobs": _by_state(session),
        "late": session.execute(counted(late_polls(now))).scalar_one(),
        "resting": resting(session, now),
        "undelivered": _count(session, deliveries.c.id, PENDING),
        "dead": _count(session, deliveries.c.id, DEAD),
        "last_tick_age_seconds": ticks.last and (now - ticks.last).total_seconds(),
        "standby": ticks.standby,
    }


def undelivered_webhooks(session: Session, account: str) -> int:
    """How many webhooks are owed of an account's jobs; at most `COUNT_MOST`."""
    owed = (PENDING, deliveries.c.channel == "webhook", jobs.c.account == account)
    query = select(literal(1)).join_from(deliveries, jobs, jobs.c.id == deliveries.c.job_id)
    return session.execute(counted(query.where(*owed))).scalar_one()


def delay_of(seconds: Iterable[float]) -> dict[str, Any]:
    """How many there are, and the 50th, 95th and 99th percentile; None of none."""
    ordered = sorted(seconds)
    found: dict[str, Any] = {"jobs": len(ordered)}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        place = min(len(ordered) - 1, int(share * len(ordered)))
        found[name] = round(ordered[place], 3) if ordered else None
    return found


def _by_state(session: Session) -> dict[str, int]:
    found = {
        state.value: _count(session, jobs.c.id, in_state(state))
        for state in State
        if state is not State.RUNNING
    }
    polled = select(jobs.c.state, jobs.c.finished_at).where(jobs.c.next_poll_at.is_not(None))
    some = polled.order_by(jobs.c.account, jobs.c.next_poll_at).limit(OPEN_MOST).subquery()
    running = (some.c.state == State.RUNNING, some.c.finished_at.is_(None))
    return found | {State.RUNNING.value: _count(session, some.c.state, *running)}


def _most(count: int) -> int:
    return min(count, counts.COUNT_MOST)


def _count(
    session: Session, column: Any, *conditions: ColumnElement[bool], most: int | None = None
) -> int:
    rows = select(literal(1)).select_from(column.table).where(*conditions)
    return session.execute(counted(rows, most)).scalar_one()


def may_ask(now: datetime) -> ColumnElement[bool]:
    """Of a row of `accounts`: it is not paused, and does not rest after a 429."""
    return and_(
        is_awake(now),
        or_(accounts.c.slowed_at.is_(None), accounts.c.slowed_at <= now),
    )


def due_polls(now: datetime, *columns: ColumnElement[Any]) -> Select[Any]:
    """A row for each job whose poll is due: its time has come, and its account may be asked.

    A job whose account is paused, or rests, waits, however long; that is not what is due.
    """
    due = select(*(columns or (literal(1),)))
    due = due.join_from(jobs, accounts, accounts.c.name == jobs.c.account)
    return due.where(jobs.c.next_poll_at <= now, may_ask(now))


def late_polls(now: datetime) -> Select[Any]:
    """A row for each job whose poll is late: due for more than `LATE`, and held back by no rest
    within that time.
    """
    awake = awake_since().subquery().c
    woken = select(awake.name).where(awake.since > now - LATE)
    return due_polls(now).where(jobs.c.next_poll_at < now - LATE, jobs.c.account.not_in(woken))


def slowed_and_late(
    session: Session, rows: Iterable[Mapping[str, Any]], now: datetime
) -> list[str]:
    """Which of these accounts, as they stand now, are slowed and have polls that are late."""
    slowed = [row["name"] for row in rows if row["slowed_at"] is not None]
    if not slowed:
        return []
    each = accounts.alias()
    # LIMIT has the index asked once for each account.
    late = late_polls(now).where(jobs.c.account == each.c.name).correlate(each).limit(1)
    query = select(each.c.name).where(each.c.name.in_(slowed), late.scalar_subquery().is_not(None))
    return list(session.scalars(query.order_by(each.c.name)))


def resting(session: Session, now: datetime) -> list[dict[str, Any]]:
    """The accounts whose jobs are not polled now: `name`, `paused_until` and `pause_reason`."""
    columns = (accounts.c.name, accounts.c.paused_until, accounts.c.pause_reason)
    rests = and_(
        accounts.c.pause_reason.is_not(None),
        or_(accounts.c.paused_until.is_(None), accounts.c.paused_until > now),
    )
    query = select(*columns).where(rests).order_by(accounts.c.name)
    return [dict(row) for row in session.execute(query).mappings()]


def _oldest_due(session: Session, now: datetime) -> datetime | None:
    """By the index of each account; what a rest held back is due since the rest was over."""
    awake = {row.name: row.since for row in session.execute(awake_since())}
    times: list[datetime] = []
    for name in session.scalars(select(accounts.c.name).where(may_ask(now))).all():
        mine = and_(jobs.c.account == name, jobs.c.next_poll_at.is_not(None))
        first = select(jobs.c.next_poll_at).where(mine).order_by(jobs.c.next_poll_at).limit(1)
        times += [max(at, awake.get(name) or at) for at in session.scalars(first)]
    oldest = min(times, default=None)
    return oldest if oldest is not None and oldest <= now else None


def oldest_undelivered(session: Session) -> datetime | None:
    """When the oldest event was made that is still owed."""
    first = select(deliveries.c.created_at).where(PENDING).order_by(deliveries.c.created_at)
    found: datetime | None = session.execute(first.limit(1)).scalar_one_or_none()
    return found


def delays(session: Session, now: datetime, most: int) -> list[float]:
    """Seconds from upstream's end to our notice, of the last `most` ends of the last hour."""
    columns = (jobs.c.upstream_finished_at, jobs.c.tracked_at, jobs.c.finished_at)
    query = select(*columns).where(
        jobs.c.finished_at > now - DELAY_OF, jobs.c.upstream_finished_at.is_not(None)
    )
    rows = session.execute(query.order_by(jobs.c.finished_at.desc()).limit(most)).all()
    return [notice_delay(*row) for row in rows]


# ---------------------------------------------------------------- endpoints


def endpoints_now(session: Session, now: datetime) -> list[dict[str, Any]]:
    """Endpoints that are not well, that something is owed to, or that were told of something."""
    worst = findings.unwell(session, now, ENDPOINTS_MOST, count_most=OWED_MOST)
    hosts = {each.endpoint: each.host for each in worst}
    for host, name in [*_owed_to(session), *_told_lately(session)]:
        hosts.setdefault(name, host)
    found = {each.endpoint: each for each in worst}
    if len(worst) == ENDPOINTS_MOST:  # there may be more of them among the others
        others = hosts.keys() - found.keys()
        rest = findings.unwell(session, now, len(others), others, OWED_MOST)
        found |= {each.endpoint: each for each in rest}
    rows = [_endpoint(session, name, host, found.get(name)) for name, host in hosts.items()]
    order = list(How)
    return sorted(rows, key=lambda row: (order.index(row["state"]), -row["pending"], row["name"]))


def _endpoint(
    session: Session, name: str, host: str, unwell: findings.Unwell | None
) -> dict[str, Any]:
    if unwell is None:
        pending, dead = findings.undelivered(session, host, name, OWED_MOST)
    else:
        pending, dead = unwell.waiting, unwell.dead
    return {
        "name": name,
        "host": host,
        "state": unwell.how if unwell else How.WELL,
        "failures": unwell.failures if unwell else 0,
        "failing_since": unwell.since if unwell else None,
        "open_until": unwell.open_until if unwell else None,
        "last_http_status": unwell.last_http_status if unwell else None,
        "last_error": unwell.last_error if unwell else None,
        "pending": pending,
        "dead": dead,
    }


def _owed_to(session: Session) -> list[tuple[str, str]]:
    """From endpoint to endpoint along the index of what waits, past all that waits at each."""
    host, name = deliveries.c.destination, deliveries.c.target
    found: list[tuple[str, str]] = []
    query = select(host, name).where(PENDING).order_by(host, name).limit(1)
    row = session.execute(query).first()
    while row is not None and len(found) < ENDPOINTS_MOST:
        found.append((row[0], row[1]))
        # One after the other: in one condition both would be looked for among all that waits.
        row = (
            session.execute(query.where(host == row[0], name > row[1])).first()
            or session.execute(query.where(host > row[0])).first()
        )
    return found


def _told_lately(session: Session) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for state in SETTLED_STATES:
        query = select(deliveries.c.destination, deliveries.c.target).where(is_in(state))
        for row in session.execute(query.order_by(deliveries.c.created_at.desc()).limit(LATELY)):
            found[row[0], row[1]] = None
    return list(found)[:ENDPOINTS_MOST]
