"""Claiming: due jobs of an account, each with a slot within its rate.

A claim pushes `next_poll_at` ahead by the lease and marks the row with a token. When more jobs are
due than there are slots, those go first whose polls are worth most.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.config.accounts import Account as Configured
from reelwatch.jobs import fanout
from reelwatch.rules import deadlines
from reelwatch.rules.account import HORIZON, reserve, room
from reelwatch.rules.standing import Standing
from reelwatch.rules.timing import priority
from reelwatch.rules.timing.planner import Plans
from reelwatch.storage.due_jobs import (
    CHOSEN,
    DUE,
    PROBE,
    RIVALS,
    account_now,
    lease,
    taken_by,
)

LEASE = timedelta(seconds=30)  # longer than waiting for a slot, asking and writing down together
LATE = 0.05  # seconds of them that the worker itself may be late for a slot
AT_ONCE = 0.01  # seconds; what takes longer to lock has waited for somebody
LEAD_MIN = 0.02  # seconds from a claim to its first slot: what the commit takes, at least
TRICKLE_AGAIN = 0.25  # seconds until one that found less than it could have taken asks again
IDLE_AGAIN = 0.5  # seconds until a batch that found nothing due, with polls in hand, asks again
PAUSED_AGAIN = 60.0  # seconds until one whose account somebody paused asks again

RANKED_FOR = timedelta(seconds=1)  # how long they go by one order
PRICE_MOST = 1e6  # seconds; a deadline that has passed is beyond all price
SHORT = 4.0  # times its price: so much more worth are polls that a short budget makes wait


@dataclass(frozen=True, slots=True)
class Slot:
    """When, by this process's monotonic clock, a poll may be sent."""

    opens: float
    closes: float
    at: datetime | None = None  # when it opens, by the database's clock

    def now(self) -> datetime | None:
        """What the database's clock says now; None if that is not known."""
        return self.at and self.at + timedelta(seconds=time.monotonic() - self.opens)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job to poll."""

    row: Mapping[str, Any]  # CLAIM_COLUMNS of it
    slot: Slot
    probe: bool = False  # the account was paused: this poll finds out whether it works again
    suspected: bool = False  # something was refused: does this poll work?


def claim(
    session: Session,
    account: Configured,
    limit: int,
    lead: float = LEAD_MIN,
    now: datetime | None = None,
    rules: deadlines.Rules | None = None,
    order: priority.Order | None = None,
) -> fanout.Batch[Claimed]:
    """Take up to `limit` due jobs of the account, each with a slot within its rate.

    If the rate allows no more while more are due, those whose polls are worth most by the rules'
    plans: who is likely to have ended for a while. The `order` is the one of the claim before, and
    is kept up to date.
    """
    rules = rules or deadlines.Rules()
    connection = session.connection()
    row, clock = _begin(connection, account.name, now)
    stored = Standing.of(row)
    if stored.by_hand:
        return fanout.Batch([], PAUSED_AGAIN)
    until = stored.paused_until
    if until is not None and until > clock.now:
        return fanout.Batch([], (until - clock.now).total_seconds())
    probe = stored.rests
    standing = stored.now(account.requests_per_second, clock.now)
    free = room(standing, clock.now, lead)
    wanted = min(1 if probe else limit, free.count)
    taken, price = _take(
        connection, row, wanted, clock.now, rules.plans, order or priority.Order(),
        ranked=free.count <= limit, probe=probe,
    )  # fmt: skip
    standing, slots = reserve(standing, len(taken), free)
    if taken and probe:  # one at a time; the next one if this one's worker dies
        standing = standing.probing(clock.now + LEASE)
    paid = {"look_price": price} if wanted and not probe else {}
    token = secrets.token_hex(16)
    if taken:  # with the slots, which are written then: it costs no statement of its own
        paid["configured_rate"] = account.requests_per_second
    ids, values = [each["id"] for each in taken], standing.changed(stored) | paid
    lease(connection, ids, clock.now + LEASE, token, row, values)
    claimed = [
        Claimed(each | {"lease_token": token}, clock.slot(at), probe, standing.suspected)
        for each, at in zip(taken, slots, strict=True)
    ]
    ahead = free.first + free.distance * len(taken) - clock.now
    return fanout.Batch(claimed, _again(claimed, wanted, ahead))


@dataclass(frozen=True, slots=True)
class _Clock:
    """Ties the database's clock to this process's monotonic one, whatever its wall clock says.

    The database read `now` somewhere between `before` and `after`. A slot therefore opens by the
    later bound and closes by the earlier one: the poll is sent neither early nor late.
    """

    now: datetime
    before: float
    after: float

    def slot(self, at: datetime) -> Slot:
        wait = (at - self.now).total_seconds()
        return Slot(self.after + wait, self.before + wait + LATE, at)


def _begin(connection: Connection, name: str, now: datetime | None) -> tuple[RowMapping, _Clock]:
    """The account's row, locked, and the database's time, or the given one, as of then."""
    for _ in range(2):
        before = time.monotonic()
        row, found = account_now(connection, name)
        clock = _Clock(now or found, before, time.monotonic())
        if clock.after - before < AT_ONCE:
            break  # else somebody else had the row, and the clock was read who knows when
    return row, clock


def _take(
    connection: Connection,
    account: RowMapping,
    count: int,
    now: datetime,
    plans: Plans,
    order: priority.Order,
    *,
    ranked: bool,
    probe: bool,
) -> tuple[list[dict[str, Any]], float]:
    """Up to so many due jobs, locked; and the price of a poll: 0 while there are slots enough.

    If there are more, those that are worth most, or, not `ranked`, those that are due longest.
    """
    if not count:
        return [], 0.0
    due = {"name": account["name"], "now": now}
    if probe:
        return taken_by(connection, PROBE, {**due, "count": count}), 0.0
    if not (ranked and account["look_price"]):
        rows = taken_by(connection, DUE, {**due, "count": count + 1})
        if len(rows) <= count:
            return rows, 0.0
        if not ranked:
            last = rows[count - 1]
            return rows[:count], _price(priority.gain(last, plans, now), plans)
    if order.holds(count, now):
        rows, worth = _next_of(connection, order, count, now)
        if len(rows) == count:
            return rows, _price(worth, plans)
        # Others have taken some of them meanwhile: more may be due.
    found = connection.execute(RIVALS, due)
    rivals = [dict(zip(priority.COLUMNS, row, strict=True)) for row in found]
    order.ranked, order.until = priority.best_first(rivals, plans, now), now + RANKED_FOR
    rows, worth = _next_of(connection, order, count, now)
    return rows, _price(worth, plans) if len(rivals) > count else 0.0


def _next_of(
    connection: Connection, order: priority.Order, count: int, now: datetime
) -> tuple[list[dict[str, Any]], float]:
    """The rows of the next so many, locked, as far as they are free and due still; and what the
    last of them is worth.
    """
    ids, worth = order.take(count)
    rows = taken_by(connection, CHOSEN, {"ids": ids, "now": now}) if ids else []
    return rows, worth


def _price(worth: float, plans: Plans) -> float:
    """What a poll costs where the last one to be made is worth that; 0: no more than usual."""
    return min(worth, PRICE_MOST) if worth > SHORT * plans.least_price else 0.0


def _again(claimed: Sequence[Claimed], wanted: int, ahead: timedelta) -> float:
    """Seconds until the next claim: before the reserved slots run out, or when more may be due."""
    least = 0.0 if len(claimed) == wanted else TRICKLE_AGAIN if claimed else IDLE_AGAIN
    return max(least, ahead.total_seconds() - HORIZON / 2)
