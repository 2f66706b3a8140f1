"""Where answers keep what: the reader of places, the known shapes, and any mixture of them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelwatch.rules import finding, places, result_urls
from reelwatch.rules.answers import (
    FOUND_ELSEWHERE,
    Answer,
    AnswerError,
    ErrorKind,
    Meaning,
    Report,
    interpret,
    meaning_of,
)
from reelwatch.rules.status import ENDS

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
ASKED = "veo3.1-fast:1770350082-trii1OXZc3"
RESULT = "https://cdn.example/result.mp4"
OTHER = "https://cdn.example/other.mp4"
FAMILY: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "upstream" / "family" / "cases.json").read_text("utf-8")
)

Body = dict[str, Any]


def read(body: object, asked: str = ASKED) -> Answer:
    return interpret(asked, 200, {}, json.dumps(body).encode(), NOW)


def report(body: object, asked: str = ASKED) -> Report:
    answer = read(body, asked)
    assert isinstance(answer, Report), answer
    return answer


# ------------------------------------------------------------------ reader


class TestPaths:
    DOCUMENT = {  # noqa: RUF012 - a table
        "a": {"b": [{"c": 1}, {"c": 2}]},
        "one": [{"c": 3}],
        "text": '{"c": 4}',
        "texts": ['[{"c": 5}]'],
        "null": None,
        "word": "c",
    }

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("", DOCUMENT),
            ("a.b[0].c", 1),
            ("a.b[1].c", 2),
            ("a.b[2].c", None),
            ("a.b.c", None),
            ("a[0]", None),
            ("one.c", 3),
            ("one[0].c", 3),
            ("text.c", 4),
            ("texts[0][0].c", 5),
            ("null.c", None),
            ("word.c", None),
            ("none", None),
        ],
    )
    def test_lead_to_a_value_or_nowhere(self, path: str, value: object) -> None:
        assert places.at(self.DOCUMENT, places.path(path)) == value

    @pytest.mark.parametrize("text", ['{"c":', "[" * 5_000, "{" + " " * 70_000 + "}", "{}x"])
    def test_what_only_looks_like_json_is_a_text(self, text: str) -> None:
        assert places.at({"a": text}, places.path("a.c")) is None
        assert places.at({"a": text}, places.path("a")) == text


class TestUrl:
    @pytest.mark.parametrize(
        "value",
        [
            RESULT,
            f" `{RESULT}` ",
            f'"{RESULT}"',
            f"' {RESULT} '",
            [RESULT],
            [None, 1, f"`{RESULT}`", OTHER],
        ],
        ids=repr,
    )
    def test_is_found_through_quotes_and_in_lists(self, value: object) -> None:
        assert result_urls.url(value) == RESULT

    @pytest.mark.parametrize(
        ("value", "url"),
        [
            ("//cdn.example/result.mp4", RESULT),
            (r"https:\/\/cdn.example\/result.mp4", RESULT),
            (r"\/\/cdn.example\/result.mp4", RESULT),
            (r"https:\/\/cdn.example\/v.mp4?a=1\u0026b=2", "https://cdn.example/v.mp4?a=1&b=2"),
            (f"{RESULT},{OTHER}", RESULT),
            (f"{RESULT} ; {OTHER}?sig=a,b", RESULT),
            (f"{RESULT}\n{OTHER}", RESULT),
        ],
        ids=repr,
    )
    def test_is_read_as_what_it_means(self, value: str, url: str) -> None:
        assert result_urls.url(value) == url

    @pytest.mark.parametrize(
        "signed",
        [
            "https://cdn.example/v.mp4?a=1&amp;b=2",
            "https://cdn.example/v.mp4?se=2026&sig=a%2Fb+c,d;e~f==",
            "https://cdn.example/v.mp4?next=x,https://app.example/done",
            "https://cdn.example/fetch/w_300,https://origin.example/v.mp4",
            r"https://cdn.example/a\/b.mp4",
            "https://cdn.example//twice//v.mp4#t=1",
            "HTTPS://CDN.example:8443/%E5%BF%99/忙.mp4",
        ],
    )
    def test_stays_as_it_came(self, signed: str) -> None:
        assert result_urls.url(signed) == signed

    @pytest.mark.parametrize(
        "value",
        [
            None, 1, {}, [], [[RESULT]], "cdn.example/a.mp4", "file:x",
            r"https:\/\/cdn.example\/v\q.mp4", f"https://[x/v.mp4,{RESULT}",
        ],
        ids=repr,
    )  # fmt: skip
    def test_is_none_where_there_is_none(self, value: object) -> None:
        assert result_urls.url(value) is None


# -------------------------------------------------------------------- urls

RESULT_PLACES = (
    "video_url",
    "detail.upsample_video_url",
    "detail.video_url",
    "detail.url",
    "url",
    "result_url",
    "video.url",
    "content.video_url",
    "output.video_url",
    "output",
    "detail.output.media_url",
    "detail.draft_info.downloadable_url",
    "data[0].url",
    "task_result.videos[0].url",
    "creations[0].url",
    "fail_reason",
)


def put(body: Body, path: str, value: object) -> Body:
    """The body with a value at a path, which it has not yet."""
    first, dot, rest = path.partition(".")
    name, bracket, _ = first.partition("[")
    inner = put(dict(body.get(name) or {}), rest, value) if dot else value
    return body | {name: [inner] if bracket else inner}


class TestResults:
    @pytest.mark.parametrize("path", RESULT_PLACES)
    def test_a_success_has_its_url_at_any_known_place(self, path: str) -> None:
        found = report(put({"id": ASKED, "status": "completed"}, path, f" `{RESULT}`"))
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, RESULT)
        assert (found.remarks, found.errors) == ((), ())

    def test_the_best_place_comes_first(self) -> None:
        for better, worse in pairwise(RESULT_PLACES):
            if worse.startswith(better) or better.startswith(worse):
                continue
            body = put({"id": ASKED, "status": "completed"}, better, RESULT)
            assert report(put(body, worse, OTHER)).video_url == RESULT, (better, worse)

    @pytest.mark.parametrize("status", ["processing", "failed", "daydreaming"])
    def test_only_a_successs_urls_of_any_name_are_results(self, status: str) -> None:
        """While a job goes on, `url` may lead to its own status page."""
        body = {"id": ASKED, "status": status, "url": RESULT, "output": {"download_url": RESULT}}
        assert report(body).video_url is None

    @pytest.mark.parametrize(
        "body",
        [
            {"assets": {"mp4_download": RESULT}},
            {"payload": [{"kind": "final", "link": RESULT}]},
            {"result": {"files": [{"outputs": [RESULT]}]}},
            {"detail": {"generations": '[{"video": "https://cdn.example/result.mp4"}]'}},
            {"video": {"hd": {"src": RESULT}}, "copies": [{"video": RESULT}]},
            {"media": {"download_url": RESULT}, "thumbnail_url": OTHER, "input": {"url": OTHER}},
            {"media": {"video_url": RESULT}, "first_image_url": OTHER, "req": {"video": OTHER}},
            {"media": {"video_url": RESULT}, "cover_url": OTHER, "gif_url": OTHER},
        ],
        ids="-".join,
    )
    def test_a_single_url_elsewhere_is_found_and_that_is_recorded(self, body: Body) -> None:
        found = report({"id": ASKED, "status": "completed", "video_url": None, **body})
        assert found.video_url == RESULT
        assert found.remarks == ("the video URL was found by search, at no known place",)

    @pytest.mark.parametrize(
        ("body", "remarks"),
        [
            ({"images": [{"url": RESULT}]}, ()),
            ({"detail": {"req": {"images": [RESULT], "video": RESULT}}}, ()),
            ({"input": {"video_url": RESULT}, "thumbnail_url": RESULT, "cover_url": RESULT}, ()),
            ({"gif_url": RESULT, "last_image_url": RESULT, "end_image": RESULT}, ()),
            ({"webhook_url": RESULT, "callback_url": RESULT}, ()),
            ({"note": RESULT.removesuffix(".mp4")}, ()),
            ({"result": "https://cdn.example/poster.png"}, ()),
            ({"download": f"{RESULT} expired yesterday"}, ()),
            (
                {"media": {"video_url": RESULT}, "copies": [{"video_url": OTHER}]},
                ("2 URLs could be the result: none is taken",),
            ),
        ],
        ids=repr,
    )
    def test_what_went_in_or_is_one_of_several_is_none(
        self, body: Body, remarks: tuple[str, ...]
    ) -> None:
        found = report({"id": ASKED, "status": "completed", **body})
        assert (found.meaning, found.video_url, found.remarks) == (Meaning.SUCCESS, None, remarks)


# ----------------------------------------------------------------- objects


class TestTheJobsOwnObject:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"status": "success", "data": {"id": ASKED, "status": "processing"}}, "processing"),
            ({"status": "success", "data": {"status": "processing"}}, "processing"),
            ({"status": "fail", "data": {"id": ASKED, "status": "queued"}}, "queued"),
            (
                {"id": "r-1", "status": "success", "data": {"id": ASKED, "status": "running"}},
                "running",
            ),
            (
                {"code": "success", "data": {"task_id": ASKED, "status": "IN_PROGRESS",
                                             "data": {"status": "processing"}}},
                "in_progress",
            ),
            ({"code": 0, "data": {"data": {"task_status": "running"}}}, "running"),
            ({"data": [{"id": "x", "status": "failed"}, {"id": ASKED, "status": "queued"}]},
             "queued"),
            ([{"id": ASKED, "status": "queued"}], "queued"),
            ({"data": json.dumps({"id": ASKED, "status": "queued"})}, "queued"),
            ({"output": {"task_id": ASKED, "task_status": "RUNNING"}}, "running"),
            ({"result": {"id": ASKED, "state": "running"}}, "running"),
            ({"id": ASKED, "status": "queued", "data": {"seed": 1}}, "queued"),
            ({"id": ASKED, "status": "ok", "task_status": "queued"}, "queued"),
        ],
        ids=repr,
    )  # fmt: skip
    def test_tells_the_status(self, body: object, status: str) -> None:
        assert report(body).status == status

    @pytest.mark.parametrize(
        ("outer", "inner", "meaning"),
        [
            ("SUCCESS", "completed", Meaning.SUCCESS),
            ("SUCCESS", "failed", Meaning.UNKNOWN),
            ("FAILURE", "completed", Meaning.UNKNOWN),
            ("FAILURE", "processing", Meaning.FAILURE),
            ("SUCCESS", "processing", Meaning.UNKNOWN),
            ("IN_PROGRESS", "completed", Meaning.IN_PROGRESS),
            ("IN_PROGRESS", "failed", Meaning.IN_PROGRESS),
        ],
    )
    def test_the_relays_status_counts_unless_the_channels_contradicts_it(
        self, outer: str, inner: str, meaning: Meaning
    ) -> None:
        data = {"task_id": ASKED, "status": outer, "data": {"id": ASKED, "status": inner}}
        assert report({"code": "success", "data": data}).meaning is meaning

    def test_a_success_with_its_url_is_one_whatever_stale_status_stands_beside_it(self) -> None:
        data = {"task_id": ASKED, "status": "SUCCESS", "result_url": RESULT}
        found = report({"code": "success", "data": data | {"data": {"status": "processing"}}})
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, RESULT)


class TestAStatusAroundANamedJob:
    """Beside an object that names the job and has no status, it may be the request's."""

    @pytest.mark.parametrize("status", ["success", "completed", "failed", "expired"])
    def test_ends_nothing_without_a_result(self, status: str) -> None:
        found = report({"status": status, "request_id": "r-1", "data": {"id": ASKED}})
        assert (found.meaning, found.failure) == (Meaning.UNKNOWN, None)
        assert found.remarks == (
            f"status says {status!r} of the request, nothing of the job within",
        )

    def test_is_a_success_with_one(self) -> None:
        found = report({"status": "success", "data": {"id": ASKED, "url": RESULT}})
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, RESULT)

    def test_counts_where_it_names_the_job_itself(self) -> None:
        body = {"id": ASKED, "status": "failed", "data": {"id": ASKED}}
        assert report(body).meaning is Meaning.FAILURE


