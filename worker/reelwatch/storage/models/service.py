"""What the service keeps for itself: heartbeats, messages that wait or were refused, who it is."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Float,
    Integer,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from reelwatch.config.naming import HERE
from reelwatch.storage.models.base import Base, JsonOrNull


class Heartbeat(Base):
    """When something that must keep happening last happened."""

    __tablename__ = HERE.table("heartbeats")

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime]


class WaitingMessage(Base):
    """What a producer sent and nothing can be done about yet; it is tried again until it can."""

    __tablename__ = HERE.table("waiting_messages")

    id: Mapped[str] = mapped_column(
        String(255), primary_key=True
    )  # the message's: it may come twice
    task: Mapped[str] = mapped_column(String(16))  # track, cancel, recheck
    account: Mapped[str] = mapped_column(String(64))
    video_id: Mapped[str] = mapped_column(String(200))
    options: Mapped[str] = mapped_column(Text)  # JSON, as it was sent
    reason: Mapped[str] = mapped_column(Text)
    worker: Mapped[str] = mapped_column(String(255))  # that tried last
    tries: Mapped[int] = mapped_column(Integer)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    next_try_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (CheckConstraint("tries > 0", name="tries_positive"),)


class RefusedMessage(Base):
    """What a producer sent and nobody could accept; equal ones are one row with a count."""

    __tablename__ = HERE.table("refused_messages")

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # follows from task and reason
    task: Mapped[str] = mapped_column(String(255))
    reason: Mapped[str] = mapped_column(Text)
    account: Mapped[str | None] = mapped_column(String(64))  # of the last one, as all that follows
    video_id: Mapped[str | None] = mapped_column(String(200))
    worker: Mapped[str] = mapped_column(String(255))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime] = mapped_column(index=True)
    count: Mapped[int] = mapped_column(Integer)

    __table_args__ = (CheckConstraint("count > 0", name="count_positive"),)


class Installation(Base):
    """What tells this database from another one's: its one row."""

    __tablename__ = HERE.table("installation")

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    made_at: Mapped[datetime]


class Counter(Base):
    """What a connection has added to one series of a metric (`reelwatch/rules/metrics.py`)."""

    __tablename__ = HERE.table("counters")

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    labels: Mapped[str] = mapped_column(String(500), primary_key=True)  # JSON
    shard: Mapped[int] = mapped_column(Integer, primary_key=True)
    value: Mapped[float] = mapped_column(Float)


class Incident(Base):
    """Something that the operator is told of once, however many notice it."""

    __tablename__ = HERE.table("incidents")

    kind: Mapped[str] = mapped_column(String(32), primary_key=True)  # the event that opens it
    subject: Mapped[str] = mapped_column(Text, primary_key=True)  # which account, endpoint, status
    # When it was opened, or told last; of a pause that is over: when the account was polled again.
    at: Mapped[datetime]
    open: Mapped[bool]  # or is this only what it is judged by?
    reading: Mapped[Any | None] = mapped_column(JsonOrNull)  # what it is judged by
