"""What upstream's answers mean: every word, shape, error and trap that is known of the relays."""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from reelwatch.rules.answers import (
    Answer,
    AnswerError,
    ErrorKind,
    Failure,
    Meaning,
    Report,
    bounded,
    clean_status,
    clean_text,
    interpret,
    meaning_of,
    moment,
    retry_after,
)

SAMPLES = Path(__file__).parent / "data" / "upstream"
NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
ASKED = "grok:18e59915-22b0-4c62-9024-b7e3a0a37821"
VEO = "veo3.1-fast:1770350082-trii1OXZc3"
RESULT = "https://cdn.example/result.mp4"
INPUT = "https://cdn.example/input.png"
SATURATED = "当前分组上游负载已饱和，请稍后再试"  # noqa: RUF001 - as upstream writes it

# Written down a second time on purpose: a word that slips into another row must be noticed.
SUCCESS_STATUSES = ["completed", "success", "succeeded", "succeed", "done", "finished"]
FAILURE_STATUSES = [
    *("failed", "failure", "fail", "video_generation_failed", "video_upsampling_failed"),
    *("cancelled", "canceled", "rejected", "blocked"),
]
EXPIRED_STATUSES = ["expired", "timeout", "timed_out"]
NOT_STARTED_STATUSES = [
    *("pending", "queued", "submitted", "not_start", "created", "waiting", "initializing"),
]
IN_PROGRESS_STATUSES = [
    *("processing", "running", "in_progress", "generating", "image_downloading"),
    *("video_generating", "video_generation_completed"),
    *("video_upsampling", "video_upsampling_completed"),
]
STATUSES = {
    Meaning.SUCCESS: SUCCESS_STATUSES,
    Meaning.FAILURE: FAILURE_STATUSES,
    Meaning.EXPIRED: EXPIRED_STATUSES,
    Meaning.NOT_STARTED: NOT_STARTED_STATUSES,
    Meaning.IN_PROGRESS: IN_PROGRESS_STATUSES,
}
FINAL_STATUSES = frozenset({*SUCCESS_STATUSES, *FAILURE_STATUSES, *EXPIRED_STATUSES})
ENDS = (Meaning.SUCCESS, Meaning.FAILURE, Meaning.EXPIRED)


