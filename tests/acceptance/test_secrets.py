"""Keys, secrets and passwords turn up nowhere: a real run with much going wrong, then a search."""

import base64
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import inspect, make_url, text

from reelwatch.config import settings
from reelwatch.jobs import polling
from reelwatch.sandbox.answers import plain_error
from reelwatch.sandbox.listener import Reaction, Received
from reelwatch.sandbox.upstream import Sandbox, scripted_id
from reelwatch.storage import db
from tests.commands import command_environment, run
from tests.fleet import BEAT, WORKER, Fleet, fleet
from tests.servers import eventually, free_port

KEY = "sk-live-" + secrets.token_hex(16)
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
OLDER = "whsec_" + base64.b64encode(secrets.token_bytes(33)).decode()
STUDIOS = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()  # of an account
OWN_TASK = "shop.on_video"
OWN_QUEUE = "shop"

OK, POLICY, FAILING, FLAKY, ABSENT, OF_STUDIO = (
    scripted_id("veo3.1-fast", script, 0.2, f"n{number}")
    for number, script in enumerate(("ok", "policy", "ok", "flaky", "silent", "ok"))
)

COMMANDS = (
    ("list",),
    ("deliveries",),
    ("accounts",),
    ("doctor",),
    ("show", OK),
    ("show", FAILING),
    ("show", ABSENT),
    ("cancel", OK),
    ("recheck", OK),
    ("track", "refused", "--webhook-url", "http://10.0.0.1/"),
    ("track", "refused", "--account", "nobody"),
    ("redeliver", "evt_unknown"),
    ("test-event", "http://127.0.0.1:1/", "--account", "studio"),
)


@dataclass
class Haystack:
    """All that was found anywhere, by place."""

    places: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, content: object) -> None:
        self.places[place] = self.places.get(place, "") + str(content) + "\n"

    def holding(self, needles: Mapping[str, str]) -> list[str]:
        """Which of them is found where."""
        return [
            f"{name} in {place}: …{content[max(0, content.find(needle) - 80) :][:200]}…"
            for place, content in self.places.items()
            for name, needle in needles.items()
            if needle in content
        ]


def needles(database_url: str, broker_url: str) -> dict[str, str]:
    """What must not be found, in each form that it could be written in."""
    found = {
        "the key": KEY,
        "the key in base64": base64.b64encode(KEY.encode()).decode().rstrip("="),
        "the database's password": make_url(database_url).password or "",
        "the broker's password": make_url(broker_url).password or "",
    }
    signing = {"the secret": SECRET, "the older secret": OLDER, "the studio's secret": STUDIOS}
    for name, secret in signing.items():
        bare = secret.removeprefix("whsec_")
        raw = base64.b64decode(bare)
        found |= {
            name: bare.rstrip("="),  # also part of it with `whsec_`
            f"{name} for URLs": base64.urlsafe_b64encode(raw).decode().rstrip("="),
            f"{name} in hex": raw.hex(),
            f"{name} as bytes": repr(raw)[2:-1],
        }
    assert all(len(needle) >= 8 for needle in found.values())
    return found


def answer(event: Received) -> Reaction:
    """One receiver fails."""
    return 500 if event.body["data"]["video_id"] == FAILING else 200


def deployment(database_url: str, broker_url: str, folder: Path) -> AbstractContextManager[Fleet]:
    """Signs with two secrets; its receiver knows the older one only, as in a change of secrets.

    An account signs with its own, which the receiver does not know at all.
    """
    accounts = folder / "accounts.toml"
    accounts.write_text('[accounts.studio]\nwebhook_secret_env = "STUDIO_SECRET"\n')
    more = {
        "REELWATCH_ACCOUNTS_FILE": str(accounts),
        "STUDIO_SECRET": STUDIOS,
        "QUICKROUTER_API_KEY": KEY,
        "REELWATCH_POLL_MIN": "200ms",
        "REELWATCH_POLL_MAX": "1s",
        "REELWATCH_RETRY_SCHEDULE": "500ms,500ms",
        "LOG_LEVEL": "debug",
    }
    return fleet(database_url, broker_url, 100.0, answer, (SECRET, OLDER), **more)


