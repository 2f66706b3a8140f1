"""Every (state, answer) pair, and what no sequence of answers may ever do to a job."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reelwatch.rules.answer_errors import ACCOUNT_PAUSES, ACCOUNT_SLOWS
from reelwatch.rules.answers import (
    Answer,
    AnswerError,
    ErrorKind,
    Failure,
    Meaning,
    Report,
    interpret,
)
from reelwatch.rules.deadlines import Rules, abandon_at
from reelwatch.rules.lifecycle import decide, overdue
from reelwatch.rules.states import (
    DEADLINE,
    FINAL,
    NO_RESULT,
    OPEN,
    Account,
    Decision,
    EventType,
    Job,
    State,
    cancelled,
    reopened,
)
from reelwatch.rules.timing.plan import Hint, Plan

TRACKED = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
DEADLINE_AT = TRACKED + timedelta(hours=1)
EARLY = TRACKED + timedelta(minutes=10)
PAST = TRACKED + timedelta(minutes=5)
LATE = TRACKED + timedelta(hours=2)
GIVE_UP = TRACKED + timedelta(hours=24)
RULES = Rules()
VEO = RULES.plans.plan("veo3.1-fast")
URL = "https://cdn.example/result.mp4"
LOST = Failure("upstream_failed", "Task failed", retryable=True)
GONE = Failure("upstream_expired", "gone", retryable=True)
MICROSECOND = timedelta(microseconds=1)

STATUS = {
    State.PENDING: "pending",
    State.RUNNING: "processing",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.EXPIRED: "processing",
    State.CANCELLED: "processing",
}
MOVES = {state: {state} for state in FINAL} | {  # where polls and cancelling may take a job
    State.PENDING: set(State), State.RUNNING: set(State) - {State.PENDING},
    State.EXPIRED: {State.EXPIRED, *FINAL},
}  # fmt: skip


def job(state: State, **facts: object) -> Job:
    """A job in that state that is as usual in everything else."""
    expired_at = DEADLINE_AT if state is State.EXPIRED else None
    usual = Job(state, STATUS[state], TRACKED, DEADLINE_AT, "veo3.1-fast", expired_at=expired_at)
    return usual._replace(**facts)  # type: ignore[arg-type]


def poll(at: Job, answer: Answer, now: datetime, jitter: float = 0.5) -> Decision:
    """A decision about a job that has been polled a minute ago, if nothing else is said."""
    if at.last_polled_at is None and not at.errors_in_row:
        at = at._replace(last_polled_at=now - timedelta(minutes=1))
    return decide(at, answer, now, RULES, jitter)


def told(failure: Failure | None) -> tuple[str, bool] | None:
    """Which failure it is: its message tells besides what was learned instead."""
    if failure is None or not failure.message.startswith(DEADLINE.message):
        return None
    return failure.code, failure.retryable


EXPIRY = (DEADLINE.code, DEADLINE.retryable)


REPORTS: dict[str, Report] = {
    "not_started": Report("pending", Meaning.NOT_STARTED),
    "in_progress": Report("processing", Meaning.IN_PROGRESS),
    "other_stage": Report("video_upsampling", Meaning.IN_PROGRESS, video_url=URL),
    "unknown": Report("daydreaming", Meaning.UNKNOWN, remarks=("unknown status",)),
    "no_word": Report(None, Meaning.UNKNOWN, remarks=("no status",)),
    "contradiction": Report("failed", Meaning.UNKNOWN, video_url=URL, remarks=("contradiction",)),
    "success": Report("completed", Meaning.SUCCESS, video_url=URL, errors=("leftover",)),
    "no_url": Report("completed", Meaning.SUCCESS),
    "failure": Report("failed", Meaning.FAILURE, failure=LOST, video_url=URL),
    "gone": Report("expired", Meaning.EXPIRED, failure=GONE),
}
ANSWERS: dict[str, Answer] = {
    **REPORTS,
    **{kind.value: AnswerError(kind, "oops", 500, "req-1") for kind in ErrorKind},
}
ACCOUNT_KINDS = ACCOUNT_PAUSES | ACCOUNT_SLOWS


# ------------------------------------------------------------------- table

# What becomes of a job with each answer: `state event when`. The event is `!` for the state's own,
# `~` for status_changed, `-` for none. When to poll again: `poll` by age, `retry` as after one
# error, `floor` as soon as allowed, `slow` as for an expired job, `never`.
#
# The columns: pending and running before the deadline, pending and running after it, expired, and
# expired for so long that it is to be given up.
TABLE = """
    not_started     | pending   - poll             | running   ~ poll             | expired   ! slow    | expired   ! slow    | expired   ~ slow       | expired   ~ never
    in_progress     | running   ~ poll             | running   - poll             | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - never
    other_stage     | running   ~ poll             | running   ~ poll             | expired   ! slow    | expired   ! slow    | expired   ~ slow       | expired   ~ never
    unknown         | running   ~ poll             | running   ~ poll             | expired   ! slow    | expired   ! slow    | expired   ~ slow       | expired   ~ never
    no_word         | running   ~ poll             | running   - poll             | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - never
    contradiction   | running   ~ poll             | running   ~ poll             | expired   ! slow    | expired   ! slow    | expired   ~ slow       | expired   ~ never
    success         | completed ! never            | completed ! never            | completed ! never   | completed ! never   | completed ! never      | completed ! never
    no_url          | running   ~ floor            | running   ~ floor            | running   ~ floor   | running   ~ floor   | expired   ~ floor      | expired   ~ floor
    failure         | failed    ! never            | failed    ! never            | failed    ! never   | failed    ! never   | failed    ! never      | failed    ! never
    gone            | failed    ! never            | failed    ! never            | failed    ! never   | failed    ! never   | failed    ! never      | failed    ! never
    unauthorized    | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    forbidden       | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    quota           | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    rate_limited    | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    saturated       | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    server_error    | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    not_found       | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    not_json        | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    bad_shape       | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    too_large       | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    timeout         | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
    connection      | pending   - retry            | running   - retry            | expired   ! slow    | expired   ! slow    | expired   - slow       | expired   - slow
"""  # noqa: E501 - a table has its width
COLUMNS = (
    (State.PENDING, EARLY),
    (State.RUNNING, EARLY),
    (State.PENDING, LATE),
    (State.RUNNING, LATE),
    (State.EXPIRED, LATE),
    (State.EXPIRED, GIVE_UP),
)


def table() -> Iterator[tuple[str, State, datetime, str]]:
    for line in TABLE.strip().splitlines():
        name, *cells = (part.strip() for part in line.split("|"))
        for (state, now), cell in zip(COLUMNS, cells, strict=True):
            yield name, state, now, cell


ROWS = list(table())


def wait_of(plan: Plan, age: float) -> float:
    """Seconds until the next poll of a job of that age, at a jitter of one half."""
    return RULES.pace.spread(plan.interval(Hint(age)), 0.5)


def when(status: str, now: datetime) -> datetime | None:
    """The moment that the table's word stands for, at a jitter of one half."""
    past = (now - DEADLINE_AT).total_seconds()
    seconds = {
        "poll": wait_of(VEO, (now - TRACKED).total_seconds()),
        "retry": RULES.pace.after_errors(1, 0.5),
        "floor": RULES.pace.floor,
        "slow": RULES.pace.after_deadline(past, 0.5),
    }
    return now + timedelta(seconds=seconds[status]) if status != "never" else None


