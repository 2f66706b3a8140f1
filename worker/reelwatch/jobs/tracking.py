"""Taking in what producers say: track an id, stop tracking it, look at it again.

A job exists from the moment its row is committed. With the caller's own `session`, that is when
the caller commits: the video id and the caller's own rows are then stored together or not at all.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Executable, bindparam, select, true
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.config.accounts import Account
from reelwatch.errors import Refused
from reelwatch.jobs import orders
from reelwatch.jobs.orders import Order
from reelwatch.rules import status
from reelwatch.rules.callback_url import check_url
from reelwatch.rules.events import DEFAULT_EVENTS
from reelwatch.rules.video_ids import check_video_ids
from reelwatch.storage import db, ledger
from reelwatch.storage.jobrows import (
    Row,
    chunks,
    ensure_account,
    job_now,
    joined,
    locked,
    locked_by_id,
)
from reelwatch.storage.models import Job


def track(
    video_id: str,
    *,
    webhook_url: str | None = None,
    callback_task: str | None = None,
    callback_queue: str | None = None,
    account: str = "default",
    metadata: Mapping[str, Any] | None = None,
    deadline: str | float | timedelta | None = None,
    events: Iterable[str] | None = DEFAULT_EVENTS,
    session: Session | None = None,
) -> Job:
    """Track one video until its fate is known; returns its job.

    Idempotent per (account, video_id): tracking again returns the same job, unchanged; its
    `created` attribute tells. Its `differs` names what this call says and the job has otherwise:
    a list of `webhook_url`, `callback_task`, `callback_queue`, `metadata`, `deadline`, `events`;
    `update` changes it. `deadline` is a span from now (`"45m"`, seconds, a timedelta). With
    `session` the job becomes part of the caller's transaction, on the same database.

    No secret is needed to hand in a `webhook_url`: the workers sign. Raises `Refused` with the
    reason for a bad value (`NotConfigured` where another configuration would accept it),
    `SettingsError` for a bad configuration, `NotMigrated` where the tables are not there. Nothing
    is stored then.
    """
    return track_many(
        [video_id],
        webhook_url=webhook_url,
        callback_task=callback_task,
        callback_queue=callback_queue,
        account=account,
        metadata=metadata,
        deadline=deadline,
        events=events,
        session=session,
    )[0]


def track_many(
    video_ids: Iterable[str],
    *,
    webhook_url: str | None = None,
    callback_task: str | None = None,
    callback_queue: str | None = None,
    account: str = "default",
    metadata: Mapping[str, Any] | None = None,
    deadline: str | float | timedelta | None = None,
    events: Iterable[str] | None = DEFAULT_EVENTS,
    session: Session | None = None,
) -> list[Job]:
    """Track many videos in one transaction; the jobs come in the order of the ids. See `track`."""
    ids = check_video_ids(video_ids)
    with joined(session) as own:
        upstream, said = check_order(
            own,
            account,
            webhook_url=webhook_url,
            callback_task=callback_task,
            callback_queue=callback_queue,
            metadata=metadata,
            deadline=deadline,
            # The default, and not the same names: those of a job that is known stay unasked.
            events=None if events is DEFAULT_EVENTS else events,
        )
        return _insert(own, ids, upstream, said)


def check_order(session: Session, account: str, **given: Any) -> tuple[Account, Order]:
    """What `track` would do about any id; raises `Refused` as it does. Writes nothing."""
    configured = settings.handing_in()
    upstream = orders.known_account(session, configured, account)
    said = orders.checked(configured, **given)
    if said.callback_queue and not said.callback_task:
        raise Refused("callback_queue: it is given without a callback_task")
    return upstream, said


def cancel(video_id: str, *, account: str = "default", session: Session | None = None) -> Job:
    """Stop tracking a video; a job that has ended already stays as it is. Raises `UnknownJob`."""
    return cancel_many([video_id], account=account, session=session)[0]


def cancel_many(
    video_ids: Iterable[str], *, account: str = "default", session: Session | None = None
) -> list[Job]:
    """Stop tracking videos, all or, if one is unknown, none; in the order of the ids."""
    with joined(session) as own:
        rows = locked(own, video_ids, account)
        _cancel(own, rows)
        return [job_now(own, row["id"]) for row in rows]


def cancel_chosen(url: str, job_ids: Iterable[int], state: str | None = None) -> Iterator[int]:
    """Stop tracking the jobs with these row ids, some hundreds in one transaction after another.

    Gives the number of those that were cancelled after each: whoever stops asking for more leaves
    the others as they are. Those that have ended or are gone meanwhile are left out, and those that
    are not in `state` any more, where one is named.
    """
    return _in_turns(url, job_ids, _cancel, state)


def recheck(video_id: str, *, account: str = "default", session: Session | None = None) -> Job:
    """Look at a video now; take an `expired` or `cancelled` one, or one `not_found`, up again.

    A job that is taken up gets its deadline's span anew. One that was completed without a URL stays
    so and is asked for it once more. A job with another end stays as it is. Raises `UnknownJob`.
    """
    return recheck_many([video_id], account=account, session=session)[0]


def recheck_many(
    video_ids: Iterable[str], *, account: str = "default", session: Session | None = None
) -> list[Job]:
    """Look at videos now, at all or, if one is unknown, at none; in the order of the ids."""
    with joined(session) as own:
        rows = locked(own, video_ids, account)
        _recheck(own, rows)
        return [job_now(own, row["id"]) for row in rows]


def recheck_chosen(url: str, job_ids: Iterable[int], state: str | None = None) -> Iterator[int]:
    """Look at the jobs with these row ids now, as `recheck` does; in turns as `cancel_chosen`."""
    return _in_turns(url, job_ids, _recheck, state)


def sync_accounts(configured: settings.Settings) -> None:
    """Give every configured account its row, at start, so that no producer has to wait for it."""
    for account in configured.accounts.values():
        with db.transaction(configured.database_url) as session:
            ensure_account(session, account)


# -------------------------------------------------------------------- rows


def _insert(session: Session, ids: Sequence[str], account: Account, order: Order) -> list[Job]:
    ensure_account(session, account)
    values = _values(account, order, db.now(session))
    jobs: dict[str, Job] = {}
    statement = _insertion(db.dialect(session))
    for chunk in chunks(sorted(ids)):  # all producers in one order: none waits in a circle
        named = json.dumps([(each, _model(each)) for each in chunk])
        made = session.scalars(statement, {**values, "ids": named})
        jobs.update((job.video_id, job) for job in made)
    for job in jobs.values():
        job.created, job.differs = True, []
    for job in _find(session, account.name, [each for each in ids if each not in jobs]):
        job.created, job.differs = False, order.differs_from(job)
        jobs[job.video_id] = job
    return [jobs[video_id] for video_id in ids]


@cache
def _insertion(dialect: str) -> Executable:
    """One statement for all ids: what they share is sent once, and they as one parameter."""
    columns = ledger.jobs.c
    shared = (
        columns.account, columns.state, columns.metadata, columns.tracked_at, columns.next_poll_at,
        columns.deadline_at, columns.deadline_seconds, columns.webhook_url, columns.callback_task,
        columns.callback_queue, columns.events,
    )  # fmt: skip
    video_id, model = db.listed(dialect, "ids", width=2)
    values = [bindparam(column.name, type_=column.type) for column in shared]
    rows = select(video_id, model, *values).where(true())  # without it SQLite takes ON for a join's
    made = db.insert_if_absent(dialect, ledger.jobs, "account", "video_id").from_select(
        [columns.video_id, columns.model, *shared], rows
    )
    return select(Job).from_statement(made.returning(*columns))


def _values(account: Account, order: Order, now: datetime) -> dict[str, Any]:
    """What the rows of new jobs share, with defaults for what the order leaves unsaid."""
    configured = settings.handing_in()
    deadline = order.deadline or configured.deadline
    default = account.webhook_url and check_url(account.webhook_url, configured.allowlist)
    return {
        "account": account.name,
        "state": status.State.PENDING.value,
        "metadata": order.metadata or {},
        "tracked_at": now,
        "next_poll_at": now,
        "deadline_at": now + timedelta(seconds=deadline),
        "deadline_seconds": deadline,
        "webhook_url": order.webhook_url or default,
        "callback_task": order.callback_task,
        "callback_queue": order.callback_queue,
        "events": list(DEFAULT_EVENTS if order.events is None else order.events),
    }


def _model(video_id: str) -> str | None:
    prefix, colon, _ = video_id.partition(":")
    return prefix if colon and prefix else None


def _find(session: Session, account: str, ids: Iterable[str]) -> Iterator[Job]:
    for chunk in chunks(ids):
        query = select(Job).where(Job.account == account, Job.video_id.in_(chunk))
        yield from session.execute(query).scalars()


def _in_turns(
    url: str,
    job_ids: Iterable[int],
    change: Callable[[Session, Sequence[Row]], int],
    state: str | None,
) -> Iterator[int]:
    for chunk in chunks(sorted(job_ids)):
        with db.transaction(url) as session:
            rows = locked_by_id(session, chunk)
            count = change(session, [row for row in rows if state in (None, row["state"])])
        yield count


def _cancel(session: Session, rows: Sequence[Row]) -> int:
    """Stop tracking what has not ended; the rows are locked. Returns how many."""
    decided = [(row, status.cancelled(ledger.job_of(row))) for row in rows]
    changes = [ledger.Change(row, decision) for row, decision in decided if decision]
    ledger.write(session, changes, db.now(session))
    return len(changes)


def _recheck(session: Session, rows: Sequence[Row]) -> int:
    """Look now at what can change; the rows are locked. Returns how many."""
    now = db.now(session)
    changes, due = [], []
    for row in rows:
        job = ledger.job_of(row)
        decision = status.reopened(job, now)
        if decision is not None:
            changes.append(ledger.Change(row, decision, deadline_at=now + _span(row)))
        elif not job.final or job.lacks_result:
            due.append(row["id"])
    ledger.write(session, changes, now)
    _look_now(session, due, now)
    return len(changes) + len(due)


def _span(row: Row) -> timedelta:
    return timedelta(
        seconds=orders.span_of(row["deadline_seconds"], row["deadline_at"], row["tracked_at"])
    )


def _look_now(session: Session, job_ids: Sequence[int], now: datetime) -> None:
    jobs = ledger.jobs
    values = {"next_poll_at": now, "lease_token": None, "errors_in_row": 0, "errors_since": None}
    for chunk in chunks(job_ids):
        session.execute(jobs.update().where(jobs.c.id.in_(chunk)).values(values))
