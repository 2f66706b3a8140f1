"""The rows of hosts and endpoints: what the outcomes of calls change in them, and what they say.

An endpoint has a row only while it is not well, so that there are few, and each call to one that is
well writes none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import structlog
from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import breaker, notices
from reelwatch.rules.breaker import WELL, Breaker, Verdict, Wait
from reelwatch.rules.wording import short_name
from reelwatch.storage import db, incidents, list_parameters
from reelwatch.storage.event_states import DEAD, PENDING
from reelwatch.storage.models import Destination, table_of

log = structlog.get_logger(__name__)

deliveries = table_of("deliveries")
destinations = table_of("destinations")
endpoints = table_of("endpoints")
attempts = table_of("attempts")


def _works(status: ColumnElement[Any], error: ColumnElement[Any]) -> ColumnElement[bool]:
    """Is it an attempt of which `breaker.verdict` says that the endpoint works?"""
    refused = and_(status.between(400, 499), status.not_in(breaker.ASKS_TO_WAIT))
    return or_(error.is_(None), refused)


SELECT_HOSTS = (
    select(destinations.c.name, destinations.c.allowance)
    .where(list_parameters.among(destinations.c.name, "names"))
    .order_by(destinations.c.name)
)
SELECT_ENDPOINTS = (
    select(endpoints)
    .where(list_parameters.among(endpoints.c.name, "names"))
    .order_by(endpoints.c.name)
)

RECENT = 1_000  # attempts among which one is looked for that was answered: the latest will do
_RECENT = (
    select(attempts.c.delivery_id, attempts.c.at, attempts.c.http_status, attempts.c.error)
    .order_by(attempts.c.id.desc())
    .limit(RECENT)
    .subquery()
)
_ANSWERED = (  # a value of the row, and no join, for which PostgreSQL would read all deliveries
    select(
        select(deliveries.c.target)
        .where(deliveries.c.id == _RECENT.c.delivery_id)
        .scalar_subquery()
        .label("target"),
        _RECENT.c.at,
    )
    # An attempt that is yet to come was written down before the clock was set back.
    .where(
        _RECENT.c.at.between(bindparam("since"), bindparam("until")),
        _works(_RECENT.c.http_status, _RECENT.c.error),
    )
    .subquery()
)
SELECT_ANSWERED = (
    select(_ANSWERED.c.target, func.max(_ANSWERED.c.at).label("began"))
    .where(list_parameters.among(_ANSWERED.c.target, "names"))
    .group_by(_ANSWERED.c.target)
)

IDS_AT_ONCE = 500  # values in one IN list


def is_due(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Is an event owed, and to be tried by now?"""
    return and_(PENDING, deliveries.c.next_attempt_at <= now)


def shown(endpoint: str) -> str:
    """An endpoint for logs: a URL without user and query, which may be a receiver's secrets."""
    if "://" not in endpoint:
        return endpoint
    try:
        parts = urlsplit(endpoint)
    except ValueError:  # a task may have any name, also one that begins like a URL
        return short_name(endpoint)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def named(endpoint: str) -> dict[str, str]:
    """Which endpoint it is, for the operator, with the short name that pages use."""
    return {
        "endpoint": shown(endpoint),
        "name": short_name(endpoint) if "://" in endpoint else endpoint,
    }


# ------------------------------------------------------------------ outcomes


@dataclass(frozen=True, slots=True)
class Call:
    """How one call went. `answered`: did the host say anything? None: it is the broker."""

    host: str
    endpoint: str
    verdict: Verdict
    answered: bool | None
    began: datetime


def judge(session: Session, calls: Sequence[Call], now: datetime) -> None:
    """Write down what the outcomes of calls say about hosts and endpoints.

    Most change nothing: that is seen without a lock, which all workers would wait for.
    """
    if calls:
        _judge_hosts(session, calls)
        _judge_endpoints(session, calls, now)


