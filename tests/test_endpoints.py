"""How an endpoint is, and in which words."""

from datetime import UTC, datetime, timedelta

import pytest

from reelwatch.rules.endpoints import How, doubt, how, said

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(minutes=5), NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("failures", "until", "refuses", "found", "words"),
    [
        (0, None, False, How.WELL, "takes what it is sent"),
        (0, None, True, How.REFUSING, "refuses events with 401"),
        (1, None, False, How.FAILING, "fails: 1 attempt failed in a row"),
        (6, BEFORE, False, How.FAILING, "fails: 6 attempts failed in a row"),
        (5, LATER, False, How.RESTING, "rests: 5 attempts failed in a row"),
    ],
)
def test_is_one_of_four(
    failures: int, until: datetime | None, refuses: bool, found: How, words: str
) -> None:
    assert how(failures, until, NOW, refuses=refuses) is found
    assert said(found, failures, 401) == words


def test_a_refusal_without_a_status_is_one_all_the_same() -> None:
    assert said(How.REFUSING) == "refuses events"


@pytest.mark.parametrize(
    ("state", "status", "question"),
    [
        (How.REFUSING, 401, "does it verify with the secret that signs here?"),
        (How.REFUSING, 404, "is the path of its URL right?"),
        (How.REFUSING, 422, "what does it not like of them?"),
        (How.FAILING, 503, "what does its own log say?"),
        (How.RESTING, None, "does it run, and can it be reached?"),
    ],
)
def test_what_to_look_at_follows_from_what_it_answered(
    state: How, status: int | None, question: str
) -> None:
    assert doubt(state, status) == question
