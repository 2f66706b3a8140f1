"""When a job is polled next and when an event is sent next, and why not sooner. Pure.

The columns `next_poll_at` and `next_attempt_at` say when it is due. Whether it happens then is up
to more: the account may rest or be short of its rate, the endpoint may be left alone, and workers
may not run at all.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from reelwatch.rules.breaker import Wait
from reelwatch.rules.rests import Rest
from reelwatch.rules.wording import clock, span

TICK_MISSED = timedelta(seconds=15)  # a tick comes every second; after this, workers do without
SHORT = timedelta(seconds=2)  # what is due together for longer than that is a shortage
LATE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Expected:
    """`at` None: nobody can know. `reason` None: nothing is in its way, it happens when due."""

    at: datetime | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the jobs of one account have in common. `due`: how many wait to be polled now."""

    account: str
    rate: float  # requests per second
    slowed: bool = False
    due: int = 0
    rest: Rest | None = None


@dataclass(frozen=True, slots=True)
class Ticks:
    """`last`: when the last tick was, None before the first."""

    last: datetime | None
    now: datetime

    @property
    def missing(self) -> str | None:
        """Why nothing may happen at all; None while ticks come."""
        if self.last is None:
            return "no worker has run so far"
        age = self.now - self.last
        if age < TICK_MISSED:
            return None
        return f"no tick for {span(age.total_seconds())}: no worker runs, or no beat"


def next_poll(due: datetime, traffic: Traffic, ticks: Ticks, *, leased: bool = False) -> Expected:
    """When a job is polled next that is due at `due`; `leased`: a worker has it."""
    now = ticks.now
    if leased and due > now:
        return Expected(now, "a worker polls it now")
    if traffic.rest is not None and traffic.rest.until is None:
        return _by_hand(traffic.account, traffic.rest.reason)
    if ticks.missing:
        return Expected(due if due > now else None, ticks.missing)
    return _resting(due, traffic, now) or _in_turn(due, traffic, now)


def _by_hand(account: str, reason: str) -> Expected:
    resume = f"`reelwatch accounts --resume {account}`"
    return Expected(None, f"account {account} is paused {reason}: until {resume}")


def _resting(due: datetime, traffic: Traffic, now: datetime) -> Expected | None:
    """What a rest makes of it that ends by itself; None if it ends before the job is due."""
    rest, name = traffic.rest, f"account {traffic.account}"
    if rest is None or rest.until is None or max(rest.until, now) < due:
        return None
    if rest.until <= now:  # one of its jobs is the probe, and nobody knows which
        return Expected(None, f"{name} tries whether it works again: {rest.reason}")
    return Expected(rest.until, f"{name} rests until {clock(rest.until, now)} UTC: {rest.reason}")


def _in_turn(due: datetime, traffic: Traffic, now: datetime) -> Expected:
    """Jobs that are due together take as long as the account's rate says."""
    free = now + timedelta(seconds=traffic.due / traffic.rate)
    if free - now > SHORT and free > due:
        return Expected(free, _short(traffic))
    return _when_due(due, now, "no worker has taken it yet")


def _short(traffic: Traffic) -> str:
    rate = f"{traffic.rate:.3g}/s"
    if traffic.slowed:
        limit = f"account {traffic.account} is slowed to {rate} by upstream's 429s"
        return f"{limit}: {traffic.due} of its jobs are due"
    return f"rate short: {traffic.due} jobs of account {traffic.account} are due, at {rate}"


@dataclass(frozen=True, slots=True)
class Turn:
    """What holds up an event: see `breaker.next_try`. `failures`: the endpoint's, in a row."""

    at: datetime
    wait: Wait
    endpoint: str  # as it may be shown
    failures: int = 0


def next_attempt(due: datetime, turn: Turn, ticks: Ticks) -> Expected:
    """When an event is sent next that is due at `due`."""
    now = ticks.now
    if turn.wait is Wait.ANSWER:
        return Expected(now, "an attempt is under way")
    if ticks.missing:
        return Expected(due if due > now else None, ticks.missing)
    if turn.wait is Wait.RESTING:
        failed = f"{turn.failures} attempts failed in a row"
        until = clock(turn.at, now)
        return Expected(turn.at, f"{turn.endpoint} is not called until {until} UTC: {failed}")
    return _when_due(due, now, "it waits for its turn at its host")


def _when_due(due: datetime, now: datetime, why_late: str) -> Expected:
    if now - due > LATE:
        return Expected(now, f"due for {span((now - due).total_seconds())}: {why_late}")
    return Expected(max(due, now))


def sentence(expected: Expected, now: datetime) -> str:
    """`in 42s`, `now`, or as far as that is known, with the reason behind it."""
    if expected.at is None:
        when = "not known"
    else:
        wait = (expected.at - now).total_seconds()
        when = f"in {span(wait)}" if wait >= 1 else "now"
    return f"{when} ({expected.reason})" if expected.reason else when