def read(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None, asked: str = ASKED
) -> Answer:
    """The answer that consists of these bytes, or of this value as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return interpret(asked, status, CaseInsensitiveDict(headers or {}), raw, NOW)


def report(body: object, status: int = 200, asked: str = ASKED) -> Report:
    answer = read(body, status, asked=asked)
    assert isinstance(answer, Report), answer
    return answer


def error_of(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> AnswerError:
    answer = read(body, status, headers)
    assert isinstance(answer, AnswerError), answer
    return answer


def failure(body: object) -> Failure:
    found = report(body).failure
    assert found is not None
    return found


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


# ----------------------------------------------------------------- samples


class TestSamples:
    def test_a_success_full_of_leftover_errors_is_a_success(self) -> None:
        found = report(sample("veo-completed"), asked=VEO)
        detail = json.loads(sample("veo-completed"))["detail"]
        assert (found.status, found.meaning) == ("completed", Meaning.SUCCESS)
        assert found.failure is None
        assert found.remarks == ()
        assert found.errors == (detail["error_message"], detail["video_generation_error"])
        assert found.video_url == detail["upsample_video_url"]
        assert found.video_urls == {
            "upsampled": detail["upsample_video_url"],
            "original": detail["video_url"],
        }
        assert found.enhanced_prompt == detail["enhanced_prompt"]
        assert found.model == "veo3.1-fast"
        assert found.created_at == datetime(2026, 2, 6, 3, 54, 42, 99_000, UTC)
        assert found.completed_at == datetime(2026, 2, 6, 3, 58, 48, 994_000, UTC)
        assert found.updated_at == datetime(2026, 2, 6, 3, 58, 49, 98_000, UTC)
        assert found.body == json.loads(sample("veo-completed"))

    @pytest.mark.parametrize(
        ("name", "asked", "status", "meaning", "updated_at"),
        [
            (
                "veo-created",
                "veo3.1-components:1762241017-xTL0P9HvGF",
                "pending",
                Meaning.NOT_STARTED,
                datetime(2025, 11, 4, 7, 23, 37, 286_000, UTC),
            ),
            (
                "grok-pending-id-without-prefix",
                "grok:033fa60e-f37c-4ff6-a44d-5585ffea938d",
                "pending",
                Meaning.NOT_STARTED,
                datetime(2025, 6, 19, 8, 52, 47, 3_000, UTC),
            ),
            (
                "grok-running-seconds",
                ASKED,
                "processing",
                Meaning.IN_PROGRESS,
                datetime(2025, 12, 3, 10, 7, 15, tzinfo=UTC),
            ),
        ],
        ids=lambda value: value if isinstance(value, str) and "-" in value else "",
    )
    def test_an_open_job_is_in_progress(
        self, name: str, asked: str, status: str, meaning: Meaning, updated_at: datetime
    ) -> None:
        found = report(sample(name), asked=asked)
        assert (found.status, found.meaning, found.updated_at) == (status, meaning, updated_at)
        assert (found.video_url, found.video_urls, found.failure) == (None, {}, None)

    def test_a_failure_keeps_its_text(self) -> None:
        asked = "sora-2:6b3a5cab-441b-4a59-a6d9-d9c4699a9da2"
        found = report(sample("failed-error-string"), asked=asked)
        assert found.meaning is Meaning.FAILURE
        assert found.failure == Failure("upstream_failed", "Task failed", retryable=True)

    @pytest.mark.parametrize(
        ("name", "status", "kind", "message", "request_id"),
        [
            (
                "http-401",
                401,
                ErrorKind.UNAUTHORIZED,
                "无效的令牌",
                "202605030704468408677708268d9d62zMKwByP",
            ),
            (
                "http-403-quota",
                403,
                ErrorKind.QUOTA,
                "用户额度不足, 剩余额度: ＄-0.003902",  # noqa: RUF001 - as upstream writes it
                "2026",
            ),
            ("http-429-saturated", 429, ErrorKind.SATURATED, SATURATED, None),
            ("http-400-task-not-exist", 400, ErrorKind.NOT_FOUND, "task_not_exist", None),
        ],
        ids=["401", "403-quota", "429-saturated", "400-task-not-exist"],
    )
    def test_an_error_is_told_by_its_kind(
        self, name: str, status: int, kind: ErrorKind, message: str, request_id: str | None
    ) -> None:
        found = error_of(sample(name), status)
        assert (found.kind, found.message, found.request_id) == (kind, message, request_id)
        assert found.http_status == status
        assert found.body == json.loads(sample(name))


# ------------------------------------------------------------------- words


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "meaning"),
        [(status, meaning) for meaning in STATUSES for status in STATUSES[meaning]],
    )
    def test_are_compared_trimmed_and_case_folded(self, status: str, meaning: Meaning) -> None:
        for written in (status, status.upper(), f"  {status.title()} ", f"\r\n\t{status}\xa0\n"):
            found = report({"id": ASKED, "status": written})
            assert (found.status, found.meaning, found.remarks) == (status, meaning, ()), written

    @pytest.mark.parametrize(
        "status",
        [
            "unknown",
            "video_daydreaming",
            "complete",
            "completed!",
            "completed failed",
            "not completed",
            "com pleted",
            "com\x00pleted",
            "completed\x00",
            "completed\u200b",
            "fa\ud800iled",
            "已完成",
            "100%",
            "null",
            "x" * 5_000,
        ],
        ids=lambda status: ascii(status)[:24],
    )
    def test_that_were_never_seen_end_nothing_and_are_remarked(self, status: str) -> None:
        found = report({"id": ASKED, "status": status, "video_url": RESULT, "error": "x"})
        assert (found.meaning, found.failure) == (Meaning.UNKNOWN, None)
        assert found.status is not None
        assert len(found.status) <= 100
        assert found.remarks == (f"unknown status {found.status!r}",)

    @pytest.mark.parametrize("value", [None, "", " ", "``", 0, 200, True, 1.5, [], ["a", "b"], {}])
    def test_that_are_missing_end_nothing_and_are_remarked(self, value: object) -> None:
        found = report({"id": ASKED, "status": value, "video_url": RESULT, "detail": {"a": 1}})
        assert (found.status, found.meaning) == (None, Meaning.UNKNOWN)
        assert found.remarks == ("no status",)

    @pytest.mark.parametrize("value", [None, "", 200, [], {}])
    @pytest.mark.parametrize("inner", ["status", "state", "task_status"])
    def test_that_are_missing_are_looked_for_in_the_record(self, value: object, inner: str) -> None:
        for detail in ({inner: "completed"}, {"pending_info": {inner: "completed"}}):
            found = report({"id": ASKED, "status": value, "video_url": RESULT, "detail": detail})
            assert (found.status, found.meaning) == ("completed", Meaning.SUCCESS)

    @pytest.mark.parametrize(
        "written", ["`completed`", ' "completed" ', "'Completed'", "“completed”", ["completed"]]
    )
    def test_are_read_through_quotes_and_out_of_a_list(self, written: object) -> None:
        found = report({"id": ASKED, "status": written, "video_url": RESULT})
        assert (found.status, found.meaning) == ("completed", Meaning.SUCCESS)

    @pytest.mark.parametrize("status", [None, "", "error", "unknown"])
    def test_that_have_no_meaning_are_unknown(self, status: str | None) -> None:
        assert meaning_of(status) is Meaning.UNKNOWN

    def test_a_status_is_kept_bounded(self) -> None:
        assert clean_status("A" * 300) == "a" * 100


class TestContradictions:
    """Words that contradict each other are stored and counted, and end nothing."""

    @pytest.mark.parametrize(
        ("body", "remark"),
        [
            pytest.param(
                {"status": "completed", "detail": {"status": "failed"}},
                "status says 'completed', detail says 'failed'",
                id="completed-but-detail-failed",
            ),
            pytest.param(
                {"status": "completed", "detail": {"status": " EXPIRED"}},
                "status says 'completed', detail says 'expired'",
                id="completed-but-detail-expired",
            ),
            pytest.param(
                {"status": "failed", "detail": {"status": "completed"}},
                "status says 'failed', detail says 'completed'",
                id="failed-but-detail-completed",
            ),
            pytest.param(
                {"status": "timeout", "detail": {"status": "Success"}},
                "status says 'timeout', detail says 'success'",
                id="timeout-but-detail-success",
            ),
            pytest.param(
                {
                    "status": "video_generation_failed",
                    "detail": {"status": "video_generation_failed", "running": True},
                },
                "status says 'video_generation_failed' while the job is still running",
                id="failed-but-retried-upstream",
            ),
            pytest.param(
                {"status": "failed", "running": True},
                "status says 'failed' while the job is still running",
                id="failed-but-running",
            ),
            pytest.param(
                {"status": "error", "detail": {"status": "error", "running": True}},
                "status says 'error' while the job is still running",
                id="error-but-running",
            ),
        ],
    )
    def test_between_fields_end_nothing(self, body: dict[str, Any], remark: str) -> None:
        found = report({"id": ASKED, "video_url": RESULT, "error": "x", **body})
        assert (found.meaning, found.failure, found.remarks) == (Meaning.UNKNOWN, None, (remark,))
        assert found.status == body["status"]

    @pytest.mark.parametrize("inner", ["video_generation_failed", "video_upsampling_failed"])
    def test_a_failed_stage_that_was_retried_contradicts_no_success(self, inner: str) -> None:
        found = report({"status": "completed", "video_url": RESULT, "detail": {"status": inner}})
        assert (found.meaning, found.remarks) == (Meaning.SUCCESS, ())

    @pytest.mark.parametrize("status", ["completed", "failed", "processing", "pending"])
    def test_a_stale_status_in_the_detail_contradicts_nothing(self, status: str) -> None:
        found = report({"status": status, "detail": {"status": "video_generating"}})
        assert (found.meaning, found.remarks) == (meaning_of(status), ())

    def test_a_success_needs_no_running_false(self) -> None:
        body = {"status": "completed", "video_url": RESULT, "detail": {"running": True}}
        assert report(body).meaning is Meaning.SUCCESS

    @pytest.mark.parametrize(
        "body",
        [
            b'{"status":"completed","status":"failed"}',
            b'{"status":"failed","video_url":"https://x","status":"completed"}',
            b'{"status":"completed","status":null}',
            b'{"code":200,"data":{"status":"pending","status":"completed"}}',
            b'{"status":"completed","detail":{"status":"completed","status":"failed"}}',
        ],
        ids=["completed-failed", "failed-completed", "completed-null", "wrapped", "detail"],
    )
    def test_between_two_values_of_one_key(self, body: bytes) -> None:
        found = error_of(body)
        assert found.kind is ErrorKind.BAD_SHAPE
        assert found.message == "the answer holds two different values of status"

    def test_the_same_value_twice_is_no_contradiction(self) -> None:
        found = report(b'{"status":"completed","status":"completed","video_url":"https://x/y"}')
        assert found.meaning is Meaning.SUCCESS

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, ErrorKind.UNAUTHORIZED),
            (404, ErrorKind.BAD_SHAPE),
            (429, ErrorKind.RATE_LIMITED),
            (503, ErrorKind.SERVER_ERROR),
        ],
    )
    def test_an_error_status_says_more_than_a_contradiction(
        self, status: int, kind: ErrorKind
    ) -> None:
        assert error_of(b'{"status":"a","status":"b"}', status).kind is kind


# ----------------------------------------------------- wrappers, ids, times


GOOD = {"id": ASKED, "status": "completed", "video_url": RESULT}


class TestWrappers:
    @pytest.mark.parametrize("code", ["success", 200, "200"])
    @pytest.mark.parametrize(
        "envelope",
        [{}, {"message": ""}, {"message": "ok", "success": True}, {"status": "success"}],
        ids=["bare", "message", "success-flag", "status-of-the-request"],
    )
    def test_a_wrapped_good_answer_is_a_good_answer(
        self, code: object, envelope: dict[str, object]
    ) -> None:
        body = {"code": code, **envelope, "data": GOOD}
        found = report(body)
        assert (found.meaning, found.video_url, found.body) == (Meaning.SUCCESS, RESULT, body)

    @pytest.mark.parametrize(
        "status", [*IN_PROGRESS_STATUSES, *NOT_STARTED_STATUSES, "failed", "never_seen"]
    )
    def test_the_envelopes_status_is_not_the_jobs(self, status: str) -> None:
        found = report({"code": 200, "status": "success", "data": {"id": ASKED, "status": status}})
        assert found.status == status
        assert found.meaning is meaning_of(status)

    @pytest.mark.parametrize(
        "body",
        [
            {"code": "fail", "message": "", "data": GOOD},
            {"code": 500, "message": "x", "data": GOOD},
            {"code": "success", "message": "", "data": None},
            {"code": "success", "message": "", "data": [{"seed": 1}]},
            {"code": "success", "message": "", "data": {"id": "x", "error": "boom"}},
            {"success": False, "data": GOOD},
        ],
        ids=["code-fail", "code-500", "data-null", "data-list", "inner-error", "no-success"],
    )
    def test_what_only_looks_like_a_wrapper_is_no_verdict(self, body: dict[str, object]) -> None:
        assert error_of(body).kind is ErrorKind.BAD_SHAPE

    def test_data_beside_a_good_answer_does_not_replace_it(self) -> None:
        found = report(GOOD | {"code": 200, "data": {"seed": 1}})
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, RESULT)


class TestIds:
    @pytest.mark.parametrize(
        ("asked", "answered"),
        [
            (VEO, VEO),
            (VEO, "1770350082-trii1OXZc3"),
            ("grok:033fa60e-f37c", "033fa60e-f37c"),
            ("033fa60e-f37c", "grok:033fa60e-f37c"),
            ("sora-2:task_01k", "task_01k"),
            ("grok:033FA60E", " 033fa60e "),
            (VEO, None),
            (VEO, ""),
            (VEO, 4711),
        ],
        ids=[
            "same",
            "without-prefix",
            "without-prefix-uuid",
            "with-a-prefix",
            "task",
            "other-case",
            "null",
            "empty",
            "number",
        ],
    )
    def test_the_id_in_the_answer_may_lack_its_prefix_or_be_missing(
        self, asked: str, answered: object
    ) -> None:
        body = GOOD | {"id": answered}
        assert report(body, asked=asked).meaning is Meaning.SUCCESS

    @pytest.mark.parametrize("wrap", [False, True], ids=["plain", "wrapped"])
    @pytest.mark.parametrize("answered", ["grok:1", "veo:1770350082-trii1OXZc4", "2", "x" * 9_000])
    def test_a_foreign_one_is_told(self, answered: str, wrap: bool) -> None:
        """It may be the channel's own name for the job: who knows the jobs has to find out."""
        body = {**GOOD, "id": answered}
        found = report({"code": "success", "data": body} if wrap else body, asked=VEO)
        assert found.meaning is Meaning.SUCCESS
        assert found.foreign_id == answered[:2_000]

    @pytest.mark.parametrize(
        "ids", [{"id": "17", "task_id": VEO}, {"id": 17, "task_id": VEO}, {"id": VEO}, {"id": 17}]
    )
    def test_one_of_several_that_is_the_asked_one_is_enough(self, ids: dict[str, object]) -> None:
        assert report({"status": "processing", **ids}, asked=VEO).foreign_id is None


