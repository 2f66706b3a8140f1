"""The commands that run things: up, doctor, sandbox, listen, watch, accounts and housekeeping."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console
from sqlalchemy import insert, update

from reelwatch.app import embedded
from reelwatch.cli.render import change_line
from reelwatch.config import secrecy, settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import history
from reelwatch.rules import breaker, webhook_secrets
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.upstream import SCRIPTS, Sandbox
from reelwatch.storage import db
from reelwatch.storage.models import Endpoint, Heartbeat, Job
from tests import seeding
from tests.commands import command_environment, done, on_screen, run
from tests.environment import SECRET
from tests.kinds import know, steady
from tests.processes import Process, eventually, free_port, process

KEY = "sk-sandbox-key"


@pytest.fixture
def quick(sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Settings for real processes that work against the sandbox, quickly."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'up.db'}",
        "QUICKROUTER_BASE_URL": sandbox.url,
        "QUICKROUTER_API_KEY": KEY,
        "WEBHOOK_ALLOW": "127.0.0.1",
        "REELWATCH_POLL_MIN": "500ms",
        "REELWATCH_POLL_MAX": "1s",
        "REELWATCH_REQUESTS_PER_SECOND": "20",
    }


def reelwatch(*args: str, env: dict[str, str], cwd: Path) -> Process:
    return process(["reelwatch", *args], env, cwd)


# ---------------------------------------------------------------------- up


def test_up_makes_everything_it_needs_and_two_of_them_do_no_harm(
    quick: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """From an empty folder to a verified webhook, with every step a command of its own."""
    port = str(free_port())
    sandbox.set_fault("500")  # until somebody watches, nothing moves
    with (
        reelwatch("up", env=quick, cwd=tmp_path) as first,
        reelwatch("up", env=quick, cwd=tmp_path) as second,
    ):
        for each in (first, second):
            each.wait_for("ready", 60)
        with reelwatch("listen", "--port", port, env=quick, cwd=tmp_path) as receiver:
            url = f"http://127.0.0.1:{port}/"
            ids = ["grok:ok.1s-a", "veo3.1-fast:policy.1s-b"]
            tracked = reelwatch("track", *ids, "--webhook-url", url, env=quick, cwd=tmp_path)
            assert tracked.wait(30) == 0, tracked.output
            receiver.wait_for("listening")
            with reelwatch("watch", *ids, env=quick, cwd=tmp_path) as watcher:
                watcher.wait_for("watching")
                sandbox.set_fault("none")
                assert watcher.wait(60) == 0, watcher.output
                changes = watcher.output
            for kind, video_id in zip(("completed", "failed"), ids, strict=True):
                line = receiver.wait_for(f"video.{kind}", 30)
                assert re.match(rf"\d\d:\d\d:\d\d  verified  video.{kind}  {video_id} ", line)
            receiver.stop_signal(signal.SIGINT)
            assert receiver.wait() == 0
            assert "2 received, 2 verified, 2 distinct, 0 duplicates" in receiver.output
        first.stop_signal(signal.SIGINT)
        second.stop_signal()
        assert first.wait() == second.wait() == 0
        said = [first.output, second.output]
    assert re.search(r"grok:ok.1s-a  .*→ completed  https://", changes)
    assert re.search(r"veo3.1-fast:policy.1s-b  .*→ failed  content_policy: ", changes)
    secret = tmp_path / "up.db.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for text in said:
        assert f"signed with the secret in {secret}" in text
        assert "key set" in text
        assert KEY not in text
        assert secret.read_text().strip() not in text
    left = {path.name for path in tmp_path.iterdir()} - {"up.db-shm", "up.db-wal"}
    assert left == {"up.db", "up.db.secret"}, "no schedule file, no half-written secret"


def test_up_says_in_one_line_why_it_can_not_start(tmp_path: Path) -> None:
    wrong = {"REELWATCH_POLL_MIN": "fast"}
    nowhere = {"DATABASE_URL": "sqlite:///no/such/folder/x.db"}
    with (
        reelwatch("up", env=wrong, cwd=tmp_path) as misled,
        reelwatch("up", env=nowhere, cwd=tmp_path) as lost,
    ):
        assert misled.wait(30) == lost.wait(30) == 2
        assert misled.output.startswith("reelwatch: REELWATCH_POLL_MIN='fast': accepted:")
        assert "no file can be made in" in lost.output
        assert "Traceback" not in lost.output


def test_up_prepares_a_secret_before_it_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default destination needs a secret, and the first start is what makes it."""
    with command_environment(f"sqlite:///{tmp_path / 'x.db'}", tmp_path, monkeypatch) as patch:
        patch.delenv("WEBHOOK_SECRET")
        patch.setenv("WEBHOOK_URL", "https://hooks.example.com/")
        with pytest.raises(SettingsError, match="WEBHOOK_SECRET is not"):
            settings.check_sending(settings.load())
        prepared = embedded.prepare(os.environ)
        assert prepared.in_memory
        assert len(prepared.secrets) == 1
        assert embedded.prepare(os.environ).secrets == prepared.secrets


