"""One poll: what is sent, and that whatever comes back, or does not, is a value."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from reelwatch.config.accounts import Account
from reelwatch.net import upstream
from reelwatch.net.upstream import Poll, poll
from reelwatch.rules.answers import AnswerError, ErrorKind, Meaning, Report
from tests.peers import Line, Peer, Script, answer, answering, closed_port

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
KEY = "sk-test-0123456789"
VIDEO = "veo3.1-fast:1770350082-trii1OXZc3"
RUNNING = answer(json.dumps({"id": VIDEO, "status": "processing"}).encode())


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "DEADLINE_SECONDS", 0.3)


def account(port: int, key: str | None = KEY, path: str = "") -> Account:
    return Account("default", f"http://127.0.0.1:{port}{path}", key, 5.0)


def poll_one(script: Script, video_id: str = VIDEO) -> Poll:
    with Peer(script) as peer:
        return poll(account(peer.port), video_id, NOW)


def error(found: Poll) -> AnswerError:
    assert isinstance(found.answer, AnswerError)
    return found.answer


class TestWhatIsSent:
    def request(self, video_id: str = VIDEO, path: str = "") -> tuple[str, dict[str, str]]:
        """The request line and the headers, by their names in lower case."""
        with Peer(answering(RUNNING)) as peer:
            poll(account(peer.port, path=path), video_id, NOW)
            (sent,) = peer.requests
        line, *headers = sent.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (header.split(": ", 1) for header in headers)
        return line, {name.lower(): value for name, value in pairs}

    def test_the_question_and_the_key(self) -> None:
        line, headers = self.request()
        assert line == f"GET /v1/video/query?id={VIDEO.replace(':', '%3A')} HTTP/1.1"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["accept"] == "application/json"
        assert headers["user-agent"].startswith("reelwatch/")
        assert "content-length" not in headers

    @pytest.mark.parametrize(
        ("video_id", "encoded"),
        [
            ("a b", "a%20b"),
            ("a&id=b#c?d/e", "a%26id%3Db%23c%3Fd%2Fe"),
            ("../../admin", "..%2F..%2Fadmin"),
            ("100%", "100%25"),
            ("a+b", "a%2Bb"),
            ("视频", "%E8%A7%86%E9%A2%91"),
        ],
    )
    def test_an_id_cannot_change_the_question(self, video_id: str, encoded: str) -> None:
        line, _ = self.request(video_id)
        assert line == f"GET /v1/video/query?id={encoded} HTTP/1.1"

    def test_a_base_url_may_have_a_path(self) -> None:
        line, _ = self.request(path="/relay")
        assert line.startswith("GET /relay/v1/video/query?id=")

    @pytest.mark.parametrize("path", ["/v1", "/v1/", "/relay/v1"])
    def test_a_base_url_may_end_in_the_version_as_other_clients_have_it(self, path: str) -> None:
        line, _ = self.request(path=path)
        before = path.rstrip("/").removesuffix("/v1")
        assert line.startswith(f"GET {before}/v1/video/query?id=")


class TestWhatComesBack:
    def test_a_good_answer_is_a_report(self) -> None:
        found = poll_one(answering(RUNNING))
        assert isinstance(found.answer, Report)
        assert found.answer.meaning is Meaning.IN_PROGRESS
        assert found.http_status == 200
        assert found.duration_ms >= 0

    def test_an_error_answer_keeps_its_status(self) -> None:
        body = b'{"error": {"message": "no (request id: 2026020612)", "code": ""}}'
        found = poll_one(answering(answer(body, status="401 Unauthorized")))
        assert (found.http_status, error(found).kind) == (401, ErrorKind.UNAUTHORIZED)
        assert error(found).request_id == "2026020612"

    def test_a_retry_after_date_counts_from_the_given_time(self) -> None:
        date = format_datetime(NOW.replace(minute=2), usegmt=True)
        refusal = answer(b"", f"Retry-After: {date}", status="429 Too Many Requests")
        assert error(poll_one(answering(refusal))).retry_after == 120.0

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (answer(b"<html>502</html>", status="502 Bad Gateway"), ErrorKind.SERVER_ERROR),
            (answer(b"<html>Just a moment...</html>"), ErrorKind.NOT_JSON),
            (answer(b'{"id": "veo3.1-f'), ErrorKind.NOT_JSON),
            (answer(b""), ErrorKind.NOT_JSON),
            (answer(b"[1, 2]"), ErrorKind.BAD_SHAPE),
            (answer(b"\xff\xfe\x00"), ErrorKind.NOT_JSON),
            (answer(b"[" * 100_000), ErrorKind.NOT_JSON),
            (answer(b"", "Location: /elsewhere", status="302 Found"), ErrorKind.BAD_SHAPE),
        ],
    )
    def test_what_is_no_answer_is_an_error(self, reply: bytes, kind: ErrorKind) -> None:
        found = poll_one(answering(reply))
        assert error(found).kind is kind
        assert found.http_status is not None


class TestWhatDoesNot:
    """No peer, however it behaves, makes a poll raise."""

    def test_is_a_connection_where_nobody_listens(self) -> None:
        with closed_port() as port:
            found = poll(account(port), VIDEO, NOW)
        assert (found.http_status, error(found).kind) == (None, ErrorKind.CONNECTION)
        assert "refused" in error(found).message

    def test_is_an_unknown_name(self) -> None:
        nowhere = Account("default", "http://nowhere.example", KEY, 5.0)
        assert error(poll(nowhere, VIDEO, NOW)).kind is ErrorKind.CONNECTION

    @pytest.mark.parametrize(
        "script",
        [
            Line.hang,
            lambda line: (line.request(), line.hang()),
            lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\n"), line.hang()),
            lambda line: (line.request(), line.send(RUNNING[:-5]), line.hang()),
            lambda line: (line.request(), line.drip(b"HTTP/1.1 200 OK\r\nX: ")),
        ],
        ids=["deaf", "mute", "in the headers", "in the body", "drip-feeding"],
    )
    @pytest.mark.usefixtures("short_deadline")
    def test_a_peer_that_hangs_is_a_timeout(self, script: Script) -> None:
        found = poll_one(script)
        assert (found.http_status, error(found).kind) == (None, ErrorKind.TIMEOUT)
        assert found.duration_ms >= 300

    @pytest.mark.parametrize(
        "script",
        [
            Line.reset,
            lambda line: (line.request(), line.reset()),
            lambda line: (line.request(), line.send(RUNNING[:-5])),
            lambda line: (line.request(), line.send(b"SSH-2.0-OpenSSH_9.6\r\n")),
        ],
        ids=["at once", "after the question", "in mid-answer", "no HTTP"],
    )
    def test_is_a_broken_connection(self, script: Script) -> None:
        assert error(poll_one(script)).kind is ErrorKind.CONNECTION

    def test_is_an_answer_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(upstream, "MAX_BYTES", 1_000)
        found = poll_one(answering(answer(b"x" * 1_001)))
        assert (found.http_status, error(found).kind) == (None, ErrorKind.TOO_LARGE)

    @pytest.mark.parametrize("key", ["sk-\r\nX-Evil: 1", "sk-\u0141\u00f3d\u017a", "\udce4"])
    def test_a_key_that_no_header_can_hold(self, key: str) -> None:
        with Peer(answering(RUNNING)) as peer:
            found = poll(account(peer.port, key), VIDEO, NOW)
            assert peer.requests == []
        assert error(found).kind is ErrorKind.CONNECTION
        assert key not in error(found).message

    def test_an_id_that_no_url_can_hold(self) -> None:
        assert error(poll_one(answering(RUNNING), "veo3:\udce4")).kind is ErrorKind.CONNECTION

    def test_a_proxy_that_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
        monkeypatch.setenv("no_proxy", "")
        relay = Account("default", "http://relay.example", KEY, 5.0)
        found = poll(relay, VIDEO, NOW)
        assert error(found).kind is ErrorKind.CONNECTION
        assert "SOCKS" in error(found).message

    def test_no_error_tells_the_key(self) -> None:
        def echo(line: Line) -> None:
            line.send(line.request())

        assert KEY not in repr(poll_one(echo))


class TestSessions:
    def test_polls_in_a_row_share_a_connection(self) -> None:
        with Peer(answering(RUNNING)) as peer:
            for _ in range(5):
                poll(account(peer.port), VIDEO, NOW)
            assert (len(peer.requests), len(peer.lines)) == (5, 1)

    def test_an_error_answer_does_not_cost_the_connection(self) -> None:
        failure = answer(b'{"error": "busy"}', status="503 Service Unavailable")
        with Peer(answering(failure, RUNNING)) as peer:
            for _ in range(2):
                poll(account(peer.port), VIDEO, NOW)
            assert len(peer.lines) == 1

    def test_polls_at_the_same_time_have_a_connection_each_and_keep_it(self) -> None:
        count = 6
        together = threading.Barrier(count, timeout=30)

        def script(line: Line) -> None:
            while True:
                line.request()
                together.wait()
                line.send(RUNNING)

        with Peer(script) as peer, ThreadPoolExecutor(count) as pool:
            upstream.client_for(account(peer.port).base_url, os.getpid())
            for _ in range(3):
                polls = [pool.submit(poll, account(peer.port), VIDEO, NOW) for _ in range(count)]
                assert all(isinstance(one.result().answer, Report) for one in polls)
            assert len(peer.lines) == count

    def test_a_connection_that_was_closed_meanwhile_is_replaced(self) -> None:
        def script(line: Line) -> None:
            line.request()
            line.send(RUNNING)

        with Peer(script) as peer:
            found = [poll(account(peer.port), VIDEO, NOW) for _ in range(3)]
            assert len(peer.lines) >= 2
        assert any(isinstance(one.answer, Report) for one in found[1:])

    def test_one_client_per_upstream_and_process(self) -> None:
        one = upstream.client_for("http://127.0.0.1:1", os.getpid())
        assert upstream.client_for("http://127.0.0.1:1", os.getpid()) is one
        assert upstream.client_for("http://127.0.0.1:2", os.getpid()) is not one
        assert upstream.client_for("http://127.0.0.1:1", os.getpid() + 1) is not one

    def test_the_environments_proxy_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer(answering(RUNNING)) as proxy:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            found = poll(Account("default", "http://relay.example", KEY, 5.0), VIDEO, NOW)
            (sent,) = proxy.requests
        assert isinstance(found.answer, Report)
        assert sent.startswith(b"GET http://relay.example/v1/video/query?id=")
