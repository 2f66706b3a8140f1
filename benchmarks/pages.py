"""Whether pages stay as fast when the history grows, and what open tabs ask of the database.

    python -m benchmarks.pages   # 1,000 + 1,000 jobs against 1,000,000 + 100,000, on PostgreSQL

On SQLite, the larger one has 20,000 + 5,000.

Each page's first byte is timed over real HTTP, in turns over both databases; one reader at a time.
Readings that tabs share are not: each is asked for under an address of its own.
"""

import http.client
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

from sqlalchemy import event, text

from benchmarks.claims import FEW, HARDLY_ANY, MANY, SOME, Size, fill
from benchmarks.result import Row
from reelwatch.config import settings
from reelwatch.jobs import learning
from reelwatch.rules.timing.planner import Plans
from reelwatch.storage import db, migrating
from reelwatch.web.pages import assets
from reelwatch.web.serving import Server
from tests import servers

GOAL = "the page"
LIMIT = 1.5  # times as long at the larger size, at most
MILLISECONDS = 100.0
ASSETS_MOST = 60.0  # kB, compressed
TABS, WATCHED_SECONDS = 20, 15.0
PAGES = (
    "/?", "/jobs?", "/jobs?state=open", "/jobs?state=failed", "/jobs?error=timeout",
    "/jobs?state=expired", "/jobs?state=failed&account=default", "/jobs?state=open&account=default",
    "/jobs/{job}?", "/deliveries?", "/deliveries?state=dead", "/deliveries?state=pending",
    "/endpoints?", "/accounts?", "/models?", "/search?q=nothing-is-so", "/search?q={video}",
)  # fmt: skip
IN_BULK = ("/jobs?", "/jobs?state=open", "/jobs?account=default", "/jobs?error=timeout")


def rows(quick: bool) -> list[Row]:
    """All that is told of the page."""
    few, many = (HARDLY_ANY, FEW) if quick else (FEW, MANY)
    found = [Row(GOAL, "assets, compressed", _assets(), "kB", ASSETS_MOST, "lower", "")]
    roomy = {"shared_buffers": "256MB", "max_wal_size": "2GB"}
    with patch.dict(servers.POSTGRES_SETTINGS, roomy), servers.postgres() as server:
        small, large = server.create_database(), server.create_database()
        for url, size in ((small, few), (large, many)):
            migrating.migrate(url)
            fill(url, size)
            _told(url)
        found += on_postgresql(small, large, 5 if quick else 21)
        found += _tabs(small, 6.0 if quick else WATCHED_SECONDS)
        db.dispose()
    return [*found, *(_on_sqlite(few, many, 5) if quick else _on_sqlite(FEW, SOME, 21))]


def on_postgresql(small: str, large: str, turns: int) -> list[Row]:
    """Of two databases that are filled: all open jobs came at one instant, and are due."""
    found = list(_pages(small, large, turns, IN_BULK, " after a bulk"))
    for url in (small, large):
        _spread(url)
    return [*found, *_pages(small, large, turns, PAGES)]


def _on_sqlite(few: Size, many: Size, turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="reelwatch-pages-") as folder:
        small, large = (f"sqlite:///{Path(folder) / name}.db" for name in ("few", "some"))
        for url, size in ((small, few), (large, many)):
            migrating.migrate(url)
            fill(url, size)
            _told(url)
        found = list(_pages(small, large, turns, PAGES, ", SQLite", goal=False))
        db.dispose()
    return found


# Of what has ended one in ten was given up, and one failed; one event in ten waits for a receiver
# that is away, and one is dead: at either size there are more of each than a page shows.
NOT_ALL_WELL = (
    "UPDATE jobs SET state = 'expired', error_code = 'deadline', video_url = NULL, "
    "expired_at = finished_at, abandoned_at = finished_at, finished_at = NULL "
    "WHERE finished_at IS NOT NULL AND id % 10 = 0",
    "UPDATE jobs SET state = 'failed', error_code = 'upstream_failed', video_url = NULL "
    "WHERE finished_at IS NOT NULL AND id % 10 = 1",
    "UPDATE deliveries SET state = 'pending', next_attempt_at = delivered_at, delivered_at = NULL, "
    "failures = 3 WHERE job_id % 10 = 3",
    "UPDATE deliveries SET state = 'dead', delivered_at = NULL WHERE job_id % 10 = 4",
)


