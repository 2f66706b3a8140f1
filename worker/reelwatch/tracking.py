"""Taking in what producers say: track an id, stop tracking it, look at it again.

A job exists from the moment its row is committed. With the caller's own `session`, that is when
the caller commits: the video id and the caller's own rows are then stored together or not at all.
"""

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Executable, bindparam, select, true
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from reelwatch import accounts, db, events, ledger, lifecycle, settings
from reelwatch.answers import clean
from reelwatch.errors import NotConfigured, Refused, SettingsError, UnknownJob
from reelwatch.models import Account, Job
from reelwatch.naming import HERE, VARIABLE
from reelwatch.outbound import check_url

T = TypeVar("T")

ID_LIMIT = 200
NAME_LIMIT = 255
METADATA_LIMIT = 16 * 1024  # bytes as JSON
DEADLINE_LIMIT = 30 * 86_400.0
CHUNK = 500  # rows in one INSERT


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done about the ids of one call, checked and with defaults filled in."""

    account: accounts.Account
    webhook_url: str | None
    callback_task: str | None
    callback_queue: str | None
    metadata: Mapping[str, Any]
    deadline: float  # seconds
    events: Sequence[str]


def track(
    video_id: str,
    *,
    webhook_url: str | None = None,
    callback_task: str | None = None,
    callback_queue: str | None = None,
    account: str = "default",
    metadata: Mapping[str, Any] | None = None,
    deadline: str | float | timedelta | None = None,
    events: Iterable[str] = events.DEFAULT_EVENTS,
    session: Session | None = None,
) -> Job:
    """Track one video until its fate is known; returns its job.

    Idempotent per (account, video_id): tracking again returns the same job, unchanged; its
    `created` attribute tells. `deadline` is a span from now (`"45m"`, seconds, a timedelta). With
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
    events: Iterable[str] = events.DEFAULT_EVENTS,
    session: Session | None = None,
) -> list[Job]:
    """Track many videos in one transaction; the jobs come in the order of the ids. See `track`."""
    ids = [check_video_id(video_id) for video_id in video_ids]
    configured = settings.handing_in()
    with _joined(session) as joined:
        order = Order(
            account=_known_account(joined, configured, account),
            webhook_url=webhook_url,
            callback_task=callback_task,
            callback_queue=callback_queue,
            metadata=_checked_metadata(metadata),
            deadline=_checked_deadline(deadline, configured),
            events=_checked_events(events),
        )
        return _insert(joined, ids, _with_destinations(order, configured))


def cancel(video_id: str, *, account: str = "default", session: Session | None = None) -> Job:
    """Stop tracking a video; a job that has ended already stays as it is. Raises `UnknownJob`."""
    return cancel_many([video_id], account=account, session=session)[0]


def cancel_many(
    video_ids: Iterable[str], *, account: str = "default", session: Session | None = None
) -> list[Job]:
    """Stop tracking videos, all or, if one is unknown, none; in the order of the ids."""
    with _joined(session) as joined:
        rows, now = _locked(joined, video_ids, account), db.now(joined)
        decided = [(row, lifecycle.cancelled(ledger.job_of(row))) for row in rows]
        ledger.write(joined, [ledger.Change(row, done) for row, done in decided if done], now)
        return [_job(joined, row["id"]) for row in rows]


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
    with _joined(session) as joined:
        rows, now = _locked(joined, video_ids, account), db.now(joined)
        for row in rows:
            job = ledger.job_of(row)
            decision = lifecycle.reopened(job, now)
            if decision is not None:
                renewed = now + _deadline_span(row)
                ledger.write(joined, [ledger.Change(row, decision, deadline_at=renewed)], now)
            elif not job.final or job.lacks_result:
                _look_now(joined, row["id"], now)
        return [_job(joined, row["id"]) for row in rows]


def sync_accounts(configured: settings.Settings) -> None:
    """Give every configured account its row, at start, so that no producer has to wait for it."""
    for account in configured.accounts.values():
        with db.transaction(configured.database_url) as session:
            _ensure_account(session, account)


# ------------------------------------------------------------------ checks


def check_video_id(video_id: object) -> str:
    """The id without blanks around it. Raises `Refused`."""
    if not isinstance(video_id, str):
        raise Refused(f"video id: {video_id!r} is not a text")
    stripped = video_id.strip(" ")
    if not stripped:
        raise Refused("video id: it is empty")
    if len(stripped) > ID_LIMIT:
        raise Refused(f"video id: {len(stripped)} characters, at most {ID_LIMIT} are accepted")
    _refuse_controls("video id", stripped)
    return stripped


