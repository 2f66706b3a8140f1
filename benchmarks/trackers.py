"""Reelwatch and its peers as real processes, each with a database of its own, for one benchmark."""

import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import create_engine, insert

from benchmarks import cpu, peers
from benchmarks.upstream import Upstream
from reelwatch.app.celery import LEARN_SECONDS, MESSAGE_EXPIRES, TICK_SECONDS
from reelwatch.app.embedded import new_secret
from reelwatch.config import settings
from reelwatch.jobs import tracking
from reelwatch.storage import db, migrating
from tests import servers
from tests.fleet import BEAT, WORKER
from tests.processes import Folder, Process, process

SECRET = new_secret()
KEY = "sk-benchmark-0123456789abcdef"
CONCURRENCY = 8  # processes of a worker, ours and the peers'
START_SECONDS = 180.0  # of a machine that does much else

_databases = itertools.count(1)  # of Redis; each tracker has its own


@cache
def postgres() -> servers.OwnPostgresServer:
    """The server that all benchmarks of a run share, in memory and without fsync."""
    return servers.OwnPostgresServer(servers._postgres_programs())


@cache
def redis() -> servers.RedisServer:
    """The broker that all benchmarks of a run share."""
    return servers.redis()


def pids_of(server: Any) -> list[int]:
    """The root of a server's processes."""
    return [server._process.pid]


def new_broker() -> str:
    """The URL of an empty database of the broker."""
    return redis().url.removesuffix("/0") + f"/{next(_databases) % 16}"


@dataclass
class Tracker:
    """One way to track jobs, running: its processes, and how it is handed ids."""

    name: str
    database_url: str
    take: Callable[..., None]  # the ids; for Reelwatch, an account too
    broker_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """The roots of its processes."""
        return [each.pid for each in self.processes]

    @property
    def slug(self) -> str:
        """Its name as a part of ids."""
        return re.sub("[^A-Za-z]+", "-", self.name)

    def check(self) -> None:
        """Raise AssertionError with its last words if a process of it has ended."""
        for each in self.processes:
            assert each.running, f"{self.name} ended: {each.output[-2000:]}"

    def logged(self, event: str) -> Iterator[dict[str, Any]]:
        """The log lines of Reelwatch's processes that tell of such an event."""
        for each in self.processes:
            for line in each.output.splitlines():
                if line.startswith("{") and f'"{event}"' in line:
                    said: dict[str, Any] = json.loads(line)
                    if said["event"] == event:
                        yield said


@contextmanager
def running(tracker: Tracker) -> Iterator[Tracker]:
    """Ends the tracker's processes at the end of the block."""
    try:
        yield tracker
    finally:
        for each in tracker.processes:
            each.close()


# ------------------------------------------------------------------ Reelwatch


@contextmanager
def reelwatch(upstream: Upstream, name: str = "Reelwatch", **more: str) -> Iterator[Tracker]:
    """A worker and beat, as the Procfile starts them; `more` are settings by their names."""
    url = postgres().create_database()
    migrating.migrate(url)
    environment = {
        "DATABASE_URL": url,
        "BROKER_URL": new_broker(),
        "QUICKROUTER_BASE_URL": upstream.url,
        "QUICKROUTER_API_KEY": KEY,
        "WEBHOOK_SECRET": SECRET,
        "WEBHOOK_ALLOW": "127.0.0.1",
        "LOG_FORMAT": "json",
        **more,
    }

    def take(ids: Sequence[str], account: str = "default") -> None:
        with configured(environment):
            tracking.track_many(ids, webhook_url=upstream.hook(name), account=account)

    tracker = Tracker(name, url, take, environment["BROKER_URL"], environment)
    with running(tracker):
        worker = [*WORKER, f"--concurrency={CONCURRENCY}"]
        tracker.processes = [process(worker, environment), process(BEAT, environment)]
        if more.get("LOG_LEVEL", "info") == "info":
            tracker.processes[0].wait_for("ready", START_SECONDS)
        else:  # it does not say so; it answers a little before it is
            wait_for_worker(tracker.broker_url, "reelwatch")
        yield tracker
    db.dispose()


@contextmanager
def configured(environment: Mapping[str, str]) -> Iterator[None]:
    """This process's own Reelwatch uses these settings within the block."""
    before = os.environ.copy()
    os.environ.update(environment)
    settings.current.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.current.cache_clear()


# ------------------------------------------------------------------ peers


