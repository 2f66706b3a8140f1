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
from sqlalchemy import ColumnElement, and_, delete, exists, literal_column, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import breaker
from reelwatch.rules.breaker import WELL, Breaker, Verdict, Wait
from reelwatch.storage import db
from reelwatch.storage.models import Destination, table_of

log = structlog.get_logger(__name__)

deliveries = table_of("deliveries")
destinations = table_of("destinations")
endpoints = table_of("endpoints")

PENDING = deliveries.c.state == literal_column("'pending'")  # by these words an index is known
IDS_AT_ONCE = 500  # values in one IN list


def is_due(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Is an event owed, and to be tried by now?"""
    return and_(PENDING, deliveries.c.next_attempt_at <= now)


def shown(endpoint: str) -> str:
    """An endpoint for logs: a URL without user and query, which may be a receiver's secrets."""
    if "://" not in endpoint:
        return endpoint
    parts = urlsplit(endpoint)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


# ------------------------------------------------------------------ outcomes


@dataclass(frozen=True, slots=True)
class Call:
    """How one call went. `answered`: did the host say anything? None: it is the broker."""

    host: str
    endpoint: str
    verdict: Verdict
    answered: bool | None


def judge(session: Session, calls: Sequence[Call], now: datetime) -> None:
    """Write down what the outcomes of calls say about hosts and endpoints."""
    if calls:
        _judge_hosts(session, calls)
        _judge_endpoints(session, calls, now)


def _judge_hosts(session: Session, calls: Sequence[Call]) -> None:
    answers = [(call.host, call.answered) for call in calls if call.answered is not None]
    if not answers:
        return
    before = _allowances(session, {host for host, _ in answers})
    after = before.copy()
    for host, answered in answers:
        allowance = after.get(host, breaker.ALLOWANCE_FIRST)
        after[host] = breaker.host_allowance(allowance, answered=answered)
    for name in sorted(after):  # in one order for all workers: no two wait for each other
        if name not in before:
            new = db.insert_if_absent(db.dialect(session), Destination, "name")
            session.execute(new.values(name=name, failures=0, openings=0, allowance=after[name]))
        elif after[name] != before[name]:
            changed = update(destinations).where(destinations.c.name == name)
            session.execute(changed.values(allowance=after[name]))


def _allowances(session: Session, names: Collection[str]) -> dict[str, int]:
    """What the hosts get, their rows locked."""
    query = select(destinations.c.name, destinations.c.allowance)
    query = query.where(destinations.c.name.in_(sorted(names))).order_by(destinations.c.name)
    return {row.name: row.allowance for row in session.execute(query.with_for_update())}


def _judge_endpoints(session: Session, calls: Sequence[Call], now: datetime) -> None:
    before = standings(session, {call.endpoint for call in calls}, lock=True)
    after: dict[str, Breaker] = dict(before)
    hosts = {}
    for call in calls:
        after[call.endpoint] = breaker.after(after.get(call.endpoint, WELL), call.verdict, now)
        hosts[call.endpoint] = call.host
    for name in sorted(after):
        if after[name] != before.get(name, WELL):
            _write(session, hosts[name], name, after[name], now)
            _tell(name, before.get(name, WELL), after[name])


def standings(
    session: Session, names: Collection[str], *, lock: bool = False
) -> Mapping[str, Breaker]:
    """How those of the endpoints are doing that are not well; locked in one order if wanted."""
    found = {}
    ordered = sorted(names)
    for start in range(0, len(ordered), IDS_AT_ONCE):
        chosen = endpoints.c.name.in_(ordered[start : start + IDS_AT_ONCE])
        query = select(endpoints).where(chosen).order_by(endpoints.c.name)
        rows = session.execute(query.with_for_update() if lock else query).mappings()
        found.update({row["name"]: standing_of(row) for row in rows})
    return found


def standing_of(row: RowMapping) -> Breaker:
    """The breaker of a row of `endpoints`."""
    return Breaker(**{field: row[field] for field in Breaker.__slots__})


def _write(session: Session, host: str, name: str, after: Breaker, now: datetime) -> None:
    if after == WELL:
        session.execute(delete(endpoints).where(endpoints.c.name == name))
        return
    values = asdict(after) | {"host": host, "changed_at": now}
    session.execute(db.insert_or_update(db.dialect(session), endpoints, {"name": name}, values))


def _tell(name: str, before: Breaker, after: Breaker) -> None:
    if after.open_until and after.open_until != before.open_until:
        until = after.open_until.isoformat()
        log.warning("endpoint_open", endpoint=shown(name), until=until, failures=after.failures)
    elif before.open_until and not after.open_until:
        log.warning("endpoint_works_again", endpoint=shown(name))


# ------------------------------------------------------------------ hands


def release(session: Session, names: Iterable[str]) -> list[str]:
    """Forget what speaks against endpoints (callback URLs); returns those that rested.

    What is owed to them is due when its `next_attempt_at` says, which is not touched here.
    """
    held = standings(session, set(names), lock=True)
    for name in held:
        session.execute(delete(endpoints).where(endpoints.c.name == name))
    return [name for name, standing in held.items() if standing.open_until is not None]


def idle(session: Session, before: datetime) -> list[str]:
    """The endpoints that nothing is owed to, and that nobody has called since then."""
    owed = exists().where(
        PENDING, deliveries.c.destination == endpoints.c.host,
        deliveries.c.target == endpoints.c.name,
    )  # fmt: skip
    return list(
        session.scalars(select(endpoints.c.name).where(endpoints.c.changed_at < before, ~owed))
    )


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
            return f"its endpoint failed {self.failures} times in a row and is left alone"
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


def resting(session: Session, now: datetime) -> list[dict[str, Any]]:
    """The endpoints that are left alone now: `name`, `host`, `failures`, `open_until`."""
    columns = [endpoints.c[name] for name in ("name", "host", "failures", "open_until")]
    query = select(*columns).where(endpoints.c.open_until > now).order_by(endpoints.c.name)
    return [dict(row) for row in session.execute(query).mappings()]
