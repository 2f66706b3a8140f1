"""What a second call says differently: told, not taken over; and how an open job is changed."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy import update as changed

from reelwatch.app import tasks
from reelwatch.errors import HasEnded, Refused, UnknownJob
from reelwatch.jobs import tracking, updating
from reelwatch.rules.events import DEFAULT_EVENTS
from reelwatch.storage import db, jobrows
from reelwatch.storage.models import Account, Delivery, Job
from tests import seeding, test_polling
from tests.commands import done, run
from tests.logs import Lines
from tests.test_polling import DONE, NOW, RUNNING, after

ID = "veo3.1-fast:1770350082-trii1OXZc3"
ORDER: Mapping[str, Any] = {
    "webhook_url": "https://app.example.com/hook",
    "callback_task": "shop.done",
    "callback_queue": "shop",
    "metadata": {"order": 7, "tags": ["a", {"b": 1}]},
    "deadline": "45m",
    "events": ["completed", "failed"],
    "channels": {"stream": "videos"},
}
OTHER: Mapping[str, Any] = {
    "webhook_url": "https://app.example.com/other",
    "callback_task": "shop.other",
    "callback_queue": "other",
    "metadata": {"order": 8},
    "deadline": "2h",
    "events": ["completed"],
    "channels": {"stream": "others"},
}


def stored(url: str) -> Job:
    (job,) = seeding.jobs_in(url)
    return job


# ----------------------------------------------------------------- differs


@pytest.mark.parametrize("name", ORDER)
def test_what_the_second_call_says_otherwise_is_named_and_not_taken_over(
    url: str, name: str
) -> None:
    first = tracking.track(ID, **ORDER)
    assert (first.created, first.differs) == (True, [])
    said: dict[str, Any] = {name: OTHER[name]}
    if name == "callback_queue":
        said["callback_task"] = ORDER["callback_task"]
    again = tracking.track(ID, **said)
    assert (again.created, again.differs) == (False, [name])
    assert tracking.track(ID, **ORDER).differs == []


def test_all_that_differs_is_named_in_one_order(url: str) -> None:
    tracking.track(ID, **ORDER)
    assert tracking.track(ID, **OTHER).differs == list(ORDER)
    assert [job.differs for job in tracking.track_many([ID, "new"], deadline=60)] == [
        ["deadline"],
        [],
    ]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"events": DEFAULT_EVENTS},
        {"events": None},
        {"events": ["failed", "completed"]},
        {"webhook_url": "HTTPS://app.example.com:443/hook#part"},
        {"metadata": {"tags": ["a", {"b": 1}], "order": 7}},
        {"deadline": 2_700},
        {"deadline": timedelta(minutes=45)},
        {"webhook_url": None, "metadata": None, "deadline": None, "callback_task": None},
    ],
)
def test_what_is_left_out_or_means_the_same_does_not_differ(
    url: str, said: Mapping[str, Any]
) -> None:
    tracking.track(ID, **ORDER)
    assert tracking.track(ID, **said).differs == []


def test_what_only_looks_alike_differs(url: str) -> None:
    tracking.track(ID, metadata={"paid": True}, callback_task="shop.done")
    assert tracking.track(ID, metadata={"paid": 1}).differs == ["metadata"]
    assert tracking.track(ID, metadata={}).differs == ["metadata"]
    same = tracking.track(ID, callback_task="shop.done", callback_queue="celery")
    assert same.differs == []  # where Celery sends what names no queue
    # The job's events are the default, and these are others.
    assert tracking.track(ID, events=["completed"]).differs == ["events"]


def test_a_default_of_the_configuration_is_not_said(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.track(ID, **ORDER)
    monkeypatch.setenv("WEBHOOK_URL", "https://app.example.com/default")
    monkeypatch.setenv("REELWATCH_DEADLINE", "3h")
    assert tracking.track(ID).differs == []


def test_the_span_of_a_renewed_deadline_is_still_the_ordered_one(url: str) -> None:
    tracking.track(ID, deadline="45m")
    with db.transaction(url) as session:
        session.execute(changed(Job).values(deadline_at=seeding.at(), tracked_at=NOW))
    assert tracking.track(ID, deadline="45m").differs == []
    with db.transaction(url) as session:  # a row of an older release
        values = {"deadline_seconds": None, "deadline_at": NOW + timedelta(minutes=30)}
        session.execute(changed(Job).values(values))
    assert tracking.track(ID, deadline="30m").differs == []
    assert tracking.track(ID, deadline="45m").differs == ["deadline"]


def test_a_worker_logs_what_a_known_job_does_not_take_over(lite: str, logged: Lines) -> None:
    tasks.track(ID, **ORDER)
    tasks.track(ID, **ORDER)
    assert logged.named("tracked_already") == []
    tasks.track(ID, webhook_url=OTHER["webhook_url"])
    tasks.cancel(ID)
    tasks.track(ID)
    first, second = logged.named("tracked_already")
    assert (first["video_id"], first["state"], first["differs"]) == (
        ID,
        "pending",
        ["webhook_url"],
    )
    assert (second["state"], second["differs"]) == ("cancelled", [])


# ------------------------------------------------------------------ update


def test_an_open_job_is_changed_as_a_whole(url: str) -> None:
    before = tracking.track(ID, **ORDER)
    job = updating.update(ID, **OTHER)
    assert (job.webhook_url, job.callback_task, job.callback_queue) == (
        "https://app.example.com/other",
        "shop.other",
        "other",
    )
    assert (job.metadata_, job.events) == ({"order": 8}, ["completed"])
    assert job.deadline_seconds == 7_200.0
    span = job.deadline_at - before.tracked_at
    assert timedelta(hours=2) <= span < timedelta(hours=2, minutes=5)
    assert (job.state, job.sequence) == ("pending", 0)
    assert tracking.track(ID, **OTHER).differs == []


@pytest.mark.parametrize("name", ORDER)
def test_what_is_not_given_stays(url: str, name: str) -> None:
    tracking.track(ID, **ORDER)
    updating.update(ID, **{name: OTHER[name]})
    assert tracking.track(ID, **{**ORDER, name: OTHER[name]}).differs == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "nothing to change is given; accepted: webhook_url, callback_task"),
        ({"webhook_url": "https://10.0.0.1/"}, "10.0.0.1 is not a public address"),
        ({"webhook_url": ""}, "callback URL refused"),
        ({"callback_task": "a@b"}, "holds an '@'"),
        ({"callback_queue": "q"}, "has no callback_task"),
        ({"metadata": [1]}, "a JSON object is accepted"),
        ({"deadline": "soon"}, "deadline: 'soon'; accepted: 500ms"),
        ({"deadline": "31d"}, "at most 30d"),
        ({"events": ["ended"]}, "events: 'ended' is not one of"),
        ({"events": "completed"}, "events: a list is accepted"),
    ],
)
def test_the_checks_are_those_of_tracking(url: str, given: Mapping[str, Any], reason: str) -> None:
    tracking.track(ID, webhook_url="https://app.example.com/hook")
    with pytest.raises(Refused, match=reason):
        updating.update(ID, **given)
    assert stored(url).webhook_url == "https://app.example.com/hook"


def test_a_job_that_has_ended_is_not_changed_and_says_what_is_possible(url: str) -> None:
    """Nor are the others of the same call."""
    tracking.track_many(["a", "b", "c", "d", "e"])
    tracking.cancel("b")
    with db.transaction(url) as session:
        ended = {"state": "failed", "finished_at": seeding.at(), "next_poll_at": None,
                 "error_code": "upstream_failed"}  # fmt: skip
        session.execute(changed(Job).where(Job.video_id == "c").values(ended))
        late = {"state": "expired", "expired_at": seeding.at(), "error_code": "deadline"}
        session.execute(changed(Job).where(Job.video_id == "d").values(late))
    for video_id, reason in (
        ("b", "'b' is cancelled: `recheck` takes it up again"),
        ("c", "'c' has ended, failed: .*`redeliver` sends them there again"),
        ("d", "'d' has passed its deadline: `recheck` takes it up with a new"),
    ):
        with pytest.raises(HasEnded, match=reason):
            updating.update_many(["a", video_id, "e"], deadline=60)
    with pytest.raises(UnknownJob):
        updating.update_many(["a", "none"], deadline=60)
    assert {job.deadline_seconds for job in seeding.jobs_in(url)} == {3_600.0}
    # Nobody knows its fate: it may still be told somewhere else.
    assert updating.update("d", webhook_url="https://app.example.com/d").webhook_url


def test_it_joins_the_callers_transaction(url: str) -> None:
    tracking.track(ID)
    with db.transaction(url) as session:
        updating.update(ID, metadata={"order": 8}, session=session)
        session.rollback()
    assert stored(url).metadata_ == {}


def test_a_rechecked_job_gets_the_new_span(url: str) -> None:
    tracking.track(ID, deadline="45m")
    updating.update(ID, deadline="2h")
    tracking.cancel(ID)
    job = tracking.recheck(ID)
    assert job.deadline_at - seeding.at() > timedelta(minutes=119)


# ------------------------------------------------- while a poll is under way


def tracked(url: str, **values: Any) -> None:
    test_polling.add_account(url)
    test_polling.add_jobs(url, ["a"], webhook_url="https://app.example.com/hook", **values)


def test_a_poll_under_way_decides_nothing_and_is_made_anew_at_once(url: str) -> None:
    """It would have expired the job by the old deadline."""
    tracked(url, deadline_at=after(5))
    (claimed,) = test_polling.claim(url).items
    updating.update("a", deadline="2h")
    assert test_polling.apply(url, [test_polling.polled(claimed, RUNNING)], after(10)) == ([], 0)
    job = stored(url)
    assert (job.state, job.lease_token, job.deadline_seconds) == ("pending", None, 7_200.0)
    assert job.next_poll_at is not None
    assert abs(job.next_poll_at - seeding.at()) < timedelta(minutes=5)


def test_what_is_told_after_an_update_goes_where_it_says_what_is_owed_does_not(url: str) -> None:
    tracked(url, events=["status_changed", "completed"])
    (claimed,) = test_polling.claim(url).items
    test_polling.apply(url, [test_polling.polled(claimed, RUNNING)])
    updating.update("a", webhook_url="https://app.example.com/other", metadata={"order": 8})
    with db.transaction(url) as session:
        session.execute(changed(Job).values(next_poll_at=NOW))
    (claimed,) = test_polling.claim(url, now=after(1)).items
    test_polling.apply(url, [test_polling.polled(claimed, DONE)], after(2))
    first, second = test_polling.rows(url, Delivery)
    assert (first["event_type"], first["target"]) == (
        "video.status_changed",
        "https://app.example.com/hook",
    )
    assert json.loads(first["body"])["data"]["metadata"] == {}
    assert (second["event_type"], second["target"]) == (
        "video.completed",
        "https://app.example.com/other",
    )
    assert json.loads(second["body"])["data"]["metadata"] == {"order": 8}


def test_who_is_not_asked_just_now_is_asked_when_planned_or_at_a_nearer_deadline(url: str) -> None:
    tracking.track(ID)
    planned = seeding.at(hours=-1)
    with db.transaction(url) as session:
        session.execute(changed(Job).values(next_poll_at=planned))
    assert updating.update(ID, metadata={"order": 8}).next_poll_at == planned
    job = updating.update(ID, deadline="10m")
    assert job.next_poll_at == job.deadline_at


def test_a_batch_is_written_though_a_producer_is_about_to_change_one_of_its_jobs(pg: str) -> None:
    """The others at once; and that one's poll, whose token is about to go, is not."""
    test_polling.add_account(pg)
    test_polling.add_jobs(pg, ["a", "b"])
    claimed = test_polling.claim(pg).items
    with db.transaction(pg) as producer:
        updating.update("a", metadata={"order": 8}, session=producer)
        test_polling.apply(pg, [test_polling.polled(each, DONE) for each in claimed])
    states = {job.video_id: job.state for job in seeding.jobs_in(pg)}
    assert states == {"a": "pending", "b": "completed"}


