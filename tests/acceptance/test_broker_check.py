"""`doctor` at the broker: it does what workers do, and names what is missing."""

import re
from collections.abc import Sequence

import pytest

from reelwatch.app import broker_check
from reelwatch.app.broker_check import Finding
from reelwatch.errors import NotConfigured
from reelwatch.jobs import intake
from reelwatch.jobs.intake import Message, Refusal
from tests.acceptance.test_broker import IMPATIENT, START_SECONDS, TRACKED
from tests.commands import run
from tests.fleet import fleet
from tests.servers import (
    AUTHORITY,
    ROOT,
    RedisServer,
    eventually,
    process,
    rabbitmq,
    rabbitmq_missing,
    redis,
)

DOCUMENT = ROOT / "docs" / "broker.md"


def documented_rules() -> Sequence[str]:
    found = re.search(
        r"^ACL SETUSER reelwatch reset on >PASSWORD (.*)$", DOCUMENT.read_text(), re.M
    )
    assert found
    return found[1].split()


def wrong(url: str) -> dict[str, str]:
    return {found.what: found.message for found in broker_check.examine(url) if found.wrong}


def test_a_healthy_redis_has_nothing_wrong_and_keeps_nothing(
    redis_server: RedisServer, redis_url: str
) -> None:
    assert broker_check.examine(redis_url) == []
    with redis_server.client() as client:
        assert client.keys("*") == []


def test_what_lies_in_the_queues_stays_there(redis_server: RedisServer, redis_url: str) -> None:
    with redis_server.client() as client:
        client.rpush("reelwatch", "a", "b")
        client.rpush("reelwatch.work", "c")
        assert broker_check.examine(redis_url) == []
        assert client.lrange("reelwatch", 0, -1) == [b"a", b"b"]
        assert client.lrange("reelwatch.work", 0, -1) == [b"c"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("full", "it is full (maxmemory)"),
        ("read_only", "a read-only replica"),
        ("without_replicas", "NOREPLICAS"),
    ],
)
def test_a_redis_that_refuses_is_named(
    redis_server: RedisServer, redis_url: str, state: str, message: str
) -> None:
    with getattr(redis_server, state)():
        assert message in wrong(redis_url)["write"]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("reelwatch", "list"),
        ("reelwatch.work", "list"),
        ("reelwatch\x06\x163", "list"),
        ("reelwatch.unacked", "hash"),
        ("reelwatch.unacked_index", "zset"),
        ("_kombu.binding.reelwatch.pidbox", "set"),
    ],
)
def test_a_key_that_somebody_else_uses_is_named_with_its_type_and_database(
    redis_server: RedisServer, redis_url: str, key: str, kind: str
) -> None:
    url = redis_url.rpartition("/")[0] + "/2"
    with redis_server.client() as client:
        client.select(2)
        client.set(key, "hello")
        try:
            found = wrong(url)
            assert list(found) == [f"key {key}"]
            assert (
                f"database 2 has a string of this name, where workers need a {kind}"
                in (found[f"key {key}"])
            )
            assert client.keys("*") == [key.encode()]
        finally:
            client.flushdb()


def test_the_keys_of_workers_at_work_have_the_types_that_are_checked(
    redis_server: RedisServer, redis_url: str, postgresql_url: str
) -> None:
    """And a worker that met a key of another type goes on by itself once it is gone."""
    with redis_server.client() as client:
        client.set("reelwatch", "hello")
        with fleet(postgresql_url, redis_url, rate=10.0) as deployed:
            worker = deployed.start(IMPATIENT)
            worker.wait_for("`reelwatch doctor` names it", START_SECONDS)
            client.delete("reelwatch")
            worker.wait_for("ready", START_SECONDS)
            eventually(lambda: client.exists("reelwatch.app.installations"), 60, deployed.log)
            types = {key.decode(): client.type(key).decode() for key in client.keys("*")}
            assert worker.terminate(60) == 0
            assert "Error on restarting" not in deployed.log()
    checked = {key: kind for kind, keys in broker_check.TYPES.items() for key in keys}
    assert {key: checked.get(key) for key in types} == types


@pytest.mark.parametrize(("policy", "is_wrong"), [("allkeys-lru", True), ("volatile-ttl", False)])
def test_a_redis_that_evicts_is_named(
    redis_server: RedisServer, redis_url: str, policy: str, is_wrong: bool
) -> None:
    redis_server.configure(maxmemory_policy=policy)
    (found,) = broker_check.examine(redis_url)
    assert (found.what, found.wrong) == ("eviction", is_wrong)
    assert policy in found.message


@pytest.mark.parametrize(
    ("taken", "what"),
    [
        ("-eval", "write"),
        ("-multi", "bindings"),
        ("-psubscribe", "subscribe"),
        ("-publish", "publish"),
        ("-brpop", "wait"),
        ("resetchannels", "subscribe"),
    ],
)
def test_a_user_with_too_few_rights_is_named(
    redis_server: RedisServer, redis_url: str, taken: str, what: str
) -> None:
    assert redis_url
    url = redis_server.add_user("reelwatch", *documented_rules(), taken)
    assert "lacks a right" in wrong(url)[what]


