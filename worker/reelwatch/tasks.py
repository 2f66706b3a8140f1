"""The Celery tasks, each a thin call of a use case; and what keeps looks going without Celery."""

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog
from celery import Task, bootsteps, signals
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import union_all
from sqlalchemy.exc import DataError, SQLAlchemyError

from reelwatch import db, delivery, heartbeat, learning, polling, settings, tracking
from reelwatch.celery import MESSAGE_EXPIRES, TICK_SECONDS, app
from reelwatch.errors import Refused, SettingsError, UnknownJob

log = structlog.get_logger(__name__)

STANDBY_LOOK_SECONDS = 5.0
TICK_MISSED_SECONDS = 15.0
QUIET_AFTER_FAILED_NUDGE = 30.0
REASON_LIMIT = 500  # characters of why something was refused: they may quote it
TURN_LIMIT = 180  # seconds; a turn that a dead connection to the database holds is killed


# ------------------------------------------------------------------ intake


class _Intake(Task):  # type: ignore[type-arg]  # Celery 5.4's can't be subscripted
    """An id is under way until its row is committed: acknowledged late, tried until it is.

    Also while the settings can't be read: what a producer hands in is not to blame.
    """

    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    autoretry_for = (SQLAlchemyError, SettingsError)
    max_retries = None
    retry_backoff = 1
    retry_backoff_max = 30
    retry_jitter = True


def _taken_in(action: Any, video_id: object, options: Mapping[str, Any]) -> None:
    """Do what a producer asks for; what can't be accepted is refused for good and says why."""
    try:
        _check(video_id, options)
        action(video_id, **options)
    except (Refused, UnknownJob, TypeError, DataError) as error:
        shown, reason = str(video_id)[:200], str(error)[:REASON_LIMIT]
        log.error("refused", task=action.__name__, video_id=shown, reason=reason)


def _check(video_id: object, options: Mapping[str, Any]) -> None:
    """What no database could look for is refused here: asking again would change nothing."""
    if "session" in options:
        raise Refused("session: it can't come with a message")
    tracking.check_video_id(video_id)
    if not isinstance(options.get("account", ""), str):
        raise Refused("account: it is not a text")


@app.task(name="reelwatch.track", base=_Intake)
def track(video_id: object, **options: Any) -> None:
    """`reelwatch.track(video_id, …)` of any producer: what `track()` takes, but for `session`."""
    _taken_in(tracking.track, video_id, options)


@app.task(name="reelwatch.cancel", base=_Intake)
def cancel(video_id: object, **options: Any) -> None:
    """`reelwatch.cancel(video_id, account="default")`."""
    _taken_in(tracking.cancel, video_id, options)


@app.task(name="reelwatch.recheck", base=_Intake)
def recheck(video_id: object, **options: Any) -> None:
    """`reelwatch.recheck(video_id, account="default")`."""
    _taken_in(tracking.recheck, video_id, options)


# -------------------------------------------------------------------- work


@app.task(name="reelwatch.tick", time_limit=TURN_LIMIT)
def tick() -> None:
    """Find what is due and have it done. Two beats, or late ticks, cost one statement."""
    accounts, owed = _due()
    for account in accounts:
        poll.apply_async((account,), expires=MESSAGE_EXPIRES, retry=False)
    if owed:
        deliver.apply_async(expires=MESSAGE_EXPIRES, retry=False)


@app.task(name="reelwatch.poll", time_limit=TURN_LIMIT)
def poll(account: str) -> None:
    """One turn of looks at an account's due jobs."""
    polling.poll(settings.current(), account, nudge=nudge, hand_over=lambda: next_turn(account))


@app.task(name="reelwatch.learn", time_limit=TURN_LIMIT)
def learn() -> None:
    """Learn from the jobs that have ended since the last time."""
    current = settings.current()
    learning.learn(current.database_url, current.plans)


@app.task(name="reelwatch.deliver", time_limit=TURN_LIMIT)
def deliver() -> None:
    """One turn of attempts at owed events."""
    delivery.deliver(settings.current(), send_callback)


def _due() -> tuple[list[str], bool]:
    with db.at_once(settings.current().database_url) as session:
        now = heartbeat.beat(session, heartbeat.TICK, timedelta(seconds=TICK_SECONDS / 2))
        if now is None:
            return [], False
        # In one statement: there is a tick every second, and most find nothing.
        accounts, owed = polling.due_accounts(now), delivery.owed(now)
        found = session.scalars(union_all(accounts, owed)).all()
    return [name for name in found if name is not None], None in found


def send_callback(task: str, queue: str, event: dict[str, Any], event_id: str) -> None:
    """Hand an event to a Celery task of the producer's. Raises what the broker's client raises."""
    app.send_task(task, kwargs={"event": event}, queue=queue, task_id=event_id, retry=False)


class _Nudge:
    """Has a turn begin at once. While the broker is away, the next tick does it."""

    def __init__(self, task: "Task[Any, None]") -> None:
        self._task = task
        self._quiet_until = 0.0

    def __call__(self, *args: str) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._task.apply_async(args, expires=MESSAGE_EXPIRES, retry=False)
        except (BrokerError, OSError) as error:
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILED_NUDGE
            log.warning("nudge_failed", task=self._task.name, error=str(error))


nudge = _Nudge(deliver)
next_turn = _Nudge(poll)


# ----------------------------------------------------------------- standby


class Standby:
    """Does the work of the ticks in a worker's own thread while no tick comes.

    Beat or the broker may be gone, or hang; the rows are due all the same.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="standby", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system allows no more: ticks are all there is
            log.warning("standby_missing", error=str(error))

    def stop(self) -> None:
        """Stop watching; a turn under way ends by itself."""
        self._stop.set()

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(STANDBY_LOOK_SECONDS):
            if time.monotonic() - started < TICK_MISSED_SECONDS:
                continue  # beat and worker start at once: give the first tick its time
            try:
                self.look()
            except SQLAlchemyError as error:
                log.error("standby_failed", error=str(error).splitlines()[0])
            except Exception:  # this thread is the last resort: it outlives what it trips over
                log.exception("standby_crashed")

    def look(self) -> bool:
        """Do one round of work, if no tick has been seen for a while; says whether it did."""
        current = settings.current()
        with db.at_once(current.database_url) as session:
            age = heartbeat.age(session, heartbeat.TICK)
            if age is not None and timedelta(0) <= age < timedelta(seconds=TICK_MISSED_SECONDS):
                return False
            accounts = session.scalars(polling.due_accounts(db.now(session))).all()
        log.warning("tick_missing", age_seconds=age and round(age.total_seconds(), 1))
        for account in accounts:  # one after the other
            polling.poll(current, account, turn_seconds=polling.TURN_SECONDS / len(accounts))
        delivery.deliver(current, send_callback)
        return True


standby = Standby()


class _Standing(bootsteps.StartStopStep):
    """Standby begins with the worker, not when the broker is first reached.

    Once the pool has made its processes: to fork while a thread works could copy a held lock.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: object) -> None:
        standby.start()


app.steps["worker"].add(_Standing)


@signals.worker_shutting_down.connect
def _end_standby(**_: object) -> None:
    standby.stop()
