"""Accounts as they stand at a moment: their rows, with the rate that is in force then.

A row is written when the account is claimed for. While none of its jobs is due nobody claims, and
the rate that upstream's 429s have cut comes back all the same.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.rules.notices import NoticeType
from reelwatch.rules.standing import row_now
from reelwatch.storage.models import table_of

accounts = table_of("accounts")
incidents = table_of("incidents")
jobs = table_of("jobs")

Moment = datetime | ColumnElement[datetime]


def is_awake(now: Moment) -> ColumnElement[bool]:
    """Of a row of `accounts`: nobody has paused it, and it does not rest, but for a probe."""
    return or_(accounts.c.pause_reason.is_(None), accounts.c.paused_until <= now)


def awake_since() -> Select[str, datetime]:
    """By name, since when each account that has rested may be asked again, if it may.

    One that is about to be probed may be since its rest was over.
    """
    each = accounts.alias()
    ended = and_(
        incidents.c.kind == NoticeType.ACCOUNT_PAUSED.value,
        incidents.c.subject == each.c.name,
        ~incidents.c.open,
    )
    since = func.coalesce(each.c.paused_until, incidents.c.at)
    return select(each.c.name, since.label("since")).outerjoin(incidents, ended)


def has_due_jobs(now: Moment) -> ColumnElement[bool]:
    """Of a row of `accounts`: the time of one of its jobs has come."""
    return exists().where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at <= now)


def rows_now(
    session: Session, now: datetime, names: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The rows of all accounts, or of these, by name, as they stand at `now`.

    `configured_rate` is that of the workers, who may be configured otherwise than this process; its
    own before any has claimed. Of an account that neither knows it is None, and the rate is the one
    that was written down last.
    """
    query = select(accounts).order_by(accounts.c.name)
    if names is not None:
        query = query.where(accounts.c.name.in_(names))
    own, rows = settings.handing_in().accounts, []
    for row in session.execute(query).mappings():
        here = own.get(row["name"])
        rate = row["configured_rate"] or (here.requests_per_second if here else None)
        rows.append(row_now(row, rate, now) | {"configured_rate": rate})
    return rows
