"""The list of jobs: a page of them by filters, and the same rows again as they are now."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.jobs import history
from reelwatch.rules import ages
from reelwatch.rules.answer_errors import ErrorKind
from reelwatch.rules.rests import of_the_past
from reelwatch.rules.states import State
from reelwatch.rules.timing.eta import in_short, in_words
from reelwatch.rules.wording import plain
from reelwatch.storage import db, job_models, knowing
from reelwatch.storage.events import public
from reelwatch.storage.filters import STATES, JobFilter
from reelwatch.storage.knowing import Unknown
from reelwatch.storage.models import table_of
from reelwatch.storage.paging import Condition, Page, Part, Place, page
from reelwatch.storage.stuck import IN_ERROR
from reelwatch.web.api.params import EVENT, NUMBER
from reelwatch.web.pages.words import since

jobs = table_of("jobs")

LIMIT = 50
SPANS = ("15m", "1h", "6h", "24h", "7d")

# The codes with which jobs end, and the state that goes with each.
ENDS: Mapping[str, State] = {
    "content_policy": State.FAILED,
    "upstream_failed": State.FAILED,
    "upsampling_failed": State.FAILED,
    "upstream_expired": State.FAILED,
    "not_found": State.FAILED,
    "no_result": State.COMPLETED,
    "deadline": State.EXPIRED,
}
KINDS = sorted(kind.value for kind in ErrorKind)  # of errors that polls bring
ERRORS = tuple(dict.fromkeys((*ENDS, *KINDS)))

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form holds, as text."""

    state: str = ""
    account: str = ""
    model: str = ""
    error: str = ""
    since: str = ""
    metadata: str = ""  # KEY=VALUE

    @property
    def query(self) -> str:
        """As part of an address."""
        given = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}
        return urlencode(given)


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job, as far as a list tells of it."""

    id: int
    video_id: str
    account: str
    model: str
    state: str
    status: str
    at: datetime  # its end, or when it was tracked
    ended: bool
    seconds: float
    left: str  # what half of such jobs stay below
    share: float | None  # of its expected time, 0 to 1
    next_at: datetime | None
    held: str
    note: str
    held_by_account: str  # the same reason, if it is about the account


@dataclass(frozen=True, slots=True)
class Jobs:
    """The page. `older` begins the next one; `newer`: were some tracked since?"""

    asked: Asked
    rows: Sequence[JobRow]
    older: str
    newer: bool
    refused: str
    accounts: Sequence[str]
    models: Sequence[str]
    errors: Sequence[str] = ()
    states: Sequence[str] = ("open", *STATES)
    spans: Sequence[str] = SPANS
    cut: bool = False  # there may be more, further back
    unknown: Unknown | None = None  # what the form names, if nothing goes by that name
    ids: Sequence[int] = field(default=())


def view(
    session: Session,
    asked: Asked,
    before: Place | None = None,
    ids: Sequence[int] | None = None,
    configured: Collection[str] = (),
) -> Jobs:
    """A page of jobs; with `ids` these and no others, so that nothing moves.

    `configured` are accounts that are known though they may never have been used.
    """
    now, refused = db.now(session), ""
    found, newer = Page([], None), False
    try:
        if ids is None:
            found = _page(session, asked, now, LIMIT, before)
        else:
            found = Page(_same(session, ids), None)
            newer = before is None and _newer(session, asked, now, ids)
    except Refused as error:
        refused = error.said
    return Jobs(
        asked,
        [_row(row, now) for row in found.rows],
        place_text(found.next),
        newer,
        refused,
        sorted(history.account_names(session)),
        job_models.models(session),
        errors=ERRORS,
        cut=found.next is not None and len(found.rows) < LIMIT,
        unknown=None if found.rows or refused else _unknown(session, asked, configured),
        ids=[row["id"] for row in found.rows],
    )


def place_text(place: Place | None) -> str:
    """A place in a list, as it stands in an address."""
    return f"{place[0].isoformat()},{place[1]}" if place else ""


def place_of(text: str, kind: type = int) -> Place | None:
    """The place again. Raises `Refused`."""
    if not text:
        return None
    at, _, key = text.partition(",")
    try:
        moment = datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused("before: no place in a list") from None
    form = NUMBER if kind is int else EVENT
    if not form.fullmatch(key):
        raise Refused("before: no place in a list")
    return moment, kind(key)


def _unknown(session: Session, asked: Asked, configured: Collection[str]) -> Unknown | None:
    account = knowing.unknown_account(session, asked.account or None, configured)
    return account or knowing.unknown_model(session, asked.model or None)


def _filter(asked: Asked, now: datetime) -> JobFilter:
    key, equals, value = asked.metadata.partition("=")
    if asked.metadata and not (key and equals):
        raise Refused(f"metadata: {asked.metadata!r}; accepted: KEY=VALUE")
    return JobFilter(
        state=None if asked.state in ("", "open") else asked.state,
        account=asked.account or None,
        model=asked.model or None,
        metadata={key: value} if asked.metadata else {},
        since=since(asked.since, now),
    )


def _page(session: Session, asked: Asked, now: datetime, limit: int, before: Place | None) -> Page:
    wanted = _filter(asked, now)
    if asked.state != "open" and not asked.error:
        return history.page_of_jobs(session, wanted, limit, before)
    parts = [_with_error(asked, wanted)] if asked.error else wanted.open_parts(session)
    query = select(*public(jobs)).where(*wanted.indexed(session))
    found = page(session, query, parts, wanted.sieve(session), limit=limit, before=before)
    return Page(history.with_outlook(session, found.rows), found.next)


def _with_error(asked: Asked, wanted: JobFilter) -> Part:
    """An end's code, or what the last polls of an open job brought: each by an index of its own.

    `not_found` is both, and of open jobs the latter. Whoever asks for a state or an account as
    well has these sifted. Raises `Refused`.
    """
    if asked.error not in ERRORS:
        raise Refused(f"error: {asked.error!r}; accepted: {', '.join(ERRORS)}")
    ended = asked.error in ENDS and not (asked.state == "open" and asked.error in KINDS)

    def sieve(row: Any) -> Iterator[Condition]:
        yield from wanted.whose_of(row)
        if ended and not asked.state:
            yield row.state == ENDS[asked.error]
        if asked.state == "open" or not (ended or asked.state):
            yield row.next_poll_at.is_not(None)
            yield row.finished_at.is_(None)

    if ended:
        return Part(jobs.c.error_code == asked.error, sieve)
    return Part(and_(IN_ERROR, jobs.c.last_error == asked.error), sieve)


def _same(session: Session, ids: Sequence[int]) -> list[dict[str, Any]]:
    query = select(*public(jobs)).where(jobs.c.id.in_(ids))
    rows = {row["id"]: dict(row) for row in session.execute(query).mappings()}
    there = [rows[each] for each in ids if each in rows]
    return history.with_outlook(session, there)


def _newer(session: Session, asked: Asked, now: datetime, ids: Sequence[int]) -> bool:
    """Would another job stand at the top?"""
    newest = _page(session, asked, now, 1, None).rows
    return bool(newest) and (not ids or newest[0]["id"] > max(ids))


def _row(row: Row, now: datetime) -> JobRow:
    seconds = ages.time_seconds(row, now)
    left = row["eta"] and row["eta"]["p50_seconds"]
    reason = plain(row["next_poll_reason"] or "") if row["next_poll_at"] else ""
    by_account = bool(row["next_poll_held_by_account"])
    return JobRow(
        id=row["id"],
        video_id=plain(row["video_id"]),
        account=row["account"],
        model=plain(row["model"] or ""),
        state=row["state"],
        status=plain(row["upstream_status"] or ""),
        at=row["finished_at"] or row["tracked_at"],
        ended=row["finished_at"] is not None,
        seconds=seconds,
        left=in_short(row),
        share=None if left is None else seconds / max(seconds + left, 1e-9),
        next_at=row["next_poll_expected_at"] if row["next_poll_at"] else None,
        held=reason,
        note=" · ".join([*_notes(row), *([reason] if reason and not by_account else [])]),
        held_by_account=reason if by_account else "",
    )


def _notes(row: Row) -> Iterator[str]:
    if row["error_code"]:
        yield f"{row['error_code']}: {of_the_past(plain(row['error_message'] or ''))}"
    if in_short(row) == "?":
        yield in_words(row)
    elif row["eta"] and row["eta"]["slower_than_95_percent"]:
        yield "slower than 95 % of its kind"
    if row["next_poll_at"] and row["errors_in_row"]:
        yield f"{row['errors_in_row']} × {row['last_error']}"  # noqa: RUF001 - a count
