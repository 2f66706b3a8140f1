"""Forgetting: deletes old jobs that have ended, with all that hangs on them."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Select, and_, delete, exists, or_, select
from sqlalchemy.orm import Session

from worker import db
from worker.models import Delivery, Job

CHUNK = 500  # jobs in one transaction: writers wait for no longer than that takes


def prune(
    database_url: str, before: datetime, *, progress: Callable[[int], None] = lambda count: None
) -> int:
    """Delete the jobs that ended, or were given up, before that time; returns how many.

    A job whose event is still to be told stays. `progress` is told the count after each
    transaction.
    """
    deleted = 0
    while True:
        with db.transaction(database_url) as session:
            chosen = list(session.scalars(_old(before)))
            settled = _settled(session, chosen)
            session.execute(delete(Job).where(Job.id.in_(settled)))
        if not chosen:
            return deleted
        deleted += len(settled)
        progress(deleted)


def _old(before: datetime) -> Select[int]:
    """Old jobs without a pending delivery, locked; one that somebody is working on can wait."""
    owed = exists().where(Delivery.job_id == Job.id, Delivery.state == "pending")
    over = or_(Job.finished_at < before, and_(Job.state == "expired", Job.abandoned_at < before))
    return (
        select(Job.id)
        .where(over, ~owed)
        .order_by(Job.id)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    )


def _settled(session: Session, job_ids: list[int]) -> list[int]:
    """Those of the jobs that owe nothing, now that nobody can order an event again."""
    query = select(Delivery.job_id, Delivery.state).where(Delivery.job_id.in_(job_ids))
    rows = session.execute(query.with_for_update()).all()
    owing = {job_id for job_id, state in rows if state == "pending"}
    return [job_id for job_id in job_ids if job_id not in owing]
