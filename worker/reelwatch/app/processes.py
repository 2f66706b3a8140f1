"""What Celery's processes are here: how they are named, how many there are, how they end.

A worker is asked to end by SIGTERM, SIGINT, SIGQUIT or SIGHUP, be it sent to it alone (Docker,
Kubernetes, systemd's `KillMode=mixed`) or to its children as well (Heroku, honcho, a terminal's
Ctrl-C or its being closed). Either way the children begin nothing new at once, finish what is under
way, and the worker exits with 0. Further signals change nothing, except that a second Ctrl-C ends
it at once.
"""

import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import structlog
from billiard.util import get_logger as get_pool_logger
from celery import Celery, signals
from celery.apps import worker as program
from celery.apps.beat import Beat
from celery.concurrency import asynpool
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.nodenames import default_nodename, gethostname, host_format

from reelwatch.config import log, secrecy, settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import fanout
from reelwatch.jobs.stopping import ends_by_hangup
from reelwatch.rules.redaction import shown_url

NAME = "reelwatch"
BEAT_NAME = "reelwatch-beat"
NAMES = 100  # workers of one host that are told apart by number; any further one by its process id
LEAST_PROCESSES = 3  # one for polls, one for deliveries, one that ticks and new ids don't wait for
MOST_PROCESSES = 8
# Some programs that start others pass on a Ctrl-C that the terminal has sent to all of them.
ONE_PRESS_SECONDS = 0.5
QUOTAS = ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"

logger = structlog.get_logger(__name__)

# Not in its stubs.
install_on_term: Any = program.install_worker_term_handler  # type: ignore[attr-defined]
install_on_interrupt: Any = program.install_worker_int_handler  # type: ignore[attr-defined]

_held: list[socket.socket] = []  # the names that this process has taken
_asked: list[str] = []  # to end, by these signals; a handler can't log


class Node(program.Worker):
    """A worker with a name of its own that says all in lines, and ends as a person expects."""

    def __init__(self, app: Celery | None = None, hostname: str | None = None, **kwargs: Any):
        name = hostname if hostname and _chosen("hostname") else own_name()
        _begin(name)
        super().__init__(app, name, **kwargs)

    def emit_banner(self) -> None:
        """Say what is started, without the picture."""
        worker: Any = self
        logger.info(
            "worker_starting",
            version=version("reelwatch"),
            celery=version("celery"),
            pool=worker.pool_cls.__module__.rpartition(".")[2],
            concurrency=worker.concurrency,
            queues=sorted(worker.app.amqp.queues.consume_from),
            broker=shown_url(settings.current().broker),
        )

    def install_platform_tweaks(self, worker: Any) -> None:
        """Celery's signal handlers, but for those that end a worker.

        Celery would cut off what is under way at a SIGQUIT, call an end by Ctrl-C a failure, and at
        a SIGHUP start the worker anew, whatever else it is asked at that moment.
        """
        self._isatty = True  # then Celery leaves SIGHUP alone
        super().install_platform_tweaks(worker)
        for each in ("SIGTERM", "SIGQUIT", *(["SIGHUP"] if ends_by_hangup() else [])):
            install_on_term(worker, sig=each)
        install_on_interrupt(worker, callback=self._interrupted, exitcode=EX_OK)

    def on_stopped(self) -> None:
        """Say what ended it: a signal, or none."""
        super().on_stopped()
        logger.info("worker_ended", signal=_asked[0] if _asked else None)

    def _interrupted(self, _worker: Any) -> None:
        first = time.monotonic()

        def again(*_: object) -> None:
            if time.monotonic() - first > ONE_PRESS_SECONDS:
                os._exit(EX_FAILURE)

        signal.signal(signal.SIGINT, again)


class Clock(Beat):
    """Beat, with a name of its own, which says all in lines."""

    def __init__(self, *args: Any, hostname: str | None = None, **kwargs: Any):
        name = hostname or own_name(BEAT_NAME)
        _begin(host_format(default_nodename(name)))
        super().__init__(*args, **{**kwargs, "hostname": name, "quiet": True})


class Application(Celery):
    """Celery, but for its workers and beat, which are ours."""

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's own name for it
        """The class of a worker of this app."""
        return self.subclass_with_self(Node, name="Worker")

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - Celery's own name for it
        """The class of beat of this app."""
        return self.subclass_with_self(Clock, name="Beat")


def _begin(name: str) -> None:
    """Before Celery says its first word."""
    secrecy.outlive_readers()
    try:
        log.configure(settings.current())
    except SettingsError as error:
        raise SystemExit(log.last_words(str(error))) from None
    log.take_over(name)
    program.safe_say = _say  # type: ignore[attr-defined]  # not in its stubs


