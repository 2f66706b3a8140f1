"""The events that transitions owe: a row for the feed and one for each channel, body frozen."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from reelwatch.rules import counting, events
from reelwatch.rules.answers import Failure
from reelwatch.rules.changes import Change
from reelwatch.rules.channels import addresses
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import EventType
from reelwatch.rules.timing.eta import remaining
from reelwatch.rules.timing.plan import Plan
from reelwatch.storage import counters, feed
from reelwatch.storage.job_columns import poll_values, transition_values
from reelwatch.storage.models import Delivery

Kinds = Mapping[str, Plan]  # what has been learned, by model
NOTHING_KNOWN: Kinds = {}


def write_events(
    session: Session,
    transitions: Sequence[Change],
    transition_ids: Sequence[int],
    at: datetime,
    kinds: Kinds,
) -> int:
    """Write the events that are asked for, and a delivery for each channel; returns how many."""
    told, rows = [], []
    for change, transition_id in zip(transitions, transition_ids, strict=True):
        event = change.decision.event
        if event is None or not events.subscribed(event, change.row["events"]):
            continue
        body = events.encode(_event_body(event, change, at, kinds))
        owed = _deliveries(change, transition_id, event, body, at)
        told.append(_event(change, event, None if owed else body, at, owed))
        rows += owed
    if rows:
        session.execute(insert(Delivery), rows)
        counters.add(session, counting.of_events(rows))
    feed.add(session, told)
    return len(rows)


def _deliveries(
    change: Change, transition_id: int, event: EventType, body: str, at: datetime
) -> list[dict[str, Any]]:
    shared = {
        "job_id": change.row["id"],
        "transition_id": transition_id,
        "sequence": change.sequence,
        "event_type": event,
        "body": body,
        "state": DeliveryState.PENDING.value,
        "created_at": at,
        "next_attempt_at": at,
    }
    return [
        shared
        | {"id": _event_id(at), "channel": to.channel, "target": to.target, "destination": to.host}
        for to in addresses(change.row)
    ]


def _event(
    change: Change,
    event: EventType,
    body: str | None,
    at: datetime,
    owed: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The event's row for the feed; what a delivery holds is not stored twice."""
    return {
        "event_id": owed[0]["id"] if owed else _event_id(at),
        "job_id": change.row["id"],
        "sequence": change.sequence,
        "account": change.row["account"],
        "type": event,
        "body": body,
        "at": at,
    }


def _event_id(at: datetime) -> str:
    """A new event id; its first part rises with time, which keeps the index's new end together."""
    return f"evt_{int(at.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def _event_body(event: EventType, change: Change, at: datetime, kinds: Kinds) -> dict[str, Any]:
    report = change.report
    said = report.updated_at if report and event is not EventType.EXPIRED else None
    # The row as this change leaves it: its columns are what a producer is told.
    row = {**change.row, **poll_values(change, {}, at), **transition_values(change, at)}
    plan = kinds.get(row["model"] or "")
    eta = None if plan is None else remaining(row, plan, at)
    return events.body(event, said or at, row, report, _told_failure(change), eta)


def _told_failure(change: Change) -> Failure | None:
    """A job that stays expired carries its failure; an event about a new status does not."""
    return None if change.decision.event is EventType.STATUS_CHANGED else change.decision.failure
