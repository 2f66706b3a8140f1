"""Changing what was ordered for jobs that have not ended: whom to tell, of what, until when."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, null
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.errors import HasEnded, Refused
from reelwatch.jobs import orders
from reelwatch.rules import actions
from reelwatch.rules.actions import BY_PYTHON
from reelwatch.rules.states import FINAL, State
from reelwatch.storage import db, job_columns
from reelwatch.storage.actions import Entry
from reelwatch.storage.jobrows import Row, chunks, job_now, joined, locked
from reelwatch.storage.models import Job

jobs = job_columns.jobs

RECORDED = (
    "webhook_url", "callback_task", "callback_queue", "channels", "metadata", "events",
    "deadline_at",
)  # fmt: skip


def update(
    video_id: str,
    *,
    webhook_url: str | None = None,
    callback_task: str | None = None,
    callback_queue: str | None = None,
    account: str = "default",
    metadata: Mapping[str, Any] | None = None,
    deadline: str | float | timedelta | None = None,
    events: Iterable[str] | None = None,
    channels: Mapping[str, str] | None = None,
    session: Session | None = None,
    by: str = BY_PYTHON,
) -> Job:
    """Change an open job: what is None stays as it is; returns the job.

    The values are those of `track`, with the same checks. `metadata` takes the place of what was
    there; `deadline` is a span from now, also for a later `recheck`. Events that are owed already
    keep their receiver and their text. `by`: who does it, as `actions` keeps it. Raises `HasEnded`
    for a job that has ended, `UnknownJob`, and `Refused` for a bad value, or none at all; nothing
    is changed then.
    """
    return update_many(
        [video_id],
        webhook_url=webhook_url,
        callback_task=callback_task,
        callback_queue=callback_queue,
        account=account,
        metadata=metadata,
        deadline=deadline,
        events=events,
        channels=channels,
        session=session,
        by=by,
    )[0]


def update_many(
    video_ids: Iterable[str],
    *,
    account: str = "default",
    session: Session | None = None,
    by: str = BY_PYTHON,
    **given: Any,
) -> list[Job]:
    """Change open jobs, all or, if one can't be, none; in the order of the ids. See `update`."""
    said = orders.checked(settings.handing_in(), **given)
    if not said.said:
        raise Refused(f"update: nothing to change is given; accepted: {', '.join(orders.NAMES)}")
    with joined(session) as own:
        rows = locked(own, video_ids, account)
        for row in rows:
            _check(row, said)
        now = db.now(own)
        values = _values(said, now)
        for chunk in chunks(row["id"] for row in rows):
            own.execute(jobs.update().where(jobs.c.id.in_(chunk)).values(values))
        ordered = {name: values[name] for name in RECORDED if name in values}
        done = {row["id"]: actions.changes(row, ordered) for row in rows}
        Entry(actions.ActionName.UPDATE, by).note(own, now, done)
        return [job_now(own, row["id"]) for row in rows]


def _check(row: Row, said: orders.Order) -> None:
    name, state = row["video_id"], row["state"]
    if state == State.CANCELLED:
        raise HasEnded(f"{name!r} is cancelled: `recheck` takes it up again")
    if state in FINAL:
        raise HasEnded(
            f"{name!r} has ended, {state}: its events go where it said before (`redeliver` sends "
            "them there again)"
        )
    if said.deadline is not None and state == State.EXPIRED:
        raise HasEnded(f"{name!r} has passed its deadline: `recheck` takes it up with a new one")
    if said.callback_queue and not (said.callback_task or row["callback_task"]):
        raise Refused(f"callback_queue: {name!r} has no callback_task")


def _values(said: orders.Order, now: datetime) -> dict[str, Any]:
    """The columns to write. A poll under way decided by the old ones: it is made anew."""
    values = dict(said.said)
    if "channels" in values:
        values["channels"] = values["channels"] or None
    leased, due = jobs.c.lease_token.is_not(None), jobs.c.next_poll_at
    seconds = values.pop("deadline", None)
    if seconds is None:
        again = case((leased, now), else_=due)
    else:
        end = now + timedelta(seconds=seconds)
        values |= {"deadline_at": end, "deadline_seconds": seconds}
        again = case((leased, now), (due > end, end), else_=due)
    return {**values, "next_poll_at": again, "lease_token": null()}
