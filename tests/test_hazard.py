"""Curves of durations: how they hang together, and what upstream's words make of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.timing.hazard import (
    BINS,
    EDGES,
    MIDDLES,
    TYPICAL_UNKNOWN,
    WIDTHS,
    Curve,
    bin_of,
    from_json,
    prior,
    typical_seconds,
)

HALF = math.log(2)
END = EDGES[-1]


def stretched(levels: list[float]) -> Curve:
    """A curve whose hazard takes these values in turn, over equal shares of the grid."""
    return Curve(tuple(levels[place * len(levels) // BINS] for place in range(BINS)))


def median(curve: Curve, age: float = 0.0) -> float:
    """The age that half of those that are as old as this will not exceed."""
    return curve.age_at(curve.ended(age) + HALF)


# Most take 100 to 150 s.
CLUSTERED = Curve(tuple(0.001 if middle < 100 else 0.04 for middle in MIDDLES), 300)
LASTING = Curve((1e-6,) * BINS, 300)  # many of its jobs grow older than the grid reaches

CURVES = st.lists(st.floats(-5, -1).map(lambda power: 10.0**power), min_size=1, max_size=8).map(
    stretched
)
AGES = st.floats(0, END)
LIKELIHOODS = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def sound(curve: Curve) -> bool:
    return all(0 < hazard < math.inf for hazard in curve.hazards) and len(curve.hazards) == BINS


class TestGrid:
    @pytest.mark.parametrize(
        ("age", "place"),
        [(-1, 0), (0, 0), (0.26, 0), (0.27, 1), (1.0, 15), (END - 1, BINS - 1), (END, BINS - 1),
         (1e9, BINS - 1)],
    )  # fmt: skip
    def test_known_places(self, age: float, place: int) -> None:
        assert bin_of(age) == place

    @given(st.floats(0, END, exclude_max=True))
    def test_an_age_lies_in_its_step(self, age: float) -> None:
        place = bin_of(age)
        assert EDGES[place] <= age < EDGES[place + 1]

    def test_steps_grow_with_age_and_reach_beyond_a_day(self) -> None:
        assert list(WIDTHS[1:]) == sorted(WIDTHS[1:])
        assert END > 86_400

    def test_middles_lie_within_their_steps(self) -> None:
        assert [bin_of(middle) for middle in MIDDLES] == list(range(BINS))


class TestCurve:
    @given(CURVES, AGES)
    def test_the_age_at_which_so_many_have_ended_is_that_age(
        self, curve: Curve, age: float
    ) -> None:
        assert curve.age_at(curve.ended(age)) == pytest.approx(age, rel=1e-6, abs=1e-6)

    @given(CURVES)
    def test_beyond_the_grid_it_is_the_grids_end(self, curve: Curve) -> None:
        assert curve.age_at(curve.ended(2 * END)) == END

    @given(CURVES, AGES, AGES)
    def test_fewer_and_fewer_are_open(self, curve: Curve, one: float, other: float) -> None:
        early, late = sorted((one, other))
        assert 1 >= curve.still_open(early) >= curve.still_open(late) >= 0

    @given(CURVES)
    def test_all_are_open_at_first_and_none_in_the_end(self, curve: Curve) -> None:
        assert curve.still_open(0) == 1
        assert curve.still_open(1e9) < 1e-9

    @given(CURVES, st.integers(0, BINS - 1), st.floats(0, 1))
    def test_the_hazard_is_how_fast_they_end(self, curve: Curve, place: int, share: float) -> None:
        age = EDGES[place] + share * WIDTHS[place]
        ended = curve.ended(age) - curve.ended(EDGES[place])
        assert ended == pytest.approx(curve.hazards[place] * share * WIDTHS[place], abs=1e-9)

    @given(CURVES, AGES, AGES)
    def test_what_lasts_is_an_integral(self, curve: Curve, one: float, other: float) -> None:
        """It lies between the rectangles that a falling function fits between."""
        early, late = sorted((one, other))
        area, span = curve.lasted(late) - curve.lasted(early), late - early
        slack = 1e-9 * (1 + curve.lasting[-1])
        assert curve.still_open(late) * span - slack <= area
        assert area <= curve.still_open(early) * span + slack

    @pytest.mark.parametrize("curve", [prior(100.0), CLUSTERED, stretched([1e-5, 0.1, 1e-3])])
    def test_and_agrees_with_numeric_integration(self, curve: Curve) -> None:
        parts, area = 20, 0.0
        for place in range(BINS):
            assert curve.lasted(EDGES[place]) == pytest.approx(area, rel=1e-3)
            step = WIDTHS[place] / parts
            middles = (EDGES[place] + (part + 0.5) * step for part in range(parts))
            area += sum(curve.still_open(middle) * step for middle in middles)
        assert curve.lasting[-1] == pytest.approx(area, rel=1e-3)

    @pytest.mark.parametrize("hazard", [1e-9, 1e-3, 0.5])
    @pytest.mark.parametrize("age", [0, 0.1, 100, 80_000])
    def test_a_constant_hazard_is_known_exactly(self, hazard: float, age: float) -> None:
        curve = stretched([hazard])
        assert curve.ended(age) == pytest.approx(hazard * age)
        assert curve.lasted(age) == pytest.approx(-math.expm1(-hazard * age) / hazard)


class TestPrior:
    @pytest.mark.parametrize(
        ("model", "seconds"),
        [
            ("veo3.1-fast", 120.0),
            ("veo3.1-fast-4k", 120.0),
            ("veo3.1", 100.0),
            ("VEO3", 100.0),
            ("sora-2", 180.0),
            ("grok", 90.0),
            ("luma", TYPICAL_UNKNOWN),
            ("my-veo", TYPICAL_UNKNOWN),
            ("", TYPICAL_UNKNOWN),
            (None, TYPICAL_UNKNOWN),
        ],
    )
    def test_knows_models_by_the_longest_name_they_start_with(
        self, model: str | None, seconds: float
    ) -> None:
        assert typical_seconds(model) == seconds

    @pytest.mark.parametrize("typical", [90.0, 120.0, 180.0])
    def test_jobs_take_about_the_typical_time(self, typical: float) -> None:
        assert typical <= prior(typical).lasting[-1] <= 1.4 * typical

    @pytest.mark.parametrize(
        ("age", "per_typical"),
        [
            (5, 1.0),  # what fails at once
            (15, 0.3),  # too early for most
            (40, 0.3),
            (60, 1.0),
            (100, 1.0),
            (290, 1.0),
            (600, 0.5),  # the older, the older it may grow
            (6_000, 0.05),
        ],
    )
    def test_its_hazard_at_known_ages(self, age: float, per_typical: float) -> None:
        hazard = prior(100.0).hazards[bin_of(age)]
        assert hazard * 100.0 == pytest.approx(per_typical, rel=0.05)

    def test_counts_as_learned_from_nothing(self) -> None:
        assert prior(100.0).jobs == 0


class TestGiven:
    @given(st.sampled_from([CLUSTERED, LASTING, prior(100.0)]), st.floats(0, 1e7), LIKELIHOODS)
    def test_any_word_makes_a_curve(self, curve: Curve, age: float, said: list[float]) -> None:
        found = curve.given(age, lambda share: said[min(3, int(4 * share))])
        assert sound(found)
        assert found.jobs == curve.jobs
        first = bin_of(age)
        assert found.hazards[:first] == curve.hazards[:first]  # what has been is over

    def test_what_is_as_likely_all_along_changes_nothing(self) -> None:
        found = CLUSTERED.given(60, lambda share: 0.9)
        beyond = bin_of(600)  # hardly anybody grows so old: nothing is known of them
        assert found.hazards[:beyond] == pytest.approx(CLUSTERED.hazards[:beyond], rel=1e-3)

    def test_a_late_stage_brings_the_end_near_an_early_one_puts_it_off(self) -> None:
        late, early = (
            CLUSTERED.given(60, lambda share, of=of: 0.99 if of(share) else 0.01)  # type: ignore[misc]
            for of in (lambda share: share > 0.55, lambda share: share < 0.3)
        )
        assert median(late, 60) < 0.95 * median(CLUSTERED, 60)
        assert median(early, 60) > 1.3 * median(CLUSTERED, 60)

    def test_what_upstream_says_may_be_wrong(self) -> None:
        """A job that is called all but done goes on for an hour: that it may go on is not lost."""
        found = CLUSTERED.given(60, lambda share: 0.02 + (share > 0.98))
        assert found.still_open(150) / found.still_open(60) > 0.005

    @pytest.mark.parametrize("curve", [CLUSTERED, LASTING])
    @pytest.mark.parametrize("age", [END * 3, 80_000])
    def test_a_job_older_than_any_other_has_a_curve_still(self, curve: Curve, age: float) -> None:
        assert sound(curve.given(age, lambda share: 0.3))

    @pytest.mark.parametrize("spread", [0.05, 0.1, 0.3])
    def test_is_what_bayes_says(self, spread: float) -> None:
        """Of jobs at a constant hazard, one that is said to be at half of its way at 60 s."""

        def likely(share: float) -> float:
            return 0.02 + math.exp(-0.5 * ((share - 0.5) / spread) ** 2)

        found = Curve((0.005,) * BINS, 300).given(60, likely)
        step, ends, left = 0.25, {}, 0.0
        for place in range(16_000, 0, -1):  # from an hour after it
            age = 60 + place * step
            left += math.exp(-0.005 * age) * likely(60 / age)
            ends[age] = left
        for age in (90, 110, 130, 160, 220):
            lasting = found.still_open(age) / found.still_open(60)
            assert lasting == pytest.approx(ends[age] / left, abs=0.03)


def test_a_stored_curve_comes_back_unless_its_grid_is_another() -> None:
    body = CLUSTERED.to_json()
    assert from_json(body) == CLUSTERED
    assert from_json(body | {"hazards": body["hazards"][1:]}) is None
    assert from_json({}) is None