def hear_the_pool() -> None:
    """What the pool says of its processes becomes lines too; by itself it goes bare to stderr.

    To be called after Celery has set up logging, which gives this logger back to itself.
    """
    pool = get_pool_logger()
    pool.propagate, pool.level = True, logging.WARNING


def _say(text: object, *_: object) -> None:
    log.at_once(str(text).strip(), program.__name__)


# ------------------------------------------------------------------- names


def _chosen(option: str) -> bool:
    """Was this given by a person? Celery's command line fills in a default of its own."""
    context = click.get_current_context(silent=True)
    source = context and context.get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def own_name(name: str = NAME) -> str:
    """`NAME@HOST` for the first process that asks on this host, `NAME-2@HOST` for the next one.

    One node must not answer, or end, for another. A name is held for as long as the process lives.
    """
    host = gethostname()
    for number in range(1, NAMES + 1):
        candidate = f"{name}@{host}" if number == 1 else f"{name}-{number}@{host}"
        if _take(candidate):
            return candidate
    return f"{name}-{os.getpid()}@{host}"


def _take(name: str) -> bool:
    """Hold a name while this process lives; false if another process does.

    By a socket without a file: nothing is left behind, and containers that share a host name, as
    those of a pod do, share these names too.
    """
    if not sys.platform.startswith("linux"):
        return False
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0{name}")
    except OSError:
        holder.close()
        return False
    _held.append(holder)
    return True


# ------------------------------------------------------------- concurrency


def concurrency() -> int:
    """How many processes a worker has by default: batches wait for the network, so some more than
    there are cores to run them."""
    return max(LEAST_PROCESSES, min(MOST_PROCESSES, cores() + 2))


def cores() -> int:
    """The processors that this process may use: by its affinity and by its container's quota."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        usable = os.cpu_count() or 1
    return max(1, min(usable, int(_quota() or usable)))


def _quota() -> float | None:
    """How many processors the control group allows; None: as many as there are."""
    for path in QUOTAS:
        with contextlib.suppress(OSError, ValueError):
            quota, _, period = Path(path).read_text().strip().partition(" ")
            allowed = float(quota) / float(period or Path(PERIOD).read_text())
            return allowed if allowed > 0 else None
    return None


# --------------------------------------------------------------------- end


@signals.worker_init.connect
def _before_forking(sender: Any, **_: object) -> None:
    # Each child would look through all packages for it, though nobody keeps results.
    sender.app.backend  # noqa: B018
    _watch_the_living()
    fanout.stopping.share()
    if isinstance(sender.concurrency, int):
        fanout.places = sender.concurrency


@signals.worker_before_create_process.connect
def _freeze(**_: object) -> None:
    # What is there at the first fork stays as it is. Python's collector would touch all of it in
    # every child, and so make the child a copy of its own: twice the memory of an idle worker.
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


@signals.worker_process_init.connect
def _await_the_end(**_: object) -> None:
    """In a child of the pool: its parent says when to end, whoever else is sent a signal.

    Signals go to whole groups too. A child that one ended would lose the answers under way.
    """
    fanout.stopping.inherit()
    for each in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):  # SIGINT is ignored already
        signal.signal(each, signal.SIG_IGN)


def _watch_the_living() -> None:
    """Have Celery's pool, after the broker was away, watch only processes that have not ended.

    One whose end was noticed but that the system still winds up has no descriptor any more to be
    watched by; that would end the worker. The pool replaces it within seconds.
    """
    pool: Any = asynpool.AsynPool
    watch = pool._track_child_process
    if watch.__module__ == __name__:
        return

    def watch_if_alive(self: Any, child: Any, hub: Any) -> None:
        if getattr(child, "_sentinel_poll", True) is not None:
            watch(self, child, hub)

    pool._track_child_process = watch_if_alive


@signals.worker_shutting_down.connect
def _begin_the_end(sig: str, **_: object) -> None:
    _asked.append(sig)
    fanout.stopping.set()


# ------------------------------------------------------------------- batches


@signals.task_prerun.connect
def _name_batch(task: Any, **_: object) -> None:
    """Every line of a task says which one it is of, its threads' included."""
    structlog.contextvars.bind_contextvars(task=task.name, batch=secrets.token_hex(4))


@signals.task_postrun.connect
def _end_batch(**_: object) -> None:
    structlog.contextvars.unbind_contextvars("task", "batch")
