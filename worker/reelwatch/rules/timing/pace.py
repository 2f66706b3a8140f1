"""How often one job may be polled, and how intervals are spread. Pure.

All spans are seconds; `jitter` is a number from 0 to 1 that the caller draws, so that equal input
gives equal output. A sender that is told "every 5 s" by a thousand jobs must not wake at once.
"""

from dataclasses import dataclass
from functools import lru_cache

TARGET_DELAY = 3.0  # seconds from upstream's end of a job to the poll that notices it, on average
JITTER = 0.1  # ± share of every interval
SLOW_SHARE = 0.1  # of the time since the deadline, between polls of an expired job
SLOW_MAX = 900.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one job may be polled: floor and ceiling in seconds."""

    floor: float = 5.0
    ceiling: float = 60.0

    @property
    def room(self) -> "Pace":
        """What is left for the jitter: cutting that off would bunch the polls at the bounds."""
        return _room(self.floor, self.ceiling)

    def clamp(self, seconds: float) -> float:
        """The span within floor and ceiling; the floor wins where they cross."""
        return max(self.floor, min(self.ceiling, seconds))

    def spread(self, seconds: float, jitter: float) -> float:
        """`seconds` with jitter, never outside floor and ceiling: users count on both."""
        return self.clamp(spread(self.room.clamp(seconds), jitter, JITTER))

    def after_errors(self, errors_in_row: int, jitter: float) -> float:
        """Seconds until the next poll after so many (1 or more) that brought nothing."""
        return self.spread(self.floor * 2.0 ** min(errors_in_row - 1, 16), jitter)

    def after_deadline(self, since_deadline: float, jitter: float) -> float:
        """Seconds until the next poll of an expired job, so long past its deadline."""
        slow = min(max(self.ceiling, since_deadline * SLOW_SHARE), max(SLOW_MAX, self.ceiling))
        return spread(slow, jitter, JITTER)


@lru_cache(16)  # each poll asks for it
def _room(floor: float, ceiling: float) -> Pace:
    least = floor / (1 - JITTER)
    return Pace(least, max(least, ceiling / (1 + JITTER)))


def spread(seconds: float, jitter: float, share: float) -> float:
    """`seconds` ± `share`, by a jitter from 0 (shortest) to 1 (longest)."""
    return seconds * (1 + share * (2 * jitter - 1))
