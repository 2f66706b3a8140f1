"""Beat's scheduler: one tick costs one try, whatever the broker does."""

import signal
import threading
import time
from importlib.metadata import version
from typing import Any

import structlog
from celery import beat

from reelwatch.app import life
from reelwatch.jobs.stopping import ends_by_hangup

QUIET_SECONDS = 30.0  # between two lines that say the same
SILENCE_SECONDS = 60.0  # of a beat that hangs; a broker that hangs is given up sooner

logger = structlog.get_logger(__name__)


class Scheduler(beat.Scheduler):
    """Publishes what is due, over a connection that it makes anew after every failure.

    Celery's own waits for its first connection for as long as that takes and hears no SIGTERM
    meanwhile. A tick that can't be published is let go: the next one comes a second later.
    """

    publishing = False  # while it is, the end waits: it must not come in the middle
    producer: Any = None  # made when there is something to publish, not before

    _told: tuple[str, float] = ("", float("-inf"))

    def tick(self, *args: Any, **options: Any) -> Any:
        """Publish what is due; returns the seconds until more is."""
        life.here.sign("beat", SILENCE_SECONDS)
        return super().tick(*args, **options)

    def apply_entry(self, entry: beat.ScheduleEntry, producer: Any = None) -> None:
        """Publish one task; if that fails, say so and let it go."""
        try:
            self._publish(entry)
        except Exception as error:  # each transport's client raises errors of its own
            self._give_up_connection()
            self._tell(entry.task or "", str(error) or type(error).__name__)
        else:
            self._told = ("", float("-inf"))

    def _publish(self, entry: beat.ScheduleEntry) -> None:
        if self.producer is None:
            self.connection.connect()
            self.producer = self.app.amqp.Producer(self.connection, auto_declare=False)
        self.publishing = True
        try:
            self.apply_async(entry, producer=self.producer, advance=False)
        finally:
            self.publishing = False

    def _give_up_connection(self) -> None:
        self.producer = None
        connection = self.__dict__.pop("connection", None)
        if connection is not None:
            try:
                connection.release()
            except Exception as error:  # it was broken before
                logger.debug("release_failed", error=str(error))

    def _tell(self, task: str, reason: str) -> None:
        now = time.monotonic()
        if self._told[0] != reason or now - self._told[1] > QUIET_SECONDS:
            self._told = (reason, now)
            logger.warning("tick_not_published", task=task, error=reason)


def end_on_signals(service: beat.Service) -> None:
    """SIGTERM, SIGHUP and Ctrl-C end beat at once, but for a message that is just being published;
    its first line says that they do.

    Celery's own handler closes the connection that a tick may be on its way through, and what that
    raises there can swallow the end: beat would go on until it is killed.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def end(*_: object) -> None:
        service.stop()
        if not getattr(service.scheduler, "publishing", False):
            raise SystemExit(0)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, end)
    if ends_by_hangup():
        signal.signal(signal.SIGHUP, end)
    logger.info("beat_starting", version=version("reelwatch"), celery=version("celery"))
