"""Accounts: their rate, what holds them up, how much waits for them; first those in trouble."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules import outlook
from reelwatch.rules.rests import BY_HAND, rest_of
from reelwatch.storage import actions, db, overviews, standings
from reelwatch.storage.overviews import COUNT_MOST, Counts
from reelwatch.web.pages.facts import Begun, Fact, account_fact, begun
from reelwatch.web.pages.words import capitalized, many

FEW = 3  # accounts: so many have a card each, more of them a table


class Trouble(IntEnum):
    """In the order in which accounts are shown."""

    PAUSED = 0
    PAUSED_BY_HAND = 1
    SLOWED = 2
    LATE = 3
    NONE = 4


HOW: Mapping[Trouble, str] = {
    Trouble.PAUSED: "paused",
    Trouble.PAUSED_BY_HAND: "paused",
    Trouble.SLOWED: "slowed",
    Trouble.LATE: "polls are late",
    Trouble.NONE: "polls as configured",
}
IN_SUMMARY = (  # the words of `HOW`, of one and of more
    ("paused", "is paused", "are paused"),
    ("slowed", "is slowed", "are slowed"),
    ("polls are late", "has late polls", "have late polls"),
    ("polls as configured", "polls as configured", "poll as configured"),
)


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
    def trouble(self) -> Trouble:
        """What somebody should look at first has the lowest number."""
        if self.paused:
            return Trouble.PAUSED_BY_HAND if self.by_hand else Trouble.PAUSED
        if self.fact:
            return Trouble.SLOWED
        return Trouble.LATE if self.counts.late else Trouble.NONE

    @property
    def said(self) -> str:
        """How it is, in short."""
        return HOW[self.trouble]

    @property
    def kind(self) -> str:
        """As `Fact.kind`."""
        kinds = {Trouble.PAUSED: "bad", Trouble.NONE: "well"}
        return kinds.get(self.trouble, "odd")

    @property
    def late(self) -> str:
        """What polls that are late may want."""
        slowed = [self.name] if self.trouble == Trouble.SLOWED else []
        why = outlook.why_late(slowed)
        return capitalized(why if why.endswith("?") else f"{why}.") if self.counts.late else ""

    @property
    def share(self) -> float:
        """Of the configured rate, how much is in force; 0 to 1."""
        return min(1.0, self.rate / self.configured) if self.configured else 1.0


@dataclass(frozen=True, slots=True)
class Accounts:
    """The page."""

    rows: Sequence[AccountRow]
    most: int = COUNT_MOST

    @property
    def few(self) -> bool:
        """May each be shown at length?"""
        return len(self.rows) <= FEW

    @property
    def summary(self) -> str:
        """`98 accounts: 1 is paused, 2 are slowed, 95 poll as configured.`"""
        counts = Counter(row.said for row in self.rows)
        parts = [
            f"{counts[said]} {one if counts[said] == 1 else more}"
            for said, one, more in IN_SUMMARY
            if counts[said]
        ]
        return f"{many(len(self.rows), 'account')}: {', '.join(parts)}."


def view(session: Session) -> Accounts:
    """All accounts."""
    now = db.now(session)
    rows = standings.rows_now(session, now)
    counts = overviews.open_by_account(session, now)
    paused = [row["name"] for row in rows if row["pause_reason"] is not None]
    who, since = actions.paused_by(session, paused), begun(session)
    nothing = Counts(0, 0, 0, pending=0, dead=0)
    found = [
        _row(row, counts.get(row["name"], nothing), who.get(row["name"]), now, since)
        for row in rows
    ]
    return Accounts(sorted(found, key=lambda row: (row.trouble, row.name)))


def _row(
    row: Mapping[Any, Any], counts: Counts, who: str | None, now: datetime, since: Begun
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
        paused_by=who if by_hand else None,
        held=rest is not None,
        limited_at=row["limited_at"],
        refused_rate=row["refused_rate"],
        counts=counts,
    )
