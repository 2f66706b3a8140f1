"""How an endpoint is, in the words of all who tell of it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

_SIGNED = "does it verify with the secret that signs here?"
_PLACED = "is the path of its URL right?"
_DOUBTS: Final[Mapping[int | None, str]] = {401: _SIGNED, 403: _SIGNED, 404: _PLACED, 405: _PLACED}
SIGNATURES = (401, 403)  # what a receiver says, too, that has another secret


class How(StrEnum):
    """One that fails does not answer, or says that it can't; one that refuses works, and wants
    none of what it is sent. One that rests failed so often that it is not called until a time.
    """

    RESTING = "resting"
    FAILING = "failing"
    REFUSING = "refusing"
    WELL = "well"


def how(failures: int, open_until: datetime | None, now: datetime, *, refuses: bool) -> How:
    """How an endpoint is after so many failures in a row.

    `refuses`: it took nothing since it refused an event that still waits, or is dead.
    """
    if open_until is not None and open_until > now:
        return How.RESTING
    if failures:
        return How.FAILING
    return How.REFUSING if refuses else How.WELL


def said(how: How, failures: int = 0, http_status: int | None = None) -> str:
    """What is said of it, after its name; the status is that of its last refusal."""
    if how is How.WELL:
        return "takes what it is sent"
    if how is How.REFUSING:
        return f"refuses events with {http_status}" if http_status else "refuses events"
    return f"{'rests' if how is How.RESTING else 'fails'}: {in_a_row(failures)}"


def answer_in_short(http_status: int | None, error: str | None) -> str:
    """`503 no`: what it answered last; the status once, where the error names it."""
    said, status = error or "", str(http_status or "")
    return said if status in said else f"{status} {said}".strip()


def in_a_row(failures: int) -> str:
    """`3 attempts failed in a row`."""
    return f"{failures} attempt{'' if failures == 1 else 's'} failed in a row"


def doubt(how: How, http_status: int | None = None) -> str:
    """What to look at, as a question; of one that is not well, by the status that it answered."""
    if how is How.REFUSING:
        return _DOUBTS.get(http_status, "what does it not like of them?")
    return "what does its own log say?" if http_status else "does it run, and can it be reached?"
