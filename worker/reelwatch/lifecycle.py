"""The states of a job and the one place that moves it between them. Pure.

`decide()` is total: for every job, answer and moment it gives a `Decision`. A final state is left
by nothing but `reopened()`, which is an operator's act; only upstream's own word makes a job end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from reelwatch.answers import Answer, ErrorKind, Failure, Meaning, Report, Trouble, meaning_of
from reelwatch.curves import Hint
from reelwatch.schedule import Pace, Plans, until_next_look, until_next_try, until_slow_look


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


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
OPEN = frozenset(State) - FINAL

NOT_FOUND_LOOKS = 5  # in a row; and for Rules.not_found_after: a new id may not be known yet
RESULTLESS_LOOKS = 5  # in a row; and for Rules.result_grace: an account that rests asks seldom

ACCOUNT_PAUSES = frozenset({ErrorKind.UNAUTHORIZED, ErrorKind.FORBIDDEN, ErrorKind.QUOTA})
ACCOUNT_SLOWS = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.SATURATED})

DEADLINE = Failure("deadline", "the deadline passed and upstream had not said how it ended", False)
NO_RESULT = Failure(
    "no_result", "upstream says it is finished and gave no video URL", retryable=False
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions depend on; spans in seconds."""

    plans: Plans = field(default_factory=Plans)
    not_found_after: float = 300.0
    result_grace: float = 300.0  # from the first success word without a URL to `no_result`
    abandon_after: float = 86_400.0  # from tracking

    @property
    def pace(self) -> Pace:
        """Floor and ceiling of the looks at one job."""
        return self.plans.pace


@dataclass(frozen=True, slots=True)
class Job:
    """What a decision needs to know of a job's row."""

    state: State
    status: str | None
    tracked_at: datetime
    deadline_at: datetime
    model: str | None = None
    created_at: datetime | None = None  # upstream's time
    expired_at: datetime | None = None
    errors_in_row: int = 0
    last_error: ErrorKind | None = None  # of the looks in row
    not_found_count: int = 0
    not_found_since: datetime | None = None
    resultless_count: int = 0
    resultless_since: datetime | None = None


