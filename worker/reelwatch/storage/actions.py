"""Writes down what people and programs have done, with what that changes: all of it, or nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Select,
    String,
    Table,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from reelwatch.rules.actions import BY_PYTHON, ActionName, asked, named
from reelwatch.storage.models import Account, Action, ActionJob

actions: Table = Action.__table__  # type: ignore[assignment]
action_jobs: Table = ActionJob.__table__  # type: ignore[assignment]
accounts: Table = Account.__table__  # type: ignore[assignment]

INSERT_ACTION = insert(actions).returning(actions.c.id)
INSERT_JOBS = insert(action_jobs)
READ_AT_ONCE = 500
PAUSES_MOST = 50  # of an account, in the story of one of its jobs
OF_ALL = [actions.c[name] for name in ("id", "at", "who", "action", "chosen_by", "count")]
# One of the jobs of an action. LIMIT has the index asked once for each action; for EXISTS and IN
# the database may read all jobs of all actions, of which one alone may have 10,000.
ANY_JOB = (
    select(action_jobs.c.job_id)
    .where(action_jobs.c.action_id == actions.c.id)
    .limit(1)
    .scalar_subquery()
    .label("job_id")
)
JOBS_MOST = 10  # of an action, in a list of actions
# So many of the jobs of an action, as a text of their ids: LIMIT ends the reading of the index.
SOME_JOBS = (
    select(action_jobs.c.job_id)
    .where(action_jobs.c.action_id == actions.c.id)
    .limit(JOBS_MOST)
    .correlate(actions)
    .subquery()
)
JOB_IDS = (
    select(func.aggregate_strings(cast(SOME_JOBS.c.job_id, String), ","))
    .scalar_subquery()
    .label("job_ids")
)
NO_ID = 2**63 - 1  # above all

Details = Mapping[str, Any] | None


@dataclass(slots=True)
class Entry:
    """One action's row: made with its first change; what later transactions change is added."""

    name: ActionName
    who: str = BY_PYTHON
    account: str | None = None  # that is paused or resumed
    chosen_by: Mapping[str, Any] | None = None  # the fields of the filter
    details: Details = None
    _id: int | None = field(default=None, init=False)

    def note(
        self, session: Session, at: datetime, jobs: Mapping[int, Details], count: int | None = None
    ) -> None:
        """It has changed these jobs, by row id, `count` things in all (default: so many jobs)."""
        done = len(jobs) if count is None else count
        if not done:
            return
        if self._id is None:
            self._id = session.execute(INSERT_ACTION, self._row(at, done)).scalar_one()
        else:
            more = update(actions).where(actions.c.id == self._id)
            session.execute(more.values(count=actions.c.count + done))
        if jobs:
            rows = [
                {"job_id": job_id, "action_id": self._id, "details": details}
                for job_id, details in jobs.items()
            ]
            session.execute(INSERT_JOBS, rows)

    def _row(self, at: datetime, count: int) -> dict[str, Any]:
        return {
            "at": at,
            "who": named(self.who),
            "action": self.name.value,
            "account": self.account,
            "chosen_by": None if self.chosen_by is None else asked(self.chosen_by),
            "count": count,
            "details": self.details,
        }


def of_jobs(job_ids: Iterable[int]) -> dict[int, Details]:
    """Jobs of which there is no more to say than that they were changed."""
    return dict.fromkeys(job_ids)


def of_job(session: Session, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was done about a job, or about its account while it was polled, in the order of time.

    `details` are about this job.
    """
    query = (
        select(*OF_ALL, action_jobs.c.details)
        .join(action_jobs, action_jobs.c.action_id == actions.c.id)
        .where(action_jobs.c.job_id == job["id"])
    )
    end = job["finished_at"] or job["abandoned_at"]
    found = [dict(row) for row in session.execute(query).mappings()]
    found += pauses(session, job["account"], job["tracked_at"], end)
    return sorted(found, key=lambda row: (row["at"], row["id"]))


def pauses(
    session: Session, account: str, since: datetime, until: datetime | None
) -> list[dict[str, Any]]:
    """Pauses and resumes of an account within these times, in their order; with `until` None, up
    to now. Of many the last `PAUSES_MOST`. A pause in which the time begins is one of them.
    """
    mine = select(*OF_ALL, actions.c.details).where(actions.c.account == account)
    mine = mine.order_by(actions.c.at.desc(), actions.c.id.desc())
    within = mine.where(actions.c.at >= since)
    if until is not None:
        within = within.where(actions.c.at <= until)
    found = [dict(row) for row in session.execute(within.limit(PAUSES_MOST)).mappings()]
    before = session.execute(mine.where(actions.c.at < since).limit(1)).mappings().first()
    if before is not None and before["action"] == ActionName.PAUSE:
        found.append(dict(before))
    return found[::-1]


def paused_by(session: Session, names: Collection[str]) -> dict[str, str]:
    """Who paused each of these accounts last, by its name; without those of which nobody knows."""
    if not names:
        return {}
    mine = (actions.c.account == accounts.c.name, actions.c.action == ActionName.PAUSE.value)
    last = select(actions.c.who).where(*mine).order_by(actions.c.at.desc(), actions.c.id.desc())
    who = last.limit(1).correlate(accounts).scalar_subquery()
    query = select(accounts.c.name, who).where(accounts.c.name.in_(names))
    return {name: found for name, found in session.execute(query) if found is not None}


def newest(limit: int, before: int = NO_ID) -> Select[Any]:
    """The newest actions; `before` is the id of the last one of a page, and begins the next.

    `job_ids` has at most `JOBS_MOST` of an action's jobs, with commas between; None: it has none.
    """
    query = select(actions, JOB_IDS).where(actions.c.id < before)
    return query.order_by(actions.c.id.desc()).limit(limit)


Place = tuple[datetime, int]  # of an action in the order of time


def old(
    session: Session, before: datetime, behind: Place | None = None
) -> tuple[list[int], Place | None]:
    """Some of the actions before that time, the oldest first: those that no job tells of.

    `behind` is the place of the last one that was read before, and so is what is returned; None at
    the end.
    """
    query = select(actions.c.at, actions.c.id, ANY_JOB).where(actions.c.at < before)
    if behind is not None:
        query = query.where(tuple_(actions.c.at, actions.c.id) > tuple_(*map(literal, behind)))
    query = query.order_by(actions.c.at, actions.c.id).limit(READ_AT_ONCE)
    rows = session.execute(query).all()
    last = (rows[-1].at, rows[-1].id) if rows else None
    return [row.id for row in rows if row.job_id is None], last


def forget(session: Session, ids: Sequence[int]) -> None:
    """Delete these actions."""
    session.execute(delete(actions).where(actions.c.id.in_(ids)))
