"""What is written down of a decision: the job, its transition, its errors, the events it owes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import DatabaseError

from reelwatch.rules import deadlines, events, lifecycle, states
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Failure, Meaning, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.timing.eta import remaining
from reelwatch.storage import db, job_columns, ledger
from reelwatch.storage.models import Delivery, Job, PollError, Transition
from tests import seeding
from tests.kinds import foretold, steady

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
RULES = deadlines.Rules()
HOOK = "https://hooks.example.com:8443/video?x=1"
CREATED = datetime(2026, 2, 6, 3, 54, 42, 203_000, tzinfo=UTC)
ENDED = datetime(2026, 2, 6, 3, 58, 49, 98_000, tzinfo=UTC)

Values = dict[str, Any]

RUNNING = Report("processing", Meaning.IN_PROGRESS, body={"status": "processing"})
DONE = Report(
    "completed",
    Meaning.SUCCESS,
    video_url="https://cdn.example.com/a.mp4",
    video_urls={"original": "https://cdn.example.com/b.mp4"},
    enhanced_prompt="A calm sea",
    model="veo3.1-fast",
    created_at=CREATED,
    completed_at=ENDED,
    updated_at=ENDED + timedelta(milliseconds=104),
    errors=("[403] Request failed",),
    body={"status": "completed", "video_url": "https://cdn.example.com/a.mp4"},
)
FAILED = Report(
    "failed",
    Meaning.FAILURE,
    failure=Failure("content_policy", "unsafe prompt", retryable=False, request_id="20260206"),
    body={"status": "failed"},
)
BROKEN = AnswerError(ErrorKind.SERVER_ERROR, "internal error", 500, "id-1")
NOT_FOUND = AnswerError(ErrorKind.NOT_FOUND, "task_not_exist", 400)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def url(database_url: str) -> str:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
    return database_url


def add_job(url: str, video_id: str = "a", **values: Any) -> None:
    row = {"metadata": {"order": 7}, "webhook_url": HOOK, **values}
    with db.transaction(url) as session:
        seeding.add_new_jobs(session, [video_id], NOW, **row)


def rows(url: str, table: Any, **where: Any) -> Sequence[RowMapping]:
    query = select(table.__table__).filter_by(**where).order_by(table.__table__.c.id)
    with db.reading(url) as session:
        return session.execute(query).mappings().all()


def job(url: str, video_id: str = "a") -> dict[str, Any]:
    (row,) = rows(url, Job, video_id=video_id)
    return dict(row)


def change(
    row: dict[str, Any], answer: Answer, at: datetime, rules: deadlines.Rules = RULES
) -> Change:
    return Change(row, lifecycle.decide(job_columns.job_of(row), answer, at, rules), answer)


def write(url: str, changes: Sequence[Change], at: datetime = NOW) -> int:
    with db.transaction(url) as session:
        return ledger.write(session, changes, at)


def poll(url: str, *answers: Answer, video_id: str = "a", start: float = 0) -> int:
    """Write down polls of the job, a second apart; returns the number of events they owe."""
    return sum(
        write(url, [change(job(url, video_id), answer, after(start + n))], after(start + n))
        for n, answer in enumerate(answers)
    )


def body(delivery: RowMapping) -> dict[str, Any]:
    loaded = json.loads(delivery["body"])
    assert isinstance(loaded, dict)
    return loaded


class TestJobs:
    def test_a_poll_without_news_is_counted(self, url: str) -> None:
        add_job(url, state="running", upstream_status="processing", lease_token="t")
        assert poll(url, RUNNING, start=5) == 0
        row = job(url)
        assert (row["polls"], row["last_polled_at"], row["lease_token"]) == (1, after(5), None)
        assert (row["state"], row["sequence"]) == ("running", 0)
        assert row["next_poll_at"] > after(5)
        assert rows(url, Transition) == []

    def test_a_row_of_which_others_write_more_keeps_what_it_has(self, url: str) -> None:
        """All of a batch are written under the same columns: those in which any of them changes."""
        add_job(url, "a", state="running", upstream_status="processing", model="veo3")
        add_job(url, "b", state="running", upstream_status="processing", progress=0.25,
                progress_at=after(1), errors_in_row=2, errors_since=after(2),
                last_error="timeout")  # fmt: skip
        told = replace(RUNNING, progress=0.5, model="veo3.1-fast")
        answers: dict[str, Answer] = {"a": told, "b": BROKEN}
        write(url, [change(job(url, name), answers[name], after(5)) for name in answers], after(5))
        a, b = job(url, "a"), job(url, "b")
        assert (a["progress"], a["progress_at"], a["model"]) == (0.5, after(5), "veo3")
        assert (a["errors_in_row"], a["last_error"], a["last_error_id"]) == (0, None, None)
        assert (b["progress"], b["progress_at"], b["model"]) == (0.25, after(1), None)
        assert (b["errors_in_row"], b["errors_since"]) == (3, after(2))
        assert (b["last_error"], b["polls"]) == ("server_error", 1)

    def test_a_completed_job_keeps_its_end_and_result(self, url: str) -> None:
        add_job(url)
        assert poll(url, DONE, start=5) == 1
        row = job(url)
        assert (row["state"], row["upstream_status"]) == ("completed", "completed")
        assert row["video_url"] == DONE.video_url
        assert (row["finished_at"], row["upstream_finished_at"]) == (after(5), ENDED)
        assert (row["next_poll_at"], row["error_code"]) == (None, None)

    def test_a_failed_job_keeps_its_reason(self, url: str) -> None:
        add_job(url)
        poll(url, FAILED)
        row = job(url)
        assert (row["state"], row["error_code"]) == ("failed", "content_policy")
        assert (row["error_message"], row["error_request_id"]) == ("unsafe prompt", "20260206")

    def test_the_end_is_upstreams_last_status_where_it_gives_no_time_of_completion(
        self, url: str
    ) -> None:
        add_job(url)
        poll(url, replace(DONE, completed_at=None))
        assert job(url)["upstream_finished_at"] == DONE.updated_at

    def test_model_and_creation_are_learned_from_the_answer(self, url: str) -> None:
        add_job(url)
        poll(url, replace(RUNNING, model="sora-2", created_at=CREATED))
        assert (job(url)["model"], job(url)["upstream_created_at"]) == ("sora-2", CREATED)
        poll(url, RUNNING, start=1)  # the next one may say neither
        assert (job(url)["model"], job(url)["upstream_created_at"]) == ("sora-2", CREATED)

    def test_a_model_that_is_known_stays(self, url: str) -> None:
        add_job(url, model="veo3.1-fast")
        poll(url, replace(RUNNING, model="veo3.1-fast-internal-7"))
        assert job(url)["model"] == "veo3.1-fast"

    def test_a_video_url_that_came_early_stays(self, url: str) -> None:
        add_job(url, state="running", video_url="https://cdn.example.com/early.mp4")
        poll(url, replace(RUNNING, status="video_upsampling"))
        assert job(url)["video_url"] == "https://cdn.example.com/early.mp4"

    def test_counters_of_polls_in_a_row_are_kept_and_reset(self, url: str) -> None:
        add_job(url, state="running", upstream_status="processing")
        poll(url, NOT_FOUND, NOT_FOUND)
        row = job(url)
        assert (row["errors_in_row"], row["last_error"]) == (2, "not_found")
        assert (row["not_found_count"], row["not_found_since"]) == (2, NOW)
        poll(url, RUNNING)
        row = job(url)
        assert (row["errors_in_row"], row["last_error"], row["last_error_id"]) == (0, None, None)
        assert (row["not_found_count"], row["not_found_since"]) == (0, None)

    def test_a_success_without_url_is_remembered(self, url: str) -> None:
        add_job(url)
        poll(url, replace(DONE, video_url=None))
        assert (job(url)["state"], job(url)["resultless_since"]) == ("running", NOW)

    def test_a_passed_deadline_expires_and_a_late_verdict_still_counts(self, url: str) -> None:
        add_job(url, deadline_at=NOW)
        assert poll(url, BROKEN) == 1
        row = job(url)
        assert (row["state"], row["error_code"], row["expired_at"]) == ("expired", "deadline", NOW)
        assert (row["finished_at"], row["abandoned_at"]) == (None, None)
        assert poll(url, DONE, start=9) == 1
        row = job(url)
        assert (row["state"], row["error_code"], row["expired_at"]) == ("completed", None, NOW)
        expired, late = (body(row)["data"] for row in rows(url, Delivery))
        assert (expired["late"], late["late"]) == (False, True)
        assert expired["error"]["code"] == "deadline"

    def test_an_abandoned_job_is_polled_no_more(self, url: str) -> None:
        expired: Values = {"state": "expired", "error_code": "deadline", "expired_at": NOW}
        watched: Values = {"last_polled_at": after(RULES.abandon_after - 60)}
        add_job(url, deadline_at=NOW, upstream_status="processing", **expired, **watched)
        assert poll(url, RUNNING, start=RULES.abandon_after) == 0
        row = job(url)
        assert (row["state"], row["next_poll_at"], row["sequence"]) == ("expired", None, 0)
        assert row["abandoned_at"] == after(RULES.abandon_after)
        assert rows(url, Transition) == []

    def test_a_success_without_a_url_is_completed(self, url: str) -> None:
        """What an earlier stage had is not told as the result."""
        add_job(url, video_url="https://cdn.example.com/stage.mp4", state="running")
        patient: Values = {"resultless_count": 4, "resultless_since": after(-300)}
        with db.transaction(url) as session:
            session.execute(update(Job).values(**patient))
        assert poll(url, replace(DONE, video_url=None, video_urls={})) == 1
        row = job(url)
        assert (row["state"], row["video_url"], row["error_code"]) == (
            "completed",
            None,
            "no_result",
        )
        (event,) = rows(url, Delivery)
        told = body(event)
        assert (told["type"], told["data"]["video_url"]) == ("video.completed", None)
        assert told["data"]["error"] == {
            "code": "no_result",
            "message": states.NO_RESULT.message,
            "retryable": False,
            "request_id": None,
        }

    def test_a_url_that_is_found_later_updates_it_and_moves_no_end(self, url: str) -> None:
        ended: Values = {
            "finished_at": NOW,
            "upstream_finished_at": ENDED,
            "error_code": "no_result",
        }
        add_job(url, state="completed", upstream_status="completed", sequence=4, **ended)
        later = replace(DONE, completed_at=ENDED + timedelta(hours=9))
        assert poll(url, later, start=900) == 1
        row = job(url)
        assert (row["state"], row["video_url"], row["error_code"]) == (
            "completed",
            DONE.video_url,
            None,
        )
        assert (row["finished_at"], row["upstream_finished_at"]) == (NOW, ENDED)
        assert (row["sequence"], row["next_poll_at"]) == (5, None)
        (event,) = rows(url, Delivery)
        told = body(event)
        assert told["type"] == "video.updated"
        assert (told["data"]["video_url"], told["data"]["error"]) == (DONE.video_url, None)
        assert told["data"]["finished_at"] == events.timestamp(NOW)
        (step,) = rows(url, Transition)
        assert (step["from_state"], step["to_state"]) == ("completed", "completed")

    def test_a_second_poll_in_vain_changes_no_end(self, url: str) -> None:
        ended: Values = {"finished_at": NOW, "error_code": "no_result"}
        add_job(url, state="completed", upstream_status="completed", **ended)
        assert poll(url, replace(DONE, video_url=None)) == 0
        row = job(url)
        assert (row["state"], row["error_code"], row["next_poll_at"]) == (
            "completed",
            "no_result",
            None,
        )
        assert (row["finished_at"], row["polls"]) == (NOW, 1)

    def test_upstreams_own_name_is_kept(self, url: str) -> None:
        add_job(url)
        poll(url, replace(RUNNING, foreign_id="internal_7f3a"), RUNNING)
        assert job(url)["upstream_id"] == "internal_7f3a"
        poll(url, replace(RUNNING, foreign_id="x" * 900))
        assert job(url)["upstream_id"] == "x" * 255

    def test_an_operators_act_is_no_poll(self, url: str) -> None:
        add_job(url, polls=3, last_polled_at=after(-9))
        decision = states.cancelled(job_columns.job_of(job(url)))
        assert decision is not None
        assert write(url, [Change(job(url), decision)], after(2)) == 0
        row = job(url)
        assert (row["state"], row["finished_at"]) == ("cancelled", after(2))
        assert (row["polls"], row["last_polled_at"]) == (3, after(-9))
        (step,) = rows(url, Transition)
        assert (step["to_state"], step["answer"]) == ("cancelled", None)

    def test_a_reopened_job_gets_a_new_deadline(self, url: str) -> None:
        expired: Values = {"state": "expired", "error_code": "deadline", "expired_at": NOW}
        add_job(url, events=["status_changed"], **expired)
        decision = states.reopened(job_columns.job_of(job(url)), after(5))
        assert decision is not None
        assert write(url, [Change(job(url), decision, deadline_at=after(99))], after(5)) == 1
        row = job(url)
        assert (row["state"], row["deadline_at"], row["error_code"]) == ("pending", after(99), None)
        (event,) = rows(url, Delivery)
        assert (body(event)["type"], body(event)["data"]["error"]) == ("video.status_changed", None)

    def test_calm_and_moved_jobs_in_one_group(self, url: str) -> None:
        names = ("calm", "done", "lost", "failed", "calm too")
        for name in names:
            add_job(url, name, state="running", upstream_status="processing")
        answers: Iterable[Answer] = (RUNNING, DONE, BROKEN, FAILED, RUNNING)
        pairs = zip(names, answers, strict=True)
        assert write(url, [change(job(url, name), found, NOW) for name, found in pairs]) == 2
        assert [job(url, name)["state"] for name in names] == [
            "running", "completed", "running", "failed", "running",
        ]  # fmt: skip
        assert {job(url, name)["polls"] for name in names} == {1}
        assert job(url, "calm")["last_error_id"] is None
        (error,) = rows(url, PollError)
        assert error["job_id"] == job(url, "lost")["id"]
        assert error["id"] == job(url, "lost")["last_error_id"]

    def progress(self, url: str) -> tuple[float | None, datetime | None]:
        row = job(url)
        return row["progress"], row["progress_at"]

    def test_the_last_progress_is_kept_with_its_time(self, url: str) -> None:
        add_job(url)
        poll(url, RUNNING)
        assert self.progress(url) == (None, None)
        poll(url, replace(RUNNING, progress=0.25), replace(RUNNING, progress=0.5), start=1)
        assert self.progress(url) == (0.5, after(2))

    @pytest.mark.parametrize("answer", [RUNNING, BROKEN, NOT_FOUND], ids=["silent", "500", "404"])
    def test_a_poll_that_tells_none_leaves_it(self, url: str, answer: Answer) -> None:
        add_job(url, progress=0.5, progress_at=after(-10))
        poll(url, answer)
        assert self.progress(url) == (0.5, after(-10))

    @pytest.mark.parametrize("end", [DONE, FAILED], ids=["completed", "failed"])
    def test_an_end_leaves_the_last_one_before_it(self, url: str, end: Report) -> None:
        """At the end it says no more than that: what a job was at on its way is learned from."""
        add_job(url, progress=0.5, progress_at=after(-10))
        poll(url, replace(end, progress=1.0))
        assert self.progress(url) == (0.5, after(-10))

    def test_a_success_without_url_is_no_end(self, url: str) -> None:
        add_job(url, progress=0.5, progress_at=after(-10))
        poll(url, replace(DONE, video_url=None, progress=0.99))
        assert self.progress(url) == (0.99, NOW)

    def test_a_deadline_is_no_end_either(self, url: str) -> None:
        add_job(url, deadline_at=NOW)
        poll(url, replace(RUNNING, progress=0.5))
        assert (job(url)["state"], *self.progress(url)) == ("expired", 0.5, NOW)

    def test_an_operators_act_leaves_it(self, url: str) -> None:
        add_job(url, progress=0.5, progress_at=after(-10))
        decision = states.cancelled(job_columns.job_of(job(url)))
        assert decision is not None
        write(url, [Change(job(url), decision)])
        assert self.progress(url) == (0.5, after(-10))

    def test_a_group_of_none_writes_nothing(self, url: str) -> None:
        assert write(url, []) == 0


class TestTransitions:
    def test_each_change_of_state_or_status_is_one(self, url: str) -> None:
        add_job(url)
        stage = replace(RUNNING, status="video_upsampling", body={"status": "video_upsampling"})
        poll(url, RUNNING, RUNNING, stage, BROKEN, DONE)
        told = ("sequence", "from_state", "to_state", "from_status", "to_status", "at")
        assert [tuple(step[key] for key in told) for step in rows(url, Transition)] == [
            (1, "pending", "running", None, "processing", after(0)),
            (2, "running", "running", "processing", "video_upsampling", after(2)),
            (3, "running", "completed", "video_upsampling", "completed", after(4)),
        ]
        assert (job(url)["sequence"], job(url)["polls"]) == (3, 5)

    def test_the_answer_behind_it_is_kept(self, url: str) -> None:
        add_job(url)
        poll(url, DONE)
        (step,) = rows(url, Transition)
        assert step["answer"] == DONE.body
        assert step["upstream_at"] == DONE.updated_at

    def test_a_foreign_answer_is_cleaned_and_bounded(self, url: str) -> None:
        for name, found in (("nul", {"x": "a\x00b\udce4"}), ("huge", {"x": "x" * 200_000})):
            add_job(url, name)
            poll(url, replace(RUNNING, body=found), video_id=name)
        nul, huge = (step["answer"] for step in rows(url, Transition))
        assert nul == {"x": "ab?"}
        assert (huge["truncated"], len(huge["excerpt"])) == (True, 4_000)

    def test_a_group_gets_each_its_own(self, url: str) -> None:
        for number in range(12):
            add_job(url, f"job {number}")
        changes = [change(job(url, f"job {n}"), DONE if n % 2 else FAILED, NOW) for n in range(12)]
        assert write(url, changes) == 12
        for number in range(12):
            row = job(url, f"job {number}")
            (step,) = rows(url, Transition, job_id=row["id"])
            (event,) = rows(url, Delivery, job_id=row["id"])
            assert step["to_state"] == row["state"] == body(event)["data"]["state"]
            assert event["transition_id"] == step["id"]
            assert body(event)["data"]["video_id"] == f"job {number}"


class TestErrors:
    def errors(self, url: str) -> list[tuple[Any, ...]]:
        told = ("kind", "http_status", "message", "request_id", "count")
        return [tuple(row[key] for key in told) for row in rows(url, PollError)]

    def test_equal_ones_in_a_row_fold(self, url: str) -> None:
        add_job(url)
        poll(url, BROKEN, BROKEN, BROKEN)
        assert self.errors(url) == [("server_error", 500, "internal error", "id-1", 3)]
        (row,) = rows(url, PollError)
        assert (row["first_at"], row["last_at"]) == (after(0), after(2))

    @pytest.mark.parametrize(
        "other",
        [
            replace(BROKEN, message="another"),
            replace(BROKEN, http_status=502),
            AnswerError(ErrorKind.TIMEOUT, "internal error", 500),
        ],
        ids=["message", "status", "kind"],
    )
    def test_another_one_in_between_starts_a_new_row(self, url: str, other: AnswerError) -> None:
        add_job(url)
        poll(url, BROKEN, BROKEN, other, BROKEN)
        assert [row["count"] for row in rows(url, PollError)] == [2, 1, 1]

    def test_a_clean_poll_in_between_starts_a_new_row(self, url: str) -> None:
        add_job(url)
        poll(url, BROKEN, RUNNING, BROKEN, BROKEN)
        assert [row["count"] for row in rows(url, PollError)] == [1, 2]

    def test_the_newest_request_id_is_kept(self, url: str) -> None:
        """Support asks for it: one that is known is not lost to an answer without."""
        add_job(url)
        poll(url, BROKEN, replace(BROKEN, request_id="id-2"), replace(BROKEN, request_id=None))
        assert self.errors(url) == [("server_error", 500, "internal error", "id-2", 3)]

    def test_errors_without_a_status_fold_too(self, url: str) -> None:
        add_job(url)
        timeout = AnswerError(ErrorKind.TIMEOUT, "no complete answer within 15 s")
        poll(url, timeout, timeout)
        assert [row["count"] for row in rows(url, PollError)] == [2]

    def test_jobs_do_not_share_rows(self, url: str) -> None:
        for name in ("a", "b", "c"):
            add_job(url, name)
        other = replace(BROKEN, message="another")
        for found in (BROKEN, other, other):
            errors = {"a": BROKEN, "b": BROKEN, "c": found}
            write(url, [change(job(url, name), each, NOW) for name, each in errors.items()])
        counts = {name: rows(url, PollError, job_id=job(url, name)["id"]) for name in "abc"}
        assert {name: [row["count"] for row in found] for name, found in counts.items()} == {
            "a": [3], "b": [3], "c": [1, 2],
        }  # fmt: skip

    def test_what_is_odd_in_a_good_answer_is_counted(self, url: str) -> None:
        add_job(url)
        odd = replace(RUNNING, status="daydreaming", meaning=Meaning.UNKNOWN, remarks=("unknown",))
        poll(url, odd, odd)
        assert self.errors(url) == [("bad_shape", 200, "unknown", None, 2)]
        assert job(url)["state"] == "running"

    def test_a_row_that_was_pruned_is_not_missed(self, url: str) -> None:
        add_job(url)
        poll(url, BROKEN)
        with db.transaction(url) as session:
            session.execute(delete(PollError))
        poll(url, BROKEN)
        assert [row["count"] for row in rows(url, PollError)] == [1]

    def test_the_error_that_ends_a_job_is_recorded_with_its_end(self, url: str) -> None:
        add_job(url, not_found_count=9, not_found_since=after(-3_600))
        assert poll(url, NOT_FOUND) == 1
        assert (job(url)["state"], job(url)["error_code"]) == ("failed", "not_found")
        assert [row["kind"] for row in rows(url, PollError)] == ["not_found"]


class TestEvents:
    def test_there_is_one_for_each_channel(self, url: str) -> None:
        add_job(url, callback_task="shop.video_done", callback_queue="shop")
        assert poll(url, DONE) == 2
        celery, webhook = sorted(rows(url, Delivery), key=lambda row: str(row["channel"]))
        assert (webhook["target"], webhook["destination"]) == (HOOK, "hooks.example.com:8443")
        assert (celery["target"], celery["destination"]) == ("shop.video_done@shop", "celery")
        assert celery["body"] == webhook["body"]
        assert celery["id"] != webhook["id"]
        for row in (celery, webhook):
            assert row["id"].startswith("evt_")
            assert (row["event_type"], row["state"]) == ("video.completed", "pending")
            assert (row["next_attempt_at"], row["created_at"], row["sequence"]) == (NOW, NOW, 1)

    def test_a_callback_without_a_queue_goes_where_celery_sends_it(self, url: str) -> None:
        add_job(url, webhook_url=None, callback_task="shop.video_done")
        poll(url, DONE)
        assert [row["target"] for row in rows(url, Delivery)] == ["shop.video_done@celery"]

    def test_there_is_none_where_nobody_is_to_be_told(self, url: str) -> None:
        add_job(url, webhook_url=None)
        assert poll(url, DONE) == 0
        assert len(rows(url, Transition)) == 1

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            (["completed", "failed", "expired"], ["video.completed"]),
            (["failed"], []),
            (["status_changed"], ["video.status_changed"]),
            (["status_changed", "completed"], ["video.status_changed", "video.completed"]),
            ([], []),
        ],
    )
    def test_only_what_the_producer_asked_for(
        self, url: str, wanted: list[str], told: list[str]
    ) -> None:
        add_job(url, events=wanted)
        assert poll(url, RUNNING, DONE) == len(told)
        found = sorted(rows(url, Delivery), key=lambda row: int(row["sequence"]))
        assert [row["event_type"] for row in found] == told

    def test_what_a_completed_event_says(self, url: str) -> None:
        add_job(url, polls=16)
        poll(url, DONE)
        (event,) = rows(url, Delivery)
        assert body(event) == {
            "type": "video.completed",
            "timestamp": "2026-02-06T03:58:49.202000Z",
            "data": {
                "video_id": "a",
                "account": "default",
                "model": "veo3.1-fast",
                "state": "completed",
                "upstream_status": "completed",
                "sequence": 1,
                "video_url": "https://cdn.example.com/a.mp4",
                "video_urls": {"original": "https://cdn.example.com/b.mp4"},
                "enhanced_prompt": "A calm sea",
                "error": None,
                "upstream_errors": ["[403] Request failed"],
                "answer": DONE.body,
                "late": False,
                "metadata": {"order": 7},
                "tracked_at": "2026-02-06T04:00:00.000000Z",
                "upstream_created_at": "2026-02-06T03:54:42.203000Z",
                "finished_at": "2026-02-06T04:00:00.000000Z",
                "duration_seconds": 246.895,
                "eta": None,
                "polls": 17,
            },
        }

    def test_what_a_failed_event_says(self, url: str) -> None:
        add_job(url, model="veo3")
        poll(url, FAILED)
        (event,) = rows(url, Delivery)
        found = body(event)
        assert found["type"] == "video.failed"
        assert found["timestamp"] == "2026-02-06T04:00:00.000000Z"
        assert (found["data"]["state"], found["data"]["model"]) == ("failed", "veo3")
        assert found["data"]["error"] == {
            "code": "content_policy",
            "message": "unsafe prompt",
            "retryable": False,
            "request_id": "20260206",
        }

    def test_an_expiry_is_told_by_our_clock(self, url: str) -> None:
        add_job(url, deadline_at=NOW)
        poll(url, replace(RUNNING, updated_at=ENDED))
        (event,) = rows(url, Delivery)
        assert body(event)["type"] == "video.expired"
        assert body(event)["timestamp"] == "2026-02-06T04:00:00.000000Z"

    def test_an_event_foretells_the_end_by_the_job_as_this_poll_leaves_it(self, url: str) -> None:
        """By the model, the beginning and the word that the poll brought."""
        add_job(url, events=["status_changed"], errors_in_row=3, last_error="timeout")
        told = replace(RUNNING, model="sora-2", created_at=after(-60), progress=0.5)
        kinds = {"sora-2": steady(40.0), "veo3": steady(90.0)}
        made = change(job(url), told, after(9))
        with db.transaction(url) as session:
            assert ledger.write(session, [made], after(9), kinds) == 1
        (event,) = rows(url, Delivery)
        assert body(event)["data"]["eta"] == foretold(40.0, 132.9)._asdict()
        assert remaining({**job(url)}, steady(40.0), after(9)) == foretold(40.0, 132.9)

    def test_an_event_foretells_nothing_by_a_guess(self, url: str) -> None:
        add_job(url, events=["status_changed"])
        assert poll(url, RUNNING) == 1
        (event,) = rows(url, Delivery)
        assert body(event)["data"]["eta"] is None

    @pytest.mark.parametrize("answer", [DONE, FAILED, RUNNING], ids=["done", "failed", "expired"])
    def test_an_event_of_an_end_foretells_nothing(self, url: str, answer: Answer) -> None:
        add_job(url, deadline_at=NOW)
        made = change(job(url), answer, after(1))
        with db.transaction(url) as session:
            assert ledger.write(session, [made], after(1), {"veo3": steady(40.0)}) == 1
        (event,) = rows(url, Delivery)
        assert body(event)["data"]["eta"] is None

    def test_the_body_is_frozen(self, url: str) -> None:
        add_job(url)
        poll(url, DONE)
        (before,) = rows(url, Delivery)
        with db.transaction(url) as session:
            session.execute(update(Job).values(metadata_={}, polls=99))
        assert rows(url, Delivery) == [before]

    def test_event_ids_rise_with_time(self, url: str) -> None:
        add_job(url, events=["status_changed", "completed"])
        poll(url, RUNNING, DONE)
        first, second = sorted(rows(url, Delivery), key=lambda row: int(row["sequence"]))
        assert first["id"] < second["id"]


class TestAllOrNothing:
    @pytest.mark.parametrize("table", ["poll_errors", "transitions", "deliveries", "jobs"])
    def test_if_one_of_them_is_refused_nothing_is_left(self, url: str, table: str) -> None:
        add_job(url, "lost", lease_token="t")
        add_job(url, "done")
        refuse(url, table)
        tables = (Job, Transition, PollError, Delivery)
        before = [rows(url, each) for each in tables]
        changes = [change(job(url, "lost"), BROKEN, NOW), change(job(url, "done"), DONE, NOW)]
        with pytest.raises(DatabaseError):
            write(url, changes)
        assert [rows(url, each) for each in tables] == before

    def test_a_commit_that_fails_leaves_nothing(self, url: str) -> None:
        add_job(url)
        before = job(url)
        with pytest.raises(ConnectionError):
            write_but_lose_the_database(url, change(before, DONE, NOW))
        assert job(url) == before
        assert rows(url, Transition) == rows(url, Delivery) == []


def write_but_lose_the_database(url: str, made: Change) -> None:
    with db.transaction(url) as session:
        assert ledger.write(session, [made], NOW) == 1
        raise ConnectionError("the database has gone")


def refuse(url: str, table: str) -> None:
    """Have the database refuse what a poll writes to that table."""
    act = "UPDATE" if table == "jobs" else "INSERT"
    with db.transaction(url) as session:
        if url.startswith("sqlite"):
            body = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            session.execute(text(f"CREATE TRIGGER refused BEFORE {act} ON {table} {body}"))
            return
        session.execute(
            text(
                "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused'; END $$"
            )
        )
        session.execute(
            text(
                f"CREATE TRIGGER refused BEFORE {act} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refused()"
            )
        )


def test_what_a_decision_needs_is_read_from_the_row(url: str) -> None:
    values: Values = {
        "state": "expired",
        "upstream_status": "processing",
        "model": "veo3",
        "error_code": "deadline",
        "upstream_created_at": CREATED,
        "expired_at": after(1),
        "last_polled_at": after(4),
        "watched_since": after(5),
        "upstream_id": "internal",
        "errors_in_row": 2,
        "errors_since": after(6),
        "last_error": "quota",
        "not_found_count": 3,
        "not_found_since": after(2),
        "resultless_since": after(3),
    }
    add_job(url, **values)
    assert job_columns.job_of(job(url)) == states.Job(
        state=states.State.EXPIRED,
        status="processing",
        tracked_at=NOW,
        deadline_at=after(3_600),
        model="veo3",
        created_at=CREATED,
        expired_at=after(1),
        error_code="deadline",
        last_polled_at=after(4),
        watched_since=after(5),
        foreign_id="internal",
        errors_in_row=2,
        errors_since=after(6),
        last_error=ErrorKind.QUOTA,
        not_found_count=3,
        not_found_since=after(2),
        resultless_since=after(3),
    )
