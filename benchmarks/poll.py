"""What a poll costs: `python -m benchmarks.poll [--quick]`.

Processor time of the client process per poll, side by side and in batches: of a bare loop of
`requests.Session.get(...).json()`, of `upstream.poll()` alone, and of whole turns of
`polling.poll()` over rows in a PostgreSQL of their own, log lines included. All ask the same server
in a process of its own, with the same number of threads; the rate is too high to hold anybody up.

The bare session is as requests makes it, but for a pool that keeps a connection for each thread. It
reads the environment for every request (`trust_env`); what it needs without that is shown beside.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import requests
import structlog
from requests.adapters import HTTPAdapter
from sqlalchemy import text

from benchmarks.result import Row
from reelwatch.config import log
from reelwatch.config.settings import Settings
from reelwatch.jobs import polling
from reelwatch.net import upstream
from reelwatch.storage import db, migrating
from tests.servers import postgres, process

GOAL, GOAL_CHANGED = 4.0, 3.0  # times the polls per processor second of the bare loop
THREADS = (16, 64)
KEY = "sk-benchmark-0123456789abcdef"
CHANGED = 4  # every so many polls bring a new status: a job has about four in seventeen polls

# ------------------------------------------------------------------ the server

RUNNING = {
    "id": "",
    "detail": {
        "id": "",
        "req": {
            "model": "veo3.1-fast",
            "images": ["https://files.example.com/cdn/20250702/first-frame-of-the-video.png"],
            "prompt": "a long walk on the beach at dawn, filmed from a low drone. " * 6,
            "aspect_ratio": "16:9",
            "enhance_prompt": True,
            "enable_upsample": True,
        },
        "images": [
            {
                "url": "https://files.example.com/cdn/20250702/first-frame-of-the-video.png",
                "status": "completed",
                "mediaId": "CAMaJGUwOTE4MTA4LWQ3MTgtNDk0OS05ZDNiLTIx" * 3,
            }
        ],
        "status": "video_generating",
        "running": True,
        "created_at": 1770350082099,
        "error_sleep": 5000,
        "max_retries": 3,
        "retry_count": 0,
        "enhanced_prompt": "A vibrant and whimsical animation of colorful animals. " * 4,
        "startImageMediaId": "CAMaJGUwOTE4MTA4LWQ3MTgtNDk0OS05ZDNiLTIx" * 3,
        "status_update_time": 1770350129098,
        "needs_safe_enhancement": True,
        "video_generation_status": "MEDIA_GENERATION_STATUS_ACTIVE",
    },
    "status": "video_generating",
    "video_url": None,
    "status_update_time": 1770350129098,
}
ID_MARK = b"@id@"
BODY = json.dumps(RUNNING | {"id": ID_MARK.decode()}, indent=1).encode()
HEAD = (
    "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Fri, 06 Feb 2026 03:58:49 GMT\r\n"
    "Content-Type: application/json; charset=utf-8\r\nConnection: keep-alive\r\n"
    "X-Oneapi-Request-Id: 20260206115849098123456abcdefgh\r\nVary: Accept-Encoding\r\n"
    "Cache-Control: no-store\r\nContent-Length: "
)


class _Server(asyncio.Protocol):
    """Says of every id it is asked about, whatever the path, that its video is being made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *requests_, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests_:
            asked = request.partition(b"?id=")[2].partition(b" ")[0].replace(b"%3A", b":")
            body = BODY.replace(ID_MARK, asked)
            self._transport.write(f"{HEAD}{len(body)}\r\n\r\n".encode() + body)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The URL of such a server in a process of its own, until the end of the block."""
    with process([sys.executable, "-m", "benchmarks.poll", "--serve"]) as server:
        yield server.wait_for("http://").strip()


# ------------------------------------------------------------------ the contenders


class Cost(NamedTuple):
    """What some polls cost this process."""

    polls: int
    cpu_seconds: float
    seconds: float


Contender = Callable[[int], Cost]  # makes so many polls


def of(work: Callable[[], int]) -> Cost:
    """What this work, which returns its number of polls, costs."""
    began, cpu = time.perf_counter(), time.process_time()
    polls = work()
    return Cost(polls, time.process_time() - cpu, time.perf_counter() - began)


def in_threads(ask: Callable[[str], object], threads: int) -> Contender:
    """So many threads that ask one after the other."""

    def ask_all(ids: Sequence[str]) -> int:
        for video_id in ids:
            ask(video_id)
        return len(ids)

    def work(polls: int) -> int:
        ids = [video_id(number) for number in range(polls)]
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(ask_all, [ids[place::threads] for place in range(threads)]))

    return lambda polls: of(lambda: work(polls))


def video_id(number: int) -> str:
    """An id as upstream gives them."""
    return f"veo3.1-fast:1770350082-{number:010}"


def bare(url: str, threads: int, *, trust_env: bool) -> Contender:
    """requests, and nothing else."""
    session = requests.Session()
    session.trust_env = trust_env
    session.mount("http://", HTTPAdapter(pool_maxsize=threads))
    session.headers["Authorization"] = f"Bearer {KEY}"

    def ask(video_id: str) -> None:
        answer = session.get(f"{url}{upstream.ROUTE}?id={video_id}", timeout=15)
        assert answer.json()["id"] == video_id

    return in_threads(ask, threads)


def ask(settings: Settings, threads: int) -> Contender:
    """`upstream.poll` alone."""
    account = settings.accounts["default"]

    def once(video_id: str) -> None:
        polled = upstream.poll(account, video_id, datetime.now(UTC))
        assert polled.http_status == 200

    return in_threads(once, threads)


def poll(settings: Settings, threads: int, changed: int | None = None) -> Contender:
    """Whole batches; every `changed`th poll brings a new status."""
    url = settings.database_url

    def work() -> int:
        with patch.object(polling, "THREADS", threads):
            return polling.poll(settings, "default", batch_seconds=60)

    def turn(polls: int) -> Cost:
        make_due(url, polls, changed)
        cost = of(work)
        with db.reading(url) as session:
            written = session.execute(text("SELECT sum(polls) FROM jobs")).scalar_one()
        return cost._replace(polls=written)  # a slot that was missed is no poll

    return turn


JOBS = """
INSERT INTO jobs (account, video_id, model, state, upstream_status, metadata, tracked_at,
                  upstream_created_at, next_poll_at, last_polled_at, deadline_at, webhook_url,
                  events)
