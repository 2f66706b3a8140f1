"""By a signed POST to a URL, as Standard Webhooks has it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from standardwebhooks.webhooks import Webhook

from reelwatch.config.settings import Settings
from reelwatch.errors import Refused
from reelwatch.jobs.channels import Begun, Event, Means
from reelwatch.net.http import USER_AGENT, Response
from reelwatch.net.outbound import Sender
from reelwatch.net.transfer import TransferError
from reelwatch.rules.callback_url import parse_allowlist
from reelwatch.rules.retry import Outcome

OWN = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Way:
    """A job's `webhook_url`."""

    def __init__(self, means: Means) -> None:
        self._settings = means.settings
        self._sender = sender(means.settings)
        self._signers = cache(self._signers_of)

    @staticmethod
    def check(named: str) -> str:
        raise Refused("webhook_url names it")

    def begin(self, event: Event, at: datetime) -> Begun:
        signers = self._signers(event.account)
        if not signers:
            return Outcome(error=f"{self._lacking(event)}: the event can't be signed", sent=False)
        headers = signed_headers(signers, event.id, at, event.body)
        try:
            return self._sender.request(event.target, event.body.encode("utf-8"), headers)
        except TransferError as error:
            return Outcome(error=str(error))

    def _signers_of(self, account: str) -> list[Webhook]:
        return [Webhook(secret) for secret in self._settings.secrets_of(account)]

    def _lacking(self, event: Event) -> str:
        if event.account not in self._settings.accounts:
            return f"this worker does not know the account {event.account}"
        return f"{self._settings.secret_variable(event.account)} is not set"


def sender(settings: Settings) -> Sender:
    """The sender, with what may be reached and how long it takes at most.

    A forked process has its parent's, with connections of its own.
    """
    return _sender(settings.webhook_allow, settings.webhook_timeout)


@cache
def _sender(allow: str, timeout: float) -> Sender:
    return Sender(parse_allowlist(allow), timeout)


def post(settings: Settings, target: str, body: str, headers: Mapping[str, str]) -> Response:
    """Post once, to what may be reached and within its time. Raises `TransferError`."""
    return sender(settings).post(target, body.encode("utf-8"), headers)


def signed_headers(
    signers: Sequence[Webhook], event_id: str, at: datetime, body: str
) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature per current secret, the newest first.

    `at` must be in UTC: the package takes the clock's face for UTC whatever its zone says.
    """
    signatures = (signer.sign(event_id, at.astimezone(UTC), body) for signer in signers)
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def own_headers(headers: Mapping[str, str]) -> str:
    """Those of Standard Webhooks, a line each, as an attempt keeps them."""
    return "\n".join(f"{name}: {headers[name]}" for name in OWN)