class TestTimes:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (1769665847, datetime(2026, 1, 29, 5, 50, 47, tzinfo=UTC)),
            (1769665847000, datetime(2026, 1, 29, 5, 50, 47, tzinfo=UTC)),
            (1769665847123, datetime(2026, 1, 29, 5, 50, 47, 123_000, UTC)),
            ("1769665847", datetime(2026, 1, 29, 5, 50, 47, tzinfo=UTC)),
            (1769665847.5, datetime(2026, 1, 29, 5, 50, 47, 500_000, UTC)),
            (946_684_800, datetime(2000, 1, 1, tzinfo=UTC)),
            (946_684_799, None),
            (4_102_444_799, datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
            (4_102_444_800, None),
            (4_102_444_799_999, datetime(2099, 12, 31, 23, 59, 59, 999_000, UTC)),
            (4_102_444_800_000, None),
            (1769665847123456, None),
            (0, None),
            (-1769665847, None),
            (True, None),
            (None, None),
            ("", None),
            ("2026-01-29T05:50:47Z", None),
            (float("nan"), None),
            (float("inf"), None),
            (10**400, None),
            ([1769665847], None),
        ],
        ids=repr,
    )
    def test_are_seconds_or_milliseconds_and_anything_else_is_none(
        self, value: object, expected: datetime | None
    ) -> None:
        assert moment(value) == expected

    def test_both_units_in_one_answer_mean_the_same_time(self) -> None:
        found = report(
            {"status": "x", "status_update_time": 1769665847, "created_at": 1769665847e3}
        )
        assert found.updated_at == found.created_at == moment(1769665847)

    def test_the_detail_knows_a_jobs_times_best_and_the_answer_its_status_time(self) -> None:
        early, late = 1769665000, 1769665900
        keys = ("created_at", "completed_at", "status_update_time")
        detail, answer = dict.fromkeys(keys, early), dict.fromkeys(keys, late)
        found = report({"status": "x", "detail": detail, **answer})
        assert (found.created_at, found.completed_at) == (moment(early), moment(early))
        assert found.updated_at == moment(late)
        assert report({"status": "x", "detail": detail}).updated_at == moment(early)
        found = report({"status": "x", **answer})
        assert (found.created_at, found.completed_at) == (moment(late), moment(late))


# -------------------------------------------------------------------- URLs


TOP, UPSAMPLED, ORIGINAL, SORA = (f"https://cdn.example/{n}.mp4" for n in ("t", "u", "o", "s"))


class TestUrls:
    @pytest.mark.parametrize(
        ("top", "detail", "url", "urls"),
        [
            pytest.param(TOP, {}, TOP, {}, id="top-only"),
            pytest.param(
                TOP,
                {"upsample_video_url": UPSAMPLED, "video_url": ORIGINAL},
                TOP,
                {"upsampled": UPSAMPLED, "original": ORIGINAL},
                id="top-first",
            ),
            pytest.param(
                None,
                {"upsample_video_url": UPSAMPLED, "video_url": ORIGINAL},
                UPSAMPLED,
                {"upsampled": UPSAMPLED, "original": ORIGINAL},
                id="then-upsampled",
            ),
            pytest.param(
                "", {"video_url": ORIGINAL}, ORIGINAL, {"original": ORIGINAL}, id="then-original"
            ),
            pytest.param(None, {"url": SORA}, SORA, {"original": SORA}, id="sora"),
            pytest.param(
                None,
                {"video_url": ORIGINAL, "url": SORA},
                ORIGINAL,
                {"original": ORIGINAL},
                id="original-before-sora",
            ),
        ],
    )
    def test_the_result_is_the_url_in_the_best_known_place(
        self, top: str | None, detail: dict[str, str], url: str, urls: dict[str, str]
    ) -> None:
        found = report({"status": "completed", "video_url": top, "detail": detail})
        assert (found.video_url, found.video_urls) == (url, urls)

    @pytest.mark.parametrize(
        "body",
        [
            {"detail": {"req": {"images": [INPUT]}, "images": [{"url": INPUT}]}},
            {"detail": {"req": {"video_url": INPUT, "url": INPUT}}},
            {"images": [{"url": INPUT}], "input": {"video_url": INPUT}},
            {"detail": {"error_message": f"see {INPUT}"}},
            {"detail": {"thumbnail_url": INPUT, "first_image_url": INPUT, "result": INPUT}},
        ],
        ids=["inputs", "request", "elsewhere", "error-text", "other-names"],
    )
    def test_an_input_is_never_taken_for_the_result(self, body: dict[str, object]) -> None:
        found = report({"status": "completed", "video_url": None, **body})
        assert (found.meaning, found.video_url, found.video_urls) == (Meaning.SUCCESS, None, {})

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "",
            "  ",
            0,
            True,
            [],
            {"width": 1},
            "pending",
            "/v/1.mp4",
            "ftp://x/1.mp4",
            "javascript:alert(1)",
            "see https://x/1.mp4",
            "https://x/" + "a" * 8_192,
        ],
        ids=lambda value: repr(value)[:24],
    )
    def test_what_is_no_url_is_none(self, value: object) -> None:
        found = report({"status": "completed", "video_url": value, "detail": {"url": value}})
        assert (found.video_url, found.video_urls) == (None, {})

    @pytest.mark.parametrize(
        "value", [RESULT, f" {RESULT}\n", "http://x/1.mp4?se=2026&sig=%2F", "HTTPS://X/1.mp4"]
    )
    def test_a_url_is_kept_as_it_is_but_for_the_space_around_it(self, value: str) -> None:
        assert report({"status": "completed", "video_url": value}).video_url == value.strip()

    def test_the_longest_url_is_kept_whole(self) -> None:
        url = "https://x/" + "a" * (8_192 - len("https://x/"))
        assert report({"status": "completed", "video_url": url}).video_url == url

    def test_a_success_may_come_before_its_url(self) -> None:
        found = report({"id": ASKED, "status": "completed", "video_url": None})
        assert (found.meaning, found.video_url, found.remarks) == (Meaning.SUCCESS, None, ())


