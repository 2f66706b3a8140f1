"""The best polls of a kind of job, and the price at which its ends are noticed in time."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelwatch.rules.timing.fitting import Course, Learned, Progressed, Sample, learn
from reelwatch.rules.timing.hazard import BINS, MIDDLES, Curve, prior
from reelwatch.rules.timing.pace import TARGET_DELAY, Pace
from reelwatch.rules.timing.plan import AGES, ETA_JOBS, PRICES, STEPS, Hint, Plan
from reelwatch.rules.timing.planner import Plans, assumed, best_wait, price_for, solve

PACE = Pace()
WIDE = Pace(0.5, 1_000)
PACES = st.tuples(st.floats(0.1, 100), st.floats(1, 20)).map(lambda p: Pace(p[0], p[0] * p[1]))
CURVES = st.lists(st.floats(-8, 1), min_size=1, max_size=8).map(
    lambda powers: Curve(tuple(10.0 ** powers[n * len(powers) // BINS] for n in range(BINS)), 30)
)
PRICES_OF_ANY = st.floats(-3, 6).map(lambda power: 10.0**power)


def lognormal(count: int, sigma: float = 0.3, seed: int = 1) -> list[float]:
    """That many durations of about 120 seconds."""
    random = Random(seed)
    return [random.lognormvariate(math.log(120), sigma) for _ in range(count)]


def samples(count: int, sigma: float = 0.3) -> list[Sample]:
    return [Sample(seconds) for seconds in lognormal(count, sigma)]


LEARNED = learn("veo3", samples(100))
# Upstream says "queued" until 0.3 of a job's duration, "upsampling" from 0.7 on, and its progress.
COURSES = [Course([(0.0, "queued"), (0.3, "processing"), (0.7, "upsampling")])] * 50
TOLD = learn(
    "veo3",
    samples(300, sigma=0.5),
    COURSES,
    [Progressed(share / 51, share / 51) for share in range(1, 51)],
)
# Half of the jobs fail at once, the others take long.
SPLIT = learn("veo3", [Sample(8.0 + n / 50) for n in range(100)] + samples(100))
CURVES_OF_KINDS = [LEARNED.curve, TOLD.curve, SPLIT.curve, prior(100.0)]


@cache
def usual_plan() -> Plan:
    return solve(LEARNED, PACE, TARGET_DELAY)


@cache
def told_plan() -> Plan:
    """Also by what upstream says."""
    return solve(TOLD, PACE, TARGET_DELAY)


@cache
def plan_of(jobs: int) -> Plan:
    """Learned from so many."""
    return solve(learn("veo3", samples(jobs)), PACE, TARGET_DELAY)


def expected(curve: Curve, interval: Callable[[float], float]) -> tuple[float, float]:
    """Polls per job, the first at age 0 not counted, and the mean delay."""
    polls, delay, age, left = 0.0, 0.0, 0.0, 1.0
    while left > 1e-7 and age < 100_000:
        wait = interval(age)
        polls += left
        delay += left * wait - (curve.lasted(age + wait) - curve.lasted(age))
        age += wait
        left = curve.still_open(age)
    return polls, delay


def steadily(interval: float) -> Callable[[float], float]:
    return lambda _: interval


def planned(plan: Plan) -> Callable[[float], float]:
    return lambda age: plan.interval(Hint(age))


class TestBestWait:
    @settings(max_examples=50)
    @given(CURVES, st.floats(0, 1e6), PRICES_OF_ANY, PACES)
    def test_stays_within_floor_and_ceiling(
        self, curve: Curve, age: float, price: float, pace: Pace
    ) -> None:
        slack = 1e-6 * (1 + age)
        wait = best_wait(curve, age, price, pace)
        assert pace.floor - slack <= wait <= pace.ceiling + slack

    @pytest.mark.parametrize("hazard", [0.003, 0.01, 0.03])
    @pytest.mark.parametrize("price", [0.05, 0.2, 0.5])
    @pytest.mark.parametrize("age", [0, 20, 100])
    def test_at_a_constant_hazard_it_is_the_plain_interval(
        self, hazard: float, price: float, age: float
    ) -> None:
        plain = math.sqrt(2 * price / hazard)
        found = best_wait(Curve((hazard,) * BINS), age, price, Pace(0.2, 1_000))
        assert found == pytest.approx(plain * (1 - hazard * plain / 4), rel=0.01)

    @pytest.mark.parametrize("age", [0, 10, 20, 30])
    def test_leads_from_an_age_without_ends_to_where_they_begin(self, age: float) -> None:
        """Not to one in the middle of nothing, and not beyond the first ends."""
        curve = Curve(tuple(1e-6 if middle < 40 else 0.05 for middle in MIDDLES))
        assert 40 < age + best_wait(curve, age, 0.2, PACE) < 47

    def test_with_few_polls_to_a_job_the_first_one_goes_past_those_that_fail_at_once(self) -> None:
        failures = [Sample(10.0 + n / 10) for n in range(7)]
        curve = learn("veo3", failures + [Sample(240.0 + n) for n in range(-46, 47)]).curve
        assert best_wait(curve, 0.0, 40.0, Pace(5, 1_000)) > 150


# What is solved here, TestTold and those below solve as well, and that counts.
@pytest.mark.usefixtures("uncounted")
class TestSolved:
    @pytest.mark.parametrize("curve", CURVES_OF_KINDS)
    @pytest.mark.parametrize("target", [2.0, 5.0, 10.0])
    def test_no_fixed_interval_is_better(self, curve: Curve, target: float) -> None:
        plan = solve(Learned(curve), WIDE, target)
        polls, delay = expected(curve, planned(plan))
        for interval in (3, 5.6, 8, 12, 20, 35, 54):
            other_polls, other_delay = expected(curve, steadily(interval))
            # The plan's grid is that coarse.
            assert plan.price * polls + delay < 1.03 * (plan.price * other_polls + other_delay)

    @pytest.mark.parametrize("curve", CURVES_OF_KINDS)
    @pytest.mark.parametrize("target", [2.0, 5.0, 10.0])
    def test_solving_is_no_worse_than_one_poll_ahead(self, curve: Curve, target: float) -> None:
        plan = solve(Learned(curve), WIDE, target)
        polls, delay = expected(curve, planned(plan))
        others = expected(curve, lambda age: best_wait(curve, age, plan.price, WIDE.room))
        assert plan.price * polls + delay < 1.01 * (plan.price * others[0] + others[1])

    def test_is_soon_where_jobs_end_and_late_where_they_do_not(self) -> None:
        """Of jobs that take about 120 seconds."""
        assert usual_plan().interval(Hint(0)) > 45
        assert usual_plan().interval(Hint(120)) < 12
        assert usual_plan().interval(Hint(60)) > 1.15 * usual_plan().interval(Hint(110))

    @pytest.mark.parametrize(("target", "share"), [(4.0, 0.7), (8.0, 0.7), (15.0, 0.8)])
    def test_needs_fewer_requests_than_a_fixed_interval_of_equal_delay(
        self, target: float, share: float
    ) -> None:
        plan, durations = solve(LEARNED, PACE, target), lognormal(500, seed=6)
        polls, late = [], []
        for duration in durations:
            age, count = 0.0, 0
            while age < duration:
                age, count = age + plan.interval(Hint(age)), count + 1
            polls.append(count)
            late.append(age - duration)
        fixed = mean(math.ceil(seconds / (2 * mean(late))) for seconds in durations)
        assert mean(polls) < share * fixed

    @pytest.mark.parametrize("learned", [LEARNED, TOLD, SPLIT])
    def test_a_higher_price_waits_longer(self, learned: Learned) -> None:
        plan = solve(learned, WIDE, TARGET_DELAY)
        for rows in [plan.silent, *plan.statuses.values(), *plan.progress]:
            assert len(rows.intervals) == len(PRICES)
            for place in range(len(rows.half)):
                waits = [row[place] for row in rows.intervals[1:]]
                assert all(dear > 0.9 * cheap for cheap, dear in pairwise(waits))
                assert waits[-1] > waits[0]

    @settings(max_examples=10)
    @given(CURVES, PACES, st.floats(0.1, 100))
    def test_any_curve_has_a_plan_within_its_pace(
        self, curve: Curve, pace: Pace, target: float
    ) -> None:
        plan = solve(Learned(curve), pace, target)
        assert 0 < plan.price <= 1e6
        for age in (*AGES[:80:5], 1e6):
            wait = plan.interval(Hint(age))
            assert pace.room.floor - 0.01 <= wait <= pace.room.ceiling + 0.01


class TestTold:
    def test_what_tells_nothing_changes_nothing(self) -> None:
        for age in (0.0, 33.0, 77.0, 300.0):
            assert told_plan().interval(Hint(age, "odd")) == told_plan().interval(Hint(age))

    def test_a_late_stage_makes_it_sooner_an_early_one_later(self) -> None:
        plan = solve(TOLD, Pace(1, 300), TARGET_DELAY)
        late, none, early = (
            plan.interval(Hint(60, status)) for status in ("upsampling", None, "queued")
        )
        assert late < 0.8 * none
        assert early > 1.5 * none

    def test_progress_leads_to_where_it_points(self) -> None:
        """To the end that is near by it, not past it, and not to the middle of the way."""
        assert 95 < 80 + told_plan().interval(Hint(80, None, 80 / 105)) < 120

    def test_progress_tells_more_than_the_status(self) -> None:
        both, alone = (told_plan().interval(Hint(60, status, 0.9)) for status in ("queued", None))
        assert both == alone

    def test_progress_tells_nothing_until_it_has_been_learned(self) -> None:
        assert usual_plan().interval(Hint(60, None, 0.99)) == usual_plan().interval(Hint(60))
        assert len(told_plan().progress) == STEPS

    def test_what_cannot_end_before_the_ceiling_is_polled_by_then(self) -> None:
        assert told_plan().interval(Hint(40, "queued")) == pytest.approx(60 / 1.1, rel=0.01)


class TestEta:
    @pytest.mark.parametrize("age", [0, 60, 120, 180])
    def test_is_what_such_jobs_took(self, age: float) -> None:
        rest = sorted(seconds - age for seconds in lognormal(5_000, seed=7) if seconds > age)
        found = plan_of(2_000).eta(Hint(age))
        assert found is not None
        assert found.p50_seconds == pytest.approx(rest[len(rest) // 2], rel=0.15)
        assert found.p90_seconds == pytest.approx(rest[len(rest) * 9 // 10], rel=0.25)

    def test_goes_by_what_upstream_said(self) -> None:
        plain, late = (told_plan().eta(Hint(60, status)) for status in (None, "upsampling"))
        assert plain is not None
        assert late is not None
        assert (late.p50_seconds or math.inf) < 0.5 * (plain.p50_seconds or 0.0)

    @pytest.mark.parametrize(
        ("jobs", "age", "slow"),
        [(300, 120, False), (300, 180, False), (300, 260, True), (20, 400, True), (19, 400, False)],
    )
    def test_the_slowest_are_named_once_enough_is_known(
        self, jobs: int, age: float, slow: bool
    ) -> None:
        found = plan_of(jobs).eta(Hint(age))
        assert found is not None
        assert found.slower_than_95_percent is slow

    def test_few_jobs_foretell_nothing_beyond_the_longest_of_them(self) -> None:
        """The curve goes on there, by a prior that speaks of minutes."""
        plan = solve(learn("grok", [Sample(5.0 + place) for place in range(6)]), PACE, TARGET_DELAY)
        assert plan.longest == 10.0
        young, old, outrun = (plan.eta(Hint(age)) for age in (0.0, 9.9, 40.0))
        assert young is not None
        assert old is not None
        assert outrun is not None
        assert 3.0 < (young.p50_seconds or 0.0) < 10.0
        assert old[:2] == outrun[:2] == (None, None)
        assert outrun.measured == 6

    def test_a_prior_foretells_nothing(self) -> None:
        assert assumed(100.0, PACE, TARGET_DELAY).eta(Hint(10)) is None
        assert ETA_JOBS == 5


class TestPrice:
    @pytest.mark.parametrize("curve", [LEARNED.curve, TOLD.curve, prior(100.0)])
    @pytest.mark.parametrize("target", [4.0, 5.0, 7.0, 9.0, 14.0, 20.0])
    def test_is_the_one_of_the_target_delay(self, curve: Curve, target: float) -> None:
        delay = expected(curve, planned(solve(Learned(curve), PACE, target)))[1]
        # A plan of few polls goes from one delay to the next by leaps.
        assert delay == pytest.approx(target, rel=0.15)

    def test_a_target_below_what_the_floor_allows_is_the_lowest(self) -> None:
        price = price_for(LEARNED.curve, PACE.room, 0.5)
        assert best_wait(LEARNED.curve, 120, price, PACE.room) == pytest.approx(PACE.room.floor)

    def test_a_target_above_what_the_ceiling_allows_means_polls_at_the_ceiling(self) -> None:
        price = price_for(LEARNED.curve, PACE.room, 3_600)
        assert best_wait(LEARNED.curve, 120, price, PACE.room) == pytest.approx(60 / 1.1)

    def test_is_bounded_where_all_jobs_end_at_once(self) -> None:
        assert price_for(Curve((1.0,) * BINS), PACE.room, 5_000) <= 1e6


class TestPlans:
    @pytest.fixture
    def plans(self) -> Plans:
        return Plans(PACE, 4.0, {"veo3": usual_plan()})

    def test_what_was_learned_of_a_model_counts_for_it_alone(self, plans: Plans) -> None:
        assert plans.plan("veo3") is usual_plan()
        for model, typical in (("veo3-fast", 100.0), ("sora-2", 180.0), ("", 120.0), (None, 120.0)):
            assert plans.plan(model) is assumed(typical, PACE, 4.0)

    def test_the_least_price_is_that_of_the_kind_whose_polls_cost_least(self, plans: Plans) -> None:
        kinds = {
            "veo3": replace(usual_plan(), price=1.0),
            "sora-2": replace(usual_plan(), price=0.3),
        }
        assert replace(plans, kinds=kinds).least_price == 0.3
        assert replace(plans, kinds={}).least_price == assumed(120.0, PACE, 4.0).price

    def test_a_higher_target_is_a_dearer_poll(self) -> None:
        prices = [Plans(PACE, target).plan("sora-2").price for target in (4.0, 8.0, 16.0)]
        assert prices == sorted(set(prices))

    def test_other_settings_are_solved_for_anew(self, plans: Plans) -> None:
        others = [Plans(Pace(6, 60), 4.0), Plans(Pace(5, 70), 4.0), Plans(PACE, 5.0)]
        assert len({plans.solved_for for plans in [plans, *others]}) == 4
        assert replace(plans, kinds={}).solved_for == plans.solved_for