class TestAboutNoJob:
    """A final word that stands alone tells how a look-up went: it ends nothing."""

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ({"status": "fail", "message": "Too many requests"}, ErrorKind.RATE_LIMITED),
            ({"status": "failed", "error": {"code": "insufficient_user_quota"}}, ErrorKind.QUOTA),
            ({"status": "failed", "error": "任务不存在"}, ErrorKind.NOT_FOUND),
            ({"status": "failed", "message": "internal error"}, ErrorKind.BAD_SHAPE),
            ({"status": "failed", "detail": "Not Found"}, ErrorKind.BAD_SHAPE),
            ({"status": "failed", "detail": {}}, ErrorKind.BAD_SHAPE),
            ({"status": "failed", "id": None}, ErrorKind.BAD_SHAPE),
            ({"status": "expired"}, ErrorKind.BAD_SHAPE),
            ({"status": "success"}, ErrorKind.BAD_SHAPE),
            ({"status": "success", "message": "ok", "data": None}, ErrorKind.BAD_SHAPE),
            ({"data": {"status": "failed", "message": "oops"}}, ErrorKind.BAD_SHAPE),
            ({"status": "error", "message": "oops"}, ErrorKind.BAD_SHAPE),
        ],
        ids=repr,
    )
    def test_is_a_failed_look_up(self, body: Body, kind: ErrorKind) -> None:
        answer = read(body)
        assert isinstance(answer, AnswerError)
        assert answer.kind is kind

    @pytest.mark.parametrize("status", ["failed", "FAILURE", "expired"])
    @pytest.mark.parametrize(
        "error",
        [
            {"message": "无效的令牌", "type": "new_api_error"},
            {"code": "insufficient_user_quota"},
            "Too many requests",
            "invalid token '<'",
            "",
            None,
        ],
        ids=repr,
    )
    def test_one_that_names_the_job_is_its_end_whatever_the_reason(
        self, status: str, error: object
    ) -> None:
        found = report({"id": "a", "status": status, "error": error}, "a")
        assert found.meaning in ENDS

    @pytest.mark.parametrize(
        ("body", "about"),
        [
            ({"status": "error", "error": "Asset upload returned 403"}, True),
            ({"status": "error", "message": "the reference image could not be read"}, True),
            ({"status": "error", "message": "image service unavailable"}, False),
            ({"status": "error", "message": "upload server busy, try again"}, False),
            ({"status": "error", "message": "model of this image not found"}, False),
            ({"status": "error", "message": "oops"}, False),
            ({"status": "error"}, False),
            ({"status": "failed", "error": "Asset upload returned 403"}, False),
            ({"status": "error", "error": "Too many requests for image uploads"}, False),
        ],
        ids=repr,
    )
    def test_only_a_text_that_can_be_about_one_job_alone_may_become_its_end(
        self, body: Body, about: bool
    ) -> None:
        """What an outage says of all jobs must end none, however long it lasts."""
        answer = read(body)
        assert isinstance(answer, AnswerError)
        assert answer.about_the_job is about

    @pytest.mark.parametrize(
        "facts",
        [
            {"id": ASKED},
            {"task_id": "internal"},
            {"detail": {"running": False}},
            {"video_url": None},
            {"status_update_time": 1770350200},
            {"progress": "100%"},
            {"model": "veo3"},
        ],
        ids=repr,
    )
    def test_anything_about_a_job_makes_it_the_jobs_end(self, facts: Body) -> None:
        assert report({"status": "failed", **facts}).meaning is Meaning.FAILURE

    def test_so_does_an_envelope_that_went_well(self) -> None:
        body = {"code": 200, "data": {"status": "failed", "error_msg": "no GPU"}}
        failure = report(body).failure
        assert failure is not None
        assert failure.message == "no GPU"

    @pytest.mark.parametrize("running", [True, 1, "true", "1", " True "])
    def test_a_failure_that_is_still_running_is_no_end(self, running: object) -> None:
        for facts in ({"running": running}, {"detail": {"running": running}}):
            found = report({"id": ASKED, "status": "failed", **facts})
            assert (found.meaning, found.failure) == (Meaning.UNKNOWN, None)

    @pytest.mark.parametrize("running", [False, 0, "false", None, "who knows", []])
    def test_one_that_is_not_is_an_end(self, running: object) -> None:
        assert report({"id": ASKED, "status": "failed", "running": running}).failure is not None


