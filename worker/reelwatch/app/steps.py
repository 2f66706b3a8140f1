"""What a worker does beside Celery's own steps: standby begins and ends with it, and it shows signs
of life."""

from typing import Any

from celery import bootsteps, signals

from reelwatch.app import life, tasks
from reelwatch.app.celery import app

HEARS_SECONDS = 5.0  # between two signs that a worker hears its broker
SILENCE_SECONDS = 60.0  # of a worker that hangs


class Standing(bootsteps.StartStopStep):
    """Standby begins with the worker, not when the broker is first reached.

    Once the pool has made its processes: to fork while a thread works could copy a held lock.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """With the worker."""
        tasks.standby.start(str(getattr(parent, "hostname", "")))
        life.here.begin("worker")

    def stop(self, parent: object) -> None:
        """With the worker, too."""
        tasks.standby.finish()


class Hearing(bootsteps.StartStopStep):
    """While a worker is connected to its broker, its loop has to go on."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _timer: Any = None

    def start(self, parent: Any) -> None:
        """It is connected."""
        self._hear()
        self._timer = parent.timer.call_repeatedly(HEARS_SECONDS, self._hear)

    def stop(self, parent: Any) -> None:
        """It is not any more; standby does the work meanwhile."""
        if self._timer is not None:  # Celery also stops what it never came to start
            self._timer.cancel()
        life.here.lay_down("broker")

    def _hear(self) -> None:
        life.here.sign("broker", SILENCE_SECONDS)


app.steps["worker"].add(Standing)
app.steps["consumer"].add(Hearing)


@signals.worker_shutting_down.connect
def _end_standby(**_: object) -> None:
    tasks.standby.stop()
