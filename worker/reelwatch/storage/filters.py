"""Which jobs, which events: one value says it for lists and for whatever acts on many of them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import (
    ColumnElement,
    Table,
    Text,
    and_,
    cast,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from reelwatch.errors import Refused, UnknownJob
from reelwatch.rules.channels import CELERY, WEBHOOK
from reelwatch.rules.cleaning import clean_text
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import FINAL, State
from reelwatch.rules.video_ids import unknown_id
from reelwatch.storage import db, paging
from reelwatch.storage.counts import counted
from reelwatch.storage.event_states import EVENT_STATES, event_parts
from reelwatch.storage.models import table_of
from reelwatch.storage.paging import Condition, Part, Sieve

LARGEST = 2**63  # of the numbers that SQLite takes; NaN is not smaller

jobs: Table = table_of("jobs")
deliveries: Table = table_of("deliveries")
accounts: Table = table_of("accounts")

# Every job is in exactly one of these, and each has an index of its rows.
ENDED = jobs.c.finished_at.is_not(None)
GIVEN_UP = jobs.c.abandoned_at.is_not(None)
OPEN_JOBS = and_(jobs.c.next_poll_at.is_not(None), jobs.c.finished_at.is_(None))
# An index has what has not ended and is not running, too; word by word, as databases know it.
WAITS = and_(jobs.c.finished_at.is_(None), jobs.c.state != literal_column(f"'{State.RUNNING}'"))

STATES = tuple(state.value for state in State)
UNTOLD_STATES = (DeliveryState.PENDING, DeliveryState.DEAD)
EVENT_ID = "evt_"  # how the ids of events begin


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Jobs for which all of this holds; what is None, or empty, is not asked.

    `since` and `until` are about when they were tracked. `text` is what people know a job by: a
    part of its video id, an event's id, upstream's id of the job or of the request that failed, a
    value of its metadata. A text in `metadata` matches what is
    written so: `"42"` the number 42 and the text. Raises `Refused` for what can't be looked for.
    """

    state: str | None = None
    account: str | None = None
    model: str | None = None
    prefix: str | None = None  # of the video id
    metadata: Mapping[str, Any] = field(default_factory=dict)  # all of these, at the top level
    since: datetime | None = None
    until: datetime | None = None
    ids: Sequence[str] | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no job can have."""
        if self.state is not None and self.state not in STATES:
            raise Refused(f"state: {self.state!r}; accepted: {', '.join(STATES)}")
        for key, value in self.metadata.items():
            if not isinstance(value, str | int | float | None):
                raise Refused(f"metadata: {key}: a text, number, true, false or null is accepted")
        _check_texts(("account", "model", "prefix", "text"), self)
        _check_times(self.since, self.until)

    def parts(self, session: Session) -> list[Part]:
        """The jobs in question as parts, each with an index in the order of tracking."""
        if self.names_jobs:
            return [Part(and_(true(), *self.whose))]
        if self.state is None:
            if self.account is None:
                return [Part(true())]
            given_up, ended = (Part(and_(rows, *self.whose)) for rows in (GIVEN_UP, ENDED))
            return [*self.open_parts(session), given_up, ended]
        if self.state in FINAL or (self.account is None and self.state != State.RUNNING):
            return [Part(and_(in_state(State(self.state)), *self.whose))]
        given_up = Part(and_(GIVEN_UP, *self.whose))
        return [*self.open_parts(session), *([given_up] if self.state == State.EXPIRED else [])]

    def open_parts(self, session: Session) -> list[Part]:
        """Those of them that are polled. No index has them in order: each poll would write it."""
        if self.names_jobs:
            return [Part(and_(OPEN_JOBS, *self.whose))]
        polled = jobs.c.next_poll_at.is_not(None)
        mine = () if self.account is None else (jobs.c.account == self.account,)
        some = counted(select(literal(1)).select_from(jobs).where(polled, *mine), paging.FEW)

        def sieve(row: Any) -> Iterator[Condition]:
            yield from (row.next_poll_at.is_not(None), row.finished_at.is_(None))
            yield from self.whose_of(row)

        if session.execute(some).scalar_one() < paging.FEW:
            due = (jobs.c.account, jobs.c.next_poll_at)
            return [Part(and_(polled, *mine), sieve, by=due)]
        return [Part(true(), sieve)]

    @property
    def names_jobs(self) -> bool:
        """Is it about jobs that have been named, which are few?"""
        return self.ids is not None or bool(self.text and self.text.startswith(EVENT_ID))

    @property
    def whose(self) -> list[Condition]:
        """State and account, of the table's own rows."""
        return list(self.whose_of(jobs.c))

    def whose_of(self, row: Any) -> Iterator[Condition]:
        """State and account, of any rows."""
        if self.state is not None:
            yield row.state == self.state
        if self.account is not None:
            yield row.account == self.account

    def indexed(self, session: Session) -> list[Condition]:
        """What indexes answer, but for state and account."""
        asked = _between(jobs.c.tracked_at, self.since, self.until)
        if self.ids is not None:
            asked.append(named(session, self.ids, self.account))
        if self.text is not None and self.text.startswith(EVENT_ID):
            of_event = select(deliveries.c.job_id).where(deliveries.c.id == self.text)
            asked.append(jobs.c.id == of_event.scalar_subquery())
        return asked

    def others(self, session: Session) -> list[Condition]:
        """All that indexes do not answer, as conditions of the table's own rows."""
        sieve = self.sieve(session)
        return [*self.whose, *(sieve(jobs.c) if sieve else ())]

    def sieve(self, session: Session) -> Sieve | None:
        """What no index answers; None: nothing."""
        text = None if self.text and self.text.startswith(EVENT_ID) else self.text
        if not (self.model or self.prefix or self.metadata or text):
            return None
        has = _has_on_sqlite if db.dialect(session) == "sqlite" else _has_on_postgresql

        def asked(row: Any) -> Iterator[Condition]:
            if self.model:
                yield row.model == self.model
            if self.prefix:  # no LIKE: in SQLite it takes capitals for small letters
                yield func.substr(row.video_id, 1, len(self.prefix)) == self.prefix
            for key, value in self.metadata.items():
                yield or_(*(has(row.metadata, key, each) for each in _readings(value)))
            if text:
                yield _speaks_of(row, text, db.dialect(session))

        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Events for which all of this holds; `since` and `until` are about when they were made.

    `endpoint` is a callback URL (with or without its query), a host or `host:port`, a Celery task
    or `task@queue`. `untold` are those in no other state than `pending` and `dead`. Raises
    `Refused` for what can't be looked for.
    """

    state: str | None = None
    job_id: int | None = None
    untold: bool = False
    account: str | None = None
    endpoint: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what no event can have."""
        if self.state is not None and self.state not in EVENT_STATES:
            raise Refused(f"state: {self.state!r}; accepted: {', '.join(EVENT_STATES)}")
        _check_texts(("account", "endpoint"), self)
        _check_times(self.since, self.until)
        try:
            urlsplit(self.endpoint or "")
        except ValueError as error:
            raise Refused(f"endpoint: {self.endpoint!r} is no URL: {error}") from None

    def parts(self) -> list[Part]:
        """The events in question as parts, each with an index."""
        if self.job_id is not None:  # these are few
            return [Part(deliveries.c.state.in_(self.states))]
        return [Part(part) for state in self.states for part in event_parts(state)]

    @property
    def states(self) -> Sequence[str]:
        """Those of the events in question."""
        if self.state is not None:
            return (self.state,)
        return UNTOLD_STATES if self.untold else EVENT_STATES

    def indexed(self) -> list[Condition]:
        """What indexes answer."""
        asked = _between(deliveries.c.created_at, self.since, self.until)
        return asked if self.job_id is None else [*asked, deliveries.c.job_id == self.job_id]

    def sieve(self) -> Sieve | None:
        """What no index answers, of rows that have their job's `account`; None: nothing."""
        if self.account is None and self.endpoint is None:
            return None

        def asked(row: Any) -> Iterator[Condition]:
            if self.account is not None:
                yield row.account == self.account
            if self.endpoint is not None:
                yield _goes_to(row, self.endpoint)

        return asked


