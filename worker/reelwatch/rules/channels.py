"""The names of the ways to tell a producer, and what their targets look like. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

WEBHOOK = "webhook"  # the one to strangers' machines, which have limits and need a signature
CELERY = "celery"
NAMED = ("stream",)  # what a job's `channels` may name
NAMES = (WEBHOOK, CELERY, *NAMED)  # each is a file of `jobs/channels/`

DEFAULT_QUEUE = "celery"  # where `send_task` sends what names no queue
HOST_LIMIT = 300  # characters


class Address(NamedTuple):
    """Where an event goes.

    `target` tells one endpoint from all others, of all channels; `host` is what endpoints share.
    """

    channel: str
    target: str
    host: str


def addresses(job: Mapping[str, Any]) -> Iterator[Address]:
    """Whom a job's events go to: by its `webhook_url`, `callback_task` and `channels`."""
    if url := job["webhook_url"]:
        yield Address(WEBHOOK, url, urlsplit(url).netloc.casefold()[:HOST_LIMIT])
    if task := job["callback_task"]:
        target = f"{task}@{job['callback_queue'] or DEFAULT_QUEUE}"
        yield Address(CELERY, target, CELERY)
    for name, named in (job["channels"] or {}).items():
        yield Address(name, f"{name}:{named}", name)


def named(target: str) -> str:
    """What the producer named, of the target of a channel out of `NAMED`."""
    return target.partition(":")[2]


def task_and_queue(target: str) -> tuple[str, str]:
    """The parts of a Celery callback's target, `task@queue`: a queue's name may hold an `@` too."""
    task, _, queue = target.partition("@")
    return task, queue
