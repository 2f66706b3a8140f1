"""A plan as it is stored and looked up: intervals, what a poll is worth, what remains."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.timing.plan import AGES, PRICES, STEPS, Eta, Hint, Plan, Table, from_json
from tests.test_planner import told_plan, usual_plan

HINTS = st.builds(
    Hint,
    st.floats(0, 1e7),
    st.none() | st.sampled_from(["queued", "upsampling", "never heard of", ""]),
    st.none() | st.floats(0, 1),
)
PLANS = st.sampled_from([usual_plan, told_plan]).map(lambda made: made())


def flat(*intervals: float, half: float = 40.0, most: float = 130.0) -> Table:
    """The same at any age, by price."""
    whole = [*intervals, *intervals[-1:] * (len(PRICES) - len(intervals))]
    return Table([[each] * 3 for each in whole], [half] * 3, [most] * 3)


def rising() -> Plan:
    """Whose interval grows by a second from age to age."""
    return Plan(1.0, Table([[10.0, 11.0, 12.0]] * len(PRICES), [0.0] * 3, [0.0] * 3), 9)


class TestInterval:
    @pytest.mark.parametrize(
        ("age", "interval"),
        [(0.0, 10), (AGES[1], 11), ((AGES[1] + AGES[2]) / 2, 11.5), (AGES[2], 12), (1e9, 12)],
    )
    def test_lies_between_those_of_the_ages_around(self, age: float, interval: float) -> None:
        assert rising().interval(Hint(age)) == pytest.approx(interval)

    def test_goes_by_what_upstream_said(self) -> None:
        plan = Plan(
            1.0, flat(10.0), 9, statuses={"late": flat(5.0)},
            progress=[flat(20.0 + step) for step in range(STEPS)],
        )  # fmt: skip
        said = {None: 10, "odd": 10, "": 10, "late": 5}
        assert {status: plan.interval(Hint(1.0, status)) for status in said} == said
        for progress, step in ((0.0, 0), (0.049, 0), (0.05, 1), (0.99, 19), (1.0, 19), (-1, 0)):
            assert plan.interval(Hint(1.0, "late", progress)) == 20.0 + step


class TestWorth:
    @pytest.mark.parametrize(
        ("waited", "worth"),
        [(0.0, 0), (5.0, 0.5), (10.0, 2), (40.0, 32), (160.0, 512), (320.0, 2_048), (640.0, 8_192)],
    )
    def test_is_the_price_whose_interval_was_waited(self, waited: float, worth: float) -> None:
        """At a constant hazard, whose intervals go with the root of the price."""
        plan = Plan(2.0, flat(*(10.0 * math.sqrt(price) for price in PRICES)))
        assert plan.worth(Hint(1.0), waited) == pytest.approx(worth)

    def test_a_price_that_changes_nothing_is_passed_over(self) -> None:
        plan = Plan(1.0, flat(10.0, 10.0, 20.0))
        assert plan.worth(Hint(1.0), 10.0) == 1.0
        assert 1.0 < plan.worth(Hint(1.0), 11.0) < plan.worth(Hint(1.0), 19.0) < 64.0
        assert plan.worth(Hint(1.0), 20.0) == pytest.approx(64.0)

    @given(PLANS, HINTS, st.floats(0, 1e9))
    def test_is_a_number_for_any_job(self, plan: Plan, hint: Hint, waited: float) -> None:
        assert 0 <= plan.worth(hint, waited) < math.inf
        assert plan.worth(hint, 0.0) == 0

    @given(PLANS, HINTS, st.floats(0, 1_000), st.floats(0, 1_000))
    def test_grows_with_waiting(self, plan: Plan, hint: Hint, one: float, other: float) -> None:
        shorter, longer = sorted((one, other))
        assert plan.worth(hint, shorter) <= plan.worth(hint, longer) * (1 + 1e-9)

    @given(PLANS, HINTS)
    def test_nobody_is_forgotten(self, plan: Plan, hint: Hint) -> None:
        """After the ceiling a poll is worth its price, whatever is known of the job."""
        assert plan.worth(hint, 60.0) >= plan.price

    @given(PLANS, HINTS)
    def test_is_the_price_when_the_plan_makes_a_poll_due(self, plan: Plan, hint: Hint) -> None:
        assert plan.worth(hint, plan.interval(hint)) == pytest.approx(plan.price)

    def test_knows_what_was_said(self) -> None:
        queued, silent, late = (
            told_plan().worth(Hint(80.0, status), 30.0) for status in ("queued", None, "upsampling")
        )
        assert queued < 0.7 * silent
        assert late > 1.3 * silent


class TestEta:
    @pytest.mark.parametrize(("jobs", "foretold"), [(0, False), (4, False), (5, True), (9, True)])
    def test_needs_a_few_jobs(self, jobs: int, foretold: bool) -> None:
        assert (Plan(1.0, flat(10.0), jobs).eta(Hint(10)) is not None) == foretold

    @given(PLANS, HINTS)
    def test_half_are_sooner_than_nine_of_ten(self, plan: Plan, hint: Hint) -> None:
        found = plan.eta(hint)
        assert found is not None
        half, most, longest = found.p50_seconds, found.p90_seconds, plan.longest
        assert half is None or 0 <= half <= (longest if most is None else most)
        assert most is None or hint.age + most <= longest
        assert half is not None or most is None

    @pytest.mark.parametrize(
        ("longest", "age", "half", "most"),
        [
            (200, 70, 40.0, 130.0),
            (200, 71, 40.0, None),
            (200, 160, 40.0, None),
            (200, 161, None, None),
            (200, 1e6, None, None),
            (30, 0, None, None),
            (math.inf, 1e6, 40.0, 130.0),
        ],
    )
    def test_nothing_beyond_the_longest_is_foretold(
        self, longest: float, age: float, half: float | None, most: float | None
    ) -> None:
        """A job that is as old then as no job that ended has ever been."""
        plan = Plan(1.0, flat(10.0), 12, longest)
        assert plan.eta(Hint(age)) == Eta(half, most, False, 12, longest)

    @pytest.mark.parametrize(("jobs", "age", "slow"), [(20, 101, True), (20, 99, False),
                                                       (19, 101, False)])  # fmt: skip
    def test_slow_is_who_is_older_than_most(self, jobs: int, age: float, slow: bool) -> None:
        found = Plan(1.0, flat(10.0), jobs, slow_from=100.0).eta(Hint(age, "queued"))
        assert found is not None
        assert found.slower_than_95_percent is slow


class TestStored:
    @given(PLANS, HINTS, st.floats(0, 500))
    def test_comes_back_from_the_database_as_it_was(
        self, plan: Plan, hint: Hint, waited: float
    ) -> None:
        back = _stored(plan)
        assert back.interval(hint) == pytest.approx(plan.interval(hint), rel=2e-3)
        assert back.worth(hint, waited) == pytest.approx(plan.worth(hint, waited), rel=0.05)
        told, found = plan.eta(hint), back.eta(hint)
        assert told is not None
        assert found is not None
        for before, after in zip(told[:2], found[:2], strict=True):
            if before is not None and after is not None:  # rounding may move it past the longest
                assert after == pytest.approx(before, rel=2e-3, abs=1e-3)
        assert found[2:] == told[2:]

    def test_one_of_another_release_is_none(self) -> None:
        assert from_json(usual_plan().to_json() | {"version": 0}) is None
        assert from_json({}) is None

    def test_is_small(self) -> None:
        assert len(json.dumps(usual_plan().to_json())) < 6_000
        assert len(json.dumps(replace(told_plan(), progress=[]).to_json())) < 25_000
        assert len(json.dumps(told_plan().to_json())) < 120_000


def _stored(plan: Plan) -> Plan:
    back = from_json(json.loads(json.dumps(plan.to_json())))
    assert back is not None
    return back