class TestOtherFields:
    def test_the_prompt_is_at_the_top_or_in_the_detail(self) -> None:
        detail = {"enhanced_prompt": "inner"}
        assert report({"status": "x", "detail": detail}).enhanced_prompt == "inner"
        found = report({"status": "x", "enhanced_prompt": "outer", "detail": detail})
        assert found.enhanced_prompt == "outer"
        assert report({"status": "x", "enhanced_prompt": ""}).enhanced_prompt is None

    def test_a_prompt_is_bounded(self) -> None:
        prompt = report({"status": "x", "enhanced_prompt": "p" * 99_999}).enhanced_prompt
        assert prompt == "p" * 16_384

    @pytest.mark.parametrize("detail", [None, [], "text", 1, {"req": None}, {"req": []}, {}])
    def test_every_key_is_optional_and_may_have_any_type(self, detail: object) -> None:
        found = report({"status": "processing", "detail": detail})
        assert (found.meaning, found.model) == (Meaning.IN_PROGRESS, None)

    @pytest.mark.parametrize(
        ("body", "progress"),
        [
            ({"detail": {"progress_pct": 45}}, 0.45),
            ({"detail": {"progress_pct": 1}}, 0.01),
            ({"detail": {"progress_pct": 100}}, 1.0),
            ({"progress": 30}, 0.3),
            ({"progress": " 30% "}, 0.3),
            ({"detail": {"progress": 7}}, 0.07),
            ({"progress": 101, "detail": {"progress": 9}}, 0.09),
            ({"detail": {"pending_info": {"progress_pct": 0.93}}}, 0.93),
            ({"detail": {"pending_info": {"progress_pct": 1}}}, 1.0),
            ({"detail": {"pending_info": {"progress_pct": 93}}}, 0.93),
            ({"detail": {"progress_pct": 0.42}}, 0.42),
            ({"detail": {"progress_pct": 42.5}}, 0.425),
            ({"progress": 1.0}, 1.0),
            ({"progress": "0.42"}, 0.42),
            ({"progress": "0.5%"}, 0.005),
            ({"progress": 0}, 0.0),
            ({"progress": -1}, None),
            ({"progress": "soon"}, None),
            ({}, None),
        ],
        ids=repr,
    )
    def test_progress_is_a_fraction_or_per_cent(
        self, body: dict[str, object], progress: float | None
    ) -> None:
        assert report({"status": "processing", **body}).progress == progress


# ---------------------------------------------------------------- failures


NO_REASON = "upstream gave no reason (status: failed)"


class TestReasons:
    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({}, NO_REASON),
            ({"error": ""}, NO_REASON),
            ({"error": None}, NO_REASON),
            ({"error": {}}, NO_REASON),
            ({"error": "none"}, NO_REASON),
            ({"error": []}, NO_REASON),
            ({"error": {"message": "", "code": ""}}, NO_REASON),
            ({"error": "Task failed"}, "Task failed"),
            ({"error": {"message": "no GPU", "code": "x"}}, "no GPU"),
            ({"error": {"code": "generation_failed", "message": ""}}, "generation_failed"),
            ({"error": {"reason": "no GPU"}}, "no GPU"),
            ({"error": {"message": {"text": "忙"}}}, "忙"),
            ({"error": {"code": 500}}, "500"),
            ({"error": {"hint": "忙"}}, '{"hint": "忙"}'),
            ({"error": ["no", "GPU"]}, "no; GPU"),
            ({"error": [7]}, "[7]"),
            ({"error_message": "no GPU"}, "no GPU"),
            ({"fail_reason": "no GPU"}, "no GPU"),
            ({"detail": {"error_message": "no GPU"}}, "no GPU"),
            ({"detail": {"video_generation_error": "no GPU"}}, "no GPU"),
            ({"error": "first", "detail": {"error_message": "second"}}, "first"),
            ({"error": "two\nlines  here "}, "two lines here"),
        ],
        ids=repr,
    )
    def test_a_failure_has_its_reason_in_any_shape_or_none(
        self, facts: dict[str, object], message: str
    ) -> None:
        found = failure({"id": ASKED, "status": "failed", **facts})
        assert found == Failure("upstream_failed", message, retryable=True)

    @pytest.mark.parametrize("error", ["", None, {}, [], False, 0])
    def test_an_empty_error_on_a_success_is_none(self, error: object) -> None:
        found = report(GOOD | {"error": error})
        assert (found.meaning, found.errors, found.failure) == (Meaning.SUCCESS, (), None)

    @pytest.mark.parametrize("error", ["boom", {"message": "boom"}])
    @pytest.mark.parametrize("status", SUCCESS_STATUSES)
    def test_an_error_text_makes_no_failure_of_a_success(self, status: str, error: object) -> None:
        found = report(GOOD | {"status": status, "error": error, "detail": {"error_message": "b"}})
        assert (found.meaning, found.errors) == (Meaning.SUCCESS, ("boom", "b"))
        assert found.failure is None

    def test_error_texts_are_kept_once_and_bounded(self) -> None:
        long = "e" * 9_999
        detail = {"error_message": "same", "video_generation_error": long}
        found = report({"status": "failed", "error": "same", "detail": detail})
        assert found.errors == ("same", "e" * 2_000)

    @pytest.mark.parametrize("status", [*FAILURE_STATUSES, *EXPIRED_STATUSES])
    def test_every_failed_status_gives_a_failure(self, status: str) -> None:
        codes = dict.fromkeys(EXPIRED_STATUSES, "upstream_expired")
        codes["video_upsampling_failed"] = "upsampling_failed"
        found = failure({"id": ASKED, "status": status})
        assert found.code == codes.get(status, "upstream_failed")
        assert found.message == f"upstream gave no reason (status: {status})"
        assert found.retryable

    @pytest.mark.parametrize("status", [*NOT_STARTED_STATUSES, *IN_PROGRESS_STATUSES, "never_seen"])
    def test_an_error_text_ends_no_running_job(self, status: str) -> None:
        found = report({"id": ASKED, "status": status, "error": "unsafe prompt or images"})
        assert (found.failure, found.errors) == (None, ("unsafe prompt or images",))
        assert found.meaning not in ENDS


POLICY_REASONS = [
    "PUBLIC_ERROR_UNSAFE_GENERATION",
    "PUBLIC_ERROR_MINOR",
    "PUBLIC_ERROR_MINOR_UPLOAD",
    "PUBLIC_ERROR_SEXUAL",
    "PUBLIC_ERROR_SEXUAL_UPLOAD",
    "PUBLIC_ERROR_VIOLENCE_FILTER",
    "PUBLIC_ERROR_DANGER_FILTER",
    "PUBLIC_ERROR_PROMINENT_PEOPLE_FILTER_FAILED",
    "PUBLIC_ERROR_PROMINENT_PEOPLE_UPLOAD",
    "PUBLIC_ERROR_CONTENT_POLICY",
    "unsafe prompt or images",
]
OTHER_REASONS = [
    "PUBLIC_ERROR_SOMETHING_WENT_WRONG",
    "PUBLIC_ERROR_USER_QUOTA_REACHED",
    "PUBLIC_ERROR_MODEL_ACCESS_DENIED",
    "PUBLIC_ERROR_MINORITY_REPORT",
    "PUBLIC_ERROR",
    "prompt or images missing",
]


class TestPolicy:
    @pytest.mark.parametrize("status", ["failed", "rejected", "video_upsampling_failed", "timeout"])
    @pytest.mark.parametrize("reason", POLICY_REASONS)
    def test_a_rejection_is_told_from_a_failure_and_not_retryable(
        self, reason: str, status: str
    ) -> None:
        text = f"[400] Request failed | Code: 400 | Reason: {reason} | Type: x"
        found = failure({"status": status, "detail": {"error_message": text}})
        assert found == Failure("content_policy", text, retryable=False)

    @pytest.mark.parametrize("reason", OTHER_REASONS)
    def test_other_reasons_are_no_rejections(self, reason: str) -> None:
        text = f"[403] Request failed | Reason: {reason} | Type: x"
        found = failure({"status": "failed", "detail": {"error_message": text}})
        assert found == Failure("upstream_failed", text, retryable=True)

    @pytest.mark.parametrize(
        "facts",
        [
            {"error": "Your request contains UNSAFE prompt or images"},
            {"error": {"message": "unsafe prompt or images, such as porn"}},
            {"error": "x", "detail": {"video_generation_error": "unsafe prompt or images"}},
            {"error": "Reason: public_error_minor"},
        ],
        ids=["string", "object", "second-text", "lower-case"],
    )
    def test_the_reason_may_stand_in_any_error_text(self, facts: dict[str, object]) -> None:
        assert failure({"id": ASKED, "status": "failed", **facts}).code == "content_policy"


