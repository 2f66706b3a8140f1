"""What follows from one attempt to deliver an event: delivered, tried again, or given up. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

GONE = 410  # the status by which a receiver says that it wants no more of an event
JITTER = 0.2  # the share by which a delay is shortened or lengthened


class DeliveryState(StrEnum):
    """Whether an event is still owed."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # all attempts failed; people see it, and may have it delivered again


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt went.

    `error` is None if the event arrived; `http_status` is None if there was no answer, or no HTTP.
    `retry_after` is what the receiver asks for, in seconds. `sent` is False for an attempt that
    was never made: it says nothing of the endpoint.
    """

    http_status: int | None = None
    error: str | None = None
    excerpt: str | None = None
    retry_after: float | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It is tried again."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Dead:
    """It is not tried again."""


Decision = Delivered | Retry | Dead


def after_attempt(
    outcome: Outcome, failures: int, schedule: Sequence[float], now: datetime, jitter: float
) -> Decision:
    """What becomes of a delivery whose `failures` attempts before this one failed.

    `schedule` has the seconds to wait after each failure in turn; when it is used up the delivery
    is dead. `jitter`, from 0 to 1, spreads the delay by a fifth. A receiver's Retry-After counts
    between the delay and twice the delay. A receiver that answers 410 is not asked again.
    """
    if outcome.error is None:
        return Delivered()
    if outcome.http_status == GONE or failures >= len(schedule):
        return Dead()
    delay = schedule[failures] * (1 + JITTER * (2 * jitter - 1))
    if outcome.retry_after is not None:
        delay = min(max(delay, outcome.retry_after), 2 * delay)
    return Retry(now + timedelta(seconds=delay))
