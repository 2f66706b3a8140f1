"""Commands about telling producers: what was told, and sending again."""

import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

import click

from reelwatch.cli import known, many, options, render
from reelwatch.cli.errors import Failure
from reelwatch.errors import Refused
from reelwatch.jobs import history, redelivery
from reelwatch.rules.retry import DeliveryState
from reelwatch.storage import db, surveys
from reelwatch.storage.filters import EventFilter

TOLD_ONE_BY_ONE = 20  # more event ids than this are counted, not listed


@click.command()
@click.argument("video_id", metavar="[ID]", required=False)
@options.events_filter
@options.limit
@options.as_json
def deliveries(video_id: str | None, limit: int, as_json: bool, **asked: Any) -> None:
    """List events and whether their receiver has them, the newest first.

    \b
    reelwatch deliveries --state dead
    reelwatch deliveries veo3.1-fast:1770350082-trii1OXZc3 --json
    """
    with db.reading(options.database()) as session:
        now = db.now(session)
        rows = history.list_deliveries(session, video_id=video_id, limit=limit, **asked)
        if not rows:
            known.check_account(session, asked["account"])
            known.check_id(session, video_id, asked["account"])
            known.check_endpoint(session, asked["endpoint"])
    if as_json:
        render.print_json(rows)
    elif rows:
        render.print_deliveries(rows, now)
    else:
        click.echo("no such events", err=True)


@click.command()
@click.argument("event_ids", metavar="[EVENT…]", nargs=-1)
@click.option("--dead", is_flag=True, help="Those that were given up: --state dead.")
@click.option("--now", "release", is_flag=True,
              help="Their receivers are repaired: call them at once, however long they were to "
              "rest, one event first. Without --state: what is pending or dead.")  # fmt: skip
@options.events_filter
@many.consent
@options.as_json
def redeliver(
    event_ids: Sequence[str],
    dead: bool,
    release: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Send events again: same id and body, fresh signature and timestamp.

    Name them, or choose them by the options: all that are given must hold. Then it says how many
    they are, and to whom they go, and asks; a script says --yes.

    \b
    reelwatch redeliver evt_019c306b1f2a5d3c7e90a1b2c3d4
    reelwatch redeliver --dead --endpoint app.example.com
    reelwatch redeliver --since 2026-02-06T03:00:00Z --until 2026-02-06T04:00:00Z --dry-run
    reelwatch redeliver --now --endpoint https://app.example.com/reelwatch

    An endpoint is a callback URL, a host, a Celery task or task@queue.
    """
    if dead and asked["state"] not in (None, DeliveryState.DEAD):
        raise click.UsageError("--dead and another --state: nothing is both")
    asked["state"] = DeliveryState.DEAD.value if dead else asked["state"]
    asked["untold"] = release and not event_ids
    chosen = any(asked.values())
    if event_ids and chosen:
        raise click.UsageError("EVENT ids, or --dead, --since and the other options: not both")
    if not event_ids and not chosen:
        raise click.UsageError("choose by EVENT ids, or by --dead, --since and the other options")
    url = options.database()
    if event_ids:
        _tell_ordered(_again(url, event_ids, release), as_json)
        return
    wanted = EventFilter(**asked)
    found = surveys.to_redeliver(url, wanted)
    if not found.count:
        known.check_chosen(url, wanted)
    if many.agreed("send {} event", found, "made", yes=yes, dry_run=dry_run, as_json=as_json):
        batches = redelivery.redeliver_chosen(
            url, found.ids, states=wanted.states, release=release, by=options.who(),
            chosen_by=dataclasses.asdict(wanted),
        )  # fmt: skip
        done = many.through(batches, found.count, "ordered {} event", len)
        _tell_ordered(sorted(chain.from_iterable(done)), as_json, found.count)


def _again(url: str, event_ids: Sequence[str], release: bool) -> list[str]:
    with db.transaction(url) as session:
        try:
            now = db.now(session)
            return redelivery.redeliver(session, now, event_ids, release=release, by=options.who())
        except Refused as error:  # an id that does not exist: nothing is wrong with its form
            raise Failure(str(error)) from None


def _tell_ordered(ids: Sequence[str], as_json: bool, found: int | None = None) -> None:
    """`found`: how many a filter found; those of them that are not ordered are told, too."""
    left_out = 0 if found is None else found - len(ids)
    if as_json:
        of_filter = {} if found is None else {"left_out": left_out}
        render.print_json({"count": len(ids), "ids": ids, **of_filter})
        return
    said = f"{len(ids)} event{'s' * (len(ids) != 1)} will be sent again"
    click.echo(said + many.left_out(left_out))
    if len(ids) <= TOLD_ONE_BY_ONE:
        for event_id in ids:
            click.echo(f"  {event_id}")
