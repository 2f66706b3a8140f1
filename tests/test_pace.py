"""How often a job may be polled, and how intervals are spread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.timing.pace import SLOW_MAX, Pace, spread

PACE = Pace()
JITTER = st.floats(0, 1)
SPANS = st.floats(0, 1e9)
PACES = st.tuples(st.floats(0.1, 100), st.floats(1, 20)).map(lambda p: Pace(p[0], p[0] * p[1]))


def test_the_usual_pace_is_5_to_60_seconds() -> None:
    assert (PACE.floor, PACE.ceiling) == (5.0, 60.0)


class TestNextTry:
    @given(st.integers(0, 10**9), PACES, JITTER)
    def test_stays_within_floor_and_ceiling_jitter_included(
        self, errors: int, pace: Pace, jitter: float
    ) -> None:
        assert pace.floor <= pace.after_errors(errors, jitter) <= pace.ceiling

    @given(st.integers(1, 100), PACES, JITTER)
    def test_never_grows_shorter_with_another_error(
        self, errors: int, pace: Pace, jitter: float
    ) -> None:
        first = pace.after_errors(errors, jitter)
        assert first <= pace.after_errors(errors + 1, jitter)

    def test_doubles_from_the_floor_to_the_ceiling(self) -> None:
        waits = [PACE.after_errors(errors, 0.5) for errors in range(1, 7)]
        assert waits == pytest.approx([5 / 0.9, 10, 20, 40, 60 / 1.1, 60 / 1.1])


class TestSlowPoll:
    @given(st.floats(-1e9, 1e9), PACES, JITTER)
    def test_is_never_quicker_than_a_usual_one_but_for_jitter_and_never_rarer_than_it_may_be(
        self, past: float, pace: Pace, jitter: float
    ) -> None:
        wait = pace.after_deadline(past, jitter)
        assert 0.899 * pace.ceiling <= wait <= 1.101 * max(SLOW_MAX, pace.ceiling)

    @given(SPANS, SPANS, PACES, JITTER)
    def test_grows_rarer_with_time(
        self, one: float, other: float, pace: Pace, jitter: float
    ) -> None:
        early, late = sorted((one, other))
        assert pace.after_deadline(early, jitter) <= pace.after_deadline(late, jitter)

    @pytest.mark.parametrize(
        ("past", "seconds"), [(0, 60), (600, 60), (3_600, 360), (9_000, 900), (86_400, 900)]
    )
    def test_at_known_distances_from_the_deadline(self, past: float, seconds: float) -> None:
        assert PACE.after_deadline(past, 0.5) == seconds

    def test_a_ceiling_above_the_usual_maximum_wins(self) -> None:
        assert Pace(5, 3_600).after_deadline(86_400, 0.5) == 3_600


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
    def test_a_span_is_clamped_to_floor_and_ceiling(self, seconds: float, clamped: float) -> None:
        assert PACE.clamp(seconds) == clamped

    def test_the_floor_wins_where_floor_and_ceiling_cross(self) -> None:
        assert Pace(10, 5).clamp(1) == Pace(10, 5).clamp(99) == 10

    @pytest.mark.parametrize("seconds", [0, 5, 20, 60, 3_600])
    def test_polls_do_not_bunch_at_the_bounds(self, seconds: float) -> None:
        waits = [PACE.spread(seconds, jitter / 10) for jitter in range(11)]
        assert waits == sorted(set(waits))
        assert waits[-1] / waits[0] == pytest.approx(1.1 / 0.9)

    @given(SPANS, st.floats(0.1, 1_000), JITTER)
    def test_a_pace_without_room_leaves_no_choice(
        self, seconds: float, only: float, jitter: float
    ) -> None:
        assert Pace(only, only).spread(seconds, jitter) == only
