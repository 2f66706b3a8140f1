"""How old a job is, how long it took, and how late its end was noticed. Pure; rows of `jobs`.

A job begins and ends when upstream says so. Where upstream does not, it begins when it was tracked
and ends when a poll noticed: these are the only times that are known.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from reelwatch.rules.states import EventType, State
from reelwatch.rules.wording import span

Row = Mapping[Any, Any]

OF_ENDS = (EventType.COMPLETED, EventType.FAILED)
CLOCKS_APART = timedelta(seconds=60)  # upstream's and ours at most, as far as durations go


def began(row: Row) -> datetime:
    """When the job began, as far as that is known."""
    at: datetime = row["upstream_created_at"] or row["tracked_at"]
    return at


def age_seconds(row: Row, now: datetime) -> float:
    """How old a job is that has not ended."""
    return max(0.0, (now - began(row)).total_seconds())


def lasted(row: Row) -> tuple[datetime, datetime] | None:
    """From its beginning to its end; None of a job that is open, or that ended before it began.

    Most failures tell of their end alone. What was tracked just before then counts from there: to
    take our own time for the end, of which a poll may have told a minute later, would be to say
    that nothing fails at once. If the clocks are far apart, ours is all there is.
    """
    begin, end, noticed = began(row), row["upstream_finished_at"], row["finished_at"]
    if noticed is None:
        return None
    if row["upstream_created_at"] is None and end is not None and end >= begin - CLOCKS_APART:
        end = min(max(begin, end), noticed)
    if end is None or end < begin:
        end = noticed
    return (begin, end) if end >= begin else None


def duration_seconds(row: Row) -> float | None:
    """The duration of a job that upstream has ended, to the millisecond; None of all others."""
    if row["finished_at"] is None or row["state"] == State.CANCELLED:
        return None
    found = lasted(row)
    return round((found[1] - found[0]).total_seconds(), 3) if found else 0.0


def time_seconds(row: Row, now: datetime) -> float:
    """One figure for any job: its duration, or how old it is, or was when it was cancelled."""
    took = duration_seconds(row)
    return age_seconds(row, row["finished_at"] or now) if took is None else took


def notice_delay(ended: datetime, tracked: datetime, noticed: datetime) -> float:
    """Seconds from upstream's end, or from when it was tracked if that was later, to our notice."""
    return max(0.0, (noticed - max(ended, tracked)).total_seconds())


def told_late(job: Row, event: Row, at: datetime) -> str:
    """`13m31s after its end`, where an event that was told at `at` tells of the job's last end.

    `event` is a row of `deliveries`. Empty: it tells of something else.
    """
    found, noticed = lasted(job), job["finished_at"]
    if found is None or event["event_type"] not in OF_ENDS or event["created_at"] < noticed:
        return ""
    return f"{span((at - found[1]).total_seconds())} after its end"


def in_words(row: Row) -> str:
    """`4m06s, noticed 3s later`, or `4m09s until it was noticed`; empty: it has no duration."""
    took, found, noticed = duration_seconds(row), lasted(row), row["finished_at"]
    if took is None:
        return ""
    if found is None or found[1] == noticed:
        return f"{span(took)} until it was noticed"
    return f"{span(took)}, noticed {span((noticed - found[1]).total_seconds())} later"
