"""Everything in one process: a threads worker with beat as a thread beside it."""

import contextlib
import os
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from celery.beat import EmbeddedService
from celery.concurrency.thread import TaskPool
from celery.signals import worker_ready
from celery.utils.functional import noop

from reelwatch.app import life, processes
from reelwatch.app.celery import SCHEDULER, app
from reelwatch.config import secrecy, settings
from reelwatch.errors import ReelwatchError, SettingsError
from reelwatch.jobs import fanout
from reelwatch.rules.urls import DEFAULT_DATABASE
from reelwatch.storage import migrating

log = structlog.get_logger(__name__)

THREADS = 16
LEAST_THREADS = 6  # beat, standby, signs of life, Celery's timer, and those that work
BEAT_END_SECONDS = 10.0  # it looks once a second; a broker that hangs is given up sooner
THREAD_END_SECONDS = 2.0  # a thread that Python has done with is gone in much less
SECRET_SECONDS = 2.0  # a secret is written in less


def run(database_url: str, ready: Callable[[], None]) -> int:
    """Work until asked to stop (SIGTERM, Ctrl-C); returns the exit code. Migrates first.

    `ready` is called once everything works, with the threads that it needs.
    """
    for note in migrating.migrate(database_url):
        log.info("migrated", note=note)
    _check_threads()
    life.here.begin("up")  # before the worker in it does, which would call itself a worker
    # Any: with `thread` it is a thread, while its stubs think of a process too. The plain scheduler
    # keeps no file: what is due stands in the database.
    beat: Any = EmbeddedService(app, thread=True, scheduler_cls=SCHEDULER)
    _ = beat.service.scheduler  # made here: what it imports the worker imports too, at that moment
    beat.start()
    worker_ready.connect(begin := lambda **_: ready())
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
        worker_ready.disconnect(begin)
        fanout.stopping.set()
        stop(beat)
    return int(worker.exitcode or 0)


def stop(beat: Any) -> None:
    """End beat's thread. Its own `stop` waits for ever for one that an error has ended."""
    beat.service.stop()
    beat.join(BEAT_END_SECONDS)


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
    before = _system_threads()
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
        _await_end(threads, before)


def _await_end(threads: Iterable[threading.Thread], before: int | None) -> None:
    """Until the system counts them no more: that is a moment after Python has done with them."""
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    give_up_at = time.monotonic() + THREAD_END_SECONDS
    while (now := _system_threads()) and before and now > before and time.monotonic() < give_up_at:
        time.sleep(0.001)


def _system_threads() -> int | None:
    """How many threads of this process the system counts; None where only Linux could say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def prepare(environment: MutableMapping[str, str]) -> settings.Settings:
    """The settings for one process: an in-memory broker and a secret where none is named.

    Raises `SettingsError`.
    """
    if not environment.get("BROKER_URL") and not environment.get("REDIS_URL"):
        environment["BROKER_URL"] = settings.MEMORY_BROKER
    if not environment.get("DATABASE_URL"):
        environment["DATABASE_URL"] = DEFAULT_DATABASE
    current = settings.load()
    if current.sqlite_path is not None and not current.webhook_secrets:
        keep_secret(current.sqlite_path)
        secrecy.renew()  # from now on that secret is one to be cut out
    settings.check_sending(current)
    return current


def keep_secret(database: Path) -> None:
    """Make a webhook secret and keep it beside the database, readable by its owner alone.

    One that is there already, be it from a process that starts just now, stays. Raises
    `SettingsError` where no file can be made.
    """
    target = secrecy.secret_file(database)
    try:
        # Not by a link to a finished file: some file systems have none.
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _await_content(target)
        return
    except OSError as error:
        folder = target.parent.absolute()
        raise SettingsError(
            f"DATABASE_URL: no file can be made in {folder}: {error.strerror}"
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(new_secret() + "\n")
        file.flush()
        os.fsync(descriptor)  # before the first event is signed with it
    target.chmod(0o600)  # whatever the umask took away


def _await_content(target: Path) -> None:
    """Whoever made the file writes into it at once. What is in it is judged by its readers."""
    give_up_at = time.monotonic() + SECRET_SECONDS
    with contextlib.suppress(OSError, UnicodeDecodeError):
        while not target.read_text().endswith("\n") and time.monotonic() < give_up_at:
            time.sleep(0.01)


def new_secret() -> str:
    """A new webhook secret: `whsec_` and base64 of 32 random bytes."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
