"""When to do the next thing: look at a job, try a delivery again, ask with an account again. Pure.

All spans are seconds; `jitter` is a number from 0 to 1 that the caller draws, so that equal input
gives equal output. A sender that is told "every 5 s" by a thousand jobs must not wake at once.

When to look at a job is a question of price. A look has a *price*: the seconds of delay that one
request is worth. While h is constant the best interval is sqrt(2 * price / h); h is not constant,
so a `Plan` solves it for the whole curve, backwards from the oldest age: from each age the next
look is the one with the least sum of price, expected delay until then, and the cost of going on.
When more looks are due than the rate allows, those with the most expected gain go first.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

from reelwatch.rules.timing.curves import Curve, Hint, Known, bin_of, prior
from reelwatch.rules.timing.pace import TARGET_DELAY, Pace

JITTER = 0.1  # ± share of every interval
SLOW_SHARE = 0.1  # of the time since the deadline, between looks at an expired job
SLOW_MAX = 900.0

RATE_CUT = 0.7  # what a 429 leaves of the rate
RATE_FLOOR = 0.05  # requests per second that are left in any case
RATE_GAIN = 0.1  # of the configured rate, regained per quiet span
QUIET_SECONDS = 15.0
# Of the rate that was refused: as close as looks go to it again. Slots are a tenth further apart
# than the rate says, so what upstream refused was a tenth less; another tenth keeps clear of that.
BELOW_REFUSED = 0.82
FORGET_SECONDS = 600.0  # until more is tried all the same
HOLD_SECONDS = 2.0  # a 429 without Retry-After holds the account for so long

PAUSE_FIRST = 5.0
PAUSE_MAX = 600.0

RETRY_JITTER = 0.2  # ± share of the delays between delivery attempts, as the contract says


def until_next_look(plan: "Plan", age: float, hint: Hint | None, jitter: float) -> float:
    """Seconds until the next look at a job that is `age` seconds old and has not ended."""
    return paced(plan.interval(age, hint), plan.pace, jitter)


def until_next_try(errors_in_row: int, pace: Pace, jitter: float) -> float:
    """Seconds until the next look after `errors_in_row` (1 or more) looks that brought nothing."""
    return paced(pace.floor * 2.0 ** min(errors_in_row - 1, 16), pace, jitter)


def until_slow_look(since_deadline: float, pace: Pace, jitter: float) -> float:
    """Seconds until the next look at an expired job, `since_deadline` seconds past its deadline."""
    slow = min(max(pace.ceiling, since_deadline * SLOW_SHARE), max(SLOW_MAX, pace.ceiling))
    return spread(slow, jitter, JITTER)


def paced(seconds: float, pace: Pace, jitter: float) -> float:
    """`seconds` with jitter, never outside floor and ceiling: users count on both."""
    return clamp(spread(clamp(seconds, _room(pace)), jitter, JITTER), pace)


def _room(pace: Pace) -> Pace:
    """What is left of it for the jitter: cutting that off would bunch the looks at the bounds."""
    floor = pace.floor / (1 - JITTER)
    return Pace(floor, max(floor, pace.ceiling / (1 + JITTER)))


def clamp(seconds: float, pace: Pace) -> float:
    """The span within floor and ceiling; the floor wins where they cross."""
    return max(pace.floor, min(pace.ceiling, seconds))


def spread(seconds: float, jitter: float, share: float) -> float:
    """`seconds` ± `share`, by a jitter from 0 (shortest) to 1 (longest)."""
    return seconds * (1 + share * (2 * jitter - 1))


# ------------------------------------------------------------------- plans

_STEP_SHARE = 0.004  # of the age, between the ages that a plan considers
_STEPS_PER_FLOOR = 4  # or, for young jobs, of the floor
_OLDEST = 172_800.0
_ROUNDING = 1e-6
_FORGOTTEN = 1e-7  # of the jobs last so long: beyond, the ceiling is good enough
_CERTAIN = 50.0  # -log of a share of jobs that there are none of
_TOLD_FURTHER = 8  # steps past the best wait so far, before the rest is thought to be worse
_PRICE_MIN, _PRICE_MAX = 1e-3, 1e6


class Plan:
    """The best looks at one kind of job at a price, within floor and ceiling.

    `price` is in seconds of delay per request.
    """

    def __init__(self, curve: Curve, price: float, pace: Pace) -> None:
        self.curve = curve
        self.price = price
        self.pace = pace
        room = _room(pace)
        self._floor, self._ceiling = room.floor, room.ceiling
        # Arrays take a fifth of the memory of lists, and a process keeps many plans.
        self._ages = array("d", _ages(curve, self._floor))
        at = [curve.at(age) for age in self._ages]
        self._open = array("d", [math.exp(-cumulated) for cumulated, _ in at])
        self._lasting = array("d", [lasting for _, lasting in at])
        self._next = array("l", self._solved())

    def interval(self, age: float, hint: Hint | None = None) -> float:
        """Seconds until the next look at a job of this age, for which upstream said this last."""
        place = bisect_right(self._ages, age) - 1
        if place >= len(self._ages) - 1:
            return self._ceiling
        told = _told(self.curve, hint, age) if hint else self.curve
        if told is self.curve:
            return self._ages[self._next[place]] - self._ages[place]
        return self._interval_told(told, age)

    @cached_property
    def expected(self) -> tuple[float, float]:
        """Looks per job, the first at age 0 not counted, and the mean delay in seconds."""
        looks, delay = [0.0] * len(self._ages), [0.0] * len(self._ages)
        for place in range(len(self._ages) - 2, -1, -1):
            then = self._next[place]
            on = self._open[then] / self._open[place]
            looks[place] = 1 + on * looks[then]
            delay[place] = self._delay_until(place, then) + on * delay[then]
        return looks[0], delay[0]

    def _solved(self) -> list[int]:
        """By age: the age of the next look, the one with the least expected cost from then on."""
        ages, still_open, lasting = list(self._ages), list(self._open), list(self._lasting)
        count = len(ages)
        costs, following = [self.price] * count, [count - 1] * count
        # What a look at `then` leaves to be paid, in units of all jobs and not of those still open.
        saved = [lasting[-1] - still_open[-1] * costs[-1]] * count
        most = saved[-1]
        for place in range(count - 2, -1, -1):
            scale = 1 / still_open[place]
            # What rounding adds to the sum must not cost the first age that is far enough.
            first = max(place + 1, bisect_left(ages, ages[place] + self._floor - _ROUNDING))
            last = max(first, bisect_right(ages, ages[place] + self._ceiling) - 1)
            first, last = min(first, count - 1), min(last, count - 1)
            best, least = first, math.inf
            for then in range(first, last + 1):
                cost = ages[then] - saved[then] * scale
                if cost < least:
                    best, least = then, cost
                elif ages[then] - most * scale >= least:  # nor can any later one be better
                    break
            following[place] = best
            costs[place] = self.price + least - ages[place] + lasting[place] * scale
            saved[place] = lasting[place] - still_open[place] * costs[place]
            most = max(most, saved[place])
        return following

    def _delay_until(self, place: int, then: int) -> float:
        """The expected seconds between an end that comes before `then` and the look there."""
        span = self._ages[then] - self._ages[place]
        return span - (self._lasting[then] - self._lasting[place]) / self._open[place]

    def _interval_told(self, told: Curve, age: float) -> float:
        """The best next look by what was told; what goes on after it, goes on at a steady pace."""
        past, lasted = told.at(age)
        step = max(self._floor / _STEPS_PER_FLOOR, _STEP_SHARE * age)
        best = wait = self._floor
        least = math.inf
        while wait <= min(self._ceiling, best + _TOLD_FURTHER * step):
            ended, lasting = told.at(age + wait)
            left = max(0.0, told.lasting[-1] - lasting) * math.exp(min(ended, _CERTAIN))
            then = min(self._ceiling, max(self._floor, math.sqrt(2 * self.price * left)))
            going_on = math.exp(past - ended) * (self.price * (left / then + 0.5) + then / 2)
            cost = wait - (lasting - lasted) * math.exp(past) + going_on
            if cost < least:
                best, least = wait, cost
            wait += step
        return best


def _told(curve: Curve, hint: Hint, age: float) -> Curve:
    """The curve by what upstream said; the kind's own for a job that lasts longer than was told."""
    told = curve.given(hint)
    return curve if told.still_open(age) < _FORGOTTEN else told