def _judge_hosts(session: Session, calls: Sequence[Call]) -> None:
    answers = [(call.host, call.answered) for call in calls if call.answered is not None]
    hosts = {host for host, _ in answers}
    if not hosts or _after(before := _allowances(session, hosts), answers) == before:
        return
    before = _allowances(session, hosts, lock=True)
    after = _after(before, answers)
    for name in sorted(after):  # all workers take one order, so that no two wait for each other
        if name not in before:
            new = db.insert_if_absent(db.dialect(session), Destination, "name")
            session.execute(new.values(name=name, failures=0, openings=0, allowance=after[name]))
        elif after[name] != before[name]:
            changed = update(destinations).where(destinations.c.name == name)
            session.execute(changed.values(allowance=after[name]))


def _after(before: Mapping[str, int], answers: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """What the hosts get after calls that each of them answered, or did not."""
    after = dict(before)
    for host, answered in answers:
        allowance = after.get(host, breaker.ALLOWANCE_FIRST)
        after[host] = breaker.host_allowance(allowance, answered=answered)
    return after


def _allowances(session: Session, names: Collection[str], *, lock: bool = False) -> dict[str, int]:
    """What the hosts get, their rows locked if wanted."""
    statement = SELECT_HOSTS.with_for_update() if lock else SELECT_HOSTS
    found = session.execute(statement, {"names": sorted(names)})
    return {row.name: row.allowance for row in found}


def _judge_endpoints(session: Session, calls: Sequence[Call], now: datetime) -> None:
    names = {call.endpoint for call in calls}
    if all(call.verdict is Verdict.ACCEPTED for call in calls) and not standings(session, names):
        return
    before = standings(session, names, lock=True)
    answered = _answered(session, [call for call in calls if call.verdict is Verdict.FAILED], now)
    after: dict[str, Breaker] = dict(before)
    hosts = {}
    for call in calls:
        standing = after.get(call.endpoint, WELL)
        after[call.endpoint] = breaker.after(
            standing, call.verdict, now, call.began, answered.get(call.endpoint)
        )
        hosts[call.endpoint] = call.host
    for name in sorted(after):
        if after[name] != before.get(name, WELL):
            _write(session, hosts[name], name, after[name], now)
            _tell(session, name, before.get(name, WELL), after[name], now)


def _answered(session: Session, failed: Sequence[Call], now: datetime) -> Mapping[str, datetime]:
    """When the latest answered calls to the endpoints of these began, where that was after them.

    Seen are all that are written down, whoever made them, this transaction's included.
    """
    if not failed:
        return {}
    names, since = {call.endpoint for call in failed}, min(call.began for call in failed)
    asked = {"names": sorted(names), "since": since, "until": now}
    found = session.execute(SELECT_ANSWERED, asked)
    return {row.target: row.began for row in found}


def standings(
    session: Session, names: Collection[str], *, lock: bool = False
) -> Mapping[str, Breaker]:
    """How those of the endpoints are doing that are not well; locked in one order if wanted."""
    statement = SELECT_ENDPOINTS.with_for_update() if lock else SELECT_ENDPOINTS
    rows = session.execute(statement, {"names": sorted(names)}).mappings()
    return {row["name"]: standing_of(row) for row in rows}


def standing_of(row: RowMapping) -> Breaker:
    """The breaker of a row of `endpoints`, or of one that has less: what claims go by."""
    return Breaker(**{field: row[field] for field in Breaker.__slots__ if field in row})


def _write(session: Session, host: str, name: str, after: Breaker, now: datetime) -> None:
    if after == WELL:
        session.execute(delete(endpoints).where(endpoints.c.name == name))
        return
    values = asdict(after) | {"host": host, "changed_at": now}
    session.execute(db.insert_or_update(db.dialect(session), endpoints, {"name": name}, values))


def _tell(session: Session, name: str, before: Breaker, after: Breaker, now: datetime) -> None:
    if name != incidents.operator_url():  # of its own endpoint he would be told for ever
        incidents.tell(session, notices.of_endpoint(named(name), before, after), now)
    if after.open_until and after.open_until != before.open_until:
        until = after.open_until.isoformat()
        log.warning("endpoint_open", endpoint=shown(name), until=until, failures=after.failures)
    elif before.open_until and not after.open_until:
        log.warning("endpoint_works_again", endpoint=shown(name))


# ------------------------------------------------------------------ hands


def release(session: Session, names: Iterable[str]) -> list[str]:
    """End the rest of endpoints (callback URLs) by a call that decides; returns those that rested.

    How often they failed, and since when they have taken nothing, is kept. What is owed to them is
    due when its `next_attempt_at` says, which is not touched here.
    """
    held, now = standings(session, set(names), lock=True), db.now(session)
    for name, standing in held.items():
        if (after := breaker.released(standing, now)) != standing:
            values = asdict(after) | {"changed_at": now}
            session.execute(update(endpoints).where(endpoints.c.name == name).values(values))
    return [name for name, each in held.items() if each.open_until and each.open_until > now]


def forget(session: Session, names: Collection[str]) -> None:
    """Keep nothing of endpoints; what was told to have begun of them is over."""
    held, now = standings(session, names, lock=True), db.now(session)
    for name, standing in held.items():
        _tell(session, name, standing, WELL, now)
    session.execute(delete(endpoints).where(endpoints.c.name.in_(names)))


def idle(session: Session, before: datetime) -> list[str]:
    """The endpoints without events that are owed or dead, that nobody has called since then."""
    mine = deliveries.c.target == endpoints.c.name
    owed = exists().where(PENDING, deliveries.c.destination == endpoints.c.host, mine)
    dead = exists().where(DEAD, mine)
    idle = (endpoints.c.changed_at < before, ~owed, ~dead)
    return list(session.scalars(select(endpoints.c.name).where(*idle)))


def release_for(session: Session, ids: Collection[str]) -> list[str]:
    """`release` the endpoints of these events, by id."""
    names: set[str] = set()
    ordered = sorted(ids)
    for start in range(0, len(ordered), IDS_AT_ONCE):
        chosen = deliveries.c.id.in_(ordered[start : start + IDS_AT_ONCE])
        names.update(session.scalars(select(deliveries.c.target).where(chosen).distinct()))
    return release(session, names)


@dataclass(frozen=True, slots=True)
class NextTry:
    """When an event is tried next, at the earliest, and why not before.

    `failures`: its endpoint's in a row, over all its events, where it waits for that; else 0.
    """

    at: datetime
    wait: Wait
    failures: int = 0

    @property
    def reason(self) -> str:
        """For people, in a few words."""
        if self.wait is Wait.RESTING:
            return f"its endpoint failed {self.failures} times in a row and rests"
        return f"it waits for {self.wait.value}"


def next_tries(session: Session, ids: Collection[str], now: datetime) -> dict[str, NextTry]:
    """For each of these events that is still owed, by id: when it is tried next, and why then."""
    names = ("id", "target", "next_attempt_at", "lease_token")
    columns = [deliveries.c[name] for name in names]
    rows: list[Any] = []
    ordered = sorted(ids)
    for start in range(0, len(ordered), IDS_AT_ONCE):
        chosen = deliveries.c.id.in_(ordered[start : start + IDS_AT_ONCE])
        rows += session.execute(select(*columns).where(chosen, PENDING)).all()
    held = standings(session, {row.target for row in rows})
    found = {}
    for row in rows:
        standing = held.get(row.target, WELL)
        leased = row.lease_token is not None
        at, wait = breaker.next_try(row.next_attempt_at, standing, now, leased=leased)
        failures = standing.failures if wait is Wait.RESTING else 0
        found[row.id] = NextTry(at, wait, failures)
    return found
