"""What follows from a decision about a row, as tables: what is written, and when it is little."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.states import Decision, State
from reelwatch.rules.status import Meaning
from reelwatch.storage.job_columns import poll_values

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(minutes=1)
RUNS = Report("processing", Meaning.IN_PROGRESS)
ERROR = AnswerError(ErrorKind.SERVER_ERROR, "it broke", 500)
STILL = Decision(State.RUNNING, "processing", NOW + timedelta(seconds=5), watched_since=BEFORE)
ROW: dict[str, Any] = {
    "id": 7,
    "state": "running",
    "sequence": 1,
    "polls": 3,
    "last_polled_at": BEFORE,
    "watched_since": BEFORE,
    "upstream_id": None,
    "errors_in_row": 0,
    "errors_since": None,
    "last_error": None,
    "last_error_id": None,
    "not_found_count": 0,
    "not_found_since": None,
    "resultless_count": 0,
    "resultless_since": None,
    "model": "veo3",
    "progress": None,
    "progress_at": None,
    "upstream_created_at": BEFORE,
}
EVERY_POLL = {"next_poll_at", "last_polled_at", "polls", "lease_token"}  # what each one writes


def report(**more: Any) -> Report:
    return Report("processing", Meaning.IN_PROGRESS, **more)


def test_a_poll_without_news_is_quiet() -> None:
    assert Change(ROW, STILL, RUNS).is_quiet


@pytest.mark.parametrize(
    ("row", "decision", "answer"),
    [
        pytest.param({}, {}, None, id="nobody was asked"),
        pytest.param({}, {}, ERROR, id="an error"),
        pytest.param({}, {"transition": True}, RUNS, id="a transition"),
        pytest.param({}, {"abandoned": True}, RUNS, id="it is given up"),
        pytest.param({}, {"due": None}, RUNS, id="it is polled no more"),
        pytest.param({}, {"error": ERROR}, RUNS, id="an answer that is not believed"),
        pytest.param({"last_error_id": 3}, {}, RUNS, id="the first answer after errors"),
        pytest.param({"errors_in_row": 2}, {}, RUNS, id="errors are over"),
        pytest.param({}, {"errors_in_row": 1}, RUNS, id="errors begin"),
        pytest.param({"not_found_count": 2}, {}, RUNS, id="it is known again"),
        pytest.param({}, {"not_found_count": 1}, RUNS, id="it is not known"),
        pytest.param({"resultless_count": 1}, {}, RUNS, id="its URL is no longer awaited"),
        pytest.param({}, {"resultless_count": 1}, RUNS, id="its URL is awaited"),
        pytest.param({}, {}, report(progress=0.5), id="progress"),
        pytest.param({}, {"watched_since": NOW}, RUNS, id="watched anew"),
        pytest.param({}, {"foreign_id": "b"}, RUNS, id="upstream has another id for it"),
        pytest.param({"model": None}, {}, report(model="veo3"), id="its model is learned"),
        pytest.param({}, {}, report(created_at=NOW), id="when it was created is learned"),
    ],
)
def test_a_poll_with_news_is_not_quiet(
    row: dict[str, Any], decision: dict[str, Any], answer: Answer | None
) -> None:
    assert not Change(ROW | row, STILL._replace(**decision), answer).is_quiet


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        pytest.param({}, RUNS, id="the shortest answer"),
        pytest.param({}, report(model="veo3.1"), id="the model is known already"),
        pytest.param({"model": None}, RUNS, id="nobody knows the model"),
        pytest.param({}, report(created_at=BEFORE), id="created when it was known to be"),
        pytest.param({"progress": 0.5, "progress_at": BEFORE}, RUNS, id="no word of progress"),
    ],
)
def test_a_quiet_poll_writes_no_more_than_every_poll(row: dict[str, Any], answer: Report) -> None:
    change = Change(ROW | row, STILL, answer)
    assert change.is_quiet
    values = poll_values(change, {}, NOW)
    assert {name for name, value in values.items() if value != (ROW | row).get(name)} <= EVERY_POLL


@pytest.mark.parametrize(
    ("before", "after", "was_final"),
    [
        pytest.param("running", State.RUNNING, False, id="it runs"),
        pytest.param("running", State.COMPLETED, False, id="it ends now"),
        pytest.param("completed", State.COMPLETED, True, id="more is learned of its end"),
        pytest.param("failed", State.RUNNING, False, id="it is taken up again"),
    ],
)
def test_a_job_that_had_ended_before_keeps_its_end(
    before: str, after: State, was_final: bool
) -> None:
    assert Change({**ROW, "state": before}, STILL._replace(state=after)).was_final is was_final


@pytest.mark.parametrize(
    ("answer", "polls", "told"),
    [(None, 3, None), (ERROR, 4, None), (RUNS, 4, RUNS)],
    ids=["nobody was asked", "an error", "a report"],
)
def test_only_answers_are_polls(answer: Answer | None, polls: int, told: Report | None) -> None:
    change = Change(ROW, STILL, answer)
    assert (change.polls, change.report) == (polls, told)


@pytest.mark.parametrize(("transition", "sequence"), [(False, 1), (True, 2)])
def test_transitions_are_numbered(transition: bool, sequence: int) -> None:
    assert Change(ROW, STILL._replace(transition=transition), RUNS).sequence == sequence
