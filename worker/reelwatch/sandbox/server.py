"""A small HTTP server inside this process, under the stand-in upstream and the local receiver."""

import contextlib
import json
import socket
import socketserver
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs

from reelwatch.sandbox.answers import Answer, json_answer

MAX_BODY_BYTES = 1024 * 1024
_DRAIN_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_STOP_POLL_SECONDS = 0.02


class Request(NamedTuple):
    """One HTTP request; the names of its headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def parameter(self, name: str) -> str:
        """The first value of a query parameter, empty when there is none."""
        return parse_qs(self.query).get(name, [""])[0]


class LocalService(ABC):
    """A server that runs in a thread of this process; `respond` is what a subclass adds."""

    def __init__(self) -> None:
        self._server: _Server | None = None

    @abstractmethod
    def respond(self, request: Request) -> Answer:
        """What this request gets; called from many threads at once."""

    def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Begins to serve; port 0 picks a free one. Raises OSError when the port is taken."""
        if self._server is not None:
            raise RuntimeError(f"already serving at {self.url}")
        self._server = _Server((host, port), partial(_Exchange, self))
        self._server.thread.start()
        return self

    @property
    def url(self) -> str:
        """`http://host:port` without a slash at the end. Raises RuntimeError when not serving."""
        host, port = self._serving().server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else host
        return f"http://{name!s}:{port}"

    def _serving(self) -> "_Server":
        if self._server is None:
            raise RuntimeError("not serving")
        return self._server

    def stop(self) -> None:
        """Ends serving and cuts all connections, as an outage would; `start` may follow."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        server.cut_connections()

    def serve_forever(self) -> None:
        """Serves, starting if need be, until `stop` is called elsewhere or Ctrl-C is pressed."""
        if self._server is None:
            self.start()
        server = self._server
        try:
            if server is not None:  # else it has been stopped already
                server.thread.join()
        finally:
            self.stop()

    def __enter__(self) -> Self:
        return self if self._server is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)
        self.thread = threading.Thread(
            target=self.serve_forever, args=(_STOP_POLL_SECONDS,), daemon=True
        )

    def server_bind(self) -> None:
        # The base class looks up the host's full name here, which may wait for a name server.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may leave when they like
            super().handle_error(request, client_address)

    def cut_connections(self) -> None:
        """Ends the threads of open connections, which outlive the server otherwise."""
        self.closing.set()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # it may have closed by itself just now
                connection.shutdown(socket.SHUT_RDWR)


class _Refused(Exception):
    """A request that can't be read; the status to answer it with."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Exchange(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "reelwatch-local"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet
    timeout = 120

    def __init__(self, service: LocalService, *connection: Any) -> None:
        self._service = service
        super().__init__(*connection)

    def do_GET(self) -> None:
        try:
            request = self._read()
        except _Refused as refusal:
            error = json_answer(refusal.status, {"error": str(refusal)})
            self._write(error._replace(headers={**error.headers, "Connection": "close"}))
        else:
            self._write(self._service.respond(request))

    do_POST = do_GET  # noqa: N815 (the name http.server calls)

    def _read(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, path, query, headers, self._read_body(headers))

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            raise _Refused(411, "a Content-Length is required")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(400, "the Content-Length is no number")
        if int(length) > MAX_BODY_BYTES:
            self._drain(int(length))
            raise _Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError("the client left in mid-body")
        return body

    def _drain(self, length: int) -> None:
        """Reads a body that is too large, as closing on it would lose the client our answer."""
        left = min(length, _DRAIN_BYTES)
        while left > 0 and (piece := self.rfile.read(min(left, _PIECE_BYTES))):
            left -= len(piece)

    def _write(self, answer: Answer) -> None:
        if answer.delay:
            self.server.closing.wait(answer.delay)
        if not answer.status:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Nothing: who asked what is in the figures, not on the terminal."""


def read_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises ValueError when there is none."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("the body is no JSON object")  # noqa: TRY004 (the value, not an argument)
    return value
