"""The story in words: whole, in time order, understood by somebody who has not read the code."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reelwatch.rules.answer_errors import MEANINGS
from reelwatch.rules.answers import ErrorKind
from reelwatch.rules.narrative import tell
from reelwatch.rules.wording import clock, destinations

START = datetime(2026, 2, 6, 10, 0, 0, tzinfo=UTC)
HOOK = "https://hooks.example.com/video"


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def job(**columns: Any) -> dict[str, Any]:
    return {
        "video_id": "grok:a", "account": "default", "state": "running", "sequence": 1,
        "tracked_at": START, "deadline_at": after(2_700), "abandoned_at": None,
        "webhook_url": None, "callback_task": None, "callback_queue": None, "channels": None,
        "finished_at": None, "upstream_created_at": None, "upstream_finished_at": None,
        "video_url": None, "error_code": None, "error_message": None, "error_request_id": None,
    } | columns  # fmt: skip


def change(at: float = 10, **columns: Any) -> dict[str, Any]:
    return {
        "sequence": 1, "from_state": "running", "to_state": "running", "from_status": None,
        "to_status": None, "at": after(at), "answer": None,
    } | columns  # fmt: skip


def error(at: float = 10, **columns: Any) -> dict[str, Any]:
    return {
        "kind": "server_error", "http_status": 500, "message": "oops", "request_id": None,
        "first_at": after(at), "last_at": after(at), "count": 1,
    } | columns  # fmt: skip


def delivery(at: float = 10, *attempts: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {
        "id": "evt_1", "event_type": "video.completed", "channel": "webhook", "target": HOOK,
        "state": "delivered", "created_at": after(at), "next_attempt_at": None,
        "attempts_log": list(attempts),
    } | columns  # fmt: skip


def attempt(at: float = 11, **columns: Any) -> dict[str, Any]:
    return {"at": after(at), "http_status": 200, "error": None, "duration_ms": 12} | columns


def sentences(
    about: dict[str, Any] | None = None,
    transitions: list[dict[str, Any]] | None = None,
    errors: list[dict[str, Any]] | None = None,
    deliveries: list[dict[str, Any]] | None = None,
) -> list[str]:
    """The sentences after the first, which says that the job is tracked."""
    story = {
        "job": about or job(),
        "transitions": transitions or [],
        "poll_errors": errors or [],
        "deliveries": deliveries or [],
        "actions": [],
    }
    return [text for _, text in tell(story)][1:]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "nobody: it has no webhook and no callback"),
        ({"webhook_url": HOOK}, f"by webhook at {HOOK}"),
        ({"callback_task": "app.done"}, "by Celery task app.done"),
        (
            {"webhook_url": HOOK, "callback_task": "app.done", "callback_queue": "q"},
            f"by webhook at {HOOK} and by Celery task app.done in queue q",
        ),
    ],
)
def test_who_is_told_stands_apart_from_the_story(columns: dict[str, Any], said: str) -> None:
    """It is what holds now; the story's beginning claims nothing that came later."""
    empty: dict[str, Any] = {"transitions": [], "poll_errors": [], "deliveries": [], "actions": []}
    story = {"job": job(**columns), **empty}
    assert tell(story) == [(START, "tracked")]
    assert destinations(job(**columns)) == said


def test_a_time_on_another_day_is_told_with_its_day() -> None:
    assert clock(after(60), START) == "10:01:00"
    assert clock(after(86_400), START) == "2026-02-07 10:00:00"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"from_state": "pending", "from_status": "pending", "to_status": "processing"},
            ["upstream: pending → processing; running"],
        ),
        ({"from_state": "pending"}, ["became running"]),
        (
            {"from_status": "processing", "to_status": "video_upsampling"},
            ["upstream: processing → video_upsampling"],
        ),
        (
            {"from_state": "pending", "to_state": "pending", "to_status": "queued"},
            ["upstream: no status yet → queued"],
        ),
        ({"from_state": "expired"}, ["taken up again: running"]),
        ({"from_state": "failed", "to_state": "pending"}, ["taken up again: pending"]),
        ({"to_state": "cancelled"}, ["cancelled: not tracked any more"]),
        (
            {"to_state": "expired"},
            ["deadline passed: expired, fate unknown; still polled, slowly"],
        ),
    ],
)
def test_a_change_is_told_with_upstreams_status_and_our_state(
    columns: dict[str, Any], expected: list[str]
) -> None:
    assert sentences(transitions=[change(**columns)]) == expected


