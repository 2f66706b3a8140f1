"""What follows from an answer of upstream's: the one place where polls move a job. Pure.

`decide()` is total: for every job, answer and moment it gives a `Decision`. A final state is left
by nothing but `status.reopened()`, which is an operator's act; only upstream's own word makes a job
end.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reelwatch.rules.answers import Answer, ErrorKind, Failure, Meaning, Report, Trouble, failure_of
from reelwatch.rules.status import (
    DEADLINE,
    FINAL,
    NO_RESULT,
    Account,
    Decision,
    EventType,
    Job,
    State,
)
from reelwatch.rules.timing.curves import Hint
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.schedule import Plans, until_next_look, until_next_try, until_slow_look
from reelwatch.rules.troubles import MEANINGS
from reelwatch.rules.words import ENDS

NOT_FOUND_LOOKS = 5  # in a row; and for Rules.not_found_after: a new id may not be known yet
GONE_AFTER = 6 * 3_600.0  # seconds of not_found, past the deadline, until a known job is gone
RESULTLESS_LOOKS = 5  # in a row; and for Rules.result_grace: an account that rests asks seldom
SAME_LOOKS = 5  # errors in a row with one text about the job; and for Rules.not_found_after
GIVE_UP_LOOKS = 5  # in a row that brought nothing; and for Rules.abandon_after
BREAK_SECONDS = 3_600.0  # without a good answer: what was known before does not go on
FOREIGN_LOOKS = 3  # answers under ever other ids: then these are no job's names

ACCOUNT_PAUSES = frozenset({ErrorKind.UNAUTHORIZED, ErrorKind.FORBIDDEN, ErrorKind.QUOTA})
ACCOUNT_SLOWS = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.SATURATED})


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decisions depend on; spans in seconds."""

    plans: Plans = field(default_factory=Plans)
    not_found_after: float = 300.0
    result_grace: float = 300.0  # from the first success word without a URL to `no_result`
    abandon_after: float = 86_400.0  # from tracking, from the last good answer, or from a break

    @property
    def pace(self) -> Pace:
        """Floor and ceiling of the looks at one job."""
        return self.plans.pace


def decide(job: Job, answer: Answer, now: datetime, rules: Rules, jitter: float = 0.5) -> Decision:
    """What to make of `answer` to a look at `job`, at `now`. Total; a final job stays as it is.

    Only the URL of one that was completed without is still taken in.
    """
    if job.state in FINAL:
        kept = Decision(job.state, job.status, None)
        return _by_second_look(job, answer, now, rules, jitter) if job.lacks_result else kept
    if isinstance(answer, Report):
        strange = _strange(job, answer)
        if strange is None:
            return _by_report(job, answer, now, rules, jitter)
        job, answer = replace(job, foreign_id=answer.foreign_id), strange
    return _by_trouble(job, answer, now, rules, jitter)


def overdue(
    job: Job, now: datetime, why: str, rules: Rules, refused_for: float = 0.0
) -> Decision | None:
    """The decision that tells of a deadline which passed while nobody could look, and `why`.

    Or gives the job up, where its account has been refused for so long (seconds, without an answer
    about any job) that its own looks would have done so, had its turns come. None: nothing to tell.
    """
    if job.final or now < job.deadline_at or _awaits_result(job, now, rules):
        return None
    if job.state is State.EXPIRED:
        over = refused_for >= rules.abandon_after and now >= abandon_at(job, rules)
        return _still_open(job, job.state, job.status, now, why, over=True) if over else None
    decision = _still_open(job, job.state, job.status, now, why, over=False)
    return replace(decision, due=_slow_due(job, now, rules, 0.5))


def _by_second_look(
    job: Job, answer: Answer, now: datetime, rules: Rules, jitter: float
) -> Decision:
    """A completed job without a URL was asked for once more: found, not found, or ask again."""
    if isinstance(answer, Report):
        found = answer.meaning is Meaning.SUCCESS and answer.video_url is not None
        return Decision(
            job.state,
            answer.word or job.status if found else job.status,
            None,
            step=found,
            event=EventType.UPDATED if found else None,
            failure=None if found else NO_RESULT,
            trouble=_remarked(answer),
            account=Account.WORKS,
            foreign_id=job.foreign_id,
            expired_at=job.expired_at,
        )
    counted = _counted(job, answer, now)
    wait = until_next_try(counted.errors_in_row, rules.pace, jitter)
    over = counted.errors_in_row >= GIVE_UP_LOOKS
    due = None if over else now + timedelta(seconds=wait)
    return replace(_kept(counted, NO_RESULT), due=due, trouble=answer, account=_effect(job, answer))


# ----------------------------------------------------------------- reports


