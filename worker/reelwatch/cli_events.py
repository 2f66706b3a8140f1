"""Commands about telling producers: what was told, and sending again."""

from collections.abc import Sequence
from datetime import datetime

import click

from reelwatch import cli_options as options
from reelwatch import cli_render, db, history, redelivery
from reelwatch.cli_errors import Failure
from reelwatch.errors import Refused

TOLD_ONE_BY_ONE = 20  # more event ids than this are counted, not listed


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
