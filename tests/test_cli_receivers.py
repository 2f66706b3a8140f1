"""Trying receivers by hand: `test-event` sends to one, `listen` is one, or stands before one."""

import base64
import json
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests
from standardwebhooks.webhooks import Webhook

from reelwatch.cli.test_event import VIDEO_URL, sample
from reelwatch.config import settings
from reelwatch.rules import events, hints
from reelwatch.rules.states import EventType
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.listener import Listener
from tests.commands import command_environment, run
from tests.environment import SECRET, set_variables
from tests.peers import closed_port
from tests.processes import Process, free_port, process
from tests.test_delivery import Receiver, headers_of, says
from tests.test_events import ROW

STUDIO = "whsec_" + base64.b64encode(b"the secret of another studio..").decode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A secret, receivers on this machine, and no database at all."""
    with command_environment(f"sqlite:///{tmp_path / 'none.db'}", tmp_path, monkeypatch) as patch:
        set_variables(patch, WEBHOOK_ALLOW="127.0.0.1")
        yield patch
    settings.current.cache_clear()


# ------------------------------------------------------------------ test-event


class TestEvents:
    def test_that_a_receiver_takes_are_told_as_taken(
        self, here: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """It is signed, marked as a test, shaped as all events are, and kept nowhere."""
        with Listener([SECRET]) as receiver:
            shown = f"POST {receiver.url}/hook?…\n"
            said = run("test-event", f"{receiver.url}/hook?token=hidden-pw")
        assert said.exit_code == 0, said.output
        (event,) = receiver.events
        assert event.verified
        assert event.type == "video.completed"
        assert event.id.startswith("evt_test_")
        data = event.body["data"]
        assert data["test"] is True
        assert data["account"] == "default"
        assert data["state"] == data["upstream_status"] == "completed"
        assert data["video_url"] == data["answer"]["video_url"] == VIDEO_URL
        assert said.stdout.startswith(shown)
        assert f"webhook-id: {event.id}" in said.stdout
        assert f"webhook-signature: {event.headers['webhook-signature']}" in said.stdout
        assert '"test": true' in said.stdout
        assert re.search(r"answered 200 in \d+ ms", said.stdout)
        assert "✓ the receiver takes what Reelwatch sends" in said.stdout
        assert "hidden-pw" not in said.output
        assert list(tmp_path.glob("*.db*")) == []

    def test_it_has_the_keys_of_a_real_one(self) -> None:
        now = datetime.now(UTC)
        real = events.body(EventType.COMPLETED, now, ROW, None, None)
        data = sample("default", now)["data"]
        assert data.pop("test") is True
        assert list(data) == list(real["data"])

    def test_are_told_to_programs_as_json(self, here: pytest.MonkeyPatch) -> None:
        with Receiver(says(200, body=b"thanks")) as receiver:
            said = run("test-event", receiver.url, "--json")
        (request,) = receiver.requests
        found = json.loads(said.stdout)
        assert found["ok"] is True
        assert (found["http_status"], found["response_excerpt"]) == (200, "thanks")
        assert found["event_id"] == request.headers["webhook-id"]
        assert found["body"] == json.loads(request.body)
        assert found["error"] is found["hint"] is None

    def test_an_account_signs_with_its_own(self, here: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('[accounts.studio]\nwebhook_secret_env = "STUDIO"')
        here.setenv("REELWATCH_ACCOUNTS_FILE", str(tmp_path / "a.toml"))
        here.setenv("STUDIO", STUDIO)
        with Receiver() as receiver:
            url = receiver.url
            assert run("test-event", url, "--account", "studio").exit_code == 0
        (request,) = receiver.requests
        Webhook(STUDIO).verify(request.body, headers_of(request))
        assert json.loads(request.body)["data"]["account"] == "studio"
        here.delenv("STUDIO")
        refused = run("test-event", url, "--account", "studio")
        assert refused.exit_code == 2
        assert "STUDIO is not set" in refused.stderr
        unknown = run("test-event", url, "--account", "nobody")
        assert unknown.exit_code == 2
        assert "account: 'nobody' is not configured; known: default, studio" in unknown.stderr

    @pytest.mark.parametrize(
        ("answer", "hint"),
        [
            (says(401), "has the receiver the secret that stands in WEBHOOK_SECRET here"),
            (
                says(302, {"Location": "https://elsewhere.example.com/"}),
                "not followed: give the address that it leads to (https://elsewhere.example.com/)",
            ),
            (says(500, body=b"\x1b[2Jboom"), "the receiver's own log says why"),
            (says(404), "is the path right? Events come by POST"),
            (says(410), "ends the delivery of an event at once"),
        ],
    )
    def test_that_a_receiver_refuses_are_told_with_its_answer(
        self, here: pytest.MonkeyPatch, answer: Answer, hint: str
    ) -> None:
        """It is tried once, and what to poll is said."""
        with Receiver(answer) as receiver:
            said = run("test-event", receiver.url)
            machine = run("test-event", receiver.url, "--json")
        assert len(receiver.requests) == 2
        assert said.exit_code == machine.exit_code == 1
        assert said.stderr.startswith(f"reelwatch: the receiver answered {answer.status}: ")
        assert hint in said.stderr
        assert "\x1b" not in said.output
        found = json.loads(machine.stdout)
        assert found["ok"] is False
        assert hint in found["hint"]
        assert found["http_status"] == answer.status

    def test_to_nobody_are_told_as_not_answered(self, here: pytest.MonkeyPatch) -> None:
        with closed_port() as port:
            said = run("test-event", f"http://127.0.0.1:{port}/")
        assert said.exit_code == 1
        assert "reelwatch: no answer: " in said.stderr
        assert "does the receiver run, and can it be reached from this machine?" in said.stderr

    def test_that_a_receiver_takes_too_long_for_are_told_so(self, here: pytest.MonkeyPatch) -> None:
        here.setenv("REELWATCH_WEBHOOK_TIMEOUT", "300ms")
        with Receiver(Answer(200, MappingProxyType({}), b"", 5)) as receiver:
            said = run("test-event", receiver.url)
        assert said.exit_code == 1
        assert "a receiver has 0.3 s for its answer (REELWATCH_WEBHOOK_TIMEOUT)" in said.stderr

    @pytest.mark.parametrize(
        ("url", "code", "hint"),
        [
            ("http://10.1.2.3:9000/x", 1, "WEBHOOK_ALLOW=10.1.2.3 permits it"),
            ("https://receiver.svc.local/x", 1, "WEBHOOK_ALLOW=receiver.svc.local permits it"),
            ("foo", 2, "accepted are https URLs"),
            ("ftp://hooks.example.com/", 2, "accepted are https URLs"),
            ("hooks.example.com", 2, "accepted are https URLs"),
            ("https://user:hidden-pw@hooks.example.com/", 2, "user name or password"),
            ("https://[::1", 2, "no proper host"),
        ],
    )
    def test_what_is_refused_is_not_called(
        self, here: pytest.MonkeyPatch, url: str, code: int, hint: str
    ) -> None:
        """By the rules that hold for all events, and with what would permit it."""
        here.delenv("WEBHOOK_ALLOW")
        said = run("test-event", url)
        assert said.exit_code == code
        assert hint in said.stderr
        assert said.stdout == "", "it is checked before anything is shown as sent"
        assert "hidden-pw" not in said.output
        assert "Traceback" not in said.output

    def test_what_would_permit_it_keeps_what_is_permitted(self, here: pytest.MonkeyPatch) -> None:
        """The whole value to set: with the new host alone the others would be refused."""
        here.setenv("WEBHOOK_ALLOW", "127.0.0.1, 10.0.0.0/8")
        said = run("test-event", "http://localhost:8788/")
        assert (said.exit_code, said.stdout) == (1, "")
        assert "WEBHOOK_ALLOW=127.0.0.1,10.0.0.0/8,localhost permits it" in said.stderr

    def test_to_a_name_that_leads_nowhere_are_told_so(self, here: pytest.MonkeyPatch) -> None:
        said = run("test-event", "https://localhost.example.com/")
        assert said.exit_code == 1
        assert "does the receiver run" in said.stderr

    def test_a_kept_secret_is_named_by_its_file(
        self, here: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """There is no WEBHOOK_SECRET to compare with: `up` keeps one beside its database."""
        here.delenv("WEBHOOK_SECRET")
        (tmp_path / "none.db.secret").write_text(STUDIO)
        with Receiver(says(401)) as receiver:
            said = run("test-event", receiver.url)
        assert "has the receiver the secret that stands in none.db.secret here" in said.stderr

    def test_are_not_sent_without_a_secret(self, here: pytest.MonkeyPatch) -> None:
        here.delenv("WEBHOOK_SECRET")
        said = run("test-event", "https://hooks.example.com/")
        assert said.exit_code == 2
        assert "WEBHOOK_SECRET is not set (`reelwatch secret` makes one" in said.stderr


NOW = datetime(2026, 2, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        (9, " Its clock is 9 minutes ahead of this one: signatures go stale"),
        (-8, " Its clock is 8 minutes behind this one: signatures go stale"),
        (4, ""),
        (None, ""),
    ],
)
def test_clocks_apart_are_a_reason_for_a_refusal(minutes: int | None, said: str) -> None:
    headers = {"Date": "yesterday"}
    if minutes is not None:
        headers["Date"] = format_datetime(NOW + timedelta(minutes=minutes))
    hint = hints.after_status(401, headers, "WEBHOOK_SECRET", NOW)
    assert hint.partition("parsing them?")[2] == said


@pytest.mark.parametrize("status", [*range(300, 420), 429, 500, 503, 599])
def test_every_answer_has_a_hint(status: int) -> None:
    assert hints.after_status(status, {}, "WEBHOOK_SECRET", NOW)


# ---------------------------------------------------------------------- listen


def listening(*args: str, cwd: Path, **env: str) -> tuple[Process, str]:
    """A listener and its address."""
    port = str(free_port())
    started = process(["reelwatch", "listen", "--port", port, *args], env, cwd)
    return started, f"http://127.0.0.1:{port}/"


def test_listen_makes_a_secret_where_there_is_none(tmp_path: Path) -> None:
    """And says what to set, so that what is sent to it then arrives."""
    started, url = listening(cwd=tmp_path)
    with started as receiver:
        receiver.wait_for("and track with")
        lines = [line.strip() for line in receiver.output.splitlines()]
        assert "There is no WEBHOOK_SECRET, so this one was made for now" in receiver.output
        assert "export WEBHOOK_ALLOW=127.0.0.1" in lines
        exported = [line.split()[1] for line in lines if line.startswith("export ")]
        said = dict(line.split("=", 1) for line in exported)
        with process(["reelwatch", "test-event", url], said, tmp_path) as sender:
            assert sender.wait(60) == 0, sender.output
        receiver.wait_for("  verified  video.completed  reelwatch-test:")
        with process(
            ["reelwatch", "test-event", url], {**said, "WEBHOOK_SECRET": SECRET}, tmp_path
        ) as stranger:
            assert stranger.wait(60) == 1
        receiver.wait_for("NOT VERIFIED")
        receiver.stop_signal(signal.SIGINT)
        assert receiver.wait() == 0
    assert list(tmp_path.iterdir()) == [], "it keeps none"


def test_listen_shows_no_secret_that_was_there(tmp_path: Path) -> None:
    started, _ = listening(cwd=tmp_path, WEBHOOK_SECRET=SECRET)
    with started as receiver:
        receiver.wait_for("and track with")
        assert "export WEBHOOK_ALLOW=127.0.0.1" in receiver.output
        assert "Start Reelwatch with the same secret" in receiver.output
        assert "whsec_" not in receiver.output


def sent(url: str, secret: str = SECRET, body: bytes = b'{"type": "video.completed"}') -> Any:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", now, body.decode()),
        "content-type": "application/json; charset=utf-8",
        "x-forwarded-for": "203.0.113.9",
    }
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, data=body, headers=headers, timeout=20, allow_redirects=False)


def test_listen_hands_on_what_it_verified(tmp_path: Path) -> None:
    """Byte for byte, with its signature; and answers what was answered."""
    answers = iter(
        [says(201, {"Content-Type": "text/plain"}, b"stored"), says(503, {"Retry-After": "7"})]
    )
    body = '{"type":"video.completed", "data":  {"video_id": "ä"}}'.encode()
    with Receiver(lambda _: next(answers)) as behind:
        target = f"{behind.url}/hooks/video?token=t"
        options = ("--forward-to", target, "--json")
        started, url = listening(*options, cwd=tmp_path, WEBHOOK_SECRET=SECRET)
        with started as between:
            between.wait_for("and track with")
            first, second = sent(url, body=body), sent(url, body=body)
            forged = sent(url, STUDIO)
            lines = [
                json.loads(line)
                for line in (
                    between.wait_for(text) for text in ('"http_status": 201', '"http_status": 503')
                )
            ]
    assert (first.status_code, first.text, first.headers["Content-Type"]) == (
        201, "stored", "text/plain",
    )  # fmt: skip
    assert (second.status_code, second.headers["Retry-After"]) == (503, "7")
    assert forged.status_code == 401
    assert len(behind.requests) == 2, "what is not verified goes no further"
    for request in behind.requests:
        assert (request.path, request.query) == ("/hooks/video", "token=t")
        assert request.body == body
        assert request.headers["content-type"] == "application/json; charset=utf-8"
        Webhook(SECRET).verify(request.body, headers_of(request))
    assert [line["forwarded"]["http_status"] for line in lines] == [201, 503]
    assert all(line["verified"] and line["forwarded"]["error"] is None for line in lines)


def test_listen_says_that_nobody_is_behind_it(tmp_path: Path) -> None:
    with closed_port() as port:
        target = f"http://127.0.0.1:{port}/"
        started, url = listening("--forward-to", target, cwd=tmp_path, WEBHOOK_SECRET=SECRET)
        with started as between:
            between.wait_for("and track with")
            answer = sent(url)
            line = between.wait_for("→ 502 not forwarded: ")
    assert answer.status_code == 502
    assert "not forwarded" in answer.json()["error"]
    assert "  verified  video.completed  None sequence None  evt_1  → 502" in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "url",
    ["foo", "127.0.0.1:3000", "ftp://127.0.0.1/", "http://", "http://[::1", "http://u:p@127.0.0.1"],
)
def test_listen_hands_on_to_urls_only(url: str) -> None:
    """And says what would do here: what holds for callback URLs of strangers is not it."""
    said = run("listen", "--port", "0", "--forward-to", url)
    assert said.exit_code == 2
    assert "--forward-to: accepted: an http or https URL without a user name, like " in said.stderr
    assert "WEBHOOK_ALLOW" not in said.stderr
    assert "callback URL" not in said.stderr
    assert "Traceback" not in said.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "192.0.2.1 port 0: .*: --host is an address of this machine"),
        ("no.such.host.invalid", "no.such.host.invalid port 0: "),
    ],
)
def test_where_no_server_can_be(host: str, said: str) -> None:
    for command in ("listen", "sandbox"):
        result = run(command, "--host", host, "--port", "0")
        assert result.exit_code == 1
        assert re.search(f"^reelwatch: {said}", result.stderr)


def test_listen_takes_an_ipv6_address(tmp_path: Path) -> None:
    port = free_port()
    args = ["reelwatch", "listen", "--host", "::1", "--port", str(port)]
    with process(args, {"WEBHOOK_SECRET": SECRET}, tmp_path) as receiver:
        receiver.wait_for(f"and track with --webhook-url http://[::1]:{port}/")
        assert "  export WEBHOOK_ALLOW=::1\n" in receiver.output
        said = {"WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW": "::1"}
        command = ["reelwatch", "test-event", f"http://[::1]:{port}/"]
        with process(command, said, tmp_path) as sender:
            assert sender.wait(60) == 0, sender.output


@pytest.mark.parametrize(
    "body", [b'{"type": 5, "data": [1]}', b'{"data": null}', b'{"data": "text"}']
)
def test_listen_prints_what_is_signed_whatever_it_holds(tmp_path: Path, body: bytes) -> None:
    started, url = listening(cwd=tmp_path, WEBHOOK_SECRET=SECRET)
    with started as receiver:
        receiver.wait_for("and track with")
        assert sent(url, body=body).status_code == 200
        receiver.wait_for("  verified  ")
