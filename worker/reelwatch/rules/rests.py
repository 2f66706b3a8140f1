"""Until when an account's jobs are not polled, and why. Pure; what leads there is in `standing`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

HELD = "upstream asked to slow down"
BY_HAND = "by hand"
RESTS, RESTED = "its account rests", "its account rested then"


def by_hand(reason: str, until: str) -> str:
    """`by hand, until …: a new key on Monday`, of the reason of a pause by hand."""
    return f"{BY_HAND}, {until}{reason.removeprefix(BY_HAND)}"


def at_rest(reason: str) -> str:
    """Why nobody polled a job when its deadline passed, as its event says it at that moment."""
    return f"{RESTS}, {reason}"


def of_the_past(message: str) -> str:
    """A job's message as it is read afterwards, when the account may have been resumed."""
    return message.replace(f": {RESTS}, ", f": {RESTED}, ")


@dataclass(frozen=True, slots=True)
class Rest:
    """Why an account's jobs are not polled now. `until` None: until somebody resumes it."""

    until: datetime | None
    reason: str


def rest_of(row: Mapping[Any, Any], now: datetime) -> Rest | None:
    """Why the account of this row of `accounts` rests at `now`; None if it may be asked.

    At `until`, never before `now`, one poll finds out whether it works again.
    """
    until, reason, held_until = row["paused_until"], row["pause_reason"], row["slowed_at"]
    if reason is not None:
        return Rest(max(until, now) if until else None, reason)
    if held_until is not None and held_until > now:
        return Rest(held_until, HELD)
    return None
