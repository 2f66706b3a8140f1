"""Messages that can't be taken in: they wait for what can be mended, the rest is refused."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reelwatch.app import messages, tasks
from reelwatch.config import settings
from reelwatch.errors import UnknownJob
from reelwatch.jobs import intake, orders
from reelwatch.jobs.intake import Message, Refusal
from reelwatch.storage import db
from reelwatch.storage.models import Heartbeat, RefusedMessage, WaitingMessage
from tests.environment import SECRET, set_variables
from tests.logs import Lines
from tests.seeding import jobs_in

ID = "veo3.1-fast:1770350082-trii1OXZc3"


def sent(task: str, video_id: object = ID, **options: Any) -> Message:
    return Message(f"message-{task}-{video_id}", task, video_id, options, "w@one")


def take_in(url: str, message: Message) -> None:
    intake.take_in(url, message, tasks.ACTIONS[message.task])


def waiting(url: str) -> list[WaitingMessage]:
    with db.reading(url) as session:
        return list(session.scalars(select(WaitingMessage).order_by(WaitingMessage.id)))


def refused(url: str) -> list[RefusedMessage]:
    with db.reading(url) as session:
        return list(session.scalars(select(RefusedMessage).order_by(RefusedMessage.last_at)))


def pass_time(url: str, span: timedelta) -> None:
    with db.transaction(url) as session:
        for row in session.scalars(select(WaitingMessage)):
            row.first_at, row.next_try_at = row.first_at - span, row.next_try_at - span


def retry(url: str) -> int:
    return intake.retry(url, tasks.ACTIONS, "w@two")


def states(url: str) -> dict[str, str]:
    return {job.video_id: job.state for job in jobs_in(url)}


def configure(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    set_variables(monkeypatch, WEBHOOK_SECRET=SECRET, **variables)
    settings.current.cache_clear()


# ------------------------------------------------------------ an id that is not known yet


@pytest.mark.parametrize("task", ["cancel", "recheck"])
def test_what_overtakes_its_track_waits_for_it(url: str, logged: Lines, task: str) -> None:
    take_in(url, sent(task))
    (row,) = waiting(url)
    assert (row.task, row.video_id, row.account, row.tries) == (task, ID, "default", 1)
    assert (row.reason, row.worker) == (intake.NOT_YET, "w@one")
    pass_time(url, timedelta(seconds=-30))
    assert retry(url) == 0  # not yet
    pass_time(url, timedelta(seconds=32))
    assert retry(url) == 1
    (row,) = waiting(url)
    assert (row.tries, row.worker) == (2, "w@two")
    take_in(url, sent("track"))
    pass_time(url, timedelta(seconds=5))
    assert retry(url) == 1
    assert waiting(url) == []
    assert states(url)[ID] == ("cancelled" if task == "cancel" else "pending")
    assert logged.named("refused") == []


def test_an_id_that_stays_unknown_is_refused(url: str, logged: Lines) -> None:
    take_in(url, sent("cancel"))
    pass_time(url, timedelta(seconds=90))
    retry(url)
    assert len(waiting(url)) == 1
    pass_time(url, timedelta(seconds=120))
    retry(url)
    assert waiting(url) == []
    (line,) = logged.named("refused")
    assert line["reason"] == intake.NOT_YET
    (row,) = refused(url)
    assert (row.task, row.video_id, row.count, row.worker) == ("cancel", ID, 1, "w@two")


def test_the_first_tries_come_soon_and_the_last_within_five_minutes() -> None:
    waits = [intake.wait_after(tries) for tries in range(1, 40)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits == sorted(waits)
    assert waits[-1] == intake.wait_after(10**9) == 300


# ------------------------------------------------------------------- configuration


def test_an_account_that_is_not_configured_yet_is_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for number in range(3):
        take_in(url, sent("track", f"veo3:{number}", account="studio"))
    assert jobs_in(url) == []
    assert {row.account for row in waiting(url)} == {"studio"}
    pass_time(url, timedelta(hours=1))
    retry(url)
    assert len(waiting(url)) == 3  # for as long as it takes
    with db.reading(url) as session:
        (held,) = intake.waiting(session)
    assert held.count == 3
    assert "'studio' is not configured" in held.reason
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[accounts.studio]\napi_key_env = "STUDIO_KEY"\n')
    configure(monkeypatch, REELWATCH_ACCOUNTS_FILE=str(accounts))
    intake.release_all(url)  # as a worker does that starts with it
    assert retry(url) == 3
    assert waiting(url) == []
    assert set(states(url)) == {"veo3:0", "veo3:1", "veo3:2"}


def test_a_receiver_that_is_not_allowed_yet_is_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch)
    take_in(url, sent("track", webhook_url="https://10.1.2.3/hook"))
    assert "10.1.2.3" in waiting(url)[0].reason
    configure(monkeypatch, WEBHOOK_ALLOW="10.0.0.0/8")
    pass_time(url, timedelta(minutes=1))
    retry(url)
    assert jobs_in(url)[0].webhook_url == "https://10.1.2.3/hook"


def test_one_that_succeeds_has_the_others_tried_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch)
    for number in range(5):
        take_in(url, sent("track", f"veo3:{number}", webhook_url="https://10.1.2.3/hook"))
    take_in(url, sent("cancel", "veo3:other"))
    with db.transaction(url) as session:
        late = db.now(session) + timedelta(minutes=5)
        others = WaitingMessage.video_id != "veo3:0"
        session.execute(update(WaitingMessage).where(others).values(next_try_at=late))
    configure(monkeypatch, WEBHOOK_ALLOW="10.0.0.0/8")
    pass_time(url, timedelta(seconds=2))
    assert retry(url) == 1
    assert retry(url) == 4
    assert [row.task for row in waiting(url)] == ["cancel"]


def test_what_is_retried_and_then_refused_is_counted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its account was missing first; its events are nobody's."""
    take_in(url, sent("track", account="studio", events=["done"]))
    monkeypatch.setattr(orders, "known_account", lambda *_: settings.current().accounts["default"])
    pass_time(url, timedelta(seconds=2))
    retry(url)
    assert waiting(url) == []
    assert "'done' is not one of" in refused(url)[0].reason