def event_of(sign: str, state: State) -> EventType | None:
    return {
        "-": None,
        "~": EventType.STATUS_CHANGED,
        "!": {
            State.COMPLETED: EventType.COMPLETED,
            State.FAILED: EventType.FAILED,
            State.EXPIRED: EventType.EXPIRED,
        }.get(state),
    }[sign]


class TestTable:
    def test_names_every_open_state_with_every_answer(self) -> None:
        assert {(name, state) for name, state, _, _ in ROWS} == {
            (name, state) for name in ANSWERS for state in OPEN
        }

    @pytest.mark.parametrize(
        ("name", "state", "now", "cell"),
        ROWS,
        ids=[f"{name}-{state}-{now:%jd%Hh%M}" for name, state, now, _ in ROWS],
    )
    def test_says_what_becomes_of_an_open_job(
        self, name: str, state: State, now: datetime, cell: str
    ) -> None:
        to_state, sign, due = cell.split()
        found = poll(job(state), ANSWERS[name], now)
        assert found.state == to_state
        assert found.event == event_of(sign, State(to_state))
        assert found.transition == (sign != "-")
        assert found.due == when(due, now)
        assert found.final == (to_state in FINAL)
        assert found.abandoned == (due == "never" and to_state == "expired")

    @pytest.mark.parametrize("name", ANSWERS)
    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_no_answer_changes_a_final_job(self, state: State, name: str) -> None:
        for now in (TRACKED, EARLY, DEADLINE_AT, LATE, GIVE_UP):
            assert poll(job(state), ANSWERS[name], now) == Decision(state, STATUS[state], None)

    def test_states_are_open_or_final(self) -> None:
        assert {*OPEN, *FINAL} == set(State)
        assert {"completed", "failed", "cancelled"} == set(FINAL)


OPEN_JOBS = pytest.mark.parametrize("state", sorted(OPEN))


class TestReports:
    @OPEN_JOBS
    @pytest.mark.parametrize("name", REPORTS)
    def test_what_upstream_says_becomes_the_jobs_status_unless_it_is_missing(
        self, state: State, name: str
    ) -> None:
        found = poll(job(state), REPORTS[name], EARLY)
        assert found.status == (REPORTS[name].status or STATUS[state])

    @OPEN_JOBS
    @pytest.mark.parametrize("name", REPORTS)
    def test_show_that_the_key_works_and_reset_the_counters(self, state: State, name: str) -> None:
        failing = job(
            state,
            errors_in_row=7,
            last_error=ErrorKind.NOT_FOUND,
            not_found_count=4,
            not_found_since=TRACKED,
        )
        found = poll(failing, REPORTS[name], EARLY)
        assert found.account is Account.WORKS
        assert (found.errors_in_row, found.last_error) == (0, None)
        assert (found.not_found_count, found.not_found_since) == (0, None)

    @OPEN_JOBS
    @pytest.mark.parametrize("name", REPORTS)
    def test_odd_ones_are_recorded(self, state: State, name: str) -> None:
        remarks = REPORTS[name].remarks
        expected = AnswerError(ErrorKind.BAD_SHAPE, remarks[0], 200) if remarks else None
        assert poll(job(state), REPORTS[name], EARLY).error == expected

    def test_several_remarks_are_recorded_as_one(self) -> None:
        odd = Report("x", Meaning.UNKNOWN, remarks=("one", "two"), http_status=202)
        expected = AnswerError(ErrorKind.BAD_SHAPE, "one; two", 202)
        assert poll(job(State.RUNNING), odd, EARLY).error == expected

    @OPEN_JOBS
    @pytest.mark.parametrize("failure", [LOST, GONE])
    def test_a_failure_is_handed_on_as_upstream_told_it(
        self, state: State, failure: Failure
    ) -> None:
        answer = Report("failed", Meaning.FAILURE, failure=failure)
        assert poll(job(state), answer, EARLY).failure == failure

    def test_a_success_has_no_failure_whatever_was_before(self) -> None:
        assert poll(job(State.EXPIRED), REPORTS["success"], LATE).failure is None

    @pytest.mark.parametrize("status", ["pending", "queued"])
    def test_a_job_that_runs_does_not_become_pending_again(self, status: str) -> None:
        found = poll(job(State.RUNNING), Report(status, Meaning.NOT_STARTED), EARLY)
        assert (found.state, found.status, found.transition) == (State.RUNNING, status, True)

    def test_the_first_status_is_a_transition(self) -> None:
        found = poll(job(State.PENDING, status=None), REPORTS["not_started"], EARLY)
        assert (found.state, found.status, found.transition) == (State.PENDING, "pending", True)
        assert found.event is EventType.STATUS_CHANGED


class TestWhenToPollAgain:
    def test_goes_by_the_age_since_upstream_made_the_job(self) -> None:
        made = EARLY - timedelta(seconds=30)
        expected = EARLY + timedelta(seconds=wait_of(VEO, 30))
        for running, answer in (
            (job(State.RUNNING, created_at=made), REPORTS["in_progress"]),
            (job(State.RUNNING), replace(REPORTS["in_progress"], created_at=made)),
            (job(State.RUNNING, tracked_at=made), REPORTS["in_progress"]),
        ):
            assert poll(running, answer, EARLY).due == expected

    def test_upstreams_latest_status_counts_most_there(self) -> None:
        made = EARLY - timedelta(seconds=30)
        answer = replace(REPORTS["in_progress"], created_at=made)
        found = poll(job(State.RUNNING, created_at=TRACKED), answer, EARLY)
        assert found.due == poll(job(State.RUNNING, created_at=made), answer, EARLY).due

    def test_a_job_from_the_future_is_new(self) -> None:
        future = job(State.RUNNING, created_at=EARLY + timedelta(days=1))
        wait = wait_of(VEO, 0)
        found = poll(future, REPORTS["in_progress"], EARLY)
        assert found.due == EARLY + timedelta(seconds=wait)

    def test_goes_by_the_jobs_model_or_else_by_the_answers(self) -> None:
        age = 60.0
        now = TRACKED + timedelta(seconds=age)
        answer = replace(REPORTS["in_progress"], model="sora-2")
        for model, expected in (("grok", "grok"), (None, "sora-2")):
            wait = wait_of(RULES.plans.plan(expected), age)
            found = poll(job(State.RUNNING, model=model), answer, now)
            assert found.due == now + timedelta(seconds=wait)

    @pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
    @pytest.mark.parametrize(
        "name", ["in_progress", "unknown", "server_error", "not_found", "rate_limited", "quota"]
    )
    def test_is_no_later_than_the_deadline(self, state: State, name: str) -> None:
        for seconds in (0.001, 1, 4):
            now = DEADLINE_AT - timedelta(seconds=seconds)
            assert poll(job(state), ANSWERS[name], now).due == DEADLINE_AT

    def test_backs_off_with_every_error_in_a_row(self) -> None:
        for errors in range(8):
            failing = job(State.RUNNING, errors_in_row=errors)
            wait = RULES.pace.after_errors(errors + 1, 0.5)
            found = poll(failing, ANSWERS["server_error"], EARLY)
            assert (found.due, found.errors_in_row) == (
                EARLY + timedelta(seconds=wait),
                errors + 1,
            )

    def test_does_not_back_off_for_the_keys_error(self) -> None:
        failing = job(State.RUNNING, errors_in_row=9, last_error=ErrorKind.RATE_LIMITED)
        assert poll(failing, ANSWERS["rate_limited"], EARLY).due == when("retry", EARLY)

    def test_is_spread_by_the_jitter(self) -> None:
        for name in ("in_progress", "server_error", "rate_limited"):
            dues = [poll(job(State.RUNNING), ANSWERS[name], EARLY, j).due for j in (0, 0.5, 1)]
            assert dues == sorted(set(dues), key=lambda due: due or EARLY)

    def test_an_expired_jobs_polls_grow_rare_even_when_the_key_is_in_error(self) -> None:
        now = DEADLINE_AT + timedelta(hours=1)
        for name in ("in_progress", "server_error", "rate_limited", "unauthorized"):
            found = poll(job(State.EXPIRED), ANSWERS[name], now)
            assert found.due == now + timedelta(seconds=360)