# ----------------------------------------------------------------- reasons

REASON_PLACES = (
    "error", "error.message", "error_message", "error_msg", "fail_reason", "failure_reason",
    "message", "detail.error", "detail.error_message", "detail.error_msg", "detail.fail_reason",
    "detail.failure_reason", "detail.message", "detail.pending_info.failure_reason",
    "detail.draft_info.reason_str", "detail.video_generation_error", "error_code", "err_code",
    "detail.err_code",
)  # fmt: skip
POLICY_TEXTS = (
    "This content may violate our guardrails concerning similarity to third-party content.",
    "sora_content_violation",
    "content violation",
    "content_policy_violation",
    "Your image shows a photorealistic person",
    "[400] Request failed | Reason: PUBLIC_ERROR_IP_INPUT_IMAGE",
    "PUBLIC_ERROR_AUDIO_FILTERED",
    "IP_PROHIBITED",
)


class TestReasons:
    @pytest.mark.parametrize("path", REASON_PLACES)
    def test_the_reason_is_the_one_that_stands_there(self, path: str) -> None:
        failure = report(put({"id": ASKED, "status": "failed"}, path, "no GPU")).failure
        assert failure is not None
        assert (failure.message, failure.code) == ("no GPU", "upstream_failed")

    @pytest.mark.parametrize("text", POLICY_TEXTS)
    @pytest.mark.parametrize("path", [*REASON_PLACES, "error.code", "detail.draft_info.kind"])
    def test_a_rejection_is_one_wherever_it_stands(self, path: str, text: str) -> None:
        failure = report(put({"id": ASKED, "status": "failed"}, path, text)).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("content_policy", False)

    @pytest.mark.parametrize("text", ["success", "SUCCEED", "ok", "", 0, 200])
    def test_what_says_that_the_request_went_well_is_no_reason(self, text: object) -> None:
        body = {"code": text, "message": text, "data": {"id": ASKED, "status": "failed"}}
        for each in (body, {"id": ASKED, "status": "failed", "code": text, "message": text}):
            failure = report(each).failure
            assert failure is not None
            assert failure.message == "upstream gave no reason (status: failed)"


