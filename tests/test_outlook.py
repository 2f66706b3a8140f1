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
    Hold,
    Ticks,
    Traffic,
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
ENDS_SOON = Traffic("default", 5.0, rest=Rest(after(0.4), "unauthorized: key refused"))
PROBES = Traffic("default", 5.0, rest=Rest(NOW, "unauthorized: key refused"))
BY_HAND = Traffic("default", 5.0, rest=Rest(None, "by hand: new key on Monday"))
CROWDED = Traffic("default", 5.0, due=312)
SLOWED = Traffic("default", 0.5, due=10, slowed=True)


@pytest.mark.parametrize(
    ("due", "traffic", "ticks", "at", "reason"),
    [
        (30, FREE, TICKING, 30, None),
        (-1, FREE, TICKING, 0, None),
        (-300, FREE, TICKING, 0, "due for 5m00s: no worker has taken it since"),
        (-1, RESTS, TICKING, 120,
         "account default rests until 12:40:00 UTC: unauthorized: key refused"),
        (-1, ENDS_SOON, TICKING, 1,
         "account default rests until 12:38:00 UTC: unauthorized: key refused"),
        (300, RESTS, TICKING, 300, None),
        (-1, PROBES, TICKING, None,
         "account default tries whether it works again: unauthorized: key refused"),
        (300, BY_HAND, TICKING, None,
         "account default is paused by hand, "
         "until `reelwatch accounts --resume default`: new key on Monday"),
        (-1, CROWDED, TICKING, 62.4, "rate short: 312 jobs of account default are due, at 5/s"),
        (30, CROWDED, TICKING, 62.4, "rate short: 312 jobs of account default are due, at 5/s"),
        (90, CROWDED, TICKING, 90, None),
        (-1, SLOWED, TICKING, 20,
         "account default is slowed to 0.5/s by upstream's 429s: 10 of its jobs are due"),
        (-1, FREE, Ticks(None, NOW), None, "no worker has run so far"),
        (-1, CROWDED, Ticks(after(-120), NOW), None,
         "no tick for 2m00s: no worker runs, or no beat"),
        (30, FREE, Ticks(None, NOW, after(-10)), 30, None),
        (-1, CROWDED, Ticks(after(-120), NOW, after(-10)), 62.4,
         "rate short: 312 jobs of account default are due, at 5/s"),
        (30, RESTS, Ticks(after(-120), NOW), 30, "no tick for 2m00s: no worker runs, or no beat"),
        (-1, BY_HAND, Ticks(None, NOW), None,
         "account default is paused by hand, "
         "until `reelwatch accounts --resume default`: new key on Monday"),
    ],
)  # fmt: skip
def test_the_next_poll_is_foretold_with_its_reason(
    due: float, traffic: Traffic, ticks: Ticks, at: float | None, reason: str | None
) -> None:
    by_account = "account default" in (reason or "")
    expected = Expected(None if at is None else after(at), reason, by_account)
    assert next_poll(after(due), traffic, ticks) == expected


@pytest.mark.parametrize(
    ("last", "watched", "standby", "missing"),
    [
        (None, None, None, "no worker has run so far"),
        (None, -10, "no tick has come so far: workers poll and deliver by themselves", None),
        (None, -60, None, "no worker has run so far"),
        (-1, -1, None, None),
        (-300, -10, "no tick for 5m00s: workers poll and deliver by themselves", None),
        (-300, -60, None, "no tick for 5m00s: no worker runs, or no beat"),
        # All was well until half a minute ago; so far nobody has done without ticks.
        (-30, -28, None, "no tick for 30s: no worker runs, or no beat"),
        (-30, -15, "no tick for 30s: workers poll and deliver by themselves", None),
        (-1, 60, None, None),
    ],
)
def test_ticks_may_be_missing_while_workers_do_without(
    last: float | None, watched: float | None, standby: str | None, missing: str | None
) -> None:
    stamps = [None if each is None else after(each) for each in (last, watched)]
    ticks = Ticks(stamps[0], NOW, stamps[1])
    assert (ticks.standby, ticks.missing) == (standby, missing)


def test_a_job_that_a_worker_has_is_polled_now_until_its_lease_is_over() -> None:
    assert next_poll(after(45), RESTS, TICKING, leased=True).at == NOW
    assert next_poll(after(-1), RESTS, TICKING, leased=True).at == after(120)


HOOK = "https://hooks.example.com/x"


@pytest.mark.parametrize(
    ("due", "hold", "ticks", "at", "reason"),
    [
        (30, Hold(after(30), Wait.SCHEDULE, HOOK), TICKING, 30, None),
        (-1, Hold(NOW, Wait.TURN, HOOK), TICKING, 0, None),
        (-90, Hold(NOW, Wait.TURN, HOOK), TICKING, 0,
         "due for 1m30s: it waits for its turn at its host"),
        (20, Hold(after(20), Wait.ANSWER, HOOK), TICKING, 0, "an attempt is under way"),
        (-1, Hold(after(120), Wait.RESTING, HOOK, 5), TICKING, 120,
         f"{HOOK} rests until 12:40:00 UTC: 5 attempts failed in a row"),
        (-1, Hold(after(120), Wait.RESTING, HOOK, 5), Ticks(None, NOW), None,
         "no worker has run so far"),
    ],
)  # fmt: skip
def test_the_next_attempt_is_foretold_with_its_reason(
    due: float, hold: Hold, ticks: Ticks, at: float | None, reason: str | None
) -> None:
    expected = Expected(None if at is None else after(at), reason)
    assert next_attempt(after(due), hold, ticks) == expected


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
    if found.reason and " rests until " in found.reason:
        assert sentence(found, NOW).startswith("in ")
    assert found.at is not None or found.reason
    if found.reason is None:
        assert found.at == max(due, NOW)
        assert reason is None or (until is not None and until < due)
        assert tick is not None
        assert NOW - tick < TICK_MISSED
        assert NOW - due <= LATE
