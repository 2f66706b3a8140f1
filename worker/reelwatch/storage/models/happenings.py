"""Tables of what happened: the events of the feed, and what people and programs have done.

The migrations own them; a test holds the two equal.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from reelwatch.config.naming import HERE
from reelwatch.storage.models.base import Base, BigId, JsonOrNull, belongs_to, partial_index


class Event(Base):
    """Something that producers are told, whether or not there is anybody who can be called.

    Written with its transition. Its place in the feed is given later (`reelwatch/storage/feed.py`).
    """

    __tablename__ = HERE.table("events")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)  # in the order of insertion
    # `evt_…`: that of the first of its deliveries, where it has any.
    event_id: Mapped[str] = mapped_column(String(40))
    job_id: Mapped[int] = mapped_column(belongs_to("jobs.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    account: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(32))
    body: Mapped[str | None] = mapped_column(Text)  # None: the delivery of that id has it
    at: Mapped[datetime]
    position: Mapped[int | None] = mapped_column(BigId)  # in the feed; None: not there yet

    __table_args__ = (
        UniqueConstraint("job_id", "sequence"),
        CheckConstraint("position > 0", name="position_positive"),
        partial_index("ix_events_position", "position", where="position IS NOT NULL", unique=True),
        partial_index("ix_events_unnumbered", "id", where="position IS NULL"),
    )


class Feed(Base):
    """How far the feed has come: its one row, which is locked by whoever numbers events."""

    __tablename__ = HERE.table("feed")

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    last_position: Mapped[int] = mapped_column(BigId)  # that was given
    pruned_position: Mapped[int] = mapped_column(BigId)  # the highest of an event that was deleted


class Action(Base):
    """What somebody did by page, API, command or message. Written with what it changed."""

    __tablename__ = HERE.table("actions")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(16))
    account: Mapped[str | None] = mapped_column(String(64))  # that was paused or resumed
    chosen_by: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)  # a filter
    count: Mapped[int] = mapped_column(Integer)  # of jobs, deliveries or accounts
    details: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)

    __table_args__ = (
        CheckConstraint("count >= 0", name="count_not_negative"),
        partial_index("ix_actions_of_account", "account", "at", where="account IS NOT NULL"),
    )


class ActionJob(Base):
    """One job that an action was about, and what was changed of it."""

    __tablename__ = HERE.table("action_jobs")

    job_id: Mapped[int] = mapped_column(belongs_to("jobs.id"), primary_key=True)
    action_id: Mapped[int] = mapped_column(belongs_to("actions.id"), primary_key=True, index=True)
    details: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)
