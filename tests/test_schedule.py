"""When the next look, try or probe is due: bounds that hold for any input, and the known points."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from statistics import mean
from unittest.mock import patch
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelwatch.rules.timing import schedule
from reelwatch.rules.timing.curves import (
    BINS,
    MIDDLES,
    Course,
    Curve,
    Hint,
    Known,
    Progressed,
    Sample,
    learn,
    prior,
)
from reelwatch.rules.timing.pace import TARGET_DELAY, Pace
from reelwatch.rules.timing.schedule import (
    BELOW_REFUSED,
    PAUSE_FIRST,
    PAUSE_MAX,
    QUIET_SECONDS,
    RATE_FLOOR,
    SLOW_MAX,
    Plan,
    Plans,
    Recovery,
    clamp,
    next_attempt,
    paced,
    pause_seconds,
    plan_for,
    price_for,
    recovered,
    slower,
    spread,
    until_next_look,
    until_next_try,
    until_slow_look,
)

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
PACE = Pace()
RETRIES = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)

JITTER = st.floats(0, 1)
SPANS = st.floats(0, 1e9)
RATES = st.floats(0.01, 100)
PACES = st.tuples(st.floats(0.1, 100), st.floats(1, 20)).map(lambda p: Pace(p[0], p[0] * p[1]))


def lognormal(count: int, sigma: float = 0.3, seed: int = 1) -> list[float]:
    """That many durations of about 120 seconds."""
    random = Random(seed)
    return [random.lognormvariate(math.log(120), sigma) for _ in range(count)]


def samples(count: int, sigma: float = 0.3) -> list[Sample]:
    return [Sample(seconds) for seconds in lognormal(count, sigma)]


LEARNED = learn("veo3", samples(100))
# Upstream says "queued" until 0.3 of a job's duration, "upsampling" from 0.7 on, and its progress.
TOLD = learn(
    "veo3",
    samples(300, sigma=0.5),
    [Course([(0.0, "queued"), (0.3, "processing"), (0.7, "upsampling")])] * 50,
    [Progressed(share / 51, share / 51) for share in range(1, 51)],
)
# Half of the jobs fail at once, the others take long.
SPLIT = learn("veo3", [Sample(8.0 + n / 50) for n in range(100)] + samples(100))
KINDS = [LEARNED, TOLD, SPLIT, prior("veo3"), prior("sora-2")]
CHEAP, DEAR = Plan(TOLD, 0.5, PACE), Plan(TOLD, 4.0, PACE)

CURVES = st.lists(st.floats(-8, 1), min_size=1, max_size=8).map(
    lambda powers: Curve(tuple(10.0 ** powers[n * len(powers) // BINS] for n in range(BINS)))
)
PRICES = st.floats(-3, 2).map(lambda power: 10.0**power)
PLANS = st.sampled_from([CHEAP, DEAR, *(Plan(curve, 0.2, Pace(2, 20)) for curve in KINDS)])
NEW_PLANS = st.builds(Plan, CURVES, st.floats(-3, 6).map(lambda power: 10.0**power), PACES)
AGES = st.floats(0, 1e7)
WORDS = st.none() | st.sampled_from(["queued", "upsampling", "never heard of"])
HINTS = st.none() | st.builds(Hint, st.floats(0, 1e7), WORDS, st.none() | st.floats(0, 1))


def drawn(curve: Curve, random: Random) -> float:
    """The duration of a job of this kind."""
    return curve.age_at(random.expovariate(1))


def acted_out(plan: Plan, durations: Sequence[float], *, told: bool = False) -> tuple[float, float]:
    """Looks per job and mean delay; `told`: upstream says how far each job is."""
    looks, late = [], []
    for duration in durations:
        age, count = 0.0, 0
        while age < duration:
            age += plan.interval(age, Hint(age, None, age / duration) if told else None)
            count += 1
        looks.append(count)
        late.append(age - duration)
    return mean(looks), mean(late)


def fixed_interval(curve: Curve, interval: float) -> tuple[float, float]:
    """What is expected of looks at equal distances: per job, and their mean delay."""
    looks, delay, age, left = 0.0, 0.0, 0.0, 1.0
    while left > 1e-7 and age < 100_000:
        looks += left
        delay += left * interval - (curve.at(age + interval)[1] - curve.at(age)[1])
        age += interval
        left = curve.still_open(age)
    return looks, delay


def test_the_usual_pace_is_5_to_60_seconds() -> None:
    assert (PACE.floor, PACE.ceiling) == (5.0, 60.0)


class TestNextLook:
    @given(PLANS, AGES, HINTS, JITTER)
    def test_stays_within_floor_and_ceiling_jitter_included(
        self, plan: Plan, age: float, hint: Hint | None, jitter: float
    ) -> None:
        assert plan.pace.floor <= until_next_look(plan, age, hint, jitter) <= plan.pace.ceiling

    @settings(max_examples=30)
    @given(NEW_PLANS, AGES, HINTS, JITTER)
    def test_stays_within_them_for_any_curve_price_and_pace(
        self, plan: Plan, age: float, hint: Hint | None, jitter: float
    ) -> None:
        assert plan.pace.floor <= until_next_look(plan, age, hint, jitter) <= plan.pace.ceiling

    @given(PLANS, st.floats(0, 400))
    def test_is_the_plans_spread_by_the_jitter(self, plan: Plan, age: float) -> None:
        waits = [until_next_look(plan, age, None, jitter / 4) for jitter in range(5)]
        assert waits == sorted(set(waits))
        inner = Pace(plan.pace.floor / 0.9, plan.pace.ceiling / 1.1)
        assert waits[2] == pytest.approx(clamp(plan.interval(age), inner))

    def test_is_soon_where_jobs_end_and_late_where_they_do_not(self) -> None:
        plan = Plan(LEARNED, 1.0, PACE)  # of jobs that take about 120 seconds
        assert plan.interval(0) > 50
        assert plan.interval(120) < 12
        assert plan.interval(60) > 1.4 * plan.interval(110)

    def test_leads_from_an_age_without_ends_to_where_they_begin(self) -> None:
        """Not to one in the middle of nothing, and not beyond the first ends."""
        curve = Curve(tuple(1e-6 if middle < 40 else 0.05 for middle in MIDDLES))
        plan = Plan(curve, 0.2, PACE)
        for age in (0, 10, 20, 30):
            assert 40 < age + plan.interval(age) < 47

    @pytest.mark.parametrize("age", [200_000, 1e7])
    def test_is_at_most_the_ceilings_when_nothing_is_known_of_such_an_age(self, age: float) -> None:
        plan = Plan(LEARNED, 1.0, PACE)
        assert until_next_look(plan, age, None, 0.5) == pytest.approx(60 / 1.1)
        assert until_next_look(plan, age, Hint(age, "upsampling", 0.9), 0.5) == pytest.approx(
            60 / 1.1
        )


class TestPlan:
    @pytest.mark.parametrize("hazard", [0.003, 0.01, 0.03])
    @pytest.mark.parametrize("price", [0.05, 0.2, 0.5])
    @pytest.mark.parametrize("age", [0, 20, 100])
    def test_at_a_constant_hazard_goes_with_the_root_of_price_by_hazard(
        self, hazard: float, price: float, age: float
    ) -> None:
        plan = Plan(Curve((hazard,) * BINS), price, Pace(0.2, 1_000))
        expected = math.sqrt(2 * price / hazard)
        resolution = max(0.06, 0.004 * age)
        # The next order: by so much of itself it is shorter, as a job may end before.
        assert plan.interval(age) == pytest.approx(
            expected * (1 - hazard * expected / 6), rel=0.02, abs=resolution
        )

    @pytest.mark.parametrize("curve", [LEARNED, prior("veo3"), prior("sora-2"), SPLIT])
    @pytest.mark.parametrize("price", [0.1, 0.6, 4.0])
    def test_no_fixed_interval_is_better(self, curve: Curve, price: float) -> None:
        looks, delay = Plan(curve, price, PACE).expected
        for interval in (5.6, 8, 12, 20, 35, 54):
            other_looks, other_delay = fixed_interval(curve, interval)
            # The plan's grid is that coarse.
            assert price * looks + delay < 1.02 * (price * other_looks + other_delay)

    @settings(max_examples=15)
    @given(st.sampled_from(KINDS), PRICES, PRICES)
    def test_a_dearer_look_is_never_made_more_often(
        self, curve: Curve, one: float, other: float
    ) -> None:
        cheap, dear = (Plan(curve, price, PACE).expected for price in sorted((one, other)))
        assert dear[0] <= cheap[0] + 1e-6
        assert dear[1] >= cheap[1] - 1e-6

    @pytest.mark.parametrize("curve", KINDS)
    def test_looks_at_the_floor_where_they_cost_nothing(self, curve: Curve) -> None:
        plan = Plan(curve, 1e-9, PACE)
        assert plan.expected[1] < 3.0  # half of the floor, and of the grid
        if curve is not SPLIT:  # there one waits for the better moment now and then
            assert plan.interval(100) == pytest.approx(5 / 0.9)

    @pytest.mark.parametrize("curve", KINDS)
    def test_looks_at_the_ceiling_where_they_cost_everything(self, curve: Curve) -> None:
        plan = Plan(curve, 1e6, PACE)
        for age in range(0, 120, 5):
            assert 60 / 1.1 - 1.5 <= plan.interval(age) <= 60 / 1.1

    @pytest.mark.parametrize("curve", KINDS)
    @pytest.mark.parametrize("price", [0.15, 2.0])
    def test_what_it_expects_is_what_comes(self, curve: Curve, price: float) -> None:
        plan, random = Plan(curve, price, PACE), Random(3)
        looks, delay = acted_out(plan, [drawn(curve, random) for _ in range(6_000)])
        assert plan.expected == pytest.approx((looks, delay), rel=0.04)

    @pytest.mark.parametrize("target", [4.0, 10.0])
    def test_what_a_hundred_jobs_taught_is_what_the_next_ones_do(self, target: float) -> None:
        plan = Plan(LEARNED, price_for(LEARNED, PACE, target), PACE)
        looks, delay = acted_out(plan, lognormal(4_000, seed=5))
        assert plan.expected == pytest.approx((looks, delay), rel=0.15)

    @pytest.mark.parametrize(("target", "share"), [(4.0, 0.7), (8.0, 0.7), (15.0, 0.8)])
    def test_needs_fewer_requests_than_a_fixed_interval_of_equal_delay(
        self, target: float, share: float
    ) -> None:
        durations = lognormal(4_000, seed=6)
        looks, delay = acted_out(Plan(LEARNED, price_for(LEARNED, PACE, target), PACE), durations)
        interval = 2 * delay
        counts = [math.ceil(seconds / interval) for seconds in durations]
        late = [n * interval - seconds for n, seconds in zip(counts, durations, strict=True)]
        assert mean(late) == pytest.approx(delay, rel=0.05)
        assert looks < share * mean(counts)


class TestPlanByHint:
    """What upstream said of this very job."""

    def test_what_tells_nothing_changes_nothing(self) -> None:
        plan = Plan(TOLD, 1.0, PACE)
        for age in (0.0, 33.0, 77.0, 300.0):
            assert plan.interval(age, Hint(age, "odd")) == plan.interval(age)

    def test_a_late_stage_makes_it_sooner_an_early_one_later(self) -> None:
        plan = Plan(TOLD, 1.0, PACE)
        late, none, early = (
            plan.interval(60, Hint(60, word)) for word in ("upsampling", None, "queued")
        )
        assert late < 0.8 * none
        assert early > 1.5 * none

    def test_progress_leads_to_where_it_points(self) -> None:
        """To the end that is near by it, not past it, and not to the middle of the way."""
        plan = Plan(TOLD, 1.0, PACE)
        assert 100 < 80 + plan.interval(80, Hint(80, None, 80 / 105)) < 120

    def test_a_dear_look_waits_longer_though_the_end_is_near(self) -> None:
        plans = [Plan(TOLD, price, PACE) for price in (0.5, 5.0, 50.0)]
        waits = [plan.interval(40, Hint(40, "upsampling")) for plan in plans]
        assert waits == sorted(set(waits))
        assert waits[0] < PACE.floor * 1.3
        assert waits[1] > 11

    def test_what_cannot_end_before_the_ceiling_is_looked_at_by_then(self) -> None:
        assert CHEAP.interval(40, Hint(40, "queued")) == pytest.approx(60 / 1.1, rel=0.01)

    def test_fewer_requests_and_less_delay_where_upstream_tells_its_progress(self) -> None:
        plan, durations = Plan(TOLD, 1.0, PACE), lognormal(300, sigma=0.5, seed=8)
        looks, delay = acted_out(plan, durations)
        told_looks, told_delay = acted_out(plan, durations, told=True)
        assert told_looks + told_delay < 0.7 * (looks + delay)

    @given(st.floats(0, 300), HINTS)
    def test_a_dearer_look_is_never_sooner_by_much(self, age: float, hint: Hint | None) -> None:
        cheap, dear = (plan.interval(age, hint) for plan in (CHEAP, DEAR))
        assert dear >= cheap - max(1.4, 0.004 * age)


class TestPrice:
    @pytest.mark.parametrize("curve", [LEARNED, TOLD, prior("veo3"), prior("sora-2")])
    @pytest.mark.parametrize("target", [4.0, 5.0, 7.0, 9.0, 14.0, 20.0])
    def test_is_the_one_of_the_target_delay(self, curve: Curve, target: float) -> None:
        delay = Plan(curve, price_for(curve, PACE, target), PACE).expected[1]
        # A plan of few looks goes from one delay to the next by leaps.
        assert delay == pytest.approx(target, rel=0.05 if curve.jobs == 0 else 0.1)

    @pytest.mark.parametrize("target", [5.0, 14.0, 20.0])
    def test_where_the_delay_leaps_over_the_target_it_is_a_near_one(self, target: float) -> None:
        """Between two clusters of ends a look is made in the one or in the other."""
        found = price_for(SPLIT, PACE, target)
        off = [
            abs(math.log(Plan(SPLIT, price, PACE).expected[1] / target))
            for price in (found, found / 3, found * 3)
        ]
        assert off[0] == min(off)

    @pytest.mark.parametrize("curve", [LEARNED, prior("veo3"), prior("grok")])
    def test_the_usual_target_can_be_met_at_the_usual_pace(self, curve: Curve) -> None:
        price = price_for(curve, PACE, TARGET_DELAY)
        assert Plan(curve, price, PACE).expected[1] == pytest.approx(TARGET_DELAY, rel=0.05)

    def test_a_target_below_what_the_floor_allows_is_the_lowest(self) -> None:
        price = price_for(LEARNED, PACE, 0.5)
        assert price == pytest.approx(1e-3)

    def test_a_target_above_what_the_ceiling_allows_means_looks_at_the_ceiling(self) -> None:
        price = price_for(LEARNED, PACE, 3_600)
        assert Plan(LEARNED, price, PACE).expected == Plan(LEARNED, 1e6, PACE).expected

    def test_is_bounded_where_all_jobs_end_at_once(self) -> None:
        assert price_for(Curve((1.0,) * BINS), PACE, 5_000) <= 1e6

    @settings(max_examples=10)
    @given(CURVES, PACES, st.floats(0.01, 10_000))
    def test_is_a_price_for_any_curve_pace_and_target(
        self, curve: Curve, pace: Pace, target: float
    ) -> None:
        assert 0 < price_for(curve, pace, target) <= 1e6


class TestPlans:
    PLANS = Plans(PACE, 4.0, {"veo3": Known(LEARNED, 1.0)})

    def test_what_was_learned_of_a_model_counts_for_it_alone(self) -> None:
        assert self.PLANS.curve("veo3") is LEARNED
        assert self.PLANS.price("veo3") == 1.0
        for model in ("veo3-fast", "sora-2", "", None):
            assert self.PLANS.curve(model) is prior(model)
            assert self.PLANS.price(model) == price_for(prior(model), PACE, 4.0)

    def test_the_least_price_is_that_of_the_kind_whose_looks_cost_least(self) -> None:
        kinds = {"veo3": Known(LEARNED, 1.0), "sora-2": Known(LEARNED, 0.3)}
        assert replace(self.PLANS, kinds=kinds).least_price == 0.3
        assert self.PLANS.least_price == 1.0
        assert replace(self.PLANS, kinds={}).least_price == self.PLANS.price(None)

    def test_a_higher_target_is_a_dearer_look(self) -> None:
        prices = [Plans(PACE, target).price("sora-2") for target in (4.0, 8.0, 16.0)]
        assert prices == sorted(set(prices))

    @pytest.mark.parametrize("model", ["veo3", "sora-2"])
    def test_dear_looks_are_rare(self, model: str) -> None:
        curve, usual = self.PLANS.curve(model), self.PLANS.price(model)
        plans = [
            Plan(curve, usual * dearer, Pace(5, 60 * math.sqrt(dearer)))
            for dearer in (1, 2, 8, 64, 512)
        ]
        looks = [plan.expected[0] for plan in plans]
        assert looks == sorted(set(looks), reverse=True)
        for age in (0, 50, 100, 150, 250):
            intervals = [plan.interval(age) for plan in plans]
            assert all(later >= sooner - 1.4 for sooner, later in pairwise(intervals))
            assert intervals[-1] > 1.5 * intervals[0]

    def test_a_quick_failure_does_not_hide_what_comes_later(self) -> None:
        """With few looks to a job, the first one goes past the few that fail at once."""
        failures = [Sample(10.0 + n / 10) for n in range(7)]
        curve = learn("veo3", failures + [Sample(240.0 + n) for n in range(-46, 47)])
        assert Plan(curve, 40.0, Pace(5, 1_000)).interval(0) > 150

    @pytest.mark.parametrize("price", [0.1, 5.0, 40.0])
    def test_a_plan_is_the_best_of_its_grid(self, price: float) -> None:
        """No later next look is cheaper: the search may stop early only where none can be."""
        failures = [Sample(10.0 + n / 10) for n in range(7)]
        curve = learn("veo3", failures + [Sample(240.0 + n) for n in range(-46, 47)])
        plan = Plan(curve, price, Pace(5, 1_000))
        looks, delay = plan.expected
        for first in (60.0, 120.0, 200.0, 260.0, 400.0):
            started = Plan(curve, price, Pace(5, 1_000))
            place = min(range(len(started._ages)), key=lambda n: abs(started._ages[n] - first))
            started._next[0] = place
            other_looks, other_delay = started.expected
            assert price * looks + delay <= price * other_looks + other_delay + 1e-6

    def test_what_every_claim_wants_is_prepared_and_nothing_else(self) -> None:
        curve = learn("veo3", samples(10))
        plans = Plans(Pace(7, 70), 4.0, {"odd": Known(curve, 1.0)})
        plans.prepare()
        with patch.object(schedule, "Plan", side_effect=AssertionError("made too late")):
            plans.plan(None)
            assert plans.gain(None, Hint(10.0), 30.0) > 0
            assert plans.gain("odd", Hint(10.0), 30.0) > 0
            with pytest.raises(AssertionError, match="made too late"):
                plans.plan("odd")
        assert plans.least_price == 1.0

    def test_a_plan_goes_with_what_it_was_made_from(self) -> None:
        known = Known(LEARNED, 1.0)
        plan = ref(plan_for(known, PACE))
        assert plan_for(known, PACE) is plan()
        del known
        assert plan() is None

    def test_a_plan_is_made_once(self) -> None:
        assert self.PLANS.plan("veo3") is replace(self.PLANS).plan("veo3")
        assert self.PLANS.plan("veo3.1") is self.PLANS.plan("veo2")  # of equal priors


class TestGain:
    """What a look is worth when not all that are due can be made."""

    PLANS = Plans(PACE, 4.0, {"veo3": Known(LEARNED, 1.0)})

    @given(CURVES, PACES, HINTS, SPANS)
    def test_is_a_number_for_any_job(
        self, curve: Curve, pace: Pace, hint: Hint | None, waited: float
    ) -> None:
        plans = Plans(pace, 4.0, {"veo3": Known(curve, 1.0)})
        seen = hint or Hint(0.0)
        assert 0 <= plans.gain("veo3", seen, seen.age + waited) < math.inf
        assert plans.gain("veo3", seen, seen.age) == 0

    @pytest.mark.parametrize("seen", [0.0, 60.0, 120.0, 180.0, 400.0])
    def test_grows_with_waiting(self, seen: float) -> None:
        plans = Plans(PACE, 4.0)  # a prior, whose chance of ending never rises
        gains = [plans.gain(None, Hint(seen), seen + waited) for waited in range(60, 900, 20)]
        assert gains == sorted(set(gains))

    def test_whose_chance_of_ending_has_passed_goes_before_whose_end_is_near(self) -> None:
        young, old = 30.0, 36.0
        early, late = (
            Curve(tuple(before if age < young else after for age in MIDDLES))
            for before, after in ((0.005, 0.001), (0.005, 0.03))
        )
        assert early.awaited(0.0, old) < late.awaited(0.0, old)  # in its chance and its delay
        plans = Plans(PACE, 4.0, {"early": Known(early, 1.0), "late": Known(late, 1.0)})
        assert plans.gain("early", Hint(0.0), old) > 1.5 * plans.gain("late", Hint(0.0), old)

    @given(CURVES, PACES, st.floats(0, 1e7))
    def test_nobody_is_forgotten(self, curve: Curve, pace: Pace, seen: float) -> None:
        """After the ceiling a look is worth its price, whatever is known of the kind."""
        plans = Plans(pace, 4.0, {"veo3": Known(curve, 0.7)})
        assert plans.gain("veo3", Hint(seen), seen + pace.ceiling) >= 0.7 * (1 - 1e-6)

    @pytest.mark.parametrize("age", [10.0, 60.0, 120.0, 170.0])
    def test_is_about_the_price_when_the_plan_makes_a_look_due(self, age: float) -> None:
        plans = Plans(Pace(0.1, 1_000), 4.0)
        due = age + plans.plan("veo3").interval(age)
        assert plans.gain("veo3", Hint(age), due) == pytest.approx(plans.price("veo3"), rel=0.5)

    def test_of_an_unknown_kind_solves_nothing(self) -> None:
        """It is asked for while an account's row is locked."""
        plans = Plans(Pace(6, 66), 4.0)
        plans.prepare()
        solved = schedule._assumed.cache_info().misses
        assert plans.gain("sora-2", Hint(10.0), 60.0) > 0
        assert schedule._assumed.cache_info().misses == solved

    def test_knows_what_was_learned_and_what_was_said(self) -> None:
        courses = [Course([(0.0, "queued"), (0.8, "finishing")])] * 30
        curve = learn("veo3", [Sample(60.0 + 4 * n) for n in range(30)], courses)
        plans = Plans(PACE, 4.0, {"veo3": Known(curve, 1.0)})
        queued, silent, finishing = (
            plans.gain("veo3", Hint(100.0, word), 120.0) for word in ("queued", None, "finishing")
        )
        assert queued < 0.7 * silent
        assert finishing > 1.3 * silent

    def test_what_was_told_is_forgotten_when_it_proves_wrong(self) -> None:
        told = [Progressed(share / 20, share / 20) for share in range(1, 20)]
        curve = learn("veo3", [Sample(100.0 + n) for n in range(40)], (), told)
        plans = Plans(PACE, 4.0, {"veo3": Known(curve, 1.0)})
        assert curve.given(Hint(1e5, None, 0.1)).still_open(1e5) < 1e-7
        wrong = plans.gain("veo3", Hint(1e5, None, 0.1), 1e5 + 20)
        assert wrong == plans.gain("veo3", Hint(1e5), 1e5 + 20)

    @pytest.mark.parametrize(("hazard", "waited"), [(0.01, 10.0), (0.5, 20.0), (1.0, 3.0)])
    @pytest.mark.parametrize("seen", [0.0, 5.0, 300.0, 20_000.0])
    def test_is_the_mean_delay_of_a_steady_kind(
        self, hazard: float, waited: float, seen: float
    ) -> None:
        """To any age: where next to none lasts so long, rounding must not be all that is left."""
        curve = Curve((hazard,) * BINS)
        expected = waited - (1 - math.exp(-hazard * waited)) / hazard
        ended, late = curve.awaited(seen, seen + waited)
        assert (ended, late) == pytest.approx((hazard * waited, expected), rel=1e-3)


