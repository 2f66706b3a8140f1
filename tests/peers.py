"""Peers that speak HTTP, or something else, exactly as a test says: raw sockets on loopback."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from reelwatch.net.http import Client, Request, Response

TLS = Path(__file__).parent / "data" / "tls"
AUTHORITY = str(TLS / "authority.pem")  # vouches for hooks.example.com and 127.0.0.1

Script = Callable[["Line"], object]


class Line:
    """One accepted connection, from the peer's side."""

    def __init__(self, sock: socket.socket, number: int, peer: "Peer") -> None:
        self.sock = sock
        self.number = number  # 1 is the peer's first connection
        self.peer = peer
        self.sent_bytes = 0
        self._rest = b""

    def request(self) -> bytes:
        """Read one whole request and keep it in `peer.requests`; empty when the client has gone."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, rest = data.partition(b"\r\n\r\n")
        length = length_of(head)
        while len(rest) < length:
            rest += self._more()
        self._rest = rest[length:]
        whole = head + b"\r\n\r\n" + rest[:length]
        self.peer.requests.append(whole)
        return whole

    def _more(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent_bytes += len(data)

    def drip(self, data: bytes, seconds: float = 15.0, pause: float = 0.05) -> None:
        """Send byte by byte, over and over, for longer than any test lets its exchange last."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for byte in data:
                self.send(bytes([byte]))
                time.sleep(pause)

    def flood(self, data: bytes, total_bytes: int) -> None:
        """Send so many bytes as fast as the client takes them."""
        for _ in range(total_bytes // len(data)):
            self.send(data)

    def hang(self) -> None:
        """Say nothing until the client has gone."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def start_tls(self) -> None:
        """Shake hands; the name that the client asks for is kept in `peer.server_names`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
        names = self.peer.server_names
        context.sni_callback = lambda _sock, name, _context: names.append(name)
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def close(self) -> None:
        """End the connection properly."""
        self.sock.close()

    def reset(self) -> None:
        """Drop the connection without a proper end."""
        linger_not = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        self.sock.close()


class Peer:
    """A server whose connections each run `script`; closing it closes them all."""

    def __init__(self, script: Script, *, tls: bool = False, host: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self.server_names: list[str | None] = []
        self.lines: list[Line] = []
        self.port = 0
        self._script = script
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/poll?id=1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Shutting it down first wakes the thread that accepts.
        for sock in (self._listener, *(line.sock for line in self.lines)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line = Line(sock, len(self.lines) + 1, self)
                self.lines.append(line)
                threading.Thread(target=self._run, args=(line,), daemon=True).start()

    def _run(self, line: Line) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client, or the test, has gone
            if self._tls:
                line.start_tls()
            self._script(line)
        line.sock.close()


def answering(*answers: bytes) -> Script:
    """Keep-alive: answer every request, with the last answer again when there are no more."""

    def script(line: Line) -> None:
        for answer in endless(answers):
            line.request()
            line.send(answer)

    return script


def endless(answers: tuple[bytes, ...]) -> Iterator[bytes]:
    yield from answers
    while True:
        yield answers[-1]


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer with its length."""
    lines = (f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode("latin-1") + body


def length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens, and nobody will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def perform(
    client: Client, requests: Iterable[Request]
) -> Iterator[tuple[Request, Response | Exception]]:
    """All of them at once, each with its outcome, as they come."""
    with client.line() as line:
        for request in requests:
            line.send(request, request)
        while line.under_way:
            yield from line.results(60.0)
