"""The statements of a claim: an account's row, its due jobs, and the lease on those it takes.

They are made once: putting one together takes as long as the database takes for it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    func,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import states
from reelwatch.rules.timing import priority
from reelwatch.storage import list_parameters
from reelwatch.storage.job_columns import jobs
from reelwatch.storage.models import table_of
from reelwatch.storage.models.base import DriverTime, UtcDateTime
from reelwatch.storage.standings import Moment, has_due_jobs, is_awake

accounts = table_of("accounts")

# Columns needed only when a poll records a transition; most polls don't, so the claim leaves them
# out.
TRANSITION_COLUMNS = (
    jobs.c.video_url, jobs.c.metadata, jobs.c.webhook_url, jobs.c.callback_task,
    jobs.c.callback_queue, jobs.c.channels, jobs.c.events, jobs.c.error_message,
    jobs.c.deadline_seconds,
    jobs.c.error_request_id, jobs.c.upstream_finished_at, jobs.c.finished_at, jobs.c.abandoned_at,
)  # fmt: skip
CLAIM_NAMES = tuple(column.name for column in jobs.c if column not in set(TRANSITION_COLUMNS))
CLAIM_COLUMNS = tuple(
    type_coerce(jobs.c[name], DriverTime()).label(name)
    if isinstance(jobs.c[name].type, UtcDateTime)
    else jobs.c[name]
    for name in CLAIM_NAMES
)
# Statements are made once: putting one together takes as long as the database takes for it.
ACCOUNT = (
    select(accounts)
    .where(accounts.c.name == bindparam("name"))
    # NO KEY: a producer's open transaction, whose new job refers to this row, must not block polls.
    .with_for_update(key_share=True)
)
# The clock is read outside: when the row is locked, and nothing is left to wait for.
ACCOUNT_NOW = select(ACCOUNT.subquery("locked"), func.clock_timestamp(type_=UtcDateTime()))
DUE = (
    select(*CLAIM_COLUMNS)
    .where(jobs.c.account == bindparam("name"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True, key_share=True)
)
# Who finds out whether an account works again: a job that was well, or has the fewest errors.
PROBE = DUE.order_by(None).order_by(
    jobs.c.errors_in_row, jobs.c.last_polled_at.is_(None), jobs.c.next_poll_at, jobs.c.id
)
LEASED = (
    update(jobs)
    .where(list_parameters.among(jobs.c.id, "ids"))
    .values(next_poll_at=bindparam("until"), lease_token=bindparam("token"))
)
RESTS = select(accounts.c.name).where(
    accounts.c.name == bindparam("name"), accounts.c.pause_reason.is_not(None)
)
WHOLE = select(jobs).where(list_parameters.among(jobs.c.id, "ids"))
RANKED_MOST = 500  # due jobs that claims choose from, the longest due ones
RIVALS = (
    select(*(jobs.c[name] for name in priority.COLUMNS))
    .where(jobs.c.account == bindparam("name"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(RANKED_MOST)
)
CHOSEN = (
    select(*CLAIM_COLUMNS)
    .where(list_parameters.among(jobs.c.id, "ids"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .with_for_update(skip_locked=True, key_share=True)
)

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
OVERDUE_MOST = 500
OVERDUE = (
    select(jobs)
    .where(
        jobs.c.account == bindparam("name"),
        jobs.c.next_poll_at <= bindparam("due_by"),
        jobs.c.deadline_at <= bindparam("now"),
        or_(
            jobs.c.state.in_([states.State.PENDING, states.State.RUNNING]),
            and_(jobs.c.state == states.State.EXPIRED, jobs.c.tracked_at <= bindparam("long_ago")),
        ),
    )
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(OVERDUE_MOST)
    .with_for_update(skip_locked=True, key_share=True)
)


def due_accounts(now: Moment) -> Select[str]:
    """The accounts that have jobs due, may ask, and whose present no worker has reserved."""
    return select(accounts.c.name).where(
        is_awake(now),
        or_(accounts.c.next_slot_at.is_(None), accounts.c.next_slot_at <= now),
        has_due_jobs(now),
    )


def resting_accounts(now: Moment) -> Select[str]:
    """The accounts that rest while they have jobs due."""
    return select(accounts.c.name).where(accounts.c.pause_reason.is_not(None), has_due_jobs(now))


def locked_account(session: Session, name: str) -> RowMapping:
    return session.execute(ACCOUNT, {"name": name}).mappings().one()


def account_now(connection: Connection, name: str) -> tuple[RowMapping, datetime]:
    """The account's row, locked, and the database's time after that."""
    if connection.dialect.name == "sqlite":
        return connection.execute(ACCOUNT, {"name": name}).mappings().one(), datetime.now(UTC)
    row = connection.execute(ACCOUNT_NOW, {"name": name}).one()
    return row._mapping, row[-1]


def lease(
    connection: Connection,
    job_ids: Sequence[int],
    until: datetime,
    token: str,
    account: RowMapping,
    values: Mapping[str, Any],
) -> None:
    """Give these jobs to whoever has the token, and write the values to their account."""
    leased: dict[str, Any] = {"ids": job_ids, "until": until, "token": token}
    is_new = any(account[name] != value for name, value in values.items())
    told = {"of": account["name"], **values} if is_new else {}
    if job_ids and told and connection.dialect.name != "sqlite":
        connection.execute(_leased_with(tuple(values)), leased | told)
        return
    if told:
        connection.execute(_account_update(tuple(values)), told)
    if job_ids:
        connection.execute(LEASED, leased)


@lru_cache(20)
def _leased_with(columns: tuple[str, ...]) -> Update:
    return LEASED.add_cte(_account_update(columns).cte("account"))


def write_account(session: Session, row: RowMapping, values: Mapping[str, Any]) -> None:
    if any(row[name] != value for name, value in values.items()):
        session.execute(_account_update(tuple(values)), {"of": row["name"], **values})


@lru_cache(20)
def _account_update(columns: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    return update(accounts).where(accounts.c.name == bindparam("of")).values(values)


def taken_by(
    connection: Connection, statement: Select[Any], values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of jobs that a claim's statement locks, by the names of `CLAIM_NAMES`."""
    rows = connection.execute(statement, values)
    return [dict(zip(CLAIM_NAMES, row, strict=True)) for row in rows]
