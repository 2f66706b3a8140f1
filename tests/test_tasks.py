"""The Celery tasks, and the app: alone as functions, and in a real worker over a real Redis."""

import base64
import bz2
import json
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError as BrokerError
from kombu.transport import redis
from redis import Redis
from redis.exceptions import OutOfMemoryError
from sqlalchemy import event, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from reelwatch.app import celery as application
from reelwatch.app import redis_queue, steps, tasks
from reelwatch.config import settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import delivery, intake, polling, tracking
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.scripts import scripted_id
from reelwatch.sandbox.upstream import Sandbox
from reelwatch.storage import db, heartbeat
from reelwatch.storage.models import Account, Delivery, Heartbeat, Job
from tests.commands import command_environment, done, run
from tests.environment import SECRET, set_variables
from tests.logs import Lines
from tests.seeding import jobs_in
from tests.servers import PostgresServer, Process, eventually, process

ID = "veo3.1-fast:1770350082-trii1OXZc3"
UNACKED = redis_queue.KEYS["unacked_key"]
DONE = scripted_id("veo3.1-fast", "ok", 0.0, "a")  # is completed at the first poll


# ---------------------------------------------------------------------- intake


def test_track_takes_the_names_of_track(url: str) -> None:
    tasks.track(
        ID, callback_task="shop.on_video", callback_queue="shop", metadata={"order": 7},
        deadline="10m", events=["failed"], webhook_url=None, account="default",
    )  # fmt: skip
    (job,) = jobs_in(url)
    assert (job.video_id, job.callback_task, job.callback_queue) == (ID, "shop.on_video", "shop")
    assert (job.metadata_, job.events) == ({"order": 7}, ["failed"])


def test_the_tasks_cancel_and_recheck_do_as_they_say(url: str) -> None:
    tracking.track(ID)
    with db.transaction(url) as session:
        session.execute(update(Job).values(next_poll_at=datetime.now(UTC) + timedelta(hours=1)))
    tasks.recheck(ID)
    due = jobs_in(url)[0].next_poll_at
    assert due is not None
    assert due <= datetime.now(UTC)
    tasks.cancel(ID, account="default")
    assert jobs_in(url)[0].state == "cancelled"


@pytest.mark.parametrize(
    ("task", "video_id", "options", "reason"),
    [
        ("track", "", {}, "video id: it is empty"),
        ("track", 7, {}, "video id: 7 is not a text"),
        ("track", ["a"], {}, "video id: ['a'] is not a text"),
        ("track", "a\ud800", {}, "U+D800"),
        ("track", ID, {"webhook_url": "https://u:p@h.example.com/"}, "callback URL refused"),
        ("track", ID, {"metadata": {"a": "b" * 20_000}}, "metadata: 20009 bytes"),
        (
            "track",
            ID,
            {"metdata": {}},
            "is no option; is 'metadata' meant?; accepted: web",
        ),
        ("track", ID, {"priority": 9}, "'priority' is no option; accepted: webhook_url, callback"),
        ("cancel", ID, {"acount": "a"}, "'acount' is no option; is 'account' meant?"),
        ("track", ID, {"session": "s"}, "session: it can't come with a message"),
        ("cancel", {"a": 1}, {}, "video id: {'a': 1} is not a text"),
        ("cancel", "a\0b", {}, "U+0000"),
        ("cancel", ID, {"account": {"a": 1}}, "account: it is not a text"),
        ("recheck", "a\ud800", {}, "U+D800"),
        ("recheck", ID, {"account": ["a"]}, "account: it is not a text"),
    ],
)
def test_what_cannot_be_accepted_is_logged(
    lite: str, logged: Lines, task: str, video_id: Any, options: Mapping[str, Any], reason: str
) -> None:
    """For good: trying again would change nothing."""
    getattr(tasks, task)(video_id, **options)
    (line,) = logged.named("refused")
    assert reason in line["reason"]
    assert line["task"] == task
    assert line["level"] == "error"
    assert jobs_in(lite) == []


def test_a_refusal_shows_no_novel(lite: str, logged: Lines) -> None:
    tasks.track("a" * 5_000)
    tasks.track(ID, account="a" * 100_000)
    tasks.cancel(["a" * 100_000])
    lines = logged.named("refused")
    assert [len(line["video_id"]) for line in lines] == [200, len(ID), 200]
    assert max(len(line["reason"]) for line in lines) == intake.REASON_LIMIT
    assert jobs_in(lite) == []


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"DATABASE_URL": "sqlite:////nowhere/at/all.db"}, OperationalError),
        ({"REELWATCH_ACCOUNTS_FILE": "/nowhere/at/all.toml"}, SettingsError),
    ],
)
@pytest.mark.usefixtures("lite")
def test_a_disturbance_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, logged: Lines, variables: dict[str, str], error: Any
) -> None:
    """The id is good: the task fails, which in a worker means that it is tried again."""
    assert application.app.conf.task_queues  # as a worker that has started
    set_variables(monkeypatch, **variables)
    assert tasks.track.max_retries is None
    with pytest.raises(error):
        tasks.track(ID)
    assert logged.named("refused") == []


