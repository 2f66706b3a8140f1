"""Open jobs without an end or without news, counted by account and by what their polls bring.

No index has just those, and each would be written by polls. They are looked for where they are, by
indexes that are there: among the newest with errors, the newest that are expired, and those that
are due; in each place among `COUNT_MOST` rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from reelwatch.rules.answer_errors import MEANINGS, ErrorKind
from reelwatch.rules.states import State
from reelwatch.rules.wording import span
from reelwatch.storage import counts
from reelwatch.storage.counts import at_most
from reelwatch.storage.filters import in_state
from reelwatch.storage.models import table_of
from reelwatch.storage.models.base import UtcDateTime
from reelwatch.storage.standings import has_due_jobs
from reelwatch.storage.walking import NOW

jobs = table_of("jobs")
accounts = table_of("accounts")

IN_VAIN_AFTER = timedelta(minutes=15)  # of errors alone; shorter errors pass by themselves

# Each job with errors is in the first place only, each that is expired in no other than the second.
# Word by word the condition of the index, by which the databases know it.
IN_ERROR = and_(jobs.c.errors_in_row > literal_column("0"), jobs.c.finished_at.is_(None))
OF_JOB = (
    jobs.c.account, jobs.c.state, jobs.c.errors_in_row, jobs.c.last_error, jobs.c.errors_since,
    jobs.c.deadline_at, jobs.c.resultless_since, jobs.c.next_poll_at,
)  # fmt: skip
MOST, LONG_AGO = bindparam("most", type_=Integer), bindparam("long_ago", type_=UtcDateTime())
IS_DUE = jobs.c.next_poll_at < NOW
WITH_DUE_JOBS = select(accounts.c.name).where(has_due_jobs(NOW))


@dataclass(frozen=True, slots=True)
class Stuck:
    """Open jobs of one account whose last polls brought the same: `error` None for an answer.

    `overdue` are past their deadline, `in_vain` have brought errors alone for a while; each with
    the time since when the oldest has been so.
    """

    account: str
    error: str | None
    overdue: int
    overdue_since: datetime | None
    in_vain: int
    in_vain_since: datetime | None


def stuck(session: Session, now: datetime, most: int | None = None) -> list[Stuck]:
    """By account, and by what their last polls brought, the most frequent first.

    In each place `most` rows are looked at, or `COUNT_MOST`.
    """
    found: dict[tuple[str, str | None], Stuck] = {}
    values = {
        "now": now,
        "long_ago": now - IN_VAIN_AFTER,
        "most": counts.COUNT_MOST if most is None else most,
    }
    parts = [*session.execute(_in_error_or_expired(), values)]
    for name in session.scalars(WITH_DUE_JOBS, values).all():
        parts += session.execute(_due(), values | {"name": name})
    for part in (Stuck(*row) for row in parts):
        key = part.account, part.error
        found[key] = _together(found[key], part) if key in found else part
    return sorted(
        found.values(),
        key=lambda each: (each.account, -max(each.overdue, each.in_vain), each.error or ""),
    )


def in_words(parts: Sequence[Stuck], now: datetime, most: int | None = None) -> Sequence[str]:
    """What is wrong with the jobs of one account: `2 past their deadline, the oldest for …`."""
    said = []
    for what, name in (("past their deadline", "overdue"), ("with errors alone", "in_vain")):
        found = [
            (part.error, getattr(part, name), getattr(part, f"{name}_since")) for part in parts
        ]
        count = at_most(sum(jobs for _, jobs, _ in found), most)
        times = [since for _, jobs, since in found if jobs]
        if times:
            oldest = span((now - min(times)).total_seconds())
            said.append(f"{count} {what}, the oldest for {oldest} ({_causes(found)})")
    return said


def _causes(found: Iterable[tuple[str | None, int, Any]]) -> str:
    """`upstream refused the account's key`; with counts where there are several."""
    causes = [
        (MEANINGS.get(error, error) if error else "upstream names no end", count)
        for error, count, _ in found
        if count
    ]
    if len(causes) == 1:
        return causes[0][0]
    return ", ".join(f"{count}: {cause}" for cause, count in causes)


@cache
def _in_error_or_expired() -> Executable:
    """One statement, made once: to put it together takes as long as the database takes for it."""
    newest = jobs.c.tracked_at.desc(), jobs.c.id.desc()
    rows = select(*OF_JOB).order_by(*newest).limit(MOST)
    in_error = (rows.where(IN_ERROR, jobs.c.last_error == kind) for kind in ErrorKind)
    expired = _counted(rows.where(in_state(State.EXPIRED)), [State.EXPIRED], errors=False)
    return union_all(*(_counted(each, State) for each in in_error), expired)


@cache
def _due() -> Executable:
    """Of one account; whoever is polled past the deadline is expired: these were not polled."""
    rows = select(*OF_JOB).where(jobs.c.account == bindparam("name"), IS_DUE)
    states = [State.PENDING, State.RUNNING]
    return _counted(rows.order_by(jobs.c.next_poll_at).limit(MOST), states, errors=False)


def _counted(rows: Select[Any], states: Iterable[State], *, errors: bool = True) -> Select[Any]:
    """Those that are stuck among the rows, in these states; all, or those without errors."""
    job = rows.subquery().c
    wanted: list[ColumnElement[bool]] = [job.next_poll_at.is_not(None), job.state.in_([*states])]
    wanted += [] if errors else [job.errors_in_row == 0]
    # What upstream calls finished, and whose URL is awaited, has an end: its deadline is no matter.
    overdue = and_(job.deadline_at < NOW, job.resultless_since.is_(None))
    in_vain = and_(job.errors_in_row > 0, job.errors_since < LONG_AGO)
    error = case((job.errors_in_row > 0, job.last_error))
    late, vain = case((overdue, job.deadline_at)), case((in_vain, job.errors_since))
    found = (func.count(late), func.min(late), func.count(vain), func.min(vain))
    query = select(job.account, error, *found).where(*wanted, or_(overdue, in_vain))
    return query.group_by(job.account, error)


def _together(one: Stuck, other: Stuck) -> Stuck:
    times = (one.overdue_since, other.overdue_since)
    since = min((at for at in times if at is not None), default=None)
    # Errors are in one place only: what is in vain is not counted twice.
    return Stuck(
        one.account, one.error, one.overdue + other.overdue, since, one.in_vain, one.in_vain_since
    )
