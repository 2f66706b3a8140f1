"""Finding jobs by what people know of them, and pages in both directions."""

from typing import Any

import pytest

from reelwatch.jobs import history
from reelwatch.storage import db, events
from reelwatch.storage.filters import EventFilter, JobFilter
from tests import seeding


@pytest.mark.parametrize(
    "text", ["e-mine", "evt_of_mine", "req_mine", "task_mine", "order 7", "42"]
)
def test_a_job_is_found_by_each_of_its_names(url: str, text: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        other = {"order": "order 8", "number": 43, "flag": False}
        seeding.add_job(session, video_id="grok:another", metadata=other)
        mine = seeding.add_job(
            session, video_id="grok:one-mine", upstream_id="task_mine", error_request_id="req_mine",
            metadata={"order": "order 7", "number": 42, "flag": True},
        )  # fmt: skip
        step = seeding.add_transition(session, mine)
        seeding.add_delivery(session, mine, step, id="evt_of_mine")
    with db.reading(url) as session:
        found = history.page_of_jobs(session, JobFilter(text=text))
    assert [row["video_id"] for row in found.rows] == ["grok:one-mine"]


def test_what_nobody_has_finds_nothing(url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        seeding.add_job(session)
    with db.reading(url) as session:
        for text in ("%", "evt_none", "'", "GROK"):
            assert history.page_of_jobs(session, JobFilter(text=text)).rows == []


@pytest.mark.parametrize("oldest", [True, False])
@pytest.mark.parametrize("wanted", [{}, {"account": "default"}, {"model": "grok"}], ids=str)
def test_pages_in_both_directions_hold_each_job_once(
    url: str, wanted: dict[str, Any], oldest: bool
) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        for number in range(7):
            state = ("running", "completed", "expired")[number % 3]
            seeding.add_job(session, state, tracked_at=seeding.at(minutes=number // 2))
    told, before = [], None
    with db.reading(url) as session:
        for _ in range(9):
            found = history.page_of_jobs(session, JobFilter(**wanted), 2, before, oldest=oldest)
            told += [(row["tracked_at"], row["id"]) for row in found.rows]
            before = found.next
            if before is None:
                break
    assert len(told) == 7
    assert told == sorted(told, reverse=not oldest)


def test_events_are_found_by_their_job(url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        rows = [seeding.add_job(session, "completed") for _ in range(2)]
        steps = [seeding.add_transition(session, row) for row in rows]
        mine, _ = (seeding.add_delivery(session, *each) for each in zip(rows, steps, strict=True))
    with db.reading(url) as session:
        wanted = EventFilter(job_id=rows[0]["id"])
        [found] = events.page_of_events(session, wanted, 50).rows
        told = events.event(session, mine["id"])
    assert found["id"] == mine["id"]
    assert found["video_id"] == rows[0]["video_id"]
    assert told is not None
    assert told["attempts_log"] == []
