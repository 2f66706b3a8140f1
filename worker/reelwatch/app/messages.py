"""What stands in the queues: what is no message of ours is dropped, and never ends a worker."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import kombu.message
import structlog
from celery.utils.time import maybe_iso8601
from celery.worker import consumer, state
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message
from kombu.utils.json import dumps

from reelwatch.rules.spelling import nearest

INTAKE = "reelwatch"  # where producers send `reelwatch.track`, `.cancel`, `.recheck`
WORK = "reelwatch.work"  # ticks and batches: a flood of new ids must not hold them up
INTAKE_TASKS = frozenset({"reelwatch.track", "reelwatch.cancel", "reelwatch.recheck"})
OURS = "reelwatch."  # what our tasks' names begin with; `celery.chain` and the like are none
# What Celery would have follow a task. Nothing can follow ours: this app publishes to no queue but
# its own, so what another app wants to know of an end is `callback_task`.
FOLLOWING = ("callbacks", "errbacks", "chain", "chord")

MESSAGE_LIMIT = 256 * 1024  # bytes; the largest `reelwatch.track` that can be accepted has a fifth
HEADERS_LIMIT = 64 * 1024  # characters, as Python writes them
NAME_LIMIT = 255
ACCOUNT_LIMIT = 64  # characters of its name
SHOWN = 200  # characters of what was refused

# The last that were dropped, (task, reason), until somebody writes them down.
dropped: deque[tuple[str, str]] = deque(maxlen=1_000)

logger = structlog.get_logger(__name__)


LONGEST_PAUSE = 10.0  # seconds between two tries to work with a broker that refuses
FOREIGN_KEY = "somebody else's key is in the way in that database: `reelwatch doctor` names it"
STEADY_SECONDS = 30.0  # a connection that held so long was a good one


class Consumer(consumer.Consumer):
    """Drops what is no message of ours, and says so in one line; outlives what the broker does.

    Celery would pass some of it on to where it ends the worker, unacknowledged: the next worker
    that gets it would end likewise.
    """

    _pause = 0.0  # seconds before the next try
    _ready_at: float | None = None

    def on_ready(self) -> None:
        """It consumes."""
        super().on_ready()
        self._ready_at = time.monotonic()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Say so, and try again in a while."""
        logger.warning("broker_away", error=_shown(exc))
        self._wait()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give the connection up, and try again in a while: also what is full answers at once."""
        hint = {"hint": FOREIGN_KEY} if "WRONGTYPE" in str(exc) else {}
        logger.warning("broker_refuses", error=_shown(exc), **hint)
        with warnings.catch_warnings():  # of a setting made on purpose, each time several lines
            warnings.simplefilter("ignore")
            super().on_connection_error_after_connected(exc)
        self._wait()

    def _wait(self) -> None:
        held = self._ready_at is not None and time.monotonic() - self._ready_at > STEADY_SECONDS
        self._ready_at = None
        self._pause = 1.0 if held or not self._pause else min(2 * self._pause, LONGEST_PAUSE)
        until = time.monotonic() + self._pause
        while time.monotonic() < until:
            state.maybe_shutdown()  # raises, when the worker is asked to end
            time.sleep(0.1)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Drop what can't even be made a message; Celery would quote all of it."""
        tell_refused(f"its body can't be read: {_shown(exc)}", message.headers)
        message.ack_log_error(logger, self.connection_errors)  # type: ignore[attr-defined]

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """What is called with each message."""
        handle = super().create_task_handler(*args, **options)

        def handle_or_drop(message: Message) -> None:
            reason = unfit(message, self.strategies)  # type: ignore[attr-defined]  # not in its stubs
            if reason is None:
                leave_out(message)
                handle(message)
                return
            tell_refused(reason, message.headers)
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
    head, parts = message.headers, payload
    if "task" not in head:  # Celery's first protocol has all in the body
        if not isinstance(payload, dict):
            return "it names no task"
        head, parts = payload, (payload.get("args", []), payload.get("kwargs", {}), {})
    address: Any = message.delivery_info
    return (
        _unfit_parts(parts)
        or _unfit_head(head, known)
        or _unfit_here(head["task"], address.get("routing_key"))
        or _unfit_arguments(head["task"], parts[0], parts[1])
    )


def leave_out(message: Message) -> None:
    """Take what senders have no say in out of a message that is fit: time limits, what follows.

    A limit of a billionth of a second would kill the process that takes the id in.
    """
    payload: Any = message.payload
    first = "task" not in message.headers  # Celery's first protocol
    head = payload if first else message.headers
    head.pop("timelimit", None)
    embed = payload if first else payload[2] or {}
    following = [name for name in FOLLOWING if embed.get(name)]
    for name in following:
        embed[name] = None
    if following:
        logger.warning("nothing_follows", task=head["task"], id=head["id"], left_out=following)
        if not first:
            changed: Any = message
            changed.body, changed.content_encoding = dumps(payload), "utf-8"


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
    if not isinstance(task, str) or task not in known or not task.startswith(OURS):
        near = nearest(task, INTAKE_TASKS) if isinstance(task, str) and len(task) < 100 else None
        return f"unknown task {_shown(task)}" + (f"; is {near!r} meant?" if near else "")
    if not isinstance(head.get("id"), str):
        return "its id is no text"
    for name in ("id", "root_id", "parent_id", "group", "shadow", "eta", "expires"):
        value = head.get(name)
        if not isinstance(value, str | None) or len(value or "") > NAME_LIMIT:
            return f"{name} {_shown(value)} is no text of at most {NAME_LIMIT} characters"
    if not isinstance(head.get("retries", 0), int | None):
        return "its retries are no number"
    for name in ("eta", "expires"):
        if not _is_moment(head.get(name)):
            return f"{name} {_shown(head[name])} is no ISO 8601 time"
    return None


def _is_moment(value: str | None) -> bool:
    try:  # as Celery reads it, and far enough from the calendar's ends for any time zone
        return value is None or 1 < maybe_iso8601(value).year < 9999  # type: ignore[union-attr]
    except (AttributeError, ValueError, OverflowError):
        return False


def _unfit_here(task: str, queue: object) -> str | None:
    if queue == WORK or task in INTAKE_TASKS:
        return None
    return f"{task} can't come through the queue {INTAKE!r}"


def _unfit_arguments(task: str, args: list[Any], kwargs: dict[str, Any]) -> str | None:
    if task in INTAKE_TASKS:  # what these take is judged, and told, with the id
        return "'self' is no option" if "self" in kwargs else None
    if task == "reelwatch.poll":
        fits = len(args) == 1 and _is_name(args[0]) and not kwargs
        return None if fits else f"{task} takes the name of an account, and nothing else"
    return f"{task} takes no arguments" if args or kwargs else None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ACCOUNT_LIMIT and value.isprintable()


def tell_refused(reason: str, headers: object = None) -> None:
    """Log that a message was dropped, and what it calls itself."""
    head = headers if isinstance(headers, dict) else {}
    named = {name: _shown(head[name]) for name in ("task", "id", "origin") if name in head}
    logger.error("message_refused", reason=reason, **named)
    dropped.append((named.get("task", ""), reason))


def _shown(value: object) -> str:
    return (str(value) if isinstance(value, Exception) else repr(value))[:SHOWN]


def guard() -> None:
    """Have this process unpack nothing that is compressed: 400 bytes can become a gigabyte."""
    unpacking: Any = kombu.message
    unpacking.decompress = _refuse_compressed


def _refuse_compressed(_body: object, compression: object) -> None:
    raise DecodeError(f"it is compressed ({_shown(compression)}), which is not accepted")
