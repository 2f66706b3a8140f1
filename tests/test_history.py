"""Reading back what is stored: complete, in order, in aware UTC, under the columns' names."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from reelwatch.errors import UnknownJob
from reelwatch.jobs import history, tracking
from reelwatch.storage import db, events
from reelwatch.storage.figures import summary
from reelwatch.storage.models import Base, Heartbeat, Job
from tests import seeding

# What CONTRACT calls the columns of each table.
CONTRACT = {
    "jobs": "id account video_id model state upstream_status video_url error_code error_message "
    "metadata sequence polls tracked_at upstream_created_at finished_at next_poll_at "
    "last_polled_at deadline_at",
    "transitions": "id job_id sequence from_state to_state from_status to_status at upstream_at "
    "answer",
    "poll_errors": "id job_id kind http_status message request_id first_at last_at count",
    "deliveries": "id job_id transition_id sequence event_type channel target body state attempts "
    "next_attempt_at delivered_at",
    "attempts": "id delivery_id at http_status error duration_ms response_excerpt",
}


def test_a_story_holds_every_column_users_rely_on(database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "completed", video_id="grok:a", metadata={"user": 7})
        step = seeding.add_transition(session, job, to_state="completed", answer={"status": "done"})
        seeding.add_error(session, job, request_id="r1")
        delivery = seeding.add_delivery(session, job, step)
        seeding.add_attempt(session, delivery)
    with db.reading(database_url) as session:
        story = history.story(session, "grok:a", "default")

    assert list(story) == ["job", "transitions", "poll_errors", "deliveries", "actions"]
    assert set(CONTRACT["jobs"].split()) <= set(story["job"])
    for part in ("transitions", "poll_errors", "deliveries"):
        assert set(CONTRACT[part].split()) <= set(story[part][0])
    assert set(story["deliveries"][0]["attempts_log"][0]) == set(CONTRACT["attempts"].split())
    assert story["job"]["metadata"] == {"user": 7}
    assert story["transitions"][0]["answer"] == {"status": "done"}
    assert "lease_token" not in story["job"]
    assert "lease_token" not in story["deliveries"][0]


def test_times_come_back_aware_and_in_utc(database_url: str) -> None:
    moment = datetime(2026, 2, 6, 3, 58, 49, 98_000, UTC)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(session, video_id="grok:a", tracked_at=moment)
    with db.reading(database_url) as session:
        job = history.story(session, "grok:a")["job"]
    assert job["tracked_at"] == moment
    assert job["tracked_at"].utcoffset() == timedelta(0)


def test_a_story_is_in_order_and_of_this_job_alone(database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job, other = (seeding.add_job(session, video_id=f"grok:{x}") for x in "ab")
        for mine in (other, job):
            for sequence in (2, 1, 3):
                step = seeding.add_transition(session, mine, sequence=sequence)
                for channel, state in (("webhook", "dead"), ("celery", "delivered")):
                    sent = seeding.add_delivery(session, mine, step, state, channel=channel)
                    for ms in (3, 1, 2):
                        seeding.add_attempt(session, sent, duration_ms=ms)
    with db.reading(database_url) as session:
        story = history.story(session, "grok:a")
    assert [t["sequence"] for t in story["transitions"]] == [1, 2, 3]
    told = [(d["sequence"], d["channel"]) for d in story["deliveries"]]
    assert told == [(n, c) for n in (1, 2, 3) for c in ("celery", "webhook")]
    for delivery in story["deliveries"]:
        assert delivery["job_id"] == job["id"]
        assert [a["duration_ms"] for a in delivery["attempts_log"]] == [3, 1, 2]


def test_an_unknown_id_names_the_accounts_that_do_track_it(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme", "beta"):
            seeding.add_account(session, name)
        for name in ("acme", "beta"):
            seeding.add_job(session, video_id="grok:a", account=name)
    with db.reading(database_url) as session:
        with pytest.raises(UnknownJob, match=r"it is for 'acme', 'beta'; --account names it"):
            history.story(session, "grok:a", "default")
        with pytest.raises(UnknownJob, match=r"no job 'grok:b' is tracked for the account 'acme'$"):
            history.story(session, "grok:b", "acme")


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["video_id"] for row in rows]


def test_jobs_are_listed_newest_first_and_filtered(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme"):
            seeding.add_account(session, name)
        seeding.add_job(session, "failed", video_id="old", tracked_at=seeding.at(days=3))
        seeding.add_job(
            session, "running", video_id="mid", account="acme", tracked_at=seeding.at(hours=5)
        )
        seeding.add_job(session, "failed", video_id="new", tracked_at=seeding.at(minutes=9))
    with db.reading(database_url) as session:
        assert names(history.list_jobs(session)) == ["new", "mid", "old"]
        assert names(history.list_jobs(session, limit=2)) == ["new", "mid"]
        assert names(history.list_jobs(session, limit=None)) == ["new", "mid", "old"]
        assert names(history.list_jobs(session, state="failed")) == ["new", "old"]
        assert names(history.list_jobs(session, account="acme")) == ["mid"]
        assert names(history.list_jobs(session, since=seeding.at(hours=6))) == ["new", "mid"]
        assert names(history.list_jobs(session, ids=["old", "mid", "none"])) == ["mid", "old"]
        assert names(history.list_jobs(session, ids=[])) == []


def test_open_jobs_are_watched_before_those_that_ended_last(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme"):
            seeding.add_account(session, name)
        for name, state, tracked, ended in (
            ("ended first", "failed", 1, 4),
            ("ended last", "completed", 9, 1),
            ("new", "pending", 2, 0),
            ("old", "running", 8, 0),
        ):
            when = {"finished_at": seeding.at(hours=ended)} if ended else {}
            seeding.add_job(
                session, state, video_id=name, tracked_at=seeding.at(hours=tracked), **when
            )
        seeding.add_job(session, "expired", video_id="other", account="acme")
    with db.reading(database_url) as session:
        rows = history.live_jobs(session)
        assert names(rows) == ["other", "new", "old", "ended last", "ended first"]
        assert names(history.live_jobs(session, limit=4)) == names(rows)[:4]
        assert names(history.live_jobs(session, limit=2)) == names(rows)[:2]
        assert names(history.live_jobs(session, account="acme")) == ["other"]
        assert names(history.live_jobs(session, ids=["old", "ended last"])) == ["old", "ended last"]


def test_a_tracked_job_looks_the_same_as_a_listed_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    job = tracking.track("grok:a", metadata={"user": 7})
    with db.reading(database_url) as session:
        more = {
            "eta": None,
            "next_poll_expected_at": None,
            "next_poll_reason": "no worker has run so far",
            "next_poll_held_by_account": False,
        }
        assert history.list_jobs(session) == [history.job_row(job) | more]
    assert isinstance(job, Job)


def test_deliveries_are_listed_with_their_job_and_last_attempt(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme"):
            seeding.add_account(session, name)
        for name, account, state in (("a", "default", "dead"), ("b", "acme", "pending")):
            job = seeding.add_job(session, video_id=name, account=account)
            step = seeding.add_transition(session, job)
            sent = seeding.add_delivery(
                session, job, step, state, created_at=seeding.at(hours=ord(name))
            )
            for ms in range(ord(name) - 96):
                seeding.add_attempt(session, sent, duration_ms=ms, error="no")
        bare = seeding.add_delivery(
            session, job, step, "pending", channel="celery", created_at=seeding.at()
        )
    with db.reading(database_url) as session:
        rows = history.list_deliveries(session)
        assert names(rows) == ["b", "a", "b"]
        assert rows[0]["id"] == bare["id"]
        assert rows[0]["last_attempt"] is None
        assert [row["last_attempt"]["duration_ms"] for row in rows[1:]] == [0, 1]
        assert set(CONTRACT["deliveries"].split()) <= set(rows[0])
        assert names(history.list_deliveries(session, state="dead")) == ["a"]
        assert names(history.list_deliveries(session, video_id="b")) == ["b", "b"]
        assert names(history.list_deliveries(session, account="acme", limit=1)) == ["b"]


def test_accounts_are_listed_with_their_open_jobs(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme"):
            seeding.add_account(session, name)
        for state in ("pending", "running", "expired", "completed", "cancelled"):
            seeding.add_job(session, state)
        seeding.add_job(session, "expired", abandoned_at=seeding.at())
    with db.reading(database_url) as session:
        rows = history.list_accounts(session)
    assert [(row["name"], row["open_jobs"]) for row in rows] == [("acme", 0), ("default", 3)]


def test_the_summary_counts_what_an_operator_must_know(database_url: str) -> None:
    now = datetime.now(UTC)
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(
            session, "rests", paused_until=now + timedelta(minutes=1), pause_reason="quota"
        )
        seeding.add_account(
            session, "was", paused_until=now - timedelta(minutes=1), pause_reason="quota"
        )
        late: seeding.Row = {"next_poll_at": now - timedelta(seconds=61)}
        due: seeding.Row = {"next_poll_at": now - timedelta(seconds=59)}
        for account, columns in (
            ("default", late),
            ("default", due),
            ("rests", late),
            ("was", late),
        ):
            job = seeding.add_job(session, account=account, **columns)
        seeding.add_job(session, "expired", abandoned_at=now)
        seeding.add_job(session, "failed")
        step = seeding.add_transition(session, job)
        seeding.add_delivery(session, job, step, "pending")
        seeding.add_delivery(session, job, step, "pending", channel="celery")
        step = seeding.add_transition(session, job, sequence=2)
        seeding.add_delivery(session, job, step, "dead")
        seeding.add_delivery(session, job, step, "delivered", channel="celery")
        session.execute(insert(Heartbeat).values(name="tick", at=now - timedelta(seconds=4)))
    with db.reading(database_url) as session:
        figures = summary(session, now)
    assert figures == {
        "jobs": {
            "pending": 0,
            "running": 4,
            "completed": 0,
            "failed": 1,
            "expired": 1,
            "cancelled": 0,
        },
        "late": 2,
        "resting": [
            {"name": "rests", "paused_until": now + timedelta(minutes=1), "pause_reason": "quota"}
        ],
        "undelivered": 2,
        "dead": 1,
        "last_tick_age_seconds": 4.0,
        "standby": None,
    }


def test_an_empty_database_has_a_summary_too(database_url: str) -> None:
    with db.reading(database_url) as session:
        figures = summary(session, datetime.now(UTC))
        assert history.last_change(session) == 0
        assert history.changes(session, 0) == []
    assert figures["last_tick_age_seconds"] is None
    assert (set(figures["jobs"].values()), figures["dead"], figures["resting"]) == ({0}, 0, [])


def test_changes_come_in_order_after_the_given_one(database_url: str) -> None:
    with db.transaction(database_url) as session:
        for name in ("default", "acme"):
            seeding.add_account(session, name)
        jobs = [
            seeding.add_job(session, video_id=n, account=a)
            for n, a in (("a", "default"), ("b", "acme"))
        ]
        steps = [seeding.add_transition(session, job, sequence=n) for n in (1, 2) for job in jobs]
    with db.reading(database_url) as session:
        assert [row["id"] for row in history.changes(session, 0)] == [step["id"] for step in steps]
        after = history.changes(session, steps[0]["id"], ids=["a"])
        assert [(row["video_id"], row["sequence"]) for row in after] == [("a", 2)]
        assert names(history.changes(session, 0, account="acme")) == ["b", "b"]
        assert history.last_change(session) == steps[-1]["id"]


@pytest.mark.parametrize(
    ("state", "abandoned", "ended"),
    [
        ("completed", None, True),
        ("failed", None, True),
        ("cancelled", None, True),
        ("expired", None, False),
        ("expired", datetime.now(UTC), True),
        ("running", None, False),
        ("pending", None, False),
    ],
)
def test_a_job_has_ended_when_nothing_more_will_be_heard_of_it(
    state: str, abandoned: datetime | None, ended: bool
) -> None:
    assert history.ended({"state": state, "abandoned_at": abandoned}) is ended


def test_what_is_internal_exists() -> None:
    columns = {column.name for table in Base.metadata.tables.values() for column in table.columns}
    assert columns >= events.INTERNAL
