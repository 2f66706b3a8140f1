"""An account's events are signed with its own secret: read, used, missed and never shown."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError

from reelwatch import track
from reelwatch.app import celery as application
from reelwatch.cli import service
from reelwatch.config import secrecy, settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import delivery, strangers
from reelwatch.storage import db
from reelwatch.storage.models import Account, Endpoint
from tests import seeding
from tests.commands import done, run
from tests.environment import SECRET, set_variables
from tests.logs import Lines
from tests.test_delivery import Receiver, attempts_of, headers_of, refuse_callbacks, row_of

NEWER = "whsec_" + base64.b64encode(b"the newer secret of a studio..").decode()
OLDER = "whsec_" + base64.b64encode(b"the older secret of a studio..").decode()
STUDIO = '[accounts.studio]\nwebhook_secret_env = "STUDIO_SECRET"\n'


@pytest.fixture
def accounts(commands: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An account with a secret of its own beside `default`, with that of WEBHOOK_SECRET."""
    (tmp_path / "accounts.toml").write_text(STUDIO)
    application._tell.cache_clear()
    set_variables(
        commands, REELWATCH_ACCOUNTS_FILE=str(tmp_path / "accounts.toml"),
        WEBHOOK_ALLOW="127.0.0.1",
        STUDIO_SECRET=f"{NEWER} {OLDER}", QUICKROUTER_API_KEY="sk-test-key",
    )  # fmt: skip
    yield commands
    settings.current.cache_clear()


def owe(url: str, target: str, account: str) -> str:
    body = json.dumps({"type": "video.completed", "data": {"video_id": "a", "account": account}})
    with db.transaction(url) as session:
        session.merge(Account(name=account, requests_per_second=5.0))
        session.flush()
        job = seeding.add_job(session, "completed", account=account, finished_at=db.now(session))
        step = seeding.add_transition(session, job)
        due: dict[str, Any] = {"next_attempt_at": db.now(session), "state": "pending", "body": body}
        return str(seeding.add_delivery(session, job, step, target=target, **due)["id"])


def run_batch() -> None:
    settings.current.cache_clear()
    delivery.deliver(settings.current(), refuse_callbacks)


@pytest.mark.usefixtures("accounts")
def test_each_account_signs_with_its_own(database_url: str) -> None:
    """One signature for each current secret, and none that another account's receiver knows."""
    with Receiver() as receiver:
        ids = {
            account: owe(database_url, receiver.url, account) for account in ("default", "studio")
        }
        run_batch()
    came = {request.headers["webhook-id"]: request for request in receiver.requests}
    for account, knows, knows_not in (
        ("studio", (NEWER, OLDER), (SECRET,)),
        ("default", (SECRET,), (NEWER, OLDER)),
    ):
        request = came[ids[account]]
        assert len(request.headers["webhook-signature"].split()) == len(knows)
        for secret in knows:
            Webhook(secret).verify(request.body, headers_of(request))
            SvixWebhook(secret).verify(request.body, headers_of(request))
        for secret in knows_not:
            with pytest.raises(WebhookVerificationError):
                SvixWebhook(secret).verify(request.body, headers_of(request))


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_its_own_it_is_signed_with_nothing_else(
    accounts: pytest.MonkeyPatch, database_url: str, value: str | None
) -> None:
    """It waits, is seen, and says nothing against a receiver that it shares with others."""
    accounts.delenv("STUDIO_SECRET")
    if value is not None:
        accounts.setenv("STUDIO_SECRET", value)
    with Receiver() as receiver:
        theirs = owe(database_url, receiver.url, "studio")
        run_batch()
        with db.reading(database_url) as session:
            failing = session.query(Endpoint).all()
        ours = owe(database_url, receiver.url, "default")
        run_batch()
    assert [request.headers["webhook-id"] for request in receiver.requests] == [ours]
    assert row_of(database_url, theirs)["state"] == "pending"
    (attempt,) = attempts_of(database_url, theirs)
    assert attempt.error == "STUDIO_SECRET is not set: the event can't be signed"
    assert failing == []


