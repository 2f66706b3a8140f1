"""What stands in the queues: what is no message of ours is dropped, and never ends a worker."""

from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

import structlog
from celery.worker import consumer
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message
from kombu.transport import redis

MESSAGE_LIMIT = 256 * 1024  # bytes; the largest `reelwatch.track` that can be accepted has a fifth
HEADERS_LIMIT = 64 * 1024  # characters, as Python writes them
NAME_LIMIT = 255
SHOWN = 200  # characters of what was refused

logger = structlog.get_logger(__name__)


class Consumer(consumer.Consumer):
    """Drops what is no message of ours, and says so in one line.

    Celery would pass some of it on to where it ends the worker, unacknowledged: the next worker
    that gets it would end likewise.
    """

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """What is called with each message."""
        handle = super().create_task_handler(*args, **options)

        def handle_or_drop(message: Message) -> None:
            reason = unfit(message, self.strategies)  # type: ignore[attr-defined]  # not in its stubs
            if reason is None:
                handle(message)
                return
            _tell_refused(reason, message.headers)
            message.reject_log_error(logger, self.connection_errors)  # type: ignore[attr-defined]

        return handle_or_drop


def unfit(message: Message, known: Mapping[str, Any]) -> str | None:
    """Why a message can't be a task's; None if it can. `known` has the tasks' names as keys."""
    if reason := _unfit_envelope(message):
        return reason
    try:
        payload: Any = message.decode()
    except (DecodeError, ContentDisallowed, ValueError, RecursionError) as error:
        return f"its body can't be read: {_shown(error)}"
    if "task" in message.headers:
        return _unfit_parts(payload) or _unfit_head(message.headers, known)
    if not isinstance(payload, dict):  # Celery's first protocol has all in the body
        return "it names no task"
    parts: Any = (payload.get("args", []), payload.get("kwargs", {}), {})
    return _unfit_parts(parts) or _unfit_head(payload, known)


def _unfit_envelope(message: Message) -> str | None:
    size = len(message.body or "")
    if size > MESSAGE_LIMIT:
        return f"a message of {size} bytes, at most {MESSAGE_LIMIT} are accepted"
    if message.content_type != "application/json":
        return f"content type {_shown(message.content_type)}, accepted is 'application/json'"
    if not isinstance(message.headers, dict) or len(repr(message.headers)) > HEADERS_LIMIT:
        return "its headers are no object, or too large"
    return None


def _unfit_parts(payload: Any) -> str | None:
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        return "its body is not [args, kwargs, embed]"
    args, kwargs, embed = payload
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return "its args are no list, or its kwargs no object"
    return None if isinstance(embed, dict | None) else "its embed is no object"


def _unfit_head(head: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    task = head.get("task")
    if not isinstance(task, str) or task not in known:
        return f"unknown task {_shown(task)}"
    if not isinstance(head.get("id"), str):
        return "its id is no text"
    for name in ("id", "root_id", "parent_id", "group", "shadow", "eta", "expires"):
        value = head.get(name)
        if not isinstance(value, str | None) or len(value or "") > NAME_LIMIT:
            return f"{name} {_shown(value)} is no text of at most {NAME_LIMIT} characters"
    if not isinstance(head.get("retries", 0), int | None):
        return "its retries are no number"
    limits = head.get("timelimit") or [None, None]
    numbers = isinstance(limits, list) and all(isinstance(n, int | float | None) for n in limits)
    return None if numbers and len(limits) == 2 else "its timelimit is not two numbers"


def _tell_refused(reason: str, headers: object = None) -> None:
    head = headers if isinstance(headers, dict) else {}
    named = {name: _shown(head[name]) for name in ("task", "id", "origin") if name in head}
    logger.error("message_refused", reason=reason, **named)


def _shown(value: object) -> str:
    return (str(value) if isinstance(value, Exception) else repr(value))[:SHOWN]


class _Channel(redis.Channel):
    """Goes on after an entry of a queue that is no message at all: kombu would end the worker."""

    _publisher: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One client for what is published: to make one anew takes as long as a message does."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[misc]  # not in its stubs
        if self._publisher is None or self._publisher.connection_pool is not self.pool:
            self._publisher = super()._create_client()  # type: ignore[misc]
        return self._publisher

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in its stubs
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            _tell_refused(f"no message: {type(error).__name__}: {_shown(error)}")
            raise Empty from None  # what kombu takes for: nothing there this time


def guard_redis() -> None:
    """Have this process go on after entries of Redis's queues that are no messages."""
    redis.Transport.Channel = _Channel
