"""Everything in one process: a threads worker with beat as a thread beside it."""

import contextlib
import os
import secrets
import tempfile
from base64 import b64encode
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog
from celery.beat import EmbeddedService
from sqlalchemy.exc import ArgumentError

from reelwatch import db, fanout, settings
from reelwatch.celery import SCHEDULER, app
from reelwatch.errors import SettingsError

log = structlog.get_logger(__name__)

THREADS = 16


def run(database_url: str) -> int:
    """Work until asked to stop (SIGTERM, Ctrl-C); returns the exit code. Migrates first."""
    for note in db.migrate(database_url):
        log.info("migrated", note=note)
    # Any: with `thread` it is a thread, while its stubs think of a process too. The plain scheduler
    # keeps no file: what is due stands in the database.
    beat: Any = EmbeddedService(app, thread=True, scheduler_cls=SCHEDULER)
    beat.start()
    try:
        worker = app.Worker(
            pool="threads",
            concurrency=THREADS,
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            hostname=f"reelwatch-up@{os.uname().nodename}",
        )
        worker.start()
    finally:
        fanout.stopping.set()
        beat.stop()
    return int(worker.exitcode or 0)


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
