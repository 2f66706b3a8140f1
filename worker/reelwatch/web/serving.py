"""The server: uvicorn, with an end to whatever is slow on the way to a request and from it."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from reelwatch.config.settings import Settings
from reelwatch.errors import SettingsError
from reelwatch.web.app import create_app
from reelwatch.web.gate import is_loopback

HOST, PORT = "127.0.0.1", 8600

HEAD_MOST = 64 * 1024  # bytes
HEAD_SECONDS = 15.0  # in which a head, and then a body, has to arrive, or the next request to begin
READER_SECONDS = 30.0  # for which a reader may take nothing of its answer
WAITING_MOST = 256  # connections that wait for a request; the oldest of more is closed
READERS_MOST = 256  # connections whose answers wait to be fetched; the oldest of more is closed
YOUNG_SECONDS = 1.0  # for which who waits is kept: of many who come at once none is heard yet
CHUNKS_MOST = 12_000  # of one body: one for each of the ids that a request may hold, and some
END_SECONDS = 5  # for requests under way, when the server ends


class _Connection(h11.Connection):
    """Reads no body to its end that comes in crumbs: each costs as much as a large piece."""

    _chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            if self._chunks > CHUNKS_MOST:
                raise h11.RemoteProtocolError("too many chunks")
        return event


class Protocol(H11Protocol):
    """A connection: closed when a head drips in, or an answer is not fetched.

    However many of that kind there are, a new one finds a place.
    """

    # Since when connections wait for a request, or for their answers to be fetched; the longest
    # first.
    waiting: ClassVar[dict["Protocol", float]] = {}
    unread: ClassVar[dict["Protocol", float]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Connection(h11.SERVER, HEAD_MOST)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._wait_for_request()
        _end_oldest(self.waiting, WAITING_MOST, YOUNG_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_there()
        self._answer_is_read()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun, and a second would stand within it
            self.transport.close()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return
        if not self.cycle.more_body:
            self._request_is_there()
        elif self.cycle is not before:  # its head is there: from now on its body has to come
            self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait_for_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread.setdefault(self, self.loop.time())
        self._end_after("reader", READER_SECONDS)
        _end_oldest(self.unread, READERS_MOST)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_is_read()

    def _wait_for_request(self) -> None:
        self.waiting.setdefault(self, self.loop.time())
        self._end_after("request", HEAD_SECONDS)

    def _request_is_there(self) -> None:
        self.waiting.pop(self, None)
        self._forget_end("request")

    def _answer_is_read(self) -> None:
        self.unread.pop(self, None)
        self._forget_end("reader")

    def _end_after(self, what: str, seconds: float) -> None:
        self._forget_end(what)
        self._ends[what] = self.loop.call_later(seconds, self.transport.abort)

    def _forget_end(self, what: str) -> None:
        if what in self._ends:
            self._ends.pop(what).cancel()


def _end_oldest(connections: dict[Protocol, float], most: int, young: float = 0.0) -> None:
    if len(connections) <= most:
        return
    oldest, since = next(iter(connections.items()))
    if oldest.loop.time() - since >= young:
        del connections[oldest]  # it is lost a moment later, and no second one is to go for it
        oldest.transport.abort()


class _Uvicorn(uvicorn.Server):
    """Ends by SIGTERM or Ctrl-C with the exit code 0, and tells the app before."""

    def __init__(self, config: uvicorn.Config, app: Any) -> None:
        super().__init__(config)
        self._app = app

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = (signal.SIGTERM, signal.SIGINT)
        before = {each: signal.signal(each, self.handle_exit) for each in ends}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.ending.set()
        await super().shutdown(sockets)


class Server:
    """The web process's server, or the one that is beside the workers in `up`."""

    def __init__(self, settings: Settings, host: str = HOST, port: int = PORT) -> None:
        """Listens at once. Raises `SettingsError` without tokens where others could reach it,
        `OSError` where it can't listen.
        """
        check_address(settings, host)
        self._socket = _listening(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self.app = app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(HEAD_SECONDS),
            timeout_graceful_shutdown=END_SECONDS,
        )
        self._server = _Uvicorn(config, app)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C; returns the exit code."""
        self._server.run([self._socket])

    def start(self) -> None:
        """Serve in a thread, until `stop`."""
        self._thread = threading.Thread(target=self.run, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `start` began, once the requests under way are answered."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(END_SECONDS + 5)
        self._socket.close()


def check_address(settings: Settings, host: str) -> None:
    """Raises `SettingsError` where everybody who reaches that address could do everything."""
    if not settings.api_tokens and not is_loopback(host):
        raise SettingsError(
            f"--host {host}: without REELWATCH_API_TOKENS only this machine is served; accepted: "
            "127.0.0.1, ::1, localhost; or set REELWATCH_API_TOKENS to NAME:ROLE:TOKEN "
            "(`reelwatch secret --token NAME:ROLE` makes one)"
        )


def _listening(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(512)
    except OSError:
        made.close()
        raise
    return made