# ---------------------------------------------- shapes that nobody has listed

FOUND = {"status": "completed", "video_url": RESULT}
MINE = {"id": ASKED, **FOUND}
OTHERS: Body = {"id": "veo3.1-fast:another", "status": "failed", "error": "unsafe prompt or images"}


class TestUnlistedShapes:
    @pytest.mark.parametrize(
        "body",
        [
            {"code": 200, "data": {"list": [MINE]}},
            {"code": 200.0, "msg": "ok", "data": {"items": [OTHERS, MINE]}},
            {"tasks": [OTHERS, MINE]},
            {"video": MINE},
            {"job": MINE},
            {"payload": {"body": json.dumps(MINE)}},
            {ASKED: FOUND},
            {"data": {"veo3.1-fast:another": OTHERS, ASKED: FOUND}},
            {"code": 0, "task": None, "page": {"records": [{"info": MINE}]}},
        ],
        ids=str,
    )
    def test_an_object_that_names_the_job_is_found_anywhere_and_that_is_recorded(
        self, body: Body
    ) -> None:
        found = report(body)
        assert (found.meaning, found.video_url, found.failure) == (Meaning.SUCCESS, RESULT, None)
        assert found.remarks == (FOUND_ELSEWHERE,)

    @pytest.mark.parametrize(
        "body",
        [
            {"tasks": [OTHERS]},
            {"tasks": [MINE, {"id": ASKED, "status": "failed"}]},
            {"error": "no such page", "last": {"id": ASKED, "status": "failed"}},
            {"code": 500, "message": "internal", "last": {"id": ASKED, "status": "failed"}},
            {"req": {"task": MINE}},
            {"job": {"status": "failed", "error": "whose?"}},
        ],
        ids=str,
    )
    def test_what_may_be_another_jobs_or_a_failed_look_ups_is_none(self, body: Body) -> None:
        answer = read(body)
        assert isinstance(answer, AnswerError)
        assert answer.kind is ErrorKind.BAD_SHAPE

    def test_one_that_names_the_job_without_a_status_is_not_searched_for_another(self) -> None:
        found = report({"id": ASKED, "history": [{"id": ASKED, "status": "failed"}]})
        assert found.meaning is Meaning.UNKNOWN

    @pytest.mark.parametrize(
        "body",
        [
            {"taskId": ASKED, "taskStatus": "SUCCESS", "videoUrl": RESULT},
            {"ID": ASKED, "STATUS": "COMPLETED", "VIDEO_URL": RESULT},
            {"Code": 0, "Message": "ok", "Data": {"Id": ASKED, "Status": "Done", "Url": RESULT}},
            {"data": json.dumps({"taskId": ASKED, "taskStatus": "SUCCESS", "resultUrl": RESULT})},
            {"ResponseMetadata": {}, "Result": {"task": {"ID": ASKED, "Status": "succeeded",
             "content": {"videoUrl": RESULT}}}},
        ],
        ids=str,
    )  # fmt: skip
    def test_keys_may_be_written_otherwise(self, body: Body) -> None:
        found = report(body)
        assert (found.meaning, found.video_url, found.remarks) == (Meaning.SUCCESS, RESULT, ())

    def test_of_two_spellings_of_a_key_that_of_the_table_counts(self) -> None:
        found = report({"id": ASKED, "Status": "failed", "status": "completed", "Url": RESULT})
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, RESULT)

    @pytest.mark.parametrize(
        "facts",
        [
            {"failReason": "no GPU"}, {"FailReason": "no GPU", "Message": "ok"},
            {"errors": ["no GPU"]}, {"errors": [{"message": "no GPU", "code": 7}]},
            {"error": {"error": {"message": "no GPU"}}}, {"error": {"msg": "no GPU"}},
            {"error": {"detail": "no GPU"}}, {"error": json.dumps({"error": {"msg": "no GPU"}})},
            {"error": {"code": 500, "message": ""}, "error_message": "no GPU"},
            {"task_status_msg": "no GPU"}, {"reason": "no GPU"}, {"failure": "no GPU"},
            {"failure_message": "no GPU", "failureCode": "X"}, {"err_msg": "no GPU"},
            {"error_detail": "no GPU"}, {"detail": "no GPU"}, {"detail": {"reason": "no GPU"}},
        ],
        ids=str,
    )  # fmt: skip
    def test_the_reason_is_found_as_a_text(self, facts: Body) -> None:
        found = report({"id": ASKED, "status": "failed", **facts})
        assert found.failure is not None
        assert (found.failure.message, found.failure.code) == ("no GPU", "upstream_failed")

    @pytest.mark.parametrize("url", [f"<{RESULT}>", f"[video]({RESULT})", f" ![]({RESULT})\n"])
    def test_a_url_may_be_marked_up(self, url: str) -> None:
        assert report({"id": ASKED, "status": "completed", "video_url": url}).video_url == RESULT

    def test_a_download_without_a_files_name_is_found(self) -> None:
        uri = "https://cdn.example.test/files/abc:download?alt=media"
        made = {
            "response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": uri}}]}}
        }
        assert report({"id": ASKED, "status": "completed", **made}).video_url == uri

    @pytest.mark.parametrize(
        "facts",
        [
            {"source_video_url": OTHER}, {"params": {"video_url": OTHER}},
            {"parameters": {"video_url": OTHER}}, {"remix_of": {"video_url": OTHER}},
            {"notify_url": OTHER}, {"status_url": OTHER}, {"docs_url": OTHER},
            {"help": {"url": OTHER}}, {"audio_url": OTHER}, {"subtitle_url": "https://v/a.srt"},
            {"sources": [{"id": "veo3.1-fast:another", "video_url": OTHER}]},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_went_in_or_is_no_video_is_not_taken_for_one(self, facts: Body) -> None:
        assert report({"id": ASKED, "status": "completed", **facts}).video_url is None

    @pytest.mark.parametrize("key", ["data", "result", "output", "response"])
    @pytest.mark.parametrize("listed", [0, 1, 2])
    def test_another_job_within_gives_neither_reason_nor_url(self, key: str, listed: int) -> None:
        other = OTHERS | {"video_url": OTHER, "url": OTHER}
        within: Body = {key: [other] * listed or other}
        failed = report({"id": ASKED, "status": "failed", **within})
        assert failed.failure is not None
        assert failed.failure.code == "upstream_failed"
        assert failed.errors == ()
        done = report({"id": ASKED, "status": "completed", **within})
        assert (done.meaning, done.video_url) == (Meaning.SUCCESS, None)

    @pytest.mark.parametrize(
        "body",
        [
            {"detail": "Task not found"}, {"detail": {"message": "task not found"}},
            {"errors": [{"message": "task_not_exist"}]}, {"ErrorMessage": "task does not exist"},
        ],
        ids=str,
    )  # fmt: skip
    def test_an_unknown_id_is_one_wherever_that_is_said(self, body: Body) -> None:
        found = interpret(ASKED, 404, {}, json.dumps(body).encode(), NOW)
        assert isinstance(found, AnswerError)
        assert found.kind is ErrorKind.NOT_FOUND


# ------------------------------------------------------------------ family


@pytest.mark.parametrize("name", FAMILY)
def test_the_last_answer_of_each_known_shape_is_understood(name: str) -> None:
    case = FAMILY[name]
    answers = [read(answer, case["asked"]) for answer in case["answers"]]
    ends, last = case["ends"], answers[-1]
    assert isinstance(last, Report)
    assert last.meaning is {"completed": Meaning.SUCCESS, "failed": Meaning.FAILURE}[ends["state"]]
    assert last.video_url == ends.get("video_url", last.video_url)
    if ends["state"] == "failed":
        assert last.failure is not None
        assert (last.failure.code, last.failure.retryable) == (
            ends["error_code"],
            ends["retryable"],
        )
    for earlier in answers[:-1]:
        if isinstance(earlier, AnswerError):
            assert earlier.kind == ends["poll_error"]
        else:
            assert earlier.meaning not in ENDS


# -------------------------------------------------------- any mixture of them

SPELLINGS: list[Callable[[str], object]] = [
    str, str.upper, str.title, lambda t: f" `{t}` ", lambda t: f'"{t}"', lambda t: [t],
]  # fmt: skip
NOISE: dict[str, list[Any]] = {
    "error": ["", None, {}, "Too many requests", {"code": "insufficient_user_quota"}, [], "[403]"],
    "error_message": [None, "", "rate limit", "[403] reCAPTCHA evaluation failed"],
    "code": [0, 200, None],
    "progress": [None, 0.93, "93%", 93, "soon"],
    "status_update_time": [1770350200, "1770350200000", None, "yesterday"],
    "images": [[{"url": OTHER, "status": "completed"}], [OTHER], OTHER],
    "input": [{"video_url": OTHER}, [OTHER], OTHER],
    "req": [{"images": [OTHER], "video": OTHER}],
    "thumbnail_url": [OTHER],
    "last_image_url": [OTHER],
    "usage": [{"status": 1}, None],
    "metadata": [{"state": {"status": "failed"}}, "failed"],
    "upsample_status": ["MEDIA_GENERATION_STATUS_FAILED", "failed"],
    "retry_count": [3, "3"],
}
DETAILS: dict[str, list[Any]] = {
    "error_message": [None, "[403] reCAPTCHA evaluation failed", {"code": 403}],
    "video_generation_error": [None, "unsafe prompt or images"],
    "images": [[{"url": OTHER, "status": "completed"}], OTHER],
    "req": [{"images": [OTHER], "model": "veo3"}],
    "retry_count": [3, "3", None],
    "status": ["video_generating", "processing", None, 7],
}


RELAYS = {Meaning.SUCCESS: "SUCCESS", Meaning.FAILURE: "FAILURE"}


def some(choices: dict[str, list[Any]]) -> st.SearchStrategy[Body]:
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in choices.items()})


