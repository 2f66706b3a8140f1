"""The stand-in upstream: what its scripted jobs answer, and the server that serves them."""

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
import requests
from requests.structures import CaseInsensitiveDict

from reelwatch.net import upstream
from reelwatch.rules.answers import AnswerError, ErrorKind, Meaning, Report, interpret
from reelwatch.rules.status import ENDS
from reelwatch.sandbox.answers import Answer, Poll
from reelwatch.sandbox.bodies import fault_answer
from reelwatch.sandbox.odd import ODD
from reelwatch.sandbox.scripts import read_id
from reelwatch.sandbox.upstream import (
    SCRIPTS,
    Sandbox,
    Window,
    answer,
    expected,
    fingerprint,
    scripted_id,
)

STARTED = 1_770_350_082.099
MODELS = ("veo3.1-fast", "sora-2", "grok", "luma")
UNSAFE = "unsafe prompt or images"
Body = dict[str, Any]


def poll(video_id: str, share: float, number: int = 1, past_end: int = 1) -> Answer:
    """A poll the job when that share of its duration has passed."""
    return answer(video_id, number, share * read_id(video_id).seconds, STARTED, past_end)


def body_of(reply: Answer) -> Body:
    value = json.loads(reply.body)
    assert isinstance(value, dict)
    return value


def body(video_id: str, share: float, number: int = 1, past_end: int = 1) -> Body:
    reply = poll(video_id, share, number, past_end)
    assert reply.status == 200
    return body_of(reply)


def made(script: str, model: str = "veo3.1-fast", seconds: float = 100) -> str:
    return scripted_id(model, script, seconds, "x1")


def result_url(found: Body) -> str | None:
    """The result as a careful client reads it: never an input's URL."""
    detail = found.get("detail") or {}
    return found.get("video_url") or detail.get("video_url") or detail.get("url")


class TestIds:
    @pytest.mark.parametrize(
        ("video_id", "model", "script", "seconds"),
        [
            ("veo3.1-fast:ok.12s-x7", "veo3.1-fast", "ok", 12.0),
            ("grok:policy.8s-a", "grok", "policy", 8.0),
            ("sora-2:failed.250ms-a", "sora-2", "failed", 0.25),
            ("sora-2:failed.1.5m-a-b", "sora-2", "failed", 90.0),
            ("sora-2:gone-a", "sora-2", "gone", 20.0),
            ("sora-2:gone", "sora-2", "gone", 20.0),
            ("veo3:ok.0s-now", "veo3", "ok", 0.0),
        ],
    )
    def test_an_id_tells_model_script_and_duration(
        self, video_id: str, model: str, script: str, seconds: float
    ) -> None:
        job = read_id(video_id)
        assert (job.model, job.script, job.seconds) == (model, script, seconds)

    @pytest.mark.parametrize(
        ("video_id", "model"),
        [
            ("veo3.1-fast:1770350082-trii1OXZc3", "veo3.1-fast"),
            ("grok:18e59915-22b0-4c62-9024-b7e3a0a37821", "grok"),
            ("veo3:nosuchscript.5s-a", "veo3"),
            ("veo3:ok.5h-a", "veo3"),
            ("veo3:policy5s", "veo3"),
            ("18e59915-22b0-4c62-9024-b7e3a0a37821", ""),
            ("veo3:\udce4", "veo3"),
        ],
    )
    def test_any_other_id_is_an_ok_job_of_5_to_40_seconds(self, video_id: str, model: str) -> None:
        job = read_id(video_id)
        assert (job.model, job.script) == (model, "ok")
        assert 5 <= job.seconds <= 40
        assert read_id(video_id) == job

    def test_unscripted_durations_differ(self) -> None:
        assert len({read_id(f"veo3:1770350082-{n}").seconds for n in range(100)}) > 90

    @pytest.mark.parametrize(
        ("seconds", "text"), [(12, "12s"), (0.25, "0.25s"), (1200, "1200s"), (0, "0s")]
    )
    def test_a_made_id_reads_back(self, seconds: float, text: str) -> None:
        video_id = scripted_id("grok", "policy", seconds, "a:b-c")
        assert video_id == f"grok:policy.{text}-a:b-c"
        assert expected(video_id) is SCRIPTS["policy"]
        assert read_id(video_id).seconds == seconds

    @pytest.mark.parametrize(
        ("model", "script", "seconds"),
        [("veo3", "nosuch", 5), ("", "ok", 5), ("veo:3", "ok", 5), ("veo3", "ok", -1)],
    )
    def test_parts_that_make_no_scripted_id_are_refused(
        self, model: str, script: str, seconds: float
    ) -> None:
        with pytest.raises(ValueError, match="no scripted id"):
            scripted_id(model, script, seconds, "x")

    def test_every_script_says_what_it_does_and_where_it_ends(self) -> None:
        codes: dict[str, set[str | None]] = {
            "completed": {None, "no_result"},
            "expired": {"deadline"},
            "failed": {
                "content_policy",
                "upstream_failed",
                "upsampling_failed",
                "upstream_expired",
                "not_found",
            },
        }
        for name, script in SCRIPTS.items():
            assert script.name == name
            assert script.summary
            assert script.error_code in codes[script.outcome]


