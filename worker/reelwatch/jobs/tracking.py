"""Taking in what producers say: track an id, stop tracking it, poll it again.

A job exists from the moment its row is committed. With the caller's own `session`, that is when
the caller commits: the video id and the caller's own rows are then stored together or not at all.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any

from sqlalchemy import Executable, bindparam, select, true
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.config.accounts import Account
from reelwatch.errors import Refused
from reelwatch.jobs import orders
from reelwatch.jobs.orders import Order
from reelwatch.rules import states
from reelwatch.rules.actions import BY_PYTHON, ActionName
from reelwatch.rules.callback_url import check_url
from reelwatch.rules.changes import Change
from reelwatch.rules.events import DEFAULT_EVENTS
from reelwatch.rules.video_ids import check_video_ids
from reelwatch.storage import actions, db, job_columns, ledger
from reelwatch.storage.actions import Entry
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
    channels: Mapping[str, str] | None = None,
    session: Session | None = None,
) -> Job:
    """Track one video until its fate is known; returns its job.

    Idempotent per (account, video_id): tracking again returns the same job, unchanged; its
    `created` attribute tells. Its `differs` names what this call says and the job has otherwise:
    a list of `webhook_url`, `callback_task`, `callback_queue`, `metadata`, `deadline`, `events`,
    `channels`; `update` changes it. `channels` names other ways to be told, by what each is to
    reach: `{"stream": "videos"}`. `deadline` is a span from now (`"45m"`, seconds, a timedelta).
    With `session` the job becomes part of the caller's transaction, on the same database.

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
        channels=channels,
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
    channels: Mapping[str, str] | None = None,
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
            channels=channels,
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


def cancel(
    video_id: str,
    *,
    account: str = "default",
    session: Session | None = None,
    by: str = BY_PYTHON,
) -> Job:
    """Stop tracking a video. Raises `UnknownJob`.

    A job that has ended already stays as it is, and the `changed` of what is returned is false.
    `by`: who does it, as `actions` keeps it.
    """
    return cancel_many([video_id], account=account, session=session, by=by)[0]


def cancel_many(
    video_ids: Iterable[str],
    *,
    account: str = "default",
    session: Session | None = None,
    by: str = BY_PYTHON,
) -> list[Job]:
    """Stop tracking videos, all or, if one is unknown, none; in the order of the ids."""
    with joined(session) as own:
        rows = locked(own, video_ids, account)
        return _jobs_now(own, rows, _cancel(own, rows, Entry(ActionName.CANCEL, by)))


def cancel_chosen(
    url: str,
    job_ids: Iterable[int],
    state: str | None = None,
    *,
    by: str = BY_PYTHON,
    chosen_by: Mapping[str, Any] | None = None,
) -> Iterator[int]:
    """Stop tracking the jobs with these row ids, some hundreds in one transaction after another.

    Gives the number of those that were cancelled after each: whoever stops asking for more leaves
    the others as they are. Those that have ended or are gone meanwhile are left out, and those that
    are not in `state` any more, where one is named.
    """
    entry = Entry(ActionName.CANCEL, by, chosen_by=chosen_by)
    return map(Counter.total, _in_batches(url, job_ids, partial(_cancel, entry=entry), state))


def recheck(
    video_id: str,
    *,
    account: str = "default",
    session: Session | None = None,
    by: str = BY_PYTHON,
) -> Job:
    """Poll a video now; take an `expired` or `cancelled` one, or one `not_found`, up again.

    A job that is taken up gets its deadline's span anew. One that was completed without a URL stays
    so and is asked for it once more. A job with another end stays as it is, and the `changed` of
    what is returned is false. Raises `UnknownJob`.
    """
    return recheck_many([video_id], account=account, session=session, by=by)[0]


def recheck_many(
    video_ids: Iterable[str],
    *,
    account: str = "default",
    session: Session | None = None,
    by: str = BY_PYTHON,
) -> list[Job]:
    """Poll videos now, at all or, if one is unknown, at none; in the order of the ids."""
    with joined(session) as own:
        rows = locked(own, video_ids, account)
        return _jobs_now(own, rows, _recheck(own, rows, Entry(ActionName.RECHECK, by)))