# ------------------------------------------------------------- deadlines


class TestDeadline:
    @pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
    @pytest.mark.parametrize(
        "name",
        [name for name in ANSWERS if name not in {"success", "failure", "gone", "no_url"}],
    )
    def test_passes_exactly_at_its_time(self, state: State, name: str) -> None:
        before = poll(job(state), ANSWERS[name], DEADLINE_AT - MICROSECOND)
        at = poll(job(state), ANSWERS[name], DEADLINE_AT)
        assert before.state in (State.PENDING, State.RUNNING)
        assert (before.failure, before.expired_at) == (None, None)
        assert (at.state, at.event, at.transition) == (State.EXPIRED, EventType.EXPIRED, True)
        assert (told(at.failure), at.expired_at) == (EXPIRY, DEADLINE_AT)

    @pytest.mark.parametrize(
        ("facts", "name", "why"),
        [
            ({}, "in_progress", "its last status was 'processing'"),
            ({"status": None}, "no_word", "it has not said anything of the job"),
            ({}, "timeout", "at the last poll no answer in time (oops)"),
            (
                {"errors_in_row": 11, "errors_since": LATE - timedelta(hours=5)},
                "unauthorized",
                "12 polls in a row, for 5 h, brought nothing; "
                "at the last upstream refused the account's key (oops)",
            ),
            (
                {"errors_in_row": 1, "errors_since": LATE - timedelta(seconds=40)},
                "quota",
                "2 polls in a row, for 40 s, brought nothing; "
                "at the last the account's quota is used up (oops)",
            ),
            (
                {"errors_in_row": 8, "errors_since": LATE - timedelta(minutes=50)},
                "rate_limited",
                "9 polls in a row, for 50 min, brought nothing; "
                "at the last upstream asked to slow down (oops)",
            ),
            (
                {"errors_in_row": 98, "errors_since": LATE - timedelta(days=3)},
                "server_error",
                "99 polls in a row, for 3 d, brought nothing; "
                "at the last upstream had an error of its own (oops)",
            ),
        ],
    )
    def test_is_told_with_the_reason_why_nothing_was_learned(
        self, facts: dict[str, object], name: str, why: str
    ) -> None:
        found = poll(job(State.RUNNING, **facts), ANSWERS[name], LATE)
        assert found.failure is not None
        assert found.failure.message == f"{DEADLINE.message}: {why}"

    def test_does_not_pass_for_a_finished_job_whose_url_is_awaited(self) -> None:
        """Its fate is known."""
        for now in (DEADLINE_AT, LATE, GIVE_UP):
            found = poll(job(State.RUNNING), REPORTS["no_url"], now)
            assert (found.state, found.event) == (State.RUNNING, EventType.STATUS_CHANGED)

    def test_a_new_status_that_comes_with_it_is_kept(self) -> None:
        found = poll(job(State.RUNNING), REPORTS["other_stage"], LATE)
        assert (found.state, found.status) == (State.EXPIRED, "video_upsampling")

    @pytest.mark.parametrize("name", ["success", "failure", "gone"])
    def test_a_late_verdict_is_told_and_known_to_be_late(self, name: str) -> None:
        found = poll(job(State.EXPIRED), ANSWERS[name], LATE)
        assert found.final
        assert found.expired_at == DEADLINE_AT

    @pytest.mark.parametrize("name", ["success", "failure"])
    def test_a_verdict_at_the_first_poll_after_it_is_not_late(self, name: str) -> None:
        found = poll(job(State.RUNNING), ANSWERS[name], LATE)
        assert found.final
        assert found.expired_at is None

    @pytest.mark.parametrize("name", ["in_progress", "server_error", "rate_limited"])
    def test_an_expired_job_keeps_its_failure_and_its_time(self, name: str) -> None:
        found = poll(job(State.EXPIRED), ANSWERS[name], LATE)
        assert (told(found.failure), found.expired_at) == (EXPIRY, DEADLINE_AT)

    @pytest.mark.parametrize("name", ["in_progress", "unknown", "not_started"])
    def test_an_expired_job_is_given_up_exactly_at_its_time(self, name: str) -> None:
        before = poll(job(State.EXPIRED), ANSWERS[name], GIVE_UP - MICROSECOND)
        at = poll(job(State.EXPIRED), ANSWERS[name], GIVE_UP)
        assert (before.abandoned, before.due is None) == (False, False)
        assert (at.abandoned, at.due, at.state) == (True, None, State.EXPIRED)

    @pytest.mark.parametrize("name", sorted(ErrorKind))
    def test_errors_give_it_up_after_several_and_a_span_from_the_last_good_answer(
        self, name: str
    ) -> None:
        late = DEADLINE_AT + timedelta(hours=10)  # the last good answer
        for errors, since, ends in (
            (3, TRACKED, False),
            (4, TRACKED, True),
            (99, late - MICROSECOND, True),
            (99, late + MICROSECOND, False),
        ):
            silent = job(State.EXPIRED, errors_in_row=errors, errors_since=since)
            found = poll(silent, ANSWERS[name], late + timedelta(hours=24))
            assert (found.abandoned, found.due is None) == (ends, ends), (errors, since)

    @pytest.mark.parametrize(
        "facts",
        [
            {"last_polled_at": TRACKED},
            {"errors_in_row": 70, "errors_since": TRACKED},
            {"errors_in_row": 1, "errors_since": None, "last_polled_at": TRACKED},
        ],
        ids=["nobody-polled", "errors", "errors-of-an-older-release"],
    )
    def test_after_a_break_in_good_answers_the_span_begins_anew(
        self, facts: dict[str, object]
    ) -> None:
        """Our outage or a refused key for 25 h is no reason to give up what upstream knows."""
        back = TRACKED + timedelta(hours=25)
        first = poll(job(State.EXPIRED, **facts), REPORTS["in_progress"], back)
        assert (first.abandoned, first.watched_since) == (False, back)
        for hours, given_up in ((1, False), (23.9, False), (24, True)):
            watched = job(State.EXPIRED, watched_since=back)
            found = poll(watched, REPORTS["in_progress"], back + timedelta(hours=hours))
            assert (found.abandoned, found.watched_since) == (given_up, back)

    def test_a_job_that_nobody_polled_is_not_given_up_at_its_second_poll(self) -> None:
        back = TRACKED + timedelta(hours=25)
        first = decide(job(State.PENDING), REPORTS["in_progress"], back, RULES)
        assert (first.event, first.watched_since) == (EventType.EXPIRED, back)
        second = poll(after(job(State.PENDING), first), REPORTS["in_progress"], back + MICROSECOND)
        assert (second.state, second.abandoned) == (State.EXPIRED, False)

    @pytest.mark.parametrize("errors", [0, 1, 4])
    def test_short_breaks_do_not_count(self, errors: int) -> None:
        before = GIVE_UP - timedelta(minutes=50)
        watched = job(State.EXPIRED, last_polled_at=before, errors_since=before)
        watched = watched._replace(errors_in_row=errors)
        assert poll(watched, REPORTS["in_progress"], GIVE_UP).abandoned

    def test_a_job_is_told_to_have_expired_before_it_is_given_up(self) -> None:
        found = poll(job(State.RUNNING), REPORTS["in_progress"], GIVE_UP)
        assert (found.event, found.abandoned) == (EventType.EXPIRED, False)
        assert found.due is not None

    @pytest.mark.parametrize(
        ("deadline", "expected"),
        [
            (timedelta(hours=1), timedelta(hours=24)),
            (timedelta(hours=24) - MICROSECOND, timedelta(hours=24)),
            (timedelta(hours=24), timedelta(hours=48)),
            (timedelta(days=3), timedelta(days=4)),
        ],
        ids=["usual", "just-before", "as-long", "longer"],
    )
    def test_a_deadline_beyond_the_span_moves_giving_up(
        self, deadline: timedelta, expected: timedelta
    ) -> None:
        tracked = job(State.EXPIRED, deadline_at=TRACKED + deadline)
        assert abandon_at(tracked, RULES) == TRACKED + expected