class TestNextTry:
    @given(st.integers(0, 10**9), PACES, JITTER)
    def test_stays_within_floor_and_ceiling_jitter_included(
        self, errors: int, pace: Pace, jitter: float
    ) -> None:
        assert pace.floor <= until_next_try(errors, pace, jitter) <= pace.ceiling

    @given(st.integers(1, 100), PACES, JITTER)
    def test_never_grows_shorter_with_another_error(
        self, errors: int, pace: Pace, jitter: float
    ) -> None:
        first = until_next_try(errors, pace, jitter)
        assert first <= until_next_try(errors + 1, pace, jitter)

    def test_doubles_from_the_floor_to_the_ceiling(self) -> None:
        waits = [until_next_try(errors, PACE, 0.5) for errors in range(1, 7)]
        assert waits == pytest.approx([5 / 0.9, 10, 20, 40, 60 / 1.1, 60 / 1.1])


class TestSlowLook:
    @given(st.floats(-1e9, 1e9), PACES, JITTER)
    def test_is_never_quicker_than_a_usual_one_but_for_jitter_and_never_rarer_than_it_may_be(
        self, past: float, pace: Pace, jitter: float
    ) -> None:
        wait = until_slow_look(past, pace, jitter)
        assert 0.899 * pace.ceiling <= wait <= 1.101 * max(SLOW_MAX, pace.ceiling)

    @given(SPANS, SPANS, PACES, JITTER)
    def test_grows_rarer_with_time(
        self, one: float, other: float, pace: Pace, jitter: float
    ) -> None:
        early, late = sorted((one, other))
        assert until_slow_look(early, pace, jitter) <= until_slow_look(late, pace, jitter)

    @pytest.mark.parametrize(
        ("past", "seconds"), [(0, 60), (600, 60), (3_600, 360), (9_000, 900), (86_400, 900)]
    )
    def test_at_known_distances_from_the_deadline(self, past: float, seconds: float) -> None:
        assert until_slow_look(past, PACE, 0.5) == seconds

    def test_a_ceiling_above_the_usual_maximum_wins(self) -> None:
        assert until_slow_look(86_400, Pace(5, 3_600), 0.5) == 3_600


