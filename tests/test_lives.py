"""Whole lives of jobs that upstream says little of, through the tables, by a clock of the test's.

What nothing is learned of is told at its deadline, with the reason, then given up, then pruned.
What upstream goes on speaking of is not given up because nobody asked for a while. Here that is
four hours and not a day, and polls are minutes apart: lives of few polls.
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select, update

from reelwatch.config.accounts import Account as Configured
from reelwatch.jobs import applying, claiming, overdue, pruning
from reelwatch.net.upstream import Poll
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Meaning, Report
from reelwatch.rules.deadlines import Rules
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.planner import Plans
from reelwatch.storage import db
from reelwatch.storage.models import Account, Delivery, Job
from tests.seeding import add_account, jobs_in

BEGAN = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
CONFIGURED = Configured("default", "http://127.0.0.1:9", "sk-x", 5.0)
RULES = Rules(plans=Plans(Pace(120, 600)), abandon_after=4 * 3_600)
RUNNING = Report("processing", Meaning.IN_PROGRESS)
REFUSALS = {
    401: AnswerError(ErrorKind.UNAUTHORIZED, "invalid token", 401),
    402: AnswerError(ErrorKind.QUOTA, "quota is not enough", 402),
    403: AnswerError(ErrorKind.FORBIDDEN, "no access to model", 403),
    429: AnswerError(ErrorKind.RATE_LIMITED, "too many requests", 429),
}
Answers = Callable[[str], Answer]


def after(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)


def begin(url: str, ids: Sequence[str]) -> None:
    row = {
        "account": "default", "model": "veo3", "state": "pending", "metadata_": {},
        "events": ["completed", "failed", "expired"], "callback_task": "shop.told",
        "tracked_at": BEGAN, "next_poll_at": BEGAN, "deadline_at": after(1),
    }  # fmt: skip
    with db.transaction(url) as session:
        add_account(session)
        session.execute(insert(Job), [row | {"video_id": video_id} for video_id in ids])


def live(url: str, answers: Answers, begin: datetime, end: datetime) -> datetime:
    """Poll what is due, whenever something is; returns the time of the last poll."""
    now = begin
    while True:
        with db.transaction(url) as session:
            overdue.tell_of_resting(session, "default", RULES, now)
        with db.transaction(url) as session:
            claimed = claiming.claim(session, CONFIGURED, 64, now=now, rules=RULES).items
        results = [
            applying.Polled(each, Poll(answers(each.row["video_id"]), 200, 1)) for each in claimed
        ]
        if results:
            with db.transaction(url) as session:
                applying.apply(session, RULES, results, now)
        due = next_due(url)
        if due is None or due > end:
            return now
        now = max(due, now + timedelta(seconds=1))


def next_due(url: str) -> datetime | None:
    """When a job may be polled next, as far as the rows tell."""
    with db.reading(url) as session:
        due = session.execute(select(func.min(Job.next_poll_at))).scalar_one()
        account = session.execute(select(Account)).scalar_one()
    return due and max(filter(None, (due, account.paused_until, account.next_slot_at)))


def told(url: str) -> list[str]:
    with db.reading(url) as session:
        events = session.scalars(select(Delivery).order_by(Delivery.job_id)).all()
        return [json.loads(each.body)["data"]["error"]["message"] for each in events]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("odd", [True, False], ids=["one", "all"])
def test_what_is_refused_for_ever_is_told_given_up_and_pruned(
    sqlite_url: str, status: int, odd: bool
) -> None:
    refusal = REFUSALS[status]
    begin(sqlite_url, ["refused", "other"])
    live(
        sqlite_url,
        lambda video_id: refusal if video_id == "refused" or not odd else RUNNING,
        BEGAN,
        after(6),
    )
    refused, other = jobs_in(sqlite_url)
    assert (refused.state, refused.error_code) == ("expired", "deadline")
    assert refused.expired_at is not None
    assert after(1) <= refused.expired_at <= after(1.2)
    assert refused.abandoned_at is not None
    assert after(4) <= refused.abandoned_at <= after(5)
    assert refusal.message in told(sqlite_url)[0]
    assert refusal.message in (refused.error_message or "")
    assert ("processing" in told(sqlite_url)[1]) == odd
    assert other.abandoned_at is not None  # it has gone on for as long
    done = update(Delivery).values(state="delivered", next_attempt_at=None, delivered_at=after(1))
    with db.transaction(sqlite_url) as session:
        session.execute(done)
    list(pruning.prune(sqlite_url, after(100)))
    assert jobs_in(sqlite_url) == []


def test_all_jobs_of_a_refused_key_are_given_up_with_it(sqlite_url: str) -> None:
    """Most never have a turn of their own: that the key has been refused for so long says it."""
    begin(sqlite_url, [f"veo3:{number}" for number in range(600)])
    live(sqlite_url, lambda _id: REFUSALS[401], BEGAN, after(5))
    jobs = jobs_in(sqlite_url)
    assert {job.state for job in jobs} == {"expired"}
    assert all(job.abandoned_at and job.abandoned_at > after(4) for job in jobs)
    assert {job.next_poll_at for job in jobs} == {None}
    assert "invalid token" in (jobs[-1].error_message or "")


def test_a_key_that_works_again_in_time_gives_up_nothing(sqlite_url: str) -> None:
    begin(sqlite_url, [f"veo3:{number}" for number in range(20)])
    last = live(sqlite_url, lambda _id: REFUSALS[401], BEGAN, after(3.5))
    live(sqlite_url, lambda _id: RUNNING, last, after(6))
    assert {job.abandoned_at for job in jobs_in(sqlite_url)} == {None}


def test_what_upstream_goes_on_speaking_of_is_not_given_up_after_hours_without_polls(
    database_url: str,
) -> None:
    begin(database_url, ["veo3:a"])
    live(database_url, lambda _id: RUNNING, BEGAN, after(0.5))
    live(database_url, lambda _id: RUNNING, after(5.5), after(6))
    (job,) = jobs_in(database_url)
    assert (job.state, job.abandoned_at) == ("expired", None)
    live(database_url, lambda _id: RUNNING, after(6), after(11))
    (job,) = jobs_in(database_url)
    assert job.abandoned_at is not None
    assert job.abandoned_at >= after(5.5 + 4)


def test_no_life_ends_falsely_after_hours_in_which_the_key_was_refused(database_url: str) -> None:
    begin(database_url, ["veo3:a", "veo3:b"])
    live(database_url, lambda _id: RUNNING, BEGAN, after(0.5))
    last = live(database_url, lambda _id: REFUSALS[401], after(0.6), after(4.3))
    live(database_url, lambda _id: RUNNING, last, after(5))
    assert [job.abandoned_at for job in jobs_in(database_url)] == [None, None]
