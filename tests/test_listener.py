"""The local receiver: what it verifies, remembers and answers."""

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from reelwatch.errors import Refused
from reelwatch.sandbox.listener import Listener, Received

OLD = "whsec_" + base64.b64encode(b"an old secret of the producer").decode()
NEW = "whsec_" + base64.b64encode(b"a new secret of the producer!").decode()
OTHER = "whsec_" + base64.b64encode(b"a secret of somebody else's..").decode()
EVENT: dict[str, Any] = {
    "type": "video.completed",
    "data": {"video_id": "veo3:ok-a", "sequence": 5},
}


def signed(
    secrets: Sequence[str],
    body: bytes,
    event_id: str = "evt_1",
    at: datetime | None = None,
) -> dict[str, str]:
    """Headers with one signature per secret, as in a rotation."""
    moment = at or datetime.now(UTC)
    signatures = [Webhook(secret).sign(event_id, moment, body.decode()) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def post(listener: Listener, body: bytes, headers: dict[str, str]) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{listener.url}/hooks", data=body, headers=headers, timeout=20)


def send(
    listener: Listener, event_id: str = "evt_1", secrets: Sequence[str] = (NEW,)
) -> requests.Response:
    body = json.dumps(EVENT).encode()
    return post(listener, body, signed(secrets, body, event_id))


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener([NEW, OLD]) as running:
        yield running


class TestVerified:
    @pytest.mark.parametrize("secrets", [[NEW], [OLD], [OLD, NEW], [OTHER, NEW]])
    def test_any_of_the_secrets_will_do(self, listener: Listener, secrets: list[str]) -> None:
        before = datetime.now(UTC)
        assert send(listener, secrets=secrets).status_code == 200
        (event,) = listener.events
        assert (event.id, event.type) == ("evt_1", "video.completed")
        assert (event.verified, event.error) == (True, None)
        assert event.body == EVENT
        assert before <= event.received_at <= datetime.now(UTC)
        assert event.headers["webhook-id"] == "evt_1"

    def test_a_secret_without_prefix_or_padding_is_the_same_secret(self) -> None:
        with Listener([NEW.removeprefix("whsec_").rstrip("=")]) as listener:
            assert send(listener).status_code == 200

    def test_header_names_are_in_lower_case(self, listener: Listener) -> None:
        body = b"{}"
        headers = {name.title(): value for name, value in signed([NEW], body).items()}
        assert post(listener, body, headers).status_code == 200
        assert "webhook-signature" in listener.events[0].headers

    def test_duplicates_are_counted_by_event_id(self, listener: Listener) -> None:
        for event_id in ("evt_1", "evt_2", "evt_1", "evt_1"):
            send(listener, event_id)
        send(listener, "evt_1", [OTHER])
        assert listener.seen == {"evt_1": 3, "evt_2": 1}
        assert requests.get(listener.url, timeout=20).json() == {
            "received": 5,
            "verified": 4,
            "distinct": 2,
            "duplicates": 2,
        }

    def test_no_event_is_lost_when_many_come_at_once(self, listener: Listener) -> None:
        def burst(sender: int) -> None:
            for number in range(20):
                send(listener, f"evt_{sender}_{number}")

        senders = [threading.Thread(target=burst, args=(n,)) for n in range(5)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert len(listener.events) == 100
        assert listener.counts()["distinct"] == 100


BODY = json.dumps(EVENT).encode()
GOOD = "v1," + base64.b64encode(b"0" * 32).decode()


class TestNotVerified:
    @pytest.mark.parametrize(
        ("headers", "status", "error"),
        [
            ({}, 401, "Missing required headers"),
            ({"webhook-signature": GOOD}, 401, "No matching signature"),
            ({"webhook-signature": "v2,AAAA"}, 401, "No matching signature"),
            ({"webhook-timestamp": "yesterday"}, 401, "Invalid Signature Headers"),
            ({"webhook-timestamp": "nan"}, 401, "Invalid Signature Headers"),
            ({"webhook-timestamp": "1"}, 401, "too old"),
            ({"webhook-signature": "v1"}, 400, "malformed"),
            ({"webhook-signature": "v1,a,b"}, 400, "malformed"),
            ({"webhook-signature": "v1,A"}, 400, "malformed"),
            ({"webhook-signature": "v1,\xe4"}, 400, "malformed"),
        ],
    )
    def test_what_is_missing_wrong_or_malformed(
        self, listener: Listener, headers: dict[str, str], status: int, error: str
    ) -> None:
        reply = post(listener, BODY, signed([NEW], BODY) | headers if headers else {})
        assert reply.status_code == status
        assert error in reply.json()["error"]
        (event,) = listener.events
        assert (event.verified, listener.seen) == (False, {})
        assert event.error == reply.json()["error"]

    def test_is_what_bears_somebody_elses_secret(self, listener: Listener) -> None:
        assert send(listener, secrets=[OTHER]).status_code == 401

    def test_is_what_was_changed_on_the_way(self, listener: Listener) -> None:
        assert post(listener, BODY + b" ", signed([NEW], BODY)).status_code == 401

    @pytest.mark.parametrize("minutes", [-6, 6])
    def test_a_timestamp_far_from_now(self, listener: Listener, minutes: int) -> None:
        moment = datetime.now(UTC) + timedelta(minutes=minutes)
        assert post(listener, BODY, signed([NEW], BODY, at=moment)).status_code == 401

    @pytest.mark.parametrize("body", [b"[1]", b"no json", b"", b"[" * 100_000])
    def test_a_signed_body_that_is_no_object(self, listener: Listener, body: bytes) -> None:
        reply = post(listener, body, signed([NEW], body))
        assert (reply.status_code, listener.events[0].body) == (400, {})
        assert listener.events[0].error == "the body is no JSON object"

    def test_a_body_that_is_no_text(self, listener: Listener) -> None:
        reply = post(listener, b"\xff\xfe", signed([NEW], b"{}"))
        assert reply.status_code == 400
        assert "malformed" in reply.json()["error"]

    def test_nothing_is_verified_without_a_secret(self) -> None:
        with Listener([]) as listener:
            assert send(listener).status_code == 401
            assert listener.events[0].error == "there is no secret to verify with"

    def test_a_large_body_is_refused_unread_and_not_remembered(self, listener: Listener) -> None:
        assert post(listener, b" " * (1024 * 1024 + 1), {}).status_code == 413
        assert post(listener, b" " * (1024 * 1024), {}).status_code == 401
        assert listener.counts()["received"] == 1


class TestSecrets:
    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_A", "whsec_ä", "!!!"])
    def test_what_is_no_secret_is_refused_without_showing_it(self, secret: str) -> None:
        with pytest.raises(Refused, match="secret number 2 is not whsec_ and base64") as caught:
            Listener([NEW, secret])
        assert caught.value.__suppress_context__
        assert caught.value.__cause__ is None


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "status", "headers"),
        [
            (204, 204, {}),
            (500, 500, {}),
            (410, 410, {}),
            (lambda event: 500 if event.id == "evt_1" else 200, 500, {}),
            (lambda _: (503, {"Retry-After": "7"}), 503, {"Retry-After": "7"}),
            (lambda _: (302, {"Location": "http://127.0.0.1:1/"}), 302, {}),
        ],
    )
    def test_misbehaviour_can_be_played(
        self,
        answer: int | Callable[[Received], int | tuple[int, dict[str, str]]],
        status: int,
        headers: dict[str, str],
    ) -> None:
        with Listener([NEW], answer=answer) as listener:
            body = json.dumps(EVENT).encode()
            reply = requests.post(
                listener.url,
                data=body,
                headers=signed([NEW], body),
                timeout=20,
                allow_redirects=False,
            )
            assert reply.status_code == status
            assert headers.items() <= dict(reply.headers).items()
            assert len(listener.events) == 1

    def test_what_is_not_verified_gets_no_such_answer(self) -> None:
        with Listener([NEW], answer=lambda _: 200) as listener:
            assert send(listener, secrets=[OTHER]).status_code == 401

    def test_a_delay_is_waited_for_and_not_sent(self) -> None:
        with Listener([NEW], answer=lambda _: (200, {"Delay": "0.3"})) as listener:
            reply = send(listener)
        assert reply.elapsed >= timedelta(seconds=0.3)
        assert "Delay" not in reply.headers

    def test_status_0_hangs_up(self) -> None:
        with Listener([NEW], answer=0) as listener:
            with pytest.raises(requests.ConnectionError):
                send(listener)
            assert listener.counts()["verified"] == 1

    def test_on_event_sees_all_before_the_answer_leaves(self) -> None:
        heard: list[Received] = []
        with Listener([NEW], on_event=heard.append) as listener:
            send(listener)
            assert [event.verified for event in heard] == [True]
            send(listener, secrets=[OTHER])
            assert [event.verified for event in heard] == [True, False]

    def test_only_the_newest_events_are_kept(self) -> None:
        with Listener([NEW], keep=2) as listener:
            for number in range(4):
                send(listener, f"evt_{number}")
            assert [event.id for event in listener.events] == ["evt_2", "evt_3"]
            assert listener.counts()["received"] == 4

    def test_other_pages_are_not_found(self, listener: Listener) -> None:
        assert requests.get(f"{listener.url}/hooks", timeout=20).status_code == 404


class TestServing:
    def test_it_serves_where_it_was_told_and_again_after_a_stop(self) -> None:
        with Listener([NEW]) as first:
            send(first)
            port = int(first.url.rpartition(":")[2])
            first.stop()
            with Listener([NEW], port=port) as second:
                assert second.url == f"http://127.0.0.1:{port}"
                assert second.events == []
            first.start(port=port)
            send(first)
            assert len(first.events) == 2

    def test_many_posts_share_a_connection(self, listener: Listener) -> None:
        host, port = listener.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        names = set()
        for number in range(5):
            connection.request("POST", "/", BODY, signed([NEW], BODY, f"evt_{number}"))
            assert connection.getresponse().read() == b""
            names.add(connection.sock.getsockname())
        connection.close()
        assert len(names) == 1
