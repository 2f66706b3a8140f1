"""Events that are owed, the attempts to tell them, and the endpoints they go to."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from reelwatch.config.naming import HERE
from reelwatch.storage.models.base import Base, BigId, Json, belongs_to, partial_index


class Delivery(Base):
    """One event that is owed to one channel; its id is the event's id on every attempt."""

    __tablename__ = HERE.table("deliveries")

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    # Both None: an operator's event, which belongs to no job.
    job_id: Mapped[int | None] = mapped_column(belongs_to("jobs.id"), index=True)
    transition_id: Mapped[int | None] = mapped_column(belongs_to("transitions.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    event_type: Mapped[str] = mapped_column(String(32))
    channel: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(Text)  # the URL, `task@queue`, or `channel:name`
    destination: Mapped[str] = mapped_column(String(300))  # what is slow or dead as one: host:port
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default="0")  # since redeliver
    created_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(32))

    __table_args__ = (
        UniqueConstraint("transition_id", "channel"),
        CheckConstraint("channel <> ''", name="channel_known"),
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state_known"),
        CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)", name="pending_has_due"
        ),
        CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_has_time"
        ),
        CheckConstraint("lease_token IS NULL OR state = 'pending'", name="lease_is_pending"),
        partial_index("ix_deliveries_due", "next_attempt_at", where="state = 'pending'"),
        partial_index("ix_deliveries_settled", "state", "created_at", where="state <> 'pending'"),
        partial_index(  # a claim walks from endpoint to endpoint along it, past what waits there
            "ix_deliveries_waiting",
            "destination",
            "target",
            "failures",
            "next_attempt_at",
            "id",
            where="state = 'pending'",
        ),
        partial_index(
            "ix_deliveries_newest_pending", "created_at", "id", where="state = 'pending'"
        ),
        partial_index("ix_deliveries_dead", "target", "created_at", where="state = 'dead'"),
        partial_index("ix_deliveries_leased", "next_attempt_at", where="lease_token IS NOT NULL"),
    )


class Attempt(Base):
    """One try to hand an event over."""

    __tablename__ = HERE.table("attempts")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    delivery_id: Mapped[str] = mapped_column(belongs_to("deliveries.id"), index=True)
    at: Mapped[datetime]
    http_status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    duration_ms: Mapped[int] = mapped_column(Integer)
    response_excerpt: Mapped[str | None] = mapped_column(Text)
    request_headers: Mapped[str | None] = mapped_column(Text)  # a webhook's own, a line each


class Destination(Base):
    """How a host has been doing: how many calls it gets at once (`reelwatch/rules/breaker.py`)."""

    __tablename__ = HERE.table("destinations")

    name: Mapped[str] = mapped_column(String(300), primary_key=True)  # `deliveries.destination`
    failures: Mapped[int] = mapped_column(Integer)  # this and the next are of older releases
    openings: Mapped[int] = mapped_column(Integer)
    allowance: Mapped[int] = mapped_column(Integer)  # calls under way at once
    open_until: Mapped[datetime | None]  # of older releases: see `endpoints`

    __table_args__ = (
        CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0", name="counts_not_negative"
        ),
    )


class Endpoint(Base):
    """A callback URL, or a task of a queue, that is not well: its circuit breaker."""

    __tablename__ = HERE.table("endpoints")

    name: Mapped[str] = mapped_column(Text, primary_key=True)  # `deliveries.target`
    host: Mapped[str] = mapped_column(String(300))  # `deliveries.destination`
    failures: Mapped[int] = mapped_column(Integer)  # in a row, over all its events
    openings: Mapped[int] = mapped_column(Integer)  # since it last worked
    allowance: Mapped[int] = mapped_column(Integer)  # calls under way at once
    open_until: Mapped[datetime | None]  # rests until then, tried again after it
    # The first attempt that failed, or was refused, since one was accepted.
    failing_since: Mapped[datetime | None]
    changed_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0", name="counts_not_negative"
        ),
    )


class RedeliveryOrder(Base):
    """An order to send many events again, and how far it has come."""

    __tablename__ = HERE.table("redeliveries")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key: Mapped[str | None] = mapped_column(String(255))  # the same again is the same order
    ordered_by: Mapped[str] = mapped_column(String(64))
    wanted: Mapped[dict[str, Any]] = mapped_column(Json)  # which events
    state: Mapped[str] = mapped_column(String(16))
    total: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    done: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    created_at: Mapped[datetime]
    worked_at: Mapped[datetime | None]  # by whoever goes through it; long ago: nobody does
    finished_at: Mapped[datetime | None]
    # The last event that is done, by its time and id; they go from the newest to the oldest.
    place_at: Mapped[datetime | None]
    place_id: Mapped[str | None] = mapped_column(String(40))

    __table_args__ = (
        UniqueConstraint("key"),
        CheckConstraint("state IN ('running', 'done')", name="state_known"),
        CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name="done_has_end"),
    )
