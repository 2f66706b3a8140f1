"""How the web is served: what one connection may cost the others, and what a hanging database."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from reelwatch.config.settings import Settings
from reelwatch.storage import db
from reelwatch.web import probes, serving
from reelwatch.web.api import document
from reelwatch.web.app import THREADS
from tests.servers import eventually
from tests.web import Web, raw, received, served

HEAD = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def web(lite: str) -> Iterator[Web]:
    with served() as running:
        yield running


def test_a_body_that_comes_in_crumbs_is_not_read_to_its_end(web: Web) -> None:
    """Each costs as much as a large one, and nobody else is answered meanwhile."""
    ends = b"Connection: close\r\n\r\n"
    few = raw(web, HEAD + CHUNKED + ends + b"1\r\n \r\n" * serving.CHUNKS_MOST + b"0\r\n\r\n")
    many = raw(web, HEAD + CHUNKED + ends + b"1\r\n \r\n" * (serving.CHUNKS_MOST + 1))
    assert b"the body is not JSON" in few
    assert many.startswith(b"HTTP/1.1 400 ")
    assert b"Invalid HTTP request" in many


def test_ten_thousand_ids_may_be_a_chunk_each(web: Web) -> None:
    ids = (f'"grok:{number}"' for number in range(10_000))
    pieces = (f"{'[' if number == 0 else ','}{each}".encode() for number, each in enumerate(ids))
    answer = web.post("/api/v1/jobs", data=pieces, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400  # all of it was read, and it has no end


def test_a_body_with_two_lengths_is_refused_and_nothing_behind_it_is_a_request(web: Web) -> None:
    """A proxy in front may have believed the other one."""
    body = b'15\r\n{"video_id":"grok:x"}\r\n0\r\n\r\n'
    behind = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    said = raw(web, HEAD + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n" + body + behind)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1") == 1
    assert b"one of them is accepted" in said


def test_a_bad_chunk_behind_a_refusal_ends_the_connection_and_is_no_error_of_ours(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(web.address, timeout=20) as connection:
        connection.sendall(HEAD.replace(b"json", b"pdf") + CHUNKED + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"zz\r\n")
        assert b"HTTP/1.1" not in received(connection)
    assert not caplog.records


def test_many_who_do_not_fetch_their_answers_keep_nobody_out(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "READERS_MOST", 5)
    monkeypatch.setattr(serving, "YOUNG_SECONDS", 60.0)
    asked = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
    slow = [socket.socket() for _ in range(12)]
    try:
        for each in slow:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.connect(web.address)
            each.sendall(asked)
        eventually(lambda: len(serving.Protocol.unread) == 5, 15)
        assert web.get("/sign-in").status_code == 200
    finally:
        for each in slow:
            each.close()


def test_of_many_who_come_at_once_each_is_heard(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart, when all clients come back."""
    monkeypatch.setattr(serving, "WAITING_MOST", 20)
    many = [socket.create_connection(web.address, timeout=20) for _ in range(200)]
    try:
        for each in many:
            each.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = [received(each) for each in many]
    finally:
        for each in many:
            each.close()
    assert all(each.startswith(b"HTTP/1.1 204 ") for each in answers)


def test_the_document_is_written_once(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is open to everybody, and takes longer than most answers."""
    first = web.get("/api/v1/openapi.json")
    monkeypatch.setattr(document, "document", lambda app: {})
    assert web.get("/api/v1/openapi.json").content == first.content
    assert json.loads(first.content)["openapi"]


def test_probes_answer_while_every_thread_waits_for_a_database_that_hangs(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts what is not alive would restart it again and again."""
    over = threading.Event()

    def hanging(_settings: Settings) -> Iterator[str]:
        over.wait(60)
        yield "the database"

    monkeypatch.setattr(probes, "missing", hanging)
    monkeypatch.setattr(probes, "ANSWER_SECONDS", 0.2)
    asked = [socket.create_connection(web.address) for _ in range(20)]
    try:
        for each in asked:
            each.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert web.get("/ready").json() == {"ready": False, "missing": [probes.UNTOLD]}
        assert web.get("/live").status_code == 204
        assert web.get("/api/v1/jobs").status_code == 200  # no thread of its own was taken
    finally:
        over.set()
        for each in asked:
            each.close()
    eventually(lambda: web.get("/ready").json()["missing"] == ["the database"], 20)


def test_being_alive_takes_no_thread(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    over, held = threading.Event(), []

    def hanging(url: str) -> None:
        held.append(url)
        over.wait(60)

    monkeypatch.setattr(db, "reading", hanging)
    stuck = [socket.create_connection(web.address) for _ in range(THREADS)]
    try:
        for each in stuck:
            each.sendall(b"GET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: len(held) >= THREADS, 20)
        assert web.get("/live").status_code == 204
        assert web.get("/metrics").status_code == 200
    finally:
        over.set()
        for each in stuck:
            each.close()
