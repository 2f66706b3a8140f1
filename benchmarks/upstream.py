"""The upstream that all trackers ask in the benchmarks, and the receiver of their webhooks.

A process of its own, of one thread: it reads HTTP/1.1 off the socket and knows no more of it than
the trackers' clients use, so that it is not what limits them. Bodies are those of the sandbox. It
notes when each job really ended and when somebody was first told so: the difference is the delay.
"""

import asyncio
import json
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import requests

from benchmarks.courses import Course
from reelwatch.sandbox import answers
from tests.processes import process

WINDOW = 1.0  # seconds over which a key's limit, and its busiest second, are counted
POLICY = "your request contains unsafe prompt or images"


# ------------------------------------------------------------------ what is known


@dataclass
class Job:
    """A job at upstream; times are unix seconds, None: not yet."""

    course: Course
    starts_at: float
    polls: int = 0
    told_at: float | None = None  # somebody was told that it has ended
    webhook_at: float | None = None
    webhooks: int = 0

    @property
    def ends_at(self) -> float:
        """When it really ends."""
        return self.starts_at + self.course.seconds

    def body(self, now: float) -> bytes:
        """What is answered at that moment."""
        age = now - self.starts_at
        if age >= self.course.seconds:
            return _ended(self.course, self.starts_at)
        share = age / self.course.seconds
        stage = max((s for s in self.course.stages if s[0] <= share), default=None)
        return _running(self.course, self.starts_at, stage)


@dataclass
class Key:
    """What one key has asked for."""

    limit: int | None = None  # answered requests in any second
    requests: int = 0
    unknown: int = 0  # of them, about no job that there is
    most_in_one_second: int = 0
    refused_at: list[float] = field(default_factory=list)
    _asked: deque[float] = field(default_factory=deque)
    _answered: deque[float] = field(default_factory=deque)

    def ask(self, now: float) -> bool:
        """Count a request; says whether it may be answered."""
        self.requests += 1
        self._asked.append(now)
        _forget(self._asked, now)
        self.most_in_one_second = max(self.most_in_one_second, len(self._asked))
        _forget(self._answered, now)
        if self.limit is not None and len(self._answered) >= self.limit:
            self.refused_at.append(now)
            return False
        self._answered.append(now)
        return True

    def figures(self) -> dict[str, Any]:
        """What clients are told."""
        return {name: getattr(self, name) for name in Figures.__annotations__}


@dataclass(frozen=True)
class Figures:
    """What one key has asked for, as told to clients."""

    requests: int
    unknown: int
    most_in_one_second: int
    refused_at: Sequence[float]


@dataclass(frozen=True)
class Note:
    """What became of one job, as told to clients."""

    video_id: str
    starts_at: float
    ends_at: float
    polls: int
    told_at: float | None
    webhook_at: float | None
    webhooks: int


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - WINDOW:
        times.popleft()


# Equal until its next stage: a body is made once, not at every poll.
@lru_cache(maxsize=100_000)
def _running(course: Course, starts_at: float, stage: tuple[float, str] | None) -> bytes:
    share, status = stage or (0.0, "pending")
    poll = _poll(course, starts_at, share * course.seconds)
    body = answers.interrupted(poll, status) if stage else answers.running(poll)
    return answers.json_answer(200, body).body


@lru_cache(maxsize=100_000)
def _ended(course: Course, starts_at: float) -> bytes:
    poll = _poll(course, starts_at, course.seconds)
    failed = answers.failed(poll, error=POLICY)
    return answers.json_answer(200, failed if course.fails else answers.completed(poll)).body


def _poll(course: Course, starts_at: float, age: float) -> answers.Poll:
    job = answers.Job(course.video_id, course.model, "ok", course.seconds)
    return answers.Poll(job, 1, age, starts_at, 1)


