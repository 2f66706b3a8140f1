"""When to do the next thing: look at a job, try a delivery again, ask with an account again. Pure.

All spans are seconds; `jitter` is a number from 0 to 1 that the caller draws, so that equal input
gives equal output. A sender that is told "every 5 s" by a thousand jobs must not wake at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# Typical seconds from creation to end, by the start of the model's name. Medians of published
# samples; only a prior: the age of the job decides the rest.
TYPICAL_SECONDS = {"veo3.1-fast": 120.0, "veo": 100.0, "sora": 180.0, "grok": 90.0}
TYPICAL_UNKNOWN = 120.0

CLOSENESS = 0.25  # look again after this share of the distance to the typical end
JITTER = 0.1  # ± share of every interval
SLOW_SHARE = 0.1  # of the time since the deadline, between looks at an expired job
SLOW_MAX = 900.0

RATE_CUT = 0.7  # what a 429 leaves of the rate
RATE_FLOOR = 0.05  # requests per second that are left in any case
RATE_GAIN = 0.1  # of the configured rate, regained per quiet span
QUIET_SECONDS = 15.0
HOLD_SECONDS = 2.0  # a 429 without Retry-After holds the account for so long

PAUSE_FIRST = 30.0
PAUSE_MAX = 600.0

RETRY_JITTER = 0.2  # ± share of the delays between delivery attempts, as the contract says


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one job may be looked at: floor and ceiling in seconds."""

    floor: float = 5.0
    ceiling: float = 60.0


def until_next_look(model: str | None, age: float, pace: Pace, jitter: float) -> float:
    """Seconds until the next look at a job that is `age` seconds old and has not ended.

    Often near the typical end of its model, seldom long before and long after it.
    """
    distance = abs(typical_seconds(model) - age)
    return paced(distance * CLOSENESS, pace, jitter)


def until_next_try(errors_in_row: int, pace: Pace, jitter: float) -> float:
    """Seconds until the next look after `errors_in_row` (1 or more) looks that brought nothing."""
    return paced(pace.floor * 2.0 ** min(errors_in_row - 1, 16), pace, jitter)


def until_slow_look(since_deadline: float, pace: Pace, jitter: float) -> float:
    """Seconds until the next look at an expired job, `since_deadline` seconds past its deadline."""
    slow = min(max(pace.ceiling, since_deadline * SLOW_SHARE), max(SLOW_MAX, pace.ceiling))
    return spread(slow, jitter, JITTER)


def typical_seconds(model: str | None) -> float:
    """Prior for the seconds a job of this model takes, by the longest known name it starts with."""
    known = [name for name in TYPICAL_SECONDS if (model or "").casefold().startswith(name)]
    return TYPICAL_SECONDS[max(known, key=len)] if known else TYPICAL_UNKNOWN


def paced(seconds: float, pace: Pace, jitter: float) -> float:
    """`seconds` with jitter, never outside floor and ceiling: users count on both."""
    # The room that is left for the jitter: cutting it off would bunch the looks at the bounds.
    room = Pace(pace.floor / (1 - JITTER), pace.ceiling / (1 + JITTER))
    return clamp(spread(clamp(seconds, room), jitter, JITTER), pace)


def clamp(seconds: float, pace: Pace) -> float:
    """The span within floor and ceiling; the floor wins where they cross."""
    return max(pace.floor, min(pace.ceiling, seconds))


def spread(seconds: float, jitter: float, share: float) -> float:
    """`seconds` ± `share`, by a jitter from 0 (shortest) to 1 (longest)."""
    return seconds * (1 + share * (2 * jitter - 1))


# --------------------------------------------------------------- accounts


def slower(rate: float) -> float:
    """The account's rate after a 429: cut at once, but not below what is left in any case."""
    return min(rate, max(RATE_FLOOR, rate * RATE_CUT))


def recovered(rate: float, configured: float, quiet_seconds: float) -> float:
    """The rate after so many seconds without a 429: raised slowly, never above the configured."""
    steps = max(0, int(quiet_seconds // QUIET_SECONDS))  # a clock that was set back costs nothing
    return min(configured, rate + steps * RATE_GAIN * configured)


def pause_seconds(pauses_in_row: int) -> float:
    """How long an account rests after its `pauses_in_row`th refusal (1 or more) before a probe."""
    return min(PAUSE_MAX, PAUSE_FIRST * 2.0 ** min(pauses_in_row - 1, 16))


# -------------------------------------------------------------- deliveries


def next_attempt(
    failures: int,
    schedule: Sequence[float],
    now: datetime,
    jitter: float,
    retry_after: float | None = None,
) -> datetime | None:
    """When to try a delivery again after `failures` (1 or more) failed attempts; None: no more.

    A receiver's Retry-After (seconds) is honoured between the scheduled delay and twice it.
    """
    if failures > len(schedule):
        return None
    delay = spread(schedule[failures - 1], jitter, RETRY_JITTER)
    if retry_after is not None:
        delay = min(max(delay, retry_after), 2 * delay)
    return now + timedelta(seconds=delay)
