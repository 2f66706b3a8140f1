"""A result URL that can't be used, and the end that tells it."""

from datetime import UTC, datetime, timedelta

from reelwatch.rules.answers import AnswerError, ErrorKind, Meaning, Report
from reelwatch.rules.deadlines import Rules
from reelwatch.rules.lifecycle import decide
from reelwatch.rules.states import Job, State

NOW = datetime(2026, 2, 6, 4, 10, tzinfo=UTC)
RUNNING = Job(State.RUNNING, "processing", NOW - timedelta(minutes=5), NOW + timedelta(hours=1))


def test_what_is_given_in_place_of_a_url_is_told_with_the_end() -> None:
    lacking = "gave a video URL that can't be used: gs://b/v.mp4 (no http(s) URL)"
    given = Report("completed", Meaning.SUCCESS, lacking=lacking, remarks=(lacking,))
    found = decide(RUNNING._replace(resultless_count=4), given, NOW, Rules(result_grace=0))
    assert found.state is State.COMPLETED
    assert found.failure is not None
    assert found.failure.code == "no_result"
    assert found.failure.message == f"upstream says it is finished and {lacking}"
    assert found.error == AnswerError(ErrorKind.BAD_SHAPE, lacking, 200)
