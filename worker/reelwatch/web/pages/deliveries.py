"""The pages Deliveries and Endpoints: the events of all jobs, and where they go."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.jobs import redelivery
from reelwatch.rules.endpoints import How, said
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.wording import plain
from reelwatch.storage import db, events, findings, knowing, overviews, paging, surveys
from reelwatch.storage.event_states import EVENT_STATES
from reelwatch.storage.events import public
from reelwatch.storage.filters import EventFilter
from reelwatch.storage.knowing import Unknown
from reelwatch.storage.models import table_of
from reelwatch.storage.paging import Page, Place, page
from reelwatch.web.pages.listing import SPANS, place_text
from reelwatch.web.pages.words import KINDS, answered, covered, endpoint, named, question, since

deliveries = table_of("deliveries")
attempts = table_of("attempts")
jobs = table_of("jobs")

LIMIT = 50
NO_STATUS = 0  # of an attempt that was not answered
NOTHING_SELECTED = "none"  # in place of how many events are sent again
NAMED_MOST = 5  # endpoints of an order

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form holds, as text."""

    state: str = ""
    endpoint: str = ""  # or an event's id: where that goes, so that an address holds no URL
    status: str = ""  # of the last attempt: an HTTP status, or `none`
    since: str = ""
    account: str = ""

    @property
    def query(self) -> str:
        """As part of an address."""
        given = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}
        return urlencode(given)

    def target(self, session: Session) -> str:
        """The endpoint that is meant."""
        query = select(deliveries.c.target).where(deliveries.c.id == self.endpoint)
        found = self.endpoint and session.execute(query).scalar_one_or_none()
        return found or self.endpoint

    def filter(self, session: Session, now: datetime) -> EventFilter:
        """All but the status. Raises `Refused`."""
        return EventFilter(
            state=self.state or None,
            endpoint=self.target(session) or None,
            account=self.account or None,
            since=since(self.since, now),
        )

    def check_order(self, given: Iterable[str]) -> None:
        """Raise `Refused` for what an order, with these parameters, would not heed."""
        known = [name for name in self.__slots__ if name != "status"]
        for name in given:
            if name not in known:
                raise Refused(f"{name}: an order chooses events by {', '.join(known)} alone")

    def order(self, session: Session, now: datetime) -> redelivery.Wanted:
        """The same, to be sent again: what is dead, or of the state that is asked for."""
        wanted = self.filter(session, now)
        return redelivery.Wanted(
            state=wanted.state or DeliveryState.DEAD,
            endpoint=wanted.endpoint,
            account=wanted.account,
            since=wanted.since,
            release=True,
        )

    def words(self, session: Session) -> str:
        """Which events such an order is about."""
        parts = [f"All {self.state or DeliveryState.DEAD} events"]
        parts += [f"that go to {named(self.target(session))}"] if self.endpoint else []
        parts += [f"of account {self.account}"] if self.account else []
        parts += [f"made within the last {self.since}"] if self.since else []
        return plain(" ".join(parts))


@dataclass(frozen=True, slots=True)
class Order:
    """The page that asks whether so many events shall be sent again."""

    words: str
    query: str
    list_query: str  # the list of the same events
    count: int
    at_least: bool  # there may be more: counting stopped
    endpoints: Sequence[tuple[str, int]]  # with the most of them, and how many
    others: int  # endpoints
    oldest: datetime | None
    newest: datetime | None


def order_view(session: Session, asked: Asked) -> Order:
    """What sending all that match would be about; not counted further than a page of them."""
    wanted = asked.order(session, db.now(session)).events()
    found = surveys.events(session, wanted, None, surveys.PAGE)
    by_endpoint = Counter(named(row["target"]) for row in found.rows)
    times = [row["created_at"] for row in found.rows]
    return Order(
        asked.words(session),
        asked.query,
        replace(asked, state=asked.state or DeliveryState.DEAD.value).query,
        len(times),
        found.next is not None,
        by_endpoint.most_common(NAMED_MOST),
        max(0, len(by_endpoint) - NAMED_MOST),
        min(times, default=None),
        max(times, default=None),
    )


def filters_of(session: Session, wanted: Mapping[str, Any]) -> str:
    """The account and endpoint of an order, to be added to an address; no URL stands in it."""
    given = {name: wanted[name] for name in ("account", "endpoint") if name in wanted}
    if "://" in given.get("endpoint", ""):
        url = given.pop("endpoint")
        newest = surveys.events(session, EventFilter(endpoint=url), None, 1).rows
        if newest and newest[0]["target"] == url:
            given["endpoint"] = newest[0]["id"]
    return f"&{urlencode(given)}" if given else ""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event, as far as a list tells of it."""

    id: str
    type: str
    state: str
    endpoint: str
    job_id: int
    video_id: str
    at: datetime
    attempts: int
    status: str
    said: str
    next_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The page."""

    asked: Asked
    rows: Sequence[EventRow]
    older: str
    newer: bool
    refused: str
    cut: bool
    goes_to: str = ""  # the endpoint that an event's id was asked for
    unknown: Unknown | None = None  # what the form names, if nothing goes by that name
    states: Sequence[str] = EVENT_STATES
    spans: Sequence[str] = SPANS