def test_a_worker_leaves_webhooks_of_accounts_that_it_does_not_know(
    accounts: pytest.MonkeyPatch, database_url: str, logged: Lines
) -> None:
    """It can't know what signs them. More of them than a claim sees hold up nobody else's."""
    file = settings.load().accounts_file
    accounts.delenv("REELWATCH_ACCOUNTS_FILE")
    with Receiver() as receiver:
        theirs = [owe(database_url, receiver.url, "studio") for _ in range(20)]
        ours = owe(database_url, receiver.url, "default")
        for _ in range(2):
            run_batch()
        assert [request.headers["webhook-id"] for request in receiver.requests] == [ours]
        for event_id in theirs:
            row = row_of(database_url, event_id)
            assert (row["state"], row["attempts"], row["failures"]) == ("pending", 0, 0)
            assert row["lease_token"] is None
        (line,) = logged.named("events_left_to_others")
        assert (line["account"], line["events"]) == ("studio", 20)
        said = run("doctor").output
        assert "✗ account studio: 20 webhooks wait, and REELWATCH_ACCOUNTS_FILE does not" in said
        accounts.setenv("REELWATCH_ACCOUNTS_FILE", str(file))
        run_batch()
    assert {request.headers["webhook-id"] for request in receiver.requests} == {ours, *theirs}
    for request in receiver.requests[1:]:
        Webhook(NEWER).verify(request.body, headers_of(request))