# ------------------------------------------------------------ ends by count


class TestNotFound:
    @OPEN_JOBS
    @pytest.mark.parametrize(
        ("count", "seconds", "ends"),
        [
            (0, 3_600, False),
            (3, 3_600, False),
            (4, 299.9, False),
            (4, 300, True),
            (100, 299.9, False),
            (100, 300, True),
        ],
        ids=["first", "fourth", "fifth-too-soon", "fifth", "many-too-soon", "many"],
    )
    def test_is_believed_after_several_in_a_row_and_some_minutes(
        self, state: State, count: int, seconds: float, ends: bool
    ) -> None:
        since = EARLY - timedelta(seconds=seconds)
        new = job(state, status=None)
        known = new._replace(not_found_count=count, not_found_since=since if count else None)
        found = poll(known, ANSWERS["not_found"], EARLY)
        assert (found.state is State.FAILED) == ends
        assert found.account is Account.WORKS
        assert found.error == ANSWERS["not_found"]
        if ends:
            assert found.event is EventType.FAILED
            assert found.failure is not None
            assert (found.failure.code, found.failure.retryable) == ("not_found", False)
            assert f"in {count + 1} polls in a row" in found.failure.message
            assert found.failure.request_id == "req-1"
        else:
            assert found.not_found_count == count + 1
            assert found.not_found_since == (since if count else EARLY)

    @OPEN_JOBS
    @pytest.mark.parametrize(
        ("now", "lasted", "count", "ends"),
        [
            (EARLY, timedelta(minutes=6), 9, False),
            (DEADLINE_AT - MICROSECOND, timedelta(hours=7), 900, False),
            (LATE, timedelta(hours=6) - MICROSECOND, 900, False),
            (LATE, timedelta(hours=6), 3, False),
            (LATE, timedelta(hours=6), 4, True),
        ],
    )
    def test_of_a_job_that_upstream_has_known_is_believed_hours_later(
        self, state: State, now: datetime, lasted: timedelta, count: int, ends: bool
    ) -> None:
        """It does not vanish because a relay moves: past its deadline, and six hours of it."""
        known = job(state, not_found_count=count, not_found_since=now - lasted)
        found = poll(known, ANSWERS["not_found"], now)
        assert (found.state is State.FAILED) == ends

    def test_the_verdict_keeps_the_last_status_and_whether_it_is_late(self) -> None:
        known = job(State.EXPIRED, not_found_count=9, not_found_since=LATE - timedelta(hours=6))
        found = poll(known, ANSWERS["not_found"], LATE)
        assert (found.state, found.status) == (State.FAILED, "processing")
        assert found.expired_at == DEADLINE_AT

    @OPEN_JOBS
    @pytest.mark.parametrize("kind", sorted(set(ErrorKind) - {ErrorKind.NOT_FOUND}))
    def test_no_other_error_counts_for_it_nor_against_it(
        self, kind: ErrorKind, state: State
    ) -> None:
        known = job(state, not_found_count=4, not_found_since=TRACKED)
        found = poll(known, ANSWERS[kind], EARLY)
        assert found.state is state
        assert found.not_found_count == 4
        assert found.not_found_since == TRACKED

    @pytest.mark.parametrize("name", ["in_progress", "unknown", "no_word", "no_url"])
    def test_a_good_answer_starts_the_count_anew(self, name: str) -> None:
        known = job(State.RUNNING, not_found_count=4, not_found_since=TRACKED)
        found = poll(known, ANSWERS[name], EARLY)
        assert (found.not_found_count, found.not_found_since) == (0, None)


class TestSuccessWithoutUrl:
    @OPEN_JOBS
    @pytest.mark.parametrize(
        ("seconds", "polls", "ends"),
        [
            (0, 9, False),
            (299.9, 9, False),
            (300, 3, False),
            (86_400, 3, False),
            (300, 4, True),
            (86_400, 4, True),
        ],
    )
    def test_is_completed_without_when_its_url_does_not_come_in_time(
        self, state: State, seconds: float, polls: int, ends: bool
    ) -> None:
        """Five polls in a row *and* the grace: one that was seldom asked is not given up."""
        since = EARLY - timedelta(seconds=seconds)
        waiting = job(state, resultless_since=since, resultless_count=polls)
        found = poll(waiting, REPORTS["no_url"], EARLY)
        if ends:
            assert (found.state, found.failure) == (State.COMPLETED, NO_RESULT)
            assert found.event is EventType.COMPLETED
        else:
            assert found.state is (State.EXPIRED if state is State.EXPIRED else State.RUNNING)
            assert (found.resultless_since, found.resultless_count) == (since, polls + 1)

    def test_the_first_one_starts_the_time(self) -> None:
        found = poll(job(State.RUNNING), REPORTS["no_url"], EARLY)
        assert (found.resultless_since, found.resultless_count) == (EARLY, 1)
        uncertain = poll(job(State.RUNNING, resultless_count=9), REPORTS["no_url"], EARLY)
        assert (uncertain.final, uncertain.resultless_since) == (False, EARLY)

    def test_with_no_patience_the_fifth_is_enough(self) -> None:
        impatient, waiting = Rules(result_grace=0), job(State.RUNNING, resultless_count=4)
        found = decide(waiting, REPORTS["no_url"], EARLY, impatient)
        assert found.failure == NO_RESULT

    def test_its_url_makes_it_a_success_however_late(self) -> None:
        waiting = job(State.RUNNING, resultless_since=TRACKED)
        assert poll(waiting, REPORTS["success"], EARLY).state is State.COMPLETED

    @pytest.mark.parametrize("kind", sorted(ErrorKind))
    def test_an_error_in_between_stops_no_clock(self, kind: ErrorKind) -> None:
        waiting = job(State.RUNNING, resultless_since=TRACKED, resultless_count=3)
        found = poll(waiting, ANSWERS[kind], EARLY)
        assert (found.resultless_since, found.resultless_count) == (TRACKED, 3)

    @pytest.mark.parametrize("name", ["in_progress", "unknown", "no_word"])
    def test_another_status_in_between_starts_the_time_anew(self, name: str) -> None:
        waiting = job(State.RUNNING, resultless_since=TRACKED, resultless_count=3)
        found = poll(waiting, ANSWERS[name], EARLY)
        assert (found.resultless_since, found.resultless_count) == (None, 0)


