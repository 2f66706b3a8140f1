"""What follows from a poll that brought an error: for the job, and for its account. Pure."""

from datetime import datetime, timedelta

from reelwatch.rules.answer_errors import ACCOUNT_KINDS, ACCOUNT_PAUSES, ACCOUNT_SLOWS, MEANINGS
from reelwatch.rules.answers import (
    AnswerError,
    ErrorKind,
    Failure,
    failure_of,
)
from reelwatch.rules.deadlines import Rules, by_deadline, in_vain, slow_due, span_text, still_open
from reelwatch.rules.states import (
    Account,
    Decision,
    EventType,
    Job,
    State,
)

NOT_FOUND_POLLS = 5  # in a row; and for Rules.not_found_after: a new id may not be known yet
GONE_AFTER = 6 * 3_600.0  # seconds of not_found, past the deadline, until a known job is gone
SAME_POLLS = 5  # errors in a row with one text about the job; and for Rules.not_found_after


def by_error(job: Job, error: AnswerError, now: datetime, rules: Rules, jitter: float) -> Decision:
    counted = count_error(job, error, now)
    effect = effect_of(job, error)
    if error.kind is ErrorKind.NOT_FOUND and _not_found_for_good(counted, now, rules):
        failure = Failure("not_found", _not_found_text(counted), False, error.request_id)
        ended = end_job(counted, State.FAILED, job.status, failure)
        return ended._replace(error=error, account=effect)
    if error.about_the_job and _same_for_good(job, now, rules):
        ended = end_job(counted, State.FAILED, "error", failure_of(error))
        return ended._replace(error=error, account=effect)
    why, over = _nothing_learned(counted, error, now), in_vain(counted, now, rules)
    decision = still_open(counted, job.state, job.status, now, why, over=over)
    # That the account is too fast makes no job of it wait long.
    errors = 1 if effect is Account.SLOW else counted.errors_in_row
    return decision._replace(
        due=decision.due and _retry_due(counted, decision, errors, now, rules, jitter),
        error=error,
        account=effect,
    )


def effect_of(job: Job, error: AnswerError) -> Account:
    """What an error says of the account: nothing, where it is the job's own, whatever it says."""
    if error.kind is ErrorKind.NOT_FOUND:
        return Account.WORKS
    if error.of_its_model or _gets_it_alone(job, error):
        return Account.NO_NEWS
    if error.kind in ACCOUNT_SLOWS:
        return Account.SLOW
    return Account.PAUSE if error.kind in ACCOUNT_PAUSES else Account.NO_NEWS


def _gets_it_alone(job: Job, error: AnswerError) -> bool:
    """Has another poll of the account worked since this job got such an error before?

    A refusal has to be shown to be the job's own each time anew: the key may have been refused
    meanwhile. A 429 need not: where the account is too fast, others get theirs.
    """
    if job.last_error not in ACCOUNT_KINDS or job.account_worked_at is None:
        return False
    slowed = error.kind in ACCOUNT_SLOWS
    since = (job.errors_since if slowed else None) or job.last_polled_at
    return since is not None and job.account_worked_at >= since


def count_error(job: Job, error: AnswerError, now: datetime) -> Job:
    first = job.errors_in_row == 0
    counted = job._replace(
        errors_in_row=job.errors_in_row + 1,
        errors_since=now if first else job.errors_since or job.last_polled_at or now,
        last_error=error.kind,
    )
    if error.kind is not ErrorKind.NOT_FOUND:
        return counted
    since = job.not_found_since or now
    return counted._replace(not_found_count=job.not_found_count + 1, not_found_since=since)


def _not_found_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Is the id not known, often and long enough in a row?

    A job that upstream has known does not vanish because of some minutes of that, perhaps while a
    relay moves: its deadline must have passed as well, and hours.
    """
    if job.not_found_count < NOT_FOUND_POLLS or job.not_found_since is None:
        return False
    lasted = (now - job.not_found_since).total_seconds()
    if job.status is None:
        return lasted >= rules.not_found_after
    return now >= job.deadline_at and lasted >= max(GONE_AFTER, rules.not_found_after)


def _same_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Did upstream say the same of the job, this poll included, often and long enough?"""
    if job.same_count + 1 < SAME_POLLS or job.same_since is None:
        return False
    return (now - job.same_since).total_seconds() >= rules.not_found_after


def _not_found_text(job: Job) -> str:
    return (
        f"upstream did not know the id in {job.not_found_count} polls in a row: "
        "deleted there, mistyped, or created with another account's key"
    )


def _retry_due(
    job: Job, decision: Decision, errors: int, now: datetime, rules: Rules, jitter: float
) -> datetime:
    if decision.state is State.EXPIRED:
        return slow_due(job, now, rules, jitter)
    wait = rules.pace.after_errors(errors, jitter)
    return by_deadline(job, now, now + timedelta(seconds=wait))


def end_job(job: Job, state: State, status: str | None, failure: Failure | None) -> Decision:
    event = EventType.COMPLETED if state is State.COMPLETED else EventType.FAILED
    return Decision(
        state, status, None, transition=True, event=event, failure=failure,
        expired_at=job.expired_at, watched_since=job.watched_since, foreign_id=job.foreign_id,
    )  # fmt: skip


def _nothing_learned(job: Job, error: AnswerError, now: datetime) -> str:
    """What the polls in a row brought instead of an answer, and for how long."""
    said = f"{MEANINGS[error.kind]} ({error.message})"
    if job.errors_in_row == 1 or job.errors_since is None:
        return f"at the last poll {said}"
    span = span_text((now - job.errors_since).total_seconds())
    return f"{job.errors_in_row} polls in a row, for {span}, brought nothing; at the last {said}"