class TestErrorAsStatus:
    """`error` is documented as "error response": a failed look-up, unless a job stands with it."""

    @pytest.mark.parametrize(
        "facts",
        [
            {},
            {"error": "task not found"},
            {"message": "Task does not exist"},
            {"id": ASKED, "message": "task_not_exist"},
            {"detail": {}},
            {"detail": None},
            {"detail": "Not Found"},
            {"running": True},
            {"running": None},
            {"id": ASKED},
        ],
        ids=repr,
    )
    def test_bare_it_is_a_failed_look_up(self, facts: dict[str, object]) -> None:
        assert error_of({"status": " Error ", **facts}).kind is ErrorKind.NOT_FOUND

    def test_bare_and_wrapped_it_is_a_failed_look_up_too(self) -> None:
        found = error_of({"code": "success", "data": {"status": "error"}})
        assert (found.kind, found.message) == (ErrorKind.NOT_FOUND, "status: error")

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (SATURATED, ErrorKind.SATURATED),
            ({"code": "upstream_load_saturated", "message": "x"}, ErrorKind.SATURATED),
            ({"code": "insufficient_user_quota", "message": "x"}, ErrorKind.QUOTA),
            ({"message": "无效的令牌", "type": "new_api_error"}, ErrorKind.UNAUTHORIZED),
            ("invalid token '<'", ErrorKind.BAD_SHAPE),
            ("oops", ErrorKind.BAD_SHAPE),
        ],
        ids=["saturated-text", "saturated-code", "quota", "token", "parser", "other"],
    )
    def test_an_error_that_names_another_cause_does_not_count_as_unknown_id(
        self, error: object, kind: ErrorKind
    ) -> None:
        assert error_of({"status": "error", "error": error}).kind is kind

    @pytest.mark.parametrize(
        "facts",
        [
            {"detail": {"error_message": "boom"}},
            {"running": False, "error": "boom"},
            {"running": 0, "error": "boom"},
            {"id": ASKED, "error": "boom"},
            {"task_id": ASKED, "message": "boom"},
        ],
        ids=["detail", "not-running", "not-running-number", "its-id", "its-task-id"],
    )
    def test_with_a_job_it_is_a_failed_job(self, facts: dict[str, object]) -> None:
        found = report({"status": "ERROR", **facts})
        assert (found.status, found.meaning) == ("error", Meaning.FAILURE)
        assert found.failure == Failure("upstream_failed", "boom", retryable=True)


# ------------------------------------------------------------------ errors


def wrapped_error(message: str, code: str = "", kind: str = "new_api_error") -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": "", "code": code}}


def nested(inner: object, *, ascii_only: bool = True, after: str = "", before: str = "") -> object:
    """An error that a relay put into its own as JSON inside the message."""
    text = before + json.dumps(inner, ensure_ascii=ascii_only) + after
    return {"code": "fail_to_fetch_task", "message": text, "data": None}


SATURATED_INSIDE = {"message": SATURATED, "data": None}
NGINX = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>"
CLOUDFLARE = b"<!DOCTYPE html><title>Just a moment...</title><p>Enable JavaScript</p>"

