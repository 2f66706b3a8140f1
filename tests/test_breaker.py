"""The circuit breaker: what a destination gets while it works, fails, rests and recovers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.breaker import (
    ALLOWANCE_FIRST,
    ALLOWANCE_MAX,
    FAILURES,
    OPEN_FIRST,
    OPEN_MAX,
    Breaker,
    after_failure,
    after_success,
    allowed,
)

NOW = datetime(2026, 2, 6, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def failing(times: int, breaker: Breaker | None = None, now: datetime = NOW) -> Breaker:
    found = breaker or Breaker()
    for _ in range(times):
        found = after_failure(found, now)
    return found


def test_a_new_destination_starts_small_and_doubles() -> None:
    breaker, seen = Breaker(), []
    for _ in range(4):
        seen.append(allowed(breaker, NOW))
        breaker = after_success(breaker)
    assert seen == [ALLOWANCE_FIRST, 4, ALLOWANCE_MAX, ALLOWANCE_MAX]


def test_opens_after_so_many_failures_in_a_row() -> None:
    assert failing(FAILURES - 1).open_until is None
    opened = failing(FAILURES)
    assert opened.open_until == after(OPEN_FIRST)
    assert allowed(opened, NOW) == 0
    assert allowed(opened, after(OPEN_FIRST - 0.001)) == 0


def test_a_success_in_between_starts_the_count_anew() -> None:
    broken = after_success(failing(FAILURES - 1))
    assert failing(FAILURES - 1, broken).open_until is None


def test_gets_less_while_it_fails_and_never_nothing() -> None:
    proven = Breaker(allowance=ALLOWANCE_MAX)
    assert [allowed(failing(n, proven), NOW) for n in range(FAILURES)] == [8, 4, 2, 1, 1]


def test_half_open_it_gets_one_call() -> None:
    assert allowed(failing(FAILURES), after(OPEN_FIRST)) == 1


def test_recovery_goes_in_growing_portions() -> None:
    breaker, seen = after_success(failing(FAILURES)), []
    for _ in range(5):
        seen.append(allowed(breaker, after(OPEN_FIRST)))
        breaker = after_success(breaker)
    assert seen == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("openings", range(1, 9))
def test_rests_twice_as_long_each_time_up_to_a_limit(openings: int) -> None:
    breaker, now = failing(FAILURES), after(OPEN_FIRST)
    for _ in range(openings):
        breaker = after_failure(breaker, now)
        assert breaker.open_until is not None
        span = (breaker.open_until - now).total_seconds()
        now = breaker.open_until
    assert span == min(OPEN_MAX, OPEN_FIRST * 2**openings)


def test_calls_that_were_under_way_when_it_opened_change_nothing() -> None:
    opened = failing(FAILURES)
    assert failing(7, opened, after(OPEN_FIRST / 2)) == opened


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1_000)), max_size=60))
def test_whatever_happens_it_comes_back_when_the_destination_works(
    calls: list[tuple[bool, float]],
) -> None:
    breaker, now = Breaker(), NOW
    for worked, seconds in calls:
        now += timedelta(seconds=seconds)
        breaker = after_success(breaker) if worked else after_failure(breaker, now)
        assert 0 <= allowed(breaker, now) <= ALLOWANCE_MAX
        assert breaker.open_until is None or breaker.open_until - now <= timedelta(seconds=OPEN_MAX)
    rested = breaker.open_until or now
    assert allowed(breaker, rested) >= 1
    assert allowed(after_success(breaker), rested) >= 1