def completed(**columns: Any) -> dict[str, Any]:
    done = {"from_status": "processing", "to_status": "completed", "to_state": "completed"}
    return change(**(done | columns))


def test_a_success_names_its_url() -> None:
    about = job(state="completed", video_url="https://cdn.example.com/v.mp4")
    assert sentences(about, [completed()]) == [
        "upstream: processing → completed",
        "became completed: https://cdn.example.com/v.mp4",
    ]


def test_a_late_success_is_told_as_one() -> None:
    about = job(state="completed", video_url="https://cdn.example.com/v.mp4")
    told = sentences(about, [completed(from_state="expired")])
    assert told[-1] == "became completed after the deadline: https://cdn.example.com/v.mp4"


def test_errors_that_a_success_left_behind_are_told_as_such() -> None:
    left = {"error_message": "[403] once", "video_generation_error": "unsafe"}
    answer = {"status": "completed", "video_url": "https://cdn.example.com/v.mp4", "detail": left}
    about = job(state="completed", video_url="https://cdn.example.com/v.mp4")
    told = sentences(about, [completed(answer=answer)])
    assert told[-1] == "upstream's record keeps errors of tries before: [403] once; unsafe"


def test_a_failure_names_its_reason_and_the_request_id() -> None:
    about = job(state="failed", error_code="content_policy", error_message="unsafe prompt",
                error_request_id="r-1")  # fmt: skip
    told = sentences(about, [change(to_state="failed", from_status="x", to_status="failed")])
    assert told == [
        "upstream: x → failed",
        "became failed: content_policy: unsafe prompt (request id r-1)",
    ]


def test_a_failure_without_a_request_id_names_none() -> None:
    about = job(state="failed", error_code="upstream_failed", error_message="no GPU")
    assert sentences(about, [change(to_state="failed")]) == [
        "became failed: upstream_failed: no GPU"
    ]


def test_a_success_without_a_url_and_one_that_was_found_later() -> None:
    without = job(state="completed", error_code="no_result", error_message="no URL")
    assert sentences(without, [change(to_state="completed")]) == [
        "became completed: upstream says so and gave no video URL"
    ]
    given = {"status": "completed", "video_url": "gs://b/v.mp4"}
    assert sentences(without, [completed(answer=given)])[-1] == (
        "became completed: upstream says so and gave a video URL that can't be used: "
        "gs://b/v.mp4 (no http(s) URL)"
    )
    found = job(state="completed", video_url="https://v")
    later = change(20, from_state="completed", to_state="completed", from_status="x", to_status="x")
    assert sentences(found, [later]) == ["its video URL was found: https://v"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"id": "a", "status": "failed", "error": "no luck"}, "upstream_failed: no luck"),
        ({"error": {"code": "task_not_exist"}}, "upstream did not know the id any more"),
        (None, "upstream did not know the id any more"),
    ],
)
def test_a_failure_before_the_last_is_told_by_its_answer(answer: Any, reason: str) -> None:
    """The job's row holds only the reason of its latest failure."""
    about = job(state="failed", sequence=9, error_code="x", error_message="of the last failure")
    told = sentences(about, [change(to_state="failed", answer=answer)])
    assert told == [f"became failed: {reason}"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "500 server_error: upstream had an error of its own: oops"),
        (
            {
                "kind": "rate_limited",
                "http_status": 429,
                "count": 3,
                "last_at": after(131),
                "request_id": "r",
            },
            "429 rate_limited ×3 until 10:02:11: upstream asked to slow down: oops (request id r)",  # noqa: RUF001
        ),
        (
            {"kind": "timeout", "http_status": None},
            "timeout: no answer in time: oops",
        ),
        ({"kind": "novel"}, "500 novel: the poll failed: oops"),
    ],
)
def test_an_error_is_told_once_with_its_count(columns: dict[str, Any], expected: str) -> None:
    assert sentences(errors=[error(**columns)]) == [expected]


def test_every_kind_of_error_has_words() -> None:
    assert set(MEANINGS) == {kind.value for kind in ErrorKind}