class TestSpread:
    @pytest.mark.parametrize(("jitter", "seconds"), [(0, 80), (0.25, 90), (0.5, 100), (1, 120)])
    def test_goes_from_shortest_to_longest(self, jitter: float, seconds: float) -> None:
        assert spread(100, jitter, 0.2) == pytest.approx(seconds)

    @given(SPANS, JITTER, st.floats(0, 1))
    def test_stays_within_its_share(self, seconds: float, jitter: float, share: float) -> None:
        slack = seconds * (share + 1e-9)
        assert seconds - slack <= spread(seconds, jitter, share) <= seconds + slack

    @pytest.mark.parametrize(
        ("seconds", "clamped"), [(0, 5), (5, 5), (30, 30), (60, 60), (61, 60), (1e12, 60)]
    )
    def test_clamping(self, seconds: float, clamped: float) -> None:
        assert clamp(seconds, PACE) == clamped

    def test_the_floor_wins_where_floor_and_ceiling_cross(self) -> None:
        assert clamp(1, Pace(10, 5)) == clamp(99, Pace(10, 5)) == 10

    @pytest.mark.parametrize("seconds", [0, 5, 20, 60, 3_600])
    def test_looks_do_not_bunch_at_the_bounds(self, seconds: float) -> None:
        waits = [paced(seconds, PACE, jitter / 10) for jitter in range(11)]
        assert waits == sorted(set(waits))
        assert waits[-1] / waits[0] == pytest.approx(1.1 / 0.9)

    @given(SPANS, st.floats(0.1, 1_000), JITTER)
    def test_a_pace_without_room_leaves_no_choice(
        self, seconds: float, only: float, jitter: float
    ) -> None:
        assert paced(seconds, Pace(only, only), jitter) == only