# ------------------------------------------------------------------------ tick


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """What ticks and nudges publish: task, arguments, options."""
    sent: list[tuple[str, Any, Any]] = []
    for task in (tasks.poll, tasks.deliver):

        def publish(args: Any = (), _name: str = task.name, **options: Any) -> None:
            sent.append((_name, args, options))

        monkeypatch.setattr(task, "apply_async", publish)
    return sent


def owe_an_event(url: str, target: str = "https://hooks.example.com/") -> None:
    """A job that has ended and whose producer is to be told."""
    tracking.track(DONE, callback_task="shop.on_video", events=["status_changed"])
    with db.transaction(url) as session:
        at = datetime.now(UTC)
        session.execute(
            update(Job)
            .where(Job.video_id == DONE)
            .values(state="expired", expired_at=at, error_code="deadline")
        )
    tracking.recheck(DONE)
    if target:
        with db.transaction(url) as session:
            webhook = {"channel": "webhook", "target": target, "destination": "hooks"}
            session.execute(update(Delivery).values(**webhook))


PUBLISHED = {"expires": application.MESSAGE_EXPIRES, "retry": False}


def test_a_tick_publishes_what_is_due(url: str, published: list[Any]) -> None:
    tasks.tick()
    assert published == []
    pass_time(url)
    owe_an_event(url)
    tasks.tick()
    assert published == [
        ("reelwatch.poll", ("default",), PUBLISHED),
        ("reelwatch.deliver", (), PUBLISHED),
    ]


def pass_time(url: str, seconds: float = 60.0) -> None:
    """The last tick was so long ago."""
    with db.transaction(url) as session:
        session.execute(update(Heartbeat).values(at=db.now(session) - timedelta(seconds=seconds)))