def merged(one: object, other: object) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys()}
    return other | one | both


@st.composite
def dressed(draw: st.DrawFn, status: str, facts: Body) -> Any:
    """A job's answer in any shape: keys renamed, texts quoted, neighbours' errors, wrapped."""
    spelt = draw(st.sampled_from(SPELLINGS))(status)
    body: Body = {draw(st.sampled_from(places.STATUS_KEYS)): spelt, **facts}
    bare = ASKED.partition(":")[2]
    names: list[Body] = [{"id": ASKED}, {"task_id": ASKED}, {"id": bare}, {"id": [ASKED]}]
    body |= draw(st.sampled_from([*names, {"id": 17, "task_id": f" {ASKED}"}]))
    body = merged(body, draw(some(NOISE)))
    if draw(st.booleans()):
        body = merged(body, {"detail": draw(some(DETAILS))})
    if draw(st.booleans()) and isinstance(body.get("detail"), dict):
        body["detail"] = draw(st.sampled_from([json.dumps(body["detail"]), [body["detail"]]]))
    return draw(wrapped(body, status))


@st.composite
def wrapped(draw: st.DrawFn, body: Body, status: str) -> Any:
    inner = draw(st.sampled_from([body, [body], json.dumps(body)]))
    relay = RELAYS.get(meaning_of(status), "IN_PROGRESS")
    outer: list[Any] = [
        body,
        [body],
        {"data": inner},
        {"status": "success", "data": inner},
        {"code": "success", "message": "", "data": inner},
        {"code": 200, "msg": "success", "request_id": "r-1", "data": inner},
        {"code": 0, "message": "SUCCEED", "data": {"data": inner}},
        {"code": "success", "data": {"task_id": ASKED, "status": relay, "data": inner}},
        {"request_id": "r-1", "output": inner},
        {"success": True, "result": inner},
        {"response": inner},
    ]
    return draw(st.sampled_from(outer))


