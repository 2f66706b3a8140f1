"""What rows are told by: the next time and its reason, as lists, stories and JSON have them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.orm import Session

from reelwatch.jobs import history, pausing
from reelwatch.storage import db, prospects
from reelwatch.storage.models import Account, Endpoint, Heartbeat
from tests import seeding

HOOK = "https://hooks.example.com/x"


def tick(session: Session, seconds_ago: float = 1) -> None:
    session.add(Heartbeat(name="tick", at=db.now(session) - timedelta(seconds=seconds_ago)))
    session.flush()


def polls(session: Session) -> dict[str, tuple[Any, str | None]]:
    rows = history.list_jobs(session)
    return {
        row["video_id"]: (row["next_poll_expected_at"], row["next_poll_reason"]) for row in rows
    }


def test_jobs_of_an_account_that_rests_wait_for_it_and_others_do_not(database_url: str) -> None:
    with db.transaction(database_url) as session:
        until = db.now(session) + timedelta(minutes=5)
        rests = {"paused_until": until, "pause_reason": "unauthorized: key refused"}
        seeding.add_account(session, "acme", **rests)
        seeding.add_account(session)
        seeding.add_job(session, video_id="held", account="acme")
        seeding.add_job(session, video_id="free", next_poll_at=seeding.at(seconds=-30))
        seeding.add_job(session, "completed", video_id="ended")
        tick(session)
        found = polls(session)
    at, reason = found["held"]
    assert at == until
    assert reason is not None
    assert reason.startswith("account acme rests until ")
    assert reason.endswith(": unauthorized: key refused")
    assert found["free"][1] is None
    assert found["ended"] == (None, None)


@pytest.mark.parametrize(
    "rest",
    [
        {"pause_reason": "unauthorized: key refused", "paused_until": True},
        {"pause_reason": "by hand"},
        {"slowed_at": True, "refused_rate": 5.0, "requests_per_second": 1.0},
    ],
)
def test_of_an_account_that_was_resumed_no_job_says_that_it_rests(
    url: str, rest: dict[str, Any]
) -> None:
    with db.transaction(url) as session:
        later = db.now(session) + timedelta(minutes=5)
        columns: dict[str, Any] = {
            name: later if value is True else value for name, value in rest.items()
        }
        seeding.add_account(session, **columns)
        seeding.add_job(session, next_poll_at=seeding.at(seconds=1))
        tick(session)
        (before,) = polls(session).values()
    assert before[1]
    assert "account default" in before[1]
    pausing.resume_account("default")
    with db.reading(url) as session:
        (after,), now = polls(session).values(), db.now(session)
    assert after[1] is None
    assert after[0] <= now


def test_jobs_that_are_more_than_the_rate_allows_say_so(database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session, "acme", requests_per_second=0.5)
        due: dict[str, Any] = {"account": "acme", "next_poll_at": seeding.at(seconds=1)}
        for number in range(10):
            seeding.add_job(session, video_id=f"v{number}", **due)
        seeding.add_job(session, video_id="leased", lease_token="t", account="acme",
                        next_poll_at=seeding.at(seconds=-30))  # fmt: skip
        tick(session)
        found, now = polls(session), db.now(session)
    at, reason = found["v3"]
    assert reason == "rate short: 10 jobs of account acme are due, at 0.5/s"
    assert timedelta(seconds=18) < at - now < timedelta(seconds=21)
    assert found["leased"][1] == "a worker polls it now"


def test_the_rate_of_a_slowed_account_is_that_of_now(database_url: str) -> None:
    slowed: dict[str, Any] = {"requests_per_second": 3.5, "refused_rate": 5.0}
    with db.transaction(database_url) as session:
        seeding.add_account(session, slowed_at=seeding.at(seconds=20), **slowed)
        for number in range(20):
            seeding.add_job(session, video_id=f"v{number}", next_poll_at=seeding.at(seconds=1))
        tick(session)
        said = "account default is slowed to 4/s by upstream's 429s: 20 of its jobs are due"
        assert polls(session)["v3"][1] == said
        session.execute(update(Account).values(slowed_at=seeding.at(hours=1)))
        assert polls(session)["v3"][1] == "rate short: 20 jobs of account default are due, at 5/s"


def test_without_ticks_nothing_is_promised(database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, video_id="v", next_poll_at=seeding.at(seconds=1))
        step = seeding.add_transition(session, job)
        due = seeding.at(seconds=1)
        seeding.add_delivery(session, job, step, "pending", next_attempt_at=due)
        tick(session, 120)
        story = history.story(session, "v")
        (listed,) = history.list_deliveries(session)
    reason = "no tick for 2m00s: no worker runs, or no beat"
    assert (story["job"]["next_poll_expected_at"], story["job"]["next_poll_reason"]) == (
        None,
        reason,
    )
    for told in (story["deliveries"][0], listed):
        assert told["next_attempt_expected_at"] is None
        assert told["next_attempt_reason"] == reason


def test_an_event_of_an_endpoint_that_is_left_alone_says_until_when(database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        now = db.now(session)
        until = now + timedelta(minutes=5)
        standing = {"failures": 5, "openings": 1, "allowance": 1}
        session.add(Endpoint(name=HOOK, host="hooks.example.com", open_until=until, changed_at=now,
                             **standing))  # fmt: skip
        job = seeding.add_job(session)
        for number, target in enumerate((HOOK, f"{HOOK}/other"), 1):
            step = seeding.add_transition(session, job, sequence=number)
            seeding.add_delivery(session, job, step, "pending", target=target)
        told = seeding.add_delivery(
            session, job, seeding.add_transition(session, job, sequence=3), target=HOOK
        )
        tick(session)
        found = {row["target"]: row for row in history.list_deliveries(session, state="pending")}
        (sent,) = history.list_deliveries(session, state="delivered")
    held, free = found[HOOK], found[f"{HOOK}/other"]
    assert held["next_attempt_expected_at"] == until
    assert held["next_attempt_reason"].startswith(f"{HOOK} rests until ")
    assert held["next_attempt_reason"].endswith(": 5 attempts failed in a row")
    assert free["next_attempt_reason"] is None
    assert sent["id"] == told["id"]
    assert (sent["next_attempt_expected_at"], sent["next_attempt_reason"]) == (None, None)


def test_what_is_due_is_counted_by_one_statement_for_all_accounts(database_url: str) -> None:
    counts = []
    for number in range(2):
        with db.transaction(database_url) as session:
            for name in range(2 + 20 * number):
                seeding.add_account(session, f"a{number}-{name}")
                seeding.add_job(session, account=f"a{number}-{name}")
        with db.reading(database_url) as session:
            sent: list[str] = []

            def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
                sent.append(statement)  # noqa: B023 - while it is listened to, it is this one

            rows = history.list_jobs(session)
            event.listen(session.get_bind(), "before_cursor_execute", note)
            assert prospects.of_jobs(session, rows, db.now(session))
            event.remove(session.get_bind(), "before_cursor_execute", note)
            counts.append(len(sent))
    assert 0 < counts[0] == counts[1]
