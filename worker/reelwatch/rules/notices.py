"""What the operator is told, and when something is an incident. Pure.

Each is told once an incident: what begins one, and what ends it, is decided here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from reelwatch.rules.answers import (
    FOUND_BY_SEARCH,
    FOUND_ELSEWHERE,
    NO_JOB,
    NO_OBJECT,
    Answer,
    ErrorKind,
    Report,
)
from reelwatch.rules.breaker import Breaker
from reelwatch.rules.events import timestamp
from reelwatch.rules.status import Meaning, meaning_of

if TYPE_CHECKING:  # who only hands in ids has no use for what it loads
    from reelwatch.rules.standing import Standing

UNKNOWN = Meaning.UNKNOWN


class NoticeType(StrEnum):
    """The types of events that REELWATCH_OPERATOR_URL gets."""

    ACCOUNT_PAUSED = "account.paused"
    ACCOUNT_RESUMED = "account.resumed"
    ENDPOINT_FAILING = "endpoint.failing"
    ENDPOINT_RECOVERED = "endpoint.recovered"
    DELIVERY_DEAD = "delivery.dead"
    UPSTREAM_OUTAGE = "upstream.outage"
    UPSTREAM_RECOVERED = "upstream.recovered"
    UPSTREAM_CHANGED = "upstream.changed"
    BUDGET_SHORT = "budget.short"
    ARCHIVE_AT_RISK = "archive.at_risk"  # reserved: nothing raises it yet


# Those that begin and end; all others are told of a moment.
LASTING = (
    NoticeType.ACCOUNT_PAUSED,
    NoticeType.ENDPOINT_FAILING,
    NoticeType.UPSTREAM_OUTAGE,
    NoticeType.BUDGET_SHORT,
)
SLOWED = "account.slowed"  # an incident that is shown, and that nobody is told of


@dataclass(frozen=True, slots=True)
class Notice:
    """One event for the operator: `data` as JSON has it, without secrets."""

    type: NoticeType
    data: Mapping[str, Any] = field(default_factory=dict)


def body(notice: Notice, at: datetime) -> dict[str, Any]:
    """The event's body, of the same form as those that producers get."""
    return {"type": notice.type.value, "timestamp": timestamp(at), "data": dict(notice.data)}


# ---------------------------------------------------------------- accounts


def of_account(name: str, before: "Standing", after: "Standing") -> Notice | None:
    """An account began to rest, or is polled again. Another reason or a longer rest is no news."""
    if after.rests and not before.rests:
        until = timestamp(after.paused_until)
        said = {"account": name, "reason": after.pause_reason, "until": until}
        return Notice(NoticeType.ACCOUNT_PAUSED, said)
    if before.rests and not after.rests:
        said = {"account": name, "reason": before.pause_reason}
        return Notice(NoticeType.ACCOUNT_RESUMED, said)
    return None


# --------------------------------------------------------------- endpoints


def of_endpoint(named: Mapping[str, str], before: Breaker, after: Breaker) -> Notice | None:
    """An endpoint rests since it keeps failing, or takes events again.

    `named`: what is told of which it is.
    """
    if after.open_until and not before.open_until:
        until = timestamp(after.open_until)
        said = {**named, "failures": after.failures, "until": until}
        return Notice(NoticeType.ENDPOINT_FAILING, said)
    if before.open_until and not after.open_until:
        return Notice(NoticeType.ENDPOINT_RECOVERED, named)
    return None


# ---------------------------------------------------------------- upstream

OUTAGE_KINDS = frozenset({"server_error", "timeout", "connection", "not_json"})
POLLS_ENOUGH = 5  # to judge upstream by
SPAN_LEAST = timedelta(seconds=30)  # what passes sooner is no outage
PACE_SPAN = timedelta(seconds=15)  # a pace of less is that of a batch
SPAN_MOST = timedelta(minutes=5)  # after which fewer polls are enough
OUT_SHARE = 0.9  # of polls that fail so
WELL_SHARE = 0.5

NEW_SHAPES = frozenset({NO_OBJECT, NO_JOB})
NEW_PLACES = frozenset({FOUND_ELSEWHERE, FOUND_BY_SEARCH})


def novelty(answer: Answer | None) -> str | None:
    """What of the answer this release does not know: a status, or a shape; None: nothing."""
    if isinstance(answer, Report):
        if answer.status and answer.status != "error" and meaning_of(answer.status) is UNKNOWN:
            return f"status {answer.status!r}"
        return next((remark for remark in answer.remarks if remark in NEW_PLACES), None)
    if answer is not None and answer.kind is ErrorKind.BAD_SHAPE and answer.message in NEW_SHAPES:
        return answer.message
    return None


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one account at a moment: its polls, and those that upstream failed."""

    at: datetime
    polls: float
    failed: float

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self) | {"at": self.at.isoformat()}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """From what `as_json` gave."""
        return cls(datetime.fromisoformat(stored["at"]), stored["polls"], stored["failed"])


def noted(before: Mapping[str, Any], now: Reading) -> dict[str, Any]:
    """What is stored of a reading: it, and the one before, so that a pace can be told at once."""
    earlier = {"at": before["at"], "polls": before["polls"]}
    return now.as_json() | {"before": earlier}


def pace(stored: Mapping[str, Any], polls: float, now: datetime) -> tuple[float, float]:
    """How many polls there were since the last reading, and in how many seconds.

    Since the one before it, where the last is too young to tell.
    """
    since = stored
    if now - datetime.fromisoformat(stored["at"]) < PACE_SPAN:
        since = stored.get("before", stored)
    seconds = (now - datetime.fromisoformat(since["at"])).total_seconds()
    return max(0.0, polls - since["polls"]), max(0.0, seconds)


def judged(before: Reading, now: Reading, *, out: bool) -> bool | None:
    """Is upstream out, by the polls between two readings? None: too few, or too soon to say."""
    span, polls = now.at - before.at, now.polls - before.polls
    if span < SPAN_LEAST or polls < (1 if span >= SPAN_MOST else POLLS_ENOUGH):
        return None
    share = (now.failed - before.failed) / polls
    return share > WELL_SHARE if out else share >= OUT_SHARE


def of_upstream(failing: int, open_jobs: int, *, others_ended: bool) -> bool:
    """Do an account's failed polls tell of upstream, or of one job that is alone with its error?

    `failing`: its open jobs whose last poll failed so. One of them says nothing of upstream while
    others are open, nor if others have ended since (`others_ended`): upstream answered those. The
    only job that there is can be compared with none: its polls decide, or who has a single video
    would never be told of an outage.
    """
    return failing > 1 or (failing == open_jobs == 1 and not others_ended)


# ------------------------------------------------------------------ budget

LASTS = timedelta(minutes=5)  # so long a budget must be short, or not, to be called so


@dataclass(frozen=True, slots=True)
class Since:
    """Since when something has been so."""

    at: datetime
    holds: bool

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {"at": self.at.isoformat(), "holds": self.holds}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """From what `as_json` gave."""
        return cls(datetime.fromisoformat(stored["at"]), stored["holds"])

    def now(self, *, holds: bool, at: datetime) -> Self:
        """The same, or anew where it has changed."""
        return self if holds is self.holds else type(self)(at, holds)

    def lasts(self, now: datetime) -> bool:
        """Has it been so for long enough to be told?"""
        return now - self.at >= LASTS


# -------------------------------------------------------------------- dead

DEAD_AGAIN = timedelta(hours=1)  # dead events of one endpoint within it are one incident