ERRORS = [
    # --- the account's key
    ("401-token", 401, wrapped_error("无效的令牌 (request id: 2026a)"), ErrorKind.UNAUTHORIZED),
    ("401-empty", 401, b"", ErrorKind.UNAUTHORIZED),
    ("401-quota", 401, wrapped_error("用户额度不足"), ErrorKind.UNAUTHORIZED),
    ("401-string", 401, b'"Unauthorized"', ErrorKind.UNAUTHORIZED),
    ("401-null", 401, b"null", ErrorKind.UNAUTHORIZED),
    ("401-list", 401, b"[]", ErrorKind.UNAUTHORIZED),
    ("402", 402, wrapped_error("Payment Required"), ErrorKind.QUOTA),
    ("402-empty", 402, b"", ErrorKind.QUOTA),
    ("403-quota", 403, wrapped_error("x", "insufficient_user_quota"), ErrorKind.QUOTA),
    ("403-quota-upper", 403, wrapped_error("x", "INSUFFICIENT_USER_QUOTA"), ErrorKind.QUOTA),
    ("403-pre", 403, wrapped_error("x", "pre_consume_token_quota_failed"), ErrorKind.QUOTA),
    ("403-quota-plain", 403, {"code": "insufficient_user_quota"}, ErrorKind.QUOTA),
    ("403-quota-type", 403, wrapped_error("x", "", "insufficient_user_quota"), ErrorKind.QUOTA),
    ("403-quota-text", 403, wrapped_error("user quota is not enough"), ErrorKind.QUOTA),
    ("403-denied", 403, wrapped_error("x", "access_denied"), ErrorKind.FORBIDDEN),
    ("403-empty", 403, b"", ErrorKind.FORBIDDEN),
    ("403-number-code", 403, {"code": 403, "message": "no"}, ErrorKind.FORBIDDEN),
    ("403-token", 403, wrapped_error("该令牌状态不可用"), ErrorKind.UNAUTHORIZED),
    ("200-token", 200, wrapped_error("Invalid token"), ErrorKind.UNAUTHORIZED),
    ("200-token-other", 200, {"error": "invalid token"}, ErrorKind.BAD_SHAPE),
    ("200-token-type", 200, wrapped_error("invalid token", "", "x"), ErrorKind.BAD_SHAPE),
    ("500-token", 500, {"message": "invalid token '<'"}, ErrorKind.SERVER_ERROR),
    ("502-token", 502, wrapped_error("invalid token"), ErrorKind.SERVER_ERROR),
    ("403-fetch-token", 403, nested({"message": "invalid token"}), ErrorKind.SERVER_ERROR),
    ("200-quota", 200, wrapped_error("x", "insufficient_user_quota"), ErrorKind.QUOTA),
    # --- a 403 that wraps a saturation
    ("403-nested", 403, nested(SATURATED_INSIDE, ascii_only=False), ErrorKind.SATURATED),
    ("403-nested-escaped", 403, nested(SATURATED_INSIDE), ErrorKind.SATURATED),
    ("403-nested-twice", 403, nested(nested(SATURATED_INSIDE)), ErrorKind.SATURATED),
    (
        "403-nested-error",
        403,
        wrapped_error(json.dumps(wrapped_error(SATURATED))),
        ErrorKind.SATURATED,
    ),
    (
        "403-nested-request-id",
        403,
        wrapped_error(json.dumps(SATURATED_INSIDE) + " (request id: 20260206)"),
        ErrorKind.SATURATED,
    ),
    (
        "403-nested-after-words",
        403,
        wrapped_error("bad response: " + json.dumps(SATURATED_INSIDE)),
        ErrorKind.SATURATED,
    ),
    ("403-nested-other", 403, nested({"message": "timeout"}), ErrorKind.SERVER_ERROR),
    ("403-nested-cut", 403, nested({"message": "x"}, after="{"), ErrorKind.SERVER_ERROR),
    ("403-nested-silent", 403, nested({"message": ""}), ErrorKind.SERVER_ERROR),
    ("403-nested-garbage", 403, nested("{no json"), ErrorKind.SERVER_ERROR),
    # --- the id
    ("404", 404, wrapped_error("task not found", "task_not_found"), ErrorKind.NOT_FOUND),
    ("404-text-code", 404, wrapped_error("Task does not exist", "x"), ErrorKind.NOT_FOUND),
    ("404-chinese", 404, {"message": "任务不存在"}, ErrorKind.NOT_FOUND),
    ("400-not-found", 400, {"message": "task not found"}, ErrorKind.NOT_FOUND),
    ("404-empty", 404, b"", ErrorKind.BAD_SHAPE),
    ("404-object", 404, {}, ErrorKind.BAD_SHAPE),
    ("404-not-found", 404, {"message": "Not Found"}, ErrorKind.BAD_SHAPE),
    ("404-detail", 404, {"detail": "Not Found"}, ErrorKind.BAD_SHAPE),
    ("404-model", 404, wrapped_error("model not found", "model_not_found"), ErrorKind.BAD_SHAPE),
    ("400-model", 400, wrapped_error("model not found"), ErrorKind.BAD_SHAPE),
    ("404-not-exist", 404, {"code": "task_not_exist", "message": "x"}, ErrorKind.NOT_FOUND),
    ("400-not-exist", 400, {"code": "task_not_exist", "message": "x"}, ErrorKind.NOT_FOUND),
    ("400-not-exist-error", 400, wrapped_error("x", "task_not_exist"), ErrorKind.NOT_FOUND),
    ("400-not-exist-text", 400, {"message": "Task_not_exist: 1"}, ErrorKind.NOT_FOUND),
    ("400-other", 400, wrapped_error("id is required", "bad_request"), ErrorKind.BAD_SHAPE),
    ("404-route", 404, wrapped_error("Invalid URL (GET /v1/vide/query)"), ErrorKind.BAD_SHAPE),
    ("404-saturated", 404, wrapped_error(SATURATED), ErrorKind.SATURATED),
    ("404-page", 404, NGINX, ErrorKind.BAD_SHAPE),
    ("404-text", 404, b"404 page not found", ErrorKind.BAD_SHAPE),
    # --- slow down
    ("429-empty", 429, b"", ErrorKind.RATE_LIMITED),
    ("429-space", 429, b" \r\n", ErrorKind.RATE_LIMITED),
    ("429-object", 429, {}, ErrorKind.RATE_LIMITED),
    ("429-null", 429, b"null", ErrorKind.RATE_LIMITED),
    ("429-page", 429, CLOUDFLARE, ErrorKind.RATE_LIMITED),
    ("429-message", 429, wrapped_error("Too many requests"), ErrorKind.RATE_LIMITED),
    ("200-rate", 200, {"error": "Too Many Requests"}, ErrorKind.RATE_LIMITED),
    ("400-rate", 400, wrapped_error("x", "rate_limit_exceeded"), ErrorKind.RATE_LIMITED),
    ("500-rate", 500, {"message": "Too many requests"}, ErrorKind.SERVER_ERROR),
    ("429-text", 429, SATURATED.encode(), ErrorKind.SATURATED),
    ("429-saturated", 429, SATURATED_INSIDE | {"code": "x"}, ErrorKind.SATURATED),
    ("429-code", 429, {"code": "upstream_load_saturated"}, ErrorKind.SATURATED),
    ("503-saturated", 503, wrapped_error(SATURATED), ErrorKind.SATURATED),
    ("500-saturated", 500, wrapped_error("upstream is Saturated"), ErrorKind.SATURATED),
    ("200-saturated", 200, SATURATED_INSIDE | {"code": "x"}, ErrorKind.SATURATED),
    # --- try later
    *[
        (f"{status}-{name}", status, body, ErrorKind.SERVER_ERROR)
        for status in (500, 502, 503, 504, *range(520, 528))
        for name, body in {
            "empty": b"",
            "page": NGINX,
            "json": wrapped_error("oops"),
            "cut": b'{"error":{"mess',
        }.items()
    ],
    ("408", 408, b"", ErrorKind.SERVER_ERROR),
    *[
        (f"{status}-page", status, page, ErrorKind.NOT_JSON)
        for status, page in ((200, NGINX), (200, CLOUDFLARE), (401, NGINX), (403, CLOUDFLARE))
    ],
    ("302-page", 302, NGINX, ErrorKind.NOT_JSON),
    ("302-empty", 302, b"", ErrorKind.BAD_SHAPE),
    ("200-empty", 200, b"", ErrorKind.NOT_JSON),
    ("204-empty", 204, b"", ErrorKind.NOT_JSON),
    ("200-space", 200, b"  \n", ErrorKind.NOT_JSON),
    ("200-cut", 200, b'{"id":"x","status":"comp', ErrorKind.NOT_JSON),
    ("200-two", 200, b'{"status":"completed"}{"status":"completed"}', ErrorKind.NOT_JSON),
    ("200-word", 200, b"completed", ErrorKind.NOT_JSON),
    # --- 200, and yet an error
    ("200-error", 200, wrapped_error("oops"), ErrorKind.BAD_SHAPE),
    ("200-error-string", 200, {"error": "oops"}, ErrorKind.BAD_SHAPE),
    ("200-error-id", 200, {"id": ASKED, "error": "oops"}, ErrorKind.BAD_SHAPE),
    ("200-error-null-status", 200, {"status": None, "error": "oops"}, ErrorKind.BAD_SHAPE),
    ("200-code-message", 200, {"code": "x", "message": "oops"}, ErrorKind.BAD_SHAPE),
    ("200-code-number", 200, {"code": 500, "message": ""}, ErrorKind.BAD_SHAPE),
    ("200-not-exist", 200, {"code": "task_not_exist", "message": "x"}, ErrorKind.BAD_SHAPE),
    ("200-success-false", 200, {"success": False}, ErrorKind.BAD_SHAPE),
    ("200-fetch", 200, {"code": "fail_to_fetch_task", "message": ""}, ErrorKind.SERVER_ERROR),
    ("200-object", 200, {}, ErrorKind.BAD_SHAPE),
    ("200-other", 200, {"video_url": RESULT, "url": RESULT}, ErrorKind.BAD_SHAPE),
    ("200-list", 200, [GOOD | {"id": "x"}, GOOD | {"id": "y"}], ErrorKind.BAD_SHAPE),
    ("200-null", 200, b"null", ErrorKind.BAD_SHAPE),
    ("200-string", 200, b'"completed"', ErrorKind.BAD_SHAPE),
    ("200-number", 200, b"200", ErrorKind.BAD_SHAPE),
    ("418", 418, {"message": "teapot"}, ErrorKind.BAD_SHAPE),
]


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "kind"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
    )
    def test_each_has_its_kind(self, status: int, body: object, kind: ErrorKind) -> None:
        found = error_of(body, status)
        assert (found.kind, found.http_status) == (kind, status)
        assert found.message

    @pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 408, 410, 429, 500, 503, 524])
    @pytest.mark.parametrize("word", ["completed", "failed", "expired", "error"])
    def test_no_status_counts_under_an_error_code(self, status: int, word: str) -> None:
        body = GOOD | {"status": word, "detail": {"status": word}, "running": False}
        assert isinstance(read(body, status), AnswerError)

    @pytest.mark.parametrize("status", [200, 201, 202, 206, 299])
    def test_every_2xx_is_good(self, status: int) -> None:
        found = report(GOOD, status)
        assert (found.meaning, found.http_status) == (Meaning.SUCCESS, status)

    def test_saturation_inside_a_text_is_told_in_its_own_words(self) -> None:
        found = error_of(nested(SATURATED_INSIDE, after=" (request id: 20260206)"), 403)
        assert (found.message, found.request_id) == (SATURATED, "20260206")

    def test_a_text_without_json_is_told_as_it_is(self) -> None:
        assert error_of({"message": "bad {template} }{"}, 500).message == "bad {template} }{"

    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            (b"", 503, "empty answer with status 503"),
            (b"", 200, "empty answer with status 200"),
            ({}, 404, "HTTP status 404"),
            ({"error": {"code": "x"}}, 403, "HTTP status 403"),
            ({"error": {}, "message": " m "}, 400, "m"),
            ({"error": "  ", "message": 5, "code": "c"}, 400, "c"),
            ({"success": False}, 200, "error without a message"),
            ({"message": "(request id: 20260206)"}, 500, "server_error"),
            (NGINX, 502, NGINX.decode().replace("\r\n", " ")),
            (b"<p>" + b"x" * 9_999, 200, "<p>" + "x" * 297),
            ([1], 200, "the answer is not a JSON object"),
            ({}, 200, "no status, nothing about a job"),
        ],
        ids=[
            "empty-503",
            "empty-200",
            "object",
            "code-only",
            "message-beside-empty-error",
            "code-as-message",
            "silent",
            "only-a-request-id",
            "page",
            "long-page",
            "list",
            "nothing",
        ],
    )
    def test_each_has_a_message(self, body: object, status: int, message: str) -> None:
        assert error_of(body, status).message == message


