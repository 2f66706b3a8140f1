"""A stranger's Redis: shared with a producer's own Celery app, full, read-only, away.

Real processes over real servers. `impatient_worker.py` lowers what would take minutes.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import redis

from reelwatch.app import redis_queue
from reelwatch.app.celery import REDIS_OPTIONS
from reelwatch.jobs import tracking
from reelwatch.storage import db
from tests.environment import SECRET, configured, set_variables
from tests.fleet import BEAT, Fleet, fleet, scripted_ids
from tests.logs import Lines
from tests.processes import UNCOUNTED
from tests.seeding import jobs_in
from tests.servers import PostgresServer, Process, RedisServer, eventually, process

IMPATIENT = ("python", "tests/impatient_worker.py", "-A", "reelwatch", "worker",
             "--without-gossip", "--without-mingle", "--concurrency", "2")  # fmt: skip
START_SECONDS = 120.0  # of a process, on a machine that does much else
TRACKED = "SELECT count(*) FROM jobs"
DELIVERED = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"

# A producer's app: nothing in it is set that it could have left out.
SHOP = """
import os, pathlib, time
from celery import Celery

app = Celery("shop", broker=os.environ["SHOP_BROKER"])
ran = pathlib.Path(os.environ["SHOP_RAN"])

@app.task(acks_late=True)
def film(name, seconds):
    with ran.open("a") as file:
        file.write(f"{name}\\n")
    time.sleep(seconds)
"""


class Shop:
    """A producer's own worker, and what its tasks did."""

    def __init__(self, broker: str, folder: Path) -> None:
        self._ran = folder / "ran"
        (folder / "shop.py").write_text(SHOP)
        self._environment = UNCOUNTED | {"SHOP_BROKER": broker, "SHOP_RAN": str(self._ran)}
        self._folder = folder
        self.app = Celery("shop", broker=broker, set_as_current=False)
        worker = ["celery", "-A", "shop", "worker", "--concurrency", "2", "--loglevel", "info"]
        self.worker = process(worker, self._environment, folder)

    @property
    def ran(self) -> list[str]:
        return self._ran.read_text().split() if self._ran.exists() else []

    def celery(self, *args: str) -> str:
        """What a command of Celery's answers."""
        with process(["celery", "-A", "shop", *args], self._environment, self._folder) as command:
            command.wait(START_SECONDS)
            return command.output

    def film(self, name: str, seconds: float, countdown: float | None = None) -> None:
        self.app.send_task("shop.film", (name, seconds), countdown=countdown)


@pytest.fixture
def shop(redis_url: str, tmp_path: Path) -> Iterator[Shop]:
    running = Shop(redis_url, tmp_path)
    yield running
    running.app.close()
    running.worker.close()


@pytest.fixture
def deployed(postgresql_url: str, redis_url: str) -> Iterator[Fleet]:
    with fleet(postgresql_url, redis_url, rate=100.0) as running:
        yield running


def test_a_producers_tasks_in_the_same_redis_run_once(deployed: Fleet, shop: Shop) -> None:
    """Long ones that are acknowledged late, and delayed ones; by our clock they are overdue."""
    ours = deployed.start(IMPATIENT)
    shop.worker.wait_for("ready", START_SECONDS)
    ours.wait_for("ready", START_SECONDS)
    shop.film("long", 7.0)
    shop.film("delayed", 0.0, countdown=7.0)
    shop.film("next", 0.0)
    deployed.send("reelwatch.track", "veo3:a")
    eventually(lambda: deployed.rows(TRACKED)[0][0] == 1, 30, deployed.log)
    eventually(lambda: sorted(shop.ran) == ["delayed", "long", "next"], 60, lambda: str(shop.ran))
    shop.worker.wait_for("shop.film[", 30)
    assert shop.worker.terminate(60) == 0  # what it still had under way has ended, too
    assert sorted(shop.ran) == ["delayed", "long", "next"]


def test_a_producer_hands_out_nothing_of_ours(deployed: Fleet, redis_server: RedisServer) -> None:
    """A producer that waits a second only, while one of our messages is under way."""
    tag, item = "kept-1", "reelwatch\n{}"
    with redis_server.client() as client:
        client.hset(redis_queue.KEYS["unacked_key"], tag, item)
        client.zadd(redis_queue.KEYS["unacked_index_key"], {tag: time.time() + 600})
        options = {"visibility_timeout": 1}
        with Celery("shop", broker=deployed.broker_url, set_as_current=False) as hasty:
            hasty.conf.broker_transport_options = options
            with hasty.connection_for_read() as connection:
                qos: Any = connection.default_channel.qos  # type: ignore[attr-defined]
                for _ in range(20):
                    qos.restore_visible(interval=1)
        assert client.hget(redis_queue.KEYS["unacked_key"], tag) == item.encode()