class Account(StrEnum):
    """What an answer means for the account that asked."""

    WORKS = "works"  # the key was accepted
    SLOW = "slow"
    PAUSE = "pause"
    NO_NEWS = "no_news"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one look changes. `due` None: no further look. `step`: a transition is owed."""

    state: State
    status: str | None
    due: datetime | None
    step: bool = False
    event: EventType | None = None
    failure: Failure | None = None
    trouble: Trouble | None = None  # to be recorded in poll_errors
    account: Account = Account.NO_NEWS
    errors_in_row: int = 0
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


def decide(job: Job, answer: Answer, now: datetime, rules: Rules, jitter: float = 0.5) -> Decision:
    """What to make of `answer` to a look at `job`, at `now`. Total; a final job stays as it is."""
    if job.state in FINAL:
        return Decision(job.state, job.status, None)
    if isinstance(answer, Report):
        return _by_report(job, answer, now, rules, jitter)
    return _by_trouble(job, answer, now, rules, jitter)


def cancelled(job: Job) -> Decision | None:
    """The decision that stops tracking; None if the job has ended already."""
    if job.state in FINAL:
        return None
    return Decision(State.CANCELLED, job.status, None, step=True, expired_at=job.expired_at)


def reopened(job: Job, error_code: str | None, now: datetime) -> Decision | None:
    """The decision that takes up an `expired` job, or one `failed` as `not_found`, again.

    None for any other job: a `completed` one stays completed. The deadline must be renewed with it.
    """
    lost = job.state is State.FAILED and error_code == "not_found"
    if not lost and job.state is not State.EXPIRED:
        return None
    state = State.PENDING if _not_started(job.status) else State.RUNNING
    event = EventType.STATUS_CHANGED
    return Decision(state, job.status, now, step=True, event=event, expired_at=job.expired_at)


# ----------------------------------------------------------------- reports


def _by_report(job: Job, report: Report, now: datetime, rules: Rules, jitter: float) -> Decision:
    trouble = _remarked(report)
    status = report.word or job.status
    job = replace(job, errors_in_row=0, last_error=None, not_found_count=0, not_found_since=None)
    ended = _ended(job, report, now, rules)
    if ended is not None:
        state, failure = ended
        decision = _end(job, state, status, failure)
        return replace(decision, trouble=trouble, account=Account.WORKS)
    decision = _still_open(job, _open_state(job, report), status, now, rules)
    finished = report.meaning is Meaning.SUCCESS  # and has no URL yet
    return replace(
        decision,
        due=decision.due and _due(job, report, decision, now, rules, jitter),
        trouble=trouble,
        account=Account.WORKS,
        resultless_count=job.resultless_count + 1 if finished else 0,
        resultless_since=job.resultless_since or now if finished else None,
    )


def _ended(
    job: Job, report: Report, now: datetime, rules: Rules
) -> tuple[State, Failure | None] | None:
    if report.meaning is Meaning.SUCCESS:
        if report.video_url:
            return State.COMPLETED, None
        return (State.FAILED, NO_RESULT) if _resultless_for_good(job, now, rules) else None
    if report.failure is not None:
        return State.FAILED, report.failure
    return None


def _open_state(job: Job, report: Report) -> State:
    if job.state is State.EXPIRED:
        return State.EXPIRED
    started = report.meaning is not Meaning.NOT_STARTED
    return State.RUNNING if started or job.state is State.RUNNING else State.PENDING


def _due(
    job: Job, report: Report, decision: Decision, now: datetime, rules: Rules, jitter: float
) -> datetime:
    """When to look again after a good answer."""
    if report.meaning is Meaning.SUCCESS:  # its URL is written a moment later: don't let it wait
        return _by_deadline(job, now, now + timedelta(seconds=rules.pace.floor))
    if decision.state is State.EXPIRED:
        return _slow_due(job, now, rules, jitter)
    created = report.created_at or job.created_at or job.tracked_at
    age = max(0.0, (now - created).total_seconds())
    plan = rules.plans.plan(job.model or report.model)
    hint = Hint(age, decision.status, report.progress)
    wait = until_next_look(plan, age, hint, jitter)
    return _by_deadline(job, now, now + timedelta(seconds=wait))


def _remarked(report: Report) -> Trouble | None:
    if not report.remarks:
        return None
    return Trouble(ErrorKind.BAD_SHAPE, "; ".join(report.remarks), report.http_status)


def _resultless_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Has upstream called the job finished, this look included, often and long enough?"""
    since = job.resultless_since or now
    looks = job.resultless_count + 1
    return looks >= RESULTLESS_LOOKS and (now - since).total_seconds() >= rules.result_grace


# ---------------------------------------------------------------- troubles


def _by_trouble(job: Job, trouble: Trouble, now: datetime, rules: Rules, jitter: float) -> Decision:
    if trouble.kind in ACCOUNT_PAUSES | ACCOUNT_SLOWS:
        return _account_trouble(job, trouble, now, rules, jitter)
    counted = _counted(job, trouble, now)
    if _not_found_for_good(counted, now, rules):
        failure = Failure("not_found", _not_found_text(counted), False, trouble.request_id)
        ended = _end(job, State.FAILED, job.status, failure)
        return replace(ended, trouble=trouble, account=Account.WORKS)
    decision = _still_open(counted, job.state, job.status, now, rules)
    return replace(
        decision,
        due=decision.due and _retry_due(counted, decision, now, rules, jitter),
        trouble=trouble,
        account=Account.WORKS if trouble.kind is ErrorKind.NOT_FOUND else Account.NO_NEWS,
    )


def _account_trouble(
    job: Job, trouble: Trouble, now: datetime, rules: Rules, jitter: float
) -> Decision:
    """The key's trouble, not the job's: it must neither end nor expire it, nor make it wait long.

    Only a `forbidden` that keeps coming for one job while the key works for others is the job's own
    affair: it does not pause the account again and again.
    """
    own = trouble.kind is job.last_error is ErrorKind.FORBIDDEN
    effect = Account.SLOW if trouble.kind in ACCOUNT_SLOWS else Account.PAUSE
    counted = replace(job, errors_in_row=job.errors_in_row + 1, last_error=trouble.kind)
    wait = until_next_try(counted.errors_in_row if own else 1, rules.pace, jitter)
    soon = now + timedelta(seconds=wait)
    return replace(
        _kept(counted),
        due=_slow_due(job, now, rules, jitter) if job.state is State.EXPIRED else soon,
        trouble=trouble,
        account=Account.NO_NEWS if own else effect,
    )