def _check_texts(names: Iterable[str], asked: object) -> None:
    for name in names:
        value = getattr(asked, name)
        if value is None:
            continue
        if not isinstance(value, str) or not value or clean_text(value) != value:
            raise Refused(f"{name}: {value!r}; accepted: a text that is not empty")


def _check_times(since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None and since >= until:
        raise Refused(f"since: {since:%Y-%m-%dT%H:%M:%SZ} is not before until")


def _between(
    time: ColumnElement[datetime], since: datetime | None, until: datetime | None
) -> list[Condition]:
    asked = [time >= since] if since is not None else []
    return [*asked, time < until] if until is not None else asked


# ------------------------------------------------------------------- parts


def in_state(state: State) -> Condition:
    """The jobs in a state; all but those that run have an index in the order of tracking."""
    if state is State.RUNNING:
        return and_(OPEN_JOBS, jobs.c.state == state)
    return and_(ENDED if state in FINAL else WAITS, jobs.c.state == state)


def named(session: Session, ids: Sequence[str], account: str | None) -> Condition:
    """The jobs of these ids, of one account or any: by the key, which begins with the account."""
    names = [account] if account is not None else session.scalars(select(accounts.c.name)).all()
    return and_(jobs.c.account.in_(names), jobs.c.video_id.in_(ids))


def unknown(session: Session, video_id: str, account: str) -> UnknownJob:
    """The error for an id that the account does not track: who does, or what it may be."""
    query = select(jobs.c.account).where(named(session, [video_id], None)).order_by(jobs.c.account)
    others = [repr(name) for name in session.execute(query).scalars()]
    said = f"no job {video_id!r} is tracked for the account {account!r}"
    if not others:
        return unknown_id(said, video_id)
    return UnknownJob(f"{said}; it is for {', '.join(others)}", at_command="--account names it")


# ------------------------------------------------------------------ sieves


def _readings(value: Any) -> Iterator[Any]:
    """What a value may be in JSON: a text that reads like a number may have been one."""
    yield clean_text(value) if isinstance(value, str) else value
    if not isinstance(value, str):
        return
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return
    if read is None or (isinstance(read, int | float) and abs(read) < LARGEST):
        yield read


def _has_on_postgresql(metadata: Any, key: str, value: Any) -> Condition:
    return type_coerce(metadata, JSONB).contains({clean_text(key): value})


def _has_on_sqlite(metadata: Any, key: str, value: Any) -> Condition:
    """By its kind too: to SQLite true is 1."""
    member = func.json_each(metadata).table_valued("key", "value", "type")
    kinds: tuple[str, ...] = ("integer", "real")
    if value is None or isinstance(value, bool):
        kinds = (json.dumps(value),)
    elif isinstance(value, str):
        kinds = ("text",)
    alike = [member.c.key == literal(clean_text(key)), member.c.type.in_(kinds)]
    if not (value is None or isinstance(value, bool)):
        alike.append(member.c.value == literal(value))
    return select(literal(1)).select_from(member).where(*alike).exists()


def _speaks_of(row: Any, text: str, dialect: str) -> Condition:
    """Is that text a part of the job's id, or one of the other names that people know it by?"""
    if dialect == "sqlite":
        place = func.instr(row.video_id, text)
        member = func.json_each(row.metadata).table_valued("value")
    else:
        place = func.strpos(row.video_id, text)
        member = func.jsonb_each_text(type_coerce(row.metadata, JSONB)).table_valued("key", "value")
    value = select(literal(1)).select_from(member).where(cast(member.c.value, Text) == text)
    return or_(place > 0, row.error_request_id == text, row.upstream_id == text, value.exists())


def _goes_to(row: Any, endpoint: str) -> Condition:
    webhook, celery = row.channel == WEBHOOK, row.channel == CELERY
    if "://" in endpoint:
        parts = urlsplit(endpoint)
        url = parts._replace(netloc=parts.netloc.lower(), path=parts.path or "/").geturl()
        return and_(webhook, or_(row.target == url, _begins(row.target, f"{url}?")))
    host = endpoint.lower()
    places = [f"{scheme}://{host}{end}" for scheme in ("https", "http") for end in "/:"]
    return or_(
        and_(webhook, or_(*(_begins(row.target, place) for place in places))),
        and_(not_(webhook), row.target == endpoint),
        and_(celery, _begins(row.target, f"{endpoint}@")),
    )


def _begins(column: Any, text: str) -> Condition:
    return func.substr(column, 1, len(text)) == text
