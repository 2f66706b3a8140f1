"""A TCP proxy that misbehaves on request: what a network does to a connection, on this machine."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from enum import StrEnum
from typing import Self

from sqlalchemy import make_url


class Weather(StrEnum):
    """What the proxy does to those who use it."""

    FAIR = "fair"
    BLACK_HOLE = "black hole"  # what is connected hears nothing any more, and is not told
    RESETS = "resets"  # everything is reset, as soon as it connects
    REFUSES = "refuses"  # nothing listens


class Proxy:
    """Passes bytes between its own port and a target's, as the weather allows.

    A connection that a black hole has taken stays dead in fair weather, as one that a
    firewall has forgotten does; only new ones work.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._weather = Weather.FAIR
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    @property
    def host(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    def set(self, weather: Weather) -> None:
        """Change the weather for those connected and those to come."""
        with self._lock:
            before, self._weather = self._weather, weather
            if weather in (Weather.RESETS, Weather.REFUSES):
                self._reset_all()
            if weather is Weather.BLACK_HOLE or before is Weather.BLACK_HOLE:
                self._pairs.clear()  # forgotten: neither passed on nor closed
        if weather is Weather.REFUSES:
            self._close_listener()
        elif self._listener is None:
            self._listen()

    def lead_to(self, host: str, port: int) -> None:
        """Have new connections go elsewhere; those that are open stay with whom they have."""
        self._target = (host, port)

    def close(self) -> None:
        """Let go of the port and of every connection."""
        self.set(Weather.REFUSES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _close_listener(self) -> None:
        if self._listener is not None:
            # Without the shutdown a thread that waits in accept() keeps the port.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        if self._weather is Weather.RESETS:
            reset(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            reset(client)
            return
        server.settimeout(None)
        pair = (client, server)
        with self._lock:
            if self._weather is not Weather.BLACK_HOLE:
                self._pairs.append(pair)
        for source, sink in (pair, pair[::-1]):
            threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if pair in self._pairs:
                    sink.sendall(data)
        if pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _reset_all(self) -> None:
        for pair in self._pairs:
            for end in pair:
                reset(end)
        self._pairs.clear()


@contextlib.contextmanager
def detour(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy on the way to a server, and the server's URL by that way."""
    target = make_url(url)
    with Proxy(str(target.host), int(target.port or 0)) as road:
        yield road, target.set(host=road.host, port=road.port).render_as_string(False)


def reset(connection: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A thread may be waiting in recv() on it, and would keep it open.
        connection.shutdown(socket.SHUT_RD)
    connection.close()