def test_up_leaves_what_is_configured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment("sqlite:///x.db", tmp_path, monkeypatch) as patch:
        patch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        prepared = embedded.prepare(os.environ)
    assert prepared.broker == "redis://127.0.0.1:1/0"
    assert prepared.secrets == (SECRET,)
    assert list(tmp_path.iterdir()) == []


def test_up_explains_a_database_url_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment("nonsense", tmp_path, monkeypatch) as patch:
        patch.delenv("WEBHOOK_SECRET")
        with pytest.raises(SettingsError, match="DATABASE_URL"):
            embedded.prepare(os.environ)


def test_a_kept_secret_is_never_replaced(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    made = []
    for _ in range(2):
        embedded.keep_secret(database)
        made.append(secrecy.secret_file(database).read_text())
    assert made[0] == made[1]
    assert len(list(tmp_path.iterdir())) == 1


# ------------------------------------------------------------------ doctor


def ticked(url: str, seconds_ago: float) -> None:
    with db.transaction(url) as session:
        at = db.now(session) - timedelta(seconds=seconds_ago)
        session.execute(insert(Heartbeat).values(name="tick", at=at))


def examined(code: int) -> dict[str, dict[str, str]]:
    """The doctor's checks by name."""
    result = run("doctor", "--json")
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert found["ok"] is (code == 0)
    assert found["ok"] is all(check["status"] != "wrong" for check in found["checks"])
    return {check["name"]: check for check in found["checks"]}


def status(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["status"] for name, check in checks.items()}


@pytest.fixture
def healthy(
    commands: pytest.MonkeyPatch, sandbox: Sandbox, database_url: str
) -> pytest.MonkeyPatch:
    commands.setenv("QUICKROUTER_BASE_URL", sandbox.url)
    commands.setenv("QUICKROUTER_API_KEY", KEY)
    ticked(database_url, 1)
    return commands


def test_a_healthy_installation_is_all_green(healthy: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "✓ settings", "✓ database", "✓ broker", "✓ tick", "✓ account default",
        "✓ webhook secret", "✓ jobs", "✓ dead events", "✓ endpoints", "✓ looks",
        "✓ waiting ids", "✓ refused messages",
    ]  # fmt: skip
    assert result.stderr == ""
    assert sandbox.stats()["requests"] == 1
    assert KEY not in result.output
    assert SECRET not in result.output


def test_a_wrong_setting_is_all_that_the_doctor_can_see(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("REELWATCH_POLL_MAX", "never")
    checks = examined(1)
    assert list(checks) == ["settings"]
    assert "REELWATCH_POLL_MAX='never'" in checks["settings"]["message"]
    assert run("doctor").stderr == "reelwatch: wrong: settings\n"


def test_a_missing_database_does_not_hide_the_rest(
    healthy: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    healthy.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    checks = examined(1)
    assert status(checks) == {
        "settings": "ok", "database": "wrong", "broker": "ok", "account default": "ok",
        "webhook secret": "ok",
    }  # fmt: skip
    assert "there is no database at" in checks["database"]["message"]


def test_an_unreachable_database_is_named_without_its_password(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("DATABASE_URL", f"postgresql://app:hunter22@127.0.0.1:{free_port()}/x")
    message = examined(1)["database"]["message"]
    assert "refused" in message
    assert "hunter22" not in message


def test_a_database_behind_the_program_is_wrong(
    empty_database_url: str, healthy: pytest.MonkeyPatch
) -> None:
    healthy.setenv("DATABASE_URL", empty_database_url)
    with db.engine(empty_database_url).connect() as connection:
        connection.commit()
    message = examined(1)["database"]["message"]
    assert re.fullmatch(r"at no revision, needed is \w+: run `reelwatch migrate`", message)
    with db.engine(empty_database_url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE reelwatch_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO reelwatch_version VALUES ('0000')")
    assert "at revision 0000, needed is" in examined(1)["database"]["message"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # has no part in it
def test_a_broker_that_answers_is_fine_and_one_that_does_not_is_named(
    healthy: pytest.MonkeyPatch, redis_url: str
) -> None:
    healthy.setenv("BROKER_URL", redis_url)
    assert examined(0)["broker"]["status"] == "ok"
    for scheme in ("redis", "amqp"):
        healthy.setenv("BROKER_URL", f"{scheme}://app:hunter22@127.0.0.1:{free_port()}//")
        started = time.monotonic()
        broker = examined(1)["broker"]
        assert time.monotonic() - started < 10
        assert broker["status"] == "wrong"
        assert "127.0.0.1" in broker["message"]
        assert "can't be reached" in broker["message"]
        assert "hunter22" not in broker["message"]


@pytest.mark.parametrize(
    ("broker", "seconds_ago", "expected", "words"),
    [
        (None, None, "warning", "never: nothing looks at jobs until `reelwatch up` runs"),
        ("redis", None, "wrong", "until `celery -A reelwatch beat` and a worker runs"),
        (None, 16, "wrong", "the last one was 16s ago, it should come every second"),
        ("redis", 7_200, "wrong", "the last one was 120m00s ago|the last one was 2h00m ago"),
        (None, 13, "ok", r"1\d\.\d s ago"),
    ],
)
def test_the_age_of_the_last_tick_tells_whether_anything_runs(
    broker: str | None,
    seconds_ago: float | None,
    expected: str,
    words: str,
    commands: pytest.MonkeyPatch,
    sandbox: Sandbox,
    database_url: str,
    request: pytest.FixtureRequest,
) -> None:
    commands.setenv("QUICKROUTER_BASE_URL", sandbox.url)
    commands.setenv("QUICKROUTER_API_KEY", KEY)
    if broker:
        commands.setenv("BROKER_URL", request.getfixturevalue("redis_url"))
    if seconds_ago is not None:
        ticked(database_url, seconds_ago)
    tick = examined(1 if expected == "wrong" else 0)["tick"]
    assert tick["status"] == expected
    assert re.search(words, tick["message"])


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        ("401", "wrong", "refuses the key: check QUICKROUTER_API_KEY"),
        ("403", "wrong", "accepts the key, and its quota is used up"),
        ("429", "warning", "asks to slow down"),
        ("500", "wrong", "gives no usable answer: server_error"),
        ("html", "wrong", "does not look like the relay: it answers 200 with a page"),
        ("html", "wrong", ": a page with status 200, titled '"),
    ],
)
def test_what_upstream_says_of_the_key_is_told(
    fault: str, expected: str, words: str, healthy: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    sandbox.set_fault(fault)
    account = examined(1 if expected == "wrong" else 0)["account default"]
    assert account["status"] == expected
    assert words in account["message"]
    assert "<" not in account["message"]
    assert sandbox.stats()["requests"] == 1


def test_an_account_without_a_key_is_wrong_where_it_is_needed(
    healthy: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path, database_url: str
) -> None:
    healthy.delenv("QUICKROUTER_API_KEY")
    assert examined(1)["account default"]["message"] == (
        "no API key here: set QUICKROUTER_API_KEY; its jobs are left to others"
    )
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[accounts.acme]\napi_key_env = "ACME_KEY"\n')
    healthy.setenv("REELWATCH_ACCOUNTS_FILE", str(accounts))
    healthy.setenv("ACME_KEY", KEY)
    assert status(examined(0)) == status(examined(0)) | {
        "account default": "warning",
        "account acme": "ok",
    }
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(session)
    assert examined(1)["account default"]["status"] == "wrong"


def test_resting_and_forgotten_accounts_are_wrong(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        until = db.now(session) + timedelta(seconds=90)
        seeding.add_account(session, paused_until=until, pause_reason="quota: used up")
        seeding.add_account(session, "left")
        seeding.add_account(session, "idle")
        seeding.add_job(session, account="left")
    checks = examined(1)
    rests = checks["account default rests"]["message"]
    again = r"until [\d:]+, a poll tries again in \w+"
    assert re.fullmatch(rf"its jobs wait: quota: used up; {again}", rests)
    assert checks["account left"]["status"] == "wrong"
    assert "1 jobs wait" in checks["account left"]["message"]
    assert "account idle" not in checks


def test_webhooks_without_a_secret_are_a_warning_until_one_is_owed(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    healthy.delenv("WEBHOOK_SECRET")
    assert examined(0)["webhook secret"]["status"] == "warning"
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session)
        step = seeding.add_transition(session, job)
        seeding.add_delivery(session, job, step, "pending")
    assert "1 webhooks can't be signed" in examined(1)["webhook secret"]["message"]


def test_late_polls_are_a_warning(healthy: pytest.MonkeyPatch, database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(
            session, next_poll_at=seeding.at(minutes=2), deadline_at=seeding.at(hours=-1)
        )
    found = examined(0)["looks"]
    assert found["status"] == "warning"
    assert "1 are more than a minute late" in found["message"]


def test_jobs_past_their_deadline_and_those_with_errors_alone_are_told_by_account(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    refused: seeding.Row = {
        "errors_in_row": 9, "last_error": "unauthorized", "errors_since": seeding.at(hours=5),
    }  # fmt: skip
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(session, "acme")
        over: seeding.Row = {"account": "acme", "deadline_at": seeding.at(hours=3)}
        for _ in range(3):
            seeding.add_job(session, "expired", **over, **refused)
        seeding.add_job(session, "expired", **over)
        ahead: seeding.Row = {"deadline_at": seeding.at(hours=-3)}
        seeding.add_job(session, **ahead, **refused | {"errors_since": seeding.at(minutes=30)})
        young = refused | {"errors_since": seeding.at(minutes=1), "last_error": "timeout"}
        seeding.add_job(session, **ahead, **young)
        seeding.add_job(session, "completed", deadline_at=seeding.at(hours=3))
    checks = examined(1)  # nothing names acme's key here
    assert "jobs" not in checks
    acme, default = checks["jobs of acme"], checks["jobs of default"]
    assert acme["status"] == default["status"] == "warning"
    refusal = "upstream refused the account's key"
    assert acme["message"] == (
        f"4 past their deadline, the oldest for 3h00m (3: {refusal}, 1: upstream names no end); "
        f"3 with errors alone, the oldest for 5h00m ({refusal}): "
        "`reelwatch list --account acme --state expired`, `reelwatch show ID`"
    )
    assert re.fullmatch(
        rf"1 with errors alone, the oldest for 30m\d\ds \({refusal}\): "
        "`reelwatch list --account default`, `reelwatch show ID`",
        default["message"],
    )


def test_an_account_paused_by_hand_is_told_with_how_to_resume_it(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    done("accounts", "--pause", "default", "--reason", "new key on Monday")
    check = examined(0)["account default rests"]
    assert check["status"] == "warning"
    assert check["message"] == (
        "paused by hand: new key on Monday, its jobs wait: `reelwatch accounts --resume default`"
    )


def test_dead_events_are_told_by_endpoint_with_what_it_said(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session)
        for number, target in enumerate(("https://a.example/x?k=s3cret", "https://b.example/")):
            for place in range(number + 1):
                step = seeding.add_transition(session, job, sequence=10 * number + place + 1)
                event = seeding.add_delivery(
                    session, job, step, "dead", target=target, created_at=seeding.at(minutes=5)
                )
                seeding.add_attempt(session, event, error=f"{number}: no")
    checks = examined(0)
    assert checks["dead events"]["message"] == (
        "3 never reached their receiver: `reelwatch deliveries --state dead` lists them, "
        "`reelwatch redeliver --dead` sends them again"
    )
    said = checks["dead events of https://b.example/"]["message"]
    assert re.fullmatch(r"2, the last 5m\d\ds old, and it said: 1: no", said)
    assert checks["dead events of https://a.example/x"]["status"] == "warning"
    assert "s3cret" not in json.dumps(checks)


def test_endpoints_that_fail_now_are_told_with_what_waits_for_them(
    healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session)
        now = db.now(session)
        for number, until in ((1, None), (2, now + timedelta(minutes=5))):
            url, host = f"https://r{number}.example/x", f"r{number}.example"
            standing: seeding.Row = {"failures": number, "openings": 1, "allowance": 1}
            session.add(Endpoint(name=url, host=host, open_until=until, changed_at=now, **standing))
            step = seeding.add_transition(session, job, sequence=number)
            seeding.add_delivery(session, job, step, "pending", target=url)
    checks = examined(0)
    assert checks["endpoint https://r1.example/x"] == {
        "name": "endpoint https://r1.example/x",
        "status": "warning",
        "message": "1 attempts failed in a row; 1 events wait",
    }
    message = checks["endpoint https://r2.example/x"]["message"]
    assert re.search(
        r"1 events wait; it is not called until [\d:-]+( [\d:]+)? UTC; "
        "once it is repaired: `reelwatch redeliver --now --endpoint …`$",
        message,
    )
    assert "endpoints" not in checks


@pytest.mark.parametrize(("http_status", "doubt"), [(401, "secret"), (404, "path"), (422, "what")])
def test_a_receiver_that_refuses_all_is_told_with_what_may_be_wrong(
    http_status: int, doubt: str, healthy: pytest.MonkeyPatch, database_url: str
) -> None:
    """Whoever refuses, works; but nobody is told, and after days the events are dead."""
    url, host = "https://r.example/x", "r.example"
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session)
        refused = breaker.after(breaker.WELL, breaker.Verdict.REFUSED, db.now(session))
        session.add(Endpoint(name=url, host=host, changed_at=db.now(session), **asdict(refused)))
        for number in (1, 2):
            step = seeding.add_transition(session, job, sequence=number)
            event = seeding.add_delivery(
                session, job, step, "pending", target=url, destination=host, failures=3
            )
            seeding.add_attempt(session, event, error="no", http_status=http_status)
    checks = examined(0)
    found = checks[f"endpoint {url}"]
    assert found["status"] == "warning"
    said = found["message"]
    assert said.startswith(f"2 events refused ({http_status}), none accepted since: ")
    assert doubt in said
    assert "endpoints" not in checks


# ---------------------------------------------------------------- accounts


def test_accounts_show_their_standing(
    commands: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    names = ("slow", "rests", "fresh", "short", "both")
    tables = "".join(f'[accounts.{name}]\napi_key_env = "KEY_OF_{name}"\n' for name in names)
    (tmp_path / "accounts.toml").write_text(tables)
    commands.setenv("REELWATCH_ACCOUNTS_FILE", str(tmp_path / "accounts.toml"))
    commands.setenv("KEY_OF_slow", KEY)
    with db.transaction(database_url) as session:
        slowed = {"requests_per_second": 1.25, "slowed_at": db.now(session)}
        seeding.add_account(session, "slow", **slowed)
        until = db.now(session) + timedelta(seconds=90)
        seeding.add_account(session, "rests", paused_until=until, pause_reason="quota: used up")
        seeding.add_account(session, "left")
        seeding.add_job(session, account="left")
        seeding.add_account(session, "short", look_price=12.5)
        seeding.add_account(session, "both", look_price=12.5, **slowed)
    lines = {line.split()[0]: line for line in done("accounts").splitlines()}
    assert re.search(r"set +1.25 of 5 +0 +slowed by 429 +https://", lines["slow"])
    assert re.search(
        r"missing +5 +0 +rests [89]\d s more, until [\d:]+: quota: used up", lines["rests"]
    )
    assert re.search(r"not configured +5 +1 +works$", lines["left"])
    assert re.search(r"missing +5 +0 +works", lines["fresh"])
    short = "short of requests: jobs wait for their looks"
    assert re.search(rf"missing +5 +0 +{short} +https://", lines["short"])
    assert re.search(rf"missing +1.25 of 5 +0 +slowed by 429, {short} +https://", lines["both"])
    rows = {row["name"]: row for row in json.loads(done("accounts", "--json"))}
    assert set(rows) == {*names, "default", "left"}
    assert rows["slow"]["key_set"] is True
    assert rows["slow"]["requests_per_second"] == 1.25
    assert rows["fresh"]["requests_per_second"] is None
    assert rows["left"]["configured"] is False
    prices = {name: row["look_price"] for name, row in rows.items()}
    assert prices == dict.fromkeys(rows, 0.0) | {"short": 12.5, "both": 12.5}
    assert KEY not in done("accounts", "--json")


def test_the_command_runs_as_a_module_too() -> None:
    with process([sys.executable, "-m", "reelwatch.cli.main", "show"], {}, Path.cwd()) as called:
        assert called.wait(30) == 2
        assert called.output.startswith("Usage: reelwatch show [OPTIONS] ID")


# ------------------------------------------------------- sandbox, listen


def test_the_sandbox_says_how_to_use_it_and_serves(tmp_path: Path) -> None:
    port = str(free_port())
    with reelwatch("sandbox", "--port", port, "--rate-limit", "1", env={}, cwd=tmp_path) as server:
        server.wait_for("hang ")
        url = f"http://127.0.0.1:{port}"
        asked = [
            requests.get(
                f"{url}/v1/video/query?id=grok:ok.9s-a",
                headers={"Authorization": "Bearer x"},
                timeout=9,
            ).status_code
            for _ in range(3)
        ]
        server.stop_signal(signal.SIGINT)
        assert server.wait() == 0
        said = server.output
    assert asked[0] == 200
    assert 429 in asked
    assert f"export QUICKROUTER_BASE_URL={url} QUICKROUTER_API_KEY=sandbox" in said
    for name, script in SCRIPTS.items():
        assert re.search(
            rf"^{name} +{re.escape(script.summary)} +{script.outcome}", said, re.MULTILINE
        )
    assert "3 requests about 1 ids, at most" in said


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with Sandbox().start() as other:
        port = other.url.rpartition(":")[2]
        env = {"WEBHOOK_SECRET": SECRET}
        with (
            reelwatch("sandbox", "--port", port, env=env, cwd=tmp_path) as one,
            reelwatch("listen", "--port", port, env=env, cwd=tmp_path) as another,
        ):
            for failed in (one, another):
                assert failed.wait(30) == 1
                assert failed.output.startswith(
                    f"reelwatch: 127.0.0.1 port {port}: Address already in use: something else"
                )
                assert failed.output.endswith("take another by --port (0: any that is free)\n")


def test_listen_tells_verified_events_from_forged_ones(tmp_path: Path) -> None:
    ports = [str(free_port()), str(free_port())]
    env = {"WEBHOOK_SECRET": SECRET}
    with (
        reelwatch("listen", "--port", ports[0], "--json", env=env, cwd=tmp_path) as programs,
        reelwatch("listen", "--port", ports[1], env=env, cwd=tmp_path) as peoples,
    ):
        programs.wait_for("listening")
        url = f"http://127.0.0.1:{ports[0]}/hook"
        forged = requests.post(url, b'{"type": "video.completed"}', timeout=9)
        assert forged.status_code == 401
        event = json.loads(programs.wait_for('"verified": false'))
        assert set(event) == {"received_at", "verified", "error", "id", "type", "body"}
        peoples.wait_for("listening")
        url = f"http://127.0.0.1:{ports[1]}/hook"
        requests.post(url, b'{"type": "evil \\u001b[2J"}', timeout=9)
        line = peoples.wait_for("NOT VERIFIED")
        assert re.match(r"\d\d:\d\d:\d\d  NOT VERIFIED  .*evil  \[2J$", line)


def test_listen_takes_a_right_secret_only(commands: pytest.MonkeyPatch) -> None:
    result = run("listen", "--secret", "whsec_not base64!")
    assert result.exit_code == 2
    assert "'--secret': accepted: whsec_ and base64 of 24 to 64 bytes" in result.stderr
    assert "not base64!" not in result.stderr


@pytest.mark.parametrize("secret", ["foo", "", "whsec_Zm9v", f"{SECRET} foo"])
def test_listen_takes_what_webhook_secret_would_take(
    commands: pytest.MonkeyPatch, secret: str
) -> None:
    """Not what only a decoder makes something of: nothing that is signed would ever verify."""
    result = run("listen", "--host", "192.0.2.1", "--secret", secret)
    assert result.exit_code == 2, result.output
    assert "accepted: whsec_ and base64 of 24 to 64 bytes" in result.stderr
    both = run("listen", "--host", "192.0.2.1", "--secret", f"{SECRET} {SECRET}")
    assert "is an address of this machine" in both.stderr, "it came as far as listening"


def test_a_new_secret_each_time() -> None:
    made = {
        done("secret").strip(),
        done("secret").strip(),
        json.loads(done("secret", "--json"))["secret"],
    }
    assert len(made) == 3
    for secret in made:
        assert webhook_secrets.parse_secrets(secret) == (secret,)
        Listener([secret])


# ------------------------------------------------------------------- watch


@contextlib.contextmanager
def terminal(*args: str, env: dict[str, str], columns: int = 100) -> Iterator[Any]:
    """The command at a real terminal; yields its process and a function that reads the screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [str(Path(sys.executable).parent / "reelwatch"), *args]
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    everything = {**inherited, "TERM": "xterm", **env}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=everything)
    os.close(theirs)
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65_536):
                seen.append(piece)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield child, lambda: b"".join(seen).decode("utf-8", "replace")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_watch_is_a_live_table_until_ctrl_c(sqlite_url: str) -> None:
    with db.transaction(sqlite_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, video_id="grok:moving")
        step = seeding.add_transition(session, job)
        seeding.add_delivery(session, job, step, "pending")
        seeding.add_delivery(session, job, step, "dead", channel="celery")
    with terminal("watch", env={"DATABASE_URL": sqlite_url}) as (child, screen):
        eventually(lambda: "grok:moving" in screen(), 30, screen)
        with db.transaction(sqlite_url) as session:
            seeding.add_job(session, "failed", video_id="grok:appeared")
        eventually(lambda: "grok:appeared" in screen(), 10, screen)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
        shown = screen()
    assert "1 events to be told" in shown
    assert "1 dead" in shown
    assert "no tick yet" in shown
    assert "Traceback" not in shown
    assert "Aborted" not in shown


def test_watch_of_ids_ends_when_they_have(commands: pytest.MonkeyPatch, database_url: str) -> None:
    with db.transaction(database_url) as session:
        until = db.now(session) + timedelta(seconds=90)
        seeding.add_account(session, paused_until=until, pause_reason="quota: used up")
        seeding.add_job(session, "completed", video_id="a")
        seeding.add_job(session, "expired", video_id="b", abandoned_at=seeding.at())
        seeding.add_job(session, video_id="c")
        session.execute(insert(Heartbeat).values(name="tick", at=db.now(session)))
    shown = on_screen(commands, "watch", "a", "b")
    assert "✓ completed" in shown
    assert "? expired" in shown
    assert "last tick 0s ago" in shown
    assert "account default rests, its jobs wait: quota: used up" in shown
    assert done("watch", "a", "b").splitlines() == ["b  expired", "a  completed"]
    assert json.loads(done("watch", "a", "--json"))["state"] == "completed"


def test_watch_of_an_empty_database_says_how_to_begin(sqlite_url: str) -> None:
    with terminal("watch", env={"DATABASE_URL": sqlite_url}) as (child, screen):
        eventually(lambda: "no jobs yet" in screen(), 30, screen)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0


def test_a_change_of_upstreams_status_alone_is_told_as_that() -> None:
    """It would read as the same state once more."""
    change = {
        "at": seeding.at(), "account": "default", "video_id": "grok:a", "from_state": "pending",
        "to_state": "pending", "from_status": None, "to_status": "pending", "eta": None,
    }  # fmt: skip
    assert change_line(change).endswith("grok:a  pending  upstream: pending")
    moved = change_line(change | {"to_state": "running", "to_status": "running"})
    assert moved.endswith("grok:a  pending → running")


def test_watch_in_a_pipe_prints_every_change_once(
    commands: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "pending", video_id="grok:a")
        seeding.add_transition(session, job, from_status="x", to_status="before")
    env = {"DATABASE_URL": database_url}
    with reelwatch("watch", "--json", env=env, cwd=tmp_path) as watcher:
        watcher.wait_for("watching until Ctrl-C")
        for sequence in range(2, 6):
            with db.transaction(database_url) as session:
                seeding.add_transition(session, job, sequence=sequence, to_status=f"word{sequence}")
            if sequence != 3:  # two of them at once; the last look repeats nothing of those before
                watcher.wait_for(f"word{sequence}")
        watcher.stop_signal(signal.SIGINT)
        assert watcher.wait() == 0
        changes = [json.loads(line) for line in watcher.output.splitlines() if line[0] == "{"]
    assert [change["sequence"] for change in changes] == list(range(2, 6))
    assert changes[0]["video_id"] == "grok:a"


def test_a_change_is_told_on_one_line(commands: pytest.MonkeyPatch, database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "failed", video_id="grok:a", error_message="no\nluck")
        words = {"from_state": "running", "to_state": "running", "to_status": "upsampling"}
        seeding.add_transition(session, job, **words)
        end = {"sequence": 2, "from_state": "running", "from_status": "upsampling"}
        seeding.add_transition(session, job, to_state="failed", to_status="failed", **end)
    with db.reading(database_url) as session:
        lines = [change_line(change) for change in history.changes(session, 0)]
    assert [line.partition("Z  ")[2] for line in lines] == [
        "grok:a  running  upstream: upsampling",
        "grok:a  running → failed  upstream_failed: no luck",
    ]


def test_watching_says_how_long_jobs_still_take(
    commands: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    """In the table, where each job is at the beginning, and with every change."""
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        know(session, steady(2_900.0))
        job = seeding.add_job(session, video_id="a", last_polled_at=seeding.at())
        seeding.add_job(session, "completed", video_id="b")
    env = {"DATABASE_URL": database_url}
    with reelwatch("watch", "a", "b", env=env, cwd=tmp_path) as watcher:
        watcher.wait_for("b  completed")
        assert re.search(r"^a  running  ~4\dm\d\ds left$", watcher.output, re.MULTILINE)
        with db.transaction(database_url) as session:
            seeding.add_transition(session, job, to_status="upsampling")
        changed = watcher.wait_for("upsampling")
        assert re.search(r"upstream: upsampling  ~4\dm\d\ds left$", changed)
    with reelwatch("watch", "a", "--json", env=env, cwd=tmp_path) as watcher:
        first = json.loads(watcher.wait_for("{"))
        with db.transaction(database_url) as session:
            seeding.add_transition(session, job, sequence=2, to_status="encoding")
        then = json.loads(watcher.wait_for("encoding"))
    for row in (first, then):
        assert row["eta"].keys() == {"p50_seconds", "p90_seconds", "slower_than_95_percent"}
        assert 2_400 < row["eta"]["p50_seconds"] <= 2_900
    with db.transaction(database_url) as session:
        ended = {"state": "cancelled", "finished_at": seeding.at(), "next_poll_at": None}
        session.execute(update(Job).where(Job.video_id == "a").values(ended))
    assert "left" not in done("watch", "a", "b")


# ------------------------------------------------------------ housekeeping


def test_migrating_says_from_where_to_where(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command_environment(empty_database_url, tmp_path, monkeypatch):
        first = done("migrate")
        assert re.search(r": nothing → \w+$", first)
        assert re.search(r" is at the newest revision already: \w+$", done("migrate"))
        again = json.loads(done("migrate", "--json"))
        assert again["before"] == again["revision"] == first.split()[-1]
        assert done("track", "grok:a") == "tracking grok:a\n"


def test_the_demo_is_shown_on_a_console_and_its_code_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consoles: list[Console] = []

    def show(console: Console) -> int:
        consoles.append(console)
        return 1

    monkeypatch.setattr("reelwatch.cli.demo.run", show)
    assert run("demo").exit_code == 1
    assert not consoles[0].is_terminal