def _told(url: str) -> None:
    """Some ended badly, some events are owed; and how long jobs take has been learned."""
    with db.transaction(url) as session:
        for statement in NOT_ALL_WELL:
            session.execute(text(statement))
    if url.startswith("postgresql"):
        with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    learning.learn(url, Plans())


def _spread(url: str) -> None:
    """Open jobs came one after the other, and workers keep up: few are due now."""
    with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(
            "UPDATE jobs SET tracked_at = tracked_at - random() * interval '10 minutes', "
            "next_poll_at = now() + random() * interval '1 hour' WHERE next_poll_at IS NOT NULL"
        ))  # fmt: skip
        connection.execute(text("VACUUM ANALYZE jobs"))


def _assets() -> float:
    return sum(len(each.packed) for each in assets.assets().values()) / 1_000


@contextmanager
def _web(url: str) -> Iterator[str]:
    os.environ["DATABASE_URL"] = url
    settings.current.cache_clear()
    server = Server(settings.load(), port=0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _pages(
    small: str, large: str, turns: int, pages: Sequence[str], what: str = "", *, goal: bool = True
) -> Iterator[Row]:
    limit, most = (LIMIT, MILLISECONDS) if goal else (None, None)
    for page in pages:
        with _web(small) as one, _web(large) as other:
            both = [
                (each, page.format(**_one(url)), list[float]())
                for each, url in ((one, small), (other, large))
            ]
            for turn in range(turns + 2):
                for address, path, taken in both if turn % 2 else reversed(both):
                    taken.append(_first_byte(address, path))
        before, after = (statistics.median(taken[2:]) * 1_000 for _, _, taken in both)
        note = f"{before:.0f} ms at the smaller size, {after:.0f} ms at the larger"
        named = f"first byte of {page}{what}"
        yield Row(GOAL, named, after / before, "times", limit, "lower", note)
        yield Row(GOAL, f"{named}, the larger size", after, "ms", most, "lower", "")


def _one(url: str) -> dict[str, str]:
    with db.reading(url) as session:
        row = session.execute(text("SELECT id, video_id FROM jobs ORDER BY id DESC LIMIT 1")).one()
    return {"job": str(row[0]), "video": row[1]}


_numbers = itertools.count()


def _first_byte(address: str, path: str) -> float:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    began = time.perf_counter()
    connection.request("GET", f"{path}&turn={next(_numbers)}")
    answer = connection.getresponse()
    took = time.perf_counter() - began
    # A search for the whole id of a video leads to its page.
    assert answer.status in {200, 303}, (path, answer.status)
    answer.read()
    connection.close()
    return took


def _tabs(url: str, seconds: float) -> Iterator[Row]:
    """Statements per second while many tabs wait and nothing changes."""
    with _web(url) as address:
        asked: list[float] = []

        @event.listens_for(db.engine(url), "before_cursor_execute")
        def _count(*_: object) -> None:
            asked.append(time.monotonic())

        # What the pages themselves read is not watching: it is counted once all of them are there.
        there = threading.Barrier(TABS + 1, timeout=60)
        tabs = [threading.Thread(target=_tab, args=(address, there, seconds)) for _ in range(TABS)]
        for tab in tabs:
            tab.start()
        there.wait()
        began = time.monotonic()
        time.sleep(seconds)
        counted = [at for at in asked if at > began]
        rate = (len(counted) - 1) / (counted[-1] - counted[0])
        for tab in tabs:
            tab.join()
    yield Row(GOAL, f"statements per second of {TABS} tabs", rate, "/s", 1.0, "lower", "")


def _tab(address: str, there: threading.Barrier, seconds: float) -> None:
    netloc = urlsplit(address).netloc
    connection = http.client.HTTPConnection(netloc, timeout=60)
    connection.request("GET", "/accounts")
    page = connection.getresponse().read().decode()
    token = page.partition('data-token="')[2].partition('"')[0]
    topics = page.partition('data-topics="')[2].partition('"')[0]
    there.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(netloc, timeout=end - time.monotonic() + 1)
        try:
            connection.request("GET", f"/changes?token={token}&topics={topics}")
            connection.getresponse().read()
        except TimeoutError:
            return


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        print(f"{row.what:44} {row.measured:8.2f} {row.unit:6} {row.note}")
