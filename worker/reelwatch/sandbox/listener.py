"""A local receiver of webhooks that verifies their signatures and remembers what came."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

from reelwatch.errors import Refused
from reelwatch.sandbox.answers import Answer, json_answer
from reelwatch.sandbox.server import LocalService, Request, read_json_object


@dataclass(frozen=True, slots=True)
class Received:
    """One POST that came in.

    `verified` means that one of the secrets signed it and its body is a JSON object; otherwise
    `error` says why not, and nothing in `id`, `type` and `body` is to be believed. The names of
    `headers` are in lower case.
    """

    id: str
    type: str
    verified: bool
    body: dict[str, Any]
    received_at: datetime
    error: str | None
    headers: dict[str, str]
    path: str = "/"


Reaction = int | tuple[int, dict[str, str]]


class Listener(LocalService):
    """The receiver. `host` and `port` are where `start`, or entering it as a context, serves.

    What is verified gets `answer`: a status, or what a function of the event returns: a status
    (0 hangs up instead) or a status and headers, where a header `delay` is not sent but waited
    for, in seconds. What is not verified gets a 400 or 401. `on_event` sees both, before the
    answer leaves. With `forward`, what is verified gets what that makes of it instead. `keep`
    bounds `events` to the newest.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 0,
        answer: int | Callable[[Received], Reaction] = 200,
        on_event: Callable[[Received], None] | None = None,
        keep: int | None = None,
        forward: Callable[[Request, Received], Answer] | None = None,
    ) -> None:
        """Raises Refused for a secret that can't be one."""
        super().__init__()
        self._signers = [_signer(secret, place) for place, secret in enumerate(secrets, 1)]
        self._address = (host, port)
        self._answer = answer
        self._on_event = on_event
        self._forward = forward
        self._lock = threading.Lock()
        self._events: deque[Received] = deque(maxlen=keep)
        self._received = 0
        self._seen: Counter[str] = Counter()

    def start(self, host: str | None = None, port: int | None = None) -> Self:
        """Begins to serve, at the constructor's address unless another is given."""
        own_host, own_port = self._address
        return super().start(own_host if host is None else host, own_port if port is None else port)

    @property
    def events(self) -> list[Received]:
        """What came in, oldest first; a copy."""
        with self._lock:
            return list(self._events)

    @property
    def seen(self) -> dict[str, int]:
        """How often each event id came in verified; a copy."""
        with self._lock:
            return dict(self._seen)

    def counts(self) -> dict[str, int]:
        """How many POSTs were received and verified, of how many ids, and how often again."""
        with self._lock:
            verified, distinct = self._seen.total(), len(self._seen)
            return {
                "received": self._received,
                "verified": verified,
                "distinct": distinct,
                "duplicates": verified - distinct,
            }

    def respond(self, request: Request) -> Answer:
        """The answer to a POST at any path, or the counts at `GET /`."""
        if request.method == "POST":
            return self._receive(request)
        if request.path == "/":
            return json_answer(200, self.counts())
        return json_answer(404, {"error": "webhooks come by POST; GET / tells the counts"})

    def _receive(self, request: Request) -> Answer:
        status, event = read_event(self._signers, request, datetime.now(UTC))
        self._remember(event)
        if self._on_event is not None:
            self._on_event(event)
        if not event.verified:
            return json_answer(status, {"error": event.error})
        if self._forward is not None:
            return self._forward(request, event)
        return _as_answer(self._answer(event) if callable(self._answer) else self._answer)

    def _remember(self, event: Received) -> None:
        with self._lock:
            self._received += 1
            self._events.append(event)
            if event.verified:
                self._seen[event.id] += 1


def read_event(signers: Sequence[Webhook], request: Request, now: datetime) -> tuple[int, Received]:
    """The event in a request, and the status it deserves: 200, or 400 or 401 if not verified."""
    status, error = _verify(signers, request)
    try:
        body = read_json_object(request.body)
    except ValueError:
        body = {}
        status, error = (status, error) if error else (400, "the body is no JSON object")
    return status, Received(
        id=request.headers.get("webhook-id", ""),
        type=str(body.get("type", "")),
        verified=error is None,
        body=body,
        received_at=now,
        error=error,
        headers=dict(request.headers),
        path=request.path,
    )


def _verify(signers: Sequence[Webhook], request: Request) -> tuple[int, str | None]:
    """200 and None when any of them signed it, else the last one's complaint."""
    verdict: tuple[int, str | None] = (401, "there is no secret to verify with")
    for signer in signers:
        verdict = _verify_with(signer, request)
        if verdict[1] is None:
            break
    return verdict


def _verify_with(signer: Webhook, request: Request) -> tuple[int, str | None]:
    try:
        signer.verify(request.body, dict(request.headers), json_parse=False)
    except WebhookVerificationError as error:
        return 401, str(error)
    except ValueError:  # the library lets through what parsing a malformed header or body raises
        return 400, "the signature headers or the body are malformed"
    return 200, None


def _signer(secret: str, place: int) -> Webhook:
    try:
        return Webhook(secret)
    except (ValueError, EmptyWebhookSecretError):
        # The error chain would show the secret's text, so it is cut.
        raise Refused(f"webhook secret number {place} is not whsec_ and base64") from None


def _as_answer(reaction: Reaction) -> Answer:
    status, headers = reaction if isinstance(reaction, tuple) else (reaction, {})
    delay = sum(float(value) for name, value in headers.items() if name.lower() == "delay")
    sent = {name: value for name, value in headers.items() if name.lower() != "delay"}
    return Answer(status, sent, b"", delay)