class TestFamilies:
    def test_veo_goes_through_its_stages_in_order(self) -> None:
        statuses = [body("veo3.1-fast:ok.100s-a", share / 100)["status"] for share in range(101)]
        assert list(dict.fromkeys(statuses)) == [
            "pending",
            "image_downloading",
            "video_generating",
            "video_generation_completed",
            "video_upsampling",
            "completed",
        ]

    def test_veo_says_little_at_first_and_keeps_a_record_later(self) -> None:
        first, later = body("veo3:ok.100s-a", 0), body("veo3:ok.100s-a", 0.3)
        assert first == {
            "id": "veo3:ok.100s-a",
            "status": "pending",
            "status_update_time": int(STARTED * 1000),
        }
        assert later["video_url"] is None
        assert later["status_update_time"] == int((STARTED + 12) * 1000)
        assert later["detail"]["running"] is True
        assert later["detail"]["req"]["images"] == [later["detail"]["images"][0]["url"]]

    def test_veo_completes_with_the_upsampled_url_on_top(self) -> None:
        done = body("veo3:ok.100s-a", 1)
        detail = done["detail"]
        assert done["video_url"] == detail["upsample_video_url"]
        assert detail["video_url"] not in (None, done["video_url"])
        assert detail["running"] is False
        assert detail["created_at"] == int(STARTED * 1000)
        assert detail["completed_at"] == int((STARTED + 100) * 1000)
        assert done["status_update_time"] == detail["completed_at"] + 104

    def test_sora_tells_progress_in_its_detail_and_the_url_there_too(self) -> None:
        queued, half, done = (body("sora-2:ok.100s-a", share) for share in (0, 0.5, 1))
        assert queued["status"] == "queued"
        assert (half["status"], half["detail"]["progress_pct"]) == ("in_progress", 50)
        assert half["status_update_time"] == int(STARTED + 10)
        assert done["video_url"] is None
        assert done["detail"]["url"].endswith(".mp4")

    def test_grok_lacks_its_prefix_and_mixes_seconds_with_milliseconds(self) -> None:
        pending, half, done = (body("grok:ok.100s-a", share) for share in (0, 0.5, 1))
        assert pending["id"] == half["id"] == done["id"] == "ok.100s-a"
        assert pending["status_update_time"] == int(STARTED * 1000)
        assert half == {
            "id": "ok.100s-a",
            "status": "processing",
            "status_update_time": int(STARTED + 10),
            "progress": 50,
        }
        assert done["error"] == ""
        assert done["video_url"].endswith(".mp4")

    def test_other_models_keep_their_prefix(self) -> None:
        assert body("luma:ok.100s-a", 0.5)["id"] == "luma:ok.100s-a"

    def test_an_answer_is_the_same_every_time(self) -> None:
        for script in SCRIPTS:
            for number in range(1, 8):
                video_id = made(script)
                assert poll(video_id, number / 6, number) == poll(video_id, number / 6, number)


def ends_completed(found: Body) -> bool:
    url = result_url(found)
    return found["status"] == "completed" and url is not None and url.endswith(".mp4")


def ends_rejected(found: Body) -> bool:
    message = str((found.get("detail") or {}).get("error_message"))
    return found["status"] == "failed" and (
        "PUBLIC_ERROR_" in message or UNSAFE in found.get("error", "")
    )


def ends_silent(found: Body) -> bool:
    return found.keys() == {"id", "status", "status_update_time"} and found["status"] == "failed"


