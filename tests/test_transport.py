"""One exchange: what comes of it, and that no peer can hold it, fill it or confuse the next one.

Deadlines are short and peers hostile for longer than any of them; what is asserted is only that an
exchange ended by its deadline and long before its peer would have let it go.
"""

import contextlib
import gzip
import io
import os
import random
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reelwatch.net import exchange, http, transfer
from reelwatch.net.http import (
    BodyTooLarge,
    Client,
    ConnectFailed,
    DeadlinePassed,
    Request,
    Response,
    TransferError,
)
from tests.peers import AUTHORITY, Line, Peer, Script, answer, answering, closed_port

KEY = "Bearer sk-do-not-tell"
MEGABYTE = 1024 * 1024
LONG_BEFORE = 10.0  # seconds; every hostile peer goes on for longer


def closed_after(**options: Any) -> contextlib.closing[Client]:
    return contextlib.closing(Client(**options))


@pytest.fixture
def client() -> Iterator[Client]:
    with closed_after(verify=AUTHORITY) as client:
        yield client


def poll(client: Client, url: str, **options: Any) -> Response:
    """An exchange as the upstream client has it, with a deadline that good peers keep easily."""
    options = {"headers": {"Authorization": KEY}, "deadline_seconds": 20, **options}
    return client.ask(Request(url, **{"max_bytes": 4096, **options}))


def poll_one(client: Client, script: Script, **options: Any) -> Response:
    with Peer(script) as peer:
        return poll(client, peer.url, **options)


def resolving(*addresses: str) -> http.Resolver:
    return lambda _host, _port: addresses


# ------------------------------------------------------------------ what comes of it


def test_an_exchange_brings_status_headers_and_body(client: Client) -> None:
    reply = answer(b"not yet", "Retry-After: 7", "X-Two: a", "X-Two: b", status="429 Too Many")
    got = poll_one(client, answering(reply))
    assert (got.status, got.body) == (429, b"not yet")
    assert (got.headers["retry-AFTER"], got.headers["x-two"]) == ("7", "a, b")
    assert 0 < got.elapsed_seconds < LONG_BEFORE


def test_the_request_is_sent_as_given(client: Client) -> None:
    with Peer(answering(answer())) as peer:
        poll(client, peer.url, method="POST", body=b"{}", headers={"webhook-id": "evt_1"})
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /poll?id=1 HTTP/1.1"
    assert {b"webhook-id: evt_1", b"Content-Length: 2", b"User-Agent: reelwatch"} <= set(lines)
    assert b"Host: 127.0.0.1:%d" % peer.port in lines
    assert body == b"{}"


def test_connections_are_kept_and_used_again(client: Client) -> None:
    with Peer(answering(answer(b"a"), answer(b"b" * 4096), answer(b"c"))) as peer:
        bodies = [poll(client, peer.url).body[:1] for _ in range(3)]
    assert bodies == [b"a", b"b", b"c"]
    assert len(peer.lines) == 1


def test_threads_share_a_session(client: Client) -> None:
    def echo(line: Line) -> None:
        while True:
            line.send(answer(line.request().split(b" ")[1]))

    with Peer(echo) as peer, ThreadPoolExecutor(4) as threads:
        urls = [f"http://127.0.0.1:{peer.port}/{number}" for number in range(200)]
        bodies = list(threads.map(lambda url: poll(client, url).body, urls))
    assert bodies == [b"/%d" % number for number in range(200)]
    assert len(peer.lines) <= 4


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 T", "308 P"])
def test_a_redirect_is_an_answer_and_is_not_followed(client: Client, status: str) -> None:
    with Peer(answering(answer(b"stolen"))) as target:
        reply = answer(b"over there", f"Location: {target.url}", status=status)
        got = poll_one(client, answering(reply))
    assert (str(got.status), got.body) == (status[:3], b"over there")
    assert target.lines == []


def test_an_answer_without_a_body_leaves_the_connection_usable(client: Client) -> None:
    none = b"HTTP/1.1 204 No Content\r\n\r\n"
    with Peer(answering(none, answer(b"next"))) as peer:
        assert poll(client, peer.url).body == b""
        assert poll(client, peer.url).body == b"next"
    assert len(peer.lines) == 1


def test_a_body_may_last_until_the_connection_ends(client: Client) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    assert poll_one(client, script).body == b"all of it"


