"""When a job is polled next and when an event is sent next, and why not sooner. Pure.

The columns `next_poll_at` and `next_attempt_at` say when it is due. Whether it happens then is up
to more: the account may rest or be short of its rate, the endpoint may rest, and workers
may not run at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reelwatch.rules.breaker import Wait
from reelwatch.rules.endpoints import in_a_row
from reelwatch.rules.rests import Rest, by_hand
from reelwatch.rules.wording import clock, span

TICK_MISSED = timedelta(seconds=15)  # a tick comes every second; after this, workers do without
SHORT = timedelta(seconds=2)  # what is due together for longer than that is a shortage
LATE = timedelta(seconds=60)  # what is due for longer is not just waiting for others
BY_THEMSELVES = "workers poll and deliver by themselves"
TICK = timedelta(seconds=1)  # what a rest holds back is polled by the first tick after its end


@dataclass(frozen=True, slots=True)
class Expected:
    """`at` None: nobody can know. `reason` None: nothing is in its way, it happens when due.

    `by_account`: what is in its way is the account, that rests or is short of its rate.
    """

    at: datetime | None
    reason: str | None = None
    by_account: bool = False


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
    """`last`: when the last tick was, None before the first. `watched`: the same of the whole.

    Ticks and standby both have the whole watched, every fifteen seconds.
    """

    last: datetime | None
    now: datetime
    watched: datetime | None = None

    @property
    def standby(self) -> str | None:
        """That workers do the work by themselves, while no tick comes; None if that is not so."""
        if self.watched is None or self.now - self.watched >= LATE:
            return None
        if self.last is None:
            return f"no tick has come so far: {BY_THEMSELVES}"
        if self.watched - self.last < TICK_MISSED or self.now - self.last < TICK_MISSED:
            return None
        return f"no tick for {span((self.now - self.last).total_seconds())}: {BY_THEMSELVES}"

    @property
    def missing(self) -> str | None:
        """Why nothing may happen at all; None while ticks come, or workers do without."""
        if self.standby:
            return None
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
    said = f"account {account} is paused {by_hand(reason, f'until {resume}')}"
    return Expected(None, said, by_account=True)


def _resting(due: datetime, traffic: Traffic, now: datetime) -> Expected | None:
    """What a rest makes of it that ends by itself; None if it ends before the job is due."""
    rest, name = traffic.rest, f"account {traffic.account}"
    if rest is None or rest.until is None or max(rest.until, now) < due:
        return None
    if rest.until <= now:  # one of its jobs is the probe, and nobody knows which
        said = f"{name} tries whether it works again: {rest.reason}"
        return Expected(None, said, by_account=True)
    at = max(rest.until, now + TICK)  # as long as it rests that is not `now`
    said = f"{name} rests until {clock(rest.until, now)} UTC: {rest.reason}"
    return Expected(at, said, by_account=True)


def once_resumed(account: str, rest: Rest, now: datetime) -> str:
    """When jobs of a paused account are polled that are to be polled at once."""
    until = "" if rest.until is None else f", which is tried at {clock(rest.until, now)} UTC"
    return f"when the account {account} is resumed{until}"


def why_late(slowed: Sequence[str]) -> str:
    """What polls that are late may want; `slowed`: those of their accounts that are."""
    if slowed:  # a higher rate would be refused
        return f"upstream answers 429 to more requests for {', '.join(slowed)}"
    return "more workers, or a higher request rate?"


def _in_turn(due: datetime, traffic: Traffic, now: datetime) -> Expected:
    """Jobs that are due together take as long as the account's rate says."""
    free = now + timedelta(seconds=traffic.due / traffic.rate)
    if free - now > SHORT and free > due:
        return Expected(free, _short(traffic), by_account=True)
    return _when_due(due, now, "no worker has taken it since")


def _short(traffic: Traffic) -> str:
    rate = f"{traffic.rate:.3g}/s"
    if traffic.slowed:
        limit = f"account {traffic.account} is slowed to {rate} by upstream's 429s"
        return f"{limit}: {traffic.due} of its jobs are due"
    return f"rate short: {traffic.due} jobs of account {traffic.account} are due, at {rate}"


@dataclass(frozen=True, slots=True)
class Hold:
    """What holds up an event: see `breaker.next_try`. `failures`: the endpoint's, in a row."""

    at: datetime
    wait: Wait
    endpoint: str  # as it may be shown
    failures: int = 0


def next_attempt(due: datetime, hold: Hold, ticks: Ticks) -> Expected:
    """When an event is sent next that is due at `due`."""
    now = ticks.now
    if hold.wait is Wait.ANSWER:
        return Expected(now, "an attempt is under way")
    if ticks.missing:
        return Expected(due if due > now else None, ticks.missing)
    if hold.wait is Wait.RESTING:
        until = clock(hold.at, now)
        why = in_a_row(hold.failures)
        return Expected(hold.at, f"{hold.endpoint} rests until {until} UTC: {why}")
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
