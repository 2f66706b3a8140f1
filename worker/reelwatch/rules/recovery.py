"""How an account's rate and rest follow upstream's refusals. Pure; all spans are seconds."""

from dataclasses import dataclass
from math import ceil

RATE_CUT = 0.7  # what a 429 leaves of the rate
RATE_FLOOR = 0.05  # requests per second that are left in any case
RATE_GAIN = 0.1  # of the configured rate, regained per quiet span
QUIET_SECONDS = 15.0
# Of the rate that was refused: as close as polls go to it again. Slots are a tenth further apart
# than the rate says, so what upstream refused was a tenth less; another tenth keeps clear of that.
BELOW_REFUSED = 0.82
FORGET_SECONDS = 600.0  # until more is tried all the same
HOLD_SECONDS = 2.0  # a 429 without Retry-After holds the account for so long

PAUSE_FIRST = 5.0
PAUSE_MAX = 600.0


def slower(rate: float) -> float:
    """The account's rate after a 429: cut at once, but not below what is left in any case."""
    return min(rate, max(RATE_FLOOR, rate * RATE_CUT))


@dataclass(frozen=True, slots=True)
class Recovery:
    """A rate that a 429 has cut: quiet since then, or since the last step up.

    `refused` is the rate at which the 429 came: upstream's limit lies below it.
    """

    rate: float
    quiet_seconds: float
    refused: float | None = None


def recovered(cut: Recovery, configured: float) -> Recovery:
    """The rate now: raised a step per quiet span, up to just below what was refused.

    There it stays, and asks for more only after a long quiet: the limit may have been raised. Never
    above the configured one. It depends on the quiet alone, not on how often it was asked for in
    between: nobody asks while no job is polled.
    """
    quiet = max(0.0, cut.quiet_seconds)  # a clock that was set back costs nothing
    rate, step = min(cut.rate, configured), RATE_GAIN * configured
    if cut.refused is not None:
        highest = min(configured, cut.refused * BELOW_REFUSED)
        rate, quiet = _raised(rate, quiet, step, highest)
        if quiet < FORGET_SECONDS:
            return Recovery(rate, quiet, cut.refused)
        quiet -= FORGET_SECONDS - QUIET_SECONDS  # the first step beyond is due at once
    return Recovery(*_raised(rate, quiet, step, configured))


def _raised(rate: float, quiet: float, step: float, highest: float) -> tuple[float, float]:
    """The rate after such a quiet, and what is left of that: all that follows the last step."""
    steps = min(int(quiet // QUIET_SECONDS), ceil(max(0.0, highest - rate) / step))
    return max(rate, min(highest, rate + steps * step)), quiet - steps * QUIET_SECONDS


def pause_seconds(pauses_in_row: int) -> float:
    """How long an account rests after its `pauses_in_row`th refusal (1 or more) before a probe."""
    return min(PAUSE_MAX, PAUSE_FIRST * 2.0 ** min(pauses_in_row - 1, 16))