@pytest.fixture
def sweep(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Hands out again what no worker has acknowledged, as workers do now and then."""
    monkeypatch.setattr(redis.Transport, "Channel", redis_queue.Channel)
    with Connection(redis_url, transport_options=REDIS_OPTIONS) as connection:
        channel: Any = connection.default_channel

        def once() -> None:
            channel.qos._swept_at = float("-inf")
            channel.qos.restore_visible()

        yield once


@pytest.mark.parametrize("broken", ["no newline at all", "", "\n{}", "other\n{}", "\xff\n\n"])
def test_what_is_no_kept_message_holds_up_none_behind_it(
    redis_server: RedisServer, sweep: Callable[[], None], broken: str, logged: Lines
) -> None:
    unacked, index, _ = redis_queue.KEYS.values()
    with redis_server.client() as client:
        client.hset(unacked, mapping={"kept-broken": broken, "kept-lost": "reelwatch\nit"})
        client.zadd(index, {"kept-broken": 1, "kept-lost": 2, "kept-nowhere": 1})
        sweep()
        assert client.lrange("reelwatch", 0, -1) == [b"it"]
        assert client.exists(unacked, index, "other") == 0
    (told_of,) = logged.named("message_refused")
    assert "no message, and kept as one" in told_of["reason"]


def test_a_sweep_that_fails_is_told_in_a_line(
    redis_server: RedisServer, sweep: Callable[[], None], logged: Lines
) -> None:
    with redis_server.client() as client:
        client.set(redis_queue.KEYS["unacked_index_key"], "of another kind")
    for _ in range(3):
        sweep()
    (line,) = logged.named("redis_refused")
    assert line["level"] == "warning"
    assert "WRONGTYPE" in line["error"]


def test_control_commands_stay_in_the_family(deployed: Fleet, shop: Shop) -> None:
    """`control shutdown` and `inspect ping` of a producer's app, and ours."""
    ours = deployed.start(IMPATIENT)
    shop.worker.wait_for("ready", START_SECONDS)
    ours.wait_for("ready", START_SECONDS)
    assert "p0@" not in shop.celery("inspect", "ping", "--timeout", "3")
    ping = ["celery", "-A", "reelwatch", "inspect", "ping", "--timeout", "3"]
    with process(ping, deployed.environment) as command:
        assert command.wait(START_SECONDS) == 0
        assert "p0@" in command.output
        assert "1 node online" in command.output
    shop.celery("control", "shutdown")
    assert shop.worker.wait(60) == 0
    deployed.send("reelwatch.track", "veo3:a")
    eventually(lambda: deployed.rows(TRACKED)[0][0] == 1, 30, deployed.log)
    assert ours.running


# ------------------------------------------------------- a Redis that refuses


@pytest.mark.parametrize(
    ("refusing", "pool"),
    [("full", "prefork"), ("read_only", "threads")],
)
def test_a_redis_that_refuses_costs_nothing(
    deployed: Fleet,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    refusing: str,
    pool: str,
) -> None:
    """From the start, and again while it works: no id, no poll, no event, and no process."""
    refuse: Callable[[], AbstractContextManager[None]] = getattr(redis_server, refusing)
    early = [f"veo3:early-{number}" for number in range(50)]
    deployed.send("reelwatch.track", *early)
    with refuse():
        worker, beat = deployed.start(IMPATIENT, "--pool", pool), deployed.start(BEAT)
        worker.wait_for("Trying to re-establish", START_SECONDS)
        beat.wait_for("tick_not_published", START_SECONDS)
        told(deployed, monkeypatch, 3)
        assert waiting(redis_server) == len(early)
    eventually(lambda: deployed.rows(TRACKED)[0][0] == len(early) + 3, 60, deployed.log)
    late = [f"veo3:late-{number}" for number in range(50)]
    deployed.send("reelwatch.track", *late)
    with refuse():
        time.sleep(1)  # long enough for messages to be at every stage; what is asserted is the end
    eventually(lambda: deployed.rows(TRACKED)[0][0] == 103, 60, deployed.log)
    eventually(lambda: waiting(redis_server) == 0, 30, deployed.log)
    with refuse():
        assert deployed.terminate_all() == [0, 0]
    assert "Unrecoverable" not in deployed.log()


def told(deployed: Fleet, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Jobs that come by way of the database are polled and their ends told."""
    configured(deployed.database_url, monkeypatch)
    set_variables(monkeypatch, WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW="127.0.0.1")
    before = deployed.rows(DELIVERED)[0][0]
    tracking.track_many(scripted_ids(count, 0.0, 0.5), webhook_url=deployed.listener.url)
    eventually(lambda: deployed.rows(DELIVERED)[0][0] == before + count, 60, deployed.log)


def waiting(server: RedisServer) -> int:
    """Ids that Redis holds: in the queue, or under way."""
    with server.client() as client:
        unacked = client.hlen(redis_queue.KEYS["unacked_key"])
        return int(client.llen("reelwatch")) + int(unacked)


def test_a_worker_that_is_killed_while_it_takes_ids_in_loses_none(
    deployed: Fleet, redis_server: RedisServer
) -> None:
    """At every moment each is in the queue, written down as under way, or in the database."""
    ids = [f"veo3:{number}" for number in range(400)]
    worker = deployed.start(IMPATIENT)
    worker.wait_for("ready", START_SECONDS)
    deployed.send("reelwatch.track", *ids)
    for threshold in (20, 100, 200):
        eventually(partial(has_tracked, deployed, threshold), 60, deployed.log)
        worker.kill()
        worker = deployed.start(IMPATIENT)
        worker.wait_for("ready", START_SECONDS)
    eventually(lambda: deployed.rows(TRACKED)[0][0] == len(ids), 60, deployed.log)
    eventually(lambda: waiting(redis_server) == 0, 30, deployed.log)


def has_tracked(deployed: Fleet, threshold: int) -> bool:
    return bool(deployed.rows(TRACKED)[0][0] > threshold)


def test_a_worker_that_starts_without_its_broker_polls_and_tells(
    deployed: Fleet, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server.stop()
    worker = deployed.start(IMPATIENT)
    told(deployed, monkeypatch, 3)
    assert worker.terminate(30) == 0


def test_ids_outlast_a_database_that_is_away_and_a_redis_that_is_full(
    deployed: Fleet, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    """Nothing can be written down, and no retry published: Redis has the first message still."""
    ids = [f"veo3:{number}" for number in range(20)]
    worker = deployed.start(IMPATIENT)
    worker.wait_for("ready", START_SECONDS)
    db.dispose()
    postgres_server.stop()
    deployed.send("reelwatch.track", *ids)
    worker.wait_for("not_taken_in", 60)
    with redis_server.full():
        worker.wait_for("retry_not_published", 60)
    postgres_server.start()
    eventually(lambda: deployed.rows(TRACKED)[0][0] == len(ids), 90, deployed.log)
    eventually(lambda: waiting(redis_server) == 0, 30, deployed.log)


def test_a_cancel_right_after_its_track_is_not_lost(deployed: Fleet) -> None:
    worker = deployed.start(IMPATIENT, "--concurrency", "4")
    deployed.start(BEAT)
    worker.wait_for("ready", START_SECONDS)
    with Celery("producer", broker=deployed.broker_url, set_as_current=False) as producer:
        for number in range(300):
            for task in ("reelwatch.track", "reelwatch.cancel"):
                producer.send_task(task, (f"veo3:{number}",), queue="reelwatch")
    cancelled = "SELECT count(*) FROM jobs WHERE state = 'cancelled'"
    eventually(lambda: deployed.rows(cancelled)[0][0] == 300, 120, deployed.log)
    assert deployed.rows("SELECT count(*) FROM waiting_messages")[0][0] == 0
    assert '"refused"' not in deployed.log()


# ------------------------------------------------------------------ the end


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Something that accepts connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for each in kept:
            each.close()


COMMANDS = {
    "beat": ("celery", "-A", "reelwatch", "beat"),
    "worker": ("celery", "-A", "reelwatch", "worker", "--concurrency", "1"),
    "up": ("reelwatch", "up"),
}
TRYING = {"beat": "tick_not_published", "worker": "Trying again in", "up": "Trying again in"}


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize(
    ("broker", "number"), [("refused", signal.SIGTERM), ("silent", signal.SIGINT)]
)
def test_whoever_waits_for_a_broker_ends_when_asked(
    postgresql_url: str, silent_port: int, broker: str, command: str, number: signal.Signals
) -> None:
    port = silent_port if broker == "silent" else 1
    environment = {
        "DATABASE_URL": postgresql_url,
        "BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "WEBHOOK_SECRET": SECRET,
        "LOG_FORMAT": "json",
        **UNCOUNTED,
    }
    with process(COMMANDS[command], environment) as running:
        running.wait_for(TRYING[command], START_SECONDS)
        running.stop_signal(number)
        running.wait(15)


def test_the_end_leaves_no_message_behind(deployed: Fleet, redis_server: RedisServer) -> None:
    """What a worker had taken and not begun is in the queue again for the next one, at once."""
    ids = [f"veo3:{number}" for number in range(200)]
    worker: Process = deployed.start(IMPATIENT)
    worker.wait_for("ready", START_SECONDS)
    deployed.send("reelwatch.track", *ids)
    eventually(lambda: deployed.rows(TRACKED)[0][0] > 5, 60, deployed.log)
    assert worker.terminate(60) == 0
    with redis_server.client() as client:
        assert client.hlen(redis_queue.KEYS["unacked_key"]) == 0
    assert waiting(redis_server) + len(jobs_in(deployed.database_url)) >= len(ids)