class TestSecondPoll:
    """A job that was completed without a URL is asked for it once more, when somebody wants it."""

    def lacking(self, **facts: object) -> Job:
        return job(State.COMPLETED, error_code="no_result", **facts)

    def test_a_url_that_is_found_updates_it(self) -> None:
        found = poll(self.lacking(expired_at=DEADLINE_AT), REPORTS["success"], LATE)
        assert (found.state, found.transition, found.due) == (State.COMPLETED, True, None)
        assert (found.event, found.failure) == (EventType.UPDATED, None)
        assert (found.account, found.expired_at) == (Account.WORKS, DEADLINE_AT)

    @pytest.mark.parametrize("name", sorted(REPORTS.keys() - {"success"}))
    def test_any_other_good_answer_changes_nothing(self, name: str) -> None:
        found = poll(self.lacking(), REPORTS[name], LATE)
        assert (found.state, found.status, found.due) == (State.COMPLETED, "completed", None)
        assert (found.transition, found.event) == (False, None)

    @pytest.mark.parametrize("kind", sorted(ErrorKind))
    def test_an_error_is_tried_again_a_few_times(self, kind: ErrorKind) -> None:
        for errors in range(4):
            asked = self.lacking(errors_in_row=errors, errors_since=EARLY)
            found = poll(asked, ANSWERS[kind], LATE)
            wait = RULES.pace.after_errors(errors + 1, 0.5)
            assert found.due == LATE + timedelta(seconds=wait)
            assert (found.state, found.transition, found.error) == (
                State.COMPLETED,
                False,
                ANSWERS[kind],
            )
        last = poll(self.lacking(errors_in_row=4, errors_since=EARLY), ANSWERS[kind], LATE)
        assert (last.due, last.errors_in_row, last.transition) == (None, 5, False)


class TestStrangeIds:
    """An end under an id that the job was not named by before counts when it comes again."""

    ENDS = ("success", "no_url", "failure", "gone")

    @pytest.mark.parametrize("name", ENDS)
    @pytest.mark.parametrize("before", [None, "other"])
    def test_the_first_time_it_is_an_error_and_the_id_is_kept(
        self, name: str, before: str | None
    ) -> None:
        answer = replace(REPORTS[name], foreign_id="internal_7f3a", body={"a": 1})
        found = poll(job(State.RUNNING, foreign_id=before), answer, EARLY)
        assert (found.state, found.transition, found.foreign_id) == (
            State.RUNNING,
            False,
            "internal_7f3a",
        )
        assert found.error is not None
        assert (found.error.kind, found.error.body) == (ErrorKind.BAD_SHAPE, {"a": 1})
        assert found.due == when("retry", EARLY)

    @pytest.mark.parametrize("name", ENDS)
    def test_by_the_name_that_it_had_before_it_counts(self, name: str) -> None:
        named = job(State.RUNNING, foreign_id="internal_7f3a")
        answer = replace(REPORTS[name], foreign_id="internal_7f3a")
        assert poll(named, answer, EARLY).state is poll(named, REPORTS[name], EARLY).state

    @pytest.mark.parametrize("name", ["not_started", "in_progress", "unknown"])
    def test_an_answer_that_goes_on_gives_the_job_its_name(self, name: str) -> None:
        answer = replace(REPORTS[name], foreign_id="internal_7f3a")
        found = poll(job(State.PENDING), answer, EARLY)
        assert (found.foreign_id, found.state) == (
            "internal_7f3a",
            poll(job(State.PENDING), REPORTS[name], EARLY).state,
        )
        assert poll(after(job(State.PENDING), found), REPORTS[name], EARLY).foreign_id is not None

    def test_ids_that_are_ever_other_ones_name_no_job(self) -> None:
        """They are the request's: the third end in a row is one."""
        current = job(State.RUNNING)
        for number, state in enumerate((State.RUNNING, State.RUNNING, State.COMPLETED)):
            answer = replace(REPORTS["success"], foreign_id=f"request-{number}")
            found = poll(current, answer, EARLY)
            assert found.state is state
            current = after(current, found)


class TestAnErrorAboutTheJob:
    """`status: error` with one text about the job, again and again, is its end."""

    SAID = AnswerError(
        ErrorKind.BAD_SHAPE, "Asset upload returned 403", 200, "req-1", about_the_job=True
    )

    @pytest.mark.parametrize(
        ("count", "seconds", "ends"),
        [(0, 0, False), (3, 3_600, False), (4, 299, False), (4, 300, True), (90, 300, True)],
    )
    def test_ends_it_when_it_is_repeated_often_and_long_enough(
        self, count: int, seconds: float, ends: bool
    ) -> None:
        since = EARLY - timedelta(seconds=seconds) if count else None
        said = job(State.RUNNING, errors_in_row=count, same_count=count, same_since=since)
        found = poll(said, self.SAID, EARLY)
        assert (found.state is State.FAILED) == ends
        assert found.error == self.SAID
        if ends:
            assert found.status == "error"
            assert found.failure == Failure(
                "upstream_failed", "Asset upload returned 403", retryable=True, request_id="req-1"
            )

    def test_any_other_error_ends_nothing_however_often(self) -> None:
        since = EARLY - timedelta(hours=5)
        said = job(State.RUNNING, errors_in_row=99, same_count=99, same_since=since)
        for kind in ErrorKind:
            assert poll(said, AnswerError(kind, "oops", 200), EARLY).state is State.RUNNING

    def test_a_rejection_is_one(self) -> None:
        since = EARLY - timedelta(hours=5)
        said = job(State.RUNNING, errors_in_row=99, same_count=99, same_since=since)
        text = "Your prompt may violate our guardrails"
        found = poll(said, replace(self.SAID, message=text), EARLY)
        assert found.failure == Failure("content_policy", text, False, "req-1")


# ---------------------------------------------------------------- accounts


