"""What has been learned of durations, as every worker reads it: the table `duration_curves`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, literal, select, update
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.rules.states import State
from reelwatch.rules.timing import eta, hazard
from reelwatch.rules.timing.hazard import Curve
from reelwatch.rules.timing.plan import ETA_JOBS, Plan, from_json
from reelwatch.rules.wording import clock
from reelwatch.storage import db
from reelwatch.storage.counts import counted
from reelwatch.storage.models import DurationCurve, table_of

table = table_of("duration_curves")
jobs = table_of("jobs")

# Ends that upstream did not set a time to, or that are none of a video.
NO_DURATION = ("not_found", "no_result")

KINDS_MOST = 100  # of an account: a producer may make up a prefix for each id

_read: dict[tuple[str, str, datetime], Plan | None] = {}  # a plan is read once, not for every batch


def kinds(session: Session, account: str) -> Mapping[str, Plan]:
    """The plans of the account's models, by model; models without finished jobs are missing."""
    stamps = select(table.c.model, table.c.learned_at).where(table.c.account == account)
    wanted = {(account, model, at) for model, at in session.execute(stamps)}
    for key in list(_read):  # a copy: other threads read on
        if key[0] == account and key not in wanted:
            _read.pop(key, None)  # replaced since
    new = wanted - _read.keys()
    if new:
        _load(session, account, {model for _, model, _ in new})
    return {
        model: known
        for account, model, at in wanted
        if (known := _read.get((account, model, at))) is not None
    }


def _load(session: Session, account: str, models: set[str]) -> None:
    query = select(table.c.model, table.c.learned_at, table.c.plan).where(
        table.c.account == account, table.c.model.in_(models)
    )
    for model, learned_at, plan in session.execute(query):
        _read[account, model, learned_at] = plan and from_json(plan)


def has_duration() -> Sequence[ColumnElement[bool]]:
    """The conditions for a job to have ended upstream."""
    return (
        jobs.c.finished_at.is_not(None),
        jobs.c.state.in_([State.COMPLETED, State.FAILED]),
        func.coalesce(jobs.c.error_code, "").not_in(NO_DURATION),
    )


def awaited(session: Session, job: Mapping[str, Any]) -> str:
    """What a job waits for that upstream calls finished without a URL; empty: nothing."""
    query = select(jobs.c.resultless_since).where(jobs.c.id == job["id"])
    since = None if job["finished_at"] else session.execute(query).scalar_one_or_none()
    if since is None:
        return ""
    until = since + timedelta(seconds=settings.handing_in().result_grace)
    return (
        "upstream says that it is finished, and shows no video URL yet: one is looked for until "
        f"{clock(until, db.now(session))} UTC, then it is told as completed without one"
    )


def why_none(session: Session, job: Mapping[str, Any]) -> str:
    """Why a job that goes on has no `eta`: too few of its kind have ended, or its polls fail."""
    if job["eta"] or job["state"] not in eta.FORETOLD or job["model"] is None:
        return ""
    kind = (jobs.c.account == job["account"], jobs.c.model == job["model"])
    few = counted(select(literal(1)).where(*kind, *has_duration()), ETA_JOBS)
    ended = session.execute(few).scalar_one()
    if ended < ETA_JOBS:
        return eta.too_few(ended)
    return eta.UNHEARD if job["errors_in_row"] else ""


def curve(session: Session, account: str, model: str) -> Curve | None:
    """The curve that a plan was solved from, for those who draw it."""
    query = select(table.c.curve).where(table.c.account == account, table.c.model == model)
    body = session.execute(query).scalar_one_or_none()
    return None if body is None else hazard.from_json(body)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was learned of a kind: its curve, the plan, and what that was solved for."""

    curve: Curve
    plan: Plan
    solved_for: str


def keep(session: Session, account: str, model: str, known: Forecast, now: datetime) -> None:
    """Store what was learned in place of what was known before.

    Of an account's kinds the `KINDS_MOST` that were learned last stay. What is dropped costs
    little: the jobs are still there to learn from when another one of the kind ends.
    """
    values = {
        "learned_at": now,
        "jobs": known.curve.jobs,
        "curve": known.curve.to_json(),
        "plan": known.plan.to_json(),
        "solved_for": known.solved_for,
    }
    mine = (table.c.account == account, table.c.model == model)
    old = session.execute(update(table).where(*mine).values(values).returning(table.c.model))
    if old.first() is None:
        first = db.insert_if_absent(db.dialect(session), DurationCurve, "account", "model")
        session.execute(first.values(account=account, model=model, **values))
        _drop_oldest(session, account)


def _drop_oldest(session: Session, account: str) -> None:
    newest = select(table.c.model).where(table.c.account == account)
    oldest = newest.order_by(table.c.learned_at.desc(), table.c.model).offset(KINDS_MOST)
    session.execute(delete(table).where(table.c.account == account, table.c.model.in_(oldest)))
