"""What follows from an attempt to deliver: as a table, and for all schedules."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.retry import Dead, Decision, Delivered, Outcome, Retry, after_attempt

NOW = datetime(2026, 2, 6, 3, 58, 49, tzinfo=UTC)
SCHEDULE = (5.0, 60.0, 300.0)
ARRIVED = Outcome(200)
REFUSED = Outcome(404, "the receiver answered 404")
SILENT = Outcome(None, "no complete answer within 15 s")
UNSENT = Outcome(None, "WEBHOOK_SECRET is not set", sent=False)
GONE = Outcome(410, "the receiver answered 410")
MIDDLE = 0.5  # the jitter that changes nothing

outcomes = st.builds(
    Outcome,
    st.none() | st.integers(100, 599),
    st.none() | st.text(),
    st.none() | st.text(),
    st.none() | st.floats(0, 1e9),
    st.booleans(),
)
schedules = st.lists(st.floats(0.5, 1e6), max_size=12)
jitters = st.floats(0, 1)


def busy(seconds: float) -> Outcome:
    return Outcome(503, "the receiver answered 503", retry_after=seconds)


def after(seconds: float) -> Retry:
    return Retry(NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("outcome", "failures", "decision"),
    [
        pytest.param(ARRIVED, 0, Delivered(), id="it arrives at once"),
        pytest.param(ARRIVED, 3, Delivered(), id="it arrives at the last attempt"),
        pytest.param(Outcome(), 1, Delivered(), id="it arrives without HTTP"),
        pytest.param(SILENT, 0, after(5), id="no answer"),
        pytest.param(REFUSED, 1, after(60), id="refused for the second time"),
        pytest.param(UNSENT, 2, after(300), id="what was not sent uses an attempt up"),
        pytest.param(SILENT, 3, Dead(), id="the schedule is used up"),
        pytest.param(SILENT, 99, Dead(), id="a schedule that has become shorter"),
        pytest.param(GONE, 0, Dead(), id="the receiver wants no more of it"),
        pytest.param(busy(0), 1, after(60), id="Retry-After does not shorten"),
        pytest.param(busy(59), 1, after(60), id="Retry-After below the delay"),
        pytest.param(busy(90), 1, after(90), id="Retry-After between the delay and twice it"),
        pytest.param(busy(121), 1, after(120), id="Retry-After beyond twice the delay"),
        pytest.param(busy(90), 3, Dead(), id="Retry-After does not lengthen the schedule"),
    ],
)
def test_what_follows_from_an_attempt(outcome: Outcome, failures: int, decision: Decision) -> None:
    assert after_attempt(outcome, failures, SCHEDULE, NOW, MIDDLE) == decision


def test_nothing_is_retried_where_the_schedule_is_empty() -> None:
    assert after_attempt(SILENT, 0, (), NOW, MIDDLE) == Dead()


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 48), (0.5, 60), (1.0, 72)])
def test_delays_are_spread_by_a_fifth(jitter: float, delay: float) -> None:
    assert after_attempt(SILENT, 1, SCHEDULE, NOW, jitter) == after(delay)


@given(outcomes, st.integers(0, 20), schedules, jitters)
def test_only_what_arrived_is_delivered(
    outcome: Outcome, failures: int, schedule: list[float], jitter: float
) -> None:
    decision = after_attempt(outcome, failures, schedule, NOW, jitter)
    assert isinstance(decision, Delivered) == (outcome.error is None)


@given(outcomes, schedules, jitters)
def test_every_series_of_failures_ends_with_the_schedule(
    outcome: Outcome, schedule: list[float], jitter: float
) -> None:
    """Never earlier, unless it is gone."""
    decisions = [
        after_attempt(outcome, failures, schedule, NOW, jitter)
        for failures in range(len(schedule) + 1)
    ]
    if outcome.error is None:
        return
    assert decisions[-1] == Dead()
    tried_again = [isinstance(each, Retry) for each in decisions[:-1]]
    assert all(tried_again) or (outcome.http_status == 410 and not any(tried_again))


@given(st.integers(0, 11), schedules, jitters, st.floats(0, 1e12))
def test_retry_after_never_shortens_nor_more_than_doubles(
    failures: int, schedule: list[float], jitter: float, seconds: float
) -> None:
    scheduled = after_attempt(SILENT, failures, schedule, NOW, jitter)
    asked = after_attempt(busy(seconds), failures, schedule, NOW, jitter)
    if isinstance(scheduled, Dead):
        assert asked == scheduled
        return
    assert isinstance(scheduled, Retry)
    assert isinstance(asked, Retry)
    twice = NOW + 2 * (scheduled.at - NOW) + timedelta(microseconds=2)
    assert NOW < scheduled.at <= asked.at <= twice