SUCCESSES = st.sampled_from(["completed", "success", "succeeded", "succeed", "done", "finished"])
FAILURES = st.sampled_from(["failed", "failure", "fail", "rejected", "cancelled"])
UNFINISHED = st.sampled_from(["pending", "queued", "processing", "in_progress", "daydreaming"])
URLS = st.sampled_from([RESULT, f" `{RESULT}` ", f'"{RESULT}"', [RESULT]])


class TestAnyShape:
    @given(st.data(), SUCCESSES, st.sampled_from([*RESULT_PLACES, "media.mp4_url", "links"]), URLS)
    def test_a_success_is_one_and_its_url_is_found(
        self, data: st.DataObject, status: str, path: str, url: object
    ) -> None:
        found = report(data.draw(dressed(status, put({}, path, url))))
        assert found.meaning is Meaning.SUCCESS, found.remarks
        assert (found.video_url, found.failure) == (RESULT, None)

    @given(st.data(), SUCCESSES, st.sampled_from([None, "", [], "pending", 0]))
    def test_a_success_without_a_url_is_one(
        self, data: st.DataObject, status: str, url: object
    ) -> None:
        found = report(data.draw(dressed(status, {"video_url": url})))
        assert found.meaning in (Meaning.SUCCESS, Meaning.UNKNOWN), found.remarks
        assert (found.video_url, found.failure) == (None, None)

    @given(st.data(), FAILURES, st.sampled_from(REASON_PLACES), st.sampled_from(POLICY_TEXTS))
    def test_a_failure_is_one_and_has_its_reason(
        self, data: st.DataObject, status: str, path: str, reason: str
    ) -> None:
        found = report(data.draw(dressed(status, put({"video_url": None}, path, reason))))
        assert found.meaning is Meaning.FAILURE, found.remarks
        assert found.failure is not None
        assert found.failure.code == "content_policy"

    @given(st.data(), FAILURES, st.sampled_from([True, 1, "true"]))
    def test_a_failure_that_is_still_running_is_no_end(
        self, data: st.DataObject, status: str, running: object
    ) -> None:
        either: list[Body] = [{"running": running}, {"detail": {"running": running}}]
        facts = data.draw(st.sampled_from(either))
        assert report(data.draw(dressed(status, facts))).meaning is Meaning.UNKNOWN

    @given(st.data(), UNFINISHED, st.sampled_from([{}, {"url": RESULT}, {"error": "boom"}]))
    def test_a_job_that_goes_on_is_not_ended(
        self, data: st.DataObject, status: str, facts: Body
    ) -> None:
        found = report(data.draw(dressed(status, facts)))
        assert found.meaning not in ENDS
        assert found.foreign_id is None