class Service:
    """All jobs and keys, and the answer to each request."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.keys: dict[str, Key] = {}
        self.webhooks: Counter[str] = Counter()  # by path

    def answer(self, method: str, target: str, key: str, body: bytes) -> tuple[int, bytes]:
        """Status and JSON body for one request."""
        path, _, query = target.partition("?")
        if path == "/v1/video/query":
            return self._poll(query, key)
        if path.startswith("/hook"):
            return self._webhook(path, body)
        return self._control(method, path, parse_qs(query), body)

    def _poll(self, query: str, key: str) -> tuple[int, bytes]:
        now, asking = time.time(), self.keys.setdefault(key, Key())
        if not asking.ask(now):
            return 429, b'{"error":{"message":"too many requests","code":"rate_limit"}}'
        job = self.jobs.get(unquote_plus(query.removeprefix("id=")))
        if job is None or now < job.starts_at:
            asking.unknown += 1
            return 400, b'{"code":"task_not_exist","message":"task_not_exist","data":null}'
        job.polls += 1
        if job.told_at is None and now >= job.ends_at:
            job.told_at = now
        return 200, job.body(now)

    def _webhook(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.webhooks[path] += 1
        event = json.loads(body)
        job = self.jobs.get(event["data"]["video_id"])
        if job is not None:
            job.webhooks += 1
            job.webhook_at = job.webhook_at or time.time()
        return 200, b"{}"

    def _control(
        self, method: str, path: str, query: Mapping[str, list[str]], body: bytes
    ) -> tuple[int, bytes]:
        if method == "POST" and path == "/jobs":
            for starts_at, course in json.loads(body):
                stages = tuple((share, status) for share, status in course.pop("stages"))
                made = Course(**course, stages=stages)
                self.jobs[made.video_id] = Job(made, starts_at)
            return 200, b"{}"
        if method == "POST" and path == "/limit":
            given = json.loads(body)
            self.keys.setdefault(given["key"], Key()).limit = given["limit"]
            return 200, b"{}"
        if path == "/key":
            return _json(self.keys.setdefault(query["key"][0], Key()).figures())
        if path == "/webhooks":
            return _json(self.webhooks[query["hook"][0]])
        if path == "/notes":
            prefix = query["prefix"][0]
            return _json([_note(job) for name, job in self.jobs.items() if prefix in name])
        return 404, b"{}"


def _note(job: Job) -> dict[str, Any]:
    names = Note.__annotations__
    own = {name: getattr(job, name) for name in names if name != "video_id"}
    return {"video_id": job.course.video_id, **own}


def _json(value: Any) -> tuple[int, bytes]:
    return 200, json.dumps(value).encode()


# ------------------------------------------------------------------ HTTP


class _Connection(asyncio.Protocol):
    """One client's keep-alive connection."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (request := self._next()) is not None:
            status, body = self._service.answer(*request)
            assert self._transport is not None
            self._transport.write(
                b"HTTP/1.1 %d .\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )

    def _next(self) -> tuple[str, str, str, bytes] | None:
        """Method, target, key and body of the next whole request; None while it is incomplete."""
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (
            line.partition(":") for line in lines)}  # fmt: skip
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        self._rest = rest[length:]
        method, target, _ = first.split(" ")
        key = headers.get("authorization", "").removeprefix("Bearer ")
        return method, target, key, rest[:length]


async def serve() -> None:
    """Serve on a free port, which is printed, until SIGTERM."""
    loop, service = asyncio.get_running_loop(), Service()
    server = await loop.create_server(lambda: _Connection(service), "127.0.0.1", 0, backlog=1024)
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await over.wait()


# ------------------------------------------------------------------ from outside


class Upstream:
    """That process, seen from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def hook(self, name: str) -> str:
        """A webhook URL whose deliveries are counted apart from others'."""
        return f"{self.url}/hook/{re.sub('[^A-Za-z]+', '-', name)}"

    def begin(self, courses: Sequence[Course], at: float | None = None) -> None:
        """Start these jobs, now unless a unix time is given."""
        starts_at = at or time.time()
        self._post("/jobs", [(starts_at, asdict(course)) for course in courses])

    def limit(self, key: str, per_second: int | None) -> None:
        """Answer 429 to what a key asks beyond this in any one second."""
        self._post("/limit", {"key": key, "limit": per_second})

    def figures(self, key: str) -> Figures:
        """What a key has asked so far."""
        return Figures(**self._get("/key", key=key))

    def notes(self, prefix: str) -> list[Note]:
        """What became of the jobs whose ids contain the prefix."""
        return [Note(**note) for note in self._get("/notes", prefix=prefix)]

    def webhooks(self, url: str) -> int:
        """How many deliveries a webhook URL has got."""
        return int(self._get("/webhooks", hook=urlsplit(url).path))

    def _post(self, path: str, value: Any) -> None:
        self._session.post(f"{self.url}{path}", json=value, timeout=60).raise_for_status()

    def _get(self, path: str, **query: str) -> Any:
        answer = self._session.get(f"{self.url}{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer.json()


@cache
def upstream() -> Upstream:
    """The one that all benchmarks of a run share; it ends with this process."""
    serving = process([sys.executable, "-m", "benchmarks.upstream"])
    return Upstream(serving.wait_for("http://").strip())


if __name__ == "__main__":
    asyncio.run(serve())
