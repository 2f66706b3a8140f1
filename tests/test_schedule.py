"""When the next look, try or probe is due: bounds that hold for any input, and the known points."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.schedule import (
    PAUSE_FIRST,
    PAUSE_MAX,
    QUIET_SECONDS,
    RATE_FLOOR,
    SLOW_MAX,
    TYPICAL_UNKNOWN,
    Pace,
    clamp,
    next_attempt,
    paced,
    pause_seconds,
    recovered,
    slower,
    spread,
    typical_seconds,
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
MODELS = st.none() | st.sampled_from(["veo3.1-fast", "sora-2", "grok", ""]) | st.text(max_size=8)
PACES = st.tuples(st.floats(0.1, 100), st.floats(1, 20)).map(lambda p: Pace(p[0], p[0] * p[1]))


def test_the_usual_pace_is_5_to_60_seconds() -> None:
    assert (PACE.floor, PACE.ceiling) == (5.0, 60.0)


class TestNextLook:
    @given(MODELS, SPANS, PACES, JITTER)
    def test_stays_within_floor_and_ceiling_jitter_included(
        self, model: str | None, age: float, pace: Pace, jitter: float
    ) -> None:
        assert pace.floor <= until_next_look(model, age, pace, jitter) <= pace.ceiling

    @given(MODELS, SPANS, SPANS)
    def test_comes_the_sooner_the_nearer_the_typical_end(
        self, model: str | None, one: float, other: float
    ) -> None:
        typical = typical_seconds(model)
        near, far = sorted((one, other), key=lambda age: abs(age - typical))
        assert until_next_look(model, near, PACE, 0.5) <= until_next_look(model, far, PACE, 0.5)

    @pytest.mark.parametrize(
        ("age", "seconds"),
        [
            (0, 25.0),  # veo: a quarter of the 100 seconds that are left
            (60, 10.0),
            (100, 5 / 0.9),
            (110, 5 / 0.9),
            (200, 25.0),
            (3_600, 60 / 1.1),
        ],
    )
    def test_at_known_ages(self, age: float, seconds: float) -> None:
        assert until_next_look("veo3", age, PACE, 0.5) == pytest.approx(seconds)

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

    @given(RATES, RATES, st.floats(-1e6, 1e6))
    def test_recovery_stays_above_zero_and_never_exceeds_the_configured(
        self, rate: float, configured: float, quiet: float
    ) -> None:
        found = recovered(rate, configured, quiet)
        assert 0 < found <= configured
        assert found >= min(rate, configured)

    @given(RATES, RATES, st.floats(0, 1e6), st.floats(0, 1e6))
    def test_recovery_grows_with_quiet(
        self, rate: float, configured: float, one: float, other: float
    ) -> None:
        short, long = sorted((one, other))
        assert recovered(rate, configured, short) <= recovered(rate, configured, long)

    @pytest.mark.parametrize(
        ("quiet", "rate"),
        [(-1, 1), (0, 1), (14.9, 1), (15, 1.5), (29.9, 1.5), (30, 2), (120, 5), (1e9, 5)],
    )
    def test_recovery_goes_by_whole_quiet_spans(self, quiet: float, rate: float) -> None:
        assert recovered(1, 5, quiet) == rate

    def test_a_lower_configured_rate_holds_at_once(self) -> None:
        assert recovered(5, 2, 0) == 2

    @given(RATES)
    def test_what_a_429_took_comes_back(self, rate: float) -> None:
        assert recovered(slower(rate), rate, 20 * QUIET_SECONDS) == rate


class TestPause:
    def test_doubles_to_its_maximum(self) -> None:
        assert [pause_seconds(n) for n in range(1, 8)] == [30, 60, 120, 240, 480, 600, 600]

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