def ends_upsampling(found: Body) -> bool:
    return found["status"] == "video_upsampling_failed" and not found["detail"]["running"]


SHAPES: dict[str, Callable[[Body], bool]] = {
    "policy": ends_rejected,
    "failed": lambda found: (found["status"], found["error"]) == ("failed", "Task failed"),
    "failedobject": lambda found: "(request id: " in found["error"]["message"],
    "silent": ends_silent,
    "upsampling": ends_upsampling,
    "gone": lambda found: found["status"] == "expired",
    "noresult": lambda found: found["status"] == "completed" and result_url(found) is None,
    "wrapped": lambda found: found["code"] == "success" and ends_completed(found["data"]),
    "unknown": lambda found: found["code"] == "task_not_exist",
    "renamed": lambda found: found["data"]["result_url"].endswith(".mp4"),
    "nested": lambda found: found["detail"]["draft_info"]["downloadable_url"].endswith(".mp4"),
    "quoted": lambda found: found["video_url"][0].strip().endswith(".mp4`"),
    "hidden": lambda found: found["media"]["files"][0]["download"].endswith(".mp4"),
    "errorword": lambda found: (found["status"], bool(found["error"])) == ("error", True),
    "guardrails": lambda found: "guardrails" in found["detail"]["draft_info"]["reason_str"],
    "forever": lambda found: "completed" not in found["status"] and result_url(found) is None,
}
END_STATUS = {"unknown": 400}


def understood(video_id: str, reply: Answer) -> Report | AnswerError:
    """What Reelwatch makes of it."""
    at = datetime.now(UTC)
    return interpret(video_id, reply.status, CaseInsensitiveDict(reply.headers), reply.body, at)


