"""What a producer is told: the exact bodies, and what holds for every one of them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.errors import Refused
from reelwatch.rules.answers import Failure, Meaning, Report, interpret
from reelwatch.rules.events import (
    DEFAULT_EVENTS,
    SHORT_NAMES,
    body,
    check_events,
    encode,
    subscribed,
    timestamp,
)
from reelwatch.rules.states import DEADLINE, NO_RESULT, EventType
from reelwatch.rules.timing.plan import Eta

Row = dict[str, Any]

SAMPLES = Path(__file__).parent / "data" / "upstream"
VEO = "veo3.1-fast:1770350082-trii1OXZc3"
TRACKED = datetime(2026, 2, 6, 3, 54, 43, tzinfo=UTC)
ROW: Row = {
    "video_id": VEO,
    "account": "default",
    "model": "veo3.1-fast",
    "state": "running",
    "upstream_status": "processing",
    "sequence": 2,
    "polls": 3,
    "tracked_at": TRACKED,
    "upstream_created_at": None,
    "upstream_finished_at": None,
    "finished_at": None,
    "expired_at": None,
    "metadata": {},
}
ENDED = dict(ROW, state="failed", finished_at=TRACKED + timedelta(seconds=90))


def sample(name: str, asked: str) -> Report:
    answer = interpret(asked, 200, {}, (SAMPLES / f"{name}.json").read_bytes(), TRACKED)
    assert isinstance(answer, Report)
    return answer


class TestBody:
    def test_of_the_published_success_is_the_documented_one(self) -> None:
        report = sample("veo-completed", VEO)
        assert report.updated_at is not None
        row = dict(
            ROW,
            state="completed",
            upstream_status=report.status,
            sequence=5,
            polls=17,
            upstream_created_at=report.created_at,
            upstream_finished_at=report.completed_at,
            finished_at=datetime(2026, 2, 6, 3, 58, 52, 120_000, UTC),
        )
        found = body(EventType.COMPLETED, report.updated_at, row, report, None)
        upsampled = "https://pro.filesystem.site/cdn/20260206/1b50395bad4c6c7bc22e6ada144951.mp4"
        assert found == {
            "type": "video.completed",
            "timestamp": "2026-02-06T03:58:49.098000Z",
            "data": {
                "video_id": "veo3.1-fast:1770350082-trii1OXZc3",
                "account": "default",
                "model": "veo3.1-fast",
                "state": "completed",
                "upstream_status": "completed",
                "sequence": 5,
                "video_url": upsampled,
                "video_urls": {
                    "upsampled": upsampled,
                    "original": (
                        "https://pro.filesystem.site/cdn/20260206/9ddbd3bdc67f75a02f766363ebf8eb.mp4"
                    ),
                },
                "enhanced_prompt": (
                    "Create a vibrant and whimsical animation that features a joyful scene of "
                    "colorful animals playing together in a sunny meadow, surrounded by blooming "
                    "flowers and butterflies fluttering by."
                ),
                "error": None,
                "upstream_errors": [
                    "[403] Request failed with status code 403 | Message: reCAPTCHA evaluation "
                    "failed | Code: 403 | Status: PERMISSION_DENIED | Reason: "
                    "PUBLIC_ERROR_SOMETHING_WENT_WRONG | Type: "
                    "type.googleapis.com/google.rpc.ErrorInfo | URL: "
                    "/v1/video:batchAsyncGenerateVideoStartImage",
                    "your request contains unsafe prompt or images, such as porn, violence, minors "
                    "etc., has been rejected by google, please change your prompt or images and "
                    "try again",
                ],
                "answer": report.body,
                "late": False,
                "metadata": {},
                "tracked_at": "2026-02-06T03:54:43.000000Z",
                "upstream_created_at": "2026-02-06T03:54:42.099000Z",
                "finished_at": "2026-02-06T03:58:52.120000Z",
                "duration_seconds": 246.895,
                "eta": None,
                "polls": 17,
            },
        }

    @pytest.mark.parametrize("event", list(EventType))
    def test_upstreams_own_answer_goes_with_an_end(self, event: EventType) -> None:
        report = sample("veo-completed", VEO)
        data = body(event, TRACKED, ENDED, report, None)["data"]
        told = event in (EventType.COMPLETED, EventType.FAILED, EventType.UPDATED)
        assert data["answer"] == (report.body if told else None)
        assert body(event, TRACKED, ENDED, None, None)["data"]["answer"] is None

    @pytest.mark.parametrize(("letter", "fits"), [("x", 16_000), ("忙", 5_300)])
    def test_an_answer_that_is_too_large_is_told_in_excerpts(self, letter: str, fits: int) -> None:
        for length, truncated in ((fits, False), (fits + 400, True), (3 * fits, True)):
            answer = {"id": VEO, "status": "completed", "note": letter * length}
            report = interpret(VEO, 200, {}, json.dumps(answer).encode(), TRACKED)
            assert isinstance(report, Report)
            told = body(EventType.COMPLETED, TRACKED, ENDED, report, None)["data"]["answer"]
            assert told.get("truncated", False) is truncated
            assert len(json.dumps(told, ensure_ascii=False).encode()) <= 16_384

    def test_of_a_failure_says_why(self) -> None:
        asked = "sora-2:6b3a5cab-441b-4a59-a6d9-d9c4699a9da2"
        report = sample("failed-error-string", asked)
        data = body(EventType.FAILED, TRACKED, ENDED, report, report.failure)["data"]
        assert data["error"] == {
            "code": "upstream_failed",
            "message": "Task failed",
            "retryable": True,
            "request_id": None,
        }
        assert data["upstream_errors"] == ["Task failed"]
        assert (data["video_url"], data["video_urls"]) == (None, {})

    @pytest.mark.parametrize(
        ("failure", "error"),
        [
            (
                Failure("content_policy", "unsafe", retryable=False, request_id="r1, r2"),
                ("content_policy", "unsafe", False, "r1, r2"),
            ),
            (DEADLINE, ("deadline", DEADLINE.message, False, None)),
            (NO_RESULT, ("no_result", NO_RESULT.message, False, None)),
        ],
        ids=["policy", "deadline", "no-result"],
    )
    def test_of_an_error_has_all_its_parts(
        self, failure: Failure, error: tuple[str, str, bool, str | None]
    ) -> None:
        found = body(EventType.FAILED, TRACKED, ENDED, None, failure)["data"]["error"]
        keys = ("code", "message", "retryable", "request_id")
        assert found == dict(zip(keys, error, strict=True))

    def test_of_an_expiry_without_an_answer_has_all_keys(self) -> None:
        expired = dict(ROW, state="expired")
        found = body(EventType.EXPIRED, TRACKED, expired, None, DEADLINE)
        assert (found["type"], found["data"]["state"]) == ("video.expired", "expired")
        assert found["data"]["error"]["code"] == "deadline"
        assert (found["data"]["video_url"], found["data"]["enhanced_prompt"]) == (None, None)
        assert (found["data"]["video_urls"], found["data"]["upstream_errors"]) == ({}, [])
        assert (found["data"]["finished_at"], found["data"]["duration_seconds"]) == (None, None)
        complete = body(EventType.COMPLETED, TRACKED, ENDED, sample("veo-completed", VEO), None)
        assert list(found["data"]) == list(complete["data"])

    def test_of_a_new_stage_has_no_error(self) -> None:
        report = Report("video_upsampling", Meaning.IN_PROGRESS)
        found = body(EventType.STATUS_CHANGED, TRACKED, ROW, report, None)
        assert found["type"] == "video.status_changed"
        assert found["data"]["error"] is None
        assert (found["data"]["sequence"], found["data"]["polls"]) == (2, 3)

    def test_of_a_new_stage_says_how_long_it_still_takes(self) -> None:
        eta = Eta(41.2, 95.0, slower_than_95_percent=True, measured=120, longest_seconds=310.4)
        found = body(EventType.STATUS_CHANGED, TRACKED, ROW, None, None, eta)
        assert found["data"]["eta"] == {
            "p50_seconds": 41.2,
            "p90_seconds": 95.0,
            "slower_than_95_percent": True,
            "measured": 120,
            "longest_seconds": 310.4,
        }
        assert json.loads(encode(found))["data"]["eta"] == found["data"]["eta"]

    @pytest.mark.parametrize("late", [True, False])
    def test_says_whether_it_comes_late(self, late: bool) -> None:
        row = ENDED | {"expired_at": TRACKED if late else None}
        assert body(EventType.FAILED, TRACKED, row, None, DEADLINE)["data"]["late"] is late

    def test_hands_back_the_producers_metadata(self) -> None:
        metadata = {"order": 7, "nested": {"é": [1, None]}}
        found = body(EventType.FAILED, TRACKED, dict(ENDED, metadata=metadata), None, DEADLINE)
        assert found["data"]["metadata"] == metadata
        assert found["data"]["metadata"] is not metadata

    def test_without_a_model_or_a_status_says_null(self) -> None:
        row = dict(ROW, model=None, upstream_status=None)
        data = body(EventType.EXPIRED, TRACKED, row, None, DEADLINE)["data"]
        assert (data["model"], data["upstream_status"]) == (None, None)


class TestEncode:
    def test_is_compact_readable_json(self) -> None:
        assert encode({"a": ["é忙", 1.5, None], "b": {}}) == '{"a":["é忙",1.5,null],"b":{}}'

    def test_keeps_the_order_of_the_documented_body(self) -> None:
        text = encode(body(EventType.FAILED, TRACKED, ENDED, None, DEADLINE))
        assert text.startswith('{"type":"video.failed","timestamp":"2026-02-06T03:54:43.000000Z",')
        assert list(json.loads(text)["data"])[:6] == [
            "video_id",
            "account",
            "model",
            "state",
            "upstream_status",
            "sequence",
        ]

    @given(
        st.dictionaries(
            st.text(),
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        ).filter(lambda found: all(abs(v) < 1e300 for v in found.values() if isinstance(v, float)))
    )
    def test_is_the_same_every_time_and_reads_back(self, metadata: dict[str, Any]) -> None:
        made = [
            encode(body(EventType.FAILED, TRACKED, dict(ENDED, metadata=metadata), None, DEADLINE))
            for _ in range(2)
        ]
        assert made[0] == made[1]
        assert encode(json.loads(made[0])) == made[0]
        assert json.loads(made[0])["data"]["metadata"] == metadata

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_refuses_what_is_no_json(self, number: float) -> None:
        with pytest.raises(ValueError, match="JSON"):
            encode({"a": number})

    @given(st.text(), st.text())
    def test_every_foreign_text_can_be_sent(self, error: str, prompt: str) -> None:
        answer = {"status": "failed", "error": f"\x00{error}", "enhanced_prompt": f"\ud800{prompt}"}
        report = interpret(VEO, 200, {}, json.dumps(answer).encode(), TRACKED)
        assert isinstance(report, Report)
        sent = encode(body(EventType.FAILED, TRACKED, ENDED, report, report.failure)).encode()
        told = json.loads(sent)["data"]
        assert told["upstream_errors"] == list(report.errors)
        assert not {"\x00", "\ud800"} & {
            *told["error"]["message"],
            *(told["enhanced_prompt"] or ""),
        }


class TestTimes:
    @pytest.mark.parametrize(
        ("at", "text"),
        [
            (datetime(2026, 2, 6, 3, 58, 49, 98_000, UTC), "2026-02-06T03:58:49.098000Z"),
            (datetime(2026, 2, 6, 3, 58, 49, 0, UTC), "2026-02-06T03:58:49.000000Z"),
            (datetime(2026, 2, 6, 3, 58, 49, 1, UTC), "2026-02-06T03:58:49.000001Z"),
            (
                datetime(2026, 2, 6, 1, 0, tzinfo=timezone(timedelta(hours=2))),
                "2026-02-05T23:00:00.000000Z",
            ),
            (None, None),
        ],
        ids=["millis", "whole", "micros", "other-zone", "none"],
    )
    def test_are_utc_with_microseconds(self, at: datetime | None, text: str | None) -> None:
        assert timestamp(at) == text

    @given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - a strategy's bounds have no zone
    def test_read_back_as_the_same_moment(self, at: datetime) -> None:
        text = timestamp(at)
        assert text is not None
        assert len(text) == 27
        assert datetime.fromisoformat(text) == at


class TestSubscriptions:
    def test_short_names_are_those_of_the_contract(self) -> None:
        assert {name: event.value for name, event in SHORT_NAMES.items()} == {
            "completed": "video.completed",
            "failed": "video.failed",
            "expired": "video.expired",
            "status_changed": "video.status_changed",
            "updated": "video.updated",
        }
        assert DEFAULT_EVENTS == ("completed", "failed", "expired")

    @pytest.mark.parametrize("event", list(EventType))
    def test_only_what_was_asked_for_is_told(self, event: EventType) -> None:
        name = event.value.removeprefix("video.")
        assert subscribed(event, [name])
        goes_with = {"completed"} if event is EventType.UPDATED else set()
        assert not subscribed(event, set(SHORT_NAMES) - {name} - goes_with)
        assert subscribed(event, DEFAULT_EVENTS) == (event is not EventType.STATUS_CHANGED)

    def test_a_url_that_is_found_later_is_told_to_all_who_were_told_of_the_completion(self) -> None:
        assert subscribed(EventType.UPDATED, ["completed"])
        assert not subscribed(EventType.UPDATED, ["failed", "expired", "status_changed"])

    def test_no_event_is_never_told(self) -> None:
        assert not subscribed(None, list(SHORT_NAMES))

    @pytest.mark.parametrize(
        ("names", "checked"),
        [
            ((), []),
            (["failed", "completed", "failed"], ["failed", "completed"]),
            (iter(["status_changed"]), ["status_changed"]),
            (DEFAULT_EVENTS, ["completed", "failed", "expired"]),
        ],
        ids=["none", "twice", "iterator", "default"],
    )
    def test_names_are_kept_once_and_in_order(self, names: Any, checked: list[str]) -> None:
        assert check_events(names) == checked

    @pytest.mark.parametrize(
        "name", ["video.completed", "Completed", "", "cancelled", 1, None, ["completed"], {}]
    )
    def test_a_name_that_does_not_exist_is_refused_with_those_that_do(self, name: Any) -> None:
        with pytest.raises(Refused) as refused:
            check_events(["failed", name])
        assert str(refused.value) == (
            f"events: {name!r} is not one of completed, failed, expired, status_changed, updated"
        )