class TestRequestIds:
    @pytest.mark.parametrize(
        ("text", "message", "ids"),
        [
            ("无效的令牌 (request id: 2026abc)", "无效的令牌", "2026abc"),
            ("a (request id: 1111) (request id: 2222)", "a", "1111, 2222"),
            ("a (request id: 1111): b (Request ID: 2222) c", "a: b c", "1111, 2222"),
            ("a (request id: 1111) (request id: 1111)", "a", "1111"),
            ("a request_id: 1111-2.x_y", "a", "1111-2.x_y"),
            ("忙request id: 1111忙", "忙忙", "1111"),
            ("request id: 11", "request id: 11", None),
            ("myrequest id: 1111", "myrequest id: 1111", None),
            ("nothing", "nothing", None),
        ],
        ids=[
            "one",
            "two",
            "between-texts",
            "twice-the-same",
            "underscore",
            "between-chinese",
            "too-short",
            "part-of-a-word",
            "none",
        ],
    )
    def test_are_taken_out_of_a_message_and_kept(
        self, text: str, message: str, ids: str | None
    ) -> None:
        found = error_of(wrapped_error(text), 500)
        assert (found.message, found.request_id) == (message, ids)

    def test_equal_errors_have_equal_messages_whatever_their_request_ids(self) -> None:
        one, other = (error_of(wrapped_error(f"busy (request id: {n})"), 503) for n in (1111, 2222))
        assert one.message == other.message
        assert one.request_id != other.request_id

    def test_of_which_there_are_many_are_bounded(self) -> None:
        text = " ".join(f"(request id: {n:020})" for n in range(90))
        assert len(error_of(wrapped_error(text), 500).request_id or "") == 255

    def test_a_pages_ids_are_kept_too(self) -> None:
        assert error_of(b"<p>oops (request id: 1111)</p>", 502).request_id == "1111"

    def test_a_failed_job_keeps_the_ids_of_all_its_texts(self) -> None:
        detail = {"error_message": "b (request id: 2222)"}
        found = failure({"status": "failed", "error": "a (request id: 1111)", "detail": detail})
        assert found.message == "a (request id: 1111)"
        assert found.request_id == "1111, 2222"


@pytest.fixture
def far_from_greenwich() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


class TestAModelThatIsDenied:
    @pytest.mark.parametrize(
        ("said", "of_its_model"),
        [
            ("This token has no access to model veo3.1", True),
            ("This token has no access to model veo3.1 (request id: 2026abc)", True),
            ("该令牌无权访问模型 grok-video", True),
            ("This token has no access to model (request id: 2026abc)", False),
            ("该令牌状态不可用", False),
            ("access denied", False),
        ],
    )
    @pytest.mark.parametrize("status", [401, 403])
    def test_is_that_models_affair_if_it_is_named(
        self, said: str, status: int, of_its_model: bool
    ) -> None:
        found = error_of(wrapped_error(said), status)
        assert found.of_its_model is of_its_model
        assert found.kind is ErrorKind.FORBIDDEN or not of_its_model

    def test_another_status_says_nothing_of_the_sort(self) -> None:
        assert not error_of(wrapped_error("no access to model grok"), 500).of_its_model


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (None, None),
            ("", None),
            ("7", 7.0),
            (" 7 ", 7.0),
            ("0", 0.0),
            ("1.5", 1.5),
            ("3600", 3_600.0),
            ("3601", 3_600.0),
            ("315360000", 3_600.0),
            ("9" * 400, None),
            ("-1", None),
            ("-0.1", None),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("soon", None),
            ("  ", None),
            ("12 seconds", None),
            ("Fri, 06 Feb 2026 04:01:30 GMT", 90.0),
            ("Fri, 06 Feb 2026 05:01:30 +0100", 90.0),
            ("Fri, 06 Feb 2026 04:01:30 -0000", 90.0),
            ("Fri, 06 Feb 2026 03:59:59 GMT", None),
            ("Sun, 06 Feb 2036 04:00:00 GMT", 3_600.0),
            ("Fri, 31 Dec 9999 23:59:59 -2359", 3_600.0),
            ("Fri, 99 Feb 2026 04:01:30 GMT", None),
            ("2026-02-06T04:01:30Z", None),
        ],
        ids=lambda value: repr(value)[:32],
    )
    def test_is_seconds_or_a_date_and_never_years(
        self, value: str | None, seconds: float | None
    ) -> None:
        assert retry_after(value, NOW) == seconds

    @pytest.mark.usefixtures("far_from_greenwich")
    def test_a_date_without_a_zone_is_utc_wherever_this_machine_stands(self) -> None:
        assert retry_after("Fri, 06 Feb 2026 04:01:30", NOW) == 90.0
        assert retry_after("Fri, 06 Feb 2026 04:01:30 GMT", NOW) == 90.0

    @pytest.mark.parametrize(
        ("date", "seconds"),
        [
            ("Fri, 06 Feb 2026 04:01:00 GMT", 30.0),
            ("Fri, 06 Feb 2026 03:31:30 GMT", 1_800.0),
            ("Fri, 06 Feb 2026 04:02:00 GMT", None),
            ("Fri, 99 Feb 2026 04:01:00 GMT", 90.0),
            (None, 90.0),
        ],
    )
    def test_a_date_is_measured_by_the_clock_that_said_it(
        self, date: str | None, seconds: float | None
    ) -> None:
        headers = {"Retry-After": "Fri, 06 Feb 2026 04:01:30 GMT"} | (
            {"Date": date} if date else {}
        )
        assert error_of("", 429, headers).retry_after == seconds
        assert error_of({"message": "slow down"}, 429, headers).retry_after == seconds

    @given(st.text() | st.floats().map(str) | st.integers().map(str))
    def test_is_never_negative_and_never_more_than_an_hour(self, value: str) -> None:
        seconds = retry_after(value, NOW)
        assert seconds is None or 0 <= seconds <= 3_600

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"{}", SATURATED.encode()], ids=["empty", "page", "json", "text"]
    )
    def test_is_read_with_any_body(self, status: int, body: bytes) -> None:
        assert error_of(body, status, {"retry-after": "7"}).retry_after == 7.0
        assert error_of(body, status).retry_after is None


# --------------------------------------------------------------- encodings


COMPLETED = '{"status":"completed","video_url":"https://x/é.mp4"}'