def test_a_bug_of_ours_costs_no_message(url: str, logged: Lines) -> None:
    def broken(video_id: str, account: str = "default") -> None:
        raise KeyError(video_id + account)

    intake.take_in(url, sent("track"), broken)
    (row,) = waiting(url)
    assert row.reason.startswith("a bug, please report it: KeyError")
    assert logged.named("intake_failed")
    pass_time(url, timedelta(seconds=2))
    retry(url)
    assert set(states(url)) == {ID}


def test_a_message_that_comes_twice_waits_once(url: str) -> None:
    take_in(url, sent("cancel"))
    take_in(url, sent("cancel"))
    assert len(waiting(url)) == 1


def test_two_workers_do_not_try_the_same_at_once(url: str) -> None:
    take_in(url, sent("cancel"))
    pass_time(url, timedelta(seconds=2))
    tried = []

    def while_it_is_tried(video_id: str, account: str = "default") -> None:
        tried.append((video_id, account))
        assert retry(url) == 0
        raise UnknownJob

    actions: Mapping[str, Callable[..., object]] = {"cancel": while_it_is_tried}
    assert intake.retry(url, actions, "w@one") == 1
    assert tried == [(ID, "default")]


def test_a_tick_finds_what_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent_on: list[str] = []
    monkeypatch.setattr(tasks, "_publish", lambda task, *_: sent_on.append(task.name))
    tasks.tick()  # a process's first task has all tried at once
    take_in(url, sent("cancel"))
    pass_time(url, timedelta(minutes=-10))
    tick_again(url)
    assert sent_on == []
    pass_time(url, timedelta(minutes=11))
    tick_again(url)
    assert sent_on == ["reelwatch.retry_waiting"]
    tasks.retry_waiting()
    assert waiting(url)[0].tries == 2


def tick_again(url: str) -> None:
    with db.transaction(url) as session:
        session.execute(update(Heartbeat).values(at=db.now(session) - timedelta(minutes=1)))
    tasks.tick()


