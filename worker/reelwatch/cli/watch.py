"""`reelwatch watch`: jobs as they move, on a screen or as lines."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from reelwatch.cli import board, known, options, render
from reelwatch.cli.errors import database_text
from reelwatch.jobs import history
from reelwatch.rules import wording
from reelwatch.rules.rests import BY_HAND
from reelwatch.rules.video_ids import unknown_id
from reelwatch.storage import db
from reelwatch.storage.counts import at_most
from reelwatch.storage.figures import resting, summary

EVERY_SECONDS = 1.0
FIGURES_EVERY = 5  # drawings: counting a million jobs takes a while
ROWS = 200  # without ids: more than any screen holds, few enough to read every second
# Transitions that commit late have lower ids than others already seen: look back so far.
LOOK_BACK = 2_000
# A database that restarts, fails over or is busy: whoever watches waits for it.
AWAY = (OperationalError, InterfaceError, PoolTimeout)


@click.command()
@click.argument("ids", metavar="[ID…]", nargs=-1)
@options.any_account
@options.as_json
def watch(ids: Sequence[str], account: str | None, as_json: bool) -> None:
    """Watch jobs move: a live table at a terminal, a line per change in a pipe.

    Without ids it shows all that goes on, until Ctrl-C; with ids it ends when they all have ended.

    \b
    reelwatch watch
    reelwatch watch veo3.1-fast:1770350082-trii1OXZc3
    reelwatch watch | tee changes.log

    With --json each change is a JSON object on a line of its own.
    """
    watcher = _Watcher(options.database(), list(dict.fromkeys(ids)) or None, account)
    watcher.check()
    with suppress(KeyboardInterrupt):  # the usual way to end it
        if render.at_terminal() and not as_json:
            watcher.live()
        else:
            watcher.lines(as_json)


class _Watcher:
    """What is watched: the database, and some ids or (None) all of them."""

    def __init__(self, url: str, ids: Sequence[str] | None, account: str | None) -> None:
        self._url = url
        self._ids = ids
        self._account = account

    def check(self) -> None:
        """End the command for an account that is not known, or an id that nobody tracks."""
        with db.reading(self._url) as session:
            known.check_account(session, self._account)
            there = {row["video_id"] for row in self._jobs(session)}
        unknown = [video_id for video_id in self._ids or () if video_id not in there]
        if unknown:
            said = f"not tracked: {', '.join(map(repr, unknown))}"
            raise unknown_id(said, unknown[0])

    def live(self) -> None:
        """A table that is drawn anew every second."""
        figures: dict[str, Any] = {}
        picture: RenderableType = ""
        with Live(console=render.console(), auto_refresh=False) as screen:
            for number in itertools.count():
                try:
                    with db.reading(self._url) as session:
                        now, rows = db.now(session), self._jobs(session)
                        if not figures or number % FIGURES_EVERY == 0:
                            figures = summary(session, now)
                        figures["resting"] = resting(session, now)
                except AWAY as error:  # what was seen last stays, and says that it is older
                    note = Text(wording.plain(database_text(error)), "yellow")
                    screen.update(Group(picture, note), refresh=True)
                else:
                    picture = self._picture(rows, figures, now)
                    screen.update(picture, refresh=True)
                    if self._over(rows):
                        return
                time.sleep(EVERY_SECONDS)

    def lines(self, as_json: bool) -> None:
        """A line per transition; with ids, first where each job is."""
        with db.reading(self._url) as session:
            rows = self._jobs(session) if self._ids else []
            newest = history.last_change(session)
            seen = {change["id"] for change in self._changes(session, newest)}
        click.echo(
            "watching until Ctrl-C" if self._ids is None else "watching until they end", err=True
        )
        for row in rows:
            _print(row if as_json else render.job_line(row), as_json)
        away = False
        while not self._over(rows):
            time.sleep(EVERY_SECONDS)
            try:
                with db.reading(self._url) as session:
                    changes = self._changes(session, newest)
                    new = [change for change in changes if change["id"] not in seen]
                    told = history.with_etas_now(session, new)
                    rows = self._jobs(session) if self._ids else []
            except AWAY as error:  # nothing has been told of this round: the next one does
                if not away:
                    click.echo(f"{database_text(error)}; waiting until it is back", err=True)
                away = True
                continue
            if away:
                click.echo("the database is back", err=True)
            away = False
            for change in told:
                _print(change if as_json else render.change_line(change), as_json)
            seen = {change["id"] for change in changes}
            newest = max(seen, default=newest)

    def _changes(self, session: Session, newest: int) -> list[dict[str, Any]]:
        return history.changes(session, newest - LOOK_BACK, self._ids, self._account)

    def _jobs(self, session: Session) -> list[dict[str, Any]]:
        limit = None if self._ids else ROWS
        return history.live_jobs(session, ids=self._ids, account=self._account, limit=limit)

    def _over(self, rows: Sequence[dict[str, Any]]) -> bool:
        return self._ids is not None and all(history.ended(row) for row in rows)

    def _picture(
        self, rows: Sequence[dict[str, Any]], figures: dict[str, Any], now: datetime
    ) -> RenderableType:
        if not rows:
            return Text("no jobs yet: `reelwatch track ID` hands one in", "dim")
        rests = (Text(wording.plain(line), "yellow") for line in _resting(figures))
        counts = Text("  ".join(_footer(figures)), "dim")
        return Group(board.board(rows, now), counts, *rests)


def _footer(figures: dict[str, Any]) -> Iterator[str]:
    yield "  ".join(
        f"{at_most(count)} {state}" for state, count in figures["jobs"].items() if count
    )
    if figures["undelivered"]:
        yield f"{figures['undelivered']} events to be told"
    if figures["dead"]:
        yield f"{figures['dead']} dead"
    age = figures["last_tick_age_seconds"]
    tick = "no tick yet" if age is None else f"last tick {wording.span(age)} ago"
    yield figures["standby"] or tick


def _resting(figures: dict[str, Any]) -> Iterator[str]:
    """Why jobs do not move, where an account is the reason."""
    for account in figures["resting"]:
        why = account["pause_reason"]
        by_hand = why.startswith(BY_HAND)
        rests, why = (
            ("is paused by hand", why.removeprefix(BY_HAND)) if by_hand else ("rests", f": {why}")
        )
        yield f"account {account['name']} {rests}, its jobs wait{why}"


def _print(what: Any, as_json: bool) -> None:
    if as_json:
        render.print_json_line(what)
    else:
        click.echo(what)
