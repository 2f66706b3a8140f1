"""Commands about telling producers: what was told, sending again, receiving."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

import click

from reelwatch import cli_options as options
from reelwatch import cli_render, db, history, listener, redelivery, settings
from reelwatch.board import plain
from reelwatch.cli_errors import Failure
from reelwatch.errors import Refused

TOLD_ONE_BY_ONE = 20  # more event ids than this are counted, not listed
KEPT = 1_000  # events that a listener remembers, to tell repeated ones


@click.command()
@click.argument("video_id", metavar="[ID]", required=False)
@click.option("--state", type=click.Choice(["pending", "delivered", "dead"]),
              help="Only in this state.")  # fmt: skip
@options.any_account
@options.limit
@options.as_json
def deliveries(
    video_id: str | None, state: str | None, account: str | None, limit: int, as_json: bool
) -> None:
    """List events and whether their receiver has them, the newest first.

    \b
    reelwatch deliveries --state dead
    reelwatch deliveries veo3.1-fast:1770350082-trii1OXZc3 --json
    """
    with db.reading(options.database()) as session:
        now = db.now(session)
        rows = history.list_deliveries(
            session, video_id=video_id, account=account, state=state, limit=limit
        )
    if as_json:
        cli_render.print_json(rows)
    elif rows:
        cli_render.print_deliveries(rows, now)
    else:
        click.echo("no such events", err=True)


@click.command()
@click.argument("event_ids", metavar="[EVENT…]", nargs=-1)
@click.option("--dead", is_flag=True, help="All that were given up.")
@click.option(
    "--since", type=options.Moment(), metavar="T", help="All made since then, told or not."
)
@click.option("--until", type=options.Moment(), metavar="T", help="… and before then.")
@options.as_json
def redeliver(
    event_ids: Sequence[str],
    dead: bool,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Send events again: same id and body, fresh signature and timestamp.

    Choose them in exactly one way: by id, --dead, or --since (with or without --until).

    \b
    reelwatch redeliver evt_019c306b1f2a5d3c7e90a1b2c3d4
    reelwatch redeliver --dead
    reelwatch redeliver --since 2026-02-06T03:00:00Z --until 2026-02-06T04:00:00Z
    """
    if [bool(event_ids), dead, since is not None].count(True) != 1:
        raise click.UsageError("choose by EVENT ids, --dead or --since: exactly one of them")
    if until is not None and since is None:
        raise click.UsageError("--until goes with --since")
    with db.transaction(options.database()) as session:
        try:
            ids = redelivery.redeliver(
                session, db.now(session), ids=event_ids, dead=dead, since=since, until=until
            )
        except Refused as error:  # an id that does not exist: nothing is wrong with its form
            raise Failure(str(error)) from None
    _tell_ordered(ids, as_json)


def _tell_ordered(ids: Sequence[str], as_json: bool) -> None:
    if as_json:
        cli_render.print_json({"count": len(ids), "ids": ids})
        return
    click.echo(f"{len(ids)} event{'s' * (len(ids) != 1)} will be sent again")
    if len(ids) <= TOLD_ONE_BY_ONE:
        for event_id in ids:
            click.echo(f"  {event_id}")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve.")
@click.option("--port", default=8788, show_default=True, type=click.IntRange(0, 65535))
@click.option("--secret", "secrets", multiple=True, metavar="whsec_…",
              help="Verify with this. Default: WEBHOOK_SECRET, or what `up` keeps.")  # fmt: skip
@click.option("--answer", default=200, show_default=True, type=click.IntRange(200, 599),
              help="The status that verified events get: 500 shows how retries go.")  # fmt: skip
@options.as_json
def listen(host: str, port: int, secrets: Sequence[str], answer: int, as_json: bool) -> None:
    """Receive webhooks here, verify their signatures and print a line for each.

    \b
    WEBHOOK_ALLOW=127.0.0.1 reelwatch up     # first: it makes the secret that both need
    reelwatch listen
    WEBHOOK_ALLOW=127.0.0.1 reelwatch track ID --webhook-url http://127.0.0.1:8788/

    With --json each event is a JSON object on a line of its own.
    """
    keys = tuple(secrets) or settings.current().all_secrets()
    if not keys:
        raise click.UsageError(
            "there is no secret to verify with: set WEBHOOK_SECRET, give --secret, or start "
            "`reelwatch up` first, which keeps one beside its SQLite database"
        )
    receiver = listener.Listener(keys, host, port, answer, _printer(as_json), KEPT)
    receiver.start()
    click.echo(f"listening at {receiver.url}/ until Ctrl-C; verified events get {answer}", err=True)
    click.echo(
        "Start Reelwatch with WEBHOOK_ALLOW=127.0.0.1, and track with "
        f"--webhook-url {receiver.url}/",
        err=True,
    )
    with suppress(KeyboardInterrupt):
        receiver.serve_forever()
    counts = ", ".join(f"{count} {what}" for what, count in receiver.counts().items())
    click.echo(f"\n{counts}", err=True)


def _printer(as_json: bool) -> Callable[[listener.Received], None]:
    return _print_json_event if as_json else _print_event


def _print_json_event(event: listener.Received) -> None:
    cli_render.print_json_line(
        {
            "received_at": event.received_at,
            "verified": event.verified,
            "error": event.error,
            "id": event.id,
            "type": event.type,
            "body": event.body,
        }
    )


def _print_event(event: listener.Received) -> None:
    at = f"{event.received_at:%H:%M:%S}"
    if not event.verified:
        click.echo(plain(f"{at}  NOT VERIFIED  {event.error}  {event.type} {event.id}".rstrip()))
        return
    data = event.body.get("data", {})
    said = f"{data.get('video_id')} sequence {data.get('sequence')}"
    click.echo(plain(f"{at}  verified  {event.type}  {said}  {event.id}"))
