"""Events as entries of Redis streams: what arrives, what is tried again, what is refused."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select

from reelwatch.config.settings import Settings
from reelwatch.jobs import delivery, tracking, updating
from reelwatch.rules import breaker
from reelwatch.storage import db
from reelwatch.storage.models import Attempt, Delivery, Endpoint
from tests import seeding
from tests.commands import done
from tests.servers import RedisServer
from tests.test_ledger import add_job, poll
from tests.test_polling import DONE

KEY = "reelwatch.events.videos"
AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def owe(url: str, name: str = "videos", channel: str = "stream", **columns: Any) -> str:
    with db.transaction(url) as session:
        where: dict[str, Any] = {"channel": channel, "destination": channel}
        row = seeding.add_owed(session, f"{channel}:{name}", **where | columns)
    return str(row["id"])


def deliver(url: str, **places: Any) -> int:
    def refuse(*_: Any) -> None:
        raise AssertionError("nobody asked for a callback")

    return delivery.deliver(Settings(database=url, **places), refuse)


def stored(url: str) -> Delivery:
    with db.reading(url) as session:
        return session.scalars(select(Delivery)).one()


def error_of(url: str, event_id: str) -> str:
    """Of the one attempt, which must have failed and leave the event owed."""
    with db.reading(url) as session:
        attempt = session.scalars(select(Attempt)).one()
    row = stored(url)
    assert (row.state, row.attempts, row.failures) == ("pending", 1, 1)
    assert attempt.delivery_id == event_id
    assert attempt.http_status is None
    assert row.next_attempt_at
    assert row.next_attempt_at > datetime.now(UTC)
    return str(attempt.error)


def test_an_event_is_an_entry_with_its_id_and_the_body_of_the_webhooks(
    database_url: str, redis_url: str, redis: Any
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
    add_job(database_url, webhook_url=None, channels={"stream": "videos"})
    assert poll(database_url, DONE) == 1
    with db.transaction(database_url) as session:
        row = session.scalars(select(Delivery)).one()
        row.next_attempt_at = db.now(session)
    assert (row.channel, row.target, row.destination) == ("stream", "stream:videos", "stream")
    assert deliver(database_url, broker_url=redis_url) == 1
    ((_, entry),) = redis.xrange(KEY)
    assert entry == {"id": row.id, "type": "video.completed", "body": row.body}
    assert json.loads(entry["body"])["data"]["sequence"] == 1
    told = stored(database_url)
    assert (told.state, told.attempts) == ("delivered", 1)


def test_events_of_a_job_stand_in_the_stream_in_the_order_of_its_sequence(
    sqlite_url: str, redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "THREADS", 1)
    at = datetime(2026, 2, 6, tzinfo=UTC)
    ids = [owe(sqlite_url, sequence=number, created_at=at) for number in (3, 1, 2)]
    deliver(sqlite_url, broker_url=redis_url)
    assert [entry["id"] for _, entry in redis.xrange(KEY)] == [ids[1], ids[2], ids[0]]


def test_redis_may_stand_beside_another_broker(sqlite_url: str, redis_url: str, redis: Any) -> None:
    owe(sqlite_url)
    deliver(sqlite_url, broker_url="amqp://127.0.0.1:1//", redis_url=redis_url)
    assert redis.xlen(KEY) == 1


def test_a_redis_that_is_away_is_tried_again_and_says_nothing_of_the_stream(
    database_url: str, redis_url: str, redis: Any
) -> None:
    event_id = owe(database_url)
    deliver(database_url, broker_url=AWAY)
    assert error_of(database_url, event_id).startswith("redis: ConnectionError: ")
    with db.transaction(database_url) as session:
        assert session.scalars(select(Endpoint)).all() == []
        session.get_one(Delivery, event_id).next_attempt_at = db.now(session)
    deliver(database_url, broker_url=redis_url)
    assert stored(database_url).state == "delivered"
    ((_, entry),) = redis.xrange(KEY)
    assert entry["id"] == event_id


def test_a_redis_without_room_is_tried_again(
    sqlite_url: str, redis_url: str, redis_server: RedisServer
) -> None:
    event_id = owe(sqlite_url)
    redis_server.fill()
    try:
        deliver(sqlite_url, broker_url=redis_url)
    finally:
        redis_server.free()
    assert "OutOfMemoryError" in error_of(sqlite_url, event_id)
    with db.reading(sqlite_url) as session:
        assert session.scalars(select(Endpoint)).all() == []


def test_a_key_that_is_no_stream_fails_and_opens_the_streams_own_breaker(
    sqlite_url: str, redis_url: str, redis: Any
) -> None:
    redis.set(KEY, "something else")
    for _ in range(breaker.FAILURES):
        owe(sqlite_url)
    other = owe(sqlite_url, "others")
    deliver(sqlite_url, broker_url=redis_url)
    with db.reading(sqlite_url) as session:
        endpoint = session.scalars(select(Endpoint)).one()
        assert (endpoint.name, endpoint.failures) == ("stream:videos", breaker.FAILURES)
        assert endpoint.open_until
        errors = set(session.scalars(select(Attempt.error).where(Attempt.delivery_id != other)))
    assert len(errors) == 1
    assert "WRONGTYPE" in str(errors.pop())
    assert redis.get(KEY) == "something else"
    assert redis.xlen("reelwatch.events.others") == 1


def test_without_a_redis_each_attempt_says_so(sqlite_url: str) -> None:
    event_id = owe(sqlite_url)
    deliver(sqlite_url, broker_url="amqp://127.0.0.1:1//")
    assert error_of(sqlite_url, event_id) == "neither REDIS_URL nor BROKER_URL names a Redis"


def test_a_channel_of_a_newer_release_waits_for_its_workers(sqlite_url: str) -> None:
    event_id = owe(sqlite_url, channel="pigeon")
    deliver(sqlite_url)
    assert error_of(sqlite_url, event_id) == "this worker does not know the channel pigeon"


# --------------------------------------------------------------- handing in


def test_a_job_keeps_its_channels_and_a_second_call_names_what_it_says_otherwise(url: str) -> None:
    job = tracking.track("grok:a", channels={"stream": "videos"})
    assert job.channels == {"stream": "videos"}
    assert tracking.track("grok:a", channels={"stream": "videos"}).differs == []
    assert tracking.track("grok:a", channels={"stream": "others"}).differs == ["channels"]
    assert tracking.track("grok:a", channels={}).differs == ["channels"]
    assert tracking.track("grok:b").channels is None
    assert tracking.track("grok:b", channels={}).differs == []


def test_update_changes_the_channels_of_an_open_job_and_takes_them_away(url: str) -> None:
    tracking.track("grok:a")
    assert updating.update("grok:a", channels={"stream": "videos"}).channels == {"stream": "videos"}
    assert updating.update("grok:a", metadata={"order": 7}).channels == {"stream": "videos"}
    assert updating.update("grok:a", channels={}).channels is None


def test_the_command_line_and_a_file_name_channels(
    commands: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (job,) = json.loads(done("track", "grok:a", "--channel", "stream=videos", "--json"))
    assert job["channels"] == {"stream": "videos"}
    assert "by stream videos" in done("show", "grok:a")
    (job,) = json.loads(done("update", "grok:a", "--channel", "stream=others", "--json"))
    assert job["channels"] == {"stream": "others"}
    file = tmp_path / "ids.json"
    file.write_text(json.dumps([{"id": "grok:b", "channels": {"stream": "told"}}]))
    (job,) = json.loads(done("track", "--file", str(file), "--json"))
    assert job["channels"] == {"stream": "told"}
