"""A local stand-in of the upstream, whose jobs are scripted by their ids.

`GET /v1/video/query?id=…` answers as the relay does, `GET /stats[?id=…]` tells what was asked, and
`POST /faults` makes every poll go wrong until told otherwise.
"""

import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from reelwatch.sandbox.answers import Answer, Job, Poll, json_answer, plain_error
from reelwatch.sandbox.bodies import TOO_MANY, UNAUTHORIZED, fault_answer
from reelwatch.sandbox.registry import SCRIPTS, Script
from reelwatch.sandbox.scripts import (
    answer,
    answer_poll,
    expected,
    read_id,
    scripted_id,
)
from reelwatch.sandbox.server import LocalService, Request, read_json_object

__all__ = ["SCRIPTS", "Sandbox", "Script", "answer", "expected", "fingerprint", "scripted_id"]

_WINDOW_SECONDS = 1.0
_BAD_KEY = "bad"


@dataclass(slots=True)
class Window:
    """When one key's requests of the last second came, and how many a second held at most."""

    arrivals: deque[float] = field(default_factory=deque)
    requests: int = 0
    refused: int = 0
    peak: int = 0

    def arrive(self, now: float, limit: int | None) -> bool:
        """Notes a request at `now` (monotonic seconds); False when it is one too many.

        A refused request counts towards the limit like any other.
        """
        while self.arrivals and self.arrivals[0] <= now - _WINDOW_SECONDS:
            self.arrivals.popleft()
        self.arrivals.append(now)
        self.requests += 1
        self.peak = max(self.peak, len(self.arrivals))
        welcome = limit is None or len(self.arrivals) <= limit
        self.refused += not welcome
        return welcome


@dataclass(slots=True)
class Run:
    """A job under way: its clock started when it was first asked about, whatever the answer."""

    job: Job
    began: float  # monotonic
    started_at: float  # unix
    requests: int = 0
    polls: int = 0
    past_end: int = 0

    def poll(self, now: float) -> Poll:
        """The next poll of it, at `now` (monotonic seconds)."""
        age = now - self.began
        self.polls += 1
        self.past_end += age >= self.job.seconds
        return Poll(self.job, self.polls, age, self.started_at, self.past_end)


class Sandbox(LocalService):
    """The stand-in upstream; jobs and figures outlive a `stop` and `start`.

    `on_poll` is called with each id asked about, from the thread that serves the request.
    """

    def __init__(self, on_poll: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._on_poll = on_poll
        self._rate_limit: int | None = None
        self._fault: Answer | None = None
        self._lock = threading.Lock()
        self._windows: defaultdict[str, Window] = defaultdict(Window)
        self._runs: dict[str, Run] = {}
        self._routes = {
            ("GET", "/v1/video/query"): self._query,
            ("GET", "/stats"): self._show_stats,
            ("POST", "/faults"): self._switch_fault,
        }

    def start(self, host: str = "127.0.0.1", port: int = 0, rate_limit: int | None = None) -> Self:
        """Begins to serve; a key's requests beyond `rate_limit` in any second get a 429."""
        self._rate_limit = rate_limit
        return super().start(host, port)

    def respond(self, request: Request) -> Answer:
        """The answer to a poll, or to a request for figures or faults."""
        route = self._routes.get((request.method, request.path))
        if route is None:
            return plain_error(404, "not_found", f"no route {request.method} {request.path}")
        return route(request)

    def set_fault(self, mode: str, retry_after: int | None = None) -> None:
        """Gives every poll from now on the same bad answer, or with `none` its own again.

        Modes: none, 401, 403, 429, 500, html, garbage, hang; `retry_after` is in seconds.
        Raises ValueError for any other mode.
        """
        self._fault = fault_answer(mode, retry_after)

    def stats(self) -> dict[str, Any]:
        """How much was asked: in all, at most within a second, and by key (its fingerprint)."""
        with self._lock:
            keys = {fingerprint(key): window for key, window in self._windows.items()}
            return {
                "requests": sum(window.requests for window in keys.values()),
                "rate_limited": sum(window.refused for window in keys.values()),
                "max_in_one_second": max((window.peak for window in keys.values()), default=0),
                "ids": len(self._runs),
                "keys": {name: _figures(window) for name, window in keys.items()},
            }

    def stats_of(self, video_id: str) -> dict[str, Any]:
        """What was asked about one id, and when (unix seconds) its job began and has its end."""
        with self._lock:
            run = self._runs.get(video_id)
            if run is None:
                return {"id": video_id, "requests": 0, "polls": 0}
            return {
                "id": video_id,
                "requests": run.requests,
                "polls": run.polls,
                "started_at": run.started_at,
                "ends_at": run.started_at + run.job.seconds,
            }

    def _query(self, request: Request) -> Answer:
        video_id = request.parameter("id")
        if video_id and self._on_poll is not None:
            self._on_poll(video_id)
        key = _bearer(request.headers.get("authorization", ""))
        now = time.monotonic()
        with self._lock:
            welcome = self._windows[key].arrive(now, self._rate_limit)
            if not video_id:
                return plain_error(400, "invalid_request", "id is required")
            run = self._run(video_id, now)
            refusal = self._refusal(key, welcome=welcome)
            if refusal is not None:
                return refusal
            poll = run.poll(now)
        return answer_poll(poll)

    def _run(self, video_id: str, now: float) -> Run:
        run = self._runs.get(video_id)
        if run is None:
            run = self._runs[video_id] = Run(read_id(video_id), now, time.time())
        run.requests += 1
        return run

    def _refusal(self, key: str, *, welcome: bool) -> Answer | None:
        if key in ("", _BAD_KEY):
            return UNAUTHORIZED
        return self._fault if welcome else TOO_MANY

    def _show_stats(self, request: Request) -> Answer:
        video_id = request.parameter("id")
        return json_answer(200, self.stats_of(video_id) if video_id else self.stats())

    def _switch_fault(self, request: Request) -> Answer:
        try:
            wanted = read_json_object(request.body)
            mode, retry_after = str(wanted.get("mode", "")), wanted.get("retry_after")
            self.set_fault(mode, None if retry_after is None else int(retry_after))
        except (ValueError, TypeError, OverflowError) as error:
            return plain_error(400, "invalid_request", str(error))
        return json_answer(200, {"mode": mode, "retry_after": retry_after})


def fingerprint(key: str) -> str:
    """What stands for a key in the figures, as the key itself is nobody's business."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()[:8]


def _figures(window: Window) -> dict[str, int]:
    return {
        "requests": window.requests,
        "rate_limited": window.refused,
        "max_in_one_second": window.peak,
    }


def _bearer(authorization: str) -> str:
    """The key in an Authorization header, empty when there is none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
