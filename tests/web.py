"""The web process for tests: served over real HTTP, by a thread of this process."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from starlette.routing import Route

from reelwatch.config import settings
from reelwatch.config.tokens import ROLES
from reelwatch.web.app import ROUTERS
from reelwatch.web.serving import Server

TOKENS = {role: f"{role}-0123456789abcdef" for role in ROLES}  # one caller for each role
VARIABLE = " ".join(f"{role}-caller:{role}:{token}" for role, token in TOKENS.items())


class Web:
    """A served application, and a client of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def address(self) -> tuple[str, int]:
        """For a socket."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def paths(self) -> Iterator[tuple[str, set[str]]]:
        """Every path with its methods, as the app has them."""
        included = (route for router in ROUTERS for route in router.routes)
        for route in (*included, *self.server.app.routes):
            if isinstance(route, Route):
                yield route.path, (route.methods or set()) - {"HEAD"}

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | str | None = None,
    ) -> requests.Response:
        """One request, its body as JSON, with the token of a role; redirects are not followed."""
        sent = dict(headers or {})
        if role:
            sent["Authorization"] = f"Bearer {TOKENS[role]}"
        if body is not None:
            data = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        return self._session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=False, timeout=30
        )

    def begin(self, method: str, path: str, body: Any, role: str | None) -> int:
        """The status of an answer whose end is not waited for."""
        headers = {"Authorization": f"Bearer {TOKENS[role]}"} if role else {}
        with self._session.request(
            method, self.url + path, json=body, headers=headers, stream=True, timeout=30,
            allow_redirects=False,
        ) as answer:  # fmt: skip
            return answer.status_code

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.ask("POST", path, body, **options)


@contextlib.contextmanager
def served() -> Iterator[Web]:
    """The application with this process's settings, on a free port."""
    settings.current.cache_clear()
    server = Server(settings.current(), port=0)
    server.start()
    web = Web(server)
    try:
        yield web
    finally:
        web._session.close()
        server.stop()


def raw(web: Web, sent: bytes, seconds: float = 20.0) -> bytes:
    """What a connection answers to these bytes until it is closed."""
    with socket.create_connection(web.address, timeout=seconds) as connection:
        connection.sendall(sent)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes, or cuts the connection."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)
