"""Whatever is done by hand is a row: who, what, on what, how many; together with the change."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from reelwatch.app import tasks
from reelwatch.errors import HasEnded, Refused, UnknownJob
from reelwatch.jobs import history, intake, pausing, pruning, redelivery, tracking, updating
from reelwatch.rules import actions as rules
from reelwatch.rules import narrative
from reelwatch.rules.wording import short_name
from reelwatch.storage import db
from reelwatch.storage.models import (
    Action,
    ActionJob,
    Job,
    RedeliveryOrder,
    RefusedMessage,
    WaitingMessage,
)
from tests import seeding
from tests.commands import done

Row = dict[str, Any]


def rows(url: str) -> list[Row]:
    """All actions, the oldest first."""
    with db.reading(url) as session:
        return history.list_actions(session)[::-1]


def of_job(url: str, video_id: str) -> list[Row]:
    with db.reading(url) as session:
        found: list[Row] = history.story(session, video_id)["actions"]
        return found


def said(url: str) -> list[tuple[str, str, int]]:
    return [(row["who"], row["action"], row["count"]) for row in rows(url)]


@pytest.fixture
def tracked(url: str) -> str:
    """Three jobs that go on."""
    tracking.track_many(["grok:a", "grok:b", "grok:c"], webhook_url="https://one.example.com/h?t=1")
    return url


# ------------------------------------------------------------------- what


def test_to_track_is_no_action(tracked: str) -> None:
    assert rows(tracked) == []


def test_cancelling_says_who_and_how_many(tracked: str) -> None:
    tracking.cancel_many(["grok:a", "grok:b"], by="ops")
    assert said(tracked) == [("ops", "cancel", 2)]
    assert len(of_job(tracked, "grok:a")) == len(of_job(tracked, "grok:b")) == 1
    assert of_job(tracked, "grok:c") == []


def test_an_action_names_its_jobs_but_no_more_than_ten(tracked: str) -> None:
    tracking.cancel("grok:b", by="ops")
    tracking.track_many([f"grok:{number}" for number in range(12)])
    tracking.cancel_many([f"grok:{number}" for number in range(12)], by="ops")
    pausing.pause_account("default", "maintenance", by="ops")
    one, many, paused = (row["jobs"] for row in rows(tracked))
    assert [(job["video_id"], job["account"]) for job in one] == [("grok:b", "default")]
    assert len({job["id"] for job in many}) == 10
    assert paused == []


def test_what_changes_nothing_is_no_action(tracked: str) -> None:
    tracking.cancel("grok:a", by="ops")
    tracking.cancel("grok:a", by="ops")
    pausing.pause_account("default", "maintenance", by="ops")
    pausing.pause_account("default", "maintenance", by="ops")
    assert said(tracked) == [("ops", "cancel", 1), ("ops", "pause", 1)]


def test_who_does_not_say_who_is_a_program_of_the_producers(tracked: str) -> None:
    tracking.recheck("grok:a")
    assert said(tracked) == [("python", "recheck", 1)]


def test_an_update_keeps_the_values_before_and_after_but_no_tokens(tracked: str) -> None:
    one, two = "https://one.example.com/h?t=1", "https://two.example.com:8443/hooks?token=abc"
    updating.update(
        "grok:a",
        webhook_url=two,
        metadata={"order": 8},
        by="ops",
    )
    (row,) = of_job(tracked, "grok:a")
    assert row["details"] == {
        "webhook_url": {"from": short_name(one), "to": short_name(two)},
        "metadata": {"from": {}, "to": {"order": 8}},
    }
    assert (row["who"], row["action"]) == ("ops", "update")


def test_a_deadline_is_kept_as_the_times_that_it_moved_between(tracked: str) -> None:
    updating.update("grok:a", deadline="5h", by="ops")
    (row,) = of_job(tracked, "grok:a")
    moved = row["details"]["deadline_at"]
    assert moved["from"] < moved["to"]
    assert moved["to"].endswith("Z")


def test_events_that_are_sent_again_stand_at_their_jobs(tracked: str) -> None:
    with db.transaction(tracked) as session:
        event = seeding.add_owed(session, state="dead", next_attempt_at=None)
    with db.transaction(tracked) as session:
        redelivery.redeliver(session, db.now(session), [event["id"]], by="ops")
        job = session.get_one(Job, event["job_id"])
    (row,) = of_job(tracked, job.video_id)
    assert (row["action"], row["count"], row["details"]) == (
        "redeliver", 1, {"events": [event["id"]]},
    )  # fmt: skip


def test_an_account_that_is_paused_and_resumed(tracked: str) -> None:
    pausing.pause_account("default", "maintenance", by="ops")
    pausing.resume_account("default", by="kim")
    paused, resumed = rows(tracked)
    assert (paused["account"], paused["details"]) == ("default", {"reason": "maintenance"})
    assert (resumed["who"], resumed["action"], resumed["account"]) == ("kim", "resume", "default")


def test_a_job_tells_of_the_pauses_in_its_life(tracked: str) -> None:
    def pauses() -> list[tuple[str, str]]:
        return [(each["who"], each["action"]) for each in of_job(tracked, "grok:a")]

    pausing.pause_account("default", "before", by="ann")
    pausing.resume_account("default", by="ann")
    with db.transaction(tracked) as session:
        session.execute(update(Job).values(tracked_at=db.now(session)))
    assert pauses() == []
    pausing.pause_account("default", "invoice", by="ann")
    with db.transaction(tracked) as session:  # it was handed in meanwhile
        session.execute(update(Job).values(tracked_at=db.now(session)))
    pausing.resume_account("default", by="bob")
    assert pauses() == [("ann", "pause"), ("bob", "resume")]
    tracking.cancel("grok:a", by="ops")
    pausing.pause_account("default", "later", by="ann")
    assert pauses() == [("ann", "pause"), ("bob", "resume"), ("ops", "cancel")]
    with db.reading(tracked) as session:
        told = [text for _, text in narrative.tell(history.story(session, "grok:a"))]
    assert "account default paused by ann: invoice" in told
    assert "account default resumed by bob" in told


def test_what_a_filter_has_chosen_is_one_action_however_many_transactions_it_takes(
    tracked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelwatch.storage.jobrows.CHUNK", 2)
    with db.reading(tracked) as session:
        ids = session.scalars(select(Job.id)).all()
    chosen_by: Row = {"model": "grok", "state": None, "metadata": {}, "since": seeding.at(days=1)}
    assert list(tracking.cancel_chosen(tracked, ids, by="ops", chosen_by=chosen_by)) == [2, 1]
    (row,) = rows(tracked)
    assert row["count"] == 3
    assert row["chosen_by"].keys() == {"model", "since"}
    assert all(of_job(tracked, f"grok:{name}") for name in "abc")


# -------------------------------------------------------------- as one with it


REFUSED: dict[str, Callable[[], object]] = {
    "cancel": lambda: tracking.cancel_many(["grok:a", "grok:nobody"], by="ops"),
    "update": lambda: updating.update_many(["grok:a", "grok:nobody"], deadline="1h", by="ops"),
    "pause": lambda: pausing.pause_account("nobody", by="ops"),
    "pause for a text that can't be stored": lambda: pausing.pause_account("default", "a\0b"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_leaves_no_row(tracked: str, what: str) -> None:
    with pytest.raises((UnknownJob, Refused, HasEnded)):
        REFUSED[what]()
    assert rows(tracked) == []


def test_what_the_caller_rolls_back_was_never_done(tracked: str) -> None:
    with Session(db.engine(tracked)) as session:
        tracking.cancel("grok:a", session=session, by="ops")
        assert session.execute(select(Action.who)).scalar_one() == "ops"
        session.rollback()
    assert rows(tracked) == []


# ------------------------------------------------------------------ who


def test_a_message_is_known_as_one(tracked: str) -> None:
    tasks.cancel.apply(args=("grok:a",))
    tasks.recheck.apply(args=("grok:b",))
    assert said(tracked) == [("task", "cancel", 1), ("task", "recheck", 1)]


def test_a_message_can_not_say_that_it_was_somebody_else(tracked: str) -> None:
    tasks.cancel.apply(args=("grok:a",), kwargs={"by": "the boss"})
    with db.reading(tracked) as session:
        (refused,) = session.execute(select(RefusedMessage)).scalars()
    assert refused.reason == "by: it can't come with a message"
    assert rows(tracked) == []


def test_a_message_that_waits_is_known_as_one_when_its_turn_comes(url: str) -> None:
    tasks.cancel.apply(args=("grok:late",))
    tracking.track("grok:late")
    with db.transaction(url) as session:
        session.execute(update(WaitingMessage).values(next_try_at=seeding.at()))
    intake.retry(url, tasks.ACTIONS, "here")
    assert said(url) == [("task", "cancel", 1)]


@pytest.mark.parametrize(
    ("command", "action"),
    [
        (("cancel", "grok:a"), "cancel"),
        (("cancel", "--model", "grok", "--yes"), "cancel"),
        (("recheck", "grok:a"), "recheck"),
        (("update", "grok:a", "--deadline", "2h"), "update"),
        (("accounts", "--pause", "default"), "pause"),
    ],
)
def test_a_command_is_known_by_its_user(
    commands: pytest.MonkeyPatch, database_url: str, command: Sequence[str], action: str
) -> None:
    commands.setenv("LOGNAME", "kim")
    done("track", "grok:a")
    done(*command)
    assert said(database_url) == [("cli:kim", action, 1)]


def test_who_redelivers_by_a_filter_and_who_prunes(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    commands.setenv("LOGNAME", "kim")
    with db.transaction(database_url) as session:
        hook = "https://hooks.example.com/x?token=1"
        seeding.add_owed(session, hook, state="dead", next_attempt_at=None)
    done("redeliver", "--endpoint", hook, "--yes", "--dead")
    with db.transaction(database_url) as session:
        seeding.add_job(session, "completed", finished_at=seeding.at(days=99))
    done("prune", "--older-than", "90d", "--yes")
    redelivered, pruned = rows(database_url)
    assert redelivered["chosen_by"] == {"state": "dead", "endpoint": short_name(hook)}
    assert (pruned["who"], pruned["action"], pruned["count"]) == ("cli:kim", "prune", 1)
    assert pruned["chosen_by"].keys() == {"before"}


def test_an_order_notes_true_as_true_and_knows_that_of_the_release_before(
    database_url: str,
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_owed(session, state="dead", next_attempt_at=None)
    wanted = redelivery.Wanted(state="dead", release=True)
    number = redelivery.order(database_url, wanted, by="ops", key="k")
    order = redelivery.progress(database_url, number)
    assert order is not None
    assert order["wanted"] == {"state": "dead", "release": True}
    redelivery.work(database_url, number)
    [row] = rows(database_url)
    assert row["chosen_by"] == {"state": "dead", "release": True}
    with db.transaction(database_url) as session:
        session.execute(update(RedeliveryOrder).values(wanted={"state": "dead", "release": "True"}))
    assert redelivery.order(database_url, wanted, by="ops", key="k") == number


def test_an_order_tells_times_as_all_else_does_and_knows_those_of_the_release_before(
    database_url: str,
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_owed(session, state="dead", next_attempt_at=None)
    since = datetime(2026, 2, 6, 3, 58, 49, tzinfo=UTC)
    wanted = redelivery.Wanted(since=since)
    number = redelivery.order(database_url, wanted, by="ops", key="k")
    order = redelivery.progress(database_url, number)
    assert order is not None
    assert order["wanted"] == {"since": "2026-02-06T03:58:49.000000Z"}
    redelivery.work(database_url, number)
    [row] = rows(database_url)
    assert row["chosen_by"] == {"since": "2026-02-06T03:58:49.000000Z"}
    before = {"since": "2026-02-06 03:58:49+00:00"}
    with db.transaction(database_url) as session:
        session.execute(update(RedeliveryOrder).values(wanted=before))
    assert redelivery.order(database_url, wanted, by="ops", key="k") == number


# ------------------------------------------------------------------ shown


def test_show_tells_who_did_what(commands: pytest.MonkeyPatch, database_url: str) -> None:
    commands.setenv("LOGNAME", "kim")
    done("track", "grok:a", "--webhook-url", "https://one.example.com/x")
    two = "https://two.example.com/x?token=1"
    done("update", "grok:a", "--webhook-url", two)
    done("cancel", "grok:a")
    told = done("show", "grok:a")
    changed = f'"{short_name("https://one.example.com/x")}" → "{short_name(two)}"'
    assert f"update by cli:kim: webhook_url {changed}" in told
    assert "cancelled by cli:kim: not tracked any more" in told
    assert "cancel by" not in told
    assert '"actions": [' in done("show", "grok:a", "--json")


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ({"action": "cancel", "count": 1}, "cancel by ops"),
        ({"action": "cancel", "count": 1200, "chosen_by": {"model": "m"}},
         "cancel by ops (of 1,200)"),
        ({"action": "redeliver", "count": 2, "details": {"events": ["evt_1", "evt_2"]}},
         "redeliver by ops: evt_1, evt_2"),
        ({"action": "update", "count": 1, "details": {"events": {"from": ["failed"], "to": []}}},
         'update by ops: events ["failed"] → []'),
        ({"action": "recheck", "count": 1}, "poll it now: asked by ops"),
        ({"action": "pause", "count": 1, "details": {"reason": "bill"}},
         "account a paused by ops: bill"),
        ({"action": "resume", "count": 1}, "account a resumed by ops"),
    ],
)  # fmt: skip
def test_an_action_in_a_sentence(action: Row, told: str) -> None:
    at = seeding.at()
    job = {"tracked_at": at - timedelta(hours=1), "abandoned_at": None, "account": "a"}
    empty: Row = {"transitions": [], "poll_errors": [], "deliveries": []}
    row = {"at": at, "who": "ops", "chosen_by": None, "details": None} | action
    assert narrative.tell({"job": job, **empty, "actions": [row]})[-1] == (at, told)


# ----------------------------------------------------------------- pruned


def test_actions_go_with_the_jobs_they_tell_of(tracked: str) -> None:
    tracking.cancel_many(["grok:a", "grok:b"], by="ops")
    pausing.pause_account("default", by="ops")
    later = seeding.at(days=-1)
    with db.transaction(tracked) as session:
        session.execute(delete(Job).where(Job.video_id == "grok:a"))
    assert list(pruning.prune(tracked, later)) == [1]
    with db.reading(tracked) as session:
        assert session.execute(select(ActionJob)).all() == []
    assert rows(tracked) == []


def test_an_action_stays_as_long_as_a_job_it_tells_of(tracked: str) -> None:
    tracking.recheck("grok:a", by="ops")
    list(pruning.prune(tracked, seeding.at(days=-1)))
    assert said(tracked) == [("ops", "recheck", 1)]


# ------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://u:p@h.example.com:8443/a/b?token=1#x", "h.example.com:8443/…0a4d"),
        ("https://u:p@h.example.com", "h.example.com"),
        ("app.tasks.told", "app.tasks.told"),
        (None, None),
        (["failed"], ["failed"]),
        ({"a": 1}, {"a": 1}),
        ({"long": "x" * 3000, "b": 1}, {"names": ["b", "long"]}),
    ],
)
def test_what_is_kept_of_a_value(value: Any, kept: Any) -> None:
    assert rules.kept(value) == kept


@pytest.mark.parametrize(
    ("who", "name"),
    [("ops", "ops"), (" a\n b ", "a b"), ("", "python"), ("x" * 200, "x" * 100), ("a\0b", "ab")],
)
def test_how_a_name_is_kept(who: str, name: str) -> None:
    assert rules.named(who) == name
