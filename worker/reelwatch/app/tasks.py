"""The Celery tasks, each a thin call of a use case; and what keeps polls going without Celery."""

import functools
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import structlog
from celery import Task
from celery.exceptions import Reject
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy import CompoundSelect, union_all
from sqlalchemy.exc import SQLAlchemyError
from structlog.contextvars import bound_contextvars

from reelwatch.app import installations, life, messages, waiting
from reelwatch.app.callbacks import send_callback
from reelwatch.app.celery import MESSAGE_EXPIRES, TICK_SECONDS, app
from reelwatch.config import planning, settings
from reelwatch.errors import Refused, first_line
from reelwatch.jobs import (
    delivery,
    fanout,
    intake,
    learning,
    polling,
    redelivery,
    tracking,
    watching,
)
from reelwatch.rules.actions import BY_TASK
from reelwatch.rules.states import State
from reelwatch.rules.video_ids import check_tracked_id
from reelwatch.storage import db, due_jobs, heartbeat
from reelwatch.storage.models import Job
from reelwatch.storage.walking import NOW

log = structlog.get_logger(__name__)

STANDBY_CHECK_SECONDS = 5.0
FINISH_SECONDS = 25.0  # at most, for what standby has under way when its worker is to end
TICK_MISSED_SECONDS = 15.0
QUIET_AFTER_FAILED_NUDGE = 30.0
PAUSE_SECONDS = 1.0  # of a slot, before a message goes back to the broker
LONGEST_RETRY = 30  # seconds until the broker hands it out again
BATCH_LIMIT = 180  # seconds; a batch that a dead connection to the database holds is killed


# ------------------------------------------------------------------ intake


class _Intake(Task):  # type: ignore[type-arg]  # Celery 5.4's can't be subscripted
    """An id is under way until it is written down: acknowledged late, tried until it is.

    Also while the settings can't be read, or the database is at another revision: what a producer
    hands in is not to blame.
    """

    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    max_retries = None

    def take_in(self, action: intake.Action, args: Sequence[object], given: Any) -> None:
        """Do it, write down that it waits or was refused; or else have the broker keep it."""
        try:
            options = dict(given)
            video_id = options.pop("video_id", "") if not args else args[0]
            message = intake.Message(
                id=str(self.request.id or uuid4()),
                task=action.__name__,
                video_id=video_id,
                options=options,
                worker=str(self.request.hostname or ""),
            )
            checked = _checked(action, len(args))
            intake.take_in(settings.current().database_url, message, checked)
        except Exception as error:
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        """Nothing can be written down: the broker hands the message out again."""
        retries = int(self.request.retries or 0)
        log.warning("not_taken_in", task=self.name, error=first_line(error))
        if not self.request.called_directly:
            fanout.stopping.wait(PAUSE_SECONDS)  # the queue keeps ids better than a busy circle
        wait = get_exponential_backoff_interval(1, min(retries, 10), LONGEST_RETRY, True)
        try:
            raise self.retry(exc=error, countdown=wait)
        except Reject as rejected:  # the broker takes nothing just now; it has the first one still
            log.warning("retry_not_published", task=self.name, error=str(rejected))
            raise Reject(str(rejected), requeue=True) from error


def _checked(action: intake.Action, count: int) -> intake.Action:
    """The action behind the checks that only messages need."""

    @functools.wraps(action)
    def checked(video_id: object, **options: Any) -> object:
        if count > 1:
            raise Refused(f"{count} values are given; accepted: one video id, the rest by name")
        _check(video_id, options)
        by = {} if action is tracking.track else {"by": BY_TASK}
        done = action(video_id, **options, **by)
        if isinstance(done, Job):
            _tell_known(done)
        return done

    return checked


def _tell_known(job: Job) -> None:
    """Nobody reads what a task returns: what a known job does not take over stands in the log."""
    if job.created or not (job.differs or job.state == State.CANCELLED):
        return
    log.warning(
        "tracked_already", job=job.id, video_id=job.video_id, account=job.account, state=job.state,
        differs=job.differs,
    )  # fmt: skip


