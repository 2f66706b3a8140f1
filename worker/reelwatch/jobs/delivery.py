"""Telling producers: claim owed events, sign, send, record, try again, give up openly.

An event is marked as delivered only after its receiver said so. A worker that dies between the two
makes the event arrive twice, with the same id; none is lost.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from json import loads
from random import random
from typing import Any

import structlog
from sqlalchemy import (
    Select,
    bindparam,
    exists,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook

from reelwatch.config.settings import Settings
from reelwatch.jobs import fanout, strangers
from reelwatch.net import calls, http
from reelwatch.net.outbound import Sender
from reelwatch.rules import breaker
from reelwatch.rules.answers import clean_text
from reelwatch.rules.callback_url import parse_allowlist
from reelwatch.rules.cleaning import asked_to_wait
from reelwatch.rules.timing import schedule
from reelwatch.rules.wording import task_and_queue
from reelwatch.storage import claiming, db
from reelwatch.storage.destinations import Call, deliveries, is_due, judge, shown
from reelwatch.storage.models import table_of

log = structlog.get_logger(__name__)

attempts = table_of("attempts")

# Statements are made once: putting one together takes as long as the database takes for it.
TOKENS = db.tokens_of(deliveries, key_share=True)
COUNTED = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("row_id"))
    .values(attempts=deliveries.c.attempts + 1)
)
FOLLOWED = COUNTED.values(
    state=bindparam("state"),
    next_attempt_at=bindparam("next_attempt_at"),
    delivered_at=bindparam("delivered_at"),
    failures=bindparam("failures"),
    lease_token=None,
)

LEASE = timedelta(seconds=60)  # longer than the webhook timeout and writing down together
LEASE_MARGIN = 30.0  # seconds, for looking up names late and writing down
AT_ONCE = 64  # attempts under way
THREADS = 8  # of them by way of the broker, as many as kombu keeps connections for
TURN_SECONDS = 10.0
IDLE_AGAIN = 0.5
EXCERPT_LIMIT = 500  # characters of a response that an attempt keeps
GONE = 410


SendCallback = Callable[[str, str, dict[str, Any], str], None]  # task, queue, event, event id


class NoQueue(Exception):
    """The broker knows no queue of that name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt went. `http_status` None: no answer, or no HTTP; `error` None: it arrived."""

    at: datetime
    duration_ms: int
    http_status: int | None = None
    error: str | None = None
    excerpt: str | None = None
    retry_after: float | None = None
    gone: bool = False
    sent: bool = True  # else it was never tried, and says nothing of the receiver


@dataclass(frozen=True, slots=True)
class Attempted:
    """A claimed delivery and how its attempt went."""

    row: RowMapping
    outcome: Outcome


def lease_for(timeout: float) -> timedelta:
    """How long an event is leased where an attempt may take so many seconds."""
    return max(LEASE, timedelta(seconds=timeout + LEASE_MARGIN))


def owed(now: datetime) -> Select[Any]:
    """One row, a null, if any event should be tried by now; else none."""
    return select(null()).where(exists().where(is_due(now)))


def deliver(
    settings: Settings, send_callback: SendCallback, *, turn_seconds: float = TURN_SECONDS
) -> int:
    """One turn of attempts at all events that are due; returns how many were made."""
    courier = _Courier(settings, send_callback)
    client = _sender(settings.webhook_allow, settings.webhook_timeout, os.getpid()).client
    return fanout.fan_out(
        courier.claim,
        courier.send_callback,
        courier.record,
        threads=THREADS,
        turn_seconds=turn_seconds,
        wire=fanout.Wire(client, courier.call, courier.result, AT_ONCE),
    )


# ----------------------------------------------------------------- the turn


class _Courier:
    """What one turn needs: the secrets' signers, the sender, the way to Celery."""

    def __init__(self, settings: Settings, send_callback: SendCallback) -> None:
        self._settings = settings
        self._send_callback = send_callback
        self._signers = cache(self._signers_of)
        self._clock: tuple[datetime, float] | None = None
        self._begun: dict[str, datetime] = {}  # attempts by HTTP, by the ids of their events

    def claim(self, limit: int) -> fanout.Batch[RowMapping]:
        lease = lease_for(self._settings.webhook_timeout)
        rows: list[RowMapping] = []
        with db.reading(self._settings.database_url) as session:  # no writer waits for it
            if self._clock is None:
                self._clock = (db.now(session), time.monotonic())
            known = strangers.left(session, self._settings.accounts, self._now())
            ids = claiming.survey(session, limit, self._now(), known)
        if ids:
            with db.at_once(self._settings.database_url) as session:
                rows = claiming.take(session, ids, self._now(), lease)
        return fanout.Batch(rows, IDLE_AGAIN, when_freed=True)

    def send_callback(self, row: RowMapping) -> Attempted:
        """Send a Celery callback."""
        at, started = self._now(), time.monotonic()
        details = self._send_to_celery(row)
        return Attempted(row, Outcome(at, round((time.monotonic() - started) * 1000), **details))

    def call(self, row: RowMapping) -> calls.Call | Attempted | None:
        """What posts a webhook, or the attempt that failed before; None for a Celery callback."""
        if row["channel"] != "webhook":
            return None
        at, account = self._now(), str(_subject(row["body"]).get("account", "default"))
        signers = self._signers(account)
        if not signers:
            lacking = f"{self._settings.secret_variable(account)} is not set"
            if account not in self._settings.accounts:  # its first event came after the survey
                lacking = f"this worker does not know the account {account}"
            error = f"{lacking}: the event can't be signed"
            return Attempted(row, Outcome(at, 0, error=error, sent=False))
        sender = _sender(self._settings.webhook_allow, self._settings.webhook_timeout, os.getpid())
        headers = signed_headers(signers, row["id"], at, row["body"])
        try:
            request = sender.request(row["target"], row["body"].encode("utf-8"), headers)
        except http.TransferError as error:
            return Attempted(row, Outcome(at, 0, error=str(error)))
        self._begun[row["id"]] = at
        return calls.Call(request)

    def result(self, row: RowMapping, outcome: http.Outcome | None) -> Attempted:
        """The attempt that this has come of."""
        at, elapsed = self._begun.pop(row["id"]), outcome.elapsed_seconds if outcome else 0.0
        details: dict[str, Any] = {"error": str(outcome)}
        if isinstance(outcome, http.Response):
            details = _answered(outcome, at)
        return Attempted(row, Outcome(at, round(elapsed * 1000), **details))

    def _now(self) -> datetime:
        """By the database's clock: what a worker with a wrong one signs would be refused."""
        at, then = self._clock or (datetime.now(UTC), time.monotonic())
        return at + timedelta(seconds=time.monotonic() - then)

    def record(self, results: Sequence[Attempted]) -> None:
        """Write a group down as one; if one of it can't be written, the others all the same."""
        db.write_all(self._record, results, self._record_bare)

    def _record_bare(self, attempted: Attempted) -> None:
        """Without what the receiver said: an attempt that is never counted is made for ever."""
        log.exception("attempt_not_written", delivery=attempted.row["id"])
        said = attempted.outcome.error and "what went wrong can't be written down"
        bare = replace(attempted, outcome=replace(attempted.outcome, error=said, excerpt=None))
        db.write_all(self._record, [bare], _not_written)

    def _record(self, results: Sequence[Attempted]) -> None:
        now, retry_schedule = self._now(), self._settings.retry_schedule
        followed = [(done, _after(done, now, retry_schedule)) for done in results]
        with db.transaction(self._settings.database_url) as session:
            record(session, followed, now)
        for attempted, values in followed:
            _log_attempt(attempted, values)

    def _signers_of(self, account: str) -> list[Webhook]:
        return [Webhook(secret) for secret in self._settings.secrets_of(account)]

    def _send_to_celery(self, row: RowMapping) -> dict[str, Any]:
        if self._settings.in_memory:
            unseen = "BROKER_URL is not set: no other process would see the callback"
            return {"error": unseen, "sent": False}
        task, queue = task_and_queue(row["target"])
        try:
            self._send_callback(task, queue, loads(row["body"]), row["id"])
        except Exception as error:  # a broker's client raises what it likes; all of it is retried
            # A broker that is away says nothing of a queue: what comes after it goes at once.
            missing = isinstance(error, NoQueue)
            return {"error": f"broker: {type(error).__name__}: {error}", "sent": missing}
        return {}


