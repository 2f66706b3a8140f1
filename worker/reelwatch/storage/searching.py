"""What somebody has in hand: a video id, an event id, a request id, a value of metadata.

Each kind is looked for by an index. Only metadata of jobs that go on, and on SQLite all metadata,
is looked for among the newest `LOOKED_AT`: an index of it would be written by every poll. A job
that goes on and is not among the newest `LATELY` of all is not found by it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, func, literal, or_, select, text, union
from sqlalchemy.orm import Session

from reelwatch.rules.cleaning import clean_text
from reelwatch.storage import db
from reelwatch.storage.filters import ENDED, named
from reelwatch.storage.models import table_of

VIDEO_ID = "video id"  # by what a job was found
MOST = 20  # jobs of each kind of find
LATELY = 20_000  # jobs that open ones are looked for in
LOOKED_AT = 5_000  # jobs whose metadata is read one by one

jobs: Table = table_of("jobs")
deliveries: Table = table_of("deliveries")
poll_errors: Table = table_of("poll_errors")


@dataclass(frozen=True, slots=True)
class Found:
    """A job, and what of it is as was asked."""

    job_id: int
    video_id: str
    account: str
    state: str
    by: str


def search(session: Session, asked: str) -> list[Found]:
    """The jobs that a text leads to, by the first kind of find that has any."""
    wanted = clean_text(asked.strip())
    if not wanted:
        return []
    found: dict[int, Found] = {}
    for by, query in _queries(session, wanted):
        for row in session.execute(query.limit(MOST)):
            found.setdefault(row.id, Found(row.id, row.video_id, row.account, row.state, by))
        if found:
            break
    return list(found.values())


def _queries(session: Session, wanted: str) -> Iterator[tuple[str, Any]]:
    columns = (jobs.c.id, jobs.c.video_id, jobs.c.account, jobs.c.state)
    every = select(*columns)
    yield VIDEO_ID, every.where(named(session, [wanted], None))
    if wanted.startswith("evt_"):
        of_event = select(deliveries.c.job_id).where(deliveries.c.id == wanted)
        yield "event id", every.where(jobs.c.id.in_(of_event))
        return
    upstream = jobs.c.upstream_id == wanted
    accounts = table_of("accounts")
    yield (
        "upstream's id",
        every.where(jobs.c.account.in_(select(accounts.c.name)), upstream),
    )
    errors = select(poll_errors.c.job_id).where(poll_errors.c.request_id == wanted).limit(MOST)
    ends = select(jobs.c.id).where(jobs.c.error_request_id == wanted).limit(MOST)
    both = union(select(errors.subquery()), select(ends.subquery())).subquery()
    yield "request id", every.where(jobs.c.id.in_(select(both.c[0])))
    yield "metadata", _by_metadata(session, columns, wanted)


def _by_metadata(session: Session, columns: Sequence[Any], wanted: str) -> Any:
    every = select(*columns, jobs.c.metadata, jobs.c.finished_at, jobs.c.next_poll_at)
    newest = every.order_by(jobs.c.id.desc())  # nearly as they lie: few pages are read
    if db.dialect(session) == "sqlite":
        few = newest.limit(LOOKED_AT).subquery()
        return _named(few).where(_holds_on_sqlite(few.c.metadata, wanted))
    # Which of them are open is asked of what was read in order: else all open ones are sorted.
    lately = newest.limit(LATELY).subquery()
    goes_on = (lately.c.next_poll_at.is_not(None), lately.c.finished_at.is_(None))
    few = select(lately).where(*goes_on).limit(LOOKED_AT).subquery()
    parts = [
        _named(few).where(_holds(few.c.metadata, wanted)),
        select(*columns).where(ENDED, _holds(jobs.c.metadata, wanted)).limit(MOST),
    ]
    return select(union(*(select(part.subquery()) for part in parts)).subquery())


def _named(rows: FromClause) -> Any:
    return select(rows.c.id, rows.c.video_id, rows.c.account, rows.c.state)


def _holds(metadata: Any, wanted: str) -> ColumnElement[bool]:
    """Is one of its values, at the top level, this text, or the number or word it reads like?"""
    texts = [json.dumps(wanted)]
    if _as_number(wanted) is not None:
        texts.append(wanted)
    path = " || ".join(f"$.* == {each}" for each in texts)
    found: ColumnElement[bool] = metadata.op("@@", is_comparison=True)(
        text("CAST(:path AS jsonpath)").bindparams(path=path)
    )
    return found


def _holds_on_sqlite(metadata: Any, wanted: str) -> ColumnElement[bool]:
    member = func.json_each(metadata).table_valued("value", "type")
    alike = [member.c.value == literal(wanted)]
    number = _as_number(wanted)
    if number is not None:
        alike.append(member.c.value == literal(number))
    return select(literal(1)).select_from(member).where(or_(*alike)).exists()


def _as_number(wanted: str) -> float | int | None:
    try:
        read = json.loads(wanted)
    except (ValueError, RecursionError):
        return None
    plain = isinstance(read, int | float) and not isinstance(read, bool)
    return read if plain and abs(read) < 2**63 else None