def test_an_event_is_told_from_owed_to_delivered() -> None:
    told = delivery(
        10,
        attempt(11, http_status=500, error="the receiver answered 500"),
        attempt(16, duration_ms=7),
    )
    assert sentences(deliveries=[told]) == [
        f"event video.completed (evt_1) owed to {HOOK}",
        "video.completed, attempt 1: the receiver answered 500, after 12 ms",
        "video.completed, attempt 2: delivered (200) in 7 ms",
    ]


@pytest.mark.parametrize(
    ("columns", "late"),
    [
        ({}, [", 13m31s after its end", ""]),
        ({"event_type": "video.status_changed"}, ["", ""]),
        ({"created_at": after(5)}, ["", ""]),  # of an end before the last one
    ],
)
def test_an_event_of_the_end_says_how_late_it_was_told_first(
    columns: dict[str, Any], late: list[str]
) -> None:
    about = job(state="completed", finished_at=after(10), upstream_finished_at=after(5))
    tried = [attempt(816), attempt(5_000)]  # sent again: that is not when it was told
    told = sentences(about, deliveries=[delivery(10, *tried, **columns)])
    assert [text.partition(" in 12 ms")[2] for text in told[1:]] == late


def test_a_callback_is_told_as_a_task() -> None:
    told = delivery(10, attempt(http_status=None), channel="celery", target="app.done@celery")
    assert sentences(deliveries=[told]) == [
        "event video.completed (evt_1) owed to Celery task app.done in queue celery",
        "video.completed, attempt 1: delivered in 12 ms",
    ]


def test_a_queues_name_may_hold_an_at_sign() -> None:
    told = delivery(10, channel="celery", target="app.done@videos@eu")
    assert sentences(deliveries=[told]) == [
        "event video.completed (evt_1) owed to Celery task app.done in queue videos@eu",
    ]


def test_an_event_still_owed_says_when_it_is_tried_again() -> None:
    failed = attempt(error="no connection", http_status=None)
    due = {"next_attempt_at": after(75), "next_attempt_expected_at": after(75)}
    told = delivery(10, failed, state="pending", **due, next_attempt_reason=None)
    assert sentences(deliveries=[told])[-1] == (
        "video.completed, attempt 1: no connection, after 12 ms; next attempt at 10:01:15"
    )


def test_an_event_that_is_held_up_says_until_when_and_why() -> None:
    failed = attempt(error="no connection", http_status=None)
    held = {
        "next_attempt_at": after(75),
        "next_attempt_expected_at": after(600),
        "next_attempt_reason": "https://x rests until 10:10:00",
    }
    told = delivery(10, failed, state="pending", **held)
    assert sentences(deliveries=[told])[-1].endswith(
        "; next attempt at 10:10:00 (https://x rests until 10:10:00)"
    )
    unknown = delivery(10, failed, state="pending", **held | {"next_attempt_expected_at": None})
    assert "; the next attempt is not known (" in sentences(deliveries=[unknown])[-1]


def test_a_dead_event_says_how_to_send_it_again() -> None:
    told = delivery(10, attempt(error="no connection"), state="dead")
    assert sentences(deliveries=[told])[-1] == (
        "video.completed, attempt 1: no connection, after 12 ms; "
        "given up, dead: `reelwatch redeliver evt_1` tries again"
    )


def test_an_attempt_is_never_told_before_its_event() -> None:
    """A worker's clock may lag behind the database's."""
    told = sentences(deliveries=[delivery(10, attempt(8))])
    assert [text.split()[0] for text in told] == ["event", "video.completed,"]


def test_all_is_told_in_time_order() -> None:
    story = {
        "job": job(state="expired", abandoned_at=after(90_000)),
        "transitions": [
            change(20, to_status="processing"),
            change(2_700, to_state="expired"),
        ],
        "poll_errors": [error(30), error(15)],
        "deliveries": [delivery(2_700, attempt(2_701), event_type="video.expired")],
        "actions": [],
    }
    told = tell(story)
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    assert [text.split()[0].rstrip(",:") for _, text in told] == [
        "tracked", "500", "upstream", "500", "deadline", "event", "video.expired", "abandoned",
    ]  # fmt: skip