class TestAccount:
    @OPEN_JOBS
    @pytest.mark.parametrize(
        ("kind", "effect"),
        [
            (ErrorKind.UNAUTHORIZED, Account.PAUSE),
            (ErrorKind.FORBIDDEN, Account.PAUSE),
            (ErrorKind.QUOTA, Account.PAUSE),
            (ErrorKind.RATE_LIMITED, Account.SLOW),
            (ErrorKind.SATURATED, Account.SLOW),
            (ErrorKind.NOT_FOUND, Account.WORKS),
            (ErrorKind.SERVER_ERROR, Account.NO_NEWS),
            (ErrorKind.NOT_JSON, Account.NO_NEWS),
            (ErrorKind.BAD_SHAPE, Account.NO_NEWS),
            (ErrorKind.TOO_LARGE, Account.NO_NEWS),
            (ErrorKind.TIMEOUT, Account.NO_NEWS),
            (ErrorKind.CONNECTION, Account.NO_NEWS),
        ],
    )
    def test_what_an_error_says_of_it(self, kind: ErrorKind, effect: Account, state: State) -> None:
        found = poll(job(state), ANSWERS[kind], EARLY)
        assert found.account is effect
        assert found.error == ANSWERS[kind]
        assert (found.errors_in_row, found.last_error) == (1, kind)

    @pytest.mark.parametrize("kind", sorted(ACCOUNT_KINDS))
    def test_what_one_job_gets_alone_is_its_own_affair(self, kind: ErrorKind) -> None:
        refused = job(
            State.RUNNING, errors_in_row=3, last_error=ErrorKind.QUOTA, errors_since=PAST,
            last_polled_at=PAST, account_worked_at=PAST,
        )  # fmt: skip
        found = poll(refused, ANSWERS[kind], EARLY)
        assert found.account is Account.NO_NEWS
        assert found.due == EARLY + timedelta(seconds=RULES.pace.after_errors(4, 0.5))
        assert (found.state, found.transition) == (State.RUNNING, False)

    @pytest.mark.parametrize("kind", sorted(ACCOUNT_KINDS))
    @pytest.mark.parametrize(
        "columns",
        [
            {"account_worked_at": None},
            {"account_worked_at": PAST - timedelta(seconds=1)},
            {"last_error": ErrorKind.SERVER_ERROR},
            {"last_error": None, "errors_in_row": 0, "errors_since": None},
        ],
        ids=["nothing", "worked before", "another error before", "its first one"],
    )
    def test_what_others_may_get_as_well_is_the_accounts(
        self, columns: dict[str, Any], kind: ErrorKind
    ) -> None:
        before: dict[str, Any] = {
            "errors_in_row": 3, "last_error": kind, "errors_since": PAST, "last_polled_at": PAST,
            "account_worked_at": PAST,
        }  # fmt: skip
        found = poll(job(State.RUNNING, **before | columns), ANSWERS[kind], EARLY)
        assert found.account in (Account.PAUSE, Account.SLOW)

    def test_a_refusal_is_the_jobs_own_only_if_something_worked_since_its_last(self) -> None:
        """The key may have been refused meanwhile; a 429 comes to others as well then."""
        columns: dict[str, Any] = {
            "errors_in_row": 2, "errors_since": PAST, "last_polled_at": PAST + timedelta(seconds=9),
            "account_worked_at": PAST + timedelta(seconds=5), "last_error": ErrorKind.QUOTA,
        }  # fmt: skip
        refused = job(State.RUNNING, **columns)
        assert poll(refused, ANSWERS["quota"], EARLY).account is Account.PAUSE
        assert poll(refused, ANSWERS["rate_limited"], EARLY).account is Account.NO_NEWS

    def test_what_a_model_is_refused_for_says_nothing_of_the_account(self) -> None:
        refused = AnswerError(
            ErrorKind.FORBIDDEN, "no access to model grok", 403, of_its_model=True
        )
        assert poll(job(State.RUNNING), refused, EARLY).account is Account.NO_NEWS

    def test_a_job_waits_longer_the_more_often_it_is_refused(self) -> None:
        refused = job(State.RUNNING, errors_in_row=3, last_error=ErrorKind.QUOTA)
        wait = RULES.pace.after_errors(4, 0.5)
        assert poll(refused, ANSWERS["quota"], EARLY).due == EARLY + timedelta(seconds=wait)

    def test_no_job_waits_longer_because_the_account_is_too_fast(self) -> None:
        slowed = job(State.RUNNING, errors_in_row=3, last_error=ErrorKind.RATE_LIMITED)
        found = poll(slowed, ANSWERS["rate_limited"], EARLY)
        assert (found.account, found.due) == (Account.SLOW, when("retry", EARLY))


# ------------------------------------------------------------ by an operator


class TestCancelled:
    @OPEN_JOBS
    def test_an_open_job_stops_without_an_event(self, state: State) -> None:
        found = cancelled(job(state))
        assert found is not None
        assert (found.state, found.status) == (State.CANCELLED, STATUS[state])
        assert (found.transition, found.event, found.due, found.failure) == (True, None, None, None)
        assert found.expired_at == job(state).expired_at

    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_a_job_that_has_ended_stays_as_it_is(self, state: State) -> None:
        assert cancelled(job(state)) is None


class TestOverdue:
    @pytest.mark.parametrize("state", [State.PENDING, State.RUNNING])
    def test_a_deadline_that_passed_unseen_is_told_with_the_reason(self, state: State) -> None:
        found = overdue(job(state), LATE, "its account rests", RULES)
        assert found is not None
        assert (found.state, found.event, found.expired_at) == (
            State.EXPIRED,
            EventType.EXPIRED,
            LATE,
        )
        assert found.failure is not None
        assert found.failure.message == f"{DEADLINE.message}: its account rests"
        assert found.due == when("slow", LATE)

    @pytest.mark.parametrize("state", sorted(State))
    def test_none_is_told_early_twice_or_after_the_end(self, state: State) -> None:
        assert overdue(job(state), DEADLINE_AT - MICROSECOND, "", RULES) is None
        told_before = state is State.EXPIRED or state in FINAL
        assert (overdue(job(state), DEADLINE_AT, "", RULES) is None) == told_before

    def test_nor_while_only_the_url_of_a_finished_one_is_awaited(self) -> None:
        waits = job(State.RUNNING, resultless_count=1, resultless_since=DEADLINE_AT)
        grace = timedelta(seconds=RULES.result_grace)
        assert overdue(waits, DEADLINE_AT + grace - MICROSECOND, "", RULES) is None
        assert overdue(waits, DEADLINE_AT + grace, "", RULES) is not None


