"""Solving the best polls of a kind of job from its curve. Pure; all spans are seconds.

When to poll is a question of price: the seconds of delay that one request is worth. While the
hazard h is constant the best interval is sqrt(2 * price / h). It is not constant, so the plan of a
learned curve is solved backwards from the oldest age: from each age the next poll is the one with
the least sum of delay, price, and the cost of going on. For what upstream says, for higher prices
and for priors, what goes on after the next poll is taken to go on at the plain interval, which
needs no solving and costs some 2 % more requests.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from reelwatch.rules.timing.fitting import Learned
from reelwatch.rules.timing.hazard import (
    BINS,
    EDGES,
    Curve,
    bin_of,
    mean_lasting,
    prior,
    typical_seconds,
)
from reelwatch.rules.timing.pace import TARGET_DELAY, Pace
from reelwatch.rules.timing.plan import AGES, PRICES, STEPS, VERSION, Plan, Table

_STEP_SHARE = 0.004  # of the age, between the ages at which a solved plan may poll
_STEPS_PER_FLOOR = 4  # or, for young jobs, of the floor
_FEW = 1e-4  # of the jobs last so long: the table ends there
_FORGOTTEN = 1e-7  # of the jobs last so long: beyond, the ceiling is good enough
_PAST = 12.0  # -log of a share of jobs: nearly all have ended
_ROUNDING = 1e-6
_ANY = Pace(1.0, 3_000.0)  # a short budget keeps to no ceiling
_POLLS_MOST = 500  # of a job, until what is to be expected of it is known
_PRICE_MIN, _PRICE_MAX = 1e-3, 1e6

CurveAt = Callable[[float], Curve]  # the curve of a job that is told something at an age


def solve(learned: Learned, pace: Pace, target_delay: float) -> Plan:
    """The plan by which jobs are noticed `target_delay` seconds after their end on average."""
    curve, room = learned.curve, pace.room
    price = price_for(curve, room, target_delay)
    ages = _ages(curve)
    solved = _solved(curve, ages, price, room) if curve.jobs else None
    return Plan(
        price,
        _table(lambda age: curve, ages, price, room, solved),
        curve.jobs,
        learned.longest,
        curve.age_at(-math.log(0.05)),
        {
            status: _table(_told(curve, learned.by_status(status)), ages, price, room)
            for status in learned.stages
        },
        [
            _table(_told(curve, learned.by_progress((step + 0.5) / STEPS)), ages, price, room)
            for step in range(STEPS if learned.progress_spread is not None else 0)
        ],
    )


def _told(curve: Curve, likelihood: Callable[[float], float]) -> CurveAt:
    return lambda age: curve.given(age, likelihood)


def _ages(curve: Curve) -> Sequence[float]:
    return [age for age in AGES if curve.still_open(age) > _FEW]


def _table(
    curve_at: CurveAt,
    ages: Sequence[float],
    price: float,
    room: Pace,
    solved: Sequence[float] | None = None,
) -> Table:
    curves = [curve_at(age) for age in ages]
    told = list(zip(curves, ages, strict=True))
    usual = solved or [best_wait(curve, age, price, room) for curve, age in told]
    dear = [
        [best_wait(curve, age, times * price, _ANY) for curve, age in told] for times in PRICES[1:]
    ]
    half, most = (
        [max(0.0, curve.age_at(curve.ended(age) - math.log(left)) - age) for curve, age in told]
        for left in (0.5, 0.1)
    )
    return Table([usual, *dear], half, most)


def best_wait(curve: Curve, age: float, price: float, room: Pace) -> float:
    """Seconds until the best next poll, if what goes on after it goes on at the plain interval.

    Going on costs sqrt(2 * price * h) a second then, and another price / 2 for who is polled at
    all. Another second of waiting costs the share that has ended meanwhile, and saves that of the
    others: the best poll is where the sum of both is least. Where h stays as it is that is the
    plain interval.
    """
    at, end = age + room.floor, age + room.ceiling
    ended = curve.ended(at) - curve.ended(age)
    best, least, cost = at, 0.0, 0.0
    while at < end and ended < _PAST:
        place = bin_of(at)
        hazard = curve.hazards[place]
        edge = min(end, EDGES[place + 1]) if place < BINS - 1 else end
        root = math.sqrt(2 * price * hazard)
        saves = 1 + root + price * hazard / 2
        enough = at + (2 * math.log1p(root / 2) - ended) / hazard  # until then waiting pays
        for until in (enough, edge):
            if at < until <= edge:
                rise = hazard * (until - at)
                cost += (until - at) * (1 - saves * math.exp(-ended) * mean_lasting(rise))
                at, ended = until, ended + rise
                if cost < least:
                    best, least = at, cost
    return best - age


def _solved(curve: Curve, ages: Sequence[float], price: float, room: Pace) -> list[float]:
    """By age: the interval with the least expected cost from then on (dynamic programming)."""
    grid = _grid(curve, room.floor)
    still_open = [curve.still_open(age) for age in grid]
    lasting = [curve.lasted(age) for age in grid]
    last = len(grid) - 1
    following = [last] * (last + 1)
    # What a poll at an age leaves to be paid, in units of all jobs and not of those still open.
    saved = [lasting[-1] - still_open[-1] * price] * (last + 1)
    most = saved[-1]
    for place in range(last - 1, -1, -1):
        scale = 1 / still_open[place]
        # What rounding adds to the sum must not cost the first age that is far enough.
        first = max(place + 1, bisect_left(grid, grid[place] + room.floor - _ROUNDING))
        furthest = max(first, bisect_right(grid, grid[place] + room.ceiling) - 1)
        best, least = min(first, last), math.inf
        for then in range(best, min(furthest, last) + 1):
            cost = grid[then] - saved[then] * scale
            if cost < least:
                best, least = then, cost
            elif grid[then] - most * scale >= least:  # nor can any later one be better
                break
        following[place] = best
        cost = price + least - grid[place] + lasting[place] * scale
        saved[place] = lasting[place] - still_open[place] * cost
        most = max(most, saved[place])
    intervals = [grid[then] - age for then, age in zip(following, grid, strict=True)]
    return [room.clamp(_between(grid, intervals, age)) for age in ages]


def _between(ages: Sequence[float], intervals: Sequence[float], age: float) -> float:
    place = min(bisect_right(ages, age), len(ages) - 1) - 1
    part = (age - ages[place]) / (ages[place + 1] - ages[place])
    return intervals[place] + min(1.0, part) * (intervals[place + 1] - intervals[place])


def _grid(curve: Curve, floor: float) -> Sequence[float]:
    """The ages at which a solved plan may poll."""
    ages, step = [0.0], floor / _STEPS_PER_FLOOR
    while ages[-1] < EDGES[-1] and curve.still_open(ages[-1]) > _FORGOTTEN:
        ages.append(ages[-1] + max(step, _STEP_SHARE * ages[-1]))
    return ages


def price_for(curve: Curve, room: Pace, target_delay: float) -> float:
    """The price at which jobs are noticed `target_delay` seconds after their end on average.

    The nearest that was found, where floor or ceiling leave no such price.
    """
    price = min(_PRICE_MAX, max(_PRICE_MIN, 2 * target_delay**2 / curve.lasting[-1]))
    nearest, best = math.inf, price
    for _ in range(6):
        delay = _mean_delay(curve, price, room)
        off = abs(math.log(delay / target_delay))
        if off < nearest:
            nearest, best = off, price
        if off < 0.02:
            break
        # The delay goes with the root of the price, or less where the bounds hold it.
        price = min(_PRICE_MAX, max(_PRICE_MIN, price * (target_delay / delay) ** 2))
    return best


def _mean_delay(curve: Curve, price: float, room: Pace) -> float:
    """The delay that is to be expected of a job that is polled from its beginning on."""
    age, delay, still_open, wait = 0.0, 0.0, 1.0, 0.0
    for _ in range(_POLLS_MOST):
        wait = best_wait(curve, age, price, room)
        delay += still_open * wait - (curve.lasted(age + wait) - curve.lasted(age))
        age += wait
        still_open = curve.still_open(age)
        if still_open < _FEW or age > EDGES[-1]:
            return delay
    return delay + still_open * wait / 2  # those who last longer go on like that


@lru_cache(64)
def assumed(typical: float, pace: Pace, target_delay: float) -> Plan:
    """What goes for kinds of which only a prior is known."""
    return solve(Learned(prior(typical)), pace, target_delay)


@dataclass(frozen=True)
class Plans:
    """The plans of one account's models. `kinds` has what was learned, by model; others go by their
    prior.
    """

    pace: Pace = field(default_factory=Pace)
    target_delay: float = TARGET_DELAY
    kinds: Mapping[str, Plan] = field(default_factory=dict)

    def plan(self, model: str | None) -> Plan:
        """The plan for a model."""
        known = self.kinds.get(model or "")
        return known or assumed(typical_seconds(model), self.pace, self.target_delay)

    @property
    def solved_for(self) -> str:
        """What plans depend on beside what was learned: others are solved anew."""
        return f"{VERSION} {self.pace.floor:g} {self.pace.ceiling:g} {self.target_delay:g}"

    @property
    def least_price(self) -> float:
        """What a poll may cost where it costs least."""
        return min((plan.price for plan in self.kinds.values()), default=self.plan(None).price)