# --------------------------------------------------------- the command line


def test_track_names_what_differs_and_how_to_change_it(commands: pytest.MonkeyPatch) -> None:
    hook = ("--webhook-url", "https://app.example.com/hook")
    done("track", "grok:a", *hook, "--deadline", "45m")
    assert done("track", "grok:a", *hook) == "already tracked grok:a: pending\n"
    assert done(
        "track", "grok:a", "--webhook-url", "https://b.example.com/", "--deadline", "2h"
    ) == (
        "already tracked grok:a: pending; differs in webhook_url, deadline: "
        "`reelwatch update grok:a --webhook-url … --deadline …` changes it\n"
    )
    (row,) = json.loads(done("track", "grok:a", "--deadline", "2h", "--json"))
    assert (row["created"], row["differs"]) == (False, ["deadline"])
    assert row["deadline_seconds"] == 2_700.0
    done("cancel", "grok:a")
    assert done("track", "grok:a", "--deadline", "2h") == (
        "already tracked grok:a: cancelled; differs in deadline; "
        "`reelwatch recheck grok:a` takes it up again\n"
    )


def test_of_many_it_says_how_many_differ(commands: pytest.MonkeyPatch) -> None:
    ids = [f"grok:{number}" for number in range(30)]
    done("track", *ids[:10])
    done("track", *ids[10:20], "--deadline", "2h")
    assert done("track", *ids, "--deadline", "2h") == (
        "tracking 10 videos; 20 were tracked already, "
        "10 of them differently (--json says in what)\n"
    )


