"""Rows as Reelwatch would have written them, for tests of what reads, deletes or tells them."""

import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from reelwatch.rules.states import FINAL
from reelwatch.storage import db
from reelwatch.storage.models import Account, Attempt, Base, Delivery, Job, PollError, Transition

Row = dict[str, Any]

_numbers = itertools.count(1)


def at(*, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> datetime:
    """A moment so long ago."""
    ago = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return datetime.now(UTC) - ago


def add(session: Session, table: type[Base], row: Mapping[str, Any]) -> Row:
    """Insert one row; returns all of its columns, defaults and id included."""
    return dict(session.execute(_insert(table), row).mappings().one())


@cache
def _insert(table: type[Base]) -> ReturningInsert[Any]:
    """Without values, which would have every statement written anew."""
    made = Base.metadata.tables[table.__tablename__]
    return insert(made).returning(*made.c)


def jobs_in(url: str) -> list[Job]:
    """All jobs, in the order of their ids."""
    with db.reading(url) as session:
        return list(session.execute(select(Job).order_by(Job.id)).scalars())


def add_account(session: Session, name: str = "default", **columns: Any) -> Row:
    return add(session, Account, {"name": name, "requests_per_second": 5.0, **columns})


def add_job(session: Session, state: str = "running", **columns: Any) -> Row:
    """A job, by default tracked an hour ago; its other columns fit its state."""
    return add(session, Job, _job(state, columns))


def add_new_jobs(session: Session, ids: Iterable[str], at: datetime, **columns: Any) -> None:
    """Jobs of no known model, as they are tracked at a moment: each is due at once."""
    new = {"model": None, "tracked_at": at, "next_poll_at": at, **columns}
    rows = [_job("pending", new | {"video_id": video_id}) for video_id in ids]
    session.execute(insert(Base.metadata.tables["jobs"]), rows)


def _job(state: str, columns: Mapping[str, Any]) -> Row:
    tracked = columns.get("tracked_at") or at(hours=1)
    end = columns.get("finished_at") or tracked + timedelta(minutes=2)
    row: Row = {
        "account": "default",
        "video_id": f"grok:job-{next(_numbers)}",
        "model": "grok",
        "state": state,
        "metadata": {},
        "tracked_at": tracked,
        "deadline_at": tracked + timedelta(hours=1),
        "events": ["completed", "failed", "expired"],
    }
    if state in FINAL:
        row["finished_at"] = end
    elif columns.get("abandoned_at") is None:
        row["next_poll_at"] = at(seconds=-5)
    if state == "completed":
        row["video_url"] = "https://cdn.example.com/v.mp4"
    if state == "expired":
        row["expired_at"] = row["deadline_at"]
    if state in ("failed", "expired"):
        code = "upstream_failed" if state == "failed" else "deadline"
        row |= {"error_code": code, "error_message": f"because of {code}"}
    return row | dict(columns)


def add_transition(session: Session, job: Row, **columns: Any) -> Row:
    row: Row = {
        "job_id": job["id"],
        "sequence": 1,
        "from_state": "pending",
        "to_state": "running",
        "from_status": None,
        "to_status": "processing",
        "at": job["tracked_at"] + timedelta(seconds=10),
    }
    return add(session, Transition, row | columns)


def add_error(session: Session, job: Row, **columns: Any) -> Row:
    when = columns.get("first_at") or job["tracked_at"] + timedelta(seconds=5)
    row = {
        "job_id": job["id"],
        "kind": "server_error",
        "http_status": 500,
        "message": "internal error",
        "first_at": when,
        "last_at": when,
    }
    return add(session, PollError, row | columns)


def add_delivery(
    session: Session, job: Row, transition: Row, state: str = "delivered", **columns: Any
) -> Row:
    created = columns.get("created_at") or transition["at"]
    target = columns.get("target", "https://hooks.example.com/x")
    row: Row = {
        "id": f"evt_{next(_numbers):032x}",
        "job_id": job["id"],
        "transition_id": transition["id"],
        "sequence": transition["sequence"],
        "event_type": f"video.{transition['to_state']}",
        "channel": "webhook",
        "target": target,
        "destination": target.split("/")[2] if "//" in target else "celery",
        "body": "{}",
        "state": state,
        "created_at": created,
    }
    if state == "pending":
        row["next_attempt_at"] = at(seconds=-30)
    if state == "delivered":
        row["delivered_at"] = created + timedelta(seconds=1)
    return add(session, Delivery, row | columns)


def add_owed(session: Session, target: str = "https://hooks.example.com/x", **columns: Any) -> Row:
    """An event that is due now, of a job of its own that has just been completed."""
    now = db.now(session)
    session.merge(Account(name="default", requests_per_second=5.0))
    session.flush()
    job = add_job(session, "completed", tracked_at=now, finished_at=now)
    step = add_transition(session, job, from_state="running", to_state="completed", at=now)
    due: Row = {"state": "pending", "created_at": now, "next_attempt_at": now}
    return add_delivery(session, job, step, target=target, **due | columns)


def add_attempt(session: Session, delivery: Row, **columns: Any) -> Row:
    row = {
        "delivery_id": delivery["id"],
        "at": delivery["created_at"] + timedelta(seconds=1),
        "http_status": 200,
        "duration_ms": 12,
    }
    return add(session, Attempt, row | columns)
