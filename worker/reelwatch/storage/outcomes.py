"""Attempts at deliveries, and what follows from each: written down in groups.

The caller owns the transaction. A delivery is changed only while its lease is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.orm import Session

from reelwatch.rules import breaker, counting, notices
from reelwatch.rules.channels import WEBHOOK
from reelwatch.rules.cleaning import clean_text
from reelwatch.rules.notices import Notice, NoticeType
from reelwatch.rules.retry import Dead, Decision, Delivered, DeliveryState, Outcome
from reelwatch.storage import counters, db, incidents, list_parameters
from reelwatch.storage.destinations import Call, deliveries, judge, named
from reelwatch.storage.models import table_of
from reelwatch.storage.walking import Owed

EXCERPT_LIMIT = 500  # characters of an error, and of a response, that an attempt keeps

attempts = table_of("attempts")

TOKENS = db.tokens_of(deliveries, key_share=True)
COUNTED = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("row_id"))
    .values(attempts=deliveries.c.attempts + 1)
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a claimed delivery, and what becomes of that."""

    row: Owed
    at: datetime
    duration_ms: int
    outcome: Outcome
    decision: Decision
    request_headers: str | None = None  # a webhook's own, a line each

    @property
    def failures(self) -> int:
        """The delivery's failed attempts, this one included."""
        return self.row.failures + (not isinstance(self.decision, Delivered))

    @property
    def next_at(self) -> datetime | None:
        """When it is tried again; None: never."""
        return None if isinstance(self.decision, Delivered | Dead) else self.decision.at

    @property
    def state(self) -> DeliveryState:
        """The delivery's state after it."""
        if isinstance(self.decision, Delivered):
            return DeliveryState.DELIVERED
        return DeliveryState.DEAD if self.next_at is None else DeliveryState.PENDING


def write(
    session: Session, made: Sequence[Attempt], given_back: Sequence[Owed], now: datetime
) -> None:
    """Write attempts down, and what follows from them where the delivery is still ours.

    An attempt whose lease ran out is recorded too: it was made. But it decides nothing any more.
    Nor does one whose delivery somebody changes just now, by ordering it again, say. What is given
    back was claimed and never tried: it is due as before.
    """
    list_parameters.insert_rows(session, attempts, [_row(attempt) for attempt in made])
    tokens = db.tokens_now(session, TOKENS, _ids(made, given_back))
    free = [attempt for attempt in made if attempt.row.id in tokens]
    ours = [attempt for attempt in free if tokens[attempt.row.id] == attempt.row.lease_token]
    changed = [_changes(attempt, now) for attempt in ours]
    list_parameters.update_rows(session, deliveries, changed, counted="attempts")
    if len(ours) < len(free):
        lost = [{"row_id": attempt.row.id} for attempt in free if attempt not in ours]
        session.connection().execute(COUNTED, lost)
    back = [row for row in given_back if tokens.get(row.id) == row.lease_token]
    due = [
        {list_parameters.ROW_ID: row.id, "next_attempt_at": now, "lease_token": None}
        for row in back
    ]
    list_parameters.update_rows(session, deliveries, due)
    judge(session, [_call(attempt) for attempt in made if attempt.outcome.sent], now)
    _tell_dead(session, [each.row for each in ours if each.state is DeliveryState.DEAD], now)
    states = {attempt.row.id: attempt.state.value for attempt in ours}
    counters.add(session, counting.of_attempts(_counted(each, states, now) for each in made))


def _counted(attempt: Attempt, states: Mapping[str, str], now: datetime) -> counting.Attempted:
    """`states`: those that deliveries have by their attempts; others' decide nothing any more."""
    row, state = attempt.row, states.get(attempt.row.id, DeliveryState.PENDING.value)
    delivered = state == DeliveryState.DELIVERED.value
    return counting.Attempted(
        row.channel, row.destination, _call(attempt).verdict, attempt.duration_ms / 1000,
        settled=None if state == DeliveryState.PENDING.value else state,
        delay=(now - row.created_at).total_seconds() if delivered else None,
    )  # fmt: skip


def _tell_dead(session: Session, dead: Iterable[Owed], now: datetime) -> None:
    """Tell the operator of deliveries that were given up, once an hour for each endpoint.

    Of his own events nothing is told: that would go on for ever.
    """
    for row in dead:
        if row.job_id is not None:
            said = {"event_id": row.id, "event_type": row.event_type}
            data = named(row.target) | said | {"attempts": row.attempts + 1}
            notice = Notice(NoticeType.DELIVERY_DEAD, data)
            incidents.tell_once(session, notice, row.target, now, notices.DEAD_AGAIN)


def _ids(made: Sequence[Attempt], given_back: Sequence[Owed]) -> set[str]:
    return {attempt.row.id for attempt in made} | {row.id for row in given_back}


def _row(attempt: Attempt) -> dict[str, Any]:
    outcome = attempt.outcome
    return {
        "delivery_id": attempt.row.id,
        "at": attempt.at,
        "http_status": outcome.http_status,
        "error": outcome.error and clean_text(outcome.error)[:EXCERPT_LIMIT],
        "duration_ms": attempt.duration_ms,
        "response_excerpt": outcome.excerpt,
        "request_headers": attempt.request_headers,
    }


def _changes(attempt: Attempt, now: datetime) -> dict[str, Any]:
    return {
        list_parameters.ROW_ID: attempt.row.id,
        "state": attempt.state.value,
        "next_attempt_at": attempt.next_at,
        "delivered_at": now if attempt.state is DeliveryState.DELIVERED else None,
        "failures": attempt.failures,
        "lease_token": None,
    }


def _call(attempt: Attempt) -> Call:
    row, outcome = attempt.row, attempt.outcome
    verdict = breaker.verdict(outcome.http_status, arrived=outcome.error is None)
    answered = outcome.http_status is not None if row.channel == WEBHOOK else None
    return Call(row.destination, row.target, verdict, answered, attempt.at)
