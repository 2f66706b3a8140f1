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
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.rules.cleaning import clean_text
from reelwatch.rules.status import FINAL, State
from reelwatch.rules.video_ids import mix_up
from reelwatch.storage import db
from reelwatch.storage.models import table_of
from reelwatch.storage.pages import Condition, Sieve

LARGEST = 2**63  # of the numbers that SQLite takes; NaN is not smaller

jobs: Table = table_of("jobs")
deliveries: Table = table_of("deliveries")
accounts: Table = table_of("accounts")

# Every job is in exactly one of these, and each has an index of its rows.
ENDED = jobs.c.finished_at.is_not(None)
GIVEN_UP = jobs.c.abandoned_at.is_not(None)
OPEN_JOBS = and_(jobs.c.next_poll_at.is_not(None), jobs.c.finished_at.is_(None))

STATES = tuple(state.value for state in State)
EVENT_STATES = ("pending", "delivered", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Jobs for which all of this holds; what is None, or empty, is not asked.

    `since` and `until` are about when they were tracked. A text in `metadata` matches what is
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

    def __post_init__(self) -> None:
        """Refuse what no job can have."""
        if self.state is not None and self.state not in STATES:
            raise Refused(f"state: {self.state!r}; accepted: {', '.join(STATES)}")
        for key, value in self.metadata.items():
            if not isinstance(value, str | int | float | None):
                raise Refused(f"metadata: {key}: a text, number, true, false or null is accepted")
        _check_texts(("account", "model", "prefix"), self)
        _check_times(self.since, self.until)

    def parts(self) -> list[Condition]:
        """The jobs in question as parts, each with an index in the order of tracking."""
        if self.ids is not None:
            return [true() if self.state is None else jobs.c.state == self.state]
        if self.state is not None:
            return parts_of(State(self.state))
        return [true()] if self.account is None else [OPEN_JOBS, GIVEN_UP, ENDED]

    def indexed(self, session: Session) -> list[Condition]:
        """What indexes answer."""
        asked = _between(jobs.c.tracked_at, self.since, self.until)
        if self.account is not None:
            asked.append(jobs.c.account == self.account)
        if self.ids is not None:
            asked.append(named(session, self.ids, self.account))
        return asked

    def others(self, session: Session) -> list[Condition]:
        """All that indexes do not answer, as conditions of the table's own rows."""
        sieve = self.sieve(session)
        alike = [] if self.state is None else [jobs.c.state == self.state]
        return [*alike, *(sieve(jobs.c) if sieve else ())]

    def sieve(self, session: Session) -> Sieve | None:
        """What no index answers; None: nothing."""
        if not (self.model or self.prefix or self.metadata):
            return None
        has = _has_on_sqlite if db.dialect(session) == "sqlite" else _has_on_postgresql

        def asked(row: Any) -> Iterator[Condition]:
            if self.model:
                yield row.model == self.model
            if self.prefix:  # no LIKE: in SQLite it takes capitals for small letters
                yield func.substr(row.video_id, 1, len(self.prefix)) == self.prefix
            for key, value in self.metadata.items():
                yield or_(*(has(row.metadata, key, each) for each in _readings(value)))

        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Events for which all of this holds; `since` and `until` are about when they were made.

    `endpoint` is a callback URL (with or without its query), a host or `host:port`, a Celery task
    or `task@queue`. `untold` are those in no other state than `pending` and `dead`. Raises
    `Refused` for what can't be looked for.
    """

    state: str | None = None
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

    def parts(self) -> list[Condition]:
        """The events in question as parts, each with an index."""
        return [part for state in self.states for part in event_parts(state)]

    @property
    def states(self) -> Sequence[str]:
        """Those of the events in question."""
        if self.state is not None:
            return (self.state,)
        return ("pending", "dead") if self.untold else EVENT_STATES

    def indexed(self) -> list[Condition]:
        """What indexes answer."""
        return _between(deliveries.c.created_at, self.since, self.until)

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


def parts_of(state: State) -> list[Condition]:
    """The jobs in a state, as parts with an index each."""
    alike = jobs.c.state == state
    if state in FINAL:
        return [and_(ENDED, alike)]
    return [and_(OPEN_JOBS, alike), *([GIVEN_UP] if state is State.EXPIRED else [])]


def event_parts(state: str | None) -> list[Condition]:
    """The events in a state, or in any, as parts with an index each."""
    # Said twice, for SQLite knows by the very words that an index holds the rows.
    settled = deliveries.c.state != literal_column("'pending'")
    return [
        deliveries.c.state == literal_column("'pending'")
        if each == "pending"
        else and_(deliveries.c.state == each, settled)
        for each in (EVENT_STATES if state is None else (state,))
    ]


def named(session: Session, ids: Sequence[str], account: str | None) -> Condition:
    """The jobs of these ids, of one account or any: by the key, which begins with the account."""
    names = [account] if account is not None else session.scalars(select(accounts.c.name)).all()
    return and_(jobs.c.account.in_(names), jobs.c.video_id.in_(ids))


def unknown(session: Session, video_id: str, account: str) -> str:
    """What is said of an id that the account does not track: who does, or what it may be."""
    query = select(jobs.c.account).where(named(session, [video_id], None)).order_by(jobs.c.account)
    others = [repr(name) for name in session.execute(query).scalars()]
    hint = f"; it is for {', '.join(others)} (--account)" if others else mix_up(video_id)
    return f"no job {video_id!r} is tracked for the account {account!r}{hint}"


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


def _goes_to(row: Any, endpoint: str) -> Condition:
    webhook, celery = row.channel == "webhook", row.channel == "celery"
    if "://" in endpoint:
        parts = urlsplit(endpoint)
        url = parts._replace(netloc=parts.netloc.lower(), path=parts.path or "/").geturl()
        return and_(webhook, or_(row.target == url, _begins(row.target, f"{url}?")))
    host = endpoint.lower()
    places = [f"{scheme}://{host}{end}" for scheme in ("https", "http") for end in "/:"]
    return or_(
        and_(webhook, or_(*(_begins(row.target, place) for place in places))),
        and_(celery, or_(row.target == endpoint, _begins(row.target, f"{endpoint}@"))),
    )


def _begins(column: Any, text: str) -> Condition:
    return func.substr(column, 1, len(text)) == text
