"""Two installations on one Redis database by mistake: each is told of the other."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import update

from reelwatch.app import installations
from reelwatch.app.tasks import Standby
from reelwatch.storage import db
from reelwatch.storage.models import Installation
from tests.commands import run
from tests.environment import configured
from tests.fleet import Fleet, fleet
from tests.logs import Lines
from tests.servers import RedisServer, eventually


def names(url: str, mine: str, worker: str = "") -> list[str]:
    return installations.others(url, mine, worker)


def test_each_database_has_an_identity_of_its_own(database_url: str) -> None:
    with db.reading(database_url) as session:
        found = installations.identity(session)
    assert found is not None
    assert str(UUID(found)) == found


def test_workers_see_those_of_others_and_not_their_own(redis_url: str) -> None:
    assert names(redis_url, "one", "reelwatch@a") == []
    assert names(redis_url, "one", "reelwatch-2@a") == []
    assert names(redis_url, "two", "reelwatch@b") == ["reelwatch-2@a"]
    assert names(redis_url, "one") == ["reelwatch@b"]
    assert names(redis_url, "three") == ["reelwatch-2@a", "reelwatch@b"]


def test_who_only_asks_leaves_nothing(redis_url: str, redis_server: RedisServer) -> None:
    assert names(redis_url, "one") == []
    with redis_server.client() as client:
        assert client.keys() == []


def test_what_ended_does_not_count_and_goes(redis_url: str, redis_server: RedisServer) -> None:
    names(redis_url, "one", "reelwatch@a")
    with redis_server.client() as client:
        old = int(client.time()[0]) - installations.LATELY - 1
        client.hset(installations.KEY, "two", f"{old} reelwatch@b")
        client.hset(installations.KEY, "broken", "?")
        assert names(redis_url, "three") == ["reelwatch@a"]
        assert client.hlen(installations.KEY) == 3
        names(redis_url, "one", "reelwatch@a")
        assert client.hkeys(installations.KEY) == [b"one"]
        assert 0 < client.ttl(installations.KEY) <= 86_400


def test_nothing_is_known_of_rabbitmq() -> None:
    assert names("amqp://nobody:5672//", "one", "reelwatch@a") == []


@pytest.fixture
def deployed(sqlite_url: str, redis_url: str) -> Iterator[Fleet]:
    with fleet(sqlite_url, redis_url, rate=100.0) as running:
        yield running


def test_a_worker_leaves_its_identity_and_tells_of_others(deployed: Fleet, redis_url: str) -> None:
    names(redis_url, "elsewhere", "reelwatch@elsewhere")
    worker = deployed.start()
    worker.wait_for("broker_is_shared", 60)
    assert "reelwatch@elsewhere" in deployed.log()
    assert [each.partition("@")[0] for each in names(redis_url, "elsewhere")] == ["p0"]
    deployed.send("reelwatch.track", "veo3:a")  # it takes ids all the same
    tracked = "SELECT count(*) FROM jobs"
    eventually(lambda: deployed.rows(tracked)[0][0] == 1, 30, deployed.log)


def test_a_worker_goes_on_where_it_can_not_sign(
    lite: str, monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    configured(lite, monkeypatch)
    standby = Standby()
    standby._sign()
    assert standby._signs_at > 0
    assert logged.lines == []


@pytest.mark.parametrize("shared", [True, False])
def test_doctor_says_that_the_broker_is_shared(
    database_url: str, redis_url: str, commands: pytest.MonkeyPatch, shared: bool
) -> None:
    commands.setenv("BROKER_URL", redis_url)
    with db.transaction(database_url) as session:
        session.execute(update(Installation).values(id="mine", made_at=datetime.now(UTC)))
    names(redis_url, "other" if shared else "mine", "reelwatch@elsewhere")
    result = run("doctor", "--json")
    checks = {each["name"]: each for each in json.loads(result.stdout)["checks"]}
    found = checks.get("broker is shared")
    assert (found is not None) == shared
    if found:
        assert found["status"] == "wrong"
        assert "reelwatch@elsewhere" in found["message"]
        assert "BROKER_URL" in found["message"]
