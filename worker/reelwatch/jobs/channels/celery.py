"""By a Celery task of the producer's, over the broker."""

from datetime import datetime
from functools import partial
from json import loads

from reelwatch.errors import Refused
from reelwatch.jobs.channels import Begun, Event, Means
from reelwatch.rules.channels import task_and_queue
from reelwatch.rules.retry import Outcome


class NoQueue(Exception):
    """The broker knows no queue of that name."""


class Way:
    """A job's `callback_task` and `callback_queue`."""

    def __init__(self, means: Means) -> None:
        self._means = means

    @staticmethod
    def check(named: str) -> str:
        raise Refused("callback_task names it")

    def begin(self, event: Event, at: datetime) -> Begun:
        if self._means.settings.in_memory:
            unseen = "BROKER_URL is not set: no other process would see the callback"
            return Outcome(error=unseen, sent=False)
        return partial(self._send, event)

    def _send(self, event: Event) -> Outcome:
        task, queue = task_and_queue(event.target)
        try:
            self._means.send_task(task, queue, loads(event.body), event.id)
        except Exception as error:  # a broker's client raises what it likes; all of it is retried
            # A broker that is away says nothing of a queue: what comes after it goes at once.
            missing = isinstance(error, NoQueue)
            return Outcome(error=f"broker: {type(error).__name__}: {error}", sent=missing)
        return Outcome()