def _counted(job: Job, trouble: Trouble, now: datetime) -> Job:
    counted = replace(job, errors_in_row=job.errors_in_row + 1, last_error=trouble.kind)
    if trouble.kind is not ErrorKind.NOT_FOUND:
        return counted
    since = job.not_found_since or now
    return replace(counted, not_found_count=job.not_found_count + 1, not_found_since=since)


def _not_found_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    if job.not_found_count < NOT_FOUND_LOOKS or job.not_found_since is None:
        return False
    return (now - job.not_found_since).total_seconds() >= rules.not_found_after


def _not_found_text(job: Job) -> str:
    return (
        f"upstream did not know the id in {job.not_found_count} looks in a row: "
        "deleted there, mistyped, or created with another account's key"
    )


def _retry_due(
    job: Job, decision: Decision, now: datetime, rules: Rules, jitter: float
) -> datetime:
    if decision.state is State.EXPIRED:
        return _slow_due(job, now, rules, jitter)
    wait = until_next_try(job.errors_in_row, rules.pace, jitter)
    return _by_deadline(job, now, now + timedelta(seconds=wait))


# -------------------------------------------------------------------- ends


def _end(job: Job, state: State, status: str | None, failure: Failure | None) -> Decision:
    event = EventType.COMPLETED if state is State.COMPLETED else EventType.FAILED
    return Decision(
        state, status, None, step=True, event=event, failure=failure, expired_at=job.expired_at
    )


def _still_open(
    job: Job, state: State, status: str | None, now: datetime, rules: Rules
) -> Decision:
    """The job after a look that brought no end: open, expired, or given up."""
    kept = replace(_kept(job), state=state, status=status, due=now)
    if state is State.EXPIRED:
        over = now >= abandon_at(job, rules)
        kept = replace(kept, due=None if over else now, abandoned=over)
    elif now >= job.deadline_at:
        return replace(
            kept,
            state=State.EXPIRED,
            step=True,
            event=EventType.EXPIRED,
            failure=DEADLINE,
            expired_at=now,
        )
    changed = (state, status) != (job.state, job.status)
    return replace(kept, step=changed, event=EventType.STATUS_CHANGED if changed else None)


def _kept(job: Job) -> Decision:
    """A decision that changes nothing; a good answer resets the counters it does not pass on."""
    return Decision(
        job.state,
        job.status,
        None,
        failure=DEADLINE if job.state is State.EXPIRED else None,
        errors_in_row=job.errors_in_row,
        last_error=job.last_error,
        not_found_count=job.not_found_count,
        not_found_since=job.not_found_since,
        resultless_count=job.resultless_count,
        resultless_since=job.resultless_since,
        expired_at=job.expired_at,
    )


def abandon_at(job: Job, rules: Rules) -> datetime:
    """When the looks at an expired job stop: a span after tracking, or after a later deadline."""
    span = timedelta(seconds=rules.abandon_after)
    end = job.tracked_at + span
    return end if job.deadline_at < end else job.deadline_at + span


def _slow_due(job: Job, now: datetime, rules: Rules, jitter: float) -> datetime:
    """When to look at an expired job again."""
    past = (now - job.deadline_at).total_seconds()
    return now + timedelta(seconds=until_slow_look(past, rules.pace, jitter))


def _by_deadline(job: Job, now: datetime, due: datetime) -> datetime:
    """No later than the deadline, so that its passing is told in time."""
    return min(due, job.deadline_at) if job.deadline_at > now else due


def _not_started(status: str | None) -> bool:
    return status is None or meaning_of(status) is Meaning.NOT_STARTED


MOVES: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset(State),
    State.RUNNING: frozenset(State) - {State.PENDING},
    State.EXPIRED: frozenset({State.EXPIRED, *FINAL}),
    State.COMPLETED: frozenset({State.COMPLETED}),
    State.FAILED: frozenset({State.FAILED}),
    State.CANCELLED: frozenset({State.CANCELLED}),
}
"""Where looks and cancelling may take a job; only `reopened()` goes beyond this table."""
