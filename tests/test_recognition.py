"""Doctor tells the relay from any other server that answers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reelwatch.config import settings
from reelwatch.sandbox.answers import Answer, html_page
from tests.commands import command_environment, run
from tests.environment import set_variables
from tests.test_delivery import Receiver

DATA = Path(__file__).parent / "data" / "upstream"
BASE_URL = "is the base URL right? It is what stands before /v1/video/query"


def says(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Answer:
    text = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return Answer(status, headers or {}, text)


def relays(status: int, message: str, code: str = "", kind: str = "new_api_error") -> Answer:
    return says(status, {"error": {"message": message, "type": kind, "param": "", "code": code}})


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What doctor says of an account whose base URL leads to a server that answers so."""
    url = f"sqlite:///{tmp_path / 'none.db'}"
    with command_environment(url, tmp_path, monkeypatch) as patch:

        def ask(answer: Answer, path: str = "") -> tuple[str, str, Any]:
            with Receiver(answer) as server:
                set_variables(
                    patch, QUICKROUTER_BASE_URL=server.url + path, QUICKROUTER_API_KEY="sk-test-key"
                )
                found = json.loads(run("doctor", "--json").stdout)["checks"]
                (check,) = [each for each in found if each["name"] == "account default"]
                (request,) = server.requests
                return check["status"], check["message"], request

        yield ask
    settings.current.cache_clear()


UNKNOWN = (DATA / "http-400-task-not-exist.json").read_bytes()


@pytest.mark.parametrize(
    "answer",
    [
        says(400, UNKNOWN),
        says(404, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
        relays(404, "任务不存在 (request id: 20260206035849)"),
        says(200, {"status": "error"}),
    ],
)
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/relay", "/relay/v1"])
def test_the_relay_is_known_by_what_it_says(asked: Any, answer: Answer, path: str) -> None:
    """Its documented ways to say that an id is unknown, and wherever it is."""
    status, message, request = asked(answer, path)
    assert (status, "accepts the key" in message) == ("ok", True)
    assert request.path == ("/relay" if "relay" in path else "") + "/v1/video/query"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (says(404, {"detail": "Not Found"}), "wrong", "nothing in its answer shows the relay"),
        (says(404, {"error": "not found"}), "wrong", "nothing in its answer shows the relay: not"),
        (says(404, {"message": "no Route matched"}), "wrong", "shows the relay: no Route matched"),
        (says(404), "wrong", "nothing in its answer shows the relay: empty answer with status 404"),
        (says(404, b"<pre>Cannot GET /v1</pre>"), "wrong", "it answers 404 with a page"),
        (says(200, b"<!doctype html><title>App</title>"), "wrong", "it answers 200 with a page"),
        (says(200, {"hello": "world"}), "wrong", "nothing in its answer shows the relay"),
        (says(200, []), "wrong", "nothing in its answer shows the relay"),
        (says(200, b"OK"), "wrong", "nothing in its answer shows the relay: OK"),
        (says(200, {"status": "up"}), "warning", "a job that there can't be (status 'up')"),
        (says(405, {"detail": "Method Not Allowed"}), "wrong", "nothing in its answer"),
        (says(302, b"", {"Location": "/login"}), "wrong", "it redirects, and redirects are not"),
        (html_page(301, "Moved", "nginx"), "wrong", "it redirects, and redirects are not followed"),
    ],
)
def test_any_other_server_is_told_from_it(
    asked: Any, answer: Answer, status: str, said: str
) -> None:
    """What it answered is told, and what to poll."""
    found, message, _ = asked(answer)
    assert found == status
    assert said in message
    assert message.endswith(BASE_URL)


@pytest.mark.parametrize(
    ("answer", "doubted"),
    [
        (says(401, (DATA / "http-401.json").read_bytes()), False),
        (relays(401, "无效的令牌"), False),
        (says(401, {"error": "no (request id: 2026020603)"}), False),
        (says(401, {"detail": "Not authenticated"}), True),
        (says(401), True),
        (says(403, (DATA / "http-403-quota.json").read_bytes()), False),
        (says(403, {"message": "Forbidden"}), True),
    ],
)
def test_a_refused_key_may_be_the_right_one_at_the_wrong_door(
    asked: Any, answer: Answer, doubted: bool
) -> None:
    status, message, _ = asked(answer)
    assert status == "wrong"
    assert ("nothing in its answer shows the relay" in message) is doubted
    assert message.endswith(BASE_URL) is doubted


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (relays(404, "Invalid URL (GET /api/v1/video/query)"), "wrong", BASE_URL),
        (says(429), "warning", "asks to slow down"),
        (says(503, b"<html>busy</html>"), "wrong", "gives no usable answer: server_error"),
    ],
)
def test_what_says_nothing_of_who_answers_raises_no_doubt(
    asked: Any, answer: Answer, status: str, said: str
) -> None:
    found, message, _ = asked(answer, "/api")
    assert found == status
    assert said in message
    assert "relay" not in message.partition(BASE_URL)[0]
