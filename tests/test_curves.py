"""Curves of durations: how they hang together, how they are learned, what words add to them."""

import json
import math
from dataclasses import replace
from random import Random
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelwatch.rules.timing.curves import (
    BINS,
    EDGES,
    ETA_JOBS,
    MIDDLES,
    SHARES,
    SLOW_JOBS,
    TYPICAL_UNKNOWN,
    WIDTHS,
    Course,
    Curve,
    Hint,
    Progressed,
    Sample,
    bin_of,
    from_json,
    learn,
    prior,
    typical_seconds,
)

HALF = math.log(2)
END = EDGES[-1]


def stretched(levels: list[float]) -> Curve:
    """A curve whose hazard takes these values in turn, over equal shares of the grid."""
    return Curve(tuple(levels[place * len(levels) // BINS] for place in range(BINS)))


def lognormal(count: int, median: float = 120.0, sigma: float = 0.3, seed: int = 1) -> list[float]:
    """That many durations in seconds."""
    random = Random(seed)
    return [random.lognormvariate(math.log(median), sigma) for _ in range(count)]


def learned(count: int, median: float = 120.0, sigma: float = 0.3) -> Curve:
    return learn("veo3", [Sample(seconds) for seconds in lognormal(count, median, sigma)])


def median(curve: Curve, age: float = 0.0) -> float:
    """The age that half of those that are as old as this will not exceed."""
    return curve.age_at(curve.at(age)[0] + HALF)


LEARNED = learned(300)
# Upstream says "queued" until 0.3 of a job's duration, "upsampling" from 0.7 on, and its progress.
TOLD = learn(
    "veo3",
    [Sample(seconds) for seconds in lognormal(300, sigma=0.5)],
    [Course([(0.0, "queued"), (0.3, "processing"), (0.7, "upsampling")])] * 50,
    [Progressed(share / 51, share / 51) for share in range(1, 51)],
)

# The same words and progress of jobs many of which grow older than the grid reaches.
LASTING = Curve((1e-6,) * BINS, 300, TOLD.stages, TOLD.progress_spread)
SOON = [Sample(0.1)] * 2_000  # many jobs, with which little is smoothed, and none of them grows old

CURVES = st.lists(st.floats(-5, -1).map(lambda power: 10.0**power), min_size=1, max_size=8).map(
    stretched
)
AGES = st.floats(0, END)
SAMPLES = st.lists(
    st.builds(Sample, st.floats(-10, 1e7), st.booleans(), st.floats(0, 1), st.floats(-10, 1e8)),
    max_size=20,
)
WORDS = st.none() | st.sampled_from(["queued", "processing", "upsampling", "never heard of", ""])
HINTS = st.builds(Hint, st.floats(0, 1e7), WORDS, st.none() | st.floats(0, 1))


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


class TestCurve:
    @given(CURVES, AGES)
    def test_the_age_at_which_so_many_have_ended_is_that_age(
        self, curve: Curve, age: float
    ) -> None:
        assert curve.age_at(curve.at(age)[0]) == pytest.approx(age, rel=1e-6, abs=1e-6)

    @given(CURVES)
    def test_beyond_the_grid_it_is_the_grids_end(self, curve: Curve) -> None:
        assert curve.age_at(curve.at(2 * END)[0]) == END

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
        ended = curve.at(age)[0] - curve.at(EDGES[place])[0]
        assert ended == pytest.approx(curve.hazards[place] * share * WIDTHS[place], abs=1e-9)

    @given(CURVES, AGES, AGES)
    def test_what_lasts_is_an_integral(self, curve: Curve, one: float, other: float) -> None:
        """It lies between the rectangles that a falling function fits between."""
        early, late = sorted((one, other))
        area, span = curve.at(late)[1] - curve.at(early)[1], late - early
        slack = 1e-9 * (1 + curve.lasting[-1])
        assert curve.still_open(late) * span - slack <= area
        assert area <= curve.still_open(early) * span + slack

    @pytest.mark.parametrize("curve", [prior("veo3"), LEARNED, stretched([1e-5, 0.1, 1e-3])])
    def test_and_agrees_with_numeric_integration(self, curve: Curve) -> None:
        parts, area = 20, 0.0
        for place in range(BINS):
            assert curve.at(EDGES[place])[1] == pytest.approx(area, rel=1e-3)
            step = WIDTHS[place] / parts
            middles = (EDGES[place] + (part + 0.5) * step for part in range(parts))
            area += sum(curve.still_open(middle) * step for middle in middles)
        assert curve.lasting[-1] == pytest.approx(area, rel=1e-3)

    @pytest.mark.parametrize("hazard", [1e-9, 1e-3, 0.5])
    @pytest.mark.parametrize("age", [0, 0.1, 100, 80_000])
    def test_a_constant_hazard_is_known_exactly(self, hazard: float, age: float) -> None:
        ended, lasting = stretched([hazard]).at(age)
        assert ended == pytest.approx(hazard * age)
        assert lasting == pytest.approx(-math.expm1(-hazard * age) / hazard)


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

    @pytest.mark.parametrize("model", ["veo3", "sora-2", "grok", None])
    def test_jobs_take_about_the_typical_time(self, model: str | None) -> None:
        mean = prior(model).lasting[-1]
        assert typical_seconds(model) <= mean <= 1.4 * typical_seconds(model)

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
        hazard = prior("veo3").hazards[bin_of(age)]
        assert hazard * typical_seconds("veo3") == pytest.approx(per_typical, rel=0.05)

    def test_is_one_and_the_same_for_models_of_a_kind(self) -> None:
        """Plans are kept by their curve."""
        assert prior("veo3.1") is prior("veo2")

    def test_foretells_nothing(self) -> None:
        assert prior("veo3").jobs == 0
        assert prior("veo3").eta(Hint(10), 10) is None


class TestLearning:
    @pytest.mark.parametrize("model", ["veo3", None])
    def test_without_samples_the_prior_stays(self, model: str | None) -> None:
        curve = learn(model, [])
        assert curve.hazards == pytest.approx(prior(model).hazards)
        assert (curve.jobs, curve.stages, curve.progress_spread) == (0, {}, None)

    @settings(max_examples=50)
    @given(SAMPLES, st.floats(1, 1e7) | st.just(math.inf), st.floats(1, 1e7) | st.just(math.inf))
    def test_whatever_comes_makes_a_curve(
        self, samples: list[Sample], half_life: float, horizon: float
    ) -> None:
        curve = learn("veo3", samples, half_life=half_life, horizon=horizon)
        assert sound(curve)
        assert curve.jobs == sum(sample.ended for sample in samples)

    @pytest.mark.parametrize(("count", "within"), [(10, 0.25), (100, 0.12), (1_000, 0.05)])
    @pytest.mark.parametrize("seconds", [30.0, 300.0])
    def test_the_median_moves_towards_what_was_seen(
        self, count: int, within: float, seconds: float
    ) -> None:
        found = median(learn("veo3", [Sample(seconds)] * count))
        assert found == pytest.approx(seconds, rel=within)

    def test_the_prior_counts_as_two_jobs(self) -> None:
        lasting = [
            learn("veo3", [Sample(END, ended=False)] * count).still_open(1_000) for count in (1, 2)
        ]
        alone = -math.log(prior("veo3").still_open(1_000))
        assert [-math.log(share) / alone for share in lasting] < [0.7, 0.5]

    def test_many_jobs_show_their_distribution(self) -> None:
        durations = sorted(lognormal(2_000, sigma=0.5))
        curve = learn("veo3", [Sample(seconds) for seconds in durations])
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            age = durations[int(share * len(durations))]
            assert curve.still_open(age) == pytest.approx(1 - share, abs=0.03)

    def test_few_jobs_are_smoothed_over_more_than_many(self) -> None:
        """One job at 120 s does not say that all end there."""
        narrow, wide = (learn("veo3", [Sample(120.0)] * count) for count in (200, 5))
        peaks = [max(curve.hazards) for curve in (narrow, wide)]
        assert peaks[0] > 3 * peaks[1]

    def test_running_jobs_lower_the_hazard_up_to_their_age(self) -> None:
        ended = [Sample(seconds) for seconds in lognormal(30)]
        alone = learn("veo3", ended)
        beside = learn("veo3", [*ended, *[Sample(100.0, ended=False)] * 30])
        assert beside.jobs == alone.jobs == 30
        until = bin_of(100)
        assert all(a < b for a, b in zip(beside.hazards[:until], alone.hazards, strict=False))
        assert beside.hazards[bin_of(80)] < 0.7 * alone.hazards[bin_of(80)]
        assert beside.hazards[bin_of(1_000)] == pytest.approx(alone.hazards[bin_of(1_000)], rel=0.1)
        assert beside.still_open(100) > alone.still_open(100)

    @pytest.mark.parametrize("age", [150.0, 250.0, 400.0, 1_000.0])
    def test_great_ages_are_guessed_by_the_models_own_scale(self, age: float) -> None:
        """Its name may start like that of much quicker ones; few jobs ever get so old."""
        steps = 17
        slower = 1.1**steps
        quick = learn("veo3", [Sample(seconds) for seconds in lognormal(20)])
        slow = learn("veo3", [Sample(slower * seconds) for seconds in lognormal(20)])
        there = bin_of(age)
        assert slow.hazards[there + steps] * slower == pytest.approx(quick.hazards[there], rel=0.15)

    def test_only_running_jobs_are_learned_from_too(self) -> None:
        curve = learn("veo3", [Sample(1_000.0, ended=False)] * 10)
        assert median(curve) > 3 * median(prior("veo3"))

    def test_the_older_count_less(self) -> None:
        old, new = [Sample(40.0)] * 50, [Sample(200.0)] * 50
        faded = [sample._replace(weight=0.1) for sample in old]
        equal, weighted, forgotten = (
            median(learn("veo3", [*first, *new])) for first in (old, faded, [])
        )
        assert equal < weighted < forgotten
        assert weighted == pytest.approx(200, rel=0.15)

    def test_a_running_job_counts_by_its_weight(self) -> None:
        ended = [Sample(seconds) for seconds in lognormal(30)]
        light, heavy = (
            learn("veo3", [*ended, *[Sample(100.0, ended=False, weight=weight)] * 20])
            for weight in (0.2, 1.0)
        )
        assert heavy.still_open(100) > light.still_open(100)

    def test_what_is_long_ago_counts_less(self) -> None:
        old, new = [Sample(40.0, began_ago=2_040.0)] * 50, [Sample(200.0, began_ago=200.0)] * 50
        spans = (math.inf, 2_000.0, 400.0)
        found = [median(learn("veo3", [*old, *new], half_life=span)) for span in spans]
        assert found == sorted(found)
        assert found[0] < 140
        assert found[2] == pytest.approx(200, rel=0.15)

    def test_what_is_a_half_life_ago_counts_half(self) -> None:
        old = [Sample(1.0, began_ago=5_001.0)] * 40
        faded = learn("veo3", [*old, *SOON], half_life=5_000.0)
        halved = learn("veo3", [*(sample._replace(weight=0.5) for sample in old), *SOON])
        assert faded.hazards == pytest.approx(halved.hazards, rel=1e-3)
        assert faded.jobs == halved.jobs

    def test_what_lies_before_the_horizon_counts_nothing(self) -> None:
        old, new = [Sample(40.0, began_ago=2_040.0)] * 50, [Sample(200.0, began_ago=200.0)] * 50
        found = learn("veo3", [*old, *new], horizon=1_999.0)
        assert found.hazards == learn("veo3", new).hazards
        assert learn("veo3", [*old, *new], horizon=2_040.0).hazards != found.hazards

    def test_a_life_counts_from_the_horizon_on(self) -> None:
        """Its younger days are too long ago, and those that ended then have been forgotten."""
        running = [Sample(1_000.0, ended=False, began_ago=1_000.0)] * 50
        without, beside = (learn("veo3", [*SOON, *more], horizon=300.0) for more in ([], running))
        young, old = bin_of(150), bin_of(850)
        assert beside.hazards[:young] == pytest.approx(without.hazards[:young], rel=0.01)
        assert beside.hazards[old] < 0.1 * without.hazards[old]

    @pytest.mark.parametrize("per_second", [0.5, 5.0])
    @pytest.mark.parametrize("sigma", [0.3, 0.8])
    def test_many_running_jobs_beside_few_ended_ones_tell_the_truth(
        self, per_second: float, sigma: float
    ) -> None:
        """In a steady flow, of which the last 400 ends and all that is open are known."""
        spans = lognormal(2_000, sigma=sigma)
        began = [(len(spans) - place) / per_second for place in range(len(spans))]
        pairs = list(zip(spans, began, strict=True))
        ended = sorted((ago - span, span, ago) for span, ago in pairs if span < ago)[:400]
        known = [Sample(span, began_ago=ago) for _, span, ago in ended]
        known += [Sample(ago, False, began_ago=ago) for span, ago in pairs if span >= ago]
        found = median(learn("veo3", known, horizon=ended[-1][0]))
        assert found == pytest.approx(120, rel=0.12)

    def test_an_end_before_the_beginning_is_one_at_once(self) -> None:
        """Clocks differ."""
        assert learn("veo3", [Sample(-50.0)]).hazards == learn("veo3", [Sample(0.0)]).hazards

    def test_an_end_beyond_the_grid_is_one_at_its_end(self) -> None:
        curve = learn("veo3", [Sample(10 * END)] * 50)
        assert curve.still_open(1_000) > 0.8
        assert sound(curve)


class TestStages:
    def test_are_learned_from_a_few_jobs_on(self) -> None:
        course = Course([(0.0, "queued"), (0.5, "processing")])
        assert learn("veo3", [], [course] * 2).stages == {}
        assert set(learn("veo3", [], [course] * 3).stages) == {"queued", "processing"}

    def test_say_where_in_a_job_upstream_uses_the_word(self) -> None:
        for word, begin, end in (("queued", 0, 6), ("processing", 6, 14), ("upsampling", 14, 20)):
            steps = TOLD.stages[word]
            assert len(steps) == SHARES == 20
            said = [step for step in range(SHARES) if steps[step] > 0.5]
            assert said == list(range(begin, end))
            assert all(steps[step] > 0.98 for step in said)
            assert all(0 < step < 1 for step in steps)

    def test_a_stage_within_a_step_counts_by_its_part(self) -> None:
        course = Course([(0.0, "queued"), (0.51, "brief"), (0.52, "processing")])
        steps = learn("veo3", [], [course] * 1_000).stages["brief"]
        assert steps[10] == pytest.approx(0.2, abs=0.01)
        assert max(steps[:10]) < 0.01

    def test_the_older_count_less(self) -> None:
        now = Course([(0.0, "new"), (0.5, "end")])
        before = Course([(0.0, "old"), (0.5, "end")], weight=0.25)
        stages = learn("veo3", [], [now, before] * 100).stages
        assert stages["new"][5] == pytest.approx(0.8, abs=0.01)
        assert stages["old"][5] == pytest.approx(0.2, abs=0.01)

    def test_steps_that_run_backwards_are_none(self) -> None:
        """Upstream's times and ours may cross."""
        course = Course([(0.0, "queued"), (0.6, "crossed"), (0.4, "processing")])
        stages = learn("veo3", [], [course] * 10).stages
        assert set(stages) == {"queued", "processing"}
        assert stages["processing"][10] > 0.9

    def test_words_that_upstream_makes_up_each_time_are_bounded_to_the_commonest(self) -> None:
        courses = [Course([(0.0, "queued"), (0.9, f"{n % 50} % done")]) for n in range(500)]
        courses += [Course([(0.0, "queued"), (0.9, "7 % done")])] * 10
        stages = learn("veo3", [], courses).stages
        assert len(stages) == 40
        assert {"queued", "7 % done"} <= set(stages)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
    def test_a_word_that_comes_all_along_tells_nothing(self, share: float) -> None:
        """Whether all jobs get it, or only some."""
        silent, plain = Course([(0.0, "other")]), Course([(0.0, "processing")])
        courses = [silent if place < 100 * share else plain for place in range(100)]
        assert learn("veo3", [], courses).stages == {}


class TestProgress:
    def test_is_learned_from_a_few_jobs_on(self) -> None:
        told = Progressed(0.5, 0.5)
        assert learn("veo3", [], progressed=[told] * 2).progress_spread is None
        assert learn("veo3", [], progressed=[told] * 3).progress_spread is not None

    @pytest.mark.parametrize(
        ("off", "count", "spread"),
        [
            (0.0, 3, 0.075),  # three say little
            (0.0, 10_000, 0.02),  # but it is never taken at its word
            (0.3, 10_000, 0.3),
            (-0.3, 10_000, 0.3),
        ],
    )
    def test_is_trusted_as_far_as_it_held(self, off: float, count: int, spread: float) -> None:
        told = [Progressed(0.5 + off, 0.5)] * count
        found = learn("veo3", [], progressed=told).progress_spread
        assert found == pytest.approx(spread, rel=0.01)

    def test_the_older_count_less(self) -> None:
        right, wrong = [Progressed(0.5, 0.5)] * 50, [Progressed(0.9, 0.1)] * 50
        faded = [told._replace(weight=0.1) for told in wrong]
        equal = learn("veo3", [], progressed=[*right, *wrong]).progress_spread
        weighted = learn("veo3", [], progressed=[*right, *faded]).progress_spread
        assert equal is not None
        assert weighted is not None
        assert weighted < 0.5 * equal


class TestGiven:
    @given(st.sampled_from([TOLD, LEARNED, LASTING]), HINTS)
    def test_any_hint_makes_a_curve(self, curve: Curve, hint: Hint) -> None:
        found = curve.given(hint)
        assert sound(found)
        assert found.jobs == curve.jobs
        first = bin_of(hint.age)
        assert [*found.hazards[:first]] == [*curve.hazards[:first]]  # what has been is over

    @pytest.mark.parametrize(
        "hint", [Hint(60), Hint(60, "never heard of"), Hint(60, ""), Hint(60, None, None)]
    )
    def test_what_tells_nothing_changes_nothing(self, hint: Hint) -> None:
        assert TOLD.given(hint) is TOLD

    def test_progress_tells_nothing_until_it_has_been_learned(self) -> None:
        assert LEARNED.given(Hint(60, None, 0.5)) is LEARNED

    def test_where_all_are_at_the_same_stage_the_word_changes_nothing(self) -> None:
        curve = Curve(LEARNED.hazards, 300, {"running": (0.9,) * SHARES})
        found = curve.given(Hint(60, "running"))
        beyond = bin_of(600)  # hardly anybody grows so old: nothing is known of them
        assert found.hazards[:beyond] == pytest.approx(LEARNED.hazards[:beyond], rel=1e-3)

    def test_a_late_stage_brings_the_end_near(self) -> None:
        found = TOLD.given(Hint(60, "upsampling"))
        last = 60 / 0.7
        assert found.still_open(last * 1.1) / found.still_open(60) < 0.1
        assert TOLD.still_open(last * 1.1) / TOLD.still_open(60) > 0.6
        assert median(found, 60) < median(TOLD, 60)

    def test_an_early_stage_puts_it_far_off(self) -> None:
        found = TOLD.given(Hint(60, "queued"))
        assert found.still_open(150) / found.still_open(60) > 0.9
        assert TOLD.still_open(150) / TOLD.still_open(60) < 0.5

    def test_the_same_word_later_puts_it_off_further(self) -> None:
        medians = [median(TOLD.given(Hint(age, "queued")), age) for age in (20, 40, 60, 80)]
        assert medians == sorted(medians)

    @pytest.mark.parametrize(
        ("age", "progress"), [(60, 0.5), (30, 0.25), (90, 0.75), (80, 0.4), (40, 0.5)]
    )
    def test_the_end_is_where_progress_points_to(self, age: float, progress: float) -> None:
        assert median(TOLD.given(Hint(age, None, progress)), age) == pytest.approx(
            age / progress, rel=0.05
        )

    def test_a_progress_that_meant_little_moves_the_end_little(self) -> None:
        vague = Curve(TOLD.hazards, 300, progress_spread=0.5)
        before = median(TOLD, 60)
        sharp, soft = (median(each.given(Hint(60, None, 0.9)), 60) for each in (TOLD, vague))
        assert sharp < soft < before
        assert before - soft < 0.4 * (before - sharp)

    def test_progress_tells_more_than_the_word(self) -> None:
        both, alone = (TOLD.given(Hint(60, word, 0.9)) for word in ("queued", None))
        assert both.hazards == alone.hazards

    def test_a_word_counts_where_no_progress_came_with_it(self) -> None:
        assert TOLD.given(Hint(60, "upsampling")).hazards != TOLD.hazards

    def test_is_worked_out_once(self) -> None:
        told = TOLD.given(Hint(60, "upsampling"))
        assert TOLD.given(Hint(60, "upsampling")) is told
        assert TOLD.given(Hint(60, "queued")) is not told

    def test_goes_with_its_curve(self) -> None:
        curve = replace(TOLD)
        told = ref(curve.given(Hint(60, "upsampling")))
        assert told() is not None
        del curve
        assert told() is None

    def test_of_all_curves_no_more_than_so_many_are_kept(self) -> None:
        first, second = replace(TOLD), replace(TOLD)
        told = [
            ref(curve.given(Hint(60, None, progress / 2_000)))
            for curve in (first, second)
            for progress in range(600)
        ]
        kept = [each() is not None for each in told]
        assert sum(kept) == 1_024
        assert all(kept[-1_024:])  # the newest

    def test_what_upstream_says_may_be_wrong(self) -> None:
        """A job that is called all but done goes on for an hour: that it may go on is not lost."""
        found = TOLD.given(Hint(60, None, 0.99))
        assert found.still_open(120) / found.still_open(60) > 0.005

    @pytest.mark.parametrize("curve", [TOLD, LASTING])
    @pytest.mark.parametrize("hint", [Hint(END * 3, "queued"), Hint(80_000, None, 0.01)])
    def test_a_job_older_than_any_other_has_a_curve_still(self, curve: Curve, hint: Hint) -> None:
        assert sound(curve.given(hint))

    @pytest.mark.parametrize("spread", [0.05, 0.1, 0.3])
    def test_is_what_bayes_says(self, spread: float) -> None:
        """Of jobs at a constant hazard, one that is said to be at half of its way at 60 s."""
        found = Curve((0.005,) * BINS, 300, progress_spread=spread).given(Hint(60, None, 0.5))
        step, ends, left = 0.25, {}, 0.0
        for place in range(16_000, 0, -1):  # from an hour after it
            age = 60 + place * step
            doubted = 0.02 + math.exp(-0.5 * ((60 / age - 0.5) / spread) ** 2)
            left += math.exp(-0.005 * age) * doubted
            ends[age] = left
        for age in (90, 110, 130, 160, 220):
            lasting = found.still_open(age) / found.still_open(60)
            assert lasting == pytest.approx(ends[age] / left, abs=0.03)


class TestEta:
    @pytest.mark.parametrize(("jobs", "foretold"), [(0, False), (4, False), (5, True), (9, True)])
    def test_needs_a_few_jobs(self, jobs: int, foretold: bool) -> None:
        assert ETA_JOBS == 5
        assert (learned(jobs).eta(Hint(10), 10) is not None) == foretold

    @given(st.sampled_from([TOLD, LEARNED, learned(5)]), HINTS, st.floats(0, 1e7))
    def test_half_are_sooner_than_nine_of_ten(self, curve: Curve, hint: Hint, age: float) -> None:
        found = curve.eta(hint, age)
        assert found is not None
        assert 0 <= found.p50_seconds <= found.p90_seconds < math.inf

    @pytest.mark.parametrize("age", [0, 60, 120, 180])
    def test_is_what_such_jobs_took(self, age: float) -> None:
        rest = sorted(seconds - age for seconds in lognormal(5_000, seed=7) if seconds > age)
        found = learned(2_000).eta(Hint(age), age)
        assert found is not None
        assert found.p50_seconds == pytest.approx(rest[len(rest) // 2], rel=0.15)
        assert found.p90_seconds == pytest.approx(rest[len(rest) * 9 // 10], rel=0.25)

    def test_goes_by_what_upstream_said(self) -> None:
        plain, late = (TOLD.eta(Hint(60, word), 60) for word in (None, "upsampling"))
        assert plain is not None
        assert late is not None
        assert late.p50_seconds < 0.5 * plain.p50_seconds

    def test_grows_less_after_the_look_that_told_it(self) -> None:
        hint = Hint(60, None, 0.5)
        told, later = (TOLD.eta(hint, age) for age in (60, 80))
        assert told is not None
        assert later is not None
        assert told.p50_seconds - later.p50_seconds == pytest.approx(20, abs=8)

    @pytest.mark.parametrize(
        ("jobs", "age", "slow"),
        [(300, 120, False), (300, 180, False), (300, 260, True), (20, 400, True), (19, 400, False)],
    )
    def test_the_slowest_are_named_once_enough_is_known(
        self, jobs: int, age: float, slow: bool
    ) -> None:
        assert SLOW_JOBS == 20
        found = learned(jobs).eta(Hint(age), age)
        assert found is not None
        assert found.slower_than_95_percent is slow

    def test_slow_is_a_job_beside_its_kind_whatever_upstream_says(self) -> None:
        found = TOLD.eta(Hint(600, "queued"), 600)
        assert found is not None
        assert found.slower_than_95_percent
        later = TOLD.eta(Hint(60, "queued"), 320)  # not heard of since
        assert later is not None
        assert later.slower_than_95_percent


class TestStored:
    @pytest.mark.parametrize("curve", [TOLD, LEARNED, prior(None), learn("veo3", [])])
    def test_comes_back_from_the_database_as_it_was(self, curve: Curve) -> None:
        body = json.loads(json.dumps(curve.to_json()))
        back = from_json(body)
        assert back is not None
        assert back.hazards == pytest.approx(curve.hazards, rel=1e-3)
        assert (back.jobs, back.progress_spread) == (curve.jobs, curve.progress_spread)
        assert set(back.stages) == set(curve.stages)
        for word, steps in curve.stages.items():
            assert back.stages[word] == pytest.approx(steps, abs=1e-4)
        assert back.to_json() == body

    @settings(max_examples=20)
    @given(SAMPLES)
    def test_what_came_back_is_sound(self, samples: list[Sample]) -> None:
        back = from_json(json.loads(json.dumps(learn("veo3", samples).to_json())))
        assert back is not None
        assert sound(back)
        assert sound(back.given(Hint(60, "queued", 0.5)))

    @pytest.mark.parametrize("change", [-1, 1])
    def test_one_of_another_grid_is_none(self, change: int) -> None:
        body = LEARNED.to_json()
        assert from_json(body | {"hazards": [0.01] * (BINS + change)}) is None

    def test_is_small(self) -> None:
        assert len(json.dumps(TOLD.to_json())) < 4_000

    def test_middles_lie_within_their_steps(self) -> None:
        assert [bin_of(middle) for middle in MIDDLES] == list(range(BINS))
