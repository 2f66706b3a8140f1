"""How many calls a destination gets: fewer while it fails, none for a while, then one to try. Pure.

A circuit breaker per destination, kept in its row, so that all workers share it.

- *Closed*: `allowance` calls go out at once. A new destination starts small and doubles with every
  success, so that one that hangs binds few threads.
- *Open*: after `FAILURES` failures in a row nothing goes to it until `open_until`. Its events wait,
  and none of their attempts is spent.
- *Half-open*: when that is over, one call, for the event that has waited longest, decides.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

FAILURES = 5  # in a row, over all events for the destination
ALLOWANCE_FIRST = 2
ALLOWANCE_MAX = 8
OPEN_FIRST = 30.0  # seconds
OPEN_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """A destination's standing. `openings`: how often it opened since it last worked."""

    failures: int = 0
    openings: int = 0
    allowance: int = ALLOWANCE_FIRST
    open_until: datetime | None = None


def allowed(breaker: Breaker, now: datetime) -> int:
    """How many calls may be under way at once, now."""
    if breaker.open_until is None:
        return breaker.allowance
    return 1 if now >= breaker.open_until else 0


def after_success(breaker: Breaker) -> Breaker:
    """Closed; what had piled up is sent in growing portions."""
    if breaker.open_until is not None:
        return Breaker(allowance=1)
    return Breaker(allowance=min(ALLOWANCE_MAX, breaker.allowance * 2))


def after_failure(breaker: Breaker, now: datetime) -> Breaker:
    """One failure more; the last of so many in a row, or one while half-open, opens it."""
    failures = breaker.failures + 1
    if breaker.open_until is not None and now < breaker.open_until:
        return breaker  # a call that was under way when it opened
    if breaker.open_until is None and failures < FAILURES:
        return Breaker(failures, breaker.openings, max(1, breaker.allowance // 2))
    span = min(OPEN_MAX, OPEN_FIRST * 2.0 ** min(breaker.openings, 16))
    return Breaker(failures, breaker.openings + 1, 1, now + timedelta(seconds=span))
