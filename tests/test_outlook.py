"""When a job is polled and an event is sent next, and why not sooner: what is told is true."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.breaker import Wait
from reelwatch.rules.outlook import (
    LATE,
    TICK_MISSED,
    Expected,
    Ticks,
    Traffic,
    Turn,
    next_attempt,
    next_poll,
    sentence,
)
from reelwatch.rules.rests import Rest

NOW = datetime(2026, 2, 6, 12, 38, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


TICKING = Ticks(after(-1), NOW)
FREE = Traffic("default", 5.0)
RESTS = Traffic("default", 5.0, rest=Rest(after(120), "unauthorized: key refused"))
PROBES = Traffic("default", 5.0, rest=Rest(NOW, "unauthorized: key refused"))
BY_HAND = Traffic("default", 5.0, rest=Rest(None, "by hand: new key on Monday"))
CROWDED = Traffic("default", 5.0, due=312)
SLOWED = Traffic("default", 0.5, due=10, slowed=True)


@pytest.mark.parametrize(
    ("due", "traffic", "ticks", "at", "reason"),
    [
        (30, FREE, TICKING, 30, None),
        (-1, FREE, TICKING, 0, None),
        (-300, FREE, TICKING, 0, "due for 5m00s: no worker has taken it yet"),
        (-1, RESTS, TICKING, 120,
         "account default rests until 12:40:00 UTC: unauthorized: key refused"),
        (300, RESTS, TICKING, 300, None),
        (-1, PROBES, TICKING, None,
         "account default tries whether it works again: unauthorized: key refused"),
        (300, BY_HAND, TICKING, None,
         "account default is paused by hand: new key on Monday: "
         "until `reelwatch accounts --resume default`"),
        (-1, CROWDED, TICKING, 62.4, "rate short: 312 jobs of account default are due, at 5/s"),
        (30, CROWDED, TICKING, 62.4, "rate short: 312 jobs of account default are due, at 5/s"),
        (90, CROWDED, TICKING, 90, None),
        (-1, SLOWED, TICKING, 20,
         "account default is slowed to 0.5/s by upstream's 429s: 10 of its jobs are due"),
        (-1, FREE, Ticks(None, NOW), None, "no worker has run so far"),
        (-1, CROWDED, Ticks(after(-120), NOW), None,
         "no tick for 2m00s: no worker runs, or no beat"),
        (30, RESTS, Ticks(after(-120), NOW), 30, "no tick for 2m00s: no worker runs, or no beat"),
        (-1, BY_HAND, Ticks(None, NOW), None,
         "account default is paused by hand: new key on Monday: "
         "until `reelwatch accounts --resume default`"),
    ],
)  # fmt: skip
def test_the_next_poll(
    due: float, traffic: Traffic, ticks: Ticks, at: float | None, reason: str | None
) -> None:
    expected = Expected(None if at is None else after(at), reason)
    assert next_poll(after(due), traffic, ticks) == expected


def test_a_job_that_a_worker_has_is_polled_now_until_its_lease_is_over() -> None:
    assert next_poll(after(45), RESTS, TICKING, leased=True).at == NOW
    assert next_poll(after(-1), RESTS, TICKING, leased=True).at == after(120)


HOOK = "https://hooks.example.com/x"


@pytest.mark.parametrize(
    ("due", "turn", "ticks", "at", "reason"),
    [
        (30, Turn(after(30), Wait.SCHEDULE, HOOK), TICKING, 30, None),
        (-1, Turn(NOW, Wait.TURN, HOOK), TICKING, 0, None),
        (-90, Turn(NOW, Wait.TURN, HOOK), TICKING, 0,
         "due for 90s: it waits for its turn at its host"),
        (20, Turn(after(20), Wait.ANSWER, HOOK), TICKING, 0, "an attempt is under way"),
        (-1, Turn(after(120), Wait.RESTING, HOOK, 5), TICKING, 120,
         f"{HOOK} is not called until 12:40:00 UTC: 5 attempts failed in a row"),
        (-1, Turn(after(120), Wait.RESTING, HOOK, 5), Ticks(None, NOW), None,
         "no worker has run so far"),
    ],
)  # fmt: skip
def test_the_next_attempt(
    due: float, turn: Turn, ticks: Ticks, at: float | None, reason: str | None
) -> None:
    expected = Expected(None if at is None else after(at), reason)
    assert next_attempt(after(due), turn, ticks) == expected


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (Expected(after(42)), "in 42s"),
        (Expected(NOW), "now"),
        (Expected(after(120), "it rests"), "in 2m00s (it rests)"),
        (Expected(None, "no worker runs"), "not known (no worker runs)"),
    ],
)
def test_it_is_told_in_words(expected: Expected, text: str) -> None:
    assert sentence(expected, NOW) == text


seconds = st.floats(-100_000, 100_000)
moments = seconds.map(after)
reasons = st.none() | st.just("unauthorized: key refused")


@given(
    due=moments,
    rate=st.floats(0.05, 1_000),
    waiting=st.integers(0, 10_000),
    until=st.none() | moments,
    reason=reasons,
    tick=st.none() | moments,
    leased=st.booleans(),
)
def test_now_without_a_reason_means_that_nothing_is_in_the_way(
    due: datetime, rate: float, waiting: int, until: datetime | None, reason: str | None,
    tick: datetime | None, leased: bool,
) -> None:  # fmt: skip
    rest = None if reason is None else Rest(until, reason)
    traffic = Traffic("a", rate, due=waiting, rest=rest)
    ticks = Ticks(tick, NOW)
    found = next_poll(due, traffic, ticks, leased=leased)
    assert found.at is None or found.at >= NOW
    assert found.at is not None or found.reason
    if found.reason is None:
        assert found.at == max(due, NOW)
        assert reason is None or (until is not None and until < due)
        assert tick is not None
        assert NOW - tick < TICK_MISSED
        assert NOW - due <= LATE