# ---------------------------------------------- any change to what upstream has really answered

SAMPLES = Path(__file__).parent / "data" / "upstream"
REAL: dict[str, tuple[str, Body]] = {
    **{name: (case["asked"], case["answers"][-1]) for name, case in FAMILY.items()},
    **{f"{name}-open": (case["asked"], case["answers"][0]) for name, case in FAMILY.items()},
    "veo": (ASKED, json.loads((SAMPLES / "veo-completed.json").read_text("utf-8"))),
    "grok": (
        "grok:18e59915-22b0-4c62-9024-b7e3a0a37821",
        json.loads((SAMPLES / "grok-running-seconds.json").read_text("utf-8")),
    ),
}
KINDS = {name: read(body, asked) for name, (asked, body) in REAL.items()}
SYNONYMS = (
    ("status", "state", "task_status"),
    ("id", "task_id"),
    ("video_url", "url", "result_url"),
    ("error", "error_message", "error_msg", "failure_reason"),
    ("created_at", "submit_time"),
    ("completed_at", "finish_time"),
)
NEIGHBOURS: list[Body] = [
    {"error": "Too many requests"},
    {"error_message": "[403] reCAPTCHA evaluation failed"},
    {"error_msg": "insufficient_user_quota", "error_code": 403},
    {"message": "SUCCEED"},
    {"images": [{"url": OTHER, "status": "completed"}, {"url": OTHER, "status": "failed"}]},
    {"req": {"status": "failed", "video_url": OTHER}},
    {"input": {"video_url": OTHER}},
    {"thumbnail_url": OTHER, "cover_url": OTHER},
    {"usage": {"status": "completed"}, "retry_count": 3},
]
WRAPPERS: list[Callable[[Any], Any]] = [
    lambda body: [body],
    lambda body: {"data": body},
    lambda body: {"code": 0, "message": "SUCCEED", "data": body},
    lambda body: {"code": "success", "data": json.dumps(body)},
    lambda body: {"status": "success", "request_id": "r-1", "data": body},
    lambda body: {"result": body},
    lambda body: {"response": [body]},
]


ANYWHERE: list[Callable[[Any], Any]] = [  # for those that name their job
    lambda body: {"code": 200, "data": {"list": [body]}},
    lambda body: {"page": 1, "tasks": [{"id": "veo3.1:another", "status": "failed"}, body]},
    lambda body: {"job": body},
]


def camel(key: str) -> str:
    first, *others = key.split("_")
    return first + "".join(map(str.title, others))


KEYS: list[Callable[[str], str]] = [
    str, str, camel, str.upper, lambda key: key[:1].upper() + camel(key)[1:],
]  # fmt: skip


