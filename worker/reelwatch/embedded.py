"""Everything in one process: a threads worker with beat as a thread beside it."""

import contextlib
import os
import secrets
import tempfile
import threading
from base64 import b64encode
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from celery.beat import EmbeddedService
from celery.concurrency.thread import TaskPool
from celery.utils.functional import noop
from sqlalchemy.exc import ArgumentError

from reelwatch import db, fanout, processes, settings
from reelwatch.celery import SCHEDULER, app
from reelwatch.errors import ReelwatchError, SettingsError

log = structlog.get_logger(__name__)

THREADS = 16
LEAST_THREADS = 3  # beat, Celery's timer, and one that works


def run(database_url: str) -> int:
    """Work until asked to stop (SIGTERM, Ctrl-C); returns the exit code. Migrates first."""
    for note in db.migrate(database_url):
        log.info("migrated", note=note)
    _check_threads()
    # Any: with `thread` it is a thread, while its stubs think of a process too. The plain scheduler
    # keeps no file: what is due stands in the database.
    beat: Any = EmbeddedService(app, thread=True, scheduler_cls=SCHEDULER)
    beat.start()
    try:
        worker = app.Worker(
            pool=f"{__name__}:Pool",
            concurrency=THREADS,
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            hostname=processes.own_name("reelwatch-up"),
        )
        worker.start()
    finally:
        fanout.stopping.set()
        beat.stop()
    return int(worker.exitcode or 0)


class _Executor(ThreadPoolExecutor):
    """Goes on with the threads it has where the system allows no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            fanout.places = len(self._threads)
            if not self._threads:
                raise


class Pool(TaskPool):
    """Celery's pool of threads; one is there from the start, before others take what is left."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.executor = _Executor(self.limit)

    def on_start(self) -> None:
        """Have a thread."""
        self.executor.submit(noop)


def _check_threads() -> None:
    """Raises `ReelwatchError` where not even the few threads can be had that this can't do without.

    Failing later, in the middle of Celery, takes pages of traceback to say so.
    """
    enough = threading.Event()
    threads = [threading.Thread(target=enough.wait) for _ in range(LEAST_THREADS)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise ReelwatchError(
            f"{error}: {LEAST_THREADS} are needed beside the first one; what limits them is "
            "`ulimit -u`, or the container's or dyno's own limit"
        ) from None
    finally:
        enough.set()


def prepare(environment: MutableMapping[str, str]) -> settings.Settings:
    """The settings for one process: an in-memory broker and a secret where none is named.

    Raises `SettingsError`.
    """
    if not environment.get("BROKER_URL") and not environment.get("REDIS_URL"):
        environment["BROKER_URL"] = settings.MEMORY_BROKER
    if not environment.get("WEBHOOK_SECRET"):
        # Before the settings are read as a whole: a WEBHOOK_URL is refused without a secret.
        database = _sqlite_file(environment.get("DATABASE_URL"))
        if database is not None and not settings.secret_file(database).exists():
            keep_secret(database)
    current = settings.load()
    settings.check_signing(current)
    return current


def _sqlite_file(database_url: str | None) -> Path | None:
    default = settings.Settings.model_fields["database_url"].default
    try:
        return settings.Settings.model_construct(database_url=database_url or default).sqlite_path
    except ArgumentError:
        return None  # no URL at all: reading the settings will say so, and how it should look


def keep_secret(database: Path) -> None:
    """Make a webhook secret and keep it beside the database, readable by its owner alone.

    One that is there already, be it from a process that starts just now, stays.
    """
    target = settings.secret_file(database)
    try:
        # mkstemp's files are their owner's alone; the link appears with its content, or not at all.
        descriptor, written = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        folder = target.parent.absolute()
        raise SettingsError(
            f"DATABASE_URL: no file can be made in {folder}: {error.strerror}"
        ) from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(new_secret() + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(written, target)
    finally:
        Path(written).unlink()


def new_secret() -> str:
    """A new webhook secret: `whsec_` and base64 of 32 random bytes."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
