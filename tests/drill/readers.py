"""Readers of the feed beside a drill: each by a web process of its own, which is killed at times.

A reader knows its cursor and nothing else, as a producer's does that can't be called.
"""

import re
import threading
from collections.abc import Iterator, Mapping

import requests

from tests.servers import Process, process

WAIT_SECONDS = 2


class Reader:
    """Reads the feed in a thread, from its beginning, whatever becomes of the process it asks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._web: Process | None = None
        self._url = ""
        self._over, self._given_up = threading.Event(), threading.Event()
        self.told: list[tuple[str, str, int]] = []  # event id, video id, sequence
        self.problems: list[str] = []  # answers that no reader should get
        self._after = ""
        self._thread = threading.Thread(target=self._read, name="feed reader", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Kill its web process; another one takes its place."""
        if self._web is not None:
            self._web.kill()

    def finish(self) -> None:
        """Read what is left, and end."""
        self._over.set()
        self._thread.join(60)
        if self._thread.is_alive() and not self._given_up.is_set():
            self.problems.append("a reader of the feed did not come to its end")
        self._given_up.set()
        if self._web is not None:
            self._web.close()

    def _read(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._given_up.is_set():
                if self._page(session) and self._over.is_set():
                    return

    def _page(self, session: requests.Session) -> bool:
        """Read one page; was it an answer, and had it nothing new?"""
        wait = 0 if self._over.is_set() else WAIT_SECONDS
        query = {"wait": str(wait), "limit": "7", **({"after": self._after} if self._after else {})}
        try:
            answer = session.get(self._there(), params=query, timeout=30)
        except (requests.RequestException, AssertionError):  # killed just now, or not up yet
            return False
        if answer.status_code != 200:
            if answer.status_code != 503:  # the database is away
                self.problems.append(f"the feed answered {answer.status_code}: {answer.text[:200]}")
            self._over.wait(0.5)
            return False
        page = answer.json()
        for each in page["events"]:
            data = each["event"]["data"]
            self.told.append((each["id"], data["video_id"], data["sequence"]))
        self._after = page["next"]
        return not page["events"]

    def _there(self) -> str:
        """Where a web process answers, started if need be."""
        if self._web is None or not self._web.running:
            self._web = process(["reelwatch", "web", "--port", "0"], self._environment)
            found = re.search(r"http://[\d.:]+", self._web.wait_for("http://127.0.0.1:", 60))
            assert found
            self._url = f"{found[0]}/api/v1/events"
        return self._url


def wrong_feeds(
    readers: list[Reader], events: list[tuple[str, str, int]], owed: set[tuple[str, int]]
) -> Iterator[str]:
    """Every event once, in one order for all readers; of each job in the order of `sequence`.

    `events` are those of the table in the order of their positions, `owed` what deliveries tell of.
    """
    for number, reader in enumerate(readers):
        yield from reader.problems
        twice = len(reader.told) - len(set(reader.told))
        missed = set(events) - set(reader.told)
        if twice or missed:
            yield f"reader {number} of the feed: {twice} twice, missed {sorted(missed)[:5]}"
        elif reader.told != events:
            yield f"reader {number} of the feed was told in another order, or of what is not there"
        last: dict[str, int] = {}
        for event_id, video_id, sequence in reader.told:
            if sequence <= last.get(video_id, 0):
                yield f"{video_id}: {event_id} came behind a later one in the feed"
            last[video_id] = sequence
    for each in sorted(owed - {(video_id, sequence) for _, video_id, sequence in events}):
        yield f"{each} is delivered and stands in no feed"