def view(
    session: Session,
    asked: Asked,
    before: Place | None = None,
    ids: Sequence[str] | None = None,
    configured: Collection[str] = (),
) -> Deliveries:
    """A page of events; with `ids` these and no others, so that nothing moves.

    `configured` are accounts that are known though they may never have been used.
    """
    now, refused, newer = db.now(session), "", False
    found = Page([], None)
    try:
        found = _page(session, asked, now, before, ids)
        if ids is not None and before is None:
            newest = _page(session, asked, now, None, None, 1).rows
            newer = bool(newest) and newest[0]["id"] not in ids
    except Refused as error:
        refused = error.said
    if ids is not None:
        order = {each: place for place, each in enumerate(ids)}
        found = Page(sorted(found.rows, key=lambda row: order[row["id"]]), None)
    rows = [_row(row) for row in events.with_last_attempt(session, found.rows)]
    cut = found.next is not None and len(rows) < LIMIT
    target = asked.target(session)
    goes_to = named(target) if target != asked.endpoint else ""
    unknown = None if rows or refused else _unknown(session, asked, target, configured)
    return Deliveries(asked, rows, place_text(found.next), newer, refused, cut, goes_to, unknown)


def _unknown(
    session: Session, asked: Asked, target: str, configured: Collection[str]
) -> Unknown | None:
    account = knowing.unknown_account(session, asked.account or None, configured)
    return account or knowing.unknown_endpoint(session, target)


def _page(
    session: Session,
    asked: Asked,
    now: datetime,
    before: Place | None,
    ids: Sequence[str] | None,
    limit: int = LIMIT,
) -> Page:
    query = select(*public(deliveries), jobs.c.video_id, jobs.c.account)
    # No inner join: of the first row that was not looked at PostgreSQL need not read the job.
    query = query.outerjoin(jobs, jobs.c.id == deliveries.c.job_id)
    query = query.where(deliveries.c.job_id.is_not(None))
    if ids is not None:
        rows = session.execute(query.where(deliveries.c.id.in_(ids))).mappings()
        return Page([dict(row) for row in rows], None)
    wanted = asked.filter(session, now)
    query, parts = query.where(*wanted.indexed()), wanted.parts()

    def sieve(row: Any) -> Any:
        yield from (wanted.sieve() or (lambda _row: ()))(row)
        if asked.status:
            yield _last_was(row, asked.status)

    sieves = sieve if asked.status or wanted.sieve() else None
    asked_for: dict[str, Any] = {"limit": limit, "before": before, "most": paging.EVENTS_MOST}
    return page(session, query, parts, sieves, time="created_at", **asked_for)


def _last_was(row: Any, status: str) -> Any:
    """Was the last attempt answered so? As a value of the row: a join would read all attempts."""
    if status != "none" and not (status.isascii() and status.isdigit() and len(status) == 3):
        raise Refused(f"status: {status!r}; accepted: a number as 500, or none")
    code = func.coalesce(attempts.c.http_status, NO_STATUS)
    last = select(code).where(attempts.c.delivery_id == row.id).order_by(attempts.c.id.desc())
    # Said what it belongs to: by itself it does not see that far out.
    said = last.limit(1).correlate(row.id.table).scalar_subquery()
    return said == (NO_STATUS if status == "none" else int(status))


def _row(row: Row) -> EventRow:
    last = row["last_attempt"] or {}
    urls = [row["target"]]
    said = plain(covered(last.get("error") or "", urls))
    return EventRow(
        id=row["id"],
        type=row["event_type"],
        state=row["state"],
        endpoint=endpoint(row["target"], row["channel"]),
        job_id=row["job_id"],
        video_id=plain(row["video_id"]),
        at=row["created_at"],
        attempts=row["attempts"],
        status=str(last.get("http_status") or ""),
        said=said,
        next_at=row["next_attempt_expected_at"],
        reason=plain(covered(row["next_attempt_reason"] or "", urls)),
    )


# ---------------------------------------------------------------- endpoints


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One endpoint; the counts are of the newest events of each state."""

    name: str
    event: str  # one that goes there: a filter finds it by that
    channel: str
    kind: str
    said: str
    last: str  # what it answered, if it is not well
    question: str  # what to look at then
    since: datetime | None
    until: datetime | None
    last_at: datetime | None
    pending: int
    delivered: int
    dead: int

    @property
    def query(self) -> str:
        """The events that go there."""
        return urlencode({"endpoint": self.event})


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The page."""

    rows: Sequence[EndpointRow]
    most: int = overviews.COUNT_MOST


def endpoints_view(session: Session) -> Endpoints:
    """Where events went lately, those that are not well first."""
    now = db.now(session)
    grouped: dict[str, dict[str, Any]] = {}
    for row in overviews.endpoints_lately(session):
        new = {"channel": row["channel"], "last_at": None}
        each = grouped.setdefault(row["target"], new)
        each[row["state"]] = row["events"]
        each["event"] = row["event"]
        each["last_at"] = max(row["last_at"], each["last_at"] or row["last_at"])
    names = grouped.keys()
    unwell = {each.endpoint: each for each in findings.unwell(session, now, len(names), names)}
    rows = [_endpoint(target, each, unwell.get(target)) for target, each in grouped.items()]
    return Endpoints(
        sorted(rows, key=lambda row: (("bad", "odd", "well").index(row.kind), row.name))
    )


def _endpoint(target: str, found: Row, unwell: findings.Unwell | None) -> EndpointRow:
    state = unwell.how if unwell else How.WELL
    status, error = (unwell.last_http_status, unwell.last_error) if unwell else (None, None)
    return EndpointRow(
        endpoint(target, found["channel"]),
        found["event"],
        found["channel"],
        KINDS[state],
        said(state, unwell.failures if unwell else 0, status),
        answered(target, status, error),
        question(state, status) if unwell else "",
        unwell.since if unwell else None,
        unwell.open_until if unwell and state is How.RESTING else None,
        found["last_at"],
        *(found.get(state, 0) for state in DeliveryState),
    )
