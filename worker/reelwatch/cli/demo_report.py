"""What the demo says: the screen while it goes on, and the report at its end."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reelwatch.cli.board import SYMBOLS, board, change_line
from reelwatch.cli.scenes import RATE, Reading, Row, Verdict, Videos, judge
from reelwatch.rules.wording import plain
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.upstream import Sandbox

PROBLEMS_SHOWN = 6


TAIL_LINES = 15


TAIL_WIDTH = 400


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo takes place."""

    folder: Path
    database_url: str
    videos: Videos
    upstream: Sandbox
    listener: Listener
    started: float  # monotonic

    @property
    def seconds(self) -> float:
        """How long the demo has been running."""
        return time.monotonic() - self.started


@contextmanager
def screen(console: Console, stage: Stage) -> Iterator[Callable[[Reading], None]]:
    """What shows a reading: a table that moves, or without a terminal a line per change."""
    if not console.is_interactive:
        yield _Lines(console, stage)
        _say(console, "")
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(reading: Reading) -> None:
            table = board(reading.jobs, datetime.now(UTC))
            live.update(
                Group(table, Text(f"\n{_pulse(stage, reading)}", style="dim")), refresh=True
            )

        yield show


class _Lines:
    """A line per change, with the second it was seen in."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console = console
        self._stage = stage
        self._before: Mapping[int, Row] = {}

    def __call__(self, reading: Reading) -> None:
        for job in reading.jobs:
            if line := change_line(self._before.get(job["id"]), job):
                _say(self._console, f"{self._stage.seconds:5.1f}s  {line}")
        self._before = {job["id"]: job for job in reading.jobs}


def _pulse(stage: Stage, reading: Reading) -> str:
    asked, told = stage.upstream.stats(), stage.listener.counts()
    return (
        f"{stage.seconds:.0f} s   {asked['requests']} requests, now {reading.rate:g} a second"
        f"   {told['verified']} webhooks verified"
    )


def _say(console: Console, text: str, style: str = "") -> None:
    """A line of its own, neither wrapped nor coloured by guess: it may be pasted or grepped."""
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def introduce(console: Console, stage: Stage, page: str) -> None:
    refused = sum(scene.refused_once for scene in stage.videos.values())
    for line in (
        f"{len(stage.videos)} videos at a stand-in of QuickRouter ({stage.upstream.url}),",
        f"a receiver that answers 500 to {refused} events at first ({stage.listener.url}),",
        f"and `reelwatch up` with SQLite ({stage.folder}).",
        f"Its page: {page}",
        "",
    ):
        _say(console, line)


def report(console: Console, stage: Stage, reading: Reading, error: str | None) -> int:
    verdicts = judge(reading, stage.videos, stage.listener.events)
    problems = [
        *([error] if error else []),
        *(f"{verdict.video_id}: {text}" for verdict in verdicts for text in verdict.problems),
        *(f"not verified: {event.error}" for event in stage.listener.events if event.error),
    ]
    console.print(_verdict_table(verdicts))
    _print_figures(console, stage, reading, verdicts)
    if problems:
        _print_problems(console, stage, problems)
    _print_next(console, stage)
    return 1 if problems else 0


def _verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("Video", no_wrap=True)
    table.add_column("Ended", no_wrap=True)
    for title in ("Polls", "Changes", "Webhooks"):
        table.add_column(title, justify="right")
    for verdict in verdicts:
        table.add_row(*_verdict_cells(verdict))
    return table


def _verdict_cells(verdict: Verdict) -> Iterator[Text]:
    mark = Text("✗", style="bold red") if verdict.problems else Text("✓", style="green")
    style = SYMBOLS.get(verdict.ended.partition(" ")[0], ("", "red"))[1]
    webhooks = f"{len(verdict.owed & verdict.arrived)} of {len(verdict.owed)}"
    yield from (mark, Text(verdict.video_id), Text(verdict.ended, style=style))
    yield from map(Text, (str(verdict.polls), str(verdict.changes), webhooks))


def _print_figures(
    console: Console, stage: Stage, reading: Reading, verdicts: Sequence[Verdict]
) -> None:
    told = stage.listener.counts()
    as_scripted = sum(verdict.ended == verdict.scripted for verdict in verdicts)
    owed = sum(len(verdict.owed) for verdict in verdicts)
    arrived = sum(len(verdict.owed & verdict.arrived) for verdict in verdicts)
    again = f", {told['duplicates']} of them repeated" if told["duplicates"] else ""
    _say(console, "")
    for name, figure in (
        ("Videos", f"{as_scripted} of {len(verdicts)} ended as scripted"),
        ("Changes", str(len(reading.transitions))),
        ("Events", f"{arrived} of {owed} owed events arrived{again}"),
        ("Webhooks", f"{told['received']} received, {told['verified']} verified by the receiver"),
        ("Requests", _requests(stage, reading)),
        ("Time", f"{stage.seconds:.1f} s"),
    ):
        _say(console, f"{name:<9} {figure}")


def _requests(stage: Stage, reading: Reading) -> str:
    asked = stage.upstream.stats()
    slowed = f", {reading.rate:g} after the 429s" if reading.rate < RATE else ""
    most = asked["max_in_one_second"]
    return f"{asked['requests']}, at most {most} in one second; {RATE} were allowed{slowed}"


def _print_problems(console: Console, stage: Stage, problems: Sequence[str]) -> None:
    _say(console, "")
    for problem in problems[:PROBLEMS_SHOWN]:
        _say(console, f"✗ {plain(problem)}", style="red")
    if more := len(problems[PROBLEMS_SHOWN:]):
        _say(console, f"… and {more} more", style="red")
    log = log_file(stage.folder)
    _say(console, f"\nThe end of {log}:")
    for line in log.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:]:
        _say(console, f"  {plain(line)[:TAIL_WIDTH]}")


def _print_next(console: Console, stage: Stage) -> None:
    told_twice = (name for name, scene in stage.videos.items() if scene.refused_once)
    video_id = next(told_twice, next(iter(stage.videos)))
    prefix = f"DATABASE_URL={shlex.quote(stage.database_url)} {command_prefix(sys.argv[0])}"
    _say(console, "\nTry next:", style="bold")
    for command in (f"show {video_id}", "list --state failed", "deliveries"):
        _say(console, f"{prefix} {command}")


def command_prefix(program: str) -> str:
    """How to call this program again, from the same folder and shell."""
    if program.endswith(".py"):
        return f"{shlex.quote(sys.executable)} -m reelwatch.cli.main"
    name = Path(program).name
    found = shutil.which(name)
    on_path = found is not None and Path(program).exists() and Path(found).samefile(program)
    return name if on_path else shlex.quote(program)


def log_file(folder: Path) -> Path:
    return folder / "worker.log"
