"""What somebody is about to act on: exactly which jobs or events, how many, and whose.

Whoever is asked whether to go on has to know that. What is found is what is acted on afterwards,
nothing that came later.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.rules.status import FINAL, State
from reelwatch.storage import db
from reelwatch.storage.destinations import shown
from reelwatch.storage.filters import (
    ENDED,
    GIVEN_UP,
    OPEN_JOBS,
    EventFilter,
    JobFilter,
    deliveries,
    jobs,
)
from reelwatch.storage.pages import Condition, Page, Place, Row, Sieve, page

PAGE = 10_000  # rows read at once


@dataclass(slots=True)
class Survey:
    """What was found: how many of each group, from when to when, and the ids, if any are kept."""

    titles: Sequence[str]  # of a group's parts
    ids: list[Any] = field(default_factory=list)
    groups: Counter[tuple[str, ...]] = field(default_factory=Counter)
    oldest: datetime | None = None
    newest: datetime | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return self.groups.total()

    def add(self, group: Sequence[str | None], at: datetime) -> None:
        """Count one."""
        self.groups[tuple(part or "" for part in group)] += 1
        self.oldest = min(at, self.oldest or at)
        self.newest = max(at, self.newest or at)


def to_cancel(url: str, wanted: JobFilter) -> Survey:
    """The jobs of the filter that still go on. Raises `Refused` for a state that is an end."""
    parts = [OPEN_JOBS]
    if wanted.state is not None:
        if wanted.state in FINAL:
            raise Refused(f"state: what is {wanted.state} has ended: there is nothing to cancel")
        parts = [and_(OPEN_JOBS, jobs.c.state == wanted.state)]
    return _of_jobs(url, wanted, parts, None)


def to_recheck(url: str, wanted: JobFilter) -> Survey:
    """The jobs of the filter that a recheck does something about."""
    parts = wanted.parts()
    if wanted.state is None:
        ends = [and_(ENDED, jobs.c.state == state) for state in sorted(FINAL)]
        parts = [OPEN_JOBS, GIVEN_UP, *ends]
    return _of_jobs(url, wanted, parts, _changed_by_recheck)


def _changed_by_recheck(row: Any) -> Iterator[Condition]:
    lost = and_(row.state == State.FAILED, row.error_code == "not_found")
    lacking = and_(row.state == State.COMPLETED, row.error_code == "no_result")
    stays = (State.COMPLETED, State.FAILED)
    yield or_(row.state.not_in(stays), lost, lacking)


def _of_jobs(url: str, wanted: JobFilter, parts: Sequence[Condition], more: Sieve | None) -> Survey:
    columns = (
        jobs.c.id, jobs.c.tracked_at, jobs.c.account, jobs.c.model, jobs.c.state, jobs.c.video_id,
        jobs.c.metadata, jobs.c.error_code,
    )  # fmt: skip

    def turn(session: Session, before: Place | None) -> Page:
        query = select(*columns).where(*wanted.indexed(session))
        sieve = _both(wanted.sieve(session), more)
        return page(session, query, parts, sieve, limit=PAGE, before=before)

    found = Survey(("account", "model", "state"))
    for row in _rows(url, turn):
        found.ids.append(row["id"])
        found.add((row["account"], row["model"], row["state"]), row["tracked_at"])
    return found


def to_redeliver(url: str, wanted: EventFilter) -> Survey:
    """The events of the filter, by where they go."""
    columns = (
        deliveries.c.id, deliveries.c.created_at, deliveries.c.channel, deliveries.c.target,
        deliveries.c.state, jobs.c.account,
    )  # fmt: skip
    query = select(*columns).join(jobs, jobs.c.id == deliveries.c.job_id).where(*wanted.indexed())

    def turn(session: Session, before: Place | None) -> Page:
        parts, sieve = wanted.parts(), wanted.sieve()
        return page(session, query, parts, sieve, time="created_at", limit=PAGE, before=before)

    found = Survey(("endpoint", "account", "state"))
    for row in _rows(url, turn):
        found.ids.append(row["id"])
        group = (shown(row["target"]), row["account"], row["state"])
        found.add(group, row["created_at"])
    return found


def _both(one: Sieve | None, other: Sieve | None) -> Sieve | None:
    sieves = [sieve for sieve in (one, other) if sieve]
    return (lambda row: [asked for sieve in sieves for asked in sieve(row)]) if sieves else None


def _rows(url: str, turn: Callable[[Session, Place | None], Page]) -> Iterator[Row]:
    """Page by page, each in a transaction of its own: a long one would hold up what is vacuumed."""
    before: Place | None = None
    while True:
        with db.reading(url) as session:
            found = turn(session, before)
        yield from found.rows
        before = found.next
        if before is None:
            return