def _ages(curve: Curve, floor: float) -> Sequence[float]:
    """The ages at which a plan considers a look."""
    ages, step = [0.0], floor / _STEPS_PER_FLOOR
    while ages[-1] < _OLDEST and curve.still_open(ages[-1]) > _FORGOTTEN:
        ages.append(ages[-1] + max(step, _STEP_SHARE * ages[-1]))
    return ages


def price_for(curve: Curve, pace: Pace, target_delay: float) -> float:
    """The price at which jobs are noticed `target_delay` seconds after their end on average.

    The nearest that was found, where floor or ceiling leave no such price.
    """
    price = min(_PRICE_MAX, max(_PRICE_MIN, 2 * target_delay**2 / curve.lasting[-1]))
    nearest, best = math.inf, price
    for _ in range(6):
        delay = Plan(curve, price, pace).expected[1]
        off = abs(math.log(delay / target_delay))
        if off < nearest:
            nearest, best = off, price
        if off < 0.02:
            break
        # The delay goes with the root of the price, or less where the bounds hold it.
        price = min(_PRICE_MAX, max(_PRICE_MIN, price * (target_delay / delay) ** 2))
    return best


def plan_for(known: Known, pace: Pace) -> Plan:
    """The plan for jobs of a kind: some 50 kB, calculated once, kept as long as `known` is."""
    plans: dict[Pace, Plan] = known.plans
    if pace not in plans:
        plans[pace] = Plan(known.curve, known.price, pace)
    return plans[pace]


