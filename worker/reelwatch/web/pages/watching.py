"""Tells open pages that something of theirs has changed: one query a second for all of them.

A page bears the *token* of its topics: a digest of their marks, as they were before it was read. It
asks again and again whether the token is still the same, and each time waits until it is not. The
database is asked only while somebody waits, by one watcher per process.
"""

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import anyio.to_thread
import structlog
from sqlalchemy.exc import SQLAlchemyError

from reelwatch.errors import first_line
from reelwatch.storage import db, topics
from reelwatch.storage.topics import Mark

log = structlog.get_logger(__name__)

EVERY_SECONDS = 1.0
FRESH_SECONDS = 2.0  # so long a reading is as good as a new one for a page that begins to watch
SLOW_SECONDS = 10  # what changes by the passing of time alone is shown anew this often
WAIT_SECONDS = 25.0  # then an answer says that nothing has changed

_ROW_ID = re.compile("[0-9]{1,18}")  # more digits no database takes, and one reading is for all

Marks = Mapping[str, Mark]


class Watcher:
    """The marks as they were read last. `read` gives those of all topics and of these jobs."""

    def __init__(self, read: Callable[[frozenset[int]], Marks]) -> None:
        self._read = read
        self._marks: Marks = {}
        self._read_at = float("-inf")
        self._jobs: Counter[int] = Counter()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def token(self, topics: Iterable[str]) -> str:
        """The token for a page that is about to be read: it never is newer than the page."""
        wanted = tuple(topics)
        known = all(topic in self._marks for topic in wanted)
        if not known or time.monotonic() - self._read_at > FRESH_SECONDS:
            await self._read_now(_jobs_of(wanted))
        return self._digest(wanted)

    def forget(self) -> None:
        """The next page reads its marks anew."""
        self._read_at = float("-inf")

    async def changed(self, topics: Iterable[str], token: str, ending: asyncio.Event) -> bool:
        """Wait until the topics have another token; False: nothing has changed for long enough."""
        wanted = tuple(topics)
        with self._waits(wanted), suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                while self._read_at == float("-inf") or self._digest(wanted) == token:
                    await self._changed.wait()
                    if ending.is_set():
                        return False
                return True
        return False

    @contextmanager
    def _waits(self, topics: tuple[str, ...]) -> Iterator[None]:
        ids = _jobs_of(topics)
        self._jobs.update(ids)
        self._waiting += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._waiting -= 1
            self._jobs.subtract(ids)

    async def _watch(self) -> None:
        while self._waiting:
            await self._read_now(frozenset())
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(EVERY_SECONDS)

    async def _read_now(self, more: Iterable[int]) -> None:
        ids = frozenset({*more, *(+self._jobs)})
        try:
            self._marks = await anyio.to_thread.run_sync(self._read, ids)
        except SQLAlchemyError as error:  # a page that can't be told stays as it is
            log.warning("page_watch_failed", error=first_line(error))
        self._read_at = time.monotonic()

    def _digest(self, topics: Iterable[str]) -> str:
        said = [(topic, self._marks.get(topic)) for topic in topics if topic != "time"]
        slow = int(time.time() // SLOW_SECONDS) if "time" in topics else 0
        return hashlib.sha256(repr((said, slow)).encode()).hexdigest()[:16]


def _jobs_of(topics: Iterable[str]) -> frozenset[int]:
    ids = (topic.partition(":")[2] for topic in topics if topic.startswith("job:"))
    return frozenset(int(each) for each in ids if _ROW_ID.fullmatch(each))


def watcher_of(url: str) -> Watcher:
    """A watcher of that database."""

    def read(job_ids: frozenset[int]) -> Marks:
        with db.reading(url) as session:
            return topics.marks(session, job_ids)

    return Watcher(read)