SELECT 'default', 'veo3.1-fast:1770350082-' || lpad(n::text, 10, '0'), 'veo3.1-fast', 'running',
       CASE WHEN n % :changed = 0 THEN 'image_downloading' ELSE 'video_generating' END,
       '{"order": 7}', now() - interval '1 minute', to_timestamp(1770350082.099), now(),
       now() - interval '10 s', now() + interval '1 hour', 'https://hooks.example.com/reelwatch',
       '["completed", "failed", "expired"]'
FROM generate_series(1, cast(:polls AS bigint)) AS n
"""


def make_due(url: str, polls: int, changed: int | None) -> None:
    """So many jobs that are due, and no others."""
    with db.transaction(url) as session:
        session.execute(text("TRUNCATE jobs CASCADE"))
        session.execute(text("UPDATE accounts SET next_slot_at = NULL"))
        session.execute(text(JOBS), {"polls": polls, "changed": changed or polls + 1})
        session.execute(text("ANALYZE jobs"))


# ------------------------------------------------------------------ the figures


def compared(contenders: Mapping[str, Contender], polls: int, rounds: int) -> dict[str, Cost]:
    """The cost of each: of its median round, all taking turns, after one that isn't counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            cost = contender(polls)
            if number:
                costs[name].append(cost)
    return {name: middle(each) for name, each in costs.items()}


def middle(costs: Sequence[Cost]) -> Cost:
    """The medians, for one poll."""
    cpu = median(cost.cpu_seconds / cost.polls for cost in costs)
    return Cost(1, cpu, median(cost.seconds / cost.polls for cost in costs))


BARE = "bare requests.Session.get().json()"
BARE_DEAF = "the same, deaf to the environment"
ASK = "upstream.poll()"
POLL = "polling.poll()"
POLL_CHANGED = f"the same, every {CHANGED}th poll with a new status"


def rows(quick: bool) -> list[Row]:
    """The cost of each contender, and how they compare with the bare loop."""
    polls, rounds = (200, 2) if quick else (600, 3)
    found = []
    with serving() as url, postgres() as server, logging_to_nowhere():
        settings = prepared(server.create_database(), url)
        for threads in THREADS[-1:] if quick else THREADS:
            found += figures(settings, threads, polls, rounds)
        db.dispose()
    return found


def figures(settings: Settings, threads: int, polls: int, rounds: int) -> list[Row]:
    """The rows for one number of threads."""
    contenders = {
        BARE: bare(settings.base_url, threads, trust_env=True),
        BARE_DEAF: bare(settings.base_url, threads, trust_env=False),
        ASK: ask(settings, threads),
        POLL: poll(settings, threads),
        POLL_CHANGED: poll(settings, threads, CHANGED),
    }
    costs = compared(contenders, polls, rounds)
    note = f"{threads} threads, median of {rounds} rounds of {polls} polls"
    found = []
    for name, cost in costs.items():
        pace = f"{note}; {1 / cost.seconds:.0f} polls a second"
        what = f"processor time of a poll: {name}"
        found.append(Row("poll", what, cost.cpu_seconds * 1e6, "µs", None, "lower", pace))
    for name in (ASK, POLL, POLL_CHANGED):
        for base in (BARE, BARE_DEAF):
            ratio = costs[base].cpu_seconds / costs[name].cpu_seconds
            limit = {(POLL, BARE): GOAL, (POLL_CHANGED, BARE): GOAL_CHANGED}.get((name, base))
            what = f"polls per processor second: {name} / {base}"
            found.append(Row("poll", what, ratio, "", limit, "higher", note))
    return found


def prepared(database_url: str, upstream_url: str) -> Settings:
    """Settings for a migrated database with one account, whose rate holds nobody up."""
    settings = Settings(
        database=database_url,
        base_url=upstream_url,
        api_key=KEY,
        requests_per_second=5_000,
        poll_min=30,
        poll_max=60,
    )
    migrating.migrate(settings.database_url)
    account = "INSERT INTO accounts (name, requests_per_second) VALUES ('default', 5000)"
    with db.transaction(settings.database_url) as session:
        session.execute(text(account))
    return settings


@contextlib.contextmanager
def logging_to_nowhere() -> Iterator[None]:
    """Lines are made and written as a worker does it, to /dev/null."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(nowhere):
            log.configure(Settings(api_key=KEY, log_format="json"))
        try:
            yield
        finally:
            root.handlers[:], root.level = before
            structlog.reset_defaults()


def main() -> int:
    """Print the rows; 1 if one misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer polls")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve())
    found = rows(options.quick)
    for row in found:
        limit = "" if row.limit is None else f" (at least {row.limit})"
        print(f"{row.measured:8.2f} {row.unit:2} {row.what}{limit}; {row.note}")
    return 0 if all(row.met is not False for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