def post(settings: Settings, target: str, body: str, headers: Mapping[str, str]) -> http.Response:
    """Post once, to what may be reached and within its time. Raises `http.TransferError`."""
    sender = _sender(settings.webhook_allow, settings.webhook_timeout, os.getpid())
    return sender.post(target, body.encode("utf-8"), headers)


def _not_written(attempted: Attempted) -> None:
    log.exception("attempt_not_written", delivery=attempted.row["id"])


@cache
def _sender(allow: str, timeout: float, _pid: int) -> Sender:
    return Sender(parse_allowlist(allow), timeout)


def signed_headers(
    signers: Sequence[Webhook], event_id: str, at: datetime, body: str
) -> dict[str, str]:
    """The headers of Standard Webhooks: one signature per current secret, the newest first.

    `at` must be in UTC: the package takes the clock's face for UTC whatever its zone says.
    """
    signatures = (signer.sign(event_id, at.astimezone(UTC), body) for signer in signers)
    return {
        "Content-Type": "application/json",
        "User-Agent": http.USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _answered(reply: http.Response, at: datetime) -> dict[str, Any]:
    text = reply.body[: 4 * EXCERPT_LIMIT].decode("utf-8", "replace")
    excerpt = clean_text(text)[:EXCERPT_LIMIT]
    details: dict[str, Any] = {"http_status": reply.status, "excerpt": excerpt or None}
    if not 200 <= reply.status < 300:
        details["error"] = f"the receiver answered {reply.status}"
        details["retry_after"] = asked_to_wait(reply.headers, at)
        details["gone"] = reply.status == GONE
    return details


# -------------------------------------------------------------------- rows


def claim(
    session: Session, limit: int, now: datetime, lease: timedelta = LEASE
) -> list[RowMapping]:
    """Take up to `limit` due events, as many of each endpoint and host as may be under way."""
    return claiming.take(session, claiming.survey(session, limit, now), now, lease)


def record(
    session: Session, followed: Sequence[tuple[Attempted, dict[str, Any]]], now: datetime
) -> None:
    """Write attempts down, and what follows from them where the delivery is still ours.

    An attempt whose lease ran out is recorded too: it was made. But it decides nothing any more.
    Nor does one whose delivery somebody changes just now, by ordering it again, say.
    """
    connection = session.connection()
    connection.execute(insert(attempts), [_attempt(attempted) for attempted, _ in followed])
    tokens = db.tokens_now(session, TOKENS, {done.row["id"] for done, _ in followed})
    free = [(done, values) for done, values in followed if done.row["id"] in tokens]
    outcomes, lost = [], []
    for done, values in free:
        if tokens[done.row["id"]] == done.row["lease_token"]:
            outcomes.append(values)
        else:
            lost.append({"row_id": done.row["id"]})
    if outcomes:
        connection.execute(FOLLOWED, outcomes)
    if lost:
        connection.execute(COUNTED, lost)
    judge(session, [_call(done) for done, _ in followed if done.outcome.sent], now)


def _call(attempted: Attempted) -> Call:
    row, outcome = attempted.row, attempted.outcome
    verdict = breaker.verdict(outcome.http_status, arrived=outcome.error is None)
    answered = outcome.http_status is not None if row["channel"] == "webhook" else None
    return Call(row["destination"], row["target"], verdict, answered)


def _attempt(attempted: Attempted) -> dict[str, Any]:
    outcome = attempted.outcome
    return {
        "delivery_id": attempted.row["id"],
        "at": outcome.at,
        "http_status": outcome.http_status,
        "error": outcome.error and clean_text(outcome.error)[:EXCERPT_LIMIT],
        "duration_ms": outcome.duration_ms,
        "response_excerpt": outcome.excerpt,
    }


def _after(attempted: Attempted, now: datetime, retry_schedule: Sequence[float]) -> dict[str, Any]:
    """The delivery's columns after the attempt."""
    row, outcome = attempted.row, attempted.outcome
    values = {"row_id": row["id"]}
    if outcome.error is None:
        delivered = {"state": "delivered", "next_attempt_at": None, "delivered_at": now}
        return values | delivered | {"failures": row["failures"]}
    failures = row["failures"] + 1
    again = None
    if not outcome.gone:
        jitter = random()  # noqa: S311 - jitter
        again = schedule.next_attempt(failures, retry_schedule, now, jitter, outcome.retry_after)
    state = "pending" if again else "dead"
    return values | {
        "state": state,
        "next_attempt_at": again,
        "delivered_at": None,
        "failures": failures,
    }


# --------------------------------------------------------------------- log


def _log_attempt(attempted: Attempted, after: dict[str, Any]) -> None:
    row, outcome, again = attempted.row, attempted.outcome, after["next_attempt_at"]
    level = log.info if outcome.error is None else log.warning
    level(
        "attempt",
        delivery=row["id"],
        job=row["job_id"],
        **_subject(row["body"]),
        event_type=row["event_type"],
        channel=row["channel"],
        destination=row["destination"],
        endpoint=shown(row["target"]),
        number=row["attempts"] + 1,
        http_status=outcome.http_status,
        error=outcome.error,
        duration_ms=outcome.duration_ms,
        decision=f"try again at {again:%Y-%m-%dT%H:%M:%SZ}" if again else after["state"],
    )


def _subject(body: str) -> dict[str, Any]:
    """Whose event it is: which video, of which account."""
    try:
        data = loads(body)["data"]
        return {"video_id": data["video_id"], "account": data["account"]}
    except (ValueError, LookupError, TypeError):
        return {}
