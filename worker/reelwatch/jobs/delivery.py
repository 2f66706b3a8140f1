"""Telling producers: claim owed events, hand them over, record, try again, give up openly.

An event is marked as delivered only after its receiver said so. A worker that dies between the two
makes the event arrive twice, with the same id; none is lost.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from random import random
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, exists, null, select
from sqlalchemy.orm import Session

from reelwatch.config.settings import Settings
from reelwatch.jobs import channels, fanout, strangers
from reelwatch.jobs.channels import Channel, Event, Means, SendTask, webhook
from reelwatch.jobs.lanes import Lanes
from reelwatch.net import calls, http
from reelwatch.rules.channels import WEBHOOK
from reelwatch.rules.cleaning import asked_to_wait, clean_text
from reelwatch.rules.retry import Outcome, after_attempt
from reelwatch.storage import db, due_deliveries, outcomes, writing
from reelwatch.storage.destinations import is_due, shown
from reelwatch.storage.outcomes import EXCERPT_LIMIT, Attempt
from reelwatch.storage.walking import Owed

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=60)  # longer than the webhook timeout and writing down together
LEASE_MARGIN = 30.0  # seconds, for waiting, looking up names late and writing down
AT_ONCE = 128  # events in hand
AHEAD = 8  # times as many as a host that is well has places for
AHEAD_SECONDS = 5.0  # that they wait at most, well within the margin
THREADS = 8  # for channels that block, as many as kombu keeps connections for
BATCH_SECONDS = 10.0
IDLE_AGAIN = 0.5
DEFAULT_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a claimed event; without an outcome it was not tried, and is given back."""

    row: Owed
    at: datetime
    duration_ms: int = 0
    outcome: Outcome | None = None
    request_headers: str | None = None


def lease_for(timeout: float) -> timedelta:
    """How long an event is leased where an attempt may take so many seconds."""
    return max(LEASE, timedelta(seconds=timeout + LEASE_MARGIN))


def owed(now: datetime | ColumnElement[datetime]) -> Select[Any]:
    """One row, a null, if any event should be tried by now; else none."""
    return select(null()).where(exists().where(is_due(now)))


def claim(session: Session, limit: int, now: datetime, lease: timedelta = LEASE) -> list[Owed]:
    """Take up to `limit` due events, as many of each endpoint and host as may be under way."""
    return due_deliveries.take(session, due_deliveries.survey(session, limit, now).ids, now, lease)


def rehearse(settings: Settings) -> None:
    """Have all that a claim needs made: the processes that this one forks find it there.

    Made anew in each, it would take longer than all else between an event and its first attempt.
    """
    webhook.sender(settings)
    with db.at_once(settings.database_url) as session:
        due_deliveries.rehearse(session, db.now(session))


def deliver(
    settings: Settings, send_task: SendTask, *, batch_seconds: float = BATCH_SECONDS
) -> int:
    """Attempt all events that are due, in one batch; returns how many attempts were made."""
    courier = _Courier(settings, send_task)
    client = webhook.sender(settings).client
    fanout.fan_out(
        courier.claim,
        courier.run,
        courier.record,
        threads=THREADS,
        batch_seconds=batch_seconds,
        urgent=lambda _: False,  # more are written down together while others are in hand
        wire=fanout.Wire(client, courier.begin, courier.result, AT_ONCE, lanes=courier.lanes,
                         give_back=courier.give_back),
    )  # fmt: skip
    return courier.made


