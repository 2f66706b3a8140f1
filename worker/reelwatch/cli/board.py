"""How jobs look on a screen: a table that fits its terminal, a line per change for a pipe. Pure.

Rows have the names of the columns of `jobs`. What upstream wrote is shown as text and nothing else:
neither control codes nor markup in it reach the terminal.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from reelwatch.rules import ages
from reelwatch.rules.states import State
from reelwatch.rules.timing.eta import in_short, in_words
from reelwatch.rules.wording import host, plain, span

Row = Mapping[str, Any]

SYMBOLS: Mapping[str, tuple[str, str]] = {  # colour alone would not do: not everybody sees it
    State.PENDING: ("○", "dim"),
    State.RUNNING: ("▸", "cyan"),
    State.COMPLETED: ("✓", "green"),
    State.FAILED: ("✗", "red"),
    State.EXPIRED: ("?", "yellow"),
    State.CANCELLED: ("■", "magenta"),
}

_WIDE_FROM = 118  # terminal columns; below, notes and next polls share one
_ID_HEAD = 12  # the model; the rest of a shortened id is its end, which tells jobs apart
TIME_WIDTH = 5  # of the narrow table
_OTHER_LINES = 5  # what else a screen holds: the header, "… more", and the caller's own lines


class Column(NamedTuple):
    """One column of the table; width 0 takes what the others leave."""

    title: str
    width: int
    text: Callable[[Row, datetime], str]
    right: bool = False
    optional: bool = False  # left out where even the narrow table would be too wide


@dataclass(frozen=True, slots=True)
class _Board:
    rows: Sequence[Row]
    now: datetime

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        room = options.max_height - _OTHER_LINES if console.is_terminal else len(self.rows)
        shown = _most_wanted(self.rows, max(1, room))
        yield _table(shown, self.now, options.max_width)
        if len(shown) < len(self.rows):
            yield Text(f"… and {len(self.rows) - len(shown)} more", style="dim")


def board(rows: Sequence[Row], now: datetime) -> RenderableType:
    """The jobs as a table, as wide as there is room; on a low terminal ended jobs leave first."""
    return _Board(rows, now)


def change_line(before: Row | None, after: Row) -> str:
    """What changed between two readings of a job, as one line of plain text; empty: nothing.

    `before` is None for a job not seen before. What makes a line is a new state, a new status of
    upstream's, or a new kind of error.
    """
    known = before or {}
    parts = []
    if known.get("state") != after["state"]:
        parts.append(f"{known['state']} -> {after['state']}" if known else str(after["state"]))
    status = after["upstream_status"]
    if status not in (None, known.get("upstream_status"), after["state"]):
        parts.append(plain(status))
    if not parts and after.get("last_error") in (None, known.get("last_error")):
        return ""
    return "  ".join(filter(None, [job_name(after), *parts, note(after)]))


def job_name(row: Row) -> str:
    """A job's id, with its account in front unless that is the default one."""
    prefix = "" if row["account"] == "default" else f"{row['account']}/"
    return plain(f"{prefix}{row['video_id']}")


def note(row: Row) -> str:
    """What is to be said of a job beyond its state: its error, its last poll's, its URL's host."""
    if row["error_code"]:
        return str(row["error_code"])
    if in_short(row) == "?":
        return in_words(row)
    if slow(row):
        return "slower than 95 %"
    if row["video_url"]:
        return host(row["video_url"])
    if row.get("last_error"):
        return f"{row['errors_in_row']}x {row['last_error']}"
    return ""


def held_up(row: Row) -> str:
    """Why a job is not simply polled when it is due; empty where nothing is in the way."""
    return plain(row.get("next_poll_reason") or "")


def slow(row: Row) -> bool:
    """Does it take longer than 95 % of the jobs of its kind?"""
    eta = row.get("eta")
    return bool(eta and eta["slower_than_95_percent"])


# ------------------------------------------------------------------- table


def _table(rows: Iterable[Row], now: datetime, width: int) -> Table:
    columns = _columns(width)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            width=column.width,
            no_wrap=True,
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*(_cell(column, row, now) for column in columns))
    return table