def respelt_keys(value: Any, spelling: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [respelt_keys(each, spelling) for each in value]
    if not isinstance(value, dict):
        return value
    return {spelling(key): respelt_keys(each, spelling) for key, each in value.items()}


def renamed(value: Any, draw: st.DrawFn) -> Any:
    """Keys under other names that they are known by, where nothing stands under those."""
    if isinstance(value, list):
        return [renamed(each, draw) for each in value]
    if not isinstance(value, dict):
        return value
    found: Body = {}
    for key, inner in value.items():
        group = next((names for names in SYNONYMS if key in names), (key,))
        free = [name for name in group if name == key or name not in value.keys() | found.keys()]
        found[draw(st.sampled_from(free))] = renamed(inner, draw)
    return found


def respelt(value: Any, draw: st.DrawFn, key: str = "") -> Any:
    """Texts in quotes or in lists, numbers as texts, objects in lists or as JSON."""
    if isinstance(value, dict):
        inner = {name: respelt(each, draw, name) for name, each in value.items()}
        if key in ("detail", "data", "output") and draw(st.integers(0, 4)) == 0:
            return draw(st.sampled_from([[inner], json.dumps(inner)]))
        return inner
    if isinstance(value, list):
        return value
    spellings: list[Any] = [value, value, value]
    if isinstance(value, str) and key in ("status", "id", "video_url", "url", "task_id"):
        spellings += [f" `{value}` ", f'"{value}"', [value]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        spellings += [str(value)]
    return draw(st.sampled_from(spellings))


@st.composite
def changed(draw: st.DrawFn, body: Body, asked: str) -> Any:
    found: Any = respelt(renamed(body, draw), draw)
    # Without a status, or with `error`, a neighbour's reason may well be the look-up's.
    sure = finding.has_status(body) and "error" not in body.values()
    neighbours = NEIGHBOURS if sure else NEIGHBOURS[4:]
    for extra in draw(st.lists(st.sampled_from(neighbours), max_size=2)):
        found = merged(found, extra)
        detail = found.get("detail")
        if isinstance(detail, dict) and draw(st.booleans()):
            found = found | {"detail": merged(detail, extra)}
    found = respelt_keys(found, draw(st.sampled_from(KEYS)))
    known = finding.has_status(body) and finding.names(body, asked)
    wrappers = WRAPPERS + (ANYWHERE if known else [])
    return draw(st.sampled_from(wrappers))(found) if draw(st.booleans()) else found


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=20)  # for each of some fifty
@given(data=st.data())
def test_no_change_of_shape_changes_what_upstream_said(name: str, data: st.DataObject) -> None:
    """Never another end, never an end of what goes on, never a success told as a failure."""
    (asked, body), before = REAL[name], KINDS[name]
    after = read(data.draw(changed(body, asked)), asked)
    if isinstance(
        before, AnswerError
    ):  # a failed look-up, which an envelope may make the job's end
        assert isinstance(after, AnswerError) or after.meaning is not Meaning.SUCCESS
        return
    assert isinstance(after, Report)
    assert after.meaning is before.meaning, after.remarks
    assert after.video_url == before.video_url or before.meaning is not Meaning.SUCCESS
    assert (after.failure and after.failure.code) == (before.failure and before.failure.code)


class TestWhatIsGivenInPlaceOfAUrl:
    """A success whose URL can't be taken says what it gave: never that it gave none."""

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("gs://bucket/v.mp4", "gs://bucket/v.mp4 (no http(s) URL)"),
            ("/files/a.mp4", "/files/a.mp4 (no http(s) URL)"),
            ("../files/a", "../files/a (no http(s) URL)"),
            ("files/a.mp4?sig=1", "files/a.mp4 (no http(s) URL)"),
            ("javascript:alert(1)", "javascript:alert(1) (no http(s) URL)"),
            ("data:video/mp4;base64," + "A" * 9_000, None),
            ("http://[::1]:99999/v.mp4", "http://[::1]:99999/v.mp4 (no host or port to ask)"),
            ("https:///v.mp4", "https:///v.mp4 (no host or port to ask)"),
            ("https://cdn.example:0/v.mp4", "https://cdn.example:0/v.mp4 (no host or port to ask)"),
            (
                f"{RESULT}?sig=" + "a" * 9_000,
                f"{RESULT} (of 9,035 characters, and 8,192 are kept at most)",
            ),
        ],
        ids=lambda given: repr(given)[:30],
    )
    @pytest.mark.parametrize("key", ["video_url", "url", "result_url"])
    def test_is_told_and_why_it_is_not_taken(self, key: str, given: str, told: str | None) -> None:
        told = told or "data:video/mp4;base64," + "A" * 58 + "… (no http(s) URL)"
        found = report({"id": "a", "status": "completed", key: given}, "a")
        lacking = f"gave a video URL that can't be used: {told}"
        assert (found.meaning, found.video_url) == (Meaning.SUCCESS, None)
        assert (found.lacking, found.remarks) == (lacking, (lacking,))

    @pytest.mark.parametrize("given", [None, "", " ", "null", "none", "N/A", "-", "pending", {}, 1])
    def test_is_nothing_where_none_was_given(self, given: object) -> None:
        found = report({"id": "a", "status": "completed", "video_url": given}, "a")
        assert (found.lacking, found.remarks) == (None, ())

    def test_is_not_told_where_another_place_has_a_url(self) -> None:
        found = report(
            {"id": "a", "status": "completed", "video_url": "gs://b/v", "url": RESULT}, "a"
        )
        assert (found.video_url, found.lacking, found.remarks) == (RESULT, None, ())

    def test_is_several_urls_of_which_none_is_taken(self) -> None:
        body = {"id": "a", "status": "completed", "files": {"result": [RESULT, OTHER]}}
        assert report(body, "a").lacking == "2 URLs could be the result: none is taken"


@pytest.mark.parametrize("broken", ["https://[x/v.mp4", "https://a.b]/v.mp4"])
def test_a_url_that_nobody_could_open_is_no_result(broken: str) -> None:
    assert finding.search({"video": {"file": broken}}, "a") == frozenset()
