"""Which counters grow by which facts, as tables."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reelwatch.rules import counting, metrics
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Failure, Report
from reelwatch.rules.breaker import Verdict
from reelwatch.rules.changes import Change
from reelwatch.rules.counting import Attempted
from reelwatch.rules.metrics import Metric, Series, Tally
from reelwatch.rules.states import Decision, State
from reelwatch.rules.status import Meaning

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
ERROR = AnswerError(ErrorKind.TIMEOUT, "no answer")
DONE = Report("completed", Meaning.SUCCESS, completed_at=NOW - timedelta(seconds=4))
STAMPED = Report("completed", Meaning.SUCCESS, updated_at=NOW - timedelta(seconds=7))
BARE = Report("completed", Meaning.SUCCESS)
FAILURE = Failure("content_policy", "refused", False)


def change(answer: Answer | None, state: State = State.RUNNING, **more: Any) -> Change:
    polls = more.pop("polls", 3)
    row = {"account": "a", "state": more.pop("before", "running"), "polls": polls}
    row["tracked_at"] = NOW - timedelta(seconds=more.pop("tracked_ago", 60))
    return Change(row, Decision(state, None, None, **more), answer)


def counted(tally: Tally, metric: Metric) -> dict[tuple[str, ...], float]:
    """A counter's values, by its labels' in order."""
    return {
        tuple(value for _, value in series.labels): by
        for series, by in tally.items()
        if series.name == f"{metric.name}_total"
    }


def summed(tally: Tally, metric: Metric, label: tuple[str, str]) -> float | None:
    return tally.get(Series(f"{metric.name}_sum", (label,)))


def test_polls_are_counted_by_account_and_their_seconds_with_them() -> None:
    tally = counting.of_changes([change(DONE), change(ERROR), change(None)], NOW, [0.25, 0.5])
    assert counted(tally, metrics.POLLS) == {("a",): 2}
    assert summed(tally, metrics.POLL_SECONDS, ("account", "a")) == 0.75


def test_changes_without_polls_are_no_polls() -> None:
    assert counting.of_changes([change(None, polls=0)], NOW) == {}
    assert counting.of_changes([], NOW) == {}


def test_errors_are_counted_by_kind() -> None:
    tally = counting.of_changes([change(ERROR, error=ERROR), change(DONE)], NOW)
    assert counted(tally, metrics.POLL_ERRORS) == {("a", "timeout"): 1}


def test_a_job_is_polled_for_the_first_time_once() -> None:
    tally = counting.of_changes([change(DONE, polls=0), change(DONE, polls=1)], NOW)
    assert counted(tally, metrics.FIRST_POLLS) == {("a",): 1}


@pytest.mark.parametrize(
    ("made", "ends", "delay"),
    [
        pytest.param(change(DONE, State.RUNNING), {}, None, id="it goes on"),
        pytest.param(
            change(DONE, State.COMPLETED), {("a", "completed", "none"): 1}, 4.0, id="completed"
        ),
        pytest.param(
            change(STAMPED, State.COMPLETED),
            {("a", "completed", "none"): 1},
            7.0,
            id="by when upstream last touched it",
        ),
        pytest.param(
            change(DONE, State.COMPLETED, tracked_ago=1),
            {("a", "completed", "none"): 1},
            1.0,
            id="it had ended before it was tracked",
        ),
        pytest.param(
            change(BARE, State.COMPLETED),
            {("a", "completed", "none"): 1},
            None,
            id="upstream doesn't say when",
        ),
        pytest.param(
            change(DONE, State.FAILED, failure=FAILURE),
            {("a", "failed", "content_policy"): 1},
            4.0,
            id="failed, with its code",
        ),
        pytest.param(
            change(DONE, State.EXPIRED), {("a", "expired", "none"): 1}, None, id="expired: no end"
        ),
        pytest.param(
            change(None, State.CANCELLED), {("a", "cancelled", "none"): 1}, None, id="cancelled"
        ),
        pytest.param(
            change(DONE, State.COMPLETED, before="completed"), {}, None, id="it had ended before"
        ),
    ],
)
def test_an_end_is_counted_once_with_the_delay_of_its_notice(
    made: Change, ends: dict[tuple[str, ...], float], delay: float | None
) -> None:
    moved = Change(made.row, made.decision._replace(transition=True), made.answer)
    tally = counting.of_changes([moved], NOW)
    assert counted(tally, metrics.TRANSITIONS) == {("a", made.decision.state.value): 1}
    assert counted(tally, metrics.ENDS) == ends
    assert summed(tally, metrics.NOTICE_SECONDS, ("account", "a")) == delay


def test_events_are_counted_by_type_and_channel() -> None:
    rows = [
        {"event_type": "completed", "channel": "webhook"},
        {"event_type": "completed", "channel": "webhook"},
        {"event_type": "failed", "channel": "celery"},
    ]
    assert counted(counting.of_events(rows), metrics.EVENTS) == {
        ("completed", "webhook"): 2,
        ("failed", "celery"): 1,
    }


def test_attempts_are_counted_by_host_and_outcome_and_settle_what_they_settle() -> None:
    tally = counting.of_attempts(
        [
            Attempted("webhook", "h", Verdict.ACCEPTED, 0.5, settled="delivered", delay=2.0),
            Attempted("webhook", "h", Verdict.REFUSED, 0.25, settled="dead"),
            Attempted("webhook", "g", Verdict.FAILED, 1.0),
        ]
    )
    assert counted(tally, metrics.ATTEMPTS) == {
        ("webhook", "h", "accepted"): 1,
        ("webhook", "h", "refused"): 1,
        ("webhook", "g", "failed"): 1,
    }
    assert counted(tally, metrics.SETTLED) == {("webhook", "delivered"): 1, ("webhook", "dead"): 1}
    assert summed(tally, metrics.ATTEMPT_SECONDS, ("channel", "webhook")) == 1.75
    assert summed(tally, metrics.DELIVERY_SECONDS, ("channel", "webhook")) == 2.0


@pytest.mark.parametrize(
    ("seconds", "bucket", "total"),
    [
        pytest.param(0.01, "0.01", 0.01, id="at the bound"),
        pytest.param(0.02, "0.025", 0.02, id="between two"),
        pytest.param(26.0, "+Inf", 26.0, id="beyond all"),
        pytest.param(-3.0, "0.01", 0.0, id="of a clock that runs ahead"),
    ],
)
def test_an_observation_falls_into_one_bucket(seconds: float, bucket: str, total: float) -> None:
    tally = Tally()
    tally.observe_all(metrics.POLL_SECONDS, [seconds], "a")
    name, account = metrics.POLL_SECONDS.name, ("account", "a")
    assert tally == {
        Series(f"{name}_bucket", (account, ("le", bucket))): 1,
        Series(f"{name}_sum", (account,)): total,
    }


def test_buckets_are_shown_with_all_below_them() -> None:
    shown = dict(metrics.cumulated({"0.01": 2, "1.0": 1, "+Inf": 1}, metrics.POLL_SECONDS))
    assert (shown["0.01"], shown["0.5"], shown["1.0"], shown["25.0"]) == (2, 2, 3, 3)
    assert shown["+Inf"] == 4


def test_accounts_beyond_the_most_that_are_told_apart_share_one_series() -> None:
    known = {"account": {f"a{n}" for n in range(metrics.VALUES_MOST - 1)}, "host": set[str]()}
    tally = Tally()
    for name in ("a0", "last", "beyond", "more"):
        tally.count(metrics.POLLS, name)
    assert metrics.unplaced(tally, known) == {"account"}
    placed = metrics.bounded(tally, known)
    assert counted(placed, metrics.POLLS) == {("a0",): 1, ("last",): 1, ("other",): 2}
    assert metrics.unplaced(placed, known) == set()


def test_labels_that_are_few_need_no_place() -> None:
    tally = Tally()
    tally.count(metrics.EVENTS, "completed", "webhook")
    known: dict[str, set[str]] = {"account": set(), "host": set()}
    assert metrics.unplaced(tally, known) == set()
    assert metrics.bounded(tally, known) == tally
