"""Accounts and their jobs, with what happened to them and how long they take."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from reelwatch.config.naming import HERE
from reelwatch.storage.models.base import Base, BigId, Json, JsonOrNull, belongs_to, partial_index

STATES = "('pending', 'running', 'completed', 'failed', 'expired', 'cancelled')"
FINAL_STATES = "('completed', 'failed', 'cancelled')"
# A success without a URL; a check that is neither true nor false would let anything pass.
LACKS_RESULT = "(state = 'completed' AND coalesce(error_code, '') = 'no_result')"


class Account(Base):
    """One upstream key's standing: the rate now in force, and whether it rests."""

    __tablename__ = HERE.table("accounts")

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    requests_per_second: Mapped[float] = mapped_column(Float)
    configured_rate: Mapped[float | None] = mapped_column(Float)  # where jobs were claimed last
    next_slot_at: Mapped[datetime | None]  # the first moment no request is reserved for
    slowed_at: Mapped[datetime | None]  # the end of the last 429's hold, or the last step up since
    refused_rate: Mapped[float | None] = mapped_column(
        Float
    )  # at which that 429 came; None: long ago
    paused_until: Mapped[datetime | None]  # with a reason and without this: until it is resumed
    pause_reason: Mapped[str | None] = mapped_column(Text)
    pauses_in_row: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    # What tells the account's errors from one job's (`reelwatch/rules/standing.py`).
    refusals: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    limited_at: Mapped[datetime | None]
    limited_by: Mapped[int | None] = mapped_column(BigId)
    worked_at: Mapped[datetime | None]
    # Seconds of delay that a poll must save to be made while the budget is short; 0: it is not.
    # A look is a poll: what workers of the release before write is not renamed.
    look_price: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")

    __table_args__ = (
        CheckConstraint("requests_per_second > 0", name="rate_positive"),
        CheckConstraint("look_price >= 0", name="price_not_negative"),
        CheckConstraint(
            "paused_until IS NULL OR pause_reason IS NOT NULL", name="pause_has_reason"
        ),
    )


