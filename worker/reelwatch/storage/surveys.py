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
from reelwatch.rules.states import FINAL, State
from reelwatch.storage import db
from reelwatch.storage.destinations import shown
from reelwatch.storage.filters import EventFilter, JobFilter, deliveries, jobs
from reelwatch.storage.paging import Condition, Page, Part, Place, Row, Sieve, both_of, page

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

    def by(self, title: str) -> Counter[str]:
        """How many there are, by that part of their groups."""
        place, found = self.titles.index(title), Counter[str]()
        for group, count in self.groups.items():
            found[group[place]] += count
        return found

    def add(self, group: Sequence[str | None], at: datetime) -> None:
        """Count one."""
        self.groups[tuple(part or "" for part in group)] += 1
        self.oldest = min(at, self.oldest or at)
        self.newest = max(at, self.newest or at)


def to_cancel(url: str, wanted: JobFilter) -> Survey:
    """The jobs of the filter that still go on. Raises `Refused` for a state that is an end."""
    if wanted.state in FINAL:
        raise Refused(f"state: what is {wanted.state} has ended: there is nothing to cancel")
    return _of_jobs(url, wanted, wanted.open_parts, None)


def to_recheck(url: str, wanted: JobFilter) -> Survey:
    """The jobs of the filter that a recheck does something about."""
    return _of_jobs(url, wanted, wanted.parts, _changed_by_recheck)


def _changed_by_recheck(row: Any) -> Iterator[Condition]:
    lost = and_(row.state == State.FAILED, row.error_code == "not_found")
    lacking = and_(row.state == State.COMPLETED, row.error_code == "no_result")
    stays = (State.COMPLETED, State.FAILED)
    yield or_(row.state.not_in(stays), lost, lacking)


def _of_jobs(
    url: str,
    wanted: JobFilter,
    parts: Callable[[Session], Sequence[Part]],
    more: Sieve | None,
) -> Survey:
    columns = (
        jobs.c.id, jobs.c.tracked_at, jobs.c.account, jobs.c.model, jobs.c.state, jobs.c.video_id,
        jobs.c.metadata, jobs.c.error_code, jobs.c.error_request_id, jobs.c.upstream_id,
        jobs.c.next_poll_at, jobs.c.finished_at,
    )  # fmt: skip

    def read(session: Session, before: Place | None) -> Page:
        query = select(*columns).where(*wanted.indexed(session))
        sieve = both_of(wanted.sieve(session), more)
        return page(session, query, parts(session), sieve, limit=PAGE, before=before)

    found = Survey(("account", "model", "state"))
    for row in _rows(url, read):
        found.ids.append(row["id"])
        found.add((row["account"], row["model"], row["state"]), row["tracked_at"])
    return found


def to_redeliver(url: str, wanted: EventFilter) -> Survey:
    """The events of the filter, by where they go."""
    found = Survey(("endpoint", "account", "state"))
    for row in _events(url, wanted):
        found.ids.append(row["id"])
        group = (shown(row["target"]), row["account"], row["state"])
        found.add(group, row["created_at"])
    return found


def count_of_events(url: str, wanted: EventFilter) -> int:
    """How many events the filter has."""
    return sum(1 for _ in _events(url, wanted))


def _events(url: str, wanted: EventFilter) -> Iterator[Row]:
    return _rows(url, lambda session, before: events(session, wanted, before, PAGE))


def events(session: Session, wanted: EventFilter, before: Place | None, limit: int) -> Page:
    """A page of the filter's events, the newest first."""
    columns = (
        deliveries.c.id, deliveries.c.created_at, deliveries.c.channel, deliveries.c.target,
        deliveries.c.state, jobs.c.account,
    )  # fmt: skip
    of_jobs = deliveries.outerjoin(jobs, jobs.c.id == deliveries.c.job_id)  # or the operator's
    query = select(*columns).select_from(of_jobs).where(*wanted.indexed())
    parts, sieve = wanted.parts(), wanted.sieve()
    return page(session, query, parts, sieve, time="created_at", limit=limit, before=before)


def _rows(url: str, read: Callable[[Session, Place | None], Page]) -> Iterator[Row]:
    """Page by page, each in a transaction of its own: a long one would hold up what is vacuumed."""
    before: Place | None = None
    while True:
        with db.reading(url) as session:
            found = read(session, before)
        yield from found.rows
        before = found.next
        if before is None:
            return
