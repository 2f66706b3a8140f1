"""`reelwatch test-event`: does a receiver take what workers would send it?"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import click
from standardwebhooks.webhooks import Webhook

from reelwatch.cli import options, render
from reelwatch.cli.errors import Failure, WrongInput
from reelwatch.config import settings
from reelwatch.errors import NotConfigured, Refused
from reelwatch.jobs.channels import webhook
from reelwatch.net.http import AddressBlocked, DeadlinePassed, TransferError
from reelwatch.rules import events, hints
from reelwatch.rules.answers import Meaning, Report, clean_text
from reelwatch.rules.callback_url import check_url
from reelwatch.rules.states import EventType
from reelwatch.rules.wording import plain
from reelwatch.storage.outcomes import EXCERPT_LIMIT

MARK = "test"  # begins its event id, names its key in `data`
VIDEO_URL = "https://example.com/reelwatch-test.mp4"


@dataclass(frozen=True, slots=True)
class Result:
    """What was sent and what came of it; `hint` says what to do where it did not arrive."""

    ok: bool
    url: str  # without its query, which may be a secret
    account: str
    event_id: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    http_status: int | None = None
    duration_ms: int | None = None
    response_excerpt: str | None = None
    error: str | None = None
    hint: str | None = None


@click.command("test-event")
@click.argument("url", metavar="URL")
@options.account
@options.as_json
def test_event(url: str, account: str, as_json: bool) -> None:
    """Send a signed `video.completed` to a receiver, marked as a test; say what it answered.

    It goes the way of all events: the same addresses are permitted, it is signed with the same
    secret, and the receiver has the same time. It is tried once, and kept nowhere; no database is
    needed. Its id begins with `evt_test_`, and `data` has `"test": true`.

    \b
    reelwatch test-event https://app.example.com/hooks/video
    WEBHOOK_ALLOW=127.0.0.1 reelwatch test-event http://127.0.0.1:8788/

    --account says whose secret signs it. Exit code 1 if it is not answered with 2xx, or may not be
    sent there; 2 for what is no URL of a receiver.
    """
    current = settings.current()
    signers = _signers(current, account)
    target = _checked(current, url)
    now = datetime.now(UTC)
    event_id, body = f"evt_{MARK}_{secrets.token_hex(12)}", sample(account, now)
    text = events.encode(body)
    headers = webhook.signed_headers(signers, event_id, now, text)
    result = Result(True, _shown(url), account, event_id, headers, body)
    result = _sent(current, target, result, text)
    if as_json:
        render.print_json(asdict(result))
    else:
        _tell(result, text)
    if result.error:
        raise Failure(plain(f"{result.error}: {result.hint}"))


def _signers(current: settings.Settings, account: str) -> list[Webhook]:
    if account not in current.accounts:
        known = ", ".join(sorted(current.accounts))
        raise WrongInput(f"account: {account!r} is not configured; known: {known}")
    found = current.secrets_of(account)
    if not found:
        raise WrongInput(
            f"webhooks are signed and {current.secret_variable(account)} is not set "
            "(`reelwatch secret` makes one; the receiver has to know it)"
        )
    return [Webhook(secret) for secret in found]


def _checked(current: settings.Settings, url: str) -> str:
    """The URL in its normal form; ends the command where events are not sent to it."""
    try:
        return check_url(url, current.allowlist)
    except NotConfigured as error:
        raise Failure(plain(f"not sent: {error}: {_allow(current, url)}")) from None
    except Refused as error:
        raise WrongInput(plain(f"not sent: {error}")) from None


def _allow(current: settings.Settings, url: str) -> str:
    return hints.allow(urlsplit(url).hostname or "HOST", current.webhook_allow)


def sample(account: str, now: datetime) -> dict[str, Any]:
    """The body of a `video.completed` about a video that is none, which `data.test` says."""
    row = {
        "video_id": f"reelwatch-{MARK}:{secrets.token_hex(4)}",
        "account": account,
        "model": f"reelwatch-{MARK}",
        "state": "completed",
        "upstream_status": "completed",
        "sequence": 1,
        "polls": 1,
        "tracked_at": now,
        "upstream_created_at": now,
        "upstream_finished_at": now,
        "finished_at": now,
        "expired_at": None,
        "metadata": {},
    }
    answer: dict[str, Any] = {
        "id": row["video_id"], "status": "completed", "video_url": VIDEO_URL, MARK: True,
    }  # fmt: skip
    report = Report(
        "completed", Meaning.SUCCESS, VIDEO_URL, video_urls={"original": VIDEO_URL}, body=answer
    )
    body = events.body(EventType.COMPLETED, now, row, report, None)
    body["data"][MARK] = True
    return body


def _sent(current: settings.Settings, target: str, result: Result, text: str) -> Result:
    """The result with what came of it."""
    started = time.monotonic()

    def came(**changes: Any) -> Result:
        duration = round((time.monotonic() - started) * 1000)
        ok = changes.get("error") is None
        return Result(**{**asdict(result), "ok": ok, "duration_ms": duration, **changes})

    try:
        reply = webhook.post(current, target, text, result.headers)
    except TransferError as error:
        what = "not sent" if isinstance(error, AddressBlocked) else "no answer"
        return came(error=f"{what}: {error}", hint=_hint(current, target, error))
    excerpt = clean_text(reply.body.decode("utf-8", "replace"))[:EXCERPT_LIMIT]
    said = {"http_status": reply.status, "response_excerpt": excerpt or None}
    if 200 <= reply.status < 300:
        return came(**said)
    hint = hints.after_status(
        reply.status, reply.headers, current.secret_place(result.account), datetime.now(UTC)
    )
    return came(error=f"the receiver answered {reply.status}", hint=hint, **said)


def _hint(current: settings.Settings, url: str, error: TransferError) -> str:
    if isinstance(error, AddressBlocked):
        return _allow(current, url)
    if isinstance(error, DeadlinePassed):
        seconds = current.webhook_timeout
        return f"a receiver has {seconds:g} s for its answer (REELWATCH_WEBHOOK_TIMEOUT)"
    if "certificate" in str(error).casefold():
        return "SSL_CERT_FILE names the certificates of a private authority"
    return "does the receiver run, and can it be reached from this machine?"


def _shown(url: str) -> str:
    bare, mark, _ = url.partition("?")
    scheme, slashes, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}{mark and '?…'}"


def _tell(result: Result, text: str) -> None:
    click.echo(plain(f"POST {result.url}"))
    for name, value in result.headers.items():
        click.echo(f"  {name}: {value}")
    click.echo("")
    for line in json.dumps(result.body, ensure_ascii=False, indent=2).splitlines():
        click.echo(f"  {line}")
    click.echo(f"  ({len(text.encode())} bytes, sent on one line without blanks)\n")
    if result.http_status is not None:
        said = f": {result.response_excerpt}" if result.response_excerpt else ", without a body"
        click.echo(plain(f"answered {result.http_status} in {result.duration_ms} ms{said}"))
    if result.ok:
        click.echo("✓ the receiver takes what Reelwatch sends")
