"""`reelwatch demo`: 25 videos on their way from id to verified webhook, on this machine alone.

Only upstream and receiver are stand-ins, in this process and reached over HTTP. The worker is
`reelwatch up` in a process of its own, and what it made of the videos is read from its database.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from sqlalchemy import func, select

from reelwatch import track_many
from reelwatch.app import embedded
from reelwatch.cli import web
from reelwatch.cli.demo_report import Stage, introduce, log_file, report, screen
from reelwatch.cli.scenes import RATE, SCENES, Reading, Scene, Videos, by_id
from reelwatch.config import settings
from reelwatch.rules.events import DEFAULT_EVENTS
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import EventType
from reelwatch.sandbox.listener import Listener, Received
from reelwatch.sandbox.upstream import Sandbox
from reelwatch.storage import db, migrating
from reelwatch.storage.models import table_of

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

UP = (sys.executable, "-m", "reelwatch.cli.main", "up", "--no-web")
PATIENCE_SECONDS = 75.0
STOP_SECONDS = 8.0
REFRESH_SECONDS = 0.25


def run(
    console: Console,
    *,
    scenes: Sequence[Scene] = SCENES,
    up: Sequence[str] = UP,
    patience: float = PATIENCE_SECONDS,
    keep: bool = False,
) -> int:
    """The whole demo; 0 only if every video ended as scripted and every owed event was verified.

    `up` is the command that starts the worker. Whatever happens, it ends within `patience` and a
    few seconds, unless it is to `keep`: then the worker goes on, and the page is served, until
    Ctrl-C. The folder with the database and the log stays, except where Ctrl-C cuts it short.
    """
    folder = Path(tempfile.mkdtemp(prefix="reelwatch-demo-"))
    try:
        with _signals_interrupt():
            return _perform(console, folder, by_id(scenes), up, patience, keep)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("Interrupted. The worker is stopped, and nothing is left behind.")
        return 1


def _perform(
    console: Console,
    folder: Path,
    videos: Videos,
    up: Sequence[str],
    patience: float,
    keep: bool,
) -> int:
    started, secret = time.monotonic(), embedded.new_secret()
    with (
        Sandbox() as upstream,
        _receiver(secret, videos) as listener,
        _only_settings(folder, upstream.url, secret) as database_url,
    ):
        stage = Stage(folder, database_url, videos, upstream, listener, started)
        migrating.migrate(database_url)
        with web.beside(settings.current(), "127.0.0.1", web.PORT, 0) as page:
            page.start()
            introduce(console, stage, page.said)
            if not keep:
                return report(console, stage, *_play(console, stage, up, patience))
            with _worker(up, folder) as worker:
                code = report(console, stage, *_watch(console, stage, worker, patience))
                _stay(console, page.url)
                return code


def _play(
    console: Console, stage: Stage, up: Sequence[str], patience: float
) -> tuple[Reading, str | None]:
    """Runs the worker until nothing is left to do; the end, and what stopped it before that."""
    with _worker(up, stage.folder) as worker:
        _, error = _watch(console, stage, worker, patience)
    return read(stage.database_url), error


def _watch(
    console: Console, stage: Stage, worker: subprocess.Popen[bytes], patience: float
) -> tuple[Reading, str | None]:
    _track(stage.videos, f"{stage.listener.url}/webhooks")
    with screen(console, stage) as show:
        error = _follow(stage, worker, show, patience)
    return read(stage.database_url), error


def _stay(console: Console, url: str | None) -> None:
    """Until Ctrl-C: the worker goes on, and what it has done can be looked at."""
    where = f"The page at {url}/ and the worker stay" if url else "The worker stays"
    console.print(f"\n{where} until Ctrl-C.")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3_600)


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
    with log_file(folder).open("wb") as log:
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
    pending = select(func.count()).where(deliveries.c.state == DeliveryState.PENDING)
    with db.reading(database_url) as session:
        return Reading(
            [row._asdict() for row in session.execute(select(jobs).order_by(jobs.c.id))],
            [row._asdict() for row in session.execute(changes)],
            session.execute(pending).scalar_one(),
            session.execute(select(accounts.c.requests_per_second)).scalar_one(),
        )


# ------------------------------------------------------------------ screen


# ----------------------------------------------------------------- verdict


# ------------------------------------------------------------------ report