def _refuse_controls(what: str, text: str) -> None:
    for character in text:
        if unicodedata.category(character).startswith("C"):
            raise Refused(f"{what}: it holds the control character U+{ord(character):04X}")


def _known_account(session: Session, configured: settings.Settings, name: str) -> accounts.Account:
    """The account, if this process's configuration or, through the database, a worker's has it."""
    if not isinstance(name, str) or not accounts.ACCOUNT_NAME.fullmatch(name):
        raise Refused(f"account: {name!r} is no name (letters, digits, '.', '_', '-', at most 64)")
    known = configured.accounts
    if name in known:
        return known[name]
    if _has_row(session, name):
        return accounts.Account(name, "", None, configured.requests_per_second)
    raise NotConfigured(
        f"account: {name!r} is not configured; known: {', '.join(sorted(known))} "
        "(REELWATCH_ACCOUNTS_FILE names more)"
    )


def _checked_metadata(metadata: object) -> Mapping[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise Refused(f"metadata: a JSON object is accepted, not {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
        size = len(text.encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"metadata: not JSON: {error}") from None
    if size > METADATA_LIMIT:
        raise Refused(f"metadata: {size} bytes as JSON, at most {METADATA_LIMIT} are accepted")
    cleaned: Mapping[str, Any] = clean(json.loads(text))
    return cleaned


def _checked_deadline(deadline: object, configured: settings.Settings) -> float:
    if deadline is None:
        return configured.deadline
    try:
        seconds = (
            deadline.total_seconds()
            if isinstance(deadline, timedelta)
            else settings.parse_duration(deadline)
        )
    except ValueError:
        raise Refused(f"deadline: {deadline!r}; accepted: {settings.DURATION_FORMS}") from None
    if not math.isfinite(seconds) or not 0 < seconds <= DEADLINE_LIMIT:
        raise Refused(f"deadline: {deadline!r}; accepted: more than 0, at most 30d")
    return seconds


def _checked_events(names: object) -> Sequence[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise Refused(f"events: a list is accepted, not {names!r}")
    return events.check_events(names)


def _with_destinations(order: Order, configured: settings.Settings) -> Order:
    """The order with its callback checked and its webhook checked or taken from the defaults."""
    for what, name in (
        ("callback_task", order.callback_task),
        ("callback_queue", order.callback_queue),
    ):
        _check_name(what, name)
    if order.callback_task and "@" in order.callback_task:
        raise Refused(
            f"callback_task: {order.callback_task!r} holds an '@'; callback_queue has its own name"
        )
    if order.callback_queue and not order.callback_task:
        raise Refused("callback_queue: it is given without a callback_task")
    given = order.webhook_url
    if not isinstance(given, str | None):
        raise Refused(f"webhook_url: {given!r} is not a text")
    url = given if given is not None else order.account.webhook_url
    if url is None:
        return order
    return Order(
        **{name: getattr(order, name) for name in Order.__slots__ if name != "webhook_url"},
        webhook_url=check_url(url, configured.allowlist),
    )


def _check_name(what: str, name: object) -> None:
    if name is None:
        return
    if not isinstance(name, str) or not name or len(name) > NAME_LIMIT:
        raise Refused(f"{what}: {name!r}; accepted: 1 to {NAME_LIMIT} characters")
    _refuse_controls(what, name)


# -------------------------------------------------------------------- rows


@contextmanager
def _joined(session: Session | None) -> Iterator[Session]:
    if session is not None:
        _check_place(session)
        try:
            yield session
            session.flush()
        except DBAPIError as error:
            if not any(sign in db.said_by(error.orig) for sign in (*db.NO_TABLE, *db.NO_COLUMN)):
                raise
            said = str(error.orig).partition("\n")[0]
            raise db.NotMigrated(
                f"the session's database has not Reelwatch's tables in this place ({said}): "
                f"run `reelwatch migrate` there, and set {VARIABLE} here as its workers have it"
            ) from error
        return
    with db.transaction(settings.handing_in().database_url) as own:
        yield own


def _check_place(session: Session) -> None:
    """Raises `SettingsError` where our tables can't be what they are called here."""
    if HERE.guessed and db.dialect(session) == "postgresql":
        raise SettingsError(
            f"{VARIABLE}: with a name alone DATABASE_URL has to say that it is a schema of "
            "PostgreSQL; set it in this process too"
        )


def _insert(session: Session, ids: Sequence[str], order: Order) -> list[Job]:
    _ensure_account(session, order.account)
    now = db.now(session)
    jobs: dict[str, Job] = {}
    statement = _insertion(db.dialect(session))
    for chunk in _chunks(sorted(ids)):  # all producers in one order: none waits in a circle
        made = session.scalars(statement, _values(chunk, order, now))
        jobs.update((job.video_id, job) for job in made)
    for job in jobs.values():
        job.created = True
    for job in _find(session, order.account.name, [each for each in ids if each not in jobs]):
        job.created = False
        jobs[job.video_id] = job
    return [jobs[video_id] for video_id in ids]


def _chunks(ids: Iterable[T]) -> Iterator[Sequence[T]]:
    """The distinct ids, in order, in parts that fit one statement."""
    distinct = list(dict.fromkeys(ids))
    return (distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK))


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


def _values(ids: Sequence[str], order: Order, now: datetime) -> dict[str, Any]:
    return {
        "ids": json.dumps([(each, _model(each)) for each in ids]),
        "account": order.account.name,
        "state": lifecycle.State.PENDING.value,
        "metadata": order.metadata,
        "tracked_at": now,
        "next_poll_at": now,
        "deadline_at": now + timedelta(seconds=order.deadline),
        "deadline_seconds": order.deadline,
        "webhook_url": order.webhook_url,
        "callback_task": order.callback_task,
        "callback_queue": order.callback_queue,
        "events": list(order.events),
    }


def _model(video_id: str) -> str | None:
    prefix, colon, _ = video_id.partition(":")
    return prefix if colon and prefix else None


def _ensure_account(session: Session, account: accounts.Account) -> None:
    if _has_row(session, account.name):
        return
    url = settings.handing_in().database  # whoever brings a session may name none
    if url and db.dialect(session) == "postgresql":
        # Committed at once: everybody else's first job of the account waits for its row, and the
        # caller's transaction may stay open for long.
        with suppress(SQLAlchemyError), db.transaction(url) as own:
            _add_account(own, account)
    if not _has_row(session, account.name):  # SQLite; or the caller is in another database
        _add_account(session, account)


def _has_row(session: Session, account: str) -> bool:
    return session.execute(select(Account.name).where(Account.name == account)).first() is not None


def _add_account(session: Session, account: accounts.Account) -> None:
    statement = db.insert_if_absent(db.dialect(session), Account, "name")
    session.execute(
        statement.values(name=account.name, requests_per_second=account.requests_per_second)
    )


def _find(session: Session, account: str, ids: Iterable[str]) -> Iterator[Job]:
    for chunk in _chunks(ids):
        query = select(Job).where(Job.account == account, Job.video_id.in_(chunk))
        yield from session.execute(query).scalars()


def _locked(session: Session, video_ids: Iterable[str], account: str) -> list[dict[str, Any]]:
    """The jobs' rows in the order of the ids, locked in the one order in which all lock them."""
    jobs, wanted = ledger.jobs, list(dict.fromkeys(video_ids))
    found: dict[str, int] = {}
    for chunk in _chunks(wanted):
        query = select(jobs.c.video_id, jobs.c.id).where(jobs.c.account == account)
        found.update(map(tuple, session.execute(query.where(jobs.c.video_id.in_(chunk)))))
    for video_id in wanted:
        if video_id not in found:
            raise UnknownJob(f"no job {video_id!r} is tracked for the account {account!r}")
    rows: dict[str, dict[str, Any]] = {}
    for job_ids in _chunks(sorted(found.values())):
        these = select(jobs).where(jobs.c.id.in_(job_ids)).order_by(jobs.c.id)
        for row in session.execute(these.with_for_update(key_share=True)).mappings():
            rows[row["video_id"]] = dict(row)
    return [rows[video_id] for video_id in wanted]


def _deadline_span(row: Mapping[str, Any]) -> timedelta:
    """The span that the producer gave the job, however often it has been renewed since."""
    if row["deadline_seconds"] is not None:
        return timedelta(seconds=row["deadline_seconds"])
    span: timedelta = row["deadline_at"] - row["tracked_at"]  # a row of an older release
    return span


def _look_now(session: Session, job_id: int, now: datetime) -> None:
    jobs = ledger.jobs
    values = {"next_poll_at": now, "lease_token": None, "errors_in_row": 0, "errors_since": None}
    session.execute(jobs.update().where(jobs.c.id == job_id).values(values))


def _job(session: Session, job_id: int) -> Job:
    return session.get_one(Job, job_id, populate_existing=True)