class TestScripts:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in ODD])
    def test_every_script_reaches_its_end_and_stays_there(self, script: str, model: str) -> None:
        polls = [poll(made(script, model), 1.5, number, number) for number in range(6, 60)]
        wanted = END_STATUS.get(script, 200)
        ended = 0
        for reply in polls:
            try:
                found = body_of(reply)
            except ValueError:  # the scripts that answer nonsense go on doing so
                assert script in ("flaky", "html", "garbage")
                continue
            if reply.status == wanted:
                assert SHAPES.get(script, ends_completed)(found)
                ended += 1
        assert ended >= len(polls) / 2
        assert script in ("flaky", "html", "garbage") or ended == len(polls)

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("script", [n for n in SCRIPTS if n != "unknown" and n not in ODD])
    def test_no_script_is_over_before_its_time(self, script: str, model: str) -> None:
        usual = [body(made("ok", model), share)["status"] for share in (0.2, 0.35)]
        numbers = (5, 7)  # polls of which no script has a surprise but flaky
        replies = [
            poll(made(script, model), share, n)
            for share, n in zip((0.2, 0.35), numbers, strict=True)
        ]
        for reply, status in zip(replies, usual, strict=True):
            if reply.status >= 500:
                assert script == "flaky"
                continue
            found = body_of(reply)
            assert found.get("data", found).get("status", status) in (status, "IN_PROGRESS")
            assert not isinstance(understood(made(script, model), reply), AnswerError)

    @pytest.mark.parametrize(
        ("script", "kind"),
        [
            ("refused", ErrorKind.UNAUTHORIZED),
            ("unpaid", ErrorKind.QUOTA),
            ("denied", ErrorKind.FORBIDDEN),
            ("nomodel", ErrorKind.FORBIDDEN),
            ("noroute", ErrorKind.BAD_SHAPE),
            ("limited", ErrorKind.RATE_LIMITED),
            ("outage", ErrorKind.SERVER_ERROR),
            ("gibberish", ErrorKind.NOT_JSON),
        ],
    )
    def test_an_odd_job_gets_the_same_error_at_every_poll(
        self, script: str, kind: ErrorKind
    ) -> None:
        for share in (0.0, 0.5, 1.0, 50.0):
            found = understood(made(script), poll(made(script), share, 7))
            assert isinstance(found, AnswerError)
            assert (found.kind, found.of_its_model) == (kind, script == "nomodel")

    def test_the_odd_job_that_gets_none_waits_for_it(self) -> None:
        assert poll(made("silence"), 50.0, 7).delay >= upstream.DEADLINE_SECONDS

    @pytest.mark.parametrize("model", MODELS)
    def test_leftovers_look_like_a_failure_and_are_none(self, model: str) -> None:
        done = body(made("leftovers", model), 1)
        detail = done["detail"]
        assert done["status"] == "completed"
        assert detail["retry_count"] == detail["max_retries"]
        assert detail["error_message"].startswith("[403]")
        assert UNSAFE in detail["video_generation_error"]
        assert result_url(done) == result_url(body(made("leftovers", model), 2))

    def test_policy_reasons_vary_with_the_id(self) -> None:
        reasons = {
            body(scripted_id("veo3", "policy", 1, str(n)), 1)["detail"]["error_message"]
            for n in range(50)
        }
        assert len(reasons) == 4

    def test_a_late_url_takes_three_polls_from_the_end(self) -> None:
        for nth in (1, 2, 3):
            early = body(made("lateurl"), 1, 10 + nth, past_end=nth)
            assert (early["status"], result_url(early)) == ("completed", None)
        assert result_url(body(made("lateurl"), 1, 14, past_end=4)) is not None

    @pytest.mark.parametrize("model", MODELS)
    def test_a_detail_url_is_nowhere_else(self, model: str) -> None:
        done = body(made("detailurl", model), 1)
        assert done["video_url"] is None
        assert done["detail"]["video_url"].endswith(".mp4")
        assert "upsample_video_url" not in done["detail"]

    def test_failed_upsampling_leaves_the_original(self) -> None:
        done = body(made("upsampling"), 1)
        assert done["video_url"] is None
        assert done["detail"]["video_url"].endswith(".mp4")

    def test_a_retried_failure_is_not_the_end(self) -> None:
        statuses = [body(made("retried"), share)["status"] for share in (0.39, 0.4, 0.59, 0.6, 1)]
        assert statuses == [
            "video_generating",
            "video_generation_failed",
            "video_generation_failed",
            "video_generating",
            "completed",
        ]
        detail = body(made("retried"), 0.5)["detail"]
        assert detail["running"] is True
        assert detail["retry_count"] == 1
        assert detail["error_message"].startswith("[403]")

    def test_an_odd_status_comes_midway(self) -> None:
        statuses = [body(made("odd"), share)["status"] for share in (0.39, 0.4, 0.59, 0.6, 1)]
        assert statuses[1] == statuses[2] == "video_daydreaming"
        assert statuses[0] == statuses[3] == "video_generating"

    def test_wrapped_wraps_every_answer(self) -> None:
        for share, status in ((0, "pending"), (0.3, "video_generating"), (1, "completed")):
            found = body(made("wrapped"), share)
            assert found["code"] == "success"
            assert found["data"]["status"] == status
            assert "status" not in found

    def test_flaky_answers_about_a_third_of_the_polls_with_a_5xx(self) -> None:
        replies = [poll(made("flaky"), 0.5, number) for number in range(1, 601)]
        bad = [reply for reply in replies if reply.status != 200]
        assert 150 <= len(bad) <= 250
        assert {reply.status for reply in bad} == {500, 502, 503, 504}
        assert {not reply.body for reply in bad} == {True, False}

    def test_html_comes_every_other_poll_with_502_or_even_200(self) -> None:
        replies = [poll(made("html"), 0.5, number) for number in range(1, 5)]
        assert [reply.status for reply in replies] == [200, 200, 200, 502]
        assert [reply.body.startswith(b"<html>") for reply in replies] == [False, True] * 2
        assert replies[1].headers["Content-Type"].startswith("text/html")

    def test_garbage_is_the_beginning_of_the_answer(self) -> None:
        whole, cut = (poll(made("garbage"), 1, number) for number in (1, 2))
        assert cut.status == 200
        assert whole.body.startswith(cut.body)
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            json.loads(cut.body)

    def test_busy_slows_down_polls_2_to_4_in_three_ways(self) -> None:
        replies = [poll(made("busy"), 0.3, number) for number in range(1, 6)]
        assert [reply.status for reply in replies] == [200, 429, 429, 429, 200]
        assert (replies[1].body, dict(replies[1].headers)) == (b"", {})
        assert replies[2].headers["Retry-After"] == "1"
        assert body_of(replies[3])["code"] == "upstream_load_saturated"

    def test_unready_is_unknown_for_two_polls(self) -> None:
        replies = [poll(made("unready"), 0.3, number) for number in (1, 2, 3)]
        assert [reply.status for reply in replies] == [400, 400, 200]
        assert body_of(replies[0]) == {
            "code": "task_not_exist",
            "message": "task_not_exist",
            "data": None,
        }

    @pytest.mark.parametrize("script", ["forgotten", "moved"])
    def test_one_that_is_not_found_is_so_for_half_its_duration(self, script: str) -> None:
        statuses = [poll(made(script), share).status for share in (0, 0.49, 0.5, 0.99, 1)]
        assert statuses == [200, 200, 404, 404, 200]

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize(
        "script", [n for n in SCRIPTS if n not in ("flaky", "html", "garbage")]
    )
    def test_reelwatch_reads_the_end_that_each_promises(self, script: str, model: str) -> None:
        """But for those that end by a count or a deadline."""
        found = understood(made(script, model), poll(made(script, model), 1.5, 9, 9))
        wanted = SCRIPTS[script]
        if wanted.error_code in ("not_found", "deadline"):
            assert isinstance(found, AnswerError) or found.meaning not in ENDS
            return
        assert isinstance(found, Report)
        assert (found.meaning is Meaning.SUCCESS) == (wanted.outcome == "completed")
        lacks = wanted.outcome == "failed" or wanted.error_code == "no_result"
        assert (found.video_url is None) == lacks or script == "upsampling"
        if wanted.outcome == "failed":
            assert found.failure is not None
            assert found.failure.code == wanted.error_code

    def test_forever_runs_on_after_any_time(self) -> None:
        assert body(made("forever"), 10_000)["status"] == "video_generating"
        assert body(made("forever", seconds=0), 1)["status"] == "video_upsampling"

    def test_hang_leaves_the_first_poll_without_an_answer(self) -> None:
        first = poll(made("hang"), 0)
        assert (first.status, first.delay) == (0, 30.0)
        assert poll(made("hang"), 0, number=2).status == 200

    def test_every_relay_error_holds_its_own_request_id(self) -> None:
        first, second = (poll(made("forgotten"), 0.7, number) for number in (1, 2))
        assert body_of(first) != body_of(second)