@pytest.mark.parametrize(
    "reply",
    [answer(b"last", "Connection: close"), b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nlast"],
)
def test_a_connection_that_is_to_end_is_closed_at_once(client: Client, reply: bytes) -> None:
    closed = threading.Event()

    def script(line: Line) -> None:
        line.request()
        line.send(reply)
        if not line.sock.recv(1):
            closed.set()

    with Peer(script) as peer:
        assert poll(client, peer.url).body == b"last"
        assert closed.wait(LONG_BEFORE)
        assert poll(client, peer.url).body == b"last"
    assert len(peer.lines) == 2


def test_a_connection_of_an_older_version_may_be_kept(client: Client) -> None:
    reply = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n\r\nmore"
    with Peer(answering(reply, reply)) as peer:
        assert [poll(client, peer.url).body for _ in range(2)] == [b"more", b"more"]
    assert len(peer.lines) == 1


def test_an_answer_may_have_as_many_headers_as_this(client: Client) -> None:
    most = transfer.MOST_HEADERS
    got = poll_one(client, broken(many_headers(most)))
    assert got.headers["x-header"].count("value") == most
    with pytest.raises(ConnectFailed, match="not valid HTTP"):
        poll_one(client, broken(many_headers(most + 1)))


def test_an_answer_to_head_has_no_body(client: Client) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"
    with Peer(answering(head, answer(b"next"))) as peer:
        assert poll(client, peer.url, method="HEAD").body == b""
        assert poll(client, peer.url).body == b"next"
    assert len(peer.lines) == 1


@pytest.mark.parametrize("length", ["-4", "four", "4 4"])
def test_a_length_that_is_none_is_an_error(client: Client, length: str) -> None:
    reply = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nbody and more".encode()
    with pytest.raises(ConnectFailed, match=r"not valid HTTP|ended before"):
        poll_one(client, broken(reply))


def test_a_length_that_is_said_twice_alike_is_believed(client: Client) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nbody and more"
    assert poll_one(client, broken(reply)).body == b"body"


def test_an_answer_that_comes_before_all_was_sent_is_read(client: Client) -> None:
    """A receiver that refuses a large body need not read it."""
    read = threading.Event()

    def script(line: Line) -> None:
        line.sock.recv(1000)
        line.send(answer(b"too large", "Connection: close", status="413 Too Large"))
        read.wait(30)  # were it closed at once, its answer might be lost

    with Peer(script) as peer:
        got = poll(client, peer.url, method="POST", body=b"x" * 8 * MEGABYTE, deadline_seconds=20)
        read.set()
    assert (got.status, got.body) == (413, b"too large")


URLS = {
    "http://127.0.0.1:{port}": b"/",
    "HTTP://127.0.0.1:{port}?id=1": b"/?id=1",
    "http://me:secret@127.0.0.1:{port}/a%20b/%7E?x=/?#part": b"/a%20b/%7E?x=/?",
    "http://127.0.0.1:{port}/\u00e4 b\r\nX: y": b"/%C3%A4%20b%0D%0AX:%20y",
    "http://127.0.0.1:{port}\\@example.com/": b"/%5C@example.com/",
}


@pytest.mark.parametrize(("url", "target"), URLS.items(), ids=URLS)
def test_a_url_is_asked_for_as_it_stands(client: Client, url: str, target: bytes) -> None:
    with Peer(answering(answer())) as peer:
        poll(client, url.format(port=peer.port), headers={})
    head = peer.requests[0]
    assert head.startswith(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % (target, peer.port))
    assert b"secret" not in head


def test_a_body_may_come_in_many_small_chunks(client: Client) -> None:
    chunks = b"1\r\nx\r\n" * 30_000
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    with Peer(answering(reply)) as peer:
        for _ in range(2):
            assert poll(client, peer.url, max_bytes=30_000).body == b"x" * 30_000
    assert len(peer.lines) == 1


def test_cookies_are_neither_kept_nor_sent(client: Client) -> None:
    with Peer(answering(answer(b"", "Set-Cookie: track=me; Path=/"))) as peer:
        poll(client, peer.url)
        poll(client, peer.url)
    assert b"ookie" not in b"".join(peer.requests)


def test_nothing_of_the_environment_is_used(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Peer(answering(answer(b"proxied"))) as proxy, Peer(answering(answer(b"direct"))) as peer:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert poll(client, peer.url, headers={}).body == b"direct"
    assert proxy.lines == []
    assert b"authorization" not in peer.requests[0].lower()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://[::1/", "x", "http://a:b/"])
def test_an_impossible_url_is_an_error_of_the_exchange(client: Client, url: str) -> None:
    with pytest.raises(ConnectFailed):
        poll(client, url)


@pytest.mark.parametrize("value", [f"{KEY}\r\nX-More: 1", f"{KEY}\u20ac", f"{KEY}\n"])
def test_an_impossible_header_is_not_repeated_in_the_error(client: Client, value: str) -> None:
    with Peer(answering(answer())) as peer, pytest.raises(ConnectFailed) as raised:
        poll(client, peer.url, headers={"Authorization": value})
    assert "sk-" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert raised.value.__cause__ is None


# ------------------------------------------------------------------ encodings


def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


PLAIN = b'{"status": "completed"}' * 40
ENCODED = {
    "gzip": ("gzip", gzip.compress(PLAIN)),
    "named otherwise": ("X-GZIP", gzip.compress(PLAIN)),
    "in two members": ("gzip", gzip.compress(PLAIN[:100]) + gzip.compress(PLAIN[100:])),
    "padded": ("gzip", gzip.compress(PLAIN) + b"\0" * 50),
    "zlib": ("deflate", zlib.compress(PLAIN)),
    "bare deflate": ("deflate", raw_deflate(PLAIN)),
    "gzip called deflate": ("deflate", gzip.compress(PLAIN)),
}


@pytest.mark.parametrize(("encoding", "body"), ENCODED.values(), ids=ENCODED)
def test_a_compressed_body_is_decoded(client: Client, encoding: str, body: bytes) -> None:
    with Peer(answering(answer(body, f"Content-Encoding: {encoding}"))) as peer:
        assert poll(client, peer.url).body == PLAIN
        assert poll(client, peer.url).body == PLAIN
    assert b"Accept-Encoding: gzip, deflate\r\n" in peer.requests[0]
    assert len(peer.lines) == 1


@pytest.mark.parametrize(("encoding", "body"), ENCODED.values(), ids=ENCODED)
def test_bodies_that_come_byte_by_byte_are_too(client: Client, encoding: str, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert poll_one(client, answering(head.encode() + chunks)).body == PLAIN


def test_bodies_are_decoded_on_request_only(client: Client) -> None:
    packed = gzip.compress(PLAIN)
    with Peer(answering(answer(packed, "Content-Encoding: gzip"))) as peer:
        assert poll(client, peer.url, decode=False).body == packed
    assert b"Accept-Encoding: identity\r\n" in peer.requests[0]


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "", "\u00e9"])
def test_a_body_in_an_encoding_nobody_asked_for_is_kept(client: Client, encoding: str) -> None:
    got = poll_one(client, answering(answer(PLAIN, f"Content-Encoding: {encoding}")))
    assert got.body == PLAIN


def test_an_empty_body_needs_no_decoding(client: Client) -> None:
    got = poll_one(client, answering(answer(b"", "Content-Encoding: gzip", status="502 Bad")))
    assert (got.status, got.body) == (502, b"")


DAMAGED = {
    "ends early": gzip.compress(PLAIN)[:-9],
    "garbage in gzip": b"\x1f\x8bgarbage",
    "garbage in zlib": b"\x78\x9cgarbage",
    "garbage": b"garbage",
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_encoding_is_an_error(client: Client, body: bytes) -> None:
    with pytest.raises(ConnectFailed, match=r"gzip|ends early"):
        poll_one(client, answering(answer(body, "Content-Encoding: gzip")))


# ------------------------------------------------------------------ size


def bomb(decoded_bytes: int) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        for _ in range(decoded_bytes // MEGABYTE):
            file.write(bytes(MEGABYTE))
    return packed.getvalue()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python held at a time for this, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_is_refused_before_it_goes_off(client: Client) -> None:
    packed = answer(bomb(100 * MEGABYTE), "Content-Encoding: gzip")
    with Peer(answering(packed)) as peer:

        def refused() -> None:
            with pytest.raises(BodyTooLarge, match="1048576 bytes"):
                poll(client, peer.url, max_bytes=MEGABYTE)

        assert peak_bytes(refused) < 8 * MEGABYTE


def test_a_nested_bomb_stays_packed(client: Client) -> None:
    packed = gzip.compress(bomb(100 * MEGABYTE))
    reply = answer(packed, "Content-Encoding: gzip, gzip")
    assert poll_one(client, answering(reply)).body == packed


def test_a_stream_that_decodes_to_nothing_is_bounded_as_sent(client: Client) -> None:
    """Endless empty blocks of deflate give no byte, yet must not be read for ever."""

    def script(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n\x78\x01")
        line.flood(b"\x00\x00\x00\xff\xff" * 10_000, 200 * MEGABYTE)

    with Peer(script) as peer, pytest.raises(BodyTooLarge):
        poll(client, peer.url, max_bytes=MEGABYTE)
    assert peer.lines[0].sent_bytes < 50 * MEGABYTE


def flood(head: str) -> Script:
    def script(line: Line) -> None:
        line.request()
        line.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        line.flood(b"x" * 65536, 100 * MEGABYTE)

    return script


@pytest.mark.parametrize(
    "head", ["Content-Length: 104857600", "Transfer-Encoding: chunked\r\n\r\n6400000", "X: y"]
)
def test_a_huge_body_is_not_read(client: Client, head: str) -> None:
    with Peer(flood(head)) as peer, pytest.raises(BodyTooLarge):
        poll(client, peer.url)
    assert peer.lines[0].sent_bytes < 50 * MEGABYTE


@pytest.mark.parametrize("size", ["-1", "-2", "-ffffffff"])
def test_a_chunk_of_negative_size_is_not_taken_for_all_there_is(client: Client, size: str) -> None:
    script = flood(f"Transfer-Encoding: chunked\r\n\r\n{size}")
    with Peer(script) as peer, pytest.raises(ConnectFailed, match="no proper size"):
        poll(client, peer.url)
    assert peer.lines[0].sent_bytes < 50 * MEGABYTE


@pytest.mark.parametrize("location", ["", "Location: http://127.0.0.1:1/\r\n"])
def test_a_long_body_is_cut_and_its_connection_dropped(client: Client, location: str) -> None:
    body = bytes(range(256)) * 20
    reply = f"HTTP/1.1 302 Found\r\n{location}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with Peer(answering(reply)) as peer:
        for _ in range(2):
            got = poll(client, peer.url, truncate=True)
            assert (got.status, got.body) == (302, body[:4096])
    assert len(peer.lines) == 2


@pytest.mark.parametrize("truncate", [False, True])
def test_a_body_of_just_the_size_is_whole(client: Client, truncate: bool) -> None:
    with Peer(answering(answer(b"x" * 4096))) as peer:
        for _ in range(2):
            got = poll(client, peer.url, truncate=truncate)
            assert len(got.body) == 4096
    assert len(peer.lines) == 1


# ------------------------------------------------------------------ the deadline


def drips_head(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\n")
    line.drip(b"X-Header: value\r\n")


def drips_body(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    line.drip(b"x")


def drips_chunks(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.drip(b"1\r\nx\r\n")


def drips_gzip(line: Line) -> None:
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10])
    line.drip(b"\x00\x00\x00\xff\xff")


def drips_interim_answers(line: Line) -> None:
    line.request()
    line.drip(b"HTTP/1.1 100 Continue\r\n\r\n")


def stops_in_a_body_without_length(line: Line) -> None:
    line.request()
    line.send(b'HTTP/1.1 200 OK\r\n\r\n{"status": "completed"}')
    line.hang()


def never_answers(line: Line) -> None:
    line.hang()


def never_reads(line: Line) -> None:
    time.sleep(LONG_BEFORE * 1.5)


def ends_by_deadline(client: Client, url: str, **options: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlinePassed, match=r"within 0\.5 s"):
        poll(client, url, deadline_seconds=0.5, **options)
    assert 0.4 < time.monotonic() - begun < LONG_BEFORE


@pytest.mark.parametrize(
    "script",
    [
        drips_head,
        drips_body,
        drips_chunks,
        drips_gzip,
        drips_interim_answers,
        stops_in_a_body_without_length,
        never_answers,
    ],
)
def test_a_peer_that_drags_on_is_cut(client: Client, script: Script) -> None:
    with Peer(script) as peer:
        ends_by_deadline(client, peer.url)


@pytest.mark.parametrize("script", [drips_head, drips_body, never_answers])
def test_a_peer_that_drags_on_over_tls_is_cut(client: Client, script: Script) -> None:
    with Peer(script, tls=True) as peer:
        ends_by_deadline(client, peer.url)


def test_a_used_connection_is_cut_as_well(client: Client) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"fine"))
        drips_head(line)

    with Peer(script) as peer:
        assert poll(client, peer.url).body == b"fine"
        ends_by_deadline(client, peer.url)
    assert len(peer.lines) == 1


def test_a_peer_that_takes_nothing_is_cut(client: Client) -> None:
    with Peer(never_reads) as peer:
        ends_by_deadline(client, peer.url, method="POST", body=bytes(64 * MEGABYTE))


@pytest.mark.parametrize("script", [never_answers, lambda line: line.drip(b"\x16\x03\x03\x40\x00")])
def test_a_handshake_that_hangs_is_cut(client: Client, script: Script) -> None:
    with Peer(script) as peer:
        ends_by_deadline(client, f"https://127.0.0.1:{peer.port}/")


@contextlib.contextmanager
def accepting_nobody(address: str, port: int = 0) -> Iterator[int]:
    """A port of this address where connections are neither accepted nor refused."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def test_a_peer_that_accepts_nobody_is_cut(client: Client) -> None:
    with accepting_nobody("127.0.0.1") as port:
        ends_by_deadline(client, f"http://127.0.0.1:{port}/")


def test_no_time_at_all_is_too_late(client: Client) -> None:
    with Peer(answering(answer())) as peer, pytest.raises(DeadlinePassed):
        poll(client, peer.url, deadline_seconds=0)
    assert peer.requests == []


def test_a_deadline_ends_with_its_exchange(client: Client) -> None:
    """The connection goes on to others; the watchdog of the first one must not bite them."""

    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"quick"))
        line.request()
        time.sleep(1.2)
        line.send(answer(b"slow"))

    with Peer(script) as peer:
        assert poll(client, peer.url, deadline_seconds=0.6).body == b"quick"
        assert poll(client, peer.url, deadline_seconds=20).body == b"slow"
    assert len(peer.lines) == 1


def test_a_short_deadline_is_kept_beside_long_ones(client: Client) -> None:
    with Peer(never_answers) as peer, ThreadPoolExecutor(1) as threads:
        patient = threads.submit(poll, client, peer.url, deadline_seconds=1.5)
        while not peer.lines:
            time.sleep(0.01)
        ends_by_deadline(client, peer.url)
        assert isinstance(patient.exception(), DeadlinePassed)


def test_no_descriptor_is_left_open(client: Client) -> None:
    def count() -> int:
        return len(os.listdir("/dev/fd"))

    with Peer(answering(answer())) as good, Peer(never_answers) as bad:
        poll(client, good.url)
        before = count()
        for _ in range(5):
            poll(client, good.url)
            with pytest.raises(DeadlinePassed):
                poll(client, bad.url, deadline_seconds=0.05)
        client.close()
        # Each of the bad peer's connections is one descriptor of this process, on its own side.
        assert count() - before <= len(bad.lines)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_keeps_its_own_deadlines(client: Client) -> None:
    with Peer(drips_head) as peer:
        ends_by_deadline(client, peer.url)  # the parent's watchdog runs
        child = os.fork()
        if child == 0:
            os._exit(exit_code_of_a_cut(peer.url))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def exit_code_of_a_cut(url: str) -> int:
    begun = time.monotonic()
    try:
        poll(Client(), url, deadline_seconds=0.5)
    except DeadlinePassed:
        return 0 if time.monotonic() - begun < LONG_BEFORE else 1
    except BaseException:  # the child must not go on with the parent's tests
        return 2
    return 3


# ------------------------------------------------------------------ broken answers


def broken(data: bytes, end: Callable[[Line], object] = Line.close) -> Script:
    """Answer a request with this and drop the connection."""

    def script(line: Line) -> None:
        line.request()
        line.send(data)
        time.sleep(0.1)  # a reset would overtake what was just sent
        end(line)

    return script


def many_headers(count: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * count + b"\r\n"


BROKEN = {
    "reset before the answer": (b"", "reset"),
    "reset in the head": (b"HTTP/1.1 200 OK\r\nContent-", "reset"),
    "reset in the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "reset"),
    "reset in a body without length": (b"HTTP/1.1 200 OK\r\n\r\nx", "reset"),
    "closed before the answer": (b"", "closed without an answer"),
    "closed in the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "ended before"),
    "closed in a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx", "ended"),
    "no chunk size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "no proper size",
    ),
    "another protocol": (b"220 mail.example.com ESMTP\r\n", "not valid HTTP"),
    "binary": (bytes(range(256)) * 4, "not valid HTTP"),
    "an echo of the request": (f"Authorization: {KEY}\r\n".encode(), "not valid HTTP"),
    "an echo as version": (f"HTTP/{KEY.replace(' ', '')} 200 OK\r\n\r\n".encode(), "not valid"),
    "an echo as chunk size": (
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
        "ended",
    ),
    "HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "not valid HTTP"),
    "status 99": (b"HTTP/1.1 99 Odd\r\n\r\n", "not valid HTTP"),
    "status 1000": (b"HTTP/1.1 1000 Odd\r\n\r\n", "not valid HTTP"),
    "status": (b"HTTP/1.1 fine OK\r\n\r\n", "not valid HTTP"),
    "change of protocol": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "change of protocol"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx", "not valid"),
    "closed in the head": (b"HTTP/1.1 200 OK\r\nContent-", "ended before"),
    "10,000 headers": (many_headers(10_000), "larger than 65536 bytes"),
    "one endless header": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "ended before"),
    "an endless status line": (b"HTTP/1.1 200 " + b"y" * 70_000, "without an answer"),
    "99 long headers": (
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 60_000 + b"\r\n") * 99,
        "the head of the answer is larger than 65536 bytes",
    ),
    "endless interim answers": (
        b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\n" * 10_000,
        "the head of the answer is larger than 65536 bytes",
    ),
}


@pytest.mark.parametrize(
    ("name", "data", "reason"), [(name, *case) for name, case in BROKEN.items()], ids=BROKEN
)
def test_a_broken_answer_is_an_error_that_says_so(
    client: Client, name: str, data: bytes, reason: str
) -> None:
    end = Line.reset if name.startswith("reset") else Line.close
    with pytest.raises(ConnectFailed, match=reason) as raised:
        poll_one(client, broken(data, end))
    assert "sk-" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_broken_connection_does_no_harm_to_the_next_exchange(client: Client) -> None:
    def script(line: Line) -> None:
        if line.number == 1:
            broken(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")(line)
        answering(answer(b"well"))(line)

    with Peer(script) as peer:
        with pytest.raises(ConnectFailed):
            poll(client, peer.url)
        assert poll(client, peer.url).body == b"well"


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(client: Client) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"%d" % line.number))

    with Peer(script) as peer:
        assert poll(client, peer.url).body == b"1"
        time.sleep(0.3)
        assert poll(client, peer.url).body == b"2"


@pytest.mark.parametrize("end", [Line.close, Line.reset])
@pytest.mark.parametrize("tls", [False, True])
def test_a_kept_connection_that_dies_in_use_is_replaced_once(
    client: Client, end: Callable[[Line], None], tls: bool
) -> None:
    """The peer may close what it kept at the very moment it is used: that is no failure of it."""

    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"%d" % line.number))
        line.request()
        end(line)

    with Peer(script, tls=tls) as peer:
        for number in (b"1", b"2", b"3"):
            assert poll(client, peer.url, method="POST", body=b"{}").body == number
        assert len(peer.lines) == 3
    assert len(peer.requests) == 5


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_request_whose_answer_had_begun_is_not_sent_again(client: Client, said: bytes) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"%d" % line.number))
        line.request()
        line.send(said)

    with Peer(script) as peer:
        assert poll(client, peer.url).body == b"1"
        with pytest.raises(ConnectFailed):
            poll(client, peer.url)
        assert len(peer.requests) == 2


def test_a_fresh_connection_that_dies_is_not_tried_again(client: Client) -> None:
    with Peer(Line.request) as peer:
        with pytest.raises(ConnectFailed, match="without an answer"):
            poll(client, peer.url)
        assert len(peer.requests) == 1


def test_a_request_that_ran_out_of_time_is_not_sent_again(client: Client) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b"1"))
        line.request()
        line.hang()

    with Peer(script) as peer:
        assert poll(client, peer.url).body == b"1"
        with pytest.raises(DeadlinePassed):
            poll(client, peer.url, deadline_seconds=0.5)
        assert len(peer.requests) == 2


def test_interim_answers_are_not_taken_for_the_answer(client: Client) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: <style.css>\r\n\r\n"
    replies = [interim + answer(b"first"), interim + interim + answer(b"second")]
    with Peer(answering(*replies)) as peer:
        assert [poll(client, peer.url).body for _ in replies] == [b"first", b"second"]
    assert len(peer.lines) == 1


def test_a_line_in_the_head_that_is_no_header_is_an_error(client: Client) -> None:
    """Parsers differ about what it belongs to: that is how answers are smuggled."""
    reply = b"HTTP/1.1 200 OK\r\nno header\r\nX: y\r\nContent-Length: 2\r\n\r\nok"
    with pytest.raises(ConnectFailed, match="not valid HTTP"):
        poll_one(client, answering(reply))


def test_random_answers_bring_an_answer_or_an_error(client: Client) -> None:
    chance = random.Random(7)
    parts = [b"HTTP/1.1 ", b"200 OK", b"\r\n", b"\n", b"\r", b":", b" ", b"\0", b"\xff", b"From "]
    parts += [b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"5", b"-1", b";", b"\t"]
    parts += [b"Content-Encoding: gzip\r\n", b"\x1f\x8b", b"Connection: close\r\n", b"9" * 5000]
    good = b"HTTP/1.1 200 OK\r\n"

    def script(line: Line) -> None:
        line.request()
        head = good if chance.random() < 0.8 else b""
        line.send(head + b"".join(chance.choices(parts, k=chance.randrange(1, 30))))

    with Peer(script) as peer:
        for _ in range(300):
            with contextlib.suppress(TransferError):
                poll(client, peer.url)


# ------------------------------------------------------------------ connecting


def test_addresses_are_tried_in_turn() -> None:
    addresses = resolving("127.0.0.2", "127.0.0.1")
    with (
        Peer(answering(answer(b"here"))) as peer,
        closed_after(resolver=addresses) as client,
    ):
        assert poll(client, f"http://two.example.com:{peer.port}/").body == b"here"
    assert b"Host: two.example.com:" in peer.requests[0]


def test_an_address_that_hangs_leaves_time_for_the_next() -> None:
    addresses = resolving("127.0.0.2", "127.0.0.1")
    with (
        Peer(answering(answer(b"here"))) as peer,
        accepting_nobody("127.0.0.2", peer.port),
        closed_after(resolver=addresses) as client,
    ):
        url = f"http://two.example.com:{peer.port}/"
        assert poll(client, url, deadline_seconds=2).body == b"here"


def test_an_address_that_hangs_holds_up_the_next_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where IPv6 leads nowhere, each connection would begin with most of its time gone."""
    began: list[tuple[str, float]] = []
    open_socket = exchange.open_socket

    def note(where: Any) -> socket.socket:
        began.append((where.addr[0], time.monotonic()))
        return open_socket(where)

    monkeypatch.setattr(exchange, "open_socket", note)
    addresses = resolving("127.0.0.2", "127.0.0.1")
    with (
        Peer(answering(answer(b"here"))) as peer,
        accepting_nobody("127.0.0.2", peer.port),
        closed_after(resolver=addresses) as client,
    ):
        url = f"http://two.example.com:{peer.port}/"
        assert poll(client, url, deadline_seconds=60).body == b"here"
    assert [address for address, _ in began] == ["127.0.0.2", "127.0.0.1"]
    assert began[1][1] - began[0][1] < LONG_BEFORE  # a share of the time would be 30 s


def test_a_handshake_may_take_all_the_time_there_is() -> None:
    """The address gets a share of the time to connect, but not less for what comes then."""

    def script(line: Line) -> None:
        time.sleep(1.5)
        line.start_tls()
        answering(answer(b"late"))(line)

    addresses = resolving("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
    with (
        Peer(script) as peer,
        closed_after(resolver=addresses, verify=AUTHORITY) as client,
    ):
        url = f"https://hooks.example.com:{peer.port}/"
        assert poll(client, url, deadline_seconds=5).body == b"late"


def test_names_of_this_machine_are_found_by_the_system(client: Client) -> None:
    with Peer(answering(answer(b"here"))) as peer:
        assert poll(client, f"http://localhost:{peer.port}/").body == b"here"


def test_addresses_of_version_6_are_reached(client: Client) -> None:
    try:
        peer = Peer(answering(answer(b"six")), host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with peer:
        assert poll(client, f"http://[::1]:{peer.port}/").body == b"six"


def test_a_refused_connection_is_an_error_that_says_so(client: Client) -> None:
    with closed_port() as port, pytest.raises(ConnectFailed, match="Connection refused") as raised:
        poll(client, f"http://127.0.0.1:{port}/")
    assert f"127.0.0.1 port {port}" in str(raised.value)


def raising(error: Exception) -> http.Resolver:
    def resolver(_host: str, _port: int) -> list[str]:
        raise error

    return resolver


UNRESOLVED = {
    "unknown": (raising(socket.gaierror(-2, "Name or service not known")), "service not known"),
    "no address": (resolving(), "has no address"),
    "nonsense": (resolving("elsewhere"), "not valid"),
}


@pytest.mark.parametrize(("resolver", "reason"), UNRESOLVED.values(), ids=UNRESOLVED)
def test_a_name_without_address_is_an_error(resolver: http.Resolver, reason: str) -> None:
    client = Client(resolver=resolver)
    with pytest.raises(ConnectFailed, match=reason):
        poll(client, "http://nowhere.example.com/")


# ------------------------------------------------------------------ TLS and proxies


def test_certificates_are_checked_by_name() -> None:
    with (
        Peer(answering(answer(b"safe")), tls=True) as peer,
        closed_after(verify=AUTHORITY, resolver=resolving("127.0.0.1")) as client,
    ):
        assert poll(client, f"https://hooks.example.com:{peer.port}/").body == b"safe"
        with pytest.raises(ConnectFailed, match="certificate was refused: Hostname mismatch"):
            poll(client, f"https://other.example.com:{peer.port}/")
    assert peer.server_names == ["hooks.example.com", "other.example.com"]
    assert len(peer.requests) == 1


@pytest.mark.parametrize("verify", [True, "directory"])
def test_unknown_authorities_are_refused(verify: bool | str, tmp_path: Path) -> None:
    trusted = str(tmp_path) if verify == "directory" else verify
    with (
        Peer(answering(answer()), tls=True) as peer,
        closed_after(verify=trusted) as client,
        pytest.raises(ConnectFailed, match="the certificate was refused"),
    ):
        poll(client, peer.url)
    assert peer.requests == []


def test_certificates_are_ignored_on_demand() -> None:
    with (
        Peer(answering(answer(b"any")), tls=True) as peer,
        closed_after(verify=False) as client,
    ):
        assert poll(client, peer.url).body == b"any"


def test_a_peer_without_tls_is_an_error_that_says_so(client: Client) -> None:
    peer = Peer(lambda line: line.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with peer, pytest.raises(ConnectFailed, match="TLS failed: WRONG_VERSION_NUMBER"):
        poll(client, f"https://127.0.0.1:{peer.port}/")


def test_a_given_proxy_is_used_for_plain_http() -> None:
    with Peer(answering(answer(b"by proxy"))) as proxy:
        proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
        with closed_after(proxies=proxies) as client:
            assert poll(client, "http://upstream.example.com/poll").body == b"by proxy"
            assert poll(client, "http://upstream.example.com/poll").body == b"by proxy"
    assert proxy.requests[0].startswith(b"GET http://upstream.example.com/poll HTTP/1.1\r\n")
    assert len(proxy.lines) == 1


def test_a_proxy_is_told_who_we_are() -> None:
    with Peer(answering(answer(b"by proxy"))) as proxy:
        proxies = {"http": f"http://me:secret@127.0.0.1:{proxy.port}"}
        with closed_after(proxies=proxies) as client:
            assert poll(client, "http://upstream.example.com/poll").body == b"by proxy"
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in proxy.requests[0]


def test_a_proxy_may_be_named_without_a_scheme() -> None:
    """As environments do."""
    with Peer(answering(answer(b"by proxy"))) as proxy:
        proxies = {"http": f"127.0.0.1:{proxy.port}"}
        with closed_after(proxies=proxies) as client:
            assert poll(client, "http://upstream.example.com/poll").body == b"by proxy"


def test_a_given_proxy_is_used_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was asked once, when the proxy was given."""
    monkeypatch.setenv("no_proxy", "*")
    with Peer(answering(answer(b"by proxy"))) as proxy:
        proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
        with closed_after(proxies=proxies) as client:
            assert poll(client, "http://upstream.example.com/poll").body == b"by proxy"


def tunnel(to_port: int) -> Script:
    """A proxy that does as it is told, except where to go."""

    def script(line: Line) -> None:
        line.request()
        line.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", to_port)) as onward:
            back = threading.Thread(target=copy, args=(onward, line.sock))
            back.start()
            copy(line.sock, onward)
            back.join()

    return script


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either side may have been cut
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("script", [answering(answer(b"inside")), drips_head])
def test_a_given_proxy_is_used_for_https(script: Script) -> None:
    with Peer(script, tls=True) as upstream, Peer(tunnel(upstream.port)) as proxy:
        proxies = {"https": f"http://me:secret@127.0.0.1:{proxy.port}"}
        with closed_after(proxies=proxies, verify=AUTHORITY) as client:
            if script is drips_head:
                ends_by_deadline(client, "https://hooks.example.com/")
            else:
                assert poll(client, "https://hooks.example.com/").body == b"inside"
    assert proxy.requests[0].startswith(b"CONNECT hooks.example.com:443 HTTP/1.")
    assert b"Bearer" not in proxy.requests[0]
    assert upstream.server_names == ["hooks.example.com"]


def test_a_proxy_that_refuses_is_an_error_that_says_so() -> None:
    with Peer(answering(b"HTTP/1.1 407 me:secret\r\n\r\n")) as proxy:
        proxies = {"https": f"http://me:secret@127.0.0.1:{proxy.port}"}
        client = Client(proxies=proxies)
        with pytest.raises(ConnectFailed, match=r"^the proxy: ") as raised:
            poll(client, "https://hooks.example.com/")
    assert "secret" not in str(raised.value)


def test_proxies_that_could_not_be_watched_are_not_accepted() -> None:
    with pytest.raises(ValueError, match="SOCKS"):
        Client(proxies={"https": "socks5://127.0.0.1:1080"})
    with pytest.raises(ValueError, match="address filter"):
        Client(proxies={"https": "http://127.0.0.1:1"}, address_filter=lambda *_: True)