def _check(video_id: object, options: Mapping[str, Any]) -> None:
    """What no database could look for is refused here: asking again would change nothing."""
    for name in ("session", "by"):
        if name in options:
            raise Refused(f"{name}: it can't come with a message")
    check_tracked_id(video_id)
    if not isinstance(options.get("account", ""), str):
        raise Refused("account: it is not a text")


@app.task(name="reelwatch.track", base=_Intake, bind=True)
def track(self: _Intake, /, *args: object, **options: Any) -> None:
    """`reelwatch.track(video_id, …)` of any producer: what `track()` takes, but for `session`."""
    self.take_in(tracking.track, args, options)


@app.task(name="reelwatch.cancel", base=_Intake, bind=True)
def cancel(self: _Intake, /, *args: object, **options: Any) -> None:
    """`reelwatch.cancel(video_id, account="default")`."""
    self.take_in(tracking.cancel, args, options)


@app.task(name="reelwatch.recheck", base=_Intake, bind=True)
def recheck(self: _Intake, /, *args: object, **options: Any) -> None:
    """`reelwatch.recheck(video_id, account="default")`."""
    self.take_in(tracking.recheck, args, options)


ACTIONS: Mapping[str, intake.Action] = {
    action.__name__: _checked(action, 1)
    for action in (tracking.track, tracking.cancel, tracking.recheck)
}


# -------------------------------------------------------------------- work


@app.task(name="reelwatch.tick", time_limit=BATCH_LIMIT)
def tick() -> None:
    """Find what is due and have it done. Two beats, or late ticks, cost one statement."""
    names = _due()
    for name in names:
        if name is None:
            _publish(deliver)
        elif name == intake.DUE:
            _publish(retry_waiting)
        else:
            _publish(poll, name)


def _publish(task: Any, *args: str) -> bool:
    """Was it taken? What the broker does not take now is still due at the next tick."""
    try:
        task.apply_async(args, expires=MESSAGE_EXPIRES, retry=False)
    except Exception as error:  # each transport's client raises errors of its own
        log.warning("nudge_failed", task=task.name, error=str(error))
        return False
    return True


@app.task(name="reelwatch.retry_waiting", time_limit=BATCH_LIMIT, bind=True)
def retry_waiting(self: Any) -> None:
    """Try again what producers sent and could not be taken in."""
    url = settings.current().database_url
    intake.retry(url, ACTIONS, str(self.request.hostname or ""))


@app.task(name="reelwatch.poll", time_limit=BATCH_LIMIT)
def poll(account: str) -> None:
    """One batch of polls of an account's due jobs."""
    polling.poll(settings.current(), account, nudge=nudge, hand_over=lambda: next_batch(account))


@app.task(name="reelwatch.learn", time_limit=BATCH_LIMIT)
def learn() -> None:
    """Watch how all goes, learn from what has ended, go on with orders that were left."""
    current = settings.current()
    watching.watch(current)
    learning.learn(current.database_url, planning.plans_of(current))
    redelivery.work_at_left(current.database_url, fanout.stopping.is_set)


@app.task(name="reelwatch.deliver", time_limit=BATCH_LIMIT)
def deliver() -> None:
    """One batch of attempts at owed events."""
    delivery.deliver(settings.current(), send_callback)


def _due() -> Sequence[str | None]:
    """Accounts with due jobs; None if events are owed; `intake.DUE` if messages wait."""
    with db.at_once(settings.current().database_url) as session:
        now = heartbeat.beat(session, heartbeat.TICK, timedelta(seconds=TICK_SECONDS / 2))
        return [] if now is None else session.scalars(_all_due(), {"now": now}).all()


@functools.cache
def _all_due() -> CompoundSelect[Any]:
    """One statement, made once: there is a tick every second, and most find nothing."""
    return union_all(due_jobs.due_accounts(NOW), delivery.owed(NOW), intake.due(NOW))


class _Nudge:
    """Has a batch begin at once. While the broker is away, the next tick does it."""

    def __init__(self, task: "Task[Any, None]") -> None:
        self._task = task
        self._quiet_until = 0.0

    def __call__(self, *args: str) -> None:
        if time.monotonic() >= self._quiet_until and not _publish(self._task, *args):
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILED_NUDGE


