"""What follows from an answer of upstream's: the one place where polls move a job. Pure.

`decide()` is total: for every job, answer and moment it gives a `Decision`. A final state is left
by nothing but `states.reopened()`, which is an operator's act; only upstream's own status makes a
job end.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from reelwatch.rules.answers import (
    Answer,
    AnswerError,
    ErrorKind,
    Failure,
    Meaning,
    Report,
)
from reelwatch.rules.deadlines import (
    GIVE_UP_POLLS,
    Rules,
    abandon_at,
    by_deadline,
    kept_open,
    slow_due,
    still_open,
    unchanged,
)
from reelwatch.rules.failed_polls import by_error, count_error, effect_of, end_job
from reelwatch.rules.states import (
    FINAL,
    NO_RESULT,
    Account,
    Decision,
    EventType,
    Job,
    State,
)
from reelwatch.rules.status import ENDS
from reelwatch.rules.timing.plan import Hint

RESULTLESS_POLLS = 5  # in a row; and for Rules.result_grace: an account that rests asks seldom
BREAK_SECONDS = 3_600.0  # without a good answer: what was known before does not go on
FOREIGN_POLLS = 3  # answers under ever other ids: then these are no job's names


def decide(job: Job, answer: Answer, now: datetime, rules: Rules, jitter: float = 0.5) -> Decision:
    """What to make of `answer` to a poll of `job`, at `now`. Total; a final job stays as it is.

    Only the URL of one that was completed without is still taken in.
    """
    if job.state in FINAL:
        kept = Decision(job.state, job.status, None)
        return _by_second_poll(job, answer, now, rules, jitter) if job.lacks_result else kept
    if isinstance(answer, Report):
        strange = _strange(job, answer)
        if strange is None:
            return _by_report(job, answer, now, rules, jitter)
        job, answer = job._replace(foreign_id=answer.foreign_id), strange
    return by_error(job, answer, now, rules, jitter)


def overdue(
    job: Job, now: datetime, why: str, rules: Rules, refused_for: float = 0.0
) -> Decision | None:
    """The decision that tells of a deadline which passed while nobody could poll, and `why`.

    Or gives the job up, where its account has been refused for so long (seconds, without an answer
    about any job) that its own polls would have done so, had their time come. None: no news.
    """
    if job.final or now < job.deadline_at or _awaits_result(job, now, rules):
        return None
    if job.state is State.EXPIRED:
        over = refused_for >= rules.abandon_after and now >= abandon_at(job, rules)
        return still_open(job, job.state, job.status, now, why, over=True) if over else None
    decision = still_open(job, job.state, job.status, now, why, over=False)
    return decision._replace(due=slow_due(job, now, rules, 0.5))


def _by_second_poll(
    job: Job, answer: Answer, now: datetime, rules: Rules, jitter: float
) -> Decision:
    """A completed job without a URL was asked for once more: found, not found, or ask again."""
    if isinstance(answer, Report):
        found = answer.meaning is Meaning.SUCCESS and answer.video_url is not None
        return Decision(
            job.state,
            answer.status or job.status if found else job.status,
            None,
            transition=found,
            event=EventType.UPDATED if found else None,
            failure=None if found else NO_RESULT,
            error=_remarked(answer),
            account=Account.WORKS,
            foreign_id=job.foreign_id,
            expired_at=job.expired_at,
        )
    counted = count_error(job, answer, now)
    wait = rules.pace.after_errors(counted.errors_in_row, jitter)
    over = counted.errors_in_row >= GIVE_UP_POLLS
    due = None if over else now + timedelta(seconds=wait)
    return unchanged(counted, NO_RESULT)._replace(
        due=due, error=answer, account=effect_of(job, answer)
    )


def _strange(job: Job, report: Report) -> AnswerError | None:
    """The error of an end that comes under an id which this job has not been named by before.

    It counts when it comes again: one that some other job's answer was mixed up with does not. Ids
    that are other ones each time are a request's, and say nothing.
    """
    foreign = report.foreign_id
    if report.meaning not in ENDS or foreign is None or foreign == job.foreign_id:
        return None
    if job.last_error is ErrorKind.BAD_SHAPE and job.errors_in_row + 1 >= FOREIGN_POLLS:
        return None
    message = "the answer ends a job by another id; it counts when it comes again"
    return AnswerError(ErrorKind.BAD_SHAPE, message, report.http_status, body=report.body)


def _by_report(job: Job, report: Report, now: datetime, rules: Rules, jitter: float) -> Decision:
    error = _remarked(report)
    status = report.status or job.status
    job = job._replace(
        watched_since=_watched_since(job, now, rules),
        foreign_id=report.foreign_id or job.foreign_id,
        errors_in_row=0,
        errors_since=None,
        last_error=None,
        not_found_count=0,
        not_found_since=None,
    )
    ended = _ended(job, report, now, rules)
    if ended is not None:
        state, failure = ended
        decision = end_job(job, state, status, failure)
        return decision._replace(error=error, account=Account.WORKS)
    finished = report.meaning is Meaning.SUCCESS  # and has no URL yet: its fate is known
    if finished:
        decision = kept_open(job, _open_state(job, report), status, now)
    else:
        over = now >= abandon_at(job, rules)
        why = _still_said(status)
        decision = still_open(job, _open_state(job, report), status, now, why, over=over)
    return decision._replace(
        due=decision.due and _due(job, report, decision, now, rules, jitter),
        error=error,
        account=Account.WORKS,
        resultless_count=job.resultless_count + 1 if finished else 0,
        resultless_since=job.resultless_since or now if finished else None,
    )


def _watched_since(job: Job, now: datetime, rules: Rules) -> datetime | None:
    """When good answers began to come without a break; None: since the job has been tracked."""
    longest = max(BREAK_SECONDS, 4 * rules.pace.ceiling)
    last_good = job.errors_since if job.errors_in_row else job.last_polled_at
    broken = (now - (last_good or job.tracked_at)).total_seconds() > longest
    return now if broken else job.watched_since


def _ended(
    job: Job, report: Report, now: datetime, rules: Rules
) -> tuple[State, Failure | None] | None:
    if report.meaning is Meaning.SUCCESS:
        if report.video_url:
            return State.COMPLETED, None
        return (
            (State.COMPLETED, _no_result(report)) if _resultless_for_good(job, now, rules) else None
        )
    if report.failure is not None:
        return State.FAILED, report.failure
    return None


def _no_result(report: Report) -> Failure:
    """A success without a URL; what was given in its place is told."""
    if report.lacking is None:
        return NO_RESULT
    return replace(NO_RESULT, message=f"upstream says it is finished and {report.lacking}")


def _open_state(job: Job, report: Report) -> State:
    if job.state is State.EXPIRED:
        return State.EXPIRED
    started = report.meaning is not Meaning.NOT_STARTED
    return State.RUNNING if started or job.state is State.RUNNING else State.PENDING


def _due(
    job: Job, report: Report, decision: Decision, now: datetime, rules: Rules, jitter: float
) -> datetime:
    """When to poll again after a good answer."""
    if report.meaning is Meaning.SUCCESS:  # its URL is written a moment later: don't let it wait
        return now + timedelta(seconds=rules.pace.floor)
    if decision.state is State.EXPIRED:
        return slow_due(job, now, rules, jitter)
    created = report.created_at or job.created_at or job.tracked_at
    age = max(0.0, (now - created).total_seconds())
    plan = rules.plans.plan(job.model or report.model)
    best = plan.interval(Hint(age, decision.status, report.progress))
    wait = rules.pace.spread(best, jitter)
    return by_deadline(job, now, now + timedelta(seconds=wait))


def _remarked(report: Report) -> AnswerError | None:
    if not report.remarks:
        return None
    return AnswerError(ErrorKind.BAD_SHAPE, "; ".join(report.remarks), report.http_status)


def _awaits_result(job: Job, now: datetime, rules: Rules) -> bool:
    """Has upstream called it finished, just now? Then only its URL is missing, not its fate."""
    since = job.resultless_since
    return since is not None and (now - since).total_seconds() < rules.result_grace


def _resultless_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Has upstream called the job finished, this poll included, often and long enough?"""
    since = job.resultless_since or now
    polls = job.resultless_count + 1
    return polls >= RESULTLESS_POLLS and (now - since).total_seconds() >= rules.result_grace


def _still_said(status: str | None) -> str:
    return f"its last status was {status!r}" if status else "it has not said anything of the job"