def _strange(job: Job, report: Report) -> Trouble | None:
    """The trouble of an end that comes under an id which this job has not been named by before.

    It counts when it comes again: one that some other job's answer was mixed up with does not. Ids
    that are other ones each time are a request's, and say nothing.
    """
    foreign = report.foreign_id
    if report.meaning not in ENDS or foreign is None or foreign == job.foreign_id:
        return None
    if job.last_error is ErrorKind.BAD_SHAPE and job.errors_in_row + 1 >= FOREIGN_LOOKS:
        return None
    message = "the answer ends a job by another id; it counts when it comes again"
    return Trouble(ErrorKind.BAD_SHAPE, message, report.http_status, body=report.body)


def _by_report(job: Job, report: Report, now: datetime, rules: Rules, jitter: float) -> Decision:
    trouble = _remarked(report)
    status = report.word or job.status
    job = replace(
        job,
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
        decision = _end(job, state, status, failure)
        return replace(decision, trouble=trouble, account=Account.WORKS)
    finished = report.meaning is Meaning.SUCCESS  # and has no URL yet: its fate is known
    if finished:
        decision = _kept_open(job, _open_state(job, report), status, now)
    else:
        over = now >= abandon_at(job, rules)
        why = _still_said(status)
        decision = _still_open(job, _open_state(job, report), status, now, why, over=over)
    return replace(
        decision,
        due=decision.due and _due(job, report, decision, now, rules, jitter),
        trouble=trouble,
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
        return (State.COMPLETED, NO_RESULT) if _resultless_for_good(job, now, rules) else None
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
        return now + timedelta(seconds=rules.pace.floor)
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


def _awaits_result(job: Job, now: datetime, rules: Rules) -> bool:
    """Has upstream called it finished, just now? Then only its URL is missing, not its fate."""
    since = job.resultless_since
    return since is not None and (now - since).total_seconds() < rules.result_grace


def _resultless_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Has upstream called the job finished, this look included, often and long enough?"""
    since = job.resultless_since or now
    looks = job.resultless_count + 1
    return looks >= RESULTLESS_LOOKS and (now - since).total_seconds() >= rules.result_grace


# ---------------------------------------------------------------- troubles


def _by_trouble(job: Job, trouble: Trouble, now: datetime, rules: Rules, jitter: float) -> Decision:
    counted = _counted(job, trouble, now)
    effect = _effect(job, trouble)
    if trouble.kind is ErrorKind.NOT_FOUND and _not_found_for_good(counted, now, rules):
        failure = Failure("not_found", _not_found_text(counted), False, trouble.request_id)
        ended = _end(counted, State.FAILED, job.status, failure)
        return replace(ended, trouble=trouble, account=effect)
    if trouble.about_the_job and _same_for_good(job, now, rules):
        ended = _end(counted, State.FAILED, "error", failure_of(trouble))
        return replace(ended, trouble=trouble, account=effect)
    why, over = _nothing_learned(counted, trouble, now), _in_vain(counted, now, rules)
    decision = _still_open(counted, job.state, job.status, now, why, over=over)
    # That the account is too fast makes no job of it wait long.
    errors = 1 if effect is Account.SLOW else counted.errors_in_row
    return replace(
        decision,
        due=decision.due and _retry_due(counted, decision, errors, now, rules, jitter),
        trouble=trouble,
        account=effect,
    )


def _effect(job: Job, trouble: Trouble) -> Account:
    """What an error says of the account: nothing, where it is the job's own, whatever it says."""
    if trouble.kind is ErrorKind.NOT_FOUND:
        return Account.WORKS
    if trouble.of_its_model or _gets_it_alone(job, trouble):
        return Account.NO_NEWS
    if trouble.kind in ACCOUNT_SLOWS:
        return Account.SLOW
    return Account.PAUSE if trouble.kind in ACCOUNT_PAUSES else Account.NO_NEWS


def _gets_it_alone(job: Job, trouble: Trouble) -> bool:
    """Has another poll of the account worked since this job got such an error before?

    A refusal has to be shown to be the job's own each time anew: the key may have been refused
    meanwhile. A 429 need not: where the account is too fast, others get theirs.
    """
    if job.last_error not in ACCOUNT_PAUSES | ACCOUNT_SLOWS or job.account_worked_at is None:
        return False
    slowed = trouble.kind in ACCOUNT_SLOWS
    since = (job.errors_since if slowed else None) or job.last_polled_at
    return since is not None and job.account_worked_at >= since


def _counted(job: Job, trouble: Trouble, now: datetime) -> Job:
    first = job.errors_in_row == 0
    counted = replace(
        job,
        errors_in_row=job.errors_in_row + 1,
        errors_since=now if first else job.errors_since or job.last_polled_at or now,
        last_error=trouble.kind,
    )
    if trouble.kind is not ErrorKind.NOT_FOUND:
        return counted
    since = job.not_found_since or now
    return replace(counted, not_found_count=job.not_found_count + 1, not_found_since=since)


def _not_found_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Is the id not known, often and long enough in a row?

    A job that upstream has known does not vanish because of some minutes of that, perhaps while a
    relay moves: its deadline must have passed as well, and hours.
    """
    if job.not_found_count < NOT_FOUND_LOOKS or job.not_found_since is None:
        return False
    lasted = (now - job.not_found_since).total_seconds()
    if job.status is None:
        return lasted >= rules.not_found_after
    return now >= job.deadline_at and lasted >= max(GONE_AFTER, rules.not_found_after)


def _same_for_good(job: Job, now: datetime, rules: Rules) -> bool:
    """Did upstream say the same of the job, this look included, often and long enough?"""
    if job.same_count + 1 < SAME_LOOKS or job.same_since is None:
        return False
    return (now - job.same_since).total_seconds() >= rules.not_found_after


def _not_found_text(job: Job) -> str:
    return (
        f"upstream did not know the id in {job.not_found_count} looks in a row: "
        "deleted there, mistyped, or created with another account's key"
    )


def _retry_due(
    job: Job, decision: Decision, errors: int, now: datetime, rules: Rules, jitter: float
) -> datetime:
    if decision.state is State.EXPIRED:
        return _slow_due(job, now, rules, jitter)
    wait = until_next_try(errors, rules.pace, jitter)
    return _by_deadline(job, now, now + timedelta(seconds=wait))


# -------------------------------------------------------------------- ends


def _end(job: Job, state: State, status: str | None, failure: Failure | None) -> Decision:
    event = EventType.COMPLETED if state is State.COMPLETED else EventType.FAILED
    return Decision(
        state, status, None, step=True, event=event, failure=failure, expired_at=job.expired_at,
        watched_since=job.watched_since, foreign_id=job.foreign_id,
    )  # fmt: skip


def _still_open(
    job: Job, state: State, status: str | None, now: datetime, why: str, *, over: bool
) -> Decision:
    """The job after a look that brought no end: open, expired, or, if its time is `over`, given up.

    `why` tells what the last looks brought instead.
    """
    failure = replace(DEADLINE, message=f"{DEADLINE.message}: {why}")
    kept = _kept_open(job, state, status, now)
    if state is State.EXPIRED:
        return replace(kept, failure=failure, due=None if over else now, abandoned=over)
    if now >= job.deadline_at:
        return replace(
            kept,
            state=State.EXPIRED,
            step=True,
            event=EventType.EXPIRED,
            failure=failure,
            expired_at=now,
        )
    return kept


def _kept_open(job: Job, state: State, status: str | None, now: datetime) -> Decision:
    changed = (state, status) != (job.state, job.status)
    kept = _kept(job, DEADLINE if state is State.EXPIRED else None)
    event = EventType.STATUS_CHANGED if changed else None
    return replace(kept, state=state, status=status, due=now, step=changed, event=event)


def _kept(job: Job, failure: Failure | None) -> Decision:
    """A decision that changes nothing; a good answer resets the counters it does not pass on."""
    return Decision(
        job.state,
        job.status,
        None,
        failure=failure,
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
    """When the looks at an expired job that upstream knows stop.

    A span after tracking, after a later deadline, or after a break in good answers: an outage of
    ours or a refused key must not use up the time in which the job could be seen to end.
    """
    span = timedelta(seconds=rules.abandon_after)
    began = max(job.tracked_at, job.watched_since or job.tracked_at)
    end = began + span
    return end if job.deadline_at < end else job.deadline_at + span


def _in_vain(job: Job, now: datetime, rules: Rules) -> bool:
    """Is an expired job to be given up after these errors? They begin with the last good answer."""
    if job.errors_in_row < GIVE_UP_LOOKS or job.errors_since is None:
        return False
    span = timedelta(seconds=rules.abandon_after)
    return now >= max(abandon_at(job, rules), job.errors_since + span)


def _still_said(status: str | None) -> str:
    return f"its last word was {status!r}" if status else "it has not said anything of the job"


def _nothing_learned(job: Job, trouble: Trouble, now: datetime) -> str:
    """What the looks in a row brought instead of an answer, and for how long."""
    said = f"{MEANINGS[trouble.kind]} ({trouble.message})"
    if job.errors_in_row == 1 or job.errors_since is None:
        return f"at the last look {said}"
    span = _span((now - job.errors_since).total_seconds())
    return f"{job.errors_in_row} looks in a row, for {span}, brought nothing; at the last {said}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _slow_due(job: Job, now: datetime, rules: Rules, jitter: float) -> datetime:
    """When to look at an expired job again."""
    past = (now - job.deadline_at).total_seconds()
    return now + timedelta(seconds=until_slow_look(past, rules.pace, jitter))


def _by_deadline(job: Job, now: datetime, due: datetime) -> datetime:
    """No later than the deadline, so that its passing is told in time."""
    return min(due, job.deadline_at) if job.deadline_at > now else due