class TestPoll:
    def test_a_job_of_no_duration_is_over_at_once(self) -> None:
        at_once = Poll(read_id("veo3:ok.0s-a"), 1, 0.0, STARTED, 1)
        assert at_once.over
        assert at_once.share == 1.0


class TestWindow:
    def test_it_finds_the_fullest_second_wherever_that_begins(self) -> None:
        window = Window()
        for now in (0.0, 0.6, 0.9, 1.1, 1.5, 1.9, 5.0):
            assert window.arrive(now, None)
        assert (window.peak, window.requests, window.refused) == (4, 7, 0)
        assert len(window.arrivals) == 1

    def test_a_full_second_later_is_another_second(self) -> None:
        window = Window()
        assert [window.arrive(now, 1) for now in (0.0, 1.0, 2.0)] == [True] * 3
        assert window.peak == 1

    def test_one_too_many_is_refused_and_counts_too(self) -> None:
        window = Window()
        assert [window.arrive(now, 2) for now in (0.0, 0.1, 0.2, 1.05, 1.15, 1.3)] == [
            True,
            True,
            False,
            False,
            False,
            False,
        ]
        assert window.refused == 4
        assert window.arrive(3.0, 2)


class TestFaults:
    @pytest.mark.parametrize(
        ("mode", "status", "text"),
        [
            ("401", 401, "无效的令牌"),
            ("403", 403, "insufficient_user_quota"),
            ("429", 429, ""),
            ("500", 500, "(request id: "),
            ("html", 200, "<html>"),
            ("garbage", 200, '{"id":'),
            ("hang", 0, ""),
        ],
    )
    def test_each_mode_has_its_answer(self, mode: str, status: int, text: str) -> None:
        fault = fault_answer(mode)
        assert fault is not None
        assert fault.status == status
        assert text in fault.body.decode()
        assert "Retry-After" not in fault.headers

    def test_retry_after_can_be_added(self) -> None:
        fault = fault_answer("429", 3)
        assert fault is not None
        assert fault.headers["Retry-After"] == "3"

    def test_none_is_no_fault_and_others_are_refused(self) -> None:
        assert fault_answer("none") is None
        with pytest.raises(ValueError, match="no fault 'teapot'; there are none, 401"):
            fault_answer("teapot")


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = "Bearer key-1"
        yield session


