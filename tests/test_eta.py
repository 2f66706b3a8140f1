"""The remaining time wherever it is read: by Python, in the history, in what producers are told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import event, select, update

import reelwatch
from reelwatch.config import settings
from reelwatch.errors import UnknownJob
from reelwatch.jobs import history, polling
from reelwatch.net.upstream import Poll
from reelwatch.rules.answers import Meaning, Report
from reelwatch.rules.timing.plan import ETA_JOBS
from reelwatch.storage import db, forecasts
from reelwatch.storage.models import Delivery, Job
from tests import seeding
from tests.kinds import foretold, know, steady

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
STEADY = foretold(30.0, 122.9)._asdict()
SLOW = STEADY | {"slower_than_95_percent": True}


@pytest.fixture
def url(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two accounts that know different things of the same model, at one moment of the database."""
    monkeypatch.setattr(db, "now", lambda _: NOW)
    with db.transaction(url) as session:
        for name in ("acme", "default"):
            seeding.add_account(session, name)
        know(session, steady(40.0))
        know(session, steady(70.0), account="acme")
    return url


def add_job(url: str, state: str = "running", seconds: float = 60, **columns: Any) -> str:
    """A job of that age that was polled ten seconds ago; returns its id."""
    times = {
        "tracked_at": NOW - timedelta(seconds=seconds),
        "last_polled_at": NOW - timedelta(seconds=10),
    }
    with db.transaction(url) as session:
        return str(seeding.add_job(session, state, **times | columns)["video_id"])