def work(deployed: Fleet) -> None:
    """Six jobs, and all kinds of error, until nothing is open any more."""
    hook = f"{deployed.listener.url}/hook"
    worker = deployed.start(WORKER, "--task-events")
    worker.wait_for("ready", 60)
    deployed.start(BEAT)
    deployed.sandbox.set_fault("401")  # the account rests then: for half a minute
    deployed.send("reelwatch.track", OK, webhook_url=hook)
    paused = "SELECT 1 FROM accounts WHERE pause_reason IS NOT NULL"
    eventually(lambda: deployed.rows(paused), 30, deployed.log)
    deployed.sandbox.set_fault("none")
    with db.transaction(deployed.database_url) as session:
        session.execute(text("UPDATE accounts SET paused_until = now() WHERE name = 'default'"))
    deployed.send("reelwatch.track", POLICY, FLAKY, webhook_url=hook, callback_task=OWN_TASK)
    deployed.send("reelwatch.track", FAILING, webhook_url=hook)
    deployed.send("reelwatch.track", OF_STUDIO, account="studio", webhook_url=hook)
    nobody = f"http://127.0.0.1:{free_port()}/"
    deployed.send("reelwatch.track", ABSENT, webhook_url=nobody, callback_task=OWN_TASK,
                  callback_queue=OWN_QUEUE)  # fmt: skip
    deployed.send("reelwatch.track", "refused", webhook_url="https://10.0.0.1/")
    deployed.send("reelwatch.track", "refused", nonsense=True)
    deployed.send("reelwatch.nonsense", "refused")
    worker.wait_for("unknown task")
    counted = "SELECT count(*) FROM jobs"
    eventually(
        lambda: deployed.rows(counted)[0][0] == 6 and not deployed.open_work(), 40, deployed.log
    )


TOLD = "what is told to Redis"
BODY = re.compile(r"body\W+([A-Za-z0-9+/]{8,}={0,2})")  # Celery's messages carry theirs in base64


def unpacked(message: str) -> str:
    """The message, and what its body says."""
    bodies = [base64.b64decode(body).decode(errors="replace") for body in BODY.findall(message)]
    return "\n".join([message, *bodies])


@contextmanager
def overheard(broker_url: str, haystack: Haystack) -> Iterator[None]:
    """Everything that anybody tells Redis meanwhile: messages, arguments, events."""
    patient = Redis.from_url(broker_url, socket_timeout=None)
    with patient as client, client.monitor() as monitor:

        def listen() -> None:
            while "the-end" not in haystack.places.get(TOLD, ""):
                haystack.add(TOLD, unpacked(monitor.next_command()["command"]))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            client.publish("the-end", "the-end")
            thread.join(30)
            assert not thread.is_alive()


