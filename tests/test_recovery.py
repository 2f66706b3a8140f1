"""How an account's rate and rest follow refusals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.recovery import (
    BELOW_REFUSED,
    PAUSE_FIRST,
    PAUSE_MAX,
    QUIET_SECONDS,
    RATE_FLOOR,
    Recovery,
    pause_seconds,
    recovered,
    slower,
)

JITTER = st.floats(0, 1)
RATES = st.floats(0.01, 100)


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
            (46, Recovery(4.92, 16, 6.0)),
            (629, Recovery(4.92, 599, 6.0)),
            (630, Recovery(5.92, 0, None)),
            (646, Recovery(6.92, 1, None)),
            (3_600, Recovery(10.0, 2_895, None)),
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

    @given(RATES, RATES, st.none() | RATES, st.integers(0, 2_000), st.integers(0, 2_000))
    def test_it_is_the_same_however_often_it_was_asked_for(
        self, rate: float, configured: float, refused: float | None, one: int, other: int
    ) -> None:
        at_once = recovered(Recovery(rate, one + other, refused), configured)
        between = recovered(Recovery(rate, one, refused), configured)
        then = replace(between, quiet_seconds=between.quiet_seconds + other)
        assert recovered(then, configured).rate == pytest.approx(at_once.rate)

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
