"""The commands that run things: up, doctor, sandbox, listen, watch, accounts and housekeeping."""

import json
import os
import re
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, beat
from celery.beat import EmbeddedService
from rich.console import Console
from sqlalchemy import insert

from reelwatch.app import embedded, tasks
from reelwatch.cli.render import change_line
from reelwatch.config import secrecy, settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import history, tracking
from reelwatch.rules import breaker, notices, webhook_secrets
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.upstream import Sandbox
from reelwatch.storage import db, incidents
from reelwatch.storage.figures import summary
from reelwatch.storage.models import Endpoint, Heartbeat
from tests import seeding
from tests.commands import command_environment, done, on_screen, run
from tests.environment import SECRET
from tests.processes import free_port

KEY = "sk-sandbox-key"


# ---------------------------------------------------------------------- up


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
        "✓ webhook secret", "✓ jobs", "✓ dead events", "✓ endpoints", "✓ polls",
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
    ("broker", "seconds_ago", "expected", "said"),
    [
        (None, None, "warning", "never: nothing polls jobs until `reelwatch up` runs"),
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
    said: str,
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
    assert re.search(said, tick["message"])


def test_ticks_that_do_not_come_are_told_apart_from_workers_that_do_not_run(
    commands: pytest.MonkeyPatch, sandbox: Sandbox, database_url: str
) -> None:
    """A broker that is full takes no tick, and the workers poll by themselves."""
    commands.setenv("QUICKROUTER_BASE_URL", sandbox.url)
    commands.setenv("QUICKROUTER_API_KEY", KEY)
    tracking.track("grok:a")
    assert tasks.standby.poll() is True
    tick = examined(1)["tick"]
    assert tick["status"] == "wrong"
    assert tick["message"] == (
        "no tick has come so far: workers poll and deliver by themselves, less promptly: does beat "
        "run, and has the broker room for its messages?"
    )
    (job,) = json.loads(done("list", "--json"))
    assert (job["polls"], job["next_poll_reason"]) == (1, None)


@pytest.mark.parametrize(
    ("fault", "expected", "said"),
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
    fault: str, expected: str, said: str, healthy: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    sandbox.set_fault(fault)
    account = examined(1 if expected == "wrong" else 0)["account default"]
    assert account["status"] == expected
    assert said in account["message"]
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
    rests = checks["account default is paused"]["message"]
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
    found = examined(0)["polls"]
    assert found["status"] == "warning"
    assert "1 are late, due for more than a minute: more workers" in found["message"]


@pytest.mark.parametrize(("ago", "why"), [(1, "upstream answers 429"), (60, "more workers")])
def test_late_polls_are_laid_on_429s_while_those_slow_the_account(
    healthy: pytest.MonkeyPatch, database_url: str, ago: float, why: str
) -> None:
    slowed: seeding.Row = {"requests_per_second": 3.5, "refused_rate": 5.0}
    with db.transaction(database_url) as session:
        seeding.add_account(session, slowed_at=seeding.at(minutes=ago), **slowed)
        seeding.add_job(session, next_poll_at=seeding.at(minutes=2))
    assert why in examined(0)["polls"]["message"]


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
        # Finished upstream; only its URL is awaited.
        awaited: seeding.Row = {"resultless_count": 2, "resultless_since": seeding.at(minutes=1)}
        seeding.add_job(session, **over, **awaited)
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
    check = examined(0)["account default is paused"]
    assert check["status"] == "warning"
    assert check["message"] == (
        "by hand, until `reelwatch accounts --resume default`: new key on Monday"
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
            standing |= {"open_until": until, "failing_since": seeding.at(minutes=3 * number)}
            session.add(Endpoint(name=url, host=host, changed_at=now, **standing))
            step = seeding.add_transition(session, job, sequence=number)
            event = seeding.add_delivery(
                session, job, step, "pending", target=url, destination=host, failures=1
            )
            status = 503 if until else None
            seeding.add_attempt(session, event, error="no", http_status=status)
    checks = examined(0)
    repaired = "once it is repaired: `reelwatch redeliver --now --endpoint …`"
    first, second = (checks[f"endpoint https://r{number}.example/x"] for number in (1, 2))
    assert first["status"] == second["status"] == "warning"
    assert re.fullmatch(
        r"fails: 1 attempt failed in a row; it has taken nothing for 3m\d\ds "
        r"\(the last answer: no\); 1 event waits; "
        rf"does it run, and can it be reached\? {repaired}",
        first["message"],
    )
    assert re.fullmatch(
        r"rests: 2 attempts failed in a row; it has taken nothing for 6m\d\ds "
        r"\(the last answer: 503 no\); "
        r"1 event waits, and it is tried again at [\d:-]+( [\d:]+)? UTC; "
        rf"what does its own log say\? {repaired}",
        second["message"],
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
        now = db.now(session)
        since = seeding.at(hours=2)
        refused = breaker.after(breaker.WELL, breaker.Verdict.REFUSED, now, since)
        session.add(Endpoint(name=url, host=host, changed_at=since, **asdict(refused)))
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
    first = f"refuses events with {http_status}; it has taken nothing for 2h00m"
    assert said.startswith(f"{first} (the last answer: {http_status} no); 2 events wait; ")
    assert doubt in said
    assert "endpoints" not in checks


# ---------------------------------------------------------------- accounts


def test_the_rate_that_workers_are_configured_with_is_known_where_it_is_not_configured(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    """In a shell, say, that has no accounts file, or another rate."""
    with db.transaction(database_url) as session:
        seeding.add_account(session, configured_rate=20.0, requests_per_second=20.0)
        slowed = {"requests_per_second": 2.0, "slowed_at": db.now(session)}
        seeding.add_account(session, "studio", configured_rate=20.0, **slowed)
        long_ago = {"requests_per_second": 2.0, "slowed_at": seeding.at(days=9)}
        seeding.add_account(session, "again", configured_rate=8.0, **long_ago)
    lines = {line.split()[0]: line for line in done("accounts").splitlines()}
    assert re.search(r"missing +20 +0 +works", lines["default"])
    assert re.search(r"not configured +2 of 20 +0 +slowed by 429", lines["studio"])
    assert re.search(r"not configured +8 +0 +works", lines["again"])
    rows = json.loads(done("accounts", "--json"))
    found = {row["name"]: row["configured_requests_per_second"] for row in rows}
    assert found == {"default": 20.0, "studio": 20.0, "again": 8.0}


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
        first = datetime(2026, 2, 6, 3, 58, 49, tzinfo=UTC)
        incidents.begin(session, notices.SLOWED, "slow", first)
        seeding.add_account(session, "slow", **slowed)
        until = db.now(session) + timedelta(seconds=90)
        seeding.add_account(session, "rests", paused_until=until, pause_reason="quota: used up")
        incidents.begin(session, notices.NoticeType.ACCOUNT_PAUSED, "rests", first)
        seeding.add_account(session, "left")
        seeding.add_job(session, account="left")
        seeding.add_account(session, "short", look_price=12.5)
        seeding.add_account(session, "both", look_price=12.5, **slowed)
    lines = {line.split()[0]: line for line in done("accounts").splitlines()}
    assert re.search(r"set +1.25 of 5 +0 +2026-02-06 03:58:49Z +slowed by 429 +h", lines["slow"])
    assert re.search(
        r"missing +5 +0 +2026-02-06 03:58:49Z +rests [89]\d s more, until [\d:]+: quota: used up",
        lines["rests"],
    )
    assert re.search(r"not configured +5 +1 +works$", lines["left"])
    assert re.search(r"missing +5 +0 +works", lines["fresh"])
    short = "short of requests: jobs wait for their polls"
    assert re.search(rf"missing +5 +0 +{short} +https://", lines["short"])
    assert re.search(rf"missing +1.25 of 5 +0 +slowed by 429, {short} +https://", lines["both"])
    rows = {row["name"]: row for row in json.loads(done("accounts", "--json"))}
    assert set(rows) == {*names, "default", "left"}
    assert rows["slow"]["key_set"] is True
    assert rows["slow"]["requests_per_second"] == 1.25
    assert rows["fresh"]["requests_per_second"] is None
    assert rows["rests"]["paused_since"] == rows["slow"]["slowed_since"]
    assert rows["slow"]["slowed_since"] == "2026-02-06T03:58:49.000000Z"
    assert rows["fresh"]["paused_since"] is None
    assert rows["left"]["configured"] is False
    prices = {name: row["look_price"] for name, row in rows.items()}
    assert prices == dict.fromkeys(rows, 0.0) | {"short": 12.5, "both": 12.5}
    assert KEY not in done("accounts", "--json")


# ------------------------------------------------------- sandbox, listen


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


@pytest.mark.parametrize("why", ["", ": a new key on Monday"])
def test_watch_says_which_account_somebody_paused(
    commands: pytest.MonkeyPatch, database_url: str, why: str
) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session, pause_reason=f"by hand{why}")
        seeding.add_job(session, "completed", video_id="a")
    shown = on_screen(commands, "watch", "a")
    assert f"account default is paused by hand, its jobs wait{why}\n" in re.sub(" +\n", "\n", shown)


def test_watch_tells_of_no_rest_that_is_over(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    """Whether accounts rest is read for every drawing, what takes long to count is not."""
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_job(session, "completed", video_id="a")
        session.execute(insert(Heartbeat).values(name="tick", at=db.now(session)))
        counted = summary(session, db.now(session))
    rested = {"name": "default", "paused_until": None, "pause_reason": "by hand"}
    commands.setattr("reelwatch.cli.watch.summary", lambda *_: counted | {"resting": [rested]})
    shown = on_screen(commands, "watch", "a")
    assert "1 completed" in shown
    assert "its jobs wait" not in shown


def test_a_change_of_upstreams_status_alone_is_told_as_that() -> None:
    """It would read as the same state once more."""
    change = {
        "at": seeding.at(), "account": "default", "video_id": "grok:a", "from_state": "pending",
        "to_state": "pending", "from_status": None, "to_status": "pending", "eta": None,
    }  # fmt: skip
    assert change_line(change).endswith("grok:a  pending  upstream: pending")
    moved = change_line(change | {"to_state": "running", "to_status": "running"})
    assert moved.endswith("grok:a  pending → running")


def test_a_change_is_told_on_one_line(commands: pytest.MonkeyPatch, database_url: str) -> None:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "failed", video_id="grok:a", error_message="no\nluck")
        said = {"from_state": "running", "to_state": "running", "to_status": "upsampling"}
        seeding.add_transition(session, job, **said)
        end = {"sequence": 2, "from_state": "running", "from_status": "upsampling"}
        seeding.add_transition(session, job, to_state="failed", to_status="failed", **end)
    with db.reading(database_url) as session:
        lines = [change_line(change) for change in history.changes(session, 0)]
    assert [line.partition("Z  ")[2] for line in lines] == [
        "grok:a  running  upstream: upsampling",
        "grok:a  running → failed  upstream_failed: no luck",
    ]


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

    def show(console: Console, **_options: object) -> int:
        consoles.append(console)
        return 1

    monkeypatch.setattr("reelwatch.cli.demo.run", show)
    assert run("demo").exit_code == 1
    assert not consoles[0].is_terminal


class Broken(beat.Scheduler):
    """One that can't even be made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise LookupError("no such module")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_beat_that_an_error_has_ended_holds_up_no_end() -> None:
    service: Any = EmbeddedService(Celery(set_as_current=False), thread=True, scheduler_cls=Broken)
    service.start()
    service.join(30)
    ending = threading.Thread(target=embedded.stop, args=[service], daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
