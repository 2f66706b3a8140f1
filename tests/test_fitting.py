"""What is learned of the durations of jobs, and of what upstream says on the way."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelwatch.rules.timing.fitting import SHARES, Course, Progressed, Sample, learn
from reelwatch.rules.timing.hazard import Curve, bin_of, prior, typical_seconds
from tests.test_hazard import END, median, sound


def lognormal(count: int, median: float = 120.0, sigma: float = 0.3, seed: int = 1) -> list[float]:
    """That many durations in seconds."""
    random = Random(seed)
    return [random.lognormvariate(math.log(median), sigma) for _ in range(count)]


def curve_of(
    samples: list[Sample], half_life: float = math.inf, horizon: float = math.inf
) -> Curve:
    return learn("veo3", samples, half_life=half_life, horizon=horizon).curve


TOLD = learn("veo3", [], [Course([(0.0, "queued"), (0.3, "processing"), (0.7, "upsampling")])] * 50)
SOON = [Sample(0.1)] * 2_000  # many jobs, with which little is smoothed, and none of them grows old

SAMPLES = st.lists(
    st.builds(Sample, st.floats(-10, 1e7), st.booleans(), st.floats(0, 1), st.floats(-10, 1e8)),
    max_size=20,
)


class TestLearning:
    @pytest.mark.parametrize("model", ["veo3", None])
    def test_without_samples_the_prior_stays(self, model: str | None) -> None:
        learned = learn(model, [])
        assert learned.curve.hazards == pytest.approx(prior(typical_seconds(model)).hazards)
        assert (learned.curve.jobs, learned.stages, learned.progress_spread) == (0, {}, None)

    @settings(max_examples=50)
    @given(SAMPLES, st.floats(1, 1e7) | st.just(math.inf), st.floats(1, 1e7) | st.just(math.inf))
    def test_whatever_comes_makes_a_curve(
        self, samples: list[Sample], half_life: float, horizon: float
    ) -> None:
        curve = curve_of(samples, half_life=half_life, horizon=horizon)
        assert sound(curve)
        assert curve.jobs == sum(sample.ended for sample in samples)

    @pytest.mark.parametrize(("count", "within"), [(10, 0.25), (100, 0.12), (1_000, 0.05)])
    @pytest.mark.parametrize("seconds", [30.0, 300.0])
    def test_the_median_moves_towards_what_was_seen(
        self, count: int, within: float, seconds: float
    ) -> None:
        found = median(curve_of([Sample(seconds)] * count))
        assert found == pytest.approx(seconds, rel=within)

    def test_the_prior_counts_as_two_jobs(self) -> None:
        lasting = [
            curve_of([Sample(END, ended=False)] * count).still_open(1_000) for count in (1, 2)
        ]
        alone = -math.log(prior(100.0).still_open(1_000))
        assert [-math.log(share) / alone for share in lasting] < [0.7, 0.5]

    def test_many_jobs_show_their_distribution(self) -> None:
        durations = sorted(lognormal(2_000, sigma=0.5))
        curve = curve_of([Sample(seconds) for seconds in durations])
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            age = durations[int(share * len(durations))]
            assert curve.still_open(age) == pytest.approx(1 - share, abs=0.03)

    def test_few_jobs_are_smoothed_over_more_than_many(self) -> None:
        """One job at 120 s does not say that all end there."""
        narrow, wide = (curve_of([Sample(120.0)] * count) for count in (200, 5))
        peaks = [max(curve.hazards) for curve in (narrow, wide)]
        assert peaks[0] > 3 * peaks[1]

    def test_running_jobs_lower_the_hazard_up_to_their_age(self) -> None:
        ended = [Sample(seconds) for seconds in lognormal(30)]
        alone = curve_of(ended)
        beside = curve_of([*ended, *[Sample(100.0, ended=False)] * 30])
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
        quick = curve_of([Sample(seconds) for seconds in lognormal(20)])
        slow = curve_of([Sample(slower * seconds) for seconds in lognormal(20)])
        there = bin_of(age)
        assert slow.hazards[there + steps] * slower == pytest.approx(quick.hazards[there], rel=0.15)

    def test_only_running_jobs_are_learned_from_too(self) -> None:
        curve = curve_of([Sample(1_000.0, ended=False)] * 10)
        assert median(curve) > 3 * median(prior(100.0))

    def test_the_older_count_less(self) -> None:
        old, new = [Sample(40.0)] * 50, [Sample(200.0)] * 50
        faded = [sample._replace(weight=0.1) for sample in old]
        equal, weighted, forgotten = (
            median(curve_of([*first, *new])) for first in (old, faded, [])
        )
        assert equal < weighted < forgotten
        assert weighted == pytest.approx(200, rel=0.15)

    def test_a_running_job_counts_by_its_weight(self) -> None:
        ended = [Sample(seconds) for seconds in lognormal(30)]
        light, heavy = (
            curve_of([*ended, *[Sample(100.0, ended=False, weight=weight)] * 20])
            for weight in (0.2, 1.0)
        )
        assert heavy.still_open(100) > light.still_open(100)

    def test_what_is_long_ago_counts_less(self) -> None:
        old, new = [Sample(40.0, began_ago=2_040.0)] * 50, [Sample(200.0, began_ago=200.0)] * 50
        spans = (math.inf, 2_000.0, 400.0)
        found = [median(curve_of([*old, *new], half_life=span)) for span in spans]
        assert found == sorted(found)
        assert found[0] < 140
        assert found[2] == pytest.approx(200, rel=0.15)

    def test_what_is_a_half_life_ago_counts_half(self) -> None:
        old = [Sample(1.0, began_ago=5_001.0)] * 40
        faded = curve_of([*old, *SOON], half_life=5_000.0)
        halved = curve_of([*(sample._replace(weight=0.5) for sample in old), *SOON])
        assert faded.hazards == pytest.approx(halved.hazards, rel=1e-3)
        assert faded.jobs == halved.jobs

    def test_what_lies_before_the_horizon_counts_nothing(self) -> None:
        old, new = [Sample(40.0, began_ago=2_040.0)] * 50, [Sample(200.0, began_ago=200.0)] * 50
        found = curve_of([*old, *new], horizon=1_999.0)
        assert found.hazards == curve_of(new).hazards
        assert curve_of([*old, *new], horizon=2_040.0).hazards != found.hazards

    def test_a_life_counts_from_the_horizon_on(self) -> None:
        """Its younger days are too long ago, and those that ended then have been forgotten."""
        running = [Sample(1_000.0, ended=False, began_ago=1_000.0)] * 50
        without, beside = (curve_of([*SOON, *more], horizon=300.0) for more in ([], running))
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
        found = median(curve_of(known, horizon=ended[-1][0]))
        assert found == pytest.approx(120, rel=0.12)

    def test_an_end_before_the_beginning_is_one_at_once(self) -> None:
        """Clocks differ."""
        assert curve_of([Sample(-50.0)]).hazards == curve_of([Sample(0.0)]).hazards

    def test_an_end_beyond_the_grid_is_one_at_its_end(self) -> None:
        curve = curve_of([Sample(10 * END)] * 50)
        assert curve.still_open(1_000) > 0.8
        assert sound(curve)


class TestStages:
    def test_are_learned_from_a_few_jobs_on(self) -> None:
        course = Course([(0.0, "queued"), (0.5, "processing")])
        assert learn("veo3", [], [course] * 2).stages == {}
        assert set(learn("veo3", [], [course] * 3).stages) == {"queued", "processing"}

    def test_say_where_in_a_job_upstream_gives_the_status(self) -> None:
        for status, begin, end in (("queued", 0, 6), ("processing", 6, 14), ("upsampling", 14, 20)):
            steps = TOLD.stages[status]
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

    def test_statuses_that_upstream_makes_up_each_time_are_bounded_to_the_commonest(self) -> None:
        courses = [Course([(0.0, "queued"), (0.9, f"{n % 50} % done")]) for n in range(500)]
        courses += [Course([(0.0, "queued"), (0.9, "7 % done")])] * 10
        stages = learn("veo3", [], courses).stages
        assert len(stages) == 40
        assert {"queued", "7 % done"} <= set(stages)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
    def test_a_status_that_comes_all_along_tells_nothing(self, share: float) -> None:
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

    def test_a_progress_is_likeliest_where_it_was_given(self) -> None:
        learned = learn("veo3", [], progressed=[Progressed(0.5, 0.5)] * 100)
        likely = learned.by_progress(0.7)
        shares = [step / 100 for step in range(101)]
        assert max(shares, key=likely) == 0.7
        assert min(map(likely, shares)) > 0  # it may be wrong

    def test_a_status_is_as_likely_as_it_was_there(self) -> None:
        likely = TOLD.by_status("upsampling")
        assert likely(0.6) < 0.05
        assert likely(0.8) > 0.95
        assert likely(1.0) == likely(0.99)