def ask(
    client: requests.Session, sandbox: Sandbox, video_id: str, **options: Any
) -> requests.Response:
    url = f"{sandbox.url}/v1/video/query"
    return client.get(url, params={"id": video_id}, **{"timeout": 20, **options})


def read(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    return reply.status, reply.read()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def connection_threads() -> set[str]:
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if "process_request_thread" in name}


class TestServing:
    @pytest.mark.parametrize("model", ["veo3.1-fast", "sora-2", "grok"])
    @pytest.mark.parametrize("script", [n for n in SCRIPTS if n != "hang" and n not in ODD])
    def test_every_script_reaches_its_end_over_http(
        self, sandbox: Sandbox, client: requests.Session, script: str, model: str
    ) -> None:
        video_id = scripted_id(model, script, 0.05, "x")

        def ended() -> bool:
            reply = ask(client, sandbox, video_id)
            if reply.status_code != END_STATUS.get(script, 200):
                return False
            try:
                found = reply.json()
            except ValueError:
                return False
            data = found.get("data") or found
            if script != "forever" and data.get("status") in RUNNING_STATUSES:
                return False
            try:
                return SHAPES.get(script, ends_completed)(found)
            except KeyError:  # what only the end has
                return False

        assert eventually(ended)

    def test_the_clock_starts_with_the_first_poll(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        before = time.time()
        assert ask(client, sandbox, "veo3:ok.1h").json()["status"] == "pending"
        assert ask(client, sandbox, "veo3:ok.60m-a").json()["status"] == "pending"
        figures = sandbox.stats_of("veo3:ok.60m-a")
        assert before <= figures["started_at"] <= time.time()
        assert figures["ends_at"] == figures["started_at"] + 3600

    def test_an_encoded_colon_is_the_same_job(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        for spelling in ("veo3:ok-a", quote("veo3:ok-a", safe="")):
            reply = client.get(f"{sandbox.url}/v1/video/query?id={spelling}", timeout=20)
            assert reply.json()["id"] == "veo3:ok-a"
        assert sandbox.stats_of("veo3:ok-a")["polls"] == 2

    @pytest.mark.parametrize(
        "authorization", ["", "Bearer", "Bearer ", "Bearer bad", "Basic a2V5", "key-1"]
    )
    def test_no_or_a_bad_key_is_told_so(
        self, sandbox: Sandbox, client: requests.Session, authorization: str
    ) -> None:
        client.headers["Authorization"] = authorization
        reply = ask(client, sandbox, "veo3:ok-a")
        assert reply.status_code == 401
        error = reply.json()["error"]
        assert error["type"] == "new_api_error"
        assert "无效的令牌 (request id: " in error["message"]
        figures = sandbox.stats_of("veo3:ok-a")
        assert (figures["requests"], figures["polls"]) == (1, 0)

    def test_a_poll_without_an_id_or_at_another_route_is_an_error(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        assert client.get(f"{sandbox.url}/v1/video/query", timeout=20).status_code == 400
        assert client.get(f"{sandbox.url}/v1/videos", timeout=20).status_code == 404
        assert client.post(f"{sandbox.url}/v1/video/query", timeout=20).status_code == 404

    def test_on_poll_hears_of_every_id_asked_about(self, client: requests.Session) -> None:
        heard: list[str] = []
        with Sandbox(on_poll=heard.append) as sandbox:
            for video_id in ("veo3:ok-a", "grok:ok-b", "veo3:ok-a"):
                ask(client, sandbox, video_id)
            client.get(f"{sandbox.url}/v1/video/query", timeout=20)
        assert heard == ["veo3:ok-a", "grok:ok-b", "veo3:ok-a"]

    def test_many_polls_share_a_connection(self, sandbox: Sandbox) -> None:
        host, port = sandbox.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        read(connection, "/v1/video/query?id=veo3:ok-a", Authorization="Bearer k")
        own = connection.sock.getsockname()
        for _ in range(20):
            read(connection, "/v1/video/query?id=veo3:ok-a", Authorization="Bearer k")
        assert connection.sock.getsockname() == own
        connection.close()

    def test_stats_tell_requests_per_key_and_id(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        for video_id in ("veo3:ok-a", "veo3:ok-a", "veo3:ok-b"):
            ask(client, sandbox, video_id)
        ask(client, sandbox, "veo3:ok-a", headers={"Authorization": "Bearer key-2"})
        figures = client.get(f"{sandbox.url}/stats", timeout=20).json()
        assert (figures["requests"], figures["ids"], figures["rate_limited"]) == (4, 2, 0)
        assert figures["keys"][fingerprint("key-1")]["requests"] == 3
        assert figures["keys"][fingerprint("key-2")]["max_in_one_second"] == 1
        assert 1 <= figures["max_in_one_second"] <= 3
        assert "key-1" not in json.dumps(figures)
        by_id = f"{sandbox.url}/stats?id="
        assert client.get(f"{by_id}veo3:ok-a", timeout=20).json()["requests"] == 3
        assert client.get(f"{by_id}veo3:never", timeout=20).json() == {
            "id": "veo3:never",
            "requests": 0,
            "polls": 0,
        }

    def test_a_crowded_key_gets_an_empty_429_and_others_do_not(
        self, client: requests.Session
    ) -> None:
        with Sandbox().start(rate_limit=0) as sandbox:
            reply = ask(client, sandbox, "veo3:ok-a")
            assert (reply.status_code, reply.content) == (429, b"")
            assert "Retry-After" not in reply.headers
            assert sandbox.stats()["rate_limited"] == 1
            assert sandbox.stats_of("veo3:ok-a")["polls"] == 0
        with sandbox.start(rate_limit=10_000):
            assert ask(client, sandbox, "veo3:ok-a").status_code == 200

    def test_the_rate_limit_is_per_key(self, client: requests.Session) -> None:
        with Sandbox().start(rate_limit=1) as sandbox:
            for key in "abc":
                reply = ask(
                    client, sandbox, "veo3:ok-a", headers={"Authorization": f"Bearer {key}"}
                )
                assert reply.status_code == 200


RUNNING_STATUSES = {
    "IN_PROGRESS",
    "pending",
    "image_downloading",
    "video_generating",
    "video_generation_completed",
    "video_upsampling",
    "queued",
    "in_progress",
    "processing",
}


class TestSwitchingFaults:
    def test_a_fault_holds_for_all_polls_until_it_is_lifted(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        def switch(**wanted: object) -> requests.Response:
            return client.post(f"{sandbox.url}/faults", json=wanted, timeout=20)

        assert switch(mode="429", retry_after=3).json() == {"mode": "429", "retry_after": 3}
        for video_id in ("veo3:ok-a", "grok:ok-b"):
            reply = ask(client, sandbox, video_id)
            assert (reply.status_code, reply.headers["Retry-After"]) == (429, "3")
        assert sandbox.stats()["rate_limited"] == 0
        assert switch(mode="none").status_code == 200
        assert ask(client, sandbox, "veo3:ok-a").status_code == 200

    @pytest.mark.parametrize(
        "text",
        [
            '{"mode": "teapot"}',
            "{}",
            "[]",
            "no json",
            '{"mode": "429", "retry_after": []}',
            '{"mode": "429", "retry_after": Infinity}',
            "[" * 100_000,
        ],
    )
    def test_a_fault_that_makes_no_sense_is_refused_and_changes_nothing(
        self, sandbox: Sandbox, client: requests.Session, text: str
    ) -> None:
        sandbox.set_fault("500")
        reply = client.post(f"{sandbox.url}/faults", data=text, timeout=20)
        assert reply.status_code == 400
        assert ask(client, sandbox, "veo3:ok-a").status_code == 500

    def test_a_hang_gives_nothing_and_ends_with_the_server(
        self, sandbox: Sandbox, client: requests.Session
    ) -> None:
        others = connection_threads()
        with pytest.raises(requests.ReadTimeout):
            ask(client, sandbox, "veo3:hang-a", timeout=0.2)
        assert ask(client, sandbox, "veo3:hang-a").status_code == 200
        sandbox.set_fault("hang")
        failures: list[requests.RequestException] = []

        def hang() -> None:
            try:
                ask(client, sandbox, "veo3:ok-b")
            except requests.RequestException as error:
                failures.append(error)

        hanging = threading.Thread(target=hang)
        hanging.start()
        assert eventually(lambda: sandbox.stats_of("veo3:ok-b")["requests"] == 1)
        sandbox.stop()
        hanging.join(timeout=15)  # well before the 30 seconds are over
        assert isinstance(failures[0], requests.ConnectionError)
        assert eventually(lambda: connection_threads() <= others, 15)


class TestStartAndStop:
    def test_a_stop_cuts_open_connections_and_a_start_goes_on(
        self, client: requests.Session
    ) -> None:
        sandbox = Sandbox().start()
        port = int(sandbox.url.rpartition(":")[2])
        assert ask(client, sandbox, "veo3:ok-a").status_code == 200
        url = sandbox.url
        sandbox.stop()
        with pytest.raises(requests.ConnectionError):
            client.get(f"{url}/stats", timeout=20)
        sandbox.start(port=port)
        ask(client, sandbox, "veo3:ok-a")
        assert sandbox.stats_of("veo3:ok-a")["polls"] == 2
        sandbox.stop()

    def test_stopping_twice_does_no_harm_and_no_url_is_left(self) -> None:
        sandbox = Sandbox().start()
        sandbox.stop()
        sandbox.stop()
        with pytest.raises(RuntimeError, match="not serving"):
            _ = sandbox.url

    def test_starting_twice_is_an_error(self, sandbox: Sandbox) -> None:
        with pytest.raises(RuntimeError, match="already serving at http://127"):
            sandbox.start()

    def test_a_taken_port_is_an_error_and_leaves_it_stopped(self, sandbox: Sandbox) -> None:
        other = Sandbox()
        with pytest.raises(OSError, match="in use"):
            other.start(port=int(sandbox.url.rpartition(":")[2]))
        with other:
            assert other.url != sandbox.url

    @pytest.mark.parametrize("started", [True, False])
    def test_serve_forever_serves_until_stopped(
        self, client: requests.Session, *, started: bool
    ) -> None:
        sandbox = Sandbox()
        if started:
            sandbox.start()
        serving = threading.Thread(target=sandbox.serve_forever)
        serving.start()

        def answers() -> bool:
            try:
                return ask(client, sandbox, "veo3:ok-a").status_code == 200
            except RuntimeError:
                return False

        assert eventually(answers)
        assert serving.is_alive()
        sandbox.stop()
        serving.join(timeout=20)
        assert not serving.is_alive()


def exchange(sandbox: Sandbox, request: bytes) -> bytes:
    """What a raw request gets until the server closes the connection."""
    host, port = sandbox.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        pieces = iter(lambda: connection.recv(65536), b"")
        return b"".join(pieces)


class TestBodies:
    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"Transfer-Encoding: chunked", b"411"),
            (b"Content-Length: many", b"400"),
            (b"Content-Length: -1", b"400"),
            (b"Content-Length: \xb2", b"400"),
            (b"Content-Length: 1048577", b"413"),
            (b"Content-Length: 99999999999", b"413"),
        ],
    )
    def test_an_unreadable_body_is_refused_and_the_connection_closed(
        self, sandbox: Sandbox, head: bytes, status: bytes
    ) -> None:
        request = b"POST /faults HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\n"
        reply = exchange(sandbox, request)
        assert reply.startswith(b"HTTP/1.1 " + status)
        assert b"Connection: close" in reply

    def test_a_large_body_is_taken_in_so_that_its_sender_hears_the_answer(
        self, sandbox: Sandbox
    ) -> None:
        size = 8 * 1024 * 1024
        head = f"POST /faults HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode()
        assert exchange(sandbox, head + b" " * size).startswith(b"HTTP/1.1 413")

    def test_a_client_that_leaves_in_mid_body_gets_nothing_and_changes_nothing(
        self, sandbox: Sandbox, client: requests.Session, capsys: pytest.CaptureFixture[str]
    ) -> None:
        request = b'POST /faults HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"mode": "500"}'
        assert exchange(sandbox, request) == b""
        assert ask(client, sandbox, "veo3:ok-a").status_code == 200
        assert capsys.readouterr().err == ""

    def test_a_bug_in_a_hook_is_shown(
        self, client: requests.Session, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(video_id: str) -> None:
            raise LookupError(video_id)

        with Sandbox(on_poll=broken) as sandbox, pytest.raises(requests.ConnectionError):
            ask(client, sandbox, "veo3:ok-a")
        assert eventually(lambda: "LookupError: veo3:ok-a" in capsys.readouterr().err)


def test_importing_it_starts_nothing() -> None:
    assert "reelwatch.sandbox" in sys.modules
    with pytest.raises(RuntimeError, match="not serving"):
        _ = Sandbox().url