class Job(Base):
    """One tracked video."""

    __tablename__ = HERE.table("jobs")

    # No columns: was this row made by the call that returned it, and which of the values that the
    # call gave are not the row's? Did a cancel or recheck change anything?
    created = changed = True
    differs = list[str]()  # noqa: RUF012 - whoever returns a job sets its own

    def __repr__(self) -> str:
        """`Job('veo3:a', account='default', state='pending')`, of what is loaded."""
        known = self.__dict__  # an attribute of a row that is let go of could not be read
        account, state = known.get("account"), known.get("state")
        return f"Job({known.get('video_id')!r}, account={account!r}, state={state!r})"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    account: Mapped[str] = mapped_column(ForeignKey(HERE.reference("accounts.name")))
    video_id: Mapped[str] = mapped_column(String(200))
    model: Mapped[str | None] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    upstream_status: Mapped[str | None] = mapped_column(String(100))
    upstream_id: Mapped[str | None] = mapped_column(String(255))  # by which its answers name it
    video_url: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(32))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_request_id: Mapped[str | None] = mapped_column(String(255))  # what support asks for
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", Json)
    sequence: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    polls: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    progress: Mapped[float | None] = mapped_column(Float)  # 0 to 1, the last one before the end
    progress_at: Mapped[datetime | None]

    tracked_at: Mapped[datetime]
    upstream_created_at: Mapped[datetime | None]
    upstream_finished_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    last_polled_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    deadline_seconds: Mapped[float | None] = mapped_column(Float)  # the span that was asked for
    expired_at: Mapped[datetime | None]  # kept after a late verdict: it makes the event `late`
    abandoned_at: Mapped[datetime | None]
    watched_since: Mapped[datetime | None]  # good answers came again after a break; else: tracking

    webhook_url: Mapped[str | None] = mapped_column(Text)
    callback_task: Mapped[str | None] = mapped_column(String(255))
    callback_queue: Mapped[str | None] = mapped_column(String(255))
    channels: Mapped[Any | None] = mapped_column(JsonOrNull)  # other ways: {channel: target}
    events: Mapped[list[str]]

    lease_token: Mapped[str | None] = mapped_column(String(32))  # fences off results of older polls
    errors_in_row: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    errors_since: Mapped[datetime | None]  # the first of them
    last_error: Mapped[str | None] = mapped_column(String(16))
    last_error_id: Mapped[int | None] = mapped_column(BigId)  # the row that equal errors fold into
    not_found_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    not_found_since: Mapped[datetime | None]
    resultless_count: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    resultless_since: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("account", "video_id"),
        CheckConstraint(f"state IN {STATES}", name="state_known"),
        CheckConstraint(
            f"(state IN {FINAL_STATES}) = (finished_at IS NOT NULL)", name="final_has_end"
        ),
        CheckConstraint(  # one without a result may be asked for it once more
            f"(next_poll_at IS NULL) = (state IN {FINAL_STATES} OR abandoned_at IS NOT NULL)"
            f" OR {LACKS_RESULT}",
            name="open_has_due",
        ),
        CheckConstraint("abandoned_at IS NULL OR state = 'expired'", name="only_expired_abandoned"),
        CheckConstraint("state <> 'expired' OR expired_at IS NOT NULL", name="expired_since"),
        CheckConstraint(
            f"(error_code IS NOT NULL) = (state IN ('failed', 'expired')) OR {LACKS_RESULT}",
            name="error_has_state",
        ),
        CheckConstraint(
            f"state <> 'completed' OR video_url IS NOT NULL OR {LACKS_RESULT}",
            name="completed_has_url",
        ),
        CheckConstraint("lease_token IS NULL OR next_poll_at IS NOT NULL", name="lease_has_due"),
        CheckConstraint("sequence >= 0 AND polls >= 0", name="counts_not_negative"),
        partial_index("ix_jobs_due", "account", "next_poll_at", where="next_poll_at IS NOT NULL"),
        # Few jobs have one: an answer's foreign id may be another job's.
        partial_index(
            "ix_jobs_account_upstream_id",
            "account",
            "upstream_id",
            where="upstream_id IS NOT NULL",
        ),
        # In the order of lists to the last: many jobs are handed in at one time.
        Index(HERE.constraint("ix_jobs_newest"), "tracked_at", "id"),
        # Those of what has ended hold no job that is still polled: each poll writes all indexes.
        partial_index("ix_jobs_ended_at", "finished_at", where="finished_at IS NOT NULL"),
        partial_index(
            "ix_jobs_newest_of_state", "state", "tracked_at", "id", where="finished_at IS NOT NULL"
        ),
        partial_index(
            "ix_jobs_newest_of_account",
            "account",
            "tracked_at",
            "id",
            where="finished_at IS NOT NULL",
        ),
        partial_index(
            "ix_jobs_newest_of_both",
            "account",
            "state",
            "tracked_at",
            "id",
            where="finished_at IS NOT NULL",
        ),
        # Without those that run: they are polled most, and each poll would write it.
        partial_index(
            "ix_jobs_newest_waiting",
            "state",
            "tracked_at",
            "id",
            where="finished_at IS NULL AND state <> 'running'",
        ),
        partial_index(
            "ix_jobs_newest_given_up",
            "account",
            "tracked_at",
            "id",
            where="abandoned_at IS NOT NULL",
        ),
        # Few jobs are in these: those with an error, and those whose last polls brought one.
        partial_index(
            "ix_jobs_newest_of_code",
            "error_code",
            "tracked_at",
            "id",
            where="error_code IS NOT NULL",
        ),
        partial_index(
            "ix_jobs_newest_in_error",
            "last_error",
            "tracked_at",
            "id",
            where="errors_in_row > 0 AND finished_at IS NULL",
        ),
        # For those who have a request id, or a value of metadata, and look for its job.
        partial_index(
            "ix_jobs_error_request_id", "error_request_id", where="error_request_id IS NOT NULL"
        ),
        partial_index(  # SQLite can't index what is within JSON: there it holds no row
            "ix_jobs_ended_metadata",
            "metadata",
            where="finished_at IS NOT NULL",
            sqlite_where="1 = 0",
            postgresql_using="gin",
        ),
        partial_index("ix_jobs_abandoned_at", "abandoned_at", where="abandoned_at IS NOT NULL"),
        # The newest of a kind, to learn from.
        partial_index(
            "ix_jobs_kind_finished_at",
            "account",
            "model",
            "finished_at",
            where="finished_at IS NOT NULL",
        ),
    )


class Transition(Base):
    """One change of a job's state or of upstream's status. Append-only."""

    __tablename__ = HERE.table("transitions")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(belongs_to("jobs.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    from_state: Mapped[str] = mapped_column(String(16))
    to_state: Mapped[str] = mapped_column(String(16))
    from_status: Mapped[str | None] = mapped_column(String(100))
    to_status: Mapped[str | None] = mapped_column(String(100))
    at: Mapped[datetime]
    upstream_at: Mapped[datetime | None]
    answer: Mapped[Any | None] = mapped_column(JsonOrNull)

    __table_args__ = (
        UniqueConstraint("job_id", "sequence"),
        CheckConstraint("sequence > 0", name="sequence_positive"),
        CheckConstraint(f"from_state IN {STATES} AND to_state IN {STATES}", name="states_known"),
    )


class PollError(Base):
    """A poll that told no status of the job, or was odd; equal ones in a row are folded."""

    __tablename__ = HERE.table("poll_errors")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(belongs_to("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    http_status: Mapped[int | None] = mapped_column(Integer)
    message: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(String(255))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    count: Mapped[int] = mapped_column(Integer, default=1, server_default="1")

    __table_args__ = (
        CheckConstraint("count > 0", name="count_positive"),
        partial_index("ix_poll_errors_request_id", "request_id", where="request_id IS NOT NULL"),
    )


class DurationCurve(Base):
    """How long an account's jobs of one model take, and when to poll them, for all workers."""

    __tablename__ = HERE.table("duration_curves")

    account: Mapped[str] = mapped_column(belongs_to("accounts.name"), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    learned_at: Mapped[datetime]
    jobs: Mapped[int] = mapped_column(Integer)  # that it was learned from
    curve: Mapped[dict[str, Any]]
    plan: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)  # None: of an old release
    solved_for: Mapped[str | None] = mapped_column(String(64))  # the settings of the plan

    __table_args__ = (CheckConstraint("jobs >= 0", name="jobs_not_negative"),)