def collect(deployed: Fleet, haystack: Haystack) -> None:
    """Poll everywhere."""
    for part in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            haystack.add("ps", part.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    for command in COMMANDS:
        for form in ((), ("--json",)):
            result = run(*command, *form)
            haystack.add(f"reelwatch {' '.join([*command, *form])}", result.output)
    for name, (variable, value) in {
        "a database that is away": ("DATABASE_URL", f"postgresql://app:{KEY}@127.0.0.1:1/x"),
        "a wrong secret": ("WEBHOOK_SECRET", SECRET.removeprefix("whsec_")),
        "a studio's wrong secret": ("STUDIO_SECRET", STUDIOS.removeprefix("whsec_")),
        "a wrong key": ("QUICKROUTER_API_KEY", f"{KEY} {KEY}"),
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, value)
            result = run("list")
        assert result.exit_code in {1, 2}
        haystack.add(name, result.output)
    haystack.add("the processes' output", deployed.log())
    look_into_database(deployed, haystack)
    look_into_redis(deployed.broker_url, haystack)


def look_into_database(deployed: Fleet, haystack: Haystack) -> None:
    tables = inspect(db.engine(deployed.database_url)).get_table_names()
    assert {"jobs", "transitions", "poll_errors", "deliveries", "attempts"} <= set(tables)
    for table in tables:
        for row in deployed.rows(f"SELECT {table}::text FROM {table}"):
            haystack.add(f"the table {table}", row[0])


def look_into_redis(broker_url: str, haystack: Haystack) -> None:
    with Redis.from_url(broker_url, decode_responses=True) as client:
        for key in client.scan_iter():
            kinds = {
                "list": lambda name: client.lrange(name, 0, -1),
                "set": client.smembers,
                "hash": client.hgetall,
                "zset": lambda name: client.zrange(name, 0, -1),
                "string": client.get,
            }
            content = kinds[client.type(key)](key)
            haystack.add("what is left in Redis", unpacked(f"{key} {content}"))


def test_none_is_found_anywhere(
    postgresql_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    haystack = Haystack()
    with deployment(postgresql_url, redis_url, tmp_path) as deployed:
        with overheard(redis_url, haystack):
            work(deployed)
            with command_environment(postgresql_url, tmp_path, monkeypatch):
                for name, value in deployed.environment.items():
                    monkeypatch.setenv(name, value)
                collect(deployed, haystack)
        # Was there anything to find? Each place has what it must have.
        for place, content in {
            "the processes' output": "account_paused",
            TOLD: "task-received",
            "what is left in Redis": OWN_TASK,
            "the table attempts": "500",
            "the table poll_errors": "server_error",
            "the table accounts": "default",
            "reelwatch list --json": FLAKY,
            "reelwatch deliveries": "dead",
            "reelwatch doctor": "webhook secret",
            f"reelwatch show {FAILING} --json": '"attempts_log"',
            "a database that is away": "refused",
            "ps": "celery -A reelwatch worker",
        }.items():
            assert content in haystack.places[place], place
        theirs = [
            (event.body["data"]["account"], event.verified) for event in deployed.listener.events
        ]
        assert set(theirs) == {("default", True), ("studio", False)}
        wanted = needles(postgresql_url, redis_url)
    assert haystack.holding(wanted) == []
    plant_each(haystack, wanted)


def test_a_key_that_upstream_quotes_is_not_stored(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some relays tell the key that they refuse."""
    haystack = Haystack()
    with (
        command_environment(database_url, tmp_path, monkeypatch),
        Sandbox().start() as sandbox,
    ):
        monkeypatch.setenv("QUICKROUTER_API_KEY", KEY)
        monkeypatch.setenv("QUICKROUTER_BASE_URL", sandbox.url)
        sandbox._fault = plain_error(401, "invalid_token", f"wrong key: Bearer {KEY}")
        assert run("track", OK).exit_code == 0
        polling.poll(settings.current(), "default")
        for command in COMMANDS:
            haystack.add(" ".join(command), run(*command, "--json").output)
        with db.reading(database_url) as session:
            for column in ("pause_reason FROM accounts", "message FROM poll_errors"):
                haystack.add(column, session.execute(text(f"SELECT {column}")).scalar_one())
    assert "wrong key" in haystack.places["message FROM poll_errors"]
    assert haystack.holding({"the key": KEY}) == []


def plant_each(haystack: Haystack, wanted: Mapping[str, str]) -> None:
    """Each of them is found in each place, once it is there: the search works."""
    for place, before in haystack.places.items():
        for name, needle in wanted.items():
            haystack.places[place] = f"{before}x{needle}x"
            assert any(
                found.startswith(f"{name} in {place}:") for found in haystack.holding(wanted)
            )
        haystack.places[place] = before
