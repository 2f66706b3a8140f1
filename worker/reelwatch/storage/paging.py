"""Pages of jobs and events, by place, the newest first.

Each part of a list has an index to go by, in the order of the page. What no index answers (model,
prefix, metadata, endpoint) is looked for among so many rows at a time: no statement goes through
all of a table that grows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, select, tuple_
from sqlalchemy.orm import Session

Row = dict[str, Any]
Place = tuple[datetime, Any]  # a row's time and id
Condition = ColumnElement[bool]
Sieve = Callable[[Any], Iterable[Condition]]  # of a row's columns: what no index answers

SCANNED_MOST = 20_000  # rows that one statement looks for matches in
EVENTS_MOST = 5_000  # the same, of events, each with its job, and maybe its last attempt
FEW = 2_000  # rows that are all read and sorted; among more, those of a list are looked for


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a list: `where` an index has them in the page's order, and a `sieve`, if any, holds.

    Rows that are few, and that only another index has, are all read `by` its order and sorted.
    """

    where: Condition
    sieve: Sieve | None = None
    by: Sequence[ColumnElement[Any]] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order; `next` begins the next page (which may be empty), None: the last."""

    rows: list[Row]
    next: Place | None


def page(
    session: Session,
    query: Select[Any],
    parts: Sequence[Part],
    sieve: Sieve | None = None,
    *,
    time: str = "tracked_at",
    limit: int | None,
    before: Place | None = None,
    oldest: bool = False,
    most: int | None = None,
) -> Page:
    """A page of the query's rows, which have a `time` and an `id`, out of all parts.

    The newest come first, or the `oldest`; `before` is then the place after which it begins.
    With a `sieve` it may be short, or empty, and not the last: `most` rows of a part, else
    `SCANNED_MOST`, were looked through.
    """
    scanned = SCANNED_MOST if most is None else most
    rows: list[Row] = []
    ends: list[Place] = []
    for part in parts:
        chosen = query.where(part.where)
        both = both_of(part.sieve, sieve)
        if part.by:
            found, end = _of_few(session, chosen, part.by, both, time, limit, before, oldest), None
        else:
            found, end = _of_part(session, chosen, both, time, limit, before, oldest, scanned)
        rows += found
        ends += [end] if end else []
    if len(parts) > 1:
        rows.sort(key=lambda row: (row[time], row["id"]), reverse=not oldest)
    end = (min if oldest else max)(ends, default=None)
    if end is not None:  # beyond the first of them not all is known
        rows = [row for row in rows if _is_within((row[time], row["id"]), end, oldest)]
    if limit is None or len(rows) < limit:
        return Page(rows, end)
    rows = rows[:limit]
    return Page(rows, (rows[-1][time], rows[-1]["id"]) if rows else None)


def both_of(one: Sieve | None, other: Sieve | None) -> Sieve | None:
    """What both ask."""
    if one is None or other is None:
        return one or other

    def asked(row: Any) -> Iterator[Condition]:
        yield from one(row)
        yield from other(row)

    return asked


def _is_within(place: Place, end: Place, oldest: bool) -> bool:
    return place <= end if oldest else place >= end


def _of_part(
    session: Session,
    query: Select[Any],
    sieve: Sieve | None,
    time: str,
    limit: int | None,
    before: Place | None,
    oldest: bool,
    most: int,
) -> tuple[list[Row], Place | None]:
    """The rows, and the place up to which rows were looked through, if that is not the end."""
    ordered = _in_order(query, query.selected_columns, time, oldest, before)
    if sieve is None:
        return _rows(session, ordered.limit(limit)), None
    scanned = ordered.limit(most).subquery()
    sifted = select(scanned).where(*sieve(scanned.c))
    rows = _rows(session, _in_order(sifted, scanned.c, time, oldest).limit(limit))
    if limit is not None and len(rows) == limit:
        return rows, None
    last = ordered.with_only_columns(query.selected_columns[time], query.selected_columns["id"])
    end = session.execute(last.offset(most - 1).limit(1)).first()
    return rows, None if end is None else (end[0], end[1])


def _of_few(
    session: Session,
    query: Select[Any],
    by: Sequence[ColumnElement[Any]],
    sieve: Sieve | None,
    time: str,
    limit: int | None,
    before: Place | None,
    oldest: bool,
) -> list[Row]:
    # Read by themselves: else a database may go along the list's own index, past all other rows.
    few = query.order_by(*by).limit(FEW).subquery()
    sifted = select(few).where(*(sieve(few.c) if sieve else ()))
    return _rows(session, _in_order(sifted, few.c, time, oldest, before).limit(limit))


def _in_order(
    query: Select[Any], row: Any, time: str, oldest: bool, before: Place | None = None
) -> Select[Any]:
    columns = (row[time], row["id"])
    if before is not None:
        place, there = tuple_(*columns), tuple_(*map(literal, before))
        query = query.where(place > there if oldest else place < there)
    return query.order_by(*(columns if oldest else (each.desc() for each in columns)))


def _rows(session: Session, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in session.execute(query).mappings()]


def rows_of(read: Callable[[int | None, Place | None], Page], limit: int | None) -> list[Row]:
    """The first rows of as many pages as it takes, by `read` (limit, before)."""
    rows: list[Row] = []
    before: Place | None = None
    while True:
        found = read(None if limit is None else limit - len(rows), before)
        rows += found.rows
        before = found.next
        if before is None or (limit is not None and len(rows) >= limit):
            return rows
