"""Of a form that is sent twice, as by a double click, the second is answered as the first was.

The forms of a page bear a key that is made with the page. The same form with the same key again,
while the first is worked at or a moment after, is not done again. Later it is: somebody has gone
back to the page and means it. A form that was refused has done nothing, and is tried again.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

MOMENT_SECONDS = 5.0
FIELD = "once"


def new_key() -> str:
    """The key of a page that is about to be shown."""
    return secrets.token_urlsafe(9)


@dataclass(slots=True)
class Form:
    """One that was sent, and where its answer led: empty while it has not been done."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    led_to: str = ""
    at: float = 0.0


class Forms:
    """Those that were sent to this process a moment ago."""

    def __init__(self) -> None:
        self._forms: dict[str, Form] = {}

    async def answer(self, key: str, do: Callable[[], Awaitable[Response]]) -> Response:
        """Do it, or lead where it led."""
        self._forget_old()
        form = self._forms.setdefault(key, Form(at=_now()))
        async with form.lock:
            if form.led_to:
                return RedirectResponse(form.led_to, 303)
            answer = await do()
            if answer.status_code == 303:
                form.led_to, form.at = answer.headers["location"], _now()
            return answer

    def _forget_old(self) -> None:
        self._forms = {
            key: form
            for key, form in self._forms.items()
            if form.lock.locked() or _now() - form.at < MOMENT_SECONDS
        }


class DoneOnce(APIRoute):
    """A route of forms."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """What answers a request."""
        do = super().get_route_handler()

        async def handler(request: Request) -> Response:
            key = await _key_of(request)
            answer = partial(do, request)
            done: Response = await (_forms(request).answer(key, answer) if key else answer())
            return done

        return handler


def _now() -> float:
    return asyncio.get_running_loop().time()


def _forms(request: Request) -> Forms:
    state = request.app.state
    if not hasattr(state, "forms"):
        state.forms = Forms()
    found: Forms = state.forms
    return found


async def _key_of(request: Request) -> str:
    """One for this page's key, what was sent, where to and by whom; empty without a page's key."""
    body = await request.body()
    if f"{FIELD}=".encode() not in body:
        return ""
    who = (request.headers.get("cookie"), request.headers.get("authorization"))
    return hashlib.sha256(repr((str(request.url), who, body)).encode()).hexdigest()