def recheck_chosen(
    url: str,
    job_ids: Iterable[int],
    state: str | None = None,
    *,
    by: str = BY_PYTHON,
    chosen_by: Mapping[str, Any] | None = None,
) -> Iterator[Counter[str]]:
    """`recheck` the jobs with these row ids, in batches as `cancel_chosen`; counts by account."""
    entry = Entry(ActionName.RECHECK, by, chosen_by=chosen_by)
    return _in_batches(url, job_ids, partial(_recheck, entry=entry), state)


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
    columns = job_columns.jobs.c
    shared = (
        columns.account, columns.state, columns.metadata, columns.tracked_at, columns.next_poll_at,
        columns.deadline_at, columns.deadline_seconds, columns.webhook_url, columns.callback_task,
        columns.callback_queue, columns.channels, columns.events,
    )  # fmt: skip
    video_id, model = db.listed(dialect, "ids", width=2)
    values = [bindparam(column.name, type_=column.type) for column in shared]
    rows = select(video_id, model, *values).where(true())  # without it SQLite takes ON for a join's
    made = db.insert_if_absent(dialect, job_columns.jobs, "account", "video_id").from_select(
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
        "state": states.State.PENDING.value,
        "metadata": order.metadata or {},
        "tracked_at": now,
        "next_poll_at": now,
        "deadline_at": now + timedelta(seconds=deadline),
        "deadline_seconds": deadline,
        "webhook_url": order.webhook_url or default,
        "callback_task": order.callback_task,
        "callback_queue": order.callback_queue,
        "channels": order.channels or None,
        "events": list(DEFAULT_EVENTS if order.events is None else order.events),
    }


def _model(video_id: str) -> str | None:
    prefix, colon, _ = video_id.partition(":")
    return prefix if colon and prefix else None


def _find(session: Session, account: str, ids: Iterable[str]) -> Iterator[Job]:
    for chunk in chunks(ids):
        query = select(Job).where(Job.account == account, Job.video_id.in_(chunk))
        yield from session.execute(query).scalars()


def _in_batches(
    url: str,
    job_ids: Iterable[int],
    change: Callable[[Session, Sequence[Row]], Sequence[int]],
    state: str | None,
) -> Iterator[Counter[str]]:
    for chunk in chunks(sorted(job_ids)):
        with db.transaction(url) as session:
            rows = locked_by_id(session, chunk)
            changed = {*change(session, [row for row in rows if state in (None, row["state"])])}
        yield Counter(row["account"] for row in rows if row["id"] in changed)


def _jobs_now(session: Session, rows: Sequence[Row], changed: Sequence[int]) -> list[Job]:
    jobs = [job_now(session, row["id"]) for row in rows]
    for job in jobs:
        job.changed = job.id in changed
    return jobs


def _cancel(session: Session, rows: Sequence[Row], entry: Entry) -> Sequence[int]:
    """Stop tracking what has not ended; the rows are locked. Returns the ids of those."""
    decided = [(row, states.cancelled(job_columns.job_of(row))) for row in rows]
    changes = [Change(row, decision) for row, decision in decided if decision]
    now = db.now(session)
    ledger.write(session, changes, now)
    changed = [change.row["id"] for change in changes]
    entry.note(session, now, actions.of_jobs(changed))
    return changed


def _recheck(session: Session, rows: Sequence[Row], entry: Entry) -> Sequence[int]:
    """Have polled now what can change; the rows are locked. Returns the ids of those."""
    now = db.now(session)
    changes, due = [], []
    for row in rows:
        job = job_columns.job_of(row)
        decision = states.reopened(job, now)
        if decision is not None:
            changes.append(Change(row, decision, deadline_at=now + _span(row)))
        elif not job.final or job.lacks_result:
            due.append(row["id"])
    ledger.write(session, changes, now)
    _poll_now(session, due, now)
    changed = [*(change.row["id"] for change in changes), *due]
    entry.note(session, now, actions.of_jobs(changed))
    return changed


def _span(row: Row) -> timedelta:
    return timedelta(
        seconds=orders.span_of(row["deadline_seconds"], row["deadline_at"], row["tracked_at"])
    )


def _poll_now(session: Session, job_ids: Sequence[int], now: datetime) -> None:
    jobs = job_columns.jobs
    values = {"next_poll_at": now, "lease_token": None, "errors_in_row": 0, "errors_since": None}
    for chunk in chunks(job_ids):
        session.execute(jobs.update().where(jobs.c.id.in_(chunk)).values(values))
