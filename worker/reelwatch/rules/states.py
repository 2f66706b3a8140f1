"""The states of a job, what a decision about it is, and what its producer may decide. Pure.

What follows from an answer of upstream's is in `lifecycle`.
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from reelwatch.rules.answers import AnswerError, ErrorKind, Failure, Meaning, meaning_of


class State(StrEnum):
    """Where a job is, as far as anyone knows."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class EventType(StrEnum):
    """What a producer can be told."""

    COMPLETED = "video.completed"
    FAILED = "video.failed"
    EXPIRED = "video.expired"
    STATUS_CHANGED = "video.status_changed"
    UPDATED = "video.updated"  # a completed job that had no URL has one now


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
OPEN = frozenset(State) - FINAL

DEADLINE = Failure("deadline", "the deadline passed and upstream had not said how it ended", False)
# A success all the same: upstream made it, and charged for it.
NO_RESULT = Failure(
    "no_result", "upstream says it is finished and gave no video URL", retryable=False
)


class Job(NamedTuple):
    """What a decision needs to know of a job's row."""

    state: State
    status: str | None
    tracked_at: datetime
    deadline_at: datetime
    model: str | None = None
    created_at: datetime | None = None  # upstream's time
    expired_at: datetime | None = None
    error_code: str | None = None
    last_polled_at: datetime | None = None
    watched_since: datetime | None = None  # when good answers came again after a break
    foreign_id: str | None = None  # upstream's own name for the job, as far as answers gave one
    errors_in_row: int = 0
    errors_since: datetime | None = None  # the first of them
    last_error: ErrorKind | None = None  # of the polls in row
    same_count: int = 0  # of them with the text of the answer that is decided on
    same_since: datetime | None = None
    not_found_count: int = 0
    not_found_since: datetime | None = None
    resultless_count: int = 0
    resultless_since: datetime | None = None
    account_worked_at: datetime | None = None  # a poll of the account worked, after a suspicion

    @property
    def final(self) -> bool:
        """Has it ended?"""
        return self.state in FINAL

    @property
    def lacks_result(self) -> bool:
        """Has it been completed without a URL?"""
        return self.state is State.COMPLETED and self.error_code == NO_RESULT.code


class Account(StrEnum):
    """What an answer means for the account that asked."""

    WORKS = "works"  # the key was accepted
    SLOW = "slow"
    PAUSE = "pause"
    NO_NEWS = "no_news"


class Decision(NamedTuple):
    """What one poll changes. `due` None: no further poll. `transition`: one is owed."""

    state: State
    status: str | None
    due: datetime | None
    transition: bool = False
    event: EventType | None = None
    failure: Failure | None = None
    error: AnswerError | None = None  # to be recorded in poll_errors
    account: Account = Account.NO_NEWS
    watched_since: datetime | None = None
    foreign_id: str | None = None
    errors_in_row: int = 0
    errors_since: datetime | None = None
    last_error: ErrorKind | None = None
    not_found_count: int = 0
    not_found_since: datetime | None = None
    resultless_count: int = 0
    resultless_since: datetime | None = None
    expired_at: datetime | None = None
    abandoned: bool = False

    @property
    def final(self) -> bool:
        """Has the job ended?"""
        return self.state in FINAL


def cancelled(job: Job) -> Decision | None:
    """The decision that stops tracking; None if the job has ended already."""
    if job.state in FINAL:
        return None
    return Decision(State.CANCELLED, job.status, None, transition=True, expired_at=job.expired_at)


def reopened(job: Job, now: datetime) -> Decision | None:
    """The decision that takes up a job again: `expired`, `cancelled`, or `failed` as `not_found`.

    None for any other: upstream's own end stands. The deadline must be renewed with it.
    """
    lost = job.state is State.FAILED and job.error_code == "not_found"
    if not lost and job.state not in (State.EXPIRED, State.CANCELLED):
        return None
    state = State.PENDING if not_started(job.status) else State.RUNNING
    event = EventType.STATUS_CHANGED
    return Decision(
        state, job.status, now, transition=True, event=event, expired_at=job.expired_at,
        watched_since=now, foreign_id=job.foreign_id,
    )  # fmt: skip


def not_started(status: str | None) -> bool:
    """Does upstream's status say that it has not begun, or is there none?"""
    return status is None or meaning_of(status) is Meaning.NOT_STARTED
