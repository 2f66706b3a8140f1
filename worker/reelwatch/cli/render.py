"""How results look: JSON for programs; for people tables at a terminal, whole lines in a pipe.

What upstream and receivers wrote is shown as plain text: no markup and no control codes of theirs
reach the terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reelwatch.cli import board
from reelwatch.rules import ages, events
from reelwatch.rules.outlook import Expected, sentence
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import OPEN
from reelwatch.rules.status import Meaning, meaning_of
from reelwatch.rules.timing import eta
from reelwatch.rules.wording import destinations, plain, receiver, span

Row = Mapping[str, Any]

SYMBOLS = {
    **board.SYMBOLS,
    DeliveryState.DELIVERED: ("✓", "green"),
    DeliveryState.DEAD: ("✗", "red"),
}
PIPE_WIDTH = 100_000  # nothing is wrapped or cut where a program reads


def console(*, stderr: bool = False) -> Console:
    """A console that fits its stream; the width of a pipe is no limit."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def progress_console() -> Console:
    """Where progress is shown: a terminal at standard error, else nowhere.

    Old versions of Rich end even a disabled progress bar with an empty line.
    """
    screen = console(stderr=True)
    return screen if screen.is_terminal else Console(quiet=True)


def at_terminal() -> bool:
    """Does somebody read this on a screen?"""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """One JSON document; times as ISO 8601 in UTC with microseconds and `Z`."""
    click.echo(_json(value, indent=2))


def print_json_line(value: Any) -> None:
    """One JSON document on one line, for a stream of them."""
    click.echo(_json(value))