nudge = _Nudge(deliver)
next_batch = _Nudge(poll)


# ----------------------------------------------------------------- standby


class Standby:
    """Does the work of the ticks in a worker's own thread while no tick comes.

    Beat or the broker may be gone, or hang; the rows are due all the same.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._node = ""
        self._signs_at = self._check_at = 0.0

    def start(self, node: str = "") -> None:
        """Begin to watch, in the worker of that name."""
        self._node = node
        self._stop.clear()
        # Beat and worker start at once: the first tick gets its time.
        self._check_at = time.monotonic() + TICK_MISSED_SECONDS
        self._thread = threading.Thread(target=self._watch, name="standby", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system allows no more: ticks are all there is
            log.warning("standby_missing", error=str(error))

    def stop(self) -> None:
        """Stop watching; a batch under way ends by itself."""
        self._stop.set()

    def finish(self) -> None:
        """Wait for a batch under way: what it has asked is written down before the process ends."""
        self.stop()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(FINISH_SECONDS)

    def _watch(self) -> None:
        while not self._stop.wait(STANDBY_CHECK_SECONDS):
            life.here.sign("standby", BATCH_LIMIT)
            self._note_refusals()
            self._sign()
            if time.monotonic() < self._check_at:
                continue
            try:
                self.poll()
            except db.NotMigrated as error:
                waiting.worker.tell(error)
            except SQLAlchemyError as error:
                log.error("standby_failed", error=first_line(error))
            except Exception:  # this thread is the last resort: it outlives what it trips over
                log.exception("standby_crashed")

    def _note_refusals(self) -> None:
        """Write down the messages that were dropped before they became a task."""
        dropped = []
        while messages.dropped:
            dropped.append(messages.dropped.popleft())
        if not dropped:
            return
        try:
            refusals = [intake.Refusal(task, reason, self._node) for task, reason in dropped]
            intake.count_refusals(settings.current().database_url, refusals)
        except Exception as error:  # they are in the log; this thread goes on
            log.warning("refusals_not_counted", error=first_line(error))
            messages.dropped.extendleft(reversed(dropped))

    def _sign(self) -> None:
        """Let other installations know that ids of this queue are taken; say if others' are."""
        if time.monotonic() < self._signs_at:
            return
        self._signs_at = time.monotonic() + installations.SIGN_SECONDS
        try:
            current = settings.current()
            with db.reading(current.database_url) as session:
                mine = installations.identity(session)
            others = installations.others(current.broker, mine, self._node) if mine else []
        except Exception as error:  # a database or a broker that is away is told elsewhere
            log.debug("not_signed", error=first_line(error))
            return
        if others:
            log.error("broker_is_shared", workers=others[:3], hint=installations.ADVICE)

    def poll(self) -> bool:
        """Do one round of work, if no tick has been seen for a while; says whether it did."""
        current = settings.current()
        with db.at_once(current.database_url) as session:
            age = heartbeat.age(session, heartbeat.TICK)
            if age is not None and timedelta(0) <= age < timedelta(seconds=TICK_MISSED_SECONDS):
                left = TICK_MISSED_SECONDS - age.total_seconds()
                self._check_at = time.monotonic() + left  # until then none can have been missed
                return False
            accounts = session.scalars(due_jobs.due_accounts(db.now(session))).all()
        log.warning("tick_missing", age_seconds=age and round(age.total_seconds(), 1))
        with bound_contextvars(task="standby", batch=secrets.token_hex(4)):
            self._work(current, accounts)
        return True

    def _work(self, current: settings.Settings, accounts: Sequence[str]) -> None:
        for account in accounts:  # one after the other
            polling.poll(current, account, batch_seconds=polling.BATCH_SECONDS / len(accounts))
        delivery.deliver(current, send_callback)
        watching.watch(current, ticking=False)
        redelivery.work_at_left(current.database_url, fanout.stopping.is_set)
        intake.retry(current.database_url, ACTIONS, self._node)


standby = Standby()
