"""What the operator is told and what is an incident, as tables."""

from datetime import UTC, datetime, timedelta

import pytest

from reelwatch.rules import notices
from reelwatch.rules.answers import (
    FOUND_ELSEWHERE,
    NO_JOB,
    Answer,
    AnswerError,
    ErrorKind,
    Report,
)
from reelwatch.rules.breaker import WELL, Breaker
from reelwatch.rules.notices import Notice, NoticeType, Reading, Since
from reelwatch.rules.standing import Standing
from reelwatch.rules.status import Meaning

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
WORKS = Standing(5.0)
RESTS = Standing(5.0, pause_reason="unauthorized", paused_until=NOW)
BY_HAND = Standing(5.0, pause_reason="by hand")
FAILS = Breaker(failures=3)
OPEN = Breaker(failures=5, openings=1, allowance=1, open_until=NOW)


NOW_TEXT = "2026-02-06T04:00:00.000000Z"


def paused(reason: str, until: str | None) -> Notice:
    said = {"account": "a", "reason": reason, "until": until}
    return Notice(NoticeType.ACCOUNT_PAUSED, said)


def resumed(reason: str) -> Notice:
    return Notice(NoticeType.ACCOUNT_RESUMED, {"account": "a", "reason": reason})


@pytest.mark.parametrize(
    ("before", "after", "notice"),
    [
        pytest.param(WORKS, WORKS, None, id="it works"),
        pytest.param(WORKS, RESTS, paused("unauthorized", NOW_TEXT), id="paused"),
        pytest.param(WORKS, BY_HAND, paused("by hand", None), id="paused until it is resumed"),
        pytest.param(RESTS, BY_HAND, None, id="another reason"),
        pytest.param(RESTS, WORKS, resumed("unauthorized"), id="resumed"),
    ],
)
def test_an_account_that_begins_or_ends_to_rest_is_told(
    before: Standing, after: Standing, notice: Notice | None
) -> None:
    assert notices.of_account("a", before, after) == notice


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        pytest.param(WELL, WELL, None, id="it is well"),
        pytest.param(WELL, FAILS, None, id="some failures"),
        pytest.param(FAILS, OPEN, NoticeType.ENDPOINT_FAILING, id="it is left alone"),
        pytest.param(OPEN, OPEN, None, id="for longer"),
        pytest.param(OPEN, WELL, NoticeType.ENDPOINT_RECOVERED, id="it takes events again"),
        pytest.param(FAILS, WELL, None, id="failures that were no incident"),
    ],
)
def test_an_endpoint_that_is_left_alone_or_recovers_is_told(
    before: Breaker, after: Breaker, kind: NoticeType | None
) -> None:
    told = notices.of_endpoint({"endpoint": "https://h/x", "name": "h/…1"}, before, after)
    assert (told and told.type) == kind
    assert told is None or (told.data["endpoint"], told.data["name"]) == ("https://h/x", "h/…1")


def test_what_is_told_has_the_form_of_every_event() -> None:
    body = notices.body(Notice(NoticeType.DELIVERY_DEAD, {"endpoint": "h"}), NOW)
    assert body == {
        "type": "delivery.dead",
        "timestamp": NOW_TEXT,
        "data": {"endpoint": "h"},
    }


@pytest.mark.parametrize(
    ("answer", "new"),
    [
        pytest.param(None, None, id="nobody was asked"),
        pytest.param(Report("processing", Meaning.IN_PROGRESS), None, id="all is known"),
        pytest.param(Report("dreaming", Meaning.UNKNOWN), "status 'dreaming'", id="a status"),
        pytest.param(Report("error", Meaning.UNKNOWN), None, id="the status of all errors"),
        pytest.param(Report(None, Meaning.UNKNOWN), None, id="no status"),
        pytest.param(
            Report("processing", Meaning.IN_PROGRESS, remarks=("odd", FOUND_ELSEWHERE)),
            FOUND_ELSEWHERE,
            id="a place",
        ),
        pytest.param(
            Report("processing", Meaning.IN_PROGRESS, remarks=("odd",)), None, id="a known oddity"
        ),
        pytest.param(AnswerError(ErrorKind.BAD_SHAPE, NO_JOB), NO_JOB, id="a shape"),
        pytest.param(AnswerError(ErrorKind.BAD_SHAPE, "another id"), None, id="a wrong answer"),
        pytest.param(AnswerError(ErrorKind.TIMEOUT, NO_JOB), None, id="no answer"),
    ],
)
def test_what_this_release_does_not_know_is_new(answer: Answer | None, new: str | None) -> None:
    assert notices.novelty(answer) == new


@pytest.mark.parametrize(
    ("seconds", "polls", "failed", "was_out", "is_out"),
    [
        pytest.param(29, 100, 100, False, None, id="too soon to say"),
        pytest.param(30, 4, 4, False, None, id="too few polls"),
        pytest.param(30, 5, 5, False, True, id="all of enough polls"),
        pytest.param(60, 10, 9, False, True, id="nine of ten"),
        pytest.param(60, 100, 89, False, False, id="not quite so many"),
        pytest.param(300, 1, 1, False, True, id="one poll of a long time"),
        pytest.param(300, 0, 0, False, None, id="no poll at all"),
        pytest.param(60, 10, 6, True, True, id="it stays out while most fail"),
        pytest.param(60, 10, 5, True, False, id="half of them work: it is over"),
        pytest.param(60, 10, 6, False, False, id="most fail: that begins no outage"),
    ],
)
def test_upstream_is_out_by_the_share_of_polls_that_fail(
    seconds: float, polls: float, failed: float, was_out: bool, is_out: bool | None
) -> None:
    before = Reading(NOW, 1_000, 50)
    now = Reading(NOW + timedelta(seconds=seconds), 1_000 + polls, 50 + failed)
    assert notices.judged(before, now, out=was_out) is is_out


@pytest.mark.parametrize(
    ("failing", "open_jobs", "others_ended", "upstreams"),
    [
        pytest.param(0, 0, False, False, id="none is open any more"),
        pytest.param(0, 1, False, False, id="the only one is answered again"),
        pytest.param(1, 1, False, True, id="the only one that there is"),
        pytest.param(1, 1, True, False, id="others have ended since it fails"),
        pytest.param(1, 2, False, False, id="another one does not fail"),
        pytest.param(1, 1_000, False, False, id="one of many"),
        pytest.param(2, 2, False, True, id="two, and all that there are"),
        pytest.param(2, 1_000, False, True, id="two of many"),
    ],
)
def test_an_outage_takes_more_than_one_jobs_error(
    failing: int, open_jobs: int, others_ended: bool, upstreams: bool
) -> None:
    assert notices.of_upstream(failing, open_jobs, others_ended=others_ended) is upstreams


def test_readings_are_kept_as_json() -> None:
    reading, since = Reading(NOW, 7, 2), Since(NOW, holds=True)
    assert Reading.of_json(reading.as_json()) == reading
    assert Since.of_json(since.as_json()) == since


@pytest.mark.parametrize(("holds", "at"), [(True, NOW), (False, LATER)])
def test_something_is_so_since_it_last_changed(holds: bool, at: datetime) -> None:
    assert Since(NOW, holds=True).now(holds=holds, at=LATER) == Since(at, holds)


@pytest.mark.parametrize(("minutes", "told"), [(4.99, False), (5, True)])
def test_it_is_told_once_it_has_lasted(minutes: float, told: bool) -> None:
    assert Since(NOW, holds=True).lasts(NOW + timedelta(minutes=minutes)) is told
