"""`reelwatch listen`: webhooks received, verified and, if wanted, handed on."""

import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import click

from reelwatch.app import embedded
from reelwatch.cli import options, render
from reelwatch.cli.errors import not_served
from reelwatch.config import settings
from reelwatch.errors import Refused
from reelwatch.net.http import TransferError
from reelwatch.net.outbound import Sender
from reelwatch.rules.callback_url import check_url, parse_allowlist
from reelwatch.rules.wording import plain
from reelwatch.sandbox import listener
from reelwatch.sandbox.answers import Answer, json_answer
from reelwatch.sandbox.server import Request

KEPT = 1_000  # events that a listener remembers, to tell repeated ones
FORWARD_SECONDS = 30.0  # longer than workers wait, so that it is they who lose patience
FORWARD_FORM = (
    "accepted: an http or https URL without a user name, like http://127.0.0.1:3000/hooks/video"
)
HANDED_ON = ("content-type", "user-agent")  # and what begins with `webhook-`
HANDED_BACK = ("content-type", "content-encoding", "location", "retry-after")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve.")
@click.option("--port", default=8788, show_default=True, type=click.IntRange(0, 65535))
@click.option("--secret", "secrets", multiple=True, metavar="whsec_…", type=options.Secrets(),
              help="Verify with this. Default: WEBHOOK_SECRET and those of accounts, what `up` "
              "keeps, or a new one.")  # fmt: skip
@click.option("--answer", default=200, show_default=True, type=click.IntRange(200, 599),
              help="The status that verified events get: 500 shows how retries go.")  # fmt: skip
@click.option("--forward-to", metavar="URL",
              help="Hand verified events on, and answer what that answers.")  # fmt: skip
@options.as_json
def listen(
    host: str,
    port: int,
    secrets: Sequence[tuple[str, ...]],
    answer: int,
    forward_to: str | None,
    as_json: bool,
) -> None:
    """Receive webhooks here, verify their signatures and print a line for each.

    \b
    reelwatch listen                         # says what to start Reelwatch with
    WEBHOOK_ALLOW=127.0.0.1 reelwatch track ID --webhook-url http://127.0.0.1:8788/
    reelwatch listen --forward-to http://127.0.0.1:3000/hooks/video

    Where there is no secret it makes one, for as long as it runs, and says what to set beside it.
    What is forwarded has the same body and headers, signature included; where nobody answers, the
    sender gets a 502 and tries again later.

    With --json each event is a JSON object on a line of its own.
    """
    known = tuple(chain.from_iterable(secrets)) or settings.current().all_secrets()
    keys = known or (embedded.new_secret(),)
    tell = _print_json_event if as_json else _print_event
    forward = _forwarder(forward_to, tell) if forward_to else None

    def hear(event: listener.Received) -> None:
        if forward is None or not event.verified:
            tell(event, None)

    receiver = listener.Listener(keys, host, port, answer, hear, KEPT, forward)
    try:
        receiver.start()
    except OSError as error:
        raise not_served(error, host, port) from None
    given = f"go to {forward_to}" if forward_to else f"get {answer}"
    for line in _greeting(receiver.url, host, given, None if known else keys[0]):
        click.echo(plain(line), err=True)
    with suppress(KeyboardInterrupt):
        receiver.serve_forever()
    counts = ", ".join(f"{count} {what}" for what, count in receiver.counts().items())
    click.echo(f"\n{counts}", err=True)


def _greeting(url: str, host: str, given: str, made: str | None) -> Iterator[str]:
    yield f"listening at {url}/ until Ctrl-C; verified events {given}"
    if made:
        yield "There is no WEBHOOK_SECRET, so this one was made for now. Start Reelwatch with it:"
        yield f"  export WEBHOOK_SECRET={made}"
    else:
        yield "Start Reelwatch with the same secret, and with what permits this address:"
    yield f"  export WEBHOOK_ALLOW={_reached_by(host)}"
    yield f"and track with --webhook-url {url}/, or try `reelwatch test-event {url}/`"


def _reached_by(host: str) -> str:
    """What to permit for a server that listens there."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return "127.0.0.1   # or the address that workers reach this machine by"
    return host


# ------------------------------------------------------------- forwarding

Tell = Callable[[listener.Received, dict[str, Any] | None], None]


def _forwarder(url: str, tell: Tell) -> Callable[[Request, listener.Received], Answer]:
    """What hands an event on to that URL, whatever its address: whoever types it answers for it."""
    try:
        own = parse_allowlist(urlsplit(url).netloc.rpartition("@")[2])
        target = check_url(url, own)
    except (Refused, ValueError):  # what they say holds for callback URLs of strangers
        raise click.BadParameter(FORWARD_FORM, param_hint="--forward-to") from None
    sender = Sender(own, FORWARD_SECONDS)

    def forward(request: Request, event: listener.Received) -> Answer:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in HANDED_ON or name.startswith("webhook-")
        }
        started = time.monotonic()
        try:
            reply = sender.post(target, request.body, headers)
        except TransferError as error:
            went = _went(502, f"not forwarded: {error}", started)
            answer = json_answer(502, {"error": went["error"]})
        else:
            went = _went(reply.status, None, started)
            back = {name: reply.headers[name] for name in HANDED_BACK if name in reply.headers}
            answer = Answer(reply.status, back, reply.body)
        tell(event, went)
        return answer

    return forward


def _went(status: int, error: str | None, started: float) -> dict[str, Any]:
    duration = round((time.monotonic() - started) * 1000)
    return {"http_status": status, "error": error, "duration_ms": duration}


# --------------------------------------------------------------- printing


def _print_json_event(event: listener.Received, forwarded: dict[str, Any] | None) -> None:
    render.print_json_line(
        {
            "received_at": event.received_at,
            "verified": event.verified,
            "error": event.error,
            "id": event.id,
            "type": event.type,
            "body": event.body,
            **({"forwarded": forwarded} if forwarded else {}),
        }
    )


def _print_event(event: listener.Received, forwarded: dict[str, Any] | None) -> None:
    at = f"{event.received_at:%H:%M:%S}"
    if not event.verified:
        click.echo(plain(f"{at}  NOT VERIFIED  {event.error}  {event.type} {event.id}".rstrip()))
        return
    found = event.body.get("data")
    data = found if isinstance(found, dict) else {}
    said = f"{data.get('video_id')} sequence {data.get('sequence')}"
    line = f"{at}  verified  {event.type}  {said}  {event.id}"
    if forwarded:
        went = forwarded["error"] or f"in {forwarded['duration_ms']} ms"
        line += f"  → {forwarded['http_status']} {went}"
    click.echo(plain(line))
