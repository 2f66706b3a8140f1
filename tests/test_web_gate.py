"""What stands in front of the web: other sites' pages, odd paths, slow and huge requests."""

import asyncio
import socket
from collections.abc import Iterator, Mapping

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelwatch.config import settings
from reelwatch.errors import SettingsError
from reelwatch.web import gate, serving
from tests.web import TOKENS, Web, raw, received, served

DOCS = "/sign-in"  # a path that needs nobody's token


@pytest.fixture
def web(lite: str) -> Iterator[Web]:
    """Without tokens; no route that is asked here has to do with the database."""
    with served() as running:
        yield running


FOREIGN: list[Mapping[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
]
OTHERS: list[Mapping[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8600"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "10.0.0.1"},
    {"Host": "[::2]:8600"},
    {"Host": ""},
    {"X-Forwarded-For": "203.0.113.7"},
    {"X-Forwarded-Host": "reelwatch.example"},
    {"X-Real-IP": "203.0.113.7"},
    {"Via": "1.1 proxy"},
    {"Forwarded": "for=203.0.113.7"},
]


@pytest.mark.parametrize("headers", [*FOREIGN, *OTHERS], ids=str)
def test_without_tokens_nobody_but_this_machine_is_served(
    web: Web, headers: Mapping[str, str]
) -> None:
    """A page whose name leads here (DNS rebinding), a page of another site, a proxy."""
    answer = web.get(DOCS, headers=headers)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost", "LOCALHOST:1", "[::1]:8600"])
def test_this_machine_is_served_by_any_of_its_names(web: Web, host: str) -> None:
    assert web.get(DOCS, headers={"Host": host}).status_code == 200


def test_a_page_of_its_own_may_ask(web: Web) -> None:
    own = {"Origin": web.url, "Sec-Fetch-Site": "same-origin"}
    assert web.get(DOCS, headers=own).status_code == 200
    assert web.get(DOCS, headers={"Origin": web.url}).status_code == 200
    assert web.get(DOCS, headers={"Sec-Fetch-Site": "none"}).status_code == 200  # typed in by hand


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_with_tokens_no_foreign_page_changes_anything(
    guarded_web: Web, headers: Mapping[str, str]
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert guarded_web.post("/sign-out", headers={**headers, **form}).status_code == 403
    assert guarded_web.post("/sign-out", headers=form).status_code == 303
    for method, path in (("POST", "/jobs"), ("PATCH", "/jobs/1"), ("DELETE", "/jobs/1")):
        answer = guarded_web.ask(method, f"/api/v1{path}", {}, role="operate", headers=headers)
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""]
)
def test_the_api_takes_nothing_that_a_simple_form_can_send(web: Web, kind: str) -> None:
    for method, path in (("POST", "/api/v1/jobs"), ("PATCH", "/api/v1/jobs/1")):
        answer = web.ask(method, path, data='{"video_id": "a"}', headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_a_form_is_taken_of_one_kind_alone(web: Web) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json"):
        answer = web.post("/sign-out", data="a=b", headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_a_body_whose_type_or_coding_is_not_read_is_refused_for_that(web: Web) -> None:
    chunks = iter([b'{"video_id": "grok:a"}'])  # in chunks: it has no length
    untold = web.ask("POST", "/api/v1/jobs", data=chunks)  # type: ignore[arg-type]
    packed = web.post("/api/v1/jobs", {"video_id": "a"}, headers={"Content-Encoding": "gzip"})
    assert (untold.status_code, packed.status_code) == (415, 415)
    assert "Content-Encoding" in packed.json()["detail"]


def test_no_page_of_another_site_can_frame_what_is_answered(web: Web) -> None:
    for path in (DOCS, "/nothing", "/api/v1/nothing"):
        headers = web.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "//sign-in", "/static/../sign-in", "/./sign-in", "/%2e%2e/sign-in", "/a%2fb", "/a%5Cb",
        "/a\\b", "/%00", "/sign-in/..",
    ],
)  # fmt: skip
def test_a_path_that_could_be_read_in_two_ways_is_refused(web: Web, path: str) -> None:
    said = raw(web, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 400 ")


def test_a_nul_character_gets_as_far_as_no_statement(web: Web) -> None:
    for path in ("/api/v1/jobs?video_id=a%00", "/api/v1/events?account=%00", "/jobs?error=%00"):
        assert web.get(path).status_code == 422
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for data in ("id=%00", b"id=\0"):
        assert web.post("/deliveries/redeliver", data=data, headers=form).status_code == 422


@pytest.mark.parametrize("path", ["/live", DOCS])
def test_head_is_answered_like_get_without_a_body(web: Web, path: str) -> None:
    answer = web.ask("HEAD", path)
    assert (answer.status_code, answer.content) == (web.get(path).status_code, b"")


# -------------------------------------------------------------- slow and huge


def through_gate(app: ASGIApp) -> list[Message]:
    """What is sent where that app stands behind the gate."""
    sent = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/live", "raw_path": b"/live",
        "query_string": b"", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    asyncio.run(gate.Gate(app, local=True)(scope, receive, send))
    return sent


def test_an_answer_that_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ANSWER_SECONDS", 0.05)

    async def stuck(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.sleep(60)

    start, *_ = through_gate(stuck)
    assert start["status"] == 503
    assert (b"retry-after", b"5") in start["headers"]


def test_an_answer_that_has_begun_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ANSWER_SECONDS", 0.05)

    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"there"})

    assert [each["type"].rpartition(".")[2] for each in through_gate(slow)] == ["start", "body"]


def test_a_header_that_an_answer_has_itself_stands_there_once() -> None:
    async def own(_scope: Scope, _receive: Receive, send: Send) -> None:
        kept = [(b"cache-control", b"public")]
        await send({"type": "http.response.start", "status": 200, "headers": kept})
        await send({"type": "http.response.body", "body": b""})

    start, _ = through_gate(own)
    told = [value for name, value in start["headers"] if name == b"cache-control"]
    assert told == [b"public"]


def test_a_body_of_the_very_limit_is_read(web: Web) -> None:
    for data in (b" " * gate.BODY_MOST, iter([b" " * (gate.BODY_MOST - 1), b" "])):
        answer = web.ask(
            "POST",
            "/api/v1/jobs",
            data=data,  # type: ignore[arg-type]  # with its length, and in chunks
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (400, 422)


@pytest.mark.parametrize("length", [300_000, gate.BODY_MOST * 2])
def test_who_still_sends_when_refused_can_read_why(web: Web, length: int) -> None:
    """A connection that is closed before all has been read is reset, and the answer lost."""
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(web.address, timeout=20) as connection:
        connection.sendall(head.encode())
        said = connection.recv(65_536)
        for at in range(0, length, 10_000):
            connection.sendall(b"x" * min(10_000, length - at))
        while piece := connection.recv(65_536):
            said += piece
    assert said.startswith(b"HTTP/1.1 403 ")
    assert said.endswith(b"}")


def test_a_connection_whose_request_was_refused_is_closed(web: Web) -> None:
    answer = web.get(DOCS, headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["connection"]) == (403, "close")


def test_a_body_that_says_it_is_huge_is_refused_unread(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)  # for which somebody could still send it
    head = "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = raw(web, f"{head}Content-Length: {gate.BODY_MOST + 1}\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_turns_out_to_be_huge_is_refused(web: Web) -> None:
    def pieces() -> list[bytes]:
        return [b"x" * 65_536] * 17

    answer = web.ask(
        "POST",
        "/api/v1/jobs",
        data=iter(pieces()),  # type: ignore[arg-type]  # sent in chunks, without a length
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413


def test_a_body_that_drips_in_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
    head = "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    said = raw(web, f"{head}Content-Length: 100\r\n\r\n".encode() + b'{"video_id"')
    assert said.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_head_that_drips_in_is_given_up(
    web: Web, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    assert raw(web, sent) == b""


def test_a_head_that_drips_in_behind_a_request_is_given_up(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    said = raw(web, b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\nGET /sign-in HT")
    assert said.count(b"HTTP/1.1 200") == 1


def test_many_who_are_slow_keep_nobody_out(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WAITING_MOST", 20)
    monkeypatch.setattr(serving, "YOUNG_SECONDS", 0.0)
    slow = [socket.create_connection(web.address) for _ in range(60)]
    try:
        for each in slow:
            each.sendall(b"GET / HT")
        assert web.get(DOCS).status_code == 200
        assert received(slow[0]) == b""  # the oldest made room
    finally:
        for each in slow:
            each.close()


def test_many_whose_bodies_drip_in_keep_nobody_out(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "WAITING_MOST", 20)
    monkeypatch.setattr(serving, "YOUNG_SECONDS", 0.0)
    head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = [socket.create_connection(web.address) for _ in range(60)]
    try:
        for each in slow:
            each.sendall(head + b"Content-Length: 9\r\n\r\n{")
        assert web.get(DOCS).status_code == 200
        assert received(slow[0]) == b""  # the oldest made room
    finally:
        for each in slow:
            each.close()


def test_who_does_not_fetch_an_answer_is_given_up(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "READER_SECONDS", 0.2)
    asked = b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(web.address)
        with pytest.raises(ConnectionError):
            connection.sendall(asked * 1_000)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "reelwatch.example"])
def test_nobody_else_can_be_served_without_tokens(lite: str, host: str) -> None:
    with pytest.raises(SettingsError, match="REELWATCH_API_TOKENS"):
        serving.check_address(settings.current(), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_can_be_served_without_tokens(lite: str, host: str) -> None:
    serving.check_address(settings.current(), host)


def test_a_token_that_no_page_is_for_does_not_sign_in(guarded_web: Web) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    tokens = {role: f"token={TOKENS[role]}" for role in ("read", "operate", "produce")}
    answers = {
        role: guarded_web.post("/sign-in", data=data, headers=form).status_code
        for role, data in tokens.items()
    }
    assert answers == {"read": 303, "operate": 303, "produce": 401}


def test_what_is_no_json_is_told_where(web: Web) -> None:
    answer = web.post(
        "/api/v1/jobs", data='{"video_id": }', headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, "character 13" in answer.json()["detail"]) == (400, True)