def test_an_update_of_another_account_is_hinted_at_with_its_name(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        session.execute(insert(Account).values(name="acme", requests_per_second=5.0))
    done("track", "grok:a", "--account", "acme")
    again = done("track", "grok:a", "--account", "acme", "--events", "completed")
    assert "`reelwatch update grok:a --account acme --events …`" in again
    assert done("update", "grok:a", "--account", "acme", "--events", "completed") == (
        "updated grok:a\n"
    )


def test_the_command_changes_open_jobs_only(commands: pytest.MonkeyPatch) -> None:
    done("track", "grok:a", "grok:b")
    rows = json.loads(
        done(
            "update", "grok:a", "grok:b", "--metadata", '{"order": 8}', "--deadline", "2h", "--json"
        )
    )
    assert [(row["metadata"], row["deadline_seconds"]) for row in rows] == [
        ({"order": 8}, 7_200)
    ] * 2
    done("cancel", "grok:b")
    ended = run("update", "grok:a", "grok:b", "--deadline", "3h")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == "reelwatch: 'grok:b' is cancelled: `recheck` takes it up again\n"
    wrong = run("update", "grok:a", "--deadline", "soon")
    assert (wrong.exit_code, "deadline: 'soon'" in wrong.stderr) == (2, True)
    assert run("update", "grok:a").exit_code == 2
    assert json.loads(done("show", "grok:a", "--json"))["job"]["deadline_seconds"] == 7_200


# ------------------------------------------------------------ one bad of many


@pytest.mark.parametrize("as_session", [False, True])
def test_one_bad_id_among_many_stores_none_and_is_named(url: str, as_session: bool) -> None:
    ids = [*(f"grok:{number}" for number in range(jobrows.CHUNK + 10)), "grok:\x07", "grok:z"]
    reason = rf"id {len(ids) - 1} of {len(ids)}, video id: .*U\+0007; nothing was stored"
    with db.transaction(url) as own, pytest.raises(Refused, match=reason):
        tracking.track_many(iter(ids), session=own if as_session else None)
    assert seeding.jobs_in(url) == []


def test_the_command_names_the_bad_one_too(commands: pytest.MonkeyPatch) -> None:
    bad = run("track", "grok:a", " ", "grok:c")
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert bad.stderr == "reelwatch: id 2 of 3, video id: it is empty; nothing was stored\n"
    assert json.loads(done("list", "--json")) == []
