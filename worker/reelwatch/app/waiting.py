"""What a worker does while the database is not at this release's revision: says so, and waits.

New workers may start before `reelwatch migrate` has run. Their tasks do nothing until then, and go
on by themselves; what producers hand in meanwhile waits in the queue.
"""

import threading
import time
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import SQLAlchemyError

from reelwatch.config import settings
from reelwatch.errors import SettingsError, first_line
from reelwatch.jobs import delivery, intake, tracking
from reelwatch.storage import db

log = structlog.get_logger(__name__)

TELL_SECONDS = 30.0  # a tick comes every second; its reason is told once in a while


class Work(Task):  # type: ignore[type-arg]  # Celery 5.4's can't be subscripted
    """A task that has nothing to do before the tables are there; the next tick starts it again."""

    abstract = True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run it, unless the database is at another revision."""
        try:
            worker.prepare()
            return super().__call__(*args, **options)
        except db.NotMigrated as error:
            worker.tell(error)
            return None


class _Worker:
    """What one worker process has done, and said, before its first task."""

    def __init__(self) -> None:
        self._prepared = False
        self._told_at = float("-inf")
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Prepare, if the database is there; it may come later than the worker.

        Raises `SettingsError` for one that can't be used.
        """
        self._prepared = False
        try:
            self.prepare()
            delivery.rehearse(settings.current())
        except db.NotMigrated as error:
            self.tell(error)
        except SettingsError:  # that are SQLAlchemy's errors, too
            raise
        except SQLAlchemyError as error:
            log.error("database_not_ready", error=first_line(error))

    def prepare(self) -> None:
        """What must be in the database before a worker's first task, once."""
        if self._prepared:
            return
        tracking.sync_accounts(settings.current())
        # This process's configuration may permit what another's did not.
        intake.release_all(settings.current().database_url)
        self._prepared = True

    def tell(self, error: db.NotMigrated) -> None:
        """Why nothing is done, now and then."""
        self._prepared = False  # tables that were taken away come back empty
        with self._lock:
            now = time.monotonic()
            if now - self._told_at < TELL_SECONDS:
                return
            self._told_at = now
        log.error("database_not_migrated", error=str(error))


worker = _Worker()