class TestReopened:
    @pytest.mark.parametrize("state", [State.EXPIRED, State.CANCELLED])
    @pytest.mark.parametrize(
        ("status", "to_state"),
        [
            (None, State.PENDING),
            ("pending", State.PENDING),
            ("queued", State.PENDING),
            ("processing", State.RUNNING),
            ("daydreaming", State.RUNNING),
            ("completed", State.RUNNING),
        ],
    )
    def test_an_expired_or_cancelled_job_is_polled_now_and_as_it_last_was(
        self, status: str | None, to_state: State, state: State
    ) -> None:
        ended = job(state, status=status, errors_in_row=5, expired_at=DEADLINE_AT)
        found = reopened(ended._replace(foreign_id="x"), LATE)
        assert found is not None
        assert (found.state, found.status, found.due) == (to_state, status, LATE)
        assert (found.transition, found.event) == (True, EventType.STATUS_CHANGED)
        assert (found.failure, found.errors_in_row, found.not_found_count) == (None, 0, 0)
        assert found.expired_at == DEADLINE_AT  # its verdict follows a video.expired
        assert (found.watched_since, found.foreign_id) == (LATE, "x")

    def test_a_job_that_upstream_did_not_know_is_asked_about_again(self) -> None:
        lost = job(State.FAILED, status="processing", error_code="not_found")
        found = reopened(lost, LATE)
        assert found is not None
        assert (found.state, found.due, found.expired_at) == (State.RUNNING, LATE, None)

    @pytest.mark.parametrize(
        ("state", "code"),
        [
            (State.COMPLETED, None),
            (State.COMPLETED, "not_found"),
            (State.COMPLETED, "no_result"),
            (State.FAILED, None),
            (State.FAILED, "upstream_failed"),
            (State.FAILED, "content_policy"),
            (State.FAILED, "no_result"),
            (State.PENDING, None),
            (State.RUNNING, "not_found"),
        ],
    )
    def test_no_other_job_is_taken_up_again(self, state: State, code: str | None) -> None:
        assert reopened(job(state, error_code=code), LATE) is None

    def test_a_reopened_job_can_expire_a_second_time(self) -> None:
        renewed = job(State.RUNNING, expired_at=DEADLINE_AT, deadline_at=LATE)
        found = poll(renewed, REPORTS["in_progress"], LATE)
        assert (found.event, found.expired_at) == (EventType.EXPIRED, LATE)

    def test_a_reopened_jobs_verdict_is_late_still(self) -> None:
        renewed = job(State.RUNNING, expired_at=DEADLINE_AT, deadline_at=GIVE_UP)
        assert poll(renewed, REPORTS["success"], LATE).expired_at == DEADLINE_AT


# -------------------------------------------------------------- properties


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - a strategy's bounds have no zone
TEXTS = st.none() | st.sampled_from(["pending", "processing", "completed"]) | st.text(max_size=5)
MAYBE = st.none() | MOMENTS
KINDS = st.sampled_from(ErrorKind)
JOBS = st.builds(
    Job,
    st.sampled_from(State),
    TEXTS,
    MOMENTS,
    MOMENTS,
    model=TEXTS,
    created_at=MAYBE,
    expired_at=MAYBE,
    error_code=st.sampled_from([None, "not_found", "deadline", "no_result"]),
    last_polled_at=MAYBE,
    watched_since=MAYBE,
    foreign_id=st.sampled_from([None, "x", "y"]),
    errors_since=MAYBE,
    errors_in_row=st.integers(0, 10_000),
    last_error=st.none() | KINDS,
    not_found_count=st.integers(0, 10_000),
    not_found_since=MAYBE,
    resultless_count=st.integers(0, 10_000),
    resultless_since=MAYBE,
    same_count=st.integers(0, 10_000),
    same_since=MAYBE,
    account_worked_at=MAYBE,
)
FAILURES = st.builds(Failure, st.text(max_size=5), st.text(max_size=5), st.booleans())
ANY_REPORT = st.builds(
    Report,
    TEXTS,
    st.sampled_from(Meaning),
    video_url=st.none() | st.just(URL),
    model=TEXTS,
    created_at=MAYBE,
    failure=st.none() | FAILURES,
    remarks=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    foreign_id=st.sampled_from([None, "x", "y"]),
)
ANY_ERROR = st.builds(AnswerError, KINDS, st.text(max_size=5), st.none() | st.integers(100, 599))
JITTER = st.floats(0, 1)
PATIENCE = st.sampled_from([Rules(), Rules(not_found_after=0, result_grace=0, abandon_after=1)])


@dataclass(frozen=True)
class Step:
    """One act upon a job: a poll, or (no answer) its cancelling."""

    before: Job
    answer: Answer | None
    now: datetime
    decision: Decision


def after(before: Job, decision: Decision) -> Job:
    """The job's row when the decision has been written down."""
    written = decision.transition or decision.abandoned
    return before._replace(
        state=decision.state,
        status=decision.status,
        errors_in_row=decision.errors_in_row,
        last_error=decision.last_error,
        not_found_count=decision.not_found_count,
        not_found_since=decision.not_found_since,
        resultless_count=decision.resultless_count,
        resultless_since=decision.resultless_since,
        expired_at=decision.expired_at if written else before.expired_at,
        error_code=decision.failure.code if written and decision.failure else None,
        watched_since=decision.watched_since,
        foreign_id=decision.foreign_id,
        errors_since=decision.errors_since,
    )


Act = tuple[str, float, float]  # an answer's name or "cancel", seconds since the last act, jitter
ACTS: st.SearchStrategy[Act] = st.tuples(
    st.sampled_from([*ANSWERS, "cancel", *["not_found"] * 8, *["no_url", "in_progress"] * 3]),
    st.sampled_from([0.0, 1.0, 30.0, 100.0, 400.0, 2_000.0, 40_000.0]) | st.floats(0, 4_000),
    JITTER,
)


def lived(acts: list[Act]) -> list[Step]:
    """The life of a newly tracked job."""
    current, now, steps = Job(State.PENDING, None, TRACKED, DEADLINE_AT, "veo"), TRACKED, []
    for name, seconds, jitter in acts:
        now += timedelta(seconds=seconds)
        answer = ANSWERS.get(name)
        decision = decide(current, answer, now, RULES, jitter) if answer else cancelled(current)
        if decision is None:
            continue
        steps.append(Step(current, answer, now, decision))
        current = after(current, decision)._replace(last_polled_at=now)
    return steps


LIVES = st.lists(ACTS, max_size=15).map(lived)


class TestAnyDecision:
    """For every job, answer and moment, sensible or not."""

    @given(JOBS, ANY_REPORT | ANY_ERROR, MOMENTS, PATIENCE, JITTER)
    def test_is_total_and_within_the_moves(
        self, some: Job, answer: Answer, now: datetime, rules: Rules, jitter: float
    ) -> None:
        found = decide(some, answer, now, rules, jitter)
        assert found.state in MOVES[some.state]
        moved = (found.state, found.status) != (some.state, some.status)
        assert found.transition == (moved or found.event is EventType.UPDATED)
        assert found.event is None or found.transition
        assert found.final == (found.state in FINAL)
        assert (found.due is None) == (found.final or found.abandoned) or some.lacks_result
        assert found.due is None or found.due > now
        assert not found.abandoned or found.state is State.EXPIRED
        if some.state not in FINAL and found.state is not State.COMPLETED:
            failed = found.state in (State.FAILED, State.EXPIRED)
            assert (found.failure is not None) == failed
        assert decide(some, answer, now, rules, jitter) == found  # it depends on nothing else

    @given(JOBS, MOMENTS)
    def test_by_an_operator_is_total_too(self, some: Job, now: datetime) -> None:
        stopped, renewed = cancelled(some), reopened(some, now)
        assert (stopped is None) == (some.state in FINAL)
        assert stopped is None or stopped.state in MOVES[some.state]
        assert renewed is None or (
            renewed.due == now and renewed.state in OPEN and renewed.transition
        )

    @given(
        st.sampled_from(sorted(OPEN)),
        st.sampled_from([200, 200, 200, 401, 403, 404, 429, 500, 502]),
        st.sampled_from(["processing", "completed", "failed", "error", "who knows", "", None]),
        st.dictionaries(
            st.sampled_from(["detail", "running", "error", "video_url", "data", "code", "message"]),
            st.sampled_from(
                [None, True, False, URL, "oops", {}, {"running": True}, {"status": "failed"}, 500]
            ),
        ),
    )
    def test_only_upstreams_status_ends_a_job(
        self, state: State, http_status: int, status: str | None, facts: dict[str, object]
    ) -> None:
        body = json.dumps({"status": status, **facts}).encode()
        found = poll(job(state), interpret("veo:1", http_status, {}, body, EARLY), EARLY)
        if found.final:
            assert http_status == 200
            inner = {"status": "failed"} in (facts.get("detail"), facts.get("data"))
            assert status in ("completed", "failed", "error") or (inner and not status)
            assert (found.state is State.COMPLETED) == (status == "completed")

    @given(st.sampled_from(sorted(OPEN)), st.integers(100, 599), st.binary(max_size=50))
    def test_no_garbage_ends_a_job(self, state: State, http_status: int, body: bytes) -> None:
        found = poll(job(state), interpret("veo:1", http_status, {}, body, EARLY), EARLY)
        assert not found.final