@pytest.mark.parametrize(("kept", "what"), [("~reelwatch.*", "queues"), ("~other", "write")])
def test_a_user_with_too_few_keys_is_named(
    redis_server: RedisServer, redis_url: str, kept: str, what: str
) -> None:
    assert redis_url
    url = redis_server.add_user("reelwatch", *documented_rules(), "resetkeys", kept)
    assert "docs/broker.md" in wrong(url)[what]


def test_a_user_that_may_not_ask_is_only_warned_of(
    redis_server: RedisServer, redis_url: str
) -> None:
    assert redis_url
    url = redis_server.add_user("reelwatch", *documented_rules(), "-info")
    assert [(found.what, found.wrong) for found in broker_check.examine(url)] == [
        ("settings", False)
    ]


def test_the_documented_user_is_all_that_workers_need(
    redis_server: RedisServer, redis_url: str, postgresql_url: str
) -> None:
    assert redis_url
    url = redis_server.add_user("reelwatch", *documented_rules())
    assert broker_check.examine(url) == []
    with fleet(postgresql_url, url, rate=10.0) as deployed:
        worker = deployed.start(IMPATIENT)
        worker.wait_for("ready", START_SECONDS)
        ping = ["celery", "-A", "reelwatch", "inspect", "ping", "--timeout", "5"]
        with process(ping, deployed.environment) as command:
            assert command.wait(START_SECONDS) == 0
        deployed.broker_url = redis_url
        deployed.send("reelwatch.track", "veo3:a")
        eventually(lambda: deployed.rows(TRACKED)[0][0] == 1, 60, deployed.log)
        assert worker.terminate(60) == 0
        assert "permission" not in deployed.log().casefold()


def test_a_cluster_and_an_old_server_are_named() -> None:
    class Told:
        def info(self) -> dict[str, object]:
            return {"redis_version": "5.0.14", "cluster_enabled": 1}

    told: list[Finding] = list(broker_check._server(Told()))  # type: ignore[arg-type]
    assert [found.what for found in told] == ["version", "cluster"]
    assert "5.0.14 is too old" in told[0].message


def test_tls_without_a_check_is_a_warning() -> None:
    with redis(tls=True) as server:
        assert broker_check.examine(f"{server.url}?ssl_ca_certs={AUTHORITY}") == []
        (found,) = broker_check.examine(f"{server.url}?ssl_cert_reqs=none")
        assert (found.what, found.wrong) == ("tls", False)
        with pytest.raises(broker_check.Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            broker_check.examine(server.url)


def test_a_wrong_password_and_no_server_are_unreachable(redis_server: RedisServer) -> None:
    for url in (f"redis://:wrong@127.0.0.1:{redis_server.port}/0", "redis://127.0.0.1:1/0"):
        with pytest.raises(broker_check.Unreachable):
            broker_check.examine(url)


@pytest.mark.skipif(bool(rabbitmq_missing()), reason=f"{rabbitmq_missing()} (optional, also in CI)")
def test_a_rabbitmq_whose_queue_differs_is_named() -> None:
    with rabbitmq() as broker:
        assert broker_check.examine(broker.url) == []
        with broker.connection() as connection:
            channel = connection.channel()
            channel.queue_delete("reelwatch")
            arguments = {"x-queue-type": "classic", "x-max-priority": 5}
            channel.queue_declare("reelwatch", durable=True, auto_delete=False, arguments=arguments)
        found = wrong(broker.url)
        assert list(found) == ["queue reelwatch"]
        assert "PRECONDITION_FAILED" in found["queue reelwatch"]


# ------------------------------------------------------------------ the command


@pytest.fixture
def doctored(commands: pytest.MonkeyPatch, redis_url: str) -> None:
    commands.setenv("BROKER_URL", redis_url)


@pytest.mark.usefixtures("doctored")
def test_doctor_says_it_in_a_line_each(redis_server: RedisServer, database_url: str) -> None:
    redis_server.configure(maxmemory_policy="allkeys-lru")
    message = Message("m", "track", "veo3:a", {"account": "studio"}, "reelwatch@one")

    def unknown(video_id: str, account: str = "default") -> None:
        raise NotConfigured(f"account: {account!r} is not configured")

    intake.take_in(database_url, message, unknown)
    intake.count_refusals(database_url, [Refusal("track", "it is compressed", "reelwatch@one")])
    result = run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (evicting,) = [line for line in lines if line.startswith("✗ broker eviction: ")]
    assert "allkeys-lru" in evicting
    (waits,) = [line for line in lines if line.startswith("✗ waiting ids: 1 since ")]
    assert "veo3:a for the account studio (reelwatch@one)" in waits
    assert "'studio' is not configured" in waits
    (refused,) = [line for line in lines if line.startswith("! refused messages: 1")]
    assert "it is compressed" in refused