@contextmanager
def _peer(
    name: str,
    upstream: Upstream,
    commands: Sequence[Sequence[str | Path]],
    ready: str,
    more: Mapping[str, str],
    handed_in: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[Tracker]:
    """A peer's processes over a table of its own; `handed_in` follows on the rows' insertion."""
    url = postgres().create_database()
    engine = create_engine(url)
    peers.Base.metadata.create_all(engine)
    environment = {
        "PEER_DATABASE_URL": url,
        "PEER_BASE_URL": upstream.url,
        "PEER_KEY": KEY,
        "PEER_WEBHOOK_URL": upstream.hook(name),
        **more,
    }

    def take(ids: Sequence[str]) -> None:
        with engine.begin() as connection:
            rows = [{"video_id": video_id, "status": "new"} for video_id in ids]
            connection.execute(insert(peers.Job), rows)
        if handed_in is not None:
            handed_in(ids)

    tracker = Tracker(name, url, take, more.get("PEER_BROKER_URL", ""))
    try:
        with running(tracker):
            tracker.processes = [process(command, environment) for command in commands]
            if ready:
                tracker.processes[0].wait_for(ready, START_SECONDS)
            yield tracker
    finally:
        engine.dispose()


def _celery(module: str, *what: str) -> list[str]:
    return ["celery", "-A", f"benchmarks.{module}", *what]


def _celery_worker(module: str) -> list[str]:
    # As quiet as Celery is by itself, that is, below what most run it with: `--loglevel=info`.
    return _celery(
        module, "worker", "--without-gossip", "--without-mingle", f"--concurrency={CONCURRENCY}"
    )


@contextmanager
def naive_celery(upstream: Upstream, interval: float, rate: float = math.inf) -> Iterator[Tracker]:
    """Beat makes a task of every open job; no more than `rate` of them run in a second."""
    more = {
        "PEER_BROKER_URL": new_broker(),
        "PEER_INTERVAL": str(interval),
        "PEER_RATE": str(rate),
    }
    commands = [_celery_worker("peer_celery"), _celery("peer_celery", "beat")]
    with _peer("naive Celery", upstream, commands, "", more) as tracker:
        wait_for_worker(more["PEER_BROKER_URL"])
        yield tracker


@contextmanager
def bare_beat() -> Iterator[Process]:
    """A beat that publishes as often as Reelwatch's, to nobody."""
    environment = {
        "PEER_BROKER_URL": new_broker(),
        "PEER_TICK": str(TICK_SECONDS),
        "PEER_LEARN": str(LEARN_SECONDS),
        "PEER_EXPIRES": str(MESSAGE_EXPIRES),
    }
    with process(_celery("peer_beat", "beat"), environment) as beat:
        yield beat


@contextmanager
def retry_chain(upstream: Upstream, interval: float, backoff: str) -> Iterator[Tracker]:
    """A task for each job, which retries itself."""
    more = {
        "PEER_BROKER_URL": new_broker(),
        "PEER_INTERVAL": str(interval),
        "PEER_BACKOFF": backoff,
    }

    def send(ids: Sequence[str]) -> None:
        with producer(more["PEER_BROKER_URL"]) as app:
            for video_id in ids:
                app.send_task("chain.watch", args=[video_id])

    commands = [_celery_worker("peer_retry")]
    with _peer(f"retry chain, {backoff}", upstream, commands, "", more, send) as tracker:
        wait_for_worker(more["PEER_BROKER_URL"])
        yield tracker


@contextmanager
def dbos(upstream: Upstream, interval: float) -> Iterator[Tracker]:
    """A durable workflow for each job."""
    folder = Folder("dbos")
    ids_file = folder.path / "ids"

    def write(ids: Sequence[str]) -> None:
        servers.eventually(lambda: not ids_file.exists(), START_SECONDS, "the last ids are taken")
        draft = folder.path / "draft"
        draft.write_text("\n".join(ids))
        draft.rename(ids_file)

    command: list[str | Path] = [sys.executable, "-m", "benchmarks.peer_dbos", ids_file]
    more = {
        "PEER_INTERVAL": str(interval),
        "PEER_SYSTEM_DATABASE_URL": postgres().create_database(),
    }
    try:
        with _peer("DBOS", upstream, [command], "ready", more, write) as tracker:
            yield tracker
    finally:
        folder.remove()


def newapi(upstream: Upstream, key: str, scale: float) -> AbstractContextManager[Tracker]:
    """The model of new-api's poller."""
    return _poller("new-api's poller", "peer_newapi", upstream, key, PEER_SCALE=str(scale))


def roundrobin(upstream: Upstream, key: str, rate: float) -> AbstractContextManager[Tracker]:
    """One job after another at exactly the rate."""
    return _poller("round-robin", "peer_roundrobin", upstream, key, PEER_RATE=str(rate))


def _poller(
    name: str, module: str, upstream: Upstream, key: str, **more: str
) -> AbstractContextManager[Tracker]:
    """A peer of one process, with a key of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    return _peer(name, upstream, [command], "", {"PEER_KEY": key, **more})


# ------------------------------------------------------------------ Celery, from outside


def producer(broker_url: str) -> Celery:
    """A Celery app that only sends."""
    return Celery("producer", broker=broker_url, set_as_current=False)


def wait_for_worker(broker_url: str, exchange: str = "celery") -> None:
    """Until a worker answers: one that logs warnings only does not say that it is ready.

    It hears what is said on its control exchange; Reelwatch has one of its own.
    """
    with producer(broker_url) as app:
        app.conf.control_exchange = exchange

        def answers() -> Any:
            return app.control.broadcast("ping", reply=True, limit=1, timeout=1)

        servers.eventually(answers, START_SECONDS, "a worker answers")


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Cost:
    """Processor seconds of a span of time, by whose they are."""

    seconds: float
    tracker: float
    database: float
    broker: float


class Meter:
    """Counts from its making on."""

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._began = time.monotonic()
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        database, broker = pids_of(postgres()), pids_of(redis())
        return cpu.seconds(*self._roots), cpu.seconds(*database), cpu.seconds(*broker)

    def read(self) -> Cost:
        """What was used since."""
        used = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return Cost(time.monotonic() - self._began, *used)
