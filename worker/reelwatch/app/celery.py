"""The Celery app: broker, queues, beat, and what a process does when it starts and ends.

    celery -A reelwatch worker --without-gossip --without-mingle
    celery -A reelwatch beat

Celery carries nudges. What is due, and who works on it, stands in the database; a lost, doubled or
late message costs time at most.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import structlog
from celery import signals
from celery.beat import Service
from celery.schedules import schedule
from kombu import Queue
from kombu.transport import pyamqp

from reelwatch.app import beat, life, messages, processes, redis_queue, waiting
from reelwatch.app.loader import Loader
from reelwatch.app.messages import INTAKE, WORK
from reelwatch.app.processes import Application
from reelwatch.config import log, secrecy, settings, tls
from reelwatch.errors import SettingsError

TICK_SECONDS = 1.0
LEARN_SECONDS = 20.0
MESSAGE_EXPIRES = 30.0  # ticks and nudges pile up no longer than this while no worker runs
# How no arguments look is given, for Celery takes a fifth of beat's time to find out.
BEATEN = {"expires": MESSAGE_EXPIRES, "retry": False, "argsrepr": "()", "kwargsrepr": "{}"}
logger = structlog.get_logger(__name__)

SCHEDULER = f"{beat.__name__}:{beat.Scheduler.__name__}"

# Without these a silently dropped connection hangs beat and worker for good. Only Redis takes them.
REDIS_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "visibility_timeout": 120,  # an id taken by a worker that died is handed out again after this
    "global_keyprefix": "",
    "max_connections": 100,  # of one process; opened when they are needed
    "unacked_restore_interval": redis_queue.SWEEP_SECONDS,
    "unacked_restore_throttle": 1,
    **redis_queue.KEYS,
}
# What is published is in the queue, not only under way to it; a broker that hangs holds up nobody.
AMQP_OPTIONS = {"confirm_publish": True, "read_timeout": 5}
MEMORY_OPTIONS = {"polling_interval": 0.02}


def configuration() -> dict[str, Any]:
    """The app's configuration, from the environment, when Celery first needs it."""
    try:
        current = settings.current()
    except SettingsError as error:
        raise SystemExit(log.last_words(str(error))) from None
    if current.broker_url is None and current.redis_url is None:
        no_broker = (
            "BROKER_URL is not set: accepted: redis(s)://… or amqp(s)://… "
            "(or run everything in one process with `reelwatch up`)"
        )
        raise SystemExit(log.last_words("; and ".join([no_broker, *settings.missing(current)])))
    broker = tls.read(current.broker)
    return {
        "broker_url": broker.url,
        **({"broker_use_ssl": broker.use_ssl} if broker.use_ssl else {}),
        "broker_transport_options": _transport_options(current),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A Redis that is full, read-only after a failover or short of replicas refuses what it is
        # asked: that is as if it were away, and no reason to end.
        "broker_channel_error_retry": True,
        # Exchanges of our own: what a producer's app in the same database or virtual host tells
        # its workers (`celery control shutdown`) is not for ours.
        "control_exchange": "reelwatch",
        "event_exchange": "reelwatchev",
        "event_queue_prefix": "reelwatchev",
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": INTAKE,
        # Of the type that the broker gives them (see docs/scale.md): producers declare the intake
        # too, and a type that differs from theirs would shut them out.
        "task_queues": [Queue(name, routing_key=name) for name in (INTAKE, WORK)],
        # Else to publish to a queue would have this app consume from it once it connects anew.
        "task_create_missing_queues": False,
        "task_routes": {
            name: {"queue": WORK}
            for name in (
                "reelwatch.tick",
                "reelwatch.poll",
                "reelwatch.deliver",
                "reelwatch.learn",
                "reelwatch.retry_waiting",
            )
        },
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": processes.concurrency(),
        "worker_consumer": f"{messages.__name__}:Consumer",
        "worker_enable_prefetch_count_reduction": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_scheduler": SCHEDULER,
        "beat_schedule": {
            "tick": {"task": "reelwatch.tick", "schedule": _every(TICK_SECONDS), "options": BEATEN},
            "learn": {
                "task": "reelwatch.learn",
                "schedule": _every(LEARN_SECONDS),
                "options": BEATEN,
            },
        },
    }


def _every(seconds: float) -> schedule:
    """Celery's own clock converts between time zones, several times for every tick."""
    return schedule(seconds, nowfun=partial(datetime.now, UTC))


def _transport_options(current: settings.Settings) -> dict[str, Any]:
    if current.in_memory:
        return MEMORY_OPTIONS
    return REDIS_OPTIONS if current.broker.startswith("redis") else AMQP_OPTIONS


app = Application(
    "reelwatch",
    loader=Loader,
    include=["reelwatch.app.tasks", "reelwatch.app.steps"],
    task_cls=f"{waiting.__name__}:{waiting.Work.__name__}",
)
app.add_defaults(configuration)


logger = structlog.get_logger(__name__)


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    """Being connected, this keeps Celery from setting up logging of its own."""
    log.configure(settings.current())
    processes.hear_the_pool()


@signals.beat_init.connect
def _before_beating(sender: Service, **_: object) -> None:
    beat.end_on_signals(sender)
    _begin(settings.Settings.check_database)
    _guard()
    life.here.begin("beat")


@signals.worker_init.connect
def _before_work(**_: object) -> None:
    _begin(settings.check_sending)
    for hint in settings.current().unsigned():
        _tell("no_webhook_secret", hint)
    _guard()
    _prefetch_by_consumer()
    try:
        waiting.worker.begin()
    except SettingsError as error:
        raise SystemExit(log.last_words(str(error))) from None


def _begin(check: Callable[[settings.Settings], object]) -> None:
    """What every process of ours does first. Ends it where it could not do its work."""
    secrecy.clean_for_good()
    try:
        check(settings.current())
    except SettingsError as error:
        raise SystemExit(log.last_words(str(error))) from None
    for slip in settings.current().slips():
        _tell("unknown_variable", slip)


@cache
def _tell(event: str, hint: str) -> None:
    """Once: in `up`, beat and worker are one process."""
    logger.warning(event, hint=hint)


def _guard() -> None:
    messages.guard()
    redis_queue.use()
    if tls.read(settings.current().broker).unchecked:
        logger.warning("broker_not_checked", advice="ssl_cert_reqs=none takes any server for it")


def _prefetch_by_consumer() -> None:
    """RabbitMQ 3 could limit a whole channel, and Celery asks for that; quorum queues refuse it."""
    pyamqp.Transport.qos_semantics_matches_spec = lambda *_: True  # type: ignore[method-assign]
