"""Everything in one process: a threads worker with beat as a thread beside it."""

import os
import secrets
from base64 import b64encode
from pathlib import Path

import structlog
from celery.beat import EmbeddedService

from worker import db, fanout, log, settings, tracking
from worker.celery import app

logger = structlog.get_logger(__name__)

THREADS = 16


def run(database_url: str) -> int:
    """Work until asked to stop (SIGTERM, Ctrl-C); returns the exit code. Migrates first."""
    db.migrate(database_url)
    beat = EmbeddedService(app, thread=True)
    beat.start()
    try:
        worker = app.Worker(
            pool="threads", concurrency=THREADS, quiet=True, without_gossip=True,
            without_mingle=True, without_heartbeat=True, hostname=f"reelwatch-up@{os.uname().nodename}",
        )  # fmt: skip
        worker.start()
    finally:
        fanout.stopping.set()
        beat.stop()
    return int(worker.exitcode or 0)


def prepare(environment: "os._Environ[str]") -> settings.Settings:
    """The settings for one process: an in-memory broker and a secret where none is named."""
    if not environment.get("BROKER_URL") and not environment.get("REDIS_URL"):
        environment["BROKER_URL"] = settings.MEMORY_BROKER
    current = settings.load()
    if not current.secrets and current.sqlite_path is not None:
        keep_secret(current.sqlite_path)
    return current


def keep_secret(database: Path) -> None:
    """Make a webhook secret and keep it beside the database, readable by its owner alone."""
    descriptor = os.open(
        settings.secret_file(database), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
    )
    with os.fdopen(descriptor, "w") as file:
        file.write(new_secret() + "\n")


def new_secret() -> str:
    """A new webhook secret: `whsec_` and base64 of 32 random bytes."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
