"""What being looked at costs: the workers, while somebody scrapes and watches, and the web process.

The workers poll as fast as they can, in turns alone and with `reelwatch web` beside them, which is
scraped every 15 s and whose page is asked for every 2 s. Then the web process has nothing to do
but be scraped.
"""

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import requests

from benchmarks import pages, trackers
from benchmarks.cost import Load, _reelwatch
from benchmarks.courses import endless
from benchmarks.load import resident
from benchmarks.result import Row
from benchmarks.trackers import Meter, Tracker
from benchmarks.upstream import Upstream, upstream
from tests.processes import eventually, process

COST = "cost of being watched"
SHARE_LEFT = 0.98  # of the polls per processor second
SHARE_OF_A_CORE = 1.0  # per cent
MEMORY = 90.0  # MiB
SCRAPE_SECONDS, PAGE_SECONDS = 15.0, 2.0


def rows(quick: bool) -> list[Row]:
    """All that stands here, each goal by itself."""
    return [*pages.rows(quick), *cost(quick)]


def cost(quick: bool) -> Iterator[Row]:
    """Polls per processor second of the workers, and the web process itself."""
    load = Load(200, 0.05, 0.5, 1.0) if quick else Load(2_000, 0.2, 5.0, 15.0)
    turns, idle = (2, 2.0) if quick else (8, 45.0)
    asked = upstream()
    with _reelwatch(asked, load) as tracker:
        courses = endless(load.jobs, "watched-")
        asked.begin(courses)
        tracker.take([course.video_id for course in courses])
        time.sleep(load.warm_up)
        alone, watched = [], []
        for turn in range(2 * turns):
            if turn % 4 in (0, 3):  # neither always comes first: a machine's pace drifts
                alone.append(_per_cpu_second(tracker, asked, load.seconds))
            else:
                with _web(tracker) as url, _looked_at(url):
                    watched.append(_per_cpu_second(tracker, asked, load.seconds))
        before, after = statistics.median(alone), statistics.median(watched)
        yield Row(COST, "polls per CPU second, watched / alone", after / before, "", SHARE_LEFT,
                  "higher", f"{before:.0f} alone, {after:.0f} watched; {turns} turns")  # fmt: skip
        yield from _idle(tracker, idle)


def _per_cpu_second(tracker: Tracker, asked: Upstream, seconds: float) -> float:
    meter, before = Meter(*tracker.pids), asked.figures(trackers.KEY).requests
    time.sleep(seconds)
    used = meter.read()
    return (asked.figures(trackers.KEY).requests - before) / used.tracker


def _idle(tracker: Tracker, seconds: float) -> Iterator[Row]:
    with _web(tracker) as url, _looked_at(url, page=False):
        time.sleep(min(10.0, seconds))
        meter = Meter(_pids[0])
        time.sleep(seconds)
        share = 100 * meter.read().tracker / seconds
        memory = (resident(_pids[0]) or 0) / 2**20
    yield Row(COST, "web process that is scraped: share of a core", share, "%", SHARE_OF_A_CORE,
              "lower", f"every {SCRAPE_SECONDS:g} s")  # fmt: skip
    yield Row(COST, "web process: resident memory", memory, "MiB", MEMORY, "lower")


_pids: list[int] = []  # of the web process that runs


@contextmanager
def _web(tracker: Tracker) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = ["reelwatch", "web", "--port", str(port)]

    def answers() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{url}/live", timeout=5).status_code == 204
        return False

    with process(command, {**tracker.environment, "LOG_LEVEL": "warning"}) as web:
        eventually(answers, 60, "the web process answers")
        _pids[:] = [web.pid]
        yield url


@contextmanager
def _looked_at(url: str, *, page: bool = True) -> Iterator[None]:
    over = threading.Event()

    def again(path: str, seconds: float) -> None:
        while not over.is_set():
            requests.get(url + path, timeout=10)
            over.wait(seconds)

    paths = {"/metrics": SCRAPE_SECONDS} | ({"/": PAGE_SECONDS} if page else {})
    threads = [threading.Thread(target=again, args=each) for each in paths.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