class TestBytes:
    @pytest.mark.parametrize(
        "encoding",
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"],
    )
    def test_every_encoding_of_json_is_read(self, encoding: str) -> None:
        found = report(COMPLETED.encode(encoding))
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, "https://x/é.mp4")

    def test_latin_1_is_read_with_marks_for_what_is_lost(self) -> None:
        assert report(COMPLETED.encode("latin-1")).video_url == "https://x/\ufffd.mp4"

    @pytest.mark.parametrize(
        "literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" + b"0" * 4_000]
    )
    def test_numbers_that_are_none_read_as_absent(self, literal: bytes) -> None:
        body = b'{"status":"processing","status_update_time":%b,"progress":%b}'
        found = report(body % (literal, literal))
        assert (found.updated_at, found.progress) == (None, None)
        json.dumps(bounded(found.body), allow_nan=False)

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 100_000 + b"]" * 100_000,
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            b'{"status":"completed","detail":' + b"[" * 100_000,
            b'{"status":' + b"1" * 5_000 + b"}",
            b"\x00" * 50,
            b"\xff\xfe",
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
            b"\x1f\x8b\x08\x00",
        ],
        ids=["lists", "objects", "cut", "digits", "nuls", "bom-only", "two-boms", "gzip"],
    )
    def test_what_no_parser_can_take_is_error(self, body: bytes) -> None:
        assert error_of(body).kind is ErrorKind.NOT_JSON

    @pytest.mark.parametrize("key", ["status", "code", "error", "message", "id", "detail", "data"])
    @pytest.mark.parametrize("status", [200, 400])
    def test_deep_nesting_is_survived_wherever_it_stands(self, status: int, key: str) -> None:
        for depth in (50, 500, *range(850, 1_001, 3)):  # around what the parser just takes, too
            deep = b"[" * depth + b"]" * depth
            answer = read(b'{"%b":%b,"error_message":%b}' % (key.encode(), deep, deep), status)
            assert isinstance(answer, AnswerError) or answer.meaning not in ENDS
            json.dumps(bounded(answer.body))

    def test_errors_within_errors_without_end_are_survived(self) -> None:
        # Escaped so that each level adds little: quotes and backslashes as \u0022 and \u005c.
        quotes = ['"', *("\\" + "u005c" * level + "u0022" for level in range(500))]
        for levels, message_length in ((20, 1), (100, 2_000), (500, 2_000)):
            some = quotes[:levels]
            text = "".join(f"{{{q}message{q}:{q}" for q in some) + "x"
            text += "".join(f"{q}}}" for q in reversed(some))
            found = error_of(text.encode(), 400)
            assert (found.kind, len(found.message)) == (ErrorKind.BAD_SHAPE, message_length)

    @pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
    def test_no_cut_off_answer_is_a_verdict(self, path: Path) -> None:
        body = path.read_bytes().strip()
        for length in range(len(body)):
            answer = read(body[:length])
            assert isinstance(answer, AnswerError), body[:length]
            assert answer.kind is ErrorKind.NOT_JSON


# -------------------------------------------------------------- properties


KEYS = st.sampled_from(
    [
        *("id", "status", "detail", "data", "code", "message", "error", "success", "running"),
        *("video_url", "upsample_video_url", "url", "req", "model", "enhanced_prompt"),
        *("error_message", "video_generation_error", "fail_reason", "progress", "progress_pct"),
        *("status_update_time", "created_at", "completed_at"),
    ]
)
TEXTS = st.one_of(
    st.sampled_from(
        [*FINAL_STATUSES, *NOT_STARTED_STATUSES, *IN_PROGRESS_STATUSES, "error", "unknown"]
    ),
    st.sampled_from(["success", "task_not_exist", "fail_to_fetch_task", ASKED, RESULT, SATURATED]),
    st.text(max_size=20),
    st.text('\x00\ud800\u200b {}"\\completed', max_size=12),
)
SCALARS = st.one_of(
    TEXTS,
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([200, 1769665847, 1769665847123]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=6)
        | inner.map(json.dumps)  # an error inside an error's text
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=8)
CODES = st.sampled_from([200, 200, 200, 202, 302, 400, 401, 402, 403, 404, 429, 500, 503, 522])
HEADERS = st.dictionaries(st.just("Retry-After"), st.text(max_size=8) | st.just("7"))


INPUT_KEYS = frozenset({"images", "req", "input", "thumbnail_url", "cover_url", "gif_url"})


def texts_within(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the key that it stands under, but for what went in; JSON in texts too."""
    if isinstance(value, str):
        yield key, value.strip("`'\" \r\n\t")
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return
        yield from texts_within(inner, key) if isinstance(inner, dict | list) else ()
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from texts_within(inner, name) if name not in INPUT_KEYS else ()
    elif isinstance(value, list):
        for inner in value:
            yield from texts_within(inner, key)


def statuses_of(document: object) -> set[str]:
    """The words by which the answer could speak of its job, wherever they stand."""
    keys = ("status", "state", "task_status")
    return {text.strip().casefold() for key, text in texts_within(document) if key in keys}


def result_urls(body: object) -> set[str]:
    """What stands anywhere but where inputs stand."""
    return {clean_text(text).strip() for _, text in texts_within(body)}


def texts_of(answer: Answer) -> list[str]:
    if isinstance(answer, AnswerError):
        return [text for text in (answer.message, answer.request_id) if text is not None]
    failed = answer.failure
    optional = (answer.status, answer.video_url, answer.enhanced_prompt, answer.model)
    return [
        *(text for text in optional if text is not None),
        *(answer.video_urls or {}).values(),
        *answer.errors,
        *answer.remarks,
        *([failed.message, failed.request_id or ""] if failed else []),
    ]


class TestAnyAnswer:
    """Upstream may send what it will."""

    @given(CODES, HEADERS, DOCUMENTS)
    def test_only_a_known_final_status_is_final(
        self, status: int, headers: dict[str, str], document: dict[str, object]
    ) -> None:
        answer = read(document, status, headers)
        if isinstance(answer, Report) and answer.meaning in ENDS:
            assert 200 <= status < 300
            assert answer.status in statuses_of(document)
            assert answer.status in FINAL_STATUSES | {"error"}

    @given(DOCUMENTS, st.sampled_from(sorted(FINAL_STATUSES)))
    def test_a_failure_is_there_exactly_when_the_meaning_is_one(
        self, document: dict[str, object], status: str
    ) -> None:
        gone = dict.fromkeys(("data", "output"))
        answer = read(document | {"id": ASKED, "status": status, "success": True, **gone})
        assert isinstance(answer, Report)
        failed = answer.meaning in (Meaning.FAILURE, Meaning.EXPIRED)
        assert (answer.failure is not None) == failed
        assert answer.meaning in ENDS or answer.remarks

    @given(st.integers(0, 999), HEADERS, st.binary(max_size=60))
    def test_bytes_of_any_kind_never_raise_and_never_end_a_job(
        self, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        answer = read(body, status, headers)
        assert isinstance(answer, AnswerError) or answer.meaning not in ENDS

    @given(st.data())
    def test_a_damaged_answer_never_raises(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(SAMPLES.glob("*.json"))))
        body = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        answer = read(bytes(body), data.draw(CODES))
        if isinstance(answer, Report) and answer.meaning in ENDS:
            assert answer.status in FINAL_STATUSES

    @given(CODES, DOCUMENTS)
    def test_everything_that_is_kept_of_it_can_be_stored(
        self, status: int, document: dict[str, object]
    ) -> None:
        answer = read(document, status)
        for text in texts_of(answer):
            assert text == clean_text(text)
            assert len(text) <= 8_192 * 2
        json.dumps(bounded(answer.body), allow_nan=False, ensure_ascii=False).encode()

    @given(CODES, DOCUMENTS)
    def test_every_url_is_one_that_stood_in_a_place_for_results(
        self, status: int, document: dict[str, object]
    ) -> None:
        answer = read(document, status)
        if isinstance(answer, Report):
            urls = {answer.video_url, *(answer.video_urls or {}).values()} - {None}
            assert urls <= result_urls(answer.body)

    @given(st.integers() | st.floats() | st.text() | st.integers(0, 10**13))
    def test_a_time_is_within_this_century_or_none(self, value: object) -> None:
        at = moment(value)
        assert at is None or datetime(2000, 1, 1, tzinfo=UTC) <= at
        assert at is None or at < datetime(2100, 1, 1, tzinfo=UTC)

    @given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - a strategy's bounds have no zone
    def test_milliseconds_and_seconds_agree(self, at: datetime) -> None:
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        millis = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert moment(millis) == at
        assert moment(millis // 1000) == at.replace(microsecond=0)
