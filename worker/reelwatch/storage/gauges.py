"""How much there is of what moves up and down: read in the background for `/metrics`.

Counted along indexes, up to `COUNT_MOST` rows of a kind.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from reelwatch.rules import metrics, notices
from reelwatch.rules.metrics import OTHER, VALUES_MOST, Metric
from reelwatch.storage import db, heartbeat, standings
from reelwatch.storage.event_states import DEAD, PENDING
from reelwatch.storage.figures import due_polls
from reelwatch.storage.models import table_of

COUNT_MOST = 200_000

jobs = table_of("jobs")
deliveries = table_of("deliveries")
endpoints = table_of("endpoints")
incidents = table_of("incidents")

Gauges = dict[Metric, dict[tuple[str, ...], float]]

FEW_OPEN = (
    select(jobs.c.account, jobs.c.state).where(jobs.c.next_poll_at.is_not(None)).limit(COUNT_MOST)
).subquery()
OPEN = select(FEW_OPEN.c.account, FEW_OPEN.c.state, func.count()).group_by(
    FEW_OPEN.c.account, FEW_OPEN.c.state
)
FEW_DEAD = select(deliveries.c.id).where(DEAD).limit(COUNT_MOST).subquery()
FEW_PENDING = select(deliveries.c.created_at).where(PENDING).limit(COUNT_MOST).subquery()
OWED = select(func.count(), func.min(FEW_PENDING.c.created_at))
INCIDENTS = (
    select(incidents.c.kind, func.count())
    .where(incidents.c.open, incidents.c.kind.in_(notices.LASTING))
    .group_by(incidents.c.kind)
)


def gauges(session: Session, version: str) -> Gauges:
    """All gauges as of now, by their labels' values."""
    now = db.now(session)
    found: Gauges = {metrics.BUILD: {(version,): 1.0}, metrics.DATABASE_UP: {(): 1.0}}
    found[metrics.READ_AT] = {(): now.timestamp()}
    tick = heartbeat.last(session, heartbeat.TICK)
    found[metrics.TICK_AT] = {(): tick.timestamp()} if tick else {}
    names = _of_accounts(session, found, now)
    _of_jobs(session, found, now, names)
    _of_deliveries(session, found, now)
    _of_incidents(session, found)
    return found


def _of_incidents(session: Session, found: Gauges) -> None:
    """Every type that lasts, also where there is none of it. Of accounts that are paused and of
    endpoints that fail, their own rows tell.
    """
    begun: dict[tuple[str, ...], float] = {(kind.value,): 0.0 for kind in notices.LASTING}
    begun |= {(kind,): float(count) for kind, count in session.execute(INCIDENTS)}
    begun[notices.NoticeType.ACCOUNT_PAUSED.value,] = sum(found[metrics.PAUSED].values())
    begun[notices.NoticeType.ENDPOINT_FAILING.value,] = found[metrics.FAILING][()]
    found[metrics.INCIDENTS] = begun


def _of_accounts(session: Session, found: Gauges, now: datetime) -> Mapping[str, str]:
    """Returns by which name each account is shown."""
    rows = standings.rows_now(session, now)
    names = [row["name"] for row in rows]
    shown = {name: name if at < VALUES_MOST else OTHER for at, name in enumerate(names)}
    for metric in (metrics.RATE, metrics.PAUSED, metrics.SHORT):
        found[metric] = {}
    for row in rows:
        at = (shown[row["name"]],)
        _add(found[metrics.RATE], at, row["requests_per_second"])
        _add(found[metrics.PAUSED], at, row["pause_reason"] is not None)
        _add(found[metrics.SHORT], at, row["look_price"] > 0)
    return shown


def _of_jobs(session: Session, found: Gauges, now: datetime, shown: Mapping[str, str]) -> None:
    opened = found.setdefault(metrics.OPEN_JOBS, {})
    for account, state, count in session.execute(OPEN):
        _add(opened, (shown.get(account, OTHER), state), count)
    due, oldest = (found.setdefault(of, {}) for of in (metrics.DUE_JOBS, metrics.OLDEST_DUE))
    awake = {row.name: row.since for row in session.execute(standings.awake_since())}
    for account, count, first in session.execute(_due(now)):
        at = (shown.get(account, OTHER),)
        _add(due, at, count)
        since = max(first, awake.get(account) or first)  # a rest may have held it back
        oldest[at] = max(oldest.get(at, 0.0), _seconds(since, now))


def _due(now: datetime) -> Select[Any]:
    few = due_polls(now, jobs.c.account, jobs.c.next_poll_at).limit(COUNT_MOST).subquery()
    return select(few.c.account, func.count(), func.min(few.c.next_poll_at)).group_by(few.c.account)


def _of_deliveries(session: Session, found: Gauges, now: datetime) -> None:
    pending, since = session.execute(OWED).one()
    found[metrics.PENDING] = {(): float(pending)}
    found[metrics.OLDEST_PENDING] = {(): _seconds(since, now) if since else 0.0}
    dead = session.execute(select(func.count()).select_from(FEW_DEAD)).scalar_one()
    found[metrics.DEAD] = {(): float(dead)}
    resting = select(func.count()).where(endpoints.c.open_until.is_not(None))
    found[metrics.FAILING] = {(): float(session.execute(resting).scalar_one())}


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since.replace(tzinfo=since.tzinfo or UTC)).total_seconds())


def _add(to: dict[tuple[str, ...], float], at: tuple[str, ...], value: float) -> None:
    to[at] = to.get(at, 0.0) + float(value)


def away(version: str) -> Gauges:
    """What can be said without the database."""
    values: Iterable[tuple[Metric, dict[tuple[str, ...], float]]] = (
        (metrics.BUILD, {(version,): 1.0}),
        (metrics.DATABASE_UP, {(): 0.0}),
    )
    return dict(values)
