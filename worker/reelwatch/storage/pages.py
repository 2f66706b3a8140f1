"""Pages of jobs and events, by place, the newest first.

What no index answers (model, prefix, metadata, endpoint) is looked for among so many rows at a
time: no statement goes through all of a table that grows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, select, tuple_
from sqlalchemy.orm import Session

Row = dict[str, Any]
Place = tuple[datetime, Any]  # a row's time and id
Condition = ColumnElement[bool]
Sieve = Callable[[Any], Iterable[Condition]]  # of a row's columns: what no index answers

SCANNED_MOST = 50_000  # rows that one statement looks for matches in


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, the newest first; `next` begins the next page (which may be empty), None: the last."""

    rows: list[Row]
    next: Place | None


def page(
    session: Session,
    query: Select[Any],
    parts: Sequence[Condition],
    sieve: Sieve | None = None,
    *,
    time: str = "tracked_at",
    limit: int | None,
    before: Place | None = None,
) -> Page:
    """A page of the query's rows, which have a `time` and an `id`, out of all parts.

    With a `sieve` it may be short, or empty, and not the last: so much was looked through.
    """
    rows: list[Row] = []
    ends: list[Place] = []
    for part in parts:
        found, end = _of_part(session, query.where(part), sieve, time, limit, before)
        rows += found
        ends += [end] if end else []
    if len(parts) > 1:
        rows.sort(key=lambda row: (row[time], row["id"]), reverse=True)
    if ends:  # beyond the newest of them not all is known
        rows = [row for row in rows if (row[time], row["id"]) >= max(ends)]
    if limit is None or len(rows) < limit:
        return Page(rows, max(ends, default=None))
    rows = rows[:limit]
    return Page(rows, (rows[-1][time], rows[-1]["id"]) if rows else None)


def _of_part(
    session: Session,
    query: Select[Any],
    sieve: Sieve | None,
    time: str,
    limit: int | None,
    before: Place | None,
) -> tuple[list[Row], Place | None]:
    """The rows, and the place up to which was looked, if that is not the end."""
    ordered = _newest_first(query, query.selected_columns, time)
    if before is not None:
        place = tuple_(query.selected_columns[time], query.selected_columns["id"])
        ordered = ordered.where(place < tuple_(*map(literal, before)))
    if sieve is None:
        return _rows(session, ordered.limit(limit)), None
    scanned = ordered.limit(SCANNED_MOST).subquery()
    sifted = select(scanned).where(*sieve(scanned.c))
    rows = _rows(session, _newest_first(sifted, scanned.c, time).limit(limit))
    if limit is not None and len(rows) == limit:
        return rows, None
    last = ordered.with_only_columns(query.selected_columns[time], query.selected_columns["id"])
    end = session.execute(last.offset(SCANNED_MOST - 1).limit(1)).first()
    return rows, None if end is None else (end[0], end[1])


def _newest_first(query: Select[Any], row: Any, time: str) -> Select[Any]:
    return query.order_by(row[time].desc(), row["id"].desc())


def _rows(session: Session, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in session.execute(query).mappings()]


def rows_of(
    turn: Callable[[int | None, Place | None], Page], limit: int | None, before: Place | None
) -> list[Row]:
    """The first rows of as many pages as it takes, by `turn` (limit, before)."""
    rows: list[Row] = []
    while True:
        found = turn(None if limit is None else limit - len(rows), before)
        rows += found.rows
        before = found.next
        if before is None or (limit is not None and len(rows) >= limit):
            return rows
