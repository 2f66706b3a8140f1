"""What rows of jobs and events are told by: when each is polled or sent next, and why then.

Reads what `outlook` needs to know, for many rows at once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import literal, select
from sqlalchemy.orm import Session

from reelwatch.rules import outlook
from reelwatch.rules.outlook import Expected, Hold, Ticks, Traffic
from reelwatch.rules.rests import rest_of
from reelwatch.storage import destinations, heartbeat, standings
from reelwatch.storage.counts import counted
from reelwatch.storage.models import table_of

Row = dict[str, Any]

accounts = table_of("accounts")
jobs = table_of("jobs")

IDS_AT_ONCE = 500  # values in one IN list


def of_jobs(session: Session, rows: Sequence[Mapping[str, Any]], now: datetime) -> list[Row]:
    """For each row of `jobs`: `next_poll_expected_at` and `next_poll_reason`, both may be None, and
    whether that is about its account: `next_poll_held_by_account`.
    """
    waiting = [row for row in rows if row["next_poll_at"] is not None]
    if not waiting:
        return [_poll(None) for _ in rows]
    ticks = heartbeat.ticks(session, now)
    leased = _leased(session, [row["id"] for row in waiting])
    traffic = _traffic(session, {row["account"] for row in waiting}, now)
    return [
        _poll(
            None
            if row["next_poll_at"] is None
            else outlook.next_poll(
                row["next_poll_at"], traffic[row["account"]], ticks, leased=row["id"] in leased
            )
        )
        for row in rows
    ]


def of_deliveries(session: Session, rows: Sequence[Mapping[str, Any]], now: datetime) -> list[Row]:
    """For each row of `deliveries`: `next_attempt_expected_at` and `next_attempt_reason`."""
    owed = [row["id"] for row in rows if row["next_attempt_at"] is not None]
    tries = destinations.next_tries(session, owed, now) if owed else {}
    ticks = heartbeat.ticks(session, now) if owed else Ticks(None, now)
    found = []
    for row in rows:
        tried = tries.get(row["id"])
        expected = None
        if tried is not None:
            endpoint = destinations.shown(row["target"])
            hold = Hold(tried.at, tried.wait, endpoint, tried.failures)
            expected = outlook.next_attempt(row["next_attempt_at"], hold, ticks)
        found.append(_attempt(expected))
    return found


def when_asked(session: Session, account: str, now: datetime) -> str:
    """When a job of the account is polled that is to be polled at once: `now`, unless it pauses."""
    for row in standings.rows_now(session, now, [account]):
        pause = rest_of(row, now) if row["pause_reason"] is not None else None
        if pause is not None:
            return outlook.once_resumed(account, pause, now)
    return "now"


def _poll(expected: Expected | None) -> Row:
    return {
        "next_poll_expected_at": expected and expected.at,
        "next_poll_reason": expected and expected.reason,
        "next_poll_held_by_account": expected is not None and expected.by_account,
    }


def _attempt(expected: Expected | None) -> Row:
    return {
        "next_attempt_expected_at": expected and expected.at,
        "next_attempt_reason": expected and expected.reason,
    }


def _leased(session: Session, ids: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for start in range(0, len(ids), IDS_AT_ONCE):
        chosen = jobs.c.id.in_(ids[start : start + IDS_AT_ONCE])
        query = select(jobs.c.id).where(chosen, jobs.c.lease_token.is_not(None))
        found.update(session.scalars(query))
    return found


def _traffic(session: Session, names: set[str], now: datetime) -> dict[str, Traffic]:
    due = _due(session, names, now)
    return {
        row["name"]: Traffic(
            row["name"],
            row["requests_per_second"],
            slowed=row["slowed_at"] is not None,
            due=due[row["name"]],
            rest=rest_of(row, now),
        )
        for row in standings.rows_now(session, now, names)
    }


def _due(session: Session, names: set[str], now: datetime) -> dict[str, int]:
    """How many jobs of each account are due, up to `COUNT_MOST`."""
    due = select(literal(1)).select_from(jobs).correlate(accounts)
    mine = due.where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at <= now)
    query = select(accounts.c.name, counted(mine).scalar_subquery())
    found = session.execute(query.where(accounts.c.name.in_(names)))
    return {name: int(count) for name, count in found}