class _Courier:
    """The events in hand of one batch, and the channels by which they go."""

    def __init__(self, settings: Settings, send_task: SendTask) -> None:
        self.made = 0  # attempts
        self.lanes = Lanes[Owed](lambda row: row.destination, AHEAD_SECONDS)
        self._settings = settings
        self._means = Means(settings, send_task)
        self._channel = cache(self._channel_of)
        self._clock: tuple[datetime, float] | None = None
        # Attempts, by the ids of their events: when each began, and how it was signed.
        self._begun: dict[str, tuple[datetime, str]] = {}
        self._blocking: dict[str, Callable[[], Outcome]] = {}  # attempts that threads are to make
        self._at_host: Counter[str] = Counter()  # events in hand
        self._at_endpoint: Counter[str] = Counter()
        self._failing: set[str] = set()  # endpoints: nothing more goes there that was claimed ahead
        self._slow: set[str] = set()  # hosts

    # Claiming.

    def claim(self, limit: int) -> fanout.Batch[Owed]:
        lease = lease_for(self._settings.webhook_timeout)
        rows: list[Owed] = []
        with db.at_once(self._settings.database_url, only_reads=True) as session:
            if self._clock is None:
                self._clock = (db.now(session), time.monotonic())
            known = strangers.left(session, self._settings.accounts, self._now())
            in_hand = due_deliveries.InHand(self._at_host, self._at_endpoint, AHEAD, self._slow)
            found = due_deliveries.survey(session, limit, self._now(), known, in_hand)
        if found.ids:
            with db.at_once(self._settings.database_url) as session:
                rows = due_deliveries.take(session, found.ids, self._now(), lease)
        self.lanes.place(_places(rows, found.places))
        self._at_host.update(row.destination for row in rows)
        self._at_endpoint.update(row.target for row in rows)
        self._failing.clear()
        return fanout.Batch(rows, IDLE_AGAIN, when_freed=True)

    def _now(self) -> datetime:
        """By the database's clock: what a worker with a wrong one signs would be refused."""
        at, then = self._clock or (datetime.now(UTC), time.monotonic())
        return at + timedelta(seconds=time.monotonic() - then)

    # Attempts.

    def begin(self, row: Owed) -> calls.Call | Done | None:
        """What posts a webhook, or what became of the event at once; None: `run` does it."""
        if row.target in self._failing:
            return self.give_back(row)
        at = self._now()
        try:
            way = self._channel(row.channel)
        except ImportError:
            said = f"this worker does not know the channel {row.channel}"
            return Done(row, at, 0, Outcome(error=said, sent=False))
        account = row.account or DEFAULT_ACCOUNT  # whose secrets sign the operator's events, too
        event = Event(row.id, row.event_type, account, row.target, row.body)
        begun = way.begin(event, at)
        if isinstance(begun, Outcome):
            return Done(row, at, 0, begun)
        if isinstance(begun, http.Request):
            self._begun[row.id] = (at, webhook.own_headers(begun.headers))
            return calls.Call(begun)
        self._blocking[row.id] = begun
        return None

    def run(self, row: Owed) -> Done:
        """Make an attempt that blocks."""
        at, started = self._now(), time.monotonic()
        outcome = self._blocking.pop(row.id)()
        return Done(row, at, _milliseconds(time.monotonic() - started), outcome)

    def result(self, row: Owed, said: http.Outcome | None) -> Done:
        """What this answer makes of an attempt by HTTP."""
        at, headers = self._begun.pop(row.id)
        outcome = Outcome(error=str(said))
        if isinstance(said, http.Response):
            outcome = _answered(said, at)
        if outcome.error:
            self._failing.add(row.target)
        taken = _milliseconds(said.elapsed_seconds if said else 0.0)
        return Done(row, at, taken, outcome, headers)

    def give_back(self, row: Owed) -> Done:
        """A claimed event that is not tried now: its host is slow, or its endpoint fails."""
        self._slow.add(row.destination)
        return Done(row, self._now())

    def _channel_of(self, name: str) -> Channel:
        return channels.channel(name)(self._means)

    # Writing down.

    def record(self, results: Sequence[Done]) -> None:
        """Write a group down as one; if one of it can't be written, the others all the same."""
        self._at_host.subtract(done.row.destination for done in results)
        self._at_endpoint.subtract(done.row.target for done in results)
        self.made += sum(done.outcome is not None for done in results)
        writing.write_all(self._record, results, self._record_bare)

    def _record_bare(self, done: Done) -> None:
        """Without what the receiver said: an attempt that is never counted is made for ever."""
        _not_written(done)
        if done.outcome:
            said = done.outcome.error and "what went wrong can't be written down"
            bare = replace(done, outcome=replace(done.outcome, error=said, excerpt=None))
            writing.write_all(self._record, [bare], _not_written)

    def _record(self, results: Sequence[Done]) -> None:
        now = self._now()
        made = [
            Attempt(
                done.row, done.at, done.duration_ms, done.outcome,
                after_attempt(done.outcome, done.row.failures, self._settings.retry_schedule, now,
                              random()),  # noqa: S311 - jitter
                done.request_headers,
            )
            for done in results
            if done.outcome
        ]  # fmt: skip
        given_back = [done.row for done in results if not done.outcome]
        with db.transaction(self._settings.database_url) as session:
            outcomes.write(session, made, given_back, now)
        for attempt in made:
            _log_attempt(attempt)


def _places(rows: Sequence[Owed], places: Mapping[str, int]) -> dict[str, int]:
    """Of the hosts that webhooks go to."""
    hosts = {row.destination for row in rows if row.channel == WEBHOOK}
    return {host: max(1, places[host]) for host in hosts}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _not_written(done: Done) -> None:
    log.exception("attempt_not_written", delivery=done.row.id)


def _answered(reply: http.Response, at: datetime) -> Outcome:
    text = reply.body[: 4 * EXCERPT_LIMIT].decode("utf-8", "replace")
    excerpt = clean_text(text)[:EXCERPT_LIMIT] or None
    if 200 <= reply.status < 300:
        return Outcome(reply.status, excerpt=excerpt)
    said = f"the receiver answered {reply.status}"
    # The rules bound what a receiver may ask for by the schedule.
    wait = asked_to_wait(reply.headers, at, most=math.inf)
    return Outcome(reply.status, said, excerpt, wait)


def _log_attempt(attempt: Attempt) -> None:
    row, outcome, again = attempt.row, attempt.outcome, attempt.next_at
    level = log.info if outcome.error is None else log.warning
    level(
        "attempt",
        delivery=row.id,
        job=row.job_id,
        video_id=row.video_id,
        account=row.account,
        event_type=row.event_type,
        channel=row.channel,
        destination=row.destination,
        endpoint=shown(row.target),
        number=row.attempts + 1,
        http_status=outcome.http_status,
        error=outcome.error,
        duration_ms=attempt.duration_ms,
        decision=f"try again at {again:%Y-%m-%dT%H:%M:%SZ}" if again else attempt.state.value,
    )