def test_standby_tries_them_too(url: str) -> None:
    """Without beat and broker."""
    take_in(url, sent("cancel"))
    take_in(url, sent("track"))
    pass_time(url, timedelta(minutes=1))
    assert tasks.standby.poll() is True
    assert states(url) == {ID: "cancelled"}


# ----------------------------------------------------------------------- refused


def test_equal_refusals_are_one_row(url: str) -> None:
    for number in range(3):
        take_in(url, sent("track", f"veo3:{number}", events=["done"]))
    take_in(url, sent("track", 7))
    take_in(url, sent("track", 8))
    rows = {row.reason: row for row in refused(url)}
    assert len(rows) == 2
    events = next(row for reason, row in rows.items() if "'done'" in reason)
    assert (events.count, events.video_id, events.account) == (3, "veo3:2", "default")
    assert events.first_at < events.last_at


def test_refused_messages_are_kept_in_bounded_numbers(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "REFUSED_LIMIT", 10)
    intake.count_refusals(url, [Refusal("track", f"reason {n}", "w") for n in range(30)])
    assert {row.reason for row in refused(url)} == {f"reason {n}" for n in range(20, 30)}


@pytest.mark.parametrize("video_id", ["a\ud800", "a\0b", "\ud800" * 300, ["x"] * 1_000])
def test_what_no_database_could_store_is_counted_all_the_same(url: str, video_id: Any) -> None:
    take_in(url, sent("cancel", video_id))
    assert refused(url)[0].count == 1
    assert waiting(url) == []


DIRTY = {"order": 7, "x\0": ["a\0b", {"y": "\ud800"}], "rate": float("nan")}


def test_what_of_metadata_can_not_be_stored_is_left_out_and_told_and_the_id_is_tracked(
    url: str, logged: Lines, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    take_in(url, sent("track", metadata=DIRTY))
    take_in(url, sent("track", "veo3:later", metadata=DIRTY, account="studio"))  # waits first
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[accounts.studio]\napi_key_env = "STUDIO_KEY"\n')
    configure(monkeypatch, REELWATCH_ACCOUNTS_FILE=str(accounts), STUDIO_KEY="studio-key-of-a-test")
    pass_time(url, timedelta(hours=1))
    retry(url)
    assert {job.video_id for job in jobs_in(url)} == {ID, "veo3:later"}
    for job in jobs_in(url):
        assert job.metadata_ == {"order": 7, "x": ["ab", {"y": "?"}], "rate": None}
    (row,) = refused(url)
    assert (row.count, row.video_id) == (2, "veo3:later")
    assert row.reason.startswith(r"metadata: the key 'x\x00': character 2 is U+0000; that was left")
    assert len(logged.named("refused")) == 2


def test_messages_that_never_became_a_task_are_counted(url: str, logged: Lines) -> None:
    """They are dropped where no database is at hand; standby's thread writes them down."""
    messages.dropped.clear()
    for _ in range(2):
        messages.tell_refused("its body can't be read", {"task": "reelwatch.track"})
    tasks.standby._note_refusals()
    (row,) = refused(url)
    assert (row.task, row.reason, row.count) == ("'reelwatch.track'", "its body can't be read", 2)
    assert not messages.dropped
    assert logged.named("message_refused")  # once: the same line soon after is left out


def test_refusals_are_kept_while_the_database_is_away(
    lite: str, monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    messages.dropped.clear()
    messages.tell_refused("one")
    messages.tell_refused("two")
    with monkeypatch.context() as patch:
        patch.setattr(intake, "count_refusals", lambda *_: 1 / 0)
        tasks.standby._note_refusals()
    assert logged.named("refusals_not_counted")
    tasks.standby._note_refusals()
    assert [row.reason for row in refused(lite)] == ["one", "two"]


def test_the_last_refusals_are_read_back(url: str) -> None:
    intake.count_refusals(url, [Refusal("track", "bad", "w", "default", ID)])
    with db.reading(url) as session:
        now = db.now(session)
        assert [row.reason for row in intake.refused_since(session, now - timedelta(hours=1))] == [
            "bad"
        ]
        assert intake.refused_since(session, now + timedelta(hours=1)) == []
