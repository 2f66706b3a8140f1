"""`reelwatch demo`: 25 videos on their way from id to verified webhook, on this machine alone.

Only upstream and receiver are stand-ins, in this process and reached over HTTP. The worker is
`reelwatch up` in a process of its own, and what it made of the videos is read from its database.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select

from reelwatch import track_many
from reelwatch.app import embedded
from reelwatch.cli.board import SYMBOLS, board, change_line
from reelwatch.config import settings
from reelwatch.rules.events import DEFAULT_EVENTS
from reelwatch.rules.status import EventType, State
from reelwatch.rules.wording import plain
from reelwatch.sandbox.listener import Listener, Received
from reelwatch.sandbox.upstream import Sandbox, expected, scripted_id
from reelwatch.storage import db, migrating
from reelwatch.storage.models import table_of


@dataclass(frozen=True, slots=True)
class Scene:
    """One video: what upstream does with it and for how long, and what its producer wants."""

    model: str
    script: str
    seconds: float
    every_change: bool = False  # its producer is told of every change, not only of the end
    refused_once: bool = False  # the receiver answers 500 to the first attempt at its final event
    deadline: str = "10m"  # longer than any demo: no slow machine makes a video expire


SCENES = (
    Scene("veo3.1-fast", "ok", 6, every_change=True),
    Scene("sora-2", "ok", 16, every_change=True),
    Scene("veo3.1", "leftovers", 8, every_change=True, refused_once=True),
    Scene("veo3.1", "odd", 15, every_change=True),
    Scene("veo3.1", "retried", 15, every_change=True),
    Scene("veo3.1", "ok", 12),
    Scene("sora-2", "ok", 9, refused_once=True),
    Scene("grok", "ok", 5),
    Scene("sora-2", "leftovers", 13),
    Scene("grok", "wrapped", 6),
    Scene("veo3.1", "lateurl", 7),
    Scene("sora-2", "unready", 9),
    Scene("sora-2", "busy", 15),
    Scene("grok", "flaky", 10),
    Scene("veo3.1-fast", "flaky", 14),
    Scene("sora-2", "html", 11),
    Scene("grok", "garbage", 8),
    Scene("veo3.1", "policy", 7),
    Scene("grok", "policy", 9),
    Scene("grok", "silent", 8),
    Scene("sora-2", "failedobject", 10),
    Scene("veo3.1", "upsampling", 12),
    Scene("veo3.1", "forgotten", 11),
    Scene("grok", "unknown", 5),
    Scene("veo3.1", "forever", 30, deadline="16s"),
)

RATE = 20
PACE = {  # minutes become seconds; the rest is as it is for everybody
    "REELWATCH_REQUESTS_PER_SECOND": str(RATE),
    "REELWATCH_POLL_MIN": "500ms",
    "REELWATCH_POLL_MAX": "2s",
    "REELWATCH_NOT_FOUND_AFTER": "3s",
    "REELWATCH_RESULT_GRACE": "60s",
    "REELWATCH_DEADLINE": "10m",
    "REELWATCH_RETRY_SCHEDULE": "1s,2s,4s,8s",
    "LOG_FORMAT": "json",
}
FOREIGN = re.compile(  # what a user's shell may hold that would make it another demo
    r"(REELWATCH|WEBHOOK|QUICKROUTER|CELERY|LOG)_.*|(DATABASE|BROKER|REDIS)_URL|(HTTPS?|ALL)_PROXY",
    re.IGNORECASE,
)

UP = (sys.executable, "-m", "reelwatch.cli.main", "up")
PATIENCE_SECONDS = 75.0
STOP_SECONDS = 8.0
REFRESH_SECONDS = 0.25
PROBLEMS_SHOWN = 6
TAIL_LINES = 15
TAIL_WIDTH = 400

Videos = Mapping[str, Scene]  # by their ids
Row = Mapping[str, Any]
Event = tuple[int, str]  # sequence and type

_ENDS = (State.COMPLETED, State.FAILED, State.EXPIRED)
_LOST: Row = {"id": None, "state": "lost", "error_code": None, "polls": 0}  # no job by that id


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


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database says at one moment."""

    jobs: Sequence[Row]
    transitions: Sequence[Row]
    pending: int  # events whose receiver has not accepted them yet
    rate: float  # requests per second that the account makes do with, after the 429s

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return not self.pending and all(job["state"] in _ENDS for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One video's end, held against its script and against what its receiver got."""

    video_id: str
    ended: str
    scripted: str
    looks: int
    changes: int
    owed: frozenset[Event]
    arrived: frozenset[Event]

    @property
    def problems(self) -> Sequence[str]:
        """What went otherwise than it should, in words."""
        wrong = [f"{self.ended}, scripted: {self.scripted}"] * (self.ended != self.scripted)
        lost = [f"{kind} ({n}) never came verified" for n, kind in sorted(self.owed - self.arrived)]
        odd = [f"{kind} ({n}) came unowed" for n, kind in sorted(self.arrived - self.owed)]
        return [*wrong, *lost, *odd]


def run(
    console: Console,
    *,
    scenes: Sequence[Scene] = SCENES,
    up: Sequence[str] = UP,
    patience: float = PATIENCE_SECONDS,
) -> int:
    """The whole demo; 0 only if every video ended as scripted and every owed event was verified.

    `up` is the command that starts the worker. Whatever happens, it ends within `patience` and a
    few seconds. The folder with the database and the log stays, except after Ctrl-C.
    """
    folder = Path(tempfile.mkdtemp(prefix="reelwatch-demo-"))
    try:
        with _signals_interrupt():
            return _perform(console, folder, by_id(scenes), up, patience)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("Interrupted. The worker is stopped, and nothing is left behind.")
        return 1


def by_id(scenes: Iterable[Scene]) -> Videos:
    """The scenes by the ids of their videos, which a letter tells apart."""
    return {
        scripted_id(scene.model, scene.script, scene.seconds, chr(ord("a") + place)): scene
        for place, scene in enumerate(scenes)
    }


def _perform(
    console: Console, folder: Path, videos: Videos, up: Sequence[str], patience: float
) -> int:
    started, secret = time.monotonic(), embedded.new_secret()
    with Sandbox() as upstream, _receiver(secret, videos) as listener:
        with _only_settings(folder, upstream.url, secret) as database_url:
            stage = Stage(folder, database_url, videos, upstream, listener, started)
            _introduce(console, stage)
            trouble, reading = _play(console, stage, up, patience)
        return _report(console, stage, reading, trouble)


def _play(
    console: Console, stage: Stage, up: Sequence[str], patience: float
) -> tuple[str | None, Reading]:
    """Runs the worker until nothing is left to do; what stopped it before that, and the end."""
    migrating.migrate(stage.database_url)
    with _worker(up, stage.folder) as worker:
        _track(stage.videos, f"{stage.listener.url}/webhooks")
        with _screen(console, stage) as show:
            trouble = _follow(stage, worker, show, patience)
    return trouble, read(stage.database_url)


def _follow(
    stage: Stage,
    worker: subprocess.Popen[bytes],
    show: Callable[[Reading], None],
    patience: float,
) -> str | None:
    """Shows the videos move until nothing is left to do; what is wrong if it comes otherwise."""
    while True:
        reading = read(stage.database_url)
        show(reading)
        if reading.settled:
            return None
        if worker.poll() is not None:
            return f"The worker ended by itself, with exit code {worker.returncode}."
        if stage.seconds > patience:
            return f"Not everything was done after {patience:.0f} s."
        time.sleep(REFRESH_SECONDS)


# ------------------------------------------------------------------- stage


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Being killed, or a closed terminal, is like Ctrl-C: the worker must not outlive the demo."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _only_settings(folder: Path, upstream_url: str, secret: str) -> Iterator[str]:
    """The demo's settings, for this process and the worker, instead of the user's own."""
    before = dict(os.environ)
    for name in filter(FOREIGN.fullmatch, before):
        del os.environ[name]
    os.environ.update(environment(folder, upstream_url, secret))
    settings.current.cache_clear()
    try:
        yield settings.current().database_url
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.current.cache_clear()
        db.dispose()


def environment(folder: Path, upstream_url: str, secret: str) -> Mapping[str, str]:
    """All settings of the demo."""
    return PACE | {
        "DATABASE_URL": f"sqlite:///{folder / 'reelwatch.db'}",
        "QUICKROUTER_BASE_URL": upstream_url,
        "QUICKROUTER_API_KEY": "sk-demo-known-to-the-stand-in",
        "WEBHOOK_SECRET": secret,
        "WEBHOOK_ALLOW": "127.0.0.1",
    }


@contextmanager
def _worker(up: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with _log_file(folder).open("wb") as log:
        # In a session of its own, Ctrl-C reaches the demo alone, which then ends it in order; in a
        # folder of its own, `-m reelwatch.cli` can't mean another package called `reelwatch`.
        process = subprocess.Popen(  # noqa: S603 (our own command line, no shell)
            up,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and makes it when it takes long or Ctrl-C is pressed again."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _receiver(secret: str, videos: Videos) -> Listener:
    def answer(event: Received) -> int:
        scene = videos.get(str(event.body.get("data", {}).get("video_id")))
        final = event.type != EventType.STATUS_CHANGED
        first = listener.seen[event.id] == 1
        return 500 if scene and scene.refused_once and final and first else 200

    listener: Listener = Listener([secret], answer=answer)
    return listener


def _track(videos: Videos, webhook_url: str) -> None:
    alike: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for video_id, scene in videos.items():
        alike[scene.deadline, scene.every_change].append(video_id)
    for (deadline, every_change), ids in alike.items():
        track_many(
            ids,
            webhook_url=webhook_url,
            metadata={"project": "demo"},
            deadline=deadline,
            events=[*DEFAULT_EVENTS, "status_changed"] if every_change else DEFAULT_EVENTS,
        )


def read(database_url: str) -> Reading:
    """The database as it is now."""
    names = ("jobs", "transitions", "deliveries", "accounts")
    jobs, transitions, deliveries, accounts = map(table_of, names)
    columns = ("job_id", "sequence", "from_state", "to_state")  # without the answers behind them
    changes = select(*(transitions.c[name] for name in columns))
    pending = select(func.count()).where(deliveries.c.state == "pending")
    with db.reading(database_url) as session:
        return Reading(
            [row._asdict() for row in session.execute(select(jobs).order_by(jobs.c.id))],
            [row._asdict() for row in session.execute(changes)],
            session.execute(pending).scalar_one(),
            session.execute(select(accounts.c.requests_per_second)).scalar_one(),
        )


# ------------------------------------------------------------------ screen


@contextmanager
def _screen(console: Console, stage: Stage) -> Iterator[Callable[[Reading], None]]:
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


# ----------------------------------------------------------------- verdict


def judge(reading: Reading, videos: Videos, received: Iterable[Received]) -> list[Verdict]:
    """How each video ended and what its receiver got of what it was owed."""
    arrived: defaultdict[str, set[Event]] = defaultdict(set)
    for event in received:
        if event.verified:
            data = event.body["data"]
            arrived[data["video_id"]].add((data["sequence"], event.type))
    jobs = {job["video_id"]: job for job in reading.jobs}
    return [
        _verdict(video_id, jobs.get(video_id, _LOST), scene, reading, arrived[video_id])
        for video_id, scene in videos.items()
    ]


def _verdict(
    video_id: str, job: Row, scene: Scene, reading: Reading, arrived: Iterable[Event]
) -> Verdict:
    script = expected(video_id)
    changes = [change for change in reading.transitions if change["job_id"] == job["id"]]
    return Verdict(
        video_id=video_id,
        ended=_end_in_words(job["state"], job["error_code"]),
        scripted=_end_in_words(script.outcome, script.error_code),
        looks=job["polls"],
        changes=len(changes),
        owed=_owed(scene, changes),
        arrived=frozenset(arrived),
    )


def _end_in_words(state: str, error_code: str | None) -> str:
    return f"{state} {error_code}" if error_code else state


def _owed(scene: Scene, changes: Iterable[Row]) -> frozenset[Event]:
    """The events that follow from these changes: of the end always, of the others if asked for."""
    events = [(change["sequence"], _event_type(change)) for change in changes]
    wanted = [e for e in events if scene.every_change or e[1] != EventType.STATUS_CHANGED]
    return frozenset(wanted)


def _event_type(change: Row) -> str:
    ends = change["to_state"] in _ENDS and change["to_state"] != change["from_state"]
    return f"video.{change['to_state']}" if ends else EventType.STATUS_CHANGED.value


# ------------------------------------------------------------------ report


def _introduce(console: Console, stage: Stage) -> None:
    refused = sum(scene.refused_once for scene in stage.videos.values())
    for line in (
        f"{len(stage.videos)} videos at a stand-in of QuickRouter ({stage.upstream.url}),",
        f"a receiver that answers 500 to {refused} events at first ({stage.listener.url}),",
        f"and `reelwatch up` with SQLite ({stage.folder}).",
        "",
    ):
        _say(console, line)


def _report(console: Console, stage: Stage, reading: Reading, trouble: str | None) -> int:
    verdicts = judge(reading, stage.videos, stage.listener.events)
    problems = [
        *([trouble] if trouble else []),
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
    for title in ("Looks", "Changes", "Webhooks"):
        table.add_column(title, justify="right")
    for verdict in verdicts:
        table.add_row(*_verdict_cells(verdict))
    return table


def _verdict_cells(verdict: Verdict) -> Iterator[Text]:
    mark = Text("✗", style="bold red") if verdict.problems else Text("✓", style="green")
    style = SYMBOLS.get(verdict.ended.partition(" ")[0], ("", "red"))[1]
    webhooks = f"{len(verdict.owed & verdict.arrived)} of {len(verdict.owed)}"
    yield from (mark, Text(verdict.video_id), Text(verdict.ended, style=style))
    yield from map(Text, (str(verdict.looks), str(verdict.changes), webhooks))


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
    log = _log_file(stage.folder)
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


def _log_file(folder: Path) -> Path:
    return folder / "worker.log"
