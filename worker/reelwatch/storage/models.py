"""The tables that users query. The migrations own them; a test holds the two equal.

Times are aware UTC to the microsecond; JSON is JSONB on PostgreSQL. The constraints make nonsense
unstorable, whoever writes it.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from reelwatch.config.naming import HERE

STATES = "('pending', 'running', 'completed', 'failed', 'expired', 'cancelled')"
FINAL_STATES = "('completed', 'failed', 'cancelled')"
# A success without a URL; a check that is neither true nor false would let anything pass.
LACKS_RESULT = "(state = 'completed' AND coalesce(error_code, '') = 'no_result')"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite, which knows no zones, gets it as naive UTC text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC going in; a naive time is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC coming out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER keys only
Json = JSON().with_variant(JSONB(), "postgresql")
JsonOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _referred(constraint: Any, _table: Table) -> str:
    """Without prefix: the referring table's name has it already, and names may have 63 letters."""
    return str(constraint.elements[0].target_fullname.split(".")[-2].removeprefix(HERE.prefix))


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop what they made."""

    metadata = MetaData(
        schema=HERE.schema,
        naming_convention={
            "referred": _referred,
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: Json, list[str]: Json}  # noqa: RUF012 - SQLAlchemy's declarative form


def _of(column: str) -> ForeignKey:
    """Belongs to the row with that key, and goes with it."""
    return ForeignKey(HERE.reference(column), ondelete="CASCADE")


def _index(name: str, *columns: str, where: str) -> Index:
    """An index of the rows for which the condition holds."""
    condition = text(where)
    return Index(
        HERE.constraint(name), *columns, postgresql_where=condition, sqlite_where=condition
    )


class Account(Base):
    """One upstream key's standing: the rate now in force, and whether it rests."""

    __tablename__ = HERE.table("accounts")

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    requests_per_second: Mapped[float] = mapped_column(Float)
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
    # Seconds of delay that a look must save to be made while the budget is short; 0: it is not.
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
    # call gave are not the row's?
    created = True
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
    events: Mapped[list[str]]

    lease_token: Mapped[str | None] = mapped_column(String(32))  # fences off results of older looks
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
        Index(
            HERE.constraint("ix_jobs_due"),
            "account",
            "next_poll_at",
            postgresql_where=text("next_poll_at IS NOT NULL"),
            sqlite_where=text("next_poll_at IS NOT NULL"),
        ),
        Index(  # few jobs have one: an answer's foreign id may be another job's
            HERE.constraint("ix_jobs_account_upstream_id"),
            "account",
            "upstream_id",
            postgresql_where=text("upstream_id IS NOT NULL"),
            sqlite_where=text("upstream_id IS NOT NULL"),
        ),
        Index(HERE.constraint("ix_jobs_tracked_at"), "tracked_at"),
        # Those of what has ended hold no job that is still polled: each poll writes all indexes.
        _index("ix_jobs_ended_at", "finished_at", where="finished_at IS NOT NULL"),
        _index("ix_jobs_ended_state", "state", "tracked_at", where="finished_at IS NOT NULL"),
        _index("ix_jobs_ended_account", "account", "tracked_at", where="finished_at IS NOT NULL"),
        _index("ix_jobs_abandoned_at", "abandoned_at", where="abandoned_at IS NOT NULL"),
        Index(  # the newest of a kind, to learn from
            HERE.constraint("ix_jobs_kind_finished_at"),
            "account",
            "model",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL"),
            sqlite_where=text("finished_at IS NOT NULL"),
        ),
    )


class Transition(Base):
    """One change of a job's state or of upstream's word for it. Append-only."""

    __tablename__ = HERE.table("transitions")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(_of("jobs.id"))
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
    """A look that brought no word about the job, or was odd; equal ones in a row are folded."""

    __tablename__ = HERE.table("poll_errors")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(_of("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    http_status: Mapped[int | None] = mapped_column(Integer)
    message: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(String(255))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    count: Mapped[int] = mapped_column(Integer, default=1, server_default="1")

    __table_args__ = (CheckConstraint("count > 0", name="count_positive"),)


class Delivery(Base):
    """One event that is owed to one channel; its id is the event's id on every attempt."""

    __tablename__ = HERE.table("deliveries")

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[int] = mapped_column(_of("jobs.id"), index=True)
    transition_id: Mapped[int] = mapped_column(_of("transitions.id"))
    sequence: Mapped[int] = mapped_column(Integer)
    event_type: Mapped[str] = mapped_column(String(32))
    channel: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(Text)  # the URL, or `task` / `task@queue`
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
        CheckConstraint("channel IN ('webhook', 'celery')", name="channel_known"),
        CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state_known"),
        CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)", name="pending_has_due"
        ),
        CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_has_time"
        ),
        CheckConstraint("lease_token IS NULL OR state = 'pending'", name="lease_is_pending"),
        _index("ix_deliveries_due", "next_attempt_at", where="state = 'pending'"),
        _index("ix_deliveries_settled", "state", "created_at", where="state <> 'pending'"),
        _index(  # a claim walks from endpoint to endpoint along it, past whatever waits there
            "ix_deliveries_waiting",
            "destination",
            "target",
            "failures",
            "next_attempt_at",
            "id",
            where="state = 'pending'",
        ),
        _index("ix_deliveries_leased", "next_attempt_at", where="lease_token IS NOT NULL"),
    )


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
    open_until: Mapped[datetime | None]  # left alone until then, tried again after it
    changed_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(
            "failures >= 0 AND openings >= 0 AND allowance > 0", name="counts_not_negative"
        ),
    )


class Attempt(Base):
    """One try to hand an event over."""

    __tablename__ = HERE.table("attempts")

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    delivery_id: Mapped[str] = mapped_column(_of("deliveries.id"), index=True)
    at: Mapped[datetime]
    http_status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    duration_ms: Mapped[int] = mapped_column(Integer)
    response_excerpt: Mapped[str | None] = mapped_column(Text)


class DurationCurve(Base):
    """How long an account's jobs of one model take (`rules/timing/curves.py`), for all workers."""

    __tablename__ = HERE.table("duration_curves")

    account: Mapped[str] = mapped_column(_of("accounts.name"), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    learned_at: Mapped[datetime]
    jobs: Mapped[int] = mapped_column(Integer)  # that it was learned from
    curve: Mapped[dict[str, Any]]

    __table_args__ = (CheckConstraint("jobs >= 0", name="jobs_not_negative"),)


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


def table_of(name: str) -> Table:
    """The table that is documented as `name`, whatever it is called here."""
    return Base.metadata.tables[HERE.key(name)]
