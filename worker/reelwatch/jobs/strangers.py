"""Webhooks of accounts that are not configured here: left to the workers that know their secrets.

Only they can tell what such an account's events are signed with; anything else would be refused by
its receiver, or verified by somebody else's.
"""

import math
import time
from collections.abc import Collection, Iterable
from datetime import datetime

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reelwatch.storage.destinations import deliveries, is_due
from reelwatch.storage.filters import accounts, jobs

log = structlog.get_logger(__name__)

SAID_EVERY = 60.0  # seconds

_said: dict[str, float] = {}  # when that was said last of a database, by our monotonic clock


def left(session: Session, configured: Iterable[str], now: datetime) -> Collection[str] | None:
    """The accounts whose webhooks may be claimed here; None: those of all that there are.

    Says now and then what is due and left to others.
    """
    known = set(configured)
    if known.issuperset(session.scalars(select(accounts.c.name))):
        return None
    place = str(session.get_bind())
    if _said.get(place, -math.inf) < time.monotonic() - SAID_EVERY:
        _said[place] = time.monotonic()
        _say(session, known, now)
    return known


def _say(session: Session, known: Collection[str], now: datetime) -> None:
    due = (
        select(jobs.c.account, func.count().label("events"))
        .join(deliveries, deliveries.c.job_id == jobs.c.id)
        .where(is_due(now), deliveries.c.channel == "webhook", jobs.c.account.not_in(known))
        .group_by(jobs.c.account)
        .order_by(jobs.c.account)
    )
    reason = "REELWATCH_ACCOUNTS_FILE does not name it"
    for row in session.execute(due):
        log.warning("events_left_to_others", account=row.account, events=row.events, reason=reason)
