"""What all pages have in common: their frame, their token, and a reading that tabs share."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from reelwatch.storage import db
from reelwatch.web import access
from reelwatch.web.access import Caller
from reelwatch.web.pages import assets, job_deliveries, once, words
from reelwatch.web.pages.watching import Watcher, watcher_of

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SHARED_SECONDS = 2.0
SHARED_MOST = 64
# The preview of a video comes from wherever upstream keeps it; all else is our own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "media-src {media}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
NAVIGATION = (
    ("/", "Now"),
    ("/jobs", "Jobs"),
    ("/deliveries", "Deliveries"),
    ("/endpoints", "Endpoints"),
    ("/accounts", "Accounts"),
    ("/models", "Models"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """What a route shows: its template, the topics it depends on, and how its view is read.

    A `read` that gives None means that there is no such page.
    """

    template: str
    title: str
    topics: Sequence[str]
    read: Callable[[Session], Any]
    media: str = "'none'"
    at: str = ""  # its own address, where it may be shown in answer to a form
    typed: str = ""  # into the form that is refused, to be corrected


@cache
def templates() -> "Environment":
    """All templates, with the words of the pages as filters; whatever is shown is escaped."""
    # Where only the API is asked nobody needs it.
    from jinja2 import (  # noqa: PLC0415
        Environment,
        FileSystemLoader,
        StrictUndefined,
        select_autoescape,
    )

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(asset=assets.address, signs=words.SIGNS, navigation=NAVIGATION)
    for name in (
        "when",
        "soon",
        "took",
        "number",
        "host",
        "endpoint",
        "document",
        "many",
        "rate",
        "tail",
        "marked",
        "exact",
    ):
        made.filters[name] = getattr(words, name)
    made.filters |= {
        "stamp": datetime.timestamp,
        "milliseconds": job_deliveries.seconds_text,
    }
    return made


async def show(
    request: Request, caller: Caller, page: Page, *, status: int = 200, problem: str = ""
) -> Response:
    """The whole page, or for a script that refreshes it, what changes in it."""
    token = await watcher(request).token(page.topics)
    shared = hashlib.sha256(f"{request.url}|{token}|{page.template}".encode()).hexdigest()
    body = await anyio.to_thread.run_sync(
        lambda: _rendered(request, caller, page, token, shared, problem)
    )
    if body is None:
        raise HTTPException(404)
    headers = {"content-security-policy": POLICY.format(media=page.media)}
    return HTMLResponse(body, status, headers)


def _rendered(
    request: Request, caller: Caller, page: Page, token: str, shared: str, problem: str
) -> str | None:
    url = access.settings_of(request).database_url

    def read() -> tuple[Any, Any]:
        with db.reading(url) as session:
            return page.read(session), db.now(session)

    view, now = _readings.get(shared, read)
    if view is None:
        return None
    return rendered(request, page, view, now, token, caller, problem)


def rendered(
    request: Request,
    page: Page,
    view: Any,
    now: datetime,
    token: str = "",
    caller: Caller | None = None,
    problem: str = "",
) -> str:
    """The text of a page that shows what was read. Without a `caller` nobody may act on it."""
    part = request.headers.get("hx-request") == "true"
    return (
        templates()
        .get_template(page.template)
        .render(
            layout="part.html" if part else "frame.html",
            page=page,
            view=view,
            now=now,
            token=token,
            caller=caller,
            path=request.url.path,
            origin=str(request.base_url).rstrip("/"),
            query=request.query_params,
            problem=problem,
            once=once.new_key(),
            may_act=caller is not None and caller.may_act,
            signed_in=caller is not None and bool(access.settings_of(request).api_tokens),
        )
    )


def watcher(request: Request) -> Watcher:
    """The one of this process."""
    state = request.app.state
    if not hasattr(state, "watcher"):
        state.watcher = watcher_of(access.settings_of(request).database_url)
    found: Watcher = state.watcher
    return found


class Readings:
    """What was read lately, for all tabs that show the same: each is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: OrderedDict[str, threading.Lock] = OrderedDict()
        self._found: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, read: Callable[[], Any]) -> Any:
        """What was read under that key a moment ago, or is read now."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
            self._locks.move_to_end(key)
            while len(self._locks) > SHARED_MOST:
                self._found.pop(self._locks.popitem(last=False)[0], None)
        with lock:
            at, value = self._found.get(key, (float("-inf"), None))
            if time.monotonic() - at > SHARED_SECONDS:
                value = read()
                self._found[key] = (time.monotonic(), value)
            return value

    def clear(self) -> None:
        """Something was changed from here: read all anew."""
        with self._lock:
            self._found.clear()


_readings = Readings()


def forget(request: Request) -> None:
    """Show nothing any more that was read before: somebody has just changed something."""
    _readings.clear()
    watcher(request).forget()