class TestRate:
    @given(RATES)
    def test_a_429_never_raises_it_and_never_ends_it(self, rate: float) -> None:
        assert min(rate, RATE_FLOOR) <= slower(rate) <= rate

    @pytest.mark.parametrize(
        ("rate", "after"), [(5, 3.5), (0.1, 0.07), (0.06, 0.05), (0.05, 0.05), (0.02, 0.02)]
    )
    def test_a_429_cuts_it_down_to_a_floor(self, rate: float, after: float) -> None:
        assert slower(rate) == pytest.approx(after)

    @given(RATES, RATES, st.floats(-1e6, 1e6), st.none() | RATES)
    def test_recovery_stays_above_zero_and_never_exceeds_the_configured(
        self, rate: float, configured: float, quiet: float, refused: float | None
    ) -> None:
        found = recovered(Recovery(rate, quiet, refused), configured)
        assert 0 < found.rate <= configured
        assert found.rate >= min(rate, configured)
        assert 0 <= found.quiet_seconds <= max(0, quiet)
        assert found.refused in (refused, None)

    @given(RATES, RATES, st.floats(0, 1e6), st.floats(0, 1e6))
    def test_recovery_grows_with_quiet(
        self, rate: float, configured: float, one: float, other: float
    ) -> None:
        short, long = sorted((one, other))
        assert rate_after(short, rate, configured) <= rate_after(long, rate, configured)

    @pytest.mark.parametrize(
        ("quiet", "rate"),
        [(-1, 1), (0, 1), (14.9, 1), (15, 1.5), (29.9, 1.5), (30, 2), (120, 5), (1e9, 5)],
    )
    def test_recovery_goes_by_whole_quiet_spans(self, quiet: float, rate: float) -> None:
        assert rate_after(quiet, 1, 5) == rate

    def test_a_lower_configured_rate_holds_at_once(self) -> None:
        assert rate_after(0, 5, 2) == 2

    @given(RATES)
    def test_what_a_429_took_comes_back(self, rate: float) -> None:
        assert rate_after(20 * QUIET_SECONDS, slower(rate), rate) == rate

    @pytest.mark.parametrize(
        ("quiet", "expected"),
        [
            (15, Recovery(4.0, 0, 6.0)),
            (30, Recovery(4.92, 0, 6.0)),
            (46, Recovery(4.92, 1, 6.0)),
            (599, Recovery(4.92, 14, 6.0)),
            (600, Recovery(4.0, 0, None)),
        ],
    )
    def test_it_stays_below_what_was_refused_until_that_is_long_ago(
        self, quiet: float, expected: Recovery
    ) -> None:
        found = recovered(Recovery(3.0, quiet, 6.0), 10.0)
        assert found.rate == pytest.approx(expected.rate)
        assert replace(found, rate=expected.rate) == expected

    def test_at_its_highest_quiet_goes_on_being_counted(self) -> None:
        highest = BELOW_REFUSED * 6.0
        assert recovered(Recovery(highest, 500, 6.0), 10.0) == Recovery(highest, 500, 6.0)
        assert recovered(Recovery(highest, 600, 6.0), 10.0) == Recovery(highest + 1.0, 0, None)

    @pytest.mark.parametrize("limit", [0.9, 1.7, 3.0, 4.2, 4.9])
    def test_a_limit_is_learned(self, limit: float) -> None:
        """After some refusals there are none for long, and most of what is allowed is used."""
        now = Recovery(5.0, 0.0)
        refused_at = []
        for second in range(0, 560, 5):
            if now.rate > limit:
                refused_at.append(second)
                now = Recovery(slower(now.rate), 0.0, now.rate)
            else:
                now = recovered(replace(now, quiet_seconds=now.quiet_seconds + 5), 5.0)
        assert len(refused_at) <= 8
        assert refused_at[-1] <= 90
        assert now.rate >= 0.7 * limit