class TestAnyLife:
    """For every sequence of answers, at any distances, with a cancelling at any place."""

    @given(LIVES)
    def test_moves_only_as_the_table_says_and_never_leaves_an_end(self, life: list[Step]) -> None:
        for step in life:
            assert step.decision.state in MOVES[step.before.state]
            if step.before.state in FINAL:
                assert step.decision.state is step.before.state
                assert not step.decision.transition

    @given(LIVES)
    def test_tells_every_end_and_every_expiry_once_and_nothing_without_a_transition(
        self, life: list[Step]
    ) -> None:
        told = {
            State.COMPLETED: EventType.COMPLETED,
            State.FAILED: EventType.FAILED,
            State.EXPIRED: EventType.EXPIRED,
        }
        owed = [
            told[step.decision.state]
            for step in life
            if step.decision.state is not step.before.state and step.decision.state in told
        ]
        steps = [step.decision.event for step in life if step.decision.transition]
        assert [event for event in steps if event in told.values()] == owed
        assert len(owed) == len(set(owed)) <= 2
        assert not any(step.decision.event for step in life if not step.decision.transition)

    @given(LIVES)
    def test_the_keys_error_ends_no_job(self, life: list[Step]) -> None:
        for step in life:
            if not isinstance(step.answer, AnswerError) or step.answer.kind not in ACCOUNT_KINDS:
                continue
            before, found = step.before, step.decision
            assert found.status == before.status
            assert found.state in (before.state, State.EXPIRED)
            assert found.transition == (found.state is not before.state)

    @example(lived([("not_found", 0.0, 0.0)] * 5 + [("unauthorized", 400.0, 0.0)]))
    @given(LIVES)
    def test_ends_only_by_upstreams_status_or_by_what_stands_for_it(self, life: list[Step]) -> None:
        unknown: list[datetime] = []  # the times of not_found since the last good answer
        without: list[datetime] = []  # the times of a success without its URL in a row
        for step in life:
            answer, ended = step.answer, step.decision.final and step.before.state in OPEN
            if isinstance(answer, Report):
                unknown.clear()
                resultless = answer.meaning is Meaning.SUCCESS and not answer.video_url
                without = [*without, step.now] if resultless else []
            elif answer is not None and answer.kind is ErrorKind.NOT_FOUND:
                unknown.append(step.now)
            if ended:
                assert step.decision.state is self.verdict(step, unknown, without)

    @staticmethod
    def verdict(step: Step, unknown: list[datetime], without: list[datetime]) -> State | None:
        """The only end that this answer may bring."""
        answer = step.answer
        if answer is None:
            return State.CANCELLED
        if isinstance(answer, AnswerError):
            known = step.before.status is not None
            patience = timedelta(hours=6) if known else timedelta(minutes=5)
            early = len(unknown) < 5 or unknown[-1] - unknown[0] < patience
            return None if early or (known and step.now < DEADLINE_AT) else State.FAILED
        if answer.meaning is Meaning.SUCCESS and answer.video_url:
            return State.COMPLETED
        if without:
            waited = len(without) >= 5 and without[-1] - without[0] >= timedelta(minutes=5)
            return State.COMPLETED if waited else None
        return State.FAILED if answer.meaning in (Meaning.FAILURE, Meaning.EXPIRED) else None

    @given(LIVES)
    def test_expires_at_its_deadline_and_not_before(self, life: list[Step]) -> None:
        for step in life:
            if step.decision.state is State.EXPIRED:
                assert step.now >= DEADLINE_AT
            elif step.decision.state in OPEN and step.now >= DEADLINE_AT:
                assert step.answer == REPORTS["no_url"]  # its fate is known

    @given(LIVES)
    def test_is_polled_again_until_it_ends_or_is_given_up(self, life: list[Step]) -> None:
        for step in life:
            found, due = step.decision, step.decision.due
            if due is None:
                assert found.final or (found.abandoned and step.now >= GIVE_UP)
                continue
            assert due > step.now
            if found.state is not State.EXPIRED:
                assert due - step.now <= timedelta(seconds=RULES.pace.ceiling)
            else:
                assert due - step.now <= timedelta(seconds=900 * 1.1)

    @given(LIVES)
    def test_no_open_job_sleeps_through_its_deadline(self, life: list[Step]) -> None:
        for step in life:
            found = step.decision
            finished = step.answer == REPORTS["no_url"]
            # One that was completed without its URL is asked for it after its deadline as well.
            open_now = found.state in OPEN and found.state is not State.EXPIRED
            if found.due and open_now and not finished:
                assert found.due <= DEADLINE_AT

    @given(LIVES)
    def test_counts_errors_in_a_row_and_starts_anew_with_a_good_answer(
        self, life: list[Step]
    ) -> None:
        in_row = 0
        for step in life:
            if step.before.state in FINAL or step.answer is None or step.decision.final:
                continue
            in_row = in_row + 1 if isinstance(step.answer, AnswerError) else 0
            assert step.decision.errors_in_row == in_row
            assert (step.decision.last_error is None) == (in_row == 0)

    @given(LIVES)
    def test_records_every_error_of_an_open_job(self, life: list[Step]) -> None:
        for step in life:
            if step.before.state in OPEN and isinstance(step.answer, AnswerError):
                assert step.decision.error == step.answer
            if step.before.state in OPEN and isinstance(step.answer, Report):
                assert (step.decision.error is not None) == bool(step.answer.remarks)

    @given(LIVES)
    def test_remembers_that_it_had_expired(self, life: list[Step]) -> None:
        expired_at: datetime | None = None
        for step in life:
            if step.decision.event is EventType.EXPIRED:
                expired_at = step.now
            if step.before.state in OPEN:
                assert step.decision.expired_at == expired_at


LATE_ENDS: dict[str, Callable[[Job], Decision]] = {
    "completed": lambda at: poll(at, REPORTS["success"], LATE),
    "failed": lambda at: poll(at, REPORTS["failure"], LATE),
}


@pytest.mark.parametrize("end", LATE_ENDS)
def test_an_expired_job_may_yet_end_and_then_stays_so(end: str) -> None:
    """A deadline is a local matter: what upstream says afterwards is noticed."""
    expired = after(job(State.RUNNING), poll(job(State.RUNNING), REPORTS["in_progress"], LATE))
    assert expired.state is State.EXPIRED
    ended = after(expired, LATE_ENDS[end](expired))
    assert ended.state == end
    for answer in ANSWERS.values():
        assert poll(ended, answer, GIVE_UP).state == end