def test_ticks_at_once_are_one(url: str, published: list[Any]) -> None:
    """Two beats, or ticks that have piled up, publish nothing twice."""
    tracking.track(ID)
    start = threading.Barrier(6)

    def tick() -> None:
        start.wait(30)
        tasks.tick()

    threads = [threading.Thread(target=tick) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert published == [("reelwatch.poll", ("default",), PUBLISHED)]


def test_a_tick_is_stamped(url: str, published: list[Any]) -> None:
    """So that others see that ticks come."""
    tasks.tick()
    with db.reading(url) as session:
        age = heartbeat.age(session, heartbeat.TICK, db.now(session))
    assert age is not None
    assert timedelta(0) <= age < timedelta(seconds=60)
    assert published == []


def test_a_tick_outlives_a_broker_that_takes_nothing(
    lite: str, monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    """What is due is due at the next one, too; the second account is published all the same."""

    tried = []

    def refuse(args: object, **_: object) -> None:
        tried.append(args)
        raise OutOfMemoryError("command not allowed")

    monkeypatch.setattr(tasks.poll, "apply_async", refuse)
    monkeypatch.setattr(tasks.deliver, "apply_async", refuse)
    owe_an_event(lite)
    tasks.tick()
    assert tried == [("default",), ()]
    assert logged.named("nudge_failed")[0]["error"] == "command not allowed"


# --------------------------------------------------------------- poll, deliver


def test_poll_and_deliver_do_their_batches(
    url: str, monkeypatch: pytest.MonkeyPatch, published: list[Any]
) -> None:
    """From the id to the verified webhook; what a poll brings is nudged on at once."""
    with Sandbox() as upstream, Listener([SECRET]) as listener:
        set_variables(monkeypatch, QUICKROUTER_BASE_URL=upstream.url, WEBHOOK_ALLOW="127.0.0.1")
        tracking.track(DONE, webhook_url=listener.url)
        tasks.poll("default")
        assert published == [("reelwatch.deliver", (), PUBLISHED)]
        tasks.deliver()
    (event,) = listener.events
    assert (event.verified, event.type) == (True, "video.completed")
    assert jobs_in(url)[0].state == "completed"


def test_a_batch_whose_time_is_over_has_the_next_one_begin(
    url: str, monkeypatch: pytest.MonkeyPatch, published: list[Any]
) -> None:
    monkeypatch.setattr(polling, "poll", lambda *_, hand_over, **__: hand_over())
    tasks.poll("default")
    assert published == [("reelwatch.poll", ("default",), PUBLISHED)]


# ----------------------------------------------------------------------- nudge


class Clock:
    """A monotonic clock that goes on when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "error",
    [BrokerError("away"), OSError("away"), ConnectionError("away"), OutOfMemoryError("away")],
)
@pytest.mark.usefixtures("lite")  # the app is configured when a task is first asked for
def test_a_nudge_that_fails_is_let_go(
    monkeypatch: pytest.MonkeyPatch, logged: Lines, error: Exception
) -> None:
    """The next tick does the same; and while the broker is away nobody waits for it each time."""
    clock, calls, errors = Clock(), [], [error, error]

    def publish(_args: Any, **options: Any) -> None:
        calls.append(options)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(tasks.deliver, "apply_async", publish)
    nudge = tasks._Nudge(tasks.deliver)
    nudge()
    nudge()
    assert calls == [PUBLISHED]
    assert [line["error"] for line in logged.named("nudge_failed")] == ["away"]
    assert logged.named("nudge_failed")[0]["level"] == "warning"
    clock.now += tasks.QUIET_AFTER_FAILED_NUDGE
    nudge()
    clock.now += tasks.QUIET_AFTER_FAILED_NUDGE
    nudge()
    nudge()
    assert len(calls) == 4


# --------------------------------------------------------------------- standby


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The batches that standby does itself."""
    batches: list[str] = []
    monkeypatch.setattr(polling, "poll", lambda _, account, **__: batches.append(account))
    monkeypatch.setattr(delivery, "deliver", lambda *_: batches.append("deliver"))
    return batches


def test_standby_keeps_quiet_while_ticks_come(
    url: str, worked: list[str], published: list[Any]
) -> None:
    tracking.track(ID)
    tasks.tick()
    assert published
    assert tasks.standby.poll() is False
    pass_time(url, tasks.TICK_MISSED_SECONDS / 2)
    assert tasks.standby.poll() is False
    assert worked == []
    left = tasks.standby._check_at - time.monotonic()  # it asks again when one can be missing
    assert left <= tasks.TICK_MISSED_SECONDS / 2


def test_standby_asks_for_no_tick_before_one_can_be_missing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker without work would ask its database for nothing but that."""
    tasks.tick()
    standby, asked = tasks.Standby(), []
    rounds = threading.Semaphore(0)

    def age(session: Session, name: str) -> timedelta | None:
        asked.append(name)
        return heartbeat_age(session, name)

    heartbeat_age = heartbeat.age
    monkeypatch.setattr(heartbeat, "age", age)
    monkeypatch.setattr(standby, "_sign", rounds.release)
    monkeypatch.setattr(tasks, "STANDBY_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(tasks, "TICK_MISSED_SECONDS", 3_600.0)
    standby.start()
    standby._check_at = 0.0
    for _ in range(20):
        assert rounds.acquire(timeout=30)
    standby.finish()
    assert asked == [heartbeat.TICK]


def test_standby_works_when_no_tick_has_come_for_long(
    url: str, worked: list[str], logged: Lines, published: list[Any]
) -> None:
    tracking.track(ID)
    tasks.tick()
    assert published
    pass_time(url, 60.0)
    assert tasks.standby.poll() is True
    assert worked == ["default", "deliver"]
    (line,) = logged.named("tick_missing")
    assert line["level"] == "warning"
    assert line["age_seconds"] >= 60


def test_standby_works_when_no_tick_ever_came(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without beat and broker the webhook arrives all the same."""
    with Sandbox() as upstream, Listener([SECRET]) as listener:
        set_variables(monkeypatch, QUICKROUTER_BASE_URL=upstream.url, WEBHOOK_ALLOW="127.0.0.1")
        tracking.track(DONE, webhook_url=listener.url)
        assert tasks.standby.poll() is True
        assert [event.type for event in listener.events if event.verified] == ["video.completed"]
    assert jobs_in(url)[0].state == "completed"


def test_standby_outlives_what_it_trips_over(
    monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    """It is the last resort."""
    standby = tasks.Standby()
    error: list[Exception] = [
        ZeroDivisionError("a bug"), OperationalError("SELECT 1", {}, Exception("away\nDETAIL: x")),
    ]  # fmt: skip
    polls = threading.Semaphore(0)

    def poll() -> bool:
        polls.release()
        if error:
            raise error.pop()
        return True

    monkeypatch.setattr(tasks, "STANDBY_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(tasks, "TICK_MISSED_SECONDS", 0.02)
    monkeypatch.setattr(standby, "poll", poll)
    standby.start()
    for _ in range(4):
        assert polls.acquire(timeout=30)
    standby.stop()
    thread = standby._thread
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()
    assert logged.named("standby_failed")[0]["error"] == "(builtins.Exception) away"
    assert "ZeroDivisionError: a bug" in logged.named("standby_crashed")[0]["exception"]


def test_standby_gives_the_first_tick_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker and beat start at once."""
    standby, clock, polls = tasks.Standby(), Clock(), threading.Event()
    asked = threading.Semaphore(0)

    def monotonic() -> float:
        asked.release()
        return clock.now

    monkeypatch.setattr(tasks, "STANDBY_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(clock, "monotonic", monotonic)
    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(standby, "poll", polls.set)
    standby.start()
    for _ in range(5):
        assert asked.acquire(timeout=30)
    assert not polls.is_set()
    clock.now += tasks.TICK_MISSED_SECONDS
    assert polls.wait(30)
    standby.stop()


def test_a_worker_starts_standby_and_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    standby = tasks.Standby()
    monkeypatch.setattr(tasks, "standby", standby)
    steps.Standing(None).start(None)
    assert standby._thread is not None
    assert standby._thread.is_alive()
    steps._end_standby()
    standby._thread.join(30)
    assert not standby._thread.is_alive()


def test_what_standby_has_under_way_is_finished_before_its_worker_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread would end with the process, and the answers with it."""
    standby, began, written = tasks.Standby(), threading.Event(), threading.Event()

    def poll() -> bool:
        began.set()
        time.sleep(0.2)
        written.set()
        return True

    monkeypatch.setattr(standby, "poll", poll)
    monkeypatch.setattr(tasks, "STANDBY_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "TICK_MISSED_SECONDS", 0.0)
    monkeypatch.setattr(tasks, "standby", standby)
    standby.start()
    assert began.wait(30)
    steps.Standing(None).stop(None)
    assert written.is_set()


# ------------------------------------------------------------------ the app


def configuration(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    set_variables(monkeypatch, **variables)
    return application.configuration()


@pytest.mark.parametrize("broker", ["redis://h:6379/0", "rediss://h:6379/0"])
def test_redis_gets_its_timeouts(monkeypatch: pytest.MonkeyPatch, broker: str) -> None:
    """Without them a silently dropped connection hangs beat and worker for good."""
    got = configuration(monkeypatch, BROKER_URL=broker)
    assert got["broker_url"] == broker
    options = got["broker_transport_options"]
    assert {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")} == {
        "socket_timeout": 5, "socket_connect_timeout": 5,
    }  # fmt: skip
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] == 10


@pytest.mark.parametrize("broker", ["amqp://h//", "amqps://h//"])
def test_rabbitmq_confirms_what_it_has(monkeypatch: pytest.MonkeyPatch, broker: str) -> None:
    """And gets none of Redis's options: it would refuse to connect."""
    options = configuration(monkeypatch, BROKER_URL=broker)["broker_transport_options"]
    assert options == {"confirm_publish": True, "read_timeout": 5}


def test_our_own_memory_is_polled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    got = configuration(monkeypatch, BROKER_URL="memory://localhost//")
    assert got["broker_transport_options"] == {"polling_interval": 0.02}


def test_redis_url_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configuration(monkeypatch, REDIS_URL="redis://h/0")["broker_url"] == "redis://h/0"


def test_only_json_is_taken_and_no_result_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    got = configuration(monkeypatch, BROKER_URL="redis://h/0")
    assert got["accept_content"] == ["json"]
    assert (got["task_serializer"], got["event_serializer"]) == ("json", "json")
    assert got["task_ignore_result"] is True
    assert got["broker_connection_max_retries"] is None
    assert got["worker_prefetch_multiplier"] == 1


def test_all_that_is_published_goes_through_one_client(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    """Until the connections are given up, after a fault: then through one that has the new ones."""
    monkeypatch.setattr(redis.Transport, "Channel", redis.Channel)
    redis_queue.use()
    with Connection(redis_url) as connection:
        channel: Any = connection.channel()
        client = channel._create_client()
        assert channel._create_client() is client
        channel._disconnect_pools()
        renewed = channel._create_client()
        assert renewed is not client
        assert renewed.connection_pool is channel.pool
        assert renewed.ping()


def test_a_tick_that_comes_late_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than pile up while no worker runs; and they wait behind no flood of new ids."""
    got = configuration(monkeypatch, BROKER_URL="redis://h/0")
    scheduled = {each["task"]: each["options"]["expires"] for each in got["beat_schedule"].values()}
    expires = application.MESSAGE_EXPIRES
    assert scheduled == {"reelwatch.tick": expires, "reelwatch.learn": expires}
    for task in scheduled:
        assert got["task_routes"][task] == {"queue": "reelwatch.work"}
    assert got["beat_scheduler"] == "reelwatch.app.beat:Scheduler"  # keeps no file
    assert {queue.name for queue in got["task_queues"]} == {"reelwatch", "reelwatch.work"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "reelwatch: BROKER_URL is not set: accepted: redis(s)://… or amqp(s)://…"),
        ({"BROKER_URL": "sqs://h"}, "reelwatch: BROKER_URL=(not shown): accepted: redis://…"),
        ({"LOG_LEVEL": "loud"}, "reelwatch: LOG_LEVEL='loud': accepted: 'debug'"),
    ],
)
def test_a_wrong_setting_ends_celery_with_one_message(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        configuration(monkeypatch, **variables)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("lite")
def test_a_worker_that_could_not_sign_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WEBHOOK_SECRET="", WEBHOOK_URL="https://hooks.example.com/")
    with pytest.raises(SystemExit, match=r"reelwatch: WEBHOOK_URL .* WEBHOOK_SECRET is not"):
        application._before_work()


def test_the_command_shows_that_message_alone(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'r.db'}"
    with process(["celery", "-A", "reelwatch", "worker"], {"DATABASE_URL": database}) as child:
        assert child.wait(60) == 1
        assert child.output.startswith("reelwatch: BROKER_URL is not set")
        assert "Traceback" not in child.output


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_all_that_is_missing_is_told_at_once(tmp_path: Path, command: str) -> None:
    hook = {"WEBHOOK_URL": "https://hooks.example.com/"}
    with process(["celery", "-A", "reelwatch", command], hook, tmp_path) as child:
        assert child.wait(60) == 1
        assert child.output.count("\n") == 1
        told = ["BROKER_URL is not set", "DATABASE_URL is not set", "WEBHOOK_SECRET is not: "]
        assert [each for each in told if each in child.output] == told


def test_a_worker_gives_every_account_its_row(url: str) -> None:
    application._before_work()
    with db.reading(url) as session:
        assert session.execute(select(Account.name)).scalars().all() == ["default"]


@pytest.mark.usefixtures("lite")
def test_a_worker_may_start_before_its_database(
    monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    set_variables(monkeypatch, DATABASE_URL="sqlite:////nowhere/at/all.db")
    application._before_work()
    (line,) = logged.named("database_not_ready")
    assert "there is no database at /nowhere/at/all.db" in line["error"]


@pytest.mark.usefixtures("lite")
def test_celery_logs_as_we_do(monkeypatch: pytest.MonkeyPatch, logged: Lines) -> None:
    set_variables(monkeypatch, LOG_FORMAT="json", LOG_LEVEL="warning")
    monkeypatch.setattr(sys, "stderr", logged)
    application._configure_logging()
    logging.getLogger("celery.worker").warning("odd")
    assert logged.named("odd")[0]["logger"] == "celery.worker"
    assert logging.getLogger().level == logging.WARNING


# ------------------------------------------------- a real worker, a bare producer


@pytest.fixture
def producer(redis_url: str) -> Iterator[Celery]:
    """A Celery app that has never heard of this package."""
    with Celery("shop", broker=redis_url, set_as_current=False) as app:
        yield app


WORKER = ["celery", "-A", "reelwatch", "worker", "--pool", "threads", "--concurrency", "4",
          "--without-gossip", "--without-mingle"]  # fmt: skip


@pytest.fixture
def worker(postgresql_url: str, redis_url: str) -> Iterator[Process]:
    environment = {
        "DATABASE_URL": postgresql_url,
        "BROKER_URL": redis_url,
        "WEBHOOK_SECRET": SECRET,
        "LOG_FORMAT": "json",
    }
    with process(WORKER, environment) as running:
        running.wait_for("ready", 60)
        yield running


Send = Callable[..., object]


@pytest.fixture
def send(producer: Celery) -> Send:
    def to_reelwatch(name: str, *args: Any, **kwargs: Any) -> object:
        return producer.send_task(name, args=args, kwargs=kwargs, queue="reelwatch")

    return to_reelwatch


def states(url: str) -> dict[str, str]:
    return {job.video_id: job.state for job in jobs_in(url)}


def test_a_bare_producer_tracks_cancels_and_is_refused(
    postgresql_url: str, worker: Process, send: Send, redis_url: str
) -> None:
    """By name over Redis; what was acceptable is stored once, what was not is told in the log."""
    send("reelwatch.track", ID, metadata={"order": 7}, callback_task="shop.on_video")
    send("reelwatch.track", ID, metadata={"order": 8})
    send("reelwatch.track", "other", deadline="10m")
    send("reelwatch.track", "")
    send("reelwatch.track", "good-id", events=["done"])
    send("reelwatch.track", "good-id", priority=9)
    eventually(lambda: set(states(postgresql_url)) == {ID, "other"}, 30, lambda: worker.output)
    for reason in ("it is empty", "'done' is not one of", "'priority'"):
        line = json.loads(worker.wait_for(reason))
        assert (line["event"], line["level"]) == ("refused", "error")
    assert set(states(postgresql_url)) == {ID, "other"}
    (job,) = [each for each in jobs_in(postgresql_url) if each.video_id == ID]
    assert job.metadata_ in ({"order": 7}, {"order": 8})
    send("reelwatch.cancel", "other")
    eventually(lambda: states(postgresql_url)["other"] == "cancelled", 30, lambda: worker.output)
    with Redis.from_url(redis_url) as redis:
        assert redis.llen("reelwatch.work") == 0  # what producers send reaches no other queue
    assert worker.terminate(60) == 0


def test_ids_outlast_an_outage_of_the_database(
    postgresql_url: str, worker: Process, send: Send, redis_url: str,
    postgres_server: PostgresServer,
) -> None:  # fmt: skip
    """Taken from the queue while the database is away, they are tried until it is back."""
    ids = {f"veo3:{number}" for number in range(5)}
    db.dispose()
    postgres_server.stop()
    for video_id in ids:
        send("reelwatch.track", video_id)
    with Redis.from_url(redis_url) as redis:
        eventually(lambda: redis.llen("reelwatch") == 0, 30, lambda: worker.output)
        # Each is held for its next try, or under way: in no case is it forgotten.
        eventually(lambda: redis.hlen(UNACKED) == len(ids), 30, lambda: worker.output)
    postgres_server.start()
    eventually(lambda: set(states(postgresql_url)) == ids, 90, lambda: worker.output)
    assert '"refused"' not in worker.output


LARGE = "m" * 1_000_000
EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def packed(
    body: object = None, kind: object = "application/json", **headers: Any
) -> dict[str, Any]:
    """A message as Redis holds it: for `reelwatch.track`, in Celery's second protocol."""
    content = body if isinstance(body, bytes) else json.dumps(body or [["a"], {}, EMBED]).encode()
    return {
        "body": base64.b64encode(content).decode(),
        "content-encoding": "utf-8",
        "content-type": kind,
        "headers": {"lang": "py", "task": "reelwatch.track", "id": "an-id", "retries": 0} | headers,
        "properties": {
            "delivery_tag": f"tag-{time.monotonic_ns()}",
            "delivery_info": {"exchange": "", "routing_key": "reelwatch"},
            "body_encoding": "base64",
            "priority": 0,
        },
    }


UNFIT: dict[str, tuple[Any, str]] = {
    "no JSON": (b"garbage", "no message: JSONDecodeError"),
    "no text": (b"\xff\xfe\x00", "no message: JSONDecodeError"),
    "2 MB of nothing": (b"x" * 2_000_000, "no message: JSONDecodeError"),
    "a list": ([], "no message: TypeError"),
    "a number": (7, "no message: TypeError"),
    "an empty object": ({}, "no message: KeyError: 'properties'"),
    "headers are a list": (packed() | {"headers": [1]}, "no message: AttributeError"),
    "no address": (packed() | {"properties": {"delivery_tag": "t"}}, "no message: KeyError"),
    "its body is no JSON": (packed(b"{nope"), "its body can't be read"),
    "its body is no UTF-8": (packed(b"\xff\xfe"), "its body can't be read"),
    "its body is deep": (packed(b"[" * 100_000 + b"]" * 100_000), "its body can't be read"),
    "its body is an object": (packed({"a": 1}), "its body is not [args, kwargs, embed]"),
    "its body is a text": (packed("abc"), "its body is not [args, kwargs, embed]"),
    "its body is too short": (packed([["a"], {}]), "its body is not [args, kwargs, embed]"),
    "pickle": (
        packed(pickle.dumps((["pickled"], {}, {})), "application/x-python-serialize"),
        "content type 'application/x-python-serialize', accepted is 'application/json'",
    ),
    "YAML": (packed(b"- a", "application/x-yaml"), "content type 'application/x-yaml'"),
    "a long type": (packed(b"[]", LARGE), "content type 'mmm"),
    "compressed": (
        packed(bz2.compress(bytes(3_000_000)) * 100, compression="application/x-bz2"),
        "it is compressed ('application/x-bz2'), which is not accepted",
    ),
    "an unknown task": (packed(task="reelwatch.nope"), "unknown task 'reelwatch.nope'"),
    "a misspelt task": (
        packed(task="reelwatch.trak"), "unknown task 'reelwatch.trak'; is 'reelwatch.track' meant?"
    ),
    "a long task": (packed(task=LARGE), "its headers are no object, or too large"),
    "no task": (packed() | {"headers": {}}, "it names no task"),
    "args are a text": (packed(["abc", {}, EMBED]), "its args are no list"),
    "args are a number": (packed([7, {}, EMBED]), "its args are no list"),
    "kwargs are a list": (packed([["a"], ["b"], EMBED]), "its kwargs no object"),
    "embed is a text": (packed([["a"], {}, "x"]), "its embed is no object"),
    "an id of a task that is none": (packed(id=[1]), "its id is no text"),
    "a long id of a task": (packed(id="i" * 300), "no text of at most 255 characters"),
    "retries": (packed(retries="x"), "its retries are no number"),
    "2 MB of metadata": (
        packed([["a"], {"metadata": {"a": LARGE + LARGE}}, EMBED]), "a message of 2000101 bytes",
    ),
    "a video id of 1 MB": (packed([[LARGE], {}, EMBED]), "a message of 1000079 bytes"),
    "a large name": (packed([["a"], {"account": "m" * 200_000}, EMBED]), "account: 'mmm"),
    "unknown names": (packed([["a"], {"nope": 1}, EMBED]), "'nope' is no option; accepted"),
    "no time": (packed(eta="nope"), "eta 'nope' is no ISO 8601 time"),
    "no day": (packed(eta="2026-99-99"), "eta '2026-99-99' is no ISO 8601 time"),
    "an empty time": (packed(eta=""), "eta '' is no ISO 8601 time"),
    "before all time": (packed(eta="0001-01-01T00:00:00+23:59"), "eta '0001-01-01T00"),
    "no end": (packed(expires="nonsense"), "expires 'nonsense' is no ISO 8601 time"),
    "after all time": (packed(expires="9999-12-31T23:59:59-23:59"), "expires '9999-12-31T23"),
    "work": (packed([[], {}, EMBED], task="reelwatch.tick"), "reelwatch.tick can't come through"),
    "Celery's": (packed([[], {}, EMBED], task="celery.chain"), "unknown task 'celery.chain'"),
    "self": (packed([["a"], {"self": 1}, EMBED]), "'self' is no option"),
    "no id": (packed([[], {}, EMBED]), "video id: it is empty"),
    "two ids": (packed([["a", "b"], {}, EMBED]), "2 values are given; accepted: one video id"),
}  # fmt: skip


def test_what_is_no_message_of_ours_is_told_and_ends_no_worker(
    postgresql_url: str, worker: Process, send: Send, redis_url: str
) -> None:
    """Whoever can write to the queue finds nothing there that stops it, or floods the log."""
    with Redis.from_url(redis_url) as redis:
        for message, _ in UNFIT.values():
            raw = message if isinstance(message, bytes) else json.dumps(message).encode()
            redis.lpush("reelwatch", raw)
        send("reelwatch.track", ID)
        for name, (_, reason) in UNFIT.items():
            assert json.loads(worker.wait_for(json.dumps(reason)[1:-1]))["level"] == "error", name
        eventually(lambda: set(states(postgresql_url)) == {ID}, 30, lambda: worker.output)
        eventually(lambda: redis.hlen(UNACKED) == 0, 30, "nothing of it comes again")
    assert max(map(len, worker.output.splitlines())) < 5_000
    assert len(worker.output) < 1_000 * len(UNFIT)
    assert worker.terminate(60) == 0


UNFIT_WORK: dict[str, tuple[Any, str]] = {
    **{
        task: (packed([[1], {}, EMBED], task=f"reelwatch.{task}"), f"reelwatch.{task} takes no")
        for task in ("tick", "learn", "deliver", "retry_waiting")
    },
    "by name": (packed([[], {"self": 1}, EMBED], task="reelwatch.tick"), "reelwatch.tick takes no"),
    "Celery's": (packed([[], {}, EMBED], task="celery.map"), "unknown task 'celery.map'"),
    **{
        str(args): (packed([args, {}, EMBED], task="reelwatch.poll"), "reelwatch.poll takes the")
        for args in ([], [{"a": 1}], ["\0"], ["a", "b"])
    },
}


def test_what_is_no_work_of_ours_is_told_in_a_line(worker: Process, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        for message, _ in UNFIT_WORK.values():
            redis.lpush("reelwatch.work", json.dumps(message))
        for _, reason in UNFIT_WORK.values():
            assert json.loads(worker.wait_for(reason))["event"] == "message_refused"
        eventually(lambda: redis.llen("reelwatch.work") == 0, 30, lambda: worker.output)
    assert worker.terminate(60) == 0
    assert "Traceback" not in worker.output


FOLLOWING: Sequence[Mapping[str, Any]] = (
    {"chain": "xyz"},
    {"callbacks": 5},
    {"errbacks": "x"},
    {"chord": {"x": 1}},
    {"callbacks": [{"task": "shop.done", "args": [], "options": {"queue": "shop"}}]},
)


def test_an_id_is_taken_in_whatever_should_follow_and_however_short_its_time(
    postgresql_url: str, worker: Process, redis_url: str
) -> None:
    """A limit from outside kills no process; nothing can follow, which costs no id."""
    ids = [f"veo3:{number}" for number in range(len(FOLLOWING) + 3)]
    old = {"task": "reelwatch.track", "id": "an-id", "args": [ids[-1]], "timelimit": [-1, -1]}
    messages = [packed([[each], {}, more]) for each, more in zip(ids, FOLLOWING, strict=False)]
    messages.append(packed([[ids[-3]], {}, EMBED], timelimit=[1e-9, 1e-9]))
    messages.append(packed([[ids[-2]], {}, EMBED], timelimit="x"))
    messages.append(packed(old | {"callbacks": 5}) | {"headers": {}})
    with Redis.from_url(redis_url) as redis:
        for message in messages:
            redis.lpush("reelwatch", json.dumps(message))
        eventually(lambda: set(states(postgresql_url)) == set(ids), 60, lambda: worker.output)
        eventually(lambda: redis.hlen(UNACKED) == 0, 30, lambda: worker.output)
    assert "nothing_follows" in worker.output
    assert worker.terminate(60) == 0
    for sign in ("Traceback", "time limit", "TimeLimit", "prematurely"):
        assert sign not in worker.output


def test_messages_of_celerys_first_protocol_are_taken(
    postgresql_url: str, worker: Process, redis_url: str
) -> None:
    """Clients in other languages still send them."""
    old = {"task": "reelwatch.track", "id": "an-id", "args": [ID], "kwargs": {"deadline": "10m"}}
    bad = old | {"args": "abc"}
    with Redis.from_url(redis_url) as redis:
        for body in (bad, old):
            redis.lpush("reelwatch", json.dumps(packed(body) | {"headers": {}}))
    eventually(lambda: set(states(postgresql_url)) == {ID}, 30, lambda: worker.output)
    assert "its args are no list" in worker.output


# -------------------------------------------------- a database that takes nothing


def full(connection: Any, _record: object) -> None:
    """As on a full disk: not one page more."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def read_only(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")


@contextmanager
def every_connection(url: str, prepare: Callable[[Any, object], None]) -> Iterator[None]:
    db.dispose()  # those that are open are not asked
    engine = db.engine(url)
    event.listen(engine, "connect", prepare)
    try:
        yield
    finally:
        event.remove(engine, "connect", prepare)
        db.dispose()


@contextmanager
def refusing_writes(url: str) -> Iterator[None]:
    """As after a failover to a standby, or when an operator has closed the database."""
    name = make_url(url).database
    statement = f"ALTER DATABASE {name} %s default_transaction_read_only %s"
    set_up = db.engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with set_up.connect() as connection:
        connection.execute(text(statement % ("SET", "= on")))
    db.dispose()
    try:
        yield
    finally:
        with db.engine(url).connect() as connection:
            connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"))
            connection.commit()
            connection.execute(text(statement % ("RESET", "")))
            connection.commit()
        db.dispose()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [(full, "database or disk is full"), (read_only, "attempt to write a readonly database")],
)
def test_a_full_or_read_only_file_stops_intake_and_loses_nothing(
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Any, object], None],
    said: str,
) -> None:
    with command_environment(sqlite_url, tmp_path, monkeypatch):
        done("track", ID)
        ids = [f"veo3:{number:0150}" for number in range(1_000)]  # more than a page has room for
        with every_connection(sqlite_url, prepare):
            settings.current.cache_clear()
            with pytest.raises(OperationalError, match=said):
                tracking.track_many(ids)
            result = run("track", *ids)
            assert result.exit_code == 1
            wanted = f"the database can't be written to: {said}; what was accepted before is kept"
            assert result.output == f"reelwatch: {wanted}\n"
            assert [job["video_id"] for job in json.loads(done("list", "--json"))] == [ID]
            told = run("doctor").output
            assert f"✗ database: the database can't be written to: {said}" in told
        assert "✓ database" in run("doctor").output
        assert run("track", *ids).exit_code == 0
        assert len(jobs_in(sqlite_url)) == 1 + len(ids)


def test_a_read_only_server_stops_intake_and_loses_nothing(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment(postgresql_url, tmp_path, monkeypatch):
        done("track", ID)
        with refusing_writes(postgresql_url):
            with pytest.raises(DBAPIError, match="read-only transaction"):
                tracking.track("veo3:next")
            result = run("track", "veo3:next")
            assert result.exit_code == 1
            assert result.output.startswith(
                "reelwatch: the database can't be written to: cannot execute INSERT in a read-only"
            )
            assert [job["video_id"] for job in json.loads(done("list", "--json"))] == [ID]
        done("track", "veo3:next")
        assert {job.video_id for job in jobs_in(postgresql_url)} == {ID, "veo3:next"}


def test_ids_outlast_a_time_without_writing(
    postgresql_url: str, worker: Process, send: Send, redis_url: str,
    postgres_server: PostgresServer,
) -> None:  # fmt: skip
    """What a worker has taken from the queue it keeps trying until the database takes it."""
    ids = {f"veo3:{number}" for number in range(5)}
    with Redis.from_url(redis_url) as redis:
        with refusing_writes(postgresql_url):
            postgres_server.terminate_connections()
            for video_id in ids:
                send("reelwatch.track", video_id)
            eventually(lambda: redis.hlen(UNACKED) == len(ids), 30, lambda: worker.output)
            assert states(postgresql_url) == {}
            db.dispose()
        postgres_server.terminate_connections()
        eventually(lambda: set(states(postgresql_url)) == ids, 90, lambda: worker.output)
    assert '"refused"' not in worker.output