def _columns(width: int) -> Sequence[Column]:
    """The columns that a screen of this width has room for, the last one filling it."""
    columns = list(_WIDE if width >= _WIDE_FROM else _NARROW)
    for spare in [column for column in columns if column.optional]:
        if _taken(columns) + len(columns[-1].title) > width:
            columns.remove(spare)
    return [*columns[:-1], columns[-1]._replace(width=max(1, width - _taken(columns)))]


def _taken(columns: Sequence[Column]) -> int:
    """What all columns but the last take, with the blank behind each."""
    return sum(column.width + 1 for column in columns[:-1])


def _cell(column: Column, row: Row, now: datetime) -> Text:
    text = column.text(row, now)
    if column.title == "Video":
        text = _shortened(text, column.width)
    cell = Text(text, style=SYMBOLS[row["state"]][1] if column.title == "State" else "")
    cell.truncate(column.width, overflow="ellipsis")
    return cell


def _most_wanted(rows: Sequence[Row], room: int) -> Sequence[Row]:
    """As many rows as there is room for, in their order: open jobs, then those ended last."""
    if len(rows) <= room:
        return rows
    wanted = sorted(range(len(rows)), key=lambda place: _urgency(rows[place]))
    return [rows[place] for place in sorted(wanted[:room])]


def _urgency(row: Row) -> float:
    ended: datetime | None = row["finished_at"]
    return -ended.timestamp() if ended is not None else float("-inf")


# ------------------------------------------------------------------- cells


def _state(row: Row, _now: datetime) -> str:
    return f"{SYMBOLS[row['state']][0]} {row['state']}"


def _upstream(row: Row, _now: datetime) -> str:
    return plain(row["upstream_status"] or "")


def _upstream_short(row: Row, now: datetime) -> str:
    """Its status without `video_`, which tells nothing and hides the end where room is short."""
    return _upstream(row, now).removeprefix("video_")


def _time(row: Row, now: datetime) -> str:
    return span(ages.time_seconds(row, now))


def _time_short(row: Row, now: datetime) -> str:
    """The same for a narrow column: `14m` for `14m22s`."""
    text = _time(row, now)
    return text if len(text) <= TIME_WIDTH else re.sub(r"(?<=[a-z]).*", "", text)


def _next_poll(row: Row, now: datetime) -> str:
    if row["next_poll_at"] is None:
        return ""
    at = row.get("next_poll_expected_at", row["next_poll_at"])  # the demo shows plain rows
    if at is None:
        return "?"
    wait = (at - now).total_seconds()
    return "now" if wait <= 0 else span(ceil(wait))


def _note(row: Row, _now: datetime) -> str:
    message = plain(row["error_message"] or "")
    said = f"{note(row)}: {message}" if message else note(row)
    return "; ".join(filter(None, [held_up(row), said]))


def _next_left_note(row: Row, now: datetime) -> str:
    left, said = in_short(row), "slow" if slow(row) else note(row)
    if left == "?":
        left, said = "", "no estimate" if said == in_words(row) else said
    return ", ".join(filter(None, [_next_poll(row, now), left, held_up(row), said]))


def _shortened(text: str, width: int) -> str:
    """The text with its middle left out where it is too long."""
    if len(text) <= width:
        return text
    head = min(_ID_HEAD, width // 2)
    return f"{text[:head]}…{text[head + 1 - width :]}"


_WIDE = (
    Column("Video", 34, lambda row, _: job_name(row)),
    Column("State", 11, _state),
    Column("Upstream", 26, _upstream),
    Column("Time", 6, _time, right=True),
    Column("Polls", 5, lambda row, _: str(row["polls"]), right=True),
    Column("Next", 6, _next_poll, right=True),
    Column("Left", 7, lambda row, _: in_short(row), right=True),
    Column("Note", 0, _note),
)
_NARROW = (
    Column("Video", 23, lambda row, _: job_name(row)),
    Column("State", 11, _state),
    Column("Upstream", 11, _upstream_short, optional=True),
    Column("Time", TIME_WIDTH, _time_short, right=True, optional=True),
    Column("Polls", 5, lambda row, _: str(row["polls"]), right=True, optional=True),
    Column("Next, left, note", 0, _next_left_note),
)
