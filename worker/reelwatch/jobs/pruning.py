"""Forgetting: deletes old jobs that have ended, with all that hangs on them.

A chunk is chosen without any lock, however long that takes; then locked, read again, and
deleted, all in one short transaction. Nobody is waited for while it holds locks. A prune that is
killed leaves whole jobs only, and the next one goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select, tuple_
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import InstrumentedAttribute, Session

from reelwatch.rules.actions import BY_PYTHON, ActionName
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import State
from reelwatch.storage import actions, db, destinations, feed, incidents
from reelwatch.storage.actions import Entry
from reelwatch.storage.event_states import PENDING
from reelwatch.storage.filters import JobFilter
from reelwatch.storage.models import Delivery, Job
from reelwatch.storage.surveys import PAGE, Survey

ALL = JobFilter()
CHUNK = 500  # jobs in one transaction: writers wait for no longer than that takes

Ended = InstrumentedAttribute[datetime | None]
Place = tuple[datetime | None, int]  # of a job in the order of ends


def prune(
    database_url: str, before: datetime, wanted: JobFilter = ALL, *, by: str = BY_PYTHON
) -> Iterator[int]:
    """Delete the jobs of a filter that ended, or were given up, before that time.

    Gives the number of each transaction when it is over. A job whose event is still to be told
    stays; one that somebody works on stays until the next time. How an endpoint was doing that
    nothing is owed to is forgotten, too.
    """
    chosen_by = {**asdict(wanted), "before": before}
    entry = Entry(ActionName.PRUNE, by, chosen_by=chosen_by)
    for rows in _chunks(database_url, before, wanted, CHUNK):
        with db.transaction(database_url) as session:
            feed.lock(session)
            settled = _settled(session, _locked(session, [row["id"] for row in rows], before))
            feed.forget(session, settled)
            session.execute(delete(Job).where(Job.id.in_(settled)))
            entry.note(session, db.now(session), {}, count=len(settled))
        yield len(settled)
    with db.reading(database_url) as session:
        idle = destinations.idle(session, before)
        over = wanted == ALL and incidents.any_over(session, before)
    if idle or over:
        with db.transaction(database_url) as session:
            destinations.forget(session, idle)
            if over:
                incidents.forget(session, before)
    if wanted == ALL:
        _forget_actions(database_url, before)


def _forget_actions(database_url: str, before: datetime) -> None:
    """Delete the old actions that no job tells of any more."""
    behind: actions.Place | None = None
    while True:
        with db.reading(database_url) as session:
            untold, behind = actions.old(session, before, behind)
        if untold:
            with db.transaction(database_url) as session:
                actions.forget(session, untold)
        if behind is None:
            return


def survey(database_url: str, before: datetime, wanted: JobFilter = ALL) -> Survey:
    """What `in_batches` would delete now, by account, model and state; times are those of ends."""
    found = Survey(("account", "model", "state"))
    for rows in _chunks(database_url, before, wanted, PAGE):
        for row in rows:
            found.add((row["account"], row["model"], row["state"]), row["ended"])
    return found


def _chunks(
    database_url: str, before: datetime, wanted: JobFilter, size: int
) -> Iterator[Sequence[RowMapping]]:
    """Old jobs that owe nothing; each is given once, what follows begins behind it."""
    for ended in (Job.finished_at, Job.abandoned_at):
        behind: Place | None = None
        while True:
            with db.reading(database_url) as session:
                query = _old(ended, before, behind).limit(size)
                asked = [*wanted.indexed(session), *wanted.others(session)]
                rows = session.execute(query.where(*asked)).mappings().all()
            if not rows:
                break
            yield rows
            behind = (rows[-1]["ended"], rows[-1]["id"])


def _old(ended: Ended, before: datetime, behind: Place | None) -> Select[Any]:
    """What follows in the order of ends: an index leads to it, also past what is deleted."""
    owed = exists().where(Delivery.job_id == Job.id, PENDING)
    columns: tuple[Any, ...] = (Job.id, ended.label("ended"), Job.account, Job.model, Job.state)
    query = select(*columns).where(ended < before, _over(before), ~owed)
    if behind is not None:
        query = query.where(tuple_(ended, Job.id) > behind)
    return query.order_by(ended, Job.id)


def _over(before: datetime) -> ColumnElement[bool]:
    return or_(
        Job.finished_at < before, and_(Job.state == State.EXPIRED, Job.abandoned_at < before)
    )


def _locked(session: Session, job_ids: Sequence[int], before: datetime) -> Sequence[int]:
    """Those that nobody works on and that are still over, locked: none can be owed an event now."""
    query = select(Job.id).where(Job.id.in_(job_ids), _over(before))
    return session.scalars(query.with_for_update(skip_locked=True)).all()


def _settled(session: Session, job_ids: Sequence[int]) -> Sequence[int]:
    """Those of the jobs that owe nothing; their events are locked, so none is ordered again."""
    events = select(Delivery.id, Delivery.job_id, Delivery.state).where(
        Delivery.job_id.in_(job_ids)
    )
    all_of_them = session.execute(events).all()
    free = session.execute(events.with_for_update(skip_locked=True)).all()
    told = {event_id for event_id, _, state in free if state != DeliveryState.PENDING}
    owing = {job_id for event_id, job_id, _ in all_of_them if event_id not in told}
    return [job_id for job_id in job_ids if job_id not in owing]