@contextmanager
def statements(url: str) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    event.listen(db.engine(url), "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(db.engine(url), "before_cursor_execute", note)


# ------------------------------------------------------------------ Python


def test_python_gets_it_by_id_and_account(url: str) -> None:
    mine = add_job(url)
    theirs = add_job(url, account="acme")
    assert reelwatch.eta(mine) == foretold(30.0, 122.9)
    assert reelwatch.eta(theirs, "acme") == foretold(60.0, 222.5)
    assert reelwatch.eta(theirs, account="acme") == reelwatch.eta(theirs, "acme")


def test_python_gets_it_within_ones_own_transaction(url: str) -> None:
    video_id = add_job(url)
    with db.transaction(url) as session:
        session.execute(update(Job).values(last_polled_at=NOW))
        assert reelwatch.eta(video_id, session=session) == foretold(40.0, 132.9)
        session.rollback()
    assert reelwatch.eta(video_id) == foretold(30.0, 122.9)


def test_an_unknown_id_is_an_error_that_names_who_knows_it(url: str) -> None:
    theirs = add_job(url, account="acme")
    with pytest.raises(UnknownJob, match=r"it is for 'acme'"):
        reelwatch.eta(theirs)


@pytest.mark.parametrize(
    ("state", "columns", "known"),
    [
        ("pending", {}, STEADY),
        ("running", {}, STEADY),
        ("running", {"seconds": 190}, SLOW),
        ("running", {"model": "sora-2"}, None),
        ("running", {"model": None}, None),
        ("running", {"errors_in_row": 1, "last_error": "timeout"}, None),
        ("expired", {}, None),
        ("completed", {}, None),
        ("failed", {}, None),
        ("cancelled", {}, None),
    ],
)
def test_all_ways_of_reading_say_the_same(
    url: str, state: str, columns: dict[str, Any], known: dict[str, Any] | None
) -> None:
    video_id = add_job(url, state, **columns)
    with db.reading(url) as session:
        (listed,), (live,) = history.list_jobs(session), history.live_jobs(session)
        told = history.story(session, video_id)["job"]
    assert [listed["eta"], live["eta"], told["eta"]] == [known] * 3
    found = reelwatch.eta(video_id)
    assert (found and found._asdict()) == known
    assert live.keys() - {"lease_token"} == listed.keys() == told.keys()


def test_too_few_jobs_foretell_nothing(url: str) -> None:
    video_id = add_job(url)
    for jobs, known in ((ETA_JOBS - 1, False), (ETA_JOBS, True)):
        with db.transaction(url) as session:
            know(session, steady(40.0, jobs))
        assert (reelwatch.eta(video_id) is not None) == known


@pytest.mark.parametrize(("ended", "said"), [(0, True), (3, True), (5, False)])
def test_too_few_jobs_are_told_as_such(url: str, ended: int, said: bool) -> None:
    video_id = add_job(url, model="rare")
    for _ in range(ended):
        add_job(url, "completed", model="rare", finished_at=NOW)
    add_job(url, "completed", model="rare", account="acme", finished_at=NOW)
    add_job(url, "cancelled", model="rare", finished_at=NOW)
    few = f"no estimate yet: {ended} of 5 jobs of this model at this account have ended"
    with db.reading(url) as session:
        job = history.story(session, video_id)["job"]
        assert forecasts.why_none(session, job) == (few if said else "")
        assert forecasts.why_none(session, job | {"eta": {"p50_seconds": 1.0}}) == ""
        assert forecasts.why_none(session, job | {"state": "expired"}) == ""
        unheard = "no estimate while its polls bring no news: it may have ended since"
        failing = forecasts.why_none(session, job | {"errors_in_row": 2})
        assert failing == (few if said else unheard)


# ----------------------------------------------------------------- history


def test_each_job_goes_by_its_own_account_and_model(url: str) -> None:
    with db.transaction(url) as session:
        know(session, steady(100.0), model="veo3")
    expected = {
        add_job(url): 30.0,
        add_job(url, account="acme"): 60.0,
        add_job(url, model="veo3"): 90.0,
        add_job(url, "completed"): None,
    }
    with db.reading(url) as session:
        rows = history.list_jobs(session)
    found = {row["video_id"]: row["eta"] and row["eta"]["p50_seconds"] for row in rows}
    assert found == expected


def test_a_list_asks_for_each_account_once(url: str) -> None:
    counts = []
    for jobs in (2, 28):
        for number in range(jobs):
            add_job(url, account=("acme", "default")[number % 2])
        with db.reading(url) as session:
            history.list_jobs(session)  # what was learned is read once
            with statements(url) as asked:
                assert all(row["eta"] for row in history.list_jobs(session))
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_a_list_of_ended_jobs_asks_for_nothing_more(url: str) -> None:
    add_job(url, "completed")
    with db.reading(url) as session, statements(url) as asked:
        history.list_jobs(session)
    assert len(asked) == 1


def test_changes_are_told_with_what_their_job_still_takes_now(url: str) -> None:
    names = [add_job(url), add_job(url, "completed")]
    with db.transaction(url) as session:
        for row in history.list_jobs(session, ids=names):
            seeding.add_transition(session, row)
    with db.reading(url) as session:
        changes = history.changes(session, 0)
        told = history.with_etas_now(session, changes)
        assert {row["video_id"]: row["eta"] for row in told} == {names[0]: STEADY, names[1]: None}
        assert [{**row, "eta": 0} for row in told] == [{**row, "eta": 0} for row in changes]
        assert history.with_etas_now(session, []) == []


# ------------------------------------------------------------------ events


def test_a_batch_tells_producers_what_the_curves_say(url: str) -> None:
    """As of the poll: nothing has passed since then."""
    add_job(url, "pending", seconds=20, next_poll_at=NOW, webhook_url="https://hooks.example.com/",
            callback_task="shop.done", events=["status_changed", "completed"])  # fmt: skip
    answers = [
        Report("processing", Meaning.IN_PROGRESS),
        Report("done", Meaning.SUCCESS, "https://cdn.example.com/v.mp4"),
    ]
    for answer in answers:
        with db.transaction(url) as session:
            session.execute(update(Job).values(next_poll_at=NOW))
        ask = Mock(return_value=Poll(answer, 200, 7))
        # One that is late for its slot is not sent.
        for _ in range(20):
            if not ask.called:
                polling.poll(settings.current(), "default", ask=ask)
    with db.reading(url) as session:
        rows = session.execute(select(Delivery.channel, Delivery.body)).all()
    bodies = [(channel, json.loads(body)) for channel, body in rows]
    told = [(channel, body["type"], body["data"]["eta"]) for channel, body in bodies]
    eta = foretold(40.0, 132.9)._asdict()
    assert sorted(told, key=str) == [
        ("celery", "video.completed", None),
        ("celery", "video.status_changed", eta),
        ("webhook", "video.completed", None),
        ("webhook", "video.status_changed", eta),
    ]