# JSON spells out only the first 32 controls. A terminal obeys these as well, or hides text by them.
UNSPELLED = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, default=_foreign, ensure_ascii=False, indent=indent)
    return UNSPELLED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _foreign(value: Any) -> Any:
    if isinstance(value, datetime):
        return events.timestamp(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def clock(at: datetime | None) -> str:
    """A time to the second, in UTC and saying so."""
    return at.strftime("%Y-%m-%d %H:%M:%SZ") if at else ""


def state_text(state: str) -> Text:
    """A job's or delivery's state with its sign and colour."""
    sign, style = SYMBOLS.get(state, ("", ""))
    return Text(f"{sign} {state}".strip(), style)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Rows under titles: at a terminal wrapped into its width, else aligned and whole."""
    cells = [[_text(cell) for cell in row] for row in rows]
    if not at_terminal():
        _print_aligned([[Text(title) for title in titles], *cells])
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console().print(table)


def _print_aligned(rows: Sequence[Sequence[Text]]) -> None:
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.plain.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(plain(cell))


# -------------------------------------------------------------------- jobs


def print_jobs(rows: Sequence[Row], now: datetime) -> None:
    """Jobs as a table; at a terminal what holds several of them up is told once, below it.

    Their TIME is how old an open one is, and how long an ended one took.
    """
    titles = ("VIDEO", "STATE", "TIME", "LEFT", "POLLS", "NOTE")
    reasons = dict.fromkeys(filter(None, (row["next_poll_reason"] for row in rows)))
    numbers = {reason: str(place) for place, reason in enumerate(reasons, 1)}
    marks = numbers if at_terminal() else {}
    print_table(titles, [_job_cells(row, now, marks) for row in rows])
    for reason, number in marks.items():
        console().print(_beside(f"({number})", reason))


def _job_cells(row: Row, now: datetime, marks: Mapping[str, str]) -> Sequence[str | Text]:
    time = span(ages.time_seconds(row, now))
    name, state, polls = board.job_name(row), state_text(row["state"]), str(row["polls"])
    return name, state, time, eta.in_short(row), polls, _note(row, now, marks)


def _note(row: Row, now: datetime, marks: Mapping[str, str]) -> str:
    status = row["upstream_status"] if row["next_poll_at"] else None
    if meaning_of(status) is Meaning.SUCCESS and row["state"] in OPEN:
        status = f"upstream says {status}, no URL yet"
    reason = row["next_poll_reason"]
    marked = {**row, "next_poll_reason": marks.get(reason, reason)}
    parts = (status, board.note(row), _next_poll(marked, now))
    return ", ".join(str(part) for part in parts if part)


def _next_poll(row: Row, now: datetime) -> str:
    """`next poll in 42s`, with what is in its way, if anything is."""
    if row["next_poll_at"] is None:
        return "given up" if row["abandoned_at"] else ""
    expected = Expected(row["next_poll_expected_at"], row["next_poll_reason"])
    return f"next poll {sentence(expected, now)}"


# ------------------------------------------------------------------- story


def print_story(
    job: Row, sentences: Sequence[tuple[datetime, str]], now: datetime, no_eta: str = ""
) -> None:
    """A job's present state, then its story. `no_eta`: why there is no `eta`, if that is known."""
    screen = console()
    heading = (plain(job["video_id"]), "bold")
    screen.print(Text.assemble(heading, "  ", state_text(job["state"])), soft_wrap=True)
    for name, value in _facts(job, now, no_eta):
        screen.print(_beside(f"  {name:<8}", value), soft_wrap=name == "video")
    day = None
    for at, text in sentences:
        if at.date() != day:
            day = at.date()
            screen.print(Text(f"\n{day} (UTC)", "bold"))
        screen.print(_beside(f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", text))


def _beside(name: str, text: str) -> Table | Text:
    """At a terminal the text wraps beside its name, not under it; a URL stays in one piece."""
    value = Text(plain(text))
    if not at_terminal() or text.startswith("https://"):
        return Text.assemble((f"{name}  ", "dim"), value)
    return _grid(Text(name, "dim"), value, 2)


def print_beside(sign: Text, text: Text) -> None:
    """A line that begins with a sign; at a terminal what is too long for it wraps beside that."""
    if at_terminal():
        console().print(_grid(sign, text, 1))
    else:
        console().print(Text.assemble(sign, " ", text), soft_wrap=True)


def _grid(name: Text, value: Text, apart: int) -> Table:
    grid = Table.grid(padding=(0, apart))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(name, value)
    return grid


def _facts(job: Row, now: datetime, no_eta: str) -> Iterable[tuple[str, str]]:
    yield "account", job["account"]
    if job["model"]:
        yield "model", job["model"]
    if job["upstream_status"]:
        yield "upstream", f"says {job['upstream_status']}"
    if job["video_url"]:
        yield "video", job["video_url"]
    if job["error_code"]:
        yield "error", f"{job['error_code']}: {job['error_message']}"
    yield "polls", ", ".join(part for part in (str(job["polls"]), _next_poll(job, now)) if part)
    if took := ages.in_words(job):
        yield "took", took
    if ahead := eta.in_words(job) or no_eta:
        yield "eta", ahead
    yield "deadline", clock(job["deadline_at"])
    yield "tells", destinations(job)
    if job["metadata"]:
        yield "metadata", json.dumps(job["metadata"], ensure_ascii=False)


# -------------------------------------------------------------- deliveries


def print_deliveries(rows: Sequence[Row], now: datetime) -> None:
    """Events: a paragraph each at a terminal, one line in a pipe."""
    screen = console()
    for row in rows:
        head = Text(f"{clock(row['created_at'])}  ").append(state_text(row["state"]))
        head.append(f"  {row['event_type']}  {board.job_name(row)}", "bold")
        parts = [Text(plain(part)) for part in _delivery_parts(row, now)]
        if at_terminal():
            screen.print(head, soft_wrap=True)
            for part in parts:
                screen.print(Padding(part, (0, 0, 0, 4)))
        else:
            screen.print(Text("  ").join([head, *parts]), soft_wrap=True)


def _delivery_parts(row: Row, now: datetime) -> Iterable[str]:
    yield f"{row['id']} to {receiver(row['channel'], row['target'])}"
    yield _told_so_far(row, now)


def _told_so_far(row: Row, now: datetime) -> str:
    """`not sent yet; next attempt now`, `delivered at … by attempt 2 in 12 ms`, …"""
    last, number = row["last_attempt"], row["attempts"]
    if row["state"] == DeliveryState.DELIVERED:
        took = f" in {last['duration_ms']} ms" if last else ""
        return f"delivered at {clock(row['delivered_at'])} by attempt {number}{took}"
    tried = f"{number} attempt" + ("s" if number != 1 else "") if number else "not sent yet"
    if last:
        outcome = last["error"] or "delivered"
        tried += f", the last at {clock(last['at'])}: {outcome}, after {last['duration_ms']} ms"
    if row["state"] == DeliveryState.DEAD:
        return f"given up after {tried}; `reelwatch redeliver {row['id']}` sends it again"
    expected = Expected(row["next_attempt_expected_at"], row["next_attempt_reason"])
    return f"{tried}; next attempt {sentence(expected, now)}"


# ----------------------------------------------------------------- changes


def change_line(change: Row) -> str:
    """A transition on one line."""
    parts = [clock(change["at"]), board.job_name(change)]
    if change["from_state"] == change["to_state"]:
        parts.append(change["to_state"])
    else:
        parts.append(f"{change['from_state']} → {change['to_state']}")
    moved = change["from_state"] != change["to_state"]
    if change["to_status"] not in (change["from_status"], change["to_state"] if moved else None):
        parts.append(f"upstream: {change['to_status']}")
    return plain("  ".join([*parts, *_outcome(change)]))


def job_line(job: Row) -> str:
    """Where a job is, on one line."""
    return "  ".join([board.job_name(job), job["state"], *_ahead(job)])


def _ahead(row: Row) -> Iterable[str]:
    if ahead := eta.in_passing(row):
        yield ahead


def _outcome(change: Row) -> Iterable[str]:
    yield from _ahead(change)
    if change["to_state"] == "completed":
        yield str(change["video_url"])
    if change["to_state"] == "failed" and change["error_code"]:
        yield f"{change['error_code']}: {change['error_message']}"