@lru_cache(64)
def _assumed(curve: Curve, pace: Pace, target_delay: float) -> Known:
    """What goes for kinds of which only a prior is known."""
    return Known(curve, price_for(curve, pace, target_delay))


@dataclass(frozen=True)
class Plans:
    """The plans of one account's models. `kinds` has what was learned, by model; others go by their
    prior.
    """

    pace: Pace = field(default_factory=Pace)
    target_delay: float = TARGET_DELAY
    kinds: Mapping[str, Known] = field(default_factory=dict)

    def curve(self, model: str | None) -> Curve:
        """What is known of a model's durations."""
        known = self.kinds.get(model or "")
        return known.curve if known else prior(model)

    def price(self, model: str | None) -> float:
        """What a look at a model's job may cost, in seconds of delay."""
        return self._known(model).price

    @property
    def least_price(self) -> float:
        """What a look may cost where it costs least."""
        return min((known.price for known in self.kinds.values()), default=self.price(None))

    def prepare(self) -> None:
        """Make what every claim wants, at a time when nobody waits for that.

        Not the plans of all kinds: there may be many, and jobs in hand of a few.
        """
        self.plan(None)

    def plan(self, model: str | None) -> Plan:
        """The plan for a model."""
        return plan_for(self._known(model), self.pace)

    def gain(self, model: str | None, hint: Hint, age: float) -> float:
        """What a look now is worth, in seconds of delay per request, upstream having said `hint`
        at the last one; the job is `age` seconds old now.

        That is the price at which now would be the best time for it, which has two sides. So much
        delay is expected to have come together. And another second costs more of it, but may bring
        the end, which saves the look after this one: while the chance of that rises, waiting pays.
        The geometric mean of both orders jobs better than either. Where no end is expected, waiting
        for the ceiling counts as the price: nobody is forgotten.
        """
        curve = self.curve(model)
        # A prior's own price may have to be solved for yet; this one is there.
        price = self.price(model if model in self.kinds else None)
        told = _told(curve, hint, hint.age)
        age = max(age, hint.age)
        ended, delay = told.awaited(hint.age, age)
        chance = told.hazards[bin_of(age)] + 2 * price / self.pace.ceiling**2
        saved = math.expm1(min(_CERTAIN, ended)) ** 2 / (2 * chance)
        at_least = price * ((age - hint.age) / self.pace.ceiling) ** 2
        return math.sqrt(saved * delay) + at_least

    def _known(self, model: str | None) -> Known:
        known = self.kinds.get(model or "")
        return known or _assumed(prior(model), self.pace, self.target_delay)


# --------------------------------------------------------------- accounts


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
    above the configured one.
    """
    quiet = max(0.0, cut.quiet_seconds)  # a clock that was set back costs nothing
    refused = cut.refused
    if refused is not None and quiet >= FORGET_SECONDS:
        refused, quiet = None, QUIET_SECONDS
    highest = configured if refused is None else min(configured, refused * BELOW_REFUSED)
    steps = int(quiet // QUIET_SECONDS)
    rate = max(min(cut.rate, configured), min(highest, cut.rate + steps * RATE_GAIN * configured))
    left = quiet - steps * QUIET_SECONDS if rate > cut.rate else quiet
    return Recovery(rate, left, refused)


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
