"""The acceptance run over RabbitMQ, with quorum queues. Where it is not installed this is skipped,
also in CI: no wheel brings it along.
"""

import bz2
import json
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from celery import Celery
from kombu import Connection

from reelwatch.app import callbacks
from reelwatch.app.callbacks import send_callback
from reelwatch.app.celery import configuration
from reelwatch.jobs.channels.celery import NoQueue
from tests.environment import configured, set_variables
from tests.fleet import START_SECONDS, WORKER, fleet, scripted_ids, violations
from tests.servers import RabbitServer, eventually, rabbitmq, rabbitmq_missing

pytestmark = pytest.mark.skipif(
    bool(rabbitmq_missing()), reason=f"{rabbitmq_missing()} (optional, also in CI)"
)

ENDED = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
POLLED_AT = "SELECT count(*) FROM jobs WHERE polls > 0"


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitServer]:
    with rabbitmq() as running:
        yield running


def test_a_fleet_works_over_quorum_queues(postgresql_url: str, broker: RabbitServer) -> None:
    """Two workers and two beats; one worker is killed with -9 while it works, and replaced."""
    # None ends before the worker is killed: an attempt that it leaves behind takes a minute.
    ids = scripted_ids(40, 6.0, 12.0)
    with fleet(postgresql_url, broker.url, rate=60.0) as deployed:
        deployed.start_all(workers=2, beats=2)
        deployed.send("reelwatch.track", *ids, webhook_url=f"{deployed.listener.url}/hook")
        eventually(lambda: deployed.rows(POLLED_AT)[0][0] > 10, 30, deployed.log)
        deployed.of(WORKER)[0].kill()
        replacement = deployed.start(WORKER)
        eventually(
            lambda: deployed.rows(ENDED)[0][0] == len(ids) and not deployed.open_work(),
            120,
            deployed.log,
        )
        assert violations(deployed, ids) == []
        assert {broker.queue_type(name) for name in ("reelwatch", "reelwatch.work")} == {"quorum"}
        replacement.wait_for("ready", START_SECONDS)  # it may not have been needed
        assert set(deployed.terminate_all()) == {0}


# ---------------------------------------------------------------- callbacks


@pytest.fixture
def publishing(
    broker: RabbitServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """An app like the worker's own publishes to that broker."""
    configured(sqlite_url, monkeypatch)
    set_variables(monkeypatch, BROKER_URL=broker.url)
    app = Celery("reelwatch", set_as_current=False)
    app.add_defaults(configuration)
    monkeypatch.setattr(callbacks, "app", app)
    yield
    app.close()


def next_message(broker: RabbitServer, queue: str) -> Any:
    with broker.connection() as connection:
        return connection.channel().basic_get(queue, no_ack=True)


DECLARED: dict[str, dict[str, Any]] = {
    "quorum": {"x-queue-type": "quorum"},
    "classic": {"x-queue-type": "classic"},
    "with priorities": {"x-queue-type": "classic", "x-max-priority": 10},
    "with a span of life": {"x-message-ttl": 600_000, "x-expires": 600_000},
}


@pytest.mark.usefixtures("publishing")
@pytest.mark.parametrize("kind", list(DECLARED))
def test_a_callback_reaches_a_queue_whatever_it_was_declared_with(
    broker: RabbitServer, kind: str
) -> None:
    queue = f"shop {kind}"
    with broker.connection() as connection:
        declare = connection.channel().queue_declare
        declare(queue, durable=True, auto_delete=False, arguments=DECLARED[kind])
    send_callback("shop.on_video", queue, {"a": 1}, "evt_1")
    message = next_message(broker, queue)
    assert message.headers["task"] == "shop.on_video"
    assert json.loads(message.body)[1] == {"event": {"a": 1}}
    assert message.properties["delivery_mode"] == 2


@pytest.mark.usefixtures("publishing")
def test_a_callback_without_a_queue_is_a_failed_attempt(broker: RabbitServer) -> None:
    """And harms none that follow: each is confirmed by itself."""
    for _ in range(2):
        with pytest.raises(NoQueue, match="no queue 'nowhere'"):
            send_callback("shop.on_video", "nowhere", {}, "evt_1")
    with broker.connection() as connection:
        connection.channel().queue_declare("somewhere", durable=True, auto_delete=False)
    send_callback("shop.on_video", "somewhere", {}, "evt_2")
    assert next_message(broker, "somewhere").headers["id"] == "evt_2"
    with broker.connection() as connection, pytest.raises(amqp.NotFound):
        connection.channel().queue_declare("nowhere", passive=True)


def test_a_compressed_message_is_dropped_before_it_is_unpacked(
    postgresql_url: str, broker: RabbitServer
) -> None:
    """Some hundred bytes would become a gigabyte."""
    bomb = bz2.compress(bytes(300_000_000))
    with fleet(postgresql_url, broker.url, rate=60.0) as deployed:
        worker = deployed.start(WORKER)
        worker.wait_for("ready", START_SECONDS)
        with Connection(broker.url) as connection:
            connection.Producer().publish(
                bomb,
                routing_key="reelwatch",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"compression": "application/x-bz2", "task": "reelwatch.track", "id": "a"},
                serializer=None,
            )
        assert "compressed" in worker.wait_for("message_refused", 60)
        deployed.send("reelwatch.track", "veo3:a")
        eventually(lambda: deployed.rows("SELECT count(*) FROM jobs")[0][0] == 1, 60, deployed.log)
        assert worker.terminate(60) == 0
