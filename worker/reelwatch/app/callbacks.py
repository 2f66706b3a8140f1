"""Callbacks: events that are handed to Celery tasks of producers', over our broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reelwatch.app.celery import app
from reelwatch.jobs.channels.celery import NoQueue

ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def send_callback(task: str, queue: str, event: dict[str, Any], event_id: str) -> None:
    """Hand an event to a Celery task of the producer's. Raises what the broker's client raises.

    Straight into the queue: to declare it would take the arguments that its owner declared it with,
    and would have this app consume from it once it connects anew. RabbitMQ gives back what has no
    queue: `NoQueue`.
    """
    message = app.amqp.as_task_v2(event_id, task, (), {"event": event})
    with app.producer_or_acquire() as producer, _returned(producer.channel) as returned:
        producer.publish(
            message.body,
            exchange="",
            routing_key=queue,
            serializer="json",
            headers=message.headers,
            mandatory=True,
            delivery_mode="persistent",
            retry=True,  # a channel that an earlier refusal closed is opened anew
            retry_policy=ONCE_MORE,
            **message.properties,
        )
        if returned:
            raise NoQueue(f"no queue {queue!r}")


@contextmanager
def _returned(channel: Any) -> Iterator[list[object]]:
    """What RabbitMQ gives back of what is published meanwhile: it does so before it confirms."""
    found: list[object] = []

    def note(error: object, *_: object) -> None:
        found.append(error)

    events = getattr(channel, "events", None)  # Redis gives nothing back: its queues come by use
    if events is None:
        yield found
        return
    events["basic_return"].add(note)
    try:
        yield found
    finally:
        events["basic_return"].discard(note)