def rate_after(quiet: float, rate: float, configured: float) -> float:
    return recovered(Recovery(rate, quiet), configured).rate


class TestPause:
    def test_doubles_to_its_maximum(self) -> None:
        assert [pause_seconds(n) for n in range(1, 10)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]

    @given(st.integers(0, 10**9))
    def test_is_bounded_whatever_the_count(self, pauses: int) -> None:
        assert PAUSE_FIRST / 2 <= pause_seconds(pauses) <= PAUSE_MAX


class TestNextAttempt:
    @pytest.mark.parametrize("failures", range(1, len(RETRIES) + 1))
    def test_follows_the_schedule(self, failures: int) -> None:
        at = next_attempt(failures, RETRIES, NOW, 0.5)
        assert at == NOW + timedelta(seconds=RETRIES[failures - 1])

    @pytest.mark.parametrize(
        ("failures", "schedule"), [(11, RETRIES), (99, RETRIES), (1, ()), (2, (5.0,))]
    )
    def test_ends_with_the_schedule(self, failures: int, schedule: tuple[float, ...]) -> None:
        assert next_attempt(failures, schedule, NOW, 0.5) is None
        assert next_attempt(failures, schedule, NOW, 0.5, retry_after=1) is None

    @given(st.integers(1, 10), JITTER)
    def test_is_spread_by_a_fifth(self, failures: int, jitter: float) -> None:
        at = next_attempt(failures, RETRIES, NOW, jitter)
        assert at is not None
        delay, scheduled = (at - NOW).total_seconds(), RETRIES[failures - 1]
        assert 0.8 * scheduled - 1e-5 <= delay <= 1.2 * scheduled + 1e-5

    @pytest.mark.parametrize(
        ("retry_after", "delay"),
        [(None, 60), (0, 60), (59, 60), (60, 60), (90, 90), (120, 120), (121, 120), (3e8, 120)],
    )
    def test_retry_after_counts_between_the_scheduled_delay_and_twice_it(
        self, retry_after: float | None, delay: float
    ) -> None:
        at = next_attempt(2, RETRIES, NOW, 0.5, retry_after)
        assert at == NOW + timedelta(seconds=delay)

    @given(st.integers(1, 10), JITTER, st.floats(0, 1e12))
    def test_retry_after_never_shortens_nor_more_than_doubles(
        self, failures: int, jitter: float, retry_after: float
    ) -> None:
        scheduled = next_attempt(failures, RETRIES, NOW, jitter)
        asked = next_attempt(failures, RETRIES, NOW, jitter, retry_after)
        assert scheduled is not None
        assert asked is not None
        twice = NOW + 2 * (scheduled - NOW) + timedelta(microseconds=2)
        assert NOW < scheduled <= asked <= twice