def test_an_account_that_appears_after_the_survey_is_signed_with_nothing(
    accounts: pytest.MonkeyPatch, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.delenv("REELWATCH_ACCOUNTS_FILE")
    monkeypatch.setattr(strangers, "left", lambda *_: None)
    with Receiver() as receiver:
        theirs = owe(database_url, receiver.url, "studio")
        run_batch()
    assert receiver.requests == []
    (attempt,) = attempts_of(database_url, theirs)
    assert "this worker does not know the account studio" in str(attempt.error)


def test_what_is_missing_is_said_at_the_start_and_by_doctor(
    accounts: pytest.MonkeyPatch, database_url: str, logged: Lines
) -> None:
    accounts.delenv("STUDIO_SECRET")
    settings.current.cache_clear()
    for _ in range(2):
        application._before_work()
    (line,) = logged.named("no_webhook_secret")
    assert "account studio: STUDIO_SECRET is not set" in line["hint"]
    owe(database_url, "https://hooks.example.com/", "studio")
    said = run("doctor")
    assert "✗ webhook secret of studio: 1 webhooks can't be signed: STUDIO_SECRET" in said.output
    assert "✓ webhook secret: 1, WEBHOOK_SECRET" in said.output


def test_up_says_what_signs_whose_webhooks(accounts: pytest.MonkeyPatch) -> None:
    (line,) = (line for line in service._greeting(settings.load()) if "studio: " in line)
    assert line.endswith("key set, webhooks signed with STUDIO_SECRET")
    accounts.delenv("STUDIO_SECRET")
    (line,) = (line for line in service._greeting(settings.load()) if "studio: " in line)
    assert line.endswith("NO WEBHOOK SECRET: set STUDIO_SECRET; its webhooks wait")


def test_doctor_counts_what_waits_for_each_secret(
    accounts: pytest.MonkeyPatch, database_url: str
) -> None:
    """An event that is signed with an account's own does not wait for WEBHOOK_SECRET."""
    owe(database_url, "https://hooks.example.com/", "studio")
    accounts.delenv("WEBHOOK_SECRET")
    said = run("doctor").output
    assert "! webhook secret: webhooks are refused: WEBHOOK_SECRET is not set" in said
    assert "✓ webhook secret of studio: 2, STUDIO_SECRET" in said
    owe(database_url, "https://hooks.example.com/", "default")
    assert "✗ webhook secret: 1 webhooks can't be signed" in run("doctor").output


def test_an_account_without_its_secret_stops_no_start(accounts: pytest.MonkeyPatch) -> None:
    """Its own webhooks wait, and it is said; those of others go on."""
    accounts.setenv("WEBHOOK_URL", "https://hooks.example.com/")
    accounts.delenv("STUDIO_SECRET")
    settings.check_sending(settings.load())
    (said,) = settings.load().unsigned()
    assert said.startswith("account studio: STUDIO_SECRET is not set")
    assert "✗ webhook secret of studio: webhooks are refused" in run("doctor").output
    accounts.delenv("WEBHOOK_SECRET")
    with pytest.raises(SettingsError, match=r"is set, WEBHOOK_SECRET is not: webhooks are signed"):
        settings.check_sending(settings.load())


def test_track_asks_for_the_secret_of_its_account(accounts: pytest.MonkeyPatch) -> None:
    hook = ("--webhook-url", "https://hooks.example.com/")
    accounts.delenv("WEBHOOK_SECRET")
    assert "tracking veo3:a" in done("track", "veo3:a", "--account", "studio", *hook)
    assert "WEBHOOK_SECRET is not set" in run("track", "veo3:a", *hook).stderr
    accounts.delenv("STUDIO_SECRET")
    refused = run("track", "veo3:b", "--account", "studio", *hook)
    assert refused.exit_code == 2
    assert "webhook_url: webhooks are signed and STUDIO_SECRET is not set" in refused.stderr


@pytest.mark.parametrize(
    "value", ["hidden-pw", "whsec_hidden-pw", f"{NEWER} whsec_hidden-pw", f"{NEWER},{OLDER}"]
)
def test_a_wrong_value_stops_the_start_and_is_not_shown(
    accounts: pytest.MonkeyPatch, value: str
) -> None:
    accounts.setenv("STUDIO_SECRET", value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert "[accounts.studio]: STUDIO_SECRET: accepted: whsec_ and base64" in str(caught.value)
    for output in (str(caught.value), run("doctor").output):
        assert "hidden-pw" not in output
        assert NEWER.removeprefix("whsec_") not in output


def test_a_producer_does_not_read_it(accounts: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What an account's variables hold concerns those who poll and send."""
    (tmp_path / "accounts.toml").write_text(f'{STUDIO}api_key_env = "STUDIO_KEY"\n')
    accounts.setenv("STUDIO_SECRET", "no secret")
    accounts.setenv("STUDIO_KEY", "no key")
    settings.current.cache_clear()
    hook = "https://hooks.example.com/"
    assert track("veo3:a", account="studio", webhook_url=hook).webhook_url == hook
    with pytest.raises(SettingsError, match="STUDIO_KEY"):
        settings.load()


@pytest.mark.parametrize("name", [NEWER, "whsec_aGlkZGVuLXB3", "WHSEC_hidden", "5", ""])
def test_the_secret_itself_is_no_name_of_a_variable(
    accounts: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "accounts.toml").write_text(f'[accounts.studio]\nwebhook_secret_env = "{name}"')
    with pytest.raises(SettingsError, match="accepted: the name of a variable") as caught:
        settings.load()
    assert len(name) < 4 or name not in str(caught.value)
    (tmp_path / "accounts.toml").write_text('[accounts.studio]\nwebhook_secret = "hidden-pw"')
    with pytest.raises(SettingsError, match="is 'webhook_secret_env' meant") as caught:
        settings.load()
    assert "hidden-pw" not in str(caught.value)


@pytest.mark.usefixtures("accounts")
def test_nothing_that_is_printed_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    with secrecy.clean_output():
        print(f"{NEWER} and {OLDER.removeprefix('whsec_')}")
    assert capsys.readouterr().out == "[secret] and [secret]\n"
    loaded = settings.load()
    assert NEWER not in repr(loaded) + repr(loaded.accounts)
    assert list(loaded.slips()) == []
