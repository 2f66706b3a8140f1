"""Heads larger than is read: an error, or the answer's status where no more is needed."""

from collections.abc import Iterator

import pytest

from reelwatch.net import transfer
from reelwatch.net.http import Client, ConnectFailed, Request
from tests.peers import Line, Peer

HEADS = {
    "some headers more": b"X: y\r\n" * (transfer.MOST_HEADERS + 1),
    "thousands of headers": b"a: b\r\n" * 5_001,  # which libcurl itself refuses
    "over 64 KiB": (b"X: " + b"y" * 60_000 + b"\r\n") * 2,
}


@pytest.fixture
def client() -> Iterator[Client]:
    with_end = Client()
    yield with_end
    with_end.close()


def answering_with(start: bytes, headers: bytes) -> Peer:
    def script(line: Line) -> None:
        line.request()
        line.send(start + headers + b"Content-Length: 2\r\n\r\nok")
        line.close()

    return Peer(script)


@pytest.mark.parametrize("headers", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 204 Fine\r\n", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 Fine\r\n"]
)
def test_a_status_before_too_many_headers_counts_where_the_rest_may_be_cut(
    client: Client, start: bytes, headers: bytes
) -> None:
    with answering_with(start, headers) as peer:
        assert client.ask(Request(peer.url, truncate=True)).status == 204


@pytest.mark.parametrize("headers", HEADS.values(), ids=HEADS)
def test_too_many_headers_are_an_error_where_all_is_needed(client: Client, headers: bytes) -> None:
    with (
        answering_with(b"HTTP/1.1 200 OK\r\n", headers) as peer,
        pytest.raises(ConnectFailed, match=r"too many headers|larger than 65536 bytes, or"),
    ):
        client.ask(Request(peer.url))


def test_interim_answers_alone_are_no_status(client: Client) -> None:
    endless = b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n" * 10_000
    with (
        answering_with(b"", endless) as peer,
        pytest.raises(ConnectFailed, match="larger than 65536 bytes"),
    ):
        client.ask(Request(peer.url, truncate=True))
