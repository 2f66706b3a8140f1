"""Polls that brought nothing new, as most do: one statement for all of a batch.

The database counts, and the arrays are written out as texts: the driver would take each value
through a converter of its own, which costs several times as much.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Insert,
    Integer,
    String,
    bindparam,
    cast,
    column,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from reelwatch.rules.metrics import Tally
from reelwatch.storage import counters, db
from reelwatch.storage.job_columns import TOKENS, jobs
from reelwatch.storage.models.base import UtcDateTime


class Postponed(NamedTuple):
    """A job that is polled again when it is due; the token is its claim's, if it has one."""

    id: int
    token: str | None
    due: datetime


_DUE = UtcDateTime()
_NEW = (
    func.unnest(
        cast(bindparam("ids", type_=String()), ARRAY(BigInteger())),
        cast(bindparam("tokens", type_=String()), ARRAY(String())),
        cast(bindparam("dues", type_=String()), ARRAY(_DUE.impl_instance)),
    )
    .table_valued(
        column("id", BigInteger()), column("token", String()), column("due", _DUE), name="new"
    )
    .render_derived()
)
_VALUES = {
    "last_polled_at": bindparam("at", type_=_DUE),
    "polls": jobs.c.polls + 1,
    "lease_token": null(),
}
POSTPONE_ALL = update(jobs).where(jobs.c.id == _NEW.c.id).values(next_poll_at=_NEW.c.due, **_VALUES)
POSTPONE_ONE = (
    update(jobs)
    .where(jobs.c.id == bindparam("row_id"))
    .values(next_poll_at=bindparam("due", type_=_DUE), **_VALUES)
)


def postpone(session: Session, rows: Sequence[Postponed], at: datetime) -> None:
    """Count a poll at `at` for each of these jobs, release it, and have it due when it says.

    The rows are locked.
    """
    if not rows:
        return
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        values = [{"row_id": row.id, "due": row.due, "at": at} for row in rows]
        connection.execute(POSTPONE_ONE, values)
    else:
        connection.execute(POSTPONE_ALL, _lists(rows) | {"at": at})


def settle(session: Session, rows: Sequence[Postponed], at: datetime, tally: Tally) -> bool:
    """The same for rows that are not locked yet, and the tally added: a whole transaction's work.

    False, and nothing is written, where one of them bears another token or is locked.
    """
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        values = {"at": at, "count": len(rows), **counters.lists(session, tally)}
        return connection.execute(SETTLE_ALL, _lists(rows) | values).first() is not None
    tokens = {row.id: row.token for row in rows}
    if len(tokens) < len(rows) or db.tokens_now(session, TOKENS, tokens) != tokens:
        return False
    postpone(session, rows, at)
    counters.add(session, tally)
    return True


def _settle_all() -> Insert:
    held = (
        select(jobs.c.id)
        .where(jobs.c.id == _NEW.c.id, jobs.c.lease_token == _NEW.c.token)
        .order_by(jobs.c.id)
        .with_for_update(of=jobs, key_share=True, skip_locked=True)
        .cte("held")
    )
    count = select(func.count()).select_from(held).scalar_subquery()
    all_held = count == bindparam("count", type_=Integer())
    postponed = POSTPONE_ALL.where(all_held).cte("postponed")
    added = counters.all_at_once(all_held).returning(counters.counters.c.shard)
    return added.add_cte(postponed)


def _lists(rows: Sequence[Postponed]) -> dict[str, Any]:
    return {
        "ids": f"{{{','.join(str(row.id) for row in rows)}}}",
        "tokens": f"{{{','.join(str(row.token) for row in rows)}}}",
        "dues": f"{{{','.join(row.due.isoformat() for row in rows)}}}",
    }


SETTLE_ALL = _settle_all()
