"""Accounts: their rate, what holds them up, how much waits for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules.rests import BY_HAND, rest_of
from reelwatch.storage import actions, db, overviews, standings
from reelwatch.storage.overviews import COUNT_MOST, Counts
from reelwatch.web.pages.now import Begun, Fact, account_fact, begun


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account. `configured` None: this process does not know it."""

    name: str
    rate: float
    configured: float | None
    fact: Fact | None
    paused: bool
    by_hand: bool
    paused_by: str | None
    held: bool
    limited_at: datetime | None
    refused_rate: float | None
    counts: Counts

    @property
    def share(self) -> float:
        """Of the configured rate, how much is in force; 0 to 1."""
        return min(1.0, self.rate / self.configured) if self.configured else 1.0


@dataclass(frozen=True, slots=True)
class Accounts:
    """The page."""

    rows: Sequence[AccountRow]
    most: int = COUNT_MOST


def view(session: Session) -> Accounts:
    """All accounts."""
    now = db.now(session)
    rows = standings.rows_now(session, now)
    counts = overviews.open_by_account(session, [row["name"] for row in rows], now)
    since = begun(session)
    return Accounts([_row(session, row, counts[row["name"]], now, since) for row in rows])


def _row(
    session: Session,
    row: Mapping[Any, Any],
    counts: Counts,
    now: datetime,
    since: Begun,
) -> AccountRow:
    rest = rest_of(row, now)
    by_hand = bool(rest and rest.reason.startswith(BY_HAND))
    return AccountRow(
        name=row["name"],
        rate=row["requests_per_second"],
        configured=row["configured_rate"],
        fact=account_fact(row, now, since),
        paused=row["pause_reason"] is not None,
        by_hand=by_hand,
        paused_by=actions.paused_by(session, row["name"]) if by_hand else None,
        held=rest is not None,
        limited_at=row["limited_at"],
        refused_rate=row["refused_rate"],
        counts=counts,
    )
