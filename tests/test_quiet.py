"""Polls without news: a batch of them is written as the general way has it, or not at all."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from reelwatch.config import settings
from reelwatch.jobs import applying, polling
from reelwatch.jobs.applying import Polled
from reelwatch.jobs.claiming import Claimed
from reelwatch.rules.answers import Answer
from reelwatch.rules.changes import Change
from reelwatch.rules.metrics import Series
from reelwatch.storage import counters, db
from reelwatch.storage.models import Job, Transition
from tests.test_polling import (
    BROKEN,
    DONE,
    KEY,
    NOW,
    RULES,
    RUNNING,
    UNAUTHORIZED,
    add_account,
    add_jobs,
    after,
    claim,
    ids,
    polled,
    poller_of,
    recorded,
    rows,
)


def apply_quiet(url: str, results: Sequence[Polled]) -> list[tuple[Change, Polled]] | None:
    return applying.apply_quiet(url, RULES, results)


@pytest.fixture
def url(database_url: str) -> str:
    add_account(database_url)
    return database_url


def claimed_jobs(url: str) -> list[Claimed]:
    known: dict[str, Any] = {"state": "running", "upstream_status": "running", "polls": 3}
    add_jobs(url, ids(3), **known)
    return list(claim(url).items)


def test_they_are_counted_released_and_due_again(url: str) -> None:
    results = [polled(one, RUNNING) for one in claimed_jobs(url)]
    changes = apply_quiet(url, results)
    assert changes is not None
    assert [polled for _, polled in changes] == results
    dues = {change.row["id"]: change.decision.due for change, _ in changes}
    for row in rows(url, Job):
        assert (row["polls"], row["lease_token"]) == (4, None)
        assert row["next_poll_at"] == dues[row["id"]]
        assert NOW < row["last_polled_at"] < after(60)
    assert rows(url, Transition) == []
    with db.reading(url) as session:
        written = counters.totals(session)
    assert written[Series("reelwatch_polls_total", (("account", "default"),))] == 3


def test_the_time_is_the_databases_as_it_goes_on_since_the_claim(url: str) -> None:
    results = [polled(one, RUNNING) for one in claimed_jobs(url)]
    slot = results[-1].claimed.slot
    opened = replace(slot, opens=time.monotonic() - 100)
    results[-1] = replace(results[-1], claimed=replace(results[-1].claimed, slot=opened))
    apply_quiet(url, results)
    assert slot.at
    (at,) = {row["last_polled_at"] for row in rows(url, Job)}
    assert 100 <= (at - slot.at).total_seconds() < 160


@pytest.mark.parametrize("taken", [{"lease_token": "b" * 32}, {"lease_token": None}])
def test_if_one_has_been_taken_nothing_is_written(url: str, taken: dict[str, Any]) -> None:
    results = [polled(one, RUNNING) for one in claimed_jobs(url)]
    with db.transaction(url) as session:
        session.execute(update(Job).where(Job.video_id == ids(3)[1]).values(taken))
    before = recorded(url)
    assert apply_quiet(url, results) is None
    assert recorded(url) == before
    with db.reading(url) as session:
        assert counters.totals(session) == {}


def test_a_row_that_is_locked_is_not_waited_for(postgresql_url: str) -> None:
    add_account(postgresql_url)
    results = [polled(one, RUNNING) for one in claimed_jobs(postgresql_url)]
    before = recorded(postgresql_url)
    with db.transaction(postgresql_url) as producer:
        producer.execute(select(Job).limit(1).with_for_update())
        assert apply_quiet(postgresql_url, results) is None
    assert recorded(postgresql_url) == before


@pytest.mark.parametrize(
    "news",
    [DONE, BROKEN, UNAUTHORIZED, None, replace(RUNNING, status="queued"),
     replace(RUNNING, progress=0.5), replace(RUNNING, foreign_id="other")],
)  # fmt: skip
def test_news_in_one_are_left_to_the_general_way(url: str, news: Answer | None) -> None:
    one, *others = claimed_jobs(url)
    before = recorded(url)
    results = [*(polled(each, RUNNING) for each in others), polled(one, news)]
    assert apply_quiet(url, results) is None
    assert recorded(url) == before


@pytest.mark.parametrize("said", [{"probe": True}, {"suspected": True}])
def test_a_poll_that_speaks_of_its_account_is_left_to_it(url: str, said: dict[str, Any]) -> None:
    results = [polled(replace(one, **said), RUNNING) for one in claimed_jobs(url)]
    assert apply_quiet(url, results) is None


def test_a_batch_goes_the_short_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings.Settings(database=url, base_url="http://127.0.0.1:1", api_key=KEY)
    monkeypatch.setattr(polling, "apply", None)
    poller_of(made).record([polled(one, RUNNING) for one in claimed_jobs(url)])
    assert [row["polls"] for row in rows(url, Job)] == [4, 4, 4]
