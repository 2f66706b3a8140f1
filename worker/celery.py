"""The Celery app: broker, queues, beat, and what a process does when it starts and ends.

    celery -A worker worker --without-gossip --without-mingle
    celery -A worker beat

Celery carries nudges. What is due, and who works on it, stands in the database; a lost, doubled or
late message costs time at most.
"""

from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

import structlog
from celery import Celery, signals
from celery.worker import consumer
from kombu import Queue
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message
from kombu.transport import redis
from sqlalchemy.exc import SQLAlchemyError

from worker import log, settings, tracking
from worker.errors import SettingsError

INTAKE = "reelwatch"  # where producers send `worker.track`, `worker.cancel`, `worker.recheck`
WORK = "reelwatch.work"  # ticks and turns: a flood of new ids must not hold them up

TICK_SECONDS = 1.0
MESSAGE_EXPIRES = 30.0  # ticks and nudges pile up no longer than this while no worker runs
CONCURRENCY = 8  # turns wait for the network, not for the processor

logger = structlog.get_logger(__name__)

# Without these a silently dropped connection hangs beat and worker for good. Only Redis takes them.
REDIS_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "visibility_timeout": 120,  # an id taken by a worker that died is handed out again after this
    "global_keyprefix": "",
}
MEMORY_OPTIONS = {"polling_interval": 0.02}


def configuration() -> dict[str, Any]:
    """The app's configuration, from the environment, when Celery first needs it."""
    try:
        current = settings.current()
    except SettingsError as error:
        raise SystemExit(f"reelwatch: {error}") from None
    if current.broker_url is None and current.redis_url is None:
        raise SystemExit(
            "reelwatch: BROKER_URL is not set: accepted: redis(s)://… or amqp(s)://… "
            "(or run everything in one process with `reelwatch up`)"
        )
    return {
        "broker_url": current.broker,
        "broker_transport_options": _transport_options(current),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": INTAKE,
        "task_queues": [Queue(INTAKE), Queue(WORK)],
        "task_routes": {
            name: {"queue": WORK} for name in ("worker.tick", "worker.poll", "worker.deliver")
        },
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": CONCURRENCY,
        "worker_consumer": f"{__name__}:Consumer",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_enable_remote_control": True,  # for health checks: silent once it has stopped ticking
        "beat_remote_control_max_tick_age": 20,
        "beat_schedule": {
            "tick": {
                "task": "worker.tick",
                "schedule": TICK_SECONDS,
                "options": {"expires": MESSAGE_EXPIRES},
            }
        },
    }


def _transport_options(current: settings.Settings) -> dict[str, Any]:
    if current.in_memory:
        return MEMORY_OPTIONS
    return REDIS_OPTIONS if current.broker.startswith("redis") else {}


# ----------------------------------------------------- what is in the queues

MESSAGE_LIMIT = 256 * 1024  # bytes; the largest `worker.track` that can be accepted has a fifth
HEADERS_LIMIT = 64 * 1024  # characters, as Python writes them
NAME_LIMIT = 255
SHOWN = 200  # characters of what was refused


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

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in its stubs
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            _tell_refused(f"no message: {type(error).__name__}: {_shown(error)}")
            raise Empty from None  # what kombu takes for: nothing there this time


app = Celery("reelwatch", include=["worker.tasks"])
app.add_defaults(configuration)


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    """Being connected, this keeps Celery from setting up logging of its own."""
    log.configure(settings.current())


@signals.worker_init.connect
def _before_work(**_: object) -> None:
    redis.Transport.Channel = _Channel
    try:
        tracking.sync_accounts(settings.current())
    except SQLAlchemyError as error:
        # The database may come later than the worker; its tasks will say so again if it does not.
        logger.error("database_not_ready", error=str(error).splitlines()[0])
