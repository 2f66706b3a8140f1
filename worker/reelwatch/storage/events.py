"""Rows of events as people read them, with their attempts; and which columns are for people."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Table, select, true
from sqlalchemy.orm import Session

from reelwatch.storage import db, paging, prospects
from reelwatch.storage.filters import EventFilter, named
from reelwatch.storage.models import table_of
from reelwatch.storage.paging import Page, Part, Place, page

Row = dict[str, Any]

jobs, deliveries, attempts = table_of("jobs"), table_of("deliveries"), table_of("attempts")

# How polls are scheduled and fenced is the worker's own affair and may change with any release.
INTERNAL = frozenset(
    {
        "lease_token", "last_error_id", "not_found_count", "not_found_since", "resultless_count",
        "resultless_since", "errors_since", "watched_since",
        "failures", "destination", "next_slot_at", "refusals", "limited_at", "limited_by",
        "worked_at",
        "request_headers",  # whoever has a signature can send its event again while that is young
    }
)  # fmt: skip
IDS_AT_ONCE = 500  # values in one IN list


def public(table: Table) -> list[Column[Any]]:
    """The columns that users are told of."""
    return [column for column in table.c if column.name not in INTERNAL]


def page_of_events(
    session: Session,
    wanted: EventFilter,
    limit: int | None,
    before: Place | None = None,
    video_id: str | None = None,
) -> Page:
    """A page of events, each with its job's id and account, the newest first.

    It takes a time that does not grow with the history. See `reelwatch.storage.paging.page`.
    """
    # The operator's events belong to no job.
    query = select(*public(deliveries), jobs.c.video_id, jobs.c.account)
    query = query.outerjoin(jobs, jobs.c.id == deliveries.c.job_id).where(*wanted.indexed())
    parts, sieve = wanted.parts(), wanted.sieve()
    if video_id is not None:
        query = query.where(named(session, [video_id], wanted.account))
        parts = [Part(true() if wanted.state is None else deliveries.c.state == wanted.state)]
    asked: dict[str, Any] = {"limit": limit, "before": before, "most": paging.EVENTS_MOST}
    return page(session, query, parts, sieve, time="created_at", **asked)


def event(session: Session, event_id: str, *, signatures: bool = False) -> Row | None:
    """One event with its `attempts_log`; None if there is none of that id.

    `signatures`: with the headers that attempts were signed with, as in `with_attempts`.
    """
    query = select(*public(deliveries), jobs.c.video_id, jobs.c.account)
    query = query.outerjoin(jobs, jobs.c.id == deliveries.c.job_id).where(
        deliveries.c.id == event_id
    )
    found = [dict(row) for row in session.execute(query).mappings()]
    rows = with_attempts(session, found, signatures=signatures)
    return rows[0] if rows else None


def with_last_attempt(session: Session, rows: Sequence[Row]) -> list[Row]:
    """The events with their `last_attempt`, and when the next is expected."""
    tried = _attempts_of(session, [row["id"] for row in rows])
    again = prospects.of_deliveries(session, rows, db.now(session))
    return [
        row | {"last_attempt": _last(tried.get(row["id"]))} | expected
        for row, expected in zip(rows, again, strict=True)
    ]


def with_attempts(session: Session, rows: Sequence[Row], *, signatures: bool = False) -> list[Row]:
    """The events with their `attempts_log`, and when the next is expected.

    `signatures`: attempts have their `request_headers`. Whoever sees a signature can send its
    event once more while that is young, so it is for those who may redeliver.
    """
    tried = _attempts_of(session, [row["id"] for row in rows], signatures=signatures)
    again = prospects.of_deliveries(session, rows, db.now(session))
    return [
        row | {"attempts_log": tried.get(row["id"], [])} | expected
        for row, expected in zip(rows, again, strict=True)
    ]


def _attempts_of(
    session: Session, delivery_ids: Sequence[str], *, signatures: bool = False
) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    columns = attempts.c if signatures else public(attempts)
    for start in range(0, len(delivery_ids), IDS_AT_ONCE):
        chosen = attempts.c.delivery_id.in_(delivery_ids[start : start + IDS_AT_ONCE])
        query = select(*columns).where(chosen).order_by(attempts.c.id)
        for row in session.execute(query).mappings():
            found.setdefault(row["delivery_id"], []).append(dict(row))
    return found


def _last(rows: Sequence[Row] | None) -> Row | None:
    return rows[-1] if rows else None
