"""What has changed lately, in one statement that costs the same however much there is.

Each topic has a mark; a topic whose mark is another one than before has changed. Rows get their ids
before they are committed, so that the highest id alone would hide what commits late: a mark takes
in the last `LATEST` ids.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    String,
    Table,
    cast,
    func,
    literal,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import Session

from reelwatch.storage.event_states import PENDING
from reelwatch.storage.models import table_of

LATEST = 64  # rows; as many transactions may commit at the same time

jobs: Table = table_of("jobs")
deliveries: Table = table_of("deliveries")
transitions: Table = table_of("transitions")
attempts: Table = table_of("attempts")
poll_errors: Table = table_of("poll_errors")
accounts: Table = table_of("accounts")
endpoints: Table = table_of("endpoints")
redeliveries: Table = table_of("redeliveries")
heartbeats: Table = table_of("heartbeats")

Mark = tuple[Any, ...]


def marks(session: Session, job_ids: Iterable[int] = ()) -> dict[str, Mark]:
    """The marks of all tables that pages show, and of each of these jobs, as `job:ID`."""
    rows = session.execute(_statement(sorted(job_ids)))
    return {row[0]: tuple(row[1:]) for row in rows}


def _statement(job_ids: Sequence[int]) -> Any:
    parts = [
        _newest("jobs", jobs),
        _newest("transitions", transitions),
        _newest("attempts", attempts),
        _newest("poll_errors", poll_errors),
        _owed(),
        _orders(),
        _all_of("accounts", accounts, accounts.c.requests_per_second, _rests()),
        _all_of("endpoints", endpoints, endpoints.c.failures, func.max(endpoints.c.changed_at)),
        _all_of("ticks", heartbeats, literal(0), func.max(heartbeats.c.at)),
    ]
    if job_ids:
        parts.append(_of_jobs(job_ids))
    return union_all(*parts)


def _newest(topic: str, table: Table) -> Any:
    last = select(table.c.id).order_by(table.c.id.desc()).limit(LATEST).subquery()
    ids = (_text(func.max(last.c.id)), _text(func.sum(last.c.id)))
    return select(literal(topic), *ids).select_from(last)


def _owed() -> Any:
    """What is due first: what is sent again comes among it, what was sent leaves it."""
    due = select(deliveries.c.next_attempt_at).where(PENDING)
    first = due.order_by(deliveries.c.next_attempt_at).limit(LATEST).subquery()
    ends = [func.min(first.c.next_attempt_at), func.max(first.c.next_attempt_at)]
    begin, end = (func.coalesce(_text(each), "") for each in ends)
    return select(
        literal("deliveries"), _text(func.count()), begin.concat("/").concat(end)
    ).select_from(first)


def _orders() -> Any:
    last = select(redeliveries.c.done, redeliveries.c.finished_at)
    few = last.order_by(redeliveries.c.id.desc()).limit(LATEST).subquery()
    return select(
        literal("redeliveries"), _text(func.sum(few.c.done)), _text(func.count(few.c.finished_at))
    ).select_from(few)


def _all_of(topic: str, table: Table, number: Any, latest: Any) -> Any:
    """Of a table that has few rows."""
    counted = _text(func.count()).concat("/").concat(_text(func.coalesce(func.sum(number), 0)))
    return select(literal(topic), counted, _text(latest)).select_from(table)


def _rests() -> ColumnElement[Any]:
    held = func.count(accounts.c.pause_reason)
    until = func.coalesce(_text(func.max(accounts.c.paused_until)), "")
    slowed = func.coalesce(_text(func.max(accounts.c.slowed_at)), "")
    return _text(held).concat(until).concat(slowed)


def _of_jobs(ids: Sequence[int]) -> Any:
    """A poll, a transition and a change of its order each change one of these."""
    moved = _text(jobs.c.polls).concat("/").concat(_text(jobs.c.sequence))
    due = func.coalesce(_text(jobs.c.next_poll_at), "")
    topic = literal("job:").concat(_text(jobs.c.id))
    return select(topic, moved, due).where(jobs.c.id.in_(ids))


def _text(value: Any) -> ColumnElement[str]:
    return cast(type_coerce(value, value.type), String)
