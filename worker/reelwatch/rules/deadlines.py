"""What becomes of a job that has not ended: it stays open, expires, or is given up. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from reelwatch.rules.answers import (
    Failure,
)
from reelwatch.rules.states import (
    DEADLINE,
    Decision,
    EventType,
    Job,
    State,
)
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.planner import Plans

GIVE_UP_POLLS = 5  # in a row that brought nothing; and for Rules.abandon_after


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions depend on; spans in seconds."""

    plans: Plans = field(default_factory=Plans)
    not_found_after: float = 300.0
    result_grace: float = 300.0  # from the first success without a URL to `no_result`
    abandon_after: float = 86_400.0  # from tracking, from the last good answer, or from a break

    @property
    def pace(self) -> Pace:
        """Floor and ceiling of the polls of one job."""
        return self.plans.pace


def still_open(
    job: Job, state: State, status: str | None, now: datetime, why: str, *, over: bool
) -> Decision:
    """The job after a poll that brought no end: open, expired, or, if its time is `over`, given up.

    `why` tells what the last polls brought instead.
    """
    kept = kept_open(job, state, status, now)
    if state is not State.EXPIRED and now < job.deadline_at:
        return kept
    failure = replace(DEADLINE, message=f"{DEADLINE.message}: {why}")
    if state is State.EXPIRED:
        return kept._replace(failure=failure, due=None if over else now, abandoned=over)
    return kept._replace(
        state=State.EXPIRED,
        transition=True,
        event=EventType.EXPIRED,
        failure=failure,
        expired_at=now,
    )


def kept_open(job: Job, state: State, status: str | None, now: datetime) -> Decision:
    changed = (state, status) != (job.state, job.status)
    event = EventType.STATUS_CHANGED if changed else None
    failure = DEADLINE if state is State.EXPIRED else None
    return _as_it_is(job, state, status, now, transition=changed, event=event, failure=failure)


def unchanged(job: Job, failure: Failure | None) -> Decision:
    """A decision that changes nothing; a good answer resets the counters it does not pass on."""
    return _as_it_is(job, job.state, job.status, None, failure=failure)


def _as_it_is(
    job: Job, state: State, status: str | None, due: datetime | None, **said: Any
) -> Decision:
    """A decision that passes on all else that is known of the job."""
    return Decision(
        state,
        status,
        due,
        **said,
        watched_since=job.watched_since,
        foreign_id=job.foreign_id,
        errors_in_row=job.errors_in_row,
        errors_since=job.errors_since,
        last_error=job.last_error,
        not_found_count=job.not_found_count,
        not_found_since=job.not_found_since,
        resultless_count=job.resultless_count,
        resultless_since=job.resultless_since,
        expired_at=job.expired_at,
    )


def abandon_at(job: Job, rules: Rules) -> datetime:
    """When the polls of an expired job that upstream knows stop.

    A span after tracking, after a later deadline, or after a break in good answers: an outage of
    ours or a refused key must not use up the time in which the job could be seen to end.
    """
    span = timedelta(seconds=rules.abandon_after)
    began = max(job.tracked_at, job.watched_since or job.tracked_at)
    end = began + span
    return end if job.deadline_at < end else job.deadline_at + span


def in_vain(job: Job, now: datetime, rules: Rules) -> bool:
    """Is an expired job to be given up after these errors? They begin with the last good answer."""
    if job.errors_in_row < GIVE_UP_POLLS or job.errors_since is None:
        return False
    span = timedelta(seconds=rules.abandon_after)
    return now >= max(abandon_at(job, rules), job.errors_since + span)


def span_text(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def slow_due(job: Job, now: datetime, rules: Rules, jitter: float) -> datetime:
    """When to poll an expired job again."""
    past = (now - job.deadline_at).total_seconds()
    return now + timedelta(seconds=rules.pace.after_deadline(past, jitter))


def by_deadline(job: Job, now: datetime, due: datetime) -> datetime:
    """No later than the deadline, so that its passing is told in time."""
    return min(due, job.deadline_at) if job.deadline_at > now else due
